//! Jobs that are given up: by their handle, by their stream, by a time limit. What runs is dropped,
//! what waits never starts, and nothing is left behind.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Context;

use brigade::{
    Builder, CancelReason, End, Event, JobError, ManualTimer, OnError, Pool, Retry, SubmitError,
    Submitter, TimeLimit,
};
use futures_lite::{StreamExt, future};

use crate::harness::{
    DropToken, Drops, Env, Gate, OwnPool, SECOND, Wakes, assert_settled, everywhere,
    everywhere_once, millis, poll_once,
};

/// A pool whose jobs wait at the gate. Each future holds a token of its own besides that of its
/// input, and yields one.
fn counted_pool(
    env: &Env,
    builder: Builder<DropToken, ()>,
    gate: &Gate,
    drops: &Drops,
) -> Pool<DropToken, DropToken, ()> {
    let (gate, drops) = (gate.clone(), drops.clone());
    builder.spawn_on(env, move |input: DropToken| {
        let (gate, held, value) = (gate.clone(), drops.token(), drops.token());
        async move {
            let _held = (input, held);
            gate.pass().await;
            Ok(value)
        }
    })
}

#[test]
fn a_running_and_a_queued_job_are_cancelled_together_and_the_next_one_runs() {
    everywhere(|env| async move {
        let (gate, drops) = (Gate::new(), Drops::default());
        let pool = counted_pool(&env, env.one_by_one(), &gate, &drops);
        let running = pool.try_submit(drops.token()).unwrap();
        gate.arrived(1).await;
        let queued = pool.try_submit(drops.token()).unwrap();
        let next = pool.try_submit(drops.token()).unwrap();
        let (first, second) = future::zip(queued.cancel(), running.cancel()).await;
        assert!(first.is_none() && second.is_none());
        // The future and the input are gone by now; the queued one has never had a future.
        gate.arrived(1).await;
        let stats = pool.stats();
        assert_eq!((stats.running, stats.queued, stats.cancelled), (1, 0, 2));
        assert_eq!(drops.counts(), (3 + 2 * 2, 3 + 1));
        gate.open(1);
        assert!(next.await.is_ok());
        assert_eq!(drops.counts(), (7, 7));
        assert_settled(&pool);
    });
}

#[test]
fn what_is_cancelled_before_it_starts_never_runs() {
    everywhere(|env| async move {
        let (gate, ran) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
        let (inside, count) = (gate.clone(), Arc::clone(&ran));
        let pool = env.one_by_one().spawn_on(&env, move |n: u32| {
            count.fetch_add(1, Ordering::SeqCst);
            let gate = inside.clone();
            async move {
                gate.pass().await;
                Ok::<_, ()>(n)
            }
        });
        let busy = pool.try_submit(0).unwrap();
        gate.arrived(1).await;
        drop(pool.try_submit(1).unwrap());
        let group = pool.group();
        group.try_submit(2).unwrap();
        group.cancel();
        assert_eq!(group.try_submit(3), Err(SubmitError::Closed(3)));
        let mut map = pool.map(4..6).window(2);
        assert_eq!(poll_once(pin!(map.next())), None);
        map.cancel();
        // All have their outcomes while the only worker is still busy.
        let inputs = |completions: Vec<brigade::Completion<u32, u32, ()>>| {
            completions
                .into_iter()
                .map(|c| (c.attempts, c.input, c.result))
                .collect::<Vec<_>>()
        };
        let cancelled = |n| (0, Some(n), Err(JobError::Cancelled(CancelReason::Stream)));
        assert_eq!(inputs((&mut map).collect().await), [4, 5].map(cancelled));
        assert_eq!(inputs(group.join().await), [2].map(cancelled));
        let mut never_polled = pool.map(0..10);
        never_polled.cancel();
        assert_eq!(never_polled.next().await, None);
        assert_eq!(
            (map.summary().end, never_polled.summary().end),
            (End::Cancelled, End::Cancelled)
        );
        assert_eq!((pool.stats().running, pool.stats().queued), (1, 0));
        gate.open(1);
        assert_eq!(busy.await, Ok(0));
        pool.drain().await;
        assert_eq!(ran.load(Ordering::SeqCst), 1);
        assert_settled(&pool);
    });
}

