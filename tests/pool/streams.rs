//! Completions of maps and groups: their order, their bound, and what happens when they are not
//! read.

use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_executor::LocalExecutor;
use brigade::rt::BoxFuture;
use brigade::{End, ManualTimer, Map, Pool, SubmitError, Submitter};
use futures_lite::{Stream, StreamExt, future, stream};

use crate::harness::{
    Drops, Env, Gate, Live, Slots, assert_settled, everywhere, everywhere_once, gated,
    in_both_ways, millis, on_wake, poll_once, yield_now,
};

/// Advances the clock to the next deadline whenever there is one, until the future ends.
async fn run_out<F: Future>(clock: &ManualTimer, future: F) -> F::Output {
    future::or(future, async {
        loop {
            clock.sleepers(1).await;
            clock.advance_to_next();
            yield_now().await;
        }
    })
    .await
}

/// A pool whose jobs sleep for as many milliseconds as their input says, and then return it.
fn sleeping_pool(env: &Env, at_once: usize) -> Pool<u64, u64, ()> {
    let clock = env.clock.clone();
    env.at_once(at_once).spawn_on(env, move |millis: u64| {
        let clock = clock.clone();
        async move {
            clock.sleep(Duration::from_millis(millis)).await;
            Ok(millis)
        }
    })
}

#[test]
fn an_ordered_map_yields_in_the_order_of_its_inputs_whatever_the_jobs_take() {
    everywhere(|env| async move {
        let pool = sleeping_pool(&env, 8);
        let inputs: Vec<u64> = (0..100).map(|n| (n * 7919) % 53 + 1).collect();
        let completions = run_out(
            &env.clock,
            pool.map(inputs.clone()).ordered().collect::<Vec<_>>(),
        )
        .await;
        let seen: Vec<_> = completions
            .into_iter()
            .map(|c| (c.index, c.result))
            .collect();
        assert_eq!(
            seen,
            inputs.into_iter().map(Ok).enumerate().collect::<Vec<_>>()
        );
        assert_settled(&pool);
    });
}

#[test]
fn an_unordered_map_yields_as_jobs_end() {
    everywhere(|env| async move {
        for (slots, expected) in [(4, [100, 200, 300, 400]), (1, [400, 300, 200, 100])] {
            let pool = sleeping_pool(&env, slots);
            let mut map = pool.map([400, 300, 200, 100]);
            let mut seen = Vec::new();
            for asleep in if slots == 4 { [4, 3, 2, 1] } else { [1; 4] } {
                assert_eq!(poll_once(pin!(map.next())), None);
                env.clock.sleepers(asleep).await;
                assert!(env.clock.advance_to_next());
                seen.push(map.next().await.unwrap().result.unwrap());
            }
            assert_eq!(seen, expected);
            assert_eq!(map.next().await, None);
            assert_settled(&pool);
        }
    });
}

#[test]
fn a_slow_first_job_holds_back_the_others_of_an_ordered_map() {
    everywhere(|env| async move {
        for slots in [2, 4, 8] {
            let pool = sleeping_pool(&env, slots);
            let values = run_out(
                &env.clock,
                pool.map([400, 300, 200, 100]).ordered().collect::<Vec<_>>(),
            )
            .await;
            let values: Vec<_> = values.into_iter().map(|c| c.result).collect();
            assert_eq!(
                values,
                [Ok(400), Ok(300), Ok(200), Ok(100)],
                "{slots} slots"
            );
            assert_settled(&pool);
        }
    });
}

#[test]
fn for_each_calls_in_order_while_as_many_jobs_run_as_there_are_slots() {
    everywhere(|env| async move {
        let (gate, live) = (Gate::new(), Live::default());
        let (inside, alive) = (gate.clone(), live.clone());
        let pool = env.at_once(5).spawn_on(&env, move |n: usize| {
            let (gate, live) = (inside.clone(), alive.clone());
            async move {
                let _guard = live.enter();
                gate.pass().await;
                Ok::<_, ()>(n)
            }
        });
        let mut called = Vec::new();
        let run = pool
            .map(0..50)
            .ordered()
            .for_each(|completion| called.push(completion.result));
        let (summary, ()) = future::zip(run, async {
            gate.arrived(5).await;
            gate.open(50);
        })
        .await;
        assert!(summary.is_complete());
        assert_eq!(called, (0..50).map(Ok).collect::<Vec<_>>());
        assert_eq!((live.most(), live.now()), (5, 0));
        assert_settled(&pool);
    });
}

