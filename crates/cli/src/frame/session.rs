//! The loop of a run: rows of the feed become jobs of the pool, outcomes become answers, until the
//! input has ended or a [`Stop`] says so.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use brigade::{Completion, Group, JobError, Pool};
use smol::{Timer, future};

use super::account::Account;
use super::lanes::{Cause, SharedLanes};
use super::outputs::{Outputs, Record};
use super::plan::Plan;
use super::pool::{Failed, Task};
use super::screen::{Screen, Snapshot, TICK};
use super::shares::Shares;
use super::stop::Stop;
use super::times::{RowState, State, timestamp};
use super::work::{Answer, Columns, Lane, Next, Numbered, RowError, Work};
use crate::answers::Done;
use crate::feed::{Fed, Feed, FeedError, LaneId};
use crate::options::{Common, OnBadRow};
use crate::report::sidecar::{self, RunEntry};
use crate::signals::{Signal, Signals};

/// What outlives the session.
pub(super) struct Run<'a> {
    pub(super) options: &'a Common,
    pub(super) screen: Screen,
    pub(super) account: Account,
}

/// Which part of the lookahead the rows of one lane may be that wait elsewhere: between attempts, or
/// for the host that a redirect leads to.
const AWAY: usize = 16;

/// A row on its way.
pub(super) struct Flight {
    row: Numbered,
    state: Rc<RowState>,
}

pub(super) struct Session<'a, 'r, W: Work> {
    pub(super) run: &'r mut Run<'a>,
    pub(super) work: Rc<W>,
    pub(super) columns: Columns,
    pub(super) lanes: SharedLanes,
    pub(super) plan: &'r Plan,
    pub(super) feed: Feed<'r, Stop>,
    /// Whether the feed has ended.
    pub(super) has_ended: bool,
    pub(super) pool: Pool<Task<W::Job>, Next<W::Job>, Failed>,
    pub(super) group: Group<Task<W::Job>, Next<W::Job>, Failed>,
    /// How many jobs were submitted: the index of the next one.
    pub(super) submitted: usize,
    /// The lanes whose own limits the pool knows.
    pub(super) limited: HashSet<Lane>,
    /// The rows of jobs without an outcome, by the index of the job.
    pub(super) flights: HashMap<usize, Flight>,
    /// How many rows of a lane wait elsewhere.
    pub(super) away: HashMap<LaneId, usize>,
    /// The rows that earlier runs have done.
    pub(super) done: Rc<RefCell<Done>>,
    pub(super) outputs: Outputs,
    pub(super) signals: Signals,
    pub(super) stop: Option<Stop>,
    /// Why the input has ended early.
    pub(super) broken: Option<Stop>,
    /// The line at which the last row starts that was read; before the first one, the header.
    pub(super) last_line: u64,
    /// The kind of the rows that are cut short.
    pub(super) is_cut: Option<&'static str>,
    pub(super) shares: Shares,
    pub(super) has_told_lookahead: bool,
}

/// What the loop waits for.
enum Event<J> {
    Signal(Signal),
    Completed(Box<Completion<Task<J>, Next<J>, Failed>>),
    /// All that ran has ended, and no more is to start.
    Idle,
    Fed(Option<Result<Fed, FeedError<Stop>>>),
    Tick,
}

