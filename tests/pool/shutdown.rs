//! The end of a pool: closed, drained, aborted or dropped. What was accepted is done or comes back,
//! and nothing stays.

use std::any::Any;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use brigade::rt::BoxFuture;
use brigade::{
    Builder, CancelReason, End, Event, Interrupted, JobError, JobId, ManualTimer, Pool, Report,
    SubmitError, Submitter,
};
use futures_lite::{StreamExt, future, stream};

use crate::harness::{
    Drops, Env, Gate, Live, OwnPool, SECOND, Slots, assert_settled, everywhere, in_both_ways,
    millis, on_wake, poll_once, secs,
};

fn gated_pool(env: &Env, builder: Builder<u32, ()>, gate: &Gate) -> Pool<u32, u32, ()> {
    let gate = gate.clone();
    builder.spawn_on(env, move |n: u32| {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            Ok(n)
        }
    })
}

/// The jobs of a report, without its statistics.
fn words<In: Copy>(
    report: &Report<In>,
) -> (Vec<(JobId, usize, In, u32)>, Vec<(JobId, usize, u32)>) {
    let unstarted = report
        .unstarted
        .iter()
        .map(|job| (job.id, job.index, job.input, job.attempts))
        .collect();
    let name = |job: &Interrupted| (job.id, job.index, job.attempts);
    (unstarted, report.interrupted.iter().map(name).collect())
}

#[test]
fn a_drain_finishes_all_that_was_accepted_and_then_the_workers_end() {
    everywhere(|env| async move {
        let (gate, alive) = (Gate::new(), Live::default());
        let (ended, end) = async_channel::unbounded();
        let (inside, workers_alive, executor) = (gate.clone(), alive.clone(), env.clone());
        let spawn = move |worker: BoxFuture<'static, ()>| {
            let (guard, ended) = (workers_alive.enter(), ended.clone());
            brigade::Spawn::spawn(
                &executor,
                Box::pin(async move {
                    worker.await;
                    drop(guard);
                    ended.try_send(()).unwrap();
                }),
            );
        };
        let pool = env.at_once(5).spawn_on(&spawn, move |n: u32| {
            let gate = inside.clone();
            async move {
                gate.pass().await;
                Ok::<_, ()>(n)
            }
        });
        assert_eq!(alive.now(), env.workers(5));
        let handles: Vec<_> = (0..20).map(|n| pool.try_submit(n).unwrap()).collect();
        let mut drain = pin!(pool.drain());
        assert!(poll_once(drain.as_mut()).is_none());
        gate.arrived(5).await;
        assert!(poll_once(drain.as_mut()).is_none());
        gate.open(20);
        drain.await;
        for (n, handle) in (0..).zip(handles) {
            assert_eq!(handle.await, Ok(n));
        }
        for _ in 0..env.workers(5) {
            end.recv().await.unwrap();
        }
        assert_eq!((alive.now(), pool.stats().workers), (0, 0));
        assert_eq!(assert_settled(&pool).succeeded, 20);
    });
}

#[test]
fn any_number_of_drains_return_after_the_last_job() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let pool = gated_pool(&env, env.at_once(2), &gate);
        let handles: Vec<_> = (0..4).map(|n| pool.try_submit(n).unwrap()).collect();
        let mut drains: Vec<_> = (0..5).map(|_| Box::pin(pool.drain())).collect();
        for passed in 0..4 {
            for drain in &mut drains {
                assert!(poll_once(drain.as_mut()).is_none());
            }
            gate.open(1);
            gate.arrived(if passed == 0 {
                2
            } else if passed < 3 {
                1
            } else {
                0
            })
            .await;
        }
        for drain in drains {
            drain.await;
            assert_eq!(pool.stats().succeeded, 4);
        }
        drop(handles);
        assert_settled(&pool);
    });
}

