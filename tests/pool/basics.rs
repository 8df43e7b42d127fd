//! The basic promises: every job runs and has one completion, at most as many run at once as there
//! are slots, and invalid options are refused where they are set.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brigade::{CollectError, End, JobError, ManualTimer, Pool, Summary};
use futures_lite::stream;

use crate::harness::{
    Gate, Live, assert_settled, block_on, everywhere, everywhere_once, millis, poll_once,
};

#[test]
fn every_input_of_a_map_has_one_completion() {
    everywhere(|env| async move {
        let pool = env.at_once(4).spawn_on(&env, |n: u32| async move {
            if n.is_multiple_of(7) { Err(n) } else { Ok(n) }
        });
        let mut seen = Vec::new();
        let mut map = pool.map(0..1000);
        while let Some(completion) = map.next().await {
            seen.push((completion.index, completion.result));
        }
        seen.sort_by_key(|(index, _)| *index);
        let expected: Vec<_> = (0..1000)
            .map(|n| {
                (
                    n as usize,
                    if n % 7 == 0 {
                        Err(JobError::Failed(n))
                    } else {
                        Ok(n)
                    },
                )
            })
            .collect();
        assert_eq!(seen, expected, "{}", env.name);
        assert!(map.summary().is_complete());
        assert_settled(&pool);
    });
}

#[test]
fn as_many_jobs_run_at_once_as_there_are_slots_and_no_more() {
    everywhere(|env| async move {
        for slots in [1, 3, 10] {
            let (gate, live) = (Gate::new(), Live::default());
            let (inside, alive) = (gate.clone(), live.clone());
            let pool = env.at_once(slots).spawn_on(&env, move |_: usize| {
                let (gate, live) = (inside.clone(), alive.clone());
                async move {
                    let _guard = live.enter();
                    gate.pass().await;
                    Ok::<_, ()>(())
                }
            });
            let handles: Vec<_> = (0..10 * slots)
                .map(|n| pool.try_submit(n).unwrap())
                .collect();
            gate.arrived(slots).await;
            assert_eq!(pool.stats().running, slots);
            gate.open(10 * slots);
            for handle in handles {
                assert_eq!(handle.await, Ok(()));
            }
            pool.drain().await;
            assert_eq!((live.most(), live.now()), (slots, 0), "{}", env.name);
            assert_settled(&pool);
        }
    });
}

#[test]
fn all_jobs_of_many_full_rounds_run() {
    everywhere(|env| async move {
        let (live, clock) = (Live::default(), env.clock.clone());
        let alive = live.clone();
        let pool = env.at_once(100).spawn_on(&env, move |n: usize| {
            let (live, clock) = (alive.clone(), clock.clone());
            async move {
                let _guard = live.enter();
                clock.sleep(millis(1)).await;
                Ok::<_, ()>(n)
            }
        });
        let handles: Vec<_> = (0..1000).map(|n| pool.try_submit(n).unwrap()).collect();
        pool.close();
        for _ in 0..10 {
            env.clock.sleepers(100).await;
            env.clock.advance(millis(1));
        }
        pool.drain().await;
        let mut done = Vec::new();
        for handle in handles {
            done.push(handle.await);
        }
        assert_eq!(done, (0..1000).map(Ok).collect::<Vec<_>>());
        assert_eq!((live.most(), live.now()), (100, 0));
        assert_eq!(assert_settled(&pool).succeeded, 1000);
    });
}

#[test]
fn one_worker_runs_jobs_one_after_another_in_the_order_of_submission() {
    everywhere_once(|env| async move {
        let spans = Arc::new(Mutex::new(Vec::new()));
        let (log, clock) = (Arc::clone(&spans), env.clock.clone());
        let pool = env.builder().workers(1).spawn_on(&env, move |millis: u64| {
            let (log, clock) = (Arc::clone(&log), clock.clone());
            async move {
                let start = clock.elapsed();
                clock.sleep(Duration::from_millis(millis)).await;
                log.lock()
                    .unwrap()
                    .push((millis, start.as_millis(), clock.elapsed().as_millis()));
                Ok::<_, ()>(())
            }
        });
        let handles = [300, 100, 200].map(|millis| pool.try_submit(millis).unwrap());
        for handle in handles {
            env.clock.sleepers(1).await;
            assert!(env.clock.advance_to_next());
            assert_eq!(handle.await, Ok(()));
        }
        assert_eq!(
            *spans.lock().unwrap(),
            [(300, 0, 300), (100, 300, 400), (200, 400, 600)]
        );
        assert_settled(&pool);
    });
}