impl<W: Work> Session<'_, '_, W> {
    /// Runs until the input has ended and all its rows have, or until there is a reason to stop.
    pub(super) async fn run(&mut self) -> Result<(), Stop> {
        let start = Instant::now();
        let deadline = self
            .run
            .options
            .deadline
            .and_then(|time| start.checked_add(time));
        let mut next_tick = start + TICK;
        let mut ticker = Timer::at(next_tick);
        loop {
            self.rested();
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + TICK;
                ticker.set_at(next_tick);
                self.tick(now);
            }
            if deadline.is_some_and(|at| now >= at) && self.is_cut.is_none() {
                self.stop(Stop::Deadline);
            }
            if self.has_ended && self.flights.is_empty() {
                break;
            }
            match self.event(&mut ticker).await {
                Event::Signal(signal) if self.stop.is_some() => self.cut(signal),
                Event::Signal(signal) => self.stop(signal.into()),
                Event::Completed(completion) => self.completed(*completion),
                Event::Fed(Some(Ok(fed))) => self.fed(fed),
                Event::Fed(Some(Err(error))) => self.unfed(error),
                Event::Fed(None) => self.fed_all(),
                Event::Idle => break,
                Event::Tick => {}
            }
        }
        self.end().await
    }

    async fn event(&mut self, ticker: &mut Timer) -> Event<W::Job> {
        let may_take = self.stop.is_none()
            && !self.has_ended
            && self.flights.len() + self.outputs.held()
                < self.run.options.lookahead + self.plan.workers;
        let is_stopped = self.stop.is_some();
        let Self {
            signals,
            group,
            lanes,
            feed,
            ..
        } = self;
        let signal = async { Event::Signal(signals.next().await) };
        let completed = async {
            match group.next().await {
                Some(completion) => Event::Completed(Box::new(completion)),
                None => future::pending().await,
            }
        };
        let idle = async {
            if !is_stopped || lanes.borrow().running() > 0 {
                future::pending::<()>().await;
            }
            Event::Idle
        };
        let fed = async {
            if !may_take {
                future::pending::<()>().await;
            }
            Event::Fed(feed.next().await)
        };
        let tick = async {
            ticker.await;
            Event::Tick
        };
        // Rows before outcomes: a slot that becomes free finds the next one there. The feed hands out
        // no more than the quotas of its lanes.
        let takes = future::or(signal, fed);
        let ends = future::or(completed, idle);
        future::or(takes, future::or(ends, tick)).await
    }

    // ---- rows ----

    /// The input has ended early. Rows before that are finished.
    fn unfed(&mut self, error: FeedError<Stop>) {
        self.has_ended = true;
        match Stop::from(error) {
            Stop::Input(message) => {
                let file = self.run.options.file_name();
                let line = self.last_line;
                self.broken = Some(Stop::Input(format!(
                    "{message}\n{file}: input incomplete after line {line}"
                )));
            }
            stop => self.stop(stop),
        }
    }

    /// The input has ended. Only now is it known how many rows a pipe has.
    fn fed_all(&mut self) {
        self.has_ended = true;
        self.run.account.total = self.feed.total();
        if let Some(total) = self.feed.total()
            && let Err(error) = self.done.borrow().check_end(total)
        {
            self.broken.get_or_insert(error.into());
        }
    }

    /// Rows that wait between attempts make room for others of their lanes.
    fn rested(&mut self) {
        let rows = self.lanes.borrow_mut().rested();
        for row in rows {
            self.leave(&row);
        }
    }

    /// A row waits for something else than a start in its lane of the feed.
    fn leave(&mut self, row: &RowState) {
        let most = self.run.options.lookahead / AWAY;
        let away = self.away.entry(row.lane).or_default();
        if !row.is_away.get() && *away < most {
            *away += 1;
            row.is_away.set(true);
            self.feed.done(row.lane);
        }
    }

    /// A row has ended.
    fn ended(&mut self, row: &RowState) {
        if !row.is_away.replace(true) {
            self.feed.done(row.lane);
        } else if let Some(away) = self.away.get_mut(&row.lane) {
            *away -= 1;
        }
    }

    /// Counts what the feed has handed out, and returns it if it is a good row.
    fn take(&mut self, fed: Fed) -> Option<(Numbered, LaneId)> {
        match fed {
            Fed::Row { row, number, lane } => {
                self.last_line = self.last_line.max(row.line());
                self.run.account.taken += 1;
                let row = row.into();
                let row = Numbered {
                    row,
                    number,
                    job_id: None,
                };
                Some((row, lane))
            }
            Fed::Bad(bad) => {
                self.last_line = self.last_line.max(bad.line());
                self.run.account.bad += 1;
                self.report_bad(&bad);
                None
            }
        }
    }

    fn fed(&mut self, fed: Fed) {
        let Some((row, lane)) = self.take(fed) else {
            return;
        };
        self.outputs.expect(row.number);
        let state = Rc::new(RowState::new(lane, Instant::now()));
        match self.work.job(&row) {
            Ok(job) => self.submit(Flight { row, state }, job),
            Err(answer) => {
                self.lanes.borrow_mut().count(true);
                self.answer(&Flight { row, state }, &answer);
            }
        }
    }

    fn report_bad(&mut self, bad: &brigade::csv::BadRow) {
        if let Err(stop) = self.outputs.reject(bad) {
            return self.stop(stop);
        }
        let reading = &self.run.options.reading;
        if reading.reports(self.run.account.bad) {
            self.run.account.bad_reported += 1;
            self.run.screen.message(bad);
        }
        if reading.on_bad_row == OnBadRow::Stop {
            self.stop(Stop::BadRow);
        }
    }

    fn submit(&mut self, flight: Flight, job: W::Job) {
        let lane = self.work.lane_of(&job);
        let mut lanes = self.lanes.borrow_mut();
        if lanes.limits().own_name(&lane).is_some() && self.limited.insert(Lane::clone(&lane)) {
            lanes.apply(&lane);
        }
        lanes.wait(&lane);
        drop(lanes);
        flight.state.times.begin_job();
        let task = Task {
            job,
            lane: Lane::clone(&lane),
            row: Rc::clone(&flight.state),
        };
        match self.group.try_submit(task) {
            Ok(()) => {
                self.flights.insert(self.submitted, flight);
                self.submitted += 1;
            }
            Err(error) => {
                // The pool has room for as many as the loop takes, and is closed by it alone.
                self.lanes.borrow_mut().leave(&lane);
                self.not_started(&flight);
                self.stop(Stop::Output(format!("the pool takes no job: {error}")));
            }
        }
    }

    fn completed(&mut self, completion: Completion<Task<W::Job>, Next<W::Job>, Failed>) {
        let Some(flight) = self.flights.remove(&completion.index) else {
            return;
        };
        // A row whose host is given up is not asked for.
        let is_asked = !matches!(&completion.result, Err(JobError::Failed(failed))
            if failed.failure.answer.is_of("host_down"));
        if is_asked {
            flight.state.times.add_attempts(completion.attempts);
        }
        let answer = match completion.result {
            Ok(Next::Answer(answer)) => answer,
            Ok(Next::Hop(job)) if self.stop.is_none() => {
                if self.work.lane_of(&job) != *self.feed.lane(flight.state.lane) {
                    self.leave(&flight.state);
                }
                self.submit(flight, job);
                return;
            }
            // The row is not started again, and is no answer.
            Ok(Next::Hop(_)) => return self.not_started(&flight),
            Err(JobError::Failed(failed)) => failed.failure.answer,
            Err(JobError::Panicked(panic)) => error(
                &self.columns,
                "protocol",
                format!("a fault of this program: {panic}"),
            ),
            Err(_) if flight.state.times.state() == State::Cut => {
                let kind = self.is_cut.unwrap_or("interrupted");
                error(&self.columns, kind, "cut short while it ran".to_owned())
            }
            Err(_) => return self.not_started(&flight),
        };
        self.answer(&flight, &answer);
    }

    fn answer(&mut self, flight: &Flight, answer: &Answer) {
        let record = Record {
            row: &flight.row,
            answer,
            times: &flight.state.times,
            has_backoff: self.columns.has_backoff,
        };
        self.ended(&flight.state);
        if let Err(stop) = self.outputs.write(&record) {
            self.outputs.not_started(&flight.row);
            self.stop(stop);
            return;
        }
        let account = &mut self.run.account;
        account.answered(answer.error.as_ref().map(|error| error.kind));
        if self.stop.is_none() && self.lanes.borrow().has_failed_enough() {
            self.stop(Stop::Failures);
        }
    }

    fn not_started(&mut self, flight: &Flight) {
        self.ended(&flight.state);
        self.outputs.not_started(&flight.row);
    }

    // ---- time ----

    fn tick(&mut self, now: Instant) {
        if self.outputs.flush_at().is_some_and(|at| at <= now)
            && let Err(stop) = self.outputs.flush()
        {
            self.stop(stop);
        }
        let lanes = self.lanes.borrow();
        let causes = lanes.causes(now);
        let rest = if self.has_ended {
            Cause::End
        } else {
            Cause::Input
        };
        self.shares.note(now, lanes.running(), &causes, rest);
        let snapshot = Snapshot {
            account: &self.run.account,
            running: lanes.running(),
            in_work: self.flights.len() as u64,
            busy: self.plan.busy,
            causes: &causes,
            redelivered: 0,
        };
        self.run.screen.show(&snapshot, now);
        drop(lanes);
        if self.feed.waits_for_lookahead() && !self.has_told_lookahead {
            self.has_told_lookahead = true;
            self.run.screen.message(format_args!(
                "{} rows wait for their hosts, and no more are read before one of them starts: \
                 --lookahead limits this run",
                self.run.options.lookahead
            ));
        }
    }

    // ---- the end ----

    /// Starts nothing more. The first reason counts, unless a later one is about the outputs.
    fn stop(&mut self, stop: Stop) {
        if stop.is_told_at_once()
            && let Some(message) = stop.message()
        {
            self.run.screen.message(message);
        }
        self.pool.pause();
        let is_immediate = stop.is_immediate();
        let kind = if matches!(stop, Stop::Deadline) {
            "deadline"
        } else {
            "interrupted"
        };
        if self
            .stop
            .as_ref()
            .is_none_or(|first| stop.is_of_output() && !first.is_of_output())
        {
            self.stop = Some(stop);
        }
        if is_immediate {
            self.cut_as(kind);
        }
    }

    /// A second signal: what runs is cut short.
    fn cut(&mut self, signal: Signal) {
        if self.is_cut.is_none() {
            self.run
                .screen
                .message(format_args!("{signal} again: cutting short what runs"));
        }
        self.cut_as("interrupted");
    }

    fn cut_as(&mut self, kind: &'static str) {
        self.is_cut.get_or_insert(kind);
        if !self.work.cut(kind) {
            self.group.cancel();
        }
    }

    async fn end(&mut self) -> Result<(), Stop> {
        // What waits is cancelled, and what was cut short has its outcome now.
        self.group.cancel();
        while let Some(completion) = self.group.next().await {
            self.completed(completion);
        }
        let now = Instant::now();
        self.tick(now);
        if self.stop.is_some() && !self.has_ended {
            self.rest().await;
        }
        let end = self.outputs.finish();
        // A closed stdout ends the run quietly.
        let is_told = |stop: &Stop| !stop.is_broken_pipe();
        if self.stop.as_ref().is_some_and(is_told) && self.feed.total().is_none() {
            let file = self.run.options.file_name();
            let line = self.last_line;
            self.run.screen.message(format_args!(
                "{file}: rows after line {line} were not read, and are in no count and no file"
            ));
        }
        self.tell_bad();
        match (self.stop.take().or_else(|| self.broken.take()), end) {
            (Some(stop), _) if stop.is_of_output() => Err(stop),
            (_, Err(stop)) | (Some(stop), Ok(())) => Err(stop),
            (None, Ok(())) => Ok(()),
        }
    }

    /// Says how many bad rows there were beyond those that were reported.
    fn tell_bad(&self) {
        let Account {
            bad, bad_reported, ..
        } = self.run.account;
        let options = self.run.options;
        let rest = options.reading.rest(options.file_name(), bad, bad_reported);
        if let Some(rest) = rest {
            self.run.screen.message(rest);
        }
    }

    /// Passes the rows that were read and not taken to the outputs. Those that a pipe still has
    /// stay in it.
    async fn rest(&mut self) {
        if self.feed.total().is_some() && !self.outputs.wants_not_started() {
            return;
        }
        let is_whole = self.feed.total().is_some();
        let mut left: u64 = self.feed.lanes().map(|(_, left)| left).sum();
        while (is_whole || left > 0)
            && let Some(Ok(fed)) = self.feed.next().await
        {
            if let Some((row, lane)) = self.take(fed) {
                left = left.saturating_sub(1);
                self.feed.done(lane);
                self.outputs.not_started(&row);
            }
        }
    }

    /// The entry of this run in the sidecar.
    pub(super) fn entry(&self, started_at: SystemTime, end: &Result<(), Stop>) -> RunEntry {
        let lanes = self.lanes.borrow();
        let (pauses, left_out) = lanes.pauses();
        let account = &self.run.account;
        let ended_at = SystemTime::now();
        let at = |instant: Instant| {
            let ago = Instant::now().duration_since(instant);
            ended_at.checked_sub(ago).unwrap_or(started_at)
        };
        RunEntry {
            command: self.plan.name.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: timestamp(started_at),
            ended_at: timestamp(ended_at),
            ended: end.as_ref().err().map_or("complete", Stop::name).to_owned(),
            settings: self.plan.settings.clone(),
            workers: self.plan.workers as u64,
            rows: account.rows(),
            bad: account.bad,
            ok: account.ok,
            failed: account.failed,
            not_started: account.not_started(),
            cause_seconds: self
                .shares
                .seconds(self.plan.busy, self.work.connect_seconds()),
            pauses: pauses
                .iter()
                .map(|pause| sidecar::Pause {
                    host: pause.lane.to_string(),
                    at: timestamp(at(pause.at)),
                    seconds: pause.time.as_secs_f64(),
                    cause: Cause::RetryAfter.name().to_owned(),
                })
                .collect(),
            pauses_left_out: left_out as u64,
        }
    }
}

/// An answer of a row whose own cells are not known.
fn error(columns: &Columns, kind: &'static str, message: String) -> Answer {
    Answer {
        before: vec![Vec::new(); columns.before.len()],
        after: vec![Vec::new(); columns.after.len()],
        error: Some(RowError { kind, message }),
    }
}
