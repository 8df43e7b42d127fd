//! One suite, every executor. A scenario is written once, as an async function of its [`Env`];
//! [`everywhere`] runs it on each executor in turn, in both ways to run several jobs at once, with
//! a clock that the scenario advances.
//!
//! The scenario itself runs on the test's thread; the workers run wherever the executor puts them.
//! So a scenario orders events by channels, gates and the clock, never by sleeping.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::{self, Debug};
use std::future::Future;
use std::io::Write;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use async_executor::{Executor, LocalExecutor};
use brigade::rt::BoxFuture;
use brigade::{Builder, ManualTimer, Pool, Spawn, Stats};
use futures::executor::{LocalPool, ThreadPool};
use futures::task::{LocalSpawnExt, SpawnExt};
use futures_lite::future;

pub(crate) const SECOND: Duration = secs(1);
pub(crate) const MINUTE: Duration = secs(60);
pub(crate) const HOUR: Duration = secs(3600);

pub(crate) const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(crate) const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The ways to run several jobs at once: with many workers, or with the slots of few. Every promise
/// holds in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slots {
    /// Each worker has one.
    One,
    /// One worker has all that are asked for, or each of two has half of them.
    Many,
}

impl Slots {
    pub(crate) const BOTH: [Self; 2] = [Self::One, Self::Many];

    /// A pool that runs this many jobs at once.
    pub(crate) fn at_once<In, E>(self, builder: Builder<In, E>, jobs: usize) -> Builder<In, E> {
        let workers = self.workers(jobs);
        builder.workers(workers).jobs_per_worker(jobs / workers)
    }

    /// How many workers such a pool has.
    pub(crate) const fn workers(self, jobs: usize) -> usize {
        match self {
            Self::One => jobs,
            // Two where that is possible and leaves each of them more than one slot.
            Self::Many if jobs >= 4 && jobs.is_multiple_of(2) => 2,
            Self::Many => 1,
        }
    }

    /// A pool of this many workers, each with one slot or with `several`.
    pub(crate) fn each<In, E>(
        self,
        builder: Builder<In, E>,
        workers: usize,
        several: usize,
    ) -> Builder<In, E> {
        builder
            .workers(workers)
            .jobs_per_worker(if self == Self::One { 1 } else { several })
    }

    /// A pool that starts its jobs in their order, whether the one before has ended or not: by one
    /// worker.
    pub(crate) fn in_order<In, E>(self, builder: Builder<In, E>) -> Builder<In, E> {
        builder
            .workers(1)
            .jobs_per_worker(if self == Self::One { 1 } else { 4 })
    }

    /// A pool that runs one job at a time: in the only slot of a worker, or in any of several,
    /// since all have one key.
    pub(crate) fn one_by_one<In, E>(self, builder: Builder<In, E>) -> Builder<In, E> {
        let builder = self.in_order(builder);
        if self == Self::One {
            builder
        } else {
            builder.key_by(|_| "all").max_running_per_key(1)
        }
    }
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::One {
            "one slot a worker"
        } else {
            "many slots a worker"
        })
    }
}

/// Where and how a scenario runs: an executor for the workers, one of the ways to have many jobs at
/// once, and a clock.
#[derive(Clone)]
pub(crate) struct Env {
    pub(crate) executor: &'static str,
    /// The executor and the way, for messages.
    pub(crate) name: String,
    pub(crate) clock: ManualTimer,
    slots: Slots,
    /// Whether the scenario has asked for more than one slot.
    has_many: Rc<Cell<bool>>,
    spawner: Spawner,
}

