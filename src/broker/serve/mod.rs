//! Serves a broker with a pool: each delivery becomes a job, and is settled after its outcome.
//!
//! In: a [`Broker`], a [`Pool`], and how payloads become inputs and values become results. Out: a
//! [`ServeReport`] whose counts add up. It never runs a handler itself, and never settles a
//! delivery before its job has an outcome.
//!
//! Four futures, polled by one task:
//!
//! 1. `fetch` fills the room under the prefetch: it reserves deliveries, decodes them, and sends
//!    their inputs to the map. It ends first: by the stop, an error, or an empty queue. A
//!    *suspect*, a job whose deliveries were lost before, it runs while nothing else is held, so
//!    that a job that ends its process takes no others with it.
//! 2. `run` maps the inputs to completions, and sends a settlement for each. Once `fetch` has
//!    ended, it cancels what has not started. Then what is still held is released.
//! 3. `settle` takes all settlements that wait, settles them together, and makes room.
//! 4. `renew` extends the leases of all that is held, at a third of the lease.

mod held;
mod options;
mod report;
mod settle;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::future;

use self::held::{Held, Ticket};
use self::options::Settings;
pub use self::options::{OnFailure, RetryLater, ServeOptions, Settlement};
pub use self::report::{ServeError, ServeReport};
use self::settle::Pending;
use super::{Broker, BrokerError, Delivery, JobId, Nack, SettleError};
use crate::error::JobError;
use crate::job::completion::Completion;
use crate::panic;
use crate::pool::Pool;
use crate::rt::Timer;
use crate::sync::ignore_poison;

