//! Decides which job may start when. A pool with a scheduling policy keeps a [`Schedule`] under the
//! shared state's lock, between the admission and the injector. The first call that needs one
//! switches it on, for good.
//!
//! Pure: no lock, no async, no clock of its own. Events come in (a job is accepted, starts, ends,
//! is retried); each call of [`release`](Schedule::release) returns the jobs that may start now and
//! those whose deadline has passed, and sets [`wake_at`](Schedule::wake_at), the time of the next
//! call. Read on in the order of the stages: [`clock`], [`order`], [`lanes`], [`limiter`].
//!
//! # States of a job
//!
//! | state | its input is in | the admission counts it as | it holds |
//! |---|---|---|---|
//! | delayed | the record | queued | capacity |
//! | ready | the record | queued | capacity |
//! | released | the injector, or the worker that has just taken it | queued | capacity, a slot of the pool and of its lane, reserved permits of the rate limits |
//! | running | the handler | running | a slot of the pool and of its lane; its permits are consumed |
//!
//! A record lives from `insert` to the outcome; a retried job goes from running back to delayed or
//! ready. After the outcome its [`RecordId`] may be reused, so callers with an older id also pass
//! the number of the job.
//!
//! # Release after each change
//!
//! Invariant, whenever the lock is free: no waiting job may start that is not released, and none
//! may before `next` unless the schedule changes.
//!
//! So each change is followed by a release in the same critical section:
//! `Shared::update_schedule`, `finish_unstarted`, `finish_scheduled` and `requeue_job` end with
//! `Synced::dispatch`. Two changes release nothing:
//!
//! * A worker leaves: fewer jobs may start, not more.
//! * [`start`](Schedule::start): it consumes permits that were reserved, so no other job may start
//!   at once. But the next job may have waited for just these permits, and then `next` did not take
//!   it into account; so `start` sets `next` again.
//!
//! Promotion alone (`stats`, `is_overtaken`) releases nothing either: `next` stays, so the alarm
//! still goes off at that tick.
//!
//! One start bypasses the schedule, and is refused and sent back through `return_to_schedule`,
//! which releases: that of a job which a worker had taken when the schedule was switched on, and
//! which has no record.
//!
//! `tests.rs` compares `next` with a naive schedule: after random changes nothing may be able to
//! start at the last tick before it.
//!
//! # Permits are neither leaked nor granted twice
//!
//! Permits of the pool's limiter and of the lane's are *reserved* at the release and *consumed* at
//! the start, since a worker may be polled late or dropped: a rate limits starts.
//!
//! 1. `release_ready` reserves them, if they could be consumed at that time together with all that
//!    are reserved. If the burst does not cover both, the limiter answers `NEVER`: not before a
//!    reservation is consumed or cancelled.
//! 2. What could be consumed at a time can be consumed later too: a bucket only fills and a window
//!    only expires, except for reserved permits. So a released job always finds its permits.
//! 3. A reservation ends once: `start` consumes it; `unreserve` cancels it, when a released job is
//!    given back ([`give_back`](Schedule::give_back): a pause, a hold, fewer workers, another rate,
//!    a more urgent job) or removed ([`remove`](Schedule::remove): cancelled, abandoned, aborted).
//!    A permit that was not consumed is not returned, so none is granted twice. A retry consumes
//!    permits again.
//!
//! `set_rate` and `set_key_limits` cancel the reservations of the released jobs whose limits they
//! change, and mark these jobs as recalled: their workers give them back, and nothing is released
//! before the last one is back, since it may come first.
//!
//! The slots follow the same pattern. A release increments `released` and the lane's `running`;
//! `start` and `undo_release` decrement the first, `undo_release`, `finish` and `reschedule` the
//! second.
//!
//! # Bounds
//!
//! | collection | at most |
//! |---|---|
//! | records; delayed, deadlines, ready jobs of all lanes | jobs without an outcome: what the admission admits |
//! | lanes | keys of these jobs, and keys whose limiter has not refilled |
//! | starts of a sliding window | its permits |
//! | released jobs | slots |
//!
//! A lane is removed once it has no jobs and its limiter has refilled; `next` includes the time at
//! which the last such limiter refills. The slab frees its empty chunks, and the map of keys
//! shrinks.
//!
//! # Costs
//!
//! A release that starts nothing looks at the first entry of each set. A start costs a few
//! operations on ordered sets. A lane that is full or waits for its rate is in no set that is
//! scanned, so a key with a million jobs costs the others nothing.

