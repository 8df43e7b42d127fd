//! Attempts that are made again: after which failures, when, how often, and what becomes of a job
//! that waits for its next one.

use std::collections::BTreeMap;
use std::future::Future;
use std::iter;
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use brigade::{
    Builder, CancelReason, Completion, End, Event, Jitter, JobError, JobHandle, ManualTimer,
    OnError, Outcome, Pool, RateLimit, Retry, RetryAfterScope, RetryBudget, RetryDecision,
    SubmitError, Submitter, TimeLimit,
};
use futures_lite::{StreamExt, future};

use crate::harness::{
    Env, Gate, HOUR, OwnPool, SECOND, Slots, Starts, assert_adds_up, assert_over, assert_settled,
    everywhere, in_both_ways, millis, poll_once, secs, yield_now,
};
use crate::steps::{Steps, step_pool};

/// The name of a job, and how many of its attempts fail.
type Input = (u32, u32);

/// One that always fails.
const fn failing(name: u32) -> Input {
    (name, u32::MAX)
}

/// Values and errors are the number of the attempt.
type Jobs = Pool<Input, u32, u32>;

/// What the jobs of a pool do: each attempt is noted, and counted by the name of its job.
#[derive(Clone)]
struct Work {
    starts: Starts<u32>,
    tries: Arc<Mutex<BTreeMap<u32, u32>>>,
    /// How many attempts each job had that is finished.
    attempts: Arc<Mutex<Vec<u32>>>,
}

impl Work {
    fn new(clock: &ManualTimer) -> Self {
        Self {
            starts: Starts::new(clock),
            tries: Arc::default(),
            attempts: Arc::default(),
        }
    }

    /// One attempt, which ends at once.
    fn attempt(&self, (name, failures): Input) -> Result<u32, u32> {
        self.starts.note(name);
        let mut tries = self.tries.lock().unwrap();
        let count = tries.entry(name).or_default();
        *count += 1;
        if *count <= failures {
            Err(*count)
        } else {
            Ok(*count)
        }
    }

    fn builder(&self, builder: Builder<Input, u32>) -> Builder<Input, u32> {
        let attempts = Arc::clone(&self.attempts);
        builder.observe(move |event: &Event| {
            if let Event::Finished {
                attempts: count, ..
            } = event
            {
                attempts.lock().unwrap().push(*count);
            }
        })
    }

    fn pool(&self, env: &Env, builder: Builder<Input, u32>) -> Jobs {
        let work = self.clone();
        self.builder(builder).spawn_on(env, move |input: Input| {
            let result = work.attempt(input);
            async move { result }
        })
    }

    /// The same on one thread.
    fn steps(&self, clock: &ManualTimer, builder: Builder<Input, u32>) -> (Jobs, Steps) {
        let work = self.clone();
        let (pool, mut steps) = step_pool(
            self.builder(builder.timer(clock.clone())),
            move |input: Input| {
                let result = work.attempt(input);
                async move { result }
            },
        );
        steps.settle();
        (pool, steps)
    }

    /// How many attempts the job that finished last had, as the events tell.
    fn last_attempts(&self) -> u32 {
        self.attempts
            .lock()
            .unwrap()
            .last()
            .copied()
            .unwrap_or_default()
    }
}

/// Both ways in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Handle,
    Map,
}

const WAYS: [Way; 2] = [Way::Handle, Way::Map];

/// Runs one job; returns how many attempts it had, and its result.
async fn run(
    work: &Work,
    pool: &Jobs,
    input: Input,
    way: Way,
) -> (u32, Result<u32, JobError<u32>>) {
    match way {
        Way::Handle => {
            let result = pool.submit(input).await.unwrap().await;
            (work.last_attempts(), result)
        }
        Way::Map => {
            let mut map = pool.map([input]);
            let Some(Completion {
                attempts, result, ..
            }) = map.next().await
            else {
                panic!("no completion")
            };
            assert_eq!((map.next().await, work.last_attempts()), (None, attempts));
            (attempts, result)
        }
    }
}

/// Runs one job on a pool of its own, and expects attempts at these times; returns how many there
/// were, and its result.
async fn run_alone(
    env: &Env,
    retry: Retry<u32>,
    input: Input,
    way: Way,
    times: impl IntoIterator<Item = Duration>,
) -> (u32, Result<u32, JobError<u32>>) {
    let work = Work::new(&env.clock);
    let pool = work.pool(env, env.in_order().retry(retry));
    let expected = times.into_iter().map(|at| (input.0, at));
    let (ran, ()) = future::zip(
        run(&work, &pool, input, way),
        work.starts.expect(&pool, expected),
    )
    .await;
    assert_over(env, &pool).await;
    ran
}

fn submit(pool: &Jobs, input: Input) -> JobHandle<Input, u32, u32> {
    pool.try_submit(input).unwrap()
}

/// Waits until so many jobs are delayed and nothing else is going on.
async fn until_delayed<In, T, E>(pool: &Pool<In, T, E>, jobs: usize) {
    loop {
        let stats = pool.stats();
        if (stats.delayed, stats.queued, stats.running) == (jobs, 0, 0) {
            return;
        }
        yield_now().await;
    }
}

// ---- after which failures ----

#[test]
fn a_job_that_fails_twice_and_then_succeeds_has_three_attempts_and_the_hook_is_told_of_two() {
    everywhere(|env| async move {
        for way in WAYS {
            let told = Arc::new(Mutex::new(Vec::new()));
            let log = Arc::clone(&told);
            let retry = Retry::fixed(millis(50)).on_retry(move |retrying| {
                let failed = retrying.error == &JobError::Failed(retrying.attempt);
                log.lock().unwrap().push((
                    retrying.job.as_u64(),
                    retrying.attempt,
                    retrying.snoozes,
                    failed,
                    retrying.delay,
                    retrying.is_last,
                ));
            });
            let ran = run_alone(&env, retry, (7, 2), way, [0, 50, 100].map(millis)).await;
            assert_eq!(ran, (3, Ok(3)));
            let expected = [
                (0, 1, 0, true, millis(50), false),
                (0, 2, 0, true, millis(50), true),
            ];
            assert_eq!(*told.lock().unwrap(), expected);
        }
    });
}

#[test]
fn the_events_of_a_job_that_is_tried_again_come_in_their_order() {
    everywhere(|env| async move {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let pool = env
            .in_order()
            .retry(Retry::fixed(SECOND))
            .observe(move |event: &Event| log.lock().unwrap().push(event.clone()))
            .spawn_on(&env, |n: u32| async move { Err::<(), _>(n) });
        let handle = pool.try_submit(7).unwrap();
        let job = handle.id();
        for _ in 0..2 {
            until_delayed(&pool, 1).await;
            env.clock.sleepers(1).await;
            env.clock.advance(SECOND);
        }
        assert_eq!(handle.await, Err(JobError::Failed(7)));
        let stats = assert_over(&env, &pool).await;
        let expected = [
            Event::Accepted { job },
            Event::Started {
                job,
                attempt: 1,
                worker: 0,
            },
            Event::Retrying {
                job,
                attempt: 1,
                delay: SECOND,
            },
            Event::Started {
                job,
                attempt: 2,
                worker: 0,
            },
            Event::Retrying {
                job,
                attempt: 2,
                delay: SECOND,
            },
            Event::Started {
                job,
                attempt: 3,
                worker: 0,
            },
            Event::Finished {
                job,
                outcome: Outcome::Failed,
                attempts: 3,
            },
        ];
        let seen = seen.lock().unwrap();
        assert_eq!(seen[..7], expected);
        assert_eq!(
            (
                stats.accepted,
                stats.failed,
                stats.retries,
                stats.retries_refused
            ),
            (1, 1, 2, 0)
        );
    });
}

#[test]
fn an_error_that_is_not_transient_is_final() {
    everywhere(|env| async move {
        for way in WAYS {
            let never = Retry::fixed(SECOND).when(|_| false);
            assert_eq!(
                run_alone(&env, never, failing(7), way, [secs(0)]).await,
                (1, Err(JobError::Failed(1)))
            );
            let once = Retry::fixed(SECOND).when(|attempt| *attempt == 1);
            assert_eq!(
                run_alone(&env, once, failing(7), way, [0, 1].map(secs)).await,
                (2, Err(JobError::Failed(2)))
            );
            let judged = Retry::fixed(SECOND).decide_by(|_| RetryDecision::GiveUp);
            assert_eq!(
                run_alone(&env, judged, failing(7), way, [secs(0)]).await,
                (1, Err(JobError::Failed(1)))
            );
        }
    });
}

