//! Jobs that fail or panic, and workers and consumers that are dropped: what is affected, and where
//! the failure is reported.

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use brigade::{
    CancelReason, Completion, End, Event, JobError, ManualTimer, OnError, Outcome, Pool,
    SubmitError, Submitter,
};
use futures::FutureExt;
use futures_lite::{StreamExt, future};

use crate::harness::{
    Drops, Env, Gate, assert_settled, block_on, everywhere, everywhere_once, in_both_ways,
    poll_once,
};

/// Jobs return even numbers and fail with odd ones.
fn odd_fails(env: &Env, at_once: usize) -> Pool<u32, u32, u32> {
    env.at_once(at_once).spawn_on(env, |n: u32| async move {
        if n.is_multiple_of(2) { Ok(n) } else { Err(n) }
    })
}

fn panic_text<T, E>(result: Result<T, JobError<E>>) -> String {
    match result {
        Err(JobError::Panicked(message)) => message.as_str().to_owned(),
        _ => panic!("the job did not panic"),
    }
}

#[test]
fn a_panic_becomes_the_outcome_of_its_job_and_the_pool_goes_on() {
    everywhere(|env| async move {
        let pool = env.in_order().spawn_on(&env, |n: u32| {
            assert!(n != 1, "in the closure");
            async move {
                future::yield_now().await;
                assert!(n != 2, "in the future, with {n}");
                Ok::<_, ()>(n)
            }
        });
        let handles = [0, 1, 2, 3].map(|n| pool.try_submit(n).unwrap());
        let [zero, one, two, three] = handles;
        assert_eq!(zero.await, Ok(0));
        assert_eq!(panic_text(one.await), "in the closure");
        assert_eq!(panic_text(two.await), "in the future, with 2");
        assert_eq!(three.await, Ok(3));
        let stats = assert_settled(&pool);
        assert_eq!((stats.workers, stats.panicked, stats.succeeded), (1, 2, 2));
    });
}

#[test]
fn panics_do_not_use_up_the_workers() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let inside = gate.clone();
        let pool = env.at_once(2).spawn_on(&env, move |n: u32| {
            let gate = inside.clone();
            async move {
                assert!(n >= 10, "{n}");
                gate.pass().await;
                Ok::<_, ()>(n)
            }
        });
        let completions = pool.map(0..10).ordered().collect::<Vec<_>>().await;
        let texts: Vec<_> = completions
            .into_iter()
            .map(|c| panic_text(c.result))
            .collect();
        assert_eq!(texts, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
        // Both workers still run jobs side by side.
        let handles = [10, 11].map(|n| pool.try_submit(n).unwrap());
        gate.arrived(2).await;
        gate.open(2);
        for (n, handle) in (10..).zip(handles) {
            assert_eq!(handle.await, Ok(n));
        }
        assert_eq!(assert_settled(&pool).panicked, 10);
    });
}

#[test]
fn a_worker_that_is_dropped_takes_only_its_own_job_along() {
    everywhere_once(|env| async move {
        let (gate, drops) = (Gate::new(), Drops::default());
        let (inside, counted) = (gate.clone(), drops.clone());
        let (pool, workers) = env.builder().workers(3).build(move |n: u32| {
            let (gate, token) = (inside.clone(), counted.token());
            async move {
                gate.pass().await;
                drop(token);
                Ok::<_, ()>(n)
            }
        });
        let (kill, killed) = async_channel::bounded::<()>(1);
        let mut workers = workers.into_iter();
        let victim = workers.next().unwrap();
        let spawn: &dyn brigade::Spawn = &env;
        spawn.spawn(Box::pin(future::or(victim.run(), async move {
            _ = killed.recv().await;
        })));
        // The worker `victim` takes the first job, since no other worker exists yet.
        let lost = pool.try_submit(0).unwrap();
        gate.arrived(1).await;
        for worker in workers {
            spawn.spawn(Box::pin(worker.run()));
        }
        let handles: Vec<_> = (1..9).map(|n| pool.try_submit(n).unwrap()).collect();
        gate.arrived(2).await;
        drop(kill);
        assert_eq!(lost.await, Err(JobError::Abandoned));
        gate.open(8);
        for (n, handle) in (1..).zip(handles) {
            assert_eq!(handle.await, Ok(n));
        }
        pool.drain().await;
        assert_eq!(drops.counts(), (9, 9));
        let stats = assert_settled(&pool);
        assert_eq!((stats.succeeded, stats.abandoned), (8, 1));
    });
}

