//! Who runs what: one entry a slot, and which of the running jobs wait for their own pool, and for what.
//!
//! Pure, and kept under the engine's one lock together with the [ledger](super::ledger). A job that waits for another
//! job of its pool holds a slot that the other may need. When every slot of every live worker is held like that, nothing
//! may be able to run any more: the engine looks whether one of the waits is over already, and if none is, the job that
//! would complete the circle is told so instead of being left to wait.

use std::collections::BTreeMap;
use std::time::Instant;

use super::schedule::Spot;
use crate::observe::JobId;

/// What runs in a slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occupant {
    pub(crate) id: JobId,
    pub(crate) index: usize,
    pub(crate) attempts: u32,
    /// Its record in the schedule, if there is one.
    pub(crate) spot: Option<Spot>,
    /// Whether an attempt was made before, or another one is allowed.
    pub(crate) is_retry: bool,
    /// The identity of the map or group that the job belongs to.
    pub(crate) stream: Option<usize>,
    /// How many waits for its own pool this job is in.
    waits: usize,
}

impl Occupant {
    pub(crate) const fn new(id: JobId, index: usize, stream: Option<usize>) -> Self {
        Self { id, index, attempts: 1, spot: None, is_retry: false, stream, waits: 0 }
    }
}

/// `W` says what a job waits for.
#[derive(Debug)]
pub(crate) struct Running<W> {
    /// Those that were occupied once, and all before them.
    slots: Vec<Option<Occupant>>,
    /// When what runs in the slots has started, where somebody has looked at the clock.
    since: Vec<Option<Instant>>,
    /// How many occupants run another attempt, or have it before them.
    retries: usize,
    /// How many occupants have `waits > 0`.
    blocked: usize,
    /// Bounded by the number of futures that wait.
    waits: BTreeMap<u64, Wait<W>>,
    next_wait: u64,
}

#[derive(Debug)]
struct Wait<W> {
    /// Where the job that waits runs; `None` if it does not, or not any more: another attempt of it has waits of its own.
    slot: Option<usize>,
    what: W,
}

