//! Waits for a condition of the whole pool: idle, aborted and emptied, or fewer jobs than a
//! threshold. [`Deliveries`] counts outcomes on their way to the code that reads them, so that an
//! idle pool has delivered all of them.
//!
//! A wait is not lost:
//!
//! 1. `wait_until` (1) counts its future in `idle_waiter_count`, then under the lock (2) checks the
//!    condition and (3) leaves its waker.
//! 2. A change of the counters takes place under the same lock, and `run_wakes` wakes the idle
//!    waiters after it; where `lock` has changed them by flushing a tally, `close_local_queue`
//!    does.
//! 3. `end_deliveries` (1) decrements the count of deliveries, then (2) reads `idle_waiter_count`,
//!    and takes the lock only if that is not 0. Both counts are `SeqCst`: if it reads 0,
//!    `wait_until` counts its future later, and its check reads the decremented count.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use super::{Shared, Synced};
use crate::panic;
use crate::queue::admission::{Admission, PoolState};
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Number of deliveries under way: outcomes that are about to be counted, or are counted, and have
/// not reached their handle, map or group. One delivery may stand for all completions that a
/// `CompletionBuffer` holds.
///
/// Each outcome is
///
/// 1. announced, by [`begin`](Deliveries::begin), and by `CompletionQueue::begin_delivery` if it is
///    for a stream: from here on no wait for it counts as a deadlock, and the pool is not idle;
/// 2. counted under the lock of `Shared`, or in a tally, which frees the slot;
/// 3. left where it is read: in a `CompletionQueue` or a `HandleState`;
/// 4. taken off here, by `Shared::end_deliveries`.
///
/// Between 2 and 4, the observer is told of it. An outcome that nothing will read, since there is no
/// interest in its job, is discarded before 1 and has no step 3. So an idle pool has reported the
/// failure or dropped the value, and has told the observer.
///
/// Invariant: if a job that is counted as ended is not delivered yet, its delivery is counted here.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    ran: AtomicUsize,
    not_run: AtomicUsize,
}

/// Whether the job of an outcome has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryKind {
    Ran,
    NotRun,
}

impl Deliveries {
    const fn of(&self, kind: DeliveryKind) -> &AtomicUsize {
        match kind {
            DeliveryKind::Ran => &self.ran,
            DeliveryKind::NotRun => &self.not_run,
        }
    }

    /// Counts one delivery. Called before its outcome is counted under the lock.
    #[inline]
    pub(crate) fn begin(&self, kind: DeliveryKind) {
        self.of(kind).fetch_add(1, Ordering::SeqCst);
    }

    fn are_none(&self, kind: DeliveryKind) -> bool {
        self.of(kind).load(Ordering::SeqCst) == 0
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
    /// Ends `count` deliveries; the last one wakes the idle waiters if their pool may be idle.
    #[inline]
    pub(crate) fn end_deliveries(&self, kind: DeliveryKind, count: usize) {
        let left = self.deliveries.of(kind).fetch_sub(count, Ordering::SeqCst) - count;
        // `wait_until` counts its future before it reads the deliveries.
        if left == 0 && self.idle_waiter_count.load(Ordering::SeqCst) > 0 {
            self.wake_idle_waiters_if(|admission| {
                admission.is_idle()
                    || (admission.pool_state() >= PoolState::Aborted && admission.is_queue_empty())
            });
        }
    }

    /// Wakes all idle waiters, to check their conditions again.
    pub(super) fn wake_idle_waiters(&self) {
        self.wake_idle_waiters_if(|_| true);
    }

    #[cold]
    fn wake_idle_waiters_if(&self, condition: impl Fn(&Admission) -> bool) {
        let mut synced = self.lock();
        if condition(&synced.admission) {
            let wakers = std::mem::take(&mut synced.idle_waiters.wakers);
            drop(synced);
            panic::wake(wakers.into_values());
        }
    }

    /// Waits until the pool is idle and all outcomes are delivered.
    pub(crate) async fn wait_idle(&self) {
        self.wait_until(
            |synced| synced.admission.is_idle() && self.are_delivered(),
            |_| {},
        )
        .await;
    }

    /// Waits until no job of an aborted pool is queued and all jobs that have not run are
    /// delivered.
    pub(crate) async fn wait_returned(&self) {
        let is_returned = |synced: &Synced<In, T, E>| {
            let is_empty = synced.admission.pool_state() < PoolState::Aborted
                || synced.admission.is_queue_empty();
            is_empty && self.is_all_returned()
        };
        self.wait_until(is_returned, |_| {}).await;
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
        self.lock().admission.is_idle() && self.are_delivered()
    }

    /// Whether no outcome of a job that has not run is being delivered.
    pub(super) fn is_all_returned(&self) -> bool {
        self.deliveries.are_none(DeliveryKind::NotRun)
    }

    pub(super) fn are_delivered(&self) -> bool {
        self.deliveries.are_none(DeliveryKind::Ran)
            && self.deliveries.are_none(DeliveryKind::NotRun)
    }

    /// Waits until `is_over`, which is checked under the lock, again after `prepare` has made sure
    /// that a change of the condition wakes the idle waiters.
    async fn wait_until(
        &self,
        is_over: impl Fn(&Synced<In, T, E>) -> bool,
        prepare: impl Fn(&mut Synced<In, T, E>),
    ) {
        let mut wait = IdleWait::new(self);
        poll_fn(|cx| {
            let mut synced = self.lock();
            if is_over(&synced) {
                return Poll::Ready(());
            }
            prepare(&mut synced);
            if is_over(&synced) {
                return Poll::Ready(());
            }
            let waiters = &mut synced.idle_waiters;
            let number = *wait.number.get_or_insert_with(|| {
                waiters.next += 1;
                waiters.next
            });
            let replaced = waiters.wakers.insert(number, cx.waker().clone());
            drop(synced);
            drop(replaced);
            Poll::Pending
        })
        .await;
    }
}

/// Counts a future in `idle_waiter_count`; dropping it removes the future.
struct IdleWait<'a, In, T, E> {
    shared: &'a Shared<In, T, E>,
    /// Key of its waker, once it has left one.
    number: Option<u64>,
}

impl<'a, In, T, E> IdleWait<'a, In, T, E> {
    fn new(shared: &'a Shared<In, T, E>) -> Self {
        shared.idle_waiter_count.fetch_add(1, Ordering::SeqCst);
        Self {
            shared,
            number: None,
        }
    }
}

impl<In, T, E> Drop for IdleWait<'_, In, T, E> {
    fn drop(&mut self) {
        self.shared.idle_waiter_count.fetch_sub(1, Ordering::SeqCst);
        let Some(number) = self.number else { return };
        let mut synced = self.shared.lock();
        let waker = synced.idle_waiters.wakers.remove(&number);
        // No future needs a threshold any more: one sets it and leaves its waker under one lock,
        // and sets it again each time it was woken.
        if synced.idle_waiters.wakers.is_empty() {
            synced.admission.clear_thresholds();
        }
        drop(synced);
        drop(waker);
    }
}
