//! The simulation as a scenario sees it: its clock, its random numbers, its tasks, and handlers
//! that fail on request.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::inject::Injections;
use super::plan::{HandlerFault, Plan};
use super::rng::{Chooser, Rng};
use super::trace::Trace;
use super::watch::{Local, Recorder, Watched, WatchedPool};
use crate::builder::Builder;
use crate::pool::Pool;
use crate::rt::{BoxFuture, ManualSleep, ManualTimer, Spawn};
use crate::sync::ignore_poison;
use crate::sync::preempt::{is_locked, preemption_point};
use crate::worker::{RunHandler, Workers};

/// One run, as its scenario sees it. Clones share the run.
///
/// `Sim` is an executor ([`Spawn`]) that polls its tasks in random order, each only after it was
/// woken.
#[derive(Clone)]
pub struct Sim {
    pub(super) state: Rc<SimState>,
}

pub(super) struct SimState {
    pub(super) seed: u64,
    pub(super) clock: ManualTimer,
    /// Chooses the task that is polled next.
    pub(super) order: Chooser,
    /// The random numbers of the scenario.
    rng: Rng,
    pub(super) trace: RefCell<Trace>,
    /// Bounded by what the scenario spawns.
    pub(super) tasks: RefCell<Vec<Running>>,
    pub(super) pools: RefCell<Vec<Rc<dyn Watched>>>,
    pub(super) recorders: RefCell<Vec<Recorder>>,
    /// Injected faults that no handler has taken yet; at most as many as injections.
    pub(super) handler_faults: HandlerFaults,
    pub(super) injections: Injections,
    /// Closures that are called at the end; bounded by what the scenario registers.
    pub(super) end_checks: RefCell<Vec<EndCheck>>,
}

type EndCheck = Box<dyn FnOnce()>;

type HandlerFaults = Arc<Mutex<VecDeque<HandlerFault>>>;

/// A task, and whether it was woken.
pub(super) struct Running {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// `None` while the task is polled, and once it has ended or was dropped.
    pub(super) future: Option<Local>,
    pub(super) woken: Arc<WakeFlag>,
    ending: Rc<Ending>,
}

/// How a task ended, and the waker of its [`Task`].
#[derive(Debug)]
struct Ending {
    state: Cell<TaskState>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Scenario,
    Worker,
    Task,
    /// A task of the simulator.
    Own,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TaskState {
    Waiting,
    /// To be dropped, or being dropped.
    Cancelled,
    Dropped,
    Done,
}

#[derive(Debug)]
pub(super) struct WakeFlag {
    is_set: AtomicBool,
    /// Whether the waker was ever called while a lock of the library was held. A waker may run any
    /// code, and so may take that lock again.
    is_under_lock: AtomicBool,
}

impl WakeFlag {
    pub(super) fn is_under_lock(&self) -> bool {
        self.is_under_lock.load(Ordering::SeqCst)
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::SeqCst)
    }

    pub(super) fn clear(&self) {
        self.is_set.store(false, Ordering::SeqCst);
    }
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.is_set.store(true, Ordering::SeqCst);
        self.is_under_lock.fetch_or(is_locked(), Ordering::SeqCst);
    }
}

impl Running {
    pub(super) fn is_alive(&self) -> bool {
        self.future.is_some()
    }

    /// Whether the task has neither ended nor been dropped; it may be polled just now.
    pub(super) fn is_left(&self) -> bool {
        self.ending.state.get() == TaskState::Waiting
    }

    /// Whether the task was cancelled while it was polled.
    pub(super) fn is_cancelled(&self) -> bool {
        self.ending.state.get() == TaskState::Cancelled
    }

    /// Sets the final state; returns the waker of the [`Task`], which the caller wakes.
    pub(super) fn end(&mut self, state: TaskState) -> Option<Waker> {
        self.ending.state.set(state);
        self.ending.waker.take()
    }

    /// Cancels the task; returns its future for the caller to drop, unless the task is being
    /// polled.
    fn cancel(&mut self) -> Option<Local> {
        if self.is_left() {
            self.ending.state.set(TaskState::Cancelled);
        }
        self.future.take()
    }
}

impl Sim {
    pub(super) fn new(seed: u64, plan: Plan) -> Self {
        let state = SimState {
            seed,
            injections: Injections::new(seed, plan),
            clock: ManualTimer::new(),
            order: Chooser::new(seed, 0),
            rng: Rng::new(seed, 1),
            trace: RefCell::default(),
            tasks: RefCell::default(),
            pools: RefCell::default(),
            recorders: RefCell::default(),
            handler_faults: HandlerFaults::default(),
            end_checks: RefCell::default(),
        };
        Self {
            state: Rc::new(state),
        }
    }

    // ---- random choices ----

