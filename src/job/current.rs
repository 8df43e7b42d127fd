//! The job that this thread is polling, so that a wait for its own pool is recognized.
//!
//! [`enter`] sets it around each poll of a job's future. Entries nest, since a handler may drive
//! another pool. Only what runs within the poll is seen: a wait that a handler moved to another
//! task is not.

use std::cell::{Cell, RefCell};

use crate::event::JobId;

/// A job that is being polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CurrentJob {
    /// Identifies the pool.
    pub(crate) pool: usize,
    pub(crate) slot: usize,
    pub(crate) id: JobId,
}

/// The job that was entered last. Its fields are set one by one, which is cheaper than all at once.
struct Innermost {
    /// 0 if there is none.
    pool: Cell<usize>,
    slot: Cell<usize>,
    id: Cell<u64>,
}

impl Innermost {
    const fn get(&self) -> Option<CurrentJob> {
        match self.pool.get() {
            0 => None,
            pool => Some(CurrentJob {
                pool,
                slot: self.slot.get(),
                id: JobId(self.id.get()),
            }),
        }
    }

    fn set(&self, job: CurrentJob) {
        self.pool.set(job.pool);
        self.slot.set(job.slot);
        self.id.set(job.id.0);
    }
}

crate::sync::thread_local! {
    static INNERMOST: Innermost =
        const { Innermost { pool: Cell::new(0), slot: Cell::new(0), id: Cell::new(0) } };
    /// The jobs around it; bounded by the depth to which handlers drive other pools.
    static OUTER: RefCell<Vec<CurrentJob>> = const { RefCell::new(Vec::new()) };
}

/// Makes `job` the current one for the duration of the closure.
#[inline]
pub(crate) fn enter<R>(job: CurrentJob, call: impl FnOnce() -> R) -> R {
    INNERMOST.with(|innermost| {
        let has_outer = innermost.pool.get() != 0;
        if has_outer {
            push_outer(innermost);
        }
        innermost.set(job);
        let _leave = Leave {
            innermost,
            has_outer,
        };
        call()
    })
}

/// The job of the given pool that this thread is polling, if there is one.
pub(crate) fn current_in(pool: usize) -> Option<CurrentJob> {
    let innermost = INNERMOST.with(Innermost::get)?;
    if innermost.pool == pool {
        return Some(innermost);
    }
    // While a thread ends, this local may be gone; no worker is polled there any more.
    OUTER
        .try_with(|outer| {
            outer
                .borrow()
                .iter()
                .rev()
                .find(|job| job.pool == pool)
                .copied()
        })
        .ok()
        .flatten()
}

#[cold]
fn push_outer(innermost: &Innermost) {
    let _ = OUTER.try_with(|outer| outer.borrow_mut().extend(innermost.get()));
}

#[cold]
fn pop_outer(innermost: &Innermost) {
    let outer = OUTER
        .try_with(|outer| outer.borrow_mut().pop())
        .ok()
        .flatten();
    match outer {
        Some(outer) => innermost.set(outer),
        None => innermost.pool.set(0),
    }
}

/// Restores the previous job, also when the closure panics.
struct Leave<'a> {
    innermost: &'a Innermost,
    has_outer: bool,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if self.has_outer {
            pop_outer(self.innermost);
        } else {
            self.innermost.pool.set(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_found_while_it_is_entered_however_deep() {
        let job = |pool| CurrentJob {
            pool,
            slot: 0,
            id: JobId(7),
        };
        assert_eq!(current_in(1), None);
        enter(job(1), || {
            enter(job(2), || {
                assert_eq!(
                    (current_in(1), current_in(2), current_in(3)),
                    (Some(job(1)), Some(job(2)), None)
                );
            });
            assert_eq!((current_in(1), current_in(2)), (Some(job(1)), None));
        });
        assert_eq!(current_in(1), None);
    }

    #[test]
    fn a_panic_leaves_the_job() {
        let panicked = std::panic::catch_unwind(|| {
            enter(
                CurrentJob {
                    pool: 1,
                    slot: 0,
                    id: JobId(7),
                },
                || panic!("on purpose"),
            )
        });
        assert!(panicked.is_err());
        assert_eq!(current_in(1), None);
    }
}
