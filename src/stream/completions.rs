//! The second channel: completions of one map or group, from the workers to the one who reads them.
//! In come completions in the order in which jobs end; out they go in the same order, with a count
//! of what is still to come.
//!
//! [`Stream`] is the workers' side, [`CompletionReader`] the consumer's. The channel itself has no bound;
//! what bounds it is the window: the reader's side accepts no job while `window` of them are
//! queued, running or unread. Jobs added by running jobs come on top, and are bounded by the pool's
//! child capacity while they are queued.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use super::summary::{End, Summary};
use super::{Completion, OnError};
use crate::channel::{self, Receiver, Sender};
use crate::error::{CancelReason, JobError, SubmitError};
use crate::event::JobId;
use crate::job::current::CurrentJob;
use crate::panic;
use crate::policy::limits::Limits;
use crate::queue::admission::{Origin, Refusal};
use crate::reply::{QueuedJob, StreamJob};
use crate::shared::{DeliveryKind, Shared, Wait, WaitGuard, reason_from_code, reason_to_code};
use crate::spares::Spares;
use crate::sync::atomic::{AtomicI32, AtomicU8, AtomicUsize, Ordering};

/// What travels through the channel: completions that leave a worker together.
#[derive(Debug)]
pub(crate) enum Delivery<In, T, E> {
    One(Completion<In, T, E>),
    Many(Vec<Completion<In, T, E>>),
    Successes(Vec<Success<T>>),
}

/// All that there is to tell of most jobs: the first attempt has succeeded.
#[derive(Debug)]
pub(crate) struct Success<T> {
    pub(crate) id: JobId,
    pub(crate) index: usize,
    pub(crate) value: T,
}

impl<T> Success<T> {
    pub(crate) fn into_completion<In, E>(self) -> Completion<In, T, E> {
        let Self { id, index, value } = self;
        Completion {
            id,
            index,
            attempts: 1,
            input: None,
            result: Ok(value),
            timings: None,
        }
    }
}

impl<In, T, E> Delivery<In, T, E> {
    /// Drops what nobody will read, whatever that does.
    fn discard(self) {
        match self {
            Self::One(completion) => completion.discard(),
            Self::Many(batch) => batch.into_iter().for_each(Completion::discard),
            Self::Successes(batch) => {
                for success in batch {
                    panic::discard(success.value);
                }
            }
        }
    }
}

/// As many deliveries as a window of the default size fills.
const SPARES: usize = 17;

/// The workers' side.
pub(crate) struct CompletionQueue<In, T, E> {
    pub(crate) shared: Arc<Shared<In, T, E>>,
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
    /// The identity by which its jobs are found, and its waits; no other map or group of the pool
    /// has the same.
    pub(crate) const fn identity(&self) -> NonZeroUsize {
        self.identity
    }

    pub(crate) fn cancelled(&self) -> Option<CancelReason> {
        reason_from_code(self.cancelled.load(Ordering::SeqCst))
    }

