//! A simulator for pools and handlers, for the feature `testing`: one thread, a clock that jumps,
//! and a random generator that chooses the next task, so that a seed that finds a race finds it
//! again.
//!
//! A run is decided by a *seed*, which makes every choice, and a *plan*, the [faults](Fault) to
//! inject and the steps at which they are injected. The same seed and plan give the same run, and
//! the same [trace](Failure::trace), byte for byte. When a run fails, its plan is shrunk to the
//! injections that the failure needs.
//!
//! A run fails on a panic in the scenario or in a task that it spawned; on a [watched](Sim::watch)
//! pool whose counters disagree, or that delays a job that could run; on a wait that nothing can
//! end; on a run that takes too many steps; and on anything that a watched pool has not released at
//! the end.
//!
//! Not all races are between two steps. With [`FaultKind::Preempt`], other tasks are polled, and
//! faults are injected, in the middle of a poll too: at the *preemption points*, where another
//! thread could act on the shared state of the pool. A run then does what several threads could do,
//! and is still decided by its seed; its plan names the points.
//!
//! A simulated handler has to stay on this thread: a run cannot be repeated if a handler waits for
//! another thread, for a file or a socket, or for a real clock. Give it [`Sim::clock`], and test
//! doubles of the services that it uses.
//!
//! # Examples
//!
//! A handler with a race: it reads a balance, waits, and writes it back. Jobs that run one after
//! another are correct, and most of the time two jobs at once are too. The simulator finds a seed
//! for which they are not, and that seed repeats the failure.
//!
//! ```
//! use brigade::testing::{Sim, Simulation};
//! use std::cell::Cell;
//! use std::rc::Rc;
//! use std::time::Duration;
//!
//! async fn scenario(sim: Sim) {
//!     let balance = Rc::new(Cell::new(0));
//!     let (account, clock) = (Rc::clone(&balance), sim.clone());
//!     let (pool, workers) = sim.builder().workers(2).build(move |amount: u32| {
//!         let (account, sim) = (Rc::clone(&account), clock.clone());
//!         async move {
//!             let before = account.get();                                  // read …
//!             if sim.one_in(4) {
//!                 sim.clock().sleep(Duration::from_millis(1)).await;       // … sometimes wait …
//!             }
//!             account.set(before + amount);                                // … and write
//!             Ok::<_, ()>(())
//!         }
//!     });
//!     sim.spawn_workers(workers);
//!     sim.watch(&pool);
//!     pool.map([1, 2, 3]).for_each(drop).await;
//!     assert_eq!(balance.get(), 6, "an amount is lost");
//! }
//!
//! let failure = Simulation::new(0..100).run(scenario).unwrap_err();
//! assert!(failure.message().contains("an amount is lost"));
//!
//! // The same run again, by the seed and the plan of the failure.
//! let again = Simulation::new([failure.seed()]).plan(failure.plan().clone()).run(scenario).unwrap_err();
//! assert_eq!(again.trace(), failure.trace());
//! ```

mod inject;
mod plan;
mod rng;
mod run;
mod shrink;
mod sim;
mod step;
mod time_limits;
mod trace;
mod watch;

use std::error::Error;
use std::fmt;
use std::future::Future;

pub use self::plan::{Fault, FaultKind, HandlerFault, Injection, ParsePlanError, Plan};
pub use self::run::Run;
pub use self::sim::{Faulty, Sim, Task};
pub use self::watch::Recorder;

/// How many steps a run may take by default.
const DEFAULT_MAX_STEPS: u64 = 100_000;

/// Runs the scenario once for each seed, without faults; panics if a run fails, with the seed and
/// the trace.
///
/// `BRIGADE_SEED=n` in the environment runs that seed alone, as the message of the panic says.
///
/// # Panics
///
/// If a run fails.
///
/// # Examples
///
/// ```
/// use brigade::testing::{Sim, simulate};
///
/// simulate(0..20, |sim: Sim| async move {
///     let pool = sim.builder().workers(3).spawn_on(&sim, |n: u32| async move { Ok::<_, ()>(n + 1) });
///     sim.watch(&pool);
///     assert_eq!(pool.map(0..5).try_collect::<Vec<_>>().await, Ok(vec![1, 2, 3, 4, 5]));
/// });
/// ```
#[track_caller]
pub fn simulate<F, Fut>(seeds: impl IntoIterator<Item = u64>, scenario: F)
where
    F: Fn(Sim) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    Simulation::new(seeds).check(scenario);
}

