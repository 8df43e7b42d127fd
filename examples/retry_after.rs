//! A server that is overloaded says when to come back, and the whole pool waits until then; other
//! errors are tried again with growing delays, and some not at all. The server is made up, and time
//! is a clock that is moved by hand. With `start` in place of `timer` and `build`, the builder is
//! the same.
//!
//! `cargo run --example retry_after`

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use brigade::{JobError, ManualTimer, Pool, Retry, RetryAfterScope};
use futures_lite::future;

#[derive(Debug, Clone, PartialEq)]
enum HttpError {
    NotFound,
    Reset,
    TooManyRequests { retry_after: Duration },
}

/// What the server answers to the attempt of this number.
fn answer(path: &str, attempt: u32) -> Result<&'static str, HttpError> {
    match (path, attempt) {
        ("/missing", _) => Err(HttpError::NotFound),
        ("/flaky", 1 | 2) => Err(HttpError::Reset),
        ("/busy", 1) => Err(HttpError::TooManyRequests {
            retry_after: Duration::from_secs(30),
        }),
        _ => Ok("200"),
    }
}

fn main() {
    let clock = ManualTimer::new();
    let attempts = RefCell::new(BTreeMap::<&str, Vec<u64>>::new());
    let retry = Retry::exponential(Duration::from_secs(1))
        .max_attempts(4)
        .when(|error| *error != HttpError::NotFound)
        .retry_after(|error| match error {
            HttpError::TooManyRequests { retry_after } => Some(*retry_after),
            _ => None,
        })
        .retry_after_scope(RetryAfterScope::Pool)
        .on_retry(|retrying| {
            println!(
                "attempt {} failed, again in {:?}",
                retrying.attempt, retrying.delay
            );
        });
    let (pool, workers) = Pool::builder()
        .workers(1)
        .retry(retry)
        .timer(clock.clone())
        .build(|path: &'static str| {
            let mut attempts = attempts.borrow_mut();
            let starts = attempts.entry(path).or_default();
            starts.push(clock.elapsed().as_secs());
            let answer = answer(path, starts.len() as u32);
            async move { answer }
        });

    let mut results = BTreeMap::new();
    let paths = ["/flaky", "/missing", "/busy", "/fine"];
    let run = pool.map(paths).for_each(|completion| {
        results.insert(
            paths[completion.index],
            (completion.result, completion.attempts),
        );
    });
    // When the whole run waits, the clock jumps to the next moment that it waits for.
    future::block_on(clock.run(workers.drive(run)));

    let attempts = attempts.into_inner();
    for (path, (result, _)) in &results {
        println!("{path}: {result:?}, attempts at {:?} s", attempts[path]);
    }
    assert_eq!(results["/flaky"], (Ok("200"), 3));
    assert_eq!(
        results["/missing"],
        (Err(JobError::Failed(HttpError::NotFound)), 1)
    );
    assert_eq!(results["/busy"], (Ok("200"), 2));
    assert_eq!(results["/fine"], (Ok("200"), 1));
    // The busy server holds up everything, the flaky path's second attempt and the fine one
    // included.
    assert_eq!(attempts["/flaky"], [0, 30, 32]);
    assert_eq!(
        (attempts["/busy"].as_slice(), attempts["/fine"].as_slice()),
        (&[0, 30][..], &[30][..])
    );
}
