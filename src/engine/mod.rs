//! What the pool's handle, its workers and its replies share: the books under one lock, the
//! injector, and the means to interrupt a worker. It moves jobs from one book to another and wakes
//! whom that concerns; it runs no handler.
//!
//! The rule of the lock: values are taken out, the lock is released, then wakers are woken,
//! observers called and user values dropped. No user code runs under it, so a poisoned lock is
//! entered.

#[cfg(feature = "testing")]
mod audit;
mod control;
mod desks;
pub(crate) mod scheduling;
mod signal;
pub(crate) mod timekeeper;
mod waits;

use std::collections::TryReserveError;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use self::scheduling::{Retries, Settling};
use self::signal::Signals;
pub(crate) use self::signal::{Interrupt, reason_from_code, reason_to_code};
use self::timekeeper::{Keeper, Notice};
use self::waits::{Deliveries, Waiting, Watching};
pub(crate) use self::waits::{DeliveryKind, Feeding, NoRoom, Pull, Room, Wait, WaitMark};
use crate::attempt::inside::Place;
use crate::attempt::retry::{Account, History};
use crate::attempt::timeout::Limits;
use crate::attempt::unwind;
use crate::error::{CancelReason, JobError};
use crate::observe::{Event, JobId, Observer, Outcome, Stats};
use crate::pool::{Interrupted, Unhandled, Unstarted};
use crate::queue::desk::Desk;
use crate::queue::injector::{Injector, Split as _};
use crate::queue::ledger::{Ledger, Life, Origin, Refusal, Wakes};
use crate::queue::running::{Occupant, Running};
use crate::queue::schedule::lanes::Key;
use crate::queue::schedule::{Policy, Schedule, Spot, Terms};
use crate::reply::{Entry, Held, Lot};
use crate::rt::Timer;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

pub(crate) type UnhandledFn<E> = dyn Fn(Unhandled<E>) + Send + Sync;

/// The books; see the rule of the lock above.
pub(crate) struct State<In, T, E> {
    pub(crate) ledger: Ledger,
    pub(crate) running: Running<Waiting<In, T, E>>,
    pub(crate) limits: Limits,
    /// What an abort has interrupted and no report has named yet; at most one a slot.
    interrupted: Vec<Interrupted>,
    /// Those whose journals are part of the books; as many as workers are being polled.
    open_desks: Vec<Arc<Desk<Lot<In, T, E>>>>,
    /// Others, for workers to come.
    spare_desks: Vec<Arc<Desk<Lot<In, T, E>>>>,
    /// Decides which job starts when, once anything asks for it; without it, jobs start as they
    /// come.
    pub(crate) schedule: Option<Box<Schedule<Held<In, T, E>>>>,
    settling: Settling<In, T, E>,
    keeper: Keeper,
    /// Of the retry budget.
    account: Option<Account>,
    /// Retries that are allowed, and not yet on their way; at most one a slot.
    retries_ahead: usize,
    retries: u64,
    retries_refused: u64,
    /// Futures that wait for the pool to be idle, or to have fewer jobs.
    watching: Watching,
}

impl<In, T, E> State<In, T, E> {
    /// A job has its outcome. One that was not cancelled was faster than an abort, whose report is
    /// not to name it.
    fn forget_interrupted(&mut self, id: JobId, outcome: Outcome) {
        if outcome != Outcome::Cancelled && !self.interrupted.is_empty() {
            self.interrupted.retain(|job| job.id != id);
        }
    }

    /// A job that is queued beyond the capacity is about to leave the queue.
    #[inline]
    fn absorb_extra(&mut self, origin: Origin, stream: Option<usize>, wakes: &mut Wakes) {
        if let (Origin::Extra, Some(stream)) = (origin, stream) {
            self.ledger.absorb_extra(stream, wakes);
        }
    }

    #[inline]
    fn book_start(&mut self, slot: usize, origin: Origin, occupant: Occupant, wakes: &mut Wakes) {
        self.absorb_extra(origin, occupant.stream, wakes);
        self.ledger.start(origin, wakes);
        self.running.start(slot, occupant);
    }
}

