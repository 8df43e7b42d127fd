//! The channels between the pool and its tasks: async-channel, except that no task is woken while
//! the channel holds its lock.
//!
//! async-channel wakes under a lock of its own. A waker that used the same channel there, because
//! it submits or cancels, would deadlock; one that panicked would leave the channel's list of
//! listeners broken. So
//!
//! 1. a receiver registers a *note* with the channel in place of its task's waker;
//! 2. the channel wakes the note under its lock, which adds the task's waker to a list;
//! 3. each call that may wake a receiver wakes the tasks in the list after the channel has
//!    returned.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_core::Stream as _;
use pin_project_lite::pin_project;

use crate::panic;
use crate::sync::in_wakers::atomic::{AtomicBool, Ordering};
use crate::sync::in_wakers::{Mutex, MutexGuard};
use crate::sync::{channel, ignore_poison};

/// Creates a channel without a bound of its own; the caller says what bounds it.
pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = channel::unbounded();
    let noted = Arc::new(Noted::default());
    let sender = Sender {
        channel: sender,
        noted: Arc::clone(&noted),
    };
    (
        sender,
        Receiver {
            channel: Box::pin(receiver),
            noted,
            waker: None,
        },
    )
}

/// Wakers of the receivers that the channel has woken.
#[derive(Debug, Default)]
struct Noted {
    /// Bounded: at most one for each receiver that waits.
    wakers: Mutex<Vec<Waker>>,
    /// Whether there are any. Written under the lock, and read without it: a call that has added a
    /// waker reads `true`, unless another call has taken the waker since.
    is_any: AtomicBool,
}

impl Noted {
    #[inline]
    fn lock(&self) -> MutexGuard<'_, Vec<Waker>> {
        ignore_poison(self.wakers.lock())
    }

    #[inline]
    fn add(&self, task: Waker) {
        let mut wakers = self.lock();
        wakers.push(task);
        self.is_any.store(true, Ordering::Relaxed);
    }

    /// Wakes the noted receivers, with no lock held.
    ///
    /// Terminates: a receiver is noted once for each time that it waits, and does not wait again
    /// before it is polled.
    #[inline]
    fn wake(&self) {
        while self.is_any.load(Ordering::Relaxed) {
            panic::wake(self.take());
        }
    }

    fn take(&self) -> Option<Waker> {
        let mut wakers = self.lock();
        let waker = wakers.pop();
        self.is_any.store(!wakers.is_empty(), Ordering::Relaxed);
        waker
    }
}

/// The waker that the channel has in place of the task's.
struct Note {
    task: Waker,
    noted: Arc<Noted>,
}

impl Wake for Note {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    #[inline]
    fn wake_by_ref(self: &Arc<Self>) {
        self.noted.add(self.task.clone());
    }
}

/// The waker of a task, and the note for it.
#[derive(Debug)]
struct NotedWaker {
    task: Waker,
    note: Waker,
}

/// Polls a channel with the note for the task of `cx`.
fn poll_with_note<R>(
    known: &mut Option<NotedWaker>,
    noted: &Arc<Noted>,
    cx: &Context<'_>,
    poll: impl FnOnce(&mut Context<'_>) -> R,
) -> R {
    // The replaced note is dropped after the poll. Otherwise the channel might drop the last
    // reference to it under its lock.
    let replaced = known.take_if(|known| !known.task.will_wake(cx.waker()));
    let new = || {
        let note = Arc::new(Note {
            task: cx.waker().clone(),
            noted: Arc::clone(noted),
        });
        NotedWaker {
            task: cx.waker().clone(),
            note: Waker::from(note),
        }
    };
    let polled = poll(&mut Context::from_waker(
        &known.get_or_insert_with(new).note,
    ));
    drop(replaced);
    polled
}

#[derive(Debug)]
pub(crate) struct Sender<T> {
    channel: channel::Sender<T>,
    noted: Arc<Noted>,
}

impl<T> Sender<T> {
    /// Sends a value and wakes a receiver. A closed channel returns the value.
    pub(crate) fn send(&self, value: T) -> Result<(), T> {
        let sent = self
            .channel
            .try_send(value)
            .map_err(channel::TrySendError::into_inner);
        self.noted.wake();
        sent
    }

    /// Closes the channel and wakes all receivers, which still receive what is in it.
    pub(crate) fn close(&self) {
        self.channel.close();
        self.noted.wake();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.channel.is_empty()
    }
}

/// The channel is closed and empty.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed;

#[derive(Debug)]
pub(crate) struct Receiver<T> {
    channel: Pin<Box<channel::Receiver<T>>>,
    noted: Arc<Noted>,
    /// Of the task that called [`poll_next`](Self::poll_next) last.
    waker: Option<NotedWaker>,
}

impl<T> Receiver<T> {
    /// Receives the next value; `None` once the channel is closed and empty. For one task at a
    /// time.
    pub(crate) fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<T>> {
        let Self {
            channel,
            noted,
            waker,
        } = self;
        poll_with_note(waker, noted, cx, |cx| channel.as_mut().poll_next(cx))
    }

    pub(crate) fn try_recv(&self) -> Option<T> {
        self.channel.try_recv().ok()
    }

    /// Closes the channel, which accepts no more values.
    pub(crate) fn close(&self) {
        self.channel.close();
        self.noted.wake();
    }

    /// Waits for a value. After it is ready, the future can be polled again, and waits for the next
    /// one.
    ///
    /// # Cancel safety
    ///
    /// Dropping or stopping the future loses no value: the next receiver is woken for it.
    pub(crate) const fn recv(&self) -> Recv<'_, T> {
        Recv {
            channel: None,
            receiver: self,
            waker: None,
        }
    }
}

