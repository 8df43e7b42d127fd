//! The way in for running jobs. What a running job adds never waits for the pool's own capacity, so
//! a pool whose jobs add jobs cannot block itself; it has a bound of its own, and an error that
//! says when it is reached.

use std::fmt;
use std::sync::Arc;

use super::{JobHandle, launch, submit_now};
use crate::error::SubmitError;
use crate::event::JobId;
use crate::job::completion_queue::CompletionQueue;
use crate::job::current::CurrentJob;
use crate::queue::admission::Origin;
use crate::shared::Shared;

/// Adds jobs from inside a running job; handed to handlers of
/// [`build_with_submitter`](crate::Builder::build_with_submitter).
///
/// Jobs that are added wait in the same queue as others, behind those that are there, but do not
/// count against its capacity: at most [`child_capacity`](crate::Builder::child_capacity) of them
/// may be queued at once. A pool that is closed still takes them, so that what was accepted is done
/// to its end; one that is [sealed](crate::Pool::seal) does not.
///
/// It is of use only while its job runs: afterwards it answers [`SubmitError::Closed`], and it does
/// not keep the pool open.
///
/// # Examples
///
/// A tree of numbers, walked to its leaves: the map ends when all that its jobs have added is done.
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
    place: CurrentJob,
    /// The map or group that the job belongs to, and all that it adds.
    stream: Option<Arc<CompletionQueue<In, T, E>>>,
}

impl<In, T, E> Submitter<In, T, E> {
    pub(crate) const fn new(
        shared: Arc<Shared<In, T, E>>,
        place: CurrentJob,
        stream: Option<Arc<CompletionQueue<In, T, E>>>,
    ) -> Self {
        Self {
            shared,
            place,
            stream,
        }
    }

    /// The number of the running job.
    pub const fn job_id(&self) -> JobId {
        self.place.id
    }

    /// Adds a job to the map or group that the running job belongs to: it is not over before the
    /// new job is.
    ///
    /// Where the running job belongs to a single handle, the new one is detached: a failure goes to
    /// [`Pool::on_unhandled`](crate::Pool::on_unhandled).
    ///
    /// # Errors
    ///
    /// [`SubmitError::Full`] if as many added jobs are queued as the child capacity, or if as many
    /// jobs of the map or group are queued, running or unread as its window and the child capacity
    /// together; [`SubmitError::Closed`] if the running job is over, its map or group is cancelled,
    /// or the pool is sealed or aborted.
    pub fn add(&self, input: In) -> Result<(), SubmitError<In>> {
        if let Some(stream) = &self.stream {
            let limit = stream.child_limit();
            return self
                .shared
                .submit_to(stream, input, Some(self.place), limit);
        }
        match self.shared.accept_child(self.place) {
            Ok((id, limits)) => {
                launch(&self.shared, id, Origin::Child, None, limits, input, true);
                Ok(())
            }
            Err(refusal) => Err(refusal.into_error(input)),
        }
    }

    /// Adds a job with a handle of its own, which belongs to no map or group. See [`JobHandle`]
    /// about awaiting it inside the running job.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub fn submit(&self, input: In) -> Result<JobHandle<In, T, E>, SubmitError<In>> {
        submit_now(&self.shared, Some(self.place), None, input)
    }
}

impl<In, T, E> fmt::Debug for Submitter<In, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submitter")
            .field("job_id", &self.place.id)
            .finish_non_exhaustive()
    }
}
