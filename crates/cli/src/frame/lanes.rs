//! What runs and waits in each lane, and its limits, which a server may lower for a while.
//!
//! The pool keeps the limits. [`Lanes`] tells it of changes, and knows why a row waits.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use brigade::{KeyLimits, Pool};

use super::times::RowState;
use super::work::Lane;
use crate::options::values::{MaxFailures, Rate};
use crate::report::sidecar::MAX_PAUSES;

/// A lane becomes no slower than one start in this time, so that a server that refuses everything
/// does not keep a run for days. It is halved once in any case.
const SLOWEST: Duration = Duration::from_secs(10);
/// By what factor the rate of a lane rises again, at most once a second.
const RECOVERY: f64 = 1.25;
const RECOVERY_STEP: Duration = Duration::from_secs(1);

/// The limits of a lane as they were set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LaneLimits {
    pub(crate) rate: Option<Rate>,
    pub(crate) workers: Option<usize>,
}

/// The limits of all lanes, and of those that have their own.
#[derive(Debug, Clone)]
pub(crate) struct LimitTable {
    pub(crate) all: LaneLimits,
    /// By a name of the lane.
    pub(crate) own: HashMap<String, LaneLimits>,
    /// The names that a lane may have in `own`, the more exact one first.
    pub(crate) names_of: fn(&str) -> [&str; 2],
}

impl LimitTable {
    /// The same limits for all lanes.
    pub(crate) fn all(limits: LaneLimits) -> Self {
        Self {
            all: limits,
            own: HashMap::new(),
            names_of: |lane| [lane; 2],
        }
    }

    /// The name under which a lane has limits of its own.
    pub(crate) fn own_name<'a>(&self, lane: &'a str) -> Option<&'a str> {
        let mut names = (self.names_of)(lane).into_iter();
        names.find(|name| self.own.contains_key(*name))
    }

    pub(crate) fn of(&self, lane: &str) -> LaneLimits {
        let own = self.own_name(lane).and_then(|name| self.own.get(name));
        own.copied().unwrap_or(self.all)
    }
}

/// Why rows wait although not all workers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Cause {
    /// All workers run: the servers, or the commands, take their time.
    Busy,
    /// Nothing: they are on their way to a worker.
    Start,
    /// The total rate.
    Rate,
    HostRate,
    HostWorkers,
    RetryAfter,
    Backoff,
    /// The input has no row that could start.
    Input,
    /// All rows have started.
    End,
}

impl Cause {
    /// Whether each lane has its own.
    const fn is_of_lane(self) -> bool {
        matches!(self, Self::HostRate | Self::HostWorkers | Self::RetryAfter)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Busy => "server",
            Self::Start => "a start",
            Self::Rate => "rate",
            Self::HostRate => "host rate",
            Self::HostWorkers => "host workers",
            Self::RetryAfter => "Retry-After",
            Self::Backoff => "backoff",
            Self::Input => "input",
            Self::End => "idle",
        }
    }
}

/// A time in which a server wants no requests.
#[derive(Debug, Clone)]
pub(crate) struct Pause {
    pub(crate) lane: Lane,
    pub(crate) at: Instant,
    pub(crate) time: Duration,
}

/// The lanes of a run.
pub(crate) struct Lanes {
    limits: LimitTable,
    total_rate: Option<Rate>,
    /// How many jobs run at once.
    workers: usize,
    lanes: HashMap<Lane, State>,
    running: usize,
    /// Rows that wait between attempts, until [`rested`](Self::rested) is called.
    resting: Vec<Rc<RowState>>,
    pauses: Vec<Pause>,
    pauses_left_out: usize,
    set_limits: Box<dyn Fn(&Lane, KeyLimits)>,
    hold: Box<dyn Fn(&Lane, Duration)>,
    pause: Box<dyn Fn()>,
    retries: u32,
    max_failures: Option<MaxFailures>,
    /// How many rows of this run have ended, and how many of them failed.
    ended: u64,
    failed: u64,
}

