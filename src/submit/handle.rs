//! The handle of a submitted job: a future of its result, which cancels the job when it is dropped.
//!
//! In: the job's [`HandleState`]. Out: its result. It never runs the job.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::error::JobError;
use crate::event::JobId;
use crate::job::handle_state::{HandleState, Interest};
use crate::shared::{Awaited, Shared, WaitGuard};

/// The handle of a submitted job. As a future it yields the job's result.
///
/// **Dropping the handle cancels the job**: a queued one never starts, a running one is dropped at
/// its next await. [`detach`](Self::detach) lets it run on without the handle.
///
/// The types are those of the [`Pool`](crate::Pool). `In` is among them since a job that is
/// cancelled or aborted gives its input back.
///
/// # Waiting inside a job
///
/// A handle may be awaited inside another job of the same pool. If every slot then waits for the
/// pool itself, no job could ever run again: one of these waits, as a rule the last, yields
/// [`JobError::WouldDeadlock`]. So it does if slots are free, but no queued job can ever start: its
/// [key](crate::Builder::max_running_per_key) is busy with a job that waits, or its delay has no
/// end.
///
/// A wait is a handle, map, group or submission that was polled inside the job and has neither
/// ended nor been dropped.
///
/// Five waits are not seen, and may never end: jobs that await each other in a circle while a slot
/// is free; any wait while a slot is free, a job waits for room, and a permit that was reserved or
/// granted is neither used nor dropped; a circle through a second pool; a wait that the handler
/// moves to a task of its own; and any wait while another job has a wait that is over and that it
/// polls no more, such as that of a handle which it keeps after a time-out.
///
/// # Cancel safety
///
/// Polling by reference loses nothing: `&mut handle` may be dropped and awaited again. After it has
/// yielded its result, it stays pending.
///
/// # Examples
///
/// ```
/// use brigade::{ManualTimer, Pool};
/// use futures_lite::future;
///
/// let (pool, workers) =
///     Pool::builder().workers(1).timer(ManualTimer::new()).build(|n: u32| async move { Ok::<_, ()>(n + 1) });
/// let handle = pool.try_submit(1).unwrap();
/// assert!(!handle.is_finished());
/// assert_eq!(future::block_on(workers.drive(handle)), Ok(2));
/// ```
#[must_use = "dropping a handle cancels its job; use `detach` to let it go on"]
pub struct JobHandle<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    /// `None` once the result is taken, or the job is detached or cancelled.
    handle_state: Option<Arc<HandleState<In, T, E>>>,
    id: JobId,
    wait: Option<WaitGuard<In, T, E>>,
}

impl<In, T, E> JobHandle<In, T, E> {
    pub(crate) fn new(
        shared: Arc<Shared<In, T, E>>,
        handle_state: Arc<HandleState<In, T, E>>,
    ) -> Self {
        let id = handle_state.id;
        Self {
            shared,
            handle_state: Some(handle_state),
            id,
            wait: None,
        }
    }

    /// The number of the job within its pool.
    pub const fn id(&self) -> JobId {
        self.id
    }

    /// Whether the outcome is known.
    pub fn is_finished(&self) -> bool {
        self.handle_state
            .as_ref()
            .is_none_or(|handle_state| handle_state.is_done())
    }

    /// Takes the result if the job is finished, without waiting: for loops that poll now and then.
    ///
    /// `None` before the outcome is known, and after the result was taken or yielded. This
    /// registers no waker.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool};
    /// use futures_lite::future;
    /// use std::convert::Infallible;
    ///
    /// let (pool, workers) =
    ///     Pool::builder().workers(1).timer(ManualTimer::new()).build(|n: u32| async move { Ok::<_, Infallible>(n + 1) });
    /// let mut handle = pool.try_submit(1).unwrap();
    /// assert_eq!(handle.try_take(), None);
    /// future::block_on(workers.drive(pool.wait_idle()));
    /// assert_eq!(handle.try_take(), Some(Ok(2)));
    /// assert_eq!(handle.try_take(), None);
    /// ```
    #[doc(alias("try_join", "now_or_never"))]
    pub fn try_take(&mut self) -> Option<Result<T, JobError<E>>> {
        let result = self.handle_state.as_ref()?.take_result()?;
        (self.handle_state, self.wait) = (None, None);
        Some(result)
    }

