//! What the simulator asks of the admission.

use super::{Admission, PoolState};

impl Admission {
    pub(crate) fn audit(&self) -> Result<(), String> {
        let outcomes: u64 = self.outcomes.iter().sum();
        let unfinished = self.queued_total() + self.running;
        if self.accepted != outcomes + unfinished as u64 {
            return Err(format!(
                "{} accepted, {outcomes} outcomes, {unfinished} unfinished",
                self.accepted
            ));
        }
        if self.queued + self.reserved + self.acquired > self.capacity && self.queued > 0 {
            return Err(format!(
                "{} places are taken of {}",
                self.queued + self.reserved,
                self.capacity
            ));
        }
        if self.queued_children > self.child_capacity {
            return Err(format!(
                "{} children are queued of {}",
                self.queued_children, self.child_capacity
            ));
        }
        if self.running > self.slots() {
            return Err(format!(
                "{} jobs run in {} slots",
                self.running,
                self.slots()
            ));
        }
        if self.granted.len() > self.reserved {
            return Err(format!(
                "{} places are granted, and {} reserved",
                self.granted.len(),
                self.reserved
            ));
        }
        Ok(())
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "{:?}, {} queued of {} and {} beyond, {} pulling, {} acquired, {} reserved ({} granted), {} children queued, {} running \
             in {} slots, {} workers, {} futures wait, {} of {} maps for a permit",
            self.pool_state,
            self.queued,
            self.capacity,
            self.extras.len(),
            self.pulling,
            self.acquired,
            self.reserved,
            self.granted.len(),
            self.queued_children,
            self.running,
            self.slots(),
            self.workers,
            self.waiters.len(),
            self.wanting_room,
            self.waiting_maps.len()
        )
    }

    /// Whether a future or a map waits though there is a permit for it.
    pub(crate) fn has_stalled_waiter(&self) -> bool {
        // A map that is notified and not polled yet takes precedence over others.
        let is_notified = self.wanting_room > self.unnotified;
        let is_room = (!self.waiters.is_empty() && self.free_permits() > 0)
            || (self.unnotified > 0 && !is_notified && self.may_notify_maps());
        self.pool_state == PoolState::Open && is_room
    }

    pub(crate) fn audit_at_end(&self) -> Result<(), String> {
        let left = (
            self.queued_total(),
            self.running,
            self.reserved,
            self.acquired + self.pulling,
            self.workers,
        );
        if left != (0, 0, 0, 0, 0) {
            return Err(format!(
                "queued, running, reserved, acquired, workers: {left:?} are left"
            ));
        }
        let waits = (
            self.waiters.len(),
            self.waiting_maps.len(),
            self.granted.len(),
        );
        if waits != (0, 0, 0) {
            return Err(format!(
                "waiting futures, waiting maps, granted permits: {waits:?} are left"
            ));
        }
        Ok(())
    }
}
