//! The main table as a picture: a panel for each of the common workloads, a bar for each contender,
//! the quickest on top. Bars that would leave the panel are cut, and say so; its time stands at the
//! end of each.

use std::fmt::Write;

use crate::report::{Report, Row, Table};

/// The workloads that are drawn, those of them that have been measured.
const PANELS: [&str; 6] = [
    "ready-10",
    "ready-1000",
    "yield-1000",
    "sleep-10",
    "sleep-1000",
    "sleep-10000",
];
const COLUMNS: usize = 3;
const WIDTH: usize = 430;
const LABELS: usize = 140;
const BAR: usize = 16;
/// Space for the number behind the longest bar.
const FIGURES: usize = 70;
const TOP: usize = 64;
const HEADING: usize = 34;
/// A panel is so many times as wide as the pool's longer bar; what is longer is cut.
const ROOM: f64 = 4.0;

/// Draws the results of a run on one thread.
pub(crate) fn svg(report: &Report) -> Result<String, String> {
    let tables: Vec<&Table> = PANELS
        .iter()
        .filter_map(|name| {
            report
                .tables
                .iter()
                .find(|table| table.workload == *name && table.threads == 1)
        })
        .collect();
    if tables.is_empty() {
        return Err(format!("there is none of the tables {}", PANELS.join(", ")));
    }
    let heights: Vec<usize> = tables
        .chunks(COLUMNS)
        .map(|line| {
            HEADING + line.iter().map(|table| table.rows.len()).max().unwrap_or(0) * BAR + 24
        })
        .collect();
    let (width, height) = (COLUMNS * WIDTH + 20, TOP + heights.iter().sum::<usize>());
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(
        &mut svg,
        (20, 26),
        "font-size=\"18\" fill=\"#111111\"",
        "Time a job on one thread: shorter is better",
    );
    let method = format!(
        "Red: the pool. Grey: a plain loop, and tasks between two bare channels. Blue: its peers. » is cut. \
         Least of all rounds, a process each, on {}.",
        report.machine
    );
    text(&mut svg, (20, 46), "fill=\"#555555\"", &method);
    let mut y = TOP;
    for (line, height) in tables.chunks(COLUMNS).zip(heights) {
        for (column, table) in line.iter().enumerate() {
            panel(&mut svg, table, (20 + column * WIDTH, y));
        }
        y += height;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn panel(svg: &mut String, table: &Table, (x, y): (usize, usize)) {
    text(
        svg,
        (x, y + 16),
        "font-size=\"13\" font-weight=\"bold\" fill=\"#111111\"",
        &table.about,
    );
    let ours = table
        .rows
        .iter()
        .filter(|row| row.is_brigade)
        .map(length)
        .fold(0.0, f64::max);
    let least = table.rows.first().map_or(1.0, length);
    let most = table
        .rows
        .iter()
        .map(length)
        .fold(0.0, f64::max)
        .min(ROOM * ours.max(least));
    let room = (WIDTH - LABELS - FIGURES - 20) as f64;
    for (at, row) in table.rows.iter().enumerate() {
        let top = y + HEADING - 8 + at * BAR;
        let colour = match () {
            () if row.is_brigade => "#d1495b",
            () if row.contender == "naive" || row.contender == "plain-loop" => "#8d96a3",
            () => "#30638e",
        };
        let is_cut = length(row) > most;
        let bar = (length(row).min(most) / most * room).max(1.0);
        let style = if row.is_brigade {
            "fill=\"#111111\" font-weight=\"bold\""
        } else {
            "fill=\"#333333\""
        };
        text(svg, (x, top + 10), style, &row.contender);
        let _ = writeln!(
            svg,
            "<rect x=\"{}\" y=\"{}\" width=\"{bar:.1}\" height=\"{}\" fill=\"{colour}\"/>",
            x + LABELS,
            top + 1,
            BAR - 5
        );
        let figure = format!("{}{}", if is_cut { "» " } else { "" }, figure(row));
        text(
            svg,
            (x + LABELS + bar as usize + 5, top + 10),
            style,
            &figure,
        );
    }
}

fn length(row: &Row) -> f64 {
    row.beside_ideal.unwrap_or(row.wall_ns.min)
}

fn figure(row: &Row) -> String {
    match row.beside_ideal {
        Some(ideal) if ideal < 10.0 => format!("{ideal:.2} × ideal"),
        Some(ideal) => format!("{ideal:.0} × ideal"),
        None if row.wall_ns.min < 100.0 => format!("{:.1} ns", row.wall_ns.min),
        None => format!("{:.0} ns", row.wall_ns.min),
    }
}

fn text(svg: &mut String, (x, y): (usize, usize), style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    // Writing to a string cannot fail.
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" {style}>{words}</text>");
}