#[test]
fn a_source_that_is_ready_now_and_then_never_starts_more_jobs_than_workers() {
    everywhere_once(|env| async move {
        let (gate, live) = (Gate::new(), Live::default());
        let (inside, alive) = (gate.clone(), live.clone());
        let pool = env
            .builder()
            .workers(1)
            .queue_capacity(2)
            .spawn_on(&env, move |n: usize| {
                let (gate, live) = (inside.clone(), alive.clone());
                async move {
                    let _guard = live.enter();
                    gate.pass().await;
                    Ok::<_, ()>(n)
                }
            });
        let (feed, source) = async_channel::unbounded();
        let mut map = pool.map_stream(source).window(3);
        let mut seen = Vec::new();
        for n in 0..20 {
            feed.try_send(n).unwrap();
            assert_eq!(poll_once(pin!(map.next())), None);
            if n % 2 == 1 {
                for _ in 0..2 {
                    gate.arrived(1).await;
                    gate.open(1);
                    seen.push(map.next().await.unwrap().result);
                }
            }
        }
        drop(feed);
        assert_eq!(map.next().await, None);
        assert_eq!(seen, (0..20).map(Ok).collect::<Vec<_>>());
        assert_eq!(live.most(), 1);
        assert!(map.summary().is_complete());
        assert_settled(&pool);
    });
}

#[test]
fn no_more_inputs_are_out_of_the_source_and_unread_than_the_window() {
    everywhere(|env| async move {
        for window in [1, 3, 7] {
            let pool = env.at_once(8).spawn_on(&env, |n: usize| async move {
                yield_now().await;
                Ok::<_, ()>(n)
            });
            let (pulled, read, most) = (
                AtomicUsize::new(0),
                AtomicUsize::new(0),
                AtomicUsize::new(0),
            );
            let source = (0..200).inspect(|_| {
                let pulled = pulled.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(pulled - read.load(Ordering::SeqCst), Ordering::SeqCst);
            });
            let mut map = pool.map(source).window(window);
            while map.next().await.is_some() {
                read.fetch_add(1, Ordering::SeqCst);
            }
            assert_eq!(
                (most.load(Ordering::SeqCst), read.load(Ordering::SeqCst)),
                (window, 200)
            );
            assert_settled(&pool);
        }
    });
}

#[test]
fn a_map_that_is_dropped_or_cancelled_pulls_no_more() {
    everywhere(|env| async move {
        let pool = env
            .at_once(2)
            .spawn_on(&env, |n: usize| async move { Ok::<_, ()>(n) });
        let pulled = AtomicUsize::new(0);
        let source = || (0..1000).inspect(|_| _ = pulled.fetch_add(1, Ordering::SeqCst));

        let mut map = pool.map(source()).window(4);
        assert!(map.next().await.is_some());
        let before = pulled.load(Ordering::SeqCst);
        drop(map);
        pool.wait_idle().await;
        assert_eq!(pulled.swap(0, Ordering::SeqCst), before);

        let mut map = pool.map(source()).window(4);
        assert!(map.next().await.is_some());
        map.cancel();
        let before = pulled.load(Ordering::SeqCst);
        let rest = (&mut map).count().await;
        assert_eq!(pulled.load(Ordering::SeqCst), before);
        let summary = map.summary();
        assert_eq!(
            (summary.accepted, 1 + rest, summary.end),
            (before, before, End::Cancelled)
        );
        assert_settled(&pool);
    });
}

#[test]
fn unread_results_hold_up_neither_workers_nor_a_drain() {
    everywhere(|env| async move {
        let pool = env
            .at_once(2)
            .queue_capacity(100)
            .spawn_on(&env, |n: usize| async move {
                if n.is_multiple_of(2) { Ok(n) } else { Err(n) }
            });
        let group = pool.group();
        let mut map = pool.map(0..1000).window(60);
        let first = poll_once(pin!(map.next())).is_some();
        pool.wait_idle().await;
        for n in 0..50 {
            group.submit(n).await.unwrap();
        }
        let handles: Vec<_> = future::zip(
            async {
                let mut handles = Vec::new();
                for n in 0..100 {
                    handles.push(pool.submit(n).await.unwrap());
                }
                handles
            },
            pool.wait_idle(),
        )
        .await
        .0;
        pool.drain().await;
        assert_eq!(group.unread(), 50);
        let read = (&mut map).count().await;
        let summary = map.summary();
        assert_eq!(
            (read + usize::from(first), summary.accepted, summary.end),
            (60, 60, End::Closed)
        );
        let stats = assert_settled(&pool);
        assert_eq!(
            (stats.accepted, stats.succeeded, stats.failed),
            (210, 105, 105)
        );
        drop((group, handles));
    });
}

