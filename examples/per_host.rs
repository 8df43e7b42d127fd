//! A crawler that is polite: at most two requests to a host at once and one a second, however many
//! pages it has; a host with many pages does not hold up the others. The requests are made up, and
//! time is a clock that is moved by hand. With `start` in place of `timer` and `build`, the builder
//! is the same.
//!
//! `cargo run --example per_host`

use std::collections::BTreeMap;
use std::time::Duration;

use brigade::{ManualTimer, Pool, RateLimit, Timer};
use futures_lite::future;

/// A page of a host.
#[derive(Debug, Clone, Copy)]
struct Page {
    host: &'static str,
    number: u32,
}

fn main() {
    let clock = ManualTimer::new();
    let start = clock.now();
    let (pool, workers) = Pool::builder()
        .workers(8)
        .key_by(|page: &Page| page.host)
        .max_running_per_key(2)
        .rate_limit_per_key(RateLimit::per_second(1))
        .timer(clock.clone())
        .build(|page: Page| {
            let clock = clock.clone();
            async move {
                let at = clock.now() - start;
                // The slow host takes five seconds a page.
                let takes = if page.host == "slow.example" { 5 } else { 0 };
                clock.sleep(Duration::from_secs(takes)).await;
                Ok::<_, ()>((page, at.as_secs()))
            }
        });

    let pages = [
        ("big.example", 6),
        ("slow.example", 3),
        ("small.example", 1),
    ]
    .into_iter()
    .flat_map(|(host, pages)| (1..=pages).map(move |number| Page { host, number }));
    let mut starts = BTreeMap::<_, Vec<_>>::new();
    let run = pool.map(pages).for_each(|completion| {
        if let Ok((page, at)) = completion.result {
            starts.entry(page.host).or_default().push((page.number, at));
        }
    });
    // When the whole run waits, the clock jumps to the next moment that it waits for.
    let summary = future::block_on(clock.run(workers.drive(run)));

    for (host, starts) in &starts {
        let starts: Vec<_> = starts
            .iter()
            .map(|(number, at)| format!("page {number} at {at} s"))
            .collect();
        println!("{host}: {}", starts.join(", "));
    }
    assert!(summary.is_complete());
    // One a second; of the slow host the third waits until one of two has ended.
    let at = |host| starts[host].iter().map(|(_, at)| *at).collect::<Vec<_>>();
    assert_eq!(at("big.example"), [0, 1, 2, 3, 4, 5]);
    assert_eq!(at("slow.example"), [0, 1, 5]);
    assert_eq!(at("small.example"), [0]);
}
