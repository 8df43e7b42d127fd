//! Local queues of workers, as far as the shared state takes part: they are opened while their
//! worker is polled, their tallies are flushed whenever the lock is taken, and they are revoked by
//! what must not race with the start or the end of a job.
//!
//! A worker with an open local queue records starts and successes of jobs from outside without the
//! shared lock. It (1) locks its local queue, (2) checks that it is not revoked, and (3) records the
//! start or the success in its tally. `revoke_all` sets the flag and flushes the tally under the same
//! local lock, so each is either in the counters or has yet to find the queue revoked.

use std::sync::Arc;

use super::{Shared, Synced};
use crate::job::queued::Batch;
use crate::queue::admission::{PoolState, Wakes};
use crate::queue::local::LocalQueue;

impl<In, T, E> Synced<In, T, E> {
    /// Whether starts and successes may be counted late: no wait for a permit or for a threshold is
    /// registered, and no limit has to be looked up at a start.
    const fn may_use_local_queues(&self) -> bool {
        (self.admission.pool_state() as u8) < PoolState::Aborted as u8
            && self.scheduler.is_none()
            && self.limits.is_none()
            && !self.admission.is_awaited()
    }

    /// Adds all tallies to the counters.
    #[inline(never)]
    pub(super) fn flush_tallies(&mut self) {
        let Self {
            local_queues,
            admission,
            running,
            ..
        } = self;
        for local_queue in local_queues {
            local_queue.lock().tally.flush_into(admission, running);
        }
    }

    /// Revokes all local queues and flushes their tallies: their workers take the shared lock for
    /// each start and each end, until they have closed their queue.
    ///
    /// Both happen under one local lock, so that nothing is recorded between the two.
    pub(crate) fn revoke_all(&mut self) {
        let Self {
            local_queues,
            admission,
            running,
            ..
        } = self;
        for local_queue in local_queues {
            let mut local = local_queue.lock();
            local.revoke();
            local.tally.flush_into(admission, running);
        }
    }
}

impl<In, T, E> Shared<In, T, E> {
    /// Opens a local queue for as long as its worker is polled. `None`: each start and end has to
    /// be counted at once.
    pub(crate) fn open_local_queue(&self) -> Option<Arc<LocalQueue<Batch<In, T, E>>>> {
        if !self.uses_local_queues || self.is_scheduled() {
            return None;
        }
        let mut synced = self.lock();
        if !synced.may_use_local_queues() {
            return None;
        }
        let local_queue = synced.spare_local_queues.pop().unwrap_or_default();
        local_queue.lock().open();
        synced.local_queues.push(Arc::clone(&local_queue));
        Some(local_queue)
    }

    /// Closes a local queue that has no jobs; `lock` flushes its tally.
    pub(crate) fn close_local_queue(&self, local_queue: Arc<LocalQueue<Batch<In, T, E>>>) {
        let mut wakes = Wakes::default();
        {
            let mut guard = self.lock();
            let synced = &mut *guard;
            synced
                .local_queues
                .retain(|open| !Arc::ptr_eq(open, &local_queue));
            synced.admission.notify_all(&mut wakes);
            synced.spare_local_queues.push(local_queue);
        }
        self.run_wakes(wakes);
        // A schedule that was switched on meanwhile has not seen the slots that the tally frees.
        self.dispatch_now();
    }

    /// Flushes all tallies; called when one is long.
    #[cold]
    pub(crate) fn flush_tallies(&self) {
        drop(self.lock());
    }
}
