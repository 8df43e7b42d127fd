//! One run: a seed, a plan and a scenario come in; what was wrong, which strikes struck, and the trace come out.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::plan::{Fault, Plan, Strike};
use super::sim::{Kind, Sim};

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
    let sim = Sim::new(seed);
    let mut run = Going { sim: sim.clone(), plan, next: 0, struck: Vec::new(), steps: 0, max_steps, stall: 0 };
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let scenario = Box::pin(scenario(sim.clone()));
        sim.add("scenario".into(), Kind::Scenario, scenario);
        run.go_to_the_end()
    }));
    let mut failed = ran.unwrap_or_else(|payload| Err(text(&*payload))).err();
    // Drops may panic as well, and fail the run.
    loop {
        let task = sim.world.tasks.borrow_mut().iter_mut().find_map(|task| task.future.take());
        let Some(task) = task else { break };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(task))) {
            failed.get_or_insert_with(|| text(&*payload));
        }
    }
    if let Some(message) = &failed {
        sim.world.trace.borrow_mut().add(format_args!("failed: {message}"));
    }
    let trace = sim.world.trace.borrow().text();
    // The scenario's clones of it would keep it, and what it watches.
    sim.world.pools.borrow_mut().clear();
    sim.world.recorders.borrow_mut().clear();
    Run { steps: run.steps, struck: Plan::new(run.struck), failed, trace }
}

fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without text".into())
}

struct Going<'a> {
    sim: Sim,
    plan: &'a Plan,
    /// The next of its strikes.
    next: usize,
    struck: Vec<Strike>,
    steps: u64,
    max_steps: u64,
    /// For so many steps more the clock stands still.
    stall: u32,
}

