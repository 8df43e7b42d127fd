//! Clocks that misbehave: they step back, stand still, jump ahead, or run faster than any job. The
//! pool grants no permit too many, no job waits for longer than a period once the clock advances
//! again, and no worker blocks the thread.
//!
//! On one thread and step by step, since the tests depend on what happens between two calls of
//! `now`.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn, ready};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use brigade::rt::BoxFuture;
use brigade::{Builder, JobError, OnError, Pool, RateLimit, TimeLimit, Timer};
use futures_lite::future;

use crate::harness::{
    HOUR, OwnPool, SECOND, Slots, Watchdog, assert_settled, in_both_ways, millis, poll_once, secs,
};
use crate::steps::{Steps, step_pool};

const TEN_DAYS: Duration = secs(864_000);

/// By what the alarms of a clock go off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alarms {
    /// By what it shows.
    Shown,
    /// By the time that has truly passed.
    True,
}

/// A clock that a test bends.
#[derive(Clone)]
struct Bent(Arc<Mutex<State>>);

struct State {
    shown: Instant,
    passed: Duration,
    alarms: Alarms,
    next: u64,
    sleeps: BTreeMap<u64, (Due, Waker)>,
}

#[derive(Clone, Copy)]
struct Due {
    shown: Instant,
    passed: Duration,
}

impl State {
    fn is_due(&self, due: Due) -> bool {
        match self.alarms {
            Alarms::Shown => self.shown >= due.shown,
            Alarms::True => self.passed >= due.passed,
        }
    }
}

impl Bent {
    fn new(alarms: Alarms) -> Self {
        let shown = Instant::now() + TEN_DAYS;
        Self(Arc::new(Mutex::new(State {
            shown,
            passed: Duration::ZERO,
            alarms,
            next: 0,
            sleeps: BTreeMap::new(),
        })))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock().unwrap();
        change(&mut state);
        let is_due: Vec<u64> = state
            .sleeps
            .iter()
            .filter(|(_, (due, _))| state.is_due(*due))
            .map(|(id, _)| *id)
            .collect();
        let wakers: Vec<Waker> = is_due
            .iter()
            .filter_map(|id| state.sleeps.remove(id))
            .map(|(_, waker)| waker)
            .collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// As it should be.
    fn pass(&self, time: Duration) {
        self.change(|state| {
            state.shown += time;
            state.passed += time;
        });
    }

    fn step_back(&self, time: Duration) {
        self.change(|state| state.shown -= time);
    }

    fn jump(&self, time: Duration) {
        self.change(|state| state.shown += time);
    }

    fn stand_still(&self, time: Duration) {
        self.change(|state| state.passed += time);
    }

    fn sleeping(&self) -> usize {
        self.0.lock().unwrap().sleeps.len()
    }
}

impl Timer for Bent {
    fn now(&self) -> Instant {
        self.0.lock().unwrap().shown
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        let mut state = self.0.lock().unwrap();
        state.next += 1;
        let due = Due {
            shown: at,
            passed: state.passed + at.saturating_duration_since(state.shown),
        };
        Box::pin(Sleep {
            clock: self.clone(),
            id: state.next,
            due,
        })
    }
}

struct Sleep {
    clock: Bent,
    id: u64,
    due: Due,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.0.lock().unwrap();
        if state.is_due(self.due) {
            state.sleeps.remove(&self.id);
            return Poll::Ready(());
        }
        state.sleeps.insert(self.id, (self.due, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.clock.0.lock().unwrap().sleeps.remove(&self.id);
    }
}

/// A pool of two slots whose jobs are done at once, step by step.
struct Stage {
    clock: Bent,
    pool: Pool<(), (), ()>,
    steps: Steps,
    started: Arc<AtomicUsize>,
}

impl Stage {
    fn new(slots: Slots, alarms: Alarms, limit: RateLimit) -> Self {
        let (clock, started) = (Bent::new(alarms), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&started);
        let builder = slots
            .at_once(Pool::builder(), 2)
            .rate_limit(limit)
            .timer(clock.clone());
        let (pool, steps) = step_pool(builder, move |()| {
            count.fetch_add(1, Ordering::SeqCst);
            future::ready(Ok(()))
        });
        Self {
            clock,
            pool,
            steps,
            started,
        }
    }

    fn submit(&self, count: usize) {
        for _ in 0..count {
            self.pool.try_submit(()).unwrap().detach();
        }
    }

    /// Polls the tasks that were woken; returns how many jobs have started so far.
    fn started(&mut self) -> usize {
        while self.steps.step().is_some() {}
        self.started.load(Ordering::SeqCst)
    }

