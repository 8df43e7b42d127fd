//! Connects the schedule with the shared state. The [`Schedule`] decides; this file passes it jobs
//! and the time under the lock, and carries out what it releases after unlocking.
//!
//! Each change (1) locks and passes a reading of the clock to the schedule, (2) changes it, (3)
//! calls [`dispatch`](Shared::dispatch), which releases jobs and updates the timer role, (4)
//! unlocks, (5) calls [`run_deferred`](Shared::run_deferred), which pushes the released jobs, wakes
//! tasks and completes jobs that were given up.
//! [`update_schedule`](Shared::update_schedule) does all of it.
//!
//! After an abort nothing is released and the timer is not needed. A job that is accepted before
//! and inserted after the abort, or after the last worker has left, would wait forever; so each
//! insertion is followed by `check_stopped`, which checks for that and completes the job.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::thread::ThreadId;

use super::{PriorAttempts, Shared, StartResult, Synced};
use crate::error::{JobError, TimeLimit};
use crate::event::{Event, JobId, Outcome};
use crate::job::queued::{QueuedJob, ScheduledJob};
use crate::policy::retry::History;
use crate::queue::admission::{Origin, PoolState, Wakes};
use crate::queue::running::ActiveJob;
use crate::schedule::clock::{Reading, Tick};
use crate::schedule::{Occupancy, RecordId, Released, Removed, Schedule};
use crate::sync::atomic::Ordering;

/// What has to be done once the lock is released, after a dispatch.
#[must_use = "jobs are in it"]
pub(crate) struct Deferred<In, T, E> {
    wakes: Wakes,
    released: Released<ScheduledJob<In, T, E>>,
}

/// The job, unless it is released, and the history that the schedule has removed.
type RemovedParts<In, T, E> = (Option<ScheduledJob<In, T, E>>, Option<Box<History>>);

/// A job that the schedule has given up, and its outcome.
type GivenUp<In, T, E> = (Removed<ScheduledJob<In, T, E>>, JobError<E>);

/// Jobs that were given up and have no outcome yet, by the thread that completes them. Bounded,
/// since they count as queued until then.
pub(super) struct Settling<In, T, E> {
    queues: Vec<(ThreadId, VecDeque<GivenUp<In, T, E>>)>,
}

impl<In, T, E> Settling<In, T, E> {
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

    /// A reading of the clock if there is a schedule.
    #[inline]
    pub(super) fn reading(&self) -> Option<Reading> {
        self.is_scheduled().then(|| self.look_at_clock())
    }

    pub(super) fn look_at_clock(&self) -> Reading {
        // In this order: readings that were accepted before this generation are older than the time
        // that is read next.
        let generation = self.readings.load(Ordering::SeqCst);
        Reading {
            at: self.timer.now(),
            generation,
        }
    }

    /// Passes a reading to the schedule and returns the time.
    pub(super) fn tell_time(
        &self,
        schedule: &mut Schedule<ScheduledJob<In, T, E>>,
        reading: Option<Reading>,
    ) -> Tick {
        let Some(reading) = reading else {
            return schedule.now();
        };
        let now = schedule.read(reading);
        self.readings.store(schedule.generation(), Ordering::SeqCst);
        now
    }

    /// Makes the schedule decide when jobs start, also those that are queued already. A job that is
    /// on its way into the injector or out of it is sent back when a worker is about to start it.
    pub(crate) fn switch_on_schedule(&self) {
        if self.is_scheduled() {
            return;
        }
        let start = self.timer.now();
        let switching = self
            .switching
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.is_scheduled() {
            // Another thread was faster, and has released what is in the injector.
            return;
        }
        let mut handles = Vec::new();
        // In one critical section, so that no later job starts before the jobs taken here. Lock
        // order: injector, shared state.
        let deferred = self.injector.take_all_for(|entries| {
            let mut state = self.lock_exclusive();
            let schedule = Box::new(Schedule::new(self.policy, self.cancel_flags.len(), start));
            let now = state.schedule.get_or_insert(schedule).now();
            self.is_scheduled.store(true, Ordering::SeqCst);
            let mut wakes = Wakes::default();
            state.admission.notify_of_any_room(&mut wakes);
            for entry in entries {
                if let QueuedJob::Handle(handle) = &entry {
                    handles.push(Arc::clone(handle));
                }
                let options = Self::default_options(&entry);
                self.insert(&mut state, entry, options, now);
            }
            self.dispatch(&mut state, wakes)
        });
        drop(switching);
        self.run_deferred(deferred);
        for handle in handles {
            self.remove_if_dead(&handle);
        }
        self.check_stopped();
    }

