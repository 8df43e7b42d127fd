//! Which of the waiting jobs comes next: priorities, aging, delays; and that it changes nothing
//! else when a pool that ran without an order is given one.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use brigade::{
    CancelReason, End, JobError, JobHandle, ManualTimer, Pool, RateLimit, SubmitError, Submitter,
    TimeLimit, Timer,
};
use futures_lite::future;

use crate::harness::{
    Gate, Log, assert_adds_up, assert_over, assert_settled, block_on, everywhere, everywhere_once,
    gated, millis, poll_once, secs, yield_now,
};

type Numbers = Pool<u32, u32, ()>;

fn submit(pool: &Numbers, n: u32, priority: i32) -> JobHandle<u32, u32, ()> {
    pool.job(n).priority(priority).try_submit().unwrap()
}

async fn await_all(
    handles: impl IntoIterator<Item = JobHandle<u32, u32, ()>>,
) -> Vec<Result<u32, JobError<()>>> {
    let mut results = Vec::new();
    for handle in handles {
        results.push(handle.await);
    }
    results
}

// ---- priority ----

#[test]
fn a_greater_priority_starts_sooner_and_equals_start_in_the_order_of_their_acceptance() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.one_by_one());
        let mut handles = vec![pool.try_submit(0).unwrap()];
        gate.arrived(1).await;
        let priorities = [0, 5, -3, 5, i32::MIN, 0, i32::MAX, -3, i32::MIN, i32::MAX];
        handles.extend(
            (1..)
                .zip(priorities)
                .map(|(n, priority)| submit(&pool, n, priority)),
        );
        gate.open(11);
        assert_eq!(
            await_all(handles).await,
            (0..11).map(Ok).collect::<Vec<_>>()
        );
        assert_eq!(
            started.take(),
            [0, 7, 10, 2, 4, 1, 6, 3, 8, 5, 9],
            "{}",
            env.name
        );
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_late_urgent_job_takes_the_next_slot() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.one_by_one());
        let first = pool.try_submit(0).unwrap();
        gate.arrived(1).await;
        // Two hundred that wait, of a map and of handles.
        let mut map = pool.map(1..101);
        assert_eq!(poll_once(pin!(map.next())), None);
        let others: Vec<_> = (101..201).map(|n| pool.try_submit(n).unwrap()).collect();
        for n in 201..204 {
            let urgent = submit(&pool, n, 1);
            gate.open(1);
            gate.arrived(1).await;
            assert!(!urgent.is_finished());
            urgent.detach();
        }
        gate.open(201);
        assert_eq!(first.await, Ok(0));
        assert_eq!(
            await_all(others).await,
            (101..201).map(Ok).collect::<Vec<_>>()
        );
        assert_eq!(map.for_each(drop).await.succeeded, 100);
        let expected: Vec<_> = [0, 201, 202, 203].into_iter().chain(1..201).collect();
        assert_eq!(started.take(), expected, "{}", env.name);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn an_urgent_job_overtakes_one_that_is_on_its_way_to_a_worker() {
    everywhere_once(|env| async move {
        for workers in [1, 2] {
            let started = Log::new();
            let log = started.clone();
            let (pool, made) = env.builder().workers(workers).build(move |n: u32| {
                log.push(n);
                future::ready(Ok::<_, ()>(n))
            });
            pool.set_workers(1);
            // A slot is free for the first job only, and its worker is not polled.
            let handles = [
                submit(&pool, 0, 0),
                submit(&pool, 1, 0),
                submit(&pool, 2, -1),
                submit(&pool, 3, 2),
            ];
            assert!(handles[2].set_priority(3));
            made.spawn_on(&env);
            assert_eq!(await_all(handles).await, [Ok(0), Ok(1), Ok(2), Ok(3)]);
            assert_eq!(started.take(), [2, 3, 0, 1], "{}", env.name);
            assert_over(&env, &pool).await;
        }
    });
}

