//! One run: a seed, a plan and a scenario come in; what was wrong, which strikes struck, and the
//! trace come out.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use super::plan::{Fault, Plan};
use super::sim::{Kind, Sim};
use crate::sync::preempt;

/// One run and how it ended; see [`replay`](super::replay).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// How many steps it took: polls of tasks, and moves of the clock.
    pub steps: u64,
    /// The strikes that found something to strike.
    pub struck: Plan,
    /// What was wrong, if anything was.
    pub failed: Option<String>,
    /// What happened, a line a step; of a long run, the last ten thousand lines.
    pub trace: String,
}

/// Makes the run.
pub(super) fn run<F, Fut>(seed: u64, plan: &Plan, max_steps: u64, scenario: &F) -> Run
where
    F: Fn(Sim) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    // What draws a seed of its own, such as the jitter of retries, draws the same one each time.
    fastrand::seed(seed);
    let sim = Sim::new(seed, plan.clone());
    let preempted = sim.clone();
    let installed = preempt::install(Rc::new(move || preempted.strike_inside()));
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let scenario = Box::pin(scenario(sim.clone()));
        sim.add("scenario".into(), Kind::Scenario, scenario);
        Going {
            sim: sim.clone(),
            max_steps,
        }
        .go_to_the_end()
    }));
    drop(installed);
    let mut failed = ran.unwrap_or_else(|payload| Err(text(&*payload))).err();
    // What went wrong inside a poll came first.
    failed = sim.world.strikes.take_failure().or(failed);
    for pool in sim.world.pools.borrow().iter().filter(|_| failed.is_some()) {
        sim.world
            .trace
            .borrow_mut()
            .add(format_args!("pool: {}", pool.describe()));
    }
    // Drops may panic as well, and fail the run.
    loop {
        let task = sim
            .world
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
        sim.world
            .trace
            .borrow_mut()
            .add(format_args!("failed: {message}"));
    }
    let trace = sim.world.trace.borrow().text();
    // The scenario's clones of it would keep it, and what it watches.
    sim.world.pools.borrow_mut().clear();
    sim.world.recorders.borrow_mut().clear();
    drop(sim.world.end_checks.take());
    let struck = sim.world.strikes.struck.take();
    Run {
        steps: sim.world.strikes.steps.get(),
        struck: Plan::new(struck),
        failed,
        trace,
    }
}

pub(super) fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without text".into())
}

struct Going {
    sim: Sim,
    max_steps: u64,
}

impl Going {
    fn go_to_the_end(&self) -> Result<(), String> {
        self.go_on()?;
        self.look_who_waits(&[Kind::Scenario, Kind::Task, Kind::Own])?;
        let pools: Vec<_> = self.sim.world.pools.borrow().clone();
        for pool in &pools {
            pool.resume_all();
            self.sim.add("end".into(), Kind::Own, pool.drain());
        }
        self.go_on()?;
        self.look_who_waits(&[Kind::Own])?;
        for pool in &pools {
            pool.check_at_end()?;
        }
        if !pools.is_empty() {
            self.look_who_waits(&[Kind::Worker])?;
            let sleeping = self.sim.world.clock.sleeping();
            if sleeping > 0 {
                return Err(format!("{sleeping} timers are left"));
            }
        }
        for recorder in &*self.sim.world.recorders.borrow() {
            recorder.check_at_end()?;
        }
        let checks = self.sim.world.end_checks.take();
        checks.into_iter().for_each(|check| check());
        Ok(())
    }

    /// Fails if a task of these kinds waits, which nothing can end any more.
    fn look_who_waits(&self, kinds: &[Kind]) -> Result<(), String> {
        let tasks = self.sim.world.tasks.borrow();
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

    /// Goes on until nobody can.
    fn go_on(&self) -> Result<(), String> {
        let (world, strikes) = (&self.sim.world, &self.sim.world.strikes);
        loop {
            if strikes.steps.get() >= self.max_steps {
                return Err(format!(
                    "it does not come to rest in {} steps",
                    self.max_steps
                ));
            }
            strikes.begin_step();
            self.sim.strike_between_steps()?;
            let runnable = self.sim.runnable();
            if !runnable.is_empty() {
                self.sim.step(runnable[world.order.choose(&runnable)])?;
            } else {
                for pool in &*world.pools.borrow() {
                    pool.check_at_rest()?;
                }
                if !self.let_time_pass() {
                    return Ok(());
                }
            }
            strikes.steps.set(strikes.steps.get() + 1);
            self.check()?;
        }
    }

    /// Moves the clock to what is waited for next, ends a pause that nobody else would end, or says
    /// that there is nothing.
    fn let_time_pass(&self) -> bool {
        let (world, strikes) = (&self.sim.world, &self.sim.world.strikes);
        let step = strikes.steps.get();
        let add = |line: &str| world.trace.borrow_mut().add(format_args!("{step}: {line}"));
        if strikes.stall.get() > 0 {
            strikes.stall.set(strikes.stall.get() - 1);
            add("the clock stands still");
            return true;
        }
        let before = world.clock.elapsed();
        if world.clock.advance_to_next() {
            let passed = world.clock.elapsed().saturating_sub(before);
            add(&format!("the clock moves by {passed:?}"));
            return true;
        }
        // A pause that struck is not to be taken for a wait without end.
        let pools: Vec<_> = world.pools.borrow().clone();
        if strikes.has_struck(Fault::Pause)
            && pools.iter().filter(|pool| pool.resume_all()).count() > 0
        {
            add("pauses end");
            return true;
        }
        // Nor is the end of the run one for what has not struck yet.
        let next = strikes.next_step().filter(|_| self.is_anybody_waiting());
        if let Some(next) = next {
            // The step that ends here is counted by the caller.
            strikes.steps.set(step.max(next.saturating_sub(1)));
        }
        next.is_some()
    }

    fn is_anybody_waiting(&self) -> bool {
        self.sim
            .world
            .tasks
            .borrow()
            .iter()
            .any(|task| task.is_alive() && task.kind != Kind::Worker)
    }

    fn check(&self) -> Result<(), String> {
        let world = &self.sim.world;
        self.sim.trace_events();
        for recorder in &*world.recorders.borrow() {
            recorder.check()?;
        }
        if let Some(task) = world
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
        let pools: Vec<_> = world.pools.borrow().clone();
        pools.iter().try_for_each(|pool| pool.check())
    }
}
