//! What is run: the list of workloads, who takes part in each, and the way from a name to a run.

mod cancel;
mod delayed;
mod drain;
pub(crate) mod echo;
pub(crate) mod idle;
mod latency;
mod producers;
mod queued;

use crate::contender::Contender::{self, *};
use crate::contender::{nothing, script};
use crate::measure::Sample;
use crate::runtime::Load;
use crate::work::{Compute, Echo, Ready, Sleep, TokioEcho, TokioSleep, YieldOnce};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Jobs that are ready when they are first polled.
    Ready,
    /// Jobs that yield once.
    Yield,
    /// Jobs that sleep for 1 ms.
    Sleep,
    /// Jobs that compute for 10 µs.
    Compute,
    /// Requests to an echo server, which is a process of its own.
    Echo,
    /// Single jobs on an idle pool, from the thread of the pool or from another.
    Latency { is_across: bool },
    /// So many tasks that hand in jobs.
    Producers(u64),
    /// All jobs queued before the first starts.
    Queued,
    /// All jobs delayed by a second.
    Delayed,
    /// All jobs delayed by an hour, and the process ends before.
    Held,
    /// Workers, and no job.
    Idle,
    /// All jobs queued, then cancelled.
    Cancel,
    /// All jobs queued, then the pool is told to finish.
    Drain,
    /// A process that does nothing.
    Empty,
}

/// A workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// What it is, for the heading of its table.
    pub(crate) about: &'static str,
    pub(crate) kind: Kind,
    pub(crate) at_once: usize,
    pub(crate) jobs: u64,
    /// On how many threads; those that can use only one run on one.
    pub(crate) threads: &'static [usize],
    pub(crate) contenders: &'static [Contender],
}

const ALL: &[Contender] = &[
    PlainLoop,
    Naive,
    Brigade,
    BrigadeSlots,
    BufferUnordered,
    ForEachConcurrent,
    FuturesBuffered,
    FuturesConcurrency,
    ParStream,
    SpawnSemaphore,
    JoinSet,
    SpawnBuffered,
    TowerBuffer,
    Apalis,
    Cronoq,
    Python,
    Node,
    PQueue,
    Go,
];
const WAITING: &[Contender] = &[
    Naive,
    Brigade,
    BrigadeSlots,
    BufferUnordered,
    ForEachConcurrent,
    FuturesBuffered,
    FuturesConcurrency,
    ParStream,
    SpawnSemaphore,
    JoinSet,
    SpawnBuffered,
    TowerBuffer,
    Apalis,
    Cronoq,
    Python,
    Node,
    PQueue,
    Go,
];
const COMPUTING: &[Contender] = &[
    PlainLoop,
    Naive,
    Brigade,
    BrigadeSlots,
    ParStream,
    SpawnSemaphore,
    JoinSet,
    SpawnBuffered,
    RayonIter,
    RayonSpawn,
    Threadpool,
];
const ON_SOCKETS: &[Contender] = &[
    Naive,
    Brigade,
    BrigadeSlots,
    BufferUnordered,
    ForEachConcurrent,
    FuturesBuffered,
    ParStream,
    SpawnSemaphore,
    JoinSet,
    SpawnBuffered,
    TowerBuffer,
];
const ASKED_ONE_BY_ONE: &[Contender] = &[PlainLoop, Naive, Brigade, BrigadeSlots, SpawnSemaphore, JoinSet];
const SHARED: &[Contender] = &[Naive, Brigade, BrigadeSlots, SpawnSemaphore, JoinSet];
const LAZY: &[Contender] =
    &[PlainLoop, Naive, Brigade, BrigadeSlots, BufferUnordered, FuturesBuffered, ParStream, SpawnSemaphore, JoinSet];
const QUEUES: &[Contender] = &[Naive, Brigade, BrigadeSlots, SpawnSemaphore, JoinSet];
const CANCELLING: &[Contender] =
    &[Naive, Brigade, BrigadeSlots, BufferUnordered, FuturesBuffered, SpawnSemaphore, JoinSet];
