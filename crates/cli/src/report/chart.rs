//! Charts: numbers come in, and SVG without script and without style attributes comes out.
//!
//! Marks stand in a view box that is stretched to the width of the page, one path for each class.
//! Labels stand beside it at the same share of the width, so that they are never stretched.

use std::fmt::Write;

use maud::{Markup, html};

use super::text;

/// The size of the view box of marks, in both directions.
const BOX: f64 = 1000.0;

/// A label on an axis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tick {
    /// From 0 at the start of the axis to 1 at its end.
    pub(crate) at: f64,
    pub(crate) label: String,
}

/// An axis: all its labels have the same unit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Axis {
    pub(crate) unit: String,
    pub(crate) ticks: Vec<Tick>,
}

/// A vertical line with a label.
#[derive(Debug, Clone)]
pub(crate) struct Marker {
    pub(crate) at: f64,
    pub(crate) label: String,
    /// The line of text, from the top, in which the label stands.
    pub(crate) level: u32,
}

/// Marks of one class, in one path.
#[derive(Debug, Clone)]
pub(crate) struct Marks {
    pub(crate) class: &'static str,
    path: String,
    pub(crate) count: usize,
}

/// A chart without its caption.
#[derive(Debug)]
pub(crate) struct Plot {
    pub(crate) y: Axis,
    pub(crate) x: Axis,
    /// In pixels.
    pub(crate) height: u32,
    pub(crate) marks: Vec<Marks>,
    pub(crate) markers: Vec<Marker>,
}

impl Marks {
    pub(crate) fn new(class: &'static str) -> Self {
        Self {
            class,
            path: String::new(),
            count: 0,
        }
    }

    /// Adds a rectangle. All values are shares of the plot, from its left and its top.
    pub(crate) fn rectangle(&mut self, left: f64, right: f64, top: f64, bottom: f64) {
        let [left, right, top, bottom] = [left, right, top, bottom].map(coordinate);
        write!(self.path, "M{left} {bottom}V{top}H{right}V{bottom}Z").expect("memory");
        self.count += 1;
    }
}

impl Plot {
    pub(crate) fn render(&self) -> Markup {
        html! {
            div class="plot" aria-hidden="true" {
                p class="unit" { (self.y.unit) }
                svg class="y" height=(self.height) {
                    @for tick in &self.y.ticks {
                        text x="100%" y=(share(1.0 - tick.at)) dy="0.32em" { (tick.label) }
                    }
                }
                svg class="area" height=(self.height) {
                    @for tick in &self.y.ticks {
                        @let y = share(1.0 - tick.at);
                        line x1="0" x2="100%" y1=(y) y2=(y) {}
                    }
                    svg viewBox={ "0 0 " (BOX) " " (BOX) } preserveAspectRatio="none"
                        width="100%" height="100%" {
                        @for marks in self.marks.iter().filter(|marks| marks.count > 0) {
                            path class={ "marks " (marks.class) } d=(marks.path) {}
                        }
                    }
                    line class="base" x1="0" x2="100%" y1="100%" y2="100%" {}
                    @for marker in &self.markers { (marker.render()) }
                }
                svg class="x" height="22" {
                    @for tick in &self.x.ticks {
                        line x1=(share(tick.at)) x2=(share(tick.at)) y1="0" y2="5" {}
                        text x=(share(tick.at)) y="18" { (tick.label) }
                    }
                }
                p class="unit x" { (self.x.unit) }
            }
        }
    }
}

impl Marker {
    fn render(&self) -> Markup {
        let x = share(self.at);
        let (class, dx) = if self.at > 0.6 {
            ("end", "-5")
        } else {
            ("start", "5")
        };
        let top = 4 + 17 * self.level;
        html! {
            line class="marker" x1=(x) x2=(x) y1=(top) y2="100%" {}
            @if !self.label.is_empty() {
                text class={ "label " (class) } x=(x) dx=(dx) y=(top + 10) { (self.label) }
            }
        }
    }
}

/// A horizontal bar of the given shares of the width, one for each class.
pub(crate) fn bar(class: &str, parts: &[(&str, f64)]) -> Markup {
    let mut left = 0.0;
    html! {
        svg class={ "bar " (class) } viewBox={ "0 0 " (BOX) " 10" } preserveAspectRatio="none"
            aria-hidden="true" {
            @for (class, share) in parts.iter().filter(|(_, share)| *share > 0.0) {
                rect class=(class) x=(coordinate(left)) y="0" width=(coordinate(*share)) height="10" {}
                @let () = left += share;
            }
        }
    }
}

/// The ticks of an axis from 0 to at least `max`, and the value at its end. `room` times the
/// height that the ticks take is used.
pub(crate) fn value_axis(unit: &str, max: f64, room: f64, min_step: f64) -> (Axis, f64) {
    let step = nice_step(max / 4.0).max(min_step);
    let steps = (max / step).ceil().max(1.0);
    let end = steps * step * room;
    let decimals = usize::try_from((-step.log10()).ceil().max(0.0) as i64).unwrap_or(0);
    let tick = |n: u32| {
        let value = f64::from(n) * step;
        Tick {
            at: value / end,
            label: text::decimal(value, decimals),
        }
    };
    let ticks = (0..=steps as u32).map(tick).collect();
    (
        Axis {
            unit: unit.to_owned(),
            ticks,
        },
        end,
    )
}