    // ---- dispatch ----

    /// Changes the schedule under the lock, dispatches, and runs the deferred work after unlocking.
    pub(super) fn update_schedule<R>(
        &self,
        change: impl FnOnce(&Self, &mut Synced<In, T, E>, Tick) -> R,
    ) -> R {
        let reading = self.reading();
        let mut state = self.lock();
        let now = match &mut state.schedule {
            Some(schedule) => self.tell_time(schedule, reading),
            None => Tick(0),
        };
        let changed = change(self, &mut state, now);
        let deferred = self.dispatch(&mut state, Wakes::default());
        drop(state);
        self.run_deferred(deferred);
        changed
    }

    /// Dispatches if there is a schedule.
    pub(super) fn dispatch_now(&self) {
        if self.is_scheduled() {
            self.update_schedule(|_, _, _| ());
        }
    }

    /// Releases the jobs that may start now and updates the timer role. `wakes` is what has to be
    /// done for the change before.
    pub(super) fn dispatch(
        &self,
        state: &mut Synced<In, T, E>,
        mut wakes: Wakes,
    ) -> Deferred<In, T, E> {
        let mut released = Released::new();
        let occupancy = occupancy_of(state);
        if let Some(schedule) = &mut state.schedule {
            if state.admission.pool_state() < PoolState::Aborted {
                schedule.release(schedule.now(), occupancy, &mut released);
            } else {
                schedule.stop();
            }
            if schedule.take_step_back() {
                state.timer_role.distrust_alarm();
            }
            state.timer_role.dispatch(schedule.next(), &mut wakes);
        }
        state.notify_blocked(&mut wakes);
        Deferred { wakes, released }
    }

    pub(crate) fn run_deferred(&self, deferred: Deferred<In, T, E>) {
        let Deferred { wakes, released } = deferred;
        let Released {
            first,
            more,
            expired,
            cost_exceeds_limit,
        } = released;
        if let Some((job, record_id)) = first {
            let job = job.release(record_id);
            if more.is_empty() {
                self.push(job);
            } else {
                self.push_many(
                    std::iter::once(job).chain(
                        more.into_iter()
                            .map(|(job, record_id)| job.release(record_id)),
                    ),
                );
            }
            self.check_stopped();
        }
        self.run_wakes(wakes);
        if !(expired.is_empty() && cost_exceeds_limit.is_empty()) {
            let expired = expired
                .into_iter()
                .map(|removed| (removed, JobError::TimedOut(TimeLimit::Job)));
            let cost_exceeds_limit = cost_exceeds_limit.into_iter();
            let cost_exceeds_limit = cost_exceeds_limit
                .map(|(removed, cost, most)| (removed, JobError::CostExceedsLimit { cost, most }));
            self.settle_given_up(expired.chain(cost_exceeds_limit).collect());
        }
    }

    /// Completes jobs that were given up.
    ///
    /// Each completion dispatches, which may give up more jobs. A nested call leaves these to the
    /// outer call on this thread; otherwise calls would nest as deeply as there are jobs. No user
    /// code unwinds through it.
    #[cold]
    fn settle_given_up(&self, given_up: VecDeque<GivenUp<In, T, E>>) {
        let thread = std::thread::current().id();
        if !self.lock().settling.add(thread, given_up) {
            return;
        }
        // Terminates: each job is given up once.
        loop {
            let next = self.lock().settling.next(thread);
            let Some((removed, error)) = next else { break };
            self.settle_removed(removed, error);
        }
    }

