//! Where the time of the workers goes: they run, or they are idle for a cause.

use std::collections::BTreeMap;
use std::time::Instant;

use super::lanes::{Cause, Waiting};

/// Seconds of workers, which sum to the time of the run times the number of workers.
#[derive(Debug)]
pub(crate) struct Shares {
    workers: usize,
    since: Instant,
    causes: BTreeMap<&'static str, f64>,
}

impl Shares {
    pub(crate) const fn new(workers: usize, now: Instant) -> Self {
        Self {
            workers,
            since: now,
            causes: BTreeMap::new(),
        }
    }

    /// Adds the time since the last note: `running` workers ran, and the others were idle for these
    /// causes, each for its share of the jobs that wait; or for `rest` if none does.
    pub(crate) fn note(&mut self, now: Instant, running: usize, waiting: &[Waiting], rest: Cause) {
        let seconds = now.duration_since(self.since).as_secs_f64();
        self.since = now;
        let running = running.min(self.workers);
        self.add(Cause::Busy, seconds * running as f64);
        let idle = seconds * (self.workers - running) as f64;
        let is_idle = |waiting: &&Waiting| !matches!(waiting.cause, Cause::Busy | Cause::Start);
        let jobs: usize = waiting
            .iter()
            .filter(is_idle)
            .map(|waiting| waiting.jobs)
            .sum();
        if jobs == 0 {
            self.add(rest, idle);
        }
        for waiting in waiting.iter().filter(is_idle) {
            self.add(waiting.cause, idle * waiting.jobs as f64 / jobs as f64);
        }
    }

    fn add(&mut self, cause: Cause, seconds: f64) {
        if seconds > 0.0 {
            *self.causes.entry(cause.name()).or_default() += seconds;
        }
    }

    /// The seconds of each cause; those of running workers are `busy`, but for `connect` seconds of
    /// them.
    pub(crate) fn seconds(&self, busy: &str, connect: f64) -> BTreeMap<String, f64> {
        let mut seconds: BTreeMap<String, f64> = self
            .causes
            .iter()
            .map(|(cause, seconds)| ((*cause).to_owned(), *seconds))
            .collect();
        if let Some(ran) = seconds.remove(Cause::Busy.name()) {
            let connect = connect.min(ran);
            seconds.insert(busy.to_owned(), ran - connect);
            if connect > 0.0 {
                seconds.insert("connect".to_owned(), connect);
            }
        }
        seconds
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn shares_sum_to_the_time_of_all_workers() {
        let start = Instant::now();
        let mut shares = Shares::new(10, start);
        let waiting = |cause, jobs| Waiting {
            cause,
            jobs,
            detail: String::new(),
        };
        let list = [waiting(Cause::HostRate, 3), waiting(Cause::Backoff, 1)];
        shares.note(start + Duration::from_secs(2), 4, &list, Cause::Input);
        let list = [waiting(Cause::Busy, 9)];
        shares.note(start + Duration::from_secs(3), 10, &list, Cause::Input);
        shares.note(start + Duration::from_secs(7), 0, &[], Cause::Input);
        let seconds = shares.seconds("server", 3.0);
        assert_eq!(seconds["server"], 15.0);
        assert_eq!(seconds["connect"], 3.0);
        assert_eq!((seconds["host rate"], seconds["backoff"]), (9.0, 3.0));
        assert_eq!(seconds["input"], 40.0);
        assert_eq!(seconds.values().sum::<f64>(), 70.0);
    }
}