#[test]
fn the_index_of_a_completion_is_the_position_of_its_input() {
    everywhere(|env| async move {
        let pool = sleeping_pool(&env, 3);
        let (feed, source) = async_channel::unbounded();
        let completions = run_out(
            &env.clock,
            future::zip(
                pool.map_stream(source).keep_inputs().collect::<Vec<_>>(),
                async {
                    for millis in [50, 10, 40, 20, 30] {
                        feed.send(millis).await.unwrap();
                        yield_now().await;
                    }
                    feed.close();
                },
            ),
        )
        .await
        .0;
        let mut seen: Vec<_> = completions
            .into_iter()
            .map(|c| (c.index, c.input, c.result))
            .collect();
        seen.sort_unstable_by_key(|(index, ..)| *index);
        let expected: Vec<_> = [50, 10, 40, 20, 30]
            .into_iter()
            .map(|n| (Some(n), Ok(n)))
            .collect();
        assert_eq!(
            seen.into_iter()
                .map(|(_, input, result)| (input, result))
                .collect::<Vec<_>>(),
            expected
        );
        assert_settled(&pool);
    });
}

#[test]
fn values_that_say_skip_leave_the_order_of_the_others() {
    everywhere(|env| async move {
        let pool = env.at_once(4).spawn_on(&env, |n: u32| async move {
            Ok::<_, ()>((!n.is_multiple_of(3)).then_some(n))
        });
        let some = pool.map(0..10).try_collect::<Vec<_>>().await.unwrap();
        assert_eq!(
            some.into_iter().flatten().collect::<Vec<_>>(),
            [1, 2, 4, 5, 7, 8]
        );
        let none = pool.map([0, 3, 6]).try_collect::<Vec<_>>().await.unwrap();
        assert_eq!(none.into_iter().flatten().collect::<Vec<u32>>(), []);
        assert_settled(&pool);
    });
}

#[test]
fn the_first_success_can_end_a_race_and_stops_the_others() {
    everywhere(|env| async move {
        let (drops, gate) = (Drops::default(), Gate::new());
        let (counted, inside) = (drops.clone(), gate.clone());
        let pool = env.at_once(4).spawn_on(&env, move |n: u32| {
            let (token, gate) = (counted.token(), inside.clone());
            async move {
                let _token = token;
                match n {
                    0 => Err("no"),
                    2 => {
                        gate.pass().await;
                        Ok(n)
                    }
                    _ => {
                        gate.pass().await;
                        future::pending().await
                    }
                }
            }
        });
        // All are at the gate; only the one that may succeed gets through to its end.
        let mut map = pool.map([0, 1, 2, 3]);
        assert_eq!(
            map.next().await.map(|c| c.result),
            Some(Err(brigade::JobError::Failed("no")))
        );
        let (winner, ()) = future::zip(
            async {
                loop {
                    if let Some(Ok(winner)) = map.next().await.map(|c| c.result) {
                        return winner;
                    }
                }
            },
            async {
                gate.arrived(3).await;
                gate.open(3);
            },
        )
        .await;
        assert_eq!(winner, 2);
        drop(map);
        pool.wait_idle().await;
        assert_eq!(drops.counts(), (4, 4));
        let stats = assert_settled(&pool);
        assert_eq!((stats.succeeded, stats.failed, stats.cancelled), (1, 1, 2));
    });
}

