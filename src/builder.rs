//! Every knob of a pool: its default, its effect, and what it refuses. In come numbers, out come a pool and its workers;
//! nothing runs yet.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::attempt::timeout::Limits;
use crate::engine::{Engine, Settings};
use crate::handler::{Plain, WithState, WithSubmitter};
use crate::observe::Observer;
use crate::pool::Pool;
use crate::rt::{Spawn, Timer};
use crate::submit::Submitter;
use crate::worker::Workers;

/// How many workers a pool has if nothing else is said.
pub(crate) const DEFAULT_WORKERS: usize = 10;
/// How many jobs may wait if nothing else is said.
pub(crate) const DEFAULT_QUEUE_CAPACITY: usize = 1024;
/// How many jobs added by running jobs may wait if nothing else is said.
pub(crate) const DEFAULT_CHILD_CAPACITY: usize = 65_536;

/// Builds a [`Pool`]; made by [`Pool::builder`].
///
/// # Defaults
///
/// | knob | default |
/// |---|---|
/// | [`workers`](Self::workers) | 10 |
/// | [`queue_capacity`](Self::queue_capacity) | 1024 jobs |
/// | [`child_capacity`](Self::child_capacity) | 65,536 jobs |
/// | [`attempt_timeout`](Self::attempt_timeout), [`job_timeout`](Self::job_timeout) | none |
/// | [`timings`](Self::timings) | off |
/// | [`slow_poll`](Self::slow_poll), [`observe`](Self::observe) | none |
/// | [`timer`](Self::timer) | async-io's, with the feature `async-io`; else it must be given |
///
/// # What is bounded by what
///
/// | jobs that are | at most |
/// |---|---|
/// | running | `workers` |
/// | queued, from outside | `queue_capacity`, permits included |
/// | queued, added by running jobs | `child_capacity` |
/// | queued, running or unread, of one map or group | its `window`, by default `queue_capacity + workers`, and `child_capacity` more that running jobs add |
///
/// # The order of stages
///
/// A job's own deadline stands around all of it. Inside: the queue, then the attempt's time-out, then the panic guard, then
/// the handler.
#[must_use = "a builder does nothing until a handler is given"]
#[derive(Clone)]
pub struct Builder {
    workers: usize,
    capacity: usize,
    child_capacity: usize,
    limits: Limits,
    timings: bool,
    slow_poll: Option<Duration>,
    observer: Option<Arc<dyn Observer>>,
    timer: Option<Arc<dyn Timer>>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            workers: DEFAULT_WORKERS,
            capacity: DEFAULT_QUEUE_CAPACITY,
            child_capacity: DEFAULT_CHILD_CAPACITY,
            limits: Limits { attempt: None, job: None },
            timings: false,
            slow_poll: None,
            observer: None,
            timer: default_timer(),
        }
    }

    /// Sets how many workers there are: how many jobs run at once, at most.
    ///
    /// A worker is a future, not a thread; a thousand are as good as ten.
    ///
    /// # Panics
    ///
    /// If `count` is 0.
    #[track_caller]
    pub const fn workers(mut self, count: usize) -> Self {
        assert!(count > 0, "workers must be at least 1, got 0");
        self.workers = count;
        self
    }

    /// Sets how many jobs from outside may wait for a worker.
    ///
    /// A small queue pushes back early. A queue near the number of workers makes a worker or a submitter sleep and wake for
    /// every job, which costs more than anything else here; leave it large where jobs are small.
    ///
    /// # Panics
    ///
    /// If `jobs` is 0.
    #[track_caller]
    pub const fn queue_capacity(mut self, jobs: usize) -> Self {
        assert!(jobs > 0, "queue_capacity must be at least 1, got 0");
        self.capacity = jobs;
        self
    }

    /// Sets how many jobs that running jobs have added may wait for a worker. Zero forbids running jobs to add any.
    ///
    /// They are counted apart from [`queue_capacity`](Self::queue_capacity), so that a running job never waits for room that
    /// only it could make.
    pub const fn child_capacity(mut self, jobs: usize) -> Self {
        self.child_capacity = jobs;
        self
    }

    /// Limits each attempt, counted from its start. When it passes, the handler's future is dropped: the work stops at its
    /// next await. A handler that does not yield cannot be stopped.
    ///
    /// # Panics
    ///
    /// If `limit` is zero.
    #[track_caller]
    pub const fn attempt_timeout(mut self, limit: Duration) -> Self {
        assert!(!limit.is_zero(), "attempt_timeout must be longer than 0, got 0ns");
        self.limits.attempt = Some(limit);
        self
    }

    /// Limits each job, counted from its submission, waiting included.
    ///
    /// A job whose time passes while it is queued never starts; that is found out when a worker comes to it.
    ///
    /// # Panics
    ///
    /// If `limit` is zero.
    #[track_caller]
    pub const fn job_timeout(mut self, limit: Duration) -> Self {
        assert!(!limit.is_zero(), "job_timeout must be longer than 0, got 0ns");
        self.limits.job = Some(limit);
        self
    }

    /// Says whether completions know their [`queued_for`](crate::Completion::queued_for) and
    /// [`ran_for`](crate::Completion::ran_for). It costs three looks at the clock and an allocation a job.
    pub const fn timings(mut self, measure: bool) -> Self {
        self.timings = measure;
        self
    }

    /// Reports each poll of a handler that takes longer than `bound`, as [`Event::SlowPoll`](crate::Event::SlowPoll): a job
    /// that blocks its thread also blocks its time-outs, and all else that runs there. It costs two looks at the clock a
    /// poll.
    ///
    /// Blocking work belongs on threads of its own: `blocking::unblock(..)` makes a future of it.
    pub const fn slow_poll(mut self, bound: Duration) -> Self {
        self.slow_poll = Some(bound);
        self
    }

    /// Lets the observer see every event of the pool; see [`Observer`].
    pub fn observe(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Sets the clock: of time-outs, timings and grace periods.
    pub fn timer(mut self, timer: impl Timer) -> Self {
        self.timer = Some(Arc::new(timer));
        self
    }

    /// Makes a pool and its workers for a handler, and leaves it to the caller who polls them.
    ///
    /// # Panics
    ///
    /// If there is no timer: without the feature `async-io`, [`timer`](Self::timer) has to be called.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool};
    /// use futures_lite::future;
    ///
    /// let (pool, workers) = Pool::builder()
    ///     .workers(2)
    ///     .timer(ManualTimer::new())
    ///     .build(|n: u32| async move { Ok::<_, ()>(n + 1) });
    /// let sum = future::block_on(workers.drive(pool.map([1, 2]).try_collect::<Vec<_>>()));
    /// assert_eq!(sum, Ok(vec![2, 3]));
    /// ```
    #[track_caller]
    pub fn build<In, T, E, F, Fut>(self, handler: F) -> (Pool<In, T, E>, Workers<In, T, E, Plain<F>>)
    where
        F: Fn(In) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let engine = self.engine();
        let call = Plain::new(handler);
        let workers = Workers::new(&engine, |_| call.share());
        (Pool::new(engine), workers)
    }

    /// Makes a pool whose jobs may add jobs: the handler is given a [`Submitter`] besides the input.
    ///
    /// # Panics
    ///
    /// As [`build`](Self::build).
    #[track_caller]
    pub fn build_with_submitter<In, T, E, F, Fut>(
        self,
        handler: F,
    ) -> (Pool<In, T, E>, Workers<In, T, E, WithSubmitter<F, T, E>>)
    where
        F: Fn(In, Submitter<In, T, E>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let engine = self.engine();
        let call = WithSubmitter::new(handler);
        let workers = Workers::new(&engine, |_| call.share());
        (Pool::new(engine), workers)
    }

    /// Makes a pool whose workers each have a state of their own, such as a connection: `init` makes it, given the number of
    /// the worker, before the worker's first job, and anew after a job of that worker panicked, be it in a drop.
    ///
    /// After a time-out or a cancellation the state is as the handler left it at its last await: a connection may be half-way
    /// through a request.
    ///
    /// # Panics
    ///
    /// As [`build`](Self::build).
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool};
    /// use futures_lite::future;
    ///
    /// let (pool, workers) = Pool::builder().workers(1).timer(ManualTimer::new()).build_with_state(
    ///     |_worker| 0,
    ///     async |sum: &mut u32, n: u32| {
    ///         *sum += n;
    ///         Ok::<_, ()>(*sum)
    ///     },
    /// );
    /// let sums = future::block_on(workers.drive(pool.map(1..4).try_collect::<Vec<_>>()));
    /// assert_eq!(sums, Ok(vec![1, 3, 6]));
    /// ```
    #[track_caller]
    pub fn build_with_state<In, T, E, S, Init, F>(
        self,
        init: Init,
        handler: F,
    ) -> (Pool<In, T, E>, Workers<In, T, E, WithState<Init, F, S>>)
    where
        Init: Fn(usize) -> S,
        F: AsyncFn(&mut S, In) -> Result<T, E>,
    {
        let engine = self.engine();
        let shared = Arc::new((init, handler));
        let workers = Workers::new(&engine, |worker| WithState::new(Arc::clone(&shared), worker));
        (Pool::new(engine), workers)
    }

    /// Makes a pool and spawns its workers on an executor.
    ///
    /// # Panics
    ///
    /// As [`build`](Self::build).
    #[track_caller]
    pub fn spawn_on<In, T, E, F, Fut>(self, executor: &(impl Spawn + ?Sized), handler: F) -> Pool<In, T, E>
    where
        In: Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
        F: Fn(In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let (pool, workers) = self.build(handler);
        workers.spawn_on(executor);
        pool
    }

    /// Makes a pool and spawns its workers on smol's global executor.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::Pool;
    ///
    /// let pool = Pool::builder().workers(2).start(|n: u32| async move { Ok::<_, ()>(n + 1) });
    /// let handle = pool.try_submit(1).unwrap();
    /// assert_eq!(smol::block_on(handle), Ok(2));
    /// ```
    #[cfg(feature = "smol")]
    pub fn start<In, T, E, F, Fut>(self, handler: F) -> Pool<In, T, E>
    where
        In: Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
        F: Fn(In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.spawn_on(&crate::rt::SmolGlobal, handler)
    }

    #[track_caller]
    fn engine<In, T, E>(self) -> Arc<Engine<In, T, E>> {
        let Some(timer) = self.timer else {
            panic!("timer must be set without the feature `async-io`, got none");
        };
        Engine::new(Settings {
            workers: self.workers,
            capacity: self.capacity,
            child_capacity: self.child_capacity,
            limits: self.limits,
            timer,
            observer: self.observer,
            timings: self.timings,
            slow_poll: self.slow_poll,
        })
    }
}

#[cfg(feature = "async-io")]
fn default_timer() -> Option<Arc<dyn Timer>> {
    Some(Arc::new(crate::rt::AsyncIoTimer))
}

#[cfg(not(feature = "async-io"))]
fn default_timer() -> Option<Arc<dyn Timer>> {
    None
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("workers", &self.workers)
            .field("queue_capacity", &self.capacity)
            .field("child_capacity", &self.child_capacity)
            .field("attempt_timeout", &self.limits.attempt)
            .field("job_timeout", &self.limits.job)
            .field("timings", &self.timings)
            .field("slow_poll", &self.slow_poll)
            .finish_non_exhaustive()
    }
}
