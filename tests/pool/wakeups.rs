//! Which workers and consumers are woken: a job wakes an idle worker, no wake-up is lost, and few are
//! superfluous. On one thread, where each poll can be counted.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::Context;

use brigade::{ManualTimer, Pool};

use crate::harness::{Log, OwnPool, Wakes, in_both_ways, on_wake, poll_once};
use crate::steps::step_pool;

#[test]
fn a_worker_lets_others_have_the_thread_after_256_jobs() {
    in_both_ways(|slots| {
        let started = Log::new();
        let starts = started.clone();
        let builder = slots.each(Pool::builder(), 1, 8).queue_capacity(600);
        let (pool, workers) = builder.timer(ManualTimer::new()).build(move |n: u32| {
            starts.push(n);
            async move { Ok::<_, ()>(n) }
        });
        (0..600).for_each(|n| pool.try_submit(n).unwrap().detach());
        let mut worker = Box::pin(workers.into_iter().next().unwrap().run());
        let turns = [0; 4].map(|_| {
            assert_eq!(poll_once(worker.as_mut()), None);
            started.take().len()
        });
        assert_eq!(turns, [256, 256, 88, 0], "{slots} slots");
    });
}

/// All in one poll of the worker.
#[test]
fn a_consumer_with_nothing_to_read_is_woken_before_the_next_job_starts() {
    in_both_ways(|slots| {
        let events = Arc::new(Mutex::new(Vec::new()));
        let (starts, wakes) = (Arc::clone(&events), Arc::clone(&events));
        let (pool, workers) = slots
            .in_order(Pool::builder())
            .timer(ManualTimer::new())
            .build(move |n: u32| {
                starts.lock().unwrap().push(format!("start {n}"));
                async move { Ok::<_, ()>(n) }
            });
        let mut map = pool.map(0..3);
        let waker = on_wake(move || wakes.lock().unwrap().push("woken".into()));
        assert!(
            std::pin::pin!(map.next())
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        let mut worker = Box::pin(workers.into_iter().next().unwrap().run());
        assert_eq!(poll_once(worker.as_mut()), None);
        assert_eq!(
            *events.lock().unwrap(),
            ["start 0", "woken", "start 1", "start 2"]
        );
    });
}

#[test]
fn idle_workers_are_not_woken_and_one_job_wakes_a_few_of_them() {
    let (pool, workers) = Pool::builder()
        .workers(100)
        .timer(ManualTimer::new())
        .build(|n: u32| async move { Ok::<_, ()>(n) });
    let wakes: Vec<_> = (0..100).map(|_| Wakes::new()).collect();
    let mut workers: Vec<_> = workers
        .into_iter()
        .map(|worker| Box::pin(worker.run()))
        .collect();
    let mut poll = |n: usize| {
        let waker = wakes[n].waker();
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
            .filter(|n| wakes[*n].take() > 0)
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
fn a_job_whose_worker_is_dropped_after_it_was_woken_for_it_goes_to_another_worker() {
    in_both_ways(|slots| {
        let (pool, workers) = slots
            .each(Pool::builder(), 2, 2)
            .timer(ManualTimer::new())
            .build(|n: u32| async move { Ok::<_, ()>(n) });
        let mut workers: Vec<_> = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()))
            .collect();
        let woken = Wakes::new();
        let waker = woken.waker();
        for worker in &mut workers {
            assert!(
                worker
                    .as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            );
        }
        let mut handle = pool.try_submit(7).unwrap();
        assert_eq!(woken.count(), 1);
        drop(workers.remove(0));
        assert_eq!(woken.count(), 2, "the other one is woken instead");
        assert!(poll_once(workers[0].as_mut()).is_none());
        assert_eq!(poll_once(Pin::new(&mut handle)), Some(Ok(7)));
    });
}

/// A job is submitted while a worker is polled, here by the job that the worker runs.
#[test]
fn jobs_that_come_while_a_worker_is_polled_are_not_left_while_workers_sleep() {
    for (workers, capacity, alone) in [(4, 2, 4), (4, 2, 3), (8, 3, 8), (3, 2, 3), (16, 2, 9)] {
        let own = OwnPool::<usize, usize, ()>::new();
        let inside = own.reach();
        let (pool, mut steps) = step_pool(
            Pool::builder()
                .workers(workers)
                .queue_capacity(capacity)
                .timer(ManualTimer::new()),
            move |n: usize| {
                let pool = inside.get();
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
            },
        );
        own.set(&pool);
        steps.settle();
        pool.try_submit(0).unwrap().detach();
        steps.settle();
        let stats = pool.stats();
        assert_eq!(
            (stats.queued, stats.succeeded),
            (0, alone as u64 + 2),
            "{stats:?}"
        );
    }
}
