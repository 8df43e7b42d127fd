//! One connection: its channels, and publishing with confirms.

use brigade::broker::BrokerError;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_lock::Mutex as AsyncMutex;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::uri::AMQPUri;
use lapin::{Channel, Confirmation, Connection, ConnectionProperties};

use crate::error;
use crate::message::{self, Outgoing};
use crate::runtime::{self, LapinRuntime, Socket};
use crate::source::{Claim, Settlement, Source};
use crate::topology::{self, Names};
use crate::{AmqpOptions, wait};

/// How many messages are published before their confirms are awaited. It bounds what lapin buffers.
const WINDOW: usize = 1024;

pub(crate) struct Session {
    pub(crate) generation: u64,
    connection: Connection,
    socket: Socket,
    publishing: Channel,
    pub(crate) jobs: Arc<Source>,
    /// Made when results are first read.
    results: AsyncMutex<Option<Arc<Source>>>,
    /// The delay queues that this session has declared.
    delays: Mutex<HashSet<u32>>,
    names: Arc<Names>,
    options: Arc<AmqpOptions>,
}

impl Session {
    /// Connects and declares the queues. Gives up after the timeout of the options, and once the socket is
    /// shut down.
    pub(crate) async fn open(
        runtime: LapinRuntime,
        socket: Socket,
        uri: AMQPUri,
        names: Arc<Names>,
        options: Arc<AmqpOptions>,
        generation: u64,
    ) -> Result<Self, BrokerError> {
        let guard = ShutDown(Some(socket.clone()));
        let timeout = options.timeout;
        let opening = Self::open_unlimited(runtime, socket, uri, names, options, generation);
        let session =
            wait::within(wait::deadline(timeout), "connecting", Box::pin(opening)).await?;
        guard.disarm();
        Ok(session)
    }

    async fn open_unlimited(
        runtime: LapinRuntime,
        socket: Socket,
        uri: AMQPUri,
        names: Arc<Names>,
        options: Arc<AmqpOptions>,
        generation: u64,
    ) -> Result<Self, BrokerError> {
        let refused = |cause| error::of_connection(&cause);
        // Without lapin's own recovery: with it, one channel would outlive its deliveries, and a
        // receipt would not know.
        let properties =
            ConnectionProperties::default().with_connection_name(options.name.as_str().into());
        let connection = runtime::connect(uri, properties, runtime, socket.clone())
            .await
            .map_err(refused)?;
        let publishing = connection.create_channel().await.map_err(refused)?;
        topology::declare(&publishing, &names, &options).await?;
        publishing
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .map_err(refused)?;
        let consuming = connection.create_channel().await.map_err(refused)?;
        let jobs = Source::new(
            names.jobs.clone(),
            consuming,
            generation,
            options.prefetch,
            options.passive,
        );
        Ok(Self {
            generation,
            connection,
            socket,
            publishing,
            jobs: Arc::new(jobs),
            results: AsyncMutex::default(),
            delays: Mutex::default(),
            names,
            options,
        })
    }