/// The ticks of an axis that ends at `end`, which need not be a round number.
pub(crate) fn lane_axis(unit: &str, end: f64) -> Axis {
    let (mut axis, last) = value_axis(unit, end, 1.0, 1.0);
    for tick in &mut axis.ticks {
        tick.at *= last / end;
    }
    axis.ticks.retain(|tick| tick.at <= 1.000_001);
    axis
}

/// The smallest of 1, 2, 5, 10, 20, … 0.5, 0.2, … that is not below `step`.
fn nice_step(step: f64) -> f64 {
    if step.is_nan() || step <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|factor| step <= factor * power * 1.000_001);
    factor.unwrap_or(10.0) * power
}

/// An axis of time from 0 to `end_ms`, with the unit that suits its length.
pub(crate) fn time_axis(end_ms: f64, since: &str) -> Axis {
    const SIXTIETHS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0];
    const HOURS: &[f64] = &[1.0, 2.0, 3.0, 6.0, 12.0, 24.0];
    let (unit, unit_ms, steps) = match end_ms {
        ms if ms < 2_000.0 => ("milliseconds", 1.0, &[][..]),
        ms if ms < 180_000.0 => ("seconds", 1_000.0, SIXTIETHS),
        ms if ms < 10_800_000.0 => ("minutes", 60_000.0, SIXTIETHS),
        ms if ms < 259_200_000.0 => ("hours", 3_600_000.0, HOURS),
        _ => ("days", 86_400_000.0, &[][..]),
    };
    let end = end_ms / unit_ms;
    let least = end / 6.0;
    let step = steps.iter().copied().find(|step| *step >= least);
    let step = step.unwrap_or_else(|| nice_step(least).max(1.0));
    let tick = |n: u32| {
        let value = f64::from(n) * step;
        Tick {
            at: value / end,
            label: text::decimal(value, 0),
        }
    };
    let last = (end / step * 1.000_001).floor() as u32;
    Axis {
        unit: format!("{unit} {since}"),
        ticks: (0..=last).map(tick).collect(),
    }
}

fn share(at: f64) -> String {
    format!("{}%", rounded(at * 100.0, 100.0))
}

fn coordinate(share: f64) -> f64 {
    rounded(share * BOX, 10.0)
}

fn rounded(number: f64, parts: f64) -> f64 {
    (number * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn the_ticks_of_values_are_round_and_reach_the_largest_one() {
        for (max, expected) in [
            (3.0, &["0", "1", "2", "3"][..]),
            (97.0, &["0", "50", "100"]),
            (0.9, &["0.0", "0.5", "1.0"]),
            (17_000.0, &["0", "5,000", "10,000", "15,000", "20,000"]),
            (0.0, &["0", "1"]),
        ] {
            let (axis, end) = value_axis("rows", max, 1.0, 0.0);
            assert_eq!(labels(&axis), expected, "{max}");
            assert!(end >= max);
        }
        assert_eq!(labels(&value_axis("rows", 1.0, 1.0, 1.0).0), ["0", "1"]);
    }

    #[test]
    fn an_axis_of_lanes_ends_with_the_last_lane() {
        let axis = lane_axis("rows", 50.0);
        assert_eq!(labels(&axis), ["0", "20", "40"]);
        assert!((axis.ticks[2].at - 0.8).abs() < 1e-9);
        assert_eq!(labels(&lane_axis("rows", 1.0)), ["0", "1"]);
    }

    #[test]
    fn an_axis_of_time_has_one_unit() {
        for (end, unit, expected) in [
            (
                900.0,
                "milliseconds",
                &["0", "200", "400", "600", "800"][..],
            ),
            (61_000.0, "seconds", &["0", "15", "30", "45", "60"]),
            (300_000.0, "minutes", &["0", "1", "2", "3", "4", "5"]),
            (36_000_000.0, "hours", &["0", "2", "4", "6", "8", "10"]),
        ] {
            let axis = time_axis(end, "since then");
            assert_eq!(
                (labels(&axis).as_slice(), axis.unit.split(' ').next()),
                (expected, Some(unit))
            );
            assert!(
                axis.ticks
                    .iter()
                    .all(|tick| (0.0..=1.0001).contains(&tick.at))
            );
        }
    }

    #[test]
    fn a_tick_stands_where_its_value_is_drawn() {
        let (axis, end) = value_axis("rows", 80.0, 1.25, 0.0);
        for tick in &axis.ticks {
            let value: f64 = tick.label.parse().expect("a number");
            assert!((tick.at - value / end).abs() < 1e-9);
        }
    }
}
