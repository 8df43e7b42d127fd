//! Tasks that are polled one step at a time, and only after they were woken: a test decides which
//! task is polled next, and which is dropped when. A task that is pending without a wake-up is a
//! hang, and is seen at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake};

use brigade::{Builder, ManualTimer, Pool};

use crate::harness::Wakes;

type Local = Pin<Box<dyn Future<Output = ()>>>;

/// The tasks of one test, numbered in the order in which they were added.
#[derive(Default)]
pub(crate) struct Steps {
    tasks: Vec<Task>,
    next: usize,
}

struct Task {
    name: String,
    /// `None` once it has ended or was dropped.
    future: Option<Local>,
    woken: Arc<Wakes>,
    polls: usize,
    is_done: bool,
}

/// A pool and its workers as the first tasks; none was polled yet.
pub(crate) fn step_pool<In, T, E, F, Fut>(
    builder: Builder<In, E>,
    handler: F,
) -> (Pool<In, T, E>, Steps)
where
    In: 'static,
    T: 'static,
    E: 'static,
    F: Fn(In) -> Fut + 'static,
    Fut: Future<Output = Result<T, E>> + 'static,
{
    let (pool, workers) = builder.build(handler);
    let mut steps = Steps::default();
    for worker in workers {
        steps.add("worker", worker.run());
    }
    (pool, steps)
}

impl Steps {
    /// Adds a task, which is runnable at once.
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        future: impl Future<Output = ()> + 'static,
    ) -> usize {
        let woken = Wakes::new();
        woken.wake_by_ref();
        let future: Option<Local> = Some(Box::pin(future));
        self.tasks.push(Task {
            name: name.into(),
            future,
            woken,
            polls: 0,
            is_done: false,
        });
        self.tasks.len() - 1
    }

    /// The tasks that were woken since they were polled last.
    pub(crate) fn runnable(&self) -> impl Iterator<Item = usize> {
        let is_runnable = |task: &Task| task.future.is_some() && task.woken.count() > 0;
        self.tasks
            .iter()
            .enumerate()
            .filter(move |(_, task)| is_runnable(task))
            .map(|(at, _)| at)
    }

    /// Polls one task, whether it was woken or not.
    pub(crate) fn poll(&mut self, at: usize) {
        let task = &mut self.tasks[at];
        let Some(future) = &mut task.future else {
            return;
        };
        task.woken.take();
        task.polls += 1;
        let waker = task.woken.waker();
        if future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
        {
            task.is_done = true;
            task.future = None;
        }
    }

    /// Polls the next runnable task, in turn; returns its number.
    pub(crate) fn step(&mut self) -> Option<usize> {
        let after = self.runnable().find(|at| *at >= self.next);
        let at = after.or_else(|| self.runnable().next())?;
        self.next = at + 1;
        self.poll(at);
        Some(at)
    }

    /// Polls runnable tasks until there is none.
    pub(crate) fn settle(&mut self) {
        while self.step().is_some() {}
    }

    /// The same, and advances the clock to the next deadline while there is one.
    pub(crate) fn run_out(&mut self, clock: &ManualTimer) {
        self.settle();
        while clock.advance_to_next() {
            self.settle();
        }
    }

    /// Drops the future of a task.
    pub(crate) fn drop_task(&mut self, at: usize) {
        drop(self.tasks[at].future.take());
    }

    /// How often a task was polled.
    pub(crate) fn polls(&self, at: usize) -> usize {
        self.tasks[at].polls
    }

    /// Whether a task waits: neither ended nor dropped.
    pub(crate) fn is_waiting(&self, at: usize) -> bool {
        self.tasks[at].future.is_some()
    }

    /// Whether a task ran to its end.
    pub(crate) fn is_done(&self, at: usize) -> bool {
        self.tasks[at].is_done
    }

    /// The tasks that wait, with their names.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (usize, &str)> {
        let waiting = self
            .tasks
            .iter()
            .enumerate()
            .filter(|(_, task)| task.future.is_some());
        waiting.map(|(at, task)| (at, task.name.as_str()))
    }
}
