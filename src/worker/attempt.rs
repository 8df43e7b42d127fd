//! One attempt: an input and a handler come in, a result comes out, whatever the handler does.
//! Whether there is another one, [`retry`] decides; nothing is reported here: that is for the
//! worker and the reply.
//!
//! The order, from the outside in: interruption, time limit, panic guard, handler. A finished
//! result wins over a limit that passes in the same poll; an interruption that came before the poll
//! wins over both, so that nothing runs after a cancellation.

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
use crate::shared::{Interrupt, Shared};

pin_project! {
    /// The attempts of one slot, one after another: each pinned where its future stays. Dropping it
    /// drops the handler's future, and cannot hurt anybody.
    pub(crate) struct Attempt<F> {
        id: JobId,
        slot: usize,
        deadline: Option<(Instant, TimeLimit)>,
        span: JobSpan,
        #[pin]
        future: Option<F>,
        // Whether the handler's future has panicked in its drop.
        drop_panicked: bool,
        // Set when the attempt has to wait for the first time.
        sleep: Option<BoxFuture<'static, ()>>,
        // What was left in the slot's signal last, where it stays.
        left: Option<Waker>,
    }

    impl<F> PinnedDrop for Attempt<F> {
        fn drop(this: Pin<&mut Self>) {
            this.discard();
        }
    }
}

impl<F> Attempt<F> {
    /// Prepares a slot.
    pub(crate) const fn new(slot: usize) -> Self {
        Self {
            id: JobId(0),
            slot,
            deadline: None,
            span: JobSpan::NONE,
            future: None,
            drop_panicked: false,
            sleep: None,
            left: None,
        }
    }

    /// Whether there is none.
    pub(crate) const fn is_over(&self) -> bool {
        self.future.is_none()
    }

    /// The attempt is over: drops the handler's future in place, if it is still there; says whether
    /// that has panicked, now or before.
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

    /// Begins an attempt in a slot where there is none, and polls it for the first time; `make`
    /// makes its future. Otherwise as [`poll`](Self::poll).
    #[inline(always)]
    pub(crate) fn begin<In, T, E>(
        mut self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        job: &Begin,
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
        self.go_on(shared, Some(make), before_wait, cx)
    }