/// A number of runs of one scenario.
///
/// # Defaults
///
/// No faults, 100,000 steps a run.
#[must_use = "a simulation does nothing until it is run"]
#[derive(Debug, Clone)]
pub struct Simulation<S> {
    seeds: S,
    kinds: Vec<FaultKind>,
    plan: Option<Plan>,
    max_steps: u64,
}

impl<S: IntoIterator<Item = u64>> Simulation<S> {
    /// One run for each seed.
    pub fn new(seeds: S) -> Self {
        Self {
            seeds,
            kinds: Vec::new(),
            plan: None,
            max_steps: DEFAULT_MAX_STEPS,
        }
    }

    /// Injects faults of these kinds, at steps that the seed decides; one run in four has no
    /// faults.
    pub fn faults(mut self, kinds: impl IntoIterator<Item = FaultKind>) -> Self {
        self.kinds = kinds.into_iter().collect();
        self
    }

    /// Makes each run with this plan, instead of one that its seed decides.
    pub fn plan(mut self, plan: Plan) -> Self {
        self.plan = Some(plan);
        self
    }

    /// Sets the number of steps after which a run fails as endless.
    ///
    /// # Panics
    ///
    /// If `steps` is 0.
    #[track_caller]
    pub fn max_steps(mut self, steps: u64) -> Self {
        assert!(steps > 0, "max_steps must be at least 1, got 0");
        self.max_steps = steps;
        self
    }

    /// Makes the runs, one after another, up to the first that fails; its plan is shrunk.
    ///
    /// # Errors
    ///
    /// The first run that fails.
    pub fn run<F, Fut>(self, scenario: F) -> Result<Runs, Box<Failure>>
    where
        F: Fn(Sim) -> Fut,
        Fut: Future<Output = ()> + 'static,
    {
        let mut runs = Runs::default();
        for seed in self.seeds {
            let plan = self
                .plan
                .clone()
                .unwrap_or_else(|| Plan::random(seed, &self.kinds));
            let ended = run::run(seed, &plan, self.max_steps, &scenario);
            runs.runs += 1;
            runs.steps += ended.steps;
            let polls = ended
                .injected
                .injections()
                .iter()
                .filter(|injection| matches!(injection.fault, Fault::Poll(_)))
                .count() as u64;
            runs.injections += ended.injected.injections().len() as u64 - polls;
            runs.polls += polls;
            if ended.failed.is_some() {
                let (plan, ended) = shrink::shrink(seed, ended, self.max_steps, &scenario);
                let message = ended.failed.unwrap_or_default();
                return Err(Box::new(Failure {
                    seed,
                    plan,
                    message,
                    trace: ended.trace,
                }));
            }
        }
        Ok(runs)
    }

    /// As [`run`](Self::run), for tests: panics if a run fails, and lets `BRIGADE_SEED` in the
    /// environment choose the one seed that is run.
    ///
    /// # Panics
    ///
    /// If a run fails, with its seed, plan and trace; or if `BRIGADE_SEED` is not a number.
    #[track_caller]
    pub fn check<F, Fut>(self, scenario: F) -> Runs
    where
        F: Fn(Sim) -> Fut,
        Fut: Future<Output = ()> + 'static,
    {
        let chosen = std::env::var("BRIGADE_SEED")
            .ok()
            .map(|text| match text.parse::<u64>() {
                Ok(seed) => seed,
                Err(error) => panic!("BRIGADE_SEED must be a number, got {text:?}: {error}"),
            });
        let Self {
            seeds,
            kinds,
            plan,
            max_steps,
        } = self;
        // The chosen one, or all.
        let all = chosen.is_none().then_some(seeds).into_iter().flatten();
        let seeds = chosen.into_iter().chain(all);
        let ran = Simulation {
            seeds,
            kinds,
            plan,
            max_steps,
        }
        .run(scenario);
        match ran {
            Ok(runs) => runs,
            Err(failure) => panic!("{failure}"),
        }
    }
}

