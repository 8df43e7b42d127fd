//! The locks and channels of the library in builds with the feature `testing`: those of the
//! standard library and of async-channel, with *preemption points* around them.
//!
//! A preemption point is a point within a poll at which the operating system could
//! suspend the thread and another thread could act on what both share: before a lock is taken,
//! after it was released, and on either side of a call of a channel. The simulator installs a
//! [`Hook`] on its thread, which is called there and may poll other tasks. There is no point while
//! the thread holds a lock of the library, since the hook would wait for that lock forever; and
//! none while a panic unwinds, since a second panic would end the process.
//!
//! Where no hook is installed, a point costs one read of a thread-local.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::{LockResult, PoisonError};
use std::thread::LocalKey;

pub(crate) use std::sync as in_wakers;
pub(crate) use std::sync::atomic;

/// Called at each preemption point of a thread.
pub(crate) type Hook = Rc<dyn Fn()>;

std::thread_local! {
    // Without a destructor, so that it can be read while the thread ends.
    static IS_INSTALLED: Cell<bool> = const { Cell::new(false) };
    static LOCKS_HELD: Cell<usize> = const { Cell::new(0) };
    static THREAD: Cell<usize> = const { Cell::new(0) };
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Calls the hook of this thread, if one is installed and may run.
#[inline]
pub(crate) fn preemption_point() {
    if IS_INSTALLED.get() {
        call_hook();
    }
}

#[cold]
fn call_hook() {
    if LOCKS_HELD.get() == 0 && !std::thread::panicking() {
        let hook = HOOK.with_borrow(Clone::clone);
        hook.into_iter().for_each(|hook| hook());
    }
}

/// Whether this thread holds a lock of the library, or is in a call of a channel, which has locks
/// of its own.
pub(crate) fn is_locked() -> bool {
    LOCKS_HELD.get() > 0
}

/// Installs the hook on this thread until the guard is dropped, which restores the previous one.
pub(crate) fn install(hook: Hook) -> Installed {
    let before = HOOK.replace(Some(hook));
    Installed {
        was_installed: IS_INSTALLED.replace(true),
        before,
        locks_held: LOCKS_HELD.replace(0),
    }
}

/// Keeps a hook installed.
pub(crate) struct Installed {
    was_installed: bool,
    before: Option<Hook>,
    locks_held: usize,
}

impl Drop for Installed {
    fn drop(&mut self) {
        IS_INSTALLED.set(self.was_installed);
        LOCKS_HELD.set(self.locks_held);
        drop(HOOK.replace(self.before.take()));
    }
}

// ---- thread-locals ----

/// How many threads one thread can simulate.
pub(crate) const MAX_THREADS: usize = 5;

/// Calls the closure as if on another thread, with thread-locals of its own. Calls nest, up to
/// [`MAX_THREADS`].
pub(crate) fn on_another_thread<R>(call: impl FnOnce() -> R) -> R {
    struct Back(usize);
    impl Drop for Back {
        fn drop(&mut self) {
            THREAD.set(self.0);
        }
    }
    let thread = THREAD.get();
    let _back = Back(thread);
    THREAD.set((thread + 1).min(MAX_THREADS - 1));
    call()
}

/// A thread-local with a value for each simulated thread.
pub(crate) struct PerThread<T: 'static>(&'static LocalKey<[T; MAX_THREADS]>);

impl<T> PerThread<T> {
    pub(crate) const fn new(locals: &'static LocalKey<[T; MAX_THREADS]>) -> Self {
        Self(locals)
    }

    pub(crate) fn with<R>(&'static self, call: impl FnOnce(&T) -> R) -> R {
        self.0.with(|locals| call(&locals[THREAD.get()]))
    }

    pub(crate) fn try_with<R>(
        &'static self,
        call: impl FnOnce(&T) -> R,
    ) -> Result<R, std::thread::AccessError> {
        self.0.try_with(|locals| call(&locals[THREAD.get()]))
    }
}