    /// Makes first attempts without a limit, one after another, behind one guard, until there is no
    /// more, or one waits or does not succeed. `next` takes the value of the one before and says
    /// which is the next.
    #[inline(always)]
    pub(crate) fn run<In, T, E, I>(
        mut self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        mut next: impl FnMut(Option<T>) -> Option<(JobId, I)>,
        make: impl Fn(I) -> F,
        cx: &mut Context<'_>,
    ) -> Ran<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let (slot, signal) = (self.slot, &shared.cancel_flags[self.slot]);
        let mut this = self.as_mut().project();
        (*this.deadline, *this.drop_panicked) = (None, false);
        let mut at = Standing::Over(None);
        let guarded = panic::catch(|| {
            while let Standing::Over(value) = &mut at {
                let Some((id, input)) = next(value.take()) else {
                    return;
                };
                at = Standing::Panicked;
                *this.id = id;
                if let Some(interrupt) = signal.interrupted() {
                    at = Standing::Failed(interrupted(interrupt));
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
                            at = match future.poll(cx) {
                                Poll::Pending => Standing::Waits,
                                Poll::Ready(Ok(value)) => Standing::Over(Some(value)),
                                Poll::Ready(Err(error)) => {
                                    Standing::Failed(JobError::Failed(error))
                                }
                            };
                            if !matches!(at, Standing::Waits) {
                                this.future.set(None);
                            }
                        },
                    );
                });
                if !matches!(at, Standing::Waits) {
                    this.span.close();
                }
            }
        });
        if guarded.is_err() {
            *this.drop_panicked = !matches!(at, Standing::Panicked);
        }
        match (at, guarded) {
            (Standing::Waits, _) => match self.wait(shared, |_| {}, cx) {
                Poll::Ready(result) => Ran::Ended(result),
                Poll::Pending => Ran::Waits,
            },
            (Standing::Over(Some(value)), _) => Ran::Ended(Ok(value)),
            (Standing::Failed(error), _) => Ran::Ended(Err(error)),
            (Standing::Panicked, Err(message)) => Ran::Ended(Err(JobError::Panicked(message))),
            (Standing::Over(None) | Standing::Panicked, _) => Ran::Out,
        }
    }

    /// Goes on with the attempt. `before_wait` is called each time before it waits for something.
    pub(crate) fn poll<In, T, E>(
        self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        before_wait: impl FnOnce(&mut Context<'_>),
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.go_on(shared, None::<fn() -> F>, before_wait, cx)
    }

    /// Polls it, for the first time if there is something to `make` its future.
    #[inline(always)]
    fn go_on<In, T, E>(
        mut self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        make: Option<impl FnOnce() -> F>,
        before_wait: impl FnOnce(&mut Context<'_>),
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>>
    where
        F: Future<Output = Result<T, E>>,
    {
        if let Some(interrupt) = shared.cancel_flags[self.slot].interrupted() {
            *self.project().drop_panicked |= panic::discard(make);
            return Poll::Ready(Err(interrupted(interrupt)));
        }
        match self.as_mut().poll_handler(shared, make, cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => self.wait(shared, before_wait, cx),
        }
    }

    /// The handler's future is pending: waits for an interruption or the limit, too.
    fn wait<In, T, E>(
        self: Pin<&mut Self>,
        shared: &Shared<In, T, E>,
        before_wait: impl FnOnce(&mut Context<'_>),
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>> {
        let signal = &shared.cancel_flags[self.slot];
        let this = self.project();
        let interrupt = if this
            .left
            .as_ref()
            .is_some_and(|left| left.will_wake(cx.waker()))
        {
            signal.interrupted()
        } else {
            *this.left = Some(cx.waker().clone());
            signal.listen(cx.waker())
        };
        if let Some(interrupt) = interrupt {
            return Poll::Ready(Err(interrupted(interrupt)));
        }
        before_wait(cx);
        let Some((at, limit)) = *this.deadline else {
            return Poll::Pending;
        };
        let sleep = this
            .sleep
            .get_or_insert_with(|| shared.timer.sleep_until(at));
        // An interruption that came during this poll may have come before the limit passed.
        sleep.as_mut().poll(cx).map(|()| {
            Err(signal
                .interrupted()
                .map_or(JobError::TimedOut(limit), interrupted))
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
        let place = CurrentJob {
            pool: shared.identity(),
            slot: self.slot,
            id: job,
        };
        let start = shared.slow_poll.map(|_| shared.timer.now());
        let polled = self.poll_guarded(place, make, cx);
        if let (Some(bound), Some(start)) = (shared.slow_poll, start) {
            let took = shared.timer.now().saturating_duration_since(start);
            if took > bound {
                shared.observe(|| Event::SlowPoll { job, took });
            }
        }
        polled
    }

    /// Makes the future if there is none yet, polls it, and drops it when it is done, behind one
    /// guard.
    #[inline(always)]
    fn poll_guarded<T, E>(
        self: Pin<&mut Self>,
        place: CurrentJob,
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
                current::enter(place, || {
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

/// How it went on with several jobs.
pub(crate) enum Ran<T, E> {
    /// There is no more.
    Out,
    /// The last one waits.
    Waits,
    /// That was the last one, and it did not go on from there.
    Ended(Result<T, JobError<E>>),
}

/// How it stands with the last of several jobs.
enum Standing<T, E> {
    /// With its value, if there was one.
    Over(Option<T>),
    Waits,
    Failed(JobError<E>),
    /// So it is, unless something else is known.
    Panicked,
}

/// What an attempt is told at its beginning.
#[derive(Debug)]
pub(crate) struct Begin {
    pub(crate) id: JobId,
    /// Which one it is of the job.
    pub(crate) attempts: u32,
    pub(crate) deadline: Option<(Instant, TimeLimit)>,
}

const fn interrupted<E>(interrupt: Interrupt) -> JobError<E> {
    JobError::Cancelled(interrupt.0)
}
