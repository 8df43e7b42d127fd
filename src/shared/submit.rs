//! Accepts jobs and puts them into the injector or the schedule.

use std::time::Instant;

use super::Shared;
use crate::error::JobError;
use crate::event::{Event, JobId};
use crate::job::current::CurrentJob;
use crate::job::queued::{Batch, QueuedJob};
use crate::policy::limits::Limits;
use crate::queue::admission::{Origin, Refusal};
use crate::queue::injector::Split as _;
use crate::schedule::ScheduleOptions;

impl<In, T, E> Shared<In, T, E> {
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
    pub(super) fn push(&self, entry: QueuedJob<In, T, E>) {
        if let Err(entry) = self.injector.push(entry) {
            self.abandon([entry]);
        }
    }

    /// The same for several.
    pub(super) fn push_many(&self, entries: impl Iterator<Item = QueuedJob<In, T, E>>) {
        if let Err(entries) = self.injector.push_many(entries) {
            self.abandon(entries);
        }
    }
}
