//! Every option of a pool: its default, its effect, and what it refuses. The methods that build
//! return a pool and its workers; nothing runs yet.

use std::collections::TryReserveError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::event::Observer;
use crate::handler::{Plain, WithState, WithSubmitter};
use crate::key::Key;
use crate::policy::limits::TimeLimits;
use crate::policy::retry::Retry;
use crate::pool::Pool;
use crate::rt::{Spawn, Timer};
use crate::schedule::SchedulePolicy;
use crate::schedule::limiter::RateLimit;
use crate::shared::retry::RetryConfig;
use crate::shared::{Config, CostFn, KeyFn, Shared};
use crate::submit::Submitter;
use crate::worker::{RunHandler, Workers};

/// Default number of workers.
pub(crate) const DEFAULT_WORKERS: usize = 10;
/// Default bound of queued jobs from outside.
pub(crate) const DEFAULT_QUEUE_CAPACITY: usize = 1024;
/// Default bound of queued jobs that running jobs have added.
pub(crate) const DEFAULT_CHILD_CAPACITY: usize = 65_536;
/// Default bound of jobs that wait for another attempt.
pub(crate) const DEFAULT_RETRY_CAPACITY: usize = 65_536;

/// Builds a [`Pool`]; made by [`Pool::builder`] or [`Builder::new`].
///
/// The types are those of the input and of the handler's error; they follow from the handler. A
/// function may return a builder without one, such as `fn policy() -> Builder<Url, Error>`, so that
/// tests run their handler under the policy of the program.
///
/// # Defaults
///
/// | option | default |
/// |---|---|
/// | [`workers`](Self::workers) | 10 |
/// | [`jobs_per_worker`](Self::jobs_per_worker) | 1 |
/// | [`queue_capacity`](Self::queue_capacity) | 1024 jobs |
/// | [`child_capacity`](Self::child_capacity) | 65,536 jobs |
/// | [`max_waiting`](Self::max_waiting) | no bound but the number of tasks that submit |
/// | [`rate_limit`](Self::rate_limit) | none |
/// | [`cost_by`](Self::cost_by) | each job costs one permit |
/// | [`key_by`](Self::key_by) | no keys |
/// | [`max_running_per_key`](Self::max_running_per_key), [`rate_limit_per_key`](Self::rate_limit_per_key) | none |
/// | [`aging`](Self::aging) | none: priorities are strict |
/// | [`retry`](Self::retry) | none: one attempt |
/// | [`retry_capacity`](Self::retry_capacity) | 65,536 jobs |
/// | [`attempt_timeout`](Self::attempt_timeout), [`job_timeout`](Self::job_timeout) | none |
/// | [`timings`](Self::timings) | off |
/// | [`slow_poll`](Self::slow_poll), [`observe`](Self::observe) | none |
/// | [`timer`](Self::timer) | async-io's, with the feature `async-io`; else it must be given |
///
/// # The order of stages
///
/// ```text
///  job time-out ┌─────────────────────────────────────────────────────────────────────────────────────┐
///               │ queue ─► delay ─► turn: priority, key, aging ─► gate: pause, worker, rate, key's rate │
///               │   ▲                                                  │                              │
///               │   └── retry: not before ◄── decision ◄─ handler ◄── panic guard ◄── attempt time-out│
///               └─────────────────────────────────────────────────────────────────────────────────────┘
/// ```
///
/// The job time-out covers all stages. A job leaves the queue when it is its turn *and* all gates
/// are open; only then does it consume rate permits and occupy a worker. Each attempt passes the
/// gates again.
///
/// # What is bounded by what
///
/// With `W` slots (`workers × jobs_per_worker`), `Q` the queue capacity, `M` the number of maps,
/// `C` the child capacity and `R` the retry capacity, a pool holds at most `Q + M + C + R + W` jobs
/// without an outcome, and:
///
/// | jobs that are | at most |
/// |---|---|
/// | running | `W`, or fewer with [`set_workers`](crate::Pool::set_workers) |
/// | running, of one key | [`max_running_per_key`](Self::max_running_per_key) |
/// | queued or delayed before their first attempt, from outside | `Q`, permits included, and one more of each map; a map that is alone stays within `Q` |
/// | queued or delayed before their first attempt, added by running jobs | `C` |
/// | queued or delayed between two attempts | `R` |
/// | queued, delayed, running or unread, of one map or group | its `window`, by default `Q + W`, and `C` more that running jobs add |
///
/// For example, with the defaults (`W` = 10, `Q` = 1024, `C` = `R` = 65,536):
///
/// | composition | queued | delayed | running | unread |
/// |---|---|---|---|---|
/// | handles, nothing else | 1024 | 0 | 10 | one result a handle that is kept |
/// | one map | 1024 | 0 | 10 | 1034, queued and running included |
/// | one map with retry | 1034 | 1034 | 10 | 1034, queued, delayed and running included |
/// | handles with retry | 66,560 | 65,536 | 10 | one result a handle |
/// | handles with delays | 1024, delayed included | 1024 | 10 | one result a handle |
/// | a map whose jobs add jobs | 66,560 | 0 | 10 | 66,570 |
/// | any of them with a rate limit or keys | the same: what waits for a permit or its turn is queued | the same | 10 at most | the same |
#[must_use = "a builder does nothing until a handler is given"]
pub struct Builder<In, E> {
    workers: usize,
    jobs_per_worker: usize,
    queue_capacity: usize,
    child_capacity: usize,
    max_waiting: usize,
    limits: TimeLimits,
    timings: bool,
    slow_poll: Option<Duration>,
    observer: Option<Arc<dyn Observer>>,
    timer: Option<Arc<dyn Timer>>,
    policy: SchedulePolicy,
    key_by: Option<Arc<KeyFn<In>>>,
    cost_by: Option<Arc<CostFn<In>>>,
    retry: Option<(Retry<E>, fn(&In) -> In)>,
    retry_capacity: usize,
}

