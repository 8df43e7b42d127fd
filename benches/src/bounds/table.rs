//! The table of bounds. Where a pool may have one slot a worker or many, and the bound does not say
//! which, it is of both.

use super::{Bound, Counting, Figure, Limit};
use crate::contender::Contender::{self, *};
use crate::count::{self, Run};
use crate::rounds::Entry;
use crate::workload;

/// All of them.
pub(crate) fn all() -> Vec<Bound> {
    let mut bounds = Vec::new();
    let mut add = |section, what: String, figure, limit, unit| {
        bounds.push(Bound {
            section,
            what,
            figure,
            limit,
            unit,
        });
    };
    ready(&mut add);
    one_by_one(&mut add);
    add(
        "yield-1000",
        "many slots a worker: instructions a job".into(),
        Figure::Counted(instructions, counting(BrigadeSlots, "yield-1000", 1_000)),
        Limit::AtMost(400.0),
        "",
    );
    sleeping(&mut add);
    add(
        "compute",
        "speed relative to rayon's iterator (1.85 cores where that reaches 1.95)".into(),
        Figure::Speed(at("compute", 2, Brigade), at("compute", 2, RayonIter)),
        Limit::AtLeast(1.85 / 1.95),
        "x",
    );
    for (contender, words) in WAYS {
        add(
            "echo",
            format!("{words}: CPU a request relative to the best"),
            Figure::Cpu(at("echo", 1, contender), peers("echo", 1)),
            Limit::AtMost(1.1),
            "x",
        );
        add(
            "latency",
            format!("{words}: median relative to the naive pool's"),
            Figure::Latency(at("latency", 1, contender), vec![at("latency", 1, Naive)]),
            Limit::AtMost(1.3),
            "x",
        );
    }
    memory(&mut add);
    growth(&mut add);
    bounds
}

/// The sections of the first three rows.
pub(crate) const QUICK: [&str; 3] = ["ready-10", "ready-1000", "submit"];
/// The two ways to have a pool.
const WAYS: [(Contender, &str); 2] = [
    (Brigade, "one slot a worker"),
    (BrigadeSlots, "many slots a worker"),
];
/// Contenders that spawn a task a job, or tasks that take jobs. Those that take several times as long as these
/// are left out.
const SPAWNING: [Contender; 4] = [ParStream, SpawnSemaphore, JoinSet, SpawnBuffered];
const ON_TOKIO: [Contender; 4] = [ParStream, JoinSet, SpawnBuffered, TowerBuffer];

type Add<'a> = &'a mut dyn FnMut(&'static str, String, Figure, Limit, &'static str);

fn at(workload: &'static str, threads: usize, contender: Contender) -> Entry {
    Entry {
        workload,
        threads,
        contender,
    }
}

fn counting(contender: Contender, workload: &'static str, at_once: usize) -> Counting {
    Counting {
        contender,
        workload,
        at_once,
    }
}

/// All that take part in a workload, but the pool.
fn peers(name: &'static str, threads: usize) -> Vec<Entry> {
    let workload = workload::named(name).expect("the table of bounds names workloads that exist");
    let peers = workload
        .contenders
        .iter()
        .filter(|contender| !contender.is_brigade());
    peers
        .map(|contender| at(name, threads, *contender))
        .collect()
}

fn ready(add: Add<'_>) {
    for (name, at_once) in [("ready-10", 10), ("ready-1000", 1_000)] {
        for threads in [1, 2] {
            let on = if threads == 1 {
                "1 thread"
            } else {
                "2 threads"
            };
            let spawning = SPAWNING.map(|peer| at(name, threads, peer)).to_vec();
            add(
                name,
                format!("one slot a worker, {on}: time relative to the naive pool"),
                Figure::Time(at(name, threads, Brigade), vec![at(name, threads, Naive)]),
                Limit::AtMost(1.0),
                "x",
            );
            add(
                name,
                format!("one slot a worker, {on}: time relative to the best peer that spawns"),
                Figure::Time(at(name, threads, Brigade), spawning),
                Limit::Below(1.0),
                "x",
            );
            add(
                name,
                format!("many slots a worker, {on}: time relative to buffer_unordered"),
                Figure::Time(
                    at(name, threads, BrigadeSlots),
                    vec![at(name, 1, BufferUnordered)],
                ),
                Limit::AtMost(0.9),
                "x",
            );
        }
        let slots = counting(BrigadeSlots, name, at_once);
        let counted = Figure::Counted(instructions, slots);
        add(
            name,
            "many slots a worker: instructions a job".into(),
            counted,
            Limit::AtMost(220.0),
            "",
        );
        let counted = Figure::Counted(allocations, slots);
        add(
            name,
            "many slots a worker: allocations a job".into(),
            counted,
            Limit::AtMost(0.04),
            "",
        );
    }
}

