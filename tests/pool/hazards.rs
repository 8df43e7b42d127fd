//! The ways in which pools are known to lose, hang, starve and lie, each turned into a test.
//!
//! Some cannot happen here, and have no test:
//!
//! * *A panic that cannot be contained* (`panic = "abort"`, a second panic during unwinding) ends
//!   the process; `panic_isolation` tells of the first.
//! * *A stop message behind a full queue*: there is none; a closed channel stops the workers.
//! * *Blocking in a handler* is not moved to other threads by the pool, so there are none whose
//!   number could be limited.
//! * *A `fork`* finds no thread that the library has started, since it starts none.
//! * *A platform without a clock* brings its own, since time is behind a trait.
//! * *Known faults of channels* are a matter of the versions in the manifest.

use std::any::Any;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use brigade::{
    CancelReason, End, Event, JobError, JobHandle, ManualTimer, OnError, Pool, RateLimit, Report,
    SubmitError, Submitter,
};
use futures_lite::{Stream, StreamExt, future, stream};

use crate::harness::{
    Gate, Slots, assert_adds_up, assert_settled, everywhere, in_both_ways, on_wake, poll_once,
    yield_now,
};
use crate::steps::Steps;

/// A pool that its own jobs can reach; filled once it is built.
type Own<In, T, E> = Arc<OnceLock<Pool<In, T, E>>>;

// ---- losing ----

#[test]
fn a_job_that_is_handed_in_while_the_last_worker_leaves_is_abandoned() {
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
fn a_cancelled_receive_loses_no_message() {
    // What the channels stand on: a `recv` that is dropped, whenever, passes its message on.
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
fn a_job_whose_worker_is_dropped_after_it_was_woken_for_it_goes_to_another_worker() {
    for slots in [1, 2] {
        let (pool, workers) = Pool::builder()
            .workers(2)
            .jobs_per_worker(slots)
            .timer(ManualTimer::new())
            .build(|n: u32| async move { Ok::<_, ()>(n) });
        let mut workers: Vec<_> = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()))
            .collect();
        let woken = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&woken));
        for worker in &mut workers {
            assert!(
                worker
                    .as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            );
        }
        let mut handle = pool.try_submit(7).unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        drop(workers.remove(0));
        assert_eq!(
            woken.0.load(Ordering::SeqCst),
            2,
            "the other one is woken instead"
        );
        assert!(poll_once(workers[0].as_mut()).is_none());
        assert_eq!(poll_once(Pin::new(&mut handle)), Some(Ok(7)));
    }
}

