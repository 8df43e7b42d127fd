//! What the library runs on in loom's build.

pub(crate) use async_channel as completions;
pub(crate) use loom::sync::{Mutex, MutexGuard};

/// Loom takes operations that are sequentially consistent for an acquire and a release only. Here a fence, which it knows,
/// stands before and after each.
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
        AtomicU8 of u8 { compare_exchange }
        AtomicU32 of u32 {}
        AtomicU64 of u64 {}
        AtomicUsize of usize { fetch_add, fetch_sub, fetch_update }
    }
}

/// Loom's takes no `const` blocks.
macro_rules! local {
    ($($(#[$attribute:meta])* static $name:ident: $type:ty = const { $init:expr };)*) => {
        $(loom::thread_local! { $(#[$attribute])* static $name: $type = $init; })*
    };
}
pub(crate) use local as thread_local;

/// For what a waker does.
pub(crate) mod in_wakers {
    pub(crate) use super::{Mutex, MutexGuard, atomic};
}

/// A channel as async-channel's, of what the queue uses of it: each send wakes one more of those that wait, in the order in
/// which they came, and one that is woken and dropped passes that on.
pub(crate) mod channel {
    use std::collections::VecDeque;
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::{Arc, PoisonError};
    use std::task::{Context, Poll, Waker};

    pub(crate) use async_channel::{RecvError, TryRecvError, TrySendError};

    use super::{Mutex, MutexGuard};

    #[derive(Debug)]
    struct State<T> {
        capacity: usize,
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

    pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
        let state = State { capacity, queue: VecDeque::new(), is_closed: false, next: 0, waiting: VecDeque::new() };
        let shared = Arc::new(Mutex::new(state));
        (Sender(Arc::clone(&shared)), Receiver(shared))
    }

    #[derive(Debug)]
    pub(crate) struct Sender<T>(Shared<T>);

    impl<T> Sender<T> {
        pub(crate) fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
            let mut state = lock(&self.0);
            if state.is_closed {
                return Err(TrySendError::Closed(value));
            }
            if state.queue.len() == state.capacity {
                return Err(TrySendError::Full(value));
            }
            state.queue.push_back(value);
            let woken = state.notify();
            drop(state);
            woken.into_iter().for_each(Waker::wake);
            Ok(())
        }

        pub(crate) fn close(&self) {
            let mut state = lock(&self.0);
            state.is_closed = true;
            let woken: Vec<_> = std::iter::from_fn(|| state.notify()).collect();
            drop(state);
            woken.into_iter().for_each(Waker::wake);
        }

        pub(crate) fn is_closed(&self) -> bool {
            lock(&self.0).is_closed
        }
    }

    #[derive(Debug)]
    pub(crate) struct Receiver<T>(Shared<T>);

    impl<T> Receiver<T> {
        pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
            let mut state = lock(&self.0);
            match state.queue.pop_front() {
                Some(value) => Ok(value),
                None if state.is_closed => Err(TryRecvError::Closed),
                None => Err(TryRecvError::Empty),
            }
        }

        pub(crate) fn recv(&self) -> Recv<'_, T> {
            Recv { shared: &self.0, number: None }
        }
    }

    pub(crate) struct Recv<'a, T> {
        shared: &'a Shared<T>,
        number: Option<u64>,
    }

    impl<T> Future for Recv<'_, T> {
        type Output = Result<T, RecvError>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            let shared = self.shared;
            let mut state = lock(shared);
            let number = self.number.take();
            state.waiting.retain(|(known, ..)| Some(*known) != number);
            if let Some(value) = state.queue.pop_front() {
                return Poll::Ready(Ok(value));
            }
            if state.is_closed {
                return Poll::Ready(Err(RecvError));
            }
            let number = number.unwrap_or(state.next);
            state.next = state.next.max(number + 1);
            state.waiting.push_back((number, cx.waker().clone(), false));
            self.number = Some(number);
            Poll::Pending
        }
    }

    impl<T> Drop for Recv<'_, T> {
        fn drop(&mut self) {
            let Some(number) = self.number else { return };
            let mut state = lock(self.shared);
            let was_woken = state.waiting.iter().any(|(known, _, is_woken)| *known == number && *is_woken);
            state.waiting.retain(|(known, ..)| *known != number);
            let woken = if was_woken { state.notify() } else { None };
            drop(state);
            woken.into_iter().for_each(Waker::wake);
        }
    }
}
