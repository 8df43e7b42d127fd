//! Adapters that break one rule each: the broker in memory, with a fault around it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use brigade::broker::conformance::Fixture;
use brigade::broker::{
    Ack, Broker, BrokerError, Capabilities, DeadLetter, Delivery, JobId, MemoryBroker,
    MemoryReceipt, Nack, NewJob, SettleError,
};
use brigade::{ManualTimer, Timer};
use futures_lite::future;

/// More than the patience of the fixture, less than twice as much.
const TOO_LATE: Duration = Duration::from_secs(11);

/// What an adapter does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// None of it: the adapter lacks all capabilities instead.
    LacksCapabilities,
    TruncatesLargePayloads,
    JobsEndWithTheirProducer,
    RefusesEmptyLists,
    ZeroWaitIsForever,
    ZeroWaitFindsNothing,
    FetchEndsBeforeItsWait,
    EnqueueWakesNoOtherConsumer,
    FetchesOneMoreThanMax,
    RepeatsTheHeldDelivery,
    DeliversOneOfManyTwice,
    DropsEmptyResults,
    AckManyStopsAtStaleReceipt,
    StaleAckSucceeds,
    StaleNackSucceeds,
    StaleExtendSucceeds,
    StaleAckStoresItsResult,
    SecondSettlementSucceeds,
    RetryIsNotMarkedAsRedelivered,
    RetryDoesNotCount,
    RetryIgnoresItsTime,
    ReleaseLosesThePayload,
    ReleaseCounts,
    RetryCountsAsLost,
    CrashIsNotCounted,
    DeadLetterLosesItsReason,
    LeaseIsUnknown,
    LeasesNeverEnd,
    ExtendDoesNothing,
    ExtendManyDoesNothing,
    CrashReturnsOneOfMany,
    DroppedReceiptAcks,
    DroppedFetchKeepsWhatItReserved,
    DroppedFetchKeepsItsNotification,
    CloseKeepsWhatWasHeld,
    CloseLetsFetchesWait,
    ClosedFetchFindsNothing,
    SecondCloseFails,
    EnqueuesTwinsOfOneCall,
    EnqueuesDoneJobsAgain,
    IgnoresDelays,
    IgnoresPriorities,
}

pub(crate) struct BrokenFixture {
    pub(crate) clock: ManualTimer,
    pub(crate) queue: MemoryBroker,
    pub(crate) fault: Fault,
    pub(crate) seen: Arc<Mutex<Seen>>,
}

pub(crate) struct Broken {
    inner: MemoryBroker,
    fault: Fault,
    /// Of all consumers.
    seen: Arc<Mutex<Seen>>,
    /// Of this one.
    own: Mutex<Own>,
}

/// What the faults have to know of the past.
#[derive(Default)]
pub(crate) struct Seen {
    done: BTreeSet<JobId>,
    retried: BTreeSet<JobId>,
    released: BTreeMap<JobId, u32>,
    results_of_stale_acks: Vec<(JobId, Vec<u8>)>,
    deliveries: usize,
    twice: Option<Delivery<Receipt>>,
    twins: usize,
    waiting: usize,
}

#[derive(Default)]
struct Own {
    enqueued: BTreeSet<JobId>,
    held: Vec<Delivery<Receipt>>,
    waiting: usize,
    is_closed: bool,
}

#[derive(Clone)]
pub(crate) struct Receipt {
    inner: MemoryReceipt,
    job: JobId,
    lease: Duration,
    _ack: Option<Arc<AckOnDrop>>,
}

struct AckOnDrop {
    broker: MemoryBroker,
    receipt: MemoryReceipt,
}

impl Drop for AckOnDrop {
    fn drop(&mut self) {
        let _ = future::block_on(self.broker.ack(&self.receipt, None));
    }
}

impl Fixture for BrokenFixture {
    type Broker = Broken;

    async fn open(&self, lease: Duration) -> Broken {
        let lease = match self.fault {
            Fault::LeasesNeverEnd | Fault::LacksCapabilities => Duration::MAX,
            _ => lease,
        };
        Broken {
            inner: self.queue.consumer().lease(lease),
            fault: self.fault,
            seen: Arc::clone(&self.seen),
            own: Mutex::default(),
        }
    }

