//! What can be counted, and does not jitter: instructions a job by callgrind, allocations and bytes
//! by the allocator that dhat puts in place. A short and a long run of this very program are
//! compared, so that what is done once cancels out. An allocator that counts inside this program
//! would slow down contenders that allocate, in the runs whose time is taken.

use std::process::Command;

use crate::contender::Contender::{self, *};
use crate::report::hold;
use crate::workload::{self, idle};

/// What is run, and on how many jobs or workers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) contender: Contender,
    pub(crate) workload: &'static str,
    pub(crate) jobs: u64,
    pub(crate) at_once: usize,
}

const SHORT: u64 = 8_000;
const LONG: u64 = 24_000;

/// What a job may cost, in instructions and in allocations: not what it should, which the table of
/// bounds says, but what it costs today and a little more. A change that makes a job more expensive fails here.
const CEILINGS: [(&str, Contender, &str, [f64; 2]); 7] = [
    (
        "ready, one slot a worker",
        Brigade,
        "ready-10",
        [400.0, 0.04],
    ),
    (
        "ready, 1,000 workers of one slot",
        Brigade,
        "ready-1000",
        [440.0, 0.08],
    ),
    (
        "ready, many slots a worker",
        BrigadeSlots,
        "ready-1000",
        [380.0, 0.04],
    ),
    (
        "yields once, many slots a worker",
        BrigadeSlots,
        "yield-1000",
        [1_120.0, 0.04],
    ),
    (
        "submitted one by one, detached",
        BrigadeDetached,
        "submit",
        [1_830.0, 1.01],
    ),
    (
        "submitted one by one, each awaited",
        BrigadeHandles,
        "submit",
        [5_580.0, 2.1],
    ),
    (
        "ready, every policy",
        BrigadePolicies,
        "ready-10",
        [7_600.0, 1.6],
    ),
];

/// The same for the bytes of an idle worker.
const IDLE_BYTES: f64 = 385.0;

/// Counts what the repository's own check looks at, and says whether nothing costs more than it
/// did.
pub(crate) fn check() -> Result<bool, String> {
    let mut is_held = true;
    for (what, contender, name, [instructions, allocations]) in CEILINGS {
        let at_once = workload::named(name)?.at_once;
        let counted = instructions_a_job(contender, name, at_once)?;
        is_held &= hold(
            &format!("{what}: instructions a job"),
            counted,
            instructions,
            "",
        );
        let counted = allocations_a_job(contender, name, at_once)?;
        is_held &= hold(
            &format!("{what}: allocations a job"),
            counted,
            allocations,
            "",
        );
    }
    is_held &= hold(
        "an idle worker, beyond the handler's future",
        idle_bytes(Brigade)?,
        IDLE_BYTES,
        "bytes",
    );
    let cronoq = instructions_a_job(Cronoq, "ready-10", 10)?;
    println!(
        "{:<66} {cronoq:>9.2}",
        "beside it, a queue with such policies: instructions a job"
    );
    Ok(is_held)
}

/// Counts these contenders at this workload, and prints.
pub(crate) fn print(
    contenders: &[Contender],
    workload: &'static str,
    at_once: usize,
) -> Result<(), String> {
    println!(
        "{workload}, one thread: {:<12} {:>14} {:>14}",
        "", "instructions", "allocations"
    );
    for &contender in contenders {
        let instructions = instructions_a_job(contender, workload, at_once)?;
        let allocations = allocations_a_job(contender, workload, at_once)?;
        println!(
            "{:<34} {instructions:>14.1} {allocations:>14.3}",
            contender.name()
        );
    }
    Ok(())
}

/// The difference between the long run and the short one, divided by their difference in jobs.
pub(crate) fn instructions_a_job(
    contender: Contender,
    workload: &'static str,
    at_once: usize,
) -> Result<f64, String> {
    per_job(contender, workload, at_once, instructions)
}

/// The difference between the long run and the short one, divided by their difference in jobs.
pub(crate) fn allocations_a_job(
    contender: Contender,
    workload: &'static str,
    at_once: usize,
) -> Result<f64, String> {
    per_job(contender, workload, at_once, |run| {
        Ok(dhat(run, "Total:")?.1)
    })
}

fn per_job(
    contender: Contender,
    workload: &'static str,
    at_once: usize,
    count: impl Fn(Run) -> Result<u64, String>,
) -> Result<f64, String> {
    let run = |jobs| {
        count(Run {
            contender,
            workload,
            jobs,
            at_once,
        })
    };
    Ok((run(LONG)? as f64 - run(SHORT)? as f64) / (LONG - SHORT) as f64)
}

/// Of a whole run, by callgrind.
pub(crate) fn instructions(run: Run) -> Result<u64, String> {
    let told = valgrind("callgrind", "--callgrind-out-file=/dev/null", run)?;
    let collected = told.lines().find_map(|line| line.split_once("Collected :"));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    count.ok_or_else(|| format!("callgrind tells no number of instructions:\n{told}"))
}

/// Heap bytes of a worker that was never used, or of a slot where a worker has many; beyond the
/// future of the handler.
pub(crate) fn idle_bytes(contender: Contender) -> Result<f64, String> {
    // Near a power of two, so that tables that double are as full in both.
    const MANY: usize = 16_000;
    let live = |at_once| {
        live_bytes(Run {
            contender,
            workload: "idle",
            jobs: 0,
            at_once,
        })
    };
    let bytes = (live(MANY)? as f64 - live(MANY / 2)? as f64) / (MANY / 2) as f64;
    Ok(if contender == Brigade {
        bytes - idle::handler_bytes() as f64
    } else {
        bytes
    })
}

/// The bytes of the heap that are in use when the process ends.
pub(crate) fn live_bytes(run: Run) -> Result<u64, String> {
    Ok(dhat(run, "At t-end:")?.0)
}

/// Bytes and blocks of a line of dhat's.
fn dhat(run: Run, line: &str) -> Result<(u64, u64), String> {
    let told = valgrind("dhat", "--dhat-out-file=/dev/null", run)?;
    let found = told
        .lines()
        .find_map(|told| told.split_once(line))
        .and_then(|(_, figures)| {
            let (bytes, blocks) = figures.split_once("bytes in")?;
            let number = |text: &str| {
                text.replace(',', "")
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            };
            Some((number(bytes)?, number(blocks)?))
        });
    found.ok_or_else(|| format!("dhat tells nothing of `{line}`:\n{told}"))
}

fn valgrind(tool: &str, option: &str, run: Run) -> Result<String, String> {
    let program =
        std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
    let output = Command::new("valgrind")
        .args([&format!("--tool={tool}"), option])
        .arg(program)
        .args([
            "run",
            &run.contender.name(),
            run.workload,
            "--jobs",
            &run.jobs.to_string(),
        ])
        .args(["--at-once", &run.at_once.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}; it is a package of the same name"))?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        Ok(told)
    } else {
        Err(format!("{tool}, {run:?}: {}\n{told}", output.status))
    }
}
