//! What the pool's handle, its workers and its replies share: the books under one lock, the ready channel, and the means
//! to interrupt a worker. It moves jobs from one book to another and wakes whom that concerns; it runs no handler.
//!
//! The rule of the lock: values are taken out, the lock is released, then wakers are woken, observers called and user
//! values dropped. No user code runs under it, so a poisoned lock is entered.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::attempt::inside::{self, Place};
use crate::attempt::timeout::Limits;
use crate::attempt::unwind;
use crate::error::{CancelReason, JobError};
use crate::observe::{Event, JobId, Observer, Outcome, Stats};
use crate::pool::{Interrupted, Unhandled, Unstarted};
use crate::queue::ledger::{Ledger, Life, Origin, Refusal, Wakes};
use crate::queue::ready::Ready;
use crate::queue::running::{Occupant, Running};
use crate::reply::{Cell, Entry};
use crate::results::stream::Stream;
use crate::rt::Timer;

pub(crate) type UnhandledFn<E> = dyn Fn(Unhandled<E>) + Send + Sync;

/// The books; see the rule of the lock above.
pub(crate) struct State<In, T, E> {
    pub(crate) ledger: Ledger,
    pub(crate) running: Running<Waiting<In, T, E>>,
    pub(crate) limits: Limits,
    /// What an abort has interrupted and no report has named yet; at most one a slot.
    interrupted: Vec<Interrupted>,
}

pub(crate) struct Engine<In, T, E> {
    state: Mutex<State<In, T, E>>,
    pub(crate) ready: Ready<Entry<In, T, E>>,
    /// One for each slot.
    pub(crate) signals: Box<[Signal]>,
    /// Notified when the pool may have become idle.
    pub(crate) quiet: event_listener::Event,
    pub(crate) timer: Arc<dyn Timer>,
    observer: Option<Arc<dyn Observer>>,
    pub(crate) unhandled: Mutex<Option<Arc<UnhandledFn<E>>>>,
    /// Unstarted inputs of an aborted pool that no report has taken yet. Bounded by what was queued.
    pub(crate) returned: Mutex<Vec<Unstarted<In>>>,
    /// How many [`Pool`](crate::Pool)s share this engine.
    pub(crate) handles: AtomicUsize,
    /// Cancelled jobs whose husk is still in the ready channel; swept before they outnumber the others.
    husks: AtomicUsize,
    /// Whether an abort has emptied the ready channel, or is about to.
    is_aborted: AtomicBool,
    pub(crate) timings: bool,
    pub(crate) slow_poll: Option<Duration>,
}

/// What the builder decides.
pub(crate) struct Settings {
    pub(crate) workers: usize,
    pub(crate) capacity: usize,
    pub(crate) child_capacity: usize,
    pub(crate) limits: Limits,
    pub(crate) timer: Arc<dyn Timer>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) timings: bool,
    pub(crate) slow_poll: Option<Duration>,
}

