//! The frame of `fetch` and `run`: rows come in, each becomes jobs of one pool, answers go out.
//!
//! [`run`] opens the input and the answers; [`Session::run`] is the loop: it hands rows of the
//! [`Feed`] to the pool, writes what comes back, and stops when a [`Stop`] says so.

mod account;
pub(crate) mod lanes;
mod outputs;
mod pool;
mod screen;
mod shares;
pub(crate) mod stop;
mod times;
pub(crate) mod work;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use brigade::csv::{Column, Header, Row};
use brigade::{Completion, Group, JobError, Pool};
use smol::{Timer, future};

use self::account::Account;
use self::lanes::{Cause, LaneLimits, SharedLanes};
use self::outputs::{Outputs, Record};
use self::pool::{Failed, RowState, Task};
use self::screen::{Screen, Snapshot, TICK, span};
use self::shares::Shares;
use self::stop::Stop;
use self::times::State;
use self::work::{Answer, Lane, Next, Numbered, RowError, Work};
use crate::answers::{self, Answers, Done, Resume};
use crate::feed::{Fed, Feed, FeedError, Input, Keep, LaneId, Order};
use crate::options::values::Rate;
use crate::options::{Common, OnBadRow, ResumeWhat};
use crate::report::{
    self,
    sidecar::{self, RunEntry},
};
use crate::signals::{Signal, Signals};

/// A price from this time on is told before it is paid.
const TOLD_PRICE: Duration = Duration::from_secs(30);
/// How many bad rows are reported one by one.
const MAX_REPORTED: u64 = 20;

/// What `fetch` and `run` set apart from the common options.
pub(crate) struct Plan {
    /// The name of the command.
    pub(crate) name: &'static str,
    /// What its jobs wait for while they run.
    pub(crate) busy: &'static str,
    pub(crate) workers: usize,
    pub(crate) retries: u32,
    /// The limits of all lanes but those of `own_limits`; `None` if rows have no lanes.
    pub(crate) limits: Option<LaneLimits>,
    /// Lanes with limits of their own, by what `host_of` returns for a lane.
    pub(crate) own_limits: HashMap<String, LaneLimits>,
    pub(crate) host_of: fn(&str) -> &str,
    /// How a higher limit of a lane is set, for the message that tells the price.
    pub(crate) rate_option: &'static str,
    /// What may be repeated on resume, if that may do harm.
    pub(crate) repeats: Option<String>,
    /// The settings, as they are written into the sidecar.
    pub(crate) settings: Vec<(String, String)>,
}

/// The column that is named, or the one called `usual`, or the only one.
pub(crate) fn column(
    header: &Header,
    name: Option<&str>,
    usual: Option<&str>,
) -> Result<Option<Column>, Stop> {
    if let Some(name) = name {
        return Ok(Some(header.column(name)?));
    }
    let is_there = |name: &&str| header.iter().any(|column| column == *name);
    if let Some(usual) = usual.filter(is_there) {
        return Ok(Some(header.column(usual)?));
    }
    match header.get(0) {
        Some(only) if header.column_count() == 1 => Ok(Some(header.column(only)?)),
        _ => Ok(None),
    }
}

/// The names of the columns, for a message.
pub(crate) fn listed(header: &Header) -> String {
    const MOST: usize = 20;
    let names: Vec<&str> = header.iter().take(MOST).collect();
    let more = if header.column_count() > MOST {
        ", …"
    } else {
        ""
    };
    format!("{}{more}", names.join(", "))
}

/// Runs the command and returns its exit code; everything else is said on stderr.
///
/// `prepare` makes the work and the plan when the header is known.
pub(crate) fn run<W: Work>(
    options: &Common,
    prepare: impl FnOnce(&Header) -> Result<(W, Plan), Stop>,
    lanes_of: impl FnOnce(&W) -> SharedLanes,
) -> u8 {
    let screen = Screen::new(options.progress, options.progress_interval, Instant::now());
    let mut run = Run {
        options,
        screen,
        account: Account::default(),
    };
    let end = smol::block_on(run.run(prepare, lanes_of));
    run.finish(end)
}