/// Runs the jobs of a broker in a pool, until it is [stopped](ServeOptions::until).
///
/// At most the [prefetch](ServeOptions::prefetch) is held at once. Each delivery becomes a job,
/// with the limits, retries and time-outs of the pool. After its outcome it is settled: a value is
/// encoded and acknowledged, late, together with its result; a failure is retried, later and by
/// whichever consumer is free, or dead-lettered. Leases are extended while their jobs wait or run.
///
/// If the broker fails, fetching is repeated after 0.1 seconds, then 0.2, at most 30. Settlements
/// that wait are made together, and tried 8 times, within 13 seconds and the time that 8 calls
/// take. What cannot be settled is delivered again by the broker. A job whose result can never be
/// stored, for instance since it is too large, is dead-lettered.
///
/// A job that ends its process takes with it what else is held there. So a job of which two
/// deliveries were [lost](Delivery::lost_count) runs alone from then on: what else is held is
/// settled first, and nothing is fetched until it is settled itself. Where deliveries have no
/// lease, half a second passes before, in which the broker takes back what it has reserved ahead.
///
/// If the pool is closed or aborted, or its workers are dropped, or if this is a job of the same
/// pool that could wait forever, what has not ended is released, and `serve` returns.
///
/// A handler that blocks the thread of this future keeps leases from being extended.
///
/// # Errors
///
/// [`ServeError`] after a [permanent](BrokerError::is_permanent) error of a fetch or a settlement,
/// for instance since the broker was closed. What ran is finished, and settled as far as that is
/// possible.
///
/// # Panics
///
/// If the jobs of the pool may add jobs
/// ([`build_with_submitter`](crate::Builder::build_with_submitter)): these would have no delivery.
///
/// # Cancel safety
///
/// If the future is dropped, its jobs are cancelled and nothing more is settled: all that was held
/// is delivered again once its leases end, or the broker is closed. Use
/// [`until`](ServeOptions::until) to stop without that.
///
/// # Examples
///
/// ```
/// use brigade::broker::{Broker, MemoryBroker, NewJob, ServeOptions, serve};
/// use brigade::{ManualTimer, Pool};
/// use futures_lite::future;
///
/// let clock = ManualTimer::new();
/// let broker = MemoryBroker::new(clock.clone());
/// let (pool, workers) = Pool::builder()
///     .workers(2)
///     .timer(clock.clone())
///     .build(|text: String| async move { text.parse::<u32>().map(|n| n * 2) });
/// let options = ServeOptions::new(
///     |_, payload| String::from_utf8(payload),
///     |_, value: u32| Some(value.to_string().into_bytes()),
/// );
/// let report = future::block_on(clock.run(workers.drive(async {
///     let jobs = vec![NewJob::new("a", "1"), NewJob::new("b", "2"), NewJob::new("c", "three")];
///     broker.enqueue(jobs).await.unwrap();
///     serve(&broker, &pool, options.max_deliveries(1).until_empty()).await
/// })))
/// .unwrap();
/// assert_eq!((report.fetched, report.acked, report.dead_lettered), (3, 2, 1));
/// assert_eq!(broker.results(), [("a".into(), b"2".to_vec()), ("b".into(), b"4".to_vec())]);
/// assert_eq!(broker.dead_letters()[0].reason, "invalid digit found in string");
/// ```
pub async fn serve<B, In, T, E, Decode, Reason, Encode, Failed>(
    broker: &B,
    pool: &Pool<In, T, E>,
    options: ServeOptions<'_, Decode, Encode, Failed>,
) -> Result<ServeReport, ServeError>
where
    B: Broker,
    Decode: Fn(&JobId, Vec<u8>) -> Result<In, Reason>,
    Reason: fmt::Display,
    Encode: Fn(&JobId, T) -> Option<Vec<u8>>,
    Failed: OnFailure<E>,
{
    let shared = pool.shared();
    assert!(
        !shared.adds_jobs,
        "serve needs a pool whose jobs add none, got one of build_with_submitter"
    );
    let ServeOptions { settings, stop } = options;
    let prefetch = settings.prefetch.unwrap_or(shared.slot_count());
    // Unbounded, but each holds at most `prefetch` messages: one for each delivery that is held.
    let (input_sender, inputs) = async_channel::unbounded();
    let (settlement_sender, settlements) = async_channel::unbounded();
    let (freed_sender, freed) = async_channel::bounded(1);
    let (shorter_sender, shorter) = async_channel::bounded(1);
    let (failed_sender, failed) = async_channel::bounded(1);
    let serving = Serving {
        broker,
        timer: &*shared.timer,
        prefetch,
        settings,
        held: Mutex::new(Held::default()),
        error: Mutex::new(None),
        settlements: settlement_sender,
        freed: freed_sender,
        shorter: shorter_sender,
        failed: failed_sender,
    };
    let serving = &serving;
    let error = {
        // Closed once nothing more is fetched, and once the map has ended.
        let (end, ended) = async_channel::bounded::<()>(1);
        // In boxes, so that the future of `serve` is small.
        let fetch = Box::pin(async {
            let fetching = serving.fetch(input_sender, freed);
            let stopped = future::or(stop, async {
                let failed = async { failed.recv().await.ok() };
                future::or(failed, async { ended.recv().await.ok() }).await;
            });
            let stopped = async {
                stopped.await;
                None
            };
            // The stop first: once it is there, nothing more is fetched.
            let error = future::or(stopped, fetching).await;
            end.close();
            error
        });
        let run = Box::pin(async {
            serving.run(pool, inputs, &ended).await;
            end.close();
        });
        let work = async {
            let (error, ()) = future::zip(fetch, run).await;
            serving.release_held();
            serving.settlements.close();
            error
        };
        let settle = Box::pin(serving.settle(settlements));
        let settled = async { future::zip(work, settle).await.0 };
        let renew = Box::pin(async {
            serving.renew(shorter).await;
            future::pending().await
        });
        future::or(settled, renew).await
    };
    let report = serving.held().report;
    let settling = ignore_poison(serving.error.lock()).take();
    match error.or(settling) {
        None => Ok(report),
        Some(error) => Err(ServeError { report, error }),
    }
}

/// What the four futures share.
struct Serving<'a, B: Broker, Decode, Encode, Failed> {
    broker: &'a B,
    timer: &'a dyn Timer,
    prefetch: usize,
    settings: Settings<'a, Decode, Encode, Failed>,
    held: Mutex<Held<B::Receipt>>,
    settlements: Sender<Pending<B::Receipt>>,
    /// Told when there is room under the prefetch.
    freed: Sender<()>,
    /// Told of a lease that is shorter than all before.
    shorter: Sender<()>,
    /// Closed by a permanent error of a settlement.
    failed: Sender<()>,
    error: Mutex<Option<BrokerError>>,
}

