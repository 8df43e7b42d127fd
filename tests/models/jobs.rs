//! Jobs that are submitted, cancelled, awaited and read while the workers run.

use brigade::{CancelReason, JobError, OnError};
use shuttle::future::spawn;

use super::*;

#[test]
fn every_submitted_job_is_answered_once() {
    explore(|slots| async move {
        let (pool, workers, seen) = pool(2, slots, 2);
        let submitters: Vec<_> = [0, 10]
            .map(|first| {
                let pool = pool.clone();
                spawn(async move {
                    for n in first..first + 2 {
                        let handle = pool.submit(n).await.expect("the pool is open");
                        let expected = if n % 2 == 0 {
                            Ok(n)
                        } else {
                            Err(JobError::Failed(n))
                        };
                        assert_eq!(handle.await, expected);
                    }
                })
            })
            .into();
        join(submitters).await;
        pool.wait_idle().await;
        assert_eq!(seen.started.load(Ordering::SeqCst), 4);
        pool.drain().await;
        join(workers).await;
        assert_settled(&pool, &seen, 2 * slots);
    });
}

#[test]
fn jobs_that_wait_for_room_all_get_it() {
    explore(|slots| async move {
        let (pool, workers, seen) = pool(1, slots, 1);
        let submitters: Vec<_> = (0..3)
            .map(|n| {
                let pool = pool.clone();
                spawn(async move { pool.submit(n).await.expect("the pool is open").detach() })
            })
            .collect();
        join(submitters).await;
        pool.drain().await;
        join(workers).await;
        assert_eq!(seen.started.load(Ordering::SeqCst), 3);
        assert_settled(&pool, &seen, slots);
    });
}

#[test]
fn a_cancelled_job_runs_no_more_once_its_cancellation_is_over() {
    explore(|slots| async move {
        let (pool, workers, seen) = pool(1, slots, 4);
        let handles: Vec<_> = (0..2)
            .map(|n| pool.try_submit(n).expect("there is room"))
            .collect();
        let cancelling: Vec<_> = handles
            .into_iter()
            .map(|handle| {
                spawn(async move {
                    let _ = handle.cancel().await;
                })
            })
            .collect();
        join(cancelling).await;
        assert_eq!(seen.running.load(Ordering::SeqCst), 0);
        // The place of a cancelled job is free again.
        let next = pool.try_submit(4).expect("there is room");
        assert_eq!(next.await, Ok(4));
        pool.drain().await;
        join(workers).await;
        let stats = pool.stats();
        assert_eq!(
            (
                stats.accepted,
                stats.succeeded + stats.failed + stats.cancelled
            ),
            (3, 3)
        );
        assert_settled(&pool, &seen, slots);
    });
}

/// What cancels a job that never ends by itself.
#[derive(Debug, Clone, Copy)]
enum Canceller {
    Handle,
    Map,
    Abort,
}

#[test]
fn a_job_that_never_ends_is_ended_by_each_way_to_cancel_it() {
    for canceller in [Canceller::Handle, Canceller::Map, Canceller::Abort] {
        explore(move |slots| async move {
            let (pool, workers, seen) = pool_of(2, slots, 1024, pend);
            match canceller {
                Canceller::Handle => {
                    let handle = pool.try_submit(0).expect("there is room");
                    assert_eq!(handle.cancel().await.map(|result| result.is_ok()), None);
                }
                Canceller::Map => {
                    let mut map = pool.map([0, 1, 2]);
                    // Pulls the inputs.
                    assert!(future::poll_once(map.next()).await.is_none());
                    map.cancel();
                    while let Some(completion) = map.next().await {
                        assert_eq!(
                            completion.result,
                            Err(JobError::Cancelled(CancelReason::Stream))
                        );
                    }
                }
                Canceller::Abort => {
                    pool.try_submit(0).expect("there is room").detach();
                    let report = pool.abort().await;
                    assert_eq!(report.unstarted.len() + report.interrupted.len(), 1);
                }
            }
            pool.drain().await;
            join(workers).await;
            assert_settled(&pool, &seen, 2 * slots);
        });
    }
}

#[test]
fn a_handle_that_is_dropped_loses_no_job_and_no_failure() {
    explore(|slots| async move {
        let (pool, workers, seen) = pool(2, slots, 4);
        let failures = Arc::new(AtomicUsize::new(0));
        pool.on_unhandled({
            let failures = Arc::clone(&failures);
            move |failure| {
                assert_eq!(failure.error, JobError::Failed(1));
                failures.fetch_add(1, Ordering::SeqCst);
            }
        });
        let handles: Vec<_> = (0..2)
            .map(|n| pool.try_submit(n).expect("there is room"))
            .collect();
        let droppers: Vec<_> = handles
            .into_iter()
            .map(|handle| spawn(async move { handle.detach() }))
            .collect();
        pool.wait_idle().await;
        join(droppers).await;
        pool.drain().await;
        join(workers).await;
        assert_eq!(failures.load(Ordering::SeqCst), 1);
        assert_settled(&pool, &seen, 2 * slots);
    });
}

