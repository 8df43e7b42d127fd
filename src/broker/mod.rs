//! Jobs from a durable queue: the same pool and the same handler, for more than one process.
//!
//! A *broker* keeps jobs outside of the process: [`serve`] fetches deliveries from a [`Broker`],
//! makes each a job of a [`Pool`](crate::Pool), and settles it after its outcome. Any number of
//! processes may do so with one queue. **Deliveries are at least once**: a process that dies, or
//! that loses its connection or its lease, leaves its deliveries to others, which run them again.
//! So a handler has to be idempotent; the [`JobId`], which the producer makes, is its key.
//!
//! ```text
//!  enqueue ─► broker ─► fetch ─► serve ─► pool ─► outcome ─► serve ─► ack, with the result
//!               ▲                  │                           └────► nack: retry · release · dead-letter
//!               └───── extend ─────┘  leases of jobs that wait or run
//! ```
//!
//! [`MemoryBroker`] is the reference, within one process. Adapters for real queues live in crates
//! of their own: `brigade-sqlite` for the processes of one machine, `brigade-amqp` for RabbitMQ.
//! With the feature `testing`, the module `conformance` has the rules of this page as a suite of
//! tests, for adapters of your own.
//!
//! # The rules of a broker
//!
//! 1. What [`enqueue`](Broker::enqueue) has accepted is durable; after an error, whether it is in
//!    the queue is unknown, and the same jobs may be enqueued again.
//! 2. A delivery is held by one consumer at a time, until it is settled, its lease ends or its
//!    connection is lost. Then it is delivered again, with a greater
//!    [`delivery_count`](Delivery::delivery_count).
//! 3. A receipt stands for one *delivery*, not for its job. Settling with one whose delivery is
//!    over changes nothing and yields [`SettleError::LeaseLost`]: it is a fencing token. A delivery
//!    whose lease has ended is over once its job is delivered again; until then it may still be
//!    settled.
//! 4. The result is stored before the delivery is acknowledged, or in the same transaction.
//! 5. [`Nack::Retry`] counts as a delivery, [`Nack::Release`] does not, and
//!    [`Nack::DeadLetter`] keeps job and reason for inspection.
//! 6. A future of a broker may be dropped at any await. A dropped [`fetch`](Broker::fetch) loses no
//!    delivery and keeps none from other consumers beyond its lease; whether a dropped settlement
//!    has happened is unknown.
//! 7. [`close`](Broker::close) returns what was not settled.

#[cfg(feature = "testing")]
pub mod conformance;
mod memory;
mod serve;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use self::memory::{MemoryBroker, MemoryCounts, MemoryReceipt};
pub use self::serve::{
    OnFailure, RetryLater, ServeError, ServeOptions, ServeReport, Settlement, serve,
};

