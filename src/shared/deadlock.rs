//! Deadlock detection: a job that waits for its own pool holds a slot, which another job may need
//! to end that wait.
//!
//! 1. A future that is about to wait calls `register_wait`, which records what it waits for, and
//!    its waker, if it is polled inside a job of the pool.
//! 2. `if_deadlocked` checks under the lock whether every running job waits and no queued one can
//!    start (`is_blocked`).
//! 3. If so, it checks without the lock whether one of these waits is over already.
//! 4. If none is, and the waits are still the same ones, the wait of step 1 ends with an error
//!    instead of being pending.
//!
//! The pool may become deadlocked though no wait is registered. Then waits are woken, the last one
//! first; polled again, each goes through the same steps. That is so where
//!
//! - starts have become impossible, since a worker has left or a queued job is cancelled
//!   (`notify_blocked`);
//! - a delivery ends after its completion was read (`end_stream_deliveries`): until then, the
//!   consumer's next wait was taken for one that it ends;
//! - a job has ended one of several waits, which counted as over until then. The others are checked
//!   when the poll of the job ends (`poll_ended`), since the job may end them in the same poll;
//! - a wait is dropped outside a poll of its job (`WaitGuard::drop`): the job is woken, and
//!   `poll_ended` follows.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::cancel_flag::CancelFlag;
use super::{Shared, Synced};
use crate::job::completion_queue::CompletionQueue;
use crate::job::current::{self, CurrentJob};
use crate::job::handle_state::HandleState;
use crate::panic;
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
        let known = guard.as_ref().map(|guard| (guard.job, guard.wait_id));
        let wait_id = match known {
            Some((known, wait_id)) if known == job && self.update_wait(wait_id, cx) => wait_id,
            _ => {
                *guard = None;
                let waiting = Waiting {
                    what: what(),
                    waker: cx.waker().clone(),
                };
                let wait_id = self.lock().running.begin_wait(job.slot, job.id, waiting);
                *guard = Some(WaitGuard {
                    shared: Arc::clone(self),
                    job,
                    wait_id,
                });
                wait_id
            }
        };
        let refused =
            self.if_deadlocked(Some(job.slot), |synced| self.end_wait(synced, job, wait_id));
        if refused.is_some() {
            *guard = None;
        }
        refused.is_none()
    }

    /// Ends a wait. If the job has others, they are checked again once its poll has ended; until then,
    /// the job may end them too.
    fn end_wait(
        &self,
        synced: &mut Synced<In, T, E>,
        job: CurrentJob,
        wait_id: u64,
    ) -> Option<Waiting<In, T, E>> {
        let ended = synced.running.end_wait(wait_id);
        if synced.running.is_waiting(job.slot, job.id)
            && current::current_in(self.identity()) == Some(job)
        {
            self.cancel_flags[job.slot].record_ended_wait();
        }
        ended
    }

    /// Gives a registered wait the waker of the future that waits, which may be another than that
    /// of its job. Returns whether the wait is registered.
    fn update_wait(&self, wait_id: u64, cx: &Context<'_>) -> bool {
        let mut waker = cx.waker().clone();
        let mut synced = self.lock();
        let Some(waiting) = synced.running.wait_mut(wait_id) else {
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
            self.check_waits();
        }
    }

    /// Has all waits checked again if the pool is deadlocked. Called with no lock held.
    #[cold]
    pub(super) fn check_waits(&self) {
        let wakers =
            self.if_deadlocked(None, |synced| synced.wakers_of_waits().collect::<Vec<_>>());
        panic::wake(wakers.unwrap_or_default());
    }

    /// Calls `act`, under the lock, if all running jobs wait for the pool, none of these waits is
    /// over, and no other job can start. `polled` is the slot of the job whose wait is being polled.
    ///
    /// Whether they are over is checked without the lock. If other waits are registered afterwards,
    /// these are checked too: a job whose wait was over may have gone on meanwhile.
    fn if_deadlocked<R>(
        &self,
        polled: Option<usize>,
        act: impl FnOnce(&mut Synced<In, T, E>) -> R,
    ) -> Option<R> {
        // Ends: other waits are registered only by jobs that go on.
        loop {
            let waits = self.waits_if_blocked()?;
            // An interrupted job is about to leave its slot; one that has ended a wait may end
            // others in the same poll, and checks them at its end.
            let is_any_over = waits.iter().any(|(_, slot, what)| {
                let cancel_flag = &self.cancel_flags[*slot];
                what.is_over(self)
                    || cancel_flag.interrupted().is_some()
                    || (polled != Some(*slot) && cancel_flag.has_ended_wait())
            });
            if is_any_over {
                return None;
            }
            let mut synced = self.lock();
            if !synced.is_blocked() {
                return None;
            }
            let (now, before) = (synced.running.waiting(), waits.iter());
            if now
                .map(|(wait_id, ..)| wait_id)
                .eq(before.map(|(wait_id, ..)| *wait_id))
            {
                return Some(act(&mut synced));
            }
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
        let blocked = self.running.blocked();
        if blocked == 0 {
            return false;
        }
        match &self.scheduler {
            None => blocked >= self.usable_slots(),
            Some(scheduler) => {
                blocked >= self.admission.running()
                    && (blocked >= self.usable_slots()
                        || (scheduler.schedule).waits_for_running(self.admission.queued_total()))
            }
        }
    }

    /// How many slots may run jobs.
    fn usable_slots(&self) -> usize {
        let slots = self.admission.slots();
        let scheduler = self.scheduler.as_ref();
        scheduler.map_or(slots, |scheduler| scheduler.schedule.usable(slots))
    }

    /// Wakes all waits if the pool is blocked.
    pub(super) fn notify_blocked(&self, wakes: &mut Wakes) {
        if self.is_blocked() {
            wakes.wakers.extend(self.wakers_of_waits());
        }
    }

    /// The wakers of all waits, the last one first: it is the one to fail, where the executor polls
    /// in this order.
    fn wakers_of_waits(&self) -> impl Iterator<Item = Waker> {
        let last_first = self.running.waiting().rev();
        last_first.map(|(.., waiting)| waiting.waker.clone())
    }

    /// Whether the wait for a permit is over, or ends with the use of a permit: its job can start,
    /// which makes room.
    fn has_permit_for(&self, waiter_id: WaiterId) -> bool {
        let has_free_slot = self.admission.running() < self.usable_slots();
        !self.admission.is_waiting(waiter_id) || has_free_slot && self.admission.has_reserved()
    }
}

/// A wait of a job for its own pool.
pub(crate) struct Waiting<In, T, E> {
    what: Awaited<In, T, E>,
    /// Woken so that the wait is checked again.
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
            Self::Handle(job) => shared.will_complete(job),
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
    /// Identifies the wait in `Running`.
    wait_id: u64,
}

impl<In, T, E> Drop for WaitGuard<In, T, E> {
    fn drop(&mut self) {
        let Self {
            shared,
            job,
            wait_id,
        } = self;
        let (what, is_blocked) = {
            let mut synced = shared.lock();
            let what = shared.end_wait(&mut synced, *job, *wait_id);
            (what, synced.is_blocked())
        };
        drop(what);
        if is_blocked
            && current::current_in(shared.identity()) != Some(*job)
            && shared.if_deadlocked(None, |_| ()).is_some()
        {
            // Outside a poll of the job: there has to be one, which ends.
            let cancel_flag = &shared.cancel_flags[job.slot];
            cancel_flag.record_ended_wait();
            panic::wake(cancel_flag.waker());
        }
    }
}
