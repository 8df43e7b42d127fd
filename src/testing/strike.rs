//! What comes to a run from outside its tasks: the strikes of the plan, and polls of other tasks in
//! the middle of a poll. It acts between steps, and inside them at each [preemption
//! point](crate::sync::preempt), and puts down what it did and where, so that a plan of just that
//! does the same again.
//!
//! Everything happens on one thread. A task that is polled inside the poll of another runs until it
//! waits before the other goes on, as if that one's thread were suspended so long.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use super::plan::{Fault, Plan, Strike};
use super::rng::{Chooser, Rng};
use super::run::text;
use super::sim::{Kind, Sim, TaskState};
use crate::sync::preempt::{MAX_THREADS, on_another_thread};

/// How deep polls nest: the one of the step, and those inside it.
const MAX_DEPTH: usize = MAX_THREADS - 1;

/// How many tasks are polled inside one step without being planned.
const MAX_POLLS: u32 = 100;

/// The strikes of a run, and where it stands.
#[derive(Debug)]
pub(super) struct Strikes {
    plan: Plan,
    /// The number of the next of its strikes.
    next: Cell<usize>,
    /// Says whether a task is polled inside a poll.
    rng: Rng,
    /// Says which.
    order: Chooser,
    /// Those that found something to strike, and where they did.
    pub(super) struck: RefCell<Vec<Strike>>,
    /// How many steps were taken: polls of tasks, and moves of the clock.
    pub(super) steps: Cell<u64>,
    /// The preemption points inside this step so far.
    point: Cell<u32>,
    /// Polls inside this step that were not planned.
    polls: Cell<u32>,
    /// How many polls and strikes are under way, each inside the one before.
    depth: Cell<usize>,
    /// For so many steps more the clock stands still.
    pub(super) stall: Cell<u32>,
    /// What went wrong inside a poll, where it must not unwind.
    failed: RefCell<Option<String>>,
}

impl Strikes {
    pub(super) fn new(seed: u64, plan: Plan) -> Self {
        Self {
            plan,
            next: Cell::new(0),
            rng: Rng::new(seed, 5),
            order: Chooser::new(seed, 6),
            struck: RefCell::default(),
            steps: Cell::new(0),
            point: Cell::new(0),
            polls: Cell::new(0),
            depth: Cell::new(0),
            stall: Cell::new(0),
            failed: RefCell::new(None),
        }
    }

    pub(super) fn begin_step(&self) {
        self.point.set(0);
        self.polls.set(0);
    }

    /// Takes the next strike of the plan if its step and point have come.
    fn take_due(&self) -> Option<Strike> {
        let here = (self.steps.get(), self.point.get());
        let strike = *self
            .plan
            .strikes()
            .get(self.next.get())
            .filter(|strike| (strike.step, strike.point) <= here)?;
        self.next.set(self.next.get() + 1);
        Some(strike)
    }

    /// The step of the next strike of the plan.
    pub(super) fn next_step(&self) -> Option<u64> {
        self.plan
            .strikes()
            .get(self.next.get())
            .map(|strike| strike.step)
    }

    pub(super) fn has_struck(&self, fault: Fault) -> bool {
        self.struck
            .borrow()
            .iter()
            .any(|strike| strike.fault == fault)
    }

    pub(super) fn take_failure(&self) -> Option<String> {
        self.failed.borrow_mut().take()
    }

    /// The next point. What has struck at one point is over at the next, also where that is at the
    /// same place, so that their order is that of their numbers.
    fn advance_point(&self) {
        self.point.set(self.point.get() + 1);
    }

    /// Whether another task is to be polled here, and if so, which of these.
    fn draw_poll(&self, tasks: &[usize]) -> Option<u32> {
        let one_in = self.plan.preempts_one_in();
        // Once one was polled, another one is more often than not: a race may take several.
        let one_in = if self.polls.get() == 0 || one_in == 0 {
            one_in
        } else {
            one_in.min(6)
        };
        if tasks.is_empty()
            || one_in == 0
            || self.polls.get() == MAX_POLLS
            || self.rng.below(one_in.into()) > 0
        {
            return None;
        }
        let at = self.order.choose_awake(tasks)?;
        self.polls.set(self.polls.get() + 1);
        Some(at as u32)
    }
}

/// Counts a poll or strike as under way.
struct Inside<'a>(&'a Cell<usize>);

