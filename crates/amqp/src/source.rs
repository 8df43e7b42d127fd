//! The consumer of one queue: deliveries as they come, those that are held, and their settlement.
//!
//! A delivery is in one of three places: in the buffers of [`Intake`], where the server has pushed it;
//! in the hands of the caller, where [`Held`] has it; or settled. A source lives as long as its channel.
//! What was not settled by then, the server delivers again.
//!
//! The server pushes whenever the prefetch has room, also without a fetch: after the last
//! settlements of a pool that drains, say. So that such deliveries are not kept from others,
//! [`rest`](Source::rest) waits until there was no fetch for [`REST`], and then the consumer is cancelled,
//! and what was pushed is returned.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_io::Timer;
use async_lock::{Mutex as AsyncMutex, MutexGuardArc};
use brigade::broker::BrokerError;
use event_listener::Event;
use futures_lite::{Stream, future};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    BasicRejectOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer};

use crate::error;
use crate::{AmqpReceipt, wait};

/// How long a consumer that could be sent more may go without a fetch.
const REST: Duration = Duration::from_millis(100);

pub(crate) struct Source {
    queue: ShortString,
    channel: Channel,
    generation: u64,
    /// The prefetch, if it does not follow what callers ask for.
    prefetch: Option<u16>,
    passive: bool,
    /// Locked while a fetch waits for deliveries: lapin wakes one task only.
    intake: Arc<AsyncMutex<Intake>>,
    held: Mutex<Held>,
    /// A fetch or a settlement has ended; or the source was dropped.
    quiet: Arc<Event>,
}

/// Where deliveries come in.
#[derive(Default)]
pub(crate) struct Intake {
    consumer: Option<Consumer>,
    /// What earlier consumers of this channel were sent and no fetch has taken: no more than the
    /// prefetch of each.
    rest: VecDeque<Delivery>,
}

/// The deliveries in the hands of callers. Each consumer adds no more than its prefetch; those of earlier
/// consumers do not count towards it.
#[derive(Default)]
struct Held {
    by_tag: HashMap<u64, Message>,
    /// The number of the present consumer.
    consumer: u64,
    /// Its prefetch.
    prefetch: usize,
    /// How many of `by_tag` it has delivered.
    of_consumer: usize,
    /// How many consumers were replaced because their prefetch had no room for a fetch.
    replaced: u32,
    /// How many fetches there are at present.
    fetching: usize,
    /// Fetches and settlements so far.
    activity: u64,
}

/// A delivery as its settlement may need it.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) payload: Vec<u8>,
    pub(crate) properties: BasicProperties,
    consumer: u64,
}

/// A delivery that a caller gets.
pub(crate) struct Received {
    pub(crate) receipt: AmqpReceipt,
    pub(crate) payload: Vec<u8>,
    pub(crate) properties: BasicProperties,
    pub(crate) redelivered: bool,
}

/// How a delivery is settled.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Settlement {
    Ack,
    /// Returns it to the queue; that counts.
    Reject,
    /// Returns it to the queue; whether that counts depends on the server.
    Nack,
}

