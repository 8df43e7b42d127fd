//! Sections that need the sidecar: time by cause, and the runs with their settings and pauses.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::super::chart;
use super::super::lanes::lane_name;
use super::super::sidecar::{Pause, RunEntry};
use super::super::text;
use super::{Cell, Figure, Head, Table};

/// Runs that are shown, the last ones.
const MAX_RUNS: usize = 20;
/// Settings that are shown of a run.
const MAX_SETTINGS: usize = 40;
/// Pauses that are shown, the longest ones.
const MAX_PAUSES: usize = 50;
/// Causes that are shown.
const MAX_CAUSES: usize = 20;
/// How far the causes may be from the wall time × workers.
const TOLERANCE: f64 = 0.01;

/// What the workers' time was spent on.
pub(crate) fn causes(runs: &[RunEntry]) -> Option<Markup> {
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for (cause, seconds) in runs.iter().flat_map(|run| &run.cause_seconds) {
        *sums.entry(cause).or_default() += seconds.max(0.0);
    }
    let mut causes: Vec<_> = sums.into_iter().collect();
    causes.sort_by(|a, b| b.1.total_cmp(&a.1));
    let total: f64 = causes.iter().map(|(_, seconds)| seconds).sum();
    let (largest, most) = causes
        .first()
        .copied()
        .filter(|(_, seconds)| *seconds > 0.0)?;
    causes.truncate(MAX_CAUSES);
    let share = |seconds: f64| format!("{} %", text::decimal(seconds / total * 100.0, 1));
    let chart = html! {
        div class="causes" aria-hidden="true" {
            @for (cause, seconds) in &causes {
                span { (text::cell(cause)) }
                (chart::bar("", &[("flow", seconds / most)]))
                span { (seconds_text(*seconds)) ", " (share(*seconds)) }
            }
        }
    };
    let mut rows: Vec<_> = causes
        .iter()
        .map(|(cause, seconds)| {
            vec![
                Cell::Word(text::cell(cause)),
                Cell::Number(text::decimal(*seconds, 1)),
                Cell::Number(share(*seconds)),
                Cell::Text(meaning(cause).to_owned()),
            ]
        })
        .collect();
    rows.extend(check(runs, total));
    let table = Table {
        caption: "worker-seconds by cause",
        head: &[
            Head::Text("Cause"),
            Head::Number("Worker-seconds"),
            Head::Number("Share"),
            Head::Text("What it is"),
        ],
        rows,
    };
    let summary = format!(
        "The workers spent {} of their time on {}: {} of {}, added up over all workers.",
        share(most),
        text::cell(largest),
        seconds_text(most),
        seconds_text(total),
    );
    Some(
        Figure {
            id: "by-cause",
            name: "What the workers waited for",
            summary,
            chart,
            table,
        }
        .render(),
    )
}

/// The lines that compare the sum of the causes with the time that the workers had.
fn check(runs: &[RunEntry], total: f64) -> Vec<Vec<Cell>> {
    let available = runs
        .iter()
        .map(|run| Some(run.wall_seconds()? * run.workers as f64));
    let sum = vec![
        Cell::Word("Sum".to_owned()),
        Cell::Number(text::decimal(total, 1)),
        Cell::Number("100.0 %".to_owned()),
        Cell::Text(String::new()),
    ];
    let Some(available) = available
        .sum::<Option<f64>>()
        .filter(|available| *available > 0.0)
    else {
        return vec![sum];
    };
    let off = (total - available) / available;
    let verdict = if off.abs() <= TOLERANCE {
        "the sum agrees with it within 1 %".to_owned()
    } else {
        format!(
            "the sum differs from it by {} %",
            text::decimal(off * 100.0, 1)
        )
    };
    vec![
        sum,
        vec![
            Cell::Word("Wall time × workers".to_owned()),
            Cell::Number(text::decimal(available, 1)),
            Cell::Number(format!("{} %", text::decimal(available / total * 100.0, 1))),
            Cell::Text(verdict),
        ],
    ]
}

fn meaning(cause: &str) -> &'static str {
    match cause {
        "connect" => "opening connections",
        "server" => "waiting for answers and receiving them",
        "command" => "commands that ran",
        "backoff" => "between two attempts of a row",
        "rate" => "the total rate",
        "host rate" => "the rate of a host, or of a key",
        "host workers" => "the number of requests at a host at once, or of commands of a key",
        "Retry-After" => "a time that the host asked for",
        "input" => "the next row of the input",
        "output" => "the writing of answers",
        "idle" => "no row was left to start",
        _ => "",
    }
}

fn seconds_text(seconds: f64) -> String {
    text::duration((seconds * 1_000.0).round() as u64)
}

