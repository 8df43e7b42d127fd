//! A pool that is changed while it runs: paused, made smaller and larger; what can be seen of it
//! meanwhile, and the waits for a quieter moment.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::{Duration, Instant};

use brigade::rt::BoxFuture;
use brigade::{
    Builder, CancelReason, End, Event, JobError, JobHandle, JobId, ManualTimer, Pool, RateLimit,
    Retry, RunningJob, Spawn, SubmitError, Submitter, TimeLimit, Timer,
};
use futures_lite::{StreamExt, future};

use crate::harness::{
    Env, Gate, Live, Log, OwnPool, Watchdog, assert_adds_up, assert_over, assert_settled, block_on,
    everywhere, everywhere_once, gated, in_both_ways, millis, on_wake, poll_once, secs, yield_now,
};
use crate::steps::step_pool;

type Numbers = Pool<u32, u32, ()>;

/// How many are queued, delayed and running.
fn counts<In, T, E>(pool: &Pool<In, T, E>) -> (usize, usize, usize) {
    let stats = pool.stats();
    assert_adds_up(&stats);
    (stats.queued, stats.delayed, stats.running)
}

// ---- pause ----

#[test]
fn a_paused_pool_lets_running_jobs_end_and_starts_the_others_when_it_is_resumed() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.at_once(2).queue_capacity(4));
        let mut handles: Vec<_> = (0..2).map(|n| pool.try_submit(n).unwrap()).collect();
        gate.arrived(2).await;
        handles.extend((2..4).map(|n| pool.try_submit(n).unwrap()));
        assert!(!pool.is_paused());
        pool.pause();
        assert!(pool.is_paused());
        // Jobs are accepted as before: as many as there is room for, and no more.
        handles.extend((4..6).map(|n| pool.try_submit(n).unwrap()));
        assert_eq!(pool.try_submit(6).unwrap_err(), SubmitError::Full(6));
        let mut waiting = pin!(pool.submit(6));
        assert!(poll_once(waiting.as_mut()).is_none());
        gate.open(2);
        pool.wait_running_below(1).await;
        assert_eq!(counts(&pool), (4, 0, 0), "{}", env.name);
        assert!(poll_once(waiting.as_mut()).is_none());
        let mut before = started.take();
        before.sort_unstable();
        assert_eq!(before, [0, 1]);
        pool.resume();
        assert!(!pool.is_paused());
        gate.arrived(2).await;
        handles.push(waiting.await.unwrap());
        gate.open(5);
        for (n, handle) in (0..).zip(handles) {
            assert_eq!(handle.await, Ok(n));
        }
        assert_eq!(started.take().len(), 5);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_pause_holds_back_what_is_on_its_way_to_a_worker() {
    // In one thread, so that the workers have certainly looked.
    in_both_ways(|slots| {
        let (log, clock) = (Log::new(), ManualTimer::new());
        let started = log.clone();
        let (pool, workers) = slots
            .each(Pool::builder(), 3, 2)
            .timer(clock.clone())
            .build(move |n: u32| {
                started.push(n);
                future::ready(Ok::<_, ()>(n))
            });
        let mut handles: Vec<_> = (0..2).map(|n| pool.try_submit(n).unwrap()).collect();
        pool.set_workers(2);
        handles.extend((2..5).map(|n| pool.try_submit(n).unwrap()));
        pool.pause();
        future::block_on(workers.drive(async {
            for _ in 0..100 {
                yield_now().await;
            }
            assert_eq!((log.take(), counts(&pool)), (vec![], (5, 0, 0)));
            pool.resume();
            pool.drain().await;
        }));
        for (n, mut handle) in (0..).zip(handles) {
            assert_eq!(poll_once(pin!(&mut handle)), Some(Ok(n)));
        }
        assert_eq!((log.take(), clock.sleeping()), (vec![0, 1, 2, 3, 4], 0));
        assert_settled(&pool);
    });
}

