//! One round: a small pool by chance, its workers and clients on real threads, an end, and what has
//! to hold then.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use brigade::rt::BoxFuture;
use brigade::{Event, JobId, Pool, RateLimit, Retry};
use fastrand::Rng;
use futures_lite::future;

use crate::clients::{Action, Client, Mix};
use crate::executors::{Clock, Kind};
use crate::jobs::{Bounds, Counts, Input, JobPool, Work, run};

/// How a round ends its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Close,
    Seal,
    Drain,
    /// With a grace that is never over.
    DrainWithin,
    /// Without grace.
    DrainAtOnce,
    Abort,
    DropWorkers,
    /// Drops the last handle, once the clients have dropped theirs.
    DropHandles,
}

impl Ending {
    pub(crate) const ALL: [Self; 8] = [
        Self::Close,
        Self::Seal,
        Self::Drain,
        Self::DrainWithin,
        Self::DrainAtOnce,
        Self::Abort,
        Self::DropWorkers,
        Self::DropHandles,
    ];

    /// Those that end a pool in spite of clients that wait for it.
    pub(crate) const ACTIVE: [Self; 7] = [
        Self::Close,
        Self::Seal,
        Self::Drain,
        Self::DrainWithin,
        Self::DrainAtOnce,
        Self::Abort,
        Self::DropWorkers,
    ];
}

/// What decides which job starts when.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Policies {
    /// Whether clients may switch on a schedule: by priorities, delays, pauses, sizes and rates.
    pub(crate) has_controls: bool,
    rate: Option<u32>,
    window: Option<u32>,
    has_keys: bool,
    running_per_key: Option<usize>,
    rate_per_key: Option<u32>,
    has_retries: bool,
    ages: bool,
    attempt_timeout: Option<Duration>,
    job_timeout: Option<Duration>,
}

impl Policies {
    fn draw(rng: &mut Rng) -> Self {
        let keys = rng.u8(..3);
        Self {
            has_controls: true,
            // The first is one that no job ever waits for.
            rate: (rng.u8(..3) == 0).then(|| {
                *rng.choice(&[u32::MAX, 1_000_000, 20_000])
                    .expect("there are some")
            }),
            window: (rng.u8(..6) == 0).then(|| rng.u32(1..100)),
            has_keys: keys > 0,
            running_per_key: (keys == 2).then(|| rng.usize(1..3)),
            rate_per_key: (keys > 0 && rng.bool()).then_some(u32::MAX),
            has_retries: rng.bool(),
            ages: rng.u8(..4) == 0,
            attempt_timeout: (rng.u8(..6) == 0).then_some(Duration::from_micros(300)),
            job_timeout: (rng.u8(..6) == 0).then_some(Duration::from_millis(2)),
        }
    }

    pub(crate) const fn has_timeouts(&self) -> bool {
        self.attempt_timeout.is_some() || self.job_timeout.is_some()
    }
}

/// All that a seed decides about a round before it starts.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) executor: Kind,
    /// Whether clients are tasks of the executor, or have a thread each.
    pub(crate) clients_on_executor: bool,
    pub(crate) workers: usize,
    pub(crate) slots: usize,
    pub(crate) capacity: usize,
    pub(crate) max_waiting: Option<usize>,
    pub(crate) has_submitter: bool,
    pub(crate) is_observed: bool,
    pub(crate) timings: bool,
    pub(crate) policies: Policies,
    pub(crate) works: Vec<Work>,
    /// What each client does.
    pub(crate) mixes: Vec<Mix>,
    /// How many actions each client makes.
    pub(crate) actions: usize,
    pub(crate) in_order: bool,
    pub(crate) ending: Ending,
    /// Whether the first client ends the pool while the others are busy with it.
    pub(crate) ends_midway: bool,
}

