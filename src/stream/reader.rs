//! The reader's side of a completion queue, which maps and groups share.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::summary::{End, Summary};
use crate::channel::Receiver;
use crate::error::CancelReason;
use crate::job::completion::{Completion, Delivery, Success};
use crate::job::completion_queue::CompletionQueue;
use crate::shared::{Shared, Wait, WaitGuard};

/// Reads the completions of a map or group. Dropping it cancels what is left.
pub(crate) struct CompletionReader<In, T, E> {
    pub(crate) shared: Arc<Shared<In, T, E>>,
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
        let (stream, results) = CompletionQueue::new(shared.next_stream());
        Self {
            shared: Arc::clone(shared),
            stream,
            results,
            batch: VecDeque::new(),
            successes: Vec::new(),
            mark: None,
            read: 0,
            counts: Summary::default(),
        }
    }

    /// Cancels what is left.
    pub(crate) fn cancel(&self, reason: CancelReason) {
        self.shared.cancel_stream(&self.stream, reason);
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
                    self.stream.completion_spares.keep(Vec::from(read));
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
                    if self.shared.register_wait(&mut self.mark, cx, || {
                        Wait::Stream(Arc::clone(&self.stream))
                    }) {
                        return Poll::Pending;
                    }
                    self.cancel(CancelReason::WouldDeadlock);
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
        if self.shared.adds_jobs {
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
            self.stream.release_read(std::mem::take(&mut self.read));
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
        self.cancel(CancelReason::Stream);
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
                    .shared
                    .submit_to(&reader.stream, n, None, usize::MAX)
                    .unwrap_err()
                    .is_full()
            );
        }
        let left = std::iter::from_fn(|| reader.results.try_recv()).count();
        assert!(left <= 1, "{left} messages are left");
    }
}
