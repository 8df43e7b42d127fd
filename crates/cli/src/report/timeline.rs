//! The run over time: intervals of rows come in, and columns of equal width come out.
//!
//! The width of the bins grows with the run, so that a run of any length fits in [`MAX_BINS`]
//! bins. Rows may come in any order.

use std::collections::VecDeque;

/// Bins that are kept while rows come in.
const MAX_BINS: usize = 16_384;
/// Columns of a chart.
pub(crate) const MAX_COLUMNS: usize = 240;
/// Columns of a chart of few rows.
const MIN_COLUMNS: usize = 24;
/// Rows that a column has on average, where there are few.
const ROWS_PER_COLUMN: u64 = 4;
/// Bin widths in milliseconds, each a multiple of the one before.
const WIDTHS: [i64; 21] = [
    1,
    5,
    10,
    50,
    100,
    500,
    1_000,
    5_000,
    10_000,
    30_000,
    60_000,
    300_000,
    600_000,
    1_800_000,
    3_600_000,
    21_600_000,
    43_200_000,
    86_400_000,
    864_000_000,
    8_640_000_000,
    864_000_000_000,
];
/// Factors that turn the width of a bin into the width of a column.
const FACTORS: [i64; 13] = [1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60, 100];
/// A time without any row is left out of the charts if it is at least this long…
const MIN_GAP_MS: i64 = 300_000;
/// More parts than this are shown with the times between them.
const MAX_SEGMENTS: usize = 24;

#[derive(Debug, Clone, Copy, Default)]
struct Bin {
    ok: u64,
    failed: u64,
    /// Row-milliseconds in this bin.
    busy_ms: u64,
}

impl Bin {
    const fn is_empty(&self) -> bool {
        self.ok + self.failed + self.busy_ms == 0
    }

    fn add(&mut self, other: &Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.busy_ms += other.busy_ms;
    }
}

/// Rows by time.
#[derive(Debug)]
pub(crate) struct Timeline {
    width: usize,
    /// Index of the first bin: its start divided by the width.
    first: i64,
    bins: VecDeque<Bin>,
    start: i64,
    end: i64,
}

