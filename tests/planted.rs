//! Each thing that the simulator checks has been seen to fail: a bug is planted in the pool, and found within so many seeds. It takes
//! a build of its own: `RUSTFLAGS='--cfg brigade_planted' cargo test --features testing --test planted`.

#![cfg(brigade_planted)]

#[path = "simulation/scenario.rs"]
#[expect(dead_code, reason = "other tests use all of it")]
mod scenario;

use brigade::testing::{Bug, FaultKind, Simulation, plant};

use self::scenario::{Action, Allowed, Focus, scenario_of};

/// What finds each of the bugs below, and little else.
const FOCUS: Focus = Focus {
    is_small: false,
    actions: &[
        (8, Action::Submit),
        (4, Action::SubmitMany),
        (4, Action::Reserve),
        (8, Action::Map),
        (4, Action::Group),
        (4, Action::Idle),
        (7, Action::Control),
        (1, Action::Stop),
    ],
};

/// Plants the bug and runs seeds until one fails; the message is one of those that fit, and the run by its seed and plan fails again.
#[track_caller]
fn is_found(bug: Bug, seeds: u64, messages: &[&str]) {
    plant(Some(bug));
    // Orders and rates are checked, which several threads at once do not keep to the letter.
    let kinds = (FaultKind::ALL.into_iter())
        .filter(|kind| !matches!(kind, FaultKind::Rate | FaultKind::Priority | FaultKind::Preempt));
    let run = |sim| scenario_of(sim, Allowed { fixed_rate: true, fixed_order: true }, &FOCUS);
    let found = Simulation::new(0..seeds).faults(kinds).run(run);
    let failure = found.expect_err("it is not found");
    let fits = messages.iter().any(|message| failure.message().contains(message));
    assert!(fits, "it is found as something else: {failure}");
    let again = Simulation::new([failure.seed()]).plan(failure.plan().clone()).run(run).unwrap_err();
    assert_eq!((again.message(), again.trace()), (failure.message(), failure.trace()));
    plant(None);
}

#[test]
fn an_outcome_that_nobody_is_told() {
    is_found(Bug::LoseOutcome, 100, &["nothing can end the wait of"]);
}

#[test]
fn an_input_that_vanishes() {
    is_found(Bug::LoseInput, 100, &["an input was lost, or made up", "complete without all inputs"]);
}

#[test]
fn an_outcome_that_is_not_counted() {
    is_found(Bug::Miscount, 100, &["outcomes"]);
}

#[test]
fn more_jobs_than_may_run() {
    is_found(Bug::PassBound, 200, &["of one key run at once"]);
}

#[test]
fn a_rate_that_is_passed() {
    is_found(Bug::PassRate, 500, &["attempts started since"]);
}

#[test]
fn an_order_that_is_not_kept() {
    is_found(Bug::PassOrder, 200, &["starts before job"]);
}

#[test]
fn a_place_that_is_not_given_back() {
    is_found(Bug::LeakPlace, 200, &["are left", "places", "nothing can end the wait of", "granted"]);
}

#[test]
fn a_lane_that_stays() {
    is_found(Bug::LeakLane, 200, &["lane"]);
}

#[test]
fn a_waker_that_stays() {
    is_found(Bug::LeakWaker, 100, &["wakers of workers are left"]);
}

#[test]
fn a_time_that_nobody_keeps() {
    is_found(Bug::LeakTime, 500, &["keeps the time"]);
}

#[test]
fn a_job_that_runs_on_after_its_cancellation() {
    is_found(Bug::RunOn, 500, &["runs after its cancellation"]);
}

#[test]
fn a_job_that_could_start_and_does_not() {
    let messages = [
        "a job could start",
        "nobody keeps the time",
        "the alarm is not for the moment",
        "nothing can end the wait of",
    ];
    is_found(Bug::ForgetToLook, 100, &messages);
}

#[test]
fn a_worker_that_is_not_woken() {
    is_found(Bug::ForgetToWake, 100, &["are queued and", "nothing can end the wait of"]);
}

#[test]
fn a_drain_that_does_not_end() {
    is_found(Bug::ForgetQuiet, 100, &["nothing can end the wait of"]);
}
