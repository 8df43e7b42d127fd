//! Sections that list hosts and rows: hosts, failures, suspicious endings, slowest rows.

use std::cmp::Reverse;
use std::collections::HashMap;

use maud::{Markup, html};

use super::super::columns::Mode;
use super::super::figures::{Figures, Group, Host, KindId, ListedRow, MIN_ENDING};
use super::super::lanes::{LaneId, lane_name};
use super::super::sidecar::RunEntry;
use super::super::text;
use super::{Cell, Head, Table};

/// Hosts in the table of hosts.
const MAX_HOSTS: usize = 200;
/// Hosts and kinds in the table of failures.
const MAX_FAILING_HOSTS: usize = 50;
const MAX_KINDS: usize = 20;
/// Endings in their table.
const MAX_ENDINGS: usize = 50;

/// One line for each host.
pub(crate) fn hosts(figures: &Figures, runs: &[RunEntry]) -> Option<Markup> {
    if figures.mode == Mode::Run || figures.totals.rows == 0 {
        return None;
    }
    let mut hosts: Vec<(LaneId, &Host)> = (0..).zip(&figures.hosts).collect();
    hosts.retain(|(_, host)| host.rows > 0);
    hosts.sort_by_key(|(lane, host)| (Reverse(host.rows), figures.lanes.name(*lane)));
    let with_url = hosts.iter().filter(|(lane, _)| *lane != 0).count() as u64;
    let shown = hosts.len().min(MAX_HOSTS);
    let left_out: u64 = hosts[shown..].iter().map(|(_, host)| host.rows).sum();
    let pauses = (!runs.is_empty()).then(|| pauses(figures, runs));
    let mut head = vec![
        Head::Text("Host"),
        Head::Number("Rows"),
        Head::Number("OK"),
        Head::Number("Failed"),
        Head::Number("429s"),
        Head::Number("p50 ms"),
        Head::Number("p95 ms"),
        Head::Number("p99 ms"),
        Head::Number("Requests"),
        Head::Number("Received"),
    ];
    if pauses.is_some() {
        head.extend([Head::Number("Pauses"), Head::Number("Paused")]);
    }
    let row = |(lane, host): &(LaneId, &Host)| {
        let mut cells = host_cells(figures.lanes.name(*lane), host);
        if let Some(pauses) = &pauses {
            let (count, seconds) = pauses.get(lane).copied().unwrap_or_default();
            cells.push(Cell::count(count));
            let paused = text::duration((seconds * 1_000.0) as u64);
            cells.push(Cell::Number(if count == 0 {
                "–".to_owned()
            } else {
                paused
            }));
        }
        cells
    };
    let rows = hosts[..shown].iter().map(row).collect();
    Some(html! {
        p class="lead" {
            (text::counted(with_url, "host", "hosts")) ", by scheme, name and port. "
            "429s are rows that ended with this status."
            @if left_out > 0 {
                " The " (text::count(shown as u64)) " with the most rows are shown; the others have "
                (text::counted(left_out, "row", "rows")) "."
            }
        }
        (Table { caption: "Hosts", head: &head, rows }.render())
    })
}

fn host_cells(name: &str, host: &Host) -> Vec<Cell> {
    vec![
        Cell::Name(text::cell(name)),
        Cell::count(host.rows),
        Cell::count(host.ok),
        Cell::Failures(host.rows - host.ok),
        Cell::Failures(host.too_many),
        Cell::ms(host.latencies.percentile(50)),
        Cell::ms(host.latencies.percentile(95)),
        Cell::ms(host.latencies.percentile(99)),
        Cell::count(host.requests),
        Cell::Number(text::bytes(host.bytes)),
    ]
}

/// Number and seconds of the pauses of each lane.
fn pauses(figures: &Figures, runs: &[RunEntry]) -> HashMap<LaneId, (u64, f64)> {
    let mut pauses = HashMap::new();
    for pause in runs.iter().flat_map(|run| &run.pauses) {
        if let Some(lane) = figures.lanes.get(&lane_name(pause.host.as_bytes())) {
            let (count, seconds): &mut (u64, f64) = pauses.entry(lane).or_default();
            *count += 1;
            *seconds += pause.seconds;
        }
    }
    pauses
}