pub(crate) mod clock;
pub(crate) mod lanes;
pub(crate) mod limiter;
mod order;
#[cfg(any(test, fuzzing))]
pub(crate) mod reference;
mod slab;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use self::clock::{Clock, Due, Reading, Tick};
use self::lanes::{KeyLimits, LaneId, Lanes};
use self::limiter::{Limiter, RateLimit};
use self::order::{Aging, Rank};
pub(crate) use self::slab::RecordId;
use self::slab::Slab;
use crate::key::Key;
use crate::policy::retry::History;

/// The options of the builder.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SchedulePolicy {
    pub(crate) rate: Option<RateLimit>,
    pub(crate) lanes: KeyLimits,
    pub(crate) aging: Option<Duration>,
}

/// The scheduling options of a job.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScheduleOptions {
    pub(crate) priority: i32,
    /// In permits of the rate limits.
    pub(crate) cost: u32,
    pub(crate) key: Option<Key>,
    pub(crate) start: StartAt,
    /// The job is not released after that.
    pub(crate) deadline: Option<Instant>,
}

/// When a job may start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum StartAt {
    #[default]
    Now,
    After(Duration),
    NotBefore(Instant),
}

/// The slots of a pool and how many of them are in use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occupancy {
    pub(crate) slots: usize,
    pub(crate) running: usize,
    /// Whether the pool is closed; a pause does not apply then.
    pub(crate) is_closing: bool,
}

/// A job that has left the schedule for good.
#[derive(Debug)]
pub(crate) struct Removed<J> {
    pub(crate) job: J,
    /// Dropping it may run user code.
    pub(crate) history: Option<Box<History>>,
}

impl<J> Removed<J> {
    /// The number of attempts made.
    pub(crate) fn attempts(&self) -> u32 {
        self.history.as_ref().map_or(0, |history| history.attempts)
    }
}

/// The result of [`Schedule::release`].
#[must_use = "jobs are in it"]
#[derive(Debug)]
pub(crate) struct Released<J> {
    /// A job that may start; apart from the others, since most releases are of one job, which needs
    /// no vector.
    pub(crate) first: Option<(J, RecordId)>,
    /// More jobs that may start, in this order.
    pub(crate) more: Vec<(J, RecordId)>,
    /// Jobs whose deadline has passed.
    pub(crate) expired: Vec<Removed<J>>,
    /// Jobs that cost more than a limit ever allows, with their costs and that limit.
    pub(crate) cost_exceeds_limit: Vec<(Removed<J>, u32, u32)>,
}

impl<J> Released<J> {
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            more: Vec::new(),
            expired: Vec::new(),
            cost_exceeds_limit: Vec::new(),
        }
    }

    fn push(&mut self, job: J, record_id: RecordId) {
        if self.first.is_none() {
            self.first = Some((job, record_id));
        } else {
            self.more.push((job, record_id));
        }
    }
}

#[derive(Debug)]
pub(crate) struct Schedule<J> {
    clock: Clock,
    /// Bounded by what the admission admits.
    records: Slab<Record<J>>,
    lanes: Lanes,
    delayed: BTreeSet<Due>,
    /// The deadlines of delayed and ready jobs.
    deadlines: BTreeSet<Due>,
    limiter: Option<Limiter>,
    /// Jobs whose cost is checked against the limits at the next release.
    cost_unchecked: Vec<RecordId>,
    /// Nothing starts before that.
    held_until: Tick,
    aging: Aging,
    /// The number of released jobs that have not started.
    released: usize,
    /// How many of these are recalled. Nothing is released before they are back, since they may
    /// come first.
    recalled: usize,
    /// How many of the slots may run jobs.
    allowed: usize,
    pauses: usize,
    next: Tick,
    /// The number of delayed and ready jobs.
    waiting: usize,
    /// Whether a slot is free and no job will start, whatever time passes.
    is_stalled: bool,
    /// Whether the first job in order needs permits that are reserved for released jobs, so that it
    /// waits for one of them to start.
    needs_start: bool,
}

