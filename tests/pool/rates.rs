//! How often jobs start: the two forms of a limit, what a job costs, and what becomes of those that
//! wait for a permit.

use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brigade::{
    Builder, CancelReason, Event, JobError, ManualTimer, OnError, Outcome, Pool, RateLimit, Retry,
    Submitter,
};
use futures_lite::{StreamExt, future};

use crate::harness::{
    Env, Gate, SECOND, Slots, Starts, assert_over, assert_settled, everywhere, everywhere_once,
    in_both_ways, millis, poll_once, secs, yield_now,
};
use crate::steps::{Steps, step_pool};

/// A pool whose jobs end as soon as they start.
fn brief_pool(env: &Env, builder: Builder<u32, ()>, starts: &Starts<u32>) -> Pool<u32, u32, ()> {
    let starts = starts.clone();
    builder.spawn_on(env, move |n: u32| {
        starts.note(n);
        async move { Ok(n) }
    })
}

/// The same on one thread, for tests that depend on which task is polled when.
fn brief_steps(
    clock: &ManualTimer,
    builder: Builder<u32, ()>,
    starts: &Starts<u32>,
) -> (Pool<u32, u32, ()>, Steps) {
    let starts = starts.clone();
    let (pool, mut steps) = step_pool(builder.timer(clock.clone()), move |n: u32| {
        starts.note(n);
        async move { Ok(n) }
    });
    steps.settle();
    (pool, steps)
}

fn submit_all(pool: &Pool<u32, u32, ()>, inputs: impl IntoIterator<Item = u32>) {
    for n in inputs {
        pool.try_submit(n).unwrap().detach();
    }
}

// ---- a bucket ----

#[test]
fn jobs_start_one_interval_apart() {
    everywhere(|env| async move {
        for rate in [5, 10, 20, 50, 100] {
            let starts = Starts::new(&env.clock);
            let pool = brief_pool(
                &env,
                env.at_once(3).rate_limit(RateLimit::per_second(rate)),
                &starts,
            );
            submit_all(&pool, 0..3);
            starts
                .expect(&pool, (0..3).map(|n| (n, SECOND / rate * n)))
                .await;
            assert_eq!(assert_over(&env, &pool).await.succeeded, 3);
        }
    });
}

#[test]
fn a_bucket_gives_its_burst_at_once_and_then_refills_evenly() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let limit = RateLimit::per(5, secs(10)).burst(5);
        let pool = brief_pool(&env, env.in_order().rate_limit(limit), &starts);
        submit_all(&pool, 0..10);
        starts
            .expect(
                &pool,
                (0..10).zip([0, 0, 0, 0, 0, 2, 4, 6, 8, 10].map(secs)),
            )
            .await;
        assert_over(&env, &pool).await;
    });
}

#[test]
fn after_an_hour_of_rest_no_more_than_the_burst_start_at_once() {
    everywhere(|env| async move {
        let bucket = RateLimit::per_second(1).burst(3);
        let window = RateLimit::sliding_window(3, secs(3));
        for (limit, times) in [(bucket, [0, 0, 0, 1, 2]), (window, [0, 0, 0, 3, 3])] {
            let starts = Starts::new(&env.clock);
            let pool = brief_pool(&env, env.in_order().rate_limit(limit), &starts);
            submit_all(&pool, 0..5);
            starts.expect(&pool, (0..5).zip(times.map(secs))).await;
            env.clock.advance(secs(3600));
            submit_all(&pool, 0..5);
            starts
                .expect(
                    &pool,
                    (0..5).zip(times.map(|at| secs(times[4] + 3600 + at))),
                )
                .await;
            assert_over(&env, &pool).await;
        }
    });
}

// ---- a window ----

#[test]
fn a_sliding_window_lets_a_job_start_when_the_one_before_it_has_left_the_window() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let limit = RateLimit::sliding_window(2, millis(200));
        let pool = brief_pool(&env, env.in_order().rate_limit(limit), &starts);
        submit_all(&pool, [0]);
        starts.expect(&pool, [(0, millis(0))]).await;
        env.clock.advance(millis(120));
        submit_all(&pool, [1]);
        starts.expect(&pool, [(1, millis(120))]).await;
        env.clock.advance(millis(100));
        submit_all(&pool, [2, 3, 4]);
        starts
            .expect(
                &pool,
                [(2, millis(220)), (3, millis(320)), (4, millis(420))],
            )
            .await;
        assert_over(&env, &pool).await;
    });
}

