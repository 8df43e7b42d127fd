//! Brokers are put through the conformance suite: the one in memory keeps all rules, and adapters
//! with planted faults break them.

mod fixture;

use brigade::ManualTimer;
use brigade::broker::MemoryBroker;
use brigade::broker::conformance::{Rule, Verdict};
use futures_lite::future;

use crate::fixture::MemoryFixture;

fn memory_broker_keeps(rule: Rule) {
    let clock = ManualTimer::new();
    let fixture = MemoryFixture {
        queue: MemoryBroker::new(clock.clone()),
        clock: clock.clone(),
    };
    let verdict = future::block_on(clock.run(rule.check(&fixture)));
    assert_eq!(verdict, Verdict::Kept, "{rule}");
}

brigade::broker_conformance!(memory_broker_keeps);