#[test]
fn a_job_on_its_way_to_a_worker_can_be_moved_behind_the_others() {
    everywhere(|env| async move {
        let started = Log::new();
        let log = started.clone();
        let (pool, made) = env.one_by_one().build(move |n: u32| {
            log.push(n);
            future::ready(Ok::<_, ()>(n))
        });
        let handles = [
            submit(&pool, 0, 1),
            submit(&pool, 1, 0),
            submit(&pool, 2, 0),
        ];
        assert!(handles[0].set_priority(-1));
        made.spawn_on(&env);
        assert_eq!(await_all(handles).await, [Ok(0), Ok(1), Ok(2)]);
        assert_eq!(started.take(), [1, 2, 0], "{}", env.name);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn the_priority_of_a_map_is_that_of_its_jobs_and_the_one_of_a_group_counts_for_jobs_to_come() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.one_by_one());
        let first = pool.try_submit(0).unwrap();
        gate.arrived(1).await;
        let group = pool.group();
        group.try_submit(1).unwrap();
        let group = group.priority(2);
        group.try_submit(2).unwrap();
        let mut low = pool.map([3, 4]).priority(-1);
        let mut plain = pool.map([5, 6]);
        let mut high = pool.map([7, 8]).priority(1);
        for map in [&mut low, &mut plain, &mut high] {
            assert_eq!(poll_once(pin!(map.next())), None);
        }
        let group = group.priority(0);
        group.try_submit(9).unwrap();
        let handle = submit(&pool, 10, 1);
        gate.open(11);
        assert_eq!(first.await, Ok(0));
        assert_eq!(handle.await, Ok(10));
        let joined: Vec<_> = group
            .join()
            .await
            .into_iter()
            .map(|completion| completion.result)
            .collect();
        assert_eq!(joined, [Ok(1), Ok(2), Ok(9)]);
        for map in [low, plain, high] {
            assert!(map.for_each(drop).await.is_complete());
        }
        assert_eq!(
            started.take(),
            [0, 2, 7, 8, 10, 1, 5, 6, 9, 3, 4],
            "{}",
            env.name
        );
        assert_over(&env, &pool).await;
    });
}

#[test]
fn without_ageing_a_steady_stream_of_urgent_jobs_keeps_others_waiting() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.one_by_one());
        submit(&pool, 1, 1).detach();
        gate.arrived(1).await;
        let low = submit(&pool, 0, 0);
        for n in 2..300 {
            submit(&pool, n, 1).detach();
            env.clock.advance(secs(3600));
            gate.open(1);
            gate.arrived(1).await;
        }
        assert_eq!(started.take(), (1..300).collect::<Vec<_>>(), "{}", env.name);
        assert_eq!(pool.stats().queued, 1);
        gate.open(2);
        assert_eq!(low.await, Ok(0));
        assert_over(&env, &pool).await;
    });
}

// ---- aging ----

#[test]
fn with_ageing_a_job_overtakes_those_that_come_as_many_steps_later_as_they_are_more_urgent() {
    everywhere(|env| async move {
        for (low, urgent) in [
            (0, 5),
            (-7, -2),
            (i32::MAX - 5, i32::MAX),
            (i32::MIN, i32::MIN + 5),
        ] {
            let (starts, began) = (Log::new(), env.clock.elapsed());
            let (log, clock) = (starts.clone(), env.clock.clone());
            let pool =
                env.one_by_one()
                    .aging(secs(10))
                    .spawn_on(&env, move |name: &'static str| {
                        log.push((name, (clock.elapsed() - began).as_secs()));
                        let work = clock.sleep(secs(1));
                        async move {
                            work.await;
                            Ok::<_, ()>(())
                        }
                    });
            let submit = |name, priority| {
                pool.job(name)
                    .priority(priority)
                    .try_submit()
                    .unwrap()
                    .detach();
            };
            submit("first", urgent);
            let mut order = vec![starts.next().await];
            submit("low", low);
            submit("low too", low);
            // A job takes a second, and before it ends, another urgent one has come.
            for _ in 0..55 {
                submit("urgent", urgent);
                env.clock.sleepers(1).await;
                env.clock.advance(secs(1));
                order.push(starts.next().await);
            }
            // Those that came in the first fifty seconds went first, one each second; the next one
            // has to wait.
            let expected = (0..56).map(|at| match at {
                0 => ("first", 0),
                51 => ("low", 51),
                52 => ("low too", 52),
                at => ("urgent", at),
            });
            assert_eq!(order, expected.collect::<Vec<_>>(), "{}", env.name);
            for _ in 0..3 {
                env.clock.sleepers(1).await;
                env.clock.advance(secs(1));
            }
            assert_over(&env, &pool).await;
        }
    });
}

