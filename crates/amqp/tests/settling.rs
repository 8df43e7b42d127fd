//! What settlements become in RabbitMQ: results, retries, releases, dead letters, and their counts.

#[expect(
    dead_code,
    reason = "each test file uses a part of what they have in common"
)]
mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use brigade::broker::{Ack, Broker, JobId, Nack, NewJob};
use brigade_amqp::{AmqpBroker, AmqpOptions, AmqpReceipt};
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};

use common::{bare_channel, eventually, fetch, fetch_one, ids, jobs, ready, with_queue};

fn retry(after: Option<Duration>) -> Nack {
    Nack::Retry {
        after,
        reason: "not today".into(),
    }
}

fn dead(reason: &str) -> Nack {
    Nack::DeadLetter {
        reason: reason.into(),
    }
}

#[test]
fn jobs_come_back_as_results_of_their_ids() {
    with_queue(|queue| async move {
        let broker = queue.open().await;
        broker.enqueue(jobs(0..50)).await.unwrap();
        let deliveries = fetch(&broker, 50).await;
        for delivery in &deliveries {
            assert_eq!(delivery.job_id.as_str().as_bytes(), delivery.payload);
            assert_eq!(delivery.delivery_count, Some(1));
            assert!(!delivery.redelivered);
            assert_eq!(delivery.lease, None);
        }
        let acks = deliveries.iter().map(|delivery| Ack {
            receipt: delivery.receipt,
            result: Some([b"done ", &*delivery.payload].concat()),
        });
        for outcome in broker.ack_many(acks.collect()).await {
            outcome.unwrap();
        }
        let mut results = BTreeMap::new();
        while results.len() < 50 {
            let stored = broker.fetch_results(50, common::PATIENCE).await.unwrap();
            let receipts = stored.iter().map(|result| result.receipt).collect();
            results.extend(stored.into_iter().map(|one| (one.job_id, one.payload)));
            for outcome in broker.ack_results(receipts).await {
                outcome.unwrap();
            }
        }
        for (id, payload) in results {
            assert_eq!(payload, format!("done {id}").into_bytes());
        }
        broker.close().await.unwrap();
        let broker = queue.open().await;
        eventually("no job and no result", async || {
            let counts = broker.counts().await.unwrap();
            (counts.ready, counts.results) == (0, 0)
        })
        .await;
    });
}

#[test]
fn messages_are_durable_and_named_after_their_job() {
    with_queue(|queue| async move {
        let broker = queue.open().await;
        let job = NewJob::new("job", "payload").priority(1);
        broker.enqueue(vec![job]).await.unwrap();
        let bare = bare_channel(&queue.url).unwrap();
        let name = queue.name.as_str().into();
        let options = BasicGetOptions::default();
        let message = bare.channel.basic_get(name, options).await.unwrap();
        let properties = message.unwrap().delivery.properties;
        assert_eq!(*properties.delivery_mode(), Some(2));
        assert_eq!(*properties.message_id(), Some("job".into()));
        assert_eq!(*properties.priority(), Some(5));
    });
}

#[test]
fn jobs_of_other_producers_have_their_message_id() {
    with_queue(|queue| async move {
        let broker = queue.open().await;
        let bare = bare_channel(&queue.url).unwrap();
        for properties in [
            lapin::BasicProperties::default().with_message_id("theirs".into()),
            lapin::BasicProperties::default(),
        ] {
            let name = queue.name.as_str().into();
            let options = BasicPublishOptions::default();
            let publish =
                bare.channel
                    .basic_publish("".into(), name, options, b"payload", properties);
            publish.await.unwrap().await.unwrap();
        }
        assert_eq!(ids(&fetch(&broker, 2).await), ["", "theirs"]);
    });
}

#[test]
fn a_job_for_a_queue_that_is_gone_is_a_permanent_error() {
    with_queue(|queue| async move {
        let broker = queue.open().await;
        let bare = bare_channel(&queue.url).unwrap();
        let options = lapin::options::QueueDeleteOptions::default();
        let deleted = bare
            .channel
            .queue_delete(queue.name.as_str().into(), options);
        deleted.await.unwrap();
        let error = broker.enqueue(jobs(0..3)).await.unwrap_err();
        assert!(error.is_permanent(), "{error}");
        assert!(error.to_string().contains(&queue.name), "{error}");
    });
}

