//! Submission, in two steps: `accept*` counts a job and gives it its id, or refuses it; `enqueue*`
//! puts an accepted job into the schedule if there is one, else into the injector.
//!
//! Each `enqueue*` ends with `check_stopped`, so a job that is enqueued after an abort, or after
//! the last worker has left, gets its outcome all the same.

use std::time::Instant;

use super::{Shared, Synced};
use crate::error::JobError;
use crate::event::{Event, JobId};
use crate::job::current::CurrentJob;
use crate::job::queued::{Batch, QueuedJob};
use crate::policy::limits::TimeLimits;
use crate::queue::admission::{Origin, Refusal};
use crate::queue::injector::Split as _;
use crate::schedule::ScheduleOptions;

/// A job that was accepted and is not enqueued yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accepted {
    pub(crate) id: JobId,
    pub(crate) origin: Origin,
    /// The limits of the pool at that time.
    pub(crate) limits: TimeLimits,
}

impl<In, T, E> Synced<In, T, E> {
    fn accept(&mut self, origin: Origin) -> Result<Accepted, Refusal> {
        let id = self.admission.accept(origin)?;
        Ok(Accepted {
            id,
            origin,
            limits: self.limits,
        })
    }
}

impl<In, T, E> Shared<In, T, E> {
    /// Returns the current time if timings or a job time-out need the time of acceptance.
    pub(crate) fn acceptance_time(&self, limits: TimeLimits) -> Option<Instant> {
        (self.timings || limits.job.is_some()).then(|| self.timer.now())
    }

    /// Accepts a job now, or refuses it.
    pub(crate) fn accept(&self, origin: Origin) -> Result<Accepted, Refusal> {
        self.lock().accept(origin)
    }

    /// Releases a reserved permit.
    pub(crate) fn release_permit(&self) {
        let wakes = self.lock().admission.release();
        self.run_wakes(wakes);
    }

    /// Accepts a job that a running job adds, as long as `parent` runs. Both are checked under one
    /// lock, so the map or group of the parent cannot end in between.
    pub(crate) fn accept_child(&self, parent: CurrentJob) -> Result<Accepted, Refusal> {
        let mut synced = self.lock();
        if !synced.running.is_running(parent.slot, parent.id) {
            return Err(Refusal::Closed);
        }
        synced.accept(Origin::Child)
    }

    /// Accepts a job that `parent` adds, or one from outside if there is none.
    pub(crate) fn accept_from(&self, parent: Option<CurrentJob>) -> Result<Accepted, Refusal> {
        parent.map_or_else(
            || self.accept(Origin::Outside),
            |parent| self.accept_child(parent),
        )
    }

    /// Enqueues an accepted job.
    pub(crate) fn enqueue(&self, job: QueuedJob<In, T, E>) {
        self.observe(|| Event::Accepted { job: job.id() });
        if self.is_scheduled() {
            self.schedule_one(job);
        } else {
            self.push(job);
        }
        self.check_stopped();
    }

    /// Enqueues an accepted job that has options of its own. Without a schedule, none of them
    /// matters.
    pub(crate) fn enqueue_with(&self, options: ScheduleOptions, job: QueuedJob<In, T, E>) {
        self.observe(|| Event::Accepted { job: job.id() });
        if self.is_scheduled() {
            self.schedule_by(options, job);
        } else {
            self.push(job);
        }
        self.check_stopped();
    }

    /// Completes an accepted job with `error` instead of enqueuing it.
    pub(crate) fn fail_accepted(&self, job: QueuedJob<In, T, E>, error: JobError<E>) {
        self.observe(|| Event::Accepted { job: job.id() });
        self.complete_unstarted(job, error, 0);
    }

    /// Enqueues accepted jobs together.
    pub(crate) fn enqueue_many(&self, jobs: Vec<QueuedJob<In, T, E>>) {
        for job in &jobs {
            self.observe(|| Event::Accepted { job: job.id() });
        }
        if self.is_scheduled() {
            self.schedule_many(jobs);
        } else {
            self.push_many(jobs.into_iter());
        }
        self.check_stopped();
    }

    /// Enqueues a batch of accepted jobs of one map.
    pub(crate) fn enqueue_batch(&self, batch: Batch<In, T, E>) {
        if self.is_scheduled() {
            self.schedule_many(batch.into_jobs().collect());
        } else if let Err(batch) = self.injector.push_batch(batch) {
            self.abandon_all(batch.into_jobs());
        }
        self.check_stopped();
    }

    /// Pushes a job into the injector; abandons it if the injector is closed.
    pub(super) fn push(&self, job: QueuedJob<In, T, E>) {
        if let Err(job) = self.injector.push(job) {
            self.abandon(job);
        }
    }

    /// Pushes several jobs into the injector; abandons them if the injector is closed.
    pub(super) fn push_many(&self, jobs: impl Iterator<Item = QueuedJob<In, T, E>>) {
        if let Err(jobs) = self.injector.push_many(jobs) {
            self.abandon_all(jobs);
        }
    }
}
