//! Locks, atomics and channels for loom.

pub(crate) use loom::sync::{Mutex, MutexGuard};

/// Loom treats sequentially consistent operations as acquire and release only. It knows
/// sequentially consistent fences, so each operation has one before and one after it.
pub(crate) mod atomic {
    pub(crate) use loom::sync::atomic::Ordering;
    use loom::sync::atomic::fence;

    fn consistent<R>(ordering: Ordering, operation: impl FnOnce() -> R) -> R {
        if ordering != Ordering::SeqCst {
            return operation();
        }
        fence(Ordering::SeqCst);
        let result = operation();
        fence(Ordering::SeqCst);
        result
    }

    macro_rules! atomics {
        ($($name:ident of $value:ty { $($method:ident),* })*) => {
            $(
                #[derive(Debug, Default)]
                pub(crate) struct $name(loom::sync::atomic::$name);

                impl $name {
                    pub(crate) fn new(value: $value) -> Self {
                        Self(loom::sync::atomic::$name::new(value))
                    }

                    pub(crate) fn load(&self, ordering: Ordering) -> $value {
                        consistent(ordering, || self.0.load(ordering))
                    }

                    pub(crate) fn store(&self, value: $value, ordering: Ordering) {
                        consistent(ordering, || self.0.store(value, ordering));
                    }

                    $(atomics!($method $value);)*
                }
            )*
        };
        (swap $value:ty) => {
            pub(crate) fn swap(&self, value: $value, ordering: Ordering) -> $value {
                consistent(ordering, || self.0.swap(value, ordering))
            }
        };
        (fetch_add $value:ty) => {
            pub(crate) fn fetch_add(&self, value: $value, ordering: Ordering) -> $value {
                consistent(ordering, || self.0.fetch_add(value, ordering))
            }
        };
        (fetch_sub $value:ty) => {
            pub(crate) fn fetch_sub(&self, value: $value, ordering: Ordering) -> $value {
                consistent(ordering, || self.0.fetch_sub(value, ordering))
            }
        };
        (fetch_update $value:ty) => {
            pub(crate) fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                consistent(set, || self.0.fetch_update(set, fetch, update))
            }
        };
        (compare_exchange $value:ty) => {
            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                consistent(success, || self.0.compare_exchange(current, new, success, failure))
            }
        };
    }

    atomics! {
        AtomicBool of bool { swap }
        AtomicI32 of i32 {}
        AtomicU8 of u8 { swap, compare_exchange }
        AtomicU32 of u32 {}
        AtomicU64 of u64 { fetch_add }
        AtomicUsize of usize { fetch_add, fetch_sub, fetch_update }
    }
}

