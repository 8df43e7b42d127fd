//! `brigade work`: jobs of a queue come in, and each is acknowledged with its answer.
//!
//! [`serve`] fetches, settles and extends leases; the pool is the one of `brigade run` and `brigade
//! fetch`. [`Jobs`] is between them: it makes a job of a payload, and a result of an outcome. Beside
//! both, [`Jobs::watch`] waits for signals and shows progress.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brigade::JobError;
use brigade::broker::{
    Broker, JobId, Nack, ServeError, ServeOptions, ServeReport, Settlement, serve,
};
use brigade::csv::Header;
use brigade_amqp::AmqpBroker;
use brigade_sqlite::SqliteBroker;
use smol::channel::{Sender, bounded};
use smol::{Timer, future};

use super::address::{self, Address, Missing, warn};
use super::payload::Outcome;
use super::rows::{Job, Rows, Taken};
use super::watched::Watched;
use crate::answers::collected::JOB_ID;
use crate::feed::LaneId;
use crate::fetch::{self, Fetch};
use crate::frame::account::Account;
use crate::frame::lanes::SharedLanes;
use crate::frame::outputs::Record;
use crate::frame::pool::{self, Failed, JobPool, MAX_DEFERRALS, Task};
use crate::frame::screen::{Screen, Snapshot, TICK};
use crate::frame::stop::Stop;
use crate::frame::times::RowState;
use crate::frame::work::{Answer, Columns, Lane, Next, Numbered, RowError, Work};
use crate::frame::{Plan, named, taken};
use crate::options::Common;
use crate::options::queue::{OnMissingColumn, TakeOptions, WorkFetchOptions, WorkOptions};
use crate::run::{self, Commands};
use crate::signals::Signals;

/// Runs a command for each job, and returns the exit code.
pub(crate) fn run(options: WorkOptions) -> u8 {
    let WorkOptions { mut run, take } = options;
    let address = match named_queue(&mut run.common, &take) {
        Ok(address) => address,
        Err(stop) => return refused(&stop),
    };
    if let Err(stop) = run::check(&run) {
        return refused(&stop);
    }
    let (plan, lanes, columns) = (run::plan(&run), run::lanes(&run), run::columns());
    let run = Rc::new(run);
    let rows = {
        let (run, columns) = (Rc::clone(&run), columns.clone());
        Rows::new(address.to_string(), columns.clone(), move |header| {
            let names = names_of(&run.common, header, &columns)?;
            Ok((Commands::new(&run, header)?, names))
        })
    };
    work(&address, &take, &run.common, &plan, &lanes, rows)
}

/// Fetches a URL for each job, and returns the exit code.
pub(crate) fn fetch(options: WorkFetchOptions) -> u8 {
    let WorkFetchOptions { mut fetch, take } = options;
    let address = match named_queue(&mut fetch.common, &take) {
        Ok(address) => address,
        Err(stop) => return refused(&stop),
    };
    if let Err(stop) = fetch::check(&fetch) {
        return refused(&stop);
    }
    let columns = fetch::columns(&fetch);
    let (plan, lanes) = (fetch::plan(&fetch), fetch::lanes(&fetch));
    let fetch = Rc::new(fetch);
    let rows = {
        let (fetch, columns, lanes) = (Rc::clone(&fetch), columns.clone(), Rc::clone(&lanes));
        Rows::new(address.to_string(), columns.clone(), move |header| {
            let names = names_of(&fetch.common, header, &columns)?;
            let work = Fetch::of_queue(&fetch, header, Rc::clone(&lanes))?;
            Ok((work, names))
        })
    };
    work(&address, &take, &fetch.common, &plan, &lanes, rows)
}

/// The names of the columns that are added. `brigade results` adds one more.
fn names_of(common: &Common, header: &Header, columns: &Columns) -> Result<Vec<String>, Stop> {
    let job_id = format!("{}{JOB_ID}", common.prefix);
    if header.iter().any(|column| column == job_id) {
        return Err(taken(common, &job_id));
    }
    named(common, header, columns)
}

/// The queue of the options, whose name takes the place of the file's in messages.
fn named_queue(common: &mut Common, take: &TakeOptions) -> Result<Address, Stop> {
    let address = Address::parse(&common.file, take.name.name.as_deref())?;
    common.file = address.to_string().into();
    // The pool has room for what is held.
    common.lookahead = common.lookahead.max(take.prefetch.unwrap_or(0));
    Ok(address)
}

fn refused(stop: &Stop) -> u8 {
    warn(stop);
    warn(Line(&ServeReport::default()));
    stop.exit_code()
}

/// The last line on stderr.
struct Line<'a>(&'a ServeReport);

