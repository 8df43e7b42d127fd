//! The invariants of every run: the counters of watched pools, after every step and at the end, and
//! the order of the events of a [`Recorder`].

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::plan::Fault;
use super::time_limits::TimeLimitAudit;
use crate::event::{Event, JobId, Observer, Outcome};
use crate::pool::Pool;
use crate::queue::admission::PoolState;
use crate::rt::{ManualTimer, Timer};
use crate::schedule::limiter::RateLimit;
use crate::shared::Shared;
use crate::sync::ignore_poison;

pub(super) type Local = Pin<Box<dyn Future<Output = ()>>>;

/// A pool of any types. It does not count as a handle of the pool.
pub(super) trait Watched {
    /// Checked after each step.
    fn check(&self) -> Result<(), String>;
    /// Checked when no task is runnable before time passes.
    fn check_at_rest(&self) -> Result<(), String>;
    /// Checked when the pool is drained and its workers have ended.
    fn check_at_end(&self) -> Result<(), String>;
    /// Injects the fault; returns whether it is one for pools, and a task that completes it.
    fn inject(&self, fault: Fault) -> (bool, Option<Local>);
    /// Ends all pauses; returns whether there were any.
    fn resume_all(&self) -> bool;
    /// Drains the pool.
    fn drain(&self) -> Local;
    /// The state of the pool, for the trace of a failed run.
    fn describe(&self) -> String;
}

/// A pool of these types.
pub(super) struct WatchedPool<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    time_limits: RefCell<TimeLimitAudit>,
}

impl<In, T, E> WatchedPool<In, T, E> {
    pub(super) fn new(pool: &Pool<In, T, E>) -> Self {
        Self {
            shared: Arc::clone(pool.shared()),
            time_limits: RefCell::default(),
        }
    }

    /// Notes which jobs are open and which attempts run.
    fn look(&self) {
        let shared = &self.shared;
        let (limits, open) = (shared.limits(), shared.open_jobs());
        let mut time_limits = self.time_limits.borrow_mut();
        time_limits.look(limits, open, || shared.timer.now());
    }
}

impl<In: 'static, T: 'static, E: 'static> Watched for WatchedPool<In, T, E> {
    fn check(&self) -> Result<(), String> {
        self.shared.audit()?;
        self.look();
        Ok(())
    }

    fn check_at_rest(&self) -> Result<(), String> {
        self.shared.audit_at_rest()?;
        // Faults may have been injected since the last step.
        self.look();
        let time_limits = self.time_limits.borrow();
        time_limits.check_at_rest(|| self.shared.timer.now())
    }

    fn check_at_end(&self) -> Result<(), String> {
        self.shared.audit_at_end()
    }

    fn inject(&self, fault: Fault) -> (bool, Option<Local>) {
        let shared = &self.shared;
        let built = shared.built();
        match fault {
            Fault::Pause => shared.pause(),
            Fault::Resume => shared.resume(),
            Fault::Resize(number) => shared.set_workers(1 + number as usize % built),
            Fault::Rate(0) => shared.set_rate(None),
            Fault::Rate(permits) => shared.set_rate(Some(RateLimit::per_second(permits))),
            Fault::Priority(number) => return (shared.prioritise(number), None),
            Fault::Close => shared.close(PoolState::Closed),
            Fault::Seal => shared.close(PoolState::Sealed),
            Fault::Stats => {
                let _ = shared.stats();
                if let Err(wrong) = shared.audit_now() {
                    panic!("{wrong}");
                }
            }
            Fault::Drain => return (true, Some(self.drain())),
            Fault::Abort => {
                let pool = handle(shared);
                return (
                    true,
                    Some(Box::pin(async move { drop(pool.abort().await) })),
                );
            }
            _ => return (false, None),
        }
        (true, None)
    }

    fn resume_all(&self) -> bool {
        let mut was_paused = false;
        while self.shared.is_paused() {
            self.shared.resume();
            was_paused = true;
        }
        was_paused
    }

    fn drain(&self) -> Local {
        let pool = handle(&self.shared);
        Box::pin(async move { pool.drain().await })
    }

    fn describe(&self) -> String {
        self.shared.describe_books()
    }
}

/// A new handle of the pool, for `drain` and `abort`, which close the pool anyway.
fn handle<In, T, E>(shared: &Arc<Shared<In, T, E>>) -> Pool<In, T, E> {
    shared.pool_refs.fetch_add(1, Ordering::Relaxed);
    Pool::new(Arc::clone(shared))
}

/// An [`Observer`] that adds events to the trace and checks their order; made by
/// [`Sim::recorder`](super::Sim::recorder).
///
/// `Recorder` fails the run when a job starts before it was accepted, after its outcome, or twice
/// at once; when attempts are not counted one by one; when a job has two outcomes, or none at the
/// end; and when more jobs start than a [limit](Self::limit) allows.
///
/// Clones share their events.
#[derive(Clone)]
pub struct Recorder {
    log: Arc<Mutex<Log>>,
    clock: ManualTimer,
}

struct Log {
    start: Instant,
    jobs: BTreeMap<JobId, Seen>,
    /// Lines since the last step; `trace_events` takes them.
    lines: Vec<String>,
    violation: Option<String>,
    limit: Option<(u32, Duration, u32)>,
    is_in_order: bool,
    /// When jobs started; empty without a limit.
    starts: VecDeque<Instant>,
}

