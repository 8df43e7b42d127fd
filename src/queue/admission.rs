//! Admission control of a pool: counts jobs, grants permits up to the capacity, and queues the
//! waiters for permits. Its methods record events ("a job starts") and return what has to be done
//! about them ([`Wakes`]).
//!
//! Pure: no lock, no async, no clock. The shared state keeps it under its one lock and runs the
//! [`Wakes`] after unlocking.
//!
//! Invariant: `accepted == outcomes + queued + running`, where jobs that the schedule holds back
//! count as queued.
//!
//! # Waiting for a permit
//!
//! `submit` and `reserve` wait in a FIFO queue:
//!
//! 1. [`poll_reserve`](Admission::poll_reserve) takes a free permit or registers a waiter, under
//!    one hold of the lock.
//! 2. When a permit becomes free (a job starts, a queued job is cancelled, a permit is released, a
//!    map gives back what it did not use), [`grant`](Admission::grant) gives it to the first
//!    waiter, under that lock. It counts as reserved from then on. The waker is called after
//!    unlocking.
//! 3. The waiter's next `poll_reserve` returns the permit. If the waiter is dropped instead,
//!    [`cancel_wait`](Admission::cancel_wait) passes the permit on.
//!
//! Invariant: while a future waits, `accept` and `reserve` find no available permit, so newcomers
//! do not overtake. Closing the pool removes and wakes all waiters, which fail with `Closed`. A
//! group's submission checks whether the group is cancelled after it has registered; cancelling a
//! group (1) sets its flag, (2) wakes the group's waiters ([`wakers_of`](Admission::wakers_of)).
//!
//! # Maps
//!
//! A map may be the source of another map of the same pool, which polls it only when it wants an
//! input itself. So a map holds no permit while it waits and needs none to poll its source:
//!
//! 1. [`begin_pull`](Admission::begin_pull) allows it to pull one input without a permit, unless it
//!    has a job beyond the capacity in the queue, its *extra job*, and no permit is free.
//! 2. With that input pulled, [`acquire_pulled`](Admission::acquire_pulled) acquires permits for it
//!    and for more inputs. The map uses them within the same poll; [`commit`](Admission::commit)
//!    accepts the jobs and frees the other permits.
//! 3. If there is no permit, [`accept_extra`](Admission::accept_extra) queues that one input beyond
//!    the capacity.
//!
//! So each map can have one job in the pool however full the queue is, and at most one beyond
//! the capacity. Pulled inputs are accepted even if the pool is closed meanwhile, since they cannot
//! go back into their source. That takes no longer than the poll, so a pool does not end before it.
//!
//! A map that waits registers with [`wait_as_map`](Admission::wait_as_map). One with an extra job and
//! no permit is notified when that job leaves the queue, or when permits for half of the capacity are
//! free (one permit, with a schedule or while nothing is queued; as many maps as there are permits,
//! round-robin). One with a pending source is woken by the source. Closing the pool notifies both.

#[cfg(feature = "testing")]
mod audit;
mod maps;

use std::collections::{BTreeMap, BTreeSet};
use std::task::{Context, Poll, Waker};

use super::StreamId;
use crate::event::{JobId, Outcome, Stats};

/// Identifies a future in the wait queue. Ids ascend in the order of arrival.
pub(crate) type WaiterId = u64;

/// Where a job comes from. Each origin has a limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From outside the pool: limited by the capacity; may wait for a permit.
    Outside,
    /// From a map that got no permit: its only job in the queue beyond the capacity.
    Extra,
    /// From a running job of the pool: limited by the child capacity; never waits.
    Child,
    /// A job that waits for another attempt. It has been accepted already.
    Retry,
}

/// Why a job is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
    Closed,
    /// Too many futures wait for a permit already.
    Overloaded,
}