/// Makes one run, by its seed and its plan.
///
/// # Examples
///
/// ```
/// use brigade::testing::{Plan, Sim, replay};
///
/// async fn scenario(sim: Sim) {
///     let pool = sim.builder().workers(2).spawn_on(&sim, |n: u32| async move { Ok::<_, ()>(n) });
///     sim.watch(&pool);
///     pool.map(0..3).for_each(drop).await;
/// }
///
/// let plan: Plan = "2:pause".parse().unwrap();
/// let run = replay(7, &plan, scenario);
/// assert_eq!(run.failed, None);
/// assert!(run.trace.contains("2: injects pause"));
/// assert_eq!(replay(7, &plan, scenario), run);
/// ```
pub fn replay<F, Fut>(seed: u64, plan: &Plan, scenario: F) -> Run
where
    F: Fn(Sim) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    run::run(seed, plan, DEFAULT_MAX_STEPS, &scenario)
}

/// What a simulation has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Runs {
    /// How many runs.
    pub runs: u64,
    /// How many steps they took: polls of tasks, and moves of the clock.
    pub steps: u64,
    /// How many faults were injected, not counting polls inside other polls.
    pub injections: u64,
    /// How many polls were made inside other polls.
    pub polls: u64,
}

/// A run that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    seed: u64,
    plan: Plan,
    message: String,
    trace: String,
}

impl Failure {
    /// The seed, which decided every choice.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The injections that the failure needs: at most those of the first run that failed.
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Why the run failed.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What happened, one line a step; of a long run, the last ten thousand lines.
    pub fn trace(&self) -> &str {
        &self.trace
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            plan,
            message,
            trace,
        } = self;
        write!(
            f,
            "{trace}seed {seed}, plan [{plan}]: {message}\nto replay it: BRIGADE_SEED={seed}"
        )
    }
}

impl Error for Failure {}

/// Polls the future at most `times` times, then drops it. Returns its output if it was ready.
///
/// With all numbers from 0 on, this drops a future at each of its awaits; see
/// [`drop_at_every_poll`].
pub async fn poll_times<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = Box::pin(future);
    for time in 0..times {
        let polled =
            std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx))).await;
        if let std::task::Poll::Ready(output) = polled {
            return Some(output);
        }
        if time + 1 < times {
            wait_for_wake(&mut future).await;
        }
    }
    None
}

/// Waits until the task is woken once.
async fn wait_for_wake<F>(_held: &mut F) {
    let mut is_first = true;
    std::future::poll_fn(|_| {
        if std::mem::take(&mut is_first) {
            std::task::Poll::Pending
        } else {
            std::task::Poll::Ready(())
        }
    })
    .await;
}

/// Simulates the scenario with a number of polls after which the scenario drops a future: 0, 1, 2
/// and so on, until the scenario returns that the future was ready first. Each number is run with
/// each of the seeds; returns the greatest number.
///
/// # Panics
///
/// If a run fails, or if the future is not ready after ten thousand polls.
///
/// # Examples
///
/// A submission that is dropped while it waits for a permit loses no permit:
///
/// ```
/// use brigade::testing::{Sim, drop_at_every_poll, poll_times};
///
/// let polls = drop_at_every_poll(0..5, |sim: Sim, polls| async move {
///     let pool = sim.builder().workers(1).queue_capacity(1).spawn_on(&sim, |n: u32| async move { Ok::<_, ()>(n) });
///     sim.watch(&pool);
///     let filler = pool.submit(1).await.unwrap();
///     let dropped = poll_times(pool.submit(2), polls).await.is_some();
///     assert_eq!(filler.await, Ok(1));
///     assert_eq!(pool.submit(3).await.unwrap().await, Ok(3));
///     dropped
/// });
/// assert!(polls >= 1);
/// ```
#[track_caller]
pub fn drop_at_every_poll<F, Fut>(
    seeds: impl IntoIterator<Item = u64> + Clone,
    scenario: F,
) -> usize
where
    F: Fn(Sim, usize) -> Fut,
    Fut: Future<Output = bool> + 'static,
{
    const MOST: usize = 10_000;
    for polls in 0..MOST {
        let has_ended = std::rc::Rc::new(std::cell::Cell::new(true));
        simulate(seeds.clone(), |sim| {
            let (scenario, has_ended) = (scenario(sim, polls), std::rc::Rc::clone(&has_ended));
            async move {
                let ended = scenario.await;
                has_ended.set(has_ended.get() && ended);
            }
        });
        if has_ended.get() {
            return polls;
        }
    }
    panic!("the future has not ended after {MOST} polls");
}