impl<In, E> Clone for Builder<In, E> {
    fn clone(&self) -> Self {
        Self {
            observer: self.observer.clone(),
            timer: self.timer.clone(),
            key_by: self.key_by.clone(),
            cost_by: self.cost_by.clone(),
            retry: self.retry.clone(),
            ..*self
        }
    }
}

impl<In, E> Default for Builder<In, E> {
    fn default() -> Self {
        Self::new()
    }
}

impl Pool<(), (), ()> {
    /// Starts to build a pool, of any input, value and error.
    ///
    /// It is called on `Pool` without types, which follow from the handler. Where they have to be
    /// named, use [`Builder::<In, E>::new`](Builder::new).
    pub fn builder<In, E>() -> Builder<In, E> {
        Builder::new()
    }
}

impl<In, E> Builder<In, E> {
    /// Starts to build a pool, as [`Pool::builder`] does.
    pub fn new() -> Self {
        Self {
            workers: DEFAULT_WORKERS,
            jobs_per_worker: 1,
            queue_capacity: DEFAULT_QUEUE_CAPACITY,
            child_capacity: DEFAULT_CHILD_CAPACITY,
            max_waiting: usize::MAX,
            limits: TimeLimits {
                attempt: None,
                job: None,
            },
            timings: false,
            slow_poll: None,
            observer: None,
            timer: default_timer(),
            policy: SchedulePolicy::default(),
            key_by: None,
            cost_by: None,
            retry: None,
            retry_capacity: DEFAULT_RETRY_CAPACITY,
        }
    }

