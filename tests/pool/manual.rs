//! `ManualTimer` and its `run`, which advances the clock to the next deadline while its future is
//! pending.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use brigade::{JobError, ManualTimer, Pool, RateLimit, TimeLimit};
use futures_lite::future;

use crate::harness::{SECOND, Wakes};

#[test]
fn the_clock_jumps_to_each_alarm_in_turn() {
    let clock = ManualTimer::new();
    let seen = future::block_on(clock.run(async {
        let sleep = |secs| {
            let sleep = clock.sleep(secs * SECOND);
            async {
                sleep.await;
                clock.elapsed()
            }
        };
        let ((first, second), third) =
            future::zip(future::zip(sleep(3600), sleep(5)), sleep(0)).await;
        [first, second, third]
    }));
    assert_eq!(seen, [3600 * SECOND, 5 * SECOND, Duration::ZERO]);
}

#[test]
fn the_clock_stands_while_the_future_goes_on() {
    let clock = ManualTimer::new();
    let work = async {
        for _ in 0..1000 {
            future::yield_now().await;
        }
        clock.elapsed()
    };
    let race = future::or(work, async {
        clock.sleep(SECOND).await;
        clock.elapsed()
    });
    assert_eq!(future::block_on(clock.run(race)), Duration::ZERO);
}

#[test]
fn a_pool_with_a_rate_and_a_time_limit_runs_on_a_clock_that_jumps() {
    let clock = ManualTimer::new();
    let (pool, workers) = Pool::builder()
        .workers(4)
        .rate_limit(RateLimit::per_second(1))
        .attempt_timeout(60 * SECOND)
        .timer(clock.clone())
        .build(|n: u32| {
            let clock = &clock;
            async move {
                let at = clock.elapsed();
                clock.sleep(n * 40 * SECOND).await;
                Ok::<_, ()>(at)
            }
        });
    let results = future::block_on(clock.run(workers.drive(async {
        let handles: Vec<_> = (0..3).map(|n| pool.try_submit(n).unwrap()).collect();
        let mut results = Vec::new();
        for handle in handles {
            results.push(handle.await);
        }
        results
    })));
    let timed_out = Err(JobError::TimedOut(TimeLimit::Attempt));
    assert_eq!(results, [Ok(Duration::ZERO), Ok(SECOND), timed_out]);
    assert_eq!(clock.elapsed(), 62 * SECOND);
}

#[test]
fn a_run_without_alarms_waits_to_be_woken() {
    let clock = ManualTimer::new();
    let wakes = Wakes::new();
    let waker = wakes.waker();
    let mut cx = Context::from_waker(&waker);
    let (polls, place) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(None)));
    let mut run = pin!(clock.run({
        let (polls, place) = (Rc::clone(&polls), Rc::clone(&place));
        poll_fn(move |cx| {
            polls.set(polls.get() + 1);
            place.set(Some(cx.waker().clone()));
            if polls.get() == 2 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
    }));
    assert!(run.as_mut().poll(&mut cx).is_pending());
    assert_eq!((polls.get(), wakes.count()), (1, 0));
    place.take().expect("the future was polled").wake();
    assert_eq!(wakes.count(), 1);
    assert!(run.poll(&mut cx).is_ready());
    assert_eq!(clock.elapsed(), Duration::ZERO);
}
