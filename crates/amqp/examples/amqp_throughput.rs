//! No-op jobs through this crate and through a bare loop of lapin, in one run: jobs a second of both.
//!
//! Each job is published with a confirm, delivered with a prefetch of 100, and acknowledged by itself.
//!
//! ```sh
//! crates/amqp/tests/with-rabbitmq cargo run --release -p brigade-amqp --example amqp_throughput -- 20000 5
//! crates/amqp/tests/with-rabbitmq cargo run --release -p brigade-amqp --example amqp_throughput -- 20000 5 2
//! ```
//!
//! The first compares loops in one process. The second publishes in one and consumes in two others,
//! which have a pool with [`serve`], a loop over the broker, or the loop of lapin.

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use brigade::Pool;
use brigade::broker::{Ack, Broker, JobId, NewJob, ServeOptions, serve};
use brigade::rt::AsyncIoTimer;
use brigade_amqp::{AmqpBroker, AmqpOptions};
use futures_lite::StreamExt;
use futures_lite::future::{self, block_on};
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
    if let [_, consume, kind, queue] = &env::args().collect::<Vec<_>>()[..]
        && consume == "consume"
    {
        return block_on(consume_until_stdin_is_closed(kind, &url, queue));
    }
    let mut arguments = env::args().skip(1);
    let jobs: usize = arguments.next().map_or(Ok(20_000), |jobs| jobs.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(5), |rounds| rounds.parse())?;
    let processes: usize = arguments.next().map_or(Ok(1), |count| count.parse())?;
    let queue = format!("throughput-{}", std::process::id());
    let bare = common::bare_channel(&url)?;
    block_on(async {
        let options = AmqpOptions::new().results(false);
        let broker = options.connect(&url, &queue).await?;
        if processes > 1 {
            several(&broker, &bare.channel, &queue, jobs, rounds, processes).await?;
            broker.close().await?;
            return delete(&bare.channel, &queue).await;
        }
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
        delete(&bare.channel, &queue).await
    })
}

async fn delete(channel: &Channel, queue: &str) -> Result<(), Box<dyn Error>> {
    for suffix in ["", ".dead"] {
        let name = format!("{queue}{suffix}").into();
        let options = QueueDeleteOptions::default();
        channel.queue_delete(name, options).await?;
    }
    Ok(())
}

/// The times of publishing and of consuming.
async fn through_broker(
    broker: &AmqpBroker,
    jobs: usize,
) -> Result<(Duration, Duration), Box<dyn Error>> {
    let start = Instant::now();
    publish_by_broker(broker, jobs).await?;
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

async fn publish_by_broker(broker: &AmqpBroker, jobs: usize) -> Result<(), Box<dyn Error>> {
    for first in (0..jobs).step_by(WINDOW) {
        let ids = first..jobs.min(first + WINDOW);
        let new = ids.map(|id| NewJob::new(id.to_string(), *b"payload"));
        broker.enqueue(new.collect()).await?;
    }
    Ok(())
}

async fn through_lapin(
    channel: &Channel,
    queue: &str,
    jobs: usize,
) -> Result<(Duration, Duration), Box<dyn Error>> {
    let options = BasicQosOptions::default();
    channel.basic_qos(PREFETCH as u16, options).await?;
    let start = Instant::now();
    publish_by_lapin(channel, queue, jobs).await?;
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

async fn publish_by_lapin(
    channel: &Channel,
    queue: &str,
    jobs: usize,
) -> Result<(), Box<dyn Error>> {
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
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
    Ok(())
}

/// Compares consumers in several processes.
async fn several(
    broker: &AmqpBroker,
    channel: &Channel,
    queue: &str,
    jobs: usize,
    rounds: usize,
    processes: usize,
) -> Result<(), Box<dyn Error>> {
    let kinds = ["pool", "broker", "lapin"];
    let mut ratios = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        let mut rates = [0.0; 3];
        for turn in 0..kinds.len() {
            let kind = (round + turn) % kinds.len();
            let consumers = Consumers::start(kinds[kind], queue, processes)?;
            let start = Instant::now();
            if kinds[kind] == "lapin" {
                publish_by_lapin(channel, queue, jobs).await?;
            } else {
                publish_by_broker(broker, jobs).await?;
            }
            let published = start.elapsed();
            let consumed = consumers.consume(jobs)?;
            rates[kind] = jobs as f64 / (published + consumed).as_secs_f64();
            println!(
                "{:6} {:6.0}/s (publish {:6.0}, consume {:6.0})",
                kinds[kind],
                rates[kind],
                jobs as f64 / published.as_secs_f64(),
                jobs as f64 / consumed.as_secs_f64(),
            );
        }
        ratios[0].push(rates[0] / rates[2]);
        ratios[1].push(rates[1] / rates[2]);
    }
    for (kind, ratios) in kinds.iter().zip(&mut ratios) {
        ratios.sort_by(f64::total_cmp);
        let median = ratios[ratios.len() / 2];
        println!("{kind} to lapin, {processes} processes, median of the ratios: {median:.2}");
    }
    Ok(())
}

/// Processes that are connected, and consume once they are told.
struct Consumers(Vec<Child>);

impl Consumers {
    fn start(kind: &str, queue: &str, count: usize) -> Result<Self, Box<dyn Error>> {
        let mut children = Vec::new();
        for _ in 0..count {
            let mut child = Command::new(env::current_exe()?)
                .args(["consume", kind, queue])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            read_byte(&mut child)?;
            children.push(child);
        }
        Ok(Self(children))
    }

    /// The time until so many jobs are done, and all of them acknowledged.
    fn consume(mut self, jobs: usize) -> Result<Duration, Box<dyn Error>> {
        let start = Instant::now();
        for child in &mut self.0 {
            child.stdin.as_mut().ok_or("no stdin")?.write_all(b"!")?;
        }
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            for child in &mut self.0 {
                let mut stdout = child.stdout.take();
                let done = &done;
                scope.spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Some(Ok(count @ 1..)) =
                        stdout.as_mut().map(|out| out.read(&mut bytes))
                    {
                        done.fetch_add(count, Relaxed);
                    }
                });
            }
            while done.load(Relaxed) < jobs {
                thread::sleep(Duration::from_millis(1));
            }
            // The readers end with the processes, which settle what they hold.
            for child in &mut self.0 {
                drop(child.stdin.take());
            }
        });
        let elapsed = start.elapsed();
        for mut child in self.0 {
            if !child.wait()?.success() {
                return Err("a consumer failed".into());
            }
        }
        Ok(elapsed)
    }
}