#[test]
fn a_cancelled_job_is_not_revived_when_its_turn_comes() {
    everywhere(|env| async move {
        let (gate, drops) = (Gate::new(), Drops::default());
        let pool = counted_pool(&env, env.one_by_one(), &gate, &drops);
        let first = pool.try_submit(drops.token()).unwrap();
        gate.arrived(1).await;
        let second = pool.try_submit(drops.token()).unwrap();
        assert!(second.cancel().await.is_none());
        gate.open(2);
        assert!(first.await.is_ok());
        pool.wait_idle().await;
        // Two inputs, and a future and a value of the first only.
        assert_eq!(drops.counts(), (4, 4));
        let stats = assert_settled(&pool);
        assert_eq!(
            (stats.accepted, stats.succeeded, stats.cancelled),
            (2, 1, 1)
        );
    });
}

/// Jobs sleep for as many milliseconds as their input says.
fn sleeping_pool(env: &Env, builder: Builder<u64, ()>) -> Pool<u64, u64, ()> {
    let clock = env.clock.clone();
    builder.spawn_on(env, move |n: u64| {
        let clock = clock.clone();
        async move {
            clock.sleep(millis(n)).await;
            Ok(n)
        }
    })
}

#[test]
fn attempts_that_take_too_long_time_out_and_others_do_not() {
    everywhere(|env| async move {
        let timed_out = || Err(JobError::TimedOut(TimeLimit::Attempt));
        for is_ordered in [true, false] {
            let pool = sleeping_pool(&env, env.at_once(4).attempt_timeout(millis(50)));
            let mut map = pool.map([100, 1, 100, 1]);
            if is_ordered {
                map = map.ordered();
            }
            assert_eq!(poll_once(pin!(map.next())), None);
            // A handler's sleep and a limit for each.
            env.clock.sleepers(8).await;
            let mut seen = Vec::new();
            env.clock.advance(millis(1));
            if !is_ordered {
                seen.push(map.next().await.unwrap().result);
                seen.push(map.next().await.unwrap().result);
            }
            while pool.stats().succeeded < 2 {
                future::yield_now().await;
            }
            env.clock.advance(millis(49));
            while let Some(completion) = map.next().await {
                seen.push(completion.result);
            }
            let expected = if is_ordered {
                [timed_out(), Ok(1), timed_out(), Ok(1)]
            } else {
                [Ok(1), Ok(1), timed_out(), timed_out()]
            };
            assert_eq!(seen, expected);
            let summary = map.summary();
            assert_eq!(
                (summary.succeeded, summary.timed_out, summary.end),
                (2, 2, End::Complete)
            );
            assert_eq!(env.clock.sleeping(), 0);
            assert_settled(&pool);
        }
    });
}

