//! The second channel: completions of one map or group, from the workers to the reader, in the order
//! in which jobs end, with a count of what is still to come.
//!
//! The channel itself has no bound. The window bounds it: no job is accepted while `window` of them
//! are queued, running or unread. Jobs added by running jobs come on top, and are bounded by the
//! pool's child capacity while they are queued.

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use super::completion::{Completion, Delivery, OnError, Success};
use crate::channel::{self, Receiver, Sender};
use crate::error::{CancelReason, JobError};
use crate::panic;
use crate::spares::Spares;
use crate::sync::atomic::{AtomicI32, AtomicU8, AtomicUsize, Ordering};

/// As many deliveries as a window of the default size fills.
const SPARES: usize = 17;

/// The channel of completions of one map or group, with the counts of what is in it and still to come.
///
/// It knows nothing of the pool: what a cancellation or a delivery means there, `Shared` sees to.
pub(crate) struct CompletionQueue<In, T, E> {
    identity: NonZeroUsize,
    results: Sender<Delivery<In, T, E>>,
    next_index: AtomicUsize,
    /// Accepted and not yet read.
    unread: AtomicUsize,
    /// How many are in the books, or about to be, and not in the channel yet.
    delivering: AtomicUsize,
    /// 0, or the code of the reason.
    cancelled: AtomicU8,
    /// How many submissions to this group wait for room.
    submitting: AtomicUsize,
    failures: AtomicUsize,
    /// How many may be unread for a running job to add another.
    child_limit: AtomicUsize,
    /// The room of deliveries that were read, for others.
    pub(crate) spares: Spares<Completion<In, T, E>>,
    pub(crate) success_spares: Spares<Success<T>>,
    /// The room of lots that were taken, for others.
    pub(crate) input_spares: Spares<In>,
    /// At how many failures the rest is cancelled.
    stop_after: AtomicUsize,
    /// Copies an input for its completion.
    keep: OnceLock<fn(&In) -> In>,
    priority: AtomicI32,
}

impl<In, T, E> CompletionQueue<In, T, E> {
    pub(crate) fn new(identity: NonZeroUsize) -> (Arc<Self>, Receiver<Delivery<In, T, E>>) {
        let (sender, receiver) = channel::unbounded();
        let queue = Self {
            identity,
            results: sender,
            next_index: AtomicUsize::new(0),
            unread: AtomicUsize::new(0),
            delivering: AtomicUsize::new(0),
            cancelled: AtomicU8::new(0),
            submitting: AtomicUsize::new(0),
            failures: AtomicUsize::new(0),
            child_limit: AtomicUsize::new(usize::MAX),
            spares: Spares::new(SPARES),
            success_spares: Spares::new(SPARES),
            input_spares: Spares::new(SPARES),
            stop_after: AtomicUsize::new(usize::MAX),
            keep: OnceLock::new(),
            priority: AtomicI32::new(0),
        };
        (Arc::new(queue), receiver)
    }

    /// The identity by which its jobs are found, and its waits; no other map or group of the pool
    /// has the same.
    pub(crate) const fn identity(&self) -> NonZeroUsize {
        self.identity
    }

    pub(crate) fn cancelled(&self) -> Option<CancelReason> {
        CancelReason::from_code(self.cancelled.load(Ordering::SeqCst))
    }

    /// Sets why it is cancelled; the first reason counts. Says whether this was the first.
    pub(crate) fn set_cancelled(&self, reason: CancelReason) -> bool {
        self.cancelled
            .compare_exchange(0, reason.to_code(), Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Whether submissions wait for room.
    pub(crate) fn has_submissions(&self) -> bool {
        self.submitting.load(Ordering::SeqCst) > 0
    }

    /// A submission to this group is about to wait for room. It looks whether the group is
    /// cancelled once it stands in line.
    pub(crate) fn begin_submit(&self) {
        self.submitting.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn end_submit(&self) {
        self.submitting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Sets how many may be unread for a running job to add another.
    pub(crate) fn set_child_limit(&self, limit: usize) {
        self.child_limit.store(limit, Ordering::SeqCst);
    }

    /// How many may be unread for a running job to add another.
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

    /// Counts a failure; says whether it is one at which the rest is cancelled.
    pub(crate) fn count_failure(&self, error: &JobError<E>) -> bool {
        !error.is_cancelled()
            && self.failures.fetch_add(1, Ordering::SeqCst) + 1
                >= self.stop_after.load(Ordering::SeqCst)
    }

    /// Sets the priority of jobs to come.
    pub(crate) fn set_priority(&self, priority: i32) {
        self.priority.store(priority, Ordering::Relaxed);
    }

    pub(crate) fn priority(&self) -> i32 {
        self.priority.load(Ordering::Relaxed)
    }

    pub(crate) fn set_keep(&self, keep: fn(&In) -> In) {
        let _ = self.keep.set(keep);
    }

    /// How to copy an input, where that was asked for.
    pub(crate) fn copier(&self) -> Option<fn(&In) -> In> {
        self.keep.get().copied()
    }

    /// Copies the input, where that was asked for.
    pub(crate) fn keep(&self, input: &In) -> Option<In> {
        let keep = self.copier()?;
        panic::catch(|| keep(input)).ok()
    }

    /// Whether the consumer has nothing to read.
    pub(crate) fn is_starved(&self) -> bool {
        self.results.is_empty()
    }

    /// Whether the consumer has something to read, or will have, whatever becomes of others.
    pub(crate) fn is_fed(&self) -> bool {
        // In this order: what was delivered in between is in the channel.
        self.delivering.load(Ordering::SeqCst) > 0 || !self.is_starved()
    }

    /// Counts a completion that is about to be booked, until it is [delivered](Self::end_delivery).
    pub(crate) fn begin_delivery(&self) {
        self.delivering.fetch_add(1, Ordering::SeqCst);
    }

    /// So many completions have been delivered.
    pub(crate) fn end_delivery(&self, count: usize) {
        self.delivering.fetch_sub(count, Ordering::SeqCst);
    }

    pub(crate) fn deliver(&self, delivery: Delivery<In, T, E>) {
        if let Err(refused) = self.results.send(delivery) {
            // The consumer is gone; what the values do in their drops is no business of the
            // worker's.
            refused.discard();
        }
    }

    /// Numbers for jobs that are about to be accepted, from the one returned.
    pub(crate) fn take_indices(&self, count: usize) -> usize {
        self.next_index.fetch_add(count, Ordering::Relaxed)
    }

    /// Counts completions to come.
    pub(crate) fn reserve(&self, count: usize) {
        self.unread.fetch_add(count, Ordering::SeqCst);
    }

    /// Expects one more completion, unless `window` of them are expected already.
    pub(crate) fn try_reserve(&self, window: usize) -> bool {
        let more = |unread| (unread < window).then_some(unread + 1);
        self.unread
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .is_ok()
    }

    /// Takes back one expectation, of a job that was not accepted after all.
    pub(crate) fn unreserve(&self) {
        if self.unread.fetch_sub(1, Ordering::SeqCst) == 1 && self.is_starved() {
            // The consumer may have gone to sleep over it, and nothing else will wake it: it looks
            // again.
            self.deliver(Delivery::Many(Vec::new()));
        }
    }

    /// How many jobs are queued, running, or finished and unread.
    pub(crate) fn unread(&self) -> usize {
        self.unread.load(Ordering::SeqCst)
    }

    /// Takes what was read off the count.
    pub(crate) fn settle_read(&self, count: usize) {
        self.unread.fetch_sub(count, Ordering::SeqCst);
    }
}
