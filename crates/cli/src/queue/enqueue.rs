//! `brigade enqueue`: the rows of a file come in, and each becomes a job of the queue.
//!
//! Rows are read on a thread that may wait, a batch at a time, and the next batch is read once the
//! last one is durable. A file that is enqueued again gives the same ids.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::BufWriter;
use std::path::Path;

use brigade::broker::{Broker, NewJob};
use brigade::csv::{BadRow, Column, CsvError, Header, RejectsWriter, Row, RowError, Writer};
use sha2::{Digest, Sha256};
use smol::{Timer, future};

use super::address::{self, Address, Missing, pause, warn};
use super::payload::Payload;
use crate::file_id::FileId;
use crate::frame::stop::Stop;
use crate::options::OnBadRow;
use crate::options::queue::EnqueueOptions;
use crate::signals::{Signal, Signals};

/// A batch ends early at so many bytes of payloads.
const MAX_BATCH_BYTES: usize = 16 << 20;
/// How often a batch is tried, the first time included: for half a minute, in which a server may
/// start again.
const TRIES: u32 = 9;
/// The longest id: that of a message in AMQP.
const MAX_ID_BYTES: usize = 255;

/// Enqueues the rows, and returns the exit code.
pub(crate) fn run(options: &EnqueueOptions) -> u8 {
    let mut counts = Counts::default();
    let end = smol::block_on(enqueue(options, &mut counts));
    let code = match &end {
        Ok(()) => u8::from(counts.bad > 0),
        // Said when the signal came.
        Err(stop @ Stop::Interrupted(_)) => stop.exit_code(),
        Err(stop) => {
            if let Some(message) = stop.message() {
                warn(message);
            }
            stop.exit_code()
        }
    };
    warn(counts);
    code
}

/// What became of the rows that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    bad: u64,
    enqueued: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bad, enqueued } = self;
        write!(f, "rows={} bad={bad} enqueued={enqueued}", bad + enqueued)
    }
}

type Source = Box<dyn Iterator<Item = Result<Row, RowError>> + Send>;

async fn enqueue(options: &EnqueueOptions, counts: &mut Counts) -> Result<(), Stop> {
    let address = Address::parse(&options.queue, options.name.name.as_deref())?;
    let mut signals =
        Signals::new().map_err(|error| Stop::Usage(format!("cannot catch signals: {error}")))?;
    let opened = open_file(options);
    let (header, rows) = future::or(interrupted(&mut signals), opened).await?;
    let id = match &options.id {
        Some(name) => Some(header.column(name)?),
        None => None,
    };
    check_rejects(options, &address)?;
    let opening = address.open(Missing::Create, None);
    let broker = future::or(interrupted(&mut signals), opening).await?;
    let rejects = open_rejects(options, &address, &header)?;
    let mut batches = Batches {
        header: header.iter().map(str::to_owned).collect(),
        id,
        ids: HashMap::new(),
        rejects,
        options,
        reported: 0,
        last_row: 0,
    };
    let before = total(&broker).await;
    let end = match &broker {
        address::Broker::Sqlite(broker) => {
            let to = To {
                broker,
                address: &address,
            };
            batches.run(rows, &to, &mut signals, counts).await
        }
        address::Broker::Amqp(broker) => {
            let to = To {
                broker,
                address: &address,
            };
            batches.run(rows, &to, &mut signals, counts).await
        }
    };
    batches.tell_bad(counts.bad);
    if let (Some(before), Some(after)) = (before, total(&broker).await) {
        let added = after.saturating_sub(before);
        if added < counts.enqueued {
            warn(format_args!(
                "{address}: {} of these jobs were there already by their ids, and were not added again",
                counts.enqueued - added
            ));
        }
    }
    let closed = match &broker {
        address::Broker::Sqlite(broker) => broker.close().await,
        address::Broker::Amqp(broker) => broker.close().await,
    };
    let finished = batches.finish();
    end?;
    finished?;
    // What was enqueued is durable already.
    closed.map_err(|error| Stop::Output(address.problem(&error)))
}

/// Waits for a signal that comes before the first job.
async fn interrupted<T>(signals: &mut Signals) -> Result<T, Stop> {
    let signal = signals.next().await;
    warn(format_args!("{signal}: nothing was enqueued"));
    Err(Stop::Interrupted(signal))
}

/// How many jobs the queue knows, where ids are known to it.
async fn total(broker: &address::Broker) -> Option<u64> {
    match broker {
        address::Broker::Sqlite(broker) => {
            let counts = broker.counts().await.ok()?;
            Some(counts.ready + counts.delayed + counts.leased + counts.done + counts.dead)
        }
        address::Broker::Amqp(_) => None,
    }
}

