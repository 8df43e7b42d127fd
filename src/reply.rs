//! Where the outcome of a job goes, and the guard that sees to it that there is one. In comes what
//! a worker or a canceller found out about a job; out goes exactly one outcome, to the books first
//! and then to whoever waits for it: the stream of a map or group, or the cell of a single handle.
//!
//! A job passes through these forms: [`ScheduledJob`] while the schedule keeps it, where there is one; an
//! [`QueuedJob`] on its way to a worker; a [`JobGuard`] while it runs; a [`Completion`] when it is done.
//! Each turns into the next by value; one that is to be tried again turns from a ticket to what is
//! held. A ticket that is dropped, because its worker was, reports the job as abandoned.

use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

use crate::error::{CancelReason, JobError, TimeLimit};
use crate::event::{Event, JobId, Outcome};
use crate::panic;
use crate::policy::limits::Limits;
use crate::policy::retry::{Decision, History};
use crate::pool::{Unhandled, Unstarted};
use crate::queue::admission::{Origin, Wakes};
use crate::queue::injector::Split;
use crate::queue::local::StartedJob;
use crate::queue::running::ActiveJob;
use crate::schedule::RecordId;
use crate::shared::{DeliveryKind, PriorAttempts, Shared, StartResult};
use crate::stream::completions::{CompletionQueue, Delivery, Success};
use crate::stream::{Completion, Timings};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// A queued job.
pub(crate) enum QueuedJob<In, T, E> {
    /// Of a map or group: everything inline, so that it costs no allocation.
    Stream(StreamJob<In, T, E>),
    /// Of a single handle: its input is in the cell, so that a cancellation can take it out.
    Handle(Arc<HandleState<In, T, E>>),
}

pub(crate) struct StreamJob<In, T, E> {
    pub(crate) input: In,
    pub(crate) stream: Arc<CompletionQueue<In, T, E>>,
    pub(crate) id: JobId,
    pub(crate) index: usize,
    pub(crate) origin: Origin,
    /// Its record in the schedule, once that has released it.
    pub(crate) record_id: Option<RecordId>,
    pub(crate) accepted_at: Option<Instant>,
}

/// Jobs of one map that were handed in together, numbered one after another.
pub(crate) struct Batch<In, T, E> {
    pub(crate) stream: Arc<CompletionQueue<In, T, E>>,
    /// Of the first.
    id: JobId,
    index: usize,
    /// The oldest comes last, where it is taken out most easily.
    inputs: Vec<In>,
}

impl<In, T, E> Batch<In, T, E> {
    pub(crate) fn new(
        stream: Arc<CompletionQueue<In, T, E>>,
        id: JobId,
        index: usize,
        mut inputs: Vec<In>,
    ) -> Self {
        inputs.reverse();
        Self {
            stream,
            id,
            index,
            inputs,
        }
    }

    /// Takes out the oldest: its number, its number within the map, and its input.
    #[inline(always)]
    pub(crate) fn take_input(&mut self) -> Option<(JobId, usize, In)> {
        let input = self.inputs.pop()?;
        let (id, index) = (self.id, self.index);
        (self.id, self.index) = (id.offset(1), index + 1);
        Some((id, index, input))
    }
}

impl<In, T, E> Split for Batch<In, T, E> {
    type Job = QueuedJob<In, T, E>;

    fn len(&self) -> usize {
        self.inputs.len()
    }

    fn pop_first(&mut self) -> Option<QueuedJob<In, T, E>> {
        let (id, index, input) = self.take_input()?;
        let (stream, origin) = (Arc::clone(&self.stream), Origin::Outside);
        Some(QueuedJob::Stream(StreamJob {
            input,
            stream,
            id,
            index,
            origin,
            record_id: None,
            accepted_at: None,
        }))
    }

    fn split_half(&mut self) -> Self {
        let half = self.inputs.len().div_ceil(2);
        let inputs = self.inputs.split_off(self.inputs.len() - half);
        let (id, index) = (self.id, self.index);
        (self.id, self.index) = (id.offset(half), index + half);
        Self {
            stream: Arc::clone(&self.stream),
            id,
            index,
            inputs,
        }
    }

    fn number(&self) -> u64 {
        self.id.as_u64()
    }

    fn number_of(job: &QueuedJob<In, T, E>) -> u64 {
        job.id().as_u64()
    }

    fn is_dead(&self) -> bool {
        self.stream.cancelled().is_some()
    }
}

impl<In, T, E> Drop for Batch<In, T, E> {
    fn drop(&mut self) {
        // Whoever takes the last one out has the room of the list to spare.
        if self.inputs.is_empty() {
            self.stream
                .input_spares
                .keep(std::mem::take(&mut self.inputs));
        }
    }
}

/// A job that the schedule keeps: small, however large the input is.
pub(crate) enum ScheduledJob<In, T, E> {
    Stream(Box<StreamJob<In, T, E>>),
    Handle(Arc<HandleState<In, T, E>>),
}

impl<In, T, E> ScheduledJob<In, T, E> {
    /// The job on its way to a worker.
    pub(crate) fn release(self, record_id: RecordId) -> QueuedJob<In, T, E> {
        match self {
            Self::Stream(mut job) => {
                job.record_id = Some(record_id);
                QueuedJob::Stream(*job)
            }
            Self::Handle(cell) => QueuedJob::Handle(cell),
        }
    }

    /// The job, which the schedule has forgotten.
    pub(crate) fn into_entry(self) -> QueuedJob<In, T, E> {
        match self {
            Self::Stream(mut job) => {
                job.record_id = None;
                QueuedJob::Stream(*job)
            }
            Self::Handle(cell) => QueuedJob::Handle(cell),
        }
    }

