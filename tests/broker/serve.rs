//! What `serve` promises: each delivery is settled after the outcome of its job, and the report adds
//! up. On a manual clock and one thread; the last tests run in the simulator.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use brigade::broker::{
    Ack, Broker, BrokerError, Capabilities, Delivery, JobId, MemoryBroker, MemoryReceipt, Nack,
    NewJob, ServeError, ServeOptions, ServeReport, SettleError, Settlement, serve,
};
use brigade::testing::{FaultKind, Sim, Simulation, drop_at_every_poll, poll_times};
use brigade::{ManualTimer, Pool, Retry};
use futures_lite::future;

const SECOND: Duration = Duration::from_secs(1);

type Bytes = Vec<u8>;

/// How a payload becomes an input: it is a number.
fn decode(_: &JobId, payload: Bytes) -> Result<u32, String> {
    let text = String::from_utf8(payload).map_err(|error| error.to_string())?;
    assert_ne!(text, "panic", "the decoder was told to");
    text.parse().map_err(|_| format!("{text} is not a number"))
}

fn encode(_: &JobId, value: u32) -> Option<Bytes> {
    assert_ne!(value, 13, "the encoder was told to");
    (value != 0).then(|| value.to_string().into_bytes())
}

type Codec<'a> =
    ServeOptions<'a, fn(&JobId, Bytes) -> Result<u32, String>, fn(&JobId, u32) -> Option<Bytes>>;

fn options<'a>() -> Codec<'a> {
    ServeOptions::new(
        decode as fn(&JobId, Bytes) -> Result<u32, String>,
        encode as fn(&JobId, u32) -> Option<Bytes>,
    )
}

fn jobs(payloads: &[&str]) -> Vec<NewJob> {
    let job = |payload: &&str| NewJob::new(*payload, *payload);
    payloads.iter().map(job).collect()
}

fn results(broker: &MemoryBroker) -> BTreeMap<String, Bytes> {
    let results = broker.results();
    let count = results.len();
    let by_id: BTreeMap<_, _> = results
        .into_iter()
        .map(|(id, result)| (id.to_string(), result))
        .collect();
    assert_eq!(by_id.len(), count, "a job has two results");
    by_id
}

fn reasons(broker: &MemoryBroker) -> BTreeMap<String, String> {
    let dead = broker.dead_letters().into_iter();
    dead.map(|letter| (letter.job_id.to_string(), letter.reason))
        .collect()
}

#[track_caller]
fn assert_adds_up(report: &ServeReport) {
    let settled = report.acked + report.retried + report.released + report.dead_lettered;
    let others = report.lost + report.unsettled;
    assert_eq!(report.fetched, settled + others, "{report:?}");
}

/// Enqueues the jobs and serves them with the handler, by two workers, until the queue is empty.
fn served<F: Future<Output = Result<u32, String>>>(
    payloads: &[&str],
    options: Codec<'_>,
    handler: impl Fn(u32) -> F,
) -> (MemoryBroker, ServeReport) {
    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone());
    let (pool, workers) = Pool::builder()
        .workers(2)
        .timer(clock.clone())
        .build(handler);
    let report = future::block_on(clock.run(workers.drive(async {
        broker.enqueue(jobs(payloads)).await.unwrap();
        serve(&broker, &pool, options.until_empty()).await.unwrap()
    })));
    assert_adds_up(&report);
    (broker, report)
}

#[test]
fn a_value_is_acknowledged_with_its_result_and_one_without_stores_none() {
    let (broker, report) = served(&["0", "1", "2"], options(), |n| async move { Ok(n) });
    assert_eq!((report.fetched, report.acked), (3, 3));
    let stored = results(&broker);
    assert_eq!(stored.len(), 2);
    assert_eq!(stored["2"], b"2");
    let counts = broker.counts();
    assert_eq!((counts.ready, counts.leased, counts.dead), (0, 0, 0));
}

#[test]
fn a_failure_is_delivered_again_until_the_last_delivery_which_keeps_its_reason() {
    let runs = AtomicU32::new(0);
    let (broker, report) = served(
        &["7"],
        options().max_deliveries(3).wait(SECOND * 60),
        |_| {
            let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
            async move { Err(format!("failure {run}")) }
        },
    );
    assert_eq!(
        (report.fetched, report.retried, report.dead_lettered),
        (3, 2, 1)
    );
    assert_eq!(reasons(&broker)["7"], "failure 3");
}

#[test]
fn retries_of_the_pool_come_before_another_delivery() {
    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone());
    let runs = AtomicU32::new(0);
    let builder = Pool::builder().workers(1).timer(clock.clone());
    let builder = builder.retry(Retry::fixed(SECOND).max_attempts(3));
    let (pool, workers) = builder.build(|n| {
        let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
        async move { if run < 3 { Err("busy") } else { Ok(n) } }
    });
    let report = future::block_on(clock.run(workers.drive(async {
        broker.enqueue(jobs(&["5"])).await.unwrap();
        serve(&broker, &pool, options().until_empty())
            .await
            .unwrap()
    })));
    assert_eq!((report.fetched, report.acked), (1, 1));
    assert_eq!(runs.into_inner(), 3);
}