#[test]
fn numbers_that_make_no_sense_are_refused_where_they_are_set() {
    fn message(misuse: impl FnOnce()) -> String {
        let payload =
            catch_unwind(AssertUnwindSafe(misuse)).expect_err("the number makes no sense");
        payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .expect("the message is text")
    }
    let (pool, _workers) = Pool::builder()
        .timer(ManualTimer::new())
        .build(|n: u32| async move { Ok::<_, ()>(n) });
    let messages = [
        message(|| drop(Pool::builder::<(), ()>().workers(0))),
        message(|| drop(Pool::builder::<(), ()>().queue_capacity(0))),
        message(|| drop(Pool::builder::<(), ()>().attempt_timeout(Duration::ZERO))),
        message(|| drop(Pool::builder::<(), ()>().job_timeout(Duration::ZERO))),
        message(|| pool.set_attempt_timeout(Some(Duration::ZERO))),
        message(|| drop(pool.job(1).timeout(Duration::ZERO))),
        message(|| drop(pool.job(1).attempt_timeout(Duration::ZERO))),
        message(|| drop(pool.map([1]).window(0))),
        message(|| drop(pool.group().window(0))),
        message(|| drop(pool.batches(stream::iter([1]), 0, Duration::ZERO))),
    ];
    let expected = [
        "workers must be at least 1, got 0",
        "queue_capacity must be at least 1, got 0",
        "attempt_timeout must be longer than 0, got 0ns",
        "job_timeout must be longer than 0, got 0ns",
        "attempt_timeout must be longer than 0, got 0ns",
        "timeout must be longer than 0, got 0ns",
        "attempt_timeout must be longer than 0, got 0ns",
        "window must be at least 1, got 0",
        "window must be at least 1, got 0",
        "max must be at least 1, got 0",
    ];
    assert_eq!(messages, expected);
    // A refusal leaves the pool as it was.
    assert_eq!(
        block_on(_workers.drive(pool.map([7]).try_collect::<Vec<_>>())),
        Ok(vec![7])
    );
    assert_eq!(assert_settled(&pool).accepted, 1);
}

#[test]
fn no_jobs_at_all_are_done_at_once() {
    everywhere(|env| async move {
        let pool = env
            .at_once(2)
            .spawn_on(&env, |n: u32| async move { Ok::<_, ()>(n) });
        let mut map = pool.map([]);
        {
            let mut next = std::pin::pin!(map.next());
            assert_eq!(poll_once(next.as_mut()), Some(None));
        }
        assert!(map.summary().is_complete());
        assert_eq!(map.summary(), map_of_nothing());
        let mut collected = std::pin::pin!(pool.map([]).try_collect::<Vec<_>>());
        assert_eq!(
            poll_once(collected.as_mut()),
            Some(Ok::<_, CollectError<u32, ()>>(Vec::new()))
        );
        let mut joined = std::pin::pin!(pool.group().join());
        assert_eq!(poll_once(joined.as_mut()), Some(Vec::new()));
        assert_eq!(poll_once(std::pin::pin!(pool.wait_idle())), Some(()));
        assert_eq!(poll_once(std::pin::pin!(pool.drain())), Some(()));
        assert_eq!(assert_settled(&pool).accepted, 0);
    });
}

fn map_of_nothing() -> Summary {
    let mut summary = Summary::default();
    summary.end = End::Complete;
    summary
}

#[test]
fn workers_are_counted_and_numbered_from_0() {
    for count in [1, 3] {
        let (_pool, workers) = Pool::builder()
            .workers(count)
            .timer(ManualTimer::new())
            .build(|n: u32| async move { Ok::<_, ()>(n) });
        assert_eq!((workers.len(), workers.is_empty()), (count, false));
        assert_eq!(
            format!("{workers:?}"),
            format!("Workers {{ len: {count}, .. }}")
        );
        let (ids, texts): (Vec<_>, Vec<_>) = workers
            .into_iter()
            .map(|worker| (worker.id(), format!("{worker:?}")))
            .unzip();
        assert_eq!(ids, (0..count).collect::<Vec<_>>());
        assert_eq!(
            texts,
            (0..count)
                .map(|id| format!("Worker {{ id: {id}, .. }}"))
                .collect::<Vec<_>>()
        );
    }
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
