//! What is run: jobs that do nothing, through a pool with and without policies, and through a peer. Each workload checks its
//! sum, so that no job is left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_executor::Executor;
use brigade::{Builder, Completion, Pool, RateLimit, Retry};
use clap::ValueEnum;
use cronoq::{Priority, RetryPolicy, Scheduler, Task, TaskError};
use futures_lite::{Stream, StreamExt, future};

/// How many jobs run at once.
const WORKERS: usize = 10;
/// How many keys there are.
const KEYS: u64 = 100;
/// How many jobs are handed to the peer at once; it is what its own benchmark does.
const BATCH: u64 = 4096;
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// A map, no policy.
    Straight,
    /// A map with priority, rate limit, keys, retry and both time-outs.
    Scheduled,
    /// Handles, no policy, each awaited before the next.
    Handles,
    /// Handles that are detached, no policy.
    Detached,
    /// All queued before the first runs, with every policy.
    Backlog,
    /// The peer, with every policy.
    Cronoq,
}

impl Workload {
    /// Runs so many jobs on one thread.
    pub(crate) fn run(self, jobs: u64) {
        let sum = match self {
            Self::Straight => on_one_thread(async |executor| {
                let pool = Pool::builder().workers(WORKERS).spawn_on(executor, job);
                sum_of(pool.map(0..jobs)).await
            }),
            Self::Scheduled => on_one_thread(async |executor| {
                let pool = with_policies(Pool::builder()).spawn_on(executor, job);
                sum_of(pool.map(0..jobs).priority(1)).await
            }),
            Self::Handles => on_one_thread(async |executor| {
                let pool = Pool::builder().workers(WORKERS).spawn_on(executor, job);
                let mut sum = 0;
                for n in 0..jobs {
                    let handle = pool.submit(n).await.expect("the pool is open");
                    sum += handle.await.expect("the job does not fail");
                }
                sum
            }),
            Self::Detached => on_one_thread(async |executor| {
                let done = Arc::new(AtomicU64::new(0));
                let counter = Arc::clone(&done);
                let pool = Pool::builder().workers(WORKERS).spawn_on(executor, move |n| {
                    let counter = Arc::clone(&counter);
                    async move { Ok::<_, ()>(counter.fetch_add(n, Ordering::Relaxed)) }
                });
                for n in 0..jobs {
                    pool.submit(n).await.expect("the pool is open").detach();
                }
                pool.drain().await;
                done.load(Ordering::Relaxed)
            }),
            Self::Backlog => on_one_thread(async |executor| {
                let capacity = usize::try_from(jobs).expect("so many jobs fit into memory");
                let (pool, workers) = with_policies(Pool::builder()).queue_capacity(capacity).build(job);
                pool.pause();
                let mut map = pool.map(0..jobs).window(capacity).priority(1);
                // The first look hands everything in.
                let first = future::poll_once(map.next()).await;
                assert!(first.is_none() && pool.stats().queued == capacity, "{:?}", pool.stats());
                workers.spawn_on(executor);
                pool.resume();
                sum_of(map).await
            }),
            Self::Cronoq => cronoq(jobs),
        };
        assert_eq!(sum, jobs * (jobs - 1) / 2, "a job is missing, or ran twice");
    }
}

/// Every policy there is, none of which ever holds a job up.
fn with_policies(builder: Builder<u64, ()>) -> Builder<u64, ()> {
    builder
        .workers(WORKERS)
        .rate_limit(RateLimit::per(u32::MAX, Duration::from_secs(1)).burst(u32::MAX))
        .key_by(|n| n % KEYS)
        .retry(Retry::fixed(MINUTE))
        .attempt_timeout(MINUTE)
        .job_timeout(MINUTE)
}

async fn job(n: u64) -> Result<u64, ()> {
    Ok(std::hint::black_box(n))
}

async fn sum_of(mut map: impl Stream<Item = Completion<u64, u64, ()>> + Unpin) -> u64 {
    let mut sum = 0;
    while let Some(completion) = map.next().await {
        sum += completion.result.expect("the job does not fail");
    }
    sum
}

fn on_one_thread(body: impl AsyncFnOnce(&Executor<'static>) -> u64) -> u64 {
    let executor = Executor::new();
    future::block_on(executor.run(body(&executor)))
}

/// The peer at work, set up as its own benchmark is, with a token bucket, a retry policy and a time-out a job.
fn cronoq(jobs: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be built");
    runtime.block_on(async {
        let (sum, left) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(jobs)));
        let all_done = Arc::new(tokio::sync::Notify::new());
        let (counter, count, notify) = (Arc::clone(&sum), Arc::clone(&left), Arc::clone(&all_done));
        let pool = cronoq::Pool::fixed("default", WORKERS as u32).executor_fn(move |_, n: Arc<u64>| {
            counter.fetch_add(*n, Ordering::Relaxed);
            if count.fetch_sub(1, Ordering::Relaxed) == 1 {
                notify.notify_one();
            }
            async { Ok::<_, TaskError>(()) }
        });
        let scheduler = Scheduler::<u64, ()>::builder()
            .pool(pool)
            .resource(cronoq::ResourceConfig::token_bucket("all", 1e9, 1_000_000_000))
            .queue_capacity(65_536)
            .build()
            .await
            .expect("the peer can be built");
        let mut sent = 0;
        while sent < jobs {
            let batch = sent..jobs.min(sent + BATCH);
            sent = batch.end;
            let task = |n| {
                Task::new(n).priority(Priority::High).resource("all", 1).timeout(MINUTE).retry(RetryPolicy::default())
            };
            scheduler.enqueue_many(batch.map(task).collect()).await.expect("the peer takes it");
        }
        if left.load(Ordering::Relaxed) > 0 {
            all_done.notified().await;
        }
        scheduler.shutdown(MINUTE).await.expect("the peer stops");
        sum.load(Ordering::Relaxed)
    })
}
