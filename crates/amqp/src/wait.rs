//! Futures with a deadline, and many at once.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use async_io::Timer;
use brigade::broker::BrokerError;
use futures_lite::future;

use crate::error;

/// The time of a call that has `wait`; a year hence where the clock has none so late.
pub(crate) fn deadline(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait)
        .unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 60 * 60))
}

/// The output of the future, or `None` if it has none by the deadline. It is polled at least once.
pub(crate) async fn until<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    let timer = async {
        Timer::at(deadline).await;
        None
    };
    future::or(async { Some(future.await) }, timer).await
}

/// The outcome of the future; an error that names `what` if it has none by the deadline.
pub(crate) async fn within<T>(
    deadline: Instant,
    what: &str,
    future: impl Future<Output = Result<T, BrokerError>>,
) -> Result<T, BrokerError> {
    until(deadline, future)
        .await
        .unwrap_or_else(|| Err(error::timed_out(what)))
}

/// Starts all futures in order, then waits for their outputs.
///
/// They have to make progress without being polled, as lapin's do: then each is polled about twice.
pub(crate) async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    enum Started<F: Future> {
        Done(F::Output),
        Waits(Pin<Box<F>>),
    }
    let mut started = Vec::new();
    for future in futures {
        let mut future = Box::pin(future);
        started.push(match future::poll_once(&mut future).await {
            Some(output) => Started::Done(output),
            None => Started::Waits(future),
        });
    }
    let mut outputs = Vec::with_capacity(started.len());
    for future in started {
        outputs.push(match future {
            Started::Done(output) => output,
            Started::Waits(future) => future.await,
        });
    }
    outputs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_starts_in_order_before_it_waits() {
        let started = std::sync::Mutex::new(Vec::new());
        let futures = (0..3).map(|n| {
            let started = &started;
            async move {
                started.lock().unwrap().push(n);
                future::yield_now().await;
                (n, started.lock().unwrap().len())
            }
        });
        assert_eq!(future::block_on(all(futures)), [(0, 3), (1, 3), (2, 3)]);
    }

    #[test]
    fn a_future_that_is_ready_wins_over_a_deadline_that_has_passed() {
        let outcome = future::block_on(until(deadline(Duration::ZERO), async { 1 }));
        assert_eq!(outcome, Some(1));
        let outcome = future::block_on(until(deadline(Duration::ZERO), future::pending::<()>()));
        assert_eq!(outcome, None);
        assert!(deadline(Duration::MAX) > Instant::now());
    }
}
