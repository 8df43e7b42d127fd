//! What a pool did not finish, and errors that no handle or stream delivers.

use crate::error::JobError;
use crate::event::{JobId, Stats};

/// What a pool that was stopped did not finish.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "it holds the inputs that were not started"]
pub struct Report<In> {
    /// The inputs of jobs that never started, or that waited for another attempt, in the order in
    /// which they were accepted.
    pub unstarted: Vec<Unstarted<In>>,
    /// The jobs that were running and were interrupted, in the order in which they were accepted.
    pub interrupted: Vec<Interrupted>,
    /// The statistics at the end.
    pub stats: Stats,
}

impl<In> Report<In> {
    /// Whether all accepted jobs have ended.
    pub const fn is_complete(&self) -> bool {
        self.unstarted.is_empty() && self.interrupted.is_empty()
    }
}

/// A job that was not running when the pool was stopped: it never started, or it waited for another
/// attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unstarted<In> {
    /// The number of the job within its pool.
    pub id: JobId,
    /// The number of the job within its map or group; 0 for a job with a handle.
    pub index: usize,
    /// The input of the job.
    pub input: In,
    /// How many attempts were made.
    pub attempts: u32,
}

/// A job that was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interrupted {
    /// The number of the job within its pool.
    pub id: JobId,
    /// The number of the job within its map or group; 0 for a job with a handle.
    pub index: usize,
    /// How many attempts were made, the interrupted one included.
    pub attempts: u32,
}

/// An error that no handle or stream delivers; see
/// [`Pool::on_unhandled`](crate::Pool::on_unhandled).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unhandled<E> {
    /// The number of the job within its pool.
    pub id: JobId,
    /// How many attempts were made.
    pub attempts: u32,
    /// The error of the job.
    pub error: JobError<E>,
}
