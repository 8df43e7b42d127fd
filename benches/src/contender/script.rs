//! Contenders in other languages. A script gets the work, the number of jobs, and how many run
//! at once; it prints what it took as one line of JSON, which is checked as that of the others is.

use std::process::Command;

use serde::Deserialize;

use super::Contender;
use crate::measure::Sample;
use crate::runtime::Load;
use crate::tally::Tally;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/");

/// What a script prints.
#[derive(Debug, Deserialize)]
struct Told {
    count: u64,
    sum: u64,
    wall_ns: u64,
    cpu_ns: u64,
    peak_kib: u64,
}

/// How it is started; none if it is no script.
fn command(contender: Contender) -> Option<Command> {
    let (program, leading, script) = match contender {
        Contender::Python => ("python3", None, "pool.py"),
        Contender::Node => ("node", None, "pool.mjs"),
        Contender::PQueue => ("node", None, "p_queue.mjs"),
        Contender::Go => ("go", Some("run"), "pool.go"),
        _ => return None,
    };
    let mut command = Command::new(program);
    command.args(leading).arg(format!("{SCRIPTS}{script}"));
    Some(command)
}

/// Whether it is one.
pub(crate) fn is_script(contender: Contender) -> bool {
    command(contender).is_some()
}

/// Why it cannot take part on this machine, if it cannot.
pub(crate) fn why_absent(contender: Contender) -> Option<String> {
    let mut command = command(contender)?;
    let program = command.get_program().to_string_lossy().into_owned();
    match command.args(["ready", "1", "1"]).output() {
        Ok(output) if output.status.success() => None,
        Ok(_) if contender == Contender::PQueue => {
            Some("p-queue is not installed: npm install --prefix benches/scripts p-queue".into())
        }
        Ok(output) => Some(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(_) => Some(format!("{program} is not installed")),
    }
}

/// Runs it; `None` if it is no script.
pub(crate) fn run(contender: Contender, work: &str, load: Load) -> Option<Result<Sample, String>> {
    let mut command = command(contender)?;
    command.args([work, &load.jobs.to_string(), &load.at_once.to_string()]);
    // Goroutines on so many threads; the others have one.
    command.env("GOMAXPROCS", load.threads.to_string());
    let output = command.output().map_err(|error| error.to_string());
    Some(output.and_then(|output| {
        let told: Told = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
        Tally {
            count: told.count,
            sum: told.sum,
        }
        .check(load.jobs);
        let Told {
            wall_ns,
            cpu_ns,
            peak_kib,
            ..
        } = told;
        Ok(Sample {
            jobs: load.jobs,
            wall_ns,
            cpu_ns,
            peak_kib,
            ..Sample::default()
        })
    }))
}
