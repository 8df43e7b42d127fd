//! Runs a queue under chaos: workers in processes of their own are killed with signal 9, stopped for
//! longer than their lease, and given clocks that differ; connections are cut, and the broker itself
//! is killed and started again. Then every job is accounted for.
//!
//! [`controller`] does this to [`worker`]s, which serve the queue as any program would. What is
//! counted is printed in one line; the exit code is 1 if a job is lost, or has more results than its
//! broker allows.
//!
//! [`scale`] leaves the workers in peace, and measures how fast they work on jobs that do nothing.
#![forbid(unsafe_code)]

mod controller;
mod events;
mod proxy;
mod queue;
mod scale;
mod watched;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "brigade-chaos", args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A queue in a SQLite file, in a directory that goes afterwards
    Sqlite(Plan),
    /// A queue of the RabbitMQ server of `BRIGADE_AMQP_URL`; the program of `BRIGADE_AMQP_NODE`, if
    /// there is one, kills it and starts it again
    Amqp(Plan),
    /// Measures undisturbed workers: jobs a second, and what a job costs
    Scale(scale::Plan),
    /// One of the workers
    #[command(hide = true)]
    Worker(worker::Options),
}

/// What is done to the queue.
#[derive(Debug, Clone, Args)]
struct Plan {
    /// How many jobs there are
    #[arg(long, default_value_t = 10_000)]
    jobs: u64,
    /// How many workers run at once, in processes of their own
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Decides which worker dies when; the broker and the kernel still have a say [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Keep what each worker wrote in this directory
    #[arg(long)]
    logs: Option<PathBuf>,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Sqlite(plan) => controller::run(&plan, queue::Kind::Sqlite),
        Command::Amqp(plan) => controller::run(&plan, queue::Kind::Amqp),
        Command::Scale(plan) => scale::run(&plan),
        Command::Worker(options) => worker::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
