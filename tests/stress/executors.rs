//! Real executors of several threads, which live as long as the process: a round spawns its
//! workers, and sometimes its clients, on one of them.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use async_executor::Executor;
use brigade::Timer;
use brigade::rt::BoxFuture;
use futures::executor::ThreadPool;
use futures_lite::future;

/// How many threads each of the shared executors has.
const THREADS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `async_executor::Executor`, run as smol runs its global one.
    AsyncExecutor,
    /// `futures::executor::ThreadPool`.
    ThreadPool,
    /// A thread for each future.
    Threads,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::AsyncExecutor, Self::ThreadPool, Self::Threads];

    /// Starts to poll the future, and goes on until it ends.
    pub(crate) fn spawn(self, future: BoxFuture<'static, ()>) {
        match self {
            Self::AsyncExecutor => ASYNC_EXECUTOR.spawn(future).detach(),
            Self::ThreadPool => THREAD_POOL.spawn_ok(future),
            Self::Threads => drop(std::thread::spawn(move || future::block_on(future))),
        }
    }
}

static ASYNC_EXECUTOR: LazyLock<Arc<Executor<'static>>> = LazyLock::new(|| {
    let executor = Arc::new(Executor::new());
    for _ in 0..THREADS {
        let executor = Arc::clone(&executor);
        std::thread::spawn(move || async_io::block_on(executor.run(future::pending::<()>())));
    }
    executor
});

static THREAD_POOL: LazyLock<ThreadPool> = LazyLock::new(|| {
    ThreadPool::builder()
        .pool_size(THREADS)
        .create()
        .expect("threads can be started")
});

/// The timer of async-io, whatever features the library is built with.
#[derive(Debug)]
pub(crate) struct Clock;

impl Timer for Clock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            async_io::Timer::at(at).await;
        })
    }
}