    /// Sets how many workers there are: how many jobs run at once, at most, times
    /// [`jobs_per_worker`](Self::jobs_per_worker).
    ///
    /// A worker is a future, not a thread; a thousand are as good as ten.
    ///
    /// # Panics
    ///
    /// If `count` is 0; the methods that build panic if there are more workers than memory can
    /// hold.
    #[doc(alias("concurrency", "max_concurrent", "semaphore"))]
    #[track_caller]
    pub const fn workers(mut self, count: usize) -> Self {
        assert!(count > 0, "workers must be at least 1, got 0");
        self.workers = count;
        self
    }

    /// Sets how many jobs a worker runs at once, in slots of its own; 1 by default.
    ///
    /// With one slot, each running job is a task of the executor: a job that blocks its thread does
    /// not delay one that can run on another thread. With many, the worker polls its jobs itself,
    /// which suits great numbers of jobs that mostly wait; jobs that share a worker share a thread.
    /// A worker polls each of its slots about once, and takes at most 256 steps, before it yields
    /// to the executor.
    ///
    /// The bound is `workers × jobs_per_worker`, kept exactly. The pool's state takes about a
    /// hundred bytes for each slot that was used, or whose neighbours were, and less than one for
    /// any other; the future of its job takes memory from its first use on, as long as the worker
    /// lives.
    ///
    /// # Panics
    ///
    /// If `count` is 0; the methods that build panic if `workers × jobs_per_worker` is more than
    /// memory can hold. Handlers with a state have one slot for it:
    /// [`build_with_state`](Self::build_with_state) panics with more.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool};
    /// use futures_lite::future;
    ///
    /// let clock = ManualTimer::new();
    /// let sleepy = clock.clone();
    /// let (pool, workers) = Pool::builder().workers(1).jobs_per_worker(100).timer(clock.clone()).build(move |n: u32| {
    ///     let sleep = sleepy.sleep(std::time::Duration::from_secs(1));
    ///     async move {
    ///         sleep.await;
    ///         Ok::<_, ()>(n)
    ///     }
    /// });
    /// // One worker, one second for a hundred jobs that sleep for one.
    /// let all = pool.map(0..100).try_collect::<Vec<_>>();
    /// assert_eq!(future::block_on(clock.run(workers.drive(all))), Ok((0..100).collect()));
    /// assert_eq!(clock.elapsed().as_secs(), 1);
    /// ```
    #[track_caller]
    pub const fn jobs_per_worker(mut self, count: usize) -> Self {
        assert!(count > 0, "jobs_per_worker must be at least 1, got 0");
        self.jobs_per_worker = count;
        self
    }

    /// Sets how many jobs from outside may wait for a worker. Beyond that, each [`Map`](crate::Map)
    /// may have one job in the queue, so that it makes progress whatever fills the queue; a map
    /// that is alone stays within the capacity.
    ///
    /// A small queue pushes back early. A queue near the number of workers makes a worker or a
    /// submitter sleep and wake for every job, which costs more than anything else here; leave it
    /// large where jobs are small.
    ///
    /// # Panics
    ///
    /// If `jobs` is 0.
    #[track_caller]
    pub const fn queue_capacity(mut self, jobs: usize) -> Self {
        assert!(jobs > 0, "queue_capacity must be at least 1, got 0");
        self.queue_capacity = jobs;
        self
    }

    /// Sets how many jobs that running jobs have added may wait for a worker. With zero, running
    /// jobs cannot add any.
    ///
    /// They are counted apart from [`queue_capacity`](Self::queue_capacity), so that a running job
    /// never waits for room that only it could make.
    pub const fn child_capacity(mut self, jobs: usize) -> Self {
        self.child_capacity = jobs;
        self
    }

    /// Bounds how many callers of [`submit`](Pool::submit) and [`reserve`](Pool::reserve) wait for
    /// room at once. Further callers get [`SubmitError::Overloaded`]. With zero, none waits. Maps
    /// are not counted.
    ///
    /// A service that answers "try again later" has two ways to refuse:
    /// [`try_submit`](Pool::try_submit), which fails with [`SubmitError::Full`] as soon as the
    /// queue is full, or this bound with `submit`.
    ///
    /// [`SubmitError::Full`]: crate::SubmitError::Full
    /// [`SubmitError::Overloaded`]: crate::SubmitError::Overloaded
    pub const fn max_waiting(mut self, submitters: usize) -> Self {
        self.max_waiting = submitters;
        self
    }