/// What outlives the session.
struct Run<'a> {
    options: &'a Common,
    screen: Screen,
    account: Account,
}

impl Run<'_> {
    async fn run<W: Work>(
        &mut self,
        prepare: impl FnOnce(&Header) -> Result<(W, Plan), Stop>,
        lanes_of: impl FnOnce(&W) -> SharedLanes,
    ) -> Result<(), Stop> {
        let options = self.options;
        let started_at = SystemTime::now();
        let mut signals = Signals::new()
            .map_err(|error| Stop::Usage(format!("cannot catch signals: {error}")))?;
        let input = until_signal(&mut signals, async {
            Ok(Input::open(feed_settings(options)).await?)
        })
        .await?;
        let header = input.header().clone();
        let (work, plan) = prepare(&header)?;
        let columns = named(options, &header, &work)?;
        let lanes = lanes_of(&work);

        let (answers, done) = Answers::open(answers::Settings {
            path: options.output.clone(),
            resume: options.resume.map(|what| match what {
                ResumeWhat::Missing => Resume::Missing,
                ResumeWhat::Failed => Resume::Failed,
            }),
            durable: options.durable,
            spreadsheet: options.spreadsheet,
            delimiter: options.delimiter,
            input_header: header.iter().map(str::to_owned).collect(),
            columns,
            prefix: options.prefix.clone(),
        })?;
        let mut outputs = Outputs::open(options, &header)?;
        self.resumed(&done, &plan);

        let done = Rc::new(std::cell::RefCell::new(done));
        let check = {
            let done = Rc::clone(&done);
            move |row: &Row| checked(&mut done.borrow_mut(), row)
        };
        let work = Rc::new(work);
        let lane_of = {
            let work = Rc::clone(&work);
            move |row: &Row| work.lane(row)
        };
        let quota = {
            let lanes = Rc::clone(&lanes);
            move |lane: &str| lanes.borrow().quota(lane)
        };
        let feed = until_signal(&mut signals, async {
            Ok(input.into_feed(lane_of, check, quota).await?)
        })
        .await?;
        if let Some(total) = feed.total() {
            self.account.total = Some(total);
            done.borrow().check_end(total)?;
        }
        self.tell_price(&feed, &plan, &lanes);
        outputs.begin(answers);

        let (pool, workers) = pool::build(Rc::clone(&work), Rc::clone(&lanes), &plan, options);
        lanes
            .borrow_mut()
            .attach(&pool, plan.retries, options.max_failures);
        let group = pool.group();
        let mut session = Session {
            run: self,
            work,
            lanes: Rc::clone(&lanes),
            plan: &plan,
            feed,
            has_ended: false,
            pool,
            group,
            submitted: 0,
            limited: HashSet::new(),
            flights: HashMap::new(),
            outputs,
            signals,
            stop: None,
            broken: None,
            last_line: header.line(),
            is_cut: None,
            shares: Shares::new(plan.workers, Instant::now()),
            has_told_lookahead: false,
        };
        let end = workers.drive(session.run()).await;
        lanes.borrow_mut().detach();
        let entry = session.entry(started_at, &end);
        if let Some(path) = &options.output
            && let Err(error) = sidecar::append(&sidecar::path_of(path), entry)
        {
            session.run.screen.message(error);
        }
        drop(session);
        self.report()?;
        end
    }

    /// Writes the report and the trace that were asked for.
    fn report(&self) -> Result<(), Stop> {
        let Some(answers) = &self.options.output else {
            return Ok(());
        };
        let settings = report::Settings {
            answers: answers.clone(),
            sidecar: None,
            delimiter: self.options.delimiter,
            prefix: Some(self.options.prefix.clone()),
            title: None,
        };
        if let Some(path) = &self.options.report {
            report::command::page(&settings, path)?;
        }
        if let Some(path) = &self.options.trace {
            report::command::trace(&settings, path)?;
        }
        Ok(())
    }

    /// Says what a run that goes on has found.
    fn resumed(&mut self, done: &Done, plan: &Plan) {
        self.account.ok = done.len() - done.failed();
        self.account.failed = done.failed();
        self.account.taken = done.len();
        if self.options.resume.is_none() || (done.len() == 0 && done.taken_out() == 0) {
            return;
        }
        let mut message = format!("{} rows are done already", done.len());
        if done.taken_out() > 0 {
            message.push_str(&format!(", {} that failed run again", done.taken_out()));
        }
        if done.torn_bytes() > 0 {
            message.push_str(&format!(
                "; the last record was torn: {} bytes are cut off",
                done.torn_bytes()
            ));
        }
        self.screen.message(message);
        if let Some(repeats) = &plan.repeats {
            self.screen.message(repeats);
        }
    }

    /// Says how long the limits make the run, if that is long.
    fn tell_price(&self, feed: &Feed<'_, Stop>, plan: &Plan, lanes: &SharedLanes) {
        let lanes = lanes.borrow();
        let (mut rows, mut count) = (0, 0);
        let mut longest: Option<(Duration, &Lane, Rate)> = None;
        for (lane, left) in feed.lanes().filter(|(_, left)| *left > 0) {
            rows += left;
            count += 1;
            let Some(rate) = lanes.limits_of(lane).rate else {
                continue;
            };
            let time = Duration::from_secs_f64((left as f64 / rate.per_second()).min(1e9));
            if longest.is_none_or(|(most, ..)| time > most) {
                longest = Some((time, lane, rate));
            }
        }
        let total = self.options.rate.map(|rate| {
            let seconds = (rows as f64 / rate.per_second()).min(1e9);
            (Duration::from_secs_f64(seconds), rate)
        });
        let hosts = if count == 1 { "host" } else { "hosts" };
        match (longest, total) {
            (_, Some((time, rate)))
                if time >= TOLD_PRICE && longest.is_none_or(|(most, ..)| time >= most) =>
            {
                self.screen.message(format_args!(
                    "{rows} rows: at --rate {rate} this takes {}",
                    span(time)
                ));
            }
            (Some((time, lane, rate)), _) if time >= TOLD_PRICE => {
                let of = if count == 1 {
                    String::new()
                } else {
                    format!(" for {lane}")
                };
                self.screen.message(format_args!(
                    "{rows} rows, {count} {hosts}: at {rate}{of} this takes {}; {} if you may",
                    span(time),
                    plan.rate_option
                ));
            }
            _ => {}
        }
    }

    /// Says why the run ended and what it did, and returns the exit code.
    fn finish(&mut self, end: Result<(), Stop>) -> u8 {
        self.screen.finish();
        let code = match &end {
            Ok(()) => self.account.exit_code(),
            Err(stop) => {
                if !matches!(stop, Stop::Interrupted(_) | Stop::Failures | Stop::Deadline)
                    && let Some(message) = stop.message()
                {
                    self.screen.message(message);
                }
                stop.exit_code()
            }
        };
        if let Some(kinds) = self.account.listed() {
            self.screen.message(format_args!("failed: {kinds}"));
        }
        self.screen.message(&self.account);
        code
    }
}

