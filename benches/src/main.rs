//! The pool and its peers on the same work, in one run. Wall times are noisy, so contenders take
//! turns, each round in a process of its own, and what counts are ratios within a run;
//! instructions, allocations and bytes are counted by valgrind, and do not jitter.
//!
//! | `cargo run --release -p brigade-benches -- …` | what it does |
//! |---|---|
//! | `matrix` | all tables, and every bound with `held` or `missed`, in 20 minutes |
//! | `quick` | the bounds of the first rows, in a minute |
//! | `ready-10`, or any other workload or section | its tables and bounds |
//! | `plot FILE.json FILE.svg` | a picture of what `--json FILE.json` has kept |
//! | `page FILE.json` | the same as tables of a Markdown page |
//! | `schedule` | what scheduling costs |
//! | `count` | instructions and allocations a job, and whether they are more than they were |
//! | `soak`, `stress` | long runs and rough ones |
//! | `run CONTENDER WORKLOAD` | one run in this process, as a line of JSON |
//!
//! A command that measures bounds exits with 1 if one does not hold. All need valgrind but `run`,
//! `plot`, `page`, `soak` and `stress`.

#![forbid(unsafe_code)]

mod bounds;
mod contender;
mod count;
mod matrix;
mod measure;
mod page;
mod plot;
mod report;
mod rounds;
mod runtime;
mod schedule;
mod soak;
mod tally;
mod work;
mod workload;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use self::contender::Contender;
use self::report::Report;
use self::rounds::Effort;
use self::workload::Workload;

/// Measures brigade and its peers.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    parts: Parts,
}

/// Parts of the matrix, by name.
#[derive(Debug, Args)]
struct Parts {
    /// Sections or workloads.
    #[arg(value_parser = matrix::name)]
    names: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// How the matrix is measured.
#[derive(Debug, Args)]
struct How {
    /// How often each contender has its turn; three times as often where a bound is close.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// So many times fewer jobs, to try something out: the results are worth as much less.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    fewer: u64,
    /// Where the results go.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl How {
    fn run(&self, names: &[String]) -> Result<bool, String> {
        matrix::run(
            names,
            Effort::matrix(self.rounds.max(1), self.fewer),
            self.json.as_deref(),
        )
    }
}

#[derive(Debug, Subcommand)]
enum What {
    /// All tables, and every bound with `held` or `missed`.
    Matrix {
        /// Sections or workloads; all if none is given.
        #[arg(long, value_parser = matrix::name)]
        only: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// The bounds of the first rows, as ratios.
    Quick {
        /// Where the results go.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Draws the results of a matrix.
    Plot {
        /// What `--json` has written.
        from: PathBuf,
        /// The picture.
        to: PathBuf,
    },
    /// Prints the results of a matrix as Markdown.
    Page {
        /// What `--json` has written.
        from: PathBuf,
    },
    /// What a job costs with every scheduling policy on, with none, and on a queue with comparable
    /// ones.
    Schedule {
        /// How often each contender has its turn.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// Instructions and allocations a job, by valgrind: the difference of a long and a short run.
    Count {
        /// Whose; those of the pool at several workloads, and whether they are more than they were,
        /// if none is given.
        contenders: Vec<Contender>,
        /// At what.
        #[arg(long, default_value = "ready-10", value_parser = workload::named)]
        workload: Workload,
    },
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
    /// Runs one contender once in this process, and prints what it took as a line of JSON.
    Run {
        /// The contender.
        contender: Contender,
        /// A workload, or a number of jobs that are ready at once.
        #[arg(value_parser = of_run)]
        work: (Workload, Option<u64>),
        /// How many jobs, if not as many as the workload says.
        #[arg(long)]
        jobs: Option<u64>,
        /// How many at once, if not as many as the workload says.
        #[arg(long)]
        at_once: Option<usize>,
        /// On how many threads.
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
    /// The echo server of a workload: prints its address, and serves until it is killed.
    #[command(hide = true)]
    Serve,
}

fn of_run(text: &str) -> Result<(Workload, Option<u64>), String> {
    match text.parse() {
        Ok(jobs) => Ok((workload::named("ready-10")?, Some(jobs))),
        Err(_) => Ok((workload::named(text)?, None)),
    }
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Says whether every bound holds that has been looked at.
fn run(options: Options) -> Result<bool, String> {
    let Some(what) = options.what else {
        if options.parts.names.is_empty() {
            Options::command()
                .print_long_help()
                .map_err(|error| error.to_string())?;
            return Ok(true);
        }
        return options.parts.how.run(&options.parts.names);
    };
    match what {
        What::Matrix { only, how } => return how.run(&only),
        What::Quick { json } => return matrix::quick(json.as_deref()),
        What::Plot { from, to } => {
            let svg = plot::svg(&Report::read(&from)?)?;
            fs::write(&to, svg).map_err(|error| format!("{}: {error}", to.display()))?;
        }
        What::Page { from } => print!("{}", page::markdown(&Report::read(&from)?)),
        What::Schedule { rounds } => return schedule::measure(rounds),
        What::Count { contenders, .. } if contenders.is_empty() => return count::check(),
        What::Count {
            contenders,
            workload,
        } => count::print(&contenders, workload.name, workload.at_once)?,
        What::Soak { jobs } => return Ok(soak::soak(jobs)),
        What::Stress { threads, rounds } => soak::stress(threads, rounds),
        What::Run {
            contender,
            work: (workload, number),
            jobs,
            at_once,
            threads,
        } => {
            let mut load = workload.load(contender, threads);
            load.jobs = jobs.or(number).unwrap_or(load.jobs);
            load.at_once = at_once.unwrap_or(load.at_once);
            let sample = workload.run(contender, load)?;
            println!(
                "{}",
                serde_json::to_string(&sample).map_err(|error| error.to_string())?
            );
        }
        What::Serve => workload::echo::serve().map_err(|error| error.to_string())?,
    }
    Ok(true)
}