#[test]
fn of_five_thousand_ready_jobs_a_window_of_a_thousand_lets_a_thousand_start_in_each_second() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let noted = starts.clone();
        let limit = RateLimit::sliding_window(1000, SECOND);
        let builder = env.at_once(5000).queue_capacity(5000).rate_limit(limit);
        let pool = builder.spawn_on(&env, move |n: u64| {
            noted.note(());
            async move { Ok::<_, ()>(n) }
        });
        let run = pool.map(0..5000).for_each(drop);
        let (summary, ()) = future::zip(
            run,
            starts.expect(&pool, (0..5000).map(|n| ((), secs(n / 1000)))),
        )
        .await;
        assert_eq!((summary.succeeded, summary.is_complete()), (5000, true));
        assert_over(&env, &pool).await;
    });
}

// ---- what any window sees ----

/// Starts of jobs of costs from 0 to 3 that come in irregular crowds: when, and at what cost. On
/// one thread, so that each start is seen at its very time.
fn irregular_starts(limit: RateLimit, seed: u64) -> Vec<(u32, Duration)> {
    let clock = ManualTimer::new();
    let starts = Starts::new(&clock);
    let builder = Slots::BOTH[seed as usize % 2].at_once(Pool::builder(), 4);
    let builder = builder.rate_limit(limit).cost_by(|cost| *cost);
    let (pool, mut steps) = brief_steps(&clock, builder, &starts);
    let (submitter, timer) = (pool.clone(), clock.clone());
    steps.add("submitter", async move {
        let mut dice = fastrand::Rng::with_seed(seed);
        for _ in 0..40 {
            submit_all(&submitter, (0..dice.u32(1..12)).map(|_| dice.u32(0..=3)));
            timer.sleep(millis(dice.u64(1..5000))).await;
        }
    });
    steps.run_out(&clock);
    let seen = starts.take();
    assert_eq!(seen.len() as u64, assert_settled(&pool).succeeded);
    seen
}

#[test]
fn no_stretch_of_time_sees_more_than_the_burst_and_what_comes_meanwhile() {
    let mut most_at_once = 0;
    for seed in 0..20 {
        let starts = irregular_starts(RateLimit::per(4, SECOND).burst(7), seed);
        for (first, (_, from)) in starts.iter().enumerate() {
            let mut taken = 0;
            for (cost, at) in &starts[first..] {
                taken += u128::from(*cost);
                let stretch = (*at - *from).as_nanos();
                assert!(
                    taken * SECOND.as_nanos() <= 7 * SECOND.as_nanos() + 4 * stretch,
                    "seed {seed}: {starts:?}"
                );
                if stretch == 0 {
                    most_at_once = most_at_once.max(taken);
                }
            }
        }
    }
    assert_eq!(most_at_once, 7, "the limit was never reached");
}

#[test]
fn no_period_sees_more_than_the_number_of_a_sliding_window() {
    for seed in 0..20 {
        let starts = irregular_starts(RateLimit::sliding_window(7, SECOND * 2), seed);
        let in_period_from = |first: usize| -> u32 {
            let (_, from) = starts[first];
            starts[first..]
                .iter()
                .take_while(|(_, at)| *at - from < SECOND * 2)
                .map(|(cost, _)| cost)
                .sum()
        };
        assert_eq!(
            (0..starts.len()).map(in_period_from).max(),
            Some(7),
            "seed {seed}: {starts:?}"
        );
    }
}

// ---- what does not start ----