/// The result of [`Schedule::wake_at_start`].
enum Next {
    /// This job may start now, at this cost.
    Job {
        lane: LaneId,
        record_id: RecordId,
        cost: u32,
    },
    /// No job may start before that, unless the schedule changes.
    At(Tick),
}

#[derive(Debug)]
struct Record<J> {
    /// `None` while the job is released or running.
    job: Option<J>,
    /// The position in the order of acceptance.
    number: u64,
    rank: Rank,
    /// The job may not start before that.
    at: Tick,
    deadline: Tick,
    history: Option<Box<History>>,
    lane: LaneId,
    /// The lane's position before the job was released.
    round_robin: u64,
    cost: u32,
    priority: i32,
    state: State,
    /// Released under earlier limits: the limiters have no reservations for the job, which has to
    /// come back for new ones.
    is_recalled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Delayed,
    Ready,
    Released,
    Running,
}

impl<J> Schedule<J> {
    /// Creates an empty schedule for a pool with so many slots.
    pub(crate) fn new(policy: SchedulePolicy, slots: usize, start: Instant) -> Self {
        Self {
            clock: Clock::new(start),
            records: Slab::new(),
            lanes: Lanes::new(policy.lanes),
            delayed: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            limiter: policy.rate.map(Limiter::new),
            cost_unchecked: Vec::new(),
            held_until: Tick(0),
            aging: Aging::new(policy.aging),
            released: 0,
            recalled: 0,
            allowed: slots,
            pauses: 0,
            next: Tick::NEVER,
            waiting: 0,
            is_stalled: false,
            needs_start: false,
        }
    }

    // ---- time ----

    pub(crate) const fn generation(&self) -> u64 {
        self.clock.generation()
    }

    pub(crate) fn accept_reading(&mut self, reading: Reading) -> Tick {
        self.clock.accept_reading(reading)
    }

    /// The time at which to release again if nothing changes.
    pub(crate) const fn wake_at(&self) -> Tick {
        self.next
    }

    /// The time of the last reading.
    pub(crate) const fn now(&self) -> Tick {
        self.clock.now()
    }

    /// The timer for `tick` has fired: advances the time to it, whatever the clock shows.
    pub(crate) fn advance_to(&mut self, tick: Tick) {
        self.clock.advance_to(tick);
    }

    /// Whether the clock has stepped back since the last call, so that timers set before fire too
    /// late.
    pub(crate) const fn take_step_back(&mut self) -> bool {
        self.clock.take_step_back()
    }

    /// What the clock shows at a tick; `None` if it never gets there.
    pub(crate) fn instant(&self, tick: Tick) -> Option<Instant> {
        self.clock.instant(tick)
    }

    // ---- counts ----

    /// The number of delayed jobs.
    pub(crate) fn delayed(&self) -> usize {
        self.delayed.len()
    }

    /// Whether no waiting job can start before a running one ends, provided that all `queued` jobs
    /// are in the schedule.
    pub(crate) const fn waits_for_running(&self, queued: usize) -> bool {
        self.is_stalled && self.released == 0 && self.waiting == queued
    }

    /// How many jobs are released for which no slot is free.
    pub(crate) fn surplus(&self, occupancy: Occupancy) -> usize {
        (occupancy.running + self.released).saturating_sub(self.usable(occupancy.slots))
    }

    /// How many of so many slots may run jobs.
    pub(crate) fn usable(&self, slots: usize) -> usize {
        self.allowed.min(slots)
    }

    pub(crate) fn key(&self, record_id: RecordId) -> Option<&Key> {
        self.lanes.key(self.records.get(record_id)?.lane)
    }

    // ---- the life of a job ----

