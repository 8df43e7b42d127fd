//! Jobs on their way in: a full queue, a queue that has room again, sources that fail or never end,
//! and jobs that submit.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use brigade::rt::BoxFuture;
use brigade::{
    Builder, CancelReason, End, Event, JobError, JobHandle, Pool, Report, SubmitError, Submitter,
};
use futures_lite::{StreamExt, future};

use crate::harness::{
    Env, Gate, OwnPool, SECOND, assert_adds_up, assert_settled, block_on, everywhere, poll_once,
    yield_now,
};

/// A pool whose jobs wait at the gate and then return their input, and a record of the order in
/// which they started.
fn gated_pool(
    env: &Env,
    builder: Builder<u32, ()>,
    gate: &Gate,
) -> (Pool<u32, u32, ()>, Arc<Mutex<Vec<u32>>>) {
    let started = Arc::new(Mutex::new(Vec::new()));
    let (gate, log) = (gate.clone(), Arc::clone(&started));
    let pool = builder.spawn_on(env, move |n: u32| {
        let gate = gate.clone();
        log.lock().unwrap().push(n);
        async move {
            gate.pass().await;
            Ok(n)
        }
    });
    (pool, started)
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

#[test]
fn a_full_queue_refuses_and_gives_the_input_back() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let (pool, _) = gated_pool(&env, env.at_once(10).queue_capacity(10), &gate);
        let mut handles: Vec<_> = (0..10).map(|n| pool.try_submit(n).unwrap()).collect();
        gate.arrived(10).await;
        handles.extend((10..20).map(|n| pool.try_submit(n).unwrap()));
        assert_eq!(pool.try_submit(20).unwrap_err(), SubmitError::Full(20));
        assert_eq!(pool.try_reserve().unwrap_err(), SubmitError::Full(()));
        let stats = pool.stats();
        assert_eq!((stats.accepted, stats.running, stats.queued), (20, 10, 10));
        assert_adds_up(&stats);
        gate.open(20);
        assert_eq!(
            await_all(handles).await,
            (0..20).map(Ok).collect::<Vec<_>>()
        );
        assert_eq!(assert_settled(&pool).accepted, 20);
    });
}

#[test]
fn a_submission_to_a_full_queue_waits_and_is_not_refused() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let (pool, started) = gated_pool(&env, env.one_by_one().queue_capacity(10), &gate);
        let mut handles = vec![pool.submit(0).await.unwrap()];
        gate.arrived(1).await;
        for n in 1..11 {
            handles.push(
                poll_once(pin!(pool.submit(n)))
                    .expect("there is room")
                    .unwrap(),
            );
        }
        {
            let mut waiting = pin!(pool.submit(11));
            assert!(poll_once(waiting.as_mut()).is_none());
            gate.open(50);
            handles.push(waiting.await.unwrap());
        }
        for n in 12..50 {
            handles.push(pool.submit(n).await.unwrap());
        }
        assert_eq!(
            await_all(handles).await,
            (0..50).map(Ok).collect::<Vec<_>>()
        );
        assert_eq!(*started.lock().unwrap(), (0..50).collect::<Vec<_>>());
        assert_settled(&pool);
    });
}

#[test]
fn bursts_far_above_the_capacity_never_stall() {
    everywhere(|env| async move {
        // The long run is on one executor; the others show that they can.
        let bursts = match env.executor {
            "async-executor, one thread" if cfg!(debug_assertions) => 500,
            // More than a million jobs in both ways together, where they take no more than seconds.
            "async-executor, one thread" => 1700,
            "async-executor, two threads" => 50,
            _ => 5,
        };
        let pool = env
            .at_once(100)
            .queue_capacity(5)
            .spawn_on(&env, |n: u32| async move { Ok::<_, ()>(n) });
        for _ in 0..bursts {
            let mut handles = Vec::with_capacity(300);
            for n in 0..300 {
                handles.push(pool.submit(n).await.unwrap());
            }
            for (n, handle) in (0..300).zip(handles) {
                assert_eq!(handle.await, Ok(n));
            }
        }
        assert_eq!(assert_settled(&pool).succeeded, bursts * 300);
    });
}

