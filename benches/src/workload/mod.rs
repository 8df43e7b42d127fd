//! What is run, and the way from a name to a run. `list` says which contenders a workload has; work that is
//! no stream of jobs has a file of its own.

mod cancel;
mod delayed;
mod drain;
pub(crate) mod echo;
pub(crate) mod idle;
mod latency;
mod list;
mod producers;
mod queued;

pub(crate) use self::list::WORKLOADS;
use crate::contender::Contender::{self, *};
use crate::contender::{nothing, script};
use crate::measure::Sample;
use crate::runtime::Load;
use crate::work::{Compute, Echo, Ready, Sleep, TokioEcho, TokioSleep, YieldOnce};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Jobs that are ready when they are first polled.
    Ready,
    /// Jobs that yield once.
    Yield,
    /// Jobs that sleep for 1 ms.
    Sleep,
    /// Jobs that compute for 10 µs.
    Compute,
    /// Requests to an echo server, which is a process of its own.
    Echo,
    /// Single jobs on an idle pool, from the thread of the pool or from another.
    Latency { is_across: bool },
    /// This many tasks that submit jobs.
    Producers(u64),
    /// All jobs queued before the first starts.
    Queued,
    /// All jobs delayed by a second.
    Delayed,
    /// All jobs delayed by an hour, and the process ends before.
    Held,
    /// Workers, and no job.
    Idle,
    /// All jobs queued, then cancelled.
    Cancel,
    /// All jobs queued, then the pool is told to finish.
    Drain,
    /// A process that does nothing.
    Empty,
}

/// A workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// What it is, for the heading of its table.
    pub(crate) about: &'static str,
    pub(crate) kind: Kind,
    pub(crate) at_once: usize,
    pub(crate) jobs: u64,
    /// On how many threads; those that can use only one run on one.
    pub(crate) threads: &'static [usize],
    pub(crate) contenders: &'static [Contender],
}

/// The workload of this name.
pub(crate) fn named(name: &str) -> Result<Workload, String> {
    let found = WORKLOADS.iter().find(|workload| workload.name == name);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = WORKLOADS.iter().map(|workload| workload.name).collect();
        format!(
            "no workload is called {name}; there are {}",
            names.join(", ")
        )
    })
}

impl Workload {
    /// The section of the report that it belongs to.
    pub(crate) fn section(&self) -> &'static str {
        match self.kind {
            Kind::Latency { .. } => "latency",
            Kind::Producers(_) => "producers",
            Kind::Queued | Kind::Delayed | Kind::Held | Kind::Idle | Kind::Empty => "memory",
            _ if self.name == "lazy" => "memory",
            _ if self.name.starts_with("workers-") || self.name.starts_with("jobs-") => "growth",
            _ => self.name,
        }
    }

    /// Whether instructions and allocations are counted, which one thread and ready jobs allow.
    pub(crate) fn is_counted(&self) -> bool {
        ["ready-10", "ready-1000", "submit", "yield-1000"].contains(&self.name)
    }

    /// So many rounds, or fewer where one takes seconds.
    pub(crate) fn rounds(&self, rounds: usize) -> usize {
        let is_long = self.jobs > 1_000_000 || matches!(self.kind, Kind::Queued | Kind::Delayed);
        if is_long { rounds.min(3) } else { rounds }
    }

    /// Its load for this contender, which takes fewer jobs if it is slow.
    pub(crate) fn load(&self, contender: Contender, threads: usize) -> Load {
        // What they do with sleeping jobs is mostly to sleep.
        let divisor = if self.kind == Kind::Sleep {
            1
        } else {
            contender.divisor()
        };
        Load {
            jobs: self.jobs / divisor,
            at_once: self.at_once,
            threads,
        }
    }

    /// Runs it in this process.
    pub(crate) fn run(&self, contender: Contender, load: Load) -> Result<Sample, String> {
        let word = match self.kind {
            Kind::Ready => Some("ready"),
            Kind::Yield => Some("yield"),
            Kind::Sleep => Some("sleep"),
            _ => None,
        };
        let takes_part = match contender {
            RayonIter | RayonSpawn | Threadpool => self.kind == Kind::Compute,
            _ => word.is_some() || !script::is_script(contender),
        };
        if !takes_part {
            return Err(format!(
                "{} takes no part in {}",
                contender.name(),
                self.name
            ));
        }
        if let Some(result) = script::run(contender, word.unwrap_or_default(), load) {
            return result;
        }
        Ok(match self.kind {
            Kind::Ready => contender.run(Ready, load),
            Kind::Yield => contender.run(YieldOnce, load),
            Kind::Sleep if contender.is_on_tokio() => contender.run(TokioSleep, load),
            Kind::Sleep => contender.run(Sleep, load),
            Kind::Compute => contender.run(Compute, load),
            Kind::Echo => {
                let server = echo::Server::start()?;
                if contender.is_on_tokio() {
                    contender.run(TokioEcho::new(server.address()), load)
                } else {
                    contender.run(Echo::new(server.address()), load)
                }
            }
            Kind::Latency { is_across } => latency::run(contender, load, is_across),
            Kind::Producers(producers) => producers::run(contender, load, producers),
            Kind::Queued => queued::run(contender, load),
            Kind::Delayed => delayed::run(contender, load),
            Kind::Held => delayed::hold(load),
            Kind::Idle => idle::run(contender, load),
            Kind::Cancel => cancel::run(contender, load),
            Kind::Drain => drain::run(contender, load),
            Kind::Empty => nothing(),
        })
    }
}

/// Of a contender that no table lists with this workload.
fn no_part(contender: Contender, kind: &str) -> ! {
    panic!("{} takes no part in {kind}", contender.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So few jobs that it takes no time; each run checks the number and the sum of its results.
    #[test]
    fn every_contender_does_every_workload() {
        for workload in WORKLOADS {
            // Its server is this program, which a test is not.
            if workload.kind == Kind::Echo {
                continue;
            }
            let jobs = match workload.kind {
                Kind::Producers(producers) => producers,
                Kind::Idle => 0,
                _ => 100,
            };
            for &contender in workload
                .contenders
                .iter()
                .filter(|contender| !script::is_script(**contender))
            {
                for &threads in workload
                    .threads
                    .iter()
                    .filter(|threads| **threads == 1 || contender.is_parallel())
                {
                    let load = Load {
                        jobs,
                        at_once: workload.at_once.min(10),
                        threads,
                    };
                    let run = workload.run(contender, load);
                    assert!(
                        run.is_ok(),
                        "{} at {}: {run:?}",
                        contender.name(),
                        workload.name
                    );
                }
            }
        }
    }
}