#[test]
fn no_policy_is_asked_about_the_last_attempt() {
    everywhere(|env| async move {
        for way in WAYS {
            let asked = Arc::new(Mutex::new(Vec::new()));
            let asks = Arc::clone(&asked);
            let retry = Retry::fixed(SECOND).max_attempts(2).when(move |attempt| {
                asks.lock().unwrap().push(*attempt);
                true
            });
            run_alone(&env, retry, failing(7), way, [0, 1].map(secs))
                .await
                .1
                .unwrap_err();
            assert_eq!(*asked.lock().unwrap(), [1], "{}", env.name);
        }
    });
}

#[test]
fn after_the_last_attempt_its_error_is_the_outcome() {
    everywhere(|env| async move {
        for way in WAYS {
            let at = |times: &[u64]| times.iter().copied().map(secs).collect::<Vec<_>>();
            let failed = |attempts| (attempts, Err(JobError::Failed(attempts)));
            let fixed = || Retry::fixed(SECOND);
            assert_eq!(
                run_alone(&env, fixed(), failing(7), way, at(&[0, 1, 2])).await,
                failed(3)
            );
            assert_eq!(
                run_alone(&env, fixed().max_attempts(1), failing(7), way, at(&[0])).await,
                failed(1)
            );
            let exponential = Retry::exponential(SECOND).factor(3).max_attempts(4);
            assert_eq!(
                run_alone(&env, exponential, failing(7), way, at(&[0, 1, 4, 13])).await,
                failed(4)
            );
        }
    });
}

#[test]
fn panics_are_never_retried() {
    everywhere(|env| async move {
        let starts = Starts::new(&env.clock);
        let noted = starts.clone();
        let retry = Retry::fixed(SECOND).on_retry(|_| unreachable!("nothing is retried"));
        let pool = env.in_order().retry(retry).spawn_on(&env, move |n: u32| {
            noted.note(n);
            async move {
                if n == 0 {
                    resume_unwind(Box::new("zero"))
                } else {
                    Ok::<_, ()>(n)
                }
            }
        });
        let handle = pool.try_submit(0).unwrap();
        let mut map = pool.map([0, 1]).ordered();
        assert!(handle.await.unwrap_err().is_panicked());
        let seen = (&mut map)
            .map(|c| (c.attempts, c.result.is_ok()))
            .collect::<Vec<_>>()
            .await;
        assert_eq!(seen, [(1, false), (1, true)]);
        starts.expect(&pool, [0, 0, 1].map(|n| (n, secs(0)))).await;
        let stats = assert_over(&env, &pool).await;
        assert_eq!((stats.panicked, stats.retries), (2, 0));
    });
}

/// A pool whose attempts wait at the gate and then fail.
fn gated_pool(env: &Env, builder: Builder<u32, u32>, gate: &Gate) -> Pool<u32, u32, u32> {
    let gate = gate.clone();
    builder.spawn_on(env, move |n: u32| {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            Err(n)
        }
    })
}

/// Two jobs, one of a handle and one of a map, whose first attempt has failed and whose second one
/// does not end.
async fn second_attempts_without_end(
    env: &Env,
    builder: Builder<u32, u32>,
) -> (Pool<u32, u32, u32>, JobHandle<u32, u32, u32>, Map) {
    let gate = Gate::new();
    let (inside, tried) = (
        gate.clone(),
        Arc::new(Mutex::new(BTreeMap::<u32, u32>::new())),
    );
    let retry = Retry::fixed(Duration::ZERO).max_attempts(9);
    let pool = builder.retry(retry).spawn_on(env, move |n: u32| {
        let gate = inside.clone();
        let is_first = tried.lock().unwrap().insert(n, 1).is_none();
        async move {
            if !is_first {
                gate.pass().await;
            }
            Err(n)
        }
    });
    let handle = pool.try_submit(0).unwrap();
    let mut map = pool.map([1]);
    assert_eq!(poll_once(pin!(map.next())), None);
    gate.arrived(2).await;
    (pool, handle, map)
}

type Map = brigade::Map<
    u32,
    u32,
    u32,
    brigade::Inputs<futures_lite::stream::Iter<std::array::IntoIter<u32, 1>>>,
>;

#[test]
fn an_attempt_that_is_cancelled_is_not_made_again() {
    everywhere(|env| async move {
        let (pool, handle, mut map) = second_attempts_without_end(&env, env.at_once(2)).await;
        assert_eq!(handle.cancel().await, None);
        map.cancel();
        let completion = map.next().await.unwrap();
        assert_eq!(
            (completion.attempts, completion.result),
            (2, Err(JobError::Cancelled(CancelReason::Stream)))
        );
        let stats = assert_over(&env, &pool).await;
        assert_eq!((stats.cancelled, stats.retries), (2, 2));
    });
}

#[test]
fn a_job_that_runs_out_of_its_own_time_is_not_tried_again() {
    everywhere(|env| async move {
        let (pool, handle, mut map) =
            second_attempts_without_end(&env, env.at_once(2).job_timeout(SECOND)).await;
        env.clock.sleepers(2).await;
        env.clock.advance(SECOND);
        assert_eq!(handle.await, Err(JobError::TimedOut(TimeLimit::Job)));
        let completion = map.next().await.unwrap();
        assert_eq!(
            (completion.attempts, completion.result),
            (2, Err(JobError::TimedOut(TimeLimit::Job)))
        );
        let stats = assert_over(&env, &pool).await;
        assert_eq!((stats.timed_out, stats.retries), (2, 2));
    });
}

#[test]
fn an_attempt_that_runs_out_of_its_time_is_made_again_unless_it_is_said_not_to_be() {
    everywhere(|env| async move {
        for (retry, attempts) in [
            (Retry::fixed(SECOND), 3),
            (Retry::fixed(SECOND).timeouts(false), 1),
        ] {
            let starts = Starts::new(&env.clock);
            let noted = starts.clone();
            let builder = env.in_order().retry(retry).attempt_timeout(secs(5));
            let pool = builder.spawn_on(&env, move |n: u32| {
                noted.note(n);
                future::pending::<Result<(), ()>>()
            });
            let mut map = pool.map([7]);
            assert_eq!(poll_once(pin!(map.next())), None);
            for attempt in 0..attempts {
                // It runs for five seconds, and the next one comes one second later.
                starts.expect(&pool, [(7, secs(6 * attempt))]).await;
                env.clock.sleepers(1).await;
                env.clock.advance(secs(5));
                pool.wait_running_below(1).await;
            }
            let completion = map.next().await.unwrap();
            let timed_out = Err(JobError::TimedOut(TimeLimit::Attempt));
            assert_eq!(
                (u64::from(completion.attempts), completion.result),
                (attempts, timed_out)
            );
            let stats = assert_over(&env, &pool).await;
            assert_eq!((stats.timed_out, stats.retries), (1, attempts - 1));
        }
    });
}

// ---- when ----

#[test]
fn no_attempt_is_made_that_would_start_later_than_the_longest_time_after_the_first() {
    everywhere(|env| async move {
        for way in WAYS {
            // At its very end one may still start.
            let retry = Retry::fixed(millis(50))
                .max_attempts(9)
                .max_elapsed(millis(100));
            let ran = run_alone(&env, retry, failing(7), way, [0, 50, 100].map(millis)).await;
            assert_eq!(ran, (3, Err(JobError::Failed(3))));
        }
        // What an attempt takes counts too.
        let gate = Gate::new();
        let retry = Retry::fixed(Duration::ZERO)
            .max_attempts(9)
            .max_elapsed(millis(100));
        let pool = gated_pool(&env, env.in_order().retry(retry), &gate);
        let mut map = pool.map([7]);
        assert_eq!(poll_once(pin!(map.next())), None);
        gate.arrived(1).await;
        gate.open(1);
        gate.arrived(1).await;
        env.clock.advance(millis(120));
        gate.open(1);
        let completion = map.next().await.unwrap();
        assert_eq!(
            (completion.attempts, completion.result),
            (2, Err(JobError::Failed(7)))
        );
        assert_over(&env, &pool).await;
    });
}

#[test]
fn no_attempt_is_made_that_would_start_when_the_time_of_its_job_is_over() {
    everywhere(|env| async move {
        for (delay, times) in [(49, vec![0, 49, 98]), (50, vec![0, 50]), (100, vec![0])] {
            for way in WAYS {
                let work = Work::new(&env.clock);
                let retry = Retry::fixed(millis(delay)).max_attempts(9);
                let pool = work.pool(&env, env.in_order().retry(retry).job_timeout(millis(100)));
                let last = *times.last().unwrap();
                let attempts = times.len() as u32;
                let expected = times.iter().map(|at| (7, millis(*at)));
                let began = env.clock.elapsed();
                let ran = future::zip(
                    run(&work, &pool, failing(7), way),
                    work.starts.expect(&pool, expected),
                )
                .await;
                assert_eq!(ran.0, (attempts, Err(JobError::Failed(attempts))));
                // It is over with its last attempt, and does not wait for the end of its time.
                assert_eq!(env.clock.elapsed() - began, millis(last));
                assert_over(&env, &pool).await;
            }
        }
    });
}

