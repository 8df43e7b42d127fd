//! Workers with many slots: the same promises, with several jobs in one future.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use brigade::{
    CancelReason, Inputs, JobError, ManualTimer, Map, Pool, Retry, Submitter, TimeLimit,
};
use futures_lite::{future, stream};

use crate::harness::{
    Gate, Live, Log, SECOND, Watchdog, assert_over, assert_settled, block_on, everywhere_once,
    gated, poll_once, secs,
};

#[test]
fn as_many_jobs_run_at_once_as_all_workers_have_slots_and_no_more() {
    everywhere_once(|env| async move {
        let (live, clock) = (Live::default(), env.clock.clone());
        let alive = live.clone();
        let pool = env
            .builder()
            .workers(2)
            .jobs_per_worker(3)
            .spawn_on(&env, move |n: u32| {
                let (guard, sleep) = (alive.enter(), clock.sleep(SECOND));
                async move {
                    let _guard = guard;
                    sleep.await;
                    Ok::<_, ()>(n)
                }
            });
        let map = pool.map(0..20).ordered().try_collect::<Vec<_>>();
        let ticks = async {
            for _ in 0..3 {
                env.clock.sleepers(6).await;
                assert_eq!(pool.stats().running, 6);
                env.clock.advance_to_next();
            }
            env.clock.sleepers(2).await;
            env.clock.advance_to_next();
            future::pending().await
        };
        assert_eq!(future::or(map, ticks).await, Ok((0..20).collect()));
        assert_eq!(
            (live.most(), live.now(), env.clock.elapsed()),
            (6, 0, secs(4))
        );
        assert_eq!(assert_over(&env, &pool).await.workers, 0);
    });
}

#[test]
fn a_job_that_waits_holds_up_no_other_of_its_worker() {
    everywhere_once(|env| async move {
        let (pool, gate, started) = gated(&env, env.builder().workers(1).jobs_per_worker(2));
        let handles = [1, 2, 3].map(|n| pool.try_submit(n).unwrap());
        assert_eq!(started.many(2).await, [1, 2]);
        gate.arrived(2).await;
        gate.open(3);
        for (handle, n) in handles.into_iter().zip([1, 2, 3]) {
            assert_eq!(handle.await, Ok(n));
        }
        assert_settled(&pool);
    });
}

/// A worker with a pending job and a free slot is registered as a sleeper. When its job becomes
/// runnable and blocks the thread, the next job must not wait for that worker.
#[test]
fn a_job_that_comes_does_not_wait_for_a_worker_whose_other_job_keeps_its_thread() {
    let _watchdog = Watchdog::new("two threads");
    let (gate, kept) = (Gate::new(), Log::new());
    let (unblock, blocked) = mpsc::channel::<()>();
    let blocked = Arc::new(Mutex::new(blocked));
    let (pass, keeps) = (gate.clone(), kept.clone());
    let (pool, workers) = Pool::builder()
        .workers(2)
        .jobs_per_worker(4)
        .timer(ManualTimer::new())
        .build(move |n: u32| {
            let (gate, keeps, unblock, blocked) = (
                pass.clone(),
                keeps.clone(),
                unblock.clone(),
                Arc::clone(&blocked),
            );
            async move {
                if n == 1 {
                    gate.pass().await;
                    keeps.push(n);
                    blocked.lock().unwrap().recv().unwrap();
                } else {
                    unblock.send(()).unwrap();
                }
                Ok::<_, ()>(n)
            }
        });
    let mut workers = workers.into_iter();
    let (mut keeper, other) = (
        Box::pin(workers.next().unwrap().run()),
        workers.next().unwrap(),
    );
    let mut first = pool.try_submit(1).unwrap();
    assert_eq!(poll_once(keeper.as_mut()), None);
    std::thread::scope(|scope| {
        scope.spawn(|| block_on(other.run()));
        scope.spawn(|| {
            block_on(kept.next());
            pool.try_submit(2).unwrap().detach();
        });
        gate.open(1);
        assert_eq!(poll_once(keeper.as_mut()), None);
        pool.close();
    });
    assert_eq!(poll_once(pin!(&mut first)), Some(Ok(1)));
    assert_eq!(assert_settled(&pool).succeeded, 2);
}

