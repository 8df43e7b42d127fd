//! Serves a broker with a pool: each delivery becomes a job, and is settled after its outcome.
//!
//! In: a [`Broker`], a [`Pool`], and how payloads become inputs and values become results. Out: a
//! [`ServeReport`] whose counts add up. It never runs a handler itself, and never settles a
//! delivery before its job has an outcome.
//!
//! Four futures, polled by one task:
//!
//! 1. `fetch` fills the room under the prefetch: it reserves deliveries, decodes them, and sends
//!    their inputs to the map. It ends first: by the stop, an error, or an empty queue. A *suspect*,
//!    a job whose deliveries were lost before, it runs while nothing else is held, so that a job
//!    that ends its process takes no others with it.
//! 2. `run` maps the inputs to completions, and sends a settlement for each. Once `fetch` has ended,
//!    it cancels what has not started. Then what is still held is released.
//! 3. `settle` takes all settlements that wait, settles them together, and makes room.
//! 4. `renew` extends the leases of all that is held, at a third of the lease.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::future;

use super::{Ack, Broker, BrokerError, Delivery, JobId, Nack, SettleError};
use crate::error::JobError;
use crate::job::completion::Completion;
use crate::panic;
use crate::pool::Pool;
use crate::rt::{BoxFuture, Timer};

/// How a delivery is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The job is done; the result, if there is one, is stored.
    Ack(Option<Vec<u8>>),
    /// The job is not done.
    Nack(Nack),
}

/// Decides how a delivery is settled whose job failed; see [`ServeOptions::on_failure`].
pub trait OnFailure<E> {
    /// Decides by the error and the number of deliveries so far, counted from 1.
    fn settle(&self, id: &JobId, error: JobError<E>, deliveries: u32) -> Settlement;
}

impl<E, F: Fn(&JobId, JobError<E>, u32) -> Settlement> OnFailure<E> for F {
    fn settle(&self, id: &JobId, error: JobError<E>, deliveries: u32) -> Settlement {
        self(id, error, deliveries)
    }
}

/// The default of [`ServeOptions::on_failure`]: another delivery after 1 second, 2, 4 and so on, at
/// most 5 minutes.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct RetryLater;

impl<E: fmt::Display> OnFailure<E> for RetryLater {
    fn settle(&self, _: &JobId, error: JobError<E>, deliveries: u32) -> Settlement {
        Settlement::Nack(Nack::Retry {
            after: Some(retry_delay(deliveries)),
            reason: error.to_string(),
        })
    }
}

type OnError<'a> = dyn Fn(&BrokerError) + Send + Sync + 'a;

/// How [`serve`] works.
///
/// # Defaults
///
/// [`prefetch`](Self::prefetch): as many jobs as the pool runs at once;
/// [`max_deliveries`](Self::max_deliveries): 5; [`wait`](Self::wait): 1 second;
/// [`on_failure`](Self::on_failure): [`RetryLater`]; it serves until its future is dropped, or a
/// permanent error.
#[must_use = "options do nothing by themselves"]
pub struct ServeOptions<'a, Decode, Encode, Failed = RetryLater> {
    settings: Settings<'a, Decode, Encode, Failed>,
    /// Not among the settings, which the futures share: it is not `Sync`.
    stop: BoxFuture<'a, ()>,
}

struct Settings<'a, Decode, Encode, Failed> {
    decode: Decode,
    encode: Encode,
    on_failure: Failed,
    on_error: Box<OnError<'a>>,
    prefetch: Option<usize>,
    max_deliveries: u32,
    wait: Duration,
    until_empty: bool,
}

impl<Decode, Encode> ServeOptions<'_, Decode, Encode> {
    /// Takes how a payload becomes an input and a value becomes a result.
    ///
    /// A payload that cannot be decoded is dead-lettered with the error as its reason. `encode` may
    /// return `None`: then no result is stored. A panic in either is contained: in `decode` it
    /// dead-letters the delivery, in `encode` it is a failure of the job.
    pub fn new<In, Reason, T>(decode: Decode, encode: Encode) -> Self
    where
        Decode: Fn(&JobId, Vec<u8>) -> Result<In, Reason>,
        Reason: fmt::Display,
        Encode: Fn(&JobId, T) -> Option<Vec<u8>>,
    {
        let settings = Settings {
            decode,
            encode,
            on_failure: RetryLater,
            on_error: Box::new(|_: &BrokerError| ()),
            prefetch: None,
            max_deliveries: 5,
            wait: Duration::from_secs(1),
            until_empty: false,
        };
        Self {
            settings,
            stop: Box::pin(future::pending()),
        }
    }
}

