//! `brigade` runs one async function over many inputs, with bounds that hold, on any executor.
//!
//! A [`Pool`] has a number of workers, which are plain futures, and a queue. Each input becomes a
//! *job*; the *handler*, an async function of yours, runs on it; and the job has exactly one
//! outcome, as long as its executor polls or drops its workers: a value, an error, a time-out, a
//! panic, a cancellation, or abandonment, because its worker was dropped.
//!
//! ```
//! # #[cfg(feature = "smol")] {
//! use brigade::Pool;
//!
//! let pool = Pool::builder().workers(10).start(|word: &'static str| async move {
//!     if word.is_empty() { Err("nothing to measure") } else { Ok(word.len()) }
//! });
//! smol::block_on(async {
//!     let mut completions = pool.map(["bucket", "", "brigade"]).ordered();
//!     while let Some(completion) = completions.next().await {
//!         println!("{}: {:?}", completion.index, completion.result);
//!     }
//!     let summary = completions.summary();
//!     assert_eq!((summary.succeeded, summary.failed), (2, 1));
//!     assert!(summary.is_complete());
//! });
//! # }
//! ```
//!
//! # Which call?
//!
//! | you have | call | you get |
//! |---|---|---|
//! | a list or an iterator, and want all values or the first error | [`map(..)`](Pool::map)[`.try_collect()`](Map::try_collect) | `Vec<T>` |
//! | the same, each result as it comes, or in order | [`map(..)`](Pool::map), [`.ordered()`](Map::ordered) | a stream of [`Completion`]s |
//! | a `Stream`, such as a channel or the map of another pool | [`map_stream`](Pool::map_stream) | the same |
//! | items that may be bad and end the run, such as rows or pages | [`try_map`](Pool::try_map), [`try_map_stream`](Pool::try_map_stream) | a stream of `Result<Completion, F>` |
//! | items to be handled in lists of up to n | [`map_stream`](Pool::map_stream) of [`batches`](Pool::batches) | one completion a list |
//! | one input; wait for room | [`submit`](Pool::submit) | a [`JobHandle`], which is a future |
//! | one input; refuse when the queue is full | [`try_submit`](Pool::try_submit) | the same, or the input back |
//! | one input with a priority, a delay or a time limit | [`job(input)`](Pool::job)[`.priority(..)`](Job::priority), then `submit` or `try_submit` | the same |
//! | an input to be made only when there is room | [`reserve`](Pool::reserve), then [`permit.submit`](Permit::submit) | the same |
//! | a handle, in a loop that must not wait | [`handle.try_take()`](JobHandle::try_take) | the result, if it is there |
//! | inputs that come bit by bit, and results together | [`group`](Pool::group) | a stream, or [`join()`](Group::join) |
//! | jobs that find jobs | [`build_with_submitter`](Builder::build_with_submitter), then `map` | a stream that ends after the last of them |
//! | futures of any type | [`TaskPool`] | a [`TaskHandle`] each |
//! | jobs of a durable queue, shared with other processes | [`broker::serve`] | a report, and results in the queue |
//!
//! Seven types are enough for most programs: [`Pool`], [`Builder`], [`JobHandle`], [`Map`],
//! [`Completion`], [`Retry`] and [`RateLimit`].
//!
//! A handler that needs a client of its own clones it for each job:
//!
//! ```
//! # #[cfg(feature = "smol")] {
//! use brigade::Pool;
//! use std::convert::Infallible;
//! use std::sync::Arc;
//!
//! let client = Arc::new("client".to_owned());
//! let pool = Pool::builder().start(move |path: &'static str| {
//!     let client = client.clone();
//!     async move { Ok::<_, Infallible>(format!("{client} got {path}")) }
//! });
//! let page = smol::block_on(async { pool.submit("/").await.unwrap().await });
//! assert_eq!(page.unwrap(), "client got /");
//! # }
//! ```
//!
//! # The way of a job
//!
//! ```text
//!  submit · reserve · map · group                                   JobHandle · Map · Group
//!      │                                                                       ▲
//!      ▼                                                                       │
//!   submit ───► queue ──────► worker ──────► attempt ──────► outcome ────► stream
//!      ▲        room, order,  takes a        time limit,     exactly one,   as they finish
//!      │        rate, keys    ready job      panic guard,    counted        or in order;
//!      │          ▲                          handler            │           summary
//!      │          └───────── retry: not before its time ◄───────┘
//!      └──────── Submitter::add: jobs that a running job adds
//! ```
//!
//! * **One input:** [`Pool::submit`] waits for room and returns a [`JobHandle`], a future of the
//!   result.
//! * **Many:** [`Pool::map`] pulls inputs as there is room and is a stream of [`Completion`]s.
//! * **Some that belong together:** [`Pool::group`].
//! * **Futures of any type:** [`TaskPool`].
//! * **Deliveries of a durable queue**, such as SQLite or RabbitMQ: the module [`broker`].
//! * **The executor:** `Builder::start` uses smol's, which has one thread unless `SMOL_THREADS`
//!   says more; [`spawn_on`](Builder::spawn_on) takes any that implements [`Spawn`];
//!   [`build`](Builder::build) hands out the [`Workers`], for you to poll. [`Workers::drive`] runs
//!   them inside your own future, so that handlers may borrow.
//! * **Kinds of handlers:** the input alone; with a state for each worker
//!   ([`build_with_state`](Builder::build_with_state)); with the means to add jobs
//!   ([`build_with_submitter`](Builder::build_with_submitter)).
//! * **How many run at once:** [`workers`](Builder::workers), each a task of the executor, times
//!   [`jobs_per_worker`](Builder::jobs_per_worker), which one worker polls itself.
//! * **When jobs start:** [`Job::priority`] and [`delay`](Job::delay); [`Builder::rate_limit`],
//!   [`key_by`](Builder::key_by), [`retry`](Builder::retry). A pool that has none of these pays for
//!   none.
//! * **While it runs:** [`pause`](Pool::pause), [`set_workers`](Pool::set_workers),
//!   [`set_rate_limit`](Pool::set_rate_limit), [`set_key_limits`](Pool::set_key_limits),
//!   [`hold_key`](Pool::hold_key), [`running`](Pool::running), [`stats`](Pool::stats).
//! * **The end:** [`drain`](Pool::drain), [`drain_within`](Pool::drain_within),
//!   [`abort`](Pool::abort).
//!
//! [`Builder`] lists all options, their defaults, and what is bounded by what.
//!
//! # What dropping means
//!
//! | dropped | then |
//! |---|---|
//! | [`JobHandle`] | its job is cancelled: queued, it never starts; running, its future is dropped at its next await. `let _ = pool.submit(..).await` drops it at once; [`detach`](JobHandle::detach) lets the job go on |
//! | [`Map`], [`Group`] | what is left of its jobs is cancelled in the same way |
//! | future of `next` on these | nothing is lost |
//! | future of [`submit`](Pool::submit) | nothing was accepted; the input is dropped with it |
//! | [`Permit`] | its place goes to the next in line |
//! | last [`Pool`], [`Map`]s and [`Group`]s included | the pool is closed: what was accepted is done, then the workers end |
//! | a [`Worker`], or its future | the jobs that it runs are [abandoned](JobError::Abandoned); queued jobs are left to the other workers |
//! | the last worker | what is queued is abandoned too, and the pool takes no more |
//! | the executor | its workers, as above. One that is neither polled nor dropped leaves its jobs waiting |
//! | future of [`drive`](Workers::drive) | all workers, as above |
//! | future of [`wait_idle`](Pool::wait_idle) | nothing changes |
//! | future of [`drain`](Pool::drain) | the pool stays closed |
//! | future of [`drain_within`](Pool::drain_within) | before its time is over: the pool stays closed, and nothing is aborted |
//! | future of [`abort`](Pool::abort) | the abort goes on; another call returns the report |
//! | future of [`cancel`](JobHandle::cancel) | the cancellation goes on |
//!
//! A future that was never polled has done nothing. The exception is [`cancel`](JobHandle::cancel),
//! which acts when it is called.
//!
//! # Features
//!
//! | feature | brings | without it |
//! |---|---|---|
//! | `smol` (default) | `Builder::start`, `Builder::start_tasks`, `rt::SmolGlobal`; implies `async-io` | `spawn_on` or `build`, with an executor of yours |
//! | `async-io` | the timer that a pool has unless another is set, `rt::AsyncIoTimer` | [`Builder::timer`] has to be called |
//! | `csv` (default) | the module `csv`: rows of files as inputs, results as rows | no such module |
//! | `tracing` | a span `job` with `id`, `attempt` and `worker`, entered around each poll of a handler | no spans; [`Observer`] sees events either way |
//! | `testing` | the module `testing`: a simulator for pools and for handlers of yours, with seeds, faults and traces; and `broker::conformance`, tests for brokers of yours | no such modules |
//!
//! Features add up: none of them takes anything away or changes what another one brings.
//!
//! # Blocking work
//!
//! Workers share threads with whatever else the executor runs. A handler that blocks, or computes
//! for long, holds up all of it, and its own time limit with it: a limit can stop a handler only
//! where it awaits. `blocking::unblock`, which smol offers as `smol::unblock`, runs a closure on a
//! thread that may wait and is a future of its value. [`Builder::slow_poll`] reports handlers that
//! need it.
//!
//! # What is not contained
//!
//! * **`panic = "abort"`**: the first panic ends the process. [`panic_isolation`] says whether it
//!   is so.
//! * **A panic in a drop while another panic unwinds** ends the process, as everywhere in Rust.
//! * **A handler that never yields** cannot be stopped: not by a time limit, not by a cancellation,
//!   not by an abort.
//! * **A fork**: a pool is not for use in a forked child. The threads that poll its workers are not
//!   there, and a lock may be held forever. The library itself starts no thread; the executor and
//!   the timer may.
#![forbid(unsafe_code)]

