//! What the broker in memory promises beyond the rules: exact times, an order, its inspection, and
//! which fetches it wakes.

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use brigade::ManualTimer;
use brigade::broker::{
    Broker, BrokerError, DeadLetter, Delivery, JobId, MemoryBroker, MemoryReceipt, Nack, NewJob,
};
use futures_lite::future::{block_on, zip};

const NOW: Duration = Duration::ZERO;
const FOREVER: Duration = Duration::MAX;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn broker() -> (ManualTimer, MemoryBroker) {
    let clock = ManualTimer::new();
    (clock.clone(), MemoryBroker::new(clock))
}

fn enqueue<const N: usize>(broker: &MemoryBroker, ids: [&str; N]) {
    let jobs = ids.map(|id| NewJob::new(id, id));
    block_on(broker.enqueue(jobs.into())).unwrap();
}

fn fetch(broker: &MemoryBroker) -> Vec<Delivery<MemoryReceipt>> {
    block_on(broker.fetch(10, NOW)).unwrap()
}

fn fetch_one(broker: &MemoryBroker) -> Delivery<MemoryReceipt> {
    block_on(broker.fetch(1, NOW)).unwrap().remove(0)
}

fn fetch_ids(broker: &MemoryBroker) -> Vec<JobId> {
    ids(fetch(broker))
}

fn ids(deliveries: Vec<Delivery<MemoryReceipt>>) -> Vec<JobId> {
    let ids = deliveries.into_iter().map(|delivery| delivery.job_id);
    ids.collect()
}

fn retry() -> Nack {
    Nack::Retry {
        after: None,
        reason: "failed".into(),
    }
}

fn dead() -> Nack {
    Nack::DeadLetter {
        reason: "bad".into(),
    }
}

/// Counts its wake-ups, and asks the broker something at each: so no lock may be held.
struct Asking {
    broker: OnceLock<MemoryBroker>,
    wakes: AtomicUsize,
}

impl Asking {
    fn new(broker: &MemoryBroker) -> Arc<Self> {
        Arc::new(Self {
            broker: OnceLock::from(broker.clone()),
            wakes: AtomicUsize::new(0),
        })
    }

    fn wakes(&self) -> usize {
        self.wakes.load(Ordering::SeqCst)
    }

    fn ask(&self) {
        let _ = self.broker.get().unwrap().counts();
    }
}

impl Wake for Asking {
    fn wake(self: Arc<Self>) {
        self.ask();
        self.wakes.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.ask();
    }
}

fn poll_with<F: Future>(future: std::pin::Pin<&mut F>, waker: &Arc<Asking>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(waker))))
}

#[test]
fn lease_is_30_seconds_unless_it_is_set() {
    let (_clock, broker) = broker();
    enqueue(&broker, ["a", "b", "c"]);
    assert_eq!(fetch_one(&broker).lease, Some(seconds(30)));
    let other = broker.consumer().lease(seconds(7));
    assert_eq!(fetch_one(&other).lease, Some(seconds(7)));
    assert_eq!(fetch_one(&other.consumer()).lease, Some(seconds(7)));
}

#[test]
#[should_panic(expected = "lease must be more than 0, got 0")]
fn lease_of_zero_is_refused() {
    let (_clock, broker) = broker();
    let _ = broker.lease(Duration::ZERO);
}

#[test]
fn fetch_of_an_empty_queue_waits_exactly_as_long_as_it_was_told() {
    let (clock, broker) = broker();
    let got = block_on(clock.run(broker.fetch(1, seconds(5)))).unwrap();
    assert_eq!((got, clock.elapsed()), (vec![], seconds(5)));
}

#[test]
fn fetch_of_no_jobs_returns_at_once() {
    let (clock, broker) = broker();
    enqueue(&broker, ["a"]);
    let got = block_on(clock.run(broker.fetch(0, seconds(5)))).unwrap();
    assert_eq!((got, clock.elapsed()), (vec![], NOW));
}

