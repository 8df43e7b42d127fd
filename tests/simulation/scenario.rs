//! One scenario for all simulations: a pool of any policies, actors that use all of its API, jobs that add jobs and come to grief
//! by themselves. What strikes from outside is the plan's. It asserts what users are promised, beside what the simulator
//! checks by itself: that each result is told once and is the one that was booked, that inputs are neither lost nor made up, and
//! that nothing of the user's is left.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use brigade::testing::{Recorder, Sim};
use brigade::{
    Builder, CancelReason, Completion, Jitter, JobError, JobHandle, JobId, OnError, Outcome, Pool, RateLimit, Report,
    Retry, Submitter,
};
use futures_lite::{StreamExt, future, stream};

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
    /// Below [`KEYS`].
    key: usize,
    runs: Runs,
    _token: Token,
}

/// How many handlers' futures have an input.
type Runs = Rc<Cell<usize>>;

impl Input {
    fn and_its_runs(self) -> (Self, Runs) {
        let runs = Rc::clone(&self.runs);
        (self, runs)
    }
}

const KEYS: usize = 3;

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

// ---- the world ----

fn outcome_of<T, E>(result: &Result<T, JobError<E>>) -> Outcome {
    match result {
        Ok(_) => Outcome::Succeeded,
        Err(JobError::Failed(_)) => Outcome::Failed,
        Err(JobError::TimedOut(_)) => Outcome::TimedOut,
        Err(JobError::Panicked(_)) => Outcome::Panicked,
        Err(JobError::Cancelled(_)) => Outcome::Cancelled,
        Err(JobError::TooCostly { .. }) => Outcome::Rejected,
        Err(_) => Outcome::Abandoned,
    }
}

type Jobs = Pool<Input, Output, Token>;

#[derive(Clone)]
struct World {
    sim: Sim,
    /// In some of the runs, since a pool that is observed takes another way.
    recorder: Option<Recorder>,
    /// Emptied at the end, since the handler has it.
    pool: Rc<RefCell<Option<Jobs>>>,
    seen: Arc<Mutex<Seen>>,
    /// Inputs, futures, values, errors and states.
    alive: Arc<AtomicIsize>,
    inputs: Rc<Inputs>,
    /// How many handlers' futures there are.
    running: Rc<Cell<usize>>,
    /// How many of each key.
    keys: Rc<[Cell<usize>; KEYS]>,
    max_per_key: usize,
    has_time_limit: bool,
    /// Whether jobs are to start in the order in which they come.
    is_in_order: bool,
    /// Whether the pool has no policies; then hardly anybody asks for one either.
    is_plain: bool,
    /// Whether a job was told to be abandoned, which takes a worker that was dropped.
    is_abandoned: Rc<Cell<bool>>,
    /// Of those built.
    workers: usize,
    jobs_per_worker: usize,
}

/// What was told to whom.
#[derive(Default)]
struct Seen {
    told: BTreeSet<JobId>,
    returned: BTreeSet<JobId>,
    violation: Option<String>,
}

/// What became of the inputs that were handed in.
#[derive(Default)]
struct Inputs {
    made: Cell<u64>,
    refused: Cell<u64>,
    /// Went with a future that was dropped while it was handed in; how many, nobody knows.
    are_lost: Cell<bool>,
}

/// Somebody is about to hand in inputs; if he is dropped before he is done, they may go with him.
struct HandsIn(Rc<Inputs>, bool);

impl HandsIn {
    fn done(mut self) {
        self.1 = true;
    }
}

impl Drop for HandsIn {
    fn drop(&mut self) {
        if !self.1 {
            self.0.are_lost.set(true);
        }
    }
}

impl World {
    fn pool(&self) -> Jobs {
        self.pool.borrow().clone().expect("it is emptied at the end")
    }

    fn below(&self, bound: usize) -> usize {
        self.sim.below(bound as u64) as usize
    }

    fn one_in(&self, count: u64) -> bool {
        self.sim.one_in(count)
    }

    fn sleep(&self, millis: usize) -> impl Future<Output = ()> + use<> {
        self.sim.clock().sleep(Duration::from_millis(millis as u64))
    }

    fn input(&self) -> Input {
        self.input_of(self.below(3))
    }

