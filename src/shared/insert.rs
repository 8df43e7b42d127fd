//! Jobs into the schedule: with the options that their input asks for, or back from a worker that
//! has not started them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use crate::error::JobError;
use crate::job::queued::{QueuedJob, ScheduledJob};
use crate::key::Key;
use crate::panic::{self, PanicMessage};
use crate::schedule::{ScheduleOptions, StartAt};

impl<In, T, E> Shared<In, T, E> {
    /// The scheduling options of a job, some by its input. Calls user closures.
    pub(crate) fn options_from_input(
        &self,
        input: &In,
        priority: i32,
        start: StartAt,
        deadline: Option<Instant>,
    ) -> Result<ScheduleOptions, PanicMessage> {
        let (mut key, mut cost): (Option<Key>, u32) = (None, 1);
        if self.key_by.is_some() || self.cost_by.is_some() {
            panic::catch(|| {
                key = self.key_by.as_ref().map(|key_by| key_by(input));
                cost = self.cost_by.as_ref().map_or(1, |cost_by| cost_by(input));
            })?;
        }
        Ok(ScheduleOptions {
            priority,
            cost,
            key,
            start,
            deadline,
        })
    }

    #[cold]
    pub(super) fn schedule_one(&self, job: QueuedJob<In, T, E>) {
        let limit = self.lock().limits.job;
        match self.options_of(&job, limit) {
            Ok(options) => self.schedule_by(options, job),
            Err(message) => self.complete_unstarted(job, JobError::Panicked(message), 0),
        }
    }

    pub(super) fn schedule_by(&self, options: ScheduleOptions, job: QueuedJob<In, T, E>) {
        self.update_schedule(|scheduler| scheduler.insert(job, options));
    }

    #[cold]
    pub(super) fn schedule_many(&self, jobs: Vec<QueuedJob<In, T, E>>) {
        let mut with_options = Vec::with_capacity(jobs.len());
        let limit = self.lock().limits.job;
        for job in jobs {
            match self.options_of(&job, limit) {
                Ok(options) => with_options.push((job, options)),
                Err(message) => self.complete_unstarted(job, JobError::Panicked(message), 0),
            }
        }
        self.update_schedule(|scheduler| {
            for (job, options) in with_options {
                scheduler.insert(job, options);
            }
        });
    }

    /// The scheduling options of a job that has none of its own. `limit` is that of the pool's
    /// jobs.
    fn options_of(
        &self,
        job: &QueuedJob<In, T, E>,
        limit: Option<Duration>,
    ) -> Result<ScheduleOptions, PanicMessage> {
        match job {
            QueuedJob::Stream(job) => {
                let deadline = limit.and_then(|limit| job.accepted_at?.checked_add(limit));
                self.options_from_input(&job.input, job.stream.priority(), StartAt::Now, deadline)
            }
            QueuedJob::Handle(_) => Ok(Self::default_options(job)),
        }
    }

    /// The options of a job that was accepted before there was a schedule: there was neither a
    /// closure nor a limit then.
    pub(super) fn default_options(job: &QueuedJob<In, T, E>) -> ScheduleOptions {
        let priority = match job {
            QueuedJob::Stream(job) => job.stream.priority(),
            QueuedJob::Handle(_) => 0,
        };
        ScheduleOptions {
            cost: 1,
            priority,
            ..ScheduleOptions::default()
        }
    }

    /// Makes a job wait in the schedule again that a worker has taken and not started.
    #[cold]
    pub(crate) fn return_to_schedule(&self, job: QueuedJob<In, T, E>) {
        let handle = match &job {
            QueuedJob::Handle(handle) => Some(Arc::clone(handle)),
            QueuedJob::Stream(_) => None,
        };
        if handle
            .as_ref()
            .is_some_and(|handle| self.remove_if_decided(handle))
        {
            return;
        }
        let (id, record_id, stream) = (job.id().as_u64(), job.record_id(), job.stream());
        let gone = self.update_schedule(|scheduler| {
            let schedule = &mut scheduler.schedule;
            match record_id {
                Some(record_id) if schedule.is_released(record_id, id) => {
                    let now = schedule.now();
                    schedule.give_back(record_id, ScheduledJob::from(job), now);
                    None
                }
                Some(_) => Some(job),
                None => {
                    let options = Self::default_options(&job);
                    scheduler.insert(job, options);
                    None
                }
            }
        });
        if let Some(gone) = gone.flatten() {
            // Its handle has cancelled it meanwhile, so it has its outcome: this drops the rest of it.
            self.complete_unstarted(gone, JobError::Abandoned, 0);
        }
        if let Some(stream) = stream {
            self.sweep_if_cancelled(&stream);
        }
        if let Some(handle) = handle {
            self.remove_if_decided(&handle);
        }
        self.check_stopped();
    }
}