pub(crate) struct Engine<In, T, E> {
    state: Mutex<State<In, T, E>>,
    pub(crate) injector: Injector<Lot<In, T, E>>,
    /// Whether there is nothing to do about a job but to run it: nobody watches or measures, and it
    /// adds none.
    pub(crate) is_plain: bool,
    /// How many slots a worker has: those from `worker × slots_each` on.
    slots_each: usize,
    /// One for each slot.
    pub(crate) signals: Signals,
    /// Outcomes on their way.
    pub(crate) deliveries: Deliveries,
    /// How many futures wait for the pool to be idle, or to have fewer jobs.
    watchers: AtomicUsize,
    pub(crate) timer: Arc<dyn Timer>,
    observer: Option<Arc<dyn Observer>>,
    pub(crate) unhandled: Mutex<Option<Arc<UnhandledFn<E>>>>,
    /// Unstarted inputs of an aborted pool that no report has taken yet. Bounded by what was
    /// queued.
    pub(crate) returned: Mutex<Vec<Unstarted<In>>>,
    /// How often maps that wait for room were told that there is some.
    pub(crate) told: AtomicUsize,
    /// How many maps and groups there have been.
    streams: AtomicUsize,
    /// How many [`Pool`](crate::Pool)s share this engine.
    pub(crate) handles: AtomicUsize,
    /// Whether an abort has emptied the injector, or is about to.
    is_aborted: AtomicBool,
    /// Whether the last worker has left, and has taken with it what was queued, or is about to.
    is_deserted: AtomicBool,
    pub(crate) timings: bool,
    /// Whether its jobs may add jobs.
    pub(crate) adds_jobs: bool,
    pub(crate) slow_poll: Option<Duration>,
    /// Whether there is a schedule. It never goes away again.
    is_scheduled: AtomicBool,
    /// Held by the one who switches it on.
    switching: Mutex<()>,
    /// The slot of the worker that keeps the time, or a number that none has.
    keeper_slot: AtomicUsize,
    /// How many readings of the clock the schedule has taken over.
    readings: AtomicU64,
    pub(crate) retry: Option<Retries<In, E>>,
    key_by: Option<Arc<KeyFn<In>>>,
    cost_by: Option<Arc<CostFn<In>>>,
    policy: Policy,
}

pub(crate) type KeyFn<In> = dyn Fn(&In) -> Key + Send + Sync;
pub(crate) type CostFn<In> = dyn Fn(&In) -> u32 + Send + Sync;

/// What the builder decides.
pub(crate) struct Settings<In, E> {
    pub(crate) workers: usize,
    pub(crate) jobs_per_worker: usize,
    pub(crate) capacity: usize,
    pub(crate) child_capacity: usize,
    pub(crate) limits: Limits,
    pub(crate) timer: Arc<dyn Timer>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) timings: bool,
    pub(crate) slow_poll: Option<Duration>,
    pub(crate) max_waiting: usize,
    pub(crate) retry: Option<Retries<In, E>>,
    pub(crate) key_by: Option<Arc<KeyFn<In>>>,
    pub(crate) cost_by: Option<Arc<CostFn<In>>>,
    pub(crate) policy: Policy,
    pub(crate) adds_jobs: bool,
    /// Whether there is a schedule from the start.
    pub(crate) is_scheduled: bool,
}