#[test]
fn an_attempt_timeout_counts_from_the_start_of_the_attempt_and_the_nearest_setting_counts() {
    everywhere(|env| async move {
        let pool = sleeping_pool(&env, env.one_by_one().attempt_timeout(millis(50)));
        let timed_out = Err(JobError::TimedOut(TimeLimit::Attempt));
        // Waits for 40 before it runs for 40, which is less than its limit.
        let handles = [pool.try_submit(40).unwrap(), pool.try_submit(40).unwrap()];
        for handle in handles {
            env.clock.sleepers(2).await;
            env.clock.advance(millis(40));
            assert_eq!(handle.await, Ok(40));
        }
        let own = pool
            .job(40)
            .attempt_timeout(millis(30))
            .try_submit()
            .unwrap();
        env.clock.sleepers(2).await;
        env.clock.advance(millis(30));
        assert_eq!(own.await, timed_out);
        // A job that runs keeps its limit; one that starts later has the new one, unless it has its
        // own.
        let running = pool.try_submit(1000).unwrap();
        env.clock.sleepers(2).await;
        let later = pool.try_submit(1000).unwrap();
        let with_own = pool
            .job(1000)
            .attempt_timeout(millis(7))
            .try_submit()
            .unwrap();
        pool.set_attempt_timeout(Some(millis(5)));
        for (handle, limit) in [(running, 50), (later, 5), (with_own, 7)] {
            env.clock.sleepers(2).await;
            env.clock.advance(millis(limit - 1));
            assert!(!handle.is_finished());
            env.clock.advance(millis(1));
            assert_eq!(handle.await, timed_out);
        }
        pool.set_attempt_timeout(None);
        let free = pool.try_submit(1000).unwrap();
        env.clock.sleepers(1).await;
        env.clock.advance(millis(1000));
        assert_eq!(free.await, Ok(1000));
        assert_eq!(env.clock.sleeping(), 0);
        assert_settled(&pool);
    });
}

#[test]
fn a_job_timeout_counts_the_wait_and_a_late_job_never_starts() {
    everywhere(|env| async move {
        let pool = sleeping_pool(&env, env.one_by_one().job_timeout(millis(50)));
        let handles = [
            pool.try_submit(40).unwrap(),
            pool.try_submit(40).unwrap(),
            pool.try_submit(40).unwrap(),
        ];
        let own = pool.job(30).timeout(millis(1000)).try_submit().unwrap();
        let [first, second, third] = handles;
        env.clock.sleepers(2).await;
        env.clock.advance(millis(40));
        assert_eq!(first.await, Ok(40));
        env.clock.sleepers(2).await;
        env.clock.advance(millis(10));
        assert_eq!(second.await, Err(JobError::TimedOut(TimeLimit::Job)));
        assert_eq!(third.await, Err(JobError::TimedOut(TimeLimit::Job)));
        env.clock.sleepers(2).await;
        env.clock.advance(millis(30));
        assert_eq!(own.await, Ok(30));
        assert_eq!(env.clock.sleeping(), 0);
        assert_eq!(assert_settled(&pool).timed_out, 2);
    });
}

#[test]
fn a_result_that_is_there_at_the_very_moment_of_the_limit_wins() {
    everywhere(|env| async move {
        let pool = sleeping_pool(&env, env.in_order().attempt_timeout(millis(50)));
        let handle = pool.try_submit(50).unwrap();
        env.clock.sleepers(2).await;
        env.clock.advance(millis(50));
        assert_eq!(handle.await, Ok(50));
        assert_settled(&pool);
    });
}

#[test]
fn an_attempt_interrupted_before_its_first_poll_counts_and_leaves_the_input_only_if_inputs_are_kept()
 {
    everywhere(|env| async move {
        for keeps_inputs in [false, true] {
            let (own, calls) = (OwnPool::new(), Arc::new(AtomicUsize::new(0)));
            let (reached, counted) = (own.reach(), Arc::clone(&calls));
            let pool = env
                .in_order()
                .observe(move |event: &Event| {
                    if let (Event::Started { .. }, Some(pool)) = (event, reached.get()) {
                        poll_once(pin!(pool.abort()));
                    }
                })
                .spawn_on(&env, move |n: u32| {
                    counted.fetch_add(1, Ordering::SeqCst);
                    async move { Ok::<_, ()>(n) }
                });
            own.set(&pool);
            let mut map = pool.map([7]);
            if keeps_inputs {
                map = map.keep_inputs();
            }
            let seen = map.next().await.map(|c| (c.attempts, c.input, c.result));
            let aborted = Err(JobError::Cancelled(CancelReason::Aborted));
            assert_eq!(seen, Some((1, keeps_inputs.then_some(7), aborted)));
            assert_eq!(calls.load(Ordering::SeqCst), 0);
            let report = pool.abort().await;
            assert_eq!((report.unstarted.len(), report.interrupted.len()), (0, 1));
            assert_settled(&pool);
        }
    });
}