    /// Changes the priority of a job that has not started, or that waits for another attempt;
    /// returns whether it was in time. See [`Job::priority`](crate::Job::priority).
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool};
    /// use futures_lite::future;
    /// use std::cell::RefCell;
    ///
    /// let order = RefCell::new(Vec::new());
    /// let (pool, workers) = Pool::builder().workers(1).timer(ManualTimer::new()).build(|name: &'static str| {
    ///     order.borrow_mut().push(name);
    ///     async { Ok::<_, ()>(()) }
    /// });
    /// pool.try_submit("first").unwrap().detach();
    /// let second = pool.try_submit("second").unwrap();
    /// assert!(second.set_priority(1));
    /// future::block_on(workers.drive(pool.wait_idle()));
    /// assert_eq!(*order.borrow(), ["second", "first"]);
    /// ```
    pub fn set_priority(&self, priority: i32) -> bool {
        self.handle_state
            .as_ref()
            .is_some_and(|handle_state| self.shared.set_priority(handle_state, priority))
    }

    /// Lets the job run on without the handle. Its value is dropped; a failure goes to
    /// [`Pool::on_unhandled`](crate::Pool::on_unhandled).
    pub fn detach(mut self) {
        if let Some(handle_state) = self.handle_state.take() {
            self.shared.detach_handle(&handle_state);
        }
    }

    /// Cancels the job, and waits until its running attempt, if there is one, has been dropped.
    /// Yields the result if the job had finished before.
    ///
    /// The cancellation is under way when this returns its future, which need not be polled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future early does not stop the cancellation.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool};
    /// use futures_lite::future;
    ///
    /// let (pool, workers) =
    ///     Pool::builder().workers(1).timer(ManualTimer::new()).build(|n: u32| async move { Ok::<_, ()>(n) });
    /// let handle = pool.try_submit(1).unwrap();
    /// assert_eq!(future::block_on(handle.cancel()), None);
    /// assert_eq!(pool.stats().cancelled, 1);
    /// # drop(workers);
    /// ```
    #[doc(alias("abort"))]
    #[must_use = "dropping the future is fine, but say so: the cancellation goes on"]
    pub fn cancel(mut self) -> Cancelling<In, T, E> {
        let Some(handle_state) = self.handle_state.take() else {
            return Cancelling {
                shared: Arc::clone(&self.shared),
                handle_state: None,
                wait: None,
            };
        };
        let result = handle_state.take_result();
        if result.is_none() {
            self.shared.cancel_handle(&handle_state, Interest::End);
        }
        Cancelling {
            shared: Arc::clone(&self.shared),
            handle_state: Some((handle_state, result)),
            wait: None,
        }
    }
}

impl<In, T, E> Future for JobHandle<In, T, E> {
    type Output = Result<T, JobError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(handle_state) = &this.handle_state else {
            return Poll::Pending;
        };
        match handle_state.poll_result(cx.waker()) {
            Poll::Ready(result) => {
                // Dropping the handle has nothing to cancel.
                (this.handle_state, this.wait) = (None, None);
                Poll::Ready(result)
            }
            Poll::Pending
                if this.shared.register_wait(&mut this.wait, cx, || {
                    Awaited::Handle(Arc::clone(handle_state))
                }) =>
            {
                Poll::Pending
            }
            Poll::Pending => Poll::Ready(Err(JobError::WouldDeadlock)),
        }
    }
}

impl<In, T, E> Drop for JobHandle<In, T, E> {
    fn drop(&mut self) {
        if let Some(handle_state) = self.handle_state.take() {
            self.shared.cancel_handle(&handle_state, Interest::None);
        }
    }
}

impl<In, T, E> fmt::Debug for JobHandle<In, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobHandle")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A cancellation under way; made by [`JobHandle::cancel`].
pub struct Cancelling<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    /// With the result of a job that had finished before; `None` once there is nothing to wait for.
    handle_state: Option<(Arc<HandleState<In, T, E>>, Option<Result<T, JobError<E>>>)>,
    wait: Option<WaitGuard<In, T, E>>,
}

// The result is never pinned.
impl<In, T, E> Unpin for Cancelling<In, T, E> {}

impl<In, T, E> Future for Cancelling<In, T, E> {
    type Output = Option<Result<T, JobError<E>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some((handle_state, result)) = &mut this.handle_state else {
            return Poll::Ready(None);
        };
        if let Some(result) = result.take() {
            this.handle_state = None;
            return Poll::Ready(Some(result));
        }
        if !handle_state.poll_cancelled(cx.waker())
            && this.shared.register_wait(&mut this.wait, cx, || {
                Awaited::Handle(Arc::clone(handle_state))
            })
        {
            return Poll::Pending;
        }
        this.handle_state = None;
        this.wait = None;
        Poll::Ready(None)
    }
}

impl<In, T, E> fmt::Debug for Cancelling<In, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancelling").finish_non_exhaustive()
    }
}
