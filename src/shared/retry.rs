//! Retries within the bounds of the pool: whether one is allowed, and the job's way back to the
//! schedule.

use std::time::Duration;

use super::Shared;
use super::dispatch::Dispatched;
use crate::job::queued::ScheduledJob;
use crate::policy::retry::{History, Retry, RetryAfterScope};
use crate::queue::admission::{PoolState, Wakes};

/// The retry policy, and how to copy an input.
pub(crate) struct Retries<In, E> {
    pub(crate) policy: Retry<E>,
    pub(crate) copy: fn(&In) -> In,
    /// How many jobs may wait for another attempt.
    pub(crate) capacity: usize,
}

impl<In, E> Clone for Retries<In, E> {
    fn clone(&self) -> Self {
        Self {
            policy: self.policy.clone(),
            copy: self.copy,
            capacity: self.capacity,
        }
    }
}

impl<In, T, E> Shared<In, T, E> {
    /// Whether the pool's bounds and the budget, which is charged, allow another attempt of the
    /// slot's job. `None` if the job is interrupted. `Some(true)` has to be followed by
    /// [`requeue`](Self::requeue) or [`forgo_retry`](Self::forgo_retry).
    pub(crate) fn allow_retry(&self, slot: usize, capacity: usize, is_paid: bool) -> Option<bool> {
        let mut state = self.lock();
        let state = &mut *state;
        if state.admission.pool_state() >= PoolState::Aborted
            || self.cancel_flags[slot].interrupted().is_some()
        {
            return None;
        }
        let itself = state.running.counts_as_retry(slot);
        let others = state.admission.retrying() + state.running.retries() - usize::from(itself);
        let is_allowed = state.admission.retrying() + state.retries_ahead < capacity
            && (!is_paid
                || state
                    .account
                    .as_mut()
                    .is_none_or(|account| account.spend(others)));
        if is_allowed {
            state.retries_ahead += 1;
            state.running.mark_retry(slot);
        } else {
            state.retries_refused += 1;
        }
        Some(is_allowed)
    }

    /// Gives up a retry that was allowed.
    pub(crate) fn forgo_retry(&self) {
        self.lock().retries_ahead -= 1;
    }

    /// Makes the slot's job wait for another attempt. Returns it if it is interrupted. The caller
    /// runs the deferred work, with no lock held.
    pub(crate) fn requeue(
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
        let state = &mut *guard;
        state.retries_ahead -= 1;
        let record_id = state.running.record_id(slot);
        let is_interrupted = state.admission.pool_state() >= PoolState::Aborted
            || self.cancel_flags[slot].interrupted().is_some();
        let (Some(scheduler), Some(record_id), false) =
            (&mut state.scheduler, record_id, is_interrupted)
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
        schedule.requeue(record_id, job, history, at, now);
        state.running.finish_scheduled(slot);
        state.admission.retry(&mut wakes);
        state.retries += 1;
        Ok((state.dispatch(&mut wakes), wakes))
    }
}
