//! Sections with a time axis: throughput, rows in flight, the time of a row, and a close view.

use maud::{Markup, html};

use super::super::chart::{self, Axis, Marker, Marks, Plot, Tick};
use super::super::figures::Figures;
use super::super::latency::{Bin, Latencies};
use super::super::text;
use super::super::timeline::{Column, Columns};
use super::{Cell, Figure, Head, Table};

const CHART_HEIGHT: u32 = 220;
/// Labels on the axis of the histogram.
const MAX_EDGES: usize = 6;

/// Throughput, and rows in flight.
pub(crate) fn over_time(figures: &Figures) -> Option<Markup> {
    let columns = figures.timeline.columns();
    let first = columns.columns.first()?;
    let total_ms = columns.width_ms as f64 * columns.columns.len() as f64;
    let left_out = if columns.gaps.is_empty() {
        ""
    } else {
        ", without what is left out"
    };
    let x = chart::time_axis(
        total_ms,
        &format!("since {}{left_out}", text::time(first.start)),
    );
    Some(html! {
        @for gap in &columns.gaps {
            p class="lead" {
                "Nothing ran from " (text::time(gap.from)) " to " (text::time(gap.to)) ". These "
                (text::between(gap.from, gap.to)) " are left out, and a dashed line stands there."
            }
        }
        (throughput(&columns, &x, figures))
        (in_flight(&columns, &x))
    })
}

fn throughput(columns: &Columns, x: &Axis, figures: &Figures) -> Markup {
    let per_second = |rows: u64| rows as f64 * 1_000.0 / columns.width_ms as f64;
    let rate = |column: &Column| per_second(column.ok + column.failed);
    let max = columns.columns.iter().map(rate).fold(0.0, f64::max);
    let (y, end) = chart::value_axis("rows a second", max, 1.0, 0.0);
    let (mut ok, mut failed) = (Marks::new("ok"), Marks::new("failed"));
    for (at, column) in columns.columns.iter().enumerate() {
        let (left, right) = sides(at, columns.columns.len());
        let middle = 1.0 - per_second(column.ok) / end;
        if column.ok > 0 {
            ok.rectangle(left, right, middle, 1.0);
        }
        if column.failed > 0 {
            failed.rectangle(left, right, 1.0 - rate(column) / end, middle);
        }
    }
    let markers = gap_markers(columns);
    let plot = Plot {
        y,
        x: x.clone(),
        height: CHART_HEIGHT,
        marks: vec![ok, failed],
        markers,
    };
    let width = text::between(0, columns.width_ms);
    let rows = figures.totals.rows;
    let summary = format!(
        "{} ended, {} of them as failures. The fastest {width} had {} a second.",
        text::counted(rows, "row", "rows"),
        text::count(figures.totals.failed),
        text::about(max),
    );
    let table = Table {
        caption: "rows that ended, by time",
        head: &[
            Head::Text("From"),
            Head::Number("OK"),
            Head::Number("Failed"),
            Head::Number("Rows a second"),
        ],
        rows: columns
            .columns
            .iter()
            .map(|column| {
                let number = Cell::Number(text::about(rate(column)));
                vec![
                    Cell::Word(text::time(column.start)),
                    Cell::count(column.ok),
                    Cell::Failures(column.failed),
                    number,
                ]
            })
            .collect(),
    };
    let chart = html! { (legend()) (plot.render()) };
    Figure {
        id: "throughput",
        name: "Throughput",
        summary,
        chart,
        table,
    }
    .render()
}

fn in_flight(columns: &Columns, x: &Axis) -> Markup {
    let all = columns.columns.iter().map(|column| column.in_flight);
    let max = all.clone().fold(0.0, f64::max);
    let mean = all.sum::<f64>() / columns.columns.len() as f64;
    let (y, end) = chart::value_axis("rows in flight", max, 1.0, 0.0);
    let mut marks = Marks::new("flow");
    for (at, column) in columns.columns.iter().enumerate() {
        if column.in_flight > 0.0 {
            let (left, right) = sides(at, columns.columns.len());
            marks.rectangle(left, right, 1.0 - column.in_flight / end, 1.0);
        }
    }
    let markers = gap_markers(columns);
    let plot = Plot {
        y,
        x: x.clone(),
        height: CHART_HEIGHT,
        marks: vec![marks],
        markers,
    };
    let width = text::between(0, columns.width_ms);
    let summary = format!(
        "{} rows were in flight on average, and {} on average in the busiest {width}.",
        text::about(mean),
        text::about(max),
    );
    let table = Table {
        caption: "rows in flight, by time",
        head: &[Head::Text("From"), Head::Number("Rows in flight")],
        rows: columns
            .columns
            .iter()
            .map(|column| {
                vec![
                    Cell::Word(text::time(column.start)),
                    Cell::Number(text::about(column.in_flight)),
                ]
            })
            .collect(),
    };
    Figure {
        id: "in-flight",
        name: "Rows in flight",
        summary,
        chart: plot.render(),
        table,
    }
    .render()
}