#[test]
fn a_closed_pool_refuses_with_an_error_that_holds_the_input() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let pool = gated_pool(&env, env.in_order(), &gate);
        let (before, group, mut map) = (pool.try_submit(0).unwrap(), pool.group(), pool.map(0..3));
        pool.close();
        assert!(pool.is_closed());
        assert_eq!(pool.try_submit(1).unwrap_err(), SubmitError::Closed(1));
        assert_eq!(pool.submit(2).await.unwrap_err(), SubmitError::Closed(2));
        assert_eq!(
            pool.job(3).submit().await.unwrap_err(),
            SubmitError::Closed(3)
        );
        assert_eq!(pool.reserve().await.unwrap_err(), SubmitError::Closed(()));
        assert_eq!(pool.try_reserve().unwrap_err(), SubmitError::Closed(()));
        assert_eq!(group.try_submit(4), Err(SubmitError::Closed(4)));
        assert_eq!(group.submit(5).await, Err(SubmitError::Closed(5)));
        assert_eq!(map.next().await, None);
        assert_eq!(
            (map.summary().accepted, map.summary().end),
            (0, End::Closed)
        );
        gate.open(1);
        assert_eq!(before.await, Ok(0));
        assert_eq!(assert_settled(&pool).accepted, 1);
    });
}

#[test]
fn submissions_that_wait_for_room_are_told_of_the_close() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let inside = gate.clone();
        let pool = env
            .one_by_one()
            .queue_capacity(1)
            .spawn_on(&env, move |n: u32| {
                let gate = inside.clone();
                async move {
                    gate.pass().await;
                    Ok::<_, ()>(n)
                }
            });
        let running = pool.try_submit(0).unwrap();
        gate.arrived(1).await;
        let queued = pool.try_submit(1).unwrap();
        let group = pool.group();
        let (mut submit, mut add) = (pin!(pool.submit(2)), pin!(group.submit(3)));
        let mut map = pool.map(4..9);
        assert!(poll_once(submit.as_mut()).is_none());
        assert_eq!(poll_once(add.as_mut()), None);
        assert_eq!(poll_once(pin!(map.next())), None);
        pool.close();
        assert_eq!(submit.await.unwrap_err(), SubmitError::Closed(2));
        assert_eq!(add.await, Err(SubmitError::Closed(3)));
        gate.open(3);
        assert_eq!((running.await, queued.await), (Ok(0), Ok(1)));
        // Its first input was queued beyond the capacity.
        assert_eq!(
            map.next().await.map(|completion| completion.result),
            Some(Ok(4))
        );
        assert_eq!(map.next().await, None);
        assert_settled(&pool);
    });
}

#[test]
fn an_abort_interrupts_what_runs_and_hands_back_what_waits() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let pool = gated_pool(&env, env.at_once(2), &gate);
        let running = [0, 1].map(|n| pool.try_submit(n).unwrap());
        gate.arrived(2).await;
        let queued = pool.try_submit(2).unwrap();
        let mut map = pool.map([3]).keep_inputs();
        assert_eq!(poll_once(pin!(map.next())), None);
        let ids = [running[0].id(), running[1].id(), queued.id()];
        let report = pool.abort().await;
        let (unstarted, interrupted) = words(&report);
        assert_eq!(
            unstarted
                .iter()
                .map(|(_, index, input, attempts)| (*index, *input, *attempts))
                .collect::<Vec<_>>(),
            [(0, 2, 0), (0, 3, 0)]
        );
        assert_eq!(unstarted[0].0, ids[2]);
        assert_eq!(interrupted, [(ids[0], 0, 1), (ids[1], 0, 1)]);
        assert!(!report.is_complete());
        let stats = assert_settled(&pool);
        assert_eq!(report.stats.cancelled, stats.cancelled);
        let aborted = Err(JobError::Cancelled(CancelReason::Aborted));
        for handle in running.into_iter().chain([queued]) {
            assert_eq!(handle.await, aborted);
        }
        assert_eq!(
            map.next().await.map(|c| (c.input, c.result)),
            Some((Some(3), aborted))
        );
        assert_eq!(map.next().await, None);
        assert_eq!(map.summary().end, End::Aborted);
        assert_eq!(pool.try_submit(9).unwrap_err(), SubmitError::Closed(9));
    });
}

#[test]
fn an_abort_that_is_given_up_goes_on_and_the_next_call_returns_what_it_would_have() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let pool = gated_pool(&env, env.one_by_one(), &gate);
        let running = pool.try_submit(0).unwrap();
        gate.arrived(1).await;
        let queued = pool.try_submit(1).unwrap();
        let (running_id, queued_id) = (running.id(), queued.id());
        let early = poll_once(pin!(pool.abort()));
        pool.wait_idle().await;
        let report = match early {
            Some(report) => report,
            None => pool.abort().await,
        };
        assert_eq!(
            words(&report),
            (vec![(queued_id, 0, 1, 0)], vec![(running_id, 0, 1)])
        );
        // Each comes once.
        assert_eq!(words(&pool.abort().await), (vec![], vec![]));
        drop((running, queued));
        assert_eq!(assert_settled(&pool).cancelled, 2);
    });
}

