//! A naive schedule, which keeps its jobs in a list and scans all of it each time, to compare with
//! the real one. It shares the limiters, which have a model of their own.

use std::collections::BTreeMap;

use super::*;

pub(super) const WORKERS: usize = 3;
pub(super) const KEYS: u32 = 4;

/// An operation on a schedule. Its target is an index among the candidates, modulo their number.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Wait(u64),
    Insert {
        priority: i32,
        cost: u32,
        key: u32,
        delay: u64,
        limit: Option<u64>,
    },
    Start(usize),
    GiveBack(usize),
    Finish(usize),
    Requeue {
        job: usize,
        delay: u64,
    },
    Remove(usize),
    SetPriority(usize, i32),
    RemoveWhere(u64),
    Pause,
    Resume,
    SetWorkers(usize),
    SetRate(Option<RateLimit>),
    SetKeyLimits(u32, Option<(Option<usize>, Option<RateLimit>)>),
    HoldKey(u32, u64),
    Hold(u64),
    HoldLane(usize, u64),
    Close,
}

/// Decodes a policy and operations from bytes, which are zero after the end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn below(&mut self, bound: u8) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first % bound
    }

    fn number(&mut self, bound: u8) -> u64 {
        self.below(bound).into()
    }

    fn index(&mut self) -> usize {
        self.below(u8::MAX).into()
    }

    fn priority(&mut self) -> i32 {
        i32::from(self.below(5)) - 2
    }

    fn limit(&mut self) -> Option<RateLimit> {
        let (form, permits) = (self.below(3), 1 + u32::from(self.below(3)));
        let period = Duration::from_nanos(1 + self.number(60));
        match form {
            0 => None,
            1 => Some(RateLimit::sliding_window(permits, period)),
            _ => Some(RateLimit::per(permits, period).burst(1 + u32::from(self.below(3)))),
        }
    }

    /// A key other than 0, which stands for none.
    fn key(&mut self) -> u32 {
        1 + u32::from(self.below(KEYS as u8 - 1))
    }

    fn key_limits(&mut self) -> Option<(Option<usize>, Option<RateLimit>)> {
        let max_running = self.number(WORKERS as u8 + 1) as usize;
        let limit = self.limit();
        (self.below(3) > 0).then_some(((max_running > 0).then_some(max_running), limit))
    }

    fn pair(&mut self) -> Pair {
        let (rate, lane_limit, max_running) = (
            self.limit(),
            self.limit(),
            1 + usize::from(self.below(WORKERS as u8)),
        );
        let step = self.number(31);
        Pair::new(rate, lane_limit, max_running, (step > 0).then_some(step))
    }

    fn op(&mut self) -> Op {
        match self.below(24) {
            0..=2 => Op::Wait(self.number(40)),
            3..=7 => Op::Insert {
                priority: self.priority(),
                cost: self.below(5).into(),
                key: u32::from(self.below(KEYS as u8)),
                delay: self.number(160).saturating_sub(80),
                limit: Some(self.number(180))
                    .filter(|limit| *limit > 90)
                    .map(|limit| limit - 90),
            },
            8..=11 => Op::Start(self.index()),
            12 => Op::GiveBack(self.index()),
            13 | 14 => Op::Finish(self.index()),
            15 => Op::Requeue {
                job: self.index(),
                delay: self.number(80),
            },
            16 => Op::Remove(self.index()),
            17 => Op::SetPriority(self.index(), self.priority()),
            18 => Op::RemoveWhere(self.number(9)),
            19 => {
                if self.below(3) == 0 {
                    Op::Pause
                } else {
                    Op::Resume
                }
            }
            20 => Op::SetWorkers(1 + usize::from(self.below(WORKERS as u8))),
            21 => Op::SetRate(self.limit()),
            22 => match self.below(4) {
                0..=1 => Op::Hold(self.number(40)),
                2 => Op::HoldKey(self.key(), self.number(40)),
                _ => Op::SetKeyLimits(self.key(), self.key_limits()),
            },
            _ if self.below(8) == 0 => Op::Close,
            _ => Op::HoldLane(self.index(), self.number(40)),
        }
    }
}

