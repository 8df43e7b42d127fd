//! The order of ready jobs: higher priority first, FIFO among equals. With aging, a waiting job
//! gains one priority level per step. Pure.
//!
//! Aging needs no re-sorting. A job of priority `p` that waits since step `s` has priority `p +
//! (now - s)`. Since `now` is the same for all jobs, they are ordered by `s - p`, which is
//! constant.

use std::collections::BTreeSet;
use std::time::Duration;

use super::clock::Tick;
use super::slab::RecordId;
use crate::time::nanos;

/// The urgency of a job; the lowest rank comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank(i64);

impl Rank {
    /// The rank of the same job with another priority.
    pub(crate) fn with_priority(self, old: i32, new: i32) -> Self {
        Self(self.0.saturating_add(i64::from(old) - i64::from(new)))
    }
}

/// How waiting raises the priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aging {
    /// In nanoseconds; `None`: no aging.
    step: Option<u64>,
}

impl Aging {
    /// # Panics
    ///
    /// If the step is zero.
    pub(crate) fn new(step: Option<Duration>) -> Self {
        let step = step.map(nanos);
        assert!(step != Some(0), "a step of aging is longer than 0");
        Self { step }
    }

    /// The rank of a job of this priority that waits since `since`.
    pub(crate) fn rank(self, priority: i32, since: Tick) -> Rank {
        let step = self.step.map_or(0, |step| since.0 / step);
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        Rank(step.saturating_sub(i64::from(priority)))
    }
}

/// The ready jobs of one lane, in order. Bounded by what the admission admits.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// By rank, then in the order of acceptance.
    jobs: BTreeSet<(Rank, u64, RecordId)>,
}

impl Order {
    pub(crate) fn insert(&mut self, rank: Rank, number: u64, record_id: RecordId) {
        self.jobs.insert((rank, number, record_id));
    }

    pub(crate) fn remove(&mut self, rank: Rank, number: u64, record_id: RecordId) -> bool {
        self.jobs.remove(&(rank, number, record_id))
    }

    pub(crate) fn first(&self) -> Option<(Rank, RecordId)> {
        self.jobs
            .first()
            .map(|(rank, _, record_id)| (*rank, *record_id))
    }

    /// Whether a job comes before this rank and number. No two jobs have the same number, so `<=`
    /// would do as well.
    pub(crate) fn is_before(&self, rank: Rank, number: u64) -> bool {
        self.jobs
            .first()
            .is_some_and(|(first, other, _)| (*first, *other) < (rank, number))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }
}

/// For the simulator.
#[cfg(feature = "testing")]
impl Order {
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// The gain of a job of this priority since its arrival; steps begin at whole multiples.
    fn risen(priority: i32, since: u64, now: u64, step: Option<u64>) -> i64 {
        i64::from(priority) + step.map_or(0, |step| (now / step) as i64 - (since / step) as i64)
    }

    proptest! {
        #[test]
        fn the_greatest_risen_priority_comes_first_and_the_first_in_among_equals(
            step in prop_oneof![Just(None), (1..50_u64).prop_map(Some)],
            jobs in vec((-3..4_i32, 0..300_u64, prop_oneof![Just(None), (-3..4_i32).prop_map(Some)]), 0..40),
        ) {
            let aging = Aging::new(step.map(Duration::from_nanos));
            let mut order = Order::default();
            let mut model = Vec::new();
            for (number, (priority, since, changed)) in (0..).zip(jobs) {
                let record_id = RecordId::new(number as u32 + 1).unwrap();
                let mut rank = aging.rank(priority, Tick(since));
                order.insert(rank, number, record_id);
                if let Some(changed) = changed {
                    prop_assert!(order.remove(rank, number, record_id));
                    prop_assert!(!order.remove(rank, number, record_id));
                    rank = rank.with_priority(priority, changed);
                    order.insert(rank, number, record_id);
                }
                model.push((-risen(changed.unwrap_or(priority), since, 300, step), number, rank, record_id));
            }
            model.sort_unstable_by_key(|(risen, number, ..)| (*risen, *number));
            for (_, number, rank, record_id) in model {
                prop_assert!(!order.is_empty());
                prop_assert_eq!(order.first(), Some((rank, record_id)));
                prop_assert!(order.remove(rank, number, record_id));
            }
            prop_assert!(order.is_empty());
            prop_assert_eq!(order.first(), None);
        }
    }

    #[test]
    fn no_rank_overflows() {
        let aging = Aging::new(Some(Duration::from_nanos(1)));
        let ranks = [i32::MAX, 0, i32::MIN].map(|priority| aging.rank(priority, Tick::NEVER));
        assert!(ranks.is_sorted());
        assert_eq!(
            aging
                .rank(i32::MIN, Tick::NEVER)
                .with_priority(i32::MAX, i32::MIN),
            Rank(i64::MAX)
        );
        let never = Aging::new(Some(Duration::MAX));
        assert_eq!(never.rank(7, Tick(u64::MAX - 1)), Rank(-7));
    }

    #[test]
    #[should_panic(expected = "longer than 0")]
    fn a_step_of_nothing_is_refused() {
        Aging::new(Some(Duration::ZERO));
    }
}