impl Going<'_> {
    fn go_to_the_end(&mut self) -> Result<(), String> {
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
        Ok(())
    }

    /// Fails if a task of these kinds waits, which nothing can end any more.
    fn look_who_waits(&self, kinds: &[Kind]) -> Result<(), String> {
        let tasks = self.sim.world.tasks.borrow();
        let waiting = tasks.iter().filter(|task| task.is_alive() && kinds.contains(&task.kind));
        let names: Vec<&str> = waiting.map(|task| task.name.as_str()).collect();
        if names.is_empty() { Ok(()) } else { Err(format!("nothing can end the wait of: {}", names.join(", "))) }
    }

    /// Goes on until nobody can.
    fn go_on(&mut self) -> Result<(), String> {
        loop {
            if self.steps == self.max_steps {
                return Err(format!("it does not come to rest in {} steps", self.max_steps));
            }
            self.strike();
            let runnable: Vec<usize> = {
                let tasks = self.sim.world.tasks.borrow();
                let is_runnable = |at: &usize| tasks[*at].is_alive() && tasks[*at].woken.is_set();
                (0..tasks.len()).filter(is_runnable).collect()
            };
            let step = self.steps;
            if let Some(at) = pick(&self.sim, &runnable) {
                self.steps += 1;
                self.poll(step, at);
            } else {
                for pool in &*self.sim.world.pools.borrow() {
                    pool.check_at_rest()?;
                }
                self.steps += 1;
                if !self.let_time_pass(step) {
                    return Ok(());
                }
            }
            self.check()?;
        }
    }

    fn poll(&self, step: u64, at: usize) {
        let (mut future, waker) = {
            let mut tasks = self.sim.world.tasks.borrow_mut();
            let task = &mut tasks[at];
            let Some(future) = task.future.take() else { return };
            task.woken.clear();
            self.sim.world.trace.borrow_mut().add(format_args!("{step}: {}", task.name));
            (future, Waker::from(std::sync::Arc::clone(&task.woken)))
        };
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        let mut tasks = self.sim.world.tasks.borrow_mut();
        let task = &mut tasks[at];
        let waker = if polled == Poll::Ready(()) {
            task.end()
        } else if !task.is_dropped() {
            task.future = Some(future);
            return;
        } else {
            None
        };
        // Dropped with no borrow, since that may do anything.
        drop(tasks);
        drop(future);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Moves the clock to what is waited for next, ends a pause that nobody else would end, or says that there is nothing.
    fn let_time_pass(&mut self, step: u64) -> bool {
        let world = &self.sim.world;
        let add = |line: &str| world.trace.borrow_mut().add(format_args!("{step}: {line}"));
        if self.stall > 0 {
            self.stall -= 1;
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
        let was_struck = self.struck.iter().any(|strike| strike.fault == Fault::Pause);
        if was_struck && pools.iter().filter(|pool| pool.resume_all()).count() > 0 {
            add("pauses end");
            return true;
        }
        // Nor is the end of the run one for what has not struck yet.
        let left = self.plan.strikes().len() > self.next && self.is_anybody_waiting();
        if left {
            self.steps = self.steps.max(self.plan.strikes()[self.next].step);
        }
        left
    }

    fn is_anybody_waiting(&self) -> bool {
        self.sim.world.tasks.borrow().iter().any(|task| task.is_alive() && task.kind != Kind::Worker)
    }

    fn check(&self) -> Result<(), String> {
        let world = &self.sim.world;
        for recorder in &*world.recorders.borrow() {
            let mut trace = world.trace.borrow_mut();
            recorder.take_lines().into_iter().for_each(|line| trace.add(format_args!("{line}")));
            recorder.check()?;
        }
        let pools: Vec<_> = world.pools.borrow().clone();
        pools.iter().try_for_each(|pool| pool.check())
    }

    /// Lets the faults strike whose step has come.
    fn strike(&mut self) {
        while let Some(strike) = self.plan.strikes().get(self.next).filter(|strike| strike.step <= self.steps) {
            self.next += 1;
            if self.apply(strike.fault) {
                self.sim.world.trace.borrow_mut().add(format_args!("{}: strikes {}", self.steps, strike.fault));
                self.struck.push(*strike);
            }
        }
    }

    /// Says whether there was something to strike.
    fn apply(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::DropWorker(number) => self.drop_one(Kind::Worker, number),
            Fault::DropTask(number) => self.drop_one(Kind::Task, number),
            Fault::DropExecutor => {
                let mut any = false;
                while self.drop_one(Kind::Worker, 0) {
                    any = true;
                }
                any
            }
            Fault::Clock(by) => {
                // What is further away than a year only makes the sums overflow.
                self.sim.world.clock.advance(by.min(Duration::from_secs(366 * 24 * 3600)));
                true
            }
            Fault::Stall(steps) => {
                self.stall = steps;
                true
            }
            Fault::Handler(fault) => {
                let mut faults =
                    self.sim.world.handler_faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                faults.push_back(fault);
                true
            }
            _ => {
                let pools: Vec<Rc<_>> = self.sim.world.pools.borrow().clone();
                let mut any = false;
                for pool in pools {
                    let (is_struck, task) = pool.strike(fault);
                    any |= is_struck;
                    if let Some(task) = task {
                        self.sim.add(fault.to_string(), Kind::Own, task);
                    }
                }
                any
            }
        }
    }

    fn drop_one(&self, kind: Kind, number: u32) -> bool {
        let (future, waker) = {
            let mut tasks = self.sim.world.tasks.borrow_mut();
            let mut alive: Vec<_> = tasks.iter_mut().filter(|task| task.kind == kind && task.is_alive()).collect();
            if alive.is_empty() {
                return false;
            }
            let count = alive.len();
            alive[number as usize % count].drop_now()
        };
        drop(future);
        waker.into_iter().for_each(Waker::wake);
        true
    }
}

/// One of those that can go on.
fn pick(sim: &Sim, runnable: &[usize]) -> Option<usize> {
    let at = (!runnable.is_empty()).then(|| sim.world.order.below(runnable.len() as u64))?;
    Some(runnable[at as usize])
}
