//! The books of a pool: how many jobs are accepted, queued, running and done, who may still hand in
//! jobs, and who waits for room. What comes in are facts ("a job starts"); what goes out is what
//! has to be done about them ([`Wakes`]).
//!
//! Pure: no lock, no async, no clock. The shared state keeps it under its one lock and carries out the
//! [`Wakes`] after it has let go of the lock.
//!
//! The invariant, at every instant: `accepted == outcomes + queued + running`, where what the
//! schedule delays counts as queued.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::task::{Context, Poll, Waker};

use crate::event::{JobId, Outcome, Stats};

/// Identifies a future in the wait queue. Ids ascend in the order of arrival.
pub(crate) type WaiterId = u64;

/// Who hands in a job; each kind has room of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Anybody: bounded by the capacity, may wait for room.
    Outside,
    /// A map that found no room: its only job in the queue beyond the capacity.
    Extra,
    /// A running job of the pool itself: bounded by the child capacity, never waits.
    Child,
    /// A job that has run and waits for another attempt: it has been accepted already.
    Retry,
}

/// Why a job is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
    Closed,
    /// Too many wait for room already.
    Overloaded,
}

/// The state of a pool. It only moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PoolState {
    /// Takes jobs.
    Open,
    /// Takes jobs from running jobs only.
    Closed,
    /// Takes no jobs at all.
    Sealed,
    /// Takes no jobs, and starts none.
    Aborted,
    /// Nothing is left, or no worker is.
    Ended,
}

/// What has to be done once the lock is released.
#[must_use = "somebody waits for this"]
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    /// Those who wait for room and have got it, or will never get it.
    pub(crate) room: Vec<Waker>,
    /// Whether maps are among them.
    pub(crate) notified_maps: bool,
    /// A waker that nobody needs any more. Dropping it may run anything, so it is not dropped under
    /// the lock.
    pub(crate) unneeded: Option<Waker>,
    /// Whether the pool may be idle, once the outcomes that are on their way are delivered.
    pub(crate) idle: bool,
    /// Whether so few jobs are queued or running as a future waits for.
    pub(crate) below: bool,
    /// Whether the injector is to be closed, so that the workers leave.
    pub(crate) end: bool,
}

impl Wakes {
    /// Whether there is nothing to do.
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.room.is_empty() && self.unneeded.is_none() && !self.idle && !self.below && !self.end
    }
}

/// A future that waits for room.
#[derive(Debug)]
struct Waiter {
    waker: Waker,
    /// The identity of the group that it submits to.
    group: Option<usize>,
}

/// A map that waits until it can pull more inputs.
#[derive(Debug)]
struct WaitingMap {
    /// `None` once it was told.
    waker: Option<Waker>,
    /// Whether it waits for room in the queue; otherwise it waits for its source, and is told only
    /// when the pool closes.
    wants_room: bool,
}

#[derive(Debug)]
pub(crate) struct Admission {
    pool_state: PoolState,
    capacity: usize,
    child_capacity: usize,
    workers: usize,
    /// How many slots each of them has.
    slots_each: usize,
    accepted: u64,
    outcomes: [u64; Outcome::ALL.len()],
    /// From outside; at most `capacity`, reserved and committing ones included.
    queued: usize,
    /// From running jobs; at most `child_capacity`.
    queued_children: usize,
    /// Places that are promised: permits, and grants that their waiter has not seen yet.
    reserved: usize,
    /// Places that a map holds while it pulls inputs. It does so within one poll, so a drain may
    /// wait for it.
    committing: usize,
    /// How many maps are about to pull an input for which they hold no place. They do so within one
    /// poll as well.
    pulling: usize,
    /// The identities of the maps that have a job in the queue beyond the capacity; at most one for
    /// each map.
    extras: BTreeSet<usize>,
    running: usize,
    /// Wait for another attempt.
    retrying: usize,
    /// Waits are told when fewer than this are queued; 0: there are none.
    queued_threshold: usize,
    /// Waits are told when fewer than this are running; 0: there are none.
    running_threshold: usize,
    /// Whether a job that leaves the queue concerns anybody: one who waits for room, or for a short
    /// queue.
    is_watched: bool,
    /// How many may wait for room at once.
    max_waiting: usize,
    /// First come, first served. Bounded by the number of futures that wait for room.
    waiters: BTreeMap<u64, Waiter>,
    /// Waiters that have a place and do not know it yet. Bounded by `reserved`.
    granted: BTreeSet<u64>,
    /// Maps that wait for room or for their source, by their identities. They hold no place while
    /// they wait. Bounded by the number of maps.
    waiting_maps: BTreeMap<usize, WaitingMap>,
    /// How many of them wait for room, told or not.
    wanting_room: usize,
    /// How many of these are to be told.
    unnotified: usize,
    /// The map that was told of room last; the next time those after it come first.
    last_notified: usize,
    /// Whether they are told of any room, and not only of much: what is queued may be held up for
    /// long.
    notifies_of_any_room: bool,
    last_waiter_id: u64,
}

