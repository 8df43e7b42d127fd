//! Twelve requests at two a second, with a burst of three; then the same with a strict window. Time
//! is a clock that is moved by hand, so the output is the same each time, at once. With `start` in
//! place of `timer` and `build`, the builder is the same.
//!
//! `cargo run --example rate_limited`

use std::cell::RefCell;
use std::time::Duration;

use brigade::{ManualTimer, Pool, RateLimit};
use futures_lite::future;

/// When each of twelve jobs starts under the limit, in milliseconds.
fn starts(limit: RateLimit) -> Vec<u128> {
    let clock = ManualTimer::new();
    let starts = RefCell::new(Vec::new());
    let (pool, workers) = Pool::builder()
        .workers(10)
        .rate_limit(limit)
        .timer(clock.clone())
        .build(|_request: u32| {
            starts.borrow_mut().push(clock.elapsed().as_millis());
            async { Ok::<_, ()>(()) }
        });
    // When the whole run waits, the clock jumps to the next moment that it waits for.
    let run = pool.map(0..12).for_each(drop);
    let summary = future::block_on(clock.run(workers.drive(run)));
    assert!(summary.is_complete());
    starts.into_inner()
}

fn main() {
    let bucket = starts(RateLimit::per_second(2).burst(3));
    println!("two a second, burst of three:");
    println!("  {bucket:?}");
    assert_eq!(
        bucket,
        [0, 0, 0, 500, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 4500]
    );

    let window = starts(RateLimit::sliding_window(4, Duration::from_secs(2)));
    println!("never more than four in any two seconds:");
    println!("  {window:?}");
    assert_eq!(
        window,
        [0, 0, 0, 0, 2000, 2000, 2000, 2000, 4000, 4000, 4000, 4000]
    );
}
