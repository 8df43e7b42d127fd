//! Counts what happens to one job.

use std::time::Instant;

use super::timer::TimerNotice;
use super::{Shared, Synced};
use crate::event::{Event, JobId, Outcome};
use crate::panic;
use crate::policy::limits::Limits;
use crate::policy::retry::History;
use crate::queue::admission::{Origin, PoolState, Wakes};
use crate::queue::running::ActiveJob;
use crate::schedule::RecordId;

impl<In, T, E> Synced<In, T, E> {
    /// A job has its outcome. One that was not cancelled was faster than an abort, whose report is
    /// not to name it.
    pub(super) fn forget_interrupted(&mut self, id: JobId, outcome: Outcome) {
        if outcome != Outcome::Cancelled && !self.interrupted.is_empty() {
            self.interrupted.retain(|job| job.id != id);
        }
    }

    /// A job that is queued beyond the capacity is about to leave the queue.
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

    #[inline]
    fn book_start(
        &mut self,
        slot: usize,
        origin: Origin,
        active_job: ActiveJob,
        wakes: &mut Wakes,
    ) {
        self.absorb_extra(origin, active_job.stream, wakes);
        self.admission.start(origin, wakes);
        self.running.start(slot, active_job);
    }
}

impl<In, T, E> Shared<In, T, E> {
    /// Books the start of a job and says what limits it, and, where there is a schedule, what its
    /// prior is.
    ///
    /// Before it returns, the slot is clear of old interruptions and a new one will find the job.
    /// The caller carries out the wakes.
    #[inline(always)]
    pub(crate) fn book_start(
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
        state.book_start(slot, origin, active_job, wakes);
        *limits = state.limits;
        StartResult::Yes
    }

    pub(crate) fn book_finish(&self, slot: usize, id: JobId, outcome: Outcome, attempts: u32) {
        let mut wakes = Wakes::default();
        {
            let mut state = self.lock();
            if state.schedule.is_some() {
                drop(state);
                return self.book_scheduled_finish(slot, id, outcome, attempts);
            }
            state.forget_interrupted(id, outcome);
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

    /// Books the outcome of a job that is not running.
    pub(crate) fn book_unstarted(
        &self,
        origin: Origin,
        id: JobId,
        outcome: Outcome,
        record_id: Option<RecordId>,
        attempts: u32,
        stream: Option<usize>,
    ) {
        let reading = self.reading();
        let (wakes, forgotten, blocked) = {
            let mut state = self.lock();
            let mut wakes = Wakes::default();
            state.absorb_extra(origin, stream, &mut wakes);
            state.admission.settle_queued(origin, outcome, &mut wakes);
            let forgotten = record_id
                .map(|record_id| self.forget_scheduled(&mut state, record_id, id, reading));
            // It may have been the last one that could start without a job that waits for the pool.
            let blocked = if forgotten.is_none() {
                state.blocked()
            } else {
                Vec::new()
            };
            (wakes, forgotten, blocked)
        };
        self.observe(|| Event::Finished {
            job: id,
            outcome,
            attempts,
        });
        if let Some((job, history, deferred)) = forgotten {
            drop(job);
            panic::discard(history);
            self.run_deferred(deferred);
        }
        self.run_wakes(wakes);
        // They dispatch again and find that they would wait for ever.
        panic::wake(blocked);
    }
}

/// Whether a job starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartResult {
    Yes,
    /// The pool is aborted and starts nothing.
    Aborted,
    /// The schedule has not released it, does not let it go on, or knows of one that comes first:
    /// it goes back there.
    NotYet,
}

/// What a worker learns when the start of a scheduled job is booked.
#[derive(Debug)]
pub(crate) struct PriorAttempts {
    /// When it started, if somebody looked.
    pub(crate) since: Option<Instant>,
    /// Of former attempts.
    pub(crate) history: Option<Box<History>>,
    /// For the worker that keeps the time; to be [given](Shared::notify_timer) once no lock is held.
    pub(crate) notice: TimerNotice,
}

impl PriorAttempts {
    pub(crate) const NONE: Self = Self {
        since: None,
        history: None,
        notice: TimerNotice::NONE,
    };

    /// How many attempts were made.
    #[inline]
    pub(crate) fn attempts(&self) -> u32 {
        self.history.as_ref().map_or(0, |history| history.attempts)
    }
}