/// Loom's macro accepts no `const` blocks.
macro_rules! local {
    ($($(#[$attribute:meta])* static $name:ident: $type:ty = const { $init:expr };)*) => {
        $(loom::thread_local! { $(#[$attribute])* static $name: $type = $init; })*
    };
}
pub(crate) use local as thread_local;

/// Used within wakers.
pub(crate) mod in_wakers {
    pub(crate) use super::{Mutex, MutexGuard, atomic};
}

/// The part of async-channel that the crate uses: each send wakes one more receiver, in FIFO order,
/// and a receiver that is woken and dropped wakes the next one.
pub(crate) mod channel {
    use std::collections::VecDeque;
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::{Arc, PoisonError};
    use std::task::{Context, Poll, Waker};

    pub(crate) use async_channel::{RecvError, TryRecvError, TrySendError};

    use futures_core::Stream;

    use super::{Mutex, MutexGuard};

    #[derive(Debug)]
    struct State<T> {
        queue: VecDeque<T>,
        is_closed: bool,
        next: u64,
        /// Number, waker, and whether it was woken.
        waiting: VecDeque<(u64, Waker, bool)>,
    }

    impl<T> State<T> {
        fn notify(&mut self) -> Option<Waker> {
            let waiting = self.waiting.iter_mut().find(|(.., is_woken)| !is_woken)?;
            waiting.2 = true;
            Some(waiting.1.clone())
        }
    }

    type Shared<T> = Arc<Mutex<State<T>>>;

    fn lock<T>(shared: &Shared<T>) -> MutexGuard<'_, State<T>> {
        shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
        let state = State {
            queue: VecDeque::new(),
            is_closed: false,
            next: 0,
            waiting: VecDeque::new(),
        };
        let shared = Arc::new(Mutex::new(state));
        (
            Sender(Arc::clone(&shared)),
            Receiver {
                shared,
                number: None,
            },
        )
    }

    #[derive(Debug)]
    pub(crate) struct Sender<T>(Shared<T>);

    impl<T> Sender<T> {
        pub(crate) fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
            let mut state = lock(&self.0);
            if state.is_closed {
                return Err(TrySendError::Closed(value));
            }
            state.queue.push_back(value);
            let woken = state.notify();
            drop(state);
            woken.into_iter().for_each(Waker::wake);
            Ok(())
        }

        pub(crate) fn close(&self) {
            close(&self.0);
        }

        pub(crate) fn is_empty(&self) -> bool {
            lock(&self.0).queue.is_empty()
        }
    }

    #[derive(Debug)]
    pub(crate) struct Receiver<T> {
        shared: Shared<T>,
        /// Of the wait of the stream.
        number: Option<u64>,
    }

    impl<T> Receiver<T> {
        pub(crate) fn recv(&self) -> Recv<'_, T> {
            Recv {
                shared: &self.shared,
                number: None,
            }
        }

        pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
            let mut state = lock(&self.shared);
            match state.queue.pop_front() {
                Some(value) => Ok(value),
                None if state.is_closed => Err(TryRecvError::Closed),
                None => Err(TryRecvError::Empty),
            }
        }

        pub(crate) fn close(&self) {
            close(&self.shared);
        }
    }

    impl<T> Stream for Receiver<T> {
        type Item = T;

        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
            let Self { shared, number } = &mut *self;
            poll(shared, number, cx).map(Result::ok)
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            leave(&self.shared, self.number);
            close(&self.shared);
        }
    }

    fn close<T>(shared: &Shared<T>) {
        let mut state = lock(shared);
        state.is_closed = true;
        let woken: Vec<_> = std::iter::from_fn(|| state.notify()).collect();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    fn poll<T>(
        shared: &Shared<T>,
        number: &mut Option<u64>,
        cx: &Context<'_>,
    ) -> Poll<Result<T, RecvError>> {
        let mut state = lock(shared);
        let known = number.take();
        state.waiting.retain(|(waits, ..)| Some(*waits) != known);
        if let Some(value) = state.queue.pop_front() {
            return Poll::Ready(Ok(value));
        }
        if state.is_closed {
            return Poll::Ready(Err(RecvError));
        }
        let waits = known.unwrap_or(state.next);
        state.next = state.next.max(waits + 1);
        state.waiting.push_back((waits, cx.waker().clone(), false));
        *number = Some(waits);
        Poll::Pending
    }

    /// Passes an unused wake-up on to the next receiver.
    fn leave<T>(shared: &Shared<T>, number: Option<u64>) {
        let Some(number) = number else { return };
        let mut state = lock(shared);
        let was_woken = state
            .waiting
            .iter()
            .any(|(known, _, is_woken)| *known == number && *is_woken);
        state.waiting.retain(|(known, ..)| *known != number);
        let woken = if was_woken { state.notify() } else { None };
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    pub(crate) struct Recv<'a, T> {
        shared: &'a Shared<T>,
        number: Option<u64>,
    }

    impl<T> Future for Recv<'_, T> {
        type Output = Result<T, RecvError>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            let Self { shared, number } = &mut *self;
            poll(shared, number, cx)
        }
    }

    impl<T> Drop for Recv<'_, T> {
        fn drop(&mut self) {
            leave(self.shared, self.number);
        }
    }
}