#[test]
fn ageing_changes_no_order_among_equals() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.one_by_one().aging(secs(1)));
        let mut handles = vec![pool.try_submit(0).unwrap()];
        gate.arrived(1).await;
        for n in 1..50 {
            handles.push(pool.try_submit(n).unwrap());
            env.clock.advance(millis(300));
        }
        gate.open(50);
        assert_eq!(
            await_all(handles).await,
            (0..50).map(Ok).collect::<Vec<_>>()
        );
        assert_eq!(started.take(), (0..50).collect::<Vec<_>>(), "{}", env.name);
        assert_over(&env, &pool).await;
    });
}

// ---- a change of mind ----

#[test]
fn a_waiting_job_that_is_given_another_priority_takes_its_place_by_that() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.one_by_one());
        let running = submit(&pool, 0, 9);
        gate.arrived(1).await;
        let handles: Vec<_> = (1..8).map(|n| pool.try_submit(n).unwrap()).collect();
        let delayed = pool.job(8).delay(secs(60)).try_submit().unwrap();
        // One goes up, one down, two up to the same place, the later one first, and one nowhere.
        let changes = [(2, 5), (1, -1), (6, 3), (4, 3), (5, 0)];
        for (at, priority) in changes {
            assert!(handles[at - 1].set_priority(priority));
        }
        // One changes its mind twice.
        assert!(handles[6].set_priority(100));
        assert!(handles[6].set_priority(-2));
        assert!(delayed.set_priority(4));
        env.clock.advance(secs(60));
        // It runs, so it is too late; and so it is when a job is done.
        assert!(!running.set_priority(7));
        gate.open(9);
        let mut running = running;
        assert_eq!((&mut running).await, Ok(0));
        assert!(!running.set_priority(7));
        assert_eq!(await_all(handles).await, (1..8).map(Ok).collect::<Vec<_>>());
        assert_eq!(delayed.await, Ok(8));
        assert_eq!(started.take(), [0, 2, 8, 4, 6, 3, 5, 1, 7], "{}", env.name);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_job_that_was_handed_back_has_no_place_to_change() {
    everywhere(|env| async move {
        let (pool, gate, _) = gated(&env, env.one_by_one());
        let running = pool.try_submit(0).unwrap();
        gate.arrived(1).await;
        let queued = pool.try_submit(1).unwrap();
        let report = pool.abort().await;
        assert_eq!(
            (report.unstarted[0].input, report.interrupted[0].id),
            (1, running.id())
        );
        assert_eq!(
            (running.set_priority(1), queued.set_priority(1)),
            (false, false)
        );
        assert_settled(&pool);
    });
}

