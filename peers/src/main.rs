//! The pool beside its peers, on the same work in one run. Wall times are noisy, so contenders take turns and what counts are
//! ratios within a run; instructions are counted by callgrind, and do not jitter.
//!
//! `cargo run --release -p brigade-peers -- schedule` measures what scheduling costs; `-- count` counts instructions, and needs
//! valgrind. Both end with 1 if a bound does not hold.

mod count;
mod schedule;
mod soak;
mod workload;

use std::alloc::System;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use self::workload::Workload;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Measures brigade beside its peers.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What a job costs with every scheduling policy on, beside none, and beside a queue with comparable ones.
    Schedule {
        /// How often each contender has its turn.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// Instructions a job, by callgrind: the difference of a long and a short run.
    Count,
    /// Runs very many jobs, and fails if memory, threads or open files grow.
    Soak {
        /// How many jobs, without and with policies.
        #[arg(default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(10..))]
        jobs: u64,
    },
    /// Lets many threads use one pool at once, and fails if a job is lost.
    Stress {
        /// How many threads.
        #[arg(default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..))]
        threads: u64,
        /// How much each of them does.
        #[arg(default_value_t = 20_000)]
        rounds: u64,
    },
    /// Runs one workload once, and prints nothing.
    Run {
        /// Which.
        workload: Workload,
        /// How many jobs.
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        jobs: u64,
    },
}

fn main() -> ExitCode {
    let is_held = match Options::parse().what {
        What::Schedule { rounds } => schedule::measure(rounds),
        What::Count => match count::measure() {
            Ok(is_held) => is_held,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::from(2);
            }
        },
        What::Soak { jobs } => soak::soak(jobs),
        What::Stress { threads, rounds } => {
            soak::stress(threads, rounds);
            true
        }
        What::Run { workload, jobs } => {
            workload.run(jobs);
            true
        }
    };
    if is_held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Says whether a figure is within its bound, and prints both.
fn hold(what: &str, figure: f64, bound: f64, unit: &str) -> bool {
    let is_held = figure <= bound;
    let word = if is_held { "held" } else { "MISSED" };
    println!("{what:<66} {figure:>9.2} {unit:<5} bound {bound:>7.2}  {word}");
    is_held
}