#[test]
fn an_endless_source_is_pulled_no_further_than_the_window() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let (pool, _) = gated_pool(&env, env.at_once(2).queue_capacity(4), &gate);
        let pulled = AtomicUsize::new(0);
        let mut map = pool.map((0..).inspect(|_| _ = pulled.fetch_add(1, Ordering::SeqCst)));
        assert_eq!(poll_once(pin!(map.next())), None);
        gate.open(3);
        for _ in 0..3 {
            assert!(map.next().await.is_some());
        }
        // Three have passed, two wait at the gate, four in the queue.
        gate.arrived(5).await;
        assert_eq!(poll_once(pin!(map.next())), None);
        assert_eq!(pulled.load(Ordering::SeqCst), 3 + 2 + 4);
        let summary = map.summary();
        assert_eq!(
            (summary.accepted, summary.unread, summary.end),
            (9, 6, End::Unfinished)
        );
        drop(map);
        pool.wait_idle().await;
        assert_eq!(pulled.load(Ordering::SeqCst), 9);
        assert_settled(&pool);
    });
}

#[test]
fn a_source_that_fails_is_pulled_no_more_and_its_error_comes_last_and_once() {
    everywhere(|env| async move {
        for good in [0, 1, 2, 5] {
            let pool = env.at_once(2).spawn_on(&env, |n: usize| async move {
                if n == 1 { Err("job") } else { Ok(n) }
            });
            let pulled = AtomicUsize::new(0);
            let source = (0..10).map(|n| {
                pulled.fetch_add(1, Ordering::SeqCst);
                if n == good { Err("source") } else { Ok(n) }
            });
            let mut map = pool.try_map(source).ordered();
            let mut items = Vec::new();
            while let Some(item) = map.next().await {
                items.push(item.map(|completion| completion.result));
            }
            let mut expected: Vec<_> = (0..good)
                .map(|n| {
                    Ok(if n == 1 {
                        Err(JobError::Failed("job"))
                    } else {
                        Ok(n)
                    })
                })
                .collect();
            expected.push(Err("source"));
            assert_eq!(items, expected);
            assert_eq!(map.next().await, None);
            let summary = map.summary();
            assert_eq!((summary.accepted, summary.end), (good, End::SourceFailed));
            assert_eq!(pulled.load(Ordering::SeqCst), good + 1);
            assert_settled(&pool);
        }
    });
}

#[test]
fn a_job_that_awaits_a_job_of_its_own_pool_is_served_if_a_slot_is_free_and_else_told() {
    everywhere(|env| async move {
        for (slots, expected) in [(1, Err(JobError::WouldDeadlock)), (2, Ok(0))] {
            let (pool, workers) = env.at_once(slots).build_with_submitter(
                |n: u32, jobs: Submitter<u32, Result<u32, JobError<()>>, ()>| async move {
                    if n == 0 {
                        return Ok(Ok(0));
                    }
                    let child = jobs.submit(n - 1).unwrap();
                    Ok(child.await.and_then(|inner| inner))
                },
            );
            workers.spawn_on(&env);
            assert_eq!(pool.submit(1).await.unwrap().await, Ok(expected));
            pool.drain().await;
            let stats = assert_settled(&pool);
            assert_eq!((stats.accepted, stats.succeeded + stats.cancelled), (2, 2));
        }
    });
}

#[test]
fn a_chain_of_waits_longer_than_the_slots_ends_in_an_error_and_not_in_silence() {
    everywhere(|env| async move {
        let (pool, workers) = env.at_once(3).build_with_submitter(
            |n: u32, jobs: Submitter<u32, u32, JobError<()>>| async move {
                if n == 0 {
                    return Ok(0);
                }
                match jobs.submit(n - 1).unwrap().await {
                    Ok(depth) => Ok(depth + 1),
                    Err(JobError::WouldDeadlock) => Err(JobError::WouldDeadlock),
                    Err(JobError::Failed(inner)) => Err(inner),
                    Err(other) => panic!("{other:?}"),
                }
            },
        );
        workers.spawn_on(&env);
        assert_eq!(pool.submit(2).await.unwrap().await, Ok(2));
        assert_eq!(
            pool.submit(3).await.unwrap().await,
            Err(JobError::Failed(JobError::WouldDeadlock))
        );
        // The job with the error may be the first of the chain, while the others are still being
        // cancelled.
        pool.wait_idle().await;
        assert_eq!(pool.submit(2).await.unwrap().await, Ok(2));
        pool.drain().await;
        assert_settled(&pool);
    });
}

