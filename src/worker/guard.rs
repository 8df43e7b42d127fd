//! The guard that sees to it that a running job has exactly one outcome: booked first, then delivered
//! to the completion queue of its map or group, or to its handle.

use std::sync::Arc;
use std::time::Instant;

use super::buffer::CompletionBuffer;
use crate::error::{JobError, TimeLimit};
use crate::event::{Event, JobId, Outcome};
use crate::job::completion::{Completion, Delivery, Success, Timings};
use crate::job::completion_queue::CompletionQueue;
use crate::job::handle_state::{HandleState, Phase};
use crate::job::queued::{QueuedJob, ScheduledJob, StreamJob};
use crate::panic;
use crate::policy::limits::Limits;
use crate::policy::retry::{Decision, History};
use crate::queue::admission::{Origin, Wakes};
use crate::queue::local::StartedJob;
use crate::queue::running::ActiveJob;
use crate::shared::{DeliveryKind, PriorAttempts, Shared, StartResult};

/// What gets the outcome of a running job.
enum Recipient<In, T, E> {
    Stream(Arc<CompletionQueue<In, T, E>>),
    Handle(Arc<HandleState<In, T, E>>),
}

/// Guard of the job that runs in a slot. Completes it exactly once; dropping it reports
/// `Abandoned`.
///
/// A slot has one for all its jobs, one after another.
pub(crate) struct JobGuard<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    /// `None`: no job, or one that is completed.
    recipient: Option<Recipient<In, T, E>>,
    slot: usize,
    pub(crate) id: JobId,
    index: usize,
    /// Those made before, until the attempt starts.
    pub(crate) attempts: u32,
    /// A copy of the input, where the stream keeps them.
    kept: Option<In>,
    accepted_at: Option<Instant>,
    started_at: Option<Instant>,
    /// Until when the attempt may run.
    pub(crate) deadline: Option<(Instant, TimeLimit)>,
    /// When the job's own time is over.
    job_deadline: Option<Instant>,
    prior: PriorAttempts,
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
            kept: None,
            accepted_at: None,
            started_at: None,
            deadline: None,
            job_deadline: None,
            prior: PriorAttempts::NONE,
        }
    }

    /// Starts a job, unless it has its outcome already or gets it now; returns its input. The start
    /// is booked unless `record` says that it is recorded.
    pub(crate) fn start(
        &mut self,
        job: QueuedJob<In, T, E>,
        record: impl FnOnce(StartedJob) -> bool,
    ) -> Option<In> {
        match job {
            QueuedJob::Stream(job) => self.start_of_stream(job, record),
            QueuedJob::Handle(job) => self.start_of_handle(job, record),
        }
    }

    fn start_of_stream(
        &mut self,
        job: StreamJob<In, T, E>,
        record: impl FnOnce(StartedJob) -> bool,
    ) -> Option<In> {
        let (shared, slot) = (&self.shared, self.slot);
        if job.stream.cancelled().is_some() {
            let job = QueuedJob::Stream(job);
            let attempts = shared.attempts(&job);
            shared.settle_unstarted(job, JobError::Abandoned, attempts);
            return None;
        }
        let stream = job.stream.identity();
        let mut limits = Limits::default();
        let is_recorded = shared.is_plain
            && job.origin == Origin::Outside
            && record(StartedJob {
                id: job.id,
                index: job.index,
                stream: Some(stream),
            });
        if is_recorded {
            self.prior = PriorAttempts::NONE;
        } else {
            let mut wakes = Wakes::default();
            let mut active = ActiveJob::new(job.id, job.index, Some(stream.get()));
            active.record_id = job.record_id;
            let prior = &mut self.prior;
            let result = shared.start_job(slot, job.origin, active, &mut limits, &mut wakes, prior);
            shared.run_wakes(wakes);
            match result {
                StartResult::Started => {}
                StartResult::Aborted => {
                    let job = QueuedJob::Stream(job);
                    let attempts = shared.attempts(&job);
                    shared.return_unstarted(job, attempts);
                    return None;
                }
                StartResult::NotYet => {
                    shared.return_to_schedule(QueuedJob::Stream(job));
                    return None;
                }
            }
        }
        let StreamJob {
            input,
            stream,
            id,
            index,
            accepted_at,
            ..
        } = job;
        if let Some(reason) = stream.cancelled() {
            // `cancel_stream` may have looked for running jobs before this one was among them.
            let _ = shared.cancel_flags[slot].interrupt(reason);
        }
        self.begin(Recipient::Stream(stream), id, index, accepted_at, limits);
        Some(input)
    }

    fn start_of_handle(
        &mut self,
        job: Arc<HandleState<In, T, E>>,
        record: impl FnOnce(StartedJob) -> bool,
    ) -> Option<In> {
        let (shared, slot) = (&self.shared, self.slot);
        let mut state = job.lock();
        let input = match std::mem::replace(&mut state.phase, Phase::Running(slot)) {
            Phase::Queued(input) => input,
            decided => {
                state.phase = decided;
                drop(state);
                shared.remove_tombstone(job.record_id(), job.id);
                return None;
            }
        };
        let mut limits = Limits::default();
        let is_recorded = shared.is_plain
            && state.origin == Origin::Outside
            && record(StartedJob {
                id: job.id,
                index: 0,
                stream: None,
            });
        if is_recorded {
            drop(state);
            self.prior = PriorAttempts::NONE;
        } else {
            let mut wakes = Wakes::default();
            let mut active = ActiveJob::new(job.id, 0, None);
            active.record_id = job.record_id();
            let (origin, prior) = (state.origin, &mut self.prior);
            let result = shared.start_job(slot, origin, active, &mut limits, &mut wakes, prior);
            if result != StartResult::Started {
                state.phase = Phase::Queued(input);
                drop(state);
                shared.run_wakes(wakes);
                let job = QueuedJob::Handle(job);
                if result == StartResult::Aborted {
                    let attempts = shared.attempts(&job);
                    shared.return_unstarted(job, attempts);
                } else {
                    shared.return_to_schedule(job);
                }
                return None;
            }
            drop(state);
            shared.run_wakes(wakes);
        }
        let (own, accepted_at) = job.times();
        let limits = Limits {
            attempt: own.attempt.or(limits.attempt),
            job: own.job,
        };
        let id = job.id;
        self.begin(Recipient::Handle(job), id, 0, accepted_at, limits);
        Some(input)
    }

    /// Takes over a job whose start is booked.
    #[inline(always)]
    fn begin(
        &mut self,
        recipient: Recipient<In, T, E>,
        id: JobId,
        index: usize,
        accepted_at: Option<Instant>,
        limits: Limits,
    ) {
        let shared = &self.shared;
        if shared.timings || !limits.is_none() || self.prior.since.is_some() {
            let now = self.prior.since.unwrap_or_else(|| shared.timer.now());
            self.started_at = Some(now);
            self.deadline = limits.deadline(accepted_at.unwrap_or(now), now);
            self.job_deadline = limits.job_deadline(accepted_at.unwrap_or(now));
        } else {
            self.started_at = None;
            self.deadline = None;
        }
        self.attempts = self.prior.attempts();
        self.recipient = Some(recipient);
        self.id = id;
        self.index = index;
        self.accepted_at = accepted_at;
    }

    /// Lets the worker that keeps the time know of what the start has brought; called with no lock
    /// held.
    #[inline(always)]
    pub(crate) fn notify_timer(&mut self) {
        self.shared
            .notify_timer(std::mem::take(&mut self.prior.notice));
    }

    /// Takes over a job that was in a hand, in its first attempt.
    pub(crate) fn adopt(
        &mut self,
        stream: &Arc<CompletionQueue<In, T, E>>,
        id: JobId,
        index: usize,
    ) {
        self.prior = PriorAttempts::NONE;
        self.begin(
            Recipient::Stream(Arc::clone(stream)),
            id,
            index,
            None,
            Limits::default(),
        );
        self.attempts = 1;
    }

    /// Gives the job its value, if there is nothing to tell beside that; else the value is given
    /// back, and also if it belongs to a stream and `note` says that the success is not noted.
    pub(crate) fn succeed(
        &mut self,
        value: T,
        buffer: &mut CompletionBuffer<In, T, E>,
        note: impl FnOnce() -> bool,
    ) -> Option<T> {
        match self
            .recipient
            .take_if(|_| self.shared.is_plain && self.attempts == 1 && self.kept.is_none())
            .take_if(|_| self.shared.is_plain && self.attempts == 1 && self.kept.is_none())
        {
            None => Some(value),
            Some(Recipient::Handle(cell)) => {
                self.answer(&cell, Ok(value), note);
                None
            }
            Some(Recipient::Stream(stream)) => {
                buffer.begin_success(&stream);
                if !note() {
                    self.recipient = Some(Recipient::Stream(stream));
                    return Some(value);
                }
                buffer.succeed(Success {
                    id: self.id,
                    index: self.index,
                    value,
                });
                None
            }
        }
    }

    /// The map or group that the job belongs to.
    pub(crate) fn stream(&self) -> Option<&Arc<CompletionQueue<In, T, E>>> {
        match &self.recipient {
            Some(Recipient::Stream(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Looks whether the attempt should be made at all, and copies the input where the stream keeps
    /// it.
    ///
    /// The error is the job's outcome; its input is in the ticket then, unless the copying has
    /// panicked.
    pub(crate) fn prepare(&mut self, input: In) -> Result<In, JobError<E>> {
        if self.recipient.is_none() {
            return Ok(input);
        }
        if let Some(interrupt) = self.shared.cancel_flags[self.slot].interrupted() {
            self.kept = Some(input);
            return Err(JobError::Cancelled(interrupt.0));
        }
        if let (Some((at, TimeLimit::Job)), Some(now)) = (self.deadline, self.started_at)
            && at <= now
        {
            self.kept = Some(input);
            return Err(JobError::TimedOut(TimeLimit::Job));
        }
        let attempt = self.prior.attempts().saturating_add(1);
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
                Ok(copy) => self.kept = Some(copy),
                Err(message) => {
                    panic::discard(input);
                    return Err(JobError::Panicked(message));
                }
            }
        }
        self.attempts = attempt;
        Ok(input)
    }

    /// Sends the job back to be tried again, if its policy says so; else the result is final. If a
    /// closure of the policy panics, that is the result.
    pub(crate) fn goes_again(&mut self, result: &mut Result<T, JobError<E>>) -> bool {
        match result {
            Err(JobError::Failed(_) | JobError::TimedOut(TimeLimit::Attempt))
                if self.kept.is_some() => {}
            _ => return false,
        }
        self.retry(result).unwrap_or_else(|panicked| {
            panic::discard(std::mem::replace(result, Err(panicked)));
            false
        })
    }

    /// Whether the job waits for another attempt now. The error: a closure of the policy has
    /// panicked.
    #[cold]
    fn retry(&mut self, result: &Result<T, JobError<E>>) -> Result<bool, JobError<E>> {
        let shared = Arc::clone(&self.shared);
        let (Err(error), Some(retry)) = (result, &shared.retry) else {
            return Ok(false);
        };
        let (id, attempt, now) = (self.id, self.attempts, shared.timer.now());
        let since = self.started_at.unwrap_or(now);
        let history = self
            .prior
            .history
            .get_or_insert_with(|| Box::new(History::new(since)));
        let decision = panic::catch(|| retry.policy.decide(id, attempt, error, history, now));
        let Decision::Again {
            delay,
            hold,
            is_paid,
        } = decision.map_err(JobError::Panicked)?
        else {
            return Ok(false);
        };
        if self
            .job_deadline
            .is_some_and(|deadline| now.checked_add(delay).is_none_or(|at| at >= deadline))
        {
            return Ok(false);
        }
        match shared.allow_retry(self.slot, retry.capacity, is_paid) {
            Some(true) => {}
            Some(false) => {
                shared.observe(|| Event::RetryRefused { job: id });
                return Ok(false);
            }
            None => return Ok(false),
        }
        if let Err(message) = panic::catch(|| retry.policy.tell(id, attempt, error, delay, history))
        {
            shared.forgo_retry();
            return Err(JobError::Panicked(message));
        }
        shared.observe(|| Event::Retrying {
            job: id,
            attempt,
            delay,
        });
        let (Some(input), Some(history)) = (self.kept.take(), self.prior.history.take()) else {
            return Ok(false);
        };
        match self.recipient.take() {
            Some(Recipient::Stream(stream)) => {
                let (index, accepted_at) = (self.index, self.accepted_at);
                let again = Arc::clone(&stream);
                let job = StreamJob {
                    input,
                    stream,
                    id,
                    index,
                    origin: Origin::Retry,
                    record_id: None,
                    accepted_at,
                };
                match shared.requeue(
                    self.slot,
                    ScheduledJob::Stream(Box::new(job)),
                    history,
                    delay,
                    hold,
                ) {
                    Ok((deferred, wakes)) => {
                        shared.run_deferred(deferred);
                        shared.run_wakes(wakes);
                        shared.sweep_if_cancelled(&again);
                        Ok(true)
                    }
                    Err((held, history)) => {
                        // What it holds is dropped with the rest of the job, behind a guard.
                        self.prior.history = Some(history);
                        if let ScheduledJob::Stream(job) = held {
                            self.kept = Some(job.input);
                            self.recipient = Some(Recipient::Stream(job.stream));
                        }
                        Ok(false)
                    }
                }
            }
            Some(Recipient::Handle(cell)) => {
                // Under its lock, so that a cancellation finds it either running here or queued.
                let mut state = cell.lock();
                state.phase = Phase::Queued(input);
                let origin = std::mem::replace(&mut state.origin, Origin::Retry);
                let held = ScheduledJob::Handle(Arc::clone(&cell));
                match shared.requeue(self.slot, held, history, delay, hold) {
                    Ok((deferred, wakes)) => {
                        drop(state);
                        shared.run_deferred(deferred);
                        shared.run_wakes(wakes);
                        return Ok(true);
                    }
                    Err((_, history)) => self.prior.history = Some(history),
                }
                state.origin = origin;
                if let Phase::Queued(input) =
                    std::mem::replace(&mut state.phase, Phase::Running(self.slot))
                {
                    self.kept = Some(input);
                }
                drop(state);
                self.recipient = Some(Recipient::Handle(cell));
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// The copy of the input, where the stream wants it.
    fn take_kept(&mut self, stream: &CompletionQueue<In, T, E>) -> Option<In> {
        let kept = self.kept.take()?;
        if stream.copier().is_some() || self.attempts == 0 {
            return Some(kept);
        }
        panic::discard(kept);
        None
    }

    /// Gives the job its outcome; one for a stream travels by the buffer.
    #[inline(always)]
    pub(crate) fn settle(
        &mut self,
        result: Result<T, JobError<E>>,
        buffer: &mut CompletionBuffer<In, T, E>,
    ) {
        if let Some((stream, completion)) = self.conclude(result) {
            buffer.push(stream, completion);
        }
    }

    /// Books the outcome and gives it to a cell; one for a stream is returned, and announced there.
    fn conclude(
        &mut self,
        result: Result<T, JobError<E>>,
    ) -> Option<(Arc<CompletionQueue<In, T, E>>, Completion<In, T, E>)> {
        match self.recipient.take()? {
            Recipient::Handle(cell) => {
                self.answer(&cell, result, || false);
                None
            }
            Recipient::Stream(stream) => {
                // Before the slot is free, so that what the failure cancels does not start in it or
                // elsewhere.
                if let Err(error) = &result {
                    self.shared.count_failure(&stream, error);
                }
                let input = self.take_kept(&stream);
                self.prior.history.take().map(panic::discard);
                self.shared.begin_delivery(&stream, DeliveryKind::Finished);
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

    /// Gives the outcome to a cell, and books it in between unless `note` says that it is noted.
    fn answer(
        &mut self,
        cell: &HandleState<In, T, E>,
        result: Result<T, JobError<E>>,
        note: impl FnOnce() -> bool,
    ) {
        if let Some(kept) = self.kept.take() {
            panic::discard(kept);
        }
        self.prior.history.take().map(panic::discard);
        let outcome = outcome_of(&result);
        let wanted = self.shared.discard_unwanted(cell, result, self.attempts);
        self.shared.deliveries.begin(DeliveryKind::Finished);
        if !note() {
            self.shared
                .finish_job(self.slot, self.id, outcome, self.attempts);
        }
        self.shared.complete_handle(cell, wanted, self.attempts);
        self.shared.end_deliveries(DeliveryKind::Finished, 1);
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
        // An interruption that was under way is the reason, though the worker did not live to see
        // it.
        let interrupt = self.shared.cancel_flags[self.slot].interrupted();
        let result = Err(interrupt.map_or(JobError::Abandoned, |interrupt| {
            JobError::Cancelled(interrupt.0)
        }));
        if let Some((stream, completion)) = self.conclude(result) {
            stream.deliver(Delivery::One(completion));
            self.shared.end_delivery(&stream, DeliveryKind::Finished, 1);
        }
    }
}

const fn outcome_of<T, E>(result: &Result<T, JobError<E>>) -> Outcome {
    match result {
        Ok(_) => Outcome::Succeeded,
        Err(error) => error.outcome(),
    }
}