/// Those that have a delay, or a task that sleeps.
const DELAYING: &[Contender] = &[Brigade, BrigadeSlots, SpawnSemaphore, JoinSet];
const POOLS: &[Contender] = &[Naive, Brigade, BrigadeSlots];
const BOTH: &[usize] = &[1, 2];
const ONE: &[usize] = &[1];
const TWO: &[usize] = &[2];

const fn workload(
    name: &'static str,
    about: &'static str,
    kind: Kind,
    (jobs, at_once): (u64, usize),
    threads: &'static [usize],
    contenders: &'static [Contender],
) -> Workload {
    Workload { name, about, kind, at_once, jobs, threads, contenders }
}

/// All of them, in the order of the tables.
pub(crate) const WORKLOADS: &[Workload] = &[
    workload("ready-10", "ready at once, 10 at once", Kind::Ready, (1_000_000, 10), BOTH, ALL),
    workload("ready-1000", "ready at once, 1,000 at once", Kind::Ready, (1_000_000, 1_000), BOTH, ALL),
    workload("yield-1000", "yield once, 1,000 at once", Kind::Yield, (500_000, 1_000), BOTH, ALL),
    workload("sleep-10", "sleep 1 ms, 10 at once", Kind::Sleep, (3_000, 10), ONE, WAITING),
    workload("sleep-1000", "sleep 1 ms, 1,000 at once", Kind::Sleep, (100_000, 1_000), BOTH, WAITING),
    workload("sleep-10000", "sleep 1 ms, 10,000 at once", Kind::Sleep, (100_000, 10_000), BOTH, WAITING),
    workload("head-of-line", "20,000 sleeps of 1 ms, 1,000 at once", Kind::Sleep, (20_000, 1_000), BOTH, POOLS),
    workload("compute", "compute 10 µs, 2 threads", Kind::Compute, (50_000, 10), TWO, COMPUTING),
    workload("echo", "loopback echo, 100 at once", Kind::Echo, (30_000, 100), ONE, ON_SOCKETS),
    workload(
        "latency",
        "submission to outcome of a lone job, same thread",
        Kind::Latency { is_across: false },
        (2_000, 10),
        ONE,
        ASKED_ONE_BY_ONE,
    ),
    workload(
        "latency-across",
        "submission to outcome of a lone job, another thread",
        Kind::Latency { is_across: true },
        (2_000, 10),
        ONE,
        ASKED_ONE_BY_ONE,
    ),
    workload("producers-1", "1 producer of 1,000,000 jobs", Kind::Producers(1), (1_000_000, 10), BOTH, SHARED),
    workload("producers-10", "10 producers of 100,000 jobs", Kind::Producers(10), (1_000_000, 10), BOTH, SHARED),
    workload("producers-100", "100 producers of 10,000 jobs", Kind::Producers(100), (1_000_000, 10), BOTH, SHARED),
    workload("producers-1000", "1,000 producers of 1,000 jobs", Kind::Producers(1_000), (1_000_000, 10), BOTH, SHARED),
    workload("lazy", "a million jobs mapped lazily, 100 at once", Kind::Yield, (1_000_000, 100), ONE, LAZY),
    workload("idle", "10,000 workers that wait, each a job of its own", Kind::Idle, (0, 10_000), ONE, POOLS),
    workload("queued", "a million jobs queued, then run, 100 at once", Kind::Queued, (1_000_000, 100), ONE, QUEUES),
    workload("delayed", "a million jobs delayed by a second", Kind::Delayed, (1_000_000, 100), ONE, DELAYING),
    workload("workers-10", "10 workers", Kind::Ready, (500_000, 10), ONE, POOLS),
    workload("workers-100", "100 workers", Kind::Ready, (500_000, 100), ONE, POOLS),
    workload("workers-1000", "1,000 workers", Kind::Ready, (500_000, 1_000), ONE, POOLS),
    workload("workers-10000", "10,000 workers", Kind::Ready, (500_000, 10_000), ONE, POOLS),
    workload("workers-100000", "100,000 workers", Kind::Ready, (500_000, 100_000), ONE, POOLS),
    workload("jobs-10000", "10,000 jobs", Kind::Ready, (10_000, 10), ONE, POOLS),
    workload("jobs-100000", "100,000 jobs", Kind::Ready, (100_000, 10), ONE, POOLS),
    workload("jobs-1000000", "1,000,000 jobs", Kind::Ready, (1_000_000, 10), ONE, POOLS),
    workload("jobs-10000000", "10,000,000 jobs", Kind::Ready, (10_000_000, 10), ONE, POOLS),
    workload("cancel", "cancel 100,000 queued jobs", Kind::Cancel, (100_000, 10), ONE, CANCELLING),
    workload("drain", "finish 100,000 queued jobs", Kind::Drain, (100_000, 10), ONE, SHARED),
    // What bounds are about, and no table shows.
    workload("held", "jobs that wait for an hour", Kind::Held, (100_000, 10), ONE, &[]),
    workload("empty", "a process that does nothing", Kind::Empty, (0, 1), ONE, &[]),
];
/// The workload of this name.
pub(crate) fn named(name: &str) -> Result<Workload, String> {
    let found = WORKLOADS.iter().find(|workload| workload.name == name);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = WORKLOADS.iter().map(|workload| workload.name).collect();
        format!("no workload is called {name}; there are {}", names.join(", "))
    })
}