/// A clock that lets something happen when it is looked at first.
struct Slow {
    clock: ManualTimer,
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Timer for Slow {
    fn now(&self) -> Instant {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        meanwhile.into_iter().for_each(|meanwhile| meanwhile());
        self.clock.now()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        self.clock.sleep_until(at)
    }
}

#[test]
fn two_threads_that_use_the_first_control_at_once_leave_all_workers_free() {
    in_both_ways(|slots| {
        let timer = Arc::new(Slow {
            clock: ManualTimer::new(),
            meanwhile: Mutex::default(),
        });
        let (pool, mut steps) = step_pool(
            slots.in_order(Pool::builder()).timer(Arc::clone(&timer)),
            |n: u32| async move { Ok::<_, ()>(n) },
        );
        let mut handles = [0, 1].map(|n| pool.try_submit(n).unwrap());
        // While one thread looks at the clock for the first time, another one is through with it.
        let other = pool.clone();
        let faster = move || {
            std::thread::spawn(move || other.set_workers(1))
                .join()
                .unwrap();
        };
        *timer.meanwhile.lock().unwrap() = Some(Box::new(faster));
        pool.set_workers(1);
        steps.settle();
        assert_eq!(
            handles.each_mut().map(|handle| poll_once(pin!(handle))),
            [Some(Ok(0)), Some(Ok(1))]
        );
        assert_settled(&pool);
    });
}

#[test]
fn pauses_are_counted_and_a_resume_without_one_is_nothing() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.in_order());
        pool.resume();
        assert!(!pool.is_paused());
        pool.pause();
        pool.clone().pause();
        let handle = pool.try_submit(0).unwrap();
        pool.resume();
        assert_eq!((pool.is_paused(), counts(&pool)), (true, (1, 0, 0)));
        gate.open(1);
        pool.resume();
        assert!(!pool.is_paused());
        assert_eq!(handle.await, Ok(0));
        // These count for nothing, so one pause is enough again.
        pool.resume();
        pool.resume();
        pool.pause();
        let handle = pool.try_submit(1).unwrap();
        yield_now().await;
        assert_eq!(
            (pool.is_paused(), counts(&pool), started.take()),
            (true, (1, 0, 0), vec![0]),
            "{}",
            env.name
        );
        pool.resume();
        gate.open(1);
        assert_eq!(handle.await, Ok(1));
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_pause_holds_while_others_pause_and_resume_at_the_same_time() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.at_once(2));
        gate.open(100);
        pool.pause();
        let handles: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let pool = &pool;
                    scope.spawn(move || {
                        (0..25)
                            .map(|n| {
                                pool.pause();
                                let handle = pool.try_submit(25 * thread + n).unwrap();
                                pool.resume();
                                handle
                            })
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        yield_now().await;
        assert_eq!(
            (pool.is_paused(), counts(&pool), started.take()),
            (true, (100, 0, 0), vec![]),
            "{}",
            env.name
        );
        pool.resume();
        for (n, handle) in (0..).zip(handles) {
            assert_eq!(handle.await, Ok(n));
        }
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_paused_pool_goes_on_when_it_is_closed() {
    everywhere(|env| async move {
        let ways: [fn(&Numbers); 5] = [
            |pool| pool.close(),
            |pool| pool.seal(),
            |pool| assert!(poll_once(pin!(pool.drain())).is_none()),
            |pool| assert!(poll_once(pin!(pool.drain_within(secs(60)))).is_none()),
            // Only the drop of the last handle closes it.
            |_| (),
        ];
        for (at, close) in ways.into_iter().enumerate() {
            let (pool, gate, started) = gated(&env, env.at_once(2));
            pool.pause();
            pool.pause();
            let handles: Vec<_> = (0..5).map(|n| pool.try_submit(n).unwrap()).collect();
            let delayed = pool.job(5).delay(secs(10)).try_submit().unwrap();
            gate.open(6);
            close(&pool);
            let kept = (at < 4).then_some(pool);
            for (n, handle) in (0..).zip(handles) {
                assert_eq!(handle.await, Ok(n), "way {at} on {}", env.name);
            }
            env.clock.sleepers(1).await;
            env.clock.advance(secs(10));
            assert_eq!(delayed.await, Ok(5));
            assert_eq!(started.take().len(), 6);
            if let Some(pool) = kept {
                assert_over(&env, &pool).await;
            }
        }
    });
}

#[test]
fn draining_a_paused_pool_ends_and_stopping_it_hands_back_what_has_not_started() {
    everywhere(|env| async move {
        let (pool, gate, _) = gated(&env, env.at_once(2));
        pool.pause();
        let handles: Vec<_> = (0..5).map(|n| pool.try_submit(n).unwrap()).collect();
        gate.open(5);
        let report = pool.drain_within(secs(60)).await;
        assert!(report.is_complete() && pool.is_paused());
        assert_eq!(report.stats.succeeded, 5);
        drop(handles);
        assert_over(&env, &pool).await;

        for is_aborted in [true, false] {
            let (pool, gate, started) = gated(&env, env.one_by_one());
            let running = pool.try_submit(0).unwrap();
            gate.arrived(1).await;
            pool.pause();
            let waiting = [
                pool.try_submit(1).unwrap(),
                pool.job(2).priority(1).try_submit().unwrap(),
                pool.job(3).delay(secs(1)).try_submit().unwrap(),
            ];
            let report = if is_aborted {
                pool.abort().await
            } else {
                pool.drain_within(Duration::ZERO).await
            };
            let unstarted: Vec<_> = report
                .unstarted
                .iter()
                .map(|job| (job.input, job.attempts))
                .collect();
            assert_eq!(unstarted, [(1, 0), (2, 0), (3, 0)], "{}", env.name);
            let interrupted: Vec<_> = report.interrupted.iter().map(|job| job.id).collect();
            assert_eq!(interrupted, [running.id()]);
            for handle in [running].into_iter().chain(waiting) {
                assert_eq!(
                    handle.await,
                    Err(JobError::Cancelled(CancelReason::Aborted))
                );
            }
            let stats = assert_over(&env, &pool).await;
            assert_eq!((stats.cancelled, started.take()), (4, vec![0]));
        }
    });
}

#[test]
fn an_alarm_that_goes_off_in_an_aborted_pool_is_the_last() {
    // Polled by hand, so that the worker with the alarm is there while another one has yet to drop
    // its job.
    let _watchdog = Watchdog::new("its worker");
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let (pool, workers) = slots
            .each(Pool::builder(), 2, 2)
            .timer(clock.clone())
            .build(|_: u32| future::pending::<Result<(), ()>>());
        let mut workers: Vec<_> = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()))
            .collect();
        let running = pool.try_submit(0).unwrap();
        assert_eq!(poll_once(workers[0].as_mut()), None);
        let delayed = pool.job(1).delay(secs(60)).try_submit().unwrap();
        assert_eq!(
            (poll_once(workers[1].as_mut()), clock.sleeping()),
            (None, 1)
        );
        let mut abort = pin!(pool.abort());
        assert_eq!(poll_once(abort.as_mut()), None);
        clock.advance(secs(60));
        assert_eq!(
            (poll_once(workers[1].as_mut()), clock.sleeping()),
            (None, 0)
        );
        assert_eq!(
            [0, 1].map(|at| poll_once(workers[at].as_mut())),
            [Some(()); 2]
        );
        let report = poll_once(abort.as_mut()).expect("nothing runs any more");
        assert_eq!(
            (report.unstarted[0].id, report.interrupted[0].id),
            (delayed.id(), running.id())
        );
        assert_settled(&pool);
    });
}