#[test]
fn a_job_that_is_cancelled_while_it_waits_takes_no_permit_and_no_slot() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let pool = brief_pool(
            &env,
            env.in_order().rate_limit(RateLimit::every(SECOND)),
            &starts,
        );
        submit_all(&pool, [0]);
        starts.expect(&pool, [(0, secs(0))]).await;
        let (dropped, cancelled) = (pool.try_submit(1).unwrap(), pool.try_submit(2).unwrap());
        submit_all(&pool, [3]);
        let mut map = pool.map([4, 5]);
        assert_eq!(poll_once(pin!(map.next())), None);
        submit_all(&pool, [6]);
        drop(dropped);
        assert_eq!(cancelled.cancel().await, None);
        map.cancel();
        let results = map
            .map(|completion| (completion.attempts, completion.result))
            .collect::<Vec<_>>()
            .await;
        assert_eq!(
            results,
            [(); 2].map(|()| (0, Err(JobError::Cancelled(CancelReason::Stream))))
        );
        starts.expect(&pool, [(3, secs(1)), (6, secs(2))]).await;
        let stats = assert_over(&env, &pool).await;
        assert_eq!(
            (stats.accepted, stats.succeeded, stats.cancelled),
            (7, 3, 4)
        );
    });
}

#[test]
fn a_permit_of_a_job_that_is_cancelled_on_its_way_to_a_worker_goes_to_the_next_one_and_to_no_other()
{
    // One thread, since the job is cancelled when it has its permit and its worker has not been
    // polled.
    in_both_ways(|slots| {
        for limit in [
            RateLimit::every(SECOND),
            RateLimit::sliding_window(1, SECOND),
        ] {
            for is_streamed in [false, true] {
                let clock = ManualTimer::new();
                let starts = Starts::new(&clock);
                let (pool, mut steps) = brief_steps(
                    &clock,
                    slots.at_once(Pool::builder(), 2).rate_limit(limit),
                    &starts,
                );
                let handle = (!is_streamed).then(|| pool.try_submit(0).unwrap());
                let mut map = pool.map(is_streamed.then_some(0));
                assert_eq!(poll_once(pin!(map.next())).is_none(), is_streamed);
                clock.advance(millis(500));
                drop((handle, map));
                submit_all(&pool, 1..4);
                steps.run_out(&clock);
                assert_eq!(
                    starts.take(),
                    [(1, millis(500)), (2, millis(1500)), (3, millis(2500))],
                    "{limit:?}"
                );
                assert_eq!(assert_settled(&pool).cancelled, 1);
            }
        }
    });
}

#[test]
fn a_job_that_a_pause_stops_on_its_way_to_a_worker_gives_its_permit_back() {
    // One thread, since the pause comes when the job has its permit and its worker has not been
    // polled.
    in_both_ways(|slots| {
        for limit in [
            RateLimit::every(SECOND),
            RateLimit::sliding_window(1, SECOND),
        ] {
            let clock = ManualTimer::new();
            let starts = Starts::new(&clock);
            let (pool, mut steps) = brief_steps(
                &clock,
                slots.at_once(Pool::builder(), 2).rate_limit(limit),
                &starts,
            );
            submit_all(&pool, 0..3);
            pool.pause();
            steps.run_out(&clock);
            assert_eq!((starts.take(), pool.stats().queued), (vec![], 3));
            clock.advance(millis(100));
            pool.resume();
            steps.run_out(&clock);
            assert_eq!(
                starts.take(),
                [(0, millis(100)), (1, millis(1100)), (2, millis(2100))],
                "{limit:?}"
            );
            assert_settled(&pool);
        }
    });
}

// ---- attempts ----

#[test]
fn every_attempt_takes_a_permit() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let noted = starts.clone();
        let builder = env.at_once(2).rate_limit(RateLimit::every(SECOND));
        let pool = builder
            .retry(Retry::fixed(Duration::ZERO).max_attempts(3))
            .spawn_on(&env, move |n: u32| {
                noted.note(n);
                async move { Err::<(), _>(n) }
            });
        let handles = [pool.try_submit(0).unwrap(), pool.try_submit(1).unwrap()];
        starts
            .expect(&pool, [0, 0, 0, 1, 1, 1].into_iter().zip((0..).map(secs)))
            .await;
        for (n, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.await, Err(JobError::Failed(n as u32)));
        }
        assert_eq!(assert_over(&env, &pool).await.retries, 4);
    });
}

// ---- costs ----