impl<In, T, E> Engine<In, T, E> {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        let workers = settings.workers;
        Arc::new(Self {
            state: Mutex::new(State {
                ledger: Ledger::new(settings.capacity, settings.child_capacity, workers),
                running: Running::new(workers),
                limits: settings.limits,
                interrupted: Vec::new(),
            }),
            ready: Ready::new(settings.capacity),
            signals: (0..workers).map(|_| Signal::default()).collect(),
            quiet: event_listener::Event::new(),
            timer: settings.timer,
            observer: settings.observer,
            unhandled: Mutex::new(None),
            returned: Mutex::new(Vec::new()),
            handles: AtomicUsize::new(1),
            husks: AtomicUsize::new(0),
            is_aborted: AtomicBool::new(false),
            timings: settings.timings,
            slow_poll: settings.slow_poll,
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State<In, T, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the pools of a process apart, for as long as they live.
    pub(crate) fn identity(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.state().ledger.stats()
    }

    pub(crate) const fn is_observed(&self) -> bool {
        self.observer.is_some()
    }

    pub(crate) fn observe(&self, event: impl FnOnce() -> Event) {
        if let Some(observer) = &self.observer {
            let event = event();
            // A panic of an observer has nowhere to go: it belongs to no job.
            let _ = unwind::catch(|| observer.on_event(&event));
        }
    }

    /// Hands a failure that nobody awaits to the pool's one place for them.
    pub(crate) fn report_unhandled(&self, failure: Unhandled<E>) {
        let handler = self.unhandled.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(handler) = handler else {
            unwind::discard(failure);
            return;
        };
        let _ = unwind::catch(|| handler(failure));
    }

    #[inline]
    pub(crate) fn carry_out(&self, wakes: Wakes) {
        if wakes.is_empty() {
            // Nothing is in it; the compiler does not see that its drop does nothing.
            std::mem::forget(wakes);
        } else {
            self.wake(wakes);
        }
    }

    #[cold]
    fn wake(&self, wakes: Wakes) {
        if wakes.end {
            self.ready.close();
            // What is left are husks of cancelled jobs, unless the last worker has left.
            self.abandon(self.ready.take_all());
        }
        wakes.room.into_iter().for_each(Waker::wake);
        if wakes.quiet {
            self.quiet.notify(usize::MAX);
        }
    }

    // ---- admission ----

    /// The time of acceptance, where anything depends on it.
    pub(crate) fn clock_in(&self, limits: Limits) -> Option<Instant> {
        (self.timings || limits.job.is_some()).then(|| self.timer.now())
    }

    pub(crate) fn accept(&self, origin: Origin) -> Result<(JobId, Limits), Refusal> {
        let mut state = self.state();
        let id = state.ledger.accept(origin)?;
        Ok((id, state.limits))
    }

    /// Accepts a job from a running one, as long as that runs: both are looked at under one lock, so its map or group cannot
    /// end in between.
    pub(crate) fn accept_child(&self, parent: Place) -> Result<(JobId, Limits), Refusal> {
        let mut state = self.state();
        if !state.running.is_running(parent.slot, parent.id) {
            return Err(Refusal::Closed);
        }
        let id = state.ledger.accept(Origin::Child)?;
        Ok((id, state.limits))
    }

    /// Accepts a job from whoever it is.
    pub(crate) fn accept_from(&self, parent: Option<Place>) -> Result<(JobId, Limits), Refusal> {
        parent.map_or_else(|| self.accept(Origin::Outside), |parent| self.accept_child(parent))
    }

    /// Puts an accepted job on its way.
    pub(crate) fn launch(&self, entry: Entry<In, T, E>) {
        self.observe(|| Event::Accepted { job: entry.id() });
        if let Err(stranded) = self.ready.push(entry) {
            self.abandon(stranded);
        }
        self.look_for_abort();
    }

    /// Returns what came into the ready channel after an abort had looked there, since no worker may be polled any more:
    /// whoever puts a job in looks here afterwards, and an abort sets the flag before it looks.
    fn look_for_abort(&self) {
        if self.is_aborted.load(Ordering::SeqCst) {
            self.return_queued();
        }
    }

    fn return_queued(&self) {
        for entry in self.ready.take_all() {
            entry.return_unstarted(self);
        }
    }

    /// Puts accepted jobs on their way together.
    pub(crate) fn launch_many(&self, entries: Vec<Entry<In, T, E>>) {
        for entry in &entries {
            self.observe(|| Event::Accepted { job: entry.id() });
        }
        if let Err(stranded) = self.ready.push_many(entries) {
            self.abandon(stranded);
        }
        self.look_for_abort();
    }

    fn abandon(&self, entries: impl IntoIterator<Item = Entry<In, T, E>>) {
        for entry in entries {
            entry.settle_unstarted(self, JobError::Abandoned);
        }
    }

    // ---- the life of a job ----

    /// Books the start of a job and says what limits it; `false`: the pool is aborted and starts nothing.
    ///
    /// With `finishes`, the success of the slot's last job is booked first, under the same lock. Before it returns, the slot
    /// is clear of old interruptions and a new one will find the job. The caller carries out the wakes.
    #[inline(always)]
    pub(crate) fn book_start(
        &self,
        slot: usize,
        origin: Origin,
        occupant: Occupant,
        finishes: bool,
        limits: &mut Limits,
        wakes: &mut Wakes,
    ) -> bool {
        let mut state = self.state();
        if state.ledger.life() >= Life::Aborted {
            return false;
        }
        if finishes {
            state.running.finish(slot);
            state.ledger.finish(Outcome::Succeeded, wakes);
        }
        self.signals[slot].clear();
        state.ledger.start(origin, wakes);
        state.running.start(slot, occupant);
        *limits = state.limits;
        true
    }

    pub(crate) fn book_finish(&self, slot: usize, id: JobId, outcome: Outcome, attempts: u32) {
        let mut wakes = Wakes::default();
        {
            let mut state = self.state();
            state.running.finish(slot);
            if outcome != Outcome::Cancelled {
                // It was faster than the abort.
                state.interrupted.retain(|job| job.id != id);
            }
            state.ledger.finish(outcome, &mut wakes);
        }
        self.observe(|| Event::Finished { job: id, outcome, attempts });
        self.carry_out(wakes);
    }

    pub(crate) fn book_unstarted(&self, origin: Origin, id: JobId, outcome: Outcome) {
        let wakes = self.state().ledger.settle_queued(origin, outcome);
        self.observe(|| Event::Finished { job: id, outcome, attempts: 0 });
        self.carry_out(wakes);
    }

    // ---- cancellation ----

    /// A queued job was cancelled through its handle and left its husk in the ready channel.
    pub(crate) fn add_husk(&self) {
        const FEW: usize = 32;
        let husks = self.husks.fetch_add(1, Ordering::Relaxed) + 1;
        if husks > FEW && husks > self.state().ledger.queued_total() {
            self.sweep();
        }
    }

    pub(crate) fn remove_husk(&self) {
        // More may be removed than were counted while a sweep resets the count.
        let _ = self.husks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |husks| husks.checked_sub(1));
    }

    /// Takes cancelled jobs out of the ready channel and settles them.
    pub(crate) fn sweep(&self) {
        self.husks.store(0, Ordering::Relaxed);
        for entry in self.ready.sweep(Entry::is_dead) {
            entry.settle_unstarted(self, JobError::Abandoned);
        }
        self.look_for_abort();
    }

    /// Interrupts the running jobs of one map or group.
    pub(crate) fn interrupt_stream(&self, stream: usize, reason: CancelReason) {
        let state = self.state();
        let wakers: Vec<Waker> = state
            .running
            .occupied()
            .filter(|(_, occupant)| occupant.stream == Some(stream))
            .filter_map(|(slot, _)| self.signals[slot].interrupt(reason))
            .collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    // ---- the life of the pool ----

    /// Moves the life of the pool on; see [`Life`].
    pub(crate) fn close(&self, life: Life) {
        let (was_open, wakes) = {
            let mut state = self.state();
            let was_open = state.ledger.life() == Life::Open;
            (was_open, state.ledger.advance(life).1)
        };
        if was_open {
            self.observe(|| Event::Closed);
        }
        self.carry_out(wakes);
    }

    /// Aborts: interrupts what runs, returns what is queued. The first call does it; others change nothing.
    pub(crate) fn begin_abort(&self) {
        self.close(Life::Aborted);
        if self.is_aborted.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut state = self.state();
        let mut wakers = Vec::new();
        let mut interrupted = Vec::new();
        for (slot, occupant) in state.running.occupied() {
            wakers.extend(self.signals[slot].interrupt(CancelReason::Aborted));
            interrupted.push(Interrupted { id: occupant.id, index: occupant.index, attempts: occupant.attempts });
        }
        state.interrupted = interrupted;
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        self.return_queued();
    }

    /// What an abort has interrupted and no report has named, in the order of acceptance.
    pub(crate) fn take_interrupted(&self) -> Vec<Interrupted> {
        let mut interrupted = std::mem::take(&mut self.state().interrupted);
        interrupted.sort_by_key(|job| job.id);
        interrupted
    }

    pub(crate) fn take_returned(&self) -> Vec<Unstarted<In>> {
        let mut returned = std::mem::take(&mut *self.returned.lock().unwrap_or_else(PoisonError::into_inner));
        returned.sort_by_key(|unstarted| unstarted.id);
        returned
    }

    /// A worker ended or was dropped. After the last one, nobody will run what is queued.
    pub(crate) fn worker_left(&self, worker: usize) {
        let (was_last, was_open, wakes, blocked) = {
            let mut state = self.state();
            let was_open = state.ledger.life() == Life::Open;
            let (was_last, wakes) = state.ledger.worker_left();
            let live = state.ledger.workers();
            let blocked: Vec<Waker> = if state.running.is_blocked(live) {
                state.running.waiting().map(|(_, waiting)| waiting.waker.clone()).collect()
            } else {
                Vec::new()
            };
            (was_last, was_open && was_last, wakes, blocked)
        };
        let own = self.signals[worker].waker().take();
        drop(own);
        self.observe(|| Event::WorkerLeft { worker });
        if was_open {
            self.observe(|| Event::Closed);
        }
        self.carry_out(wakes);
        // They look again and find that they would wait for ever.
        blocked.into_iter().for_each(Waker::wake);
        if was_last {
            self.abandon(self.ready.take_all());
        }
    }

    // ---- waits for one's own pool ----

    /// Says whether the caller may wait for this pool, and keeps the mark of the wait up to date.
    ///
    /// Outside the pool's jobs it always may. Inside, it may not if every worker would then wait.
    pub(crate) fn may_wait(
        self: &Arc<Self>,
        mark: &mut Option<WaitMark<In, T, E>>,
        cx: &Context<'_>,
        what: impl FnOnce() -> Wait<In, T, E>,
    ) -> bool {
        let Some(place) = inside::find(self.identity()) else {
            *mark = None;
            return true;
        };
        // The waker of what waits, which may be another than that of the job.
        let waker = cx.waker().clone();
        let replaced = match mark.as_ref().filter(|mark| mark.place == place) {
            Some(mark) => {
                let mut state = self.state();
                state.running.wait_mut(mark.number).map(|waiting| std::mem::replace(&mut waiting.waker, waker))
            }
            None => {
                *mark = None;
                let waiting = Waiting { what: what(), waker };
                let number = self.state().running.begin_wait(place.slot, place.id, waiting);
                *mark = Some(WaitMark { engine: Arc::clone(self), place, number });
                None
            }
        };
        drop(replaced);
        let is_stuck = self.is_stuck();
        if is_stuck {
            *mark = None;
        }
        !is_stuck
    }

    /// Whether every live worker is held by a job that waits for the pool, and none of these waits is over.
    ///
    /// Looked at without the lock: while all slots are held, only somebody outside can end a wait meanwhile.
    fn is_stuck(&self) -> bool {
        let waits: Vec<(usize, Wait<In, T, E>)> = {
            let state = self.state();
            if !state.running.is_blocked(state.ledger.workers()) {
                return false;
            }
            state.running.waiting().map(|(slot, waiting)| (slot, waiting.what.clone())).collect()
        };
        // A job that is interrupted is about to leave its slot.
        waits.iter().all(|(slot, what)| !what.is_over(self) && self.signals[*slot].interrupted().is_none())
    }
}

/// A wait of a job for its own pool.
pub(crate) struct Waiting<In, T, E> {
    what: Wait<In, T, E>,
    /// Woken when a worker leaves: the wait may have become one without end.
    waker: Waker,
}

/// What a job waits for inside its own pool.
pub(crate) enum Wait<In, T, E> {
    /// The outcome of a job.
    Cell(Arc<Cell<In, T, E>>),
    /// A completion of a map or group.
    Stream(Arc<Stream<In, T, E>>),
    /// Room in the queue, with the number in the line.
    Room(u64),
}

impl<In, T, E> Wait<In, T, E> {
    /// Whether it is over, though the job may not have noticed.
    fn is_over(&self, engine: &Engine<In, T, E>) -> bool {
        match self {
            Self::Cell(cell) => cell.is_done(),
            Self::Stream(stream) => !stream.is_starved(),
            Self::Room(number) => !engine.state().ledger.is_in_line(*number),
        }
    }
}

impl<In, T, E> Clone for Wait<In, T, E> {
    fn clone(&self) -> Self {
        match self {
            Self::Cell(cell) => Self::Cell(Arc::clone(cell)),
            Self::Stream(stream) => Self::Stream(Arc::clone(stream)),
            Self::Room(number) => Self::Room(*number),
        }
    }
}

impl<In, T, E> fmt::Debug for Engine<In, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// A job that waits for its own pool; dropping it ends the wait.
pub(crate) struct WaitMark<In, T, E> {
    engine: Arc<Engine<In, T, E>>,
    place: Place,
    number: u64,
}

impl<In, T, E> Drop for WaitMark<In, T, E> {
    fn drop(&mut self) {
        let what = self.engine.state().running.end_wait(self.number);
        drop(what);
    }
}

/// A wait for room, in a fair line. Dropping it leaves the line and passes on what was granted.
pub(crate) struct Room<In, T, E> {
    engine: Arc<Engine<In, T, E>>,
    ticket: Option<u64>,
    mark: Option<WaitMark<In, T, E>>,
}

/// Why there will be no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoom {
    Closed,
    WouldDeadlock,
}

impl<In, T, E> Room<In, T, E> {
    pub(crate) const fn new(engine: Arc<Engine<In, T, E>>) -> Self {
        Self { engine, ticket: None, mark: None }
    }

