//! What becomes of a job with a handle: settled while it is queued, cancelled, detached, completed.

use super::{DeliveryKind, Shared};
use crate::error::{CancelReason, JobError};
use crate::job::handle_state::{HandleState, Phase};
use crate::panic;
use crate::report::Unhandled;

impl<In, T, E> Shared<In, T, E> {
    /// Settles a job that is still queued, once `part_with` has its input; says whether it was. One
    /// that is not is left alone.
    pub(crate) fn settle_handle(
        &self,
        job: &HandleState<In, T, E>,
        error: JobError<E>,
        attempts: u32,
        part_with: impl FnOnce(In),
    ) -> bool {
        let mut state = job.lock();
        let input = match std::mem::replace(&mut state.phase, Phase::Completing) {
            Phase::Queued(input) => input,
            decided => {
                state.phase = decided;
                return false;
            }
        };
        let origin = state.origin;
        drop(state);
        part_with(input);
        let outcome = error.outcome();
        let wanted = self.discard_unwanted(job, Err(error), attempts);
        self.deliveries.begin(DeliveryKind::Unstarted);
        self.book_unstarted(origin, job.id, outcome, job.record_id(), attempts, None);
        self.complete_handle(job, wanted, attempts);
        self.end_deliveries(DeliveryKind::Unstarted, 1);
        true
    }

    /// Cancels on behalf of the handle, which wants no result. Says whether an attempt has to be
    /// stopped first.
    pub(crate) fn cancel_handle(&self, job: &HandleState<In, T, E>) -> bool {
        let mut state = job.lock();
        state.is_detached = true;
        match state.phase {
            Phase::Queued(_) => {
                drop(state);
                let attempts = self.attempts_of(job.record_id(), job.id);
                let cancelled = JobError::Cancelled(CancelReason::Handle);
                if self.settle_handle(job, cancelled, attempts, |input| {
                    panic::discard(input);
                }) {
                    self.sweep_tombstones();
                    return false;
                }
                // A worker was faster; what it runs now can be interrupted.
                self.cancel_handle(job)
            }
            Phase::Running(slot) => {
                // Under the lock: as long as the phase says so, the slot runs this job and no
                // other.
                let waker = self.cancel_flags[slot].interrupt(CancelReason::Handle);
                drop(state);
                panic::wake(waker);
                true
            }
            // `complete_handle` finds that the job is detached.
            Phase::Completing => false,
            Phase::Done(..) | Phase::Taken => {
                drop(state);
                self.detach_handle(job);
                false
            }
        }
    }

    /// No handle will take the result: a failure goes to the pool's callback for them.
    pub(crate) fn detach_handle(&self, job: &HandleState<In, T, E>) {
        let mut state = job.lock();
        state.is_detached = true;
        if let Phase::Done(..) = state.phase {
            let phase = std::mem::replace(&mut state.phase, Phase::Taken);
            drop(state);
            if let Phase::Done(result) = phase {
                self.discard_result(job, result, job.attempts());
            }
        }
    }

    /// Whether the outcome is known, or will be, whatever becomes of other jobs.
    pub(crate) fn is_decided(&self, job: &HandleState<In, T, E>) -> bool {
        let state = job.lock();
        match state.phase {
            Phase::Queued(_) => false,
            // The books are closed before the handle is woken.
            Phase::Running(slot) => !self.lock().running.is_running(slot, job.id),
            Phase::Completing | Phase::Done(_) | Phase::Taken => true,
        }
    }

    /// Gives up the result of a detached job before the books are closed over it: when the pool is
    /// idle, the failure is reported and the value dropped.
    pub(crate) fn discard_unwanted(
        &self,
        job: &HandleState<In, T, E>,
        result: Result<T, JobError<E>>,
        attempts: u32,
    ) -> Option<Result<T, JobError<E>>> {
        if job.lock().is_detached {
            self.discard_result(job, result, attempts);
            return None;
        }
        Some(result)
    }

    /// Leaves the result for the handle, or gives it up.
    pub(crate) fn complete_handle(
        &self,
        job: &HandleState<In, T, E>,
        result: Option<Result<T, JobError<E>>>,
        attempts: u32,
    ) {
        if let Some(unwanted) = job.complete(result, attempts) {
            self.discard_result(job, unwanted, attempts);
        }
    }

    fn discard_result(
        &self,
        job: &HandleState<In, T, E>,
        result: Result<T, JobError<E>>,
        attempts: u32,
    ) {
        match result {
            // The handle that cancelled knows.
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
