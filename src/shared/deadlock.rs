//! Deadlock detection.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::{Shared, Synced};
use crate::job::completion_queue::CompletionQueue;
use crate::job::current::{self, CurrentJob};
use crate::job::handle_state::HandleState;

impl<In, T, E> Shared<In, T, E> {
    /// Says whether the caller may wait for this pool, and keeps the mark of the wait up to date.
    ///
    /// Outside the pool's jobs it always may. Inside, it may not if every slot would then wait.
    pub(crate) fn register_wait(
        self: &Arc<Self>,
        mark: &mut Option<WaitGuard<In, T, E>>,
        cx: &Context<'_>,
        what: impl FnOnce() -> Wait<In, T, E>,
    ) -> bool {
        let Some(place) = current::find(self.identity()) else {
            *mark = None;
            return true;
        };
        // The waker of what waits, which may be another than that of the job.
        let mut waker = cx.waker().clone();
        let is_known = mark
            .as_ref()
            .filter(|mark| mark.place == place)
            .is_some_and(|mark| {
                let mut state = self.lock();
                let waiting = state.running.wait_mut(mark.number);
                waiting
                    .map(|waiting| std::mem::swap(&mut waiting.waker, &mut waker))
                    .is_some()
            });
        if !is_known {
            *mark = None;
            let waiting = Waiting {
                what: what(),
                waker,
            };
            let number = self
                .lock()
                .running
                .begin_wait(place.slot, place.id, waiting);
            *mark = Some(WaitGuard {
                shared: Arc::clone(self),
                place,
                number,
            });
        }
        let is_deadlocked = self.is_deadlocked();
        if is_deadlocked {
            *mark = None;
        }
        !is_deadlocked
    }

    /// Whether everything that runs waits for the pool, none of these waits is over, and nothing
    /// else can start.
    ///
    /// Looked at without the lock: while that is so, only somebody outside can end a wait
    /// meanwhile.
    fn is_deadlocked(&self) -> bool {
        let waits: Vec<(usize, Wait<In, T, E>)> = {
            let state = self.lock();
            if !state.is_blocked() {
                return false;
            }
            state
                .running
                .waiting()
                .map(|(slot, waiting)| (slot, waiting.what.clone()))
                .collect()
        };
        // A job that is interrupted is about to leave its slot.
        waits.iter().all(|(slot, what)| {
            !what.is_over(self) && self.cancel_flags[*slot].interrupted().is_none()
        })
    }
}

impl<In, T, E> Synced<In, T, E> {
    /// Whether all jobs that run wait for the pool, and no other can start: since every slot is
    /// held, or since their keys let none start.
    pub(super) fn is_blocked(&self) -> bool {
        let (slots, blocked) = (self.admission.slots(), self.running.blocked());
        if blocked == 0 {
            return false;
        }
        match &self.schedule {
            None => self.running.is_blocked(slots),
            Some(schedule) => {
                blocked >= self.admission.running()
                    && (blocked >= slots.min(schedule.allowed())
                        || schedule.is_deadlocked(self.admission.queued_total()))
            }
        }
    }

    /// Those to wake so that they find that they would wait for ever, if it is so.
    pub(super) fn blocked(&self) -> Vec<Waker> {
        if self.is_blocked() {
            self.running
                .waiting()
                .map(|(_, waiting)| waiting.waker.clone())
                .collect()
        } else {
            Vec::new()
        }
    }
}

/// A wait of a job for its own pool.
pub(crate) struct Waiting<In, T, E> {
    what: Wait<In, T, E>,
    /// `ReadyList` when a worker leaves: the wait may have become one without end.
    waker: Waker,
}

/// What a job waits for inside its own pool.
pub(crate) enum Wait<In, T, E> {
    /// The outcome of a job.
    Handle(Arc<HandleState<In, T, E>>),
    /// A completion of a map or group.
    Stream(Arc<CompletionQueue<In, T, E>>),
    /// `AcquirePermit` in the queue, with the number in the line.
    AcquirePermit(u64),
}

impl<In, T, E> Wait<In, T, E> {
    /// Whether it is over, though the job may not have noticed, or about to be over.
    fn is_over(&self, shared: &Shared<In, T, E>) -> bool {
        match self {
            Self::Handle(cell) => shared.is_decided(cell),
            Self::Stream(stream) => stream.is_fed(),
            Self::AcquirePermit(number) => !shared.lock().admission.is_in_line(*number),
        }
    }
}

impl<In, T, E> Clone for Wait<In, T, E> {
    fn clone(&self) -> Self {
        match self {
            Self::Handle(cell) => Self::Handle(Arc::clone(cell)),
            Self::Stream(stream) => Self::Stream(Arc::clone(stream)),
            Self::AcquirePermit(number) => Self::AcquirePermit(*number),
        }
    }
}

/// A job that waits for its own pool; dropping it ends the wait.
pub(crate) struct WaitGuard<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    place: CurrentJob,
    number: u64,
}

impl<In, T, E> Drop for WaitGuard<In, T, E> {
    fn drop(&mut self) {
        let what = self.shared.lock().running.end_wait(self.number);
        drop(what);
    }
}
