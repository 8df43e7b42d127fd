//! Compares the schedule with a [naive one](super::reference), and named cases.

use proptest::collection::vec;
use proptest::prelude::*;

use super::reference::{KEYS, Op, Pair, WORKERS, drive};
use super::*;

fn limit() -> impl Strategy<Value = RateLimit> {
    (1..4_u32, 1..60_u64, 1..4_u32, any::<bool>()).prop_map(
        |(permits, period, burst, is_window)| {
            let period = Duration::from_nanos(period);
            if is_window {
                RateLimit::sliding_window(permits, period)
            } else {
                RateLimit::per(permits, period).burst(burst)
            }
        },
    )
}

fn option<T: std::fmt::Debug + Clone>(
    strategy: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<T>> {
    prop_oneof![Just(None), strategy.prop_map(Some)]
}

fn key_limits() -> impl Strategy<Value = (Option<usize>, Option<RateLimit>)> {
    (option(1..=WORKERS), option(limit()))
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let any = any::<usize>;
    let delay = || prop_oneof![2 => Just(0), 1 => 0..80_u64];
    let insert = (
        -2..3_i32,
        0..5_u32,
        0..KEYS,
        delay(),
        prop_oneof![2 => Just(None), 1 => (1..90_u64).prop_map(Some)],
    );
    let op = prop_oneof![
        4 => (0..40_u64).prop_map(Op::Wait),
        8 => insert.prop_map(|(priority, cost, key, delay, limit)| Op::Insert { priority, cost, key, delay, limit }),
        8 => any().prop_map(Op::Start),
        1 => any().prop_map(Op::GiveBack),
        6 => any().prop_map(Op::Finish),
        2 => (any(), 0..80_u64).prop_map(|(job, delay)| Op::Requeue { job, delay }),
        2 => any().prop_map(Op::Remove),
        2 => (any(), -2..3_i32).prop_map(|(job, priority)| Op::SetPriority(job, priority)),
        1 => (0..9_u64).prop_map(Op::RemoveWhere),
        1 => Just(Op::Pause),
        2 => Just(Op::Resume),
        1 => (1..=WORKERS).prop_map(Op::SetWorkers),
        1 => prop_oneof![Just(None), limit().prop_map(Some)].prop_map(Op::SetRate),
        1 => (0..40_u64).prop_map(Op::Hold),
        1 => (1..KEYS, 0..40_u64).prop_map(|(key, wait)| Op::HoldKey(key, wait)),
        2 => (1..KEYS, option(key_limits())).prop_map(|(key, limits)| Op::SetKeyLimits(key, limits)),
        1 => (any(), 0..40_u64).prop_map(|(job, wait)| Op::HoldLane(job, wait)),
        1 => Just(Op::Close),
    ];
    vec(op, 0..150)
}

proptest! {
    #[test]
    fn a_schedule_matches_a_naive_model(
        rate in prop_oneof![Just(None), limit().prop_map(Some)], lane_limit in prop_oneof![Just(None), limit().prop_map(Some)],
        max_running in 1..=WORKERS, step in prop_oneof![Just(None), (1..30_u64).prop_map(Some)], ops in ops(),
    ) {
        let mut pair = Pair::new(rate, lane_limit, max_running, step);
        ops.iter().for_each(|op| pair.step(op));
        pair.end();
    }
}

#[test]
fn what_was_found_by_bytes_stays_found() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpora/found/schedule");
    let files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    assert!(files.len() > 20, "only {} files", files.len());
    files
        .iter()
        .for_each(|file| drive(&std::fs::read(file).unwrap()));
}

