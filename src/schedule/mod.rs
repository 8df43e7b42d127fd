//! Which job may start when: the queue of a pool that has a policy. In come accepted jobs with
//! their options, and the news that one has started, ended, or is to be tried again; out come, each
//! time it is asked to [`release`](Schedule::release), the jobs that may start now, those whose
//! time is over, and when to ask again.
//!
//! Pure: no lock, no async, no clock of its own. The README beside this file shows why no permit
//! leaks and no wake-up is lost; read on in the order of the stages: [`clock`], [`order`],
//! [`lanes`], [`limiter`].
//!
//! A job has a *record* from its arrival to its outcome. It is delayed (has a time before which it
//! may not start), ready, released (on its way to a worker, with its permits), or running.

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
use self::lanes::{Key, LanePolicy, Lanes};
use self::limiter::{Limiter, RateLimit};
use self::order::{Aging, Rank};
pub(crate) use self::slab::RecordId;
use self::slab::Slab;
use crate::policy::retry::History;

/// What the builder decides.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Policy {
    pub(crate) rate: Option<RateLimit>,
    pub(crate) lanes: LanePolicy,
    pub(crate) aging: Option<Duration>,
}

/// What a job asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScheduleOptions {
    pub(crate) priority: i32,
    /// In permits of the rate limits.
    pub(crate) cost: u32,
    pub(crate) key: Option<Key>,
    pub(crate) start: Start,
    /// When its time is over; it is not released after that.
    pub(crate) deadline: Option<Instant>,
}

/// When a job may start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Start {
    #[default]
    Now,
    After(Duration),
    NotBefore(Instant),
}

/// How many jobs may run, and how many do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occupancy {
    pub(crate) slots: usize,
    pub(crate) running: usize,
    /// Whether the pool is on its way to its end; a pause does not hold that up.
    pub(crate) is_closing: bool,
}

/// A job that leaves the schedule for good.
#[derive(Debug)]
pub(crate) struct Removed<J> {
    pub(crate) job: J,
    /// Dropping it may run code of the user's.
    pub(crate) history: Option<Box<History>>,
}

impl<J> Removed<J> {
    /// How many attempts were made.
    pub(crate) fn attempts(&self) -> u32 {
        self.history.as_ref().map_or(0, |history| history.attempts)
    }
}

/// What may be done now.
#[derive(Debug)]
pub(crate) struct Released<J> {
    /// May start.
    pub(crate) first: Option<(J, RecordId)>,
    /// May start as well, in this order.
    pub(crate) more: Vec<(J, RecordId)>,
    /// Have run out of their time.
    pub(crate) expired: Vec<Removed<J>>,
    /// Cost more than a limit ever allows, and how much that is.
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
    /// Of those that are delayed or ready.
    deadlines: BTreeSet<Due>,
    limiter: Option<Limiter>,
    /// Jobs that may cost more than a limit allows, until the next release.
    cost_unchecked: Vec<RecordId>,
    /// Nothing starts before.
    held_until: Tick,
    aging: Aging,
    /// How many are released and not started.
    released: usize,
    /// How many of these are recalled. Nothing is released before they are back, since they may
    /// come first.
    recalled: usize,
    /// How many of the slots may run jobs.
    allowed: usize,
    pauses: usize,
    next: Tick,
    /// How many are delayed or ready.
    waiting: usize,
    /// Whether a worker is free and no job will start, whatever time passes.
    is_stalled: bool,
    /// Whether the job whose turn it is needs permits that are kept for released jobs: it waits for
    /// one of them to start.
    needs_start: bool,
}

/// What may start next.
enum Next {
    /// This job of this lane, at this cost, now.
    Job {
        lane: RecordId,
        record_id: RecordId,
        cost: u32,
    },
    /// Nothing before this time, if nothing happens until then.
    At(Tick),
}

