//! What the pool must reach: each bound has the measure that it limits, and belongs to a section
//! of the report. The list of them is in `table`.
//!
//! A time is the least of all rounds, since disturbances only add to a run, compared with the
//! least of the peer in the same rounds. Where a value is within a tenth of its bound,
//! on either side, more rounds are run before it is judged.

mod table;

pub(crate) use self::table::{QUICK, all};
use crate::contender::Contender;
use crate::measure::Sample;
use crate::rounds::{Effort, Entry, Results};

/// How near to its bound a value is measured again.
const CLOSE: f64 = 0.1;

/// The measure that a bound limits.
#[derive(Debug, Clone)]
pub(crate) enum Figure {
    /// Least time of the first, divided by that of the best of the others.
    Time(Entry, Vec<Entry>),
    /// The same, of CPU time.
    Cpu(Entry, Vec<Entry>),
    /// The same, of the median of jobs that are measured one by one.
    Latency(Entry, Vec<Entry>),
    /// Least time, divided by this many nanoseconds a job.
    Ideal(Entry, f64),
    /// How much faster than the other.
    Speed(Entry, Entry),
    /// Most memory, in megabytes above the other.
    Peak(Entry, Entry),
    /// Counted, not measured.
    Counted(fn(Counting) -> Result<f64, String>, Counting),
}

/// What is counted: the contender and its workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counting {
    contender: Contender,
    workload: &'static str,
    at_once: usize,
}

/// What a measured value must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
    Below(f64),
}

/// A bound.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    /// The section of the report where it stands.
    pub(crate) section: &'static str,
    pub(crate) what: String,
    pub(crate) figure: Figure,
    pub(crate) limit: Limit,
    pub(crate) unit: &'static str,
}

impl Limit {
    pub(crate) fn value(self) -> f64 {
        match self {
            Self::AtMost(value) | Self::AtLeast(value) | Self::Below(value) => value,
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::AtMost(_) => "at most",
            Self::AtLeast(_) => "at least",
            Self::Below(_) => "below",
        }
    }

    pub(crate) fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtMost(most) => figure <= most,
            Self::AtLeast(least) => figure >= least,
            Self::Below(bound) => figure < bound,
        }
    }
}

impl Figure {
    /// The entries that have to be measured for it.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        match self {
            Self::Time(of, beside) | Self::Cpu(of, beside) | Self::Latency(of, beside) => {
                [of].into_iter().chain(beside).copied().collect()
            }
            Self::Ideal(of, _) => vec![*of],
            Self::Speed(of, beside) | Self::Peak(of, beside) => vec![*of, *beside],
            Self::Counted(..) => vec![],
        }
    }

    fn value(&self, results: &Results) -> Result<f64, String> {
        let least = |entry: Entry, figure: fn(&Sample) -> f64| {
            results
                .least(entry, figure)
                .ok_or_else(|| format!("{entry:?} has not been measured"))
        };
        let best = |entries: &[Entry], figure: fn(&Sample) -> f64| {
            let all: Result<Vec<f64>, String> =
                entries.iter().map(|entry| least(*entry, figure)).collect();
            Ok::<_, String>(all?.into_iter().fold(f64::INFINITY, f64::min))
        };
        Ok(match self {
            Self::Time(of, beside) => {
                least(*of, Sample::wall_a_job)? / best(beside, Sample::wall_a_job)?
            }
            Self::Cpu(of, beside) => {
                least(*of, Sample::cpu_a_job)? / best(beside, Sample::cpu_a_job)?
            }
            Self::Latency(of, beside) => {
                least(*of, Sample::median)? / best(beside, Sample::median)?
            }
            Self::Ideal(of, ideal) => least(*of, Sample::wall_a_job)? / ideal,
            Self::Speed(of, beside) => {
                least(*beside, Sample::wall_a_job)? / least(*of, Sample::wall_a_job)?
            }
            Self::Peak(of, beside) => {
                least(*of, Sample::peak_mb)? - least(*beside, Sample::peak_mb)?
            }
            Self::Counted(count, what) => count(*what)?,
        })
    }
}

impl Bound {
    /// The value, after as many rounds as it needs to be clear, or as are allowed.
    pub(crate) fn settle(&self, results: &mut Results, effort: Effort) -> Result<f64, String> {
        let entries = self.figure.entries();
        loop {
            let figure = self.figure.value(results)?;
            let is_close = (figure / self.limit.value() - 1.0).abs() < CLOSE;
            let rounds = entries
                .iter()
                .map(|entry| results.of(*entry).len())
                .min()
                .unwrap_or(effort.most_rounds);
            if !is_close || rounds >= effort.most_rounds || std::time::Instant::now() > effort.until
            {
                return Ok(figure);
            }
            results.measure(
                &entries,
                effort.rounds.min(effort.most_rounds - rounds),
                effort.divisor,
            )?;
        }
    }
}
