//! A task a job on async-executor, behind a semaphore, and a channel of results: what a
//! program with smol and no pool does.

use std::sync::Arc;

use async_lock::Semaphore;

use super::naive::{CAPACITY, collect};
use crate::measure::Sample;
use crate::runtime::{self, Load};
use crate::work::Work;

pub(crate) fn run<W: Work>(work: W, load: Load) -> Sample {
    runtime::on_async_executor::<W>(load, async |executor| {
        let (outputs, results) = async_channel::bounded(CAPACITY);
        let spawner = Arc::clone(executor);
        let feeder = async move {
            let permits = Arc::new(Semaphore::new(load.at_once));
            for n in 0..load.jobs {
                let permit = permits.acquire_arc().await;
                let (work, outputs) = (work.clone(), outputs.clone());
                let job = async move {
                    let n = work.run(n).await;
                    drop(permit);
                    outputs.send(n).await.expect("the results are read");
                };
                spawner.spawn(job).detach();
            }
        };
        executor.spawn(feeder).detach();
        collect(&results).await
    })
}
