//! Workers: they run jobs. A worker is a plain future, for any executor.
//!
//! In: jobs of the injector. Out: outcomes, and jobs that are queued again for a retry. It decides
//! neither which job may start nor whether a result is retried. While it waits, one of the workers
//! also drives the timer of the schedule.
//!
//! A plain map job of a batch passes through
//!
//! 1. the injector and the [local queue](local), by [`LocalWorker::refill`](local::LocalWorker);
//! 2. a slot of [`run`], which has a waker of the [`ready_list`];
//! 3. an [`attempt`] of the handler;
//! 4. the [`guard`], if the attempt waits or does not succeed, which completes the job;
//! 5. the [`buffer`], which delivers completions to the completion queue of the map.
//!
//! A worker whose handler has state runs one job at a time, without slots: [`stateful`].

pub(crate) mod attempt;
pub(crate) mod buffer;
pub(crate) mod guard;
mod local;
pub(crate) mod ready_list;
mod retry;
mod run;
mod span;
pub(crate) mod stateful;

use std::collections::TryReserveError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_executor::LocalExecutor;

use self::buffer::CompletionBuffer;
use self::guard::JobGuard;
use self::run::run_slots;
use self::stateful::run_stateful;
use crate::error::JobError;
use crate::event::Event;
use crate::handler::{Handler, Plain, WithState, WithSubmitter};
use crate::job::current::CurrentJob;
use crate::job::queued::QueuedJob;
use crate::queue::local::StartedJob;
use crate::rt::Spawn;
use crate::shared::Shared;
use crate::submit::Submitter;

/// After this many starts of jobs, polls of woken slots and looks for a job, a worker yields to its
/// executor.
const STEPS_PER_TURN: usize = 256;

/// The workers of a pool, for any executor; made by the `build` methods of
/// [`Builder`](crate::Builder).
///
/// [`Worker::run`] runs one worker, [`drive`](Self::drive) all of them in the caller's task.
/// Dropping a worker removes it from the pool. When the last one is dropped, the pool ends, and
/// accepted jobs are reported as [abandoned](JobError::Abandoned).
///
/// # Examples
///
/// Jobs that are not `Send`, on an executor of one thread:
///
/// ```
/// use async_executor::LocalExecutor;
/// use brigade::{ManualTimer, Pool};
/// use std::rc::Rc;
///
/// let local = LocalExecutor::new();
/// let (pool, workers) =
///     Pool::builder().workers(2).timer(ManualTimer::new()).build(|name: Rc<str>| async move { Ok::<_, ()>(name.len()) });
/// for worker in workers {
///     local.spawn(worker.run()).detach();
/// }
/// let handle = pool.try_submit(Rc::from("seven")).unwrap();
/// assert_eq!(futures_lite::future::block_on(local.run(handle)), Ok(5));
/// ```
///
/// A handler whose future is not `Send` cannot be spawned on an executor of many threads; the
/// compiler says so where it is spawned:
///
/// ```compile_fail,E0277
/// use brigade::{ManualTimer, Pool};
/// use std::rc::Rc;
///
/// let executor = async_executor::Executor::new();
/// Pool::builder().timer(ManualTimer::new()).spawn_on(&executor, |n: u32| async move {
///     let shared = Rc::new(n);
///     futures_lite::future::yield_now().await;
///     Ok::<_, ()>(*shared)
/// });
/// ```
#[must_use = "without workers no job runs"]
pub struct Workers<In, T, E, C> {
    workers: Vec<Worker<In, T, E, C>>,
}

impl<In, T, E, C: RunHandler<In, Value = T, Error = E>> Workers<In, T, E, C> {
    /// Fails if the memory for the workers cannot be allocated.
    pub(crate) fn new(
        shared: &Arc<Shared<In, T, E>>,
        mut make_handler: impl FnMut(usize) -> C,
    ) -> Result<Self, TryReserveError> {
        let (mut workers, count) = (Vec::new(), shared.lock().admission.workers());
        workers.try_reserve_exact(count)?;
        workers.extend((0..count).map(|worker| {
            let guard = WorkerGuard {
                shared: Arc::clone(shared),
                id: worker,
            };
            Worker {
                handler: make_handler(worker),
                guard,
            }
        }));
        Ok(Self { workers })
    }

    /// Runs all workers in the caller's task until `body` ends, and returns its output. Nothing is
    /// spawned, and nothing has to be `Send` or `'static`: handlers may borrow.
    ///
    /// When `body` ends, the workers are dropped and unfinished jobs are abandoned; to finish them,
    /// end the body with [`drain`](crate::Pool::drain).
    ///
    /// The future is not `Send`, whatever the handler is: it polls the workers on an executor of
    /// one thread. To run it on an executor of many threads, spawn the workers instead.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the workers.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool};
    ///
    /// let table = vec![10, 20, 30];
    /// let (pool, workers) = Pool::builder().workers(4).timer(ManualTimer::new()).build(|i: usize| {
    ///     let table = &table;
    ///     async move { table.get(i).copied().ok_or("no such row") }
    /// });
    /// let rows = futures_lite::future::block_on(workers.drive(pool.map(0..3).try_collect::<Vec<_>>()));
    /// assert_eq!(rows, Ok(vec![10, 20, 30]));
    /// ```
    pub async fn drive<B: Future>(self, body: B) -> B::Output {
        let executor = LocalExecutor::new();
        for worker in self {
            executor.spawn(worker.run()).detach();
        }
        executor.run(body).await
    }

    /// The number of workers.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Whether there are no workers. A builder makes at least one.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }
}

