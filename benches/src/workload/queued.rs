//! All jobs are in the queue before the first of them starts.

use std::sync::Arc;

use super::no_part;
use crate::contender::Contender;
use crate::contender::brigade::{builder, queued_first};
use crate::contender::naive::{self, CAPACITY};
use crate::measure::Sample;
use crate::runtime::{self, Load};
use crate::tally::Tally;
use crate::work::{Ready, Work};

pub(crate) fn run(contender: Contender, load: Load) -> Sample {
    match contender {
        Contender::Brigade | Contender::BrigadeSlots => {
            queued_first(Ready, load, builder(contender, load), 0)
        }
        Contender::Naive => runtime::on_async_executor::<Ready>(load, async |executor| {
            let (inputs, queue) = async_channel::unbounded();
            naive::feed(&inputs, load.jobs).await;
            drop(inputs);
            let (outputs, results) = async_channel::bounded(CAPACITY);
            for _ in 0..load.at_once {
                let (queue, outputs) = (queue.clone(), outputs.clone());
                let worker = async move {
                    while let Ok(n) = queue.recv().await {
                        outputs
                            .send(Ready.run(n).await)
                            .await
                            .expect("the results are read");
                    }
                };
                executor.spawn(worker).detach();
            }
            drop(outputs);
            naive::collect(&results).await
        }),
        Contender::SpawnSemaphore => runtime::on_async_executor::<Ready>(load, async |executor| {
            let permits = Arc::new(async_lock::Semaphore::new(load.at_once));
            let (outputs, results) = async_channel::bounded(CAPACITY);
            for n in 0..load.jobs {
                let (permits, outputs) = (Arc::clone(&permits), outputs.clone());
                let job = async move {
                    let permit = permits.acquire().await;
                    let n = Ready.run(n).await;
                    drop(permit);
                    outputs.send(n).await.expect("the results are read");
                };
                executor.spawn(job).detach();
            }
            drop(outputs);
            naive::collect(&results).await
        }),
        Contender::JoinSet => runtime::on_tokio(load, move || async move {
            let permits = Arc::new(tokio::sync::Semaphore::new(load.at_once));
            let mut tasks = tokio::task::JoinSet::new();
            for n in 0..load.jobs {
                let permits = Arc::clone(&permits);
                tasks.spawn(async move {
                    let _permit = permits.acquire().await.expect("it is not closed");
                    Ready.run(n).await
                });
            }
            let mut tally = Tally::default();
            while let Some(done) = tasks.join_next().await {
                tally.add(done.expect("the job does not panic"));
            }
            tally
        }),
        other => no_part(other, "queued"),
    }
}