/// Ends the wait for a slow input when a signal comes.
async fn until_signal<T>(
    signals: &mut Signals,
    work: impl Future<Output = Result<T, Stop>>,
) -> Result<T, Stop> {
    future::or(async { Err(signals.next().await.into()) }, work).await
}

fn feed_settings(options: &Common) -> crate::feed::Settings {
    let order = match (options.ordered, options.spread) {
        (true, _) => Order::Input,
        (false, Some(false)) => Order::Window,
        (false, _) => Order::Spread,
    };
    crate::feed::Settings {
        path: (!options.is_stdin()).then(|| options.file.clone()),
        reader: brigade::csv::Reader::new()
            .delimiter(options.delimiter)
            .max_record_bytes(options.max_record_bytes),
        order,
        lookahead: options.lookahead,
    }
}

/// The names of the columns that are added; none may be one of the input's.
fn named(options: &Common, header: &Header, work: &impl Work) -> Result<Vec<String>, Stop> {
    let names: Vec<String> = work
        .columns()
        .names()
        .into_iter()
        .map(|name| format!("{}{name}", options.prefix))
        .collect();
    if let Some(taken) = names
        .iter()
        .find(|name| header.iter().any(|column| column == name.as_str()))
    {
        return Err(Stop::Usage(format!(
            "{}: the input has a column {taken:?}, which the answers need; \
             choose other names with --prefix, such as --prefix fetch_",
            options.file_name()
        )));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str())) {
        return Err(Stop::Usage(format!("two columns are called {twice:?}")));
    }
    Ok(names)
}