    /// The part of [`start_job`](Self::start_job) for a pool that has a schedule.
    #[inline(never)]
    #[expect(clippy::too_many_arguments, reason = "as those of `start_job`")]
    pub(super) fn start_scheduled(
        &self,
        state: &mut Synced<In, T, E>,
        slot: usize,
        origin: Origin,
        mut active_job: ActiveJob,
        reading: Option<Reading>,
        wakes: &mut Wakes,
        prior: &mut PriorAttempts,
    ) -> StartResult {
        let occupancy = occupancy_of(state);
        let Some(schedule) = &mut state.schedule else {
            return StartResult::NotYet;
        };
        let Some(record_id) = active_job
            .record_id
            .filter(|record_id| schedule.is_released(*record_id, active_job.id.as_u64()))
        else {
            return StartResult::NotYet;
        };
        let now = self.tell_time(schedule, reading);
        if !schedule.may_still_start(record_id, occupancy, now)
            || schedule.is_overtaken(record_id, now)
        {
            return StartResult::NotYet;
        }
        self.cancel_flags[slot].clear();
        prior.history = schedule.start(record_id, occupancy, now);
        if self.drives_timer(slot) {
            state.timer_role.note_awake();
        }
        // This start may have moved `next` to an earlier time.
        state.timer_role.dispatch(schedule.next(), wakes);
        let since = reading
            .map(|reading| reading.at)
            .or_else(|| schedule.instant(now));
        if let Some(history) = &prior.history {
            active_job.attempts = history.attempts.saturating_add(1);
            active_job.is_retry = true;
        } else if let Some(account) = &mut state.account {
            account.earn();
        }
        state.absorb_extra(origin, active_job.stream, wakes);
        state.admission.start(origin, wakes);
        state.running.start_scheduled(slot, active_job, since);
        prior.since = since;
        StartResult::Started
    }

    /// The part of [`finish_job`](Self::finish_job) for a pool that has a schedule.
    #[inline(never)]
    pub(super) fn finish_scheduled(&self, slot: usize, id: JobId, outcome: Outcome, attempts: u32) {
        let reading = self.reading();
        let mut wakes = Wakes::default();
        let deferred = {
            let mut state = self.lock();
            let state = &mut *state;
            state.remove_interrupted(id, outcome);
            if self.drives_timer(slot) {
                state.timer_role.note_awake();
            }
            let record_id = state.running.finish_scheduled(slot);
            state.admission.finish(outcome, &mut wakes);
            if let Some(schedule) = &mut state.schedule {
                let now = self.tell_time(schedule, reading);
                if let Some(record_id) = record_id {
                    schedule.finish(record_id, now);
                }
            }
            self.dispatch(state, wakes)
        };
        self.observe(|| Event::Finished {
            job: id,
            outcome,
            attempts,
        });
        self.run_deferred(deferred);
    }

    /// Removes a job, if it has a record, and dispatches. Returns the job and the history, which
    /// are dropped after unlocking.
    pub(super) fn remove_scheduled(
        &self,
        state: &mut Synced<In, T, E>,
        record_id: Option<RecordId>,
        id: JobId,
        reading: Option<Reading>,
        wakes: Wakes,
    ) -> (RemovedParts<In, T, E>, Deferred<In, T, E>) {
        let mut removed = (None, None);
        if let Some(schedule) = &mut state.schedule {
            let now = self.tell_time(schedule, reading);
            if let Some(record_id) = record_id {
                removed = schedule.remove(record_id, id.as_u64(), now);
            }
        }
        (removed, self.dispatch(state, wakes))
    }

    /// The number of attempts of a queued job.
    pub(crate) fn attempts(&self, entry: &QueuedJob<In, T, E>) -> u32 {
        self.attempts_of(entry.record_id(), entry.id())
    }

    pub(crate) fn attempts_of(&self, record_id: Option<RecordId>, id: JobId) -> u32 {
        let Some(record_id) = record_id else { return 0 };
        self.lock()
            .schedule
            .as_ref()
            .map_or(0, |schedule| schedule.attempts(record_id, id.as_u64()))
    }

    /// Removes the scheduled jobs of which `is_dead` is true, except released ones.
    pub(super) fn unschedule(
        &self,
        is_dead: impl Fn(&ScheduledJob<In, T, E>) -> bool,
    ) -> Vec<Removed<ScheduledJob<In, T, E>>> {
        if !self.is_scheduled() {
            return Vec::new();
        }
        // Jobs behind them may start now.
        self.update_schedule(|_, state, now| {
            state
                .schedule
                .as_mut()
                .map(|schedule| schedule.remove_where(now, is_dead))
                .unwrap_or_default()
        })
    }
}

pub(super) fn occupancy_of<In, T, E>(state: &Synced<In, T, E>) -> Occupancy {
    Occupancy {
        slots: state.admission.slots(),
        running: state.admission.running(),
        is_closing: state.admission.pool_state() > PoolState::Open,
    }
}