#[derive(Debug)]
struct Record<J> {
    /// `None` while it is released or running.
    job: Option<J>,
    /// In the order of acceptance.
    number: u64,
    rank: Rank,
    /// The time before which it may not start.
    at: Tick,
    deadline: Tick,
    history: Option<Box<History>>,
    lane: RecordId,
    /// The one that its lane had before it was released.
    round_robin: u64,
    cost: u32,
    priority: i32,
    state: State,
    /// Released under another rate than that of now: no permits of the pool's are kept for it, and
    /// it comes back for some.
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
    /// An empty schedule for a pool with so many slots.
    pub(crate) fn new(policy: Policy, slots: usize, start: Instant) -> Self {
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

    pub(crate) fn read(&mut self, reading: Reading) -> Tick {
        self.clock.read(reading)
    }

    /// When to ask again if nothing happens before.
    pub(crate) const fn next(&self) -> Tick {
        self.next
    }

    /// What time it was when it was last told.
    pub(crate) const fn now(&self) -> Tick {
        self.clock.now()
    }

    /// The alarm for this tick has gone off: whatever the clock shows, it is that late.
    pub(crate) fn advance_to(&mut self, tick: Tick) {
        self.clock.advance_to(tick);
    }

    /// Whether alarms that were set before are too late: the clock has stepped back since this was
    /// asked last.
    pub(crate) const fn take_step_back(&mut self) -> bool {
        self.clock.take_step_back()
    }

    /// What the clock shows at a tick; `None`: it never will.
    pub(crate) fn instant(&self, tick: Tick) -> Option<Instant> {
        self.clock.instant(tick)
    }

    // ---- figures ----

    /// How many are delayed.
    pub(crate) fn delayed(&self) -> usize {
        self.delayed.len()
    }

    /// Whether no job that waits can start before one that runs ends, though all of `queued` jobs
    /// have `end_delivery` here.
    pub(crate) const fn is_deadlocked(&self, queued: usize) -> bool {
        self.is_stalled && self.released == 0 && self.waiting == queued
    }

    /// How many of the slots may run jobs.
    pub(crate) const fn allowed(&self) -> usize {
        self.allowed
    }

    pub(crate) fn key(&self, record_id: RecordId) -> Option<&Key> {
        self.lanes.key(self.records.get(record_id)?.lane)
    }

    // ---- the way of a job ----

    /// A job was accepted; `number` is its place in the order of acceptance.
    pub(crate) fn insert(
        &mut self,
        job: J,
        number: u64,
        options: ScheduleOptions,
        now: Tick,
    ) -> RecordId {
        let at = match options.start {
            Start::Now => now,
            Start::After(delay) => now.after(delay),
            Start::NotBefore(instant) => self.clock.tick(instant),
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

    /// Puts a job among the delayed or the ready ones, by the time before which it may not start.
    fn enqueue(&mut self, record_id: RecordId, now: Tick) {
        let max_cost = self.max_cost();
        let Some(record) = self.records.get_mut(record_id) else {
            return;
        };
        self.waiting += 1;
        // `>` or `>=`: they are looked at again before they go, and one that costs just so much
        // stays.
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

    /// Takes a job out of the sets that it waits in.
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

    /// Says what may start now, what has run out of time, and, in [`next`](Self::next), when to ask
    /// again.
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

    /// Asks for the next moment, given when the next job may start: that, or a deadline, or when
    /// lanes may be forgotten.
    fn set_next(&mut self, soonest: Tick, occupancy: Occupancy) {
        self.is_stalled = soonest == Tick::NEVER && self.may_start(occupancy, self.released);
        let deadline = self.deadlines.first().map_or(Tick::NEVER, |due| due.tick());
        self.next = soonest.min(deadline).min(self.lanes.refilled_at());
    }

    /// Nothing starts any more: there is no moment at which to ask again.
    pub(crate) const fn stop(&mut self) {
        self.next = Tick::NEVER;
    }

    /// Lets those take part whose time has come.
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

    /// Releases jobs while a worker is free; returns when the next one may start, should one be
    /// free still.
    fn release_ready(&mut self, now: Tick, occupancy: Occupancy, out: &mut Released<J>) -> Tick {
        // Each round occupies a slot.
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
                record.at = now;
                if let Some(job) = record.job.take() {
                    out.push(job, record_id);
                }
            }
        }
    }

    /// What may start now, or when something may. A time is one at which something can be done, if
    /// nothing happens before: never, while every slot is occupied or spoken for, and while permits
    /// are kept for released jobs that the next one needs.
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
        let Some((lane, record_id)) = self.lanes.first(now, cost_of) else {
            return Next::At(delayed.min(self.lanes.next()));
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
        // One that is delayed, or whose key is, may be of a greater priority and of a smaller cost.
        Next::At(at.min(delayed).min(self.lanes.next()))
    }

    fn remove_over_limit(&mut self, now: Tick, out: &mut Released<J>) {
        let max_cost = self.max_cost();
        for record_id in std::mem::take(&mut self.cost_unchecked) {
            // It may have gone meanwhile, or the limit may have grown.
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
            && occupancy.running + released < self.allowed.min(occupancy.slots)
    }

    /// The most that one job may cost.
    pub(crate) fn max_cost(&self) -> u32 {
        self.limiter
            .as_ref()
            .map_or(u32::MAX, Limiter::max_cost)
            .min(self.lanes.max_cost())
    }

    /// The state of a job; its record id may be another's by now.
    fn state(&self, record_id: RecordId, number: u64) -> Option<State> {
        self.records
            .get(record_id)
            .filter(|record| record.number == number)
            .map(|record| record.state)
    }

    /// Whether this job is on its way to a worker.
    pub(crate) fn is_released(&self, record_id: RecordId, number: u64) -> bool {
        self.state(record_id, number) == Some(State::Released)
    }

    /// Whether a released job may still start, now that a worker has come to it.
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

    /// Whether a released job, to which a worker has come, has to let another one go first: one
    /// that has come since, or was moved up.
    ///
    /// Where it does and is put back, the other one is released before it, or waits for permits
    /// before it; so no worker turns in a circle.
    pub(crate) fn is_overtaken(&mut self, record_id: RecordId, now: Tick) -> bool {
        self.promote_due(now);
        let Some(Record {
            rank, number, lane, ..
        }) = self.records.get(record_id)
        else {
            return false;
        };
        // Its own lane may be full or out of permits because of this very job.
        if self.lanes.is_before(*lane, *rank, *number) {
            return true;
        }
        let cost_of = |record_id| self.records.get(record_id).map_or(0, |record| record.cost);
        let first = self
            .lanes
            .first(now, cost_of)
            .and_then(|(_, record_id)| self.records.get(record_id));
        first.is_some_and(|first| first.rank < *rank)
    }

    /// A released job starts, under this occupancy so far; returns what is known of its former attempts.
    ///
    /// Others may have waited for that, and for no time: none of them may start at once, as the
    /// permits that were kept are taken, but from now on there is a time for them, and
    /// [`next`](Self::next) is the earlier for it.
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
            let occupancy = Occupancy {
                running: occupancy.running + 1,
                ..occupancy
            };
            let soonest = match self.next_start(now, occupancy) {
                // Its time has come since the last release, and is looked at in its turn.
                Next::Job { .. } => now,
                Next::At(at) => at,
            };
            self.set_next(soonest, occupancy);
        }
        history
    }

    /// A released job does not start yet: takes it back, and the permits that are kept for it.
    pub(crate) fn give_back(&mut self, record_id: RecordId, job: J, now: Tick) {
        self.unreserve(record_id);
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

    /// Takes back what is kept for a released job.
    fn unreserve(&mut self, record_id: RecordId) {
        let Some(record) = self.records.get(record_id) else {
            return;
        };
        self.released -= 1;
        if record.is_recalled {
            self.recalled -= 1;
        } else if let Some(limiter) = &mut self.limiter {
            limiter.unreserve(record.cost);
        }
        self.lanes.unreserve(record.lane, record.cost);
    }

    /// A running job waits for another attempt, which may not start before `at`.
    pub(crate) fn requeue(
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

    /// A running job has its outcome.
    pub(crate) fn finish(&mut self, record_id: RecordId, now: Tick) {
        if let Some(record) = self.records.remove(record_id) {
            self.lanes.finish(record.lane);
            self.lanes.remove_job(record.lane, now);
        }
    }

    /// A job that is not running has its outcome. Returns what is left in its record; a released
    /// one has no job there.
    pub(crate) fn remove(
        &mut self,
        record_id: RecordId,
        number: u64,
        now: Tick,
    ) -> (Option<J>, Option<Box<History>>) {
        match self.state(record_id, number) {
            None | Some(State::Running) => return (None, None),
            Some(State::Released) => self.unreserve(record_id),
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

    /// Removes a job that is delayed or ready.
    fn remove_waiting(&mut self, record_id: RecordId, now: Tick) -> Option<Removed<J>> {
        self.dequeue(record_id);
        let Record {
            job, history, lane, ..
        } = self.records.remove(record_id)?;
        self.lanes.remove_job(lane, now);
        job.map(|job| Removed { job, history })
    }

    /// The job itself, while it is delayed or ready.
    pub(crate) fn job(&self, record_id: RecordId) -> Option<&J> {
        self.records.get(record_id)?.job.as_ref()
    }

    /// How many attempts were made of a job that is not running.
    pub(crate) fn attempts(&self, record_id: RecordId, number: u64) -> u32 {
        let record = self
            .records
            .get(record_id)
            .filter(|record| record.number == number);
        record
            .and_then(|record| record.history.as_ref())
            .map_or(0, |history| history.attempts)
    }

    /// Changes the priority of a job that does not run yet; says whether it was in time.
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

    /// Removes the delayed and ready jobs of which `is_dead` is true.
    pub(crate) fn remove_where(
        &mut self,
        now: Tick,
        is_dead: impl Fn(&J) -> bool,
    ) -> Vec<Removed<J>> {
        let record_ids: Vec<RecordId> = (self.records.iter())
            .filter(|(_, record)| record.job.as_ref().is_some_and(&is_dead))
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
        // Any of them may cost too much now; the next look finds out which.
        self.cost_unchecked = self
            .records
            .iter()
            .map(|(record_id, _)| record_id)
            .collect();
        // What has not started counts under the new rate, and under no other.
        for record_id in &self.cost_unchecked {
            let is_released =
                |record: &&mut Record<J>| record.state == State::Released && !record.is_recalled;
            let Some(record) = self.records.get_mut(*record_id).filter(is_released) else {
                continue;
            };
            record.is_recalled = true;
            self.recalled += 1;
        }
        match (&mut self.limiter, limit) {
            (Some(limiter), Some(limit)) => limiter.set_limit(limit, now),
            (limiter, limit) => *limiter = limit.map(Limiter::new),
        }
    }

    /// Lets nothing start before `until`.
    pub(crate) fn hold(&mut self, until: Tick) {
        self.held_until = self.held_until.max(until);
    }

    /// Lets nothing of this job's key start before `until`.
    pub(crate) fn hold_lane(&mut self, record_id: RecordId, until: Tick) {
        if let Some(record) = self.records.get(record_id) {
            self.lanes.hold(record.lane, until);
        }
    }
}

/// For the simulator.
#[cfg(feature = "testing")]
impl<J> Schedule<J> {
    /// How many are delayed, ready or released.
    pub(crate) fn not_running(&self) -> usize {
        self.waiting + self.released
    }

    /// Whether a job may start at the time that was told last, though none was released.
    pub(crate) fn could_start(&mut self, occupancy: Occupancy) -> bool {
        matches!(
            self.next_start(self.clock.now(), occupancy),
            Next::Job { .. }
        )
    }

    /// Counts everything anew.
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
                "delayed, waiting, released: {counted:?}, and {known:?} in the books"
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
                "{limited} jobs have a deadline, and {} are in the books",
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

    /// Gives a priority to one of the jobs that wait, for the simulator; any will do.
    pub(crate) fn prioritise(&mut self, number: u32) -> bool {
        let waiting: Vec<(RecordId, u64)> = (self.records.iter())
            .filter(|(_, record)| record.state != State::Running)
            .map(|(record_id, record)| (record_id, record.number))
            .collect();
        let Some(&(record_id, job)) = waiting.get(number as usize % waiting.len().max(1)) else {
            return false;
        };
        self.set_priority(record_id, job, 2 - (number % 5) as i32)
    }

    pub(crate) fn audit_at_end(&self) -> Result<(), String> {
        self.audit()?;
        if self.records.iter().next().is_some() || self.released > 0 || self.waiting > 0 {
            return Err("a job is left in the schedule".into());
        }
        self.lanes.audit_at_end()
    }
}