struct State {
    limits: LaneLimits,
    running: usize,
    waiting: usize,
    /// How many of those that wait do so between attempts.
    backing_off: usize,
    last_start: Option<Instant>,
    held_until: Option<Instant>,
    /// By what factor the lane is slower than its limits say; at least 1.
    slowdown: f64,
    /// The rate that the slowdown starts from.
    base: Option<Rate>,
    changed_at: Instant,
    /// Failures to reach the host, without a success between.
    failures: usize,
}

/// The lanes, shared by the frame and its jobs. They run on one thread.
pub(crate) type SharedLanes = Rc<RefCell<Lanes>>;

impl Lanes {
    pub(crate) fn new(workers: usize, total_rate: Option<Rate>, limits: LimitTable) -> SharedLanes {
        Rc::new(RefCell::new(Self {
            limits,
            total_rate,
            workers,
            lanes: HashMap::new(),
            running: 0,
            resting: Vec::new(),
            pauses: Vec::new(),
            pauses_left_out: 0,
            set_limits: Box::new(|_, _| ()),
            hold: Box::new(|_, _| ()),
            pause: Box::new(|| ()),
            retries: 0,
            max_failures: None,
            ended: 0,
            failed: 0,
        }))
    }

    /// Names the pool whose limits are changed, and after how many failures it is paused; a row
    /// that fails has this many retries.
    pub(crate) fn attach<In: 'static, T: 'static, E: 'static>(
        &mut self,
        pool: &Pool<In, T, E>,
        retries: u32,
        max_failures: Option<MaxFailures>,
    ) {
        let set = pool.clone();
        self.set_limits =
            Box::new(move |lane, limits| set.set_key_limits(Lane::clone(lane), limits));
        let hold = pool.clone();
        self.hold = Box::new(move |lane, time| hold.hold_key(Lane::clone(lane), time));
        let pause = pool.clone();
        self.pause = Box::new(move || pause.pause());
        (self.retries, self.max_failures) = (retries, max_failures);
    }

    /// Lets go of the pool.
    pub(crate) fn detach(&mut self) {
        self.set_limits = Box::new(|_, _| ());
        self.hold = Box::new(|_, _| ());
        self.pause = Box::new(|| ());
    }

    /// Counts a row that has ended. Pauses the pool at once if enough have failed: the loop that
    /// reads outcomes may come later than the next start.
    pub(crate) fn count(&mut self, is_failed: bool) {
        self.ended += 1;
        self.failed += u64::from(is_failed);
        if self.has_failed_enough() {
            (self.pause)();
        }
    }

    /// Whether as many rows have failed as `--max-failures` says.
    pub(crate) fn has_failed_enough(&self) -> bool {
        const FEW: u64 = 100;
        match self.max_failures {
            Some(MaxFailures::Count(most)) => self.failed >= most,
            Some(MaxFailures::Percent(most)) => {
                self.ended >= FEW && self.failed as f64 * 100.0 > most * self.ended as f64
            }
            None => false,
        }
    }

    pub(crate) const fn retries(&self) -> u32 {
        self.retries
    }

    /// How many rows of a lane may be in the pool at once: those that may run, and as many that
    /// wait behind them.
    pub(crate) fn quota(&self, lane: &str) -> usize {
        let workers = self.limits.of(lane).workers.unwrap_or(self.workers);
        workers.min(self.workers) * 2
    }

    pub(crate) const fn limits(&self) -> &LimitTable {
        &self.limits
    }

    // ---- what becomes of jobs ----

    /// A job waits for its first start.
    pub(crate) fn wait(&mut self, lane: &Lane) {
        self.lane(lane).waiting += 1;
    }

    /// A job that waited starts.
    pub(crate) fn start(&mut self, lane: &Lane, now: Instant, is_retry: bool) {
        self.running += 1;
        let state = self.lane(lane);
        state.waiting -= 1;
        state.running += 1;
        state.backing_off -= usize::from(is_retry);
        state.last_start = Some(now);
    }

    /// A job that ran has ended.
    pub(crate) fn end(&mut self, lane: &Lane) {
        self.running -= 1;
        self.lane(lane).running -= 1;
        self.forget(lane);
    }

    /// Drops a lane of which there is nothing to know.
    fn forget(&mut self, lane: &Lane) {
        if self.lanes.get(lane).is_some_and(State::is_new) {
            self.lanes.remove(lane);
        }
    }

    /// A job whose attempt has ended waits for another one.
    pub(crate) fn wait_again(&mut self, lane: &Lane, row: Rc<RowState>) {
        self.wait(lane);
        self.lane(lane).backing_off += 1;
        self.resting.push(row);
    }

    /// The rows that have begun to wait between attempts since the last call.
    pub(crate) fn rested(&mut self) -> Vec<Rc<RowState>> {
        std::mem::take(&mut self.resting)
    }

    /// A job leaves that has not started again.
    pub(crate) fn leave(&mut self, lane: &Lane) {
        self.lane(lane).waiting -= 1;
        self.forget(lane);
    }

    // ---- what servers say ----

    /// Lets none of the lane start for this time, because its server said so.
    pub(crate) fn hold_for(&mut self, lane: &Lane, time: Duration, now: Instant) {
        (self.hold)(lane, time);
        let state = self.lane(lane);
        let until = now + time;
        if state.held_until.is_some_and(|held| held >= until) {
            return;
        }
        let is_longer_of_same = state.held_until.is_some_and(|held| held > now);
        state.held_until = Some(until);
        if is_longer_of_same {
            return;
        }
        if self.pauses.len() < MAX_PAUSES {
            let lane = Lane::clone(lane);
            self.pauses.push(Pause {
                lane,
                at: now,
                time,
            });
        } else {
            self.pauses_left_out += 1;
        }
    }

    /// Halves the rate of a lane, at most once in the time that two starts take then: many answers
    /// may say the same.
    pub(crate) fn slow_down(&mut self, lane: &Lane, now: Instant) {
        let state = self.lane(lane);
        let base = *state.base.get_or_insert_with(|| {
            // Without a rate of its own, the lane had one start a worker and answer; ten a second
            // is where it is taken to have been.
            state.limits.rate.unwrap_or(Rate {
                count: 10,
                period: Duration::from_secs(1),
            })
        });
        let interval = base.slower(state.slowdown * 2.0).period / base.count;
        if state.slowdown > 1.0 && now.duration_since(state.changed_at) < interval {
            return;
        }
        let slowest = SLOWEST.as_secs_f64() * base.per_second();
        state.slowdown = (state.slowdown * 2.0).min(slowest.max(2.0));
        state.changed_at = now;
        self.apply(lane);
    }

    /// A success: a lane that was slowed down becomes a little faster.
    pub(crate) fn succeed(&mut self, lane: &Lane, now: Instant) {
        let state = self.lane(lane);
        state.failures = 0;
        if state.slowdown <= 1.0 || now.duration_since(state.changed_at) < RECOVERY_STEP {
            return;
        }
        state.slowdown /= RECOVERY;
        state.changed_at = now;
        if state.slowdown < 1.0 {
            state.slowdown = 1.0;
            state.base = None;
        }
        self.apply(lane);
    }

    /// Tells the pool the limits of a lane, where they differ from those of all.
    pub(crate) fn apply(&mut self, lane: &Lane) {
        let state = self.lane(lane);
        let mut limits = KeyLimits::new();
        if let Some(workers) = state.limits.workers {
            limits = limits.max_running(workers);
        }
        let rate = state.base.or(state.limits.rate);
        if let Some(rate) = rate {
            limits = limits.rate_limit(rate.slower(state.slowdown).limit());
        }
        (self.set_limits)(lane, limits);
    }

    /// A host was not reached, or says that it is overloaded. After `most` such failures in a row it
    /// is given up: its rows need not wait for its limits to be told so.
    pub(crate) fn fail(&mut self, lane: &Lane, most: Option<usize>) {
        let state = self.lane(lane);
        state.failures += 1;
        if Some(state.failures) == most {
            (self.set_limits)(lane, KeyLimits::new());
        }
    }

    pub(crate) fn failures(&self, lane: &Lane) -> usize {
        self.lanes.get(lane).map_or(0, |state| state.failures)
    }

    fn lane(&mut self, lane: &Lane) -> &mut State {
        if !self.lanes.contains_key(lane) {
            let limits = self.limits.of(lane);
            let state = State {
                limits,
                running: 0,
                waiting: 0,
                backing_off: 0,
                last_start: None,
                held_until: None,
                slowdown: 1.0,
                base: None,
                changed_at: Instant::now(),
                failures: 0,
            };
            self.lanes.insert(Lane::clone(lane), state);
        }
        self.lanes.get_mut(lane).expect("it is there")
    }

    // ---- what is seen ----

    pub(crate) const fn running(&self) -> usize {
        self.running
    }

    pub(crate) fn pauses(&self) -> (&[Pause], usize) {
        (&self.pauses, self.pauses_left_out)
    }

    /// Why jobs wait, the most frequent cause first, each with the lane that has most of its jobs.
    pub(crate) fn causes(&self, now: Instant) -> Vec<Waiting> {
        let mut counts: HashMap<Cause, Count<'_>> = HashMap::new();
        let mut count = |cause, jobs, lane| {
            if jobs == 0 {
                return;
            }
            let count = counts.entry(cause).or_default();
            count.jobs += jobs;
            count.lanes += 1;
            if jobs > count.most {
                (count.lane, count.most) = (Some(lane), jobs);
            }
        };
        for (lane, state) in &self.lanes {
            let between = state.backing_off.min(state.waiting);
            count(Cause::Backoff, between, lane);
            count(self.cause(state, now), state.waiting - between, lane);
        }
        let mut list: Vec<Waiting> = counts
            .into_iter()
            .map(|(cause, count)| {
                let detail = count.lane.map(|lane| self.detail(cause, lane, now));
                let mut detail = detail.unwrap_or_default();
                if count.lanes > 1 && cause.is_of_lane() {
                    detail.push_str(&format!(" and {} more", count.lanes - 1));
                }
                Waiting {
                    cause,
                    jobs: count.jobs,
                    detail,
                }
            })
            .collect();
        list.sort_by_key(|waiting| (std::cmp::Reverse(waiting.jobs), waiting.cause));
        list
    }

    /// Why the jobs of a lane wait.
    fn cause(&self, state: &State, now: Instant) -> Cause {
        if state.held_until.is_some_and(|held| held > now) {
            return Cause::RetryAfter;
        }
        if self.running >= self.workers {
            return Cause::Busy;
        }
        if state
            .limits
            .workers
            .is_some_and(|most| state.running >= most)
        {
            return Cause::HostWorkers;
        }
        let rate = state.base.or(state.limits.rate);
        let interval = rate.map(|rate| {
            let rate = rate.slower(state.slowdown);
            rate.period / rate.count
        });
        let is_soon = |interval: Duration| {
            state
                .last_start
                .is_some_and(|start| now.duration_since(start) < interval)
        };
        match (interval, self.total_rate) {
            (Some(interval), Some(_)) if is_soon(interval) => Cause::HostRate,
            (_, Some(_)) => Cause::Rate,
            (Some(_), None) => Cause::HostRate,
            (None, None) => Cause::Start,
        }
    }

    fn detail(&self, cause: Cause, lane: &Lane, now: Instant) -> String {
        let Some(state) = self.lanes.get(lane) else {
            return String::new();
        };
        match cause {
            Cause::RetryAfter => {
                let held = state.held_until.unwrap_or(now);
                let seconds = held.saturating_duration_since(now).as_secs_f64().ceil();
                format!("{lane} {seconds} s")
            }
            Cause::HostWorkers => {
                let most = state.limits.workers.unwrap_or(self.workers);
                format!("{lane} {}/{most}", state.running)
            }
            Cause::HostRate => {
                let rate = state.base.or(state.limits.rate);
                rate.map(|rate| format!("{lane} {}", said(rate.slower(state.slowdown))))
                    .unwrap_or_default()
            }
            Cause::Rate => self
                .total_rate
                .map(|rate| rate.to_string())
                .unwrap_or_default(),
            Cause::Busy | Cause::Start | Cause::Backoff | Cause::Input | Cause::End => {
                String::new()
            }
        }
    }
}

