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

    /// Ends the attempt: drops the handler's future in place; returns whether that drop has
    /// panicked, now or during a poll.
    #[inline(always)]
    pub(crate) fn discard(self: Pin<&mut Self>) -> bool {
        let mut this = self.project();
        if this.future.is_some() || this.sleep.is_some() {
            *this.sleep = None;
            *this.drop_panicked |= panic::catch(|| this.future.set(None)).is_err();
        }
        this.span.close();
        *this.drop_panicked
    }

    /// Starts an attempt and polls it; `make` makes its future. Otherwise as [`poll`](Self::poll).
    /// No attempt may be running.
    #[inline(always)]
    pub(crate) fn start<In, T, E>(
        mut self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        job: &AttemptStart,
        make: impl FnOnce() -> F,
        before_wait: impl FnOnce(&mut Context<'_>),
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let this = self.as_mut().project();
        (*this.id, *this.deadline, *this.drop_panicked) = (job.id, job.deadline, false);
        this.span
            .renew(job.id, job.attempts, shared.worker_of(*this.slot));
        self.poll_or_start(shared, Some(make), before_wait, cx)
    }

    /// Runs first attempts without limits one after another, behind one panic guard, until `next`
    /// returns none or an attempt waits or does not succeed. `next` takes the value of the attempt
    /// before.
    #[inline(always)]
    pub(crate) fn run_batch<In, T, E, I>(
        mut self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        mut next: impl FnMut(Option<T>) -> Option<(JobId, I)>,
        make: impl Fn(I) -> F,
        cx: &mut Context<'_>,
    ) -> BatchRun<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let (slot, cancel_flag) = (self.slot, &shared.cancel_flags[self.slot]);
        let mut this = self.as_mut().project();
        (*this.deadline, *this.drop_panicked) = (None, false);
        let mut progress = Progress::Done(None);
        let guarded = panic::catch(|| {
            while let Progress::Done(value) = &mut progress {
                let Some((id, input)) = next(value.take()) else {
                    return;
                };
                progress = Progress::Panicked;
                *this.id = id;
                if let Some(reason) = cancel_flag.interrupted() {
                    progress = Progress::Failed(JobError::Cancelled(reason));
                    drop(input);
                    return;
                }
                this.span.renew(id, 1, shared.worker_of(slot));
                this.span.in_scope(|| {
                    current::enter(
                        CurrentJob {
                            pool: shared.identity(),
                            slot,
                            id,
                        },
                        || {
                            this.future.set(Some(make(input)));
                            let Some(future) = this.future.as_mut().as_pin_mut() else {
                                return;
                            };
                            progress = match future.poll(cx) {
                                Poll::Pending => Progress::Pending,
                                Poll::Ready(Ok(value)) => Progress::Done(Some(value)),
                                Poll::Ready(Err(error)) => {
                                    Progress::Failed(JobError::Failed(error))
                                }
                            };
                            if !matches!(progress, Progress::Pending) {
                                this.future.set(None);
                            }
                        },
                    );
                });
                if !matches!(progress, Progress::Pending) {
                    this.span.close();
                }
            }
        });
        if guarded.is_err() {
            *this.drop_panicked = !matches!(progress, Progress::Panicked);
        }
        match (progress, guarded) {
            (Progress::Pending, _) => match self.wait(shared, |_| {}, cx) {
                Poll::Ready(result) => BatchRun::Ended(result),
                Poll::Pending => BatchRun::Pending,
            },
            (Progress::Done(Some(value)), _) => BatchRun::Ended(Ok(value)),
            (Progress::Failed(error), _) => BatchRun::Ended(Err(error)),
            (Progress::Panicked, Err(message)) => BatchRun::Ended(Err(JobError::Panicked(message))),
            (Progress::Done(None) | Progress::Panicked, _) => BatchRun::Exhausted,
        }
    }

    /// Polls the attempt. Calls `before_wait` if the attempt waits.
    pub(crate) fn poll<In, T, E>(
        self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        before_wait: impl FnOnce(&mut Context<'_>),
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.poll_or_start(shared, None::<fn() -> F>, before_wait, cx)
    }

    /// Polls the attempt; starts it if there is a `make`.
    #[inline(always)]
    fn poll_or_start<In, T, E>(
        mut self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        make: Option<impl FnOnce() -> F>,
        before_wait: impl FnOnce(&mut Context<'_>),
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>>
    where
        F: Future<Output = Result<T, E>>,
    {
        if let Some(reason) = shared.cancel_flags[self.slot].interrupted() {
            *self.project().drop_panicked |= panic::discard(make);
            return Poll::Ready(Err(JobError::Cancelled(reason)));
        }
        match self.as_mut().poll_handler(shared, make, cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => self.wait(shared, before_wait, cx),
        }
    }

    /// Waits for an interruption and the limit too, since the handler's future is pending.
    fn wait<In, T, E>(
        self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        before_wait: impl FnOnce(&mut Context<'_>),
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
        before_wait(cx);
        let Some((at, limit)) = *this.deadline else {
            return Poll::Pending;
        };
        let sleep = this
            .sleep
            .get_or_insert_with(|| shared.timer.sleep_until(at));
        // The interruption wins: it may have come before the limit passed.
        sleep.as_mut().poll(cx).map(|()| {
            Err(cancel_flag
                .interrupted()
                .map_or(JobError::TimedOut(limit), JobError::Cancelled))
        })
    }

    #[inline(always)]
    fn poll_handler<In, T, E>(
        self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        make: Option<impl FnOnce() -> F>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let job = self.id;
        let current = CurrentJob {
            pool: shared.identity(),
            slot: self.slot,
            id: job,
        };
        let start = shared.slow_poll.map(|_| shared.timer.now());
        let polled = self.poll_guarded(current, make, cx);
        if let (Some(bound), Some(start)) = (shared.slow_poll, start) {
            let took = shared.timer.now().saturating_duration_since(start);
            if took > bound {
                shared.observe(|| Event::SlowPoll { job, took });
            }
        }
        polled
    }

    /// Makes the future if there is a `make`, polls it, and drops it if it is ready, all behind one
    /// panic guard.
    #[inline(always)]
    fn poll_guarded<T, E>(
        self: Pin<&mut Self>,
        current: CurrentJob,
        make: Option<impl FnOnce() -> F>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let mut this = self.project();
        let mut result = None;
        let guarded = panic::catch(|| {
            this.span.in_scope(|| {
                current::enter(current, || {
                    if let Some(make) = make {
                        this.future.set(Some(make()));
                    }
                    let Some(future) = this.future.as_mut().as_pin_mut() else {
                        return;
                    };
                    if let Poll::Ready(value) = future.poll(cx) {
                        result = Some(value);
                        this.future.set(None);
                    }
                });
            });
        });
        match result {
            Some(result) => {
                *this.drop_panicked = guarded.is_err();
                Poll::Ready(result.map_err(JobError::Failed))
            }
            None => match guarded {
                Ok(()) => Poll::Pending,
                Err(message) => Poll::Ready(Err(JobError::Panicked(message))),
            },
        }
    }
}

/// How a run of several attempts ended.
pub(crate) enum BatchRun<T, E> {
    /// All have succeeded.
    Exhausted,
    /// The last attempt waits.
    Pending,
    /// The last attempt has this result; `next` has not had its value.
    Ended(Result<T, JobError<E>>),
}

/// The last attempt of several.
enum Progress<T, E> {
    /// With its value; none before the first attempt.
    Done(Option<T>),
    Pending,
    Failed(JobError<E>),
    /// Set before each attempt, so it is true unless another value is set.
    Panicked,
}

/// What an attempt needs to know at its start.
#[derive(Debug)]
pub(crate) struct AttemptStart {
    pub(crate) id: JobId,
    /// The number of the attempt, counted from 1.
    pub(crate) attempts: u32,
    pub(crate) deadline: Option<(Instant, TimeLimit)>,
}