fn read_byte(child: &mut Child) -> Result<(), Box<dyn Error>> {
    let stdout = child.stdout.as_mut().ok_or("no stdout")?;
    Ok(stdout.read_exact(&mut [0])?)
}

/// One of the processes: a byte on stdout once it is connected and for each job, a byte on stdin to
/// begin, and the end of stdin to end.
async fn consume_until_stdin_is_closed(
    kind: &str,
    url: &str,
    queue: &str,
) -> Result<(), Box<dyn Error>> {
    static DONE: AtomicUsize = AtomicUsize::new(0);
    fn report() {
        let done = DONE.swap(0, Relaxed);
        // Fails if the parent has read all that it waits for.
        let _ = std::io::stdout().write_all(&vec![b'.'; done]);
        let _ = std::io::stdout().flush();
    }
    let closed = async || -> Result<(), Box<dyn Error>> {
        let copied =
            blocking::unblock(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        copied.await?;
        Ok(())
    };
    let begin = || {
        DONE.store(1, Relaxed);
        report();
        std::io::stdin().read_exact(&mut [0])?;
        // Not for each job: a write wakes the reader.
        thread::spawn(|| {
            loop {
                thread::sleep(Duration::from_millis(2));
                report();
            }
        });
        Ok::<_, std::io::Error>(())
    };
    if kind == "lapin" {
        let bare = common::bare_channel(url)?;
        let options = BasicQosOptions::default();
        bare.channel.basic_qos(PREFETCH as u16, options).await?;
        begin()?;
        let options = BasicConsumeOptions::default();
        let arguments = FieldTable::default();
        let mut consumer = bare
            .channel
            .basic_consume(queue.into(), "bare".into(), options, arguments)
            .await?;
        let consuming = async {
            while let Some(delivery) = consumer.next().await {
                delivery?.ack(BasicAckOptions::default()).await?;
                DONE.fetch_add(1, Relaxed);
            }
            Err::<(), Box<dyn Error>>("the consumer has ended".into())
        };
        future::or(consuming, closed()).await?;
        return Ok(bare.channel.close(200, "OK".into()).await?);
    }
    let options = AmqpOptions::new().results(false);
    let broker = options.connect(url, queue).await?;
    begin()?;
    if kind == "pool" {
        let (pool, workers) = Pool::builder()
            .workers(1)
            .jobs_per_worker(PREFETCH)
            .timer(AsyncIoTimer)
            .build(async |_: Vec<u8>| {
                DONE.fetch_add(1, Relaxed);
                Ok::<(), Infallible>(())
            });
        let decode = |_: &JobId, payload| Ok::<Vec<u8>, Infallible>(payload);
        let options =
            ServeOptions::new(decode, |_: &JobId, ()| None).until(async { drop(closed().await) });
        workers.drive(serve(&broker, &pool, options)).await?;
    } else {
        let consuming = async {
            loop {
                let deliveries = broker.fetch(PREFETCH, Duration::from_secs(60)).await?;
                let acks = deliveries.into_iter().map(|delivery| Ack {
                    receipt: delivery.receipt,
                    result: None,
                });
                for outcome in broker.ack_many(acks.collect()).await {
                    outcome?;
                    DONE.fetch_add(1, Relaxed);
                }
            }
        };
        future::or(consuming, closed()).await?;
    }
    Ok(broker.close().await?)
}
