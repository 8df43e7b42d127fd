//! What happens to deliveries and calls when connections are cut, refused, blocked, closed and dropped.

mod common;

use std::future::Future;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use brigade::broker::{Ack, Broker, Nack, NewJob, SettleError};
use brigade_amqp::{AmqpBroker, AmqpOptions};
use futures_lite::future;

use common::{
    Proxy, bare_channel, eventually, fetch, fetch_one, ids, jobs, node, ready, with_queue,
};

/// Restarts of the node would disturb tests that run at the same time in this process.
static NODE: Mutex<()> = Mutex::new(());

fn exclusively<F: Future<Output = ()>>(test: impl FnOnce(common::Queue) -> F) {
    let _node = NODE.lock().unwrap_or_else(|error| error.into_inner());
    with_queue(test);
}

fn quick() -> AmqpOptions {
    AmqpOptions::new().timeout(Duration::from_secs(3))
}

#[test]
fn a_receipt_of_a_connection_that_was_cut_settles_nothing() {
    exclusively(|queue| async move {
        let proxy = Proxy::start(&queue.url);
        let broker = queue.through(&proxy).open().await;
        broker.enqueue(jobs(["job"])).await.unwrap();
        let old = fetch_one(&broker).await;
        proxy.cut();
        let new = fetch_one(&broker).await;
        assert_eq!(new.job_id, old.job_id);
        assert!(new.redelivered);
        assert_eq!(new.delivery_count, Some(2));
        let acked = broker.ack(&old.receipt, Some(b"stale".into())).await;
        assert!(acked.unwrap_err().is_lease_lost());
        let nack = broker.nack(&old.receipt, Nack::Release).await;
        assert!(nack.unwrap_err().is_lease_lost());
        assert_eq!(broker.counts().await.unwrap().results, 0);
        broker.ack(&new.receipt, None).await.unwrap();
        broker.close().await.unwrap();
        ready(&queue.open().await, 0).await;
    });
}

#[test]
fn a_settlement_that_meets_a_cut_connection_fails() {
    exclusively(|queue| async move {
        let proxy = Proxy::start(&queue.url);
        let broker = queue.through(&proxy).open().await;
        broker.enqueue(jobs(["job"])).await.unwrap();
        let old = fetch_one(&broker).await;
        proxy.refuse(true);
        proxy.cut();
        // Whether the cut was noticed before decides the error; both say that it is not settled.
        assert!(broker.ack(&old.receipt, Some(b"x".into())).await.is_err());
        assert!(broker.ack(&old.receipt, None).await.is_err());
        proxy.refuse(false);
        fetch_one(&broker).await;
    });
}

#[test]
fn calls_fail_while_there_is_no_connection_and_succeed_after() {
    exclusively(|queue| async move {
        let proxy = Proxy::start(&queue.url);
        let broker = queue.through(&proxy).open_with(quick()).await;
        proxy.refuse(true);
        proxy.cut();
        eventually("an error", async || {
            match broker.fetch(1, Duration::from_millis(50)).await {
                Ok(deliveries) => {
                    assert_eq!(deliveries, []);
                    false
                }
                Err(error) => {
                    assert!(!error.is_permanent(), "{error}");
                    true
                }
            }
        })
        .await;
        let error = broker.enqueue(jobs(["lost"])).await.unwrap_err();
        assert!(!error.is_permanent(), "{error}");
        assert!(broker.counts().await.is_err());
        assert!(broker.dead_letters(1).await.is_err());
        proxy.refuse(false);
        eventually("a connection", async || {
            broker.enqueue(jobs(["job"])).await.is_ok()
        })
        .await;
        assert_eq!(fetch_one(&broker).await.job_id, "job".into());
    });
}

