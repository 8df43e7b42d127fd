//! Rows that go through a queue, which outlives processes and which any number of them work on.
//!
//! `enqueue` puts the rows of a file into the queue; `work` takes them as jobs, runs what `brigade
//! run` or `brigade fetch` runs, and acknowledges each with its answer; `results` writes the answers
//! to a file; `status` counts.
//!
//! ```text
//!  file ─► enqueue ─► Payload ─► queue ─► work ─► Outcome ─► queue ─► results ─► answers file
//! ```

mod address;
pub(crate) mod enqueue;
mod payload;
pub(crate) mod results;
mod rows;
pub(crate) mod status;
mod watched;
pub(crate) mod work;
