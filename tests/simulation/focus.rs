//! Scenarios with one kind of action each, on pools with a small queue and quick jobs: bugs that need
//! such a pool are found within few seeds.

use brigade::testing::{FaultKind, Simulation};

use crate::scenario::{Action, Allowed, Focus, scenario_of};

/// How many runs each scenario has.
const SEEDS: u64 = 500;

fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("BRIGADE_SEEDS").map_or(SEEDS, |text| text.parse().expect("it is a number"))
}

/// Runs the scenario with these actions for each seed, with faults and without.
#[track_caller]
fn check(focus: &'static Focus) {
    let allowed = Allowed {
        fixed_rate: false,
        fixed_order: false,
    };
    Simulation::new(seeds())
        .faults([FaultKind::Preempt])
        .check(|sim| scenario_of(sim, allowed, focus));
    Simulation::new(seeds())
        .faults(FaultKind::ALL)
        .check(|sim| scenario_of(sim, allowed, focus));
}

#[test]
fn a_job_that_is_submitted_while_a_worker_runs_starts_while_another_is_idle() {
    const CHAINS: Focus = Focus {
        is_small: true,
        is_timed: false,
        actions: &[(2, Action::Chain), (1, Action::Submit)],
    };
    check(&CHAINS);
}

#[test]
fn a_map_whose_source_stays_pending_ends_with_its_pool() {
    const PENDING: Focus = Focus {
        is_small: true,
        is_timed: false,
        actions: &[(2, Action::MapPendingSource), (1, Action::Map)],
    };
    check(&PENDING);
}

#[test]
fn maps_that_are_sources_of_each_other_end_however_small_the_queue_is() {
    const NESTED: Focus = Focus {
        is_small: true,
        is_timed: false,
        actions: &[(1, Action::NestMaps)],
    };
    check(&NESTED);
}

#[test]
fn a_submission_to_a_group_ends_when_the_group_is_cancelled() {
    const GROUPS: Focus = Focus {
        is_small: true,
        is_timed: false,
        actions: &[(1, Action::CancelGroup), (1, Action::SubmitMany)],
    };
    check(&GROUPS);
}

#[test]
fn cancelled_jobs_do_not_add_up_though_no_worker_takes_them() {
    const CANCELLED: Focus = Focus {
        is_small: true,
        is_timed: false,
        actions: &[(1, Action::CancelMany), (1, Action::Submit)],
    };
    check(&CANCELLED);
}

#[test]
fn every_outcome_is_known_when_the_pool_is_idle() {
    const KNOWN: Focus = Focus {
        is_small: true,
        is_timed: false,
        actions: &[(1, Action::KnowAfterIdle)],
    };
    check(&KNOWN);
}

#[test]
fn many_maps_and_submissions_at_once_end() {
    const BUSY: Focus = Focus {
        is_small: true,
        is_timed: false,
        actions: &[
            (2, Action::Map),
            (2, Action::SubmitMany),
            (1, Action::Reserve),
        ],
    };
    check(&BUSY);
}

#[test]
fn wakers_that_panic_fail_only_their_own_tasks() {
    const PANICKING: Focus = Focus {
        is_small: true,
        is_timed: false,
        actions: &[(2, Action::PanickingWakers), (1, Action::Map)],
    };
    check(&PANICKING);
}

#[test]
fn more_slots_than_memory_can_hold_are_refused() {
    const SLOTS: Focus = Focus {
        is_small: true,
        is_timed: false,
        actions: &[(1, Action::TooManySlots)],
    };
    check(&SLOTS);
}

#[test]
fn retries_are_no_more_than_their_delays_whatever_sets_their_times() {
    const RETRIES: Focus = Focus {
        is_small: true,
        is_timed: false,
        actions: &[(1, Action::SubmitMany), (1, Action::Map)],
    };
    check(&RETRIES);
}

#[test]
fn no_timer_is_left_when_all_delayed_jobs_are_cancelled() {
    const DELAYED: Focus = Focus {
        is_small: true,
        is_timed: false,
        actions: &[(1, Action::CancelDelayed)],
    };
    check(&DELAYED);
}

/// Jobs that wait, one by one and as batches of maps, in paused and in busy pools.
#[test]
fn every_job_ends_by_its_time() {
    const TIMED: Focus = Focus {
        is_small: false,
        is_timed: true,
        actions: &[
            (4, Action::Map),
            (2, Action::SubmitTimed),
            (1, Action::Submit),
            (1, Action::Group),
            (1, Action::Pause),
        ],
    };
    check(&TIMED);
}

/// The actions that find a violation of each rule that the simulator audits. Orders and rates are
/// among the rules, so there is no preemption: several threads do not keep them exactly.
#[test]
fn every_rule_that_is_audited_is_kept() {
    const RULES: Focus = Focus {
        is_small: false,
        is_timed: false,
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
    let kinds = (FaultKind::ALL.into_iter()).filter(|kind| {
        !matches!(
            kind,
            FaultKind::Rate | FaultKind::Priority | FaultKind::Preempt
        )
    });
    let allowed = Allowed {
        fixed_rate: true,
        fixed_order: true,
    };
    Simulation::new(seeds())
        .faults(kinds)
        .check(|sim| scenario_of(sim, allowed, &RULES));
}