#[test]
fn a_schedule_knows_the_time_as_its_clock_does() {
    let start = Instant::now() + Duration::from_secs(3600);
    let mut schedule = Schedule::<u64>::new(SchedulePolicy::default(), 1, start);
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let tick = |seconds: u64| Tick(seconds * 1_000_000_000);
    assert_eq!((schedule.generation(), schedule.now()), (0, Tick(0)));
    assert_eq!(
        schedule.accept_reading(Reading {
            at: at(5),
            generation: 0
        }),
        tick(5)
    );
    assert_eq!(
        (
            schedule.generation(),
            schedule.now(),
            schedule.take_step_back()
        ),
        (1, tick(5), false)
    );
    assert_eq!(
        schedule.accept_reading(Reading {
            at: start,
            generation: 1
        }),
        tick(5)
    );
    assert_eq!(
        (
            schedule.generation(),
            schedule.take_step_back(),
            schedule.take_step_back()
        ),
        (2, true, false)
    );
    assert_eq!(
        (schedule.instant(tick(9)), schedule.instant(Tick::NEVER)),
        (Some(at(4)), None)
    );
    schedule.advance_to(tick(7));
    schedule.advance_to(tick(6));
    assert_eq!(schedule.now(), tick(7));
}

#[test]
fn what_a_leaver_has_tried_is_known() {
    let mut history = Box::new(History::new(Instant::now()));
    history.attempts = 3;
    assert_eq!(
        Removed {
            job: (),
            history: Some(history)
        }
        .attempts(),
        3
    );
    assert_eq!(
        Removed {
            job: (),
            history: None
        }
        .attempts(),
        0
    );
}

#[test]
fn a_schedule_that_is_stopped_wants_to_be_asked_no_more() {
    let mut schedule = Schedule::new(SchedulePolicy::default(), 1, Instant::now());
    let options = ScheduleOptions {
        start: StartAt::After(Duration::from_secs(1)),
        ..ScheduleOptions::default()
    };
    schedule.insert(0, 0, options, Tick(0));
    let mut released = Released::new();
    schedule.release(
        Tick(0),
        Occupancy {
            slots: 1,
            running: 0,
            is_closing: false,
        },
        &mut released,
    );
    assert!(released.first.is_none() && schedule.wake_at() == Tick(1_000_000_000));
    schedule.stop();
    assert_eq!(schedule.wake_at(), Tick::NEVER);
}

/// The jobs that may start at once.
fn started(schedule: &mut Schedule<u64>) -> Vec<u64> {
    let mut released = Released::new();
    schedule.release(
        Tick(0),
        Occupancy {
            slots: 9,
            running: 0,
            is_closing: false,
        },
        &mut released,
    );
    assert!(released.cost_exceeds_limit.is_empty() && released.expired.is_empty());
    released
        .first
        .into_iter()
        .chain(released.more)
        .map(|(job, _)| job)
        .collect()
}

#[test]
fn a_job_gives_no_permit_back_to_a_rate_that_gave_it_none() {
    let policy = |permits| SchedulePolicy {
        rate: permits,
        ..SchedulePolicy::default()
    };
    let each_second = RateLimit::per_second(1);
    for (before, between) in [
        (None, None),
        (Some(each_second.burst(9)), None),
        (None, Some(each_second)),
    ] {
        let mut schedule = Schedule::new(policy(before), 9, Instant::now());
        let insert = |schedule: &mut Schedule<u64>, number| {
            schedule.insert(
                number,
                number,
                ScheduleOptions {
                    cost: 1,
                    ..ScheduleOptions::default()
                },
                Tick(0),
            )
        };
        let early = insert(&mut schedule, 0);
        assert_eq!(started(&mut schedule), [0]);
        schedule.set_rate(between, Tick(0));
        schedule.set_rate(Some(each_second), Tick(0));
        insert(&mut schedule, 1);
        // The job that is on its way back may come first.
        assert_eq!(started(&mut schedule), []);
        schedule.remove(early, 0, Tick(0));
        assert_eq!(started(&mut schedule), [1]);
        insert(&mut schedule, 2);
        assert_eq!(started(&mut schedule), []);
    }
}

