//! apalis: a worker on the storage in memory, with a limit of concurrency; on two threads its jobs
//! are spawned, as its README shows it. The storage is without bound, so all is pushed first.

use std::sync::Arc;

use ::apalis::prelude::{
    MemoryStorage, ParallelizeExt, TaskSink, WorkerBuilder, WorkerBuilderExt, WorkerContext,
};

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::measure::Sample;
use crate::runtime::{self, Load};
use crate::tally::SharedTally;
use crate::work::Work;

pub(crate) fn run<W: Work>(work: W, load: Load) -> Sample {
    runtime::on_tokio(load, move || async move {
        let tally = SharedTally::expecting(load.jobs);
        let counter = Arc::clone(&tally);
        let handler = move |n: u64, _: WorkerContext| {
            let (work, counter) = (work.clone(), Arc::clone(&counter));
            async move { counter.add(work.run(n).await) }
        };
        let mut storage = MemoryStorage::new();
        storage
            .push_bulk((0..load.jobs).collect())
            .await
            .expect("the storage takes them");
        let builder = WorkerBuilder::new("jobs")
            .backend(storage)
            .concurrency(load.at_once);
        let worker: BoxFuture<'static, _> = if load.threads == 1 {
            builder.build(handler).run().boxed()
        } else {
            builder
                .parallelize(tokio::spawn)
                .build(handler)
                .run()
                .boxed()
        };
        let worker = tokio::spawn(worker);
        let tally = tally.complete().await;
        worker.abort();
        tally
    })
}
