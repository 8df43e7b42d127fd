//! Jobs that wait for their own pool: a wait that can end is not refused, and a wait that cannot end
//! is refused with `WouldDeadlock`.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_executor::LocalExecutor;
use brigade::rt::BoxFuture;
use brigade::{
    End, Event, Group, JobError, JobHandle, ManualTimer, Observer, Pool, RateLimit, Retry,
    SubmitError, Submitter,
};
use futures::stream::FuturesUnordered;
use futures_lite::{Stream, StreamExt, future};

use crate::harness::{
    Gate, HOUR, OwnPool, SECOND, Wakes, assert_settled, everywhere, in_both_ways, on_wake,
    poll_once,
};

/// One parent starts in the first worker; the other one in the last, which has the first one's
/// child before it.
fn answer_parents<W: Future<Output = ()>>(
    pool: &Pool<u32, u32, &'static str>,
    workers: &mut [Pin<Box<W>>],
) {
    let first = pool.try_submit(11).unwrap();
    assert_eq!(poll_once(workers[0].as_mut()), None);
    let second = pool.try_submit(12).unwrap();
    assert_eq!(poll_once(workers.last_mut().unwrap().as_mut()), None);
    for _ in 0..3 {
        for worker in &mut *workers {
            assert_eq!(poll_once(worker.as_mut()), None);
        }
    }
    assert_eq!(poll_once(pin!(first)), Some(Ok(1)));
    assert_eq!(poll_once(pin!(second)), Some(Ok(2)));
}

/// A parent awaits its child; the other worker, or slot, does that child, and then takes the second
/// parent before the first one was polled again.
#[test]
fn a_job_whose_wait_is_over_does_not_count_as_waiting() {
    in_both_ways(|slots| {
        let (pool, workers) = slots
            .at_once(Pool::builder(), 2)
            .timer(ManualTimer::new())
            .build_with_submitter(
                |n: u32, jobs: Submitter<u32, u32, &'static str>| async move {
                    if n < 10 {
                        return Ok(n);
                    }
                    let child = jobs.submit(n - 10).map_err(|_| "refused")?;
                    child.await.map_err(|_| "the wait was refused")
                },
            );
        let mut workers: Vec<_> = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()))
            .collect();
        answer_parents(&pool, &mut workers);
        assert_settled(&pool);
    });
}

/// The same, with a map instead of a handle.
#[test]
fn a_job_whose_map_has_something_to_read_does_not_count_as_waiting() {
    in_both_ways(|slots| {
        let own = OwnPool::<u32, u32, &'static str>::new();
        let inside = own.reach();
        let (pool, workers) = slots
            .at_once(Pool::builder(), 2)
            .timer(ManualTimer::new())
            .build(move |n: u32| {
                let own = inside.get();
                async move {
                    if n < 10 {
                        return Ok(n);
                    }
                    let values = own.unwrap().map([n - 10]).try_collect::<Vec<_>>().await;
                    values
                        .map(|values| values[0])
                        .map_err(|_| "the wait was refused")
                }
            });
        own.set(&pool);
        let mut workers: Vec<_> = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()))
            .collect();
        answer_parents(&pool, &mut workers);
    });
}

/// A parent awaits a child that its own key keeps back; the last job that could start without it
/// goes away with its map.
#[test]
fn a_job_is_told_that_it_would_wait_forever_when_the_last_job_that_could_start_is_cancelled() {
    in_both_ways(|slots| {
        let own = OwnPool::<u32, u32, &'static str>::new();
        let inside = own.reach();
        let (pool, workers) = slots
            .at_once(Pool::builder(), 2)
            .timer(ManualTimer::new())
            .key_by(|n: &u32| n % 2)
            .max_running_per_key(1)
            .rate_limit_per_key(RateLimit::per(1, HOUR).burst(1))
            .build(move |n: u32| {
                let own = inside.get();
                async move {
                    match n {
                        0 => own
                            .unwrap()
                            .try_submit(2)
                            .unwrap()
                            .await
                            .map_err(|_| "the wait was refused"),
                        n => Ok(n),
                    }
                }
            });
        own.set(&pool);
        // It polls those that were woken, and no others.
        let executor = LocalExecutor::new();
        for worker in workers {
            executor.spawn(worker.run()).detach();
        }
        let turns = || while executor.try_tick() {};
        let mut first = pool.try_submit(1).unwrap();
        turns();
        assert_eq!(poll_once(pin!(&mut first)), Some(Ok(1)));
        let mut map = pool.map([3]);
        assert_eq!(poll_once(pin!(map.next())), None);
        let mut parent = pool.try_submit(0).unwrap();
        turns();
        // In an hour the job of the map will start.
        assert_eq!(poll_once(pin!(&mut parent)), None);
        drop(map);
        turns();
        assert_eq!(
            poll_once(pin!(&mut parent)),
            Some(Err(JobError::Failed("the wait was refused")))
        );
    });
}

