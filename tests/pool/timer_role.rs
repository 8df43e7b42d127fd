//! The timer role: the worker that has it handles deadlines while all workers are busy, hands the
//! role over when it is dropped, and does not sleep on the clock without a deadline. On one thread
//! and step by step, since the tests depend on which worker is polled when.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use brigade::rt::BoxFuture;
use brigade::{Builder, JobError, ManualTimer, Pool, RateLimit, Retry, TimeLimit, Timer};
use futures_lite::future;

use crate::harness::{
    MINUTE, OwnPool, OwnPoolRef, SECOND, Slots, Watchdog, assert_settled, in_both_ways, poll_once,
};
use crate::steps::{Steps, step_pool};

/// A pool whose jobs never end by themselves, and its workers as the first tasks.
fn endless_pool(clock: &ManualTimer, builder: Builder<u32, ()>) -> (Pool<u32, (), ()>, Steps) {
    let (pool, steps) = step_pool(builder.timer(clock.clone()), |_: u32| {
        future::pending::<Result<(), ()>>()
    });
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
        assert_eq!(
            poll_once(pin!(late)),
            Some(Err(JobError::TimedOut(TimeLimit::Job)))
        );
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
    // Which worker has the timer role is not visible, so each of the two is dropped once; the other
    // one is busy or idle. Of two slots, at least one is free.
    let cases = [1, 2].map(|slots| [(slots, 1, 0), (slots, 1, 1), (slots, 2, 0), (slots, 2, 1)]);
    for (slots, jobs, leaver) in cases.into_iter().flatten() {
        let clock = ManualTimer::new();
        let (pool, mut steps) =
            endless_pool(&clock, Pool::builder().workers(2).jobs_per_worker(slots));
        let running: Vec<_> = (0..jobs).map(|n| pool.try_submit(n).unwrap()).collect();
        settle(&mut steps);
        let late = pool
            .job(9)
            .delay(SECOND * 9)
            .timeout(SECOND)
            .try_submit()
            .unwrap();
        settle(&mut steps);
        steps.drop_task(leaver);
        settle(&mut steps);
        assert_eq!(
            clock.sleeping(),
            1,
            "no worker has the timer role when worker {leaver} is dropped, {jobs} jobs run"
        );
        clock.advance(SECOND);
        settle(&mut steps);
        assert_eq!(
            poll_once(pin!(late)),
            Some(Err(JobError::TimedOut(TimeLimit::Job)))
        );
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
    let late = pool
        .job(1)
        .delay(SECOND * 9)
        .timeout(SECOND)
        .try_submit()
        .unwrap();
    // The idle one was woken to keep the time, and does not live to do it.
    assert_eq!(steps.runnable().collect::<Vec<_>>(), [1]);
    steps.drop_task(1);
    settle(&mut steps);
    assert_eq!(clock.sleeping(), 1);
    clock.advance(SECOND);
    settle(&mut steps);
    assert_eq!(
        poll_once(pin!(late)),
        Some(Err(JobError::TimedOut(TimeLimit::Job)))
    );
    assert!(!running.is_finished());
}

#[test]
fn what_a_cancelled_map_has_held_up_starts_at_once() {
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let started = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&started);
        let (pool, mut steps) = step_pool(
            slots
                .in_order(Pool::builder())
                .rate_limit(RateLimit::per_second(1).burst(5))
                .cost_by(|cost: &u32| *cost)
                .timer(clock.clone()),
            move |cost| {
                log.borrow_mut().push(cost);
                async move { Ok::<_, ()>(cost) }
            },
        );
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

/// A pool that notes when its jobs start, with its workers as the first tasks; the clock stands
/// still when it is made.
fn noting_pool(
    clock: &ManualTimer,
    builder: Builder<u32, ()>,
    limit: RateLimit,
) -> (Pool<u32, (), ()>, Steps, Starts) {
    let starts = Starts::default();
    let (log, inside) = (Rc::clone(&starts), clock.clone());
    let (pool, steps) = step_pool(builder.rate_limit(limit).timer(clock.clone()), move |n| {
        log.borrow_mut().push((inside.elapsed().as_millis(), n));
        future::ready(Ok::<_, ()>(()))
    });
    (pool, steps, starts)
}

type Starts = Rc<RefCell<Vec<(u128, u32)>>>;

#[test]
fn a_job_that_starts_late_counts_against_the_rate_when_it_starts() {
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let (pool, mut steps, starts) = noting_pool(
            &clock,
            slots.in_order(Pool::builder()),
            RateLimit::per_second(1).burst(2),
        );
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
        assert_eq!(
            *starts.borrow(),
            [(3000, 0), (3000, 1), (4000, 2), (5000, 3)]
        );
    });
}

