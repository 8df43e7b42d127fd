//! Compares delays, decisions and the budget with naive models.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const JOB: JobId = JobId(7);

fn failed() -> JobError<u32> {
    JobError::Failed(0)
}

/// The delays after so many attempts, each made at the end of the delay before it.
fn delays(retry: &Retry<u32>, error: &JobError<u32>, most: usize) -> Vec<Duration> {
    let mut now = Instant::now();
    let mut history = History::new(now);
    let mut delays = Vec::new();
    while delays.len() < most {
        match retry.decide(JOB, history.attempts + 1, error, &mut history, now) {
            Decision::Again { delay, .. } => {
                delays.push(delay);
                now = now.checked_add(delay).unwrap_or(now);
            }
            Decision::Final => break,
        }
    }
    delays
}

/// A duration of any size, the greatest included.
fn any_duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::MAX),
        (0..1_000_000_000_000_u64).prop_map(Duration::from_nanos),
        any::<u64>().prop_map(Duration::from_nanos),
        any::<u64>().prop_map(Duration::from_secs),
    ]
}

fn any_jitter() -> impl Strategy<Value = Jitter> {
    prop_oneof![Just(Jitter::None), Just(Jitter::Full), Just(Jitter::Equal)]
}

/// `base × factor ^ times` nanoseconds, as far as a `u64` holds them.
fn exponential(base: Duration, factor: u32, times: u32) -> Duration {
    let mut grown = base.as_nanos().min(u128::from(u64::MAX));
    if grown > 0 && factor > 1 {
        for _ in 0..times.min(64) {
            grown = (grown * u128::from(factor)).min(u128::from(u64::MAX));
        }
    }
    Duration::from_nanos(grown as u64)
}

proptest! {
    #[test]
    fn a_delay_grows_by_its_factor_to_its_bound_and_never_overflows(
        base in any_duration(), factor in prop_oneof![1..4_u32, any::<u32>().prop_map(|factor| factor.max(1))],
        attempt in prop_oneof![1..20_u32, any::<u32>().prop_map(|attempt| attempt.max(1))],
        bound in prop_oneof![Just(None), any_duration().prop_map(Some)], jitter in any_jitter(), seed: u64,
    ) {
        let mut retry = Retry::exponential(base).factor(factor).max_attempts(u32::MAX).jitter(jitter).seed(seed);
        if let Some(bound) = bound {
            retry = retry.max_delay(bound);
        }
        let now = Instant::now();
        let decide = |retry: &Retry<u32>| retry.decide(JOB, attempt, &failed(), &mut History::new(now), now);
        let whole = exponential(base, factor, attempt - 1).min(bound.unwrap_or(Duration::MAX));
        let decision = decide(&retry);
        match decision {
            Decision::Final => prop_assert_eq!(attempt, u32::MAX),
            Decision::Again { delay, scope, is_paid } => {
                prop_assert_eq!((scope, is_paid), (RetryAfterScope::Job, true));
                let least = match jitter {
                    Jitter::None => whole,
                    Jitter::Full => Duration::ZERO,
                    Jitter::Equal => Duration::from_nanos(nanos(whole) / 2),
                };
                prop_assert!((least..=whole).contains(&delay), "{delay:?} of {whole:?}");
            }
        }
        prop_assert_eq!(decide(&retry), decision, "the same seed, the same delay");
    }

    #[test]
    fn there_are_as_many_attempts_as_are_allowed(
        attempts in 1..20_u32, delay in 0..5_u64, elapsed in prop_oneof![Just(None), (0..40_u64).prop_map(Some)],
    ) {
        let mut retry = Retry::fixed(SECOND * delay as u32).max_attempts(attempts);
        let mut most = u64::from(attempts - 1);
        if let Some(elapsed) = elapsed {
            retry = retry.max_elapsed(SECOND * elapsed as u32);
            most = most.min(elapsed.checked_div(delay).unwrap_or(u64::MAX));
        }
        prop_assert_eq!(delays(&retry, &failed(), 100), vec![SECOND * delay as u32; most as usize]);
    }

    #[test]
    fn a_delay_is_taken_of_the_iterator_for_each_retry(
        own in vec(0..1000_u64, 0..20), attempts in prop_oneof![Just(None), (1..20_usize).prop_map(Some)],
    ) {
        let own: Vec<Duration> = own.into_iter().map(Duration::from_millis).collect();
        let given = own.clone();
        let mut retry = Retry::delays(move || given.clone());
        let mut expected = own;
        if let Some(attempts) = attempts {
            retry = retry.max_attempts(attempts as u32);
            expected.truncate(attempts - 1);
        }
        prop_assert_eq!(delays(&retry, &failed(), 100), expected);
    }

    /// A naive account in millionths of a retry.
    #[test]
    fn a_budget_is_an_account_that_pays_for_retries(
        share in prop_oneof![Just(0.0), 0.0..2.0, Just(0.2)], floor in 0..4_usize, steps in vec((any::<bool>(), 0..6_usize), 0..400),
    ) {
        let budget = RetryBudget::ratio(share).min_concurrent(floor);
        let mut account = Account::new(budget);
        let earned = (share * 1e6).round() as u64;
        let mut credit = 0;
        for (is_first, retrying) in steps {
            if is_first {
                account.earn();
                credit = (credit + earned).min(1000 * earned);
            } else {
                let can_pay = credit >= 1_000_000;
                prop_assert_eq!(account.spend(retrying), can_pay || retrying < floor);
                credit -= if can_pay { 1_000_000 } else { 0 };
            }
        }
    }
}

