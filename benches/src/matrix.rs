//! All tables, or some of them: measures, prints, judges. The quick way checks the bounds of the
//! first rows only, and measures only the entries that these need.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use crate::bounds::{self, Bound};
use crate::report::{Judged, Report, Table};
use crate::rounds::{Effort, Entry, Results};
use crate::workload::{self, WORKLOADS, Workload};

/// The sections of the report, each of which has tables, bounds, or both.
fn sections() -> Vec<&'static str> {
    let mut sections = Vec::new();
    let tables = WORKLOADS
        .iter()
        .filter(|workload| !workload.contenders.is_empty())
        .map(Workload::section);
    for section in tables.chain(bounds::all().iter().map(|bound| bound.section)) {
        if !sections.contains(&section) {
            sections.push(section);
        }
    }
    sections
}

/// Measures the sections or workloads of these names, all if there are none, and says whether every
/// bound holds.
pub(crate) fn run(only: &[String], effort: Effort, json: Option<&Path>) -> Result<bool, String> {
    let is_meant = |name: &str| only.is_empty() || only.iter().any(|only| only == name);
    let start = Instant::now();
    let (mut results, mut report) = (Results::default(), Report::new());
    println!("{}", report.machine);
    for section in sections() {
        let bounds: Vec<Bound> = bounds::all()
            .into_iter()
            .filter(|bound| bound.section == section)
            .collect();
        let all = WORKLOADS
            .iter()
            .filter(|workload| workload.section() == section);
        let tables: Vec<_> = all
            .filter(|workload| is_meant(section) || is_meant(workload.name))
            .collect();
        if tables.is_empty() && !is_meant(section) {
            continue;
        }
        // A single workload of several has no bounds of its own.
        let bounds = if is_meant(section) { bounds } else { vec![] };
        for workload in &tables {
            let entries = entries_of(workload, &mut results);
            results.measure(&entries, workload.rounds(effort.rounds), effort.divisor)?;
            // Counting takes too long for a run with fewer jobs.
            if workload.is_counted() && effort.divisor == 1 {
                entries
                    .iter()
                    .filter(|entry| entry.threads == 1)
                    .try_for_each(|entry| results.count(*entry))?;
            }
        }
        let judged = judge(&bounds, &mut results, effort)?;
        for workload in &tables {
            for &threads in workload.threads {
                let table = Table::new(workload, threads, &mut results);
                if !table.rows.is_empty() {
                    table.print();
                    report.tables.push(table);
                }
            }
        }
        judged.iter().for_each(Judged::print);
        report.bounds.extend(judged);
    }
    finish(report, start, json)
}

/// Measures what the first rows of the table of bounds need.
pub(crate) fn quick(json: Option<&Path>) -> Result<bool, String> {
    let (start, effort) = (Instant::now(), Effort::quick());
    let (mut results, mut report) = (Results::default(), Report::new());
    println!("{}", report.machine);
    for section in bounds::QUICK {
        let bounds: Vec<Bound> = bounds::all()
            .into_iter()
            .filter(|bound| bound.section == section)
            .collect();
        let judged = judge(&bounds, &mut results, effort)?;
        judged.iter().for_each(Judged::print);
        report.bounds.extend(judged);
    }
    finish(report, start, json)
}

/// The entries of a workload, on each number of threads.
fn entries_of(workload: &Workload, results: &mut Results) -> Vec<Entry> {
    let mut entries = Vec::new();
    for &threads in workload.threads {
        for &contender in workload.contenders {
            let is_first = threads == workload.threads[0];
            if (is_first || contender.is_parallel()) && results.why_absent(contender).is_none() {
                entries.push(Entry {
                    workload: workload.name,
                    threads,
                    contender,
                });
            }
        }
    }
    entries
}

/// Measures the entries that have not been measured yet, and settles each bound.
fn judge(bounds: &[Bound], results: &mut Results, effort: Effort) -> Result<Vec<Judged>, String> {
    let needed: BTreeSet<Entry> = bounds
        .iter()
        .flat_map(|bound| bound.figure.entries())
        .collect();
    let missing: Vec<Entry> = needed
        .into_iter()
        .filter(|entry| results.of(*entry).is_empty())
        .collect();
    results.measure(&missing, effort.rounds, effort.divisor)?;
    bounds
        .iter()
        .map(|bound| Ok(Judged::new(bound, bound.settle(results, effort)?)))
        .collect()
}

fn finish(mut report: Report, start: Instant, json: Option<&Path>) -> Result<bool, String> {
    report.seconds = start.elapsed().as_secs();
    let missed = report
        .bounds
        .iter()
        .filter(|judged| !judged.is_held)
        .count();
    println!(
        "\n{} bounds, {missed} missed, in {} s",
        report.bounds.len(),
        report.seconds
    );
    if let Some(path) = json {
        report.write(path)?;
    }
    Ok(missed == 0)
}

/// The name of a section or of a workload; refuses others.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let sections = sections();
    match workload::named(text) {
        Err(error) if !sections.contains(&text) => {
            Err(format!("{error}; the sections are {}", sections.join(", ")))
        }
        _ => Ok(text.to_owned()),
    }
}
