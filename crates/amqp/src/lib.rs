//! stub
#![forbid(unsafe_code)]

mod broker;
mod error;
mod message;
mod operate;
mod options;
mod runtime;
mod session;
mod source;
mod topology;
mod wait;

pub use broker::{AmqpBroker, AmqpReceipt};
pub use operate::{Counts, StoredResult};
pub use options::AmqpOptions;
