//! What may end up in a log: numbers, and no user's value. Nothing here depends on an executor.

use std::fmt;
use std::fmt::{Debug, Display};
use std::sync::{Arc, Mutex};

use brigade::{End, Event, ManualTimer, Pool, SubmitError, Summary, Workers};
use futures_lite::future::{block_on, poll_once};
use futures_lite::stream;

use crate::harness::SECOND;

const SECRET: &str = "the password";

/// A value that must not appear in a log.
#[derive(Clone, PartialEq, Eq)]
struct Secret;

impl Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SECRET)
    }
}

impl Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SECRET)
    }
}

/// What was printed; the test looks through all of it at once.
#[derive(Default)]
struct Printed(Vec<String>);

impl Printed {
    fn debug(&mut self, value: &impl Debug) {
        self.0.push(format!("{value:?} {value:#?}"));
    }

    fn assert_has_no_secret(&self) {
        // If the secret could not be printed, nothing would be shown by its absence.
        assert_eq!(format!("{Secret:?}{Secret}"), [SECRET, SECRET].concat());
        assert!(
            self.0.len() > 3 && self.0.iter().all(|line| line.len() > 5),
            "{:?}",
            self.0
        );
        let leaks: Vec<_> = self.0.iter().filter(|line| line.contains(SECRET)).collect();
        assert!(leaks.is_empty(), "{leaks:?}");
    }
}

type Jobs = Pool<Secret, Secret, Secret>;

#[test]
fn what_holds_jobs_prints_none_of_their_values() {
    let (pool, workers) = Pool::builder()
        .workers(1)
        .queue_capacity(4)
        .timer(ManualTimer::new())
        .build(|input: Secret| async move { Ok::<_, Secret>(input) });
    let mut printed = Printed::default();
    printed.debug(&Pool::builder::<Secret, Secret>().key_by(|_: &Secret| SECRET));
    printed.debug(&pool);
    printed.debug(&pool.stats());
    printed.debug(&workers);
    printed.debug(&pool.job(Secret));
    let permit = pool.try_reserve().unwrap();
    printed.debug(&permit);
    let handle = permit.submit(Secret).unwrap();
    printed.debug(&handle);
    printed.debug(&handle.cancel());
    let mut map = pool.map([Secret, Secret]).keep_inputs();
    assert!(block_on(poll_once(map.next())).is_none());
    printed.debug(&map);
    printed.debug(&map.next());
    printed.debug(&map.summary());
    drop(map);
    let group = pool.group();
    group.try_submit(Secret).unwrap();
    printed.debug(&group);
    printed.debug(&pool.batches(stream::iter([Secret]), 2, SECOND));
    drop(workers);
    printed.assert_has_no_secret();
}

#[test]
fn what_a_refusal_prints_is_not_what_was_refused() {
    let (pool, workers): (Jobs, Workers<_, _, _, _>) = Pool::builder()
        .workers(1)
        .queue_capacity(1)
        .timer(ManualTimer::new())
        .build(|input: Secret| async move { Ok(input) });
    let mut printed = Printed::default();
    pool.try_submit(Secret).unwrap().detach();
    let full = pool.try_submit(Secret).unwrap_err();
    pool.close();
    let closed = pool.try_submit(Secret).unwrap_err();
    for refusal in [
        full,
        closed,
        SubmitError::WouldDeadlock(Secret),
        SubmitError::Overloaded(Secret),
    ] {
        printed.debug(&refusal);
        printed.0.push(refusal.to_string());
    }
    drop(workers);
    printed.assert_has_no_secret();
}

#[test]
fn a_collection_that_failed_prints_its_error_and_not_its_input() {
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(ManualTimer::new())
        .build(|_: Secret| async move { Err::<Secret, _>("no such host") });
    let collected = pool.map([Secret]).keep_inputs().try_collect::<Vec<_>>();
    let error = block_on(workers.drive(collected)).unwrap_err();
    let mut printed = Printed::default();
    printed.debug(&error);
    printed
        .0
        .extend([error.to_string(), format!("{error:#}"), format!("{pool:?}")]);
    assert!(printed.0[0].contains("no such host"), "{:?}", printed.0);
    printed.assert_has_no_secret();
}

#[test]
fn events_tell_numbers_and_no_values() {
    let events = Arc::new(Mutex::new(Printed::default()));
    let observer = {
        let events = Arc::clone(&events);
        move |event: &Event| events.lock().unwrap().debug(event)
    };
    let (pool, workers) = Pool::builder()
        .workers(1)
        .timer(ManualTimer::new())
        .key_by(|_: &Secret| SECRET)
        .observe(observer)
        .build(|input: Secret| async move {
            if input == Secret {
                Err(Secret)
            } else {
                Ok::<Secret, _>(input)
            }
        });
    block_on(workers.drive(async {
        pool.submit(Secret).await.unwrap().detach();
        pool.submit(Secret).await.unwrap().cancel().await;
        pool.map([Secret, Secret]).for_each(|_| {}).await;
        pool.drain().await;
    }));
    let events = std::mem::take(&mut *events.lock().unwrap());
    events.assert_has_no_secret();
}

#[test]
fn a_pool_of_tasks_prints_none_of_their_values() {
    let executor = async_executor::Executor::new();
    let pool = Pool::builder()
        .workers(1)
        .timer(ManualTimer::new())
        .spawn_tasks_on(&executor);
    let mut printed = Printed::default();
    let handle = pool.try_spawn(async { Secret }).unwrap();
    printed.debug(&pool);
    printed.debug(&handle);
    printed.debug(pool.pool());
    printed.debug(&pool.pool().stats());
    printed.assert_has_no_secret();
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
    let batches = pool.batches(futures_lite::stream::iter([Mute]), 2, SECOND);
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
            "the wait could never end: jobs of the pool wait for the pool itself",
        ),
        (End::SourceFailed, "the source failed"),
        (End::TimedOut, "its deadline passed"),
    ];
    for (end, text) in ends {
        assert_eq!(end.to_string(), text);
    }
}

#[test]
fn a_summary_prints_its_public_fields_only() {
    let printed = format!("{:?}", Summary::default());
    assert!(
        printed.ends_with("unread: 0, end: Unfinished, .. }"),
        "got {printed}"
    );
}