    async fn crash(&self, broker: Broken) {
        match self.fault {
            Fault::JobsEndWithTheirProducer => {
                let phantom = self.queue.consumer();
                let jobs = phantom.fetch(usize::MAX, Duration::ZERO).await;
                for job in jobs.unwrap() {
                    if broker.own().enqueued.contains(&job.job_id) {
                        phantom.ack(&job.receipt, None).await.unwrap();
                    }
                }
                phantom.close().await.unwrap();
                broker.inner.lose_connection();
            }
            Fault::CrashReturnsOneOfMany => {
                let held = std::mem::take(&mut broker.own().held);
                for delivery in held.into_iter().skip(1) {
                    let receipt = &delivery.receipt.inner;
                    broker.inner.extend(receipt, Duration::MAX).await.unwrap();
                }
            }
            _ => broker.inner.lose_connection(),
        }
    }

    async fn results(&self) -> Vec<(JobId, Vec<u8>)> {
        let mut results = self.queue.results();
        results.extend(self.seen.lock().unwrap().results_of_stale_acks.clone());
        results
    }

    async fn dead_letters(&self) -> Vec<DeadLetter> {
        self.queue.dead_letters()
    }

    fn timer(&self) -> Arc<dyn Timer> {
        Arc::new(self.clock.clone())
    }
}

impl Broken {
    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap()
    }

    fn delivery(&self, inner: Delivery<MemoryReceipt>) -> Delivery<Receipt> {
        let id = inner.job_id.as_str();
        let id = JobId::new(id.strip_prefix("twin of ").unwrap_or(id));
        let receipt = Receipt {
            job: id.clone(),
            lease: inner.lease.unwrap(),
            _ack: self.has(Fault::DroppedReceiptAcks).then(|| {
                Arc::new(AckOnDrop {
                    broker: self.inner.clone(),
                    receipt: inner.receipt.clone(),
                })
            }),
            inner: inner.receipt,
        };
        let mut delivery = Delivery::new(id, inner.payload, receipt);
        delivery.delivery_count = inner.delivery_count;
        delivery.lost_count = inner.lost_count;
        delivery.redelivered = inner.redelivered;
        delivery.lease = inner.lease;
        let mut seen = self.seen();
        let was_retried = seen.retried.contains(&delivery.job_id);
        let releases = seen.released.get(&delivery.job_id).copied();
        match self.fault {
            Fault::LacksCapabilities => {
                delivery.delivery_count = None;
                delivery.lost_count = None;
                delivery.lease = None;
            }
            Fault::TruncatesLargePayloads => delivery.payload.truncate(1 << 16),
            Fault::RetryIsNotMarkedAsRedelivered if was_retried => delivery.redelivered = false,
            Fault::RetryDoesNotCount if was_retried => delivery.delivery_count = Some(1),
            Fault::ReleaseLosesThePayload if releases.is_some() => delivery.payload.clear(),
            Fault::ReleaseCounts => {
                let count = delivery.delivery_count;
                delivery.delivery_count = count.map(|count| count + releases.unwrap_or(0));
            }
            Fault::RetryCountsAsLost => {
                delivery.lost_count = delivery.delivery_count.map(|count| count - 1);
            }
            Fault::CrashIsNotCounted => delivery.lost_count = Some(0),
            Fault::LeaseIsUnknown => delivery.lease = None,
            Fault::DeliversOneOfManyTwice => {
                seen.deliveries += 1;
                if seen.deliveries == 500 {
                    seen.twice = Some(delivery.clone());
                }
            }
            _ => {}
        }
        drop(seen);
        if !self.has(Fault::DroppedReceiptAcks) {
            self.own().held.push(delivery.clone());
        }
        delivery
    }

    fn no_longer_held(&self, receipt: &Receipt) {
        let held = &mut self.own().held;
        held.retain(|delivery| delivery.receipt.inner != receipt.inner);
    }

    /// Notes a settlement; or lets one with a stale receipt pass, if that is the fault.
    fn settled(
        &self,
        receipt: &Receipt,
        outcome: Result<(), SettleError>,
        lets_stale_pass: bool,
    ) -> Result<(), SettleError> {
        let is_done = self.seen().done.contains(&receipt.job);
        let is_closed = self.own().is_closed;
        match outcome {
            Err(SettleError::LeaseLost) if is_done && self.has(Fault::SecondSettlementSucceeds) => {
                Ok(())
            }
            Err(SettleError::LeaseLost) if !is_done && !is_closed && lets_stale_pass => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Ok(()),
        }
    }
}