    /// Adds an accepted job; `number` is its position in the order of acceptance.
    pub(crate) fn insert(
        &mut self,
        job: J,
        number: u64,
        options: ScheduleOptions,
        now: Tick,
    ) -> RecordId {
        let at = match options.start {
            StartAt::Now => now,
            StartAt::After(delay) => now.after(delay),
            StartAt::NotBefore(instant) => self.clock.tick(instant),
        };
        let lane = self.lanes.add_job(options.key);
        let record = Record {
            job: Some(job),
            number,
            rank: self.aging.rank(options.priority, at),
            at,
            deadline: options
                .deadline
                .map_or(Tick::NEVER, |deadline| self.clock.tick(deadline)),
            history: None,
            lane,
            round_robin: 0,
            cost: options.cost,
            priority: options.priority,
            state: State::Ready,
            is_recalled: false,
        };
        let record_id = self.records.insert(record);
        self.enqueue(record_id, now);
        record_id
    }

    /// Adds a job to the delayed or the ready ones.
    fn enqueue(&mut self, record_id: RecordId, now: Tick) {
        let max_cost = self.max_cost(record_id);
        let Some(record) = self.records.get_mut(record_id) else {
            return;
        };
        self.waiting += 1;
        // `remove_over_limit` checks again, so `>=` would do as well.
        if record.cost > max_cost {
            self.cost_unchecked.push(record_id);
        }
        if record.deadline != Tick::NEVER {
            self.deadlines.insert(Due::new(record.deadline, record_id));
        }
        if record.at > now {
            record.state = State::Delayed;
            self.delayed.insert(Due::new(record.at, record_id));
        } else {
            record.state = State::Ready;
            self.lanes
                .enqueue(record.lane, record.rank, record.number, record_id);
        }
    }

    /// Removes a waiting job from the sets that it is in.
    fn dequeue(&mut self, record_id: RecordId) {
        let Some(record) = self.records.get(record_id) else {
            return;
        };
        self.waiting -= 1;
        if record.deadline != Tick::NEVER {
            self.deadlines.remove(&Due::new(record.deadline, record_id));
        }
        match record.state {
            State::Delayed => drop(self.delayed.remove(&Due::new(record.at, record_id))),
            State::Ready => self
                .lanes
                .dequeue(record.lane, record.rank, record.number, record_id),
            State::Released | State::Running => {}
        }
    }

    /// Returns the jobs that may start now and those to give up, and sets [`next`](Self::next).
    pub(crate) fn release(&mut self, now: Tick, occupancy: Occupancy, out: &mut Released<J>) {
        while let Some(due) = self.deadlines.first().copied()
            && due.tick() <= now
        {
            out.expired
                .extend(self.remove_waiting(due.record_id(), now));
        }
        self.remove_over_limit(now, out);
        self.promote_due(now);
        let soonest = self.release_ready(now, occupancy, out);
        self.set_next(soonest, occupancy);
    }

    /// Sets `next` to the earliest of the next start, the next deadline and the next removal of
    /// lanes.
    fn set_next(&mut self, soonest: Tick, occupancy: Occupancy) {
        self.is_stalled = soonest == Tick::NEVER && self.may_start(occupancy, self.released);
        let deadline = self.deadlines.first().map_or(Tick::NEVER, |due| due.tick());
        self.next = soonest.min(deadline).min(self.lanes.refilled_at());
    }

    /// Disables the schedule: `next` is never.
    pub(crate) const fn stop(&mut self) {
        self.next = Tick::NEVER;
    }

    /// Makes delayed jobs and lanes ready whose time has come.
    pub(crate) fn promote_due(&mut self, now: Tick) {
        while let Some(due) = self.delayed.first().copied()
            && due.tick() <= now
        {
            self.delayed.pop_first();
            if let Some(record) = self.records.get_mut(due.record_id()) {
                record.state = State::Ready;
                self.lanes
                    .enqueue(record.lane, record.rank, record.number, due.record_id());
            }
        }
        self.lanes.promote_due(now);
    }

