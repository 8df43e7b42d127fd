//! The local queue of a worker, for as long as the worker is being polled: the *batch* of jobs that
//! it has taken and not started, and the *tally* of what it has done that the admission does not
//! count yet. A job that ends within its first poll costs one uncontended lock and no allocation.
//!
//! * Local queues can be stolen from. An idle worker steals half of another's queue; a cancellation
//!   or an abort takes the batch. When the worker waits or ends its turn, it returns what is left
//!   to the injector. So no job waits behind another while a worker is free.
//! * Invariant: the shared state's lock is never taken without [flushing](Tally::flush_into) all
//!   tallies, so a reader never sees counts that lag behind. Waits that a tally concerns are
//!   notified when the worker closes its local queue, which it does before it waits.
//! * An operation that must not race with a job's start or end [revokes](Local::revoke) all local
//!   queues while it holds the shared state's lock: each caller of `Shared::lock_exclusive` or
//!   `Synced::revoke_all`. A worker whose local queue is revoked takes that lock for each start and
//!   each end, until it has closed the queue. While a wait for a permit, for fewer queued or for
//!   fewer running jobs is registered, no local queue is opened.
//!
//! What happens when a map is cancelled while a worker fills its local queue is told in
//! `shared::cancel`.
//!
//! The lock of a local queue is taken after those of the injector and of the shared state. Under
//! it, a batch that is dropped empty gives its vector to a `Spares`, whose lock is the innermost.

use super::StreamId;
use super::admission::Admission;
use super::running::{ActiveJob, Running};
use crate::event::JobId;
use crate::sync::{Mutex, MutexGuard, ignore_poison};

/// A tally with this many changes is flushed.
const MAX_CHANGES: usize = 64;

#[derive(Debug)]
pub(crate) struct LocalQueue<L> {
    local: Mutex<Local<L>>,
}

#[derive(Debug)]
pub(crate) struct Local<L> {
    /// Jobs that have not started.
    pub(crate) batch: Option<L>,
    pub(crate) tally: Tally,
    is_revoked: bool,
}

impl<L> Default for LocalQueue<L> {
    fn default() -> Self {
        Self {
            local: Mutex::new(Local {
                batch: None,
                tally: Tally::default(),
                is_revoked: false,
            }),
        }
    }
}

impl<L> LocalQueue<L> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Local<L>> {
        ignore_poison(self.local.lock())
    }
}

impl<L> Local<L> {
    /// Revokes the worker's right to start jobs and to tally until it has closed the queue.
    pub(crate) const fn revoke(&mut self) {
        self.is_revoked = true;
    }

    pub(crate) const fn is_revoked(&self) -> bool {
        self.is_revoked
    }

    /// Makes a closed queue usable again.
    pub(crate) const fn open(&mut self) {
        self.is_revoked = false;
    }
}

/// The starts and successes that the admission does not count yet. All jobs in it are from outside.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    started: usize,
    succeeded: usize,
    /// The job of each slot since the last flush; later entries override earlier ones. Little more
    /// than [`MAX_CHANGES`] entries.
    changes: Vec<(usize, Option<StartedJob>)>,
}

/// What is known of a job that a tally starts; an [`ActiveJob`] in its first attempt, in less
/// memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StartedJob {
    pub(crate) id: JobId,
    pub(crate) index: usize,
    /// The map or group that the job belongs to.
    pub(crate) stream: Option<StreamId>,
}

impl From<StartedJob> for ActiveJob {
    fn from(StartedJob { id, index, stream }: StartedJob) -> Self {
        Self::new(id, index, stream)
    }
}

impl Tally {
    /// Tallies the start of a job.
    #[inline(always)]
    pub(crate) fn start(&mut self, slot: usize, started_job: StartedJob) {
        self.started += 1;
        self.change(slot, Some(started_job));
    }

    /// Tallies the success of the slot's job.
    #[inline(always)]
    pub(crate) fn succeed(&mut self, slot: usize) {
        self.succeeded += 1;
        self.change(slot, None);
    }