#[test]
fn waiting_fetch_returns_exactly_when_a_delay_ends() {
    let (clock, broker) = broker();
    let later = vec![NewJob::new("a", "a").delay(seconds(3))];
    let fetching = broker.fetch(1, seconds(60));
    // The job comes while the fetch waits, and has nothing to wait for yet.
    let both = zip(fetching, broker.enqueue(later));
    let (got, _) = block_on(clock.run(both));
    assert_eq!(ids(got.unwrap()), ["a".into()]);
    assert_eq!(clock.elapsed(), seconds(3));
}

#[test]
fn waiting_fetch_returns_exactly_when_a_lease_ends_even_if_it_was_shortened() {
    let (clock, broker) = broker();
    enqueue(&broker, ["a"]);
    let held = fetch_one(&broker);
    let other = broker.consumer();
    let shorten = broker.extend(&held.receipt, seconds(2));
    let (got, _) = block_on(clock.run(zip(other.fetch(1, seconds(60)), shorten)));
    assert_eq!(ids(got.unwrap()), ["a".into()]);
    assert_eq!(clock.elapsed(), seconds(2));
}

#[test]
fn lease_that_was_extended_forever_does_not_end() {
    let (clock, broker) = broker();
    enqueue(&broker, ["a"]);
    let held = fetch_one(&broker);
    block_on(broker.extend(&held.receipt, FOREVER)).unwrap();
    clock.advance(seconds(1_000_000_000));
    assert_eq!(fetch_ids(&broker), []);
    block_on(broker.ack(&held.receipt, None)).unwrap();
}

#[test]
fn delivery_is_over_with_its_lease_even_if_nobody_has_fetched_its_job() {
    let (clock, broker) = broker();
    enqueue(&broker, ["a"]);
    let held = fetch_one(&broker);
    clock.advance(seconds(30));
    let counts = broker.counts();
    assert_eq!((counts.leased, counts.ready), (0, 1));
    let acked = block_on(broker.ack(&held.receipt, Some(b"late".into())));
    assert!(acked.unwrap_err().is_lease_lost());
    assert_eq!(broker.results(), []);
}

#[test]
fn jobs_are_fetched_in_their_order_and_those_that_come_back_have_their_old_position() {
    let (clock, broker) = broker();
    enqueue(&broker, ["a", "b", "c", "d", "e", "f"]);
    let held: Vec<_> = fetch(&broker);
    let nack = |n: usize, nack: Nack| block_on(broker.nack(&held[n].receipt, nack)).unwrap();
    nack(4, Nack::Release);
    nack(1, retry());
    nack(2, dead());
    assert_eq!(fetch_ids(&broker), ["b", "e"].map(JobId::from));
    clock.advance(seconds(30));
    assert_eq!(
        fetch_ids(&broker),
        ["a", "b", "d", "e", "f"].map(JobId::from)
    );
}

#[test]
fn clones_are_one_consumer_and_what_it_held_is_returned_by_any_of_them() {
    let (_clock, broker) = broker();
    let (clone, other) = (broker.clone(), broker.consumer());
    enqueue(&broker, ["a", "b"]);
    let (held, _others) = (fetch_one(&broker), fetch_one(&other));
    block_on(clone.close()).unwrap();
    assert!(block_on(broker.fetch(1, NOW)).unwrap_err().is_closed());
    assert!(
        block_on(broker.ack(&held.receipt, None))
            .unwrap_err()
            .is_lease_lost()
    );
    let enqueued: Result<(), BrokerError> = block_on(broker.enqueue(vec![]));
    assert!(enqueued.unwrap_err().is_closed());
    // As a release: it does not count.
    let again = fetch(&other);
    assert_eq!(again.len(), 1);
    assert_eq!(
        (again[0].job_id.as_str(), again[0].delivery_count),
        ("a", Some(1))
    );
    assert!(again[0].redelivered);
    assert_eq!(fetch_ids(&broker.consumer()), []);
}

#[test]
fn lost_connection_makes_receipts_stale_and_leaves_the_consumer_open() {
    let (_clock, broker) = broker();
    enqueue(&broker, ["a"]);
    let held = fetch_one(&broker);
    broker.lose_connection();
    assert!(
        block_on(broker.ack(&held.receipt, None))
            .unwrap_err()
            .is_lease_lost()
    );
    let again = fetch_one(&broker);
    assert_eq!((again.delivery_count, again.redelivered), (Some(2), true));
    block_on(broker.ack(&again.receipt, None)).unwrap();
}

