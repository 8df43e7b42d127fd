//! Limits of time where a schedule decides when jobs start: a job's own time counts wherever it
//! waits, an attempt's from its start, and that of a map whatever its jobs do.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brigade::rt::BoxFuture;
use brigade::{
    Builder, CancelReason, CollectError, Completion, End, JobError, JobHandle, ManualTimer, Pool,
    RateLimit, Retry, TimeLimit, Timer,
};
use futures_lite::{StreamExt, future};

use crate::harness::{
    Env, Gate, HOUR, SECOND, Starts, assert_over, assert_settled, everywhere, in_both_ways, millis,
    poll_once, secs, yield_now,
};

type Jobs = Pool<u32, u32, u32>;
type Handle = JobHandle<u32, u32, u32>;

/// A pool whose jobs end as soon as they start; those of an odd number fail.
fn brief_pool(env: &Env, builder: Builder<u32, u32>, starts: &Starts<u32>) -> Jobs {
    let starts = starts.clone();
    builder.spawn_on(env, move |n: u32| {
        starts.note(n);
        async move { if n.is_multiple_of(2) { Ok(n) } else { Err(n) } }
    })
}

/// A pool whose jobs wait at the gate.
fn gated_pool(env: &Env, builder: Builder<u32, u32>, gate: &Gate) -> Jobs {
    let gate = gate.clone();
    builder.spawn_on(env, move |n: u32| {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            Ok(n)
        }
    })
}

/// A pool whose jobs sleep for as many milliseconds as their input says.
fn sleeping_pool(env: &Env, builder: Builder<u32, u32>) -> Jobs {
    let clock = env.clock.clone();
    builder.spawn_on(env, move |n: u32| {
        let clock = clock.clone();
        async move {
            clock.sleep(millis(n.into())).await;
            Ok(n)
        }
    })
}

const fn timed_out(limit: TimeLimit) -> Result<u32, JobError<u32>> {
    Err(JobError::TimedOut(limit))
}

/// What matters of a completion.
fn outcome(
    completion: Completion<u32, u32, u32>,
) -> (u32, Option<u32>, Result<u32, JobError<u32>>) {
    (completion.attempts, completion.input, completion.result)
}

/// Expects that these jobs have no outcome a millisecond before that time, and have run out of
/// their own time then.
async fn expect_to_end_at<In, T, E>(
    env: &Env,
    pool: &Pool<In, T, E>,
    handles: &[Handle],
    at: Duration,
) {
    let timed_out = pool.stats().timed_out;
    env.clock.advance(at - env.clock.elapsed() - millis(1));
    for _ in 0..100 {
        yield_now().await;
    }
    assert!(handles.iter().all(|handle| !handle.is_finished()));
    assert_eq!(pool.stats().timed_out, timed_out);
    env.clock.advance(millis(1));
}

// ---- the time of a job ----

