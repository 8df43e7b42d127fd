//! Jobs into the schedule: with the options that their input asks for, or back from a worker that has
//! not started them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use crate::error::JobError;
use crate::job::queued::{QueuedJob, ScheduledJob};
use crate::key::Key;
use crate::panic::{self, PanicMessage};
use crate::schedule::{ScheduleOptions, Start};

impl<In, T, E> Shared<In, T, E> {
    /// The scheduling options of a job, some by its input. Calls user closures.
    pub(crate) fn options_from_input(
        &self,
        input: &In,
        priority: i32,
        start: Start,
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
    pub(super) fn schedule_one(&self, entry: QueuedJob<In, T, E>) {
        let limit = self.lock().limits.job;
        match self.options_of(&entry, limit) {
            Ok(options) => self.schedule_by(options, entry),
            Err(message) => self.complete_unstarted(entry, JobError::Panicked(message), 0),
        }
    }

    pub(super) fn schedule_by(&self, options: ScheduleOptions, entry: QueuedJob<In, T, E>) {
        self.update_schedule(|scheduler| scheduler.insert(entry, options));
    }

    #[cold]
    pub(super) fn schedule_many(&self, entries: Vec<QueuedJob<In, T, E>>) {
        let mut jobs = Vec::with_capacity(entries.len());
        let limit = self.lock().limits.job;
        for entry in entries {
            match self.options_of(&entry, limit) {
                Ok(options) => jobs.push((entry, options)),
                Err(message) => self.complete_unstarted(entry, JobError::Panicked(message), 0),
            }
        }
        self.update_schedule(|scheduler| {
            for (entry, options) in jobs {
                scheduler.insert(entry, options);
            }
        });
    }

    /// The scheduling options of a job that has none of its own. `limit` is that of the pool's jobs.
    fn options_of(
        &self,
        entry: &QueuedJob<In, T, E>,
        limit: Option<Duration>,
    ) -> Result<ScheduleOptions, PanicMessage> {
        match entry {
            QueuedJob::Stream(job) => {
                let deadline = limit.and_then(|limit| job.accepted_at?.checked_add(limit));
                self.options_from_input(&job.input, job.stream.priority(), Start::Now, deadline)
            }
            QueuedJob::Handle(_) => Ok(Self::default_options(entry)),
        }
    }

    /// The options of a job that was on its way when the schedule was switched on: there was
    /// neither a closure nor a limit then.
    pub(super) fn default_options(entry: &QueuedJob<In, T, E>) -> ScheduleOptions {
        let priority = match entry {
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
    pub(crate) fn return_to_schedule(&self, entry: QueuedJob<In, T, E>) {
        let handle = match &entry {
            QueuedJob::Handle(handle) => Some(Arc::clone(handle)),
            QueuedJob::Stream(_) => None,
        };
        if handle
            .as_ref()
            .is_some_and(|handle| self.remove_if_dead(handle))
        {
            return;
        }
        let (id, record_id, stream) = (entry.id().as_u64(), entry.record_id(), entry.stream());
        let gone = self.update_schedule(|scheduler| {
            let schedule = &mut scheduler.schedule;
            match record_id {
                Some(record_id) if schedule.is_released(record_id, id) => {
                    let now = schedule.now();
                    schedule.give_back(record_id, ScheduledJob::from(entry), now);
                    None
                }
                Some(_) => Some(entry),
                None => {
                    let options = Self::default_options(&entry);
                    scheduler.insert(entry, options);
                    None
                }
            }
        });
        if let Some(gone) = gone.flatten() {
            // The job was cancelled meanwhile and has its outcome.
            self.complete_unstarted(gone, JobError::Abandoned, 0);
        }
        if let Some(stream) = stream {
            self.sweep_if_cancelled(&stream);
        }
        if let Some(handle) = handle {
            self.remove_if_dead(&handle);
        }
        self.check_stopped();
    }
}
