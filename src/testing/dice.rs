//! One sequence of random numbers, the same for the same seed on every machine. Pure.

use std::cell::Cell;

/// The generator xorshift64* (S. Vigna, 2016).
#[derive(Debug)]
pub(super) struct Dice(Cell<u64>);

impl Dice {
    /// Streams of the same seed with different numbers have nothing in common.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut state = seed.wrapping_add(stream.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(0x2545_F491);
        // A seed of few bits is spread over all (the finalizer of SplitMix64); the state must not be 0.
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
        // The upper half of the product: no division, and near enough to even.
        ((u128::from(self.number()) * u128::from(bound.max(1))) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence_and_streams_differ() {
        let take = |seed, stream| {
            let dice = Dice::new(seed, stream);
            (0..8).map(|_| dice.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(take(7, 0), take(7, 0));
        assert_ne!(take(7, 0), take(7, 1));
        assert_ne!(take(7, 0), take(8, 0));
        assert!(take(0, 0).into_iter().all(|number| number < 1000));
        assert_eq!(Dice::new(1, 0).below(0), 0);
    }

    #[test]
    fn every_number_below_the_bound_comes() {
        let dice = Dice::new(3, 0);
        let mut seen = [0; 6];
        (0..6000).for_each(|_| seen[dice.below(6) as usize] += 1);
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
    }
}
