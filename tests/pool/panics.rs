//! Panics of user code: the job has one outcome, the worker lives, the statistics add up, and each
//! value is dropped once.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use brigade::{
    CancelReason, CollectError, Event, JobError, ManualTimer, OnError, Outcome, Pool, TimeLimit,
    panic_isolation,
};
use futures_lite::{StreamExt, future};

use crate::harness::{
    DropToken, Drops, Gate, OwnPool, OwnPoolRef, SECOND, assert_settled, everywhere, in_both_ways,
    poll_once, yield_now,
};

/// Panics without a message on the terminal.
fn panic_quietly() -> ! {
    resume_unwind(Box::new("on purpose"))
}

/// Panics when it is dropped. Two of them that are dropped together would end the process.
struct Bomb(#[expect(dead_code, reason = "only its drop counts")] DropToken);

impl Drop for Bomb {
    fn drop(&mut self) {
        panic_quietly();
    }
}

impl std::fmt::Debug for Bomb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bomb")
    }
}

/// A payload whose drop panics with another such payload.
struct Endless;

impl Drop for Endless {
    fn drop(&mut self) {
        resume_unwind(Box::new(Self));
    }
}

/// A handler's future whose drop panics after all of it is dropped.
struct Explosive<F> {
    inner: Pin<Box<F>>,
    _bomb: Bomb,
}

impl<F: Future> Future for Explosive<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.inner.as_mut().poll(cx)
    }
}

fn explosive<F: Future>(drops: &Drops, inner: F) -> Explosive<F> {
    Explosive {
        inner: Box::pin(inner),
        _bomb: Bomb(drops.token()),
    }
}

/// All tokens that were made are dropped. Other threads may be about to drop the last ones.
async fn assert_dropped(drops: &Drops) {
    while drops.counts().0 != drops.counts().1 {
        std::thread::yield_now();
        yield_now().await;
    }
}

fn message<T, E: std::fmt::Debug>(result: Result<T, JobError<E>>) -> String {
    match result {
        Err(JobError::Panicked(message)) => message.as_str().to_owned(),
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it succeeded"),
    }
}

#[test]
fn a_panic_in_the_handler_costs_one_job_and_no_worker() {
    everywhere(|env| async move {
        let drops = Drops::default();
        let inside = drops.clone();
        let pool = env
            .at_once(2)
            .spawn_on(&env, move |(n, _input): (u32, DropToken)| {
                let future = inside.token();
                async move {
                    let _future = future;
                    if n % 5 == 0 {
                        yield_now().await;
                    }
                    if n % 3 == 0 {
                        panic_quietly();
                    }
                    Ok::<_, ()>(n)
                }
            });
        let inputs = drops.clone();
        let mut panicked = 0;
        let mut map = pool.map((0..100).map(move |n| (n, inputs.token())));
        while let Some(completion) = map.next().await {
            if completion.index % 3 == 0 {
                assert_eq!(message(completion.result), "on purpose");
                panicked += 1;
            } else {
                assert_eq!(completion.result, Ok(completion.index as u32));
            }
        }
        assert_eq!(
            (panicked, pool.stats().workers, pool.stats().panicked),
            (34, env.workers(2), 34),
            "{}",
            env.name
        );
        assert_dropped(&drops).await;
        assert_settled(&pool);
    });
}

#[test]
fn a_panic_in_the_making_of_the_future_costs_one_job_and_no_worker() {
    everywhere(|env| async move {
        let drops = Drops::default();
        let pool = env
            .in_order()
            .spawn_on(&env, |(n, input): (u32, DropToken)| {
                if n == 0 {
                    panic_quietly();
                }
                async move {
                    drop(input);
                    Ok::<_, ()>(n)
                }
            });
        let first = pool.try_submit((0, drops.token())).unwrap();
        let second = pool.try_submit((1, drops.token())).unwrap();
        assert_eq!(message(first.await), "on purpose");
        assert_eq!(second.await, Ok(1), "{}", env.name);
        assert_dropped(&drops).await;
        assert_settled(&pool);
    });
}