#[test]
fn inputs_are_pulled_from_a_pending_source_as_soon_as_it_has_some() {
    everywhere(|env| async move {
        let pool = sleeping_pool(&env, 2);
        let seen = Mutex::new(Vec::new());
        let clock = env.clock.clone();
        let source = stream::unfold(3, move |left: u64| {
            let clock = clock.clone();
            async move {
                clock.sleep(millis(10)).await;
                (left > 0).then(|| (left, left - 1))
            }
        });
        let run = pool
            .map_stream(source)
            .ordered()
            .for_each(|c| seen.lock().unwrap().push(c.result));
        let summary = run_out(&env.clock, run).await;
        assert!(summary.is_complete());
        assert_eq!(*seen.lock().unwrap(), [Ok(3), Ok(2), Ok(1)]);
        assert_settled(&pool);
    });
}

#[test]
fn a_loop_over_a_map_may_submit_to_the_same_pool_whatever_its_capacity() {
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
        let mut map = pool.map(0..3).window(10);
        assert_eq!(poll_once(pin!(map.next())), None);
        gate.arrived(1).await;
        gate.open(1);
        // The queue is full again, and the map has more to submit.
        assert_eq!(map.next().await.unwrap().result, Ok(0));
        let mut submit = pin!(pool.submit(9));
        let early = poll_once(submit.as_mut());
        gate.open(10);
        let handle = match early {
            Some(submitted) => submitted,
            None => submit.await,
        };
        assert_eq!(handle.unwrap().await, Ok(9));
        assert_eq!(map.count().await, 2);
        assert_settled(&pool);
    });
}

#[test]
fn maps_and_groups_share_one_pool_without_mixing_their_results() {
    everywhere(|env| async move {
        let pool = env
            .at_once(3)
            .queue_capacity(2)
            .spawn_on(&env, |n: u32| async move { Ok::<_, ()>(n) });
        let total = Arc::new(AtomicUsize::new(0));
        let map = |range: std::ops::Range<u32>| {
            let pool = &pool;
            let total = Arc::clone(&total);
            async move {
                let values: Vec<u32> = pool.map(range.clone()).try_collect().await.unwrap();
                total.fetch_add(values.len(), Ordering::SeqCst);
                assert_eq!(values, range.collect::<Vec<_>>());
            }
        };
        future::zip(future::zip(map(0..100), map(100..300)), map(300..500)).await;
        assert_eq!(total.load(Ordering::SeqCst), 500);
        assert_settled(&pool);
    });
}

#[test]
fn a_summary_says_unfinished_until_all_is_read() {
    everywhere(|env| async move {
        let pool = env
            .at_once(2)
            .spawn_on(&env, |n: u32| async move { Ok::<_, ()>(n) });
        let mut map = pool.map(0..3);
        let mut ends = vec![map.summary().end];
        while map.next().await.is_some() {
            ends.push(map.summary().end);
        }
        ends.push(map.summary().end);
        let unfinished = End::Unfinished;
        assert_eq!(
            ends,
            [
                unfinished,
                unfinished,
                unfinished,
                End::Complete,
                End::Complete
            ],
            "{}",
            env.name
        );
    });
}

#[test]
fn one_free_place_of_a_large_window_is_filled_while_there_is_nothing_to_read() {
    everywhere(|env| async move {
        let (pool, gate, started) = gated(&env, env.at_once(16));
        let mut map = pool.map(0..17).window(16);
        assert!(poll_once(pin!(map.next())).is_none());
        gate.arrived(16).await;
        gate.open(1);
        map.next().await.unwrap();
        // The last job starts though none of the others ends.
        assert!(poll_once(pin!(map.next())).is_none());
        gate.arrived(1).await;
        let mut starts = started.take();
        starts.sort_unstable();
        assert_eq!(starts, (0..17).collect::<Vec<u32>>(), "{}", env.name);
        gate.open(16);
        assert_eq!(map.count().await, 16);
        assert_settled(&pool);
    });
}

#[test]
fn jobs_of_a_map_add_jobs_for_as_long_as_the_map_is_read() {
    everywhere(|env| async move {
        let (pool, workers) = env.in_order().child_capacity(1).build_with_submitter(
            |n: u32, jobs: Submitter<u32, u32, &'static str>| async move {
                if n < 50 {
                    jobs.add(n + 50).map_err(|_| "refused")?;
                }
                Ok(n)
            },
        );
        workers.spawn_on(&env);
        let mut values = pool
            .map(0..50)
            .window(1)
            .try_collect::<Vec<_>>()
            .await
            .unwrap();
        values.sort_unstable();
        assert_eq!(values, (0..100).collect::<Vec<_>>(), "{}", env.name);
        assert_settled(&pool);
    });
}

