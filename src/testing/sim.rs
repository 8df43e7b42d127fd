//! What a scenario has in its hands: the clock, the rng, tasks, and the means to make handlers
//! fail.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::plan::{HandlerFault, Plan};
use super::rng::{Chooser, Rng};
use super::strike::Strikes;
use super::trace::Trace;
use super::watch::{Local, Recorder, Watched};
use crate::builder::Builder;
use crate::pool::Pool;
use crate::rt::{BoxFuture, ManualSleep, ManualTimer, Spawn};
use crate::sync::preempt::{is_locked, preemption_point};
use crate::worker::{RunHandler, Workers};

/// One run, as its scenario sees it. Clones share it.
///
/// It is an executor ([`Spawn`]) whose tasks are polled in random order, each only after it was
/// woken.
#[derive(Clone)]
pub struct Sim {
    pub(super) world: Rc<SimState>,
}

pub(super) struct SimState {
    pub(super) seed: u64,
    pub(super) clock: ManualTimer,
    /// Chooses the task that is polled next.
    pub(super) order: Chooser,
    /// What the scenario asks for.
    rng: Rng,
    pub(super) trace: RefCell<Trace>,
    /// Bounded by what the scenario spawns.
    pub(super) tasks: RefCell<Vec<Running>>,
    pub(super) pools: RefCell<Vec<Rc<dyn Watched>>>,
    pub(super) recorders: RefCell<Vec<Recorder>>,
    /// That have struck, and no handler has come to yet; at most as many as strikes.
    pub(super) handler_faults: HandlerFaults,
    pub(super) strikes: Strikes,
    /// What is called at the end; as many as the scenario asks for.
    pub(super) end_checks: RefCell<Vec<EndCheck>>,
}

type EndCheck = Box<dyn FnOnce()>;

type HandlerFaults = Arc<Mutex<VecDeque<HandlerFault>>>;

/// A task, and whether it is to be polled.
pub(super) struct Running {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// `None` while it is polled, and once it has ended or was dropped.
    pub(super) future: Option<Local>,
    pub(super) woken: Arc<ReadyList>,
    ending: Rc<Ending>,
}

/// How a task ended, and who waits for that.
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
    /// One that the simulator has spawned.
    Own,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TaskState {
    Waiting,
    /// Is to be dropped, or is being dropped.
    Cancelled,
    Dropped,
    Done,
}

#[derive(Debug)]
pub(super) struct ReadyList {
    is_set: AtomicBool,
    /// Whether it was ever woken while a lock of the library was held. A waker may do anything, use
    /// that lock included.
    is_under_lock: AtomicBool,
}

impl ReadyList {
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

impl Wake for ReadyList {
    fn wake(self: Arc<Self>) {
        self.is_set.store(true, Ordering::SeqCst);
        self.is_under_lock.fetch_or(is_locked(), Ordering::SeqCst);
    }
}

impl Running {
    pub(super) fn is_alive(&self) -> bool {
        self.future.is_some()
    }

    /// Whether it has neither ended nor been dropped; it may be in the middle of a poll.
    pub(super) fn is_left(&self) -> bool {
        self.ending.state.get() == TaskState::Waiting
    }

    /// Whether it is to be dropped, though it was polled just now.
    pub(super) fn is_cancelled(&self) -> bool {
        self.ending.state.get() == TaskState::Cancelled
    }

    /// Its future is gone; who waits for that is to be woken.
    pub(super) fn end(&mut self, state: TaskState) -> Option<Waker> {
        self.ending.state.set(state);
        self.ending.waker.take()
    }

    /// It is to be dropped: where it stands, or when its poll ends.
    fn cancel(&mut self) -> Option<Local> {
        if self.is_left() {
            self.ending.state.set(TaskState::Cancelled);
        }
        self.future.take()
    }
}

impl Sim {
    pub(super) fn new(seed: u64, plan: Plan) -> Self {
        let world = SimState {
            seed,
            strikes: Strikes::new(seed, plan),
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
            world: Rc::new(world),
        }
    }

    // ---- what decides ----

    /// The seed of this run.
    pub fn seed(&self) -> u64 {
        self.world.seed
    }

    /// A number below `bound`, which the seed decides; 0 if the bound is 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.world.rng.below(bound)
    }

