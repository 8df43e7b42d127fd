//! Long runs and rough ones: ten million jobs in flat memory, and many threads that do everything
//! at once.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use async_executor::Executor;
use brigade::{Pool, RateLimit, Retry};
use futures_lite::future;

/// How much the memory may grow after the first tenth.
const MOST_GROWTH: u64 = 10 << 20;

/// Memory in bytes, threads and open files of this process, by the kernel's account.
fn account() -> (u64, usize, usize) {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    let count = |path| fs::read_dir(path).map_or(0, Iterator::count);
    (
        pages * 4096,
        count("/proc/self/task"),
        count("/proc/self/fd"),
    )
}

/// Runs so many jobs through a pool without and one with policies; says whether memory, threads and
/// files stay as they are.
pub(crate) fn soak(jobs: u64) -> bool {
    let mut is_flat = true;
    for is_scheduled in [false, true] {
        let executor = Executor::new();
        let (mut start, mut most) = (account(), 0);
        let failed = future::block_on(executor.run(async {
            let mut builder = Pool::builder().workers(10);
            if is_scheduled {
                builder = builder
                    .rate_limit(RateLimit::per(u32::MAX, Duration::from_secs(1)).burst(u32::MAX))
                    .key_by(|n: &u64| *n)
                    .retry(Retry::fixed(Duration::ZERO).max_attempts(2))
                    .job_timeout(Duration::from_secs(3600));
            }
            let pool = builder.spawn_on(&executor, |n| async move {
                if n % 64 == 0 { Err(n) } else { Ok(n) }
            });
            let (mut map, mut read, mut failed) = (pool.map(0..jobs), 0, 0);
            while let Some(completion) = map.next().await {
                read += 1;
                failed += u64::from(completion.result.is_err());
                if read % (jobs / 10).max(1) == 0 {
                    let now = account();
                    if read <= jobs / 10 {
                        start = now;
                    }
                    most = most.max(now.0.saturating_sub(start.0));
                    is_flat &= (now.1, now.2) == (start.1, start.2);
                }
            }
            assert_eq!(read, jobs, "a job is missing");
            failed
        }));
        assert_eq!(failed, jobs.div_ceil(64));
        let name = if is_scheduled {
            "every policy"
        } else {
            "no policy"
        };
        println!(
            "soak, {name}: {jobs} jobs, memory grew by {} KiB, {} threads, {} files",
            most >> 10,
            start.1,
            start.2
        );
        is_flat &= most <= MOST_GROWTH;
    }
    is_flat
}

/// Lets so many threads submit, await, cancel, pause and resize at once; panics if a job is lost.
pub(crate) fn stress(threads: u64, rounds: u64) {
    let executor = Arc::new(Executor::new());
    let (stop, stopped) = async_channel::bounded::<()>(1);
    let runs = Arc::new(AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            let (executor, stopped) = (Arc::clone(&executor), stopped.clone());
            scope.spawn(move || future::block_on(executor.run(stopped.recv())).is_err());
        }
        let stop = stop;
        let counter = Arc::clone(&runs);
        let pool = Pool::builder()
            .workers(8)
            .queue_capacity(64)
            .key_by(|n: &u64| n % 7)
            .max_running_per_key(3)
            .retry(Retry::fixed(Duration::from_micros(50)).max_attempts(3))
            .spawn_on(&executor, move |n| {
                counter.fetch_add(1, Ordering::Relaxed);
                async move {
                    future::yield_now().await;
                    if n % 11 == 0 { Err(n) } else { Ok(n) }
                }
            });
        let users: Vec<_> = (0..threads)
            .map(|thread| {
                let pool = pool.clone();
                scope.spawn(move || future::block_on(use_it(&pool, thread, rounds)))
            })
            .collect();
        users
            .into_iter()
            .for_each(|user| user.join().expect("no user of the pool panics"));
        while pool.is_paused() {
            pool.resume();
        }
        future::block_on(pool.drain());
        let stats = pool.stats();
        let outcomes = stats.succeeded + stats.failed + stats.cancelled;
        assert_eq!(
            (stats.accepted, stats.queued, stats.delayed, stats.running),
            (outcomes, 0, 0, 0),
            "{stats:?}"
        );
        println!(
            "stress: {threads} threads, {} jobs, {} attempts, none lost",
            stats.accepted,
            runs.load(Ordering::Relaxed)
        );
        drop(stop);
    });
}

async fn use_it(pool: &Pool<u64, u64, u64>, thread: u64, rounds: u64) {
    let mut dice = fastrand::Rng::with_seed(thread);
    for round in 0..rounds {
        let n = thread * rounds + round;
        match dice.u32(0..12) {
            0 => drop(pool.try_submit(n)),
            1 => drop(pool.submit(n).await.expect("it is open").cancel().await),
            2 => pool.submit(n).await.expect("it is open").detach(),
            3 => {
                let mut map = pool.map(n..n + dice.u64(1..20)).window(4);
                let most = dice.usize(1..20);
                for _ in 0..most {
                    if map.next().await.is_none() {
                        break;
                    }
                }
            }
            4 => {
                pool.pause();
                future::yield_now().await;
                pool.resume();
            }
            5 => pool.set_workers(dice.usize(1..=8)),
            6 => {
                let handle = pool
                    .job(n)
                    .priority(dice.i32(-2..3))
                    .submit()
                    .await
                    .expect("it is open");
                handle.set_priority(3);
                let _ = handle.await;
            }
            7 => {
                let handle = pool
                    .job(n)
                    .delay(Duration::from_micros(dice.u64(0..200)))
                    .submit()
                    .await;
                let _ = handle.expect("it is open").await;
            }
            _ => {
                let result = pool.submit(n).await.expect("it is open").await;
                assert_eq!(result.is_ok(), !n.is_multiple_of(11));
            }
        }
    }
    pool.set_workers(8);
}
