//! Which slots of a worker were woken, and how the worker learns of it: a waker for each slot, and
//! one list of them.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::task::{Wake, Waker};

use crate::sync::in_wakers::atomic::{AtomicBool, Ordering};
use crate::sync::in_wakers::{Mutex, MutexGuard};

/// The list of a worker.
#[derive(Debug, Default)]
pub(crate) struct ReadyList {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Each at most once.
    slots: VecDeque<usize>,
    /// Of the worker, while it waits.
    worker: Option<Waker>,
}

impl ReadyList {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves all slots that were woken to the end of a list, in the order in which they were.
    pub(crate) fn take(&self, list: &mut VecDeque<usize>) {
        let mut state = self.state();
        if list.is_empty() {
            std::mem::swap(list, &mut state.slots);
        } else {
            list.append(&mut state.slots);
        }
    }

    /// Leaves the worker's waker, unless a slot was woken already; says whether it may wait.
    pub(crate) fn wait(&self, waker: &Waker) -> bool {
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

    /// The worker leaves, and is woken no more.
    pub(crate) fn leave(&self) {
        let waker = self.state().worker.take();
        drop(waker);
    }
}

/// Wakes one slot.
#[derive(Debug)]
pub(crate) struct SlotWaker {
    woken: Arc<ReadyList>,
    slot: usize,
    /// Whether it is in the list.
    is_listed: AtomicBool,
}

impl SlotWaker {
    pub(crate) fn new(woken: &Arc<ReadyList>, slot: usize) -> Arc<Self> {
        Arc::new(Self {
            woken: Arc::clone(woken),
            slot,
            is_listed: AtomicBool::new(false),
        })
    }

    /// The slot is about to be polled: whoever wakes it from now on puts it into the list again.
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
        let mut state = self.woken.state();
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
        let (woken, counter) = (Arc::new(ReadyList::default()), Arc::new(Counter::default()));
        let worker = Waker::from(Arc::clone(&counter));
        let count = || counter.0.load(std::sync::atomic::Ordering::SeqCst);
        let slots = [7, 8].map(|slot| SlotWaker::new(&woken, slot));
        let wakers = slots.clone().map(Waker::from);
        assert!(woken.wait(&worker));
        wakers[1].wake_by_ref();
        wakers[0].wake_by_ref();
        wakers[1].wake_by_ref();
        assert_eq!(count(), 1);
        assert!(
            !woken.wait(&worker),
            "it may not wait over a slot that was woken"
        );
        let mut list = VecDeque::from([9]);
        woken.take(&mut list);
        assert_eq!(list, [9, 8, 7]);
        // Until it is looked at, it is as good as listed.
        wakers[0].wake_by_ref();
        list.clear();
        woken.take(&mut list);
        assert_eq!(list, []);
        slots[0].unlist();
        assert!(woken.wait(&worker));
        wakers[0].wake_by_ref();
        woken.take(&mut list);
        assert_eq!((list, count()), (VecDeque::from([7]), 2));
        assert!(woken.wait(&worker));
        woken.leave();
        slots[1].unlist();
        wakers[1].wake_by_ref();
        assert_eq!(count(), 2);
    }
}