#[test]
fn no_more_than_a_share_of_the_first_attempts_is_made_again() {
    let mut account = Account::new(RetryBudget::ratio(0.2).min_concurrent(0));
    let spent: u32 = (0..1000)
        .map(|_| {
            account.earn();
            u32::from(account.spend(1000))
        })
        .sum();
    assert_eq!(spent, 200);
}

#[test]
fn a_thousand_first_attempts_are_remembered_and_no_more() {
    let mut account = Account::new(RetryBudget::ratio(0.5).min_concurrent(0));
    (0..5000).for_each(|_| account.earn());
    assert_eq!((0..5000).filter(|_| account.spend(1000)).count(), 500);
}

#[test]
fn nothing_but_errors_and_attempts_that_were_too_long_is_tried_again() {
    let retry = Retry::fixed(SECOND).max_attempts(3);
    let again = vec![SECOND; 2];
    assert_eq!(delays(&retry, &failed(), 9), again);
    assert_eq!(
        delays(&retry, &JobError::TimedOut(TimeLimit::Attempt), 9),
        again
    );
    for error in [
        JobError::TimedOut(TimeLimit::Job),
        JobError::Abandoned,
        JobError::WouldDeadlock,
        JobError::Cancelled(crate::error::CancelReason::Handle),
        JobError::CostExceedsLimit {
            cost: 2,
            max_cost: 1,
        },
    ] {
        assert_eq!(delays(&retry, &error, 9), [], "{error:?}");
    }
    assert_eq!(
        delays(
            &retry.timeouts(false),
            &JobError::TimedOut(TimeLimit::Attempt),
            9
        ),
        []
    );
}

#[test]
fn a_predicate_comes_before_everything_and_is_asked_about_errors_only() {
    let retry = Retry::fixed(SECOND)
        .when(|error: &u32| *error == 0)
        .retry_after(|_| Some(SECOND * 5));
    assert_eq!(delays(&retry, &failed(), 1), [SECOND * 5]);
    assert_eq!(delays(&retry, &JobError::Failed(1), 1), []);
    assert_eq!(
        delays(&retry, &JobError::TimedOut(TimeLimit::Attempt), 1),
        [SECOND]
    );
}

#[test]
fn a_hint_replaces_the_delay_without_jitter_or_bound_and_holds_whom_it_says() {
    let now = Instant::now();
    for expected_scope in [
        RetryAfterScope::Job,
        RetryAfterScope::Key,
        RetryAfterScope::Pool,
    ] {
        let retry = Retry::fixed(SECOND)
            .jitter(Jitter::Full)
            .max_delay(SECOND)
            .retry_after(|error: &u32| (*error > 0).then_some(SECOND * *error))
            .retry_after_scope(expected_scope);
        let decide = |error: u32| {
            retry.decide(
                JOB,
                1,
                &JobError::Failed(error),
                &mut History::new(now),
                now,
            )
        };
        assert_eq!(
            decide(5),
            Decision::Again {
                delay: SECOND * 5,
                scope: expected_scope,
                is_paid: true
            }
        );
        let Decision::Again {
            delay,
            scope,
            is_paid,
        } = decide(0)
        else {
            panic!("it is final")
        };
        assert!((Duration::ZERO..=SECOND).contains(&delay));
        assert_eq!((scope, is_paid), (RetryAfterScope::Job, true));
    }
}