#[test]
fn a_waiting_fetch_outlasts_a_cut() {
    exclusively(|queue| async move {
        let proxy = Proxy::start(&queue.url);
        let broker = queue.through(&proxy).open().await;
        let other = queue.open().await;
        let waiting = fetch_one(&broker);
        let cutting = async {
            eventually("a consumer", async || {
                other.counts().await.unwrap().consumers == 1
            })
            .await;
            proxy.cut();
            other.enqueue(jobs(["job"])).await.unwrap();
        };
        let (delivery, ()) = future::zip(waiting, cutting).await;
        assert_eq!(delivery.job_id, "job".into());
    });
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    exclusively(|queue| async move {
        let proxy = Proxy::start(&queue.url);
        let options = quick().heartbeat(Duration::from_secs(1));
        let broker = queue.through(&proxy).open_with(options).await;
        broker.enqueue(jobs(["job"])).await.unwrap();
        let old = fetch_one(&broker).await;
        proxy.swallow(true);
        let error = broker.enqueue(jobs(["lost"])).await.unwrap_err();
        assert!(!error.is_permanent(), "{error}");
        assert!(broker.ack(&old.receipt, Some(b"x".into())).await.is_err());
        // Nor is it waited for at the end.
        let _ = broker.close().await;
        let other = queue.open().await;
        assert_eq!(fetch_one(&other).await.job_id, "job".into());
    });
}

#[test]
fn silence_ends_a_connection_and_another_follows() {
    exclusively(|queue| async move {
        let proxy = Proxy::start(&queue.url);
        let options = quick().heartbeat(Duration::from_secs(1));
        let broker = queue.through(&proxy).open_with(options).await;
        broker.enqueue(jobs(["job"])).await.unwrap();
        let old = fetch_one(&broker).await;
        proxy.swallow(true);
        eventually("the loss", async || {
            broker.extend(&old.receipt, Duration::ZERO).await.is_err()
        })
        .await;
        proxy.swallow(false);
        eventually("the job", async || {
            let fetched = broker.fetch(1, Duration::from_secs(1)).await;
            fetched.is_ok_and(|deliveries| !deliveries.is_empty())
        })
        .await;
    });
}

#[test]
fn no_job_is_lost_when_the_node_is_killed_and_started_again() {
    exclusively(|queue| async move {
        const JOBS: usize = 300;
        let broker = queue.open_with(quick()).await;
        broker.enqueue(jobs(0..JOBS)).await.unwrap();
        // A node of RabbitMQ 3.10 saves the term of a new quorum queue after some seconds. Killed before,
        // it elects no leader for that queue when it starts again, and answers no consumer.
        async_io::Timer::after(Duration::from_secs(7)).await;
        let mut done = std::collections::BTreeSet::new();
        let mut runs = 0;
        let killing = async {
            let killed = blocking::unblock(|| node(&["--kill"])).await;
            if killed.is_none() {
                println!("without a restart: the node was not started by tests/with-rabbitmq");
                return;
            }
            let error = broker.enqueue(jobs(["lost"])).await.unwrap_err();
            assert!(!error.is_permanent(), "{error}");
            blocking::unblock(|| node(&["--start"])).await;
        };
        let mut killing = Some(Box::pin(killing));
        let start = Instant::now();
        while done.len() < JOBS {
            assert!(
                start.elapsed() < common::PATIENCE * 2,
                "{} done",
                done.len()
            );
            let Ok(deliveries) = broker.fetch(20, Duration::from_millis(500)).await else {
                continue;
            };
            runs += deliveries.len();
            for delivery in deliveries {
                let acked = broker.ack(&delivery.receipt, Some(b"result".into())).await;
                if acked.is_ok() {
                    done.insert(delivery.job_id);
                }
            }
            if done.len() > JOBS / 3
                && let Some(killing) = killing.take()
            {
                killing.await;
            }
        }
        println!("{JOBS} jobs took {runs} deliveries");
        // Each has a result; some may have more than one.
        let mut results = std::collections::BTreeSet::new();
        eventually("all results", async || {
            let wait = Duration::from_millis(500);
            let stored = broker.fetch_results(100, wait).await.unwrap_or_default();
            let receipts = stored.iter().map(|one| one.receipt).collect();
            results.extend(stored.into_iter().map(|one| one.job_id));
            broker.ack_results(receipts).await;
            results.len() == JOBS
        })
        .await;
        assert_eq!(results, done);
        broker.close().await.unwrap();
    });
}

