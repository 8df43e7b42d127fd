//! RabbitMQ as the queue in front of a [`brigade`] pool.
//!
//! **Deliveries are at least once, and acknowledged late**: a job is acknowledged after its result is
//! stored, and not when it is delivered. So no job is lost with a process, a connection or a node, and any
//! job may run twice. A handler has to be idempotent; the [`JobId`](brigade::broker::JobId), which is the
//! message id, is its key.
//!
//! [`AmqpBroker`] implements [`Broker`](brigade::broker::Broker) over quorum queues, by way of
//! [lapin](https://docs.rs/lapin), without tokio. lapin runs on a thread of its own, not on the executor
//! that runs jobs: a job that blocks there would stop the heartbeats, and with them the connection. The
//! futures of this crate run on any executor.
//!
//! # Examples
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use brigade::broker::{Broker, BrokerError, Nack, NewJob, SettleError};
//! use brigade_amqp::AmqpBroker;
//!
//! # fn run(payload: &[u8]) -> Result<Vec<u8>, String> { Ok(payload.to_vec()) }
//! # async fn example() -> Result<(), BrokerError> {
//! let broker = AmqpBroker::connect("amqp://guest:guest@localhost/%2f", "thumbnails").await?;
//! broker.enqueue(vec![NewJob::new("picture 1", "cat.jpg")]).await?;
//!
//! for delivery in broker.fetch(10, Duration::from_secs(5)).await? {
//!     let settled = match run(&delivery.payload) {
//!         Ok(result) => broker.ack(&delivery.receipt, Some(result)).await,
//!         Err(reason) => {
//!             let after = Some(Duration::from_secs(30));
//!             broker.nack(&delivery.receipt, Nack::Retry { after, reason }).await
//!         }
//!     };
//!     match settled {
//!         // The job runs again elsewhere, and so its outcome here is dropped.
//!         Ok(()) | Err(SettleError::LeaseLost) => {}
//!         Err(error) => eprintln!("{}: {error}", delivery.job_id),
//!     }
//! }
//! broker.close().await
//! # }
//! ```
//!
//! # What becomes of what
//!
//! | here | in RabbitMQ |
//! |---|---|
//! | a queue `NAME` | quorum queues `NAME`, `NAME.dead`, `NAME.results`, and `NAME.delay.0` to `NAME.delay.23` when they are needed; all durable, on the default exchange |
//! | `enqueue` | `basic.publish` of all jobs, mandatory and persistent, and then their confirms; a returned message is a permanent error |
//! | a job's id, payload, priority | message id (at most 255 bytes), content, priority (0: normal, others: high; from 4.0) |
//! | a job's delay | a message in a delay queue, with an expiration; it expires into `NAME` |
//! | `fetch` | a consumer with manual acknowledgement, whose prefetch follows what is asked for |
//! | a receipt | number of the connection, channel, delivery tag |
//! | `delivery_count` | `x-delivery-count`, one, and the deliveries before the message was published again (header `x-brigade-deliveries`) |
//! | the lease | the connection; `extend` does nothing, and the server's consumer timeout cannot be extended |
//! | `ack` with a result | a message in `NAME.results` with the id of the job, its confirm, and then `basic.ack` |
//! | `Nack::Retry` at once | `basic.reject` with requeue, which counts on all servers; `basic.nack` does not from 4.3 |
//! | `Nack::Retry` after a time | a copy in a delay queue, its confirm, and then `basic.ack` |
//! | `Nack::Release` | published again with its counts, and the original acknowledged; or `basic.nack` with requeue, as [`uncounted_release`](AmqpOptions::uncounted_release) says |
//! | `Nack::DeadLetter` | a copy in `NAME.dead` with the header `x-brigade-reason` (its first 2,048 bytes), its confirm, and then `basic.ack` |
//! | what exceeds the delivery limit | dead-lettered to `NAME.dead` by the server, at least once |
//! | `close` | `basic.cancel`, what `Nack::Release` becomes for each job that is not settled, `basic.nack` with requeue of results, `channel.close`, `connection.close` |
//!
//! A message of another producer is a job too: its message id is the job's id, which is empty if it has
//! none. Its headers and properties are kept by retries and dead letters.
//!
//! # Delays
//!
//! A delay is rounded up to milliseconds, and is 49 days at most. Messages of a queue expire at its head
//! only, so there is a queue for each power of two: `NAME.delay.0` for less than a second, `NAME.delay.k`
//! for 2^(k-1) seconds up to 2^k. A job waits for its own delay at least. Behind others of the same queue, it
//! waits for less than twice its delay; below a second, for less than a second.
//!
//! # What to know
//!
//! - **Results may come twice.** The result is stored first, and the acknowledgement is on its way then:
//!   if the connection is lost before the server has read it, the job is delivered and done again. A
//!   reader of results keeps one for each job id. [`fetch_results`](AmqpBroker::fetch_results) reserves them, and
//!   [`ack_results`](AmqpBroker::ack_results) removes them once they are kept elsewhere.
//! - **A job may be in its queues twice.** `Nack::Retry` after a time, `Nack::DeadLetter` and, unless
//!   [`uncounted_release`](AmqpOptions::uncounted_release) is off, `Nack::Release` publish a copy of the job
//!   first and acknowledge the original then. If the process or the connection is lost in between, both
//!   stay: the *job* is there twice, not only a delivery, and the copies are retried and dead-lettered
//!   independently. What `close` and a handle that does not fetch return is released likewise.
//! - **A successful settlement is written, not confirmed.** AMQP confirms messages, not acknowledgements.
//! - **Consumer timeout.** A server takes back what a consumer has not settled for 30 minutes, and closes
//!   its channel (from 4.3, the queue does it). Set [`consumer_timeout`](AmqpOptions::consumer_timeout)
//!   for longer jobs, and on servers before 3.11.15 their configuration.
//! - **Delivery limit.** A queue with the limit n delivers a message n + 1 times.
//!   [`delivery_limit`](AmqpOptions::delivery_limit) is the backstop for jobs that end their process, which
//!   no consumer lives to dead-letter with a reason; a server from 4.0 would have a limit of 20 without it. The server
//!   compares its `x-delivery-count`, not `delivery_count`, and a message that is published again starts at
//!   0: after a release or a delayed retry, the limit counts anew.
//! - **Counts are upper bounds before 4.3.** There, whatever goes back to the queue without being published
//!   again counts, although its job was not tried: what was pushed to a handle that is dropped or loses its
//!   connection and no `fetch` has returned, what is underway to a consumer that is cancelled, and, with
//!   `uncounted_release` off, each release and what `close` returns.
//! - **Prefetch.** What is unsettled is what a crash delivers again, and what other processes cannot have.
//!   It is at most the prefetch of the present consumer, and what earlier consumers delivered. A consumer
//!   starts with the `max` of the fetch that needs it as its prefetch: with what is held, no more are
//!   unsettled than [`fetch`](brigade::broker::Broker::fetch) allows. It stays while it has room for the
//!   fetches that follow, and is replaced when it has not. From the second replacement of a connection on,
//!   the prefetch of the next is the sum of `max` and what is held at that time. What is held still does
//!   not count towards it: until it is settled, `max` and twice as many as were held may be unsettled,
//!   which is more than `fetch` allows. The option [`prefetch`](AmqpOptions::prefetch) rules these
//!   replacements out. What the server has pushed to a handle that does not fetch for 100 milliseconds is
//!   returned.
//! - **Short fetches.** A fetch that has to start a consumer and gets nothing within 200 milliseconds
//!   cancels it at its end, which makes arrive what it was sent: so a caller that looks in from time to
//!   time, with a `wait` of zero, finds what is ready, unless a clone fetches too. With the option
//!   [`prefetch`](AmqpOptions::prefetch) such a fetch takes 200 milliseconds instead. In a cluster, a
//!   replica that lags may deliver later than that: then wait for longer.
//! - **Arguments of a queue never change.** Connecting with another limit or timeout is a permanent error
//!   that names the queue. [`passive`](AmqpOptions::passive) takes the queues as they are.
//! - **Alarms.** A server that is short of memory or disk blocks the connection: publishing, and with it
//!   settling, fails after the [`timeout`](AmqpOptions::timeout), and works again after the alarm. Whether
//!   a message was stored whose confirm is late is unknown, so the connection is given up, and its receipts
//!   are over: to publish again on it would add a copy with each attempt.
//! - **Messages that are too large** for the server (`max_message_size`) are a permanent error. The server
//!   closes the channel over one, so the connection is lost for the other calls too.
//! - **Lost connections.** The next call connects again, with growing pauses, and declares the queues. Until
//!   then, `fetch` waits for as long as it may, and other calls for the timeout; then they fail. What was
//!   delivered before is over: its receipts yield [`LeaseLost`](brigade::broker::SettleError::LeaseLost).
//! - **Payloads are held twice**, by the caller and for a retry or a dead letter, until they are settled.
//!
//! # Features
//!
//! | feature | effect | without it |
//! |---|---|---|
//! | `tls` | `amqps://`, with rustls, ring and the certificates that the system trusts | such a URL is a permanent error |
#![forbid(unsafe_code)]

mod broker;
mod error;
mod message;
mod operate;
mod options;
mod runtime;
mod session;
mod source;
mod topology;
mod wait;

pub use broker::{AmqpBroker, AmqpReceipt};
pub use operate::{Counts, StoredResult};
pub use options::AmqpOptions;