#[test]
fn jobs_run_out_of_their_time_in_the_queue_though_all_workers_are_busy() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let builder = env.at_once(2).queue_capacity(3).job_timeout(SECOND);
        let pool = gated_pool(&env, builder, &gate);
        let busy = [0, 1].map(|n| pool.job(n).timeout(HOUR).try_submit().unwrap());
        gate.arrived(2).await;
        let handles = [pool.try_submit(2).unwrap()];
        let (mut map, group) = (pool.map([3]), pool.group());
        assert_eq!(poll_once(pin!(map.next())), None);
        group.try_submit(4).unwrap();
        assert!(pool.try_submit(5).unwrap_err().is_full());
        // The limits of those that run, and the alarm of the pool.
        env.clock.sleepers(3).await;
        expect_to_end_at(&env, &pool, &handles, SECOND).await;
        let [handle] = handles;
        assert_eq!(handle.await, timed_out(TimeLimit::Job));
        assert_eq!(
            map.next().await.map(outcome),
            Some((0, Some(3), timed_out(TimeLimit::Job)))
        );
        let joined: Vec<_> = group.join().await.into_iter().map(outcome).collect();
        assert_eq!(joined, [(0, Some(4), timed_out(TimeLimit::Job))]);
        // Their places are free, while the others still run.
        let next = [5, 6, 7].map(|n| pool.try_submit(n).unwrap());
        assert_eq!((pool.stats().running, pool.stats().timed_out), (2, 3));
        gate.open(5);
        for (n, handle) in [0, 1, 5, 6, 7]
            .into_iter()
            .zip(busy.into_iter().chain(next))
        {
            assert_eq!(handle.await, Ok(n));
        }
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_job_runs_out_of_its_time_before_its_delay_is_over() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let pool = brief_pool(&env, env.in_order(), &starts);
        // At the very moment of its deadline none starts.
        let delayed = |n, delay| {
            pool.job(n)
                .delay(delay)
                .timeout(secs(5))
                .try_submit()
                .unwrap()
        };
        let handles = [
            delayed(0, HOUR),
            delayed(2, secs(5)),
            delayed(4, Duration::MAX),
        ];
        env.clock.sleepers(1).await;
        expect_to_end_at(&env, &pool, &handles, secs(5)).await;
        for handle in handles {
            assert_eq!(handle.await, timed_out(TimeLimit::Job));
        }
        let in_time = pool
            .job(6)
            .delay(secs(4))
            .timeout(secs(5))
            .try_submit()
            .unwrap();
        starts.expect(&pool, [(6, secs(9))]).await;
        assert_eq!(in_time.await, Ok(6));
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_job_that_waits_for_a_permit_runs_out_of_its_time_and_leaves_the_permit_to_the_next() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let pool = brief_pool(
            &env,
            env.in_order().rate_limit(RateLimit::every(secs(10))),
            &starts,
        );
        let first = pool.try_submit(0).unwrap();
        assert_eq!(first.await, Ok(0));
        let late = pool.job(2).timeout(secs(4)).try_submit().unwrap();
        // At the very moment at which it might start its time is over.
        let too_late = pool.job(4).timeout(secs(10)).try_submit().unwrap();
        let last = pool.try_submit(6).unwrap();
        let handles = [late];
        env.clock.sleepers(1).await;
        expect_to_end_at(&env, &pool, &handles, secs(4)).await;
        let [late] = handles;
        assert_eq!(late.await, timed_out(TimeLimit::Job));
        starts.expect(&pool, [(0, secs(0)), (6, secs(10))]).await;
        assert_eq!(
            (too_late.await, last.await),
            (timed_out(TimeLimit::Job), Ok(6))
        );
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_job_that_waits_for_another_attempt_runs_out_of_its_time_with_the_attempts_it_had() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let builder = env
            .in_order()
            .job_timeout(secs(15))
            .retry(Retry::fixed(secs(10)));
        let pool = brief_pool(&env, builder, &starts);
        let handles = [pool.try_submit(1).unwrap()];
        let mut map = pool.map([3]);
        assert_eq!(poll_once(pin!(map.next())), None);
        starts.expect(&pool, [(1, secs(0)), (3, secs(0))]).await;
        while pool.stats().delayed < 2 {
            yield_now().await;
        }
        // They may go on at ten seconds, and are held back until their time is over.
        pool.pause();
        expect_to_end_at(&env, &pool, &handles, secs(15)).await;
        let [handle] = handles;
        assert_eq!(handle.await, timed_out(TimeLimit::Job));
        assert_eq!(
            map.next().await.map(outcome),
            Some((1, Some(3), timed_out(TimeLimit::Job)))
        );
        pool.resume();
        assert_eq!(assert_over(&env, &pool).await.timed_out, 2);
        assert_eq!(starts.take(), []);
    });
}

