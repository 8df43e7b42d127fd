//! The summary of a map or group: how its jobs have ended, and how it has ended itself.
//!
//! In: results that are read. Out: counters. Pure.

use std::fmt;

use crate::error::{CancelReason, JobError};

/// The counts of the jobs of a map or group, and how it has ended.
///
/// `accepted == succeeded + failed + timed_out + panicked + cancelled + abandoned + rejected +
/// unread`, always.
#[derive(Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Jobs that were accepted.
    pub accepted: usize,
    /// Jobs read so far whose handler returned `Ok`.
    pub succeeded: usize,
    /// Jobs read so far whose handler returned `Err`.
    pub failed: usize,
    /// Jobs read so far whose time limit passed.
    pub timed_out: usize,
    /// Jobs read so far that panicked.
    pub panicked: usize,
    /// Jobs read so far that were cancelled.
    pub cancelled: usize,
    /// Jobs read so far whose worker was dropped.
    pub abandoned: usize,
    /// Jobs read so far whose cost exceeds what a rate limit ever allows.
    pub rejected: usize,
    /// Jobs that are queued, running, or finished and not read yet.
    pub unread: usize,
    /// How the map or group has ended.
    pub end: End,
    /// Whether an abort of the pool has cancelled a job.
    saw_abort: bool,
}

/// How a map or a group ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum End {
    /// It has not ended.
    #[default]
    Unfinished,
    /// Every input of the source became a job, and each job has an outcome of its own: none was
    /// cancelled or abandoned. A group is complete when all its jobs are read.
    Complete,
    /// It stopped after the number of failures that [`OnError`](crate::OnError) allows.
    Stopped,
    /// It was cancelled.
    Cancelled,
    /// The pool was closed before the source was exhausted.
    Closed,
    /// The pool was aborted.
    Aborted,
    /// Workers were dropped, so jobs have no result.
    Abandoned,
    /// It was awaited inside a job of the same pool, and no job could ever have started again.
    WouldDeadlock,
    /// The source failed; jobs of its earlier inputs have ended.
    SourceFailed,
    /// Its [deadline](crate::Map::deadline) passed.
    TimedOut,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unfinished => "it is not over yet",
            Self::Complete => "all inputs had their turn",
            Self::Stopped => "it stopped after a failure",
            Self::Cancelled => "it was cancelled",
            Self::Closed => "the pool was closed before the source was exhausted",
            Self::Aborted => "the pool was aborted",
            Self::Abandoned => "workers were dropped",
            Self::WouldDeadlock => {
                "the wait could never end: jobs of the pool wait for the pool itself"
            }
            Self::SourceFailed => "the source failed",
            Self::TimedOut => "its deadline passed",
        })
    }
}

impl fmt::Debug for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Summary")
            .field("accepted", &self.accepted)
            .field("succeeded", &self.succeeded)
            .field("failed", &self.failed)
            .field("timed_out", &self.timed_out)
            .field("panicked", &self.panicked)
            .field("cancelled", &self.cancelled)
            .field("abandoned", &self.abandoned)
            .field("rejected", &self.rejected)
            .field("unread", &self.unread)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl Summary {
    /// Whether every input became a job and each job has an outcome of its own, failures included.
    pub fn is_complete(&self) -> bool {
        self.end == End::Complete
    }

    pub(crate) const fn count_success(&mut self) {
        self.accepted += 1;
        self.succeeded += 1;
    }

    pub(crate) fn count<T, E>(&mut self, result: &Result<T, JobError<E>>) {
        self.accepted += 1;
        let counter = match result {
            Ok(_) => &mut self.succeeded,
            Err(JobError::Failed(_)) => &mut self.failed,
            Err(JobError::TimedOut(_)) => &mut self.timed_out,
            Err(JobError::Panicked(_)) => &mut self.panicked,
            Err(JobError::Cancelled(reason)) => {
                self.saw_abort |= *reason == CancelReason::Aborted;
                &mut self.cancelled
            }
            Err(JobError::Abandoned | JobError::WouldDeadlock) => &mut self.abandoned,
            Err(JobError::CostExceedsLimit { .. }) => &mut self.rejected,
        };
        *counter += 1;
    }

    /// The end that outcomes of jobs determine, if any.
    pub(crate) const fn end_of_jobs(&self) -> Option<End> {
        if self.saw_abort {
            Some(End::Aborted)
        } else if self.abandoned > 0 {
            Some(End::Abandoned)
        } else {
            None
        }
    }
}
