//! A full pool is told to finish: the time counts from there until the last job is done.

use std::sync::Arc;

use futures_lite::future;

use super::no_part;
use crate::contender::Contender;
use crate::contender::brigade::{add, builder};
use crate::contender::naive;
use crate::measure::{Running, Sample};
use crate::runtime::{self, Load, Threads};
use crate::tally::SharedTally;
use crate::work::{Ready, Work};

pub(crate) fn run(contender: Contender, load: Load) -> Sample {
    let tally = SharedTally::expecting(load.jobs);
    if contender == Contender::JoinSet {
        return on_tokio(load, &tally);
    }
    let executor = Threads::default();
    future::block_on(executor.run(async {
        match contender {
            Contender::Naive => {
                let (inputs, queue) = async_channel::unbounded();
                naive::feed(&inputs, load.jobs).await;
                let running = Running::start();
                drop(inputs);
                for _ in 0..load.at_once {
                    let (queue, tally) = (queue.clone(), Arc::clone(&tally));
                    let worker = async move {
                        while let Ok(n) = queue.recv().await {
                            tally.add(Ready.run(n).await);
                        }
                    };
                    executor.spawn(worker).detach();
                }
                running.stop(load.jobs, tally.complete().await)
            }
            Contender::Brigade | Contender::BrigadeSlots => {
                let builder = builder(contender, load);
                let capacity = usize::try_from(load.jobs).expect("so many jobs fit into memory");
                let counter = Arc::clone(&tally);
                let (pool, workers) = builder
                    .queue_capacity(capacity)
                    .build(move |n| add(Ready, Arc::clone(&counter), n));
                for n in 0..load.jobs {
                    pool.try_submit(n).expect("there is room").detach();
                }
                let running = Running::start();
                workers.spawn_on(&executor);
                pool.drain().await;
                running.stop(load.jobs, tally.complete().await)
            }
            Contender::SpawnSemaphore => {
                let permits = Arc::new(async_lock::Semaphore::new(load.at_once));
                for n in 0..load.jobs {
                    let (permits, tally) = (Arc::clone(&permits), Arc::clone(&tally));
                    let job = async move {
                        let _permit = permits.acquire().await;
                        tally.add(Ready.run(n).await);
                    };
                    executor.spawn(job).detach();
                }
                let running = Running::start();
                running.stop(load.jobs, tally.complete().await)
            }
            other => no_part(other, "drain"),
        }
    }))
}

fn on_tokio(load: Load, tally: &Arc<SharedTally>) -> Sample {
    runtime::tokio_runtime(1).block_on(async {
        let permits = Arc::new(tokio::sync::Semaphore::new(load.at_once));
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..load.jobs {
            let (permits, tally) = (Arc::clone(&permits), Arc::clone(tally));
            tasks.spawn(async move {
                let _permit = permits.acquire().await.expect("it is not closed");
                tally.add(Ready.run(n).await);
            });
        }
        let running = Running::start();
        tasks.join_all().await;
        running.stop(load.jobs, tally.complete().await)
    })
}