    // ---- when jobs start ----

    /// Bounds how often jobs start; see [`RateLimit`]. Jobs wait for permits in their order: none
    /// overtakes the job whose turn it is, even at a smaller cost.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool, RateLimit};
    /// use futures_lite::future;
    /// use std::time::Duration;
    ///
    /// let clock = ManualTimer::new();
    /// let (pool, workers) = Pool::builder()
    ///     .workers(10)
    ///     .rate_limit(RateLimit::per_second(2))
    ///     .timer(clock.clone())
    ///     .build(|n: u32| async move { Ok::<_, ()>(n) });
    /// future::block_on(clock.run(workers.drive(pool.map(0..3).for_each(drop))));
    /// assert_eq!(clock.elapsed(), Duration::from_secs(1));
    /// ```
    #[doc(alias("throttle", "interval_cap", "debounce"))]
    pub const fn rate_limit(mut self, limit: RateLimit) -> Self {
        self.policy.rate = Some(limit);
        self
    }

    /// Sets how many permits of each rate limit a job takes, by its input; without this, one. With
    /// zero, it takes none.
    ///
    /// The cost counts for rates only: it does not bound the total cost of the jobs that run at
    /// once, such as their memory.
    ///
    /// A job that costs more than a limit ever allows at once (its burst, or the permits of its
    /// window) is not queued: it ends at once as
    /// [`CostExceedsLimit`](crate::JobError::CostExceedsLimit). The closure is called once a job,
    /// by the code that submits it; if it panics, the job ends as
    /// [`Panicked`](crate::JobError::Panicked).
    pub fn cost_by(mut self, cost: impl Fn(&In) -> u32 + Send + Sync + 'static) -> Self {
        self.cost_by = Some(Arc::new(cost));
        self
    }

    /// Sets which jobs belong together, such as requests to one host, by their inputs. Jobs of one
    /// key start in their order; of several keys whose next jobs are of equal priority, each starts
    /// one in turn. So a key with many jobs, or one that has reached its limit, does not hold up
    /// the others.
    ///
    /// A key takes memory until it has no more jobs and its rate limit has all its permits back.
    /// The closure is called as that of [`cost_by`](Self::cost_by).
    ///
    /// The closure returns a value that is not borrowed from the input. For a key that is part of
    /// the input, make a [`Key`] of it: `|request: &Request| Key::from(&request.host)`.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool};
    /// use futures_lite::future;
    /// use std::cell::RefCell;
    ///
    /// let order = RefCell::new(Vec::new());
    /// let (pool, workers) = Pool::builder()
    ///     .workers(1)
    ///     .key_by(|(host, _): &(&'static str, u32)| *host)
    ///     .timer(ManualTimer::new())
    ///     .build(|(host, page): (&'static str, u32)| {
    ///         order.borrow_mut().push(format!("{host}{page}"));
    ///         async { Ok::<_, ()>(()) }
    ///     });
    /// let pages = [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2)];
    /// future::block_on(workers.drive(pool.map(pages).for_each(drop)));
    /// assert_eq!(*order.borrow(), ["a1", "b1", "a2", "b2", "a3"]);
    /// ```
    #[doc(alias("group_by", "partition_by"))]
    pub fn key_by<K: Into<Key>>(mut self, key: impl Fn(&In) -> K + Send + Sync + 'static) -> Self {
        self.key_by = Some(Arc::new(move |input| key(input).into()));
        self
    }