/// Failures by kind and host, and the first rows of each.
pub(crate) fn failures(figures: &Figures) -> Option<Markup> {
    if figures.totals.failed == 0 {
        return None;
    }
    let is_fetch = figures.mode == Mode::Fetch;
    let without_group = figures.failures_without_group();
    Some(html! {
        p class="lead" {
            (text::counted(figures.totals.failed, "row", "rows")) " failed, "
            (text::percent(figures.totals.failed, figures.totals.rows)) " of all."
        }
        (by_kind(figures))
        h3 { @if is_fetch { "First rows of each kind and host" } @else { "First rows of each kind" } }
        div class="groups" {
            @for (kind, groups) in by_group(figures) { (kind_rows(figures, kind, &groups)) }
        }
        @if without_group > 0 {
            p class="lead" {
                (text::counted(without_group, "more failed row is", "more failed rows are"))
                " of other kinds and hosts, each with fewer rows than those above."
            }
        }
    })
}

fn by_kind(figures: &Figures) -> Markup {
    let mut kinds: HashMap<KindId, u64> = HashMap::new();
    let mut lanes: HashMap<LaneId, u64> = HashMap::new();
    for ((kind, lane), count) in &figures.failures {
        *kinds.entry(*kind).or_default() += count;
        *lanes.entry(*lane).or_default() += count;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_unstable_by_key(|(kind, count)| (Reverse(*count), *kind));
    let other_kinds: u64 = kinds.iter().skip(MAX_KINDS).map(|(_, count)| count).sum();
    kinds.truncate(MAX_KINDS);
    let mut lanes: Vec<_> = lanes.into_iter().collect();
    lanes.sort_unstable_by_key(|(lane, count)| (Reverse(*count), *lane));
    let other_lanes: u64 = lanes
        .iter()
        .skip(MAX_FAILING_HOSTS)
        .map(|(_, count)| count)
        .sum();
    lanes.truncate(MAX_FAILING_HOSTS);
    let count = |kind, lane| figures.failures.get(&(kind, lane)).copied().unwrap_or(0);
    let first = if figures.mode == Mode::Fetch {
        "Host"
    } else {
        "Rows"
    };
    html! {
        div class="scroll" tabindex="0" role="region" aria-label="Failures by kind and host" {
            table {
                thead {
                    tr {
                        th scope="col" { (first) }
                        th scope="col" class="n" { "All kinds" }
                        @for (kind, _) in &kinds {
                            th scope="col" class="n" { bdi { (figures.kinds[*kind]) } }
                        }
                    }
                }
                tbody {
                    tr {
                        th scope="row" { "All" }
                        (Cell::Failures(figures.totals.failed).render(false))
                        @for (_, count) in &kinds { (Cell::Failures(*count).render(false)) }
                    }
                    @if figures.mode == Mode::Fetch {
                        @for (lane, total) in &lanes {
                            tr {
                                (Cell::Name(text::cell(figures.lanes.name(*lane))).render(true))
                                (Cell::Failures(*total).render(false))
                                @for (kind, _) in &kinds {
                                    (Cell::Failures(count(*kind, *lane)).render(false))
                                }
                            }
                        }
                    }
                }
            }
        }
        @if other_kinds > 0 {
            p class="lead" { "Kinds without a column: " (text::counted(other_kinds, "row", "rows")) "." }
        }
        @if other_lanes > 0 {
            p class="lead" { "Hosts without a line: " (text::counted(other_lanes, "row", "rows")) "." }
        }
    }
}

/// The groups of each kind. The kind with the most failures comes first.
fn by_group(figures: &Figures) -> Vec<(KindId, Vec<&Group>)> {
    let mut kinds: Vec<(KindId, Vec<&Group>)> = Vec::new();
    for group in &figures.groups {
        match kinds.iter_mut().find(|(kind, _)| *kind == group.kind) {
            Some((_, groups)) => groups.push(group),
            None => kinds.push((group.kind, vec![group])),
        }
    }
    kinds.sort_by_key(|(kind, _)| Reverse(figures.failures_of(*kind)));
    kinds
}

fn kind_rows(figures: &Figures, kind: KindId, groups: &[&Group]) -> Markup {
    let count = figures.failures_of(kind);
    let hosts = figures
        .failures
        .keys()
        .filter(|(other, _)| *other == kind)
        .count() as u64;
    let is_fetch = figures.mode == Mode::Fetch;
    html! {
        details {
            summary {
                b { bdi { (figures.kinds[kind]) } } " – " (text::counted(count, "row", "rows"))
                @if is_fetch { ", " (text::counted(hosts, "host", "hosts")) }
            }
            @if is_fetch {
                @for group in groups { (host_rows(figures, group, groups.len() == 1)) }
                @if groups.len() as u64 != hosts {
                    p class="lead" { "The other hosts had fewer rows." }
                }
            } @else {
                @for group in groups { (listed("The first rows", &group.first, figures.mode, false)) }
            }
        }
    }
}

fn host_rows(figures: &Figures, group: &Group, is_open: bool) -> Markup {
    let host = text::cell(figures.lanes.name(group.lane));
    html! {
        details open[is_open] {
            summary { bdi { (host) } " – " (text::counted(group.count, "row", "rows")) }
            (listed("The first rows", &group.first, figures.mode, false))
        }
    }
}

/// A table of rows.
fn listed(caption: &str, rows: &[ListedRow], mode: Mode, with_kind: bool) -> Markup {
    let is_fetch = mode == Mode::Fetch;
    let mut head = vec![Head::Number("Row")];
    if is_fetch {
        head.push(Head::Text("URL"));
    }
    if with_kind {
        head.push(Head::Text("Ended"));
    }
    let code = if is_fetch { "Status" } else { "Exit" };
    head.extend([
        Head::Number(code),
        Head::Number("Attempts"),
        Head::Number("ms"),
        Head::Text("Error"),
    ]);
    let cells = |row: &ListedRow| {
        let mut cells = vec![Cell::count(row.row)];
        if is_fetch {
            cells.push(Cell::Text(row.url.clone()));
        }
        if with_kind {
            cells.push(Cell::Word(if row.ok {
                "OK".to_owned()
            } else {
                row.kind.clone()
            }));
        }
        cells.push(Cell::Number(or_dash(&row.code)));
        cells.push(Cell::count(row.attempts));
        cells.push(Cell::ms(row.elapsed_ms));
        cells.push(Cell::Text(or_dash(&row.error)));
        cells
    };
    Table {
        caption,
        head: &head,
        rows: rows.iter().map(cells).collect(),
    }
    .render()
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "–".to_owned()
    } else {
        text.to_owned()
    }
}