impl<In, T, E, F, Fut> Workers<In, T, E, Plain<F>>
where
    In: Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
    F: Fn(In) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
{
    /// Spawns each worker on the executor.
    ///
    /// Handlers with state have no such method, since no bound can express that their futures are
    /// `Send`; a loop over the workers does the same.
    pub fn spawn_on(self, executor: &(impl Spawn + ?Sized)) {
        for worker in self {
            executor.spawn(Box::pin(worker.run()));
        }
    }
}

impl<In, T, E, F, Fut> Workers<In, T, E, WithSubmitter<F, T, E>>
where
    In: Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
    F: Fn(In, Submitter<In, T, E>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
{
    /// Spawns each worker on the executor.
    pub fn spawn_on(self, executor: &(impl Spawn + ?Sized)) {
        for worker in self {
            executor.spawn(Box::pin(worker.run()));
        }
    }
}

impl<In, T, E, C> IntoIterator for Workers<In, T, E, C> {
    type Item = Worker<In, T, E, C>;
    type IntoIter = std::vec::IntoIter<Worker<In, T, E, C>>;

    fn into_iter(self) -> Self::IntoIter {
        self.workers.into_iter()
    }
}

impl<In, T, E, C> fmt::Debug for Workers<In, T, E, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("len", &self.workers.len())
            .finish_non_exhaustive()
    }
}

/// One worker of a pool.
#[must_use = "a worker does nothing unless it is run"]
pub struct Worker<In, T, E, C> {
    /// Before the guard: the handler's state is dropped before the worker is unregistered.
    handler: C,
    guard: WorkerGuard<In, T, E>,
}

/// Registers a worker with its pool; unregisters it on drop.
struct WorkerGuard<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    id: usize,
}

impl<In, T, E> Drop for WorkerGuard<In, T, E> {
    fn drop(&mut self) {
        self.shared.worker_left(self.id);
    }
}

/// A handler that workers can run; implemented by the types of [`handler`](crate::handler) only. A
/// bound for code that is generic over the kind of handler.
pub trait RunHandler<In>: Handler<In> + Sized {
    #[doc(hidden)]
    fn run(worker: Worker<In, Self::Value, Self::Error, Self>) -> impl Future<Output = ()>;
}

impl<In, T, E, F, Fut> RunHandler<In> for Plain<F>
where
    F: Fn(In) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    fn run(worker: Worker<In, T, E, Self>) -> impl Future<Output = ()> {
        run_slots(worker)
    }
}

impl<In, T, E, F, Fut> RunHandler<In> for WithSubmitter<F, T, E>
where
    F: Fn(In, Submitter<In, T, E>) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    fn run(worker: Worker<In, T, E, Self>) -> impl Future<Output = ()> {
        run_slots(worker)
    }
}

impl<In, T, E, S, Init, F> RunHandler<In> for WithState<Init, F, S>
where
    Init: Fn(usize) -> S,
    F: AsyncFn(&mut S, In) -> Result<T, E>,
{
    fn run(worker: Worker<In, T, E, Self>) -> impl Future<Output = ()> {
        run_stateful(worker)
    }
}

impl<In, T, E, C: RunHandler<In, Value = T, Error = E>> Worker<In, T, E, C> {
    /// The number of this worker, counted from 0.
    pub const fn id(&self) -> usize {
        self.guard.id
    }

    /// Runs jobs until the pool is drained or aborted.
    ///
    /// It yields to the executor after 256 jobs without a wait, at the latest.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, its running jobs are reported as
    /// [abandoned](JobError::Abandoned). Jobs that have not started are left to the other workers;
    /// when the last worker is dropped, they are abandoned too.
    pub fn run(self) -> impl Future<Output = ()> {
        C::run(self)
    }
}

/// Starts a job in the slot of `guard`, and returns what the handler takes. `record` may record the
/// start in a local queue, see [`JobGuard::start`]. `None`: no attempt is made, since the job has
/// its outcome or is back in the schedule.
///
/// Nothing is awaited between taking the job and this call, so the job is in a guard before the
/// worker's future can be dropped.
#[inline(always)]
fn prepare_attempt<In, T, E>(
    job: QueuedJob<In, T, E>,
    guard: &mut JobGuard<In, T, E>,
    buffer: &mut CompletionBuffer<In, T, E>,
    record: impl FnOnce(StartedJob) -> bool,
) -> Option<(In, Option<Submitter<In, T, E>>)> {
    let input = guard.start(job, record)?;
    buffer.flush_others(guard.stream());
    let input = match guard.prepare(input) {
        Ok(input) => input,
        Err(error) => {
            guard.complete(Err(error), buffer);
            return None;
        }
    };
    let (shared, slot, id) = (&guard.shared, guard.slot, guard.id);
    shared.observe(|| Event::Started {
        job: id,
        attempt: guard.attempts,
        worker: shared.worker_of(slot),
    });
    let submitter = shared.adds_jobs.then(|| {
        let current = CurrentJob {
            pool: shared.identity(),
            slot,
            id,
        };
        Submitter::new(Arc::clone(shared), current, guard.stream().map(Arc::clone))
    });
    Some((input, submitter))
}

/// Queues the job for another attempt if it is to be retried; else completes it.
#[inline(always)]
fn complete_or_retry<In, T, E>(
    mut result: Result<T, JobError<E>>,
    guard: &mut JobGuard<In, T, E>,
    buffer: &mut CompletionBuffer<In, T, E>,
) {
    let is_queued_again = guard.shared.retry.is_some() && guard.try_retry(&mut result);
    if !is_queued_again {
        guard.complete(result, buffer);
    }
}

impl<In, T, E, C> fmt::Debug for Worker<In, T, E, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("id", &self.guard.id)
            .finish_non_exhaustive()
    }
}