    fn input_of(&self, depth: usize) -> Input {
        self.inputs.made.set(self.inputs.made.get() + 1);
        Input { depth, key: self.below(KEYS), runs: Rc::default(), _token: Token::new(&self.alive) }
    }

    fn hands_in(&self) -> HandsIn {
        HandsIn(Rc::clone(&self.inputs), false)
    }

    /// An input that comes back counts as refused.
    fn submitted<V, R>(&self, submitted: Result<V, R>) -> Option<V> {
        if submitted.is_err() {
            self.inputs.refused.set(self.inputs.refused.get() + 1);
        }
        submitted.ok()
    }

    /// A result was told to somebody: it is the one that was booked, and told once.
    fn told(&self, id: JobId, outcome: Outcome) {
        if let Some(recorder) = &self.recorder {
            assert_eq!(recorder.outcome(id), Some(outcome), "{id} was told something else");
        }
        assert!(self.seen.lock().unwrap().told.insert(id), "{id} was told twice");
    }

    /// A handle that nobody has cancelled tells of its job.
    fn told_result(&self, id: JobId, result: &Result<Output, JobError<Token>>) {
        match result {
            Err(JobError::WouldDeadlock) => return,
            Err(JobError::Cancelled(reason)) => assert_eq!(*reason, CancelReason::Aborted, "{id}"),
            Err(JobError::Abandoned) => self.is_abandoned.set(true),
            _ => {}
        }
        self.told(id, outcome_of(result));
    }

    /// A map or group with this policy, which nobody or somebody has cancelled, tells of a job.
    fn told_completion(&self, completion: &Completion<Input, Output, Token>, policy: OnError, is_cancelled: bool) {
        match completion.result {
            Err(JobError::Cancelled(reason)) => assert!(match reason {
                CancelReason::Aborted | CancelReason::WouldDeadlock | CancelReason::Deadline => true,
                CancelReason::Stopped => policy != OnError::Continue,
                CancelReason::Stream => is_cancelled,
                _ => false,
            }),
            Err(JobError::Abandoned) => self.is_abandoned.set(true),
            _ => {}
        }
        self.told(completion.id, outcome_of(&completion.result));
    }

    fn told_report(&self, report: Report<Input>) {
        for unstarted in report.unstarted {
            if let Some(recorder) = &self.recorder {
                assert_eq!(recorder.outcome(unstarted.id), Some(Outcome::Cancelled));
            }
            assert!(self.seen.lock().unwrap().returned.insert(unstarted.id), "{} was returned twice", unstarted.id);
        }
    }
}

// ---- the pool ----

/// What a simulation may do to the pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    /// Whether the rate stays as it was built, so that it can be checked.
    pub(crate) fixed_rate: bool,
    /// Whether only the scenario gives priorities, so that the order can be checked.
    pub(crate) fixed_order: bool,
}

/// The scenario.
pub(crate) async fn scenario(sim: Sim, allowed: Allowed) {
    let below = |bound: usize| sim.below(bound as u64) as usize;
    // Where nothing is asked for but to run jobs, they come in lots and are booked by the journal.
    let is_plain = sim.one_in(2);
    let (workers, child_capacity) = (1 + below(4), below(5));
    let capacity = 1 + below(if is_plain { 40 } else { 5 });
    let mut builder = sim.builder().workers(workers).queue_capacity(capacity).child_capacity(child_capacity);
    let jobs_per_worker = if sim.one_in(2) { 1 + below(4) } else { 1 };
    builder = builder.jobs_per_worker(jobs_per_worker);
    let mut settings = Settings { recorder: None, max_per_key: usize::MAX, has_time_limit: false, is_in_order: false };
    if !is_plain {
        (builder, settings) = with_policies(&sim, builder, allowed);
    }
    let Settings { recorder, max_per_key, has_time_limit, is_in_order } = settings;
    let world = World {
        sim,
        recorder,
        pool: Rc::default(),
        seen: Arc::default(),
        alive: Arc::default(),
        inputs: Rc::default(),
        running: Rc::default(),
        keys: Rc::default(),
        max_per_key,
        has_time_limit,
        is_in_order,
        is_plain,
        is_abandoned: Rc::default(),
        workers,
        jobs_per_worker,
    };
    run(&world, builder).await;
    let World { alive, seen, sim, .. } = &world;
    let (alive, seen) = (Arc::clone(alive), Arc::clone(seen));
    sim.at_end(move || {
        assert_eq!(seen.lock().unwrap().violation, None);
        assert_eq!(alive.load(Ordering::SeqCst), 0, "inputs, futures, values, errors or states are left");
    });
}

