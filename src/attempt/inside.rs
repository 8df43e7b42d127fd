//! Which job this thread is polling, so that a wait for one's own pool is recognized.
//!
//! A worker enters a job around each poll of its future and leaves it afterwards; entries nest, since a handler may drive
//! another pool. Only what runs within the poll is seen: a wait that a handler moved to another task is not.

use std::cell::{Cell, RefCell};

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
    /// The job that was entered last.
    static INNERMOST: Cell<Option<Place>> = const { Cell::new(None) };
    /// Those around it; bounded by how deep pools are driven inside handlers of pools.
    static AROUND: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
}

/// Enters the job for the duration of the closure.
pub(crate) fn enter<R>(place: Place, call: impl FnOnce() -> R) -> R {
    let _leave = Leave::after(INNERMOST.replace(Some(place)));
    call()
}

/// The job of the given pool that this thread is polling, if any.
pub(crate) fn find(pool: usize) -> Option<Place> {
    let innermost = INNERMOST.get()?;
    if innermost.pool == pool {
        return Some(innermost);
    }
    // While a thread ends, this local may be gone; no worker polls there any more.
    AROUND.try_with(|around| around.borrow().iter().rev().find(|place| place.pool == pool).copied()).ok().flatten()
}

/// Restores what was there before, also when the closure panics.
struct Leave(Option<Place>);

impl Leave {
    fn after(outer: Option<Place>) -> Self {
        if let Some(outer) = outer {
            let _ = AROUND.try_with(|around| around.borrow_mut().push(outer));
        }
        Self(outer)
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        INNERMOST.set(self.0);
        if self.0.is_some() {
            let _ = AROUND.try_with(|around| around.borrow_mut().pop());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_found_while_it_is_entered_however_deep() {
        let place = |pool| Place { pool, slot: 0, id: JobId(7) };
        assert_eq!(find(1), None);
        enter(place(1), || {
            enter(place(2), || {
                assert_eq!((find(1), find(2), find(3)), (Some(place(1)), Some(place(2)), None));
            });
            assert_eq!((find(1), find(2)), (Some(place(1)), None));
        });
        assert_eq!(find(1), None);
    }

    #[test]
    fn a_panic_leaves_the_job() {
        let panicked =
            std::panic::catch_unwind(|| enter(Place { pool: 1, slot: 0, id: JobId(7) }, || panic!("on purpose")));
        assert!(panicked.is_err());
        assert_eq!(find(1), None);
    }
}