#[test]
fn the_first_failure_of_a_stopping_map_cancels_what_runs_and_what_waits() {
    everywhere(|env| async move {
        let (gate, drops) = (Gate::new(), Drops::default());
        let (inside, counted) = (gate.clone(), drops.clone());
        let pool = env.at_once(2).spawn_on(&env, move |n: u32| {
            let (gate, token) = (inside.clone(), counted.token());
            async move {
                let _token = token;
                gate.pass().await;
                if n == 0 {
                    return Err("zero");
                }
                future::pending::<Result<(), _>>().await
            }
        });
        let mut map = pool.map(0..3).on_error(OnError::Stop).ordered();
        assert_eq!(poll_once(pin!(map.next())), None);
        gate.arrived(2).await;
        gate.open(2);
        let results = (&mut map)
            .map(|c| (c.attempts, c.input, c.result))
            .collect::<Vec<_>>()
            .await;
        let stopped = || Err(JobError::Cancelled(CancelReason::Stopped));
        let expected = [
            (1, None, Err(JobError::Failed("zero"))),
            (1, None, stopped()),
            (0, Some(2), stopped()),
        ];
        assert_eq!(results, expected);
        let summary = map.summary();
        assert_eq!(
            (
                summary.accepted,
                summary.succeeded,
                summary.failed,
                summary.cancelled
            ),
            (3, 0, 1, 2)
        );
        assert_eq!((summary.unread, summary.end), (0, End::Stopped));
        assert_eq!(drops.counts(), (2, 2));
        assert_settled(&pool);
    });
}

#[test]
fn a_map_stops_after_as_many_failures_as_it_was_told() {
    everywhere(|env| async move {
        for (policy, failures) in [
            (OnError::StopAfter(0), 1),
            (OnError::StopAfter(1), 1),
            (OnError::StopAfter(3), 3),
        ] {
            let pool = env
                .in_order()
                .spawn_on(&env, |n: u32| async move { Err::<(), _>(n) });
            let mut map = pool.map(0..10).on_error(policy).ordered();
            let results = (&mut map).map(|c| c.result).collect::<Vec<_>>().await;
            let failed: Vec<_> = results
                .iter()
                .take_while(|result| !matches!(result, Err(JobError::Cancelled(_))))
                .collect();
            assert_eq!(
                failed,
                (0..failures)
                    .map(|n| Err(JobError::Failed(n)))
                    .collect::<Vec<_>>()
                    .iter()
                    .collect::<Vec<_>>()
            );
            assert_eq!(
                (map.summary().failed, map.summary().end),
                (failures as usize, End::Stopped)
            );
            assert_settled(&pool);
        }
    });
}

/// Polls with a waker of `task`; the reference count of `task` is that of its wakers, plus one.
fn poll_with<F: Future>(task: &Arc<Wakes>, future: Pin<&mut F>) -> bool {
    future
        .poll(&mut Context::from_waker(&task.waker()))
        .is_ready()
}

