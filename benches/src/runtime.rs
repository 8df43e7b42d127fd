//! What contenders run on: an executor of one or two threads, or none. In comes what is to be done,
//! out comes what it took. The threads are there before the time starts; all that a contender
//! itself spawns counts.

use std::sync::Arc;
use std::thread;

use async_executor::Executor;
use futures_lite::future;

use crate::measure::{Running, Sample};
use crate::tally::Tally;
use crate::work::Work;

/// How much is to be done, and by how many at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) jobs: u64,
    pub(crate) at_once: usize,
    pub(crate) threads: usize,
}

/// The executor, shared by its threads.
pub(crate) type Threads = Arc<Executor<'static>>;

/// Blocks on a future: by way of async-io's reactor if the work waits for it, which is what smol
/// does.
pub(crate) fn block_on<W: Work, T>(future: impl Future<Output = T>) -> T {
    if W::WAITS {
        async_io::block_on(future)
    } else {
        future::block_on(future)
    }
}

/// Without an executor: a future that polls what it holds.
pub(crate) fn on_this_thread<W: Work>(load: Load, body: impl Future<Output = Tally>) -> Sample {
    let running = Running::start();
    let tally = block_on::<W, _>(body);
    running.stop(load.jobs, tally)
}

/// On async-executor; the body runs on the first of its threads.
pub(crate) fn on_async_executor<W: Work>(
    load: Load,
    body: impl AsyncFnOnce(&Threads) -> Tally,
) -> Sample {
    beside_threads::<W, _>(load.threads - 1, |executor| {
        let running = Running::start();
        let tally = block_on::<W, _>(executor.run(body(executor)));
        running.stop(load.jobs, tally)
    })
}

/// Runs `body` while so many threads of its own run an executor.
pub(crate) fn beside_threads<W: Work, T>(threads: usize, body: impl FnOnce(&Threads) -> T) -> T {
    let executor = Threads::default();
    if threads == 0 {
        return body(&executor);
    }
    let (stop, stopped) = async_channel::bounded::<()>(1);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (executor, stopped) = (Arc::clone(&executor), stopped.clone());
            scope.spawn(move || block_on::<W, _>(executor.run(stopped.recv())).is_err());
        }
        let result = body(&executor);
        drop(stop);
        result
    })
}

/// On tokio: its current-thread runtime, or a multi-thread one, one of whose threads runs the body.
pub(crate) fn on_tokio<F>(load: Load, body: impl FnOnce() -> F + Send + 'static) -> Sample
where
    F: Future<Output = Tally> + Send,
{
    let runtime = tokio_runtime(load.threads);
    let running = Running::start();
    let tally = if load.threads == 1 {
        runtime.block_on(body())
    } else {
        runtime.block_on(async {
            tokio::spawn(async { body().await })
                .await
                .expect("the body does not panic")
        })
    };
    running.stop(load.jobs, tally)
}

pub(crate) fn tokio_runtime(threads: usize) -> tokio::runtime::Runtime {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder
        .worker_threads(threads)
        .enable_all()
        .build()
        .expect("a runtime can be built")
}