#[test]
fn a_result_that_cannot_be_stored_leaves_the_job_held() {
    with_queue(|queue| async move {
        let broker = queue.open().await;
        broker.enqueue(jobs(["job"])).await.unwrap();
        let delivery = fetch_one(&broker).await;
        let bare = bare_channel(&queue.url).unwrap();
        let results = format!("{}.results", queue.name);
        let options = lapin::options::QueueDeleteOptions::default();
        let deleted = bare.channel.queue_delete(results.as_str().into(), options);
        deleted.await.unwrap();
        let outcome = broker.ack(&delivery.receipt, Some(b"lost".into())).await;
        assert!(!outcome.unwrap_err().is_lease_lost());
        broker
            .extend(&delivery.receipt, Duration::ZERO)
            .await
            .unwrap();
        // Another handle declares the queue again; the same settlement succeeds.
        let other = queue.open().await;
        let ack = broker.ack(&delivery.receipt, Some(b"kept".into()));
        ack.await.unwrap();
        let stored = other.fetch_results(1, common::PATIENCE).await.unwrap();
        assert_eq!(stored[0].payload, b"kept");
    });
}

#[test]
fn without_results_there_is_no_queue_for_them() {
    with_queue(|queue| async move {
        let broker = queue.open_with(AmqpOptions::new().results(false)).await;
        broker.enqueue(jobs(["job"])).await.unwrap();
        let delivery = fetch_one(&broker).await;
        let ack = broker.ack(&delivery.receipt, Some(b"dropped".into()));
        ack.await.unwrap();
        let error = broker.fetch_results(1, Duration::ZERO).await.unwrap_err();
        assert!(error.is_permanent());
        let bare = bare_channel(&queue.url).unwrap();
        let mut options = QueueDeclareOptions::durable();
        options.passive = true;
        let results = format!("{}.results", queue.name);
        let declared =
            bare.channel
                .queue_declare(results.as_str().into(), options, FieldTable::default());
        assert!(declared.await.is_err());
        ready(&broker, 0).await;
    });
}

async fn counts_of(
    broker: &AmqpBroker,
    deliveries: usize,
    nack: impl Fn() -> Nack,
) -> Vec<Option<u32>> {
    let mut counts = Vec::new();
    for _ in 0..deliveries {
        let delivery = fetch_one(broker).await;
        counts.push(delivery.delivery_count);
        broker.nack(&delivery.receipt, nack()).await.unwrap();
    }
    counts
}

#[test]
fn retries_at_once_and_after_a_delay_count_alike() {
    with_queue(|queue| async move {
        let broker = queue.open().await;
        broker.enqueue(jobs(["job"])).await.unwrap();
        let at_once = counts_of(&broker, 2, || retry(None)).await;
        assert_eq!(at_once, [Some(1), Some(2)]);
        let later = || retry(Some(Duration::from_millis(10)));
        let later = counts_of(&broker, 2, later).await;
        assert_eq!(later, [Some(3), Some(4)]);
        let delivery = fetch_one(&broker).await;
        assert_eq!(delivery.delivery_count, Some(5));
        assert!(delivery.redelivered);
        assert_eq!(delivery.payload, b"job");
    });
}

#[test]
fn delays_are_kept_and_do_not_hold_up_shorter_ones() {
    with_queue(|queue| async move {
        let broker = queue.open().await;
        let start = Instant::now();
        let long = Duration::from_secs(3600);
        let short = Duration::from_millis(1100);
        let delayed = [("long", long), ("short", short)];
        let delayed = delayed.map(|(id, delay)| NewJob::new(id, id).delay(delay));
        broker.enqueue(delayed.into()).await.unwrap();
        ready(&broker, 0).await;
        assert_eq!(fetch_one(&broker).await.job_id, JobId::new("short"));
        assert!(start.elapsed() >= short);
        assert_eq!(broker.counts().await.unwrap().delayed, 1);
    });
}

#[test]
fn released_deliveries_count_on_servers_before_4_3_and_not_where_asked() {
    with_queue(|queue| async move {
        let broker = queue.open().await;
        broker.enqueue(jobs(["job"])).await.unwrap();
        let counts = counts_of(&broker, 3, || Nack::Release).await;
        assert_eq!(counts, [Some(1); 3]);
        broker.close().await.unwrap();
        let counted = AmqpOptions::new().uncounted_release(false);
        let broker = queue.open_with(counted).await;
        let counts = counts_of(&broker, 3, || Nack::Release).await;
        println!("counts of three deliveries that are released: {counts:?}");
        // The first count may be greater than one: servers before 4.3 count what is underway to a
        // consumer that is cancelled, such as the one of the handle that was closed.
        let first = counts[0].unwrap();
        let counted = [first, first + 1, first + 2].map(Some);
        assert!(counts == [Some(first); 3] || counts == counted);
    });
}