    /// Bounds how many jobs of one key run at once. With 1, the jobs of a key run one after
    /// another, in their order; a job that waits for another attempt lets the next one go first.
    ///
    /// # Panics
    ///
    /// If `count` is 0. When the pool is built, if it has no [`key_by`](Self::key_by).
    #[doc(alias("concurrency_per_key"))]
    #[track_caller]
    pub const fn max_running_per_key(mut self, count: usize) -> Self {
        assert!(count > 0, "max_running_per_key must be at least 1, got 0");
        self.policy.lanes.max_running = Some(count);
        self
    }

    /// Bounds how often jobs of one key start; each key has a limit of its own.
    ///
    /// # Panics
    ///
    /// When the pool is built, if it has no [`key_by`](Self::key_by).
    pub const fn rate_limit_per_key(mut self, limit: RateLimit) -> Self {
        self.policy.lanes.limit = Some(limit);
        self
    }

    /// Enables priority aging: a waiting job gains one [priority](crate::Job::priority) level per
    /// `step`. So a job of priority `p` that waits since time `t` starts before every job of its
    /// key of priority `q` that comes at `t + (q - p) × step` or later; a job of another key and
    /// the same rank takes turns with it.
    ///
    /// Without this, priorities are strict, and a steady stream of urgent jobs keeps others waiting
    /// forever.
    ///
    /// # Panics
    ///
    /// If `step` is zero.
    #[track_caller]
    pub const fn aging(mut self, step: Duration) -> Self {
        assert!(
            !step.is_zero(),
            "the step of aging must be longer than 0, got 0ns"
        );
        self.policy.aging = Some(step);
        self
    }

    // ---- retry ----

    /// Tries failed jobs again; see [`Retry`]. Before each attempt that may be followed by another,
    /// the input is cloned.
    #[doc(alias("backoff"))]
    pub fn retry(mut self, retry: Retry<E>) -> Self
    where
        In: Clone,
    {
        self.retry = Some((retry, In::clone));
        self
    }

    /// Sets how many jobs may wait for another attempt. While so many do, a failure is final.
    pub const fn retry_capacity(mut self, jobs: usize) -> Self {
        self.retry_capacity = jobs;
        self
    }

    // ---- limits of time ----

    /// Limits each attempt, counted from its start. When it passes, the handler's future is
    /// dropped: the work stops at its next await. A handler that does not yield cannot be stopped.
    ///
    /// # Panics
    ///
    /// If `limit` is zero.
    #[doc(alias("deadline"))]
    #[track_caller]
    pub const fn attempt_timeout(mut self, limit: Duration) -> Self {
        assert!(
            !limit.is_zero(),
            "attempt_timeout must be longer than 0, got 0ns"
        );
        self.limits.attempt = Some(limit);
        self
    }

    /// Limits each job, counted from its acceptance: its time in the queue is included, a wait for
    /// room in the queue is not.
    ///
    /// A job whose time passes while it is queued never starts, and has its outcome at that time,
    /// even if all workers are busy. Nor is there another attempt if it would start after that.
    ///
    /// # Panics
    ///
    /// If `limit` is zero.
    #[track_caller]
    pub const fn job_timeout(mut self, limit: Duration) -> Self {
        assert!(
            !limit.is_zero(),
            "job_timeout must be longer than 0, got 0ns"
        );
        self.limits.job = Some(limit);
        self
    }

    /// Sets whether completions have [`queued_for`](crate::Completion::queued_for) and
    /// [`ran_for`](crate::Completion::ran_for). It costs three readings of the clock and an
    /// allocation a job.
    pub const fn timings(mut self, measure: bool) -> Self {
        self.timings = measure;
        self
    }

    /// Reports each poll of a handler that takes longer than `bound`, as
    /// [`Event::SlowPoll`](crate::Event::SlowPoll): a job that blocks its thread also blocks its
    /// time-outs, and all other tasks there. It costs two readings of the clock a poll. Without an
    /// [observer](Self::observe) it reports nothing.
    ///
    /// Blocking work belongs on threads of its own: `blocking::unblock(..)` makes a future of it.
    pub const fn slow_poll(mut self, bound: Duration) -> Self {
        self.slow_poll = Some(bound);
        self
    }

