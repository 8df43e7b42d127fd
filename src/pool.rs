//! The handle of a pool: submits inputs one by one, by map or by group, and closes, drains and
//! aborts the pool. It runs nothing itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use futures_lite::{future, stream};

use crate::error::SubmitError;
use crate::event::Stats;
use crate::job::current;
use crate::queue::admission::PoolState;
use crate::report::{Report, Unhandled};
use crate::shared::{PoolRef, Shared};
use crate::stream::batches::Batches;
use crate::stream::group::Group;
use crate::stream::map::Map;
use crate::stream::source::{Inputs, TryInputs};
use crate::submit::{Job, JobHandle, Permit, submit_now};
use crate::sync::ignore_poison;

/// A pool of workers that run one async function over many inputs.
///
/// This is a handle: clones share one pool, and so do its [`Map`]s and [`Group`]s. **When the last
/// of them is dropped, the pool is closed**: what was accepted is still done, then the workers end.
///
/// `In` is what a job is made of, `T` what it yields, `E` how it fails. The handler's type is not
/// part of the pool's, so a pool can be a field of a struct, or have a short name: `type Fetches =
/// Pool<Url, Page, FetchError>`.
///
/// # Comparison to other ways
///
/// * `buffer_unordered` runs the futures inside the consumer's task: they stand still while it does
///   something else, and a panic in one takes the others along. It needs no workers and borrows
///   freely; take it for a small bounded loop.
/// * One spawned task a job with a semaphore costs an allocation and a wake-up a job. Take it where
///   jobs have nothing in common.
/// * A pool of threads is for work that computes; these workers are for work that waits.
///
/// # Examples
///
/// ```
/// use brigade::{ManualTimer, Pool};
/// use futures_lite::future;
///
/// struct Service {
///     pool: Pool<String, usize, std::io::Error>,
/// }
///
/// let (pool, workers) =
///     Pool::builder().workers(3).timer(ManualTimer::new()).build(|name: String| async move { Ok(name.len()) });
/// let service = Service { pool };
/// let length = future::block_on(workers.drive(async {
///     let handle = service.pool.submit("seven".into()).await.unwrap();
///     handle.await.unwrap()
/// }));
/// assert_eq!(length, 5);
/// ```
#[must_use = "dropping the last handle closes the pool"]
pub struct Pool<In, T, E> {
    shared: PoolRef<In, T, E>,
}