#[test]
fn a_job_that_ends_while_it_is_interrupted_is_not_named() {
    everywhere(|env| async move {
        let own = OwnPool::<u32, u32, ()>::new();
        let inside = own.reach();
        let gate = Gate::new();
        let own_gate = gate.clone();
        let pool = env.in_order().spawn_on(&env, move |n: u32| {
            let (pool, gate) = (inside.clone(), own_gate.clone());
            async move {
                gate.pass().await;
                let pool = pool.pool();
                // Stops its own pool, and is done.
                assert!(poll_once(pin!(pool.abort())).is_none());
                Ok(n)
            }
        });
        own.set(&pool);
        let handle = pool.try_submit(7).unwrap();
        gate.open(1);
        assert_eq!(handle.await, Ok(7));
        let report = pool.abort().await;
        assert!(report.is_complete());
        assert_eq!(
            (words(&report), report.stats.succeeded),
            ((vec![], vec![]), 1)
        );
        assert_settled(&pool);
    });
}

#[test]
fn a_drain_within_its_grace_reports_nothing_and_one_past_it_reports_the_rest() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let grace = secs(5);
        let pool = gated_pool(&env, env.in_order(), &gate);
        let handle = pool.try_submit(0).unwrap();
        gate.open(1);
        let report = pool.drain_within(grace).await;
        assert!(report.is_complete());
        assert_eq!(
            (handle.await, report.stats.succeeded, env.clock.sleeping()),
            (Ok(0), 1, 0)
        );

        let pool = gated_pool(&env, env.one_by_one(), &gate);
        gate.arrived(1).await;
        let (running, queued) = (pool.try_submit(1).unwrap(), pool.try_submit(2).unwrap());
        gate.arrived(1).await;
        let ids = (running.id(), queued.id());
        let mut drain = pin!(pool.drain_within(grace));
        assert!(poll_once(drain.as_mut()).is_none());
        env.clock.advance(grace - Duration::from_nanos(1));
        assert!(poll_once(drain.as_mut()).is_none());
        assert!(pool.is_closed() && !queued.is_finished());
        env.clock.advance(Duration::from_nanos(1));
        assert_eq!(
            words(&drain.await),
            (vec![(ids.1, 0, 2, 0)], vec![(ids.0, 0, 1)])
        );
        pool.wait_idle().await;
        assert_eq!(env.clock.sleeping(), 0);
        drop((running, queued));
        assert_settled(&pool);
    });
}

#[test]
fn a_drain_within_that_is_given_up_aborts_nothing() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let pool = gated_pool(&env, env.in_order(), &gate);
        let handle = pool.try_submit(0).unwrap();
        assert!(poll_once(pin!(pool.drain_within(SECOND))).is_none());
        env.clock.advance(secs(2));
        assert!(pool.is_closed());
        gate.open(1);
        assert_eq!(handle.await, Ok(0));
        assert_eq!(env.clock.sleeping(), 0);
        assert_settled(&pool);
    });
}

#[test]
fn closing_draining_and_aborting_again_change_nothing() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let pool = gated_pool(&env, env.in_order(), &gate);
        let handle = pool.try_submit(0).unwrap();
        gate.open(1);
        pool.close();
        pool.close();
        pool.drain().await;
        let stats = assert_settled(&pool);
        pool.drain().await;
        pool.close();
        pool.seal();
        let report = pool.abort().await;
        assert!(report.is_complete());
        pool.close();
        pool.drain().await;
        assert!(
            pool.abort().await.is_complete()
                && pool.drain_within(Duration::ZERO).await.is_complete()
        );
        let again = assert_settled(&pool);
        assert_eq!(
            (again.accepted, again.succeeded),
            (stats.accepted, stats.succeeded)
        );
        assert_eq!(handle.await, Ok(0));
    });
}

