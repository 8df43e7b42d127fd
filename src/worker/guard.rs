//! The guard of a running job.
//!
//! In: a [`QueuedJob`], or a job of a batch that is promoted. Out: its input, for the attempt; then
//! its outcome, to the completion queue of its map or group or to its handle; or the job itself,
//! back to the schedule for another attempt. It never polls the attempt.
//!
//! Invariant: a job that a guard has started gets exactly one outcome or is queued again. An
//! outcome is delivered in the steps that `shared::idle::Deliveries` lists.

use std::sync::Arc;
use std::time::Instant;

use super::buffer::CompletionBuffer;
use crate::error::{JobError, TimeLimit};
use crate::event::{JobId, Outcome};
use crate::job::completion::{Completion, Message, Success, Timings};
use crate::job::completion_queue::CompletionQueue;
use crate::job::handle_state::{HandleState, Phase};
use crate::job::queued::{QueuedJob, StreamJob};
use crate::panic;
use crate::policy::limits::TimeLimits;
use crate::queue::admission::{Origin, Wakes};
use crate::queue::local::StartedJob;
use crate::queue::running::ActiveJob;
use crate::schedule::RecordId;
use crate::shared::{NotStarted, ScheduledStart, Shared};

/// Where the outcome of a running job goes.
pub(super) enum Recipient<In, T, E> {
    Stream(Arc<CompletionQueue<In, T, E>>),
    Handle(Arc<HandleState<In, T, E>>),
}

/// Guard of the job that runs in a slot. Completes it exactly once; dropping it reports
/// `Abandoned`.
///
/// Each slot has one guard, reused for all its jobs.
pub(crate) struct JobGuard<In, T, E> {
    pub(super) shared: Arc<Shared<In, T, E>>,
    /// `None`: no job, or one that is completed.
    pub(super) recipient: Option<Recipient<In, T, E>>,
    pub(super) slot: usize,
    pub(crate) id: JobId,
    pub(super) index: usize,
    /// How many attempts have started, this one included once [`prepare`](Self::prepare) succeeds.
    pub(crate) attempts: u32,
    /// A copy of the input, for a retry or the completion; or see `keeps_original`.
    pub(super) kept_input: Option<In>,
    /// Whether `kept_input` is the input itself, since this attempt was not made.
    keeps_original: bool,
    pub(super) accepted_at: Option<Instant>,
    pub(super) started_at: Option<Instant>,
    /// The end of the attempt, and which limit sets it.
    pub(crate) deadline: Option<(Instant, TimeLimit)>,
    /// The end of all attempts of the job.
    pub(super) job_deadline: Option<Instant>,
    pub(super) scheduled_start: ScheduledStart,
}

impl<In, T, E> JobGuard<In, T, E> {
    /// The guard of a slot, without a job.
    pub(crate) const fn new(shared: Arc<Shared<In, T, E>>, slot: usize) -> Self {
        Self {
            shared,
            recipient: None,
            slot,
            id: JobId(0),
            index: 0,
            attempts: 0,
            kept_input: None,
            keeps_original: false,
            accepted_at: None,
            started_at: None,
            deadline: None,
            job_deadline: None,
            scheduled_start: ScheduledStart::NONE,
        }
    }

    /// Starts a job and returns its input; `None` if the job has its outcome, gets it now, or goes
    /// back to the schedule.
    ///
    /// `record` may record the start in a local queue; if it returns `false`, or is not called, the
    /// start is recorded under the shared lock.
    pub(crate) fn start(
        &mut self,
        job: QueuedJob<In, T, E>,
        record: impl FnOnce(StartedJob) -> bool,
    ) -> Option<In> {
        match job {
            QueuedJob::Stream(job) => self.start_stream_job(job, record),
            QueuedJob::Handle(job) => self.start_handle_job(job, record),
        }
    }

