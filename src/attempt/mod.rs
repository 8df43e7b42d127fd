//! One attempt: an input and a handler come in, a result comes out, whatever the handler does. It never decides whether
//! there is another attempt, and never reports anything: that is for the worker and the reply.
//!
//! The order, from the outside in: interruption, time limit, panic guard, handler. A finished result wins over a limit
//! that passes in the same poll; an interruption that came before the poll wins over both, so that nothing runs after a
//! cancellation.

pub(crate) mod inside;
mod span;
pub(crate) mod timeout;
pub(crate) mod unwind;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Instant;

use pin_project_lite::pin_project;

use self::inside::Place;
use self::span::JobSpan;
use crate::engine::{Engine, Interrupt};
use crate::error::{JobError, TimeLimit};
use crate::observe::Event;
use crate::rt::BoxFuture;

/// What an attempt is told about its surroundings.
#[derive(Debug)]
pub(crate) struct Attempt<'a, In, T, E> {
    pub(crate) engine: &'a Engine<In, T, E>,
    pub(crate) place: Place,
    pub(crate) attempts: u32,
    pub(crate) deadline: Option<(Instant, TimeLimit)>,
}

impl<In, T, E> Attempt<'_, In, T, E> {
    /// Runs the handler to its end, or until it is interrupted or out of time. Its future is dropped before this returns.
    ///
    /// `before_wait` is called each time before the attempt waits for something.
    ///
    /// Dropping this future drops the handler's.
    pub(crate) async fn run<F>(&self, make: impl FnOnce() -> F, mut before_wait: impl FnMut()) -> Result<T, JobError<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let span = JobSpan::new(self.place.id, self.attempts, self.place.slot);
        let made = span.in_scope(|| inside::enter(self.place, || unwind::catch(make)));
        let mut handler = match made {
            Ok(future) => pin!(Contained { future: Some(future) }),
            Err(message) => return Err(JobError::Panicked(message)),
        };
        let signal = &self.engine.signals[self.place.slot];
        let mut sleep: Option<BoxFuture<'static, ()>> = None;
        let result = poll_fn(|cx| {
            if let Some(interrupt) = signal.interrupted() {
                return Poll::Ready(Err(interrupted(interrupt)));
            }
            if let Poll::Ready(result) = self.poll_handler(handler.as_mut(), &span, cx) {
                return Poll::Ready(result);
            }
            before_wait();
            if let Some(interrupt) = signal.listen(cx.waker()) {
                return Poll::Ready(Err(interrupted(interrupt)));
            }
            let Some((at, limit)) = self.deadline else { return Poll::Pending };
            let sleep = sleep.get_or_insert_with(|| self.engine.timer.sleep_until(at));
            sleep.as_mut().poll(cx).map(|()| Err(JobError::TimedOut(limit)))
        })
        .await;
        if handler.as_mut().discard() {
            self.engine.observe(|| Event::DropPanicked { job: self.place.id });
        }
        result
    }

    fn poll_handler<F>(
        &self,
        handler: Pin<&mut Contained<F>>,
        span: &JobSpan,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, JobError<E>>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let poll = || span.in_scope(|| inside::enter(self.place, || unwind::catch(|| handler.poll(cx))));
        let polled = match self.engine.slow_poll {
            None => poll(),
            Some(bound) => {
                let start = self.engine.timer.now();
                let polled = poll();
                let took = self.engine.timer.now().saturating_duration_since(start);
                if took > bound {
                    self.engine.observe(|| Event::SlowPoll { job: self.place.id, took });
                }
                polled
            }
        };
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(result)) => Poll::Ready(result.map_err(JobError::Failed)),
            Err(message) => Poll::Ready(Err(JobError::Panicked(message))),
        }
    }
}

const fn interrupted<E>(interrupt: Interrupt) -> JobError<E> {
    JobError::Cancelled(interrupt.0)
}

pin_project! {
    /// A handler's future whose drop cannot hurt anybody.
    struct Contained<F> {
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for Contained<F> {
        fn drop(this: Pin<&mut Self>) {
            this.discard();
        }
    }
}

impl<F> Contained<F> {
    /// Drops the future in place; says whether that panicked.
    fn discard(self: Pin<&mut Self>) -> bool {
        let mut future = self.project().future;
        unwind::catch(|| future.set(None)).is_err()
    }
}

impl<F: Future> Contained<F> {
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.as_pin_mut().map_or(Poll::Pending, |future| future.poll(cx))
    }
}