/// The state of a pool. It only moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PoolState {
    /// Accepts jobs.
    Open,
    /// Accepts jobs from running jobs only.
    Closed,
    /// Accepts no jobs.
    Sealed,
    /// Accepts no jobs and starts none.
    Aborted,
    /// No job is left, or no worker.
    Ended,
}

/// What has to be done once the lock is released.
#[must_use = "the tasks to wake wait forever otherwise"]
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    /// Wakers of futures and maps that wait for permits, which are granted or refused for good; and
    /// of jobs that wait for their own pool, and may be deadlocked now.
    pub(crate) wakers: Vec<Waker>,
    /// Whether any of them is a map's.
    pub(crate) notified_maps: bool,
    /// The worker that drives the timer, which has to set its alarm again.
    pub(crate) timer_driver: Option<Waker>,
    /// Whether no worker drives the timer, and one has to.
    pub(crate) offers_timer_role: bool,
    /// A waker that is not needed any more. Dropping it may run any code, so it is dropped after
    /// unlocking.
    pub(crate) unneeded: Option<Waker>,
    /// Whether the pool may be idle, once pending outcomes are delivered.
    pub(crate) idle: bool,
    /// Whether the queued or running jobs are fewer than a threshold.
    pub(crate) below: bool,
    /// Whether to close the injector, so that the workers leave.
    pub(crate) end: bool,
}

impl Wakes {
    /// Whether there is nothing to do.
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.wakers.is_empty()
            && self.timer_driver.is_none()
            && self.unneeded.is_none()
            && !(self.offers_timer_role || self.idle || self.below || self.end)
    }
}

/// A future that waits for a permit.
#[derive(Debug)]
struct Waiter {
    waker: Waker,
    /// The group that it submits to.
    group: Option<StreamId>,
}

/// A map that waits until it can pull more inputs.
#[derive(Debug)]
struct WaitingMap {
    /// `None` once it is notified.
    waker: Option<Waker>,
    /// Whether it waits for a permit; otherwise it waits for its source, and is notified only when
    /// the pool closes.
    wants_room: bool,
}

#[derive(Debug)]
pub(crate) struct Admission {
    pool_state: PoolState,
    capacity: usize,
    child_capacity: usize,
    workers: usize,
    /// The number of slots of each worker.
    slots_per_worker: usize,
    accepted: u64,
    outcomes: [u64; Outcome::ALL.len()],
    /// How many of these outcomes are of jobs that were queued at their end.
    ended_queued: u64,
    /// From outside; together with `reserved` and `acquired` at most `capacity`.
    queued: usize,
    /// From running jobs; at most `child_capacity`.
    queued_children: usize,
    /// Permits that are reserved, and those granted to a waiter that has not been polled since.
    reserved: usize,
    /// Permits that maps have acquired and not committed: they hold them while they pull inputs.
    /// They do so within one poll, so a drain may wait for it.
    acquired: usize,
    /// The number of maps that pull an input for which they hold no permit. They do so within one
    /// poll as well.
    pulling: usize,
    /// The maps with a job in the queue beyond the capacity; at most one job for each map.
    extras: BTreeSet<StreamId>,
    running: usize,
    /// Jobs that wait for another attempt.
    retrying: usize,
    /// Waits are notified when fewer jobs are queued; 0: there are none.
    queued_threshold: usize,
    /// Waits are notified when fewer jobs are running; 0: there are none.
    running_threshold: usize,
    /// Whether a job that leaves the queue may notify a wait: for a permit or for a shorter queue.
    is_watched: bool,
    /// How many futures may wait for a permit at once.
    max_waiting: usize,
    /// The wait queue, in the order of arrival. Bounded by the number of futures that wait for a
    /// permit.
    waiters: BTreeMap<WaiterId, Waiter>,
    /// Waiters that have a permit and have not been polled since. Bounded by `reserved`.
    granted: BTreeSet<WaiterId>,
    /// Maps that wait for a permit or for their source. They hold no permit while they wait.
    /// Bounded by the number of maps.
    waiting_maps: BTreeMap<StreamId, WaitingMap>,
    /// How many of them wait for a permit, notified or not.
    wanting_room: usize,
    /// How many of these are not notified.
    unnotified: usize,
    /// The map that was notified last; the next round begins after it.
    last_notified: Option<StreamId>,
    /// Whether maps are notified of any free permit, not only when many are free: a schedule may
    /// hold queued jobs back for long.
    notifies_of_any_room: bool,
    last_waiter_id: WaiterId,
}

