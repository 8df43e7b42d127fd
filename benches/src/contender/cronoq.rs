//! cronoq: a scheduler with policies much like the pool's, set up as its own benchmark is, with a
//! token bucket, a retry policy and a time-out a job. It gives no results back, so its handler adds
//! up.

use std::sync::Arc;
use std::time::Duration;

use ::cronoq::{Pool, Priority, ResourceConfig, RetryPolicy, Scheduler, Task, TaskError};

use crate::measure::Sample;
use crate::runtime::{self, Load};
use crate::tally::SharedTally;
use crate::work::Work;

/// How many jobs are submitted at once; its own benchmark uses the same number.
const BATCH: u64 = 4096;
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn run<W: Work>(work: W, load: Load) -> Sample {
    runtime::on_tokio(load, move || async move {
        let tally = SharedTally::expecting(load.jobs);
        let counter = Arc::clone(&tally);
        let workers = u32::try_from(load.at_once).expect("it counts its workers in 32 bits");
        let pool = Pool::fixed("default", workers).executor_fn(move |_, n: Arc<u64>| {
            let (work, counter) = (work.clone(), Arc::clone(&counter));
            async move {
                counter.add(work.run(*n).await);
                Ok::<_, TaskError>(())
            }
        });
        let scheduler = Scheduler::<u64, ()>::builder()
            .pool(pool)
            .resource(ResourceConfig::token_bucket("all", 1e9, 1_000_000_000))
            .queue_capacity(65_536)
            .build()
            .await
            .expect("it can be built");
        let mut sent = 0;
        while sent < load.jobs {
            let batch = sent..load.jobs.min(sent + BATCH);
            sent = batch.end;
            let task = |n| {
                Task::new(n)
                    .priority(Priority::High)
                    .resource("all", 1)
                    .timeout(MINUTE)
                    .retry(RetryPolicy::default())
            };
            scheduler
                .enqueue_many(batch.map(task).collect())
                .await
                .expect("it takes them");
        }
        let tally = tally.complete().await;
        scheduler.shutdown(MINUTE).await.expect("it stops");
        tally
    })
}
