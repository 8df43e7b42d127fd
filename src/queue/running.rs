//! Who runs what: one entry a slot, and which of the running jobs wait for their own pool.
//!
//! Pure, and kept under the engine's one lock together with the [ledger](super::ledger). A job that waits for another
//! job of its pool holds a slot that the other may need. When every slot of every live worker is held like that, nothing
//! can run any more; the one that would complete the circle is told so instead of being left to wait.

use crate::observe::JobId;

/// What runs in a slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occupant {
    pub(crate) id: JobId,
    pub(crate) index: usize,
    pub(crate) attempts: u32,
    /// The identity of the map or group that the job belongs to.
    pub(crate) stream: Option<usize>,
    /// How many waits for its own pool this job is in.
    waits: usize,
}

impl Occupant {
    pub(crate) const fn new(id: JobId, index: usize, attempts: u32, stream: Option<usize>) -> Self {
        Self { id, index, attempts, stream, waits: 0 }
    }
}

#[derive(Debug)]
pub(crate) struct Running {
    slots: Box<[Option<Occupant>]>,
    /// How many occupants have `waits > 0`.
    blocked: usize,
}

impl Running {
    pub(crate) fn new(slots: usize) -> Self {
        Self { slots: vec![None; slots].into_boxed_slice(), blocked: 0 }
    }

    #[inline(always)]
    pub(crate) fn start(&mut self, slot: usize, occupant: Occupant) {
        self.slots[slot] = Some(occupant);
    }

    pub(crate) fn finish(&mut self, slot: usize) {
        if self.slots[slot].take().is_some_and(|occupant| occupant.waits > 0) {
            self.blocked -= 1;
        }
    }

    /// Whether this very job runs in this slot.
    pub(crate) fn is_running(&self, slot: usize, id: JobId) -> bool {
        self.slots[slot].is_some_and(|occupant| occupant.id == id)
    }

    /// The occupied slots, in the order of their numbers.
    pub(crate) fn occupied(&self) -> impl Iterator<Item = (usize, Occupant)> {
        self.slots.iter().enumerate().filter_map(|(slot, occupant)| occupant.map(|occupant| (slot, occupant)))
    }

    /// Slots whose job waits for its own pool.
    pub(crate) fn blocked_slots(&self) -> impl Iterator<Item = usize> {
        self.occupied().filter(|(_, occupant)| occupant.waits > 0).map(|(slot, _)| slot)
    }

    /// Whether all of the `live` slots are held by jobs that wait for the pool.
    pub(crate) const fn is_deadlocked(&self, live: usize) -> bool {
        self.blocked > 0 && self.blocked >= live
    }

    /// A job begins to wait for its own pool. `false`: it would be the last one that could go on.
    pub(crate) fn begin_wait(&mut self, slot: usize, id: JobId, live: usize) -> bool {
        let Some(occupant) = self.slots[slot].as_mut().filter(|occupant| occupant.id == id) else { return true };
        occupant.waits += 1;
        if occupant.waits == 1 {
            self.blocked += 1;
        }
        if self.is_deadlocked(live) {
            self.end_wait(slot, id);
            return false;
        }
        true
    }

    /// A wait is over, or given up. Of a job that has ended since, nothing is left to undo.
    pub(crate) fn end_wait(&mut self, slot: usize, id: JobId) {
        if let Some(occupant) = self.slots[slot].as_mut().filter(|occupant| occupant.id == id && occupant.waits > 0) {
            occupant.waits -= 1;
            if occupant.waits == 0 {
                self.blocked -= 1;
            }
        }
    }
}