/// What the policies of a pool let be checked.
struct Settings {
    recorder: Option<Recorder>,
    max_per_key: usize,
    has_time_limit: bool,
    is_in_order: bool,
}

/// Any policies.
fn with_policies(sim: &Sim, mut builder: Builder<Input, Token>, allowed: Allowed) -> (Builder<Input, Token>, Settings) {
    let below = |bound: usize| sim.below(bound as u64) as usize;
    builder = builder.timings(sim.one_in(2));
    let has_time_limit = sim.one_in(2);
    if has_time_limit {
        builder = builder.attempt_timeout(Duration::from_secs(1 + sim.below(9)));
    }
    if sim.one_in(4) {
        builder = builder.job_timeout(Duration::from_secs(1 + sim.below(9)));
    }
    let mut max_per_key = usize::MAX;
    let is_in_order = allowed.fixed_order && sim.one_in(3);
    if !is_in_order && sim.one_in(2) {
        builder = builder.key_by(|input: &Input| input.key);
        if sim.one_in(2) {
            max_per_key = 1 + below(2);
            builder = builder.max_running_per_key(max_per_key);
        }
        if sim.one_in(3) {
            builder = builder.rate_limit_per_key(RateLimit::per(1 + below(3) as u32, Duration::from_secs(2)).burst(2));
        }
    }
    let mut recorder = sim.one_in(2).then(|| sim.recorder());
    if is_in_order {
        recorder = recorder.map(Recorder::in_order);
    }
    if sim.one_in(4) {
        let (permits, burst) = (1 + below(4) as u32, 1 + below(3) as u32);
        builder = builder.rate_limit(RateLimit::per_second(permits).burst(burst));
        if sim.one_in(3) {
            builder = builder.cost_by(|input: &Input| input.depth as u32);
        } else if allowed.fixed_rate {
            recorder = recorder.map(|recorder| recorder.limit(permits, Duration::from_secs(1), burst));
        }
    } else if sim.one_in(6) {
        builder = builder.rate_limit(RateLimit::sliding_window(1 + below(4) as u32, Duration::from_secs(2)));
    }
    if !is_in_order && sim.one_in(3) {
        builder = builder.ageing(Duration::from_secs(1 + sim.below(3)));
    }
    if !is_in_order && sim.one_in(2) {
        let mut retry = if sim.one_in(2) {
            Retry::fixed(Duration::from_millis(500 * sim.below(4)))
        } else {
            Retry::exponential(Duration::from_millis(100 + sim.below(900))).jitter(Jitter::Full)
        };
        retry = retry.max_attempts(1 + below(4) as u32);
        if sim.one_in(3) {
            retry = retry.budget(0.5);
        }
        builder = builder.retry(retry).retry_capacity(below(6));
    }
    if let Some(recorder) = &recorder {
        builder = builder.observe(recorder.clone());
    }
    (builder, Settings { recorder, max_per_key, has_time_limit, is_in_order })
}

async fn run(world: &World, builder: Builder<Input, Token>) {
    let pool = build(builder, world);
    world.sim.watch(&pool);
    let (seen, recorder) = (Arc::clone(&world.seen), world.recorder.clone());
    pool.on_unhandled(move |failure| {
        let mut seen = seen.lock().unwrap();
        let outcome = outcome_of::<(), _>(&Err(failure.error));
        let is_known =
            recorder.as_ref().is_none_or(|recorder| recorder.outcome(failure.id).is_none_or(|o| o == outcome));
        // The pool contains the panics of this closure, so what is wrong is kept for the end.
        if !seen.told.insert(failure.id) || !is_known {
            seen.violation = Some(format!("{} is reported as {outcome:?}, and was told", failure.id));
        }
    });
    *world.pool.borrow_mut() = Some(pool);
    let actors: Vec<_> = (0..2 + world.below(4)).map(|_| world.sim.spawn("actor", actor(world.clone()))).collect();
    for actor in actors {
        actor.await;
    }
    let pool = world.pool();
    while world.is_abandoned.get() && pool.stats().workers == world.workers {
        // The worker that was dropped with a job is about to leave.
        future::yield_now().await;
    }
    pool.drain().await;
    // Whatever an abort returned and nobody took.
    world.told_report(pool.abort().await);
    while pool.stats().workers > 0 {
        future::yield_now().await;
    }
    let (stats, inputs) = (pool.stats(), &world.inputs);
    let accounted = stats.accepted + inputs.refused.get();
    if inputs.are_lost.get() {
        assert!(accounted <= inputs.made.get(), "{accounted} of {}", inputs.made.get());
    } else {
        assert_eq!(accounted, inputs.made.get(), "an input was lost, or made up");
    }
    *world.pool.borrow_mut() = None;
}

