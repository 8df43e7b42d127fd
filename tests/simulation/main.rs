//! The pool in the simulator: random policies, actors and jobs, with and without faults.
//! `BRIGADE_SEED=n` replays one run, and `BRIGADE_SEEDS=n` makes so many of each kind.

mod awaits;
mod focus;
mod hasty;
mod scenario;

use brigade::testing::{FaultKind, Plan, Runs, Simulation, replay};

use self::scenario::{Allowed, scenario};

/// How many runs each kind has.
const SEEDS: u64 = 1000;

const ALL: Allowed = Allowed {
    fixed_rate: false,
    fixed_order: false,
};
const NOTHING: Allowed = Allowed {
    fixed_rate: true,
    fixed_order: true,
};

fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("BRIGADE_SEEDS").map_or(SEEDS, |text| {
        text.parse().expect("BRIGADE_SEEDS is a number")
    })
}

#[test]
fn whatever_is_injected_every_job_has_one_outcome_and_every_wait_ends() {
    let runs = Simulation::new(seeds())
        .faults(FaultKind::ALL)
        .check(|sim| scenario(sim, ALL));
    assert_injected(runs);
}

#[test]
fn no_order_is_changed_whatever_is_injected() {
    // Jobs that several threads submit at once have no order.
    let kinds = FaultKind::ALL
        .into_iter()
        .filter(|kind| !matches!(kind, FaultKind::Priority | FaultKind::Preempt));
    let allowed = Allowed {
        fixed_rate: false,
        ..NOTHING
    };
    let runs = Simulation::new(seeds())
        .faults(kinds)
        .check(move |sim| scenario(sim, allowed));
    assert_injected(runs);
}

#[test]
fn no_rate_is_exceeded_whatever_is_injected() {
    // A start is observed a little after it was counted; the clock must not move in between.
    let kinds = FaultKind::ALL
        .into_iter()
        .filter(|kind| !matches!(kind, FaultKind::Rate | FaultKind::Preempt));
    let allowed = Allowed {
        fixed_order: false,
        ..NOTHING
    };
    let runs = Simulation::new(seeds())
        .faults(kinds)
        .check(move |sim| scenario(sim, allowed));
    assert_injected(runs);
}

#[test]
fn every_run_is_complete_when_nothing_is_injected() {
    let runs = Simulation::new(seeds())
        .faults([FaultKind::Preempt])
        .check(|sim| scenario(sim, ALL));
    assert_eq!(runs.injections, 0);
    assert!(runs.polls > runs.runs, "{runs:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut lines = 0;
    for seed in 0..50 {
        let plan = Plan::random(seed, &FaultKind::ALL);
        let run = || replay(seed, &plan, |sim| scenario(sim, ALL));
        let first = run();
        assert_eq!(run(), first);
        lines += first.trace.lines().count();
    }
    assert!(lines > 5000, "only {lines} lines are too few to compare");
}

/// A simulation without injections proves nothing about faults.
fn assert_injected(runs: Runs) {
    assert!(
        runs.runs == 1 || 2 * runs.injections > runs.runs,
        "{runs:?}"
    );
}