impl<In, T, E> Engine<In, T, E> {
    /// Fails if memory cannot hold what has to be known of so many slots.
    pub(crate) fn new(settings: Settings<In, E>) -> Result<Arc<Self>, TryReserveError> {
        let (workers, slots_each) = (settings.workers, settings.jobs_per_worker);
        let slots = workers * slots_each;
        let mut running = Running::new();
        running.reserve(slots)?;
        let signals = Signals::new(slots)?;
        let schedule = settings
            .is_scheduled
            .then(|| Box::new(Schedule::new(settings.policy, slots, settings.timer.now())));
        let mut ledger = Ledger::new(
            settings.capacity,
            settings.child_capacity,
            workers,
            slots_each,
        );
        ledger.set_max_waiting(settings.max_waiting);
        Ok(Arc::new(Self {
            state: Mutex::new(State {
                ledger,
                running,
                limits: settings.limits,
                interrupted: Vec::new(),
                open_desks: Vec::new(),
                spare_desks: Vec::new(),
                schedule,
                settling: Settling::new(),
                keeper: Keeper::default(),
                account: settings
                    .retry
                    .as_ref()
                    .and_then(|retry| retry.policy.account()),
                retries_ahead: 0,
                retries: 0,
                retries_refused: 0,
                watching: Watching::default(),
            }),
            injector: Injector::new(),
            is_plain: settings.observer.is_none()
                && settings.retry.is_none()
                && settings.slow_poll.is_none()
                && !settings.timings
                && !settings.adds_jobs,
            slots_each,
            signals,
            deliveries: Deliveries::default(),
            watchers: AtomicUsize::new(0),
            timer: settings.timer,
            observer: settings.observer,
            unhandled: Mutex::new(None),
            returned: Mutex::new(Vec::new()),
            told: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            handles: AtomicUsize::new(1),
            is_aborted: AtomicBool::new(false),
            is_deserted: AtomicBool::new(false),
            timings: settings.timings,
            adds_jobs: settings.adds_jobs,
            slow_poll: settings.slow_poll,
            is_scheduled: AtomicBool::new(settings.is_scheduled),
            switching: Mutex::new(()),
            keeper_slot: AtomicUsize::new(usize::MAX),
            readings: AtomicU64::new(0),
            retry: settings.retry,
            key_by: settings.key_by,
            cost_by: settings.cost_by,
            policy: settings.policy,
        }))
    }