    /// Whether its map or group is cancelled. A cancelled handle takes its job out of the schedule
    /// itself.
    pub(crate) fn is_dead(&self) -> bool {
        match self {
            Self::Stream(job) => job.stream.cancelled().is_some(),
            Self::Handle(_) => false,
        }
    }
}

impl<In, T, E> From<QueuedJob<In, T, E>> for ScheduledJob<In, T, E> {
    fn from(entry: QueuedJob<In, T, E>) -> Self {
        match entry {
            QueuedJob::Stream(job) => Self::Stream(Box::new(job)),
            QueuedJob::Handle(cell) => Self::Handle(cell),
        }
    }
}

impl<In, T, E> QueuedJob<In, T, E> {
    pub(crate) fn id(&self) -> JobId {
        match self {
            Self::Stream(job) => job.id,
            Self::Handle(cell) => cell.id,
        }
    }

    /// Its record in the schedule, if it had one when it was looked for.
    pub(crate) fn record_id(&self) -> Option<RecordId> {
        match self {
            Self::Stream(job) => job.record_id,
            Self::Handle(cell) => cell.record_id(),
        }
    }

    pub(crate) fn stream(&self) -> Option<Arc<CompletionQueue<In, T, E>>> {
        match self {
            Self::Stream(job) => Some(Arc::clone(&job.stream)),
            Self::Handle(_) => None,
        }
    }

    /// Whether it is cancelled: its outcome is decided, or is that of its stream.
    pub(crate) fn is_dead(&self) -> bool {
        match self {
            Self::Stream(job) => job.stream.cancelled().is_some(),
            Self::Handle(cell) => cell.is_dead(),
        }
    }

    /// Gives the job its outcome without having started it. A cancellation that came first stays
    /// the reason.
    pub(crate) fn settle_unstarted(
        self,
        shared: &Shared<In, T, E>,
        error: JobError<E>,
        attempts: u32,
    ) {
        match self {
            Self::Stream(job) => {
                let error = job.stream.cancelled().map_or(error, JobError::Cancelled);
                job.settle(shared, error, attempts, |input, _| Some(input));
            }
            Self::Handle(cell) => {
                cell.settle_queued(error, attempts, |input| drop_input(Some(input)));
            }
        }
    }

    /// Gives the job its outcome as aborted and its input to the pool's report.
    pub(crate) fn return_unstarted(self, shared: &Shared<In, T, E>, attempts: u32) {
        // Before the books know of it: who finds the pool idle then finds all inputs.
        let hand_back = |id, index, input| {
            let unstarted = Unstarted {
                id,
                index,
                input,
                attempts,
            };
            shared
                .returned
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(unstarted);
        };
        let aborted = JobError::Cancelled(CancelReason::Aborted);
        match self {
            Self::Stream(job) if job.stream.cancelled().is_some() => {
                Self::Stream(job).settle_unstarted(shared, JobError::Abandoned, attempts);
            }
            Self::Stream(job) => {
                let (id, index) = (job.id, job.index);
                job.settle(shared, aborted, attempts, |input, stream| {
                    let kept = stream.keep(&input);
                    hand_back(id, index, input);
                    kept
                });
            }
            Self::Handle(cell) => {
                cell.settle_queued(aborted, attempts, |input| hand_back(cell.id, 0, input));
            }
        }
    }

    /// Starts the job, unless it has its outcome already or gets it now: makes it the ticket's, and
    /// returns the input. The start is booked unless `note` says that it is noted.
    pub(crate) fn start(
        self,
        shared: &Arc<Shared<In, T, E>>,
        ticket: &mut JobGuard<In, T, E>,
        note: impl FnOnce(StartedJob) -> bool,
    ) -> Option<In> {
        match self {
            Self::Stream(job) => job.start(shared, ticket, note),
            Self::Handle(cell) => cell.start(ticket, note),
        }
    }
}

fn drop_input<In>(input: Option<In>) {
    panic::discard(input);
}

// ---- jobs of a map or group ----

impl<In, T, E> StreamJob<In, T, E> {
    /// Delivers the outcome of a job that never started, with what `part_with` leaves of its input.
    fn settle(
        self,
        shared: &Shared<In, T, E>,
        error: JobError<E>,
        attempts: u32,
        part_with: impl FnOnce(In, &CompletionQueue<In, T, E>) -> Option<In>,
    ) {
        let Self {
            input,
            stream,
            id,
            index,
            origin,
            record_id,
            accepted_at,
        } = self;
        let kept = part_with(input, &stream);
        if matches!(
            error,
            JobError::TimedOut(_) | JobError::CostExceedsLimit { .. } | JobError::Panicked(_)
        ) {
            stream.count_failure(&error);
        }
        stream.begin_delivery(DeliveryKind::Unstarted);
        shared.book_unstarted(
            origin,
            id,
            error.outcome(),
            record_id,
            attempts,
            Some(stream.identity().get()),
        );
        let timings = accepted_at.filter(|_| shared.timings).map(|at| {
            Box::new(Timings {
                queued_for: shared.timer.now().saturating_duration_since(at),
                ran_for: None,
            })
        });
        let completion = Completion {
            id,
            index,
            attempts,
            input: kept,
            result: Err(error),
            timings,
        };
        stream.deliver(Delivery::One(completion));
        stream.end_delivery(DeliveryKind::Unstarted, 1);
    }