#[test]
fn the_jobs_of_one_map_run_out_of_their_time_while_they_wait() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let pool = brief_pool(&env, env.one_by_one().job_timeout(SECOND), &starts);
        pool.pause();
        let mut map = pool.map(0..3);
        assert_eq!(poll_once(pin!(map.next())), None);
        env.clock.sleepers(1).await;
        env.clock.advance(SECOND);
        for index in 0..3 {
            assert_eq!(
                map.next().await.map(outcome),
                Some((0, Some(index), timed_out(TimeLimit::Job)))
            );
        }
        pool.resume();
        assert_eq!(assert_over(&env, &pool).await.timed_out, 3);
        assert_eq!(starts.take(), []);
    });
}

#[test]
fn a_job_of_a_paused_pool_runs_out_of_its_time() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let pool = brief_pool(&env, env.in_order().job_timeout(SECOND), &starts);
        pool.pause();
        let handles = [pool.try_submit(0).unwrap()];
        let last = pool.job(2).timeout(HOUR).try_submit().unwrap();
        env.clock.sleepers(1).await;
        expect_to_end_at(&env, &pool, &handles, SECOND).await;
        let [handle] = handles;
        assert_eq!(handle.await, timed_out(TimeLimit::Job));
        pool.resume();
        assert_eq!(last.await, Ok(2));
        assert_over(&env, &pool).await;
    });
}

#[test]
fn the_time_of_a_job_counts_its_waits_and_all_its_attempts() {
    everywhere(|env| async move {
        // Attempts end at five seconds; the next one comes a second later.
        for (own, attempts, limit) in [
            (secs(4), 1_u64, TimeLimit::Job),
            (secs(10), 2, TimeLimit::Job),
            // A third attempt would start when the time is over.
            (secs(12), 2, TimeLimit::Attempt),
            (secs(13), 3, TimeLimit::Job),
            (HOUR, 3, TimeLimit::Attempt),
            (Duration::MAX, 3, TimeLimit::Attempt),
        ] {
            for is_pools in [false, true] {
                let gate = Gate::new();
                let builder = env
                    .in_order()
                    .attempt_timeout(secs(5))
                    .retry(Retry::fixed(SECOND));
                let (with_own, began) = (builder.clone().job_timeout(own), env.clock.elapsed());
                let pool = gated_pool(
                    &env,
                    if is_pools {
                        with_own
                    } else {
                        builder.job_timeout(secs(2))
                    },
                    &gate,
                );
                let job = pool.job(0);
                let job = if is_pools { job } else { job.timeout(own) };
                let handle = job.try_submit().unwrap();
                for attempt in 1..=attempts {
                    gate.arrived(1).await;
                    env.clock.sleepers(1).await;
                    env.clock.advance_to_next();
                    if attempt < attempts {
                        pool.wait_running_below(1).await;
                        env.clock.sleepers(1).await;
                        env.clock.advance_to_next();
                    }
                }
                assert_eq!(handle.await, timed_out(limit));
                let expected = own.min(secs(6 * attempts - 1));
                assert_eq!(env.clock.elapsed() - began, expected);
                let stats = assert_over(&env, &pool).await;
                assert_eq!((stats.timed_out, stats.retries), (1, attempts - 1));
            }
        }
    });
}