    fn start_stream_job(
        &mut self,
        job: StreamJob<In, T, E>,
        record: impl FnOnce(StartedJob) -> bool,
    ) -> Option<In> {
        if job.stream.cancelled().is_some() {
            self.shared.abandon(QueuedJob::Stream(job));
            return None;
        }
        let started_job = StartedJob {
            id: job.id,
            index: job.index,
            stream: Some(job.stream.id()),
        };
        let record_id = || job.record_id;
        let (result, wakes) = self.record_start(job.origin, started_job, record_id, record);
        if let Some(wakes) = wakes {
            self.shared.run_wakes(wakes);
        }
        let limits = match result {
            Ok(limits) => limits,
            Err(reason) => {
                self.send_back(QueuedJob::Stream(job), reason);
                return None;
            }
        };
        let StreamJob {
            input,
            stream,
            id,
            index,
            accepted_at,
            ..
        } = job;
        if let Some(reason) = stream.cancelled() {
            // `cancel_stream` may have collected the running jobs before this one started.
            let _ = self.shared.cancel_flags[self.slot].interrupt(reason);
        }
        self.arm(Recipient::Stream(stream), id, index, accepted_at, limits);
        Some(input)
    }

    fn start_handle_job(
        &mut self,
        job: Arc<HandleState<In, T, E>>,
        record: impl FnOnce(StartedJob) -> bool,
    ) -> Option<In> {
        // Held until the start is recorded: a cancellation finds the job queued, or running in
        // this slot.
        let mut inner = job.lock();
        let input = match std::mem::replace(&mut inner.phase, Phase::Running(self.slot)) {
            Phase::Queued(input) => input,
            decided => {
                inner.phase = decided;
                drop(inner);
                self.shared.remove_tombstone(job.record_id(), job.id);
                return None;
            }
        };
        let started_job = StartedJob {
            id: job.id,
            index: 0,
            stream: None,
        };
        let record_id = || job.record_id();
        let (result, wakes) = self.record_start(inner.origin, started_job, record_id, record);
        let started = match result {
            Ok(limits) => Ok((limits, input)),
            Err(reason) => {
                inner.phase = Phase::Queued(input);
                Err(reason)
            }
        };
        drop(inner);
        if let Some(wakes) = wakes {
            self.shared.run_wakes(wakes);
        }
        let (limits, input) = match started {
            Ok(started) => started,
            Err(reason) => {
                self.send_back(QueuedJob::Handle(job), reason);
                return None;
            }
        };
        let (own, accepted_at) = job.times();
        let limits = TimeLimits {
            attempt: own.attempt.or(limits.attempt),
            job: own.job,
        };
        let id = job.id;
        self.arm(Recipient::Handle(job), id, 0, accepted_at, limits);
        Some(input)
    }

    /// Records a start: by `record` if the job may be recorded in a local queue, else under the
    /// shared lock. Returns the wakes to run once no lock is held.
    #[inline(always)]
    fn record_start(
        &mut self,
        origin: Origin,
        started_job: StartedJob,
        record_id: impl FnOnce() -> Option<RecordId>,
        record: impl FnOnce(StartedJob) -> bool,
    ) -> (Result<TimeLimits, NotStarted>, Option<Wakes>) {
        if self.shared.uses_local_queues && origin == Origin::Outside && record(started_job) {
            self.scheduled_start = ScheduledStart::NONE;
            return (Ok(TimeLimits::default()), None);
        }
        let mut wakes = Wakes::default();
        let mut active = ActiveJob::from(started_job);
        active.record_id = record_id();
        let started = self
            .shared
            .start_job(self.slot, origin, active, &mut wakes)
            .map(|(limits, scheduled_start)| {
                self.scheduled_start = scheduled_start;
                limits
            });
        (started, Some(wakes))
    }

    /// Returns a job that could not start: to the report of the abort, or to the schedule.
    fn send_back(&self, job: QueuedJob<In, T, E>, reason: NotStarted) {
        if reason == NotStarted::Aborted {
            let attempts = self.shared.attempts(&job);
            self.shared.return_unstarted(job, attempts);
        } else {
            self.shared.return_to_schedule(job);
        }
    }

