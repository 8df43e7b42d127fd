//! Deadlock detection: a job that waits for its own pool holds a slot, which another job may need
//! to end that wait.
//!
//! 1. A future that is about to wait calls `register_wait`, which records what it waits for, and
//!    its waker, if it is polled inside a job of the pool.
//! 2. `is_blocked` checks under the lock whether every running job waits and no queued one can
//!    start.
//! 3. If so, `is_deadlocked` checks without the lock whether one of these waits is over already.
//! 4. If none is, the wait that was registered last ends with an error instead of being pending.
//!
//! `notify_blocked` wakes all waits, the last one first; polled again, each goes through the same
//! steps. That happens where the pool may be deadlocked though no wait is registered:
//!
//! - starts have become impossible: a worker has left, or a queued job is cancelled (`dispatch`);
//! - a delivery ends after its completion was read (`end_stream_deliveries`): until then, the
//!   consumer's next wait was taken for one that it ends;
//! - a job has ended one of several waits and goes on waiting for the others (`WaitGuard::drop`):
//!   until then, that one was over. It is checked when the poll of the job ends (`poll_ended`), since
//!   the job may end the others too before.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::cancel_flag::CancelFlag;
use super::{Shared, Synced};
use crate::job::completion_queue::CompletionQueue;
use crate::job::current::{self, CurrentJob};
use crate::job::handle_state::HandleState;
use crate::queue::admission::{WaiterId, Wakes};

impl<In, T, E> Shared<In, T, E> {
    /// Registers a wait for this pool and returns whether it may be pending: always outside the
    /// pool's jobs; inside, unless it completes a deadlock. `guard` holds the registration between
    /// polls.
    pub(crate) fn register_wait(
        self: &Arc<Self>,
        guard: &mut Option<WaitGuard<In, T, E>>,
        cx: &Context<'_>,
        what: impl FnOnce() -> Awaited<In, T, E>,
    ) -> bool {
        let Some(job) = current::current_in(self.identity()) else {
            *guard = None;
            return true;
        };
        let is_known = guard
            .as_ref()
            .is_some_and(|guard| guard.job == job && self.update_wait(guard.number, cx));
        if !is_known {
            *guard = None;
            let waiting = Waiting {
                what: what(),
                waker: cx.waker().clone(),
            };
            let number = self.lock().running.begin_wait(job.slot, job.id, waiting);
            *guard = Some(WaitGuard {
                shared: Arc::clone(self),
                job,
                number,
            });
        }
        let is_deadlocked = self.is_deadlocked();
        if is_deadlocked {
            *guard = None;
        }
        !is_deadlocked
    }

    /// Gives a registered wait the waker of the future that waits, which may be another than that
    /// of its job. Returns whether the wait is registered.
    fn update_wait(&self, number: u64, cx: &Context<'_>) -> bool {
        let mut waker = cx.waker().clone();
        let mut synced = self.lock();
        let Some(waiting) = synced.running.wait_mut(number) else {
            return false;
        };
        std::mem::swap(&mut waiting.waker, &mut waker);
        drop(synced);
        true
    }

    /// Called when a poll of the slot's job ends pending.
    #[inline(always)]
    pub(crate) fn poll_ended(&self, cancel_flag: &CancelFlag) {
        if cancel_flag.take_ended_wait() {
            self.check_blocked();
        }
    }

    /// Has all waits checked again if the pool is blocked. Called with no lock held.
    #[cold]
    pub(super) fn check_blocked(&self) {
        let mut wakes = Wakes::default();
        self.lock().notify_blocked(&mut wakes);
        self.run_wakes(wakes);
    }

    /// Whether all running jobs wait for the pool, none of these waits is over, and no other job
    /// can start.
    ///
    /// The waits are checked without the lock, and once more if others are registered afterwards: a
    /// job whose wait was over may have gone on meanwhile.
    fn is_deadlocked(&self) -> bool {
        let Some(mut waits) = self.waits_if_blocked() else {
            return false;
        };
        // Ends: other waits are registered only by jobs that go on.
        loop {
            // An interrupted job is about to leave its slot.
            let is_any_over = waits.iter().any(|(_, slot, what)| {
                what.is_over(self) || self.cancel_flags[*slot].interrupted().is_some()
            });
            if is_any_over {
                return false;
            }
            let Some(now) = self.waits_if_blocked() else {
                return false;
            };
            if waits
                .iter()
                .map(|(wait_id, ..)| wait_id)
                .eq(now.iter().map(|(wait_id, ..)| wait_id))
            {
                return true;
            }
            waits = now;
        }
    }