/// A list of so many delays, and a count of those taken.
fn counted(count: u32) -> (Retry<u32>, Arc<std::sync::atomic::AtomicU32>) {
    let taken = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count_taken = Arc::clone(&taken);
    let retry = Retry::delays(move || {
        let taken = Arc::clone(&count_taken);
        // Counted when it is taken, the end included.
        (0..=count).filter_map(move |at| {
            taken.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            (at < count).then_some(SECOND)
        })
    });
    (retry, taken)
}

#[test]
fn there_are_as_many_retries_as_delays_whatever_names_their_times() {
    let named = [SECOND * 7; 3];
    assert_eq!(
        delays(
            &counted(3).0.retry_after(|_| Some(SECOND * 7)),
            &failed(),
            100
        ),
        named
    );
    assert_eq!(
        delays(
            &counted(3)
                .0
                .decide_by(|_| RetryDecision::RetryIn(SECOND * 7)),
            &failed(),
            100
        ),
        named
    );
    // One of them is named.
    let nth = std::sync::atomic::AtomicU32::new(0);
    let second = move |_: &u32| {
        (nth.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1).then_some(SECOND * 7)
    };
    assert_eq!(
        delays(&counted(3).0.retry_after(second), &failed(), 100),
        [SECOND, SECOND * 7, SECOND]
    );
}

#[test]
fn no_delay_is_taken_for_a_retry_that_is_not_made_or_does_not_count() {
    let after = |retry: Retry<u32>, most| delays(&retry, &failed(), most).len();
    for (policy, made, taken) in [
        (
            Box::new(|retry: Retry<u32>| retry.max_attempts(2))
                as Box<dyn Fn(Retry<u32>) -> Retry<u32>>,
            1,
            1,
        ),
        (Box::new(|retry| retry.when(|_| false)), 0, 0),
        (
            Box::new(|retry| retry.decide_by(|_| RetryDecision::GiveUp)),
            0,
            0,
        ),
        (
            Box::new(|retry| retry.decide_by(|_| RetryDecision::Snooze(SECOND))),
            9,
            0,
        ),
        (
            Box::new(|retry| {
                retry
                    .retry_after(|_| Some(SECOND * 5))
                    .max_elapsed(SECOND * 12)
            }),
            2,
            2,
        ),
    ] {
        let (retry, count) = counted(5);
        assert_eq!(
            (
                after(policy(retry), 9),
                count.load(std::sync::atomic::Ordering::SeqCst)
            ),
            (made, taken)
        );
    }
}

#[test]
fn a_verdict_decides_whether_when_and_what_counts() {
    let verdicts = [
        RetryDecision::Retry,
        RetryDecision::RetryIn(SECOND * 5),
        RetryDecision::Snooze(SECOND * 7),
        RetryDecision::GiveUp,
    ];
    let retry = Retry::fixed(SECOND)
        .max_attempts(2)
        .retry_after(|_| Some(SECOND * 3))
        .decide_by(move |error: &u32| verdicts[*error as usize]);
    let now = Instant::now();
    let decide = |attempt, error| {
        let mut history = History::new(now);
        let decision = retry.decide(JOB, attempt, &JobError::Failed(error), &mut history, now);
        (decision, history.attempts, history.snoozes)
    };
    let again = |delay, is_paid| Decision::Again {
        delay,
        scope: RetryAfterScope::Job,
        is_paid,
    };
    assert_eq!(decide(1, 0), (again(SECOND * 3, true), 1, 0));
    assert_eq!(decide(1, 1), (again(SECOND * 5, true), 1, 0));
    assert_eq!(decide(1, 2), (again(SECOND * 7, false), 0, 1));
    assert_eq!(decide(1, 3), (Decision::Final, 0, 0));
    // The last attempt that counts may still be one that does not.
    assert_eq!(
        (decide(2, 0), decide(2, 1)),
        ((Decision::Final, 0, 0), (Decision::Final, 0, 0))
    );
    assert_eq!(decide(2, 2), (again(SECOND * 7, false), 0, 1));
    assert!(retry.may_follow(2));
    let plain = Retry::<u32>::fixed(SECOND).max_attempts(2);
    assert_eq!(
        (
            plain.may_follow(1),
            plain.may_follow(2),
            plain.may_follow(3)
        ),
        (true, false, false)
    );
}

