//! The books of a pool: how many jobs are accepted, queued, running and done, who may still hand in jobs, and who waits
//! for room. What comes in are facts ("a job starts"); what goes out is what has to be done about them ([`Wakes`]).
//!
//! Pure: no lock, no async, no clock. The engine keeps it under its one lock and carries out the [`Wakes`] after it has
//! let go of the lock.
//!
//! The invariant, at every instant: `accepted == outcomes + queued + running`, where what the schedule delays counts as
//! queued.

use std::collections::{BTreeMap, BTreeSet};
use std::task::{Context, Poll, Waker};

use crate::observe::{JobId, Outcome, Stats};
use crate::planted::{self, Bug};

/// Who hands in a job; each kind has room of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Anybody: bounded by the capacity, may wait for room.
    Outside,
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

/// The life of a pool. It only moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Life {
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
    /// Whether patient ones are among them.
    pub(crate) told: bool,
    /// A waker that nobody needs any more. Dropping it may run anything, so it is not dropped under the lock.
    pub(crate) unneeded: Option<Waker>,
    /// Whether those who wait for the pool to be idle should look again.
    pub(crate) quiet: bool,
    /// Whether the ready channel is to be closed, so that the workers leave.
    pub(crate) end: bool,
}

impl Wakes {
    /// Whether there is nothing to do.
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.room.is_empty() && self.unneeded.is_none() && !self.quiet && !self.end
    }
}

/// One who waits for room.
#[derive(Debug)]
struct Waiter {
    waker: Waker,
    /// Whether it stands in line whatever the length of that.
    may_exceed: bool,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    life: Life,
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
    /// Places that a map holds while it pulls inputs. It does so within one poll, so a drain may wait for it.
    committing: usize,
    running: usize,
    /// Wait for another attempt.
    retrying: usize,
    /// Somebody is told when fewer than this are queued; 0: nobody.
    queued_mark: usize,
    /// Somebody is told when fewer than this are running; 0: nobody.
    running_mark: usize,
    /// Whether a job that leaves the queue concerns anybody: one who waits for room, or for a short queue.
    is_watched: bool,
    /// How many may wait for room at once.
    max_waiting: usize,
    /// First come, first served. Bounded by the number of futures that wait for room.
    waiting: BTreeMap<u64, Waiter>,
    /// Waiters that have a place and do not know it yet. Bounded by `reserved`.
    granted: BTreeSet<u64>,
    /// Who has jobs in the pool and could hand in more: told when there is room for several. They stand in no line. Bounded by
    /// the number of maps.
    patient: BTreeMap<u64, Waker>,
    /// When so many jobs are accepted, others have had their share of the room, and they are told anyway.
    patient_until: u64,
    next_waiter: u64,
}

impl Ledger {
    pub(crate) const fn new(capacity: usize, child_capacity: usize, workers: usize, slots_each: usize) -> Self {
        Self {
            life: Life::Open,
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
            running: 0,
            retrying: 0,
            queued_mark: 0,
            running_mark: 0,
            is_watched: false,
            max_waiting: usize::MAX,
            waiting: BTreeMap::new(),
            granted: BTreeSet::new(),
            patient: BTreeMap::new(),
            patient_until: u64::MAX,
            next_waiter: 0,
        }
    }