impl std::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let report = self.0;
        write!(
            f,
            "fetched={} acked={} released={} dead={} lost={} unsettled={}",
            report.fetched,
            report.acked,
            // No job is retried by another delivery.
            report.released + report.retried,
            report.dead_lettered,
            report.lost,
            report.unsettled
        )
    }
}

fn work<W: Work>(
    address: &Address,
    take: &TakeOptions,
    common: &Common,
    plan: &Plan,
    lanes: &SharedLanes,
    rows: Rows<W>,
) -> u8 {
    smol::block_on(async {
        let lease = Some(take.lease);
        match address.open(Missing::Refuse, lease).await {
            Ok(address::Broker::Sqlite(broker)) => {
                let count = async |broker: &SqliteBroker| {
                    let counts = broker.counts().await;
                    counts.map_or(0, |counts| counts.leased + counts.delayed)
                };
                let work = work_on(broker, address, take, common, plan, lanes, rows, count);
                Box::pin(work).await
            }
            Ok(address::Broker::Amqp(broker)) => {
                // The server does not count those that are held.
                let count = async |broker: &AmqpBroker| {
                    let counts = broker.counts().await;
                    counts.map_or(0, |counts| counts.delayed.into())
                };
                let work = work_on(broker, address, take, common, plan, lanes, rows, count);
                Box::pin(work).await
            }
            Err(stop) => refused(&stop),
        }
    })
}

#[expect(
    clippy::too_many_arguments,
    reason = "one caller for each kind of queue"
)]
async fn work_on<B: Broker, W: Work>(
    broker: B,
    address: &Address,
    take: &TakeOptions,
    common: &Common,
    plan: &Plan,
    lanes: &SharedLanes,
    rows: Rows<W>,
    unfinished: impl AsyncFn(&B) -> u64,
) -> u8 {
    let signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            return refused(&Stop::Usage(format!("cannot catch signals: {error}")));
        }
    };
    let redelivered = Arc::new(AtomicU64::new(0));
    let broker = Watched {
        broker,
        redelivered: Arc::clone(&redelivered),
    };
    let rows = Rc::new(rows);
    let columns = rows.columns();
    let (pool, workers) = pool::build(Rc::clone(&rows), Rc::clone(lanes), plan, common);
    lanes
        .borrow_mut()
        .attach(&pool, plan.retries, common.max_failures);
    let (stopper, stopped) = bounded(1);
    let jobs = Jobs {
        rows,
        columns,
        pool,
        lanes: Rc::clone(lanes),
        on_missing_column: take.on_missing_column,
        has_fit: Cell::new(false),
        held: RefCell::default(),
        limited: RefCell::default(),
        account: RefCell::default(),
        stop: RefCell::new(None),
        stopper,
        redelivered,
    };
    let mut options = ServeOptions::new(
        |id: &JobId, payload: Vec<u8>| jobs.decode(id, &payload),
        |id: &JobId, next| jobs.ended(id, next),
    )
    .prefetch(take.prefetch.unwrap_or(plan.workers))
    .max_deliveries(take.max_deliveries)
    .on_failure(|id: &JobId, error, _| jobs.failed(id, error))
    .on_error({
        let address = address.clone();
        move |error| warn(address.problem(error))
    })
    .until(async move {
        // Fails once the sender is closed.
        let _ = stopped.recv().await;
    });
    if take.until_empty {
        options = options.until_empty();
    }
    let mut screen = Screen::new(common.progress, common.progress_interval, Instant::now());
    let serving = async { Some(serve(&broker, &jobs.pool, options).await) };
    let watching = async {
        jobs.watch(signals, &mut screen, common.deadline, plan.busy)
            .await;
        None
    };
    let outcome = workers.drive(future::or(serving, watching)).await;
    lanes.borrow_mut().detach();
    screen.finish();
    let outcome = match outcome {
        Some(Ok(report)) if take.until_empty && jobs.stop.borrow().is_none() => {
            let unfinished = unfinished(&broker.broker).await;
            let unfinished = unfinished.saturating_sub(report.unsettled);
            if unfinished > 0 {
                screen.message(format_args!(
                    "{address}: {unfinished} jobs are held by others or delayed"
                ));
            }
            Some(Ok(report))
        }
        outcome => outcome,
    };
    if let Err(error) = broker.close().await
        && !error.is_closed()
    {
        screen.message(format_args!("closing: {}", address.problem(&error)));
    }
    let (report, error) = match outcome {
        Some(Ok(report)) => (report, None),
        Some(Err(ServeError { report, error, .. })) => (report, Some(error)),
        None => (ServeReport::default(), None),
    };
    if let Some(error) = &error {
        screen.message(address.problem(error));
    }
    jobs.finish(&screen, &report, error.is_some())
}