impl<In, T, E> Pool<In, T, E> {
    pub(crate) const fn new(shared: Arc<Shared<In, T, E>>) -> Self {
        Self {
            shared: PoolRef::new(shared),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<In, T, E>> {
        &self.shared
    }

    // ---- one ----

    /// Submits a job; waits for room in the queue. Waiting submissions get room in the order in
    /// which they came.
    ///
    /// Jobs that one task submits start in their order, as far as workers on one thread are
    /// concerned. Two tasks that submit at once may see their jobs in either order, and a worker on
    /// another thread may start a job before older ones that a busy worker has already taken from
    /// the queue, which are 64 at most.
    ///
    /// # Errors
    ///
    /// [`SubmitError::Closed`] once the pool takes no more jobs; [`SubmitError::WouldDeadlock`]
    /// inside a job of this pool, if no job could ever start again (see
    /// [waiting inside a job](crate::JobHandle#waiting-inside-a-job));
    /// [`SubmitError::Overloaded`] if as many submissions wait for room already as
    /// [`max_waiting`](crate::Builder::max_waiting) allows. All give the input back.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, nothing was accepted, and the input is dropped with it; with
    /// [`reserve`](Self::reserve) the input stays outside the future.
    #[doc(alias("add", "spawn", "execute", "enqueue"))]
    pub async fn submit(&self, input: In) -> Result<JobHandle<In, T, E>, SubmitError<In>> {
        let input = match self.try_submit(input) {
            Err(SubmitError::Full(input)) => input,
            decided => return decided,
        };
        match self.reserve().await {
            Ok(permit) => permit.submit(input),
            Err(refused) => Err(refused.map(|()| input)),
        }
    }

    /// Submits a job without waiting.
    ///
    /// # Errors
    ///
    /// [`SubmitError::Full`] if there is no room, or other submissions wait for it;
    /// [`SubmitError::Closed`] once the pool takes no more jobs. Both give the input back.
    pub fn try_submit(&self, input: In) -> Result<JobHandle<In, T, E>, SubmitError<In>> {
        submit_now(&self.shared, None, None, input)
    }

    /// Gives a job options of its own before it is submitted.
    pub fn job(&self, input: In) -> Job<'_, In, T, E> {
        Job::new(&self.shared, input)
    }

    /// Waits for room in the queue and returns a permit to submit one job.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit), with nothing to give back.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, nothing is reserved.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool};
    /// use futures_lite::future;
    ///
    /// let (pool, workers) = Pool::builder()
    ///     .workers(1)
    ///     .queue_capacity(1)
    ///     .timer(ManualTimer::new())
    ///     .build(|n: u32| async move { Ok::<_, ()>(n) });
    /// let permit = future::block_on(pool.reserve()).unwrap();
    /// assert!(pool.try_submit(1).unwrap_err().is_full());
    /// let handle = permit.submit(2).unwrap();
    /// assert_eq!(future::block_on(workers.drive(handle)), Ok(2));
    /// ```
    #[doc(alias("acquire", "semaphore"))]
    pub async fn reserve(&self) -> Result<Permit<In, T, E>, SubmitError<()>> {
        Permit::reserve(&self.shared).await
    }

    /// Returns a permit to submit one job, without waiting.
    ///
    /// # Errors
    ///
    /// As [`try_submit`](Self::try_submit), with nothing to give back.
    pub fn try_reserve(&self) -> Result<Permit<In, T, E>, SubmitError<()>> {
        let reserved = self.shared.lock().admission.reserve();
        match reserved {
            Ok(()) => Ok(Permit::new(Arc::clone(&self.shared))),
            Err(refusal) => Err(refusal.into_error(())),
        }
    }

    // ---- many ----

    /// Makes a job of each input, and a stream of their completions. Inputs are pulled as there is
    /// room, so the iterator may be endless.
    ///
    /// On one thread, jobs start in the order of their inputs. A worker on another thread may start
    /// a job before older ones that a busy worker has already taken from the queue, which are 64 at
    /// most; [`ordered`](Map::ordered) restores the order of the completions.
    #[doc(alias("add_all", "buffer_unordered", "join_all", "for_each_concurrent"))]
    pub fn map<I: IntoIterator<Item = In>>(
        &self,
        inputs: I,
    ) -> Map<In, T, E, Inputs<stream::Iter<I::IntoIter>>> {
        self.map_stream(stream::iter(inputs))
    }

    /// Makes a job of each item of a stream; otherwise as [`map`](Self::map).
    pub fn map_stream<S: Stream<Item = In>>(&self, inputs: S) -> Map<In, T, E, Inputs<S>> {
        Map::new(
            self.shared.clone(),
            Inputs::new(inputs),
            self.default_window(),
        )
    }

    /// Makes a job of each input of an iterator that may fail.
    ///
    /// After an error of the source, no more is pulled. What was accepted is done and yielded; the
    /// error comes last, once, as `Err`, while a job's own failure is in
    /// [`Completion::result`](crate::Completion::result).
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool};
    /// use futures_lite::{StreamExt, future};
    ///
    /// let (pool, workers) =
    ///     Pool::builder().workers(1).timer(ManualTimer::new()).build(|n: u32| async move { Ok::<_, ()>(n) });
    /// let source = [Ok(1), Err("line 2 is not a number"), Ok(3)];
    /// let items = future::block_on(workers.drive(pool.try_map(source).collect::<Vec<_>>()));
    /// assert_eq!(items.len(), 2);
    /// assert_eq!(items[0].as_ref().unwrap().result, Ok(1));
    /// assert_eq!(items[1], Err("line 2 is not a number"));
    /// ```
    pub fn try_map<F, I: IntoIterator<Item = Result<In, F>>>(
        &self,
        inputs: I,
    ) -> Map<In, T, E, TryInputs<stream::Iter<I::IntoIter>, F>> {
        self.try_map_stream(stream::iter(inputs))
    }

    /// Makes a job of each item of a stream that may fail; otherwise as [`try_map`](Self::try_map).
    pub fn try_map_stream<F, S: Stream<Item = Result<In, F>>>(
        &self,
        inputs: S,
    ) -> Map<In, T, E, TryInputs<S, F>> {
        Map::new(
            self.shared.clone(),
            TryInputs::new(inputs),
            self.default_window(),
        )
    }

    /// Makes a group: jobs that are submitted one by one and read as one stream of completions.
    #[doc(alias("join_set", "scope"))]
    pub fn group(&self) -> Group<In, T, E> {
        Group::new(self.shared.clone(), self.default_window())
    }

