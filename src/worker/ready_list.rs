//! Which slots of a worker have been woken.
//!
//! In: wakes of [`SlotWaker`]s, from any thread. Out: the numbers of the woken slots, by
//! [`ReadyList::take`]. It never polls a slot, and never wakes a worker under its lock.
//!
//! To wait, a worker
//!
//! 1. moves the woken slots to its own list: [`ReadyList::take`];
//! 2. allows the next wake of a slot, then polls it: [`SlotWaker::unlist`];
//! 3. registers its waker, which fails if a slot has been woken since step 1:
//!    [`ReadyList::register`].
//!
//! A wake sets `is_listed`, pushes the slot if the flag was clear, and wakes the registered worker.
//! It locks the list for the push, and step 3 checks and registers under the same lock, so no wake
//! is lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Wake, Waker};

use crate::sync::ignore_poison;
use crate::sync::in_wakers::atomic::{AtomicBool, Ordering};
use crate::sync::in_wakers::{Mutex, MutexGuard};

/// The woken slots of one worker.
#[derive(Debug, Default)]
pub(crate) struct ReadyList {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Invariant: no slot is listed twice.
    slots: VecDeque<usize>,
    /// The waker of the worker, while it waits.
    worker: Option<Waker>,
}

impl ReadyList {
    #[inline]
    fn state(&self) -> MutexGuard<'_, State> {
        ignore_poison(self.state.lock())
    }

    /// Moves the woken slots to the end of `ready`, in the order of their wakes.
    #[inline]
    pub(crate) fn take(&self, ready: &mut VecDeque<usize>) {
        let mut state = self.state();
        if ready.is_empty() {
            std::mem::swap(ready, &mut state.slots);
        } else {
            ready.append(&mut state.slots);
        }
    }

    /// Registers the worker's waker, unless a slot is listed; returns whether the worker may wait.
    #[inline]
    pub(crate) fn register(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        if !state.slots.is_empty() {
            return false;
        }
        let is_known = state
            .worker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker));
        let replaced = if is_known {
            None
        } else {
            state.worker.replace(waker.clone())
        };
        drop(state);
        drop(replaced);
        true
    }

    /// Removes the worker's waker.
    pub(crate) fn deregister(&self) {
        let waker = self.state().worker.take();
        drop(waker);
    }
}

/// Wakes one slot.
#[derive(Debug)]
pub(crate) struct SlotWaker {
    ready_list: Arc<ReadyList>,
    slot: usize,
    /// Set by the first wake, cleared by `unlist`. While it is set, further wakes do nothing: the
    /// slot is listed, or taken and about to be polled.
    is_listed: AtomicBool,
}

impl SlotWaker {
    pub(crate) fn new(ready_list: &Arc<ReadyList>, slot: usize) -> Arc<Self> {
        Arc::new(Self {
            ready_list: Arc::clone(ready_list),
            slot,
            is_listed: AtomicBool::new(false),
        })
    }

    /// Lets the next wake list the slot again. Called before the slot is polled.
    #[inline]
    pub(crate) fn unlist(&self) {
        self.is_listed.store(false, Ordering::SeqCst);
    }
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_listed.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut state = self.ready_list.state();
        state.slots.push_back(self.slot);
        let worker = state.worker.take();
        drop(state);
        if let Some(worker) = worker {
            worker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }

    #[test]
    fn a_slot_is_listed_once_and_wakes_its_worker_once() {
        let (ready_list, counter) = (Arc::new(ReadyList::default()), Arc::new(Counter::default()));
        let worker = Waker::from(Arc::clone(&counter));
        let count = || counter.0.load(std::sync::atomic::Ordering::SeqCst);
        let slots = [7, 8].map(|slot| SlotWaker::new(&ready_list, slot));
        let wakers = slots.clone().map(Waker::from);
        assert!(ready_list.register(&worker));
        wakers[1].wake_by_ref();
        wakers[0].wake_by_ref();
        wakers[1].wake_by_ref();
        assert_eq!(count(), 1);
        assert!(
            !ready_list.register(&worker),
            "a listed slot keeps its worker from waiting"
        );
        let mut list = VecDeque::from([9]);
        ready_list.take(&mut list);
        assert_eq!(list, [9, 8, 7]);
        // Taken, but not unlisted: another wake does nothing.
        wakers[0].wake_by_ref();
        list.clear();
        ready_list.take(&mut list);
        assert_eq!(list, []);
        slots[0].unlist();
        assert!(ready_list.register(&worker));
        wakers[0].wake_by_ref();
        ready_list.take(&mut list);
        assert_eq!((list, count()), (VecDeque::from([7]), 2));
        assert!(ready_list.register(&worker));
        ready_list.deregister();
        slots[1].unlist();
        wakers[1].wake_by_ref();
        assert_eq!(count(), 2);
    }
}