#[test]
fn a_map_read_inside_the_only_worker_of_its_pool_is_cancelled_and_says_why() {
    everywhere(|env| async move {
        let own = OwnPool::<u32, Vec<JobError<()>>, ()>::new();
        let inside = own.reach();
        let pool = env.one_by_one().spawn_on(&env, move |n: u32| {
            let pool = inside.get();
            async move {
                let Some(pool) = pool.filter(|_| n == 0) else {
                    return Ok(Vec::new());
                };
                let mut map = pool.map(1..4);
                let mut errors = Vec::new();
                while let Some(completion) = map.next().await {
                    errors.push(completion.result.unwrap_err());
                }
                assert_eq!(map.summary().end, End::WouldDeadlock);
                Ok(errors)
            }
        });
        own.set(&pool);
        let told = JobError::Cancelled(CancelReason::WouldDeadlock);
        assert_eq!(
            pool.submit(0).await.unwrap().await,
            Ok(vec![told.clone(), told.clone(), told])
        );
        pool.drain().await;
        assert_eq!(assert_settled(&pool).cancelled, 3);
    });
}

#[test]
fn a_place_is_free_as_soon_as_a_job_has_left_the_queue() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let (pool, _) = gated_pool(&env, env.one_by_one().queue_capacity(1), &gate);
        let first = pool.try_submit(1).unwrap();
        gate.arrived(1).await;
        let second = pool.try_submit(2).unwrap();
        assert_eq!(pool.try_submit(3).unwrap_err(), SubmitError::Full(3));
        gate.open(1);
        assert_eq!(first.await, Ok(1));
        gate.arrived(1).await;
        let third = pool.try_submit(3).unwrap();
        assert_eq!(pool.try_submit(4).unwrap_err(), SubmitError::Full(4));
        // A cancelled job releases its permit at once, without a poll of a worker.
        assert_eq!(third.cancel().await, None);
        let fourth = pool.try_submit(4).unwrap();
        gate.open(2);
        assert_eq!(await_all([second, fourth]).await, [Ok(2), Ok(4)]);
        assert_settled(&pool);
    });
}

#[test]
fn queued_jobs_that_are_cancelled_never_run_and_the_others_keep_their_order() {
    everywhere(|env| async move {
        let gate = Gate::new();
        // More than 32 cancelled ones, so that they are swept out while others are queued.
        let (pool, started) = gated_pool(&env, env.one_by_one().queue_capacity(200), &gate);
        let first = pool.try_submit(1000).unwrap();
        gate.arrived(1).await;
        let (mut keep, mut removed) = (Vec::new(), Vec::new());
        for n in 0..150 {
            let handle = pool.try_submit(n).unwrap();
            if n % 4 == 0 {
                keep.push(handle);
            } else {
                removed.push(handle);
            }
        }
        for handle in removed.into_iter().rev() {
            assert_eq!(handle.cancel().await, None);
        }
        let stats = pool.stats();
        assert_eq!((stats.queued, stats.running, stats.cancelled), (38, 1, 112));
        gate.open(200);
        assert_eq!(first.await, Ok(1000));
        assert_eq!(
            await_all(keep).await,
            (0..150).step_by(4).map(Ok).collect::<Vec<_>>()
        );
        let ran = std::iter::once(1000)
            .chain((0..150).step_by(4))
            .collect::<Vec<_>>();
        assert_eq!(*started.lock().unwrap(), ran);
        assert_settled(&pool);
    });
}

#[test]
fn what_does_not_fit_is_refused_and_what_was_taken_runs_in_order() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let (pool, started) = gated_pool(&env, env.one_by_one().queue_capacity(2), &gate);
        let mut handles = vec![pool.try_submit(1).unwrap()];
        gate.arrived(1).await;
        let mut refused = Vec::new();
        for n in 2..8 {
            match pool.try_submit(n) {
                Ok(handle) => handles.push(handle),
                Err(error) => refused.push(error),
            }
        }
        assert_eq!(refused, [4, 5, 6, 7].map(SubmitError::Full));
        gate.open(3);
        assert_eq!(await_all(handles).await, [Ok(1), Ok(2), Ok(3)]);
        assert_eq!(*started.lock().unwrap(), [1, 2, 3]);
        assert_settled(&pool);
    });
}