fn sides(at: usize, len: usize) -> (f64, f64) {
    (at as f64 / len as f64, (at + 1) as f64 / len as f64)
}

fn gap_markers(columns: &Columns) -> Vec<Marker> {
    let len = columns.columns.len() as f64;
    let marker = |before: usize| Marker {
        at: before as f64 / len,
        label: String::new(),
        level: 0,
    };
    columns.gaps.iter().map(|gap| marker(gap.before)).collect()
}

fn legend() -> Markup {
    let key = |class: &str| {
        html! {
            svg viewBox="0 0 10 10" aria-hidden="true" { rect class=(class) width="10" height="10" {} }
        }
    };
    html! {
        ul class="legend" {
            li { (key("ok")) "OK" }
            li { (key("failed")) "failed" }
        }
    }
}

/// The histogram of the times of rows.
pub(crate) fn latency(figures: &Figures) -> Option<Markup> {
    let bins = figures.histogram.bins();
    let latencies = &figures.latencies;
    let quantiles = [50, 95, 99].map(|percent| (percent, latencies.percentile(percent)));
    let [(_, Some(p50)), (_, Some(p95)), (_, Some(p99))] = quantiles else {
        return None;
    };
    let max = bins
        .iter()
        .map(|bin| bin.ok + bin.failed)
        .max()
        .unwrap_or(0);
    let (y, end) = chart::value_axis("rows", max as f64, 1.3, 1.0);
    let (mut ok, mut failed) = (Marks::new("ok"), Marks::new("failed"));
    for (at, bin) in bins.iter().enumerate() {
        let (left, right) = sides(at, bins.len());
        // A gap between bars, which are few.
        let (left, right) = (left + 0.001, right - 0.001);
        let middle = 1.0 - bin.ok as f64 / end;
        if bin.ok > 0 {
            ok.rectangle(left, right, middle, 1.0);
        }
        if bin.failed > 0 {
            failed.rectangle(
                left,
                right,
                1.0 - (bin.ok + bin.failed) as f64 / end,
                middle,
            );
        }
    }
    let markers = [(p50, "p50"), (p95, "p95"), (p99, "p99")]
        .into_iter()
        .zip(0..);
    let markers = markers.map(|((ms, name), level)| Marker {
        at: position(&bins, ms),
        label: format!("{name} {} ms", text::count(ms)),
        level,
    });
    let x = Axis {
        unit: "milliseconds, in steps that grow".to_owned(),
        ticks: edges(&bins),
    };
    let plot = Plot {
        y,
        x,
        height: CHART_HEIGHT + 40,
        marks: vec![ok, failed],
        markers: markers.collect(),
    };
    let table = Table {
        caption: "rows by their time",
        head: &[
            Head::Text("Milliseconds"),
            Head::Number("OK"),
            Head::Number("Failed"),
        ],
        rows: bins
            .iter()
            .map(|bin| {
                vec![
                    Cell::Word(range(bin)),
                    Cell::count(bin.ok),
                    Cell::Failures(bin.failed),
                ]
            })
            .collect(),
    };
    let summary = latency_summary(figures, latencies, [p50, p95, p99]);
    let chart = html! { (legend()) (plot.render()) };
    Some(
        Figure {
            id: "histogram",
            name: "Rows by their time",
            summary,
            chart,
            table,
        }
        .render(),
    )
}

fn latency_summary(figures: &Figures, latencies: &Latencies, [p50, p95, p99]: [u64; 3]) -> String {
    let mut summary = format!(
        "Half of the rows took {} or less, 95 % took {} or less, and 99 % took {} or less. The \
         slowest one took {}. All attempts of a row count, and its waits do not.",
        text::duration(p50),
        text::duration(p95),
        text::duration(p99),
        text::duration(latencies.max()),
    );
    let without = figures.totals.rows - latencies.total();
    if without > 0 {
        let rows = text::counted(without, "row", "rows");
        summary += &format!(" Not counted: {rows} for which nothing was started.");
    }
    summary
}

fn range(bin: &Bin) -> String {
    match bin.to {
        Some(to) if to == bin.from + 1 => text::count(bin.from),
        Some(to) => format!("{} to {}", text::count(bin.from), text::count(to - 1)),
        None => format!("{} and more", text::count(bin.from)),
    }
}

/// Where a time stands on the axis of the histogram.
fn position(bins: &[Bin], ms: u64) -> f64 {
    let at = bins.iter().rposition(|bin| bin.from <= ms).unwrap_or(0);
    let Some(bin) = bins.get(at) else { return 0.0 };
    let to = bin.to.unwrap_or(bin.from * 10);
    let within = (ms - bin.from.min(ms)) as f64 / (to - bin.from) as f64;
    (at as f64 + within.min(1.0)) / bins.len() as f64
}

