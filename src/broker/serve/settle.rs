//! Settles deliveries, many at a time, and in several tries if the broker fails.
//!
//! A round makes one call for all acknowledgements, then one for each other settlement, until a
//! call fails: then the rest waits for the next round. So a round with a broker that is gone takes
//! one call, however many settlements wait.

use std::sync::Arc;

use async_channel::Receiver;

use super::super::{Ack, Broker, BrokerError, Nack, SettleError};
use super::held::Ticket;
use super::options::Settlement;
use super::report::ServeReport;
use super::{Serving, pause};
use crate::panic;

/// The tries of a settlement, the first included.
const TRIES: u32 = 8;

/// A settlement that is to be made.
pub(super) struct Pending<R> {
    pub(super) ticket: Ticket,
    pub(super) receipt: Arc<R>,
    pub(super) settlement: Settlement,
}

impl<B: Broker, Decode, Encode, Failed> Serving<'_, B, Decode, Encode, Failed> {
    /// Settles what waits, until the channel is closed and empty.
    pub(super) async fn settle(&self, settlements: Receiver<Pending<B::Receipt>>) {
        while let Ok(first) = settlements.recv().await {
            // Ends: what is held bounds the messages, and no new ones come without an await.
            let rest = std::iter::from_fn(|| settlements.try_recv().ok());
            let mut pending: Vec<_> = std::iter::once(first).chain(rest).collect();
            for failures in 1..=TRIES {
                pending = self.settle_round(pending).await;
                if pending.is_empty() {
                    break;
                }
                if failures < TRIES {
                    self.sleep(pause(failures - 1)).await;
                }
            }
            for pending in pending {
                self.settled(pending.ticket, |report| &mut report.unsettled);
            }
        }
    }

    /// Tries to settle all of these; returns those that are to be tried again.
    async fn settle_round(&self, pending: Vec<Pending<B::Receipt>>) -> Vec<Pending<B::Receipt>> {
        let is_ack =
            |pending: &Pending<B::Receipt>| matches!(pending.settlement, Settlement::Ack(_));
        let (acks, mut others): (Vec<_>, Vec<_>) = pending.into_iter().partition(is_ack);
        let mut again = Vec::new();
        let mut failure = None;
        if !acks.is_empty() {
            let calls = acks.iter().map(|pending| Ack {
                receipt: (*pending.receipt).clone(),
                result: match &pending.settlement {
                    Settlement::Ack(result) => result.clone(),
                    Settlement::Nack(_) => None,
                },
            });
            let mut outcomes = self.broker.ack_many(calls.collect()).await.into_iter();
            for mut pending in acks {
                // A missing outcome is as unknown as an error.
                let missing = || Err(BrokerError::unavailable("it gave no answer").into());
                match outcomes.next().unwrap_or_else(missing) {
                    Ok(()) => self.settled(pending.ticket, |report| &mut report.acked),
                    Err(SettleError::LeaseLost) => self.lost(pending.ticket),
                    Err(SettleError::Broker(error)) if error.is_permanent() => {
                        // Such as a result that is too large: the job is kept, not its result.
                        let reason = format!("the result cannot be stored: {error}");
                        self.log(&error);
                        pending.settlement = Settlement::Nack(Nack::DeadLetter { reason });
                        others.push(pending);
                    }
                    Err(SettleError::Broker(error)) => {
                        failure.get_or_insert(error);
                        again.push(pending);
                    }
                }
            }
        }
        for pending in others {
            let Settlement::Nack(nack) = &pending.settlement else {
                continue;
            };
            if failure.is_some() {
                again.push(pending);
                continue;
            }
            match self.broker.nack(&pending.receipt, nack.clone()).await {
                Ok(()) => self.settled(pending.ticket, |report| match nack {
                    Nack::Retry { .. } => &mut report.retried,
                    Nack::Release => &mut report.released,
                    Nack::DeadLetter { .. } => &mut report.dead_lettered,
                }),
                Err(SettleError::LeaseLost) => self.lost(pending.ticket),
                Err(SettleError::Broker(error)) if error.is_permanent() => {
                    self.end(error);
                    self.settled(pending.ticket, |report| &mut report.unsettled);
                }
                Err(SettleError::Broker(error)) => {
                    failure = Some(error);
                    again.push(pending);
                }
            }
        }
        if let Some(error) = failure {
            self.log(&error);
        }
        again
    }

    pub(super) fn lost(&self, ticket: Ticket) {
        self.settled(ticket, |report| &mut report.lost);
    }

    /// Counts the outcome of a settlement and makes room.
    fn settled(&self, ticket: Ticket, counter: impl FnOnce(&mut ServeReport) -> &mut u64) {
        let mut held = self.held();
        *counter(&mut held.report) += 1;
        let job = held.remove(ticket);
        drop(held);
        panic::discard(job);
        let _ = self.freed.try_send(());
    }
}
