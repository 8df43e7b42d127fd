//! Streams of jobs: maps ([`map`]) and groups ([`group`]). Inside the crate, variables that are called
//! `stream` are the [`CompletionQueue`](crate::job::completion_queue::CompletionQueue) of one.
//!
//! In: inputs, and completions of the completion queue. Out: completions for the user, in the order
//! of the inputs on request ([`reorder`]), and a [`Summary`]. Nothing here runs or retries a job.

pub(crate) mod batches;
pub(crate) mod collect;
pub(crate) mod group;
pub(crate) mod map;
mod reader;
mod reorder;
pub(crate) mod source;
mod summary;

pub use self::collect::CollectError;
pub use self::summary::{End, Summary};
