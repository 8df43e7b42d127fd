//! What the pool's handle, its workers and its replies share: the books under one lock, the
//! injector, and the means to interrupt a worker. It moves jobs from one book to another and wakes
//! whom that concerns; it runs no handler.
//!
//! The rule of the lock: values are taken out, the lock is released, then wakers are woken,
//! observers called and user values dropped. No user code runs under it, so a poisoned lock is
//! entered.

#[cfg(feature = "testing")]
mod audit;
mod cancel_flag;
mod control;
pub(crate) mod dispatch;
mod handles;
mod local_queues;
mod pool_ref;
mod streams;
pub(crate) mod timer;
mod unstarted;
mod waits;

use std::collections::TryReserveError;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use self::cancel_flag::CancelFlags;
pub(crate) use self::cancel_flag::Interrupt;
use self::dispatch::{Retries, Settling};
pub(crate) use self::pool_ref::PoolRef;
use self::timer::{TimerNotice, TimerRole};
pub(crate) use self::waits::{AcquirePermit, DeliveryKind, MapWait, Pull, Wait, WaitGuard};
use self::waits::{Deliveries, Waiting, Watching};
use crate::error::{CancelReason, JobError};
use crate::event::{Event, JobId, Observer, Outcome, Stats};
use crate::job::current::CurrentJob;
use crate::job::queued::{Batch, QueuedJob, ScheduledJob};
use crate::key::Key;
use crate::panic;
use crate::policy::limits::Limits;
use crate::policy::retry::{Account, History};
use crate::queue::admission::{Admission, Origin, PoolState, Refusal, Wakes};
use crate::queue::injector::{Injector, Split as _};
use crate::queue::local::LocalQueue;
use crate::queue::running::{ActiveJob, Running};
use crate::report::{Interrupted, Unhandled, Unstarted};
use crate::rt::Timer;
use crate::schedule::{Policy, RecordId, Schedule, ScheduleOptions};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

pub(crate) type UnhandledFn<E> = dyn Fn(Unhandled<E>) + Send + Sync;

/// The books; see the rule of the lock above.
pub(crate) struct Synced<In, T, E> {
    pub(crate) admission: Admission,
    pub(crate) running: Running<Waiting<In, T, E>>,
    pub(crate) limits: Limits,
    /// What an abort has interrupted and no report has named yet; at most one a slot.
    interrupted: Vec<Interrupted>,
    /// Those whose journals are part of the books; as many as workers are being polled.
    local_queues: Vec<Arc<LocalQueue<Batch<In, T, E>>>>,
    /// Others, for workers to come.
    spare_local_queues: Vec<Arc<LocalQueue<Batch<In, T, E>>>>,
    /// Decides which job starts when, once anything asks for it; without it, jobs start as they
    /// come.
    pub(crate) schedule: Option<Box<Schedule<ScheduledJob<In, T, E>>>>,
    settling: Settling<In, T, E>,
    timer_role: TimerRole,
    /// Of the retry budget.
    account: Option<Account>,
    /// Retries that are allowed, and not yet on their way; at most one a slot.
    retries_ahead: usize,
    retries: u64,
    retries_refused: u64,
    /// Futures that wait for the pool to be idle, or to have fewer jobs.
    watching: Watching,
}

impl<In, T, E> Synced<In, T, E> {
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
            self.admission.absorb_extra(stream, wakes);
        }
    }

    #[inline]
    fn book_start(
        &mut self,
        slot: usize,
        origin: Origin,
        active_job: ActiveJob,
        wakes: &mut Wakes,
    ) {
        self.absorb_extra(origin, active_job.stream, wakes);
        self.admission.start(origin, wakes);
        self.running.start(slot, active_job);
    }
}

