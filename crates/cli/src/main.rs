//! The tool `brigade`: fetches a URL or runs a command for each row of a CSV file, and reports on
//! what came out.
#![forbid(unsafe_code)]

mod answers;
mod demo;
mod feed;
mod fetch;
mod file_id;
mod frame;
mod options;
mod report;
mod run;
mod signals;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::options::{Cli, Command};

fn main() -> ExitCode {
    let code = match Cli::parse().command {
        Command::Fetch(options) => fetch::run(&options),
        Command::Run(options) => run::run(&options),
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
