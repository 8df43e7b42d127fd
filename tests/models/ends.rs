//! The ends of a pool: close, drain, abort, and workers that leave.

use brigade::{CancelReason, JobError, SubmitError};
use shuttle::future::spawn;

use super::*;

/// What a submitter has to say: a job is answered, or its input is handed back.
#[derive(Debug, Default)]
struct Answers {
    accepted: AtomicUsize,
    returned: AtomicUsize,
    abandoned: AtomicUsize,
    aborted: AtomicUsize,
}

impl Answers {
    fn add(counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

/// Submits two jobs, and counts what became of them. With the second one, the schedule may be
/// switched on.
fn submit_two(
    pool: &Jobs,
    first: u32,
    answers: &Arc<Answers>,
    is_scheduled: bool,
) -> JoinHandle<()> {
    let (pool, answers) = (pool.clone(), Arc::clone(answers));
    spawn(async move {
        for n in [first, first + 2] {
            let job = pool.job(n).priority(i32::from(is_scheduled && n != first));
            match job.submit().await {
                Ok(handle) => {
                    Answers::add(&answers.accepted);
                    match handle.await {
                        Ok(value) => assert_eq!(value, n),
                        Err(JobError::Abandoned) => Answers::add(&answers.abandoned),
                        Err(JobError::Cancelled(CancelReason::Aborted)) => {
                            Answers::add(&answers.aborted)
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
                Err(SubmitError::Closed(input)) => {
                    assert_eq!(input, n);
                    Answers::add(&answers.returned);
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    })
}

fn load(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

#[test]
fn a_close_answers_or_hands_back_every_job() {
    for is_scheduled in [false, true] {
        explore(move |slots| async move {
            let (pool, workers, seen) = pool(2, slots, 1);
            let answers = Arc::new(Answers::default());
            let submitters = [
                submit_two(&pool, 0, &answers, is_scheduled),
                submit_two(&pool, 10, &answers, is_scheduled),
            ];
            let closer = spawn({
                let pool = pool.clone();
                async move { pool.close() }
            });
            pool.drain().await;
            assert_settled(&pool, &seen, 2 * slots);
            join(submitters).await;
            join([closer]).await;
            join(workers).await;
            assert_eq!(load(&answers.accepted) + load(&answers.returned), 4);
            assert_eq!(load(&answers.accepted), load(&seen.started));
            assert_eq!((load(&answers.abandoned), load(&answers.aborted)), (0, 0));
        });
    }
}

#[test]
fn two_drains_and_a_wait_for_idle_all_end() {
    explore(|slots| async move {
        let (pool, workers, seen) = pool(1, slots, 2);
        pool.try_submit(0).expect("there is room").detach();
        let waiters = [false, true].map(|is_drain| {
            let pool = pool.clone();
            spawn(async move {
                if is_drain {
                    pool.drain().await;
                } else {
                    pool.wait_idle().await;
                }
                assert_eq!(pool.stats().running, 0);
            })
        });
        pool.drain().await;
        join(waiters).await;
        join(workers).await;
        assert_eq!(load(&seen.started), 1);
        assert_settled(&pool, &seen, slots);
    });
}

#[test]
fn an_abort_names_every_job_that_was_not_done() {
    for is_scheduled in [false, true] {
        explore(move |slots| async move {
            let (pool, workers, seen) = pool(2, slots, 2);
            let answers = Arc::new(Answers::default());
            let submitters = [
                submit_two(&pool, 0, &answers, is_scheduled),
                submit_two(&pool, 10, &answers, is_scheduled),
            ];
            let report = pool.abort().await;
            assert_eq!(load(&seen.running), 0);
            join(submitters).await;
            join(workers).await;
            assert_settled(&pool, &seen, 2 * slots);
            assert_eq!(load(&answers.accepted) + load(&answers.returned), 4);
            let named = report.unstarted.len() + report.interrupted.len();
            let late = pool.abort().await;
            let named = named + late.unstarted.len() + late.interrupted.len();
            assert_eq!(load(&answers.aborted), named, "{report:?} {late:?}");
            assert_eq!(pool.stats().cancelled, named as u64);
        });
    }
}

#[test]
fn an_abort_hands_back_all_jobs_though_no_worker_is_polled_any_more() {
    for is_scheduled in [false, true] {
        explore(move |slots| async move {
            let builder = Pool::builder()
                .workers(1)
                .jobs_per_worker(slots)
                .queue_capacity(4)
                .timer(ManualTimer::new());
            let (pool, workers) = builder.build(|n: u32| async move { Ok::<_, u32>(n) });
            let answers = Arc::new(Answers::default());
            let submitters = [0, 10].map(|first| submit_two(&pool, first, &answers, is_scheduled));
            let report = pool.abort().await;
            join(submitters).await;
            let late = pool.abort().await;
            let named = report.unstarted.len() + late.unstarted.len();
            assert_eq!(
                (load(&answers.accepted), load(&answers.aborted)),
                (named, named)
            );
            assert_eq!(named + load(&answers.returned), 4);
            assert_settled(&pool, &Seen::default(), slots);
            drop(workers);
        });
    }
}

#[test]
fn an_abort_during_a_drain_ends_both() {
    for is_scheduled in [false, true] {
        explore(move |slots| async move {
            let (pool, workers, seen) = pool(1, slots, 4);
            let answers = Arc::new(Answers::default());
            let submitter = submit_two(&pool, 0, &answers, is_scheduled);
            let drainer = spawn({
                let pool = pool.clone();
                async move { pool.drain().await }
            });
            let report = pool.abort().await;
            join([submitter, drainer]).await;
            join(workers).await;
            assert_settled(&pool, &seen, slots);
            assert!(report.interrupted.len() <= slots, "{report:?}");
        });
    }
}

/// Runs the worker until the returned sender drops it, at any of its awaits.
fn spawn_leaver(
    worker: impl Future<Output = ()> + Send + 'static,
) -> (async_channel::Sender<()>, JoinHandle<()>) {
    let (leave, left) = async_channel::bounded(1);
    let task = spawn(future::or(
        async move {
            let _ = left.recv().await;
        },
        worker,
    ));
    (leave, task)
}

#[test]
fn the_last_worker_that_leaves_takes_no_job_with_it() {
    for is_scheduled in [false, true] {
        explore(move |slots| async move {
            let seen = Arc::new(Seen::default());
            let builder = Pool::builder()
                .workers(2)
                .jobs_per_worker(slots)
                .queue_capacity(1)
                .timer(ManualTimer::new());
            let (pool, workers) = builder.build({
                let seen = Arc::clone(&seen);
                move |n: u32| work(n, Arc::clone(&seen))
            });
            let (leave, tasks): (Vec<_>, Vec<_>) = workers
                .into_iter()
                .map(|worker| spawn_leaver(worker.run()))
                .unzip();
            let answers = Arc::new(Answers::default());
            let submitters = [
                submit_two(&pool, 0, &answers, is_scheduled),
                submit_two(&pool, 10, &answers, is_scheduled),
            ];
            let tellers: Vec<_> = leave
                .into_iter()
                .map(|tell| {
                    spawn(async move {
                        let _ = tell.send(()).await;
                    })
                })
                .collect();
            join(submitters).await;
            join(tellers).await;
            join(tasks).await;
            pool.wait_idle().await;
            assert_settled(&pool, &seen, 2 * slots);
            assert_eq!(load(&answers.accepted) + load(&answers.returned), 4);
            assert_eq!(pool.stats().abandoned, load(&answers.abandoned) as u64);
            assert_eq!(pool.stats().workers, 0);
        });
    }
}

#[test]
fn a_worker_that_leaves_hands_what_it_was_woken_for_to_another() {
    for is_scheduled in [false, true] {
        explore(move |slots| async move {
            let seen = Arc::new(Seen::default());
            let builder = Pool::builder()
                .workers(2)
                .jobs_per_worker(slots)
                .queue_capacity(4)
                .timer(ManualTimer::new());
            let (pool, workers) = builder.build({
                let seen = Arc::clone(&seen);
                move |n: u32| work(n, Arc::clone(&seen))
            });
            let mut workers = workers.into_iter();
            let (leave, leaver) = spawn_leaver(workers.next().expect("two").run());
            let stayer = spawn(workers.next().expect("two").run());
            let answers = Arc::new(Answers::default());
            let submitter = submit_two(&pool, 0, &answers, is_scheduled);
            let teller = spawn(async move {
                let _ = leave.send(()).await;
            });
            join([submitter, teller, leaver]).await;
            assert!(
                load(&answers.abandoned) <= slots,
                "only what it was running"
            );
            pool.drain().await;
            join([stayer]).await;
            assert_settled(&pool, &seen, 2 * slots);
        });
    }
}

#[test]
fn a_map_ends_when_the_workers_leave() {
    explore(|slots| async move {
        let seen = Arc::new(Seen::default());
        let builder = Pool::builder()
            .workers(1)
            .jobs_per_worker(slots)
            .queue_capacity(2)
            .timer(ManualTimer::new());
        let (pool, workers) = builder.build({
            let seen = Arc::clone(&seen);
            move |n: u32| work(n, Arc::clone(&seen))
        });
        let (leave, tasks): (Vec<_>, Vec<_>) = workers
            .into_iter()
            .map(|worker| spawn_leaver(worker.run()))
            .unzip();
        let teller = spawn(async move {
            let _ = leave[0].send(()).await;
        });
        let mut map = pool.map([0, 2, 4, 6]).window(2);
        let mut told = Vec::new();
        while let Some(completion) = map.next().await {
            match completion.result {
                Ok(_) | Err(JobError::Abandoned) => {
                    told.push(u32::try_from(completion.index).expect("small"))
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(unique(told).len() as u64, pool.stats().accepted);
        join([teller]).await;
        join(tasks).await;
        assert_settled(&pool, &seen, slots);
    });
}
