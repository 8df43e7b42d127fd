//! A worker with many slots: it polls its jobs itself, those that were woken, and takes another one
//! as soon as a slot is free.
//!
//! A slot is made when it is needed first and used again after: one allocation for the future of
//! its jobs and, where there are several, one for its waker. A slot that was free last is used
//! first, so a worker whose jobs do not wait has one slot.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::buffer::CompletionBuffer;
use super::guard::JobGuard;
use super::local::{LocalJob, LocalWorker, Step};
use super::ready_list::{ReadyList, SlotWaker};
use super::stateful::job_or_moment;
use super::{JOBS_PER_TURN, Start, WorkerGuard, end, start};
use crate::channel::KeptNote;
use crate::error::JobError;
use crate::event::{Event, JobId};
use crate::handler::Stateless;
use crate::job::completion::Success;
use crate::job::queued::QueuedJob;
use crate::queue::injector::{Closed, Taken};
use crate::shared::Shared;
use crate::shared::timer::TimerDriver;
use crate::submit::Submitter;
use crate::worker::attempt::{Attempt, Begin, Ran};

/// After so many jobs that went on, a worker with a free slot looks whether another one has come.
const JOBS_PER_LOOK: usize = 16;

/// Runs jobs until the pool is drained or aborted.
pub(crate) async fn run<In, C: Stateless<In>>(seat: WorkerGuard<In, C::Value, C::Error>, call: C) {
    // What a worker works with is made when there is work, so that one that waits for its first job
    // takes little memory.
    let Some(first) = first_job(&seat).await else {
        return;
    };
    Box::pin(work(seat, call, first)).await;
}

/// Waits for the first job, and keeps the time meanwhile; `None` if there is none.
async fn first_job<In, T, E>(seat: &WorkerGuard<In, T, E>) -> Option<QueuedJob<In, T, E>> {
    let mut time = TimerDriver::new(
        Arc::clone(&seat.shared),
        seat.shared.slots_of(seat.worker).start,
    );
    let kept = KeptNote::default();
    loop {
        match job_or_moment(&seat.shared, &mut time, &kept).await {
            Some(first) => return first.ok(),
            // Not in line for a job any more, so what it releases does not wake this worker itself.
            None => time.pass(),
        }
    }
}