    /// Ends with one reserved place, which the caller has to use or release.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<(), NoRoom>> {
        let (polled, wakes) = self.engine.state().ledger.poll_reserve(&mut self.ticket, cx);
        self.engine.carry_out(wakes);
        match polled {
            Poll::Ready(decided) => {
                self.mark = None;
                Poll::Ready(decided.map_err(|_| NoRoom::Closed))
            }
            Poll::Pending
                if self.engine.may_wait(&mut self.mark, cx, || Wait::Room(self.ticket.unwrap_or_default())) =>
            {
                Poll::Pending
            }
            Poll::Pending => {
                self.leave();
                Poll::Ready(Err(NoRoom::WouldDeadlock))
            }
        }
    }

    /// Whether it stands in line.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.ticket.is_some()
    }

    /// Leaves the line.
    #[inline]
    pub(crate) fn leave(&mut self) {
        if self.ticket.is_some() || self.mark.is_some() {
            self.leave_now();
        }
    }

    #[cold]
    fn leave_now(&mut self) {
        self.mark = None;
        if let Some(ticket) = self.ticket.take() {
            let wakes = self.engine.state().ledger.leave_line(ticket);
            self.engine.carry_out(wakes);
        }
    }
}

impl<In, T, E> Drop for Room<In, T, E> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Why a running attempt has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interrupt(pub(crate) CancelReason);

