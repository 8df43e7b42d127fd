//! Instructions a job, by callgrind. A short and a long run of this very program are compared, so that what is done once
//! cancels out; the figure repeats to well under a hundredth, whatever else the machine does.

use std::process::Command;

use clap::ValueEnum;

use crate::hold;
use crate::workload::Workload;

const SHORT: u64 = 8_000;
const LONG: u64 = 24_000;

/// Counts, compares with the bounds, and says whether they hold.
pub(crate) fn measure() -> Result<bool, String> {
    let straight = a_job(Workload::Straight)?;
    let scheduled = a_job(Workload::Scheduled)?;
    for workload in [Workload::Handles, Workload::Detached, Workload::Cronoq] {
        println!("{:<66} {:>9.2}", format!("{workload:?}, instructions a job"), a_job(workload)?);
    }
    println!("{:<66} {straight:>9.2}", "Straight, instructions a job");
    println!("{:<66} {scheduled:>9.2}", "Scheduled, instructions a job");
    Ok(hold("Scheduled beside Straight, instructions", scheduled / straight, 10.0, "x"))
}

fn a_job(workload: Workload) -> Result<f64, String> {
    let (short, long) = (instructions(workload, SHORT)?, instructions(workload, LONG)?);
    Ok((long.saturating_sub(short)) as f64 / (LONG - SHORT) as f64)
}

fn instructions(workload: Workload, jobs: u64) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
    let name = workload.to_possible_value().expect("no workload is hidden").get_name().to_owned();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["run", &name, &jobs.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}; it is a package of the same name"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    let collected = told.lines().find_map(|line| line.split_once("Collected :"));
    collected
        .and_then(|(_, count)| count.trim().parse().ok())
        .filter(|_| output.status.success())
        .ok_or_else(|| format!("valgrind run {name} {jobs}: {}\n{told}", output.status))
}
