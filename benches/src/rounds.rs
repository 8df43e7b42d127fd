//! Runs in turn: every contender and round is a process of its own, which is this program again.
//! The order changes from round to round, so that none always comes after the same neighbour, and
//! all see the same machine.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::contender::{Contender, script};
use crate::count;
use crate::measure::Sample;
use crate::workload;

/// A contender and a workload, on a number of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) workload: &'static str,
    pub(crate) threads: usize,
    pub(crate) contender: Contender,
}

/// How long it may take, and how much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// Where a bound is close.
    pub(crate) most_rounds: usize,
    /// So many times fewer jobs than the workload says.
    pub(crate) divisor: u64,
    /// No bound is worth more rounds after this.
    pub(crate) until: Instant,
}

impl Effort {
    /// For all tables.
    pub(crate) fn matrix(rounds: usize, divisor: u64) -> Self {
        let until = Instant::now() + Duration::from_secs(12 * 60);
        Self {
            rounds,
            most_rounds: rounds * 3,
            divisor,
            until,
        }
    }

    /// For the first rows, in a minute.
    pub(crate) fn quick() -> Self {
        Self {
            rounds: 5,
            most_rounds: 15,
            divisor: 2,
            until: Instant::now() + Duration::from_secs(20),
        }
    }
}

/// What has been measured so far, and which contenders are missing on this machine, and why.
#[derive(Debug, Default)]
pub(crate) struct Results {
    samples: BTreeMap<Entry, Vec<Sample>>,
    absent: BTreeMap<Contender, Option<String>>,
    /// Instructions and allocations a job.
    counts: BTreeMap<Entry, (f64, f64)>,
}

impl Results {
    /// Why this contender cannot take part here, if it cannot.
    pub(crate) fn why_absent(&mut self, contender: Contender) -> Option<String> {
        self.absent
            .entry(contender)
            .or_insert_with(|| script::why_absent(contender))
            .clone()
    }

    /// Measures so many rounds more, in turn.
    pub(crate) fn measure(
        &mut self,
        entries: &[Entry],
        rounds: usize,
        divisor: u64,
    ) -> Result<(), String> {
        for round in 0..rounds {
            for at in 0..entries.len() {
                let entry = entries[(at + round) % entries.len()];
                let sample = in_its_own_process(entry, divisor)?;
                self.samples.entry(entry).or_default().push(sample);
            }
        }
        Ok(())
    }

    /// Counts instructions and allocations a job; the scripts have interpreters that do much else.
    pub(crate) fn count(&mut self, entry: Entry) -> Result<(), String> {
        if !script::is_script(entry.contender) {
            let Entry {
                workload,
                contender,
                ..
            } = entry;
            let at_once = workload::named(workload)?.at_once;
            let instructions = count::instructions_a_job(contender, workload, at_once)?;
            let allocations = count::allocations_a_job(contender, workload, at_once)?;
            self.counts.insert(entry, (instructions, allocations));
        }
        Ok(())
    }

    /// Instructions and allocations a job, if they were counted.
    pub(crate) fn counts(&self, entry: Entry) -> Option<(f64, f64)> {
        self.counts.get(&entry).copied()
    }

    /// All samples of an entry; empty if it was not measured.
    pub(crate) fn of(&self, entry: Entry) -> &[Sample] {
        self.samples.get(&entry).map_or(&[], Vec::as_slice)
    }

    /// The least value of all rounds.
    pub(crate) fn least(&self, entry: Entry, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        self.of(entry).iter().map(figure).min_by(f64::total_cmp)
    }

    /// The median of all rounds.
    pub(crate) fn median(&self, entry: Entry, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        let mut figures: Vec<f64> = self.of(entry).iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied()
    }
}

fn in_its_own_process(entry: Entry, divisor: u64) -> Result<Sample, String> {
    let program =
        std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
    let load = workload::named(entry.workload)?.load(entry.contender, entry.threads);
    let output = Command::new(program)
        .args(["run", &entry.contender.name(), entry.workload])
        .args([
            "--jobs",
            &(load.jobs.div_ceil(divisor)).to_string(),
            "--threads",
            &load.threads.to_string(),
        ])
        .output()
        .map_err(|error| format!("{entry:?}: {error}"))?;
    serde_json::from_slice(&output.stdout).map_err(|error| {
        format!(
            "{entry:?}: {error}: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}