#[test]
fn a_job_that_was_released_is_redelivered() {
    with_queue(|queue| async move {
        let broker = queue.open().await;
        broker.enqueue(jobs(["job"])).await.unwrap();
        let first = fetch_one(&broker).await;
        assert!(!first.redelivered);
        broker.nack(&first.receipt, Nack::Release).await.unwrap();
        let second = fetch_one(&broker).await;
        assert!(second.redelivered);
        assert_eq!(second.delivery_count, Some(1));
        assert_eq!(second.lost_count, Some(0));
    });
}

#[test]
fn dead_letters_keep_payload_and_reason_and_can_be_tried_again() {
    with_queue(|queue| async move {
        let broker = queue.open().await;
        broker.enqueue(jobs(["a", "b"])).await.unwrap();
        for delivery in fetch(&broker, 2).await {
            let reason = format!("no {}", delivery.job_id);
            let nack = broker.nack(&delivery.receipt, dead(&reason));
            nack.await.unwrap();
        }
        for _ in 0..3 {
            // Looking changes nothing. What was looked at is back after a moment.
            let mut letters = Vec::new();
            eventually("both letters", async || {
                letters = broker.dead_letters(10).await.unwrap();
                letters.len() == 2
            })
            .await;
            let mut kept: Vec<_> = letters
                .iter()
                .map(|letter| (letter.job_id.as_str(), &*letter.payload, &*letter.reason))
                .collect();
            kept.sort_unstable();
            assert_eq!(kept, [("a", &b"a"[..], "no a"), ("b", &b"b"[..], "no b")]);
        }
        eventually("one letter", async || {
            broker.dead_letters(1).await.unwrap().len() == 1
        })
        .await;
        eventually("two letters", async || {
            broker.counts().await.unwrap().dead == 2
        })
        .await;
        assert_eq!(broker.retry_dead().await.unwrap(), 2);
        let again = fetch(&broker, 2).await;
        assert_eq!(ids(&again), ["a", "b"]);
        assert!(again.iter().all(|one| one.delivery_count == Some(1)));
        assert!(again.iter().all(|one| one.redelivered));
        assert_eq!(broker.retry_dead().await.unwrap(), 0);
    });
}

#[test]
fn the_server_dead_letters_what_exceeds_the_delivery_limit() {
    with_queue(|queue| async move {
        let broker = queue.open_with(AmqpOptions::new().delivery_limit(3)).await;
        broker.enqueue(jobs(["job"])).await.unwrap();
        let counts = counts_of(&broker, 4, || retry(None)).await;
        assert_eq!(counts, [Some(1), Some(2), Some(3), Some(4)]);
        let mut letters = Vec::new();
        eventually("a dead letter", async || {
            letters = broker.dead_letters(1).await.unwrap();
            !letters.is_empty()
        })
        .await;
        assert_eq!(letters[0].payload, b"job");
        let reason = "dead-lettered by the server: delivery_limit";
        assert_eq!(letters[0].reason, reason);
        eventually("the letter is back", async || {
            broker.retry_dead().await.unwrap() == 1
        })
        .await;
        let delivery = fetch_one(&broker).await;
        assert_eq!(delivery.delivery_count, Some(1));
    });
}

#[test]
fn a_receipt_settles_once() {
    with_queue(|queue| async move {
        let broker = queue.open().await;
        broker.enqueue(jobs(0..4)).await.unwrap();
        let deliveries = fetch(&broker, 4).await;
        let nacks = [retry(None), Nack::Release, dead("reason")];
        let receipt: Vec<AmqpReceipt> = deliveries.iter().map(|one| one.receipt).collect();
        broker.ack(&receipt[0], None).await.unwrap();
        for (receipt, nack) in receipt[1..].iter().zip(nacks) {
            broker.nack(receipt, nack).await.unwrap();
        }
        for receipt in &receipt {
            assert!(broker.ack(receipt, None).await.unwrap_err().is_lease_lost());
            let nack = broker.nack(receipt, Nack::Release).await;
            assert!(nack.unwrap_err().is_lease_lost());
            let extended = broker.extend(receipt, Duration::ZERO).await;
            assert!(extended.unwrap_err().is_lease_lost());
        }
        // The channel has survived that.
        assert_eq!(fetch(&broker, 2).await.len(), 2);
    });
}