    fn start(
        self,
        shared: &Arc<Shared<In, T, E>>,
        ticket: &mut JobGuard<In, T, E>,
        note: impl FnOnce(StartedJob) -> bool,
    ) -> Option<In> {
        let slot = ticket.slot;
        if self.stream.cancelled().is_some() {
            let entry = QueuedJob::Stream(self);
            let attempts = shared.attempts(&entry);
            entry.settle_unstarted(shared, JobError::Abandoned, attempts);
            return None;
        }
        let stream = self.stream.identity();
        let mut limits = Limits::default();
        let is_noted = shared.is_plain
            && self.origin == Origin::Outside
            && note(StartedJob {
                id: self.id,
                index: self.index,
                stream: Some(stream),
            });
        if is_noted {
            ticket.prior = PriorAttempts::NONE;
        } else {
            let mut wakes = Wakes::default();
            let mut active_job = ActiveJob::new(self.id, self.index, Some(stream.get()));
            active_job.record_id = self.record_id;
            match shared.book_start(
                slot,
                self.origin,
                active_job,
                &mut limits,
                &mut wakes,
                &mut ticket.prior,
            ) {
                StartResult::Yes => {}
                StartResult::Aborted => {
                    let entry = QueuedJob::Stream(self);
                    let attempts = shared.attempts(&entry);
                    entry.return_unstarted(shared, attempts);
                    return None;
                }
                StartResult::NotYet => {
                    shared.run_wakes(wakes);
                    shared.return_to_schedule(QueuedJob::Stream(self));
                    return None;
                }
            }
            shared.run_wakes(wakes);
        }
        let Self {
            input,
            stream,
            id,
            index,
            accepted_at,
            ..
        } = self;
        if let Some(reason) = stream.cancelled() {
            // The canceller may have looked for running jobs before this one was among them.
            let _ = shared.cancel_flags[slot].interrupt(reason);
        }
        ticket.begin(Recipient::Stream(stream), id, index, accepted_at, limits);
        Some(input)
    }
}

// ---- jobs of a handle ----

/// The state of a job that somebody holds a handle of. Its lock decides which outcome is the one.
pub(crate) struct HandleState<In, T, E> {
    pub(crate) shared: Arc<Shared<In, T, E>>,
    pub(crate) id: JobId,
    /// Of a job that has limits of its own or is measured; not of the many others, which are to be
    /// small.
    times: Option<Box<Times>>,
    /// How many attempts were made; written before the outcome.
    attempts: AtomicU32,
    /// Its record in the schedule, or 0. Written under the shared state's lock; whether the record is
    /// still its own, the schedule knows.
    record_id: AtomicU32,
    state: Mutex<HandleInner<In, T, E>>,
}

/// What is known of the time of a job with a handle.
struct Times {
    /// Where it says nothing of attempts, the pool's limit at their start counts.
    limits: Limits,
    accepted_at: Option<Instant>,
}

pub(crate) struct HandleInner<In, T, E> {
    pub(crate) phase: Phase<In, T, E>,
    /// Nobody will ask for the result.
    is_detached: bool,
    /// As what it is counted in the queue; from its first attempt on, as one that waits for
    /// another.
    origin: Origin,
    /// The task that awaits the handle.
    waker: Option<Waker>,
}

/// A job moves down this list, and back only from running to queued, to be tried again.
pub(crate) enum Phase<In, T, E> {
    Queued(In),
    Running(usize),
    /// Has its outcome, which is not in the books yet.
    Settling,
    Done(Result<T, JobError<E>>),
    /// The result is with its owner, or nobody wanted it.
    Taken,
}

impl<In, T, E> HandleState<In, T, E> {
    pub(crate) fn new(
        shared: &Arc<Shared<In, T, E>>,
        id: JobId,
        origin: Origin,
        limits: Limits,
        accepted_at: Option<Instant>,
        input: In,
        is_detached: bool,
    ) -> Arc<Self> {
        let state = HandleInner {
            phase: Phase::Queued(input),
            is_detached,
            origin,
            waker: None,
        };
        let times = (!limits.is_none() || accepted_at.is_some()).then(|| {
            Box::new(Times {
                limits,
                accepted_at,
            })
        });
        Arc::new(Self {
            shared: Arc::clone(shared),
            id,
            times,
            attempts: AtomicU32::new(0),
            record_id: AtomicU32::new(0),
            state: Mutex::new(state),
        })
    }

    pub(crate) fn record_id(&self) -> Option<RecordId> {
        RecordId::new(self.record_id.load(Ordering::SeqCst))
    }

    pub(crate) fn set_record_id(&self, record_id: RecordId) {
        self.record_id.store(record_id.get(), Ordering::SeqCst);
    }

