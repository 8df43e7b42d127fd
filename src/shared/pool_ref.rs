//! A counted reference to a pool: the last one that is dropped closes it.

use std::ops::Deref;
use std::sync::Arc;

use super::Shared;
use crate::queue::admission::PoolState;
use crate::sync::atomic::Ordering;

/// Keeps a pool open; behind the pool's handles, its maps and its groups.
pub(crate) struct PoolRef<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
}

impl<In, T, E> PoolRef<In, T, E> {
    /// The first reference; the others are its clones.
    pub(crate) const fn new(shared: Arc<Shared<In, T, E>>) -> Self {
        Self { shared }
    }
}

impl<In, T, E> Deref for PoolRef<In, T, E> {
    type Target = Arc<Shared<In, T, E>>;

    fn deref(&self) -> &Self::Target {
        &self.shared
    }
}

impl<In, T, E> Clone for PoolRef<In, T, E> {
    fn clone(&self) -> Self {
        self.shared.handles.fetch_add(1, Ordering::Relaxed);
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<In, T, E> Drop for PoolRef<In, T, E> {
    fn drop(&mut self) {
        if self.shared.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.close(PoolState::Closed);
        }
    }
}
