//! The rules of a broker, kept by RabbitMQ.

#[expect(
    dead_code,
    reason = "each test file uses a part of what they have in common"
)]
mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use brigade::Timer;
use brigade::broker::conformance::{Fixture, Rule};
use brigade::broker::{Broker, DeadLetter, JobId};
use brigade::rt::AsyncIoTimer;
use brigade_amqp::AmqpBroker;

use common::{Queue, with_queue};

struct RabbitMq {
    queue: Queue,
    /// Reads results, which leave their queue, into the list.
    reader: AmqpBroker,
    results: Mutex<Vec<(JobId, Vec<u8>)>>,
}

impl Fixture for RabbitMq {
    type Broker = AmqpBroker;

    async fn open(&self, _lease: Duration) -> AmqpBroker {
        self.queue.open().await
    }

    async fn crash(&self, broker: AmqpBroker) {
        // Nothing tells when the server has read an acknowledgement; the rules take it for read.
        async_io::Timer::after(Duration::from_millis(300)).await;
        drop(broker);
    }

    async fn results(&self) -> Vec<(JobId, Vec<u8>)> {
        let fetched = self.reader.fetch_results(100, Duration::from_millis(50));
        for stored in fetched.await.unwrap() {
            let mut results = self.results.lock().unwrap();
            results.push((stored.job_id, stored.payload));
        }
        self.results.lock().unwrap().clone()
    }

    async fn dead_letters(&self) -> Vec<DeadLetter> {
        self.reader.dead_letters(100).await.unwrap()
    }

    fn timer(&self) -> Arc<dyn Timer> {
        Arc::new(AsyncIoTimer)
    }
}

fn keeps(rule: Rule) {
    with_queue(|queue| async move {
        let reader = queue.open().await;
        let fixture = RabbitMq {
            queue,
            reader,
            results: Mutex::default(),
        };
        println!("{rule}: {}", rule.check(&fixture).await);
        fixture.reader.close().await.unwrap();
    });
}

brigade::broker_conformance!(keeps);