#[test]
fn a_drained_pool_leaves_nothing_behind() {
    everywhere(|env| async move {
        let drops = Drops::default();
        let (ended, end) = async_channel::bounded::<()>(1);
        let (handler, clock, executor) = (Arc::new(drops.token()), env.clock.clone(), env.clone());
        // Every worker holds a sender; the channel is closed once all worker futures are gone.
        let spawn = move |worker: BoxFuture<'static, ()>| {
            let ended = ended.clone();
            brigade::Spawn::spawn(
                &executor,
                Box::pin(async move {
                    worker.await;
                    drop(ended);
                }),
            );
        };
        let (arrived, arrivals) = async_channel::unbounded();
        let counted = drops.clone();
        let pool = env
            .at_once(8)
            .attempt_timeout(secs(60))
            .job_timeout(secs(90))
            .spawn_on(&spawn, move |input| {
                let (token, value) = (counted.token(), counted.token());
                let _part_of_the_handler = &handler;
                let sleep = clock.sleep(millis(1));
                arrived.try_send(()).unwrap();
                async move {
                    let _held = (token, input);
                    sleep.await;
                    Ok::<_, ()>(value)
                }
            });
        drop(spawn);
        let handles: Vec<_> = (0..100)
            .map(|_| pool.try_submit(drops.token()).unwrap())
            .collect();
        pool.close();
        for _ in 0..100 {
            arrivals.recv().await.unwrap();
            env.clock.advance(millis(1));
        }
        pool.drain().await;
        assert_eq!(pool.stats().succeeded, 100);
        assert!(end.recv().await.is_err());
        assert_eq!(env.clock.sleeping(), 0);
        // The handler is gone, though the pool's handle is there; the values are with their
        // handles.
        assert_eq!(drops.counts(), (301, 201));
        drop(handles);
        assert_eq!(drops.counts(), (301, 301));
        assert_settled(&pool);
    });
}

#[test]
fn an_incomplete_batch_is_passed_on_at_the_end_of_its_source() {
    everywhere(|env| async move {
        let pool = env
            .at_once(2)
            .spawn_on(&env, |batch: Vec<u32>| async move { Ok::<_, ()>(batch) });
        let batches = pool.batches(stream::iter(0..2), 4, SECOND);
        assert_eq!(
            pool.map_stream(batches).try_collect::<Vec<_>>().await,
            Ok(vec![vec![0, 1]])
        );
        // Nor does one wait longer than it may for its source.
        let (feed, source) = async_channel::unbounded();
        let mut map = pool.map_stream(pool.batches(source, 4, SECOND));
        feed.try_send(7).unwrap();
        assert_eq!(poll_once(pin!(map.next())), None);
        env.clock.advance(SECOND);
        assert_eq!(map.next().await.map(|c| c.result), Some(Ok(vec![7])));
        for n in 0..5 {
            feed.try_send(n).unwrap();
        }
        drop(feed);
        let mut rest = map.map(|c| c.result.unwrap()).collect::<Vec<_>>().await;
        rest.sort_unstable();
        assert_eq!(rest, [vec![0, 1, 2, 3], vec![4]]);
        pool.drain().await;
        assert_eq!(env.clock.sleeping(), 0);
        assert_settled(&pool);
    });
}

#[test]
fn a_group_that_is_cancelled_does_not_touch_its_pool_and_a_closed_pool_closes_its_groups() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let pool = gated_pool(&env, env.at_once(2), &gate);
        let outside = pool.try_submit(0).unwrap();
        gate.arrived(1).await;
        let (first, second) = (pool.group(), pool.group());
        for n in 1..4 {
            first.try_submit(n).unwrap();
        }
        gate.arrived(1).await;
        second.try_submit(9).unwrap();
        first.cancel();
        assert_eq!(first.try_submit(4), Err(SubmitError::Closed(4)));
        let cancelled = first
            .join()
            .await
            .into_iter()
            .map(|c| (c.attempts, c.result))
            .collect::<Vec<_>>();
        let told = || Err(JobError::Cancelled(CancelReason::Stream));
        assert_eq!(cancelled, [(1, told()), (0, told()), (0, told())]);
        gate.arrived(1).await;
        second.try_submit(10).unwrap();
        pool.close();
        assert_eq!(second.try_submit(11), Err(SubmitError::Closed(11)));
        gate.open(3);
        assert_eq!(outside.await, Ok(0));
        assert_eq!(
            second
                .join()
                .await
                .into_iter()
                .map(|c| c.result)
                .collect::<Vec<_>>(),
            [Ok(9), Ok(10)]
        );
        pool.drain().await;
        let stats = assert_settled(&pool);
        assert_eq!((stats.succeeded, stats.cancelled), (3, 3));
    });
}