pub(crate) struct Shared<In, T, E> {
    state: Mutex<Synced<In, T, E>>,
    pub(crate) injector: Injector<Batch<In, T, E>>,
    /// Whether there is nothing to do about a job but to run it: nobody watches or measures, and it
    /// adds none.
    pub(crate) is_plain: bool,
    /// How many slots a worker has: those from `worker × slots_each` on.
    slots_each: usize,
    /// One for each slot.
    pub(crate) cancel_flags: CancelFlags,
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
    /// How many [`Pool`](crate::Pool)s share this shared.
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
    /// `ScheduledJob` by the one who switches it on.
    switching: Mutex<()>,
    /// The slot of the worker that keeps the time, or a number that none has.
    timer_slot: AtomicUsize,
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
pub(crate) struct Config<In, E> {
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

impl<In, T, E> Shared<In, T, E> {
    /// Fails if memory cannot hold what has to be known of so many slots.
    pub(crate) fn new(config: Config<In, E>) -> Result<Arc<Self>, TryReserveError> {
        let (workers, slots_each) = (config.workers, config.jobs_per_worker);
        let slots = workers * slots_each;
        let mut running = Running::new();
        running.reserve(slots)?;
        let cancel_flags = CancelFlags::new(slots)?;
        let schedule = config
            .is_scheduled
            .then(|| Box::new(Schedule::new(config.policy, slots, config.timer.now())));
        let mut admission =
            Admission::new(config.capacity, config.child_capacity, workers, slots_each);
        admission.set_max_waiting(config.max_waiting);
        Ok(Arc::new(Self {
            state: Mutex::new(Synced {
                admission,
                running,
                limits: config.limits,
                interrupted: Vec::new(),
                local_queues: Vec::new(),
                spare_local_queues: Vec::new(),
                schedule,
                settling: Settling::new(),
                timer_role: TimerRole::default(),
                account: config
                    .retry
                    .as_ref()
                    .and_then(|retry| retry.policy.account()),
                retries_ahead: 0,
                retries: 0,
                retries_refused: 0,
                watching: Watching::default(),
            }),
            injector: Injector::new(),
            is_plain: config.observer.is_none()
                && config.retry.is_none()
                && config.slow_poll.is_none()
                && !config.timings
                && !config.adds_jobs,
            slots_each,
            cancel_flags,
            deliveries: Deliveries::default(),
            watchers: AtomicUsize::new(0),
            timer: config.timer,
            observer: config.observer,
            unhandled: Mutex::new(None),
            returned: Mutex::new(Vec::new()),
            told: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            handles: AtomicUsize::new(1),
            is_aborted: AtomicBool::new(false),
            is_deserted: AtomicBool::new(false),
            timings: config.timings,
            adds_jobs: config.adds_jobs,
            slow_poll: config.slow_poll,
            is_scheduled: AtomicBool::new(config.is_scheduled),
            switching: Mutex::new(()),
            timer_slot: AtomicUsize::new(usize::MAX),
            readings: AtomicU64::new(0),
            retry: config.retry,
            key_by: config.key_by,
            cost_by: config.cost_by,
            policy: config.policy,
        }))
    }

    /// The books, with all journals entered.
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, Synced<In, T, E>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.local_queues.is_empty() {
            state.flush_tallies();
        }
        state
    }

    /// The same, for what must not cross the start or the end of a job: no worker goes on without
    /// this lock.
    pub(crate) fn lock_exclusive(&self) -> MutexGuard<'_, Synced<In, T, E>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.revoke_all();
        state
    }

    /// How many workers there were at first.
    pub(crate) fn built(&self) -> usize {
        self.cancel_flags.len() / self.slots_each
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
        let mut state = self.lock();
        let mut stats = state.admission.stats();
        if let Some(schedule) = &mut state.schedule {
            // Nobody may have looked since a delay has passed.
            let now = self.tell_time(schedule, reading);
            schedule.promote_due(now);
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
            let _ = panic::catch(|| observer.on_event(&event));
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
            panic::discard(failure);
            return;
        };
        let _ = panic::catch(|| handler(failure));
    }

    #[inline]
    pub(crate) fn run_wakes(&self, wakes: Wakes) {
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
        if wakes.notified_maps {
            self.told.fetch_add(1, Ordering::SeqCst);
        }
        panic::wake(wakes.room);
        // The end of the last delivery looks whether the pool is idle.
        if wakes.below || (wakes.idle && self.are_delivered()) {
            self.wake_watchers();
        }
    }

    // ---- admission ----

    /// The time of acceptance, where anything depends on it.
    pub(crate) fn clock_in(&self, limits: Limits) -> Option<Instant> {
        (self.timings || limits.job.is_some()).then(|| self.timer.now())
    }