#[test]
fn a_job_that_is_cancelled_before_it_starts_is_over_at_once_and_makes_room() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.one_by_one().queue_capacity(3));
        let running = pool.try_submit(0).unwrap();
        gate.arrived(1).await;
        let queued = submit(&pool, 1, 1);
        let delayed = pool.job(2).delay(secs(60)).try_submit().unwrap();
        let last = pool.try_submit(3).unwrap();
        for (n, handle) in [(4, queued), (5, delayed)] {
            let mut waiting = pin!(pool.submit(n));
            assert!(poll_once(waiting.as_mut()).is_none());
            let before = pool.stats();
            let mut cancelling = pin!(handle.cancel());
            // The cancellation of a queued job needs no poll of a worker.
            assert_eq!(poll_once(cancelling.as_mut()), Some(None));
            let stats = pool.stats();
            assert_adds_up(&stats);
            assert_eq!(stats.cancelled, before.cancelled + 1);
            assert_eq!(
                stats.queued + stats.delayed + 1,
                before.queued + before.delayed
            );
            poll_once(waiting.as_mut())
                .expect("there is a place")
                .unwrap()
                .detach();
        }
        assert_eq!(pool.try_submit(6).unwrap_err(), SubmitError::Full(6));
        let stats = pool.stats();
        assert_eq!(
            (stats.queued, stats.delayed, stats.running, stats.cancelled),
            (3, 0, 1, 2)
        );
        gate.open(4);
        assert_eq!((running.await, last.await), (Ok(0), Ok(3)));
        env.clock.advance(secs(60));
        assert_over(&env, &pool).await;
        assert_eq!(started.take(), [0, 3, 4, 5], "{}", env.name);
    });
}

#[test]
fn jobs_of_a_map_that_is_cancelled_leave_the_order_of_the_others() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.one_by_one());
        let first = submit(&pool, 0, 1);
        gate.arrived(1).await;
        let mut map = pool.map(1..101).priority(1);
        assert_eq!(poll_once(pin!(map.next())), None);
        let handles: Vec<_> = (101..111)
            .map(|n| submit(&pool, n, (n % 3) as i32))
            .collect();
        map.cancel();
        let stats = pool.stats();
        assert_eq!((stats.queued, stats.running, stats.cancelled), (10, 1, 100));
        gate.open(11);
        assert_eq!(first.await, Ok(0));
        assert_eq!(
            await_all(handles).await,
            (101..111).map(Ok).collect::<Vec<_>>()
        );
        let summary = map
            .for_each(|completion| assert_eq!(completion.attempts, 0))
            .await;
        assert_eq!((summary.cancelled, summary.end), (100, End::Cancelled));
        assert_eq!(
            started.take(),
            [0, 101, 104, 107, 110, 103, 106, 109, 102, 105, 108],
            "{}",
            env.name
        );
        assert_over(&env, &pool).await;
    });
}

// ---- delay ----

#[test]
fn a_delayed_job_counts_as_delayed_takes_a_place_and_starts_when_its_time_has_come() {
    everywhere(|env| async move {
        let starts = Log::new();
        let (log, clock) = (starts.clone(), env.clock.clone());
        let pool = env
            .at_once(2)
            .queue_capacity(4)
            .spawn_on(&env, move |n: u32| {
                log.push((n, clock.elapsed().as_secs()));
                future::ready(Ok::<_, ()>(n))
            });
        let start = env.clock.now();
        let mut handles = vec![
            pool.job(1).delay(secs(30)).try_submit().unwrap(),
            pool.job(2)
                .not_before(start + secs(10))
                .try_submit()
                .unwrap(),
            pool.job(3)
                .delay(secs(20))
                .priority(-1)
                .try_submit()
                .unwrap(),
            pool.job(4)
                .delay(secs(30))
                .priority(1)
                .try_submit()
                .unwrap(),
        ];
        assert_eq!(pool.try_submit(5).unwrap_err(), SubmitError::Full(5));
        let mut order = Vec::new();
        for (seconds, due) in [(10, 1), (10, 1), (9, 0), (1, 2)] {
            let stats = pool.stats();
            let waiting = 4 - order.len();
            assert_eq!(
                (stats.queued, stats.delayed, stats.running),
                (0, waiting, 0),
                "{}",
                env.name
            );
            env.clock.sleepers(1).await;
            env.clock.advance(secs(seconds));
            order.extend(starts.many(due).await);
            while pool.stats().running > 0 {
                yield_now().await;
            }
        }
        order[2..].sort_unstable();
        assert_eq!(order, [(2, 10), (3, 20), (1, 30), (4, 30)], "{}", env.name);
        // A time that has passed is none at all.
        handles.push(pool.job(5).not_before(start).try_submit().unwrap());
        handles.push(pool.job(6).delay(Duration::ZERO).try_submit().unwrap());
        assert_eq!(await_all(handles).await, [1, 2, 3, 4, 5, 6].map(Ok));
        assert_over(&env, &pool).await;
    });
}