    /// Whether it is one of `count` times, which the seed decides.
    pub fn one_in(&self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// A preemption point of the scenario's own: in a run with
    /// [`FaultKind::Preempt`](super::FaultKind::Preempt), other tasks may be polled here, as if
    /// this one were suspended in the middle of its poll while other threads go on.
    pub fn preempt(&self) {
        preemption_point();
    }

    // ---- time ----

    /// The clock of this run. It stands still while anybody can go on, and jumps to the next moment
    /// that somebody waits for when nobody can; a [fault](super::Fault) may move it at any time.
    pub fn clock(&self) -> &ManualTimer {
        &self.world.clock
    }

    // ---- tasks ----

    /// Spawns a task. It goes on if the [`Task`] is dropped. One that still waits when the run is
    /// at its end fails it, unless it is [cancelled](Task::cancel).
    pub fn spawn(
        &self,
        name: impl Into<String>,
        future: impl Future<Output = ()> + 'static,
    ) -> Task {
        self.add(name.into(), Kind::Task, Box::pin(future))
    }

    /// Drops the task where it stands; or when its poll ends, if it is in the middle of one.
    pub(super) fn drop_task(&self, number: usize) {
        let future = self.world.tasks.borrow_mut()[number].cancel();
        if future.is_some() {
            // With no borrow, since that may do anything; and before it is gone for others.
            drop(future);
            let waker = self.world.tasks.borrow_mut()[number].end(TaskState::Dropped);
            waker.into_iter().for_each(Waker::wake);
        }
    }

    pub(super) fn add(&self, name: String, kind: Kind, future: Local) -> Task {
        let ending = Rc::new(Ending {
            state: Cell::new(TaskState::Waiting),
            waker: RefCell::default(),
        });
        let woken = Arc::new(ReadyList {
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
        let mut tasks = self.world.tasks.borrow_mut();
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

    /// Moves what recorders were told of to the trace.
    pub(super) fn trace_events(&self) {
        let mut trace = self.world.trace.borrow_mut();
        for recorder in &*self.world.recorders.borrow() {
            recorder
                .take_lines()
                .into_iter()
                .for_each(|line| trace.add(format_args!("{line}")));
        }
    }

    /// Calls the closure when the run is at its end: all pools are drained, and no task is in the
    /// middle of a poll. It may panic, which fails the run.
    pub fn at_end(&self, check: impl FnOnce() + 'static) {
        self.world.end_checks.borrow_mut().push(Box::new(check));
    }

    // ---- pools ----

    /// A builder with the clock of this run.
    pub fn builder<In, E>(&self) -> Builder<In, E> {
        Pool::builder().timer(self.world.clock.clone())
    }

    /// Checks the books of this pool after every step, and lets faults strike it. All its workers
    /// are to be spawned here.
    ///
    /// It fails the run when jobs are lost or counted twice; when more run than may; when a job
    /// that may start does not though a worker is idle; when somebody waits for room that is there;
    /// when nobody keeps the time; when a task is woken under a lock of the pool; and, at the end,
    /// when the pool cannot be drained, or a job, a place, a permit, a waker or a timer is left. At
    /// the end it is closed and drained.
    pub fn watch<In: 'static, T: 'static, E: 'static>(&self, pool: &Pool<In, T, E>) {
        self.world
            .pools
            .borrow_mut()
            .push(Rc::new(Arc::clone(pool.shared())));
    }

    /// An observer that checks the order of events, and puts them into the trace.
    ///
    /// A pool that is observed takes another way than one that is not, where it can save work; so
    /// do not observe it in every run.
    pub fn recorder(&self) -> Recorder {
        let recorder = Recorder::new(self.world.clock.clone());
        self.world.recorders.borrow_mut().push(recorder.clone());
        recorder
    }

    /// Makes a handler that comes to grief when a [`HandlerFault`] has struck; otherwise it is the
    /// same.
    pub fn faulty<In, F, Fut>(&self, handler: F) -> impl Fn(In) -> Faulty<Fut> + use<In, F, Fut>
    where
        F: Fn(In) -> Fut,
    {
        let (faults, clock) = (
            Arc::clone(&self.world.handler_faults),
            self.world.clock.clone(),
        );
        move |input| {
            if take(&faults, |fault| fault == HandlerFault::PanicInFactory).is_some() {
                unwind("struck where the future is made");
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

    /// Whether a [`HandlerFault::Fail`] has struck; whoever asks first is the one to return its
    /// error.
    pub fn is_to_fail(&self) -> bool {
        take(&self.world.handler_faults, |fault| {
            fault == HandlerFault::Fail
        })
        .is_some()
    }

    /// Puts a line into the trace.
    pub fn trace(&self, line: impl fmt::Display) {
        self.world.trace.borrow_mut().add(format_args!("  {line}"));
    }
}

/// Takes the first fault that fits.
fn take(faults: &HandlerFaults, fits: impl Fn(HandlerFault) -> bool) -> Option<HandlerFault> {
    let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
    let at = faults.iter().position(|fault| fits(*fault))?;
    faults.remove(at)
}

/// Panics without a word to the panic hook.
fn unwind(text: &'static str) -> ! {
    resume_unwind(Box::new(text))
}

impl Spawn for Sim {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        let count = self
            .world
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
            .field("seed", &self.world.seed)
            .finish_non_exhaustive()
    }
}

/// A task of a run; made by [`Sim::spawn`]. As a future it says whether the task ran to its end, or
/// was dropped. Dropping it changes nothing.
pub struct Task {
    sim: Sim,
    number: usize,
    ending: Rc<Ending>,
}

impl Task {
    /// Whether it ran to its end.
    pub fn is_finished(&self) -> bool {
        self.ending.state.get() == TaskState::Done
    }

    /// Drops its future where it stands, unless it has ended. A task that cancels itself is dropped
    /// when it waits next.
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
    /// The future of a handler that [`Sim::faulty`] has made.
    pub struct Faulty<Fut> {
        // First, so that it is dropped before the guard panics.
        #[pin]
        future: Fut,
        slow: Option<ManualSleep>,
        clock: ManualTimer,
        guard: Guard,
    }
}

/// Panics when it is dropped, if that has struck.
struct Guard {
    faults: HandlerFaults,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A second panic while one unwinds would end the process.
        if !std::thread::panicking()
            && take(&self.faults, |fault| fault == HandlerFault::PanicInDrop).is_some()
        {
            unwind("struck in the drop of a future");
        }
    }
}

/// What a handler panics with, and what panics again.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            unwind("struck in the drop of a payload");
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
            Some(HandlerFault::PanicInPoll) => unwind("struck in a poll"),
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
