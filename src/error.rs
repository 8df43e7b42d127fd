//! How each step can fail.
//!
//! A refused submission gives its input back ([`SubmitError`]); a job that did not succeed says why
//! ([`JobError`]), with the handler's own error passed through by value; a collection that is not
//! whole says which job or which circumstance broke it ([`CollectError`]).

use std::convert::Infallible;
use std::error::Error;
use std::fmt;

use crate::event::Outcome;
use crate::panic::PanicMessage;

/// Why a pool refused an input. The input comes back in the variant.
///
/// # Examples
///
/// ```
/// use brigade::{ManualTimer, Pool, SubmitError};
///
/// let (pool, _workers) = Pool::builder()
///     .workers(1)
///     .queue_capacity(1)
///     .timer(ManualTimer::new())
///     .build(|n: u32| async move { Ok::<_, ()>(n) });
/// let first = pool.try_submit(1).unwrap();
/// let refused = pool.try_submit(2).unwrap_err();
/// assert!(refused.is_full());
/// assert_eq!(refused.into_input(), 2);
/// pool.close();
/// assert_eq!(pool.try_submit(3).unwrap_err(), SubmitError::Closed(3));
/// # drop(first);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubmitError<In> {
    /// There is no room, and the call does not wait for any: the queue holds as many jobs as its
    /// capacity (or, for a job added from inside a running job, as its child capacity; or, for a
    /// group, as its window).
    Full(In),
    /// The pool, or the part of it that was asked, takes no more jobs.
    Closed(In),
    /// Waiting for room could never end: it was asked for inside a job of this pool, and no job
    /// could ever start again (see [waiting inside a job](crate::JobHandle#waiting-inside-a-job)).
    WouldDeadlock(In),
    /// There is no room, and as many callers wait for it already as
    /// [`max_waiting`](crate::Builder::max_waiting) allows. Only calls that wait yield it:
    /// [`submit`](crate::Pool::submit) and [`reserve`](crate::Pool::reserve).
    Overloaded(In),
}

impl<In> SubmitError<In> {
    /// Returns the input that was refused.
    #[must_use = "the input is dropped otherwise"]
    pub fn into_input(self) -> In {
        match self {
            Self::Full(input)
            | Self::Closed(input)
            | Self::WouldDeadlock(input)
            | Self::Overloaded(input) => input,
        }
    }

    /// Whether there was no room.
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }

    /// Whether no more jobs are taken.
    pub const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }

    /// Whether the wait for room could never have ended.
    pub const fn is_would_deadlock(&self) -> bool {
        matches!(self, Self::WouldDeadlock(_))
    }

    /// Whether too many wait for room.
    pub const fn is_overloaded(&self) -> bool {
        matches!(self, Self::Overloaded(_))
    }

    /// Replaces the input, for layers that wrap it.
    pub fn map<Other>(self, change: impl FnOnce(In) -> Other) -> SubmitError<Other> {
        match self {
            Self::Full(input) => SubmitError::Full(change(input)),
            Self::Closed(input) => SubmitError::Closed(change(input)),
            Self::WouldDeadlock(input) => SubmitError::WouldDeadlock(change(input)),
            Self::Overloaded(input) => SubmitError::Overloaded(change(input)),
        }
    }
}

impl<In> fmt::Debug for SubmitError<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Closed(_) => "Closed(..)",
            Self::WouldDeadlock(_) => "WouldDeadlock(..)",
            Self::Overloaded(_) => "Overloaded(..)",
        })
    }
}

impl<In> fmt::Display for SubmitError<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the queue of the pool is full",
            Self::Closed(_) => "the pool takes no more jobs",
            Self::WouldDeadlock(_) => {
                "the wait could never end: jobs of the pool wait for the pool itself"
            }
            Self::Overloaded(_) => "too many wait for room in the pool's queue",
        })
    }
}

impl<In> Error for SubmitError<In> {}