impl Config {
    /// A round of any kind.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let has_submitter = rng.u8(..4) == 0;
        let policies = if rng.u8(..3) == 0 {
            Policies::draw(rng)
        } else {
            Policies::default()
        };
        let capacity = if rng.u8(..8) > 0 {
            rng.usize(1..5)
        } else {
            rng.usize(1..100)
        };
        let mut config = Self {
            executor: *rng.choice(&Kind::ALL).expect("there are some"),
            clients_on_executor: rng.bool(),
            workers: if rng.u8(..4) > 0 {
                capacity.min(8) + rng.usize(1..5)
            } else {
                rng.usize(1..5)
            },
            slots: if rng.u8(..3) > 0 { 1 } else { rng.usize(2..5) },
            capacity,
            max_waiting: (rng.u8(..8) == 0).then(|| rng.usize(..4)),
            has_submitter,
            is_observed: rng.u8(..4) == 0,
            timings: rng.u8(..8) == 0,
            policies,
            works: works(rng, has_submitter),
            mixes: Vec::new(),
            actions: 1 << rng.u32(3..10),
            in_order: false,
            ending: *rng.choice(&Ending::ALL).expect("there are some"),
            ends_midway: rng.u8(..3) == 0,
        };
        if config.ends_midway && config.ending == Ending::DropHandles {
            config.ending = Ending::Abort;
        }
        config
    }

    fn bounds(&self) -> Bounds {
        let running = self.workers * self.slots;
        let running_per_key = self.policies.running_per_key.unwrap_or(usize::MAX);
        Bounds {
            running,
            running_per_key,
            in_order: self.in_order,
        }
    }

    /// Whether a job may be cancelled, abandoned or refused without its client having asked for it.
    pub(crate) const fn is_disturbed(&self) -> bool {
        self.ends_midway
    }

    fn build(
        &self,
        counts: &Arc<Counts>,
        events: &Arc<Events>,
    ) -> (JobPool, Vec<BoxFuture<'static, ()>>) {
        let mut builder = Pool::builder()
            .workers(self.workers)
            .jobs_per_worker(self.slots)
            .queue_capacity(self.capacity)
            .timings(self.timings)
            .timer(Clock);
        if let Some(most) = self.max_waiting {
            builder = builder.max_waiting(most);
        }
        if self.is_observed {
            let events = Arc::clone(events);
            builder = builder.observe(move |event: &Event| events.note(event));
        }
        let policies = self.policies;
        if let Some(rate) = policies.rate {
            builder = builder.rate_limit(RateLimit::per_second(rate).burst(3));
        } else if let Some(permits) = policies.window {
            builder =
                builder.rate_limit(RateLimit::sliding_window(permits, Duration::from_millis(1)));
        }
        if policies.has_keys {
            builder = builder.key_by(|input: &Input| input.key() as u64);
        }
        if let Some(most) = policies.running_per_key {
            builder = builder.max_running_per_key(most);
        }
        if let Some(rate) = policies.rate_per_key {
            builder = builder.rate_limit_per_key(RateLimit::per_second(rate));
        }
        if policies.has_retries {
            builder = builder.retry(Retry::fixed(Duration::ZERO).max_attempts(3));
        }
        if policies.ages {
            builder = builder.aging(Duration::from_micros(50));
        }
        if let Some(limit) = policies.attempt_timeout {
            builder = builder.attempt_timeout(limit);
        }
        if let Some(limit) = policies.job_timeout {
            builder = builder.job_timeout(limit);
        }
        let futures = RefCell::new(Vec::new());
        let collect = |future| futures.borrow_mut().push(future);
        let pool = if self.has_submitter {
            let (pool, workers) =
                builder.build_with_submitter(|input: Input, jobs| run(input, Some(jobs)));
            workers.spawn_on(&collect);
            pool
        } else {
            builder.spawn_on(&collect, |input: Input| run(input, None))
        };
        let counts = Arc::clone(counts);
        let unhandled = Arc::clone(events);
        pool.on_unhandled(move |failure| {
            let is_first = unhandled
                .unhandled
                .lock()
                .unwrap()
                .insert(failure.id, ())
                .is_none();
            counts.expect(is_first, || {
                format!("a failure of job {} is reported twice", failure.id)
            });
        });
        (pool, futures.into_inner())
    }
}

/// The kinds of jobs of a round; one that occurs more often in the list is more frequent.
fn works(rng: &mut Rng, has_submitter: bool) -> Vec<Work> {
    let mut works = match rng.u8(..4) {
        0 => vec![Work::Return],
        1 => vec![Work::Return, Work::Yield],
        2 => vec![Work::Return, Work::Yield, Work::Sleep(100)],
        _ => vec![
            Work::Return,
            Work::Return,
            Work::Yield,
            Work::Sleep(100),
            Work::Fail,
            Work::Panic,
        ],
    };
    if has_submitter {
        works.push(Work::Add(rng.usize(1..4)));
    }
    works
}