#[test]
fn jobs_whose_delay_ends_together_start_by_priority_and_then_in_the_order_of_their_acceptance() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.one_by_one());
        let mut handles = vec![pool.job(0).delay(secs(10)).try_submit().unwrap()];
        for (n, seconds, priority) in [(1, 7, 0), (2, 10, 1), (3, 10, 0), (4, 3, -1), (5, 10, 1)] {
            handles.push(
                pool.job(n)
                    .delay(secs(seconds))
                    .priority(priority)
                    .try_submit()
                    .unwrap(),
            );
        }
        env.clock.sleepers(1).await;
        env.clock.advance(secs(10));
        // Accepted last, though it never had to wait for its time.
        handles.push(pool.try_submit(6).unwrap());
        gate.open(7);
        assert_eq!(await_all(handles).await, (0..7).map(Ok).collect::<Vec<_>>());
        assert_eq!(started.take(), [2, 5, 0, 1, 3, 6, 4], "{}", env.name);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_job_whose_delay_has_passed_waits_for_a_worker_and_counts_as_queued() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.one_by_one());
        let running = pool.try_submit(0).unwrap();
        gate.arrived(1).await;
        let delayed = pool.job(1).delay(secs(60)).try_submit().unwrap();
        let later = pool.job(2).delay(secs(61)).try_submit().unwrap();
        let counts = || {
            let stats = pool.stats();
            assert_adds_up(&stats);
            (stats.queued, stats.delayed, stats.running)
        };
        env.clock.advance(secs(59));
        assert_eq!(counts(), (0, 2, 1));
        env.clock.advance(secs(1));
        assert_eq!(counts(), (1, 1, 1));
        pool.pause();
        gate.open(1);
        assert_eq!(running.await, Ok(0));
        env.clock.advance(secs(1));
        assert_eq!(counts(), (2, 0, 0));
        pool.resume();
        gate.open(2);
        assert_eq!((delayed.await, later.await), (Ok(1), Ok(2)));
        assert_eq!(started.take(), [0, 1, 2], "{}", env.name);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_delay_without_end_never_ends_and_holds_up_nothing_else() {
    everywhere(|env| async move {
        let far = env.clock.now().checked_add(secs(u64::MAX / 8)).unwrap();
        let never = |pool: &Numbers| {
            [
                pool.job(1).delay(Duration::MAX).try_submit().unwrap(),
                pool.job(2)
                    .not_before(far)
                    .priority(i32::MAX)
                    .try_submit()
                    .unwrap(),
            ]
        };
        // Others run, whatever time passes, and a cancellation ends what else would end a drain.
        let (pool, gate, started) = gated(&env, env.in_order());
        let handles = never(&pool);
        gate.open(2);
        assert_eq!(submit(&pool, 3, -1).await, Ok(3));
        env.clock.advance(secs(1 << 32));
        assert_eq!(pool.try_submit(4).unwrap().await, Ok(4));
        assert_eq!(pool.stats().delayed, 2);
        {
            let mut drain = pin!(pool.drain());
            assert!(poll_once(drain.as_mut()).is_none());
            drop(handles);
            drain.await;
        }
        assert_eq!(started.take(), [3, 4], "{}", env.name);
        assert_over(&env, &pool).await;

        // A drain with a limit and an abort hand them back.
        for is_aborted in [false, true] {
            let (pool, _, _) = gated(&env, env.in_order());
            let handles = never(&pool);
            let report = if is_aborted {
                pool.abort().await
            } else {
                let mut drain = pin!(pool.drain_within(secs(5)));
                assert!(poll_once(drain.as_mut()).is_none());
                env.clock.advance(secs(5));
                drain.await
            };
            let unstarted: Vec<_> = report
                .unstarted
                .iter()
                .map(|job| (job.input, job.attempts))
                .collect();
            assert_eq!(
                (unstarted, report.interrupted),
                (vec![(1, 0), (2, 0)], vec![])
            );
            let aborted = Err(JobError::Cancelled(CancelReason::Aborted));
            assert_eq!(await_all(handles).await, [aborted.clone(), aborted]);
            assert_over(&env, &pool).await;
        }

        // The time of the job itself ends it.
        let (pool, _, _) = gated(&env, env.in_order());
        let late = pool
            .job(1)
            .delay(Duration::MAX)
            .timeout(secs(60))
            .try_submit()
            .unwrap();
        env.clock.sleepers(1).await;
        env.clock.advance(secs(60));
        assert_eq!(late.await, Err(JobError::TimedOut(TimeLimit::Job)));
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_job_that_awaits_what_never_starts_is_told_so() {
    everywhere(|env| async move {
        for slots in [1, 3] {
            let place: Arc<std::sync::Mutex<Option<JobHandle<u32, JobError<()>, ()>>>> =
                Arc::default();
            let inside = Arc::clone(&place);
            let pool = env.at_once(slots).spawn_on(&env, move |_: u32| {
                let other = inside.lock().unwrap().take();
                async move { other.ok_or(())?.await.map_or_else(Ok, |_| Err(())) }
            });
            *place.lock().unwrap() = Some(pool.job(1).delay(Duration::MAX).try_submit().unwrap());
            assert_eq!(
                pool.try_submit(0).unwrap().await,
                Ok(JobError::WouldDeadlock),
                "{}",
                env.name
            );
            let stats = assert_over(&env, &pool).await;
            assert_eq!((stats.succeeded, stats.cancelled), (1, 1));
        }
    });
}

// ---- a pool that is given an order while it runs ----

/// What gives a pool an order that had none.
const SWITCHES: [(&str, fn(&Numbers)); 8] = [
    ("priority", |pool| drop(submit(pool, 900, 1))),
    ("delay", |pool| {
        drop(pool.job(900).delay(secs(1)).try_submit().unwrap());
    }),
    ("timeout", |pool| {
        drop(pool.job(900).timeout(secs(1)).try_submit().unwrap());
    }),
    ("pause", |pool| {
        pool.pause();
        pool.resume();
    }),
    ("set_workers", |pool| pool.set_workers(1)),
    ("set_rate_limit", |pool| {
        pool.set_rate_limit(RateLimit::per_second(1).burst(1000));
    }),
    ("no rate limit", |pool| pool.set_rate_limit(None)),
    ("a map of priority", |pool| drop(pool.map([]).priority(1))),
];

#[test]
fn the_first_use_of_an_order_loses_repeats_and_reorders_nothing() {
    everywhere_once(|env| async move {
        for (name, switch) in SWITCHES {
            let (gate, started) = (Gate::new(), Log::new());
            let (pass, log) = (gate.clone(), started.clone());
            let (pool, workers) = env.builder().workers(1).build_with_submitter(
                move |n: u32, jobs: Submitter<u32, u32, ()>| {
                    log.push(n);
                    let gate = pass.clone();
                    async move {
                        gate.pass().await;
                        if n < 1000 && n.is_multiple_of(10) {
                            jobs.add(1000 + n).unwrap();
                        }
                        Ok(n)
                    }
                },
            );
            workers.spawn_on(&env);
            let mut handles = vec![pool.try_submit(0).unwrap()];
            gate.arrived(1).await;
            handles.extend((1..50).map(|n| pool.try_submit(n).unwrap()));
            let mut map = pool.map(50..150);
            assert_eq!(poll_once(pin!(map.next())), None);
            handles.extend((150..160).map(|n| pool.try_submit(n).unwrap()));
            // One is cancelled, and leaves a gap in what is on its way.
            drop(handles.remove(7));
            let group = pool.group();
            group.try_submit(160).unwrap();
            switch(&pool);
            group.try_submit(161).unwrap();
            gate.open(1000);
            let results = await_all(handles).await;
            let expected: Vec<_> = (0..50)
                .chain(150..160)
                .filter(|n| *n != 7)
                .map(Ok)
                .collect();
            assert_eq!(results, expected, "{name} on {}", env.name);
            let mut mapped: Vec<_> = Vec::new();
            let summary = map
                .for_each(|completion| mapped.push((completion.index, completion.result)))
                .await;
            let children = (50..150).step_by(10).map(|n| n + 1000);
            let expected: Vec<_> = (50..150).chain(children).map(Ok).enumerate().collect();
            assert_eq!(
                (mapped, summary.end),
                (expected, End::Complete),
                "{name} on {}",
                env.name
            );
            let joined: Vec<_> = group
                .join()
                .await
                .into_iter()
                .map(|completion| completion.result)
                .collect();
            assert_eq!(joined, [Ok(160), Ok(161), Ok(1160)]);
            let stats = assert_over(&env, &pool).await;
            assert_eq!(stats.accepted, stats.succeeded + stats.cancelled);
            let children = (0..170).step_by(10).map(|n| n + 1000);
            let expected: Vec<_> = (0..162).filter(|n| *n != 7).chain(children).collect();
            assert_eq!(started.take(), expected, "{name} on {}", env.name);
        }
    });
}

#[test]
fn an_order_that_is_given_amid_submissions_keeps_that_of_each_submitter() {
    // On threads, since the moment matters: jobs are on their way into the queue, and out of it. In
    // one slot, since those for which there are several free ones do not wait for each other.
    for round in 0..200_u32 {
        let (_, switch) = SWITCHES[round as usize % SWITCHES.len()];
        let started = Log::new();
        let log = started.clone();
        let (pool, workers) =
            Pool::builder()
                .workers(1)
                .timer(ManualTimer::new())
                .build(move |n: u32| {
                    log.push(n);
                    future::ready(Ok::<_, ()>(n))
                });
        let is_half_way = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for worker in workers {
                scope.spawn(|| block_on(worker.run()));
            }
            let submitter = scope.spawn(|| {
                let handles: Vec<_> = (0..60)
                    .map(|n| {
                        is_half_way.fetch_or(n > round % 40, Ordering::SeqCst);
                        pool.try_submit(n).unwrap()
                    })
                    .collect();
                assert_eq!(
                    block_on(await_all(handles)),
                    (0..60).map(Ok).collect::<Vec<_>>()
                );
            });
            while !is_half_way.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            switch(&pool);
            submitter.join().unwrap();
            block_on(pool.drain());
        });
        let own: Vec<_> = started.take().into_iter().filter(|n| *n < 60).collect();
        assert_eq!(own, (0..60).collect::<Vec<_>>(), "round {round}");
        assert_settled(&pool);
    }
}

#[test]
fn jobs_that_running_jobs_add_have_the_priority_of_their_map_and_stand_behind_their_equals() {
    everywhere(|env| async move {
        let (gate, started) = (Gate::new(), Log::new());
        let (pass, log) = (gate.clone(), started.clone());
        let (pool, workers) =
            env.one_by_one()
                .build_with_submitter(move |n: u32, jobs: Submitter<u32, u32, ()>| {
                    log.push(n);
                    let gate = pass.clone();
                    async move {
                        gate.pass().await;
                        if n < 10 {
                            jobs.add(n + 10).unwrap();
                        }
                        Ok(n)
                    }
                });
        workers.spawn_on(&env);
        submit(&pool, 50, 0).detach();
        gate.arrived(1).await;
        let mut map = pool.map([1]).priority(1);
        assert_eq!(poll_once(pin!(map.next())), None);
        for (n, priority) in [(2, 1), (3, 0), (4, 2)] {
            submit(&pool, n, priority).detach();
        }
        gate.open(9);
        assert_eq!(map.for_each(drop).await.accepted, 2);
        assert_over(&env, &pool).await;
        assert_eq!(
            started.take(),
            [50, 4, 1, 2, 11, 3, 14, 12, 13],
            "{}",
            env.name
        );
    });
}