fn build(builder: Builder<Input, Token>, world: &World) -> Jobs {
    let (sim, ours) = (&world.sim, world.clone());
    let kind = world.below(3);
    match kind {
        // Jobs that add jobs are booked at once.
        1 if world.is_plain && world.one_in(2) => {
            let (pool, workers) = builder.build(move |input: Input| job(ours.clone(), input, None));
            sim.spawn_workers(workers);
            pool
        }
        0 => {
            let handler = sim.faulty(move |input: Input| job(ours.clone(), input, None));
            let (pool, workers) = builder.build(handler);
            sim.spawn_workers(workers);
            pool
        }
        1 => {
            let (pool, workers) = builder.build_with_submitter(move |input: Input, jobs: Submitter<_, _, _>| {
                job(ours.clone(), input, Some(jobs))
            });
            sim.spawn_workers(workers);
            pool
        }
        _ => {
            let theirs = world.clone();
            let init = move |_| {
                if theirs.one_in(20) {
                    panic_quietly();
                }
                (Token::new(&theirs.alive), 0)
            };
            let (pool, workers) = builder.jobs_per_worker(1).build_with_state(
                init,
                async move |state: &mut (Token, u32), input: Input| {
                    state.1 += 1;
                    run_job(ours.clone(), input, None).await
                },
            );
            sim.spawn_workers(workers);
            pool
        }
    }
}

// ---- jobs ----

/// Counts a handler's future while it runs.
struct Running {
    world: World,
    key: usize,
    runs: Runs,
}

