//! Options of a running pool: pause and resume, how many workers run jobs, how often jobs start;
//! and the waits for fewer jobs. Each takes effect for jobs that have not started, and stops no
//! running job.

use std::time::Duration;

use crate::event::RunningJob;
use crate::key::Key;
use crate::pool::Pool;
use crate::queue::admission::Admission;
use crate::schedule::lanes::KeyLimits;
use crate::schedule::limiter::RateLimit;

/// While the pool runs.
impl<In, T, E> Pool<In, T, E> {
    /// Starts no more jobs until [`resume`](Self::resume). Running jobs go on, and jobs are
    /// accepted as before.
    ///
    /// Pauses are counted: after two, it takes two calls of [`resume`](Self::resume). A closed pool
    /// ignores them, so that a [`drain`](Self::drain) ends. Timers go on: a queued job may time
    /// out, and its delay may pass.
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

    /// Undoes one [`pause`](Self::pause); without one, it does nothing.
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
    /// With a higher number, more jobs start at once. With a lower one, running jobs go on, and no
    /// job starts until fewer are running.
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

    /// Changes the [rate limit](crate::Builder::rate_limit) of the pool at once, for queued jobs
    /// too. `None`: no limit.
    ///
    /// Consumed permits carry over, up to the new limit's burst, or the permits of its window:
    /// setting the same limit again refills nothing, and raising the burst by n lets n more jobs
    /// start at once. Permits that the old limit has refilled by now do not count. After no limit,
    /// a new one starts full. A call takes time in proportion to the number of jobs that have no
    /// outcome yet.
    pub fn set_rate_limit(&self, limit: impl Into<Option<RateLimit>>) {
        self.shared().set_rate(limit.into());
    }

    /// Sets limits for one key, in place of those of
    /// [`max_running_per_key`](crate::Builder::max_running_per_key) and
    /// [`rate_limit_per_key`](crate::Builder::rate_limit_per_key); at once, for queued jobs too.
    /// `None` restores those. Without [`key_by`](crate::Builder::key_by) it has no effect.
    ///
    /// Consumed permits carry over as in [`set_rate_limit`](Self::set_rate_limit), and running jobs
    /// go on. The limits of a key take memory until they are restored. A call takes time in
    /// proportion to the number of jobs that have no outcome yet.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{KeyLimits, ManualTimer, Pool, RateLimit};
    /// use futures_lite::future;
    ///
    /// let clock = ManualTimer::new();
    /// let (pool, workers) = Pool::builder()
    ///     .workers(10)
    ///     .key_by(|(host, _): &(&'static str, u32)| *host)
    ///     .timer(clock.clone())
    ///     .build(|_| async { Ok::<_, ()>(()) });
    /// pool.set_key_limits("slow", KeyLimits::new().rate_limit(RateLimit::per_second(1)));
    /// let pages = ["slow", "fast"].into_iter().flat_map(|host| (0..5).map(move |page| (host, page)));
    /// future::block_on(clock.run(workers.drive(pool.map(pages).for_each(drop))));
    /// assert_eq!(clock.elapsed().as_secs(), 4);
    /// ```
    pub fn set_key_limits(&self, key: impl Into<Key>, limits: impl Into<Option<KeyLimits>>) {
        self.shared().set_key_limits(key.into(), limits.into());
    }

    /// Starts no job of the key for so long; jobs of other keys go on. It never shortens a hold
    /// that is longer. Without [`key_by`](crate::Builder::key_by) it has no effect.
    ///
    /// For a server that asks to be left alone for a while. Where only a failed job that is tried
    /// again knows of it, [`retry_after_scope`](crate::Retry::retry_after_scope) does the same.
    pub fn hold_key(&self, key: impl Into<Key>, time: Duration) {
        self.shared().hold_key(key.into(), time);
    }

    /// Returns the running jobs, in the order of their workers.
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
    /// Inside a job of this pool, if it had to wait: the slot that the job holds may be the one
    /// that is needed. The panic is contained like any other panic of the job.
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

    /// Waits until fewer than `count` jobs are running, whether the pool is paused or not. With 1
    /// it waits until none is.
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
        condition: impl Fn(&Admission) -> bool,
        set_threshold: impl Fn(&mut Admission),
    ) {
        let is_over = |admission: &Admission| condition(admission) || admission.has_ended();
        if !is_over(&self.shared().lock().admission) {
            self.assert_outside(what);
            self.shared().wait_below(is_over, set_threshold).await;
        }
    }
}