impl<'a, Decode, Encode, Failed> ServeOptions<'a, Decode, Encode, Failed> {
    /// Bounds how many deliveries are held at once: those that wait, run, or have their outcome and
    /// are not settled yet. This is what is delivered again if the process dies.
    ///
    /// # Panics
    ///
    /// If `deliveries` is 0.
    #[track_caller]
    pub const fn prefetch(mut self, deliveries: usize) -> Self {
        assert!(deliveries > 0, "prefetch must be at least 1, got 0");
        self.settings.prefetch = Some(deliveries);
        self
    }

    /// Bounds how many times a job is delivered, where the broker counts. One that was delivered
    /// more often is dead-lettered without a run, since each time its process died or lost its
    /// lease; one that fails the last time is dead-lettered with its reason.
    ///
    /// # Panics
    ///
    /// If `deliveries` is 0.
    #[track_caller]
    pub const fn max_deliveries(mut self, deliveries: u32) -> Self {
        assert!(deliveries > 0, "max_deliveries must be at least 1, got 0");
        self.settings.max_deliveries = deliveries;
        self
    }

    /// Sets how long a fetch waits for a first job. It bounds how late an
    /// [empty](Self::until_empty) queue is noticed; a stop interrupts it.
    pub const fn wait(mut self, wait: Duration) -> Self {
        self.settings.wait = wait;
        self
    }

    /// Sets how a delivery is settled whose job failed, after all attempts that the pool's
    /// [`retry`](crate::Builder::retry) allows: by its error and the number of deliveries (1 where
    /// the broker does not count).
    ///
    /// A [`Nack::Retry`] of the [last](Self::max_deliveries) delivery becomes a
    /// [`Nack::DeadLetter`] with the same reason. It is not called for jobs that were cancelled or
    /// abandoned: these are released. A panic in it dead-letters the delivery.
    pub fn on_failure<E, F>(self, settle: F) -> ServeOptions<'a, Decode, Encode, F>
    where
        F: Fn(&JobId, JobError<E>, u32) -> Settlement,
    {
        let Settings {
            decode,
            encode,
            on_failure: _,
            on_error,
            prefetch,
            max_deliveries,
            wait,
            until_empty,
        } = self.settings;
        ServeOptions {
            settings: Settings {
                decode,
                encode,
                on_failure: settle,
                on_error,
                prefetch,
                max_deliveries,
                wait,
                until_empty,
            },
            stop: self.stop,
        }
    }

    /// Sets a callback for errors of the broker, for a log. The call that failed is repeated, or
    /// counted in the report.
    pub fn on_error(mut self, log: impl Fn(&BrokerError) + Send + Sync + 'a) -> Self {
        self.settings.on_error = Box::new(log);
        self
    }

    /// Stops when this future ends: nothing more is fetched, what has not started is released, and
    /// what runs is finished and settled.
    pub fn until(mut self, stop: impl Future<Output = ()> + Send + 'a) -> Self {
        self.stop = Box::pin(stop);
        self
    }

    /// Stops once a fetch finds nothing while nothing is held. Jobs that are delayed, or that
    /// another consumer holds, are left.
    pub const fn until_empty(mut self) -> Self {
        self.settings.until_empty = true;
        self
    }
}

impl<Decode, Encode, Failed> fmt::Debug for ServeOptions<'_, Decode, Encode, Failed> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeOptions")
            .field("prefetch", &self.settings.prefetch)
            .field("max_deliveries", &self.settings.max_deliveries)
            .field("wait", &self.settings.wait)
            .field("until_empty", &self.settings.until_empty)
            .finish_non_exhaustive()
    }
}

