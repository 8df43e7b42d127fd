//! Jobs that end at once, taken in batches and counted in tallies, while other threads read or change
//! the counters.

use brigade::{CancelReason, JobError};
use shuttle::future::spawn;

use super::*;

/// A pool whose jobs end as soon as they are polled.
fn quick_pool(workers: usize, slots: usize, capacity: usize) -> (Jobs, Workers, Arc<Seen>) {
    pool_of(workers, slots, capacity, |n, seen| async move {
        let _running = Running::new(&seen);
        Ok(n)
    })
}

/// Reads a map to its end.
fn read(pool: &Jobs, jobs: u32) -> JoinHandle<()> {
    let mut map = pool.map(0..jobs);
    spawn(async move {
        let mut told = BTreeSet::new();
        while let Some(completion) = map.next().await {
            let is_known = matches!(
                completion.result,
                Ok(_)
                    | Err(
                        JobError::Cancelled(CancelReason::Aborted | CancelReason::Stream)
                            | JobError::Abandoned
                    )
            );
            assert!(is_known && told.insert(completion.index), "{completion:?}");
        }
        assert_eq!(told.len() as u64, map.summary().accepted as u64);
    })
}

#[test]
fn the_statistics_add_up_at_any_moment() {
    explore(|slots| async move {
        let (pool, workers, seen) = quick_pool(2, slots, 4);
        let reading = read(&pool, 6);
        let mut done = 0;
        for _ in 0..4 {
            let stats = pool.stats();
            assert_eq!(
                stats.accepted,
                ended(&stats) + (stats.queued + stats.running) as u64,
                "{stats:?}"
            );
            assert!(
                stats.running <= 2 * slots && stats.queued <= 4 && stats.succeeded >= done,
                "{stats:?}"
            );
            assert!(pool.running().len() <= 2 * slots);
            done = stats.succeeded;
            future::yield_now().await;
        }
        join([reading]).await;
        pool.drain().await;
        join(workers).await;
        assert_eq!(seen.started.load(Ordering::SeqCst), 6);
        assert_settled(&pool, &seen, 2 * slots);
    });
}

#[test]
fn nothing_leaves_the_queue_of_a_pool_that_is_paused() {
    explore(|slots| async move {
        let (pool, workers, seen) = quick_pool(2, slots, 4);
        let reading = read(&pool, 5);
        future::yield_now().await;
        pool.pause();
        let accepted = |stats: &Stats| stats.accepted - stats.queued as u64;
        let started = accepted(&pool.stats());
        for _ in 0..3 {
            future::yield_now().await;
            assert_eq!(accepted(&pool.stats()), started);
        }
        pool.resume();
        join([reading]).await;
        pool.drain().await;
        join(workers).await;
        assert_eq!(seen.started.load(Ordering::SeqCst), 5);
        assert_settled(&pool, &seen, 2 * slots);
    });
}

#[test]
fn an_aborted_pool_names_each_job_once() {
    explore(|slots| async move {
        let (pool, workers, seen) = quick_pool(2, slots, 4);
        let reading = read(&pool, 6);
        future::yield_now().await;
        let report = pool.abort().await;
        let stats = pool.stats();
        assert_eq!(
            (ended(&stats), stats.queued, stats.running),
            (stats.accepted, 0, 0)
        );
        assert_eq!(
            stats.cancelled,
            (report.unstarted.len() + report.interrupted.len()) as u64
        );
        join([reading]).await;
        join(workers).await;
        assert_settled(&pool, &seen, 2 * slots);
    });
}

#[test]
fn waits_for_room_and_for_an_end_are_woken() {
    explore(|slots| async move {
        let (pool, workers, seen) = quick_pool(1, slots, 2);
        let reading = read(&pool, 5);
        let submitter = spawn({
            let pool = pool.clone();
            async move {
                for n in 10..12 {
                    assert_eq!(pool.submit(n).await.expect("the pool is open").await, Ok(n));
                }
            }
        });
        pool.wait_queued_below(1).await;
        join([reading, submitter]).await;
        pool.wait_idle().await;
        pool.drain().await;
        join(workers).await;
        assert_eq!(seen.started.load(Ordering::SeqCst), 7);
        assert_settled(&pool, &seen, slots);
    });
}

#[test]
fn each_job_of_a_cancelled_map_has_one_outcome() {
    explore(|slots| async move {
        let (pool, workers, seen) = quick_pool(2, slots, 8);
        let mut map = pool.map(0..6);
        let first = map.next().await.expect("there are six");
        assert!(first.result.is_ok());
        map.cancel();
        let mut outcomes = 1;
        while let Some(completion) = map.next().await {
            assert!(matches!(
                completion.result,
                Ok(_) | Err(JobError::Cancelled(CancelReason::Stream))
            ));
            outcomes += 1;
        }
        let summary = map.summary();
        assert_eq!(
            (summary.accepted, summary.succeeded + summary.cancelled),
            (outcomes, outcomes)
        );
        drop(map);
        pool.drain().await;
        join(workers).await;
        assert_settled(&pool, &seen, 2 * slots);
    });
}

/// A job that the cancellation does not reach runs forever.
#[test]
fn a_cancellation_reaches_all_jobs_of_a_map() {
    explore(|slots| async move {
        let (pool, workers, seen) = pool_of(2, slots, 8, pend);
        let mut map = pool.map(0..5);
        assert!(future::poll_once(map.next()).await.is_none());
        map.cancel();
        let mut outcomes = 0;
        while let Some(completion) = map.next().await {
            assert_eq!(
                completion.result,
                Err(JobError::Cancelled(CancelReason::Stream))
            );
            outcomes += 1;
        }
        assert_eq!(outcomes, 5);
        drop(map);
        pool.drain().await;
        join(workers).await;
        assert_settled(&pool, &seen, 2 * slots);
    });
}
