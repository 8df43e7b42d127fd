//! The promises of the pool, one test each, on every executor of the [`harness`].

mod harness;
mod steps;

mod cancellation;
mod clocks;
mod control;
mod core;
mod drops;
mod endings;
mod errors;
mod failures;
mod handles;
mod hazards;
mod keys;
mod local;
mod manual;
mod measures;
mod order;
mod panics;
mod rates;
mod redaction;
mod retries;
mod shutdown;
mod slots;
mod smoke;
mod streams;
mod submission;
mod timekeeper;
mod timeouts;
mod waits;