    /// The seed of this run.
    pub fn seed(&self) -> u64 {
        self.state.seed
    }

    /// A number below `bound`, which the seed decides; 0 if the bound is 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.state.rng.below(bound)
    }

    /// Whether it is one of `count` times, which the seed decides.
    pub fn one_in(&self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// A preemption point of the scenario: in a run with
    /// [`FaultKind::Preempt`](super::FaultKind::Preempt), other tasks may be polled here, as if
    /// this one were suspended in the middle of its poll while other threads go on.
    pub fn preempt(&self) {
        preemption_point();
    }

    // ---- time ----

    /// The clock of this run. It does not move while a task is runnable, and jumps to the next
    /// deadline when none is; a [fault](super::Fault) may move it at any time.
    pub fn clock(&self) -> &ManualTimer {
        &self.state.clock
    }

    // ---- tasks ----

    /// Spawns a task. Dropping the [`Task`] does not cancel it. A task that is still pending at the
    /// end of the run fails the run, unless it is [cancelled](Task::cancel).
    pub fn spawn(
        &self,
        name: impl Into<String>,
        future: impl Future<Output = ()> + 'static,
    ) -> Task {
        self.add(name.into(), Kind::Task, Box::pin(future))
    }

    /// Drops the future of the task: at once, or when its poll ends if it is being polled.
    pub(super) fn drop_task(&self, number: usize) {
        let future = self.state.tasks.borrow_mut()[number].cancel();
        if future.is_some() {
            // Dropped without a borrow, since `drop` may use the simulation; and before other tasks
            // see the task as ended.
            drop(future);
            let waker = self.state.tasks.borrow_mut()[number].end(TaskState::Dropped);
            waker.into_iter().for_each(Waker::wake);
        }
    }

    pub(super) fn add(&self, name: String, kind: Kind, future: Local) -> Task {
        let ending = Rc::new(Ending {
            state: Cell::new(TaskState::Waiting),
            waker: RefCell::default(),
        });
        let woken = Arc::new(WakeFlag {
            is_set: AtomicBool::new(true),
            is_under_lock: AtomicBool::new(false),
        });
        let running = Running {
            name,
            kind,
            future: Some(future),
            woken,
            ending: Rc::clone(&ending),
        };
        let mut tasks = self.state.tasks.borrow_mut();
        tasks.push(running);
        Task {
            sim: self.clone(),
            number: tasks.len() - 1,
            ending,
        }
    }

    /// Spawns the workers of a pool, whether they are `Send` or not.
    pub fn spawn_workers<In, T, E, C>(&self, workers: Workers<In, T, E, C>)
    where
        In: 'static,
        T: 'static,
        E: 'static,
        C: RunHandler<In, Value = T, Error = E> + 'static,
    {
        for worker in workers {
            let name = format!("worker {}", worker.id());
            self.add(name, Kind::Worker, Box::pin(worker.run()));
        }
    }

    /// Moves the lines of the recorders to the trace.
    pub(super) fn trace_events(&self) {
        let mut trace = self.state.trace.borrow_mut();
        for recorder in &*self.state.recorders.borrow() {
            recorder
                .take_lines()
                .into_iter()
                .for_each(|line| trace.add(format_args!("{line}")));
        }
    }

    /// Calls the closure at the end of the run, when all watched pools are drained and no task is
    /// being polled. The run fails if the closure panics.
    pub fn at_end(&self, check: impl FnOnce() + 'static) {
        self.state.end_checks.borrow_mut().push(Box::new(check));
    }

    // ---- pools ----

    /// A builder with the clock of this run.
    pub fn builder<In, E>(&self) -> Builder<In, E> {
        Pool::builder().timer(self.state.clock.clone())
    }

    /// Checks the counters of this pool after every step, and injects faults into it. All workers
    /// of the pool are to be spawned on this simulation.
    ///
    /// `watch` fails the run when jobs are lost or counted twice; when more jobs run than may; when
    /// a job that may start does not though a worker is idle; when a submission waits although
    /// there is room; when no worker drives the timers; when no task is runnable and a job has no
    /// outcome, or an attempt runs, though its time limit has passed; when a task is woken under a
    /// lock of the pool; and, at the end, when the pool cannot be drained, or a job, a permit, a
    /// waker or a timer is left. At the end the pool is closed and drained.
    pub fn watch<In: 'static, T: 'static, E: 'static>(&self, pool: &Pool<In, T, E>) {
        self.state
            .pools
            .borrow_mut()
            .push(Rc::new(WatchedPool::new(pool)));
    }

    /// An observer that checks the order of events, and adds them to the trace.
    ///
    /// A pool without an observer takes shortcuts that a pool with one does not, so do not observe
    /// the pool in every run.
    pub fn recorder(&self) -> Recorder {
        let recorder = Recorder::new(self.state.clock.clone());
        self.state.recorders.borrow_mut().push(recorder.clone());
        recorder
    }

    /// Wraps a handler that fails on request: when a [`HandlerFault`] was injected. Otherwise the
    /// handler is unchanged.
    pub fn faulty<In, F, Fut>(&self, handler: F) -> impl Fn(In) -> Faulty<Fut> + use<In, F, Fut>
    where
        F: Fn(In) -> Fut,
    {
        let (faults, clock) = (
            Arc::clone(&self.state.handler_faults),
            self.state.clock.clone(),
        );
        move |input| {
            if take(&faults, |fault| fault == HandlerFault::PanicInFactory).is_some() {
                unwind("injected where the future is made");
            }
            let (faults, clock) = (Arc::clone(&faults), clock.clone());
            Faulty {
                future: handler(input),
                slow: None,
                clock,
                guard: Guard { faults },
            }
        }
    }

    /// Whether a [`HandlerFault::Fail`] was injected. Each is returned once: the handler that gets
    /// true returns its error.
    pub fn is_to_fail(&self) -> bool {
        take(&self.state.handler_faults, |fault| {
            fault == HandlerFault::Fail
        })
        .is_some()
    }

    /// Adds a line to the trace.
    pub fn trace(&self, line: impl fmt::Display) {
        self.state.trace.borrow_mut().add(format_args!("  {line}"));
    }
}

