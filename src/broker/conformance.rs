//! The rules of a [`Broker`] as tests, for implementations in any crate.
//!
//! An adapter's author implements [`Fixture`] for a queue of its test, and runs each rule with a
//! fixture of its own: as one `#[test]` for each, by
//! [`broker_conformance!`](crate::broker_conformance), or all of [`RULES`] in a loop. A rule panics
//! if it is broken, and names itself, what it expected and what it got. A rule for a
//! [capability](super::Capabilities) that the broker lacks checks nothing, and says so:
//! [`Verdict::Skipped`].
//!
//! The rules are plain futures. They need no executor: the fixture's own [`Timer`] measures and
//! sleeps. Nothing that the rules await has to be fast; what has to come is awaited for as long as
//! [`Fixture::patience`], and what must not come before its time is measured from below.
//!
//! The order of jobs of the same priority is no rule: a broker may promise one by itself.
//!
//! # Examples
//!
//! ```
//! use brigade::broker::conformance::{Fixture, RULES, Rule, Verdict};
//! use brigade::broker::{Broker, DeadLetter, JobId, MemoryBroker};
//! use brigade::{ManualTimer, Timer};
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! struct InMemory { clock: ManualTimer, queue: MemoryBroker }
//!
//! impl Fixture for InMemory {
//!     type Broker = MemoryBroker;
//!
//!     async fn open(&self, lease: Duration) -> MemoryBroker { self.queue.consumer().lease(lease) }
//!     async fn crash(&self, broker: MemoryBroker) { broker.lose_connection(); }
//!     async fn results(&self) -> Vec<(JobId, Vec<u8>)> { self.queue.results() }
//!     async fn dead_letters(&self) -> Vec<DeadLetter> { self.queue.dead_letters() }
//!     fn timer(&self) -> Arc<dyn Timer> { Arc::new(self.clock.clone()) }
//! }
//!
//! fn check(rule: Rule) -> Verdict {
//!     let clock = ManualTimer::new();
//!     let fixture = InMemory { queue: MemoryBroker::new(clock.clone()), clock: clock.clone() };
//!     futures_lite::future::block_on(clock.run(rule.check(&fixture)))
//! }
//!
//! for &rule in RULES {
//!     assert_eq!(check(rule), Verdict::Kept, "{rule}");
//! }
//! ```

mod run;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future::{yield_now, zip};

use self::run::{Run, when_woken};
use super::{Ack, Broker, DeadLetter, Delivery, JobId, Nack, NewJob};
use crate::rt::Timer;

/// One queue of a broker, as the rules need it: implemented by the author of an adapter.
///
/// Each rule is given a fixture of its own, whose queue, results and dead letters are empty.
///
/// The futures need not be `Send`, and the methods may panic: what fails in them fails the rule.
pub trait Fixture {
    /// The broker that is put to the test.
    type Broker: Broker;

    /// Opens another consumer of the fixture's queue, as another process would. Its deliveries have
    /// a lease of this length, where the broker has leases; one without ignores it. The lease is
    /// [`patience`](Self::patience) times 6, or some [`tick`](Self::tick)s long.
    fn open(&self, lease: Duration) -> impl Future<Output = Self::Broker>;

    /// Ends a consumer as if its process was killed: nothing is settled, returned or closed in
    /// order. For a broker with leases whose connection means nothing, dropping it will do.
    fn crash(&self, broker: Self::Broker) -> impl Future<Output = ()>;

    /// Reads all results that are stored, in any order. It may be asked again and again, and yields
    /// the same ones, and later ones, each time.
    fn results(&self) -> impl Future<Output = Vec<(JobId, Vec<u8>)>>;

    /// Reads all dead letters, in any order; as [`results`](Self::results).
    fn dead_letters(&self) -> impl Future<Output = Vec<DeadLetter>>;

    /// The clock of the broker and its alarm.
    ///
    /// With a [`ManualTimer`](crate::ManualTimer), run the rule in
    /// [`ManualTimer::run`](crate::ManualTimer::run), and only if the broker never waits for
    /// something outside of the rule's task, such as another thread or a socket: the clock would
    /// jump meanwhile.
    fn timer(&self) -> Arc<dyn Timer>;

    /// The shortest time that the broker measures well. Short leases, delays and waits are 5 ticks
    /// long, and one that ends a tick early is no error. The default is 20 ms.
    fn tick(&self) -> Duration {
        Duration::from_millis(20)
    }

    /// How long the rules wait for what has to come. It is waited for in vain only where a rule is
    /// broken, so let it be long: the default is 10 s.
    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// What became of a rule that was not broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a rule may have been skipped"]
pub enum Verdict {
    /// The broker keeps it.
    Kept,
    /// The broker lacks what the rule is about; nothing was checked. With the reason.
    Skipped(&'static str),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => f.write_str("kept"),
            Self::Skipped(reason) => write!(f, "skipped: {reason}"),
        }
    }
}

/// One of the [`RULES`]. Its name is that of the function that checks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    name: &'static str,
}

