//! Compares the limiters with naive ones: a bucket that counts its tokens, a list of all starts,
//! and the bucket of `governor`.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;

use governor::clock::FakeRelativeClock;
use governor::{Quota, RateLimiter};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

/// An operation on a limiter.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Time passes, in nanoseconds.
    Wait(u64),
    /// A job of this cost comes, and starts if it may.
    Try(u32),
    /// A job with reserved permits, counted from the oldest, starts or is given up.
    Resolve(usize, bool),
    /// Another limit of the same form: permits, period.
    Change(u32, u64),
}

fn steps(costs: RangeInclusive<u32>, with_changes: bool) -> impl Strategy<Value = Vec<Step>> {
    let wait = prop_oneof![
        Just(0),
        1..20_u64,
        0..3 * SECOND,
        Just(SECOND / 3),
        Just(SECOND)
    ];
    let change = (1..9_u32, prop_oneof![1..50_u64, 1..3 * SECOND]);
    let step = prop_oneof![
        3 => wait.prop_map(Step::Wait),
        5 => costs.prop_map(Step::Try),
        3 => (0..4_usize, any::<bool>()).prop_map(|(which, starts)| Step::Resolve(which, starts)),
        u32::from(with_changes) => change.prop_map(|(permits, period)| Step::Change(permits, period)),
    ];
    vec(step, 0..120)
}

/// A bucket that counts its tokens: a token is `1 / period` of a permit, and `permits` tokens come
/// in each nanosecond.
#[derive(Debug)]
struct Bucket {
    permits: u128,
    period: u128,
    burst: u128,
    tokens: u128,
    at: u64,
}

impl Bucket {
    fn new(permits: u32, period: u64, burst: u32) -> Self {
        let (permits, period, burst) = (permits.into(), period.into(), burst.into());
        Self {
            permits,
            period,
            burst,
            tokens: burst * period,
            at: 0,
        }
    }

    fn fill(&mut self, now: u64) {
        self.tokens =
            (self.tokens + u128::from(now - self.at) * self.permits).min(self.burst * self.period);
        self.at = now;
    }

    /// The first nanosecond, from now on, at which it has as much as this costs.
    fn earliest(&self, cost: u32) -> u64 {
        let missing = (u128::from(cost) * self.period).saturating_sub(self.tokens);
        self.at + u64::try_from(missing.div_ceil(self.permits)).unwrap()
    }
}

fn bucket_limit(permits: u32, period: u64, burst: u32) -> RateLimit {
    RateLimit::per(permits, Duration::from_nanos(period)).burst(burst)
}

