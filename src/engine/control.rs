//! Changes to a pool while it runs: pause, resize, another rate, another priority; and the list of
//! what runs. Each is a change under the lock and a look at what may start then.

use super::{Engine, State};
use crate::observe::RunningJob;
use crate::queue::schedule::Schedule;
use crate::queue::schedule::gate::RateLimit;
use crate::reply::{Cell, Held};

impl<In, T, E> Engine<In, T, E> {
    /// Changes the schedule, which there is from then on.
    fn control<R: Default>(&self, change: impl FnOnce(&mut Schedule<Held<In, T, E>>) -> R) -> R {
        self.switch_on_schedule();
        self.change_schedule(|_, state, _| {
            state
                .schedule
                .as_mut()
                .map(|schedule| change(schedule))
                .unwrap_or_default()
        })
    }

    pub(crate) fn pause(&self) {
        self.control(|schedule| schedule.pause());
    }

    pub(crate) fn resume(&self) {
        if self.is_scheduled() {
            self.control(|schedule| schedule.resume());
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.state()
            .schedule
            .as_ref()
            .is_some_and(|schedule| schedule.is_paused())
    }

    pub(crate) fn set_workers(&self, count: usize) {
        self.control(|schedule| schedule.allow(count.saturating_mul(self.slots_each)));
    }

    pub(crate) fn set_rate(&self, limit: Option<RateLimit>) {
        self.control(|schedule| {
            let now = schedule.now();
            schedule.set_rate(limit, now);
        });
    }

    /// Says whether the job was still queued.
    pub(crate) fn set_priority(&self, cell: &Cell<In, T, E>, priority: i32) -> bool {
        self.control(|schedule| {
            cell.spot()
                .is_some_and(|spot| schedule.set_priority(spot, cell.id.as_u64(), priority))
        })
    }

    /// What runs now, in the order of the workers.
    pub(crate) fn running(&self) -> Vec<RunningJob> {
        let state = self.state();
        let State {
            running, schedule, ..
        } = &*state;
        let job = |(slot, occupant): (usize, crate::queue::running::Occupant)| RunningJob {
            id: occupant.id,
            index: occupant.index,
            worker: self.worker_of(slot),
            attempt: occupant.attempts,
            key: occupant
                .spot
                .and_then(|spot| schedule.as_ref()?.key(spot).cloned()),
            since: running.since(slot),
        };
        running.occupied().map(job).collect()
    }
}