#[test]
fn what_cannot_be_decoded_or_panics_is_dead_lettered_and_stops_nothing() {
    let options = options().max_deliveries(1);
    let (broker, report) = served(&["x", "panic", "13", "1", "6"], options, |n| async move {
        assert_ne!(n, 6, "the handler was told to");
        Ok(n)
    });
    assert_eq!((report.acked, report.dead_lettered), (1, 4));
    let reasons = reasons(&broker);
    assert_eq!(
        reasons["x"],
        "the payload cannot be decoded: x is not a number"
    );
    for (id, told) in [("panic", "decoder"), ("13", "encoder"), ("6", "handler")] {
        let expected = format!("the {told} was told to");
        assert!(reasons[id].contains(&expected), "{id}: {}", reasons[id]);
    }
}

#[test]
fn a_poison_job_is_dead_lettered_without_a_run_once_it_has_lost_enough_consumers() {
    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone());
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(clock.clone())
        .build(|n| async move { if n == 1 { Ok(n) } else { Err("it has run") } });
    let report = future::block_on(clock.run(workers.drive(async {
        broker.enqueue(jobs(&["666"])).await.unwrap();
        for _ in 0..3 {
            let consumer = broker.consumer();
            assert_eq!(consumer.fetch(1, Duration::ZERO).await.unwrap().len(), 1);
            consumer.lose_connection();
        }
        broker.enqueue(jobs(&["1"])).await.unwrap();
        let options = options().max_deliveries(3).until_empty();
        serve(&broker, &pool, options).await.unwrap()
    })));
    assert_eq!(
        (report.redelivered, report.acked, report.dead_lettered),
        (1, 1, 1)
    );
    assert_eq!(
        reasons(&broker)["666"],
        "delivered 4 times, where at most 3 are allowed: not run again"
    );
}

#[test]
fn a_job_that_ends_its_process_takes_no_other_job_with_it() {
    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone());
    let payloads: Vec<String> = (1..=30).map(|n| n.to_string()).collect();
    let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
    future::block_on(broker.enqueue(jobs(&payloads))).unwrap();
    let mut deaths = 0;
    loop {
        // A process: it ends with all that it holds when job 6 runs.
        let (kill, killed) = async_channel::bounded::<()>(1);
        let consumer = broker.consumer();
        let (pool, workers) = Pool::builder()
            .workers(8)
            .timer(clock.clone())
            .build(async |n| {
                // One that is still there each time when the process ends.
                clock.sleep(SECOND * if n == 1 { 3 } else { 1 }).await;
                if n == 6 {
                    kill.close();
                    future::pending::<()>().await;
                }
                Ok::<_, String>(n + 100)
            });
        let serving = async {
            let options = options().wait(SECOND).until_empty();
            Some(serve(&consumer, &pool, options).await.unwrap())
        };
        let served = future::block_on(clock.run(workers.drive(future::or(serving, async {
            let _ = killed.recv().await;
            None
        }))));
        if served.is_some() {
            break;
        }
        consumer.lose_connection();
        deaths += 1;
    }
    assert_eq!(deaths, 5);
    assert_eq!(reasons(&broker).into_keys().collect::<Vec<_>>(), ["6"]);
    let counts = broker.counts();
    assert_eq!((counts.done, counts.dead, counts.ready), (29, 1, 0));
}

#[test]
fn a_suspect_that_waits_to_be_alone_is_extended_and_released_at_a_stop() {
    for is_stopped in [false, true] {
        let clock = ManualTimer::new();
        let broker = MemoryBroker::new(clock.clone()).lease(SECOND * 3);
        let suspect = broker.consumer();
        let most = Cell::new(0);
        let running = Cell::new(0);
        let (pool, workers) = Pool::builder()
            .workers(4)
            .timer(clock.clone())
            .build(async |n| {
                running.set(running.get() + 1);
                if n == 1 {
                    most.set(running.get());
                }
                clock.sleep(SECOND * 60).await;
                running.set(running.get() - 1);
                Ok::<_, String>(n)
            });
        let report = future::block_on(clock.run(workers.drive(async {
            broker.enqueue(jobs(&["1"])).await.unwrap();
            for _ in 0..2 {
                assert_eq!(suspect.fetch(1, SECOND).await.unwrap().len(), 1);
                suspect.lose_connection();
            }
            broker.enqueue(jobs(&["2", "3", "4"])).await.unwrap();
            let options = options().until_empty();
            let options = if is_stopped {
                options.until(clock.sleep(SECOND * 30))
            } else {
                options
            };
            serve(&broker, &pool, options).await.unwrap()
        })));
        assert_adds_up(&report);
        let expected = if is_stopped { (3, 1, 0) } else { (4, 0, 1) };
        assert_eq!((report.acked, report.released, most.get()), expected);
        assert_eq!(report.lost, 0);
    }
}

