//! What the rules are made of: calls of a broker that cannot hang, and whose failures name the
//! rule; and waits for what has to come, or must not come yet.

use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_lite::future::or;

use super::super::{Broker, BrokerError, DeadLetter, Delivery, JobId, Nack, NewJob, SettleError};
use super::{Fixture, Verdict, ids};
use crate::rt::Timer;
use crate::sync::ignore_poison;

/// How often an attempt that was too slow for its lease is made again, each time with twice the
/// lease.
const ATTEMPTS: u32 = 12;

/// One rule in progress: its calls of the broker do not hang, and its failures name the rule.
pub(super) struct Run<'a, F> {
    rule: &'static str,
    fixture: &'a F,
    timer: Arc<dyn Timer>,
    /// A time that has to pass.
    pub(super) short: Duration,
    /// A time that does not pass during a rule.
    pub(super) long: Duration,
}

type ReceiptOf<F> = <<F as Fixture>::Broker as Broker>::Receipt;
type DeliveryOf<F> = Delivery<ReceiptOf<F>>;

impl<'a, F: Fixture> Run<'a, F> {
    pub(super) fn new(rule: &'static str, fixture: &'a F) -> Self {
        Self {
            rule,
            fixture,
            timer: fixture.timer(),
            short: fixture.tick() * 5,
            long: fixture.patience() * 6,
        }
    }

    pub(super) fn fail(&self, expected: &str, got: &dyn Debug) -> ! {
        panic!(
            "the broker breaks the rule {}: expected {expected}, got {got:?}",
            self.rule
        );
    }

    pub(super) fn equal<T: PartialEq + Debug>(&self, what: &str, got: &T, expected: &T) {
        if got != expected {
            self.fail(&format!("{what} to be {expected:?}"), got);
        }
    }

    pub(super) fn ok<T, E: Debug>(&self, call: &str, outcome: Result<T, E>) -> T {
        outcome.unwrap_or_else(|error| self.fail(&format!("Ok of {call}"), &error))
    }

    /// Whether a settlement came too late.
    pub(super) fn is_lost(&self, call: &str, outcome: Result<(), SettleError>) -> bool {
        match outcome {
            Ok(()) => false,
            Err(SettleError::LeaseLost) => true,
            Err(error) => self.fail(&format!("Ok or LeaseLost of {call}"), &error),
        }
    }

    pub(super) fn lost(&self, call: &str, outcome: Result<(), SettleError>) {
        if !self.is_lost(call, outcome) {
            self.fail(&format!("LeaseLost of {call}"), &"Ok(())");
        }
    }

    /// The count of a delivery, which is known if the broker says so.
    pub(super) fn count(&self, broker: &F::Broker, delivery: &DeliveryOf<F>) -> Option<u32> {
        let is_counted = broker.capabilities().delivery_count;
        if is_counted && delivery.delivery_count.is_none() {
            self.fail("a delivery count", &delivery.delivery_count);
        }
        delivery.delivery_count.filter(|_| is_counted)
    }

    pub(super) fn same_job(&self, again: &DeliveryOf<F>, first: &DeliveryOf<F>) {
        let [again, first] =
            [again, first].map(|delivery| (delivery.job_id.clone(), delivery.payload.clone()));
        self.equal("the job", &again, &first);
    }

    pub(super) fn now(&self) -> Instant {
        self.timer.now()
    }

    pub(super) async fn sleep(&self, time: Duration) {
        if let Some(at) = self.now().checked_add(time) {
            self.timer.sleep_until(at).await;
        }
    }

    pub(super) fn not_before(&self, start: Instant, time: Duration) {
        let passed = self.now().saturating_duration_since(start);
        if passed + self.fixture.tick() < time {
            self.fail(&format!("no delivery before {time:?}"), &passed);
        }
    }

    /// Awaits a call, for as long as the patience lasts. It is polled when it was woken only, so
    /// one whose wake-up is lost does not find out by chance.
    pub(super) async fn within<T>(&self, call: &str, future: impl Future<Output = T>) -> T {
        let patience = self.fixture.patience();
        self.within_time(call, patience, future).await
    }

    pub(super) async fn within_time<T>(
        &self,
        call: &str,
        time: Duration,
        future: impl Future<Output = T>,
    ) -> T {
        let late = async {
            self.sleep(time).await;
            self.fail(
                &format!("{call} to return within {time:?}"),
                &"no end of it",
            )
        };
        or(Box::pin(when_woken(future)), late).await
    }

    /// Opens a consumer whose leases do not end during a rule.
    pub(super) async fn open(&self) -> F::Broker {
        self.fixture.open(self.long).await
    }

    pub(super) async fn close(&self, broker: &F::Broker) {
        self.ok("close", self.within("close", broker.close()).await);
    }