pub mod broker;
mod builder;
mod channel;
#[cfg(feature = "csv")]
pub mod csv;
mod error;
mod event;
pub mod handler;
mod job;
mod key;
#[cfg(all(test, brigade_model = "loom"))]
mod loom_tests;
mod panic;
mod policy;
mod pool;
mod queue;
mod report;
pub mod rt;
mod schedule;
mod shared;
mod spares;
mod stream;
mod submit;
mod sync;
mod task_pool;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
mod worker;

// Behind `pool`, since rustdoc lists the methods of `Pool` in the order of their modules:
// submitting first.
mod control;

pub use crate::builder::Builder;
pub use crate::error::{CancelReason, JobError, SubmitError, TimeLimit};
pub use crate::event::{Event, JobId, Observer, Outcome, RunningJob, Stats};
pub use crate::job::completion::{Completion, OnError};
pub use crate::key::Key;
pub use crate::panic::{PanicMessage, panic_isolation};
pub use crate::policy::retry::{
    Jitter, Retry, RetryAfterScope, RetryBudget, RetryDecision, Retrying,
};
pub use crate::pool::Pool;
pub use crate::report::{Interrupted, Report, Unhandled, Unstarted};
pub use crate::rt::{ManualTimer, Spawn, Timer};
pub use crate::schedule::lanes::KeyLimits;
pub use crate::schedule::limiter::RateLimit;
pub use crate::stream::batches::Batches;
pub use crate::stream::group::Group;
pub use crate::stream::map::{Map, Next};
pub use crate::stream::source::{Inputs, Pulled, Source, TryInputs};
pub use crate::stream::{CollectError, End, Summary};
pub use crate::submit::{Cancelling, Job, JobHandle, Permit, Submitter};
pub use crate::task_pool::{TaskHandle, TaskPool};
pub use crate::worker::{RunHandler, Worker, Workers};

/// The way in for fuzzers, to what is not public.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub fn schedule(data: &[u8]) {
        crate::schedule::reference::drive(data);
    }
}

/// The code of these pages is compiled and run as tests.
#[cfg(all(doctest, feature = "smol"))]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/design.md")]
    struct Design;
}
