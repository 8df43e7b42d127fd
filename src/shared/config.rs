//! What the builder decides: the parts from which a [`Shared`](super::Shared) is made.

use std::sync::Arc;
use std::time::Duration;

use super::retry::RetryConfig;
use crate::event::Observer;
use crate::key::Key;
use crate::policy::limits::TimeLimits;
use crate::rt::Timer;
use crate::schedule::SchedulePolicy;

pub(crate) type KeyFn<In> = dyn Fn(&In) -> Key + Send + Sync;
pub(crate) type CostFn<In> = dyn Fn(&In) -> u32 + Send + Sync;

/// The options of a pool.
pub(crate) struct Config<In, E> {
    pub(crate) workers: usize,
    pub(crate) jobs_per_worker: usize,
    pub(crate) queue_capacity: usize,
    pub(crate) child_capacity: usize,
    pub(crate) limits: TimeLimits,
    pub(crate) timer: Arc<dyn Timer>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) timings: bool,
    pub(crate) slow_poll: Option<Duration>,
    pub(crate) max_waiting: usize,
    pub(crate) retry: Option<RetryConfig<In, E>>,
    pub(crate) key_by: Option<Arc<KeyFn<In>>>,
    pub(crate) cost_by: Option<Arc<CostFn<In>>>,
    pub(crate) policy: SchedulePolicy,
    pub(crate) adds_jobs: bool,
    /// Whether there is a schedule from the start on.
    pub(crate) is_scheduled: bool,
}
