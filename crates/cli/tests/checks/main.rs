//! What the tool owes its users, checked from outside: the binary runs against a server on
//! loopback, and what the server saw and what the files hold is compared with the contract.
//!
//! The tests are short. `BRIGADE_CHECKS=whole` makes them as long as the contract says, which takes
//! a quarter of an hour. Throughput is asserted then, so that they need the machine for themselves:
//! `--release -- --test-threads 1`.

mod answers;
mod commands;
mod first_minute;
mod hostile;
mod input;
mod limits;
mod process;
mod progress;
mod requests;
mod resume;
mod scene;
mod stopping;

/// Whether the checks have the length of the contract.
fn is_whole() -> bool {
    std::env::var("BRIGADE_CHECKS").is_ok_and(|value| value == "whole")
}

/// A value of the short checks, and that of the whole ones.
fn scaled<T>(short: T, whole: T) -> T {
    if is_whole() { whole } else { short }
}