#[test]
fn a_result_at_the_very_moment_at_which_its_job_runs_out_of_time_wins() {
    everywhere(|env| async move {
        let builder = env
            .in_order()
            .rate_limit(RateLimit::per_second(1).burst(9))
            .job_timeout(millis(50));
        let pool = sleeping_pool(&env, builder.retry(Retry::fixed(SECOND)));
        let (handle, mut map) = (pool.try_submit(50).unwrap(), pool.map([50]));
        env.clock.sleepers(2).await;
        env.clock.advance(millis(50));
        assert_eq!(handle.await, Ok(50));
        assert_eq!(poll_once(pin!(map.next())), None);
        env.clock.sleepers(2).await;
        env.clock.advance(millis(50));
        assert_eq!(map.next().await.map(outcome), Some((1, None, Ok(50))));
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_cancellation_wins_over_a_limit_that_passes_later() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let builder = env
            .at_once(2)
            .job_timeout(SECOND)
            .attempt_timeout(SECOND)
            .retry(Retry::fixed(SECOND));
        let pool = gated_pool(&env, builder, &gate);
        let running = pool.try_submit(0).unwrap();
        let mut map = pool.map([1]);
        assert_eq!(poll_once(pin!(map.next())), None);
        gate.arrived(2).await;
        let (queued, delayed) = (
            pool.try_submit(2).unwrap(),
            pool.job(3).delay(millis(1)).try_submit().unwrap(),
        );
        env.clock.sleepers(3).await;
        let cancelled = [running.cancel(), queued.cancel(), delayed.cancel()];
        map.cancel();
        // The workers may not have been polled in between.
        env.clock.advance(SECOND);
        for cancelling in cancelled {
            assert_eq!(cancelling.await, None);
        }
        let cancelled = Err(JobError::Cancelled(CancelReason::Stream));
        assert_eq!(map.next().await.map(outcome), Some((1, None, cancelled)));
        let stats = assert_over(&env, &pool).await;
        assert_eq!((stats.cancelled, stats.timed_out), (4, 0));
    });
}

/// A clock whose first `sleep_until` calls a closure before it sleeps.
struct Meddling {
    clock: ManualTimer,
    first: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Timer for Meddling {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        let first = self.first.lock().unwrap().take();
        first.into_iter().for_each(|meddle| meddle());
        self.clock.sleep_until(at)
    }
}

#[test]
fn a_cancellation_that_comes_right_before_the_worker_finds_the_limit_passed_wins() {
    // One thread, and a clock that stands in for another one: the worker is in the middle of a
    // poll.
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let place: Arc<Mutex<Option<Handle>>> = Arc::default();
        let (handle, moved) = (Arc::clone(&place), clock.clone());
        let first: Box<dyn FnOnce() + Send> = Box::new(move || {
            drop(handle.lock().unwrap().take());
            moved.advance(HOUR);
        });
        let timer = Meddling {
            clock,
            first: Mutex::new(Some(first)),
        };
        let (pool, workers) = slots
            .in_order(Pool::builder())
            .attempt_timeout(SECOND)
            .timer(timer)
            .build(|_: u32| future::pending::<Result<u32, u32>>());
        *place.lock().unwrap() = Some(pool.try_submit(7).unwrap());
        future::block_on(workers.drive(pool.wait_idle()));
        let stats = assert_settled(&pool);
        assert_eq!((stats.cancelled, stats.timed_out), (1, 0));
    });
}

// ---- the time of an attempt ----

#[test]
fn attempts_that_take_too_long_are_made_again_and_others_are_not() {
    everywhere(|env| async move {
        let late = || timed_out(TimeLimit::Attempt);
        for is_ordered in [true, false] {
            let retry = Retry::fixed(Duration::ZERO).max_attempts(2);
            let pool = sleeping_pool(
                &env,
                env.at_once(4).attempt_timeout(millis(50)).retry(retry),
            );
            let mut map = pool.map([100, 1, 100, 1]);
            if is_ordered {
                map = map.ordered();
            }
            let mut map = map.keep_inputs();
            assert_eq!(poll_once(pin!(map.next())), None);
            // The sleep and the limit of each.
            env.clock.sleepers(8).await;
            env.clock.advance(millis(1));
            while pool.stats().succeeded < 2 {
                yield_now().await;
            }
            env.clock.advance(millis(49));
            while pool.stats().retries < 2 {
                yield_now().await;
            }
            env.clock.sleepers(4).await;
            env.clock.advance(millis(50));
            let seen = (&mut map).map(outcome).collect::<Vec<_>>().await;
            let (long, short) = ((2, Some(100), late()), (1, Some(1), Ok(1)));
            let expected = if is_ordered {
                [long.clone(), short.clone(), long, short]
            } else {
                [short.clone(), short, long.clone(), long]
            };
            assert_eq!(seen, expected);
            assert_over(&env, &pool).await;
        }
    });
}