/// The chart's view of a timeline.
#[derive(Debug, PartialEq)]
pub(crate) struct Columns {
    /// The width of each column in milliseconds.
    pub(crate) width_ms: i64,
    pub(crate) columns: Vec<Column>,
    /// Times that are left out.
    pub(crate) gaps: Vec<Gap>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Column {
    /// Milliseconds since 1970.
    pub(crate) start: i64,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    /// The rows in flight, on average over the column.
    pub(crate) in_flight: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    /// The index of the first column after the gap.
    pub(crate) before: usize,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

impl Timeline {
    pub(crate) fn new() -> Self {
        Self {
            width: 0,
            first: 0,
            bins: VecDeque::new(),
            start: i64::MAX,
            end: i64::MIN,
        }
    }

    /// Adds a row that ran from `from` to `to`, in milliseconds since 1970.
    pub(crate) fn record(&mut self, from: i64, to: i64, ok: bool) {
        self.start = self.start.min(from);
        self.end = self.end.max(to);
        if self.bins.is_empty() {
            self.first = from.div_euclid(self.width_ms());
            self.bins.push_back(Bin::default());
        }
        self.make_room(from, to);
        let width = self.width_ms();
        let last = self.index(to);
        for index in self.index(from)..=last {
            let bin_start = (self.first + i64::try_from(index).expect("few bins")) * width;
            let busy = to.min(bin_start + width) - from.max(bin_start);
            self.bins[index].busy_ms += u64::try_from(busy).expect("the bin meets the row");
        }
        let bin = &mut self.bins[last];
        if ok { bin.ok += 1 } else { bin.failed += 1 }
    }

    /// From the first start to the last end.
    pub(crate) fn span(&self) -> Option<(i64, i64)> {
        (self.start <= self.end).then_some((self.start, self.end))
    }

    /// A stretch from the busiest column on in which at most about `rows` rows ended.
    pub(crate) fn busiest(&self, rows: u64) -> Option<(i64, i64)> {
        let columns = self.columns();
        let busiest = columns
            .columns
            .iter()
            .rev()
            .max_by_key(|column| column.ok + column.failed)?;
        let mut ended = 0;
        let mut end = busiest.start;
        for bin in self.bins.range(self.index(busiest.start)..) {
            ended += bin.ok + bin.failed;
            if ended > rows && end > busiest.start {
                break;
            }
            end += self.width_ms();
        }
        Some((busiest.start, end))
    }

    /// At most [`MAX_COLUMNS`] columns, without the long times in which nothing happened.
    pub(crate) fn columns(&self) -> Columns {
        let segments = self.segments();
        let width = self.column_width(&segments);
        let mut columns = Vec::new();
        let mut gaps = Vec::new();
        let mut previous_end = None;
        for segment in &segments {
            let from = (self.first + segment.start) * self.width_ms();
            let to = (self.first + segment.end) * self.width_ms();
            if let Some(previous) = previous_end {
                gaps.push(Gap {
                    before: columns.len(),
                    from: previous,
                    to: from,
                });
            }
            previous_end = Some(to);
            self.push_columns(segment, width, &mut columns);
        }
        Columns {
            width_ms: width * self.width_ms(),
            columns,
            gaps,
        }
    }

    /// Columns of `width` bins each.
    fn push_columns(&self, segment: &std::ops::Range<i64>, width: i64, columns: &mut Vec<Column>) {
        let width_ms = width * self.width_ms();
        for start in segment
            .clone()
            .step_by(usize::try_from(width).expect("positive"))
        {
            let mut sum = Bin::default();
            for index in start..(start + width).min(segment.end) {
                sum.add(&self.bins[usize::try_from(index).expect("not negative")]);
            }
            columns.push(Column {
                start: (self.first + start) * self.width_ms(),
                ok: sum.ok,
                failed: sum.failed,
                in_flight: sum.busy_ms as f64 / width_ms as f64,
            });
        }
    }

    /// Ranges of bins between the gaps that are left out.
    fn segments(&self) -> Vec<std::ops::Range<i64>> {
        let busy = self.bins.iter().filter(|bin| !bin.is_empty()).count();
        let busy_ms = i64::try_from(busy).expect("few bins") * self.width_ms();
        // … and longer than half of the time in which something happened.
        let min_gap = MIN_GAP_MS.max(busy_ms / 2) / self.width_ms();
        let mut segments: Vec<std::ops::Range<i64>> = Vec::new();
        for (index, bin) in (0..).zip(&self.bins) {
            if bin.is_empty() {
                continue;
            }
            match segments.last_mut() {
                Some(last) if index - last.end < min_gap.max(1) => last.end = index + 1,
                _ => segments.push(index..index + 1),
            }
        }
        match (segments.first(), segments.last()) {
            (Some(first), Some(last)) if segments.len() > MAX_SEGMENTS => {
                std::iter::once(first.start..last.end).collect()
            }
            _ => segments,
        }
    }

    /// The number of bins in a column.
    fn column_width(&self, segments: &[std::ops::Range<i64>]) -> i64 {
        let columns = |factor: i64| -> i64 {
            segments
                .iter()
                .map(|s| (s.end - s.start + factor - 1) / factor)
                .sum()
        };
        let rows: u64 = self.bins.iter().map(|bin| bin.ok + bin.failed).sum();
        let max = usize::try_from(rows / ROWS_PER_COLUMN).unwrap_or(MAX_COLUMNS);
        let max = i64::try_from(max.clamp(MIN_COLUMNS, MAX_COLUMNS)).expect("a small number");
        let wider = (2..).map(|n| n * 100);
        let mut factors = FACTORS.into_iter().chain(wider);
        factors.find(|factor| columns(*factor) <= max).unwrap_or(1)
    }

    fn width_ms(&self) -> i64 {
        WIDTHS[self.width]
    }

    /// The bin of a time that lies in the bins.
    fn index(&self, time: i64) -> usize {
        let index = time.div_euclid(self.width_ms()) - self.first;
        usize::try_from(index).expect("`make_room` made a bin for this time")
    }

    /// Makes bins for `from` to `to`; wider ones if there would be too many.
    fn make_room(&mut self, from: i64, to: i64) {
        loop {
            let width = self.width_ms();
            let first = self.first.min(from.div_euclid(width));
            let end = self.first + i64::try_from(self.bins.len()).expect("few bins");
            let end = end.max(to.div_euclid(width) + 1);
            if usize::try_from(end - first).is_ok_and(|len| len <= MAX_BINS) {
                while self.first > first {
                    self.bins.push_front(Bin::default());
                    self.first -= 1;
                }
                let len = usize::try_from(end - first).expect("checked above");
                self.bins.resize(len, Bin::default());
                return;
            }
            self.widen();
        }
    }

    fn widen(&mut self) {
        let factor = WIDTHS[self.width + 1] / WIDTHS[self.width];
        let first = self.first.div_euclid(factor);
        let mut bins = VecDeque::new();
        for (index, bin) in (self.first..).zip(&self.bins) {
            let at = usize::try_from(index.div_euclid(factor) - first).expect("not negative");
            bins.resize(bins.len().max(at + 1), Bin::default());
            bins[at].add(bin);
        }
        self.width += 1;
        self.first = first;
        self.bins = bins;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(columns: &Columns) -> (u64, u64, f64) {
        let busy = columns
            .columns
            .iter()
            .map(|c| c.in_flight * columns.width_ms as f64)
            .sum();
        let ok = columns.columns.iter().map(|c| c.ok).sum();
        (ok, columns.columns.iter().map(|c| c.failed).sum(), busy)
    }

    #[test]
    fn rows_and_their_time_are_kept_at_any_length_of_the_run() {
        for step in [1, 7, 1_000, 90_000, 40_000_000] {
            let mut timeline = Timeline::new();
            // Not in the order of time.
            for row in (500..1_000).chain(0..500) {
                let end = 1_700_000_000_000 + row * step;
                timeline.record(end - 3 * step, end, row % 10 != 0);
            }
            let columns = timeline.columns();
            let (ok, failed, busy) = totals(&columns);
            assert_eq!((ok, failed), (900, 100), "step {step}");
            assert!(
                (busy - (3_000 * step) as f64).abs() < 1.0,
                "step {step}: {busy}"
            );
            assert!(
                columns.columns.len() <= MAX_COLUMNS,
                "{}",
                columns.columns.len()
            );
            assert!(
                columns.columns.len() >= 100 || step == 1,
                "{}",
                columns.columns.len()
            );
            assert!(columns.gaps.is_empty());
        }
    }

    #[test]
    fn a_night_between_two_runs_is_left_out() {
        let mut timeline = Timeline::new();
        let night = 36_000_000;
        for row in 0..600 {
            timeline.record(row * 1_000, row * 1_000 + 500, true);
            timeline.record(night + row * 1_000, night + row * 1_000 + 500, true);
        }
        let columns = timeline.columns();
        let [gap] = columns.gaps[..] else {
            panic!("one gap, not {:?}", columns.gaps)
        };
        assert!(gap.from <= 610_000 && gap.to >= night - 10_000, "{gap:?}");
        assert_eq!(columns.columns[gap.before].start, gap.to);
        assert_eq!(totals(&columns).0, 1_200);
        assert_eq!(timeline.span(), Some((0, night + 599_500)));
    }

    #[test]
    fn times_of_any_century_fit_in_the_bins() {
        let mut timeline = Timeline::new();
        for (from, to) in [
            (253_402_300_799_999, 253_402_300_799_999),
            (-999_999_999_999, 0),
        ] {
            timeline.record(from, to, true);
        }
        let columns = timeline.columns();
        assert_eq!(totals(&columns).0, 2);
        assert!(columns.columns.len() <= MAX_COLUMNS);
        assert!(timeline.busiest(1).is_some());
    }

    #[test]
    fn many_runs_far_from_each_other_fit_in_the_columns() {
        let mut timeline = Timeline::new();
        for run in 0..1_000 {
            timeline.record(run * 3_600_000, run * 3_600_000 + 900, true);
        }
        let columns = timeline.columns();
        assert_eq!(totals(&columns).0, 1_000);
        assert!(
            columns.columns.len() <= MAX_COLUMNS,
            "{}",
            columns.columns.len()
        );
    }

    #[test]
    fn a_single_row_of_no_length_has_a_column() {
        let mut timeline = Timeline::new();
        assert_eq!(timeline.span(), None);
        assert!(timeline.columns().columns.is_empty());
        timeline.record(5, 5, false);
        let columns = timeline.columns();
        assert_eq!(
            columns.columns,
            [Column {
                start: 5,
                ok: 0,
                failed: 1,
                in_flight: 0.0
            }]
        );
    }
}
