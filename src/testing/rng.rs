//! Random numbers that are the same for the same seed on every machine, and the choice of the next
//! task. Pure.

use std::cell::{Cell, RefCell};

/// The generator xorshift64* (S. Vigna, 2016).
#[derive(Debug)]
pub(super) struct Rng(Cell<u64>);

impl Rng {
    /// Streams of the same seed with different numbers have nothing in common.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut state = seed
            .wrapping_add(stream.wrapping_mul(0x9E37_79B9_7F4A_7C15))
            .wrapping_add(0x2545_F491);
        // A seed of few bits is spread over all (the finalizer of SplitMix64); the state must not
        // be 0.
        state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self(Cell::new((state ^ (state >> 31)) | 1))
    }

    pub(super) fn number(&self) -> u64 {
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which is at least 1.
    pub(super) fn below(&self, bound: u64) -> u64 {
        // The upper half of the product: no division, and close enough to uniform.
        ((u128::from(self.number()) * u128::from(bound.max(1))) >> 64) as u64
    }
}

/// Chooses the task to poll next.
///
/// For half of the seeds each choice is independent. For the others tasks have priorities that
/// change now and then, so that one task is polled for long while other runnable tasks are not, as
/// if their threads were slow (S. Burckhardt et al., "A randomized scheduler with probabilistic
/// guarantees of finding bugs", 2010).
#[derive(Debug)]
pub(super) struct Chooser {
    rng: Rng,
    by_priority: bool,
    /// The priority of each task, by its number; as many as there are tasks.
    priorities: RefCell<Vec<u64>>,
}

impl Chooser {
    /// All priorities change after one in this many choices, so that no task starves.
    const CHANGE: u64 = 12;

    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let rng = Rng::new(seed, stream);
        let by_priority = rng.below(2) == 0;
        Self {
            rng,
            by_priority,
            priorities: RefCell::default(),
        }
    }

    /// As [`choose`](Self::choose); `None` if all have a low priority, as if their threads were
    /// suspended.
    pub(super) fn choose_awake(&self, tasks: &[usize]) -> Option<usize> {
        let at = (!tasks.is_empty()).then(|| self.choose(tasks))?;
        let is_awake = !self.by_priority || self.priorities.borrow()[tasks[at]] > u64::MAX / 2;
        is_awake.then_some(at)
    }

    /// The position of one of these tasks, of which there is at least one.
    pub(super) fn choose(&self, tasks: &[usize]) -> usize {
        if !self.by_priority {
            return self.rng.below(tasks.len() as u64) as usize;
        }
        let mut priorities = self.priorities.borrow_mut();
        let count = tasks.iter().max().map_or(0, |last| last + 1);
        while priorities.len() < count {
            priorities.push(self.rng.number());
        }
        if self.rng.below(Self::CHANGE) == 0 {
            priorities
                .iter_mut()
                .for_each(|priority| *priority = self.rng.number());
        }
        (0..tasks.len())
            .max_by_key(|at| priorities[tasks[*at]])
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_is_chosen_in_its_turn_however_tasks_are_chosen() {
        for seed in 0..20 {
            let chooser = Chooser::new(seed, 0);
            let mut seen = [0; 4];
            (0..1000).for_each(|_| seen[chooser.choose(&[0, 1, 2, 3])] += 1);
            assert!(seen.iter().all(|count| *count > 20), "{seen:?}");
        }
    }

    #[test]
    fn for_some_seeds_one_task_is_chosen_many_times_in_a_row() {
        let longest = |seed| {
            let chooser = Chooser::new(seed, 0);
            let (mut last, mut row, mut longest) = (0, 0, 0);
            for _ in 0..200 {
                let chosen = chooser.choose(&[3, 5, 8, 9]);
                row = if chosen == last { row + 1 } else { 1 };
                (last, longest) = (chosen, longest.max(row));
            }
            longest
        };
        let rows: Vec<usize> = (0..20).map(longest).collect();
        assert!(
            rows.iter().any(|row| *row > 20) && rows.iter().any(|row| *row < 10),
            "{rows:?}"
        );
    }

    #[test]
    fn a_seed_is_a_sequence_and_streams_differ() {
        let take = |seed, stream| {
            let rng = Rng::new(seed, stream);
            (0..8).map(|_| rng.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(take(7, 0), take(7, 0));
        assert_ne!(take(7, 0), take(7, 1));
        assert_ne!(take(7, 0), take(8, 0));
        assert!(take(0, 0).into_iter().all(|number| number < 1000));
        assert_eq!(Rng::new(1, 0).below(0), 0);
    }

    #[test]
    fn every_number_below_the_bound_comes() {
        let rng = Rng::new(3, 0);
        let mut seen = [0; 6];
        (0..6000).for_each(|_| seen[rng.below(6) as usize] += 1);
        assert!(
            seen.iter().all(|count| (800..1200).contains(count)),
            "{seen:?}"
        );
    }
}
