//! Who runs what: one entry a slot, and which of the running jobs wait for their own pool, and for
//! what.
//!
//! Pure, and kept under the shared state's one lock together with the [admission](super::admission). A job that
//! waits for another job of its pool holds a slot that the other may need. When every slot of every
//! live worker is held like that, nothing may be able to run any more: the shared state looks whether one
//! of the waits is over already, and if none is, the job that would complete the circle is told so
//! instead of being left to wait.

use std::collections::{BTreeMap, TryReserveError};
use std::time::Instant;

use crate::event::JobId;
use crate::schedule::RecordId;

/// What runs in a slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ActiveJob {
    pub(crate) id: JobId,
    pub(crate) index: usize,
    pub(crate) attempts: u32,
    /// Its record in the schedule, if there is one.
    pub(crate) record_id: Option<RecordId>,
    /// Whether an attempt was made before, or another one is allowed.
    pub(crate) is_retry: bool,
    /// The identity of the map or group that the job belongs to.
    pub(crate) stream: Option<usize>,
    /// How many waits for its own pool this job is in.
    waits: usize,
}

impl ActiveJob {
    pub(crate) const fn new(id: JobId, index: usize, stream: Option<usize>) -> Self {
        Self {
            id,
            index,
            attempts: 1,
            record_id: None,
            is_retry: false,
            stream,
            waits: 0,
        }
    }
}

/// How many places are made at once.
const CHUNK: usize = 32;

/// What is known of a slot.
#[derive(Debug, Clone, Copy, Default)]
struct SlotEntry {
    active_job: Option<ActiveJob>,
    /// When what runs there has started, where the clock was looked at.
    since: Option<Instant>,
}

/// `W` says what a job waits for.
#[derive(Debug)]
pub(crate) struct Running<W> {
    /// Made when the first of their slots is occupied, so a slot that never is costs next to
    /// nothing. The list has room for all slots of the pool from the start: no job starts that
    /// finds none.
    chunks: Vec<Option<Box<[SlotEntry; CHUNK]>>>,
    /// How many occupants run another attempt, or have it before them.
    retries: usize,
    /// How many occupants have `waits > 0`.
    blocked: usize,
    /// Bounded by the number of futures that wait.
    waits: BTreeMap<u64, Wait<W>>,
    last_wait_id: u64,
}

#[derive(Debug)]
struct Wait<W> {
    /// Where the job that waits runs; `None` if it does not, or not any more: another attempt of it
    /// has waits of its own.
    slot: Option<usize>,
    what: W,
}

