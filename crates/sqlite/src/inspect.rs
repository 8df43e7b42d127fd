//! What a queue shows of itself.

use std::time::SystemTime;

use brigade::broker::{DeadLetter, JobId};

/// How many jobs are in each state, at one moment. Each job is in one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Jobs that a fetch would get, those whose lease has ended included.
    pub ready: u64,
    /// Jobs whose delay is not over.
    pub delayed: u64,
    /// Jobs that a consumer holds.
    pub leased: u64,
    /// Jobs that were acknowledged and not purged.
    pub done: u64,
    /// Jobs that were dead-lettered.
    pub dead: u64,
}

/// A job that a consumer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// The identity of the job.
    pub job_id: JobId,
    /// When the lease ends unless it is extended, by the system clock.
    pub until: SystemTime,
    /// How many times the job was delivered, this time included.
    pub delivery_count: u32,
}

/// The result of an acknowledged job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredResult {
    /// Its place in the order of completion: greater than that of every earlier result.
    pub cursor: i64,
    /// The identity of the job.
    pub job_id: JobId,
    /// What was stored; `None` if the job was acknowledged without a result.
    pub payload: Option<Vec<u8>>,
}

/// A dead letter and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredDeadLetter {
    /// Its place in the order of burial: greater than that of every earlier dead letter.
    pub cursor: i64,
    /// Job and reason.
    pub letter: DeadLetter,
}