/// Opens the file and reads its header, on a thread that may wait.
async fn open_file(options: &EnqueueOptions) -> Result<(Header, Source), Stop> {
    let reader = options.reading.reader();
    let path = options.file.clone();
    let open = move || {
        if path.as_os_str() == "-" {
            let rows = reader.from_reader("stdin", std::io::stdin())?;
            return Ok((rows.header().clone(), Box::new(rows) as Source));
        }
        let rows = reader.open(&path)?;
        Ok((rows.header().clone(), Box::new(rows) as Source))
    };
    smol::unblock(open)
        .await
        .map_err(|error: CsvError| error.into())
}

struct Rejects<'a> {
    path: &'a Path,
    writer: RejectsWriter<BufWriter<File>>,
}

/// Refuses a file for the bad rows that is the input or belongs to the queue.
fn check_rejects(options: &EnqueueOptions, address: &Address) -> Result<(), Stop> {
    let Some(path) = options.reading.rejects.as_deref() else {
        return Ok(());
    };
    let input = if options.file.as_os_str() == "-" {
        FileId::of_stdin()
    } else {
        FileId::at(&options.file)
    };
    let what = if input.is_some() && FileId::at(path) == input {
        "the input"
    } else if address.has_file(path) {
        "the queue"
    } else {
        return Ok(());
    };
    Err(Stop::output(path, format_args!("--rejects is {what} too")))
}

/// Opens the file for the bad rows. The queue must be there: two paths may lead to the same file
/// only now.
fn open_rejects<'a>(
    options: &'a EnqueueOptions,
    address: &Address,
    header: &Header,
) -> Result<Option<Rejects<'a>>, Stop> {
    check_rejects(options, address)?;
    let Some(path) = options.reading.rejects.as_deref() else {
        return Ok(None);
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .map_err(|error| Stop::output(path, format_args!("cannot open for --rejects: {error}")))?;
    let writer = Writer::with_delimiter(BufWriter::new(file), options.reading.delimiter);
    let writer = RejectsWriter::new(writer, header).map_err(|error| Stop::write(path, &error))?;
    Ok(Some(Rejects { path, writer }))
}

/// Where jobs go.
struct To<'a, B> {
    broker: &'a B,
    address: &'a Address,
}

impl<B: Broker> To<'_, B> {
    /// Enqueues a batch; tries again where the queue cannot be reached, until a signal comes. Jobs
    /// keep their ids.
    async fn put(&self, jobs: Vec<NewJob>, signals: &mut Signals) -> Result<(), Unput> {
        for failures in 0.. {
            let Err(error) = self.broker.enqueue(jobs.clone()).await else {
                return Ok(());
            };
            let problem = self.address.problem(&error);
            if error.is_permanent() || failures + 1 >= TRIES {
                return Err(Unput::Problem(problem));
            }
            warn(format_args!("{problem}; trying again"));
            let pausing = async {
                Timer::after(pause(failures)).await;
                Ok(())
            };
            future::or(async { Err(Unput::Signal(signals.next().await)) }, pausing).await?;
        }
        unreachable!("the last try returns")
    }
}

/// Why a batch may not be in the queue.
enum Unput {
    Problem(String),
    Signal(Signal),
}

/// The rows of a file as batches of jobs.
struct Batches<'a> {
    header: Vec<String>,
    id: Option<Column>,
    /// The rows of the ids that rows have given, by a digest.
    ids: HashMap<[u8; 16], u64>,
    rejects: Option<Rejects<'a>>,
    options: &'a EnqueueOptions,
    /// How many bad rows were reported one by one.
    reported: u64,
    /// The number of the last row that was read.
    last_row: u64,
}

/// The rows that were read at once.
struct Batch {
    rows: Vec<Result<Row, Box<BadRow>>>,
    /// Whether the input has ended, and how.
    end: Option<Result<(), CsvError>>,
}