/// Compares a row with its answer, if it has one.
fn checked(done: &mut Done, row: &Row) -> Result<Keep, Stop> {
    let number = row.record_number();
    if !done.contains(number) {
        return Ok(Keep::Take);
    }
    done.check(number, row.line(), row.record().iter())?;
    Ok(Keep::Skip)
}

/// A row on its way.
struct Flight {
    row: Numbered,
    lane: LaneId,
    state: Rc<RowState>,
}

struct Session<'a, 'r, W: Work> {
    run: &'r mut Run<'a>,
    work: Rc<W>,
    lanes: SharedLanes,
    plan: &'r Plan,
    feed: Feed<'r, Stop>,
    /// Whether the feed has ended.
    has_ended: bool,
    pool: Pool<Task<W::Job>, Next<W::Job>, Failed>,
    group: Group<Task<W::Job>, Next<W::Job>, Failed>,
    /// How many jobs were submitted: the index of the next one.
    submitted: usize,
    /// The lanes whose own limits the pool knows.
    limited: HashSet<Lane>,
    /// The rows of jobs without an outcome, by the index of the job.
    flights: HashMap<usize, Flight>,
    outputs: Outputs,
    signals: Signals,
    stop: Option<Stop>,
    /// Why the input has ended early.
    broken: Option<Stop>,
    /// The line at which the last row starts that was read; before the first one, the header.
    last_line: u64,
    /// The kind of the rows that are cut short.
    is_cut: Option<&'static str>,
    shares: Shares,
    has_told_lookahead: bool,
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
    async fn run(&mut self) -> Result<(), Stop> {
        let start = Instant::now();
        let deadline = self
            .run
            .options
            .deadline
            .and_then(|time| start.checked_add(time));
        let mut next_tick = start + TICK;
        let mut ticker = Timer::at(next_tick);
        loop {
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
                Event::Fed(None) => {
                    self.has_ended = true;
                    self.run.account.total = self.feed.total();
                }
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
        let ends = future::or(signal, future::or(completed, idle));
        future::or(ends, future::or(fed, tick)).await
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

    fn fed(&mut self, fed: Fed) {
        let (row, number, lane) = match fed {
            Fed::Row { row, number, lane } => {
                self.last_line = self.last_line.max(row.line());
                (row, number, lane)
            }
            Fed::Bad(bad) => {
                self.last_line = self.last_line.max(bad.line());
                self.run.account.bad += 1;
                self.report_bad(&bad);
                return;
            }
        };
        self.run.account.taken += 1;
        let row = Numbered {
            row: row.into(),
            number,
        };
        self.outputs.expect(number);
        let state = Rc::new(RowState::new(Rc::clone(&self.lanes), Instant::now()));
        match self.work.job(&row) {
            Ok(job) => self.submit(Flight { row, lane, state }, job),
            Err(answer) => {
                self.lanes.borrow_mut().count(true);
                self.answer(&Flight { row, lane, state }, &answer);
            }
        }
    }

    fn report_bad(&mut self, bad: &brigade::csv::BadRow) {
        let policy = self.run.options.on_bad_row;
        let has_file = match self.outputs.reject(bad) {
            Ok(has_file) => has_file,
            Err(stop) => return self.stop(stop),
        };
        let count = self.run.account.bad;
        let is_told = match policy {
            OnBadRow::Stop => true,
            OnBadRow::Continue => !has_file && count <= MAX_REPORTED,
            OnBadRow::Skip => false,
        };
        if is_told {
            self.run.account.bad_reported += 1;
            self.run.screen.message(bad);
        }
        if policy == OnBadRow::Stop {
            self.stop(Stop::BadRow);
        }
    }

    fn submit(&mut self, flight: Flight, job: W::Job) {
        let lane = self.work.lane_of(&job);
        let own = &self.plan.own_limits;
        if !own.is_empty()
            && own.contains_key((self.plan.host_of)(&lane))
            && self.limited.insert(Lane::clone(&lane))
        {
            self.lanes.borrow_mut().set(&lane);
        }
        self.lanes.borrow_mut().wait(&lane);
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
                self.submit(flight, job);
                return;
            }
            // The row is not started again, and is no answer.
            Ok(Next::Hop(_)) => return self.not_started(&flight),
            Err(JobError::Failed(failed)) => failed.failure.answer,
            Err(JobError::Panicked(panic)) => error(
                self.work.columns(),
                "protocol",
                format!("a fault of this program: {panic}"),
            ),
            Err(_) if flight.state.times.state() == State::Cut => {
                let kind = self.is_cut.unwrap_or("interrupted");
                error(
                    self.work.columns(),
                    kind,
                    "cut short while it ran".to_owned(),
                )
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
            has_backoff: self.work.columns().has_backoff,
        };
        self.feed.done(flight.lane);
        if let Err(stop) = self.outputs.write(&record) {
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
        self.feed.done(flight.lane);
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
        let mut causes = lanes.causes(now);
        let idle = match causes.list.first() {
            Some(waiting) => waiting.cause,
            None if self.has_ended => Cause::End,
            None => Cause::Input,
        };
        causes.list.retain(|waiting| waiting.jobs > 0);
        self.shares.note(now, lanes.running(), idle);
        let snapshot = Snapshot {
            account: &self.run.account,
            running: lanes.running(),
            in_work: self.flights.len() as u64,
            causes: &causes,
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
        if let Stop::Interrupted(_) | Stop::Failures | Stop::Deadline = &stop
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
        let is_of_output = |stop: &Stop| matches!(stop, Stop::Answers(_) | Stop::Output(_));
        let is_first = self.stop.is_none();
        if is_first || is_of_output(&stop) && !self.stop.as_ref().is_some_and(is_of_output) {
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
        self.tell_bad();
        match (self.stop.take().or_else(|| self.broken.take()), end) {
            (Some(stop @ (Stop::Answers(_) | Stop::Output(_))), _) => Err(stop),
            (_, Err(stop)) | (Some(stop), Ok(())) => Err(stop),
            (None, Ok(())) => Ok(()),
        }
    }

    /// Says how many bad rows there were beyond those that were reported.
    fn tell_bad(&self) {
        let Account {
            bad, bad_reported, ..
        } = self.run.account;
        let file = self.run.options.file_name();
        match &self.run.options.rejects {
            _ if bad == bad_reported => {}
            Some(path) => self.run.screen.message(format_args!(
                "{file}: bad rows: {bad}, written to {}",
                path.display()
            )),
            None if bad_reported == 0 => {
                self.run
                    .screen
                    .message(format_args!("{file}: bad rows: {bad}"));
            }
            None => self.run.screen.message(format_args!(
                "{file}: and {} more bad rows",
                bad - bad_reported
            )),
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
            match fed {
                Fed::Row { row, number, lane } => {
                    left = left.saturating_sub(1);
                    self.run.account.taken += 1;
                    self.feed.done(lane);
                    let row = Numbered {
                        row: row.into(),
                        number,
                    };
                    self.outputs.not_started(&row);
                }
                Fed::Bad(bad) => {
                    self.run.account.bad += 1;
                    self.report_bad(&bad);
                }
            }
        }
    }

    /// The entry of this run in the sidecar.
    fn entry(&self, started_at: SystemTime, end: &Result<(), Stop>) -> RunEntry {
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

/// RFC 3339, in UTC, with milliseconds.
pub(crate) fn timestamp(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// An answer of a row whose own cells are not known.
pub(crate) fn error(columns: work::Columns, kind: &'static str, message: String) -> Answer {
    Answer {
        before: vec![Vec::new(); columns.before.len()],
        after: vec![Vec::new(); columns.after.len()],
        error: Some(RowError { kind, message }),
    }
}