/// Runs this job and others.
async fn work<In, C: Stateless<In>>(
    seat: WorkerGuard<In, C::Value, C::Error>,
    call: C,
    first: QueuedJob<In, C::Value, C::Error>,
) {
    // Parameters are dropped last, the seat after the handler: that goes while its worker still
    // counts as there.
    let shared = Arc::clone(&seat.shared);
    let own = shared.slots_of(seat.worker);
    let mut first = Some(first);
    // An outcome is out when its future is gone, so this is dropped after the slots.
    let mut buffer = CompletionBuffer::new(Arc::clone(&shared));
    let mut slots = Slots::new(&shared, own.len(), own.start, |input, submitter| {
        call.start(input, submitter)
    });
    let mut time = TimerDriver::new(Arc::clone(&shared), own.start);
    let mut post = LocalWorker::new(Arc::clone(&shared));
    // Its place in the line for a job, while it stands there.
    let kept = KeptNote::default();
    let mut line = pin!(false.then(|| shared.injector.pop(&kept)));
    poll_fn(|cx| {
        // Each of those that were woken before has one turn. So a job that always wakes itself lets
        // the others have theirs: those of this worker, those in the queue, and those of the
        // executor.
        slots.look_who_was_woken();
        if slots.listed.len() > 1 {
            post.open();
        }
        let mut jobs = 0;
        if let Some(first) = first.take() {
            slots.take(first, &mut post, &mut buffer, C::WANTS_SUBMITTER, cx);
            jobs += 1;
        }
        while jobs < JOBS_PER_TURN {
            let mut gone_on = 0;
            while gone_on < JOBS_PER_LOOK
                && let Some(at) = slots.listed.pop_front()
            {
                // A job that comes is not to wait for one that is busy.
                line.set(None);
                slots.go_on(at, &mut post, &mut buffer, cx);
                gone_on += 1;
            }
            jobs += gone_on;
            let next = match line.as_mut().as_pin_mut() {
                _ if jobs >= JOBS_PER_TURN => break,
                _ if slots.is_full() => None,
                None if post.hand().is_some() => Some(Ok(Taken::Batch)),
                // Where the one after would have to wait for this one, it is not taken along.
                None if slots.is_about_to_be_full() => Some(post.take_one()),
                None => Some(post.take()),
                Some(pop) => match pop.poll(cx) {
                    Poll::Ready(popped) => Some(popped.map(Taken::One)),
                    Poll::Pending => Some(Ok(Taken::Nothing)),
                },
            };
            match next {
                Some(Ok(Taken::Batch)) => {
                    jobs += slots.run_hand(
                        &mut post,
                        &mut buffer,
                        (JOBS_PER_TURN - jobs).min(JOBS_PER_LOOK),
                        cx,
                    );
                    continue;
                }
                Some(Ok(Taken::One(entry))) => {
                    line.set(None);
                    // The first one may be the only one, and what waits is booked sooner or later
                    // anyway.
                    if jobs > 0 && !slots.has_waited {
                        post.open();
                    }
                    slots.take(entry, &mut post, &mut buffer, C::WANTS_SUBMITTER, cx);
                    jobs += 1;
                    continue;
                }
                _ if gone_on > 0 => continue,
                Some(Ok(Taken::Nothing | Taken::NeedsLocalQueue)) => {
                    post.close();
                    buffer.flush();
                    if line.is_none() {
                        line.set(Some(shared.injector.pop(&kept)));
                        continue;
                    }
                }
                Some(Err(Closed)) if slots.is_empty() => return Poll::Ready(()),
                // All are occupied, or the last of them are about to end.
                Some(Err(Closed)) | None => {
                    line.set(None);
                    post.close();
                    buffer.flush();
                }
            }
            jobs += 1;
            if time.poll(cx).is_ready() {
                // Not in line for a job any more, so what it releases does not wake this worker
                // itself.
                line.set(None);
                time.pass();
                continue;
            }
            if slots.may_wait(cx.waker()) {
                return Poll::Pending;
            }
            break;
        }
        line.set(None);
        post.close();
        buffer.flush();
        // It is ready a few times at most.
        while time.poll(cx).is_ready() {
            time.pass();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The slots that were needed so far. `make` makes a handler's future `F`.
struct Slots<'a, In, T, E, F, M> {
    shared: &'a Arc<Shared<In, T, E>>,
    make: M,
    /// `None` where there may be only one: that is woken with its worker.
    woken: Option<Arc<ReadyList>>,
    /// Those that were woken and have their turn now.
    listed: VecDeque<usize>,
    /// Whether the job that was started last has waited.
    has_waited: bool,
    /// How many there may be.
    most: usize,
    /// The number of the first within the pool.
    first: usize,
    /// Bounded by `most`.
    slots: Vec<Slot<In, T, E, F>>,
    /// Those of them that have no job; the one that was freed last comes last.
    free: Vec<usize>,
}

struct Slot<In, T, E, F> {
    // Before the guard: an outcome is told when the future is gone.
    attempt: Pin<Box<Attempt<F>>>,
    guard: JobGuard<In, T, E>,
    /// Its own, twice: as a list wants it, and as polls want it.
    waker: Option<(Arc<SlotWaker>, Waker)>,
}

impl<'a, In, T, E, F, M> Slots<'a, In, T, E, F, M>
where
    M: Fn(In, Option<Submitter<In, T, E>>) -> F,
    F: Future<Output = Result<T, E>>,
{
    fn new(shared: &'a Arc<Shared<In, T, E>>, most: usize, first: usize, make: M) -> Self {
        Self {
            shared,
            make,
            woken: (most > 1).then(Arc::default),
            listed: VecDeque::new(),
            has_waited: false,
            most,
            first,
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Moves those that were woken to the list of those that have their turn.
    fn look_who_was_woken(&mut self) {
        match &self.woken {
            Some(woken) => woken.take(&mut self.listed),
            None if self.is_empty() => {}
            None => self.listed.push_back(0),
        }
    }

    /// Leaves the worker's waker, unless a slot was woken already; says whether it may wait.
    fn may_wait(&self, waker: &Waker) -> bool {
        self.woken.as_ref().is_none_or(|woken| woken.wait(waker))
    }

    fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() == self.most
    }

    /// Whether there is one place left, and the last job that was started has waited.
    fn is_about_to_be_full(&self) -> bool {
        self.has_waited && self.most - (self.slots.len() - self.free.len()) == 1
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Starts a job in a free slot, and polls it.
    fn take(
        &mut self,
        entry: QueuedJob<In, T, E>,
        post: &mut LocalWorker<In, T, E>,
        buffer: &mut CompletionBuffer<In, T, E>,
        wants_submitter: bool,
        cx: &mut Context<'_>,
    ) {
        let at = self.free_slot();
        let number = self.first + at;
        let guard = &mut self.slots[at].guard;
        let note = |started_job| post.record_start(number, started_job);
        let Some(started) = start(
            self.shared,
            number,
            entry,
            guard,
            buffer,
            wants_submitter,
            note,
        ) else {
            return;
        };
        self.free.pop();
        let Start {
            id,
            attempts,
            deadline,
            input,
            submitter,
        } = started;
        let (slot, make) = (&mut self.slots[at], &self.make);
        let polled = slot.attempt.as_mut().begin(
            self.shared,
            &Begin {
                id,
                attempts,
                deadline,
            },
            || make(input, submitter),
            |_| {},
            &mut own_context(&slot.waker, cx),
        );
        self.has_waited = polled.is_pending();
        self.proceed(at, polled, post, buffer);
    }

    /// Runs jobs of the hand, at most so many, each in a slot until it waits; says how many.
    fn run_hand(
        &mut self,
        post: &mut LocalWorker<In, T, E>,
        buffer: &mut CompletionBuffer<In, T, E>,
        most: usize,
        cx: &mut Context<'_>,
    ) -> usize {
        buffer.clear_for(post.hand());
        let mut jobs = 0;
        while jobs < most && !self.is_full() {
            let at = self.free_slot();
            let number = self.first + at;
            let mut first = match post.step(number, false) {
                Step::Job(job) => Some(job),
                Step::Empty => break,
                Step::Called => {
                    post.close();
                    break;
                }
            };
            let Slot {
                attempt,
                guard,
                waker,
                ..
            } = &mut self.slots[at];
            let mut now = (JobId(0), 0);
            // One after another, until one waits.
            let ran = attempt.as_mut().run(
                self.shared,
                |value| {
                    let next = match value {
                        None => first.take(),
                        Some(value) => {
                            let success = Success {
                                id: now.0,
                                index: now.1,
                                value,
                            };
                            post.succeed(number, success, guard, buffer, jobs < most)
                        }
                    };
                    next.map(|LocalJob { id, index, input }| {
                        now = (id, index);
                        jobs += 1;
                        (id, input)
                    })
                },
                |input| (self.make)(input, None),
                &mut own_context(waker, cx),
            );
            match ran {
                Ran::Out => self.has_waited = false,
                Ran::Waits => {
                    self.has_waited = true;
                    post.adopt(now.0, now.1, guard);
                    self.free.pop();
                    buffer.send_if_due();
                }
                Ran::Ended(result) => {
                    attempt.as_mut().discard();
                    post.adopt(now.0, now.1, guard);
                    end(self.shared, result, guard, buffer);
                }
            }
        }
        jobs
    }

    /// One without a job, which stays on the list of those.
    fn free_slot(&mut self) -> usize {
        self.free.last().copied().unwrap_or_else(|| self.add())
    }

    /// Makes one more slot, without a job.
    fn add(&mut self) -> usize {
        let at = self.slots.len();
        let waker = self.woken.as_ref().map(|woken| {
            let listing = SlotWaker::new(woken, at);
            (Arc::clone(&listing), Waker::from(listing))
        });
        self.slots.push(Slot {
            attempt: Box::pin(Attempt::new(self.first + at)),
            guard: JobGuard::new(Arc::clone(self.shared), self.first + at),
            waker,
        });
        self.free.push(at);
        at
    }

    /// Goes on with the job of a slot that was woken.
    fn go_on(
        &mut self,
        at: usize,
        post: &mut LocalWorker<In, T, E>,
        buffer: &mut CompletionBuffer<In, T, E>,
        cx: &mut Context<'_>,
    ) {
        let slot = &self.slots[at];
        if let Some((listing, _)) = &slot.waker {
            listing.unlist();
        }
        // It may have been woken by a job that is gone.
        if !slot.attempt.is_over() {
            buffer.clear_for(slot.guard.stream());
            let slot = &mut self.slots[at];
            let polled =
                slot.attempt
                    .as_mut()
                    .poll(self.shared, |_| {}, &mut own_context(&slot.waker, cx));
            self.proceed(at, polled, post, buffer);
        }
    }

    /// The job of a slot was polled.
    fn proceed(
        &mut self,
        at: usize,
        polled: Poll<Result<T, JobError<E>>>,
        post: &LocalWorker<In, T, E>,
        buffer: &mut CompletionBuffer<In, T, E>,
    ) {
        let Poll::Ready(result) = polled else {
            // What others are waiting for does not wait for more of these.
            buffer.send_if_due();
            return;
        };
        let slot = &mut self.slots[at];
        let drop_panicked = slot.attempt.as_mut().discard();
        self.free.push(at);
        let job = slot.guard.id;
        if drop_panicked {
            self.shared.observe(|| Event::DropPanicked { job });
        }
        let number = self.first + at;
        let result = match result {
            Ok(value) if post.is_open() => match slot
                .guard
                .succeed(value, buffer, || post.record_success(number))
            {
                None => return,
                Some(value) => Ok(value),
            },
            result => result,
        };
        end(self.shared, result, &mut slot.guard, buffer);
    }
}

/// What the job of a slot is polled with.
fn own_context<'a>(own: &'a Option<(Arc<SlotWaker>, Waker)>, cx: &'a Context<'_>) -> Context<'a> {
    Context::from_waker(own.as_ref().map_or_else(|| cx.waker(), |(_, waker)| waker))
}

impl<In, T, E, F, M> Drop for Slots<'_, In, T, E, F, M> {
    fn drop(&mut self) {
        if let Some(woken) = &self.woken {
            woken.leave();
        }
    }
}
