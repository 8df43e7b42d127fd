//! Waiting for a permit: [`AcquirePermit`] waits in the admission's fair wait queue, until it is
//! granted a permit, its pool closes, its group is cancelled, or the wait would be a deadlock.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::{Awaited, Shared, WaitGuard};
use crate::error::SubmitError;
use crate::job::completion_queue::CompletionQueue;
use crate::queue::admission::{Refusal, WaiterId};

impl Refusal {
    /// The error of a submission, which gives the input back.
    pub(crate) fn into_error<In>(self, input: In) -> SubmitError<In> {
        match self {
            Self::Full => SubmitError::Full(input),
            Self::Closed => SubmitError::Closed(input),
            Self::Overloaded => SubmitError::Overloaded(input),
        }
    }
}

/// Waits for a permit, first come, first served. Dropping it leaves the wait queue and passes a
/// granted permit on.
pub(crate) struct AcquirePermit<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    /// The group that the job is submitted to; its cancellation ends the wait.
    group: Option<Arc<CompletionQueue<In, T, E>>>,
    /// Id of the waiter in the wait queue, once it is there.
    waiter: Option<WaiterId>,
    wait: Option<WaitGuard<In, T, E>>,
}

impl<In, T, E> AcquirePermit<In, T, E> {
    pub(crate) fn new(
        shared: Arc<Shared<In, T, E>>,
        group: Option<Arc<CompletionQueue<In, T, E>>>,
    ) -> Self {
        if let Some(group) = &group {
            group.begin_submit();
        }
        Self {
            shared,
            group,
            waiter: None,
            wait: None,
        }
    }

    /// Resolves to one reserved permit, which the caller must use or release.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<(), SubmitError<()>>> {
        let (polled, wakes) = {
            let mut synced = self.shared.lock();
            let group = self.group.as_ref().map(|group| group.id());
            let (polled, mut wakes) = synced.admission.poll_reserve(&mut self.waiter, group, cx);
            if synced.admission.is_awaited() {
                synced.revoke_all();
                // The tallies that `revoke_all` has flushed may have made room: grant it.
                synced.admission.grant(&mut wakes);
            }
            (polled, wakes)
        };
        self.shared.run_wakes(wakes);
        // The group is checked once the waiter is in the wait queue, since a cancellation (1) sets
        // the reason, then (2) wakes the waiters of the group.
        if self
            .group
            .as_ref()
            .is_some_and(|group| group.cancelled().is_some())
        {
            if matches!(polled, Poll::Ready(Ok(()))) {
                self.shared.release_permit();
            }
            self.leave();
            return Poll::Ready(Err(SubmitError::Closed(())));
        }
        match polled {
            Poll::Ready(decided) => {
                self.wait = None;
                Poll::Ready(decided.map_err(|refusal| refusal.into_error(())))
            }
            Poll::Pending
                if self.shared.register_wait(&mut self.wait, cx, || {
                    Awaited::AcquirePermit(self.waiter.unwrap_or_default())
                }) =>
            {
                Poll::Pending
            }
            Poll::Pending => {
                self.leave();
                Poll::Ready(Err(SubmitError::WouldDeadlock(())))
            }
        }
    }

    /// Leaves the wait queue.
    fn leave(&mut self) {
        self.wait = None;
        if let Some(waiter) = self.waiter.take() {
            let wakes = self.shared.lock().admission.cancel_wait(waiter);
            self.shared.run_wakes(wakes);
        }
    }
}

impl<In, T, E> Drop for AcquirePermit<In, T, E> {
    fn drop(&mut self) {
        self.leave();
        if let Some(group) = &self.group {
            group.end_submit();
        }
    }
}
