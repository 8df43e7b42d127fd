//! Jobs that belong together by a key: none of them holds up those of another key, and each key has
//! bounds of its own.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use brigade::{
    Builder, Completion, End, JobError, Key, KeyLimits, ManualTimer, OnError, Outcome, Pool,
    RateLimit, Retry, RetryAfterScope, Spawn, SubmitError, Submitter, Timer,
};
use futures_lite::future;

use crate::harness::{
    Env, Gate, Live, Log, OwnPool, assert_over, assert_settled, everywhere, everywhere_once, gated,
    millis, poll_once, yield_now,
};
use crate::steps::step_pool;

/// A key, and a number within it.
type Input = (&'static str, u32);

const fn key(input: &Input) -> &'static str {
    input.0
}

// ---- turns ----

#[test]
fn keys_of_equal_priority_take_turns_and_jobs_of_one_key_start_in_their_order() {
    everywhere_once(|env| async move {
        let (pool, gate, started) = gated(&env, env.builder().workers(1).key_by(key));
        let submit = |input| pool.try_submit(input).unwrap().detach();
        submit(("z", 0));
        gate.arrived(1).await;
        for n in 1..5 {
            submit(("a", n));
        }
        for input in [("b", 1), ("b", 2), ("c", 1)] {
            submit(input);
        }
        gate.open(2);
        gate.arrived(2).await;
        // The second one of its turn is running, and a key with a new job comes after the keys that
        // wait.
        submit(("d", 1));
        submit(("z", 1));
        gate.open(9);
        assert_over(&env, &pool).await;
        let expected = [
            ("z", 0),
            ("a", 1),
            ("b", 1),
            ("c", 1),
            ("a", 2),
            ("b", 2),
            ("d", 1),
            ("z", 1),
            ("a", 3),
            ("a", 4),
        ];
        assert_eq!(started.take(), expected, "{}", env.name);
    });
}

/// Two are on their way to workers when a failure holds the whole pool; the one that comes back
/// gives its turn back, too.
#[test]
fn a_key_whose_job_comes_back_before_it_starts_keeps_its_turn() {
    for (workers, slots) in [(1, 1), (2, 1), (1, 2)] {
        let (clock, started) = (ManualTimer::new(), Log::new());
        let (log, has_failed) = (started.clone(), Mutex::new(false));
        let retry = Retry::fixed(millis(1))
            .retry_after(|()| Some(millis(10)))
            .retry_after_scope(RetryAfterScope::Pool);
        let builder = Pool::builder()
            .workers(workers)
            .jobs_per_worker(slots)
            .key_by(key)
            .retry(retry);
        let (pool, mut steps) = step_pool(builder.timer(clock.clone()), move |input: Input| {
            log.push(input);
            let is_first = !std::mem::replace(&mut *has_failed.lock().unwrap(), true);
            future::ready(if is_first { Err(()) } else { Ok(()) })
        });
        pool.pause();
        for input in [("a", 1), ("a", 2), ("b", 1), ("b", 2)] {
            pool.try_submit(input).unwrap().detach();
        }
        pool.resume();
        steps.run_out(&clock);
        assert_eq!(
            started.take(),
            [("a", 1), ("b", 1), ("a", 1), ("b", 2), ("a", 2)]
        );
    }
}

#[test]
fn a_key_whose_next_job_is_more_urgent_goes_first_and_turns_are_taken_among_equals() {
    everywhere_once(|env| async move {
        let (pool, gate, started) = gated(&env, env.builder().workers(1).key_by(key));
        let submit = |input, priority| pool.job(input).priority(priority).try_submit().unwrap();
        submit(("z", 0), 9).detach();
        gate.arrived(1).await;
        let jobs = [
            ("a", 1, 0),
            ("b", 1, 0),
            ("c", 1, -1),
            ("a", 2, 1),
            ("a", 3, 1),
            ("c", 2, 1),
            ("b", 2, 0),
        ];
        let handles = jobs.map(|(key, n, priority)| submit((key, n), priority));
        // The priority that it has already costs it no turn.
        assert!(handles[0].set_priority(0));
        assert!(handles[6].set_priority(0));
        gate.open(8);
        for handle in handles {
            assert!(handle.await.is_ok());
        }
        assert_over(&env, &pool).await;
        let expected = [
            ("z", 0),
            ("a", 2),
            ("c", 2),
            ("a", 3),
            ("b", 1),
            ("a", 1),
            ("b", 2),
            ("c", 1),
        ];
        assert_eq!(started.take(), expected, "{}", env.name);
    });
}

