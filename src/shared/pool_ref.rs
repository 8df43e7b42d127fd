//! A counted reference to a pool; dropping the last one closes the pool.

use std::ops::Deref;
use std::sync::Arc;

use super::Shared;
use crate::queue::admission::PoolState;
use crate::sync::atomic::Ordering;

/// Keeps a pool open. Held by its handles, maps and groups.
pub(crate) struct PoolRef<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
}

impl<In, T, E> PoolRef<In, T, E> {
    /// Makes the first reference, which `Shared::handles` counts from the start; others are clones.
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
        self.shared.pool_refs.fetch_add(1, Ordering::Relaxed);
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<In, T, E> Drop for PoolRef<In, T, E> {
    fn drop(&mut self) {
        if self.shared.pool_refs.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.close(PoolState::Closed);
        }
    }
}
