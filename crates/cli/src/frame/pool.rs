//! The pool of a run: a job is an attempt of a row's work, and tells the lanes when it starts and
//! ends.

use std::fmt;
use std::rc::Rc;
use std::time::Instant;

use brigade::{Jitter, Pool, Retry, RetryDecision, Retrying, Workers};

use super::lanes::SharedLanes;
use super::plan::Plan;
use super::times::{RowState, State, Times};
use super::work::{Again, Failure, Lane, Next, Work};
use crate::options::Common;

/// How often a server may name a time at which it wants to be asked again, before that counts as an
/// attempt.
pub(crate) const MAX_DEFERRALS: u32 = 10;

/// The input of the pool.
pub(crate) struct Task<J> {
    pub(crate) job: J,
    pub(crate) lane: Lane,
    pub(crate) row: Rc<RowState>,
}

impl<J: Clone> Clone for Task<J> {
    fn clone(&self) -> Self {
        Self {
            job: self.job.clone(),
            lane: Lane::clone(&self.lane),
            row: Rc::clone(&self.row),
        }
    }
}

/// The error of the pool's jobs.
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    lane: Lane,
    row: Rc<RowState>,
    lanes: SharedLanes,
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(f)
    }
}

pub(crate) type JobPool<J> = Pool<Task<J>, Next<J>, Failed>;

/// Builds the pool. One worker polls all jobs in slots of its own: they mostly wait, and share the
/// thread of the loop that reads and writes.
pub(crate) fn build<W: Work>(
    work: Rc<W>,
    lanes: SharedLanes,
    plan: &Plan,
    options: &Common,
) -> (
    JobPool<W::Job>,
    Workers<
        Task<W::Job>,
        Next<W::Job>,
        Failed,
        brigade::handler::Plain<
            impl Fn(
                Task<W::Job>,
            )
                -> std::pin::Pin<Box<dyn Future<Output = Result<Next<W::Job>, Failed>>>>
            + use<W>,
        >,
    >,
) {
    let most = options.lookahead + plan.workers;
    let mut builder = Pool::builder()
        .workers(1)
        .jobs_per_worker(plan.workers)
        // The loop takes no more rows than that, and a row has one job at a time.
        .queue_capacity(most)
        .retry_capacity(most);
    if let Some(rate) = options.rate {
        builder = builder.rate_limit(rate.limit());
    }
    if plan.has_lanes {
        let limits = lanes.borrow().limits().all;
        builder = builder.key_by(|task: &Task<W::Job>| Lane::clone(&task.lane));
        if let Some(workers) = limits.workers {
            builder = builder.max_running_per_key(workers);
        }
        if let Some(rate) = limits.rate {
            builder = builder.rate_limit_per_key(rate.limit());
        }
    }
    let retry = Retry::exponential(options.backoff.base)
        .max_delay(options.backoff.max)
        .jitter(Jitter::Full)
        .max_attempts(plan.retries.saturating_add(1))
        .decide_by(decide)
        .on_retry(|retrying: &Retrying<'_, Failed>| {
            if let brigade::JobError::Failed(failed) = retrying.error {
                failed.row.times.plan(retrying.delay);
                let mut lanes = failed.lanes.borrow_mut();
                lanes.wait_again(&failed.lane, Rc::clone(&failed.row));
            }
        });
    builder.retry(retry).build(move |task: Task<W::Job>| {
        let (work, lanes) = (Rc::clone(&work), Rc::clone(&lanes));
        let run: std::pin::Pin<Box<dyn Future<Output = _>>> =
            Box::pin(async move { attempt(&*work, &lanes, task).await });
        run
    })
}

fn decide(failed: &Failed) -> RetryDecision {
    match failed.failure.again {
        Again::No => RetryDecision::GiveUp,
        Again::Backoff => RetryDecision::Retry,
        Again::After(time) if failed.row.times.defer() <= MAX_DEFERRALS => {
            RetryDecision::Snooze(time)
        }
        Again::After(time) => RetryDecision::RetryIn(time),
    }
}

async fn attempt<W: Work>(
    work: &W,
    lanes: &SharedLanes,
    task: Task<W::Job>,
) -> Result<Next<W::Job>, Failed> {
    let Task { job, lane, row } = task;
    let now = Instant::now();
    let is_retry = row.times.start(now);
    lanes.borrow_mut().start(&lane, now, is_retry);
    let mut running = Running {
        lane: &lane,
        row: &row,
        lanes,
        state: State::Cut,
    };
    let mut result = work.run(job, row.times.starts()).await;
    running.state = State::Waiting;
    drop(running);
    let retries = lanes.borrow().retries();
    if retries == 0
        && let Err(failure) = &mut result
    {
        // A time that the server names is for other rows, then.
        failure.again = Again::No;
    }
    if let Some(is_failed) = ended(&result, &row.times, retries) {
        lanes.borrow_mut().count(is_failed);
    }
    result.map_err(|failure| Failed {
        failure,
        lane,
        row,
        lanes: Rc::clone(lanes),
    })
}

/// Whether the row has failed, if this is its end.
fn ended<J>(result: &Result<Next<J>, Failure>, times: &Times, retries: u32) -> Option<bool> {
    match result {
        Ok(Next::Answer(answer)) => Some(answer.error.is_some()),
        Ok(Next::Hop(_)) => None,
        Err(failure) => match failure.again {
            Again::No => Some(true),
            Again::Backoff => (times.try_fails() > retries).then_some(true),
            Again::After(_) => None,
        },
    }
}

/// Notes the end of an attempt, also where it is dropped.
struct Running<'a> {
    lane: &'a Lane,
    row: &'a RowState,
    lanes: &'a SharedLanes,
    state: State,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.row.times.end(Instant::now(), self.state);
        self.lanes.borrow_mut().end(self.lane);
    }
}
