//! A pool of futures.
//!
//! In: a future of any type. Out: its value. It is a [`Pool`] whose input is the boxed future and
//! whose handler awaits it.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::builder::Builder;
use crate::error::{JobError, SubmitError};
use crate::pool::Pool;
use crate::rt::{BoxFuture, Spawn};
use crate::submit::JobHandle;
use crate::sync::{Mutex, ignore_poison};

/// The input of the underlying pool: a future that stores its value for the handle.
type Task = BoxFuture<'static, ()>;

/// Runs futures, at most as many at once as there are workers. Made by
#[cfg_attr(feature = "smol", doc = "[`Builder::start_tasks`] or")]
/// [`Builder::spawn_tasks_on`].
///
/// Bounds, panics, cancellation and draining are those of a [`Pool`]. [`pool`](Self::pool) returns
/// that pool, for what has no method here.
///
/// # Examples
///
/// ```
/// use async_executor::Executor;
/// use brigade::{ManualTimer, Pool, TaskPool};
/// use futures_lite::future;
///
/// let executor = Executor::new();
/// let tasks: TaskPool = Pool::builder().workers(2).timer(ManualTimer::new()).spawn_tasks_on(&executor);
/// future::block_on(executor.run(async {
///     let number = tasks.spawn(async { 6 * 7 }).await.unwrap();
///     let text = tasks.spawn(async { "text".to_owned() }).await.unwrap();
///     assert_eq!(number.await, Ok(42));
///     assert_eq!(text.await, Ok("text".to_owned()));
/// }));
/// ```
#[doc(alias("join_set", "semaphore"))]
#[derive(Clone)]
pub struct TaskPool {
    pool: Pool<Task, (), Infallible>,
}

/// A builder without a handler makes a pool of tasks.
impl Builder<Task, Infallible> {
    /// Makes a [`TaskPool`] and spawns its workers on an executor.
    ///
    /// # Panics
    ///
    /// As [`build`](Self::build).
    #[track_caller]
    pub fn spawn_tasks_on(self, executor: &(impl Spawn + ?Sized)) -> TaskPool {
        TaskPool {
            pool: self.spawn_on(executor, run),
        }
    }

    /// Makes a [`TaskPool`] and spawns its workers on smol's global executor, which has one thread
    /// unless the environment sets more; see [`start`](Self::start).
    ///
    /// # Panics
    ///
    /// As [`build`](Self::build).
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::Pool;
    ///
    /// let tasks = Pool::builder().workers(2).start_tasks();
    /// let task = tasks.try_spawn(async { 6 * 7 }).unwrap();
    /// assert_eq!(smol::block_on(task), Ok(42));
    /// ```
    #[cfg(feature = "smol")]
    #[track_caller]
    pub fn start_tasks(self) -> TaskPool {
        self.spawn_tasks_on(&crate::rt::SmolGlobal)
    }
}

impl TaskPool {
    /// Submits a future; waits for room.
    ///
    /// # Errors
    ///
    /// As [`Pool::submit`]; the future is dropped.
    ///
    /// # Cancel safety
    ///
    /// As [`Pool::submit`].
    pub async fn spawn<F>(&self, future: F) -> Result<TaskHandle<F::Output>, SubmitError<()>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let permit = self.pool.reserve().await?;
        let (task, value) = task(future);
        let job = permit.submit(task).map_err(|refused| refused.map(drop))?;
        Ok(TaskHandle { job, value })
    }

    /// Submits a future now, or not at all.
    ///
    /// # Errors
    ///
    /// As [`Pool::try_submit`]; the future is dropped.
    pub fn try_spawn<F>(&self, future: F) -> Result<TaskHandle<F::Output>, SubmitError<()>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let permit = self.pool.try_reserve()?;
        let (task, value) = task(future);
        let job = permit.submit(task).map_err(|refused| refused.map(drop))?;
        Ok(TaskHandle { job, value })
    }

    /// The underlying pool.
    pub const fn pool(&self) -> &Pool<Task, (), Infallible> {
        &self.pool
    }
}

async fn run(task: Task) -> Result<(), Infallible> {
    task.await;
    Ok(())
}

type Value<T> = Arc<Mutex<Option<T>>>;

fn task<F>(future: F) -> (Task, Value<F::Output>)
where
    F: Future<Output: Send> + Send + 'static,
{
    let value = Arc::new(Mutex::new(None));
    let output_slot = Arc::clone(&value);
    let task = Box::pin(async move {
        let output = future.await;
        *ignore_poison(output_slot.lock()) = Some(output);
    });
    (task, value)
}

impl fmt::Debug for TaskPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskPool").finish_non_exhaustive()
    }
}

/// The handle of a submitted future; yields its value. Dropping it cancels the future.
#[must_use = "dropping a handle cancels its future; use `detach` to let it go on"]
pub struct TaskHandle<T> {
    job: JobHandle<Task, (), Infallible>,
    value: Value<T>,
}

impl<T> TaskHandle<T> {
    /// Lets the future run on without the handle; its value is dropped.
    pub fn detach(self) {
        self.job.detach();
    }

    /// Whether the outcome is known.
    pub fn is_finished(&self) -> bool {
        self.job.is_finished()
    }

    /// Takes the value if the future is finished, without waiting. As
    /// [`JobHandle::try_take`].
    pub fn try_take(&mut self) -> Option<Result<T, JobError<Infallible>>> {
        self.job.try_take().map(|result| self.value_of(result))
    }

    fn value_of(
        &self,
        result: Result<(), JobError<Infallible>>,
    ) -> Result<T, JobError<Infallible>> {
        result.and_then(|()| {
            let value = ignore_poison(self.value.lock()).take();
            value.ok_or(JobError::Abandoned)
        })
    }
}

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, JobError<Infallible>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        Pin::new(&mut this.job)
            .poll(cx)
            .map(|result| this.value_of(result))
    }
}

impl<T> fmt::Debug for TaskHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle")
            .field("id", &self.job.id())
            .finish_non_exhaustive()
    }
}