/// What an observer saw of each job.
#[derive(Default)]
struct Events {
    /// How often it was accepted, and how often finished.
    jobs: Mutex<HashMap<JobId, (u32, u32)>>,
    unhandled: Mutex<HashMap<JobId, ()>>,
}

impl Events {
    fn note(&self, event: &Event) {
        match event {
            Event::Accepted { job } => self.jobs.lock().unwrap().entry(*job).or_default().0 += 1,
            Event::Finished { job, .. } => {
                self.jobs.lock().unwrap().entry(*job).or_default().1 += 1;
            }
            _ => {}
        }
    }
}

pub(crate) struct Round {
    pub(crate) config: Config,
    pub(crate) counts: Arc<Counts>,
    seed: u64,
    /// For the watchdog; `None` while clients alone keep the pool open.
    pool: Mutex<Option<JobPool>>,
    /// Dropping one of these drops a worker.
    stops: Mutex<Vec<Sender<()>>>,
    /// What each client does now.
    doing: Vec<AtomicUsize>,
    /// How many wait for an input that comes only after the end of the pool; kept here so that it
    /// does not.
    sources: Mutex<Vec<Sender<Input>>>,
    ended: AtomicU64,
}

/// What a client does that has not begun, and one that is done.
const WAITS: usize = usize::MAX;
const DONE: usize = usize::MAX - 1;

impl Round {
    /// Runs a round; yields how many jobs there were, or what was broken.
    pub(crate) fn run(
        seed: u64,
        config: Config,
        watch: impl FnOnce(Arc<Self>),
    ) -> Result<u64, String> {
        let counts = Counts::new(config.bounds());
        let events = Arc::new(Events::default());
        let (pool, workers) = config.build(&counts, &events);
        let (stops, stopped): (Vec<_>, Vec<Receiver<()>>) =
            workers.iter().map(|_| async_channel::bounded(1)).unzip();
        let doing = config
            .mixes
            .iter()
            .map(|_| AtomicUsize::new(WAITS))
            .collect();
        let round = Arc::new(Self {
            config,
            counts,
            seed,
            pool: Mutex::new(Some(pool.clone())),
            stops: Mutex::new(stops),
            doing,
            sources: Mutex::default(),
            ended: AtomicU64::new(0),
        });
        watch(Arc::clone(&round));
        let (alive, gone) = async_channel::bounded::<()>(1);
        for (worker, stopped) in workers.into_iter().zip(stopped) {
            let alive = alive.clone();
            round.config.executor.spawn(Box::pin(async move {
                let stop = async { _ = stopped.recv().await };
                future::or(worker, stop).await;
                drop(alive);
            }));
        }
        drop(alive);
        round.run_clients(&pool);
        round.finish(pool);
        let all_gone = future::block_on(gone.recv());
        debug_assert!(all_gone.is_err(), "nothing is sent");
        let accepted = round.check(&events);
        let violations = round.counts.violations();
        if violations.is_empty() {
            Ok(accepted)
        } else {
            Err(format!("{violations:#?}\n{}", round.describe()))
        }
    }

    fn run_clients(self: &Arc<Self>, pool: &JobPool) {
        let (busy, done) = async_channel::bounded::<()>(1);
        let mut rng = Rng::with_seed(self.seed);
        for number in 0..self.config.mixes.len() {
            let client = Client::new(self, pool.clone(), rng.fork(), number);
            let (round, busy) = (Arc::clone(self), busy.clone());
            let executor = if self.config.clients_on_executor {
                self.config.executor
            } else {
                Kind::Threads
            };
            executor.spawn(Box::pin(async move {
                client.run().await;
                round.doing[number].store(DONE, Ordering::SeqCst);
                // The client is gone here, with its handles.
                drop(busy);
            }));
        }
        drop(busy);
        let all_done = future::block_on(done.recv());
        debug_assert!(all_done.is_err(), "nothing is sent");
    }

    /// After the clients: everything comes to rest, and then the pool is ended, unless a client did
    /// so.
    fn finish(self: &Arc<Self>, pool: JobPool) {
        let mut last = Client::new(self, pool, Rng::with_seed(self.seed), 0);
        future::block_on(async {
            if !self.config.ends_midway {
                last.rest().await;
            }
            if !self.has_ended() {
                last.end(self.config.ending).await;
            }
            last.rest().await;
        });
        if self.config.ending == Ending::DropHandles {
            drop(self.pool.lock().unwrap().take());
        }
        drop(last);
    }

