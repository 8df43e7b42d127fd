//! The queues of a job queue: their names, their arguments, and their declaration.
//!
//! All are durable quorum queues on the default exchange, whose routing key is the name of the queue.
//! Messages that the server itself dead-letters go to their target at least once.

use std::time::Duration;

use brigade::broker::BrokerError;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Queue};

use crate::AmqpOptions;
use crate::error;

/// The longest delay: the longest expiration that a message can have, in whole seconds.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(u32::MAX as u64 / 1000);

/// The delay queues that there can be.
pub(crate) const DELAYS: std::ops::RangeInclusive<u32> = 0..=LONGEST_DELAY.as_secs().ilog2() + 1;

/// What no delivery count of a message reaches: servers from 4.0 have a limit of 20 where none is set.
const UNLIMITED: i32 = i32::MAX;

/// Names of 255 bytes are allowed, and suffixes need some of them.
const LONGEST_NAME: usize = 200;

#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) jobs: ShortString,
    pub(crate) dead: ShortString,
    pub(crate) results: ShortString,
}

impl Names {
    pub(crate) fn new(queue: &str) -> Result<Self, BrokerError> {
        if queue.is_empty() || queue.len() > LONGEST_NAME || queue.starts_with("amq.") {
            return Err(error::permanent(format!(
                "the name of a queue has 1 to {LONGEST_NAME} bytes and does not start with `amq.`: {queue:?}"
            )));
        }
        Ok(Self {
            jobs: queue.into(),
            dead: format!("{queue}.dead").into(),
            results: format!("{queue}.results").into(),
        })
    }

    pub(crate) fn delay(&self, queue: u32) -> ShortString {
        format!("{}.delay.{queue}", self.jobs).into()
    }
}

/// The delay queue for a delay, and the expiration of the message in milliseconds.
///
/// Messages of one queue expire at its head only. Queue 0 has delays below a second, queue `k > 0` those
/// of less than 2^k seconds, half of that or more: so a message waits for its own delay, and for those
/// of the messages before it, which end before twice its own has passed.
pub(crate) fn delay_queue(delay: Duration) -> (u32, u64) {
    let delay = delay.min(LONGEST_DELAY);
    let milliseconds = u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let queue = match milliseconds / 1000 {
        0 => 0,
        seconds => seconds.ilog2() + 1,
    };
    (queue, milliseconds)
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// Adds what makes the server move messages to `target`, and keep them until they are there.
fn dead_letter_to(arguments: &mut FieldTable, target: &ShortString) {
    arguments.insert("x-dead-letter-exchange".into(), text(""));
    arguments.insert("x-dead-letter-routing-key".into(), text(target.as_str()));
    arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    // The strategy requires it; there is no limit to the length that it would speak of.
    arguments.insert("x-overflow".into(), text("reject-publish"));
}

/// Declares the queues that each handle needs, or checks that they exist.
pub(crate) async fn declare(
    channel: &Channel,
    names: &Names,
    options: &AmqpOptions,
) -> Result<(), BrokerError> {
    let mut jobs = quorum();
    dead_letter_to(&mut jobs, &names.dead);
    // `delivery_limit` refuses what does not fit.
    let limit = i32::try_from(options.delivery_limit).unwrap_or(UNLIMITED);
    jobs.insert("x-delivery-limit".into(), AMQPValue::LongInt(limit));
    if let Some(timeout) = options.consumer_timeout {
        let milliseconds = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        jobs.insert(
            "x-consumer-timeout".into(),
            AMQPValue::LongLongInt(milliseconds),
        );
    }
    let mut kept = quorum();
    kept.insert("x-delivery-limit".into(), AMQPValue::LongInt(UNLIMITED));

    // The targets of dead letters exist before what is dead-lettered.
    declare_one(channel, &names.dead, options.passive, kept.clone()).await?;
    if options.results {
        declare_one(channel, &names.results, options.passive, kept).await?;
    }
    declare_one(channel, &names.jobs, options.passive, jobs).await
}

/// Declares a delay queue.
pub(crate) async fn declare_delay(
    channel: &Channel,
    names: &Names,
    queue: u32,
) -> Result<(), BrokerError> {
    let mut arguments = quorum();
    dead_letter_to(&mut arguments, &names.jobs);
    declare_one(channel, &names.delay(queue), false, arguments).await
}

async fn declare_one(
    channel: &Channel,
    name: &ShortString,
    passive: bool,
    arguments: FieldTable,
) -> Result<(), BrokerError> {
    let mut options = QueueDeclareOptions::durable();
    options.passive = passive;
    channel
        .queue_declare(name.clone(), options, arguments)
        .await
        .map(drop)
        .map_err(|cause| error::of_declaration(name.as_str(), passive, &cause))
}

/// Asks for the ready messages and the consumers of a queue.
pub(crate) async fn inspect(channel: &Channel, name: &ShortString) -> lapin::Result<Queue> {
    let mut options = QueueDeclareOptions::durable();
    options.passive = true;
    channel
        .queue_declare(name.clone(), options, FieldTable::default())
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_of_one_queue_differ_by_less_than_a_factor_of_two() {
        let of = |milliseconds| delay_queue(Duration::from_millis(milliseconds));
        assert_eq!(of(1), (0, 1));
        assert_eq!(of(999), (0, 999));
        assert_eq!(of(1000), (1, 1000));
        assert_eq!(of(1999), (1, 1999));
        assert_eq!(of(2000), (2, 2000));
        assert_eq!(of(3_600_000), (12, 3_600_000));
        for milliseconds in 1000..20_000 {
            let (queue, expiration) = of(milliseconds);
            let longest = 1000 << queue;
            assert_eq!(expiration, milliseconds);
            assert!(milliseconds < longest && milliseconds >= longest / 2);
        }
    }

    #[test]
    fn delays_are_rounded_up_to_milliseconds_and_capped() {
        assert_eq!(delay_queue(Duration::from_nanos(1)), (0, 1));
        assert_eq!(delay_queue(Duration::from_micros(999_001)), (1, 1000));
        let (queue, milliseconds) = delay_queue(Duration::MAX);
        assert!(u32::try_from(milliseconds).is_ok());
        assert_eq!(queue, *DELAYS.end());
    }

    #[test]
    fn names_leave_room_for_suffixes() {
        let names = Names::new(&"q".repeat(200)).unwrap();
        assert_eq!(names.delay(23).as_str().len(), 209);
        for name in ["", "amq.queue", &"q".repeat(201)] {
            assert!(Names::new(name).unwrap_err().is_permanent());
        }
    }
}