    /// Makes the guard responsible for a job whose start is recorded.
    #[inline(always)]
    fn arm(
        &mut self,
        recipient: Recipient<In, T, E>,
        id: JobId,
        index: usize,
        accepted_at: Option<Instant>,
        limits: TimeLimits,
    ) {
        let shared = &self.shared;
        if shared.timings || !limits.is_none() || self.scheduled_start.started_at.is_some() {
            let now = self
                .scheduled_start
                .started_at
                .unwrap_or_else(|| shared.timer.now());
            self.started_at = Some(now);
            self.deadline = limits.deadline(accepted_at.unwrap_or(now), now);
            self.job_deadline = limits.job_deadline(accepted_at.unwrap_or(now));
        } else {
            (self.started_at, self.deadline, self.job_deadline) = (None, None, None);
        }
        self.attempts = self.scheduled_start.attempts();
        self.keeps_original = false;
        self.recipient = Some(recipient);
        self.id = id;
        self.index = index;
        self.accepted_at = accepted_at;
    }

    /// Makes the guard responsible for a job of a batch, in its first attempt.
    pub(crate) fn promote(
        &mut self,
        stream: &Arc<CompletionQueue<In, T, E>>,
        id: JobId,
        index: usize,
    ) {
        self.scheduled_start = ScheduledStart::NONE;
        self.arm(
            Recipient::Stream(Arc::clone(stream)),
            id,
            index,
            None,
            TimeLimits::default(),
        );
        self.attempts = 1;
    }

    /// Completes a plain first attempt with its value. Returns the value if more has to be reported
    /// than the success, or, for a job of a stream, if `record` returns `false`.
    pub(crate) fn succeed(
        &mut self,
        value: T,
        buffer: &mut CompletionBuffer<In, T, E>,
        record: impl FnOnce() -> bool,
    ) -> Option<T> {
        match self.recipient.take_if(|_| {
            self.shared.uses_local_queues && self.attempts == 1 && self.kept_input.is_none()
        }) {
            None => Some(value),
            Some(Recipient::Handle(handle)) => {
                self.complete_handle(&handle, Ok(value), record);
                None
            }
            Some(Recipient::Stream(stream)) => {
                buffer.begin_success(&stream);
                if !record() {
                    self.recipient = Some(Recipient::Stream(stream));
                    return Some(value);
                }
                buffer.push_success(Success {
                    id: self.id,
                    index: self.index,
                    value,
                });
                None
            }
        }
    }