#[test]
fn neighbours_have_different_jitter_and_no_seed_has_one_of_its_own() {
    let retry = Retry::<u32>::fixed(SECOND).jitter(Jitter::Full).seed(1);
    let now = Instant::now();
    let decide = |retry: &Retry<u32>, job, attempt| {
        retry.decide(JobId(job), attempt, &failed(), &mut History::new(now), now)
    };
    let mut seen: Vec<_> = (0..100)
        .flat_map(|job| [(job, 1), (job, 2)])
        .map(|(job, at)| decide(&retry, job, at))
        .collect();
    let count = seen.len();
    seen.sort_by_key(|decision| format!("{decision:?}"));
    seen.dedup();
    assert_eq!(seen.len(), count);
    let seeded = |_| {
        Retry::<u32>::fixed(SECOND)
            .jitter(Jitter::Full)
            .seeded()
            .seed
    };
    assert_ne!(seeded(0), seeded(1));
    assert_eq!(Retry::<u32>::fixed(SECOND).seed(9).seeded().seed, Some(9));
}

#[test]
fn one_number_of_three_is_that_of_the_published_generator() {
    // The first outputs of SplitMix64 with the seed 0, whose states are multiples of this.
    let step: u64 = 0x9E37_79B9_7F4A_7C15;
    let outputs = [1, 2, 3].map(|n| mix(step.wrapping_mul(n), 0, 0));
    assert_eq!(
        outputs,
        [
            0xE220_A839_7B1D_CDAF,
            0x6E78_9E6A_A1B9_65F4,
            0x06C4_5D18_8009_454F
        ]
    );
    // A job and an attempt change the state, each in its way.
    assert_eq!(mix(0, 1, 0), mix(step, 0, 0));
    assert_eq!(mix(0, 0, 1), mix(1 << 40, 0, 0));
    assert_eq!(mix(step, 1, 0), mix(0, 0, 0));
    assert_eq!(mix(1 << 40, 0, 1), mix(0, 0, 0));
}

#[test]
fn the_hook_gets_what_is_known_and_which_attempt_is_the_last() {
    let events = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = Arc::clone(&events);
    let retry =
        Retry::fixed(SECOND)
            .max_attempts(3)
            .on_retry(move |retrying: &Retrying<'_, u32>| {
                let Retrying {
                    job,
                    attempt,
                    snoozes,
                    error,
                    delay,
                    is_last,
                } = retrying;
                log.lock().unwrap().push((
                    *job,
                    *attempt,
                    *snoozes,
                    format!("{error}"),
                    *delay,
                    *is_last,
                ));
            });
    for (attempt, snoozes) in [(1, 0), (2, 4)] {
        let history = History {
            attempts: attempt,
            snoozes,
            ..History::new(Instant::now())
        };
        retry.notify(JOB, attempt, &failed(), SECOND * attempt, &history);
    }
    let text = failed().to_string();
    assert_eq!(
        *events.lock().unwrap(),
        [
            (JOB, 1, 0, text.clone(), SECOND, false),
            (JOB, 2, 4, text, SECOND * 2, true)
        ]
    );
}

#[test]
fn what_is_printed_is_what_was_set() {
    let history = History {
        attempts: 2,
        snoozes: 1,
        ..History::new(Instant::now())
    };
    assert_eq!(
        format!("{history:?}"),
        "History { attempts: 2, snoozes: 1, .. }"
    );
    let text = format!(
        "{:?}",
        Retry::<u32>::exponential(SECOND).factor(3).max_attempts(4)
    );
    assert!(
        text.starts_with("Retry { exponential: 1s, factor: 3, max_attempts: 4,"),
        "{text}"
    );
}

#[test]
fn the_defaults_are_three_attempts_and_every_error() {
    let retry = Retry::<u32>::exponential(SECOND);
    assert_eq!(delays(&retry, &failed(), 9), [SECOND, SECOND * 2]);
    assert_eq!(
        delays(&Retry::fixed(SECOND), &failed(), 9),
        [SECOND, SECOND]
    );
    assert_eq!(
        RetryBudget::from(0.5),
        RetryBudget {
            earned: 500_000,
            min_concurrent: 10
        }
    );
    assert!(retry.account().is_none() && retry.budget(0.5).account().is_some());
}