#[test]
fn dropping_the_last_handle_closes_the_pool_and_what_was_accepted_is_done() {
    everywhere(|env| async move {
        let (gate, (ended, end)) = (Gate::new(), async_channel::bounded::<()>(1));
        let inside = gate.clone();
        let pool = env.in_order().spawn_on(&env, move |n: u32| {
            let (gate, _until_the_workers_end) = (inside.clone(), &ended);
            async move {
                gate.pass().await;
                Ok::<_, ()>(n)
            }
        });
        let clone = pool.clone();
        let handles = [pool.try_submit(0).unwrap(), pool.try_submit(1).unwrap()];
        drop(pool);
        assert!(!clone.is_closed());
        drop(clone);
        gate.open(2);
        for (n, handle) in (0..).zip(handles) {
            assert_eq!(handle.await, Ok(n));
        }
        assert!(end.recv().await.is_err());
    });
}

#[test]
fn running_jobs_may_add_to_a_closed_pool_and_not_to_a_sealed_one() {
    everywhere(|env| async move {
        for is_sealed in [false, true] {
            let gate = Gate::new();
            let inside = gate.clone();
            let (pool, workers) = env.in_order().build_with_submitter(
                move |n: u32, jobs: Submitter<u32, u32, u32>| {
                    let gate = inside.clone();
                    async move {
                        gate.pass().await;
                        if n == 0 {
                            return Ok(0);
                        }
                        jobs.add(n - 1).map(|()| n).map_err(SubmitError::into_input)
                    }
                },
            );
            workers.spawn_on(&env);
            let handle = pool.try_submit(3).unwrap();
            gate.arrived(1).await;
            if is_sealed {
                pool.seal();
            } else {
                pool.close();
            }
            gate.open(4);
            assert_eq!(
                handle.await,
                if is_sealed {
                    Err(JobError::Failed(2))
                } else {
                    Ok(3)
                }
            );
            pool.drain().await;
            assert_eq!(
                assert_settled(&pool).accepted,
                if is_sealed { 1 } else { 4 }
            );
        }
    });
}

#[test]
fn waiting_for_ones_own_pool_to_be_idle_is_a_panic_and_not_a_hang() {
    everywhere(|env| async move {
        let own = OwnPool::<u32, (), ()>::new();
        let inside = own.reach();
        let pool = env.at_once(2).spawn_on(&env, move |_: u32| {
            let pool = inside.get();
            async move {
                if let Some(pool) = pool {
                    pool.drain().await;
                }
                Ok(())
            }
        });
        own.set(&pool);
        let Err(JobError::Panicked(message)) = pool.submit(1).await.unwrap().await else {
            panic!("it waited")
        };
        assert_eq!(
            message.as_str(),
            "drain must not be awaited inside a job of the same pool, got job 0"
        );
        pool.drain().await;
        assert_settled(&pool);
    });
}