/// A durable queue of jobs. The [module](self) has the rules that an implementation keeps.
pub trait Broker: Send + Sync + 'static {
    /// The receipt of a delivery: what settles it, and nothing else. A fencing token, so a clone
    /// settles the same delivery.
    type Receipt: Clone + Send + Sync + 'static;

    /// What this broker can do beyond the rules.
    fn capabilities(&self) -> Capabilities;

    /// Adds jobs to the queue. Returns once they are durable.
    ///
    /// # Errors
    ///
    /// After an error, it is unknown which of the jobs are in the queue. Enqueue them again with
    /// the same [`JobId`]s: a broker with [`dedup`](Capabilities::dedup) ignores those that it
    /// knows; with another, they may run twice.
    fn enqueue(&self, jobs: Vec<NewJob>) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// Reserves up to `max` jobs; waits for the first of them, at most `wait`. Empty if none came.
    /// With a `wait` of zero, jobs that are ready are found too, if not by the first call.
    ///
    /// The deliveries that this consumer has not settled are never more than those that it held
    /// before, and `max`. A broker to which jobs are pushed may reserve so many ahead of the next
    /// fetch; it gives them back when none comes for half a second.
    ///
    /// # Errors
    ///
    /// [`BrokerError::is_closed`] after [`close`](Self::close). An error that is not
    /// [permanent](BrokerError::is_permanent) may end by itself; a later call finds out.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no job. What it had reserved is delivered again, after its lease
    /// at the latest.
    fn fetch(
        &self,
        max: usize,
        wait: Duration,
    ) -> impl Future<Output = Result<Vec<Delivery<Self::Receipt>>, BrokerError>> + Send;

    /// Settles a delivery whose job is done: stores the result, if there is one, and then removes
    /// the job from the queue; in one transaction with
    /// [`atomic_result`](Capabilities::atomic_result).
    ///
    /// # Errors
    ///
    /// [`SettleError::LeaseLost`]: the delivery is over, and another consumer may have the job.
    /// With `atomic_result` the result was not stored. After [`SettleError::Broker`], whether it
    /// was settled is unknown; the call may be repeated.
    fn ack(
        &self,
        receipt: &Self::Receipt,
        result: Option<Vec<u8>>,
    ) -> impl Future<Output = Result<(), SettleError>> + Send;

    /// Settles several deliveries, each as by [`ack`](Self::ack), and returns as many outcomes in
    /// their order. A broker for which one transaction is cheaper than many overrides this.
    fn ack_many(
        &self,
        acks: Vec<Ack<Self::Receipt>>,
    ) -> impl Future<Output = Vec<Result<(), SettleError>>> + Send {
        async move {
            let mut outcomes = Vec::with_capacity(acks.len());
            for ack in acks {
                outcomes.push(self.ack(&ack.receipt, ack.result).await);
            }
            outcomes
        }
    }

    /// Settles a delivery whose job is not done; [`Nack`] says what becomes of the job.
    ///
    /// # Errors
    ///
    /// As [`ack`](Self::ack).
    fn nack(
        &self,
        receipt: &Self::Receipt,
        nack: Nack,
    ) -> impl Future<Output = Result<(), SettleError>> + Send;

    /// Makes the lease of a delivery end `by` from now, as a heartbeat. Does nothing where the
    /// lease is the connection.
    ///
    /// # Errors
    ///
    /// [`SettleError::LeaseLost`] if the delivery is over.
    fn extend(
        &self,
        receipt: &Self::Receipt,
        by: Duration,
    ) -> impl Future<Output = Result<(), SettleError>> + Send;

    /// Extends several leases, each as by [`extend`](Self::extend), and returns as many outcomes in
    /// their order.
    fn extend_many(
        &self,
        receipts: Vec<Self::Receipt>,
        by: Duration,
    ) -> impl Future<Output = Vec<Result<(), SettleError>>> + Send {
        async move {
            let mut outcomes = Vec::with_capacity(receipts.len());
            for receipt in receipts {
                outcomes.push(self.extend(&receipt, by).await);
            }
            outcomes
        }
    }

    /// Stops fetching, returns the deliveries that this consumer has not settled, and closes the
    /// connection. Settle what is to be settled before. Closing again does nothing.
    fn close(&self) -> impl Future<Output = Result<(), BrokerError>> + Send;
}

/// The identity of a job in a broker, made by its producer: the key for idempotent handlers and for
/// results.
///
/// Not the [`brigade::JobId`](crate::JobId), which is a number within one pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(String);

impl JobId {
    /// Takes an id that is unique within its queue.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for JobId {
    fn from(id: &str) -> Self {
        Self::new(id)
    }
}

impl From<String> for JobId {
    fn from(id: String) -> Self {
        Self(id)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A job for [`Broker::enqueue`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewJob {
    /// Its identity.
    pub id: JobId,
    /// What its input is made of.
    pub payload: Vec<u8>,
    /// Jobs of a greater priority are fetched first, where the broker has
    /// [`priority`](Capabilities::priority). The default is 0.
    pub priority: u8,
    /// Not fetched before this time after the enqueueing, where the broker has
    /// [`delay`](Capabilities::delay). The default is none.
    pub delay: Duration,
}

impl NewJob {
    /// Makes a job of priority 0 and without a delay.
    pub fn new(id: impl Into<JobId>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            id: id.into(),
            payload: payload.into(),
            priority: 0,
            delay: Duration::ZERO,
        }
    }

    /// Sets the priority.
    #[must_use]
    pub const fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the delay.
    #[must_use]
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// A job that this consumer holds until it is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery<R> {
    /// The identity of the job.
    pub job_id: JobId,
    /// What its input is made of.
    pub payload: Vec<u8>,
    /// How many times the job was delivered, this time included and those that were
    /// [released](Nack::Release) not; `None` where the broker does not count.
    pub delivery_count: Option<u32>,
    /// Of these, those that ended without being settled: their consumer died, or lost its lease or
    /// its connection. A broker that cannot tell may count those that were released or retried
    /// without a delay too. `None` where it does not count.
    pub lost_count: Option<u32>,
    /// Whether the job may have been delivered before.
    pub redelivered: bool,
    /// After what time without an [extension](Broker::extend) the delivery is over, counted from
    /// its reservation. `None` where it lasts as long as the connection.
    pub lease: Option<Duration>,
    /// What settles the delivery. If it is dropped, the delivery is over with its lease or
    /// connection.
    pub receipt: R,
}

impl<R> Delivery<R> {
    /// Makes a first delivery without count and lease, whose fields can then be set.
    pub fn new(job_id: JobId, payload: Vec<u8>, receipt: R) -> Self {
        Self {
            job_id,
            payload,
            delivery_count: None,
            lost_count: None,
            redelivered: false,
            lease: None,
            receipt,
        }
    }
}

/// One settlement of [`Broker::ack_many`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack<R> {
    /// The receipt of the delivery.
    pub receipt: R,
    /// The result to be stored.
    pub result: Option<Vec<u8>>,
}

/// What becomes of a job that was delivered and not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nack {
    /// An attempt has failed: delivers the job again, not before `after`, where the broker has
    /// [`delay`](Capabilities::delay). It counts as a delivery.
    Retry {
        /// The least time until the next delivery; `None`: none.
        after: Option<Duration>,
        /// Why it has failed.
        reason: String,
    },
    /// The delivery came to no outcome, for instance at a shutdown: delivers the job again, as if
    /// it had not been delivered.
    Release,
    /// The job is not to be tried again: takes it out of the queue, and keeps it with the reason.
    DeadLetter {
        /// Why.
        reason: String,
    },
}

