//! The promises of the pool, one test each, on every executor of the [`harness`].

mod harness;

mod cancellation;
mod core;
mod failures;
mod shutdown;
mod smoke;
mod streams;
mod submission;