#[test]
fn an_expensive_job_is_not_overtaken_by_cheap_ones_that_keep_coming() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let limit = RateLimit::per_second(1).burst(5);
        let builder = env.in_order().rate_limit(limit).cost_by(|cost| *cost);
        let pool = brief_pool(&env, builder, &starts);
        submit_all(&pool, [3, 5, 1, 0]);
        starts.expect(&pool, [(3, secs(0))]).await;
        // Two permits are left, and one more comes each second; the expensive job needs all five.
        for second in 1..3 {
            env.clock.sleepers(1).await;
            submit_all(&pool, [1]);
            env.clock.advance(SECOND);
            assert_eq!((starts.take(), env.clock.elapsed()), (vec![], secs(second)));
        }
        starts
            .expect(
                &pool,
                [5, 1, 0, 1, 1].into_iter().zip([3, 4, 4, 5, 6].map(secs)),
            )
            .await;
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_window_counts_costs() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let limit = RateLimit::sliding_window(5, secs(10));
        let builder = env.in_order().rate_limit(limit).cost_by(|cost| *cost);
        let pool = brief_pool(&env, builder, &starts);
        submit_all(&pool, [3, 2, 0, 4]);
        starts
            .expect(&pool, [3, 2, 0].into_iter().zip([0; 3].map(secs)))
            .await;
        starts.expect(&pool, [(4, secs(10))]).await;
        submit_all(&pool, [1, 1]);
        starts.expect(&pool, [(1, secs(10)), (1, secs(20))]).await;
        assert_over(&env, &pool).await;
    });
}

