//! The state of a job with a handle. What its changes mean for the pool, `Shared` sees to.

use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

use crate::error::JobError;
use crate::event::JobId;
use crate::panic;
use crate::policy::limits::Limits;
use crate::queue::admission::Origin;
use crate::schedule::RecordId;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// The state of a job that somebody holds a handle of. Its lock decides which outcome is the one.
pub(crate) struct HandleState<In, T, E> {
    pub(crate) id: JobId,
    /// Of a job that has limits of its own or is measured; not of the many others, which are to be
    /// small.
    times: Option<Box<Times>>,
    /// How many attempts were made; written before the outcome.
    attempts: AtomicU32,
    /// Its record in the schedule, or 0. Written under the shared state's lock; whether the record is
    /// still its own, the schedule knows.
    record_id: AtomicU32,
    state: Mutex<HandleInner<In, T, E>>,
}

/// What is known of the time of a job with a handle.
struct Times {
    /// Where it says nothing of attempts, the pool's limit at their start counts.
    limits: Limits,
    accepted_at: Option<Instant>,
}

pub(crate) struct HandleInner<In, T, E> {
    pub(crate) phase: Phase<In, T, E>,
    /// Whether no handle will take the result.
    pub(crate) is_detached: bool,
    /// As what it is counted in the queue; from its first attempt on, as one that waits for
    /// another.
    pub(crate) origin: Origin,
    /// The task that awaits the handle.
    waker: Option<Waker>,
}

/// A job moves down this list, and back only from running to queued, to be tried again.
pub(crate) enum Phase<In, T, E> {
    Queued(In),
    Running(usize),
    /// Has its outcome, which is not in the books yet.
    Settling,
    Done(Result<T, JobError<E>>),
    /// The result is with its owner, or nobody wanted it.
    Taken,
}

impl<In, T, E> HandleState<In, T, E> {
    pub(crate) fn new(
        id: JobId,
        origin: Origin,
        limits: Limits,
        accepted_at: Option<Instant>,
        input: In,
        is_detached: bool,
    ) -> Arc<Self> {
        let state = HandleInner {
            phase: Phase::Queued(input),
            is_detached,
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

    /// Whether its outcome is decided.
    pub(crate) fn is_dead(&self) -> bool {
        !matches!(self.lock().phase, Phase::Queued(_) | Phase::Running(_))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, HandleInner<In, T, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limits of the job itself, and when it was accepted, where that is known.
    pub(crate) fn times(&self) -> (Limits, Option<Instant>) {
        let known = self.times.as_ref();
        known.map_or_else(Default::default, |times| (times.limits, times.accepted_at))
    }

    /// Takes the result if there is one; else leaves the waker.
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

    /// Takes the result if there is one.
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

    /// Whether a cancelled job is over; else leaves the waker.
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

    /// Leaves the result for the handle and wakes the task that awaits it. Returns a result that no
    /// handle will take.
    pub(crate) fn complete(
        &self,
        result: Option<Result<T, JobError<E>>>,
        attempts: u32,
    ) -> Option<Result<T, JobError<E>>> {
        let mut state = self.lock();
        let waker = state.waker.take();
        let is_detached = state.is_detached;
        let (phase, unwanted) = match result {
            Some(result) if !is_detached => {
                self.attempts.store(attempts, Ordering::Relaxed);
                (Phase::Done(result), None)
            }
            // Detached since the books were closed.
            unwanted => (Phase::Taken, unwanted),
        };
        state.phase = phase;
        drop(state);
        panic::wake(waker);
        unwanted
    }

    /// How many attempts were made of a job whose outcome is known.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }
}
