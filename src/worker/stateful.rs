//! The worker of a handler with state: one job after another, each in the worker's own future,
//! since each borrows the state.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_lite::future;

use super::buffer::CompletionBuffer;
use super::guard::JobGuard;
use super::{JOBS_PER_TURN, Start, WorkerGuard, end, start};
use crate::channel::KeptNote;
use crate::error::JobError;
use crate::event::Event;
use crate::handler::Call;
use crate::job::queued::QueuedJob;
use crate::queue::injector::Closed;
use crate::shared::Shared;
use crate::shared::timer::TimerDriver;
use crate::worker::attempt::{Attempt, Begin};

/// Runs jobs until the pool is drained or aborted.
pub(crate) async fn run_one_by_one<In, C: Call<In>>(
    seat: WorkerGuard<In, C::Value, C::Error>,
    mut call: C,
) {
    // Parameters are dropped last, the seat after the state: that goes while its worker still
    // counts as there.
    let shared = Arc::clone(&seat.shared);
    let slot = shared.slots_of(seat.worker).start;
    let mut buffer = CompletionBuffer::new(Arc::clone(&shared));
    // Declared before the attempts, so dropped after them: an outcome is out when the handler's
    // future is gone.
    let mut guard = JobGuard::new(Arc::clone(&shared), slot);
    let mut time = TimerDriver::new(Arc::clone(&shared), slot);
    let kept = KeptNote::default();
    let mut jobs = 0;
    loop {
        if jobs >= JOBS_PER_TURN {
            jobs = 0;
            buffer.flush();
            future::yield_now().await;
        }
        let entry = match shared.injector.try_pop() {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                jobs = 0;
                buffer.flush();
                match job_or_moment(&shared, &mut time, &kept).await {
                    Some(Ok(entry)) => entry,
                    Some(Err(Closed)) => break,
                    None => {
                        // Not in line for a job any more, so what it releases does not wake this
                        // worker itself.
                        time.pass();
                        continue;
                    }
                }
            }
            Err(Closed) => break,
        };
        jobs += 1;
        // Its state is a connection, say, and its jobs wait: there is nothing to gain by a local queue.
        let Some(started) = start(
            &shared,
            slot,
            entry,
            &mut guard,
            &mut buffer,
            C::WANTS_SUBMITTER,
            |_| false,
        ) else {
            continue;
        };
        let Start {
            id,
            attempts,
            deadline,
            input,
            submitter,
        } = started;
        let begin = Begin {
            id,
            attempts,
            deadline,
        };
        let drop_panicked;
        let result = {
            let mut attempt = pin!(Attempt::new(slot));
            let mut make = Some(|| call.call(input, submitter));
            let mut before_wait = |cx: &mut Context<'_>| {
                buffer.flush();
                // It is ready a few times at most.
                while time.poll(cx).is_ready() {
                    time.pass();
                }
            };
            let result = poll_fn(|cx| match make.take() {
                Some(make) => attempt
                    .as_mut()
                    .begin(&shared, &begin, make, &mut before_wait, cx),
                None => attempt.as_mut().poll(&shared, &mut before_wait, cx),
            })
            .await;
            drop_panicked = attempt.as_mut().discard();
            result
        };
        if drop_panicked {
            shared.observe(|| Event::DropPanicked { job: id });
        }
        if drop_panicked || matches!(result, Err(JobError::Panicked(_))) {
            call.renew();
        }
        end(&shared, result, &mut guard, &mut buffer);
    }
}

/// Waits for a job, and keeps the time meanwhile. `None`: the next moment has come; the place in
/// the line for a job is given up.
pub(crate) async fn job_or_moment<In, T, E>(
    shared: &Shared<In, T, E>,
    time: &mut TimerDriver<In, T, E>,
    kept: &KeptNote,
) -> Option<Result<QueuedJob<In, T, E>, Closed>> {
    let mut job = pin!(shared.injector.pop(kept));
    poll_fn(|cx| match job.as_mut().poll(cx) {
        Poll::Ready(job) => Poll::Ready(Some(job)),
        Poll::Pending => time.poll(cx).map(|()| None),
    })
    .await
}
