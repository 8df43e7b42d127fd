//! The state that the handles, workers, maps and groups of one pool share: counters, running jobs
//! and the schedule under one lock, the injector, and a cancel flag for each slot. It moves jobs
//! from one state to the next and wakes the tasks that this concerns. It runs no handler.
//!
//! # Locks
//!
//! A thread that holds one of these locks takes only locks further down the list:
//!
//! 1. `Shared::switching`, while `switch_on_schedule` runs,
//! 2. the lock of the [`Injector`],
//! 3. the lock of a `HandleState`,
//! 4. the lock of [`Synced`], taken by [`Shared::lock`] and [`Shared::lock_exclusive`],
//! 5. the lock of a [`LocalQueue`], or the one of a `CancelFlag`,
//! 6. the lock of a `Spares`: a batch that is dropped empty gives its vector back.
//!
//! `Shared::unhandled` and `Shared::returned` are locked on their own, with no other lock held.
//!
//! Invariant: no user code runs under a lock but `Waker::clone` and, in a pool with a schedule,
//! `Timer::now`, for a start or a retry under the lock of the `HandleState`. A function (1) takes
//! values out, (2) unlocks, and then (3) wakes tasks, calls the observer and drops values of the
//! user's types. So the state is whole even if a lock is poisoned, and poison is ignored.

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
mod insert;
mod lifecycle;
mod local_queues;
mod map_wait;
mod pool_ref;
pub(crate) mod retry;
mod shutdown;
mod streams;
mod submit;
pub(crate) mod timer;
mod unstarted;

use std::collections::TryReserveError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::acquire::AcquirePermit;
#[cfg(feature = "testing")]
pub(crate) use self::audit::{OpenAttempt, OpenJob};
use self::cancel_flag::CancelFlags;
pub(crate) use self::config::{Config, CostFn, KeyFn};
use self::deadlock::Waiting;
pub(crate) use self::deadlock::{Awaited, WaitGuard};
use self::dispatch::{GivenUpJobs, Scheduler};
use self::idle::{Deliveries, IdleState, IdleWaiters};
pub(crate) use self::lifecycle::{NotStarted, ScheduledStart};
pub(crate) use self::map_wait::{MapWait, Pull};
pub(crate) use self::pool_ref::PoolRef;
use self::retry::RetryConfig;
use self::shutdown::Stopped;
pub(crate) use self::submit::Accepted;
use crate::event::{Event, Observer, Stats};
use crate::job::queued::Batch;
use crate::panic;
use crate::policy::limits::TimeLimits;
use crate::policy::retry::Account;
use crate::queue::StreamId;
use crate::queue::admission::{Admission, Wakes};
use crate::queue::injector::Injector;
use crate::queue::local::LocalQueue;
use crate::queue::running::Running;
use crate::report::{Interrupted, Unhandled, Unstarted};
use crate::rt::Timer;
use crate::schedule::SchedulePolicy;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard, ignore_poison};

pub(crate) type UnhandledFn<E> = dyn Fn(Unhandled<E>) + Send + Sync;

/// What the lock of [`Shared`] protects.
pub(crate) struct Synced<In, T, E> {
    pub(crate) admission: Admission,
    pub(crate) running: Running<Waiting<In, T, E>>,
    pub(crate) limits: TimeLimits,
    /// Jobs that an abort has interrupted and no [`Report`](crate::Report) has named yet; at most
    /// one a slot.
    interrupted: Vec<Interrupted>,
    /// The open local queues, whose tallies are flushed into these counters: at most one for each
    /// worker that is being polled.
    local_queues: Vec<Arc<LocalQueue<Batch<In, T, E>>>>,
    /// Empty queues, to be opened again. Bounded by the number of workers.
    spare_local_queues: Vec<Arc<LocalQueue<Batch<In, T, E>>>>,
    /// Decides which job starts when. `None` until a feature needs it: jobs start in the order of
    /// the injector.
    scheduler: Option<Box<Scheduler<In, T, E>>>,
    given_up_jobs: GivenUpJobs<In, T, E>,
    /// Balance of the retry budget.
    account: Option<Account>,
    /// Retries that are allowed and neither requeued nor forgone yet; at most one a slot.
    retries_ahead: usize,
    retries: u64,
    retries_refused: u64,
    /// Futures that wait for the pool to be idle, or to have fewer jobs.
    idle_waiters: IdleWaiters,
}