proptest! {
    /// The limiter rounds up to a fraction of a nanosecond for each permit. So it may be late by at
    /// most a nanosecond here, and is never early.
    #[test]
    fn a_bucket_is_one_that_counts_its_tokens(
        permits in 1..9_u32, period in prop_oneof![1..50_u64, 1..3 * SECOND], burst in 1..9_u32, steps in steps(0..=8, false),
    ) {
        let mut limiter = Limiter::new(bucket_limit(permits, period, burst));
        let mut bucket = Bucket::new(permits, period, burst);
        let mut now = 0;
        for step in steps {
            match step {
                Step::Wait(wait) => now += wait,
                Step::Try(cost) => {
                    let cost = cost.min(burst);
                    bucket.fill(now);
                    let (at, exact) = (limiter.earliest(Tick(now), cost).0.max(now), bucket.earliest(cost));
                    prop_assert!((exact..=exact + 1).contains(&at), "{at}, not {exact}");
                    if at <= now {
                        limiter.consume(Tick(now), cost);
                        bucket.tokens -= u128::from(cost) * bucket.period;
                    }
                }
                Step::Resolve(..) | Step::Change(..) => {}
            }
        }
    }

    #[test]
    fn a_bucket_is_that_of_governor(
        interval in 1..3 * SECOND, burst in 1..9_u32, steps in steps(1..=8, false),
    ) {
        let mut limiter = Limiter::new(RateLimit::every(Duration::from_nanos(interval)).burst(burst));
        let clock = FakeRelativeClock::default();
        let quota = Quota::with_period(Duration::from_nanos(interval)).unwrap().allow_burst(NonZeroU32::new(burst).unwrap());
        let oracle = RateLimiter::direct_with_clock(quota, clock.clone());
        let mut now = 0;
        for step in steps {
            match step {
                Step::Wait(wait) => {
                    now += wait;
                    clock.advance(Duration::from_nanos(wait));
                }
                Step::Try(cost) => {
                    let cost = NonZeroU32::new(cost.min(burst)).unwrap();
                    let may = limiter.earliest(Tick(now), cost.get()).0 <= now;
                    if may {
                        limiter.consume(Tick(now), cost.get());
                    }
                    prop_assert_eq!(may, oracle.check_n(cost).unwrap().is_ok());
                }
                Step::Resolve(..) | Step::Change(..) => {}
            }
        }
    }

    /// Whatever the operations, and however late a reservation is consumed: in any stretch of time
    /// no more than the burst and what comes back at the rate; with a window, no more than its
    /// permits in any period.
    #[test]
    fn no_stretch_of_time_sees_more_starts_than_it_may(
        permits in 1..9_u32, period in 1..3 * SECOND, burst in 1..9_u32, is_window: bool, steps in steps(0..=8, false),
    ) {
        let limit = if is_window {
            RateLimit::sliding_window(permits, Duration::from_nanos(period))
        } else {
            bucket_limit(permits, period, burst)
        };
        let mut limiter = Limiter::new(limit);
        let (mut kept, mut starts): (Vec<u32>, Vec<(u64, u32)>) = (Vec::new(), Vec::new());
        let mut now = 0;
        for step in steps {
            match step {
                Step::Wait(wait) => now += wait,
                Step::Try(cost) => {
                    let cost = cost.min(limiter.max_cost());
                    if limiter.earliest(Tick(now), cost).0 <= now {
                        limiter.reserve(cost);
                        kept.push(cost);
                    }
                }
                Step::Resolve(which, true) if which < kept.len() => {
                    let cost = kept.remove(which);
                    limiter.start(Tick(now), cost);
                    starts.push((now, cost));
                }
                Step::Resolve(which, false) if which < kept.len() => limiter.unreserve(kept.remove(which)),
                Step::Resolve(..) | Step::Change(..) => {}
            }
        }
        for cost in kept {
            limiter.start(Tick(now), cost);
            starts.push((now, cost));
        }
        for (first, (from, _)) in starts.iter().enumerate() {
            let mut count = 0;
            for (to, cost) in &starts[first..] {
                count += u128::from(*cost);
                let width = u128::from(to - from);
                let max_cost = match is_window {
                    true if width < u128::from(period) => u128::from(permits),
                    true => u128::MAX,
                    false => u128::from(burst) + width * u128::from(permits) / u128::from(period),
                };
                prop_assert!(count <= max_cost, "{count} from {from} to {to}");
            }
        }
    }

    #[test]
    fn a_job_that_does_not_start_leaves_no_trace(
        permits in 1..9_u32, period in 1..3 * SECOND, burst in 1..9_u32, now in 0..9 * SECOND, consumed in 0..9_u32, cost in 0..9_u32,
        is_window: bool,
    ) {
        let limit = if is_window {
            RateLimit::sliding_window(permits, Duration::from_nanos(period))
        } else {
            bucket_limit(permits, period, burst)
        };
        let (mut limiter, now) = (Limiter::new(limit), Tick(now));
        limiter.consume(now, consumed.min(limiter.max_cost()));
        let before: Vec<Tick> = (0..=limiter.max_cost()).map(|cost| limiter.earliest(now, cost)).collect();
        let cost = cost.min(limiter.max_cost());
        if limiter.earliest(now, cost) <= now {
            limiter.reserve(cost);
            limiter.unreserve(cost);
        }
        let after: Vec<Tick> = (0..=limiter.max_cost()).map(|cost| limiter.earliest(now, cost)).collect();
        prop_assert_eq!(before, after);
    }

    #[test]
    fn a_sliding_window_is_a_list_of_all_starts(
        permits in 1..9_u32, period in prop_oneof![1..50_u64, 1..3 * SECOND], steps in steps(0..=8, true),
    ) {
        let (mut permits, mut period) = (permits, period);
        let mut limiter = Limiter::new(RateLimit::sliding_window(permits, Duration::from_nanos(period)));
        let mut starts: Vec<(u64, u32)> = Vec::new();
        let mut now = 0;
        for step in steps {
            let seen = |starts: &[(u64, u32)], at: u64, period: u64| -> u32 {
                starts.iter().filter(|(start, _)| start + period > at).map(|(_, cost)| cost).sum()
            };
            match step {
                Step::Wait(wait) => now += wait,
                Step::Try(cost) => {
                    let cost = cost.min(permits);
                    let at = limiter.earliest(Tick(now), cost).0.max(now);
                    // Not a nanosecond too late or too early.
                    prop_assert!(seen(&starts, at, period) + cost <= permits);
                    prop_assert!(at == now || seen(&starts, at - 1, period) + cost > permits);
                    if at == now {
                        limiter.consume(Tick(now), cost);
                        starts.push((now, cost));
                    }
                }
                Step::Resolve(..) => {}
                Step::Change(new_permits, new_period) => {
                    // Expired starts do not come back; of the others, the newest take precedence.
                    starts.retain(|(start, _)| start + period > now);
                    (permits, period) = (new_permits, new_period);
                    limiter.set_limit(RateLimit::sliding_window(permits, Duration::from_nanos(period)), Tick(now));
                    let mut room = permits;
                    for (_, cost) in starts.iter_mut().rev() {
                        *cost = (*cost).min(room);
                        room -= *cost;
                    }
                    starts.retain(|(_, cost)| *cost > 0);
                }
            }
        }
    }

    /// A change of the limit does not refill: consumed permits carry over, up to the new limit's
    /// burst.
    #[test]
    fn a_change_of_the_limit_keeps_what_is_out(
        old in (1..9_u32, 1..3 * SECOND, 1..9_u32, any::<bool>()), new in (1..9_u32, 1..3 * SECOND, 1..9_u32, any::<bool>()),
        consumed in 0..9_u32, wait in 0..3 * SECOND,
    ) {
        let limit = |(permits, period, burst, is_window): (u32, u64, u32, bool)| match is_window {
            true => RateLimit::sliding_window(permits, Duration::from_nanos(period)),
            false => bucket_limit(permits, period, burst),
        };
        // Between windows, each start keeps its own time.
        let is_forgotten = old.3 && new.3 && wait >= new.1;
        let (old, new) = (limit(old), limit(new));
        let mut limiter = Limiter::new(old);
        let consumed = consumed.min(old.max_cost());
        limiter.consume(Tick(0), consumed);
        let now = Tick(wait);
        let left = |limiter: &mut Limiter| (0..=limiter.max_cost()).rev().find(|cost| limiter.earliest(now, *cost) <= now).unwrap();
        let out = old.max_cost() - left(&mut limiter);
        limiter.set_limit(new, now);
        prop_assert_eq!(limiter.limit, new);
        let out = if is_forgotten { 0 } else { out.min(new.max_cost()) };
        prop_assert_eq!(left(&mut limiter), new.max_cost() - out);
    }

    #[test]
    fn a_limiter_has_refilled_when_all_of_its_permits_are_back(
        permits in 1..9_u32, period in 1..3 * SECOND, burst in 1..9_u32, costs in vec((0..SECOND, 0..9_u32), 1..20), is_window: bool,
    ) {
        let limit = match is_window {
            true => RateLimit::sliding_window(permits, Duration::from_nanos(period)),
            false => bucket_limit(permits, period, burst),
        };
        let (mut limiter, mut now, mut is_used) = (Limiter::new(limit), 0, false);
        for (wait, cost) in costs {
            now += wait;
            let cost = cost.min(limiter.max_cost());
            if limiter.earliest(Tick(now), cost).0 <= now {
                limiter.consume(Tick(now), cost);
                is_used |= cost > 0;
            }
        }
        let refilled_at = limiter.refilled_at();
        let max_cost = limiter.max_cost();
        // Times must not go back.
        if let Some(before) = refilled_at.0.checked_sub(1).filter(|before| is_used && *before >= now) {
            prop_assert!(limiter.earliest(Tick(before), max_cost) > Tick(before));
        }
        prop_assert!(limiter.earliest(refilled_at, max_cost) <= refilled_at);
    }
}

