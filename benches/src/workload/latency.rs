//! How long a lone job takes on an idle pool, from its submission until its outcome is there. Each
//! is measured by itself; in between, the pool goes idle.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use async_lock::Semaphore;
use cpu_time::ProcessTime;
use futures_lite::future;

use super::no_part;
use crate::contender::brigade::{builder, handle};
use crate::contender::{Contender, naive};
use crate::measure::{Sample, latencies};
use crate::runtime::{self, Load, Threads};
use crate::work::{Ready, Work};

/// Between two jobs.
const PAUSE: Duration = Duration::from_micros(50);
/// So many turns are enough for the workers to have gone back to wait.
const TURNS: usize = 8;

pub(crate) fn run(contender: Contender, load: Load, is_across: bool) -> Sample {
    if contender == Contender::JoinSet {
        return on_tokio(load, is_across);
    }
    runtime::beside_threads::<Ready, _>(usize::from(is_across), |executor| {
        let measured = measure(contender, load, executor);
        if is_across {
            future::block_on(measured)
        } else {
            future::block_on(executor.run(measured))
        }
    })
}

async fn measure(contender: Contender, load: Load, executor: &Threads) -> Sample {
    match contender {
        Contender::PlainLoop => each(load, async |n| Ready.run(n).await).await,
        Contender::Naive => {
            let (inputs, results) = naive::pool(executor, Ready, load.at_once, naive::CAPACITY);
            each(load, async |n| {
                inputs.send(n).await.expect("the workers listen");
                results.recv().await.expect("the workers answer")
            })
            .await
        }
        Contender::Brigade | Contender::BrigadeSlots => {
            let pool = builder(contender, load).spawn_on(executor, |n| handle(Ready, n));
            each(load, async |n| {
                let handle = pool.submit(n).await.expect("the pool is open");
                handle.await.expect("the job does not fail")
            })
            .await
        }
        Contender::SpawnSemaphore => {
            let permits = Arc::new(Semaphore::new(load.at_once));
            each(load, async |n| {
                let permit = permits.acquire_arc().await;
                let job = async move {
                    let n = Ready.run(n).await;
                    drop(permit);
                    n
                };
                executor.spawn(job).await
            })
            .await
        }
        other => no_part(other, "latency"),
    }
}

/// A task on tokio behind a semaphore, from inside its runtime or from outside.
fn on_tokio(load: Load, is_across: bool) -> Sample {
    // A multi-thread runtime runs its tasks on other threads than the one that blocks.
    let runtime = if is_across {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .expect("a runtime can be built")
    } else {
        runtime::tokio_runtime(1)
    };
    runtime.block_on(async {
        let permits = Arc::new(tokio::sync::Semaphore::new(load.at_once));
        each(load, async |n| {
            let permit = Arc::clone(&permits)
                .acquire_owned()
                .await
                .expect("it is not closed");
            let job = async move {
                let n = Ready.run(n).await;
                drop(permit);
                n
            };
            tokio::spawn(job).await.expect("the job does not panic")
        })
        .await
    })
}

async fn each(load: Load, submit: impl AsyncFn(u64) -> u64) -> Sample {
    let start = ProcessTime::now();
    let mut times =
        Vec::with_capacity(usize::try_from(load.jobs).expect("so many fit into memory"));
    for n in 0..load.jobs {
        for _ in 0..TURNS {
            future::yield_now().await;
        }
        thread::sleep(PAUSE);
        let submitted = Instant::now();
        let result = submit(n).await;
        times.push(submitted.elapsed());
        assert_eq!(result, n, "the outcome is that of another job");
    }
    latencies(times, start.elapsed())
}
