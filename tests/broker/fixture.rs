//! The fixture of the broker in memory.

use std::sync::Arc;
use std::time::Duration;

use brigade::broker::conformance::Fixture;
use brigade::broker::{DeadLetter, JobId, MemoryBroker};
use brigade::{ManualTimer, Timer};

pub(crate) struct MemoryFixture {
    pub(crate) queue: MemoryBroker,
    pub(crate) clock: ManualTimer,
}

impl Fixture for MemoryFixture {
    type Broker = MemoryBroker;

    async fn open(&self, lease: Duration) -> MemoryBroker {
        self.queue.consumer().lease(lease)
    }

    async fn crash(&self, broker: MemoryBroker) {
        broker.lose_connection();
    }

    async fn results(&self) -> Vec<(JobId, Vec<u8>)> {
        self.queue.results()
    }

    async fn dead_letters(&self) -> Vec<DeadLetter> {
        self.queue.dead_letters()
    }

    fn timer(&self) -> Arc<dyn Timer> {
        Arc::new(self.clock.clone())
    }
}
