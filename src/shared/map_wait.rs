//! How a map gets permits without holding one while it waits, since it may be the source of another
//! map of the same pool. [`MapWait`] waits for its source or for room, outside the wait queue;
//! [`Pull`] holds what the map may accept, within one poll.
//!
//! 1. [`MapWait::begin_pull`] allows one input to be pulled without a permit.
//! 2. [`Pull::take_permits`] takes permits for that input and others.
//! 3. [`Pull::accept`] accepts the inputs that were pulled; without a permit, the one input is
//!    queued beyond the capacity, as the map's extra job (see `queue::admission`). Dropping the
//!    [`Pull`] gives the rest back.
//! 4. If there was no room, [`MapWait::wait_for_room`] leaves the waker; if there was nothing to
//!    pull, [`MapWait::wait_for_source`] does.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::{Accepted, Shared};
use crate::panic;
use crate::queue::StreamId;
use crate::queue::admission::{Origin, PoolState, Refusal, Wakes};
use crate::sync::atomic::Ordering;

/// The wait of a map for its source or for room. Dropping it ends the wait.
pub(crate) struct MapWait<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    map: StreamId,
    /// Whether the admission may have a waker of the map.
    is_waiting: bool,
    /// The waker that was left to be notified of room, and the value of `Shared::map_notifications`
    /// that was read before that.
    room_wait: Option<(Waker, usize)>,
}

impl<In, T, E> MapWait<In, T, E> {
    pub(crate) const fn new(shared: Arc<Shared<In, T, E>>, map: StreamId) -> Self {
        Self {
            shared,
            map,
            is_waiting: false,
            room_wait: None,
        }
    }

    /// Begins to pull one input, for which no permit is needed. `None`: the map has to wait for
    /// room. `shared` is that of this wait; the [`Pull`] borrows it, and not the wait.
    pub(crate) fn begin_pull<'a>(
        &mut self,
        shared: &'a Arc<Shared<In, T, E>>,
    ) -> Result<Option<Pull<'a, In, T, E>>, Refusal> {
        self.room_wait = None;
        let may_pull = shared.lock().admission.begin_pull(self.map)?;
        Ok(may_pull.then(|| Pull {
            shared,
            map: self.map,
            right: PullRight::OneInput,
        }))
    }

    /// Has the task woken when there is room, and when the pool closes.
    pub(crate) fn wait_for_room(&mut self, cx: &Context<'_>) {
        // Read before the waker is left, so that a notification after that is seen as a new one.
        let notifications = self.shared.map_notifications.load(Ordering::SeqCst);
        if self.register(true, cx) {
            self.room_wait = Some((cx.waker().clone(), notifications));
        }
    }

    /// Has the task woken when the pool closes, while the source has its waker.
    pub(crate) fn wait_for_source(&mut self, cx: &Context<'_>) {
        self.register(false, cx);
    }

    /// Registers the wait with the admission. Returns `false`, and wakes the task, if it need not
    /// wait.
    fn register(&mut self, wants_room: bool, cx: &Context<'_>) -> bool {
        self.is_waiting = true;
        let (is_ready, wakes) = self
            .shared
            .lock()
            .admission
            .wait_as_map(self.map, wants_room, cx);
        self.shared.run_wakes(wakes);
        if is_ready {
            cx.waker().wake_by_ref();
        }
        !is_ready
    }

    /// Whether the task will be woken when there is room, so that it need not check before.
    pub(crate) fn is_waiting_for_room(&self, cx: &Context<'_>) -> bool {
        self.room_wait
            .as_ref()
            .is_some_and(|(waker, notifications)| {
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
        self.room_wait = None;
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
    map: StreamId,
    right: PullRight,
}

#[derive(Debug, Clone, Copy)]
enum PullRight {
    /// One input may be pulled, and accepted, without a permit.
    OneInput,
    /// As many inputs as there are permits.
    Permits(usize),
}

impl<In, T, E> Pull<'_, In, T, E> {
    /// Takes up to `want` permits, for the input that was pulled and for others. If there are none,
    /// the right to one input stays.
    pub(crate) fn take_permits(&mut self, want: usize) {
        if let PullRight::OneInput = self.right {
            match self.shared.lock().admission.acquire_pulled(want) {
                0 => {}
                permits => self.right = PullRight::Permits(permits),
            }
        }
    }

    /// How many inputs may be accepted.
    pub(crate) const fn max_inputs(&self) -> usize {
        match self.right {
            PullRight::OneInput => 1,
            PullRight::Permits(permits) => permits,
        }
    }

    /// Accepts `used` inputs, at most [`max_inputs`](Self::max_inputs), gives the other permits
    /// back, and takes up to `more` new ones. Without a permit, `used` is 1, and that job is queued
    /// beyond the capacity. Returns the first job; the ids of the others follow its own.
    pub(crate) fn accept(&mut self, used: usize, more: usize) -> Accepted {
        let (accepted, wakes) = {
            let mut synced = self.shared.lock();
            let (id, origin, wakes) = match self.right {
                PullRight::OneInput => (
                    synced.admission.accept_extra(self.map),
                    Origin::Extra,
                    Wakes::default(),
                ),
                PullRight::Permits(permits) => {
                    let (id, wakes) = synced.admission.commit(permits, used);
                    (id, Origin::Outside, wakes)
                }
            };
            // A closed pool gives no more; `begin_pull` then returns the refusal.
            let is_open = more > 0 && synced.admission.pool_state() == PoolState::Open;
            self.right = PullRight::Permits(if is_open {
                synced.admission.acquire_many(more)
            } else {
                0
            });
            let accepted = Accepted {
                id,
                origin,
                limits: synced.limits,
            };
            (accepted, wakes)
        };
        self.shared.run_wakes(wakes);
        accepted
    }
}

impl<In, T, E> Drop for Pull<'_, In, T, E> {
    fn drop(&mut self) {
        let wakes = match self.right {
            PullRight::OneInput => self.shared.lock().admission.end_pull(),
            // There is nothing to give back; saves the lock.
            PullRight::Permits(0) => return,
            PullRight::Permits(permits) => self.shared.lock().admission.commit(permits, 0).1,
        };
        self.shared.run_wakes(wakes);
    }
}
