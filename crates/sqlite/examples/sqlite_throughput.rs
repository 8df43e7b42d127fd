//! Jobs per second through a queue file, for jobs that do nothing: each is enqueued, fetched and
//! acknowledged with a result of 8 bytes.
//!
//! ```sh
//! cargo run --release -p brigade-sqlite --example sqlite_throughput             # all tables
//! cargo run --release -p brigade-sqlite --example sqlite_throughput -- queued   # one: modes, queued, payload, random, callers, counts
//! ```
//!
//! The files are made in the directory `THROUGHPUT_DIR`, or in that for temporary files: what is
//! measured is its file system too.

use std::env;
use std::time::{Duration, Instant};

use brigade::broker::{Ack, Broker, NewJob};
use brigade_sqlite::{Durability, Options, SqliteBroker};
use futures_lite::future::block_on;

/// One measurement.
#[derive(Clone, Copy)]
struct Run {
    durability: Durability,
    /// Jobs in the queue all the while.
    queued: usize,
    /// Jobs that are measured.
    jobs: usize,
    batch: usize,
    payload: usize,
    /// Whether ids come in no order, as UUIDs do.
    random: bool,
}

struct Measured {
    enqueue: Duration,
    fetch: Duration,
    ack: Duration,
}

fn main() {
    let table = env::args().nth(1);
    let wanted = |name: &str| table.as_ref().is_none_or(|table| table == name);
    let base = Run {
        durability: Durability::Normal,
        queued: 1_000,
        jobs: 100_000,
        batch: 100,
        payload: 100,
        random: false,
    };

    if wanted("modes") {
        println!("## One at a time and in batches\n");
        header();
        for (batch, jobs) in [(1, 5_000), (100, 100_000), (1_000, 200_000)] {
            for durability in [Durability::Normal, Durability::Full] {
                row(Run {
                    batch,
                    jobs,
                    durability,
                    ..base
                });
            }
        }
    }
    if wanted("queued") {
        println!("\n## By the number of queued jobs\n");
        header();
        for batch in [100, 1] {
            for queued in [1_000, 10_000, 100_000, 1_000_000] {
                row(Run {
                    batch,
                    queued,
                    jobs: if batch == 1 { 10_000 } else { 100_000 },
                    ..base
                });
            }
        }
    }
    if wanted("random") {
        println!("\n## By the number of queued jobs, ids in no order\n");
        header();
        for queued in [1_000, 100_000, 1_000_000] {
            row(Run {
                queued,
                random: true,
                ..base
            });
        }
    }
    if wanted("payload") {
        println!("\n## By the size of a payload\n");
        header();
        for (payload, jobs, batch) in [
            (100, 50_000, 100),
            (10_000, 20_000, 100),
            (1_000_000, 500, 100),
            (1_000_000, 500, 1),
        ] {
            for durability in [Durability::Normal, Durability::Full] {
                row(Run {
                    payload,
                    jobs,
                    batch,
                    durability,
                    queued: 10,
                    ..base
                });
            }
        }
    }
    if wanted("callers") {
        println!("\n## One job per call, by the number of callers at once\n");
        println!("| synchronous | callers | jobs/s |\n|---|---|---|");
        for durability in [Durability::Normal, Durability::Full] {
            for callers in [1, 8, 64] {
                let rate = callers_at_once(durability, callers, 20_000);
                println!("| {durability:?} | {callers} | {rate:.0} |");
            }
        }
    }
    if wanted("counts") {
        counts();
    }
}

fn header() {
    println!(
        "| synchronous | queued | batch | payload | jobs/s | µs a job | enqueue | fetch | ack |\n\
         |---|---|---|---|---|---|---|---|---|"
    );
}

