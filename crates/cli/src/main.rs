//! The tool `brigade`: fetches a URL or runs a command for each row of a CSV file, and reports on
//! what came out. The rows may also go through a queue, which any number of processes work on.
#![forbid(unsafe_code)]

mod answers;
mod demo;
mod feed;
mod fetch;
mod file_id;
mod frame;
mod options;
mod queue;
mod report;
mod run;
mod signals;

use std::process::ExitCode;

use clap::CommandFactory;

use crate::options::{Cli, Command};

fn main() -> ExitCode {
    let code = match Cli::of_process().command {
        Command::Fetch(options) => fetch::run(&options),
        Command::Run(options) => run::run(&options),
        Command::Enqueue(options) => queue::enqueue::run(&options),
        Command::Work(options) => queue::work::run(*options),
        Command::WorkFetch(options) => queue::work::fetch(*options),
        Command::Results(options) => queue::results::run(&options),
        Command::Queue(options) => queue::status::run(&options),
        Command::Report(options) => report::command::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "brigade", &mut std::io::stdout());
            0
        }
    };
    ExitCode::from(code)
}
