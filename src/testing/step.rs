//! One step of a run: polls a task or injects a fault, between polls and inside them.
//!
//! 1. [`inject_between_steps`](Sim::inject_between_steps) injects the faults that are due.
//! 2. [`step`](Sim::step) polls one task.
//! 3. Inside that poll, each [preemption point](crate::sync::preempt) calls
//!    [`inject_inside`](Sim::inject_inside), which injects faults and polls other tasks.
//!
//! Everything happens on one thread. A task that is polled inside the poll of another task runs
//! until it is pending or ready before the outer poll continues, as if the outer task's thread were
//! suspended for that long.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use super::plan::Fault;
use super::sim::{Kind, Sim, TaskState};
use crate::sync::ignore_poison;
use crate::sync::preempt::{MAX_THREADS, on_another_thread};

/// How deep polls nest: the poll of the step, and the polls inside it.
const MAX_DEPTH: usize = MAX_THREADS - 1;

/// Counts a poll or injection as in progress.
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
    /// Injects the faults whose step is reached, between steps.
    pub(super) fn inject_between_steps(&self) -> Result<(), String> {
        let injections = &self.state.injections;
        while let Some(injection) = injections.take_due() {
            self.inject(injection.fault);
        }
        injections.take_failure().map_or(Ok(()), Err)
    }

    /// Injects faults in the middle of a poll, and polls other tasks.
    pub(super) fn inject_inside(&self) {
        let injections = &self.state.injections;
        if !(1..=MAX_DEPTH).contains(&injections.depth.get())
            || injections.failed.borrow().is_some()
        {
            return;
        }
        injections.advance_point();
        loop {
            let fault = match injections.take_due() {
                Some(injection) => injection.fault,
                None => match injections.draw_poll(&self.runnable()) {
                    Some(number) => Fault::Poll(number),
                    None => break,
                },
            };
            // The outer poll may catch panics, so a failure is stored and does not unwind.
            let injected = catch_unwind(AssertUnwindSafe(|| {
                on_another_thread(|| self.inject(fault));
            }));
            if let Err(payload) = injected {
                injections
                    .failed
                    .borrow_mut()
                    .get_or_insert_with(|| text(&*payload));
                break;
            }
        }
    }

    /// Injects the fault here, and records it if it had an effect.
    fn inject(&self, fault: Fault) {
        let (injections, trace) = (&self.state.injections, &self.state.trace);
        self.trace_events();
        // `poll_task` adds a line for a poll.
        let is_traced = !matches!(fault, Fault::Poll(_));
        if is_traced {
            let place = self.place();
            trace
                .borrow_mut()
                .add(format_args!("{place}: injects {fault}"));
        }
        // Recorded first, since `apply` may be what fails.
        let number = injections.record(fault);
        if self.apply(fault) {
            injections.advance_point();
            return;
        }
        injections.forget(number);
        if is_traced {
            trace.borrow_mut().add(format_args!("  it has no effect"));
        }
    }

    /// The step, and the preemption point if there is one, indented by depth.
    fn place(&self) -> String {
        let injections = &self.state.injections;
        let (step, point, depth) = (
            injections.steps.get(),
            injections.point.get(),
            injections.depth.get(),
        );
        if depth == 0 {
            step.to_string()
        } else {
            format!("{:depth$}{step}.{point}", "")
        }
    }

    /// Applies the fault; returns whether it had an effect.
    fn apply(&self, fault: Fault) -> bool {
        let state = &self.state;
        if let Fault::Poll(number) = fault {
            let runnable = self.runnable();
            if !runnable.is_empty() {
                self.poll_task(runnable[number as usize % runnable.len()]);
            }
            return !runnable.is_empty();
        }
        let _inside = Inside::new(&state.injections.depth);
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
                // A longer jump only makes the sums of the clock overflow.
                state
                    .clock
                    .advance(by.min(Duration::from_secs(366 * 24 * 3600)));
                true
            }
            Fault::Stall(steps) => {
                state.injections.stall.set(steps);
                true
            }
            Fault::Handler(fault) => {
                ignore_poison(state.handler_faults.lock()).push_back(fault);
                true
            }
            _ => {
                let pools: Vec<Rc<_>> = state.pools.borrow().clone();
                let mut any = false;
                for pool in pools {
                    let (is_affected, task) = pool.inject(fault);
                    any |= is_affected;
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
            let tasks = self.state.tasks.borrow();
            (0..tasks.len())
                .filter(|at| tasks[*at].kind == kind && tasks[*at].is_left())
                .collect()
        };
        if !left.is_empty() {
            self.drop_task(left[number as usize % left.len()]);
        }
        !left.is_empty()
    }

    /// The tasks that were woken and are not being polled.
    pub(super) fn runnable(&self) -> Vec<usize> {
        let tasks = self.state.tasks.borrow();
        let is_runnable = |at: &usize| tasks[*at].is_alive() && tasks[*at].woken.is_set();
        (0..tasks.len()).filter(is_runnable).collect()
    }

    /// Polls a task as a step.
    pub(super) fn step(&self, at: usize) -> Result<(), String> {
        self.poll_task(at);
        self.state.injections.take_failure().map_or(Ok(()), Err)
    }

    fn poll_task(&self, at: usize) {
        let (mut future, waker) = {
            let mut tasks = self.state.tasks.borrow_mut();
            let task = &mut tasks[at];
            let Some(future) = task.future.take() else {
                return;
            };
            task.woken.clear();
            self.state
                .trace
                .borrow_mut()
                .add(format_args!("{}: {}", self.place(), task.name));
            (future, Waker::from(Arc::clone(&task.woken)))
        };
        let _inside = Inside::new(&self.state.injections.depth);
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        self.trace_events();
        let mut tasks = self.state.tasks.borrow_mut();
        if polled.is_pending() && !tasks[at].is_cancelled() {
            tasks[at].future = Some(future);
            return;
        }
        // Dropped without a borrow, since `drop` may use the simulation; and before other tasks
        // see the task as ended.
        drop(tasks);
        drop(future);
        let state = if polled.is_ready() {
            TaskState::Done
        } else {
            TaskState::Dropped
        };
        let waker = self.state.tasks.borrow_mut()[at].end(state);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// The message of a panic.
pub(super) fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without text".into())
}
