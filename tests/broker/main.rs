//! Brokers are put through the conformance suite. The one in memory keeps all rules; each rule is
//! broken by an adapter that has a fault.

mod broken;
mod fixture;
mod memory;
mod serve;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use brigade::ManualTimer;
use brigade::broker::MemoryBroker;
use brigade::broker::conformance::{RULES, Rule, Verdict};
use futures_lite::future;

use crate::broken::{BrokenFixture, Fault};
use crate::fixture::MemoryFixture;

fn memory_broker_keeps(rule: Rule) {
    let clock = ManualTimer::new();
    let fixture = MemoryFixture {
        queue: MemoryBroker::new(clock.clone()),
        clock: clock.clone(),
    };
    let verdict = future::block_on(clock.run(rule.check(&fixture)));
    assert_eq!(verdict, Verdict::Kept, "{rule}");
}

brigade::broker_conformance!(memory_broker_keeps);

/// Each fault, and the rules that it breaks.
const FAULTS: &[(Fault, &[&str])] = &[
    (
        Fault::TruncatesLargePayloads,
        &["enqueued_jobs_are_delivered_whole"],
    ),
    (
        Fault::JobsEndWithTheirProducer,
        &["enqueued_jobs_outlive_their_producer"],
    ),
    (Fault::RefusesEmptyLists, &["empty_lists_are_accepted"]),
    (
        Fault::ZeroWaitIsForever,
        &["fetch_from_an_empty_queue_ends_after_its_wait"],
    ),
    (
        Fault::ZeroWaitFindsNothing,
        &["fetch_without_a_wait_finds_what_is_ready"],
    ),
    (
        Fault::FetchEndsBeforeItsWait,
        &["fetch_from_an_empty_queue_ends_after_its_wait"],
    ),
    (
        Fault::EnqueueWakesNoOtherConsumer,
        &["waiting_fetch_returns_when_a_job_is_enqueued"],
    ),
    (
        Fault::FetchesOneMoreThanMax,
        &["fetch_returns_at_most_max_jobs"],
    ),
    (
        Fault::RepeatsTheHeldDelivery,
        &["held_delivery_is_not_delivered_again"],
    ),
    (
        Fault::DeliversOneOfManyTwice,
        &["consumers_share_jobs_each_delivered_once"],
    ),
    (
        Fault::DropsEmptyResults,
        &["ack_removes_the_job_and_stores_its_result"],
    ),
    (
        Fault::AckManyStopsAtStaleReceipt,
        &["ack_many_settles_each_delivery_by_itself"],
    ),
    (Fault::StaleAckSucceeds, &["stale_receipt_cannot_ack"]),
    (Fault::StaleNackSucceeds, &["stale_receipt_cannot_nack"]),
    (Fault::StaleExtendSucceeds, &["stale_receipt_cannot_extend"]),
    (
        Fault::StaleAckStoresItsResult,
        &["stale_ack_stores_no_result"],
    ),
    (
        Fault::SecondSettlementSucceeds,
        &["delivery_is_settled_once"],
    ),
    (
        Fault::RetryIsNotMarkedAsRedelivered,
        &["retried_job_is_delivered_again"],
    ),
    (Fault::RetryDoesNotCount, &["retry_counts_as_a_delivery"]),
    (Fault::RetryIgnoresItsTime, &["retry_waits_for_its_time"]),
    (
        Fault::ReleaseLosesThePayload,
        &["released_job_is_delivered_again"],
    ),
    (
        Fault::ReleaseCounts,
        &["release_does_not_count_as_a_delivery"],
    ),
    (
        Fault::RetryCountsAsLost,
        &["crash_counts_as_lost_and_retry_does_not"],
    ),
    (
        Fault::CrashIsNotCounted,
        &["crash_counts_as_lost_and_retry_does_not"],
    ),
    (
        Fault::DeadLetterLosesItsReason,
        &["dead_letter_is_kept_with_its_reason"],
    ),
    (
        Fault::LeaseIsUnknown,
        &["delivery_whose_lease_ends_is_delivered_again"],
    ),
    (
        Fault::LeasesNeverEnd,
        &[
            "delivery_whose_lease_ends_is_delivered_again",
            "dropped_delivery_is_delivered_again",
            "stale_receipt_cannot_ack",
            "stale_receipt_cannot_extend",
            "stale_receipt_cannot_nack",
        ],
    ),
    (
        Fault::ExtendDoesNothing,
        &["extended_delivery_outlasts_its_lease"],
    ),
    (
        Fault::ExtendManyDoesNothing,
        &["extend_many_extends_each_delivery_by_itself"],
    ),
    (
        Fault::CrashReturnsOneOfMany,
        &["crash_redelivers_what_was_held_and_nothing_else"],
    ),
    (
        Fault::DroppedReceiptAcks,
        &["dropped_delivery_is_delivered_again"],
    ),
    (
        Fault::DroppedFetchKeepsWhatItReserved,
        &["dropped_fetch_loses_no_job"],
    ),
    (
        Fault::DroppedFetchKeepsItsNotification,
        &["dropped_fetch_leaves_its_job_to_another"],
    ),
    (
        Fault::CloseKeepsWhatWasHeld,
        &["close_returns_what_was_held"],
    ),
    (Fault::CloseLetsFetchesWait, &["close_ends_a_waiting_fetch"]),
    (
        Fault::ClosedFetchFindsNothing,
        &["closed_broker_refuses_to_fetch"],
    ),
    (Fault::SecondCloseFails, &["closing_again_does_nothing"]),
    (
        Fault::EnqueuesTwinsOfOneCall,
        &["known_job_is_not_enqueued_again"],
    ),
    (
        Fault::EnqueuesDoneJobsAgain,
        &["done_job_is_not_enqueued_again"],
    ),
    (Fault::IgnoresDelays, &["delayed_job_waits_for_its_time"]),
    (
        Fault::IgnoresPriorities,
        &["greater_priority_is_delivered_first"],
    ),
];