    /// Releases ready jobs while slots are free. Returns when the next one may start if a slot is
    /// free then.
    fn release_ready(&mut self, now: Tick, occupancy: Occupancy, out: &mut Released<J>) -> Tick {
        // Terminates: each round occupies a slot.
        loop {
            let (lane, record_id, cost) = match self.next_start(now, occupancy) {
                Next::Job {
                    lane,
                    record_id,
                    cost,
                } => (lane, record_id, cost),
                Next::At(at) => return at,
            };
            if let Some(limiter) = &mut self.limiter {
                limiter.reserve(cost);
            }
            self.dequeue(record_id);
            let round_robin = self.lanes.release(lane, cost);
            self.released += 1;
            if let Some(record) = self.records.get_mut(record_id) {
                record.round_robin = round_robin;
                record.state = State::Released;
                if let Some(job) = record.job.take() {
                    out.push(job, record_id);
                }
            }
        }
    }

    /// The next job to start, or the time of the next start.
    ///
    /// At that time something can be done even if nothing else changes. So it is `NEVER` while all
    /// slots are in use, and while the permits that the next job needs are reserved for released
    /// jobs.
    fn next_start(&mut self, now: Tick, occupancy: Occupancy) -> Next {
        self.needs_start = false;
        if !self.may_start(occupancy, self.released) || self.recalled > 0 {
            return Next::At(Tick::NEVER);
        }
        let delayed = self.delayed.first().map_or(Tick::NEVER, |due| due.tick());
        if self.held_until > now {
            let at = if self.lanes.is_waiting() {
                self.held_until
            } else {
                self.held_until.max(delayed)
            };
            return Next::At(at);
        }
        let cost_of = |record_id| self.records.get(record_id).map_or(0, |record| record.cost);
        let Some((lane, record_id)) = self.lanes.next_job(now, cost_of) else {
            return Next::At(delayed.min(self.lanes.next_eligible_at()));
        };
        let cost = cost_of(record_id);
        let at = self
            .limiter
            .as_mut()
            .map_or(now, |limiter| limiter.earliest(now, cost));
        if at <= now {
            return Next::Job {
                lane,
                record_id,
                cost,
            };
        }
        self.needs_start = at == Tick::NEVER;
        // A delayed job, or one whose lane waits, may come first and cost less.
        Next::At(at.min(delayed).min(self.lanes.next_eligible_at()))
    }

    fn remove_over_limit(&mut self, now: Tick, out: &mut Released<J>) {
        for record_id in std::mem::take(&mut self.cost_unchecked) {
            let max_cost = self.max_cost(record_id);
            // The job may be gone, or the limit may have grown.
            let record = self
                .records
                .get(record_id)
                .filter(|record| record.job.is_some());
            if let Some(cost) = record
                .map(|record| record.cost)
                .filter(|cost| *cost > max_cost)
            {
                out.cost_exceeds_limit.extend(
                    self.remove_waiting(record_id, now)
                        .map(|removed| (removed, cost, max_cost)),
                );
            }
        }
    }

    fn may_start(&self, occupancy: Occupancy, released: usize) -> bool {
        (self.pauses == 0 || occupancy.is_closing)
            && occupancy.running + released < self.usable(occupancy.slots)
    }

    /// The highest cost that the job may have.
    fn max_cost(&self, record_id: RecordId) -> u32 {
        let of_lane = self
            .records
            .get(record_id)
            .map_or(u32::MAX, |record| self.lanes.max_cost(record.lane));
        self.limiter
            .as_ref()
            .map_or(u32::MAX, Limiter::max_cost)
            .min(of_lane)
    }

    /// The state of a job; `None` if the record id belongs to another job by now.
    fn state(&self, record_id: RecordId, number: u64) -> Option<State> {
        self.records
            .get(record_id)
            .filter(|record| record.number == number)
            .map(|record| record.state)
    }

    /// Whether this job is released and has not started.
    pub(crate) fn is_released(&self, record_id: RecordId, number: u64) -> bool {
        self.state(record_id, number) == Some(State::Released)
    }

    /// Whether a released job may still start, when a worker has taken it.
    pub(crate) fn may_still_start(
        &self,
        record_id: RecordId,
        occupancy: Occupancy,
        now: Tick,
    ) -> bool {
        let is_free =
            |record: &Record<J>| !record.is_recalled && self.lanes.held_until(record.lane) <= now;
        self.may_start(occupancy, 0)
            && self.held_until <= now
            && self.records.get(record_id).is_some_and(is_free)
    }