#[test]
fn the_cost_is_asked_for_once_a_job_by_its_submission() {
    everywhere(|env| async move {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let caller = std::thread::current().id();
        let pool = env
            .in_order()
            .cost_by(move |n: &u32| {
                log.lock()
                    .unwrap()
                    .push((*n, std::thread::current().id() == caller));
                1
            })
            .retry(Retry::fixed(Duration::ZERO).max_attempts(3))
            .spawn_on(&env, |n: u32| async move { Err::<(), _>(n) });
        pool.pause();
        let handle = pool.try_submit(0).unwrap();
        let mut map = pool.map([1, 2]).ordered();
        assert_eq!(poll_once(pin!(map.next())), None);
        pool.resume();
        assert_eq!(handle.await, Err(JobError::Failed(0)));
        assert_eq!(
            (&mut map)
                .map(|c| (c.attempts, c.result))
                .collect::<Vec<_>>()
                .await,
            [1, 2].map(|n| (3, Err(JobError::Failed(n))))
        );
        assert_eq!(*asked.lock().unwrap(), [0, 1, 2].map(|n| (n, true)));
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_panic_of_the_cost_is_the_outcome_of_its_job_and_of_no_other() {
    everywhere(|env| async move {
        let (pool, workers) = env
            .in_order()
            .rate_limit(RateLimit::per_second(1).burst(20))
            .cost_by(|n: &u32| {
                if *n == 7 {
                    resume_unwind(Box::new("seven"))
                } else {
                    *n
                }
            })
            .build_with_submitter(
                |n: u32, jobs: Submitter<u32, u32, &'static str>| async move {
                    if n == 2 {
                        jobs.add(7).unwrap();
                        assert_eq!(outcome(jobs.submit(7).unwrap().await), seven());
                    }
                    Ok(n)
                },
            );
        workers.spawn_on(&env);
        let [costly, cheap] = [7, 1].map(|n| pool.try_submit(n).unwrap());
        assert_eq!(
            (outcome(costly.await), outcome(cheap.await)),
            (seven(), Ok(1))
        );
        let mut map = pool.map([7, 1, 2]).ordered();
        let completions = (&mut map)
            .map(|c| (c.attempts, c.input, outcome(c.result)))
            .collect::<Vec<_>>()
            .await;
        assert_eq!(
            completions,
            [
                (0, Some(7), seven()),
                (1, None, Ok(1)),
                (1, None, Ok(2)),
                (0, Some(7), seven())
            ]
        );
        assert_eq!(
            (map.summary().panicked, map.summary().is_complete()),
            (2, true)
        );
        let stats = assert_over(&env, &pool).await;
        assert_eq!((stats.accepted, stats.succeeded, stats.panicked), (7, 3, 4));
    });
}

/// The result, with the error as its text.
fn outcome<T>(result: Result<T, JobError<&'static str>>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

fn seven<T>() -> Result<T, String> {
    Err("the job panicked: seven".into())
}

/// A job that costs more than its limit ever allows.
const TOO_COSTLY: JobError<()> = JobError::CostExceedsLimit {
    cost: 4,
    max_cost: 3,
};

#[test]
fn a_job_that_costs_too_much_ends_at_once_however_it_is_submitted() {
    everywhere(|env| async move {
        let rejected = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&rejected);
        let unhandled = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&unhandled);
        let (pool, workers) = env
            .in_order()
            .rate_limit(RateLimit::per_second(1).burst(3))
            .cost_by(|cost: &u32| *cost)
            .observe(move |event: &Event| {
                if let Event::Finished {
                    outcome: Outcome::Rejected,
                    attempts: 0,
                    ..
                } = event
                {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            })
            .build_with_submitter(|n: u32, jobs: Submitter<u32, u32, ()>| async move {
                jobs.add(4).unwrap();
                assert_eq!(jobs.submit(4).unwrap().await, Err(TOO_COSTLY));
                Ok(n)
            });
        workers.spawn_on(&env);
        pool.on_unhandled(move |failure| {
            log.lock().unwrap().push((failure.attempts, failure.error));
        });
        assert_eq!(pool.try_submit(4).unwrap().await, Err(TOO_COSTLY));
        assert_eq!(pool.submit(1).await.unwrap().await, Ok(1));
        assert_eq!(
            *unhandled.lock().unwrap(),
            [(0, TOO_COSTLY)],
            "that of the job that was added"
        );
        let mut map = pool.map([4, 1]).ordered();
        let completions = (&mut map)
            .map(|c| (c.attempts, c.input, c.result))
            .collect::<Vec<_>>()
            .await;
        assert_eq!(
            completions,
            [
                (0, Some(4), Err(TOO_COSTLY)),
                (1, None, Ok(1)),
                (0, Some(4), Err(TOO_COSTLY))
            ]
        );
        assert_eq!(
            (map.summary().rejected, map.summary().is_complete()),
            (2, true)
        );
        let group = pool.group();
        group.submit(4).await.unwrap();
        let completions: Vec<_> = group
            .join()
            .await
            .into_iter()
            .map(|c| (c.attempts, c.input, c.result))
            .collect();
        assert_eq!(completions, [(0, Some(4), Err(TOO_COSTLY))]);
        let stats = assert_over(&env, &pool).await;
        assert_eq!((stats.accepted, stats.succeeded, stats.rejected), (9, 2, 7));
        assert_eq!(rejected.load(Ordering::SeqCst), 7);
    });
}

#[test]
fn a_job_that_costs_too_much_does_not_wait_for_its_turn() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let pass = gate.clone();
        let builder = env
            .in_order()
            .rate_limit(RateLimit::per_second(1).burst(3))
            .cost_by(|cost| *cost);
        let pool = builder.spawn_on(&env, move |n: u32| {
            let gate = pass.clone();
            async move {
                gate.pass().await;
                Ok::<_, ()>(n)
            }
        });
        // While one runs, another one waits, and the pool is paused; and though it is delayed.
        submit(&pool, 3).detach();
        gate.arrived(1).await;
        submit(&pool, 3).detach();
        pool.pause();
        let mut costly = submit(&pool, 4);
        assert_eq!(poll_once(Pin::new(&mut costly)), Some(Err(TOO_COSTLY)));
        let mut delayed = pool.job(4).delay(SECOND).try_submit().unwrap();
        assert_eq!(poll_once(Pin::new(&mut delayed)), Some(Err(TOO_COSTLY)));
        let mut map = pool.map([4]);
        assert_eq!(
            poll_once(pin!(map.next())).flatten().map(|c| c.result),
            Some(Err(TOO_COSTLY))
        );
        let stats = pool.stats();
        assert_eq!((stats.queued, stats.running, stats.rejected), (1, 1, 3));
        pool.resume();
        gate.open(2);
        env.clock.sleepers(1).await;
        env.clock.advance(secs(3));
        assert_over(&env, &pool).await;
    });
}

fn submit(pool: &Pool<u32, u32, ()>, n: u32) -> brigade::JobHandle<u32, u32, ()> {
    pool.try_submit(n).unwrap()
}

