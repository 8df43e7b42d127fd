//! Jobs with a handle: completed while queued, cancelled, detached, or completed by a worker.
//!
//! The lock of a [`HandleState`] decides which outcome a job has: a function that moves its phase
//! to neither `Queued` nor `Running` is the one that completes the job. Its outcome is delivered
//! in the steps of `Deliveries`, of which `deliver_to_handle` is the third; without [`Interest`] in
//! the job it is discarded before it is counted, by `discard_unwanted`.

use super::Shared;
use super::lifecycle::DequeuedJob;
use crate::error::{CancelReason, JobError};
use crate::job::handle_state::{HandleState, Interest, Phase};
use crate::panic;
use crate::report::Unhandled;

impl<In, T, E> Shared<In, T, E> {
    /// Completes a job with `error` if it is still queued, after passing its input to `part_with`.
    /// Returns whether it was; otherwise nothing changes.
    pub(crate) fn complete_queued_handle(
        &self,
        job: &HandleState<In, T, E>,
        error: JobError<E>,
        attempts: u32,
        part_with: impl FnOnce(In),
    ) -> bool {
        let mut inner = job.lock();
        let input = match std::mem::replace(&mut inner.phase, Phase::Completing) {
            Phase::Queued(input) => input,
            decided => {
                inner.phase = decided;
                return false;
            }
        };
        let origin = inner.origin;
        drop(inner);
        part_with(input);
        let outcome = error.outcome();
        let undelivered = self.discard_unwanted(job, Err(error), attempts);
        self.begin_return();
        let dequeued = DequeuedJob {
            id: job.id,
            origin,
            record_id: job.record_id(),
            stream: None,
        };
        self.finish_unstarted(dequeued, outcome, attempts);
        self.deliver_to_handle(job, undelivered, attempts);
        self.end_return();
        true
    }

    /// Cancels a job for its handle, of which `interest` is left.
    pub(crate) fn cancel_handle(&self, job: &HandleState<In, T, E>, interest: Interest) {
        let mut inner = job.lock();
        let unneeded = inner.lower_interest(interest);
        match inner.phase {
            Phase::Queued(_) => {
                drop(inner);
                let attempts = self.attempts_of(job.record_id(), job.id);
                let cancelled = JobError::Cancelled(CancelReason::Handle);
                if self.complete_queued_handle(job, cancelled, attempts, |input| {
                    panic::discard(input);
                }) {
                    self.sweep_tombstones();
                } else {
                    // A worker has started it in the meantime, so it can be interrupted.
                    self.cancel_handle(job, interest);
                }
            }
            Phase::Running(slot) => {
                // Under the lock of the handle state: as long as this is the phase, the slot runs
                // this job and no other.
                let waker = self.cancel_flags[slot].interrupt(CancelReason::Handle);
                drop(inner);
                panic::wake(waker);
            }
            // Its delivery finds that the result is not wanted.
            Phase::Completing => drop(inner),
            Phase::Done(..) | Phase::Taken => {
                drop(inner);
                self.detach_handle(job);
            }
        }
        unneeded.map(panic::discard);
    }

    /// Detaches a job from its handle: a failure goes to the pool's `on_unhandled` callback.
    pub(crate) fn detach_handle(&self, job: &HandleState<In, T, E>) {
        let mut inner = job.lock();
        let unneeded = inner.lower_interest(Interest::None);
        let is_done = matches!(inner.phase, Phase::Done(_));
        drop(inner);
        unneeded.map(panic::discard);
        if is_done && let Some(result) = job.take_result() {
            self.discard_result(job, result, job.attempts());
        }
    }

    /// Whether the outcome of a job is known, or will be whatever other jobs do.
    pub(crate) fn will_complete(&self, job: &HandleState<In, T, E>) -> bool {
        let inner = job.lock();
        match inner.phase {
            Phase::Queued(_) => false,
            // `finish_job` frees the slot before `deliver_to_handle` wakes the handle.
            Phase::Running(slot) => !self.lock().running.is_running(slot, job.id),
            Phase::Completing | Phase::Done(_) | Phase::Taken => true,
        }
    }

    /// Discards a result, before the outcome is counted, if there is no interest in the job: then
    /// only the observer is told of it. Otherwise returns it, for
    /// [`deliver_to_handle`](Self::deliver_to_handle).
    pub(crate) fn discard_unwanted(
        &self,
        job: &HandleState<In, T, E>,
        result: Result<T, JobError<E>>,
        attempts: u32,
    ) -> Option<Result<T, JobError<E>>> {
        let mut inner = job.lock();
        if inner.interest != Interest::None {
            return Some(result);
        }
        inner.phase = Phase::Taken;
        drop(inner);
        self.discard_result(job, result, attempts);
        None
    }

    /// Leaves the result, if it is not discarded yet, for the handle, or discards it now if it is
    /// not wanted any more. `end_deliveries` or `end_return` follows.
    pub(crate) fn deliver_to_handle(
        &self,
        job: &HandleState<In, T, E>,
        result: Option<Result<T, JobError<E>>>,
        attempts: u32,
    ) {
        if let Some(unwanted) = result.and_then(|result| job.complete(result, attempts)) {
            self.discard_result(job, unwanted, attempts);
        }
    }

    /// Reports a failure that no handle will take, or drops the value.
    fn discard_result(
        &self,
        job: &HandleState<In, T, E>,
        result: Result<T, JobError<E>>,
        attempts: u32,
    ) {
        match result {
            // The handle itself has cancelled the job, so it is no failure.
            Err(JobError::Cancelled(CancelReason::Handle)) => {}
            Err(error) => self.report_unhandled(Unhandled {
                id: job.id,
                attempts,
                error,
            }),
            Ok(value) => {
                panic::discard(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::event::JobId;
    use crate::job::handle_state::{HandleState, Interest, Phase};
    use crate::policy::limits::TimeLimits;
    use crate::queue::admission::Origin;
    use crate::{ManualTimer, Pool};

    /// The handle has found the job queued and is gone; a worker has run the job before the
    /// cancellation goes on, and the slot runs another one.
    #[test]
    fn a_cancellation_that_comes_after_the_end_does_not_reach_the_next_job_of_the_slot() {
        let (pool, _workers) = Pool::builder()
            .workers(1)
            .timer(ManualTimer::new())
            .build(|n: u32| async move { Ok::<_, u32>(n) });
        let shared = pool.shared();
        for interest in [Interest::None, Interest::End, Interest::Result] {
            let (limits, origin) = (TimeLimits::default(), Origin::Outside);
            let job = HandleState::new(JobId(0), origin, limits, None, 7, interest);
            job.lock().phase = Phase::Running(0);
            let result = shared.discard_unwanted(&job, Ok(7), 1);
            shared.deliver_to_handle(&job, result, 1);
            shared.cancel_handle(&job, interest);
            assert_eq!(shared.cancel_flags[0].interrupted(), None);
        }
    }
}