#[test]
fn a_submission_that_is_given_up_has_submitted_nothing_and_blocks_nobody() {
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
        // The next in line was given the place, and gives it up as well.
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
            builder.aging(Duration::from_secs(1))
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
fn an_aborted_drain_does_not_wait_for_workers_that_nobody_polls() {
    // The abort comes while a job is on its way into the queue: accepted, and not yet there.
    type Drain = Pin<Box<dyn Future<Output = Report<u32>> + Send>>;
    let own: Own<u32, u32, ()> = Own::default();
    let place: Arc<Mutex<Option<Drain>>> = Arc::default();
    let (pool_of_observer, drain) = (Arc::clone(&own), Arc::clone(&place));
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
    own.set(pool.clone()).unwrap();
    let mut handle = pool.try_submit(7).unwrap();
    let mut drain = place.lock().unwrap().take().unwrap();
    let report = poll_once(pin!(&mut drain)).expect("nobody has to be polled for that");
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

// ---- deadlock ----

#[test]
fn a_map_of_any_length_ends_on_a_queue_of_one() {
    everywhere(|env| async move {
        let pool = env
            .in_order()
            .queue_capacity(1)
            .spawn_on(&env, |n: u32| async move { Ok::<_, ()>(n) });
        assert_eq!(
            pool.map(0..500).try_collect::<Vec<_>>().await,
            Ok((0..500).collect()),
            "{}",
            env.name
        );
        assert_eq!(
            pool.map(0..50)
                .ordered()
                .window(1)
                .for_each(drop)
                .await
                .succeeded,
            50
        );
    });
}

#[test]
fn a_group_that_nobody_reads_refuses_what_is_beyond_its_window() {
    everywhere(|env| async move {
        let pool = env
            .in_order()
            .queue_capacity(2)
            .spawn_on(&env, |n: u32| async move { Ok::<_, ()>(n) });
        let group = pool.group().window(5);
        for n in 0..5 {
            group.submit(n).await.unwrap();
        }
        assert_eq!(group.submit(5).await, Err(SubmitError::Full(5)));
        assert_eq!(group.try_submit(6), Err(SubmitError::Full(6)));
        assert_eq!(group.join().await.len(), 5, "{}", env.name);
    });
}

#[test]
fn submissions_to_a_group_that_wait_together_stay_within_its_window() {
    in_both_ways(|slots| {
        let (pool, workers) = slots
            .in_order(Pool::builder())
            .queue_capacity(1)
            .timer(ManualTimer::new())
            .build(|n: u32| async move { Ok::<_, ()>(n) });
        let first = pool.try_submit(0).unwrap();
        let group = pool.group().window(2);
        let submitted = future::block_on(workers.drive(async {
            let mut waiting: Vec<_> = (1..5).map(|n| Box::pin(group.submit(n))).collect();
            for submission in &mut waiting {
                assert!(poll_once(submission.as_mut()).is_none());
            }
            first.await.unwrap();
            let mut results = Vec::new();
            for submission in waiting {
                results.push(submission.await);
            }
            results
        }));
        assert_eq!(
            submitted,
            [
                Ok(()),
                Ok(()),
                Err(SubmitError::Full(3)),
                Err(SubmitError::Full(4))
            ]
        );
        assert_eq!(group.unread(), 2);
    });
}

#[test]
fn a_cancelled_group_takes_no_more_jobs() {
    everywhere(|env| async move {
        let pool = env
            .in_order()
            .spawn_on(&env, |n: u32| async move { Ok::<_, ()>(n) });
        let group = pool.group();
        group.submit(1).await.unwrap();
        group.cancel();
        assert_eq!(group.submit(2).await, Err(SubmitError::Closed(2)));
        assert_eq!(
            group.try_submit(3),
            Err(SubmitError::Closed(3)),
            "{}",
            env.name
        );
        assert_eq!(group.join().await.len(), 1);
    });
}

#[test]
fn a_map_that_waited_for_room_keeps_to_the_capacity() {
    let (pool, workers) = Pool::builder()
        .workers(1)
        .queue_capacity(3)
        .timer(ManualTimer::new())
        .build(|_: u32| future::pending::<Result<(), ()>>());
    let permits: Vec<_> = (0..3).map(|_| pool.try_reserve().unwrap()).collect();
    let mut map = pool.map(0..).window(100);
    assert!(poll_once(pin!(map.next())).is_none());
    drop(permits);
    assert!(poll_once(pin!(map.next())).is_none());
    assert_eq!(pool.stats().queued, 3);
    drop(workers);
}

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

#[test]
fn a_wait_for_the_own_pool_that_could_never_end_is_a_typed_error() {
    everywhere(|env| async move {
        let own: Own<u32, String, ()> = Own::default();
        let inside = Arc::clone(&own);
        let pool = env
            .one_by_one()
            .queue_capacity(2)
            .spawn_on(&env, move |n: u32| {
                let own = Arc::clone(&inside);
                async move {
                    let pool = own.get().unwrap();
                    Ok(match n {
                        1 => format!("{:?}", pool.try_submit(0).unwrap().await),
                        2 => {
                            let queued = [pool.try_submit(0).unwrap(), pool.try_submit(0).unwrap()];
                            let refused = pool.submit(0).await;
                            let held = pool.reserve().await.map(drop);
                            drop(queued);
                            format!(
                                "{} {}",
                                refused.unwrap_err().is_would_deadlock(),
                                held.is_err()
                            )
                        }
                        3 => format!("{:?}", pool.map([0, 0]).for_each(drop).await.end),
                        4 => {
                            let mut group = pool.group();
                            group.submit(0).await.unwrap();
                            format!(
                                "{:?} {:?}",
                                group.next().await.unwrap().result,
                                group.summary().end
                            )
                        }
                        _ => String::new(),
                    })
                }
            });
        own.set(pool.clone()).unwrap_or_else(|_| panic!());
        let expected = [
            "Err(WouldDeadlock)",
            "true true",
            "WouldDeadlock",
            "Err(Cancelled(WouldDeadlock)) WouldDeadlock",
        ];
        for (n, expected) in (1..).zip(expected) {
            assert_eq!(
                pool.try_submit(n).unwrap().await,
                Ok(expected.to_owned()),
                "{n} on {}",
                env.name
            );
        }
        pool.drain().await;
        assert_settled(&pool);
    });
}

#[test]
fn a_job_that_waits_for_its_own_end_panics_instead() {
    everywhere(|env| async move {
        let own: Own<u32, (), ()> = Own::default();
        let inside = Arc::clone(&own);
        let pool = env.at_once(2).spawn_on(&env, move |n: u32| {
            let own = Arc::clone(&inside);
            async move {
                let pool = own.get().unwrap();
                if n == 0 {
                    pool.wait_idle().await;
                } else {
                    pool.drain().await;
                }
                Ok(())
            }
        });
        own.set(pool.clone()).unwrap_or_else(|_| panic!());
        for n in 0..2 {
            let result = pool.try_submit(n).unwrap().await;
            assert!(
                matches!(result, Err(JobError::Panicked(_))),
                "{result:?} on {}",
                env.name
            );
        }
        pool.wait_idle().await;
        assert!(pool.is_closed());
        assert_eq!(assert_settled(&pool).panicked, 2);
    });
}

#[test]
fn a_wait_that_becomes_impossible_when_a_worker_leaves_is_told_so() {
    let own: Own<u32, bool, ()> = Own::default();
    let inside = Arc::clone(&own);
    let (pool, workers) =
        Pool::builder()
            .workers(2)
            .timer(ManualTimer::new())
            .build(move |n: u32| {
                let own = Arc::clone(&inside);
                async move {
                    if n > 0 {
                        return future::pending().await;
                    }
                    // Polled through another waker, as a combinator of many futures does.
                    let handle = own.get().unwrap().try_submit(2).unwrap();
                    let both = future::or(
                        async { handle.await == Err(JobError::WouldDeadlock) },
                        future::pending(),
                    );
                    Ok(both.await)
                }
            });
    own.set(pool.clone()).unwrap_or_else(|_| panic!());
    let mut waits = pool.try_submit(0).unwrap();
    let blocks = pool.try_submit(1).unwrap();
    let mut workers: Vec<_> = workers
        .into_iter()
        .map(|worker| Box::pin(worker.run()))
        .collect();
    let woken = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&woken));
    assert!(
        workers[0]
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    assert!(poll_once(workers[1].as_mut()).is_none());
    let before = woken.0.load(Ordering::SeqCst);
    drop(workers.pop());
    assert!(
        woken.0.load(Ordering::SeqCst) > before,
        "the waiting job's worker is woken"
    );
    assert!(poll_once(workers[0].as_mut()).is_none());
    assert_eq!(poll_once(Pin::new(&mut waits)), Some(Ok(true)));
    drop((blocks, workers));
}

// ---- starving ----

#[test]
fn jobs_go_on_while_their_reader_is_busy_elsewhere() {
    in_both_ways(|slots| {
        let (pool, workers) = slots
            .at_once(Pool::builder(), 2)
            .timer(ManualTimer::new())
            .build(|n: u32| async move {
                for _ in 0..5 {
                    yield_now().await;
                }
                Ok::<_, ()>(n)
            });
        future::block_on(workers.drive(async {
            let mut map = pool.map(0..20);
            assert!(poll_once(pin!(map.next())).is_none());
            // The reader awaits something else; all that it has handed in is done meanwhile.
            pool.wait_idle().await;
            assert_eq!((pool.stats().succeeded, map.count().await), (20, 20));
        }));
    });
}

#[test]
#[should_panic(expected = "workers must be at least 1, got 0")]
fn no_workers_are_refused_where_they_are_set() {
    drop(Pool::builder::<(), ()>().workers(0));
}

#[test]
#[should_panic(expected = "queue_capacity must be at least 1, got 0")]
fn no_capacity_is_refused_where_it_is_set() {
    drop(Pool::builder::<(), ()>().queue_capacity(0));
}

#[test]
fn no_inputs_are_done_at_once() {
    everywhere(|env| async move {
        let pool = env
            .in_order()
            .spawn_on(&env, |n: u32| async move { Ok::<_, ()>(n) });
        assert_eq!(pool.map([]).try_collect::<Vec<_>>().await, Ok(vec![]));
        assert_eq!(pool.group().join().await, []);
        pool.drain().await;
        assert_eq!(assert_settled(&pool).accepted, 0, "{}", env.name);
    });
}

#[test]
fn producers_that_wait_for_room_are_served_in_turn() {
    everywhere(|env| async move {
        // Without a schedule, and with one.
        for builder in [env.in_order(), env.in_order().aging(Duration::from_secs(1))] {
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

#[test]
fn an_ordered_map_stops_pulling_when_its_first_job_is_stuck() {
    everywhere(|env| async move {
        let (gate, pulled) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
        let (pass, count) = (gate.clone(), Arc::clone(&pulled));
        let pool = env
            .at_once(2)
            .queue_capacity(4)
            .spawn_on(&env, move |n: usize| {
                let gate = pass.clone();
                async move {
                    if n == 0 {
                        gate.pass().await;
                    }
                    Ok::<_, ()>(n)
                }
            });
        let mut map = pool
            .map((0..).inspect(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
            }))
            .ordered()
            .window(7);
        while pool.stats().succeeded < 6 {
            assert!(poll_once(pin!(map.next())).is_none());
            yield_now().await;
        }
        for _ in 0..20 {
            assert!(poll_once(pin!(map.next())).is_none());
            yield_now().await;
        }
        assert_eq!(
            (pulled.load(Ordering::SeqCst), map.summary().unread),
            (7, 7),
            "{}",
            env.name
        );
        gate.open(1);
        for n in 0..20 {
            assert_eq!(map.next().await.unwrap().result, Ok(n));
        }
    });
}

#[test]
fn an_endless_source_is_pulled_no_further_than_the_window() {
    everywhere(|env| async move {
        for (slots, capacity) in [(1, 1), (3, 10), (2, 500)] {
            let pulled = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&pulled);
            let pool = env
                .at_once(slots)
                .queue_capacity(capacity)
                .spawn_on(&env, |n: usize| async move { Ok::<_, ()>(n) });
            let mut map = pool.map((0..).inspect(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
            }));
            for read in 1..300 {
                assert!(map.next().await.is_some());
                let ahead = pulled.load(Ordering::SeqCst) - read;
                assert!(ahead <= capacity + slots, "{ahead} ahead on {}", env.name);
            }
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
            .slow_poll(Duration::from_millis(10))
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
        let expected = [
            (ids[1], Duration::from_millis(11)),
            (ids[2], Duration::from_millis(500)),
        ];
        // Jobs that share a worker go on in any order.
        events.lock().unwrap().sort_unstable();
        assert_eq!(*events.lock().unwrap(), expected);
    });
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

// ---- locks, spinning, leaking ----

/// Calls every method that a user can call from anywhere.
fn call_everything(pool: &Pool<u32, u32, u32>, handles: &Mutex<Vec<JobHandle<u32, u32, u32>>>) {
    assert_adds_up(&pool.stats());
    let accepted = pool.stats().accepted;
    if accepted < 40 {
        drop(pool.try_submit(1));
        handles.lock().unwrap().extend(pool.try_submit(2));
        drop(pool.try_reserve());
        let mut map = pool.map([3, 4]);
        drop(poll_once(pin!(map.next())));
        drop(map);
        let group = pool.group();
        let _ = group.try_submit(5);
        group.cancel();
        drop(poll_once(pin!(pool.reserve())));
        drop(poll_once(pin!(pool.submit(6))));
        handles
            .lock()
            .unwrap()
            .extend(pool.job(7).priority(1).delay(Duration::MAX).try_submit());
    }
    let handle = handles.lock().unwrap().pop();
    if let Some(handle) = handle {
        let _ = handle.set_priority(2);
        drop(handle.cancel());
    }
    pool.pause();
    let _ = (pool.is_paused(), pool.running());
    pool.resume();
    pool.set_workers(1);
    pool.set_rate_limit(RateLimit::per_second(1).burst(1000));
    pool.set_rate_limit(None);
    let _ = (
        poll_once(pin!(pool.wait_queued_below(usize::MAX))),
        poll_once(pin!(pool.wait_running_below(usize::MAX))),
    );
    pool.on_unhandled(drop);
    pool.set_attempt_timeout(Some(Duration::from_secs(accepted + 1)));
    let _ = (pool.is_closed(), format!("{pool:?}"), pool.clone());
    if accepted >= 40 {
        pool.close();
        pool.seal();
        drop(poll_once(pin!(pool.abort())));
    }
}

#[test]
fn observers_unhandled_failures_and_drops_may_call_everything() {
    struct Calls(
        Own<u32, u32, u32>,
        Arc<Mutex<Vec<JobHandle<u32, u32, u32>>>>,
    );
    impl Drop for Calls {
        fn drop(&mut self) {
            if let Some(pool) = self.0.get() {
                call_everything(pool, &self.1);
            }
        }
    }
    everywhere(|env| async move {
        let (own, handles): (Own<u32, u32, u32>, Arc<Mutex<Vec<_>>>) =
            (Own::default(), Arc::default());
        let depth = Arc::new(AtomicUsize::new(0));
        let (seen, cancels) = (Arc::clone(&own), Arc::clone(&handles));
        let (dropped, theirs) = (Arc::clone(&own), Arc::clone(&handles));
        let pool = env
            .at_once(2)
            .queue_capacity(4)
            .observe(move |_: &Event| {
                // What an observer does is observed in turn, so it has to stop somewhere.
                if let Some(pool) = seen.get()
                    && depth.fetch_add(1, Ordering::SeqCst) < 3
                {
                    call_everything(pool, &cancels);
                    depth.fetch_sub(1, Ordering::SeqCst);
                }
            })
            .spawn_on(&env, move |n: u32| {
                let calls = Calls(Arc::clone(&dropped), Arc::clone(&theirs));
                async move {
                    let _calls = calls;
                    yield_now().await;
                    if n.is_multiple_of(2) { Err(n) } else { Ok(n) }
                }
            });
        own.set(pool.clone()).unwrap_or_else(|_| panic!());
        let (inside, cancels) = (Arc::clone(&own), Arc::clone(&handles));
        pool.on_unhandled(move |_| call_everything(inside.get().unwrap(), &cancels));
        for n in 0..60 {
            match pool.submit(n).await {
                Ok(handle) if n % 3 == 0 => handle.detach(),
                Ok(handle) => drop(handle.await),
                Err(refused) => assert!(refused.is_closed()),
            }
        }
        pool.drain().await;
        handles.lock().unwrap().clear();
        assert_settled(&pool);
    });
}

#[test]
fn after_panics_everywhere_every_method_still_returns() {
    fn quiet() -> ! {
        std::panic::resume_unwind(Box::new("on purpose"));
    }
    in_both_ways(|slots| {
        let (pool, workers) = slots
            .in_order(Pool::builder())
            .queue_capacity(8)
            .observe(|_: &Event| quiet())
            .timer(ManualTimer::new())
            .build(|n: u32| async move { if n == 0 { quiet() } else { Err::<u32, _>(n) } });
        pool.on_unhandled(|_| quiet());
        for n in 0..4 {
            pool.try_submit(n).unwrap().detach();
        }
        future::block_on(workers.drive(async {
            pool.wait_idle().await;
            let handles = Mutex::default();
            for _ in 0..20 {
                call_everything(&pool, &handles);
            }
            pool.drain().await;
        }));
        assert_settled(&pool);
    });
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn idle_workers_are_not_woken_and_one_job_wakes_a_few_of_them() {
    let (pool, workers) = Pool::builder()
        .workers(100)
        .timer(ManualTimer::new())
        .build(|n: u32| async move { Ok::<_, ()>(n) });
    let wakes: Vec<_> = (0..100).map(|_| Arc::new(Count::default())).collect();
    let mut workers: Vec<_> = workers
        .into_iter()
        .map(|worker| Box::pin(worker.run()))
        .collect();
    let mut poll = |n: usize| {
        let waker = Waker::from(Arc::clone(&wakes[n]));
        assert!(
            workers[n]
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
    };
    (0..100).for_each(&mut poll);
    let woken = || {
        (0..100)
            .filter(|n| wakes[*n].0.swap(0, Ordering::SeqCst) > 0)
            .collect::<Vec<_>>()
    };
    drop((pool.stats(), pool.try_reserve(), pool.clone()));
    assert_eq!(woken(), [0; 0]);
    for n in 0..30 {
        let mut handle = pool.try_submit(n).unwrap();
        let mut polls = 0;
        loop {
            let round = woken();
            if round.is_empty() {
                break;
            }
            polls += round.len();
            round.into_iter().for_each(&mut poll);
        }
        assert_eq!(poll_once(Pin::new(&mut handle)), Some(Ok(n)));
        // The channel passes the wake-up on once when it was not needed, and no further.
        assert!(polls <= 2, "{polls} polls for one job");
    }
}

#[test]
fn nothing_is_left_when_pool_workers_and_handles_are_gone() {
    everywhere(|env| async move {
        let token = Arc::new(());
        let (inside, observer) = (Arc::clone(&token), Arc::clone(&token));
        let pool = env
            .at_once(3)
            .observe(move |_: &Event| drop(Arc::clone(&observer)))
            .spawn_on(&env, move |n: u32| {
                let token = Arc::clone(&inside);
                async move {
                    yield_now().await;
                    drop(token);
                    Ok::<_, ()>(n)
                }
            });
        drop(pool.map(0..100).try_collect::<Vec<_>>().await);
        let handles: Vec<_> = (0..10).map(|n| pool.try_submit(n).unwrap()).collect();
        drop(handles);
        let mut map = pool.map(0..100);
        drop(poll_once(pin!(map.next())));
        drop((map, pool));
        while Arc::strong_count(&token) > 1 {
            std::thread::yield_now();
            yield_now().await;
        }
    });
}

#[test]
fn no_wait_blocks_a_thread_and_no_runtime_is_named_in_the_sources() {
    fn sources(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut files = Vec::new();
    sources(
        &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    assert!(files.len() > 20);
    // It has tests only, which explore the orders of threads.
    files.retain(|file| !file.ends_with("src/loom_tests.rs"));
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // Unit tests come last in a file.
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
        {
            for word in [
                "block_on",
                "tokio",
                "async_std",
                "thread::spawn",
                "thread::sleep",
            ] {
                assert!(!line.contains(word), "{}: {line}", file.display());
            }
        }
    }
}

#[test]
fn a_stream_of_inputs_that_is_never_ready_holds_nobody_up() {
    everywhere(|env| async move {
        let pool = env
            .in_order()
            .queue_capacity(1)
            .spawn_on(&env, |n: u32| async move { Ok::<_, ()>(n) });
        let mut silent = pool.map_stream(stream::pending());
        assert!(poll_once(pin!(silent.next())).is_none());
        assert_eq!(
            pool.map(0..20).try_collect::<Vec<_>>().await,
            Ok((0..20).collect()),
            "{}",
            env.name
        );
        pool.drain().await;
        assert_eq!(
            (silent.next().await, silent.summary().end),
            (None, End::Closed)
        );
    });
}

/// A worker is in the middle of a job when another thread submits the next, which here is the job
/// itself.
#[test]
fn jobs_that_come_while_a_worker_is_polled_are_not_left_beside_sleeping_workers() {
    for (workers, capacity, alone) in [(4, 2, 4), (4, 2, 3), (8, 3, 8), (3, 2, 3), (16, 2, 9)] {
        let own: Arc<Mutex<Option<Pool<usize, usize, ()>>>> = Arc::default();
        let inside = Arc::clone(&own);
        let (pool, workers) = Pool::builder()
            .workers(workers)
            .queue_capacity(capacity)
            .timer(ManualTimer::new())
            .build(move |n: usize| {
                let pool = inside.lock().unwrap().clone();
                if let Some(pool) = pool {
                    if n + 1 < alone {
                        pool.try_submit(n + 1).unwrap().detach();
                    } else if n + 1 == alone {
                        let mut map = pool.map(alone..alone + 2);
                        assert!(poll_once(pin!(map.next())).is_none());
                        std::mem::forget(map);
                    }
                }
                async move { Ok::<_, ()>(n) }
            });
        *own.lock().unwrap() = Some(pool.clone());
        let mut steps = Steps::default();
        workers.into_iter().for_each(|worker| {
            steps.add("worker", worker.run());
        });
        steps.settle();
        pool.try_submit(0).unwrap().detach();
        steps.settle();
        let stats = pool.stats();
        assert_eq!(
            (stats.queued, stats.succeeded),
            (0, alone as u64 + 2),
            "{stats:?}"
        );
        *own.lock().unwrap() = None;
    }
}

#[test]
fn a_waker_may_submit_and_cancel_before_it_returns() {
    struct Submits(Pool<u32, u32, ()>, AtomicUsize);
    impl Wake for Submits {
        fn wake(self: Arc<Self>) {
            if self.1.fetch_add(1, Ordering::SeqCst) < 20 {
                self.0.try_submit(1).unwrap().detach();
                drop(self.0.try_submit(2).unwrap());
                let mut map = self.0.map(3..6);
                assert!(poll_once(pin!(map.next())).is_none());
            }
        }
    }
    for jobs_per_worker in [1, 3] {
        let (pool, workers) = Pool::builder()
            .workers(4)
            .jobs_per_worker(jobs_per_worker)
            .queue_capacity(1000)
            .timer(ManualTimer::new())
            .build(|n: u32| async move { Ok::<_, ()>(n) });
        let submits = Arc::new(Submits(pool.clone(), AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&submits));
        let mut workers: Vec<_> = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()))
            .collect();
        let mut handle = None;
        for _ in 0..40 {
            for worker in &mut workers {
                assert!(
                    worker
                        .as_mut()
                        .poll(&mut Context::from_waker(&waker))
                        .is_pending()
                );
            }
            handle.get_or_insert_with(|| pool.try_submit(0).unwrap());
        }
        assert_eq!(poll_once(pin!(handle.unwrap())), Some(Ok(0)));
        assert!(submits.1.load(Ordering::SeqCst) >= 4);
        assert_eq!(pool.stats().queued, 0);
    }
}

#[test]
fn a_waker_that_panics_costs_neither_a_job_nor_the_pool() {
    let (pool, workers) = Pool::builder()
        .workers(2)
        .queue_capacity(1)
        .timer(ManualTimer::new())
        .build(|n: u32| async move { Ok::<_, ()>(n) });
    let panics = || on_wake(|| std::panic::resume_unwind(Box::new("a waker")));
    let mut workers: Vec<_> = workers
        .into_iter()
        .map(|worker| Box::pin(worker.run()))
        .collect();
    let mut map = pool.map_stream(stream::iter(0..3));
    for round in 0..20 {
        for worker in &mut workers {
            assert!(
                worker
                    .as_mut()
                    .poll(&mut Context::from_waker(&panics()))
                    .is_pending()
            );
        }
        if round < 3 {
            let polled = Pin::new(&mut map).poll_next(&mut Context::from_waker(&panics()));
            assert!(polled.is_pending() || round > 0, "{polled:?}");
        }
        let mut handle = pool.try_submit(round).unwrap();
        assert!(
            Pin::new(&mut handle)
                .poll(&mut Context::from_waker(&panics()))
                .is_pending()
        );
        let mut waits = pin!(pool.submit(7));
        let mut idle = pin!(pool.wait_idle());
        assert!(
            waits
                .as_mut()
                .poll(&mut Context::from_waker(&panics()))
                .is_pending()
        );
        assert!(
            idle.as_mut()
                .poll(&mut Context::from_waker(&panics()))
                .is_pending()
        );
        for worker in &mut workers {
            assert!(
                worker
                    .as_mut()
                    .poll(&mut Context::from_waker(&panics()))
                    .is_pending()
            );
        }
        assert_eq!(poll_once(pin!(handle)), Some(Ok(round)));
        assert!(poll_once(waits).is_some_and(|submitted| submitted.is_ok()));
        for worker in &mut workers {
            assert!(
                worker
                    .as_mut()
                    .poll(&mut Context::from_waker(&panics()))
                    .is_pending()
            );
        }
        assert!(poll_once(idle).is_some());
    }
}