pin_project! {
    /// The next value for one of several receivers; made by [`Receiver::recv`]. If it is polled
    /// again after it was ready, it reuses the note of its task, which saves an allocation.
    pub(crate) struct Recv<'a, T> {
        // `None` while it does not wait.
        #[pin]
        channel: Option<channel::Recv<'a, T>>,
        receiver: &'a Receiver<T>,
        waker: Option<NotedWaker>,
    }

    impl<T> PinnedDrop for Recv<'_, T> {
        fn drop(this: Pin<&mut Self>) {
            this.stop();
        }
    }
}

impl<T> Recv<'_, T> {
    /// Ends the wait. An unused wake-up goes to the next receiver.
    pub(crate) fn stop(self: Pin<&mut Self>) {
        let mut this = self.project();
        this.channel.set(None);
        this.receiver.noted.wake();
    }
}

impl<T> Future for Recv<'_, T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.channel.is_none() {
            this.channel.set(Some(this.receiver.channel.recv()));
        }
        let noted = &this.receiver.noted;
        let polled = poll_with_note(this.waker, noted, cx, |cx| {
            let channel = this.channel.as_mut().as_pin_mut();
            let polled = channel.map_or(Poll::Pending, |channel| channel.poll(cx));
            if polled.is_ready() {
                // Before a replaced note is dropped, which the channel may have until then.
                this.channel.set(None);
            }
            polled
        });
        noted.wake();
        polled.map_err(|_| Closed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Sends when it is woken, like a task that submits in its waker.
    struct Sends {
        sender: Sender<u32>,
        wakes: AtomicUsize,
    }

    impl Wake for Sends {
        fn wake(self: Arc<Self>) {
            if self.wakes.fetch_add(1, Ordering::SeqCst) < 5 {
                self.sender.send(7).unwrap();
            }
        }
    }

    #[test]
    fn a_waker_may_use_the_channel_that_wakes_it() {
        let (sender, receiver) = unbounded();
        let sends = Arc::new(Sends {
            sender,
            wakes: AtomicUsize::new(0),
        });
        let waker = Waker::from(Arc::clone(&sends));
        let cx = &mut Context::from_waker(&waker);
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(receiver.recv())).collect();
        for recv in &mut waiting {
            assert!(recv.as_mut().poll(cx).is_pending());
        }
        sends.sender.send(1).unwrap();
        assert_eq!(sends.wakes.load(Ordering::SeqCst), 3);
        // The dropped receiver passes its wake-up on, and the waker sends again.
        drop(waiting.remove(0));
        for (recv, value) in waiting.iter_mut().zip([1, 7]) {
            assert_eq!(recv.as_mut().poll(cx), Poll::Ready(Ok(value)));
        }
    }

    #[test]
    fn a_waker_that_panics_leaves_the_channel_as_it_should_be() {
        struct Panics;
        impl Wake for Panics {
            fn wake(self: Arc<Self>) {
                std::panic::resume_unwind(Box::new("a waker"));
            }
        }
        let (sender, mut receiver) = unbounded();
        let panics = Waker::from(Arc::new(Panics));
        let noop = &mut Context::from_waker(Waker::noop());
        for value in 0..3 {
            assert!(
                receiver
                    .poll_next(&Context::from_waker(&panics))
                    .is_pending()
            );
            assert_eq!(sender.send(value), Ok(()));
            assert_eq!(receiver.poll_next(noop), Poll::Ready(Some(value)));
            let mut recv = Box::pin(receiver.recv());
            assert!(
                recv.as_mut()
                    .poll(&mut Context::from_waker(&panics))
                    .is_pending()
            );
            assert_eq!(sender.send(value), Ok(()));
            assert_eq!(recv.as_mut().poll(noop), Poll::Ready(Ok(value)));
        }
        sender.close();
        assert_eq!(sender.send(9), Err(9));
        assert_eq!(receiver.poll_next(noop), Poll::Ready(None));
    }

    #[test]
    fn a_receiver_that_waits_is_woken_by_its_last_waker_only() {
        struct Counts(AtomicUsize);
        impl Wake for Counts {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let counts = [0, 1].map(|_| Arc::new(Counts(AtomicUsize::new(0))));
        let (sender, mut receiver) = unbounded();
        for counts in &counts {
            let waker = Waker::from(Arc::clone(counts));
            assert!(
                receiver
                    .poll_next(&Context::from_waker(&waker))
                    .is_pending()
            );
        }
        sender.send(1).unwrap();
        assert_eq!(counts.map(|counts| counts.0.load(Ordering::SeqCst)), [0, 1]);
        assert_eq!(receiver.try_recv(), Some(1));
        assert!(sender.is_empty());
    }
}
