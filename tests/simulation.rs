//! A pool under a scheduler that throws dice: who is polled next, what the jobs do, who submits, cancels, closes, aborts,
//! and who is dropped when. After every step the figures add up; when nobody can go on any more, nobody waits, and every
//! accepted job has had exactly one outcome, the one that was told.
//!
//! `BRIGADE_SEED=n` replays one run, `BRIGADE_SEEDS=n` makes so many.

#[expect(dead_code, reason = "what is polled in turn and dropped at a certain poll is in the other binary")]
#[path = "pool/steps.rs"]
mod steps;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use brigade::{
    CancelReason, Completion, Event, JobError, JobHandle, JobId, ManualTimer, OnError, Outcome, Pool, RateLimit,
    Report, Submitter,
};
use futures_lite::{StreamExt, future, stream};

use crate::steps::Steps;

type Jobs = Pool<Input, Output, Token>;
type Local = Pin<Box<dyn Future<Output = ()>>>;

const SEEDS: u64 = 2000;
const KEYS: usize = 3;

#[test]
fn whatever_happens_every_job_has_one_outcome_and_every_wait_ends() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seeds = match number("BRIGADE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("BRIGADE_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| simulate(seed))) {
            eprintln!("to replay it: BRIGADE_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

// ---- the dice ----

/// One sequence of random numbers for all: xorshift64*.
#[derive(Clone)]
struct Dice(Rc<Cell<u64>>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Rc::new(Cell::new((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)))
    }

    /// From 0 to `sides`, which never comes.
    fn below(&self, sides: usize) -> usize {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        (x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides
    }

    /// Whether a throw with so many sides shows the first.
    fn one_in(&self, sides: usize) -> bool {
        self.below(sides) == 0
    }
}

// ---- what is counted ----

/// Counts the inputs, futures, values, errors and states that are alive.
struct Token(Arc<AtomicIsize>);

impl Token {
    fn new(alive: &Arc<AtomicIsize>) -> Self {
        alive.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(alive))
    }
}

impl Clone for Token {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

#[derive(Debug, Clone)]
struct Input {
    /// How many generations of jobs it may add.
    depth: usize,
    key: usize,
    _token: Token,
}

type Output = Token;

/// A handler's guard, whose drop may panic.
struct Bomb {
    is_armed: bool,
    _token: Token,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.is_armed && !std::thread::panicking() {
            panic_quietly();
        }
    }
}

/// Panics without a message on the terminal.
fn panic_quietly() -> ! {
    resume_unwind(Box::new("planned"))
}

// ---- what was seen ----

#[derive(Default)]
struct Log {
    jobs: BTreeMap<JobId, Seen>,
    left: BTreeSet<usize>,
    closed: usize,
}

#[derive(Default)]
struct Seen {
    is_started: bool,
    finished: Option<(Outcome, u32)>,
    is_told: bool,
    /// What the place for unhandled failures was told, which is before the books are closed over the job.
    unhandled: Option<(Outcome, u32)>,
    is_returned: bool,
}

impl Log {
    fn add(&mut self, event: &Event) {
        match event {
            Event::Accepted { job } => assert!(self.jobs.insert(*job, Seen::default()).is_none()),
            Event::Started { job, .. } => {
                let seen = self.jobs.get_mut(job).expect("accepted");
                assert!(!seen.is_started && seen.finished.is_none(), "{job} started late or twice");
                seen.is_started = true;
            }
            Event::Finished { job, outcome, attempts } => {
                let seen = self.jobs.get_mut(job).expect("accepted");
                assert_eq!(*attempts, u32::from(seen.is_started));
                assert_eq!(seen.finished.replace((*outcome, *attempts)), None, "{job} finished twice");
            }
            Event::WorkerLeft { worker } => assert!(self.left.insert(*worker)),
            Event::Closed => self.closed += 1,
            _ => {}
        }
    }
}

fn outcome_of<T, E>(result: &Result<T, JobError<E>>) -> Outcome {
    match result {
        Ok(_) => Outcome::Succeeded,
        Err(JobError::Failed(_)) => Outcome::Failed,
        Err(JobError::TimedOut(_)) => Outcome::TimedOut,
        Err(JobError::Panicked(_)) => Outcome::Panicked,
        Err(JobError::Cancelled(_)) => Outcome::Cancelled,
        Err(_) => Outcome::Abandoned,
    }
}

// ---- the world ----

#[derive(Clone)]
struct World {
    dice: Dice,
    clock: ManualTimer,
    /// Emptied at the end, since the handler has it.
    pool: Rc<RefCell<Option<Jobs>>>,
    log: Arc<Mutex<Log>>,
    /// Inputs, futures, values, errors and states.
    alive: Arc<AtomicIsize>,
    /// How many handlers' futures there are, of each key.
    running: Rc<[Cell<usize>; KEYS]>,
    has_time_limit: bool,
}

impl World {
    fn pool(&self) -> Jobs {
        self.pool.borrow().clone().expect("it is emptied at the end")
    }

    fn input(&self) -> Input {
        Input { depth: self.dice.below(3), key: self.dice.below(KEYS), _token: Token::new(&self.alive) }
    }

    fn running(&self) -> usize {
        self.running.iter().map(Cell::get).sum()
    }

    /// A result was told to somebody: it is the one that was booked, and told once.
    fn told(&self, id: JobId, outcome: Outcome) {
        let mut log = self.log.lock().unwrap();
        let seen = log.jobs.get_mut(&id).expect("accepted");
        assert_eq!(seen.finished.map(|finished| finished.0), Some(outcome), "{id} was told something else");
        assert!(!std::mem::replace(&mut seen.is_told, true), "{id} was told twice");
    }

    /// A handle that nobody has cancelled tells of its job.
    fn told_result(&self, id: JobId, result: &Result<Output, JobError<Token>>) {
        match result {
            Err(JobError::WouldDeadlock) => return,
            Err(JobError::Cancelled(reason)) => assert_eq!(*reason, CancelReason::Aborted, "{id}"),
            Err(JobError::Abandoned) => assert!(!self.log.lock().unwrap().left.is_empty(), "{id}"),
            _ => {}
        }
        self.told(id, outcome_of(result));
    }

    /// A map or group with this policy, which nobody or somebody has cancelled, tells of a job.
    fn told_completion(&self, completion: &Completion<Input, Output, Token>, policy: OnError, is_cancelled: bool) {
        match completion.result {
            Err(JobError::Cancelled(reason)) => assert!(match reason {
                CancelReason::Aborted | CancelReason::WouldDeadlock => true,
                CancelReason::Stopped => policy != OnError::Continue,
                CancelReason::Stream => is_cancelled,
                _ => false,
            }),
            Err(JobError::Abandoned) => assert!(!self.log.lock().unwrap().left.is_empty()),
            _ => {}
        }
        self.told(completion.id, outcome_of(&completion.result));
    }

    fn told_report(&self, report: Report<Input>) {
        for unstarted in report.unstarted {
            let mut log = self.log.lock().unwrap();
            let seen = log.jobs.get_mut(&unstarted.id).expect("accepted");
            assert_eq!(seen.finished, Some((Outcome::Cancelled, 0)));
            assert!(!std::mem::replace(&mut seen.is_returned, true), "{} was returned twice", unstarted.id);
        }
    }
}

fn simulate(seed: u64) {
    let dice = Dice::new(seed);
    let clock = ManualTimer::new();
    let log = Arc::new(Mutex::new(Log::default()));
    // The pool contains the panics of observers, so they are kept for the check.
    let violation = Arc::new(Mutex::new(None));
    let (seen, broken) = (Arc::clone(&log), Arc::clone(&violation));
    let (workers, capacity, child_capacity) = (1 + dice.below(4), 1 + dice.below(5), dice.below(5));
    let mut builder = Pool::builder()
        .workers(workers)
        .queue_capacity(capacity)
        .child_capacity(child_capacity)
        .timings(dice.one_in(2))
        .timer(clock.clone())
        .observe(move |event: &Event| {
            if catch_unwind(AssertUnwindSafe(|| seen.lock().unwrap().add(event))).is_err() {
                *broken.lock().unwrap() = Some(format!("{event:?}"));
            }
        });
    let has_time_limit = dice.one_in(2);
    if has_time_limit {
        builder = builder.attempt_timeout(Duration::from_secs(1 + dice.below(9) as u64));
    }
    if dice.one_in(3) {
        builder = builder.job_timeout(Duration::from_secs(1 + dice.below(9) as u64));
    }
    let mut most_of_key = usize::MAX;
    if dice.one_in(3) {
        builder = builder.ageing(Duration::from_millis(1 + dice.below(2000) as u64));
    }
    if dice.one_in(3) {
        builder = builder.rate_limit(limit(&dice));
    }
    if dice.one_in(2) {
        builder = builder.key_by(|input: &Input| input.key);
        if dice.one_in(2) {
            most_of_key = 1 + dice.below(2);
            builder = builder.max_running_per_key(most_of_key);
        }
        if dice.one_in(3) {
            builder = builder.rate_limit_per_key(limit(&dice));
        }
    }
    // How often something is dropped, or the pool is stopped; one time in four never.
    let rarity = [usize::MAX, 200, 60, 20][dice.below(4)];
    let alive = Arc::new(AtomicIsize::new(0));
    let running = Rc::default();
    let world = World { dice, clock, pool: Rc::default(), log, alive, running, has_time_limit };
    let (pool, futures) = build(builder, &world);
    *world.pool.borrow_mut() = Some(pool.clone());
    let (seen, broken) = (Arc::clone(&world.log), Arc::clone(&violation));
    pool.on_unhandled(move |failure| {
        let mut log = seen.lock().unwrap();
        let job = log.jobs.get_mut(&failure.id).expect("accepted");
        let outcome = outcome_of::<(), _>(&Err(failure.error));
        job.unhandled = Some((outcome, failure.attempts));
        if std::mem::replace(&mut job.is_told, true) {
            *broken.lock().unwrap() = Some(format!("{} is unhandled", failure.id));
        }
    });

    let mut steps = Steps::default();
    for (n, future) in futures.into_iter().enumerate() {
        steps.add(format!("worker {n}"), future);
    }
    for _ in 0..2 + world.dice.below(4) {
        steps.add("actor", actor(world.clone()));
    }
    let check = || {
        let stats = pool.stats();
        let outcomes =
            stats.succeeded + stats.failed + stats.timed_out + stats.panicked + stats.cancelled + stats.abandoned;
        let waiting = stats.queued + stats.delayed;
        assert_eq!(stats.accepted, outcomes + (waiting + stats.running) as u64, "{stats:?}");
        assert!(stats.running <= stats.workers && waiting <= capacity + child_capacity, "{stats:?}");
        assert!(world.running() <= stats.workers, "{} futures, {stats:?}", world.running());
        assert!(world.running.iter().all(|running| running.get() <= most_of_key), "{:?}", world.running);
        assert_eq!(*violation.lock().unwrap(), None);
    };
    settle(&mut steps, &world, workers, rarity, check);
    let waiting: Vec<_> = steps.waiting().filter(|(at, _)| *at >= workers).collect();
    assert!(waiting.is_empty(), "{waiting:?} wait for ever, {:?}", pool.stats());

    let ending = world.clone();
    let last = steps.add("end", async move {
        let pool = ending.pool();
        pool.drain().await;
        // Whatever an abort returned and nobody took.
        ending.told_report(pool.abort().await);
    });
    settle(&mut steps, &world, workers, usize::MAX, check);
    assert!(steps.is_done(last), "the pool is never drained, {:?}", pool.stats());
    assert_eq!(steps.waiting().next(), None, "workers outlive their pool");
    let stats = pool.stats();
    assert_eq!((stats.queued, stats.delayed, stats.running, stats.workers), (0, 0, 0, 0));
    assert_eq!(world.clock.sleeping(), 0, "a timer is left");
    let log = std::mem::take(&mut *world.log.lock().unwrap());
    assert_eq!((log.left.len(), log.closed, log.jobs.len() as u64), (workers, 1, stats.accepted));
    for (id, seen) in &log.jobs {
        assert!(seen.finished.is_some(), "{id} has no outcome");
        assert!(seen.unhandled.is_none_or(|told| seen.finished == Some(told)), "{id} was reported as something else");
    }
    *world.pool.borrow_mut() = None;
    drop((pool, steps));
    assert_eq!(world.alive.load(Ordering::SeqCst), 0, "inputs, futures, values, errors or states are left");
}

/// A limit that lets every job through after a while.
fn limit(dice: &Dice) -> RateLimit {
    let period = Duration::from_millis(1 + dice.below(2000) as u64);
    let permits = 1 + dice.below(3) as u32;
    if dice.one_in(2) { RateLimit::sliding_window(permits, period) } else { RateLimit::every(period).burst(permits) }
}

/// Polls who is woken, in any order, until nobody is and nobody sleeps.
fn settle(steps: &mut Steps, world: &World, workers: usize, rarity: usize, check: impl Fn()) {
    for _ in 0..100_000 {
        if rarity < usize::MAX && world.dice.one_in(rarity) {
            intervene(steps, world, workers);
        }
        let runnable: Vec<usize> = steps.runnable().collect();
        if runnable.is_empty() {
            if !world.clock.advance_to_next() {
                return;
            }
        } else {
            steps.poll(runnable[world.dice.below(runnable.len())]);
        }
        check();
    }
    panic!("it never comes to rest: {:?}", steps.waiting().collect::<Vec<_>>());
}

/// Something from outside: somebody is dropped, or the pool is stopped, or the clock moves.
fn intervene(steps: &mut Steps, world: &World, workers: usize) {
    let pool = world.pool();
    match world.dice.below(15) {
        0 => steps.drop_task(world.dice.below(workers)),
        1..=3 => {
            let actors: Vec<usize> = steps.waiting().map(|(at, _)| at).filter(|at| *at >= workers).collect();
            if !actors.is_empty() {
                steps.drop_task(actors[world.dice.below(actors.len())]);
            }
        }
        4 => pool.close(),
        5 if world.dice.one_in(2) => pool.seal(),
        6 => drop(steps.add("abort", stopper(world.clone()))),
        7 => drop(steps.add("drain", async move { pool.drain().await })),
        8 | 9 => drop(steps.add("actor", actor(world.clone()))),
        10 => pool.set_workers(1 + world.dice.below(workers)),
        11 => pool.set_rate_limit(world.dice.one_in(2).then(|| limit(&world.dice))),
        _ => world.clock.advance(Duration::from_millis(500 * world.dice.below(9) as u64)),
    }
}

fn build(builder: brigade::Builder<Input, Token>, world: &World) -> (Jobs, Vec<Local>) {
    let ours = world.clone();
    match world.dice.below(3) {
        0 => {
            let (pool, workers) = builder.build(move |input: Input| job(ours.clone(), input, None));
            (pool, workers.into_iter().map(|worker| Box::pin(worker.run()) as Local).collect())
        }
        1 => {
            let (pool, workers) = builder.build_with_submitter(move |input: Input, jobs: Submitter<_, _, _>| {
                job(ours.clone(), input, Some(jobs))
            });
            (pool, workers.into_iter().map(|worker| Box::pin(worker.run()) as Local).collect())
        }
        _ => {
            let theirs = world.clone();
            let init = move |_| {
                if theirs.dice.one_in(20) {
                    panic_quietly();
                }
                (Token::new(&theirs.alive), 0)
            };
            let (pool, workers) =
                builder.build_with_state(init, async move |state: &mut (Token, u32), input: Input| {
                    state.1 += 1;
                    run_job(ours.clone(), input, None).await
                });
            (pool, workers.into_iter().map(|worker| Box::pin(worker.run()) as Local).collect())
        }
    }
}

// ---- jobs ----

/// Counts a handler's future while it runs.
struct Running(Rc<[Cell<usize>; KEYS]>, usize);

impl Running {
    fn new(world: &World, key: usize) -> Self {
        world.running[key].set(world.running[key].get() + 1);
        Self(Rc::clone(&world.running), key)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let running = &self.0[self.1];
        running.set(running.get() - 1);
    }
}

/// A handler's future whose drop may panic. (A local of an async block that does so as the block returns would leak what
/// it returns: that is the compiler's doing.)
struct Explosive<F> {
    inner: Pin<Box<F>>,
    _bomb: Bomb,
}

impl<F: Future> Future for Explosive<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.inner.as_mut().poll(cx)
    }
}