    /// Whether its outcome is decided.
    pub(crate) fn is_dead(&self) -> bool {
        !matches!(self.lock().phase, Phase::Queued(_) | Phase::Running(_))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, HandleInner<In, T, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(
        self: Arc<Self>,
        ticket: &mut JobGuard<In, T, E>,
        note: impl FnOnce(StartedJob) -> bool,
    ) -> Option<In> {
        let slot = ticket.slot;
        let mut state = self.lock();
        let input = match std::mem::replace(&mut state.phase, Phase::Running(slot)) {
            Phase::Queued(input) => input,
            decided => {
                state.phase = decided;
                drop(state);
                self.shared.remove_tombstone(self.record_id(), self.id);
                return None;
            }
        };
        let mut limits = Limits::default();
        let is_noted = self.shared.is_plain
            && state.origin == Origin::Outside
            && note(StartedJob {
                id: self.id,
                index: 0,
                stream: None,
            });
        if is_noted {
            drop(state);
            ticket.prior = PriorAttempts::NONE;
        } else {
            let mut wakes = Wakes::default();
            let mut active_job = ActiveJob::new(self.id, 0, None);
            active_job.record_id = self.record_id();
            let origin = state.origin;
            let prior = &mut ticket.prior;
            let begun =
                self.shared
                    .book_start(slot, origin, active_job, &mut limits, &mut wakes, prior);
            if begun != StartResult::Yes {
                state.phase = Phase::Queued(input);
                drop(state);
                let shared = Arc::clone(&self.shared);
                shared.run_wakes(wakes);
                let entry = QueuedJob::Handle(self);
                if begun == StartResult::Aborted {
                    let attempts = shared.attempts(&entry);
                    entry.return_unstarted(&shared, attempts);
                } else {
                    shared.return_to_schedule(entry);
                }
                return None;
            }
            drop(state);
            self.shared.run_wakes(wakes);
        }
        let (own, accepted_at) = self
            .times
            .as_ref()
            .map_or((Limits::default(), None), |times| {
                (times.limits, times.accepted_at)
            });
        let limits = Limits {
            attempt: own.attempt.or(limits.attempt),
            job: own.job,
        };
        let id = self.id;
        ticket.begin(Recipient::Handle(self), id, 0, accepted_at, limits);
        Some(input)
    }

    /// Settles a job that is still queued, once `part_with` has its input; says whether it was. One
    /// that is not is left alone.
    pub(crate) fn settle_queued(
        &self,
        error: JobError<E>,
        attempts: u32,
        part_with: impl FnOnce(In),
    ) -> bool {
        let mut state = self.lock();
        let input = match std::mem::replace(&mut state.phase, Phase::Settling) {
            Phase::Queued(input) => input,
            decided => {
                state.phase = decided;
                return false;
            }
        };
        let origin = state.origin;
        drop(state);
        part_with(input);
        let outcome = error.outcome();
        let wanted = self.discard_unwanted(Err(error), attempts);
        self.shared.deliveries.begin(DeliveryKind::Unstarted);
        self.shared
            .book_unstarted(origin, self.id, outcome, self.record_id(), attempts, None);
        self.complete(wanted, attempts);
        self.shared.end_deliveries(DeliveryKind::Unstarted, 1);
        true
    }

    /// Cancels on behalf of the handle, which wants no result of it. Says whether an attempt has to
    /// be stopped first.
    pub(crate) fn cancel(&self) -> bool {
        let mut state = self.lock();
        state.is_detached = true;
        match state.phase {
            Phase::Queued(_) => {
                drop(state);
                let attempts = self.shared.attempts_of(self.record_id(), self.id);
                let cancelled = JobError::Cancelled(CancelReason::Handle);
                if self.settle_queued(cancelled, attempts, |input| drop_input(Some(input))) {
                    self.shared.sweep_tombstones();
                    return false;
                }
                // A worker was faster; what it runs now can be interrupted.
                self.cancel()
            }
            Phase::Running(slot) => {
                // Under the lock: as long as the phase says so, the slot runs this job and no
                // other.
                let waker = self.shared.cancel_flags[slot].interrupt(CancelReason::Handle);
                drop(state);
                panic::wake(waker);
                true
            }
            // Whoever settles it finds that nobody wants the result.
            Phase::Settling => false,
            Phase::Done(..) | Phase::Taken => {
                drop(state);
                self.detach();
                false
            }
        }
    }

    /// Nobody will ask for the result: a failure goes to the pool's one place for them.
    pub(crate) fn detach(&self) {
        let mut state = self.lock();
        state.is_detached = true;
        if let Phase::Done(..) = state.phase {
            let phase = std::mem::replace(&mut state.phase, Phase::Taken);
            drop(state);
            if let Phase::Done(result) = phase {
                self.discard(result, self.attempts.load(Ordering::Relaxed));
            }
        }
    }

    /// Takes the result if there is one; else leaves the waker.
    pub(crate) fn poll_result(&self, waker: &Waker) -> Poll<Result<T, JobError<E>>> {
        let mut state = self.lock();
        match std::mem::replace(&mut state.phase, Phase::Taken) {
            Phase::Done(result) => Poll::Ready(result),
            phase => {
                state.phase = phase;
                let old = state.waker.replace(waker.clone());
                drop(state);
                drop(old);
                Poll::Pending
            }
        }
    }

    /// Takes the result if there is one.
    pub(crate) fn take_result(&self) -> Option<Result<T, JobError<E>>> {
        let mut state = self.lock();
        match std::mem::replace(&mut state.phase, Phase::Taken) {
            Phase::Done(result) => Some(result),
            phase => {
                state.phase = phase;
                None
            }
        }
    }

    /// Whether a cancelled job is over; else leaves the waker.
    pub(crate) fn poll_cancelled(&self, waker: &Waker) -> bool {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Done(..) | Phase::Taken) {
            return true;
        }
        let old = state.waker.replace(waker.clone());
        drop(state);
        drop(old);
        false
    }

    /// Whether the outcome is known, or will be, whatever becomes of others.
    pub(crate) fn is_decided(&self) -> bool {
        let state = self.lock();
        match state.phase {
            Phase::Queued(_) => false,
            // The books are closed before whoever waits is told.
            Phase::Running(slot) => !self.shared.lock().running.is_running(slot, self.id),
            Phase::Settling | Phase::Done(_) | Phase::Taken => true,
        }
    }

