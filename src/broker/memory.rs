//! A broker within one process: the jobs are in a [`Queue`], behind one lock, and a fetch that
//! finds none waits among the [`Waiters`], at most until the next delay or lease ends.
//!
//! Under the lock runs no code that is not of this module: the timer is read and slept on, and
//! wakers are cloned, woken and dropped, without it.

mod queue;
mod waiters;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

pub use self::queue::MemoryCounts;
use self::queue::{Leased, Over, Queue, Token};
use self::waiters::Waiters;
use super::{
    Broker, BrokerError, Capabilities, DeadLetter, Delivery, JobId, Nack, NewJob, SettleError,
};
use crate::rt::{BoxFuture, Timer};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, ignore_poison};

/// A [`Broker`] within one process: the reference for others, and a broker for tests.
///
/// It has all [capabilities](Capabilities), and no durability: its jobs end with the process. They
/// are in memory, and nothing bounds them but what is enqueued. A job that is done leaves its id,
/// which
/// [`enqueue`](Broker::enqueue) ignores from then on, and its result, until
/// [`take_results`](Self::take_results); dead letters stay until [`retry_dead`](Self::retry_dead).
///
/// Each `MemoryBroker` is a *consumer* of its queue. A clone is the same consumer: what one of them
/// holds, a [`close`](Broker::close) of the other returns. [`consumer`](Self::consumer) makes
/// another consumer of the same queue, as another process would be. A consumer that is dropped
/// without `close` leaves what it holds to the ends of its leases.
///
/// Jobs are fetched in the order of their priorities, the greatest first, and in the order of their
/// enqueueing within a priority. A job that comes back has its old position.
///
/// A lease is over when its time is over, whether or not another consumer has fetched the job. A
/// receipt settles its delivery through any consumer of the queue.
///
/// Only [`fetch`](Broker::fetch) waits, and only `fetch` and [`enqueue`](Broker::enqueue) fail once
/// the consumer is closed. A fetch that is dropped has reserved nothing; a fetch of no jobs returns
/// at once.
///
/// # Examples
///
/// ```
/// use brigade::ManualTimer;
/// use brigade::broker::{Broker, MemoryBroker, NewJob};
/// use futures_lite::future;
/// use std::time::Duration;
///
/// let clock = ManualTimer::new();
/// let (here, now) = (MemoryBroker::new(clock.clone()), Duration::ZERO);
/// let there = here.consumer();
/// future::block_on(async {
///     here.enqueue(vec![NewJob::new("job 1", *b"ping")]).await.unwrap();
///     let held = here.fetch(10, now).await.unwrap().remove(0);
///     assert_eq!(there.fetch(10, now).await.unwrap(), []);
///
///     clock.advance(MemoryBroker::DEFAULT_LEASE);
///     let again = there.fetch(10, now).await.unwrap().remove(0);
///     assert_eq!((&again.payload[..], again.delivery_count), (&b"ping"[..], Some(2)));
///     assert!(here.ack(&held.receipt, None).await.unwrap_err().is_lease_lost());
///     there.ack(&again.receipt, Some(b"pong".to_vec())).await.unwrap();
/// });
/// assert_eq!(here.results(), [("job 1".into(), b"pong".to_vec())]);
/// ```
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
    consumer: Arc<Consumer>,
    lease: Duration,
}

/// Identifies one delivery of a [`MemoryBroker`]; equal to the receipts of the same delivery.
#[derive(Clone)]
pub struct MemoryReceipt {
    /// Tells the queues of a process apart. It keeps their addresses from being used again.
    queue: Weak<Shared>,
    token: Token,
}

struct Shared {
    timer: Arc<dyn Timer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: Queue,
    waiters: Waiters,
}

struct Consumer {
    number: u64,
    /// Written and read under the lock of the queue.
    is_closed: AtomicBool,
}

impl Consumer {
    fn new(state: &mut State) -> Arc<Self> {
        Arc::new(Self {
            number: state.queue.number(),
            is_closed: AtomicBool::new(false),
        })
    }

    /// Called under the lock of the queue.
    fn check(&self) -> Result<(), BrokerError> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(BrokerError::closed());
        }
        Ok(())
    }
}

impl MemoryBroker {
    /// How long a delivery lasts unless [`lease`](Self::lease) says otherwise.
    pub const DEFAULT_LEASE: Duration = Duration::from_secs(30);

    /// Makes the first consumer of an empty queue, whose leases and delays are measured by `timer`.
    ///
    /// # Defaults
    ///
    /// The lease is [`DEFAULT_LEASE`](Self::DEFAULT_LEASE), 30 seconds.
    pub fn new(timer: impl Timer) -> Self {
        let mut state = State::default();
        let consumer = Consumer::new(&mut state);
        let shared = Shared {
            timer: Arc::new(timer),
            state: Mutex::new(state),
        };
        Self {
            shared: Arc::new(shared),
            consumer,
            lease: Self::DEFAULT_LEASE,
        }
    }