impl Admission {
    pub(crate) const fn new(
        capacity: usize,
        child_capacity: usize,
        workers: usize,
        slots_per_worker: usize,
    ) -> Self {
        Self {
            pool_state: PoolState::Open,
            capacity,
            child_capacity,
            workers,
            slots_per_worker,
            accepted: 0,
            outcomes: [0; Outcome::ALL.len()],
            ended_queued: 0,
            queued: 0,
            queued_children: 0,
            reserved: 0,
            acquired: 0,
            pulling: 0,
            extras: BTreeSet::new(),
            running: 0,
            retrying: 0,
            queued_threshold: 0,
            running_threshold: 0,
            is_watched: false,
            max_waiting: usize::MAX,
            waiters: BTreeMap::new(),
            granted: BTreeSet::new(),
            waiting_maps: BTreeMap::new(),
            wanting_room: 0,
            unnotified: 0,
            last_notified: None,
            notifies_of_any_room: false,
            last_waiter_id: 0,
        }
    }

    pub(crate) const fn pool_state(&self) -> PoolState {
        self.pool_state
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) const fn child_capacity(&self) -> usize {
        self.child_capacity
    }

    pub(crate) const fn workers(&self) -> usize {
        self.workers
    }

    /// The number of slots of all current workers.
    pub(crate) const fn slots(&self) -> usize {
        self.workers * self.slots_per_worker
    }

    /// Whether no job is queued, running, or about to be accepted.
    pub(crate) fn is_idle(&self) -> bool {
        self.running == 0 && self.is_queue_empty()
    }

    /// Whether no job is queued or about to be. A pull is no work yet, but a closed pool does not
    /// end while there is one.
    pub(crate) fn is_queue_empty(&self) -> bool {
        self.queued_total() == 0
            && self.acquired == 0
            && (self.pulling == 0 || self.pool_state == PoolState::Open)
    }

    /// Jobs that are not running and have no outcome.
    pub(crate) fn queued_total(&self) -> usize {
        self.queued + self.extras.len() + self.queued_children + self.retrying
    }

