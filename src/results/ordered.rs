//! Puts completions back into the order of their indices. Pure: values go in at their index, and come out once all before
//! them have.
//!
//! Bounded by the caller, who lets in no index further ahead of the first missing one than his window.

use std::collections::VecDeque;

#[derive(Debug)]
pub(crate) struct Reorder<V> {
    /// The index of the front of `waiting`.
    next: usize,
    /// Values at their distance from `next`; `None`: not here yet.
    waiting: VecDeque<Option<V>>,
}

impl<V> Reorder<V> {
    pub(crate) const fn new() -> Self {
        Self { next: 0, waiting: VecDeque::new() }
    }

    /// What is held back, in order.
    pub(crate) fn into_values(self) -> impl Iterator<Item = V> {
        self.waiting.into_iter().flatten()
    }

    /// Puts in a value. Each index comes once.
    pub(crate) fn insert(&mut self, index: usize, value: V) {
        let Some(distance) = index.checked_sub(self.next) else { return };
        if distance >= self.waiting.len() {
            self.waiting.resize_with(distance + 1, || None);
        }
        self.waiting[distance] = Some(value);
    }

    /// Takes the value whose turn it is, if it is here.
    pub(crate) fn pop(&mut self) -> Option<V> {
        let value = self.waiting.front_mut()?.take()?;
        self.waiting.pop_front();
        self.next += 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_order_in_is_index_order_out_as_early_as_can_be(order in Just((0..40usize).collect::<Vec<_>>()).prop_shuffle()) {
            let mut reorder = Reorder::new();
            let mut out = Vec::new();
            let mut seen = std::collections::BTreeSet::new();
            for index in order {
                reorder.insert(index, index);
                seen.insert(index);
                while let Some(value) = reorder.pop() {
                    out.push(value);
                }
                let whole = (0..).take_while(|index| seen.contains(index)).count();
                prop_assert_eq!(&out, &(0..whole).collect::<Vec<_>>());
            }
            prop_assert_eq!(out.len(), 40);
        }
    }
}
