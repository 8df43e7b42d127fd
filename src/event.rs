//! Events and statistics. Nothing in the pool depends on them.

use std::fmt;
use std::time::{Duration, Instant};

use crate::key::Key;

/// The number of a job within its pool, counted from 0 in the order in which jobs were accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub(crate) u64);

impl JobId {
    /// The number itself.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    pub(crate) const fn offset(self, by: usize) -> Self {
        Self(self.0 + by as u64)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// How a job ended, without its value. [`Completion::result`](crate::Completion::result) has that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The handler returned `Ok`.
    Succeeded,
    /// The handler returned `Err`.
    Failed,
    /// A time limit passed.
    TimedOut,
    /// Something of the user's panicked.
    Panicked,
    /// It was cancelled, before or while it ran.
    Cancelled,
    /// Its worker, or the last worker of the pool, was dropped.
    Abandoned,
    /// It was not started, or not tried again, since it costs more than a rate limit ever allows.
    Rejected,
}

impl Outcome {
    pub(crate) const ALL: [Self; 7] = [
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Panicked,
        Self::Cancelled,
        Self::Abandoned,
        Self::Rejected,
    ];
}

/// The statistics of a pool at one instant, read under one lock: they add up.
///
/// Always, `accepted` is the sum of `queued`, `delayed`, `running`, `succeeded`, `failed`,
/// `timed_out`, `panicked`, `cancelled`, `abandoned` and `rejected`.
///
/// # Examples
///
/// ```
/// use brigade::{ManualTimer, Pool};
///
/// let (pool, workers) = Pool::builder()
///     .workers(2)
///     .timer(ManualTimer::new())
///     .build(|n: u32| async move { if n == 1 { Err("one") } else { Ok(n) } });
/// let handles: Vec<_> = (0..3).map(|n| pool.try_submit(n).unwrap()).collect();
/// assert_eq!(pool.stats().queued, 3);
/// futures_lite::future::block_on(workers.drive(pool.wait_idle()));
/// let stats = pool.stats();
/// assert_eq!((stats.accepted, stats.succeeded, stats.failed, stats.queued), (3, 2, 1, 0));
/// # drop(handles);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Workers that are alive: built, and not yet ended or dropped.
    pub workers: usize,
    /// Jobs that wait for a worker, a permit or their turn: that have not started, or are to be
    /// tried again.
    pub queued: usize,
    /// Jobs that have a time before which they may not start: because of a delay, or between two
    /// attempts.
    pub delayed: usize,
    /// Jobs of which an attempt is running; at most as many as the workers have slots.
    pub running: usize,
    /// Jobs ever accepted.
    pub accepted: u64,
    /// Jobs whose handler returned `Ok`.
    pub succeeded: u64,
    /// Jobs whose handler returned `Err`.
    pub failed: u64,
    /// Jobs of which a time limit passed.
    pub timed_out: u64,
    /// Jobs that panicked.
    pub panicked: u64,
    /// Jobs that were cancelled.
    pub cancelled: u64,
    /// Jobs whose worker was dropped.
    pub abandoned: u64,
    /// Jobs that cost more than a rate limit ever allows.
    pub rejected: u64,
    /// Failed attempts for which another one was put on its way: retries, over all jobs.
    pub retries: u64,
    /// Retries that the [budget](crate::Retry::budget) or the [retry
    /// capacity](crate::Builder::retry_capacity) did not allow.
    pub retries_refused: u64,
}