    /// Whether the outcome is known.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.lock().phase, Phase::Done(..) | Phase::Taken)
    }

    /// Gives up a result that nobody will ask for, before the books are closed over the job:
    /// whoever waits for the pool to be idle finds the failure reported and the value dropped.
    fn discard_unwanted(
        &self,
        result: Result<T, JobError<E>>,
        attempts: u32,
    ) -> Option<Result<T, JobError<E>>> {
        if self.lock().is_detached {
            self.discard(result, attempts);
            return None;
        }
        Some(result)
    }

    /// Leaves the result for the handle, or says that there is none to wait for.
    fn complete(&self, result: Option<Result<T, JobError<E>>>, attempts: u32) {
        let mut state = self.lock();
        let waker = state.waker.take();
        let is_detached = state.is_detached;
        let (phase, unwanted) = match result {
            Some(result) if !is_detached => {
                self.attempts.store(attempts, Ordering::Relaxed);
                (Phase::Done(result), None)
            }
            // Detached since the books were closed.
            unwanted => (Phase::Taken, unwanted),
        };
        state.phase = phase;
        drop(state);
        panic::wake(waker);
        if let Some(result) = unwanted {
            self.discard(result, attempts);
        }
    }

    fn discard(&self, result: Result<T, JobError<E>>, attempts: u32) {
        match result {
            // Whoever cancelled knows.
            Err(JobError::Cancelled(CancelReason::Handle)) => {}
            Err(error) => self.shared.report_unhandled(Unhandled {
                id: self.id,
                attempts,
                error,
            }),
            Ok(value) => {
                panic::discard(value);
            }
        }
    }
}

// ---- jobs that run ----

/// Who gets the outcome of a running job.
pub(crate) enum Recipient<In, T, E> {
    Stream(Arc<CompletionQueue<In, T, E>>),
    Handle(Arc<HandleState<In, T, E>>),
}

impl<In, T, E> Recipient<In, T, E> {
    fn shared(&self) -> &Arc<Shared<In, T, E>> {
        match self {
            Self::Stream(stream) => &stream.shared,
            Self::Handle(cell) => &cell.shared,
        }
    }
}

/// The right and the duty to give the running job of a slot its outcome. Dropped with a job, it
/// says `Abandoned`.
///
/// A worker has one for all its jobs, one after another.
pub(crate) struct JobGuard<In, T, E> {
    /// `None`: no job, or one that is settled.
    reply: Option<Recipient<In, T, E>>,
    slot: usize,
    pub(crate) id: JobId,
    index: usize,
    /// Those made before, until the attempt starts.
    pub(crate) attempts: u32,
    /// A copy of the input, where the stream keeps them.
    kept: Option<In>,
    accepted_at: Option<Instant>,
    started_at: Option<Instant>,
    /// Until when the attempt may run.
    pub(crate) deadline: Option<(Instant, TimeLimit)>,
    /// When the job's own time is over.
    job_deadline: Option<Instant>,
    prior: PriorAttempts,
}

impl<In, T, E> JobGuard<In, T, E> {
    /// The ticket of a slot, without a job.
    pub(crate) const fn new(slot: usize) -> Self {
        Self {
            reply: None,
            slot,
            id: JobId(0),
            index: 0,
            attempts: 0,
            kept: None,
            accepted_at: None,
            started_at: None,
            deadline: None,
            job_deadline: None,
            prior: PriorAttempts::NONE,
        }
    }

    /// Takes over a job whose start is booked.
    #[inline(always)]
    fn begin(
        &mut self,
        reply: Recipient<In, T, E>,
        id: JobId,
        index: usize,
        accepted_at: Option<Instant>,
        limits: Limits,
    ) {
        let shared = reply.shared();
        if shared.timings || !limits.is_none() || self.prior.since.is_some() {
            let now = self.prior.since.unwrap_or_else(|| shared.timer.now());
            self.started_at = Some(now);
            self.deadline = limits.deadline(accepted_at.unwrap_or(now), now);
            self.job_deadline = limits.job_deadline(accepted_at.unwrap_or(now));
        } else {
            self.started_at = None;
            self.deadline = None;
        }
        self.attempts = self.prior.attempts();
        self.reply = Some(reply);
        self.id = id;
        self.index = index;
        self.accepted_at = accepted_at;
    }

    /// Lets the worker that keeps the time know of what the start has brought; called with no lock
    /// held.
    #[inline(always)]
    pub(crate) fn notify_timer(&mut self, shared: &Shared<In, T, E>) {
        shared.notify_timer(std::mem::take(&mut self.prior.notice));
    }

    /// Takes over a job that was in a hand, in its first attempt.
    pub(crate) fn adopt(
        &mut self,
        stream: &Arc<CompletionQueue<In, T, E>>,
        id: JobId,
        index: usize,
    ) {
        self.prior = PriorAttempts::NONE;
        self.begin(
            Recipient::Stream(Arc::clone(stream)),
            id,
            index,
            None,
            Limits::default(),
        );
        self.attempts = 1;
    }

    /// Gives the job its value, if there is nothing to tell beside that; else the value is given
    /// back, and also if it belongs to a stream and `note` says that the success is not noted.
    pub(crate) fn succeed(
        &mut self,
        value: T,
        buffer: &mut CompletionBuffer<In, T, E>,
        note: impl FnOnce() -> bool,
    ) -> Option<T> {
        match self
            .reply
            .take_if(|reply| reply.shared().is_plain && self.attempts == 1 && self.kept.is_none())
        {
            None => Some(value),
            Some(Recipient::Handle(cell)) => {
                self.answer(&cell, Ok(value), note);
                None
            }
            Some(Recipient::Stream(stream)) => {
                buffer.begin_success(&stream);
                if !note() {
                    self.reply = Some(Recipient::Stream(stream));
                    return Some(value);
                }
                buffer.succeed(Success {
                    id: self.id,
                    index: self.index,
                    value,
                });
                None
            }
        }
    }

