//! Another attempt of a running job: whether its policy and the bounds of the pool allow one, and
//! its way back to the schedule. A job whose result is final stays with its guard.

use std::sync::Arc;
use std::time::Duration;

use super::guard::{JobGuard, Recipient};
use crate::error::{JobError, TimeLimit};
use crate::event::Event;
use crate::job::handle_state::Phase;
use crate::job::queued::{ScheduledJob, StreamJob};
use crate::panic;
use crate::policy::retry::{Decision, History, RetryAfterScope};
use crate::queue::admission::Origin;

impl<In, T, E> JobGuard<In, T, E> {
    /// Queues the job for another attempt if the retry policy allows one; returns `false` if the
    /// result is final. So it is for a job of a map or group that is cancelled. If a
    /// closure of the policy panics, the result becomes that panic.
    pub(crate) fn try_retry(&mut self, result: &mut Result<T, JobError<E>>) -> bool {
        match result {
            Err(JobError::Failed(_) | JobError::TimedOut(TimeLimit::Attempt))
                if self.kept_input.is_some() => {}
            _ => return false,
        }
        let may_follow = self
            .shared
            .retry
            .as_ref()
            .is_some_and(|retry| retry.policy.may_follow(self.attempts));
        let is_cancelled = || {
            self.stream()
                .is_some_and(|stream| stream.cancelled().is_some())
        };
        if !may_follow || is_cancelled() {
            return false;
        }
        self.retry(result).unwrap_or_else(|panicked| {
            panic::discard(std::mem::replace(result, Err(panicked)));
            false
        })
    }

    /// Returns whether the job is queued for another attempt. The error: a closure of the policy
    /// has panicked.
    ///
    /// 1. The policy decides.
    /// 2. The job's deadline, the budget and the capacity for retries may refuse.
    /// 3. The policy's observer is called.
    /// 4. [`requeue`](Self::requeue) queues the job.
    #[cold]
    fn retry(&mut self, result: &Result<T, JobError<E>>) -> Result<bool, JobError<E>> {
        let shared = Arc::clone(&self.shared);
        let (Err(error), Some(retry)) = (result, &shared.retry) else {
            return Ok(false);
        };
        let (id, attempt, now) = (self.id, self.attempts, shared.timer.now());
        let started_at = self.started_at.unwrap_or(now);
        let history = self
            .scheduled_start
            .history
            .get_or_insert_with(|| Box::new(History::new(started_at)));
        let decision = panic::catch(|| retry.policy.decide(id, attempt, error, history, now));
        let Decision::Again {
            delay,
            scope,
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
        if let Err(message) =
            panic::catch(|| retry.policy.notify(id, attempt, error, delay, history))
        {
            shared.forgo_retry();
            return Err(JobError::Panicked(message));
        }
        shared.observe(|| Event::Retrying {
            job: id,
            attempt,
            delay,
        });
        // Both are there: `try_retry` has checked the first, and the second was inserted above.
        let (Some(input), Some(history)) =
            (self.kept_input.take(), self.scheduled_start.history.take())
        else {
            return Ok(false);
        };
        Ok(self.requeue(input, history, delay, scope))
    }

    /// Frees the slot and queues the job again, under one lock of the shared state. Returns
    /// `false`, and keeps the job, if the pool no longer takes it.
    fn requeue(
        &mut self,
        input: In,
        history: Box<History>,
        delay: Duration,
        scope: RetryAfterScope,
    ) -> bool {
        let Some(recipient) = self.recipient.take() else {
            return false;
        };
        let shared = Arc::clone(&self.shared);
        let (job, inner) = match &recipient {
            Recipient::Stream(stream) => {
                let job = StreamJob {
                    input,
                    stream: Arc::clone(stream),
                    id: self.id,
                    index: self.index,
                    origin: Origin::Retry,
                    record_id: None,
                    accepted_at: self.accepted_at,
                };
                (ScheduledJob::Stream(Box::new(job)), None)
            }
            Recipient::Handle(handle) => {
                // Held until the job is queued: a cancellation finds it running here, or queued.
                let mut inner = handle.lock();
                inner.phase = Phase::Queued(input);
                let origin = std::mem::replace(&mut inner.origin, Origin::Retry);
                let job = ScheduledJob::Handle(Arc::clone(handle));
                (job, Some((inner, origin)))
            }
        };
        match shared.requeue_job(self.slot, job, history, delay, scope) {
            Ok((dispatched, wakes)) => {
                drop(inner);
                shared.run_deferred(dispatched, wakes);
                if let Recipient::Stream(stream) = &recipient {
                    shared.sweep_if_cancelled(stream);
                }
                true
            }
            Err((job, history)) => {
                // Kept until the outcome, which drops them behind a panic guard.
                self.scheduled_start.history = Some(history);
                self.kept_input = match (job, inner) {
                    (ScheduledJob::Stream(job), _) => Some(job.input),
                    (ScheduledJob::Handle(_), Some((mut inner, origin))) => {
                        inner.origin = origin;
                        match std::mem::replace(&mut inner.phase, Phase::Running(self.slot)) {
                            Phase::Queued(input) => Some(input),
                            _ => None,
                        }
                    }
                    (ScheduledJob::Handle(_), None) => None,
                };
                self.recipient = Some(recipient);
                false
            }
        }
    }
}