    /// Whether connection and channels are open, as far as is known.
    pub(crate) fn is_alive(&self) -> bool {
        // lapin notices a socket that was shut down after a moment only.
        !self.socket.is_shut_down()
            && self.connection.status().connected()
            && self.publishing.status().connected()
            && self.jobs.is_alive()
            && self
                .results
                .try_lock()
                .is_none_or(|results| results.as_ref().is_none_or(|source| source.is_alive()))
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// A channel for one task, whose failure closes nothing else.
    pub(crate) async fn channel(&self) -> Result<Channel, BrokerError> {
        self.connection
            .create_channel()
            .await
            .map_err(|cause| error::of_connection(&cause))
    }

    /// The consumer of the results.
    pub(crate) async fn results(&self) -> Result<Arc<Source>, BrokerError> {
        let mut results = self.results.lock().await;
        if let Some(source) = &*results {
            return Ok(Arc::clone(source));
        }
        let channel = self.channel().await?;
        let source = Arc::new(Source::new(
            self.names.results.clone(),
            channel,
            self.generation,
            None,
            self.options.passive,
        ));
        *results = Some(Arc::clone(&source));
        Ok(source)
    }

    /// The consumer of the results, if there is one.
    pub(crate) fn results_if_any(&self) -> Option<Arc<Source>> {
        self.results.try_lock()?.clone()
    }

    /// Where a message goes that is to be delayed: queue and expiration. Declares the queue once.
    pub(crate) async fn delay(
        &self,
        delay: Duration,
    ) -> Result<(lapin::types::ShortString, u64), BrokerError> {
        let (queue, milliseconds) = topology::delay_queue(delay);
        let is_known = self.options.passive || self.delays().contains(&queue);
        if !is_known {
            // Declared twice, if two callers meet here, it is declared alike.
            let channel = self.channel().await?;
            topology::declare_delay(&channel, &self.names, queue).await?;
            self.delays().insert(queue);
        }
        Ok((self.names.delay(queue), milliseconds))
    }

    fn delays(&self) -> std::sync::MutexGuard<'_, HashSet<u32>> {
        self.delays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes all messages and waits for their confirms: an outcome for each, in order. The timeout
    /// is for each window of messages.
    ///
    /// A message whose confirm is late may be in its queue. To repeat it on this connection would add a
    /// copy with each attempt, so the connection is given up: the returned guard shuts it down on
    /// drop. Drop it once the originals of the messages that were confirmed are acknowledged.
    pub(crate) async fn publish(
        &self,
        messages: Vec<Outgoing>,
    ) -> (Vec<Result<(), BrokerError>>, ShutDown) {
        let mut outcomes = Vec::with_capacity(messages.len());
        let mut guard = ShutDown(None);
        for window in messages.chunks(WINDOW) {
            let mut publishing = Vec::with_capacity(window.len());
            for message in window {
                publishing.push(self.publish_one(message));
            }
            let published = wait::all(publishing);
            let deadline = wait::deadline(self.options.timeout);
            match wait::until(deadline, published).await {
                Some(published) => outcomes.extend(published),
                None => {
                    // Which of them the server has is unknown, and the rest would wait as long.
                    let rest = messages.len() - outcomes.len();
                    let late = || Err(error::timed_out(self.confirming()));
                    outcomes.extend(std::iter::repeat_with(late).take(rest));
                    guard = ShutDown(Some(self.socket.clone()));
                    break;
                }
            }
        }
        (outcomes, guard)
    }

    fn confirming(&self) -> &'static str {
        if self.connection.status().blocked() {
            "it blocks publishers, because memory or disk run out"
        } else {
            "the confirms of published messages"
        }
    }

