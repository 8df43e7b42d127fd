//! One scenario for all simulations: a pool of any policies, actors that use all of its API, jobs
//! that add jobs and come to grief by themselves. What strikes from outside is the plan's. It
//! asserts what users are promised, beside what the simulator checks by itself: that each result is
//! told once and is the one that was booked, that inputs are neither lost nor made up, and that
//! nothing of the user's is left.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use brigade::testing::{Recorder, Sim};
use brigade::{
    Builder, CancelReason, Completion, Jitter, JobError, JobHandle, JobId, OnError, Outcome, Pool,
    RateLimit, Report, Retry, Submitter,
};
use futures_lite::{Stream, StreamExt, future, stream};

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
    /// So many jobs follow it, each submitted by the one before.
    chain: usize,
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
        Err(JobError::CostExceedsLimit { .. }) => Outcome::Rejected,
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
    /// Whether most jobs end without waiting, so that a worker runs many in one poll.
    is_quick: bool,
    /// What actors do.
    actions: Actions,
    /// Whether there are few actors.
    is_focused: bool,
    /// Whether a job was told to be abandoned, which takes a worker that was dropped.
    is_abandoned: Rc<Cell<bool>>,
    /// How many actors may have a job that waits for a moment.
    delaying: Rc<Cell<usize>>,
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
        self.pool
            .borrow()
            .clone()
            .expect("it is emptied at the end")
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
        Input {
            depth,
            chain: 0,
            key: self.below(KEYS),
            runs: Rc::default(),
            _token: Token::new(&self.alive),
        }
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
            assert_eq!(
                recorder.outcome(id),
                Some(outcome),
                "{id} was told something else"
            );
        }
        assert!(
            self.seen.lock().unwrap().told.insert(id),
            "{id} was told twice"
        );
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
    fn told_completion(
        &self,
        completion: &Completion<Input, Output, Token>,
        policy: OnError,
        is_cancelled: bool,
    ) {
        match completion.result {
            Err(JobError::Cancelled(reason)) => assert!(match reason {
                CancelReason::Aborted | CancelReason::WouldDeadlock | CancelReason::Deadline =>
                    true,
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
            assert!(
                self.seen.lock().unwrap().returned.insert(unstarted.id),
                "{} was returned twice",
                unstarted.id
            );
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
pub(crate) fn scenario(sim: Sim, allowed: Allowed) -> impl Future<Output = ()> {
    scenario_of(sim, allowed, &Focus::NONE)
}

/// What a simulation is about.
pub(crate) struct Focus {
    pub(crate) actions: Actions,
    /// Whether every pool has fewer places in its queue than workers, and most jobs are quick; else
    /// some have.
    pub(crate) is_small: bool,
}

impl Focus {
    const NONE: Self = Self {
        actions: ACTIONS,
        is_small: false,
    };
}

/// The scenario, made of less.
pub(crate) async fn scenario_of(sim: Sim, allowed: Allowed, focus: &'static Focus) {
    let below = |bound: usize| sim.below(bound as u64) as usize;
    // Where nothing is asked for but to run jobs, they come in lots and are booked by the journal.
    let is_plain = sim.one_in(2);
    let (mut workers, mut capacity) = (1 + below(4), 1 + below(if is_plain { 40 } else { 5 }));
    // What goes wrong where all is full goes wrong most often where it takes little to be full.
    let is_small = focus.is_small || sim.one_in(2);
    if is_small {
        capacity = 1 + below(4);
        workers = capacity + 1 + below(3);
    }
    let mut builder = sim
        .builder()
        .workers(workers)
        .queue_capacity(capacity)
        .child_capacity(below(5));
    let jobs_per_worker = if sim.one_in(3) { 1 + below(4) } else { 1 };
    builder = builder.jobs_per_worker(jobs_per_worker);
    let mut settings = Settings {
        recorder: None,
        max_per_key: usize::MAX,
        has_time_limit: false,
        is_in_order: false,
    };
    if !is_plain {
        (builder, settings) = with_policies(&sim, builder, allowed);
    }
    let Settings {
        recorder,
        max_per_key,
        has_time_limit,
        is_in_order,
    } = settings;
    let is_quick = focus.is_small || sim.one_in(3);
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
        is_quick,
        actions: focus.actions,
        is_focused: focus.is_small,
        is_abandoned: Rc::default(),
        delaying: Rc::default(),
        workers,
        jobs_per_worker,
    };
    run(&world, builder).await;
    let World {
        alive, seen, sim, ..
    } = &world;
    let (alive, seen) = (Arc::clone(alive), Arc::clone(seen));
    sim.at_end(move || {
        assert_eq!(seen.lock().unwrap().violation, None);
        assert_eq!(
            alive.load(Ordering::SeqCst),
            0,
            "inputs, futures, values, errors or states are left"
        );
    });
}

/// What the policies of a pool let be checked.
struct Settings {
    recorder: Option<Recorder>,
    max_per_key: usize,
    has_time_limit: bool,
    is_in_order: bool,
}

/// Some seconds; one in eight is as short as can be.
fn limit(sim: &Sim) -> Duration {
    if sim.one_in(8) {
        Duration::from_nanos(1)
    } else {
        Duration::from_secs(1 + sim.below(9))
    }
}

/// Any policies.
fn with_policies(
    sim: &Sim,
    mut builder: Builder<Input, Token>,
    allowed: Allowed,
) -> (Builder<Input, Token>, Settings) {
    let below = |bound: usize| sim.below(bound as u64) as usize;
    builder = builder.timings(sim.one_in(2));
    let has_time_limit = sim.one_in(2);
    if has_time_limit {
        builder = builder.attempt_timeout(limit(sim));
    }
    if sim.one_in(4) {
        builder = builder.job_timeout(limit(sim));
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
            builder = builder.rate_limit_per_key(
                RateLimit::per(1 + below(3) as u32, Duration::from_secs(2)).burst(2),
            );
        }
    }
    let mut recorder = sim.one_in(2).then(|| sim.recorder());
    if is_in_order {
        recorder = recorder.map(Recorder::in_order);
    }
    if sim.one_in(4) {
        // One in four is above what can be had.
        let permits = if sim.one_in(4) {
            1_000_000_000
        } else {
            1 + below(4) as u32
        };
        let burst = 1 + below(3) as u32;
        builder = builder.rate_limit(RateLimit::per_second(permits).burst(burst));
        if sim.one_in(3) {
            builder = builder.cost_by(|input: &Input| input.depth as u32);
        } else if allowed.fixed_rate {
            recorder =
                recorder.map(|recorder| recorder.limit(permits, Duration::from_secs(1), burst));
        }
    } else if sim.one_in(6) {
        builder = builder.rate_limit(RateLimit::sliding_window(
            1 + below(4) as u32,
            Duration::from_secs(2),
        ));
    }
    if !is_in_order && sim.one_in(3) {
        builder = builder.aging(Duration::from_secs(1 + sim.below(3)));
    }
    if !is_in_order && sim.one_in(2) {
        let mut retry = if sim.one_in(2) {
            Retry::fixed(Duration::from_millis(500 * sim.below(4)))
        } else {
            Retry::exponential(Duration::from_millis(100 + sim.below(900))).jitter(Jitter::Full)
        };
        retry = retry.max_attempts(1 + below(4) as u32);
        if sim.one_in(3) {
            retry = named_delays(sim, below(4));
        }
        if sim.one_in(3) {
            retry = retry.budget(0.5);
        }
        builder = builder.retry(retry).retry_capacity(below(6));
    }
    if let Some(recorder) = &recorder {
        builder = builder.observe(recorder.clone());
    }
    (
        builder,
        Settings {
            recorder,
            max_per_key,
            has_time_limit,
            is_in_order,
        },
    )
}

/// A retry that only its delays bound, whose errors name its times.
fn named_delays(sim: &Sim, count: usize) -> Retry<Token> {
    let is_passed = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_passed);
    sim.at_end(move || {
        assert!(
            !told.load(Ordering::SeqCst),
            "more retries than the {count} delays"
        );
    });
    Retry::delays(move || vec![Duration::from_millis(500); count])
        .retry_after(|_| Some(Duration::from_secs(1)))
        .on_retry(move |retrying| {
            is_passed.fetch_or(retrying.attempt as usize > count, Ordering::SeqCst);
        })
}

async fn run(world: &World, builder: Builder<Input, Token>) {
    let pool = build(builder, world);
    world.sim.watch(&pool);
    let (seen, recorder) = (Arc::clone(&world.seen), world.recorder.clone());
    pool.on_unhandled(move |failure| {
        let mut seen = seen.lock().unwrap();
        let outcome = outcome_of::<(), _>(&Err(failure.error));
        let is_known = recorder
            .as_ref()
            .is_none_or(|recorder| recorder.outcome(failure.id).is_none_or(|o| o == outcome));
        // The pool contains the panics of this closure, so what is wrong is kept for the end.
        if !seen.told.insert(failure.id) || !is_known {
            seen.violation = Some(format!(
                "{} is reported as {outcome:?}, and was told",
                failure.id
            ));
        }
    });
    *world.pool.borrow_mut() = Some(pool);
    // What one leaves behind, another may clear away.
    let actors: Vec<_> = (0..1 + world.below(if world.is_focused { 2 } else { 5 }))
        .map(|_| world.sim.spawn("actor", actor(world.clone())))
        .collect();
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
        assert!(
            accounted <= inputs.made.get(),
            "{accounted} of {}",
            inputs.made.get()
        );
    } else {
        assert_eq!(
            accounted,
            inputs.made.get(),
            "an input was lost, or made up"
        );
    }
    // With no borrow, since other tasks may go on meanwhile.
    drop(world.pool.take());
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
            let (pool, workers) =
                builder.build_with_submitter(move |input: Input, jobs: Submitter<_, _, _>| {
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
        assert!(
            ours.get() <= world.max_per_key,
            "{} of one key run at once",
            ours.get()
        );
        Self {
            world: world.clone(),
            key,
            runs,
        }
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

/// A handler's future whose drop may panic. (A local of an async block that does so as the block
/// returns would leak what it returns: that is the compiler's doing.)
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

fn job(
    world: World,
    input: Input,
    jobs: Option<Adder>,
) -> impl Future<Output = Result<Output, Token>> {
    let bomb = Bomb {
        is_armed: world.one_in(40),
        _token: Token::new(&world.alive),
    };
    Explosive {
        inner: Box::pin(run_job(world, input, jobs)),
        _bomb: bomb,
    }
}

async fn run_job(world: World, input: Input, jobs: Option<Adder>) -> Result<Output, Token> {
    let _running = Running::new(&world, &input);
    if world.sim.is_to_fail() {
        return Err(Token::new(&world.alive));
    }
    if input.chain > 0 {
        continues_chain(&world, input.chain).await;
        return Ok(Token::new(&world.alive));
    }
    world.sim.preempt();
    let steps = if world.is_quick && !world.one_in(8) {
        0
    } else {
        world.below(4)
    };
    for _ in 0..steps {
        let step = draw(&world, if input.depth > 0 { STEPS } else { LAST_STEPS });
        step.take(&world, input.depth, jobs.as_ref()).await;
        world.sim.preempt();
    }
    match world.below(20) {
        0..=2 => Err(Token::new(&world.alive)),
        3 => panic_quietly(),
        4 if world.has_time_limit => future::pending().await,
        _ => Ok(Token::new(&world.alive)),
    }
}

/// What a job does before it ends.
#[derive(Debug, Clone, Copy)]
enum Step {
    Yield,
    Sleep,
    /// Adds a job.
    Add,
    /// Adds a job, and uses its handle.
    AddAndFinish,
    TrySubmit,
    Submit,
    Map,
    Group,
}

const STEPS: Weighted<Step> = &[
    (3, Step::Yield),
    (1, Step::Sleep),
    (3, Step::Add),
    (1, Step::AddAndFinish),
    (1, Step::TrySubmit),
    (1, Step::Submit),
    (1, Step::Map),
    (1, Step::Group),
];

/// Of jobs that add no others.
const LAST_STEPS: Weighted<Step> = &[(3, Step::Yield), (1, Step::Sleep)];

impl Step {
    /// `depth` is that of the job; the jobs that it adds have one less.
    async fn take(self, world: &World, depth: usize, jobs: Option<&Adder>) {
        let child = || world.input_of(depth - 1);
        match self {
            Self::Yield => future::yield_now().await,
            Self::Sleep => world.sleep(1000 * (1 + world.below(5))).await,
            Self::Add => {
                if let Some(jobs) = jobs {
                    world.submitted(jobs.add(child()));
                }
            }
            Self::AddAndFinish => {
                if let Some(jobs) = jobs {
                    let (child, runs) = child().and_its_runs();
                    if let Some(handle) = world.submitted(jobs.submit(child)) {
                        finish(world, handle, runs).await;
                    }
                }
            }
            Self::TrySubmit => {
                let (child, runs) = child().and_its_runs();
                if let Some(handle) = world.submitted(world.pool().try_submit(child)) {
                    finish(world, handle, runs).await;
                }
            }
            Self::Submit => {
                let hands_in = world.hands_in();
                let (child, runs) = child().and_its_runs();
                let submitted = world.pool().submit(child).await;
                hands_in.done();
                if let Some(handle) = world.submitted(submitted) {
                    finish(world, handle, runs).await;
                }
            }
            Self::Map => {
                let ours = world.clone();
                let inputs = (0..1 + world.below(3)).map(move |_| ours.input_of(depth - 1));
                let mut map = world.pool().map(inputs);
                while let Some(completion) = map.next().await {
                    world.told_completion(&completion, OnError::Continue, false);
                    if world.one_in(8) {
                        break;
                    }
                }
            }
            Self::Group => {
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
}

// ---- actors ----

/// What an actor outside the pool does next.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Submit,
    SubmitMany,
    Reserve,
    Map,
    Group,
    Idle,
    /// Uses an option of a running pool.
    Control,
    /// Ends the pool.
    Stop,
    /// Reads a map whose source is a map of the same pool, and so on.
    NestMaps,
    /// Reads a map whose source stays pending until another task tells it to end, or closes the
    /// pool.
    MapPendingSource,
    /// Submits to a group that another task cancels.
    CancelGroup,
    /// Cancels many jobs before a worker can take them.
    CancelMany,
    /// Submits a job that submits the next while it runs, and so on.
    Chain,
    /// Waits until the pool is idle or has ended; what was submitted before is known then.
    KnowAfterIdle,
    /// Waits for jobs, room and rest with wakers that panic.
    PanickingWakers,
    /// Builds a pool of more slots than memory can hold.
    TooManySlots,
    /// Cancels jobs that wait for a moment; beside nothing else that sleeps.
    CancelDelayed,
}

/// Actions, and how often each comes.
pub(crate) type Actions = Weighted<Action>;

const ACTIONS: Actions = &[
    (8, Action::Submit),
    (4, Action::SubmitMany),
    (4, Action::Reserve),
    (8, Action::Map),
    (4, Action::Group),
    (4, Action::Idle),
    (7, Action::Control),
    (1, Action::Stop),
    (2, Action::NestMaps),
    (2, Action::MapPendingSource),
    (2, Action::CancelGroup),
    (1, Action::CancelMany),
    (2, Action::Chain),
    (3, Action::KnowAfterIdle),
    (1, Action::PanickingWakers),
];

type Weighted<T> = &'static [(usize, T)];

fn draw<T: Copy>(world: &World, weighted: Weighted<T>) -> T {
    let mut at = world.below(weighted.iter().map(|(weight, _)| weight).sum());
    let drawn = weighted
        .iter()
        .find(|(weight, _)| at.checked_sub(*weight).map(|left| at = left).is_none());
    drawn.expect("the number is below the sum of the weights").1
}

impl Action {
    async fn take(self, world: &World) {
        world.sim.trace(format_args!("{self:?}"));
        match self {
            Self::Submit => submits(world).await,
            Self::SubmitMany => submits_many(world).await,
            Self::Reserve => reserves(world).await,
            Self::Map => maps(world).await,
            Self::Group => groups(world).await,
            Self::Idle => world.pool().wait_idle().await,
            Self::Control => controls(world).await,
            Self::Stop => stopper(world).await,
            Self::NestMaps => nests_maps(world).await,
            Self::MapPendingSource => maps_pending_source(world).await,
            Self::CancelGroup => submits_to_cancelled_group(world).await,
            Self::CancelMany => cancels_many(world),
            Self::Chain => starts_chain(world).await,
            Self::KnowAfterIdle => knows_after_idle(world).await,
            Self::PanickingWakers => waits_with_panicking_wakers(world).await,
            Self::TooManySlots => builds_too_many_slots(world),
            Self::CancelDelayed => cancels_delayed(world).await,
        }
    }
}

/// A task outside the pool, which uses all of it.
async fn actor(world: World) {
    for _ in 0..1 + world.below(6) {
        draw(&world, world.actions).take(&world).await;
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
    let first = if world.is_plain && !world.one_in(4) {
        3
    } else {
        0
    };
    match first + world.below(6 - first) {
        0 | 1 => {
            pool.pause();
            let _paused = Paused(pool);
            world.sleep(500 * world.below(6)).await;
        }
        2 => pool.set_workers(1 + world.below(world.workers)),
        3 => pool.wait_queued_below(1 + world.below(3)).await,
        4 => pool.wait_running_below(1 + world.below(3)).await,
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
        world
            .pool()
            .drain_within(Duration::from_secs(world.below(4) as u64))
            .await
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
    // One that never starts has to be cancelled.
    let is_endless = asks && !world.is_in_order && world.one_in(16);
    if is_endless {
        job = job.delay(Duration::MAX);
    } else if asks && !world.is_in_order && world.one_in(3) {
        job = job.delay(Duration::from_millis(500 * world.below(6) as u64));
    }
    let submitted = if world.one_in(3) {
        Some(job.try_submit())
    } else {
        // Given up now and then while it waits.
        let patience = world.one_in(4).then(|| world.below(4));
        let gives_up = async {
            let Some(polls) = patience else {
                return future::pending().await;
            };
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
        if is_endless {
            drop(handle);
        } else {
            finish(world, handle, runs).await;
        }
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
    let Ok(permit) = world.pool().reserve().await else {
        return;
    };
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
            world.sim.preempt();
            world.input()
        })
    });
    let mut map = pool.map_stream(source);
    let is_ordered = world.one_in(2);
    if is_ordered {
        map = map.ordered();
    }
    if world.one_in(2) {
        map = map.window(if world.one_in(3) {
            1
        } else {
            1 + world.below(6)
        });
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
    let policy = [
        OnError::Continue,
        OnError::Continue,
        OnError::Stop,
        OnError::StopAfter(2),
    ][world.below(4)];
    map = map.on_error(policy);
    let patience = if world.one_in(3) {
        world.below(20)
    } else {
        usize::MAX
    };
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
    assert!(
        !summary.is_complete() || read >= count,
        "complete without all inputs: {summary:?}"
    );
}

async fn groups(world: &World) {
    let pool = world.pool();
    let window = 1 + world.below(8);
    let mut group = pool.group().window(window);
    let (mut unread, mut is_cancelled) = (0, false);
    for _ in 0..world.below(12) {
        let hands_in = world.hands_in();
        let submitted = if world.one_in(2) {
            group.try_submit(world.input())
        } else {
            group.submit(world.input()).await
        };
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
            // Of those submitted here; it may be one that a job has added.
            unread -= 1;
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

/// A map that is the source of a map of the same pool, and so on: however few places the queue has,
/// each gets its turn.
async fn nests_maps(world: &World) {
    let pool = world.pool();
    let inputs = |ours: World, count| stream::iter(0..count).map(move |_| ours.input_of(0));
    let mut source: Pin<Box<dyn Stream<Item = Input>>> =
        Box::pin(inputs(world.clone(), 1 + world.below(6)));
    for _ in 0..1 + world.below(4) {
        let (mut map, ours) = (pool.map_stream(source), world.clone());
        if world.one_in(3) {
            map = map.window(1 + world.below(2));
        }
        source = Box::pin(map.map(move |completion| {
            ours.told_completion(&completion, OnError::Continue, false);
            ours.input_of(0)
        }));
    }
    let mut map = pool.map_stream(source);
    while let Some(completion) = map.next().await {
        world.told_completion(&completion, OnError::Continue, false);
    }
}

/// A source that is pending until it is told to end.
#[derive(Default)]
struct Pending {
    is_over: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Pending {
    fn end(&self) {
        self.is_over.set(true);
        let waker = self.waker.borrow_mut().take();
        waker.into_iter().for_each(Waker::wake);
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Input>> {
        if self.is_over.get() {
            return Poll::Ready(None);
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Calls the closure when it is dropped, whatever becomes of the task that has it.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// A map with such a source ends with it, or with its pool.
async fn maps_pending_source(world: &World) {
    let (pool, ours, pending) = (world.pool(), world.clone(), Rc::new(Pending::default()));
    let own = Rc::clone(&pending);
    let source = stream::iter(0..world.below(3)).map(move |_| ours.input());
    let mut map = pool.map_stream(source.chain(stream::poll_fn(move |cx| own.poll(cx))));
    let (theirs, closes, sleep) = (
        world.clone(),
        world.one_in(3),
        world.sleep(500 * world.below(6)),
    );
    let end = OnDrop(move || {
        let pool = theirs.pool.borrow().clone();
        match pool {
            Some(pool) if closes => pool.close(),
            _ => pending.end(),
        }
    });
    world.sim.spawn("teller", async move {
        sleep.await;
        drop(end);
    });
    while let Some(completion) = map.next().await {
        world.told_completion(&completion, OnError::Continue, false);
    }
}

/// A submission to a group ends when the group is cancelled, though there is no room.
async fn submits_to_cancelled_group(world: &World) {
    const PATIENCE: usize = 1000;
    let group = Rc::new(world.pool().group().window(1 + world.below(8)));
    let is_waiting = Rc::new(Cell::new(false));
    let (theirs, waits, yields) = (Rc::clone(&group), Rc::clone(&is_waiting), world.below(8));
    world.sim.spawn("canceller", async move {
        for _ in 0..yields {
            future::yield_now().await;
        }
        theirs.cancel();
        drop(theirs);
        for _ in 0..PATIENCE {
            if !waits.get() {
                return;
            }
            future::yield_now().await;
        }
        panic!("a submission waits for room, though its group is cancelled");
    });
    let _over = OnDrop(|| is_waiting.set(false));
    for _ in 0..1 + world.below(6) {
        let hands_in = world.hands_in();
        is_waiting.set(true);
        let submitted = group.submit(world.input()).await;
        is_waiting.set(false);
        hands_in.done();
        world.submitted(submitted);
    }
}

/// Jobs that are cancelled while they wait for a worker leave nothing that adds up.
fn cancels_many(world: &World) {
    let pool = world.pool();
    for _ in 0..70 + world.below(30) {
        if let Some(handle) = world.submitted(pool.try_submit(world.input())) {
            drop(handle.cancel());
        }
    }
}

/// A chain of jobs, each of which submits the next while it runs: as if another thread did so in
/// the middle of the worker's poll. The last one begins a map.
async fn starts_chain(world: &World) {
    // Once all workers wait.
    world.sleep(1).await;
    let hands_in = world.hands_in();
    let mut input = world.input_of(0);
    input.chain = 1 + world.below(7);
    let submitted = world.pool().submit(input).await;
    hands_in.done();
    if let Some(handle) = world.submitted(submitted) {
        handle.detach();
    }
}

async fn continues_chain(world: &World, chain: usize) {
    let pool = world.pool();
    if chain > 1 {
        let mut next = world.input_of(0);
        next.chain = chain - 1;
        if let Some(handle) = world.submitted(pool.try_submit(next)) {
            handle.detach();
        }
        return;
    }
    let ours = world.clone();
    let mut map = pool.map((0..1 + world.below(4)).map(move |_| ours.input_of(0)));
    let first = future::poll_once(map.next()).await.flatten();
    let ours = world.clone();
    world.sim.spawn("reader", async move {
        let mut completion = first;
        if completion.is_none() {
            completion = map.next().await;
        }
        while let Some(told) = completion {
            ours.told_completion(&told, OnError::Continue, false);
            completion = map.next().await;
        }
    });
}

/// When the pool is idle, or has ended, the outcome of every job before is known.
async fn knows_after_idle(world: &World) {
    let (pool, mut handles) = (world.pool(), Vec::new());
    for _ in 0..1 + world.below(4) {
        let hands_in = world.hands_in();
        let (input, runs) = world.input().and_its_runs();
        let submitted = pool.submit(input).await;
        hands_in.done();
        handles.extend(world.submitted(submitted).map(|handle| (handle, runs)));
    }
    let mut group = pool.group();
    for _ in 0..world.below(6) {
        world.submitted(group.try_submit(world.input()));
    }
    match world.below(12) {
        0 => pool.drain().await,
        1 => world.told_report(pool.abort().await),
        _ => pool.wait_idle().await,
    }
    for (handle, _) in &handles {
        assert!(
            handle.is_finished(),
            "the pool was idle, and the outcome of job {} is not known",
            handle.id()
        );
    }
    while group.unread() > 0 {
        let completion = future::poll_once(group.next()).await.flatten();
        let completion = completion.expect("the pool was idle, and a completion is not there");
        world.told_completion(&completion, OnError::Continue, false);
    }
    for (handle, runs) in handles {
        finish(world, handle, runs).await;
    }
}

/// Wakes the task, and panics, unless that is polled.
struct Panics {
    task: Waker,
    is_polled: AtomicBool,
}

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        self.task.wake_by_ref();
        if !self.is_polled.load(Ordering::SeqCst) && !std::thread::panicking() {
            panic_quietly();
        }
    }
}

/// Awaits the future with a waker that panics.
async fn with_panics<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    future::poll_fn(move |cx| {
        let panics = Arc::new(Panics {
            task: cx.waker().clone(),
            is_polled: AtomicBool::new(true),
        });
        let polled = future
            .as_mut()
            .poll(&mut Context::from_waker(&Waker::from(Arc::clone(&panics))));
        panics.is_polled.store(false, Ordering::SeqCst);
        polled
    })
    .await
}

/// A waker that panics hurts nobody but its own task.
async fn waits_with_panicking_wakers(world: &World) {
    let pool = world.pool();
    for _ in 0..1 + world.below(4) {
        match world.below(4) {
            0 => with_panics(pool.wait_idle()).await,
            1 => {
                let ours = world.clone();
                let mut map = pool.map((0..world.below(6)).map(move |_| ours.input_of(0)));
                while let Some(completion) = with_panics(map.next()).await {
                    world.told_completion(&completion, OnError::Continue, false);
                }
            }
            _ => {
                let hands_in = world.hands_in();
                let submitted = with_panics(pool.submit(world.input())).await;
                hands_in.done();
                if let Some(handle) = world.submitted(submitted) {
                    let id = handle.id();
                    world.told_result(id, &with_panics(handle).await);
                }
            }
        }
    }
}

/// A number of slots that memory cannot hold is refused, and ends no process.
fn builds_too_many_slots(world: &World) {
    let (few, many) = (1 + world.below(8), 1_usize << (50 + world.below(9)));
    let (workers, slots) = if world.one_in(2) {
        (few, many)
    } else {
        (many, few)
    };
    let builder = world.sim.builder().workers(workers).jobs_per_worker(slots);
    let build = || drop(builder.build(|n: u32| async move { Ok::<_, ()>(n) }));
    let refused = catch_unwind(AssertUnwindSafe(build)).expect_err("no memory holds so many");
    let text = refused.downcast_ref::<String>().map_or("", String::as_str);
    assert!(text.contains("no more than memory can hold"), "{text}");
}

/// When the jobs that waited for a moment have gone, no alarm is left.
async fn cancels_delayed(world: &World) {
    const PATIENCE: usize = 1000;
    let pool = world.pool();
    let delaying = &world.delaying;
    delaying.set(delaying.get() + 1);
    let ends = OnDrop(|| delaying.set(delaying.get() - 1));
    let mut handles = Vec::new();
    for _ in 0..1 + world.below(3) {
        let delay = Duration::from_secs(1 + world.below(5) as u64);
        handles.extend(world.submitted(pool.job(world.input_of(0)).delay(delay).try_submit()));
        future::yield_now().await;
    }
    for _ in 0..world.below(8) {
        future::yield_now().await;
    }
    handles.into_iter().for_each(|handle| drop(handle.cancel()));
    drop(ends);
    // With policies, there may be limits that wait for time without a job.
    if !world.is_plain {
        return;
    }
    for _ in 0..PATIENCE {
        if delaying.get() > 0 || world.sim.clock().sleeping() == 0 {
            return;
        }
        future::yield_now().await;
    }
    panic!("an alarm is left, and there is no moment to wait for");
}
