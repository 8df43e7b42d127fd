//! Puts completions back into the order of their indices. Pure.
//!
//! In: values with their index, in any order. Out: the value of each index, after those of all
//! smaller ones. The caller bounds it: it inserts no index further than its window ahead of the
//! first missing one.

use std::collections::VecDeque;

#[derive(Debug)]
pub(crate) struct Reorder<V> {
    /// The index of the front of `waiting`.
    next: usize,
    /// The values, by their distance from `next`; `None` for a missing one.
    waiting: VecDeque<Option<V>>,
}

impl<V> Reorder<V> {
    pub(crate) const fn new() -> Self {
        Self {
            next: 0,
            waiting: VecDeque::new(),
        }
    }

    /// The values that are held back, in order.
    pub(crate) fn into_values(self) -> impl Iterator<Item = V> {
        self.waiting.into_iter().flatten()
    }

    /// Inserts a value. An index that was popped already is ignored.
    pub(crate) fn insert(&mut self, index: usize, value: V) {
        let Some(distance) = index.checked_sub(self.next) else {
            return;
        };
        if distance >= self.waiting.len() {
            self.waiting.resize_with(distance + 1, || None);
        }
        self.waiting[distance] = Some(value);
    }

    /// Takes the value of the next index, if it is there.
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

    /// As a map does: inserts indices less than a window ahead, in any order, and pops the next.
    #[derive(Debug, Clone)]
    enum Op {
        Insert(usize),
        Pop,
    }

    proptest! {
        #[test]
        fn values_come_out_as_a_map_of_all_of_them_says(
            window in 1..9usize, ops in proptest::collection::vec(
                prop_oneof![any::<usize>().prop_map(Op::Insert), Just(Op::Pop)], 0..100,
            ),
        ) {
            let mut reorder = Reorder::new();
            let (mut next, mut here) = (0, std::collections::BTreeMap::new());
            for (value, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Insert(choice) => {
                        let missing: Vec<_> = (next..next + window).filter(|index| !here.contains_key(index)).collect();
                        if !missing.is_empty() {
                            let index = missing[choice % missing.len()];
                            here.insert(index, value);
                            reorder.insert(index, value);
                        }
                    }
                    Op::Pop => {
                        let due = here.remove(&next);
                        next += usize::from(due.is_some());
                        prop_assert_eq!(reorder.pop(), due);
                    }
                }
                prop_assert!(reorder.waiting.len() <= window);
                prop_assert_eq!(reorder.next, next);
            }
            prop_assert_eq!(reorder.into_values().collect::<Vec<_>>(), here.into_values().collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_comes_again_after_its_turn_is_dropped() {
        let mut reorder = Reorder::new();
        reorder.insert(0, "first");
        assert_eq!(reorder.pop(), Some("first"));
        reorder.insert(0, "again");
        assert_eq!((reorder.pop(), reorder.into_values().count()), (None, 0));
    }
}
