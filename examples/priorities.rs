//! Urgent jobs overtake those that wait, a job is moved up while it waits, one is put off and one
//! is cancelled; with aging, what waits for long overtakes what is urgent. The time is made up, so
//! the output is the same each time.
//!
//! `cargo run --example priorities`

use std::cell::RefCell;
use std::time::Duration;

use brigade::{ManualTimer, Pool};
use futures_lite::future;

fn main() {
    one_by_one();
    with_ageing();
}

fn one_by_one() {
    let clock = ManualTimer::new();
    let order = RefCell::new(Vec::new());
    let (pool, workers) =
        Pool::builder()
            .workers(1)
            .timer(clock.clone())
            .build(|name: &'static str| {
                order.borrow_mut().push(name);
                async { Ok::<_, ()>(()) }
            });
    // What is submitted while the pool is paused is put in order before anything starts.
    pool.pause();
    let submit = |name, priority| {
        pool.job(name)
            .priority(priority)
            .try_submit()
            .expect("there is room")
    };
    let nightly = submit("nightly", -5);
    let first = submit("first", 0);
    let second = submit("second", 0);
    let urgent = submit("urgent", 10);
    let raised = submit("raised", 0);
    assert!(raised.set_priority(5));
    let dropped = submit("dropped", 100);
    let later = pool
        .job("later")
        .priority(100)
        .delay(Duration::from_secs(60))
        .try_submit()
        .expect("there is room");
    future::block_on(workers.drive(async {
        dropped.cancel().await;
        pool.resume();
        for handle in [urgent, raised, first, second, nightly] {
            handle.await.expect("it succeeds");
        }
        assert_eq!(pool.stats().delayed, 1);
        clock.advance(Duration::from_secs(60));
        later.await.expect("it succeeds");
    }));
    println!("strict: {}", order.borrow().join(", "));
    assert_eq!(
        *order.borrow(),
        ["urgent", "raised", "first", "second", "nightly", "later"]
    );
}

/// Each job takes ten seconds, and before it ends, another urgent one has come. Without aging, the
/// low one would start last.
fn with_ageing() {
    const STEP: Duration = Duration::from_secs(10);
    let clock = ManualTimer::new();
    let order = RefCell::new(Vec::new());
    let (pool, workers) = Pool::builder()
        .workers(1)
        .aging(STEP)
        .timer(clock.clone())
        .build(|name: &'static str| {
            order.borrow_mut().push(name);
            let work = clock.sleep(STEP);
            async move {
                work.await;
                Ok::<_, ()>(())
            }
        });
    let submit = |name, priority| {
        pool.job(name)
            .priority(priority)
            .try_submit()
            .expect("there is room")
            .detach();
    };
    future::block_on(workers.drive(async {
        submit("running", 0);
        clock.sleepers(1).await;
        submit("low", 0);
        for name in ["urgent 1", "urgent 2", "urgent 3", "urgent 4", "urgent 5"] {
            submit(name, 3);
            clock.advance(STEP);
            clock.sleepers(1).await;
        }
        while pool.stats().queued > 0 {
            clock.advance(STEP);
            clock.sleepers(1).await;
        }
        clock.advance(STEP);
        pool.wait_idle().await;
    }));
    println!("with aging: {}", order.borrow().join(", "));
    // It has risen by one for each step, and after three of them it is the oldest of its rank.
    let expected = [
        "running", "urgent 1", "urgent 2", "urgent 3", "low", "urgent 4", "urgent 5",
    ];
    assert_eq!(*order.borrow(), expected);
}