#[test]
fn ids_that_are_too_long_are_refused_before_anything_is_sent() {
    with_queue(|queue| async move {
        let broker = queue.open().await;
        let jobs = [NewJob::new("fits", ""), NewJob::new("i".repeat(256), "")];
        let error = broker.enqueue(jobs.into()).await.unwrap_err();
        assert!(error.is_permanent());
        ready(&broker, 0).await;
    });
}

#[test]
fn queues_with_other_arguments_are_named() {
    with_queue(|queue| async move {
        queue.open_with(AmqpOptions::new().delivery_limit(7)).await;
        let connect = AmqpOptions::new()
            .delivery_limit(8)
            .connect(&queue.url, &queue.name);
        let error = connect.await.unwrap_err();
        assert!(error.is_permanent());
        let message = error.to_string();
        let named = format!("queue `{}`: it exists with other arguments", queue.name);
        assert!(message.contains(&named), "{message}");
        // A handle that only checks them accepts them.
        let passive = AmqpOptions::new().delivery_limit(8).passive(true);
        let broker = queue.open_with(passive).await;
        broker.enqueue(jobs(["job"])).await.unwrap();
        fetch_one(&broker).await;
    });
}

#[test]
fn passive_handles_declare_nothing() {
    with_queue(|queue| async move {
        let passive = || AmqpOptions::new().passive(true);
        let error = passive()
            .connect(&queue.url, &queue.name)
            .await
            .unwrap_err();
        assert!(error.is_permanent(), "{error}");
        assert!(error.to_string().contains("does not exist"), "{error}");
        drop(queue.open().await);
        let broker = queue.open_with(passive()).await;
        let delayed = NewJob::new("job", "").delay(Duration::from_secs(5));
        let error = broker.enqueue(vec![delayed]).await.unwrap_err();
        assert!(error.is_permanent());
        let named = format!("`{}.delay.3`", queue.name);
        assert!(error.to_string().contains(&named), "{error}");
    });
}

#[test]
fn a_consumer_timeout_is_an_argument_of_the_queue() {
    with_queue(|queue| async move {
        let hour = Duration::from_secs(3600);
        drop(
            queue
                .open_with(AmqpOptions::new().consumer_timeout(hour))
                .await,
        );
        let other = AmqpOptions::new().consumer_timeout(2 * hour);
        // Servers that do not know the argument do not compare it.
        match other.connect(&queue.url, &queue.name).await {
            Ok(_) => println!("this server ignores x-consumer-timeout"),
            Err(error) => assert!(error.is_permanent(), "{error}"),
        }
    });
}

#[test]
fn headers_of_other_producers_outlive_a_delayed_retry() {
    with_queue(|queue| async move {
        let broker = queue.open().await;
        let bare = bare_channel(&queue.url).unwrap();
        let mut headers = FieldTable::default();
        headers.insert("trace".into(), AMQPValue::LongString("id".into()));
        let properties = lapin::BasicProperties::default()
            .with_message_id("job".into())
            .with_headers(headers);
        let options = BasicPublishOptions::default();
        let name = queue.name.as_str().into();
        let publish = bare
            .channel
            .basic_publish("".into(), name, options, b"", properties);
        publish.await.unwrap().await.unwrap();
        let after = retry(Some(Duration::from_millis(1)));
        broker
            .nack(&fetch_one(&broker).await.receipt, after)
            .await
            .unwrap();
        let delivery = fetch_one(&broker).await;
        assert_eq!(delivery.delivery_count, Some(2));
        broker.nack(&delivery.receipt, dead("no")).await.unwrap();
        let dead = format!("{}.dead", queue.name);
        let options = BasicGetOptions::default();
        let message = bare.channel.basic_get(dead.as_str().into(), options).await;
        let properties = message.unwrap().unwrap().delivery.properties;
        let headers = properties.headers().as_ref().unwrap().inner();
        let trace = &headers["trace"];
        assert_eq!(*trace, AMQPValue::LongString("id".into()));
    });
}

/// For each delay queue that is not there, the server closes a channel.
#[test]
fn counting_uses_up_nothing_however_often() {
    with_queue(|queue| async move {
        let broker = queue.open().await;
        broker.enqueue(jobs(0..3)).await.unwrap();
        for _ in 0..150 {
            assert_eq!(broker.counts().await.unwrap().ready, 3);
        }
        assert_eq!(fetch(&broker, 3).await.len(), 3);
    });
}