/// On one thread, since the parent adds its child after the map was granted a place and before it
/// is polled again.
#[test]
fn a_map_passes_on_a_place_that_a_child_leaves_it_no_use_for() {
    in_both_ways(|slots| {
        let gate = Gate::new();
        let pass = gate.clone();
        let (pool, workers) = slots
            .one_by_one(Pool::builder())
            .queue_capacity(1)
            .timer(ManualTimer::new())
            .build_with_submitter(move |n: u32, jobs: Submitter<u32, u32, ()>| {
                let gate = pass.clone();
                async move {
                    if n == 1 {
                        gate.pass().await;
                        jobs.add(2).map_err(drop)?;
                        gate.pass().await;
                    }
                    Ok(n)
                }
            });
        let mut worker: BoxFuture<'_, ()> = Box::pin(workers.into_iter().next().unwrap().run());
        let mut map = Box::pin(pool.map([1, 3]).window(2));
        assert!(poll_once(pin!(map.next())).is_none());
        let mut look = |worker: &mut BoxFuture<'_, ()>| {
            let next = map
                .as_mut()
                .poll_next(&mut Context::from_waker(Waker::noop()));
            assert_eq!(poll_once(worker.as_mut()), None);
            next.map(|completion| completion.map(|completion| completion.result))
        };
        assert_eq!(look(&mut worker), Poll::Pending);
        gate.open(1);
        assert_eq!(poll_once(worker.as_mut()), None);
        assert_eq!(look(&mut worker), Poll::Pending);
        let other = pool.try_submit(4).unwrap();
        gate.open(1);
        let results: Vec<_> = std::iter::repeat_with(|| look(&mut worker))
            .filter(Poll::is_ready)
            .take(4)
            .collect();
        let ready = |n| Poll::Ready(Some(Ok(n)));
        assert_eq!(results, [ready(1), ready(2), ready(3), Poll::Ready(None)]);
        assert_eq!(poll_once(pin!(other)), Some(Ok(4)));
    });
}

// ---- room ----

/// Capacity is held by permits: what is free is less than half, and more than nothing.
#[test]
fn a_map_goes_on_with_the_room_there_is_while_workers_are_idle() {
    for slots in Slots::BOTH {
        let builder = slots
            .at_once(Pool::builder(), 16)
            .queue_capacity(16)
            .timer(ManualTimer::new());
        let (pool, workers) = builder.build(|_: u32| future::pending::<Result<(), ()>>());
        let executor = LocalExecutor::new();
        for worker in workers {
            executor.spawn(worker.run()).detach();
        }
        let permits = [(); 13].map(|()| pool.try_reserve().unwrap());
        let mut map = pool.map(0..1000);
        let reading = executor.spawn(async move { while map.next().await.is_some() {} });
        while executor.try_tick() {}
        assert_eq!(pool.stats().running, 16);
        drop((reading, permits));
    }
}

/// What else submits jobs.
#[derive(Debug, Clone, Copy)]
enum Others {
    /// As many tasks, each of which waits for room.
    Waiting(usize),
    /// One that does not wait.
    Trying,
    Map,
}