#[test]
fn the_limit_of_attempts_counts_for_those_that_start_after_it_was_set_and_a_job_keeps_its_own() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let retry = Retry::fixed(SECOND).max_attempts(2);
        let builder = env.one_by_one().attempt_timeout(secs(50)).retry(retry);
        let pool = gated_pool(&env, builder, &gate);
        // The first attempt keeps its fifty seconds; the second one has five. A job's own limit
        // counts for both.
        pool.pause();
        let plain = pool.try_submit(0).unwrap();
        let with_own = pool.job(1).attempt_timeout(secs(7)).try_submit().unwrap();
        let cases = [(plain, 50, 5), (with_own, 7, 7)];
        for (handle, first, second) in cases {
            pool.resume();
            gate.arrived(1).await;
            pool.pause();
            pool.set_attempt_timeout(Some(secs(5)));
            for (limit, is_last) in [(first, false), (second, true)] {
                env.clock.sleepers(1).await;
                env.clock.advance(secs(limit) - millis(1));
                for _ in 0..100 {
                    yield_now().await;
                }
                assert_eq!(pool.stats().running, 1);
                env.clock.advance(millis(1));
                pool.wait_running_below(1).await;
                if !is_last {
                    env.clock.advance(SECOND);
                    pool.resume();
                    gate.arrived(1).await;
                    pool.pause();
                }
            }
            assert_eq!(handle.await, timed_out(TimeLimit::Attempt));
            pool.set_attempt_timeout(Some(secs(50)));
        }
        pool.set_attempt_timeout(None);
        pool.resume();
        let free = pool.try_submit(9).unwrap();
        gate.arrived(1).await;
        env.clock.advance(HOUR);
        gate.open(1);
        assert_eq!(free.await, Ok(9));
        assert_over(&env, &pool).await;
    });
}

// ---- the time of a map ----

/// Polls the map to its end, and moves the clock on while so many sleep.
async fn run_out<F: Future>(env: &Env, sleepers: usize, future: F) -> F::Output {
    future::or(future, async {
        loop {
            env.clock.sleepers(sleepers).await;
            env.clock.advance_to_next();
            yield_now().await;
        }
    })
    .await
}

#[test]
fn the_deadline_of_a_map_bounds_it_whatever_the_number_of_its_jobs() {
    everywhere(|env| async move {
        for jobs in [4, 40, 400, usize::MAX] {
            let pool = sleeping_pool(
                &env,
                env.one_by_one()
                    .queue_capacity(30)
                    .attempt_timeout(secs(60)),
            );
            let (began, pulled) = (env.clock.elapsed(), AtomicUsize::new(0));
            let inputs = (0..jobs).map(|_| {
                pulled.fetch_add(1, Ordering::SeqCst);
                1000
            });
            let mut map = pool.map(inputs).deadline(millis(3500)).ordered();
            // The sleep of the job and its limit, and the deadline.
            let seen = run_out(&env, 3, (&mut map).map(outcome).collect::<Vec<_>>()).await;
            assert_eq!(env.clock.elapsed() - began, millis(3500));
            let late = || Err(JobError::Cancelled(CancelReason::Deadline));
            let expected = |at| match at {
                0..3 => (1, None, Ok(1000)),
                3 => (1, None, late()),
                _ => (0, Some(1000), late()),
            };
            assert_eq!(seen, (0..seen.len()).map(expected).collect::<Vec<_>>());
            let summary = map.summary();
            assert_eq!(
                (summary.end, summary.succeeded, summary.cancelled),
                (End::TimedOut, 3, seen.len() - 3)
            );
            // No more was pulled than there was room for: one that runs, and the queue.
            assert_eq!(
                (seen.len(), seen.len() <= jobs.min(3 + 1 + 30)),
                (pulled.load(Ordering::SeqCst), true)
            );
            let stats = assert_over(&env, &pool).await;
            assert_eq!((stats.succeeded, stats.timed_out), (3, 0));
        }
    });
}