#[test]
fn an_abort_that_finds_an_aborted_pool_idle_returns_the_inputs() {
    everywhere(|env| async move {
        let returned = Arc::new(Mutex::new(Vec::new()));
        let inputs = Arc::clone(&returned);
        let (pool, workers) = env
            .in_order()
            .build(|_: u32| future::pending::<Result<(), ()>>());
        let own = pool.clone();
        pool.try_submit(5).unwrap().detach();
        let mut map = pool.map([6]);
        assert_eq!(poll_once(pin!(map.next())), None);
        // No worker is polled; the waker is called at the moment at which the pool is idle.
        let waker = on_wake(move || {
            let report = poll_once(pin!(own.abort())).expect("the pool is idle");
            *inputs.lock().unwrap() = report.unstarted.into_iter().map(|job| job.input).collect();
        });
        let mut idle = pin!(pool.wait_idle());
        assert!(
            idle.as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        assert_eq!(words(&pool.abort().await), (vec![], vec![]));
        assert_eq!(*returned.lock().unwrap(), [5, 6]);
        assert_settled(&pool);
        drop(workers);
    });
}

/// The waker of the running job aborts the pool: the map is cancelled, and its queued jobs have not
/// been swept yet.
#[test]
fn an_abort_does_not_hand_back_inputs_of_a_map_that_was_cancelled_before() {
    in_both_ways(|slots| {
        let (pool, workers) = slots
            .one_by_one(Pool::builder())
            .timer(ManualTimer::new())
            .build(|_: u32| future::pending::<Result<(), ()>>());
        let mut worker = Box::pin(workers.into_iter().next().unwrap().run());
        let mut map = pool.map(0..3);
        assert!(poll_once(pin!(map.next())).is_none());
        let own = pool.clone();
        let aborts = on_wake(move || drop(poll_once(pin!(own.abort()))));
        assert!(
            worker
                .as_mut()
                .poll(&mut Context::from_waker(&aborts))
                .is_pending()
        );
        map.cancel();
        assert!(pool.is_closed());
        let report = future::block_on(future::zip(worker, pool.abort())).1;
        assert_eq!(report.unstarted, []);
        let mut results: Vec<_> =
            future::block_on(map.map(|completion| completion.result).collect());
        results.dedup();
        assert_eq!(results, [Err(JobError::Cancelled(CancelReason::Stream))]);
    });
}

/// An observer gets `Finished` after the job was counted as ended and before its outcome is
/// delivered.
#[test]
fn a_pool_is_idle_only_when_each_outcome_is_with_its_handle_map_or_group() {
    in_both_ways(|slots| {
        let looks = Arc::new(Mutex::new(Vec::new()));
        let pool_of_the_observer = OwnPool::<u32, u32, ()>::new();
        let (seen, own) = (Arc::clone(&looks), pool_of_the_observer.reach());
        let observer = move |event: &Event| {
            if let (Event::Finished { .. }, Some(pool)) = (event, own.get()) {
                seen.lock()
                    .unwrap()
                    .push(poll_once(pin!(pool.wait_idle())).is_some());
            }
        };
        let builder = slots
            .at_once(Pool::builder(), 2)
            .timer(ManualTimer::new())
            .observe(observer);
        let (pool, workers) = builder.build(|n: u32| async move { Ok::<_, ()>(n) });
        pool_of_the_observer.set(&pool);
        let mut workers: Vec<_> = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()))
            .collect();
        let mut go_on = || {
            workers
                .iter_mut()
                .for_each(|worker| assert!(poll_once(worker.as_mut()).is_none()));
        };
        let handle = pool.try_submit(0).unwrap();
        go_on();
        assert!(handle.is_finished());
        let mut map = pool.map([1]);
        assert!(poll_once(pin!(map.next())).is_none());
        go_on();
        let cancelled = pool.try_submit(2).unwrap();
        assert_eq!(poll_once(pin!(cancelled.cancel())), Some(None));
        let group = pool.group();
        group.try_submit(3).unwrap();
        group.cancel();
        assert_eq!(*looks.lock().unwrap(), [false; 4]);
        assert!(poll_once(pin!(pool.wait_idle())).is_some());
    });
}

/// A worker keeps a failure back, since the one before is unread, and sends it when it keeps the
/// success after it.
#[test]
fn a_pool_is_idle_only_when_what_its_workers_keep_back_is_with_its_group() {
    in_both_ways(|slots| {
        let builder = slots.at_once(Pool::builder(), 1).timer(ManualTimer::new());
        let (pool, workers) =
            builder.build(|n: u32| async move { if n == 1 { Err(n) } else { Ok(n) } });
        let mut group = pool.group();
        for n in 0..3 {
            group.try_submit(n).unwrap();
        }
        let mut idle = pin!(pool.wait_idle());
        let (counted, count) = std::sync::mpsc::channel();
        let own = pool.clone();
        let waker = on_wake(move || {
            let is_idle = poll_once(pin!(own.wait_idle())).is_some();
            let there = std::iter::from_fn(|| poll_once(pin!(group.next())).flatten()).count();
            counted.send((is_idle, there)).unwrap();
        });
        assert!(
            idle.as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        let mut workers: Vec<_> = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()))
            .collect();
        workers
            .iter_mut()
            .for_each(|worker| assert!(poll_once(worker.as_mut()).is_none()));
        assert_eq!(count.try_recv(), Ok((true, 3)));
    });
}

