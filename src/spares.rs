//! Emptied vectors, kept for reuse: they save the allocation of a vector for each batch of inputs
//! and each delivery of completions.

use crate::sync::{Mutex, ignore_poison};

/// Empty vectors with capacity, up to a bound.
#[derive(Debug)]
pub(crate) struct Spares<V> {
    /// At most `max`.
    lists: Mutex<Vec<Vec<V>>>,
    max: usize,
}

impl<V> Spares<V> {
    /// Keeps up to `max` vectors.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            lists: Mutex::new(Vec::new()),
            max,
        }
    }

    /// Takes an empty vector, with capacity if one is kept.
    pub(crate) fn take(&self) -> Vec<V> {
        ignore_poison(self.lists.lock()).pop().unwrap_or_default()
    }

    /// Keeps an empty vector for reuse, unless `max` are kept.
    pub(crate) fn keep(&self, list: Vec<V>) {
        debug_assert!(list.is_empty(), "nothing is dropped under the lock");
        let mut lists = ignore_poison(self.lists.lock());
        // A vector without capacity would save nothing.
        if lists.len() < self.max && list.capacity() > 0 {
            lists.push(list);
        }
    }
}