#[test]
fn a_future_that_panics_when_it_is_dropped_keeps_its_result() {
    everywhere(|env| async move {
        let (drops, panics) = (Drops::default(), Arc::new(AtomicUsize::new(0)));
        let (inside, count) = (drops.clone(), Arc::clone(&panics));
        let pool = env
            .in_order()
            .observe(move |event: &Event| {
                if matches!(event, Event::DropPanicked { .. }) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            })
            .spawn_on(&env, move |n: u32| {
                explosive(&inside, async move {
                    yield_now().await;
                    if n == 1 { Err(n) } else { Ok(n) }
                })
            });
        assert_eq!(pool.try_submit(0).unwrap().await, Ok(0));
        assert_eq!(pool.try_submit(1).unwrap().await, Err(JobError::Failed(1)));
        assert_eq!(
            pool.map(2..10).try_collect::<Vec<_>>().await,
            Ok((2..10).collect())
        );
        assert_eq!(
            (panics.load(Ordering::SeqCst), pool.stats().workers),
            (10, 1),
            "{}",
            env.name
        );
        assert_dropped(&drops).await;
        assert_settled(&pool);
    });
}

#[test]
fn a_future_that_panics_in_its_poll_and_in_its_drop_has_one_outcome() {
    everywhere(|env| async move {
        let drops = Drops::default();
        let inside = drops.clone();
        let pool = env.in_order().spawn_on(&env, move |n: u32| {
            explosive(&inside, async move {
                if n == 0 {
                    panic_quietly();
                }
                Ok::<_, ()>(n)
            })
        });
        assert_eq!(message(pool.try_submit(0).unwrap().await), "on purpose");
        assert_eq!(pool.try_submit(1).unwrap().await, Ok(1));
        assert_dropped(&drops).await;
        assert_eq!(assert_settled(&pool).workers, 1);
    });
}

#[test]
fn a_future_that_panics_when_it_is_stopped_has_the_outcome_of_the_stop() {
    everywhere(|env| async move {
        let (drops, panics) = (Drops::default(), Arc::new(AtomicUsize::new(0)));
        let (inside, count, gate) = (drops.clone(), Arc::clone(&panics), Gate::new());
        let arrive = gate.clone();
        let pool = env
            .at_once(2)
            .observe(move |event: &Event| {
                if matches!(event, Event::DropPanicked { .. }) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            })
            .spawn_on(&env, move |n: u32| {
                let gate = arrive.clone();
                explosive(&inside, async move {
                    if n > 0 {
                        gate.pass().await;
                    }
                    Ok::<_, ()>(n)
                })
            });
        // Of time.
        let late = pool.job(1).attempt_timeout(SECOND).try_submit().unwrap();
        env.clock.sleepers(1).await;
        env.clock.advance(SECOND);
        assert_eq!(late.await, Err(JobError::TimedOut(TimeLimit::Attempt)));
        gate.arrived(1).await;
        // By its handle.
        let handle = pool.try_submit(2).unwrap();
        gate.arrived(1).await;
        assert_eq!(handle.cancel().await, None);
        // By its map, two that run and one that waits.
        let mut map = pool.map([3, 4, 5]);
        assert!(poll_once(std::pin::pin!(map.next())).is_none());
        gate.arrived(2).await;
        map.cancel();
        let results: Vec<_> = map.map(|completion| completion.result).collect().await;
        assert_eq!(
            results,
            [const { Err(JobError::Cancelled(CancelReason::Stream)) }; 3]
        );
        assert_eq!(pool.try_submit(0).unwrap().await, Ok(0));
        // By an abort.
        let handle = pool.try_submit(6).unwrap();
        gate.arrived(1).await;
        let report = pool.abort().await;
        assert_eq!(
            (report.interrupted.len(), handle.await),
            (1, Err(JobError::Cancelled(CancelReason::Aborted)))
        );
        let stats = assert_settled(&pool);
        assert_eq!(
            (stats.timed_out, stats.cancelled, stats.succeeded),
            (1, 5, 1),
            "{}",
            env.name
        );
        assert_eq!(panics.load(Ordering::SeqCst), 6);
        assert_dropped(&drops).await;
    });
}

