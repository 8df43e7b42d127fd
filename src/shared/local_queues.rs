//! The desks of workers that are being polled, as far as they are part of the books.

use std::sync::Arc;

use super::{Shared, Synced};
use crate::job::queued::Batch;
use crate::queue::admission::{PoolState, Wakes};
use crate::queue::local::LocalQueue;

impl<In, T, E> Synced<In, T, E> {
    /// Whether it is enough to book the start and the end of a job a little later: nobody waits for
    /// one, and there is no limit to be looked up.
    const fn may_use_local_queues(&self) -> bool {
        (self.admission.pool_state() as u8) < PoolState::Aborted as u8
            && self.schedule.is_none()
            && self.limits.is_none()
            && !self.admission.is_awaited()
    }

    #[inline(never)]
    pub(super) fn flush_tallies(&mut self) {
        let Self {
            local_queues,
            admission,
            running,
            ..
        } = self;
        for local_queue in local_queues {
            local_queue.local().tally.flush_into(admission, running);
        }
    }

    /// Keeps the workers from starting jobs and noting ends before they have closed their desks,
    /// and enters what they have noted until then: in one go, or what happened in between would be
    /// neither in the books nor kept from happening.
    pub(crate) fn revoke_all(&mut self) {
        let Self {
            local_queues,
            admission,
            running,
            ..
        } = self;
        for local_queue in local_queues {
            let mut local = local_queue.local();
            local.revoke();
            local.tally.flush_into(admission, running);
        }
    }
}

impl<In, T, E> Shared<In, T, E> {
    /// Gives a worker a local queue, for as long as it is polled; `None` where it has to book at once.
    pub(crate) fn open_local_queue(&self) -> Option<Arc<LocalQueue<Batch<In, T, E>>>> {
        if !self.is_plain || self.is_scheduled() {
            return None;
        }
        let mut state = self.lock();
        if !state.may_use_local_queues() {
            return None;
        }
        let local_queue = state.spare_local_queues.pop().unwrap_or_default();
        local_queue.local().open();
        state.local_queues.push(Arc::clone(&local_queue));
        Some(local_queue)
    }

    /// Enters the tally of a local queue, whose hand is empty, and takes it back.
    pub(crate) fn close_local_queue(&self, local_queue: Arc<LocalQueue<Batch<In, T, E>>>) {
        let mut wakes = Wakes::default();
        {
            let mut guard = self.lock();
            let state = &mut *guard;
            state
                .local_queues
                .retain(|open| !Arc::ptr_eq(open, &local_queue));
            state.admission.notify_all(&mut wakes);
            state.spare_local_queues.push(local_queue);
        }
        self.run_wakes(wakes);
        // It may be new, and has not seen that a slot is free.
        self.dispatch_now();
    }

    /// Enters the journals, one of which is long.
    #[cold]
    pub(crate) fn flush_tallies(&self) {
        drop(self.lock());
    }
}
