//! Changes to a running pool: pause, number of workers, rate, priority; and the list of running
//! jobs. Each change is made in the schedule under the lock, followed by a dispatch of the jobs
//! that may start then.

use std::time::Duration;

use super::{Shared, Synced};
use crate::event::RunningJob;
use crate::job::handle_state::HandleState;
use crate::job::queued::ScheduledJob;
use crate::key::Key;
use crate::schedule::Schedule;
use crate::schedule::lanes::KeyLimits;
use crate::schedule::limiter::RateLimit;

impl<In, T, E> Shared<In, T, E> {
    /// Switches the schedule on if there is none, changes it, and dispatches.
    fn control<R: Default>(
        &self,
        change: impl FnOnce(&mut Schedule<ScheduledJob<In, T, E>>) -> R,
    ) -> R {
        self.switch_on_schedule();
        self.update_schedule(|scheduler| change(&mut scheduler.schedule))
            .unwrap_or_default()
    }

    pub(crate) fn pause(&self) {
        self.control(|schedule| schedule.pause());
    }

    pub(crate) fn resume(&self) {
        self.update_schedule(|scheduler| scheduler.schedule.resume());
    }

    pub(crate) fn is_paused(&self) -> bool {
        let synced = self.lock();
        let scheduler = synced.scheduler.as_ref();
        scheduler.is_some_and(|scheduler| scheduler.schedule.is_paused())
    }

    pub(crate) fn set_workers(&self, count: usize) {
        self.control(|schedule| schedule.allow(count.saturating_mul(self.slots_per_worker)));
    }

    pub(crate) fn set_rate(&self, limit: Option<RateLimit>) {
        self.control(|schedule| {
            let now = schedule.now();
            schedule.set_rate(limit, now);
        });
    }

    pub(crate) fn set_key_limits(&self, key: Key, limits: Option<KeyLimits>) {
        self.control(|schedule| {
            let now = schedule.now();
            schedule.set_key_limits(key, limits, now);
        });
    }

    pub(crate) fn hold_key(&self, key: Key, time: Duration) {
        self.control(|schedule| {
            let now = schedule.now();
            schedule.hold_key(key, now.after(time), now);
        });
    }

    /// Sets the priority of a queued job; returns whether it was still queued.
    pub(crate) fn set_priority(&self, job: &HandleState<In, T, E>, priority: i32) -> bool {
        self.control(|schedule| {
            job.record_id().is_some_and(|record_id| {
                schedule.set_priority(record_id, job.id.as_u64(), priority)
            })
        })
    }

    /// The running jobs, in the order of their workers.
    pub(crate) fn running(&self) -> Vec<RunningJob> {
        let synced = self.lock();
        let Synced {
            running, scheduler, ..
        } = &*synced;
        let job = |(slot, active_job): (usize, crate::queue::running::ActiveJob)| RunningJob {
            id: active_job.id,
            index: active_job.index,
            worker: self.worker_of(slot),
            attempt: active_job.attempts,
            key: active_job
                .record_id
                .and_then(|record_id| scheduler.as_ref()?.schedule.key(record_id).cloned()),
            since: running.since(slot),
        };
        running.occupied().map(job).collect()
    }
}
