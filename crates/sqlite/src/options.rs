//! How a queue file is opened.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use brigade::broker::BrokerError;

use crate::SqliteBroker;

/// What a commit survives. Neither setting loses or damages anything when a *process* dies, however it
/// dies; they differ in what happens when the power goes or the kernel stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Durability {
    /// `synchronous=NORMAL`: the last commits may be undone by a loss of power, as a whole and in
    /// order; the file stays sound. An enqueued job may so be forgotten, and an acknowledged one run
    /// again. Faster by one sync of the disk for each commit.
    Normal,
    /// `synchronous=FULL`: a commit is on the disk when the call returns.
    #[default]
    Full,
}

pub(crate) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Options of a queue, and how to [`open`](Self::open) it with them.
///
/// # Defaults
///
/// | option | default |
/// |---|---|
/// | [`lease`](Self::lease) | 30 s |
/// | [`durability`](Self::durability) | [`Durability::Full`]: the contract of a broker is that an accepted job is durable |
/// | [`busy_timeout`](Self::busy_timeout) | 10 s |
/// | [`poll_interval`](Self::poll_interval) | 50 ms |
/// | [`create`](Self::create) | yes |
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use brigade_sqlite::{Durability, Options};
///
/// # futures_lite::future::block_on(async {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("jobs.queue");
/// let missing = Options::new().create(false).open(&path).await.unwrap_err();
/// assert!(missing.to_string().contains("there is no queue file"));
///
/// let broker = Options::new()
///     .lease(Duration::from_secs(300))
///     .durability(Durability::Normal)
///     .open(&path)
///     .await
///     .unwrap();
/// assert_eq!(broker.counts().await.unwrap().ready, 0);
/// # });
/// ```
#[derive(Clone)]
#[must_use = "options do nothing until a queue is opened with them"]
pub struct Options {
    pub(crate) lease: Duration,
    pub(crate) durability: Durability,
    pub(crate) busy_timeout: Duration,
    pub(crate) poll_interval: Duration,
    pub(crate) create: bool,
    pub(crate) clock: Clock,
    pub(crate) max_pages: Option<u32>,
}

impl Options {
    /// The default of [`lease`](Self::lease).
    pub const DEFAULT_LEASE: Duration = Duration::from_secs(30);
    /// The default of [`busy_timeout`](Self::busy_timeout).
    pub const DEFAULT_BUSY_TIMEOUT: Duration = Duration::from_secs(10);
    /// The default of [`poll_interval`](Self::poll_interval).
    pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_millis(50);

    /// Starts with the [defaults](Self#defaults).
    pub fn new() -> Self {
        Self {
            lease: Self::DEFAULT_LEASE,
            durability: Durability::default(),
            busy_timeout: Self::DEFAULT_BUSY_TIMEOUT,
            poll_interval: Self::DEFAULT_POLL_INTERVAL,
            create: true,
            clock: Arc::new(SystemTime::now),
            max_pages: None,
        }
    }

    /// Sets how long a delivery of this handle is held without an extension, from its fetching.
    ///
    /// A process that dies delays its jobs by this long. It is a property of the handle, not of the
    /// file: others may have other leases. Kept in whole milliseconds, rounded up.
    ///
    /// # Panics
    ///
    /// If it is zero.
    #[track_caller]
    pub const fn lease(mut self, lease: Duration) -> Self {
        assert!(!lease.is_zero(), "lease must be longer than zero");
        self.lease = lease;
        self
    }

    /// Sets what a commit survives.
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets how long a call waits for its turn while other processes write, before it fails with an
    /// error that is not [permanent](BrokerError::is_permanent).
    pub const fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Sets the longest time between two looks of a waiting
    /// [`fetch`](brigade::broker::Broker::fetch) for jobs of other processes.
    ///
    /// It begins with 1 ms and doubles. Jobs that are enqueued or given back through this handle or a
    /// clone of it wake a fetch at once. A look costs some 50 µs of a processor, and takes no lock of the file.
    ///
    /// # Panics
    ///
    /// If it is zero.
    #[track_caller]
    pub const fn poll_interval(mut self, interval: Duration) -> Self {
        assert!(
            !interval.is_zero(),
            "poll_interval must be longer than zero"
        );
        self.poll_interval = interval;
        self
    }

    /// Sets whether a missing or empty file becomes a queue. Without, opening one is an error: for
    /// consumers and readers, for which a misspelt path should not be an empty queue.
    pub const fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Replaces the system clock, which the ends of leases and delays are read from.
    #[doc(hidden)]
    pub fn clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Limits the pages of the file, as a full disk would.
    #[doc(hidden)]
    pub const fn max_pages(mut self, pages: u32) -> Self {
        self.max_pages = Some(pages);
        self
    }

    /// Opens the queue at `path`, on a thread for blocking calls.
    ///
    /// # Errors
    ///
    /// A [permanent](BrokerError::is_permanent) error, which names the file, if it is a directory, no
    /// SQLite file, a file of another program or of a newer version of this crate, if its directory
    /// does not exist, or if it does not exist itself and [`create`](Self::create) is off. Such a
    /// file keeps its content, though SQLite may copy its log into it. Another error if the file could not be read, written or locked.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the file as it was, or an empty queue.
    pub async fn open(self, path: impl AsRef<Path>) -> Result<SqliteBroker, BrokerError> {
        SqliteBroker::open_with(path.as_ref(), self).await
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("lease", &self.lease)
            .field("durability", &self.durability)
            .field("busy_timeout", &self.busy_timeout)
            .field("poll_interval", &self.poll_interval)
            .field("create", &self.create)
            .finish_non_exhaustive()
    }
}