    /// Tallies the success of the slot's job and the start of the next one.
    #[inline(always)]
    pub(crate) fn follow(&mut self, slot: usize, started_job: StartedJob) {
        self.succeeded += 1;
        self.start(slot, started_job);
    }

    #[inline(always)]
    fn change(&mut self, slot: usize, started_job: Option<StartedJob>) {
        match self.changes.last_mut() {
            Some((last, now)) if *last == slot => *now = started_job,
            _ => self.changes.push((slot, started_job)),
        }
    }

    /// Whether [`MAX_CHANGES`] is reached.
    pub(crate) const fn needs_flush(&self) -> bool {
        self.changes.len() >= MAX_CHANGES
    }

    /// Adds everything to the admission and to the slots, and clears the tally.
    pub(crate) fn flush_into<W>(&mut self, admission: &mut Admission, running: &mut Running<W>) {
        admission.record(
            std::mem::take(&mut self.started),
            std::mem::take(&mut self.succeeded),
        );
        for (slot, started_job) in self.changes.drain(..) {
            running.replace(slot, started_job.map(ActiveJob::from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::admission::Origin;

    fn job(id: u64) -> StartedJob {
        StartedJob {
            id: JobId(id),
            index: 0,
            stream: None,
        }
    }

    /// The job of each slot, and the queued, running and succeeded counts.
    fn counts(admission: &Admission, running: &Running<()>) -> (Vec<(usize, u64)>, [u64; 3]) {
        let runs = running
            .occupied()
            .map(|(slot, active_job)| (slot, active_job.id.0))
            .collect();
        let stats = admission.stats();
        (
            runs,
            [stats.queued as u64, stats.running as u64, stats.succeeded],
        )
    }

    #[test]
    fn counts_are_exact_whenever_the_tally_is_flushed() {
        for flushed_after in 0..32 {
            let (mut admission, mut running) = (Admission::new(8, 0, 1, 3), Running::new());
            for _ in 0..4 {
                admission.accept(Origin::Outside).unwrap();
            }
            let mut tally = Tally::default();
            let steps: [fn(&mut Tally); 5] = [
                |tally| tally.start(1, job(0)),
                |tally| tally.follow(1, job(1)),
                |tally| tally.start(2, job(2)),
                |tally| tally.succeed(1),
                |tally| tally.start(1, job(3)),
            ];
            for (number, step) in steps.into_iter().enumerate() {
                step(&mut tally);
                if flushed_after >> number & 1 == 1 {
                    tally.flush_into(&mut admission, &mut running);
                    let now = [
                        (vec![(1, 0)], [3, 1, 0]),
                        (vec![(1, 1)], [2, 1, 1]),
                        (vec![(1, 1), (2, 2)], [1, 2, 1]),
                        (vec![(2, 2)], [1, 1, 2]),
                        (vec![(1, 3), (2, 2)], [0, 2, 2]),
                    ];
                    assert_eq!(counts(&admission, &running), now[number]);
                }
            }
            tally.flush_into(&mut admission, &mut running);
            assert_eq!(
                counts(&admission, &running),
                (vec![(1, 3), (2, 2)], [0, 2, 2])
            );
        }
    }

    #[test]
    fn a_job_that_waits_for_its_pool_and_stays_keeps_its_wait() {
        let (mut admission, mut running) = (Admission::new(8, 0, 1, 1), Running::new());
        for _ in 0..2 {
            admission.accept(Origin::Outside).unwrap();
        }
        let mut tally = Tally::default();
        tally.start(0, job(0));
        tally.flush_into(&mut admission, &mut running);
        running.begin_wait(0, JobId(0), ());
        tally.flush_into(&mut admission, &mut running);
        assert_eq!(running.blocked(), 1);
        tally.follow(0, job(1));
        tally.flush_into(&mut admission, &mut running);
        assert!(running.blocked() < 1);
        assert_eq!(running.waiting().count(), 0);
    }
}