    /// Whether another job has to start before this released one: it is more urgent and came, or
    /// was moved up, since the release.
    ///
    /// If this job is given back then, the other one is released before it or waits for permits
    /// before it, so giving back does not loop.
    pub(crate) fn is_overtaken(&mut self, record_id: RecordId, now: Tick) -> bool {
        self.promote_due(now);
        let Some(Record {
            rank, number, lane, ..
        }) = self.records.get(record_id)
        else {
            return false;
        };
        // The lane may be full, or out of permits, because of this very job.
        if self.lanes.is_before(*lane, *rank, *number) {
            return true;
        }
        let cost_of = |record_id| self.records.get(record_id).map_or(0, |record| record.cost);
        let first = self
            .lanes
            .next_job(now, cost_of)
            .and_then(|(_, record_id)| self.records.get(record_id));
        first.is_some_and(|first| first.rank < *rank)
    }

    /// Starts a released job; `occupancy` is that before the start. Returns the history of its
    /// attempts.
    ///
    /// No other job may start at once, since the consumed permits were reserved. But jobs that
    /// waited for this start may have a time from now on, so `start` may move [`next`](Self::next)
    /// to an earlier time.
    pub(crate) fn start(
        &mut self,
        record_id: RecordId,
        occupancy: Occupancy,
        now: Tick,
    ) -> Option<Box<History>> {
        let record = self.records.get_mut(record_id)?;
        record.state = State::Running;
        let history = record.history.take();
        self.released -= 1;
        if let Some(limiter) = &mut self.limiter {
            limiter.start(now, record.cost);
        }
        let is_awaited = self.lanes.start(record.lane, now, record.cost) || self.needs_start;
        if is_awaited {
            // With less, a release would be asked for too early, which costs time only.
            let occupancy = Occupancy {
                running: occupancy.running + 1,
                ..occupancy
            };
            let soonest = match self.next_start(now, occupancy) {
                // Its time has come since the last release; the release at `now` finds it.
                Next::Job { .. } => now,
                Next::At(at) => at,
            };
            self.set_next(soonest, occupancy);
        }
        history
    }

    /// Makes a released job that does not start wait again, and cancels its reservations.
    pub(crate) fn give_back(&mut self, record_id: RecordId, job: J, now: Tick) {
        self.undo_release(record_id);
        if let Some(record) = self.records.get_mut(record_id) {
            record.job = Some(job);
            record.at = now;
            record.is_recalled = false;
        }
        self.enqueue(record_id, now);
        if let Some(record) = self.records.get(record_id) {
            self.lanes
                .restore_round_robin(record.lane, record.round_robin);
        }
    }

    /// Frees the slots of a released job, and cancels its reservations unless that is done.
    fn undo_release(&mut self, record_id: RecordId) {
        let Some(record) = self.records.get(record_id) else {
            return;
        };
        let (lane, is_recalled) = (record.lane, record.is_recalled);
        self.released -= 1;
        if is_recalled {
            self.recalled -= 1;
        } else {
            self.unreserve(record_id);
        }
        self.lanes.finish(lane);
    }

    /// Cancels the reservations of a released job.
    fn unreserve(&mut self, record_id: RecordId) {
        let Some(record) = self.records.get(record_id) else {
            return;
        };
        if let Some(limiter) = &mut self.limiter {
            limiter.unreserve(record.cost);
        }
        self.lanes.unreserve(record.lane, record.cost);
    }

    /// Marks a released job as recalled: it holds no permits and may not start, so that its worker
    /// gives it back.
    fn recall(&mut self, record_id: RecordId) {
        let Some(record) = self
            .records
            .get_mut(record_id)
            .filter(|record| record.state == State::Released && !record.is_recalled)
        else {
            return;
        };
        record.is_recalled = true;
        self.recalled += 1;
        self.unreserve(record_id);
    }

    /// Makes a running job wait for another attempt, which may not start before `at`.
    pub(crate) fn reschedule(
        &mut self,
        record_id: RecordId,
        job: J,
        history: Box<History>,
        at: Tick,
        now: Tick,
    ) {
        let Some(record) = self.records.get_mut(record_id) else {
            return;
        };
        record.job = Some(job);
        record.history = Some(history);
        record.at = at;
        self.lanes.finish(record.lane);
        self.enqueue(record_id, now);
    }

