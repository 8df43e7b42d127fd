//! Waiting for a permit.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::{Shared, Wait, WaitGuard};
use crate::error::SubmitError;
use crate::job::completion_queue::CompletionQueue;
use crate::queue::admission::Refusal;

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

/// A wait for room, in a fair line. Dropping it leaves the line and passes on what was granted.
pub(crate) struct AcquirePermit<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    /// The group that the job is for, whose cancellation ends the wait.
    group: Option<Arc<CompletionQueue<In, T, E>>>,
    ticket: Option<u64>,
    mark: Option<WaitGuard<In, T, E>>,
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
            ticket: None,
            mark: None,
        }
    }

    /// Ends with one reserved place, which the caller has to use or release.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<(), SubmitError<()>>> {
        let (polled, wakes) = {
            let mut state = self.shared.lock();
            let group = self.group.as_ref().map(|group| group.identity().get());
            let (polled, mut wakes) = state.admission.poll_reserve(&mut self.ticket, group, cx);
            if state.admission.is_awaited() {
                state.revoke_all();
                // What has happened since the journals were entered may have made room, which
                // nobody has been granted.
                state.admission.grant(&mut wakes);
            }
            (polled, wakes)
        };
        self.shared.run_wakes(wakes);
        // After it stands in line: a cancellation wakes those that do.
        if self
            .group
            .as_ref()
            .is_some_and(|group| group.cancelled().is_some())
        {
            if matches!(polled, Poll::Ready(Ok(()))) {
                self.shared.release_place();
            }
            self.leave();
            return Poll::Ready(Err(SubmitError::Closed(())));
        }
        match polled {
            Poll::Ready(decided) => {
                self.mark = None;
                Poll::Ready(decided.map_err(|refusal| refusal.into_error(())))
            }
            Poll::Pending
                if self.shared.register_wait(&mut self.mark, cx, || {
                    Wait::AcquirePermit(self.ticket.unwrap_or_default())
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

    /// Leaves the line.
    fn leave(&mut self) {
        self.mark = None;
        if let Some(ticket) = self.ticket.take() {
            let wakes = self.shared.lock().admission.leave_line(ticket);
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
