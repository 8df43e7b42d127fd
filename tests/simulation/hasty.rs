//! Pools whose clock advances with each call of `now`, as a real clock does: permits of a fast rate
//! are back, and deadlines have passed, before the worker's loop checks them.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use brigade::rt::BoxFuture;
use brigade::testing::{FaultKind, Sim, Simulation};
use brigade::{ManualTimer, Pool, RateLimit, Timer};
use futures_lite::future;

/// A run with more calls of `now` has a worker that loops without end.
const MAX_CALLS: u64 = 200_000;

/// The clock of the run, plus a microsecond for each call of `now`.
#[derive(Clone)]
struct Hasty {
    clock: ManualTimer,
    calls: Arc<AtomicU64>,
}

impl Hasty {
    fn new(sim: &Sim) -> Self {
        Self {
            clock: sim.clock().clone(),
            calls: Arc::default(),
        }
    }

    fn ahead(&self) -> Duration {
        Duration::from_micros(self.calls.load(Ordering::SeqCst))
    }
}

impl Timer for Hasty {
    fn now(&self) -> Instant {
        let calls = self.calls.fetch_add(1, Ordering::SeqCst);
        assert!(calls < MAX_CALLS, "a worker reads the clock without end");
        self.clock.now() + self.ahead()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        let (clock, mut sleep) = (self.clone(), None);
        Box::pin(poll_fn(move |cx| {
            if clock.now() >= at {
                return Poll::Ready(());
            }
            let sleep = sleep.get_or_insert_with(|| clock.clock.sleep_until(at - clock.ahead()));
            sleep.as_mut().poll(cx)
        }))
    }
}

type Jobs = Pool<u32, u32, ()>;

/// Jobs that add jobs, submissions and maps, at a rate faster than the worker's loop.
async fn fast_rate(sim: Sim) {
    let below = |bound: u64| sim.below(bound) as usize;
    let permits = [1_000_000, 10_000_000, u32::MAX][below(3)];
    let limit = RateLimit::per_second(permits).burst(1 + below(3) as u32);
    let mut builder = sim
        .builder()
        .workers(1 + below(4))
        .jobs_per_worker(1 + below(4))
        .queue_capacity(1 + below(100));
    if sim.one_in(3) {
        builder = builder.key_by(|n: &u32| n % 3).rate_limit_per_key(limit);
    } else {
        builder = builder.rate_limit(limit);
    }
    let own: Rc<RefCell<Option<Jobs>>> = Rc::default();
    let (inside, ours, adds) = (Rc::clone(&own), sim.clone(), below(4));
    let (pool, workers) = builder.timer(Hasty::new(&sim)).build(move |n: u32| {
        let (pool, yields) = (
            inside.borrow().clone().expect("it is emptied at the end"),
            ours.one_in(8),
        );
        async move {
            if yields {
                future::yield_now().await;
            }
            for _ in 0..adds {
                if let Some(job) = n.checked_sub(1).and_then(|n| pool.try_submit(n).ok()) {
                    job.detach();
                }
            }
            Ok(n)
        }
    });
    sim.spawn_workers(workers);
    sim.watch(&pool);
    *own.borrow_mut() = Some(pool.clone());
    for _ in 0..1 + below(3) {
        if let Ok(job) = pool.try_submit(below(20) as u32) {
            job.detach();
        }
        let mut map = pool.map((0..below(40)).map(|_| 0));
        while map.next().await.is_some() {}
    }
    pool.drain().await;
    drop(own.take());
}

#[test]
fn a_rate_that_is_faster_than_a_worker_does_not_stop_it() {
    let seeds =
        0..std::env::var("BRIGADE_SEEDS").map_or(300, |text| text.parse().expect("it is a number"));
    Simulation::new(seeds.clone()).check(fast_rate);
    Simulation::new(seeds)
        .faults([FaultKind::Preempt, FaultKind::Pause, FaultKind::DropWorker])
        .check(fast_rate);
}