    pub(super) async fn enqueue(&self, broker: &F::Broker, jobs: impl IntoIterator<Item = NewJob>) {
        let enqueueing = broker.enqueue(jobs.into_iter().collect());
        self.ok("enqueue", self.within("enqueue", enqueueing).await);
    }

    pub(super) async fn ack(
        &self,
        broker: &F::Broker,
        receipt: &ReceiptOf<F>,
        result: Option<Vec<u8>>,
    ) {
        self.ok("ack", self.within("ack", broker.ack(receipt, result)).await);
    }

    /// Settles deliveries, and returns the jobs of those whose lease was not over: the others come
    /// again.
    pub(super) async fn ack_all(
        &self,
        broker: &F::Broker,
        deliveries: Vec<DeliveryOf<F>>,
    ) -> Vec<JobId> {
        let mut acked = Vec::new();
        for delivery in deliveries {
            let outcome = self
                .within("ack", broker.ack(&delivery.receipt, None))
                .await;
            if !self.is_lost("ack", outcome) {
                acked.push(delivery.job_id);
            }
        }
        acked
    }

    pub(super) async fn nack(&self, broker: &F::Broker, receipt: &ReceiptOf<F>, nack: Nack) {
        let call = format!("nack as {nack:?}");
        self.ok(&call, self.within(&call, broker.nack(receipt, nack)).await);
    }

    pub(super) async fn fetch(
        &self,
        broker: &F::Broker,
        max: usize,
        wait: Duration,
    ) -> Vec<DeliveryOf<F>> {
        let time = wait + self.fixture.patience();
        let fetching = broker.fetch(max, wait);
        let fetched = self.within_time("fetch", time, fetching).await;
        self.ok::<_, BrokerError>("fetch", fetched)
    }

    /// Fetches nothing for a short while.
    pub(super) async fn fetch_none(&self, broker: &F::Broker) {
        let got = self.fetch(broker, 10, self.short).await;
        self.equal("deliveries", &ids(&got), &Vec::new());
    }

    pub(super) async fn fetch_one(&self, broker: &F::Broker) -> DeliveryOf<F> {
        let mut got = self.fetch(broker, 1, self.fixture.patience()).await;
        match (got.pop(), got.pop()) {
            (Some(delivery), None) => delivery,
            (None, _) => self.fail("a delivery", &"none"),
            (Some(one), Some(other)) => self.fail("one delivery", &ids(&[one, other])),
        }
    }

    /// Fetches a job that comes while the fetch waits, which would wait for longer than it may
    /// take.
    pub(super) async fn fetch_soon(&self, broker: &F::Broker) -> DeliveryOf<F> {
        let fetching = broker.fetch(1, self.long);
        let fetched = self.within("fetch, as a job was due", fetching).await;
        match self.ok::<_, BrokerError>("fetch", fetched).pop() {
            Some(delivery) => delivery,
            None => self.fail("a delivery", &"none"),
        }
    }

    /// Fetches so many jobs, in as many calls as the broker likes.
    pub(super) async fn fetch_count(&self, broker: &F::Broker, count: usize) -> Vec<DeliveryOf<F>> {
        let mut got = Vec::new();
        while got.len() < count {
            let max = count - got.len();
            let more = self.fetch(broker, max, self.fixture.patience()).await;
            if more.is_empty() {
                self.fail(&format!("{count} deliveries"), &ids(&got));
            }
            got.extend(more);
        }
        got
    }

    pub(super) async fn results(&self, expected: &[(&str, &[u8])]) {
        let expected = expected.iter();
        let expected: Vec<_> = expected
            .map(|(id, result)| (JobId::from(*id), result.to_vec()))
            .collect();
        self.eventually("the results", &expected, async || {
            let mut results = self.fixture.results().await;
            results.sort();
            results
        })
        .await;
    }

    pub(super) async fn dead_letters(&self, expected: &[DeadLetter]) {
        self.eventually("the dead letters", &expected.to_vec(), async || {
            let mut letters = self.fixture.dead_letters().await;
            letters.sort_by(|a, b| a.job_id.cmp(&b.job_id));
            letters
        })
        .await;
    }

    /// Reads until what is read is as expected: what a broker shows may lag behind.
    pub(super) async fn eventually<T: PartialEq + Debug>(
        &self,
        what: &str,
        expected: &T,
        mut read: impl AsyncFnMut() -> T,
    ) {
        let start = self.now();
        loop {
            let got = read().await;
            if got == *expected {
                return;
            }
            if self.now().saturating_duration_since(start) > self.fixture.patience() {
                self.equal(what, &got, expected);
            }
            self.sleep(self.fixture.tick()).await;
        }
    }

