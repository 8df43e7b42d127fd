//! Order, deduplication, late settlements, and transactions that many calls share.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, SystemTime};

use brigade::broker::{Ack, Broker, Nack, NewJob};
use brigade_sqlite::Options;
use futures_lite::future::{block_on, poll_once, zip};

use crate::{LONG, PATIENCE, Queue, ack, enqueue, fetch, fetch_one, ids};

#[test]
fn jobs_come_by_priority_and_then_in_their_order() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        let jobs = [
            ("low", 0),
            ("high", 255),
            ("middle", 7),
            ("high too", 255),
            ("low too", 0),
        ];
        let jobs = jobs.map(|(id, priority)| NewJob::new(id, "").priority(priority));
        broker.enqueue(jobs.to_vec()).await.unwrap();
        let (first, rest) = (fetch(&broker, 3).await, fetch(&broker, 3).await);
        assert_eq!(ids(&first), ["high", "high too", "middle"]);
        assert_eq!(ids(&rest), ["low", "low too"]);
    });
}

#[test]
fn given_back_job_takes_its_old_place() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        enqueue(&broker, &["a", "b", "c"]).await;
        let held = fetch(&broker, 2).await;
        for (delivery, nack) in held.iter().zip([
            Nack::Release,
            Nack::Retry {
                after: None,
                reason: "again".into(),
            },
        ]) {
            broker.nack(&delivery.receipt, nack).await.unwrap();
        }
        assert_eq!(ids(&fetch(&broker, 9).await), ["a", "b", "c"]);
    });
}

#[test]
fn known_ids_are_ignored_in_every_state() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        enqueue(&broker, &["done", "acked", "dead", "held", "ready"]).await;
        broker
            .enqueue(vec![NewJob::new("delayed", "").delay(LONG)])
            .await
            .unwrap();
        let held = fetch(&broker, 4).await;
        ack(&broker, &held[0]).await;
        broker.ack(&held[1].receipt, None).await.unwrap();
        let dead = Nack::DeadLetter {
            reason: "bad".into(),
        };
        broker.nack(&held[2].receipt, dead).await.unwrap();
        let before = broker.counts().await.unwrap();
        assert_eq!(
            (before.done, before.dead, before.leased, before.ready),
            (2, 1, 1, 1)
        );

        enqueue(
            &broker,
            &["done", "acked", "dead", "held", "ready", "delayed", "ready"],
        )
        .await;
        assert_eq!(broker.counts().await.unwrap(), before);
    });
}

#[test]
fn ended_lease_can_be_settled_until_its_job_is_claimed() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue
            .open_with(Options::new().lease(Duration::from_millis(1)))
            .await;
        enqueue(&broker, &["a", "b"]).await;
        let late = fetch(&broker, 2).await;
        broker
            .extend(&late[0].receipt, Duration::ZERO)
            .await
            .unwrap();
        broker
            .extend(&late[1].receipt, Duration::ZERO)
            .await
            .unwrap();
        ack(&broker, &late[0]).await;

        let again = broker.fetch(1, PATIENCE).await.unwrap();
        assert_eq!(ids(&again), ["b"]);
        assert_eq!(
            (again[0].delivery_count, again[0].redelivered),
            (Some(2), true)
        );
        let stale = broker.ack(&late[1].receipt, Some(b"late".to_vec())).await;
        assert!(stale.unwrap_err().is_lease_lost());
        let results = broker.results_after(0, 9).await.unwrap();
        assert_eq!(results.len(), 1);
    });
}

#[test]
fn receipt_settles_no_later_job_under_the_same_id() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        enqueue(&broker, &["a"]).await;
        let first = fetch_one(&broker).await;
        ack(&broker, &first).await;
        broker.purge_results(i64::MAX).await.unwrap();
        enqueue(&broker, &["a"]).await;
        let second = fetch_one(&broker).await;
        assert!(
            broker
                .ack(&first.receipt, None)
                .await
                .unwrap_err()
                .is_lease_lost()
        );
        ack(&broker, &second).await;
    });
}

#[test]
fn receipt_settles_through_any_handle_of_the_queue() {
    let queue = Queue::new();
    block_on(async {
        let (one, other) = (queue.open().await, queue.open().await);
        enqueue(&one, &["a"]).await;
        let held = fetch_one(&one).await;
        ack(&other, &held).await;
        assert_eq!(one.counts().await.unwrap().done, 1);
    });
}

#[test]
fn close_releases_what_its_handle_holds_and_nothing_else() {
    let queue = Queue::new();
    block_on(async {
        let (one, other) = (queue.open().await, queue.open().await);
        enqueue(&one, &["a", "b"]).await;
        let [a, b] = [fetch(&one, 1).await, fetch(&other, 1).await];
        one.close().await.unwrap();
        assert_eq!(other.counts().await.unwrap().leased, 1);
        assert!(
            other
                .ack(&a[0].receipt, None)
                .await
                .unwrap_err()
                .is_lease_lost()
        );
        ack(&other, &b[0]).await;
        assert_eq!(fetch_one(&other).await.delivery_count, Some(1));
    });
}

#[test]
fn every_call_is_refused_after_close() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        enqueue(&broker, &["a"]).await;
        let held = fetch_one(&broker).await;
        let clone = broker.clone();
        broker.close().await.unwrap();
        assert!(clone.enqueue(Vec::new()).await.unwrap_err().is_closed());
        assert!(clone.fetch(1, LONG).await.unwrap_err().is_closed());
        assert!(clone.counts().await.unwrap_err().is_closed());
        assert!(clone.retry_dead().await.unwrap_err().is_closed());
        let acked = clone.ack(&held.receipt, None).await.unwrap_err();
        assert_eq!(acked.to_string(), "the broker is closed");
        let acks = vec![
            Ack {
                receipt: held.receipt,
                result: None
            };
            2
        ];
        let acked = clone.ack_many(acks).await;
        assert!(
            acked.iter().all(Result::is_err) && acked.len() == 2,
            "{acked:?}"
        );
    });
}

