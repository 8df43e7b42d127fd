//! Waits for idle.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use super::{Shared, Synced};
use crate::panic;
use crate::queue::admission::{Admission, PoolState};
use crate::sync::atomic::{AtomicUsize, Ordering};

/// How many outcomes are in the books, or about to be, and not with their handle, map or group yet.
/// The pool is not idle before they are, so that an idle pool has told all outcomes.
///
/// First [`begin`](Deliveries::begin), then the outcome is booked under the lock, then it is
/// delivered, then `Shared::end_deliveries`. A wait that finds the books closed under the lock
/// therefore finds the delivery counted until it is over.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    finished: AtomicUsize,
    unstarted: AtomicUsize,
}

/// Whether the job has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryKind {
    Finished,
    Unstarted,
}

impl Deliveries {
    const fn of(&self, kind: DeliveryKind) -> &AtomicUsize {
        match kind {
            DeliveryKind::Finished => &self.finished,
            DeliveryKind::Unstarted => &self.unstarted,
        }
    }

    #[inline]
    pub(crate) fn begin(&self, kind: DeliveryKind) {
        self.of(kind).fetch_add(1, Ordering::SeqCst);
    }

    fn are_none(&self, kind: DeliveryKind) -> bool {
        self.of(kind).load(Ordering::SeqCst) == 0
    }
}

/// Futures that wait for the pool to be idle, or to have fewer jobs.
#[derive(Debug, Default)]
pub(super) struct Watching {
    /// Bounded by the number of these futures.
    wakers: BTreeMap<u64, Waker>,
    next: u64,
}

impl<In, T, E> Shared<In, T, E> {
    #[inline]
    pub(crate) fn end_deliveries(&self, kind: DeliveryKind, count: usize) {
        let left = self.deliveries.of(kind).fetch_sub(count, Ordering::SeqCst) - count;
        // A future counts itself before it looks whether there are deliveries.
        if left == 0 && self.watchers.load(Ordering::SeqCst) > 0 {
            self.wake_watchers_if(|admission| {
                admission.is_idle()
                    || (admission.pool_state() >= PoolState::Aborted && admission.is_queue_empty())
            });
        }
    }

    pub(super) fn wake_watchers(&self) {
        self.wake_watchers_if(|_| true);
    }

    #[cold]
    fn wake_watchers_if(&self, is_so: impl Fn(&Admission) -> bool) {
        let mut state = self.lock();
        if is_so(&state.admission) {
            let wakers = std::mem::take(&mut state.watching.wakers);
            drop(state);
            panic::wake(wakers.into_values());
        }
    }

    /// Waits until the pool is idle.
    pub(crate) async fn wait_idle(&self) {
        self.watch(
            |state| state.admission.is_idle() && self.are_delivered(),
            |_| {},
        )
        .await;
    }

    /// Waits until no job of an aborted pool is queued.
    pub(crate) async fn wait_returned(&self) {
        let is_returned = |state: &Synced<In, T, E>| {
            let is_empty = state.admission.pool_state() < PoolState::Aborted
                || state.admission.is_queue_empty();
            is_empty && self.deliveries.are_none(DeliveryKind::Unstarted)
        };
        self.watch(is_returned, |_| {}).await;
    }

    /// Waits until `is_so`; `mark` sets the threshold at which the wait is woken.
    pub(crate) async fn wait_below(
        &self,
        is_so: impl Fn(&Admission) -> bool,
        mark: impl Fn(&mut Admission),
    ) {
        let is_over = |state: &Synced<In, T, E>| is_so(&state.admission);
        let mark = |state: &mut Synced<In, T, E>| {
            mark(&mut state.admission);
            state.revoke_all();
        };
        self.watch(is_over, mark).await;
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.lock().admission.is_idle() && self.are_delivered()
    }

    pub(super) fn are_delivered(&self) -> bool {
        self.deliveries.are_none(DeliveryKind::Finished)
            && self.deliveries.are_none(DeliveryKind::Unstarted)
    }

    /// Waits until `is_over`, which is looked at under the lock. `prepare` sees to it that the wait
    /// is woken.
    async fn watch(
        &self,
        is_over: impl Fn(&Synced<In, T, E>) -> bool,
        prepare: impl Fn(&mut Synced<In, T, E>),
    ) {
        let mut watch = Watch::new(self);
        poll_fn(|cx| {
            let mut state = self.lock();
            if is_over(&state) {
                return Poll::Ready(());
            }
            prepare(&mut state);
            if is_over(&state) {
                return Poll::Ready(());
            }
            let watching = &mut state.watching;
            let number = *watch.number.get_or_insert_with(|| {
                watching.next += 1;
                watching.next
            });
            let replaced = watching.wakers.insert(number, cx.waker().clone());
            drop(state);
            drop(replaced);
            Poll::Pending
        })
        .await;
    }
}

/// Counts a future among those that watch the pool, until it is dropped.
struct Watch<'a, In, T, E> {
    shared: &'a Shared<In, T, E>,
    number: Option<u64>,
}

impl<'a, In, T, E> Watch<'a, In, T, E> {
    fn new(shared: &'a Shared<In, T, E>) -> Self {
        shared.watchers.fetch_add(1, Ordering::SeqCst);
        Self {
            shared,
            number: None,
        }
    }
}

impl<In, T, E> Drop for Watch<'_, In, T, E> {
    fn drop(&mut self) {
        self.shared.watchers.fetch_sub(1, Ordering::SeqCst);
        let Some(number) = self.number else { return };
        let mut state = self.shared.lock();
        let waker = state.watching.wakers.remove(&number);
        // A future sets its mark and leaves its waker under one lock. One that was woken sets its
        // mark again.
        if state.watching.wakers.is_empty() {
            state.admission.clear_thresholds();
        }
        drop(state);
        drop(waker);
    }
}