/// URLs at which many rows ended.
pub(crate) fn endings(figures: &Figures) -> Option<Markup> {
    if figures.endings.is_empty() {
        return None;
    }
    let left_out = figures.endings.len().saturating_sub(MAX_ENDINGS) as u64;
    let cells = |ending: &super::super::figures::Ending| {
        let first: Vec<_> = ending.first.iter().map(|row| text::count(*row)).collect();
        vec![
            Cell::Name(ending.url.clone()),
            Cell::count(ending.rows),
            Cell::count(ending.ok),
            Cell::Text(first.join("  ")),
        ]
    };
    let rows = figures
        .endings
        .iter()
        .take(MAX_ENDINGS)
        .map(cells)
        .collect();
    let head = [
        Head::Text("Final URL"),
        Head::Number("Rows"),
        Head::Number("OK"),
        Head::Text("First rows"),
    ];
    Some(html! {
        p class="lead" {
            "Redirects led " (MIN_ENDING) " rows or more to each of these URLs, compared without "
            "their query. It may be a login page, or a page that should have been a 404."
        }
        (Table { caption: "Suspicious endings", head: &head, rows }.render())
        @if left_out > 0 {
            p class="lead" { (text::counted(left_out, "more URL", "more URLs")) " with fewer rows." }
        }
    })
}

/// The rows that took the longest.
pub(crate) fn slowest(figures: &Figures) -> Option<Markup> {
    let rows = &figures.slowest;
    if rows.is_empty() {
        return None;
    }
    Some(html! {
        p class="lead" {
            "By the time in which their " (figures.mode.work()) " ran, all attempts together."
        }
        (listed("Slowest rows", rows, figures.mode, true))
    })
}
