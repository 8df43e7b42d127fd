//! The time limits of the jobs of one watched pool: whether each job, and each attempt, has ended
//! by its time.
//!
//! Counts from when the simulator first sees a job or an attempt, and not from what the pool knows
//! of it. That is after the step in which the job was accepted or the attempt has started, so the
//! time by which it has to end is never too early.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::event::JobId;
use crate::policy::limits::TimeLimits;
use crate::shared::{OpenAttempt, OpenJob};

/// Since when the jobs of a pool are open and their attempts run.
#[derive(Debug, Default)]
pub(super) struct TimeLimitAudit {
    /// The jobs at the last look; at most what the pool admits. Empty while there is no limit.
    jobs: BTreeMap<JobId, Seen>,
    /// The limits of the pool at the last look; none before the first.
    pool: TimeLimits,
}

#[derive(Debug)]
struct Seen {
    accepted_by: Instant,
    /// `None`: not known, so nothing is demanded.
    own: Option<TimeLimits>,
    attempt: Option<SeenAttempt>,
}

#[derive(Debug)]
struct SeenAttempt {
    attempt: OpenAttempt,
    started_by: Instant,
    /// The limit of the pool when the attempt started. `None`: it has none, or it has changed in
    /// the same step.
    limit: Option<Duration>,
}

impl TimeLimitAudit {
    /// Looks at the pool after a step: at its limits and its open jobs. The clock is read only if
    /// there is a limit.
    pub(super) fn look(
        &mut self,
        pool: TimeLimits,
        open: BTreeMap<JobId, OpenJob>,
        now: impl FnOnce() -> Instant,
    ) {
        let before = std::mem::replace(&mut self.pool, pool);
        let mut known = std::mem::take(&mut self.jobs);
        let has_own = |own: Option<TimeLimits>| own.is_some_and(|limits| !limits.is_none());
        if pool.is_none()
            && !known.values().any(|seen| has_own(seen.own))
            && !open.values().any(|job| has_own(job.own))
        {
            return;
        }
        let now = now();
        // An attempt may have started before the change or after it. A limit that was changed twice
        // in one step, and back, is taken for one that was not.
        let limit = pool.attempt.filter(|_| before.attempt == pool.attempt);
        let see = |(id, job): (JobId, OpenJob)| {
            let seen = known.remove(&id);
            let (accepted_by, own, running) = seen.map_or((now, None, None), |seen| {
                (seen.accepted_by, seen.own, seen.attempt)
            });
            let attempt = job.attempt.map(|attempt| match running {
                Some(running) if running.attempt == attempt => running,
                _ => SeenAttempt {
                    attempt,
                    started_by: now,
                    limit,
                },
            });
            let own = job.own.or(own);
            let seen = Seen {
                accepted_by,
                own,
                attempt,
            };
            (id, seen)
        };
        self.jobs = open.into_iter().map(see).collect();
    }

