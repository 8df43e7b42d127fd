//! The pool itself: all guarantees on, as the README shows it.

use std::sync::Arc;
use std::time::Duration;

use brigade::{Builder, Completion, Pool, RateLimit, Retry};
use futures_lite::{Stream, StreamExt, future};

use super::Contender;
use crate::measure::Sample;
use crate::runtime::{self, Load};
use crate::tally::{SharedTally, Tally};
use crate::work::Work;

/// How many keys there are, where there are keys.
const KEYS: u64 = 100;
const MINUTE: Duration = Duration::from_secs(60);

/// The pool that a contender has.
pub(crate) fn builder<In, E>(contender: Contender, load: Load) -> Builder<In, E> {
    match contender {
        Contender::BrigadeSlots => slots_builder(load),
        _ => one_slot_builder(load),
    }
}

/// One job a worker: for isolation, and for handlers that compute.
fn one_slot_builder<In, E>(load: Load) -> Builder<In, E> {
    Pool::builder().workers(load.at_once)
}

/// As many workers as threads, and the jobs in their slots: for great numbers of small or waiting
/// jobs.
fn slots_builder<In, E>(load: Load) -> Builder<In, E> {
    let workers = load.threads.min(load.at_once).max(1);
    Pool::builder()
        .workers(workers)
        .jobs_per_worker(load.at_once.div_ceil(workers))
}

/// Every policy there is, none of which ever holds a job up.
fn policies_builder(load: Load) -> Builder<u64, ()> {
    one_slot_builder(load)
        .rate_limit(RateLimit::per(u32::MAX, Duration::from_secs(1)).burst(u32::MAX))
        .key_by(|n| n % KEYS)
        .retry(Retry::fixed(MINUTE))
        .attempt_timeout(MINUTE)
        .job_timeout(MINUTE)
}

/// The handler: the work, which never fails.
pub(crate) async fn handle<W: Work>(work: W, n: u64) -> Result<u64, ()> {
    Ok(work.run(n).await)
}

/// The handler of jobs whose results are not read.
pub(crate) async fn add<W: Work>(work: W, tally: Arc<SharedTally>, n: u64) -> Result<(), ()> {
    tally.add(work.run(n).await);
    Ok(())
}

/// A map, one job a worker or many.
pub(crate) fn plain_map<W: Work>(contender: Contender, work: W, load: Load) -> Sample {
    map(work, load, builder(contender, load), 0)
}

/// A map with every policy.
pub(crate) fn policies<W: Work>(work: W, load: Load) -> Sample {
    map(work, load, policies_builder(load), 1)
}

fn map<W: Work>(work: W, load: Load, builder: Builder<u64, ()>, priority: i32) -> Sample {
    runtime::on_async_executor::<W>(load, async |executor| {
        let pool = builder.spawn_on(executor, move |n| handle(work.clone(), n));
        let map = pool.map(0..load.jobs);
        results_of(if priority == 0 {
            map
        } else {
            map.priority(priority)
        })
        .await
    })
}

/// Handles, each awaited before the next job is submitted.
pub(crate) fn handles<W: Work>(work: W, load: Load) -> Sample {
    runtime::on_async_executor::<W>(load, async |executor| {
        let pool = slots_builder(load).spawn_on(executor, move |n| handle(work.clone(), n));
        let mut tally = Tally::default();
        for n in 0..load.jobs {
            let handle = pool.submit(n).await.expect("the pool is open");
            tally.add(handle.await.expect("the job does not fail"));
        }
        tally
    })
}

/// Detached handles; the handler adds up.
pub(crate) fn detached<W: Work>(work: W, load: Load) -> Sample {
    runtime::on_async_executor::<W>(load, async |executor| {
        let tally = SharedTally::expecting(load.jobs);
        let counter = Arc::clone(&tally);
        let pool = slots_builder(load).spawn_on(executor, move |n| {
            add(work.clone(), Arc::clone(&counter), n)
        });
        for n in 0..load.jobs {
            pool.submit(n).await.expect("the pool is open").detach();
        }
        pool.drain().await;
        tally.complete().await
    })
}

/// Every policy, and all jobs in the queue before the first starts.
pub(crate) fn backlog<W: Work>(work: W, load: Load) -> Sample {
    queued_first(work, load, policies_builder(load), 1)
}

/// All jobs in the queue before the first starts, since no worker is polled until then.
pub(crate) fn queued_first<W: Work>(
    work: W,
    load: Load,
    builder: Builder<u64, ()>,
    priority: i32,
) -> Sample {
    runtime::on_async_executor::<W>(load, async |executor| {
        let capacity = usize::try_from(load.jobs).expect("so many jobs fit into memory");
        let (pool, workers) = builder
            .queue_capacity(capacity)
            .build(move |n| handle(work.clone(), n));
        let mut map = pool.map(0..load.jobs).window(capacity);
        if priority != 0 {
            map = map.priority(priority);
        }
        // The first look hands everything in.
        let first = future::poll_once(map.next()).await;
        assert!(
            first.is_none() && pool.stats().queued == capacity,
            "{:?}",
            pool.stats()
        );
        workers.spawn_on(executor);
        results_of(map).await
    })
}

/// Reads a map or a group to its end.
pub(crate) async fn results_of(
    mut completions: impl Stream<Item = Completion<u64, u64, ()>> + Unpin,
) -> Tally {
    let mut tally = Tally::default();
    while let Some(completion) = completions.next().await {
        tally.add(completion.result.expect("the job does not fail"));
    }
    tally
}