#[test]
fn no_waker_and_no_timer_is_left_behind() {
    everywhere(|env| async move {
        let task = Wakes::new();
        let gate = Gate::new();
        let inside = gate.clone();
        let pool = env
            .one_by_one()
            .queue_capacity(2)
            .attempt_timeout(millis(50))
            .spawn_on(&env, move |n: u32| {
                let gate = inside.clone();
                async move {
                    gate.pass().await;
                    Ok::<_, ()>(n)
                }
            });
        for n in 0..1000 {
            let mut running = pool.try_submit(n).unwrap();
            gate.arrived(1).await;
            let mut queued = pool.try_submit(n).unwrap();
            let mut other = pool.try_submit(n).unwrap();
            assert!(!poll_with(&task, Pin::new(&mut running)));
            assert!(!poll_with(&task, Pin::new(&mut queued)));
            assert!(!poll_with(&task, Pin::new(&mut other)));
            {
                let mut submit = pin!(pool.submit(n));
                assert!(!poll_with(&task, submit.as_mut()));
                let mut idle = pin!(pool.wait_idle());
                assert!(!poll_with(&task, idle.as_mut()));
                let mut map = pool.map([n]);
                assert!(!poll_with(&task, pin!(map.next())));
            }
            drop(queued);
            assert_eq!(other.cancel().await, None);
            if n % 2 == 0 {
                gate.open(1);
                assert_eq!(running.await, Ok(n));
            } else {
                assert_eq!(running.cancel().await, None);
            }
            assert_eq!(pool.stats().queued, 0);
        }
        pool.drain().await;
        assert_eq!(Arc::strong_count(&task), 1);
        assert_eq!(env.clock.sleeping(), 0);
        let stats = assert_settled(&pool);
        // The map has its one job in the queue though that is full.
        assert_eq!(
            (stats.accepted, stats.succeeded, stats.cancelled),
            (4000, 500, 3500)
        );
    });
}

#[test]
fn dropping_a_handle_cancels_its_job_and_detaching_lets_it_go_on() {
    everywhere(|env| async move {
        let (gate, drops) = (Gate::new(), Drops::default());
        let pool = counted_pool(&env, env.at_once(2), &gate, &drops);
        let dropped = pool.try_submit(drops.token()).unwrap();
        let detached = pool.try_submit(drops.token()).unwrap();
        gate.arrived(2).await;
        drop(dropped);
        detached.detach();
        while pool.stats().running > 1 {
            future::yield_now().await;
        }
        gate.open(1);
        pool.wait_idle().await;
        assert_eq!(drops.counts(), (6, 6));
        let stats = assert_settled(&pool);
        assert_eq!(
            (stats.accepted, stats.succeeded, stats.cancelled),
            (2, 1, 1)
        );
    });
}

#[test]
fn a_caller_that_is_dropped_with_its_handle_cancels_the_job() {
    everywhere(|env| async move {
        let (gate, drops) = (Gate::new(), Drops::default());
        let pool = counted_pool(&env, env.in_order(), &gate, &drops);
        {
            let mut caller = pin!(async { pool.submit(drops.token()).await.unwrap().await });
            assert!(poll_once(caller.as_mut()).is_none());
            gate.arrived(1).await;
        }
        pool.wait_idle().await;
        assert_eq!(drops.counts(), (3, 3));
        assert_eq!(assert_settled(&pool).cancelled, 1);
    });
}

#[test]
fn a_cancellation_that_comes_after_the_end_yields_the_result() {
    everywhere(|env| async move {
        let (gate, drops) = (Gate::new(), Drops::default());
        let pool = counted_pool(&env, env.in_order(), &gate, &drops);
        gate.open(1);
        let mut handle = pool.try_submit(drops.token()).unwrap();
        while !handle.is_finished() {
            future::yield_now().await;
        }
        let value = handle.cancel().await;
        assert!(matches!(value, Some(Ok(_))));
        drop(value);
        // Awaited by reference, given up, and awaited again: nothing is lost.
        handle = pool.try_submit(drops.token()).unwrap();
        assert!(poll_once(pin!(&mut handle)).is_none());
        gate.open(1);
        assert!((&mut handle).await.is_ok());
        assert!(poll_once(pin!(&mut handle)).is_none());
        drop(handle);
        assert_eq!(drops.counts(), (6, 6));
        assert_eq!(assert_settled(&pool).succeeded, 2);
    });
}

#[test]
fn a_cancellation_that_is_not_awaited_still_completes() {
    everywhere(|env| async move {
        let (gate, drops) = (Gate::new(), Drops::default());
        let pool = counted_pool(&env, env.in_order(), &gate, &drops);
        let handle = pool.try_submit(drops.token()).unwrap();
        gate.arrived(1).await;
        drop(handle.cancel());
        pool.wait_idle().await;
        assert_eq!(drops.counts(), (3, 3));
        assert_eq!(assert_settled(&pool).cancelled, 1);
    });
}