/// Why a job did not succeed.
///
/// [`Failed`](Self::Failed) is transparent: it prints as the handler's error does, `{:#}` included,
/// and its [`source`](Error::source) is that of the handler's error.
///
/// `JobError<E>` is an [`Error`] where `E` is one, and `?` passes it on. `anyhow::Error` and
/// `Box<dyn Error + Send + Sync>` are not themselves an `Error`: for these,
/// [`flatten`](Self::flatten) makes one error of both.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobError<E> {
    /// The handler returned this error.
    Failed(E),
    /// A time limit passed; the attempt's future was dropped.
    TimedOut(TimeLimit),
    /// The handler, the closure that makes its future, the `Clone` of a kept input, the making of
    /// the worker's state, or a closure of `key_by`, `cost_by` or [`Retry`](crate::Retry) panicked.
    /// The worker lives on.
    Panicked(PanicMessage),
    /// The job was cancelled. If it had started, its future was dropped before this was reported.
    Cancelled(CancelReason),
    /// The worker that ran the job, or the last worker of the pool, was dropped, as an executor
    /// does when it is dropped.
    Abandoned,
    /// Not an outcome of the job but of the wait for it: the handle was awaited inside a job of the
    /// same pool, and no job could ever have started again (see
    /// [waiting inside a job](crate::JobHandle#waiting-inside-a-job)).
    WouldDeadlock,
    /// The job costs more permits than a rate limit ever allows at once, so it is not started, or
    /// not tried again.
    CostExceedsLimit {
        /// What the job [costs](crate::Builder::cost_by).
        cost: u32,
        /// The highest cost that the limits allow.
        max_cost: u32,
    },
}

impl<E> JobError<E> {
    /// Whether the handler returned an error.
    pub const fn is_failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    /// Whether a time limit passed.
    pub const fn is_timed_out(&self) -> bool {
        matches!(self, Self::TimedOut(_))
    }

    /// Whether the job panicked.
    pub const fn is_panicked(&self) -> bool {
        matches!(self, Self::Panicked(_))
    }

    /// Whether the job was cancelled.
    pub const fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled(_))
    }

    /// Whether the job's worker, or the pool's last one, was dropped.
    pub const fn is_abandoned(&self) -> bool {
        matches!(self, Self::Abandoned)
    }

    /// Whether the wait for the job could never have ended.
    pub const fn is_would_deadlock(&self) -> bool {
        matches!(self, Self::WouldDeadlock)
    }

    /// Whether the job costs more than a rate limit ever allows.
    pub const fn is_cost_exceeds_limit(&self) -> bool {
        matches!(self, Self::CostExceedsLimit { .. })
    }

    /// How a job with this error has ended.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Failed(_) => Outcome::Failed,
            Self::TimedOut(_) => Outcome::TimedOut,
            Self::Panicked(_) => Outcome::Panicked,
            Self::Cancelled(_) => Outcome::Cancelled,
            Self::Abandoned | Self::WouldDeadlock => Outcome::Abandoned,
            Self::CostExceedsLimit { .. } => Outcome::Rejected,
        }
    }

    /// Makes one error of both: returns the handler's own error by value, and converts any other
    /// into the same type.
    ///
    /// `anyhow::Error` and `Box<dyn Error + Send + Sync>` can be made of any error; for a type of
    /// your own, implement `From<JobError<Infallible>>`.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{JobError, ManualTimer, Pool};
    /// use futures_lite::future;
    ///
    /// # fn main() -> anyhow::Result<()> {
    /// let (pool, workers) = Pool::builder().workers(1).timer(ManualTimer::new()).build(|text: &'static str| async move {
    ///     text.parse::<u32>().map_err(|error| anyhow::Error::new(error).context("not a number"))
    /// });
    /// let job = async |text| -> anyhow::Result<u32> {
    ///     let number = pool.submit(text).await?.await.map_err(JobError::flatten)?;
    ///     Ok(number)
    /// };
    /// future::block_on(workers.drive(async {
    ///     assert_eq!(job("7").await?, 7);
    ///     let error = job("seven").await.unwrap_err();
    ///     assert_eq!(format!("{error:#}"), "not a number: invalid digit found in string");
    ///     Ok(())
    /// }))
    /// # }
    /// ```
    ///
    /// With a boxed error:
    ///
    /// ```
    /// use brigade::JobError;
    /// use std::error::Error;
    ///
    /// let failed: JobError<Box<dyn Error + Send + Sync>> = JobError::Failed("no route".into());
    /// assert_eq!(failed.flatten().to_string(), "no route");
    /// let abandoned: JobError<Box<dyn Error + Send + Sync>> = JobError::Abandoned;
    /// assert_eq!(abandoned.flatten().to_string(), "the job's worker was dropped");
    /// ```
    pub fn flatten(self) -> E
    where
        E: From<JobError<Infallible>>,
    {
        self.split().unwrap_or_else(E::from)
    }

    /// The handler's own error; as `Err`, that of the pool.
    pub(crate) fn split(self) -> Result<E, JobError<Infallible>> {
        Err(match self {
            Self::Failed(error) => return Ok(error),
            Self::TimedOut(limit) => JobError::TimedOut(limit),
            Self::Panicked(message) => JobError::Panicked(message),
            Self::Cancelled(reason) => JobError::Cancelled(reason),
            Self::Abandoned => JobError::Abandoned,
            Self::WouldDeadlock => JobError::WouldDeadlock,
            Self::CostExceedsLimit { cost, max_cost } => {
                JobError::CostExceedsLimit { cost, max_cost }
            }
        })
    }

    /// Returns the handler's own error, if that is what it is.
    pub fn into_failed(self) -> Option<E> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

