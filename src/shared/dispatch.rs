//! Connects the schedule with the shared state. The [`Schedule`] decides; this file passes it jobs
//! and the time under the lock, and carries out what it releases after unlocking.
//!
//! Each change (1) locks and passes a reading of the clock to the schedule, (2) changes it, (3)
//! calls [`dispatch`](Synced::dispatch), which releases jobs and updates the timer role, (4)
//! unlocks, (5) calls [`run_deferred`](Shared::run_deferred), which pushes the released jobs, wakes
//! tasks and completes jobs that were given up.
//! [`update_schedule`](Shared::update_schedule) does all of it.
//!
//! After an abort nothing is released and the timer is not needed. A job that is accepted before
//! and inserted after the abort, or after the last worker has left, would wait forever; so the
//! insertion of an accepted job is followed by `check_stopped`, which checks for that and completes
//! the job. `requeue_job` needs none: its worker is there, and it checks the state under the lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Instant;

use super::timer::TimerRole;
use super::{ScheduledStart, Shared, Synced};
use crate::error::{JobError, TimeLimit};
use crate::event::JobId;
use crate::job::queued::{QueuedJob, ScheduledJob};
use crate::queue::admission::{PoolState, Wakes};
use crate::queue::running::ActiveJob;
use crate::schedule::clock::{Reading, Tick};
use crate::schedule::{
    Occupancy, RecordId, Released, Removed, Schedule, ScheduleOptions, SchedulePolicy,
};
use crate::sync::atomic::Ordering;
use crate::sync::ignore_poison;

/// What only a pool with a schedule has, guarded by the shared state's lock.
pub(crate) struct Scheduler<In, T, E> {
    pub(super) schedule: Schedule<ScheduledJob<In, T, E>>,
    pub(super) timer_role: TimerRole,
}

impl<In, T, E> Scheduler<In, T, E> {
    pub(super) fn new(policy: SchedulePolicy, slots: usize, start: Instant) -> Box<Self> {
        Box::new(Self {
            schedule: Schedule::new(policy, slots, start),
            timer_role: TimerRole::default(),
        })
    }

    /// Adds an accepted job to the schedule.
    pub(super) fn insert(&mut self, job: QueuedJob<In, T, E>, options: ScheduleOptions) {
        let (number, now) = (job.id().as_u64(), self.schedule.now());
        let job = ScheduledJob::from(job);
        let record_id = self.schedule.insert(job, number, options, now);
        if let Some(ScheduledJob::Handle(handle)) = self.schedule.job(record_id) {
            handle.set_record_id(record_id);
        }
    }
}

/// The jobs that a dispatch has released or given up; `None` without a schedule.
pub(crate) type Dispatched<In, T, E> = Option<Released<ScheduledJob<In, T, E>>>;

/// A job that the schedule has given up, and its outcome.
type GivenUp<In, T, E> = (Removed<ScheduledJob<In, T, E>>, JobError<E>);

/// Jobs that were given up and have no outcome yet, by the thread that completes them, so that a
/// nested call leaves its jobs to the outer one. Bounded, since they count as queued until then.
pub(super) struct GivenUpJobs<In, T, E> {
    queues: Vec<(ThreadId, VecDeque<GivenUp<In, T, E>>)>,
}

impl<In, T, E> GivenUpJobs<In, T, E> {
    pub(super) const fn new() -> Self {
        Self { queues: Vec::new() }
    }

    /// Adds jobs. Returns whether the thread is not completing any yet.
    fn add(&mut self, thread: ThreadId, given_up: VecDeque<GivenUp<In, T, E>>) -> bool {
        match self.queues.iter_mut().find(|(other, _)| *other == thread) {
            Some((_, queue)) => {
                queue.extend(given_up);
                false
            }
            None => {
                self.queues.push((thread, given_up));
                true
            }
        }
    }

    /// Takes the next job; `None` once, after the last.
    fn next(&mut self, thread: ThreadId) -> Option<GivenUp<In, T, E>> {
        let at = self.queues.iter().position(|(other, _)| *other == thread)?;
        let next = self.queues[at].1.pop_front();
        if next.is_none() {
            self.queues.swap_remove(at);
        }
        next
    }
}

impl<In, T, E> Shared<In, T, E> {
    #[inline]
    pub(crate) fn is_scheduled(&self) -> bool {
        self.is_scheduled.load(Ordering::Relaxed)
    }

    /// Reads the clock if there is a schedule.
    #[inline]
    pub(super) fn reading(&self) -> Option<Reading> {
        self.is_scheduled().then(|| self.read_clock())
    }

    /// Reads the clock, for [`advance_clock`](Self::advance_clock).
    pub(super) fn read_clock(&self) -> Reading {
        // In this order: readings that were accepted before this generation are older than the time
        // that is read next.
        let generation = self.readings.load(Ordering::SeqCst);
        Reading {
            at: self.timer.now(),
            generation,
        }
    }