    /// Checks, when no task is runnable, that no job and no attempt is over its limit. The clock is
    /// read only if there is a limit.
    pub(super) fn check_at_rest(&self, now: impl FnOnce() -> Instant) -> Result<(), String> {
        if self.jobs.is_empty() {
            return Ok(());
        }
        let now = now();
        for (id, seen) in &self.jobs {
            let Some(own) = seen.own else { continue };
            let is_over = |since: Instant, limit: Option<Duration>| {
                limit.filter(|limit| now.saturating_duration_since(since) >= *limit)
            };
            if let Some(limit) = is_over(seen.accepted_by, own.job.or(self.pool.job)) {
                let age = now.saturating_duration_since(seen.accepted_by);
                return Err(format!(
                    "job {id} has no outcome {age:?} after it was accepted, and its time limit is {limit:?}"
                ));
            }
            let Some(running) = &seen.attempt else {
                continue;
            };
            if let Some(limit) = is_over(running.started_by, own.attempt.or(running.limit)) {
                let age = now.saturating_duration_since(running.started_by);
                return Err(format!(
                    "an attempt of job {id} runs {age:?} after its start, and its time limit is {limit:?}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    const fn job_limit(seconds: u64) -> TimeLimits {
        TimeLimits {
            attempt: None,
            job: Some(Duration::from_secs(seconds)),
        }
    }

    /// The verdict `after` the first look at one job, in a pool with this limit.
    fn verdict(pool: TimeLimits, own: Option<TimeLimits>, after: Duration) -> Result<(), String> {
        let (start, mut time_limits) = (Instant::now(), TimeLimitAudit::default());
        for _ in 0..2 {
            let open = OpenJob { own, attempt: None };
            time_limits.look(pool, BTreeMap::from([(JobId(7), open)]), || start);
        }
        time_limits.check_at_rest(|| start + after)
    }

    #[test]
    fn a_job_is_over_its_limit_once_that_has_passed_since_it_was_first_seen() {
        let own = Some(TimeLimits::default());
        let almost = 2 * SECOND - Duration::from_nanos(1);
        assert_eq!(verdict(job_limit(2), own, almost), Ok(()));
        let over = "job 7 has no outcome 2s after it was accepted, and its time limit is 2s";
        assert_eq!(verdict(job_limit(2), own, 2 * SECOND), Err(over.into()));
    }

    #[test]
    fn the_limit_of_a_job_replaces_that_of_its_pool() {
        assert_eq!(verdict(job_limit(1), Some(job_limit(3)), SECOND), Ok(()));
        assert!(verdict(TimeLimits::default(), Some(job_limit(3)), 3 * SECOND).is_err());
    }

    #[test]
    fn of_a_job_whose_limits_are_not_known_nothing_is_demanded() {
        assert_eq!(verdict(job_limit(1), None, 9 * SECOND), Ok(()));
    }

    /// The verdict two seconds after the first look at a running attempt: the limit for attempts of
    /// the pool before the attempt and at that look, and whether another attempt follows after the
    /// first second.
    fn verdict_on_attempt(before: u64, limit: u64, is_renewed: bool) -> Result<(), String> {
        let (start, mut time_limits) = (Instant::now(), TimeLimitAudit::default());
        let pool = |seconds| TimeLimits {
            attempt: Some(Duration::from_secs(seconds)),
            job: None,
        };
        let open = |number| OpenJob {
            own: Some(TimeLimits::default()),
            attempt: Some(OpenAttempt {
                slot: 0,
                number,
                since: None,
            }),
        };
        time_limits.look(pool(before), BTreeMap::new(), || start);
        time_limits.look(pool(limit), BTreeMap::from([(JobId(7), open(1))]), || start);
        let later = 1 + u32::from(is_renewed);
        let again = BTreeMap::from([(JobId(7), open(later))]);
        time_limits.look(pool(limit), again, || start + SECOND);
        time_limits.check_at_rest(|| start + 2 * SECOND)
    }

    #[test]
    fn an_attempt_is_over_its_limit_once_that_has_passed_since_it_was_first_seen() {
        let over = "an attempt of job 7 runs 2s after its start, and its time limit is 2s";
        assert_eq!(verdict_on_attempt(2, 2, false), Err(over.into()));
        assert_eq!(verdict_on_attempt(3, 3, false), Ok(()));
        assert_eq!(
            verdict_on_attempt(2, 2, true),
            Ok(()),
            "it is another attempt"
        );
        assert_eq!(
            verdict_on_attempt(1, 2, false),
            Ok(()),
            "the limit has changed"
        );
    }

    #[test]
    fn the_clock_is_not_read_without_a_limit() {
        let mut time_limits = TimeLimitAudit::default();
        let open = OpenJob {
            own: Some(TimeLimits::default()),
            attempt: None,
        };
        let now = || panic!("the clock is read");
        time_limits.look(
            TimeLimits::default(),
            BTreeMap::from([(JobId(7), open)]),
            now,
        );
        assert_eq!(time_limits.check_at_rest(now), Ok(()));
    }
}
