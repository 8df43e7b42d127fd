//! The limit of open files: checked before the first process, so that no row fails by it.

use std::{error::Error, fmt, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Two ends of three pipes and a pidfd; half of the ends are open only while a process is started.
const FOR_EACH_WORKER: u64 = 7;

/// Input, answers, timers, terminal, and what was open at the start.
const FOR_OTHERS: u64 = 64;

/// Raises the soft limit of open files if `workers` processes at once need more. The processes
/// inherit it.
///
/// # Errors
///
/// The hard limit is lower than that; the message says how many workers it allows.
pub(crate) fn reserve_descriptors(workers: usize) -> Result<(), TooFewDescriptors> {
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = raised(limit, workers).map_err(|allowed| TooFewDescriptors {
        workers,
        allowed,
        source: None,
    })?
    else {
        return Ok(());
    };
    let new = Rlimit {
        current: Some(current),
        ..limit
    };
    setrlimit(Resource::Nofile, new).map_err(|error| TooFewDescriptors {
        workers,
        allowed: allowed(limit.current),
        source: Some(error.into()),
    })
}

/// The soft limit that is needed; `None` if it need not change. The error is the number of workers
/// that the hard limit allows.
fn raised(limit: Rlimit, workers: usize) -> Result<Option<u64>, u64> {
    let workers = u64::try_from(workers).unwrap_or(u64::MAX);
    let needed = workers
        .saturating_mul(FOR_EACH_WORKER)
        .saturating_add(FOR_OTHERS);
    let suffices = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    match (suffices(limit.current), suffices(limit.maximum)) {
        (true, _) => Ok(None),
        (false, true) => Ok(Some(needed)),
        (false, false) => Err(allowed(limit.maximum)),
    }
}

fn allowed(limit: Option<u64>) -> u64 {
    limit.map_or(u64::MAX, |limit| {
        limit.saturating_sub(FOR_OTHERS) / FOR_EACH_WORKER
    })
}

/// More processes at once than the limit of open files allows.
#[derive(Debug)]
pub(crate) struct TooFewDescriptors {
    workers: usize,
    allowed: u64,
    source: Option<io::Error>,
}

impl fmt::Display for TooFewDescriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "--workers {}: the limit of open files (ulimit -n) allows {}",
            self.workers, self.allowed
        )?;
        match &self.source {
            Some(source) => write!(f, ", and cannot be raised: {source}"),
            None => Ok(()),
        }
    }
}

impl Error for TooFewDescriptors {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(current: u64, maximum: Option<u64>) -> Rlimit {
        Rlimit {
            current: Some(current),
            maximum,
        }
    }

    #[test]
    fn a_limit_that_suffices_is_not_changed() {
        assert_eq!(raised(limit(764, Some(764)), 100), Ok(None));
        assert_eq!(raised(limit(0, None), 0), Ok(Some(64)));
    }

    #[test]
    fn one_worker_has_descriptors() {
        let before = getrlimit(Resource::Nofile);
        reserve_descriptors(1).unwrap();
        assert_eq!(raised(getrlimit(Resource::Nofile), 1), Ok(None));
        assert_eq!(getrlimit(Resource::Nofile).maximum, before.maximum);
    }

    #[test]
    fn the_soft_limit_is_raised_to_what_is_needed() {
        assert_eq!(raised(limit(763, Some(4096)), 100), Ok(Some(764)));
        assert_eq!(raised(limit(763, None), 100), Ok(Some(764)));
    }

    #[test]
    fn the_workers_that_a_hard_limit_allows_are_told() {
        assert_eq!(raised(limit(256, Some(763)), 100), Err(99));
        let error = TooFewDescriptors {
            workers: 100,
            allowed: 99,
            source: None,
        };
        assert_eq!(
            error.to_string(),
            "--workers 100: the limit of open files (ulimit -n) allows 99"
        );
    }
}