type Spawner = Rc<dyn Fn(BoxFuture<'static, ()>)>;

impl Env {
    /// A builder with this clock.
    pub(crate) fn builder<In, E>(&self) -> Builder<In, E> {
        Pool::builder().timer(self.clock.clone())
    }

    /// The same, of a pool that runs this many jobs at once.
    pub(crate) fn at_once<In, E>(&self, jobs: usize) -> Builder<In, E> {
        self.has_many.set(self.has_many.get() || jobs > 1);
        self.slots.at_once(self.builder(), jobs)
    }

    /// How many workers such a pool has.
    pub(crate) const fn workers(&self, jobs: usize) -> usize {
        self.slots.workers(jobs)
    }

    /// The same, of a pool that starts its jobs in their order, whether the one before has ended or
    /// not: by one worker.
    pub(crate) fn in_order<In, E>(&self) -> Builder<In, E> {
        self.has_many.set(true);
        self.slots.in_order(self.builder())
    }

    /// The same, of a pool that runs one job at a time. It may have keys, so the scenario has none.
    pub(crate) fn one_by_one<In, E>(&self) -> Builder<In, E> {
        self.has_many.set(true);
        self.slots.one_by_one(self.builder())
    }
}

impl Spawn for Env {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        (self.spawner)(future);
    }
}

/// Runs the scenario on every executor, one after another, with workers of one slot and with
/// workers of many.
///
/// A scenario that hangs ends the process after a minute. Its executor and way are named, as of one
/// that fails.
pub(crate) fn everywhere<F: Future<Output = ()> + 'static>(scenario: impl Fn(Env) -> F) {
    run_everywhere(&Slots::BOTH.map(Some), &|env| Box::pin(scenario(env)));
}

/// The same for a scenario about workers and slots, which sets their numbers itself.
pub(crate) fn everywhere_once<F: Future<Output = ()> + 'static>(scenario: impl Fn(Env) -> F) {
    run_everywhere(&[None], &|env| Box::pin(scenario(env)));
}

/// Runs a test that polls the workers itself with workers of one slot and with workers of many.
pub(crate) fn in_both_ways(test: impl Fn(Slots)) {
    for slots in Slots::BOTH {
        let _watchdog = Watchdog::new(&slots.to_string());
        test(slots);
    }
}

/// A scenario in a box: so the executors are compiled once, and not for each test.
type Scenario<'a> = &'a dyn Fn(Env) -> Body;
type Body = Pin<Box<dyn Future<Output = ()>>>;

/// An executor runs the body on the test's thread, and what that spawns.
type Run = fn(&dyn Fn(Spawner) -> Body);

fn run_everywhere(ways: &[Option<Slots>], scenario: Scenario<'_>) {
    let executors: [(&'static str, Run); 10] = [
        ("async-executor, one thread", on_executor),
        ("async-executor, two threads", on_executor_threads),
        ("LocalExecutor", on_local_executor),
        ("smol", on_smol),
        ("async-std", on_async_std),
        ("futures ThreadPool", on_thread_pool),
        ("futures LocalPool", on_local_pool),
        ("tokio current-thread", on_tokio_current),
        ("tokio multi-thread", on_tokio_multi),
        ("hand-written", on_hand_written),
    ];
    let has_many = Rc::new(Cell::new(false));
    for (executor, run) in executors {
        for way in ways {
            let name = way.map_or_else(
                || executor.to_owned(),
                |slots| format!("{executor}, {slots}"),
            );
            let _watchdog = Watchdog::new(&name);
            run(&|spawner| {
                let (name, slots, has_many) = (
                    name.clone(),
                    way.unwrap_or(Slots::One),
                    Rc::clone(&has_many),
                );
                scenario(Env {
                    executor,
                    name,
                    clock: ManualTimer::new(),
                    slots,
                    has_many,
                    spawner,
                })
            });
        }
    }
    assert_eq!(
        has_many.get(),
        ways.len() > 1,
        "it runs in both ways if it asks for more than one slot, and only then"
    );
}

fn on_executor(body: &dyn Fn(Spawner) -> Body) {
    let executor = Arc::new(Executor::new());
    let spawner = Arc::clone(&executor);
    future::block_on(executor.run(body(Rc::new(move |future| Spawn::spawn(&spawner, future)))));
}

fn on_executor_threads(body: &dyn Fn(Spawner) -> Body) {
    let executor = Arc::new(Executor::new());
    let (stop, stopped) = async_channel::bounded::<()>(1);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (executor, stopped) = (Arc::clone(&executor), stopped.clone());
            scope.spawn(move || future::block_on(executor.run(stopped.recv())).is_err());
        }
        // Dropped also when the scenario panics, so that the threads end.
        let _stop = stop;
        let spawner = Arc::clone(&executor);
        future::block_on(body(Rc::new(move |future| Spawn::spawn(&spawner, future))));
    });
}

