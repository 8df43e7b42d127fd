//! How the shared state follows one job: `start_job` when a worker takes it, `finish_job` when it
//! has run, `finish_unstarted` when it gets its outcome without having run. Between two attempts,
//! `requeue_job` takes the place of `finish_job`.
//!
//! With a local queue, its tally may record a start in place of `start_job`, or a success in place of
//! `finish_job`; `Admission::record` counts them. A job whose start was tallied may end by
//! `finish_job`, and the reverse.

use std::time::Instant;

use super::{Shared, Synced};
use crate::event::{Event, JobId, Outcome};
use crate::panic;
use crate::policy::limits::TimeLimits;
use crate::policy::retry::History;
use crate::queue::StreamId;
use crate::queue::admission::{Origin, PoolState, Wakes};
use crate::queue::running::ActiveJob;
use crate::schedule::RecordId;

impl<In, T, E> Synced<In, T, E> {
    /// Removes a job from what an abort has interrupted, if it ended by itself: the report does not
    /// name it then.
    pub(super) fn remove_interrupted(&mut self, id: JobId, outcome: Outcome) {
        if outcome != Outcome::Cancelled && !self.interrupted.is_empty() {
            self.interrupted.retain(|job| job.id != id);
        }
    }

    /// Counts a map's extra job (see `queue::admission`) as an ordinary one, before it leaves the
    /// queue: the map may queue another one.
    #[inline]
    pub(super) fn absorb_extra(
        &mut self,
        origin: Origin,
        stream: Option<StreamId>,
        wakes: &mut Wakes,
    ) {
        if let (Origin::Extra, Some(stream)) = (origin, stream) {
            self.admission.absorb_extra(stream, wakes);
        }
    }

    /// Counts a queued job as running.
    #[inline]
    fn move_to_running(&mut self, origin: Origin, stream: Option<StreamId>, wakes: &mut Wakes) {
        self.absorb_extra(origin, stream, wakes);
        self.admission.start(origin, wakes);
    }
}

impl<In, T, E> Shared<In, T, E> {
    /// Moves a job from queued to running, unless the pool is aborted or the schedule holds the job
    /// back. Returns the limits of the pool and what the schedule knows of the job. The caller
    /// runs the wakes, with no lock held.
    ///
    /// Invariant: once a job is started, the cancel flag of its slot holds no request for an
    /// earlier job, and `interrupt_stream` and `begin_abort` find the job in `running`.
    #[inline(always)]
    pub(crate) fn start_job(
        &self,
        slot: usize,
        origin: Origin,
        active_job: ActiveJob,
        wakes: &mut Wakes,
    ) -> Result<(TimeLimits, ScheduledStart), NotStarted> {
        let reading = self.reading();
        let mut synced = self.lock();
        if synced.admission.pool_state() >= PoolState::Aborted {
            return Err(NotStarted::Aborted);
        }
        self.cancel_flags[slot].clear();
        if synced.scheduler.is_some() {
            let stream = active_job.stream;
            let scheduled_start = self
                .start_scheduled(&mut synced, slot, active_job, reading, wakes)
                .ok_or(NotStarted::Held)?;
            synced.move_to_running(origin, stream, wakes);
            return Ok((synced.limits, scheduled_start));
        }
        synced.move_to_running(origin, active_job.stream, wakes);
        synced.running.start(slot, active_job);
        Ok((synced.limits, ScheduledStart::NONE))
    }

    /// Removes a job from its slot and counts its outcome.
    pub(crate) fn finish_job(&self, slot: usize, id: JobId, outcome: Outcome, attempts: u32) {
        let reading = self.reading();
        let mut wakes = Wakes::default();
        let mut synced = self.lock();
        synced.remove_interrupted(id, outcome);
        synced.admission.finish(outcome, &mut wakes);
        let dispatched = if synced.scheduler.is_some() {
            self.finish_scheduled(&mut synced, slot, reading, &mut wakes)
        } else {
            synced.running.finish(slot);
            None
        };
        drop(synced);
        self.observe(|| Event::Finished {
            job: id,
            outcome,
            attempts,
        });
        self.run_deferred(dispatched, wakes);
    }

    /// Counts the outcome of a job that is queued, and removes it from the schedule.
    pub(super) fn finish_unstarted(&self, job: DequeuedJob, outcome: Outcome, attempts: u32) {
        let DequeuedJob {
            id,
            origin,
            record_id,
            stream,
        } = job;
        let reading = self.reading();
        let mut wakes = Wakes::default();
        let (removed, dispatched) = {
            let mut synced = self.lock();
            synced.absorb_extra(origin, stream, &mut wakes);
            synced.admission.finish_queued(origin, outcome, &mut wakes);
            let removed = synced.scheduler.as_mut().map(|scheduler| {
                let now = self.advance_clock(scheduler, reading);
                record_id.map(|record_id| scheduler.schedule.remove(record_id, id.as_u64(), now))
            });
            (removed, synced.dispatch(&mut wakes))
        };
        self.observe(|| Event::Finished {
            job: id,
            outcome,
            attempts,
        });
        removed.map(panic::discard);
        self.run_deferred(dispatched, wakes);
    }
}

/// What the shared state knows of a job that leaves the queue without having started.
#[derive(Debug, Clone, Copy)]
pub(super) struct DequeuedJob {
    pub(super) id: JobId,
    pub(super) origin: Origin,
    pub(super) record_id: Option<RecordId>,
    /// Its map or group.
    pub(super) stream: Option<StreamId>,
}

/// Why [`Shared::start_job`] has not started a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotStarted {
    /// The pool is aborted; the caller returns the job by `return_unstarted`.
    Aborted,
    /// The schedule has not released the job, holds it back, or has one that comes first; the
    /// caller gives it back by `return_to_schedule`.
    Held,
}

/// What the schedule knows of an attempt that starts.
#[derive(Debug)]
pub(crate) struct ScheduledStart {
    /// When this attempt started; `None` without a schedule.
    pub(crate) started_at: Option<Instant>,
    /// The attempts before this one.
    pub(crate) history: Option<Box<History>>,
}

impl ScheduledStart {
    pub(crate) const NONE: Self = Self {
        started_at: None,
        history: None,
    };

    /// The number of attempts before this one.
    #[inline]
    pub(crate) fn attempts(&self) -> u32 {
        self.history.as_ref().map_or(0, |history| history.attempts)
    }
}
