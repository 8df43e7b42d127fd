//! Permits for maps, and their waits for permits or for their source.

use std::ops::Bound;
use std::task::{Context, Waker};

use super::{Admission, PoolState, Refusal, WaitingMap, Wakes};
use crate::event::JobId;
use crate::queue::StreamId;

impl Admission {
    /// The permits available to maps: the last one is left to others, in exchange for the extra job
    /// of each map. So a map that is alone stays within the capacity.
    pub(super) fn map_permits(&self) -> usize {
        self.available_permits().saturating_sub(1)
    }

    /// Allows a map to pull one input without a permit. `false`: its extra job (see
    /// [`admission`](super)) is in the queue, and no permit is free.
    pub(crate) fn begin_pull(&mut self, map: StreamId) -> Result<bool, Refusal> {
        if self.pool_state != PoolState::Open {
            return Err(Refusal::Closed);
        }
        if self.extras.contains(&map) {
            if self.map_permits() == 0 {
                return Ok(false);
            }
            // A permit is free, so the job counts within the capacity now.
            self.extras.remove(&map);
            self.queued += 1;
        }
        // The count only saves the search.
        if self.wanting_room > 0
            && let Some(waiting_map) = self.waiting_maps.get_mut(&map)
            && std::mem::take(&mut waiting_map.wants_room)
        {
            self.wanting_room -= 1;
            self.unnotified -= usize::from(waiting_map.waker.is_some());
        }
        self.pulling += 1;
        Ok(true)
    }

    /// Ends a pull that yielded no input.
    pub(crate) fn end_pull(&mut self) -> Wakes {
        self.pulling -= 1;
        let mut wakes = Wakes::default();
        // The map may have been notified of a permit that it did not use.
        self.grant(&mut wakes);
        // An open pool is as idle as it was before.
        if self.pool_state != PoolState::Open {
            self.check_idle(&mut wakes);
        }
        wakes
    }

    /// Acquires up to `want` permits for a pulled input and for more. With 0, the map is left with
    /// that one input.
    pub(crate) fn acquire_pulled(&mut self, want: usize) -> usize {
        let permits = self.acquire_many(want);
        self.pulling -= usize::from(permits > 0);
        permits
    }

    /// Acquires up to `want` permits, or an equal share of them if other maps wait.
    pub(crate) fn acquire_many(&mut self, want: usize) -> usize {
        let room = self.map_permits();
        let permits = want.min(room.div_ceil(1 + self.wanting_room));
        self.acquired += permits;
        permits
    }

    /// Accepts a pulled input without a permit, beyond the capacity.
    pub(crate) fn accept_extra(&mut self, map: StreamId) -> JobId {
        self.pulling -= 1;
        self.extras.insert(map);
        self.next_id()
    }

    /// Turns a job beyond the capacity into one from outside, as it is about to leave the queue.
    /// Its map may have another one then.
    pub(crate) fn absorb_extra(&mut self, map: StreamId, wakes: &mut Wakes) {
        // `begin_pull` may have absorbed this job already; then a later one stands in for it.
        if self.extras.remove(&map) {
            self.queued += 1;
            if let Some(waiting_map) = self
                .waiting_maps
                .get_mut(&map)
                .filter(|waiting_map| waiting_map.wants_room)
            {
                let waker = waiting_map.waker.take();
                self.unnotified -= usize::from(waker.is_some());
                wakes.notified_maps |= waker.is_some();
                wakes.wakers.extend(waker);
            }
        }
    }

    /// Registers a map that waits for a permit or for its source. Returns whether it need not wait.
    pub(crate) fn wait_as_map(
        &mut self,
        map: StreamId,
        wants_room: bool,
        cx: &Context<'_>,
    ) -> (bool, Wakes) {
        let mut wakes = Wakes::default();
        if self.pool_state != PoolState::Open
            || (wants_room && (!self.extras.contains(&map) || self.map_permits() > 0))
        {
            return (true, wakes);
        }
        let registered = self.waiting_maps.get_mut(&map).and_then(|registered| {
            self.wanting_room -= usize::from(registered.wants_room);
            self.unnotified -= usize::from(registered.wants_room && registered.waker.is_some());
            registered.waker.take()
        });
        let (waker, unneeded) = match registered {
            // Saves a clone and a drop.
            Some(registered) if registered.will_wake(cx.waker()) => (registered, None),
            registered => (cx.waker().clone(), registered),
        };
        wakes.unneeded = unneeded;
        self.waiting_maps.insert(
            map,
            WaitingMap {
                waker: Some(waker),
                wants_room,
            },
        );
        self.wanting_room += usize::from(wants_room);
        self.unnotified += usize::from(wants_room);
        (false, wakes)
    }

    /// Unregisters a map. Returns its waker, which must not be dropped under the lock.
    pub(crate) fn cancel_map_wait(&mut self, map: StreamId) -> (Option<Waker>, Wakes) {
        let mut wakes = Wakes::default();
        let Some(WaitingMap { waker, wants_room }) = self.waiting_maps.remove(&map) else {
            return (None, wakes);
        };
        self.wanting_room -= usize::from(wants_room);
        self.unnotified -= usize::from(wants_room && waker.is_some());
        // The map may have been notified of a permit that it did not use.
        self.grant(&mut wakes);
        (waker, wakes)
    }

    /// Whether to notify maps that wait for a permit: if half of the capacity is free (fewer
    /// wake-ups), or if any permit is while nothing is queued, as reserved permits may hold the
    /// rest.
    pub(super) fn may_notify_maps(&self) -> bool {
        let room = self.map_permits();
        room > 0 && (self.notifies_of_any_room || room >= self.capacity / 2 || self.queued == 0)
    }

    /// Notifies as many maps that wait for a permit as there are permits, round-robin. Called while
    /// there are both, so it notifies one at least.
    #[cold]
    pub(super) fn notify_maps(&mut self, wakes: &mut Wakes) {
        let room = self.map_permits();
        let last = self.last_notified;
        let mut notified = 0;
        for range in [
            (
                last.map_or(Bound::Unbounded, Bound::Excluded),
                Bound::Unbounded,
            ),
            (
                Bound::Unbounded,
                last.map_or(Bound::Unbounded, Bound::Included),
            ),
        ] {
            for (map, waiting_map) in self.waiting_maps.range_mut(range) {
                if notified == room {
                    break;
                }
                if waiting_map.wants_room && waiting_map.waker.is_some() {
                    wakes.wakers.extend(waiting_map.waker.take());
                    (self.last_notified, notified) = (Some(*map), notified + 1);
                }
            }
        }
        self.unnotified -= notified;
        wakes.notified_maps |= notified > 0;
    }

    /// Notifies all maps that wait.
    pub(super) fn notify_all_maps(&mut self, wakes: &mut Wakes) {
        self.unnotified = 0;
        for waiting_map in self.waiting_maps.values_mut() {
            wakes.notified_maps |= waiting_map.waker.is_some();
            wakes.wakers.extend(waiting_map.waker.take());
        }
    }

    /// Notifies maps of any free permit from now on.
    pub(crate) fn notify_of_any_room(&mut self, wakes: &mut Wakes) {
        self.notifies_of_any_room = true;
        self.grant(wakes);
    }
}
