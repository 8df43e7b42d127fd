//! What a pool needs of its surroundings: an executor that polls its workers ([`Spawn`]) and a
//! clock ([`Timer`]).
//!
//! Both are small traits, so that any executor and any clock will do. Nothing here starts a thread,
//! and nothing is shared by the whole process.

mod manual;
#[cfg(feature = "async-io")]
mod smol;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Instant;

use crate::sync::ignore_poison;

#[cfg(feature = "async-io")]
pub use self::smol::AsyncIoTimer;
#[cfg(feature = "smol")]
pub use self::smol::SmolGlobal;
pub use manual::{ManualSleep, ManualTimer, SleepersReached};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A sleep of a timer that can be part of a type which is `Sync`. It is polled by `&mut` only, so
/// its lock is never taken.
pub(crate) struct SyncSleep(Mutex<BoxFuture<'static, ()>>);

impl SyncSleep {
    pub(crate) const fn new(sleep: BoxFuture<'static, ()>) -> Self {
        Self(Mutex::new(sleep))
    }
}

impl Future for SyncSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        ignore_poison(self.0.get_mut()).as_mut().poll(cx)
    }
}

/// An executor that polls a future until it ends.
///
/// The pool hands over one future a worker, never one a job. An implementation must let the
/// future go on when its handle, if there is one, is dropped: detach it. If the executor drops a
/// worker's future, the worker's job is reported as abandoned, and so are all that wait once the
/// last worker is gone.
///
/// It is implemented for `async_executor::Executor` and `LocalExecutor`, for references and `Arc`s
/// of executors, and for closures.
///
/// # Examples
///
/// ```
/// use brigade::{ManualTimer, Pool, rt::BoxFuture};
///
/// let threads = |worker: BoxFuture<'static, ()>| {
///     std::thread::spawn(move || futures_lite::future::block_on(worker));
/// };
/// let pool = Pool::builder()
///     .workers(2)
///     .timer(ManualTimer::new())
///     .spawn_on(&threads, |n: u32| async move { Ok::<_, ()>(n + 1) });
/// let handle = pool.try_submit(1).unwrap();
/// assert_eq!(futures_lite::future::block_on(handle), Ok(2));
/// ```
pub trait Spawn {
    /// Starts to poll the future, and goes on until it ends.
    fn spawn(&self, future: BoxFuture<'static, ()>);
}

impl<F: Fn(BoxFuture<'static, ()>)> Spawn for F {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self(future);
    }
}

impl Spawn for async_executor::Executor<'_> {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        async_executor::Executor::spawn(self, future).detach();
    }
}

impl Spawn for async_executor::LocalExecutor<'_> {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        async_executor::LocalExecutor::spawn(self, future).detach();
    }
}

impl<S: Spawn + ?Sized> Spawn for Arc<S> {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        (**self).spawn(future);
    }
}

/// A clock and its alarm, in one piece so that a test clock moves both.
///
/// Implementations never block, never panic, and never go back; the pool copes with a clock that
/// does, by treating the elapsed time as zero.
pub trait Timer: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Instant;

    /// Returns a future that ends once [`now`](Self::now) has reached `at`.
    ///
    /// Dropping the future gives up the alarm and leaves nothing behind.
    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()>;
}

impl<T: Timer + ?Sized> Timer for Arc<T> {
    fn now(&self) -> Instant {
        (**self).now()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        (**self).sleep_until(at)
    }
}

impl fmt::Debug for dyn Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timer")
    }
}