#[test]
fn a_failure_is_settled_as_the_user_says() {
    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone());
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(clock.clone())
        .build(|n| async move { Err::<u32, u32>(n) });
    let options = options().on_failure(|_, error: brigade::JobError<u32>, deliveries| {
        assert_eq!(deliveries, 1);
        match error.into_failed() {
            Some(1) => Settlement::Ack(Some(b"an answer too".to_vec())),
            Some(2) => Settlement::Nack(Nack::DeadLetter {
                reason: "no".to_owned(),
            }),
            _ => panic!("on_failure was told to"),
        }
    });
    let report = future::block_on(clock.run(workers.drive(async {
        broker.enqueue(jobs(&["1", "2", "3"])).await.unwrap();
        serve(&broker, &pool, options.until_empty()).await.unwrap()
    })));
    assert_eq!((report.acked, report.dead_lettered), (1, 2));
    assert_eq!(results(&broker)["1"], b"an answer too");
    assert_eq!(reasons(&broker)["2"], "no");
    assert!(reasons(&broker)["3"].contains("on_failure panicked"));
}

#[test]
fn no_more_deliveries_are_held_than_the_prefetch() {
    for prefetch in [1, 2, 3, 7] {
        let clock = ManualTimer::new();
        let broker = MemoryBroker::new(clock.clone());
        let (most, shared) = (Cell::new(0), broker.clone());
        let (pool, workers) = Pool::builder()
            .workers(3)
            .timer(clock.clone())
            .build(async |n| {
                most.set(most.get().max(shared.counts().leased));
                clock.sleep(SECOND * (n % 3)).await;
                Ok::<_, String>(n)
            });
        let payloads: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
        let report = future::block_on(clock.run(workers.drive(async {
            broker.enqueue(jobs(&payloads)).await.unwrap();
            let options = options().prefetch(prefetch).max_deliveries(1);
            serve(&broker, &pool, options.until_empty()).await.unwrap()
        })));
        assert_adds_up(&report);
        assert_eq!((report.fetched, most.get()), (40, prefetch));
    }
}

#[test]
fn a_lease_is_extended_while_its_job_waits_or_runs() {
    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone()).lease(SECOND);
    let runs = AtomicU32::new(0);
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(clock.clone())
        .build(async |n| {
            runs.fetch_add(1, Ordering::SeqCst);
            clock.sleep(SECOND * 10).await;
            Ok::<_, String>(n)
        });
    let report = future::block_on(clock.run(workers.drive(async {
        broker.enqueue(jobs(&["1", "2", "3"])).await.unwrap();
        let other = broker.consumer();
        let steal = async {
            // Longer than all jobs together, and three leases at a time.
            for _ in 0..15 {
                assert!(other.fetch(1, SECOND * 3).await.unwrap().is_empty());
            }
            future::pending().await
        };
        let options = options().prefetch(3).wait(SECOND).until_empty();
        future::or(
            async { serve(&broker, &pool, options).await.unwrap() },
            steal,
        )
        .await
    })));
    assert_eq!((report.acked, report.lost), (3, 0));
    assert_eq!(runs.into_inner(), 3);
    assert_eq!(results(&broker).len(), 3);
}

#[test]
fn a_job_whose_delivery_is_lost_stores_no_result_and_runs_again() {
    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone());
    let runs = AtomicU32::new(0);
    let (pool, workers) = Pool::builder().workers(1).timer(clock.clone()).build(|n| {
        if runs.fetch_add(1, Ordering::SeqCst) == 0 {
            broker.lose_connection();
        }
        async move { Ok::<u32, String>(n) }
    });
    let report = future::block_on(clock.run(workers.drive(async {
        broker.enqueue(jobs(&["4"])).await.unwrap();
        serve(&broker, &pool, options().until_empty())
            .await
            .unwrap()
    })));
    assert_adds_up(&report);
    assert_eq!((report.fetched, report.lost, report.acked), (2, 1, 1));
    assert_eq!(results(&broker).len(), 1);
}

#[test]
fn a_stop_releases_what_has_not_started_and_finishes_what_runs() {
    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone());
    let (stop, stopped) = async_channel::bounded::<()>(1);
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(clock.clone())
        .build(async |n| {
            stop.close();
            clock.sleep(SECOND * 5).await;
            Ok::<_, String>(n)
        });
    let report = future::block_on(clock.run(workers.drive(async {
        broker.enqueue(jobs(&["1", "2", "3", "4"])).await.unwrap();
        let options = options().prefetch(3).until(async move {
            let _ = stopped.recv().await;
        });
        serve(&broker, &pool, options).await.unwrap()
    })));
    assert_eq!((report.fetched, report.acked, report.released), (3, 1, 2));
    assert_eq!(results(&broker).keys().collect::<Vec<_>>(), ["1"]);
    let counts = broker.counts();
    assert_eq!((counts.ready, counts.leased), (3, 0));
    // A release is no delivery.
    let again = future::block_on(broker.fetch(3, Duration::ZERO)).unwrap();
    assert!(again.iter().all(|job| job.delivery_count == Some(1)));
}

