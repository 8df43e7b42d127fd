//! A worker: takes ready jobs, runs one attempt of each, and hands on the outcomes. A plain future,
//! for any executor.
//!
//! In come entries from the injector; out go completions through the buffer, and jobs that are to
//! be tried again back to the queue. It decides neither who may run nor what becomes of an outcome.
//! Beside what it waits for, one of the workers keeps the time for the schedule. A worker starts a
//! job only when one of its slots is free, and polls those that [go on](slots); that of a handler
//! with state runs its jobs [one by one](one). What it has taken together and not started is
//! everybody's.

pub(crate) mod attempt;
pub(crate) mod buffer;
pub(crate) mod guard;
mod local;
pub(crate) mod ready_list;
mod run;
mod span;
pub(crate) mod stateful;

use std::collections::TryReserveError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use async_executor::LocalExecutor;

use self::buffer::CompletionBuffer;
use self::guard::JobGuard;
use self::run::run as run_slots;
use self::stateful::run_one_by_one;
use crate::error::{JobError, TimeLimit};
use crate::event::{Event, JobId};
use crate::handler::{Call, Plain, WithState, WithSubmitter};
use crate::job::current::CurrentJob;
use crate::job::queued::QueuedJob;
use crate::queue::local::StartedJob;
use crate::rt::Spawn;
use crate::shared::Shared;
use crate::submit::Submitter;

/// After so many jobs without waiting, a worker lets others have the thread.
const JOBS_PER_TURN: usize = 256;

/// The workers of a pool, to be polled by whoever likes; made by the `build` methods of
/// [`Builder`](crate::Builder).
///
/// Each [`Worker`] is run by [`Worker::run`], all of them in the caller's own task by
/// [`drive`](Self::drive). Workers that are dropped count as gone; when all are, the pool ends, and
/// what was accepted is reported as [abandoned](JobError::Abandoned).
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
    /// Fails if memory cannot hold so many.
    pub(crate) fn new(
        shared: &Arc<Shared<In, T, E>>,
        mut call: impl FnMut(usize) -> C,
    ) -> Result<Self, TryReserveError> {
        let (mut workers, count) = (Vec::new(), shared.lock().admission.workers());
        workers.try_reserve_exact(count)?;
        workers.extend((0..count).map(|worker| {
            let seat = WorkerGuard {
                shared: Arc::clone(shared),
                worker,
            };
            Worker {
                call: call(worker),
                seat,
            }
        }));
        Ok(Self { workers })
    }

    /// Runs all workers in the caller's own task until `body` ends, and returns what it yields.
    /// Nothing is spawned, and nothing has to be `Send` or `'static`: handlers may borrow.
    ///
    /// When `body` ends, the workers are dropped and what is left is abandoned; a body that wants
    /// it done ends with [`drain`](crate::Pool::drain).
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

    /// How many there are.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Whether there are none; never so for what a builder makes.
    pub fn is_empty(&self) -> bool {
        // `false` would do: a builder makes at least one.
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
    /// Handlers with state have no such method, since the compiler cannot be told that their
    /// futures are `Send`; a loop over the workers does the same.
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
    /// Before the seat: its state is dropped while the worker still counts as there.
    call: C,
    seat: WorkerGuard<In, T, E>,
}

/// The membership of a worker; dropping it is leaving.
#[derive(Debug)]
#[expect(unnameable_types, reason = "only workers have one")]
pub struct WorkerGuard<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    worker: usize,
}

impl<In, T, E> Drop for WorkerGuard<In, T, E> {
    fn drop(&mut self) {
        self.shared.worker_left(self.worker);
    }
}

/// A handler with the loop that runs it; implemented by the types of [`handler`](crate::handler)
/// only. A bound for code that is generic over the kind of handler.
pub trait RunHandler<In>: Call<In> {
    #[doc(hidden)]
    fn run(self, guard: WorkerGuard<In, Self::Value, Self::Error>) -> impl Future<Output = ()>;
}