    /// Passes every event of the pool to the observer; see [`Observer`].
    pub fn observe(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Sets the clock of time-outs, delays, rates, timings and grace periods. Tests use a
    /// [`ManualTimer`](crate::ManualTimer).
    #[doc(alias("clock"))]
    pub fn timer(mut self, timer: impl Timer) -> Self {
        self.timer = Some(Arc::new(timer));
        self
    }

    /// Makes a pool and its workers for a handler; the caller decides where they are polled.
    ///
    /// # Panics
    ///
    /// If there is no timer: without the feature `async-io`, [`timer`](Self::timer) has to be
    /// called. If `workers × jobs_per_worker` is more than memory can hold. If a limit for each key
    /// is set without [`key_by`](Self::key_by).
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
    pub fn build<T, F, Fut>(self, handler: F) -> (Pool<In, T, E>, Workers<In, T, E, Plain<F>>)
    where
        F: Fn(In) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let handler = Plain::new(handler);
        self.build_of(|_| handler.share())
    }

    /// Makes a pool whose jobs may add jobs: the handler also gets a [`Submitter`].
    ///
    /// # Panics
    ///
    /// As [`build`](Self::build).
    #[track_caller]
    pub fn build_with_submitter<T, F, Fut>(
        self,
        handler: F,
    ) -> (Pool<In, T, E>, Workers<In, T, E, WithSubmitter<F, T, E>>)
    where
        F: Fn(In, Submitter<In, T, E>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let handler = WithSubmitter::new(handler);
        self.build_of(|_| handler.share())
    }

    /// Makes a pool whose workers each have a state of their own, such as a connection: `init`
    /// makes it, given the number of the worker, before the worker's first job, and again after a
    /// job of that worker panicked, even in a drop.
    ///
    /// After a time-out or a cancellation the state is as the handler left it at its last await: a
    /// connection may be half-way through a request.
    ///
    /// # Panics
    ///
    /// As [`build`](Self::build); and if [`jobs_per_worker`](Self::jobs_per_worker) is not 1.
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
    pub fn build_with_state<T, S, Init, F>(
        self,
        init: Init,
        handler: F,
    ) -> (Pool<In, T, E>, Workers<In, T, E, WithState<Init, F, S>>)
    where
        Init: Fn(usize) -> S,
        F: AsyncFn(&mut S, In) -> Result<T, E>,
    {
        assert!(
            self.jobs_per_worker == 1,
            "jobs_per_worker must be 1 for a handler with state, got {}",
            self.jobs_per_worker
        );
        let parts = Arc::new((init, handler));
        self.build_of(|worker| WithState::new(Arc::clone(&parts), worker))
    }

    /// Makes a pool and spawns its workers on an executor.
    ///
    /// # Panics
    ///
    /// As [`build`](Self::build).
    #[track_caller]
    pub fn spawn_on<T, F, Fut>(self, executor: &(impl Spawn + ?Sized), handler: F) -> Pool<In, T, E>
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
    /// That executor has **one** thread unless the environment variable `SMOL_THREADS` names
    /// another number: handlers that compute take turns there. See
    /// [`SmolGlobal`](crate::rt::SmolGlobal).
    ///
    /// # Panics
    ///
    /// As [`build`](Self::build).
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::Pool;
    /// use std::convert::Infallible;
    ///
    /// let pool = Pool::builder().workers(2).start(|n: u32| async move { Ok::<_, Infallible>(n + 1) });
    /// let handle = pool.try_submit(1).unwrap();
    /// assert_eq!(smol::block_on(handle), Ok(2));
    /// ```
    ///
    /// A handler that captures a value clones it for each job; an `async move` closure would move
    /// it into the first one:
    ///
    /// ```
    /// use brigade::Pool;
    /// use std::convert::Infallible;
    /// use std::sync::Arc;
    ///
    /// let client = Arc::new("client".to_owned());
    /// let pool = Pool::builder().workers(2).start(move |path: &'static str| {
    ///     let client = client.clone();
    ///     async move { Ok::<_, Infallible>(format!("{client} got {path}")) }
    /// });
    /// let handle = pool.try_submit("/").unwrap();
    /// assert_eq!(smol::block_on(handle).unwrap(), "client got /");
    /// ```
    #[cfg(feature = "smol")]
    #[track_caller]
    pub fn start<T, F, Fut>(self, handler: F) -> Pool<In, T, E>
    where
        In: Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
        F: Fn(In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.spawn_on(&crate::rt::SmolGlobal, handler)
    }

