//! Enqueues the jobs, keeps as many workers running as there should be, strikes them at random
//! moments, and accounts for every job at the end.
//!
//! 1. [`Queue::open`] makes an empty queue, [`Queue::enqueue`] fills it.
//! 2. Until most of the jobs have their end, [`Crew::keep`] starts a worker for each that died, and
//!    [`Events::strike`] does the next harm. The rest is left to end in peace.
//! 3. [`Crew::dismiss`] closes stdin of the workers, and reads their reports. A job may be in the
//!    queue twice where the broker does not know ids; so workers are started again until it is empty
//!    and none of them has died of such a job.
//! 4. [`Tally::check`] compares results and dead letters with the jobs.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use brigade::broker::{Broker, BrokerError, JobId, NewJob};
use brigade_amqp::AmqpBroker;
use brigade_sqlite::{Durability, SqliteBroker};
use fastrand::Rng;

use crate::Plan;
use crate::events::Events;
use crate::proxy::Proxy;
use crate::queue::{self, Address, Kind, LEASE, OUTAGE, Work};

/// How many jobs are enqueued in one call.
const BATCH: usize = 1000;
/// How many bytes they have together, at most, unless it is one.
const BATCH_BYTES: usize = 16_000_000;
/// No job has its end for so long: it has come to a halt.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run(plan: &Plan, kind: Kind) -> Result<(), String> {
    let seed = plan.seed.unwrap_or_else(|| fastrand::u64(..));
    let mut rng = Rng::with_seed(seed);
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let logs = plan.logs.as_deref().unwrap_or(directory.path());
    fs::create_dir_all(logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    println!(
        "chaos: {} jobs, {} workers, seed {seed}",
        plan.jobs, plan.workers
    );

    let mut queue = Queue::open(kind, directory.path(), Durability::Full)?;
    queue.enqueue(plan.jobs, 0)?;
    queue.put_proxy()?;
    let runs = directory.path().join("runs");
    let mut crew = Crew::new(Some(logs), Some(&runs));
    let mut events = Events::default();
    let mut tally = Tally::default();
    let (mut last_ended, mut since) = (0, Instant::now());
    let reports = loop {
        crew.keep(plan.workers, &queue, || rng.i64(-500..500))?;
        thread::sleep(Duration::from_millis(rng.u64(200..1200)));
        queue.read(&mut tally)?;
        let ended = tally.ended();
        if kind == Kind::Amqp
            && Events::can_restart()
            && events.restarts == 0
            && ended >= plan.jobs * 3 / 10
        {
            events.restart()?;
            // The next look connects again.
            continue;
        }
        if ended >= plan.jobs
            && queue.left()? == 0
            && let Some(reports) = crew.dismiss()?
            && queue.left()? == 0
        {
            break reports;
        }
        if ended > last_ended {
            (last_ended, since) = (ended, Instant::now());
        }
        if since.elapsed() > PATIENCE {
            return Err(format!(
                "chaos: no job has ended for {} s: {ended} of {} have, {events}, {}",
                PATIENCE.as_secs(),
                plan.jobs,
                queue.counts()?.1
            ));
        }
        // The last ones in peace, so that there is an end.
        if ended < plan.jobs * 9 / 10 {
            events.strike(&mut rng, &crew.ids(), queue.proxy());
        }
    };
    queue.read(&mut tally)?;
    let runs = fs::read_to_string(&runs).map_err(|error| error.to_string())?;
    println!(
        "chaos: jobs={} results={} duplicates={} dead={} runs={} {events} workers={} {reports}",
        plan.jobs,
        tally.results.len(),
        tally.duplicates(),
        tally.dead.len(),
        runs.lines().count(),
        crew.started,
    );
    tally.check(plan.jobs, kind, Work::of)?;
    events.check(kind)?;
    queue.close();
    println!("chaos: every job has its end");
    Ok(())
}

