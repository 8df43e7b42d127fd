//! What can be read off a pool and its parts: times, numbers, texts; and how long a worker keeps
//! its thread.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::Duration;

use brigade::{End, ManualTimer, Pool, Summary};
use futures_lite::StreamExt;

use crate::harness::{Log, assert_settled, everywhere, gated, in_both_ways, on_wake, poll_once};

#[test]
fn timings_say_how_long_a_job_waited_and_how_long_it_ran() {
    everywhere(|env| async move {
        for is_measured in [false, true] {
            let (pool, gate, _) = gated(&env, env.one_by_one().timings(is_measured));
            let mut map = pool.map([1, 2, 3]);
            assert!(poll_once(std::pin::pin!(map.next())).is_none());
            gate.arrived(1).await;
            env.clock.advance(Duration::from_secs(2));
            gate.open(1);
            let mut completions = vec![map.next().await.unwrap()];
            gate.arrived(1).await;
            env.clock.advance(Duration::from_secs(3));
            map.cancel();
            completions.extend(map.collect::<Vec<_>>().await);
            completions.sort_by_key(|completion| completion.index);
            let times: Vec<_> = completions
                .iter()
                .map(|completion| (completion.queued_for(), completion.ran_for()))
                .collect();
            let seconds = |seconds| is_measured.then_some(Duration::from_secs(seconds));
            // The last one did not start.
            let expected = [
                (seconds(0), seconds(2)),
                (seconds(2), seconds(3)),
                (seconds(5), None),
            ];
            assert_eq!(times, expected, "{}", env.name);
            assert_settled(&pool);
        }
    });
}

#[test]
fn workers_are_counted_and_numbered_from_0() {
    for count in [1, 3] {
        let (_pool, workers) = Pool::builder()
            .workers(count)
            .timer(ManualTimer::new())
            .build(|n: u32| async move { Ok::<_, ()>(n) });
        assert_eq!((workers.len(), workers.is_empty()), (count, false));
        assert_eq!(
            format!("{workers:?}"),
            format!("Workers {{ len: {count}, .. }}")
        );
        let (ids, texts): (Vec<_>, Vec<_>) = workers
            .into_iter()
            .map(|worker| (worker.id(), format!("{worker:?}")))
            .unzip();
        assert_eq!(ids, (0..count).collect::<Vec<_>>());
        assert_eq!(
            texts,
            (0..count)
                .map(|id| format!("Worker {{ id: {id}, .. }}"))
                .collect::<Vec<_>>()
        );
    }
}

/// An input that has no text of its own.
struct Mute;

#[test]
fn what_reads_completions_has_a_text_though_inputs_have_none() {
    let (pool, _workers) = Pool::builder()
        .workers(2)
        .queue_capacity(3)
        .timer(ManualTimer::new())
        .build(|_: Mute| async { Ok::<_, ()>(Mute) });
    let mut map = pool.map([Mute]);
    assert_eq!(format!("{map:?}"), "Map { window: 5, intake: Open, .. }");
    assert_eq!(format!("{:?}", map.next()), "Next { .. }");
    assert_eq!(
        format!("{:?}", pool.group()),
        "Group { window: 5, unread: 0, .. }"
    );
    let batches = pool.batches(
        futures_lite::stream::iter([Mute]),
        2,
        Duration::from_secs(1),
    );
    assert_eq!(format!("{batches:?}"), "Batches { max: 2, wait: 1s, .. }");
}

#[test]
fn each_end_has_a_text() {
    let ends = [
        (End::Unfinished, "it is not over yet"),
        (End::Complete, "all inputs had their turn"),
        (End::Stopped, "it stopped after a failure"),
        (End::Cancelled, "it was cancelled"),
        (
            End::Closed,
            "the pool was closed before the source was exhausted",
        ),
        (End::Aborted, "the pool was aborted"),
        (End::Abandoned, "workers were dropped"),
        (
            End::WouldDeadlock,
            "every slot is occupied by a job that waits for its own pool",
        ),
        (End::SourceFailed, "the source failed"),
        (End::TimedOut, "its deadline passed"),
    ];
    for (end, text) in ends {
        assert_eq!(end.to_string(), text);
    }
}

/// All on one thread, where each poll of the worker can be counted.
#[test]
fn a_worker_lets_others_have_the_thread_after_256_jobs() {
    for slots in [1, 8] {
        let started = Log::new();
        let starts = started.clone();
        let builder = Pool::builder()
            .workers(1)
            .jobs_per_worker(slots)
            .queue_capacity(600);
        let (pool, workers) = builder.timer(ManualTimer::new()).build(move |n: u32| {
            starts.push(n);
            async move { Ok::<_, ()>(n) }
        });
        (0..600).for_each(|n| pool.try_submit(n).unwrap().detach());
        let mut worker = Box::pin(workers.into_iter().next().unwrap().run());
        let turns = [0; 4].map(|_| {
            assert_eq!(poll_once(worker.as_mut()), None);
            started.take().len()
        });
        assert_eq!(turns, [256, 256, 88, 0], "{slots} slots");
    }
}

/// All on one thread: within one poll of the worker, which nothing makes wait.
#[test]
fn a_consumer_with_nothing_to_read_is_woken_before_the_next_job_starts() {
    in_both_ways(|slots| {
        let events = Arc::new(Mutex::new(Vec::new()));
        let (starts, wakes) = (Arc::clone(&events), Arc::clone(&events));
        let (pool, workers) = slots
            .in_order(Pool::builder())
            .timer(ManualTimer::new())
            .build(move |n: u32| {
                starts.lock().unwrap().push(format!("start {n}"));
                async move { Ok::<_, ()>(n) }
            });
        let mut map = pool.map(0..3);
        let waker = on_wake(move || wakes.lock().unwrap().push("woken".into()));
        assert!(
            std::pin::pin!(map.next())
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        let mut worker = Box::pin(workers.into_iter().next().unwrap().run());
        assert_eq!(poll_once(worker.as_mut()), None);
        assert_eq!(
            *events.lock().unwrap(),
            ["start 0", "woken", "start 1", "start 2"]
        );
    });
}

#[test]
fn a_summary_prints_its_public_fields_only() {
    let printed = format!("{:?}", Summary::default());
    assert!(
        printed.ends_with("unread: 0, end: Unfinished, .. }"),
        "got {printed}"
    );
}