#[test]
fn a_stop_interrupts_a_fetch_that_waits() {
    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone());
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(clock.clone())
        .build(|n: u32| async move { Ok::<_, String>(n) });
    let stop = clock.sleep(SECOND);
    let options = options().wait(SECOND * 3600).until(stop);
    future::block_on(clock.run(workers.drive(async {
        serve(&broker, &pool, options).await.unwrap();
    })));
    assert_eq!(clock.elapsed(), SECOND);
}

#[test]
fn the_end_of_the_pool_releases_what_has_not_ended() {
    type End = fn(&Pool<u32, u32, String>);
    let ends: [(&str, End); 3] = [
        ("close", |pool| pool.close()),
        ("seal", |pool| pool.seal()),
        ("abort", |pool| {
            drop(future::block_on(future::poll_once(pool.abort())));
        }),
    ];
    for (name, end) in ends {
        let clock = ManualTimer::new();
        let broker = MemoryBroker::new(clock.clone());
        let own: RefCell<Option<Pool<u32, u32, String>>> = RefCell::default();
        let (pool, workers) = Pool::builder()
            .workers(1)
            .timer(clock.clone())
            .build(async |n| {
                end(own.borrow().as_ref().unwrap());
                clock.sleep(SECOND).await;
                Ok(n)
            });
        *own.borrow_mut() = Some(pool.clone());
        let report = future::block_on(clock.run(workers.drive(async {
            broker.enqueue(jobs(&["1", "2", "3"])).await.unwrap();
            serve(&broker, &pool, options().prefetch(2)).await.unwrap()
        })));
        assert_adds_up(&report);
        let left = broker.counts();
        assert_eq!(left.leased, 0, "{name}: {report:?}");
        assert_eq!(left.ready as u64 + report.acked, 3, "{name}: {report:?}");
        *own.borrow_mut() = None;
    }
}

#[test]
fn jobs_of_workers_that_are_dropped_are_released() {
    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone());
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(clock.clone())
        .build(|_: u32| future::pending::<Result<u32, String>>());
    let report = future::block_on(async {
        broker.enqueue(jobs(&["1", "2"])).await.unwrap();
        let mut serving = Box::pin(serve(&broker, &pool, options().prefetch(2)));
        let mut running = Box::pin(workers.drive(future::pending::<()>()));
        assert!(future::poll_once(&mut serving).await.is_none());
        assert!(future::poll_once(&mut running).await.is_none());
        drop(running);
        serving.await.unwrap()
    });
    assert_adds_up(&report);
    // What was abandoned may be fetched once more before the end of the pool is seen.
    assert_eq!(report.fetched, report.released);
    assert_eq!(broker.counts().ready, 2);
}

/// A broker that fails now and then.
struct Flaky {
    inner: MemoryBroker,
    /// What becomes of the next calls of each method, the last one first; `Ok` once it is empty.
    fetches: Mutex<Vec<Option<BrokerError>>>,
    settlements: Mutex<Vec<BrokerError>>,
    /// Whether a settlement that fails has been made all the same.
    is_answer_lost: bool,
    /// Whether acknowledgements are neither made nor answered.
    is_silent: bool,
    /// The lease of all deliveries but the first, each of which then comes alone.
    later_lease: Option<Duration>,
    /// Whether deliveries last as long as the connection.
    is_leaseless: bool,
    fetched: AtomicU32,
    /// How many leases were extended.
    extended: AtomicU32,
}

impl Flaky {
    fn new(inner: MemoryBroker) -> Self {
        Self {
            inner,
            fetches: Mutex::default(),
            settlements: Mutex::default(),
            is_answer_lost: false,
            is_silent: false,
            later_lease: None,
            is_leaseless: false,
            fetched: AtomicU32::new(0),
            extended: AtomicU32::new(0),
        }
    }
}

