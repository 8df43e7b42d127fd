//! Cancellation of queued and running jobs.
//!
//! A running job is interrupted through the cancel flag of its slot. A queued job of a cancelled
//! map or group is taken out of the queues by `sweep`. A queued job that its handle cancels has its
//! outcome at once; what is left of it in the injector is a *tombstone*.
//!
//! A job may be on its way from a queue to a slot while its map or group is cancelled. So that it
//! is not missed,
//!
//! 1. `cancel_stream` (1) sets the reason, then (2) interrupts what runs and sweeps what is queued,
//! 2. a worker (1) moves the job to running, by `start_job` or in its tally, then (2) checks the reason; of a batch
//!    in its local queue, it checks once, in `begin_batch`, and is revoked by step 1 (2) from then
//!    on,
//! 3. a function that accepts a job (1) enqueues it, then (2) checks the reason in
//!    `sweep_if_cancelled`. What is released by the schedule or given back by a worker is swept, or
//!    checked at its start.

use std::task::Waker;

use super::Shared;
use crate::error::CancelReason;
use crate::event::JobId;
use crate::job::handle_state::HandleState;
use crate::job::queued::{QueuedJob, ScheduledJob};
use crate::panic;
use crate::queue::StreamId;
use crate::schedule::RecordId;

impl<In, T, E> Shared<In, T, E> {
    /// Sweeps if the injector holds more than 32 items and more than twice what is queued. Called
    /// when a handle has cancelled its queued job; so tombstones are bounded.
    pub(crate) fn sweep_tombstones(&self) {
        const FEW: usize = 32;
        let queued = self.lock().admission.queued_total();
        if self.injector.len() > FEW.max(2 * queued) {
            self.sweep();
        }
    }

    /// Removes the record of a job that a handle has cancelled. Called after the schedule has got a
    /// job, since the cancellation may have come before it had the record. Returns whether the job
    /// is cancelled.
    pub(super) fn remove_if_decided(&self, job: &HandleState<In, T, E>) -> bool {
        let will_not_run = job.will_not_run();
        if will_not_run {
            self.remove_tombstone(job.record_id(), job.id);
        }
        will_not_run
    }

    /// Removes the record of a tombstone that is not in the injector.
    pub(crate) fn remove_tombstone(&self, record_id: Option<RecordId>, id: JobId) {
        if let Some(record_id) = record_id {
            let removed = self.update_schedule(|scheduler| {
                let now = scheduler.schedule.now();
                scheduler.schedule.remove(record_id, id.as_u64(), now)
            });
            drop(removed);
        }
    }

    /// Takes cancelled jobs out of the injector and the schedule, and completes them.
    pub(crate) fn sweep(&self) {
        self.abandon_all(self.injector.sweep(QueuedJob::will_not_run));
        self.abandon_removed(self.unschedule(ScheduledJob::will_not_run));
        self.check_stopped();
    }

    /// Interrupts the running jobs of one map or group.
    pub(crate) fn interrupt_stream(&self, stream: StreamId, reason: CancelReason) {
        let synced = self.lock_exclusive();
        let wakers: Vec<Waker> = synced
            .running
            .occupied()
            .filter(|(_, active_job)| active_job.stream == Some(stream))
            .filter_map(|(slot, _)| self.cancel_flags[slot].interrupt(reason))
            .collect();
        drop(synced);
        panic::wake(wakers);
    }

    /// Wakes the submissions to a cancelled group that wait for a permit.
    pub(crate) fn wake_group_submitters(&self, group: StreamId) {
        let wakers = self.lock().admission.wakers_of(group);
        panic::wake(wakers);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_lite::future::{block_on, poll_once};

    use crate::{CancelReason, JobError, ManualTimer, Pool};

    /// A worker gives a job back to a schedule that has just been switched on, and the job is
    /// cancelled before it is in there: the clock is read in between.
    #[cfg(feature = "testing")]
    #[test]
    fn a_job_that_comes_back_to_the_schedule_finds_that_its_handle_has_cancelled_it() {
        use std::sync::{Arc, Mutex};
        use std::time::Instant;

        use crate::Timer;
        use crate::rt::BoxFuture;

        /// Calls a closure, once, before it tells the time.
        #[derive(Clone)]
        struct Interjecting(ManualTimer, Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>);

        impl Timer for Interjecting {
            fn now(&self) -> Instant {
                let call = self.1.lock().unwrap().take();
                if let Some(call) = call {
                    call();
                }
                self.0.now()
            }

            fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
                self.0.sleep_until(at)
            }
        }

        let timer = Interjecting(ManualTimer::new(), Arc::default());
        let builder = Pool::builder().workers(1).timer(timer.clone());
        let (pool, workers) = builder.build(|n: u32| async move { Ok::<_, ()>(n) });
        let handle = pool.try_submit(1).unwrap();
        let Ok(Some(job)) = pool.shared().injector.try_pop() else {
            panic!("the job is ready")
        };
        pool.pause();
        *timer.1.lock().unwrap() = Some(Box::new(move || drop(handle)));
        pool.shared().return_to_schedule(job);
        assert!(timer.1.lock().unwrap().is_none(), "it was cancelled");
        assert_eq!((pool.stats().queued, pool.stats().cancelled), (0, 1));
        assert_eq!(pool.shared().audit(), Ok(()));
        drop(workers);
    }

    /// A worker takes a job, whose map is cancelled while the worker gives it back to the schedule.
    #[test]
    fn a_job_that_comes_back_to_the_queue_finds_that_its_map_was_cancelled() {
        let builder = Pool::builder().workers(1).timer(ManualTimer::new());
        let (pool, workers) = builder.build(|n: u32| async move { Ok::<_, ()>(n) });
        let mut map = pool.map(0..1);
        assert_eq!(block_on(poll_once(map.next())), None);
        let Ok(Some(job)) = pool.shared().injector.try_pop() else {
            panic!("the job is ready")
        };
        pool.pause();
        map.cancel();
        pool.shared().return_to_schedule(job);
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