/// A job that was taken out of the queue because it could not be done; kept for inspection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The identity of the job.
    pub job_id: JobId,
    /// What its input is made of.
    pub payload: Vec<u8>,
    /// Why it could not be done.
    pub reason: String,
}

impl DeadLetter {
    /// Makes one, for brokers.
    pub const fn new(job_id: JobId, payload: Vec<u8>, reason: String) -> Self {
        Self {
            job_id,
            payload,
            reason,
        }
    }
}

/// What a broker can do beyond the rules of the [module](self). The default is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// A delivery has a lease of its own, which ends unless it is extended. Otherwise it lasts as
    /// long as the connection.
    pub lease: bool,
    /// [`NewJob::delay`] and the time of [`Nack::Retry`] are kept.
    pub delay: bool,
    /// [`NewJob::priority`] is kept.
    pub priority: bool,
    /// Result and acknowledgement are one transaction: a job has one result at most, and one whose
    /// lease was lost stores none.
    pub atomic_result: bool,
    /// A job whose id the broker knows is not enqueued again.
    pub dedup: bool,
    /// [`Delivery::delivery_count`] and [`Delivery::lost_count`] are known.
    pub delivery_count: bool,
}

/// Why a broker could not do what it was asked.
///
/// # Examples
///
/// ```
/// use brigade::broker::BrokerError;
///
/// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
/// let error = BrokerError::unavailable(refused);
/// assert!(!error.is_permanent());
/// assert_eq!(error.to_string(), "the broker failed: connection refused");
/// ```
#[derive(Debug, Clone)]
pub struct BrokerError {
    kind: Kind,
    /// Shared: one failed transaction is the error of each of its settlements.
    source: Option<Arc<dyn Error + Send + Sync>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unavailable,
    Permanent,
    Closed,
}

impl BrokerError {
    /// An error that may end by itself, such as a lost connection.
    pub fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind: Kind::Unavailable,
            source: Some(Arc::from(source.into())),
        }
    }

    /// An error that a repetition does not mend, such as a queue of another type.
    pub fn permanent(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind: Kind::Permanent,
            source: Some(Arc::from(source.into())),
        }
    }

    /// The broker was closed.
    pub const fn closed() -> Self {
        Self {
            kind: Kind::Closed,
            source: None,
        }
    }

    /// Whether repeating the call is in vain.
    pub const fn is_permanent(&self) -> bool {
        matches!(self.kind, Kind::Permanent | Kind::Closed)
    }

    /// Whether the broker was closed.
    pub const fn is_closed(&self) -> bool {
        matches!(self.kind, Kind::Closed)
    }
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::Unavailable => "the broker failed",
            Kind::Permanent => "the broker refuses",
            Kind::Closed => "the broker is closed",
        };
        match &self.source {
            Some(source) => write!(f, "{what}: {source}"),
            None => f.write_str(what),
        }
    }
}

impl Error for BrokerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The message has the source's own already, so the chain continues below it.
        self.source.as_ref().and_then(|source| source.source())
    }
}

/// Why a delivery was not settled.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SettleError {
    /// The delivery is over: another consumer may have the job, and nothing was changed.
    LeaseLost,
    /// The broker failed; whether the delivery was settled is unknown.
    Broker(BrokerError),
}

impl SettleError {
    /// Whether the delivery was over.
    pub const fn is_lease_lost(&self) -> bool {
        matches!(self, Self::LeaseLost)
    }
}

impl From<BrokerError> for SettleError {
    fn from(error: BrokerError) -> Self {
        Self::Broker(error)
    }
}

impl fmt::Display for SettleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaseLost => {
                f.write_str("the delivery is over, and its job may be with another consumer")
            }
            Self::Broker(error) => error.fmt(f),
        }
    }
}

impl Error for SettleError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::LeaseLost => None,
            Self::Broker(error) => error.source(),
        }
    }
}