#[test]
fn every_input_has_its_turn_and_every_error_comes_with_its_input() {
    everywhere(|env| async move {
        let pool = odd_fails(&env, 3);
        let mut map = pool.map(0..100).keep_inputs();
        let mut failed = Vec::new();
        while let Some(Completion { input, result, .. }) = map.next().await {
            if let Err(error) = result {
                failed.push((input, error));
            }
        }
        failed.sort_by_key(|(input, _)| *input);
        assert_eq!(
            failed,
            (1..100)
                .step_by(2)
                .map(|n| (Some(n), JobError::Failed(n)))
                .collect::<Vec<_>>()
        );
        let summary = map.summary();
        assert_eq!(
            (
                summary.accepted,
                summary.succeeded,
                summary.failed,
                summary.end
            ),
            (100, 50, 50, End::Complete)
        );
        assert_settled(&pool);
    });
}

#[test]
fn one_error_does_not_touch_its_siblings() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let inside = gate.clone();
        let pool = env.at_once(3).spawn_on(&env, move |n: u32| {
            let gate = inside.clone();
            async move {
                if n == 1 {
                    return Err("one");
                }
                gate.pass().await;
                Ok(n)
            }
        });
        let mut map = pool.map(0..6);
        assert_eq!(
            map.next().await.map(|c| c.result),
            Some(Err(JobError::Failed("one")))
        );
        gate.open(5);
        let mut others = map.map(|c| c.result.unwrap()).collect::<Vec<_>>().await;
        others.sort_unstable();
        assert_eq!(others, [0, 2, 3, 4, 5]);
        assert_settled(&pool);
    });
}

#[test]
fn a_map_that_has_stopped_starts_nothing_and_takes_nothing_from_its_jobs() {
    everywhere(|env| async move {
        let (gate, refused) = (Gate::new(), Arc::new(Mutex::new(Vec::new())));
        let (inside, log) = (gate.clone(), Arc::clone(&refused));
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        let (pool, workers) = env.one_by_one().build_with_submitter(
            move |n: u32, jobs: Submitter<u32, u32, &'static str>| {
                count.fetch_add(1, Ordering::SeqCst);
                let (gate, log) = (inside.clone(), Arc::clone(&log));
                // Called when the cancelled future is dropped, while the job still counts as
                // running.
                let at_end = AtDrop(Some(move || log.lock().unwrap().push(jobs.add(100))));
                async move {
                    let _at_end = at_end;
                    gate.pass().await;
                    if n == 1 { Err("one") } else { Ok(n) }
                }
            },
        );
        workers.spawn_on(&env);
        gate.open(3);
        let mut map = pool.map(1..50).window(10).on_error(OnError::Stop).ordered();
        let mut results = Vec::new();
        while let Some(completion) = map.next().await {
            results.push(completion.result);
        }
        let summary = map.summary();
        assert_eq!((summary.failed, summary.end), (1, End::Stopped));
        assert_eq!(summary.accepted, results.len());
        assert_eq!(results.remove(0), Err(JobError::Failed("one")));
        // The one that the first has added was accepted, and cancelled with the others.
        assert!(
            results
                .iter()
                .all(|result| *result == Err(JobError::Cancelled(CancelReason::Stopped)))
        );
        assert_eq!(
            (ran.load(Ordering::SeqCst), &*refused.lock().unwrap()),
            (1, &vec![Ok(())])
        );
        assert_eq!(map.next().await, None);
        assert_settled(&pool);
    });
}

/// Calls a closure when it is dropped.
struct AtDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for AtDrop<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

