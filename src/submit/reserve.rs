//! Permits: room in the queue, reserved before there is an input. So a caller need not move an
//! input into a future that may be dropped.
//!
//! In: a wait for room. Out: a permit, then an accepted job. Dropping the permit releases the room.

use std::fmt;
use std::sync::Arc;

use futures_lite::future;

use super::{JobHandle, JobOptions, enqueue_with_handle};
use crate::error::SubmitError;
use crate::job::completion_queue::CompletionQueue;
use crate::job::handle_state::Interest;
use crate::queue::admission::{Origin, Refusal};
use crate::shared::{Accepted, AcquirePermit, Shared};

/// Room for one job in the queue of a pool; made by [`Pool::reserve`](crate::Pool::reserve).
///
/// It counts against the capacity until it is used or dropped. It does not keep the pool open.
#[must_use = "a permit holds room in the queue"]
pub struct Permit<In, T, E> {
    /// `None` once the permit is used.
    shared: Option<Arc<Shared<In, T, E>>>,
}

impl<In, T, E> Permit<In, T, E> {
    /// Wraps a permit that the admission has granted.
    pub(crate) const fn new(shared: Arc<Shared<In, T, E>>) -> Self {
        Self {
            shared: Some(shared),
        }
    }

    /// Reserves room now, or waits for it.
    pub(crate) async fn reserve(shared: &Arc<Shared<In, T, E>>) -> Result<Self, SubmitError<()>> {
        let reserved = shared.lock().admission.reserve();
        match reserved {
            Ok(()) => Ok(Self::new(Arc::clone(shared))),
            Err(Refusal::Full) => Self::acquire(shared, None).await,
            Err(refusal) => Err(refusal.into_error(())),
        }
    }

    /// Waits for room; a wait for a group also ends when the group is cancelled.
    pub(crate) async fn acquire(
        shared: &Arc<Shared<In, T, E>>,
        group: Option<Arc<CompletionQueue<In, T, E>>>,
    ) -> Result<Self, SubmitError<()>> {
        let mut acquire = AcquirePermit::new(Arc::clone(shared), group);
        future::poll_fn(|cx| acquire.poll(cx)).await?;
        Ok(Self::new(Arc::clone(shared)))
    }

    /// Submits a job by this permit, without waiting.
    ///
    /// # Errors
    ///
    /// [`SubmitError::Closed`] if the pool was closed since.
    pub fn submit(self, input: In) -> Result<JobHandle<In, T, E>, SubmitError<In>> {
        self.submit_with(input, None)
    }

    pub(crate) fn submit_with(
        self,
        input: In,
        options: Option<JobOptions>,
    ) -> Result<JobHandle<In, T, E>, SubmitError<In>> {
        if let Some((shared, Ok(accepted))) = self.accept() {
            let handle_state =
                enqueue_with_handle(&shared, accepted, options, input, Interest::Result);
            Ok(JobHandle::new(shared, handle_state))
        } else {
            Err(SubmitError::Closed(input))
        }
    }

    /// Submits a job of a group, while fewer than `limit` of its jobs are unread.
    pub(crate) fn submit_to(
        self,
        stream: &Arc<CompletionQueue<In, T, E>>,
        input: In,
        limit: usize,
    ) -> Result<(), SubmitError<In>> {
        if let Err(refusal) = stream.try_add_unread(limit) {
            return Err(refusal.into_error(input));
        }
        if let Some((shared, accepted)) = self.accept() {
            shared.enqueue_if_accepted(stream, input, accepted)
        } else {
            stream.remove_unread();
            Err(SubmitError::Closed(input))
        }
    }

    /// Turns the permit into an accepted job, or releases it if the pool was closed since. `None`
    /// cannot be: the permit is taken by value, so it is used once.
    fn accept(mut self) -> Option<(Arc<Shared<In, T, E>>, Result<Accepted, Refusal>)> {
        let shared = self.shared.take()?;
        let (accepted, wakes) = {
            let mut state = shared.lock();
            let (accepted, wakes) = state.admission.accept_reserved();
            let accepted = accepted.map(|id| Accepted {
                id,
                origin: Origin::Outside,
                limits: state.limits,
            });
            (accepted, wakes)
        };
        shared.run_wakes(wakes);
        Some((shared, accepted))
    }
}

impl<In, T, E> Drop for Permit<In, T, E> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.release_permit();
        }
    }
}

impl<In, T, E> fmt::Debug for Permit<In, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}
