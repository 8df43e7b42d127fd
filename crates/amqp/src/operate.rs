//! What an operator does with a job queue: read results, look at dead letters, count.

use std::sync::Arc;
use std::time::Duration;

use brigade::broker::{BrokerError, DeadLetter, JobId, SettleError};
use lapin::Channel;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};

use crate::error;
use crate::message::{self, Outgoing};
use crate::session::Session;
use crate::source::Settlement;
use crate::topology::{self, DELAYS};
use crate::wait;
use crate::{AmqpBroker, AmqpReceipt};

/// How many dead letters are moved with one wait for confirms.
const BATCH: u32 = 256;

/// A result that [`fetch_results`](AmqpBroker::fetch_results) has reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredResult {
    /// The job that it is the result of. A job may have several: keep one for each id.
    pub job_id: JobId,
    /// The result, as it was given to `ack`.
    pub payload: Vec<u8>,
    /// What [`ack_results`](AmqpBroker::ack_results) takes.
    pub receipt: AmqpReceipt,
}

/// How many messages wait in the queues of a job queue. Those that are delivered and not settled are not
/// among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Jobs that can be fetched.
    pub ready: u32,
    /// Jobs that wait for a delay.
    pub delayed: u32,
    /// Dead letters.
    pub dead: u32,
    /// Results that were not fetched; 0 where there is no queue for them.
    pub results: u32,
    /// Consumers of the queue: handles that have fetched from it.
    pub consumers: u32,
}

