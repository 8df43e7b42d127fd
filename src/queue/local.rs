//! What lies before a worker while it is polled: jobs that it has taken together and not started,
//! its *hand*, and a *tally* of what it has done that is not in the books yet. So a job that ends
//! at once costs one lock that nobody else wants, and no allocation.
//!
//! * The hand is everybody's. A worker that finds nothing else takes half of it, a cancellation or
//!   an abort takes it away, and what is left of it when its worker waits, or ends its turn, goes
//!   back to where it came from. So no job waits behind another while a worker is free.
//! * The tally is part of the books. Whoever takes the shared state's lock [enters it](Tally::enter)
//!   first, so nobody ever sees books that lag behind.
//! * A local queue that was [called](Local::call) starts nothing and notes nothing any more: its worker
//!   has to close it, by the shared state's lock. Whoever does what must not cross the start or the end
//!   of a job calls all desks under that lock.
//!
//! The lock of a local queue is the innermost: it comes after those of the injector and of the shared state, and
//! nothing is locked under it.

use std::num::NonZeroUsize;
use std::sync::PoisonError;

use super::admission::Admission;
use super::running::{ActiveJob, Running};
use crate::event::JobId;
use crate::sync::{Mutex, MutexGuard};

/// After so many changes they are entered in the books.
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
    pub(crate) fn local(&self) -> MutexGuard<'_, Local<L>> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L> Local<L> {
    /// From here on its worker starts nothing and notes nothing before it has closed it.
    pub(crate) const fn revoke(&mut self) {
        self.is_revoked = true;
    }

    pub(crate) const fn is_revoked(&self) -> bool {
        self.is_revoked
    }

    /// For the next turn.
    pub(crate) const fn open(&mut self) {
        self.is_revoked = false;
    }
}

/// What has happened and is not in the books yet: jobs from outside that have started, and
/// successes.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    started: usize,
    succeeded: usize,
    /// Who occupies a slot now; those that come later count. Hardly more than [`CHANGES`].
    changes: Vec<(usize, Option<StartedJob>)>,
}

/// A job in its first attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StartedJob {
    pub(crate) id: JobId,
    pub(crate) index: usize,
    /// The identity of the map or group that it belongs to.
    pub(crate) stream: Option<NonZeroUsize>,
}

impl Tally {
    /// A job has started in the slot.
    #[inline(always)]
    pub(crate) fn start(&mut self, slot: usize, started_job: StartedJob) {
        self.started += 1;
        self.change(slot, Some(started_job));
    }

    /// The job of the slot has succeeded.
    #[inline(always)]
    pub(crate) fn succeed(&mut self, slot: usize) {
        self.succeeded += 1;
        self.change(slot, None);
    }

    /// The job of the slot has succeeded, and another one has started there.
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

    /// Whether it is time to enter it.
    pub(crate) const fn needs_flush(&self) -> bool {
        self.changes.len() >= MAX_CHANGES
    }

    /// Enters everything in the books.
    pub(crate) fn flush_into<W>(&mut self, admission: &mut Admission, running: &mut Running<W>) {
        admission.record(
            std::mem::take(&mut self.started),
            std::mem::take(&mut self.succeeded),
        );
        for (slot, started_job) in self.changes.drain(..) {
            let active_job = |StartedJob { id, index, stream }| {
                ActiveJob::new(id, index, stream.map(NonZeroUsize::get))
            };
            running.replace(slot, started_job.map(active_job));
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

    /// What runs in the slots, and queued, running, succeeded.
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
    fn what_is_entered_is_what_has_happened_however_often_it_is_entered_meanwhile() {
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
        assert!(running.is_blocked(1));
        tally.follow(0, job(1));
        tally.flush_into(&mut admission, &mut running);
        assert!(!running.is_blocked(1));
        assert_eq!(running.waiting().count(), 0);
    }
}