    /// The books, with all journals entered.
    #[inline]
    pub(crate) fn state(&self) -> MutexGuard<'_, State<In, T, E>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.open_desks.is_empty() {
            state.enter_journals();
        }
        state
    }

    /// The same, for what must not cross the start or the end of a job: no worker goes on without
    /// this lock.
    pub(crate) fn state_alone(&self) -> MutexGuard<'_, State<In, T, E>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.call_desks();
        state
    }

    /// How many workers there were at first.
    pub(crate) fn built(&self) -> usize {
        self.signals.len() / self.slots_each
    }

    /// The worker that a slot belongs to.
    pub(crate) const fn worker_of(&self, slot: usize) -> usize {
        slot / self.slots_each
    }

    /// The slots of a worker.
    pub(crate) const fn slots_of(&self, worker: usize) -> std::ops::Range<usize> {
        worker * self.slots_each..(worker + 1) * self.slots_each
    }

    /// The identity of a new map or group.
    pub(crate) fn next_stream(&self) -> NonZeroUsize {
        NonZeroUsize::MIN.saturating_add(self.streams.fetch_add(1, Ordering::Relaxed))
    }

    /// Tells the pools of a process apart, for as long as they live.
    pub(crate) fn identity(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    pub(crate) fn stats(&self) -> Stats {
        let reading = self.reading();
        let mut state = self.state();
        let mut stats = state.ledger.stats();
        if let Some(schedule) = &mut state.schedule {
            // Nobody may have looked since a delay has passed.
            let now = self.tell_time(schedule, reading);
            schedule.ripen(now);
            stats.delayed = schedule.delayed();
            stats.queued -= stats.delayed;
        }
        (stats.retries, stats.retries_refused) = (state.retries, state.retries_refused);
        stats
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
        let handler = self
            .unhandled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
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
            self.injector.close();
            // What is left are tombstones of cancelled jobs, unless the last worker has left.
            self.abandon(self.injector.take_all());
        }
        if wakes.told {
            self.told.fetch_add(1, Ordering::SeqCst);
        }
        unwind::wake(wakes.room);
        // The end of the last delivery looks whether the pool is idle.
        if wakes.below || (wakes.quiet && self.are_delivered()) {
            self.wake_watchers();
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

    /// Gives back a reserved place.
    pub(crate) fn release_place(&self) {
        let wakes = self.state().ledger.release();
        self.carry_out(wakes);
    }

    /// Wakes those that wait for room for a job of this group, which was cancelled.
    pub(crate) fn wake_submits_to(&self, group: usize) {
        let wakers = self.state().ledger.wakers_of(group);
        unwind::wake(wakers);
    }

    /// Accepts a job from a running one, as long as that runs: both are looked at under one lock,
    /// so its map or group cannot end in between.
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
        parent.map_or_else(
            || self.accept(Origin::Outside),
            |parent| self.accept_child(parent),
        )
    }

    /// Puts an accepted job on its way.
    pub(crate) fn launch(&self, entry: Entry<In, T, E>) {
        self.observe(|| Event::Accepted { job: entry.id() });
        if self.is_scheduled() {
            self.schedule_one(entry);
        } else {
            self.push(entry);
        }
        self.look_for_end();
    }

    /// Puts an accepted job on its way by terms of its own.
    pub(crate) fn launch_by(&self, terms: Terms, entry: Entry<In, T, E>) {
        self.observe(|| Event::Accepted { job: entry.id() });
        self.schedule_by(terms, entry);
        self.look_for_end();
    }

    /// Gives an accepted job its outcome at once.
    pub(crate) fn refuse(&self, entry: Entry<In, T, E>, error: JobError<E>) {
        self.observe(|| Event::Accepted { job: entry.id() });
        entry.settle_unstarted(self, error, 0);
    }

    /// Returns what came into the queue after an abort had looked there, since no worker may be
    /// polled any more, and abandons what came after the last worker had left: whoever puts a job
    /// in looks here afterwards, and they set a flag before they look.
    fn look_for_end(&self) {
        if self.is_aborted.load(Ordering::SeqCst) {
            self.return_queued();
        } else if self.is_deserted.load(Ordering::SeqCst) {
            self.abandon_queued();
        }
    }

    fn abandon_queued(&self) {
        self.abandon(self.injector.take_all());
        for leaver in self.unschedule(|_| true) {
            let attempts = leaver.attempts();
            leaver
                .job
                .into_entry()
                .settle_unstarted(self, JobError::Abandoned, attempts);
            unwind::discard(leaver.history);
        }
    }

    fn return_queued(&self) {
        for entry in self.injector.take_all() {
            let attempts = self.attempts(&entry);
            entry.return_unstarted(self, attempts);
        }
        for leaver in self.unschedule(|_| true) {
            let attempts = leaver.attempts();
            leaver.job.into_entry().return_unstarted(self, attempts);
            unwind::discard(leaver.history);
        }
    }

    /// Puts accepted jobs on their way together.
    pub(crate) fn launch_many(&self, entries: Vec<Entry<In, T, E>>) {
        for entry in &entries {
            self.observe(|| Event::Accepted { job: entry.id() });
        }
        if self.is_scheduled() {
            self.schedule_many(entries);
        } else {
            self.push_many(entries.into_iter());
        }
        self.look_for_end();
    }

    /// Puts accepted jobs of one map on their way together.
    pub(crate) fn launch_lot(&self, lot: Lot<In, T, E>) {
        if self.is_scheduled() {
            self.schedule_many(lot.into_jobs().collect());
        } else if let Err(lot) = self.injector.push_batch(lot) {
            self.abandon(lot.into_jobs());
        }
        self.look_for_end();
    }

    /// Hands a job to the workers; if none will ever come, it is abandoned.
    fn push(&self, entry: Entry<In, T, E>) {
        if let Err(entry) = self.injector.push(entry) {
            self.abandon([entry]);
        }
    }

    /// The same for several.
    fn push_many(&self, entries: impl Iterator<Item = Entry<In, T, E>>) {
        if let Err(entries) = self.injector.push_many(entries) {
            self.abandon(entries);
        }
    }

    fn abandon(&self, entries: impl IntoIterator<Item = Entry<In, T, E>>) {
        for entry in entries {
            let attempts = self.attempts(&entry);
            entry.settle_unstarted(self, JobError::Abandoned, attempts);
        }
    }

    // ---- the life of a job ----

    /// Books the start of a job and says what limits it, and, where there is a schedule, what its
    /// past is.
    ///
    /// Before it returns, the slot is clear of old interruptions and a new one will find the job.
    /// The caller carries out the wakes.
    #[inline(always)]
    pub(crate) fn book_start(
        &self,
        slot: usize,
        origin: Origin,
        occupant: Occupant,
        limits: &mut Limits,
        wakes: &mut Wakes,
        past: &mut Past,
    ) -> Begun {
        let reading = self.reading();
        let mut state = self.state();
        if state.ledger.life() >= Life::Aborted {
            return Begun::Aborted;
        }
        if state.schedule.is_some() {
            *limits = state.limits;
            return self.start_scheduled(&mut state, slot, origin, occupant, reading, wakes, past);
        }
        self.signals[slot].clear();
        state.book_start(slot, origin, occupant, wakes);
        *limits = state.limits;
        Begun::Yes
    }

    pub(crate) fn book_finish(&self, slot: usize, id: JobId, outcome: Outcome, attempts: u32) {
        let mut wakes = Wakes::default();
        {
            let mut state = self.state();
            if state.schedule.is_some() {
                drop(state);
                return self.book_scheduled_finish(slot, id, outcome, attempts);
            }
            state.forget_interrupted(id, outcome);
            state.running.finish(slot);
            state.ledger.finish(outcome, &mut wakes);
        }
        self.observe(|| Event::Finished {
            job: id,
            outcome,
            attempts,
        });
        self.carry_out(wakes);
    }

    /// Books the outcome of a job that is not running.
    pub(crate) fn book_unstarted(
        &self,
        origin: Origin,
        id: JobId,
        outcome: Outcome,
        spot: Option<Spot>,
        attempts: u32,
        stream: Option<usize>,
    ) {
        let reading = self.reading();
        let (wakes, forgotten, blocked) = {
            let mut state = self.state();
            let mut wakes = Wakes::default();
            state.absorb_extra(origin, stream, &mut wakes);
            state.ledger.settle_queued(origin, outcome, &mut wakes);
            let forgotten = spot.map(|spot| self.forget_scheduled(&mut state, spot, id, reading));
            // It may have been the last one that could start without a job that waits for the pool.
            let blocked = if forgotten.is_none() {
                state.blocked()
            } else {
                Vec::new()
            };
            (wakes, forgotten, blocked)
        };
        self.observe(|| Event::Finished {
            job: id,
            outcome,
            attempts,
        });
        if let Some((job, history, effects)) = forgotten {
            drop(job);
            unwind::discard(history);
            self.carry_out_effects(effects);
        }
        self.carry_out(wakes);
        // They look again and find that they would wait for ever.
        unwind::wake(blocked);
    }

    // ---- cancellation ----

    /// A queued job was cancelled through its handle. Its tombstone stays in the injector until a
    /// worker comes to it, or until tombstones outnumber the jobs that are queued, here or in the
    /// schedule.
    pub(crate) fn sweep_tombstones(&self) {
        const FEW: usize = 32;
        let queued = self.state().ledger.queued_total();
        if self.injector.len() > FEW.max(2 * queued) {
            self.sweep();
        }
    }

    /// A worker has come to a tombstone.
    pub(crate) fn remove_tombstone(&self, spot: Option<Spot>, id: JobId) {
        if let Some(spot) = spot {
            // It was cancelled before the schedule knew of it.
            let reading = self.reading();
            let (job, history, effects) =
                self.forget_scheduled(&mut self.state(), spot, id, reading);
            drop((job, history));
            self.carry_out_effects(effects);
        }
    }

    /// Takes cancelled jobs out of the injector and settles them.
    pub(crate) fn sweep(&self) {
        for entry in self.injector.sweep(Entry::is_dead) {
            let attempts = self.attempts(&entry);
            entry.settle_unstarted(self, JobError::Abandoned, attempts);
        }
        for leaver in self.unschedule(Held::is_dead) {
            let attempts = leaver.attempts();
            leaver
                .job
                .into_entry()
                .settle_unstarted(self, JobError::Abandoned, attempts);
            unwind::discard(leaver.history);
        }
        self.look_for_end();
    }

    /// Interrupts the running jobs of one map or group.
    pub(crate) fn interrupt_stream(&self, stream: usize, reason: CancelReason) {
        let state = self.state_alone();
        let wakers: Vec<Waker> = state
            .running
            .occupied()
            .filter(|(_, occupant)| occupant.stream == Some(stream))
            .filter_map(|(slot, _)| self.signals[slot].interrupt(reason))
            .collect();
        drop(state);
        unwind::wake(wakers);
    }

    // ---- the life of the pool ----

    /// Moves the life of the pool on; see [`Life`].
    pub(crate) fn close(&self, life: Life) {
        let (was_open, wakes) = {
            let mut state = self.state_alone();
            let was_open = state.ledger.life() == Life::Open;
            (was_open, state.ledger.advance(life).1)
        };
        if was_open {
            self.observe(|| Event::Closed);
        }
        self.carry_out(wakes);
        // What a pause holds back goes on.
        self.look_at_schedule();
    }

    /// Aborts: interrupts what runs, returns what is queued. The first call does it; others change
    /// nothing.
    pub(crate) fn begin_abort(&self) {
        self.close(Life::Aborted);
        if self.is_aborted.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut state = self.state_alone();
        let mut wakers = Vec::new();
        let mut interrupted = Vec::new();
        for (slot, occupant) in state.running.occupied() {
            wakers.extend(self.signals[slot].interrupt(CancelReason::Aborted));
            interrupted.push(Interrupted {
                id: occupant.id,
                index: occupant.index,
                attempts: occupant.attempts,
            });
        }
        state.interrupted = interrupted;
        drop(state);
        unwind::wake(wakers);
        self.return_queued();
    }

    /// What an abort has interrupted and no report has named, in the order of acceptance.
    pub(crate) fn take_interrupted(&self) -> Vec<Interrupted> {
        let mut interrupted = std::mem::take(&mut self.state().interrupted);
        interrupted.sort_by_key(|job| job.id);
        interrupted
    }

    pub(crate) fn take_returned(&self) -> Vec<Unstarted<In>> {
        let mut returned =
            std::mem::take(&mut *self.returned.lock().unwrap_or_else(PoisonError::into_inner));
        returned.sort_by_key(|unstarted| unstarted.id);
        returned
    }

    /// A worker ended or was dropped. After the last one, nobody will run what is queued.
    pub(crate) fn worker_left(&self, worker: usize) {
        let (was_last, was_open, wakes, blocked) = {
            let mut state = self.state();
            let was_open = state.ledger.life() == Life::Open;
            let (was_last, wakes) = state.ledger.worker_left();
            let blocked = state.blocked();
            (was_last, was_open && was_last, wakes, blocked)
        };
        let own = self.signals.made(self.slots_of(worker));
        let wakers: Vec<Waker> = own.filter_map(|signal| signal.waker().take()).collect();
        drop(wakers);
        self.observe(|| Event::WorkerLeft { worker });
        if was_open {
            self.observe(|| Event::Closed);
        }
        self.carry_out(wakes);
        // They look again and find that they would wait for ever.
        unwind::wake(blocked);
        if was_last {
            self.is_deserted.store(true, Ordering::SeqCst);
            self.abandon_queued();
        }
    }
}

/// Whether a job starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    Yes,
    /// The pool is aborted and starts nothing.
    Aborted,
    /// The schedule has not released it, does not let it go on, or knows of one that comes first:
    /// it goes back there.
    NotYet,
}

/// What a worker learns when the start of a scheduled job is booked.
#[derive(Debug)]
pub(crate) struct Past {
    /// When it started, if somebody looked.
    pub(crate) since: Option<Instant>,
    /// Of former attempts.
    pub(crate) history: Option<Box<History>>,
    /// For the worker that keeps the time; to be [given](Engine::give_notice) once no lock is held.
    pub(crate) notice: Notice,
}

impl Past {
    pub(crate) const NONE: Self = Self {
        since: None,
        history: None,
        notice: Notice::NONE,
    };

    /// How many attempts were made.
    #[inline]
    pub(crate) fn attempts(&self) -> u32 {
        self.history.as_ref().map_or(0, |history| history.attempts)
    }
}

impl<In, T, E> fmt::Debug for Engine<In, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}