fn on_local_executor(body: &dyn Fn(Spawner) -> Body) {
    let executor = Rc::new(LocalExecutor::new());
    let spawner = Rc::clone(&executor);
    future::block_on(executor.run(body(Rc::new(move |future| spawner.spawn(future).detach()))));
}

fn on_smol(body: &dyn Fn(Spawner) -> Body) {
    smol::block_on(body(Rc::new(|future| smol::spawn(future).detach())));
}

fn on_async_std(body: &dyn Fn(Spawner) -> Body) {
    async_std::task::block_on(body(Rc::new(|future| drop(async_std::task::spawn(future)))));
}

fn on_thread_pool(body: &dyn Fn(Spawner) -> Body) {
    let pool = ThreadPool::builder()
        .pool_size(2)
        .create()
        .expect("two threads can be started");
    let body = body(Rc::new(move |future| {
        pool.spawn(future).expect("the pool is alive");
    }));
    futures::executor::block_on(body);
}

fn on_local_pool(body: &dyn Fn(Spawner) -> Body) {
    let mut pool = LocalPool::new();
    let spawner = pool.spawner();
    pool.run_until(body(Rc::new(move |future| {
        spawner.spawn_local(future).expect("the pool is alive");
    })));
}

fn on_tokio_current(body: &dyn Fn(Spawner) -> Body) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime can be built");
    runtime.block_on(body(Rc::new(|future| drop(tokio::spawn(future)))));
}

fn on_tokio_multi(body: &dyn Fn(Spawner) -> Body) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .expect("a runtime can be built");
    runtime.block_on(body(Rc::new(|future| drop(tokio::spawn(future)))));
}

fn on_hand_written(body: &dyn Fn(Spawner) -> Body) {
    let queue = Rc::new(RefCell::new(VecDeque::new()));
    let spawner = Rc::clone(&queue);
    poll_all(
        &queue,
        body(Rc::new(move |future| {
            spawner.borrow_mut().push_back(future);
        })),
    );
}

/// The simplest executor: polls all tasks in turn, and sleeps when none was woken.
fn poll_all(spawned: &RefCell<VecDeque<BoxFuture<'static, ()>>>, body: impl Future<Output = ()>) {
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&flag));
    let mut cx = Context::from_waker(&waker);
    let mut body = pin!(body);
    loop {
        if body.as_mut().poll(&mut cx).is_ready() {
            return;
        }
        let count = spawned.borrow().len();
        for _ in 0..count {
            let task = spawned.borrow_mut().pop_front();
            let Some(mut task) = task else { break };
            if task.as_mut().poll(&mut cx).is_pending() {
                spawned.borrow_mut().push_back(task);
            }
        }
        flag.wait();
    }
}

/// A hand-written `block_on`.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&flag));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        flag.wait();
    }
}