#[test]
fn submissions_that_wait_for_room_are_served_in_their_order_and_none_overtakes() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let (pool, started) = gated_pool(&env, env.one_by_one().queue_capacity(1), &gate);
        let mut handles = vec![pool.try_submit(0).unwrap()];
        gate.arrived(1).await;
        handles.push(pool.try_submit(1).unwrap());
        let mut waiting: Vec<_> = (2..6).map(|n| Box::pin(pool.submit(n))).collect();
        for submit in &mut waiting {
            assert!(poll_once(submit.as_mut()).is_none());
        }
        // One gives up; its turn goes to the next.
        drop(waiting.remove(1));
        gate.open(1);
        gate.arrived(1).await;
        assert_eq!(pool.try_submit(9).unwrap_err(), SubmitError::Full(9));
        gate.open(10);
        for submit in waiting {
            handles.push(submit.await.unwrap());
        }
        assert_eq!(await_all(handles).await, [0, 1, 2, 4, 5].map(Ok));
        assert_eq!(*started.lock().unwrap(), [0, 1, 2, 4, 5]);
        assert_settled(&pool);
    });
}

#[test]
fn a_permit_that_is_dropped_gives_its_place_to_the_next_in_line() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let (pool, _) = gated_pool(&env, env.in_order().queue_capacity(1), &gate);
        let permit = pool.reserve().await.unwrap();
        let mut waiting = pin!(pool.submit(1));
        assert!(poll_once(waiting.as_mut()).is_none());
        drop(permit);
        gate.open(1);
        assert_eq!(waiting.await.unwrap().await, Ok(1));
        let permit = pool.reserve().await.unwrap();
        pool.close();
        assert_eq!(permit.submit(2).unwrap_err(), SubmitError::Closed(2));
        pool.drain().await;
        assert_eq!(assert_settled(&pool).accepted, 1);
    });
}

#[test]
fn a_group_holds_no_more_unread_jobs_than_its_window() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let (pool, _) = gated_pool(&env, env.one_by_one().queue_capacity(1), &gate);
        let busy = pool.try_submit(0).unwrap();
        gate.arrived(1).await;
        let queued = pool.try_submit(1).unwrap();
        let mut group = pool.group().window(1);
        // Both wait for room in the queue while the window has room for one.
        let submits = {
            let mut first = pin!(group.submit(2));
            let mut second = pin!(group.submit(3));
            assert!(poll_once(first.as_mut()).is_none());
            assert!(poll_once(second.as_mut()).is_none());
            gate.open(10);
            [first.await, second.await]
        };
        assert_eq!(submits, [Ok(()), Err(SubmitError::Full(3))]);
        assert_eq!(group.unread(), 1);
        assert_eq!(group.try_submit(4), Err(SubmitError::Full(4)));
        assert_eq!(group.next().await.unwrap().result, Ok(2));
        assert_eq!(group.try_submit(4), Ok(()));
        assert_eq!(group.next().await.unwrap().result, Ok(4));
        assert_eq!(await_all([busy, queued]).await, [Ok(0), Ok(1)]);
        assert_settled(&pool);
    });
}

#[test]
fn a_group_that_was_cancelled_takes_no_more_jobs_however_they_come() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let (pool, _) = gated_pool(&env, env.one_by_one().queue_capacity(1), &gate);
        let busy = pool.try_submit(0).unwrap();
        gate.arrived(1).await;
        let queued = pool.try_submit(1).unwrap();
        let group = pool.group();
        let late = {
            let mut waiting = pin!(group.submit(2));
            assert!(poll_once(waiting.as_mut()).is_none());
            group.cancel();
            gate.open(10);
            waiting.await
        };
        assert_eq!(late, Err(SubmitError::Closed(2)));
        assert_eq!(group.submit(3).await, Err(SubmitError::Closed(3)));
        assert_eq!(group.try_submit(4), Err(SubmitError::Closed(4)));
        assert_eq!(group.join().await, []);
        assert_eq!(await_all([busy, queued]).await, [Ok(0), Ok(1)]);
        assert_eq!(assert_settled(&pool).accepted, 2);
    });
}