#[test]
fn a_job_may_cancel_itself_and_its_neighbours() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let inside = gate.clone();
        let place: Arc<Mutex<Vec<brigade::JobHandle<u32, (), ()>>>> = Arc::default();
        let handles = Arc::clone(&place);
        let (pool, workers) =
            env.one_by_one()
                .build_with_submitter(move |n: u32, _: Submitter<u32, (), ()>| {
                    let (gate, handles) = (inside.clone(), Arc::clone(&handles));
                    async move {
                        gate.pass().await;
                        if n == 0 {
                            let taken = std::mem::take(&mut *handles.lock().unwrap());
                            drop(taken);
                            future::pending::<()>().await;
                        }
                        Ok(())
                    }
                });
        workers.spawn_on(&env);
        *place.lock().unwrap() = (0..3).map(|n| pool.try_submit(n).unwrap()).collect();
        let last = pool.try_submit(3).unwrap();
        gate.open(2);
        assert_eq!(last.await, Ok(()));
        pool.drain().await;
        let stats = assert_settled(&pool);
        assert_eq!((stats.succeeded, stats.cancelled), (1, 3));
    });
}

#[test]
fn a_cancelled_receive_loses_no_message() {
    // The channels depend on it: a `recv` that is dropped passes its notification on.
    let (sender, receiver) = async_channel::bounded(4);
    let mut seen = Vec::new();
    let (mut sent, mut drops) = (0, 0);
    while seen.len() < 2000 {
        let mut first = Box::pin(receiver.recv());
        let mut second = Box::pin(receiver.recv());
        let polls = (poll_once(first.as_mut()), poll_once(second.as_mut()));
        seen.extend([polls.0, polls.1].into_iter().flatten().map(Result::unwrap));
        for _ in 0..sent % 3 + 1 {
            if sent < 2000 && sender.try_send(sent).is_ok() {
                sent += 1;
            }
        }
        // One of the two was notified, and is dropped before it looks.
        drop(first);
        drops += 1;
        if polls.1.is_none() {
            seen.extend(poll_once(second.as_mut()).map(Result::unwrap));
        }
    }
    assert_eq!(seen, (0..2000).collect::<Vec<_>>());
    assert!(drops > 500);
}

#[test]
fn jobs_left_by_a_stop_have_outcomes_and_the_stream_ends() {
    everywhere(|env| async move {
        let pool =
            env.at_once(2).spawn_on(
                &env,
                |n: u32| async move { if n == 3 { Err(n) } else { Ok(n) } },
            );
        let mut map = pool.map(0..500).on_error(OnError::Stop);
        let mut read = BTreeSet::new();
        while let Some(completion) = map.next().await {
            assert!(read.insert(completion.index));
        }
        let summary = map.summary();
        assert_eq!(
            (summary.accepted, summary.end, summary.failed),
            (read.len(), End::Stopped, 1),
            "{}",
            env.name
        );
        assert_settled(&pool);
    });
}

#[test]
fn a_map_whose_queued_jobs_are_cancelled_lets_the_running_ones_end() {
    everywhere(|env| async move {
        let (gate, drops) = (Gate::new(), Drops::default());
        let pool = counted_pool(&env, env.one_by_one(), &gate, &drops);
        let mut map = pool.map((0..9).map(|_| drops.token())).window(4);
        assert!(future::poll_once(map.next()).await.is_none());
        gate.arrived(1).await;
        map.cancel_queued();
        let stats = pool.stats();
        assert_eq!((stats.running, stats.queued, stats.cancelled), (1, 0, 3));
        // A second call changes nothing.
        map.cancel_queued();
        gate.open(1);
        let mut results: Vec<_> = (&mut map)
            .map(|completion| (completion.index, completion.result.map(drop)))
            .collect()
            .await;
        results.sort_unstable_by_key(|(index, _)| *index);
        let cancelled = Err(JobError::Cancelled(CancelReason::Stream));
        assert_eq!(
            results,
            [
                (0, Ok(())),
                (1, cancelled.clone()),
                (2, cancelled.clone()),
                (3, cancelled)
            ]
        );
        let summary = map.summary();
        assert_eq!(
            (summary.end, summary.succeeded, summary.cancelled),
            (End::Cancelled, 1, 3)
        );
        assert_settled(&pool);
    });
}

