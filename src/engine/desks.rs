//! The desks of workers that are being polled, as far as they are part of the books.

use std::sync::Arc;

use super::{Engine, State};
use crate::queue::desk::Desk;
use crate::queue::ledger::{Life, Wakes};
use crate::reply::Lot;

impl<In, T, E> State<In, T, E> {
    /// Whether it is enough to book the start and the end of a job a little later: nobody waits for
    /// one, and there is no limit to be looked up.
    const fn may_wait_for_journals(&self) -> bool {
        (self.ledger.life() as u8) < Life::Aborted as u8
            && self.schedule.is_none()
            && self.limits.is_none()
            && !self.ledger.is_awaited()
    }

    #[inline(never)]
    pub(super) fn enter_journals(&mut self) {
        let Self {
            open_desks,
            ledger,
            running,
            ..
        } = self;
        for desk in open_desks {
            desk.papers().journal.enter(ledger, running);
        }
    }

    /// Keeps the workers from starting jobs and noting ends before they have closed their desks,
    /// and enters what they have noted until then: in one go, or what happened in between would be
    /// neither in the books nor kept from happening.
    pub(crate) fn call_desks(&mut self) {
        let Self {
            open_desks,
            ledger,
            running,
            ..
        } = self;
        for desk in open_desks {
            let mut papers = desk.papers();
            papers.call();
            papers.journal.enter(ledger, running);
        }
    }
}

impl<In, T, E> Engine<In, T, E> {
    /// Gives a worker a desk, for as long as it is polled; `None` where it has to book at once.
    pub(crate) fn open_desk(&self) -> Option<Arc<Desk<Lot<In, T, E>>>> {
        if !self.is_plain || self.is_scheduled() {
            return None;
        }
        let mut state = self.state();
        if !state.may_wait_for_journals() {
            return None;
        }
        let desk = state.spare_desks.pop().unwrap_or_default();
        desk.papers().open();
        state.open_desks.push(Arc::clone(&desk));
        Some(desk)
    }

    /// Enters the journal of a desk, whose hand is empty, and takes it back.
    pub(crate) fn close_desk(&self, desk: Arc<Desk<Lot<In, T, E>>>) {
        let mut wakes = Wakes::default();
        {
            let mut guard = self.state();
            let state = &mut *guard;
            state.open_desks.retain(|open| !Arc::ptr_eq(open, &desk));
            state.ledger.settle(&mut wakes);
            state.spare_desks.push(desk);
        }
        self.carry_out(wakes);
        // It may be new, and has not seen that a slot is free.
        self.look_at_schedule();
    }

    /// Enters the journals, one of which is long.
    #[cold]
    pub(crate) fn enter_journals(&self) {
        drop(self.state());
    }
}
