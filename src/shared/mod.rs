//! What the pool's handle, its workers and its replies share: the books under one lock, the
//! injector, and the means to interrupt a worker. It moves jobs from one book to another and wakes
//! whom that concerns; it runs no handler.
//!
//! The rule of the lock: values are taken out, the lock is released, then wakers are woken,
//! observers called and user values dropped. No user code runs under it, so a poisoned lock is
//! entered.

mod acquire;
#[cfg(feature = "testing")]
mod audit;
mod cancel;
mod cancel_flag;
mod config;
mod control;
mod deadlock;
pub(crate) mod dispatch;
mod handles;
mod idle;
mod lifecycle;
mod local_queues;
mod map_wait;
mod pool_ref;
mod shutdown;
mod streams;
mod submit;
pub(crate) mod timer;
mod unstarted;

use std::collections::TryReserveError;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

pub(crate) use self::acquire::AcquirePermit;
use self::cancel_flag::CancelFlags;
pub(crate) use self::cancel_flag::Interrupt;
pub(crate) use self::config::{Config, CostFn, KeyFn};
use self::deadlock::Waiting;
pub(crate) use self::deadlock::{Wait, WaitGuard};
use self::dispatch::{Retries, Settling};
pub(crate) use self::idle::DeliveryKind;
use self::idle::{Deliveries, Watching};
pub(crate) use self::lifecycle::{PriorAttempts, StartResult};
pub(crate) use self::map_wait::{MapWait, Pull};
pub(crate) use self::pool_ref::PoolRef;
use self::timer::TimerRole;
use crate::event::{Event, Observer, Stats};
use crate::job::queued::{Batch, ScheduledJob};
use crate::panic;
use crate::policy::limits::Limits;
use crate::policy::retry::Account;
use crate::queue::admission::{Admission, Wakes};
use crate::queue::injector::Injector;
use crate::queue::local::LocalQueue;
use crate::queue::running::Running;
use crate::report::{Interrupted, Unhandled, Unstarted};
use crate::rt::Timer;
use crate::schedule::{Policy, Schedule};
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
        if wakes.told {
            self.told.fetch_add(1, Ordering::SeqCst);
        }
        panic::wake(wakes.room);
        // The end of the last delivery looks whether the pool is idle.
        if wakes.below || (wakes.idle && self.are_delivered()) {
            self.wake_watchers();
        }
    }
}

impl<In, T, E> fmt::Debug for Shared<In, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
