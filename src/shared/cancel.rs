//! Cancellation.

use std::task::Waker;

use super::Shared;
use crate::error::{CancelReason, JobError};
use crate::event::JobId;
use crate::job::queued::{QueuedJob, ScheduledJob};
use crate::panic;
use crate::schedule::RecordId;

impl<In, T, E> Shared<In, T, E> {
    /// A queued job was cancelled through its handle. Its tombstone stays in the injector until a
    /// worker comes to it, or until tombstones outnumber the jobs that are queued, here or in the
    /// schedule.
    pub(crate) fn sweep_tombstones(&self) {
        const FEW: usize = 32;
        let queued = self.lock().admission.queued_total();
        if self.injector.len() > FEW.max(2 * queued) {
            self.sweep();
        }
    }

    /// A worker has come to a tombstone.
    pub(crate) fn remove_tombstone(&self, record_id: Option<RecordId>, id: JobId) {
        if let Some(record_id) = record_id {
            // It was cancelled before the schedule knew of it.
            let reading = self.reading();
            let (job, history, deferred) =
                self.forget_scheduled(&mut self.lock(), record_id, id, reading);
            drop((job, history));
            self.run_deferred(deferred);
        }
    }

    /// Takes cancelled jobs out of the injector and settles them.
    pub(crate) fn sweep(&self) {
        for entry in self.injector.sweep(QueuedJob::is_dead) {
            let attempts = self.attempts(&entry);
            self.settle_unstarted(entry, JobError::Abandoned, attempts);
        }
        for removed in self.unschedule(ScheduledJob::is_dead) {
            let attempts = removed.attempts();
            self.settle_unstarted(removed.job.into_entry(), JobError::Abandoned, attempts);
            panic::discard(removed.history);
        }
        self.look_for_end();
    }

    /// Interrupts the running jobs of one map or group.
    pub(crate) fn interrupt_stream(&self, stream: usize, reason: CancelReason) {
        let state = self.lock_exclusive();
        let wakers: Vec<Waker> = state
            .running
            .occupied()
            .filter(|(_, active_job)| active_job.stream == Some(stream))
            .filter_map(|(slot, _)| self.cancel_flags[slot].interrupt(reason))
            .collect();
        drop(state);
        panic::wake(wakers);
    }

    /// Wakes those that wait for room for a job of this group, which was cancelled.
    pub(crate) fn wake_submits_to(&self, group: usize) {
        let wakers = self.lock().admission.wakers_of(group);
        panic::wake(wakers);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_lite::future::{block_on, poll_once};

    use crate::{CancelReason, JobError, ManualTimer, Pool};

    /// A worker has taken the job and finds that it may not start; meanwhile its map is cancelled.
    #[test]
    fn a_job_that_comes_back_to_the_queue_finds_that_its_map_was_cancelled() {
        let builder = Pool::builder().workers(1).timer(ManualTimer::new());
        let (pool, workers) = builder.build(|n: u32| async move { Ok::<_, ()>(n) });
        let mut map = pool.map(0..1);
        assert_eq!(block_on(poll_once(map.next())), None);
        let Ok(Some(entry)) = pool.shared().injector.try_pop() else {
            panic!("the job is ready")
        };
        pool.pause();
        map.cancel();
        pool.shared().return_to_schedule(entry);
        let polled = block_on(poll_once(pin!(map.next())));
        let result = polled.flatten().map(|completion| completion.result);
        assert_eq!(result, Some(Err(JobError::Cancelled(CancelReason::Stream))));
        drop(workers);
    }

    #[test]
    fn what_cancelled_handles_leave_in_the_queue_is_bounded() {
        for is_scheduled in [false, true] {
            let mut builder = Pool::builder()
                .workers(1)
                .queue_capacity(1)
                .timer(ManualTimer::new());
            if is_scheduled {
                builder = builder.key_by(|n: &u32| *n);
            }
            let (pool, workers) = builder.build(|n: u32| async move { Ok::<_, ()>(n) });
            for n in 0..1000 {
                drop(pool.try_submit(n).unwrap());
            }
            let left = pool.shared().injector.take_all().len();
            assert!(left <= 32, "{left} are left, scheduled: {is_scheduled}");
            drop(workers);
        }
    }
}