/// The verdict, or the message of the failure.
fn check(rule: Rule, fault: Fault) -> Result<Verdict, String> {
    let clock = ManualTimer::new();
    let fixture = BrokenFixture {
        queue: MemoryBroker::new(clock.clone()),
        clock: clock.clone(),
        fault,
        seen: Arc::default(),
    };
    let run = || future::block_on(clock.run(rule.check(&fixture)));
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let message = panic.downcast::<String>();
        *message.expect("a rule fails with a formatted message")
    })
}

#[test]
fn each_fault_breaks_the_rules_that_it_is_said_to_break_and_no_other() {
    for (fault, expected) in FAULTS {
        let failures: Vec<(&str, String)> = RULES
            .iter()
            .filter_map(|&rule| Some((rule.name(), check(rule, *fault).err()?)))
            .collect();
        let broken: BTreeSet<&str> = failures.iter().map(|(rule, _)| *rule).collect();
        let expected = expected.iter().copied().collect();
        assert_eq!(broken, expected, "{fault:?}: {failures:#?}");
        for (rule, message) in &failures {
            let start = format!("the broker breaks the rule {rule}: expected ");
            assert!(message.starts_with(&start), "{fault:?}: {message}");
        }
    }
}

#[test]
fn each_rule_is_broken_by_a_fault_that_breaks_no_other() {
    let alone = FAULTS.iter().filter(|(_, broken)| broken.len() == 1);
    let broken: BTreeSet<&str> = alone.map(|(_, broken)| broken[0]).collect();
    assert_eq!(broken, RULES.iter().map(|rule| rule.name()).collect());
}

#[test]
fn rules_of_capabilities_that_a_broker_lacks_are_skipped_and_the_others_kept() {
    let skipped: Vec<&str> = RULES
        .iter()
        .filter(|rule| match check(**rule, Fault::LacksCapabilities) {
            Ok(Verdict::Kept) => false,
            Ok(Verdict::Skipped(reason)) => reason.starts_with("the broker "),
            Err(message) => panic!("{message}"),
        })
        .map(|rule| rule.name())
        .collect();
    assert_eq!(
        skipped,
        [
            "stale_ack_stores_no_result",
            "retry_counts_as_a_delivery",
            "retry_waits_for_its_time",
            "release_does_not_count_as_a_delivery",
            "crash_counts_as_lost_and_retry_does_not",
            "delivery_whose_lease_ends_is_delivered_again",
            "extended_delivery_outlasts_its_lease",
            "dropped_fetch_leaves_its_job_to_another",
            "known_job_is_not_enqueued_again",
            "done_job_is_not_enqueued_again",
            "delayed_job_waits_for_its_time",
            "greater_priority_is_delivered_first",
        ]
    );
}