/// Takes the first fault that `fits`.
fn take(faults: &HandlerFaults, fits: impl Fn(HandlerFault) -> bool) -> Option<HandlerFault> {
    let mut faults = ignore_poison(faults.lock());
    let at = faults.iter().position(|fault| fits(*fault))?;
    faults.remove(at)
}

/// Panics without calling the panic hook.
fn unwind(text: &'static str) -> ! {
    resume_unwind(Box::new(text))
}

impl Spawn for Sim {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        let count = self
            .state
            .tasks
            .borrow()
            .iter()
            .filter(|task| task.kind == Kind::Worker)
            .count();
        self.add(format!("worker {count}"), Kind::Worker, future);
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("seed", &self.state.seed)
            .finish_non_exhaustive()
    }
}

/// Handle of a task of a run; made by [`Sim::spawn`]. As a future it returns whether the task ran
/// to its end; false if it was dropped. Dropping the handle does not cancel the task.
pub struct Task {
    sim: Sim,
    number: usize,
    ending: Rc<Ending>,
}

impl Task {
    /// Whether the task ran to its end.
    pub fn is_finished(&self) -> bool {
        self.ending.state.get() == TaskState::Done
    }

    /// Drops the future of the task, unless it has ended. A task that cancels itself is dropped
    /// when its poll ends.
    pub fn cancel(&self) {
        self.sim.drop_task(self.number);
    }
}

impl Future for Task {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        match self.ending.state.get() {
            TaskState::Done => Poll::Ready(true),
            TaskState::Dropped => Poll::Ready(false),
            TaskState::Waiting | TaskState::Cancelled => {
                self.ending.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("state", &self.ending.state.get())
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of a handler that was made with [`Sim::faulty`].
    pub struct Faulty<Fut> {
        // The first field, so that it is dropped before the guard panics.
        #[pin]
        future: Fut,
        slow: Option<ManualSleep>,
        clock: ManualTimer,
        guard: Guard,
    }
}

/// Panics in its drop if [`HandlerFault::PanicInDrop`] was injected.
struct Guard {
    faults: HandlerFaults,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A second panic during an unwind aborts the process.
        if !std::thread::panicking()
            && take(&self.faults, |fault| fault == HandlerFault::PanicInDrop).is_some()
        {
            unwind("injected in the drop of a future");
        }
    }
}

/// A panic payload that panics in its drop.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            unwind("injected in the drop of a payload");
        }
    }
}

impl<Fut: Future> Future for Faulty<Fut> {
    type Output = Fut::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Fut::Output> {
        let this = self.project();
        let is_of_a_poll = |fault| {
            matches!(
                fault,
                HandlerFault::PanicInPoll | HandlerFault::PanicWithBomb | HandlerFault::Slow
            )
        };
        match take(&this.guard.faults, is_of_a_poll) {
            Some(HandlerFault::PanicInPoll) => unwind("injected in a poll"),
            Some(HandlerFault::PanicWithBomb) => resume_unwind(Box::new(Bomb)),
            Some(_) => *this.slow = Some(this.clock.sleep(Duration::from_secs(3600))),
            None => {}
        }
        if let Some(slow) = this.slow {
            if Pin::new(slow).poll(cx).is_pending() {
                return Poll::Pending;
            }
            *this.slow = None;
        }
        this.future.poll(cx)
    }
}

impl<Fut> fmt::Debug for Faulty<Fut> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").finish_non_exhaustive()
    }
}
