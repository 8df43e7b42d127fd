//! Close, abort, end.

use std::sync::PoisonError;
use std::task::Waker;

use super::Shared;
use crate::error::{CancelReason, JobError};
use crate::event::Event;
use crate::job::queued::QueuedJob;
use crate::panic;
use crate::queue::admission::PoolState;
use crate::report::{Interrupted, Unstarted};
use crate::sync::atomic::Ordering;

impl<In, T, E> Shared<In, T, E> {
    /// Moves the state of the pool of the pool on; see [`PoolState`].
    pub(crate) fn close(&self, pool_state: PoolState) {
        let (was_open, wakes) = {
            let mut state = self.lock_exclusive();
            let was_open = state.admission.pool_state() == PoolState::Open;
            (was_open, state.admission.advance(pool_state).1)
        };
        if was_open {
            self.observe(|| Event::Closed);
        }
        self.run_wakes(wakes);
        // What a pause holds back goes on.
        self.dispatch_now();
    }

    /// Aborts: interrupts what runs, returns what is queued. The first call does it; others change
    /// nothing.
    pub(crate) fn begin_abort(&self) {
        self.close(PoolState::Aborted);
        if self.is_aborted.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut state = self.lock_exclusive();
        let mut wakers = Vec::new();
        let mut interrupted = Vec::new();
        for (slot, active_job) in state.running.occupied() {
            wakers.extend(self.cancel_flags[slot].interrupt(CancelReason::Aborted));
            interrupted.push(Interrupted {
                id: active_job.id,
                index: active_job.index,
                attempts: active_job.attempts,
            });
        }
        state.interrupted = interrupted;
        drop(state);
        panic::wake(wakers);
        self.return_queued();
    }

    /// What an abort has interrupted and no report has named, in the order of acceptance.
    pub(crate) fn take_interrupted(&self) -> Vec<Interrupted> {
        let mut interrupted = std::mem::take(&mut self.lock().interrupted);
        interrupted.sort_by_key(|job| job.id);
        interrupted
    }

    pub(crate) fn take_returned(&self) -> Vec<Unstarted<In>> {
        let mut returned =
            std::mem::take(&mut *self.returned.lock().unwrap_or_else(PoisonError::into_inner));
        returned.sort_by_key(|unstarted| unstarted.id);
        returned
    }

    /// A worker ended or was dropped. After the last one, nobody will run what is queued.
    pub(crate) fn worker_left(&self, worker: usize) {
        let (was_last, was_open, wakes, blocked) = {
            let mut state = self.lock();
            let was_open = state.admission.pool_state() == PoolState::Open;
            let (was_last, wakes) = state.admission.worker_left();
            let blocked = state.blocked();
            (was_last, was_open && was_last, wakes, blocked)
        };
        let own = self.cancel_flags.made(self.slots_of(worker));
        let wakers: Vec<Waker> = own.filter_map(|signal| signal.waker().take()).collect();
        drop(wakers);
        self.observe(|| Event::WorkerLeft { worker });
        if was_open {
            self.observe(|| Event::Closed);
        }
        self.run_wakes(wakes);
        // They dispatch again and find that they would wait for ever.
        panic::wake(blocked);
        if was_last {
            self.is_deserted.store(true, Ordering::SeqCst);
            self.abandon_queued();
        }
    }

    /// Returns what came into the queue after an abort had looked there, since no worker may be
    /// polled any more, and abandons what came after the last worker had left: whoever puts a job
    /// in looks here afterwards, and they set a flag before they dispatch.
    pub(super) fn look_for_end(&self) {
        if self.is_aborted.load(Ordering::SeqCst) {
            self.return_queued();
        } else if self.is_deserted.load(Ordering::SeqCst) {
            self.abandon_queued();
        }
    }

    fn abandon_queued(&self) {
        self.abandon(self.injector.take_all());
        for removed in self.unschedule(|_| true) {
            let attempts = removed.attempts();
            self.settle_unstarted(removed.job.into_entry(), JobError::Abandoned, attempts);
            panic::discard(removed.history);
        }
    }

    fn return_queued(&self) {
        for entry in self.injector.take_all() {
            let attempts = self.attempts(&entry);
            self.return_unstarted(entry, attempts);
        }
        for removed in self.unschedule(|_| true) {
            let attempts = removed.attempts();
            self.return_unstarted(removed.job.into_entry(), attempts);
            panic::discard(removed.history);
        }
    }

    pub(super) fn abandon(&self, entries: impl IntoIterator<Item = QueuedJob<In, T, E>>) {
        for entry in entries {
            let attempts = self.attempts(&entry);
            self.settle_unstarted(entry, JobError::Abandoned, attempts);
        }
    }
}