impl Broker for Flaky {
    type Receipt = MemoryReceipt;

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            lease: !self.is_leaseless,
            ..self.inner.capabilities()
        }
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<(), BrokerError> {
        self.inner.enqueue(jobs).await
    }

    async fn fetch(
        &self,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery<MemoryReceipt>>, BrokerError> {
        let error = self.fetches.lock().unwrap().pop().flatten();
        if let Some(error) = error {
            return Err(error);
        }
        let Some(lease) = self.later_lease else {
            return self.inner.fetch(max, wait).await;
        };
        let mut deliveries = self.inner.fetch(1, wait).await?;
        for delivery in &mut deliveries {
            if self.fetched.fetch_add(1, Ordering::SeqCst) > 0 {
                delivery.lease = Some(lease);
                let extended = self.inner.extend(&delivery.receipt, lease).await;
                assert!(extended.is_ok());
            }
        }
        Ok(deliveries)
    }

    async fn ack(&self, receipt: &MemoryReceipt, result: Option<Bytes>) -> Result<(), SettleError> {
        let error = self.settlements.lock().unwrap().pop();
        if error.is_none() || self.is_answer_lost {
            self.inner.ack(receipt, result).await?;
        }
        error.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn ack_many(&self, acks: Vec<Ack<MemoryReceipt>>) -> Vec<Result<(), SettleError>> {
        let mut outcomes = Vec::new();
        for ack in acks.into_iter().filter(|_| !self.is_silent) {
            outcomes.push(self.ack(&ack.receipt, ack.result).await);
        }
        outcomes
    }

    async fn nack(&self, receipt: &MemoryReceipt, nack: Nack) -> Result<(), SettleError> {
        let error = self.settlements.lock().unwrap().pop();
        match error {
            Some(error) => Err(error.into()),
            None => self.inner.nack(receipt, nack).await,
        }
    }

    async fn extend(&self, receipt: &MemoryReceipt, by: Duration) -> Result<(), SettleError> {
        self.extended.fetch_add(1, Ordering::SeqCst);
        self.inner.extend(receipt, by).await
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.inner.close().await
    }
}

#[test]
fn a_delivery_that_is_settled_is_not_extended_any_more() {
    let clock = ManualTimer::new();
    let broker = Flaky::new(MemoryBroker::new(clock.clone()).lease(SECOND * 3));
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(clock.clone())
        .build(async |n: u32| {
            clock.sleep(SECOND * n).await;
            Ok::<_, String>(n)
        });
    future::block_on(clock.run(workers.drive(async {
        broker.enqueue(jobs(&["5"])).await.unwrap();
        let options = options().wait(SECOND * 60).until_empty();
        serve(&broker, &pool, options).await.unwrap()
    })));
    // After a second, two, three and four, and perhaps after five.
    let extended = broker.extended.into_inner();
    assert!(matches!(extended, 4 | 5), "{extended}");
}

/// Serves three jobs, of which 3 fails, from a broker that fails as told.
fn served_by(
    prepare: impl FnOnce(&mut Flaky),
    options: Codec<'_>,
) -> (
    Duration,
    Vec<String>,
    Result<ServeReport, ServeError>,
    MemoryBroker,
) {
    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone());
    let mut flaky = Flaky::new(broker.clone());
    prepare(&mut flaky);
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(clock.clone())
        .build(|n| async move { if n == 3 { Err("three") } else { Ok(n) } });
    let errors = Mutex::new(Vec::new());
    let options = options.on_error(|error| errors.lock().unwrap().push(error.to_string()));
    let served = future::block_on(clock.run(workers.drive(async {
        broker.enqueue(jobs(&["1", "2", "3"])).await.unwrap();
        serve(&flaky, &pool, options.max_deliveries(1).until_empty()).await
    })));
    match &served {
        Ok(report) => assert_adds_up(report),
        Err(error) => assert_adds_up(&error.report),
    }
    (
        clock.elapsed(),
        errors.into_inner().unwrap(),
        served,
        broker,
    )
}

fn lost() -> BrokerError {
    BrokerError::unavailable("connection lost")
}

#[test]
fn a_broker_that_cannot_be_reached_is_asked_again_after_growing_pauses() {
    let (elapsed, errors, served, broker) = served_by(
        |flaky| flaky.fetches = Mutex::new((0..4).map(|_| Some(lost())).collect()),
        options().wait(Duration::ZERO),
    );
    // 0.1 + 0.2 + 0.4 + 0.8 seconds.
    assert_eq!(elapsed, Duration::from_millis(1500));
    assert_eq!(errors, ["the broker failed: connection lost"; 4]);
    let report = served.unwrap();
    assert_eq!((report.acked, report.dead_lettered), (2, 1));
    assert_eq!(broker.results().len(), 2);
}

#[test]
fn a_fetch_that_succeeds_makes_the_next_pause_short_again() {
    let (elapsed, _, served, _) = served_by(
        |flaky| flaky.fetches = Mutex::new(vec![Some(lost()), None, Some(lost()), Some(lost())]),
        options().prefetch(1).wait(Duration::ZERO),
    );
    // 0.1 + 0.2 seconds, a job, and 0.1.
    assert_eq!(elapsed, Duration::from_millis(400));
    assert_eq!(served.unwrap().fetched, 3);
}

#[test]
fn a_settlement_that_fails_is_tried_again_and_at_last_counted() {
    let settle = |failures| {
        served_by(
            |flaky| flaky.settlements = Mutex::new((0..failures).map(|_| lost()).collect()),
            options().prefetch(1).wait(Duration::ZERO),
        )
    };
    let (_, errors, served, _) = settle(7);
    let report = served.unwrap();
    assert_eq!((report.acked, report.dead_lettered), (2, 1));
    assert_eq!(errors.len(), 7);
    let (_, errors, served, broker) = settle(8);
    let report = served.unwrap();
    assert_eq!((report.acked, report.unsettled, errors.len()), (1, 1, 8));
    assert_eq!(broker.counts().leased, 1);
}

#[test]
fn a_settlement_whose_answer_is_lost_stores_one_result() {
    let (_, _, served, broker) = served_by(
        |flaky| {
            flaky.is_answer_lost = true;
            flaky.settlements = Mutex::new(vec![lost()]);
        },
        options().prefetch(1),
    );
    let report = served.unwrap();
    assert_eq!((report.acked, report.lost), (1, 1));
    assert_eq!(results(&broker).len(), 2);
}