#[test]
fn the_smaller_limit_says_what_costs_too_much() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let limit = |burst| RateLimit::per_second(1).burst(burst);
        let costing = || env.in_order().cost_by(|cost| *cost).key_by(|_| "one");
        for builder in [
            costing().rate_limit_per_key(limit(3)),
            costing().rate_limit(limit(5)).rate_limit_per_key(limit(3)),
            costing()
                .rate_limit(limit(3))
                .rate_limit_per_key(RateLimit::sliding_window(5, SECOND)),
        ] {
            let pool = brief_pool(&env, builder, &starts);
            assert_eq!(
                (submit(&pool, 4).await, submit(&pool, 3).await),
                (Err(TOO_COSTLY), Ok(3))
            );
            assert_over(&env, &pool).await;
        }
    });
}

#[test]
fn the_rejection_of_a_costly_job_is_a_failure_that_stops_its_map() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let limit = RateLimit::sliding_window(3, SECOND);
        let builder = env.in_order().rate_limit(limit).cost_by(|cost| *cost);
        let pool = brief_pool(&env, builder, &starts);
        let mut map = pool.map([3, 4, 1]).on_error(OnError::Stop).ordered();
        let seen = (&mut map)
            .skip(1)
            .map(|c| c.result)
            .collect::<Vec<_>>()
            .await;
        assert_eq!(
            seen,
            [
                Err(TOO_COSTLY),
                Err(JobError::Cancelled(CancelReason::Stopped))
            ]
        );
        assert_over(&env, &pool).await;
    });
}

// ---- another limit ----

/// Lets others notice a change before the clock moves: on one thread for sure, on several as a
/// rule.
async fn let_others_look() {
    for _ in 0..100 {
        yield_now().await;
    }
}

#[test]
fn a_faster_rate_counts_at_once_for_jobs_that_wait() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let pool = brief_pool(
            &env,
            env.in_order().rate_limit(RateLimit::every(secs(10))),
            &starts,
        );
        submit_all(&pool, 0..4);
        starts.expect(&pool, [(0, secs(0))]).await;
        env.clock.sleepers(1).await;
        pool.set_rate_limit(RateLimit::every(SECOND));
        let_others_look().await;
        env.clock.advance(SECOND);
        starts
            .expect(&pool, (1..4).map(|n| (n, secs(n.into()))))
            .await;
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_slower_rate_counts_at_once_for_jobs_that_wait() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let pool = brief_pool(
            &env,
            env.in_order().rate_limit(RateLimit::every(SECOND)),
            &starts,
        );
        submit_all(&pool, 0..3);
        starts.expect(&pool, [(0, secs(0))]).await;
        env.clock.sleepers(1).await;
        pool.set_rate_limit(RateLimit::every(secs(10)));
        starts.expect(&pool, [(1, secs(10)), (2, secs(20))]).await;
        assert_over(&env, &pool).await;
    });
}