#[test]
fn receipt_settles_its_delivery_through_any_consumer_of_its_queue_and_of_no_other() {
    let (clock, broker) = broker();
    let other_queue = MemoryBroker::new(clock);
    for queue in [&broker, &other_queue] {
        enqueue(queue, ["a"]);
    }
    let (held, others) = (fetch_one(&broker), fetch_one(&other_queue));
    assert_ne!(held.receipt, others.receipt);
    assert!(
        block_on(other_queue.ack(&held.receipt, None))
            .unwrap_err()
            .is_lease_lost()
    );
    block_on(broker.consumer().ack(&held.receipt, None)).unwrap();
    block_on(other_queue.ack(&others.receipt, None)).unwrap();
}

#[test]
fn job_that_is_done_is_known_until_its_result_is_taken() {
    let (_clock, broker) = broker();
    enqueue(&broker, ["a", "b"]);
    for (delivery, result) in fetch(&broker).iter().zip([None, Some(b"B".to_vec())]) {
        block_on(broker.ack(&delivery.receipt, result)).unwrap();
    }
    enqueue(&broker, ["a", "b"]);
    assert_eq!(fetch_ids(&broker), []);
    assert_eq!(broker.counts().done, 2);
    let results = [("b".into(), b"B".to_vec())];
    assert_eq!(broker.results(), results);
    assert_eq!(broker.take_results(), results);
    assert_eq!(broker.results(), []);
    enqueue(&broker, ["b", "a"]);
    assert_eq!(fetch_ids(&broker), ["b", "a"].map(JobId::from));
}

#[test]
fn dead_letters_that_are_retried_come_last_and_are_counted_from_zero() {
    let (_clock, broker) = broker();
    enqueue(&broker, ["a", "b"]);
    for delivery in fetch(&broker) {
        block_on(broker.nack(&delivery.receipt, dead())).unwrap();
    }
    enqueue(&broker, ["a", "c"]);
    let letter = |id: &str| DeadLetter::new(id.into(), id.into(), "bad".into());
    assert_eq!(broker.dead_letters(), [letter("a"), letter("b")]);
    assert_eq!((broker.counts().dead, broker.counts().ready), (2, 1));
    assert_eq!((broker.retry_dead(), broker.retry_dead()), (2, 0));
    let again = fetch(&broker);
    assert_eq!(
        (again[1].delivery_count, again[1].redelivered),
        (Some(1), true)
    );
    assert_eq!(ids(again), ["c", "a", "b"].map(JobId::from));
}

#[test]
fn consumer_that_is_dropped_leaves_its_deliveries_to_the_ends_of_their_leases() {
    let (clock, broker) = broker();
    enqueue(&broker, ["a"]);
    let gone = broker.consumer();
    assert_eq!(fetch_ids(&gone), ["a".into()]);
    drop(gone);
    assert_eq!(fetch_ids(&broker), []);
    clock.advance(seconds(30));
    assert_eq!(fetch_ids(&broker), ["a".into()]);
}

#[test]
fn one_job_wakes_the_fetch_that_waits_longest_and_its_drop_wakes_the_next() {
    let (_clock, broker) = broker();
    let wakers = [Asking::new(&broker), Asking::new(&broker)];
    let mut first = Box::pin(broker.fetch(1, seconds(60)));
    let mut second = pin!(broker.fetch(1, seconds(60)));
    assert!(poll_with(first.as_mut(), &wakers[0]).is_pending());
    assert!(poll_with(second.as_mut(), &wakers[1]).is_pending());
    enqueue(&broker, ["a"]);
    assert_eq!(wakers.each_ref().map(|waker| waker.wakes()), [1, 0]);
    drop(first);
    assert_eq!(wakers.each_ref().map(|waker| waker.wakes()), [1, 1]);
    let Poll::Ready(got) = poll_with(second.as_mut(), &wakers[1]) else {
        panic!("the job is there");
    };
    assert_eq!(ids(got.unwrap()), ["a".into()]);
}