#[test]
fn a_node_that_blocks_publishers_is_an_error_after_the_timeout() {
    exclusively(|queue| async move {
        let broker = queue.open_with(quick()).await;
        let alarm = ["--ctl", "set_vm_memory_high_watermark", "absolute", "1MB"];
        if blocking::unblock(move || node(&alarm)).await.is_none() {
            return;
        }
        let outcome = async {
            let start = Instant::now();
            while start.elapsed() < common::PATIENCE {
                // The alarm takes a moment, and so jobs are accepted before.
                if let Err(error) = broker.enqueue(jobs(["job"])).await {
                    return Some(error);
                }
            }
            None
        };
        let outcome = outcome.await;
        let calm = ["--ctl", "set_vm_memory_high_watermark", "0.4"];
        blocking::unblock(move || node(&calm)).await;
        let error = outcome.expect("the node blocks publishers");
        assert!(!error.is_permanent(), "{error}");
        assert!(error.to_string().contains("blocks publishers"), "{error}");
        eventually("an end of the block", async || {
            broker.enqueue(jobs(["job"])).await.is_ok()
        })
        .await;
    });
}

#[test]
fn a_release_that_is_repeated_while_publishers_are_blocked_leaves_one_copy_at_most() {
    exclusively(|queue| async move {
        let options = AmqpOptions::new().timeout(Duration::from_secs(1));
        let broker = queue.open_with(options).await;
        broker.enqueue(jobs(["job"])).await.unwrap();
        let delivery = fetch_one(&broker).await;
        let alarm = ["--ctl", "set_vm_memory_high_watermark", "absolute", "1MB"];
        if blocking::unblock(move || node(&alarm)).await.is_none() {
            return;
        }
        let is_blocked = blocks_publishers(&queue.url).await;
        let mut outcomes = Vec::new();
        for _ in 0..5 {
            outcomes.push(broker.nack(&delivery.receipt, Nack::Release).await);
        }
        let calm = ["--ctl", "set_vm_memory_high_watermark", "0.4"];
        blocking::unblock(move || node(&calm)).await;
        assert!(is_blocked);
        let mut outcomes = outcomes.into_iter().map(Result::unwrap_err);
        let first = outcomes.next().unwrap();
        assert!(first.to_string().contains("blocks publishers"), "{first}");
        assert!(outcomes.all(|error| error.is_lease_lost()));
        let mut deliveries = fetch(&broker, 1).await;
        loop {
            broker
                .ack(&deliveries.last().unwrap().receipt, None)
                .await
                .unwrap();
            let more = broker.fetch(1, Duration::from_secs(3)).await.unwrap();
            if more.is_empty() {
                break;
            }
            deliveries.extend(more);
        }
        assert!(deliveries.len() <= 2, "{deliveries:?}");
    });
}

/// Waits until the node blocks publishers. What it publishes is dropped, as no queue has its name.
async fn blocks_publishers(url: &str) -> bool {
    let bare = bare_channel(url).unwrap();
    let select = bare.channel.confirm_select(Default::default());
    select.await.unwrap();
    let start = Instant::now();
    while start.elapsed() < common::PATIENCE {
        let confirmed = async {
            let properties = lapin::BasicProperties::default();
            let (exchange, queue) = ("".into(), "no-such-queue".into());
            let channel = &bare.channel;
            let publish =
                channel.basic_publish(exchange, queue, Default::default(), b"", properties);
            publish.await.unwrap().await.unwrap();
            false
        };
        let late = async {
            async_io::Timer::after(Duration::from_secs(1)).await;
            true
        };
        if future::or(confirmed, late).await {
            return true;
        }
    }
    false
}

#[test]
fn a_message_that_is_too_large_is_a_permanent_error_for_itself_only() {
    exclusively(|queue| async move {
        let limited = |size: u32| {
            // Where it is depends on the version of the server.
            let set = format!(
                "application:set_env(rabbit, max_message_size, {size}), \
                 persistent_term:put(max_message_size, {size})."
            );
            blocking::unblock(move || node(&["--ctl", "eval", &set]))
        };
        if limited(1000).await.is_none() {
            return;
        }
        let outcomes = async {
            let broker = queue.open().await;
            broker.enqueue(jobs(["small", "large"])).await.unwrap();
            let large = NewJob::new("large", vec![0; 2000]);
            let mut batch = jobs(["before"]);
            batch.push(large);
            batch.extend(jobs(["after"]));
            let enqueued = broker.enqueue(batch).await;
            let deliveries = fetch(&broker, 2).await;
            let settled = broker.ack_many(
                deliveries
                    .iter()
                    .zip([10, 2000])
                    .map(|(delivery, size)| Ack {
                        receipt: delivery.receipt,
                        result: Some(vec![0; size]),
                    })
                    .collect(),
            );
            (
                enqueued,
                settled.await,
                broker.enqueue(jobs(["small"])).await,
            )
        };
        let (enqueued, settled, small) = outcomes.await;
        limited(134_217_728).await;
        let error = enqueued.unwrap_err();
        assert!(error.is_permanent(), "{error}");
        let is_permanent = |outcome: &Result<(), SettleError>| matches!(outcome, Err(SettleError::Broker(error)) if error.is_permanent());
        assert!(!is_permanent(&settled[0]), "{settled:?}");
        assert!(is_permanent(&settled[1]), "{settled:?}");
        small.unwrap();
    });
}

