//! par-stream: a pool of tasks that share a stream, and one channel of results.

use futures::{StreamExt, stream};
use par_stream::{ParParams, ParStreamExt};

use super::naive::CAPACITY;
use crate::measure::Sample;
use crate::runtime::{self, Load};
use crate::tally::Tally;
use crate::work::Work;

pub(crate) fn run<W: Work>(work: W, load: Load) -> Sample {
    runtime::on_tokio(load, move || async move {
        // The buffer of two items a worker, its default, costs it a wake-up a job.
        let params = ParParams {
            num_workers: load.at_once,
            buf_size: Some(CAPACITY),
        };
        let mut results =
            stream::iter(0..load.jobs).par_then_unordered(params, move |n| work.clone().run(n));
        let mut tally = Tally::default();
        while let Some(n) = results.next().await {
            tally.add(n);
        }
        tally
    })
}