impl Rule {
    /// The rule of this name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        RULES.iter().find(|rule| rule.name == name).copied()
    }

    /// Its name, a sentence in snake case.
    pub const fn name(self) -> &'static str {
        self.name
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Makes a `#[test]` of each of the [`RULES`](crate::broker::conformance::RULES).
///
/// The argument is the path of a function that takes a [`Rule`](crate::broker::conformance::Rule),
/// makes a fixture, and runs [`Rule::check`](crate::broker::conformance::Rule::check) on an
/// executor of its choice. What it returns is dropped; print a skipped rule there.
///
/// # Examples
///
/// ```
/// use brigade::broker::conformance::Rule;
///
/// fn keeps(rule: Rule) {
///     # fn run(_: Rule) -> &'static str { "kept" }
///     println!("{rule}: {}", run(rule));
/// }
///
/// brigade::broker_conformance!(keeps);
/// ```
#[macro_export]
macro_rules! broker_conformance {
    ($check:path) => {
        $crate::broker_conformance! { @rules [$crate::broker_conformance] [@tests [$check]] }
    };
    (@tests [$check:path] $($name:ident)*) => {$(
        #[test]
        fn $name() {
            let rule = $crate::broker::conformance::Rule::named(stringify!($name));
            let _ = $check(rule.expect("the rules are those of the list"));
        }
    )*};
    // The list: all else is made of it.
    (@rules [$($with:tt)*] [$($before:tt)*]) => {
        $($with)*! {
            $($before)*
            enqueued_jobs_are_delivered_whole
            enqueued_jobs_outlive_their_producer
            empty_lists_are_accepted
            fetch_from_an_empty_queue_ends_after_its_wait
            fetch_without_a_wait_finds_what_is_ready
            waiting_fetch_returns_when_a_job_is_enqueued
            fetch_returns_at_most_max_jobs
            held_delivery_is_not_delivered_again
            consumers_share_jobs_each_delivered_once
            ack_removes_the_job_and_stores_its_result
            ack_many_settles_each_delivery_by_itself
            stale_receipt_cannot_ack
            stale_receipt_cannot_nack
            stale_receipt_cannot_extend
            stale_ack_stores_no_result
            delivery_is_settled_once
            retried_job_is_delivered_again
            retry_counts_as_a_delivery
            retry_waits_for_its_time
            released_job_is_delivered_again
            release_does_not_count_as_a_delivery
            crash_counts_as_lost_and_retry_does_not
            dead_letter_is_kept_with_its_reason
            delivery_whose_lease_ends_is_delivered_again
            extended_delivery_outlasts_its_lease
            extend_many_extends_each_delivery_by_itself
            crash_redelivers_what_was_held_and_nothing_else
            dropped_delivery_is_delivered_again
            dropped_fetch_loses_no_job
            dropped_fetch_leaves_its_job_to_another
            close_returns_what_was_held
            close_ends_a_waiting_fetch
            closed_broker_refuses_to_fetch
            closing_again_does_nothing
            known_job_is_not_enqueued_again
            done_job_is_not_enqueued_again
            delayed_job_waits_for_its_time
            greater_priority_is_delivered_first
        }
    };
}

macro_rules! list {
    ($($name:ident)*) => {
        /// All rules.
        pub const RULES: &[Rule] = &[$(Rule { name: stringify!($name) }),*];

        impl Rule {
            /// Checks this rule with a fixture that was not used before.
            ///
            /// # Panics
            ///
            /// If the broker breaks the rule.
            ///
            /// # Cancel safety
            ///
            /// Dropping the future drops the consumers that it has opened; the queue is not to be
            /// used for another rule.
            pub async fn check<F: Fixture>(self, fixture: &F) -> Verdict {
                // Boxed, since the future of this method would otherwise be that of all rules
                // together.
                let checking: Pin<Box<dyn Future<Output = Verdict> + '_>> = match self.name {
                    $(stringify!($name) => Box::pin($name(fixture)),)*
                    name => unreachable!("{name} is in RULES"),
                };
                checking.await
            }
        }
    };
}

broker_conformance! { @rules [list] [] }

/// What was enqueued is delivered with its id and its payload as they were: without a byte, with
/// each byte that there is, and with a mebibyte of them. The first delivery of a job is its first.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn enqueued_jobs_are_delivered_whole<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("enqueued_jobs_are_delivered_whole", fixture);
    let broker = run.open().await;
    let all_bytes: Vec<u8> = (0..=u8::MAX).collect();
    let long_id = "0123456789".repeat(20);
    let sent: BTreeMap<JobId, Vec<u8>> = [
        ("empty", Vec::new()),
        ("each byte: 'ä' \"%\" \\ ?", all_bytes),
        (&long_id, vec![b'x'; 1 << 20]),
    ]
    .map(|(id, payload)| (id.into(), payload))
    .into();
    let jobs = sent.iter();
    let jobs = jobs.map(|(id, payload)| NewJob::new(id.clone(), payload.clone()));
    run.enqueue(&broker, jobs).await;
    let mut got = BTreeMap::new();
    for delivery in run.fetch_count(&broker, sent.len()).await {
        if let Some(count) = run.count(&broker, &delivery) {
            run.equal("the count of a first delivery", &count, &1);
        }
        let (id, payload) = (delivery.job_id, delivery.payload);
        run.ack(&broker, &delivery.receipt, None).await;
        if got.insert(id.clone(), payload).is_some() {
            run.fail("each job once", &format_args!("{id} again"));
        }
    }
    if got != sent {
        let lengths = |jobs: &BTreeMap<JobId, Vec<u8>>| {
            let jobs = jobs.iter();
            jobs.map(|(id, payload)| (id.clone(), payload.len()))
                .collect::<Vec<_>>()
        };
        let expected = format!("payloads unchanged, of these lengths: {:?}", lengths(&sent));
        run.fail(&expected, &lengths(&got));
    }
    run.fetch_none(&broker).await;
    Verdict::Kept
}

/// A job is durable once `enqueue` has returned: it is delivered even if its producer crashed then.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn enqueued_jobs_outlive_their_producer<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("enqueued_jobs_outlive_their_producer", fixture);
    let producer = run.open().await;
    run.enqueue(&producer, jobs(["a", "b"])).await;
    fixture.crash(producer).await;
    let consumer = run.open().await;
    let got = run.fetch_count(&consumer, 2).await;
    run.equal("the jobs", &ids(&got), &["a", "b"].map(JobId::from).into());
    Verdict::Kept
}

