//! The watchdog: ends the process when a round makes no progress, and says what its pool and its
//! clients were doing.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::round::Round;

/// A round that makes no progress for so long hangs. Its longest sleep is a fraction of a
/// millisecond.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_done: bool,
    rounds: u64,
    round: Option<Arc<Round>>,
}

pub(crate) struct Watchdog(Arc<Shared>);

impl Watchdog {
    pub(crate) fn new(test: &'static str) -> Self {
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        std::thread::spawn(move || watch(test, &watched));
        Self(shared)
    }

    /// Watches this round from now on.
    pub(crate) fn watch(&self, round: Option<Arc<Round>>) {
        let mut state = self.0.state.lock().unwrap();
        state.rounds += 1;
        let old = std::mem::replace(&mut state.round, round);
        drop(state);
        drop(old);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().is_done = true;
        self.0.changed.notify_one();
    }
}

fn watch(test: &str, shared: &Shared) {
    let began = Instant::now();
    let (mut seen, mut since) = (None, Instant::now());
    let mut state = shared.state.lock().unwrap();
    while !state.is_done {
        let progress = (
            state.rounds,
            state
                .round
                .as_ref()
                .map(|round| round.counts.progress.load(Ordering::SeqCst)),
        );
        if seen != Some(progress) {
            (seen, since) = (Some(progress), Instant::now());
        } else if since.elapsed() >= PATIENCE {
            let rounds = state.rounds;
            let hang = (since - began).as_secs_f64();
            // Not by the macro, whose text the test's output keeps back and loses here.
            let mut out = std::io::stderr();
            let _ = writeln!(
                out,
                "stress: {test} hangs in round {rounds}, after {hang:.1} s"
            );
            // In two steps: what asks the pool takes its locks, and might hang as well.
            if let Some(round) = state.round.take() {
                let _ = writeln!(out, "{}", round.describe());
                let _ = writeln!(out, "{}", round.describe_pool());
            }
            std::process::abort();
        }
        state = shared
            .changed
            .wait_timeout(state, Duration::from_secs(1))
            .unwrap()
            .0;
    }
}