    /// Cancels what is queued and running; the first reason counts.
    pub(crate) fn cancel(&self, reason: CancelReason) {
        let first = self.cancelled.compare_exchange(
            0,
            reason_to_code(reason),
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        // To look once more, or where nothing is left, would only cost time.
        if first.is_ok() && self.unread.load(Ordering::SeqCst) > 0 {
            self.shared.interrupt_stream(self.identity().get(), reason);
            self.shared.sweep();
        }
        if self.submitting.load(Ordering::SeqCst) > 0 {
            self.shared.wake_submits_to(self.identity().get());
        }
    }

    /// A submission to this group is about to wait for room. It looks whether the group is
    /// cancelled once it stands in line.
    pub(crate) fn begin_submit(&self) {
        self.submitting.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn end_submit(&self) {
        self.submitting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Says how large the window is; what running jobs add comes on top, as many as may be queued.
    pub(crate) fn set_window(&self, window: usize) {
        let children = self.shared.lock().admission.child_capacity();
        self.child_limit
            .store(window.saturating_add(children), Ordering::SeqCst);
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

    pub(crate) fn count_failure(&self, error: &JobError<E>) {
        if !error.is_cancelled()
            && self.failures.fetch_add(1, Ordering::SeqCst) + 1
                >= self.stop_after.load(Ordering::SeqCst)
        {
            self.cancel(CancelReason::Stopped);
        }
    }

    /// Sets the priority of jobs to come.
    pub(crate) fn set_priority(&self, priority: i32) {
        if priority != 0 {
            self.shared.switch_on_schedule();
        }
        self.priority.store(priority, Ordering::Relaxed);
    }

    pub(crate) fn priority(&self) -> i32 {
        self.priority.load(Ordering::Relaxed)
    }

    pub(crate) fn set_keep(&self, keep: fn(&In) -> In) {
        let _ = self.keep.set(keep);
    }

    /// How to copy an input, where that was asked for.
    pub(crate) fn timer_role(&self) -> Option<fn(&In) -> In> {
        self.keep.get().copied()
    }

    /// Copies the input, where that was asked for.
    pub(crate) fn keep(&self, input: &In) -> Option<In> {
        let keep = self.timer_role()?;
        panic::catch(|| keep(input)).ok()
    }

    /// Whether the consumer has nothing to read.
    pub(crate) fn is_starved(&self) -> bool {
        self.results.is_empty()
    }

    /// Whether the consumer has something to read, or will have, whatever becomes of others.
    pub(crate) fn is_fed(&self) -> bool {
        // In this order: what has end_delivery in between is in the channel.
        self.delivering.load(Ordering::SeqCst) > 0 || !self.is_starved()
    }

    /// A completion is about to be booked. Whoever says so delivers it and says that it [has
    /// `end_delivery`](Self::end_delivery).
    pub(crate) fn begin_delivery(&self, kind: DeliveryKind) {
        self.delivering.fetch_add(1, Ordering::SeqCst);
        self.shared.deliveries.begin(kind);
    }

    /// So many that were announced have been delivered.
    pub(crate) fn end_delivery(&self, kind: DeliveryKind, count: usize) {
        // None of them would change nothing, but cost time.
        if count > 0 {
            self.delivering.fetch_sub(count, Ordering::SeqCst);
            self.shared.end_deliveries(kind, count);
        }
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

    pub(crate) fn expect(&self, count: usize) {
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

    /// Looks whether a cancellation, and its sweep, came while a job was on its way into the queue.
    pub(crate) fn sweep_if_cancelled(&self) {
        if self.cancelled().is_some() {
            self.shared.sweep();
        }
    }

    fn unread(&self) -> usize {
        self.unread.load(Ordering::SeqCst)
    }

    /// Accepts one job into this stream while fewer than `window` are unread, or gives its input
    /// back.
    pub(crate) fn submit(
        self: &Arc<Self>,
        input: In,
        parent: Option<CurrentJob>,
        window: usize,
    ) -> Result<(), SubmitError<In>> {
        if self.cancelled().is_some() {
            return Err(SubmitError::Closed(input));
        }
        // Before the job is accepted, so that its completion never finds a count of zero.
        if !self.try_reserve(window) {
            return Err(SubmitError::Full(input));
        }
        let origin = parent.map_or(Origin::Outside, |_| Origin::Child);
        self.launch_expected(input, origin, self.shared.accept_from(parent))
    }

    /// Puts a job that is expected on its way, if it was accepted; else takes the expectation back.
    pub(crate) fn launch_expected(
        self: &Arc<Self>,
        input: In,
        origin: Origin,
        accepted: Result<(JobId, Limits), Refusal>,
    ) -> Result<(), SubmitError<In>> {
        let (id, limits) = match accepted {
            Ok(accepted) => accepted,
            Err(refusal) => {
                self.unreserve();
                return Err(SubmitError::refused(refusal, input));
            }
        };
        let (stream, index) = (Arc::clone(self), self.take_indices(1));
        let accepted_at = self.shared.clock_in(limits);
        let record_id = None;
        self.shared.launch(QueuedJob::Stream(StreamJob {
            input,
            stream,
            id,
            index,
            origin,
            record_id,
            accepted_at,
        }));
        self.sweep_if_cancelled();
        Ok(())
    }
}

/// The consumer's side. Dropping it cancels what is left.
pub(crate) struct CompletionReader<In, T, E> {
    pub(crate) stream: Arc<CompletionQueue<In, T, E>>,
    results: Receiver<Delivery<In, T, E>>,
    /// What came together and is handed out one by one: what one delivery holds, in one of two
    /// forms.
    batch: VecDeque<Completion<In, T, E>>,
    /// The first comes last, where it is taken out most easily.
    successes: Vec<Success<T>>,
    mark: Option<WaitGuard<In, T, E>>,
    /// Read, and not yet taken off the count of the unread.
    read: usize,
    /// Of what was read.
    counts: Summary,
}

impl<In, T, E> CompletionReader<In, T, E> {
    pub(crate) fn new(shared: &Arc<Shared<In, T, E>>) -> Self {
        let (sender, receiver) = channel::unbounded();
        let stream = CompletionQueue {
            shared: Arc::clone(shared),
            identity: shared.next_stream(),
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
        Self {
            stream: Arc::new(stream),
            results: receiver,
            batch: VecDeque::new(),
            successes: Vec::new(),
            mark: None,
            read: 0,
            counts: Summary::default(),
        }
    }

    /// The next completion that a worker has delivered. `Pending` also when none is on its way:
    /// compare [`Stream::unread`].
    ///
    /// Inside a job of this pool whose wait could never end, it cancels what is left; that is then
    /// delivered.
    pub(crate) fn poll_delivered(&mut self, cx: &mut Context<'_>) -> Poll<Completion<In, T, E>> {
        loop {
            if let Some(success) = self.successes.pop() {
                return Poll::Ready(success.into_completion());
            }
            if let Some(completion) = self.batch.pop_front() {
                return Poll::Ready(completion);
            }
            self.settle_read();
            match self.results.poll_next(cx) {
                Poll::Ready(Some(Delivery::One(completion))) => {
                    self.mark = None;
                    return Poll::Ready(completion);
                }
                Poll::Ready(Some(Delivery::Many(batch))) => {
                    self.mark = None;
                    let read = std::mem::replace(&mut self.batch, VecDeque::from(batch));
                    self.stream.spares.keep(Vec::from(read));
                }
                Poll::Ready(Some(Delivery::Successes(mut batch))) => {
                    self.mark = None;
                    batch.reverse();
                    self.stream
                        .success_spares
                        .keep(std::mem::replace(&mut self.successes, batch));
                }
                // The sender is in `self.stream`, so the channel is never closed.
                Poll::Ready(None) => return Poll::Pending,
                Poll::Pending if self.unread() == 0 || self.stream.cancelled().is_some() => {
                    return Poll::Pending;
                }
                Poll::Pending => {
                    if self.stream.shared.register_wait(&mut self.mark, cx, || {
                        Wait::Stream(Arc::clone(&self.stream))
                    }) {
                        return Poll::Pending;
                    }
                    self.stream.cancel(CancelReason::WouldDeadlock);
                }
            }
        }
    }

    /// A success at hand, which is counted.
    #[inline(always)]
    pub(crate) fn next_success(&mut self) -> Option<Success<T>> {
        let success = self.successes.pop()?;
        self.note_read();
        self.counts.count_success();
        Some(success)
    }

    /// A completion goes to the user: counts it.
    pub(crate) fn count(&mut self, completion: &Completion<In, T, E>) {
        self.note_read();
        self.counts.count(&completion.result);
    }

    #[inline(always)]
    fn note_read(&mut self) {
        self.read += 1;
        if self.stream.shared.adds_jobs {
            // A job that adds another looks how many are unread.
            self.settle_read();
        }
    }

    /// How many jobs are queued, running, or finished and unread.
    pub(crate) fn unread(&self) -> usize {
        self.stream.unread() - self.read
    }

    /// What the common count may rise to while `window` jobs may be unread: it still contains some
    /// that were read.
    pub(crate) const fn limit(&self, window: usize) -> usize {
        window.saturating_add(self.read)
    }

    /// Takes what was read off the common count; unless jobs add jobs, others only look whether
    /// that is zero.
    fn settle_read(&mut self) {
        // None of them would change nothing, but cost time.
        if self.read > 0 {
            self.stream
                .unread
                .fetch_sub(std::mem::take(&mut self.read), Ordering::SeqCst);
        }
    }

    /// What was read so far, and how it ended, if it did: as the jobs tell, or `otherwise`.
    pub(crate) fn summary(&self, is_over: bool, otherwise: End) -> Summary {
        let unread = self.unread();
        let mut summary = self.counts.clone();
        summary.unread = unread;
        summary.accepted += unread;
        summary.end = match self.stream.cancelled() {
            Some(CancelReason::Stopped) => End::Stopped,
            Some(CancelReason::WouldDeadlock) => End::WouldDeadlock,
            Some(CancelReason::Deadline) => End::TimedOut,
            Some(_) => End::Cancelled,
            None if !is_over => End::Unfinished,
            None => summary.end_of_jobs().unwrap_or(otherwise),
        };
        summary
    }
}

impl<In, T, E> Drop for CompletionReader<In, T, E> {
    fn drop(&mut self) {
        self.stream.cancel(CancelReason::Stream);
        // From here on the workers keep what they have, and discard it.
        self.results.close();
        self.batch.drain(..).for_each(Completion::discard);
        Delivery::<In, T, E>::Successes(std::mem::take(&mut self.successes)).discard();
        while let Some(delivery) = self.results.try_recv() {
            delivery.discard();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ManualTimer, Pool};

    #[test]
    fn submissions_that_are_refused_leave_one_message_at_most() {
        let builder = Pool::builder()
            .workers(1)
            .queue_capacity(1)
            .timer(ManualTimer::new());
        let (pool, _workers) = builder.build(|n: u32| async move { Ok::<_, ()>(n) });
        let _full = pool.try_submit(0).unwrap();
        let reader = CompletionReader::new(pool.shared());
        for n in 0..1000 {
            assert!(
                reader
                    .stream
                    .submit(n, None, usize::MAX)
                    .unwrap_err()
                    .is_full()
            );
        }
        let left = std::iter::from_fn(|| reader.results.try_recv()).count();
        assert!(left <= 1, "{left} messages are left");
    }
}