/// `enqueue`, `ack_many` and `extend_many` of nothing do nothing, successfully.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn empty_lists_are_accepted<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("empty_lists_are_accepted", fixture);
    let broker = run.open().await;
    run.enqueue(&broker, []).await;
    let acked = run.within("ack_many", broker.ack_many(Vec::new())).await;
    run.equal("outcomes of ack_many", &acked.len(), &0);
    let extended = broker.extend_many(Vec::new(), run.long);
    let extended = run.within("extend_many", extended).await;
    run.equal("outcomes of extend_many", &extended.len(), &0);
    run.fetch_none(&broker).await;
    Verdict::Kept
}

/// A fetch from an empty queue ends without a delivery when its `wait` is over, and at once if that
/// is zero.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn fetch_from_an_empty_queue_ends_after_its_wait<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("fetch_from_an_empty_queue_ends_after_its_wait", fixture);
    let broker = run.open().await;
    for wait in [Duration::ZERO, run.short] {
        let before = run.now();
        let got = run.fetch(&broker, 1, wait).await;
        run.equal("deliveries", &ids(&got), &Vec::new());
        run.not_before(before, wait);
    }
    Verdict::Kept
}

/// A consumer whose fetches do not wait gets the jobs that are ready, though it pauses for a second
/// after each of them: a broker may find a job late, but not never.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn fetch_without_a_wait_finds_what_is_ready<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("fetch_without_a_wait_finds_what_is_ready", fixture);
    let (consumer, producer) = (run.open().await, run.open().await);
    run.enqueue(&producer, jobs(["a", "b", "c"])).await;
    let (start, mut got) = (run.now(), Vec::new());
    while got.len() < 3 {
        let fetched = run.fetch(&consumer, 2, Duration::ZERO).await;
        if fetched.is_empty() && run.now().saturating_duration_since(start) > fixture.patience() {
            run.fail("three deliveries", &ids(&got));
        }
        got.extend(fetched);
        run.sleep(Duration::from_secs(1)).await;
    }
    let mut got = ids(&got);
    got.sort();
    let expected = ["a", "b", "c"].map(JobId::from).into();
    run.equal("the jobs", &got, &expected);
    Verdict::Kept
}

/// A fetch that waits returns once another consumer enqueues a job, not when its `wait` is over.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn waiting_fetch_returns_when_a_job_is_enqueued<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("waiting_fetch_returns_when_a_job_is_enqueued", fixture);
    let (consumer, producer) = (run.open().await, run.open().await);
    let fetching = run.within("fetch, as a job came", consumer.fetch(1, run.long));
    let enqueueing = async {
        // So that the fetch has begun to wait, as a rule; if it has not, nothing else is checked.
        run.sleep(run.short).await;
        run.enqueue(&producer, jobs(["a"])).await;
    };
    let (fetched, ()) = zip(fetching, enqueueing).await;
    let got = run.ok("fetch", fetched);
    run.equal("deliveries", &ids(&got), &["a".into()].into());
    Verdict::Kept
}

/// A fetch returns at most `max` deliveries, and leaves the other jobs to others.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn fetch_returns_at_most_max_jobs<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("fetch_returns_at_most_max_jobs", fixture);
    let (one, other) = (run.open().await, run.open().await);
    run.enqueue(&one, jobs(["a", "b", "c", "d", "e"])).await;
    let got = run.fetch(&one, 2, fixture.patience()).await;
    if got.is_empty() || got.len() > 2 {
        run.fail("1 or 2 deliveries", &got.len());
    }
    let mut all = ids(&got);
    all.extend(ids(&run.fetch_count(&other, 5 - got.len()).await));
    all.sort();
    run.equal(
        "the jobs",
        &all,
        &["a", "b", "c", "d", "e"].map(JobId::from).into(),
    );
    Verdict::Kept
}

/// What a consumer holds is delivered to no other consumer, nor to itself again.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn held_delivery_is_not_delivered_again<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("held_delivery_is_not_delivered_again", fixture);
    let (holder, other) = (run.open().await, run.open().await);
    run.enqueue(&holder, jobs(["a"])).await;
    let held = run.fetch_one(&holder).await;
    run.fetch_none(&other).await;
    run.fetch_none(&holder).await;
    run.ack(&holder, &held.receipt, None).await;
    Verdict::Kept
}

/// Four consumers that fetch at the same time get each of 1,000 jobs exactly once among them.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn consumers_share_jobs_each_delivered_once<F: Fixture>(fixture: &F) -> Verdict {
    const JOBS: usize = 1_000;
    let run = Run::new("consumers_share_jobs_each_delivered_once", fixture);
    let producer = run.open().await;
    let all: Vec<JobId> = (0..JOBS).map(|n| format!("job {n:03}").into()).collect();
    let new = all.iter().map(|id| NewJob::new(id.clone(), *b"x"));
    run.enqueue(&producer, new).await;
    let got = std::cell::RefCell::new(Vec::new());
    let consume = async || {
        let broker = run.open().await;
        let mut last = run.now();
        while got.borrow().len() < JOBS {
            let deliveries = run.fetch(&broker, 10, fixture.tick()).await;
            if !deliveries.is_empty() {
                last = run.now();
            } else if run.now().saturating_duration_since(last) > fixture.patience() {
                break;
            }
            got.borrow_mut().extend(ids(&deliveries));
            let acks = deliveries.into_iter().map(|delivery| Ack {
                receipt: delivery.receipt,
                result: None,
            });
            let acked = run
                .within("ack_many", broker.ack_many(acks.collect()))
                .await;
            acked
                .into_iter()
                .for_each(|outcome| run.ok("ack_many", outcome));
            yield_now().await;
        }
    };
    let (two, other_two) = (zip(consume(), consume()), zip(consume(), consume()));
    zip(two, other_two).await;
    let mut got = got.into_inner();
    got.sort();
    if got != all {
        let mut times = BTreeMap::new();
        for id in got.into_iter().chain(all) {
            *times.entry(id).or_insert(-1_isize) += 1;
        }
        times.retain(|_, times| *times != 1);
        let expected = format!("{JOBS} jobs, each delivered once");
        run.fail(&expected, &format_args!("these so many times: {times:?}"));
    }
    run.fetch_none(&producer).await;
    Verdict::Kept
}