    /// Advances the schedule's clock to a reading, if there is one, and returns the time.
    pub(super) fn advance_clock(
        &self,
        scheduler: &mut Scheduler<In, T, E>,
        reading: Option<Reading>,
    ) -> Tick {
        let schedule = &mut scheduler.schedule;
        if let Some(reading) = reading {
            schedule.accept_reading(reading);
            self.readings.store(schedule.generation(), Ordering::SeqCst);
        }
        schedule.now()
    }

    /// As [`advance_clock`](Self::advance_clock), in the worker of this slot. If the worker drives
    /// the timer, it is running, so it reads `wake_at` before it waits.
    pub(super) fn advance_clock_in(
        &self,
        slot: usize,
        scheduler: &mut Scheduler<In, T, E>,
        reading: Option<Reading>,
    ) -> Tick {
        if self.drives_timer(slot) {
            scheduler.timer_role.note_awake();
        }
        self.advance_clock(scheduler, reading)
    }

    /// Makes the schedule decide when jobs start, also those that are queued already. A job that is
    /// on its way into the injector or out of it is sent back when a worker is about to start it.
    pub(crate) fn switch_on_schedule(&self) {
        if self.is_scheduled() {
            return;
        }
        let start = self.timer.now();
        let switching = ignore_poison(self.switching.lock());
        if self.is_scheduled() {
            // Another thread was faster, and has released what is in the injector.
            return;
        }
        let mut handles = Vec::new();
        let mut wakes = Wakes::default();
        // In one critical section, so that no later job starts before the jobs taken here. Lock
        // order: injector, shared state.
        let dispatched = self.injector.take_all_for(|entries| {
            let mut synced = self.lock_exclusive();
            let scheduler = Scheduler::new(self.policy, self.slot_count(), start);
            let scheduler = synced.scheduler.insert(scheduler);
            self.is_scheduled.store(true, Ordering::SeqCst);
            for entry in entries {
                if let QueuedJob::Handle(handle) = &entry {
                    handles.push(Arc::clone(handle));
                }
                let options = Self::default_options(&entry);
                scheduler.insert(entry, options);
            }
            synced.admission.notify_of_any_room(&mut wakes);
            synced.dispatch(&mut wakes)
        });
        drop(switching);
        self.run_deferred(dispatched, wakes);
        for handle in handles {
            self.remove_if_decided(&handle);
        }
        self.check_stopped();
    }

    // ---- dispatch ----

    /// Changes the schedule under the lock, dispatches, and runs the deferred work after unlocking.
    /// Does nothing without a schedule.
    pub(super) fn update_schedule<R>(
        &self,
        change: impl FnOnce(&mut Scheduler<In, T, E>) -> R,
    ) -> Option<R> {
        let reading = self.reading()?;
        let mut synced = self.lock();
        let scheduler = synced.scheduler.as_mut()?;
        self.advance_clock(scheduler, Some(reading));
        let changed = change(scheduler);
        let mut wakes = Wakes::default();
        let dispatched = synced.dispatch(&mut wakes);
        drop(synced);
        self.run_deferred(dispatched, wakes);
        Some(changed)
    }

    /// Dispatches if there is a schedule.
    pub(super) fn dispatch_now(&self) {
        self.update_schedule(|_| ());
    }

    /// Carries out what a dispatch and the change before it require. Called with no lock held.
    #[inline]
    pub(crate) fn run_deferred(&self, dispatched: Dispatched<In, T, E>, wakes: Wakes) {
        match dispatched {
            None => self.run_wakes(wakes),
            Some(released) => self.run_released(released, wakes),
        }
    }

    #[inline(never)]
    fn run_released(&self, released: Released<ScheduledJob<In, T, E>>, wakes: Wakes) {
        let Released {
            first,
            more,
            expired,
            cost_exceeds_limit,
        } = released;
        if let Some((job, record_id)) = first {
            let job = job.into_queued(Some(record_id));
            if more.is_empty() {
                self.push(job);
            } else {
                let more = more.into_iter();
                let more = more.map(|(job, record_id)| job.into_queued(Some(record_id)));
                self.push_many(std::iter::once(job).chain(more));
            }
            self.check_stopped();
            if self.has_worker_left.load(Ordering::SeqCst) {
                self.return_surplus();
            }
        }
        self.run_wakes(wakes);
        if !(expired.is_empty() && cost_exceeds_limit.is_empty()) {
            let expired = expired
                .into_iter()
                .map(|removed| (removed, JobError::TimedOut(TimeLimit::Job)));
            let cost_exceeds_limit = cost_exceeds_limit.into_iter();
            let cost_exceeds_limit = cost_exceeds_limit.map(|(removed, cost, max_cost)| {
                (removed, JobError::CostExceedsLimit { cost, max_cost })
            });
            self.complete_given_up(expired.chain(cost_exceeds_limit).collect());
        }
    }

