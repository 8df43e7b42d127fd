//! Waits for a condition of the whole pool: idle, aborted and emptied, or fewer jobs than a
//! threshold. An idle pool has delivered all outcomes, which [`Deliveries`] counts.
//!
//! A wait is not lost:
//!
//! 1. `wait_until`, under the lock, (1) checks the condition and sets the threshold that it has, (2)
//!    leaves its waker, (3) sets [`IdleState`]: to `DELIVERIES` if the admission is idle, else to
//!    `JOBS`, and (4) checks again.
//! 2. A change of the counters takes place under the same lock. After it `run_wakes` calls
//!    `wake_if_idle` if the admission is idle, or `wake_idle_waiters` if a threshold was passed.
//!    Where `lock` has changed them by flushing a tally, `close_local_queue` does so later.
//! 3. `wake_if_idle` returns if the state is `NONE`. Otherwise, under the lock, it (1) sets the state
//!    as in step 1.3, then (2) checks whether the pool is idle, or aborted and emptied, and if so
//!    wakes all idle waiters and sets the state to `NONE`. They begin again.
//! 4. `end_deliveries` (1) counts deliveries as ended, then (2) reads the state, and calls
//!    `wake_if_idle` if it is `DELIVERIES`. `end_return` does so unless it is `NONE`, since
//!    `wait_returned` may wait while jobs run. All these are `SeqCst`: if (2) comes before the state
//!    is set in step 1.3 or 3.1, the check in step 1.4 or 3.2 reads the new count.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use super::{Shared, Synced};
use crate::panic;
use crate::queue::admission::{Admission, PoolState};
use crate::sync::MutexGuard;
use crate::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

/// Counts deliveries, so that an idle pool has reported each failure or dropped its value, and has
/// told the observer.
///
/// The outcome of a running job is
///
/// 1. announced to the readers of its stream, if it has one, by `CompletionQueue::begin_delivery`:
///    from here on no wait for it counts as a deadlock,
/// 2. counted under the lock of `Shared`, or in a tally, which frees the slot:
///    [`Admission::finished`] includes it once the tally is flushed,
/// 3. left where it is read: in a `CompletionQueue` or a `HandleState`,
/// 4. counted here, by `Shared::end_deliveries`.
///
/// Between 2 and 4, the observer is told of it. An outcome that nothing will read, since there is no
/// interest in its job, is discarded before 2 and has no step 3.
///
/// Queued jobs that end are counted apart, since `wait_returned` waits for them alone: `begin_return`
/// comes before step 2, and `end_return` in place of step 4.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    /// How many outcomes of running jobs have been delivered so far.
    ended: AtomicU64,
    /// How many outcomes of queued jobs are being delivered.
    returning: AtomicUsize,
}

/// What the idle waiters need a wake for. Written under the lock of `Shared`. A state that has become
/// stale is set again by the next `wake_if_idle`.
#[derive(Debug, Default)]
pub(super) struct IdleState(AtomicU8);

/// There is no idle waiter that was not woken.
const NONE: u8 = 0;
/// A change of the counters: when this was written, jobs were queued or running.
const JOBS: u8 = 1;
/// The same, or the end of a delivery: when this was written, the admission was idle.
const DELIVERIES: u8 = 2;

impl IdleState {
    fn get(&self) -> u8 {
        self.0.load(Ordering::SeqCst)
    }

    fn set(&self, state: u8) {
        self.0.store(state, Ordering::SeqCst);
    }
}

/// Wakers of the futures in `wait_until`.
#[derive(Debug, Default)]
pub(super) struct IdleWaiters {
    /// Bounded by the number of these futures.
    wakers: BTreeMap<u64, Waker>,
    next: u64,
}

impl<In, T, E> Shared<In, T, E> {
    /// Ends `count` deliveries of jobs that were running.
    #[inline]
    pub(crate) fn end_deliveries(&self, count: usize) {
        (self.deliveries.ended).fetch_add(count as u64, Ordering::SeqCst);
        if self.idle_state.get() == DELIVERIES {
            self.wake_if_idle();
        }
    }

    /// Begins the delivery of a queued job, before its outcome is counted.
    pub(super) fn begin_return(&self) {
        self.deliveries.returning.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends the delivery of a queued job.
    pub(super) fn end_return(&self) {
        let returning = &self.deliveries.returning;
        if returning.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.wake_if_idle();
        }
    }