#[derive(Default)]
struct Flag {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Flag {
    fn wait(&self) {
        let mut is_set = self.is_set.lock().unwrap();
        while !*is_set {
            is_set = self.changed.wait(is_set).unwrap();
        }
        *is_set = false;
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        *self.is_set.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

/// Aborts the process if a scenario hangs, since nothing else would; and prints where a scenario
/// fails.
pub(crate) struct Watchdog {
    what: String,
    is_done: Arc<(Mutex<bool>, Condvar)>,
}

impl Watchdog {
    pub(crate) fn new(name: &str) -> Self {
        let is_done = Arc::new((Mutex::new(false), Condvar::new()));
        let watched = Arc::clone(&is_done);
        let what = format!("{} ({name})", std::thread::current().name().unwrap_or("?"));
        let hangs = format!("{what} hangs");
        std::thread::spawn(move || {
            let (done, changed) = &*watched;
            let minute = Duration::from_secs(60);
            let waited = changed
                .wait_timeout_while(done.lock().unwrap(), minute, |done| !*done)
                .unwrap();
            if waited.1.timed_out() {
                // Not by the macro, whose text the test's output keeps back and loses here.
                let _ = writeln!(std::io::stderr(), "{hangs}");
                std::process::abort();
            }
        });
        Self { what, is_done }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} fails", self.what);
        }
        *self.is_done.0.lock().unwrap() = true;
        self.is_done.1.notify_one();
    }
}

/// Releases jobs one by one: a handler awaits [`pass`](Self::pass), the scenario calls
/// [`open`](Self::open).
#[derive(Clone)]
pub(crate) struct Gate {
    open: async_channel::Sender<()>,
    pass: async_channel::Receiver<()>,
    arrived: async_channel::Sender<()>,
    arrivals: async_channel::Receiver<()>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let (open, pass) = async_channel::unbounded();
        let (arrived, arrivals) = async_channel::unbounded();
        Self {
            open,
            pass,
            arrived,
            arrivals,
        }
    }

    /// Waits at the gate until it is opened for one.
    pub(crate) async fn pass(&self) {
        self.arrived.try_send(()).expect("the gate is alive");
        self.pass.recv().await.expect("the gate is alive");
    }

    /// Lets `count` jobs through, now or when they come.
    pub(crate) fn open(&self, count: usize) {
        for _ in 0..count {
            self.open.try_send(()).expect("the gate is alive");
        }
    }

    /// Waits until `count` more jobs have come to the gate.
    pub(crate) async fn arrived(&self, count: usize) {
        for _ in 0..count {
            self.arrivals.recv().await.expect("the gate is alive");
        }
    }
}

/// A log in order: handlers push entries, the scenario awaits them.
#[derive(Clone)]
pub(crate) struct Log<T> {
    entries: async_channel::Sender<T>,
    unread: async_channel::Receiver<T>,
}

impl<T> Log<T> {
    pub(crate) fn new() -> Self {
        let (entries, unread) = async_channel::unbounded();
        Self { entries, unread }
    }

    pub(crate) fn push(&self, what: T) {
        self.entries
            .try_send(what)
            .unwrap_or_else(|_| panic!("the log is alive"));
    }

    /// Waits for the next unread entry.
    pub(crate) async fn next(&self) -> T {
        self.unread.recv().await.expect("the log is alive")
    }

    /// Waits for this many.
    pub(crate) async fn many(&self, count: usize) -> Vec<T> {
        let mut entries = Vec::new();
        while entries.len() < count {
            entries.push(self.next().await);
        }
        entries
    }

    /// Takes all unread entries.
    pub(crate) fn take(&self) -> Vec<T> {
        std::iter::from_fn(|| self.unread.try_recv().ok()).collect()
    }
}

/// A pool whose jobs wait at the gate and return their input, and a log of those that start.
pub(crate) fn gated<In: Clone + Send + 'static>(
    env: &Env,
    builder: Builder<In, ()>,
) -> (Pool<In, In, ()>, Gate, Log<In>) {
    let (gate, log) = (Gate::new(), Log::new());
    let (pass, started) = (gate.clone(), log.clone());
    let pool = builder.spawn_on(env, move |input: In| {
        started.push(input.clone());
        let gate = pass.clone();
        async move {
            gate.pass().await;
            Ok(input)
        }
    });
    (pool, gate, log)
}