/// Runs the operations that the bytes encode; panics where the schedules differ.
pub(crate) fn drive(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut pair = bytes.pair();
    while !bytes.is_empty() {
        let op = bytes.op();
        pair.step(&op);
    }
    pair.end();
}

#[derive(Debug, Clone)]
struct Naive {
    jobs: Vec<Job>,
    lanes: BTreeMap<u32, Lane>,
    max_running: usize,
    step: Option<u64>,
    lane_limit: Option<RateLimit>,
    /// The limits of keys that have their own.
    key_limits: BTreeMap<u32, (Option<usize>, Option<RateLimit>)>,
    limiter: Option<Limiter>,
    held_until: u64,
    round_robin: u64,
    allowed: usize,
    pauses: usize,
    is_closing: bool,
}

#[derive(Debug, Clone)]
struct Job {
    number: u64,
    record_id: RecordId,
    key: u32,
    priority: i32,
    cost: u32,
    /// Since when it is ready, for aging.
    since: u64,
    at: u64,
    deadline: Option<u64>,
    attempts: u32,
    state: State,
    /// The lane's position before the job was released.
    round_robin: u64,
    /// Released before the rate was changed.
    is_recalled: bool,
}

#[derive(Debug, Clone)]
struct Lane {
    limiter: Option<Limiter>,
    held_until: u64,
    round_robin: u64,
}

/// The result of a release, by the numbers of the jobs; the started ones in order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Out {
    started: Vec<u64>,
    expired: Vec<u64>,
    cost_exceeds_limit: Vec<u64>,
}

impl Naive {
    fn of(&self, state: State) -> impl Iterator<Item = &Job> {
        self.jobs.iter().filter(move |job| job.state == state)
    }

    fn pick(&self, state: &[State], index: usize) -> Option<&Job> {
        let jobs: Vec<&Job> = self
            .jobs
            .iter()
            .filter(|job| state.contains(&job.state))
            .collect();
        (!jobs.is_empty()).then(|| jobs[index % jobs.len()])
    }

    fn job(&mut self, number: u64) -> &mut Job {
        self.jobs
            .iter_mut()
            .find(|job| job.number == number)
            .unwrap()
    }

    fn limits(&self, key: u32) -> (Option<usize>, Option<RateLimit>) {
        let of_all = (Some(self.max_running), self.lane_limit);
        self.key_limits.get(&key).copied().unwrap_or(of_all)
    }

    fn lane(&mut self, key: u32) -> &mut Lane {
        let limiter = self.limits(key).1.map(Limiter::new);
        self.lanes.entry(key).or_insert(Lane {
            limiter,
            held_until: 0,
            round_robin: 0,
        })
    }

    fn occupied(&self, key: Option<u32>) -> usize {
        let is_of = |job: &&Job| key.is_none_or(|key| job.key == key);
        self.jobs
            .iter()
            .filter(is_of)
            .filter(|job| matches!(job.state, State::Released | State::Running))
            .count()
    }

    fn enqueue(&mut self, number: u64, now: u64) {
        let job = self.job(number);
        if job.at > now {
            job.state = State::Delayed;
            return;
        }
        job.state = State::Ready;
        let key = job.key;
        if self.of(State::Ready).filter(|job| job.key == key).count() == 1 {
            self.round_robin += 1;
            self.lane(key).round_robin = self.round_robin;
        }
    }

    /// The lowest is most urgent; steps of aging begin at whole multiples.
    fn urgency(&self, job: &Job) -> i64 {
        self.step.map_or(0, |step| (job.since / step) as i64) - i64::from(job.priority)
    }

    fn max_cost(&self, key: u32) -> u32 {
        let lane = self
            .limits(key)
            .1
            .map_or(u32::MAX, |limit| limit.max_cost());
        self.limiter
            .as_ref()
            .map_or(u32::MAX, |limiter| limiter.max_cost())
            .min(lane)
    }

    fn promote_due(&mut self, now: u64) {
        let mut due: Vec<_> = self
            .of(State::Delayed)
            .filter(|job| job.at <= now)
            .map(|job| (job.at, job.record_id, job.number))
            .collect();
        due.sort_unstable();
        for (.., number) in due {
            self.enqueue(number, now);
        }
    }

