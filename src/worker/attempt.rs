//! One attempt of a job.
//!
//! In: an input and a handler. Out: a result, whether the handler returns, panics, is interrupted
//! or runs out of time. It never retries and never completes the job: that is the
//! [`JobGuard`](super::guard::JobGuard)'s.
//!
//! From the outside in: interruption, time limit, panic guard, handler. A result wins over a limit
//! that passes in the same poll. An interruption that came before the poll wins over both, so no
//! handler runs after a cancellation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use pin_project_lite::pin_project;

use super::guard::JobGuard;
use super::span::JobSpan;
use crate::error::{JobError, TimeLimit};
use crate::event::{Event, JobId};
use crate::job::current::{self, CurrentJob};
use crate::panic;
use crate::rt::BoxFuture;
use crate::shared::Shared;

pin_project! {
    /// The attempt that runs in a slot; reused for all attempts of the slot, so the handler's
    /// future is pinned without an allocation. Dropping it drops that future, and catches a panic
    /// of the drop.
    pub(crate) struct Attempt<F> {
        id: JobId,
        slot: usize,
        deadline: Option<(Instant, TimeLimit)>,
        span: JobSpan,
        #[pin]
        future: Option<F>,
        // Whether the drop of the handler's future has panicked.
        drop_panicked: bool,
        // Created when the attempt waits for the first time and has a deadline.
        sleep: Option<BoxFuture<'static, ()>>,
        // The waker that is registered with the slot's cancel flag. It stays there between
        // attempts.
        registered: Option<Waker>,
    }

    impl<F> PinnedDrop for Attempt<F> {
        fn drop(this: Pin<&mut Self>) {
            this.discard();
        }
    }
}

/// How [`Attempt::run_sequence`] ends.
pub(crate) enum BatchEnd<T, E> {
    AllSucceeded,
    /// The last attempt waits.
    Waits,
    /// The last attempt has ended, and its result is to be completed.
    Unsuccessful(Result<T, JobError<E>>),
}

impl<F> Attempt<F> {
    /// An attempt that is over, for a slot.
    pub(crate) const fn new(slot: usize) -> Self {
        Self {
            id: JobId(0),
            slot,
            deadline: None,
            span: JobSpan::NONE,
            future: None,
            drop_panicked: false,
            sleep: None,
            registered: None,
        }
    }

    /// Whether no attempt runs.
    pub(crate) const fn is_over(&self) -> bool {
        self.future.is_none()
    }

    /// Whether a drop of the handler's future has panicked since the attempt has started.
    pub(crate) const fn has_drop_panicked(&self) -> bool {
        self.drop_panicked
    }

    /// Drops the handler's future in place.
    #[inline(always)]
    fn discard(self: Pin<&mut Self>) {
        let mut this = self.project();
        if this.future.is_some() || this.sleep.is_some() {
            *this.sleep = None;
            *this.drop_panicked |= panic::catch(|| this.future.set(None)).is_err();
        }
        this.span.close();
    }

    /// Starts the attempt of the guard's job and polls it; `make` makes its future. Otherwise as
    /// [`poll`](Self::poll). No attempt may be running.
    #[inline(always)]
    pub(crate) fn start<In, T, E>(
        mut self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        job: &JobGuard<In, T, E>,
        make: impl FnOnce() -> F,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let this = self.as_mut().project();
        (*this.id, *this.deadline, *this.drop_panicked) = (job.id, job.deadline, false);
        this.span
            .renew(job.id, job.attempts, shared.worker_of(*this.slot));
        self.poll_or_start(shared, Some(make), cx)
    }

