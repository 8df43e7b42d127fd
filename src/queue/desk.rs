//! What lies before a worker while it is polled: jobs that it has taken together and not started,
//! its *hand*, and a *journal* of what it has done that is not in the books yet. So a job that ends
//! at once costs one lock that nobody else wants, and no allocation.
//!
//! * The hand is everybody's. A worker that finds nothing else takes half of it, a cancellation or
//!   an abort takes it away, and what is left of it when its worker waits, or ends its turn, goes
//!   back to where it came from. So no job waits behind another while a worker is free.
//! * The journal is part of the books. Whoever takes the engine's lock [enters it](Journal::enter)
//!   first, so nobody ever sees books that lag behind.
//! * A desk that was [called](Papers::call) starts nothing and notes nothing any more: its worker
//!   has to close it, by the engine's lock. Whoever does what must not cross the start or the end
//!   of a job calls all desks under that lock.
//!
//! The lock of a desk is the innermost: it comes after those of the injector and of the engine, and
//! nothing is locked under it.

use std::num::NonZeroUsize;
use std::sync::PoisonError;

use super::ledger::Ledger;
use super::running::{Occupant, Running};
use crate::observe::JobId;
use crate::sync::{Mutex, MutexGuard};

/// After so many changes they are entered in the books.
const CHANGES: usize = 64;

#[derive(Debug)]
pub(crate) struct Desk<L> {
    papers: Mutex<Papers<L>>,
}

#[derive(Debug)]
pub(crate) struct Papers<L> {
    /// Jobs that have not started.
    pub(crate) hand: Option<L>,
    pub(crate) journal: Journal,
    is_called: bool,
}

impl<L> Default for Desk<L> {
    fn default() -> Self {
        Self {
            papers: Mutex::new(Papers {
                hand: None,
                journal: Journal::default(),
                is_called: false,
            }),
        }
    }
}

impl<L> Desk<L> {
    pub(crate) fn papers(&self) -> MutexGuard<'_, Papers<L>> {
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L> Papers<L> {
    /// From here on its worker starts nothing and notes nothing before it has closed it.
    pub(crate) const fn call(&mut self) {
        self.is_called = true;
    }

    pub(crate) const fn is_called(&self) -> bool {
        self.is_called
    }

    /// For the next turn.
    pub(crate) const fn open(&mut self) {
        self.is_called = false;
    }
}

/// What has happened and is not in the books yet: jobs from outside that have started, and
/// successes.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    started: usize,
    succeeded: usize,
    /// Who occupies a slot now; those that come later count. Hardly more than [`CHANGES`].
    changes: Vec<(usize, Option<Runner>)>,
}

/// A job in its first attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Runner {
    pub(crate) id: JobId,
    pub(crate) index: usize,
    /// The identity of the map or group that it belongs to.
    pub(crate) stream: Option<NonZeroUsize>,
}

impl Journal {
    /// A job has started in the slot.
    #[inline(always)]
    pub(crate) fn start(&mut self, slot: usize, runner: Runner) {
        self.started += 1;
        self.change(slot, Some(runner));
    }

    /// The job of the slot has succeeded.
    #[inline(always)]
    pub(crate) fn succeed(&mut self, slot: usize) {
        self.succeeded += 1;
        self.change(slot, None);
    }

    /// The job of the slot has succeeded, and another one has started there.
    #[inline(always)]
    pub(crate) fn follow(&mut self, slot: usize, runner: Runner) {
        self.succeeded += 1;
        self.start(slot, runner);
    }

    #[inline(always)]
    fn change(&mut self, slot: usize, runner: Option<Runner>) {
        match self.changes.last_mut() {
            Some((last, now)) if *last == slot => *now = runner,
            _ => self.changes.push((slot, runner)),
        }
    }

    /// Whether it is time to enter it.
    pub(crate) const fn is_long(&self) -> bool {
        self.changes.len() >= CHANGES
    }

    /// Enters everything in the books.
    pub(crate) fn enter<W>(&mut self, ledger: &mut Ledger, running: &mut Running<W>) {
        ledger.enter(
            std::mem::take(&mut self.started),
            std::mem::take(&mut self.succeeded),
        );
        for (slot, runner) in self.changes.drain(..) {
            let occupant = |Runner { id, index, stream }| {
                Occupant::new(id, index, stream.map(NonZeroUsize::get))
            };
            running.replace(slot, runner.map(occupant));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::ledger::Origin;

    fn job(id: u64) -> Runner {
        Runner {
            id: JobId(id),
            index: 0,
            stream: None,
        }
    }

    /// What runs in the slots, and queued, running, succeeded.
    fn books(ledger: &Ledger, running: &Running<()>) -> (Vec<(usize, u64)>, [u64; 3]) {
        let runs = running
            .occupied()
            .map(|(slot, occupant)| (slot, occupant.id.0))
            .collect();
        let stats = ledger.stats();
        (
            runs,
            [stats.queued as u64, stats.running as u64, stats.succeeded],
        )
    }

    #[test]
    fn what_is_entered_is_what_has_happened_however_often_it_is_entered_meanwhile() {
        for entered_after in 0..32 {
            let (mut ledger, mut running) = (Ledger::new(8, 0, 1, 3), Running::new());
            for _ in 0..4 {
                ledger.accept(Origin::Outside).unwrap();
            }
            let mut journal = Journal::default();
            let steps: [fn(&mut Journal); 5] = [
                |journal| journal.start(1, job(0)),
                |journal| journal.follow(1, job(1)),
                |journal| journal.start(2, job(2)),
                |journal| journal.succeed(1),
                |journal| journal.start(1, job(3)),
            ];
            for (number, step) in steps.into_iter().enumerate() {
                step(&mut journal);
                if entered_after >> number & 1 == 1 {
                    journal.enter(&mut ledger, &mut running);
                    let now = [
                        (vec![(1, 0)], [3, 1, 0]),
                        (vec![(1, 1)], [2, 1, 1]),
                        (vec![(1, 1), (2, 2)], [1, 2, 1]),
                        (vec![(2, 2)], [1, 1, 2]),
                        (vec![(1, 3), (2, 2)], [0, 2, 2]),
                    ];
                    assert_eq!(books(&ledger, &running), now[number]);
                }
            }
            journal.enter(&mut ledger, &mut running);
            assert_eq!(books(&ledger, &running), (vec![(1, 3), (2, 2)], [0, 2, 2]));
        }
    }

    #[test]
    fn a_job_that_waits_for_its_pool_and_stays_keeps_its_wait() {
        let (mut ledger, mut running) = (Ledger::new(8, 0, 1, 1), Running::new());
        for _ in 0..2 {
            ledger.accept(Origin::Outside).unwrap();
        }
        let mut journal = Journal::default();
        journal.start(0, job(0));
        journal.enter(&mut ledger, &mut running);
        running.begin_wait(0, JobId(0), ());
        journal.enter(&mut ledger, &mut running);
        assert!(running.is_blocked(1));
        journal.follow(0, job(1));
        journal.enter(&mut ledger, &mut running);
        assert!(!running.is_blocked(1));
        assert_eq!(running.waiting().count(), 0);
    }
}