/// Reads until it succeeds, or the broker is out of reach for too long.
fn repeat(mut read: impl FnMut() -> Result<(), BrokerError>) -> Result<(), String> {
    let deadline = Instant::now() + OUTAGE;
    loop {
        match read() {
            Ok(()) => return Ok(()),
            Err(error) if error.is_permanent() || Instant::now() > deadline => {
                return Err(format!("the results cannot be read: {error}"));
            }
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// The queue as the controller sees it.
pub(crate) enum Queue {
    Sqlite {
        broker: SqliteBroker,
        path: String,
        durability: Durability,
        result: i64,
        letter: i64,
    },
    Amqp {
        broker: AmqpBroker,
        /// Between the workers and the server, if there is one.
        proxy: Option<Proxy>,
        /// The URL for workers, through the proxy.
        url: String,
        name: String,
    },
}

impl Queue {
    pub(crate) fn open(
        kind: Kind,
        directory: &Path,
        durability: Durability,
    ) -> Result<Self, String> {
        match kind {
            Kind::Sqlite => {
                let path = directory.join("jobs.db").display().to_string();
                let broker = smol::block_on(queue::sqlite(&path, 0, durability, LEASE))?;
                Ok(Self::Sqlite {
                    broker,
                    path,
                    durability,
                    result: 0,
                    letter: 0,
                })
            }
            Kind::Amqp => {
                let url = std::env::var("BRIGADE_AMQP_URL")
                    .map_err(|_| "BRIGADE_AMQP_URL has to name a RabbitMQ server".to_owned())?;
                let name = format!("chaos-{}", std::process::id());
                let broker = smol::block_on(queue::amqp(&url, &name))?;
                Ok(Self::Amqp {
                    broker,
                    proxy: None,
                    url,
                    name,
                })
            }
        }
    }

    /// Puts a proxy between the server, if there is one, and the workers.
    fn put_proxy(&mut self) -> Result<(), String> {
        if let Self::Amqp { proxy, url, .. } = self {
            // amqp://user:password@host:port/vhost
            let (before, rest) = url
                .rsplit_once('@')
                .ok_or("BRIGADE_AMQP_URL has to name user and password")?;
            let (server, vhost) = rest.split_once('/').unwrap_or((rest, "%2f"));
            let between = Proxy::start(server.to_owned()).map_err(|error| error.to_string())?;
            *url = format!("{before}@127.0.0.1:{}/{vhost}", between.port);
            *proxy = Some(between);
        }
        Ok(())
    }

    /// The address for a worker, whose clock differs from that of others by so many milliseconds.
    fn address(&self, clock: i64) -> Address {
        match self {
            Self::Sqlite {
                path, durability, ..
            } => Address::Sqlite {
                path: path.clone(),
                clock,
                durability: *durability,
            },
            Self::Amqp { url, name, .. } => Address::Amqp {
                url: url.clone(),
                queue: name.clone(),
            },
        }
    }

    const fn proxy(&self) -> Option<&Proxy> {
        match self {
            Self::Sqlite { .. } => None,
            Self::Amqp { proxy, .. } => proxy.as_ref(),
        }
    }

    /// Enqueues jobs whose payload is their number, padded to so many bytes.
    pub(crate) fn enqueue(&self, jobs: u64, payload: usize) -> Result<(), String> {
        let numbers: Vec<u64> = (0..jobs).collect();
        let batch = BATCH.min(BATCH_BYTES / payload.max(1)).max(1);
        for batch in numbers.chunks(batch) {
            let job = |number: &u64| {
                let id = number.to_string();
                let padding = payload.saturating_sub(id.len());
                let payload = [id.as_bytes(), &vec![b' '; padding]].concat();
                NewJob::new(id, payload)
            };
            let batch: Vec<NewJob> = batch.iter().map(job).collect();
            smol::block_on(async {
                match self {
                    Self::Sqlite { broker, .. } => broker.enqueue(batch).await,
                    Self::Amqp { broker, .. } => broker.enqueue(batch).await,
                }
            })
            .map_err(|error| format!("enqueue: {error}"))?;
        }
        Ok(())
    }

    /// Reads the results and the dead letters that are new.
    fn read(&mut self, tally: &mut Tally) -> Result<(), String> {
        self.read_results(tally)?;
        repeat(|| smol::block_on(self.try_dead_letters(tally)))
    }

    /// Reads the results that are new.
    pub(crate) fn read_results(&mut self, tally: &mut Tally) -> Result<(), String> {
        repeat(|| smol::block_on(self.try_results(tally)))
    }

    async fn try_results(&mut self, tally: &mut Tally) -> Result<(), BrokerError> {
        match self {
            Self::Sqlite { broker, result, .. } => {
                while let page = broker.results_after(*result, BATCH).await?
                    && let Some(last) = page.last()
                {
                    *result = last.cursor;
                    page.iter().for_each(|stored| tally.result(&stored.job_id));
                }
            }
            Self::Amqp { broker, .. } => loop {
                let results = broker.fetch_results(BATCH, Duration::ZERO).await?;
                if results.is_empty() {
                    break;
                }
                let ids: Vec<JobId> = results.iter().map(|stored| stored.job_id.clone()).collect();
                let receipts = results.into_iter().map(|stored| stored.receipt).collect();
                let acked = broker.ack_results(receipts).await;
                // A result that could not be acknowledged comes again, and is counted then.
                for (id, _) in ids.iter().zip(acked).filter(|(_, acked)| acked.is_ok()) {
                    tally.result(id);
                }
            },
        }
        Ok(())
    }

    async fn try_dead_letters(&mut self, tally: &mut Tally) -> Result<(), BrokerError> {
        match self {
            Self::Sqlite { broker, letter, .. } => {
                while let page = broker.dead_letters_after(*letter, BATCH).await?
                    && let Some(last) = page.last()
                {
                    *letter = last.cursor;
                    page.iter().for_each(|dead| tally.dead(&dead.letter.job_id));
                }
            }
            Self::Amqp { broker, .. } => {
                if broker.counts().await?.dead > 0 {
                    let letters = broker.dead_letters(BATCH).await?;
                    letters.iter().for_each(|letter| tally.dead(&letter.job_id));
                }
            }
        }
        Ok(())
    }

    /// How many jobs are left in the queue, and all counts for people. RabbitMQ knows of none that is
    /// delivered.
    fn counts(&self) -> Result<(u64, String), String> {
        let counts = smol::block_on(async {
            Ok::<_, BrokerError>(match self {
                Self::Sqlite { broker, .. } => {
                    let counts = broker.counts().await?;
                    let left = counts.ready + counts.delayed + counts.leased;
                    (left, format!("{counts:?}"))
                }
                Self::Amqp { broker, .. } => {
                    let counts = broker.counts().await?;
                    let left = u64::from(counts.ready + counts.delayed);
                    (left, format!("{counts:?}"))
                }
            })
        });
        counts.map_err(|error| error.to_string())
    }

    fn left(&self) -> Result<u64, String> {
        Ok(self.counts()?.0)
    }

    pub(crate) fn close(self) {
        // What is on disk stays whole without it.
        let _ = smol::block_on(async {
            match self {
                Self::Sqlite { broker, .. } => broker.close().await,
                Self::Amqp { broker, .. } => broker.close().await,
            }
        });
    }
}

/// The workers that run.
pub(crate) struct Crew {
    /// The file in which workers note each run; without one, their jobs do nothing.
    runs: Option<PathBuf>,
    /// The directory for what workers write to stderr; without one, it goes to this process's.
    logs: Option<PathBuf>,
    /// How many were ever started.
    started: u64,
    workers: Vec<Child>,
}

impl Crew {
    pub(crate) fn new(logs: Option<&Path>, runs: Option<&Path>) -> Self {
        Self {
            runs: runs.map(Path::to_owned),
            logs: logs.map(Path::to_owned),
            started: 0,
            workers: Vec::new(),
        }
    }

    /// Starts workers in the place of those that have ended, each with a clock of its own.
    pub(crate) fn keep(
        &mut self,
        count: usize,
        queue: &Queue,
        mut clock: impl FnMut() -> i64,
    ) -> Result<(), String> {
        let mut failure = Ok(());
        self.workers.retain_mut(|worker| match worker.try_wait() {
            Ok(None) => true,
            // Killed, by a signal of the controller or of a job.
            Ok(Some(status)) if status.signal().is_some() => false,
            Ok(Some(status)) => {
                failure = Err(format!("a worker ended with {status}: see --logs"));
                false
            }
            Err(error) => {
                failure = Err(error.to_string());
                true
            }
        });
        failure?;
        while self.workers.len() < count {
            let log = match &self.logs {
                Some(logs) => {
                    let log = logs.join(format!("worker-{}.log", self.started));
                    let file = File::create(&log);
                    file.map_err(|error| format!("{}: {error}", log.display()))?
                        .into()
                }
                None => Stdio::inherit(),
            };
            let program = std::env::current_exe().map_err(|error| error.to_string())?;
            let worker = Command::new(program)
                .arg("worker")
                .arg(queue.address(clock()).to_string())
                .args(&self.runs)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(log)
                .spawn()
                .map_err(|error| format!("a worker cannot be started: {error}"))?;
            self.workers.push(worker);
            self.started += 1;
        }
        Ok(())
    }

    fn ids(&self) -> Vec<u32> {
        self.workers.iter().map(Child::id).collect()
    }

    /// Lets the workers end, and adds up what they report. `None` if a job ended one of them.
    pub(crate) fn dismiss(&mut self) -> Result<Option<Reports>, String> {
        let mut reports = Reports::default();
        let mut has_died = false;
        for mut worker in self.workers.drain(..) {
            drop(worker.stdin.take());
            let mut text = String::new();
            if let Some(mut stdout) = worker.stdout.take() {
                stdout
                    .read_to_string(&mut text)
                    .map_err(|error| error.to_string())?;
            }
            let status = worker.wait().map_err(|error| error.to_string())?;
            if status.signal().is_some() {
                has_died = true;
                continue;
            }
            if !status.success() {
                return Err(format!("a worker ended with {status}: see --logs"));
            }
            let mut numbers = text.split_whitespace().map(str::parse);
            let mut next = || match numbers.next() {
                Some(Ok(number)) => Ok(number),
                _ => Err(format!("no report of a worker: {text:?}")),
            };
            reports.fetched += next()?;
            reports.redelivered += next()?;
            reports.lost += next()?;
            reports.unsettled += next()?;
            let (first, last) = (next()?, next()?);
            reports.first = reports.first.min(Duration::from_nanos(first));
            reports.last = reports.last.max(Duration::from_nanos(last));
            reports.cpu += Duration::from_nanos(next()?);
        }
        Ok((!has_died).then_some(reports))
    }
}

/// What the workers that were there at the end have reported.
#[derive(Debug)]
pub(crate) struct Reports {
    pub(crate) fetched: u64,
    pub(crate) redelivered: u64,
    lost: u64,
    unsettled: u64,
    /// When the first delivery came, by the monotonic clock.
    pub(crate) first: Duration,
    /// When the last delivery was settled.
    pub(crate) last: Duration,
    /// The processor time that they took.
    pub(crate) cpu: Duration,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            fetched: 0,
            redelivered: 0,
            lost: 0,
            unsettled: 0,
            first: Duration::MAX,
            last: Duration::ZERO,
            cpu: Duration::ZERO,
        }
    }
}

impl std::fmt::Display for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "last-fetched={} last-redelivered={} last-lost={} last-unsettled={}",
            self.fetched, self.redelivered, self.lost, self.unsettled
        )
    }
}

