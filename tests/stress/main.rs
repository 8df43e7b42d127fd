//! Clients on several threads do to small pools whatever can be done to a pool, on real executors,
//! and nothing is lost: each wait ends, each job has one outcome, each input is dropped once, and
//! no bound is passed.
//!
//! `BRIGADE_STRESS_SECONDS=n` runs each test for so long, in place of a fraction of a second;
//! `BRIGADE_STRESS_SEED=n` sets the seed of the first round, and the others count on from there.
//! Threads are not replayed by a seed, but what a round does is.
//! `BRIGADE_STRESS_WITHOUT=MapOfMaps,Idle` leaves these actions out of mixed rounds. A round that
//! makes no progress ends the process, and the seed, the configuration, the clients and the pool
//! are printed.

mod clients;
mod executors;
mod jobs;
mod round;
mod watch;

use std::io::Write;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;

use self::clients::{Action, Mix};
use self::executors::Kind;
use self::jobs::{PANIC, Work};
use self::round::{Config, Ending, Policies, Round};
use self::watch::Watchdog;

/// How long a test runs if nothing else is said; all of them take about three seconds.
const DEFAULT_SECONDS: f64 = 0.5;

/// One test at a time: the threads of a round are more than most machines have.
static TURN: Mutex<()> = Mutex::new(());

fn number<N: std::str::FromStr>(variable: &str) -> Option<N> {
    let text = std::env::var(variable).ok()?;
    text.parse()
        .map_or_else(|_| panic!("{variable} is not a number: {text}"), Some)
}

/// Runs rounds for as long as asked.
fn stress(test: &'static str, draw: impl Fn(&mut Rng) -> Config) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload().downcast_ref() != Some(&PANIC) {
                default(panic);
            }
        }));
    });
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let seconds =
        Duration::from_secs_f64(number("BRIGADE_STRESS_SECONDS").unwrap_or(DEFAULT_SECONDS));
    let first = number("BRIGADE_STRESS_SEED").unwrap_or_else(|| fastrand::u64(..u64::MAX / 2));
    let watchdog = Watchdog::new(test);
    let (began, mut rounds, mut jobs) = (Instant::now(), 0, 0);
    while rounds == 0 || began.elapsed() < seconds {
        let seed = first + rounds;
        let config = draw(&mut Rng::with_seed(seed));
        match Round::run(seed, config, |round| watchdog.watch(Some(round))) {
            Ok(accepted) => jobs += accepted,
            Err(broken) => panic!("round {rounds} of {test}: {broken}"),
        }
        watchdog.watch(None);
        rounds += 1;
    }
    // Not by the macro, whose text the test's output keeps back.
    let _ = writeln!(
        std::io::stderr(),
        "stress: {jobs} jobs in {rounds} rounds, none lost ({test})"
    );
}

/// Submissions that are awaited one by one, and maps, share a queue that is shorter than the row of
/// workers.
#[test]
fn accepted_jobs_are_started_however_short_the_queue_is() {
    stress("short queues", |rng| {
        let config = Config::draw(rng);
        let each = rng.usize(1..4);
        let submitting = [Mix::only(Action::SubmitAwait), Mix::only(Action::MapAll)];
        Config {
            workers: rng.usize(4..10),
            slots: if rng.u8(..4) > 0 { 1 } else { 2 },
            capacity: rng.usize(1..5),
            clients_on_executor: rng.u8(..4) > 0,
            max_waiting: None,
            has_submitter: false,
            is_observed: false,
            policies: Policies::default(),
            works: if rng.bool() {
                vec![Work::Return, Work::Yield, Work::Sleep(100)]
            } else {
                vec![Work::Return, Work::Yield]
            },
            mixes: submitting
                .iter()
                .flat_map(|mix| std::iter::repeat_n(mix.clone(), each))
                .collect(),
            actions: 2000,
            ends_midway: false,
            ..config
        }
    });
}

/// Everything at once.
#[test]
fn every_wait_ends_and_every_job_has_one_outcome_whatever_clients_do() {
    stress("all actions", |rng| {
        let mut config = Config::draw(rng);
        let clients = rng.usize(2..7);
        config.mixes = (0..clients).map(|_| Mix::draw(rng, &config)).collect();
        config
    });
}

/// Maps that pull their inputs from maps of the same pool, more of them than the queue has places.
#[test]
fn maps_that_feed_maps_come_to_their_end() {
    stress("maps of maps", |rng| {
        let mut config = Config::draw(rng);
        config.actions = 16;
        config.mixes = (0..rng.usize(1..4))
            .map(|_| Mix::only(Action::MapOfMaps))
            .collect();
        config.ends_midway = false;
        config
    });
}

/// One client submits, and waits for the pool to be idle: all that it holds is finished then.
#[test]
fn what_was_submitted_before_a_pool_was_idle_is_finished() {
    stress("idle", |rng| {
        let config = Config::draw(rng);
        let capacity = rng.usize(1..5);
        Config {
            workers: rng.usize(2..9),
            capacity,
            mixes: vec![Mix::only(Action::IdleAfterSubmissions)],
            actions: 200,
            ends_midway: false,
            policies: Policies::default(),
            ..config
        }
    });
}

/// The pool ends while all its clients wait for something.
#[test]
fn the_end_of_a_pool_ends_all_waits() {
    stress("ends", |rng| {
        let mut config = Config::draw(rng);
        config.actions = 1 << rng.u32(1..6);
        config.ends_midway = true;
        config.ending = *rng.choice(&Ending::ACTIVE).expect("there are some");
        let clients = rng.usize(2..9);
        config.mixes = (0..clients).map(|_| Mix::draw(rng, &config)).collect();
        config
    });
}

/// One thread submits to one worker.
#[test]
fn one_worker_starts_jobs_in_the_order_of_one_submitter() {
    stress("order", |rng| {
        let config = Config::draw(rng);
        let mix = [
            Action::SubmitAwait,
            Action::SubmitDetach,
            Action::TrySubmit,
            Action::ReserveSubmit,
            Action::MapAll,
        ];
        Config {
            executor: *rng.choice(&Kind::ALL).expect("there are some"),
            workers: 1,
            has_submitter: false,
            policies: Policies::default(),
            works: vec![Work::Return, Work::Yield, Work::Fail],
            mixes: vec![Mix::of(&mix)],
            in_order: true,
            ends_midway: false,
            ..config
        }
    });
}
