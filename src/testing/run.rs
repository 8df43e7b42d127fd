//! One run: from a seed, a plan and a scenario to a failure, the injections made and a trace.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use super::plan::{Fault, Plan};
use super::sim::{Kind, Sim};
use super::step::text;
use crate::sync::preempt;

/// One run and how it ended; see [`replay`](super::replay).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// How many steps it took: polls of tasks, and moves of the clock.
    pub steps: u64,
    /// The injections that had an effect.
    pub injected: Plan,
    /// Why the run failed, if it did.
    pub failed: Option<String>,
    /// What happened, one line a step; of a long run, the last ten thousand lines.
    pub trace: String,
}

/// Makes the run.
pub(super) fn run<F, Fut>(seed: u64, plan: &Plan, max_steps: u64, scenario: &F) -> Run
where
    F: Fn(Sim) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    // A generator without a seed of its own, such as the jitter of retries, repeats itself too.
    fastrand::seed(seed);
    let sim = Sim::new(seed, plan.clone());
    let preempted = sim.clone();
    let installed = preempt::install(Rc::new(move || preempted.inject_inside()));
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let scenario = Box::pin(scenario(sim.clone()));
        sim.add("scenario".into(), Kind::Scenario, scenario);
        Runner {
            sim: sim.clone(),
            max_steps,
        }
        .run_to_end()
    }));
    drop(installed);
    let mut failed = ran.unwrap_or_else(|payload| Err(text(&*payload))).err();
    // A failure inside a poll came first.
    failed = sim.state.injections.take_failure().or(failed);
    for pool in sim.state.pools.borrow().iter().filter(|_| failed.is_some()) {
        sim.state
            .trace
            .borrow_mut()
            .add(format_args!("pool: {}", pool.describe()));
    }
    // A drop may panic too, which fails the run.
    loop {
        let task = sim
            .state
            .tasks
            .borrow_mut()
            .iter_mut()
            .find_map(|task| task.future.take());
        let Some(task) = task else { break };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(task))) {
            failed.get_or_insert_with(|| text(&*payload));
        }
    }
    if let Some(message) = &failed {
        sim.state
            .trace
            .borrow_mut()
            .add(format_args!("failed: {message}"));
    }
    let trace = sim.state.trace.borrow().text();
    // Clones of `sim` that the scenario has leaked would keep the pools alive.
    sim.state.pools.borrow_mut().clear();
    sim.state.recorders.borrow_mut().clear();
    drop(sim.state.end_checks.take());
    Run {
        steps: sim.state.injections.steps.get(),
        injected: sim.state.injections.take_injected(),
        failed,
        trace,
    }
}

struct Runner {
    sim: Sim,
    max_steps: u64,
}

impl Runner {
    fn run_to_end(&self) -> Result<(), String> {
        self.run_until_idle()?;
        self.check_pending(&[Kind::Scenario, Kind::Task, Kind::Own])?;
        let pools: Vec<_> = self.sim.state.pools.borrow().clone();
        for pool in &pools {
            pool.resume_all();
            self.sim.add("end".into(), Kind::Own, pool.drain());
        }
        self.run_until_idle()?;
        self.check_pending(&[Kind::Own])?;
        for pool in &pools {
            pool.check_at_end()?;
        }
        if !pools.is_empty() {
            self.check_pending(&[Kind::Worker])?;
            let sleeping = self.sim.state.clock.sleeping();
            if sleeping > 0 {
                return Err(format!("{sleeping} timers are left"));
            }
        }
        for recorder in &*self.sim.state.recorders.borrow() {
            recorder.check_at_end()?;
        }
        let checks = self.sim.state.end_checks.take();
        checks.into_iter().for_each(|check| check());
        Ok(())
    }

    /// Fails if a task of these kinds is pending, since nothing is left that could wake it.
    fn check_pending(&self, kinds: &[Kind]) -> Result<(), String> {
        let tasks = self.sim.state.tasks.borrow();
        let waiting = tasks
            .iter()
            .filter(|task| task.is_alive() && kinds.contains(&task.kind));
        let names: Vec<&str> = waiting.map(|task| task.name.as_str()).collect();
        if names.is_empty() {
            Ok(())
        } else {
            Err(format!("nothing can end the wait of: {}", names.join(", ")))
        }
    }

    /// Takes steps until no task is runnable and no time can pass.
    fn run_until_idle(&self) -> Result<(), String> {
        let (state, injections) = (&self.sim.state, &self.sim.state.injections);
        loop {
            if injections.steps.get() >= self.max_steps {
                return Err(format!(
                    "it does not come to rest in {} steps",
                    self.max_steps
                ));
            }
            injections.begin_step();
            self.sim.inject_between_steps()?;
            let runnable = self.sim.runnable();
            if !runnable.is_empty() {
                self.sim.step(runnable[state.order.choose(&runnable)])?;
            } else {
                for pool in &*state.pools.borrow() {
                    pool.check_at_rest()?;
                }
                if !self.advance() {
                    return Ok(());
                }
            }
            injections.steps.set(injections.steps.get() + 1);
            self.check()?;
        }
    }

    /// Moves the clock to the next deadline, or else ends the injected pauses, or else goes to the
    /// step of the next injection; returns whether there was any of these.
    fn advance(&self) -> bool {
        let (state, injections) = (&self.sim.state, &self.sim.state.injections);
        let step = injections.steps.get();
        let add = |line: &str| state.trace.borrow_mut().add(format_args!("{step}: {line}"));
        if injections.stall.get() > 0 {
            injections.stall.set(injections.stall.get() - 1);
            add("the clock stands still");
            return true;
        }
        let before = state.clock.elapsed();
        if state.clock.advance_to_next() {
            let passed = state.clock.elapsed().saturating_sub(before);
            add(&format!("the clock moves by {passed:?}"));
            return true;
        }
        // An injected pause is not to be reported as a wait without end.
        let pools: Vec<_> = state.pools.borrow().clone();
        if injections.was_injected(Fault::Pause)
            && pools.iter().filter(|pool| pool.resume_all()).count() > 0
        {
            add("pauses end");
            return true;
        }
        // Injections that are still to come may wake the tasks that are left.
        let next = injections.next_step().filter(|_| self.is_task_pending());
        if let Some(next) = next {
            // The caller counts the step that ends here.
            injections.steps.set(step.max(next.saturating_sub(1)));
        }
        next.is_some()
    }

    fn is_task_pending(&self) -> bool {
        self.sim
            .state
            .tasks
            .borrow()
            .iter()
            .any(|task| task.is_alive() && task.kind != Kind::Worker)
    }

    fn check(&self) -> Result<(), String> {
        let state = &self.sim.state;
        self.sim.trace_events();
        for recorder in &*state.recorders.borrow() {
            recorder.check()?;
        }
        if let Some(task) = state
            .tasks
            .borrow()
            .iter()
            .find(|task| task.woken.is_under_lock())
        {
            return Err(format!(
                "{} was woken under a lock, which its waker might need",
                task.name
            ));
        }
        let pools: Vec<_> = state.pools.borrow().clone();
        pools.iter().try_for_each(|pool| pool.check())
    }
}