#[test]
fn a_future_that_panics_when_its_worker_is_dropped_leaves_an_abandoned_job() {
    in_both_ways(|slots| {
        let drops = Drops::default();
        let inside = drops.clone();
        let (pool, workers) = slots
            .at_once(Pool::builder(), 2)
            .timer(ManualTimer::new())
            .build(move |_: u32| explosive(&inside, future::pending::<Result<(), ()>>()));
        let handles: Vec<_> = (0..5).map(|n| pool.try_submit(n).unwrap()).collect();
        for worker in workers {
            let mut run = Box::pin(worker.run());
            assert!(poll_once(run.as_mut()).is_none());
        }
        for mut handle in handles {
            assert_eq!(
                poll_once(Pin::new(&mut handle)),
                Some(Err(JobError::Abandoned))
            );
        }
        assert_eq!(drops.counts(), (2, 2));
        assert_eq!(assert_settled(&pool).abandoned, 5);
    });
}

#[test]
fn a_payload_that_panics_when_it_is_dropped_costs_one_job_and_no_worker() {
    everywhere(|env| async move {
        let drops = Drops::default();
        let inside = drops.clone();
        let pool = env.in_order().spawn_on(&env, move |n: u32| {
            let drops = inside.clone();
            async move {
                match n {
                    0 => resume_unwind(Box::new(Bomb(drops.token()))),
                    1 => resume_unwind(Box::new(Endless)),
                    _ => Ok::<_, ()>(n),
                }
            }
        });
        let results: Vec<_> = pool
            .map(0..3)
            .ordered()
            .map(|completion| completion.result)
            .collect()
            .await;
        let [first, second, third] = <[_; 3]>::try_from(results).unwrap();
        assert_eq!(message(first), "the panic's payload is not text");
        assert_eq!(message(second), "the panic's payload is not text");
        assert_eq!(third, Ok(2), "{}", env.name);
        assert_eq!(drops.counts(), (1, 1));
        assert_eq!(assert_settled(&pool).workers, 1);
    });
}

#[test]
fn an_input_that_panics_when_it_is_dropped_costs_no_worker() {
    everywhere(|env| async move {
        let (drops, gate) = (Drops::default(), Gate::new());
        let arrive = gate.clone();
        let pool = env
            .in_order()
            .spawn_on(&env, move |(n, input): (u32, Option<Bomb>)| {
                let gate = arrive.clone();
                async move {
                    if n == 1 {
                        gate.pass().await;
                    }
                    drop(input);
                    Ok::<_, ()>(n)
                }
            });
        let input = |n| (n, Some(Bomb(drops.token())));
        // Dropped in the handler: its panic.
        assert_eq!(
            message(pool.try_submit(input(0)).unwrap().await),
            "on purpose"
        );
        // Dropped with the handler's future, as that is cancelled.
        let running = pool.try_submit(input(1)).unwrap();
        gate.arrived(1).await;
        // Never started, and too late to start.
        pool.pause();
        let queued = [
            pool.try_submit(input(2)).unwrap(),
            pool.try_submit(input(3)).unwrap(),
        ];
        let late = pool.job(input(4)).timeout(SECOND).try_submit().unwrap();
        env.clock.advance(SECOND);
        for handle in queued {
            assert_eq!(handle.cancel().await, None);
        }
        assert_eq!(running.cancel().await, None);
        assert_eq!(late.await, Err(JobError::TimedOut(TimeLimit::Job)));
        pool.resume();
        assert_eq!(
            pool.try_submit((5, None)).unwrap().await,
            Ok(5),
            "{}",
            env.name
        );
        assert_dropped(&drops).await;
        let stats = assert_settled(&pool);
        assert_eq!(
            (
                stats.workers,
                stats.panicked,
                stats.cancelled,
                stats.timed_out
            ),
            (1, 1, 3, 1)
        );
    });
}