    /// Completes jobs that were given up.
    ///
    /// Each completion dispatches, which may give up more jobs. A nested call leaves these to the
    /// outer call on this thread; otherwise calls would nest as deeply as there are jobs. No user
    /// code unwinds through it.
    #[cold]
    fn complete_given_up(&self, given_up: VecDeque<GivenUp<In, T, E>>) {
        let thread = std::thread::current().id();
        if !self.lock().given_up_jobs.add(thread, given_up) {
            return;
        }
        // Terminates: each job is given up once.
        loop {
            let next = self.lock().given_up_jobs.next(thread);
            let Some((removed, error)) = next else { break };
            self.complete_removed(removed, error);
        }
    }

    /// The part of [`start_job`](Self::start_job) for a pool that has a schedule. `None`: the job
    /// may not start yet.
    #[inline(never)]
    pub(super) fn start_scheduled(
        &self,
        synced: &mut Synced<In, T, E>,
        slot: usize,
        mut active_job: ActiveJob,
        reading: Option<Reading>,
        wakes: &mut Wakes,
    ) -> Option<ScheduledStart> {
        let occupancy = occupancy_of(synced);
        let scheduler = synced.scheduler.as_mut()?;
        let now = self.advance_clock_in(slot, scheduler, reading);
        let Scheduler {
            schedule,
            timer_role,
        } = &mut **scheduler;
        let record_id = active_job
            .record_id
            .filter(|record_id| schedule.is_released(*record_id, active_job.id.as_u64()))?;
        if !schedule.may_still_start(record_id, occupancy, now)
            || schedule.is_overtaken(record_id, now)
        {
            return None;
        }
        let history = schedule.start(record_id, occupancy, now);
        // This start may have moved `wake_at` to an earlier time.
        timer_role.dispatch(schedule.wake_at(), wakes);
        let started_at = reading
            .map(|reading| reading.at)
            .or_else(|| schedule.instant(now));
        if let Some(history) = &history {
            active_job.attempts = history.attempts.saturating_add(1);
            active_job.counts_as_retry = true;
        } else if let Some(account) = &mut synced.account {
            account.earn();
        }
        synced.running.start_scheduled(slot, active_job, started_at);
        Some(ScheduledStart {
            started_at,
            history,
        })
    }

    /// The part of [`finish_job`](Self::finish_job) for a pool that has a schedule.
    #[inline(never)]
    pub(super) fn finish_scheduled(
        &self,
        synced: &mut Synced<In, T, E>,
        slot: usize,
        reading: Option<Reading>,
        wakes: &mut Wakes,
    ) -> Dispatched<In, T, E> {
        let record_id = synced.running.finish_scheduled(slot);
        if let Some(scheduler) = &mut synced.scheduler {
            let now = self.advance_clock_in(slot, scheduler, reading);
            if let Some(record_id) = record_id {
                scheduler.schedule.finish(record_id, now);
            }
        }
        synced.dispatch(wakes)
    }

    /// The number of attempts of a queued job.
    pub(crate) fn attempts(&self, entry: &QueuedJob<In, T, E>) -> u32 {
        self.attempts_of(entry.record_id(), entry.id())
    }

    pub(crate) fn attempts_of(&self, record_id: Option<RecordId>, id: JobId) -> u32 {
        let Some(record_id) = record_id else { return 0 };
        let synced = self.lock();
        let scheduler = synced.scheduler.as_ref();
        scheduler.map_or(0, |scheduler| {
            scheduler.schedule.attempts(record_id, id.as_u64())
        })
    }

    /// Removes the scheduled jobs of which `will_not_run` is true, except released ones.
    pub(super) fn unschedule(
        &self,
        will_not_run: impl Fn(&ScheduledJob<In, T, E>) -> bool,
    ) -> Vec<Removed<ScheduledJob<In, T, E>>> {
        // Jobs behind them may start now.
        self.update_schedule(|scheduler| {
            let now = scheduler.schedule.now();
            scheduler.schedule.remove_where(now, will_not_run)
        })
        .unwrap_or_default()
    }
}

impl<In, T, E> Synced<In, T, E> {
    /// Releases the jobs that may start now and updates the timer role, if there is a schedule.
    pub(super) fn dispatch(&mut self, wakes: &mut Wakes) -> Dispatched<In, T, E> {
        let occupancy = occupancy_of(self);
        let dispatched = self.scheduler.as_mut().map(|scheduler| {
            let mut released = Released::new();
            let Scheduler {
                schedule,
                timer_role,
            } = &mut **scheduler;
            if self.admission.pool_state() < PoolState::Aborted {
                schedule.release(schedule.now(), occupancy, &mut released);
            } else {
                schedule.stop();
            }
            if schedule.take_step_back() {
                timer_role.distrust_alarm();
            }
            timer_role.dispatch(schedule.wake_at(), wakes);
            released
        });
        self.notify_blocked(wakes);
        dispatched
    }
}

pub(super) fn occupancy_of<In, T, E>(synced: &Synced<In, T, E>) -> Occupancy {
    Occupancy {
        slots: synced.admission.slots(),
        running: synced.admission.running(),
        is_closing: synced.admission.pool_state() > PoolState::Open,
    }
}