#[test]
fn the_deadline_of_a_map_ends_what_waits_for_a_permit_and_for_another_attempt() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let builder = env
            .in_order()
            .rate_limit(RateLimit::every(secs(10)).burst(2))
            .retry(Retry::fixed(HOUR));
        let pool = brief_pool(&env, builder, &starts);
        let mut map = pool.map([0, 1, 2, 3]).deadline(secs(5)).ordered();
        let mut seen = vec![map.next().await.map(outcome)];
        while pool.stats().delayed < 1 {
            yield_now().await;
        }
        assert_eq!(poll_once(pin!(map.next())), None);
        env.clock.advance(secs(5));
        for _ in 0..4 {
            seen.push(map.next().await.map(outcome));
        }
        let late = |attempts, input| {
            Some((
                attempts,
                Some(input),
                Err(JobError::Cancelled(CancelReason::Deadline)),
            ))
        };
        assert_eq!(
            seen,
            [
                Some((1, None, Ok(0))),
                late(1, 1),
                late(0, 2),
                late(0, 3),
                None
            ]
        );
        // They leave their permits: the next one is there at ten seconds.
        let next = pool.try_submit(4).unwrap();
        starts
            .expect(&pool, [(0, secs(0)), (1, secs(0)), (4, secs(10))])
            .await;
        assert_eq!(next.await, Ok(4));
        assert_over(&env, &pool).await;
    });
}

#[test]
fn jobs_that_are_finished_when_their_map_runs_out_of_time_keep_their_outcome() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let pool = gated_pool(&env, env.one_by_one().job_timeout(HOUR), &gate);
        let mut map = pool.map(0..4).deadline(SECOND).ordered();
        assert_eq!(poll_once(pin!(map.next())), None);
        gate.open(2);
        gate.arrived(3).await;
        // Two are finished and unread.
        assert_eq!(pool.stats().succeeded, 2);
        env.clock.advance(SECOND);
        let seen = (&mut map).map(outcome).collect::<Vec<_>>().await;
        let late = || Err(JobError::Cancelled(CancelReason::Deadline));
        assert_eq!(
            seen,
            [
                (1, None, Ok(0)),
                (1, None, Ok(1)),
                (1, None, late()),
                (0, Some(3), late())
            ]
        );
        assert_eq!(map.summary().end, End::TimedOut);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn the_deadline_of_a_map_counts_from_when_it_was_set() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let pool = brief_pool(&env, env.in_order().job_timeout(HOUR), &starts);
        let maps = [
            pool.map([0, 2]).deadline(SECOND),
            pool.map([0, 2]).deadline(Duration::ZERO),
        ];
        env.clock.advance(SECOND);
        for mut map in maps {
            assert_eq!(map.next().await, None);
            assert_eq!(
                (map.summary().end, map.summary().accepted),
                (End::TimedOut, 0)
            );
        }
        let mut endless = pool.map([0, 2]).deadline(Duration::MAX);
        env.clock.advance(HOUR * 24);
        assert_eq!(
            (&mut endless).map(|c| c.result).collect::<Vec<_>>().await,
            [Ok(0), Ok(2)]
        );
        assert_eq!(endless.summary().end, End::Complete);
        let late = pool
            .map([0])
            .deadline(Duration::ZERO)
            .try_collect::<Vec<_>>()
            .await;
        assert!(
            matches!(late, Err(CollectError::Incomplete(summary)) if summary.end == End::TimedOut)
        );
        assert_over(&env, &pool).await;
    });
}

