//! How deliveries become jobs and outcomes become settlements, and when serving stops.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use futures_lite::future;

use super::super::{BrokerError, JobId, Nack};
use crate::error::JobError;
use crate::rt::BoxFuture;

/// How a delivery is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The job is done; the result, if there is one, is stored.
    Ack(Option<Vec<u8>>),
    /// The job is not done.
    Nack(Nack),
}

/// Decides how a delivery is settled whose job failed; see [`ServeOptions::on_failure`].
pub trait OnFailure<E> {
    /// Decides by the error and the number of deliveries so far, counted from 1.
    fn settle(&self, id: &JobId, error: JobError<E>, deliveries: u32) -> Settlement;
}

impl<E, F: Fn(&JobId, JobError<E>, u32) -> Settlement> OnFailure<E> for F {
    fn settle(&self, id: &JobId, error: JobError<E>, deliveries: u32) -> Settlement {
        self(id, error, deliveries)
    }
}

/// The default of [`ServeOptions::on_failure`]: another delivery after 1 second, 2, 4 and so on, at
/// most 5 minutes.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct RetryLater;

impl<E: fmt::Display> OnFailure<E> for RetryLater {
    fn settle(&self, _: &JobId, error: JobError<E>, deliveries: u32) -> Settlement {
        Settlement::Nack(Nack::Retry {
            after: Some(retry_delay(deliveries)),
            reason: error.to_string(),
        })
    }
}

type OnError<'a> = dyn Fn(&BrokerError) + Send + Sync + 'a;

/// How [`serve`](super::serve()) works.
///
/// # Defaults
///
/// [`prefetch`](Self::prefetch): as many jobs as the pool runs at once;
/// [`max_deliveries`](Self::max_deliveries): 5; [`wait`](Self::wait): 1 second;
/// [`on_failure`](Self::on_failure): [`RetryLater`]; it serves until its future is dropped, or a
/// permanent error.
#[must_use = "options do nothing by themselves"]
pub struct ServeOptions<'a, Decode, Encode, Failed = RetryLater> {
    pub(super) settings: Settings<'a, Decode, Encode, Failed>,
    /// Not among the settings, which the futures share: it is not `Sync`.
    pub(super) stop: BoxFuture<'a, ()>,
}

pub(super) struct Settings<'a, Decode, Encode, Failed> {
    pub(super) decode: Decode,
    pub(super) encode: Encode,
    pub(super) on_failure: Failed,
    pub(super) on_error: Box<OnError<'a>>,
    pub(super) prefetch: Option<usize>,
    pub(super) max_deliveries: u32,
    pub(super) wait: Duration,
    pub(super) until_empty: bool,
}

impl<Decode, Encode> ServeOptions<'_, Decode, Encode> {
    /// Takes how a payload becomes an input and a value becomes a result.
    ///
    /// A payload that cannot be decoded is dead-lettered with the error as its reason. `encode` may
    /// return `None`: then no result is stored. A panic in either is contained: in `decode` it
    /// dead-letters the delivery, in `encode` it is a failure of the job.
    pub fn new<In, Reason, T>(decode: Decode, encode: Encode) -> Self
    where
        Decode: Fn(&JobId, Vec<u8>) -> Result<In, Reason>,
        Reason: fmt::Display,
        Encode: Fn(&JobId, T) -> Option<Vec<u8>>,
    {
        let settings = Settings {
            decode,
            encode,
            on_failure: RetryLater,
            on_error: Box::new(|_: &BrokerError| ()),
            prefetch: None,
            max_deliveries: 5,
            wait: Duration::from_secs(1),
            until_empty: false,
        };
        Self {
            settings,
            stop: Box::pin(future::pending()),
        }
    }
}

impl<'a, Decode, Encode, Failed> ServeOptions<'a, Decode, Encode, Failed> {
    /// Bounds how many deliveries are held at once: those that wait, run, or have their outcome and
    /// are not settled yet. This is what is delivered again if the process dies.
    ///
    /// # Panics
    ///
    /// If `deliveries` is 0.
    #[track_caller]
    pub const fn prefetch(mut self, deliveries: usize) -> Self {
        assert!(deliveries > 0, "prefetch must be at least 1, got 0");
        self.settings.prefetch = Some(deliveries);
        self
    }

    /// Bounds how many times a job is delivered, where the broker counts. One that is delivered
    /// once more, for instance since its process died each time, is dead-lettered without a run;
    /// one that fails the last time is dead-lettered with its reason.
    ///
    /// # Panics
    ///
    /// If `deliveries` is 0.
    #[track_caller]
    pub const fn max_deliveries(mut self, deliveries: u32) -> Self {
        assert!(deliveries > 0, "max_deliveries must be at least 1, got 0");
        self.settings.max_deliveries = deliveries;
        self
    }

    /// Sets how long a fetch waits for a first job. It bounds how late an
    /// [empty](Self::until_empty) queue is noticed; a stop interrupts it.
    pub const fn wait(mut self, wait: Duration) -> Self {
        self.settings.wait = wait;
        self
    }

    /// Sets how a delivery is settled whose job failed, after all attempts that the pool's
    /// [`retry`](crate::Builder::retry) allows: by its error and the number of deliveries (1 where
    /// the broker does not count).
    ///
    /// A [`Nack::Retry`] of the [last](Self::max_deliveries) delivery becomes a
    /// [`Nack::DeadLetter`] with the same reason. It is not called for jobs that were cancelled or
    /// abandoned: these are released. A panic in it dead-letters the delivery.
    pub fn on_failure<E, F>(self, settle: F) -> ServeOptions<'a, Decode, Encode, F>
    where
        F: Fn(&JobId, JobError<E>, u32) -> Settlement,
    {
        let Settings {
            decode,
            encode,
            on_failure: _,
            on_error,
            prefetch,
            max_deliveries,
            wait,
            until_empty,
        } = self.settings;
        ServeOptions {
            settings: Settings {
                decode,
                encode,
                on_failure: settle,
                on_error,
                prefetch,
                max_deliveries,
                wait,
                until_empty,
            },
            stop: self.stop,
        }
    }

    /// Sets a callback for errors of the broker, for a log. The call that failed is repeated, or
    /// counted in the report.
    pub fn on_error(mut self, log: impl Fn(&BrokerError) + Send + Sync + 'a) -> Self {
        self.settings.on_error = Box::new(log);
        self
    }

    /// Stops when this future ends: nothing more is fetched, what has not started is released, and
    /// what runs is finished and settled.
    pub fn until(mut self, stop: impl Future<Output = ()> + Send + 'a) -> Self {
        self.stop = Box::pin(stop);
        self
    }

    /// Stops once a fetch finds nothing while nothing is held. Jobs that are delayed, or that
    /// another consumer holds, are left.
    pub const fn until_empty(mut self) -> Self {
        self.settings.until_empty = true;
        self
    }
}

impl<Decode, Encode, Failed> fmt::Debug for ServeOptions<'_, Decode, Encode, Failed> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeOptions")
            .field("prefetch", &self.settings.prefetch)
            .field("max_deliveries", &self.settings.max_deliveries)
            .field("wait", &self.settings.wait)
            .field("until_empty", &self.settings.until_empty)
            .finish_non_exhaustive()
    }
}

/// The time until another delivery, by the number of deliveries so far, counted from 1.
fn retry_delay(deliveries: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(300);
    super::doubled(FIRST, deliveries.saturating_sub(1)).min(LONGEST)
}
