//! How a map waits and pulls.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::Shared;
use crate::event::JobId;
use crate::panic;
use crate::policy::limits::Limits;
use crate::queue::admission::{Origin, PoolState, Refusal, Wakes};
use crate::sync::atomic::Ordering;

/// The wait of a map for its source, or for room; without a place in any line. Dropping it ends the
/// wait.
pub(crate) struct MapWait<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    /// The identity of the map.
    map: usize,
    /// Whether the map may be among those that wait.
    is_waiting: bool,
    /// What was left to be woken when there is room, and how often maps had been told before.
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

    /// Begins to pull an input, for which no place is needed. `None`: there has to be room first.
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

    /// Has the task woken when the pool closes and, if the map `wants_room`, when there is some.
    pub(crate) fn wait(&mut self, wants_room: bool, cx: &Context<'_>) {
        // Before the waker is left: a map that is told after that has not been counted.
        let told = self.shared.told.load(Ordering::SeqCst);
        self.is_waiting = true;
        let (looks_again, wakes) = self
            .shared
            .lock()
            .admission
            .wait_as_map(self.map, wants_room, cx);
        self.shared.run_wakes(wakes);
        if looks_again {
            cx.waker().wake_by_ref();
        } else if wants_room {
            self.room = Some((cx.waker().clone(), told));
        }
    }

    /// Whether the task will be woken when there is room, so that it need not dispatch before.
    pub(crate) fn is_waiting_for_room(&self, cx: &Context<'_>) -> bool {
        self.room.as_ref().is_some_and(|(waker, told)| {
            *told == self.shared.told.load(Ordering::SeqCst) && waker.will_wake(cx.waker())
        })
    }

    /// The map pulls no more.
    pub(crate) fn leave(&mut self) {
        drop(self.take_waker());
    }

    /// The same, for a map that is cancelled: wakes the task that waits.
    pub(crate) fn leave_and_wake(&mut self) {
        panic::wake(self.take_waker());
    }

    fn take_waker(&mut self) -> Option<Waker> {
        self.room = None;
        if !std::mem::take(&mut self.is_waiting) {
            return None;
        }
        let (waker, wakes) = self.shared.lock().admission.leave_as_map(self.map);
        self.shared.run_wakes(wakes);
        waker
    }
}

impl<In, T, E> Drop for MapWait<In, T, E> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What a map holds while it pulls inputs, within one poll: the right to one input, or places for
/// several. Dropping it gives them back.
pub(crate) struct Pull<'a, In, T, E> {
    pub(crate) shared: &'a Arc<Shared<In, T, E>>,
    map: usize,
    state: PullState,
}

#[derive(Debug, Clone, Copy)]
enum PullState {
    /// One input may be pulled without a place.
    First,
    Places(usize),
}

impl<In, T, E> Pull<'_, In, T, E> {
    /// An input was pulled. Takes up to `want` places, for that one and others; says how many there
    /// are.
    pub(crate) fn take_places(&mut self, want: usize) -> usize {
        if let PullState::First = self.state {
            match self.shared.lock().admission.take_places(want) {
                0 => {}
                places => self.state = PullState::Places(places),
            }
        }
        self.places()
    }

    pub(crate) const fn places(&self) -> usize {
        match self.state {
            PullState::First => 0,
            PullState::Places(places) => places,
        }
    }

    /// Accepts `used` inputs, at most as many as there are places, gives the other places back, and
    /// takes up to `more` new ones. Without a place, `used` is 1, and that job is queued beyond the
    /// capacity. Returns the number of the first job, and the limits of the pool.
    pub(crate) fn accept(&mut self, used: usize, more: usize) -> (JobId, Origin, Limits) {
        let (first, origin, limits, wakes) = {
            let mut state = self.shared.lock();
            let (first, origin, wakes) = match self.state {
                PullState::First => (
                    state.admission.accept_extra(self.map),
                    Origin::Extra,
                    Wakes::default(),
                ),
                PullState::Places(places) => {
                    let (first, wakes) = state.admission.commit(places, used);
                    (first, Origin::Outside, wakes)
                }
            };
            // None, where it would cost a wake: a map that asks again is told why.
            let is_open = more > 0 && state.admission.pool_state() == PoolState::Open;
            self.state = PullState::Places(if is_open {
                state.admission.take_more(more)
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
            // None of them would change nothing, but cost time.
            PullState::Places(0) => return,
            PullState::Places(places) => self.shared.lock().admission.commit(places, 0).1,
        };
        self.shared.run_wakes(wakes);
    }
}