#[test]
fn a_fetch_returns_in_time_while_a_clone_waits_longer() {
    exclusively(|queue| async move {
        let options = AmqpOptions::new().timeout(Duration::from_secs(1));
        let broker = queue.open_with(options).await;
        broker.enqueue(jobs(["held"])).await.unwrap();
        let held = fetch_one(&broker).await;
        let clone = broker.clone();
        let waiting = clone.fetch(1, Duration::from_secs(6));
        let others = async {
            async_io::Timer::after(Duration::from_millis(300)).await;
            for wait in [Duration::ZERO, Duration::from_millis(2500)] {
                let start = Instant::now();
                assert_eq!(broker.fetch(5, wait).await.unwrap(), []);
                let took = start.elapsed();
                assert!(took < wait + Duration::from_secs(1), "{took:?}");
            }
            broker.enqueue(jobs(["job"])).await.unwrap();
        };
        let (waited, ()) = future::zip(waiting, others).await;
        assert_eq!(ids(&waited.unwrap()), ["job"]);
        // It is the same connection still.
        broker.ack(&held.receipt, None).await.unwrap();
    });
}

#[test]
fn a_consumer_that_cannot_start_is_tried_with_growing_pauses() {
    exclusively(|queue| async move {
        let proxy = Proxy::start(&queue.url);
        let broker = queue.through(&proxy).open_with(quick()).await;
        let allowed = |read: &'static str| {
            let arguments = ["--ctl", "set_permissions", "guest", ".*", ".*", read];
            blocking::unblock(move || node(&arguments))
        };
        if allowed("^$").await.is_none() {
            return;
        }
        let mut successes = 0;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            let fetched = broker.fetch(1, Duration::from_millis(50)).await;
            successes += u32::from(fetched.is_ok());
            async_io::Timer::after(Duration::from_millis(10)).await;
        }
        allowed(".*").await;
        assert_eq!(successes, 0);
        // The first connection, and those after 0.1, 0.3, 0.7, 1.5 and 3.1 seconds.
        let connections = proxy.connections();
        assert!((3..=7).contains(&connections), "{connections}");
        eventually("a consumer", async || {
            broker.fetch(1, Duration::from_millis(50)).await.is_ok()
        })
        .await;
    });
}

#[test]
fn close_ends_a_connection_that_is_being_opened() {
    exclusively(|queue| async move {
        let proxy = Proxy::start(&queue.url);
        let broker = queue.through(&proxy).open().await;
        proxy.cut();
        proxy.swallow(true);
        eventually("a connection that nothing answers", async || {
            let _ = broker.fetch(1, Duration::from_millis(50)).await;
            proxy.open_clients() == 1
        })
        .await;
        broker.close().await.unwrap();
        let start = Instant::now();
        eventually("its end", async || proxy.open_clients() == 0).await;
        assert!(start.elapsed() < Duration::from_secs(2));
        drop(broker);
    });
}

#[test]
fn what_is_unsettled_never_exceeds_what_was_asked_for() {
    exclusively(|queue| async move {
        let broker = queue.open().await;
        let other = queue.open().await;
        broker.enqueue(jobs(0..30)).await.unwrap();
        let held = fetch(&broker, 4).await;
        assert_eq!(held.len(), 4);
        let rest = fetch(&other, 26).await;
        assert_eq!(rest.len(), 26);
        for delivery in &rest[..10] {
            let nack = other.nack(&delivery.receipt, Nack::Release);
            nack.await.unwrap();
        }
        other.close().await.unwrap();
        // Four are held, and six are asked for: twenty stay in the queue.
        let more = fetch(&broker, 6).await;
        assert_eq!(more.len(), 6);
        ready(&broker, 20).await;
    });
}