    /// Whether another job has to start before a released one.
    fn is_overtaken(&mut self, number: u64, now: u64) -> bool {
        self.promote_due(now);
        let released = self.job(number).clone();
        let urgency = self.urgency(&released);
        let is_before = |job: &Job| (self.urgency(job), job.number) < (urgency, number);
        if self
            .of(State::Ready)
            .any(|job| job.key == released.key && is_before(job))
        {
            return true;
        }
        let Some((first, ..)) = self.choose(now) else {
            return false;
        };
        let first = self.job(first).clone();
        self.urgency(&first) < urgency
    }

    fn release(&mut self, now: u64) -> Out {
        let mut out = Out::default();
        let is_late = |job: &Job| {
            matches!(job.state, State::Delayed | State::Ready)
                && job.deadline.is_some_and(|deadline| deadline <= now)
        };
        out.expired = self
            .jobs
            .iter()
            .filter(|job| is_late(job))
            .map(|job| job.number)
            .collect();
        self.jobs.retain(|job| !is_late(job));
        let is_costly = |job: &Job| {
            matches!(job.state, State::Delayed | State::Ready) && job.cost > self.max_cost(job.key)
        };
        out.cost_exceeds_limit = self
            .jobs
            .iter()
            .filter(|job| is_costly(job))
            .map(|job| job.number)
            .collect();
        self.jobs
            .retain(|job| !out.cost_exceeds_limit.contains(&job.number));
        self.promote_due(now);
        while (self.pauses == 0 || self.is_closing)
            && self.occupied(None) < self.allowed.min(WORKERS)
            && self.held_until <= now
            && !self.of(State::Released).any(|job| job.is_recalled)
        {
            let Some((number, key, cost)) = self.choose(now) else {
                break;
            };
            if let Some(limiter) = &mut self.limiter {
                if limiter.earliest(Tick(now), cost).0 > now {
                    break;
                }
                limiter.reserve(cost);
            }
            self.round_robin += 1;
            let round_robin = self.round_robin;
            let lane = self.lane(key);
            let taken = std::mem::replace(&mut lane.round_robin, round_robin);
            if let Some(limiter) = &mut lane.limiter {
                limiter.reserve(cost);
            }
            let job = self.job(number);
            (job.state, job.at, job.round_robin) = (State::Released, now, taken);
            out.started.push(number);
        }
        out
    }

    /// The first job of the next lane.
    fn choose(&mut self, now: u64) -> Option<(u64, u32, u32)> {
        let firsts = (0..KEYS)
            .filter(|key| {
                let max = self.limits(*key).0;
                max.is_none_or(|max| self.occupied(Some(*key)) < max)
            })
            .filter_map(|key| {
                let ready = self.of(State::Ready).filter(|job| job.key == key);
                ready
                    .min_by_key(|job| (self.urgency(job), job.number))
                    .cloned()
            });
        let mut firsts: Vec<Job> = firsts.collect();
        firsts.sort_by_key(|job| (self.urgency(job), self.lanes[&job.key].round_robin));
        for job in firsts {
            let lane = self.lane(job.key);
            let at = lane
                .limiter
                .as_mut()
                .map_or(0, |limiter| limiter.earliest(Tick(now), job.cost).0)
                .max(lane.held_until);
            if at <= now {
                return Some((job.number, job.key, job.cost));
            }
        }
        None
    }

    /// Cancels the reservations of released jobs, which may not start any more.
    fn recall(&mut self, is_subject: impl Fn(&Job) -> bool) {
        let released: Vec<u64> = self
            .of(State::Released)
            .filter(|job| !job.is_recalled && is_subject(job))
            .map(|job| job.number)
            .collect();
        for number in released {
            self.unreserve(number);
            self.job(number).is_recalled = true;
        }
    }

    fn start(&mut self, number: u64, now: u64) {
        let job = self.job(number);
        job.state = State::Running;
        let (key, cost) = (job.key, job.cost);
        for limiter in [
            self.limiter.as_mut(),
            self.lanes
                .get_mut(&key)
                .and_then(|lane| lane.limiter.as_mut()),
        ] {
            limiter
                .into_iter()
                .for_each(|limiter| limiter.start(Tick(now), cost));
        }
    }

