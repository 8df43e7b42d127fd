//! tokio's own ways: a set of tasks behind a semaphore, as the documentation of `Semaphore` bounds
//! them, and `buffer_unordered` over the handles of spawned tasks.

use std::sync::Arc;

use ::tokio::sync::Semaphore;
use ::tokio::task::JoinSet;
use futures::{StreamExt, stream};

use crate::measure::Sample;
use crate::runtime::{self, Load};
use crate::tally::Tally;
use crate::work::Work;

pub(crate) fn join_set<W: Work>(work: W, load: Load) -> Sample {
    runtime::on_tokio(load, move || async move {
        let permits = Arc::new(Semaphore::new(load.at_once));
        let (mut tasks, mut tally) = (JoinSet::new(), Tally::default());
        for n in 0..load.jobs {
            let permit = Arc::clone(&permits)
                .acquire_owned()
                .await
                .expect("it is not closed");
            let work = work.clone();
            tasks.spawn(async move {
                let n = work.run(n).await;
                drop(permit);
                n
            });
            // So that the set does not grow with the number of jobs.
            while let Some(done) = tasks.try_join_next() {
                tally.add(done.expect("the job does not panic"));
            }
        }
        while let Some(done) = tasks.join_next().await {
            tally.add(done.expect("the job does not panic"));
        }
        tally
    })
}

pub(crate) fn spawn_buffered<W: Work>(work: W, load: Load) -> Sample {
    runtime::on_tokio(load, move || async move {
        let handles = stream::iter(0..load.jobs).map(|n| ::tokio::spawn(work.clone().run(n)));
        let mut results = handles.buffer_unordered(load.at_once);
        let mut tally = Tally::default();
        while let Some(done) = results.next().await {
            tally.add(done.expect("the job does not panic"));
        }
        tally
    })
}
