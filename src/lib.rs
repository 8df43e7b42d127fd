//! `brigade` runs one async function over many inputs, with bounds that hold, on any executor.
#![forbid(unsafe_code)]

mod attempt;
mod builder;
#[cfg(feature = "csv")]
pub mod csv;
mod engine;
mod error;
pub mod handler;
mod observe;
mod pool;
mod queue;
mod reply;
mod results;
pub mod rt;
mod submit;
mod task_pool;
mod worker;

pub use crate::attempt::unwind::panic_isolation;
pub use crate::builder::Builder;
pub use crate::error::{CancelReason, CollectError, JobError, PanicMessage, SubmitError, TimeLimit};
pub use crate::observe::{Event, JobId, Observer, Outcome, Stats};
pub use crate::pool::{Interrupted, Pool, Report, Unhandled, Unstarted};
pub use crate::results::batches::Batches;
pub use crate::results::group::Group;
pub use crate::results::map::{Inputs, Map, Pulled, Source, TryInputs};
pub use crate::results::{Completion, End, OnError, Summary};
pub use crate::rt::{ManualTimer, Spawn, Timer};
pub use crate::submit::{Cancelling, Job, JobHandle, Permit, Submitter};
pub use crate::task_pool::{TaskHandle, TaskPool};
pub use crate::worker::{Worker, Workers};
