//! Every future of the public API is dropped at each of its awaits, while other jobs run; the pool
//! continues and loses nothing.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use brigade::testing::{Sim, drop_at_every_poll, poll_times};
use brigade::{Pool, RateLimit, Retry};
use futures_lite::future;

type Jobs = Pool<u32, u32, u32>;
type Local = Pin<Box<dyn Future<Output = ()>>>;

/// Drops the future of `make` after each number of polls, in a pool with a schedule and in one
/// without, with two workers and with one worker of two slots. The future needs at least `least`
/// polls, so the test has dropped it at that many awaits.
#[track_caller]
fn at_each_await(least: usize, make: impl Fn(Sim, Jobs) -> Local + Copy + 'static) {
    for (is_scheduled, workers) in [(false, 2), (true, 2), (false, 1), (true, 1)] {
        let polls = drop_at_every_poll(0..12, |sim, polls| async move {
            let mut builder = sim
                .builder()
                .workers(workers)
                .jobs_per_worker(2 / workers)
                .queue_capacity(2)
                .child_capacity(2);
            if is_scheduled {
                builder = builder
                    .rate_limit(RateLimit::per_second(50).burst(2))
                    .key_by(|n: &u32| n % 2)
                    .max_running_per_key(1)
                    .retry(Retry::fixed(Duration::from_millis(30)).max_attempts(2))
                    .job_timeout(Duration::from_secs(3600));
            }
            let clock = sim.clock().clone();
            let (pool, workers) = builder.build(move |n: u32| {
                let sleep = clock.sleep(Duration::from_millis(10));
                async move {
                    sleep.await;
                    if n % 5 == 4 { Err(n) } else { Ok(n) }
                }
            });
            sim.spawn_workers(workers);
            sim.watch(&pool);
            // Both slots are busy, and the queue is full.
            let busy: Vec<_> = (0..4).map_while(|n| pool.try_submit(n).ok()).collect();
            let has_ended = poll_times(make(sim.clone(), pool.clone()), polls)
                .await
                .is_some();
            for handle in busy {
                let _ = handle.await;
            }
            if !pool.is_closed() {
                for n in 0..3 {
                    assert_eq!(pool.submit(n).await.unwrap().await, Ok(n));
                }
            }
            let stats = pool.stats();
            assert_eq!((stats.queued, stats.delayed, stats.running), (0, 0, 0));
            has_ended
        });
        assert!(
            polls >= least,
            "it ends after {polls} polls, scheduled: {is_scheduled}, workers: {workers}"
        );
    }
}

#[test]
fn a_submission() {
    at_each_await(2, |_, pool| {
        Box::pin(async move { drop(pool.submit(7).await) })
    });
    at_each_await(2, |_, pool| {
        Box::pin(async move { drop(pool.job(7).priority(1).submit().await) })
    });
}

#[test]
fn a_permit_that_is_held_and_used() {
    at_each_await(3, |_, pool| {
        Box::pin(async move {
            let Ok(permit) = pool.reserve().await else {
                return;
            };
            future::yield_now().await;
            drop(permit.submit(7));
        })
    });
}

#[test]
fn a_handle() {
    at_each_await(3, |_, pool| {
        Box::pin(async move {
            let Ok(handle) = pool.submit(9).await else {
                return;
            };
            let _ = handle.await;
        })
    });
}

#[test]
fn a_cancellation() {
    at_each_await(2, |_, pool| {
        Box::pin(async move {
            let Ok(handle) = pool.submit(7).await else {
                return;
            };
            let _ = handle.cancel().await;
        })
    });
}

#[test]
fn a_map() {
    at_each_await(3, |_, pool| {
        Box::pin(async move { _ = pool.map(0..6).for_each(drop).await })
    });
    at_each_await(3, |_, pool| {
        Box::pin(async move { drop(pool.map(0..4).try_collect::<Vec<_>>().await) })
    });
    at_each_await(3, |_, pool| {
        Box::pin(async move {
            let mut map = pool.map(0..6).ordered().window(2);
            while map.next().await.is_some() {}
        })
    });
}

#[test]
fn a_completion_of_a_map_that_goes_on() {
    at_each_await(2, |sim, pool| {
        Box::pin(async move {
            let (mut map, mut read) = (pool.map(0..5), 0);
            loop {
                // Each future of the next completion is dropped after one poll, and nothing is
                // lost.
                match poll_times(map.next(), 1).await {
                    Some(Some(_)) => read += 1,
                    Some(None) => break,
                    None => sim.clock().sleep(Duration::from_millis(3)).await,
                }
            }
            assert_eq!((read, map.summary().unread), (5, 0));
        })
    });
}

#[test]
fn a_group() {
    at_each_await(3, |_, pool| {
        Box::pin(async move {
            let mut group = pool.group().window(4);
            for n in 0..3 {
                if group.submit(n).await.is_err() {
                    return;
                }
            }
            group.next().await;
            drop(group.join().await);
        })
    });
}

#[test]
fn waits_for_fewer_jobs() {
    at_each_await(2, |_, pool| Box::pin(async move { pool.wait_idle().await }));
    at_each_await(2, |_, pool| {
        Box::pin(async move { pool.wait_queued_below(1).await })
    });
    at_each_await(3, |sim, pool| {
        Box::pin(async move {
            // Lets some jobs start.
            sim.clock().sleep(Duration::from_millis(1)).await;
            pool.wait_running_below(1).await;
        })
    });
}

#[test]
fn the_end_of_a_pool() {
    at_each_await(2, |_, pool| Box::pin(async move { pool.drain().await }));
    at_each_await(2, |_, pool| {
        Box::pin(async move { drop(pool.drain_within(Duration::from_millis(15)).await) })
    });
    at_each_await(3, |sim, pool| {
        Box::pin(async move {
            sim.clock().sleep(Duration::from_millis(1)).await;
            drop(pool.abort().await);
        })
    });
}
