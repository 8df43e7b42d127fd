//! The broker: a handle over connections that come and go.
//!
//! There is one connection at a time, a [`Session`], with a number. A call that needs one and finds it
//! lost starts a connection and waits for it:
//!
//! 1. [`Shared::session`] finds the session dead, and makes the link [`Down`](Link::Down).
//! 2. Once its pause is over, it spawns [`Session::open`] on the driver, and the link is
//!    [`Connecting`](Link::Connecting). Dropping the caller does not stop it.
//! 3. [`Shared::opened`] stores the session, or the failure and the next pause, and notifies all callers.
//!
//! Between calls nothing runs: a broker without calls does not connect again.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use async_lock::MutexGuardArc;
use brigade::broker::{
    Ack, Broker, BrokerError, Capabilities, Delivery, JobId, Nack, NewJob, SettleError,
};
use event_listener::Event;
use futures_lite::future;
use lapin::uri::AMQPUri;

use crate::AmqpOptions;
use crate::error;
use crate::message::{self, Outgoing};
use crate::runtime::{Driver, Socket};
use crate::session::Session;
use crate::source::{Claim, Fetching, Intake, Received, Settlement, Source};
use crate::topology::Names;
use crate::wait;

/// A consumer that is younger may not have been sent anything yet, however much is ready.
const YOUTH: Duration = Duration::from_millis(200);

/// A job queue in RabbitMQ. The [crate] says what its operations become.
///
/// Clones share one connection and its deliveries. When the last is dropped without
/// [`close`](Broker::close), the connection is cut: the server takes unsettled deliveries back at once,
/// and counts them as failed. It may do so too with those whose settlement it has not read yet.
#[derive(Clone)]
pub struct AmqpBroker {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    driver: Driver,
    uri: AMQPUri,
    pub(crate) names: Arc<Names>,
    pub(crate) options: Arc<AmqpOptions>,
    state: Mutex<State>,
    /// The link has changed.
    changed: Event,
    /// Closed by the first `close`, which takes the sender.
    closing: Receiver<Infallible>,
    /// Closed when the connection was closed.
    closed: Receiver<Infallible>,
}

struct State {
    link: Link,
    /// The number of the latest connection that was attempted.
    generation: u64,
    /// How many attempts have failed since the last that did not.
    failures: u32,
    /// How many sessions in succession had no consumer that has waited to the end of a fetch, or has
    /// delivered.
    losses: u32,
    /// The number of the latest of them.
    lost: u64,
    /// What the first `close` takes.
    close: Option<Close>,
}

enum Link {
    Open(Arc<Session>),
    /// With the socket that [`Session::open`] has, or will have.
    Connecting(Socket),
    Down {
        cause: BrokerError,
        retry_at: Instant,
    },
    Closed,
}

struct Close {
    /// Dropped at the start of `close`.
    closing: Sender<Infallible>,
    /// Dropped at its end.
    closed: Sender<Infallible>,
}

/// What identifies a delivery: the number of its connection, its channel and its tag there.
///
/// A receipt of a connection that was lost settles nothing, and the server is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AmqpReceipt {
    pub(crate) generation: u64,
    pub(crate) channel: u16,
    pub(crate) tag: u64,
}

impl AmqpBroker {
    /// Connects with the default [options](AmqpOptions).
    ///
    /// # Errors
    ///
    /// As [`AmqpOptions::connect`].
    ///
    /// # Cancel safety
    ///
    /// As [`AmqpOptions::connect`].
    pub async fn connect(url: &str, queue: &str) -> Result<Self, BrokerError> {
        AmqpOptions::new().connect(url, queue).await
    }