#[test]
fn values_and_errors_that_panic_when_they_are_dropped_cost_no_worker() {
    everywhere(|env| async move {
        let (drops, gate) = (Drops::default(), Gate::new());
        let (inside, arrive) = (drops.clone(), gate.clone());
        let pool = env.in_order().spawn_on(&env, move |n: u32| {
            let (drops, gate) = (inside.clone(), arrive.clone());
            async move {
                gate.pass().await;
                match n {
                    0 => Ok(Some(Bomb(drops.token()))),
                    1 => Err(Bomb(drops.token())),
                    _ => Ok(None),
                }
            }
        });
        for n in [0, 1] {
            gate.open(3);
            // Detached before it ends, and after; dropped with its result unread.
            pool.try_submit(n).unwrap().detach();
            pool.wait_idle().await;
            let (late, unread) = (pool.try_submit(n).unwrap(), pool.try_submit(n).unwrap());
            pool.wait_idle().await;
            late.detach();
            drop(unread);
            // A map and a group that are not read to the end.
            let mut map = pool.map([n; 10]);
            assert!(poll_once(std::pin::pin!(map.next())).is_none());
            let group = pool.group();
            for _ in 0..3 {
                group.try_submit(n).unwrap();
            }
            gate.open(13);
            pool.wait_idle().await;
            drop(map);
            drop(group);
        }
        gate.open(1);
        assert!(
            pool.try_submit(2)
                .unwrap()
                .await
                .is_ok_and(|value| value.is_none()),
            "{}",
            env.name
        );
        assert_dropped(&drops).await;
        assert_eq!((drops.counts().0, assert_settled(&pool).workers), (32, 1));
    });
}

#[test]
fn completions_that_a_worker_still_holds_when_their_map_is_dropped_cost_no_worker() {
    in_both_ways(|slots| {
        let (drops, map) = (Drops::default(), Arc::new(Mutex::new(None)));
        let (inside, dropped) = (drops.clone(), Arc::clone(&map));
        let (pool, workers) = slots
            .in_order(Pool::builder())
            .timer(ManualTimer::new())
            .build(move |n: u32| {
                if n == 5 {
                    drop::<Option<futures_lite::stream::Boxed<()>>>(dropped.lock().unwrap().take());
                }
                let value = Bomb(inside.token());
                async move { Ok::<_, ()>(value) }
            });
        let mut completions = pool.map(0..10);
        assert!(poll_once(std::pin::pin!(completions.next())).is_none());
        *map.lock().unwrap() = Some(completions.map(std::mem::forget).boxed());
        future::block_on(workers.drive(pool.drain()));
        assert!(map.lock().unwrap().is_none());
        assert_eq!(drops.counts().0, drops.counts().1);
        assert_settled(&pool);
    });
}

#[test]
fn a_clone_of_a_kept_input_that_panics_costs_one_job_and_no_worker() {
    struct Fragile(
        u32,
        #[expect(dead_code, reason = "only its drop counts")] DropToken,
        Drops,
    );
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            if self.0 == 1 {
                panic_quietly();
            }
            Self(self.0, self.2.token(), self.2.clone())
        }
    }
    everywhere(|env| async move {
        let drops = Drops::default();
        let pool = env
            .in_order()
            .spawn_on(&env, |input: Fragile| async move { Ok::<_, ()>(input.0) });
        let inputs: Vec<_> = (0..3)
            .map(|n| Fragile(n, drops.token(), drops.clone()))
            .collect();
        let mut seen = Vec::new();
        let mut map = pool.map(inputs).keep_inputs().ordered();
        while let Some(completion) = map.next().await {
            seen.push((
                completion.input.map(|input| input.0),
                completion.attempts,
                completion.result.is_ok(),
            ));
        }
        assert_eq!(
            seen,
            [(Some(0), 1, true), (None, 0, false), (Some(2), 1, true)],
            "{}",
            env.name
        );
        drop(map);
        // What an abort hands back is copied for the completion: without a copy it has none, and
        // nothing is lost.
        let (pool, workers) = env
            .in_order()
            .build(|input: Fragile| async move { Ok::<_, ()>(input.0) });
        let mut map = pool
            .map([Fragile(1, drops.token(), drops.clone())])
            .keep_inputs();
        assert!(poll_once(std::pin::pin!(map.next())).is_none());
        let report = pool.abort().await;
        assert_eq!(report.unstarted[0].input.0, 1);
        assert!(
            map.next()
                .await
                .is_some_and(|completion| completion.input.is_none())
        );
        drop((workers, map, report));
        assert_dropped(&drops).await;
        assert_settled(&pool);
    });
}

