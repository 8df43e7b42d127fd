//! No-op jobs through this crate and through a bare loop of lapin, in one run: jobs a second of both.
//!
//! Each job is published with a confirm, delivered with a prefetch of 100, and acknowledged by itself.
//!
//! ```sh
//! crates/amqp/tests/with-rabbitmq cargo run --release -p brigade-amqp --example throughput -- 20000 5
//! ```

use std::env;
use std::error::Error;
use std::time::{Duration, Instant};

use brigade::broker::{Ack, Broker, NewJob};
use brigade_amqp::{AmqpBroker, AmqpOptions};
use futures_lite::StreamExt;
use futures_lite::future::block_on;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};

#[path = "../tests/common/mod.rs"]
#[expect(dead_code, reason = "this is the runtime of the tests' bare channel")]
mod common;

const PREFETCH: usize = 100;
/// How many confirms are awaited together.
const WINDOW: usize = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("BRIGADE_AMQP_URL").map_err(|_| "run it by tests/with-rabbitmq")?;
    let mut arguments = env::args().skip(1);
    let jobs: usize = arguments.next().map_or(Ok(20_000), |jobs| jobs.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(5), |rounds| rounds.parse())?;
    let queue = format!("throughput-{}", std::process::id());
    let bare = common::bare_channel(&url)?;
    block_on(async {
        let options = AmqpOptions::new().results(false);
        let broker = options.connect(&url, &queue).await?;
        let mut ratios = Vec::new();
        for round in 0..rounds {
            // Each goes first in every second round.
            let (ours, theirs) = if round % 2 == 0 {
                let ours = through_broker(&broker, jobs).await?;
                (ours, through_lapin(&bare.channel, &queue, jobs).await?)
            } else {
                let theirs = through_lapin(&bare.channel, &queue, jobs).await?;
                (through_broker(&broker, jobs).await?, theirs)
            };
            let rate = |time: Duration| jobs as f64 / time.as_secs_f64();
            let total = |(publish, consume): (Duration, Duration)| publish + consume;
            let ratio = rate(total(ours)) / rate(total(theirs));
            println!(
                "brigade {:6.0}/s (publish {:6.0}, consume {:6.0})   lapin {:6.0}/s (publish {:6.0}, consume {:6.0})   ratio {ratio:.2}",
                rate(total(ours)),
                rate(ours.0),
                rate(ours.1),
                rate(total(theirs)),
                rate(theirs.0),
                rate(theirs.1),
            );
            ratios.push(ratio);
        }
        ratios.sort_by(f64::total_cmp);
        println!("median of the ratios: {:.2}", ratios[ratios.len() / 2]);
        broker.close().await?;
        for suffix in ["", ".dead"] {
            let name = format!("{queue}{suffix}").into();
            let options = QueueDeleteOptions::default();
            bare.channel.queue_delete(name, options).await?;
        }
        Ok(())
    })
}

/// The times of publishing and of consuming.
async fn through_broker(
    broker: &AmqpBroker,
    jobs: usize,
) -> Result<(Duration, Duration), Box<dyn Error>> {
    let start = Instant::now();
    for first in (0..jobs).step_by(WINDOW) {
        let ids = first..jobs.min(first + WINDOW);
        let new = ids.map(|id| NewJob::new(id.to_string(), *b"payload"));
        broker.enqueue(new.collect()).await?;
    }
    let published = start.elapsed();
    let mut done = 0;
    while done < jobs {
        // All jobs are done at once, so nothing is unsettled here.
        let deliveries = broker.fetch(PREFETCH, Duration::from_secs(60)).await?;
        let acks = deliveries.into_iter().map(|delivery| Ack {
            receipt: delivery.receipt,
            result: None,
        });
        for outcome in broker.ack_many(acks.collect()).await {
            outcome?;
            done += 1;
        }
    }
    Ok((published, start.elapsed() - published))
}

async fn through_lapin(
    channel: &Channel,
    queue: &str,
    jobs: usize,
) -> Result<(Duration, Duration), Box<dyn Error>> {
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let options = BasicQosOptions::default();
    channel.basic_qos(PREFETCH as u16, options).await?;
    let start = Instant::now();
    for first in (0..jobs).step_by(WINDOW) {
        let mut confirms = Vec::with_capacity(WINDOW);
        for id in first..jobs.min(first + WINDOW) {
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let properties = BasicProperties::default()
                .with_delivery_mode(2)
                .with_message_id(id.to_string().into());
            let publish =
                channel.basic_publish("".into(), queue.into(), options, b"payload", properties);
            confirms.push(publish.await?);
        }
        for confirm in confirms {
            assert!(confirm.await?.is_ack());
        }
    }
    let published = start.elapsed();
    let options = BasicConsumeOptions::default();
    let arguments = FieldTable::default();
    let mut consumer = channel
        .basic_consume(queue.into(), "bare".into(), options, arguments)
        .await?;
    for _ in 0..jobs {
        let delivery = consumer.next().await.ok_or("the consumer has ended")??;
        delivery.ack(BasicAckOptions::default()).await?;
    }
    let consumed = start.elapsed() - published;
    channel
        .basic_cancel("bare".into(), lapin::options::BasicCancelOptions::default())
        .await?;
    Ok((published, consumed))
}
