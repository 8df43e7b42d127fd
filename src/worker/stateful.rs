//! The loop of a worker whose handler has state.
//!
//! In: jobs of the injector. Out: their outcomes, by guard and buffer. It runs one job at a time in
//! the worker's own future, since each attempt borrows the state; it never opens a local queue.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures_lite::future;

use super::buffer::CompletionBuffer;
use super::guard::JobGuard;
use super::{STEPS_PER_TURN, Worker, complete_or_retry, prepare_attempt};
use crate::error::JobError;
use crate::handler::Handler;
use crate::job::queued::{Batch, QueuedJob};
use crate::queue::injector::{Closed, Pop};
use crate::shared::timer::TimerDriver;
use crate::worker::attempt::Attempt;

/// Runs jobs until the pool is drained or aborted.
pub(super) async fn run_stateful<In, C: Handler<In>>(
    mut worker: Worker<In, C::Value, C::Error, C>,
) {
    let shared = Arc::clone(&worker.guard.shared);
    let slot = shared.slots_of(worker.guard.id).start;
    let mut buffer = CompletionBuffer::new(Arc::clone(&shared));
    // Dropped after the attempt: an outcome is delivered once the handler's future is dropped.
    let mut guard = JobGuard::new(Arc::clone(&shared), slot);
    let mut timer = TimerDriver::new(Arc::clone(&shared), slot);
    let mut pop = pin!(shared.injector.pop());
    let mut jobs = 0;
    loop {
        if jobs >= STEPS_PER_TURN {
            jobs = 0;
            buffer.flush();
            future::yield_now().await;
        }
        let job = match shared.injector.try_pop() {
            Ok(Some(job)) => job,
            Ok(None) => {
                jobs = 0;
                buffer.flush();
                match pop_or_timer(pop.as_mut(), &mut timer).await {
                    Some(Ok(job)) => job,
                    Some(Err(Closed)) => break,
                    None => {
                        timer.pass();
                        continue;
                    }
                }
            }
            Err(Closed) => break,
        };
        jobs += 1;
        // Recorded under the shared lock: a job with state (a connection, say) waits, so a local
        // queue would save nothing.
        let Some((input, submitter)) = prepare_attempt(job, &mut guard, &mut buffer, |_| false)
        else {
            continue;
        };
        let (result, drop_panicked) = {
            let mut attempt = pin!(Attempt::new(slot));
            let mut make = Some(|| worker.handler.call(input, submitter));
            let result = poll_fn(|cx| {
                let polled = match make.take() {
                    Some(make) => attempt.as_mut().start(&shared, &guard, make, cx),
                    None => attempt.as_mut().poll(&shared, cx),
                };
                if polled.is_pending() {
                    buffer.flush();
                    // Ends: the timer is ready a few times at most.
                    while timer.poll(cx).is_ready() {
                        timer.pass();
                    }
                }
                polled
            })
            .await;
            (result, attempt.has_drop_panicked())
        };
        if drop_panicked || matches!(result, Err(JobError::Panicked(_))) {
            worker.handler.renew();
        }
        complete_or_retry(result, &mut guard, &mut buffer);
    }
}

/// Waits for a job, and drives the timer meanwhile. `None`: a deadline has passed, and the wait for
/// a job is given up, so a job that the timer releases notifies another waiting worker.
pub(crate) fn pop_or_timer<In, T, E>(
    mut pop: Pin<&mut Pop<'_, Batch<In, T, E>>>,
    timer: &mut TimerDriver<In, T, E>,
) -> impl Future<Output = Option<Result<QueuedJob<In, T, E>, Closed>>> {
    poll_fn(move |cx| match pop.as_mut().poll(cx) {
        Poll::Ready(job) => Poll::Ready(Some(job)),
        Poll::Pending => timer.poll(cx).map(|()| {
            pop.as_mut().stop();
            None
        }),
    })
}
