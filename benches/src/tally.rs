//! Whether all was done: how many results there were, and their sum. A contender that loses a job,
//! or runs one twice, gets no result.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The results that one task has seen.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) count: u64,
    pub(crate) sum: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, n: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(n);
    }

    /// Panics unless these are the results of the jobs `0..jobs`.
    #[track_caller]
    pub(crate) fn check(self, jobs: u64) {
        let sum = jobs * jobs.saturating_sub(1) / 2;
        assert_eq!(
            self,
            Self { count: jobs, sum },
            "a job is missing, or ran twice"
        );
    }
}

/// The results that many tasks add to, for contenders that give none back.
#[derive(Debug)]
pub(crate) struct SharedTally {
    count: AtomicU64,
    sum: AtomicU64,
    expected: u64,
    all_there: Notify,
}

impl SharedTally {
    pub(crate) fn expecting(jobs: u64) -> Arc<Self> {
        Arc::new(Self {
            count: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            expected: jobs,
            all_there: Notify::new(),
        })
    }

    pub(crate) fn add(&self, n: u64) {
        // Before the count, by which it is known that the sum is whole.
        self.sum.fetch_add(n, Ordering::Relaxed);
        if self.count.fetch_add(1, Ordering::AcqRel) + 1 == self.expected {
            self.all_there.notify_one();
        }
    }

    /// Waits for the last of them; one task may.
    pub(crate) async fn complete(&self) -> Tally {
        self.all_there.notified().await;
        Tally {
            count: self.count.load(Ordering::Acquire),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}
