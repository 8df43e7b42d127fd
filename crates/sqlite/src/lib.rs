//! Placeholder.
#![forbid(unsafe_code)]

mod broker;
mod error;
mod file;
mod inspect;
mod options;
mod queue;
mod shared;
mod sql;

pub use broker::SqliteBroker;
pub use inspect::{Counts, Lease, StoredDeadLetter, StoredResult};
pub use options::{Durability, Options};
pub use queue::Receipt;