/// The shared state of a pool; see the [module](self).
pub(crate) struct Shared<In, T, E> {
    synced: Mutex<Synced<In, T, E>>,
    pub(crate) injector: Injector<Batch<In, T, E>>,
    /// Whether workers may use local queues: a start or a success has only to be counted, since the
    /// pool has no observer, retries, timings or slow-poll reports, and jobs add no jobs.
    pub(crate) uses_local_queues: bool,
    /// Slots of a worker; its first one is `worker × slots_per_worker`.
    slots_per_worker: usize,
    /// One flag for each slot.
    pub(crate) cancel_flags: CancelFlags,
    /// Counts outcomes that have reached the code that reads them, or are on their way.
    deliveries: Deliveries,
    /// What `idle_waiters` need a wake for, readable without the lock.
    idle_state: IdleState,
    pub(crate) timer: Arc<dyn Timer>,
    observer: Option<Arc<dyn Observer>>,
    pub(crate) unhandled: Mutex<Option<Arc<UnhandledFn<E>>>>,
    /// Unstarted inputs of an aborted pool that no report has taken yet. Bounded by what was
    /// queued.
    pub(crate) returned: Mutex<Vec<Unstarted<In>>>,
    /// Incremented each time maps that wait for room are notified of it.
    map_notifications: AtomicUsize,
    /// Number of maps and groups created so far.
    stream_count: AtomicUsize,
    /// Number of [`PoolRef`]s to this pool.
    pub(crate) pool_refs: AtomicUsize,
    /// Whether the queues are to be emptied, and how; see [`shutdown`].
    stopped: Stopped,
    /// Set before the jobs that were released for a worker that has left are returned to the schedule;
    /// see `return_surplus`.
    has_worker_left: AtomicBool,
    pub(crate) timings: bool,
    /// Whether running jobs may add jobs.
    pub(crate) adds_jobs: bool,
    pub(crate) slow_poll: Option<Duration>,
    /// Whether there is a schedule. Never reset.
    is_scheduled: AtomicBool,
    /// Held by the call that switches the schedule on.
    switching: Mutex<()>,
    /// First slot of the worker that drives the timer; `usize::MAX`: none does.
    timer_slot: AtomicUsize,
    /// Number of clock readings that the schedule has adopted.
    readings: AtomicU64,
    pub(crate) retry: Option<RetryConfig<In, E>>,
    key_by: Option<Arc<KeyFn<In>>>,
    cost_by: Option<Arc<CostFn<In>>>,
    policy: SchedulePolicy,
}

