//! For work that computes: rayon and threadpool. They know no futures; the job is the same.

use std::sync::Arc;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::measure::{Running, Sample};
use crate::runtime::Load;
use crate::tally::{SharedTally, Tally};
use crate::work::compute;

pub(crate) fn rayon_iter(load: Load) -> Sample {
    let pool = rayon_pool(load.threads);
    let running = Running::start();
    let sum = pool.install(|| (0..load.jobs).into_par_iter().map(compute).sum());
    running.stop(
        load.jobs,
        Tally {
            count: load.jobs,
            sum,
        },
    )
}

pub(crate) fn rayon_spawn(load: Load) -> Sample {
    let pool = rayon_pool(load.threads);
    let running = Running::start();
    let tally = SharedTally::expecting(load.jobs);
    pool.scope(|scope| {
        for n in 0..load.jobs {
            let tally = &tally;
            scope.spawn(move |_| tally.add(compute(n)));
        }
    });
    running.stop(load.jobs, futures_lite::future::block_on(tally.complete()))
}

pub(crate) fn threadpool(load: Load) -> Sample {
    let pool = threadpool::ThreadPool::new(load.threads);
    let running = Running::start();
    let tally = SharedTally::expecting(load.jobs);
    for n in 0..load.jobs {
        let tally = Arc::clone(&tally);
        pool.execute(move || tally.add(compute(n)));
    }
    pool.join();
    running.stop(load.jobs, futures_lite::future::block_on(tally.complete()))
}

fn rayon_pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("threads can be started")
}