/// A delivery that is held.
struct Flight<W> {
    row: Numbered,
    state: Rc<RowState>,
    names: Rc<[String]>,
    /// What runs it; `None` if the row has its answer without that.
    work: Option<Rc<W>>,
}

/// Makes jobs of payloads and results of outcomes.
struct Jobs<W: Work> {
    rows: Rc<Rows<W>>,
    columns: Columns,
    pool: JobPool<Job<W>>,
    lanes: SharedLanes,
    on_missing_column: OnMissingColumn,
    /// Whether a job had all columns that are needed.
    has_fit: Cell<bool>,
    /// The deliveries without an outcome. One job may be delivered twice at a time by a queue that
    /// knows no ids; both have the same row. What was given back at the end stays.
    held: RefCell<HashMap<JobId, Vec<Flight<W>>>>,
    /// The lanes whose own limits the pool knows.
    limited: RefCell<HashSet<Lane>>,
    account: RefCell<Account>,
    stop: RefCell<Option<Stop>>,
    /// Closed when nothing more is to be fetched.
    stopper: Sender<()>,
    redelivered: Arc<AtomicU64>,
}

impl<W: Work> Jobs<W> {
    // ---- jobs ----

    /// A payload becomes a job of the pool. One that is no row becomes a dead letter.
    fn decode(&self, id: &JobId, payload: &[u8]) -> Result<Task<Job<W>>, String> {
        let Taken {
            row,
            job,
            names,
            unfit,
        } = self.rows.take(id.as_str(), payload)?;
        match unfit {
            None => self.has_fit.set(true),
            Some(problem)
                if self.on_missing_column == OnMissingColumn::Stop && !self.has_fit.get() =>
            {
                // Before the pool could start it: the job is given back.
                self.stop(Stop::Usage(format!(
                    "job {id}: {problem}; nothing was run, and the job was given back. With \
                     --on-missing-column fail, such jobs get answers with ok=false"
                )));
            }
            Some(_) => {}
        }
        let state = Rc::new(RowState::new(LaneId::NONE, Instant::now()));
        let lane = self.rows.lane_of(&job);
        {
            let mut lanes = self.lanes.borrow_mut();
            if lanes.limits().own_name(&lane).is_some()
                && self.limited.borrow_mut().insert(Lane::clone(&lane))
            {
                lanes.apply(&lane);
            }
            lanes.wait(&lane);
        }
        let work = match &job {
            Job::Ready { work, .. } => Some(Rc::clone(work)),
            Job::Answered { .. } => None,
        };
        let flight = Flight {
            row,
            state: Rc::clone(&state),
            names,
            work,
        };
        let mut held = self.held.borrow_mut();
        held.entry(id.clone()).or_default().push(flight);
        Ok(Task {
            job,
            lane,
            row: state,
        })
    }

    /// A job has ended with an answer.
    fn ended(&self, id: &JobId, next: Next<Job<W>>) -> Option<Vec<u8>> {
        match next {
            Next::Answer(answer) => self.result(id, &answer),
            // `Rows` follows them itself.
            Next::Hop(_) => None,
        }
    }

    /// A job has failed, and is not tried again. That is an answer too, but for what was cut short.
    fn failed(&self, id: &JobId, error: JobError<Failed>) -> Settlement {
        let answer = match error {
            JobError::Failed(failed) => failed.failure.answer,
            JobError::Panicked(panic) => {
                let message = format!("a fault of this program: {panic}");
                self.answer("protocol", message)
            }
            error => {
                let reason = format!("the job was not run: {error:?}");
                return Settlement::Nack(Nack::DeadLetter { reason });
            }
        };
        if answer.is_of("interrupted") || answer.is_of("deadline") {
            self.taken(id);
            return Settlement::Nack(Nack::Release);
        }
        Settlement::Ack(self.result(id, &answer))
    }

    fn answer(&self, kind: &'static str, message: String) -> Answer {
        Answer {
            before: vec![Vec::new(); self.columns.before.len()],
            after: vec![Vec::new(); self.columns.after.len()],
            error: Some(RowError { kind, message }),
        }
    }

    /// Takes the delivery out of what is held.
    fn taken(&self, id: &JobId) -> Option<Flight<W>> {
        let mut held = self.held.borrow_mut();
        let flights = held.get_mut(id)?;
        let flight = flights.pop();
        if flights.is_empty() {
            held.remove(id);
        }
        flight
    }