/// While the last free worker begins to wait, an outcome that the consumer waits for is on its way
/// out of it.
#[test]
fn an_outcome_that_has_not_left_its_worker_ends_a_wait_all_the_same() {
    type Worker = Arc<Mutex<Option<BoxFuture<'static, ()>>>>;
    let (own, other) = (OwnPool::<u32, u32, String>::new(), Worker::default());
    let (inside, reader) = (own.reach(), Arc::clone(&other));
    let (pool, workers) =
        Pool::builder()
            .workers(2)
            .timer(ManualTimer::new())
            .build(move |n: u32| {
                let (pool, reader) = (inside.pool(), Arc::clone(&reader));
                async move {
                    match n {
                        // Reads two of three.
                        100 => {
                            let mut map = pool.map(1..4);
                            for expected in [Ok(1), Ok(2)] {
                                assert_eq!(map.next().await.unwrap().result, expected);
                            }
                        }
                        3 => {
                            let mut child =
                                pool.try_submit(7).map_err(|refused| refused.to_string())?;
                            let waits = poll_once(pin!(&mut child)).is_none();
                            assert!(waits);
                            // The reader has one to read, and waits for the next.
                            let mut reader = reader.lock().unwrap().take().unwrap();
                            assert_eq!(poll_once(reader.as_mut()), None);
                            return child.await.map_err(|error| error.to_string());
                        }
                        _ => {}
                    }
                    Ok(n)
                }
            });
    own.set(&pool);
    let mut workers = workers.into_iter();
    let (mut first, second) = (
        Box::pin(workers.next().unwrap().run()),
        workers.next().unwrap().run(),
    );
    let mut reads = pool.try_submit(100).unwrap();
    let mut second: BoxFuture<'static, ()> = Box::pin(second);
    assert_eq!(poll_once(second.as_mut()), None);
    *other.lock().unwrap() = Some(second);
    assert_eq!(poll_once(first.as_mut()), None);
    assert_eq!(
        poll_once(pin!(&mut reads)),
        None,
        "it is told that it waits for ever"
    );
}

/// A parent keeps the handle that its first attempt has waited for, and waits on in the second one,
/// in the same slot.
#[test]
fn an_attempt_that_goes_on_with_the_wait_of_an_earlier_one_counts_as_waiting() {
    in_both_ways(|slots| {
        let own = OwnPool::<u32, u32, &'static str>::new();
        let kept: Arc<Mutex<Option<JobHandle<u32, u32, &'static str>>>> = Arc::default();
        let (inside, gate) = (own.reach(), Gate::new());
        let pass = gate.clone();
        let retry = Retry::fixed(Duration::ZERO).when(|error: &&str| *error == "again");
        let (pool, workers) = slots
            .at_once(Pool::builder(), 2)
            .retry(retry)
            .timer(ManualTimer::new())
            .build(move |n: u32| {
                let (own, kept, gate) = (inside.get(), Arc::clone(&kept), pass.clone());
                async move {
                    let Some(pool) = own.filter(|_| n >= 10) else {
                        return Ok(n);
                    };
                    let kept_before = kept.lock().unwrap().take();
                    let child = match kept_before {
                        _ if n == 12 => {
                            gate.pass().await;
                            pool.try_submit(2).unwrap()
                        }
                        Some(child) => child,
                        None => {
                            let mut child = pool.try_submit(1).unwrap();
                            assert_eq!(poll_once(pin!(&mut child)), None);
                            *kept.lock().unwrap() = Some(child);
                            return Err("again");
                        }
                    };
                    child.await.map_err(|_| "the wait was refused")
                }
            });
        own.set(&pool);
        let mut workers: Vec<_> = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()))
            .collect();
        let mut other = pool.try_submit(12).unwrap();
        assert_eq!(poll_once(workers[0].as_mut()), None);
        let mut parent = pool.job(11).priority(1).try_submit().unwrap();
        assert_eq!(poll_once(workers[1 % slots.workers(2)].as_mut()), None);
        gate.open(1);
        for _ in 0..2 {
            for worker in &mut workers {
                assert_eq!(poll_once(worker.as_mut()), None);
            }
        }
        assert_eq!(
            poll_once(pin!(&mut other)),
            Some(Err(JobError::Failed("the wait was refused")))
        );
        assert_eq!(poll_once(pin!(&mut parent)), Some(Ok(1)));
        assert_eq!(pool.stats().retries, 1);
    });
}

