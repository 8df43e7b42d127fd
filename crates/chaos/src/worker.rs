//! A worker: serves the queue with a pool until stdin is closed, and notes each run of a job in a
//! file that all workers append to.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use brigade::Pool;
use brigade::broker::{Broker, JobId, ServeOptions, serve};
use clap::Args;
use smol::Timer;

use crate::queue::{self, Address, LONG, MAX_DELIVERIES, Work};

/// How many jobs a worker runs at once.
const AT_ONCE: usize = 16;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The queue
    address: String,
    /// The file of runs
    runs: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<(), String> {
    let address = Address::parse(&options.address)
        .ok_or_else(|| format!("no address: {}", options.address))?;
    let runs = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&options.runs)
        .map_err(|error| format!("{}: {error}", options.runs.display()))?;
    smol::block_on(async {
        match address {
            Address::Sqlite { path, clock } => {
                work(queue::sqlite(&path, clock).await?, &runs).await
            }
            Address::Amqp { url, queue } => work(queue::amqp(&url, &queue).await?, &runs).await,
        }
    })
}

/// Serves until stdin is closed; prints the report.
async fn work<B: Broker>(broker: B, runs: &File) -> Result<(), String> {
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
                    Work::Short => {
                        Timer::after(Duration::from_micros(fastrand::u64(..100_000))).await
                    }
                    Work::Long => Timer::after(LONG).await,
                    Work::Poison => std::process::abort(),
                };
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
    let served = workers.drive(serve(&broker, &pool, options)).await;
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
        "{} {} {} {}",
        report.fetched, report.redelivered, report.lost, report.unsettled
    );
    Ok(())
}