/// A stop that is under way, for an observer to poll.
type Stop = Arc<Mutex<Option<BoxFuture<'static, Report<u32>>>>>;

#[test]
fn a_job_whose_pool_is_stopped_between_its_acceptance_and_the_queue_is_handed_back() {
    everywhere(|env| async move {
        let stop = Stop::default();
        let seen = Arc::clone(&stop);
        // The workers are not polled, so only `submit` can find the job.
        let (pool, workers) = env
            .in_order()
            .observe(move |event: &Event| {
                if matches!(event, Event::Accepted { job } if job.as_u64() == 1) {
                    let mut stop = seen.lock().unwrap();
                    assert_eq!(
                        stop.as_mut().and_then(|stop| poll_once(Pin::new(stop))),
                        None
                    );
                }
            })
            .build(|_: u32| future::pending::<Result<(), ()>>());
        let stopped = pool.clone();
        *stop.lock().unwrap() = Some(Box::pin(async move {
            stopped.drain_within(Duration::ZERO).await
        }));
        let handles = [pool.try_submit(1).unwrap(), pool.try_submit(2).unwrap()];
        let mut stop = stop.lock().unwrap().take().unwrap();
        let report = poll_once(Pin::new(&mut stop)).expect("it never takes longer than its grace");
        assert_eq!(
            report
                .unstarted
                .iter()
                .map(|job| job.input)
                .collect::<Vec<_>>(),
            [1, 2]
        );
        for handle in handles {
            assert_eq!(
                handle.await,
                Err(JobError::Cancelled(CancelReason::Aborted))
            );
        }
        assert_eq!(assert_settled(&pool).cancelled, 2);
        drop(workers);
    });
}

#[test]
fn a_job_that_was_refused_late_does_not_keep_its_map_waiting() {
    everywhere(|env| async move {
        if !env.executor.contains("two threads") {
            return;
        }
        let (late, submitters) = async_channel::unbounded::<Submitter<u32, (), ()>>();
        let adder = std::thread::spawn(move || {
            while let Ok(submitter) = block_on(submitters.recv()) {
                let _ = submitter.add(0);
            }
        });
        let (pool, workers) = env.in_order().child_capacity(0).build_with_submitter(
            move |_: u32, jobs: Submitter<u32, (), ()>| {
                let sent = late.try_send(jobs).is_ok();
                async move { if sent { Ok(()) } else { Err(()) } }
            },
        );
        workers.spawn_on(&env);
        for _ in 0..3000 {
            assert_eq!(pool.map([1]).count().await, 1);
        }
        pool.drain().await;
        assert_settled(&pool);
        drop(pool);
        adder.join().unwrap();
    });
}

#[test]
fn a_wait_that_has_ended_does_not_count_as_one() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let inside = gate.clone();
        let (pool, workers) = env.at_once(2).build_with_submitter(
            move |n: u32, jobs: Submitter<u32, u32, JobError<()>>| {
                let gate = inside.clone();
                async move {
                    match n {
                        0 => gate.pass().await,
                        1 => {}
                        // Each waits for a job of its own, and two run at once.
                        _ => drop(
                            jobs.submit(n - 2)
                                .unwrap()
                                .await
                                .map_err(|_| JobError::WouldDeadlock)?,
                        ),
                    }
                    Ok(n)
                }
            },
        );
        workers.spawn_on(&env);
        let first = pool.try_submit(2).unwrap();
        gate.arrived(1).await;
        let second = pool.try_submit(3).unwrap();
        gate.open(1);
        assert_eq!((first.await, second.await), (Ok(2), Ok(3)));
        pool.drain().await;
        assert_settled(&pool);
    });
}

// ---- waiting for room ----