#[derive(Default)]
struct Seen {
    attempts: u32,
    is_running: bool,
    /// Between two attempts.
    is_retried: bool,
    outcome: Option<Outcome>,
}

impl Recorder {
    pub(super) fn new(clock: ManualTimer) -> Self {
        let log = Log {
            start: clock.now(),
            jobs: BTreeMap::new(),
            lines: Vec::new(),
            violation: None,
            limit: None,
            is_in_order: false,
            starts: VecDeque::new(),
        };
        Self {
            log: Arc::new(Mutex::new(log)),
            clock,
        }
    }

    /// Fails the run when more than `burst + permits × W / period` attempts start in any stretch of
    /// time of length `W`.
    ///
    /// # Panics
    ///
    /// If `permits` is 0 or `period` zero.
    #[must_use]
    #[track_caller]
    pub fn limit(self, permits: u32, period: Duration, burst: u32) -> Self {
        assert!(permits > 0, "permits must be at least 1, got 0");
        assert!(!period.is_zero(), "period must be longer than 0, got 0ns");
        self.lock().limit = Some((permits, period, burst));
        self
    }

    /// Fails the run when a job starts before one that was accepted earlier and has neither started
    /// nor ended: for pools without priorities, delays, keys and retries.
    #[must_use]
    pub fn in_order(self) -> Self {
        self.lock().is_in_order = true;
        self
    }

    /// How a job ended, if it did.
    pub fn outcome(&self, job: JobId) -> Option<Outcome> {
        self.lock().jobs.get(&job)?.outcome
    }

    /// How many jobs were accepted.
    pub fn accepted(&self) -> usize {
        self.lock().jobs.len()
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        ignore_poison(self.log.lock())
    }

    pub(super) fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().lines)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.lock().violation.clone().map_or(Ok(()), Err)
    }

    pub(super) fn check_at_end(&self) -> Result<(), String> {
        self.check()?;
        let log = self.lock();
        let open = log.jobs.iter().find(|(_, seen)| seen.outcome.is_none());
        open.map_or(Ok(()), |(job, _)| Err(format!("job {job} has no outcome")))
    }
}

impl Log {
    fn add(&mut self, event: &Event, now: Instant) -> Result<(), String> {
        self.lines.push(format!("  {event:?}"));
        match event {
            Event::Accepted { job } if self.jobs.insert(*job, Seen::default()).is_some() => {
                return Err(format!("job {job} was accepted twice"));
            }
            Event::Started { job, attempt, .. } => {
                let seen = self
                    .jobs
                    .get_mut(job)
                    .ok_or_else(|| format!("job {job} starts and was not accepted"))?;
                // An attempt that was snoozed does not count, so its number comes again.
                let is_next =
                    *attempt == seen.attempts + 1 || (seen.is_retried && *attempt == seen.attempts);
                if seen.is_running || seen.outcome.is_some() || !is_next {
                    return Err(format!(
                        "job {job} starts late, twice at once, or counts wrong"
                    ));
                }
                (seen.attempts, seen.is_running, seen.is_retried) = (*attempt, true, false);
                self.check_order(*job)?;
                self.check_rate(now)?;
            }
            Event::Retrying { job, attempt, .. } => {
                let seen = self
                    .jobs
                    .get_mut(job)
                    .ok_or_else(|| format!("job {job} was not accepted"))?;
                seen.is_retried = true;
                if !std::mem::replace(&mut seen.is_running, false) || *attempt != seen.attempts {
                    return Err(format!("job {job} is tried again, and did not run"));
                }
            }
            Event::Finished {
                job,
                outcome,
                attempts,
            } => {
                let seen = self
                    .jobs
                    .get_mut(job)
                    .ok_or_else(|| format!("job {job} ends and was not accepted"))?;
                if seen.outcome.is_some() || (*attempts != seen.attempts && !seen.is_retried) {
                    return Err(format!(
                        "job {job} ends twice, or after {attempts} attempts in place of {}",
                        seen.attempts
                    ));
                }
                (seen.outcome, seen.is_running) = (Some(*outcome), false);
            }
            _ => {}
        }
        Ok(())
    }

    fn check_order(&self, started: JobId) -> Result<(), String> {
        let is_waiting = |seen: &Seen| seen.attempts == 0 && seen.outcome.is_none();
        let mut earlier = self.jobs.range(..started).filter(|_| self.is_in_order);
        match earlier.find(|(_, seen)| is_waiting(seen)) {
            Some((job, _)) => Err(format!("job {started} starts before job {job}")),
            None => Ok(()),
        }
    }

    /// Checks every interval that ends now: `W` long, it may have `burst + permits × W / period`
    /// starts.
    fn check_rate(&mut self, now: Instant) -> Result<(), String> {
        let Some((permits, period, burst)) = self.limit else {
            return Ok(());
        };
        self.starts.push_back(now);
        for (back, start) in self.starts.iter().rev().enumerate() {
            let width = now.saturating_duration_since(*start).as_nanos();
            let most = u128::from(burst) + width.saturating_mul(permits.into()) / period.as_nanos();
            if back as u128 + 1 > most {
                let start = start.saturating_duration_since(self.start);
                return Err(format!(
                    "{} attempts started since {start:?}, and {most} may",
                    back + 1
                ));
            }
        }
        Ok(())
    }
}

impl Observer for Recorder {
    fn on_event(&self, event: &Event) {
        let now = self.clock.now();
        let mut log = self.lock();
        if let Err(violation) = log.add(event, now) {
            log.violation.get_or_insert(violation);
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}
