//! Time limits: an attempt may run until its own limit or the job's, whichever is earlier. Pure,
//! and safe against overflow: a limit past the end of time is no limit.

use std::time::{Duration, Instant};

use crate::error::TimeLimit;

/// The time limits of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TimeLimits {
    /// Of each attempt, from its start.
    pub(crate) attempt: Option<Duration>,
    /// Of the job, from its acceptance.
    pub(crate) job: Option<Duration>,
}

impl TimeLimits {
    pub(crate) const fn is_none(&self) -> bool {
        self.attempt.is_none() && self.job.is_none()
    }

    /// The time at which the job times out.
    pub(crate) fn job_deadline(&self, accepted_at: Instant) -> Option<Instant> {
        accepted_at.checked_add(self.job?)
    }

    /// The time at which an attempt that starts now times out, and by which limit. At a tie it is
    /// the job's.
    pub(crate) fn deadline(
        &self,
        accepted_at: Instant,
        now: Instant,
    ) -> Option<(Instant, TimeLimit)> {
        let job = self
            .job_deadline(accepted_at)
            .map(|at| (at, TimeLimit::Job));
        let attempt = self
            .attempt
            .and_then(|limit| now.checked_add(limit))
            .map(|at| (at, TimeLimit::Attempt));
        match (job, attempt) {
            (Some(job), Some(attempt)) if attempt.0 < job.0 => Some(attempt),
            (job, attempt) => job.or(attempt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_earlier_limit_counts_and_the_job_wins_a_tie() {
        let start = Instant::now();
        let limits = |attempt, job| TimeLimits {
            attempt: Some(SECOND * attempt),
            job: Some(SECOND * job),
        };
        let now = start + SECOND * 2;
        assert_eq!(
            limits(1, 9).deadline(start, now),
            Some((start + SECOND * 3, TimeLimit::Attempt))
        );
        assert_eq!(
            limits(9, 5).deadline(start, now),
            Some((start + SECOND * 5, TimeLimit::Job))
        );
        assert_eq!(
            limits(3, 5).deadline(start, now),
            Some((start + SECOND * 5, TimeLimit::Job))
        );
    }

    #[test]
    fn there_is_no_limit_only_without_both() {
        let limits = |attempt, job| TimeLimits { attempt, job };
        assert!(limits(None, None).is_none());
        assert!(!limits(Some(SECOND), None).is_none());
        assert!(!limits(None, Some(SECOND)).is_none());
        assert!(!limits(Some(SECOND), Some(SECOND)).is_none());
    }

    #[test]
    fn a_limit_past_the_end_of_time_is_no_limit() {
        let start = Instant::now();
        let limits = TimeLimits {
            attempt: Some(Duration::MAX),
            job: Some(Duration::MAX),
        };
        assert_eq!(limits.deadline(start, start), None);
        assert_eq!(TimeLimits::default().deadline(start, start), None);
    }
}