    fn check(&self, events: &Events) -> u64 {
        let counts = &self.counts;
        let Some(pool) = self.pool.lock().unwrap().take() else {
            self.wait_for_drops();
            return counts.accepted.load(Ordering::SeqCst) + counts.added.load(Ordering::SeqCst);
        };
        let stats = pool.stats();
        let rest = (stats.queued, stats.delayed, stats.running, stats.workers);
        counts.expect(rest == (0, 0, 0, 0), || {
            format!("something is left: {stats:?}")
        });
        let outcomes = stats.succeeded
            + stats.failed
            + stats.timed_out
            + stats.panicked
            + stats.cancelled
            + stats.abandoned
            + stats.rejected;
        counts.expect(stats.accepted == outcomes, || {
            format!("outcomes do not add up: {stats:?}")
        });
        let (accepted, added) = (
            counts.accepted.load(Ordering::SeqCst),
            counts.added.load(Ordering::SeqCst),
        );
        counts.expect(stats.accepted == accepted + added, || {
            format!("{accepted} + {added} were accepted: {stats:?}")
        });
        let values = counts.values.load(Ordering::SeqCst);
        counts.expect(stats.succeeded <= values, || {
            format!("{values} attempts returned a value: {stats:?}")
        });
        if self.config.is_observed {
            let jobs = events.jobs.lock().unwrap();
            let is_whole =
                jobs.len() as u64 == stats.accepted && jobs.values().all(|seen| *seen == (1, 1));
            let odd = jobs
                .iter()
                .filter(|(_, seen)| **seen != (1, 1))
                .take(5)
                .collect::<Vec<_>>();
            counts.expect(is_whole, || {
                format!(
                    "events of {} jobs, of which odd: {odd:?}; {stats:?}",
                    jobs.len()
                )
            });
        }
        drop(pool);
        self.wait_for_drops();
        stats.accepted
    }

    /// Each input is dropped, and as often as it was made. The last may be on their way out of an
    /// executor.
    fn wait_for_drops(&self) {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        while count(&self.counts.created) > count(&self.counts.dropped) {
            std::thread::yield_now();
        }
        let (created, dropped) = (count(&self.counts.created), count(&self.counts.dropped));
        self.counts.expect(created == dropped, || {
            format!("{created} inputs were made and {dropped} dropped")
        });
    }

    pub(crate) fn set_doing(&self, client: usize, action: Action) {
        self.doing[client].store(action as usize, Ordering::SeqCst);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst) > 0
    }

    /// Notes that the pool is about to end; says whether this is the first time.
    pub(crate) fn note_end(&self) -> bool {
        self.ended.fetch_add(1, Ordering::SeqCst) == 0
    }

    pub(crate) fn drop_workers(&self) {
        self.stops.lock().unwrap().clear();
    }

    /// Drops one worker, if it is not the last.
    pub(crate) fn drop_worker(&self) {
        let mut stops = self.stops.lock().unwrap();
        if stops.len() > 1 {
            stops.pop();
        }
    }

    /// A source of inputs that yields none and does not end while the round goes on.
    pub(crate) fn silent_source(&self) -> Receiver<Input> {
        let (sender, receiver) = async_channel::bounded(1);
        self.sources.lock().unwrap().push(sender);
        receiver
    }

    /// The configuration and what the clients do, without a look at the pool.
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("seed {}, {:?}\n", self.seed, self.config);
        for (client, doing) in self.doing.iter().enumerate() {
            let doing = match doing.load(Ordering::SeqCst) {
                WAITS => "has not begun".to_owned(),
                DONE => "is done".to_owned(),
                action => format!("{:?}", Action::ALL[action]),
            };
            let _ = writeln!(text, "client {client}: {doing}");
        }
        text
    }

    pub(crate) fn describe_pool(&self) -> String {
        match &*self.pool.lock().unwrap() {
            Some(pool) => format!(
                "{:?}\nrunning: {:?}\npaused: {}",
                pool.stats(),
                pool.running(),
                pool.is_paused()
            ),
            None => "the pool has no handle any more".to_owned(),
        }
    }
}
