//! Clocks that are set, and processes whose clocks differ. Whatever they do, a job has one result:
//! they decide only when a job is delivered again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use brigade::broker::{Broker, NewJob};
use brigade_sqlite::{Options, SqliteBroker};
use futures_lite::future::block_on;

use crate::{Queue, ack, enqueue, fetch, fetch_one, ids};

const HOUR: u64 = 3_600_000;
const LEASE: u64 = 30_000;

/// A clock that is set by hand, in milliseconds.
#[derive(Clone)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_000 * HOUR)))
    }

    fn advance(&self, millis: u64) {
        self.0.fetch_add(millis, Ordering::Relaxed);
    }

    fn set_back(&self, millis: u64) {
        self.0.fetch_sub(millis, Ordering::Relaxed);
    }

    fn options(&self) -> Options {
        let now = Arc::clone(&self.0);
        let clock = move || UNIX_EPOCH + Duration::from_millis(now.load(Ordering::Relaxed));
        Options::new()
            .lease(Duration::from_millis(LEASE))
            .clock(clock)
    }

    async fn open(&self, queue: &Queue) -> SqliteBroker {
        queue.open_with(self.options()).await
    }
}

#[test]
fn lease_ends_to_the_millisecond() {
    let (queue, clock) = (Queue::new(), Clock::new());
    block_on(async {
        let broker = clock.open(&queue).await;
        enqueue(&broker, &["a"]).await;
        fetch_one(&broker).await;
        clock.advance(LEASE - 1);
        assert_eq!(ids(&fetch(&broker, 9).await), [""; 0]);
        clock.advance(1);
        assert_eq!(fetch_one(&broker).await.delivery_count, Some(2));
    });
}

#[test]
fn delay_ends_to_the_millisecond() {
    let (queue, clock) = (Queue::new(), Clock::new());
    block_on(async {
        let broker = clock.open(&queue).await;
        let delay = Duration::from_nanos(4_000_001);
        broker
            .enqueue(vec![NewJob::new("a", "").delay(delay)])
            .await
            .unwrap();
        clock.advance(4);
        assert_eq!(ids(&fetch(&broker, 9).await), [""; 0]);
        clock.advance(1);
        assert_eq!(ids(&fetch(&broker, 9).await), ["a"]);
    });
}

#[test]
fn due_job_takes_its_place_by_priority() {
    let (queue, clock) = (Queue::new(), Clock::new());
    block_on(async {
        let broker = clock.open(&queue).await;
        let urgent = NewJob::new("urgent", "")
            .priority(1)
            .delay(Duration::from_millis(5));
        broker
            .enqueue(vec![urgent, NewJob::new("plain", "")])
            .await
            .unwrap();
        clock.advance(5);
        assert_eq!(ids(&fetch(&broker, 9).await), ["urgent", "plain"]);
    });
}

#[test]
fn consumer_whose_clock_is_ahead_causes_a_second_run_and_no_second_result() {
    let queue = Queue::new();
    block_on(async {
        let (right, ahead) = (Clock::new(), Clock::new());
        ahead.advance(HOUR);
        let (one, other) = (right.open(&queue).await, ahead.open(&queue).await);
        enqueue(&one, &["a"]).await;
        let first = fetch_one(&one).await;
        let second = fetch_one(&other).await;
        assert_eq!(second.delivery_count, Some(2));
        assert!(
            one.ack(&first.receipt, Some(b"1".to_vec()))
                .await
                .unwrap_err()
                .is_lease_lost()
        );
        ack(&other, &second).await;
        assert_eq!(one.results_after(0, 9).await.unwrap().len(), 1);
    });
}

#[test]
fn consumer_whose_clock_is_behind_causes_a_second_run_and_no_second_result() {
    let queue = Queue::new();
    block_on(async {
        let (right, behind) = (Clock::new(), Clock::new());
        behind.set_back(HOUR);
        let one = right.open(&queue).await;
        enqueue(&one, &["a"]).await;
        let first = fetch_one(&one).await;
        // Opening takes the lease for one of the time before a clock was set back.
        let other = behind.open(&queue).await;
        behind.advance(LEASE);
        let second = fetch_one(&other).await;
        assert!(
            one.ack(&first.receipt, Some(b"1".to_vec()))
                .await
                .unwrap_err()
                .is_lease_lost()
        );
        ack(&other, &second).await;
        assert_eq!(one.results_after(0, 9).await.unwrap().len(), 1);
    });
}

#[test]
fn lease_keeps_its_length_when_the_clock_is_set_back() {
    let (queue, clock) = (Queue::new(), Clock::new());
    block_on(async {
        let (holder, other) = (clock.open(&queue).await, clock.open(&queue).await);
        enqueue(&holder, &["a"]).await;
        fetch_one(&holder).await;
        drop(holder);
        assert_eq!(ids(&fetch(&other, 9).await), [""; 0]);
        clock.set_back(HOUR);
        assert_eq!(ids(&fetch(&other, 9).await), [""; 0]);
        clock.advance(LEASE);
        assert_eq!(fetch_one(&other).await.delivery_count, Some(2));
    });
}

#[test]
fn lease_keeps_its_length_when_the_first_call_after_the_clock_was_set_back_fails() {
    let (queue, clock) = (Queue::new(), Clock::new());
    block_on(async {
        let holder = clock.open(&queue).await;
        enqueue(&holder, &["a"]).await;
        fetch_one(&holder).await;
        drop(holder);
        let other = queue.open_with(clock.options().max_pages(40)).await;
        assert_eq!(ids(&fetch(&other, 9).await), [""; 0]);
        clock.set_back(HOUR);
        let large = NewJob::new("large", vec![0; 1 << 20]);
        assert!(other.enqueue(vec![large]).await.is_err());
        assert_eq!(ids(&fetch(&other, 9).await), [""; 0]);
        clock.advance(LEASE);
        assert_eq!(fetch_one(&other).await.delivery_count, Some(2));
    });
}

#[test]
fn lease_keeps_its_length_when_the_clock_is_set_back_between_two_openings() {
    let (queue, clock) = (Queue::new(), Clock::new());
    block_on(async {
        let holder = clock.open(&queue).await;
        enqueue(&holder, &["a"]).await;
        fetch_one(&holder).await;
        drop(holder);
        clock.set_back(HOUR);
        let other = clock.open(&queue).await;
        clock.advance(LEASE - 1);
        assert_eq!(ids(&fetch(&other, 9).await), [""; 0]);
        clock.advance(1);
        assert_eq!(fetch_one(&other).await.delivery_count, Some(2));
    });
}
