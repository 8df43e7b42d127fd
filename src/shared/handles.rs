//! Jobs with a handle: completed while queued, cancelled, detached, or completed by a worker.
//!
//! The lock of a [`HandleState`] decides which outcome a job has: a function that moves its phase
//! to neither `Queued` nor `Running` is the one that completes the job. Before the steps of
//! [`Deliveries`](super::Deliveries), an outcome is passed to `discard_unwanted`, in case the
//! handle is gone; `deliver_to_handle` discards it if the handle was dropped in the meantime.

use super::lifecycle::DequeuedJob;
use super::{DeliveryKind, Shared};
use crate::error::{CancelReason, JobError};
use crate::job::handle_state::{HandleState, Phase, Wanted};
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
        let undelivered =
            self.begin_handle_delivery(job, Err(error), attempts, DeliveryKind::NotRun);
        let dequeued = DequeuedJob {
            id: job.id,
            origin,
            record_id: job.record_id(),
            stream: None,
        };
        self.finish_unstarted(dequeued, outcome, attempts);
        if let Some(result) = undelivered {
            self.deliver_to_handle(job, result, attempts, DeliveryKind::NotRun);
        }
        true
    }

    /// Cancels a job for its handle, of which `wanted` is left.
    pub(crate) fn cancel_handle(&self, job: &HandleState<In, T, E>, wanted: Wanted) {
        let mut inner = job.lock();
        inner.wanted = wanted;
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
                    self.cancel_handle(job, wanted);
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
            Phase::Completing => {}
            Phase::Done(..) | Phase::Taken => {
                drop(inner);
                self.detach_handle(job);
            }
        }
    }

    /// Detaches a job from its handle: a failure goes to the pool's `on_unhandled` callback.
    pub(crate) fn detach_handle(&self, job: &HandleState<In, T, E>) {
        let mut inner = job.lock();
        inner.wanted = Wanted::Nothing;
        if let Phase::Done(..) = inner.phase {
            let phase = std::mem::replace(&mut inner.phase, Phase::Taken);
            drop(inner);
            if let Phase::Done(result) = phase {
                self.discard_result(job, result, job.attempts());
            }
        }
    }

    /// Whether the outcome of a job is known, or will be whatever other jobs do.
    pub(crate) fn is_decided(&self, job: &HandleState<In, T, E>) -> bool {
        let inner = job.lock();
        match inner.phase {
            Phase::Queued(_) => false,
            // `finish_job` frees the slot before `deliver_to_handle` wakes the handle.
            Phase::Running(slot) => !self.lock().running.is_running(slot, job.id),
            Phase::Completing | Phase::Done(_) | Phase::Taken => true,
        }
    }

    /// Begins the delivery of a result, before the outcome is counted;
    /// [`deliver_to_handle`](Self::deliver_to_handle) ends it. `None`: nothing is wanted of the
    /// job, so the result is discarded and there is nothing to deliver.
    pub(crate) fn begin_handle_delivery(
        &self,
        job: &HandleState<In, T, E>,
        result: Result<T, JobError<E>>,
        attempts: u32,
        kind: DeliveryKind,
    ) -> Option<Result<T, JobError<E>>> {
        let mut inner = job.lock();
        if inner.wanted == Wanted::Nothing {
            inner.phase = Phase::Taken;
            drop(inner);
            self.discard_result(job, result, attempts);
            return None;
        }
        drop(inner);
        self.deliveries.begin(kind);
        Some(result)
    }

    /// Leaves the result for the handle, or discards it if it is not wanted.
    pub(crate) fn deliver_to_handle(
        &self,
        job: &HandleState<In, T, E>,
        result: Result<T, JobError<E>>,
        attempts: u32,
        kind: DeliveryKind,
    ) {
        if let Some(unwanted) = job.complete(result, attempts) {
            self.discard_result(job, unwanted, attempts);
        }
        self.end_deliveries(kind, 1);
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