    /// Cuts a stream into lists of at most `max` items. While it is polled, no list waits longer
    /// than `wait`, counted from when its first item came; a map with a full window does not poll
    /// its source. Time is that of the pool's timer.
    ///
    /// # Panics
    ///
    /// If `max` is 0.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool};
    /// use futures_lite::{future, stream};
    /// use std::time::Duration;
    ///
    /// let (pool, workers) = Pool::builder()
    ///     .workers(2)
    ///     .timer(ManualTimer::new())
    ///     .build(|batch: Vec<u32>| async move { Ok::<_, ()>(batch.len()) });
    /// let batches = pool.batches(stream::iter(0..7), 3, Duration::from_secs(1));
    /// let sizes = future::block_on(workers.drive(pool.map_stream(batches).try_collect::<Vec<_>>()));
    /// assert_eq!(sizes, Ok(vec![3, 3, 1]));
    /// ```
    #[doc(alias("chunks_timeout"))]
    #[track_caller]
    pub fn batches<S: Stream>(&self, source: S, max: usize, wait: Duration) -> Batches<S> {
        Batches::new(source, max, wait, Arc::clone(&self.shared.timer))
    }

    fn default_window(&self) -> usize {
        let synced = self.shared.lock();
        synced
            .admission
            .capacity()
            .saturating_add(self.shared.slot_count())
    }

    // ---- control ----

    /// Returns the statistics of the pool at this instant.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Changes the time limit of each attempt, for jobs that start from now on and have no limit of
    /// their own. `None`: no limit.
    ///
    /// # Panics
    ///
    /// If `limit` is zero.
    #[track_caller]
    pub fn set_attempt_timeout(&self, limit: Option<Duration>) {
        assert!(
            limit.is_none_or(|limit| !limit.is_zero()),
            "attempt_timeout must be longer than 0, got 0ns"
        );
        self.shared.lock_exclusive().limits.attempt = limit;
    }

    /// Sets a callback for errors that no handle or stream will deliver: from detached jobs, jobs
    /// they add, and handles dropped unread. It is called once per error.
    ///
    /// It is also called for such a job that an abort cancels, as at the end of
    /// [`drain_within`](Self::drain_within): with [`Cancelled`](crate::JobError::Cancelled), though
    /// the [`Report`] names the job. A callback that counts failures should ignore these.
    ///
    /// The closure is called with no lock held: in a worker, or in a task that calls the pool at
    /// that moment, to submit, cancel, abort, change a limit, or drop a handle or the last worker.
    /// A panic in it is contained and ignored. Another callback replaces this one.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{JobError, ManualTimer, Pool};
    /// use futures_lite::future;
    /// use std::sync::{Arc, Mutex};
    ///
    /// let (pool, workers) =
    ///     Pool::builder().workers(1).timer(ManualTimer::new()).build(|n: u32| async move { Err::<(), _>(n) });
    /// let seen = Arc::new(Mutex::new(Vec::new()));
    /// let log = Arc::clone(&seen);
    /// pool.on_unhandled(move |failure| log.lock().unwrap().push(failure.error));
    /// pool.try_submit(7).unwrap().detach();
    /// future::block_on(workers.drive(pool.wait_idle()));
    /// assert_eq!(*seen.lock().unwrap(), [JobError::Failed(7)]);
    /// ```
    pub fn on_unhandled(&self, handler: impl Fn(Unhandled<E>) + Send + Sync + 'static) {
        let handler: Option<Arc<crate::shared::UnhandledFn<E>>> = Some(Arc::new(handler));
        let mut current = ignore_poison(self.shared.unhandled.lock());
        let old = std::mem::replace(&mut *current, handler);
        drop(current);
        drop(old);
    }

    /// Waits until no job is queued, delayed or running.
    ///
    /// # Panics
    ///
    /// Inside a job of this pool, if it had to wait: the job would wait for itself. The panic is
    /// contained like any other panic of the job.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    #[doc(alias("on_idle", "idle", "join", "flush"))]
    pub async fn wait_idle(&self) {
        self.wait_until_idle("wait_idle").await;
    }

    /// Takes no more jobs from outside. Running jobs may still add some; accepted jobs are done,
    /// and then the workers end.
    ///
    /// Closing a closed pool changes nothing. To refuse jobs from running jobs too, see
    /// [`seal`](Self::seal).
    pub fn close(&self) {
        self.shared.close(PoolState::Closed);
    }

    /// Takes no more jobs, not even from running jobs. Accepted jobs are done, and then the workers
    /// end.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool, Submitter};
    /// use futures_lite::future;
    ///
    /// let (pool, workers) = Pool::builder().workers(1).timer(ManualTimer::new()).build_with_submitter(
    ///     |n: u32, jobs: Submitter<u32, u32, ()>| async move {
    ///         if n < 3 {
    ///             let _ = jobs.add(n + 1);
    ///         }
    ///         Ok(n)
    ///     },
    /// );
    /// pool.try_submit(1).unwrap().detach();
    /// pool.seal();
    /// future::block_on(workers.drive(pool.drain()));
    /// assert_eq!(pool.stats().accepted, 1);
    /// ```
    pub fn seal(&self) {
        self.shared.close(PoolState::Sealed);
    }