/// An ack stores its result, if there is one, and the job is not delivered again, even if its
/// consumer crashes then.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn ack_removes_the_job_and_stores_its_result<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("ack_removes_the_job_and_stores_its_result", fixture);
    let (broker, other) = (run.open().await, run.open().await);
    run.enqueue(&broker, jobs(["a", "b", "c"])).await;
    let results = BTreeMap::from([("a", Some(vec![0, 255])), ("b", None), ("c", Some(vec![]))]);
    for delivery in run.fetch_count(&broker, 3).await {
        let result = results.get(delivery.job_id.as_str()).cloned().flatten();
        run.ack(&broker, &delivery.receipt, result).await;
    }
    run.results(&[("a", &[0, 255]), ("c", &[])]).await;
    run.fetch_none(&broker).await;
    run.fetch_none(&other).await;
    Verdict::Kept
}

/// `ack_many` settles each delivery as if by `ack`, and returns as many outcomes in their order: a
/// receipt that is stale yields `LeaseLost`, and does not keep the others from being settled.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn ack_many_settles_each_delivery_by_itself<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("ack_many_settles_each_delivery_by_itself", fixture);
    let (broker, other) = (run.open().await, run.open().await);
    run.enqueue(&broker, jobs(["a", "b", "c"])).await;
    let mut held = run.fetch_count(&broker, 3).await;
    held.sort_by(|a, b| a.job_id.cmp(&b.job_id));
    run.nack(&broker, &held[1].receipt, Nack::Release).await;
    let again = run.fetch_one(&other).await;
    run.equal("the released job", &again.job_id, &"b".into());
    let acks = held.iter().map(|delivery| Ack {
        receipt: delivery.receipt.clone(),
        result: Some(delivery.payload.clone()),
    });
    let outcomes = broker.ack_many(acks.collect());
    let outcomes = run.within("ack_many", outcomes).await;
    let are_lost: Vec<bool> = outcomes
        .into_iter()
        .map(|outcome| run.is_lost("ack_many", outcome))
        .collect();
    run.equal(
        "which receipts are stale",
        &are_lost,
        &vec![false, true, false],
    );
    run.ack(&other, &again.receipt, None).await;
    run.fetch_none(&other).await;
    if broker.capabilities().atomic_result {
        run.results(&[("a", b"a"), ("c", b"c")]).await;
    }
    Verdict::Kept
}

/// A receipt whose job was delivered again cannot ack: it yields `LeaseLost`, and the new delivery
/// goes on.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn stale_receipt_cannot_ack<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("stale_receipt_cannot_ack", fixture);
    run.refuses_stale_receipts("job", async |broker, receipt| {
        broker.ack(&receipt, None).await
    })
    .await
}

/// A receipt whose job was delivered again cannot nack, whatever the [`Nack`] is.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn stale_receipt_cannot_nack<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("stale_receipt_cannot_nack", fixture);
    let nacks = [
        Nack::Release,
        retry(),
        Nack::DeadLetter {
            reason: "stale".into(),
        },
    ];
    for nack in nacks {
        let _ = run
            .refuses_stale_receipts(&format!("{nack:?}"), async |broker, receipt| {
                broker.nack(&receipt, nack.clone()).await
            })
            .await;
    }
    run.dead_letters(&[]).await;
    Verdict::Kept
}

/// A receipt whose job was delivered again cannot extend the lease of that delivery.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn stale_receipt_cannot_extend<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("stale_receipt_cannot_extend", fixture);
    let long = run.long;
    run.refuses_stale_receipts("job", async |broker, receipt| {
        broker.extend(&receipt, long).await
    })
    .await
}

/// An ack that yields `LeaseLost` stores no result, with
/// [`atomic_result`](super::Capabilities::atomic_result).
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn stale_ack_stores_no_result<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("stale_ack_stores_no_result", fixture);
    let (broker, other) = (run.open().await, run.open().await);
    if !broker.capabilities().atomic_result {
        return Verdict::Skipped("the broker has no atomic results");
    }
    run.enqueue(&broker, jobs(["a"])).await;
    let stale = run.fetch_one(&broker).await;
    run.nack(&broker, &stale.receipt, Nack::Release).await;
    let held = run.fetch_one(&other).await;
    // Whether it is refused is another rule.
    let acking = broker.ack(&stale.receipt, Some(b"stale".into()));
    let _ = run.within("ack", acking).await;
    let acking = other.ack(&held.receipt, Some(b"held".into()));
    let _ = run.within("ack", acking).await;
    run.results(&[("a", b"held")]).await;
    Verdict::Kept
}