impl<'a> Inside<'a> {
    fn new(depth: &'a Cell<usize>) -> Self {
        depth.set(depth.get() + 1);
        Self(depth)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Sim {
    /// Lets the faults strike whose step has come, between steps.
    pub(super) fn strike_between_steps(&self) -> Result<(), String> {
        let strikes = &self.world.strikes;
        while let Some(strike) = strikes.take_due() {
            self.strike(strike.fault);
        }
        strikes.take_failure().map_or(Ok(()), Err)
    }

    /// Lets faults strike in the middle of a poll, and polls other tasks.
    pub(super) fn strike_inside(&self) {
        let strikes = &self.world.strikes;
        if !(1..=MAX_DEPTH).contains(&strikes.depth.get()) || strikes.failed.borrow().is_some() {
            return;
        }
        strikes.advance_point();
        loop {
            let fault = match strikes.take_due() {
                Some(strike) => strike.fault,
                None => match strikes.draw_poll(&self.runnable()) {
                    Some(number) => Fault::Poll(number),
                    None => break,
                },
            };
            // The poll around it may be one that contains panics.
            let struck = catch_unwind(AssertUnwindSafe(|| {
                on_another_thread(|| self.strike(fault));
            }));
            if let Err(payload) = struck {
                strikes
                    .failed
                    .borrow_mut()
                    .get_or_insert_with(|| text(&*payload));
                break;
            }
        }
    }

    /// Lets the fault strike here, and puts it down if there was something to strike.
    fn strike(&self, fault: Fault) {
        let (strikes, trace) = (&self.world.strikes, &self.world.trace);
        let (step, point) = (strikes.steps.get(), strikes.point.get());
        self.trace_events();
        // A poll has a line of its own.
        let is_told = !matches!(fault, Fault::Poll(_));
        if is_told {
            let place = self.place();
            trace
                .borrow_mut()
                .add(format_args!("{place}: strikes {fault}"));
        }
        // Before it strikes, since that may be what fails.
        let number = strikes.struck.borrow().len();
        strikes
            .struck
            .borrow_mut()
            .push(Strike { step, point, fault });
        if self.apply(fault) {
            strikes.advance_point();
            return;
        }
        strikes.struck.borrow_mut().remove(number);
        if is_told {
            trace
                .borrow_mut()
                .add(format_args!("  there is nothing to strike"));
        }
    }

    /// The step, and the preemption point if there is one, indented by depth.
    fn place(&self) -> String {
        let strikes = &self.world.strikes;
        let (step, point, depth) = (
            strikes.steps.get(),
            strikes.point.get(),
            strikes.depth.get(),
        );
        if depth == 0 {
            step.to_string()
        } else {
            format!("{:depth$}{step}.{point}", "")
        }
    }

    /// Says whether there was something to strike.
    fn apply(&self, fault: Fault) -> bool {
        let world = &self.world;
        if let Fault::Poll(number) = fault {
            let runnable = self.runnable();
            if !runnable.is_empty() {
                self.poll_task(runnable[number as usize % runnable.len()]);
            }
            return !runnable.is_empty();
        }
        let _inside = Inside::new(&world.strikes.depth);
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
                world
                    .clock
                    .advance(by.min(Duration::from_secs(366 * 24 * 3600)));
                true
            }
            Fault::Stall(steps) => {
                world.strikes.stall.set(steps);
                true
            }
            Fault::Handler(fault) => {
                world
                    .handler_faults
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_back(fault);
                true
            }
            _ => {
                let pools: Vec<Rc<_>> = world.pools.borrow().clone();
                let mut any = false;
                for pool in pools {
                    let (is_struck, task) = pool.strike(fault);
                    any |= is_struck;
                    if let Some(task) = task {
                        self.add(fault.to_string(), Kind::Own, task);
                    }
                }
                any
            }
        }
    }

    fn drop_one(&self, kind: Kind, number: u32) -> bool {
        let left: Vec<usize> = {
            let tasks = self.world.tasks.borrow();
            (0..tasks.len())
                .filter(|at| tasks[*at].kind == kind && tasks[*at].is_left())
                .collect()
        };
        if !left.is_empty() {
            self.drop_task(left[number as usize % left.len()]);
        }
        !left.is_empty()
    }

    /// The tasks that were woken and are not in the middle of a poll.
    pub(super) fn runnable(&self) -> Vec<usize> {
        let tasks = self.world.tasks.borrow();
        let is_runnable = |at: &usize| tasks[*at].is_alive() && tasks[*at].woken.is_set();
        (0..tasks.len()).filter(is_runnable).collect()
    }

    /// Polls a task as a step.
    pub(super) fn step(&self, at: usize) -> Result<(), String> {
        self.poll_task(at);
        self.world.strikes.take_failure().map_or(Ok(()), Err)
    }

    fn poll_task(&self, at: usize) {
        let (mut future, waker) = {
            let mut tasks = self.world.tasks.borrow_mut();
            let task = &mut tasks[at];
            let Some(future) = task.future.take() else {
                return;
            };
            task.woken.clear();
            self.world
                .trace
                .borrow_mut()
                .add(format_args!("{}: {}", self.place(), task.name));
            (future, Waker::from(Arc::clone(&task.woken)))
        };
        let _inside = Inside::new(&self.world.strikes.depth);
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        self.trace_events();
        let mut tasks = self.world.tasks.borrow_mut();
        if polled.is_pending() && !tasks[at].is_cancelled() {
            tasks[at].future = Some(future);
            return;
        }
        // Dropped with no borrow, since that may do anything; and before the task has ended for
        // others.
        drop(tasks);
        drop(future);
        let state = if polled.is_ready() {
            TaskState::Done
        } else {
            TaskState::Dropped
        };
        let waker = self.world.tasks.borrow_mut()[at].end(state);
        waker.into_iter().for_each(Waker::wake);
    }
}
