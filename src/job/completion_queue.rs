//! The completion queue of one map or group.
//!
//! In: deliveries of workers, in the order in which jobs end. Out: completions, to the reader. It
//! never changes the pool: `Shared` records what a cancellation or a delivery means there.
//!
//! The channel is unbounded, but its content is not: no job is accepted while `window` jobs are
//! queued, running or unread. Jobs added by running jobs come on top; the pool's child capacity
//! bounds them while they are queued.

use std::sync::{Arc, OnceLock};

use super::completion::{Completion, Message, OnError, Success};
use crate::channel::{self, Receiver, Sender};
use crate::error::{CancelReason, JobError};
use crate::panic;
use crate::queue::StreamId;
use crate::queue::admission::Refusal;
use crate::spares::Spares;
use crate::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicUsize, Ordering};

/// As many messages as fill a window of the default size.
const SPARES: usize = 17;

/// The channel of completions of one map or group, and the counters and settings of its jobs.
pub(crate) struct CompletionQueue<In, T, E> {
    id: StreamId,
    sender: Sender<Message<In, T, E>>,
    next_index: AtomicUsize,
    /// How many jobs are accepted and not read.
    unread: AtomicUsize,
    /// How many deliveries have begun and not ended.
    delivering: AtomicUsize,
    /// Whether a job of the pool has waited for a completion: only then, deadlock detection looks at
    /// `delivering`.
    is_awaited_inside: AtomicBool,
    /// 0, or the code of the reason for the cancellation.
    cancelled: AtomicU8,
    /// How many submissions to this group wait for a permit.
    submitting: AtomicUsize,
    failures: AtomicUsize,
    /// A running job may add a job while fewer than this are unread.
    child_limit: AtomicUsize,
    /// Vectors of messages that were read, for reuse.
    pub(crate) completion_spares: Spares<Completion<In, T, E>>,
    pub(crate) success_spares: Spares<Success<T>>,
    /// Vectors of batches that were taken, for reuse.
    pub(crate) input_spares: Spares<In>,
    /// The number of failures that cancels the rest.
    stop_after: AtomicUsize,
    /// Copies an input for its completion, if the stream keeps inputs.
    copier: OnceLock<fn(&In) -> In>,
    priority: AtomicI32,
}

impl<In, T, E> CompletionQueue<In, T, E> {
    pub(crate) fn new(id: StreamId) -> (Arc<Self>, Receiver<Message<In, T, E>>) {
        let (sender, receiver) = channel::unbounded();
        let queue = Self {
            id,
            sender,
            next_index: AtomicUsize::new(0),
            unread: AtomicUsize::new(0),
            delivering: AtomicUsize::new(0),
            is_awaited_inside: AtomicBool::new(false),
            cancelled: AtomicU8::new(0),
            submitting: AtomicUsize::new(0),
            failures: AtomicUsize::new(0),
            child_limit: AtomicUsize::new(usize::MAX),
            completion_spares: Spares::new(SPARES),
            success_spares: Spares::new(SPARES),
            input_spares: Spares::new(SPARES),
            stop_after: AtomicUsize::new(usize::MAX),
            copier: OnceLock::new(),
            priority: AtomicI32::new(0),
        };
        (Arc::new(queue), receiver)
    }

    pub(crate) const fn id(&self) -> StreamId {
        self.id
    }

    pub(crate) fn cancelled(&self) -> Option<CancelReason> {
        CancelReason::from_code(self.cancelled.load(Ordering::SeqCst))
    }

