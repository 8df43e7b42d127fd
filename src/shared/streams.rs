//! What maps and groups ask of the pool: jobs accepted into them, deliveries counted, cancellation.

use std::sync::Arc;

use super::{DeliveryKind, Shared};
use crate::error::{CancelReason, JobError, SubmitError};
use crate::event::JobId;
use crate::job::completion_queue::CompletionQueue;
use crate::job::current::CurrentJob;
use crate::job::queued::{QueuedJob, StreamJob};
use crate::policy::limits::Limits;
use crate::queue::admission::{Origin, Refusal};

impl<In, T, E> Shared<In, T, E> {
    /// Cancels the queued and running jobs of a map or group; the first reason counts.
    pub(crate) fn cancel_stream(&self, stream: &CompletionQueue<In, T, E>, reason: CancelReason) {
        // To look once more, or where nothing is left, would only cost time.
        if stream.set_cancelled(reason) && stream.unread() > 0 {
            self.interrupt_stream(stream.identity().get(), reason);
            self.sweep();
        }
        if stream.has_submissions() {
            self.wake_submits_to(stream.identity().get());
        }
    }

    /// Sweeps if a cancellation, and its sweep, came while a job was on its way into the queue.
    pub(crate) fn sweep_if_cancelled(&self, stream: &CompletionQueue<In, T, E>) {
        if stream.cancelled().is_some() {
            self.sweep();
        }
    }

    /// Sets the window; jobs that running jobs add come on top, as many as may be queued.
    pub(crate) fn set_window(&self, stream: &CompletionQueue<In, T, E>, window: usize) {
        let children = self.lock().admission.child_capacity();
        stream.set_child_limit(window.saturating_add(children));
    }

    /// Sets the priority of jobs to come.
    pub(crate) fn set_stream_priority(&self, stream: &CompletionQueue<In, T, E>, priority: i32) {
        if priority != 0 {
            self.switch_on_schedule();
        }
        stream.set_priority(priority);
    }

    /// Counts a failure, and cancels the rest if that is the policy.
    pub(crate) fn count_failure(&self, stream: &CompletionQueue<In, T, E>, error: &JobError<E>) {
        if stream.count_failure(error) {
            self.cancel_stream(stream, CancelReason::Stopped);
        }
    }

    /// Counts a completion that is about to be booked, until [`end_delivery`](Self::end_delivery).
    #[inline(always)]
    pub(crate) fn begin_delivery(&self, stream: &CompletionQueue<In, T, E>, kind: DeliveryKind) {
        stream.begin_delivery();
        self.deliveries.begin(kind);
    }

    /// So many completions that were begun are delivered.
    pub(crate) fn end_delivery(
        &self,
        stream: &CompletionQueue<In, T, E>,
        kind: DeliveryKind,
        count: usize,
    ) {
        // None of them would change nothing, but cost time.
        if count > 0 {
            stream.end_delivery(count);
            self.end_deliveries(kind, count);
        }
    }

    /// Accepts one job into a map or group while fewer than `window` are unread, or gives its input
    /// back.
    pub(crate) fn submit_to(
        &self,
        stream: &Arc<CompletionQueue<In, T, E>>,
        input: In,
        parent: Option<CurrentJob>,
        window: usize,
    ) -> Result<(), SubmitError<In>> {
        if stream.cancelled().is_some() {
            return Err(SubmitError::Closed(input));
        }
        // Before the job is accepted, so that its completion never finds a count of zero.
        if !stream.try_reserve(window) {
            return Err(SubmitError::Full(input));
        }
        let origin = parent.map_or(Origin::Outside, |_| Origin::Child);
        self.launch_reserved(stream, input, origin, self.accept_from(parent))
    }

    /// Puts a job whose completion is reserved on its way, if it was accepted; else takes the
    /// reservation back.
    pub(crate) fn launch_reserved(
        &self,
        stream: &Arc<CompletionQueue<In, T, E>>,
        input: In,
        origin: Origin,
        accepted: Result<(JobId, Limits), Refusal>,
    ) -> Result<(), SubmitError<In>> {
        let (id, limits) = match accepted {
            Ok(accepted) => accepted,
            Err(refusal) => {
                stream.unreserve();
                return Err(refusal.into_error(input));
            }
        };
        self.launch(QueuedJob::Stream(StreamJob {
            input,
            stream: Arc::clone(stream),
            id,
            index: stream.take_indices(1),
            origin,
            record_id: None,
            accepted_at: self.clock_in(limits),
        }));
        self.sweep_if_cancelled(stream);
        Ok(())
    }
}