#[test]
fn a_panic_in_one_slot_hurts_no_other() {
    everywhere_once(|env| async move {
        let gate = Gate::new();
        let pass = gate.clone();
        let pool = env
            .builder()
            .workers(1)
            .jobs_per_worker(3)
            .spawn_on(&env, move |n: u32| {
                let gate = pass.clone();
                async move {
                    gate.pass().await;
                    assert_ne!(n, 2, "on purpose");
                    Ok::<_, ()>(n)
                }
            });
        let handles = [1, 2, 3].map(|n| pool.try_submit(n).unwrap());
        gate.arrived(3).await;
        gate.open(3);
        let mut results = Vec::new();
        for handle in handles {
            results.push(
                handle
                    .await
                    .map_err(|error| matches!(error, JobError::Panicked(_))),
            );
        }
        assert_eq!(results, [Ok(1), Err(true), Ok(3)]);
        assert_settled(&pool);
    });
}

#[test]
fn one_slot_is_cancelled_and_another_runs_out_of_time() {
    everywhere_once(|env| async move {
        let builder = env
            .builder()
            .workers(1)
            .jobs_per_worker(3)
            .attempt_timeout(secs(2));
        let (pool, gate, started) = gated(&env, builder);
        let [first, second, third] = [1, 2, 3].map(|n| pool.try_submit(n).unwrap());
        started.many(3).await;
        gate.arrived(3).await;
        assert_eq!(second.cancel().await, None);
        assert_eq!(pool.stats().running, 2);
        gate.open(1);
        let (mut first, mut third) = (pin!(first), pin!(third));
        // Whichever of the two came to the gate first.
        let done = future::or(first.as_mut(), third.as_mut()).await;
        assert!(matches!(done, Ok(1 | 3)), "{done:?}");
        env.clock.sleepers(1).await;
        env.clock.advance(secs(2));
        let late = if done == Ok(1) {
            third.await
        } else {
            first.await
        };
        assert_eq!(late, Err(JobError::TimedOut(TimeLimit::Attempt)));
        assert_settled(&pool);
    });
}

#[test]
fn a_worker_that_is_dropped_abandons_the_jobs_of_all_its_slots_and_no_others() {
    let (pool, workers) = Pool::builder()
        .workers(2)
        .jobs_per_worker(2)
        .timer(ManualTimer::new())
        .build(|_: u32| future::pending::<Result<u32, ()>>());
    let handles = [1, 2, 3, 4, 5].map(|n| pool.try_submit(n).unwrap());
    let [mut first, mut second] = workers
        .into_iter()
        .map(|worker| Box::pin(worker.run()))
        .collect::<Vec<_>>()
        .try_into()
        .ok()
        .unwrap();
    assert_eq!(
        (poll_once(first.as_mut()), poll_once(second.as_mut())),
        (None, None)
    );
    assert_eq!(
        pool.running()
            .iter()
            .map(|job| job.worker)
            .collect::<Vec<_>>(),
        [0, 0, 1, 1]
    );
    drop(first);
    let stats = pool.stats();
    assert_eq!(
        (stats.workers, stats.running, stats.queued, stats.abandoned),
        (1, 2, 1, 2)
    );
    let mut results: Vec<_> = handles
        .into_iter()
        .map(Box::pin)
        .map(|mut handle| poll_once(handle.as_mut()))
        .collect();
    results.sort_by_key(Option::is_none);
    assert_eq!(
        results,
        [
            Some(Err(JobError::Abandoned)),
            Some(Err(JobError::Abandoned)),
            None,
            None,
            None
        ]
    );
    drop(second);
    assert_settled(&pool);
}

#[test]
fn jobs_that_wait_for_their_own_pool_run_in_the_slots_of_one_worker_or_are_told() {
    everywhere_once(|env| async move {
        let (pool, workers) = env
            .builder()
            .workers(1)
            .jobs_per_worker(3)
            .build_with_submitter(
                |depth: u32, jobs: Submitter<u32, u32, &'static str>| async move {
                    if depth == 0 {
                        return Ok(0);
                    }
                    let child = jobs.submit(depth - 1).map_err(|_| "refused")?;
                    Ok(1 + child.await.map_err(|_| "nothing is left to run it")?)
                },
            );
        workers.spawn_on(&env);
        // Three jobs in three slots.
        assert_eq!(pool.submit(2).await.unwrap().await, Ok(2));
        // A fourth job has no slot; the wait of its parent is refused.
        assert_eq!(
            pool.submit(3).await.unwrap().await,
            Err(JobError::Failed("nothing is left to run it"))
        );
        assert_over(&env, &pool).await;
    });
}