/// In a pool with a schedule, a wait can be a deadlock though workers are free. The observer polls the
/// first worker after the second one has counted the outcome and before it has delivered it.
#[test]
fn a_job_whose_wait_is_about_to_be_over_does_not_count_as_waiting() {
    for way in ["a handle", "a map", "a map of two"] {
        let own = OwnPool::<u32, u32, &'static str>::new();
        let first: Arc<Mutex<Option<BoxFuture<'_, ()>>>> = Arc::default();
        let (inside, looks) = (own.reach(), Arc::clone(&first));
        let (pool, workers) = Pool::builder()
            .workers(3)
            .aging(SECOND)
            .timer(ManualTimer::new())
            .observe(move |event: &Event| {
                if let Event::Finished { .. } = event
                    && let Ok(mut worker) = looks.try_lock()
                    && let Some(worker) = worker.as_mut()
                {
                    assert_eq!(poll_once(worker.as_mut()), None);
                }
            })
            .build(move |n: u32| {
                let own = inside.get();
                async move {
                    let Some(pool) = own.filter(|_| n >= 10) else {
                        return Ok(n);
                    };
                    if way == "a handle" {
                        return pool
                            .try_submit(n - 10)
                            .unwrap()
                            .await
                            .map_err(|_| "the wait was refused");
                    }
                    let children = if way == "a map" { 1..2 } else { 1..3 };
                    let values = pool.map(children).try_collect::<Vec<_>>().await;
                    values
                        .map(|values| values[0])
                        .map_err(|_| "the wait was refused")
                }
            });
        own.set(&pool);
        let mut workers = workers
            .into_iter()
            .map(|worker| -> BoxFuture<'_, ()> { Box::pin(worker.run()) });
        *first.lock().unwrap() = workers.next();
        let mut others: Vec<_> = workers.collect();
        let mut parent = pool.try_submit(11).unwrap();
        let poll_first = || {
            assert_eq!(
                poll_once(first.lock().unwrap().as_mut().unwrap().as_mut()),
                None
            );
        };
        poll_first();
        for worker in &mut others {
            assert_eq!(poll_once(worker.as_mut()), None);
        }
        poll_first();
        assert_eq!(poll_once(pin!(&mut parent)), Some(Ok(1)), "{way}");
        drop(first.lock().unwrap().take());
    }
}

/// `FuturesUnordered` polls only those of its futures that were woken themselves.
#[test]
fn a_wait_deep_inside_a_job_ends_when_the_other_worker_leaves() {
    let (pool, workers) = Pool::builder()
        .workers(2)
        .timer(ManualTimer::new())
        .build_with_submitter(
            |n: u32, jobs: Submitter<u32, u32, &'static str>| async move {
                if n < 10 {
                    return Ok(n);
                }
                let mut children: FuturesUnordered<_> = [jobs.submit(1).map_err(|_| "refused")?]
                    .into_iter()
                    .collect();
                match children.next().await {
                    Some(Ok(n)) => Ok(n),
                    _ => Err("the wait was refused"),
                }
            },
        );
    let mut workers = workers.into_iter().map(|worker| Box::pin(worker.run()));
    let (mut one, two) = (workers.next().unwrap(), workers.next().unwrap());
    let mut parent = pool.try_submit(10).unwrap();
    assert_eq!(poll_once(one.as_mut()), None);
    drop(two);
    assert_eq!(poll_once(one.as_mut()), None);
    assert_eq!(
        poll_once(pin!(&mut parent)),
        Some(Err(brigade::JobError::Failed("the wait was refused")))
    );
    assert_settled(&pool);
}