impl Batches<'_> {
    async fn run<B: Broker>(
        &mut self,
        mut source: Source,
        to: &To<'_, B>,
        signals: &mut Signals,
        counts: &mut Counts,
    ) -> Result<(), Stop> {
        let most = self.options.batch;
        loop {
            let reading = async {
                let read = smol::unblock(move || {
                    let read = read_batch(&mut source, most);
                    (source, read)
                });
                Ok(read.await)
            };
            let read = future::or(async { Err(signals.next().await) }, reading).await;
            let (rest, Batch { rows, end }) = read.map_err(|signal| {
                warn(format_args!(
                    "{signal}: the rows after row {} were not enqueued; enqueue the same file again",
                    self.last_row
                ));
                Stop::Interrupted(signal)
            })?;
            source = rest;
            let mut jobs = Vec::with_capacity(rows.len());
            let mut bad_row = false;
            for row in rows {
                match self.job(row) {
                    Ok(job) => jobs.push(job),
                    Err(bad) => {
                        counts.bad += 1;
                        self.report(bad, counts.bad)?;
                        bad_row = true;
                        if self.options.reading.on_bad_row == OnBadRow::Stop {
                            break;
                        }
                    }
                }
            }
            let count = jobs.len() as u64;
            if count > 0 {
                to.put(jobs, signals).await.map_err(|unput| {
                    let missing = format!(
                        "rows up to row {} may be missing in the queue, and all after it are; enqueue \
                         the same file again",
                        self.last_row
                    );
                    match unput {
                        Unput::Problem(problem) => Stop::Output(format!(
                            "{problem}\n{}: {missing}",
                            self.options.file.display()
                        )),
                        Unput::Signal(signal) => {
                            warn(format_args!("{signal}: {missing}"));
                            Stop::Interrupted(signal)
                        }
                    }
                })?;
                counts.enqueued += count;
            }
            if bad_row && self.options.reading.on_bad_row == OnBadRow::Stop {
                warn(format_args!(
                    "{}: stopped by --on-bad-row stop: the rows after row {} were not enqueued",
                    self.options.file.display(),
                    self.last_row
                ));
                return Err(Stop::BadRow);
            }
            match end {
                None => {}
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => {
                    return Err(Stop::Input(format!(
                        "{error}\n{}: input incomplete after row {}",
                        self.options.file.display(),
                        self.last_row
                    )));
                }
            }
        }
    }

    /// The job of a row, or what is wrong with the row.
    fn job(&mut self, row: Result<Row, Box<BadRow>>) -> Result<NewJob, Bad> {
        let row = match row {
            Ok(row) => row,
            Err(bad) => {
                self.last_row = bad.record_number();
                return Err(Bad::Row(bad));
            }
        };
        self.last_row = row.record_number();
        let payload = Payload::of(&row, &self.header);
        let id = match self.id {
            None => payload.id(),
            Some(column) => match self.own_id(&row, column) {
                Ok(id) => id.into(),
                Err(problem) => return Err(Bad::Id(Box::new(row), problem)),
            },
        };
        Ok(NewJob::new(id, payload.encode())
            .priority(self.options.priority)
            .delay(self.options.delay.unwrap_or_default()))
    }

    /// The id that a row gives. No other row may give it: only one of both would be a job.
    fn own_id(&mut self, row: &Row, column: Column) -> Result<String, String> {
        let id = row.field(column);
        if id.is_empty() || id.len() > MAX_ID_BYTES {
            return Err(format!(
                "the id has {} bytes, and needs 1 to {MAX_ID_BYTES}",
                id.len()
            ));
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&Sha256::digest(id)[..16]);
        match self.ids.insert(digest, row.record_number()) {
            None => Ok(id.to_owned()),
            Some(earlier) => {
                self.ids.insert(digest, earlier);
                Err(format!("row {earlier} has the same id"))
            }
        }
    }

    fn report(&mut self, bad: Bad, count: u64) -> Result<(), Stop> {
        if let Some(Rejects { path, writer }) = &mut self.rejects {
            let written = match &bad {
                Bad::Row(bad) => writer.write_bad(bad),
                Bad::Id(row, problem) => writer.write_row(row, problem),
            };
            written.map_err(|error| Stop::write(path, &error))?;
        }
        if self.options.reading.reports(count) {
            self.reported += 1;
            warn(bad);
        }
        Ok(())
    }

    /// Says how many bad rows there were beyond those that were reported.
    fn tell_bad(&self, bad: u64) {
        let rest = self
            .options
            .reading
            .rest(self.options.file.display(), bad, self.reported);
        rest.into_iter().for_each(warn);
    }

    fn finish(self) -> Result<(), Stop> {
        let Some(Rejects { path, writer }) = self.rejects else {
            return Ok(());
        };
        let finished = writer
            .finish()
            .and_then(|file| file.into_inner().map_err(|error| error.into_error()));
        finished
            .map(drop)
            .map_err(|error| Stop::write(path, &error))
    }
}

/// A row that becomes no job.
enum Bad {
    Row(Box<BadRow>),
    /// Its id cannot be used.
    Id(Box<Row>, String),
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row(bad) => bad.fmt(f),
            Self::Id(row, problem) => {
                write!(f, "{}:{}: {problem}", row.header().file(), row.line())
            }
        }
    }
}

fn read_batch(source: &mut Source, most: usize) -> Batch {
    let mut rows = Vec::new();
    let mut bytes = 0;
    while rows.len() < most && bytes < MAX_BATCH_BYTES {
        match source.next() {
            Some(Ok(row)) => {
                bytes += row.record().as_slice().len();
                rows.push(Ok(row));
            }
            Some(Err(RowError::Bad(bad))) => {
                bytes += bad.record().as_slice().len();
                rows.push(Err(Box::new(bad)));
            }
            Some(Err(RowError::File(error))) => {
                let end = Some(Err(error));
                return Batch { rows, end };
            }
            None => {
                let end = Some(Ok(()));
                return Batch { rows, end };
            }
        }
    }
    Batch { rows, end: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_adds_up() {
        let counts = Counts {
            bad: 2,
            enqueued: 5,
        };
        assert_eq!(counts.to_string(), "rows=7 bad=2 enqueued=5");
    }
}