type Adder = Submitter<Input, Output, Token>;

fn job(world: World, input: Input, jobs: Option<Adder>) -> impl Future<Output = Result<Output, Token>> {
    let bomb = Bomb { is_armed: world.dice.one_in(40), _token: Token::new(&world.alive) };
    Explosive { inner: Box::pin(run_job(world, input, jobs)), _bomb: bomb }
}

async fn run_job(world: World, input: Input, jobs: Option<Adder>) -> Result<Output, Token> {
    let dice = &world.dice;
    let _running = Running::new(&world, input.key);
    let child = || Input { depth: input.depth - 1, ..world.input() };
    for _ in 0..dice.below(4) {
        match dice.below(if input.depth > 0 { 12 } else { 4 }) {
            0..=2 => future::yield_now().await,
            3 => world.clock.sleep(Duration::from_secs(1 + dice.below(5) as u64)).await,
            4..=6 => {
                if let Some(jobs) = &jobs {
                    let _ = jobs.add(child());
                }
            }
            7 => {
                if let Some(Ok(handle)) = jobs.as_ref().map(|jobs| jobs.submit(child())) {
                    finish(&world, handle).await;
                }
            }
            8 => {
                if let Ok(handle) = world.pool().try_submit(child()) {
                    finish(&world, handle).await;
                }
            }
            9 => {
                if let Ok(handle) = world.pool().submit(child()).await {
                    finish(&world, handle).await;
                }
            }
            10 => {
                let inputs: Vec<_> = (0..1 + dice.below(3)).map(|_| child()).collect();
                let mut map = world.pool().map(inputs);
                while let Some(completion) = map.next().await {
                    world.told_completion(&completion, OnError::Continue, false);
                    if dice.one_in(8) {
                        break;
                    }
                }
            }
            _ => {
                let mut group = world.pool().group();
                let _ = group.submit(child()).await;
                let _ = group.try_submit(child());
                while let Some(completion) = group.next().await {
                    world.told_completion(&completion, OnError::Continue, false);
                }
            }
        }
    }
    match dice.below(20) {
        0..=2 => Err(Token::new(&world.alive)),
        3 => panic_quietly(),
        4 if world.has_time_limit => future::pending().await,
        _ => Ok(Token::new(&world.alive)),
    }
}