#[test]
fn a_map_that_waits_for_its_source_ends_when_its_pool_does() {
    type Ending = fn(&Pool<u32, u32, ()>);
    let endings: [Ending; 4] = [
        Pool::close,
        Pool::seal,
        |pool| assert!(poll_once(pin!(pool.drain())).is_some()),
        |pool| drop(poll_once(pin!(pool.abort()))),
    ];
    for ending in endings {
        let (pool, _workers) = Pool::builder()
            .timer(ManualTimer::new())
            .build(|n: u32| async move { Ok::<_, ()>(n) });
        let mut map = pool.map_stream(stream::pending());
        let (woken, tell) = std::sync::mpsc::channel();
        let waker = on_wake(move || woken.send(()).unwrap());
        let mut next = pin!(map.next());
        assert!(
            next.as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        ending(&pool);
        assert_eq!(tell.try_recv(), Ok(()), "the map is not woken");
        assert_eq!(poll_once(next), Some(None));
    }
}

#[test]
fn a_map_that_waits_for_its_source_ends_when_the_last_worker_is_gone() {
    let (pool, workers) = Pool::builder()
        .timer(ManualTimer::new())
        .build(|n: u32| async move { Ok::<_, ()>(n) });
    let mut map = pool.map_stream(stream::pending());
    let (woken, tell) = std::sync::mpsc::channel();
    let waker = on_wake(move || woken.send(()).unwrap());
    let mut next = pin!(map.next());
    assert!(
        next.as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    drop(workers);
    assert_eq!(tell.try_recv(), Ok(()), "the map is not woken");
    assert_eq!(poll_once(next), Some(None));
}

// ---- races ----

#[test]
fn a_job_that_is_submitted_while_the_last_worker_leaves_is_abandoned() {
    // On one thread: the worker leaves between the acceptance of a job and its way into the
    // schedule, when its key is asked for.
    let last: Arc<Mutex<Option<Box<dyn Any + Send>>>> = Arc::default();
    let leaving = Arc::clone(&last);
    let key_by = move |n: &u32| {
        drop(leaving.lock().unwrap().take());
        *n
    };
    let pool = || {
        let builder = Pool::builder()
            .workers(1)
            .key_by(key_by.clone())
            .timer(ManualTimer::new());
        let (pool, workers) = builder.build(|n: u32| async move { Ok::<_, ()>(n) });
        *last.lock().unwrap() = Some(Box::new(workers));
        pool
    };
    let alone = pool();
    let handle = alone.try_submit(0).unwrap();
    assert_eq!(poll_once(pin!(handle)), Some(Err(JobError::Abandoned)));
    assert_settled(&alone);
    let mapped = pool();
    let mut map = mapped.map(0..2);
    for n in 0..2 {
        let completion = poll_once(pin!(map.next())).flatten().unwrap();
        assert_eq!(
            (completion.index, completion.input, completion.result),
            (n, Some(n as u32), Err(JobError::Abandoned))
        );
    }
    assert_eq!(
        poll_once(pin!(map.next())).map(|end| end.is_none()),
        Some(true)
    );
    assert_settled(&mapped);
}

#[test]
fn submitters_that_race_with_a_close_have_each_input_accepted_or_back() {
    for round in 0..30 {
        let slots = Slots::BOTH[round / 2 % 2];
        let builder = slots
            .at_once(Pool::builder(), 2)
            .queue_capacity(8)
            .timer(ManualTimer::new());
        // With a schedule every other time.
        let builder = if round % 2 == 0 {
            builder
        } else {
            builder.aging(SECOND)
        };
        let (pool, workers) = builder.build(|n: u64| async move { Ok::<_, ()>(n) });
        let (accepted, returned, done) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        std::thread::scope(|scope| {
            for worker in workers {
                scope.spawn(|| future::block_on(worker.run()));
            }
            for submitter in 0..3 {
                let (pool, accepted, returned, done) = (&pool, &accepted, &returned, &done);
                scope.spawn(move || {
                    for n in 0..50 {
                        let submitted = if submitter == 0 {
                            pool.try_submit(n)
                        } else {
                            future::block_on(pool.submit(n))
                        };
                        match submitted {
                            Ok(handle) => {
                                accepted.fetch_add(1, Ordering::SeqCst);
                                assert_eq!(future::block_on(handle), Ok(n));
                                done.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(refused) => {
                                assert_eq!(refused.into_input(), n);
                                returned.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    }
                });
            }
            let (pool, accepted) = (&pool, &accepted);
            scope.spawn(move || {
                while accepted.load(Ordering::SeqCst) < round {
                    std::thread::yield_now();
                }
                pool.close();
            });
        });
        let accepted = accepted.load(Ordering::SeqCst);
        assert_eq!(accepted + returned.load(Ordering::SeqCst), 150);
        assert_eq!(
            (done.load(Ordering::SeqCst), assert_settled(&pool).accepted),
            (accepted, accepted as u64)
        );
    }
}

#[test]
fn an_aborted_drain_does_not_wait_for_workers_that_are_not_polled() {
    // The abort comes between the acceptance of a job and its push to the queue.
    type Drain = Pin<Box<dyn Future<Output = Report<u32>> + Send>>;
    let own = OwnPool::<u32, u32, ()>::new();
    let place: Arc<Mutex<Option<Drain>>> = Arc::default();
    let (pool_of_observer, drain) = (own.reach(), Arc::clone(&place));
    let (pool, workers) = Pool::builder()
        .workers(1)
        .observe(move |event: &Event| {
            if let (Event::Accepted { .. }, Some(pool)) = (event, pool_of_observer.get()) {
                let pool = pool.clone();
                let mut future: Drain =
                    Box::pin(async move { pool.drain_within(Duration::ZERO).await });
                assert!(poll_once(pin!(&mut future)).is_none());
                *drain.lock().unwrap() = Some(future);
            }
        })
        .timer(ManualTimer::new())
        .build(|n: u32| async move { Ok::<_, ()>(n) });
    own.set(&pool);
    let mut handle = pool.try_submit(7).unwrap();
    let mut drain = place.lock().unwrap().take().unwrap();
    let report =
        poll_once(pin!(&mut drain)).expect("a drain of an aborted pool needs no poll of a worker");
    assert_eq!(
        report
            .unstarted
            .iter()
            .map(|unstarted| unstarted.input)
            .collect::<Vec<_>>(),
        [7]
    );
    assert_eq!(
        poll_once(Pin::new(&mut handle)),
        Some(Err(JobError::Cancelled(CancelReason::Aborted)))
    );
    drop(workers);
}

/// A worker keeps a success back, and its next job computes. Meanwhile the grace ends while a map
/// is polling its source, which then has nothing.
#[test]
fn a_drain_within_its_grace_does_not_wait_for_the_delivery_of_what_has_run() {
    in_both_ways(|slots| {
        let own = OwnPool::<u32, u32, ()>::new();
        let inside = own.reach();
        let (tell, told) = std::sync::mpsc::channel();
        let handler = move |n: u32| {
            if n == 2 {
                let (pool, tell) = (inside.pool(), tell.clone());
                // A thread of its own, since a job of the pool may not wait for its end.
                let outside = std::thread::spawn(move || {
                    let drainer = pool.clone();
                    let mut drain =
                        Box::pin(async move { drainer.drain_within(Duration::ZERO).await });
                    let (woken, wakes) = std::sync::mpsc::channel();
                    let waker = on_wake(move || woken.send(()).unwrap());
                    let mut is_pending = false;
                    let source = stream::poll_fn(|_| {
                        let cx = &mut Context::from_waker(&waker);
                        is_pending = drain.as_mut().poll(cx).is_pending();
                        Poll::<Option<u32>>::Pending
                    });
                    let mut map = pool.map_stream(source);
                    let _ = poll_once(pin!(map.next()));
                    drop(map);
                    let is_woken = wakes.try_recv().is_ok();
                    let is_over = poll_once(drain.as_mut()).is_some();
                    tell.send((is_pending, is_woken, is_over)).unwrap();
                });
                outside.join().unwrap();
            }
            async move { Ok::<_, ()>(n) }
        };
        let builder = slots.at_once(Pool::builder(), 1).timer(ManualTimer::new());
        let (pool, workers) = builder.build(handler);
        own.set(&pool);
        let mut map = pool.map(0..3);
        assert!(poll_once(pin!(map.next())).is_none());
        let mut workers: Vec<_> = (workers.into_iter())
            .map(|worker| Box::pin(worker.run()))
            .collect();
        for worker in &mut workers {
            let _ = poll_once(worker.as_mut());
        }
        assert_eq!(told.try_recv(), Ok((true, true, true)));
    });
}