/// A job is a suspect if so many of its deliveries were lost.
const SUSPECT: u32 = 2;

/// A broker without leases gives back what it has reserved ahead of the next fetch when none comes
/// for this long.
const AHEAD: Duration = Duration::from_millis(500);

/// The least time between two extensions of leases: so a lease of no time does not busy the task.
const SHORTEST_ROUND: Duration = Duration::from_millis(1);

/// The least time between two fetches that find nothing, unless a delivery is settled in between.
const SHORTEST_FETCH: Duration = Duration::from_millis(10);

/// The pause after a failed call, by the number of failures before, counted from 0.
fn pause(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(30);
    doubled(FIRST, failures).min(LONGEST)
}

/// Twice the time, so many times.
fn doubled(time: Duration, times: u32) -> Duration {
    time.saturating_mul(2_u32.saturating_pow(times))
}

impl<B: Broker, Decode, Encode, Failed> Serving<'_, B, Decode, Encode, Failed> {
    fn held(&self) -> MutexGuard<'_, Held<B::Receipt>> {
        ignore_poison(self.held.lock())
    }

    fn log(&self, error: &BrokerError) {
        let _ = panic::catch(|| (self.settings.on_error)(error));
    }

    /// Ends serving, because of this error unless there was one before.
    fn end(&self, error: BrokerError) {
        let mut first = ignore_poison(self.error.lock());
        first.get_or_insert(error);
        drop(first);
        self.failed.close();
    }

    async fn sleep(&self, time: Duration) {
        match self.timer.now().checked_add(time) {
            Some(at) => self.timer.sleep_until(at).await,
            None => future::pending().await,
        }
    }

    /// Fetches deliveries while there is room, until the queue is empty, if that ends it, or the
    /// broker fails for good.
    async fn fetch<In, Reason: fmt::Display>(
        &self,
        inputs: Sender<In>,
        freed: Receiver<()>,
    ) -> Option<BrokerError>
    where
        Decode: Fn(&JobId, Vec<u8>) -> Result<In, Reason>,
    {
        let mut failures = 0;
        // Whether the last fetch has brought a suspect: then the next brings one job at most, since
        // it may bring others, all but one of which would have to be released.
        let mut is_careful = false;
        loop {
            let held = self.held().len();
            if held >= self.prefetch {
                // Also told of room that is taken again: the loop looks.
                let _ = freed.recv().await;
                continue;
            }
            let max = if is_careful { 1 } else { self.prefetch - held };
            let start = self.timer.now();
            match self.broker.fetch(max, self.settings.wait).await {
                Ok(deliveries) if deliveries.is_empty() => {
                    (failures, is_careful) = (0, false);
                    if self.settings.until_empty && self.held().len() == 0 {
                        return None;
                    }
                    // A fetch that does not wait would busy the task.
                    let spent = self.timer.now().saturating_duration_since(start);
                    let rest = self.sleep(SHORTEST_FETCH.saturating_sub(spent));
                    let freed = async {
                        let _ = freed.recv().await;
                    };
                    future::or(freed, rest).await;
                }
                Ok(deliveries) => {
                    failures = 0;
                    let mut suspect = None;
                    for mut delivery in deliveries {
                        let payload = std::mem::take(&mut delivery.payload);
                        let ticket = self.hold(&delivery);
                        if !self.is_suspect(&delivery) {
                            self.receive(ticket, payload, &inputs);
                        } else if suspect.is_none() {
                            suspect = Some((ticket, payload));
                        } else {
                            // Held along with the first, it would be lost with it.
                            self.settle_as(ticket, Settlement::Nack(Nack::Release));
                        }
                    }
                    is_careful = suspect.is_some();
                    if let Some((ticket, payload)) = suspect {
                        self.run_alone(ticket, payload, &inputs, &freed).await;
                    }
                }
                Err(error) if error.is_permanent() => return Some(error),
                Err(error) => {
                    self.log(&error);
                    self.sleep(pause(failures)).await;
                    failures += 1;
                }
            }
        }
    }

    /// Adds a delivery to those that are held, which have their leases extended.
    fn hold(&self, delivery: &Delivery<B::Receipt>) -> Ticket {
        let receipt = Arc::new(delivery.receipt.clone());
        let (ticket, is_shorter) = self.held().add(delivery, receipt);
        if is_shorter {
            let _ = self.shorter.try_send(());
        }
        ticket
    }

    /// Whether the job has to run alone.
    fn is_suspect(&self, delivery: &Delivery<B::Receipt>) -> bool {
        self.prefetch > 1
            && !self.is_delivered_too_often(delivery.delivery_count)
            && delivery.lost_count.is_some_and(|lost| lost >= SUSPECT)
    }

    fn is_delivered_too_often(&self, delivery_count: Option<u32>) -> bool {
        delivery_count.is_some_and(|count| count > self.settings.max_deliveries)
    }

    /// Runs a job once all others are settled, and returns once it is settled itself.
    async fn run_alone<In, Reason: fmt::Display>(
        &self,
        ticket: Ticket,
        payload: Vec<u8>,
        inputs: &Sender<In>,
        freed: &Receiver<()>,
    ) where
        Decode: Fn(&JobId, Vec<u8>) -> Result<In, Reason>,
    {
        while self.held().len() > 1 {
            let _ = freed.recv().await;
        }
        if !self.broker.capabilities().lease {
            // What the broker has reserved ahead of the next fetch would be lost too.
            self.sleep(AHEAD).await;
        }
        if self.held().is_over(ticket) {
            // Another process may run it.
            return self.lost(ticket);
        }
        self.receive(ticket, payload, inputs);
        while self.held().len() > 0 {
            let _ = freed.recv().await;
        }
    }

    /// Sends the input of a delivery to the map, or dead-letters a delivery that cannot be run.
    fn receive<In, Reason: fmt::Display>(
        &self,
        ticket: Ticket,
        payload: Vec<u8>,
        inputs: &Sender<In>,
    ) where
        Decode: Fn(&JobId, Vec<u8>) -> Result<In, Reason>,
    {
        let Some((id, delivery_count)) = self.held().known(ticket) else {
            return;
        };
        let decoded = match delivery_count {
            Some(count) if self.is_delivered_too_often(delivery_count) => Err(format!(
                "delivered {count} times, where at most {} are allowed: not run again",
                self.settings.max_deliveries
            )),
            _ => {
                let decode = || {
                    let decoded = (self.settings.decode)(&id, payload);
                    decoded.map_err(|reason| reason.to_string())
                };
                panic::catch(decode)
                    .unwrap_or_else(|message| Err(format!("panicked: {message}")))
                    .map_err(|reason| format!("the payload cannot be decoded: {reason}"))
            }
        };
        match decoded {
            Ok(input) => {
                self.held().send(ticket);
                // Fails once the map has ended; what is held is then released.
                if let Err(refused) = inputs.try_send(input) {
                    panic::discard(refused.into_inner());
                }
            }
            Err(reason) => self.settle_as(ticket, Settlement::Nack(Nack::DeadLetter { reason })),
        }
    }

    /// Sends the settlement of a delivery.
    fn settle_as(&self, ticket: Ticket, settlement: Settlement) {
        let receipt = self
            .held()
            .begin_settling(ticket)
            .map(|job| Arc::clone(&job.receipt));
        if let Some(receipt) = receipt {
            self.send(Pending {
                ticket,
                receipt,
                settlement,
            });
        }
    }

    fn send(&self, pending: Pending<B::Receipt>) {
        // The channel is closed only after the last settlement.
        let _ = self.settlements.try_send(pending);
    }

    /// Runs the inputs as jobs, and sends a settlement for each completion. Once `ended` is closed,
    /// cancels what has not started.
    async fn run<In, T, E>(&self, pool: &Pool<In, T, E>, inputs: Receiver<In>, ended: &Receiver<()>)
    where
        Encode: Fn(&JobId, T) -> Option<Vec<u8>>,
        Failed: OnFailure<E>,
    {
        let mut map = pool.map_stream(inputs).window(self.prefetch);
        let mut is_ended = false;
        loop {
            let next = if is_ended {
                Some(map.next().await)
            } else {
                future::or(async { Some(map.next().await) }, async {
                    let _ = ended.recv().await;
                    None
                })
                .await
            };
            match next {
                Some(Some(completion)) => self.complete(completion),
                Some(None) => return,
                None => {
                    is_ended = true;
                    map.cancel_queued();
                }
            }
        }
    }

    /// Sends the settlement of a completion.
    fn complete<In, T, E>(&self, completion: Completion<In, T, E>)
    where
        Encode: Fn(&JobId, T) -> Option<Vec<u8>>,
        Failed: OnFailure<E>,
    {
        let known = self.held().complete(completion.index).map(|(ticket, job)| {
            let receipt = Arc::clone(&job.receipt);
            (ticket, job.id.clone(), receipt, job.delivery_count)
        });
        let Some((ticket, id, receipt, delivery_count)) = known else {
            return;
        };
        let settlement = match completion.result {
            Ok(value) => match panic::catch(|| (self.settings.encode)(&id, value)) {
                Ok(result) => Settlement::Ack(result),
                Err(message) => self.fail(&id, JobError::Panicked(message), delivery_count),
            },
            Err(JobError::Cancelled(_) | JobError::Abandoned | JobError::WouldDeadlock) => {
                Settlement::Nack(Nack::Release)
            }
            Err(error) => self.fail(&id, error, delivery_count),
        };
        self.send(Pending {
            ticket,
            receipt,
            settlement,
        });
    }

    fn fail<E>(&self, id: &JobId, error: JobError<E>, delivery_count: Option<u32>) -> Settlement
    where
        Failed: OnFailure<E>,
    {
        let settlement = panic::catch(|| {
            let deliveries = delivery_count.unwrap_or(1);
            self.settings.on_failure.settle(id, error, deliveries)
        });
        match settlement {
            Ok(Settlement::Nack(Nack::Retry { reason, .. }))
                if delivery_count.is_some_and(|count| count >= self.settings.max_deliveries) =>
            {
                Settlement::Nack(Nack::DeadLetter { reason })
            }
            Ok(settlement) => settlement,
            Err(message) => Settlement::Nack(Nack::DeadLetter {
                reason: format!("on_failure panicked: {message}"),
            }),
        }
    }

    /// Releases what is held and has no settlement: what the map has not pulled, or not accepted.
    fn release_held(&self) {
        let left = self.held().begin_settling_all();
        for (ticket, receipt) in left {
            self.send(Pending {
                ticket,
                receipt,
                settlement: Settlement::Nack(Nack::Release),
            });
        }
    }

    /// Extends the leases of what is held, from the first lease on.
    async fn renew(&self, shorter: Receiver<()>) {
        let mut last = self.timer.now();
        loop {
            // A lease that is shorter than those before brings the next round forward.
            let is_due = {
                let told = async {
                    // Never closed: the sender is in `self`.
                    let _ = shorter.recv().await;
                    false
                };
                let due = async {
                    let Some(lease) = self.held().lease else {
                        return future::pending().await;
                    };
                    let round = (lease / 3).max(SHORTEST_ROUND);
                    let spent = self.timer.now().saturating_duration_since(last);
                    self.sleep(round.saturating_sub(spent)).await;
                    true
                };
                future::or(told, due).await
            };
            if !is_due {
                continue;
            }
            last = self.timer.now();
            let (leases, lease) = {
                let held = self.held();
                (held.leases(), held.lease.unwrap_or_default())
            };
            if leases.is_empty() {
                continue;
            }
            let receipts = leases
                .iter()
                .map(|(_, receipt)| (**receipt).clone())
                .collect();
            let outcomes = self.broker.extend_many(receipts, lease).await;
            for ((ticket, _), outcome) in leases.into_iter().zip(outcomes) {
                match outcome {
                    Ok(()) => {}
                    Err(SettleError::LeaseLost) => self.held().set_over(ticket),
                    // The next round tries again.
                    Err(SettleError::Broker(error)) => self.log(&error),
                }
            }
        }
    }
}
