//! The receiving side of a completion queue, shared by maps and groups.
//!
//! In: deliveries of the workers. Out: completions one by one, and their counts. It never submits a
//! job.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::summary::{End, Summary};
use crate::channel::Receiver;
use crate::error::CancelReason;
use crate::job::completion::{Completion, Message, Success};
use crate::job::completion_queue::CompletionQueue;
use crate::shared::{Awaited, Shared, WaitGuard};

/// Reads the completions of a map or group. Dropping it cancels the jobs that have not ended.
pub(crate) struct CompletionReader<In, T, E> {
    pub(crate) shared: Arc<Shared<In, T, E>>,
    pub(crate) stream: Arc<CompletionQueue<In, T, E>>,
    receiver: Receiver<Message<In, T, E>>,
    /// The rest of the last message, in one of two forms: this list, or `successes`.
    completions: VecDeque<Completion<In, T, E>>,
    /// In reverse order: the first is popped.
    successes: Vec<Success<T>>,
    wait: Option<WaitGuard<In, T, E>>,
    /// Whether only queued jobs are cancelled, and running ones may still wait for the pool.
    lets_running_end: bool,
    /// How many jobs were read and not yet subtracted from the unread of the completion queue.
    read: usize,
    /// The counts of the completions that were read.
    counts: Summary,
}

impl<In, T, E> CompletionReader<In, T, E> {
    pub(crate) fn new(shared: &Arc<Shared<In, T, E>>) -> Self {
        let (stream, receiver) = CompletionQueue::new(shared.next_stream());
        Self {
            shared: Arc::clone(shared),
            stream,
            receiver,
            completions: VecDeque::new(),
            successes: Vec::new(),
            wait: None,
            lets_running_end: false,
            read: 0,
            counts: Summary::default(),
        }
    }

    /// Cancels the jobs that have not ended.
    pub(crate) fn cancel(&self, reason: CancelReason) {
        self.shared.cancel_stream(&self.stream, reason);
    }

    /// Cancels the jobs that have not started.
    pub(crate) fn cancel_queued(&mut self) {
        self.lets_running_end |= self.stream.cancelled().is_none();
        self.shared.cancel_queued(&self.stream);
    }

    /// Polls for the next completion. Also `Pending` if no job is unread: check
    /// [`unread`](Self::unread).
    ///
    /// Inside a job of this pool whose wait could never end, it cancels the jobs that have not
    /// ended; their completions are then delivered.
    ///
    /// The caller [counts](Self::count) a completion when it yields it.
    pub(crate) fn poll_delivered(&mut self, cx: &mut Context<'_>) -> Poll<Completion<In, T, E>> {
        loop {
            if let Some(success) = self.successes.pop() {
                return Poll::Ready(success.into_completion());
            }
            if let Some(completion) = self.completions.pop_front() {
                return Poll::Ready(completion);
            }
            match self.poll_receiver(cx) {
                Poll::Ready(Some(Message::One(completion))) => return Poll::Ready(completion),
                Poll::Ready(Some(Message::Many(batch))) => {
                    let read = std::mem::replace(&mut self.completions, VecDeque::from(batch));
                    self.stream.completion_spares.keep(Vec::from(read));
                }
                Poll::Ready(Some(Message::Successes(mut batch))) => {
                    batch.reverse();
                    self.stream
                        .success_spares
                        .keep(std::mem::replace(&mut self.successes, batch));
                }
                // The sender is in `self.stream`, so the channel is never closed.
                Poll::Ready(None) => return Poll::Pending,
                Poll::Pending => {
                    self.mark_read();
                    if self.unread() == 0 || self.is_cancelled() {
                        self.wait = None;
                        return Poll::Pending;
                    }
                    if self.shared.register_wait(&mut self.wait, cx, || {
                        self.stream.set_awaited_inside();
                        Awaited::Stream(Arc::clone(&self.stream))
                    }) {
                        return Poll::Pending;
                    }
                    self.lets_running_end = false;
                    self.cancel(CancelReason::WouldDeadlock);
                }
            }
        }
    }

