//! Invariants that the simulator checks after each step (feature `testing`), without changing
//! anything; and what it does to a job that only the schedule knows.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Shared;
use super::dispatch::{Scheduler, occupancy_of};
use crate::event::JobId;
use crate::job::handle_state::HandleState;
use crate::job::queued::{QueuedJob, ScheduledJob};
use crate::policy::limits::TimeLimits;
use crate::queue::admission::PoolState;
use crate::schedule::clock::Tick;

/// What is known of a job without an outcome.
#[derive(Debug, Default)]
pub(crate) struct OpenJob {
    /// The limits that the job itself has. `None`: it has a handle and does not wait, so they are
    /// not known.
    pub(crate) own: Option<TimeLimits>,
    /// The attempt that runs.
    pub(crate) attempt: Option<OpenAttempt>,
}

/// Tells the attempts of one job apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenAttempt {
    pub(crate) slot: usize,
    pub(crate) number: u32,
    pub(crate) since: Option<Instant>,
}

impl OpenJob {
    /// A job of a map or group, which has no limits of its own.
    const OF_STREAM: Option<TimeLimits> = Some(TimeLimits {
        attempt: None,
        job: None,
    });

    fn of_handle<In, T, E>(handle: &HandleState<In, T, E>) -> Option<TimeLimits> {
        Some(handle.times().0)
    }
}

impl<In, T, E> Shared<In, T, E> {
    /// Changes the priority of a job that has not started: the one at index `number`, modulo their
    /// number. Returns whether there is one.
    pub(crate) fn prioritise(&self, number: u32) -> bool {
        self.update_schedule(|scheduler| scheduler.schedule.prioritise(number))
            .unwrap_or_default()
    }

    /// The counts in one line, for the trace of a run that fails.
    pub(crate) fn describe_books(&self) -> String {
        let ready = self.injector.len();
        let synced = self.lock();
        let scheduler = synced.scheduler.as_ref();
        let schedule = scheduler.map_or_else(String::new, |scheduler| {
            format!(", {} in the schedule", scheduler.schedule.not_running())
        });
        format!(
            "{}, {ready} in the queue{schedule}",
            synced.admission.describe()
        )
    }

    /// Checks what holds whenever the lock is free.
    pub(crate) fn audit_now(&self) -> Result<(), String> {
        let synced = self.lock();
        synced.admission.audit()?;
        let occupied = synced.running.occupied().count();
        if occupied != synced.admission.running() {
            return Err(format!(
                "{occupied} slots are occupied, and {} jobs run",
                synced.admission.running()
            ));
        }
        let scheduler = synced.scheduler.as_ref();
        scheduler.map_or(Ok(()), |scheduler| scheduler.schedule.audit())
    }

    /// Checks what holds between two polls.
    pub(crate) fn audit(&self) -> Result<(), String> {
        /// So many cancelled jobs may be left in the queue, however few others there are.
        const FEW: usize = 64;
        self.audit_now()?;
        let ready = self.injector.len();
        let synced = self.lock();
        let queued = synced.admission.queued_total();
        if ready > 2 * queued + FEW {
            return Err(format!(
                "{ready} jobs are in the queue, of which {queued} are not cancelled"
            ));
        }
        let Some(scheduler) = &synced.scheduler else {
            return Ok(());
        };
        let waiting = scheduler.schedule.not_running();
        // A job that was on its way when the schedule was switched on is inserted when a worker
        // sends it back.
        if waiting > queued && synced.admission.pool_state() < PoolState::Aborted {
            return Err(format!(
                "the schedule knows of {waiting} jobs that wait, the admission of {queued}"
            ));
        }
        Ok(())
    }