#[test]
fn delays_are_taken_one_for_each_retry_at_its_time() {
    everywhere(|env| async move {
        for way in WAYS {
            let taken = Starts::new(&env.clock);
            let (log, calls) = (taken.clone(), Arc::new(AtomicUsize::new(0)));
            let count = Arc::clone(&calls);
            let retry = Retry::delays(move || {
                count.fetch_add(1, Ordering::SeqCst);
                let log = log.clone();
                [1, 5, 2].into_iter().map(move |delay| {
                    log.note(delay);
                    secs(delay)
                })
            });
            let ran = run_alone(&env, retry, failing(7), way, [0, 1, 6, 8].map(secs)).await;
            assert_eq!(ran, (4, Err(JobError::Failed(4))));
            assert_eq!(
                (taken.take(), calls.load(Ordering::SeqCst)),
                (vec![(1, secs(0)), (5, secs(1)), (2, secs(6))], 1)
            );
        }
    });
}

#[test]
fn the_builders_of_backon_say_when() {
    everywhere(|env| async move {
        for way in WAYS {
            let builder = ExponentialBuilder::default()
                .with_min_delay(SECOND)
                .with_factor(3.0)
                .with_max_times(3);
            let retry = Retry::delays(move || builder.build());
            let ran = run_alone(&env, retry, failing(7), way, [0, 1, 4, 13].map(secs)).await;
            assert_eq!(ran, (4, Err(JobError::Failed(4))));
        }
    });
}

#[test]
fn the_time_of_an_error_goes_before_the_usual_delay_and_that_of_a_verdict_before_both() {
    everywhere(|env| async move {
        for way in WAYS {
            // Neither the jitter nor the longest delay is for them.
            let usual = || {
                Retry::fixed(SECOND)
                    .jitter(Jitter::Full)
                    .max_delay(millis(1))
                    .max_attempts(4)
            };
            let hinted = usual()
                .retry_after(|attempt| (*attempt < 4).then(|| secs(10 * u64::from(*attempt))));
            let ran = run_alone(&env, hinted, failing(7), way, [0, 10, 30, 60].map(secs)).await;
            assert_eq!(ran, (4, Err(JobError::Failed(4))));
            let judged =
                usual()
                    .retry_after(|_| Some(secs(10)))
                    .decide_by(|attempt| match attempt {
                        1 => RetryDecision::RetryIn(secs(3)),
                        2 => RetryDecision::Retry,
                        _ => RetryDecision::GiveUp,
                    });
            let ran = run_alone(&env, judged, failing(7), way, [0, 3, 13].map(secs)).await;
            assert_eq!(ran, (3, Err(JobError::Failed(3))));
        }
    });
}

#[test]
fn there_is_one_attempt_more_than_delays_whatever_names_their_times() {
    everywhere(|env| async move {
        for way in WAYS {
            let listed = || Retry::delays(|| [1, 5].map(secs));
            let ten = || Some(secs(10));
            for (retry, times) in [
                (listed().retry_after(move |_| ten()), [0, 10, 20]),
                (
                    listed().retry_after(move |attempt| ten().filter(|_| *attempt == 1)),
                    [0, 10, 15],
                ),
                (
                    listed().decide_by(|_| RetryDecision::RetryIn(secs(7))),
                    [0, 7, 14],
                ),
            ] {
                let ran = run_alone(&env, retry, failing(7), way, times.map(secs)).await;
                assert_eq!(ran, (3, Err(JobError::Failed(3))));
            }
        }
    });
}

#[test]
fn a_snoozed_attempt_is_not_counted() {
    everywhere(|env| async move {
        for way in WAYS {
            let told = Arc::new(Mutex::new(Vec::new()));
            let log = Arc::clone(&told);
            // Nothing is left of the budget, either.
            let retry = Retry::fixed(SECOND)
                .max_attempts(2)
                .budget(RetryBudget::ratio(1.0).min_concurrent(0))
                .decide_by(|run| {
                    if *run <= 3 {
                        RetryDecision::Snooze(secs(60))
                    } else {
                        RetryDecision::Retry
                    }
                })
                .on_retry(move |retrying| {
                    let (attempt, snoozes) = (retrying.attempt, retrying.snoozes);
                    log.lock()
                        .unwrap()
                        .push((attempt, snoozes, retrying.delay, retrying.is_last));
                });
            let ran = run_alone(
                &env,
                retry,
                failing(7),
                way,
                [0, 60, 120, 180, 181].map(secs),
            )
            .await;
            assert_eq!(ran, (2, Err(JobError::Failed(5))));
            let snoozed = |snoozes| (1, snoozes, secs(60), false);
            assert_eq!(
                *told.lock().unwrap(),
                [snoozed(1), snoozed(2), snoozed(3), (1, 3, SECOND, true)]
            );
        }
    });
}

#[test]
fn a_job_goes_back_to_its_place_in_the_order_when_its_wait_is_over() {
    everywhere(|env| async move {
        let (gate, starts) = (Gate::new(), Starts::new(&env.clock));
        let (pass, noted) = (gate.clone(), starts.clone());
        let pool = env
            .one_by_one()
            .retry(Retry::fixed(SECOND).max_attempts(2))
            .spawn_on(&env, move |n: u32| {
                noted.note(n);
                let gate = pass.clone();
                async move {
                    gate.pass().await;
                    if n == 1 { Err(n) } else { Ok(n) }
                }
            });
        pool.pause();
        let handles: Vec<_> = (0..2).map(|n| pool.try_submit(n).unwrap()).collect();
        let urgent = pool.job(2).priority(1).try_submit().unwrap();
        let later: Vec<_> = (3..5).map(|n| pool.try_submit(n).unwrap()).collect();
        pool.resume();
        gate.open(3);
        // The fourth is running when the wait of the second is over.
        starts
            .expect(&pool, [2, 0, 1, 3].map(|n| (n, secs(0))))
            .await;
        gate.arrived(4).await;
        env.clock.advance(SECOND);
        let urgent_too = pool.job(5).priority(1).try_submit().unwrap();
        gate.open(9);
        starts.expect(&pool, [5, 1, 4].map(|n| (n, secs(1)))).await;
        for handle in handles.into_iter().chain(later).chain([urgent, urgent_too]) {
            assert_eq!(handle.id().as_u64() == 1, handle.await.is_err());
        }
        assert_over(&env, &pool).await;
    });
}

// ---- chance ----

/// When the second attempts of a thousand jobs start that have failed together, by the names of the
/// jobs.
fn second_attempts(slots: Slots, retry: Retry<u32>) -> Vec<(u32, Duration)> {
    // One thread, so that each start is seen at its very time.
    let clock = ManualTimer::new();
    let work = Work::new(&clock);
    let (pool, mut steps) = work.steps(
        &clock,
        slots
            .at_once(Pool::builder(), 10)
            .retry(retry.max_attempts(2)),
    );
    for n in 0..1000 {
        submit(&pool, (n, 1)).detach();
    }
    steps.settle();
    assert_eq!(work.starts.take().len(), 1000);
    steps.run_out(&clock);
    assert_eq!(assert_settled(&pool).succeeded, 1000);
    work.starts.take()
}

#[test]
fn jobs_that_fail_together_do_not_come_back_together() {
    in_both_ways(|slots| {
        let delay = secs(2);
        let starts = second_attempts(slots, Retry::fixed(delay).jitter(Jitter::Full).seed(7));
        let mut buckets = [0_usize; 20];
        for (_, at) in &starts {
            buckets[(at.as_millis() as usize / 100).min(19)] += 1;
        }
        let mean = starts.len() / buckets.len();
        assert_eq!((starts.len(), mean), (1000, 50));
        assert!(
            buckets
                .iter()
                .all(|retries| (mean / 2..=2 * mean).contains(retries)),
            "{buckets:?}"
        );
    });
}

#[test]
fn the_same_seed_gives_the_same_times_and_another_one_others() {
    in_both_ways(|slots| {
        let times = |seed| {
            second_attempts(
                slots,
                Retry::exponential(secs(2)).jitter(Jitter::Full).seed(seed),
            )
        };
        assert_eq!(times(7), times(7));
        assert_ne!(times(7), times(8));
    });
}