impl Source {
    pub(crate) fn new(
        queue: ShortString,
        channel: Channel,
        generation: u64,
        prefetch: Option<u16>,
        passive: bool,
    ) -> Self {
        Self {
            queue,
            channel,
            generation,
            prefetch,
            passive,
            intake: Arc::default(),
            held: Mutex::default(),
            quiet: Arc::default(),
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.channel.status().connected()
    }

    /// What a caller keeps from before [`intake`](Self::intake) until after
    /// [`receive`](Self::receive): the consumer is not cancelled meanwhile.
    pub(crate) fn fetching(self: &Arc<Self>) -> Fetching {
        self.held().fetching += 1;
        Fetching(Arc::clone(self))
    }

    /// The lock of the consumer. A fetch holds it while it waits, so this may take as long.
    pub(crate) async fn intake(&self) -> MutexGuardArc<Intake> {
        self.intake.lock_arc().await
    }

    /// Whether the consumer can deliver so many beyond those that are held. If not,
    /// [`start`](Self::start) is due.
    pub(crate) fn can_deliver(&self, intake: &Intake, max: usize) -> bool {
        intake.consumer.is_some()
            && (self.prefetch.is_some() || self.held().room() >= usize::from(limit(max)))
    }

    /// Starts a consumer that can deliver so many, and cancels the one before. Returns its number.
    ///
    /// What that one has delivered does not count towards the prefetch of the next. So the prefetch of
    /// the next is `max`, and those that are held come on top of it. But room that older deliveries
    /// leave when they are settled would then need a consumer each time: when one is replaced for the
    /// second time, the prefetch is what is held and `max`, and so it is from then on.
    ///
    /// Run it to its end: between the steps, deliveries may be underway that nothing would read.
    pub(crate) async fn start(&self, intake: &mut Intake, max: usize) -> Result<u64, BrokerError> {
        self.held().replaced += u32::from(intake.consumer.is_some());
        self.cancel(intake).await?;
        let prefetch = self.prefetch.unwrap_or_else(|| {
            let held = self.held();
            limit(match held.replaced {
                0 | 1 => max,
                _ => max.saturating_add(held.by_tag.len()),
            })
        });
        let refused = |cause| error::of_declaration(self.queue.as_str(), self.passive, &cause);
        self.channel
            .basic_qos(prefetch, BasicQosOptions::default())
            .await
            .map_err(refused)?;
        let consumer = self
            .channel
            .basic_consume(
                self.queue.clone(),
                ShortString::default(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(refused)?;
        intake.consumer = Some(consumer);
        let mut held = self.held();
        held.consumer += 1;
        held.prefetch = usize::from(prefetch);
        held.of_consumer = 0;
        Ok(held.consumer)
    }

    /// Waits until the consumer of this number rests: until it can be sent more, and there was neither
    /// a fetch nor a settlement for [`REST`]. `None` if there is another by then, or no source.
    pub(crate) async fn rest(source: Weak<Self>, consumer: u64) -> Option<Arc<Self>> {
        let quiet = Arc::clone(&source.upgrade()?.quiet);
        loop {
            // Before the state is read, so that no event after it is missed.
            let changed = quiet.listen();
            let activity = source.upgrade()?.room_without_fetch(consumer)?;
            let Some(activity) = activity else {
                changed.await;
                continue;
            };
            Timer::after(REST).await;
            let source = source.upgrade()?;
            if source.room_without_fetch(consumer)? == Some(activity) {
                return Some(source);
            }
        }
    }

    /// The activity so far, if there is room and no fetch. `None` for another consumer.
    fn room_without_fetch(&self, consumer: u64) -> Option<Option<u64>> {
        let held = self.held();
        let is_resting = held.fetching == 0 && held.room() > 0;
        (held.consumer == consumer && self.is_alive()).then(|| is_resting.then_some(held.activity))
    }

    /// Cancels the consumer, and takes what it was sent and no fetch has taken. `None` if a call
    /// fetches. Run it to its end.
    pub(crate) async fn pause(self: &Arc<Self>) -> Result<Option<Vec<Claim>>, BrokerError> {
        let mut intake = self.intake.lock().await;
        // A fetch that starts later waits for the lock, and finds that it needs a consumer.
        if self.held().fetching > 0 {
            return Ok(None);
        }
        self.cancel(&mut intake).await?;
        Ok(Some(self.claim_rest(&mut intake)))
    }

    pub(crate) const fn has_fixed_prefetch(&self) -> bool {
        self.prefetch.is_some()
    }

    /// Cancels the consumer, so that what it was sent has arrived, unless another call fetches too:
    /// then it stays. The caller's own fetch is counted until it has ended. Run it to its end.
    pub(crate) async fn flush(fetching: Fetching) -> (Fetching, Result<(), BrokerError>) {
        let source = &fetching.0;
        // A fetch that has the lock takes what arrives; one that waits for it relies on the consumer.
        let flushed = match source.intake.try_lock() {
            Some(mut intake) if source.held().fetching == 1 => source.cancel(&mut intake).await,
            _ => Ok(()),
        };
        (fetching, flushed)
    }

    /// Up to `max` of the deliveries that [`flush`](Self::flush) has kept.
    pub(crate) fn take_flushed(&self, max: usize) -> Vec<Received> {
        let intake = self.intake.try_lock();
        intake.map_or_else(Vec::new, |mut intake| self.take_rest(&mut intake, max))
    }

    /// Up to `max` of the deliveries that consumers before were sent and no fetch has taken.
    pub(crate) fn take_rest(&self, intake: &mut Intake, max: usize) -> Vec<Received> {
        let rest = intake.rest.drain(..max.min(intake.rest.len()));
        rest.map(|delivery| self.hold(delivery, true)).collect()
    }

    fn claim_rest(self: &Arc<Self>, intake: &mut Intake) -> Vec<Claim> {
        let rest = self.take_rest(intake, usize::MAX);
        rest.into_iter()
            .filter_map(|received| self.claim(&received.receipt))
            .collect()
    }

    /// Cancels the consumer, if there is one, and keeps what it was sent.
    async fn cancel(&self, intake: &mut Intake) -> Result<(), BrokerError> {
        let Some(mut consumer) = intake.consumer.take() else {
            return Ok(());
        };
        let cancelled = self
            .channel
            .basic_cancel(consumer.tag(), BasicCancelOptions::default())
            .await;
        // What the server sent before its answer is in the buffer; the rest goes back to the queue.
        while let Some(Some(Ok(delivery))) =
            future::poll_once(futures_lite::StreamExt::next(&mut consumer)).await
        {
            intake.rest.push_back(delivery);
        }
        cancelled.map_err(|cause| error::of_connection(&cause))
    }

    /// Up to `max` deliveries; waits for the first until the deadline. Empty if none came. An error if
    /// the consumer has ended: this source delivers no more.
    ///
    /// Dropping the future loses none: they leave the buffers in the poll that returns them.
    pub(crate) async fn receive(
        &self,
        max: usize,
        deadline: Instant,
    ) -> Result<Vec<Received>, BrokerError> {
        let Some(mut intake) = wait::until(deadline, self.intake.lock()).await else {
            return Ok(Vec::new());
        };
        let received = std::future::poll_fn(|context| self.poll(&mut intake, max, context));
        wait::until(deadline, received)
            .await
            .unwrap_or_else(|| Ok(Vec::new()))
    }

    fn poll(
        &self,
        intake: &mut Intake,
        max: usize,
        context: &mut Context<'_>,
    ) -> Poll<Result<Vec<Received>, BrokerError>> {
        let mut received = self.take_rest(intake, max);
        while received.len() < max {
            let Some(consumer) = &mut intake.consumer else {
                return ended(received, None);
            };
            match Pin::new(consumer).poll_next(context) {
                Poll::Ready(Some(Ok(delivery))) => received.push(self.hold(delivery, false)),
                Poll::Ready(Some(Err(cause))) => {
                    intake.consumer = None;
                    return ended(received, Some(&cause));
                }
                Poll::Ready(None) => {
                    intake.consumer = None;
                    return ended(received, None);
                }
                Poll::Pending => break,
            }
        }
        if received.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(Ok(received))
        }
    }

    fn hold(&self, delivery: Delivery, from_rest: bool) -> Received {
        let mut held = self.held();
        // One of an earlier consumer does not count towards the present prefetch.
        let consumer = if from_rest { 0 } else { held.consumer };
        held.of_consumer += usize::from(!from_rest);
        held.by_tag.insert(
            delivery.delivery_tag,
            Message {
                payload: delivery.data.clone(),
                properties: delivery.properties.clone(),
                consumer,
            },
        );
        Received {
            receipt: AmqpReceipt {
                generation: self.generation,
                channel: self.channel.id(),
                tag: delivery.delivery_tag,
            },
            payload: delivery.data,
            properties: delivery.properties,
            redelivered: delivery.redelivered,
        }
    }

    /// Whether the delivery of the receipt is held.
    pub(crate) fn holds(&self, receipt: &AmqpReceipt) -> bool {
        self.is_mine(receipt) && self.held().by_tag.contains_key(&receipt.tag)
    }

    /// Takes a delivery to settle it; no other call can then. `None` if it is over.
    pub(crate) fn claim(self: &Arc<Self>, receipt: &AmqpReceipt) -> Option<Claim> {
        if !self.is_mine(receipt) {
            return None;
        }
        let message = self.held().remove(receipt.tag)?;
        self.quiet.notify(usize::MAX);
        Some(Claim {
            source: Arc::clone(self),
            tag: receipt.tag,
            message: Some(message),
        })
    }

    fn is_mine(&self, receipt: &AmqpReceipt) -> bool {
        receipt.generation == self.generation
            && receipt.channel == self.channel.id()
            && self.is_alive()
    }

    /// Cancels the consumer, and takes all that is not settled.
    pub(crate) async fn stop(self: &Arc<Self>) -> Result<Vec<Claim>, BrokerError> {
        let mut intake = self.intake.lock().await;
        self.cancel(&mut intake).await?;
        let mut claims = self.claim_rest(&mut intake);
        let tags: Vec<u64> = self.held().by_tag.keys().copied().collect();
        claims.extend(tags.into_iter().filter_map(|tag| {
            self.claim(&AmqpReceipt {
                generation: self.generation,
                channel: self.channel.id(),
                tag,
            })
        }));
        claims.sort_unstable_by_key(|claim| claim.tag);
        Ok(claims)
    }

    /// Closes the channel. The answer says that the server has seen all settlements before.
    pub(crate) async fn close(&self) -> Result<(), BrokerError> {
        let closed = self.channel.close(200, "OK".into()).await;
        closed.map_err(|cause| error::of_connection(&cause))
    }

    /// Returns once the settlement is written to the socket.
    async fn send(&self, tag: u64, settlement: Settlement) -> lapin::Result<()> {
        match settlement {
            Settlement::Ack => {
                let options = BasicAckOptions::default();
                self.channel.basic_ack(tag, options).await
            }
            Settlement::Reject => {
                let options = BasicRejectOptions { requeue: true };
                self.channel.basic_reject(tag, options).await
            }
            Settlement::Nack => {
                let options = BasicNackOptions {
                    requeue: true,
                    ..BasicNackOptions::default()
                };
                self.channel.basic_nack(tag, options).await
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.quiet.notify(usize::MAX);
    }
}

/// Counts a fetch of a source for as long as it lives.
pub(crate) struct Fetching(Arc<Source>);

impl Drop for Fetching {
    fn drop(&mut self) {
        {
            let mut held = self.0.held();
            held.fetching -= 1;
            held.activity += 1;
        }
        self.0.quiet.notify(usize::MAX);
    }
}

impl Held {
    /// How many deliveries the present consumer can be sent, or has been sent and no fetch has taken.
    fn room(&self) -> usize {
        self.prefetch.saturating_sub(self.of_consumer)
    }

    fn remove(&mut self, tag: u64) -> Option<Message> {
        let message = self.by_tag.remove(&tag)?;
        self.activity += 1;
        self.of_consumer -= usize::from(message.consumer == self.consumer);
        Some(message)
    }

    fn put_back(&mut self, tag: u64, message: Message) {
        self.of_consumer += usize::from(message.consumer == self.consumer);
        self.by_tag.insert(tag, message);
    }
}

/// A delivery that is about to be settled. Dropping it before [`settle`](Self::settle) makes it held
/// again, so a settlement that failed before can be repeated.
pub(crate) struct Claim {
    source: Arc<Source>,
    tag: u64,
    message: Option<Message>,
}

impl Claim {
    pub(crate) fn message(&self) -> &Message {
        self.message
            .as_ref()
            .expect("only `settle` takes it, and that consumes the claim")
    }

    /// Settles the delivery. From its first poll, the claim is used up: a tag that is settled twice
    /// closes the channel.
    pub(crate) async fn settle(mut self, settlement: Settlement) -> Result<(), BrokerError> {
        self.message = None;
        self.source
            .send(self.tag, settlement)
            .await
            .map_err(|cause| error::of_connection(&cause))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(message) = self.message.take() {
            self.source.held().put_back(self.tag, message);
        }
    }
}

/// The prefetch for so many: 0 would mean unlimited.
fn limit(max: usize) -> u16 {
    u16::try_from(max).unwrap_or(u16::MAX).max(1)
}

/// What the end of a consumer means: the deliveries before it, if any; the next call finds no consumer.
fn ended(
    received: Vec<Received>,
    cause: Option<&lapin::Error>,
) -> Poll<Result<Vec<Received>, BrokerError>> {
    Poll::Ready(match cause {
        _ if !received.is_empty() => Ok(received),
        // Not `of_declaration`: the server closes the channel of a consumer that is too slow with the
        // code of wrong arguments.
        Some(cause) => Err(error::unavailable(cause)),
        None => Err(error::unavailable("the server has ended the consumer")),
    })
}
