//! The promises of the pool, one test each, on every executor of the [`harness`].

mod harness;
mod steps;

mod auto_traits;
mod basics;
mod cancellation;
mod clocks;
mod control;
mod drops;
mod endings;
mod errors;
mod failures;
mod handles;
mod keys;
mod local;
mod manual;
mod order;
mod panics;
mod rates;
mod redaction;
mod reentrancy;
mod retries;
mod serve;
mod shutdown;
mod slots;
mod streams;
mod submission;
mod timeouts;
mod timer_role;
mod waits;
mod wakeups;