    /// The result of a job.
    fn result(&self, id: &JobId, answer: &Answer) -> Option<Vec<u8>> {
        let Flight {
            row,
            state,
            names,
            work,
        } = self.taken(id)?;
        // A row whose host is given up is not asked for.
        if work.is_some() && !answer.is_of("host_down") {
            state.times.count_starts(MAX_DEFERRALS);
        }
        let record = Record {
            row: &row,
            answer,
            times: &state.times,
            has_backoff: self.columns.has_backoff,
        };
        let inputs = row.row.record().iter().map(<[u8]>::to_vec);
        let outcome = Outcome {
            row: row.number,
            inputs: row.row.record().len(),
            header: names.to_vec(),
            cells: inputs.chain(record.cells()).map(Into::into).collect(),
        };
        let kind = answer.error.as_ref().map(|error| error.kind);
        self.account.borrow_mut().answered(kind);
        Some(outcome.encode())
    }

    // ---- time and signals ----

    /// Waits for signals, shows progress, and ends what is to be ended. Never returns.
    async fn watch(
        &self,
        mut signals: Signals,
        screen: &mut Screen,
        deadline: Option<Duration>,
        busy: &'static str,
    ) {
        let deadline = deadline.and_then(|time| Instant::now().checked_add(time));
        let mut is_cut = false;
        loop {
            let signal = async { Some(signals.next().await) };
            let tick = async {
                Timer::after(TICK).await;
                None
            };
            let signal = future::or(signal, tick).await;
            let now = Instant::now();
            let is_stopped = self.stop.borrow().is_some();
            match signal {
                Some(signal) if is_stopped => {
                    if !is_cut {
                        screen.message(format_args!("{signal} again: cutting short what runs"));
                    }
                    is_cut = true;
                    self.cut("interrupted").await;
                }
                Some(signal) => {
                    let stop = Stop::from(signal);
                    screen.message(&stop);
                    self.stop(stop);
                }
                None => {}
            }
            if self.stop.borrow().is_none() && self.lanes.borrow().has_failed_enough() {
                screen.message(Stop::Failures);
                self.stop(Stop::Failures);
            }
            if deadline.is_some_and(|at| now >= at) && !is_cut {
                if self.stop.borrow().is_none() {
                    screen.message(Stop::Deadline);
                }
                self.stop(Stop::Deadline);
                is_cut = true;
                self.cut("deadline").await;
            }
            let is_idle = self.lanes.borrow().running() == 0;
            if self.stop.borrow().is_some() && is_idle {
                // What waits between attempts is given back.
                let _ = self.pool.abort().await;
            }
            self.show(screen, now, busy);
        }
    }

    fn show(&self, screen: &mut Screen, now: Instant, busy: &'static str) {
        let mut lanes = self.lanes.borrow_mut();
        // Only the loop of a file makes use of these.
        drop(lanes.rested());
        let causes = lanes.causes(now);
        let snapshot = Snapshot {
            account: &self.account.borrow(),
            running: lanes.running(),
            in_work: self.held.borrow().values().map(Vec::len).sum::<usize>() as u64,
            busy,
            causes: &causes,
            redelivered: self.redelivered.load(Ordering::Relaxed),
        };
        screen.show(&snapshot, now);
    }

    /// Starts nothing more, and fetches nothing more. The first reason counts.
    fn stop(&self, stop: Stop) {
        self.pool.pause();
        self.stopper.close();
        self.stop.borrow_mut().get_or_insert(stop);
    }

    /// Cuts short what runs.
    async fn cut(&self, kind: &'static str) {
        let works: Vec<Rc<W>> = self
            .held
            .borrow()
            .values()
            .flatten()
            .filter_map(|flight| flight.work.clone())
            .collect();
        let mut is_asked = false;
        for work in works {
            is_asked |= work.cut(kind);
        }
        if !is_asked {
            let _ = self.pool.abort().await;
        }
    }

    /// Says why the work ended and what it did, and returns the exit code.
    fn finish(&self, screen: &Screen, report: &ServeReport, is_broken: bool) -> u8 {
        let account = self.account.borrow();
        let stop = self.stop.borrow();
        if let Some(stop) = &*stop
            && !stop.is_told_at_once()
        {
            screen.message(stop);
        }
        if let Some(kinds) = account.listed() {
            screen.message(format_args!("failed: {kinds}"));
        }
        screen.message(Line(report));
        match &*stop {
            _ if is_broken => 2,
            Some(stop) => stop.exit_code(),
            None => u8::from(account.failed + report.dead_lettered + report.unsettled > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_adds_up() {
        let mut report = ServeReport::default();
        report.fetched = 21;
        report.acked = 1;
        report.retried = 2;
        report.released = 3;
        report.dead_lettered = 4;
        report.lost = 5;
        report.unsettled = 6;
        let line = Line(&report).to_string();
        assert_eq!(
            line,
            "fetched=21 acked=1 released=5 dead=4 lost=5 unsettled=6"
        );
        let numbers: Vec<u64> = line
            .split(' ')
            .filter_map(|part| part.split_once('=')?.1.parse().ok())
            .collect();
        assert_eq!(numbers[0], numbers[1..].iter().sum::<u64>());
    }
}