#[test]
fn a_job_that_is_given_the_priority_it_has_keeps_its_turn() {
    everywhere_once(|env| async move {
        let (pool, gate, started) = gated(&env, env.builder().workers(1).key_by(key));
        let handles = [("z", 0), ("a", 1), ("b", 1)].map(|input| pool.try_submit(input).unwrap());
        gate.arrived(1).await;
        assert!(handles[1].set_priority(0));
        gate.open(3);
        for handle in handles {
            assert!(handle.await.is_ok());
        }
        assert_eq!(
            started.take(),
            [("z", 0), ("a", 1), ("b", 1)],
            "{}",
            env.name
        );
        assert_over(&env, &pool).await;
    });
}

// ---- bounds ----

/// A pool in which at most `most` jobs of one key run, each until the gate lets it go if its key is
/// "busy".
fn pool_with_busy_key(
    env: &Env,
    builder: Builder<Input, ()>,
    most: usize,
) -> (Pool<Input, Input, ()>, Gate, Log<Input>) {
    let (gate, started) = (Gate::new(), Log::new());
    let (pass, log) = (gate.clone(), started.clone());
    let pool = builder
        .key_by(key)
        .max_running_per_key(most)
        .spawn_on(env, move |input: Input| {
            log.push(input);
            let gate = pass.clone();
            async move {
                if input.0 == "busy" {
                    gate.pass().await;
                }
                Ok(input)
            }
        });
    (pool, gate, started)
}