/// A job that runs; see [`Pool::running`](crate::Pool::running).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunningJob {
    /// The number of the job within its pool.
    pub id: JobId,
    /// Its number within its map or group; 0 for a job of a single handle.
    pub index: usize,
    /// The number of its worker, counted from 0.
    pub worker: usize,
    /// The number of the attempt, counted from 1.
    pub attempt: u32,
    /// Its key, in a pool that has [`key_by`](crate::Builder::key_by).
    pub key: Option<Key>,
    /// When the attempt started, by the pool's timer. `None` in a pool without a schedule, which
    /// does not read the clock for each job.
    ///
    /// A pool has a schedule with [`rate_limit`](crate::Builder::rate_limit),
    /// [`key_by`](crate::Builder::key_by), [`cost_by`](crate::Builder::cost_by),
    /// [`aging`](crate::Builder::aging), [`retry`](crate::Builder::retry) or
    /// [`job_timeout`](crate::Builder::job_timeout); and from then on when a job has a priority, a
    /// delay or a [`timeout`](crate::Job::timeout) of its own, or a control such as
    /// [`Pool::pause`](crate::Pool::pause) is used.
    pub since: Option<Instant>,
}

/// Something that happened in a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A job was accepted.
    Accepted {
        /// The job.
        job: JobId,
    },
    /// An attempt of a job starts.
    Started {
        /// The job.
        job: JobId,
        /// The number of the attempt, counted from 1.
        attempt: u32,
        /// The number of the worker, counted from 0.
        worker: usize,
    },
    /// An attempt failed, and the job is about to wait for another, unless it is cancelled first.
    Retrying {
        /// The job.
        job: JobId,
        /// The number of the attempt that failed, counted from 1.
        attempt: u32,
        /// After what time the next one may start.
        delay: Duration,
    },
    /// An attempt failed, and the retry that the policy asks for is not made: the
    /// [budget](crate::Retry::budget) or the [retry capacity](crate::Builder::retry_capacity) does
    /// not allow it.
    RetryRefused {
        /// The job.
        job: JobId,
    },
    /// A job has its outcome.
    Finished {
        /// The job.
        job: JobId,
        /// How it ended.
        outcome: Outcome,
        /// How many attempts started. One that was interrupted before its first poll counts.
        attempts: u32,
    },
    /// One poll of a handler's future took longer than [`slow_poll`](crate::Builder::slow_poll)
    /// allows: it blocks its thread.
    SlowPoll {
        /// The job.
        job: JobId,
        /// How long the poll took.
        took: Duration,
    },
    /// A handler's future panicked while it was dropped.
    DropPanicked {
        /// The job.
        job: JobId,
    },
    /// A worker's future ended or was dropped.
    WorkerLeft {
        /// The number of the worker, counted from 0.
        worker: usize,
    },
    /// The pool takes no more jobs from outside.
    Closed,
}

/// Sees every [`Event`] of a pool, each once; those of one job in the order in which they happen.
///
/// The task that causes the event calls it: a submitter, a worker. So it should be quick and must
/// not block: what the event makes possible, such as the start of the next job, comes after it. It
/// may call any method of the pool, since no lock is held. A panic in it is contained
/// and ignored.
///
/// It is implemented for closures.
///
/// # Examples
///
/// ```
/// use brigade::{Event, ManualTimer, Outcome, Pool};
/// use std::sync::{Arc, Mutex};
///
/// let seen = Arc::new(Mutex::new(Vec::new()));
/// let log = Arc::clone(&seen);
/// let (pool, workers) = Pool::builder()
///     .workers(1)
///     .observe(move |event: &Event| log.lock().unwrap().push(event.clone()))
///     .timer(ManualTimer::new())
///     .build(|n: u32| async move { Ok::<_, ()>(n) });
/// let handle = pool.try_submit(7).unwrap();
/// let job = handle.id();
/// assert_eq!(futures_lite::future::block_on(workers.drive(handle)), Ok(7));
/// let seen = seen.lock().unwrap();
/// assert_eq!(seen[0], Event::Accepted { job });
/// assert_eq!(seen[1], Event::Started { job, attempt: 1, worker: 0 });
/// assert_eq!(seen[2], Event::Finished { job, outcome: Outcome::Succeeded, attempts: 1 });
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Sees one event.
    fn on_event(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync + 'static> Observer for F {
    fn on_event(&self, event: &Event) {
        self(event);
    }
}