    async fn publish_one(&self, message: &Outgoing) -> Result<(), BrokerError> {
        let options = BasicPublishOptions {
            // Returned, not dropped, if there is no such queue.
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let published = self.publishing.basic_publish(
            lapin::types::ShortString::default(),
            message.queue.clone(),
            options,
            &message.payload,
            message.properties.clone(),
        );
        let failed = |cause| error::of_publishing(message.payload.len(), &cause);
        match published.await.map_err(failed)?.await.map_err(failed)? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                let text = returned.reply_text.as_str();
                let queue = message.queue.as_str();
                Err(error::of_return(queue, returned.reply_code, text))
            }
            Confirmation::Nack(None) => {
                Err(error::unavailable("the server could not store the message"))
            }
            Confirmation::NotRequested => Err(error::permanent("the channel confirms nothing")),
        }
    }

    /// Settles deliveries, each after its message was published, if it has one. An outcome for each, in
    /// order; after a failure to publish, the delivery is held again, if the connection is not given up.
    pub(crate) async fn settle(
        &self,
        settlements: Vec<(Claim, Option<Outgoing>, Settlement)>,
    ) -> Vec<Result<(), BrokerError>> {
        let mut claims = Vec::with_capacity(settlements.len());
        let mut messages = Vec::new();
        for (claim, message, settlement) in settlements {
            claims.push((claim, message.is_some(), settlement));
            messages.extend(message);
        }
        let (published, _late) = self.publish(messages).await;
        let mut published = published.into_iter();
        let mut outcomes = Vec::with_capacity(claims.len());
        let mut settling = Vec::with_capacity(claims.len());
        for (at, (claim, has_message, settlement)) in claims.into_iter().enumerate() {
            let stored = if has_message { published.next() } else { None };
            outcomes.push(match stored.unwrap_or(Ok(())) {
                Ok(()) => {
                    settling.push(async move { (at, claim.settle(settlement).await) });
                    Err(error::timed_out("writing a settlement"))
                }
                Err(cause) => Err(cause),
            });
        }
        let deadline = wait::deadline(self.options.timeout);
        let settled = wait::until(deadline, wait::all(settling)).await;
        for (at, outcome) in settled.unwrap_or_default() {
            outcomes[at] = outcome;
        }
        outcomes
    }

    /// What releases a delivery.
    pub(crate) fn release(&self, claim: Claim) -> (Claim, Option<Outgoing>, Settlement) {
        if !self.options.uncounted_release {
            return (claim, None, Settlement::Nack);
        }
        let delivered = claim.message();
        let before = message::delivery_count(&delivered.properties).saturating_sub(1);
        let message = Outgoing {
            queue: self.names.jobs.clone(),
            payload: delivered.payload.clone(),
            properties: message::again(&delivered.properties, before, None),
        };
        (claim, Some(message), Settlement::Ack)
    }

    /// Watches a consumer until it rests, and returns what it was sent.
    pub(crate) async fn watch(session: Weak<Self>, source: Weak<Source>, consumer: u64) {
        while let Some(source) = Source::rest(Weak::clone(&source), consumer).await
            && let Some(session) = session.upgrade()
        {
            match source.pause().await {
                Ok(None) => {}
                Ok(Some(claims)) => return session.give_back(&source, claims).await,
                // The next fetch finds the connection lost.
                Err(_) => return session.shut_down(),
            }
        }
    }

    /// Returns deliveries to their queue.
    async fn give_back(&self, source: &Arc<Source>, claims: Vec<Claim>) {
        let is_job = Arc::ptr_eq(source, &self.jobs);
        let releases = claims.into_iter().map(|claim| {
            if is_job {
                self.release(claim)
            } else {
                (claim, None, Settlement::Nack)
            }
        });
        let outcomes = self.settle(releases.collect()).await;
        if outcomes.iter().any(Result::is_err) {
            // What could not be returned would stay here. The server takes it back with the connection.
            self.shut_down();
        }
    }

    /// Returns what is not settled, and closes channels and connection in this order. Gives up after the
    /// timeout.
    pub(crate) async fn close(&self) -> Result<(), BrokerError> {
        if !self.connection.status().connected() {
            return Ok(());
        }
        let lost = |cause| error::of_connection(&cause);
        let closing = async {
            let results = self.results_if_any();
            let sources = [Some(Arc::clone(&self.jobs)), results];
            let mut outcome = Ok(());
            for source in sources.into_iter().flatten() {
                match source.stop().await {
                    Ok(claims) => self.give_back(&source, claims).await,
                    Err(cause) => outcome = outcome.and(Err(cause)),
                }
                outcome = outcome.and(source.close().await);
            }
            let publishing = self.publishing.close(200, "OK".into()).await.map_err(lost);
            let connection = self.connection.close(200, "OK".into()).await.map_err(lost);
            outcome.and(publishing).and(connection)
        };
        let deadline = wait::deadline(self.options.timeout);
        wait::within(deadline, "closing", Box::pin(closing)).await
    }

    /// Gives the connection up: the server takes its deliveries back.
    pub(crate) fn shut_down(&self) {
        self.socket.shut_down();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Shuts a socket down on drop, if it has one.
#[must_use = "dropping it shuts the socket down"]
pub(crate) struct ShutDown(Option<Socket>);

impl ShutDown {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for ShutDown {
    fn drop(&mut self) {
        if let Some(socket) = self.0.take() {
            socket.shut_down();
        }
    }
}