    fn unreserve(&mut self, number: u64) {
        let job = self.job(number);
        let (key, cost) = (job.key, job.cost);
        if std::mem::replace(&mut job.is_recalled, false) {
            return;
        }
        for limiter in [
            self.limiter.as_mut(),
            self.lanes
                .get_mut(&key)
                .and_then(|lane| lane.limiter.as_mut()),
        ] {
            limiter
                .into_iter()
                .for_each(|limiter| limiter.unreserve(cost));
        }
    }
}

/// Both schedules, and the time.
pub(super) struct Pair {
    real: Schedule<u64>,
    naive: Naive,
    now: u64,
    start: Instant,
    numbers: u64,
}

impl Pair {
    pub(crate) fn new(
        rate: Option<RateLimit>,
        lane_limit: Option<RateLimit>,
        max_running: usize,
        step: Option<u64>,
    ) -> Self {
        let start = Instant::now();
        let lanes = KeyLimits {
            max_running: Some(max_running),
            limit: lane_limit,
        };
        let policy = SchedulePolicy {
            rate,
            lanes,
            aging: step.map(Duration::from_nanos),
        };
        let naive = Naive {
            jobs: Vec::new(),
            lanes: BTreeMap::new(),
            max_running,
            step,
            lane_limit,
            key_limits: BTreeMap::new(),
            limiter: rate.map(Limiter::new),
            held_until: 0,
            round_robin: 0,
            allowed: WORKERS,
            pauses: 0,
            is_closing: false,
        };
        Self {
            real: Schedule::new(policy, WORKERS, start),
            naive,
            now: 0,
            start,
            numbers: 0,
        }
    }

    /// Applies an operation to both, then compares their releases.
    pub(super) fn step(&mut self, op: &Op) {
        self.apply(op);
        self.release();
    }

    /// Ends all jobs and checks that nothing is left.
    pub(super) fn end(mut self) {
        self.let_time_pass();
        // Giving back overtaken jobs does not loop.
        for _ in 0..200 {
            self.apply(&Op::Start(0));
            self.release();
        }
        assert_eq!(
            self.naive
                .of(State::Released)
                .filter(|_| self.naive.pauses == 0)
                .count(),
            0
        );
        // Nothing is left: no job, no lane, no time to wait for.
        let tick = self.tick();
        for job in std::mem::take(&mut self.naive.jobs) {
            match job.state {
                State::Running => self.real.finish(job.record_id, tick),
                _ => drop(self.real.remove(job.record_id, job.number, tick)),
            }
        }
        self.now += 1_000_000;
        self.release();
        let real = self.real;
        assert_eq!(
            (
                real.records.len(),
                real.lanes.len(),
                real.delayed.len(),
                real.deadlines.len()
            ),
            (0, 0, 0, 0)
        );
        assert!(real.cost_unchecked.is_empty());
        assert_eq!(
            (real.released + real.recalled, real.waiting, real.next),
            (0, 0, Tick::NEVER)
        );
    }

    fn occupancy(&self) -> Occupancy {
        let running = self.naive.of(State::Running).count();
        Occupancy {
            slots: WORKERS,
            running,
            is_closing: self.naive.is_closing,
        }
    }

    /// Passes a reading of the clock to the real schedule.
    fn tick(&mut self) -> Tick {
        let at = self.start + Duration::from_nanos(self.now);
        let generation = self.real.generation();
        let tick = self.real.accept_reading(Reading { at, generation });
        assert_eq!(tick, Tick(self.now));
        tick
    }

