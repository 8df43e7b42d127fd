//! Single jobs: the options of a job ([`Job`]), a permit that is acquired before the input is moved
//! ([`Permit`]), the handle of a submitted job ([`JobHandle`]), and how running jobs add others
//! ([`Submitter`]).
//!
//! In: an input. Out: an accepted job, for the injector or the schedule; or the input, given back
//! with an error. It never starts a job.

mod handle;
mod reserve;
mod submitter;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::handle::{Cancelling, JobHandle};
pub use self::reserve::Permit;
pub use self::submitter::Submitter;
use crate::error::{JobError, SubmitError};
use crate::job::current::CurrentJob;
use crate::job::handle_state::{HandleState, Interest};
use crate::job::queued::QueuedJob;
use crate::policy::limits::TimeLimits;
use crate::schedule::StartAt;
use crate::shared::{Accepted, Shared};

/// An input with options of its own; made by [`Pool::job`](crate::Pool::job).
///
/// # Examples
///
/// ```
/// use brigade::{JobError, ManualTimer, Pool, TimeLimit};
/// use futures_lite::future;
/// use std::time::Duration;
///
/// let clock = ManualTimer::new();
/// let (pool, workers) = Pool::builder()
///     .workers(1)
///     .timer(clock.clone())
///     .build(|()| future::pending::<Result<(), ()>>());
/// let outcome = future::block_on(clock.run(workers.drive(async {
///     let handle = pool.job(()).timeout(Duration::from_secs(60)).submit().await.unwrap();
///     handle.await
/// })));
/// assert_eq!(outcome, Err(JobError::TimedOut(TimeLimit::Job)));
/// ```
#[must_use = "a job does nothing until it is submitted"]
pub struct Job<'a, In, T, E> {
    shared: &'a Arc<Shared<In, T, E>>,
    input: In,
    options: JobOptions,
}

/// The options of a job.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct JobOptions {
    limits: TimeLimits,
    priority: i32,
    start: StartAt,
}

impl JobOptions {
    /// Whether it needs a schedule.
    const fn needs_schedule(&self) -> bool {
        self.priority != 0 || !matches!(self.start, StartAt::Now) || self.limits.job.is_some()
    }
}

impl<'a, In, T, E> Job<'a, In, T, E> {
    pub(crate) fn new(shared: &'a Arc<Shared<In, T, E>>, input: In) -> Self {
        Self {
            shared,
            input,
            options: JobOptions::default(),
        }
    }

    /// Lets the job start before all queued jobs of a smaller priority. The default is 0. Jobs of
    /// equal priority start in the order of acceptance. Priorities are strict, unless the pool has
    /// [`aging`](crate::Builder::aging): the job waits as long as jobs of a greater priority are
    /// queued.
    pub fn priority(mut self, priority: i32) -> Self {
        self.options.priority = priority;
        self
    }

    /// Lets the job start no sooner than this after its acceptance. Meanwhile it counts as delayed,
    /// and against the capacity of the queue. A delay beyond what an [`Instant`] can hold never
    /// ends.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.options.start = StartAt::After(delay);
        self
    }

    /// Lets the job start no sooner than at this time of the pool's timer; otherwise as
    /// [`delay`](Self::delay).
    pub fn not_before(mut self, at: Instant) -> Self {
        self.options.start = StartAt::NotBefore(at);
        self
    }

    /// Limits the job's whole life, counted from its acceptance: its time in the queue is included,
    /// a wait for room in the queue is not. Replaces the pool's
    /// [`job_timeout`](crate::Builder::job_timeout).
    ///
    /// # Panics
    ///
    /// If `limit` is zero.
    #[track_caller]
    pub fn timeout(mut self, limit: Duration) -> Self {
        assert!(!limit.is_zero(), "timeout must be longer than 0, got 0ns");
        self.options.limits.job = Some(limit);
        self
    }

    /// Limits each attempt of the job, counted from the attempt's start. Replaces the pool's
    /// [`attempt_timeout`](crate::Builder::attempt_timeout).
    ///
    /// # Panics
    ///
    /// If `limit` is zero.
    #[track_caller]
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        assert!(
            !limit.is_zero(),
            "attempt_timeout must be longer than 0, got 0ns"
        );
        self.options.limits.attempt = Some(limit);
        self
    }

    /// Submits the job; waits for room. As [`Pool::submit`](crate::Pool::submit).
    ///
    /// # Errors
    ///
    /// As [`Pool::submit`](crate::Pool::submit).
    ///
    /// # Cancel safety
    ///
    /// As [`Pool::submit`](crate::Pool::submit).
    pub async fn submit(self) -> Result<JobHandle<In, T, E>, SubmitError<In>> {
        match Permit::reserve(self.shared).await {
            Ok(permit) => permit.submit_with(self.input, Some(self.options)),
            Err(refused) => Err(refused.map(|()| self.input)),
        }
    }

    /// Submits the job now, or not at all. As [`Pool::try_submit`](crate::Pool::try_submit).
    ///
    /// # Errors
    ///
    /// As [`Pool::try_submit`](crate::Pool::try_submit).
    pub fn try_submit(self) -> Result<JobHandle<In, T, E>, SubmitError<In>> {
        submit_now(self.shared, None, Some(self.options), self.input)
    }
}