// ---- actors ----

/// Somebody outside the pool, who uses all of it.
async fn actor(world: World) {
    for _ in 0..1 + world.dice.below(6) {
        match world.dice.below(9) {
            0 | 1 => submits(&world).await,
            2 => submits_many(&world).await,
            3 => reserves(&world).await,
            4 | 5 => maps(&world).await,
            6 => groups(&world).await,
            7 => pauses(&world).await,
            _ => world.pool().idle().await,
        }
    }
}

/// Resumes the pool even if it is dropped.
struct Pause(Jobs);

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.resume();
    }
}

async fn pauses(world: &World) {
    let pool = world.pool();
    pool.pause();
    let pause = Pause(pool);
    assert!(pause.0.is_paused());
    let patience = world.clock.sleep(Duration::from_secs(world.dice.below(4) as u64));
    if world.dice.one_in(2) {
        // Not for ever: a job that runs may wait for one that does not start meanwhile.
        future::or(pause.0.running_below(1 + world.dice.below(2)), patience).await;
    } else {
        patience.await;
    }
}

async fn stopper(world: World) {
    let report = if world.dice.one_in(2) {
        world.pool().abort().await
    } else {
        world.pool().drain_within(Duration::from_secs(world.dice.below(4) as u64)).await
    };
    world.told_report(report);
}

