//! Which job this thread is polling, so that a wait for one's own pool is recognized.
//!
//! A worker enters a job around each poll of its future and leaves it afterwards; entries nest, since a handler may drive
//! another pool. Only what runs within the poll is seen: a wait that a handler moved to another task is not.

use std::cell::RefCell;

use crate::observe::JobId;

/// A job that is being polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The identity of the pool.
    pub(crate) pool: usize,
    pub(crate) slot: usize,
    pub(crate) id: JobId,
}

thread_local! {
    /// Bounded by how deep pools are driven inside handlers of pools.
    static ENTERED: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
}

/// Enters the job for the duration of the closure.
pub(crate) fn enter<R>(place: Place, call: impl FnOnce() -> R) -> R {
    let _left = Entered::new(place);
    call()
}

/// The job of the given pool that this thread is polling, if any.
pub(crate) fn find(pool: usize) -> Option<Place> {
    // While a thread ends, its locals may be gone; no worker polls there any more.
    ENTERED.try_with(|entered| entered.borrow().iter().rev().find(|place| place.pool == pool).copied()).ok().flatten()
}

struct Entered;

impl Entered {
    fn new(place: Place) -> Self {
        let _ = ENTERED.try_with(|entered| entered.borrow_mut().push(place));
        Self
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let _ = ENTERED.try_with(|entered| entered.borrow_mut().pop());
    }
}
