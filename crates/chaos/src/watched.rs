//! A broker that notes when its first delivery came and when its last one was settled.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use brigade::broker::{
    Ack, Broker, BrokerError, Capabilities, Delivery, Nack, NewJob, SettleError,
};
use rustix::time::{ClockId, Timespec, clock_gettime};

pub(crate) struct Watched<B> {
    broker: B,
    first: AtomicU64,
    last: AtomicU64,
}

impl<B> Watched<B> {
    pub(crate) const fn new(broker: B) -> Self {
        Self {
            broker,
            first: AtomicU64::new(u64::MAX),
            last: AtomicU64::new(0),
        }
    }

    /// When the first delivery came, in nanoseconds of the clock that all processes share.
    pub(crate) fn first(&self) -> u64 {
        self.first.load(Relaxed)
    }

    /// When the last delivery was settled.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Relaxed)
    }
}

/// The clock that all processes share.
pub(crate) fn now() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

pub(crate) fn nanoseconds(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap_or(0)
}

impl<B: Broker> Broker for Watched<B> {
    type Receipt = B::Receipt;

    fn capabilities(&self) -> Capabilities {
        self.broker.capabilities()
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<(), BrokerError> {
        self.broker.enqueue(jobs).await
    }

    async fn fetch(
        &self,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery<B::Receipt>>, BrokerError> {
        let deliveries = self.broker.fetch(max, wait).await?;
        if !deliveries.is_empty() {
            self.first.fetch_min(now(), Relaxed);
        }
        Ok(deliveries)
    }

    async fn ack(&self, receipt: &B::Receipt, result: Option<Vec<u8>>) -> Result<(), SettleError> {
        let outcome = self.broker.ack(receipt, result).await;
        self.last.store(now(), Relaxed);
        outcome
    }

    async fn ack_many(&self, acks: Vec<Ack<B::Receipt>>) -> Vec<Result<(), SettleError>> {
        let outcomes = self.broker.ack_many(acks).await;
        // It is called without any, too.
        if !outcomes.is_empty() {
            self.last.store(now(), Relaxed);
        }
        outcomes
    }

    async fn nack(&self, receipt: &B::Receipt, nack: Nack) -> Result<(), SettleError> {
        let outcome = self.broker.nack(receipt, nack).await;
        self.last.store(now(), Relaxed);
        outcome
    }

    async fn extend(&self, receipt: &B::Receipt, by: Duration) -> Result<(), SettleError> {
        self.broker.extend(receipt, by).await
    }

    async fn extend_many(
        &self,
        receipts: Vec<B::Receipt>,
        by: Duration,
    ) -> Vec<Result<(), SettleError>> {
        self.broker.extend_many(receipts, by).await
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.broker.close().await
    }
}
