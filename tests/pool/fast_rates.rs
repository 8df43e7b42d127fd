//! Rates at which a permit is back before a worker has looked at the clock again.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use brigade::rt::BoxFuture;
use brigade::{Pool, RateLimit, Timer};
use futures_lite::future;

use crate::harness::in_both_ways;

/// Far more readings than the test needs.
const MOST: u64 = 1_000_000;

/// A clock that moves on by a microsecond whenever it is read. It fails a test that reads it without end.
#[derive(Clone)]
struct Ticking {
    start: Instant,
    readings: Arc<AtomicU64>,
}

impl Timer for Ticking {
    fn now(&self) -> Instant {
        let readings = self.readings.fetch_add(1, Ordering::SeqCst);
        assert!(readings < MOST, "a worker waits for one moment after another, and runs no job");
        self.start + Duration::from_micros(readings)
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        Box::pin(poll_fn(move |cx| {
            if clock.now() >= at {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }))
    }
}

/// Jobs add jobs, so that some are always ready and others wait for permits. After as many jobs as a worker runs in one turn,
/// it lets others have the thread, and has to come back to the jobs that were released meanwhile.
#[test]
fn a_rate_that_is_faster_than_the_loop_of_a_worker_does_not_stop_it() {
    for rate in [1_000_000, u32::MAX] {
        in_both_ways(|slots| {
            let clock = Ticking { start: Instant::now(), readings: Arc::default() };
            let own: Arc<OnceLock<Pool<u32, (), ()>>> = Arc::default();
            let inside = Arc::clone(&own);
            let (pool, workers) = slots
                .at_once(Pool::builder(), 4)
                .queue_capacity(100)
                .rate_limit(RateLimit::per_second(rate).burst(3))
                .timer(clock)
                .build(move |n: u32| {
                    let pool = inside.get().expect("it is there").clone();
                    async move {
                        for _ in 0..2 {
                            if n > 0
                                && let Ok(job) = pool.try_submit(n - 1)
                            {
                                job.detach();
                            }
                        }
                        Ok(())
                    }
                });
            assert!(own.set(pool.clone()).is_ok());
            pool.try_submit(20).unwrap().detach();
            future::block_on(workers.drive(pool.idle()));
            let stats = pool.stats();
            assert_eq!((stats.succeeded, stats.queued), (stats.accepted, 0));
        });
    }
}
