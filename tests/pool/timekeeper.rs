//! The worker that keeps the time: it notices deadlines while all workers are busy, hands its role on when it leaves, and
//! rests when there is nothing to wait for. One thread, polled by hand, since it matters which worker is polled when.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use brigade::{Builder, JobError, ManualTimer, Pool, RateLimit, TimeLimit};
use futures_lite::future;

use crate::harness::{Watchdog, assert_settled, in_both_ways, poll_once};
use crate::steps::Steps;

const SECOND: Duration = Duration::from_secs(1);

/// A pool whose jobs never end by themselves, and its workers as the first tasks.
fn endless_pool(clock: &ManualTimer, builder: Builder<u32, ()>) -> (Pool<u32, (), ()>, Steps) {
    let (pool, workers) = builder.timer(clock.clone()).build(|_: u32| future::pending::<Result<(), ()>>());
    let mut steps = Steps::default();
    for worker in workers {
        steps.add("worker", worker.run());
    }
    (pool, steps)
}

fn settle(steps: &mut Steps) {
    while steps.step().is_some() {}
}

#[test]
fn a_queued_job_runs_out_of_time_while_all_workers_are_busy() {
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let (pool, mut steps) = endless_pool(&clock, slots.at_once(Pool::builder(), 2));
        let busy = [0, 0].map(|n| pool.try_submit(n).unwrap());
        settle(&mut steps);
        let mut late = pool.job(1).timeout(SECOND).try_submit().unwrap();
        settle(&mut steps);
        assert_eq!((poll_once(pin!(&mut late)), clock.sleeping()), (None, 1));
        clock.advance(SECOND);
        settle(&mut steps);
        assert_eq!(poll_once(pin!(late)), Some(Err(JobError::TimedOut(TimeLimit::Job))));
        assert!(!busy[0].is_finished() && !busy[1].is_finished());
        assert_eq!(clock.sleeping(), 0);
    });
}

#[test]
fn an_earlier_deadline_wakes_the_worker_that_keeps_the_time() {
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let (pool, mut steps) = endless_pool(&clock, slots.at_once(Pool::builder(), 2));
        (0..2).for_each(|_| pool.try_submit(0).unwrap().detach());
        let mut later = pool.job(1).timeout(SECOND * 60).try_submit().unwrap();
        settle(&mut steps);
        let mut sooner = pool.job(2).timeout(SECOND).try_submit().unwrap();
        settle(&mut steps);
        clock.advance(SECOND);
        settle(&mut steps);
        assert!(poll_once(pin!(&mut sooner)).is_some());
        assert!(poll_once(pin!(&mut later)).is_none());
        clock.advance(SECOND * 59);
        settle(&mut steps);
        assert!(poll_once(pin!(&mut later)).is_some());
    });
}

#[test]
fn a_worker_that_leaves_hands_the_time_on_to_a_busy_one_and_to_an_idle_one() {
    // Who keeps the time is not said, so each of the two leaves once; the one that stays is busy or idle.
    // Of two slots, one at least is free.
    let cases = [1, 2].map(|slots| [(slots, 1, 0), (slots, 1, 1), (slots, 2, 0), (slots, 2, 1)]);
    for (slots, jobs, leaver) in cases.into_iter().flatten() {
        let clock = ManualTimer::new();
        let (pool, mut steps) = endless_pool(&clock, Pool::builder().workers(2).jobs_per_worker(slots));
        let running: Vec<_> = (0..jobs).map(|n| pool.try_submit(n).unwrap()).collect();
        settle(&mut steps);
        let late = pool.job(9).delay(SECOND * 9).timeout(SECOND).try_submit().unwrap();
        settle(&mut steps);
        steps.drop_task(leaver);
        settle(&mut steps);
        assert_eq!(clock.sleeping(), 1, "nobody keeps the time when worker {leaver} has left, {jobs} jobs run");
        clock.advance(SECOND);
        settle(&mut steps);
        assert_eq!(poll_once(pin!(late)), Some(Err(JobError::TimedOut(TimeLimit::Job))));
        drop(running);
        settle(&mut steps);
        assert_eq!(clock.sleeping(), 0);
        assert_settled(&pool);
    }
}

