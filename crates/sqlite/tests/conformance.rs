//! The rules of a broker, each with a queue file of its own and the real clock.

use std::sync::Arc;
use std::time::Duration;

use brigade::Timer;
use brigade::broker::conformance::{Fixture, Rule, Verdict};
use brigade::broker::{DeadLetter, JobId};
use brigade::rt::AsyncIoTimer;
use brigade_sqlite::{Durability, Options, SqliteBroker};
use futures_lite::future::block_on;
use tempfile::TempDir;

struct QueueFile {
    directory: TempDir,
}

impl QueueFile {
    async fn handle(&self, options: Options) -> SqliteBroker {
        options
            .open(self.directory.path().join("jobs.queue"))
            .await
            .expect("the queue opens")
    }
}

impl Fixture for QueueFile {
    type Broker = SqliteBroker;

    async fn open(&self, lease: Duration) -> SqliteBroker {
        // Nothing here depends on a loss of power.
        self.handle(Options::new().lease(lease).durability(Durability::Normal))
            .await
    }

    async fn crash(&self, broker: SqliteBroker) {
        drop(broker);
    }

    async fn results(&self) -> Vec<(JobId, Vec<u8>)> {
        let results = self
            .handle(Options::new())
            .await
            .results_after(0, 10_000)
            .await;
        let results = results.expect("results are read").into_iter();
        results
            .filter_map(|result| Some((result.job_id, result.payload?)))
            .collect()
    }

    async fn dead_letters(&self) -> Vec<DeadLetter> {
        let letters = self
            .handle(Options::new())
            .await
            .dead_letters_after(0, 10_000)
            .await;
        letters
            .expect("dead letters are read")
            .into_iter()
            .map(|stored| stored.letter)
            .collect()
    }

    fn timer(&self) -> Arc<dyn Timer> {
        Arc::new(AsyncIoTimer)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

fn keeps(rule: Rule) {
    let fixture = QueueFile {
        directory: tempfile::tempdir().expect("a directory"),
    };
    // None is skipped: the broker has all capabilities.
    assert_eq!(block_on(rule.check(&fixture)), Verdict::Kept, "{rule}");
}

brigade::broker_conformance!(keeps);