/// What the group has left to read is with the very worker whose job reads it.
#[test]
fn a_group_that_is_done_can_be_read_to_its_end_inside_a_job() {
    type Place = Arc<Mutex<Option<Group<u32, u32, End>>>>;
    in_both_ways(|slots| {
        let place: Place = Arc::default();
        let inside = Arc::clone(&place);
        let (pool, workers) = slots
            .in_order(Pool::builder())
            .timer(ManualTimer::new())
            .build(move |n: u32| {
                let group = (n == 10).then(|| inside.lock().unwrap().take()).flatten();
                async move {
                    let Some(mut group) = group else { return Ok(n) };
                    let mut sum = 0;
                    while let Some(completion) = group.next().await {
                        sum += completion.result.map_err(|_| End::Abandoned)?;
                    }
                    if group.summary().is_complete() {
                        Ok(sum)
                    } else {
                        Err(group.summary().end)
                    }
                }
            });
        let group = pool.group();
        for n in 1..4 {
            group.try_submit(n).unwrap();
        }
        *place.lock().unwrap() = Some(group);
        let reader = pool.try_submit(10).unwrap();
        let sum = futures_lite::future::block_on(workers.drive(reader));
        assert_eq!(sum.map_err(|error| format!("{error:?}")), Ok(6));
    });
}

/// A job waits for room; the other worker makes some, and goes on with a job that waits too.
#[test]
fn a_job_that_was_given_room_does_not_count_as_waiting() {
    in_both_ways(|slots| {
        let own = OwnPool::<u32, u32, &'static str>::new();
        let inside = own.reach();
        let (pool, workers) = slots
            .at_once(Pool::builder(), 2)
            .queue_capacity(1)
            .timer(ManualTimer::new())
            .build_with_submitter(move |n: u32, jobs: Submitter<u32, u32, &'static str>| {
                let own = inside.get();
                async move {
                    match n {
                        10 => {
                            let pool = own.unwrap();
                            pool.try_submit(20).map_err(|_| "full")?.detach();
                            pool.submit(1)
                                .await
                                .map_err(|_| "the wait for room was refused")?
                                .detach();
                            Ok(n)
                        }
                        20 => jobs
                            .submit(2)
                            .map_err(|_| "refused")?
                            .await
                            .map_err(|_| "the wait was refused"),
                        _ => Ok(n),
                    }
                }
            });
        own.set(&pool);
        let mut workers: Vec<_> = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()))
            .collect();
        let mut first = pool.try_submit(10).unwrap();
        for _ in 0..4 {
            for worker in &mut workers {
                assert_eq!(poll_once(worker.as_mut()), None);
            }
        }
        assert_eq!(poll_once(pin!(&mut first)), Some(Ok(10)));
        assert_eq!(
            (pool.stats().succeeded, assert_settled(&pool).accepted),
            (4, 4)
        );
    });
}

/// Looks at a handle at each end of a job.
struct Look(
    Arc<Mutex<Option<JobHandle<u32, u32, ()>>>>,
    Arc<Mutex<Vec<(bool, bool)>>>,
);

impl Observer for Look {
    fn on_event(&self, event: &Event) {
        if matches!(event, Event::Finished { .. })
            && let Some(handle) = &mut *self.0.lock().unwrap()
        {
            let is_finished = handle.is_finished();
            let is_ready = poll_once(pin!(handle)).is_some();
            self.1.lock().unwrap().push((is_finished, is_ready));
        }
    }
}

#[test]
fn a_handle_that_is_finished_is_ready() {
    let (place, seen) = (Arc::default(), Arc::default());
    let look = Look(Arc::clone(&place), Arc::clone(&seen));
    let (pool, workers) = Pool::builder()
        .observe(look)
        .timer(ManualTimer::new())
        .build(|n: u32| async move { Ok::<_, ()>(n) });
    *place.lock().unwrap() = Some(pool.try_submit(1).unwrap());
    drop(workers);
    let seen = seen.lock().unwrap();
    assert!(
        !seen.is_empty()
            && seen
                .iter()
                .all(|(is_finished, is_ready)| is_finished == is_ready),
        "{seen:?}"
    );
}

