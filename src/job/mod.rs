//! The data of a job. Nothing here refers to the pool.
//!
//! [`queued`] is a job before it starts, [`current`] the job that a thread polls,
//! [`completion`] how a job of a map or group has ended, [`completion_queue`] the channel of
//! completions, and [`handle_state`] the state of a job with a handle.

pub(crate) mod completion;
pub(crate) mod completion_queue;
pub(crate) mod current;
pub(crate) mod handle_state;
pub(crate) mod queued;
