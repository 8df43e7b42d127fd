//! How a map gets permits without holding one while it waits, since it may be the source of another
//! map of the same pool. [`MapWait`] waits for its source or for room, outside the wait queue;
//! [`Pull`] holds what the map may accept, within one poll.
//!
//! 1. [`MapWait::begin_pull`] allows one input to be pulled without a permit.
//! 2. [`Pull::take_permits`] takes permits for that input and others.
//! 3. [`Pull::accept`] accepts the inputs that were pulled; without a permit, the one input is
//!    queued beyond the capacity. Dropping the [`Pull`] gives the rest back.
//! 4. If there was nothing to pull or no room, [`MapWait::wait`] leaves the waker.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::Shared;
use crate::event::JobId;
use crate::panic;
use crate::policy::limits::Limits;
use crate::queue::admission::{Origin, PoolState, Refusal, Wakes};
use crate::sync::atomic::Ordering;

/// The wait of a map for its source or for room. Dropping it ends the wait.
pub(crate) struct MapWait<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    /// The identity of the map.
    map: usize,
    /// Whether the admission may have a waker of the map.
    is_waiting: bool,
    /// The waker that was left to be notified of room, and `Shared::map_notifications` before.
    room: Option<(Waker, usize)>,
}

impl<In, T, E> MapWait<In, T, E> {
    pub(crate) const fn new(shared: Arc<Shared<In, T, E>>, map: usize) -> Self {
        Self {
            shared,
            map,
            is_waiting: false,
            room: None,
        }
    }

    /// Begins to pull one input, for which no permit is needed. `None`: the map has to wait for
    /// room.
    pub(crate) fn begin_pull<'a>(
        &mut self,
        shared: &'a Arc<Shared<In, T, E>>,
    ) -> Result<Option<Pull<'a, In, T, E>>, Refusal> {
        self.room = None;
        let may_pull = shared.lock().admission.begin_pull(self.map)?;
        Ok(may_pull.then(|| Pull {
            shared,
            map: self.map,
            state: PullState::First,
        }))
    }

    /// Has the task woken when the pool closes and, if the map `wants_room`, when there is room.
    pub(crate) fn wait(&mut self, wants_room: bool, cx: &Context<'_>) {
        // Read before the waker is left, so that a notification after that is seen as a new one.
        let notifications = self.shared.map_notifications.load(Ordering::SeqCst);
        self.is_waiting = true;
        let (is_ready, wakes) = self
            .shared
            .lock()
            .admission
            .wait_as_map(self.map, wants_room, cx);
        self.shared.run_wakes(wakes);
        if is_ready {
            cx.waker().wake_by_ref();
        } else if wants_room {
            self.room = Some((cx.waker().clone(), notifications));
        }
    }

    /// Whether the task will be woken when there is room, so that it need not check before.
    pub(crate) fn is_waiting_for_room(&self, cx: &Context<'_>) -> bool {
        self.room.as_ref().is_some_and(|(waker, notifications)| {
            *notifications == self.shared.map_notifications.load(Ordering::SeqCst)
                && waker.will_wake(cx.waker())
        })
    }

    /// Ends the wait of a map that pulls no more.
    pub(crate) fn leave(&mut self) {
        drop(self.take_waker());
    }

    /// Ends the wait of a map that is cancelled, and wakes its task.
    pub(crate) fn leave_and_wake(&mut self) {
        panic::wake(self.take_waker());
    }

    fn take_waker(&mut self) -> Option<Waker> {
        self.room = None;
        if !std::mem::take(&mut self.is_waiting) {
            return None;
        }
        let (waker, wakes) = self.shared.lock().admission.cancel_map_wait(self.map);
        self.shared.run_wakes(wakes);
        waker
    }
}

impl<In, T, E> Drop for MapWait<In, T, E> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What a map holds while it pulls inputs, within one poll: the right to one input, or permits for
/// several. Dropping it gives them back.
pub(crate) struct Pull<'a, In, T, E> {
    pub(crate) shared: &'a Arc<Shared<In, T, E>>,
    map: usize,
    state: PullState,
}

#[derive(Debug, Clone, Copy)]
enum PullState {
    /// One input may be pulled without a permit.
    First,
    Permits(usize),
}

impl<In, T, E> Pull<'_, In, T, E> {
    /// Takes up to `want` permits, for the input that was pulled and for others; returns how many
    /// it has.
    pub(crate) fn take_permits(&mut self, want: usize) -> usize {
        if let PullState::First = self.state {
            match self.shared.lock().admission.acquire_pulled(want) {
                0 => {}
                permits => self.state = PullState::Permits(permits),
            }
        }
        self.permits()
    }

    /// Number of permits held.
    pub(crate) const fn permits(&self) -> usize {
        match self.state {
            PullState::First => 0,
            PullState::Permits(permits) => permits,
        }
    }

    /// Accepts `used` inputs, at most as many as it has permits, gives the other permits back, and
    /// takes up to `more` new ones. Without a permit, `used` is 1, and that job is queued beyond
    /// the capacity. Returns the id and the origin of the first job, and the limits of the pool.
    pub(crate) fn accept(&mut self, used: usize, more: usize) -> (JobId, Origin, Limits) {
        let (first, origin, limits, wakes) = {
            let mut state = self.shared.lock();
            let (first, origin, wakes) = match self.state {
                PullState::First => (
                    state.admission.accept_extra(self.map),
                    Origin::Extra,
                    Wakes::default(),
                ),
                PullState::Permits(permits) => {
                    let (first, wakes) = state.admission.commit(permits, used);
                    (first, Origin::Outside, wakes)
                }
            };
            // A closed pool gives no more; `begin_pull` then returns the refusal.
            let is_open = more > 0 && state.admission.pool_state() == PoolState::Open;
            self.state = PullState::Permits(if is_open {
                state.admission.acquire_many(more)
            } else {
                0
            });
            (first, origin, state.limits, wakes)
        };
        self.shared.run_wakes(wakes);
        (first, origin, limits)
    }
}

impl<In, T, E> Drop for Pull<'_, In, T, E> {
    fn drop(&mut self) {
        let wakes = match self.state {
            PullState::First => self.shared.lock().admission.end_pull(),
            // There is nothing to give back; saves the lock.
            PullState::Permits(0) => return,
            PullState::Permits(permits) => self.shared.lock().admission.commit(permits, 0).1,
        };
        self.shared.run_wakes(wakes);
    }
}