    /// Whether no job will run any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.pool_state == PoolState::Ended
    }

    pub(crate) const fn running(&self) -> usize {
        self.running
    }

    /// The number of outcomes of jobs that were running at their end.
    pub(crate) fn finished(&self) -> u64 {
        self.outcomes.iter().sum::<u64>() - self.ended_queued
    }

    /// Jobs that wait for another attempt.
    pub(crate) const fn retrying(&self) -> usize {
        self.retrying
    }

    /// Sets how many futures may wait for a permit at once.
    pub(crate) const fn set_max_waiting(&mut self, max: usize) {
        self.max_waiting = max;
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            workers: self.workers,
            queued: self.queued_total(),
            delayed: 0,
            running: self.running,
            accepted: self.accepted,
            succeeded: self.outcomes[Outcome::Succeeded as usize],
            failed: self.outcomes[Outcome::Failed as usize],
            timed_out: self.outcomes[Outcome::TimedOut as usize],
            panicked: self.outcomes[Outcome::Panicked as usize],
            cancelled: self.outcomes[Outcome::Cancelled as usize],
            abandoned: self.outcomes[Outcome::Abandoned as usize],
            rejected: self.outcomes[Outcome::Rejected as usize],
            retries: 0,
            retries_refused: 0,
        }
    }

    // ---- admission ----

    const fn free_permits(&self) -> usize {
        self.capacity
            .saturating_sub(self.queued + self.reserved + self.acquired)
    }

    /// Free permits that no waiter is queued for: a newcomer never overtakes a waiter.
    fn available_permits(&self) -> usize {
        if self.waiters.is_empty() {
            self.free_permits()
        } else {
            0
        }
    }

    /// Accepts one job now, or fails.
    pub(crate) fn accept(&mut self, origin: Origin) -> Result<JobId, Refusal> {
        match origin {
            Origin::Outside if self.pool_state != PoolState::Open => Err(Refusal::Closed),
            Origin::Child if self.pool_state > PoolState::Closed => Err(Refusal::Closed),
            Origin::Outside if self.available_permits() == 0 => Err(Refusal::Full),
            Origin::Child if self.queued_children >= self.child_capacity => Err(Refusal::Full),
            Origin::Outside => {
                self.queued += 1;
                Ok(self.next_id())
            }
            Origin::Child => {
                self.queued_children += 1;
                Ok(self.next_id())
            }
            // Never passed here: `accept_extra` accepts the first, and a retry was accepted before.
            Origin::Extra | Origin::Retry => Err(Refusal::Closed),
        }
    }

    /// Takes a permit for one job without accepting it.
    pub(crate) fn reserve(&mut self) -> Result<(), Refusal> {
        if self.pool_state != PoolState::Open {
            return Err(Refusal::Closed);
        }
        if self.available_permits() == 0 {
            return Err(Refusal::Full);
        }
        self.reserved += 1;
        Ok(())
    }

    /// Takes a permit, or waits for one in the wait queue. `waiter_id` is set while it waits.
    /// `group` is the one that the job is for.
    pub(crate) fn poll_reserve(
        &mut self,
        waiter_id: &mut Option<WaiterId>,
        group: Option<StreamId>,
        cx: &Context<'_>,
    ) -> (Poll<Result<(), Refusal>>, Wakes) {
        let mut wakes = Wakes::default();
        let id = match *waiter_id {
            Some(id) if self.granted.remove(&id) => {
                *waiter_id = None;
                return (Poll::Ready(Ok(())), wakes);
            }
            Some(id) if self.pool_state == PoolState::Open => id,
            Some(_) => {
                // Closing the pool has removed the waiter.
                *waiter_id = None;
                return (Poll::Ready(Err(Refusal::Closed)), wakes);
            }
            None => match self.reserve() {
                Err(Refusal::Full) if self.waiters.len() >= self.max_waiting => {
                    return (Poll::Ready(Err(Refusal::Overloaded)), wakes);
                }
                Err(Refusal::Full) => *waiter_id.insert(self.next_waiter_id()),
                decided => return (Poll::Ready(decided), wakes),
            },
        };
        let waiter = Waiter {
            waker: cx.waker().clone(),
            group,
        };
        wakes.unneeded = self.waiters.insert(id, waiter).map(|old| old.waker);
        self.is_watched = true;
        (Poll::Pending, wakes)
    }

    const fn next_waiter_id(&mut self) -> WaiterId {
        self.last_waiter_id += 1;
        self.last_waiter_id
    }

    /// The wakers of the waiters that submit to this group.
    pub(crate) fn wakers_of(&self, group: StreamId) -> Vec<Waker> {
        let of_group = self
            .waiters
            .values()
            .filter(|waiter| waiter.group == Some(group));
        of_group.map(|waiter| waiter.waker.clone()).collect()
    }

    /// Whether this waiter is queued, without a permit.
    pub(crate) fn is_waiting(&self, waiter_id: WaiterId) -> bool {
        self.waiters.contains_key(&waiter_id)
    }

    /// Whether a permit is reserved, or granted to a waiter that has not been polled since.
    pub(crate) const fn has_reserved(&self) -> bool {
        self.reserved > 0
    }

    /// Removes the waiter. A permit granted to it goes to the next one.
    pub(crate) fn cancel_wait(&mut self, waiter_id: WaiterId) -> Wakes {
        let unneeded = self.waiters.remove(&waiter_id).map(|waiter| waiter.waker);
        let wakes = if self.granted.remove(&waiter_id) {
            self.release()
        } else {
            Wakes::default()
        };
        Wakes { unneeded, ..wakes }
    }

    /// Frees a reserved permit.
    pub(crate) fn release(&mut self) -> Wakes {
        self.reserved -= 1;
        let mut wakes = Wakes::default();
        self.grant(&mut wakes);
        wakes
    }

    /// Turns a reserved permit into a queued job. Once the pool is closed, frees the permit
    /// instead.
    pub(crate) fn accept_reserved(&mut self) -> (Result<JobId, Refusal>, Wakes) {
        if self.pool_state != PoolState::Open {
            return (Err(Refusal::Closed), self.release());
        }
        self.reserved -= 1;
        self.queued += 1;
        (Ok(self.next_id()), Wakes::default())
    }

    /// Accepts `used` jobs with the `acquired` permits and frees the other permits. The ids of the
    /// jobs are consecutive, from the one returned.
    pub(crate) fn commit(&mut self, acquired: usize, used: usize) -> (JobId, Wakes) {
        self.acquired -= acquired;
        self.queued += used;
        let first = JobId(self.accepted);
        self.accepted += used as u64;
        let mut wakes = Wakes::default();
        self.grant(&mut wakes);
        self.check_idle(&mut wakes);
        (first, wakes)
    }

    const fn next_id(&mut self) -> JobId {
        let id = JobId(self.accepted);
        self.accepted += 1;
        id
    }

    // ---- grants ----

    /// Grants free permits to waiters, notifies maps of those that are left, and notifies waits for a
    /// shorter queue.
    #[inline]
    pub(crate) fn grant(&mut self, wakes: &mut Wakes) {
        if self.is_watched {
            self.grant_permits(wakes);
            self.check_queued_below(wakes);
            // A flag that is set too long costs time only.
            self.is_watched = !self.waiters.is_empty() || self.queued_threshold > 0;
        }
        if self.unnotified > 0 && self.may_notify_maps() {
            self.notify_maps(wakes);
        }
    }

    #[cold]
    fn grant_permits(&mut self, wakes: &mut Wakes) {
        while self.pool_state == PoolState::Open && self.free_permits() > 0 {
            let Some((id, waiter)) = self.waiters.pop_first() else {
                break;
            };
            self.reserved += 1;
            self.granted.insert(id);
            wakes.wakers.push(waiter.waker);
        }
    }

    #[cold]
    fn check_queued_below(&mut self, wakes: &mut Wakes) {
        if self.queued_total() < self.queued_threshold {
            self.queued_threshold = 0;
            wakes.below = true;
        }
    }

    /// Notifies a wait once fewer than `queued` jobs are queued.
    pub(crate) fn set_queued_threshold(&mut self, queued: usize) {
        self.queued_threshold = self.queued_threshold.max(queued);
        self.is_watched = true;
    }

    /// Notifies a wait once fewer than `running` jobs are running.
    pub(crate) fn set_running_threshold(&mut self, running: usize) {
        self.running_threshold = self.running_threshold.max(running);
    }

    /// Removes both thresholds: no future waits for them any more.
    pub(crate) fn clear_thresholds(&mut self) {
        (self.queued_threshold, self.running_threshold) = (0, 0);
        self.is_watched = !self.waiters.is_empty();
    }

    // ---- the life of a job ----

    /// Records that a queued job starts.
    #[inline]
    pub(crate) fn start(&mut self, origin: Origin, wakes: &mut Wakes) {
        self.running += 1;
        self.leave_queue(origin, wakes);
    }

    /// Records the outcome of a running job.
    #[inline]
    pub(crate) fn finish(&mut self, outcome: Outcome, wakes: &mut Wakes) {
        self.running -= 1;
        self.outcomes[outcome as usize] += 1;
        self.check_running_below(wakes);
        self.check_idle(wakes);
    }

    /// Records that `started` queued jobs from outside have started, and that `succeeded` running
    /// jobs have succeeded. [`notify_all`](Self::notify_all) wakes the waits that this concerns.
    pub(crate) const fn record(&mut self, started: usize, succeeded: usize) {
        self.queued -= started;
        self.running = self.running + started - succeeded;
        self.outcomes[Outcome::Succeeded as usize] += succeeded as u64;
    }

    /// Notifies all waits whose conditions hold.
    pub(crate) fn notify_all(&mut self, wakes: &mut Wakes) {
        self.grant(wakes);
        self.check_running_below(wakes);
        self.check_idle(wakes);
    }

    /// Whether a future waits for a permit, or for fewer queued or running jobs. True for too long, it
    /// costs time only.
    pub(crate) const fn is_awaited(&self) -> bool {
        self.is_watched || self.running_threshold > 0
    }

    /// Records that a running job waits for another attempt.
    pub(crate) fn retry(&mut self, wakes: &mut Wakes) {
        self.running -= 1;
        self.retrying += 1;
        self.check_running_below(wakes);
    }

    #[inline]
    fn check_running_below(&mut self, wakes: &mut Wakes) {
        if self.running < self.running_threshold {
            self.running_threshold = 0;
            wakes.below = true;
        }
    }

    /// Records the outcome of a queued job, which may have made attempts before.
    pub(crate) fn finish_queued(&mut self, origin: Origin, outcome: Outcome, wakes: &mut Wakes) {
        self.outcomes[outcome as usize] += 1;
        self.ended_queued += 1;
        self.leave_queue(origin, wakes);
        self.check_idle(wakes);
    }

    #[inline]
    fn leave_queue(&mut self, origin: Origin, wakes: &mut Wakes) {
        let count = match origin {
            Origin::Outside | Origin::Extra => &mut self.queued,
            Origin::Child => &mut self.queued_children,
            Origin::Retry => &mut self.retrying,
        };
        *count -= 1;
        self.grant(wakes);
    }

    #[inline]
    fn check_idle(&mut self, wakes: &mut Wakes) {
        if self.is_idle() {
            wakes.idle = true;
            if self.pool_state != PoolState::Open {
                self.pool_state = PoolState::Ended;
                wakes.end = true;
            }
        } else if self.pool_state == PoolState::Aborted && self.is_queue_empty() {
            wakes.idle = true;
        }
    }

    // ---- the state of the pool ----

    /// Advances the state to `pool_state`, never backwards. Returns whether it changed.
    pub(crate) fn advance(&mut self, pool_state: PoolState) -> (bool, Wakes) {
        let mut wakes = Wakes::default();
        if self.pool_state >= pool_state {
            return (false, wakes);
        }
        self.pool_state = pool_state;
        wakes.wakers = std::mem::take(&mut self.waiters)
            .into_values()
            .map(|waiter| waiter.waker)
            .collect();
        self.notify_all_maps(&mut wakes);
        if pool_state != PoolState::Ended {
            self.check_idle(&mut wakes);
        }
        (true, wakes)
    }

    /// Records that a worker leaves. Returns whether it was the last one of a pool that has not
    /// ended.
    pub(crate) fn worker_left(&mut self) -> (bool, Wakes) {
        self.workers -= 1;
        if self.workers == 0 && self.pool_state != PoolState::Ended {
            let (_, mut wakes) = self.advance(PoolState::Ended);
            wakes.idle = true;
            wakes.end = true;
            return (true, wakes);
        }
        (false, Wakes::default())
    }
}

#[cfg(test)]
mod tests;