#[test]
fn a_permanent_error_ends_it_after_what_runs_is_settled() {
    let (_, _, served, broker) = served_by(
        |flaky| {
            // The first fetch is answered; the second is refused.
            flaky.fetches = Mutex::new(vec![
                Some(BrokerError::permanent("another queue")),
                Some(lost()),
            ]);
        },
        options().prefetch(2),
    );
    let error = served.unwrap_err();
    assert_eq!(error.to_string(), "the broker refuses: another queue");
    assert_eq!(broker.counts().leased, 0);

    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone());
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(clock.clone())
        .build(|n: u32| async move { Ok::<_, String>(n) });
    let served = future::block_on(clock.run(workers.drive(async {
        broker.close().await.unwrap();
        serve(&broker, &pool, options()).await
    })));
    assert!(served.unwrap_err().error.is_closed());
}

#[test]
fn a_permanent_error_of_a_settlement_ends_it_too() {
    let (_, _, served, broker) = served_by(
        |flaky| {
            // An acknowledgement, and then the dead letter that would keep the job.
            let refused = || BrokerError::permanent("no such queue");
            flaky.settlements = Mutex::new(vec![refused(), refused()]);
        },
        options().prefetch(1),
    );
    let error = served.unwrap_err();
    assert_eq!(error.to_string(), "the broker refuses: no such queue");
    assert_eq!((error.report.fetched, error.report.unsettled), (1, 1));
    assert_eq!(broker.counts().ready, 2);
}

#[test]
fn a_job_whose_result_can_never_be_stored_is_dead_lettered() {
    let (_, errors, served, broker) = served_by(
        |flaky| flaky.settlements = Mutex::new(vec![BrokerError::permanent("too large")]),
        options().prefetch(1),
    );
    let report = served.unwrap();
    assert_eq!((report.acked, report.dead_lettered), (1, 2));
    assert_eq!(errors, ["the broker refuses: too large"]);
    assert_eq!(
        reasons(&broker)["1"],
        "the result cannot be stored: the broker refuses: too large"
    );
}

#[test]
fn a_stop_with_a_broker_that_is_gone_takes_as_long_for_many_deliveries_as_for_one() {
    for prefetch in [1, 100] {
        let clock = ManualTimer::new();
        let broker = MemoryBroker::new(clock.clone());
        let flaky = Flaky {
            settlements: Mutex::new((0..100_000).map(|_| lost()).collect()),
            ..Flaky::new(broker.clone())
        };
        let (pool, workers) = Pool::builder()
            .workers(1)
            .timer(clock.clone())
            .build(|_: u32| future::pending::<Result<u32, String>>());
        let payloads: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
        let report = future::block_on(clock.run(workers.drive(async {
            broker.enqueue(jobs(&payloads)).await.unwrap();
            let aborted = async {
                clock.sleep(SECOND).await;
                drop(pool.abort().await);
            };
            let options = options().prefetch(prefetch).until(aborted);
            serve(&flaky, &pool, options).await.unwrap()
        })));
        assert_eq!(report.unsettled, prefetch as u64);
        // Two batches of 12.7 seconds at most: those that the abort cancelled, and the rest.
        assert!(clock.elapsed() < SECOND * 30, "{:?}", clock.elapsed());
        // One call a round, since the next would fail like it.
        let calls = 100_000 - flaky.settlements.lock().unwrap().len();
        assert!(calls <= 2 * 8, "{calls} calls for {prefetch}");
    }
}

#[test]
fn a_lease_that_is_shorter_than_those_before_is_extended_in_time() {
    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone()).lease(SECOND * 30);
    let (pool, workers) = Pool::builder()
        .workers(2)
        .timer(clock.clone())
        .build(async |n: u32| {
            clock.sleep(SECOND * 9).await;
            Ok::<_, String>(n)
        });
    let other = broker.consumer();
    let shrinking = Flaky {
        later_lease: Some(SECOND * 2),
        ..Flaky::new(broker)
    };
    let report = future::block_on(clock.run(workers.drive(async {
        shrinking.enqueue(jobs(&["1"])).await.unwrap();
        let options = options().until_empty();
        let serving = async { serve(&shrinking, &pool, options).await.unwrap() };
        let stealing = async {
            // The first lease is being extended by now.
            clock.sleep(SECOND).await;
            shrinking.enqueue(jobs(&["2"])).await.unwrap();
            future::yield_now().await;
            // Another process would take the job once its lease ends.
            loop {
                assert!(other.fetch(1, SECOND).await.unwrap().is_empty());
            }
        };
        future::or(serving, stealing).await
    })));
    assert_eq!((report.acked, report.lost), (2, 0));
}