impl Running {
    fn new(world: &World, input: &Input) -> Self {
        let (key, runs) = (input.key, Rc::clone(&input.runs));
        let (all, ours) = (&world.running, &world.keys[key]);
        runs.set(runs.get() + 1);
        all.set(all.get() + 1);
        ours.set(ours.get() + 1);
        assert!(ours.get() <= world.max_per_key, "{} of one key run at once", ours.get());
        Self { world: world.clone(), key, runs }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (all, ours) = (&self.world.running, &self.world.keys[self.key]);
        all.set(all.get() - 1);
        ours.set(ours.get() - 1);
        self.runs.set(self.runs.get() - 1);
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
    let bomb = Bomb { is_armed: world.one_in(40), _token: Token::new(&world.alive) };
    Explosive { inner: Box::pin(run_job(world, input, jobs)), _bomb: bomb }
}

async fn run_job(world: World, input: Input, jobs: Option<Adder>) -> Result<Output, Token> {
    let _running = Running::new(&world, &input);
    if world.sim.is_to_fail() {
        return Err(Token::new(&world.alive));
    }
    let child = || world.input_of(input.depth - 1);
    for _ in 0..world.below(4) {
        match world.below(if input.depth > 0 { 12 } else { 4 }) {
            0..=2 => future::yield_now().await,
            3 => world.sleep(1000 * (1 + world.below(5))).await,
            4..=6 => {
                if let Some(jobs) = &jobs {
                    world.submitted(jobs.add(child()));
                }
            }
            7 => {
                if let Some(jobs) = &jobs {
                    let (child, runs) = child().and_its_runs();
                    if let Some(handle) = world.submitted(jobs.submit(child)) {
                        finish(&world, handle, runs).await;
                    }
                }
            }
            8 => {
                let (child, runs) = child().and_its_runs();
                if let Some(handle) = world.submitted(world.pool().try_submit(child)) {
                    finish(&world, handle, runs).await;
                }
            }
            9 => {
                let hands_in = world.hands_in();
                let (child, runs) = child().and_its_runs();
                let submitted = world.pool().submit(child).await;
                hands_in.done();
                if let Some(handle) = world.submitted(submitted) {
                    finish(&world, handle, runs).await;
                }
            }
            10 => {
                let (ours, depth) = (world.clone(), input.depth - 1);
                let mut map = world.pool().map((0..1 + world.below(3)).map(move |_| ours.input_of(depth)));
                while let Some(completion) = map.next().await {
                    world.told_completion(&completion, OnError::Continue, false);
                    if world.one_in(8) {
                        break;
                    }
                }
            }
            _ => {
                let mut group = world.pool().group();
                let hands_in = world.hands_in();
                let submitted = group.submit(child()).await;
                hands_in.done();
                world.submitted(submitted);
                world.submitted(group.try_submit(child()));
                while let Some(completion) = group.next().await {
                    world.told_completion(&completion, OnError::Continue, false);
                }
            }
        }
    }
    match world.below(20) {
        0..=2 => Err(Token::new(&world.alive)),
        3 => panic_quietly(),
        4 if world.has_time_limit => future::pending().await,
        _ => Ok(Token::new(&world.alive)),
    }
}

// ---- actors ----

/// Somebody outside the pool, who uses all of it.
async fn actor(world: World) {
    for _ in 0..1 + world.below(6) {
        match world.below(10) {
            9 if world.one_in(4) => stopper(&world).await,
            8 | 9 => controls(&world).await,
            0 | 1 => submits(&world).await,
            2 => submits_many(&world).await,
            3 => reserves(&world).await,
            4 | 5 => maps(&world).await,
            6 => groups(&world).await,
            _ => world.pool().idle().await,
        }
    }
}

/// Takes its pause back, whatever becomes of the one who paused.
struct Paused(Jobs);

impl Drop for Paused {
    fn drop(&mut self) {
        self.0.resume();
    }
}

/// Somebody who turns the knobs.
async fn controls(world: &World) {
    let pool = world.pool();
    let first = if world.is_plain && !world.one_in(4) { 3 } else { 0 };
    match first + world.below(6 - first) {
        0 | 1 => {
            pool.pause();
            let _paused = Paused(pool);
            world.sleep(500 * world.below(6)).await;
        }
        2 => pool.set_workers(1 + world.below(world.workers)),
        3 => pool.queued_below(1 + world.below(3)).await,
        4 => pool.running_below(1 + world.below(3)).await,
        _ => {
            // Each is right at its moment; others may go on between the two.
            let (running, stats) = (pool.running(), pool.stats());
            let slots = world.workers * world.jobs_per_worker;
            assert!(running.len() <= slots && stats.running <= slots);
        }
    }
}

async fn stopper(world: &World) {
    let report = if world.one_in(2) {
        world.pool().abort().await
    } else {
        world.pool().drain_within(Duration::from_secs(world.below(4) as u64)).await
    };
    world.told_report(report);
}

/// One of the things that can be done with a handle.
async fn finish(world: &World, mut handle: JobHandle<Input, Output, Token>, runs: Runs) {
    let id = handle.id();
    match world.below(8) {
        0 => handle.detach(),
        1 => drop(handle),
        2 => drop(handle.cancel()),
        3 => {
            for _ in 0..world.below(5) {
                future::yield_now().await;
            }
            if let Some(result) = handle.cancel().await {
                world.told_result(id, &result);
            }
            assert_eq!(runs.get(), 0, "{id} runs after its cancellation");
        }
        4 => {
            // Awaited for a while, then dropped.
            let patience = world.sleep(1000 * world.below(4));
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
    let pool = world.pool();
    let hands_in = world.hands_in();
    let (input, runs) = world.input().and_its_runs();
    let mut job = pool.job(input);
    let asks = !world.is_plain || world.one_in(8);
    if asks && world.one_in(4) {
        job = job.timeout(Duration::from_secs(1 + world.below(4) as u64));
    }
    if asks && !world.is_in_order && world.one_in(3) {
        job = job.priority(world.below(5) as i32 - 2);
    }
    if asks && !world.is_in_order && world.one_in(3) {
        job = job.delay(Duration::from_millis(500 * world.below(6) as u64));
    }
    let submitted = if world.one_in(3) {
        Some(job.try_submit())
    } else {
        // Given up now and then while it waits.
        let patience = world.one_in(4).then(|| world.below(4));
        let gives_up = async {
            let Some(polls) = patience else { return future::pending().await };
            for _ in 0..polls {
                future::yield_now().await;
            }
            None
        };
        future::or(async { Some(job.submit().await) }, gives_up).await
    };
    let submitted = submitted.and_then(|submitted| {
        hands_in.done();
        world.submitted(submitted)
    });
    if let Some(handle) = submitted {
        if !world.is_in_order && world.one_in(4) {
            future::yield_now().await;
            handle.set_priority(world.below(5) as i32 - 2);
        }
        finish(world, handle, runs).await;
    }
}

async fn submits_many(world: &World) {
    let mut handles = Vec::new();
    for _ in 0..world.below(8) {
        let hands_in = world.hands_in();
        let (input, runs) = world.input().and_its_runs();
        let submitted = world.pool().submit(input).await;
        hands_in.done();
        handles.extend(world.submitted(submitted).map(|handle| (handle, runs)));
    }
    for (handle, runs) in handles {
        finish(world, handle, runs).await;
    }
}

async fn reserves(world: &World) {
    let Ok(permit) = world.pool().reserve().await else { return };
    for _ in 0..world.below(4) {
        future::yield_now().await;
    }
    if world.one_in(4) {
        return;
    }
    let (input, runs) = world.input().and_its_runs();
    if let Some(handle) = world.submitted(permit.submit(input)) {
        finish(world, handle, runs).await;
    }
}

async fn maps(world: &World) {
    let pool = world.pool();
    let (ours, count) = (world.clone(), world.below(20));
    let source = stream::iter(0..count).then(move |_| {
        let (world, yields) = (ours.clone(), if ours.one_in(4) { ours.below(3) } else { 0 });
        Box::pin(async move {
            for _ in 0..yields {
                future::yield_now().await;
            }
            world.input()
        })
    });
    let mut map = pool.map_stream(source);
    let is_ordered = world.one_in(2);
    if is_ordered {
        map = map.ordered();
    }
    if world.one_in(2) {
        map = map.window(1 + world.below(6));
    }
    if world.one_in(3) {
        map = map.keep_inputs();
    }
    if !world.is_in_order && world.one_in(if world.is_plain { 20 } else { 3 }) {
        map = map.priority(world.below(3) as i32 - 1);
    }
    if world.one_in(6) {
        map = map.deadline(Duration::from_secs(1 + world.below(9) as u64));
    }
    let policy = [OnError::Continue, OnError::Continue, OnError::Stop, OnError::StopAfter(2)][world.below(4)];
    map = map.on_error(policy);
    let patience = if world.one_in(3) { world.below(20) } else { usize::MAX };
    let cancels = world.one_in(2);
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
    assert!(!summary.is_complete() || read >= count, "complete without all inputs: {summary:?}");
}

async fn groups(world: &World) {
    let pool = world.pool();
    let window = 1 + world.below(8);
    let mut group = pool.group().window(window);
    let (mut unread, mut is_cancelled) = (0, false);
    for _ in 0..world.below(12) {
        let hands_in = world.hands_in();
        let submitted =
            if world.one_in(2) { group.try_submit(world.input()) } else { group.submit(world.input()).await };
        hands_in.done();
        if let Err(refused) = &submitted {
            assert!(refused.is_full() || refused.is_closed());
        }
        if world.submitted(submitted).is_some() {
            assert!(!is_cancelled, "a cancelled group takes no jobs");
            unread += 1;
        }
        assert!(group.unread() >= unread);
        if world.one_in(3) && unread > 0 {
            let completion = group.next().await.expect("not all are read");
            world.told_completion(&completion, OnError::Continue, is_cancelled);
            unread = group.unread();
        }
        if world.one_in(40) {
            group.cancel();
            is_cancelled = true;
        }
    }
    if world.one_in(4) {
        return;
    }
    for completion in group.join().await {
        world.told_completion(&completion, OnError::Continue, is_cancelled);
    }
}