    /// Checks what holds when nothing can happen before time passes: every worker is polled, and
    /// none was woken.
    pub(crate) fn audit_at_rest(&self) -> Result<(), String> {
        let ready = self.injector.len();
        let mut synced = self.lock();
        let occupancy = occupancy_of(&synced);
        let synced = &mut *synced;
        if synced.admission.has_stalled_waiter() {
            return Err("a future waits for room, and there is room".into());
        }
        if synced.admission.pool_state() >= PoolState::Aborted || occupancy.slots == 0 {
            return Ok(());
        }
        // With a schedule, jobs that it holds back are not in the injector.
        let queued = if synced.scheduler.is_some() {
            ready
        } else {
            synced.admission.queued_total()
        };
        if queued > 0 && occupancy.running < occupancy.slots {
            return Err(format!(
                "{queued} jobs are queued and {} slots idle",
                occupancy.slots - occupancy.running
            ));
        }
        let Some(scheduler) = &mut synced.scheduler else {
            return Ok(());
        };
        let Scheduler {
            schedule,
            timer_role,
        } = &mut **scheduler;
        let (waiting, queued) = (schedule.not_running(), synced.admission.queued_total());
        if waiting != queued && occupancy.running < occupancy.slots {
            return Err(format!(
                "the schedule knows of {waiting} jobs that wait, the admission of {queued}"
            ));
        }
        if schedule.could_start(occupancy) {
            return Err("a job could start, and is not released".into());
        }
        if !timer_role.is_held() && schedule.wake_at() != Tick::NEVER {
            return Err("no worker drives the timer".into());
        }
        if timer_role.is_held() && !timer_role.is_armed_for(schedule.wake_at()) {
            return Err("the alarm is not for the moment at which something can be done".into());
        }
        Ok(())
    }

    /// The limits of the pool.
    pub(crate) fn limits(&self) -> TimeLimits {
        self.lock().limits
    }

    /// The jobs that run or wait one by one: all jobs without an outcome if there is a schedule.
    /// None if no worker is left to end them, or if the pool is aborted.
    pub(crate) fn open_jobs(&self) -> BTreeMap<JobId, OpenJob> {
        let mut jobs: BTreeMap<JobId, OpenJob> = BTreeMap::new();
        self.injector.for_each_single(|job| {
            let own = match job {
                _ if job.will_not_run() => return,
                QueuedJob::Stream(_) => OpenJob::OF_STREAM,
                QueuedJob::Handle(handle) => OpenJob::of_handle(handle),
            };
            jobs.entry(job.id()).or_default().own = own;
        });
        let synced = self.lock();
        if synced.admission.pool_state() >= PoolState::Aborted || occupancy_of(&synced).slots == 0 {
            return BTreeMap::new();
        }
        let schedule = synced.scheduler.iter().map(|scheduler| &scheduler.schedule);
        for (number, job) in schedule.flat_map(|schedule| schedule.jobs()) {
            let open = jobs.entry(JobId(number)).or_default();
            match job {
                None => {}
                Some(ScheduledJob::Stream(_)) => open.own = OpenJob::OF_STREAM,
                Some(ScheduledJob::Handle(handle)) => open.own = OpenJob::of_handle(handle),
            }
        }
        for (slot, active_job) in synced.running.occupied() {
            let open = jobs.entry(active_job.id).or_default();
            if active_job.stream.is_some() {
                open.own = OpenJob::OF_STREAM;
            }
            open.attempt = Some(OpenAttempt {
                slot,
                number: active_job.attempts,
                since: synced.running.since(slot),
            });
        }
        jobs
    }

    /// Checks what holds when the pool has ended, its workers have left, and no future waits for
    /// it.
    pub(crate) fn audit_at_end(&self) -> Result<(), String> {
        let synced = self.lock();
        synced.admission.audit_at_end()?;
        if let Some(scheduler) = &synced.scheduler {
            scheduler.schedule.audit_at_end()?;
            if scheduler.timer_role.is_held() {
                return Err("a worker that has left drives the timer".into());
            }
        }
        if synced.running.has_waits() {
            return Err("a wait of a job for its own pool is left".into());
        }
        let wakers = self
            .cancel_flags
            .allocated(0..self.slot_count())
            .filter(|cancel_flag| cancel_flag.waker().is_some())
            .count();
        if wakers > 0 {
            return Err(format!("{wakers} wakers of workers are left"));
        }
        Ok(())
    }
}