    /// Makes a pool and its workers, each with the handler that `make_handler` makes for its
    /// number.
    #[track_caller]
    fn build_of<T, C: RunHandler<In, Value = T, Error = E>>(
        self,
        make_handler: impl FnMut(usize) -> C,
    ) -> (Pool<In, T, E>, Workers<In, T, E, C>) {
        let (count, slots_per_worker) = (self.workers, self.jobs_per_worker);
        let made = self.make_shared(C::WANTS_SUBMITTER).and_then(|shared| {
            let workers = Workers::new(&shared, make_handler)?;
            Ok((Pool::new(shared), workers))
        });
        match made {
            Ok(made) => made,
            Err(_) => {
                panic!(
                    "workers × jobs_per_worker must be no more than memory can hold, got {count} × {slots_per_worker}"
                )
            }
        }
    }

    #[track_caller]
    fn make_shared<T>(self, adds_jobs: bool) -> Result<Arc<Shared<In, T, E>>, TryReserveError> {
        let Some(timer) = self.timer else {
            panic!("timer must be set without the feature `async-io`, got none");
        };
        let SchedulePolicy { rate, lanes, aging } = self.policy;
        if self.key_by.is_none() {
            assert!(
                lanes.max_running.is_none(),
                "max_running_per_key needs key_by, got none"
            );
            assert!(
                lanes.limit.is_none(),
                "rate_limit_per_key needs key_by, got none"
            );
        }
        let is_scheduled = rate.is_some()
            || aging.is_some()
            || self.key_by.is_some()
            || self.cost_by.is_some()
            || self.retry.is_some()
            || self.limits.job.is_some();
        assert!(
            self.workers.checked_mul(self.jobs_per_worker).is_some(),
            "workers × jobs_per_worker must be a number, got {} × {}",
            self.workers,
            self.jobs_per_worker
        );
        Shared::new(Config {
            workers: self.workers,
            jobs_per_worker: self.jobs_per_worker,
            queue_capacity: self.queue_capacity,
            child_capacity: self.child_capacity,
            max_waiting: self.max_waiting,
            limits: self.limits,
            timer,
            observer: self.observer,
            timings: self.timings,
            slow_poll: self.slow_poll,
            retry: self.retry.map(|(policy, copy)| RetryConfig {
                policy: policy.seeded(),
                copy,
                capacity: self.retry_capacity,
            }),
            key_by: self.key_by,
            cost_by: self.cost_by,
            policy: self.policy,
            adds_jobs,
            is_scheduled,
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

impl<In, E> fmt::Debug for Builder<In, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("workers", &self.workers)
            .field("jobs_per_worker", &self.jobs_per_worker)
            .field("queue_capacity", &self.queue_capacity)
            .field("child_capacity", &self.child_capacity)
            .field("policy", &self.policy)
            .field("attempt_timeout", &self.limits.attempt)
            .field("job_timeout", &self.limits.job)
            .field("timings", &self.timings)
            .field("slow_poll", &self.slow_poll)
            .finish_non_exhaustive()
    }
}