#[test]
fn many_suspects_run_one_after_another_and_are_not_fetched_again_and_again() {
    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone());
    let suspect = broker.consumer();
    let payloads: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
    let running = Cell::new(0);
    let (pool, workers) = Pool::builder()
        .workers(50)
        .timer(clock.clone())
        .build(async |n: u32| {
            assert_eq!(running.replace(1), 0, "a suspect runs alone");
            clock.sleep(SECOND).await;
            running.set(0);
            Ok::<_, String>(if n == 13 { 14 } else { n })
        });
    let report = future::block_on(clock.run(workers.drive(async {
        broker.enqueue(jobs(&payloads)).await.unwrap();
        for _ in 0..2 {
            assert_eq!(suspect.fetch(50, SECOND).await.unwrap().len(), 50);
            suspect.lose_connection();
        }
        serve(&broker, &pool, options().until_empty())
            .await
            .unwrap()
    })));
    assert_adds_up(&report);
    assert_eq!(report.acked, 50);
    assert!(report.released < 50, "{report:?}");
    // With leases, nothing is reserved ahead, so there is nothing to wait for.
    assert!(clock.elapsed() < SECOND * 60, "{:?}", clock.elapsed());
}

/// Loses two deliveries of job 1.
async fn make_suspect(queue: &MemoryBroker) {
    queue.enqueue(jobs(&["1"])).await.unwrap();
    for _ in 0..2 {
        let dying = queue.consumer();
        assert_eq!(dying.fetch(1, SECOND).await.unwrap().len(), 1);
        dying.lose_connection();
    }
}

#[test]
fn a_suspect_starts_once_a_broker_without_leases_has_taken_back_what_it_pushed() {
    for (is_leaseless, expected) in [(false, 0), (true, 500)] {
        let clock = ManualTimer::new();
        let queue = MemoryBroker::new(clock.clone());
        let flaky = Flaky {
            is_leaseless,
            ..Flaky::new(queue.clone())
        };
        let started = Cell::new(None);
        let (pool, workers) =
            Pool::builder()
                .workers(2)
                .timer(clock.clone())
                .build(async |n: u32| {
                    started.set(Some(clock.elapsed()));
                    Ok::<_, String>(n)
                });
        let report = future::block_on(clock.run(workers.drive(async {
            make_suspect(&queue).await;
            serve(&flaky, &pool, options().until_empty()).await.unwrap()
        })));
        assert_eq!(report.acked, 1);
        assert_eq!(started.get(), Some(Duration::from_millis(expected)));
    }
}

#[test]
fn a_suspect_whose_delivery_is_lost_while_it_waits_does_not_run() {
    let clock = ManualTimer::new();
    let queue = MemoryBroker::new(clock.clone()).lease(SECOND * 3);
    let flaky = Flaky::new(queue.clone());
    let runs = Cell::new(0);
    let (pool, workers) = Pool::builder()
        .workers(2)
        .timer(clock.clone())
        .build(async |n: u32| {
            runs.set(runs.get() + u32::from(n == 1));
            clock.sleep(SECOND * 60).await;
            Ok::<_, String>(n)
        });
    let report = future::block_on(clock.run(workers.drive(async {
        make_suspect(&queue).await;
        queue.enqueue(jobs(&["2"])).await.unwrap();
        // Both are lost to another process after ten seconds, while 2 runs and 1 waits.
        let losing = async {
            clock.sleep(SECOND * 10).await;
            queue.lose_connection();
            let other = queue.consumer().lease(SECOND * 600);
            assert_eq!(other.fetch(2, Duration::ZERO).await.unwrap().len(), 2);
            future::pending().await
        };
        let options = options().until_empty();
        let serving = async { serve(&flaky, &pool, options).await.unwrap() };
        future::or(serving, losing).await
    })));
    assert_eq!((report.fetched, report.lost, runs.get()), (2, 2, 0));
    // Ten seconds of two deliveries, and the round that finds them lost.
    let extended = flaky.extended.into_inner();
    assert!(extended <= 22, "{extended}");
}

#[test]
fn panics_of_callbacks_are_contained() {
    struct Sharp;

    impl std::fmt::Display for Sharp {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("the reason was told to")
        }
    }

    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone());
    let mut flaky = Flaky::new(broker.clone());
    flaky.fetches = Mutex::new(vec![Some(lost())]);
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(clock.clone())
        .build(|()| async { Ok::<_, String>(()) });
    let report = future::block_on(clock.run(workers.drive(async {
        broker.enqueue(jobs(&["1"])).await.unwrap();
        let options = ServeOptions::new(|_, _| Err(Sharp), |_, ()| None)
            .on_error(|_| panic!("the log was told to"));
        serve(&flaky, &pool, options.until_empty()).await.unwrap()
    })));
    assert_eq!(report.dead_lettered, 1);
    assert!(reasons(&broker)["1"].contains("the reason was told to"));
}

#[test]
#[should_panic(expected = "serve needs a pool whose jobs add none")]
fn a_pool_whose_jobs_add_jobs_is_refused() {
    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone());
    let (pool, _workers) = Pool::builder()
        .workers(1)
        .timer(clock)
        .build_with_submitter(|n: u32, _| async move { Ok::<_, String>(n) });
    let _ = future::block_on(future::poll_once(Box::pin(serve(
        &broker,
        &pool,
        options(),
    ))));
}

