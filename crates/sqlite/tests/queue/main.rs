//! What a queue file promises beyond the rules of a broker.

mod cancellation;
mod clocks;
mod files;
mod full_disk;
mod inspection;
mod jobs;
mod processes;

use std::path::PathBuf;
use std::time::Duration;

use brigade::broker::{Broker, Delivery, NewJob};
use brigade_sqlite::{Durability, Options, Receipt, SqliteBroker};
use tempfile::TempDir;

/// A time that does not pass in a test unless something is broken.
const LONG: Duration = Duration::from_secs(3_600);

/// How long a test waits for what has to come: in vain only if something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A queue file in a directory of its own.
struct Queue {
    directory: TempDir,
}

impl Queue {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a directory"),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("jobs.queue")
    }

    async fn open(&self) -> SqliteBroker {
        self.open_with(Options::new().lease(LONG)).await
    }

    /// Opens a handle of its own, as another process would.
    async fn open_with(&self, options: Options) -> SqliteBroker {
        options
            .durability(Durability::Normal)
            .open(self.path())
            .await
            .expect("the queue opens")
    }

    /// A connection beside the broker's.
    fn connect(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).expect("the file opens")
    }

    fn assert_sound(&self) {
        let checked: String = self
            .connect()
            .pragma_query_value(None, "integrity_check", |row| row.get(0))
            .expect("the check runs");
        assert_eq!(checked, "ok");
    }
}

async fn enqueue(broker: &SqliteBroker, ids: &[&str]) {
    let jobs = ids.iter().map(|id| NewJob::new(*id, *id)).collect();
    broker.enqueue(jobs).await.expect("the jobs are enqueued");
}

async fn fetch(broker: &SqliteBroker, max: usize) -> Vec<Delivery<Receipt>> {
    broker
        .fetch(max, Duration::ZERO)
        .await
        .expect("the fetch succeeds")
}

/// Fetches the one job that is ready.
async fn fetch_one(broker: &SqliteBroker) -> Delivery<Receipt> {
    let [delivery] = fetch(broker, 2).await.try_into().expect("one job is ready");
    delivery
}

fn ids(deliveries: &[Delivery<Receipt>]) -> Vec<&str> {
    deliveries
        .iter()
        .map(|delivery| delivery.job_id.as_str())
        .collect()
}

async fn ack(broker: &SqliteBroker, delivery: &Delivery<Receipt>) {
    let result = Some(delivery.payload.clone());
    broker
        .ack(&delivery.receipt, result)
        .await
        .expect("the delivery is held");
}
