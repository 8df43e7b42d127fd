//! One scenario for all simulations: a pool of random policies, actors that use its whole API, and
//! jobs that add jobs and fail on request. Faults from outside are injected by the plan. In addition
//! to the checks of the simulator, the scenario asserts that each result is delivered once and is the
//! one in the pool's counters, that no input is lost or duplicated, and that every value of the user
//! is dropped.

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
    /// How many jobs follow it, each submitted by the one before.
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

// ---- the state of a run ----

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
struct State {
    sim: Sim,
    /// In some of the runs, since a pool without an observer takes shortcuts.
    recorder: Option<Recorder>,
    /// Emptied at the end, since the handler holds it.
    pool: Rc<RefCell<Option<Jobs>>>,
    seen: Arc<Mutex<Seen>>,
    /// Inputs, futures, values, errors and states.
    alive: Arc<AtomicIsize>,
    inputs: Rc<Inputs>,
    /// How many handlers' futures there are.
    running: Rc<Cell<usize>>,
    /// How many futures of each key there are.
    keys: Rc<[Cell<usize>; KEYS]>,
    max_per_key: usize,
    has_time_limit: bool,
    /// Whether jobs are to start in the order in which they come.
    is_in_order: bool,
    /// Whether the pool has no policies; then few jobs have options either.
    is_plain: bool,
    /// Whether most jobs end without waiting, so that a worker runs many in one poll.
    is_quick: bool,
    /// What actors do.
    actions: Actions,
    /// Whether there are few actors.
    is_focused: bool,
    /// Whether a job was reported as abandoned, which takes a worker that was dropped.
    is_abandoned: Rc<Cell<bool>>,
    /// How many actors may have a delayed job.
    delaying: Rc<Cell<usize>>,
    /// As built.
    workers: usize,
    jobs_per_worker: usize,
}

/// The results that were delivered so far.
#[derive(Default)]
struct Seen {
    delivered: BTreeSet<JobId>,
    returned: BTreeSet<JobId>,
    violation: Option<String>,
}

/// How many inputs were made, and how many of them came back.
#[derive(Default)]
struct Inputs {
    made: Cell<u64>,
    refused: Cell<u64>,
    /// Whether a submission was dropped with its input; how many inputs that were is not known.
    are_lost: Cell<bool>,
}

/// Guard of a submission: dropped before `done`, its inputs may be lost with it.
struct Submitting(Rc<Inputs>, bool);

impl Submitting {
    fn done(mut self) {
        self.1 = true;
    }
}

impl Drop for Submitting {
    fn drop(&mut self) {
        if !self.1 {
            self.0.are_lost.set(true);
        }
    }
}

impl State {
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

    fn submitting(&self) -> Submitting {
        Submitting(Rc::clone(&self.inputs), false)
    }

    /// An input that comes back counts as refused.
    fn submitted<V, R>(&self, submitted: Result<V, R>) -> Option<V> {
        if submitted.is_err() {
            self.inputs.refused.set(self.inputs.refused.get() + 1);
        }
        submitted.ok()
    }

    /// Checks a delivered result: it is the recorded one, and is delivered once.
    fn delivered(&self, id: JobId, outcome: Outcome) {
        if let Some(recorder) = &self.recorder {
            assert_eq!(
                recorder.outcome(id),
                Some(outcome),
                "{id} was delivered with another outcome"
            );
        }
        assert!(
            self.seen.lock().unwrap().delivered.insert(id),
            "{id} was delivered twice"
        );
    }

    /// Checks the result of a handle that was not cancelled.
    fn check_result(&self, id: JobId, result: &Result<Output, JobError<Token>>) {
        match result {
            Err(JobError::WouldDeadlock) => return,
            Err(JobError::Cancelled(reason)) => assert_eq!(*reason, CancelReason::Aborted, "{id}"),
            Err(JobError::Abandoned) => self.is_abandoned.set(true),
            _ => {}
        }
        self.delivered(id, outcome_of(result));
    }

    /// Checks a completion of a map or group with this policy.
    fn check_completion(
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
        self.delivered(completion.id, outcome_of(&completion.result));
    }