#[test]
fn another_rate_keeps_the_order_of_what_is_on_its_way_and_what_is_not() {
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let (pool, mut steps, starts) = noting_pool(
            &clock,
            slots.at_once(Pool::builder(), 2),
            RateLimit::per_second(1),
        );
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
    assert_eq!(
        (
            report.unstarted.len(),
            report.interrupted.len(),
            clock.sleeping()
        ),
        (1, 1, 0)
    );
    assert_settled(&pool);
}

#[test]
fn jobs_that_wait_for_a_worker_that_is_not_polled_wake_no_other() {
    let clock = ManualTimer::new();
    let starts = Starts::default();
    let (log, inside) = (Rc::clone(&starts), clock.clone());
    let builder = Pool::builder()
        .workers(3)
        .rate_limit(RateLimit::every(SECOND))
        .timer(clock.clone());
    let (pool, workers) = builder.build(move |n: u32| {
        log.borrow_mut().push((inside.elapsed().as_millis(), n));
        future::pending::<Result<(), ()>>()
    });
    let mut workers = workers.into_iter();
    let mut steps = Steps::default();
    let mut next_worker = |steps: &mut Steps| steps.add("worker", workers.next().unwrap().run());
    let first = next_worker(&mut steps);
    (0..3).for_each(|n| pool.try_submit(n).unwrap().detach());
    steps.settle();
    clock.advance(SECOND);
    steps.settle();
    // The second job is on its way to a worker, and the third one waits for its start and for no
    // time.
    let polls = steps.polls(first);
    for _ in 0..10 {
        assert_eq!(clock.sleeping(), 0);
        clock.advance(SECOND);
        steps.settle();
    }
    assert_eq!(steps.polls(first), polls);
    // It does so as late as its start is.
    next_worker(&mut steps);
    next_worker(&mut steps);
    steps.run_out(&clock);
    assert_eq!(*starts.borrow(), [(0, 0), (11_000, 1), (12_000, 2)]);
}

/// Jobs of input 0 never end, those of 1 fail, and all others succeed.
async fn handle(n: u32) -> Result<u32, ()> {
    match n {
        0 => future::pending().await,
        1 => Err(()),
        n => Ok(n),
    }
}

/// A pool of two slots of such jobs, whose workers are tasks that have settled.
fn small_pool(
    slots: Slots,
    timer: impl Timer,
    policy: fn(Builder<u32, ()>) -> Builder<u32, ()>,
) -> (Pool<u32, u32, ()>, Steps) {
    let (pool, mut steps) = step_pool(
        policy(slots.at_once(Pool::builder(), 2)).timer(timer),
        handle,
    );
    steps.settle();
    (pool, steps)
}

/// How something comes to wait for a moment: the policy of its pool, and what to submit. What is
/// returned waits for it, until it is dropped.
type Waits = (
    &'static str,
    fn(Builder<u32, ()>) -> Builder<u32, ()>,
    fn(&Pool<u32, u32, ()>, &mut Steps) -> Box<dyn Any>,
);

const WAITS: [Waits; 7] = [
    (
        "a delay",
        |builder| builder,
        |pool, _| Box::new(pool.job(2).delay(MINUTE).try_submit().unwrap()),
    ),
    (
        "a backoff",
        |builder| builder.retry(Retry::fixed(MINUTE)),
        |pool, _| Box::new(pool.try_submit(1).unwrap()),
    ),
    (
        "a map in backoff",
        |builder| builder.retry(Retry::fixed(MINUTE)),
        |pool, steps| begun_map(pool, steps, 1),
    ),
    (
        "a permit",
        |builder| builder.rate_limit(RateLimit::every(MINUTE)),
        |pool, steps| {
            pool.try_submit(2).unwrap().detach();
            steps.settle();
            Box::new(pool.try_submit(2).unwrap())
        },
    ),
    (
        "a map without a permit",
        |builder| builder.rate_limit(RateLimit::every(MINUTE)),
        |pool, steps| {
            pool.try_submit(2).unwrap().detach();
            steps.settle();
            begun_map(pool, steps, 2)
        },
    ),
    (
        "a permit of a key",
        |builder| {
            builder
                .key_by(|n| *n)
                .rate_limit_per_key(RateLimit::every(MINUTE))
        },
        |pool, steps| {
            pool.try_submit(0).unwrap().detach();
            steps.settle();
            Box::new(pool.try_submit(0).unwrap())
        },
    ),
    (
        "its time-out in the queue",
        |builder| builder,
        |pool, steps| {
            (0..2).for_each(|_| pool.try_submit(0).unwrap().detach());
            steps.settle();
            Box::new(pool.job(2).timeout(MINUTE).try_submit().unwrap())
        },
    ),
];

