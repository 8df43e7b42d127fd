//! The worker of a handler with state: one job after another, each in the worker's own future, since each borrows the state.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_lite::future;

use super::post::{Fresh, Post, Step};
use super::{JOBS_PER_TURN, Seat, Start, end, start};
use crate::attempt::{Attempt, Begin};
use crate::channel::KeptNote;
use crate::engine::Engine;
use crate::engine::timekeeper::Timekeeping;
use crate::error::JobError;
use crate::handler::Call;
use crate::observe::Event;
use crate::queue::injector::{Closed, Taken};
use crate::reply::{Entry, Outbox, Ticket};
use crate::results::stream::Success;

/// Runs jobs until the pool is drained or aborted.
pub(crate) async fn run_one_by_one<In, C: Call<In>>(seat: Seat<In, C::Value, C::Error>, mut call: C) {
    // Parameters are dropped last, the seat after the state: that goes while its worker still counts as there.
    let engine = Arc::clone(&seat.engine);
    let slot = engine.slots_of(seat.worker).start;
    let mut outbox = Outbox::new();
    // Declared before the attempts, so dropped after them: an outcome is out when the handler's future is gone.
    let mut ticket = Ticket::new(slot);
    let mut time = Timekeeping::new(Arc::clone(&engine), slot);
    let mut post = Post::new(Arc::clone(&engine));
    let kept = KeptNote::default();
    let mut jobs = 0;
    // Whether the last job had to wait: the next one will, too, and others in the hand would only have to be given back.
    let mut has_waited = false;
    let mut next: Option<Fresh<In>> = None;
    loop {
        let (started, mut fresh) = if let Some(job) = next.take() {
            let (id, index) = (job.id, job.index);
            (Start { id, attempts: 1, deadline: None, input: job.input, submitter: None }, Some((id, index)))
        } else {
            if jobs >= JOBS_PER_TURN {
                jobs = 0;
                post.close();
                outbox.flush();
                future::yield_now().await;
            }
            let taken = match post.hand() {
                Some(_) => Ok(Taken::Hand),
                None if has_waited => post.take_one(),
                None => post.take(),
            };
            let entry = match taken {
                Ok(Taken::One(entry)) => entry,
                Ok(Taken::Hand) => {
                    outbox.book();
                    outbox.clear_for(post.hand());
                    match post.step(slot, false) {
                        Step::Job(job) => next = Some(job),
                        Step::Empty => {}
                        Step::Called => post.close(),
                    }
                    continue;
                }
                Ok(Taken::Nothing | Taken::WantsDesk) => {
                    jobs = 0;
                    post.close();
                    outbox.flush();
                    match job_or_moment(&engine, &mut time, &kept).await {
                        Some(Ok(entry)) => entry,
                        Some(Err(Closed)) => break,
                        None => {
                            // Not in line for a job any more, so what it releases does not wake this worker itself.
                            time.pass();
                            continue;
                        }
                    }
                }
                Err(Closed) => break,
            };
            match start(&engine, slot, entry, &mut ticket, &mut outbox, C::WANTS_SUBMITTER, |_| false) {
                Some(started) => (started, None),
                None => {
                    jobs += 1;
                    continue;
                }
            }
        };
        jobs += 1;
        has_waited = false;
        let Start { id, attempts, deadline, input, submitter } = started;
        let begin = Begin { id, attempts, deadline };
        let drop_panicked;
        let result = {
            let mut attempt = pin!(Attempt::new(slot));
            let mut make = Some(|| call.call(input, submitter));
            let mut before_wait = |cx: &mut Context<'_>| {
                if !has_waited {
                    has_waited = true;
                    if let Some((id, index)) = fresh.take() {
                        post.adopt(id, index, &mut ticket);
                    }
                    post.close();
                }
                outbox.flush();
                // It is ready a few times at most.
                while time.poll(cx).is_ready() {
                    time.pass();
                }
            };
            let result = poll_fn(|cx| match make.take() {
                Some(make) => attempt.as_mut().begin(&engine, &begin, make, &mut before_wait, cx),
                None => attempt.as_mut().poll(&engine, &mut before_wait, cx),
            })
            .await;
            drop_panicked = attempt.as_mut().discard();
            result
        };
        if drop_panicked {
            engine.observe(|| Event::DropPanicked { job: id });
        }
        if drop_panicked || matches!(result, Err(JobError::Panicked(_))) {
            call.renew();
        }
        let Some((id, index)) = fresh else {
            end(&engine, result, &mut ticket, &mut outbox);
            continue;
        };
        match result {
            Ok(value) => {
                let success = Success { id, index, value };
                next = post.succeed(slot, success, &mut ticket, &mut outbox, jobs < JOBS_PER_TURN);
            }
            failure => {
                post.adopt(id, index, &mut ticket);
                end(&engine, failure, &mut ticket, &mut outbox);
            }
        }
    }
}

/// Waits for a job, and keeps the time meanwhile. `None`: the next moment has come; the place in the line for a job is given up.
pub(crate) async fn job_or_moment<In, T, E>(
    engine: &Engine<In, T, E>,
    time: &mut Timekeeping<In, T, E>,
    kept: &KeptNote,
) -> Option<Result<Entry<In, T, E>, Closed>> {
    let mut job = pin!(engine.injector.pop(kept));
    poll_fn(|cx| match job.as_mut().poll(cx) {
        Poll::Ready(job) => Poll::Ready(Some(job)),
        Poll::Pending => time.poll(cx).map(|()| None),
    })
    .await
}