#[test]
fn jitter_stays_within_its_part_of_the_delay() {
    in_both_ways(|slots| {
        for (jitter, least, most) in [
            (Jitter::None, 2000, 2000),
            (Jitter::Full, 0, 2000),
            (Jitter::Equal, 1000, 2000),
        ] {
            let starts = second_attempts(
                slots,
                Retry::fixed(secs(9))
                    .max_delay(secs(2))
                    .jitter(jitter)
                    .seed(7),
            );
            let (first, last) = (starts[0].1, starts[999].1);
            assert!(
                millis(least) <= first && last <= millis(most),
                "{jitter:?}: {first:?} to {last:?}"
            );
            assert!(
                first < millis(least + 100) && last > millis(most - 100),
                "{jitter:?}: {first:?} to {last:?}"
            );
        }
    });
}

// ---- extreme numbers ----

#[test]
fn ten_thousand_attempts_overflow_nothing() {
    // One thread, for the sake of speed.
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let work = Work::new(&clock);
        let retry = Retry::exponential(millis(1))
            .max_delay(SECOND)
            .max_attempts(10_000);
        let (pool, mut steps) = work.steps(&clock, slots.in_order(Pool::builder()).retry(retry));
        submit(&pool, failing(7)).detach();
        steps.run_out(&clock);
        let mut at = Duration::ZERO;
        let mut expected = vec![(7, at)];
        for retry in 0..9_999 {
            at += millis(1 << retry.min(10)).min(SECOND);
            expected.push((7, at));
        }
        assert_eq!(work.starts.take(), expected);
        // The same without a longest delay, and nothing to multiply.
        let retry = Retry::exponential(Duration::ZERO)
            .factor(u32::MAX)
            .max_attempts(10_000);
        let (pool, mut steps) = work.steps(&clock, slots.in_order(Pool::builder()).retry(retry));
        submit(&pool, failing(8)).detach();
        steps.settle();
        assert_eq!(work.starts.take(), vec![(8, at); 10_000]);
        assert_settled(&pool);
    });
}

#[test]
fn a_delay_longer_than_time_keeps_its_job_waiting_and_no_other() {
    everywhere(|env| async move {
        const END: Duration = Duration::MAX;
        let policies: [(u32, fn() -> Retry<u32>); 9] = [
            (1, || Retry::fixed(END)),
            (1, || Retry::fixed(END).jitter(Jitter::Equal).seed(7)),
            (1, || Retry::exponential(END)),
            (1, || {
                Retry::exponential(END)
                    .factor(u32::MAX)
                    .max_attempts(u32::MAX)
                    .max_delay(END)
                    .max_elapsed(END)
            }),
            (1, || Retry::delays(|| iter::repeat(END))),
            (1, || Retry::fixed(SECOND).retry_after(|_| Some(END))),
            (1, || {
                Retry::fixed(SECOND)
                    .retry_after(|_| Some(END))
                    .retry_after_scope(RetryAfterScope::Key)
            }),
            (1, || {
                Retry::fixed(SECOND).decide_by(|_| RetryDecision::RetryIn(END))
            }),
            // The one attempt does not count.
            (0, || {
                Retry::fixed(SECOND).decide_by(|_| RetryDecision::Snooze(END))
            }),
        ];
        for (attempts, policy) in policies {
            let work = Work::new(&env.clock);
            let pool = work.pool(
                &env,
                env.in_order()
                    .key_by(|input: &Input| input.0)
                    .retry(policy()),
            );
            let (waiting, other) = (submit(&pool, failing(0)), submit(&pool, (1, 0)));
            assert_eq!(other.await, Ok(1));
            until_delayed(&pool, 1).await;
            env.clock.advance(HOUR);
            let report = pool.drain_within(HOUR * 24);
            let (report, ()) = future::zip(report, async {
                // The alarm of the pool, which may be set, and that of the drain.
                while pool.stats().delayed > 0 {
                    env.clock.advance(HOUR);
                    yield_now().await;
                }
            })
            .await;
            let unstarted: Vec<_> = report
                .unstarted
                .into_iter()
                .map(|job| (job.input, job.attempts))
                .collect();
            assert_eq!(unstarted, [(failing(0), attempts)]);
            assert_eq!(
                waiting.await,
                Err(JobError::Cancelled(CancelReason::Aborted))
            );
            assert_over(&env, &pool).await;
        }
    });
}

// ---- what a job that waits does not hold ----

#[test]
fn jobs_that_wait_for_another_attempt_hold_no_worker_and_no_place_in_the_queue() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let builder = env
            .at_once(2)
            .queue_capacity(2)
            .retry(Retry::fixed(HOUR).max_attempts(2));
        let pool = gated_pool(&env, builder, &gate);
        let waiting = [0, 1].map(|n| pool.try_submit(n).unwrap());
        gate.arrived(2).await;
        gate.open(2);
        until_delayed(&pool, 2).await;
        // Two run, two are queued, and one more finds the queue full.
        let running = [2, 3].map(|n| pool.try_submit(n).unwrap());
        gate.arrived(2).await;
        let queued = [4, 5].map(|n| pool.try_submit(n).unwrap());
        assert_eq!(pool.try_submit(6).unwrap_err(), SubmitError::Full(6));
        let stats = pool.stats();
        assert_eq!((stats.delayed, stats.running, stats.queued), (2, 2, 2));
        gate.open(2);
        gate.arrived(2).await;
        gate.open(2);
        until_delayed(&pool, 6).await;
        assert_eq!(env.clock.elapsed(), Duration::ZERO);
        gate.open(6);
        env.clock.sleepers(1).await;
        env.clock.advance(HOUR);
        for (n, handle) in (0..).zip(waiting.into_iter().chain(running).chain(queued)) {
            assert_eq!(handle.await, Err(JobError::Failed(n)));
        }
        assert_eq!(assert_over(&env, &pool).await.retries, 6);
    });
}

#[test]
fn a_job_that_waits_for_another_attempt_holds_no_permit_and_no_room_of_its_key() {
    everywhere(|env| async move {
        let work = Work::new(&env.clock);
        let builder = env
            .in_order()
            .rate_limit(RateLimit::every(SECOND))
            .retry(Retry::fixed(millis(2500)));
        let pool = work.pool(&env, builder.key_by(|_| "one").max_running_per_key(1));
        pool.pause();
        let handles = [failing(0), (1, 0), (2, 0), (3, 0)].map(|input| submit(&pool, input));
        pool.resume();
        // The first one is back at two and a half seconds, when two others have started, and takes
        // the next permit.
        let expected = [
            (0, 0),
            (1, 1000),
            (2, 2000),
            (0, 3000),
            (3, 4000),
            (0, 5500),
        ];
        let expected = expected.map(|(name, at)| (name, millis(at)));
        work.starts.expect(&pool, expected).await;
        let [first, others @ ..] = handles;
        assert_eq!(first.await, Err(JobError::Failed(3)));
        for handle in others {
            assert_eq!(handle.await, Ok(1));
        }
        assert_over(&env, &pool).await;
    });
}

#[test]
fn an_added_job_that_waits_for_another_attempt_holds_no_room_of_added_jobs() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let pass = gate.clone();
        let (pool, workers) = env
            .at_once(2)
            .child_capacity(1)
            .retry(Retry::fixed(HOUR).max_attempts(2))
            .build_with_submitter(move |n: u32, jobs: Submitter<u32, (), u32>| {
                let gate = pass.clone();
                async move {
                    if n > 0 {
                        return Err(n);
                    }
                    for child in 1..4 {
                        jobs.add(child).unwrap();
                        gate.pass().await;
                    }
                    Ok(())
                }
            });
        workers.spawn_on(&env);
        let mut map = pool.map([0]);
        assert_eq!(poll_once(pin!(map.next())), None);
        for child in 1..4 {
            gate.arrived(1).await;
            while pool.stats().delayed < child {
                yield_now().await;
            }
            gate.open(1);
        }
        assert_eq!(
            map.next().await.map(|c| (c.index, c.result)),
            Some((0, Ok(())))
        );
        env.clock.sleepers(1).await;
        env.clock.advance(HOUR);
        let mut seen = map
            .map(|c| (c.index, c.attempts, c.result))
            .collect::<Vec<_>>()
            .await;
        seen.sort_by_key(|(index, ..)| *index);
        assert_eq!(
            seen,
            [1, 2, 3].map(|n| (n as usize, 2, Err(JobError::Failed(n))))
        );
        assert_over(&env, &pool).await;
    });
}