/// The broker answers with fewer outcomes than it was asked for.
#[test]
fn a_missing_outcome_is_an_unknown_one() {
    let clock = ManualTimer::new();
    let broker = Flaky {
        is_silent: true,
        ..Flaky::new(MemoryBroker::new(clock.clone()))
    };
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(clock.clone())
        .build(|n: u32| async move { Ok::<_, String>(n) });
    let report = future::block_on(clock.run(workers.drive(async {
        broker.enqueue(jobs(&["1"])).await.unwrap();
        let stop = clock.sleep(SECOND * 20);
        serve(&broker, &pool, options().until(stop)).await.unwrap()
    })));
    assert_eq!((report.fetched, report.unsettled), (1, 1));
}

#[test]
fn a_future_of_serve_can_be_sent_if_its_parts_can() {
    fn is_send<V: Send>(value: V) -> V {
        value
    }
    let clock = ManualTimer::new();
    let broker = MemoryBroker::new(clock.clone());
    let (pool, _workers) = Pool::builder()
        .workers(1)
        .timer(clock)
        .build(|n: u32| async move { Ok::<_, String>(n) });
    drop(is_send(serve(&broker, &pool, options())));
}

// ---- in the simulator ----

const JOBS: u32 = 12;

/// Serves until every job has its end, again and again with another pool whenever serving ends.
async fn serve_all(sim: &Sim, queue: &MemoryBroker, runs: &Rc<RefCell<BTreeMap<u32, u32>>>) {
    loop {
        let counts = queue.counts();
        if counts.ready + counts.delayed + counts.leased == 0 {
            return;
        }
        serve_once(sim, &queue.consumer(), runs, usize::MAX).await;
        // The other process may hold a job for an hour.
        sim.clock().sleep(SECOND * 100).await;
    }
}

/// Serves with a pool of its own for at most so many polls; returns whether it ended by itself.
async fn serve_once(
    sim: &Sim,
    broker: &MemoryBroker,
    runs: &Rc<RefCell<BTreeMap<u32, u32>>>,
    polls: usize,
) -> bool {
    let (handler, log) = (sim.clone(), Rc::clone(runs));
    let (pool, workers) = sim.builder().workers(2).build(sim.faulty(move |n: u32| {
        let sim = handler.clone();
        *log.borrow_mut().entry(n).or_default() += 1;
        async move {
            if sim.one_in(2) {
                sim.clock().sleep(SECOND * sim.below(40) as u32).await;
            }
            if sim.is_to_fail() {
                return Err("told to fail");
            }
            Ok(n)
        }
    }));
    sim.spawn_workers(workers);
    sim.watch(&pool);
    let options = options()
        .prefetch(1 + sim.below(5) as usize)
        .max_deliveries(1000)
        .until_empty();
    poll_times(serve(broker, &pool, options), polls)
        .await
        .is_some_and(|served| {
            assert_adds_up(&served.unwrap());
            true
        })
}

fn enqueued(sim: &Sim) -> MemoryBroker {
    let queue = MemoryBroker::new(sim.clock().clone()).lease(SECOND * 10);
    let jobs = (1..=JOBS)
        .filter(|n| *n != 13)
        .map(|n| NewJob::new(n.to_string(), n.to_string()));
    future::block_on(queue.enqueue(jobs.collect())).unwrap();
    queue
}

fn assert_all_done(queue: &MemoryBroker) {
    assert!(
        queue.dead_letters().is_empty(),
        "{:?}",
        queue.dead_letters()
    );
    let ids: BTreeSet<_> = results(queue).into_keys().collect();
    let expected: BTreeSet<_> = (1..=JOBS).map(|n| n.to_string()).collect();
    assert_eq!(ids, expected);
}

#[test]
fn each_job_has_one_result_whatever_is_injected() {
    // A pool that is paused serves nothing for as long as that takes, which may be forever; and so
    // does one whose executor is gone.
    let without = [FaultKind::Pause, FaultKind::DropExecutor];
    let kinds = FaultKind::ALL.into_iter();
    let kinds = kinds.filter(|kind| !without.contains(kind));
    Simulation::new(0..150)
        .faults(kinds)
        .check(|sim| async move {
            let (queue, runs) = (enqueued(&sim), Rc::default());
            let other = {
                let (sim2, queue, runs) = (sim.clone(), queue.clone(), Rc::clone(&runs));
                sim.spawn("another process", async move {
                    serve_all(&sim2, &queue, &runs).await;
                })
            };
            serve_all(&sim, &queue, &runs).await;
            other.cancel();
            assert_all_done(&queue);
        });
}

#[test]
fn a_serve_that_is_dropped_at_any_await_loses_no_job() {
    let polls = drop_at_every_poll(0..10, |sim, polls| async move {
        let (queue, runs) = (enqueued(&sim), Rc::default());
        let has_ended = serve_once(&sim, &queue.consumer(), &runs, polls).await;
        serve_all(&sim, &queue, &runs).await;
        assert_all_done(&queue);
        if has_ended {
            assert!(runs.borrow().values().all(|runs| *runs == 1));
        }
        has_ended
    });
    assert!(polls > 5, "{polls}");
}
