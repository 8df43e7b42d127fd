//! What the guarantees cost: the pool beside the naive one (N workers over two async-channels), on the same work, in the same
//! run. The figures of `divan` are for a whole run of `JOBS` jobs; allocations are counted.
//!
//! `cargo bench --bench pool`

use std::sync::Arc;
use std::time::Duration;

use async_executor::Executor;
use brigade::Pool;
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher};
use futures_lite::future;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

/// Inputs that are ready at once.
const JOBS: u64 = 1_000_000;
/// Inputs of the classic workload, and its workers.
const SLEEPS: u64 = 100_000;
const SLEEPERS: usize = 1_000;

fn main() {
    divan::main();
}

/// Runs `body` on an executor of so many threads; the body runs on the first of them.
fn on_threads<F: Future<Output = u64>>(threads: usize, body: impl FnOnce(Arc<Executor<'static>>) -> F) -> u64 {
    let executor = Arc::new(Executor::new());
    let (stop, stopped) = async_channel::bounded::<()>(1);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            let (executor, stopped) = (Arc::clone(&executor), stopped.clone());
            scope.spawn(move || future::block_on(executor.run(stopped.recv())).is_err());
        }
        let _stop = stop;
        future::block_on(executor.run(body(Arc::clone(&executor))))
    })
}

/// The floor of the design: two bounded channels, typed input, no guarantee at all.
async fn naive(executor: Arc<Executor<'static>>, workers: usize, jobs: u64) -> u64 {
    let (inputs, queue) = async_channel::bounded::<u64>(1024);
    let (outputs, results) = async_channel::bounded::<u64>(1024);
    for _ in 0..workers {
        let (queue, outputs) = (queue.clone(), outputs.clone());
        executor
            .spawn(async move {
                while let Ok(input) = queue.recv().await {
                    if outputs.send(job(input).await).await.is_err() {
                        break;
                    }
                }
            })
            .detach();
    }
    drop(outputs);
    executor
        .spawn(async move {
            for input in 0..jobs {
                if inputs.send(input).await.is_err() {
                    break;
                }
            }
        })
        .detach();
    let mut sum = 0;
    while let Ok(output) = results.recv().await {
        sum += output;
    }
    sum
}

async fn job(input: u64) -> u64 {
    divan::black_box(input)
}

async fn brigade(executor: Arc<Executor<'static>>, workers: usize, jobs: u64) -> u64 {
    let pool =
        Pool::builder().workers(workers).spawn_on(&*executor, |input| async move { Ok::<_, ()>(job(input).await) });
    let mut sum = 0;
    let mut map = pool.map(0..jobs);
    while let Some(completion) = map.next().await {
        sum += completion.result.unwrap_or(0);
    }
    sum
}

#[divan::bench(args = [1, 2], sample_count = 15)]
fn ready_at_once_naive(bencher: Bencher<'_, '_>, threads: usize) {
    bencher.counter(ItemsCount::new(JOBS)).bench_local(|| {
        let sum = on_threads(threads, |executor| naive(executor, 10, JOBS));
        assert_eq!(sum, JOBS * (JOBS - 1) / 2);
    });
}

#[divan::bench(args = [1, 2], sample_count = 15)]
fn ready_at_once_brigade(bencher: Bencher<'_, '_>, threads: usize) {
    bencher.counter(ItemsCount::new(JOBS)).bench_local(|| {
        let sum = on_threads(threads, |executor| brigade(executor, 10, JOBS));
        assert_eq!(sum, JOBS * (JOBS - 1) / 2);
    });
}

/// The classic workload. Ideal: 100,000 sleeps of 1 ms, 1,000 at once, are 100 ms.
#[divan::bench(args = [1, 2], sample_count = 10)]
fn classic_ideal_is_100_ms(bencher: Bencher<'_, '_>, threads: usize) {
    bencher.counter(ItemsCount::new(SLEEPS)).bench_local(|| {
        on_threads(threads, |executor| async move {
            let pool = Pool::builder().workers(SLEEPERS).spawn_on(&*executor, |input: u64| async move {
                async_io::Timer::after(Duration::from_millis(1)).await;
                Ok::<_, ()>(input)
            });
            let summary = pool.map(0..SLEEPS).for_each(|_| {}).await;
            assert_eq!(summary.succeeded as u64, SLEEPS);
            0
        });
    });
}