    /// Closes the pool, and lets time pass until it has ended.
    fn end(mut self) {
        self.pool.close();
        while self.pool.stats().workers > 0 {
            self.started();
            self.clock.pass(SECOND);
        }
        assert_eq!(self.clock.sleeping(), 0);
        assert_settled(&self.pool);
    }
}

/// How many may have started, counted in the plainest way.
struct Model {
    limit: Limit,
    /// Seconds that the clock showed going forward between two looks at it.
    now: u64,
    starts: Vec<u64>,
    waiting: usize,
}

#[derive(Debug, Clone, Copy)]
enum Limit {
    /// One permit a second, and at most so many saved.
    Bucket { burst: u64 },
    /// So many in any such number of seconds.
    Window { permits: usize, seconds: u64 },
}

impl Limit {
    fn to_rate(self) -> RateLimit {
        match self {
            Self::Bucket { burst } => RateLimit::every(SECOND).burst(burst as u32),
            Self::Window { permits, seconds } => {
                RateLimit::sliding_window(permits as u32, SECOND * seconds as u32)
            }
        }
    }
}

impl Model {
    fn may_start(&self) -> bool {
        match self.limit {
            Limit::Bucket { burst } => {
                // What a full bucket has lost is lost: look at each start in turn.
                let (mut tokens, mut last) = (burst, 0);
                for start in self.starts.iter().chain([&self.now]) {
                    tokens = (tokens + start - last).min(burst);
                    last = *start;
                    if tokens == 0 {
                        return false;
                    }
                    tokens -= 1;
                }
                true
            }
            Limit::Window { permits, seconds } => {
                self.starts
                    .iter()
                    .filter(|start| **start + seconds > self.now)
                    .count()
                    < permits
            }
        }
    }

    fn look(&mut self, passed: u64) -> usize {
        self.now += passed;
        while self.waiting > 0 && self.may_start() {
            self.starts.push(self.now);
            self.waiting -= 1;
        }
        self.starts.len()
    }
}

#[test]
fn a_bent_clock_gives_no_permit_too_many_and_delays_no_job_once_it_goes_on() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let alarms = if seed % 2 == 0 {
            Alarms::Shown
        } else {
            Alarms::True
        };
        let limit = match random.u64(0..4) {
            0 => Limit::Window {
                permits: 3,
                seconds: 5,
            },
            burst => Limit::Bucket { burst },
        };
        let mut stage = Stage::new(Slots::BOTH[seed as usize / 2 % 2], alarms, limit.to_rate());
        let mut model = Model {
            limit,
            now: 0,
            starts: Vec::new(),
            waiting: 10,
        };
        stage.submit(10);
        assert_eq!(stage.started(), model.look(0), "seed {seed}");
        for step in 0..40 {
            // What the pool has not seen of what the clock has shown.
            let mut unseen = 0;
            match random.u8(0..4) {
                0 => {
                    let seconds = random.u64(1..4);
                    stage.clock.pass(SECOND * seconds as u32);
                    model.look(seconds);
                }
                1 => stage.clock.step_back(HOUR),
                2 => {
                    stage.clock.jump(TEN_DAYS);
                    match alarms {
                        Alarms::Shown => drop(model.look(TEN_DAYS.as_secs())),
                        Alarms::True => unseen = TEN_DAYS.as_secs(),
                    }
                }
                _ if alarms == Alarms::Shown => stage.clock.stand_still(HOUR),
                _ => {}
            }
            assert_eq!(
                stage.started(),
                model.look(0),
                "seed {seed}, step {step}, {alarms:?}, {limit:?}"
            );
            // A submission makes the pool read the clock.
            stage.submit(1);
            model.waiting += 1;
            assert_eq!(
                stage.started(),
                model.look(unseen),
                "seed {seed}, step {step}, {alarms:?}, {limit:?}"
            );
        }
        stage.end();
    }
}

#[test]
fn alarms_of_a_clock_that_stands_still_let_one_job_start_for_each_period_that_they_waited() {
    in_both_ways(|slots| {
        let mut stage = Stage::new(slots, Alarms::True, RateLimit::every(SECOND).burst(2));
        stage.submit(10);
        assert_eq!(stage.started(), 2);
        for started in 3..8 {
            stage.clock.stand_still(SECOND);
            assert_eq!(stage.started(), started);
        }
        // It goes on, and gives none for what had been counted already.
        stage.clock.pass(SECOND);
        assert_eq!(stage.started(), 8);
        stage.end();
    });
}

