//! The results of a run as Markdown: the bounds, then a table for each workload and number of
//! threads.

use std::fmt::Write;

use crate::report::{Judged, Report, Row, Table};

/// Everything that a run has found.
pub(crate) fn markdown(report: &Report) -> String {
    let mut page = format!(
        "Measured on {}, in {} seconds.\n\n",
        report.machine, report.seconds
    );
    page.push_str("| where | what | measured | bound | |\n|---|---|--:|--:|---|\n");
    for Judged {
        section,
        what,
        figure,
        limit,
        bound,
        unit,
        is_held,
    } in &report.bounds
    {
        let word = if *is_held { "held" } else { "**missed**" };
        let figure = figure_of(*figure);
        line(
            &mut page,
            format_args!(
                "| {section} | {what} | {figure} {unit} | {limit} {} | {word} |",
                figure_of(*bound)
            ),
        );
    }
    for table in &report.tables {
        page.push('\n');
        of_table(&mut page, table, &report.machine);
    }
    page
}

fn of_table(page: &mut String, table: &Table, machine: &str) {
    let on = if table.threads == 1 {
        "1 thread"
    } else {
        "2 threads"
    };
    line(
        page,
        format_args!(
            "**{}** (`{}`), {on}, nanoseconds a job, on {machine}:\n",
            table.about, table.workload
        ),
    );
    let is_single = table.rows.iter().any(|row| row.median_ns.is_some());
    let [first, second] = if is_single {
        ["median", "99th percentile"]
    } else {
        ["least", "median"]
    };
    line(
        page,
        format_args!("| | {first} | {second} | CPU | instructions | allocations | peak MB |"),
    );
    page.push_str("|---|--:|--:|--:|--:|--:|--:|\n");
    for row in &table.rows {
        of_row(page, row);
    }
}

fn of_row(page: &mut String, row: &Row) {
    let times = match (row.median_ns, row.p99_ns) {
        (Some(median), Some(p99)) => [Some(median.min), Some(p99.min), None],
        _ => [
            Some(row.wall_ns.min),
            Some(row.wall_ns.median),
            Some(row.cpu_ns.min),
        ],
    };
    let [first, second, cpu] = times.map(|figure| figure.map_or_else(String::new, figure_of));
    let name = if row.is_brigade {
        format!("**{}**", row.contender)
    } else {
        row.contender.clone()
    };
    let (instructions, allocations) = row
        .counts
        .map_or_else(Default::default, |(instructions, allocations)| {
            (format!("{instructions:.0}"), format!("{allocations:.3}"))
        });
    line(
        page,
        format_args!(
            "| {name} | {first} | {second} | {cpu} | {instructions} | {allocations} | {:.1} |",
            row.peak_mb
        ),
    );
}

/// With as many digits as are worth to be read.
fn figure_of(figure: f64) -> String {
    let digits = match figure.abs() {
        0.0..10.0 => 2,
        10.0..1_000.0 => 1,
        _ => 0,
    };
    format!("{figure:.digits$}")
}

fn line(page: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(page, "{line}").expect("a text can always be longer");
}