#[test]
fn time_goes_on_in_a_paused_pool() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.in_order());
        pool.pause();
        let late = pool.job(0).timeout(secs(60)).try_submit().unwrap();
        let delayed = pool.job(1).delay(secs(60)).try_submit().unwrap();
        env.clock.sleepers(1).await;
        env.clock.advance(secs(60));
        assert_eq!(
            late.await,
            Err(JobError::TimedOut(TimeLimit::Job)),
            "{}",
            env.name
        );
        assert_eq!(counts(&pool), (1, 0, 0));
        gate.open(1);
        pool.resume();
        assert_eq!(delayed.await, Ok(1));
        assert_eq!(started.take(), [1]);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_job_that_pauses_its_own_pool_is_the_last_to_start() {
    everywhere(|env| async move {
        let own = OwnPool::<u32, u32, ()>::new();
        let (started, inside) = (Log::new(), own.reach());
        let log = started.clone();
        let pool = env.in_order().spawn_on(&env, move |n: u32| {
            log.push(n);
            let pool = inside.get().filter(|_| n == 3);
            async move {
                pool.iter().for_each(Pool::pause);
                Ok::<_, ()>(n)
            }
        });
        pool.pause();
        own.set(&pool);
        let handles: Vec<_> = (0..6).map(|n| pool.try_submit(n).unwrap()).collect();
        pool.resume();
        pool.wait_queued_below(3).await;
        pool.wait_running_below(1).await;
        assert_eq!(
            (started.take(), counts(&pool)),
            (vec![0, 1, 2, 3], (2, 0, 0)),
            "{}",
            env.name
        );
        pool.resume();
        for (n, handle) in (0..).zip(handles) {
            assert_eq!(handle.await, Ok(n));
        }
        assert_over(&env, &pool).await;
    });
}

// ---- more workers and fewer ----

#[test]
fn more_workers_start_jobs_at_once_and_fewer_stop_none_and_hold_as_jobs_end() {
    everywhere_once(|env| async move {
        let live = Live::default();
        let (gate, inside) = (Gate::new(), live.clone());
        let pass = gate.clone();
        let pool = env.builder().workers(4).spawn_on(&env, move |n: u32| {
            let (gate, guard) = (pass.clone(), inside.enter());
            async move {
                let _guard = guard;
                gate.pass().await;
                Ok::<_, ()>(n)
            }
        });
        pool.set_workers(1);
        let handles: Vec<_> = (0..20).map(|n| pool.try_submit(n).unwrap()).collect();
        gate.arrived(1).await;
        assert_eq!(counts(&pool), (19, 0, 1), "{}", env.name);
        for (workers, more) in [(2, 1), (3, 1), (4, 1)] {
            pool.set_workers(workers);
            gate.arrived(more).await;
            assert_eq!(counts(&pool), (20 - workers, 0, workers), "{}", env.name);
        }
        pool.set_workers(1);
        assert_eq!((counts(&pool), live.now()), ((16, 0, 4), 4), "{}", env.name);
        // Three end, and none takes their place; then one after another.
        gate.open(3);
        pool.wait_running_below(2).await;
        assert_eq!((counts(&pool), live.now()), ((16, 0, 1), 1), "{}", env.name);
        gate.open(1);
        gate.arrived(1).await;
        assert_eq!(counts(&pool), (15, 0, 1), "{}", env.name);
        // In one go, and not one by one.
        pool.set_workers(4);
        gate.arrived(3).await;
        assert_eq!(
            (counts(&pool), live.most()),
            ((12, 0, 4), 4),
            "{}",
            env.name
        );
        gate.open(20);
        for (n, handle) in (0..).zip(handles) {
            assert_eq!(handle.await, Ok(n));
        }
        assert_eq!((live.most(), live.now()), (4, 0));
        assert_over(&env, &pool).await;
    });
}