    /// The map or group that the job belongs to.
    pub(crate) fn stream(&self) -> Option<&Arc<CompletionQueue<In, T, E>>> {
        match &self.reply {
            Some(Recipient::Stream(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Looks whether the attempt should be made at all, and copies the input where the stream keeps
    /// it.
    ///
    /// The error is the job's outcome; its input is in the ticket then, unless the copying has
    /// panicked.
    pub(crate) fn prepare(&mut self, input: In) -> Result<In, JobError<E>> {
        let Some(reply) = &self.reply else {
            return Ok(input);
        };
        if let Some(interrupt) = reply.shared().cancel_flags[self.slot].interrupted() {
            self.kept = Some(input);
            return Err(JobError::Cancelled(interrupt.0));
        }
        if let (Some((at, TimeLimit::Job)), Some(now)) = (self.deadline, self.started_at)
            && at <= now
        {
            self.kept = Some(input);
            return Err(JobError::TimedOut(TimeLimit::Job));
        }
        let attempt = self.prior.attempts().saturating_add(1);
        let retries = reply
            .shared()
            .retry
            .as_ref()
            .filter(|retry| retry.policy.may_follow(attempt));
        let keep = retries
            .map(|retry| retry.copy)
            .or_else(|| self.stream().and_then(|stream| stream.timer_role()));
        if let Some(keep) = keep {
            match panic::catch(|| keep(&input)) {
                Ok(copy) => self.kept = Some(copy),
                Err(message) => {
                    drop_input(Some(input));
                    return Err(JobError::Panicked(message));
                }
            }
        }
        self.attempts = attempt;
        Ok(input)
    }

    /// Sends the job back to be tried again, if its policy says so; else the result is final. If a
    /// closure of the policy panics, that is the result.
    pub(crate) fn goes_again(&mut self, result: &mut Result<T, JobError<E>>) -> bool {
        match result {
            Err(JobError::Failed(_) | JobError::TimedOut(TimeLimit::Attempt))
                if self.kept.is_some() => {}
            _ => return false,
        }
        self.retry(result).unwrap_or_else(|panicked| {
            panic::discard(std::mem::replace(result, Err(panicked)));
            false
        })
    }

    /// Whether the job waits for another attempt now. The error: a closure of the policy has
    /// panicked.
    #[cold]
    fn retry(&mut self, result: &Result<T, JobError<E>>) -> Result<bool, JobError<E>> {
        let Some(reply) = &self.reply else {
            return Ok(false);
        };
        let shared = Arc::clone(reply.shared());
        let (Err(error), Some(retry)) = (result, &shared.retry) else {
            return Ok(false);
        };
        let (id, attempt, now) = (self.id, self.attempts, shared.timer.now());
        let since = self.started_at.unwrap_or(now);
        let history = self
            .prior
            .history
            .get_or_insert_with(|| Box::new(History::new(since)));
        let decision = panic::catch(|| retry.policy.decide(id, attempt, error, history, now));
        let Decision::Again {
            delay,
            hold,
            is_paid,
        } = decision.map_err(JobError::Panicked)?
        else {
            return Ok(false);
        };
        if self
            .job_deadline
            .is_some_and(|deadline| now.checked_add(delay).is_none_or(|at| at >= deadline))
        {
            return Ok(false);
        }
        match shared.allow_retry(self.slot, retry.capacity, is_paid) {
            Some(true) => {}
            Some(false) => {
                shared.observe(|| Event::RetryRefused { job: id });
                return Ok(false);
            }
            None => return Ok(false),
        }
        if let Err(message) =
            panic::catch(|| retry.policy.notify(id, attempt, error, delay, history))
        {
            shared.forgo_retry();
            return Err(JobError::Panicked(message));
        }
        shared.observe(|| Event::Retrying {
            job: id,
            attempt,
            delay,
        });
        let (Some(input), Some(history)) = (self.kept.take(), self.prior.history.take()) else {
            return Ok(false);
        };
        match self.reply.take() {
            Some(Recipient::Stream(stream)) => {
                let (index, accepted_at) = (self.index, self.accepted_at);
                let again = Arc::clone(&stream);
                let job = StreamJob {
                    input,
                    stream,
                    id,
                    index,
                    origin: Origin::Retry,
                    record_id: None,
                    accepted_at,
                };
                match shared.requeue(
                    self.slot,
                    ScheduledJob::Stream(Box::new(job)),
                    history,
                    delay,
                    hold,
                ) {
                    Ok((deferred, wakes)) => {
                        shared.run_deferred(deferred);
                        shared.run_wakes(wakes);
                        again.sweep_if_cancelled();
                        Ok(true)
                    }
                    Err((held, history)) => {
                        // What it holds is dropped with the rest of the job, behind a guard.
                        self.prior.history = Some(history);
                        if let ScheduledJob::Stream(job) = held {
                            self.kept = Some(job.input);
                            self.reply = Some(Recipient::Stream(job.stream));
                        }
                        Ok(false)
                    }
                }
            }
            Some(Recipient::Handle(cell)) => {
                // Under its lock, so that a cancellation finds it either running here or queued.
                let mut state = cell.lock();
                state.phase = Phase::Queued(input);
                let origin = std::mem::replace(&mut state.origin, Origin::Retry);
                let held = ScheduledJob::Handle(Arc::clone(&cell));
                match shared.requeue(self.slot, held, history, delay, hold) {
                    Ok((deferred, wakes)) => {
                        drop(state);
                        shared.run_deferred(deferred);
                        shared.run_wakes(wakes);
                        return Ok(true);
                    }
                    Err((_, history)) => self.prior.history = Some(history),
                }
                state.origin = origin;
                if let Phase::Queued(input) =
                    std::mem::replace(&mut state.phase, Phase::Running(self.slot))
                {
                    self.kept = Some(input);
                }
                drop(state);
                self.reply = Some(Recipient::Handle(cell));
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// The copy of the input, where the stream wants it.
    fn take_kept(&mut self, stream: &CompletionQueue<In, T, E>) -> Option<In> {
        let kept = self.kept.take()?;
        if stream.timer_role().is_some() || self.attempts == 0 {
            return Some(kept);
        }
        drop_input(Some(kept));
        None
    }

    /// Gives the job its outcome; one for a stream travels by the buffer.
    #[inline(always)]
    pub(crate) fn settle(
        &mut self,
        result: Result<T, JobError<E>>,
        buffer: &mut CompletionBuffer<In, T, E>,
    ) {
        if let Some((stream, completion)) = self.conclude(result) {
            buffer.push(stream, completion);
        }
    }

    /// Books the outcome and gives it to a cell; one for a stream is returned, and announced there.
    fn conclude(
        &mut self,
        result: Result<T, JobError<E>>,
    ) -> Option<(Arc<CompletionQueue<In, T, E>>, Completion<In, T, E>)> {
        match self.reply.take()? {
            Recipient::Handle(cell) => {
                self.answer(&cell, result, || false);
                None
            }
            Recipient::Stream(stream) => {
                // Before the slot is free, so that what the failure cancels does not start in it or
                // elsewhere.
                if let Err(error) = &result {
                    stream.count_failure(error);
                }
                let input = self.take_kept(&stream);
                self.prior.history.take().map(panic::discard);
                stream.begin_delivery(DeliveryKind::Finished);
                stream
                    .shared
                    .book_finish(self.slot, self.id, outcome_of(&result), self.attempts);
                let timings = self.timings(&stream.shared);
                let (id, index, attempts) = (self.id, self.index, self.attempts);
                Some((
                    stream,
                    Completion {
                        id,
                        index,
                        attempts,
                        input,
                        result,
                        timings,
                    },
                ))
            }
        }
    }

    /// Gives the outcome to a cell, and books it in between unless `note` says that it is noted.
    fn answer(
        &mut self,
        cell: &HandleState<In, T, E>,
        result: Result<T, JobError<E>>,
        note: impl FnOnce() -> bool,
    ) {
        if let Some(kept) = self.kept.take() {
            drop_input(Some(kept));
        }
        self.prior.history.take().map(panic::discard);
        let outcome = outcome_of(&result);
        let wanted = cell.discard_unwanted(result, self.attempts);
        cell.shared.deliveries.begin(DeliveryKind::Finished);
        if !note() {
            cell.shared
                .book_finish(self.slot, self.id, outcome, self.attempts);
        }
        cell.complete(wanted, self.attempts);
        cell.shared.end_deliveries(DeliveryKind::Finished, 1);
    }

    #[inline]
    fn timings(&self, shared: &Shared<In, T, E>) -> Option<Box<Timings>> {
        if !shared.timings {
            return None;
        }
        let (accepted_at, started_at) = (self.accepted_at?, self.started_at?);
        let queued_for = started_at.saturating_duration_since(accepted_at);
        let ran_for = Some(shared.timer.now().saturating_duration_since(started_at));
        Some(Box::new(Timings {
            queued_for,
            ran_for,
        }))
    }
}

impl<In, T, E> Drop for JobGuard<In, T, E> {
    fn drop(&mut self) {
        let Some(reply) = &self.reply else { return };
        // An interruption that was under way is the reason, though the worker did not live to see
        // it.
        let interrupt = reply.shared().cancel_flags[self.slot].interrupted();
        let result = Err(interrupt.map_or(JobError::Abandoned, |interrupt| {
            JobError::Cancelled(interrupt.0)
        }));
        if let Some((stream, completion)) = self.conclude(result) {
            stream.deliver(Delivery::One(completion));
            stream.end_delivery(DeliveryKind::Finished, 1);
        }
    }
}

const fn outcome_of<T, E>(result: &Result<T, JobError<E>>) -> Outcome {
    match result {
        Ok(_) => Outcome::Succeeded,
        Err(error) => error.outcome(),
    }
}

/// Completions of one stream on their way out of one worker.
///
/// Waking the consumer is what costs, so while it has something to read, up to [`CompletionBuffer::MOST`]
/// completions travel together. They leave as soon as the consumer has nothing to read when a job
/// ends, and before the worker waits for anything. Dropping the buffer sends what it holds.
pub(crate) struct CompletionBuffer<In, T, E> {
    /// `None` only while nothing is held.
    stream: Option<Arc<CompletionQueue<In, T, E>>>,
    /// At most [`CompletionBuffer::MOST`].
    held: Vec<Completion<In, T, E>>,
    /// The same, of successes of which there is nothing more to tell; only one of the two lists has
    /// something in it.
    successes: Vec<Success<T>>,
    /// How many are announced.
    announced: usize,
}

impl<In, T, E> CompletionBuffer<In, T, E> {
    const MOST: usize = 64;

    pub(crate) const fn new() -> Self {
        Self {
            stream: None,
            held: Vec::new(),
            successes: Vec::new(),
            announced: 0,
        }
    }

    /// A job of this stream starts, or one of none: what others wait for leaves before, since the
    /// job may wait for that itself.
    #[inline]
    pub(crate) fn clear_for(&mut self, stream: Option<&Arc<CompletionQueue<In, T, E>>>) {
        if self
            .stream
            .as_ref()
            .is_some_and(|held| !stream.is_some_and(|stream| Arc::ptr_eq(held, stream)))
        {
            self.flush();
        }
    }

    /// A completion of this stream, which is announced and in the books.
    #[inline(always)]
    fn push(&mut self, stream: Arc<CompletionQueue<In, T, E>>, completion: Completion<In, T, E>) {
        debug_assert!(
            self.stream
                .as_ref()
                .is_none_or(|held| Arc::ptr_eq(held, &stream)),
            "what is for others has left before the job started"
        );
        if !self.successes.is_empty() {
            self.send();
        }
        if self.held.capacity() == 0 {
            self.held = stream.spares.take();
        }
        self.stream.get_or_insert(stream);
        self.held.push(completion);
        self.announced += 1;
        self.send_if_due();
    }

    /// A job of this stream has succeeded, and is about to be booked.
    #[inline(always)]
    pub(crate) fn begin_success(&mut self, stream: &Arc<CompletionQueue<In, T, E>>) {
        if self.stream.is_none() {
            self.stream = Some(Arc::clone(stream));
        }
        // Before the announcement, which arrives with what is sent.
        if !self.held.is_empty() {
            self.send();
        }
        self.begin_first_delivery();
    }

    /// The success that was expected, which is in the books now.
    #[inline(always)]
    pub(crate) fn succeed(&mut self, success: Success<T>) {
        if self.successes.capacity() == 0
            && let Some(stream) = &self.stream
        {
            self.successes = stream.success_spares.take();
        }
        self.successes.push(success);
        self.send_if_due();
    }

    /// Says that something arrives when the first is held, so that nobody takes the wait for it for
    /// one without end. What else it holds arrives with that.
    #[inline(always)]
    fn begin_first_delivery(&mut self) {
        if self.announced == 0
            && let Some(stream) = &self.stream
        {
            stream.begin_delivery(DeliveryKind::Finished);
            self.announced += 1;
        }
    }

    /// Sends what it holds if there is much of it, or if the consumer has nothing to read.
    #[inline(always)]
    pub(crate) fn send_if_due(&mut self) {
        let Some(stream) = &self.stream else { return };
        // How many travel together is a matter of speed; the vector would hold more.
        if self.held.len() + self.successes.len() >= Self::MOST || stream.is_starved() {
            self.send();
        }
    }

    fn send(&mut self) {
        let Some(stream) = &self.stream else { return };
        // Lists of none and of one would do, but cost more.
        match self.held.len() {
            0 => {}
            1 => self
                .held
                .pop()
                .into_iter()
                .for_each(|completion| stream.deliver(Delivery::One(completion))),
            _ => stream.deliver(Delivery::Many(std::mem::take(&mut self.held))),
        }
        match self.successes.len() {
            0 => {}
            1 => self
                .successes
                .pop()
                .into_iter()
                .for_each(|success| stream.deliver(Delivery::One(success.into_completion()))),
            _ => stream.deliver(Delivery::Successes(std::mem::take(&mut self.successes))),
        }
        stream.end_delivery(DeliveryKind::Finished, std::mem::take(&mut self.announced));
    }

    /// Sends what it holds.
    pub(crate) fn flush(&mut self) {
        if self.stream.is_some() {
            self.send();
            self.stream = None;
        }
    }
}

impl<In, T, E> Drop for CompletionBuffer<In, T, E> {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_lite::future::{block_on, poll_once};

    use crate::{CancelReason, JobError, ManualTimer, Pool};

    /// A worker has taken the job and finds that it may not start; meanwhile its map is cancelled.
    #[test]
    fn a_job_that_comes_back_to_the_queue_finds_that_its_map_was_cancelled() {
        let builder = Pool::builder().workers(1).timer(ManualTimer::new());
        let (pool, workers) = builder.build(|n: u32| async move { Ok::<_, ()>(n) });
        let mut map = pool.map(0..1);
        assert_eq!(block_on(poll_once(map.next())), None);
        let Ok(Some(entry)) = pool.shared().injector.try_pop() else {
            panic!("the job is ready")
        };
        pool.pause();
        map.cancel();
        pool.shared().return_to_schedule(entry);
        let polled = block_on(poll_once(pin!(map.next())));
        let result = polled.flatten().map(|completion| completion.result);
        assert_eq!(result, Some(Err(JobError::Cancelled(CancelReason::Stream))));
        drop(workers);
    }

    #[test]
    fn what_cancelled_handles_leave_in_the_queue_is_bounded() {
        for is_scheduled in [false, true] {
            let mut builder = Pool::builder()
                .workers(1)
                .queue_capacity(1)
                .timer(ManualTimer::new());
            if is_scheduled {
                builder = builder.key_by(|n: &u32| *n);
            }
            let (pool, workers) = builder.build(|n: u32| async move { Ok::<_, ()>(n) });
            for n in 0..1000 {
                drop(pool.try_submit(n).unwrap());
            }
            let left = pool.shared().injector.take_all().len();
            assert!(left <= 32, "{left} are left, scheduled: {is_scheduled}");
            drop(workers);
        }
    }
}