    /// Sets how long the deliveries last that are fetched by this value, and by clones and
    /// consumers made of it later.
    ///
    /// # Panics
    ///
    /// If the lease is zero.
    #[must_use]
    #[track_caller]
    pub fn lease(mut self, lease: Duration) -> Self {
        assert!(!lease.is_zero(), "lease must be more than 0, got 0");
        self.lease = lease;
        self
    }

    /// Makes another consumer of the same queue, with the same lease. It is open, even if this one
    /// is closed.
    #[must_use]
    pub fn consumer(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            consumer: self.shared.with(|state, _| Consumer::new(state)),
            lease: self.lease,
        }
    }

    /// Ends the deliveries that this consumer holds, as if its connection was lost: their receipts
    /// are stale, their jobs are ready again, and the deliveries count. The consumer stays open, as
    /// one that connects again.
    pub fn lose_connection(&self) {
        let consumer = self.consumer.number;
        self.shared.with(|state, _| state.queue.lose_all(consumer));
    }

    /// Copies the results, in the order of their acks. Jobs that were acknowledged without a result
    /// have none.
    pub fn results(&self) -> Vec<(JobId, Vec<u8>)> {
        self.shared.with(|state, _| state.queue.results())
    }

    /// Removes the results and returns them, and forgets the ids of all jobs that are done, with or
    /// without a result: an id can be enqueued again.
    pub fn take_results(&self) -> Vec<(JobId, Vec<u8>)> {
        let done = self.shared.with(|state, _| state.queue.take_results());
        let results = done.into_iter();
        results
            .filter_map(|(id, result)| Some((id, result?)))
            .collect()
    }

    /// Copies the jobs that were [dead-lettered](Nack::DeadLetter), in this order.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.shared.with(|state, _| state.queue.dead_letters())
    }

    /// Puts all dead letters back into the queue, behind the jobs of their priority, and returns
    /// how many they were. Their deliveries are counted from zero.
    pub fn retry_dead(&self) -> usize {
        self.shared.with(|state, _| state.queue.retry_dead())
    }

    /// Counts the jobs.
    pub fn counts(&self) -> MemoryCounts {
        self.shared.with(|state, _| state.queue.counts())
    }

    fn token(&self, receipt: &MemoryReceipt) -> Result<Token, SettleError> {
        if receipt.queue.as_ptr() == Arc::as_ptr(&self.shared) {
            Ok(receipt.token)
        } else {
            Err(SettleError::LeaseLost)
        }
    }

    fn delivery(&self, leased: Leased) -> Delivery<MemoryReceipt> {
        let receipt = MemoryReceipt {
            queue: Arc::downgrade(&self.shared),
            token: leased.token,
        };
        Delivery {
            delivery_count: Some(leased.deliveries),
            lost_count: Some(leased.lost),
            redelivered: leased.redelivered,
            lease: Some(self.lease),
            ..Delivery::new(leased.id, leased.payload.to_vec(), receipt)
        }
    }
}

impl Shared {
    /// Calls `change` with the state, under the lock, and then wakes the fetches that it concerns.
    fn with<R>(&self, change: impl FnOnce(&mut State, Instant) -> R) -> R {
        let now = self.timer.now();
        let mut state = ignore_poison(self.state.lock());
        state.queue.advance(now);
        let value = change(&mut state, now);
        let wakers = state.notify();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        value
    }
}

impl State {
    fn notify(&mut self) -> Vec<Waker> {
        self.waiters
            .notify(self.queue.ready(), self.queue.next_event())
    }
}