    /// The completion queue of the map or group that the job belongs to.
    pub(crate) fn stream(&self) -> Option<&Arc<CompletionQueue<In, T, E>>> {
        match &self.recipient {
            Some(Recipient::Stream(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Checks that the attempt may be made, and copies the input if a retry or the completion may
    /// need it.
    ///
    /// The error is the job's outcome; the guard then has the input, unless the copy has panicked.
    pub(crate) fn prepare(&mut self, input: In) -> Result<In, JobError<E>> {
        if let Some(reason) = self.shared.cancel_flags[self.slot].interrupted() {
            (self.kept_input, self.keeps_original) = (Some(input), true);
            return Err(JobError::Cancelled(reason));
        }
        if let (Some((at, TimeLimit::Job)), Some(now)) = (self.deadline, self.started_at)
            && at <= now
        {
            (self.kept_input, self.keeps_original) = (Some(input), true);
            return Err(JobError::TimedOut(TimeLimit::Job));
        }
        let attempt = self.scheduled_start.attempts().saturating_add(1);
        let retries = self
            .shared
            .retry
            .as_ref()
            .filter(|retry| retry.policy.may_follow(attempt));
        let keep = retries
            .map(|retry| retry.copy)
            .or_else(|| self.stream().and_then(|stream| stream.copier()));
        if let Some(keep) = keep {
            match panic::catch(|| keep(&input)) {
                Ok(copy) => self.kept_input = Some(copy),
                Err(message) => {
                    panic::discard(input);
                    return Err(JobError::Panicked(message));
                }
            }
        }
        self.attempts = attempt;
        Ok(input)
    }

    /// The input for the completion: a copy, if the stream keeps inputs, or the input itself if
    /// this attempt was not made.
    fn take_kept(&mut self, stream: &CompletionQueue<In, T, E>) -> Option<In> {
        let kept = self.kept_input.take()?;
        if stream.copier().is_some() || self.keeps_original {
            return Some(kept);
        }
        panic::discard(kept);
        None
    }

    /// Completes the job; a completion for a stream goes through the buffer.
    #[inline(always)]
    pub(crate) fn complete(
        &mut self,
        result: Result<T, JobError<E>>,
        buffer: &mut CompletionBuffer<In, T, E>,
    ) {
        if let Some((stream, completion)) = self.complete_unbuffered(result) {
            buffer.push(stream, completion);
        }
    }

    /// Records the outcome. Delivers it to a handle, or returns the completion for a stream: its
    /// delivery has begun, and the caller delivers it and ends the delivery.
    fn complete_unbuffered(
        &mut self,
        result: Result<T, JobError<E>>,
    ) -> Option<(Arc<CompletionQueue<In, T, E>>, Completion<In, T, E>)> {
        match self.recipient.take()? {
            Recipient::Handle(handle) => {
                self.complete_handle(&handle, result, || false);
                None
            }
            Recipient::Stream(stream) => {
                // Before the slot is free: no job that this failure cancels starts in it.
                if let Err(error) = &result {
                    self.shared.count_failure(&stream, error);
                }
                let input = self.take_kept(&stream);
                self.scheduled_start.history.take().map(panic::discard);
                stream.begin_delivery();
                self.shared
                    .finish_job(self.slot, self.id, outcome_of(&result), self.attempts);
                let timings = self.timings();
                let (id, index, attempts) = (self.id, self.index, self.attempts);
                Some((
                    stream,
                    Completion {
                        id,
                        index,
                        attempts,
                        input,
                        result,
                        timings,
                    },
                ))
            }
        }
    }

    /// Completes a job with a handle. Records the outcome by `record`, or under the shared lock if
    /// that returns `false`.
    fn complete_handle(
        &mut self,
        handle: &HandleState<In, T, E>,
        result: Result<T, JobError<E>>,
        record: impl FnOnce() -> bool,
    ) {
        if let Some(kept) = self.kept_input.take() {
            panic::discard(kept);
        }
        self.scheduled_start.history.take().map(panic::discard);
        let outcome = outcome_of(&result);
        let (shared, attempts) = (&self.shared, self.attempts);
        let undelivered = shared.discard_unwanted(handle, result, attempts);
        if !record() {
            shared.finish_job(self.slot, self.id, outcome, attempts);
        }
        shared.deliver_to_handle(handle, undelivered, attempts);
        shared.end_deliveries(1);
    }

    #[inline]
    fn timings(&self) -> Option<Box<Timings>> {
        let shared = &self.shared;
        if !shared.timings {
            return None;
        }
        let (accepted_at, started_at) = (self.accepted_at?, self.started_at?);
        let queued_for = started_at.saturating_duration_since(accepted_at);
        let ran_for = Some(shared.timer.now().saturating_duration_since(started_at));
        Some(Box::new(Timings {
            queued_for,
            ran_for,
        }))
    }
}

impl<In, T, E> Drop for JobGuard<In, T, E> {
    fn drop(&mut self) {
        if self.recipient.is_none() {
            return;
        }
        // An interruption that the attempt has not seen yet is still the reason.
        let reason = self.shared.cancel_flags[self.slot].interrupted();
        let result = Err(reason.map_or(JobError::Abandoned, |reason| JobError::Cancelled(reason)));
        if let Some((stream, completion)) = self.complete_unbuffered(result) {
            stream.deliver(Message::One(completion));
            self.shared.end_stream_deliveries(&stream, 1);
            self.shared.end_deliveries(1);
        }
    }
}

const fn outcome_of<T, E>(result: &Result<T, JobError<E>>) -> Outcome {
    match result {
        Ok(_) => Outcome::Succeeded,
        Err(error) => error.outcome(),
    }
}