/// Counts how many are alive at once, and the most that ever were.
#[derive(Clone, Default)]
pub(crate) struct Live(Arc<(AtomicUsize, AtomicUsize)>);

impl Live {
    /// Counts one until the guard is dropped.
    pub(crate) fn enter(&self) -> LiveGuard {
        let now = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(now, Ordering::SeqCst);
        LiveGuard(self.clone())
    }

    pub(crate) fn now(&self) -> usize {
        self.0.0.load(Ordering::SeqCst)
    }

    pub(crate) fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

pub(crate) struct LiveGuard(Live);

impl Drop for LiveGuard {
    fn drop(&mut self) {
        self.0.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Counts its drops: put a [`Drops::token`] into whatever must be dropped exactly once.
#[derive(Clone, Default)]
pub(crate) struct Drops(Arc<(AtomicUsize, AtomicUsize)>);

impl Drops {
    pub(crate) fn token(&self) -> DropToken {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        DropToken {
            drops: self.clone(),
            is_dropped: AtomicBool::new(false),
        }
    }

    /// How many tokens were made and how many dropped.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (
            self.0.0.load(Ordering::SeqCst),
            self.0.1.load(Ordering::SeqCst),
        )
    }
}

pub(crate) struct DropToken {
    drops: Drops,
    is_dropped: AtomicBool,
}

impl Drop for DropToken {
    fn drop(&mut self) {
        assert!(
            !self.is_dropped.swap(true, Ordering::SeqCst),
            "dropped twice"
        );
        self.drops.0.1.fetch_add(1, Ordering::SeqCst);
    }
}

/// What handlers note, in their order, each with the time at which they do: by default that a job
/// starts.
///
/// With one worker the order is that of the jobs. Of several workers, no more than the times are to
/// be relied on.
#[derive(Clone)]
pub(crate) struct Starts<J> {
    clock: ManualTimer,
    /// Times count from here.
    origin: Duration,
    noted: async_channel::Sender<(J, Duration)>,
    notes: async_channel::Receiver<(J, Duration)>,
}

impl<J: Debug + PartialEq> Starts<J> {
    pub(crate) fn new(clock: &ManualTimer) -> Self {
        let (noted, notes) = async_channel::unbounded();
        Self {
            clock: clock.clone(),
            origin: clock.elapsed(),
            noted,
            notes,
        }
    }

    pub(crate) fn note(&self, job: J) {
        self.noted
            .try_send((job, self.clock.elapsed() - self.origin))
            .expect("the log is alive");
    }

    /// Waits for these starts and no others. Meanwhile it moves the clock on from one deadline to
    /// the next, whenever no job of the pool runs.
    ///
    /// Only the pool may sleep on the clock. With several workers, one may have to move its
    /// alarm to an earlier time after another one's job has ended, and may do so too late for this;
    /// such a scenario is for one worker.
    pub(crate) async fn expect<In, T, E>(
        &self,
        pool: &Pool<In, T, E>,
        expected: impl IntoIterator<Item = (J, Duration)>,
    ) {
        let (mut seen, expected) = (Vec::new(), expected.into_iter().collect::<Vec<_>>());
        let next = || async { self.notes.recv().await.expect("the log is alive") };
        for (_, at) in &expected {
            let note = loop {
                if self.clock.elapsed() - self.origin >= *at {
                    break next().await;
                }
                let quiet = async {
                    pool.wait_running_below(1).await;
                    self.clock.sleepers(1).await;
                    None
                };
                // One that comes too early is seen as that.
                match future::or(async { Some(next().await) }, quiet).await {
                    Some(note) => break note,
                    None => self.clock.advance_to_next(),
                };
            };
            seen.push(note);
        }
        seen.extend(self.take());
        assert_eq!(seen, expected);
    }