/// Labels where bins begin: all of them, or those of each decade.
fn edges(bins: &[Bin]) -> Vec<Tick> {
    let len = bins.len() as f64;
    let starts = bins
        .iter()
        .enumerate()
        .map(|(at, bin)| (at as f64 / len, bin.from));
    let last = bins.last().and_then(|bin| bin.to).map(|to| (1.0, to));
    let all: Vec<_> = starts.chain(last).collect();
    let first_digit = |ms: u64| ms / 10_u64.pow(ms.checked_ilog10().unwrap_or(0));
    let sets: [&[u64]; 3] = [&[0, 1, 2, 3, 5, 7], &[0, 1, 3], &[0, 1]];
    let choose = |digits: &[u64]| -> Vec<_> {
        let is_round = |ms: u64| {
            let digit = first_digit(ms);
            digits.contains(&digit) && (digit == 0 || ms.is_multiple_of(10_u64.pow(ms.ilog10())))
        };
        all.iter()
            .filter(|(_, ms)| is_round(*ms))
            .copied()
            .collect()
    };
    let chosen = sets
        .into_iter()
        .map(choose)
        .find(|edges| edges.len() <= MAX_EDGES);
    let chosen = chosen.unwrap_or_else(|| choose(&[1]));
    chosen
        .into_iter()
        .map(|(at, ms)| Tick {
            at,
            label: text::count(ms),
        })
        .collect()
}

/// The rows of a stretch of the run, one bar each.
pub(crate) fn close_view(figures: &Figures) -> Option<Markup> {
    let view = &figures.close;
    let length = (view.to - view.from).max(1) as f64;
    if view.marks.is_empty() {
        return None;
    }
    let share = |time: i64| (time - view.from) as f64 / length;
    let lanes = view.lanes as f64;
    let y = chart::lane_axis("rows at the same time", lanes);
    let (mut ok, mut failed) = (Marks::new("ok"), Marks::new("failed"));
    for mark in &view.marks {
        let marks = if mark.ok { &mut ok } else { &mut failed };
        let bottom = 1.0 - mark.lane as f64 / lanes;
        // A short row is still to be seen.
        let right = share(mark.to).max(share(mark.from) + 0.000_8).min(1.0);
        marks.rectangle(
            share(mark.from),
            right,
            bottom - 0.88 / lanes,
            bottom - 0.12 / lanes,
        );
    }
    let x = chart::time_axis(length, &format!("since {}", text::time(view.from)));
    let height = u32::try_from(view.lanes * 9)
        .unwrap_or(u32::MAX)
        .clamp(60, 460);
    let plot = Plot {
        y,
        x,
        height,
        marks: vec![ok, failed],
        markers: Vec::new(),
    };
    let chart = html! { (legend()) (plot.render()) };
    let summary = close_summary(figures);
    let table = Table {
        caption: "the rows of each line",
        head: &[
            Head::Number("Line"),
            Head::Number("OK"),
            Head::Number("Failed"),
            Head::Number("Busy"),
        ],
        rows: (0..view.lanes)
            .map(|lane| close_row(figures, lane, length))
            .collect(),
    };
    Some(
        Figure {
            id: "close-view",
            name: "Rows one by one",
            summary,
            chart,
            table,
        }
        .render(),
    )
}

fn close_summary(figures: &Figures) -> String {
    let view = &figures.close;
    let rows = text::counted(view.marks.len() as u64, "row", "rows");
    let stretch = if view.marks.len() as u64 == figures.totals.rows {
        "All rows".to_owned()
    } else {
        format!(
            "{rows} from the busiest stretch, {} long",
            text::between(view.from, view.to)
        )
    };
    let mut summary = format!(
        "{stretch}, a bar each, as long as its {} ran. Up to {} ran at the same time.",
        figures.mode.work(),
        text::count(view.lanes as u64),
    );
    if view.left_out > 0 {
        let left_out = text::counted(view.left_out as u64, "row", "rows");
        summary += &format!(" There was no room for {left_out} more.");
    }
    summary
}

fn close_row(figures: &Figures, lane: usize, length: f64) -> Vec<Cell> {
    let marks = figures.close.marks.iter().filter(|mark| mark.lane == lane);
    let ok = marks.clone().filter(|mark| mark.ok).count() as u64;
    let failed = marks.clone().filter(|mark| !mark.ok).count() as u64;
    let busy: i64 = marks.map(|mark| mark.to - mark.from).sum();
    let busy = format!("{} %", text::decimal(busy as f64 / length * 100.0, 0));
    vec![
        Cell::count(lane as u64 + 1),
        Cell::count(ok),
        Cell::Failures(failed),
        Cell::Number(busy),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::super::latency::Histogram;
    use super::*;

    #[test]
    fn the_labels_of_the_histogram_stand_where_bins_begin() {
        let mut histogram = Histogram::default();
        for ms in [12, 800, 40_000] {
            histogram.record(ms, true);
        }
        let bins = histogram.bins();
        let ticks = edges(&bins);
        let labels: Vec<_> = ticks.iter().map(|tick| tick.label.as_str()).collect();
        assert_eq!(labels, ["10", "100", "1,000", "10,000"]);
        for (tick, ms) in ticks.iter().zip([10, 100, 1_000, 10_000]) {
            assert!((tick.at - position(&bins, ms)).abs() < 1e-9, "{ms}");
        }
        assert!(position(&bins, 125) > position(&bins, 100));
    }
}