/// A delivery that was settled cannot be settled again: it yields `LeaseLost`, and neither the job
/// comes back, nor is it a dead letter.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn delivery_is_settled_once<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("delivery_is_settled_once", fixture);
    let broker = run.open().await;
    run.enqueue(&broker, jobs(["a"])).await;
    let receipt = run.fetch_one(&broker).await.receipt;
    run.ack(&broker, &receipt, Some(b"a".into())).await;
    let acked = run.within("ack", broker.ack(&receipt, None)).await;
    run.lost("ack after ack", acked);
    let dead = Nack::DeadLetter {
        reason: "settled".into(),
    };
    for nack in [retry(), Nack::Release, dead] {
        let nacked = run.within("nack", broker.nack(&receipt, nack)).await;
        run.lost("nack after ack", nacked);
    }
    let extended = run.within("extend", broker.extend(&receipt, run.long));
    run.lost("extend after ack", extended.await);
    run.fetch_none(&broker).await;
    run.dead_letters(&[]).await;
    Verdict::Kept
}

/// A job that is to be retried is delivered again, to the next consumer that fetches, as
/// `redelivered`.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn retried_job_is_delivered_again<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("retried_job_is_delivered_again", fixture);
    let (broker, other) = (run.open().await, run.open().await);
    run.enqueue(&broker, jobs(["a"])).await;
    let first = run.fetch_one(&broker).await;
    run.nack(&broker, &first.receipt, retry()).await;
    let again = run.fetch_one(&other).await;
    run.same_job(&again, &first);
    run.equal("redelivered", &again.redelivered, &true);
    run.ack(&other, &again.receipt, None).await;
    Verdict::Kept
}

/// A retry counts as a delivery: the next one has a greater count.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn retry_counts_as_a_delivery<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("retry_counts_as_a_delivery", fixture);
    let broker = run.open().await;
    if !broker.capabilities().delivery_count {
        return Verdict::Skipped(NO_COUNT);
    }
    run.enqueue(&broker, jobs(["a"])).await;
    let mut counts = Vec::new();
    for _ in 0..3 {
        let delivery = run.fetch_one(&broker).await;
        counts.extend(run.count(&broker, &delivery));
        run.nack(&broker, &delivery.receipt, retry()).await;
    }
    run.equal("the counts of three deliveries", &counts, &vec![1, 2, 3]);
    Verdict::Kept
}

/// A job that is to be retried after some time is not delivered before, and is delivered then to a
/// fetch that waits.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn retry_waits_for_its_time<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("retry_waits_for_its_time", fixture);
    let broker = run.open().await;
    if !broker.capabilities().delay {
        return Verdict::Skipped(NO_DELAY);
    }
    run.enqueue(&broker, jobs(["a"])).await;
    let first = run.fetch_one(&broker).await;
    let nack = Nack::Retry {
        after: Some(run.short),
        reason: "later".into(),
    };
    let before = run.now();
    run.nack(&broker, &first.receipt, nack).await;
    let again = run.fetch_soon(&broker).await;
    run.not_before(before, run.short);
    run.same_job(&again, &first);
    Verdict::Kept
}

/// A job that is released is delivered again.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn released_job_is_delivered_again<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("released_job_is_delivered_again", fixture);
    let (broker, other) = (run.open().await, run.open().await);
    run.enqueue(&broker, jobs(["a"])).await;
    let first = run.fetch_one(&broker).await;
    run.nack(&broker, &first.receipt, Nack::Release).await;
    let again = run.fetch_one(&other).await;
    run.same_job(&again, &first);
    run.ack(&other, &again.receipt, None).await;
    Verdict::Kept
}

/// A release does not count: however often a job is released, its count is that of a first
/// delivery.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn release_does_not_count_as_a_delivery<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("release_does_not_count_as_a_delivery", fixture);
    let broker = run.open().await;
    if !broker.capabilities().delivery_count {
        return Verdict::Skipped(NO_COUNT);
    }
    run.enqueue(&broker, jobs(["a"])).await;
    let mut counts = Vec::new();
    for _ in 0..3 {
        let delivery = run.fetch_one(&broker).await;
        counts.extend(run.count(&broker, &delivery));
        run.nack(&broker, &delivery.receipt, Nack::Release).await;
    }
    run.equal("the counts of three deliveries", &counts, &vec![1, 1, 1]);
    Verdict::Kept
}

/// A delivery that ended without being settled counts as lost, and one that is retried after some
/// time does not.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn crash_counts_as_lost_and_retry_does_not<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("crash_counts_as_lost_and_retry_does_not", fixture);
    let (broker, dying) = (run.open().await, fixture.open(run.short).await);
    if !broker.capabilities().delivery_count {
        return Verdict::Skipped(NO_COUNT);
    }
    if !broker.capabilities().delay {
        return Verdict::Skipped(NO_DELAY);
    }
    run.enqueue(&broker, jobs(["a"])).await;
    let first = run.fetch_one(&broker).await;
    let later = Nack::Retry {
        after: Some(fixture.tick()),
        reason: "it failed".to_owned(),
    };
    run.nack(&broker, &first.receipt, later).await;
    let second = run.fetch_soon(&dying).await;
    fixture.crash(dying).await;
    let third = run.fetch_soon(&broker).await;
    let lost = [first.lost_count, second.lost_count, third.lost_count];
    run.equal(
        "the lost ones at three deliveries",
        &lost,
        &[Some(0), Some(0), Some(1)],
    );
    Verdict::Kept
}

/// A dead letter is not delivered again. Its payload and its reason are kept.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn dead_letter_is_kept_with_its_reason<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("dead_letter_is_kept_with_its_reason", fixture);
    let (broker, other) = (run.open().await, run.open().await);
    run.enqueue(&broker, [NewJob::new("a", [0, 255])]).await;
    let delivery = run.fetch_one(&broker).await;
    let nack = Nack::DeadLetter {
        reason: "no \"such\" page: ä".into(),
    };
    run.nack(&broker, &delivery.receipt, nack).await;
    let letter = DeadLetter::new("a".into(), vec![0, 255], "no \"such\" page: ä".into());
    run.dead_letters(&[letter]).await;
    run.fetch_none(&broker).await;
    run.fetch_none(&other).await;
    Verdict::Kept
}