    /// Takes the unread notes.
    pub(crate) fn take(&self) -> Vec<(J, Duration)> {
        std::iter::from_fn(|| self.notes.try_recv().ok()).collect()
    }
}

/// Yields to the executor once.
pub(crate) async fn yield_now() {
    future::yield_now().await;
}

/// Counts the calls of its wakers.
#[derive(Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wakes {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// The number of calls since the last `take`.
    pub(crate) fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A waker that calls the closure each time, also while a call is in progress.
pub(crate) fn on_each_wake(call: impl Fn() + Send + Sync + 'static) -> Waker {
    struct Calls<F>(F);
    impl<F: Fn() + Send + Sync> Wake for Calls<F> {
        fn wake(self: Arc<Self>) {
            (self.0)();
        }
    }
    Waker::from(Arc::new(Calls(call)))
}

/// A waker that calls the closure the first time only.
pub(crate) fn on_wake(call: impl FnOnce() + Send + 'static) -> Waker {
    let call = Mutex::new(Some(call));
    on_each_wake(move || {
        let call = call.lock().unwrap().take();
        call.into_iter().for_each(|call| call());
    })
}

/// The owner of a pool that jobs, observers or closures of that pool reach through a
/// [`OwnPoolRef`]. Dropping the owner takes the pool out, so that the pool does not own itself.
pub(crate) struct OwnPool<In, T, E>(OwnPoolRef<In, T, E>);

impl<In, T, E> OwnPool<In, T, E> {
    pub(crate) fn new() -> Self {
        Self(OwnPoolRef(Arc::default()))
    }

    /// A reference for code inside the pool.
    pub(crate) fn reach(&self) -> OwnPoolRef<In, T, E> {
        self.0.clone()
    }

    pub(crate) fn set(&self, pool: &Pool<In, T, E>) {
        *self.0.0.lock().unwrap() = Some(pool.clone());
    }
}

impl<In, T, E> Drop for OwnPool<In, T, E> {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

/// Where code inside a pool finds the pool; empty before [`OwnPool::set`].
pub(crate) struct OwnPoolRef<In, T, E>(Arc<Mutex<Option<Pool<In, T, E>>>>);

impl<In, T, E> OwnPoolRef<In, T, E> {
    pub(crate) fn get(&self) -> Option<Pool<In, T, E>> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn pool(&self) -> Pool<In, T, E> {
        self.get().expect("the pool is set before its jobs run")
    }

    /// Takes the pool out.
    pub(crate) fn take(&self) -> Option<Pool<In, T, E>> {
        self.0.lock().ok().and_then(|mut pool| pool.take())
    }
}

impl<In, T, E> Clone for OwnPoolRef<In, T, E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Polls once and says whether it is ready.
pub(crate) fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Asserts that the statistics add up, and that no job is left.
#[track_caller]
pub(crate) fn assert_settled<In, T, E>(pool: &Pool<In, T, E>) -> Stats {
    let stats = pool.stats();
    assert_adds_up(&stats);
    assert_eq!(
        (stats.queued, stats.delayed, stats.running),
        (0, 0, 0),
        "{stats:?}"
    );
    stats
}

/// `accepted == queued + delayed + running + outcomes`.
#[track_caller]
pub(crate) fn assert_adds_up(stats: &Stats) {
    let outcomes = stats.succeeded
        + stats.failed
        + stats.timed_out
        + stats.panicked
        + stats.cancelled
        + stats.abandoned
        + stats.rejected;
    let unfinished = stats.queued + stats.delayed + stats.running;
    assert_eq!(stats.accepted, outcomes + unfinished as u64, "{stats:?}");
}

/// Drains the pool and waits until its workers are gone; then nothing is left, no timer either.
pub(crate) async fn assert_over<In, T, E>(env: &Env, pool: &Pool<In, T, E>) -> Stats {
    pool.drain().await;
    while pool.stats().workers > 0 {
        yield_now().await;
    }
    assert_eq!(env.clock.sleeping(), 0, "a timer is left on {}", env.name);
    assert_settled(pool)
}