macro_rules! per_thread {
    ($($(#[$attribute:meta])* static $name:ident: $type:ty = const { $init:expr };)*) => {
        $(
            $(#[$attribute])*
            static $name: $crate::sync::preempt::PerThread<$type> = {
                std::thread_local! {
                    static LOCALS: [$type; $crate::sync::preempt::MAX_THREADS] =
                        const { [const { $init }; $crate::sync::preempt::MAX_THREADS] };
                }
                $crate::sync::preempt::PerThread::new(&LOCALS)
            };
        )*
    };
}
pub(crate) use per_thread as thread_local;

// ---- locks ----

/// The standard library's mutex, with a preemption point before it is locked and one after it is
/// unlocked.
#[derive(Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        preemption_point();
        let guard = |inner| MutexGuard {
            inner,
            _held: Held::new(),
        };
        self.0
            .lock()
            .map(guard)
            .map_err(|poisoned| PoisonError::new(guard(poisoned.into_inner())))
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

pub(crate) struct MutexGuard<'a, T> {
    // Dropped in this order: the lock is released before it stops counting as held.
    inner: std::sync::MutexGuard<'a, T>,
    _held: Held,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T: fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Counts a lock, or a call of a channel, as held if a hook is installed. Its drop is a preemption
/// point.
struct Held {
    is_counted: bool,
}

impl Held {
    #[inline]
    fn new() -> Self {
        let is_counted = IS_INSTALLED.get();
        if is_counted {
            LOCKS_HELD.set(LOCKS_HELD.get() + 1);
        }
        Self { is_counted }
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        if self.is_counted {
            LOCKS_HELD.set(LOCKS_HELD.get() - 1);
            preemption_point();
        }
    }
}

// ---- channels ----

/// async-channel, with a preemption point on either side of each call that sends, receives or
/// closes.
pub(crate) mod channel {
    use std::future::Future;
    use std::ops::Deref;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    pub(crate) use async_channel::{TryRecvError, TrySendError};

    use futures_core::Stream;
    use pin_project_lite::pin_project;

    use super::{Held, preemption_point};

    fn between_points<R>(call: impl FnOnce() -> R) -> R {
        preemption_point();
        let _held = Held::new();
        call()
    }

    pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = async_channel::unbounded();
        (Sender(sender), Receiver { inner: receiver })
    }

    #[derive(Debug)]
    pub(crate) struct Sender<T>(async_channel::Sender<T>);

    impl<T> Sender<T> {
        pub(crate) fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
            between_points(|| self.0.try_send(value))
        }

        pub(crate) fn close(&self) -> bool {
            between_points(|| self.0.close())
        }
    }

    impl<T> Deref for Sender<T> {
        type Target = async_channel::Sender<T>;

        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }

    pin_project! {
        #[derive(Debug)]
        pub(crate) struct Receiver<T> {
            #[pin]
            inner: async_channel::Receiver<T>,
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
            between_points(|| self.inner.try_recv())
        }

        pub(crate) fn recv(&self) -> Recv<'_, T> {
            Recv {
                inner: self.inner.recv(),
            }
        }

        pub(crate) fn close(&self) -> bool {
            between_points(|| self.inner.close())
        }
    }

    impl<T> Deref for Receiver<T> {
        type Target = async_channel::Receiver<T>;

        fn deref(&self) -> &Self::Target {
            &self.inner
        }
    }

    impl<T> Stream for Receiver<T> {
        type Item = T;

        fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
            between_points(|| self.project().inner.poll_next(cx))
        }
    }

    pin_project! {
        pub(crate) struct Recv<'a, T> {
            #[pin]
            inner: async_channel::Recv<'a, T>,
        }
    }

    impl<T> Future for Recv<'_, T> {
        type Output = Result<T, async_channel::RecvError>;

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            between_points(|| self.project().inner.poll(cx))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, PoisonError};
    use std::task::{Context, Wake, Waker};

    use super::*;

    /// The number of preemption points that the closure reaches.
    fn points(call: impl FnOnce()) -> usize {
        let count = Rc::new(Cell::new(0));
        let counted = Rc::clone(&count);
        let _installed = install(Rc::new(move || counted.set(counted.get() + 1)));
        call();
        count.get()
    }

    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn there_is_a_point_on_either_side_of_the_outermost_lock_and_none_under_it() {
        let (outer, inner) = (Mutex::new(1), Mutex::new(2));
        let both = || {
            let outer = lock(&outer);
            assert_eq!(*outer + *lock(&inner), 3);
        };
        assert_eq!(points(both), 2);
        assert_eq!(points(|| drop(lock(&inner))), 2);
        both();
    }

    #[test]
    fn there_is_a_point_on_either_side_of_a_call_of_a_channel_unless_a_lock_is_held() {
        let (sender, receiver) = channel::unbounded();
        let mutex = Mutex::new(());
        assert_eq!(points(|| sender.try_send(1).unwrap()), 2);
        assert_eq!(points(|| assert_eq!(receiver.try_recv(), Ok(1))), 2);
        assert_eq!(
            points(|| {
                let _guard = lock(&mutex);
                sender.try_send(2).unwrap();
            }),
            2
        );
    }

    #[test]
    fn a_channel_that_is_called_counts_as_locked() {
        struct Records(AtomicBool);
        impl Wake for Records {
            fn wake(self: Arc<Self>) {
                self.0.store(is_locked(), Ordering::SeqCst);
            }
        }
        points(|| {
            let (sender, receiver) = channel::unbounded();
            let records = Arc::new(Records(AtomicBool::new(false)));
            let mut recv = pin!(receiver.recv());
            let waker = Waker::from(Arc::clone(&records));
            assert!(
                recv.as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            );
            sender.try_send(1).unwrap();
            assert_eq!(
                (records.0.load(Ordering::SeqCst), is_locked()),
                (true, false)
            );
        });
    }

    #[test]
    fn there_is_no_point_while_a_panic_unwinds() {
        struct Locks<'a>(&'a Mutex<()>);
        impl Drop for Locks<'_> {
            fn drop(&mut self) {
                drop(lock(self.0));
            }
        }
        let mutex = Mutex::new(());
        let panics = || {
            let _locks = Locks(&mutex);
            std::panic::resume_unwind(Box::new(()));
        };
        assert_eq!(
            points(
                || drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(
                    panics
                )))
            ),
            0
        );
    }

    #[test]
    fn another_thread_has_thread_locals_of_its_own() {
        super::thread_local! {
            static VALUE: Cell<u32> = const { Cell::new(0) };
        }
        let value = || VALUE.with(Cell::get);
        VALUE.with(|value| value.set(1));
        on_another_thread(|| {
            assert_eq!(value(), 0);
            VALUE.with(|value| value.set(2));
        });
        assert_eq!((value(), on_another_thread(value)), (1, 2));
    }
}