/// A delivery whose lease ends is delivered again, as `redelivered` and with a greater count, to a
/// fetch that waits. It says how long its lease is, and it is not delivered again before.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn delivery_whose_lease_ends_is_delivered_again<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("delivery_whose_lease_ends_is_delivered_again", fixture);
    let (broker, other) = (fixture.open(run.short).await, run.open().await);
    if !broker.capabilities().lease {
        return Verdict::Skipped(NO_LEASE);
    }
    run.enqueue(&broker, jobs(["a"])).await;
    let before = run.now();
    let first = run.fetch_one(&broker).await;
    run.equal("the lease", &first.lease, &Some(run.short));
    let again = run.fetch_soon(&other).await;
    run.not_before(before, run.short);
    run.same_job(&again, &first);
    run.equal("redelivered", &again.redelivered, &true);
    if let (Some(old), Some(new)) = (run.count(&broker, &first), run.count(&other, &again))
        && new <= old
    {
        run.fail(&format!("a count greater than {old}"), &new);
    }
    Verdict::Kept
}

/// A delivery that is extended lasts longer than its lease, and can be settled then.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn extended_delivery_outlasts_its_lease<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("extended_delivery_outlasts_its_lease", fixture);
    let other = run.open().await;
    if !other.capabilities().lease {
        return Verdict::Skipped(NO_LEASE);
    }
    run.enqueue(&other, jobs(["a"])).await;
    run.extended(async |broker, receipt| broker.extend(&receipt, run.long).await)
        .await;
    Verdict::Kept
}

/// `extend_many` extends each delivery as if by `extend`, and returns as many outcomes in their
/// order: a receipt that is stale yields `LeaseLost`.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn extend_many_extends_each_delivery_by_itself<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("extend_many_extends_each_delivery_by_itself", fixture);
    let (broker, other) = (run.open().await, run.open().await);
    run.enqueue(&broker, jobs(["a", "b", "c"])).await;
    let mut held = run.fetch_count(&broker, 3).await;
    held.sort_by(|a, b| a.job_id.cmp(&b.job_id));
    run.nack(&broker, &held[1].receipt, Nack::Release).await;
    let again = run.fetch_one(&other).await;
    run.equal("the released job", &again.job_id, &"b".into());
    let receipts = held.iter().map(|delivery| delivery.receipt.clone());
    let outcomes = broker.extend_many(receipts.collect(), run.long);
    let outcomes = run.within("extend_many", outcomes).await;
    let are_lost: Vec<bool> = outcomes
        .into_iter()
        .map(|outcome| run.is_lost("extend_many", outcome))
        .collect();
    run.equal(
        "which receipts are stale",
        &are_lost,
        &vec![false, true, false],
    );
    run.ack(&broker, &held[0].receipt, None).await;
    run.ack(&broker, &held[2].receipt, None).await;
    run.ack(&other, &again.receipt, None).await;
    if broker.capabilities().lease {
        run.enqueue(&other, jobs(["d"])).await;
        run.extended(async |broker, receipt| {
            let outcomes = broker.extend_many(vec![receipt], run.long).await;
            outcomes.into_iter().collect()
        })
        .await;
    }
    Verdict::Kept
}

/// What a consumer held when it crashed is delivered again, as `redelivered` and with a greater
/// count; what it had settled is not.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn crash_redelivers_what_was_held_and_nothing_else<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("crash_redelivers_what_was_held_and_nothing_else", fixture);
    let (producer, other) = (run.open().await, run.open().await);
    run.enqueue(&producer, jobs(["a", "b", "c"])).await;
    // The lease may end before the acks if the machine is slow: then there is another attempt.
    let (first, second) = run
        .in_time(async |lease| {
            let broker = fixture.open(lease).await;
            let mut held = run.fetch_count(&broker, 3).await;
            held.sort_by(|a, b| a.job_id.cmp(&b.job_id));
            let outcome = run.within("ack", broker.ack(&held[1].receipt, None)).await;
            if run.is_lost("ack", outcome) {
                return None;
            }
            let count = |delivery| run.count(&broker, delivery);
            let counts = (count(&held[0]), count(&held[2]));
            fixture.crash(broker).await;
            Some(counts)
        })
        .await;
    let mut again = run.fetch_count(&other, 2).await;
    again.sort_by(|a, b| a.job_id.cmp(&b.job_id));
    run.equal(
        "the jobs",
        &ids(&again),
        &["a", "c"].map(JobId::from).into(),
    );
    for (delivery, old) in again.iter().zip([first, second]) {
        run.equal("redelivered", &delivery.redelivered, &true);
        if let (Some(old), Some(new)) = (old, run.count(&other, delivery))
            && new <= old
        {
            run.fail(&format!("a count greater than {old}"), &new);
        }
    }
    run.fetch_none(&other).await;
    Verdict::Kept
}

/// A delivery that is dropped without being settled comes back: with the end of its lease, or,
/// without leases, of its connection.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn dropped_delivery_is_delivered_again<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("dropped_delivery_is_delivered_again", fixture);
    let (broker, other) = (fixture.open(run.short).await, run.open().await);
    run.enqueue(&broker, jobs(["a"])).await;
    drop(run.fetch_one(&broker).await);
    let again = if broker.capabilities().lease {
        run.fetch_one(&broker).await
    } else {
        fixture.crash(broker).await;
        run.fetch_one(&other).await
    };
    run.equal("the job", &again.job_id, &"a".into());
    Verdict::Kept
}