    pub(crate) const fn life(&self) -> Life {
        self.life
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
    pub(crate) const fn is_idle(&self) -> bool {
        self.running == 0 && self.is_queue_empty()
    }

    /// Whether no job is queued or about to be.
    pub(crate) const fn is_queue_empty(&self) -> bool {
        self.queued == 0 && self.queued_children == 0 && self.committing == 0 && self.retrying == 0
    }

    /// Jobs that do not run and have no outcome.
    pub(crate) const fn queued_total(&self) -> usize {
        self.queued + self.queued_children + self.retrying
    }

    /// Whether nothing will ever run again.
    pub(crate) fn has_ended(&self) -> bool {
        self.life == Life::Ended
    }

    pub(crate) const fn running(&self) -> usize {
        self.running
    }

    /// Jobs that wait for another attempt.
    pub(crate) const fn retrying(&self) -> usize {
        self.retrying
    }

    /// Sets how many may wait for room at once.
    pub(crate) const fn set_max_waiting(&mut self, most: usize) {
        self.max_waiting = most;
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

    const fn free(&self) -> usize {
        self.capacity.saturating_sub(self.queued + self.reserved + self.committing)
    }

    /// Free places that nobody waits for: a newcomer never overtakes a waiter.
    fn open_places(&self) -> usize {
        if self.waiting.is_empty() { self.free() } else { 0 }
    }

    /// Accepts one job now, or not at all.
    pub(crate) fn accept(&mut self, origin: Origin) -> Result<JobId, Refusal> {
        match origin {
            Origin::Outside if self.life != Life::Open => Err(Refusal::Closed),
            Origin::Child if self.life > Life::Closed => Err(Refusal::Closed),
            Origin::Outside if self.open_places() == 0 => Err(Refusal::Full),
            Origin::Child if self.queued_children >= self.child_capacity => Err(Refusal::Full),
            Origin::Outside => {
                self.queued += 1;
                Ok(self.next_id())
            }
            Origin::Child => {
                self.queued_children += 1;
                Ok(self.next_id())
            }
            Origin::Retry => Err(Refusal::Closed),
        }
    }

    /// Holds a place for one job without accepting it.
    pub(crate) fn reserve(&mut self) -> Result<(), Refusal> {
        if self.life != Life::Open {
            return Err(Refusal::Closed);
        }
        if self.open_places() == 0 {
            return Err(Refusal::Full);
        }
        self.reserved += 1;
        Ok(())
    }

    /// Waits in line for a place; `ticket` is the place in the line. One that `may_exceed` joins a line of any length.
    pub(crate) fn poll_reserve(
        &mut self,
        ticket: &mut Option<u64>,
        may_exceed: bool,
        cx: &Context<'_>,
    ) -> (Poll<Result<(), Refusal>>, Wakes) {
        let mut wakes = Wakes::default();
        let number = match *ticket {
            Some(number) if self.granted.remove(&number) => {
                *ticket = None;
                return (Poll::Ready(Ok(())), wakes);
            }
            Some(number) if self.life == Life::Open => number,
            Some(_) => {
                // The line was dissolved when the pool was closed.
                *ticket = None;
                return (Poll::Ready(Err(Refusal::Closed)), wakes);
            }
            None => match self.reserve() {
                Err(Refusal::Full) if !may_exceed && self.is_line_full() => {
                    return (Poll::Ready(Err(Refusal::Overloaded)), wakes);
                }
                Err(Refusal::Full) => {
                    self.next_waiter += 1;
                    *ticket.insert(self.next_waiter)
                }
                decided => return (Poll::Ready(decided), wakes),
            },
        };
        let waiter = Waiter { waker: cx.waker().clone(), may_exceed };
        wakes.unneeded = self.waiting.insert(number, waiter).map(|old| old.waker);
        self.is_watched = true;
        // Where there is a line, everybody stands in it.
        self.tell_all_patient(&mut wakes);
        (Poll::Pending, wakes)
    }

    /// Leaves a waker for the time when half of the queue is free; `ticket` is where it is.
    pub(crate) fn be_patient(&mut self, ticket: &mut Option<u64>, cx: &Context<'_>) -> Wakes {
        let mut wakes = Wakes::default();
        let number = *ticket.get_or_insert_with(|| {
            self.next_waiter += 1;
            self.next_waiter
        });
        if !self.patient.get(&number).is_some_and(|known| known.will_wake(cx.waker())) {
            wakes.unneeded = self.patient.insert(number, cx.waker().clone());
            self.patient_until = self.patient_until.min(self.accepted.saturating_add(self.capacity as u64));
        }
        if self.has_line() {
            self.tell_all_patient(&mut wakes);
        } else {
            self.tell_patient(&mut wakes);
        }
        wakes
    }

    /// Whether anybody stands in line for room.
    pub(crate) fn has_line(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes the waker back.
    pub(crate) fn be_patient_no_more(&mut self, ticket: u64) -> Wakes {
        Wakes { unneeded: self.patient.remove(&ticket), ..Wakes::default() }
    }

    /// Tells those who wait patiently, if there is room for them.
    #[inline]
    fn tell_patient(&mut self, wakes: &mut Wakes) {
        if self.is_room_for_patient() {
            self.tell_all_patient(wakes);
        }
    }

    /// Whether half of the queue is free, or any of it while nothing is queued: the rest may be held by somebody. Or others have
    /// had their share.
    fn is_room_for_patient(&self) -> bool {
        let room = || self.open_places();
        !self.patient.is_empty()
            && (self.accepted >= self.patient_until
                || room() >= (self.capacity / 2).max(1)
                || (self.queued == 0 && room() > 0))
    }

    /// Tells all who wait patiently to look again.
    #[cold]
    pub(crate) fn tell_all_patient(&mut self, wakes: &mut Wakes) {
        self.patient_until = u64::MAX;
        wakes.told |= !self.patient.is_empty();
        wakes.room.extend(std::mem::take(&mut self.patient).into_values());
    }

    /// Whether as many wait as may; those that may exceed that do not count.
    fn is_line_full(&self) -> bool {
        self.waiting.len() >= self.max_waiting
            && self.waiting.values().filter(|waiter| !waiter.may_exceed).count() >= self.max_waiting
    }

    /// Whether this waiter still stands in line, without a place.
    pub(crate) fn is_in_line(&self, ticket: u64) -> bool {
        self.waiting.contains_key(&ticket)
    }

    /// Leaves the line; a place that was granted meanwhile goes to the next in line.
    pub(crate) fn leave_line(&mut self, ticket: u64) -> Wakes {
        let unneeded = self.waiting.remove(&ticket).map(|waiter| waiter.waker);
        let wakes = if self.granted.remove(&ticket) { self.release() } else { Wakes::default() };
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
        if self.life != Life::Open {
            return (Err(Refusal::Closed), self.release());
        }
        self.reserved -= 1;
        self.queued += 1;
        (Ok(self.next_id()), Wakes::default())
    }

    /// Takes up to `want` places for a map that is about to pull inputs; a reserved place may be one of them.
    ///
    /// What it pulls into these places is accepted even if the pool is closed meanwhile, since its inputs are out of
    /// their source already.
    pub(crate) fn begin(&mut self, want: usize, reserved: bool) -> Result<usize, Wakes> {
        // Counted before the reserved place becomes a free one, or it would count twice.
        let others = self.open_places().min(want - usize::from(reserved));
        if reserved {
            self.reserved -= 1;
        }
        if self.life != Life::Open {
            let mut wakes = Wakes::default();
            self.grant(&mut wakes);
            return Err(wakes);
        }
        let places = others + usize::from(reserved);
        self.committing += places;
        Ok(places)
    }

    /// Accepts `used` of the `begun` places and gives the others back. The ids follow one another from the one returned.
    pub(crate) fn commit(&mut self, begun: usize, used: usize) -> (JobId, Wakes) {
        self.committing -= begun;
        self.queued += used;
        let first = JobId(self.accepted);
        self.accepted += used as u64;
        let mut wakes = Wakes::default();
        self.grant(&mut wakes);
        self.look_for_quiet(&mut wakes);
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
            self.tell_watchers(wakes);
        }
        self.tell_patient(wakes);
    }

    #[cold]
    fn tell_watchers(&mut self, wakes: &mut Wakes) {
        while self.life == Life::Open && self.free() > 0 {
            let Some((number, waiter)) = self.waiting.pop_first() else { break };
            self.reserved += 1;
            self.granted.insert(number);
            wakes.room.push(waiter.waker);
        }
        if self.queued_total() < self.queued_mark {
            self.queued_mark = 0;
            wakes.quiet = true;
        }
        // Once too often would only cost time.
        self.is_watched = !self.waiting.is_empty() || self.queued_mark > 0;
    }

    /// Somebody waits until fewer than `queued` jobs are queued; whoever listens to `quiet` is told.
    pub(crate) fn mark_queued(&mut self, queued: usize) {
        self.queued_mark = self.queued_mark.max(queued);
        self.is_watched = true;
    }

    /// Somebody waits until fewer than `running` jobs are running; whoever listens to `quiet` is told.
    pub(crate) fn mark_running(&mut self, running: usize) {
        self.running_mark = self.running_mark.max(running);
    }

    // ---- the life of a job ----

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
        self.look_for_rest(wakes);
        self.look_for_quiet(wakes);
    }

    /// So many queued jobs from outside have started, and so many of all that ran have succeeded. Whoever that concerns is told
    /// by [`settle`](Self::settle).
    pub(crate) const fn enter(&mut self, started: usize, succeeded: usize) {
        self.queued -= started;
        self.running = self.running + started - succeeded;
        self.outcomes[Outcome::Succeeded as usize] += succeeded as u64;
    }

    /// Tells all whom it concerns how things stand.
    pub(crate) fn settle(&mut self, wakes: &mut Wakes) {
        self.grant(wakes);
        self.look_for_rest(wakes);
        self.look_for_quiet(wakes);
    }

    /// Whether somebody waits for a job to start, or for one to end, though others run.
    pub(crate) const fn is_awaited(&self) -> bool {
        self.is_watched || self.running_mark > 0
    }

    /// A running job waits for another attempt.
    pub(crate) fn retry(&mut self, wakes: &mut Wakes) {
        self.running -= 1;
        self.retrying += 1;
        self.look_for_rest(wakes);
    }

    #[inline]
    fn look_for_rest(&mut self, wakes: &mut Wakes) {
        if self.running < self.running_mark {
            self.running_mark = 0;
            wakes.quiet = true;
        }
    }

    /// A queued job has its outcome without having started.
    pub(crate) fn settle_queued(&mut self, origin: Origin, outcome: Outcome) -> Wakes {
        let mut wakes = Wakes::default();
        self.outcomes[outcome as usize] += u64::from(!planted::is(Bug::Miscount));
        self.leave_queue(origin, &mut wakes);
        self.look_for_quiet(&mut wakes);
        wakes
    }

    #[inline]
    fn leave_queue(&mut self, origin: Origin, wakes: &mut Wakes) {
        match origin {
            Origin::Outside => {
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
    fn look_for_quiet(&mut self, wakes: &mut Wakes) {
        if self.is_idle() {
            wakes.quiet = !planted::is(Bug::ForgetQuiet);
            if self.life != Life::Open {
                self.life = Life::Ended;
                wakes.end = true;
            }
        } else if self.life == Life::Aborted && self.is_queue_empty() {
            wakes.quiet = true;
        }
    }

    // ---- the life of the pool ----

    /// Moves the life on to `life`, never back. Says whether it moved.
    pub(crate) fn advance(&mut self, life: Life) -> (bool, Wakes) {
        let mut wakes = Wakes::default();
        if self.life >= life {
            return (false, wakes);
        }
        self.life = life;
        wakes.room = std::mem::take(&mut self.waiting).into_values().map(|waiter| waiter.waker).collect();
        self.tell_all_patient(&mut wakes);
        if life != Life::Ended {
            self.look_for_quiet(&mut wakes);
        }
        (true, wakes)
    }

    /// A worker leaves. Says whether it was the last one of a pool that has not ended.
    pub(crate) fn worker_left(&mut self) -> (bool, Wakes) {
        self.workers -= 1;
        if self.workers == 0 && self.life != Life::Ended {
            let (_, mut wakes) = self.advance(Life::Ended);
            wakes.quiet = true;
            wakes.end = true;
            return (true, wakes);
        }
        (false, Wakes::default())
    }
}

/// For the simulator.
#[cfg(feature = "testing")]
impl Ledger {
    pub(crate) fn audit(&self) -> Result<(), String> {
        let outcomes: u64 = self.outcomes.iter().sum();
        let unfinished = self.queued_total() + self.running;
        if self.accepted != outcomes + unfinished as u64 {
            return Err(format!("{} accepted, {outcomes} outcomes, {unfinished} unfinished", self.accepted));
        }
        if self.queued + self.reserved + self.committing > self.capacity && self.queued > 0 {
            return Err(format!("{} places are taken of {}", self.queued + self.reserved, self.capacity));
        }
        if self.queued_children > self.child_capacity {
            return Err(format!("{} children are queued of {}", self.queued_children, self.child_capacity));
        }
        if self.running > self.slots() {
            return Err(format!("{} jobs run in {} slots", self.running, self.slots()));
        }
        if self.granted.len() > self.reserved {
            return Err(format!("{} places are granted, and {} reserved", self.granted.len(), self.reserved));
        }
        Ok(())
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "{:?}, {} queued of {}, {} committing, {} reserved ({} granted), {} children queued, {} running in {} slots, {} workers, \
             {} wait for room and {} patiently",
            self.life,
            self.queued,
            self.capacity,
            self.committing,
            self.reserved,
            self.granted.len(),
            self.queued_children,
            self.running,
            self.slots(),
            self.workers,
            self.waiting.len(),
            self.patient.len()
        )
    }

    /// Whether somebody waits for room though there is some.
    pub(crate) fn is_anybody_held_up(&self) -> bool {
        self.life == Life::Open && ((!self.waiting.is_empty() && self.free() > 0) || self.is_room_for_patient())
    }

    pub(crate) fn audit_at_end(&self) -> Result<(), String> {
        let left = (self.queued_total(), self.running, self.reserved, self.committing, self.workers);
        if left != (0, 0, 0, 0, 0) {
            return Err(format!("queued, running, reserved, committing, workers: {left:?} are left"));
        }
        if !self.waiting.is_empty() || !self.granted.is_empty() || !self.patient.is_empty() {
            return Err(format!(
                "{} wait for room, {} patiently, {} have it and do not know",
                self.waiting.len(),
                self.patient.len(),
                self.granted.len()
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
