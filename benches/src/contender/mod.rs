//! The contenders. Each contender is used as its documentation says, at its best settings, in a
//! file of its own; it takes the numbers `0..jobs` as it comes to them, runs the work on each, so
//! many at once, and adds up the results.

pub(crate) mod apalis;
pub(crate) mod brigade;
pub(crate) mod computing;
pub(crate) mod cronoq;
pub(crate) mod futures;
pub(crate) mod naive;
pub(crate) mod par_stream;
pub(crate) mod script;
pub(crate) mod spawning;
pub(crate) mod tokio;
pub(crate) mod tower;

use clap::ValueEnum;

use crate::measure::{Running, Sample};
use crate::runtime::{self, Load};
use crate::tally::Tally;
use crate::work::Work;

/// A contender; its name is what the command line calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub(crate) enum Contender {
    /// A loop that awaits one job after the other: what one core can do.
    PlainLoop,
    /// N tasks between two channels, no guarantee at all: the floor of the design.
    Naive,
    /// The pool, a map, one job a worker.
    #[value(alias = "straight")]
    Brigade,
    /// The pool, a map, many jobs a worker.
    BrigadeSlots,
    /// The pool, a map with priority, rate limit, keys, retry and both time-outs.
    #[value(alias = "scheduled")]
    BrigadePolicies,
    /// The pool, handles that are awaited, each before the next.
    #[value(alias = "handles")]
    BrigadeHandles,
    /// The pool, handles that are detached.
    #[value(alias = "detached")]
    BrigadeDetached,
    /// The pool with every policy, all queued before the first runs.
    #[value(alias = "backlog")]
    BrigadeBacklog,
    /// futures: `StreamExt::buffer_unordered`.
    BufferUnordered,
    /// futures: `StreamExt::for_each_concurrent`.
    ForEachConcurrent,
    /// futures-buffered: `BufferedStreamExt::buffered_unordered`.
    FuturesBuffered,
    /// futures-concurrency: `ConcurrentStream` with a limit.
    FuturesConcurrency,
    /// par-stream: `par_then_unordered`, on tokio.
    ParStream,
    /// async-executor: a task a job behind a semaphore.
    SpawnSemaphore,
    /// tokio: a `JoinSet` behind a semaphore.
    JoinSet,
    /// tokio: `buffer_unordered` over handles of spawned tasks.
    SpawnBuffered,
    /// tower: a buffer before a limit of concurrency.
    TowerBuffer,
    /// apalis: a worker on the storage in memory.
    Apalis,
    /// cronoq: a pool with a token bucket, a retry policy and a time-out a job.
    Cronoq,
    /// rayon: a parallel iterator.
    RayonIter,
    /// rayon: a spawned job each.
    RayonSpawn,
    /// threadpool: a job each.
    Threadpool,
    /// Python: asyncio, a queue and its workers.
    Python,
    /// Node: a promise pool by hand.
    Node,
    /// Node: p-queue.
    PQueue,
    /// Go: goroutines between two channels.
    Go,
}

impl Contender {
    /// As the command line and the tables call it.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .expect("no contender is hidden")
            .get_name()
            .to_owned()
    }

    /// Whether it is the pool.
    pub(crate) fn is_brigade(self) -> bool {
        self.name().starts_with("brigade")
    }

    /// Whether its jobs wait by tokio's clock and sockets.
    pub(crate) fn is_on_tokio(self) -> bool {
        matches!(
            self,
            Self::ParStream
                | Self::JoinSet
                | Self::SpawnBuffered
                | Self::TowerBuffer
                | Self::Apalis
                | Self::Cronoq
        )
    }

    /// Whether it can use more threads than one.
    pub(crate) fn is_parallel(self) -> bool {
        !matches!(
            self,
            Self::PlainLoop
                | Self::BufferUnordered
                | Self::ForEachConcurrent
                | Self::FuturesBuffered
                | Self::FuturesConcurrency
                | Self::Python
                | Self::Node
                | Self::PQueue
        )
    }

    /// How many times fewer jobs it is given, because it takes so long for one.
    pub(crate) fn divisor(self) -> u64 {
        match self {
            Self::Apalis | Self::Python | Self::PQueue => 10,
            Self::Cronoq => 20,
            _ => 1,
        }
    }

    /// Runs the work on `0..jobs`.
    pub(crate) fn run<W: Work>(self, work: W, load: Load) -> Sample {
        match self {
            Self::PlainLoop => plain_loop(work, load),
            Self::Naive => naive::run(work, load),
            Self::Brigade | Self::BrigadeSlots => brigade::plain_map(self, work, load),
            Self::BrigadePolicies => brigade::policies(work, load),
            Self::BrigadeHandles => brigade::handles(work, load),
            Self::BrigadeDetached => brigade::detached(work, load),
            Self::BrigadeBacklog => brigade::backlog(work, load),
            Self::BufferUnordered => futures::buffer_unordered(work, load),
            Self::ForEachConcurrent => futures::for_each_concurrent(work, load),
            Self::FuturesBuffered => futures::buffered(work, load),
            Self::FuturesConcurrency => futures::concurrency(work, load),
            Self::ParStream => par_stream::run(work, load),
            Self::SpawnSemaphore => spawning::run(work, load),
            Self::JoinSet => tokio::join_set(work, load),
            Self::SpawnBuffered => tokio::spawn_buffered(work, load),
            Self::TowerBuffer => tower::run(work, load),
            Self::Apalis => apalis::run(work, load),
            Self::Cronoq => cronoq::run(work, load),
            Self::RayonIter => computing::rayon_iter(load),
            Self::RayonSpawn => computing::rayon_spawn(load),
            Self::Threadpool => computing::threadpool(load),
            Self::Python | Self::Node | Self::PQueue | Self::Go => {
                unreachable!("scripts are run by `script::run`, which knows the name of the work")
            }
        }
    }
}

fn plain_loop<W: Work>(work: W, load: Load) -> Sample {
    runtime::on_this_thread::<W>(load, async {
        let mut tally = Tally::default();
        for n in 0..load.jobs {
            tally.add(work.clone().run(n).await);
        }
        tally
    })
}

/// What a process takes that does nothing.
pub(crate) fn nothing() -> Sample {
    Running::start().stop(0, Tally::default())
}