#[test]
fn a_fetch_that_does_not_wait_finds_what_is_ready() {
    exclusively(|queue| async move {
        let broker = queue.open().await;
        let pause = || async_io::Timer::after(Duration::from_millis(300));
        for round in 0..5 {
            broker.enqueue(jobs(0..20)).await.unwrap();
            let mut got = 0;
            while got < 20 {
                let held = broker.fetch(15, Duration::ZERO).await.unwrap();
                assert!(!held.is_empty(), "{got} jobs in round {round}");
                got += held.len();
                for delivery in held {
                    let result = Some(delivery.payload);
                    broker.ack(&delivery.receipt, result).await.unwrap();
                }
                // For longer than a consumer without a fetch is kept.
                pause().await;
            }
            while got > 0 {
                let results = broker.fetch_results(15, Duration::ZERO).await.unwrap();
                assert!(
                    !results.is_empty(),
                    "all but {got} results in round {round}"
                );
                got -= results.len();
                let receipts = results.into_iter().map(|result| result.receipt);
                let acked = broker.ack_results(receipts.collect()).await;
                assert!(acked.iter().all(Result::is_ok), "{acked:?}");
                pause().await;
            }
        }
        assert_eq!(broker.fetch(1, Duration::ZERO).await.unwrap(), []);
    });
}

#[test]
fn a_fixed_prefetch_bounds_what_is_unsettled() {
    exclusively(|queue| async move {
        let broker = queue.open_with(AmqpOptions::new().prefetch(3)).await;
        broker.enqueue(jobs(0..10)).await.unwrap();
        let held = fetch(&broker, 3).await;
        let more = broker.fetch(5, Duration::from_millis(200)).await.unwrap();
        assert_eq!(more, []);
        broker.ack(&held[0].receipt, None).await.unwrap();
        assert_eq!(fetch(&broker, 1).await.len(), 1);
        ready(&broker, 6).await;
    });
}

#[test]
fn short_fetches_hold_no_more_than_long_ones() {
    exclusively(|queue| async move {
        let broker = queue.open().await;
        broker.enqueue(jobs(0..60)).await.unwrap();
        // What is fetched, dropped or taken one by one is not asked for again.
        for _ in 0..10 {
            let fetching = broker.fetch(15, Duration::ZERO);
            drop(future::poll_once(Box::pin(fetching)).await);
        }
        let held = fetch(&broker, 15).await;
        assert!(!held.is_empty() && held.len() <= 15, "{}", held.len());
        let mut one_by_one = Vec::new();
        while held.len() + one_by_one.len() < 20 {
            one_by_one.extend(broker.fetch(1, Duration::ZERO).await.unwrap());
        }
        for delivery in held.iter().chain(&one_by_one) {
            broker.ack(&delivery.receipt, None).await.unwrap();
        }
        ready(&broker, 40).await;

        let fixed = queue.open_with(AmqpOptions::new().prefetch(3)).await;
        let mut held = fetch(&fixed, 3).await;
        for _ in 0..10 {
            held.extend(fixed.fetch(3, Duration::ZERO).await.unwrap());
        }
        assert_eq!(held.len(), 3);
        ready(&broker, 37).await;
    });
}

#[test]
fn growing_and_shrinking_fetches_deliver_everything_once() {
    exclusively(|queue| async move {
        let broker = queue.open().await;
        broker.enqueue(jobs(0..200)).await.unwrap();
        let mut all = Vec::new();
        let mut held = Vec::new();
        for max in [1, 1, 1, 7, 2, 30, 1, 1, 50, 3].into_iter().cycle() {
            held.extend(broker.fetch(max, Duration::from_secs(1)).await.unwrap());
            let keep = held.len().min(5);
            for delivery in held.drain(keep..) {
                broker.ack(&delivery.receipt, None).await.unwrap();
                all.push(delivery);
            }
            if all.len() + held.len() >= 200 {
                break;
            }
        }
        all.extend(held);
        let mut expected: Vec<String> = (0..200).map(|n| n.to_string()).collect();
        expected.sort();
        assert_eq!(ids(&all), expected);
    });
}