    fn apply(&mut self, op: &Op) {
        let tick = self.tick();
        let now = self.now;
        let waiting = [State::Delayed, State::Ready];
        match *op {
            Op::Wait(wait) => self.now += wait,
            Op::Insert {
                priority,
                cost,
                key,
                delay,
                limit,
            } => {
                let number = self.numbers;
                self.numbers += 1;
                let deadline = limit.map(|limit| now + limit);
                let start = match number % 3 {
                    _ if delay == 0 => StartAt::Now,
                    0 => StartAt::NotBefore(self.start + Duration::from_nanos(now + delay)),
                    _ => StartAt::After(Duration::from_nanos(delay)),
                };
                let instant = |at| self.start + Duration::from_nanos(at);
                // Key 0 stands for none.
                let options = ScheduleOptions {
                    priority,
                    cost,
                    key: (key > 0).then(|| Key::from(key)),
                    start,
                    deadline: deadline.map(instant),
                };
                let record_id = self.real.insert(number, number, options, tick);
                let (since, at, state) = (now + delay, now + delay, State::Ready);
                self.naive.jobs.push(Job {
                    number,
                    record_id,
                    key,
                    priority,
                    cost,
                    since,
                    at,
                    deadline,
                    attempts: 0,
                    state,
                    round_robin: 0,
                    is_recalled: false,
                });
                self.naive.enqueue(number, now);
            }
            Op::Start(index) => {
                let Some(job) = self.naive.pick(&[State::Released], index) else {
                    return;
                };
                let (number, record_id, is_recalled) = (job.number, job.record_id, job.is_recalled);
                let held_until = self.naive.lanes[&job.key]
                    .held_until
                    .max(self.naive.held_until);
                assert!(
                    self.real.is_released(record_id, number)
                        && !self.real.is_released(record_id, number + 1)
                );
                let may = self.naive.of(State::Running).count() < self.naive.allowed.min(WORKERS)
                    && (self.naive.pauses == 0 || self.naive.is_closing)
                    && held_until <= now
                    && !is_recalled;
                assert_eq!(
                    self.real.may_still_start(record_id, self.occupancy(), tick),
                    may
                );
                let is_overtaken = self.real.is_overtaken(record_id, tick);
                assert_eq!(is_overtaken, self.naive.is_overtaken(number, now));
                if is_overtaken || !may {
                    self.give_back(record_id, number, tick);
                } else {
                    let occupancy = self.occupancy();
                    self.real.start(record_id, occupancy, tick);
                    self.naive.start(number, now);
                    // No release here: a start lets no other job start at once, and sets `next` for
                    // those that waited for it.
                    self.check_next();
                }
            }
            Op::GiveBack(index) => {
                let Some(job) = self.naive.pick(&[State::Released], index) else {
                    return;
                };
                let (number, record_id) = (job.number, job.record_id);
                self.give_back(record_id, number, tick);
            }
            Op::Finish(index) => {
                let Some(job) = self.naive.pick(&[State::Running], index) else {
                    return;
                };
                let (number, record_id) = (job.number, job.record_id);
                self.real.finish(record_id, tick);
                self.naive.jobs.retain(|job| job.number != number);
            }
            Op::Requeue { job, delay } => {
                let Some(job) = self.naive.pick(&[State::Running], job) else {
                    return;
                };
                let (number, record_id) = (job.number, job.record_id);
                let mut history = History::new(self.start);
                self.naive.job(number).attempts += 1;
                history.attempts = self.naive.job(number).attempts;
                self.real.reschedule(
                    record_id,
                    number,
                    Box::new(history),
                    Tick(now + delay),
                    tick,
                );
                assert_eq!(
                    self.real.attempts(record_id, number),
                    self.naive.job(number).attempts
                );
                assert_eq!(self.real.attempts(record_id, number + 1), 0);
                self.naive.job(number).at = now + delay;
                self.naive.enqueue(number, now);
            }
            Op::Remove(index) => {
                let states = [State::Delayed, State::Ready, State::Released];
                let Some(Job {
                    number,
                    record_id,
                    state,
                    ..
                }) = self.naive.pick(&states, index).cloned()
                else {
                    return;
                };
                assert_eq!(self.real.remove(record_id, number + 1, tick).0, None);
                let left = self.real.remove(record_id, number, tick).0;
                assert_eq!(left, waiting.contains(&state).then_some(number));
                if state == State::Released {
                    self.naive.unreserve(number);
                }
                self.naive.jobs.retain(|job| job.number != number);
            }
            Op::SetPriority(index, priority) => {
                let Some(job) = self.naive.pick(
                    &[
                        State::Delayed,
                        State::Ready,
                        State::Released,
                        State::Running,
                    ],
                    index,
                ) else {
                    return;
                };
                let Job {
                    number,
                    record_id,
                    state,
                    ..
                } = *job;
                assert_eq!(
                    self.real.set_priority(record_id, number, priority),
                    state != State::Running
                );
                if state != State::Running {
                    self.naive.set_priority(number, priority);
                }
            }
            Op::RemoveWhere(digit) => {
                let will_not_run = |number: &u64| number % 9 == digit;
                let removed = self.real.remove_where(tick, will_not_run);
                let mut out: Vec<_> = removed
                    .iter()
                    .map(|removed| (removed.job, removed.attempts()))
                    .collect();
                out.sort_unstable();
                let is_out = |job: &Job| waiting.contains(&job.state) && will_not_run(&job.number);
                let expected: Vec<_> = self
                    .naive
                    .jobs
                    .iter()
                    .filter(|job| is_out(job))
                    .map(|job| (job.number, job.attempts))
                    .collect();
                assert_eq!(out, expected);
                self.naive.jobs.retain(|job| !is_out(job));
            }
            Op::Pause => {
                self.real.pause();
                self.naive.pauses += 1;
            }
            Op::Resume => {
                self.real.resume();
                self.naive.pauses = self.naive.pauses.saturating_sub(1);
                assert_eq!(self.real.is_paused(), self.naive.pauses > 0);
            }
            Op::SetWorkers(count) => {
                self.real.allow(count);
                self.naive.allowed = count;
                assert_eq!(self.real.usable(usize::MAX), count);
            }
            Op::SetRate(limit) => {
                self.real.set_rate(limit, tick);
                self.naive.recall(|_| true);
                match (&mut self.naive.limiter, limit) {
                    (Some(limiter), Some(limit)) => limiter.set_limit(limit, tick),
                    (limiter, limit) => *limiter = limit.map(Limiter::new),
                }
            }
            Op::SetKeyLimits(key, limits) => {
                let policy = limits.map(|(max_running, limit)| KeyLimits { max_running, limit });
                self.real.set_key_limits(Key::from(key), policy, tick);
                self.naive.recall(|job| job.key == key);
                match limits {
                    Some(limits) => drop(self.naive.key_limits.insert(key, limits)),
                    None => drop(self.naive.key_limits.remove(&key)),
                }
                let limit = self.naive.limits(key).1;
                if let Some(lane) = self.naive.lanes.get_mut(&key) {
                    match (&mut lane.limiter, limit) {
                        (Some(limiter), Some(limit)) => limiter.set_limit(limit, tick),
                        (limiter, limit) => *limiter = limit.map(Limiter::new),
                    }
                }
            }
            Op::HoldKey(key, wait) => {
                self.real.hold_key(Key::from(key), Tick(now + wait), tick);
                let lane = self.naive.lane(key);
                lane.held_until = lane.held_until.max(now + wait);
            }
            Op::Hold(wait) => {
                self.real.hold(Tick(now + wait));
                self.naive.held_until = self.naive.held_until.max(now + wait);
            }
            Op::HoldLane(index, wait) => {
                let Some(job) = self.naive.pick(&[State::Running], index) else {
                    return;
                };
                let (record_id, key) = (job.record_id, job.key);
                self.real.hold_lane(record_id, Tick(now + wait));
                let lane = self.naive.lane(key);
                lane.held_until = lane.held_until.max(now + wait);
            }
            Op::Close => self.naive.is_closing = true,
        }
    }

