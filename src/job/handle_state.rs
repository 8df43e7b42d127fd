//! The state of a job with a handle: its input until it starts, its result once it has ended.
//!
//! In: phases set by workers and cancellations. Out: the result, to the handle. It never changes
//! the pool: `Shared` records each change there.

use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Instant;

use crate::error::JobError;
use crate::event::JobId;
use crate::panic;
use crate::policy::limits::TimeLimits;
use crate::queue::admission::Origin;
use crate::schedule::RecordId;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, MutexGuard, ignore_poison};

/// The state of a job with a handle. Its lock decides which outcome is the only one.
pub(crate) struct HandleState<In, T, E> {
    pub(crate) id: JobId,
    /// Boxed, since only jobs with limits or timings have one.
    times: Option<Box<Times>>,
    /// How many attempts were made. Written before the outcome, under the lock.
    attempts: AtomicU32,
    /// The job's record in the schedule, or 0. Written under the shared lock. The schedule checks
    /// whether the record is still this job's.
    record_id: AtomicU32,
    state: Mutex<HandleInner<In, T, E>>,
}

/// The limits and the acceptance time of a job with a handle.
struct Times {
    /// Without a limit for attempts, the pool's limit at the start of each applies.
    limits: TimeLimits,
    accepted_at: Option<Instant>,
}

pub(crate) struct HandleInner<In, T, E> {
    pub(crate) phase: Phase<In, T, E>,
    pub(crate) interest: Interest,
    /// How the queued job is counted. A job that waits for a retry is counted as `Origin::Retry`.
    pub(crate) origin: Origin,
    /// The task that awaits the handle.
    waker: Option<Waker>,
}

/// What is left to be told of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Its result: it has a handle.
    Result,
    /// When it has ended: its handle has become a `Cancelling`.
    End,
    /// Nothing: it never had a handle, was detached, or its handle was dropped.
    None,
}

/// Invariant: a phase is followed only by later ones, except that a retry moves from `Running` to
/// `Queued`.
pub(crate) enum Phase<In, T, E> {
    Queued(In),
    /// Runs in this slot.
    Running(usize),
    /// Has its outcome, which is not recorded yet.
    Completing,
    Done(Result<T, JobError<E>>),
    /// The result was taken, or is discarded since no handle will take it. Without interest in the
    /// job, that is so before its outcome is counted.
    Taken,
}

impl<In, T, E> HandleInner<In, T, E> {
    /// Lowers the interest in the job, since its handle is gone. Returns the handle's waker, which
    /// the caller drops once no lock is held: its drop may run any code.
    pub(crate) fn lower_interest(&mut self, interest: Interest) -> Option<Waker> {
        self.interest = interest;
        self.waker.take()
    }
}

impl<In, T, E> HandleState<In, T, E> {
    pub(crate) fn new(
        id: JobId,
        origin: Origin,
        limits: TimeLimits,
        accepted_at: Option<Instant>,
        input: In,
        interest: Interest,
    ) -> Arc<Self> {
        let state = HandleInner {
            phase: Phase::Queued(input),
            interest,
            origin,
            waker: None,
        };
        let times = (!limits.is_none() || accepted_at.is_some()).then(|| {
            Box::new(Times {
                limits,
                accepted_at,
            })
        });
        Arc::new(Self {
            id,
            times,
            attempts: AtomicU32::new(0),
            record_id: AtomicU32::new(0),
            state: Mutex::new(state),
        })
    }

    pub(crate) fn record_id(&self) -> Option<RecordId> {
        RecordId::new(self.record_id.load(Ordering::SeqCst))
    }

    pub(crate) fn set_record_id(&self, record_id: RecordId) {
        self.record_id.store(record_id.get(), Ordering::SeqCst);
    }

    /// Whether its outcome is decided, so that no worker may start it any more.
    pub(crate) fn will_not_run(&self) -> bool {
        !matches!(self.lock().phase, Phase::Queued(_) | Phase::Running(_))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, HandleInner<In, T, E>> {
        ignore_poison(self.state.lock())
    }

    /// The limits of the job itself, and when it was accepted, if it has them.
    pub(crate) fn times(&self) -> (TimeLimits, Option<Instant>) {
        let known = self.times.as_ref();
        known.map_or_else(Default::default, |times| (times.limits, times.accepted_at))
    }

    /// Takes the result if there is one; otherwise leaves the waker, in place of the last one.
    pub(crate) fn poll_result(&self, waker: &Waker) -> Poll<Result<T, JobError<E>>> {
        let mut state = self.lock();
        match std::mem::replace(&mut state.phase, Phase::Taken) {
            Phase::Done(result) => Poll::Ready(result),
            phase => {
                state.phase = phase;
                let old = state.waker.replace(waker.clone());
                drop(state);
                drop(old);
                Poll::Pending
            }
        }
    }

    /// Takes the result, if there is one.
    pub(crate) fn take_result(&self) -> Option<Result<T, JobError<E>>> {
        let mut state = self.lock();
        match std::mem::replace(&mut state.phase, Phase::Taken) {
            Phase::Done(result) => Some(result),
            phase => {
                state.phase = phase;
                None
            }
        }
    }

    /// Whether a cancelled job has ended; registers the waker if not.
    pub(crate) fn poll_cancelled(&self, waker: &Waker) -> bool {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Done(..) | Phase::Taken) {
            return true;
        }
        let old = state.waker.replace(waker.clone());
        drop(state);
        drop(old);
        false
    }

    /// Whether the outcome is known.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.lock().phase, Phase::Done(..) | Phase::Taken)
    }

    /// Stores the result and wakes the task that awaits it. Returns the result if it is not wanted.
    pub(crate) fn complete(
        &self,
        result: Result<T, JobError<E>>,
        attempts: u32,
    ) -> Option<Result<T, JobError<E>>> {
        let mut state = self.lock();
        let waker = state.waker.take();
        let (phase, unwanted) = if state.interest == Interest::Result {
            self.attempts.store(attempts, Ordering::Relaxed);
            (Phase::Done(result), None)
        } else {
            (Phase::Taken, Some(result))
        };
        state.phase = phase;
        drop(state);
        panic::wake(waker);
        unwanted
    }

    /// How many attempts were made. Valid once the outcome is known.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }
}
