//! One attempt: an input and a handler come in, a result comes out, whatever the handler does. Whether there is another one,
//! [`retry`] decides; nothing is reported here: that is for the worker and the reply.
//!
//! The order, from the outside in: interruption, time limit, panic guard, handler. A finished result wins over a limit
//! that passes in the same poll; an interruption that came before the poll wins over both, so that nothing runs after a
//! cancellation.

pub(crate) mod inside;
pub(crate) mod retry;
mod span;
pub(crate) mod timeout;
pub(crate) mod unwind;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use pin_project_lite::pin_project;

use self::inside::Place;
use self::span::JobSpan;
use crate::engine::{Engine, Interrupt};
use crate::error::{JobError, TimeLimit};
use crate::observe::{Event, JobId};
use crate::rt::BoxFuture;

pin_project! {
    /// One attempt, pinned in the worker that runs it. Dropping it drops the handler's future, and cannot hurt anybody.
    pub(crate) struct Attempt<M, F> {
        id: JobId,
        slot: usize,
        deadline: Option<(Instant, TimeLimit)>,
        span: JobSpan,
        // What makes the future; called at the first poll.
        make: Option<M>,
        #[pin]
        future: Option<F>,
        // Whether the handler's future has panicked in its drop.
        drop_panicked: bool,
        // Set when the attempt has to wait for the first time.
        sleep: Option<BoxFuture<'static, ()>>,
    }

    impl<M, F> PinnedDrop for Attempt<M, F> {
        fn drop(this: Pin<&mut Self>) {
            this.discard();
        }
    }
}

impl<M, F> Attempt<M, F> {
    /// Drops the handler's future in place, if it is still there; says whether that has panicked, now or before.
    #[inline(always)]
    pub(crate) fn discard(self: Pin<&mut Self>) -> bool {
        if self.make.is_some() || self.future.is_some() {
            return self.discard_now();
        }
        self.drop_panicked
    }

    #[cold]
    fn discard_now(self: Pin<&mut Self>) -> bool {
        let mut this = self.project();
        let dropped = unwind::catch(|| {
            *this.make = None;
            this.future.set(None);
        });
        *this.drop_panicked = dropped.is_err();
        *this.drop_panicked
    }
}

impl<M: FnOnce() -> F, F> Attempt<M, F> {
    /// Prepares the attempt; `make` is called when it is polled first.
    #[inline]
    pub(crate) fn new(
        id: JobId,
        attempts: u32,
        slot: usize,
        worker: usize,
        deadline: Option<(Instant, TimeLimit)>,
        make: M,
    ) -> Self {
        let span = JobSpan::new(id, attempts, worker);
        Self { id, slot, deadline, span, make: Some(make), future: None, drop_panicked: false, sleep: None }
    }

    /// Goes on with the attempt. `before_wait` is called each time before it waits for something.
    pub(crate) fn poll<In, T, E>(
        mut self: Pin<&mut Self>,
        engine: &Engine<In, T, E>,
        before_wait: impl FnOnce(&mut Context<'_>),
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let signal = &engine.signals[self.slot];
        if let Some(interrupt) = signal.interrupted() {
            return Poll::Ready(Err(interrupted(interrupt)));
        }
        if let Poll::Ready(result) = self.as_mut().poll_handler(engine, cx) {
            return Poll::Ready(result);
        }
        if let Some(interrupt) = signal.listen(cx.waker()) {
            return Poll::Ready(Err(interrupted(interrupt)));
        }
        before_wait(cx);
        let this = self.project();
        let Some((at, limit)) = *this.deadline else { return Poll::Pending };
        let sleep = this.sleep.get_or_insert_with(|| engine.timer.sleep_until(at));
        // An interruption that came during this poll may have come before the limit passed.
        sleep.as_mut().poll(cx).map(|()| Err(signal.interrupted().map_or(JobError::TimedOut(limit), interrupted)))
    }

    #[inline(always)]
    fn poll_handler<In, T, E>(
        self: Pin<&mut Self>,
        engine: &Engine<In, T, E>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let job = self.id;
        let place = Place { pool: engine.identity(), slot: self.slot, id: job };
        let start = engine.slow_poll.map(|_| engine.timer.now());
        let polled = self.poll_guarded(place, cx);
        if let (Some(bound), Some(start)) = (engine.slow_poll, start) {
            let took = engine.timer.now().saturating_duration_since(start);
            if took > bound {
                engine.observe(|| Event::SlowPoll { job, took });
            }
        }
        polled
    }

    /// Makes the future if there is none yet, polls it, and drops it when it is done, behind one guard.
    #[inline(always)]
    fn poll_guarded<T, E>(self: Pin<&mut Self>, place: Place, cx: &mut Context<'_>) -> Poll<Result<T, JobError<E>>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let mut this = self.project();
        let mut result = None;
        let guarded = unwind::catch(|| {
            this.span.in_scope(|| {
                inside::enter(place, || {
                    if let Some(make) = this.make.take() {
                        this.future.set(Some(make()));
                    }
                    let Some(future) = this.future.as_mut().as_pin_mut() else { return };
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

const fn interrupted<E>(interrupt: Interrupt) -> JobError<E> {
    JobError::Cancelled(interrupt.0)
}