    /// Runs first attempts without limits one after another, behind one panic guard, until `next`
    /// returns none or an attempt waits or does not succeed. `next` takes the value of the attempt
    /// before.
    ///
    /// [`start`](Self::start) for each of the jobs would do, but cost about 55 instructions a job
    /// more.
    #[inline(always)]
    pub(crate) fn run_sequence<In, T, E, I>(
        mut self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        mut next: impl FnMut(Option<T>) -> Option<(JobId, I)>,
        make: impl Fn(I) -> F,
        cx: &mut Context<'_>,
    ) -> BatchEnd<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let (slot, cancel_flag) = (self.slot, &shared.cancel_flags[self.slot]);
        let this = self.as_mut().project();
        (*this.deadline, *this.drop_panicked) = (None, false);
        let mut is_exhausted = false;
        let polled = self.as_mut().catch_panics(|mut attempt, result| {
            let mut value = None;
            while let Some((id, input)) = next(value.take()) {
                let this = attempt.as_mut().project();
                *this.id = id;
                if let Some(reason) = cancel_flag.interrupted() {
                    *result = Some(Err(JobError::Cancelled(reason)));
                    drop(input);
                    return;
                }
                this.span.renew(id, 1, shared.worker_of(slot));
                attempt
                    .as_mut()
                    .poll_in_scope(shared, Some(|| make(input)), result, cx);
                match result.take() {
                    Some(Ok(done)) => value = Some(done),
                    last => {
                        *result = last;
                        return;
                    }
                }
                attempt.as_mut().project().span.close();
            }
            is_exhausted = true;
        });
        if is_exhausted {
            return BatchEnd::AllSucceeded;
        }
        match self.end_or_wait(shared, polled, cx) {
            Poll::Pending => BatchEnd::Waits,
            Poll::Ready(result) => BatchEnd::Unsuccessful(result),
        }
    }

    /// Polls the attempt. If it is ready, it is over: the handler's future is dropped.
    pub(crate) fn poll<In, T, E>(
        self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.poll_or_start(shared, None::<fn() -> F>, cx)
    }

    /// Polls the attempt; starts it if there is a `make`. Reports a poll that takes too long.
    #[inline(always)]
    fn poll_or_start<In, T, E>(
        mut self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        make: Option<impl FnOnce() -> F>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>>
    where
        F: Future<Output = Result<T, E>>,
    {
        if let Some(reason) = shared.cancel_flags[self.slot].interrupted() {
            *self.as_mut().project().drop_panicked |= panic::discard(make);
            return Poll::Ready(self.end(shared, Err(JobError::Cancelled(reason))));
        }
        let start = shared.slow_poll.map(|_| shared.timer.now());
        let polled = self
            .as_mut()
            .catch_panics(|attempt, result| attempt.poll_in_scope(shared, make, result, cx));
        if let (Some(bound), Some(start)) = (shared.slow_poll, start) {
            let (job, took) = (self.id, shared.timer.now().saturating_duration_since(start));
            if took > bound {
                shared.observe(|| Event::SlowPoll { job, took });
            }
        }
        self.end_or_wait(shared, polled, cx)
    }

    /// Calls `poll` behind a panic guard. Ready: the result that it has set, or its panic.
    #[inline(always)]
    fn catch_panics<T, E>(
        mut self: Pin<&mut Self>,
        poll: impl FnOnce(Pin<&mut Self>, &mut Option<Result<T, JobError<E>>>),
    ) -> Poll<Result<T, JobError<E>>> {
        let mut result = None;
        match panic::catch(|| poll(self.as_mut(), &mut result)) {
            Ok(()) => result.map_or(Poll::Pending, Poll::Ready),
            Err(message) => {
                // What comes after the result is a drop.
                *self.project().drop_panicked = result.is_some();
                Poll::Ready(result.unwrap_or(Err(JobError::Panicked(message))))
            }
        }
    }

    /// Makes the future if there is a `make`, polls it, and drops it if it is ready, once the
    /// result is set.
    #[inline(always)]
    fn poll_in_scope<In, T, E>(
        self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        make: Option<impl FnOnce() -> F>,
        result: &mut Option<Result<T, JobError<E>>>,
        cx: &mut Context<'_>,
    ) where
        F: Future<Output = Result<T, E>>,
    {
        let mut this = self.project();
        let current = CurrentJob {
            pool: shared.identity(),
            slot: *this.slot,
            id: *this.id,
        };
        this.span.in_scope(|| {
            current::enter(current, || {
                if let Some(make) = make {
                    this.future.set(Some(make()));
                }
                if let Some(future) = this.future.as_mut().as_pin_mut()
                    && let Poll::Ready(value) = future.poll(cx)
                {
                    *result = Some(value.map_err(JobError::Failed));
                    this.future.set(None);
                }
            });
        });
    }

    /// Ends an attempt that is ready. One that is pending waits for an interruption and the limit
    /// too.
    #[inline(always)]
    fn end_or_wait<In, T, E>(
        mut self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        polled: Poll<Result<T, JobError<E>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>> {
        let result = match polled {
            Poll::Ready(result) => result,
            Poll::Pending => match self.as_mut().wait(shared, cx) {
                Poll::Ready(result) => result,
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(self.end(shared, result))
    }

    /// Drops the handler's future and reports a panic of its drop.
    #[inline(always)]
    fn end<In, T, E>(
        mut self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        result: Result<T, JobError<E>>,
    ) -> Result<T, JobError<E>> {
        self.as_mut().discard();
        if self.drop_panicked {
            shared.observe(|| Event::DropPanicked { job: self.id });
        }
        result
    }

    /// Waits for an interruption and the limit, since the handler's future is pending.
    fn wait<In, T, E>(
        self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>> {
        let cancel_flag = &shared.cancel_flags[self.slot];
        let this = self.project();
        let interrupt = if this
            .registered
            .as_ref()
            .is_some_and(|registered| registered.will_wake(cx.waker()))
        {
            cancel_flag.interrupted()
        } else {
            *this.registered = Some(cx.waker().clone());
            cancel_flag.listen(cx.waker())
        };
        if let Some(reason) = interrupt {
            return Poll::Ready(Err(JobError::Cancelled(reason)));
        }
        if let Some((at, limit)) = *this.deadline {
            let sleep = this
                .sleep
                .get_or_insert_with(|| shared.timer.sleep_until(at));
            if sleep.as_mut().poll(cx).is_ready() {
                // The interruption wins: it may have come before the limit passed.
                return Poll::Ready(Err(cancel_flag
                    .interrupted()
                    .map_or(JobError::TimedOut(limit), JobError::Cancelled)));
            }
        }
        shared.poll_ended(cancel_flag);
        Poll::Pending
    }
}