fn row(run: Run) {
    let measured = measure(run);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / run.jobs as f64;
    let total = measured.enqueue + measured.fetch + measured.ack;
    println!(
        "| {:?} | {} | {} | {} B | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} |",
        run.durability,
        run.queued,
        run.batch,
        run.payload,
        run.jobs as f64 / total.as_secs_f64(),
        each(total),
        each(measured.enqueue),
        each(measured.fetch),
        each(measured.ack),
    );
}

fn open(durability: Durability) -> (tempfile::TempDir, SqliteBroker) {
    let directory = match env::var_os("THROUGHPUT_DIR") {
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    }
    .expect("a directory for the file");
    let path = directory.path().join("jobs.queue");
    let broker = block_on(Options::new().durability(durability).open(path)).expect("opens");
    (directory, broker)
}

fn measure(run: Run) -> Measured {
    let (_directory, broker) = open(run.durability);
    let mut number = 0_u64;
    let mut jobs = |count: usize| -> Vec<NewJob> {
        (0..count)
            .map(|_| {
                number += 1;
                // An odd factor maps the numbers of 64 bits onto themselves.
                let id = if run.random {
                    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                } else {
                    number
                };
                NewJob::new(format!("job-{id:020}"), vec![b'x'; run.payload])
            })
            .collect()
    };

    block_on(async {
        let mut left = run.queued;
        while left > 0 {
            let count = left.min(if run.payload > 100_000 { 10 } else { 10_000 });
            broker.enqueue(jobs(count)).await.expect("enqueues");
            left -= count;
        }
        let mut measured = Measured {
            enqueue: Duration::ZERO,
            fetch: Duration::ZERO,
            ack: Duration::ZERO,
        };
        for _ in 0..run.jobs / run.batch {
            let batch = jobs(run.batch);
            let start = Instant::now();
            broker.enqueue(batch).await.expect("enqueues");
            measured.enqueue += start.elapsed();

            let start = Instant::now();
            let held = broker
                .fetch(run.batch, Duration::ZERO)
                .await
                .expect("fetches");
            measured.fetch += start.elapsed();
            assert_eq!(held.len(), run.batch);

            let acks: Vec<_> = held
                .into_iter()
                .map(|delivery| Ack {
                    receipt: delivery.receipt,
                    result: Some(vec![0; 8]),
                })
                .collect();
            let start = Instant::now();
            let outcomes = broker.ack_many(acks).await;
            measured.ack += start.elapsed();
            assert!(outcomes.iter().all(Result::is_ok));
        }
        broker.close().await.expect("closes");
        measured
    })
}

fn callers_at_once(durability: Durability, callers: usize, jobs: usize) -> f64 {
    let (_directory, broker) = open(durability);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for caller in 0..callers {
            let broker = &broker;
            scope.spawn(move || {
                block_on(async {
                    for number in 0..jobs / callers {
                        let job = NewJob::new(format!("{caller}-{number}"), vec![b'x'; 100]);
                        broker.enqueue(vec![job]).await.expect("enqueues");
                        let held = broker
                            .fetch(1, Duration::from_secs(9))
                            .await
                            .expect("fetches");
                        broker
                            .ack(&held[0].receipt, Some(vec![0; 8]))
                            .await
                            .expect("is held");
                    }
                });
            });
        }
    });
    (jobs / callers * callers) as f64 / start.elapsed().as_secs_f64()
}

fn counts() {
    let (_directory, broker) = open(Durability::Normal);
    block_on(async {
        for start in (0..1_000_000).step_by(10_000) {
            let jobs = (start..start + 10_000).map(|i| NewJob::new(format!("job-{i:020}"), "x"));
            broker.enqueue(jobs.collect()).await.expect("enqueues");
        }
        let start = Instant::now();
        let counts = broker.counts().await.expect("counts");
        println!(
            "\n{} queued jobs counted in {:?}",
            counts.ready,
            start.elapsed()
        );
        let start = Instant::now();
        broker.counts().await.expect("counts");
        println!("and again in {:?}", start.elapsed());
    });
}
