//! The frame of `fetch` and `run`: rows come in, each becomes jobs of one pool, answers go out.
//!
//! [`run`] opens the input and the answers; [`Session::run`] is the loop: it hands rows of the
//! [`Feed`] to the pool, writes what comes back, and stops when a [`Stop`] says so.

pub(crate) mod account;
pub(crate) mod lanes;
pub(crate) mod outputs;
mod plan;
pub(crate) mod pool;
pub(crate) mod screen;
mod session;
mod shares;
pub(crate) mod stop;
pub(crate) mod times;
pub(crate) mod work;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use brigade::csv::{Column, Header, Row};
use smol::future;

use self::account::Account;
use self::lanes::SharedLanes;
use self::outputs::Outputs;
pub(crate) use self::plan::Plan;
use self::screen::{Screen, span};
use self::session::{Run, Session};
use self::shares::Shares;
use self::stop::Stop;
use self::work::{Columns, Lane, Work};
use crate::answers::{self, Answers, Done, Resume};
use crate::feed::{Feed, Input, Keep, Order};
use crate::options::values::Rate;
use crate::options::{Common, ResumeWhat};
use crate::report::{self, sidecar};
use crate::signals::Signals;

/// A price from this time on is told before it is paid.
const TOLD_PRICE: Duration = Duration::from_secs(30);

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

impl Run<'_> {
    async fn run<W: Work>(
        &mut self,
        prepare: impl FnOnce(&Header) -> Result<(W, Plan), Stop>,
        lanes_of: impl FnOnce(&W) -> SharedLanes,
    ) -> Result<(), Stop> {
        let options = self.options;
        let mut signals = Signals::new()
            .map_err(|error| Stop::Usage(format!("cannot catch signals: {error}")))?;
        let input = until_signal(&mut signals, async {
            Ok(Input::open(feed_settings(options)).await?)
        })
        .await?;
        let header = input.header().clone();
        let (work, plan) = prepare(&header)?;
        let columns = named(options, &header, &work.columns())?;
        let lanes = lanes_of(&work);

        Outputs::check(options)?;
        let (answers, done) = Answers::open(answers::Settings {
            path: options.output.clone(),
            resume: options.resume.map(|what| match what {
                ResumeWhat::Missing => Resume::Missing,
                ResumeWhat::Failed => Resume::Failed,
            }),
            durable: options.durable,
            spreadsheet: options.spreadsheet,
            delimiter: options.reading.delimiter,
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
        self.tell_unknown(&feed, &lanes);
        outputs.begin(answers);

        let (pool, workers) = pool::build(Rc::clone(&work), Rc::clone(&lanes), &plan, options);
        lanes
            .borrow_mut()
            .attach(&pool, plan.retries, options.max_failures);
        let mut session = Session {
            run: self,
            columns: work.columns(),
            work,
            lanes: Rc::clone(&lanes),
            plan: &plan,
            feed,
            has_ended: false,
            group: pool.group(),
            pool,
            submitted: 0,
            limited: HashSet::new(),
            flights: HashMap::new(),
            away: HashMap::new(),
            done,
            outputs,
            signals,
            stop: None,
            broken: None,
            last_line: header.line(),
            is_cut: None,
            shares: Shares::new(plan.workers, Instant::now()),
            has_told_lookahead: false,
        };
        let started_at = SystemTime::now();
        let end = workers.drive(session.run()).await;
        lanes.borrow_mut().detach();
        let entry = session.entry(started_at, &end);
        drop(session);
        // A device has no sidecar.
        if let Some(path) = options.output.as_ref().filter(|path| path.is_file())
            && let Err(error) = sidecar::append(&sidecar::path_of(path), entry)
        {
            self.screen.message(error);
        }
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
            delimiter: self.options.reading.delimiter,
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

    /// Says which limits of single hosts apply to none.
    fn tell_unknown(&self, feed: &Feed<'_, Stop>, lanes: &SharedLanes) {
        let lanes = lanes.borrow();
        let limits = lanes.limits();
        if limits.own.is_empty() || feed.total().is_none() {
            return;
        }
        let known: HashSet<&str> = feed
            .lanes()
            .filter_map(|(lane, _)| limits.own_name(lane))
            .collect();
        let is_unknown = |name: &&String| !known.contains(name.as_str());
        for name in limits.own.keys().filter(is_unknown) {
            self.screen.message(format_args!(
                "--host {name}: no row has this host; it counts for redirects alone"
            ));
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
            let Some(rate) = lanes.limits().of(lane).rate else {
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
                if !stop.is_told_at_once()
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
        reader: options.reading.reader(),
        order,
        lookahead: options.lookahead,
    }
}

/// The names of the columns that are added; none may be one of the input's.
pub(crate) fn named(
    options: &Common,
    header: &Header,
    columns: &Columns,
) -> Result<Vec<String>, Stop> {
    let names: Vec<String> = columns
        .names()
        .into_iter()
        .map(|name| format!("{}{name}", options.prefix))
        .collect();
    if let Some(name) = names
        .iter()
        .find(|name| header.iter().any(|column| column == name.as_str()))
    {
        return Err(taken(options, name));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str())) {
        return Err(Stop::Usage(format!("two columns are called {twice:?}")));
    }
    Ok(names)
}

/// Says that the input has the name of a column that is added.
pub(crate) fn taken(options: &Common, name: &str) -> Stop {
    Stop::Usage(format!(
        "{}: the input has a column {name:?}, which the answers need; \
         choose other names with --prefix, such as --prefix fetch_",
        options.file_name()
    ))
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
