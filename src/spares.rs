//! Room of lists that were emptied, for those who need an empty list: it saves an allocation.

use std::sync::PoisonError;

use crate::sync::Mutex;

/// A few lists without anything in them.
#[derive(Debug)]
pub(crate) struct Spares<V> {
    /// At most `most`.
    lists: Mutex<Vec<Vec<V>>>,
    most: usize,
}

impl<V> Spares<V> {
    /// How many are kept at most is a matter of memory and speed.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            lists: Mutex::new(Vec::new()),
            most,
        }
    }

    /// An empty list, with room where there is some to spare.
    pub(crate) fn take(&self) -> Vec<V> {
        self.lists
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .unwrap_or_default()
    }

    /// Keeps the room of a list that is empty.
    pub(crate) fn keep(&self, list: Vec<V>) {
        debug_assert!(list.is_empty(), "nothing is dropped under the lock");
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        // One without room is of no use to anybody.
        if lists.len() < self.most && list.capacity() > 0 {
            lists.push(list);
        }
    }
}
