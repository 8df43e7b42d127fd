//! The pool on many threads, in an order that a scheduler picks at each lock and atomic: at random,
//! and by priorities that change a few times (PCT). Only in a build of its own:
//!
//! ```text
//! RUSTFLAGS='--cfg brigade_model="shuttle"' cargo test --no-default-features --test models
//! ```
//!
//! `BRIGADE_SCHEDULES=n` goes through so many orders of each kind and model. A failure prints the
//! order that led to it; `BRIGADE_SCHEDULE=…` with that text, `BRIGADE_SLOTS=…` as it says, and the
//! name of the model repeat it.

#![cfg(brigade_model = "shuttle")]

mod batches;
mod ends;
mod jobs;
mod policies;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use brigade::{ManualTimer, Outcome, Pool, Stats};
use futures_lite::future;
use shuttle::Runner;
use shuttle::future::{JoinHandle, block_on, spawn};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};

/// How many orders of each kind.
const SCHEDULES: usize = 300;

/// How often PCT changes the priorities.
const CHANGES: usize = 3;

/// Runs the model in many orders, for workers of one slot and of two. A wait that never ends is a
/// deadlock, which the explorer finds by itself.
fn explore<F: Future<Output = ()> + 'static>(model: impl Fn(usize) -> F + Send + Sync + 'static) {
    let model = Arc::new(model);
    let only =
        std::env::var("BRIGADE_SLOTS").map(|text| text.parse().expect("BRIGADE_SLOTS is a number"));
    for slots in only.map_or(vec![1, 2], |slots| vec![slots]) {
        let _print = PrintSlots(slots);
        let model = Arc::clone(&model);
        explore_orders(move || block_on(model(slots)));
    }
}

/// Prints with a failure how many slots the workers had.
struct PrintSlots(usize);

impl Drop for PrintSlots {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to repeat it: BRIGADE_SLOTS={}", self.0);
        }
    }
}

fn explore_orders(model: impl Fn() + Send + Sync + 'static) {
    if let Ok(schedule) = std::env::var("BRIGADE_SCHEDULE") {
        runner(ReplayScheduler::new_from_encoded(&schedule)).run(model);
        return;
    }
    let schedules = std::env::var("BRIGADE_SCHEDULES").map_or(SCHEDULES, |text| {
        text.parse().expect("BRIGADE_SCHEDULES is a number")
    });
    let model = Arc::new(model);
    let random = Arc::clone(&model);
    runner(RandomScheduler::new(schedules)).run(move || random());
    runner(PctScheduler::new(CHANGES, schedules)).run(move || model());
}

/// The stacks that shuttle gives its threads by default are too small for a build that is hardly
/// optimized.
fn runner<S: Scheduler + 'static>(scheduler: S) -> Runner<S> {
    let mut config = shuttle::Config::default();
    config.stack_size = 1 << 20;
    Runner::new(scheduler, config)
}

/// Each on a thread of its own.
type Workers = Vec<JoinHandle<()>>;

/// Jobs are numbers, results are numbers.
type Jobs = Pool<u32, u32, u32>;

/// What has happened in the handlers, besides what the outcomes say. Its own atomics are no steps
/// of the model.
#[derive(Debug, Default)]
struct Seen {
    started: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
}

/// Counts a handler as running for as long as it lives.
struct Running(Arc<Seen>);

impl Running {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.started.fetch_add(1, Ordering::SeqCst);
        let running = seen.running.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most.fetch_max(running, Ordering::SeqCst);
        Self(Arc::clone(seen))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The job of all models: it waits once, and odd numbers fail.
async fn work(n: u32, seen: Arc<Seen>) -> Result<u32, u32> {
    let _running = Running::new(&seen);
    future::yield_now().await;
    if n.is_multiple_of(2) { Ok(n) } else { Err(n) }
}

/// A pool whose workers have a thread each.
fn pool(workers: usize, slots: usize, capacity: usize) -> (Jobs, Workers, Arc<Seen>) {
    pool_of(workers, slots, capacity, work)
}

/// The same, with another job.
fn pool_of<F: Future<Output = Result<u32, u32>> + Send + 'static>(
    workers: usize,
    slots: usize,
    capacity: usize,
    work: impl Fn(u32, Arc<Seen>) -> F + Send + Sync + 'static,
) -> (Jobs, Workers, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let builder = Pool::builder()
        .workers(workers)
        .jobs_per_worker(slots)
        .queue_capacity(capacity)
        .timer(ManualTimer::new());
    let (pool, workers) = builder.build({
        let seen = Arc::clone(&seen);
        move |n: u32| work(n, Arc::clone(&seen))
    });
    (
        pool,
        workers
            .into_iter()
            .map(|worker| spawn(worker.run()))
            .collect(),
        seen,
    )
}

/// A job that never ends.
async fn pend(_: u32, seen: Arc<Seen>) -> Result<u32, u32> {
    let _running = Running::new(&seen);
    future::pending().await
}

async fn join(tasks: impl IntoIterator<Item = JoinHandle<()>>) {
    for task in tasks {
        task.await.expect("no task is aborted or panics");
    }
}

fn ended(stats: &Stats) -> u64 {
    stats.succeeded
        + stats.failed
        + stats.timed_out
        + stats.panicked
        + stats.cancelled
        + stats.abandoned
        + stats.rejected
}

/// Nothing runs, nothing is queued, and each accepted job has its one outcome.
fn assert_settled<In, T, E>(pool: &Pool<In, T, E>, seen: &Seen, slots: usize) {
    let stats = pool.stats();
    assert_eq!(
        (stats.queued, stats.running, stats.delayed, ended(&stats)),
        (0, 0, 0, stats.accepted),
        "{stats:?}"
    );
    assert_eq!(seen.running.load(Ordering::SeqCst), 0);
    assert!(seen.most.load(Ordering::SeqCst) <= slots, "{seen:?}");
}

/// Puts each number in once, and says which came twice.
fn unique(numbers: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
    let mut seen = BTreeSet::new();
    for number in numbers {
        assert!(seen.insert(number), "{number} came twice");
    }
    seen
}

/// What a result says of its number.
fn outcome_of(n: u32) -> Outcome {
    if n.is_multiple_of(2) {
        Outcome::Succeeded
    } else {
        Outcome::Failed
    }
}