/// How others reach a slot: a flag, and the waker of the worker that waits in it.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    /// 0, or one more than the position of the reason in [`REASONS`].
    interrupt: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

const REASONS: [CancelReason; 5] = [
    CancelReason::Handle,
    CancelReason::Stream,
    CancelReason::Stopped,
    CancelReason::Aborted,
    CancelReason::WouldDeadlock,
];

/// The number of a reason, for an atomic; 0 stands for none.
pub(crate) fn reason_to_code(reason: CancelReason) -> u8 {
    (1..).zip(REASONS).find(|(_, known)| *known == reason).map_or(0, |(code, _)| code)
}

/// The reason behind a number.
pub(crate) fn reason_from_code(code: u8) -> Option<CancelReason> {
    REASONS.get(usize::from(code).checked_sub(1)?).copied()
}

impl Signal {
    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn interrupted(&self) -> Option<Interrupt> {
        reason_from_code(self.interrupt.load(Ordering::SeqCst)).map(Interrupt)
    }

    /// Leaves the waker for an interruption to come, and looks once more whether one has come already.
    pub(crate) fn listen(&self, waker: &Waker) -> Option<Interrupt> {
        let mut listener = self.waker();
        if !listener.as_ref().is_some_and(|known| known.will_wake(waker)) {
            let old = listener.replace(waker.clone());
            drop(listener);
            drop(old);
        } else {
            drop(listener);
        }
        self.interrupted()
    }

    fn clear(&self) {
        // Whoever set it did so before this job was found in the slot, so the look is not too early.
        if self.interrupt.load(Ordering::SeqCst) != 0 {
            self.interrupt.store(0, Ordering::SeqCst);
        }
    }

    /// Sets the reason, if there is none yet; the waker is to be woken once all locks are released.
    #[must_use = "the worker sleeps on otherwise"]
    pub(crate) fn interrupt(&self, reason: CancelReason) -> Option<Waker> {
        let _ = self.interrupt.compare_exchange(0, reason_to_code(reason), Ordering::SeqCst, Ordering::SeqCst);
        self.listener()
    }

    fn listener(&self) -> Option<Waker> {
        self.waker().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_atomic() {
        for reason in REASONS {
            assert_eq!(reason_from_code(reason_to_code(reason)), Some(reason));
        }
        assert_eq!(reason_from_code(0), None);
    }
}