impl<W> Running<W> {
    pub(crate) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            retries: 0,
            blocked: 0,
            waits: BTreeMap::new(),
            last_wait_id: 0,
        }
    }

    /// Makes room for so many slots.
    pub(crate) fn reserve(&mut self, slots: usize) -> Result<(), TryReserveError> {
        self.chunks.try_reserve_exact(slots.div_ceil(CHUNK))
    }

    #[inline(always)]
    pub(crate) fn start(&mut self, slot: usize, active_job: ActiveJob) {
        self.entry_or_insert(slot).active_job = Some(active_job);
    }

    fn entry(&self, slot: usize) -> Option<&SlotEntry> {
        Some(&self.chunks.get(slot / CHUNK)?.as_ref()?[slot % CHUNK])
    }

    fn entry_mut(&mut self, slot: usize) -> Option<&mut SlotEntry> {
        Some(&mut self.chunks.get_mut(slot / CHUNK)?.as_mut()?[slot % CHUNK])
    }

    /// The place of a slot, made if there is none yet.
    #[inline(always)]
    fn entry_or_insert(&mut self, slot: usize) -> &mut SlotEntry {
        let number = slot / CHUNK;
        if self.chunks.get(number).is_none_or(Option::is_none) {
            self.allocate(number);
        }
        &mut self.chunks[number].as_mut().expect("it was made above")[slot % CHUNK]
    }

    #[cold]
    fn allocate(&mut self, number: usize) {
        if number >= self.chunks.len() {
            self.chunks.resize_with(number + 1, || None);
        }
        self.chunks[number] = Some(Box::new([SlotEntry::default(); CHUNK]));
    }

    fn active_job(&self, slot: usize) -> Option<ActiveJob> {
        self.entry(slot)?.active_job
    }

    fn active_job_mut(&mut self, slot: usize) -> Option<&mut ActiveJob> {
        self.entry_mut(slot)?.active_job.as_mut()
    }

    /// The same, for a job that was scheduled.
    pub(crate) fn start_scheduled(
        &mut self,
        slot: usize,
        active_job: ActiveJob,
        since: Option<Instant>,
    ) {
        self.start(slot, active_job);
        self.entry_or_insert(slot).since = since;
        self.retries += usize::from(active_job.is_retry);
    }

    /// The job of the slot does not run any more; returns its record in the schedule, if it has
    /// one.
    pub(crate) fn finish_scheduled(&mut self, slot: usize) -> Option<RecordId> {
        let active_job = self.active_job(slot)?;
        self.finish(slot);
        self.entry_or_insert(slot).since = None;
        self.retries -= usize::from(active_job.is_retry);
        active_job.record_id
    }

    #[inline]
    pub(crate) fn finish(&mut self, slot: usize) {
        if self
            .entry_mut(slot)
            .and_then(|entry| entry.active_job.take())
            .is_some_and(|active_job| active_job.waits > 0)
        {
            self.end_waits_of(slot);
        }
    }

    /// The job of this slot has waited for the pool, and does not run any more.
    #[cold]
    fn end_waits_of(&mut self, slot: usize) {
        self.blocked -= 1;
        self.waits
            .values_mut()
            .filter(|wait| wait.slot == Some(slot))
            .for_each(|wait| wait.slot = None);
    }

    /// The slot is occupied like this now, by a job that is not scheduled.
    #[inline]
    pub(crate) fn replace(&mut self, slot: usize, active_job: Option<ActiveJob>) {
        let id =
            |active_job: &Option<ActiveJob>| active_job.as_ref().map(|active_job| active_job.id);
        let entry = self.entry_or_insert(slot);
        if id(&entry.active_job) != id(&active_job)
            && std::mem::replace(&mut entry.active_job, active_job)
                .is_some_and(|before| before.waits > 0)
        {
            self.end_waits_of(slot);
        }
    }

    /// How many jobs run another attempt, or have it before them.
    pub(crate) const fn retries(&self) -> usize {
        self.retries
    }

    /// Another attempt of the slot's job is allowed, and counts from now on.
    pub(crate) fn mark_retry(&mut self, slot: usize) {
        if let Some(active_job) = self
            .active_job_mut(slot)
            .filter(|active_job| !active_job.is_retry)
        {
            active_job.is_retry = true;
            self.retries += 1;
        }
    }

    /// Whether the slot runs another attempt.
    pub(crate) fn is_retry(&self, slot: usize) -> bool {
        self.active_job(slot)
            .is_some_and(|active_job| active_job.is_retry)
    }

    /// The record of the slot's job in the schedule.
    pub(crate) fn record_id(&self, slot: usize) -> Option<RecordId> {
        self.active_job(slot)?.record_id
    }

    /// When the job of this slot has started, if somebody looked at the clock.
    pub(crate) fn since(&self, slot: usize) -> Option<Instant> {
        self.entry(slot)?.since
    }

    /// Whether this very job runs in this slot.
    pub(crate) fn is_running(&self, slot: usize, id: JobId) -> bool {
        self.active_job(slot)
            .is_some_and(|active_job| active_job.id == id)
    }

    /// The occupied slots, in the order of their numbers.
    pub(crate) fn occupied(&self) -> impl Iterator<Item = (usize, ActiveJob)> {
        let chunks = self
            .chunks
            .iter()
            .enumerate()
            .filter_map(|(number, chunk)| Some((number, chunk.as_ref()?)));
        chunks.flat_map(|(number, chunk)| {
            let occupied = move |(at, entry): (usize, &SlotEntry)| {
                Some((number * CHUNK + at, entry.active_job?))
            };
            chunk.iter().enumerate().filter_map(occupied)
        })
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
        self.waits
            .values()
            .filter_map(|wait| Some((wait.slot?, &wait.what)))
    }

    /// A job begins to wait for its own pool; returns the number of the wait.
    pub(crate) fn begin_wait(&mut self, slot: usize, id: JobId, what: W) -> u64 {
        let active_job = self
            .active_job_mut(slot)
            .filter(|active_job| active_job.id == id);
        let waits = active_job.map(|active_job| {
            active_job.waits += 1;
            active_job.waits
        });
        self.blocked += usize::from(waits == Some(1));
        let slot = waits.map(|_| slot);
        self.last_wait_id += 1;
        self.waits.insert(self.last_wait_id, Wait { slot, what });
        self.last_wait_id
    }

    /// What a wait of this number says, to be changed in place; `None` if the job does not run any
    /// more.
    pub(crate) fn wait_mut(&mut self, wait_id: u64) -> Option<&mut W> {
        self.waits
            .get_mut(&wait_id)
            .filter(|wait| wait.slot.is_some())
            .map(|wait| &mut wait.what)
    }

    /// A wait is over, or given up. Returns what it was for, which is not to be dropped under the
    /// lock.
    pub(crate) fn end_wait(&mut self, wait_id: u64) -> Option<W> {
        let Wait { slot, what } = self.waits.remove(&wait_id)?;
        let active_job = slot.and_then(|slot| self.active_job_mut(slot));
        let waits = active_job.map(|active_job| {
            active_job.waits -= 1;
            active_job.waits
        });
        self.blocked -= usize::from(waits == Some(0));
        Some(what)
    }
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