/// A map that has pulled its only input.
fn begun_map(pool: &Pool<u32, u32, ()>, _: &mut Steps, input: u32) -> Box<dyn Any> {
    let mut map = Box::pin(pool.map([input]));
    assert_eq!(poll_once(pin!(map.next())), None);
    Box::new(map)
}

#[test]
fn when_what_waits_for_a_moment_has_gone_no_alarm_is_left() {
    in_both_ways(|slots| {
        for (what, policy, begin) in WAITS {
            // Whether the worker that keeps the time is busy or idle then.
            for busy in 0..2 {
                let clock = ManualTimer::new();
                let (pool, mut steps) = small_pool(slots, clock.clone(), policy);
                if what == "a delay" || what == "a backoff" {
                    (0..busy).for_each(|_| pool.try_submit(0).unwrap().detach());
                    steps.settle();
                }
                let waiting = begin(&pool, &mut steps);
                steps.settle();
                assert_eq!(clock.sleeping(), 1, "{what}");
                drop(waiting);
                steps.settle();
                assert_eq!(clock.sleeping(), 0, "{what}");
            }
        }
    });
}

#[test]
fn the_alarm_is_for_the_first_moment_that_is_left_whichever_worker_keeps_the_time() {
    // No worker leaves, or one of them before it is polled again.
    for leaver in [None, Some(0), Some(1)] {
        let clock = ManualTimer::new();
        let (pool, mut steps) = small_pool(Slots::One, clock.clone(), |builder| builder);
        let [early, late] = [1, 9].map(|n| pool.job(2).delay(SECOND * n).try_submit().unwrap());
        steps.settle();
        assert_eq!(clock.sleeping(), 1);
        drop(early);
        leaver
            .into_iter()
            .for_each(|worker| steps.drop_task(worker));
        steps.settle();
        assert_eq!(clock.sleeping(), 1);
        assert!(clock.advance_to_next());
        steps.settle();
        assert_eq!(
            (clock.elapsed(), poll_once(pin!(late)), clock.sleeping()),
            (SECOND * 9, Some(Ok(2)), 0)
        );
        assert_settled(&pool);
    }
}

#[test]
fn moments_that_move_on_while_jobs_come_and_go_leave_one_alarm_at_most() {
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let (pool, mut steps) =
            small_pool(slots, clock.clone(), |builder| builder.job_timeout(MINUTE));
        (0..2).for_each(|_| pool.try_submit(0).unwrap().detach());
        steps.settle();
        // The two that run have alarms of their own.
        assert_eq!(clock.sleeping(), 2);
        let mut last = None;
        for _ in 0..20 {
            clock.advance(SECOND);
            // The one before goes after the next one has come.
            let next = pool.try_submit(2).unwrap();
            steps.settle();
            assert_eq!(clock.sleeping(), 3);
            drop(last.replace(next));
            steps.settle();
            assert_eq!(clock.sleeping(), 3);
        }
        drop(last);
        steps.settle();
        assert_eq!(clock.sleeping(), 2);
    });
}

/// A clock whose sleeps use the pool when they are dropped.
struct Using {
    clock: ManualTimer,
    pool: OwnPoolRef<u32, u32, ()>,
    drops: Arc<AtomicUsize>,
}

impl Timer for Using {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        let (pool, drops) = (self.pool.clone(), Arc::clone(&self.drops));
        Box::pin(UsingSleep {
            sleep: self.clock.sleep_until(at),
            pool,
            drops,
        })
    }
}

struct UsingSleep {
    sleep: BoxFuture<'static, ()>,
    pool: OwnPoolRef<u32, u32, ()>,
    drops: Arc<AtomicUsize>,
}

impl Future for UsingSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(cx)
    }
}

impl Drop for UsingSleep {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.get() {
            let _ = pool.stats();
            pool.set_rate_limit(RateLimit::every(SECOND));
            self.drops.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn an_alarm_that_is_given_up_may_use_the_pool_in_its_drop() {
    in_both_ways(|slots| {
        let clock = ManualTimer::new();
        let (own, drops) = (OwnPool::new(), Arc::new(AtomicUsize::new(0)));
        let timer = Using {
            clock: clock.clone(),
            pool: own.reach(),
            drops: Arc::clone(&drops),
        };
        let (pool, mut steps) = small_pool(slots, timer, |builder| builder);
        own.set(&pool);
        let [late, early] = [9, 1].map(|n| {
            let handle = pool.job(2).delay(SECOND * n).try_submit().unwrap();
            steps.settle();
            handle
        });
        // One was given up for an earlier moment, one for a later one, and one for none.
        drop(early);
        steps.settle();
        drop(late);
        steps.settle();
        assert_eq!((drops.load(Ordering::SeqCst), clock.sleeping()), (3, 0));
    });
}