impl Admission {
    pub(crate) const fn new(
        capacity: usize,
        child_capacity: usize,
        workers: usize,
        slots_each: usize,
    ) -> Self {
        Self {
            pool_state: PoolState::Open,
            capacity,
            child_capacity,
            workers,
            slots_each,
            accepted: 0,
            outcomes: [0; Outcome::ALL.len()],
            queued: 0,
            queued_children: 0,
            reserved: 0,
            committing: 0,
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
            last_notified: 0,
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

    /// The slots of all workers that are there.
    pub(crate) const fn slots(&self) -> usize {
        self.workers * self.slots_each
    }

    /// Whether no job is queued, running, or about to be accepted.
    pub(crate) fn is_idle(&self) -> bool {
        self.running == 0 && self.is_queue_empty()
    }

    /// Whether no job is queued or about to be. A map that may pull an input is no work yet, except
    /// that a pool does not end under it.
    pub(crate) fn is_queue_empty(&self) -> bool {
        self.queued_total() == 0
            && self.committing == 0
            && (self.pulling == 0 || self.pool_state == PoolState::Open)
    }

    /// Jobs that do not run and have no outcome.
    pub(crate) fn queued_total(&self) -> usize {
        self.queued + self.extras.len() + self.queued_children + self.retrying
    }

    /// Whether nothing will ever run again.
    pub(crate) fn has_ended(&self) -> bool {
        self.pool_state == PoolState::Ended
    }

    pub(crate) const fn running(&self) -> usize {
        self.running
    }

    /// Jobs that wait for another attempt.
    pub(crate) const fn retrying(&self) -> usize {
        self.retrying
    }

    /// Sets how many may wait for room at once.
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
            .saturating_sub(self.queued + self.reserved + self.committing)
    }

    /// Free places that nobody waits for: a newcomer never overtakes a waiter.
    fn available_permits(&self) -> usize {
        if self.waiters.is_empty() {
            self.free_permits()
        } else {
            0
        }
    }

    /// Accepts one job now, or not at all.
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
            // These are accepted in other ways.
            Origin::Extra | Origin::Retry => Err(Refusal::Closed),
        }
    }

    /// Holds a place for one job without accepting it.
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

    /// Waits in line for a place; `ticket` is the place in the line. For a job of a group, `group`
    /// is its identity.
    pub(crate) fn poll_reserve(
        &mut self,
        waiter_id: &mut Option<WaiterId>,
        group: Option<usize>,
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
                // The line was dissolved when the pool was closed.
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

    const fn next_waiter_id(&mut self) -> u64 {
        self.last_waiter_id += 1;
        self.last_waiter_id
    }

    /// The wakers of those in line that submit to this group.
    pub(crate) fn wakers_of(&self, group: usize) -> Vec<Waker> {
        let of_group = self
            .waiters
            .values()
            .filter(|waiter| waiter.group == Some(group));
        of_group.map(|waiter| waiter.waker.clone()).collect()
    }

    /// Whether this waiter still stands in line, without a place.
    pub(crate) fn is_waiting(&self, waiter_id: WaiterId) -> bool {
        self.waiters.contains_key(&waiter_id)
    }

    /// Leaves the line; a place that was granted meanwhile goes to the next in line.
    pub(crate) fn cancel_wait(&mut self, waiter_id: WaiterId) -> Wakes {
        let unneeded = self.waiters.remove(&waiter_id).map(|waiter| waiter.waker);
        let wakes = if self.granted.remove(&waiter_id) {
            self.release()
        } else {
            Wakes::default()
        };
        Wakes { unneeded, ..wakes }
    }

    /// Gives a reserved place back.
    pub(crate) fn release(&mut self) -> Wakes {
        self.reserved -= 1;
        let mut wakes = Wakes::default();
        self.grant(&mut wakes);
        wakes
    }

    /// Turns a reserved place into a queued job; once closed, the place is given back instead.
    pub(crate) fn accept_reserved(&mut self) -> (Result<JobId, Refusal>, Wakes) {
        if self.pool_state != PoolState::Open {
            return (Err(Refusal::Closed), self.release());
        }
        self.reserved -= 1;
        self.queued += 1;
        (Ok(self.next_id()), Wakes::default())
    }

    // ---- maps ----
    //
    // A map never holds a place while it waits, since it may be the source of another map, which
    // polls it only when that has room itself. So each map
    // 1. pulls one input without a place (`begin_pull`), if it has no job beyond the capacity in
    //    the queue;
    // 2. takes places for that one and for more (`take_places`), which it fills within the same
    //    poll (`commit`);
    // 3. hands that one in beyond the capacity if there is no room for it (`accept_extra`). What it
    //    has pulled is accepted even if the pool is closed meanwhile, since its inputs are out of
    //    their source already.

    /// The places that maps may take: the last one is left to others, in place of the job beyond
    /// the capacity that each map may have.
    fn map_permits(&self) -> usize {
        self.available_permits().saturating_sub(1)
    }

    /// A map is about to pull one input, without a place for it. `false`: it has a job in the queue
    /// beyond the capacity.
    pub(crate) fn begin_pull(&mut self, map: usize) -> Result<bool, Refusal> {
        if self.pool_state != PoolState::Open {
            return Err(Refusal::Closed);
        }
        if self.extras.contains(&map) {
            if self.map_permits() == 0 {
                return Ok(false);
            }
            // There is room for it by now.
            self.extras.remove(&map);
            self.queued += 1;
        }
        if self.wanting_room > 0
            && let Some(waiting_map) = self.waiting_maps.get_mut(&map)
            && std::mem::take(&mut waiting_map.wants_room)
        {
            self.wanting_room -= 1;
            self.unnotified -= usize::from(waiting_map.waker.is_some());
        }
        self.pulling += 1;
        Ok(true)
    }

    /// The map has pulled nothing.
    pub(crate) fn end_pull(&mut self) -> Wakes {
        self.pulling -= 1;
        let mut wakes = Wakes::default();
        // It may have been told of room that it has not used.
        self.grant(&mut wakes);
        // An open pool is neither more nor less idle than before.
        if self.pool_state != PoolState::Open {
            self.check_idle(&mut wakes);
        }
        wakes
    }

    /// The map has pulled an input: it takes up to `want` places for it and for more, or is left
    /// with that one input.
    pub(crate) fn acquire_pulled(&mut self, want: usize) -> usize {
        let permits = self.acquire_many(want);
        self.pulling -= usize::from(permits > 0);
        permits
    }

    /// Takes up to `want` places. Maps that wait for room leave each other their share.
    pub(crate) fn acquire_many(&mut self, want: usize) -> usize {
        let room = self.map_permits();
        let permits = want.min(room.div_ceil(1 + self.wanting_room));
        self.committing += permits;
        permits
    }

    /// The map has pulled an input and got no place: that one is queued beyond the capacity.
    pub(crate) fn accept_extra(&mut self, map: usize) -> JobId {
        self.pulling -= 1;
        self.extras.insert(map);
        self.next_id()
    }

    /// A job beyond the capacity is about to leave the queue, as any other from outside. Its map
    /// may have another one.
    pub(crate) fn absorb_extra(&mut self, map: usize, wakes: &mut Wakes) {
        // Another job of the map may stand for it, since there was room for it in the meantime.
        if self.extras.remove(&map) {
            self.queued += 1;
            if let Some(waiting_map) = self
                .waiting_maps
                .get_mut(&map)
                .filter(|waiting_map| waiting_map.wants_room)
            {
                let waker = waiting_map.waker.take();
                self.unnotified -= usize::from(waker.is_some());
                wakes.notified_maps |= waker.is_some();
                wakes.room.extend(waker);
            }
        }
    }

    /// A map waits for room, or for its source. Says whether it need not wait.
    pub(crate) fn wait_as_map(
        &mut self,
        map: usize,
        wants_room: bool,
        cx: &Context<'_>,
    ) -> (bool, Wakes) {
        let mut wakes = Wakes::default();
        if self.pool_state != PoolState::Open
            || (wants_room && (!self.extras.contains(&map) || self.map_permits() > 0))
        {
            return (true, wakes);
        }
        let registered = self.waiting_maps.get_mut(&map).and_then(|registered| {
            self.wanting_room -= usize::from(registered.wants_room);
            self.unnotified -= usize::from(registered.wants_room && registered.waker.is_some());
            registered.waker.take()
        });
        let (waker, unneeded) = match registered {
            Some(registered) if registered.will_wake(cx.waker()) => (registered, None),
            registered => (cx.waker().clone(), registered),
        };
        wakes.unneeded = unneeded;
        self.waiting_maps.insert(
            map,
            WaitingMap {
                waker: Some(waker),
                wants_room,
            },
        );
        self.wanting_room += usize::from(wants_room);
        self.unnotified += usize::from(wants_room);
        (false, wakes)
    }

    /// The map waits no more. Returns its waker, which is not to be dropped under the lock.
    pub(crate) fn cancel_map_wait(&mut self, map: usize) -> (Option<Waker>, Wakes) {
        let mut wakes = Wakes::default();
        let Some(WaitingMap { waker, wants_room }) = self.waiting_maps.remove(&map) else {
            return (None, wakes);
        };
        self.wanting_room -= usize::from(wants_room);
        self.unnotified -= usize::from(wants_room && waker.is_some());
        // It may have been told of room that it has not used.
        self.grant(&mut wakes);
        (waker, wakes)
    }

    /// Whether maps that wait for room are to be told: there is much of it, or any while nothing is
    /// queued, since permits may hold the rest.
    fn may_notify_maps(&self) -> bool {
        let room = self.map_permits();
        room > 0 && (self.notifies_of_any_room || room >= self.capacity / 2 || self.queued == 0)
    }

    /// Tells as many maps that wait for room as there is room for, each in its turn.
    #[cold]
    fn notify_maps(&mut self, wakes: &mut Wakes) {
        let (room, last) = (self.map_permits(), self.last_notified);
        let mut notified = 0;
        for range in [
            (Bound::Excluded(last), Bound::Unbounded),
            (Bound::Unbounded, Bound::Included(last)),
        ] {
            for (map, waiting_map) in self.waiting_maps.range_mut(range) {
                if notified == room {
                    break;
                }
                if waiting_map.wants_room && waiting_map.waker.is_some() {
                    wakes.room.extend(waiting_map.waker.take());
                    (self.last_notified, notified) = (*map, notified + 1);
                }
            }
        }
        self.unnotified -= notified;
        wakes.notified_maps |= notified > 0;
    }

    /// Tells all maps that wait to look again.
    fn notify_all_maps(&mut self, wakes: &mut Wakes) {
        self.unnotified = 0;
        for waiting_map in self.waiting_maps.values_mut() {
            wakes.notified_maps |= waiting_map.waker.is_some();
            wakes.room.extend(waiting_map.waker.take());
        }
    }

    /// From here on maps are told of any room.
    pub(crate) fn notify_of_any_room(&mut self, wakes: &mut Wakes) {
        self.notifies_of_any_room = true;
        self.grant(wakes);
    }

    /// Accepts `used` of the `begun` places and gives the others back. The ids follow one another
    /// from the one returned.
    pub(crate) fn commit(&mut self, acquired: usize, used: usize) -> (JobId, Wakes) {
        self.committing -= acquired;
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

    /// Gives what room there is to those who wait for it.
    #[inline]
    pub(crate) fn grant(&mut self, wakes: &mut Wakes) {
        if self.is_watched {
            self.notify_waiters(wakes);
        }
        if self.unnotified > 0 && self.may_notify_maps() {
            self.notify_maps(wakes);
        }
    }

    #[cold]
    fn notify_waiters(&mut self, wakes: &mut Wakes) {
        while self.pool_state == PoolState::Open && self.free_permits() > 0 {
            let Some((id, waiter)) = self.waiters.pop_first() else {
                break;
            };
            self.reserved += 1;
            self.granted.insert(id);
            wakes.room.push(waiter.waker);
        }
        if self.queued_total() < self.queued_threshold {
            self.queued_threshold = 0;
            wakes.below = true;
        }
        // Once too often would only cost time.
        self.is_watched = !self.waiters.is_empty() || self.queued_threshold > 0;
    }

    /// A future waits until fewer than `queued` jobs are queued; it is told then.
    pub(crate) fn set_queued_threshold(&mut self, queued: usize) {
        self.queued_threshold = self.queued_threshold.max(queued);
        self.is_watched = true;
    }

    /// A future waits until fewer than `running` jobs are running; it is told then.
    pub(crate) fn set_running_threshold(&mut self, running: usize) {
        self.running_threshold = self.running_threshold.max(running);
    }

    /// No future waits for fewer jobs any more.
    pub(crate) fn clear_thresholds(&mut self) {
        (self.queued_threshold, self.running_threshold) = (0, 0);
        self.is_watched = !self.waiters.is_empty();
    }

    // ---- the state of the pool of a job ----

    /// A queued job starts.
    #[inline]
    pub(crate) fn start(&mut self, origin: Origin, wakes: &mut Wakes) {
        self.running += 1;
        self.leave_queue(origin, wakes);
    }

    /// A running job has its outcome.
    #[inline]
    pub(crate) fn finish(&mut self, outcome: Outcome, wakes: &mut Wakes) {
        self.running -= 1;
        self.outcomes[outcome as usize] += 1;
        self.check_running_below(wakes);
        self.check_idle(wakes);
    }

    /// So many queued jobs from outside have started, and so many of all that ran have succeeded.
    /// Whoever that concerns is told by [`settle`](Self::settle).
    pub(crate) const fn record(&mut self, started: usize, succeeded: usize) {
        self.queued -= started;
        self.running = self.running + started - succeeded;
        self.outcomes[Outcome::Succeeded as usize] += succeeded as u64;
    }

    /// Tells all whom it concerns how things stand.
    pub(crate) fn notify_all(&mut self, wakes: &mut Wakes) {
        self.grant(wakes);
        self.check_running_below(wakes);
        self.check_idle(wakes);
    }

    /// Whether a future waits for a job to start, or for one to end, though others run.
    pub(crate) const fn is_awaited(&self) -> bool {
        self.is_watched || self.running_threshold > 0
    }

    /// A running job waits for another attempt.
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

    /// A queued job has its outcome without having started.
    pub(crate) fn finish_queued(&mut self, origin: Origin, outcome: Outcome, wakes: &mut Wakes) {
        self.outcomes[outcome as usize] += 1;
        self.leave_queue(origin, wakes);
        self.check_idle(wakes);
    }

    #[inline]
    fn leave_queue(&mut self, origin: Origin, wakes: &mut Wakes) {
        match origin {
            Origin::Outside | Origin::Extra => {
                self.queued -= 1;
                self.grant(wakes);
            }
            Origin::Child => {
                self.queued_children -= 1;
                self.grant(wakes);
            }
            Origin::Retry => {
                self.retrying -= 1;
                self.grant(wakes);
            }
        }
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

    // ---- the state of the pool of the pool ----

    /// Moves the state of the pool on to `pool_state`, never back. Says whether it moved.
    pub(crate) fn advance(&mut self, pool_state: PoolState) -> (bool, Wakes) {
        let mut wakes = Wakes::default();
        if self.pool_state >= pool_state {
            return (false, wakes);
        }
        self.pool_state = pool_state;
        wakes.room = std::mem::take(&mut self.waiters)
            .into_values()
            .map(|waiter| waiter.waker)
            .collect();
        self.notify_all_maps(&mut wakes);
        if pool_state != PoolState::Ended {
            self.check_idle(&mut wakes);
        }
        (true, wakes)
    }

    /// A worker leaves. Says whether it was the last one of a pool that has not ended.
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

/// For the simulator.
#[cfg(feature = "testing")]
impl Admission {
    pub(crate) fn audit(&self) -> Result<(), String> {
        let outcomes: u64 = self.outcomes.iter().sum();
        let unfinished = self.queued_total() + self.running;
        if self.accepted != outcomes + unfinished as u64 {
            return Err(format!(
                "{} accepted, {outcomes} outcomes, {unfinished} unfinished",
                self.accepted
            ));
        }
        if self.queued + self.reserved + self.committing > self.capacity && self.queued > 0 {
            return Err(format!(
                "{} places are taken of {}",
                self.queued + self.reserved,
                self.capacity
            ));
        }
        if self.queued_children > self.child_capacity {
            return Err(format!(
                "{} children are queued of {}",
                self.queued_children, self.child_capacity
            ));
        }
        if self.running > self.slots() {
            return Err(format!(
                "{} jobs run in {} slots",
                self.running,
                self.slots()
            ));
        }
        if self.granted.len() > self.reserved {
            return Err(format!(
                "{} places are granted, and {} reserved",
                self.granted.len(),
                self.reserved
            ));
        }
        Ok(())
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "{:?}, {} queued of {} and {} beyond, {} pulling, {} committing, {} reserved ({} granted), {} children queued, {} running \
             in {} slots, {} workers, {} wait in line, {} of {} maps for room",
            self.pool_state,
            self.queued,
            self.capacity,
            self.extras.len(),
            self.pulling,
            self.committing,
            self.reserved,
            self.granted.len(),
            self.queued_children,
            self.running,
            self.slots(),
            self.workers,
            self.waiters.len(),
            self.wanting_room,
            self.waiting_maps.len()
        )
    }

    /// Whether a future or a map waits for room though there is some.
    pub(crate) fn has_stalled_waiter(&self) -> bool {
        // A map that was told, and has not been polled since, comes before others that wait.
        let is_notified = self.wanting_room > self.unnotified;
        let is_room = (!self.waiters.is_empty() && self.free_permits() > 0)
            || (self.unnotified > 0 && !is_notified && self.may_notify_maps());
        self.pool_state == PoolState::Open && is_room
    }

    pub(crate) fn audit_at_end(&self) -> Result<(), String> {
        let left = (
            self.queued_total(),
            self.running,
            self.reserved,
            self.committing + self.pulling,
            self.workers,
        );
        if left != (0, 0, 0, 0, 0) {
            return Err(format!(
                "queued, running, reserved, committing, workers: {left:?} are left"
            ));
        }
        let waits = (
            self.waiters.len(),
            self.waiting_maps.len(),
            self.granted.len(),
        );
        if waits != (0, 0, 0) {
            return Err(format!(
                "futures in line, maps that wait, and granted places: {waits:?} are left"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
