//! Retries within the bounds of the pool: whether one is allowed, and the job's way back to the
//! schedule.

use std::time::Duration;

use super::Shared;
use super::dispatch::Dispatched;
use crate::job::queued::ScheduledJob;
use crate::policy::retry::{History, Retry, RetryAfterScope};
use crate::queue::admission::{PoolState, Wakes};

/// The retry policy, and how to copy an input.
pub(crate) struct RetryConfig<In, E> {
    pub(crate) policy: Retry<E>,
    pub(crate) copy: fn(&In) -> In,
    /// How many jobs may wait for another attempt.
    pub(crate) capacity: usize,
}

impl<In, T, E> Shared<In, T, E> {
    /// Whether the pool's bounds and the budget, which is charged, allow another attempt of the
    /// slot's job. `None` if the job is interrupted. `Some(true)` has to be followed by
    /// [`requeue_job`](Self::requeue_job) or [`forgo_retry`](Self::forgo_retry).
    pub(crate) fn allow_retry(&self, slot: usize, capacity: usize, is_paid: bool) -> Option<bool> {
        let mut synced = self.lock();
        let synced = &mut *synced;
        if synced.admission.pool_state() >= PoolState::Aborted
            || self.cancel_flags[slot].interrupted().is_some()
        {
            return None;
        }
        let itself = synced.running.counts_as_retry(slot);
        let others =
            synced.admission.retrying() + synced.running.running_retries() - usize::from(itself);
        let is_allowed = synced.admission.retrying() + synced.retries_ahead < capacity
            && (!is_paid
                || synced
                    .account
                    .as_mut()
                    .is_none_or(|account| account.spend(others)));
        if is_allowed {
            synced.retries_ahead += 1;
            synced.running.mark_retry(slot);
        } else {
            synced.retries_refused += 1;
        }
        Some(is_allowed)
    }

    /// Gives up a retry that was allowed.
    pub(crate) fn forgo_retry(&self) {
        self.lock().retries_ahead -= 1;
    }

    /// Makes the slot's job wait for another attempt. Returns it if it is interrupted. The caller
    /// runs the deferred work, with no lock held.
    pub(crate) fn requeue_job(
        &self,
        slot: usize,
        job: ScheduledJob<In, T, E>,
        history: Box<History>,
        delay: Duration,
        scope: RetryAfterScope,
    ) -> Result<(Dispatched<In, T, E>, Wakes), (ScheduledJob<In, T, E>, Box<History>)> {
        let reading = self.reading();
        let mut wakes = Wakes::default();
        let mut guard = self.lock();
        let synced = &mut *guard;
        synced.retries_ahead -= 1;
        let record_id = synced.running.record_id(slot);
        let is_interrupted = synced.admission.pool_state() >= PoolState::Aborted
            || self.cancel_flags[slot].interrupted().is_some();
        let (Some(scheduler), Some(record_id), false) =
            (&mut synced.scheduler, record_id, is_interrupted)
        else {
            return Err((job, history));
        };
        let now = self.advance_clock_in(slot, scheduler, reading);
        let schedule = &mut scheduler.schedule;
        let at = now.after(delay);
        match scope {
            RetryAfterScope::Job => {}
            RetryAfterScope::Key => schedule.hold_lane(record_id, at),
            RetryAfterScope::Pool => schedule.hold(at),
        }
        schedule.reschedule(record_id, job, history, at, now);
        synced.running.finish_scheduled(slot);
        synced.admission.retry(&mut wakes);
        synced.retries += 1;
        Ok((synced.dispatch(&mut wakes), wakes))
    }
}