#[test]
fn a_clock_that_was_set_back_ends_a_delay_after_as_long_as_it_shows_going_on() {
    in_both_ways(|slots| {
        for alarms in [Alarms::Shown, Alarms::True] {
            let mut stage = Stage::new(slots, alarms, RateLimit::every(SECOND).burst(1000));
            stage
                .pool
                .job(())
                .delay(SECOND * 10)
                .try_submit()
                .unwrap()
                .detach();
            assert_eq!(stage.started(), 0);
            stage.clock.pass(SECOND * 4);
            stage.submit(1);
            assert_eq!(stage.started(), 1);
            stage.clock.step_back(HOUR);
            stage.submit(1);
            assert_eq!(stage.started(), 2);
            stage.clock.pass(SECOND * 5);
            assert_eq!(stage.started(), 2, "{alarms:?}");
            stage.clock.pass(SECOND);
            assert_eq!(stage.started(), 3, "{alarms:?}");
            stage.end();
        }
    });
}

/// A clock that is a microsecond later at each look, so that whatever is due in less has passed
/// when it is waited for.
#[derive(Clone)]
struct Hasty(Arc<Looks>);

struct Looks {
    start: Instant,
    count: AtomicU64,
    /// More are a worker that goes in a circle.
    most: u64,
    /// How many microseconds a look takes.
    step: AtomicU64,
    passed: AtomicU64,
}

impl Hasty {
    fn new(most: u64) -> Self {
        let [count, step, passed] = [0, 1, 0].map(AtomicU64::new);
        Self(Arc::new(Looks {
            start: Instant::now(),
            count,
            most,
            step,
            passed,
        }))
    }

    /// From here on each look takes so many microseconds.
    fn set_step(&self, micros: u64) {
        self.0.step.store(micros, Ordering::SeqCst);
    }
}

impl Timer for Hasty {
    fn now(&self) -> Instant {
        let count = self.0.count.fetch_add(1, Ordering::SeqCst);
        assert!(count < self.0.most, "the clock is looked at without end");
        let step = self.0.step.load(Ordering::SeqCst);
        self.0.start + Duration::from_micros(self.0.passed.fetch_add(step, Ordering::SeqCst) + step)
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        Box::pin(poll_fn(move |cx| {
            if clock.now() >= at {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }))
    }
}

#[test]
fn a_rate_that_is_faster_than_any_clock_lets_all_jobs_run() {
    let nano = Duration::from_nanos(1);
    for limit in [
        RateLimit::per_second(10_000_000),
        RateLimit::per_second(u32::MAX),
        RateLimit::per(u32::MAX, nano),
        RateLimit::sliding_window(1, nano),
    ] {
        in_both_ways(|slots| {
            for of_keys in [false, true] {
                let builder = slots.at_once(Pool::builder(), 10);
                let builder = if of_keys {
                    builder.key_by(|n| n % 3).rate_limit_per_key(limit)
                } else {
                    builder.rate_limit(limit)
                };
                const JOBS: u64 = 2000;
                let (pool, mut steps) =
                    step_pool(builder.timer(Hasty::new(100 * JOBS)), |n: u64| {
                        ready(Ok::<_, ()>(n))
                    });
                let reader = pool.clone();
                steps.add("reader", async move {
                    let sum: u64 = reader
                        .map(0..JOBS)
                        .try_collect::<Vec<_>>()
                        .await
                        .unwrap()
                        .iter()
                        .sum();
                    assert_eq!(sum, JOBS * (JOBS - 1) / 2);
                    reader.drain().await;
                });
                steps.settle();
                assert_eq!(steps.waiting().count(), 0, "{limit:?}, of keys: {of_keys}");
                assert_eq!(assert_settled(&pool).succeeded, JOBS);
            }
        });
    }
}

/// To settle one job takes as long as the next has left. Nested in each other, some hundred of them
/// would fill the stack.
#[test]
fn jobs_that_run_out_of_time_while_others_are_settled_follow_one_after_another() {
    const JOBS: u64 = 5_000;
    for of_maps in [false, true] {
        let clock = Hasty::new(100 * JOBS);
        let builder = Pool::builder()
            .workers(1)
            .queue_capacity(2 * JOBS as usize)
            .job_timeout(SECOND);
        let (pool, mut steps) = step_pool(builder.timer(clock.clone()), |(): ()| {
            ready(Ok::<_, ()>(()))
        });
        pool.pause();
        let mut maps = Vec::new();
        for _ in 0..JOBS {
            if of_maps {
                let mut map = pool.map([()]).on_error(OnError::Stop);
                assert!(poll_once(pin!(map.next())).is_none());
                maps.push(map);
            } else {
                pool.try_submit(()).unwrap().detach();
            }
        }
        // Up to the first deadline, and then as fast as jobs were submitted, or faster.
        clock.set_step(990_000);
        assert_eq!(pool.stats().timed_out, 0);
        clock.set_step(10);
        steps.settle();
        assert_eq!(pool.stats().timed_out, JOBS, "of maps: {of_maps}");
        for mut map in maps {
            let completion = poll_once(pin!(map.next()))
                .flatten()
                .expect("it has its outcome");
            assert_eq!(completion.result, Err(JobError::TimedOut(TimeLimit::Job)));
        }
    }
}

/// A clock that stands still, and whose alarms go off at once: moments come as fast as they are
/// asked for.
struct Eager(Instant);

impl Timer for Eager {
    fn now(&self) -> Instant {
        self.0
    }