/// A fetch that has not returned.
struct Waiting<'a> {
    broker: &'a Broken,
    is_dropped: bool,
}

impl<'a> Waiting<'a> {
    fn new(broker: &'a Broken) -> Self {
        broker.own().waiting += 1;
        broker.seen().waiting += 1;
        Self {
            broker,
            is_dropped: true,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.broker.own().waiting -= 1;
        self.broker.seen().waiting -= 1;
        if self.is_dropped && self.broker.has(Fault::DroppedFetchKeepsItsNotification) {
            let phantom = self.broker.inner.consumer().lease(TOO_LATE);
            let _ = future::block_on(phantom.fetch(1, Duration::ZERO)).unwrap();
        }
    }
}

impl Broker for Broken {
    type Receipt = Receipt;

    fn capabilities(&self) -> Capabilities {
        if self.has(Fault::LacksCapabilities) {
            return Capabilities::default();
        }
        self.inner.capabilities()
    }

    async fn enqueue(&self, mut jobs: Vec<NewJob>) -> Result<(), BrokerError> {
        if jobs.is_empty() && self.has(Fault::RefusesEmptyLists) {
            return Err(BrokerError::permanent("syntax error at VALUES"));
        }
        let only_others_wait = self.own().waiting == 0 && self.seen().waiting > 0;
        let mut ids = BTreeSet::new();
        for job in &mut jobs {
            let is_new = ids.insert(job.id.clone());
            let is_twin = match self.fault {
                Fault::EnqueuesTwinsOfOneCall => !is_new,
                Fault::EnqueuesDoneJobsAgain => self.seen().done.contains(&job.id),
                _ => false,
            };
            if is_twin {
                self.seen().twins += 1;
                assert_eq!(self.seen().twins, 1, "a second twin would need a name");
                job.id = JobId::new(format!("twin of {}", job.id));
            }
            match self.fault {
                Fault::IgnoresDelays => job.delay = Duration::ZERO,
                Fault::IgnoresPriorities => job.priority = 0,
                Fault::EnqueueWakesNoOtherConsumer if only_others_wait && job.delay.is_zero() => {
                    job.delay = TOO_LATE;
                }
                _ => {}
            }
        }
        self.own().enqueued.extend(ids);
        self.inner.enqueue(jobs).await
    }

