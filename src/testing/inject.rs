//! Injections of one run: which injection of the plan is due, where preemption happens, and which
//! injections had an effect.
//!
//! [`Injections`] holds the plan and its own random streams, and decides. It knows no task and no
//! pool: [`step`](super::step) carries out what it returns, and reports what was carried out with
//! [`record`](Injections::record). A plan of exactly the recorded injections makes the same run.

use std::cell::{Cell, RefCell};

use super::plan::{Fault, Injection, Plan};
use super::rng::{Chooser, Rng};

/// How many polls of one step preemption adds at most.
const MAX_POLLS: u32 = 100;

/// The injections of a run, and its position in the plan.
#[derive(Debug)]
pub(super) struct Injections {
    plan: Plan,
    /// Index of the next injection of the plan.
    next: Cell<usize>,
    /// Decides whether a preemption point polls another task.
    rng: Rng,
    /// Decides which task that is.
    order: Chooser,
    /// The injections that had an effect, each with the step and point at which it was made.
    injected: RefCell<Vec<Injection>>,
    /// Steps taken so far: polls of tasks, and moves of the clock.
    pub(super) steps: Cell<u64>,
    /// Preemption points of this step so far.
    pub(super) point: Cell<u32>,
    /// Polls that preemption added to this step.
    polls: Cell<u32>,
    /// How many polls and injections are in progress, each inside the previous one.
    pub(super) depth: Cell<usize>,
    /// The clock does not move for this many more steps.
    pub(super) stall: Cell<u32>,
    /// The failure inside a poll, where a panic must not unwind.
    pub(super) failed: RefCell<Option<String>>,
}

impl Injections {
    pub(super) fn new(seed: u64, plan: Plan) -> Self {
        Self {
            plan,
            next: Cell::new(0),
            rng: Rng::new(seed, 5),
            order: Chooser::new(seed, 6),
            injected: RefCell::default(),
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

    /// Takes the next injection of the plan if its step and point are reached.
    pub(super) fn take_due(&self) -> Option<Injection> {
        let here = (self.steps.get(), self.point.get());
        let injection = *self
            .plan
            .injections()
            .get(self.next.get())
            .filter(|injection| (injection.step, injection.point) <= here)?;
        self.next.set(self.next.get() + 1);
        Some(injection)
    }

    /// The step of the next injection of the plan.
    pub(super) fn next_step(&self) -> Option<u64> {
        self.plan
            .injections()
            .get(self.next.get())
            .map(|injection| injection.step)
    }

    pub(super) fn was_injected(&self, fault: Fault) -> bool {
        self.injected
            .borrow()
            .iter()
            .any(|injection| injection.fault == fault)
    }

    /// Records an injection at this step and point; `forget` removes it by the returned index.
    pub(super) fn record(&self, fault: Fault) -> usize {
        let (step, point) = (self.steps.get(), self.point.get());
        let mut injected = self.injected.borrow_mut();
        injected.push(Injection { step, point, fault });
        injected.len() - 1
    }

    /// Removes a recorded injection that had no effect.
    pub(super) fn forget(&self, number: usize) {
        self.injected.borrow_mut().remove(number);
    }

    /// Takes the recorded injections, as a plan.
    pub(super) fn take_injected(&self) -> Plan {
        Plan::new(self.injected.take())
    }

    pub(super) fn take_failure(&self) -> Option<String> {
        self.failed.borrow_mut().take()
    }

    /// Counts a preemption point. `advance_point` also runs after each injection, so that two
    /// injections in one place have different points and are replayed in their order.
    pub(super) fn advance_point(&self) {
        self.point.set(self.point.get() + 1);
    }

    /// Decides whether this point polls another task; returns the position of that one of `tasks`.
    pub(super) fn draw_poll(&self, tasks: &[usize]) -> Option<u32> {
        let one_in = self.plan.preempts_one_in();
        // After a first extra poll, further ones are more likely: a race may need several.
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