/// The first job of the map never ends, so it always has something in the pool.
#[test]
fn a_map_has_its_share_of_the_room_whatever_else_submits() {
    const ENOUGH: usize = 4000;
    for capacity in [1, 10, 100] {
        for others in [
            Others::Waiting(2),
            Others::Waiting(8),
            Others::Trying,
            Others::Map,
        ] {
            let (pool, workers) = Pool::builder()
                .workers(4)
                .queue_capacity(capacity)
                .timer(ManualTimer::new())
                .build(|is_endless: bool| async move {
                    if is_endless {
                        future::pending::<()>().await;
                    }
                    yield_now().await;
                    Ok::<_, ()>(())
                });
            let executor = LocalExecutor::new();
            for worker in workers {
                executor.spawn(worker.run()).detach();
            }
            let counter = || Rc::new(Cell::new(0));
            let (ours, theirs) = (counter(), counter());
            let read = |mut inputs: Map<bool, (), (), _>, count: &Rc<Cell<usize>>| {
                let count = Rc::clone(count);
                async move {
                    while inputs.next().await.is_some() {
                        count.set(count.get() + 1);
                    }
                }
            };
            executor
                .spawn(read(
                    pool.map(std::iter::once(true).chain(std::iter::repeat(false))),
                    &ours,
                ))
                .detach();
            match others {
                Others::Map => executor
                    .spawn(read(
                        pool.map(std::iter::once(false).chain(std::iter::repeat(false))),
                        &theirs,
                    ))
                    .detach(),
                Others::Trying => {
                    let (pool, count) = (pool.clone(), Rc::clone(&theirs));
                    let submit = async move {
                        loop {
                            while let Ok(handle) = pool.try_submit(false) {
                                handle.detach();
                                count.set(count.get() + 1);
                            }
                            future::yield_now().await;
                        }
                    };
                    executor.spawn(submit).detach();
                }
                Others::Waiting(tasks) => {
                    for _ in 0..tasks {
                        let (pool, count) = (pool.clone(), Rc::clone(&theirs));
                        let submit = async move {
                            loop {
                                pool.submit(false).await.unwrap().detach();
                                count.set(count.get() + 1);
                            }
                        };
                        executor.spawn(submit).detach();
                    }
                }
            }
            // `try_submit` gets no permit while others wait for one.
            while theirs.get() < ENOUGH && ours.get() < ENOUGH {
                assert!(
                    executor.try_tick(),
                    "capacity {capacity}, {others:?}: no task can go on"
                );
            }
            // A map waits in no line, where others take all that is free: it has one job in the
            // queue among theirs.
            let share = if let Others::Map = others {
                4
            } else {
                2 * capacity.max(8)
            };
            assert!(
                ours.get() * share >= theirs.get(),
                "capacity {capacity}, {others:?}: {ours:?} beside {theirs:?}"
            );
        }
    }
}

/// The source of a map is polled only by that map, which may wait for room itself.
#[test]
fn maps_that_are_each_the_source_of_the_next_need_no_more_room_than_one() {
    for (capacity, depth) in [(1, 1), (1, 2), (1, 8), (3, 8), (64, 3)] {
        let (pool, workers) = Pool::builder()
            .workers(2)
            .queue_capacity(capacity)
            .timer(ManualTimer::new())
            .build(|n: u32| async move { Ok::<_, ()>(n + 1) });
        let executor = LocalExecutor::new();
        for worker in workers {
            executor.spawn(worker.run()).detach();
        }
        let mut stages: Pin<Box<dyn Stream<Item = u32>>> = Box::pin(stream::iter(0..200));
        for _ in 0..depth {
            stages = Box::pin(
                pool.map_stream(stages)
                    .map(|completion| completion.result.unwrap()),
            );
        }
        let run = executor.spawn(async move { stages.collect::<Vec<_>>().await });
        // So many turns are more than enough; without an end it would spin or sleep.
        let mut ticks = 0;
        while !run.is_finished() {
            assert!(
                executor.try_tick(),
                "capacity {capacity}, depth {depth}: all sleep"
            );
            ticks += 1;
            assert!(
                ticks < 200_000,
                "capacity {capacity}, depth {depth}: it spins"
            );
        }
        let mut ended = future::block_on(run);
        ended.sort_unstable();
        assert_eq!(ended, (depth..depth + 200).collect::<Vec<_>>());
    }
}

#[test]
fn beyond_the_capacity_each_map_has_one_job_in_the_queue() {
    let (pool, _workers) = Pool::builder()
        .workers(1)
        .queue_capacity(3)
        .timer(ManualTimer::new())
        .build(|n: u32| async move { Ok::<_, ()>(n) });
    let mut alone = pool.map(0..100);
    assert!(poll_once(pin!(alone.next())).is_none());
    assert_eq!(
        pool.stats().queued,
        3,
        "a map that is alone keeps to the capacity"
    );
    let mut others: Vec<_> = (0..4).map(|_| pool.map(0..100)).collect();
    for other in &mut others {
        assert!(poll_once(pin!(other.next())).is_none());
        assert!(poll_once(pin!(other.next())).is_none());
    }
    assert_eq!(pool.stats().queued, 3 + 4);
    let last = pool.try_submit(0).expect("the last place is for others");
    assert!(pool.try_submit(0).unwrap_err().is_full());
    drop(last);
}