/// A fetch that is dropped loses no job: not after any of its first polls, with a job to be had or
/// without one, and not when it was woken by one. The jobs are delivered later, to the same
/// consumer or to another.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn dropped_fetch_loses_no_job<F: Fixture>(fixture: &F) -> Verdict {
    const POLLS: usize = 6;
    let run = Run::new("dropped_fetch_loses_no_job", fixture);
    let (broker, other) = (fixture.open(run.short).await, run.open().await);
    let (mut expected, mut got) = (Vec::new(), Vec::new());
    for polls in 1..=POLLS {
        let [before, after] = ["before", "after"].map(|when| format!("job {polls}, {when}"));
        expected.extend([&before, &after].map(|id| JobId::from(&**id)));
        // A job is there from the start.
        run.enqueue(&other, jobs([&before])).await;
        let mut fetch = Box::pin(broker.fetch(1, run.long));
        let fetched = run.poll_times(fetch.as_mut(), polls).await;
        drop(fetch);
        let fetched = fetched.map(|fetched| run.ok("fetch", fetched));
        got.extend(run.ack_all(&broker, fetched.unwrap_or_default()).await);
        // A job comes meanwhile, and may wake the fetch before it is dropped.
        let mut fetch = Box::pin(broker.fetch(10, run.long));
        let fetched = run.poll_times(fetch.as_mut(), polls).await;
        run.enqueue(&other, jobs([&after])).await;
        drop(fetch);
        let fetched = fetched.map(|fetched| run.ok("fetch", fetched));
        got.extend(run.ack_all(&broker, fetched.unwrap_or_default()).await);
    }
    expected.sort();
    let start = run.now();
    while got.len() < expected.len() {
        for consumer in [&broker, &other] {
            let fetched = run.fetch(consumer, 10, fixture.tick()).await;
            got.extend(run.ack_all(consumer, fetched).await);
        }
        if run.now().saturating_duration_since(start) > fixture.patience() * 2 {
            break;
        }
    }
    got.sort();
    run.equal("the jobs", &got, &expected);
    Verdict::Kept
}

/// A fetch that was woken for a job, or that has reserved it, and is dropped, leaves the job to
/// another fetch that waits, after its lease at the latest.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn dropped_fetch_leaves_its_job_to_another<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("dropped_fetch_leaves_its_job_to_another", fixture);
    let (broker, other) = (fixture.open(run.short).await, run.open().await);
    if !broker.capabilities().lease {
        return Verdict::Skipped(NO_LEASE);
    }
    for n in 0..3 {
        let id = JobId::new(format!("job {n}"));
        let mut dropped = Box::pin(broker.fetch(1, run.long));
        let mut waiting = Box::pin(when_woken(other.fetch(1, run.long)));
        let is_early = run.poll_times(dropped.as_mut(), 1).await.is_some()
            || run.poll_times(waiting.as_mut(), 1).await.is_some();
        run.equal("a fetch from an empty queue ends early", &is_early, &false);
        run.enqueue(&other, [NewJob::new(id.clone(), *b"x")]).await;
        drop(dropped);
        let got = run.within("fetch, as another was dropped", waiting).await;
        let got = run.ok("fetch", got);
        run.equal("the job", &ids(&got), &vec![id]);
        run.ack(&other, &got[0].receipt, None).await;
    }
    Verdict::Kept
}

/// A close returns what its consumer held to others, at once and not only after its lease.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn close_returns_what_was_held<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("close_returns_what_was_held", fixture);
    let (broker, other) = (run.open().await, run.open().await);
    run.enqueue(&broker, jobs(["a", "b", "c"])).await;
    let held = run.fetch_count(&broker, 2).await;
    run.close(&broker).await;
    let mut again = run.fetch_count(&other, 3).await;
    again.sort_by(|a, b| a.job_id.cmp(&b.job_id));
    run.equal(
        "the jobs",
        &ids(&again),
        &["a", "b", "c"].map(JobId::from).into(),
    );
    // Whatever the closed broker says, it is not that the job was settled.
    let acked = broker.ack(&held[0].receipt, None);
    if run.within("ack", acked).await.is_ok() {
        run.fail("an error of an ack after close", &"Ok(())");
    }
    for delivery in &again {
        run.ack(&other, &delivery.receipt, None).await;
    }
    Verdict::Kept
}

/// A close ends a fetch of the same broker that waits, without a delivery. A job that comes then
/// goes to others.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn close_ends_a_waiting_fetch<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("close_ends_a_waiting_fetch", fixture);
    let (broker, other) = (run.open().await, run.open().await);
    let fetching = run.within("fetch, as the broker was closed", broker.fetch(1, run.long));
    let closing = async {
        run.sleep(run.short).await;
        run.close(&broker).await;
    };
    match zip(fetching, closing).await.0 {
        Ok(deliveries) => run.equal("deliveries", &ids(&deliveries), &Vec::new()),
        Err(error) if error.is_closed() => {}
        Err(error) => run.fail("no delivery, or an error that is_closed", &error),
    }
    run.enqueue(&other, jobs(["a"])).await;
    run.equal("the job", &run.fetch_one(&other).await.job_id, &"a".into());
    Verdict::Kept
}

/// A fetch after a close fails with an error that is [closed](super::BrokerError::is_closed), even
/// if there is a job.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn closed_broker_refuses_to_fetch<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("closed_broker_refuses_to_fetch", fixture);
    let (broker, other) = (run.open().await, run.open().await);
    run.enqueue(&other, jobs(["a"])).await;
    run.close(&broker).await;
    let fetched = run.within("fetch", broker.fetch(1, Duration::ZERO)).await;
    match fetched {
        Err(error) if error.is_closed() => Verdict::Kept,
        Err(error) => run.fail("an error that is_closed", &error),
        Ok(deliveries) => run.fail("an error that is_closed", &ids(&deliveries)),
    }
}

