//! Where the time of a row goes: it waits for a start, waits between attempts, and runs.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

use crate::feed::LaneId;

/// The times of one row, which its jobs and the frame share.
#[derive(Debug)]
pub(crate) struct Times {
    /// When the row began to wait for its next start.
    since: Cell<Instant>,
    /// How much of the wait is planned, if an attempt failed.
    planned: Cell<Option<Duration>>,
    queued: Cell<Duration>,
    backoff: Cell<Duration>,
    elapsed: Cell<Duration>,
    attempts: Cell<u32>,
    /// How many attempts of the present job have failed, deferred ones not counted.
    tries: Cell<u32>,
    /// How many attempts started, deferred ones and those of hops included.
    starts: Cell<u32>,
    /// How many attempts ended with a time at which the server wants to be asked again.
    deferrals: Cell<u32>,
    state: Cell<State>,
}

/// What the jobs of one row share.
#[derive(Debug)]
pub(crate) struct RowState {
    pub(crate) times: Times,
    /// The lane of the feed that the row came from.
    pub(crate) lane: LaneId,
    /// Whether the row does not count for its lane of the feed any more.
    pub(crate) is_away: Cell<bool>,
}

impl RowState {
    pub(crate) fn new(lane: LaneId, now: Instant) -> Self {
        Self {
            times: Times::new(now),
            lane,
            is_away: Cell::new(false),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Waits for a start, or between attempts.
    Waiting,
    Running,
    /// Its attempt was dropped before it ended.
    Cut,
}

impl Times {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: Cell::new(now),
            planned: Cell::default(),
            queued: Cell::default(),
            backoff: Cell::default(),
            elapsed: Cell::default(),
            attempts: Cell::new(0),
            starts: Cell::new(0),
            tries: Cell::new(0),
            deferrals: Cell::new(0),
            state: Cell::new(State::Waiting),
        }
    }

    /// An attempt starts. Returns whether it is another one of the same job.
    pub(crate) fn start(&self, now: Instant) -> bool {
        let waited = now.duration_since(self.since.get());
        let planned = self.planned.take();
        let backoff = waited.min(planned.unwrap_or_default());
        self.backoff.set(self.backoff.get() + backoff);
        self.queued.set(self.queued.get() + waited - backoff);
        self.since.set(now);
        self.starts.set(self.starts.get() + 1);
        self.state.set(State::Running);
        planned.is_some()
    }

    /// The attempt ends, or is dropped.
    pub(crate) fn end(&self, now: Instant, state: State) {
        let ran = now.duration_since(self.since.get());
        self.elapsed.set(self.elapsed.get() + ran);
        self.since.set(now);
        self.state.set(state);
    }

    /// Another job of the row begins.
    pub(crate) fn begin_job(&self) {
        self.tries.set(0);
    }

    /// An attempt of the job has failed. Returns how many there were.
    pub(crate) fn try_fails(&self) -> u32 {
        self.tries.set(self.tries.get() + 1);
        self.tries.get()
    }

    /// Another attempt follows after this time.
    pub(crate) fn plan(&self, delay: Duration) {
        self.planned.set(Some(delay));
    }

    /// Counts a deferral, and returns how many there were.
    pub(crate) fn defer(&self) -> u32 {
        self.deferrals.set(self.deferrals.get() + 1);
        self.deferrals.get()
    }

    /// Adds the attempts of a job; those of hops beyond the first count only when they are tried
    /// again.
    pub(crate) fn add_attempts(&self, attempts: u32) {
        let known = self.attempts.get();
        let more = attempts.saturating_sub(u32::from(known > 0));
        self.attempts.set(known + more);
    }

    /// Sets the attempts of a row with one job, which is told how many there were by its starts:
    /// those that the server has deferred do not count, `max_deferrals` of them at most.
    pub(crate) fn count_starts(&self, max_deferrals: u32) {
        let deferred = self.deferrals.get().min(max_deferrals);
        self.attempts
            .set(self.starts.get().saturating_sub(deferred));
    }

    pub(crate) fn starts(&self) -> u32 {
        self.starts.get()
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.attempts.get()
    }

    pub(crate) fn queued(&self) -> Duration {
        self.queued.get()
    }

    pub(crate) fn backoff(&self) -> Duration {
        self.backoff.get()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.elapsed.get()
    }

    pub(crate) fn state(&self) -> State {
        self.state.get()
    }
}

/// RFC 3339, in UTC, with milliseconds.
pub(super) fn timestamp(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_and_runs_add_up_to_the_whole() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let times = Times::new(start);
        assert!(!times.start(at(2)));
        times.end(at(5), State::Waiting);
        times.plan(Duration::from_secs(4));
        assert!(times.start(at(10)));
        assert_eq!(times.state(), State::Running);
        times.end(at(11), State::Cut);
        let seconds = [times.queued(), times.backoff(), times.elapsed()].map(|time| time.as_secs());
        assert_eq!(seconds, [3, 4, 4]);
        assert_eq!(seconds.iter().sum::<u64>(), 11);
        assert_eq!(times.state(), State::Cut);
    }

    #[test]
    fn a_hop_is_no_attempt_but_its_retries_are() {
        let times = Times::new(Instant::now());
        times.add_attempts(2);
        times.add_attempts(1);
        times.add_attempts(3);
        assert_eq!(times.attempts(), 4);
    }
}