    /// Cancels the stream, unless it is cancelled already; returns whether this was the first
    /// reason.
    pub(crate) fn set_cancelled(&self, reason: CancelReason) -> bool {
        self.cancelled
            .compare_exchange(0, reason.to_code(), Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Whether submissions to this group wait for a permit.
    pub(crate) fn has_submissions(&self) -> bool {
        self.submitting.load(Ordering::SeqCst) > 0
    }

    /// Counts a submission to this group that is about to wait. Once it is registered as a waiter,
    /// it must check whether the group is cancelled.
    pub(crate) fn begin_submit(&self) {
        self.submitting.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn end_submit(&self) {
        self.submitting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Lets running jobs add jobs while fewer than `limit` are unread.
    pub(crate) fn set_child_limit(&self, limit: usize) {
        self.child_limit.store(limit, Ordering::SeqCst);
    }

    /// A running job may add a job while fewer than this are unread.
    pub(crate) fn child_limit(&self) -> usize {
        self.child_limit.load(Ordering::SeqCst)
    }

    pub(crate) fn set_on_error(&self, policy: OnError) {
        let stop_after = match policy {
            OnError::Continue => usize::MAX,
            OnError::Stop => 1,
            OnError::StopAfter(count) => count.max(1),
        };
        self.stop_after.store(stop_after, Ordering::SeqCst);
    }

    /// Counts a failure; returns whether it cancels the rest.
    pub(crate) fn count_failure(&self, error: &JobError<E>) -> bool {
        !error.is_cancelled()
            && self.failures.fetch_add(1, Ordering::SeqCst) + 1
                >= self.stop_after.load(Ordering::SeqCst)
    }

    /// Sets the priority of jobs that are submitted from now on.
    pub(crate) fn set_priority(&self, priority: i32) {
        self.priority.store(priority, Ordering::Relaxed);
    }

    pub(crate) fn priority(&self) -> i32 {
        self.priority.load(Ordering::Relaxed)
    }

    pub(crate) fn set_copier(&self, copier: fn(&In) -> In) {
        let _ = self.copier.set(copier);
    }

    /// The function that copies an input, if the stream keeps inputs.
    pub(crate) fn copier(&self) -> Option<fn(&In) -> In> {
        self.copier.get().copied()
    }

    /// Copies the input, if the stream keeps inputs and the copy does not panic.
    pub(crate) fn copy_input(&self, input: &In) -> Option<In> {
        let copier = self.copier()?;
        panic::catch(|| copier(input)).ok()
    }

    /// Whether the consumer has taken all messages. It may still have completions of the last one to
    /// yield.
    pub(crate) fn is_drained(&self) -> bool {
        self.sender.is_empty()
    }

    /// Whether the consumer has something to read, or a delivery has begun: its wait will end.
    pub(crate) fn will_deliver(&self) -> bool {
        // A delivery that ends after the first look is in the channel. If the consumer takes it from
        // there, it counts as delivering until its wait has ended.
        let is_delivering = || self.delivering.load(Ordering::SeqCst) > 0;
        is_delivering() || !self.is_drained() || is_delivering()
    }

    /// Begins a delivery, before its job is counted as finished; ended by
    /// [`end_delivery`](Self::end_delivery). Counted for each stream, so that deadlock detection
    /// sees that a wait for it ends. `shared::idle::Deliveries` counts for the whole pool.
    pub(crate) fn begin_delivery(&self) {
        self.delivering.fetch_add(1, Ordering::SeqCst);
    }

    /// Records that a job of the pool is about to wait for a completion.
    pub(crate) fn set_awaited_inside(&self) {
        self.is_awaited_inside.store(true, Ordering::SeqCst);
    }

    /// Ends `count` deliveries, whose completions are in the channel. Returns whether waits have to be
    /// checked again: no delivery is left, and the consumer, a job of the pool, has taken all
    /// completions. Until now, [`will_deliver`](Self::will_deliver) was true also of a later wait of
    /// that consumer, which no delivery ends.
    #[must_use = "the waits have to be checked again"]
    pub(crate) fn end_delivery(&self, count: usize) -> bool {
        // In this order: what the consumer takes after the second look, it takes after the end of
        // the delivery.
        self.delivering.fetch_sub(count, Ordering::SeqCst) == count
            && self.is_awaited_inside.load(Ordering::SeqCst)
            && self.is_drained()
    }

    pub(crate) fn deliver(&self, message: Message<In, T, E>) {
        if let Err(refused) = self.sender.send(message) {
            // The reader is dropped. A panic in the drop of a value must not reach the worker.
            refused.discard();
        }
    }

    /// Takes `count` consecutive indices; returns the first.
    pub(crate) fn take_indices(&self, count: usize) -> usize {
        self.next_index.fetch_add(count, Ordering::Relaxed)
    }

    /// Counts `count` jobs as unread.
    pub(crate) fn add_unread(&self, count: usize) {
        self.unread.fetch_add(count, Ordering::SeqCst);
    }

    /// Counts one more job as unread, unless `limit` are, or the map or group is cancelled. Called
    /// before the job is accepted, so that its completion never finds a count of zero.
    pub(crate) fn try_add_unread(&self, limit: usize) -> Result<(), Refusal> {
        if self.cancelled().is_some() {
            return Err(Refusal::Closed);
        }
        let more = |unread| (unread < limit).then_some(unread + 1);
        self.unread
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .map_or(Err(Refusal::Full), |_| Ok(()))
    }

    /// Uncounts a job that was not accepted.
    pub(crate) fn remove_unread(&self) {
        if self.unread.fetch_sub(1, Ordering::SeqCst) == 1 && self.is_drained() {
            // The reader may wait for this job, and no completion will wake it: it checks again.
            self.deliver(Message::Many(Vec::new()));
        }
    }

    /// How many jobs are queued, running, or finished and unread.
    pub(crate) fn unread(&self) -> usize {
        self.unread.load(Ordering::SeqCst)
    }

    /// Uncounts jobs that were read.
    pub(crate) fn mark_read(&self, count: usize) {
        self.unread.fetch_sub(count, Ordering::SeqCst);
    }
}