impl<E: fmt::Display> fmt::Display for JobError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::TimedOut(limit) => write!(f, "the job ran out of its {limit}"),
            Self::Panicked(message) => write!(f, "the job panicked: {message}"),
            Self::Cancelled(reason) => write!(f, "the job was cancelled: {reason}"),
            Self::Abandoned => f.write_str("the job's worker was dropped"),
            Self::WouldDeadlock => {
                f.write_str("the wait could never end: jobs of the pool wait for the pool itself")
            }
            Self::CostExceedsLimit { cost, max_cost } => {
                write!(
                    f,
                    "the job costs {cost} permits, and its rate limits allow {max_cost} at most"
                )
            }
        }
    }
}

impl<E: Error + 'static> Error for JobError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => error.source(),
            _ => None,
        }
    }
}

/// Which time limit passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimeLimit {
    /// The limit of one attempt, counted from the attempt's start.
    Attempt,
    /// The limit of the whole job, counted from its acceptance, its time in the queue included.
    Job,
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attempt => "attempt time-out",
            Self::Job => "job time-out",
        })
    }
}

/// Who or what cancelled a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CancelReason {
    /// Its handle was dropped or cancelled.
    Handle,
    /// Its map or group was dropped or cancelled.
    Stream,
    /// Another job of its map or group failed, and [`OnError`](crate::OnError) said to stop.
    Stopped,
    /// The pool was aborted, by [`abort`](crate::Pool::abort) or at the end of
    /// [`drain_within`](crate::Pool::drain_within).
    Aborted,
    /// Its map or group was awaited inside a job of the same pool, and no job could ever have
    /// started again (see [waiting inside a job](crate::JobHandle#waiting-inside-a-job)).
    WouldDeadlock,
    /// The [deadline](crate::Map::deadline) of its map passed.
    Deadline,
}

impl CancelReason {
    pub(crate) const ALL: [Self; 6] = [
        Self::Handle,
        Self::Stream,
        Self::Stopped,
        Self::Aborted,
        Self::WouldDeadlock,
        Self::Deadline,
    ];

    /// The number of the reason, for an atomic; 0 stands for none.
    pub(crate) fn to_code(self) -> u8 {
        let known = (1..).zip(Self::ALL).find(|(_, known)| *known == self);
        known.map_or(0, |(code, _)| code)
    }

    /// The reason behind a number.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handle => "its handle was dropped or cancelled",
            Self::Stream => "its map or group was dropped or cancelled",
            Self::Stopped => "another job failed",
            Self::Aborted => "the pool was aborted",
            Self::WouldDeadlock => {
                "the wait could never end: jobs of the pool wait for the pool itself"
            }
            Self::Deadline => "the deadline of its map passed",
        })
    }
}
