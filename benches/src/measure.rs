//! What a run took: wall and CPU time of the whole set of jobs, what it spawns included, and the
//! most memory that the kernel has seen. One process measures one run; nothing counts along while
//! the time is taken.

use std::fs;
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use serde::{Deserialize, Serialize};

use crate::tally::Tally;

/// What one run took.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) jobs: u64,
    pub(crate) wall_ns: u64,
    /// Of all threads of the process.
    pub(crate) cpu_ns: u64,
    /// The most memory that was resident at once, from the start of the process.
    pub(crate) peak_kib: u64,
    /// Half of the jobs took no longer than this, where each is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) median_ns: Option<u64>,
    /// And all but one in a hundred no longer than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) p99_ns: Option<u64>,
}

impl Sample {
    pub(crate) fn wall_a_job(&self) -> f64 {
        self.wall_ns as f64 / self.jobs as f64
    }

    pub(crate) fn cpu_a_job(&self) -> f64 {
        self.cpu_ns as f64 / self.jobs as f64
    }

    /// Of jobs that are measured one by one; else of all, which is their mean.
    pub(crate) fn median(&self) -> f64 {
        self.median_ns
            .map_or_else(|| self.wall_a_job(), |median| median as f64)
    }

    pub(crate) fn peak_mb(&self) -> f64 {
        self.peak_kib as f64 / 1024.0
    }
}

/// A stopwatch that runs.
#[derive(Debug)]
pub(crate) struct Running {
    wall: Instant,
    cpu: ProcessTime,
}

impl Running {
    pub(crate) fn start() -> Self {
        Self {
            cpu: ProcessTime::now(),
            wall: Instant::now(),
        }
    }

    /// Stops, and panics unless all of `0..jobs` have results.
    #[track_caller]
    pub(crate) fn stop(self, jobs: u64, tally: Tally) -> Sample {
        let wall = self.wall.elapsed();
        let cpu = self.cpu.elapsed();
        tally.check(jobs);
        Sample {
            jobs,
            wall_ns: nanos(wall),
            cpu_ns: nanos(cpu),
            peak_kib: peak_kib(),
            ..Sample::default()
        }
    }
}

/// Of jobs that are measured one by one.
pub(crate) fn latencies(mut each: Vec<Duration>, cpu: Duration) -> Sample {
    each.sort_unstable();
    let at = |part: usize| each.get(each.len() * part / 100).copied().map(nanos);
    Sample {
        jobs: each.len() as u64,
        wall_ns: nanos(each.iter().sum()),
        cpu_ns: nanos(cpu),
        peak_kib: peak_kib(),
        median_ns: at(50),
        p99_ns: at(99),
    }
}

/// By the kernel's account; 0 where it keeps none.
pub(crate) fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next())
        .and_then(|kib| kib.parse().ok())
        .unwrap_or(0)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