impl<In, T, E> Shared<In, T, E> {
    /// Fails if memory cannot hold the state of so many slots.
    pub(crate) fn new(config: Config<In, E>) -> Result<Arc<Self>, TryReserveError> {
        let (workers, slots_per_worker) = (config.workers, config.jobs_per_worker);
        let slots = workers * slots_per_worker;
        let mut running = Running::new();
        running.reserve(slots)?;
        let cancel_flags = CancelFlags::new(slots)?;
        let scheduler = config
            .is_scheduled
            .then(|| Scheduler::new(config.policy, slots, config.timer.now()));
        let mut admission = Admission::new(
            config.queue_capacity,
            config.child_capacity,
            workers,
            slots_per_worker,
        );
        admission.set_max_waiting(config.max_waiting);
        Ok(Arc::new(Self {
            synced: Mutex::new(Synced {
                admission,
                running,
                limits: config.limits,
                interrupted: Vec::new(),
                local_queues: Vec::new(),
                spare_local_queues: Vec::new(),
                scheduler,
                given_up_jobs: GivenUpJobs::new(),
                account: config
                    .retry
                    .as_ref()
                    .and_then(|retry| retry.policy.account()),
                retries_ahead: 0,
                retries: 0,
                retries_refused: 0,
                idle_waiters: IdleWaiters::default(),
            }),
            injector: Injector::new(),
            uses_local_queues: config.observer.is_none()
                && config.retry.is_none()
                && config.slow_poll.is_none()
                && !config.timings
                && !config.adds_jobs,
            slots_per_worker,
            cancel_flags,
            deliveries: Deliveries::default(),
            idle_state: IdleState::default(),
            timer: config.timer,
            observer: config.observer,
            unhandled: Mutex::new(None),
            returned: Mutex::new(Vec::new()),
            map_notifications: AtomicUsize::new(0),
            stream_count: AtomicUsize::new(0),
            pool_refs: AtomicUsize::new(1),
            stopped: Stopped::default(),
            has_worker_left: AtomicBool::new(false),
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

    /// Locks the state and flushes all tallies, so the counters are exact.
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, Synced<In, T, E>> {
        let mut synced = ignore_poison(self.synced.lock());
        if !synced.local_queues.is_empty() {
            synced.flush_tallies();
        }
        synced
    }

    /// Locks the state and revokes all local queues, so that no job starts or ends while the lock
    /// is held: a worker whose queue is revoked needs the lock to go on.
    pub(crate) fn lock_exclusive(&self) -> MutexGuard<'_, Synced<In, T, E>> {
        let mut synced = ignore_poison(self.synced.lock());
        synced.revoke_all();
        synced
    }

    /// Number of slots of all workers.
    pub(crate) const fn slot_count(&self) -> usize {
        self.cancel_flags.len()
    }

    /// Number of workers that the pool was built with.
    pub(crate) fn built(&self) -> usize {
        self.slot_count() / self.slots_per_worker
    }

    /// The worker that a slot belongs to.
    pub(crate) const fn worker_of(&self, slot: usize) -> usize {
        slot / self.slots_per_worker
    }

    /// The slots of a worker.
    pub(crate) const fn slots_of(&self, worker: usize) -> std::ops::Range<usize> {
        worker * self.slots_per_worker..(worker + 1) * self.slots_per_worker
    }

    /// Returns the id of a new map or group.
    pub(crate) fn next_stream(&self) -> StreamId {
        StreamId::new(self.stream_count.fetch_add(1, Ordering::Relaxed))
    }

    /// Identifies the pool within the process, as long as it lives.
    pub(crate) fn identity(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    pub(crate) fn stats(&self) -> Stats {
        let reading = self.reading();
        let mut synced = self.lock();
        let mut stats = synced.admission.stats();
        if let Some(scheduler) = &mut synced.scheduler {
            // A delay may have passed since the last dispatch.
            let now = self.advance_clock(scheduler, reading);
            scheduler.schedule.promote_due(now);
            stats.delayed = scheduler.schedule.delayed();
            stats.queued -= stats.delayed;
        }
        (stats.retries, stats.retries_refused) = (synced.retries, synced.retries_refused);
        stats
    }

    pub(crate) fn observe(&self, event: impl FnOnce() -> Event) {
        if let Some(observer) = &self.observer {
            let event = event();
            // A panic of an observer has nowhere to go: it belongs to no job.
            let _ = panic::catch(|| observer.on_event(&event));
        }
    }

    /// Passes a failure that no handle or stream will deliver to the callback set by
    /// [`on_unhandled`](crate::Pool::on_unhandled).
    pub(crate) fn report_unhandled(&self, failure: Unhandled<E>) {
        let handler = ignore_poison(self.unhandled.lock()).clone();
        let Some(handler) = handler else {
            panic::discard(failure);
            return;
        };
        // It may hold the last reference to the callback.
        let _ = panic::catch(move || handler(failure));
    }

    /// Carries out what a change of the counters requires. Called with no lock held.
    #[inline]
    pub(crate) fn run_wakes(&self, wakes: Wakes) {
        if wakes.is_empty() {
            // The compiler does not see that dropping an empty value does nothing.
            std::mem::forget(wakes);
        } else {
            self.wake(wakes);
        }
    }

    #[cold]
    fn wake(&self, wakes: Wakes) {
        if wakes.end {
            self.injector.close();
            // Only tombstones of cancelled jobs are left, unless the last worker has left.
            self.abandon_all(self.injector.take_all());
        }
        if wakes.notified_maps {
            self.map_notifications.fetch_add(1, Ordering::SeqCst);
        }
        panic::wake(wakes.timer_driver);
        if wakes.offers_timer_role {
            self.hand_over_timer();
        }
        panic::wake(wakes.wakers);
        if wakes.below {
            self.wake_idle_waiters(self.lock());
        } else if wakes.idle {
            self.wake_if_idle();
        }
    }
}

impl<In, T, E> fmt::Debug for Shared<In, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
