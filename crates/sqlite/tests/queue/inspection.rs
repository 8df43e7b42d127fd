//! Counts, leases, results and dead letters.

use std::time::{Duration, SystemTime};

use brigade::broker::{Broker, Nack, NewJob};
use futures_lite::future::block_on;

use crate::{LONG, Queue, ack, enqueue, fetch, fetch_one, ids};

#[test]
fn each_job_is_counted_in_one_state() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        enqueue(&broker, &["done", "dead", "held", "over", "ready"]).await;
        broker
            .enqueue(vec![NewJob::new("delayed", "").delay(LONG)])
            .await
            .unwrap();
        let held = fetch(&broker, 4).await;
        ack(&broker, &held[0]).await;
        let dead = Nack::DeadLetter {
            reason: "bad".into(),
        };
        broker.nack(&held[1].receipt, dead).await.unwrap();
        broker
            .extend(&held[3].receipt, Duration::ZERO)
            .await
            .unwrap();

        let counts = broker.counts().await.unwrap();
        assert_eq!((counts.ready, counts.delayed, counts.leased), (2, 1, 1));
        assert_eq!((counts.done, counts.dead), (1, 1));
        // Another handle sees the same.
        assert_eq!(queue.open().await.counts().await.unwrap(), counts);
    });
}

#[test]
fn leases_are_listed_by_their_ends() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        enqueue(&broker, &["a", "b", "ready"]).await;
        let held = fetch(&broker, 2).await;
        let before = SystemTime::now();
        broker.extend(&held[1].receipt, LONG / 2).await.unwrap();
        let leases = broker.leases(9).await.unwrap();
        let listed: Vec<_> = leases
            .iter()
            .map(|lease| (lease.job_id.as_str(), lease.delivery_count))
            .collect();
        assert_eq!(listed, [("b", 1), ("a", 1)]);
        // Whole milliseconds.
        assert!(leases[0].until + Duration::from_millis(1) >= before + LONG / 2);
        assert_eq!(broker.leases(1).await.unwrap().len(), 1);
    });
}

#[test]
fn results_are_read_in_the_order_of_completion() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        enqueue(&broker, &["a", "b", "c"]).await;
        let held = fetch(&broker, 3).await;
        ack(&broker, &held[2]).await;
        broker.ack(&held[0].receipt, None).await.unwrap();
        let first = broker.results_after(0, 9).await.unwrap();
        ack(&broker, &held[1]).await;
        let second = broker.results_after(first[1].cursor, 9).await.unwrap();

        let read: Vec<_> = first
            .iter()
            .chain(&second)
            .map(|result| (result.job_id.as_str(), result.payload.as_deref()))
            .collect();
        assert_eq!(
            read,
            [("c", Some(&b"c"[..])), ("a", None), ("b", Some(b"b"))]
        );
        assert!(first[0].cursor < first[1].cursor && first[1].cursor < second[0].cursor);
    });
}

#[test]
fn page_of_large_results_ends_early() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        let names: Vec<String> = (0..8).map(|n| n.to_string()).collect();
        enqueue(
            &broker,
            &names.iter().map(String::as_str).collect::<Vec<_>>(),
        )
        .await;
        for delivery in fetch(&broker, 8).await {
            broker
                .ack(&delivery.receipt, Some(vec![1; 6 << 20]))
                .await
                .unwrap();
        }
        let (mut pages, mut cursor) = (Vec::new(), 0);
        loop {
            let page = broker.results_after(cursor, 100).await.unwrap();
            let Some(last) = page.last() else { break };
            cursor = last.cursor;
            pages.push(page.len());
        }
        assert_eq!(pages, [3, 3, 2]);
    });
}

#[test]
fn purged_results_are_forgotten_and_their_cursors_are_not_used_again() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        let names: Vec<String> = (0..2_500).map(|n| format!("{n:04}")).collect();
        enqueue(
            &broker,
            &names.iter().map(String::as_str).collect::<Vec<_>>(),
        )
        .await;
        for delivery in fetch(&broker, 2_500).await {
            ack(&broker, &delivery).await;
        }
        let last = broker.results_after(2_499, 9).await.unwrap();
        assert_eq!(last[0].job_id.as_str(), "2499");
        // More than one transaction removes at most.
        assert_eq!(
            broker.purge_results(last[0].cursor - 1).await.unwrap(),
            2_499
        );
        assert_eq!(broker.counts().await.unwrap().done, 1);
        assert_eq!(broker.purge_results(last[0].cursor).await.unwrap(), 1);
        assert_eq!(broker.counts().await.unwrap().done, 0);

        enqueue(&broker, &["0000"]).await;
        ack(&broker, &fetch_one(&broker).await).await;
        let again = broker.results_after(last[0].cursor, 9).await.unwrap();
        assert_eq!(again.len(), 1);
    });
}

#[test]
fn dead_letters_are_listed_in_pages_and_retried_as_new() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        enqueue(&broker, &["a", "b", "c"]).await;
        for delivery in fetch(&broker, 3).await {
            let reason = format!("no {}", delivery.job_id);
            broker
                .nack(&delivery.receipt, Nack::DeadLetter { reason })
                .await
                .unwrap();
        }
        let first = broker.dead_letters_after(0, 2).await.unwrap();
        let rest = broker.dead_letters_after(first[1].cursor, 2).await.unwrap();
        let listed: Vec<_> = first
            .iter()
            .chain(&rest)
            .map(|stored| {
                let letter = &stored.letter;
                (
                    letter.job_id.as_str(),
                    &letter.payload[..],
                    letter.reason.as_str(),
                )
            })
            .collect();
        assert_eq!(
            listed,
            [
                ("a", &b"a"[..], "no a"),
                ("b", b"b", "no b"),
                ("c", b"c", "no c")
            ]
        );

        assert_eq!(broker.purge_dead_letters(first[0].cursor).await.unwrap(), 1);
        assert_eq!(broker.retry_dead().await.unwrap(), 2);
        assert_eq!(broker.counts().await.unwrap().dead, 0);
        let again = fetch(&broker, 9).await;
        assert_eq!(ids(&again), ["b", "c"]);
        assert_eq!(
            (again[0].delivery_count, again[0].redelivered),
            (Some(1), true)
        );
        assert_eq!(again[1].payload, b"c");
        // The id of the purged letter is free.
        enqueue(&broker, &["a", "b"]).await;
        assert_eq!(ids(&fetch(&broker, 9).await), ["a"]);
    });
}