impl<W> Running<W> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), since: Vec::new(), retries: 0, blocked: 0, waits: BTreeMap::new(), next_wait: 0 }
    }

    #[inline(always)]
    pub(crate) fn start(&mut self, slot: usize, occupant: Occupant) {
        *place(&mut self.slots, slot) = Some(occupant);
    }

    fn occupant(&self, slot: usize) -> Option<Occupant> {
        self.slots.get(slot).copied().flatten()
    }

    fn occupant_mut(&mut self, slot: usize) -> Option<&mut Occupant> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// The same, for a job that was scheduled.
    pub(crate) fn start_scheduled(&mut self, slot: usize, occupant: Occupant, since: Option<Instant>) {
        self.start(slot, occupant);
        *place(&mut self.since, slot) = since;
        self.retries += usize::from(occupant.is_retry);
    }

    /// The job of the slot does not run any more; returns its record in the schedule, if it has one.
    pub(crate) fn finish_scheduled(&mut self, slot: usize) -> Option<Spot> {
        let occupant = self.occupant(slot)?;
        self.finish(slot);
        *place(&mut self.since, slot) = None;
        self.retries -= usize::from(occupant.is_retry);
        occupant.spot
    }

    pub(crate) fn finish(&mut self, slot: usize) {
        if self.slots.get_mut(slot).and_then(Option::take).is_some_and(|occupant| occupant.waits > 0) {
            self.blocked -= 1;
            self.waits.values_mut().filter(|wait| wait.slot == Some(slot)).for_each(|wait| wait.slot = None);
        }
    }

    /// The slot is occupied like this now, by a job that is not scheduled.
    pub(crate) fn replace(&mut self, slot: usize, occupant: Option<Occupant>) {
        let id = |occupant: Option<Occupant>| occupant.map(|occupant| occupant.id);
        if id(self.occupant(slot)) != id(occupant) {
            self.finish(slot);
            *place(&mut self.slots, slot) = occupant;
        }
    }

    /// How many jobs run another attempt, or have it before them.
    pub(crate) const fn retries(&self) -> usize {
        self.retries
    }

    /// Another attempt of the slot's job is allowed, and counts from now on.
    pub(crate) fn mark_retry(&mut self, slot: usize) {
        if let Some(occupant) = self.occupant_mut(slot).filter(|occupant| !occupant.is_retry) {
            occupant.is_retry = true;
            self.retries += 1;
        }
    }

    /// Whether the slot runs another attempt.
    pub(crate) fn is_retry(&self, slot: usize) -> bool {
        self.occupant(slot).is_some_and(|occupant| occupant.is_retry)
    }

    /// The record of the slot's job in the schedule.
    pub(crate) fn spot(&self, slot: usize) -> Option<Spot> {
        self.occupant(slot)?.spot
    }

    /// When the job of this slot has started, if somebody looked at the clock.
    pub(crate) fn since(&self, slot: usize) -> Option<Instant> {
        self.since.get(slot).copied().flatten()
    }

    /// Whether this very job runs in this slot.
    pub(crate) fn is_running(&self, slot: usize, id: JobId) -> bool {
        self.occupant(slot).is_some_and(|occupant| occupant.id == id)
    }

    /// The occupied slots, in the order of their numbers.
    pub(crate) fn occupied(&self) -> impl Iterator<Item = (usize, Occupant)> {
        self.slots.iter().enumerate().filter_map(|(slot, occupant)| occupant.map(|occupant| (slot, occupant)))
    }

    /// Whether all of the `live` slots are held by jobs that wait for the pool.
    pub(crate) const fn is_blocked(&self, live: usize) -> bool {
        self.blocked > 0 && self.blocked >= live
    }

    /// How many jobs wait for the pool.
    pub(crate) const fn blocked(&self) -> usize {
        self.blocked
    }

    /// The slots whose jobs wait for the pool, and what for.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (usize, &W)> {
        self.waits.values().filter_map(|wait| Some((wait.slot?, &wait.what)))
    }

    /// A job begins to wait for its own pool; returns the number of the wait.
    pub(crate) fn begin_wait(&mut self, slot: usize, id: JobId, what: W) -> u64 {
        let occupant = self.occupant_mut(slot).filter(|occupant| occupant.id == id);
        let waits = occupant.map(|occupant| {
            occupant.waits += 1;
            occupant.waits
        });
        self.blocked += usize::from(waits == Some(1));
        let slot = waits.map(|_| slot);
        self.next_wait += 1;
        self.waits.insert(self.next_wait, Wait { slot, what });
        self.next_wait
    }

    /// What a wait of this number says, to be changed in place; `None` if the job does not run any more.
    pub(crate) fn wait_mut(&mut self, number: u64) -> Option<&mut W> {
        self.waits.get_mut(&number).filter(|wait| wait.slot.is_some()).map(|wait| &mut wait.what)
    }

    /// A wait is over, or given up. Returns what it was for, which is not to be dropped under the lock.
    pub(crate) fn end_wait(&mut self, number: u64) -> Option<W> {
        let Wait { slot, what } = self.waits.remove(&number)?;
        let occupant = slot.and_then(|slot| self.occupant_mut(slot));
        let waits = occupant.map(|occupant| {
            occupant.waits -= 1;
            occupant.waits
        });
        self.blocked -= usize::from(waits == Some(0));
        Some(what)
    }
}

/// The place of a slot in a list, which grows to it.
#[inline(always)]
fn place<V: Clone>(list: &mut Vec<Option<V>>, slot: usize) -> &mut Option<V> {
    if slot >= list.len() {
        grow(list, slot);
    }
    &mut list[slot]
}

#[cold]
fn grow<V: Clone>(list: &mut Vec<Option<V>>, slot: usize) {
    list.resize(slot + 1, None);
}

/// For the simulator.
#[cfg(feature = "testing")]
impl<W> Running<W> {
    pub(crate) fn has_waits(&self) -> bool {
        !self.waits.is_empty() || self.blocked > 0 || self.retries > 0
    }
}

#[cfg(test)]
mod tests;