#[test]
fn state_is_made_again_after_a_panic_and_only_then() {
    let (drops, made) = (Drops::default(), Arc::new(Mutex::new(Vec::new())));
    let (states, log) = (drops.clone(), Arc::clone(&made));
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(ManualTimer::new())
        .build_with_state(
            move |worker| {
                log.lock().unwrap().push(worker);
                (0, states.token())
            },
            async |(count, _): &mut (u32, DropToken), n: u32| {
                *count += 1;
                match n {
                    0 => panic_quietly(),
                    1 => Err(*count),
                    _ => Ok(*count),
                }
            },
        );
    let results = future::block_on(workers.drive(async {
        let map = pool.map([2, 1, 2, 0, 2, 2]).ordered();
        map.map(|completion| completion.result.map_err(|error| error.into_failed()))
            .collect::<Vec<_>>()
            .await
    }));
    assert_eq!(
        results,
        [Ok(1), Err(Some(2)), Ok(3), Err(None), Ok(1), Ok(2)]
    );
    assert_eq!(*made.lock().unwrap(), [0, 0]);
    assert_eq!(drops.counts(), (2, 2));
}

#[test]
fn a_panic_in_the_making_of_state_costs_one_job_and_is_tried_again() {
    let made = AtomicUsize::new(0);
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(ManualTimer::new())
        .build_with_state(
            |_| {
                if made.fetch_add(1, Ordering::SeqCst) < 2 {
                    panic_quietly();
                }
            },
            async |(): &mut (), n: u32| Ok::<_, ()>(n),
        );
    let results: Vec<_> = future::block_on(workers.drive(async {
        pool.map(0..4)
            .ordered()
            .map(|completion| completion.result.ok())
            .collect()
            .await
    }));
    assert_eq!(results, [None, None, Some(2), Some(3)]);
    assert_eq!(
        (made.load(Ordering::SeqCst), assert_settled(&pool).panicked),
        (3, 2)
    );
}

#[test]
fn state_that_panics_when_it_is_dropped_costs_nothing() {
    let drops = Drops::default();
    let states = drops.clone();
    let (pool, workers) = Pool::builder()
        .workers(2)
        .timer(ManualTimer::new())
        .build_with_state(
            move |_| Bomb(states.token()),
            async |_: &mut Bomb, n: u32| {
                if n == 0 {
                    panic_quietly();
                }
                yield_now().await;
                Ok::<_, ()>(n)
            },
        );
    future::block_on(workers.drive(async {
        let summary = pool.map([0, 1, 0, 2]).for_each(drop).await;
        assert_eq!(
            (summary.panicked, summary.succeeded, pool.stats().workers),
            (2, 2, 2)
        );
        pool.drain().await;
    }));
    assert!(drops.counts().0 >= 3);
    assert_eq!(drops.counts().0, drops.counts().1);
    assert_eq!(pool.stats().workers, 0);
}

