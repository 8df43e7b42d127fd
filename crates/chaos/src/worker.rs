//! A worker: serves the queue with a pool, and prints a report.
//!
//! With a file of runs, which all workers append to, it notes each run of a job there, and serves
//! until stdin is closed. Without, its jobs do nothing, and it serves until the queue is empty.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use brigade::Pool;
use brigade::broker::{Broker, JobId, ServeError, ServeOptions, ServeReport, serve};
use clap::Args;
use rustix::time::{ClockId, clock_gettime};
use smol::Timer;

use crate::queue::{self, Address, LEASE, LONG, MAX_DELIVERIES, Work};
use crate::watched::{Watched, nanoseconds};

/// How many jobs a worker runs at once.
const AT_ONCE: usize = 16;
/// How many there are where they do nothing; as many deliveries are held.
const NOTHING_AT_ONCE: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The queue
    address: String,
    /// The file of runs
    runs: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<(), String> {
    let address = Address::parse(&options.address)
        .ok_or_else(|| format!("no address: {}", options.address))?;
    let runs = options.runs.as_ref().map(|runs| {
        let file = OpenOptions::new().append(true).create(true).open(runs);
        file.map_err(|error| format!("{}: {error}", runs.display()))
    });
    let runs = runs.transpose()?;
    smol::block_on(async {
        match address {
            Address::Sqlite {
                path,
                clock,
                durability,
            } => {
                let lease = match runs {
                    Some(_) => LEASE,
                    None => brigade_sqlite::Options::DEFAULT_LEASE,
                };
                let broker = queue::sqlite(&path, clock, durability, lease).await?;
                work(broker, runs).await
            }
            Address::Amqp { url, queue } => work(queue::amqp(&url, &queue).await?, runs).await,
        }
    })
}

async fn work<B: Broker>(broker: B, runs: Option<File>) -> Result<(), String> {
    let broker = Watched::new(broker);
    let served = match runs {
        Some(runs) => until_stdin_is_closed(&broker, &runs).await,
        None => until_empty(&broker).await,
    };
    report(&broker, served).await
}

/// Serves jobs that do nothing, with results of 8 bytes.
async fn until_empty<B: Broker>(broker: &Watched<B>) -> Result<ServeReport, ServeError> {
    let (pool, workers) = Pool::builder()
        .workers(1)
        .jobs_per_worker(NOTHING_AT_ONCE)
        .build(async |payload: Vec<u8>| Ok::<usize, Infallible>(payload.len()));
    let decode = |_: &JobId, payload| Ok::<Vec<u8>, Infallible>(payload);
    let encode = |_: &JobId, length: usize| Some(length.to_be_bytes().to_vec());
    let options = ServeOptions::new(decode, encode)
        .on_error(|error| eprintln!("{error}"))
        .until_empty();
    workers.drive(serve(broker, &pool, options)).await
}

async fn until_stdin_is_closed<B: Broker>(
    broker: &Watched<B>,
    runs: &File,
) -> Result<ServeReport, ServeError> {
    let (pool, workers) =
        Pool::builder()
            .workers(1)
            .jobs_per_worker(AT_ONCE)
            .build(async |number: u64| {
                // One write of a line: lines of several processes do not mix.
                let mut runs = runs;
                runs.write_all(format!("{number}\n").as_bytes())
                    .map_err(|error| error.to_string())?;
                match Work::of(number) {
                    Work::Nothing => {}
                    Work::Short => {
                        Timer::after(Duration::from_micros(fastrand::u64(..100_000))).await;
                    }
                    Work::Long => {
                        Timer::after(LONG).await;
                    }
                    Work::Poison => std::process::abort(),
                }
                Ok::<u64, String>(number)
            });
    let decode = |_: &JobId, payload: Vec<u8>| {
        let text = String::from_utf8(payload).map_err(|error| error.to_string())?;
        text.parse().map_err(|_| format!("no number: {text}"))
    };
    let encode = |_: &JobId, number: u64| Some(number.to_string().into_bytes());
    let options = ServeOptions::new(decode, encode)
        .max_deliveries(MAX_DELIVERIES)
        .on_error(|error| eprintln!("{error}"))
        .until(async {
            // Blocks a thread of its own until the other end is closed.
            smol::unblock(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
                .await
                .ok();
        });
    workers.drive(serve(broker, &pool, options)).await
}

/// Closes the broker and prints the report.
async fn report<B: Broker>(
    broker: &Watched<B>,
    served: Result<ServeReport, ServeError>,
) -> Result<(), String> {
    let report = match served {
        Ok(report) => report,
        Err(error) => return Err(format!("{error}, after {:?}", error.report)),
    };
    broker.close().await.map_err(|error| error.to_string())?;
    let settled = report.acked + report.retried + report.released + report.dead_lettered;
    if report.fetched != settled + report.lost + report.unsettled {
        return Err(format!("the report does not add up: {report:?}"));
    }
    println!(
        "{} {} {} {} {} {} {}",
        report.fetched,
        report.redelivered,
        report.lost,
        report.unsettled,
        broker.first(),
        broker.last(),
        nanoseconds(clock_gettime(ClockId::ProcessCPUTime)),
    );
    Ok(())
}
