//! A broker that counts the deliveries which came again, for the progress of `brigade work`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use brigade::broker::{
    Ack, Broker, BrokerError, Capabilities, Delivery, Nack, NewJob, SettleError,
};

/// Passes all calls on.
pub(super) struct Watched<B> {
    pub(super) broker: B,
    pub(super) redelivered: Arc<AtomicU64>,
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
    ) -> Result<Vec<Delivery<Self::Receipt>>, BrokerError> {
        let deliveries = self.broker.fetch(max, wait).await?;
        let again = deliveries
            .iter()
            .filter(|delivery| delivery.redelivered)
            .count();
        self.redelivered.fetch_add(again as u64, Ordering::Relaxed);
        Ok(deliveries)
    }

    async fn ack(
        &self,
        receipt: &Self::Receipt,
        result: Option<Vec<u8>>,
    ) -> Result<(), SettleError> {
        self.broker.ack(receipt, result).await
    }

    async fn ack_many(&self, acks: Vec<Ack<Self::Receipt>>) -> Vec<Result<(), SettleError>> {
        self.broker.ack_many(acks).await
    }

    async fn nack(&self, receipt: &Self::Receipt, nack: Nack) -> Result<(), SettleError> {
        self.broker.nack(receipt, nack).await
    }

    async fn extend(&self, receipt: &Self::Receipt, by: Duration) -> Result<(), SettleError> {
        self.broker.extend(receipt, by).await
    }

    async fn extend_many(
        &self,
        receipts: Vec<Self::Receipt>,
        by: Duration,
    ) -> Vec<Result<(), SettleError>> {
        self.broker.extend_many(receipts, by).await
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.broker.close().await
    }
}
