//! The loop of a worker without state, with one slot or many.
//!
//! In: jobs, from the [`LocalWorker`]. Out: their outcomes, by guard and buffer. It polls only the
//! slots that have been woken, and never takes a job that it has no slot for.
//!
//! A turn of the loop
//!
//! 1. collects the woken slots: [`Slots::collect_ready`];
//! 2. polls up to [`POLLS_PER_POP`] of them: [`Slots::poll_ready`];
//! 3. takes the next job, if a slot is free, by [`next_step`], and starts it: [`Slots::run_batch`]
//!    for jobs of the local queue, [`Slots::start`] for a single one;
//! 4. repeats 2 and 3 until [`STEPS_PER_TURN`], then yields; or until there is nothing to do, then
//!    closes the local queue, flushes the buffer, drives the timer and waits.
//!
//! A slot is created when it is first needed, and reused: one allocation for the futures of its
//! jobs and, in a worker with several, one for its waker. The slot that was freed last is used
//! first, so a worker whose jobs do not wait has one slot.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::attempt::{Attempt, BatchEnd};
use super::buffer::CompletionBuffer;
use super::guard::JobGuard;
use super::local::{FromBatch, LocalJob, LocalWorker};
use super::ready_list::{ReadyList, SlotWaker};
use super::stateful::pop_or_timer;
use super::{STEPS_PER_TURN, Worker, WorkerGuard, complete_or_retry, prepare_attempt};
use crate::error::JobError;
use crate::event::JobId;
use crate::handler::Stateless;
use crate::job::completion::Success;
use crate::job::queued::{Batch, QueuedJob};
use crate::queue::injector::{Closed, Pop, Taken};
use crate::shared::Shared;
use crate::shared::timer::TimerDriver;
use crate::submit::Submitter;

/// After this many polls of woken slots, a worker with a free slot tries to take a job.
const POLLS_PER_POP: usize = 16;

/// Runs jobs until the pool is drained or aborted.
#[expect(
    clippy::manual_async_fn,
    reason = "the future of an `async fn` has room for its parameters twice"
)]
pub(super) fn run_slots<In, C: Stateless<In>>(
    worker: Worker<In, C::Value, C::Error, C>,
) -> impl Future<Output = ()> {
    async move {
        // The state of the loop is created with the first job, so an idle worker takes little
        // memory.
        let Some(first_job) = wait_for_first_job(&worker.guard).await else {
            return;
        };
        Box::pin(run_jobs(worker, first_job)).await;
    }
}

/// Waits for the first job, and drives the timer meanwhile; `None` if the pool ends first.
async fn wait_for_first_job<In, T, E>(
    worker: &WorkerGuard<In, T, E>,
) -> Option<QueuedJob<In, T, E>> {
    let mut timer = TimerDriver::new(
        Arc::clone(&worker.shared),
        worker.shared.slots_of(worker.id).start,
    );
    let mut pop = pin!(worker.shared.injector.pop());
    loop {
        match pop_or_timer(pop.as_mut(), &mut timer).await {
            Some(first) => return first.ok(),
            None => timer.pass(),
        }
    }
}

