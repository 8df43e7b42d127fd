//! With the feature `tracing`, each job has a span of its own, entered around each poll.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use brigade::{ManualTimer, Pool};
use futures_lite::future;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Writes down spans as they are made, entered and left.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    next: Arc<AtomicU64>,
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }
}

impl Log {
    fn write(&self, line: String) {
        self.lines.lock().unwrap().push(line);
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("brigade")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut fields = Fields(String::new());
        span.record(&mut fields);
        self.write(format!("{id}: {}{}", span.metadata().name(), fields.0));
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, span: &Id) {
        self.write(format!("{}: enter", span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        self.write(format!("{}: exit", span.into_u64()));
    }
}

#[test]
fn each_job_has_a_span_that_is_entered_for_each_poll() {
    let log = Log::default();
    let values =
        tracing::subscriber::with_default(log.clone(), || {
            let (pool, workers) = Pool::builder().workers(1).timer(ManualTimer::new()).build(
                |yields: u32| async move {
                    for _ in 0..yields {
                        future::yield_now().await;
                    }
                    Ok::<_, ()>(yields)
                },
            );
            future::block_on(workers.drive(pool.map([0, 1]).try_collect::<Vec<_>>()))
        });
    assert_eq!(values, Ok(vec![0, 1]));
    assert_eq!(
        *log.lines.lock().unwrap(),
        [
            "1: job id=0 attempt=1 worker=0",
            "1: enter",
            "1: exit",
            "2: job id=1 attempt=1 worker=0",
            "2: enter",
            "2: exit",
            "2: enter",
            "2: exit"
        ]
    );
}

#[test]
fn a_span_names_the_worker_and_not_its_slot() {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || {
        let builder = Pool::builder()
            .workers(2)
            .jobs_per_worker(2)
            .timer(ManualTimer::new());
        let (pool, workers) = builder.build(|n: u32| async move {
            future::yield_now().await;
            Ok::<_, ()>(n)
        });
        future::block_on(workers.drive(pool.map(0..4).for_each(drop)));
    });
    let lines = log.lines.lock().unwrap();
    let mut workers: Vec<_> = lines
        .iter()
        .filter_map(|line| line.split_once("worker="))
        .map(|(_, worker)| worker)
        .collect();
    workers.sort_unstable();
    assert_eq!(workers, ["0", "0", "1", "1"]);
}