#[test]
fn a_worker_that_leaves_before_it_takes_the_time_leaves_it_to_a_busy_one() {
    let clock = ManualTimer::new();
    let (pool, mut steps) = endless_pool(&clock, Pool::builder().workers(2));
    let running = pool.try_submit(0).unwrap();
    settle(&mut steps);
    let late = pool.job(1).delay(SECOND * 9).timeout(SECOND).try_submit().unwrap();
    // The idle one was woken to keep the time, and does not live to do it.
    assert_eq!(steps.runnable().collect::<Vec<_>>(), [1]);
    steps.drop_task(1);
    settle(&mut steps);
    assert_eq!(clock.sleeping(), 1);
    clock.advance(SECOND);
    settle(&mut steps);
    assert_eq!(poll_once(pin!(late)), Some(Err(JobError::TimedOut(TimeLimit::Job))));
    assert!(!running.is_finished());
}

#[test]
fn what_a_cancelled_map_has_held_up_starts_at_once() {
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let started = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&started);
        let (pool, workers) = slots
            .in_order(Pool::builder())
            .rate_limit(RateLimit::per_second(1).burst(5))
            .cost_by(|cost: &u32| *cost)
            .timer(clock.clone())
            .build(move |cost| {
                log.borrow_mut().push(cost);
                async move { Ok::<_, ()>(cost) }
            });
        let mut steps = Steps::default();
        for worker in workers {
            steps.add("worker", worker.run());
        }
        pool.try_submit(4).unwrap().detach();
        settle(&mut steps);
        let mut map = pool.map([5]);
        assert_eq!(poll_once(pin!(map.next())), None);
        pool.try_submit(1).unwrap().detach();
        settle(&mut steps);
        assert_eq!(*started.borrow(), [4]);
        drop(map);
        settle(&mut steps);
        assert_eq!(*started.borrow(), [4, 1]);
    });
}

/// A pool that notes when its jobs start, with its workers as the first tasks; the clock stands still when it is made.
fn noting_pool(clock: &ManualTimer, builder: Builder<u32, ()>, limit: RateLimit) -> (Pool<u32, (), ()>, Steps, Starts) {
    let starts = Starts::default();
    let (log, inside) = (Rc::clone(&starts), clock.clone());
    let (pool, workers) = builder.rate_limit(limit).timer(clock.clone()).build(move |n| {
        log.borrow_mut().push((inside.elapsed().as_millis(), n));
        future::ready(Ok::<_, ()>(()))
    });
    let mut steps = Steps::default();
    for worker in workers {
        steps.add("worker", worker.run());
    }
    (pool, steps, starts)
}

type Starts = Rc<RefCell<Vec<(u128, u32)>>>;

#[test]
fn a_job_that_starts_late_counts_against_the_rate_when_it_starts() {
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let (pool, mut steps, starts) =
            noting_pool(&clock, slots.in_order(Pool::builder()), RateLimit::per_second(1).burst(2));
        // Both are on their way at once; the worker is polled three seconds later.
        for n in 0..4 {
            pool.try_submit(n).unwrap().detach();
        }
        clock.advance(SECOND * 3);
        settle(&mut steps);
        clock.advance(SECOND);
        settle(&mut steps);
        clock.advance(SECOND);
        settle(&mut steps);
        assert_eq!(*starts.borrow(), [(3000, 0), (3000, 1), (4000, 2), (5000, 3)]);
    });
}

#[test]
fn another_rate_keeps_the_order_of_what_is_on_its_way_and_what_is_not() {
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let (pool, mut steps, starts) =
            noting_pool(&clock, slots.at_once(Pool::builder(), 2), RateLimit::per_second(1));
        settle(&mut steps);
        for n in 0..3 {
            pool.try_submit(n).unwrap().detach();
        }
        // The first one is on its way, and the others wait for permits.
        pool.set_rate_limit(None);
        settle(&mut steps);
        assert_eq!(*starts.borrow(), [(0, 0), (0, 1), (0, 2)]);
    });
}

#[test]
fn a_moment_that_passes_after_an_abort_does_not_keep_a_worker_from_yielding() {
    let _watchdog = Watchdog::new("one thread");
    let clock = ManualTimer::new();
    let (pool, mut steps) = endless_pool(&clock, Pool::builder().workers(2));
    pool.try_submit(0).unwrap().detach();
    settle(&mut steps);
    // The idle worker is the one to keep the time.
    pool.job(1).delay(SECOND).try_submit().unwrap().detach();
    settle(&mut steps);
    assert_eq!(clock.sleeping(), 1);
    let mut abort = Box::pin(pool.abort());
    assert!(poll_once(abort.as_mut()).is_none());
    clock.advance(SECOND);
    // The idle one first: the pool has not ended yet, since the other one is still to drop its job.
    steps.poll(1);
    settle(&mut steps);
    let report = poll_once(abort.as_mut()).expect("nothing runs any more");
    assert_eq!((report.unstarted.len(), report.interrupted.len(), clock.sleeping()), (1, 1, 0));
    assert_settled(&pool);
}