#[test]
fn state_is_dropped_while_its_worker_still_counts() {
    struct Leaving(OwnPoolRef<u32, u32, ()>, Arc<AtomicUsize>);
    impl Drop for Leaving {
        fn drop(&mut self) {
            if let Some(pool) = self.0.take() {
                self.1.store(pool.stats().workers, Ordering::SeqCst);
            }
        }
    }
    for is_dropped in [false, true] {
        let (own, seen) = (
            OwnPool::<u32, u32, ()>::new(),
            Arc::new(AtomicUsize::new(0)),
        );
        let (inside, count) = (own.reach(), Arc::clone(&seen));
        let (pool, workers) = Pool::builder()
            .workers(1)
            .timer(ManualTimer::new())
            .build_with_state(
                move |_| Leaving(inside.clone(), Arc::clone(&count)),
                async |_: &mut Leaving, n: u32| Ok::<_, ()>(n),
            );
        own.set(&pool);
        pool.try_submit(1).unwrap().detach();
        let mut run = Box::pin(workers.into_iter().next().unwrap().run());
        assert!(poll_once(run.as_mut()).is_none());
        if !is_dropped {
            pool.close();
            assert!(poll_once(run.as_mut()).is_some());
        }
        drop(run);
        assert_eq!((seen.load(Ordering::SeqCst), pool.stats().workers), (1, 0));
    }
}

#[test]
fn a_panic_in_an_observer_changes_nothing() {
    everywhere(|env| async move {
        let pool = env
            .at_once(2)
            .observe(|_: &Event| panic_quietly())
            .spawn_on(&env, |n: u32| async move {
                yield_now().await;
                Ok::<_, ()>(n)
            });
        assert_eq!(
            pool.map(0..50).try_collect::<Vec<_>>().await,
            Ok((0..50).collect()),
            "{}",
            env.name
        );
        pool.drain().await;
        assert_eq!(assert_settled(&pool).succeeded, 50);
    });
}

#[test]
fn a_panic_in_the_place_for_unhandled_failures_changes_nothing() {
    everywhere(|env| async move {
        let (drops, calls) = (Drops::default(), Arc::new(AtomicUsize::new(0)));
        let (inside, count) = (drops.clone(), Arc::clone(&calls));
        let pool = env.in_order().spawn_on(&env, move |_: u32| {
            let error = inside.token();
            async move { Err::<(), _>(error) }
        });
        pool.on_unhandled(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            panic_quietly();
        });
        for n in 0..5 {
            pool.try_submit(n).unwrap().detach();
        }
        pool.drain().await;
        assert_dropped(&drops).await;
        assert_eq!(
            (calls.load(Ordering::SeqCst), assert_settled(&pool).failed),
            (5, 5),
            "{}",
            env.name
        );
    });
}

#[test]
fn a_panic_in_the_source_of_a_map_reaches_its_reader_and_loses_nothing() {
    in_both_ways(|slots| {
        let has_panicked = AtomicBool::new(false);
        let source = (0..6).inspect(|n| {
            if *n == 3 && !has_panicked.swap(true, Ordering::SeqCst) {
                panic_quietly();
            }
        });
        let (pool, workers) = slots
            .in_order(Pool::builder())
            .timer(ManualTimer::new())
            .build(|n: u32| async move { Ok::<_, ()>(n) });
        let values = future::block_on(workers.drive(async {
            let mut map = pool.map(source);
            let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                poll_once(std::pin::pin!(map.next()))
            }));
            assert!(polled.is_err());
            // The item that the source lost to its panic is the source's; the others are all there.
            map.map(|completion| completion.result.unwrap())
                .collect::<Vec<_>>()
                .await
        }));
        assert_eq!(values, [0, 1, 2, 4, 5]);
        assert_eq!(assert_settled(&pool).accepted, 5);
    });
}

#[test]
fn a_source_that_panics_keeps_neither_room_nor_the_inputs_of_a_cancelled_map() {
    let drops = Drops::default();
    let source = drops.clone();
    let (pool, _workers) = Pool::builder()
        .workers(1)
        .queue_capacity(4)
        .timer(ManualTimer::new())
        .build(|input: Option<DropToken>| async move { Ok::<_, ()>(input) });
    let mut map = pool.map((0..9).map(move |n| {
        if n == 2 {
            panic_quietly()
        } else {
            Some(source.token())
        }
    }));
    let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        poll_once(std::pin::pin!(map.next()))
    }));
    assert!(polled.is_err());
    let others: Vec<_> = (0..4).map(|_| pool.try_submit(None)).collect();
    assert!(others.iter().all(Result::is_ok));
    map.cancel();
    assert!(matches!(poll_once(std::pin::pin!(map.next())), Some(None)));
    assert_eq!(drops.counts(), (2, 2));
}