#[test]
fn fewer_workers_hold_back_what_is_on_its_way_to_one() {
    everywhere_once(|env| async move {
        let (live, gate) = (Live::default(), Gate::new());
        let (inside, pass) = (live.clone(), gate.clone());
        let (pool, workers) = env.builder().workers(5).build(move |n: u32| {
            let (gate, guard) = (pass.clone(), inside.enter());
            async move {
                let _guard = guard;
                gate.pass().await;
                Ok::<_, ()>(n)
            }
        });
        pool.set_workers(4);
        let handles: Vec<_> = (0..20).map(|n| pool.try_submit(n).unwrap()).collect();
        pool.set_workers(2);
        workers.spawn_on(&env);
        gate.arrived(2).await;
        assert_eq!(counts(&pool), (18, 0, 2), "{}", env.name);
        gate.open(20);
        for (n, handle) in (0..).zip(handles) {
            assert_eq!(handle.await, Ok(n));
        }
        assert_eq!((live.most(), live.now()), (2, 0), "{}", env.name);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn submitters_that_wait_for_room_go_on_when_there_are_more_workers() {
    everywhere_once(|env| async move {
        let (pool, gate, started) = gated(&env, env.builder().workers(11).queue_capacity(1));
        pool.set_workers(5);
        let mut handles = Vec::new();
        for n in 0..5 {
            handles.push(pool.submit(n).await.unwrap());
            gate.arrived(1).await;
        }
        handles.push(pool.try_submit(5).unwrap());
        let mut waiting: Vec<_> = (6..11).map(|n| Box::pin(pool.submit(n))).collect();
        for submit in &mut waiting {
            assert!(poll_once(submit.as_mut()).is_none());
        }
        pool.set_workers(11);
        for submit in waiting {
            handles.push(submit.await.unwrap());
        }
        gate.arrived(6).await;
        assert_eq!(counts(&pool), (0, 0, 11), "{}", env.name);
        gate.open(11);
        for (n, handle) in (0..).zip(handles) {
            assert_eq!(handle.await, Ok(n));
        }
        assert_eq!(started.take().len(), 11);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_job_that_waits_for_another_is_told_when_no_worker_is_left_for_that() {
    type Jobs = Submitter<u32, Option<JobError<()>>, ()>;
    everywhere_once(|env| async move {
        let (gate, waits) = (Gate::new(), Log::new());
        let (pass, log) = (gate.clone(), waits.clone());
        let (pool, workers) =
            env.builder()
                .workers(2)
                .build_with_submitter(move |n: u32, jobs: Jobs| {
                    let (gate, log) = (pass.clone(), log.clone());
                    async move {
                        if n == 0 {
                            return Ok(None);
                        }
                        gate.pass().await;
                        let mut child = jobs.submit(0).unwrap();
                        assert!(poll_once(pin!(&mut child)).is_none());
                        log.push(());
                        Ok(child.await.err())
                    }
                });
        workers.spawn_on(&env);
        let handle = pool.try_submit(1).unwrap();
        gate.arrived(1).await;
        // The other worker starts no job before the pool is resumed, so the wait can still end.
        pool.pause();
        gate.open(1);
        waits.next().await;
        pool.set_workers(1);
        assert_eq!(
            handle.await,
            Ok(Some(JobError::WouldDeadlock)),
            "{}",
            env.name
        );
        let stats = assert_over(&env, &pool).await;
        assert_eq!((stats.succeeded, stats.cancelled), (1, 1));
    });
}

#[test]
fn a_job_whose_pool_is_paused_waits_for_another_until_it_is_resumed() {
    type Jobs = Submitter<u32, u32, JobError<()>>;
    everywhere(|env| async move {
        let (gate, waits) = (Gate::new(), Log::new());
        let (pass, log) = (gate.clone(), waits.clone());
        let (pool, workers) = env
            .at_once(2)
            .build_with_submitter(move |n: u32, jobs: Jobs| {
                let (gate, log) = (pass.clone(), log.clone());
                async move {
                    if n == 0 {
                        return Ok(0);
                    }
                    gate.pass().await;
                    let mut child = jobs.submit(0).unwrap();
                    assert!(poll_once(pin!(&mut child)).is_none());
                    log.push(());
                    child
                        .await
                        .map_err(|error| error.into_failed().unwrap_or(JobError::WouldDeadlock))
                }
            });
        workers.spawn_on(&env);
        let handle = pool.try_submit(1).unwrap();
        gate.arrived(1).await;
        pool.pause();
        gate.open(1);
        waits.next().await;
        assert_eq!(counts(&pool), (1, 0, 1));
        pool.resume();
        assert_eq!(handle.await, Ok(0), "{}", env.name);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn another_rate_counts_at_once_for_what_waits_and_grants_no_new_burst() {
    everywhere(|env| async move {
        let every = |millis| RateLimit::every(Duration::from_millis(millis));
        let (starts, began) = (Log::new(), env.clock.elapsed());
        let (log, clock) = (starts.clone(), env.clock.clone());
        let pool = env
            .at_once(8)
            .rate_limit(every(1000).burst(2))
            .spawn_on(&env, move |n: u32| {
                log.push((clock.elapsed() - began).as_millis());
                future::ready(Ok::<_, ()>(n))
            });
        let submit = |count| (0..count).for_each(|n| pool.try_submit(n).unwrap().detach());
        let advance = |millis| env.clock.advance(Duration::from_millis(millis));
        submit(8);
        let mut times = starts.many(2).await;
        // The same again is nothing new.
        pool.set_rate_limit(every(1000).burst(2));
        pool.set_rate_limit(every(1000).burst(2));
        env.clock.sleepers(1).await;
        advance(1000);
        times.extend(starts.many(1).await);
        pool.set_rate_limit(every(250));
        for _ in 0..2 {
            advance(250);
            times.extend(starts.many(1).await);
        }
        pool.set_rate_limit(None);
        times.extend(starts.many(3).await);
        // Where there was no limit, nothing counts.
        pool.set_rate_limit(every(1000));
        submit(2);
        times.extend(starts.many(1).await);
        advance(1000);
        times.extend(starts.many(1).await);
        assert_eq!(
            times,
            [0, 0, 1000, 1250, 1500, 1500, 1500, 1500, 1500, 2500],
            "{}",
            env.name
        );
        assert_over(&env, &pool).await;
    });
}

#[test]
fn controls_that_make_no_sense_are_refused_where_they_are_set() {
    fn message(misuse: impl FnOnce()) -> String {
        let payload = catch_unwind(AssertUnwindSafe(misuse)).expect_err("it makes no sense");
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned());
        text.or_else(|| payload.downcast_ref::<String>().cloned())
            .expect("the message is text")
    }
    let builder = || {
        Pool::builder::<u32, ()>()
            .workers(3)
            .timer(ManualTimer::new())
    };
    let (pool, workers) = builder().build(|n: u32| async move { Ok(n) });
    let build = |builder: Builder<u32, ()>| drop(builder.build(|n: u32| async move { Ok(n) }));
    let messages = [
        message(|| pool.set_workers(0)),
        message(|| pool.set_workers(4)),
        message(|| drop(builder().aging(Duration::ZERO))),
        message(|| drop(builder().key_by(|n| *n).max_running_per_key(0))),
        message(|| build(builder().max_running_per_key(1))),
        message(|| build(builder().rate_limit_per_key(RateLimit::per_second(1)))),
    ];
    let expected = [
        "workers must be at least 1, got 0; to start none, pause the pool",
        "workers must be at most 3, as many as were built, got 4",
        "the step of aging must be longer than 0, got 0ns",
        "max_running_per_key must be at least 1, got 0",
        "max_running_per_key needs key_by, got none",
        "rate_limit_per_key needs key_by, got none",
    ];
    assert_eq!(messages, expected);
    // A refusal leaves the pool as it was; and the number of those that were built counts, though
    // one of them has left.
    let mut workers = workers.into_iter();
    drop(workers.next());
    pool.set_workers(3);
    let executor = async_executor::LocalExecutor::new();
    workers.for_each(|worker| executor.spawn(worker.run()).detach());
    let collected = block_on(executor.run(pool.map(0..4).try_collect::<Vec<_>>()));
    assert_eq!(
        (collected, assert_settled(&pool).workers),
        (Ok(vec![0, 1, 2, 3]), 2)
    );
}

// ---- what can be seen ----

/// All that is known of running jobs.
type Seen = Vec<(JobId, usize, usize, u32, Option<Duration>)>;

fn seen(env: &Env, running: Vec<RunningJob>) -> Seen {
    let since = |at| env.clock.elapsed() - (env.clock.now() - at);
    running
        .into_iter()
        .map(|job| {
            (
                job.id,
                job.index,
                job.worker,
                job.attempt,
                job.since.map(since),
            )
        })
        .collect()
}

#[test]
fn running_jobs_are_listed_in_the_order_of_their_workers_with_all_that_is_known_of_them() {
    everywhere_once(|env| async move {
        let starts = Log::new();
        let (gate, log) = (Gate::new(), starts.clone());
        let pass = gate.clone();
        let pool = env
            .builder()
            .workers(3)
            .observe(move |event: &Event| {
                if let Event::Started {
                    job,
                    attempt,
                    worker,
                } = event
                {
                    log.push((*job, *worker, *attempt));
                }
            })
            .spawn_on(&env, move |n: u32| {
                let gate = pass.clone();
                async move {
                    gate.pass().await;
                    Ok::<_, ()>(n)
                }
            });
        assert_eq!(pool.running(), []);
        let expected = |mut jobs: Vec<(JobId, usize, usize, u32, Option<Duration>)>| {
            jobs.sort_unstable_by_key(|job| job.2);
            jobs
        };
        // Two jobs of a map, the second and third, and the job of a handle. No job has a start time,
        // since the pool does not read the clock.
        let mut map = pool.map([0, 1, 2]);
        let handle = pool.try_submit(3).unwrap();
        assert!(poll_once(pin!(map.next())).is_none());
        let first = starts.many(3).await;
        gate.arrived(3).await;
        let index = |job: JobId| {
            if job == handle.id() {
                0
            } else {
                job.as_u64() as usize - 1
            }
        };
        let plain = first
            .iter()
            .map(|(job, worker, attempt)| (*job, index(*job), *worker, *attempt, None))
            .collect();
        assert_eq!(seen(&env, pool.running()), expected(plain), "{}", env.name);
        // With a schedule the pool does, for jobs that start from then on.
        let start = env.clock.elapsed();
        env.clock.advance(secs(7));
        pool.set_workers(3);
        gate.open(1);
        let (job, worker, attempt) = starts.next().await;
        gate.arrived(1).await;
        let rest = first.iter().filter(|(_, other, _)| *other != worker);
        let mut now: Vec<_> = rest
            .map(|(job, worker, attempt)| (*job, index(*job), *worker, *attempt, None))
            .collect();
        now.push((job, index(job), worker, attempt, Some(start + secs(7))));
        assert_eq!(seen(&env, pool.running()), expected(now), "{}", env.name);
        gate.open(3);
        assert!(map.for_each(drop).await.is_complete());
        assert_eq!(handle.await, Ok(3));
        pool.wait_idle().await;
        assert_eq!(pool.running(), []);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn the_statistics_of_a_pool_are_the_sums_of_those_of_its_maps_and_groups_children_included() {
    everywhere(|env| async move {
        let (pool, workers) = env.at_once(10).build_with_submitter(
            |n: u32, jobs: Submitter<u32, u32, u32>| async move {
                if n < 2000 {
                    jobs.add(n + 2000).unwrap();
                }
                if n.is_multiple_of(2) { Ok(n) } else { Err(n) }
            },
        );
        workers.spawn_on(&env);
        // All of them, which gives the pool an order.
        pool.set_workers(env.workers(10));
        let mut group = pool.group();
        for n in 2000..4000 {
            group.submit(n).await.unwrap();
            if group.unread() == 1000 {
                while group.next().await.is_some() {}
            }
        }
        while group.next().await.is_some() {}
        let (low, high) = (
            pool.map(0..2000).for_each(drop),
            pool.map(0..2000).priority(1).for_each(drop),
        );
        let (low, high) = future::zip(low, high).await;
        for (summary, accepted) in [(low, 4000), (high, 4000), (group.summary(), 2000)] {
            let half = accepted / 2;
            let counts = (
                summary.accepted,
                summary.succeeded,
                summary.failed,
                summary.cancelled,
                summary.unread,
            );
            assert_eq!(counts, (accepted, half, half, 0, 0), "{}", env.name);
        }
        let stats = assert_over(&env, &pool).await;
        let counts = (
            stats.accepted,
            stats.succeeded,
            stats.failed,
            stats.cancelled,
            stats.rejected,
            stats.retries,
        );
        assert_eq!(counts, (10_000, 5_000, 5_000, 0, 0, 0), "{}", env.name);
    });
}

#[test]
fn the_statistics_add_up_at_every_event() {
    everywhere(|env| async move {
        let own = OwnPool::<u32, u32, u32>::new();
        let (inside, looks, left) = (own.reach(), Log::new(), Log::new());
        let (log, leavers) = (looks.clone(), left.clone());
        let pool = env
            .at_once(3)
            .key_by(|n: &u32| *n % 5)
            .max_running_per_key(1)
            .cost_by(|n: &u32| if n.is_multiple_of(7) { 9 } else { 1 })
            .rate_limit(RateLimit::per_second(1_000_000).burst(8))
            .retry(Retry::fixed(secs(1)).max_attempts(2))
            .observe(move |event: &Event| {
                // A panic in an observer is ignored, so the statistics are checked after the run.
                log.push(None);
                log.push(inside.get().as_ref().map(Pool::stats));
                if matches!(event, Event::WorkerLeft { .. }) {
                    leavers.push(());
                }
            })
            .spawn_on(&env, |n: u32| async move {
                yield_now().await;
                match n % 4 {
                    0 => Err(n),
                    1 => resume_unwind(Box::new("on purpose")),
                    _ => Ok(n),
                }
            });
        own.set(&pool);
        let mut handles: Vec<_> = (0..60)
            .map(|n| {
                let job = pool.job(n).priority((n % 3) as i32);
                if n.is_multiple_of(5) {
                    job.delay(secs(u64::from(n)))
                } else {
                    job
                }
                .try_submit()
                .unwrap()
            })
            .collect();
        let mut map = pool.map(0..60).priority(1);
        // The first job costs too much, and is rejected at once.
        let first = poll_once(pin!(map.next()))
            .flatten()
            .expect("it waits for nothing");
        assert!(
            first
                .result
                .is_err_and(|error| error.is_cost_exceeds_limit())
        );
        handles.retain(|handle| handle.id().as_u64() % 9 > 0);
        while counts(&pool) != (0, 0, 0) {
            env.clock.advance(secs(1));
            yield_now().await;
        }
        drop(handles);
        let summary = map.for_each(drop).await;
        assert_eq!(
            (summary.accepted, summary.unread, summary.end),
            (60, 0, End::Complete)
        );
        let stats = assert_over(&env, &pool).await;
        assert_eq!(stats.accepted, 120);
        // A worker is counted out before its event, which may still be under way on its thread.
        left.many(env.workers(3)).await;
        let looks = looks.take();
        // At the least, each job was accepted and has ended.
        assert!(looks.len() >= 2 * 240, "{} on {}", looks.len(), env.name);
        assert_eq!(
            looks.iter().flatten().count() * 2,
            looks.len(),
            "{}",
            env.name
        );
        for stats in looks.into_iter().flatten() {
            assert_adds_up(&stats);
            assert!(stats.running <= 3, "{stats:?}");
        }
    });
}

#[test]
fn a_slow_poll_is_reported_with_its_job_and_its_length_and_one_at_the_bound_is_not() {
    everywhere(|env| async move {
        let slow = Log::new();
        let (log, clock) = (slow.clone(), env.clock.clone());
        let pool = env
            .in_order()
            .slow_poll(secs(10))
            .observe(move |event: &Event| {
                if let Event::SlowPoll { job, took } = event {
                    log.push((*job, took.as_secs()));
                }
            })
            .spawn_on(&env, move |(making, first, second): (u64, u64, u64)| {
                // The making of the future is a part of its first poll.
                clock.advance(secs(making));
                let clock = clock.clone();
                async move {
                    clock.advance(secs(first));
                    yield_now().await;
                    clock.advance(secs(second));
                    Ok::<_, ()>(())
                }
            });
        let jobs = [(0, 10, 10), (5, 5, 0), (11, 0, 0), (0, 0, 12), (7, 6, 14)];
        let handles = jobs.map(|job| pool.job(job).priority(-1).try_submit().unwrap());
        let ids = handles.each_ref().map(JobHandle::id);
        for handle in handles {
            assert_eq!(handle.await, Ok(()));
        }
        assert_over(&env, &pool).await;
        // Jobs that share a worker go on in any order.
        let mut slow = slow.take();
        slow.sort_unstable();
        assert_eq!(
            slow,
            [(ids[2], 11), (ids[3], 12), (ids[4], 13), (ids[4], 14)],
            "{}",
            env.name
        );
    });
}

// ---- waits for a quieter moment ----

#[test]
fn a_wait_for_a_shorter_queue_ends_when_so_few_are_queued_or_delayed() {
    everywhere(|env| async move {
        let (pool, gate, _) = gated(&env, env.one_by_one());
        // At once, where it is so already.
        assert_eq!(poll_once(pin!(pool.wait_queued_below(1))), Some(()));
        let running = pool.try_submit(0).unwrap();
        gate.arrived(1).await;
        let mut queued: Vec<_> = (1..6).map(|n| pool.try_submit(n).unwrap()).collect();
        let delayed = pool.job(6).delay(secs(60)).try_submit().unwrap();
        assert_eq!(poll_once(pin!(pool.wait_queued_below(7))), Some(()));
        // Several wait, each for a number of its own, and one gives up.
        let mut waits: Vec<_> = [6, 3, 1, 6]
            .map(|count| (count, Box::pin(pool.wait_queued_below(count))))
            .into();
        for (_, wait) in &mut waits {
            assert!(poll_once(wait.as_mut()).is_none());
        }
        drop(waits.pop());
        let mut ends = Vec::new();
        for left in [5, 4, 3, 2, 1] {
            if left % 2 == 1 && left > 1 {
                // A cancelled one is not queued either.
                drop(queued.pop());
            } else {
                gate.open(1);
                gate.arrived(1).await;
            }
            let (queued, delayed, _) = counts(&pool);
            assert_eq!(queued + delayed, left, "{}", env.name);
            waits.retain_mut(|(count, wait)| {
                let is_over = poll_once(wait.as_mut()).is_some();
                ends.extend(is_over.then_some((*count, left)));
                !is_over
            });
        }
        assert_eq!(ends, [(6, 5), (3, 2)], "{}", env.name);
        // The wait is woken by that.
        let (_, last) = waits.pop().unwrap();
        future::zip(last, async { drop(delayed) }).await;
        gate.open(9);
        assert_eq!(running.await, Ok(0));
        drop(queued);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_wait_for_fewer_running_jobs_ends_when_so_few_run_and_does_not_mind_what_is_queued() {
    everywhere(|env| async move {
        let (pool, gate, _) = gated(&env, env.at_once(4));
        assert_eq!(poll_once(pin!(pool.wait_running_below(1))), Some(()));
        let handles: Vec<_> = (0..6).map(|n| pool.try_submit(n).unwrap()).collect();
        gate.arrived(4).await;
        pool.pause();
        assert_eq!(poll_once(pin!(pool.wait_running_below(5))), Some(()));
        let mut last = pin!(pool.wait_running_below(1));
        assert!(poll_once(last.as_mut()).is_none());
        for running in [3, 2] {
            future::zip(pool.wait_running_below(running + 1), async { gate.open(1) }).await;
            assert_eq!(counts(&pool), (2, 0, running), "{}", env.name);
            assert!(poll_once(last.as_mut()).is_none());
        }
        gate.open(2);
        last.await;
        assert_eq!(counts(&pool), (2, 0, 0), "{}", env.name);
        pool.resume();
        gate.open(2);
        for (n, handle) in (0..).zip(handles) {
            assert_eq!(handle.await, Ok(n));
        }
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_wait_for_what_cannot_be_ends_with_the_pool() {
    everywhere(|env| async move {
        for end in ["drained", "aborted", "left by its workers"] {
            let gate = Gate::new();
            let pass = gate.clone();
            let (pool, workers) = env.in_order().build(move |n: u32| {
                let gate = pass.clone();
                async move {
                    gate.pass().await;
                    Ok::<_, ()>(n)
                }
            });
            let (kill, killed) = async_channel::bounded::<()>(1);
            for worker in workers {
                let killed = killed.clone();
                env.spawn(Box::pin(future::or(worker.run(), async move {
                    killed.recv().await.unwrap_or_default();
                })));
            }
            let handle = pool.try_submit(0).unwrap();
            gate.arrived(1).await;
            let waits = future::zip(pool.wait_queued_below(0), pool.wait_running_below(0));
            let mut waits = pin!(waits);
            assert!(poll_once(waits.as_mut()).is_none());
            match end {
                "drained" => {
                    pool.close();
                    gate.open(1);
                }
                "aborted" => drop(pool.abort().await),
                _ => drop(kill.close()),
            }
            waits.await;
            assert_eq!(
                handle.await.is_ok(),
                end == "drained",
                "{end} on {}",
                env.name
            );
            assert_settled(&pool);
        }
    });
}

#[test]
fn a_job_that_waits_for_a_quieter_moment_of_its_own_pool_panics_if_it_would_wait() {
    everywhere(|env| async move {
        let own = OwnPool::<u32, u32, ()>::new();
        let inside = own.reach();
        let pool = env.in_order().spawn_on(&env, move |n: u32| {
            let pool = inside.pool();
            async move {
                match n {
                    // It is the one that runs, and nothing is queued.
                    0 => future::zip(pool.wait_queued_below(1), pool.wait_running_below(2)).await,
                    1 => (pool.wait_queued_below(0).await, ()),
                    _ => (pool.wait_running_below(1).await, ()),
                };
                Ok(n)
            }
        });
        own.set(&pool);
        let mut messages = Vec::new();
        for n in 0..3 {
            messages.push(match pool.try_submit(n).unwrap().await {
                Err(JobError::Panicked(message)) => message.as_str().to_owned(),
                other => format!("{other:?}"),
            });
        }
        let must_not = |what, job| {
            format!("{what} must not be awaited inside a job of the same pool, got job {job}")
        };
        assert_eq!(
            messages,
            [
                "Ok(0)".into(),
                must_not("wait_queued_below", 1),
                must_not("wait_running_below", 2)
            ],
            "{}",
            env.name
        );
        assert_over(&env, &pool).await;
    });
}

// ---- how many may wait for room ----

#[test]
fn one_more_than_may_wait_for_room_is_told_so_at_once() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.one_by_one().queue_capacity(1).max_waiting(1));
        let mut handles = vec![pool.submit(0).await.unwrap()];
        gate.arrived(1).await;
        handles.push(pool.submit(1).await.unwrap());
        let group = pool.group();
        {
            let mut first = pin!(pool.submit(2));
            assert!(poll_once(first.as_mut()).is_none());
            assert_eq!(
                poll_once(pin!(pool.submit(3))).unwrap().unwrap_err(),
                SubmitError::Overloaded(3)
            );
            assert_eq!(
                poll_once(pin!(pool.job(4).priority(9).submit()))
                    .unwrap()
                    .unwrap_err(),
                SubmitError::Overloaded(4)
            );
            assert_eq!(
                poll_once(pin!(pool.reserve())).unwrap().unwrap_err(),
                SubmitError::Overloaded(())
            );
            assert_eq!(
                poll_once(pin!(group.submit(5))),
                Some(Err(SubmitError::Overloaded(5)))
            );
            // `try_submit` is refused as before, and the submission that waits continues to wait.
            assert_eq!(pool.try_submit(6).unwrap_err(), SubmitError::Full(6));
            assert!(poll_once(first.as_mut()).is_none());
            gate.open(1);
            gate.arrived(1).await;
            // It has its place, so another one may wait, before it knows.
            let mut second = pin!(pool.submit(7));
            assert!(poll_once(second.as_mut()).is_none());
            handles.push(first.await.unwrap());
            assert_eq!(
                poll_once(pin!(pool.submit(8))).unwrap().unwrap_err(),
                SubmitError::Overloaded(8)
            );
        }
        // The second one has given up, so another one may wait.
        let mut third = pin!(pool.submit(9));
        assert!(poll_once(third.as_mut()).is_none());
        gate.open(3);
        handles.push(third.await.unwrap());
        let mut results = Vec::new();
        for handle in handles {
            results.push(handle.await);
        }
        assert_eq!(
            (results, started.take()),
            ([0, 1, 2, 9].map(Ok).into(), vec![0, 1, 2, 9]),
            "{}",
            env.name
        );
        assert_over(&env, &pool).await;
    });
}

#[test]
fn where_no_submission_may_wait_a_full_queue_refuses_at_once_and_room_is_used() {
    everywhere(|env| async move {
        let (pool, gate, _) = gated(&env, env.one_by_one().queue_capacity(1).max_waiting(0));
        let running = pool.submit(0).await.unwrap();
        gate.arrived(1).await;
        let permit = pool.reserve().await.unwrap();
        assert_eq!(
            pool.submit(1).await.unwrap_err(),
            SubmitError::Overloaded(1)
        );
        let queued = permit.submit(2).unwrap();
        assert_eq!(
            pool.submit(3).await.unwrap_err(),
            SubmitError::Overloaded(3)
        );
        gate.open(2);
        assert_eq!(
            (running.await, queued.await),
            (Ok(0), Ok(2)),
            "{}",
            env.name
        );
        pool.close();
        assert_eq!(pool.submit(4).await.unwrap_err(), SubmitError::Closed(4));
        assert_over(&env, &pool).await;
    });
}

#[test]
fn maps_wait_for_room_without_counting_among_the_submissions_that_may() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.one_by_one().queue_capacity(1).max_waiting(1));
        let running = pool.submit(0).await.unwrap();
        gate.arrived(1).await;
        let queued = pool.submit(1).await.unwrap();
        let mut maps = [pool.map(10..20), pool.map(20..30)];
        let mut nexts = maps.each_mut().map(|map| Box::pin(map.next()));
        for next in &mut nexts {
            assert!(poll_once(next.as_mut()).is_none());
        }
        let mut waiting = Box::pin(pool.submit(2));
        assert!(poll_once(waiting.as_mut()).is_none());
        assert_eq!(
            poll_once(pin!(pool.submit(3))).unwrap().unwrap_err(),
            SubmitError::Overloaded(3)
        );
        drop(nexts);
        let mut late = pool.map(30..40);
        assert!(poll_once(pin!(late.next())).is_none());
        gate.open(40);
        let submitted = async { waiting.await.unwrap().await };
        let [first, second] = maps;
        let maps = future::zip(
            first.for_each(drop),
            future::zip(second.for_each(drop), late.for_each(drop)),
        );
        let (submitted, (first, (second, third))) = future::zip(submitted, maps).await;
        assert_eq!(
            (submitted, running.await, queued.await),
            (Ok(2), Ok(0), Ok(1)),
            "{}",
            env.name
        );
        assert_eq!(
            [first, second, third].map(|summary| (summary.succeeded, summary.end)),
            [(10, End::Complete); 3]
        );
        assert_over(&env, &pool).await;
        assert_eq!(started.take().len(), 33);
    });
}

/// The wait that is given up was woken before, or not.
#[test]
fn a_wait_that_is_given_up_takes_no_other_along() {
    for is_polled in [false, true] {
        let (pool, _workers) = Pool::builder()
            .workers(1)
            .timer(ManualTimer::new())
            .build(|_: u32| future::pending::<Result<(), ()>>());
        let _stays = pool.try_submit(0).unwrap();
        let second = pool.try_submit(1).unwrap();
        let (mut idle, mut below) = (
            Box::pin(pool.wait_idle()),
            Box::pin(pool.wait_queued_below(2)),
        );
        if is_polled {
            assert!(poll_once(idle.as_mut()).is_none());
        }
        let (woken, tell) = std::sync::mpsc::channel();
        let waker = on_wake(move || woken.send(()).unwrap());
        assert!(
            below
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        drop(idle);
        drop(second);
        assert_eq!(tell.try_recv(), Ok(()), "it is not woken");
        assert!(poll_once(below.as_mut()).is_some());
    }
}

// ---- times ----

#[test]
fn timings_say_how_long_a_job_waited_and_how_long_it_ran() {
    everywhere(|env| async move {
        for is_measured in [false, true] {
            let (pool, gate, _) = gated(&env, env.one_by_one().timings(is_measured));
            let mut map = pool.map([1, 2, 3]);
            assert!(poll_once(std::pin::pin!(map.next())).is_none());
            gate.arrived(1).await;
            env.clock.advance(secs(2));
            gate.open(1);
            let mut completions = vec![map.next().await.unwrap()];
            gate.arrived(1).await;
            env.clock.advance(secs(3));
            map.cancel();
            completions.extend(map.collect::<Vec<_>>().await);
            completions.sort_by_key(|completion| completion.index);
            let times: Vec<_> = completions
                .iter()
                .map(|completion| (completion.queued_for(), completion.ran_for()))
                .collect();
            let seconds = |seconds| is_measured.then_some(Duration::from_secs(seconds));
            // The last one did not start.
            let expected = [
                (seconds(0), seconds(2)),
                (seconds(2), seconds(3)),
                (seconds(5), None),
            ];
            assert_eq!(times, expected, "{}", env.name);
            assert_settled(&pool);
        }
    });
}

#[test]
fn a_poll_that_takes_too_long_is_reported_with_its_job() {
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let events = Arc::new(Mutex::new(Vec::new()));
        let (log, hands) = (Arc::clone(&events), clock.clone());
        let (pool, workers) = slots
            .in_order(Pool::builder())
            .timer(clock)
            .slow_poll(millis(10))
            .observe(move |event: &Event| {
                if let Event::SlowPoll { job, took } = event {
                    log.lock().unwrap().push((*job, *took));
                }
            })
            .build(move |millis: u64| {
                let hands = hands.clone();
                async move {
                    yield_now().await;
                    hands.advance(Duration::from_millis(millis));
                    yield_now().await;
                    Ok::<_, ()>(())
                }
            });
        let handles = [10, 11, 500].map(|millis| pool.try_submit(millis).unwrap());
        let ids = handles.each_ref().map(JobHandle::id);
        future::block_on(workers.drive(pool.drain()));
        let expected = [(ids[1], millis(11)), (ids[2], millis(500))];
        // Jobs that share a worker go on in any order.
        events.lock().unwrap().sort_unstable();
        assert_eq!(*events.lock().unwrap(), expected);
    });
}