    pub(crate) fn accept(&self, origin: Origin) -> Result<(JobId, Limits), Refusal> {
        let mut state = self.lock();
        let id = state.admission.accept(origin)?;
        Ok((id, state.limits))
    }

    /// Gives back a reserved place.
    pub(crate) fn release_place(&self) {
        let wakes = self.lock().admission.release();
        self.run_wakes(wakes);
    }

    /// Wakes those that wait for room for a job of this group, which was cancelled.
    pub(crate) fn wake_submits_to(&self, group: usize) {
        let wakers = self.lock().admission.wakers_of(group);
        panic::wake(wakers);
    }

    /// Accepts a job from a running one, as long as that runs: both are looked at under one lock,
    /// so its map or group cannot end in between.
    pub(crate) fn accept_child(&self, parent: CurrentJob) -> Result<(JobId, Limits), Refusal> {
        let mut state = self.lock();
        if !state.running.is_running(parent.slot, parent.id) {
            return Err(Refusal::Closed);
        }
        let id = state.admission.accept(Origin::Child)?;
        Ok((id, state.limits))
    }

    /// Accepts a job from whoever it is.
    pub(crate) fn accept_from(
        &self,
        parent: Option<CurrentJob>,
    ) -> Result<(JobId, Limits), Refusal> {
        parent.map_or_else(
            || self.accept(Origin::Outside),
            |parent| self.accept_child(parent),
        )
    }

    /// Puts an accepted job on its way.
    pub(crate) fn launch(&self, entry: QueuedJob<In, T, E>) {
        self.observe(|| Event::Accepted { job: entry.id() });
        if self.is_scheduled() {
            self.schedule_one(entry);
        } else {
            self.push(entry);
        }
        self.look_for_end();
    }

    /// Puts an accepted job on its way by terms of its own.
    pub(crate) fn launch_by(&self, terms: ScheduleOptions, entry: QueuedJob<In, T, E>) {
        self.observe(|| Event::Accepted { job: entry.id() });
        self.schedule_by(terms, entry);
        self.look_for_end();
    }

    /// Gives an accepted job its outcome at once.
    pub(crate) fn refuse(&self, entry: QueuedJob<In, T, E>, error: JobError<E>) {
        self.observe(|| Event::Accepted { job: entry.id() });
        self.settle_unstarted(entry, error, 0);
    }

    /// Returns what came into the queue after an abort had looked there, since no worker may be
    /// polled any more, and abandons what came after the last worker had left: whoever puts a job
    /// in looks here afterwards, and they set a flag before they dispatch.
    fn look_for_end(&self) {
        if self.is_aborted.load(Ordering::SeqCst) {
            self.return_queued();
        } else if self.is_deserted.load(Ordering::SeqCst) {
            self.abandon_queued();
        }
    }

    fn abandon_queued(&self) {
        self.abandon(self.injector.take_all());
        for removed in self.unschedule(|_| true) {
            let attempts = removed.attempts();
            self.settle_unstarted(removed.job.into_queued(), JobError::Abandoned, attempts);
            panic::discard(removed.history);
        }
    }

    fn return_queued(&self) {
        for entry in self.injector.take_all() {
            let attempts = self.attempts(&entry);
            self.return_unstarted(entry, attempts);
        }
        for removed in self.unschedule(|_| true) {
            let attempts = removed.attempts();
            self.return_unstarted(removed.job.into_queued(), attempts);
            panic::discard(removed.history);
        }
    }

