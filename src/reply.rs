//! Where the outcome of a job goes, and the guard that sees to it that there is one. In comes what
//! a worker or a canceller found out about a job; out goes exactly one outcome, to the books first
//! and then to whoever waits for it: the stream of a map or group, or the cell of a single handle.
//!
//! A job passes through these forms: [`Held`] while the schedule keeps it, where there is one; an
//! [`Entry`] on its way to a worker; a [`Ticket`] while it runs; a [`Completion`] when it is done.
//! Each turns into the next by value; one that is to be tried again turns from a ticket to what is
//! held. A ticket that is dropped, because its worker was, reports the job as abandoned.

use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

use crate::attempt::retry::{Decision, History};
use crate::attempt::timeout::Limits;
use crate::attempt::unwind;
use crate::engine::{self, Begun, Engine, Past};
use crate::error::{CancelReason, JobError, TimeLimit};
use crate::observe::{Event, JobId, Outcome};
use crate::pool::{Unhandled, Unstarted};
use crate::queue::desk::Runner;
use crate::queue::injector::Split;
use crate::queue::ledger::{Origin, Wakes};
use crate::queue::running::Occupant;
use crate::queue::schedule::Spot;
use crate::results::stream::{Delivery, Stream, Success};
use crate::results::{Completion, Timings};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// A queued job.
pub(crate) enum Entry<In, T, E> {
    /// Of a map or group: everything inline, so that it costs no allocation.
    Streamed(Streamed<In, T, E>),
    /// Of a single handle: its input is in the cell, so that a cancellation can take it out.
    Handled(Arc<Cell<In, T, E>>),
}

pub(crate) struct Streamed<In, T, E> {
    pub(crate) input: In,
    pub(crate) stream: Arc<Stream<In, T, E>>,
    pub(crate) id: JobId,
    pub(crate) index: usize,
    pub(crate) origin: Origin,
    /// Its record in the schedule, once that has released it.
    pub(crate) spot: Option<Spot>,
    pub(crate) accepted_at: Option<Instant>,
}

/// Jobs of one map that were handed in together, numbered one after another.
pub(crate) struct Lot<In, T, E> {
    pub(crate) stream: Arc<Stream<In, T, E>>,
    /// Of the first.
    id: JobId,
    index: usize,
    /// The oldest comes last, where it is taken out most easily.
    inputs: Vec<In>,
}