#[test]
fn a_job_with_the_record_id_of_one_over_the_limit_starts() {
    let rate = Some(RateLimit::per_second(1).burst(4));
    let mut schedule = Schedule::new(
        SchedulePolicy {
            rate,
            ..SchedulePolicy::default()
        },
        9,
        Instant::now(),
    );
    let costly = schedule.insert(
        0,
        0,
        ScheduleOptions {
            cost: 5,
            ..ScheduleOptions::default()
        },
        Tick(0),
    );
    assert_eq!(schedule.remove(costly, 0, Tick(0)).0, Some(0));
    assert_eq!(
        schedule.insert(
            1,
            1,
            ScheduleOptions {
                cost: 4,
                ..ScheduleOptions::default()
            },
            Tick(0)
        ),
        costly
    );
    assert_eq!(started(&mut schedule), [1]);
}

#[test]
fn keys_that_come_together_take_turns_in_the_order_in_which_they_came() {
    let mut schedule = Schedule::new(SchedulePolicy::default(), 9, Instant::now());
    let mut insert = |number, key: u32| {
        schedule.insert(
            number,
            number,
            ScheduleOptions {
                key: Some(Key::from(key)),
                ..ScheduleOptions::default()
            },
            Tick(0),
        )
    };
    // Freed ids are reused, the last one first.
    let record_ids = [insert(0, 0), insert(1, 1)];
    (0..)
        .zip(record_ids)
        .for_each(|(number, record_id)| drop(schedule.remove(record_id, number, Tick(0))));
    let mut insert = |number, key: u32| {
        schedule.insert(
            number,
            number,
            ScheduleOptions {
                key: Some(Key::from(key)),
                ..ScheduleOptions::default()
            },
            Tick(0),
        )
    };
    let again = [insert(2, 2), insert(3, 3)];
    assert!(again[0] > again[1]);
    assert_eq!(started(&mut schedule), [2, 3]);
}

#[test]
fn no_time_is_asked_for_while_the_permits_that_the_next_job_needs_are_kept() {
    let occupancy = |running| Occupancy {
        slots: 9,
        running,
        is_closing: false,
    };
    let rate = RateLimit::per_second(1);
    let of_lanes = KeyLimits {
        limit: Some(rate),
        ..KeyLimits::default()
    };
    for policy in [
        SchedulePolicy {
            rate: Some(rate),
            ..SchedulePolicy::default()
        },
        SchedulePolicy {
            rate: Some(RateLimit::sliding_window(1, Duration::from_secs(1))),
            ..SchedulePolicy::default()
        },
        SchedulePolicy {
            lanes: of_lanes,
            ..SchedulePolicy::default()
        },
    ] {
        let mut schedule = Schedule::new(policy, 9, Instant::now());
        let options = ScheduleOptions {
            cost: 1,
            ..ScheduleOptions::default()
        };
        let record_ids =
            [0, 1].map(|number| schedule.insert(number, number, options.clone(), Tick(0)));
        let mut released = Released::new();
        // The released job comes first, however late the release.
        for at in [0, 5, 10_000_000_000].map(Tick) {
            schedule.release(at, occupancy(0), &mut released);
            assert_eq!(
                (
                    released.first.as_ref().map(|(job, _)| *job),
                    released.more.len()
                ),
                (Some(0), 0)
            );
            assert_eq!(schedule.wake_at(), Tick::NEVER, "at {at:?}, {policy:?}");
        }
        // The start of the released job sets the time of the next one; its removal lets the next
        // one start at once.
        let mut other = Schedule::new(policy, 9, Instant::now());
        let first = other.insert(0, 0, options.clone(), Tick(0));
        other.insert(1, 1, options.clone(), Tick(0));
        assert_eq!(started(&mut other), [0]);
        schedule.start(record_ids[0], occupancy(0), Tick(10_000_000_000));
        assert_eq!(schedule.wake_at(), Tick(11_000_000_000), "{policy:?}");
        other.remove(first, 0, Tick(0));
        assert_eq!(started(&mut other), [1]);
    }
}