impl AmqpBroker {
    /// Reserves up to `max` results; waits for the first of them, at most `wait`. Empty if none came.
    ///
    /// Write them where they are kept, each id once, and give their receipts to
    /// [`ack_results`](Self::ack_results) then. Results whose receipts are not acknowledged are
    /// delivered again, after this connection is closed or lost.
    ///
    /// # Errors
    ///
    /// A permanent one if [`results`](crate::AmqpOptions::results) is off; otherwise as
    /// [`fetch`](brigade::broker::Broker::fetch).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no result.
    pub async fn fetch_results(
        &self,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<StoredResult>, BrokerError> {
        if !self.shared.options.results {
            return Err(BrokerError::permanent(
                "this handle was made without results",
            ));
        }
        let results = |session: Arc<Session>| async move { session.results().await };
        let received = self.shared.receive(max, wait, results).await?;
        let stored = received.into_iter().map(|received| StoredResult {
            job_id: message::job_id(&received.properties),
            payload: received.payload,
            receipt: received.receipt,
        });
        Ok(stored.collect())
    }

    /// Removes results that are kept elsewhere. Returns as many outcomes as receipts, in their order.
    ///
    /// # Errors
    ///
    /// [`SettleError::LeaseLost`]: the connection was lost in between, and the result will be
    /// delivered again.
    ///
    /// # Cancel safety
    ///
    /// After dropping the future, some results may be removed.
    pub async fn ack_results(&self, receipts: Vec<AmqpReceipt>) -> Vec<Result<(), SettleError>> {
        let Some(session) = self.shared.current() else {
            return receipts
                .iter()
                .map(|_| Err(SettleError::LeaseLost))
                .collect();
        };
        let source = session.results_if_any();
        let mut outcomes = Vec::with_capacity(receipts.len());
        let (mut places, mut claimed) = (Vec::new(), Vec::new());
        for (at, receipt) in receipts.iter().enumerate() {
            outcomes.push(Err(SettleError::LeaseLost));
            if let Some(claim) = source.as_ref().and_then(|source| source.claim(receipt)) {
                places.push(at);
                claimed.push((claim, None, Settlement::Ack));
            }
        }
        for (at, outcome) in places.into_iter().zip(session.settle(claimed).await) {
            outcomes[at] = outcome.map_err(SettleError::from);
        }
        outcomes
    }

    /// Looks at up to `max` dead letters, and leaves them where they are. While it does, and for a moment
    /// after, neither other handles nor [`retry_dead`](Self::retry_dead) see them.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`], as the other operations.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves all where they are.
    pub async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, BrokerError> {
        let looking = async {
            let channel = self.channel().await?;
            let mut letters = Vec::new();
            let mut last = None;
            while letters.len() < max {
                let Some(message) = self.get_dead(&channel).await? else {
                    break;
                };
                last = Some(message.delivery.delivery_tag);
                letters.push(message::dead_letter(
                    &message.delivery.properties,
                    message.delivery.data,
                ));
            }
            if let Some(last) = last {
                let options = BasicNackOptions {
                    multiple: true,
                    requeue: true,
                };
                channel.basic_nack(last, options).await.map_err(lost)?;
            }
            channel.close(200, "OK".into()).await.map_err(lost)?;
            Ok(letters)
        };
        self.limited("reading dead letters", looking).await
    }

    /// Moves the dead letters back into the queue, those that are there now, and returns how many.
    /// Their delivery counts start anew.
    ///
    /// Each is published first, with a confirm, and removed then. Letters that were published and not
    /// yet removed when the connection is lost, the call gives up or its future is dropped, at most
    /// 256, come back twice: in the queue, and among the dead letters.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`], as the other operations. Some may be moved already.
    ///
    /// # Cancel safety
    ///
    /// After dropping the future, some may be moved.
    pub async fn retry_dead(&self) -> Result<usize, BrokerError> {
        let opening = async {
            let channel = self.channel().await?;
            let dead = topology::inspect(&channel, &self.shared.names.dead)
                .await
                .map_err(|cause| self.of_dead(&cause))?;
            Ok((channel, dead.message_count()))
        };
        let (channel, mut rest) = self.limited("counting dead letters", opening).await?;
        let mut moved = 0;
        while rest > 0 {
            let batch = self
                .limited(
                    "moving dead letters",
                    self.move_batch(&channel, rest.min(BATCH)),
                )
                .await?;
            if batch == 0 {
                break;
            }
            moved += batch as usize;
            rest = rest.saturating_sub(batch);
        }
        let closing = async { channel.close(200, "OK".into()).await.map_err(lost) };
        self.limited("moving dead letters", closing).await?;
        Ok(moved)
    }

    async fn move_batch(&self, channel: &Channel, max: u32) -> Result<u32, BrokerError> {
        let session = self.session().await?;
        let mut tags = Vec::new();
        let mut messages = Vec::new();
        for _ in 0..max {
            let Some(message) = self.get_dead(channel).await? else {
                break;
            };
            tags.push(message.delivery.delivery_tag);
            messages.push(Outgoing {
                queue: self.shared.names.jobs.clone(),
                properties: message::again(&message.delivery.properties, 0, None),
                payload: message.delivery.data,
            });
        }
        let (outcomes, _late) = session.publish(messages).await;
        let mut failure = None;
        let mut moved = 0;
        // Whatever has failed, each letter that was published is removed.
        for (tag, published) in tags.into_iter().zip(outcomes) {
            if let Err(cause) = published {
                failure.get_or_insert(cause);
                continue;
            }
            match channel.basic_ack(tag, BasicAckOptions::default()).await {
                Ok(()) => moved += 1,
                Err(cause) => {
                    failure.get_or_insert(lost(cause));
                }
            }
        }
        failure.map_or(Ok(moved), Err)
    }

    /// Counts what waits in each queue. Delay queues are found by their names, which takes a round trip
    /// for each, so this is for people rather than for loops.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`], as the other operations.
    pub async fn counts(&self) -> Result<Counts, BrokerError> {
        let counting = async {
            let names = &self.shared.names;
            let mut counts = Counts::default();
            // Fails if the broker is closed.
            self.session().await?;
            let inspector = self.shared.inspector().await?;
            let mut channel = inspector.channel().await?;
            let of = |name: &str, cause| error::of_declaration(name, true, &cause);
            let jobs = topology::inspect(&channel, &names.jobs)
                .await
                .map_err(|cause| of(names.jobs.as_str(), cause))?;
            counts.ready = jobs.message_count();
            counts.consumers = jobs.consumer_count();
            counts.dead = topology::inspect(&channel, &names.dead)
                .await
                .map_err(|cause| self.of_dead(&cause))?
                .message_count();
            if self.shared.options.results {
                counts.results = topology::inspect(&channel, &names.results)
                    .await
                    .map_err(|cause| of(names.results.as_str(), cause))?
                    .message_count();
            }
            for queue in DELAYS {
                match topology::inspect(&channel, &names.delay(queue)).await {
                    Ok(delay) => counts.delayed += delay.message_count(),
                    // The server closes the channel on which a queue was not found.
                    Err(cause) if cause.is_amqp_soft_error() => {
                        channel = inspector.channel().await?;
                    }
                    Err(cause) => return Err(lost(cause)),
                }
            }
            inspector.close().await?;
            Ok(counts)
        };
        self.limited("counting", counting).await
    }

    async fn session(&self) -> Result<Arc<Session>, BrokerError> {
        self.shared.session(self.shared.deadline()).await
    }

    async fn channel(&self) -> Result<Channel, BrokerError> {
        self.session().await?.channel().await
    }

    async fn get_dead(&self, channel: &Channel) -> Result<Option<BasicGetMessage>, BrokerError> {
        channel
            .basic_get(self.shared.names.dead.clone(), BasicGetOptions::default())
            .await
            .map_err(|cause| self.of_dead(&cause))
    }

    fn of_dead(&self, cause: &lapin::Error) -> BrokerError {
        error::of_declaration(self.shared.names.dead.as_str(), true, cause)
    }

    /// Gives up after twice the timeout: once for a connection, and once for the answers.
    async fn limited<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        let limit = self.shared.options.timeout.saturating_mul(2);
        // Boxed, since the futures of lapin are large.
        wait::within(wait::deadline(limit), what, Box::pin(work)).await
    }
}

fn lost(cause: lapin::Error) -> BrokerError {
    error::of_connection(&cause)
}