impl<In, T, E> Lot<In, T, E> {
    pub(crate) fn new(
        stream: Arc<Stream<In, T, E>>,
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

impl<In, T, E> Split for Lot<In, T, E> {
    type Job = Entry<In, T, E>;

    fn len(&self) -> usize {
        self.inputs.len()
    }

    fn take_first(&mut self) -> Option<Entry<In, T, E>> {
        let (id, index, input) = self.take_input()?;
        let (stream, origin) = (Arc::clone(&self.stream), Origin::Outside);
        Some(Entry::Streamed(Streamed {
            input,
            stream,
            id,
            index,
            origin,
            spot: None,
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

    fn number_of(job: &Entry<In, T, E>) -> u64 {
        job.id().as_u64()
    }

    fn is_dead(&self) -> bool {
        self.stream.cancelled().is_some()
    }
}

impl<In, T, E> Drop for Lot<In, T, E> {
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
pub(crate) enum Held<In, T, E> {
    Streamed(Box<Streamed<In, T, E>>),
    Handled(Arc<Cell<In, T, E>>),
}

impl<In, T, E> Held<In, T, E> {
    /// The job on its way to a worker.
    pub(crate) fn release(self, spot: Spot) -> Entry<In, T, E> {
        match self {
            Self::Streamed(mut job) => {
                job.spot = Some(spot);
                Entry::Streamed(*job)
            }
            Self::Handled(cell) => Entry::Handled(cell),
        }
    }

    /// The job, which the schedule has forgotten.
    pub(crate) fn into_entry(self) -> Entry<In, T, E> {
        match self {
            Self::Streamed(mut job) => {
                job.spot = None;
                Entry::Streamed(*job)
            }
            Self::Handled(cell) => Entry::Handled(cell),
        }
    }

    /// Whether its map or group is cancelled. A cancelled handle takes its job out of the schedule
    /// itself.
    pub(crate) fn is_dead(&self) -> bool {
        match self {
            Self::Streamed(job) => job.stream.cancelled().is_some(),
            Self::Handled(_) => false,
        }
    }
}

impl<In, T, E> From<Entry<In, T, E>> for Held<In, T, E> {
    fn from(entry: Entry<In, T, E>) -> Self {
        match entry {
            Entry::Streamed(job) => Self::Streamed(Box::new(job)),
            Entry::Handled(cell) => Self::Handled(cell),
        }
    }
}

impl<In, T, E> Entry<In, T, E> {
    pub(crate) fn id(&self) -> JobId {
        match self {
            Self::Streamed(job) => job.id,
            Self::Handled(cell) => cell.id,
        }
    }

    /// Its record in the schedule, if it had one when it was looked for.
    pub(crate) fn spot(&self) -> Option<Spot> {
        match self {
            Self::Streamed(job) => job.spot,
            Self::Handled(cell) => cell.spot(),
        }
    }

    pub(crate) fn stream(&self) -> Option<Arc<Stream<In, T, E>>> {
        match self {
            Self::Streamed(job) => Some(Arc::clone(&job.stream)),
            Self::Handled(_) => None,
        }
    }

    /// Whether it is cancelled: its outcome is decided, or is that of its stream.
    pub(crate) fn is_dead(&self) -> bool {
        match self {
            Self::Streamed(job) => job.stream.cancelled().is_some(),
            Self::Handled(cell) => cell.is_dead(),
        }
    }

    /// Gives the job its outcome without having started it. A cancellation that came first stays
    /// the reason.
    pub(crate) fn settle_unstarted(
        self,
        engine: &Engine<In, T, E>,
        error: JobError<E>,
        attempts: u32,
    ) {
        match self {
            Self::Streamed(job) => {
                let error = job.stream.cancelled().map_or(error, JobError::Cancelled);
                job.settle(engine, error, attempts, |input, _| Some(input));
            }
            Self::Handled(cell) => {
                cell.settle_queued(error, attempts, |input| drop_input(Some(input)));
            }
        }
    }

    /// Gives the job its outcome as aborted and its input to the pool's report.
    pub(crate) fn return_unstarted(self, engine: &Engine<In, T, E>, attempts: u32) {
        // Before the books know of it: who finds the pool idle then finds all inputs.
        let hand_back = |id, index, input| {
            let unstarted = Unstarted {
                id,
                index,
                input,
                attempts,
            };
            engine
                .returned
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(unstarted);
        };
        let aborted = JobError::Cancelled(CancelReason::Aborted);
        match self {
            Self::Streamed(job) if job.stream.cancelled().is_some() => {
                Self::Streamed(job).settle_unstarted(engine, JobError::Abandoned, attempts);
            }
            Self::Streamed(job) => {
                let (id, index) = (job.id, job.index);
                job.settle(engine, aborted, attempts, |input, stream| {
                    let kept = stream.keep(&input);
                    hand_back(id, index, input);
                    kept
                });
            }
            Self::Handled(cell) => {
                cell.settle_queued(aborted, attempts, |input| hand_back(cell.id, 0, input));
            }
        }
    }

    /// Starts the job, unless it has its outcome already or gets it now: makes it the ticket's, and
    /// returns the input. The start is booked unless `note` says that it is noted.
    pub(crate) fn start(
        self,
        engine: &Arc<Engine<In, T, E>>,
        ticket: &mut Ticket<In, T, E>,
        note: impl FnOnce(Runner) -> bool,
    ) -> Option<In> {
        match self {
            Self::Streamed(job) => job.start(engine, ticket, note),
            Self::Handled(cell) => cell.start(ticket, note),
        }
    }
}

fn drop_input<In>(input: Option<In>) {
    unwind::discard(input);
}

// ---- jobs of a map or group ----

impl<In, T, E> Streamed<In, T, E> {
    /// Delivers the outcome of a job that never started, with what `part_with` leaves of its input.
    fn settle(
        self,
        engine: &Engine<In, T, E>,
        error: JobError<E>,
        attempts: u32,
        part_with: impl FnOnce(In, &Stream<In, T, E>) -> Option<In>,
    ) {
        let Self {
            input,
            stream,
            id,
            index,
            origin,
            spot,
            accepted_at,
        } = self;
        let kept = part_with(input, &stream);
        if matches!(
            error,
            JobError::TimedOut(_) | JobError::CostExceedsLimit { .. } | JobError::Panicked(_)
        ) {
            stream.count_failure(&error);
        }
        stream.announce(engine::DeliveryKind::Unstarted);
        engine.book_unstarted(
            origin,
            id,
            error.outcome(),
            spot,
            attempts,
            Some(stream.identity().get()),
        );
        let timings = accepted_at.filter(|_| engine.timings).map(|at| {
            Box::new(Timings {
                queued_for: engine.timer.now().saturating_duration_since(at),
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
        stream.arrived(engine::DeliveryKind::Unstarted, 1);
    }

    fn start(
        self,
        engine: &Arc<Engine<In, T, E>>,
        ticket: &mut Ticket<In, T, E>,
        note: impl FnOnce(Runner) -> bool,
    ) -> Option<In> {
        let slot = ticket.slot;
        if self.stream.cancelled().is_some() {
            let entry = Entry::Streamed(self);
            let attempts = engine.attempts(&entry);
            entry.settle_unstarted(engine, JobError::Abandoned, attempts);
            return None;
        }
        let stream = self.stream.identity();
        let mut limits = Limits::default();
        let is_noted = engine.is_plain
            && self.origin == Origin::Outside
            && note(Runner {
                id: self.id,
                index: self.index,
                stream: Some(stream),
            });
        if is_noted {
            ticket.past = Past::NONE;
        } else {
            let mut wakes = Wakes::default();
            let mut occupant = Occupant::new(self.id, self.index, Some(stream.get()));
            occupant.spot = self.spot;
            match engine.book_start(
                slot,
                self.origin,
                occupant,
                &mut limits,
                &mut wakes,
                &mut ticket.past,
            ) {
                Begun::Yes => {}
                Begun::Aborted => {
                    let entry = Entry::Streamed(self);
                    let attempts = engine.attempts(&entry);
                    entry.return_unstarted(engine, attempts);
                    return None;
                }
                Begun::NotYet => {
                    engine.carry_out(wakes);
                    engine.readmit(Entry::Streamed(self));
                    return None;
                }
            }
            engine.carry_out(wakes);
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
            let _ = engine.signals[slot].interrupt(reason);
        }
        ticket.begin(Reply::Stream(stream), id, index, accepted_at, limits);
        Some(input)
    }
}

// ---- jobs of a handle ----

/// The state of a job that somebody holds a handle of. Its lock decides which outcome is the one.
pub(crate) struct Cell<In, T, E> {
    pub(crate) engine: Arc<Engine<In, T, E>>,
    pub(crate) id: JobId,
    /// Of a job that has limits of its own or is measured; not of the many others, which are to be
    /// small.
    times: Option<Box<Times>>,
    /// How many attempts were made; written before the outcome.
    attempts: AtomicU32,
    /// Its record in the schedule, or 0. Written under the engine's lock; whether the record is
    /// still its own, the schedule knows.
    spot: AtomicU32,
    state: Mutex<CellState<In, T, E>>,
}

/// What is known of the time of a job with a handle.
struct Times {
    /// Where it says nothing of attempts, the pool's limit at their start counts.
    limits: Limits,
    accepted_at: Option<Instant>,
}

pub(crate) struct CellState<In, T, E> {
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

impl<In, T, E> Cell<In, T, E> {
    pub(crate) fn new(
        engine: &Arc<Engine<In, T, E>>,
        id: JobId,
        origin: Origin,
        limits: Limits,
        accepted_at: Option<Instant>,
        input: In,
        is_detached: bool,
    ) -> Arc<Self> {
        let state = CellState {
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
            engine: Arc::clone(engine),
            id,
            times,
            attempts: AtomicU32::new(0),
            spot: AtomicU32::new(0),
            state: Mutex::new(state),
        })
    }

    pub(crate) fn spot(&self) -> Option<Spot> {
        Spot::new(self.spot.load(Ordering::SeqCst))
    }

    pub(crate) fn set_spot(&self, spot: Spot) {
        self.spot.store(spot.get(), Ordering::SeqCst);
    }

    /// Whether its outcome is decided.
    pub(crate) fn is_dead(&self) -> bool {
        !matches!(self.lock().phase, Phase::Queued(_) | Phase::Running(_))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, CellState<In, T, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(
        self: Arc<Self>,
        ticket: &mut Ticket<In, T, E>,
        note: impl FnOnce(Runner) -> bool,
    ) -> Option<In> {
        let slot = ticket.slot;
        let mut state = self.lock();
        let input = match std::mem::replace(&mut state.phase, Phase::Running(slot)) {
            Phase::Queued(input) => input,
            decided => {
                state.phase = decided;
                drop(state);
                self.engine.remove_tombstone(self.spot(), self.id);
                return None;
            }
        };
        let mut limits = Limits::default();
        let is_noted = self.engine.is_plain
            && state.origin == Origin::Outside
            && note(Runner {
                id: self.id,
                index: 0,
                stream: None,
            });
        if is_noted {
            drop(state);
            ticket.past = Past::NONE;
        } else {
            let mut wakes = Wakes::default();
            let mut occupant = Occupant::new(self.id, 0, None);
            occupant.spot = self.spot();
            let origin = state.origin;
            let past = &mut ticket.past;
            let begun =
                self.engine
                    .book_start(slot, origin, occupant, &mut limits, &mut wakes, past);
            if begun != Begun::Yes {
                state.phase = Phase::Queued(input);
                drop(state);
                let engine = Arc::clone(&self.engine);
                engine.carry_out(wakes);
                let entry = Entry::Handled(self);
                if begun == Begun::Aborted {
                    let attempts = engine.attempts(&entry);
                    entry.return_unstarted(&engine, attempts);
                } else {
                    engine.readmit(entry);
                }
                return None;
            }
            drop(state);
            self.engine.carry_out(wakes);
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
        ticket.begin(Reply::Cell(self), id, 0, accepted_at, limits);
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
        self.engine
            .deliveries
            .begin(engine::DeliveryKind::Unstarted);
        self.engine
            .book_unstarted(origin, self.id, outcome, self.spot(), attempts, None);
        self.complete(wanted, attempts);
        self.engine
            .end_deliveries(engine::DeliveryKind::Unstarted, 1);
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
                let attempts = self.engine.attempts_of(self.spot(), self.id);
                let cancelled = JobError::Cancelled(CancelReason::Handle);
                if self.settle_queued(cancelled, attempts, |input| drop_input(Some(input))) {
                    self.engine.sweep_tombstones();
                    return false;
                }
                // A worker was faster; what it runs now can be interrupted.
                self.cancel()
            }
            Phase::Running(slot) => {
                // Under the lock: as long as the phase says so, the slot runs this job and no
                // other.
                let waker = self.engine.signals[slot].interrupt(CancelReason::Handle);
                drop(state);
                unwind::wake(waker);
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
            Phase::Running(slot) => !self.engine.state().running.is_running(slot, self.id),
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
        unwind::wake(waker);
        if let Some(result) = unwanted {
            self.discard(result, attempts);
        }
    }

    fn discard(&self, result: Result<T, JobError<E>>, attempts: u32) {
        match result {
            // Whoever cancelled knows.
            Err(JobError::Cancelled(CancelReason::Handle)) => {}
            Err(error) => self.engine.report_unhandled(Unhandled {
                id: self.id,
                attempts,
                error,
            }),
            Ok(value) => {
                unwind::discard(value);
            }
        }
    }
}

// ---- jobs that run ----

/// Who gets the outcome of a running job.
pub(crate) enum Reply<In, T, E> {
    Stream(Arc<Stream<In, T, E>>),
    Cell(Arc<Cell<In, T, E>>),
}

impl<In, T, E> Reply<In, T, E> {
    fn engine(&self) -> &Arc<Engine<In, T, E>> {
        match self {
            Self::Stream(stream) => &stream.engine,
            Self::Cell(cell) => &cell.engine,
        }
    }
}

/// The right and the duty to give the running job of a slot its outcome. Dropped with a job, it
/// says `Abandoned`.
///
/// A worker has one for all its jobs, one after another.
pub(crate) struct Ticket<In, T, E> {
    /// `None`: no job, or one that is settled.
    reply: Option<Reply<In, T, E>>,
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
    past: Past,
}

impl<In, T, E> Ticket<In, T, E> {
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
            past: Past::NONE,
        }
    }

    /// Takes over a job whose start is booked.
    #[inline(always)]
    fn begin(
        &mut self,
        reply: Reply<In, T, E>,
        id: JobId,
        index: usize,
        accepted_at: Option<Instant>,
        limits: Limits,
    ) {
        let engine = reply.engine();
        if engine.timings || !limits.is_none() || self.past.since.is_some() {
            let now = self.past.since.unwrap_or_else(|| engine.timer.now());
            self.started_at = Some(now);
            self.deadline = limits.deadline(accepted_at.unwrap_or(now), now);
            self.job_deadline = limits.job_deadline(accepted_at.unwrap_or(now));
        } else {
            self.started_at = None;
            self.deadline = None;
        }
        self.attempts = self.past.attempts();
        self.reply = Some(reply);
        self.id = id;
        self.index = index;
        self.accepted_at = accepted_at;
    }

    /// Lets the worker that keeps the time know of what the start has brought; called with no lock
    /// held.
    #[inline(always)]
    pub(crate) fn give_notice(&mut self, engine: &Engine<In, T, E>) {
        engine.give_notice(std::mem::take(&mut self.past.notice));
    }

    /// Takes over a job that was in a hand, in its first attempt.
    pub(crate) fn adopt(&mut self, stream: &Arc<Stream<In, T, E>>, id: JobId, index: usize) {
        self.past = Past::NONE;
        self.begin(
            Reply::Stream(Arc::clone(stream)),
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
        outbox: &mut Outbox<In, T, E>,
        note: impl FnOnce() -> bool,
    ) -> Option<T> {
        match self
            .reply
            .take_if(|reply| reply.engine().is_plain && self.attempts == 1 && self.kept.is_none())
        {
            None => Some(value),
            Some(Reply::Cell(cell)) => {
                self.answer(&cell, Ok(value), note);
                None
            }
            Some(Reply::Stream(stream)) => {
                outbox.expect_success(&stream);
                if !note() {
                    self.reply = Some(Reply::Stream(stream));
                    return Some(value);
                }
                outbox.succeed(Success {
                    id: self.id,
                    index: self.index,
                    value,
                });
                None
            }
        }
    }

    /// The map or group that the job belongs to.
    pub(crate) fn stream(&self) -> Option<&Arc<Stream<In, T, E>>> {
        match &self.reply {
            Some(Reply::Stream(stream)) => Some(stream),
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
        if let Some(interrupt) = reply.engine().signals[self.slot].interrupted() {
            self.kept = Some(input);
            return Err(JobError::Cancelled(interrupt.0));
        }
        if let (Some((at, TimeLimit::Job)), Some(now)) = (self.deadline, self.started_at)
            && at <= now
        {
            self.kept = Some(input);
            return Err(JobError::TimedOut(TimeLimit::Job));
        }
        let attempt = self.past.attempts().saturating_add(1);
        let retries = reply
            .engine()
            .retry
            .as_ref()
            .filter(|retry| retry.policy.may_follow(attempt));
        let keep = retries
            .map(|retry| retry.copy)
            .or_else(|| self.stream().and_then(|stream| stream.keeper()));
        if let Some(keep) = keep {
            match unwind::catch(|| keep(&input)) {
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
            unwind::discard(std::mem::replace(result, Err(panicked)));
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
        let engine = Arc::clone(reply.engine());
        let (Err(error), Some(retry)) = (result, &engine.retry) else {
            return Ok(false);
        };
        let (id, attempt, now) = (self.id, self.attempts, engine.timer.now());
        let since = self.started_at.unwrap_or(now);
        let history = self
            .past
            .history
            .get_or_insert_with(|| Box::new(History::new(since)));
        let decision = unwind::catch(|| retry.policy.decide(id, attempt, error, history, now));
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
        match engine.allow_retry(self.slot, retry.capacity, is_paid) {
            Some(true) => {}
            Some(false) => {
                engine.observe(|| Event::RetryRefused { job: id });
                return Ok(false);
            }
            None => return Ok(false),
        }
        if let Err(message) =
            unwind::catch(|| retry.policy.tell(id, attempt, error, delay, history))
        {
            engine.forgo_retry();
            return Err(JobError::Panicked(message));
        }
        engine.observe(|| Event::Retrying {
            job: id,
            attempt,
            delay,
        });
        let (Some(input), Some(history)) = (self.kept.take(), self.past.history.take()) else {
            return Ok(false);
        };
        match self.reply.take() {
            Some(Reply::Stream(stream)) => {
                let (index, accepted_at) = (self.index, self.accepted_at);
                let again = Arc::clone(&stream);
                let job = Streamed {
                    input,
                    stream,
                    id,
                    index,
                    origin: Origin::Retry,
                    spot: None,
                    accepted_at,
                };
                match engine.requeue(
                    self.slot,
                    Held::Streamed(Box::new(job)),
                    history,
                    delay,
                    hold,
                ) {
                    Ok((effects, wakes)) => {
                        engine.carry_out_effects(effects);
                        engine.carry_out(wakes);
                        again.look_again();
                        Ok(true)
                    }
                    Err((held, history)) => {
                        // What it holds is dropped with the rest of the job, behind a guard.
                        self.past.history = Some(history);
                        if let Held::Streamed(job) = held {
                            self.kept = Some(job.input);
                            self.reply = Some(Reply::Stream(job.stream));
                        }
                        Ok(false)
                    }
                }
            }
            Some(Reply::Cell(cell)) => {
                // Under its lock, so that a cancellation finds it either running here or queued.
                let mut state = cell.lock();
                state.phase = Phase::Queued(input);
                let origin = std::mem::replace(&mut state.origin, Origin::Retry);
                let held = Held::Handled(Arc::clone(&cell));
                match engine.requeue(self.slot, held, history, delay, hold) {
                    Ok((effects, wakes)) => {
                        drop(state);
                        engine.carry_out_effects(effects);
                        engine.carry_out(wakes);
                        return Ok(true);
                    }
                    Err((_, history)) => self.past.history = Some(history),
                }
                state.origin = origin;
                if let Phase::Queued(input) =
                    std::mem::replace(&mut state.phase, Phase::Running(self.slot))
                {
                    self.kept = Some(input);
                }
                drop(state);
                self.reply = Some(Reply::Cell(cell));
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// The copy of the input, where the stream wants it.
    fn take_kept(&mut self, stream: &Stream<In, T, E>) -> Option<In> {
        let kept = self.kept.take()?;
        if stream.keeper().is_some() || self.attempts == 0 {
            return Some(kept);
        }
        drop_input(Some(kept));
        None
    }

    /// Gives the job its outcome; one for a stream travels by the outbox.
    #[inline(always)]
    pub(crate) fn settle(&mut self, result: Result<T, JobError<E>>, outbox: &mut Outbox<In, T, E>) {
        if let Some((stream, completion)) = self.conclude(result) {
            outbox.push(stream, completion);
        }
    }

    /// Books the outcome and gives it to a cell; one for a stream is returned, and announced there.
    fn conclude(
        &mut self,
        result: Result<T, JobError<E>>,
    ) -> Option<(Arc<Stream<In, T, E>>, Completion<In, T, E>)> {
        match self.reply.take()? {
            Reply::Cell(cell) => {
                self.answer(&cell, result, || false);
                None
            }
            Reply::Stream(stream) => {
                // Before the slot is free, so that what the failure cancels does not start in it or
                // elsewhere.
                if let Err(error) = &result {
                    stream.count_failure(error);
                }
                let input = self.take_kept(&stream);
                self.past.history.take().map(unwind::discard);
                stream.announce(engine::DeliveryKind::Finished);
                stream
                    .engine
                    .book_finish(self.slot, self.id, outcome_of(&result), self.attempts);
                let timings = self.timings(&stream.engine);
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
        cell: &Cell<In, T, E>,
        result: Result<T, JobError<E>>,
        note: impl FnOnce() -> bool,
    ) {
        if let Some(kept) = self.kept.take() {
            drop_input(Some(kept));
        }
        self.past.history.take().map(unwind::discard);
        let outcome = outcome_of(&result);
        let wanted = cell.discard_unwanted(result, self.attempts);
        cell.engine.deliveries.begin(engine::DeliveryKind::Finished);
        if !note() {
            cell.engine
                .book_finish(self.slot, self.id, outcome, self.attempts);
        }
        cell.complete(wanted, self.attempts);
        cell.engine
            .end_deliveries(engine::DeliveryKind::Finished, 1);
    }

    #[inline]
    fn timings(&self, engine: &Engine<In, T, E>) -> Option<Box<Timings>> {
        if !engine.timings {
            return None;
        }
        let (accepted_at, started_at) = (self.accepted_at?, self.started_at?);
        let queued_for = started_at.saturating_duration_since(accepted_at);
        let ran_for = Some(engine.timer.now().saturating_duration_since(started_at));
        Some(Box::new(Timings {
            queued_for,
            ran_for,
        }))
    }
}

impl<In, T, E> Drop for Ticket<In, T, E> {
    fn drop(&mut self) {
        let Some(reply) = &self.reply else { return };
        // An interruption that was under way is the reason, though the worker did not live to see
        // it.
        let interrupt = reply.engine().signals[self.slot].interrupted();
        let result = Err(interrupt.map_or(JobError::Abandoned, |interrupt| {
            JobError::Cancelled(interrupt.0)
        }));
        if let Some((stream, completion)) = self.conclude(result) {
            stream.deliver(Delivery::One(completion));
            stream.arrived(engine::DeliveryKind::Finished, 1);
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
/// Waking the consumer is what costs, so while it has something to read, up to [`Outbox::MOST`]
/// completions travel together. They leave as soon as the consumer has nothing to read when a job
/// ends, and before the worker waits for anything. Dropping the outbox sends what it holds.
pub(crate) struct Outbox<In, T, E> {
    /// `None` only while nothing is held.
    stream: Option<Arc<Stream<In, T, E>>>,
    /// At most [`Outbox::MOST`].
    held: Vec<Completion<In, T, E>>,
    /// The same, of successes of which there is nothing more to tell; only one of the two lists has
    /// something in it.
    successes: Vec<Success<T>>,
    /// How many are announced.
    announced: usize,
}

impl<In, T, E> Outbox<In, T, E> {
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
    pub(crate) fn clear_for(&mut self, stream: Option<&Arc<Stream<In, T, E>>>) {
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
    fn push(&mut self, stream: Arc<Stream<In, T, E>>, completion: Completion<In, T, E>) {
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
    pub(crate) fn expect_success(&mut self, stream: &Arc<Stream<In, T, E>>) {
        if self.stream.is_none() {
            self.stream = Some(Arc::clone(stream));
        }
        // Before the announcement, which arrives with what is sent.
        if !self.held.is_empty() {
            self.send();
        }
        self.announce_first();
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
    fn announce_first(&mut self) {
        if self.announced == 0
            && let Some(stream) = &self.stream
        {
            stream.announce(engine::DeliveryKind::Finished);
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
        stream.arrived(
            engine::DeliveryKind::Finished,
            std::mem::take(&mut self.announced),
        );
    }

    /// Sends what it holds.
    pub(crate) fn flush(&mut self) {
        if self.stream.is_some() {
            self.send();
            self.stream = None;
        }
    }
}

impl<In, T, E> Drop for Outbox<In, T, E> {
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
        let Ok(Some(entry)) = pool.engine().injector.try_pop() else {
            panic!("the job is ready")
        };
        pool.pause();
        map.cancel();
        pool.engine().readmit(entry);
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
            let left = pool.engine().injector.take_all().len();
            assert!(left <= 32, "{left} are left, scheduled: {is_scheduled}");
            drop(workers);
        }
    }
}