/// What [`serve`] has done. Always, `fetched` is the sum of `acked`, `retried`, `released`,
/// `dead_lettered`, `lost` and `unsettled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServeReport {
    /// Deliveries that were fetched.
    pub fetched: u64,
    /// Of these, those that may have been delivered before.
    pub redelivered: u64,
    /// Deliveries that were acknowledged.
    pub acked: u64,
    /// Deliveries whose job failed and is delivered again.
    pub retried: u64,
    /// Deliveries that were given back without a failure.
    pub released: u64,
    /// Deliveries whose job is not tried again.
    pub dead_lettered: u64,
    /// Deliveries that were over before they were settled, or that a settlement had settled whose
    /// answer was lost.
    pub lost: u64,
    /// Deliveries whose settlement failed: their jobs are delivered again, unless the broker has
    /// settled them without saying so.
    pub unsettled: u64,
}

/// Why [`serve`] ended before it was told to.
#[derive(Debug)]
#[non_exhaustive]
pub struct ServeError {
    /// What it had done. What ran was finished, and settled as far as the broker allowed.
    pub report: ServeReport,
    /// The permanent error of the broker.
    pub error: BrokerError,
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl Error for ServeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Runs the jobs of a broker in a pool, until it is [stopped](ServeOptions::until).
///
/// At most the [prefetch](ServeOptions::prefetch) is held at once. Each delivery becomes a job,
/// with the limits, retries and time-outs of the pool. After its outcome it is settled: a value is
/// encoded and acknowledged, late, together with its result; a failure is retried, later and by
/// whichever consumer is free, or dead-lettered. Leases are extended while their jobs wait or run.
///
/// If the broker cannot be reached, fetching is repeated after 0.1 seconds, then 0.2, at most 30;
/// a settlement is tried 8 times, within 13 seconds and the time that the broker takes. What
/// cannot be settled is delivered again by the broker.
///
/// A job that ends its process takes with it what else is held there. So a job of which two
/// deliveries were [lost](Delivery::lost_count) runs alone from then on: what else is held is
/// settled first, half a second passes in which the broker takes back what it has reserved ahead, and
/// nothing is fetched until the job is settled itself.
///
/// If the pool is closed or aborted, or its workers are dropped, what has not ended is released,
/// and `serve` returns.
///
/// A handler that blocks the thread of this future keeps leases from being extended.
///
/// # Errors
///
/// [`ServeError`] after a [permanent](BrokerError::is_permanent) error of a fetch, for instance
/// since the broker was closed. What ran is finished and settled before.
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
    let ServeOptions { settings, stop } = options;
    let prefetch = settings.prefetch.unwrap_or(shared.cancel_flags.len());
    // Unbounded, but each holds at most `prefetch` messages: one for each delivery that is held.
    let (input_sender, inputs) = async_channel::unbounded();
    let (settlement_sender, settlements) = async_channel::unbounded();
    let (freed_sender, freed) = async_channel::bounded(1);
    let (lease_sender, lease) = async_channel::bounded(1);
    let serving = Serving {
        broker,
        timer: &*shared.timer,
        prefetch,
        settings,
        held: Mutex::new(Held::default()),
        settlements: settlement_sender,
        freed: freed_sender,
        lease: lease_sender,
    };
    let serving = &serving;
    let error = {
        // Closed once nothing more is fetched, and once the map has ended.
        let (end, ended) = async_channel::bounded::<()>(1);
        // In boxes, so that the future of `serve` is small.
        let fetch = Box::pin(async {
            let fetching = serving.fetch(input_sender, freed);
            let stopped = future::or(stop, async {
                let _ = ended.recv().await;
            });
            let error = future::or(fetching, async {
                stopped.await;
                None
            })
            .await;
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
            serving.renew(lease).await;
            future::pending().await
        });
        future::or(settled, renew).await
    };
    let report = serving.held().report;
    match error {
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
    /// Told the first lease.
    lease: Sender<Duration>,
}

/// The deliveries that are held, and the counts.
struct Held<R> {
    /// Deliveries that were sent to the map, by their index there, until they are settled.
    jobs: HashMap<usize, HeldJob<R>>,
    /// How many were sent to the map: the index of the next.
    sent: usize,
    /// How many deliveries are held, those included that are not sent to the map.
    count: usize,
    /// The shortest lease so far.
    lease: Option<Duration>,
    report: ServeReport,
}

impl<R> Default for Held<R> {
    fn default() -> Self {
        Self {
            jobs: HashMap::new(),
            sent: 0,
            count: 0,
            lease: None,
            report: ServeReport::default(),
        }
    }
}

struct HeldJob<R> {
    id: JobId,
    receipt: R,
    delivery_count: Option<u32>,
    /// Whether its settlement is on its way.
    is_settling: bool,
    /// Whether the delivery has a lease that is not over yet.
    has_lease: bool,
}

/// A settlement that is to be made.
struct Pending<R> {
    /// The index in the map; `None` of a delivery that was not sent there.
    index: Option<usize>,
    receipt: R,
    settlement: Settlement,
}

/// A job is a suspect if so many of its deliveries were lost.
const SUSPECT: u32 = 2;

/// The place of a suspect among the held jobs while it waits to be alone.
const WAITS_ALONE: usize = usize::MAX;

/// A broker gives back what it has reserved ahead of the next fetch when none comes for this long.
const AHEAD: Duration = Duration::from_millis(500);

/// The tries of a settlement, the first included.
const SETTLE_TRIES: u32 = 8;

/// The least time between two extensions of leases: so a lease of no time does not busy the task.
const SHORTEST_ROUND: Duration = Duration::from_millis(1);

/// The least time between two fetches that find nothing, unless a delivery is settled in between.
const SHORTEST_FETCH: Duration = Duration::from_millis(10);

/// The pause after a failed call, by the number of failures so far, counted from 0.
fn pause(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(30);
    FIRST
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(LONGEST)
}

/// The time until another delivery, by the number of deliveries so far, counted from 1.
fn retry_delay(deliveries: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(300);
    FIRST
        .saturating_mul(2_u32.saturating_pow(deliveries.saturating_sub(1)))
        .min(LONGEST)
}

impl<B: Broker, Decode, Encode, Failed> Serving<'_, B, Decode, Encode, Failed> {
    fn held(&self) -> MutexGuard<'_, Held<B::Receipt>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, error: &BrokerError) {
        let _ = panic::catch(|| (self.settings.on_error)(error));
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
        loop {
            let held = self.held().count;
            if held >= self.prefetch {
                // Also told of room that is taken again: the loop looks.
                let _ = freed.recv().await;
                continue;
            }
            let start = self.timer.now();
            match self
                .broker
                .fetch(self.prefetch - held, self.settings.wait)
                .await
            {
                Ok(deliveries) => {
                    failures = 0;
                    if deliveries.is_empty() {
                        if self.settings.until_empty && self.held().count == 0 {
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
                    let mut suspects = Vec::new();
                    for delivery in deliveries {
                        self.count(&delivery);
                        if self.is_suspect(&delivery) {
                            suspects.push(delivery);
                        } else {
                            self.receive(delivery, &inputs);
                        }
                    }
                    // All but one are released, since a delivery that is held counts as lost too.
                    let mut suspects = suspects.into_iter();
                    let first = suspects.next();
                    suspects.for_each(|delivery| self.release(delivery.receipt));
                    if let Some(delivery) = first {
                        self.run_alone(delivery, &inputs, &freed).await;
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

    fn count(&self, delivery: &Delivery<B::Receipt>) {
        let mut held = self.held();
        held.count += 1;
        held.report.fetched += 1;
        held.report.redelivered += u64::from(delivery.redelivered);
    }

    /// Whether the job has to run alone.
    fn is_suspect(&self, delivery: &Delivery<B::Receipt>) -> bool {
        let is_delivered_too_often = delivery
            .delivery_count
            .is_some_and(|count| count > self.settings.max_deliveries);
        self.prefetch > 1
            && !is_delivered_too_often
            && delivery.lost_count.is_some_and(|lost| lost >= SUSPECT)
    }

    fn release(&self, receipt: B::Receipt) {
        self.send(Pending {
            index: None,
            receipt,
            settlement: Settlement::Nack(Nack::Release),
        });
    }

    /// Runs a job once all others are settled, and returns once it is settled itself.
    async fn run_alone<In, Reason: fmt::Display>(
        &self,
        delivery: Delivery<B::Receipt>,
        inputs: &Sender<In>,
        freed: &Receiver<()>,
    ) where
        Decode: Fn(&JobId, Vec<u8>) -> Result<In, Reason>,
    {
        // Among the held jobs meanwhile, so that its lease is extended, or it is released at a stop.
        self.hold(WAITS_ALONE, &delivery);
        while self.held().count > 1 {
            let _ = freed.recv().await;
        }
        // What the broker has reserved ahead of the next fetch would be lost too.
        self.sleep(AHEAD).await;
        self.held().jobs.remove(&WAITS_ALONE);
        self.receive(delivery, inputs);
        while self.held().count > 0 {
            let _ = freed.recv().await;
        }
    }

    /// Adds a delivery to the held jobs, which have their leases extended.
    fn hold(&self, index: usize, delivery: &Delivery<B::Receipt>) {
        let mut held = self.held();
        held.jobs.insert(
            index,
            HeldJob {
                id: delivery.job_id.clone(),
                receipt: delivery.receipt.clone(),
                delivery_count: delivery.delivery_count,
                is_settling: false,
                has_lease: delivery.lease.is_some(),
            },
        );
        if let Some(lease) = delivery.lease {
            held.lease = Some(held.lease.map_or(lease, |known| known.min(lease)));
            let _ = self.lease.try_send(lease);
        }
    }

    /// Sends the input of a delivery to the map, or dead-letters a delivery that cannot be run.
    fn receive<In, Reason: fmt::Display>(
        &self,
        mut delivery: Delivery<B::Receipt>,
        inputs: &Sender<In>,
    ) where
        Decode: Fn(&JobId, Vec<u8>) -> Result<In, Reason>,
    {
        let payload = std::mem::take(&mut delivery.payload);
        let decoded = match delivery.delivery_count {
            Some(count) if count > self.settings.max_deliveries => Err(format!(
                "delivered {count} times, allowed {}: each time its consumer died or lost the delivery",
                self.settings.max_deliveries
            )),
            _ => match panic::catch(|| (self.settings.decode)(&delivery.job_id, payload)) {
                Ok(Ok(input)) => Ok(input),
                Ok(Err(reason)) => Err(format!("the payload cannot be decoded: {reason}")),
                Err(message) => Err(format!(
                    "the payload cannot be decoded: panicked: {message}"
                )),
            },
        };
        let input = match decoded {
            Ok(input) => input,
            Err(reason) => {
                return self.send(Pending {
                    index: None,
                    receipt: delivery.receipt,
                    settlement: Settlement::Nack(Nack::DeadLetter { reason }),
                });
            }
        };
        let index = self.held().sent;
        self.hold(index, &delivery);
        self.held().sent += 1;
        // Fails once the map has ended; what is held is then released.
        if let Err(refused) = inputs.try_send(input) {
            panic::discard(refused.into_inner());
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
        let known = self.held().jobs.get_mut(&completion.index).map(|job| {
            job.is_settling = true;
            (job.id.clone(), job.receipt.clone(), job.delivery_count)
        });
        let Some((id, receipt, delivery_count)) = known else {
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
            index: Some(completion.index),
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
        let mut held = self.held();
        let left = held.jobs.iter_mut().filter(|(_, job)| !job.is_settling);
        let pending: Vec<_> = left
            .map(|(index, job)| {
                job.is_settling = true;
                Pending {
                    index: Some(*index),
                    receipt: job.receipt.clone(),
                    settlement: Settlement::Nack(Nack::Release),
                }
            })
            .collect();
        drop(held);
        pending.into_iter().for_each(|pending| self.send(pending));
    }

    /// Settles what waits, until the channel is closed and empty.
    async fn settle(&self, settlements: Receiver<Pending<B::Receipt>>) {
        while let Ok(first) = settlements.recv().await {
            let (mut acks, mut nacks) = (Vec::new(), Vec::new());
            // Ends: what is held bounds the messages, and no new ones come without an await.
            let rest = std::iter::from_fn(|| settlements.try_recv().ok());
            for pending in std::iter::once(first).chain(rest) {
                let Pending {
                    index,
                    receipt,
                    settlement,
                } = pending;
                match settlement {
                    Settlement::Ack(result) => acks.push((index, Ack { receipt, result })),
                    Settlement::Nack(nack) => nacks.push((index, receipt, nack)),
                }
            }
            self.ack_all(acks).await;
            for (index, receipt, nack) in nacks {
                self.nack(index, receipt, nack).await;
            }
        }
    }

    /// Acknowledges all of these, in several tries if the broker cannot be reached.
    async fn ack_all(&self, mut acks: Vec<(Option<usize>, Ack<B::Receipt>)>) {
        for failures in 0.. {
            if acks.is_empty() {
                return;
            }
            let calls = acks.iter().map(|(_, ack)| ack.clone()).collect();
            let mut outcomes = self.broker.ack_many(calls).await.into_iter();
            let mut again = Vec::new();
            for (index, ack) in acks {
                // A missing outcome is as unknown as an error.
                let outcome = outcomes
                    .next()
                    .unwrap_or_else(|| Err(BrokerError::unavailable("it gave no answer").into()));
                if self.settled(index, outcome, failures, |report| &mut report.acked) {
                    again.push((index, ack));
                }
            }
            acks = again;
            if !acks.is_empty() {
                self.sleep(pause(failures)).await;
            }
        }
    }

    /// Settles one delivery whose job is not done, in several tries if the broker cannot be
    /// reached.
    async fn nack(&self, index: Option<usize>, receipt: B::Receipt, nack: Nack) {
        for failures in 0.. {
            let outcome = self.broker.nack(&receipt, nack.clone()).await;
            let is_again = self.settled(index, outcome, failures, |report| match nack {
                Nack::Retry { .. } => &mut report.retried,
                Nack::Release => &mut report.released,
                Nack::DeadLetter { .. } => &mut report.dead_lettered,
            });
            if !is_again {
                return;
            }
            self.sleep(pause(failures)).await;
        }
    }

    /// Counts the outcome of a settlement and makes room; returns whether to try it again.
    fn settled(
        &self,
        index: Option<usize>,
        outcome: Result<(), SettleError>,
        failures: u32,
        counter: impl FnOnce(&mut ServeReport) -> &mut u64,
    ) -> bool {
        if let Err(SettleError::Broker(error)) = &outcome {
            self.log(error);
            if !error.is_permanent() && failures + 1 < SETTLE_TRIES {
                return true;
            }
        }
        let mut held = self.held();
        let report = &mut held.report;
        *match outcome {
            Ok(()) => counter(report),
            Err(SettleError::LeaseLost) => &mut report.lost,
            Err(SettleError::Broker(_)) => &mut report.unsettled,
        } += 1;
        held.count -= 1;
        if let Some(index) = index {
            held.jobs.remove(&index);
        }
        drop(held);
        let _ = self.freed.try_send(());
        false
    }

    /// Extends the leases of what is held, from the first lease on.
    async fn renew(&self, lease: Receiver<Duration>) {
        if lease.recv().await.is_err() {
            return;
        }
        loop {
            let Some(lease) = self.held().lease else {
                return;
            };
            self.sleep((lease / 3).max(SHORTEST_ROUND)).await;
            let (indices, receipts): (Vec<_>, Vec<_>) = self
                .held()
                .jobs
                .iter()
                .filter(|(_, job)| job.has_lease)
                .map(|(index, job)| (*index, job.receipt.clone()))
                .unzip();
            if receipts.is_empty() {
                continue;
            }
            let outcomes = self.broker.extend_many(receipts, lease).await;
            for (index, outcome) in indices.into_iter().zip(outcomes) {
                match outcome {
                    Ok(()) => {}
                    Err(SettleError::LeaseLost) => {
                        if let Some(job) = self.held().jobs.get_mut(&index) {
                            job.has_lease = false;
                        }
                    }
                    // The next round tries again, twice before the lease ends.
                    Err(SettleError::Broker(error)) => (self.settings.on_error)(&error),
                }
            }
        }
    }
}