#[test]
fn fewer_workers_use_as_many_slots_less() {
    everywhere_once(|env| async move {
        let (pool, gate, started) = gated(&env, env.builder().workers(3).jobs_per_worker(2));
        pool.set_workers(2);
        let map = pool.map(0..6).window(6);
        let mut map = pin!(map);
        assert!(future::poll_once(map.next()).await.is_none());
        started.many(4).await;
        gate.arrived(4).await;
        assert_eq!((pool.stats().running, pool.stats().queued), (4, 2));
        pool.set_workers(3);
        gate.arrived(2).await;
        assert_eq!(pool.stats().running, 6);
        gate.open(6);
        while map.next().await.is_some() {}
        assert_settled(&pool);
    });
}

#[test]
fn what_fails_in_a_slot_is_tried_again_while_the_others_run() {
    everywhere_once(|env| async move {
        let tries = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&tries);
        let pool = (env.builder().workers(1).jobs_per_worker(4))
            .retry(Retry::fixed(SECOND).max_attempts(2))
            .spawn_on(&env, move |n: u32| {
                let is_first = {
                    let mut tries = log.lock().unwrap();
                    tries.push(n);
                    tries.iter().filter(|tried| **tried == n).count() == 1
                };
                async move {
                    if n % 2 == 1 && is_first {
                        Err(n)
                    } else {
                        Ok(n)
                    }
                }
            });
        let values = pool.map(0..4).ordered().try_collect::<Vec<_>>();
        let ticks = async {
            env.clock.sleepers(1).await;
            env.clock.advance_to_next();
            future::pending().await
        };
        assert_eq!(future::or(values, ticks).await, Ok(vec![0, 1, 2, 3]));
        assert_eq!(*tries.lock().unwrap(), [0, 1, 2, 3, 1, 3]);
        assert_eq!(assert_settled(&pool).retries, 2);
    });
}

/// A job that wakes itself in every poll starves neither the other jobs of its worker nor those in
/// the queue.
#[test]
fn a_job_that_never_rests_keeps_no_other_from_its_turn() {
    everywhere_once(|env| async move {
        let pool =
            env.builder()
                .workers(1)
                .jobs_per_worker(2)
                .spawn_on(&env, |n: u32| async move {
                    if n == 0 {
                        loop {
                            future::yield_now().await;
                        }
                    }
                    Ok::<_, ()>(n)
                });
        let restless = pool.try_submit(0).unwrap();
        assert_eq!(
            pool.map(1..50).ordered().try_collect::<Vec<_>>().await,
            Ok((1..50).collect())
        );
        assert_eq!(restless.cancel().await, None);
        assert_eq!(assert_over(&env, &pool).await.cancelled, 1);
    });
}

/// The worker with the timer role is the one whose job never rests; the other worker sleeps, or
/// there is none.
#[test]
fn a_job_that_never_rests_does_not_stop_the_time() {
    for (workers, slots) in [(1, 4), (2, 2), (2, 1)] {
        let clock = ManualTimer::new();
        let (builder, is_over) = (
            Pool::builder().workers(workers).jobs_per_worker(slots),
            Arc::new(AtomicBool::new(false)),
        );
        let over = Arc::clone(&is_over);
        let (pool, workers) = builder.timer(clock.clone()).build(move |n: u32| {
            let over = Arc::clone(&over);
            async move {
                if n == 1 {
                    over.store(true, Ordering::SeqCst);
                }
                while !over.load(Ordering::SeqCst) {
                    future::yield_now().await;
                }
                Ok::<_, ()>(n)
            }
        });
        let mut workers: Vec<_> = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()))
            .collect();
        let mut delayed = pool.job(1).delay(SECOND).try_submit().unwrap();
        // The first one takes the role, and then the job.
        assert_eq!(poll_once(workers[0].as_mut()), None);
        let _restless = pool.try_submit(0).unwrap();
        assert_eq!(poll_once(workers[0].as_mut()), None);
        clock.advance(SECOND);
        for _ in 0..100 {
            for worker in &mut workers {
                assert_eq!(poll_once(worker.as_mut()), None);
            }
        }
        assert_eq!(poll_once(pin!(&mut delayed)), Some(Ok(1)), "{slots} slots");
    }
}