/// The jobs that wait for one cause, and the lane that has most of them.
#[derive(Default)]
struct Count<'a> {
    jobs: usize,
    lanes: usize,
    lane: Option<&'a Lane>,
    most: usize,
}

impl State {
    /// Whether the lane is as if none of its jobs had been seen.
    fn is_new(&self) -> bool {
        self.running == 0
            && self.waiting == 0
            && self.held_until.is_none()
            && self.base.is_none()
            && self.failures == 0
    }
}

/// A rate, in numbers that are short enough for the bar.
fn said(rate: Rate) -> String {
    let (number, unit) = match rate.per_second() {
        a_second if a_second < 0.1 => (a_second * 60.0, "min"),
        a_second => (a_second, "s"),
    };
    format!("{}/{unit}", (number * 100.0).round() / 100.0)
}

/// How many jobs wait for one cause.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) cause: Cause,
    pub(crate) jobs: usize,
    pub(crate) detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(workers: usize) -> SharedLanes {
        let limits = LaneLimits {
            rate: Some(Rate {
                count: 4,
                period: Duration::from_secs(1),
            }),
            workers: Some(2),
        };
        Lanes::new(workers, None, LimitTable::all(limits))
    }

    fn told(shared: &SharedLanes) -> Rc<RefCell<Vec<KeyLimits>>> {
        let told = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&told);
        shared.borrow_mut().set_limits = Box::new(move |_, limits| log.borrow_mut().push(limits));
        told
    }

    fn limits(period: Duration) -> KeyLimits {
        let rate = Rate { count: 4, period };
        KeyLimits::new().max_running(2).rate_limit(rate.limit())
    }

    #[test]
    fn a_lane_is_halved_once_for_many_answers_and_recovers_step_by_step() {
        let shared = lanes(10);
        let told = told(&shared);
        let lane: Lane = "h".into();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut lanes = shared.borrow_mut();
        lanes.slow_down(&lane, at(0));
        lanes.slow_down(&lane, at(1));
        assert_eq!(*told.borrow(), [limits(Duration::from_secs(2))]);
        lanes.slow_down(&lane, at(5000));
        assert_eq!(told.borrow().last(), Some(&limits(Duration::from_secs(4))));
        for second in 6..30 {
            lanes.succeed(&lane, at(second * 1000));
            lanes.succeed(&lane, at(second * 1000 + 1));
        }
        // 4 / 1.25^7 is less than 1.
        assert_eq!(told.borrow().len(), 2 + 7);
        assert_eq!(told.borrow().last(), Some(&limits(Duration::from_secs(1))));
    }

    #[test]
    fn a_lane_whose_server_refuses_everything_still_starts_now_and_then() {
        let shared = lanes(10);
        let told = told(&shared);
        let start = Instant::now();
        for hour in 0..100 {
            let now = start + Duration::from_secs(hour * 3600);
            shared.borrow_mut().slow_down(&"h".into(), now);
        }
        // Four in forty seconds.
        let slowest = limits(Duration::from_secs(40));
        assert_eq!(told.borrow().last(), Some(&slowest));
    }

    #[test]
    fn the_cause_of_a_wait_is_named() {
        let shared = lanes(3);
        let (busy, held): (Lane, Lane) = ("busy".into(), "held".into());
        let now = Instant::now();
        let mut lanes = shared.borrow_mut();
        for _ in 0..4 {
            lanes.wait(&busy);
        }
        lanes.wait(&held);
        lanes.start(&busy, now, false);
        lanes.start(&busy, now, false);
        lanes.hold_for(&held, Duration::from_secs(41), now);
        let causes: Vec<_> = lanes
            .causes(now)
            .into_iter()
            .map(|waiting| (waiting.cause, waiting.jobs, waiting.detail))
            .collect();
        let expected = [
            (Cause::HostWorkers, 2, "busy 2/2".to_owned()),
            (Cause::RetryAfter, 1, "held 41 s".to_owned()),
        ];
        assert_eq!(causes, expected);
        lanes.end(&busy);
        let first = &lanes.causes(now)[0];
        assert_eq!((first.cause, first.jobs), (Cause::HostRate, 2));
        let waiting: usize = lanes.lanes.values().map(|state| state.waiting).sum();
        assert_eq!((lanes.running(), waiting), (1, 3));
    }
}
