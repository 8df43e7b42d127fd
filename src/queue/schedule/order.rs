//! Which of the waiting jobs comes first: a greater priority sooner, first in, first out among equals; with ageing, a job
//! rises by one priority for every step that it waits. Pure.
//!
//! Ageing needs no re-sorting. A job of priority `p` that waits since step `s` has risen to `p + (now - s)` by now; that
//! `now` is the same for all, so what decides is `s - p`, which does not change.

use std::collections::BTreeSet;
use std::time::Duration;

use super::clock::{Tick, nanos};
use super::slab::Spot;

/// How soon a job is due; the least comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank(i64);

impl Rank {
    /// The rank of the same job with another priority.
    pub(crate) fn with_priority(self, old: i32, new: i32) -> Self {
        Self(self.0.saturating_add(i64::from(old) - i64::from(new)))
    }
}

/// By how much waiting counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ageing {
    /// In nanoseconds; `None`: not at all.
    step: Option<u64>,
}

impl Ageing {
    /// # Panics
    ///
    /// If the step is zero.
    pub(crate) fn new(step: Option<Duration>) -> Self {
        let step = step.map(nanos);
        assert!(step != Some(0), "a step of ageing is longer than 0");
        Self { step }
    }

    /// The rank of a job of this priority that waits since `since`.
    pub(crate) fn rank(self, priority: i32, since: Tick) -> Rank {
        let step = self.step.map_or(0, |step| since.0 / step);
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        Rank(step.saturating_sub(i64::from(priority)))
    }
}

/// The waiting jobs of one lane, in order. Bounded by what the ledger admits.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// By rank, then in the order in which they were accepted.
    jobs: BTreeSet<(Rank, u64, Spot)>,
}

impl Order {
    pub(crate) fn insert(&mut self, rank: Rank, number: u64, spot: Spot) {
        self.jobs.insert((rank, number, spot));
    }

    pub(crate) fn remove(&mut self, rank: Rank, number: u64, spot: Spot) -> bool {
        self.jobs.remove(&(rank, number, spot))
    }

    pub(crate) fn first(&self) -> Option<(Rank, Spot)> {
        self.jobs.first().map(|(rank, _, spot)| (*rank, *spot))
    }

    /// Whether one of them comes before one of this rank and number.
    pub(crate) fn is_before(&self, rank: Rank, number: u64) -> bool {
        self.jobs.first().is_some_and(|(first, other, _)| (*first, *other) < (rank, number))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }
}