/// One of the things that can be done with a handle.
async fn finish(world: &World, mut handle: JobHandle<Input, Output, Token>) {
    let (dice, id) = (&world.dice, handle.id());
    if dice.one_in(8) {
        let _ = handle.set_priority(dice.below(3) as i32);
    }
    match dice.below(8) {
        0 => handle.detach(),
        1 => drop(handle),
        2 => drop(handle.cancel()),
        3 => {
            for _ in 0..dice.below(5) {
                future::yield_now().await;
            }
            if let Some(result) = handle.cancel().await {
                world.told_result(id, &result);
            }
        }
        4 => {
            // Awaited for a while, then dropped.
            let patience = world.clock.sleep(Duration::from_secs(dice.below(4) as u64));
            let result = future::or(async { Some((&mut handle).await) }, async {
                patience.await;
                None
            });
            if let Some(result) = result.await {
                world.told_result(id, &result);
            }
        }
        _ => {
            let result = handle.await;
            world.told_result(id, &result);
        }
    }
}

async fn submits(world: &World) {
    let (pool, dice) = (world.pool(), &world.dice);
    let mut job = pool.job(world.input());
    if dice.one_in(4) {
        job = job.timeout(Duration::from_secs(1 + dice.below(4) as u64));
    }
    if dice.one_in(4) {
        job = job.priority(dice.below(5) as i32 - 2);
    }
    if dice.one_in(6) {
        job = job.delay(Duration::from_secs(dice.below(4) as u64));
    }
    let submitted = if dice.one_in(3) {
        job.try_submit().ok()
    } else {
        // Given up now and then while it waits.
        let patience = if dice.one_in(4) { Some(dice.below(4)) } else { None };
        let gives_up = async {
            let Some(polls) = patience else { return future::pending().await };
            for _ in 0..polls {
                future::yield_now().await;
            }
            None
        };
        future::or(async { job.submit().await.ok() }, gives_up).await
    };
    if let Some(handle) = submitted {
        finish(world, handle).await;
    }
}

