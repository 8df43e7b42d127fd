//! A durable job queue in one SQLite file, for any number of processes of one machine. No server.
//!
//! **Deliveries are at least once, and a job is acknowledged late**: after its result is there, never
//! when it is fetched. A process that dies leaves the jobs that it held to others once their leases
//! end, and they run again. So a handler has to be idempotent; the
//! [`JobId`](brigade::broker::JobId), which the producer makes, is its key. A job may *run* twice; it
//! has one *result*, since result and acknowledgement are one transaction.
//!
//! [`SqliteBroker`] is a [`Broker`](brigade::broker::Broker) for the worker pool
//! [`brigade`](https://docs.rs/brigade). It needs no executor of its own and no tokio: SQLite runs on
//! the threads of the crate `blocking`.
//!
//! ```
//! use brigade::Pool;
//! use brigade::broker::{Broker, NewJob, ServeOptions, serve};
//! use brigade::rt::AsyncIoTimer;
//! use brigade_sqlite::SqliteBroker;
//!
//! # futures_lite::future::block_on(async {
//! # let directory = tempfile::tempdir().unwrap();
//! # let path = directory.path().join("jobs.queue");
//! // A producer. What it has enqueued survives the process, and the power.
//! let producer = SqliteBroker::open(&path).await.unwrap();
//! let jobs = ["1", "2", "x"].map(|number| NewJob::new(format!("square {number}"), number));
//! producer.enqueue(jobs.to_vec()).await.unwrap();
//! producer.enqueue(jobs.to_vec()).await.unwrap(); // Known ids: nothing happens.
//!
//! // A consumer, here or in another process: a pool, and how payloads become inputs and values
//! // become results.
//! let consumer = SqliteBroker::open(&path).await.unwrap();
//! let (pool, workers) = Pool::builder()
//!     .workers(1)
//!     .timer(AsyncIoTimer)
//!     .build(|text: String| async move { text.parse::<u32>().map(|number| number * number) });
//! let options = ServeOptions::new(
//!     |_, payload| String::from_utf8(payload),
//!     |_, square: u32| Some(square.to_string().into_bytes()),
//! );
//! let options = options.max_deliveries(1).until_empty();
//! let report = workers.drive(serve(&consumer, &pool, options)).await.unwrap();
//! assert_eq!((report.fetched, report.acked, report.dead_lettered), (3, 2, 1));
//! consumer.close().await.unwrap();
//!
//! let results = producer.results_after(0, 100).await.unwrap();
//! let results: Vec<_> = results.into_iter().map(|result| result.payload.unwrap()).collect();
//! assert_eq!(results, [b"1", b"4"]);
//! let letters = producer.dead_letters_after(0, 100).await.unwrap();
//! assert_eq!(letters[0].letter.reason, "invalid digit found in string");
//! # });
//! ```
//!
//! # What is guaranteed
//!
//! | when | then |
//! |---|---|
//! | `enqueue` returns | all of its jobs are in the file; after an error, or if the future was dropped, all or none |
//! | a job with a known id is enqueued | nothing happens, whether that job is ready, held, dead or done; ids of [purged](SqliteBroker::purge_results) results are forgotten |
//! | a process is killed, at any instruction | what was returned as done is done; what it held is delivered again when its lease ends |
//! | the power goes | the same with [`Durability::Full`], the default; with [`Durability::Normal`] the last commits may be undone, as a whole and in order |
//! | the file system is full | calls fail with an error that is not permanent, and change nothing; they succeed once there is room |
//! | two consumers have the same job, since a lease ended | one of them stores its result; the other gets [`SettleError::LeaseLost`](brigade::broker::SettleError::LeaseLost) |
//! | a `fetch` is dropped | what it had reserved is released in the background |
//! | a handle is [closed](brigade::broker::Broker::close) | what it held is released; if it is dropped, the leases end |
//! | the system clock is set forward | leases may end early: jobs run again |
//! | the system clock is set back | leases keep their lengths; delays last longer by as much |
//! | jobs wait by the million | a job costs the same one by one, and a third more in batches, if ids come in some order, as numbers of rows or UUIDs of version 7 do; with random ones an enqueueing costs about twice as much |
//!
//! The fence of a settlement is the number of the delivery, not the time: clocks decide when a job is
//! delivered again, and never whether it has a second result. A delivery whose lease has ended, and
//! whose job was not claimed since, can still be settled.
//!
//! # What it is not for
//!
//! - **Network file systems.** SQLite's log needs shared memory and locks that work; on NFS and SMB
//!   they do not, and files are damaged.
//! - **More than one machine.** Use a broker with a server.
//! - **Writers in parallel.** A file has one writer at a time. Calls that wait share a transaction,
//!   and batches cost far less a job than single ones: some 20 µs in batches of 100, where a job alone
//!   takes a few hundred. `examples/sqlite_throughput.rs` measures it.
//! - **A file that is opened by other means.** Opening and closing it in the same process by anything
//!   but this crate's SQLite ends SQLite's locks (a POSIX rule). To copy it, use `VACUUM INTO` or
//!   `sqlite3 jobs.queue ".backup copy"`; beside it lie `-wal` and `-shm`, which belong to it.
//!
//! Results and the ids of their jobs stay in the file until they are purged.
#![forbid(unsafe_code)]

mod broker;
mod error;
mod file;
mod inspect;
mod options;
mod queue;
mod shared;
mod sql;

pub use broker::SqliteBroker;
pub use inspect::{Counts, Lease, StoredDeadLetter, StoredResult};
pub use options::{Durability, Options};
pub use queue::Receipt;