#[test]
fn a_submission_that_is_dropped_has_submitted_nothing_and_blocks_no_other() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let pass = gate.clone();
        let pool = env
            .one_by_one()
            .queue_capacity(1)
            .spawn_on(&env, move |n: u32| {
                let gate = pass.clone();
                async move {
                    gate.pass().await;
                    Ok::<_, ()>(n)
                }
            });
        let running = pool.try_submit(0).unwrap();
        gate.arrived(1).await;
        let queued = pool.try_submit(1).unwrap();
        let mut waiting: Vec<_> = (2..6).map(|n| Box::pin(pool.submit(n))).collect();
        for submission in &mut waiting {
            assert!(poll_once(submission.as_mut()).is_none());
        }
        assert_eq!(pool.try_submit(9).unwrap_err(), SubmitError::Full(9));
        drop(waiting.remove(0));
        gate.open(1);
        assert_eq!(running.await, Ok(0));
        gate.arrived(1).await;
        // The next waiter was granted the permit, and is dropped as well.
        drop(waiting.remove(0));
        let third = waiting.remove(0).await.unwrap();
        gate.open(9);
        assert_eq!((queued.await, third.await), (Ok(1), Ok(4)), "{}", env.name);
        drop(waiting);
        pool.wait_idle().await;
        assert_eq!(assert_settled(&pool).accepted, 3);
    });
}

#[test]
fn producers_that_wait_for_room_are_served_in_turn() {
    everywhere(|env| async move {
        // Without a schedule, and with one.
        for builder in [env.in_order(), env.in_order().aging(SECOND)] {
            let pool = builder
                .queue_capacity(1)
                .spawn_on(&env, |n: usize| async move { Ok::<_, ()>(n) });
            let shares: Vec<_> = (0..5).map(|_| Arc::new(AtomicUsize::new(0))).collect();
            let producer = |share: Arc<AtomicUsize>, pool: Pool<usize, usize, ()>| async move {
                loop {
                    pool.submit(0).await.unwrap().detach();
                    share.fetch_add(1, Ordering::SeqCst);
                }
            };
            let mut producers: Vec<_> = shares
                .iter()
                .map(|share| Box::pin(producer(Arc::clone(share), pool.clone())))
                .collect();
            future::poll_fn(|cx| {
                for producer in &mut producers {
                    let _: Poll<()> = producer.as_mut().poll(cx);
                }
                let total: usize = shares
                    .iter()
                    .map(|share| share.load(Ordering::SeqCst))
                    .sum();
                if total >= 5_000 {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            let counts: Vec<_> = shares
                .iter()
                .map(|share| share.load(Ordering::SeqCst))
                .collect();
            let mean = counts.iter().sum::<usize>() / 5;
            assert!(
                counts
                    .iter()
                    .all(|count| count * 3 >= mean && *count <= mean * 3),
                "{counts:?} on {}",
                env.name
            );
        }
    });
}

// ---- jobs that add jobs ----

#[test]
fn jobs_that_add_jobs_end_on_one_worker_and_a_queue_of_one() {
    everywhere(|env| async move {
        let (pool, workers) = env.in_order().queue_capacity(1).build_with_submitter(
            |depth: u32, jobs: Submitter<u32, u32, ()>| async move {
                if depth < 4 {
                    jobs.add(depth + 1).unwrap();
                    yield_now().await;
                    jobs.add(depth + 1).unwrap();
                }
                Ok(depth)
            },
        );
        workers.spawn_on(&env);
        let summary = pool.map([0]).for_each(drop).await;
        assert_eq!(
            (summary.succeeded, summary.end),
            (31, End::Complete),
            "{}",
            env.name
        );
        pool.try_submit(0).unwrap().detach();
        pool.drain().await;
        assert_eq!(assert_settled(&pool).succeeded, 62);
    });
}

#[test]
fn a_job_that_adds_one_more_than_the_budget_is_told_that_it_is_full() {
    everywhere(|env| async move {
        for budget in [0, 1, 5] {
            let (pool, workers) = env.in_order().child_capacity(budget).build_with_submitter(
                move |n: usize, jobs: Submitter<usize, Vec<bool>, ()>| async move {
                    let count = if n == 0 { budget + 1 } else { 0 };
                    Ok((0..count)
                        .map(|_| jobs.add(1).is_err_and(|refused| refused.is_full()))
                        .collect())
                },
            );
            workers.spawn_on(&env);
            let mut map = pool.map([0]);
            let first = map.next().await.unwrap().result.unwrap();
            assert_eq!(
                first,
                (0..=budget).map(|n| n == budget).collect::<Vec<_>>(),
                "{}",
                env.name
            );
            assert_eq!(map.count().await, budget);
        }
    });
}
