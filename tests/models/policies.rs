//! Pools with a schedule: turning it on, delays and the timer role, retries, pauses and resizing.

use std::time::Duration;

use brigade::{RateLimit, Retry};
use shuttle::future::spawn;

use super::*;

/// Advances the clock to the next deadline again and again, until the returned sender is dropped.
fn spawn_clock(clock: &ManualTimer) -> (async_channel::Sender<()>, JoinHandle<()>) {
    let (over, is_over) = async_channel::bounded::<()>(1);
    let clock = clock.clone();
    let task = spawn(future::or(
        async move {
            let _ = is_over.recv().await;
        },
        async move {
            loop {
                clock.sleepers(1).await;
                clock.advance_to_next();
                // The others come first, even where the priorities say otherwise.
                shuttle::future::yield_now().await;
            }
        },
    ));
    (over, task)
}

#[test]
fn the_schedule_may_be_switched_on_while_jobs_come_and_go() {
    explore(|slots| async move {
        let (pool, workers, seen) = pool(2, slots, 8);
        let submitters: Vec<_> = [0, 10]
            .map(|first| {
                let pool = pool.clone();
                spawn(async move {
                    let plain = pool.try_submit(first).expect("there is room");
                    let urgent = pool
                        .job(first + 2)
                        .priority(1)
                        .try_submit()
                        .expect("there is room");
                    assert_eq!((plain.await, urgent.await), (Ok(first), Ok(first + 2)));
                })
            })
            .into();
        join(submitters).await;
        pool.drain().await;
        join(workers).await;
        assert_eq!(seen.started.load(Ordering::SeqCst), 4);
        assert_settled(&pool, &seen, 2 * slots);
    });
}

#[test]
fn a_delayed_job_starts_whichever_worker_has_the_timer_role() {
    explore(|slots| async move {
        let clock = ManualTimer::new();
        let seen = Arc::new(Seen::default());
        let (pool, workers) = Pool::builder()
            .workers(2)
            .jobs_per_worker(slots)
            .timer(clock.clone())
            .build({
                let seen = Arc::clone(&seen);
                move |n: u32| work(n, Arc::clone(&seen))
            });
        let mut workers = workers.into_iter();
        // One of them leaves at any moment; it may be the one that keeps the time.
        let (leave, told) = async_channel::bounded::<()>(1);
        let leaver = spawn(future::or(
            async move {
                let _ = told.recv().await;
            },
            workers.next().expect("two").run(),
        ));
        let stayer = spawn(workers.next().expect("two").run());
        let (over, ticker) = spawn_clock(&clock);
        let jobs: Vec<_> = [1, 2]
            .map(|seconds| {
                let pool = pool.clone();
                spawn(async move {
                    let delay = Duration::from_secs(seconds);
                    let handle = pool
                        .job(0)
                        .delay(delay)
                        .try_submit()
                        .expect("there is room");
                    // It is answered, be it because the leaver ran it.
                    let _ = handle.await;
                })
            })
            .into();
        drop(leave);
        join(jobs).await;
        pool.drain().await;
        drop(over);
        join([leaver, stayer, ticker]).await;
        assert_settled(&pool, &seen, 2 * slots);
        assert!(
            clock.elapsed() <= Duration::from_secs(4),
            "{:?}",
            clock.elapsed()
        );
    });
}

#[test]
fn a_failed_job_is_tried_again_while_other_jobs_run() {
    explore(|slots| async move {
        let clock = ManualTimer::new();
        let seen = Arc::new(Seen::default());
        let builder = Pool::builder()
            .workers(2)
            .jobs_per_worker(slots)
            .timer(clock.clone())
            .retry(Retry::fixed(Duration::from_secs(1)).max_attempts(2));
        let (pool, workers) = builder.build({
            let seen = Arc::clone(&seen);
            move |n: u32| work(n, Arc::clone(&seen))
        });
        let workers: Workers = workers
            .into_iter()
            .map(|worker| spawn(worker.run()))
            .collect();
        let (over, ticker) = spawn_clock(&clock);
        let mut map = pool.map([0, 1]);
        let mut told = Vec::new();
        while let Some(completion) = map.next().await {
            told.push((
                u32::try_from(completion.index).expect("small"),
                completion.attempts,
            ));
        }
        told.sort_unstable();
        assert_eq!(told, [(0, 1), (1, 2)]);
        pool.drain().await;
        drop(over);
        join(workers).await;
        join([ticker]).await;
        assert_eq!(seen.started.load(Ordering::SeqCst), 3);
        assert_settled(&pool, &seen, 2 * slots);
    });
}

#[test]
fn a_rate_is_kept_by_many_threads() {
    explore(|slots| async move {
        let clock = ManualTimer::new();
        let starts = Arc::new(std::sync::Mutex::new(Vec::new()));
        let builder = Pool::builder()
            .workers(2)
            .jobs_per_worker(slots)
            .timer(clock.clone())
            .rate_limit(RateLimit::per_second(1).burst(1));
        let (pool, workers) = builder.build({
            let (starts, clock) = (Arc::clone(&starts), clock.clone());
            move |n: u32| {
                let at = clock.elapsed();
                starts.lock().expect("no task panics").push(at);
                async move { Ok::<_, u32>(n) }
            }
        });
        let workers: Workers = workers
            .into_iter()
            .map(|worker| spawn(worker.run()))
            .collect();
        let (over, ticker) = spawn_clock(&clock);
        let mut handles = Vec::new();
        for n in 0..3 {
            handles.push(pool.try_submit(n).expect("there is room"));
        }
        for handle in handles {
            handle.await.expect("it never fails");
        }
        pool.drain().await;
        drop(over);
        join(workers).await;
        join([ticker]).await;
        let starts = starts.lock().expect("no task panics").clone();
        // The clock may go on between a start and the look at it, so starts are seen late, and
        // never early.
        assert_eq!(starts.len(), 3);
        assert!(
            starts
                .iter()
                .zip(0..)
                .all(|(at, second)| *at >= Duration::from_secs(second)),
            "{starts:?}"
        );
    });
}

#[test]
fn a_pause_and_a_change_of_size_strand_no_job() {
    explore(|slots| async move {
        let (pool, workers, seen) = pool(2, slots, 8);
        let controls = [
            spawn({
                let pool = pool.clone();
                async move {
                    pool.pause();
                    pool.resume();
                }
            }),
            spawn({
                let pool = pool.clone();
                async move {
                    pool.set_workers(1);
                    pool.set_workers(2);
                }
            }),
        ];
        let mut handles = Vec::new();
        for n in [0, 2] {
            handles.push(pool.try_submit(n).expect("there is room"));
        }
        for handle in handles {
            handle.await.expect("even numbers succeed");
        }
        join(controls).await;
        pool.drain().await;
        join(workers).await;
        assert_settled(&pool, &seen, 2 * slots);
    });
}