#[test]
fn a_key_that_has_reached_its_bound_does_not_hold_up_the_others() {
    everywhere(|env| async move {
        let (pool, gate, started) = pool_with_busy_key(&env, env.at_once(2), 1);
        let busy: Vec<_> = (0..50)
            .map(|n| pool.job(("busy", n)).priority(1).try_submit().unwrap())
            .collect();
        gate.arrived(1).await;
        for n in 0..50 {
            assert_eq!(pool.try_submit(("free", n)).unwrap().await, Ok(("free", n)));
        }
        let stats = pool.stats();
        assert_eq!((stats.queued, stats.running), (49, 1), "{}", env.name);
        gate.open(50);
        for (n, handle) in (0..).zip(busy) {
            assert_eq!(handle.await, Ok(("busy", n)));
        }
        let expected = [("busy", 0)]
            .into_iter()
            .chain((0..50).map(|n| ("free", n)));
        let expected: Vec<_> = expected.chain((1..50).map(|n| ("busy", n))).collect();
        assert_eq!(started.take(), expected, "{}", env.name);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn as_many_jobs_of_a_key_run_as_its_bound_allows_and_no_more() {
    everywhere(|env| async move {
        for (most, slots, keys) in [(1, 10, 3), (3, 10, 3), (2, 6, 3), (4, 4, 1), (20, 7, 1)] {
            let keys = &["a", "b", "c"][..keys];
            let gate = Gate::new();
            let live: Arc<HashMap<_, _>> =
                Arc::new(keys.iter().map(|key| (*key, Live::default())).collect());
            let (all, pass, lives) = (Live::default(), gate.clone(), Arc::clone(&live));
            let total = all.clone();
            let pool = env
                .at_once(slots)
                .key_by(key)
                .max_running_per_key(most)
                .spawn_on(&env, move |(key, n): Input| {
                    let guards = (lives[key].enter(), total.enter());
                    let gate = pass.clone();
                    async move {
                        let _guards = guards;
                        gate.pass().await;
                        Ok::<_, ()>(n)
                    }
                });
            // Key after key, so that turns alone would not be enough.
            let mut map = pool.map(keys.iter().flat_map(|key| (0..30).map(move |n| (*key, n))));
            assert!(poll_once(pin!(map.next())).is_none());
            let (jobs, at_once) = (30 * keys.len(), slots.min(keys.len() * most));
            gate.arrived(at_once).await;
            assert_eq!(pool.stats().running, at_once, "{}", env.name);
            gate.open(jobs);
            assert_eq!(map.for_each(drop).await.succeeded, jobs);
            assert_eq!(all.most(), at_once, "{}", env.name);
            for live in live.values() {
                assert_eq!(
                    (live.most(), live.now()),
                    (most.min(slots), 0),
                    "{}",
                    env.name
                );
            }
            assert_over(&env, &pool).await;
        }
    });
}

#[test]
fn a_key_can_have_a_bound_of_its_own_and_lose_it_again() {
    everywhere(|env| async move {
        let (pool, gate, _) = pool_with_busy_key(&env, env.at_once(10), 2);
        pool.set_key_limits("busy", KeyLimits::new().max_running(4));
        let busy: Vec<_> = (0..20)
            .map(|n| pool.try_submit(("busy", n)).unwrap())
            .collect();
        gate.arrived(4).await;
        assert_eq!(pool.stats().running, 4, "{}", env.name);
        // Running jobs go on, and none starts before fewer of them run than may.
        pool.set_key_limits("busy", KeyLimits::new().max_running(1));
        gate.open(3);
        while pool.stats().running > 1 {
            yield_now().await;
        }
        gate.open(1);
        gate.arrived(1).await;
        assert_eq!(pool.stats().running, 1, "{}", env.name);
        pool.set_key_limits("busy", None);
        gate.arrived(1).await;
        assert_eq!(pool.stats().running, 2, "{}", env.name);
        gate.open(20);
        for (n, handle) in (0..).zip(busy) {
            assert_eq!(handle.await, Ok(("busy", n)));
        }
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_key_can_have_a_rate_of_its_own_whether_it_has_jobs_or_not() {
    everywhere(|env| async move {
        let (starts, began) = (Log::new(), env.clock.elapsed());
        let (log, clock) = (starts.clone(), env.clock.clone());
        let pool = env
            .at_once(8)
            .key_by(key)
            .rate_limit_per_key(RateLimit::every(millis(100)))
            .spawn_on(&env, move |input: Input| {
                log.push((input.0, (clock.elapsed() - began).as_millis()));
                future::ready(Ok::<_, ()>(input))
            });
        let submit = |key, count| {
            (0..count).for_each(|n| pool.try_submit((key, n)).unwrap().detach());
        };
        let advance = |time| env.clock.advance(millis(time));
        pool.set_key_limits(
            "slow",
            KeyLimits::new().rate_limit(RateLimit::every(millis(1000))),
        );
        submit("slow", 4);
        assert_eq!(starts.many(1).await, [("slow", 0)]);
        env.clock.sleepers(1).await;
        advance(1000);
        assert_eq!(starts.many(1).await, [("slow", 1000)]);
        // What was consumed under the old limit counts under the new one.
        pool.set_key_limits(
            "slow",
            KeyLimits::new().rate_limit(RateLimit::every(millis(400))),
        );
        env.clock.sleepers(1).await;
        advance(399);
        submit("usual", 2);
        assert_eq!(starts.many(1).await, [("usual", 1399)]);
        advance(1);
        assert_eq!(starts.many(1).await, [("slow", 1400)]);
        env.clock.sleepers(1).await;
        advance(99);
        assert_eq!(starts.many(1).await, [("usual", 1499)]);
        pool.set_key_limits("slow", KeyLimits::new());
        assert_eq!(starts.many(1).await, [("slow", 1499)]);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_job_that_costs_more_than_the_new_limit_of_its_key_ends_at_once() {
    everywhere_once(|env| async move {
        let pool = env
            .builder()
            .workers(1)
            .key_by(key)
            .cost_by(|input: &Input| input.1)
            .spawn_on(&env, |input: Input| future::ready(Ok::<_, ()>(input)));
        pool.pause();
        let cheap = pool.try_submit(("a", 2)).unwrap();
        let dear = pool.try_submit(("a", 3)).unwrap();
        let other = pool.try_submit(("b", 3)).unwrap();
        let limit = RateLimit::every(millis(1)).burst(2);
        pool.set_key_limits("a", KeyLimits::new().rate_limit(limit));
        let error = dear.await.unwrap_err();
        assert!(error.is_cost_exceeds_limit(), "{error:?}");
        pool.resume();
        assert_eq!(cheap.await, Ok(("a", 2)));
        assert_eq!(other.await, Ok(("b", 3)));
        assert_over(&env, &pool).await;
    });
}

#[test]
fn no_job_of_a_key_that_is_held_starts_and_the_others_do() {
    everywhere(|env| async move {
        let (starts, began) = (Log::new(), env.clock.elapsed());
        let (log, clock) = (starts.clone(), env.clock.clone());
        let pool = env
            .at_once(2)
            .key_by(key)
            .spawn_on(&env, move |input: Input| {
                log.push((input.0, (clock.elapsed() - began).as_millis()));
                future::ready(Ok::<_, ()>(input))
            });
        let submit = |key| pool.try_submit((key, 0)).unwrap().detach();
        pool.hold_key("a", millis(500));
        // A shorter one does not shorten it.
        pool.hold_key("a", millis(100));
        submit("a");
        submit("b");
        assert_eq!(starts.many(1).await, [("b", 0)]);
        env.clock.sleepers(1).await;
        env.clock.advance(millis(499));
        submit("b");
        assert_eq!(starts.many(1).await, [("b", 499)]);
        env.clock.sleepers(1).await;
        env.clock.advance(millis(1));
        assert_eq!(starts.many(1).await, [("a", 500)]);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn jobs_of_one_key_run_one_after_another_and_those_of_two_side_by_side() {
    everywhere(|env| async move {
        type Timed = (&'static str, u64);
        let (spans, clock) = (Log::new(), env.clock.clone());
        let (log, start) = (spans.clone(), env.clock.elapsed());
        let pool = env
            .at_once(2)
            .key_by(|job: &Timed| job.0)
            .max_running_per_key(1)
            .spawn_on(&env, move |(key, takes): Timed| {
                let (log, clock) = (log.clone(), clock.clone());
                async move {
                    let began = clock.elapsed() - start;
                    clock.sleep(millis(takes)).await;
                    log.push((
                        key,
                        began.as_millis(),
                        (clock.elapsed() - start).as_millis(),
                    ));
                    Ok::<_, ()>(())
                }
            });
        for (a, b) in [(300, 100), (100, 200), (200, 100), (100, 300)] {
            pool.try_submit(("a", a)).unwrap().detach();
            pool.try_submit(("b", b)).unwrap().detach();
        }
        for _ in 0..5 {
            env.clock.sleepers(2).await;
            assert!(env.clock.advance_to_next());
        }
        assert_over(&env, &pool).await;
        let mut spans = spans.take();
        spans.sort_unstable();
        let expected = [
            ("a", 0, 300),
            ("a", 300, 400),
            ("a", 400, 600),
            ("a", 600, 700),
            ("b", 0, 100),
            ("b", 100, 300),
            ("b", 300, 400),
            ("b", 400, 700),
        ];
        assert_eq!(spans, expected, "{}", env.name);
    });
}

#[test]
fn a_key_is_free_again_however_its_job_ends() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let pass = gate.clone();
        let (pool, workers) = env
            .at_once(4)
            .key_by(|_: &&'static str| "one")
            .max_running_per_key(1)
            .attempt_timeout(millis(50))
            .build(move |what: &'static str| {
                let gate = pass.clone();
                async move {
                    gate.pass().await;
                    match what {
                        "fails" => Err(()),
                        "panics" => resume_unwind(Box::new("on purpose")),
                        "succeeds" => Ok(()),
                        _ => future::pending().await,
                    }
                }
            });
        let mut kills = Vec::new();
        for worker in workers {
            let (kill, killed) = async_channel::bounded::<()>(1);
            kills.push(kill);
            env.spawn(Box::pin(future::or(worker.run(), async move {
                killed.recv().await.unwrap_or_default();
            })));
        }
        let whats = [
            "succeeds",
            "fails",
            "panics",
            "times out",
            "is cancelled",
            "loses its worker",
            "succeeds",
        ];
        let handles = whats.map(|what| (what, pool.try_submit(what).unwrap()));
        let mut ends = Vec::new();
        for (what, handle) in handles {
            gate.open(1);
            gate.arrived(1).await;
            match what {
                "times out" => {
                    env.clock.sleepers(1).await;
                    env.clock.advance(millis(50));
                }
                "is cancelled" => {
                    assert_eq!(handle.cancel().await, None);
                    continue;
                }
                "loses its worker" => drop(kills[pool.running()[0].worker].close()),
                _ => {}
            }
            let end = handle.await;
            ends.push((what, end.map_err(|error| error.outcome())));
        }
        let expected = [
            ("succeeds", Ok(())),
            ("fails", Err(Outcome::Failed)),
            ("panics", Err(Outcome::Panicked)),
            ("times out", Err(Outcome::TimedOut)),
            ("loses its worker", Err(Outcome::Abandoned)),
            ("succeeds", Ok(())),
        ];
        assert_eq!(ends, expected, "{}", env.name);
        let stats = assert_over(&env, &pool).await;
        assert_eq!((stats.accepted, stats.cancelled), (7, 1));
    });
}

#[test]
fn a_job_of_a_busy_key_that_is_cancelled_takes_no_other_jobs_turn() {
    everywhere(|env| async move {
        let (pool, gate, started) = pool_with_busy_key(&env, env.in_order(), 1);
        let mut handles: Vec<_> = (0..6)
            .map(|n| pool.try_submit(("busy", n)).unwrap())
            .collect();
        gate.arrived(1).await;
        for at in [3, 1] {
            assert_eq!(poll_once(pin!(handles.remove(at).cancel())), Some(None));
        }
        gate.open(6);
        for handle in handles {
            assert!(handle.await.is_ok());
        }
        assert_eq!(
            started.take(),
            [0, 2, 4, 5].map(|n| ("busy", n)),
            "{}",
            env.name
        );
        assert_over(&env, &pool).await;
    });
}

#[test]
fn thousands_of_keys_each_keep_their_order_and_their_bound() {
    everywhere(|env| async move {
        let live: Arc<Vec<Live>> = Arc::new((0..2000).map(|_| Live::default()).collect());
        let (lives, last) = (Arc::clone(&live), Arc::new(Mutex::new(vec![0; 2000])));
        let pool = env
            .at_once(4)
            .key_by(|(key, _): &(usize, u32)| *key)
            .max_running_per_key(1)
            .spawn_on(&env, move |(key, n): (usize, u32)| {
                let guard = lives[key].enter();
                let before = std::mem::replace(&mut last.lock().unwrap()[key], n);
                async move {
                    let _guard = guard;
                    yield_now().await;
                    if before + 1 == n {
                        Ok(())
                    } else {
                        Err((before, n))
                    }
                }
            });
        let jobs = (1..4).flat_map(|n| (0..2000).map(move |key| (key, n)));
        let summary = pool
            .map(jobs)
            .for_each(|completion| assert_eq!(completion.result, Ok(())))
            .await;
        assert_eq!(
            (summary.succeeded, summary.end),
            (6000, End::Complete),
            "{}",
            env.name
        );
        assert!(live.iter().all(|live| (live.most(), live.now()) == (1, 0)));
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_number_and_its_text_are_two_keys_and_a_text_is_one_whatever_it_is_made_of() {
    everywhere(|env| async move {
        let keys = [
            Key::from(7_u32),
            Key::from(7_u64),
            Key::from(7_usize),
            Key::from("7"),
            Key::from(String::from("7")),
            Key::from(&String::from("7")),
            Key::from(Arc::<str>::from("7")),
        ];
        let (pool, gate, _) = gated(
            &env,
            env.at_once(7).key_by(Key::clone).max_running_per_key(1),
        );
        let handles = keys.map(|key| pool.try_submit(key).unwrap());
        gate.arrived(2).await;
        let texts: Vec<_> = pool
            .running()
            .into_iter()
            .map(|job| job.key.map(|key| format!("{key} {key:?}")))
            .collect();
        assert_eq!(texts.len(), 2, "{}", env.name);
        assert!(
            texts.contains(&Some("7 7".into())) && texts.contains(&Some("7 \"7\"".into())),
            "{texts:?}"
        );
        gate.open(7);
        for handle in handles {
            assert_eq!(handle.await.map(|key| key.to_string()), Ok("7".into()));
        }
        assert_over(&env, &pool).await;
    });
}

// ---- rates and costs ----

/// A pool whose jobs are done at once, and a log of when they start.
fn timed<In: Clone + Send + 'static>(
    env: &Env,
    builder: Builder<In, ()>,
) -> (Pool<In, (), ()>, Log<(u128, In)>) {
    let starts = Log::new();
    let (log, clock, start) = (starts.clone(), env.clock.clone(), env.clock.elapsed());
    let pool = builder.spawn_on(env, move |input: In| {
        log.push(((clock.elapsed() - start).as_millis(), input));
        future::ready(Ok(()))
    });
    (pool, starts)
}

/// Moves the clock from alarm to alarm; at each of them as many jobs start as are said.
async fn tick<In>(env: &Env, starts: &Log<(u128, In)>, counts: &[usize]) -> Vec<(u128, In)> {
    let mut log = Vec::new();
    for count in counts {
        env.clock.sleepers(1).await;
        assert!(env.clock.advance_to_next());
        log.extend(starts.many(*count).await);
    }
    log
}

#[test]
fn each_key_has_a_rate_of_its_own() {
    everywhere(|env| async move {
        let limit = RateLimit::every(millis(1000));
        let (pool, starts) = timed(&env, env.at_once(10).key_by(key).rate_limit_per_key(limit));
        for n in 0..4 {
            pool.try_submit(("a", n)).unwrap().detach();
        }
        let mut log = starts.many(1).await;
        env.clock.sleepers(1).await;
        env.clock.advance(millis(500));
        for n in 0..3 {
            pool.try_submit(("b", n)).unwrap().detach();
        }
        log.extend(starts.many(1).await);
        log.extend(tick(&env, &starts, &[1, 1, 1, 1, 1]).await);
        let (a, b) = (
            (0..4).map(|n| (1000 * u128::from(n), ("a", n))),
            (0..3).map(|n| (500 + 1000 * u128::from(n), ("b", n))),
        );
        let mut expected: Vec<_> = a.chain(b).collect();
        expected.sort_unstable();
        assert_eq!(log, expected, "{}", env.name);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_job_whose_key_has_permits_again_starts_before_a_costlier_one_of_another_that_still_waits() {
    everywhere(|env| async move {
        type Costly = (&'static str, u32, u32);
        let builder = env
            .at_once(3)
            .rate_limit(RateLimit::per_second(1).burst(4))
            .key_by(|job: &Costly| job.0)
            .cost_by(|job: &Costly| job.2)
            .rate_limit_per_key(RateLimit::sliding_window(4, millis(3000)));
        let (pool, starts) = timed(&env, builder);
        pool.try_submit(("a", 1, 4)).unwrap().detach();
        let mut log = starts.many(1).await;
        // The key has no permits for three seconds, the pool none for so large a cost for four.
        pool.job(("a", 2, 1))
            .priority(1)
            .try_submit()
            .unwrap()
            .detach();
        pool.try_submit(("b", 1, 4)).unwrap().detach();
        log.extend(tick(&env, &starts, &[1, 1]).await);
        assert_eq!(
            log,
            [(0, ("a", 1, 4)), (3000, ("a", 2, 1)), (5000, ("b", 1, 4))],
            "{}",
            env.name
        );
        assert_over(&env, &pool).await;
    });
}

#[test]
fn an_urgent_job_overtakes_one_on_its_way_to_a_worker_and_has_its_permits_be_it_of_the_same_key_or_not()
 {
    const FIRST: Input = ("a", 0);
    const SAME: Input = ("a", 1);
    const OTHER: Input = ("b", 0);
    everywhere_once(|env| async move {
        let cases = [
            // The first job has the only slot, and the slot and the permit of its key, since no other
            // job was there.
            (vec![(FIRST, 0), (SAME, 1)], vec![(0, SAME), (1000, FIRST)]),
            (vec![(FIRST, 0), (OTHER, 1)], vec![(0, OTHER), (0, FIRST)]),
            (
                vec![(FIRST, 0), (OTHER, 1), (SAME, 2)],
                vec![(0, SAME), (0, OTHER), (1000, FIRST)],
            ),
            (
                vec![(FIRST, 0), (OTHER, 0), (SAME, 0)],
                vec![(0, FIRST), (0, OTHER), (1000, SAME)],
            ),
        ];
        for (jobs, expected) in cases {
            let starts = Log::new();
            let (log, clock, start) = (starts.clone(), env.clock.clone(), env.clock.elapsed());
            let (pool, workers) = env
                .builder()
                .workers(1)
                .key_by(key)
                .max_running_per_key(1)
                .rate_limit_per_key(RateLimit::every(millis(1000)))
                .build(move |input: Input| {
                    log.push(((clock.elapsed() - start).as_millis(), input));
                    future::ready(Ok::<_, ()>(()))
                });
            for (input, priority) in jobs {
                pool.job(input)
                    .priority(priority)
                    .try_submit()
                    .unwrap()
                    .detach();
            }
            workers.spawn_on(&env);
            let later = expected.iter().filter(|(at, _)| *at > 0).count();
            let mut log = starts.many(expected.len() - later).await;
            if later > 0 {
                log.extend(tick(&env, &starts, &[later]).await);
            }
            assert_eq!(log, expected, "{}", env.name);
            assert_over(&env, &pool).await;
        }
    });
}

#[test]
fn a_job_that_costs_nothing_takes_its_turn_and_no_permit() {
    everywhere(|env| async move {
        type Costly = (u32, u32);
        let limit = RateLimit::per_second(1).burst(2);
        let builder = env
            .at_once(2)
            .rate_limit(limit)
            .cost_by(|job: &Costly| job.1);
        let (pool, starts) = timed(&env, builder);
        for (n, cost) in (1..).zip([1, 2, 1, 1, 0]) {
            pool.try_submit((n, cost)).unwrap().detach();
        }
        let mut log = starts.many(1).await;
        log.extend(tick(&env, &starts, &[1, 1, 2]).await);
        // No job waits, and there is no permit.
        pool.try_submit((6, 0)).unwrap().detach();
        log.extend(starts.many(1).await);
        log[3..].sort_unstable();
        let expected = [
            (0, (1, 1)),
            (1000, (2, 2)),
            (2000, (3, 1)),
            (3000, (4, 1)),
            (3000, (5, 0)),
            (3000, (6, 0)),
        ];
        assert_eq!(log, expected, "{}", env.name);
        assert_over(&env, &pool).await;
    });
}

// ---- closures that panic ----

#[test]
fn a_panic_in_the_closure_of_keys_or_costs_ends_that_job_alone() {
    fn panicked<T, E>(result: Result<T, JobError<E>>) -> String {
        match result {
            Err(JobError::Panicked(message)) => message.as_str().to_owned(),
            _ => panic!("the job did not panic"),
        }
    }
    /// Without their indices: a child has the next one when it is added, which may be before some
    /// input has one.
    fn results(completions: Vec<Completion<u32, u32, ()>>) -> Vec<(u32, Option<u32>)> {
        let mut results: Vec<_> = completions
            .into_iter()
            .map(|job| (job.attempts, job.result.ok()))
            .collect();
        results.sort_unstable();
        results
    }
    everywhere(|env| async move {
        let started = Log::new();
        let log = started.clone();
        let (pool, workers) = env
            .in_order()
            .queue_capacity(3)
            .key_by(|n: &u32| {
                if *n == 13 {
                    resume_unwind(Box::new("no key"))
                } else {
                    *n
                }
            })
            .cost_by(|n: &u32| {
                if *n == 14 {
                    resume_unwind(Box::new("no cost"))
                } else {
                    1
                }
            })
            .build_with_submitter(move |n: u32, jobs: Submitter<u32, u32, ()>| {
                log.push(n);
                async move {
                    if n == 3 {
                        // They are accepted like other jobs; their outcome reaches what awaits them.
                        assert_eq!(jobs.add(13), Ok(()));
                        assert_eq!(panicked(jobs.submit(14).unwrap().await), "no cost");
                    }
                    Ok(n)
                }
            });
        // Before a worker is there, so that a place which is not free again would be missed.
        let handles = [13, 1, 14, 2].map(|n| pool.try_submit(n).unwrap());
        assert!(handles[0].is_finished() && handles[2].is_finished());
        assert_eq!(pool.stats().queued, 2);
        let [first, second, third, fourth] = handles;
        let group = pool.group();
        assert_eq!(
            (
                group.try_submit(13),
                group.try_submit(1),
                group.try_submit(2)
            ),
            (Ok(()), Ok(()), Err(SubmitError::Full(2)))
        );
        workers.spawn_on(&env);
        assert_eq!(
            (panicked(first.await), panicked(third.await)),
            ("no key".into(), "no cost".into())
        );
        assert_eq!((second.await, fourth.await), (Ok(1), Ok(2)));
        assert_eq!(results(group.join().await), [(0, None), (1, Some(1))]);
        let mut completions = Vec::new();
        let summary = pool
            .map([2, 13, 3, 14, 4])
            .for_each(|job| completions.push(job))
            .await;
        let expected = [
            (0, None),
            (0, None),
            (0, None),
            (1, Some(2)),
            (1, Some(3)),
            (1, Some(4)),
        ];
        assert_eq!(results(completions), expected, "{}", env.name);
        assert_eq!(
            (summary.succeeded, summary.panicked, summary.end),
            (3, 3, End::Complete)
        );
        // It counts as a failure for a map that stops at one.
        let stopped = pool
            .map([2, 13])
            .on_error(OnError::Stop)
            .for_each(drop)
            .await;
        assert_eq!((stopped.panicked, stopped.end), (1, End::Stopped));
        let stats = assert_over(&env, &pool).await;
        assert_eq!((stats.workers, stats.panicked), (0, 8));
        let ran: Vec<_> = started
            .take()
            .into_iter()
            .filter(|n| [13, 14].contains(n))
            .collect();
        assert_eq!(ran, []);
    });
}

// ---- waits that could never end ----

#[test]
fn a_job_that_awaits_one_of_its_own_busy_key_is_told_and_one_of_another_key_is_served() {
    type Jobs = Submitter<Input, Result<u32, JobError<()>>, ()>;
    everywhere(|env| async move {
        let (pool, workers) = env
            .at_once(3)
            .key_by(key)
            .max_running_per_key(1)
            .build_with_submitter(|(key, n): Input, jobs: Jobs| async move {
                match n {
                    // It waits for one of its own key, or of the other.
                    1 => Ok(jobs.submit((key, 0)).unwrap().await.and_then(|inner| inner)),
                    2 => Ok(jobs
                        .submit(("other", 0))
                        .unwrap()
                        .await
                        .and_then(|inner| inner)),
                    n => Ok(Ok(n)),
                }
            });
        workers.spawn_on(&env);
        assert_eq!(
            pool.try_submit(("one", 1)).unwrap().await,
            Ok(Err(JobError::WouldDeadlock)),
            "{}",
            env.name
        );
        assert_eq!(
            pool.try_submit(("one", 2)).unwrap().await,
            Ok(Ok(0)),
            "{}",
            env.name
        );
        assert_eq!(
            pool.try_submit(("other", 2)).unwrap().await,
            Ok(Err(JobError::WouldDeadlock)),
            "{}",
            env.name
        );
        let stats = assert_over(&env, &pool).await;
        assert_eq!((stats.succeeded, stats.cancelled), (4, 2));
    });
}

#[test]
fn a_wait_for_ones_own_key_ends_when_nothing_else_runs_any_more() {
    type Jobs = Submitter<Input, Option<JobError<()>>, ()>;
    everywhere(|env| async move {
        let gate = Gate::new();
        let pass = gate.clone();
        let (pool, workers) = env
            .at_once(3)
            .key_by(key)
            .max_running_per_key(1)
            .build_with_submitter(move |(key, n): Input, jobs: Jobs| {
                let gate = pass.clone();
                async move {
                    gate.pass().await;
                    match n {
                        0 => Ok(None),
                        _ => Ok(jobs.submit((key, 0)).unwrap().await.err()),
                    }
                }
            });
        workers.spawn_on(&env);
        let waits = pool.try_submit(("one", 1)).unwrap();
        let other = pool.try_submit(("other", 0)).unwrap();
        gate.arrived(2).await;
        gate.open(2);
        assert_eq!(
            (waits.await, other.await),
            (Ok(Some(JobError::WouldDeadlock)), Ok(None)),
            "{}",
            env.name
        );
        assert_over(&env, &pool).await;
    });
}

#[test]
fn two_keys_whose_jobs_await_each_others_next_ones_do_not_hang() {
    type Jobs = Submitter<Input, bool, ()>;
    everywhere(|env| async move {
        let gate = Gate::new();
        let pass = gate.clone();
        let (pool, workers) = env
            .at_once(4)
            .key_by(key)
            .max_running_per_key(1)
            .build_with_submitter(move |(key, n): Input, jobs: Jobs| {
                let gate = pass.clone();
                async move {
                    if n == 0 {
                        return Ok(false);
                    }
                    gate.pass().await;
                    let other = if key == "a" { "b" } else { "a" };
                    Ok(jobs.submit((other, 0)).unwrap().await == Err(JobError::WouldDeadlock))
                }
            });
        workers.spawn_on(&env);
        let handles = [
            pool.try_submit(("a", 1)).unwrap(),
            pool.try_submit(("b", 1)).unwrap(),
        ];
        gate.arrived(2).await;
        gate.open(2);
        let mut told = 0;
        for handle in handles {
            told += usize::from(handle.await.unwrap());
        }
        // The first job whose wait is refused frees the slot for the job that the other awaits.
        assert!((1..=2).contains(&told), "{told} on {}", env.name);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_map_of_ones_own_key_and_a_wait_for_room_behind_it_end_with_an_error() {
    everywhere(|env| async move {
        let own = OwnPool::<u32, &'static str, ()>::new();
        let inside = own.reach();
        let pool = env
            .at_once(3)
            .queue_capacity(1)
            .key_by(|_: &u32| "one")
            .max_running_per_key(1)
            .spawn_on(&env, move |n: u32| {
                let pool = inside.get();
                async move {
                    let Some(pool) = pool.filter(|_| n > 0) else {
                        return Ok("plain");
                    };
                    if n == 1 {
                        let summary = pool.map([0, 0, 0]).for_each(drop).await;
                        assert_eq!(summary.end, End::WouldDeadlock);
                        return Ok("the map was told");
                    }
                    let first = pool.submit(0).await.unwrap();
                    let refused = pool.submit(0).await.unwrap_err();
                    drop(first);
                    assert_eq!(refused, SubmitError::WouldDeadlock(0));
                    Ok("the submitter was told")
                }
            });
        own.set(&pool);
        assert_eq!(
            pool.submit(1).await.unwrap().await,
            Ok("the map was told"),
            "{}",
            env.name
        );
        assert_eq!(
            pool.submit(2).await.unwrap().await,
            Ok("the submitter was told"),
            "{}",
            env.name
        );
        assert_over(&env, &pool).await;
        assert_settled(&pool);
    });
}

// ---- what can be seen ----

#[test]
fn the_key_of_a_running_job_is_seen_and_that_of_one_that_is_done_is_not() {
    everywhere(|env| async move {
        let (pool, gate, _) = gated(&env, env.at_once(2).key_by(key));
        env.clock.advance(millis(700));
        let since = env.clock.now();
        let handle = pool.try_submit(("host", 1)).unwrap();
        gate.arrived(1).await;
        let running = pool.running();
        let seen: Vec<_> = running
            .iter()
            .map(|job| (job.id, job.index, job.attempt, job.key.clone(), job.since))
            .collect();
        assert_eq!(
            seen,
            [(handle.id(), 0, 1, Some(Key::from("host")), Some(since))],
            "{}",
            env.name
        );
        gate.open(1);
        assert!(handle.await.is_ok());
        assert_eq!(pool.running(), []);
        assert_over(&env, &pool).await;
    });
}
