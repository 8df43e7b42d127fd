//! Jobs from their acceptance to their end: [`admission`] counts them and grants permits,
//! [`injector`] and [`local`] carry them to the workers, [`running`] records which job runs in
//! which slot.
//!
//! A pool with a scheduling policy (priority, delay, rate, keys, retry, pause) holds accepted jobs
//! in its [`schedule`](crate::schedule), which releases each into the injector when a slot is free
//! for it. Without a policy, accepted jobs go straight into the injector.
//!
//! | part | guarded by | contents |
//! |---|---|---|
//! | [`Admission`](admission::Admission) | the shared state's lock | counts of queued, running and finished jobs; waiters for permits |
//! | [`Injector`](injector::Injector) | its own lock | queued jobs, for any worker |
//! | [`LocalQueue`](local::LocalQueue) | its own lock | jobs that a worker took in one batch and has not started, and its tally; at most one for each worker that is being polled |
//! | [`Schedule`](crate::schedule::Schedule) | the shared state's lock | jobs that are held back, and the records of those released or running |
//! | [`Running`](running::Running) | the shared state's lock | the job of each slot, and which jobs wait for their own pool |
//!
//! # Check and register
//!
//! Each wait follows one of two rules, so no wake-up is lost: check and register under one lock, or
//! register first and check again. In particular:
//!
//! * `Admission::accept`, `accept_reserved`, `commit` and `accept_extra` count a job as queued before
//!   the job is in the injector. So `is_idle` is false while a job is on its way there.
//! * `wait_idle` and `drain` check and register under the shared state's lock. A pool is idle when
//!   the admission counts no job and no outcome is being delivered: see `shared::idle`.
//! * An abort, or the last worker that leaves, meets a submission: see `shared::shutdown`.
//! * A cancellation of a map or group meets a submission to it, or a worker that starts one of its
//!   jobs: see `shared::cancel`.
//!
//! # Closing
//!
//! The injector is closed when the admission says that the pool has ended; from then on `push`
//! returns the job, which is abandoned. There are two cases:
//!
//! * The pool is closed and idle. What is left in the queue are tombstones, whose jobs have their
//!   outcomes.
//! * The last worker leaves. It (1) closes the injector, (2) takes all jobs out of it. A job
//!   accepted before is either taken by (2) or returned by `push`, so it is abandoned exactly once.
//!
//! A drain does not wait for permits, which may be held forever: a permit that is used after the
//! close fails with `Closed` and gives the input back.
//!
//! # Tombstones
//!
//! The input of a job with a handle is in its `HandleState`, not in the queue. Cancelling takes the
//! input out, drops it, records the outcome and frees the capacity; the entry that stays in the
//! queue is a *tombstone*, which a worker discards. Cancelling by a handle sweeps when the injector
//! holds more than 32 items and more than twice as many as there are queued jobs. So cancelling
//! cannot grow a queue that no worker takes from.

pub(crate) mod admission;
pub(crate) mod injector;
pub(crate) mod local;
pub(crate) mod running;

use std::num::NonZeroUsize;

/// Identifies a map or group of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StreamId(NonZeroUsize);

impl StreamId {
    /// The id of a map or group before which `earlier` were created.
    pub(crate) const fn new(earlier: usize) -> Self {
        Self(NonZeroUsize::MIN.saturating_add(earlier))
    }
}
