//! The knobs of a pool that runs: pause and resume, how many workers run jobs, how often jobs
//! start; and the waits for a quieter moment. Each takes effect for jobs that have not started, and
//! stops none that has.

use crate::event::RunningJob;
use crate::pool::Pool;
use crate::queue::admission::Admission;
use crate::schedule::limiter::RateLimit;

/// While the pool runs.
impl<In, T, E> Pool<In, T, E> {
    /// Starts no more jobs until [`resume`](Self::resume). Running jobs go on, and jobs are
    /// accepted as before.
    ///
    /// Pauses are counted: after two, it takes two to resume. A pool that is closed goes on in
    /// spite of them, so that a [`drain`](Self::drain) ends. Time goes on too: a queued job may run
    /// out of its time, and its delay may pass.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool};
    /// use futures_lite::future;
    ///
    /// let (pool, workers) =
    ///     Pool::builder().workers(2).timer(ManualTimer::new()).build(|n: u32| async move { Ok::<_, ()>(n) });
    /// pool.pause();
    /// let mut handle = pool.try_submit(1).unwrap();
    /// future::block_on(workers.drive(async {
    ///     future::yield_now().await;
    ///     assert!(!handle.is_finished());
    ///     pool.resume();
    ///     assert_eq!(handle.await, Ok(1));
    /// }));
    /// ```
    pub fn pause(&self) {
        self.shared().pause();
    }

    /// Takes back one [`pause`](Self::pause); without one, nothing.
    pub fn resume(&self) {
        self.shared().resume();
    }

    /// Whether the pool is paused.
    pub fn is_paused(&self) -> bool {
        self.shared().is_paused()
    }

    /// Sets how many jobs run at once, in workers, up to the number of workers that were built:
    /// `count` times [`jobs_per_worker`](crate::Builder::jobs_per_worker) jobs, in whichever slots.
    ///
    /// More start at once; of fewer, those that run go on, and no new one starts before there are
    /// less than that.
    ///
    /// # Panics
    ///
    /// If `count` is 0, or greater than the number of workers that were built.
    #[track_caller]
    pub fn set_workers(&self, count: usize) {
        let built = self.shared().built();
        assert!(
            count > 0,
            "workers must be at least 1, got 0; to start none, pause the pool"
        );
        assert!(
            count <= built,
            "workers must be at most {built}, as many as were built, got {count}"
        );
        self.shared().set_workers(count);
    }

    /// Changes the [rate limit](crate::Builder::rate_limit) of the pool, for what is queued too, at
    /// once. `None`: no limit.
    ///
    /// Consumed permits carry over, up to the new limit's burst or number: setting the same limit
    /// again refills nothing, and raising the burst by n lets n more jobs start at once. Permits
    /// that the old limit has refilled by now do not count. After no limit, a new one starts full.
    pub fn set_rate_limit(&self, limit: impl Into<Option<RateLimit>>) {
        self.shared().set_rate(limit.into());
    }

    /// The jobs that run now, in the order of their workers.
    pub fn running(&self) -> Vec<RunningJob> {
        self.shared().running()
    }

    /// Waits until fewer than `count` jobs are queued, delayed ones included; or until the pool
    /// ends. With 1 it waits for an empty queue.
    ///
    /// 0 is never reached: then it waits until the pool ends.
    ///
    /// # Panics
    ///
    /// Inside a job of this pool, when it would wait: the worker it holds may be the one that is
    /// needed. The panic is contained like any other of the job.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    #[doc(alias("on_empty", "on_size_less_than", "queued_below"))]
    pub async fn wait_queued_below(&self, count: usize) {
        self.wait_below(
            "wait_queued_below",
            |admission| admission.queued_total() < count,
            |admission| admission.set_queued_threshold(count),
        )
        .await;
    }

    /// Waits until fewer than `count` jobs are running: with 1, until none is, be the pool paused
    /// or not.
    ///
    /// 0 is never reached: then it waits until the pool ends.
    ///
    /// # Panics
    ///
    /// As [`wait_queued_below`](Self::wait_queued_below).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    #[doc(alias("on_pending_zero", "running_below"))]
    pub async fn wait_running_below(&self, count: usize) {
        self.wait_below(
            "wait_running_below",
            |admission| admission.running() < count,
            |admission| admission.set_running_threshold(count),
        )
        .await;
    }

    async fn wait_below(
        &self,
        what: &str,
        is_so: impl Fn(&Admission) -> bool,
        mark: impl Fn(&mut Admission),
    ) {
        let is_over = |admission: &Admission| is_so(admission) || admission.has_ended();
        if !is_over(&self.shared().lock().admission) {
            self.assert_outside(what);
            self.shared().wait_below(is_over, mark).await;
        }
    }
}
