//! The floor of the design: N tasks between a bounded channel of inputs and one of results. It has
//! no guarantee at all: a panic ends a worker, and no job can be cancelled, counted, or asked for its
//! outcome.

use async_channel::{Receiver, Sender};

use crate::measure::Sample;
use crate::runtime::{self, Load, Threads};
use crate::tally::Tally;
use crate::work::Work;

/// Larger than the number of workers in all but the largest loads; a full channel costs a wake-up a
/// job.
pub(crate) const CAPACITY: usize = 1024;

pub(crate) fn run<W: Work>(work: W, load: Load) -> Sample {
    runtime::on_async_executor::<W>(load, async |executor| {
        let (inputs, results) = pool(executor, work, load.at_once, CAPACITY);
        executor
            .spawn(async move { feed(&inputs, load.jobs).await })
            .detach();
        collect(&results).await
    })
}

/// Spawns the workers, and gives both ends.
pub(crate) fn pool<W: Work>(
    executor: &Threads,
    work: W,
    workers: usize,
    capacity: usize,
) -> (Sender<u64>, Receiver<u64>) {
    let (inputs, queue) = async_channel::bounded::<u64>(capacity);
    let (outputs, results) = async_channel::bounded::<u64>(capacity);
    for _ in 0..workers {
        let (work, queue, outputs) = (work.clone(), queue.clone(), outputs.clone());
        executor
            .spawn(async move {
                while let Ok(n) = queue.recv().await {
                    if outputs.send(work.clone().run(n).await).await.is_err() {
                        break;
                    }
                }
            })
            .detach();
    }
    (inputs, results)
}

pub(crate) async fn feed(inputs: &Sender<u64>, jobs: u64) {
    for n in 0..jobs {
        inputs.send(n).await.expect("the workers listen");
    }
}

/// Adds up the results until the last worker has gone.
pub(crate) async fn collect(results: &Receiver<u64>) -> Tally {
    let mut tally = Tally::default();
    while let Ok(n) = results.recv().await {
        tally.add(n);
    }
    tally
}