impl Workload {
    /// The section of the report that it belongs to.
    pub(crate) fn section(&self) -> &'static str {
        match self.kind {
            Kind::Latency { .. } => "latency",
            Kind::Producers(_) => "producers",
            Kind::Queued | Kind::Delayed | Kind::Held | Kind::Idle | Kind::Empty => "memory",
            _ if self.name == "lazy" => "memory",
            _ if self.name.starts_with("workers-") || self.name.starts_with("jobs-") => "growth",
            _ => self.name,
        }
    }

    /// Whether instructions and allocations are counted, which one thread and ready jobs allow.
    pub(crate) fn is_counted(&self) -> bool {
        ["ready-10", "ready-1000", "yield-1000"].contains(&self.name)
    }

    /// So many rounds, or fewer where one takes seconds.
    pub(crate) fn rounds(&self, rounds: usize) -> usize {
        let is_long = self.jobs > 1_000_000 || matches!(self.kind, Kind::Queued | Kind::Delayed);
        if is_long { rounds.min(3) } else { rounds }
    }

    /// Its load for this contender, which takes fewer jobs if it is slow.
    pub(crate) fn load(&self, contender: Contender, threads: usize) -> Load {
        // What they do with sleeping jobs is mostly to sleep.
        let divisor = if self.kind == Kind::Sleep { 1 } else { contender.divisor() };
        Load { jobs: self.jobs / divisor, at_once: self.at_once, threads }
    }

    /// Runs it in this process.
    pub(crate) fn run(&self, contender: Contender, load: Load) -> Result<Sample, String> {
        if let Some(result) = script::run(contender, self.word(), load) {
            return result;
        }
        Ok(match self.kind {
            Kind::Ready => contender.run(Ready, load),
            Kind::Yield => contender.run(YieldOnce, load),
            Kind::Sleep if contender.is_on_tokio() => contender.run(TokioSleep, load),
            Kind::Sleep => contender.run(Sleep, load),
            Kind::Compute => contender.run(Compute, load),
            Kind::Echo => {
                let server = echo::Server::start()?;
                if contender.is_on_tokio() {
                    contender.run(TokioEcho::new(server.address()), load)
                } else {
                    contender.run(Echo::new(server.address()), load)
                }
            }
            Kind::Latency { is_across } => latency::run(contender, load, is_across),
            Kind::Producers(producers) => producers::run(contender, load, producers),
            Kind::Queued => queued::run(contender, load),
            Kind::Delayed => delayed::run(contender, load),
            Kind::Held => delayed::hold(load),
            Kind::Idle => idle::run(contender, load),
            Kind::Cancel => cancel::run(contender, load),
            Kind::Drain => drain::run(contender, load),
            Kind::Empty => nothing(),
        })
    }

    /// What a script calls the work.
    fn word(&self) -> &'static str {
        match self.kind {
            Kind::Yield => "yield",
            Kind::Sleep => "sleep",
            _ => "ready",
        }
    }
}

/// Of a contender that no table lists with this workload.
fn no_part(contender: Contender, kind: &str) -> ! {
    panic!("{} takes no part in {kind}", contender.name())
}