// ---- what is left behind ----

#[test]
fn a_map_that_ends_in_time_leaves_no_timer() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let pool = brief_pool(&env, env.in_order().retry(Retry::fixed(SECOND)), &starts);
        let mut map = pool.map([0, 2]).deadline(HOUR);
        assert_eq!((&mut map).count().await, 2);
        assert_eq!(env.clock.sleeping(), 0);
        env.clock.advance(HOUR);
        assert_eq!((map.next().await, map.summary().end), (None, End::Complete));
        assert_over(&env, &pool).await;
    });
}

/// Jobs that end at once, or after a moment, so that their limit needs a timer; notes how many
/// sleep at most.
fn limited(
    clock: &ManualTimer,
    most: &Arc<AtomicUsize>,
) -> impl Fn(u32) -> future::Boxed<Result<u32, ()>> + use<> {
    let (clock, most) = (clock.clone(), Arc::clone(most));
    move |n| {
        most.fetch_max(clock.sleeping(), Ordering::SeqCst);
        Box::pin(async move {
            if n.is_multiple_of(8) {
                yield_now().await;
            }
            Ok(n)
        })
    }
}

#[test]
fn jobs_that_end_long_before_their_limits_leave_no_timer() {
    everywhere(|env| async move {
        let most = Arc::default();
        let builder = env.at_once(3).job_timeout(HOUR).attempt_timeout(HOUR);
        let pool = builder.spawn_on(&env, limited(&env.clock, &most));
        let summary = pool.map(0..10_000).for_each(drop).await;
        assert_eq!((summary.succeeded, summary.is_complete()), (10_000, true));
        assert_over(&env, &pool).await;
        // The limit of each job that runs, and the alarm of the pool.
        assert!(most.load(Ordering::SeqCst) <= 3 + 1);
    });
}

#[test]
fn a_hundred_thousand_jobs_leave_no_timer_while_the_pool_is_there() {
    // One thread, for the sake of speed.
    let (clock, most) = (ManualTimer::new(), Arc::default());
    let builder = Pool::builder()
        .workers(3)
        .job_timeout(HOUR)
        .attempt_timeout(HOUR)
        .timer(clock.clone());
    let (pool, workers) = builder.build(limited(&clock, &most));
    future::block_on(workers.drive(async {
        let summary = pool.map(0..100_000).for_each(drop).await;
        assert_eq!((summary.succeeded, summary.is_complete()), (100_000, true));
        // The workers look at the time before they rest.
        yield_now().await;
        assert_eq!(clock.sleeping(), 0);
    }));
    assert!(most.load(Ordering::SeqCst) <= 3 + 1);
    assert_settled(&pool);
}

/// A worker is told of a job and dropped before it takes it, while the other worker is busy.
#[test]
fn a_job_that_was_released_for_a_worker_that_has_left_runs_out_of_its_time() {
    let clock = ManualTimer::new();
    let (pool, workers) = Pool::builder()
        .workers(2)
        .timer(clock.clone())
        .build(|_: u32| future::pending::<Result<(), ()>>());
    let mut workers = workers.into_iter();
    let mut busy = Box::pin(workers.next().unwrap().run());
    let mut idle = Box::pin(workers.next().unwrap().run());
    let running = pool.try_submit(1).unwrap();
    assert!(poll_once(busy.as_mut()).is_none());
    assert!(poll_once(idle.as_mut()).is_none());
    let mut job = pool.job(2).timeout(SECOND).try_submit().unwrap();
    drop(idle);
    assert!(poll_once(busy.as_mut()).is_none());
    clock.advance(SECOND);
    assert!(poll_once(busy.as_mut()).is_none());
    let out_of_time = Err(JobError::TimedOut(TimeLimit::Job));
    assert_eq!(poll_once(pin!(&mut job)), Some(out_of_time));
    assert_eq!(pool.stats().running, 1);
    drop(running);
}