#[test]
fn while_as_many_wait_as_may_wait_a_failure_is_final() {
    everywhere(|env| async move {
        for capacity in [0, 2] {
            let work = Work::new(&env.clock);
            let refused = Arc::new(Mutex::new(Vec::new()));
            let log = Arc::clone(&refused);
            let builder = env
                .in_order()
                .retry(Retry::fixed(SECOND))
                .retry_capacity(capacity)
                .observe(move |event: &Event| {
                    if let Event::RetryRefused { job } = event {
                        log.lock().unwrap().push(job.as_u64() as usize);
                    }
                });
            let inside = work.clone();
            let pool = builder.spawn_on(&env, move |input: Input| {
                let result = inside.attempt(input);
                async move { result }
            });
            let mut map = pool.map((0..4).map(|name| (name, 1))).ordered();
            let first = (0..4).map(|name| (name, secs(0)));
            let second = (0..capacity as u32).map(|name| (name, secs(1)));
            let seen = (&mut map)
                .map(|c| (c.attempts, c.result))
                .collect::<Vec<_>>();
            let (seen, ()) =
                future::zip(seen, work.starts.expect(&pool, first.chain(second))).await;
            let expected = |at: usize| {
                if at < capacity {
                    (2, Ok(2))
                } else {
                    (1, Err(JobError::Failed(1)))
                }
            };
            assert_eq!(seen, (0..4).map(expected).collect::<Vec<_>>());
            assert_eq!(*refused.lock().unwrap(), (capacity..4).collect::<Vec<_>>());
            let stats = assert_over(&env, &pool).await;
            assert_eq!(
                (stats.retries, stats.retries_refused),
                (capacity as u64, 4 - capacity as u64)
            );
        }
    });
}

#[test]
fn jobs_of_a_map_that_wait_for_another_attempt_stay_within_its_window() {
    everywhere(|env| async move {
        let work = Work::new(&env.clock);
        let pool = work.pool(&env, env.in_order().retry(Retry::fixed(HOUR)));
        let pulled = AtomicUsize::new(0);
        let inputs = (0..)
            .inspect(|_| _ = pulled.fetch_add(1, Ordering::SeqCst))
            .map(failing);
        let mut map = pool.map(inputs).window(5);
        assert_eq!(poll_once(pin!(map.next())), None);
        until_delayed(&pool, 5).await;
        assert_eq!(poll_once(pin!(map.next())), None);
        assert_eq!(
            (pulled.load(Ordering::SeqCst), pool.stats().accepted),
            (5, 5)
        );
        drop(map);
        assert_eq!(assert_over(&env, &pool).await.cancelled, 5);
    });
}

// ---- the scope of an error's time ----

#[test]
fn the_time_of_an_error_holds_for_its_job_or_its_key_or_all() {
    everywhere(|env| async move {
        // The first job of the first key is told to come back in ten seconds; the key of a job is
        // its tens.
        for (hold, expected) in [
            (
                RetryAfterScope::Job,
                [(10, 0), (20, 0), (11, 0), (21, 0), (10, 10)],
            ),
            (
                RetryAfterScope::Key,
                [(10, 0), (20, 0), (21, 0), (10, 10), (11, 10)],
            ),
            (
                RetryAfterScope::Pool,
                [(10, 0), (20, 10), (10, 10), (21, 10), (11, 10)],
            ),
        ] {
            for way in WAYS {
                let work = Work::new(&env.clock);
                let retry = Retry::fixed(SECOND)
                    .retry_after(|_| Some(secs(10)))
                    .retry_after_scope(hold);
                let pool = work.pool(
                    &env,
                    env.in_order().key_by(|(name, _)| name / 10).retry(retry),
                );
                pool.pause();
                let inputs = [(10, 1), (11, 0), (20, 0), (21, 0)];
                let mut map = pool.map(inputs.into_iter().filter(|_| way == Way::Map));
                let handles =
                    inputs.map(|input| (way == Way::Handle).then(|| submit(&pool, input)));
                assert_eq!(poll_once(pin!(map.next())).is_none(), way == Way::Map);
                pool.resume();
                work.starts
                    .expect(&pool, expected.map(|(name, at)| (name, secs(at))))
                    .await;
                for handle in handles.into_iter().flatten() {
                    assert!(handle.await.is_ok());
                }
                assert_eq!(map.count().await, if way == Way::Map { 4 } else { 0 });
                assert_over(&env, &pool).await;
            }
        }
    });
}

#[test]
fn jobs_that_come_while_the_time_of_an_error_holds_for_all_wait_too() {
    everywhere(|env| async move {
        let work = Work::new(&env.clock);
        let retry = Retry::fixed(SECOND)
            .retry_after(|_| Some(secs(10)))
            .retry_after_scope(RetryAfterScope::Pool);
        let pool = work.pool(&env, env.in_order().retry(retry));
        let first = submit(&pool, (0, 1));
        work.starts.expect(&pool, [(0, secs(0))]).await;
        until_delayed(&pool, 1).await;
        env.clock.advance(secs(5));
        let second = submit(&pool, (1, 0));
        work.starts
            .expect(&pool, [(0, secs(10)), (1, secs(10))])
            .await;
        assert_eq!((first.await, second.await), (Ok(2), Ok(1)));
        assert_over(&env, &pool).await;
    });
}

#[test]
fn the_time_of_an_error_holds_for_what_is_on_its_way_to_a_worker() {
    // On one thread, so that both jobs are on their way when the first one starts.
    in_both_ways(|slots| {
        for hold in [RetryAfterScope::Key, RetryAfterScope::Pool] {
            let clock = ManualTimer::new();
            let starts = Starts::new(&clock);
            let retry = Retry::fixed(SECOND)
                .retry_after(|()| Some(secs(10)))
                .retry_after_scope(hold);
            let noted = starts.clone();
            let failed = AtomicBool::new(false);
            let (pool, mut steps) = step_pool(
                slots
                    .at_once(Pool::builder(), 2)
                    .key_by(|_| "key")
                    .retry(retry)
                    .timer(clock.clone()),
                move |n: u32| {
                    noted.note(n);
                    future::ready(if failed.swap(true, Ordering::SeqCst) {
                        Ok(())
                    } else {
                        Err(())
                    })
                },
            );
            let handles = [0, 1].map(|n| pool.try_submit(n).unwrap());
            steps.run_out(&clock);
            assert_eq!(
                starts.take(),
                [(0, secs(0)), (0, secs(10)), (1, secs(10))],
                "{hold:?}"
            );
            assert_eq!(
                handles.map(|handle| poll_once(pin!(handle))),
                [Some(Ok(())), Some(Ok(()))]
            );
            assert_settled(&pool);
        }
    });
}

// ---- how many ----

#[test]
fn two_failures_at_the_same_time_stay_within_the_bounds() {
    // The second job fails in the `on_retry` of the first one, which polls the other worker.
    for floor in [1, 2] {
        let second: Arc<Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>> = Arc::default();
        let inside = Arc::clone(&second);
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        let retry = Retry::fixed(SECOND)
            .budget(RetryBudget::ratio(0.0).min_concurrent(floor))
            .on_retry(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                let worker = inside.lock().unwrap().take();
                if let Some(mut worker) = worker {
                    assert_eq!(poll_once(worker.as_mut()), None);
                    *inside.lock().unwrap() = Some(worker);
                }
            });
        // Either the capacity is the smaller one or the floor.
        let builder = Pool::builder()
            .workers(2)
            .retry(retry)
            .retry_capacity(3 - floor)
            .timer(ManualTimer::new());
        let (pool, workers) = builder.build(|n: u32| async move { Err::<(), _>(n) });
        let [mut first, mut other] = [0, 1].map(|n| pool.try_submit(n).unwrap());
        let mut workers = workers.into_iter();
        let mut worker = pin!(workers.next().unwrap().run());
        *second.lock().unwrap() = Some(Box::pin(workers.next().unwrap().run()));
        assert_eq!(poll_once(worker.as_mut()), None);
        let stats = pool.stats();
        assert_eq!(
            (stats.delayed, stats.retries, stats.retries_refused),
            (1, 1, 1)
        );
        assert_eq!(told.load(Ordering::SeqCst), 1);
        assert_eq!(poll_once(Pin::new(&mut first)), None);
        assert_eq!(
            poll_once(Pin::new(&mut other)),
            Some(Err(JobError::Failed(1)))
        );
        drop(first);
        assert_settled(&pool);
    }
}

/// Delays whose drop panics.
struct Brittle;

impl Iterator for Brittle {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(SECOND)
    }
}

impl Drop for Brittle {
    fn drop(&mut self) {
        panic!("the delays break");
    }
}

#[test]
fn a_panic_in_the_drop_of_the_delays_affects_no_job_when_the_retry_comes_to_nothing() {
    in_both_ways(|slots| {
        let own = OwnPool::<u32, (), u32>::new();
        let inside = own.reach();
        // The pool is aborted between the decision and its execution.
        let retry = Retry::delays(|| Brittle).on_retry(move |_| {
            assert!(poll_once(pin!(inside.pool().abort())).is_none());
        });
        let builder = slots
            .in_order(Pool::builder())
            .retry(retry)
            .timer(ManualTimer::new());
        let (pool, mut steps) = step_pool(builder, |n: u32| async move { Err(n) });
        own.set(&pool);
        let handle = pool.try_submit(7).unwrap();
        steps.settle();
        assert_eq!(poll_once(pin!(handle)), Some(Err(JobError::Failed(7))));
        assert_settled(&pool);
    });
}