    /// Wakes the idle waiters if the pool is idle, or aborted with all jobs returned.
    pub(super) fn wake_if_idle(&self) {
        if self.idle_state.get() == NONE {
            return;
        }
        let synced = self.lock();
        self.set_idle_state(&synced);
        if self.is_idle_in(&synced) || self.is_returned_in(&synced) {
            self.wake_idle_waiters(synced);
        }
    }

    /// Wakes all idle waiters, to check their conditions again.
    pub(super) fn wake_idle_waiters(&self, mut synced: MutexGuard<'_, Synced<In, T, E>>) {
        let wakers = std::mem::take(&mut synced.idle_waiters.wakers);
        self.idle_state.set(NONE);
        drop(synced);
        panic::wake(wakers.into_values());
    }

    fn set_idle_state(&self, synced: &Synced<In, T, E>) {
        let is_idle = synced.admission.is_idle();
        self.idle_state.set(if is_idle { DELIVERIES } else { JOBS });
    }

    /// Waits until the pool is idle and all outcomes are delivered.
    pub(crate) async fn wait_idle(&self) {
        self.wait_until(|synced| self.is_idle_in(synced), |_| {})
            .await;
    }

    /// Waits until the pool is aborted, no job is queued, and the outcomes of all that were are
    /// delivered.
    pub(crate) async fn wait_returned(&self) {
        self.wait_until(|synced| self.is_returned_in(synced), |_| {})
            .await;
    }

    /// Waits until `condition`; `set_threshold` sets the number of jobs below which it is woken.
    pub(crate) async fn wait_below(
        &self,
        condition: impl Fn(&Admission) -> bool,
        set_threshold: impl Fn(&mut Admission),
    ) {
        let is_over = |synced: &Synced<In, T, E>| condition(&synced.admission);
        let prepare = |synced: &mut Synced<In, T, E>| {
            set_threshold(&mut synced.admission);
            synced.revoke_all();
        };
        self.wait_until(is_over, prepare).await;
    }

    /// Whether the pool is idle and all outcomes are delivered.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_idle_in(&self.lock())
    }

    fn is_idle_in(&self, synced: &Synced<In, T, E>) -> bool {
        let admission = &synced.admission;
        // In this order: `lock` has flushed all tallies, and while no job is queued or running none is
        // written, so `ended` counts no job that `finished` does not.
        admission.is_idle()
            && self.deliveries.ended.load(Ordering::SeqCst) == admission.finished()
            && self.deliveries.returning.load(Ordering::SeqCst) == 0
    }

    fn is_returned_in(&self, synced: &Synced<In, T, E>) -> bool {
        let admission = &synced.admission;
        admission.pool_state() >= PoolState::Aborted
            && admission.is_queue_empty()
            && self.deliveries.returning.load(Ordering::SeqCst) == 0
    }

    /// Waits until `is_over`, which is checked under the lock, again after `prepare` has made sure
    /// that a change of the condition wakes the idle waiters.
    async fn wait_until(
        &self,
        is_over: impl Fn(&Synced<In, T, E>) -> bool,
        prepare: impl Fn(&mut Synced<In, T, E>),
    ) {
        let mut wait = IdleWait {
            shared: self,
            number: None,
        };
        poll_fn(|cx| {
            let mut synced = self.lock();
            if is_over(&synced) {
                return Poll::Ready(());
            }
            prepare(&mut synced);
            let waiters = &mut synced.idle_waiters;
            let number = *wait.number.get_or_insert_with(|| {
                waiters.next += 1;
                waiters.next
            });
            let replaced = waiters.wakers.insert(number, cx.waker().clone());
            self.set_idle_state(&synced);
            let is_over = is_over(&synced);
            drop(synced);
            drop(replaced);
            if is_over {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

/// Removes the waker of a future in `wait_until`, when it is dropped.
struct IdleWait<'a, In, T, E> {
    shared: &'a Shared<In, T, E>,
    /// Key of its waker, once it has left one.
    number: Option<u64>,
}

impl<In, T, E> Drop for IdleWait<'_, In, T, E> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut synced = self.shared.lock();
        let waker = synced.idle_waiters.wakers.remove(&number);
        // No future needs a threshold any more: one sets it and leaves its waker under one lock,
        // and sets it again each time it was woken.
        if synced.idle_waiters.wakers.is_empty() {
            synced.admission.clear_thresholds();
            self.shared.idle_state.set(NONE);
        }
        drop(synced);
        drop(waker);
    }
}