async fn submits_many(world: &World) {
    let mut handles = Vec::new();
    for _ in 0..world.dice.below(8) {
        handles.extend(world.pool().submit(world.input()).await);
    }
    for handle in handles {
        finish(world, handle).await;
    }
}

async fn reserves(world: &World) {
    let Ok(permit) = world.pool().reserve().await else { return };
    for _ in 0..world.dice.below(4) {
        future::yield_now().await;
    }
    if world.dice.one_in(4) {
        return;
    }
    if let Ok(handle) = permit.submit(world.input()) {
        finish(world, handle).await;
    }
}

async fn maps(world: &World) {
    let (pool, dice) = (world.pool(), &world.dice);
    let (ours, count) = (world.clone(), dice.below(20));
    let source = stream::iter(0..count).then(move |_| {
        let (world, yields) = (ours.clone(), if ours.dice.one_in(4) { ours.dice.below(3) } else { 0 });
        Box::pin(async move {
            for _ in 0..yields {
                future::yield_now().await;
            }
            world.input()
        })
    });
    let mut map = pool.map_stream(source);
    let is_ordered = dice.one_in(2);
    if is_ordered {
        map = map.ordered();
    }
    if dice.one_in(2) {
        map = map.window(1 + dice.below(6));
    }
    if dice.one_in(3) {
        map = map.keep_inputs();
    }
    let policy = [OnError::Continue, OnError::Continue, OnError::Stop, OnError::StopAfter(2)][dice.below(4)];
    map = map.on_error(policy);
    if dice.one_in(4) {
        map = map.priority(dice.below(3) as i32);
    }
    let patience = if dice.one_in(3) { dice.below(20) } else { usize::MAX };
    let cancels = dice.one_in(2);
    let mut read = 0;
    while let Some(completion) = map.next().await {
        world.told_completion(&completion, policy, read >= patience);
        if is_ordered {
            assert_eq!(completion.index, read, "out of order");
        }
        read += 1;
        if read == patience {
            if !cancels {
                return;
            }
            map.cancel();
        }
    }
    let summary = map.summary();
    assert_eq!((summary.accepted, summary.unread), (read, 0), "{summary:?}");
    assert!(!summary.is_complete() || read >= count, "{summary:?}");
}

async fn groups(world: &World) {
    let (pool, dice) = (world.pool(), &world.dice);
    let window = 1 + dice.below(8);
    let mut group = pool.group().window(window);
    let (mut unread, mut is_cancelled) = (0, false);
    for _ in 0..dice.below(12) {
        let submitted =
            if dice.one_in(2) { group.try_submit(world.input()) } else { group.submit(world.input()).await };
        match submitted {
            Ok(()) => {
                assert!(!is_cancelled, "a cancelled group takes no jobs");
                unread += 1;
            }
            Err(refused) => assert!(refused.is_full() || refused.is_closed()),
        }
        assert!(group.unread() >= unread);
        if dice.one_in(3) && unread > 0 {
            let completion = group.next().await.expect("not all are read");
            world.told_completion(&completion, OnError::Continue, is_cancelled);
            unread = group.unread();
        }
        if dice.one_in(40) {
            group.cancel();
            is_cancelled = true;
        }
    }
    if dice.one_in(4) {
        return;
    }
    for completion in group.join().await {
        world.told_completion(&completion, OnError::Continue, is_cancelled);
    }
}