    /// The real schedule's `next` is not later than the next event.
    fn check_next(&self) {
        let next = self.real.wake_at();
        // What can happen at some time can happen later too, so checking the last tick before
        // suffices.
        let last = (next.0 - 1).min(self.now + 1_000_000);
        assert_eq!(
            self.naive.clone().release(last),
            Out::default(),
            "at {last}, but it asks for {next:?}"
        );
    }

    /// Lets time pass with no other change. There are few releases, since each has something to do
    /// and none waits for the start or the end of a job.
    fn let_time_pass(&mut self) {
        let lanes = self.naive.lanes.len();
        // For each job a delay, a release and a deadline; for each lane a wait and a refill; and a
        // hold.
        let max = 3 * self.naive.jobs.len() + 2 * lanes + 1;
        for _ in 0..max {
            if self.real.wake_at() == Tick::NEVER {
                return;
            }
            self.now = self.real.wake_at().0;
            self.release();
        }
        assert_eq!(
            self.real.wake_at(),
            Tick::NEVER,
            "it asks for one moment after another for nothing"
        );
    }

    /// The real schedule is deadlocked if a slot is free and nothing will start, whatever time
    /// passes.
    fn check_deadlocked(&self) {
        let waiting = self.real.delayed() + self.naive.of(State::Ready).count();
        let mut later = self.naive.clone();
        later.jobs.iter_mut().for_each(|job| job.deadline = None);
        let will_start = !later.release(1_000_000).started.is_empty();
        let is_free = (self.naive.pauses == 0 || self.naive.is_closing)
            && self.naive.occupied(None) < self.naive.allowed.min(WORKERS);
        let is_on_its_way = self.naive.of(State::Released).next().is_some();
        let is_deadlocked = is_free && !will_start && !is_on_its_way;
        // Whether a delayed job can start is known only when its time comes.
        if self.real.delayed() == 0 && self.naive.held_until <= self.now {
            assert_eq!(self.real.waits_for_running(waiting), is_deadlocked);
        }
        assert!(
            is_deadlocked || !self.real.waits_for_running(waiting),
            "it says that nothing will start"
        );
        assert!(
            !self.real.waits_for_running(waiting + 1),
            "one more is on its way to it"
        );
    }

