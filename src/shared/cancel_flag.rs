//! The cancel flag of a slot: the reason why its job has to end, and the waker of the worker that
//! polls it.
//!
//! An interruption cannot be missed and cannot reach another job:
//!
//! 1. The slots of a map's or group's jobs are found as told in `cancel`.
//! 2. [`interrupt`](CancelFlag::interrupt) (1) sets the flag, (2) clones the waker, which stays
//!    registered.
//!    [`listen`](CancelFlag::listen) (1) registers the waker, (2) checks the flag.
//! 3. [`clear`](CancelFlag::clear) is called under the lock under which the start of the next job
//!    in the slot is recorded.

use std::collections::TryReserveError;
use std::ops::{Index, Range};
use std::sync::OnceLock;
use std::task::Waker;

use crate::error::CancelReason;
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::sync::{Mutex, MutexGuard, ignore_poison};

/// A flag with the reason, and the waker of the worker that waits in the slot.
#[derive(Debug, Default)]
pub(crate) struct CancelFlag {
    /// 0, or the code of the reason.
    interrupt: AtomicU8,
    waker: Mutex<Option<Waker>>,
    /// Whether a job of the slot has ended a wait for its pool while it had others, and no poll has
    /// ended pending since; for `deadlock`.
    has_ended_wait: AtomicBool,
}

impl CancelFlag {
    pub(super) fn lock_waker(&self) -> MutexGuard<'_, Option<Waker>> {
        ignore_poison(self.waker.lock())
    }

    pub(crate) fn interrupted(&self) -> Option<CancelReason> {
        CancelReason::from_code(self.interrupt.load(Ordering::SeqCst))
    }

    /// Registers the waker, then checks the flag.
    pub(crate) fn listen(&self, waker: &Waker) -> Option<CancelReason> {
        let mut listener = self.lock_waker();
        if !listener
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            let old = listener.replace(waker.clone());
            drop(listener);
            drop(old);
        } else {
            drop(listener);
        }
        self.interrupted()
    }

    pub(crate) fn clear(&self) {
        // An interruption sets the flag of a job that it has found in the slot, so a flag that is
        // set here belongs to an earlier job.
        if self.interrupt.load(Ordering::SeqCst) != 0 {
            self.interrupt.store(0, Ordering::SeqCst);
        }
    }

    /// Records that the job has ended one of its waits, and has others. It is being polled, or woken
    /// afterwards.
    pub(super) fn record_ended_wait(&self) {
        self.has_ended_wait.store(true, Ordering::SeqCst);
    }

    /// Whether an ended wait is recorded, and no poll of the job has ended pending since.
    pub(super) fn has_ended_wait(&self) -> bool {
        self.has_ended_wait.load(Ordering::SeqCst)
    }

    /// Forgets an ended wait; returns whether there was one. Called when a poll of the slot's job
    /// ends pending.
    pub(super) fn take_ended_wait(&self) -> bool {
        self.has_ended_wait() && self.has_ended_wait.swap(false, Ordering::SeqCst)
    }

    /// Sets the reason, unless there is one. The caller wakes the waker after releasing all locks.
    #[must_use = "the worker sleeps on otherwise"]
    pub(crate) fn interrupt(&self, reason: CancelReason) -> Option<Waker> {
        let _ = self.interrupt.compare_exchange(
            0,
            reason.to_code(),
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        self.waker()
    }

    pub(super) fn waker(&self) -> Option<Waker> {
        self.lock_waker().clone()
    }
}

/// The number of cancel flags that are allocated at once.
const CHUNK: usize = 64;

/// The cancel flags of all slots. Each chunk is allocated when the first of its flags is used, so
/// unused slots cost next to nothing.
#[derive(Debug)]
pub(crate) struct CancelFlags {
    chunks: Vec<OnceLock<Box<[CancelFlag; CHUNK]>>>,
    count: usize,
}

impl CancelFlags {
    /// Fails if there is not enough memory.
    pub(super) fn new(count: usize) -> Result<Self, TryReserveError> {
        let (mut chunks, length) = (Vec::new(), count.div_ceil(CHUNK));
        chunks.try_reserve_exact(length)?;
        chunks.resize_with(length, OnceLock::new);
        Ok(Self { chunks, count })
    }

    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// The allocated flags of these slots.
    pub(super) fn allocated(&self, slots: Range<usize>) -> impl Iterator<Item = &CancelFlag> {
        let chunks = self.chunks.iter().enumerate().skip(slots.start / CHUNK);
        let chunks = chunks.take_while(move |(number, _)| number * CHUNK < slots.end);
        chunks.flat_map(move |(number, chunk)| {
            let first = number * CHUNK;
            let own = slots.start.saturating_sub(first)..(slots.end - first).min(CHUNK);
            chunk
                .get()
                .into_iter()
                .flat_map(move |chunk| &chunk[own.clone()])
        })
    }
}

impl Index<usize> for CancelFlags {
    type Output = CancelFlag;

    #[inline]
    fn index(&self, slot: usize) -> &CancelFlag {
        &self.chunks[slot / CHUNK]
            .get_or_init(|| Box::new(std::array::from_fn(|_| CancelFlag::default())))[slot % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_allocated_with_their_neighbours_and_found_by_their_slots() {
        let cancel_flags = CancelFlags::new(200).unwrap();
        let allocated = |slots| cancel_flags.allocated(slots).count();
        assert_eq!((cancel_flags.len(), allocated(0..200)), (200, 0));
        let _ = cancel_flags[70].interrupt(CancelReason::Handle);
        assert_eq!(
            (
                allocated(0..200),
                allocated(0..64),
                allocated(60..70),
                allocated(127..200),
                allocated(70..71)
            ),
            (64, 0, 6, 1, 1)
        );
        let interrupted = |slots| {
            cancel_flags
                .allocated(slots)
                .filter(|flag| flag.interrupted().is_some())
                .count()
        };
        assert_eq!(
            (
                interrupted(70..71),
                interrupted(0..70),
                interrupted(71..200)
            ),
            (1, 0, 0)
        );
        let _ = &cancel_flags[199];
        assert_eq!(allocated(0..200), 64 + 8);
    }

    #[test]
    fn more_flags_than_memory_can_hold_are_an_error() {
        assert!(
            [1 << 55, usize::MAX / 8, usize::MAX].map(|count| CancelFlags::new(count).is_err())
                == [true; 3]
        );
    }

    #[test]
    fn every_reason_survives_the_atomic() {
        for reason in CancelReason::ALL {
            assert_eq!(CancelReason::from_code(reason.to_code()), Some(reason));
        }
        assert_eq!(CancelReason::from_code(0), None);
    }
}