#[test]
fn with_a_budget_no_more_than_a_share_is_tried_again_though_all_fail() {
    everywhere(|env| async move {
        for way in WAYS {
            let work = Work::new(&env.clock);
            let retry = Retry::fixed(SECOND)
                .max_attempts(50)
                .budget(RetryBudget::ratio(0.2).min_concurrent(0));
            let pool = work.pool(&env, env.in_order().retry(retry));
            let results = async {
                let inputs = (0..100).map(failing);
                match way {
                    Way::Map => {
                        pool.map(inputs)
                            .ordered()
                            .map(|completion| completion.result)
                            .collect()
                            .await
                    }
                    Way::Handle => {
                        let handles: Vec<_> = inputs.map(|input| submit(&pool, input)).collect();
                        let mut results = Vec::new();
                        for handle in handles {
                            results.push(handle.await);
                        }
                        results
                    }
                }
            };
            // Each fifth one has the price of a retry together; after that there is nothing left.
            let first = (0..100).map(|name| (name, secs(0)));
            let second = (0..20).map(|at| (5 * at + 4, secs(1)));
            let (results, ()) =
                future::zip(results, work.starts.expect(&pool, first.chain(second))).await;
            let attempts = |at: u32| if at % 5 == 4 { 2 } else { 1 };
            assert_eq!(
                results,
                (0..100)
                    .map(|at| Err(JobError::Failed(attempts(at))))
                    .collect::<Vec<_>>()
            );
            let stats = assert_over(&env, &pool).await;
            assert_eq!(
                (stats.failed, stats.retries, stats.retries_refused),
                (100, 20, 100)
            );
        }
    });
}

#[test]
fn a_budget_without_a_floor_holds_over_a_minute_in_which_everything_fails() {
    // One thread, for the sake of speed.
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let work = Work::new(&clock);
        let retry = Retry::exponential(millis(100))
            .jitter(Jitter::Full)
            .seed(7)
            .max_attempts(5);
        let retry = retry.budget(RetryBudget::ratio(0.1).min_concurrent(0));
        let (pool, mut steps) = work.steps(&clock, slots.at_once(Pool::builder(), 10).retry(retry));
        let (submitter, timer) = (pool.clone(), clock.clone());
        steps.add("submitter", async move {
            for second in 0..60 {
                for n in 0..50 {
                    submit(&submitter, failing(50 * second + n)).detach();
                }
                timer.sleep(SECOND).await;
            }
        });
        steps.run_out(&clock);
        let stats = assert_settled(&pool);
        assert_eq!(
            (stats.failed, stats.retries, work.starts.take().len()),
            (3000, 300, 3300)
        );
    });
}

#[test]
fn of_jobs_that_fail_together_no_more_are_tried_again_than_the_budget_and_its_floor_allow() {
    everywhere(|env| async move {
        let work = Work::new(&env.clock);
        let retry = Retry::fixed(SECOND).max_attempts(2).budget(0.1);
        let pool = work.pool(&env, env.in_order().retry(retry));
        let results = pool
            .map((0..1000).map(failing))
            .map(|completion| u64::from(completion.attempts));
        let ((attempts, retries), ()) = future::zip(
            async {
                let attempts = results.collect::<Vec<_>>().await;
                (
                    attempts.iter().sum::<u64>(),
                    attempts.iter().filter(|attempts| **attempts == 2).count() as u64,
                )
            },
            async {
                until_delayed(&pool, 109).await;
                env.clock.sleepers(1).await;
                env.clock.advance(SECOND);
            },
        )
        .await;
        // Each tenth one is paid for, and the floor allows nine more until ten are waiting.
        assert_eq!((attempts, retries), (1000 + 109, 109));
        assert_eq!(assert_over(&env, &pool).await.retries, 109);
    });
}

#[test]
fn a_retry_is_allowed_while_fewer_than_the_floor_are_on_their_way() {
    everywhere(|env| async move {
        let work = Work::new(&env.clock);
        let retry = Retry::fixed(SECOND)
            .max_attempts(3)
            .budget(RetryBudget::ratio(0.0).min_concurrent(3));
        let pool = work.pool(&env, env.in_order().retry(retry));
        let mut map = pool.map((0..10).map(failing)).ordered();
        assert_eq!(poll_once(pin!(map.next())), None);
        let first = (0..10).map(|name| (name, secs(0)));
        let others =
            [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2)].map(|(name, at)| (name, secs(at)));
        work.starts.expect(&pool, first.chain(others)).await;
        let attempts = map
            .map(|completion| completion.attempts)
            .collect::<Vec<_>>()
            .await;
        assert_eq!(attempts, [3, 3, 3, 1, 1, 1, 1, 1, 1, 1]);
        let stats = assert_over(&env, &pool).await;
        assert_eq!((stats.retries, stats.retries_refused), (6, 7));
    });
}

#[test]
fn a_thousand_first_attempts_are_saved_up_at_most() {
    // One thread, for the sake of speed.
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let work = Work::new(&clock);
        let retry = Retry::fixed(SECOND)
            .max_attempts(2)
            .budget(RetryBudget::ratio(0.2).min_concurrent(0));
        let (pool, mut steps) = work.steps(
            &clock,
            slots
                .in_order(Pool::builder())
                .queue_capacity(6000)
                .retry(retry),
        );
        for name in 0..6000 {
            submit(&pool, (name, if name < 5000 { 0 } else { 1 })).detach();
        }
        steps.run_out(&clock);
        // Those of the last thousand that succeeded, and those that each fifth failure has earned;
        // the first one finds the account full.
        let stats = assert_settled(&pool);
        assert_eq!(
            (stats.retries, stats.retries_refused, stats.failed),
            (200 + 199, 601, 601)
        );
    });
}

// ---- inputs ----

/// An input that counts its copies; all of them hold the same text.
#[derive(Debug)]
struct Copied {
    text: String,
    counts: Arc<(AtomicUsize, AtomicUsize)>,
}

impl Copied {
    fn new(text: &str) -> Self {
        Self {
            text: text.into(),
            counts: Arc::default(),
        }
    }
}