#[test]
fn without_a_rate_all_jobs_that_wait_start_at_once() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let pool = brief_pool(
            &env,
            env.in_order().rate_limit(RateLimit::every(SECOND)),
            &starts,
        );
        submit_all(&pool, 0..5);
        starts.expect(&pool, [(0, secs(0))]).await;
        pool.set_rate_limit(None);
        starts.expect(&pool, (1..5).map(|n| (n, secs(0)))).await;
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_rate_that_is_set_first_while_jobs_wait_counts_from_then_on() {
    everywhere_once(|env| async move {
        let (gate, starts) = (Gate::new(), Starts::new(&env.clock));
        let (pass, noted) = (gate.clone(), starts.clone());
        // A pool without any policy until then.
        let pool = env.builder().workers(1).spawn_on(&env, move |n: u32| {
            noted.note(n);
            let gate = pass.clone();
            async move {
                gate.pass().await;
                Ok::<_, ()>(n)
            }
        });
        submit_all(&pool, 0..4);
        gate.arrived(1).await;
        pool.set_rate_limit(RateLimit::every(SECOND));
        gate.open(4);
        starts
            .expect(&pool, (0..4).zip([0, 0, 1, 2].map(secs)))
            .await;
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_rate_counts_for_what_is_on_its_way_to_a_worker() {
    // On one thread, so that no worker has come to the jobs when the rate is set.
    in_both_ways(|slots| {
        for before in [None, Some(RateLimit::per_second(1).burst(9))] {
            let clock = ManualTimer::new();
            let starts = Starts::new(&clock);
            let builder = slots.at_once(Pool::builder(), 3);
            let builder = if let Some(limit) = before {
                builder.rate_limit(limit)
            } else {
                builder
            };
            let (pool, mut steps) = brief_steps(&clock, builder, &starts);
            submit_all(&pool, 0..4);
            pool.set_rate_limit(RateLimit::every(SECOND));
            steps.run_out(&clock);
            assert_eq!(
                starts.take(),
                (0..4).map(|n| (n, secs(n.into()))).collect::<Vec<_>>()
            );
            assert_settled(&pool);
        }
    });
}

#[test]
fn another_rate_grants_no_new_burst() {
    everywhere(|env| async move {
        let bucket = |burst| RateLimit::per_second(1).burst(burst);
        let window = |permits| RateLimit::sliding_window(permits, secs(10));
        // Three have started under the first limit; when do three more start under the second?
        for (first, second, times) in [
            (bucket(3), bucket(3), [1, 2, 3]),
            (bucket(3), bucket(4), [0, 1, 2]),
            (bucket(3), bucket(1), [1, 2, 3]),
            (bucket(3), window(4), [0, 10, 10]),
            (window(3), window(4), [0, 10, 10]),
            (window(3), window(2), [10, 10, 20]),
            (window(3), bucket(4), [0, 1, 2]),
        ] {
            let starts = Starts::new(&env.clock);
            let pool = brief_pool(&env, env.in_order().rate_limit(first), &starts);
            submit_all(&pool, 0..3);
            starts.expect(&pool, (0..3).map(|n| (n, secs(0)))).await;
            pool.wait_idle().await;
            pool.set_rate_limit(second);
            submit_all(&pool, 3..6);
            starts.expect(&pool, (3..6).zip(times.map(secs))).await;
            assert_over(&env, &pool).await;
        }
    });
}

#[test]
fn a_queued_job_that_a_new_limit_makes_too_costly_ends() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let builder = env
            .in_order()
            .rate_limit(RateLimit::per_second(1).burst(5))
            .cost_by(|cost| *cost);
        let pool = brief_pool(&env, builder, &starts);
        submit_all(&pool, [5]);
        starts.expect(&pool, [(5, secs(0))]).await;
        // At the head of the line, behind it, and delayed.
        let costly = [
            submit(&pool, 4),
            submit(&pool, 4),
            pool.job(4).delay(secs(60)).try_submit().unwrap(),
        ];
        submit_all(&pool, [3]);
        env.clock.sleepers(1).await;
        pool.set_rate_limit(RateLimit::every(secs(2)).burst(3));
        for mut handle in costly {
            assert_eq!(poll_once(Pin::new(&mut handle)), Some(Err(TOO_COSTLY)));
        }
        starts.expect(&pool, [(3, secs(6))]).await;
        assert_over(&env, &pool).await;
    });
}
// ---- what it costs to wait ----

#[test]
fn a_permit_wakes_no_more_than_two_workers_however_many_jobs_wait() {
    // One thread, and workers that are polled only when they were woken, since their polls are
    // counted.
    for workers in [1, 2, 10, 1000] {
        let clock = ManualTimer::new();
        let starts = Starts::new(&clock);
        let (pool, mut steps) = brief_steps(
            &clock,
            Pool::builder()
                .workers(workers)
                .rate_limit(RateLimit::per_second(10)),
            &starts,
        );
        let polls = |steps: &Steps| {
            (0..workers)
                .map(|worker| steps.polls(worker))
                .sum::<usize>()
        };
        submit_all(&pool, 0..1000);
        steps.settle();
        assert_eq!(starts.take(), [(0, secs(0))]);
        let before = polls(&steps);
        steps.run_out(&clock);
        assert_eq!(
            starts.take(),
            (1..1000).map(|n| (n, millis(100) * n)).collect::<Vec<_>>()
        );
        let woken = polls(&steps) - before;
        assert!(
            woken <= 2 * 999,
            "{woken} polls of {workers} workers for 999 permits"
        );
        assert_settled(&pool);
    }
}