#[test]
fn a_map_yields_each_completion_once_and_keeps_its_window() {
    explore(|slots| async move {
        let (pool, workers, seen) = pool(2, slots, 4);
        let mut map = pool.map(0..5).window(2);
        let mut numbers = Vec::new();
        while let Some(completion) = map.next().await {
            let stats = pool.stats();
            assert!(stats.queued + stats.running <= 2, "{stats:?}");
            let n = u32::try_from(completion.index).expect("small");
            let expected = if n % 2 == 0 {
                Ok(n)
            } else {
                Err(JobError::Failed(n))
            };
            assert_eq!(completion.result, expected);
            numbers.push(n);
        }
        assert_eq!(unique(numbers), (0..5).collect());
        pool.drain().await;
        join(workers).await;
        assert_settled(&pool, &seen, 2 * slots);
    });
}

#[test]
fn a_map_in_order_is_in_order() {
    explore(|slots| async move {
        let (pool, workers, seen) = pool(2, slots, 4);
        let mut map = pool.map([0, 2, 4, 6]).ordered().window(3);
        let mut values = Vec::new();
        while let Some(completion) = map.next().await {
            values.push(completion.result.expect("even"));
        }
        assert_eq!(values, [0, 2, 4, 6]);
        pool.drain().await;
        join(workers).await;
        assert_settled(&pool, &seen, 2 * slots);
    });
}

#[test]
fn a_map_that_is_dropped_leaves_nothing_behind() {
    explore(|slots| async move {
        let (pool, workers, seen) = pool(2, slots, 4);
        let reader = spawn({
            let pool = pool.clone();
            async move {
                let mut map = pool.map(0..6).window(3);
                assert!(map.next().await.is_some());
            }
        });
        let other = pool.submit(8).await.expect("the pool is open");
        assert_eq!(other.await, Ok(8));
        join([reader]).await;
        pool.wait_idle().await;
        assert_settled(&pool, &seen, 2 * slots);
        pool.drain().await;
        join(workers).await;
    });
}

#[test]
fn a_map_that_stops_at_a_failure_tells_all_it_took() {
    explore(|slots| async move {
        let (pool, workers, seen) = pool(2, slots, 4);
        let mut map = pool.map([0, 1, 2, 4]).window(3).on_error(OnError::Stop);
        let mut told = Vec::new();
        let mut failed = 0;
        while let Some(completion) = map.next().await {
            match completion.result {
                Ok(n) => assert_ne!(outcome_of(n), Outcome::Failed),
                Err(JobError::Failed(n)) => {
                    assert_eq!(n, 1);
                    failed += 1;
                }
                Err(JobError::Cancelled(reason)) => assert_eq!(reason, CancelReason::Stopped),
                Err(other) => panic!("{other:?}"),
            }
            told.push(u32::try_from(completion.index).expect("small"));
        }
        assert_eq!(failed, 1);
        assert_eq!(
            unique(told.iter().copied()).len() as u64,
            pool.stats().accepted
        );
        pool.drain().await;
        join(workers).await;
        assert_settled(&pool, &seen, 2 * slots);
    });
}

#[test]
fn jobs_that_wait_for_one_another_all_run_where_there_are_workers_for_them() {
    explore(|slots| async move {
        let seen = Arc::new(Seen::default());
        let (arrive, arrivals) = async_channel::unbounded::<()>();
        let builder = Pool::builder()
            .workers(3)
            .jobs_per_worker(slots)
            .queue_capacity(4)
            .timer(ManualTimer::new());
        let (pool, workers) = builder.build({
            let seen = Arc::clone(&seen);
            move |n: u32| {
                let (seen, arrive, arrivals) =
                    (Arc::clone(&seen), arrive.clone(), arrivals.clone());
                async move {
                    let _running = Running::new(&seen);
                    // The last of three lets all go on.
                    if seen.started.load(Ordering::SeqCst) == 3 {
                        drop(arrive);
                        arrivals.close();
                    } else {
                        let _ = arrivals.recv().await;
                    }
                    Ok::<_, u32>(n)
                }
            }
        });
        let workers: Workers = workers
            .into_iter()
            .map(|worker| spawn(worker.run()))
            .collect();
        let mut map = pool.map([0, 2, 4]);
        let mut values = Vec::new();
        while let Some(completion) = map.next().await {
            values.push(completion.result.expect("it never fails"));
        }
        assert_eq!(unique(values), BTreeSet::from([0, 2, 4]));
        pool.drain().await;
        join(workers).await;
        assert_settled(&pool, &seen, 3 * slots);
    });
}

#[test]
fn jobs_that_add_jobs_are_all_read_from_their_group() {
    explore(|slots| async move {
        let seen = Arc::new(Seen::default());
        let builder = Pool::builder()
            .workers(2)
            .jobs_per_worker(slots)
            .queue_capacity(1)
            .timer(ManualTimer::new());
        let (pool, workers) = builder.build_with_submitter({
            let seen = Arc::clone(&seen);
            move |n: u32, submitter| {
                let seen = Arc::clone(&seen);
                async move {
                    if n < 4 {
                        submitter
                            .add(2 * n + 2)
                            .expect("there is room for children");
                    }
                    work(n, seen).await
                }
            }
        });
        let workers: Workers = workers
            .into_iter()
            .map(|worker| spawn(worker.run()))
            .collect();
        let group = pool.group();
        group.submit(0).await.expect("the pool is open");
        let values = group
            .join()
            .await
            .into_iter()
            .map(|completion| completion.result.expect("even"));
        assert_eq!(unique(values), BTreeSet::from([0, 2, 6]));
        pool.drain().await;
        join(workers).await;
        assert_settled(&pool, &seen, 2 * slots);
    });
}
