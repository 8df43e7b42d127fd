//! What maps and groups need of the shared state: submission to a group, counts of deliveries,
//! cancellation, priority. A [`CompletionQueue`] itself knows nothing of its pool.

use std::sync::Arc;

use super::{Accepted, Shared};
use crate::error::{CancelReason, JobError, SubmitError};
use crate::job::completion_queue::CompletionQueue;
use crate::job::current::CurrentJob;
use crate::job::queued::{QueuedJob, StreamJob};
use crate::queue::admission::Refusal;

impl<In, T, E> Shared<In, T, E> {
    /// Cancels the queued and running jobs of a map or group. Only the first reason has an effect.
    pub(crate) fn cancel_stream(&self, stream: &CompletionQueue<In, T, E>, reason: CancelReason) {
        let is_first = stream.set_cancelled(reason);
        // Without jobs there is nothing to do.
        if stream.unread() > 0 {
            // Also after `cancel_queued`, which has let them run.
            self.interrupt_stream(stream.id(), stream.cancelled().unwrap_or(reason));
            if is_first {
                self.sweep();
            }
        }
        if stream.has_submissions() {
            self.wake_group_submitters(stream.id());
        }
    }

    /// Cancels the queued jobs of a map, and lets the running ones end.
    pub(crate) fn cancel_queued(&self, stream: &CompletionQueue<In, T, E>) {
        if stream.set_cancelled(CancelReason::Stream) && stream.unread() > 0 {
            self.sweep();
        }
    }

    /// Sweeps if the map or group of a job that was just enqueued is cancelled, since its sweep may
    /// have come before.
    pub(crate) fn sweep_if_cancelled(&self, stream: &CompletionQueue<In, T, E>) {
        if stream.cancelled().is_some() {
            self.sweep();
        }
    }

    /// Sets the window. Running jobs may add as many more as the child capacity.
    pub(crate) fn set_window(&self, stream: &CompletionQueue<In, T, E>, window: usize) {
        let children = self.lock().admission.child_capacity();
        stream.set_child_limit(window.saturating_add(children));
    }

    /// Sets the priority of jobs that are accepted from now on.
    pub(crate) fn set_stream_priority(&self, stream: &CompletionQueue<In, T, E>, priority: i32) {
        if priority != 0 {
            self.switch_on_schedule();
        }
        stream.set_priority(priority);
    }

    /// Counts a failure, and cancels the other jobs if the policy says so; but after
    /// `cancel_queued`, those that run may end.
    pub(crate) fn count_failure(&self, stream: &CompletionQueue<In, T, E>, error: &JobError<E>) {
        if stream.count_failure(error) && stream.cancelled().is_none() {
            self.cancel_stream(stream, CancelReason::Stopped);
        }
    }

    /// Ends `count` deliveries that `CompletionQueue::begin_delivery` has begun, after their
    /// completions are in the queue: for deadlock detection. `end_deliveries` follows.
    pub(crate) fn end_stream_deliveries(&self, stream: &CompletionQueue<In, T, E>, count: usize) {
        if stream.end_delivery(count) {
            self.check_waits();
        }
    }

    /// Submits one job to a map or group while fewer than `limit` are unread; otherwise returns
    /// its input.
    pub(crate) fn submit_to(
        &self,
        stream: &Arc<CompletionQueue<In, T, E>>,
        input: In,
        parent: Option<CurrentJob>,
        limit: usize,
    ) -> Result<(), SubmitError<In>> {
        if let Err(refusal) = stream.try_add_unread(limit) {
            return Err(refusal.into_error(input));
        }
        self.enqueue_if_accepted(stream, input, self.accept_from(parent))
    }

    /// Enqueues a job that counts as unread, if it was accepted; otherwise uncounts it.
    pub(crate) fn enqueue_if_accepted(
        &self,
        stream: &Arc<CompletionQueue<In, T, E>>,
        input: In,
        accepted: Result<Accepted, Refusal>,
    ) -> Result<(), SubmitError<In>> {
        let Accepted { id, origin, limits } = match accepted {
            Ok(accepted) => accepted,
            Err(refusal) => {
                stream.remove_unread();
                return Err(refusal.into_error(input));
            }
        };
        self.enqueue(QueuedJob::Stream(StreamJob {
            input,
            stream: Arc::clone(stream),
            id,
            index: stream.take_indices(1),
            origin,
            record_id: None,
            accepted_at: self.acceptance_time(limits),
        }));
        self.sweep_if_cancelled(stream);
        Ok(())
    }
}