/// The runs, their settings, and the pauses of hosts.
pub(crate) fn runs(runs: &[RunEntry]) -> Option<Markup> {
    if runs.is_empty() {
        return None;
    }
    let left_out = runs.len().saturating_sub(MAX_RUNS);
    let shown = &runs[left_out..];
    let rows = (left_out + 1..)
        .zip(shown)
        .map(|(number, run)| run_cells(number, run))
        .collect();
    let head = [
        Head::Number("Run"),
        Head::Text("Started"),
        Head::Number("Took"),
        Head::Text("Ended"),
        Head::Number("Workers"),
        Head::Number("Rows"),
        Head::Number("OK"),
        Head::Number("Failed"),
        Head::Number("Bad"),
        Head::Number("Not started"),
    ];
    Some(html! {
        p class="lead" {
            (text::counted(runs.len() as u64, "run", "runs")) " wrote to the answers file, as its "
            "sidecar says."
            @if left_out > 0 { " The last " (MAX_RUNS) " are shown." }
        }
        (Table { caption: "Runs", head: &head, rows }.render())
        @for (number, run) in (left_out + 1..).zip(shown) {
            @if !run.settings.is_empty() { (settings(number, run)) }
        }
        (pauses(runs))
    })
}

fn run_cells(number: usize, run: &RunEntry) -> Vec<Cell> {
    let took = run
        .wall_seconds()
        .map_or_else(|| "–".to_owned(), seconds_text);
    vec![
        Cell::count(number as u64),
        Cell::Word(time_text(&run.started_at)),
        Cell::Number(took),
        Cell::Word(text::cell(&run.ended)),
        Cell::count(run.workers),
        Cell::count(run.rows),
        Cell::count(run.ok),
        Cell::Failures(run.failed),
        Cell::count(run.bad),
        Cell::count(run.not_started),
    ]
}

fn time_text(time: &str) -> String {
    let since = humantime::parse_rfc3339(time).ok();
    let since = since.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    match since.and_then(|since| i64::try_from(since.as_millis()).ok()) {
        Some(ms) => text::time(ms),
        None => text::cell(time),
    }
}

fn settings(number: usize, run: &RunEntry) -> Markup {
    let shown = run.settings.iter().take(MAX_SETTINGS);
    let rows = shown
        .map(|(name, value)| vec![Cell::Word(text::cell(name)), Cell::Text(text::cell(value))]);
    let head = [Head::Text("Option"), Head::Text("Value")];
    let version = if run.version.is_empty() {
        String::new()
    } else {
        format!(" {}", run.version)
    };
    html! {
        details {
            summary {
                "Settings of run " (number) ": brigade" (text::cell(&version)) " "
                (text::cell(&run.command))
            }
            (Table { caption: "Settings", head: &head, rows: rows.collect() }.render())
        }
    }
}

fn pauses(runs: &[RunEntry]) -> Markup {
    let mut pauses: Vec<&Pause> = runs.iter().flat_map(|run| &run.pauses).collect();
    pauses.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let not_kept: u64 = runs.iter().map(|run| run.pauses_left_out).sum();
    let left_out = not_kept + pauses.len().saturating_sub(MAX_PAUSES) as u64;
    let cells = |pause: &&Pause| {
        vec![
            Cell::Name(text::cell(&lane_name(pause.host.as_bytes()))),
            Cell::Word(time_text(&pause.at)),
            Cell::Number(text::decimal(pause.seconds, 1)),
            Cell::Text(text::cell(&pause.cause)),
        ]
    };
    let head = [
        Head::Text("Host"),
        Head::Text("From"),
        Head::Number("Seconds"),
        Head::Text("Cause"),
    ];
    let rows = pauses.iter().take(MAX_PAUSES).map(cells).collect();
    html! {
        @if !pauses.is_empty() {
            details {
                summary { "Pauses of hosts, the longest first" }
                (Table { caption: "Pauses of hosts", head: &head, rows }.render())
                @if left_out > 0 {
                    p class="lead" { (text::counted(left_out, "more pause", "more pauses")) "." }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(server: f64) -> RunEntry {
        RunEntry {
            started_at: "2026-01-02T03:04:05Z".to_owned(),
            ended_at: "2026-01-02T03:04:15Z".to_owned(),
            workers: 5,
            cause_seconds: BTreeMap::from([
                ("server".to_owned(), server),
                ("rate".to_owned(), 9.8),
            ]),
            ..RunEntry::default()
        }
    }

    #[test]
    fn the_sum_of_causes_is_compared_with_the_time_of_the_workers() {
        let page = |server| {
            causes(&[run(server)])
                .expect("there are causes")
                .into_string()
        };
        assert!(page(40.0).contains("within 1 %"));
        assert!(page(30.0).contains("differs from it by −20.4 %"));
        assert!(causes(&[]).is_none());
    }
}