    /// Puts accepted jobs on their way together.
    pub(crate) fn launch_many(&self, entries: Vec<QueuedJob<In, T, E>>) {
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
    pub(crate) fn launch_lot(&self, lot: Batch<In, T, E>) {
        if self.is_scheduled() {
            self.schedule_many(lot.into_jobs().collect());
        } else if let Err(lot) = self.injector.push_batch(lot) {
            self.abandon(lot.into_jobs());
        }
        self.look_for_end();
    }

    /// Hands a job to the workers; if none will ever come, it is abandoned.
    fn push(&self, entry: QueuedJob<In, T, E>) {
        if let Err(entry) = self.injector.push(entry) {
            self.abandon([entry]);
        }
    }

    /// The same for several.
    fn push_many(&self, entries: impl Iterator<Item = QueuedJob<In, T, E>>) {
        if let Err(entries) = self.injector.push_many(entries) {
            self.abandon(entries);
        }
    }

    fn abandon(&self, entries: impl IntoIterator<Item = QueuedJob<In, T, E>>) {
        for entry in entries {
            let attempts = self.attempts(&entry);
            self.settle_unstarted(entry, JobError::Abandoned, attempts);
        }
    }

    // ---- the state of the pool of a job ----

    /// Books the start of a job and says what limits it, and, where there is a schedule, what its
    /// prior is.
    ///
    /// Before it returns, the slot is clear of old interruptions and a new one will find the job.
    /// The caller carries out the wakes.
    #[inline(always)]
    pub(crate) fn book_start(
        &self,
        slot: usize,
        origin: Origin,
        active_job: ActiveJob,
        limits: &mut Limits,
        wakes: &mut Wakes,
        prior: &mut PriorAttempts,
    ) -> StartResult {
        let reading = self.reading();
        let mut state = self.lock();
        if state.admission.pool_state() >= PoolState::Aborted {
            return StartResult::Aborted;
        }
        if state.schedule.is_some() {
            *limits = state.limits;
            return self
                .start_scheduled(&mut state, slot, origin, active_job, reading, wakes, prior);
        }
        self.cancel_flags[slot].clear();
        state.book_start(slot, origin, active_job, wakes);
        *limits = state.limits;
        StartResult::Yes
    }

    pub(crate) fn book_finish(&self, slot: usize, id: JobId, outcome: Outcome, attempts: u32) {
        let mut wakes = Wakes::default();
        {
            let mut state = self.lock();
            if state.schedule.is_some() {
                drop(state);
                return self.book_scheduled_finish(slot, id, outcome, attempts);
            }
            state.forget_interrupted(id, outcome);
            state.running.finish(slot);
            state.admission.finish(outcome, &mut wakes);
        }
        self.observe(|| Event::Finished {
            job: id,
            outcome,
            attempts,
        });
        self.run_wakes(wakes);
    }

    /// Books the outcome of a job that is not running.
    pub(crate) fn book_unstarted(
        &self,
        origin: Origin,
        id: JobId,
        outcome: Outcome,
        record_id: Option<RecordId>,
        attempts: u32,
        stream: Option<usize>,
    ) {
        let reading = self.reading();
        let (wakes, forgotten, blocked) = {
            let mut state = self.lock();
            let mut wakes = Wakes::default();
            state.absorb_extra(origin, stream, &mut wakes);
            state.admission.finish_queued(origin, outcome, &mut wakes);
            let forgotten = record_id
                .map(|record_id| self.forget_scheduled(&mut state, record_id, id, reading));
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
        if let Some((job, history, deferred)) = forgotten {
            drop(job);
            panic::discard(history);
            self.run_deferred(deferred);
        }
        self.run_wakes(wakes);
        // They dispatch again and find that they would wait for ever.
        panic::wake(blocked);
    }

    // ---- cancellation ----

    /// A queued job was cancelled through its handle. Its tombstone stays in the injector until a
    /// worker comes to it, or until tombstones outnumber the jobs that are queued, here or in the
    /// schedule.
    pub(crate) fn sweep_tombstones(&self) {
        const FEW: usize = 32;
        let queued = self.lock().admission.queued_total();
        if self.injector.len() > FEW.max(2 * queued) {
            self.sweep();
        }
    }

    /// A worker has come to a tombstone.
    pub(crate) fn remove_tombstone(&self, record_id: Option<RecordId>, id: JobId) {
        if let Some(record_id) = record_id {
            // It was cancelled before the schedule knew of it.
            let reading = self.reading();
            let (job, history, deferred) =
                self.forget_scheduled(&mut self.lock(), record_id, id, reading);
            drop((job, history));
            self.run_deferred(deferred);
        }
    }

    /// Takes cancelled jobs out of the injector and settles them.
    pub(crate) fn sweep(&self) {
        for entry in self.injector.sweep(QueuedJob::is_dead) {
            let attempts = self.attempts(&entry);
            self.settle_unstarted(entry, JobError::Abandoned, attempts);
        }
        for removed in self.unschedule(ScheduledJob::is_dead) {
            let attempts = removed.attempts();
            self.settle_unstarted(removed.job.into_queued(), JobError::Abandoned, attempts);
            panic::discard(removed.history);
        }
        self.look_for_end();
    }

    /// Interrupts the running jobs of one map or group.
    pub(crate) fn interrupt_stream(&self, stream: usize, reason: CancelReason) {
        let state = self.lock_exclusive();
        let wakers: Vec<Waker> = state
            .running
            .occupied()
            .filter(|(_, active_job)| active_job.stream == Some(stream))
            .filter_map(|(slot, _)| self.cancel_flags[slot].interrupt(reason))
            .collect();
        drop(state);
        panic::wake(wakers);
    }

    // ---- the state of the pool of the pool ----

    /// Moves the state of the pool of the pool on; see [`PoolState`].
    pub(crate) fn close(&self, pool_state: PoolState) {
        let (was_open, wakes) = {
            let mut state = self.lock_exclusive();
            let was_open = state.admission.pool_state() == PoolState::Open;
            (was_open, state.admission.advance(pool_state).1)
        };
        if was_open {
            self.observe(|| Event::Closed);
        }
        self.run_wakes(wakes);
        // What a pause holds back goes on.
        self.dispatch_now();
    }

    /// Aborts: interrupts what runs, returns what is queued. The first call does it; others change
    /// nothing.
    pub(crate) fn begin_abort(&self) {
        self.close(PoolState::Aborted);
        if self.is_aborted.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut state = self.lock_exclusive();
        let mut wakers = Vec::new();
        let mut interrupted = Vec::new();
        for (slot, active_job) in state.running.occupied() {
            wakers.extend(self.cancel_flags[slot].interrupt(CancelReason::Aborted));
            interrupted.push(Interrupted {
                id: active_job.id,
                index: active_job.index,
                attempts: active_job.attempts,
            });
        }
        state.interrupted = interrupted;
        drop(state);
        panic::wake(wakers);
        self.return_queued();
    }

    /// What an abort has interrupted and no report has named, in the order of acceptance.
    pub(crate) fn take_interrupted(&self) -> Vec<Interrupted> {
        let mut interrupted = std::mem::take(&mut self.lock().interrupted);
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
            let mut state = self.lock();
            let was_open = state.admission.pool_state() == PoolState::Open;
            let (was_last, wakes) = state.admission.worker_left();
            let blocked = state.blocked();
            (was_last, was_open && was_last, wakes, blocked)
        };
        let own = self.cancel_flags.made(self.slots_of(worker));
        let wakers: Vec<Waker> = own.filter_map(|signal| signal.waker().take()).collect();
        drop(wakers);
        self.observe(|| Event::WorkerLeft { worker });
        if was_open {
            self.observe(|| Event::Closed);
        }
        self.run_wakes(wakes);
        // They dispatch again and find that they would wait for ever.
        panic::wake(blocked);
        if was_last {
            self.is_deserted.store(true, Ordering::SeqCst);
            self.abandon_queued();
        }
    }
}

/// Whether a job starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartResult {
    Yes,
    /// The pool is aborted and starts nothing.
    Aborted,
    /// The schedule has not released it, does not let it go on, or knows of one that comes first:
    /// it goes back there.
    NotYet,
}

/// What a worker learns when the start of a scheduled job is booked.
#[derive(Debug)]
pub(crate) struct PriorAttempts {
    /// When it started, if somebody looked.
    pub(crate) since: Option<Instant>,
    /// Of former attempts.
    pub(crate) history: Option<Box<History>>,
    /// For the worker that keeps the time; to be [given](Shared::notify_timer) once no lock is held.
    pub(crate) notice: TimerNotice,
}

impl PriorAttempts {
    pub(crate) const NONE: Self = Self {
        since: None,
        history: None,
        notice: TimerNotice::NONE,
    };

    /// How many attempts were made.
    #[inline]
    pub(crate) fn attempts(&self) -> u32 {
        self.history.as_ref().map_or(0, |history| history.attempts)
    }
}

impl<In, T, E> fmt::Debug for Shared<In, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
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