    /// Removes a running job.
    pub(crate) fn finish(&mut self, record_id: RecordId, now: Tick) {
        if let Some(record) = self.records.remove(record_id) {
            self.lanes.finish(record.lane);
            self.lanes.remove_job(record.lane, now);
        }
    }

    /// Removes a job that is not running. Returns the job, unless it is released, and its history.
    pub(crate) fn remove(
        &mut self,
        record_id: RecordId,
        number: u64,
        now: Tick,
    ) -> (Option<J>, Option<Box<History>>) {
        match self.state(record_id, number) {
            None | Some(State::Running) => return (None, None),
            Some(State::Released) => self.undo_release(record_id),
            Some(State::Delayed | State::Ready) => self.dequeue(record_id),
        }
        let Some(Record {
            job, history, lane, ..
        }) = self.records.remove(record_id)
        else {
            return (None, None);
        };
        self.lanes.remove_job(lane, now);
        (job, history)
    }

    /// Removes a delayed or ready job.
    fn remove_waiting(&mut self, record_id: RecordId, now: Tick) -> Option<Removed<J>> {
        self.dequeue(record_id);
        let Record {
            job, history, lane, ..
        } = self.records.remove(record_id)?;
        self.lanes.remove_job(lane, now);
        job.map(|job| Removed { job, history })
    }

    /// The job, while it is delayed or ready.
    pub(crate) fn job(&self, record_id: RecordId) -> Option<&J> {
        self.records.get(record_id)?.job.as_ref()
    }

    /// The number of attempts of a job that is not running.
    pub(crate) fn attempts(&self, record_id: RecordId, number: u64) -> u32 {
        let record = self
            .records
            .get(record_id)
            .filter(|record| record.number == number);
        record
            .and_then(|record| record.history.as_ref())
            .map_or(0, |history| history.attempts)
    }

    /// Changes the priority of a job. Returns whether the job has not started yet.
    pub(crate) fn set_priority(&mut self, record_id: RecordId, number: u64, priority: i32) -> bool {
        let is_waiting = matches!(
            self.state(record_id, number),
            Some(State::Delayed | State::Ready | State::Released)
        );
        let Some(record) = self.records.get_mut(record_id).filter(|_| is_waiting) else {
            return false;
        };
        let rank = record.rank.with_priority(record.priority, priority);
        if record.state == State::Ready && rank != record.rank {
            self.lanes
                .dequeue(record.lane, record.rank, record.number, record_id);
            self.lanes
                .enqueue(record.lane, rank, record.number, record_id);
        }
        (record.rank, record.priority) = (rank, priority);
        true
    }

    /// Removes the delayed and ready jobs of which `will_not_run` is true.
    pub(crate) fn remove_where(
        &mut self,
        now: Tick,
        will_not_run: impl Fn(&J) -> bool,
    ) -> Vec<Removed<J>> {
        let record_ids: Vec<RecordId> = (self.records.iter())
            .filter(|(_, record)| record.job.as_ref().is_some_and(&will_not_run))
            .map(|(record_id, _)| record_id)
            .collect();
        record_ids
            .into_iter()
            .filter_map(|record_id| self.remove_waiting(record_id, now))
            .collect()
    }

    // ---- control ----

    pub(crate) const fn pause(&mut self) {
        self.pauses += 1;
    }

    pub(crate) const fn resume(&mut self) {
        self.pauses = self.pauses.saturating_sub(1);
    }

    pub(crate) const fn is_paused(&self) -> bool {
        self.pauses > 0
    }

    pub(crate) const fn allow(&mut self, count: usize) {
        self.allowed = count;
    }

    pub(crate) fn set_rate(&mut self, limit: Option<RateLimit>, now: Tick) {
        self.reconsider(|_| true);
        match (&mut self.limiter, limit) {
            (Some(limiter), Some(limit)) => limiter.set_limit(limit, now),
            (limiter, limit) => *limiter = limit.map(Limiter::new),
        }
    }