/// What has become of the jobs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// How many results a job has.
    results: HashMap<String, u64>,
    dead: BTreeSet<String>,
}

impl Tally {
    fn result(&mut self, id: &JobId) {
        *self.results.entry(id.to_string()).or_default() += 1;
    }

    fn dead(&mut self, id: &JobId) {
        self.dead.insert(id.to_string());
    }

    /// How many jobs have a result, or are dead letters.
    pub(crate) fn ended(&self) -> u64 {
        let both = self.dead.iter().filter(|id| self.results.contains_key(*id));
        (self.results.len() + self.dead.len() - both.count()) as u64
    }

    /// How many results are there beyond one for each job.
    fn duplicates(&self) -> u64 {
        self.results.values().map(|count| count - 1).sum()
    }

    /// Fails unless each job has its end: those that end their process are dead letters, and all
    /// others have a result, and exactly one where result and acknowledgement are one transaction.
    pub(crate) fn check(
        &self,
        jobs: u64,
        kind: Kind,
        work: impl Fn(u64) -> Work,
    ) -> Result<(), String> {
        for number in 0..jobs {
            let id = number.to_string();
            let (result, dead) = (self.results.get(&id), self.dead.contains(&id));
            let is_poison = work(number) == Work::Poison;
            match (result, dead) {
                (None, true) if is_poison => {}
                (Some(1), false) if !is_poison => {}
                (Some(_), false) if !is_poison && kind == Kind::Amqp => {}
                (result, dead) => {
                    return Err(format!(
                        "job {number}, {:?}: results {result:?}, dead {dead}",
                        work(number)
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_finds_what_is_lost_twice_or_dead_by_mistake() {
        let full = |jobs: u64| {
            let mut tally = Tally::default();
            for number in 0..jobs {
                let id = JobId::new(number.to_string());
                match Work::of(number) {
                    Work::Poison => tally.dead(&id),
                    Work::Nothing | Work::Short | Work::Long => tally.result(&id),
                }
            }
            tally
        };
        let tally = full(5000);
        assert_eq!((tally.ended(), tally.dead.len()), (5000, 1));
        assert_eq!(tally.check(5000, Kind::Sqlite, Work::of), Ok(()));
        assert!(tally.check(5001, Kind::Sqlite, Work::of).is_err());

        let mut twice = full(5000);
        twice.result(&"7".into());
        assert_eq!((twice.ended(), twice.duplicates()), (5000, 1));
        assert!(twice.check(5000, Kind::Sqlite, Work::of).is_err());
        assert_eq!(twice.check(5000, Kind::Amqp, Work::of), Ok(()));

        let mut both = full(5000);
        both.dead(&"7".into());
        assert_eq!(both.ended(), 5000);
        assert!(both.check(5000, Kind::Amqp, Work::of).is_err());
    }
}
