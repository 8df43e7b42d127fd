//! Measures undisturbed workers, whose jobs do nothing.
//!
//! 1. [`Queue::enqueue`] fills the queue.
//! 2. [`Crew::keep`] starts the workers, which serve until it is empty.
//! 3. [`Crew::dismiss`] reads their reports: when each had its first delivery, when it had settled
//!    its last one, and its processor time.
//! 4. [`Queue::read_results`] reads the results, and [`Tally::check`] compares them with the jobs.
//!
//! In the line that it prints, `work` counts from the start of the processes to the last settlement, and
//! `working` from the first delivery; `results` is how fast they are read, by this process alone.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use brigade_sqlite::Durability;
use clap::{Args, ValueEnum};

use crate::controller::{Crew, Queue, Tally};
use crate::queue::{Kind, Work};
use crate::watched;

/// How long all results may take to be read.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Args)]
pub(crate) struct Plan {
    /// The queue: a SQLite file, or one of the RabbitMQ server of `BRIGADE_AMQP_URL`
    kind: Kind,
    /// How many jobs there are
    #[arg(long, default_value_t = 10_000)]
    jobs: u64,
    /// How many workers run, in processes of their own
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// The size of a payload, in bytes
    #[arg(long, default_value_t = 100)]
    payload: usize,
    /// What a commit to a SQLite file survives: a process that dies, or a loss of power too
    #[arg(long, default_value = "full")]
    durability: DurabilityName,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DurabilityName {
    Normal,
    Full,
}

pub(crate) fn run(plan: &Plan) -> Result<(), String> {
    let kind = plan.kind;
    let durability = match plan.durability {
        DurabilityName::Normal => Durability::Normal,
        DurabilityName::Full => Durability::Full,
    };
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut queue = Queue::open(kind, directory.path(), durability)?;
    let start = Instant::now();
    queue.enqueue(plan.jobs, plan.payload)?;
    let enqueued = start.elapsed();

    let mut crew = Crew::new(None, None);
    let start = Duration::from_nanos(watched::now());
    crew.keep(plan.workers, &queue, || 0)?;
    let reports = crew.dismiss()?.ok_or("a worker was killed")?;
    let mut tally = Tally::default();
    let begin = Instant::now();
    loop {
        queue.read_results(&mut tally)?;
        if tally.ended() >= plan.jobs || begin.elapsed() > PATIENCE {
            break;
        }
        // A server may take a moment to deliver what it has.
        thread::sleep(Duration::from_millis(20));
    }
    let read = begin.elapsed();
    tally.check(plan.jobs, kind, |_| Work::Nothing)?;

    let rate = |time: Duration| plan.jobs as f64 / time.as_secs_f64();
    let path = match &queue {
        Queue::Sqlite { path, .. } => Some(path.clone()),
        Queue::Amqp { .. } => None,
    };
    // Moves what is in SQLite's log into the file.
    queue.close();
    print!(
        "scale: {kind:?} jobs={} workers={} payload={} enqueue={:.0}/s work={:.0}/s \
         working={:.0}/s start={:.3}s results={:.0}/s cpu={:.4}s/1000 redelivered={}",
        plan.jobs,
        plan.workers,
        plan.payload,
        rate(enqueued),
        rate(reports.last.saturating_sub(start)),
        rate(reports.last.saturating_sub(reports.first)),
        reports.first.saturating_sub(start).as_secs_f64(),
        rate(read),
        reports.cpu.as_secs_f64() * 1000.0 / plan.jobs as f64,
        reports.redelivered,
    );
    if let Some(path) = path {
        let file = fs::metadata(path).map_err(|error| error.to_string())?;
        let megabytes = file.len() as f64 / 1e6;
        print!(" durability={durability:?} file={megabytes:.1}MB");
    }
    println!();
    Ok(())
}