#[test]
fn no_number_overflows() {
    for limit in [
        RateLimit::per(1, Duration::MAX).burst(u32::MAX),
        RateLimit::per(u32::MAX, Duration::from_nanos(1)).burst(u32::MAX),
        RateLimit::per(u32::MAX, Duration::MAX),
        RateLimit::sliding_window(u32::MAX, Duration::MAX),
        RateLimit::sliding_window(1, Duration::from_nanos(1)),
    ] {
        for now in [Tick(0), Tick(u64::MAX - 1), Tick::NEVER] {
            let mut limiter = Limiter::new(limit);
            for cost in [0, 1, u32::MAX] {
                let cost = cost.min(limiter.max_cost());
                if limiter.earliest(now, cost) <= now {
                    limiter.reserve(cost);
                    let _ = limiter.earliest(now, cost);
                    limiter.start(now, cost);
                }
                let _ = (limiter.earliest(now, u32::MAX), limiter.refilled_at());
                limiter.set_limit(RateLimit::every(Duration::MAX), now);
                limiter.set_limit(limit, now);
            }
        }
    }
}

#[test]
fn no_limit_is_so_slow_that_it_lets_all_pass() {
    let mut limiter = Limiter::new(RateLimit::per(1, Duration::MAX).burst(9));
    for _ in 0..9 {
        assert_eq!(limiter.earliest(Tick(0), 1), Tick(0));
        limiter.consume(Tick(0), 1);
    }
    assert_eq!(limiter.earliest(Tick(0), 1), Tick::NEVER);
}