impl<In, T, E> fmt::Debug for Job<'_, In, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Accepts a job with a handle now, or gives its input back.
pub(crate) fn submit_now<In, T, E>(
    shared: &Arc<Shared<In, T, E>>,
    parent: Option<CurrentJob>,
    options: Option<JobOptions>,
    input: In,
) -> Result<JobHandle<In, T, E>, SubmitError<In>> {
    match shared.accept_from(parent) {
        Ok(accepted) => {
            let handle_state =
                enqueue_with_handle(shared, accepted, options, input, Interest::Result);
            Ok(JobHandle::new(Arc::clone(shared), handle_state))
        }
        Err(refusal) => Err(refusal.into_error(input)),
    }
}

/// Enqueues an accepted job that has a handle, or is detached from one; by its options and the
/// limits of the pool.
#[inline]
fn enqueue_with_handle<In, T, E>(
    shared: &Arc<Shared<In, T, E>>,
    accepted: Accepted,
    options: Option<JobOptions>,
    input: In,
    interest: Interest,
) -> Arc<HandleState<In, T, E>> {
    if options.is_some() || shared.is_scheduled() {
        let options = options.unwrap_or_default();
        return enqueue_with_options(shared, accepted, options, input, interest);
    }
    let Accepted { id, origin, limits } = accepted;
    // The pool's limit for attempts is read when an attempt starts, so a later change applies.
    let limits = TimeLimits {
        attempt: None,
        job: limits.job,
    };
    let accepted_at = shared.acceptance_time(limits);
    let handle_state = HandleState::new(id, origin, limits, accepted_at, input, interest);
    shared.enqueue(QueuedJob::Handle(Arc::clone(&handle_state)));
    handle_state
}

/// The part of [`enqueue_with_handle`] for a job that has options or a schedule.
#[cold]
fn enqueue_with_options<In, T, E>(
    shared: &Arc<Shared<In, T, E>>,
    accepted: Accepted,
    options: JobOptions,
    input: In,
    interest: Interest,
) -> Arc<HandleState<In, T, E>> {
    let Accepted { id, origin, limits } = accepted;
    // As above, the pool's limit for attempts is not read here.
    let limits = TimeLimits {
        attempt: options.limits.attempt,
        job: options.limits.job.or(limits.job),
    };
    let accepted_at: Option<Instant> = shared.acceptance_time(limits);
    if options.needs_schedule() {
        shared.switch_on_schedule();
    }
    let deadline = accepted_at.and_then(|at| limits.job_deadline(at));
    let schedule_options =
        shared.options_from_input(&input, options.priority, options.start, deadline);
    let handle_state = HandleState::new(id, origin, limits, accepted_at, input, interest);
    let job = QueuedJob::Handle(Arc::clone(&handle_state));
    match schedule_options {
        Ok(schedule_options) => shared.enqueue_with(schedule_options, job),
        Err(message) => shared.fail_accepted(job, JobError::Panicked(message)),
    }
    handle_state
}