    /// The id, slot and target of each wait; `None` unless the pool is blocked.
    fn waits_if_blocked(&self) -> Option<Vec<(u64, usize, Awaited<In, T, E>)>> {
        let synced = self.lock();
        synced.is_blocked().then(|| {
            let waiting = synced.running.waiting();
            waiting
                .map(|(wait_id, slot, waiting)| (wait_id, slot, waiting.what.clone()))
                .collect()
        })
    }
}

impl<In, T, E> Synced<In, T, E> {
    /// Whether all running jobs wait for the pool and no other job can start, because every slot is
    /// held or because of limits per key.
    pub(super) fn is_blocked(&self) -> bool {
        let (slots, blocked) = (self.admission.slots(), self.running.blocked());
        if blocked == 0 {
            return false;
        }
        match &self.scheduler {
            None => self.running.is_blocked(slots),
            Some(scheduler) => {
                let schedule = &scheduler.schedule;
                blocked >= self.admission.running()
                    && (blocked >= slots.min(schedule.allowed())
                        || schedule.waits_for_running(self.admission.queued_total()))
            }
        }
    }

    /// Wakes all waits if the pool is blocked, the last one first: it is the one to fail.
    pub(super) fn notify_blocked(&self, wakes: &mut Wakes) {
        if self.is_blocked() {
            let last_first = self.running.waiting().rev();
            wakes
                .wakers
                .extend(last_first.map(|(.., waiting)| waiting.waker.clone()));
        }
    }

    /// Whether the wait for a permit is over, or ends with the use of a permit: its job can start,
    /// which makes room.
    fn has_permit_for(&self, waiter_id: WaiterId) -> bool {
        let allowed = self
            .scheduler
            .as_ref()
            .map_or(usize::MAX, |scheduler| scheduler.schedule.allowed());
        let has_free_slot = self.admission.running() < self.admission.slots().min(allowed);
        !self.admission.is_waiting(waiter_id) || has_free_slot && self.admission.has_reserved()
    }
}

/// A wait of a job for its own pool.
pub(crate) struct Waiting<In, T, E> {
    what: Awaited<In, T, E>,
    /// Woken by `notify_blocked`.
    waker: Waker,
}

/// What a job waits for inside its own pool.
pub(crate) enum Awaited<In, T, E> {
    /// The outcome of a job.
    Handle(Arc<HandleState<In, T, E>>),
    /// A completion of a map or group.
    Stream(Arc<CompletionQueue<In, T, E>>),
    /// A permit, with the id of the waiter in the wait queue.
    AcquirePermit(WaiterId),
}

impl<In, T, E> Awaited<In, T, E> {
    /// Whether the wait is over or about to be, though the job may not have been polled since.
    fn is_over(&self, shared: &Shared<In, T, E>) -> bool {
        match self {
            Self::Handle(job) => shared.is_decided(job),
            Self::Stream(stream) => stream.will_deliver(),
            Self::AcquirePermit(waiter_id) => shared.lock().has_permit_for(*waiter_id),
        }
    }
}

impl<In, T, E> Clone for Awaited<In, T, E> {
    fn clone(&self) -> Self {
        match self {
            Self::Handle(job) => Self::Handle(Arc::clone(job)),
            Self::Stream(stream) => Self::Stream(Arc::clone(stream)),
            Self::AcquirePermit(waiter) => Self::AcquirePermit(*waiter),
        }
    }
}

/// Registration of a wait; dropping it ends the wait.
pub(crate) struct WaitGuard<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    /// The job that waits.
    job: CurrentJob,
    /// Number of the wait in `Running`.
    number: u64,
}

impl<In, T, E> Drop for WaitGuard<In, T, E> {
    fn drop(&mut self) {
        let CurrentJob { slot, id, .. } = self.job;
        let (what, is_waiting) = {
            let running = &mut self.shared.lock().running;
            (running.end_wait(self.number), running.is_waiting(slot, id))
        };
        drop(what);
        if !is_waiting {
            return;
        }
        if current::current_in(self.shared.identity()) == Some(self.job) {
            self.shared.cancel_flags[slot].record_ended_wait();
        } else {
            self.shared.check_blocked();
        }
    }
}