#[test]
fn a_map_whose_queued_jobs_are_cancelled_can_still_be_cancelled_or_dropped() {
    everywhere(|env| async move {
        for is_dropped in [false, true] {
            let (gate, drops) = (Gate::new(), Drops::default());
            let pool = counted_pool(&env, env.one_by_one(), &gate, &drops);
            let mut map = pool.map((0..3).map(|_| drops.token()));
            assert!(future::poll_once(map.next()).await.is_none());
            gate.arrived(1).await;
            map.cancel_queued();
            if is_dropped {
                drop(map);
            } else {
                map.cancel();
                assert_eq!(map.count().await, 3);
            }
            pool.wait_idle().await;
            assert_eq!(assert_settled(&pool).cancelled, 3);
        }
    });
}

#[test]
fn a_job_that_waits_for_another_attempt_is_cancelled_with_the_queued_ones() {
    everywhere(|env| async move {
        let builder = env.one_by_one().retry(Retry::fixed(SECOND).max_attempts(3));
        let pool = builder.spawn_on(&env, |_: u32| async { Err::<(), _>("busy") });
        let mut map = pool.map(0..1);
        assert!(future::poll_once(map.next()).await.is_none());
        while pool.stats().delayed == 0 {
            future::yield_now().await;
        }
        map.cancel_queued();
        let completion = map.next().await.unwrap();
        assert_eq!(
            (completion.attempts, completion.result),
            (1, Err(JobError::Cancelled(CancelReason::Stream)))
        );
        assert!(map.next().await.is_none());
        assert_settled(&pool);
    });
}