    /// Takes the next message from the channel, which ends the wait for it.
    fn poll_receiver(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message<In, T, E>>> {
        if self.wait.is_none() {
            return self.receiver.poll_next(cx);
        }
        // Another job may look for a deadlock after the message is taken and before the wait has
        // ended. This makes it see that the wait is over.
        self.stream.begin_delivery();
        let polled = self.receiver.poll_next(cx);
        if polled.is_ready() {
            self.wait = None;
        }
        // A consumer that goes on waiting looks for a deadlock itself, by `register_wait`.
        let _ = self.stream.end_delivery(1);
        polled
    }

    /// Whether running jobs are cancelled too, so that none of them waits for long.
    fn is_cancelled(&self) -> bool {
        self.stream.cancelled().is_some() && !self.lets_running_end
    }

    /// Takes the next success of the last message, and counts it.
    #[inline(always)]
    pub(crate) fn next_success(&mut self) -> Option<Success<T>> {
        let success = self.successes.pop()?;
        self.record_read();
        self.counts.count_success();
        Some(success)
    }

    /// Counts a completion that is yielded to the user.
    pub(crate) fn count(&mut self, completion: &Completion<In, T, E>) {
        self.record_read();
        self.counts.count(&completion.result);
    }

    #[inline(always)]
    fn record_read(&mut self) {
        self.read += 1;
        if self.shared.adds_jobs {
            // A job that adds another compares the unread with a limit.
            self.mark_read();
        }
    }

    /// How many jobs are queued, running, or finished and unread.
    pub(crate) fn unread(&self) -> usize {
        self.stream.unread() - self.read
    }

    /// How many more jobs of a map may be unread.
    pub(crate) fn window_left(&self, window: usize) -> usize {
        window.saturating_sub(self.unread())
    }

    /// The limit of the completion queue's unread while `window` jobs may be unread: its counter
    /// still includes `read`.
    pub(crate) const fn limit(&self, window: usize) -> usize {
        window.saturating_add(self.read)
    }

    /// Subtracts `read` from the unread of the completion queue, which may lag behind while there is
    /// something to read: unless jobs add jobs, other threads only compare it with zero.
    fn mark_read(&mut self) {
        // Subtracting 0 would be correct, but is an atomic operation.
        if self.read > 0 {
            self.stream.mark_read(std::mem::take(&mut self.read));
        }
    }

    /// The counts so far, and the end: by the cancellation or the outcomes of the jobs, else
    /// `otherwise`.
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
        // Otherwise the wait would look as if it had no end, once the channel is empty.
        self.wait = None;
        self.cancel(CancelReason::Stream);
        // From here on, deliveries fail and the workers drop their completions.
        self.receiver.close();
        self.completions.drain(..).for_each(Completion::discard);
        Message::<In, T, E>::Successes(std::mem::take(&mut self.successes)).discard();
        while let Some(message) = self.receiver.try_recv() {
            message.discard();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::Pin;
    use std::rc::Rc;

    use futures_lite::future::{block_on, poll_once, yield_now};

    use super::*;
    use crate::{ManualTimer, Pool};

    type Polled = Rc<RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>>>;

    /// Polls a worker, if it has one, when it is dropped.
    struct PollsWorker(Polled);

    impl Drop for PollsWorker {
        fn drop(&mut self) {
            if let Some(mut worker) = self.0.take() {
                assert_eq!(block_on(poll_once(&mut worker)), None);
                self.0.replace(Some(worker));
            }
        }
    }

    /// Its completions are dropped, and nothing is left to read, while the job goes on.
    #[test]
    fn a_job_that_drops_its_map_does_not_wait_for_it_any_more() {
        type Jobs = Pool<u32, PollsWorker, ()>;
        let (pool_slot, worker_slot) = (Rc::new(RefCell::new(None::<Jobs>)), Polled::default());
        let (in_handler, to_drop) = (Rc::clone(&pool_slot), Rc::clone(&worker_slot));
        let builder = Pool::builder().workers(2).timer(ManualTimer::new());
        let (pool, workers) = builder.build(move |n: u32| {
            let pool = in_handler.borrow().clone().unwrap();
            let value = PollsWorker(if n == 1 {
                Rc::clone(&to_drop)
            } else {
                Polled::default()
            });
            async move {
                match n {
                    0 => {
                        let mut map = pool.map([1]);
                        assert!(poll_once(map.next()).await.is_none());
                        yield_now().await;
                        drop(map);
                    }
                    2 => assert!(pool.try_submit(3).unwrap().await.is_ok()),
                    _ => {}
                }
                Ok(value)
            }
        });
        *pool_slot.borrow_mut() = Some(pool.clone());
        let mut workers = workers.into_iter().map(|worker| Box::pin(worker.run()));
        let (mut first, mut second) = (workers.next().unwrap(), workers.next().unwrap());
        let dropper = pool.try_submit(0).unwrap();
        assert_eq!(block_on(poll_once(&mut first)), None);
        assert_eq!(block_on(poll_once(&mut second)), None);
        worker_slot.replace(Some(second));
        let waiter = pool.try_submit(2).unwrap();
        for _ in 0..3 {
            assert_eq!(block_on(poll_once(&mut first)), None);
            drop(PollsWorker(Rc::clone(&worker_slot)));
        }
        assert!(block_on(poll_once(dropper)).unwrap().is_ok());
        assert!(block_on(poll_once(waiter)).unwrap().is_ok());
        // Each of them holds the pool.
        drop(worker_slot.take());
        drop(pool_slot.take());
    }

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
        let left = std::iter::from_fn(|| reader.receiver.try_recv()).count();
        assert!(left <= 1, "{left} messages are left");
    }
}
