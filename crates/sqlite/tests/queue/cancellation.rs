//! Futures that are dropped.

use std::thread;
use std::time::Duration;

use brigade::broker::{Broker, Nack};
use futures_lite::future::{block_on, poll_once};

use crate::{LONG, PATIENCE, Queue, enqueue, fetch_one};

#[test]
fn dropped_fetch_leaves_no_trace_whenever_it_is_dropped() {
    let queue = Queue::new();
    let mut random = fastrand::Rng::with_seed(7);
    block_on(async {
        let broker = queue.open().await;
        enqueue(&broker, &["a"]).await;
        for _ in 0..300 {
            let mut fetching = Box::pin(broker.fetch(1, Duration::ZERO));
            if let Some(fetched) = poll_once(&mut fetching).await {
                // It was complete before it could be dropped.
                for delivery in fetched.unwrap() {
                    broker.nack(&delivery.receipt, Nack::Release).await.unwrap();
                }
            }
            thread::sleep(Duration::from_micros(random.u64(..400)));
            drop(fetching);
        }
        // The lease is an hour, so a delivery that was kept would not come back.
        let fetched = broker.fetch(1, PATIENCE).await.unwrap();
        assert_eq!(fetched[0].delivery_count, Some(1));
    });
}

#[test]
fn delivery_that_a_dropped_fetch_did_not_take_is_released() {
    let queue = Queue::new();
    block_on(async {
        let (broker, other) = (queue.open().await, queue.open().await);
        enqueue(&broker, &["a"]).await;
        let mut fetching = Box::pin(broker.fetch(1, LONG));
        // The first poll begins the claim; then it is in the file, and its answer waits.
        match poll_once(&mut fetching).await {
            None => while other.counts().await.unwrap().leased == 0 {},
            // It was complete before it could be dropped.
            Some(fetched) => {
                let held = fetched.unwrap();
                broker.nack(&held[0].receipt, Nack::Release).await.unwrap();
            }
        }
        drop(fetching);
        let fetched = other.fetch(1, PATIENCE).await.unwrap();
        assert_eq!(fetched[0].delivery_count, Some(1));
    });
}

#[test]
fn call_that_was_never_polled_does_nothing() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        enqueue(&broker, &["a"]).await;
        let held = fetch_one(&broker).await;
        drop(broker.ack(&held.receipt, None));
        drop(broker.close());
        broker.ack(&held.receipt, None).await.unwrap();
    });
}

#[test]
fn dropped_settlement_has_happened_or_can_be_repeated() {
    let queue = Queue::new();
    let mut random = fastrand::Rng::with_seed(7);
    block_on(async {
        let broker = queue.open().await;
        for number in 0..100 {
            enqueue(&broker, &[&format!("{number}")]).await;
            let held = fetch_one(&broker).await;
            let mut acking = Box::pin(broker.ack(&held.receipt, Some(b"first".to_vec())));
            drop(poll_once(&mut acking).await);
            thread::sleep(Duration::from_micros(random.u64(..200)));
            drop(acking);
            match broker.ack(&held.receipt, Some(b"second".to_vec())).await {
                Ok(()) => {}
                Err(error) => assert!(error.is_lease_lost(), "{error}"),
            }
        }
        assert_eq!(broker.results_after(0, 1_000).await.unwrap().len(), 100);
    });
}