/// The first job holds back the others; two values that are dropped together would end the process.
#[test]
fn values_that_an_ordered_map_holds_back_may_panic_in_their_drops() {
    in_both_ways(|slots| {
        let drops = Drops::default();
        let made = drops.clone();
        let (pool, workers) = slots
            .at_once(Pool::builder(), 2)
            .timer(ManualTimer::new())
            .build(move |n: u32| {
                let bomb = (n > 0).then(|| Bomb(made.token()));
                async move {
                    match bomb {
                        Some(bomb) => Ok::<_, ()>(bomb),
                        None => future::pending().await,
                    }
                }
            });
        let mut workers: Vec<_> = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()))
            .collect();
        let mut map = pool.map(0..4).ordered();
        for _ in 0..2 {
            assert!(poll_once(std::pin::pin!(map.next())).is_none());
            workers
                .iter_mut()
                .for_each(|worker| assert_eq!(poll_once(worker.as_mut()), None));
        }
        assert!(poll_once(std::pin::pin!(map.next())).is_none());
        drop(map);
        assert_eq!(drops.counts(), (3, 3));
    });
}

#[test]
fn a_panic_counts_as_a_failure_for_a_map_that_stops_at_one() {
    everywhere(|env| async move {
        let pool = env.in_order().spawn_on(&env, |n: u32| async move {
            if n == 2 {
                panic_quietly();
            }
            Ok::<_, ()>(n)
        });
        let summary = pool
            .map(0..100)
            .on_error(OnError::Stop)
            .for_each(drop)
            .await;
        assert_eq!((summary.panicked, summary.end), (1, brigade::End::Stopped));
        let collected = pool.map(0..100).try_collect::<Vec<_>>().await;
        assert!(
            matches!(
                collected,
                Err(CollectError::Job {
                    index: 2,
                    error: JobError::Panicked(_),
                    ..
                })
            ),
            "{}",
            env.name
        );
    });
}

#[test]
fn every_panic_is_one_finished_event() {
    everywhere(|env| async move {
        let events = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&events);
        let pool = env
            .in_order()
            .observe(move |event: &Event| {
                if let Event::Finished {
                    outcome, attempts, ..
                } = event
                {
                    log.lock().unwrap().push((*outcome, *attempts));
                }
            })
            .spawn_on(&env, |_: u32| async move {
                if panic_isolation() {
                    panic_quietly();
                }
                Ok::<_, ()>(())
            });
        pool.map(0..3).for_each(drop).await;
        assert_eq!(
            *events.lock().unwrap(),
            [(Outcome::Panicked, 1); 3],
            "{}",
            env.name
        );
    });
}

/// The callback replaces itself, so its own drop is left to the report.
#[test]
fn a_callback_for_unhandled_failures_may_panic_when_it_is_dropped() {
    struct PanicsOnDrop;
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("a drop"));
        }
    }
    in_both_ways(|slots| {
        let builder = slots.at_once(Pool::builder(), 1).timer(ManualTimer::new());
        let (pool, workers) = builder.build(|n: u32| async move { Err::<(), _>(n) });
        let (own, bomb) = (pool.clone(), PanicsOnDrop);
        pool.on_unhandled(move |_| {
            let _ = &bomb;
            own.on_unhandled(|_| {});
        });
        pool.try_submit(1).unwrap().detach();
        let mut workers: Vec<_> = (workers.into_iter())
            .map(|worker| Box::pin(worker.run()))
            .collect();
        for worker in &mut workers {
            let _ = poll_once(worker.as_mut());
        }
        assert_eq!(assert_settled(&pool).failed, 1);
    });
}