    /// Whether the pool takes no more jobs from outside.
    pub fn is_closed(&self) -> bool {
        self.shared.lock().admission.pool_state() > PoolState::Open
    }

    /// [Closes](Self::close) the pool, and waits until all accepted jobs are done.
    ///
    /// Any number of tasks may call it, at any time.
    ///
    /// # Panics
    ///
    /// As [`wait_idle`](Self::wait_idle).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the pool closed, and changes nothing else.
    #[doc(alias("shutdown", "graceful", "finish"))]
    pub async fn drain(&self) {
        self.close();
        self.wait_until_idle("drain").await;
    }

    /// [Drains](Self::drain) the pool for as long as `grace`, counted from the first poll; then
    /// [aborts](Self::abort) it.
    ///
    /// It never takes longer than `grace`, even if the workers are not polled: interrupted attempts
    /// are dropped when their workers are polled next, and it does not wait for that;
    /// [`wait_idle`](Self::wait_idle) does. It does wait for a map that is pulling inputs at that
    /// moment, should its source block the thread.
    ///
    /// # Panics
    ///
    /// As [`wait_idle`](Self::wait_idle).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before `grace` has passed, the pool stays closed, and nothing is
    /// aborted.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool};
    /// use futures_lite::future;
    /// use std::time::Duration;
    ///
    /// let clock = ManualTimer::new();
    /// let (pool, workers) = Pool::builder()
    ///     .workers(1)
    ///     .timer(clock.clone())
    ///     .build(|_: u32| future::pending::<Result<(), ()>>());
    /// let handles = [pool.try_submit(1).unwrap(), pool.try_submit(2).unwrap()];
    /// let report = future::block_on(clock.run(workers.drive(pool.drain_within(Duration::from_secs(5)))));
    /// assert_eq!(report.interrupted[0].id, handles[0].id());
    /// assert_eq!(report.unstarted[0].input, 2);
    /// ```
    #[doc(alias("shutdown", "graceful", "shutdown_timeout"))]
    pub async fn drain_within(&self, grace: Duration) -> Report<In> {
        self.close();
        let deadline = self.shared.timer.now().checked_add(grace);
        let timer = &self.shared.timer;
        let is_drained = future::or(
            async {
                self.wait_until_idle("drain_within").await;
                true
            },
            async {
                match deadline {
                    Some(at) => timer.sleep_until(at).await,
                    None => future::pending().await,
                }
                false
            },
        )
        .await;
        if !is_drained {
            self.shared.begin_abort();
        }
        // Ends although workers are not polled: a worker that has taken a job without starting it
        // returns it within the same poll.
        self.shared.wait_returned().await;
        self.report()
    }

    /// Stops the pool: takes no more jobs, starts none, returns the inputs of all jobs that have
    /// not started, interrupts running jobs, and waits until their futures have been dropped. All
    /// these jobs end as [`Cancelled`](crate::JobError::Cancelled), with
    /// [`Aborted`](crate::CancelReason::Aborted) as the reason unless they were cancelled before.
    ///
    /// Finished jobs keep their outcome, and so do jobs that end while they are being interrupted;
    /// the report does not name these. Of several calls, one returns each input, and one names each
    /// interrupted job.
    ///
    /// It waits for the workers to be polled. Where they may not be, use
    /// `drain_within(Duration::ZERO)`, which does not wait for that.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the abort goes on; another call returns the report that this
    /// one would have returned.
    #[doc(alias("shutdown", "shutdown_now"))]
    pub async fn abort(&self) -> Report<In> {
        self.shared.begin_abort();
        self.shared.wait_idle().await;
        self.report()
    }

    fn report(&self) -> Report<In> {
        let (unstarted, interrupted) =
            (self.shared.take_returned(), self.shared.take_interrupted());
        Report {
            unstarted,
            interrupted,
            stats: self.stats(),
        }
    }

    /// Panics inside a job of this pool: a wait for the pool would wait for the job itself.
    pub(crate) fn assert_outside(&self, what: &str) {
        if let Some(job) = current::current_in(self.shared.identity()) {
            panic!(
                "{what} must not be awaited inside a job of the same pool, got job {}",
                job.id
            );
        }
    }

    async fn wait_until_idle(&self, what: &str) {
        if !self.shared.is_idle() {
            self.assert_outside(what);
            self.shared.wait_idle().await;
        }
    }
}

impl<In, T, E> Clone for Pool<In, T, E> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<In, T, E> fmt::Debug for Pool<In, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}