/// Runs the first job and all others.
async fn run_jobs<In, C: Stateless<In>>(
    worker: Worker<In, C::Value, C::Error, C>,
    first_job: QueuedJob<In, C::Value, C::Error>,
) {
    // Dropped last, but for the parameters: the handler, and then the guard.
    let shared = Arc::clone(&worker.guard.shared);
    let slot_numbers = shared.slots_of(worker.guard.id);
    let mut first_job = Some(first_job);
    // Dropped after the slots: an outcome is delivered once the handler's future is dropped.
    let mut buffer = CompletionBuffer::new(Arc::clone(&shared));
    let mut slots = Slots::new(
        &shared,
        slot_numbers.len(),
        slot_numbers.start,
        |input, submitter| worker.handler.make_future(input, submitter),
    );
    let mut timer = TimerDriver::new(Arc::clone(&shared), slot_numbers.start);
    let mut local = LocalWorker::new(Arc::clone(&shared));
    let mut pop = pin!(shared.injector.pop());
    // Whether the worker polls `pop`: it has found no job.
    let mut waits = false;
    poll_fn(|cx| {
        // Each slot that is ready now is polled at most once in this turn. So a job that always
        // wakes itself starves neither other slots, nor queued jobs, nor other tasks of the
        // executor.
        slots.collect_ready();
        if slots.ready.len() > 1 {
            // Several jobs may end in this turn, and a local queue saves the shared lock for each.
            local.open();
        }
        let mut steps = 0;
        if let Some(first_job) = first_job.take() {
            slots.start(first_job, &mut local, &mut buffer, cx);
            steps += 1;
        }
        while steps < STEPS_PER_TURN {
            if waits && !slots.ready.is_empty() {
                waits = false;
                pop.as_mut().stop();
            }
            let polled = slots.poll_ready(&mut local, &mut buffer, cx);
            steps += polled;
            if steps >= STEPS_PER_TURN {
                break;
            }
            match next_step(&slots, waits.then_some(pop.as_mut()), &mut local, cx) {
                Step::RunBatch => {
                    let max = (STEPS_PER_TURN - steps).min(POLLS_PER_POP);
                    steps += slots.run_batch(&mut local, &mut buffer, max, cx);
                    continue;
                }
                Step::Start(job) => {
                    // If it waited, `pop` was ready.
                    waits = false;
                    // Not for the first job, which may be the only one; nor if jobs wait, since a
                    // wait closes the local queue.
                    if steps > 0 && !slots.has_waited {
                        local.open();
                    }
                    slots.start(job, &mut local, &mut buffer, cx);
                    steps += 1;
                    continue;
                }
                // Of the slots that are ready, `poll_ready` polls a few at a time.
                _ if polled > 0 => continue,
                Step::WaitForJob => {
                    local.close();
                    buffer.flush();
                    if !waits {
                        // The next round polls `pop`, which registers the worker as a sleeper.
                        waits = true;
                        continue;
                    }
                }
                Step::WaitForSlot => {
                    waits = false;
                    pop.as_mut().stop();
                    local.close();
                    buffer.flush();
                }
                Step::End => return Poll::Ready(()),
            }
            steps += 1;
            if timer.poll(cx).is_ready() {
                // A job that the timer releases notifies another waiting worker, not this one.
                waits = false;
                pop.as_mut().stop();
                timer.pass();
                continue;
            }
            if slots.register(cx.waker()) {
                return Poll::Pending;
            }
            break;
        }
        waits = false;
        pop.as_mut().stop();
        local.close();
        buffer.flush();
        // Ends: the timer is ready a few times at most.
        while timer.poll(cx).is_ready() {
            timer.pass();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What a worker does once it has polled slots that were woken.
enum Step<J> {
    /// Run jobs of the batch in the local queue.
    RunBatch,
    Start(J),
    WaitForJob,
    /// No slot is free, or no job comes any more and the last ones still run.
    WaitForSlot,
    /// No job comes any more, and none runs.
    End,
}

/// Takes the next job if a slot is free: from `pop`, if the worker waits for one already.
#[inline(always)]
fn next_step<In, T, E, F, M>(
    slots: &Slots<'_, In, T, E, F, M>,
    pop: Option<Pin<&mut Pop<'_, Batch<In, T, E>>>>,
    local: &mut LocalWorker<In, T, E>,
    cx: &mut Context<'_>,
) -> Step<QueuedJob<In, T, E>>
where
    M: Fn(In, Option<Submitter<In, T, E>>) -> F,
    F: Future<Output = Result<T, E>>,
{
    if slots.is_full() {
        return Step::WaitForSlot;
    }
    let taken = match pop {
        Some(pop) => match pop.poll(cx) {
            Poll::Ready(job) => job.map(Taken::One),
            Poll::Pending => Ok(Taken::Nothing),
        },
        None if local.batch_stream().is_some() => Ok(Taken::Batch),
        // With one free slot, and jobs that wait, a batch would wait behind its first job.
        None if slots.has_one_free() => local.try_pop(),
        None => local.refill(),
    };
    match taken {
        Ok(Taken::Batch) => Step::RunBatch,
        Ok(Taken::One(job)) => Step::Start(job),
        Ok(Taken::Nothing | Taken::NeedsLocalQueue) => Step::WaitForJob,
        Err(Closed) if slots.is_empty() => Step::End,
        Err(Closed) => Step::WaitForSlot,
    }
}

/// The slots of a worker. `make` makes a future of the handler.
struct Slots<'a, In, T, E, F, M> {
    shared: &'a Arc<Shared<In, T, E>>,
    make: M,
    /// `None` in a worker with one slot: a job there is polled with the worker's own waker.
    ready_list: Option<Arc<ReadyList>>,
    /// The slots to be polled in this turn.
    ready: VecDeque<usize>,
    /// Whether the job that was started last has waited.
    has_waited: bool,
    max: usize,
    /// The number of the first slot within the pool.
    first_slot: usize,
    /// The slots that have been needed so far; at most `max`.
    slots: Vec<Slot<In, T, E, F>>,
    /// The slots without a job; the last one freed is at the end.
    free: Vec<usize>,
}

struct Slot<In, T, E, F> {
    // Before the guard: an outcome is delivered once the handler's future is dropped.
    attempt: Pin<Box<Attempt<F>>>,
    guard: JobGuard<In, T, E>,
    /// Its waker, in the two forms that `unlist` and polls need; `None` in a worker with one slot.
    waker: Option<(Arc<SlotWaker>, Waker)>,
}

impl<'a, In, T, E, F, M> Slots<'a, In, T, E, F, M>
where
    M: Fn(In, Option<Submitter<In, T, E>>) -> F,
    F: Future<Output = Result<T, E>>,
{
    fn new(shared: &'a Arc<Shared<In, T, E>>, max: usize, first_slot: usize, make: M) -> Self {
        Self {
            shared,
            make,
            ready_list: (max > 1).then(Arc::default),
            ready: VecDeque::new(),
            has_waited: false,
            max,
            first_slot,
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Adds the woken slots to `ready`.
    fn collect_ready(&mut self) {
        match &self.ready_list {
            Some(ready_list) => ready_list.take(&mut self.ready),
            None if self.is_empty() => {}
            None => self.ready.push_back(0),
        }
    }

    /// Registers the worker's waker; returns `false`, and the worker may not wait, if a slot has
    /// been woken.
    fn register(&self, waker: &Waker) -> bool {
        self.ready_list
            .as_ref()
            .is_none_or(|ready_list| ready_list.register(waker))
    }

    fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() == self.max
    }

    /// Whether one slot is free and jobs wait, as far as the last one tells.
    fn has_one_free(&self) -> bool {
        self.has_waited && self.max - (self.slots.len() - self.free.len()) == 1
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Starts a job in a free slot, and polls it.
    fn start(
        &mut self,
        job: QueuedJob<In, T, E>,
        local: &mut LocalWorker<In, T, E>,
        buffer: &mut CompletionBuffer<In, T, E>,
        cx: &mut Context<'_>,
    ) {
        let at = self.free_slot();
        let slot_number = self.first_slot + at;
        let guard = &mut self.slots[at].guard;
        let record = |started_job| local.record_start(slot_number, started_job);
        let Some((input, submitter)) = prepare_attempt(job, guard, buffer, record) else {
            return;
        };
        self.free.pop();
        let (slot, make) = (&mut self.slots[at], &self.make);
        let polled = slot.attempt.as_mut().start(
            self.shared,
            &slot.guard,
            || make(input, submitter),
            &mut slot_context(&slot.waker, cx),
        );
        self.has_waited = polled.is_pending();
        self.finish(at, polled, local, buffer);
    }

    /// Runs up to `max` jobs of the local queue; returns how many. Jobs that do not wait share a
    /// slot, without a guard; a job that waits keeps the slot, and is promoted.
    fn run_batch(
        &mut self,
        local: &mut LocalWorker<In, T, E>,
        buffer: &mut CompletionBuffer<In, T, E>,
        max: usize,
        cx: &mut Context<'_>,
    ) -> usize {
        buffer.flush_others(local.batch_stream());
        let mut jobs = 0;
        while jobs < max && !self.is_full() {
            let at = self.free_slot();
            let slot_number = self.first_slot + at;
            let mut first_job = match local.start_next(slot_number) {
                FromBatch::Job(job) => Some(job),
                FromBatch::Empty => break,
                FromBatch::Revoked => {
                    local.close();
                    break;
                }
            };
            let Slot {
                attempt,
                guard,
                waker,
                ..
            } = &mut self.slots[at];
            // The id and index of the job that runs.
            let mut current = (JobId(0), 0);
            let end = attempt.as_mut().run_sequence(
                self.shared,
                |value| {
                    let next = match value {
                        None => first_job.take(),
                        Some(value) => {
                            let success = Success {
                                id: current.0,
                                index: current.1,
                                value,
                            };
                            local.succeed(slot_number, success, guard, buffer, jobs < max)
                        }
                    };
                    next.map(|LocalJob { id, index, input }| {
                        current = (id, index);
                        jobs += 1;
                        (id, input)
                    })
                },
                |input| (self.make)(input, None),
                &mut slot_context(waker, cx),
            );
            match end {
                BatchEnd::AllSucceeded => self.has_waited = false,
                BatchEnd::Waits => {
                    self.has_waited = true;
                    local.promote(current.0, current.1, guard);
                    self.free.pop();
                    buffer.send_if_due();
                }
                BatchEnd::Unsuccessful(result) => {
                    local.promote(current.0, current.1, guard);
                    complete_or_retry(result, guard, buffer);
                }
            }
        }
        jobs
    }

    /// A slot without a job. It stays in `free`.
    #[inline(always)]
    fn free_slot(&mut self) -> usize {
        self.free.last().copied().unwrap_or_else(|| self.add())
    }

    /// Creates a slot, without a job.
    #[cold]
    fn add(&mut self) -> usize {
        let at = self.slots.len();
        let waker = self.ready_list.as_ref().map(|ready_list| {
            let slot_waker = SlotWaker::new(ready_list, at);
            (Arc::clone(&slot_waker), Waker::from(slot_waker))
        });
        self.slots.push(Slot {
            attempt: Box::pin(Attempt::new(self.first_slot + at)),
            guard: JobGuard::new(Arc::clone(self.shared), self.first_slot + at),
            waker,
        });
        self.free.push(at);
        at
    }

    /// Polls up to [`POLLS_PER_POP`] of the slots in `ready`; returns how many.
    #[inline(always)]
    fn poll_ready(
        &mut self,
        local: &mut LocalWorker<In, T, E>,
        buffer: &mut CompletionBuffer<In, T, E>,
        cx: &mut Context<'_>,
    ) -> usize {
        let mut polled = 0;
        while polled < POLLS_PER_POP
            && let Some(at) = self.ready.pop_front()
        {
            self.poll_slot(at, local, buffer, cx);
            polled += 1;
        }
        polled
    }

    /// Polls the job of a slot that has been woken.
    fn poll_slot(
        &mut self,
        at: usize,
        local: &mut LocalWorker<In, T, E>,
        buffer: &mut CompletionBuffer<In, T, E>,
        cx: &mut Context<'_>,
    ) {
        let slot = &self.slots[at];
        if let Some((slot_waker, _)) = &slot.waker {
            slot_waker.unlist();
        }
        // A waker of an earlier job may have woken the slot.
        if !slot.attempt.is_over() {
            buffer.flush_others(slot.guard.stream());
            let slot = &mut self.slots[at];
            let polled = slot
                .attempt
                .as_mut()
                .poll(self.shared, &mut slot_context(&slot.waker, cx));
            self.finish(at, polled, local, buffer);
        }
    }

    /// Handles a poll of a slot's job: if it is ready, frees the slot and completes the job.
    #[inline(always)]
    fn finish(
        &mut self,
        at: usize,
        polled: Poll<Result<T, JobError<E>>>,
        local: &LocalWorker<In, T, E>,
        buffer: &mut CompletionBuffer<In, T, E>,
    ) {
        let Poll::Ready(result) = polled else {
            // The consumer may have read all that was sent, and waits for what is buffered.
            buffer.send_if_due();
            return;
        };
        self.free.push(at);
        let guard = &mut self.slots[at].guard;
        let slot_number = self.first_slot + at;
        let result = match result {
            Ok(value) if local.is_open() => {
                match guard.succeed(value, buffer, || local.record_success(slot_number)) {
                    None => return,
                    Some(value) => Ok(value),
                }
            }
            result => result,
        };
        complete_or_retry(result, guard, buffer);
    }
}

/// The context that the job of a slot is polled with.
fn slot_context<'a>(own: &'a Option<(Arc<SlotWaker>, Waker)>, cx: &'a Context<'_>) -> Context<'a> {
    Context::from_waker(own.as_ref().map_or_else(|| cx.waker(), |(_, waker)| waker))
}

impl<In, T, E, F, M> Drop for Slots<'_, In, T, E, F, M> {
    fn drop(&mut self) {
        if let Some(ready_list) = &self.ready_list {
            ready_list.deregister();
        }
    }
}