    /// Changes the limits of one key; `None` restores those of all keys.
    pub(crate) fn set_key_limits(&mut self, key: Key, limits: Option<KeyLimits>, now: Tick) {
        if let Some(lane) = self.lanes.lane_of(&key) {
            self.reconsider(|record| record.lane == lane);
        }
        self.lanes.set_limits(key, limits, now);
    }

    /// Lets the limits be changed to which these jobs are subject: those that have not started are
    /// subject to the new limits only, and any may cost too much under them, which the next release
    /// checks.
    fn reconsider(&mut self, is_subject: impl Fn(&Record<J>) -> bool) {
        let subject: Vec<RecordId> = (self.records.iter())
            .filter(|(_, record)| is_subject(record))
            .map(|(record_id, _)| record_id)
            .collect();
        for record_id in &subject {
            self.recall(*record_id);
        }
        self.cost_unchecked.extend(subject);
    }

    /// Lets no job of the key start before `until`.
    pub(crate) fn hold_key(&mut self, key: Key, until: Tick, now: Tick) {
        self.lanes.hold_key(key, until, now);
    }

    /// Lets no job start before `until`.
    pub(crate) fn hold(&mut self, until: Tick) {
        self.held_until = self.held_until.max(until);
    }

    /// Lets no job of this job's key start before `until`.
    pub(crate) fn hold_lane(&mut self, record_id: RecordId, until: Tick) {
        if let Some(record) = self.records.get(record_id) {
            self.lanes.hold(record.lane, until);
        }
    }
}

/// For the simulator.
#[cfg(feature = "testing")]
impl<J> Schedule<J> {
    /// The number of delayed, ready and released jobs.
    pub(crate) fn not_running(&self) -> usize {
        self.waiting + self.released
    }

    /// Whether a job may start at the time of the last reading and is not released.
    pub(crate) fn could_start(&mut self, occupancy: Occupancy) -> bool {
        matches!(
            self.next_start(self.clock.now(), occupancy),
            Next::Job { .. }
        )
    }

    /// The numbers of all jobs without an outcome, and the jobs that are not released.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = (u64, Option<&J>)> {
        (self.records.iter()).map(|(_, record)| (record.number, record.job.as_ref()))
    }

    /// Compares all counts with the records.
    pub(crate) fn audit(&self) -> Result<(), String> {
        let count = |state| {
            self.records
                .iter()
                .filter(|(_, record)| record.state == state)
                .count()
        };
        let [delayed, ready, released] = [State::Delayed, State::Ready, State::Released].map(count);
        let counted = (delayed, delayed + ready, released);
        let known = (self.delayed.len(), self.waiting, self.released);
        if counted != known {
            return Err(format!(
                "delayed, waiting, released: {known:?} are recorded, {counted:?} counted"
            ));
        }
        let is_limited =
            |record: &Record<J>| record.job.is_some() && record.deadline != Tick::NEVER;
        let limited = self
            .records
            .iter()
            .filter(|(_, record)| is_limited(record))
            .count();
        if limited != self.deadlines.len() {
            return Err(format!(
                "{limited} jobs have a deadline, and {} are recorded",
                self.deadlines.len()
            ));
        }
        let jobs = |(_, record): (RecordId, &Record<J>)| {
            (
                record.lane,
                record.state == State::Ready,
                matches!(record.state, State::Released | State::Running),
            )
        };
        self.lanes.audit(self.records.iter().map(jobs))
    }

    /// Changes the priority of one of the waiting jobs, by `choice`.
    pub(crate) fn prioritise(&mut self, choice: u32) -> bool {
        let waiting: Vec<(RecordId, u64)> = (self.records.iter())
            .filter(|(_, record)| record.state != State::Running)
            .map(|(record_id, record)| (record_id, record.number))
            .collect();
        let Some(&(record_id, job)) = waiting.get(choice as usize % waiting.len().max(1)) else {
            return false;
        };
        self.set_priority(record_id, job, 2 - (choice % 5) as i32)
    }

    pub(crate) fn audit_at_end(&self) -> Result<(), String> {
        self.audit()?;
        if self.records.iter().next().is_some() || self.released > 0 || self.waiting > 0 {
            return Err("a job is left in the schedule".into());
        }
        self.lanes.audit_at_end()
    }
}
