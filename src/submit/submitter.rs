//! How running jobs add jobs.
//!
//! In: an input, from a handler. Out: an accepted job, or the input with an error. It never waits
//! for the capacity of the queue, so a pool whose jobs add jobs cannot block itself: added jobs
//! have a bound of their own, the child capacity.

use std::fmt;
use std::sync::Arc;

use super::{JobHandle, enqueue_with_handle, submit_now};
use crate::error::SubmitError;
use crate::event::JobId;
use crate::job::completion_queue::CompletionQueue;
use crate::job::current::CurrentJob;
use crate::job::handle_state::Interest;
use crate::shared::Shared;

/// Adds jobs from inside a running job; an argument of handlers of
/// [`build_with_submitter`](crate::Builder::build_with_submitter).
///
/// Added jobs are queued behind the jobs that are queued already, but do not count against the
/// capacity of the queue: at most [`child_capacity`](crate::Builder::child_capacity) of them may be
/// queued at once. A closed pool still accepts them, so accepted jobs can finish; a
/// [sealed](crate::Pool::seal) pool does not.
///
/// A submitter works only while its job runs: afterwards it returns [`SubmitError::Closed`]. It
/// does not keep the pool open.
///
/// # Examples
///
/// A tree of numbers, walked to its leaves: the map ends when all jobs that its jobs have added
/// have ended.
///
/// ```
/// use brigade::{ManualTimer, Pool, Submitter};
/// use futures_lite::future;
///
/// let (pool, workers) = Pool::builder().workers(2).timer(ManualTimer::new()).build_with_submitter(
///     |n: u32, jobs: Submitter<u32, u32, ()>| async move {
///         for child in [2 * n, 2 * n + 1] {
///             if child < 8 {
///                 jobs.add(child).unwrap();
///             }
///         }
///         Ok(n)
///     },
/// );
/// let mut seen = Vec::new();
/// let walk = pool.map([1]).for_each(|completion| seen.extend(completion.result));
/// let summary = future::block_on(workers.drive(walk));
/// seen.sort();
/// assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
/// assert!(summary.is_complete());
/// ```
pub struct Submitter<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    current: CurrentJob,
    /// The map or group of the running job, and of the jobs that it adds.
    stream: Option<Arc<CompletionQueue<In, T, E>>>,
}

impl<In, T, E> Submitter<In, T, E> {
    pub(crate) const fn new(
        shared: Arc<Shared<In, T, E>>,
        current: CurrentJob,
        stream: Option<Arc<CompletionQueue<In, T, E>>>,
    ) -> Self {
        Self {
            shared,
            current,
            stream,
        }
    }

    /// The number of the running job.
    pub const fn job_id(&self) -> JobId {
        self.current.id
    }

    /// Adds a job to the map or group of the running job, which does not end before the new job.
    ///
    /// If the running job has a handle, the new one is detached: a failure goes to
    /// [`Pool::on_unhandled`](crate::Pool::on_unhandled).
    ///
    /// # Errors
    ///
    /// [`SubmitError::Full`] if as many added jobs are queued as the child capacity, or if as many
    /// jobs of the map or group are queued, running or unread as its window and the child capacity
    /// together; [`SubmitError::Closed`] if the running job has ended, its map or group is
    /// cancelled, or the pool is sealed or aborted.
    pub fn add(&self, input: In) -> Result<(), SubmitError<In>> {
        if let Some(stream) = &self.stream {
            let limit = stream.child_limit();
            return self
                .shared
                .submit_to(stream, input, Some(self.current), limit);
        }
        match self.shared.accept_child(self.current) {
            Ok(accepted) => {
                enqueue_with_handle(&self.shared, accepted, None, input, Interest::None);
                Ok(())
            }
            Err(refusal) => Err(refusal.into_error(input)),
        }
    }

    /// Adds a job with a handle of its own, outside any map or group. See [`JobHandle`] about
    /// awaiting it inside the running job.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub fn submit(&self, input: In) -> Result<JobHandle<In, T, E>, SubmitError<In>> {
        submit_now(&self.shared, Some(self.current), None, input)
    }
}

impl<In, T, E> fmt::Debug for Submitter<In, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submitter")
            .field("job_id", &self.current.id)
            .finish_non_exhaustive()
    }
}