    async fn fetch(
        &self,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery<Receipt>>, BrokerError> {
        if self.own().is_closed {
            return match self.fault {
                Fault::ClosedFetchFindsNothing => Ok(Vec::new()),
                _ => Err(BrokerError::closed()),
            };
        }
        if wait.is_zero() && self.has(Fault::ZeroWaitFindsNothing) {
            return Ok(Vec::new());
        }
        let mut waiting = Waiting::new(self);
        let is_greedy = max > 1 && self.has(Fault::FetchesOneMoreThanMax);
        let is_endless = wait.is_zero() && self.has(Fault::ZeroWaitIsForever);
        let max = max + usize::from(is_greedy);
        let wait = if is_endless { Duration::MAX } else { wait };
        let wait = if self.has(Fault::FetchEndsBeforeItsWait) {
            wait / 2
        } else {
            wait
        };
        let fetched = self.inner.fetch(max, wait).await?;
        if !fetched.is_empty() && self.has(Fault::DroppedFetchKeepsWhatItReserved) {
            for delivery in &fetched {
                let extended = self.inner.extend(&delivery.receipt, Duration::MAX);
                extended.await.unwrap();
            }
            future::yield_now().await;
            for delivery in &fetched {
                let lease = delivery.lease.unwrap();
                let extended = self.inner.extend(&delivery.receipt, lease);
                extended.await.unwrap();
            }
        }
        waiting.is_dropped = false;
        let fetched = fetched.into_iter();
        let mut fetched: Vec<_> = fetched.map(|delivery| self.delivery(delivery)).collect();
        if self.has(Fault::RepeatsTheHeldDelivery)
            && fetched.is_empty()
            && let [held] = &self.own().held[..]
            && held.receipt.lease > TOO_LATE
        {
            fetched.push(held.clone());
        }
        if self.seen().deliveries > 600 {
            fetched.extend(self.seen().twice.take());
        }
        Ok(fetched)
    }

    async fn ack(&self, receipt: &Receipt, result: Option<Vec<u8>>) -> Result<(), SettleError> {
        let drops_empty = self.has(Fault::DropsEmptyResults);
        let result = result.filter(|result| !(drops_empty && result.is_empty()));
        let acked = self.inner.ack(&receipt.inner, result.clone()).await;
        if acked.is_err()
            && let Some(result) = &result
            && self.has(Fault::StaleAckStoresItsResult)
        {
            let stored = (receipt.job.clone(), result.clone());
            self.seen().results_of_stale_acks.push(stored);
        }
        let is_done = acked.is_ok();
        let passes = self.has(Fault::StaleAckSucceeds) && result.is_none();
        let acked = self.settled(receipt, acked, passes);
        if is_done {
            self.no_longer_held(receipt);
            self.seen().done.insert(receipt.job.clone());
        }
        acked
    }

    async fn ack_many(&self, acks: Vec<Ack<Receipt>>) -> Vec<Result<(), SettleError>> {
        let mut outcomes: Vec<Result<(), SettleError>> = Vec::new();
        for ack in acks {
            let is_after_stale = outcomes.iter().any(Result::is_err);
            if is_after_stale && self.has(Fault::AckManyStopsAtStaleReceipt) {
                outcomes.push(Err(SettleError::LeaseLost));
                continue;
            }
            let acked = self.inner.ack(&ack.receipt.inner, ack.result).await;
            if acked.is_ok() {
                self.no_longer_held(&ack.receipt);
                self.seen().done.insert(ack.receipt.job);
            }
            outcomes.push(acked);
        }
        outcomes
    }

    async fn nack(&self, receipt: &Receipt, mut nack: Nack) -> Result<(), SettleError> {
        match (&mut nack, self.fault) {
            (Nack::Retry { after, .. }, Fault::RetryIgnoresItsTime) => *after = None,
            (Nack::DeadLetter { reason }, Fault::DeadLetterLosesItsReason) => reason.clear(),
            _ => {}
        }
        let nacked = self.inner.nack(&receipt.inner, nack.clone()).await;
        if nacked.is_ok() {
            self.no_longer_held(receipt);
            let job = receipt.job.clone();
            match nack {
                Nack::Retry { .. } => {
                    self.seen().retried.insert(job);
                }
                Nack::Release => *self.seen().released.entry(job).or_default() += 1,
                Nack::DeadLetter { .. } => {}
            }
        }
        self.settled(receipt, nacked, self.has(Fault::StaleNackSucceeds))
    }

    async fn extend(&self, receipt: &Receipt, by: Duration) -> Result<(), SettleError> {
        // The clock stands still between a fetch and the extension, so this changes nothing.
        let by = match self.fault {
            Fault::ExtendDoesNothing => receipt.lease,
            _ => by,
        };
        let extended = self.inner.extend(&receipt.inner, by).await;
        self.settled(receipt, extended, self.has(Fault::StaleExtendSucceeds))
    }

    async fn extend_many(
        &self,
        receipts: Vec<Receipt>,
        by: Duration,
    ) -> Vec<Result<(), SettleError>> {
        if self.has(Fault::ExtendManyDoesNothing) {
            return receipts.iter().map(|_| Ok(())).collect();
        }
        let receipts = receipts.into_iter().map(|receipt| receipt.inner);
        self.inner.extend_many(receipts.collect(), by).await
    }

    async fn close(&self) -> Result<(), BrokerError> {
        let was_closed = std::mem::replace(&mut self.own().is_closed, true);
        if was_closed && self.has(Fault::SecondCloseFails) {
            return Err(BrokerError::closed());
        }
        if self.own().waiting > 0 && self.has(Fault::CloseLetsFetchesWait) {
            return Ok(());
        }
        self.inner.close().await?;
        let held = std::mem::take(&mut self.own().held);
        if self.has(Fault::CloseKeepsWhatWasHeld) {
            let phantom = self.inner.consumer().lease(Duration::MAX);
            let _ = phantom.fetch(held.len(), Duration::ZERO).await?;
        }
        Ok(())
    }
}