#[test]
fn as_many_fetches_are_woken_as_jobs_come() {
    let (_clock, broker) = broker();
    let wakers = [(); 4].map(|()| Asking::new(&broker));
    let mut fetches = [(); 4].map(|()| Box::pin(broker.fetch(1, seconds(60))));
    for (fetch, waker) in fetches.iter_mut().zip(&wakers) {
        assert!(poll_with(fetch.as_mut(), waker).is_pending());
    }
    enqueue(&broker, ["a", "b"]);
    enqueue(&broker, ["c"]);
    assert_eq!(wakers.each_ref().map(|waker| waker.wakes()), [1, 1, 1, 0]);
}

#[test]
fn waker_may_be_the_last_to_know_the_broker_and_is_dropped_without_its_lock() {
    let (_clock, broker) = broker();
    let mut fetch = Box::pin(broker.fetch(1, FOREVER));
    // Each poll replaces the waker of the one before, which asks the broker when it is dropped.
    for _ in 0..3 {
        assert!(poll_with(fetch.as_mut(), &Asking::new(&broker)).is_pending());
    }
    enqueue(&broker, ["a"]);
    assert!(poll_with(fetch.as_mut(), &Asking::new(&broker)).is_ready());
}

#[test]
fn threads_that_wait_without_a_limit_get_each_job_once_while_fetches_are_dropped() {
    const JOBS: usize = 2_000;
    let (_clock, broker) = broker();
    let got = Mutex::new(Vec::new());
    let consume = |broker: MemoryBroker, drops: bool| {
        loop {
            if drops {
                // Waits, may be notified meanwhile, and is dropped.
                let mut fetch = Box::pin(broker.fetch(1, FOREVER));
                let waker = Asking::new(&broker);
                match poll_with(fetch.as_mut(), &waker) {
                    Poll::Ready(Ok(deliveries)) => acknowledge(&broker, deliveries, &got),
                    Poll::Ready(Err(error)) => return assert!(error.is_closed()),
                    Poll::Pending => thread::yield_now(),
                }
                continue;
            }
            match block_on(broker.fetch(3, FOREVER)) {
                Ok(deliveries) => acknowledge(&broker, deliveries, &got),
                Err(error) => return assert!(error.is_closed()),
            }
        }
    };
    thread::scope(|scope| {
        let consumers = [(); 4].map(|()| broker.consumer());
        let threads = [0, 1, 2, 3].map(|n| {
            let (consumer, consume) = (consumers[n].clone(), &consume);
            scope.spawn(move || consume(consumer, n == 3))
        });
        for n in 0..JOBS {
            enqueue(&broker, [&*n.to_string()]);
        }
        // A thread that has ended has failed.
        while broker.counts().done < JOBS && !threads.iter().any(|thread| thread.is_finished()) {
            thread::yield_now();
        }
        for consumer in consumers {
            block_on(consumer.close()).unwrap();
        }
    });
    let mut got = got.into_inner().unwrap();
    got.sort_unstable();
    assert_eq!(got, (0..JOBS).collect::<Vec<_>>());
}

fn acknowledge(
    broker: &MemoryBroker,
    deliveries: Vec<Delivery<MemoryReceipt>>,
    got: &Mutex<Vec<usize>>,
) {
    for delivery in deliveries {
        block_on(broker.ack(&delivery.receipt, None)).unwrap();
        let number = delivery.job_id.as_str().parse().unwrap();
        got.lock().unwrap().push(number);
    }
}

#[test]
fn futures_of_a_broker_are_send_and_its_types_are_as_broad_as_they_can_be() {
    fn is_send<T: Send>(_: &T) {}
    fn is_broad<T: Send + Sync + Clone + Debug + 'static>(_: &T) {}
    let (_clock, broker) = broker();
    enqueue(&broker, ["a"]);
    is_send(&broker.fetch(1, NOW));
    is_broad(&broker);
    is_broad(&fetch_one(&broker));
    assert_eq!(
        format!("{broker:?}"),
        "MemoryBroker { consumer: 1, lease: 30s, .. }"
    );
}
