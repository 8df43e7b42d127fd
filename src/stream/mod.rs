//! Outcomes on their way to the consumer: the stream that [`map`] and [`group`] share, put in order
//! on request, summed up at the end. What comes in here is final; nothing is run or retried.

pub(crate) mod batches;
pub(crate) mod collect;
pub(crate) mod group;
pub(crate) mod map;
mod reader;
mod reorder;
mod summary;

pub use self::collect::CollectError;
pub use self::summary::{End, Summary};
