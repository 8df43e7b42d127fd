//! Times of rows: milliseconds come in, and quantiles and a histogram come out.

/// Times below this are counted one by one.
const EXACT: u64 = 256;
/// Cells for each power of two above [`EXACT`]: a quantile is off by less than 1 %.
const CELLS: u64 = EXACT / 2;

/// Counts of times, each within 1 %. It keeps one counter for each different time that it saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latencies {
    /// Cell and count, in the order of the cells.
    counts: Vec<(u16, u64)>,
    total: u64,
    max: u64,
}

impl Latencies {
    pub(crate) fn record(&mut self, ms: u64) {
        let cell = cell_of(ms);
        match self.counts.binary_search_by_key(&cell, |(cell, _)| *cell) {
            Ok(at) => self.counts[at].1 += 1,
            Err(at) => self.counts.insert(at, (cell, 1)),
        }
        self.total += 1;
        self.max = self.max.max(ms);
    }

    /// The number of times.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The longest time.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// The time that `percent` of the times do not exceed, by the nearest-rank method.
    pub(crate) fn percentile(&self, percent: u64) -> Option<u64> {
        let rank = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (cell, count) in &self.counts {
            seen += count;
            if seen >= rank {
                return Some(highest_of(*cell).min(self.max));
            }
        }
        None
    }
}

fn cell_of(ms: u64) -> u16 {
    // The counters end at 2^47 milliseconds, which no run reaches.
    let ms = ms.min((1 << 47) - 1);
    if ms < EXACT {
        return u16::try_from(ms).expect("less than 256");
    }
    let shift = u64::from(ms.ilog2() - CELLS.ilog2());
    let cell = EXACT + (shift - 1) * CELLS + ((ms >> shift) - CELLS);
    u16::try_from(cell).expect("40 powers of two with 128 cells each")
}

/// The longest time in the cell.
fn highest_of(cell: u16) -> u64 {
    let cell = u64::from(cell);
    if cell < EXACT {
        return cell;
    }
    let shift = (cell - EXACT) / CELLS + 1;
    let mantissa = CELLS + (cell - EXACT) % CELLS;
    ((mantissa + 1) << shift) - 1
}

/// Where the bins of the histogram begin, in milliseconds. Each ends where the next one begins.
const EDGES: [u64; 38] = [
    0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1_000, 1_500, 2_000,
    3_000, 5_000, 7_000, 10_000, 15_000, 20_000, 30_000, 50_000, 70_000, 100_000, 150_000, 200_000,
    300_000, 500_000, 700_000, 1_000_000, 10_000_000,
];

/// A bin of the histogram: `from <= time < to`; the last one has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bin {
    pub(crate) from: u64,
    pub(crate) to: Option<u64>,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
}

/// Exact counts of times by bins of about the same width on a logarithmic axis.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    ok: [u64; EDGES.len()],
    failed: [u64; EDGES.len()],
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            ok: [0; EDGES.len()],
            failed: [0; EDGES.len()],
        }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, ms: u64, ok: bool) {
        let bin = EDGES.partition_point(|edge| *edge <= ms) - 1;
        let counts = if ok { &mut self.ok } else { &mut self.failed };
        counts[bin] += 1;
    }

    /// The bins from the first to the last that holds a row.
    pub(crate) fn bins(&self) -> Vec<Bin> {
        let bin = |at: usize| Bin {
            from: EDGES[at],
            to: EDGES.get(at + 1).copied(),
            ok: self.ok[at],
            failed: self.failed[at],
        };
        let is_used = |at: &usize| self.ok[*at] + self.failed[*at] > 0;
        let first = (0..EDGES.len()).find(is_used);
        let last = (0..EDGES.len()).rfind(is_used);
        match (first, last) {
            (Some(first), Some(last)) => (first..=last).map(bin).collect(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_one_percent_of_the_sorted_times() {
        let mut times = Vec::new();
        let mut state = 12_345_u64;
        for _ in 0..5_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            times.push((state >> 40) % (1 << (state >> 60).max(1)) * 7);
        }
        let mut latencies = Latencies::default();
        times.iter().for_each(|ms| latencies.record(*ms));
        times.sort_unstable();
        for percent in [1, 50, 95, 99, 100] {
            let exact = times[times.len() * usize::try_from(percent).expect("small") / 100 - 1];
            let found = latencies.percentile(percent).expect("there are times");
            assert!(
                found >= exact && found <= exact + exact / 100,
                "p{percent}: {found}, {exact}"
            );
        }
        assert_eq!(latencies.total(), 5_000);
        assert_eq!(latencies.max(), times[4_999]);
    }

    #[test]
    fn every_time_lies_in_a_cell_that_ends_less_than_one_percent_above_it() {
        for power in 0..47 {
            for ms in [(1 << power) - 1, 1 << power, (1 << power) + 1] {
                let highest = highest_of(cell_of(ms));
                assert!(
                    highest >= ms && highest <= ms + ms / 100,
                    "{ms} lies in {highest}"
                );
            }
        }
        assert_eq!(Latencies::default().percentile(50), None);
    }

    #[test]
    fn bins_hold_each_time_once() {
        let mut histogram = Histogram::default();
        for ms in [4, 5, 6, 7, 20_000_000] {
            histogram.record(ms, ms != 6);
        }
        let bins = histogram.bins();
        assert_eq!(
            bins[0],
            Bin {
                from: 3,
                to: Some(5),
                ok: 1,
                failed: 0
            }
        );
        assert_eq!(
            bins[1],
            Bin {
                from: 5,
                to: Some(7),
                ok: 1,
                failed: 1
            }
        );
        assert_eq!(
            bins.last(),
            Some(&Bin {
                from: 10_000_000,
                to: None,
                ok: 1,
                failed: 0
            })
        );
        assert_eq!(bins.iter().map(|bin| bin.ok + bin.failed).sum::<u64>(), 5);
    }
}