impl Broker for MemoryBroker {
    type Receipt = MemoryReceipt;

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            lease: true,
            delay: true,
            priority: true,
            atomic_result: true,
            dedup: true,
            delivery_count: true,
        }
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<(), BrokerError> {
        self.shared.with(|state, now| {
            self.consumer.check()?;
            for job in jobs {
                state.queue.enqueue(now, job);
            }
            Ok(())
        })
    }

    async fn fetch(
        &self,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery<MemoryReceipt>>, BrokerError> {
        let mut fetch = Fetch {
            broker: self,
            max,
            deadline: self.shared.timer.now().checked_add(wait),
            wait: None,
            sleep: None,
        };
        poll_fn(|cx| fetch.poll(cx)).await
    }

    async fn ack(
        &self,
        receipt: &MemoryReceipt,
        result: Option<Vec<u8>>,
    ) -> Result<(), SettleError> {
        let token = self.token(receipt)?;
        let acked = self.shared.with(|state, _| state.queue.ack(token, result));
        acked.map_err(SettleError::from)
    }

    async fn nack(&self, receipt: &MemoryReceipt, nack: Nack) -> Result<(), SettleError> {
        let token = self.token(receipt)?;
        let nacked = self
            .shared
            .with(|state, now| state.queue.nack(now, token, nack));
        nacked.map_err(SettleError::from)
    }

    async fn extend(&self, receipt: &MemoryReceipt, by: Duration) -> Result<(), SettleError> {
        let token = self.token(receipt)?;
        let extended = self
            .shared
            .with(|state, now| state.queue.extend(now, token, by));
        extended.map_err(SettleError::from)
    }

    async fn close(&self) -> Result<(), BrokerError> {
        let consumer = self.consumer.number;
        let wakers = self.shared.with(|state, _| {
            self.consumer.is_closed.store(true, Ordering::Relaxed);
            state.queue.release_all(consumer);
            state.waiters.notify_all_of(consumer)
        });
        wakers.into_iter().for_each(Waker::wake);
        Ok(())
    }
}

/// A fetch in progress. Dropping it ends its wait.
struct Fetch<'a> {
    broker: &'a MemoryBroker,
    max: usize,
    /// `None`: never.
    deadline: Option<Instant>,
    /// The number of its wait, if it waits.
    wait: Option<u64>,
    /// The alarm of its wait, and its time.
    sleep: Option<(Instant, BoxFuture<'static, ()>)>,
}

/// What a fetch has found.
enum Found {
    Jobs(Vec<Leased>),
    Nothing,
    /// Nothing before this time, unless it is woken.
    Wait(Option<Instant>),
}

impl Fetch<'_> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Vec<Delivery<MemoryReceipt>>, BrokerError>> {
        loop {
            let alarm = match self.look(cx.waker().clone())? {
                Found::Jobs(jobs) => {
                    let deliveries = jobs.into_iter().map(|job| self.broker.delivery(job));
                    return Poll::Ready(Ok(deliveries.collect()));
                }
                Found::Nothing => return Poll::Ready(Ok(Vec::new())),
                Found::Wait(alarm) => alarm,
            };
            let Some(at) = alarm else {
                self.sleep = None;
                return Poll::Pending;
            };
            if self.sleep.as_ref().is_none_or(|(old, _)| *old != at) {
                self.sleep = Some((at, self.broker.shared.timer.sleep_until(at)));
            }
            if let Some((_, sleep)) = &mut self.sleep
                && Pin::new(sleep).poll(cx).is_pending()
            {
                return Poll::Pending;
            }
            self.sleep = None;
        }
    }

    /// Reserves jobs, or registers the wait for them: both under one lock, so that no job comes in
    /// between.
    fn look(&mut self, waker: Waker) -> Result<Found, BrokerError> {
        let consumer = &*self.broker.consumer;
        let mut waker = Some(waker);
        let (found, old_waker) = self.broker.shared.with(|state, now| {
            let found = consumer.check().map(|()| {
                let (max, lease) = (self.max, self.broker.lease);
                let jobs = state.queue.fetch(now, max, lease, consumer.number);
                let is_over = max == 0 || self.deadline.is_some_and(|deadline| deadline <= now);
                if !jobs.is_empty() {
                    Found::Jobs(jobs)
                } else if is_over {
                    Found::Nothing
                } else {
                    let event = state.queue.next_event();
                    Found::Wait(event.into_iter().chain(self.deadline).min())
                }
            });
            let old_waker = if let Ok(Found::Wait(alarm)) = found
                && let Some(waker) = waker.take()
            {
                let wait = *self.wait.get_or_insert_with(|| state.queue.number());
                state.waiters.register(wait, consumer.number, waker, alarm)
            } else {
                let wait = self.wait.take();
                wait.and_then(|wait| state.waiters.remove(wait))
            };
            (found, old_waker)
        });
        drop((waker, old_waker));
        found
    }
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        if let Some(wait) = self.wait.take() {
            // If this wait was notified, another one is notified instead.
            let removed = self
                .broker
                .shared
                .with(|state, _| state.waiters.remove(wait));
            drop(removed);
        }
    }
}

impl From<Over> for SettleError {
    fn from(Over: Over) -> Self {
        Self::LeaseLost
    }
}

impl PartialEq for MemoryReceipt {
    fn eq(&self, other: &Self) -> bool {
        self.queue.ptr_eq(&other.queue) && self.token == other.token
    }
}

impl Eq for MemoryReceipt {}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker")
            .field("consumer", &self.consumer.number)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for MemoryReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryReceipt").field(&self.token).finish()
    }
}