impl Clone for Copied {
    fn clone(&self) -> Self {
        self.counts.0.fetch_add(1, Ordering::SeqCst);
        Self {
            text: self.text.clone(),
            counts: Arc::clone(&self.counts),
        }
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        self.counts.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn each_attempt_sees_an_equal_input_which_is_copied_before_each_but_the_last() {
    everywhere(|env| async move {
        for (failures, copies) in [(0, 1), (1, 2), (9, 2)] {
            for is_kept in [false, true] {
                let seen = Arc::new(Mutex::new(Vec::new()));
                let log = Arc::clone(&seen);
                let pool = env.in_order().retry(Retry::fixed(Duration::ZERO)).spawn_on(
                    &env,
                    move |mut input: Copied| {
                        let result = {
                            let mut log = log.lock().unwrap();
                            log.push(input.text.clone());
                            if log.len() > failures {
                                Ok(())
                            } else {
                                Err(())
                            }
                        };
                        // It is the attempt's own.
                        input.text.push_str(", changed");
                        async move {
                            drop(input);
                            result
                        }
                    },
                );
                let input = Copied::new("text");
                let counts = Arc::clone(&input.counts);
                let map = pool.map([input]);
                let mut map = if is_kept { map.keep_inputs() } else { map };
                let completion = map.next().await.unwrap();
                let attempts = completion.attempts as usize;
                assert_eq!(*seen.lock().unwrap(), vec!["text"; attempts]);
                assert_eq!(attempts, (failures + 1).min(3));
                let kept = completion.input.as_ref().map(|input| input.text.as_str());
                assert_eq!(kept, is_kept.then_some("text"));
                drop((completion, map));
                assert_over(&env, &pool).await;
                // The last attempt needs one only for the completion.
                let copies = copies + usize::from(is_kept && attempts == 3);
                let counts = (
                    counts.0.load(Ordering::SeqCst),
                    counts.1.load(Ordering::SeqCst),
                );
                assert_eq!(counts, (copies, copies + 1), "{failures} failures");
            }
        }
    });
}

#[test]
fn handlers_are_called_as_often_as_attempts_are_reported() {
    everywhere(|env| async move {
        let work = Work::new(&env.clock);
        let retry = Retry::fixed(Duration::ZERO)
            .max_attempts(4)
            .when(|attempt| *attempt != 3);
        let pool = work.pool(&env, env.at_once(3).retry(retry).retry_capacity(10));
        let mut attempts = BTreeMap::new();
        let summary = pool
            .map((0..200).map(|name| (name, name % 6)))
            .for_each(|completion| {
                attempts.insert(completion.index as u32, completion.attempts);
            })
            .await;
        assert_eq!((summary.accepted, summary.is_complete()), (200, true));
        assert_eq!(*work.tries.lock().unwrap(), attempts);
        assert_over(&env, &pool).await;
    });
}

// ---- maps ----

#[test]
fn only_a_final_failure_stops_a_map() {
    everywhere(|env| async move {
        let work = Work::new(&env.clock);
        let pool = work.pool(&env, env.in_order().retry(Retry::fixed(SECOND)));
        let mut map = pool
            .map([(0, 2), (1, 0), failing(2), (3, 1)])
            .on_error(OnError::Stop)
            .ordered();
        assert_eq!(poll_once(pin!(map.next())), None);
        work.starts
            .expect(
                &pool,
                [
                    (0, 0),
                    (1, 0),
                    (2, 0),
                    (3, 0),
                    (0, 1),
                    (2, 1),
                    (3, 1),
                    (0, 2),
                    (2, 2),
                ]
                .map(at_second),
            )
            .await;
        let seen = (&mut map)
            .map(|c| (c.attempts, c.result))
            .collect::<Vec<_>>()
            .await;
        assert_eq!(
            seen,
            [
                (3, Ok(3)),
                (1, Ok(1)),
                (3, Err(JobError::Failed(3))),
                (2, Ok(2))
            ]
        );
        assert_eq!(map.summary().end, End::Stopped);
        assert_over(&env, &pool).await;
    });
}

const fn at_second((name, second): (u32, u64)) -> (u32, Duration) {
    (name, secs(second))
}

#[test]
fn the_failure_that_stops_a_map_cancels_what_waits_for_another_attempt() {
    everywhere(|env| async move {
        let work = Work::new(&env.clock);
        let pool = work.pool(
            &env,
            env.in_order()
                .retry(Retry::fixed(SECOND).when(|attempt| *attempt < 2)),
        );
        let mut map = pool
            .map([failing(0), (1, 1)])
            .on_error(OnError::Stop)
            .ordered();
        assert_eq!(poll_once(pin!(map.next())), None);
        work.starts
            .expect(&pool, [(0, 0), (1, 0), (0, 1)].map(at_second))
            .await;
        let seen = (&mut map)
            .map(|c| (c.attempts, c.input, c.result))
            .collect::<Vec<_>>()
            .await;
        let stopped = Err(JobError::Cancelled(CancelReason::Stopped));
        assert_eq!(
            seen,
            [
                (2, None, Err(JobError::Failed(2))),
                (1, Some((1, 1)), stopped)
            ]
        );
        assert_over(&env, &pool).await;
    });
}

// ---- panics ----

/// Panics if this is the error of the bad job.
fn is_good(name: u32) -> bool {
    if name == BAD {
        resume_unwind(Box::new("planned"));
    }
    true
}

const BAD: u32 = 7;

/// Runs a bad job among good ones, all of which fail once; says how many attempts and how many
/// retries the bad one had, and what became of it.
async fn one_bad_among_good<In>(
    env: &Env,
    builder: Builder<In, u32>,
    input: fn(u32) -> In,
    name: fn(&In) -> u32,
    way: Way,
) -> (u32, u64, Result<(), String>)
where
    In: Send + 'static,
{
    let tries = Arc::new(Mutex::new(BTreeMap::<u32, u32>::new()));
    let counted = Arc::clone(&tries);
    let attempts = Arc::new(Mutex::new(BTreeMap::new()));
    let log = Arc::clone(&attempts);
    let retrying = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&retrying);
    let builder = builder.observe(move |event: &Event| match event {
        Event::Finished { job, attempts, .. } => {
            log.lock().unwrap().insert(job.as_u64() as u32, *attempts);
        }
        Event::Retrying { .. } => drop(count.fetch_add(1, Ordering::SeqCst)),
        _ => {}
    });
    let pool = builder.spawn_on(env, move |input: In| {
        let name = name(&input);
        let mut tries = counted.lock().unwrap();
        let count = tries.entry(name).or_default();
        *count += 1;
        let is_first = *count == 1;
        async move { if is_first { Err(name) } else { Ok(()) } }
    });
    let text = |result: Result<(), JobError<u32>>| result.map_err(|error| error.to_string());
    let results: Vec<_> = match way {
        Way::Handle => {
            let mut results = Vec::new();
            let handles: Vec<_> = (0..10)
                .map(|name| pool.try_submit(input(name)).unwrap())
                .collect();
            for handle in handles {
                results.push(text(handle.await));
            }
            results
        }
        Way::Map => {
            pool.map((0..10).map(input))
                .ordered()
                .map(|c| text(c.result))
                .collect()
                .await
        }
    };
    let stats = assert_over(env, &pool).await;
    assert_eq!((stats.succeeded, stats.panicked), (9, 1));
    assert_eq!(stats.retries, retrying.load(Ordering::SeqCst) as u64);
    for (name, result) in (0..).zip(&results) {
        if name != BAD {
            assert_eq!(
                (result, attempts.lock().unwrap()[&name]),
                (&Ok(()), 2),
                "job {name}"
            );
        }
    }
    let attempts = attempts.lock().unwrap()[&BAD];
    assert_eq!(
        tries.lock().unwrap().values().sum::<u32>(),
        9 * 2 + attempts
    );
    (attempts, stats.retries - 9, results[BAD as usize].clone())
}

#[test]
fn a_panic_of_a_closure_of_the_policy_is_the_outcome_of_its_job_and_of_no_other() {
    everywhere(|env| async move {
        let planned = || Err("the job panicked: planned".to_owned());
        let policies: [(&str, fn(Retry<u32>) -> Retry<u32>); 4] = [
            ("when", |retry| retry.when(|error| is_good(*error))),
            ("retry_after", |retry| {
                retry.retry_after(|error| is_good(*error).then_some(Duration::ZERO))
            }),
            ("verdict", |retry| {
                retry.decide_by(|error| {
                    if is_good(*error) {
                        RetryDecision::Retry
                    } else {
                        RetryDecision::GiveUp
                    }
                })
            }),
            ("on_retry", |retry| {
                retry.on_retry(|retrying| {
                    if let JobError::Failed(error) = retrying.error {
                        is_good(*error);
                    }
                })
            }),
        ];
        for (name, policy) in policies {
            for way in WAYS {
                let builder = env.at_once(2).retry(policy(Retry::fixed(Duration::ZERO)));
                let ran = one_bad_among_good(&env, builder, |name| name, |input| *input, way).await;
                assert_eq!(ran, (1, 0, planned()), "{name}");
            }
        }
    });
}

#[test]
fn a_panic_of_the_delays_is_the_outcome_of_its_job_and_of_no_other() {
    everywhere(|env| async move {
        for is_late in [false, true] {
            let work = Work::new(&env.clock);
            // The first call, or the first delay of the iterator that it makes.
            let has_panicked = Arc::new(AtomicBool::new(false));
            let retry = Retry::delays(move || {
                let is_bad = !has_panicked.swap(true, Ordering::SeqCst);
                if is_bad && !is_late {
                    resume_unwind(Box::new("planned"));
                }
                iter::repeat_with(move || {
                    if is_bad {
                        resume_unwind(Box::new("planned"))
                    } else {
                        Duration::ZERO
                    }
                })
            });
            let pool = work.pool(&env, env.in_order().retry(retry));
            let seen = pool.map((0..3).map(|name| (name, 1))).ordered();
            let seen = seen
                .map(|c| (c.attempts, c.result.map_err(|error| error.to_string())))
                .collect::<Vec<_>>()
                .await;
            assert_eq!(
                seen,
                [
                    (1, Err("the job panicked: planned".into())),
                    (2, Ok(2)),
                    (2, Ok(2))
                ]
            );
            assert_over(&env, &pool).await;
        }
    });
}

/// An input of which one cannot be copied: the bad one, after so many times.
#[derive(Debug)]
struct Uncopied {
    name: u32,
    copies: u32,
}

impl Clone for Uncopied {
    fn clone(&self) -> Self {
        assert!(self.copies <= 2);
        if self.copies == 0 {
            is_good(self.name);
        }
        Self {
            name: self.name,
            copies: self.copies.saturating_sub(1),
        }
    }
}

#[test]
fn a_panic_of_the_clone_of_an_input_is_the_outcome_of_its_job_and_of_no_other() {
    everywhere(|env| async move {
        let planned = || Err("the job panicked: planned".to_owned());
        for way in WAYS {
            let builder = || env.at_once(2).retry(Retry::fixed(Duration::ZERO));
            // Before the first attempt, and before the second one.
            let at_once: fn(u32) -> Uncopied = |name| Uncopied { name, copies: 0 };
            let later: fn(u32) -> Uncopied = |name| Uncopied { name, copies: 1 };
            for (attempts, input) in [(0, at_once), (1, later)] {
                let ran = one_bad_among_good(&env, builder(), input, |input| input.name, way).await;
                assert_eq!(ran, (attempts, u64::from(attempts), planned()));
            }
        }
    });
}

// ---- the end of the pool, and of a job, during the wait ----

#[test]
fn a_drain_waits_for_jobs_that_wait_for_another_attempt() {
    everywhere(|env| async move {
        let work = Work::new(&env.clock);
        let pool = work.pool(&env, env.at_once(2).retry(Retry::fixed(HOUR)));
        let handle = submit(&pool, (0, 2));
        until_delayed(&pool, 1).await;
        let (mut drain, mut idle) = (pin!(pool.drain()), pin!(pool.wait_idle()));
        assert_eq!(
            (poll_once(drain.as_mut()), poll_once(idle.as_mut())),
            (None, None)
        );
        work.starts
            .expect(&pool, [0, 1, 2].map(|hours| (0, HOUR * hours)))
            .await;
        drain.await;
        idle.await;
        assert_eq!(handle.await, Ok(3));
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_shutdown_returns_the_inputs_of_jobs_that_wait_with_their_attempts() {
    everywhere(|env| async move {
        for is_abort in [false, true] {
            let work = Work::new(&env.clock);
            let pool = work.pool(&env, env.in_order().retry(Retry::fixed(HOUR)));
            let handle = submit(&pool, failing(0));
            let mut map = pool.map([(1, 0), failing(2)]).ordered();
            assert_eq!(map.next().await.map(|c| c.result), Some(Ok(1)));
            until_delayed(&pool, 2).await;
            // Another attempt for each, and then the end.
            env.clock.sleepers(1).await;
            env.clock.advance(HOUR);
            while pool.stats().retries < 4 {
                yield_now().await;
            }
            until_delayed(&pool, 2).await;
            let report = if is_abort {
                pool.abort().await
            } else {
                // A minute is not enough, and time for the drain alone.
                env.clock.sleepers(1).await;
                let (report, ()) = future::zip(pool.drain_within(secs(60)), async {
                    env.clock.sleepers(2).await;
                    env.clock.advance(secs(60));
                })
                .await;
                report
            };
            let unstarted: Vec<_> = report
                .unstarted
                .into_iter()
                .map(|job| (job.id.as_u64(), job.index, job.input, job.attempts))
                .collect();
            assert_eq!(unstarted, [(0, 0, failing(0), 2), (2, 1, failing(2), 2)]);
            assert_eq!(report.interrupted, []);
            assert_eq!(
                handle.await,
                Err(JobError::Cancelled(CancelReason::Aborted))
            );
            let last = map.next().await.map(|c| (c.attempts, c.input, c.result));
            assert_eq!(
                last,
                Some((2, None, Err(JobError::Cancelled(CancelReason::Aborted))))
            );
            let stats = assert_over(&env, &pool).await;
            assert_eq!(
                (stats.accepted, stats.succeeded, stats.cancelled),
                (3, 1, 2)
            );
        }
    });
}

#[test]
fn an_attempt_that_a_shutdown_interrupts_is_not_made_again() {
    everywhere(|env| async move {
        for is_abort in [false, true] {
            let (pool, handle, mut map) = second_attempts_without_end(&env, env.at_once(2)).await;
            let report = if is_abort {
                pool.abort().await
            } else {
                pool.drain_within(Duration::ZERO).await
            };
            pool.wait_idle().await;
            let interrupted: Vec<_> = report
                .interrupted
                .iter()
                .map(|job| (job.id.as_u64(), job.index, job.attempts))
                .collect();
            assert_eq!(
                (interrupted, report.unstarted.len()),
                (vec![(0, 0, 2), (1, 0, 2)], 0)
            );
            assert_eq!(
                handle.await,
                Err(JobError::Cancelled(CancelReason::Aborted))
            );
            let last = map.next().await.map(|c| (c.attempts, c.result));
            assert_eq!(
                last,
                Some((2, Err(JobError::Cancelled(CancelReason::Aborted))))
            );
            let stats = assert_over(&env, &pool).await;
            assert_eq!((stats.cancelled, stats.failed, stats.retries), (2, 0, 2));
        }
    });
}

#[test]
fn dropped_workers_leave_a_job_that_waits_abandoned_with_its_input_and_its_attempts() {
    // One thread, since the workers are dropped.
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let work = Work::new(&clock);
        let (pool, mut steps) = work.steps(
            &clock,
            slots.each(Pool::builder(), 2, 2).retry(Retry::fixed(HOUR)),
        );
        let unhandled = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&unhandled);
        pool.on_unhandled(move |failure| {
            log.lock()
                .unwrap()
                .push((failure.id.as_u64(), failure.attempts, failure.error));
        });
        let mut handle = submit(&pool, failing(0));
        submit(&pool, failing(1)).detach();
        let mut map = pool.map([failing(2)]);
        assert_eq!(poll_once(pin!(map.next())), None);
        steps.settle();
        assert_eq!(pool.stats().delayed, 3);
        steps.drop_task(0);
        clock.advance(HOUR);
        steps.settle();
        assert_eq!(
            (pool.stats().delayed, work.starts.take().len()),
            (3, 6),
            "the other worker has taken over"
        );
        steps.drop_task(1);
        assert_eq!(
            poll_once(Pin::new(&mut handle)),
            Some(Err(JobError::Abandoned))
        );
        let last = poll_once(pin!(map.next()))
            .flatten()
            .map(|c| (c.attempts, c.input, c.result));
        assert_eq!(last, Some((2, Some(failing(2)), Err(JobError::Abandoned))));
        assert_eq!(*unhandled.lock().unwrap(), [(1, 2, JobError::Abandoned)]);
        assert_eq!((assert_settled(&pool).abandoned, clock.sleeping()), (3, 0));
    });
}

#[test]
fn a_cancellation_ends_a_job_that_waits_for_another_attempt_at_once() {
    everywhere(|env| async move {
        let work = Work::new(&env.clock);
        let pool = work.pool(&env, env.in_order().retry(Retry::fixed(HOUR)));
        let (cancelled, dropped) = (submit(&pool, failing(0)), submit(&pool, failing(1)));
        let mut map = pool.map([failing(2)]);
        assert_eq!(poll_once(pin!(map.next())), None);
        let group = pool.group();
        group.try_submit(failing(3)).unwrap();
        until_delayed(&pool, 4).await;
        assert_eq!(poll_once(pin!(cancelled.cancel())), Some(None));
        drop(dropped);
        map.cancel();
        group.cancel();
        let stats = pool.stats();
        assert_adds_up(&stats);
        assert_eq!((stats.delayed, stats.queued, stats.cancelled), (0, 0, 4));
        let outcome = |c: Completion<Input, u32, u32>| (c.attempts, c.input, c.result);
        let expected = |name| {
            Some((
                1,
                Some(failing(name)),
                Err(JobError::Cancelled(CancelReason::Stream)),
            ))
        };
        assert_eq!(
            poll_once(pin!(map.next())).flatten().map(outcome),
            expected(2)
        );
        assert_eq!(group.join().await.pop().map(outcome), expected(3));
        assert_eq!(*work.attempts.lock().unwrap(), [1; 4]);
        work.starts
            .expect(&pool, (0..4).map(|name| (name, secs(0))))
            .await;
        assert_over(&env, &pool).await;
    });
}

#[test]
fn the_last_attempt_is_final_whether_inputs_are_kept_or_not() {
    everywhere(|env| async move {
        for is_kept in [false, true] {
            let asked = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&asked);
            let policy = Retry::fixed(Duration::ZERO)
                .max_attempts(2)
                .when(move |_: &&str| {
                    counted.fetch_add(1, Ordering::SeqCst);
                    true
                });
            let pool = env
                .one_by_one()
                .retry(policy)
                .spawn_on(&env, |_: u32| async { Err::<(), _>("busy") });
            let map = pool.map(0..1);
            let mut map = if is_kept { map.keep_inputs() } else { map };
            let completion = map.next().await.unwrap();
            assert_eq!(
                (completion.attempts, completion.result),
                (2, Err(JobError::Failed("busy")))
            );
            assert_eq!(asked.load(Ordering::SeqCst), 1, "kept: {is_kept}");
        }
    });
}
