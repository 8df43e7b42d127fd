//! How the shared state follows one job: `start_job` when a worker takes it, `finish_job` when it
//! has run, `finish_unstarted` when it gets its outcome without having run. Between two attempts,
//! `requeue` takes the place of `finish_job`.
//!
//! A job that starts from a local queue and succeeds in its first poll passes none of these: the
//! tally of the local queue records it, and `Admission::record` counts it.

use std::time::Instant;

use super::{Shared, Synced};
use crate::event::{Event, JobId, Outcome};
use crate::panic;
use crate::policy::limits::Limits;
use crate::policy::retry::History;
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

    /// Counts a job that was queued beyond the capacity as an ordinary one, before it leaves the
    /// queue: its map may queue another one.
    #[inline]
    pub(super) fn absorb_extra(
        &mut self,
        origin: Origin,
        stream: Option<usize>,
        wakes: &mut Wakes,
    ) {
        if let (Origin::Extra, Some(stream)) = (origin, stream) {
            self.admission.absorb_extra(stream, wakes);
        }
    }

    /// Moves a job from queued to running.
    #[inline]
    fn start(&mut self, slot: usize, origin: Origin, active_job: ActiveJob, wakes: &mut Wakes) {
        self.absorb_extra(origin, active_job.stream, wakes);
        self.admission.start(origin, wakes);
        self.running.start(slot, active_job);
    }
}

impl<In, T, E> Shared<In, T, E> {
    /// Moves a job from queued to running, unless the pool is aborted or the schedule holds the job
    /// back. Sets `limits` to those of the pool and, with a schedule, fills in `prior`. The caller
    /// passes `wakes` to `run_wakes`.
    ///
    /// Invariant: once a job is started, the cancel flag of its slot holds no request for an
    /// earlier job, and `interrupt_stream` and `begin_abort` find the job in `running`.
    #[inline(always)]
    pub(crate) fn start_job(
        &self,
        slot: usize,
        origin: Origin,
        active_job: ActiveJob,
        limits: &mut Limits,
        wakes: &mut Wakes,
        prior: &mut PriorAttempts,
    ) -> StartResult {
        let reading = self.reading();
        let mut state = self.lock();
        if state.admission.pool_state() >= PoolState::Aborted {
            return StartResult::Aborted;
        }
        if state.schedule.is_some() {
            *limits = state.limits;
            return self
                .start_scheduled(&mut state, slot, origin, active_job, reading, wakes, prior);
        }
        self.cancel_flags[slot].clear();
        state.start(slot, origin, active_job, wakes);
        *limits = state.limits;
        StartResult::Started
    }

    /// Removes a job from its slot and counts its outcome.
    pub(crate) fn finish_job(&self, slot: usize, id: JobId, outcome: Outcome, attempts: u32) {
        let mut wakes = Wakes::default();
        {
            let mut state = self.lock();
            if state.schedule.is_some() {
                drop(state);
                return self.finish_scheduled(slot, id, outcome, attempts);
            }
            state.remove_interrupted(id, outcome);
            state.running.finish(slot);
            state.admission.finish(outcome, &mut wakes);
        }
        self.observe(|| Event::Finished {
            job: id,
            outcome,
            attempts,
        });
        self.run_wakes(wakes);
    }

    /// Counts the outcome of a job that is queued, and removes it from the schedule.
    pub(crate) fn finish_unstarted(
        &self,
        origin: Origin,
        id: JobId,
        outcome: Outcome,
        record_id: Option<RecordId>,
        attempts: u32,
        stream: Option<usize>,
    ) {
        let reading = self.reading();
        let (removed, deferred) = {
            let mut state = self.lock();
            let mut wakes = Wakes::default();
            state.absorb_extra(origin, stream, &mut wakes);
            state.admission.finish_queued(origin, outcome, &mut wakes);
            self.remove_scheduled(&mut state, record_id, id, reading, wakes)
        };
        self.observe(|| Event::Finished {
            job: id,
            outcome,
            attempts,
        });
        drop(removed.0);
        panic::discard(removed.1);
        self.run_deferred(deferred);
    }
}

/// What [`Shared::start_job`] decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartResult {
    Started,
    /// The pool is aborted; the caller returns the job by `return_unstarted`.
    Aborted,
    /// The schedule has not released the job, holds it back, or has one that comes first; the
    /// caller gives it back by `return_to_schedule`.
    NotYet,
}

/// What the schedule knows of a job that starts.
#[derive(Debug)]
pub(crate) struct PriorAttempts {
    /// When the job started, if the clock was read.
    pub(crate) since: Option<Instant>,
    /// History of its attempts so far.
    pub(crate) history: Option<Box<History>>,
}

impl PriorAttempts {
    pub(crate) const NONE: Self = Self {
        since: None,
        history: None,
    };

    /// Number of attempts made so far.
    #[inline]
    pub(crate) fn attempts(&self) -> u32 {
        self.history.as_ref().map_or(0, |history| history.attempts)
    }
}