#[test]
fn no_job_of_a_map_starts_once_its_last_allowed_failure_has_an_outcome() {
    // The observer polls the second worker while the first one reports the failure.
    type Second = Arc<Mutex<Option<brigade::rt::BoxFuture<'static, ()>>>>;
    in_both_ways(|slots| {
        let second = Second::default();
        let (other, started) = (Arc::clone(&second), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&started);
        let (pool, workers) = slots
            .each(Pool::builder(), 2, 2)
            .timer(ManualTimer::new())
            .observe(move |event: &Event| match event {
                Event::Started { .. } => _ = count.fetch_add(1, Ordering::SeqCst),
                Event::Finished {
                    outcome: Outcome::Failed,
                    ..
                } => {
                    let mut worker = other.lock().unwrap().take().expect("one job fails");
                    let _ = poll_once(Pin::new(&mut worker));
                    *other.lock().unwrap() = Some(worker);
                }
                _ => {}
            })
            .build(|n: u32| async move { Err::<(), _>(n) });
        let mut workers = workers.into_iter();
        let mut first = Box::pin(workers.next().unwrap().run());
        *second.lock().unwrap() = Some(Box::pin(workers.next().unwrap().run()));
        let mut map = pool.map(0..3).on_error(OnError::Stop);
        assert_eq!(poll_once(pin!(map.next())), None);
        let _ = poll_once(first.as_mut());
        let results = block_on((&mut map).map(|c| c.result).collect::<Vec<_>>());
        assert_eq!(
            results
                .iter()
                .filter(|result| **result == Err(JobError::Failed(0)))
                .count(),
            1
        );
        assert_eq!(
            (started.load(Ordering::SeqCst), map.summary().cancelled),
            (1, 2)
        );
        assert_settled(&pool);
    });
}

#[test]
fn a_drain_after_failures_of_all_jobs_ends_as_any_other() {
    everywhere(|env| async move {
        let pool = odd_fails(&env, 2);
        let handles: Vec<_> = (0..20)
            .map(|n| pool.try_submit(2 * n + 1).unwrap())
            .collect();
        pool.drain().await;
        for (n, handle) in (0..).zip(handles) {
            assert_eq!(handle.await, Err(JobError::Failed(2 * n + 1)));
        }
        let stats = assert_settled(&pool);
        assert_eq!((stats.accepted, stats.failed), (20, 20));
    });
}

#[test]
fn a_failure_that_is_not_awaited_is_reported_once_and_one_that_is_awaited_is_not() {
    everywhere(|env| async move {
        let pool = odd_fails(&env, 2);
        let (report, unhandled) = async_channel::unbounded();
        pool.on_unhandled(move |failure| {
            report
                .try_send((failure.id, failure.attempts, failure.error))
                .unwrap();
        });
        let awaited = pool.try_submit(1).unwrap();
        let detached = pool.try_submit(3).unwrap();
        let detached_id = detached.id();
        detached.detach();
        pool.try_submit(4).unwrap().detach();
        assert_eq!(awaited.await, Err(JobError::Failed(1)));
        assert_eq!(pool.map([5]).count().await, 1);
        let mut read = pool.try_submit(7).unwrap();
        assert_eq!((&mut read).await, Err(JobError::Failed(7)));
        drop(read);
        // The failure is there, and then its handle is dropped.
        let dropped = pool.try_submit(9).unwrap();
        let dropped_id = dropped.id();
        while !dropped.is_finished() {
            future::yield_now().await;
        }
        drop(dropped);
        pool.drain().await;
        let mut seen = Vec::new();
        while let Ok(failure) = unhandled.try_recv() {
            seen.push(failure);
        }
        seen.sort_by_key(|(id, ..)| *id);
        assert_eq!(
            seen,
            [
                (detached_id, 1, JobError::Failed(3)),
                (dropped_id, 1, JobError::Failed(9))
            ]
        );
        assert_settled(&pool);
    });
}

#[test]
fn a_drain_ends_after_the_last_unhandled_failure_was_reported() {
    everywhere(|env| async move {
        let (gate, (report, unhandled)) = (Gate::new(), async_channel::unbounded());
        let inside = gate.clone();
        let pool = env.in_order().spawn_on(&env, move |n: u32| {
            let gate = inside.clone();
            async move {
                gate.pass().await;
                Err::<(), _>(n)
            }
        });
        let own = pool.clone();
        pool.on_unhandled(move |failure| {
            report
                .try_send((failure.error, own.stats().running))
                .unwrap();
        });
        pool.try_submit(1).unwrap().detach();
        gate.open(1);
        // No drain ends while the job counts as running.
        assert_eq!(unhandled.recv().await, Ok((JobError::Failed(1), 1)));
        pool.drain().await;
        pool.on_unhandled(|_| {});
        assert_settled(&pool);
    });
}