#[test]
fn an_abort_that_finds_the_pool_idle_has_all_inputs() {
    for is_streamed in [false, true] {
        let (pool, _workers) = Pool::builder()
            .timer(ManualTimer::new())
            .build(|n: u32| async move { Ok::<_, ()>(n) });
        let group = pool.group();
        if is_streamed {
            group.try_submit(7).unwrap();
        } else {
            pool.try_submit(7).unwrap().detach();
        }
        // Aborts the pool once more when it becomes idle, and keeps what that call reports.
        let (again, (report, reported)) = (pool.clone(), std::sync::mpsc::channel());
        let waker = on_wake(move || report.send(poll_once(pin!(again.abort()))).unwrap());
        let mut idle = pin!(pool.wait_idle());
        assert!(
            idle.as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        let first = poll_once(pin!(pool.abort())).unwrap();
        let second = reported.try_recv().unwrap().expect("the pool is idle");
        let inputs: Vec<_> = second
            .unstarted
            .into_iter()
            .map(|unstarted| unstarted.input)
            .collect();
        assert_eq!((inputs, first.unstarted.len()), (vec![7], 0));
    }
}

/// A map waits for room, and its task turns to something else before it has any.
#[test]
fn a_map_that_is_not_polled_keeps_no_room_from_others() {
    in_both_ways(|slots| {
        let (pool, workers) = slots
            .in_order(Pool::builder())
            .queue_capacity(1)
            .timer(ManualTimer::new())
            .build(|n: u32| async move { Ok::<_, ()>(n) });
        let mut worker = Box::pin(workers.into_iter().next().unwrap().run());
        pool.try_submit(1).unwrap().detach();
        let mut map = pool.map(2..5);
        assert!(
            Pin::new(&mut map)
                .poll_next(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        let mut submit = pin!(pool.submit(3));
        assert!(poll_once(submit.as_mut()).is_none());
        assert_eq!(poll_once(worker.as_mut()), None);
        assert!(
            poll_once(submit.as_mut()).is_some(),
            "nothing is queued, nothing runs: {:?}",
            pool.stats()
        );
    });
}

/// Each job adds its successor, and the consumer does not read.
#[test]
fn unread_completions_are_bounded_also_where_jobs_add_jobs() {
    in_both_ways(|slots| {
        let (pool, workers) = slots
            .in_order(Pool::builder())
            .child_capacity(4)
            .timer(ManualTimer::new())
            .build_with_submitter(|n: u32, jobs: Submitter<u32, u32, ()>| async move {
                if n < 2000 {
                    jobs.add(n + 1).map_err(drop)?;
                }
                Ok(n)
            });
        let mut worker = Box::pin(workers.into_iter().next().unwrap().run());
        let group = pool.group().window(1);
        group.try_submit(0).unwrap();
        for _ in 0..20 {
            assert_eq!(poll_once(worker.as_mut()), None);
        }
        assert!(
            group.unread() <= 1 + 4,
            "{} completions are unread",
            group.unread()
        );
    });
}

/// The parent waits for its map when two completions come together; it reads one of them and does
/// something else. That is no wait for the pool any more, so another that waits for a job of its
/// own may do so.
#[test]
fn a_job_that_has_read_one_of_several_completions_does_not_count_as_waiting() {
    let own = OwnPool::<u32, u32, &'static str>::new();
    let (turns, gate) = (Arc::new(Barrier::new(2)), Arc::new(Gate::new()));
    let handler = {
        let (own, turns, gate) = (own.reach(), Arc::clone(&turns), Arc::clone(&gate));
        move |n: u32| {
            let (own, turns, gate) = (own.clone(), Arc::clone(&turns), Arc::clone(&gate));
            async move {
                let pool = own.pool();
                match n {
                    // Its first completion is sent alone, the others together.
                    100 => {
                        let mut map = pool.map(0..3);
                        let _ = (map.next().await, map.next().await);
                        gate.pass().await;
                        map.next()
                            .await
                            .and_then(|last| last.result.ok())
                            .ok_or("the map was cancelled")
                    }
                    2 => {
                        for _ in 0..2 {
                            turns.wait();
                        }
                        Ok(2)
                    }
                    200 => pool
                        .submit(300)
                        .await
                        .map_err(|_| "refused")?
                        .await
                        .map_err(|_| "the wait was refused"),
                    n => Ok(n),
                }
            }
        }
    };
    let (pool, workers) = Pool::builder()
        .workers(2)
        .timer(ManualTimer::new())
        .build(handler);
    own.set(&pool);
    let mut workers = workers.into_iter().map(|worker| Box::pin(worker.run()));
    let (mut first, mut second) = (workers.next().unwrap(), workers.next().unwrap());
    let parent = pool.try_submit(100).unwrap();
    assert!(poll_once(first.as_mut()).is_none());
    let mut second = std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            assert!(poll_once(second.as_mut()).is_none());
            second
        });
        turns.wait();
        // It reads the first, and waits.
        assert!(poll_once(first.as_mut()).is_none());
        turns.wait();
        other.join().unwrap()
    });
    // It reads the second.
    assert!(poll_once(first.as_mut()).is_none());
    let waiting = pool.try_submit(200).unwrap();
    assert!(poll_once(second.as_mut()).is_none());
    gate.open(1);
    for _ in 0..4 {
        let _ = (poll_once(first.as_mut()), poll_once(second.as_mut()));
    }
    assert_eq!(
        (poll_once(pin!(parent)), poll_once(pin!(waiting))),
        (Some(Ok(2)), Some(Ok(300)))
    );
}