#[test]
fn a_submission_that_waits_for_room_ends_when_its_group_is_cancelled() {
    let (pool, _workers) = Pool::builder()
        .workers(1)
        .queue_capacity(1)
        .timer(ManualTimer::new())
        .build(|n: u32| async move { Ok::<_, ()>(n) });
    pool.try_submit(0).unwrap().detach();
    let (group, other) = (pool.group(), pool.group());
    let (woken, tell) = std::sync::mpsc::channel();
    let waker = on_wake(move || woken.send(()).unwrap());
    let (mut submit, mut stays) = (pin!(group.submit(1)), pin!(other.submit(2)));
    assert!(
        submit
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    assert!(poll_once(stays.as_mut()).is_none());
    group.cancel();
    assert_eq!(tell.try_recv(), Ok(()), "the submission is not woken");
    assert_eq!(poll_once(submit), Some(Err(SubmitError::Closed(1))));
    assert!(poll_once(stays).is_none());
}

/// Polls until the future sleeps; says how often, or that it never does.
fn polls_until_asleep<F: Future>(mut future: Pin<&mut F>) -> usize {
    let woken = Arc::new(AtomicUsize::new(0));
    struct Counts(Arc<AtomicUsize>);
    impl std::task::Wake for Counts {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let waker = Waker::from(Arc::new(Counts(Arc::clone(&woken))));
    for polls in 1..1000 {
        let before = woken.load(Ordering::SeqCst);
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_ready() || woken.load(Ordering::SeqCst) == before {
            return polls;
        }
    }
    panic!("it wakes itself forever");
}

#[test]
fn a_source_may_wait_for_its_pool_to_be_idle() {
    let (pool, _workers) = Pool::builder()
        .timer(ManualTimer::new())
        .build(|n: u32| async move { Ok::<_, ()>(n) });
    let inner = pool.clone();
    let source = stream::once(1).chain(stream::once(()).then(move |()| {
        let inner = inner.clone();
        Box::pin(async move {
            inner.wait_idle().await;
            2
        })
    }));
    let mut map = pool.map_stream(source);
    assert!(polls_until_asleep(pin!(map.next())) < 5);
    assert_eq!(pool.stats().queued, 1);
}

#[test]
fn a_task_may_wait_for_the_end_of_a_pool_while_it_reads_a_map_of_it() {
    let (pool, _workers) = Pool::builder()
        .timer(ManualTimer::new())
        .build(|n: u32| async move { Ok::<_, ()>(n) });
    let mut map = pool.map_stream(stream::pending());
    let both = future::or(pool.wait_running_below(0), async {
        map.next().await;
    });
    assert!(polls_until_asleep(pin!(both)) < 5);
}

#[test]
fn a_job_that_starts_wakes_few_of_the_maps_that_wait_for_room() {
    let (pool, workers) = Pool::builder()
        .workers(4)
        .queue_capacity(8)
        .timer(ManualTimer::new())
        .build(|n: u32| async move {
            yield_now().await;
            Ok::<_, ()>(n)
        });
    let executor = LocalExecutor::new();
    for worker in workers {
        executor.spawn(worker.run()).detach();
    }
    let polls = Rc::new(Cell::new(0));
    let readers: Vec<_> = (0..60)
        .map(|_| {
            let (mut map, polls) = (pool.map(0..50), Rc::clone(&polls));
            executor.spawn(async move {
                while future::poll_fn(|cx| {
                    polls.set(polls.get() + 1);
                    Pin::new(&mut map).poll_next(cx)
                })
                .await
                .is_some()
                {}
            })
        })
        .collect();
    future::block_on(executor.run(async {
        for reader in readers {
            reader.await;
        }
    }));
    assert!(
        polls.get() < 4 * 60 * 50,
        "{} polls for {} jobs",
        polls.get(),
        60 * 50
    );
}

// ---- maps and the queue ----

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
fn a_stream_of_inputs_that_is_never_ready_holds_up_no_other_map() {
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
            // The reader awaits something else; all jobs that it has submitted end meanwhile.
            pool.wait_idle().await;
            assert_eq!((pool.stats().succeeded, map.count().await), (20, 20));
        }));
    });
}

// ---- groups ----

#[test]
fn an_unread_group_refuses_what_is_beyond_its_window() {
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
