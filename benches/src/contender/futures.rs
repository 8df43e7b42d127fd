//! Combinators: many futures in one task, no workers. They are the cheapest way to run many at once
//! inside one future, and stop while their reader does something else.

use std::cell::Cell;
use std::num::NonZero;

use ::futures::StreamExt;
use ::futures::stream;
use futures_buffered::BufferedStreamExt;
use futures_concurrency::concurrent_stream::ConcurrentStream;
use futures_concurrency::stream::StreamExt as ConcurrentStreamExt;

use crate::measure::Sample;
use crate::runtime::{self, Load};
use crate::tally::Tally;
use crate::work::Work;

pub(crate) fn buffer_unordered<W: Work>(work: W, load: Load) -> Sample {
    runtime::on_this_thread::<W>(load, async {
        let mut results = stream::iter(0..load.jobs)
            .map(|n| work.clone().run(n))
            .buffer_unordered(load.at_once);
        let mut tally = Tally::default();
        while let Some(n) = results.next().await {
            tally.add(n);
        }
        tally
    })
}

pub(crate) fn for_each_concurrent<W: Work>(work: W, load: Load) -> Sample {
    runtime::on_this_thread::<W>(load, async {
        let tally = Cell::new(Tally::default());
        let jobs = stream::iter(0..load.jobs);
        StreamExt::for_each_concurrent(jobs, load.at_once, |n| add(work.clone(), n, &tally)).await;
        tally.get()
    })
}

pub(crate) fn buffered<W: Work>(work: W, load: Load) -> Sample {
    runtime::on_this_thread::<W>(load, async {
        let mut results = stream::iter(0..load.jobs)
            .map(|n| work.clone().run(n))
            .buffered_unordered(load.at_once);
        let mut tally = Tally::default();
        while let Some(n) = results.next().await {
            tally.add(n);
        }
        tally
    })
}

pub(crate) fn concurrency<W: Work>(work: W, load: Load) -> Sample {
    runtime::on_this_thread::<W>(load, async {
        let tally = Cell::new(Tally::default());
        let jobs = ConcurrentStreamExt::co(stream::iter(0..load.jobs));
        jobs.limit(NonZero::new(load.at_once))
            .for_each(|n| add(work.clone(), n, &tally))
            .await;
        tally.get()
    })
}

async fn add<W: Work>(work: W, n: u64, tally: &Cell<Tally>) {
    let n = work.run(n).await;
    let mut now = tally.get();
    now.add(n);
    tally.set(now);
}
