//! What is printed, and what goes to a file: tables of the times, and the bounds with
//! `held` or `missed`.

use std::fs;
use std::path::Path;
use std::thread;

use serde::{Deserialize, Serialize};

use crate::bounds::Bound;
use crate::contender::Contender;
use crate::measure::Sample;
use crate::rounds::{Entry, Results};
use crate::workload::{Kind, Workload};

/// Everything that a run has found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    /// How long it took to find it.
    pub(crate) seconds: u64,
    pub(crate) tables: Vec<Table>,
    pub(crate) bounds: Vec<Judged>,
}

/// One workload on so many threads, the quickest first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) workload: String,
    pub(crate) about: String,
    pub(crate) threads: usize,
    pub(crate) rows: Vec<Row>,
    /// Contenders that do not run on this machine, and why.
    pub(crate) absent: Vec<String>,
}

/// One contender, per job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) contender: String,
    pub(crate) is_brigade: bool,
    pub(crate) rounds: usize,
    pub(crate) jobs: u64,
    pub(crate) wall_ns: Spread,
    pub(crate) cpu_ns: Spread,
    pub(crate) peak_mb: f64,
    /// Instructions and allocations, where they are counted.
    pub(crate) counts: Option<(f64, f64)>,
    /// Compared with the time of the sleep alone.
    pub(crate) beside_ideal: Option<f64>,
    /// Of jobs that are measured one by one: the median and the 99th percentile.
    pub(crate) median_ns: Option<Spread>,
    pub(crate) p99_ns: Option<Spread>,
}

/// Over the rounds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
}

/// A bound, and what became of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Judged {
    pub(crate) section: String,
    pub(crate) what: String,
    pub(crate) figure: f64,
    pub(crate) limit: String,
    pub(crate) bound: f64,
    pub(crate) unit: String,
    pub(crate) is_held: bool,
}

impl Report {
    pub(crate) fn new() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let model = model.map_or("unknown processor", |(_, model)| model.trim());
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            machine: format!("{cores} cores, {model}, {}", std::env::consts::ARCH),
            ..Self::default()
        }
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl Table {
    /// Of all that have been measured at this workload on so many threads.
    pub(crate) fn new(workload: &Workload, threads: usize, results: &mut Results) -> Self {
        let mut rows: Vec<Row> = Vec::new();
        let mut absent = Vec::new();
        for &contender in workload.contenders {
            absent.extend(
                results
                    .why_absent(contender)
                    .map(|why| format!("{}: {why}", contender.name())),
            );
            rows.extend(Row::new(
                workload,
                Entry {
                    workload: workload.name,
                    threads,
                    contender,
                },
                results,
            ));
        }
        rows.sort_by(|one, other| one.order().total_cmp(&other.order()));
        Self {
            workload: workload.name.into(),
            about: workload.about.into(),
            threads,
            rows,
            absent,
        }
    }

    pub(crate) fn print(&self) {
        let on = if self.threads == 1 {
            "1 thread"
        } else {
            "2 threads"
        };
        println!("\n{} ({}), {on}", self.about, self.workload);
        let brigade = self
            .rows
            .iter()
            .find(|row| row.contender == Contender::Brigade.name())
            .map(Row::order);
        let is_single = self.rows.iter().any(|row| row.median_ns.is_some());
        let wall = if is_single {
            ["median", "99th %"]
        } else {
            ["wall min", "median"]
        };
        println!(
            "  {:<20} {:>12} {:>12} {:>12} {:>12} {:>10} {:>8} {:>8} {:>7} {:>8} {:>6}",
            "ns a job",
            wall[0],
            wall[1],
            "CPU min",
            "median",
            "beside us",
            "÷ ideal",
            "instr",
            "allocs",
            "peak MB",
            "rounds"
        );
        for row in &self.rows {
            let [first, second] = match (row.median_ns, row.p99_ns) {
                (Some(median), Some(p99)) => [median.min, p99.min],
                _ => [row.wall_ns.min, row.wall_ns.median],
            };
            // That of lone jobs would be that of the pauses between them.
            let cpu = (!is_single).then_some(row.cpu_ns);
            println!(
                "  {:<20} {first:>12.1} {second:>12.1} {:>12} {:>12} {:>10} {:>8} {:>8} {:>7} {:>8.1} {:>6}",
                row.contender,
                cell(cpu.map(|cpu| cpu.min), 1),
                cell(cpu.map(|cpu| cpu.median), 1),
                cell(brigade.map(|ours| row.order() / ours), 2),
                cell(row.beside_ideal, 2),
                cell(row.counts.map(|counts| counts.0), 0),
                cell(row.counts.map(|counts| counts.1), 3),
                row.peak_mb,
                row.rounds
            );
        }
        self.absent
            .iter()
            .for_each(|word| println!("  without {word}"));
    }
}

impl Row {
    fn new(workload: &Workload, entry: Entry, results: &Results) -> Option<Self> {
        let spread = |figure: fn(&Sample) -> f64| {
            Some(Spread {
                min: results.least(entry, figure)?,
                median: results.median(entry, figure)?,
            })
        };
        let wall_ns = spread(Sample::wall_a_job)?;
        let first = results.of(entry).first()?;
        let ideal = crate::work::SLEEP.as_nanos() as f64 / workload.at_once as f64;
        Some(Self {
            contender: entry.contender.name(),
            is_brigade: entry.contender.is_brigade(),
            rounds: results.of(entry).len(),
            jobs: first.jobs,
            wall_ns,
            cpu_ns: spread(Sample::cpu_a_job)?,
            peak_mb: results.least(entry, Sample::peak_mb)?,
            counts: results.counts(entry),
            beside_ideal: (workload.kind == Kind::Sleep).then(|| wall_ns.min / ideal),
            median_ns: first.median_ns.and_then(|_| spread(Sample::median)),
            p99_ns: first
                .p99_ns
                .and_then(|_| spread(|sample| sample.p99_ns.unwrap_or(0) as f64)),
        })
    }

    /// What the table is sorted by, and what ratios are made of.
    fn order(&self) -> f64 {
        self.median_ns.unwrap_or(self.wall_ns).min
    }
}

impl Judged {
    pub(crate) fn new(bound: &Bound, figure: f64) -> Self {
        Self {
            section: bound.section.into(),
            what: bound.what.clone(),
            figure,
            limit: bound.limit.words().into(),
            bound: bound.limit.value(),
            unit: bound.unit.into(),
            is_held: bound.limit.holds(figure),
        }
    }

    pub(crate) fn print(&self) {
        let Self {
            section,
            what,
            figure,
            limit,
            bound,
            unit,
            is_held,
        } = self;
        let word = if *is_held { "held" } else { "missed" };
        let digits = if *bound < 1.0 { 3 } else { 2 };
        println!(
            "{section:<13} {what:<78} {figure:>9.digits$} {unit:<5} {limit:>8} {bound:>7.digits$}  {word}"
        );
    }
}

fn cell(figure: Option<f64>, digits: usize) -> String {
    figure.map_or("-".into(), |figure| format!("{figure:.digits$}"))
}

/// Returns whether a value is within its bound, and prints both.
pub(crate) fn hold(what: &str, figure: f64, bound: f64, unit: &str) -> bool {
    let is_held = figure <= bound;
    let word = if is_held { "held" } else { "missed" };
    println!("{what:<66} {figure:>9.2} {unit:<5} bound {bound:>7.2}  {word}");
    is_held
}