    fn sleep_until(&self, _: Instant) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }
}

/// After so many steps without waiting a worker lets others have the thread.
const STEPS: u64 = 256;

/// The only worker of a pool with an eager clock, whose jobs of input 0 never end.
fn eager(builder: Builder<u64, ()>, has_state: bool) -> (Pool<u64, u64, ()>, Steps) {
    async fn handle(n: u64) -> Result<u64, ()> {
        if n > 0 {
            Ok(n)
        } else {
            future::pending().await
        }
    }
    let builder = builder.timer(Eager(Instant::now()));
    let mut steps = Steps::default();
    let pool = if has_state {
        let (pool, workers) =
            builder.build_with_state(|_| (), async |(): &mut (), n| handle(n).await);
        for worker in workers {
            steps.add("worker", worker.run());
        }
        pool
    } else {
        let (pool, workers) = builder.build(handle);
        for worker in workers {
            steps.add("worker", worker.run());
        }
        pool
    };
    (pool, steps)
}

/// The worker of one slot, of two, and that of a handler with state.
fn each_worker(test: impl Fn(Builder<u64, ()>, bool)) {
    for (slots, has_state) in [(1, false), (2, false), (1, true)] {
        let _watchdog = Watchdog::new(&format!("{slots} slots, state: {has_state}"));
        test(Pool::builder().workers(1).jobs_per_worker(slots), has_state);
    }
}

#[test]
fn a_worker_that_lets_one_moment_after_another_pass_lets_others_have_the_thread() {
    each_worker(|builder, has_state| {
        for is_busy in [false, true] {
            let (pool, mut steps) = eager(builder.clone(), has_state);
            if is_busy {
                pool.try_submit(0).unwrap().detach();
            }
            steps.settle();
            // Each deadline is a moment of its own, and lets no job start.
            for n in 1..=1000 {
                let time = millis(n);
                pool.job(n)
                    .delay(HOUR)
                    .timeout(time)
                    .try_submit()
                    .unwrap()
                    .detach();
            }
            let mut seen = 0;
            while steps.step().is_some() {
                let passed = pool.stats().timed_out - seen;
                assert!(
                    passed <= STEPS,
                    "{passed} moments in one poll, busy: {is_busy}, state: {has_state}"
                );
                seen += passed;
            }
            assert_eq!(seen, 1000);
        }
    });
}

#[test]
fn a_worker_whose_jobs_come_one_moment_after_another_lets_others_have_the_thread() {
    each_worker(|builder, has_state| {
        let (pool, mut steps) = eager(builder.rate_limit(RateLimit::every(SECOND)), has_state);
        steps.settle();
        (1..=1000).for_each(|n| pool.try_submit(n).unwrap().detach());
        let mut seen = 0;
        while steps.step().is_some() {
            let ended = pool.stats().succeeded - seen;
            assert!(
                ended <= STEPS,
                "{ended} jobs in one poll, state: {has_state}"
            );
            seen += ended;
        }
        assert_eq!(seen, 1000);
    });
}

/// Jobs add jobs, so that some are always ready and others wait for permits. After as many jobs as
/// a worker runs in one turn, it lets others have the thread, and has to come back to the jobs that
/// were released meanwhile.
#[test]
fn a_rate_that_is_faster_than_the_loop_of_a_worker_does_not_stop_it() {
    for rate in [1_000_000, u32::MAX] {
        in_both_ways(|slots| {
            let own = OwnPool::<u32, (), ()>::new();
            let inside = own.reach();
            let (pool, workers) = slots
                .at_once(Pool::builder(), 4)
                .queue_capacity(100)
                .rate_limit(RateLimit::per_second(rate).burst(3))
                // Far more looks than the test needs.
                .timer(Hasty::new(1_000_000))
                .build(move |n: u32| {
                    let pool = inside.pool();
                    async move {
                        for _ in 0..2 {
                            if n > 0
                                && let Ok(job) = pool.try_submit(n - 1)
                            {
                                job.detach();
                            }
                        }
                        Ok(())
                    }
                });
            own.set(&pool);
            pool.try_submit(20).unwrap().detach();
            future::block_on(workers.drive(pool.wait_idle()));
            let stats = pool.stats();
            assert_eq!((stats.succeeded, stats.queued), (stats.accepted, 0));
        });
    }
}