#[test]
fn dropping_the_last_handle_leaves_its_leases() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        enqueue(&broker, &["a"]).await;
        fetch_one(&broker).await;
        drop(broker);
        let broker = queue.open().await;
        assert_eq!(broker.counts().await.unwrap().leased, 1);
        assert_eq!(ids(&fetch(&broker, 9).await), [""; 0]);
    });
}

#[test]
fn call_that_cannot_succeed_fails_alone() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue
            .open_with(Options::new().lease(LONG).max_pages(100))
            .await;
        enqueue(&broker, &["a", "b"]).await;
        let held = fetch(&broker, 2).await;
        // While another connection has the lock, the calls gather for one transaction.
        let lock = queue.connect();
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
        let first = broker.ack(&held[0].receipt, None);
        let calls = zip(
            broker.enqueue(vec![NewJob::new("too large", vec![0; 1 << 20])]),
            broker.ack(&held[1].receipt, None),
        );
        let unlock = async { lock.execute_batch("COMMIT").unwrap() };
        let ((first, (enqueued, acked)), ()) = zip(zip(first, calls), unlock).await;
        first.unwrap();
        acked.unwrap();
        assert!(!enqueued.unwrap_err().is_permanent());
        let counts = broker.counts().await.unwrap();
        assert_eq!((counts.done, counts.ready), (2, 0));
    });
}

#[test]
fn call_fails_after_the_busy_timeout_and_a_later_one_succeeds() {
    let queue = Queue::new();
    block_on(async {
        let options = Options::new().busy_timeout(Duration::from_millis(20));
        let broker = queue.open_with(options).await;
        let lock = queue.connect();
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
        let error = broker
            .enqueue(vec![NewJob::new("a", "")])
            .await
            .unwrap_err();
        assert!(!error.is_permanent(), "{error}");
        let message = error.to_string();
        assert!(
            message.contains(&*queue.path().to_string_lossy()),
            "{message}"
        );
        assert!(message.contains("locked"), "{message}");
        // A reader does not wait for writers.
        assert_eq!(broker.counts().await.unwrap().ready, 0);
        lock.execute_batch("COMMIT").unwrap();
        enqueue(&broker, &["a"]).await;
        assert_eq!(ids(&fetch(&broker, 9).await), ["a"]);
    });
}

#[test]
fn many_callers_at_once_lose_nothing() {
    let queue = Queue::new();
    let broker = block_on(queue.open());
    thread::scope(|scope| {
        for caller in 0..8 {
            let broker = &broker;
            scope.spawn(move || {
                block_on(async {
                    for number in 0..50 {
                        enqueue(broker, &[&format!("{caller} {number}")]).await;
                        let held = broker.fetch(1, PATIENCE).await.unwrap();
                        ack(broker, &held[0]).await;
                    }
                });
            });
        }
    });
    block_on(async {
        let results = broker.results_after(0, 1_000).await.unwrap();
        let mut done: Vec<&str> = results
            .iter()
            .map(|result| result.job_id.as_str())
            .collect();
        done.sort_unstable();
        done.dedup();
        assert_eq!((done.len(), results.len()), (400, 400));
    });
}

#[test]
fn fetch_wakes_for_jobs_of_its_own_process_without_a_look_at_the_file() {
    let queue = Queue::new();
    let (blocked, is_blocked) = mpsc::channel();
    let (unblock, unblocked) = mpsc::channel();
    let unblocked = Mutex::new(unblocked);
    let blocks = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&blocks);
    // The clock stops the inspection that reads it first, and with it all looks at the file.
    let clock = move || {
        if flag.swap(false, Ordering::Relaxed) {
            blocked.send(()).unwrap();
            unblocked.lock().unwrap().recv().unwrap();
        }
        SystemTime::now()
    };
    let broker = block_on(queue.open_with(Options::new().clock(clock)));
    thread::scope(|scope| {
        blocks.store(true, Ordering::Relaxed);
        scope.spawn(|| block_on(broker.counts()).unwrap());
        is_blocked.recv().unwrap();
        block_on(async {
            let mut fetching = pin!(broker.fetch(1, PATIENCE));
            // Calls of a handle take their turns, so this one finds nothing and then waits.
            assert!(poll_once(&mut fetching).await.is_none());
            enqueue(&broker, &["a"]).await;
            assert_eq!(ids(&fetching.await.unwrap()), ["a"]);
        });
        unblock.send(()).unwrap();
    });
}

#[test]
fn result_that_is_too_large_fails_alone() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        enqueue(&broker, &["a", "b", "c"]).await;
        let held = fetch(&broker, 3).await;
        let results = [b"first".to_vec(), vec![0; 999_000_001], b"third".to_vec()];
        let acks = held.iter().zip(results).map(|(delivery, result)| Ack {
            receipt: delivery.receipt.clone(),
            result: Some(result),
        });
        let outcomes = broker.ack_many(acks.collect()).await;
        assert!(
            matches!(outcomes[..], [Ok(()), Err(_), Ok(())]),
            "{outcomes:?}"
        );
        let counts = broker.counts().await.unwrap();
        assert_eq!((counts.done, counts.leased), (2, 1));
    });
}
