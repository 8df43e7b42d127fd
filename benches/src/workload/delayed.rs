//! All jobs have a delay. The pool keeps them in its schedule; a contender without a schedule lets
//! a task sleep for each.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use async_io::Timer;
use brigade::Pool;

use super::no_part;
use crate::contender::Contender;
use crate::contender::brigade::{add, builder, handle};
use crate::measure::{Running, Sample};
use crate::runtime::{self, Load};
use crate::tally::{SharedTally, Tally};
use crate::work::{Ready, Sleep, Work};

const DELAY: Duration = Duration::from_secs(1);

pub(crate) fn run(contender: Contender, load: Load) -> Sample {
    let capacity = usize::try_from(load.jobs).expect("so many jobs fit into memory");
    let tally = SharedTally::expecting(load.jobs);
    let counter = Arc::clone(&tally);
    match contender {
        Contender::Brigade | Contender::BrigadeSlots => {
            let builder = builder(contender, load);
            runtime::on_async_executor::<Sleep>(load, async |executor| {
                let pool = builder
                    .queue_capacity(capacity)
                    .spawn_on(executor, move |n| add(Ready, Arc::clone(&counter), n));
                for n in 0..load.jobs {
                    pool.job(n)
                        .delay(DELAY)
                        .try_submit()
                        .expect("there is room")
                        .detach();
                }
                tally.complete().await
            })
        }
        Contender::SpawnSemaphore => runtime::on_async_executor::<Sleep>(load, async |executor| {
            let permits = Arc::new(async_lock::Semaphore::new(load.at_once));
            for n in 0..load.jobs {
                let (permits, counter) = (Arc::clone(&permits), Arc::clone(&counter));
                let job = async move {
                    Timer::after(DELAY).await;
                    let _permit = permits.acquire().await;
                    counter.add(Ready.run(n).await);
                };
                executor.spawn(job).detach();
            }
            tally.complete().await
        }),
        Contender::JoinSet => runtime::on_tokio(load, move || async move {
            let permits = Arc::new(tokio::sync::Semaphore::new(load.at_once));
            let mut tasks = tokio::task::JoinSet::new();
            for n in 0..load.jobs {
                let (permits, counter) = (Arc::clone(&permits), Arc::clone(&counter));
                tasks.spawn(async move {
                    tokio::time::sleep(DELAY).await;
                    let _permit = permits.acquire().await.expect("it is not closed");
                    counter.add(Ready.run(n).await);
                });
            }
            tally.complete().await
        }),
        other => no_part(other, "delayed"),
    }
}

/// Submits jobs that are due in an hour, keeps their handles, and leaves all of it in memory,
/// where it can be counted.
pub(crate) fn hold(load: Load) -> Sample {
    let capacity = usize::try_from(load.jobs).expect("so many jobs fit into memory");
    let running = Running::start();
    let (pool, workers) = Pool::builder()
        .workers(load.at_once)
        .queue_capacity(capacity)
        .build(|n| handle(Ready, n));
    let mut handles = Vec::with_capacity(capacity);
    for n in 0..load.jobs {
        let job = pool.job(n).delay(Duration::from_secs(3600 + n % 1000));
        handles.push(job.try_submit().expect("there is room"));
    }
    assert_eq!(pool.stats().delayed, capacity);
    mem::forget((handles, pool, workers));
    running.stop(0, Tally::default())
}
