//! How a pool ends: `close` moves it to its next [`PoolState`], `begin_abort` also interrupts
//! running jobs and returns queued ones, `worker_left` abandons queued jobs once there is no
//! worker.
//!
//! A job may be enqueued while its pool is aborted, or abandoned by its last worker. So that it is
//! not left in the queue,
//!
//! 1. `begin_abort` and `worker_left` (1) set [`Stopped`], then (2) empty the injector and the
//!    schedule,
//! 2. each function that enqueues a job (1) enqueues it, then (2) reads `Stopped` in
//!    `check_stopped`, and empties the queues itself if the pool has stopped.
//!
//! All accesses to `Stopped` are `SeqCst`: a function that enqueues a job after the queues were
//! emptied sees that the pool has stopped.

use std::task::Waker;

use super::Shared;
use super::dispatch::occupancy_of;
use crate::error::CancelReason;
use crate::event::Event;
use crate::panic;
use crate::queue::admission::PoolState;
use crate::report::{Interrupted, Unstarted};
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::ignore_poison;

/// Whether a pool has stopped: the last worker has left (`ABANDONED`) or it is `ABORTED`. The value
/// only grows.
#[derive(Debug, Default)]
pub(super) struct Stopped(AtomicU8);

const RUNS: u8 = 0;
const ABANDONED: u8 = 1;
const ABORTED: u8 = 2;

impl Stopped {
    /// Returns whether the pool was aborted before.
    fn abort(&self) -> bool {
        self.0.swap(ABORTED, Ordering::SeqCst) == ABORTED
    }

    fn abandon(&self) {
        // An aborted pool stays aborted.
        let _ = (self.0).compare_exchange(RUNS, ABANDONED, Ordering::SeqCst, Ordering::SeqCst);
    }
}

impl<In, T, E> Shared<In, T, E> {
    /// Advances the pool to `pool_state`, unless it is past that; see [`PoolState`].
    pub(crate) fn close(&self, pool_state: PoolState) {
        let (was_open, wakes) = {
            let mut synced = self.lock_exclusive();
            let was_open = synced.admission.pool_state() == PoolState::Open;
            (was_open, synced.admission.advance(pool_state).1)
        };
        if was_open {
            self.observe(|| Event::Closed);
        }
        self.run_wakes(wakes);
        // Closing overrides a pause, so jobs may start.
        self.dispatch_now();
    }

    /// Aborts the pool: interrupts running jobs and returns queued ones. Only the first call has an
    /// effect.
    pub(crate) fn begin_abort(&self) {
        self.close(PoolState::Aborted);
        if self.stopped.abort() {
            return;
        }
        let mut synced = self.lock_exclusive();
        let mut wakers = Vec::new();
        let mut interrupted = Vec::new();
        for (slot, active_job) in synced.running.occupied() {
            wakers.extend(self.cancel_flags[slot].interrupt(CancelReason::Aborted));
            interrupted.push(Interrupted {
                id: active_job.id,
                index: active_job.index,
                attempts: active_job.attempts,
            });
        }
        synced.interrupted = interrupted;
        drop(synced);
        panic::wake(wakers);
        self.return_queued();
    }

    /// Takes the jobs that an abort has interrupted and no report has named, in the order of
    /// acceptance.
    pub(crate) fn take_interrupted(&self) -> Vec<Interrupted> {
        let mut interrupted = std::mem::take(&mut self.lock().interrupted);
        interrupted.sort_by_key(|job| job.id);
        interrupted
    }

    /// Takes the unstarted inputs that no report has taken, in the order of acceptance.
    pub(crate) fn take_returned(&self) -> Vec<Unstarted<In>> {
        let mut returned = std::mem::take(&mut *ignore_poison(self.returned.lock()));
        returned.sort_by_key(|unstarted| unstarted.id);
        returned
    }

    /// Removes a worker that has ended or was dropped. After the last one, queued jobs are
    /// abandoned.
    pub(crate) fn worker_left(&self, worker: usize) {
        let (was_last, was_open, wakes) = {
            let mut synced = self.lock();
            let was_open = synced.admission.pool_state() == PoolState::Open;
            let (was_last, mut wakes) = synced.admission.worker_left();
            synced.notify_blocked(&mut wakes);
            (was_last, was_open && was_last, wakes)
        };
        let own = self.cancel_flags.allocated(self.slots_of(worker));
        let wakers: Vec<Waker> = own.filter_map(|flag| flag.lock_waker().take()).collect();
        drop(wakers);
        self.observe(|| Event::WorkerLeft { worker });
        if was_open {
            self.observe(|| Event::Closed);
        }
        self.run_wakes(wakes);
        if was_last {
            self.stopped.abandon();
            self.abandon_queued();
        } else {
            self.has_worker_left.store(true, Ordering::SeqCst);
            self.return_surplus();
        }
    }

    /// Returns released jobs for which no slot is free, since a worker has left, from the injector to
    /// the schedule: the other workers may be busy for long, and no time limit is looked at in the
    /// injector. Called (1) after a worker has left, (2) once one has, after each release.
    #[cold]
    pub(super) fn return_surplus(&self) {
        let surplus = {
            let synced = self.lock();
            let scheduler = synced.scheduler.as_ref();
            scheduler.map_or(0, |scheduler| {
                scheduler.schedule.surplus(occupancy_of(&synced))
            })
        };
        // Ends: what the schedule releases of them has a slot.
        for job in self.injector.take_youngest(surplus) {
            self.return_to_schedule(job);
        }
    }

    /// Empties the queues if the pool is aborted or has no worker; called after a job was enqueued,
    /// see the [module](self).
    #[inline]
    pub(super) fn check_stopped(&self) {
        match self.stopped.0.load(Ordering::SeqCst) {
            RUNS => {}
            ABANDONED => self.abandon_queued(),
            _ => self.return_queued(),
        }
    }

    /// Abandons all queued jobs.
    #[cold]
    fn abandon_queued(&self) {
        self.abandon_all(self.injector.take_all());
        self.abandon_removed(self.unschedule(|_| true));
    }

    /// Returns the inputs of all queued jobs to the pool's report.
    #[cold]
    fn return_queued(&self) {
        for job in self.injector.take_all() {
            let attempts = self.attempts(&job);
            self.return_unstarted(job, attempts);
        }
        for removed in self.unschedule(|_| true) {
            let attempts = removed.attempts();
            self.return_unstarted(removed.job.into_queued(None), attempts);
            panic::discard(removed.history);
        }
    }
}