/// Where the job's outcome waits to leave with others, a consumer that has nothing to read does not
/// wait for other jobs' polls.
#[test]
fn an_outcome_does_not_wait_for_the_jobs_that_start_after_it() {
    let (seen, kept) = (
        Arc::new(Mutex::new(Vec::new())),
        Arc::new(Mutex::new(None::<Jobs>)),
    );
    let (log, map) = (Arc::clone(&seen), Arc::clone(&kept));
    let (pool, workers) = Pool::builder()
        .workers(1)
        .jobs_per_worker(100)
        .timer(ManualTimer::new())
        .build(move |n: u32| {
            // Each job after the first two looks what can be read when it is polled first.
            if n >= 2
                && let Some(map) = &mut *map.lock().unwrap()
            {
                while let Some(Some(completion)) = poll_once(pin!(map.next())) {
                    log.lock().unwrap().push((n, completion.index));
                }
            }
            async move {
                if n < 2 {
                    Ok::<_, ()>(n)
                } else {
                    future::pending().await
                }
            }
        });
    let mut map: Jobs = pool.map(0..10);
    assert!(poll_once(pin!(map.next())).is_none());
    *kept.lock().unwrap() = Some(map);
    let mut worker = Box::pin(workers.into_iter().next().unwrap().run());
    assert_eq!(poll_once(worker.as_mut()), None);
    assert_eq!(*seen.lock().unwrap(), [(2, 0), (3, 1)]);
    *kept.lock().unwrap() = None;
}

type Jobs = Map<u32, u32, (), Inputs<stream::Iter<std::ops::Range<u32>>>>;

#[test]
fn an_abort_stops_the_jobs_of_all_slots() {
    everywhere_once(|env| async move {
        let (pool, gate, started) = gated(&env, env.builder().workers(2).jobs_per_worker(2));
        let handles = [1, 2, 3, 4, 5].map(|n| pool.try_submit(n).unwrap());
        started.many(4).await;
        gate.arrived(4).await;
        let report = pool.abort().await;
        assert_eq!((report.interrupted.len(), report.unstarted.len()), (4, 1));
        for handle in handles {
            assert_eq!(
                handle.await,
                Err(JobError::Cancelled(CancelReason::Aborted))
            );
        }
        assert_settled(&pool);
    });
}

#[test]
#[should_panic(expected = "jobs_per_worker must be 1 for a handler with state, got 2")]
fn a_handler_with_state_has_one_slot() {
    let builder = Pool::builder().jobs_per_worker(2).timer(ManualTimer::new());
    let _ = builder.build_with_state(|_| (), async |(): &mut (), n: u32| Ok::<_, ()>(n));
}

#[test]
#[should_panic(
    expected = "workers × jobs_per_worker must be a number, got 2 × 9223372036854775808"
)]
fn more_slots_than_there_are_numbers_are_refused() {
    let builder = Pool::builder()
        .workers(2)
        .jobs_per_worker(1 << 63)
        .timer(ManualTimer::new());
    let _ = builder.build(|n: u32| async move { Ok::<_, ()>(n) });
}

#[test]
fn more_slots_than_memory_can_hold_are_refused_where_they_are_built() {
    let text = |build: &dyn Fn()| {
        let panicked = catch_unwind(AssertUnwindSafe(build)).unwrap_err();
        panicked
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_default()
    };
    let refused = |workers: usize, slots: usize| {
        format!(
            "workers × jobs_per_worker must be no more than memory can hold, got {workers} × {slots}"
        )
    };
    let builder = |workers, slots| {
        Pool::builder()
            .workers(workers)
            .jobs_per_worker(slots)
            .timer(ManualTimer::new())
    };
    for (workers, slots) in [
        (1, 1 << 50),
        (1, usize::MAX / 8),
        (2, usize::MAX / 2),
        (1 << 50, 1),
        (1 << 25, 1 << 25),
    ] {
        let plain = || drop(builder(workers, slots).build(|n: u32| async move { Ok::<_, ()>(n) }));
        let adding =
            || {
                drop(builder(workers, slots).build_with_submitter(
                    |n: u32, _: Submitter<u32, u32, ()>| async move { Ok(n) },
                ));
            };
        assert_eq!(
            [text(&plain), text(&adding)],
            [(); 2].map(|()| refused(workers, slots))
        );
    }
    let with_state = || {
        drop(
            builder(1 << 50, 1)
                .build_with_state(|_| (), async |(): &mut (), n: u32| Ok::<_, ()>(n)),
        );
    };
    assert_eq!(text(&with_state), refused(1 << 50, 1));
}

#[test]
#[should_panic(expected = "jobs_per_worker must be at least 1, got 0")]
fn a_worker_without_a_slot_is_refused() {
    let _ = Pool::builder::<u32, ()>().jobs_per_worker(0);
}