    fn give_back(&mut self, record_id: RecordId, number: u64, now: Tick) {
        self.real.give_back(record_id, number, now);
        self.naive.unreserve(number);
        self.naive.job(number).at = now.0;
        self.naive.enqueue(number, now.0);
        let Job {
            key, round_robin, ..
        } = *self.naive.job(number);
        let lane = self.naive.lane(key);
        lane.round_robin = lane.round_robin.min(round_robin);
    }

    /// Releases from both and compares the results.
    fn release(&mut self) {
        let (tick, occupancy) = (self.tick(), self.occupancy());
        let mut released = Released::new();
        self.real.release(tick, occupancy, &mut released);
        let Released {
            first,
            more,
            mut expired,
            mut cost_exceeds_limit,
        } = released;
        expired.sort_unstable_by_key(|removed| removed.job);
        cost_exceeds_limit.sort_unstable_by_key(|(removed, ..)| removed.job);
        let out = Out {
            started: first
                .into_iter()
                .chain(more)
                .map(|(number, _)| number)
                .collect(),
            expired: expired.into_iter().map(|removed| removed.job).collect(),
            cost_exceeds_limit: cost_exceeds_limit
                .into_iter()
                .map(|(removed, ..)| removed.job)
                .collect(),
        };
        assert_eq!(out, self.naive.release(self.now), "at {}", self.now);
        assert!(self.real.wake_at() > tick, "it asks for what has passed");
        self.check_next();
        assert_eq!(self.real.delayed(), self.naive.of(State::Delayed).count());
        self.check_deadlocked();
        for slots in 0..=WORKERS {
            let occupied = self.naive.occupied(None);
            let surplus = occupied.saturating_sub(self.naive.allowed.min(slots));
            let occupancy = Occupancy {
                slots,
                ..self.occupancy()
            };
            assert_eq!(self.real.surplus(occupancy), surplus);
        }
        for job in &self.naive.jobs {
            let key = (job.key > 0).then(|| Key::from(job.key));
            assert_eq!(self.real.key(job.record_id), key.as_ref());
            let is_here = matches!(job.state, State::Delayed | State::Ready);
            assert_eq!(self.real.job(job.record_id), is_here.then_some(&job.number));
        }
    }
}

impl Naive {
    fn set_priority(&mut self, number: u64, priority: i32) {
        // A lane whose only job is removed and added again goes behind the others.
        let job = self.job(number);
        if std::mem::replace(&mut job.priority, priority) == priority {
            return;
        }
        let (key, state) = (job.key, job.state);
        if state == State::Ready && self.of(State::Ready).filter(|job| job.key == key).count() == 1
        {
            self.round_robin += 1;
            self.lane(key).round_robin = self.round_robin;
        }
    }
}