/// A second close of a broker succeeds, and changes nothing for others.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn closing_again_does_nothing<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("closing_again_does_nothing", fixture);
    let (broker, other) = (run.open().await, run.open().await);
    run.enqueue(&other, jobs(["a"])).await;
    run.close(&broker).await;
    let held = run.fetch_one(&other).await;
    run.close(&broker).await;
    run.ack(&other, &held.receipt, None).await;
    Verdict::Kept
}

/// A job whose id is in the queue is not enqueued again, with
/// [`dedup`](super::Capabilities::dedup): not with the same call, nor while it waits or is held.
/// The first payload is kept.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn known_job_is_not_enqueued_again<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("known_job_is_not_enqueued_again", fixture);
    let (broker, other) = (run.open().await, run.open().await);
    if !broker.capabilities().dedup {
        return Verdict::Skipped(NO_DEDUP);
    }
    let [first, second, third] = ["first", "second", "third"].map(|p| NewJob::new("a", p));
    run.enqueue(&broker, [first, second.clone(), NewJob::new("b", "b")])
        .await;
    run.enqueue(&other, [second]).await;
    let mut got = run.fetch_count(&broker, 2).await;
    got.sort_by(|a, b| a.job_id.cmp(&b.job_id));
    run.equal("the jobs", &ids(&got), &["a", "b"].map(JobId::from).into());
    run.equal("the payload", &got[0].payload, &b"first".to_vec());
    run.enqueue(&other, [third]).await;
    run.fetch_none(&other).await;
    Verdict::Kept
}

/// A job whose id is that of a done one is not enqueued again, with
/// [`dedup`](super::Capabilities::dedup).
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn done_job_is_not_enqueued_again<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("done_job_is_not_enqueued_again", fixture);
    let broker = run.open().await;
    if !broker.capabilities().dedup {
        return Verdict::Skipped(NO_DEDUP);
    }
    run.enqueue(&broker, jobs(["a"])).await;
    let receipt = run.fetch_one(&broker).await.receipt;
    run.ack(&broker, &receipt, Some(b"a".into())).await;
    run.enqueue(&broker, jobs(["a"])).await;
    run.fetch_none(&broker).await;
    Verdict::Kept
}

/// A job with a delay is not delivered before its time, and is delivered then to a fetch that
/// waits, whether it waits for longer than the job or not. Jobs without a delay do not wait for it.
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn delayed_job_waits_for_its_time<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("delayed_job_waits_for_its_time", fixture);
    let (broker, other) = (run.open().await, run.open().await);
    if !broker.capabilities().delay {
        return Verdict::Skipped(NO_DELAY);
    }
    let never = NewJob::new("never", *b"x").delay(run.long);
    let later = NewJob::new("later", *b"x").delay(run.short);
    let before = run.now();
    run.enqueue(&broker, [never, later, NewJob::new("now", *b"x")])
        .await;
    // On a slow machine, both may have come meanwhile, and in any order.
    let mut got = vec![run.fetch_one(&broker).await];
    if got[0].job_id != "now".into() {
        run.not_before(before, run.short);
    }
    got.push(run.fetch_soon(&broker).await);
    run.not_before(before, run.short);
    let mut got = ids(&got);
    got.sort();
    run.equal("the jobs", &got, &["later", "now"].map(JobId::from).into());
    let enqueueing = async {
        run.sleep(run.short).await;
        let before = run.now();
        let last = NewJob::new("last", *b"x").delay(run.short);
        run.enqueue(&other, [last]).await;
        before
    };
    let (got, before) = zip(run.fetch_soon(&broker), enqueueing).await;
    run.not_before(before, run.short);
    run.equal("the job", &got.job_id, &"last".into());
    Verdict::Kept
}

/// Of the jobs that are in the queue, those of a greater priority are delivered first, with
/// [`priority`](super::Capabilities::priority).
///
/// # Panics
///
/// If the broker breaks this rule.
pub async fn greater_priority_is_delivered_first<F: Fixture>(fixture: &F) -> Verdict {
    let run = Run::new("greater_priority_is_delivered_first", fixture);
    let broker = run.open().await;
    if !broker.capabilities().priority {
        return Verdict::Skipped("the broker has no priorities");
    }
    let new = [1, 3, 0, 2].map(|n| NewJob::new(n.to_string(), *b"x").priority(n));
    run.enqueue(&broker, new).await;
    let mut got = Vec::new();
    for _ in 0..4 {
        let delivery = run.fetch_one(&broker).await;
        run.ack(&broker, &delivery.receipt, None).await;
        got.push(delivery.job_id);
    }
    run.equal(
        "the jobs",
        &got,
        &["3", "2", "1", "0"].map(JobId::from).into(),
    );
    Verdict::Kept
}

const NO_COUNT: &str = "the broker does not count deliveries";
const NO_DEDUP: &str = "the broker does not know the ids of its jobs";
const NO_DELAY: &str = "the broker has no delays";
const NO_LEASE: &str = "the broker has no leases";

fn jobs<const N: usize>(ids: [&str; N]) -> [NewJob; N] {
    ids.map(|id| NewJob::new(id, id))
}

fn retry() -> Nack {
    Nack::Retry {
        after: None,
        reason: "failed".into(),
    }
}

/// In their order.
fn ids<R>(deliveries: &[Delivery<R>]) -> Vec<JobId> {
    let ids = deliveries.iter().map(|delivery| delivery.job_id.clone());
    ids.collect()
}