    /// Makes a receipt stale in each way that the broker knows, and has it refused.
    pub(super) async fn refuses_stale_receipts(
        &self,
        id: &str,
        settle: impl AsyncFn(&F::Broker, ReceiptOf<F>) -> Result<(), SettleError>,
    ) -> Verdict {
        let (broker, other) = (self.open().await, self.open().await);
        let job = |how: &str| [NewJob::new(format!("{id}, {how}"), *b"x")];
        self.enqueue(&broker, job("released")).await;
        let stale = self.fetch_one(&broker).await.receipt;
        self.nack(&broker, &stale, Nack::Release).await;
        self.refuses(&broker, stale, &other, &settle).await;
        if broker.capabilities().lease {
            let broker = self.fixture.open(self.short).await;
            self.enqueue(&broker, job("lease ended")).await;
            let stale = self.fetch_one(&broker).await.receipt;
            self.refuses(&broker, stale, &other, &settle).await;
        }
        Verdict::Kept
    }

    /// Another consumer gets the job, and keeps it when the stale receipt was refused.
    pub(super) async fn refuses(
        &self,
        broker: &F::Broker,
        stale: ReceiptOf<F>,
        other: &F::Broker,
        settle: impl AsyncFn(&F::Broker, ReceiptOf<F>) -> Result<(), SettleError>,
    ) {
        let held = self.fetch_one(other).await;
        let settled = self.within("a settlement", settle(broker, stale)).await;
        self.lost("a settlement with a stale receipt", settled);
        self.fetch_none(broker).await;
        self.ack(other, &held.receipt, None).await;
        self.fetch_none(broker).await;
    }

    /// Fetches the one job with a short lease, has it extended by long, and settles it after its
    /// lease.
    pub(super) async fn extended(
        &self,
        extend: impl AsyncFn(&F::Broker, ReceiptOf<F>) -> Result<(), SettleError>,
    ) {
        let other = self.open().await;
        let (broker, held, lease) = self
            .in_time(async |lease| {
                let broker = self.fixture.open(lease).await;
                let held = self.fetch_one(&broker).await;
                let extending = extend(&broker, held.receipt.clone());
                let extended = self.within("an extension", extending).await;
                let is_lost = self.is_lost("an extension", extended);
                (!is_lost).then_some((broker, held, lease))
            })
            .await;
        self.sleep(lease).await;
        self.fetch_none(&other).await;
        self.ack(&broker, &held.receipt, None).await;
    }

    /// Makes attempts of something that has to be done within a lease. `None`: the lease was lost.
    /// That is an error if its time was not over; otherwise the machine was slow, and the next
    /// attempt has twice the time.
    pub(super) async fn in_time<T>(
        &self,
        mut attempt: impl AsyncFnMut(Duration) -> Option<T>,
    ) -> T {
        let mut lease = self.short;
        for _ in 0..ATTEMPTS {
            let start = self.now();
            if let Some(value) = attempt(lease).await {
                return value;
            }
            let passed = self.now().saturating_duration_since(start);
            if passed + self.fixture.tick() < lease {
                self.fail(&format!("a lease of {lease:?}"), &passed);
            }
            lease *= 2;
        }
        self.fail("an attempt that is in time", &"a machine that is too slow");
    }

    /// Polls a future up to so many times: when it was woken, and otherwise after a tick. Returns
    /// its output if it has ended.
    pub(super) async fn poll_times<T>(
        &self,
        mut future: Pin<&mut impl Future<Output = T>>,
        times: usize,
    ) -> Option<T> {
        let sleep = || Box::pin(self.sleep(self.fixture.tick()));
        let (mut polls, mut tick) = (0, sleep());
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(output) = future.as_mut().poll(cx) {
                    return Poll::Ready(Some(output));
                }
                polls += 1;
                if polls == times {
                    return Poll::Ready(None);
                }
                if tick.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                tick = sleep();
            }
        })
        .await
    }
}

/// Polls a future at first, and then only after its own waker was woken, however often its task is.
pub(super) async fn when_woken<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let own = Arc::new(OwnWaker {
        is_woken: AtomicBool::new(true),
        task: Mutex::new(None),
    });
    let waker = Waker::from(Arc::clone(&own));
    poll_fn(|cx| {
        let old = own.task().replace(cx.waker().clone());
        drop(old);
        // After the waker of the task is in place, so that no wake-up is missed in between.
        if !own.is_woken.swap(false, Ordering::SeqCst) {
            return Poll::Pending;
        }
        future.as_mut().poll(&mut Context::from_waker(&waker))
    })
    .await
}

/// Wakes the task that polls, and remembers it.
struct OwnWaker {
    is_woken: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl OwnWaker {
    fn task(&self) -> MutexGuard<'_, Option<Waker>> {
        ignore_poison(self.task.lock())
    }
}

impl Wake for OwnWaker {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::SeqCst);
        let task = self.task().clone();
        task.into_iter().for_each(Waker::wake);
    }
}
