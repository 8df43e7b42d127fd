//! Workers that wait for their first job, left in memory, where they can be counted.

use std::mem;

use futures_lite::future;

use super::no_part;
use crate::contender::brigade::{builder, handle};
use crate::contender::{Contender, naive};
use crate::measure::{Running, Sample};
use crate::runtime::{Load, Threads};
use crate::tally::Tally;
use crate::work::Ready;

pub(crate) fn run(contender: Contender, load: Load) -> Sample {
    let running = Running::start();
    let executor = Threads::default();
    match contender {
        Contender::Naive => {
            mem::forget(naive::pool(&executor, Ready, load.at_once, naive::CAPACITY));
        }
        Contender::Brigade | Contender::BrigadeSlots => {
            mem::forget(builder(contender, load).spawn_on(&executor, |n| handle(Ready, n)));
        }
        other => no_part(other, "idle"),
    }
    // Each worker has its first turn.
    future::block_on(async { while executor.try_tick() {} });
    mem::forget(executor);
    // A worker each in place of a job.
    Sample {
        jobs: load.at_once as u64,
        ..running.stop(0, Tally::default())
    }
}

/// What the future of the handler takes, of which a worker has one.
pub(crate) fn handler_bytes() -> usize {
    size_of_val(&handle(Ready, 0))
}
