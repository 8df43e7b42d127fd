//! The list of workloads: how many jobs, how many at once, on how many threads, and who takes part. A contender that cannot do a
//! thing, or would only repeat what another shows, is not in its line.

use super::{Kind, Workload};
use crate::contender::Contender::{self, *};

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
/// A plain loop does not wait for many at once.
const WAITING: &[Contender] = ALL.split_at(1).1;
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
const ONE_BY_ONE: &[Contender] = &[Naive, BrigadeDetached, BrigadeHandles, SpawnSemaphore, JoinSet, TowerBuffer];
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
    workload("submit", "submitted one by one, 10 at once", Kind::Ready, (500_000, 10), ONE, ONE_BY_ONE),
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
