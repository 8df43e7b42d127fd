//! The tool `brigade`: fetches a URL or runs a command for each row of a CSV file, and reports on what came out.
#![forbid(unsafe_code)]

mod answers;
mod demo;
mod feed;
mod fetch;
mod report;
mod run;

fn main() {}