    fn check_report(&self, report: Report<Input>) {
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

/// Which faults and options a simulation may use.
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

/// The kind of pool and of actions that a simulation concentrates on.
pub(crate) struct Focus {
    pub(crate) actions: Actions,
    /// Whether every pool has a smaller queue than workers, and most jobs are quick; else some pools
    /// are so.
    pub(crate) is_small: bool,
    /// Whether every pool has time limits, also those without policies.
    pub(crate) is_timed: bool,
}

impl Focus {
    const NONE: Self = Self {
        actions: ACTIONS,
        is_small: false,
        is_timed: false,
    };
}

/// The scenario with only the actions of a focus.
pub(crate) async fn scenario_of(sim: Sim, allowed: Allowed, focus: &'static Focus) {
    let below = |bound: usize| sim.below(bound as u64) as usize;
    // A pool without policies uses the fast path: batches, local queues and tallies.
    let is_plain = sim.one_in(2);
    let (mut workers, mut capacity) = (1 + below(4), 1 + below(if is_plain { 40 } else { 5 }));
    // Bugs of a full queue show most often where little fills the queue.
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
    if focus.is_timed {
        builder = with_time_limits(&sim, builder);
        settings.has_time_limit = true;
    }
    let Settings {
        recorder,
        max_per_key,
        has_time_limit,
        is_in_order,
    } = settings;
    let is_quick = focus.is_small || sim.one_in(3);
    let state = State {
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
    run(&state, builder).await;
    let State {
        alive, seen, sim, ..
    } = &state;
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

/// What can be checked in a pool with its policies.
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

/// Adds a time limit of each job, of each attempt, or both.
fn with_time_limits(sim: &Sim, builder: Builder<Input, Token>) -> Builder<Input, Token> {
    match sim.below(4) {
        0 => builder.attempt_timeout(limit(sim)),
        1 => builder.attempt_timeout(limit(sim)).job_timeout(limit(sim)),
        _ => builder.job_timeout(limit(sim)),
    }
}

/// Adds random policies.
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
        // One in four is a rate that no pool reaches.
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
    let is_exceeded = Arc::new(AtomicBool::new(false));
    let checked = Arc::clone(&is_exceeded);
    sim.at_end(move || {
        assert!(
            !checked.load(Ordering::SeqCst),
            "more retries than the {count} delays"
        );
    });
    Retry::delays(move || vec![Duration::from_millis(500); count])
        .retry_after(|_| Some(Duration::from_secs(1)))
        .on_retry(move |retrying| {
            is_exceeded.fetch_or(retrying.attempt as usize > count, Ordering::SeqCst);
        })
}

async fn run(state: &State, builder: Builder<Input, Token>) {
    let pool = build(builder, state);
    state.sim.watch(&pool);
    let (seen, recorder) = (Arc::clone(&state.seen), state.recorder.clone());
    pool.on_unhandled(move |failure| {
        let mut seen = seen.lock().unwrap();
        let outcome = outcome_of::<(), _>(&Err(failure.error));
        let is_known = recorder
            .as_ref()
            .is_none_or(|recorder| recorder.outcome(failure.id).is_none_or(|o| o == outcome));
        // The pool contains the panics of this closure, so the violation is kept for the end.
        if !seen.delivered.insert(failure.id) || !is_known {
            seen.violation = Some(format!(
                "{} is reported as {outcome:?}, and was delivered",
                failure.id
            ));
        }
    });
    *state.pool.borrow_mut() = Some(pool);
    // An actor may clear away what another one has left, so their number varies.
    let actors: Vec<_> = (0..1 + state.below(if state.is_focused { 2 } else { 5 }))
        .map(|_| state.sim.spawn("actor", actor(state.clone())))
        .collect();
    for actor in actors {
        actor.await;
    }
    let pool = state.pool();
    while state.is_abandoned.get() && pool.stats().workers == state.workers {
        // The worker that was dropped with a job has not unregistered yet.
        future::yield_now().await;
    }
    pool.drain().await;
    // The jobs that an earlier abort returned and no actor took.
    state.check_report(pool.abort().await);
    while pool.stats().workers > 0 {
        future::yield_now().await;
    }
    let (stats, inputs) = (pool.stats(), &state.inputs);
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
            "an input was lost, or duplicated"
        );
    }
    // Without a borrow, since preemption may poll other tasks meanwhile.
    drop(state.pool.take());
}

fn build(builder: Builder<Input, Token>, state: &State) -> Jobs {
    let (sim, ours) = (&state.sim, state.clone());
    let kind = state.below(3);
    match kind {
        // Without a submitter, so that the pool keeps its fast path.
        1 if state.is_plain && state.one_in(2) => {
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
            let theirs = state.clone();
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
    state: State,
    key: usize,
    runs: Runs,
}

impl Running {
    fn new(state: &State, input: &Input) -> Self {
        let (key, runs) = (input.key, Rc::clone(&input.runs));
        let (all, ours) = (&state.running, &state.keys[key]);
        runs.set(runs.get() + 1);
        all.set(all.get() + 1);
        ours.set(ours.get() + 1);
        assert!(
            ours.get() <= state.max_per_key,
            "{} of one key run at once",
            ours.get()
        );
        Self {
            state: state.clone(),
            key,
            runs,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (all, ours) = (&self.state.running, &self.state.keys[self.key]);
        all.set(all.get() - 1);
        ours.set(ours.get() - 1);
        self.runs.set(self.runs.get() - 1);
    }
}

/// A handler's future whose drop may panic. (If a local of an async block panicked in its drop as the
/// block returns, the compiler would leak the returned value.)
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
    state: State,
    input: Input,
    jobs: Option<Adder>,
) -> impl Future<Output = Result<Output, Token>> {
    let bomb = Bomb {
        is_armed: state.one_in(40),
        _token: Token::new(&state.alive),
    };
    Explosive {
        inner: Box::pin(run_job(state, input, jobs)),
        _bomb: bomb,
    }
}

async fn run_job(state: State, input: Input, jobs: Option<Adder>) -> Result<Output, Token> {
    let _running = Running::new(&state, &input);
    if state.sim.is_to_fail() {
        return Err(Token::new(&state.alive));
    }
    if input.chain > 0 {
        continues_chain(&state, input.chain).await;
        return Ok(Token::new(&state.alive));
    }
    state.sim.preempt();
    let steps = if state.is_quick && !state.one_in(8) {
        0
    } else {
        state.below(4)
    };
    for _ in 0..steps {
        let step = draw(&state, if input.depth > 0 { STEPS } else { LAST_STEPS });
        step.take(&state, input.depth, jobs.as_ref()).await;
        state.sim.preempt();
    }
    match state.below(20) {
        0..=2 => Err(Token::new(&state.alive)),
        3 => panic_quietly(),
        4 if state.has_time_limit => future::pending().await,
        _ => Ok(Token::new(&state.alive)),
    }
}

/// A step of a job.
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

/// Steps of jobs that add no others.
const LAST_STEPS: Weighted<Step> = &[(3, Step::Yield), (1, Step::Sleep)];

impl Step {
    /// `depth` is the depth of the job; the jobs that it adds have one less.
    async fn take(self, state: &State, depth: usize, jobs: Option<&Adder>) {
        let child = || state.input_of(depth - 1);
        match self {
            Self::Yield => future::yield_now().await,
            Self::Sleep => state.sleep(1000 * (1 + state.below(5))).await,
            Self::Add => {
                if let Some(jobs) = jobs {
                    state.submitted(jobs.add(child()));
                }
            }
            Self::AddAndFinish => {
                if let Some(jobs) = jobs {
                    let (child, runs) = child().and_its_runs();
                    if let Some(handle) = state.submitted(jobs.submit(child)) {
                        finish(state, handle, runs).await;
                    }
                }
            }
            Self::TrySubmit => {
                let (child, runs) = child().and_its_runs();
                if let Some(handle) = state.submitted(state.pool().try_submit(child)) {
                    finish(state, handle, runs).await;
                }
            }
            Self::Submit => {
                let submitting = state.submitting();
                let (child, runs) = child().and_its_runs();
                let submitted = state.pool().submit(child).await;
                submitting.done();
                if let Some(handle) = state.submitted(submitted) {
                    finish(state, handle, runs).await;
                }
            }
            Self::Map => {
                let ours = state.clone();
                let inputs = (0..1 + state.below(3)).map(move |_| ours.input_of(depth - 1));
                let mut map = state.pool().map(inputs);
                while let Some(completion) = map.next().await {
                    state.check_completion(&completion, OnError::Continue, false);
                    if state.one_in(8) {
                        break;
                    }
                }
            }
            Self::Group => {
                let mut group = state.pool().group();
                let submitting = state.submitting();
                let submitted = group.submit(child()).await;
                submitting.done();
                state.submitted(submitted);
                state.submitted(group.try_submit(child()));
                while let Some(completion) = group.next().await {
                    state.check_completion(&completion, OnError::Continue, false);
                }
            }
        }
    }
}

// ---- actors ----

/// An action of an actor outside the pool.
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
    /// Reads a map whose source stays pending until another task ends the source or closes the pool.
    MapPendingSource,
    /// Submits to a group that another task cancels.
    CancelGroup,
    /// Cancels many jobs before a worker can take them.
    CancelMany,
    /// Submits a job that submits the next while it runs, and so on.
    Chain,
    /// Waits until the pool is idle or has ended; the outcomes of earlier jobs are known then.
    KnowAfterIdle,
    /// Awaits jobs, submissions and `wait_idle` with wakers that panic.
    PanickingWakers,
    /// Builds a pool of more slots than memory can hold.
    TooManySlots,
    /// Cancels delayed jobs, while nothing else sleeps.
    CancelDelayed,
    /// Submits jobs that have time limits of their own, and changes the limit of the pool's attempts.
    SubmitTimed,
    /// Pauses the pool for a while.
    Pause,
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

fn draw<T: Copy>(state: &State, weighted: Weighted<T>) -> T {
    let mut at = state.below(weighted.iter().map(|(weight, _)| weight).sum());
    let drawn = weighted
        .iter()
        .find(|(weight, _)| at.checked_sub(*weight).map(|left| at = left).is_none());
    drawn.expect("the number is below the sum of the weights").1
}

impl Action {
    async fn take(self, state: &State) {
        state.sim.trace(format_args!("{self:?}"));
        match self {
            Self::Submit => submits(state).await,
            Self::SubmitMany => submits_many(state).await,
            Self::Reserve => reserves(state).await,
            Self::Map => maps(state).await,
            Self::Group => groups(state).await,
            Self::Idle => state.pool().wait_idle().await,
            Self::Control => controls(state).await,
            Self::Stop => stopper(state).await,
            Self::NestMaps => nests_maps(state).await,
            Self::MapPendingSource => maps_pending_source(state).await,
            Self::CancelGroup => submits_to_cancelled_group(state).await,
            Self::CancelMany => cancels_many(state),
            Self::Chain => starts_chain(state).await,
            Self::KnowAfterIdle => knows_after_idle(state).await,
            Self::PanickingWakers => waits_with_panicking_wakers(state).await,
            Self::TooManySlots => builds_too_many_slots(state),
            Self::CancelDelayed => cancels_delayed(state).await,
            Self::SubmitTimed => submits_timed(state).await,
            Self::Pause => pauses(state).await,
        }
    }
}

/// A task outside the pool, which uses all of it.
async fn actor(state: State) {
    for _ in 0..1 + state.below(6) {
        draw(&state, state.actions).take(&state).await;
    }
}

/// Resumes the pool on drop.
struct Paused(Jobs);

impl Drop for Paused {
    fn drop(&mut self) {
        self.0.resume();
    }
}

async fn pauses(state: &State) {
    let pool = state.pool();
    pool.pause();
    let _paused = Paused(pool);
    state.sleep(500 * state.below(6)).await;
}

/// Changes an option of the running pool.
async fn controls(state: &State) {
    let pool = state.pool();
    let first = if state.is_plain && !state.one_in(4) {
        3
    } else {
        0
    };
    match first + state.below(6 - first) {
        0 | 1 => pauses(state).await,
        2 => pool.set_workers(1 + state.below(state.workers)),
        3 => pool.wait_queued_below(1 + state.below(3)).await,
        4 => pool.wait_running_below(1 + state.below(3)).await,
        _ => {
            // Each is consistent in itself; other tasks may be polled between the two calls.
            let (running, stats) = (pool.running(), pool.stats());
            let slots = state.workers * state.jobs_per_worker;
            assert!(running.len() <= slots && stats.running <= slots);
        }
    }
}

async fn stopper(state: &State) {
    let report = if state.one_in(2) {
        state.pool().abort().await
    } else {
        state
            .pool()
            .drain_within(Duration::from_secs(state.below(4) as u64))
            .await
    };
    state.check_report(report);
}

/// Uses a handle in one of the possible ways.
async fn finish(state: &State, mut handle: JobHandle<Input, Output, Token>, runs: Runs) {
    let id = handle.id();
    match state.below(8) {
        0 => handle.detach(),
        1 => drop(handle),
        2 => drop(handle.cancel()),
        3 => {
            for _ in 0..state.below(5) {
                future::yield_now().await;
            }
            if let Some(result) = handle.cancel().await {
                state.check_result(id, &result);
            }
            assert_eq!(runs.get(), 0, "{id} runs after its cancellation");
        }
        4 => {
            // Awaited for a while, then dropped.
            let patience = state.sleep(1000 * state.below(4));
            let result = future::or(async { Some((&mut handle).await) }, async {
                patience.await;
                None
            });
            if let Some(result) = result.await {
                state.check_result(id, &result);
            }
        }
        _ => {
            let result = handle.await;
            state.check_result(id, &result);
        }
    }
}

async fn submits(state: &State) {
    let pool = state.pool();
    let submitting = state.submitting();
    let (input, runs) = state.input().and_its_runs();
    let mut job = pool.job(input);
    let asks = !state.is_plain || state.one_in(8);
    if asks && state.one_in(4) {
        job = job.timeout(Duration::from_secs(1 + state.below(4) as u64));
    }
    if asks && !state.is_in_order && state.one_in(3) {
        job = job.priority(state.below(5) as i32 - 2);
    }
    // A job that never starts has to be cancelled.
    let is_endless = asks && !state.is_in_order && state.one_in(16);
    if is_endless {
        job = job.delay(Duration::MAX);
    } else if asks && !state.is_in_order && state.one_in(3) {
        job = job.delay(Duration::from_millis(500 * state.below(6) as u64));
    }
    let submitted = if state.one_in(3) {
        Some(job.try_submit())
    } else {
        // Dropped now and then while it waits.
        let patience = state.one_in(4).then(|| state.below(4));
        let drops = async {
            let Some(polls) = patience else {
                return future::pending().await;
            };
            for _ in 0..polls {
                future::yield_now().await;
            }
            None
        };
        future::or(async { Some(job.submit().await) }, drops).await
    };
    let submitted = submitted.and_then(|submitted| {
        submitting.done();
        state.submitted(submitted)
    });
    if let Some(handle) = submitted {
        if !state.is_in_order && state.one_in(4) {
            future::yield_now().await;
            handle.set_priority(state.below(5) as i32 - 2);
        }
        if is_endless {
            drop(handle);
        } else {
            finish(state, handle, runs).await;
        }
    }
}

async fn submits_many(state: &State) {
    let mut handles = Vec::new();
    for _ in 0..state.below(8) {
        let submitting = state.submitting();
        let (input, runs) = state.input().and_its_runs();
        let submitted = state.pool().submit(input).await;
        submitting.done();
        handles.extend(state.submitted(submitted).map(|handle| (handle, runs)));
    }
    for (handle, runs) in handles {
        finish(state, handle, runs).await;
    }
}

/// Jobs that wait, are delayed or run when their own time passes.
async fn submits_timed(state: &State) {
    let (pool, mut handles) = (state.pool(), Vec::new());
    for _ in 0..1 + state.below(6) {
        if state.one_in(8) {
            let micros = 1 + state.sim.below(9_000_000);
            pool.set_attempt_timeout(Some(Duration::from_micros(micros)));
        }
        let (input, runs) = state.input().and_its_runs();
        let mut job = pool.job(input);
        if state.one_in(2) {
            job = job.timeout(limit(&state.sim));
        }
        if state.one_in(2) {
            job = job.attempt_timeout(limit(&state.sim));
        }
        if !state.is_in_order && state.one_in(4) {
            job = job.delay(Duration::from_millis(500 * state.below(6) as u64));
        }
        let submitting = state.submitting();
        let submitted = job.submit().await;
        submitting.done();
        handles.extend(state.submitted(submitted).map(|handle| (handle, runs)));
    }
    for (handle, runs) in handles {
        finish(state, handle, runs).await;
    }
}

async fn reserves(state: &State) {
    let Ok(permit) = state.pool().reserve().await else {
        return;
    };
    for _ in 0..state.below(4) {
        future::yield_now().await;
    }
    if state.one_in(4) {
        return;
    }
    let (input, runs) = state.input().and_its_runs();
    if let Some(handle) = state.submitted(permit.submit(input)) {
        finish(state, handle, runs).await;
    }
}

async fn maps(state: &State) {
    let pool = state.pool();
    let (ours, count) = (state.clone(), state.below(20));
    let source = stream::iter(0..count).then(move |_| {
        let (state, yields) = (ours.clone(), if ours.one_in(4) { ours.below(3) } else { 0 });
        Box::pin(async move {
            for _ in 0..yields {
                future::yield_now().await;
            }
            state.sim.preempt();
            state.input()
        })
    });
    let mut map = pool.map_stream(source);
    let is_ordered = state.one_in(2);
    if is_ordered {
        map = map.ordered();
    }
    if state.one_in(2) {
        map = map.window(if state.one_in(3) {
            1
        } else {
            1 + state.below(6)
        });
    }
    if state.one_in(3) {
        map = map.keep_inputs();
    }
    if !state.is_in_order && state.one_in(if state.is_plain { 20 } else { 3 }) {
        map = map.priority(state.below(3) as i32 - 1);
    }
    if state.one_in(6) {
        map = map.deadline(Duration::from_secs(1 + state.below(9) as u64));
    }
    let policy = [
        OnError::Continue,
        OnError::Continue,
        OnError::Stop,
        OnError::StopAfter(2),
    ][state.below(4)];
    map = map.on_error(policy);
    let patience = if state.one_in(3) {
        state.below(20)
    } else {
        usize::MAX
    };
    let cancels = state.one_in(2);
    let cancels_queued = state.one_in(2);
    let mut read = 0;
    while let Some(completion) = map.next().await {
        state.check_completion(&completion, policy, read >= patience);
        if is_ordered {
            assert_eq!(completion.index, read, "out of order");
        }
        read += 1;
        if read == patience {
            if cancels_queued {
                map.cancel_queued();
            } else if cancels {
                map.cancel();
            } else {
                return;
            }
        }
    }
    let summary = map.summary();
    assert_eq!((summary.accepted, summary.unread), (read, 0), "{summary:?}");
    assert!(
        !summary.is_complete() || read >= count,
        "complete without all inputs: {summary:?}"
    );
}

async fn groups(state: &State) {
    let pool = state.pool();
    let window = 1 + state.below(8);
    let mut group = pool.group().window(window);
    let (mut unread, mut is_cancelled) = (0, false);
    for _ in 0..state.below(12) {
        let submitting = state.submitting();
        let submitted = if state.one_in(2) {
            group.try_submit(state.input())
        } else {
            group.submit(state.input()).await
        };
        submitting.done();
        if let Err(refused) = &submitted {
            assert!(refused.is_full() || refused.is_closed());
        }
        if state.submitted(submitted).is_some() {
            assert!(!is_cancelled, "a cancelled group takes no jobs");
            unread += 1;
        }
        assert!(group.unread() >= unread);
        if state.one_in(3) && unread > 0 {
            let completion = group.next().await.expect("not all are read");
            state.check_completion(&completion, OnError::Continue, is_cancelled);
            // Counted as one submitted here, though a job may have added it.
            unread -= 1;
        }
        if state.one_in(40) {
            group.cancel();
            is_cancelled = true;
        }
    }
    if state.one_in(4) {
        return;
    }
    for completion in group.join().await {
        state.check_completion(&completion, OnError::Continue, is_cancelled);
    }
}

/// A map that is the source of a map of the same pool, and so on: each map progresses, however small
/// the queue is.
async fn nests_maps(state: &State) {
    let pool = state.pool();
    let inputs = |ours: State, count| stream::iter(0..count).map(move |_| ours.input_of(0));
    let mut source: Pin<Box<dyn Stream<Item = Input>>> =
        Box::pin(inputs(state.clone(), 1 + state.below(6)));
    for _ in 0..1 + state.below(4) {
        let (mut map, ours) = (pool.map_stream(source), state.clone());
        if state.one_in(3) {
            map = map.window(1 + state.below(2));
        }
        source = Box::pin(map.map(move |completion| {
            ours.check_completion(&completion, OnError::Continue, false);
            ours.input_of(0)
        }));
    }
    let mut map = pool.map_stream(source);
    while let Some(completion) = map.next().await {
        state.check_completion(&completion, OnError::Continue, false);
    }
}

/// A source that is pending until `end` is called.
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

/// Calls the closure on drop.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// A map with a [`Pending`] source ends with the source, or with its pool.
async fn maps_pending_source(state: &State) {
    let (pool, ours, pending) = (state.pool(), state.clone(), Rc::new(Pending::default()));
    let own = Rc::clone(&pending);
    let source = stream::iter(0..state.below(3)).map(move |_| ours.input());
    let mut map = pool.map_stream(source.chain(stream::poll_fn(move |cx| own.poll(cx))));
    let (theirs, closes, sleep) = (
        state.clone(),
        state.one_in(3),
        state.sleep(500 * state.below(6)),
    );
    let end = OnDrop(move || {
        let pool = theirs.pool.borrow().clone();
        match pool {
            Some(pool) if closes => pool.close(),
            _ => pending.end(),
        }
    });
    state.sim.spawn("ender", async move {
        sleep.await;
        drop(end);
    });
    while let Some(completion) = map.next().await {
        state.check_completion(&completion, OnError::Continue, false);
    }
}

/// A submission to a group ends when the group is cancelled, though there is no room.
async fn submits_to_cancelled_group(state: &State) {
    const PATIENCE: usize = 1000;
    let group = Rc::new(state.pool().group().window(1 + state.below(8)));
    let is_waiting = Rc::new(Cell::new(false));
    let (theirs, waits, yields) = (Rc::clone(&group), Rc::clone(&is_waiting), state.below(8));
    state.sim.spawn("canceller", async move {
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
    for _ in 0..1 + state.below(6) {
        let submitting = state.submitting();
        is_waiting.set(true);
        let submitted = group.submit(state.input()).await;
        is_waiting.set(false);
        submitting.done();
        state.submitted(submitted);
    }
}

/// Jobs that are cancelled while they wait for a worker do not accumulate.
fn cancels_many(state: &State) {
    let pool = state.pool();
    for _ in 0..70 + state.below(30) {
        if let Some(handle) = state.submitted(pool.try_submit(state.input())) {
            drop(handle.cancel());
        }
    }
}

/// A chain of jobs, each of which submits the next while it runs, as another thread could in the
/// middle of the worker's poll. The last job starts a map.
async fn starts_chain(state: &State) {
    // Lets all workers become idle.
    state.sleep(1).await;
    let submitting = state.submitting();
    let mut input = state.input_of(0);
    input.chain = 1 + state.below(7);
    let submitted = state.pool().submit(input).await;
    submitting.done();
    if let Some(handle) = state.submitted(submitted) {
        handle.detach();
    }
}

async fn continues_chain(state: &State, chain: usize) {
    let pool = state.pool();
    if chain > 1 {
        let mut next = state.input_of(0);
        next.chain = chain - 1;
        if let Some(handle) = state.submitted(pool.try_submit(next)) {
            handle.detach();
        }
        return;
    }
    let ours = state.clone();
    let mut map = pool.map((0..1 + state.below(4)).map(move |_| ours.input_of(0)));
    let first = future::poll_once(map.next()).await.flatten();
    let ours = state.clone();
    state.sim.spawn("reader", async move {
        let mut completion = first;
        if completion.is_none() {
            completion = map.next().await;
        }
        while let Some(next) = completion {
            ours.check_completion(&next, OnError::Continue, false);
            completion = map.next().await;
        }
    });
}

/// When the pool is idle, or has ended, the outcome of every earlier job is known.
async fn knows_after_idle(state: &State) {
    let (pool, mut handles) = (state.pool(), Vec::new());
    for _ in 0..1 + state.below(4) {
        let submitting = state.submitting();
        let (input, runs) = state.input().and_its_runs();
        let submitted = pool.submit(input).await;
        submitting.done();
        handles.extend(state.submitted(submitted).map(|handle| (handle, runs)));
    }
    let mut group = pool.group();
    for _ in 0..state.below(6) {
        state.submitted(group.try_submit(state.input()));
    }
    match state.below(12) {
        0 => pool.drain().await,
        1 => state.check_report(pool.abort().await),
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
        state.check_completion(&completion, OnError::Continue, false);
    }
    for (handle, runs) in handles {
        finish(state, handle, runs).await;
    }
}

/// Wakes the task, and panics unless the task is being polled.
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

/// A waker that panics fails only its own task.
async fn waits_with_panicking_wakers(state: &State) {
    let pool = state.pool();
    for _ in 0..1 + state.below(4) {
        match state.below(4) {
            0 => with_panics(pool.wait_idle()).await,
            1 => {
                let ours = state.clone();
                let mut map = pool.map((0..state.below(6)).map(move |_| ours.input_of(0)));
                while let Some(completion) = with_panics(map.next()).await {
                    state.check_completion(&completion, OnError::Continue, false);
                }
            }
            _ => {
                let submitting = state.submitting();
                let submitted = with_panics(pool.submit(state.input())).await;
                submitting.done();
                if let Some(handle) = state.submitted(submitted) {
                    let id = handle.id();
                    state.check_result(id, &with_panics(handle).await);
                }
            }
        }
    }
}

/// A number of slots that memory cannot hold is refused without an abort of the process.
fn builds_too_many_slots(state: &State) {
    let (few, many) = (1 + state.below(8), 1_usize << (50 + state.below(9)));
    let (workers, slots) = if state.one_in(2) {
        (few, many)
    } else {
        (many, few)
    };
    let builder = state.sim.builder().workers(workers).jobs_per_worker(slots);
    let build = || drop(builder.build(|n: u32| async move { Ok::<_, ()>(n) }));
    let refused = catch_unwind(AssertUnwindSafe(build)).expect_err("no memory holds so many");
    let text = refused.downcast_ref::<String>().map_or("", String::as_str);
    assert!(text.contains("no more than memory can hold"), "{text}");
}

/// After all delayed jobs are cancelled, no timer is left.
async fn cancels_delayed(state: &State) {
    const PATIENCE: usize = 1000;
    let pool = state.pool();
    let delaying = &state.delaying;
    delaying.set(delaying.get() + 1);
    let ends = OnDrop(|| delaying.set(delaying.get() - 1));
    let mut handles = Vec::new();
    for _ in 0..1 + state.below(3) {
        let delay = Duration::from_secs(1 + state.below(5) as u64);
        handles.extend(state.submitted(pool.job(state.input_of(0)).delay(delay).try_submit()));
        future::yield_now().await;
    }
    for _ in 0..state.below(8) {
        future::yield_now().await;
    }
    handles.into_iter().for_each(|handle| drop(handle.cancel()));
    drop(ends);
    // With policies, a limiter may sleep without a job.
    if !state.is_plain {
        return;
    }
    for _ in 0..PATIENCE {
        if delaying.get() > 0 || state.sim.clock().sleeping() == 0 {
            return;
        }
        future::yield_now().await;
    }
    panic!("a timer is left, and no job waits for it");
}