#[test]
fn a_third_of_a_second_three_times_is_a_second() {
    let mut limiter = Limiter::new(RateLimit::per_second(3).burst(3));
    limiter.consume(Tick(0), 3);
    let back: Vec<u64> = (1..=3)
        .map(|cost| limiter.earliest(Tick(0), cost).0)
        .collect();
    assert_eq!(back, [SECOND / 3 + 1, 2 * SECOND / 3 + 1, SECOND + 1]);
}

#[test]
fn while_the_permits_are_kept_that_a_job_needs_no_time_brings_them() {
    for limit in [
        RateLimit::per_second(1).burst(2),
        RateLimit::sliding_window(2, Duration::from_secs(2)),
    ] {
        let mut limiter = Limiter::new(limit);
        limiter.reserve(1);
        limiter.reserve(1);
        let second = |n| Tick(n * SECOND);
        let wait = if limit.form == Form::Window { 2 } else { 1 };
        assert_eq!(
            [0, 5, 500].map(|at| limiter.earliest(second(at), 1)),
            [Tick::NEVER; 3]
        );
        limiter.start(second(5), 1);
        assert_eq!(
            [5, 6].map(|at| limiter.earliest(second(at), 1)),
            [second(5 + wait); 2]
        );
        limiter.unreserve(1);
        assert_eq!(
            limiter.earliest(second(5), 1).0.min(5 * SECOND),
            limiter.earliest(second(5), 1).0
        );
    }
}

#[test]
fn no_rate_is_too_fast_to_be_counted() {
    let nano = Duration::from_nanos(1);
    let start = Tick(7);
    for (limit, ticks_of_1000) in [
        (RateLimit::per_second(999_999_999), 1001),
        (RateLimit::per_second(1_000_000_000), 1000),
        (RateLimit::per_second(1_000_000_001), 1000),
        (RateLimit::per_second(2_000_000_000), 500),
        (RateLimit::per_second(u32::MAX), 233),
        // Faster than the clock's resolution: all permits are back after one tick.
        (RateLimit::per(u32::MAX, nano), 1),
    ] {
        // One by one, each as soon as it may.
        let mut limiter = Limiter::new(limit);
        let mut now = start;
        for _ in 0..1000 {
            now = limiter.earliest(now, 1).max(now);
            limiter.consume(now, 1);
            assert!(
                limiter.earliest(now, 1) > now && limiter.earliest(now, 1) <= Tick(now.0 + 2),
                "{limit:?}"
            );
        }
        // A thousand at once come back together.
        let mut limiter = Limiter::new(limit.burst(1000));
        limiter.consume(start, 1000);
        assert!(limiter.earliest(start, 1) > start, "{limit:?}");
        assert_eq!(
            limiter.earliest(start, 1000),
            Tick(start.0 + ticks_of_1000),
            "{limit:?}"
        );
    }
    // The extremes do not overflow.
    for limit in [
        RateLimit::per(u32::MAX, nano),
        RateLimit::per(1, Duration::MAX),
        RateLimit::per(u32::MAX, Duration::MAX),
    ] {
        let mut limiter = Limiter::new(limit.burst(u32::MAX));
        let late = Tick(u64::MAX - 1);
        assert!(limiter.earliest(late, u32::MAX) <= late);
        limiter.reserve(u32::MAX);
        assert_eq!(
            (limiter.earliest(late, 0) <= late, limiter.earliest(late, 1)),
            (true, Tick::NEVER)
        );
        limiter.start(late, u32::MAX);
        assert!(limiter.earliest(late, 1) > late);
    }
}
