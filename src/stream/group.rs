//! Groups: jobs that are submitted one by one, and awaited, read and cancelled together.
//!
//! In: inputs. Out: completions, by the same reader as those of a map. It never pulls inputs.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_lite::StreamExt;

use super::reader::CompletionReader;
use super::summary::{End, Summary};
use crate::error::{CancelReason, SubmitError};
use crate::job::completion::Completion;
use crate::shared::PoolRef;
use crate::submit::Permit;

/// Jobs that belong together; made by [`Pool::group`](crate::Pool::group).
///
/// As a stream it yields the completions of the jobs added so far, as they finish, and ends when
/// all of them are read. It continues once more jobs are added.
///
/// # Defaults
///
/// [`window`](Self::window): the queue's capacity plus the number of jobs that can run at once.
///
/// # Cancel safety
///
/// Dropping the group cancels its jobs that have not ended.
///
/// # Examples
///
/// ```
/// use brigade::{ManualTimer, Pool};
/// use futures_lite::future;
///
/// let (pool, workers) =
///     Pool::builder().workers(2).timer(ManualTimer::new()).build(|n: u32| async move { Ok::<_, ()>(n * n) });
/// let completions = future::block_on(workers.drive(async {
///     let group = pool.group();
///     for n in 1..4 {
///         group.submit(n).await.unwrap();
///     }
///     group.join().await
/// }));
/// let squares: Vec<_> = completions.into_iter().map(|completion| completion.result.unwrap()).collect();
/// assert_eq!(squares, [1, 4, 9]);
/// ```
#[must_use = "dropping a group cancels its jobs"]
pub struct Group<In, T, E> {
    /// Keeps the pool open.
    shared: PoolRef<In, T, E>,
    reader: CompletionReader<In, T, E>,
    window: usize,
}

impl<In, T, E> Unpin for Group<In, T, E> {}

impl<In, T, E> Group<In, T, E> {
    pub(crate) fn new(shared: PoolRef<In, T, E>, window: usize) -> Self {
        let reader = CompletionReader::new(&shared);
        shared.set_window(&reader.stream, window);
        Self {
            shared,
            reader,
            window,
        }
    }

    /// Bounds how many jobs of this group may be queued, running, or finished and unread at once.
    /// Running jobs may add more than that, up to the pool's
    /// [`child_capacity`](crate::Builder::child_capacity); what they add counts.
    ///
    /// If all jobs are added before any is read, the window must be at least their number.
    ///
    /// # Panics
    ///
    /// If `jobs` is 0.
    #[track_caller]
    pub fn window(mut self, jobs: usize) -> Self {
        assert!(jobs > 0, "window must be at least 1, got 0");
        self.window = jobs;
        self.shared.set_window(&self.reader.stream, jobs);
        self
    }

    /// Sets the [priority](crate::Job::priority) of the jobs that are added from now on.
    pub fn priority(self, priority: i32) -> Self {
        self.shared
            .set_stream_priority(&self.reader.stream, priority);
        self
    }

    /// Adds a job now, or not at all.
    ///
    /// # Errors
    ///
    /// [`SubmitError::Full`] if the queue is full, or the window; [`SubmitError::Closed`] if the
    /// pool is closed or the group cancelled.
    pub fn try_submit(&self, input: In) -> Result<(), SubmitError<In>> {
        let limit = self.reader.limit(self.window);
        self.shared
            .submit_to(&self.reader.stream, input, None, limit)
    }

    /// Adds a job; waits for room in the pool's queue, but not for room in the window, since that
    /// comes only by reading.
    ///
    /// # Errors
    ///
    /// [`SubmitError::Full`] if the window is full; [`SubmitError::Closed`] if the pool is closed
    /// or the group cancelled; [`SubmitError::WouldDeadlock`] inside a job of this pool, if no job
    /// could ever start again; [`SubmitError::Overloaded`] if
    /// [`max_waiting`](crate::Builder::max_waiting) callers wait for room already.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, no job was accepted, and the input is dropped with it.
    pub async fn submit(&self, input: In) -> Result<(), SubmitError<In>> {
        if self.reader.stream.cancelled().is_some() {
            return Err(SubmitError::Closed(input));
        }
        if self.unread() >= self.window {
            return Err(SubmitError::Full(input));
        }
        match Permit::acquire(&self.shared, Some(Arc::clone(&self.reader.stream))).await {
            // During the wait, the window may have filled up or the group may have been cancelled.
            Ok(permit) => {
                permit.submit_to(&self.reader.stream, input, self.reader.limit(self.window))
            }
            Err(refused) => Err(refused.map(|()| input)),
        }
    }

    /// Waits for the next completion; `None` when all jobs added so far are read.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Completion<In, T, E>> {
        StreamExt::next(self).await
    }

    /// How many jobs are queued, running, or finished and unread.
    pub fn unread(&self) -> usize {
        self.reader.unread()
    }

    /// Waits for all jobs and returns their completions in the order in which they were added.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the jobs that have not ended, and loses the completions read so
    /// far.
    pub async fn join(mut self) -> Vec<Completion<In, T, E>> {
        let mut completions = Vec::with_capacity(self.unread());
        while let Some(completion) = self.next().await {
            completions.push(completion);
        }
        completions.sort_unstable_by_key(|completion| completion.index);
        completions
    }

    /// Cancels all jobs: queued ones never start, running ones are dropped at their next await.
    /// Each still has its completion. The group takes no more jobs.
    pub fn cancel(&self) {
        self.reader.cancel(CancelReason::Stream);
    }

    /// The counts of the jobs so far.
    pub fn summary(&self) -> Summary {
        self.reader.summary(self.unread() == 0, End::Complete)
    }
}

impl<In, T, E> Stream for Group<In, T, E> {
    type Item = Completion<In, T, E>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.reader.poll_delivered(cx) {
            Poll::Ready(completion) => {
                self.reader.count(&completion);
                Poll::Ready(Some(completion))
            }
            Poll::Pending if self.unread() == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<In, T, E> fmt::Debug for Group<In, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("window", &self.window)
            .field("unread", &self.unread())
            .finish_non_exhaustive()
    }
}