    pub(crate) async fn open(
        options: AmqpOptions,
        uri: AMQPUri,
        names: Names,
    ) -> Result<Self, BrokerError> {
        let driver = Driver::start().map_err(BrokerError::unavailable)?;
        let (names, options) = (Arc::new(names), Arc::new(options));
        let first = Session::open(
            driver.runtime(),
            Socket::default(),
            uri.clone(),
            Arc::clone(&names),
            Arc::clone(&options),
            1,
        );
        let session = driver.run(first).await.ok_or(BrokerError::closed())??;
        let (closing_sender, closing) = async_channel::bounded(1);
        let (closed_sender, closed) = async_channel::bounded(1);
        let state = State {
            link: Link::Open(Arc::new(session)),
            generation: 1,
            failures: 0,
            losses: 0,
            lost: 0,
            close: Some(Close {
                closing: closing_sender,
                closed: closed_sender,
            }),
        };
        let shared = Shared {
            driver,
            uri,
            names,
            options,
            state: Mutex::new(state),
            changed: Event::new(),
            closing,
            closed,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    async fn new_job(session: &Session, job: NewJob) -> Result<Outgoing, BrokerError> {
        let properties = message::properties(&job.id)?;
        let mut properties = message::prioritized(properties, job.priority);
        let mut queue = session.names().jobs.clone();
        if !job.delay.is_zero() {
            let (delay_queue, milliseconds) = session.delay(job.delay).await?;
            properties = message::delayed(properties, milliseconds);
            queue = delay_queue;
        }
        Ok(Outgoing {
            queue,
            payload: job.payload,
            properties,
        })
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a call that has no time of its own gives up.
    pub(crate) fn deadline(&self) -> Instant {
        wait::deadline(self.options.timeout)
    }

    /// The session, if it is open. Settlements ask for no other: their deliveries are over with it.
    pub(crate) fn current(&self) -> Option<Arc<Session>> {
        match &self.state().link {
            Link::Open(session) if session.is_alive() => Some(Arc::clone(session)),
            _ => None,
        }
    }

    /// The session; connects again if it is lost. Waits until the deadline.
    pub(crate) async fn session(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<Arc<Session>, BrokerError> {
        let mut last = error::timed_out("connecting");
        loop {
            // Before the state is read, so that no change after it is missed.
            let changed = self.changed.listen();
            let mut wake_at = deadline;
            {
                let mut state = self.state();
                if let Link::Open(session) = &state.link {
                    if session.is_alive() {
                        return Ok(Arc::clone(session));
                    }
                    session.shut_down();
                    state.link = Link::Down {
                        cause: error::unavailable("the connection was lost"),
                        retry_at: self.after_losses(state.losses),
                    };
                }
                match &state.link {
                    Link::Open(_) | Link::Connecting(_) => {}
                    Link::Closed => return Err(BrokerError::closed()),
                    Link::Down { cause, retry_at } => {
                        last = cause.clone();
                        if *retry_at <= Instant::now() {
                            self.reconnect(&mut state);
                        } else if last.is_permanent() {
                            return Err(last);
                        } else {
                            wake_at = deadline.min(*retry_at);
                        }
                    }
                }
            }
            let woken = wait::until(wake_at, changed).await;
            if woken.is_none() && Instant::now() >= deadline {
                return Err(last);
            }
        }
    }

    /// Opens a connection of its own, for calls by which the server closes channels: lapin gives their
    /// numbers up, so that a connection would run out of them.
    pub(crate) async fn inspector(&self) -> Result<Session, BrokerError> {
        let opening = Session::open(
            self.driver.runtime(),
            Socket::default(),
            self.uri.clone(),
            Arc::clone(&self.names),
            Arc::clone(&self.options),
            0,
        );
        let opened = self.driver.run(opening).await;
        opened.unwrap_or_else(|| Err(BrokerError::closed()))
    }

    fn reconnect(self: &Arc<Self>, state: &mut State) {
        let socket = Socket::default();
        state.link = Link::Connecting(socket.clone());
        state.generation += 1;
        let opening = Session::open(
            self.driver.runtime(),
            socket,
            self.uri.clone(),
            Arc::clone(&self.names),
            Arc::clone(&self.options),
            state.generation,
        );
        // Weak, so that an attempt does not keep a broker that was dropped.
        let shared = Arc::downgrade(self);
        drop(self.driver.run(async move {
            let outcome = opening.await;
            if let Some(shared) = shared.upgrade() {
                shared.opened(outcome);
            }
        }));
    }

    fn opened(&self, outcome: Result<Session, BrokerError>) {
        {
            let mut state = self.state();
            if matches!(state.link, Link::Closed) {
                return;
            }
            state.link = match outcome {
                Ok(session) => {
                    state.failures = 0;
                    Link::Open(Arc::new(session))
                }
                Err(cause) => {
                    let pause = self.pause(state.failures);
                    state.failures = state.failures.saturating_add(1);
                    let retry_at = wait::deadline(pause);
                    Link::Down { cause, retry_at }
                }
            };
        }
        self.changed.notify(usize::MAX);
    }

    /// The pause after so many failures before.
    fn pause(&self, failures: u32) -> Duration {
        let factor = 2_u32.saturating_pow(failures);
        let pause = self.options.first_pause.saturating_mul(factor);
        pause.min(self.options.longest_pause)
    }

    /// When to connect again after so many losses in succession: at once if there were none.
    fn after_losses(&self, losses: u32) -> Instant {
        match losses.checked_sub(1) {
            None => Instant::now(),
            Some(before) => wait::deadline(self.pause(before)),
        }
    }

    /// Gives up a session whose consumer has ended or does not start: the next one declares and
    /// consumes anew, after a pause that grows with each loss.
    fn lose(&self, lost: &Arc<Session>, cause: BrokerError) {
        lost.shut_down();
        {
            let mut state = self.state();
            // Several fetches may lose the same session, and another call may have noticed it first.
            if state.lost < lost.generation {
                state.lost = lost.generation;
                state.losses = state.losses.saturating_add(1);
            }
            match &state.link {
                Link::Open(session) if Arc::ptr_eq(session, lost) => {
                    let retry_at = self.after_losses(state.losses);
                    state.link = Link::Down { cause, retry_at };
                }
                _ => return,
            }
        }
        self.changed.notify(usize::MAX);
    }

    /// Receives from a queue, over as many sessions as the deadline allows.
    pub(crate) async fn receive<F>(
        self: &Arc<Self>,
        max: usize,
        wait: Duration,
        source: impl Fn(Arc<Session>) -> F + Send,
    ) -> Result<Vec<Received>, BrokerError>
    where
        F: Future<Output = Result<Arc<Source>, BrokerError>> + Send,
    {
        let deadline = wait::deadline(wait);
        let closed = async {
            // An error says that the channel is closed.
            let _ = self.closing.recv().await;
            Err(BrokerError::closed())
        };
        let received = async {
            loop {
                let session = self.session(deadline).await?;
                if max == 0 {
                    return Ok(Vec::new());
                }
                let received = async {
                    let opening = source(Arc::clone(&session));
                    let opened = wait::within(self.deadline(), "opening a channel", opening);
                    self.receive_from(&session, &opened.await?, max, deadline)
                        .await
                };
                match received.await {
                    Ok(None) => return Ok(Vec::new()),
                    Ok(Some(received)) => {
                        self.state().losses = 0;
                        return Ok(received);
                    }
                    Err(cause) => {
                        self.lose(&session, cause.clone());
                        if cause.is_permanent() || Instant::now() >= deadline {
                            return Err(cause);
                        }
                    }
                }
            }
        };
        // What has arrived comes first.
        future::or(received, closed).await
    }

    /// Receives from a source of a session. `None` if the wait of a clone took all the time, which says
    /// nothing about the session.
    async fn receive_from(
        &self,
        session: &Arc<Session>,
        source: &Arc<Source>,
        max: usize,
        deadline: Instant,
    ) -> Result<Option<Vec<Received>>, BrokerError> {
        let fetching = source.fetching();
        // A clone that waits for deliveries has the lock.
        let Some(mut intake) = wait::until(deadline, source.intake()).await else {
            return Ok(None);
        };
        // Before another consumer is started, whose deliveries would come on top.
        let rest = source.take_rest(&mut intake, max);
        if !rest.is_empty() {
            return Ok(Some(rest));
        }
        if source.can_deliver(&intake, max) {
            drop(intake);
            return source.receive(max, deadline).await.map(Some);
        }
        self.start(session, source, intake, max).await?;
        let grown = Instant::now() + YOUTH;
        if source.has_fixed_prefetch() {
            // Its consumer stays, since what it has delivered counts.
            let received = source.receive(max, deadline.max(grown)).await;
            return received.map(Some);
        }
        let received = source.receive(max, deadline).await?;
        if !received.is_empty() || Instant::now() >= grown {
            return Ok(Some(received));
        }
        let _fetching = self.flush(fetching).await?;
        Ok(Some(source.take_flushed(max)))
    }

    async fn start(
        &self,
        session: &Arc<Session>,
        source: &Arc<Source>,
        mut intake: MutexGuardArc<Intake>,
        max: usize,
    ) -> Result<(), BrokerError> {
        let (session, source) = (Arc::downgrade(session), Arc::clone(source));
        let tasks = self.driver.tasks();
        let start = self.driver.run(async move {
            let consumer = source.start(&mut intake, max).await?;
            tasks.detach(Session::watch(session, Arc::downgrade(&source), consumer));
            Ok(())
        });
        self.completed("starting a consumer", start).await
    }

    /// Makes deliveries that are underway arrive, by [`Source::flush`].
    async fn flush(&self, fetching: Fetching) -> Result<Fetching, BrokerError> {
        let flush = self.driver.run(async move {
            let (fetching, flushed) = Source::flush(fetching).await;
            flushed.map(|()| fetching)
        });
        self.completed("cancelling a consumer", flush).await
    }

    /// The outcome of what the driver runs, which goes on if it is late.
    async fn completed<T>(
        &self,
        what: &str,
        running: impl Future<Output = Option<Result<T, BrokerError>>>,
    ) -> Result<T, BrokerError> {
        let closing = || Err(error::unavailable("the broker is being closed"));
        let outcome = async { running.await.unwrap_or_else(closing) };
        wait::within(self.deadline(), what, outcome).await
    }

    /// Settles deliveries, each after its message was published, if it has one.
    async fn settle(
        &self,
        settlements: Vec<(AmqpReceipt, Settle)>,
    ) -> Vec<Result<(), SettleError>> {
        let Some(session) = self.current() else {
            return settlements
                .iter()
                .map(|_| Err(SettleError::LeaseLost))
                .collect();
        };
        let mut outcomes = Vec::with_capacity(settlements.len());
        let (mut places, mut claimed) = (Vec::new(), Vec::new());
        for (at, (receipt, settle)) in settlements.into_iter().enumerate() {
            outcomes.push(Err(SettleError::LeaseLost));
            let Some(claim) = session.jobs.claim(&receipt) else {
                continue;
            };
            let prepared = self.prepare(&session, claim, settle);
            match wait::within(self.deadline(), "declaring a delay queue", prepared).await {
                Ok(settlement) => {
                    places.push(at);
                    claimed.push(settlement);
                }
                Err(cause) => outcomes[at] = Err(cause.into()),
            }
        }
        for (at, outcome) in places.into_iter().zip(session.settle(claimed).await) {
            outcomes[at] = outcome.map_err(SettleError::from);
        }
        outcomes
    }

    /// The claim, what is published before its settlement, and how it is settled then.
    async fn prepare(
        &self,
        session: &Session,
        claim: Claim,
        settle: Settle,
    ) -> Result<(Claim, Option<Outgoing>, Settlement), BrokerError> {
        let delivered = claim.message();
        let deliveries = message::delivery_count(&delivered.properties);
        let again =
            |reason: String| message::again(&delivered.properties, deliveries, Some(&reason));
        let (queue, properties) = match settle {
            Settle::Ack(Some(result)) if self.options.results => {
                let id = message::job_id(&delivered.properties);
                let message = Outgoing {
                    queue: self.names.results.clone(),
                    payload: result,
                    properties: message::properties(&id)?,
                };
                return Ok((claim, Some(message), Settlement::Ack));
            }
            Settle::Ack(_) => return Ok((claim, None, Settlement::Ack)),
            Settle::Nack(Nack::Release) => return Ok(session.release(claim)),
            Settle::Nack(Nack::Retry { after, reason }) => {
                let Some(after) = after.filter(|after| !after.is_zero()) else {
                    return Ok((claim, None, Settlement::Reject));
                };
                let (queue, milliseconds) = session.delay(after).await?;
                (queue, message::delayed(again(reason), milliseconds))
            }
            Settle::Nack(Nack::DeadLetter { reason }) => (self.names.dead.clone(), again(reason)),
        };
        let message = Outgoing {
            queue,
            payload: delivered.payload.clone(),
            properties,
        };
        Ok((claim, Some(message), Settlement::Ack))
    }
}

enum Settle {
    Ack(Option<Vec<u8>>),
    Nack(Nack),
}

impl Broker for AmqpBroker {
    type Receipt = AmqpReceipt;

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            delay: true,
            delivery_count: true,
            priority: self.shared.options.priority,
            ..Capabilities::default()
        }
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<(), BrokerError> {
        let session = self.shared.session(self.shared.deadline()).await?;
        let mut messages = Vec::with_capacity(jobs.len());
        let making = async {
            for job in jobs {
                messages.push(Self::new_job(&session, job).await?);
            }
            Ok::<(), BrokerError>(())
        };
        wait::within(self.shared.deadline(), "declaring a delay queue", making).await?;
        let (outcomes, _late) = session.publish(messages).await;
        let errors = outcomes.into_iter().filter_map(Result::err);
        // The first permanent one, if there is one: repeating the call is in vain then.
        match errors.min_by_key(|error| !error.is_permanent()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn fetch(
        &self,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery<AmqpReceipt>>, BrokerError> {
        let jobs = |session: Arc<Session>| future::ready(Ok(Arc::clone(&session.jobs)));
        let received = self.shared.receive(max, wait, jobs).await?;
        Ok(received.into_iter().map(delivery).collect())
    }

    async fn ack(&self, receipt: &AmqpReceipt, result: Option<Vec<u8>>) -> Result<(), SettleError> {
        let settlement = (*receipt, Settle::Ack(result));
        one(self.shared.settle(vec![settlement]).await)
    }

    async fn ack_many(&self, acks: Vec<Ack<AmqpReceipt>>) -> Vec<Result<(), SettleError>> {
        let settlements = acks
            .into_iter()
            .map(|ack| (ack.receipt, Settle::Ack(ack.result)))
            .collect();
        self.shared.settle(settlements).await
    }

    async fn nack(&self, receipt: &AmqpReceipt, nack: Nack) -> Result<(), SettleError> {
        one(self
            .shared
            .settle(vec![(*receipt, Settle::Nack(nack))])
            .await)
    }

    async fn extend(&self, receipt: &AmqpReceipt, _by: Duration) -> Result<(), SettleError> {
        match self.shared.current() {
            Some(session) if session.jobs.holds(receipt) => Ok(()),
            _ => Err(SettleError::LeaseLost),
        }
    }

    async fn close(&self) -> Result<(), BrokerError> {
        let shared = &self.shared;
        let first = {
            let mut state = shared.state();
            let link = std::mem::replace(&mut state.link, Link::Closed);
            state.close.take().map(|close| (close, link))
        };
        let mut outcome = Ok(());
        if let Some((close, link)) = first {
            close.closing.close();
            shared.changed.notify(usize::MAX);
            let closing = shared.driver.run(async move {
                let _closed = close.closed;
                match link {
                    Link::Open(session) => session.close().await,
                    Link::Connecting(socket) => {
                        socket.shut_down();
                        Ok(())
                    }
                    Link::Down { .. } | Link::Closed => Ok(()),
                }
            });
            outcome = closing.await.unwrap_or(Ok(()));
        }
        // Another call may be closing the connection. An error says that it has.
        let _ = shared.closed.recv().await;
        shared.driver.stop().await;
        outcome
    }
}

impl fmt::Debug for AmqpBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpBroker")
            .field("queue", &self.shared.names.jobs.as_str())
            .finish_non_exhaustive()
    }
}

fn delivery(received: Received) -> Delivery<AmqpReceipt> {
    let id: JobId = message::job_id(&received.properties);
    let count = message::delivery_count(&received.properties);
    let mut delivery = Delivery::new(id, received.payload, received.receipt);
    delivery.delivery_count = Some(count);
    delivery.lost_count = Some(message::lost_count(&received.properties));
    delivery.redelivered =
        received.redelivered || count > 1 || message::is_repeated(&received.properties);
    delivery
}

/// The outcome of the one settlement.
fn one(outcomes: Vec<Result<(), SettleError>>) -> Result<(), SettleError> {
    outcomes.into_iter().next().unwrap_or(Ok(()))
}
