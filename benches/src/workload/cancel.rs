//! All jobs are queued and none has started; then all are cancelled. The time counts from there
//! until the last is gone. The pool, tokio and async-executor say of each job what became of it;
//! the others drop it without a word.

use futures::stream::FuturesUnordered;
use futures_buffered::FuturesUnorderedBounded;
use futures_lite::{StreamExt, future};

use super::no_part;
use crate::contender::Contender;
use crate::contender::brigade::{builder, handle};
use crate::contender::naive;
use crate::measure::{Running, Sample};
use crate::runtime::{self, Load, Threads};
use crate::tally::Tally;
use crate::work::{Ready, Work};

pub(crate) fn run(contender: Contender, load: Load) -> Sample {
    match contender {
        Contender::Naive => future::block_on(async {
            let (inputs, queue) = async_channel::unbounded();
            naive::feed(&inputs, load.jobs).await;
            timed(load, async || drop((queue, inputs))).await
        }),
        Contender::Brigade | Contender::BrigadeSlots => {
            let builder = builder(contender, load);
            let executor = Threads::default();
            future::block_on(executor.run(async {
                let capacity = usize::try_from(load.jobs).expect("so many jobs fit into memory");
                let (pool, workers) = builder.queue_capacity(capacity).build(|n| handle(Ready, n));
                let mut map = pool.map(0..load.jobs).window(capacity);
                let first = future::poll_once(map.next()).await;
                assert!(
                    first.is_none() && pool.stats().queued == capacity,
                    "{:?}",
                    pool.stats()
                );
                workers.spawn_on(&executor);
                timed(load, async || {
                    map.cancel();
                    let mut cancelled = 0;
                    while let Some(completion) = map.next().await {
                        cancelled += u64::from(completion.result.is_err());
                    }
                    assert_eq!(cancelled, load.jobs, "a job has another outcome, or none");
                })
                .await
            }))
        }
        Contender::BufferUnordered => future::block_on(async {
            let jobs: FuturesUnordered<_> = (0..load.jobs).map(|n| Ready.run(n)).collect();
            timed(load, async || drop(jobs)).await
        }),
        Contender::FuturesBuffered => future::block_on(async {
            let jobs: FuturesUnorderedBounded<_> = (0..load.jobs).map(|n| Ready.run(n)).collect();
            timed(load, async || drop(jobs)).await
        }),
        Contender::SpawnSemaphore => {
            let executor = Threads::default();
            future::block_on(executor.run(async {
                let tasks: Vec<_> = (0..load.jobs)
                    .map(|n| executor.spawn(Ready.run(n)))
                    .collect();
                timed(load, async || {
                    // Told to all before the first is waited for.
                    let mut waiting: FuturesUnordered<_> =
                        tasks.into_iter().map(|task| task.cancel()).collect();
                    while let Some(outcome) = waiting.next().await {
                        assert_eq!(outcome, None, "the job has run");
                    }
                })
                .await
            }))
        }
        Contender::JoinSet => runtime::tokio_runtime(1).block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for n in 0..load.jobs {
                tasks.spawn(Ready.run(n));
            }
            timed(load, async || {
                tasks.abort_all();
                while let Some(outcome) = tasks.join_next().await {
                    assert!(
                        outcome.is_err_and(|error| error.is_cancelled()),
                        "the job has run"
                    );
                }
            })
            .await
        }),
        other => no_part(other, "cancel"),
    }
}

async fn timed(load: Load, cancel: impl AsyncFnOnce()) -> Sample {
    let running = Running::start();
    cancel().await;
    Sample {
        jobs: load.jobs,
        ..running.stop(0, Tally::default())
    }
}