// ---- waits that cannot end ----

#[test]
fn a_wait_for_the_own_pool_that_could_never_end_is_a_typed_error() {
    everywhere(|env| async move {
        let own = OwnPool::<u32, String, ()>::new();
        let inside = own.reach();
        let pool = env
            .one_by_one()
            .queue_capacity(2)
            .spawn_on(&env, move |n: u32| {
                let own = inside.clone();
                async move {
                    let pool = own.pool();
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
        own.set(&pool);
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
        let own = OwnPool::<u32, (), ()>::new();
        let inside = own.reach();
        let pool = env.at_once(2).spawn_on(&env, move |n: u32| {
            let own = inside.clone();
            async move {
                let pool = own.pool();
                if n == 0 {
                    pool.wait_idle().await;
                } else {
                    pool.drain().await;
                }
                Ok(())
            }
        });
        own.set(&pool);
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

/// A job awaits two others at once, and polls only those that were woken. When the last slot is taken
/// by a job that waits too, its first wait is over. It reads that one, and goes on waiting.
#[test]
fn a_wait_that_remains_when_another_of_its_job_is_over_is_told_that_it_cannot_end() {
    type Handles = Vec<JobHandle<u32, u32, ()>>;
    in_both_ways(|slots| {
        let awaited: Arc<Mutex<Vec<Handles>>> = Arc::default();
        let handles = Arc::clone(&awaited);
        let (pool, workers) = slots
            .at_once(Pool::builder(), 2)
            .timer(ManualTimer::new())
            .build(move |n: u32| {
                let handles = Arc::clone(&handles);
                async move {
                    if n < 2 {
                        return Ok(n);
                    }
                    let mut waits: FuturesUnordered<_> =
                        handles.lock().unwrap().remove(0).into_iter().collect();
                    let mut refused = 0;
                    while let Some(result) = waits.next().await {
                        refused += u32::from(result == Err(JobError::WouldDeadlock));
                    }
                    Ok(refused)
                }
            });
        let executor = LocalExecutor::new();
        for worker in workers {
            executor.spawn(worker.run()).detach();
        }
        let submit = |n| pool.try_submit(n).unwrap();
        let (two_waits, ready, one_wait) = (submit(2), submit(0), submit(2));
        *awaited.lock().unwrap() = vec![vec![ready, submit(1)], vec![submit(1)]];
        // The job with two waits starts in the first worker. The other one runs the ready job, then
        // the job with one wait. That is refused, since its wait was the last.
        while executor.try_tick() {}
        let refused = (poll_once(pin!(two_waits)), poll_once(pin!(one_wait)));
        assert_eq!(refused, (Some(Ok(0)), Some(Ok(1))), "{slots}");
    });
}

/// A wait that is over is dropped outside its job.
#[test]
fn a_wait_that_remains_when_another_one_is_dropped_outside_is_told_that_it_cannot_end() {
    type Waits = Arc<Mutex<Vec<JobHandle<u32, u32, ()>>>>;
    let waits: [Waits; 2] = Default::default();
    let inside = waits.clone();
    let (pool, workers) =
        Pool::builder()
            .workers(2)
            .timer(ManualTimer::new())
            .build(move |n: u32| {
                let waits = inside.get(n as usize).map(Arc::clone);
                future::poll_fn(move |cx| {
                    let Some(waits) = &waits else {
                        return Poll::Ready(Ok(0));
                    };
                    let mut waits = waits.lock().unwrap();
                    let results = waits.iter_mut().map(|wait| Pin::new(wait).poll(cx));
                    if results.collect::<Vec<_>>() == [Poll::Ready(Err(JobError::WouldDeadlock))] {
                        return Poll::Ready(Ok(1));
                    }
                    Poll::Pending
                })
            });
    let mut workers: Vec<_> = workers
        .into_iter()
        .map(|worker| Box::pin(worker.run()))
        .collect();
    let submit = |n| pool.try_submit(n).unwrap();
    let (mut two_waits, ready, one_wait) = (submit(0), submit(2), submit(1));
    *waits[0].lock().unwrap() = vec![ready, submit(2)];
    *waits[1].lock().unwrap() = vec![submit(2)];
    let woken = Wakes::new();
    let waker = woken.waker();
    let mut poll = |worker: usize| {
        let mut cx = Context::from_waker(&waker);
        assert!(workers[worker].as_mut().poll(&mut cx).is_pending());
    };
    poll(0);
    poll(1);
    woken.take();
    drop(waits[0].lock().unwrap().remove(0));
    assert!(woken.take() > 0, "its job is polled again");
    poll(0);
    assert_eq!(poll_once(Pin::new(&mut two_waits)), Some(Ok(1)));
    for waits in &waits {
        waits.lock().unwrap().clear();
    }
    drop((one_wait, workers));
}

/// A permit is held outside, so a job waits for room, and no slot is free for what the permit is used
/// for.
#[test]
fn a_wait_for_room_in_the_only_slot_is_refused_though_a_permit_is_held_outside() {
    let own = OwnPool::<u32, bool, ()>::new();
    let (inside, gate) = (own.reach(), Gate::new());
    let pass = gate.clone();
    let (pool, workers) = Pool::builder()
        .workers(1)
        .queue_capacity(1)
        .timer(ManualTimer::new())
        .build(move |n: u32| {
            let (own, gate) = (inside.clone(), pass.clone());
            async move {
                gate.pass().await;
                let refused = own.pool().submit(n).await.err();
                Ok(refused == Some(SubmitError::WouldDeadlock(n)))
            }
        });
    own.set(&pool);
    let mut worker = pin!(workers.into_iter().next().unwrap().run());
    let waits = pool.try_submit(1).unwrap();
    assert!(poll_once(worker.as_mut()).is_none());
    let permit = pool.try_reserve().unwrap();
    gate.open(1);
    assert!(poll_once(worker.as_mut()).is_none());
    assert_eq!(poll_once(pin!(waits)), Some(Ok(true)));
    drop(permit);
}

/// A permit is held outside, so a job waits for room. Slots are free, so the job that uses the permit
/// can start.
#[test]
fn a_wait_for_room_is_not_refused_while_the_permit_is_held_outside() {
    in_both_ways(|slots| {
        for is_used in [true, false] {
            let own = OwnPool::<u32, u32, &'static str>::new();
            let (inside, gate) = (own.reach(), Gate::new());
            let pass = gate.clone();
            let (pool, workers) = slots
                .at_once(Pool::builder(), 2)
                .queue_capacity(1)
                .key_by(|n: &u32| *n)
                .max_running_per_key(1)
                .timer(ManualTimer::new())
                .build(move |n: u32| {
                    let (own, gate) = (inside.clone(), pass.clone());
                    async move {
                        if n == 0 {
                            return Ok(0);
                        }
                        gate.pass().await;
                        let submission = own.pool().submit(0).await;
                        let handle = submission.map_err(|_| "the submission was refused")?;
                        handle.await.map_err(|_| "the wait was refused")
                    }
                });
            own.set(&pool);
            let mut workers: Vec<_> = workers
                .into_iter()
                .map(|worker| Box::pin(worker.run()))
                .collect();
            let mut poll_workers = || {
                for _ in 0..4 {
                    for worker in &mut workers {
                        assert!(poll_once(worker.as_mut()).is_none());
                    }
                }
            };
            let waits = pool.try_submit(1).unwrap();
            // It starts, which takes it out of the queue.
            poll_workers();
            let permit = pool.try_reserve().unwrap();
            gate.open(1);
            poll_workers();
            if is_used {
                permit.submit(0).unwrap().detach();
            } else {
                drop(permit);
            }
            poll_workers();
            assert_eq!(poll_once(pin!(waits)), Some(Ok(0)), "{slots}");
        }
    });
}

#[test]
fn a_wait_that_becomes_impossible_when_a_worker_leaves_is_told_so() {
    let own = OwnPool::<u32, bool, ()>::new();
    let inside = own.reach();
    let (pool, workers) =
        Pool::builder()
            .workers(2)
            .timer(ManualTimer::new())
            .build(move |n: u32| {
                let own = inside.clone();
                async move {
                    if n > 0 {
                        return future::pending().await;
                    }
                    // Polled through another waker, as a combinator of many futures does.
                    let handle = own.pool().try_submit(2).unwrap();
                    let both = future::or(
                        async { handle.await == Err(JobError::WouldDeadlock) },
                        future::pending(),
                    );
                    Ok(both.await)
                }
            });
    own.set(&pool);
    let mut waits = pool.try_submit(0).unwrap();
    let blocks = pool.try_submit(1).unwrap();
    let mut workers: Vec<_> = workers
        .into_iter()
        .map(|worker| Box::pin(worker.run()))
        .collect();
    let woken = Wakes::new();
    let waker = woken.waker();
    assert!(
        workers[0]
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    assert!(poll_once(workers[1].as_mut()).is_none());
    let before = woken.count();
    drop(workers.pop());
    assert!(woken.count() > before, "the waiting job's worker is woken");
    assert!(poll_once(workers[0].as_mut()).is_none());
    assert_eq!(poll_once(Pin::new(&mut waits)), Some(Ok(true)));
    drop((blocks, workers));
}

/// A worker keeps a success back after a failure, and its next job waits for the pool. Before that
/// poll ends, the consumer, a job of another worker, has read all that was sent, so each running job
/// waits.
#[test]
fn a_wait_for_what_a_worker_keeps_back_is_no_deadlock() {
    type Running = Pin<Box<dyn Future<Output = ()>>>;
    let (own, consumer) = (OwnPool::new(), Rc::new(RefCell::new(None::<Running>)));
    let (reach, other) = (own.reach(), Rc::clone(&consumer));
    let (pool, workers) =
        Pool::builder()
            .workers(2)
            .timer(ManualTimer::new())
            .build(move |n: u32| {
                let (pool, other) = (reach.pool(), Rc::clone(&other));
                async move {
                    match n {
                        0 => {
                            let results = pool.map(1..6).map(|completion| completion.result);
                            let results: Vec<_> = results.collect().await;
                            let failed = Err(JobError::Failed(2));
                            assert_eq!(results, [Ok(1), failed, Ok(3), Ok(4), Ok(5)]);
                        }
                        2 => return Err(2),
                        4 => {
                            let mut handle = pool.try_submit(9).unwrap();
                            assert_eq!(poll_once(pin!(&mut handle)), None);
                            let mut worker = other.borrow_mut().take().unwrap();
                            assert_eq!(poll_once(worker.as_mut()), None);
                            *other.borrow_mut() = Some(worker);
                        }
                        _ => {}
                    }
                    Ok(n)
                }
            });
    own.set(&pool);
    let mut workers = workers.into_iter();
    let mut worker = || Box::pin(workers.next().unwrap().run()) as Running;
    let (first, mut second) = (worker(), worker());
    *consumer.borrow_mut() = Some(first);
    let mut done = pool.try_submit(0).unwrap();
    let poll_consumer = || {
        let mut worker = consumer.borrow_mut();
        assert_eq!(poll_once(worker.as_mut().unwrap().as_mut()), None);
    };
    poll_consumer();
    assert_eq!(poll_once(second.as_mut()), None);
    poll_consumer();
    assert_eq!(poll_once(pin!(&mut done)), Some(Ok(0)));
    consumer.borrow_mut().take();
}
