//! The promises of the pool, one test each, on every executor of the [`harness`].

mod harness;
mod steps;

mod drops;
mod hazards;
mod local;
mod panics;
mod smoke;
