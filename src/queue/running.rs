//! The job of each slot, and which running jobs wait for their own pool, and for what.
//!
//! Pure. The shared state keeps it under its one lock, together with the
//! [admission](super::admission).
//!
//! A job that waits for another job of its pool holds a slot that the other may need. When all
//! slots of all live workers are held like that, the pool may be deadlocked: the shared state
//! checks whether one of the waits is over already. If none is, the wait that would complete the
//! deadlock fails.

use std::collections::{BTreeMap, TryReserveError};
use std::time::Instant;

use super::StreamId;
use crate::event::JobId;
use crate::schedule::RecordId;

/// The job that runs in a slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ActiveJob {
    pub(crate) id: JobId,
    pub(crate) index: usize,
    pub(crate) attempts: u32,
    /// Its record in the schedule, if there is one.
    pub(crate) record_id: Option<RecordId>,
    /// Whether an attempt was made before, or another one is allowed.
    pub(crate) counts_as_retry: bool,
    /// The map or group that the job belongs to.
    pub(crate) stream: Option<StreamId>,
    /// The number of waits for its own pool that this job is in.
    waits: usize,
}

impl ActiveJob {
    pub(crate) const fn new(id: JobId, index: usize, stream: Option<StreamId>) -> Self {
        Self {
            id,
            index,
            attempts: 1,
            record_id: None,
            counts_as_retry: false,
            stream,
            waits: 0,
        }
    }
}

/// The number of entries that are allocated at once.
const CHUNK: usize = 32;

/// What is known of a slot.
#[derive(Debug, Clone, Copy, Default)]
struct SlotEntry {
    active_job: Option<ActiveJob>,
    /// When the job started, if the clock was read.
    since: Option<Instant>,
}

/// `W` is what a job waits for.
#[derive(Debug)]
pub(crate) struct Running<W> {
    /// Each chunk is allocated when the first of its slots is occupied, so unused slots cost next
    /// to nothing. `reserve` makes room in the list for all slots of the pool, so starting a job
    /// cannot fail.
    chunks: Vec<Option<Box<[SlotEntry; CHUNK]>>>,
    /// How many running jobs have `counts_as_retry` set.
    retries: usize,
    /// How many running jobs have `waits > 0`.
    blocked: usize,
    /// Bounded by the number of futures that wait.
    waits: BTreeMap<u64, WaitEntry<W>>,
    last_wait_id: u64,
}

#[derive(Debug)]
struct WaitEntry<W> {
    /// The slot of the job that waits; `None` once it does not run any more: another attempt of it
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

    /// Reserves room for so many slots.
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

    /// The entry of a slot, allocated if necessary.
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

    /// Like [`start`](Self::start), for a job that was scheduled.
    pub(crate) fn start_scheduled(
        &mut self,
        slot: usize,
        active_job: ActiveJob,
        since: Option<Instant>,
    ) {
        self.start(slot, active_job);
        self.entry_or_insert(slot).since = since;
        self.retries += usize::from(active_job.counts_as_retry);
    }

    /// Frees the slot of a scheduled job. Returns the job's record in the schedule, if there is
    /// one.
    pub(crate) fn finish_scheduled(&mut self, slot: usize) -> Option<RecordId> {
        let active_job = self.active_job(slot)?;
        self.finish(slot);
        self.entry_or_insert(slot).since = None;
        self.retries -= usize::from(active_job.counts_as_retry);
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

    /// Detaches the waits of the job that ran in this slot.
    #[cold]
    fn end_waits_of(&mut self, slot: usize) {
        self.blocked -= 1;
        self.waits
            .values_mut()
            .filter(|wait| wait.slot == Some(slot))
            .for_each(|wait| wait.slot = None);
    }

    /// Sets the job of a slot, for jobs that are not scheduled.
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

    /// How many running jobs are retries, or have another attempt allowed.
    pub(crate) const fn running_retries(&self) -> usize {
        self.retries
    }

    /// Counts the slot's job as a retry from now on: another attempt is allowed.
    pub(crate) fn mark_retry(&mut self, slot: usize) {
        if let Some(active_job) = self
            .active_job_mut(slot)
            .filter(|active_job| !active_job.counts_as_retry)
        {
            active_job.counts_as_retry = true;
            self.retries += 1;
        }
    }

    /// Whether the slot's job is a retry, or has another attempt allowed.
    pub(crate) fn counts_as_retry(&self, slot: usize) -> bool {
        self.active_job(slot)
            .is_some_and(|active_job| active_job.counts_as_retry)
    }

    /// The record of the slot's job in the schedule.
    pub(crate) fn record_id(&self, slot: usize) -> Option<RecordId> {
        self.active_job(slot)?.record_id
    }

    /// When the slot's job started, if the clock was read.
    pub(crate) fn since(&self, slot: usize) -> Option<Instant> {
        self.entry(slot)?.since
    }

    /// Whether the slot runs this job.
    pub(crate) fn is_running(&self, slot: usize, id: JobId) -> bool {
        self.active_job(slot)
            .is_some_and(|active_job| active_job.id == id)
    }

    /// The occupied slots, in ascending order.
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

    /// The number of jobs that wait for the pool.
    pub(crate) const fn blocked(&self) -> usize {
        self.blocked
    }

    /// Whether the job waits for the pool.
    pub(crate) fn is_waiting(&self, slot: usize, id: JobId) -> bool {
        self.active_job(slot)
            .is_some_and(|active_job| active_job.id == id && active_job.waits > 0)
    }

    /// The ids of the waits for the pool, the slots of their jobs, and what these wait for.
    pub(crate) fn waiting(&self) -> impl DoubleEndedIterator<Item = (u64, usize, &W)> {
        self.waits
            .iter()
            .filter_map(|(wait_id, wait)| Some((*wait_id, wait.slot?, &wait.what)))
    }

    /// Registers a wait of a job for its own pool. Returns the id of the wait.
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
        self.waits
            .insert(self.last_wait_id, WaitEntry { slot, what });
        self.last_wait_id
    }

    /// The target of a wait; `None` if the job does not run any more.
    pub(crate) fn wait_mut(&mut self, wait_id: u64) -> Option<&mut W> {
        self.waits
            .get_mut(&wait_id)
            .filter(|wait| wait.slot.is_some())
            .map(|wait| &mut wait.what)
    }

    /// Ends a wait. Returns its target, which must not be dropped under the lock.
    pub(crate) fn end_wait(&mut self, wait_id: u64) -> Option<W> {
        let WaitEntry { slot, what } = self.waits.remove(&wait_id)?;
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