#[test]
fn a_running_job_that_fails_once_the_queued_ones_are_cancelled_keeps_its_error() {
    everywhere(|env| async move {
        let (gate, retries) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
        let (inner, counted) = (gate.clone(), Arc::clone(&retries));
        let policy = Retry::fixed(SECOND).max_attempts(3).on_retry(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let pool = env
            .one_by_one()
            .retry(policy)
            .spawn_on(&env, move |_: u32| {
                let gate = inner.clone();
                async move {
                    gate.pass().await;
                    Err::<(), _>("busy")
                }
            });
        let mut map = pool.map(0..1);
        assert!(future::poll_once(map.next()).await.is_none());
        gate.arrived(1).await;
        map.cancel_queued();
        gate.open(1);
        let completion = map.next().await.unwrap();
        assert_eq!(
            (completion.attempts, completion.result),
            (1, Err(JobError::Failed("busy")))
        );
        assert_eq!(retries.load(Ordering::SeqCst), 0);
        assert_settled(&pool);
    });
}

#[test]
fn a_failure_that_stops_a_map_lets_the_others_end_once_its_queued_jobs_are_cancelled() {
    everywhere(|env| async move {
        let gates = [Gate::new(), Gate::new()];
        let inner = gates.clone();
        let pool = env.at_once(2).spawn_on(&env, move |n: u32| {
            let gate = inner[n as usize].clone();
            async move {
                gate.pass().await;
                if n == 0 { Err("failed") } else { Ok(n) }
            }
        });
        let mut map = pool.map(0..2).on_error(OnError::Stop);
        assert!(future::poll_once(map.next()).await.is_none());
        for gate in &gates {
            gate.arrived(1).await;
        }
        map.cancel_queued();
        gates[0].open(1);
        let failed = map.next().await.unwrap();
        assert_eq!(
            (failed.index, failed.result),
            (0, Err(JobError::Failed("failed")))
        );
        gates[1].open(1);
        let ended = map.next().await.unwrap();
        assert_eq!((ended.index, ended.result), (1, Ok(1)));
        assert!(map.next().await.is_none());
        assert_settled(&pool);
    });
}

/// A worker takes the job for its second attempt, and finds that the job's time has passed.
#[test]
fn a_job_whose_next_attempt_is_not_made_has_its_input() {
    let clock = ManualTimer::new();
    let (pool, workers) = Pool::builder()
        .workers(1)
        .retry(Retry::fixed(SECOND))
        .job_timeout(2 * SECOND)
        .timer(clock.clone())
        .build(|_: u32| async { Err::<(), _>("busy") });
    let worker = workers.into_iter().next().unwrap();
    let mut worker = pin!(worker.run());
    let mut map = pool.map([7]);
    assert!(poll_once(pin!(map.next())).is_none());
    assert!(poll_once(worker.as_mut()).is_none());
    assert_eq!(pool.stats().delayed, 1);
    pool.pause();
    clock.advance(SECOND);
    // Releases the job, which no worker takes before its time has passed.
    pool.resume();
    clock.advance(SECOND);
    assert!(poll_once(worker.as_mut()).is_none());
    let Some(Some(completion)) = poll_once(pin!(map.next())) else {
        panic!("the job has its outcome")
    };
    assert_eq!(
        (completion.attempts, completion.input, completion.result),
        (1, Some(7), Err(JobError::TimedOut(TimeLimit::Job)))
    );
}

/// Polled, cancelled or dropped, it changes nothing any more.
#[test]
fn a_handle_that_has_yielded_its_result_yields_no_other_and_cancels_nothing() {
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(ManualTimer::new())
        .build(|n: u32| async move { Ok::<_, ()>(n) });
    let mut handle = pool.try_submit(1).unwrap();
    let result = future::block_on(workers.drive(&mut handle));
    assert_eq!(result, Ok(1));
    assert!(handle.is_finished());
    assert_eq!(handle.try_take(), None);
    assert!(!handle.set_priority(1));
    assert!(poll_once(pin!(&mut handle)).is_none());
    assert_eq!(future::block_on(handle.cancel()), None);
    assert_eq!((pool.stats().succeeded, pool.stats().cancelled), (1, 0));
}

/// The job that reads the map occupies one slot, and the job of the map the other: it waits for a
/// third job, which can never start.
#[test]
fn a_running_job_that_waits_for_its_pool_does_not_hang_a_map_whose_queued_jobs_are_cancelled() {
    everywhere_once(|env| async move {
        let slot: Arc<Mutex<Option<Pool<u32, (), ()>>>> = Arc::default();
        let (inner, steps) = (Arc::clone(&slot), Arc::new(AtomicUsize::new(0)));
        let reach = async |steps: &AtomicUsize, step| {
            while steps.load(Ordering::SeqCst) < step {
                future::yield_now().await;
            }
        };
        let pool = env.builder().workers(2).spawn_on(&env, move |n: u32| {
            let pool = inner.lock().unwrap().clone().unwrap();
            let steps = Arc::clone(&steps);
            async move {
                if n == 0 {
                    let mut map = pool.map([3, 1]);
                    assert!(map.next().await.is_some());
                    reach(&steps, 1).await;
                    map.cancel_queued();
                    steps.store(2, Ordering::SeqCst);
                    while map.next().await.is_some() {}
                } else if n == 1 {
                    steps.store(1, Ordering::SeqCst);
                    reach(&steps, 2).await;
                    let handle = pool.try_submit(2).unwrap();
                    let _ = handle.await;
                }
                Ok(())
            }
        });
        *slot.lock().unwrap() = Some(pool.clone());
        let _ = pool.submit(0).await.unwrap().await;
        pool.wait_idle().await;
        assert_settled(&pool);
        *slot.lock().unwrap() = None;
    });
}