#[test]
fn what_is_pushed_to_a_handle_that_does_not_fetch_goes_back() {
    exclusively(|queue| async move {
        let broker = queue.open().await;
        broker.enqueue(jobs(["a", "b"])).await.unwrap();
        let first = fetch_one(&broker).await;
        // This makes room for the second, which the server pushes; no fetch takes it here.
        broker.ack(&first.receipt, None).await.unwrap();
        let other = queue.open().await;
        assert_eq!(ids(&fetch(&other, 1).await), ["b"]);
    });
}

#[test]
fn close_returns_what_is_held_and_pushed_and_ends_waiting_calls() {
    exclusively(|queue| async move {
        let broker = queue.open().await;
        broker.enqueue(jobs(0..20)).await.unwrap();
        let held = fetch(&broker, 8).await;
        broker.ack(&held[0].receipt, None).await.unwrap();
        broker.close().await.unwrap();
        assert!(broker.ack(&held[1].receipt, None).await.is_err());
        assert!(
            broker
                .enqueue(jobs(["late"]))
                .await
                .unwrap_err()
                .is_closed()
        );
        let fetched = broker.fetch(1, Duration::MAX).await;
        assert!(fetched.unwrap_err().is_closed());
        assert!(broker.counts().await.unwrap_err().is_closed());
        broker.close().await.unwrap();
        let other = queue.open().await;
        assert_eq!(fetch(&other, 19).await.len(), 19);
        ready(&other, 0).await;
    });
}

#[test]
fn two_closes_at_once_both_end() {
    exclusively(|queue| async move {
        let broker = queue.open().await;
        broker.enqueue(jobs(0..20)).await.unwrap();
        fetch(&broker, 8).await;
        let (one, two) = future::zip(broker.close(), broker.close()).await;
        one.unwrap();
        two.unwrap();
        ready(&queue.open().await, 20).await;
    });
}

#[test]
fn a_close_that_is_dropped_goes_on() {
    exclusively(|queue| async move {
        let broker = queue.open().await;
        broker.enqueue(jobs(0..20)).await.unwrap();
        fetch(&broker, 8).await;
        assert!(future::poll_once(broker.close()).await.is_none());
        let other = queue.open().await;
        eventually("all jobs", async || {
            other.counts().await.unwrap().ready == 20
        })
        .await;
        broker.close().await.unwrap();
    });
}

#[test]
fn dropping_the_last_handle_ends_its_threads_and_returns_its_jobs() {
    exclusively(|queue| async move {
        let broker = queue.open().await;
        let clone = broker.clone();
        broker.enqueue(jobs(["job"])).await.unwrap();
        let held = fetch_one(&broker).await;
        drop(broker);
        clone.extend(&held.receipt, Duration::ZERO).await.unwrap();
        drop(clone);
        let other = queue.open().await;
        assert_eq!(fetch_one(&other).await.job_id, held.job_id);
        other.close().await.unwrap();
        drop(other);
        eventually("the end of the threads", async || threads() == 0).await;
    });
}

/// How many threads of brokers and of connections this process has; always none where there is no `/proc`.
fn threads() -> usize {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return 0;
    };
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names
        .filter(|name| ["brigade-amqp", "lapin-io-loop"].contains(&name.trim()))
        .count()
}

#[test]
fn refusals_are_permanent() {
    exclusively(|queue| async move {
        let (user, host) = queue.url.split_once('@').unwrap();
        let (host, _) = host.split_once('/').unwrap();
        let password = format!("amqp://guest:wrong@{host}/%2f");
        let vhost = format!("{user}@{host}/no-such-vhost");
        for url in [password, vhost] {
            let error = AmqpBroker::connect(&url, &queue.name).await.unwrap_err();
            assert!(error.is_permanent(), "{url}: {error}");
            println!("{error}");
        }
        let nobody = "amqp://guest:guest@127.0.0.1:1/%2f";
        let error = AmqpBroker::connect(nobody, &queue.name).await.unwrap_err();
        assert!(!error.is_permanent(), "{error}");
    });
}

#[test]
fn a_connection_that_is_not_accepted_is_given_up() {
    exclusively(|queue| async move {
        let proxy = Proxy::start(&queue.url);
        proxy.swallow(true);
        let options = AmqpOptions::new().timeout(Duration::from_millis(300));
        let url = queue.through(&proxy).url;
        let error = options.connect(&url, &queue.name).await.unwrap_err();
        assert!(!error.is_permanent(), "{error}");
    });
}
