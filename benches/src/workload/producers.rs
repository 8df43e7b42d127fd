//! Many tasks that submit jobs to one pool, each waiting for room. Results are not read; the job
//! adds up.

use std::sync::Arc;

use super::no_part;
use crate::contender::Contender;
use crate::contender::brigade::{add, builder};
use crate::contender::naive::CAPACITY;
use crate::measure::Sample;
use crate::runtime::{self, Load};
use crate::tally::SharedTally;
use crate::work::{Ready, Work};

pub(crate) fn run(contender: Contender, load: Load, producers: u64) -> Sample {
    // The numbers of the jobs, in as many parts as there are producers.
    let each = load.jobs / producers;
    let load = Load {
        jobs: each * producers,
        ..load
    };
    let parts = move || (0..producers).map(move |at| at * each..(at + 1) * each);
    if contender == Contender::JoinSet {
        return on_tokio(load, parts);
    }
    runtime::on_async_executor::<Ready>(load, async |executor| {
        let tally = SharedTally::expecting(load.jobs);
        match contender {
            Contender::Naive => {
                let (inputs, queue) = async_channel::bounded(CAPACITY);
                for _ in 0..load.at_once {
                    let (queue, tally) = (queue.clone(), Arc::clone(&tally));
                    let worker = async move {
                        while let Ok(n) = queue.recv().await {
                            tally.add(Ready.run(n).await);
                        }
                    };
                    executor.spawn(worker).detach();
                }
                for part in parts() {
                    let inputs = inputs.clone();
                    let producer = async move {
                        for n in part {
                            inputs.send(n).await.expect("the workers listen");
                        }
                    };
                    executor.spawn(producer).detach();
                }
            }
            Contender::Brigade | Contender::BrigadeSlots => {
                let builder = builder(contender, load);
                let counter = Arc::clone(&tally);
                let pool = builder.spawn_on(executor, move |n| add(Ready, Arc::clone(&counter), n));
                for part in parts() {
                    let pool = pool.clone();
                    let producer = async move {
                        for n in part {
                            pool.submit(n).await.expect("the pool is open").detach();
                        }
                    };
                    executor.spawn(producer).detach();
                }
            }
            Contender::SpawnSemaphore => {
                let permits = Arc::new(async_lock::Semaphore::new(load.at_once));
                for part in parts() {
                    let (permits, tally, spawner) = (
                        Arc::clone(&permits),
                        Arc::clone(&tally),
                        Arc::clone(executor),
                    );
                    let producer = async move {
                        for n in part {
                            let permit = permits.acquire_arc().await;
                            let tally = Arc::clone(&tally);
                            let job = async move {
                                tally.add(Ready.run(n).await);
                                drop(permit);
                            };
                            spawner.spawn(job).detach();
                        }
                    };
                    executor.spawn(producer).detach();
                }
            }
            other => no_part(other, "producers"),
        }
        tally.complete().await
    })
}

/// Tasks on tokio behind a semaphore; a `JoinSet` cannot be shared.
fn on_tokio<P>(load: Load, parts: impl FnOnce() -> P + Send + 'static) -> Sample
where
    P: Iterator<Item = std::ops::Range<u64>> + Send,
{
    runtime::on_tokio(load, move || async move {
        let tally = SharedTally::expecting(load.jobs);
        let permits = Arc::new(tokio::sync::Semaphore::new(load.at_once));
        for part in parts() {
            let (permits, tally) = (Arc::clone(&permits), Arc::clone(&tally));
            tokio::spawn(async move {
                for n in part {
                    let permit = Arc::clone(&permits)
                        .acquire_owned()
                        .await
                        .expect("it is not closed");
                    let tally = Arc::clone(&tally);
                    tokio::spawn(async move {
                        tally.add(Ready.run(n).await);
                        drop(permit);
                    });
                }
            });
        }
        tally.complete().await
    })
}