#[test]
fn a_panic_of_the_consumer_cancels_its_own_map_and_blocks_no_other() {
    everywhere(|env| async move {
        let pool = env
            .at_once(2)
            .queue_capacity(4)
            .spawn_on(&env, |n: u32| async move { Ok::<_, ()>(n) });
        let sink = pool
            .map(0..)
            .for_each(|completion| assert!(completion.index > 0, "the sink is broken"));
        let (sunk, produced) = future::zip(AssertUnwindSafe(sink).catch_unwind(), async {
            let mut values = Vec::new();
            for n in 0..100 {
                values.push(pool.submit(n).await.unwrap().await);
            }
            values
        })
        .await;
        assert_eq!(
            sunk.unwrap_err().downcast_ref::<&str>(),
            Some(&"the sink is broken")
        );
        assert_eq!(produced, (0..100).map(Ok).collect::<Vec<_>>());
        pool.drain().await;
        assert_settled(&pool);
    });
}

#[test]
fn the_first_error_and_the_end_of_all_jobs_can_race() {
    everywhere(|env| async move {
        let gate = Gate::new();
        let inside = gate.clone();
        let pool = env.at_once(2).spawn_on(&env, move |n: u32| {
            let gate = inside.clone();
            async move {
                gate.pass().await;
                if n == 3 { Err(n) } else { Ok(n) }
            }
        });
        for (inputs, expected) in [([0, 1, 2], None), ([2, 3, 4], Some(JobError::Failed(3)))] {
            let mut group = pool.group();
            for n in inputs {
                group.try_submit(n).unwrap();
            }
            gate.open(3);
            let first_error = async {
                while let Some(completion) = group.next().await {
                    if let Err(error) = completion.result {
                        return Some(error);
                    }
                }
                future::pending().await
            };
            // Polled first, so that an error that is there when all is idle wins.
            let idle = async {
                pool.wait_idle().await;
                None
            };
            let mut first_error = pin!(first_error);
            let raced = match future::or(first_error.as_mut(), idle).await {
                None if expected.is_some() => first_error.await,
                raced => raced,
            };
            assert_eq!(raced, expected);
        }
        // The third job of the second round was cancelled with its group.
        pool.wait_idle().await;
        assert_settled(&pool);
    });
}

#[test]
fn a_panicking_observer_or_failure_handler_affects_no_job() {
    everywhere(|env| async move {
        let pool = env
            .in_order()
            .observe(|_: &Event| panic!("observer"))
            .spawn_on(&env, |n: u32| async move { Err::<(), _>(n) });
        pool.on_unhandled(|_| panic!("failure handler"));
        pool.try_submit(1).unwrap().detach();
        assert_eq!(
            pool.submit(2).await.unwrap().await,
            Err(JobError::Failed(2))
        );
        pool.drain().await;
        assert_eq!(pool.try_submit(3).unwrap_err(), SubmitError::Closed(3));
        assert_eq!(assert_settled(&pool).failed, 2);
    });
}

#[test]
fn the_state_of_a_worker_is_made_again_after_a_panic_and_dropped_before_the_worker_has_left() {
    let (drops, at_leave) = (Drops::default(), Arc::new(Mutex::new(Vec::new())));
    let (counted, seen, log) = (drops.clone(), drops.clone(), Arc::clone(&at_leave));
    let (pool, workers) = Pool::builder()
        .timer(ManualTimer::new())
        .workers(1)
        .observe(move |event: &Event| {
            if matches!(event, Event::WorkerLeft { .. }) {
                log.lock().unwrap().push(seen.counts());
            }
        })
        .build_with_state(
            move |_| (counted.token(), 0),
            async |(_, jobs): &mut (_, u32), n: u32| {
                *jobs += 1;
                assert!(n != 1, "one");
                Ok::<_, ()>(*jobs)
            },
        );
    let results = block_on(workers.drive(async {
        let results = pool
            .map([0, 0, 1, 0])
            .ordered()
            .map(|c| c.result.ok())
            .collect::<Vec<_>>()
            .await;
        pool.drain().await;
        results
    }));
    assert_eq!(results, [Some(1), Some(2), None, Some(1)]);
    assert_eq!(drops.counts(), (2, 2));
    assert_eq!(*at_leave.lock().unwrap(), [(2, 2)]);
    assert_settled(&pool);
}