impl<In, T, E, F, Fut> RunHandler<In> for Plain<F>
where
    F: Fn(In) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    fn run(self, guard: WorkerGuard<In, T, E>) -> impl Future<Output = ()> {
        run_slots(guard, self)
    }
}

impl<In, T, E, F, Fut> RunHandler<In> for WithSubmitter<F, T, E>
where
    F: Fn(In, Submitter<In, T, E>) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    fn run(self, guard: WorkerGuard<In, T, E>) -> impl Future<Output = ()> {
        run_slots(guard, self)
    }
}

impl<In, T, E, S, Init, F> RunHandler<In> for WithState<Init, F, S>
where
    Init: Fn(usize) -> S,
    F: AsyncFn(&mut S, In) -> Result<T, E>,
{
    fn run(self, guard: WorkerGuard<In, T, E>) -> impl Future<Output = ()> {
        run_one_by_one(guard, self)
    }
}

impl<In, T, E, C: RunHandler<In, Value = T, Error = E>> Worker<In, T, E, C> {
    /// The number of this worker, counted from 0.
    pub const fn id(&self) -> usize {
        self.seat.worker
    }

    /// Runs jobs until the pool is drained or aborted.
    ///
    /// It lets others have the thread after every 256 jobs that did not wait for anything.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the jobs that it runs are reported as
    /// [abandoned](JobError::Abandoned). Jobs that have not started are left to the other workers;
    /// after the last one, they are abandoned too.
    pub async fn run(self) {
        self.call.run(self.seat).await;
    }
}

/// What it takes for a job whose start is booked to become an attempt.
struct Start<In, T, E> {
    id: JobId,
    attempts: u32,
    deadline: Option<(Instant, TimeLimit)>,
    input: In,
    submitter: Option<Submitter<In, T, E>>,
}

/// Books the start of a job, unless it is enough to note it. `None`: it is settled, or somewhere
/// else.
///
/// No await between taking the job and here: it is in a guard before the worker's future can be
/// dropped.
#[inline(always)]
fn start<In, T, E>(
    shared: &Arc<Shared<In, T, E>>,
    slot: usize,
    entry: QueuedJob<In, T, E>,
    guard: &mut JobGuard<In, T, E>,
    buffer: &mut CompletionBuffer<In, T, E>,
    wants_submitter: bool,
    note: impl FnOnce(StartedJob) -> bool,
) -> Option<Start<In, T, E>> {
    let input = guard.start(entry, note)?;
    guard.notify_timer();
    buffer.clear_for(guard.stream());
    let input = match guard.prepare(input) {
        Ok(input) => input,
        Err(error) => {
            guard.settle(Err(error), buffer);
            return None;
        }
    };
    let (id, attempts, deadline) = (guard.id, guard.attempts, guard.deadline);
    shared.observe(|| Event::Started {
        job: id,
        attempt: attempts,
        worker: shared.worker_of(slot),
    });
    let submitter = wants_submitter.then(|| {
        let place = CurrentJob {
            pool: shared.identity(),
            slot,
            id,
        };
        Submitter::new(Arc::clone(shared), place, guard.stream().map(Arc::clone))
    });
    Some(Start {
        id,
        attempts,
        deadline,
        input,
        submitter,
    })
}

/// Gives a job its outcome, or sends it back to be tried again.
#[inline(always)]
fn end<In, T, E>(
    shared: &Shared<In, T, E>,
    mut result: Result<T, JobError<E>>,
    guard: &mut JobGuard<In, T, E>,
    buffer: &mut CompletionBuffer<In, T, E>,
) {
    let is_again = shared.retry.is_some() && guard.goes_again(&mut result);
    if !is_again {
        guard.settle(result, buffer);
    }
}

impl<In, T, E, C> fmt::Debug for Worker<In, T, E, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("id", &self.seat.worker)
            .finish_non_exhaustive()
    }
}