fn one_by_one(add: Add<'_>) {
    let detached = Figure::Counted(instructions, counting(BrigadeDetached, "submit", 10));
    add(
        "submit",
        "submitted one by one, detached: instructions a job".into(),
        detached,
        Limit::AtMost(350.0),
        "",
    );
    let handles = Figure::Counted(instructions, counting(BrigadeHandles, "submit", 10));
    add(
        "submit",
        "submitted one by one, each awaited: instructions a job".into(),
        handles,
        Limit::AtMost(1_000.0),
        "",
    );
}

fn sleeping(add: Add<'_>) {
    for (name, at_once) in [("sleep-10", 10.0), ("sleep-1000", 1_000.0)] {
        for (contender, words) in WAYS {
            add(
                name,
                format!("{words}: time relative to the ideal"),
                Figure::Ideal(at(name, 1, contender), 1e6 / at_once),
                Limit::AtMost(1.08),
                "x",
            );
            add(
                name,
                format!("{words}: time relative to the best peer on tokio"),
                Figure::Time(
                    at(name, 1, contender),
                    ON_TOKIO.map(|peer| at(name, 1, peer)).to_vec(),
                ),
                Limit::AtMost(0.55),
                "x",
            );
        }
    }
    for (name, at_once, most) in [("sleep-10000", 1e4, 2.6), ("head-of-line", 1e3, 1.15)] {
        add(
            name,
            "many slots a worker: time relative to the ideal".into(),
            Figure::Ideal(at(name, 1, BrigadeSlots), 1e6 / at_once),
            Limit::AtMost(most),
            "x",
        );
    }
}

fn memory(add: Add<'_>) {
    let idle = Figure::Counted(idle_bytes, counting(Brigade, "idle", 0));
    add(
        "memory",
        "an idle worker, beyond the handler's future".into(),
        idle,
        Limit::AtMost(300.0),
        "bytes",
    );
    let unused = Figure::Counted(idle_bytes, counting(BrigadeSlots, "idle", 0));
    add(
        "memory",
        "a slot that was never used".into(),
        unused,
        Limit::AtMost(1.0),
        "bytes",
    );
    for (contender, words) in WAYS {
        add(
            "memory",
            format!("{words}: a million jobs mapped lazily, peak above an empty process"),
            Figure::Peak(at("lazy", 1, contender), at("empty", 1, PlainLoop)),
            Limit::AtMost(1.5),
            "MB",
        );
    }
}

fn growth(add: Add<'_>) {
    for (contender, words) in WAYS {
        add(
            "growth",
            format!("{words}: instructions a job, most relative to least, 10 to 100,000 workers"),
            Figure::Counted(growth_by_workers, counting(contender, "ready-10", 0)),
            Limit::AtMost(2.0),
            "x",
        );
    }
    add(
        "growth",
        "one slot a worker: instructions a job, 10,000,000 jobs relative to 10,000".into(),
        Figure::Counted(growth_by_jobs, counting(Brigade, "ready-10", 10)),
        Limit::AtMost(1.05),
        "x",
    );
}

fn instructions(of: Counting) -> Result<f64, String> {
    count::instructions_a_job(of.contender, of.workload, of.at_once)
}

fn allocations(of: Counting) -> Result<f64, String> {
    count::allocations_a_job(of.contender, of.workload, of.at_once)
}

fn idle_bytes(of: Counting) -> Result<f64, String> {
    count::idle_bytes(of.contender)
}

fn growth_by_workers(of: Counting) -> Result<f64, String> {
    let each: Result<Vec<f64>, String> = [10, 100, 1_000, 10_000, 100_000]
        .map(|workers| count::instructions_a_job(of.contender, of.workload, workers))
        .into_iter()
        .collect();
    let each = each?;
    let (least, most) = each
        .iter()
        .fold((f64::INFINITY, 0.0_f64), |(least, most), x| {
            (least.min(*x), most.max(*x))
        });
    Ok(most / least)
}

fn growth_by_jobs(of: Counting) -> Result<f64, String> {
    const FEW: u64 = 10_000;
    const MANY: u64 = 10_000_000;
    let Counting {
        contender,
        workload,
        at_once,
    } = of;
    let all = |jobs| {
        count::instructions(Run {
            contender,
            workload,
            jobs,
            at_once,
        })
        .map(|count| count as f64)
    };
    let few = all(FEW)?;
    Ok(((all(MANY)? - few) / (MANY - FEW) as f64) / ((all(2 * FEW)? - few) / FEW as f64))
}
