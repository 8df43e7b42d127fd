//! Where rows end: the answers, in the order of the rows if that is asked for; the bad rows and the
//! failed ones in files of their own.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::BufWriter;
use std::path::{Path, PathBuf, absolute};
use std::time::{Instant, SystemTime};

use brigade::csv::{BadRow, FailuresWriter, Header, RejectsWriter, Row, Writer};

use super::stop::Stop;
use super::times::{Times, timestamp};
use super::work::{Answer, Numbered};
use crate::answers::Answers;
use crate::file_id::FileId;
use crate::options::Common;
use crate::report::sidecar;

/// The answer of a row and what the frame knows of it.
pub(crate) struct Record<'a> {
    pub(crate) row: &'a Numbered,
    pub(crate) answer: &'a Answer,
    pub(crate) times: &'a Times,
    pub(crate) has_backoff: bool,
}

pub(crate) struct Outputs {
    /// From [`begin`](Self::begin) to [`finish`](Self::finish).
    answers: Option<Answers>,
    order: Option<Reorder>,
    rejects: Option<Named<RejectsWriter<BufWriter<File>>>>,
    failures: Option<Named<FailuresWriter<BufWriter<File>>>>,
}

struct Named<W> {
    path: PathBuf,
    writer: W,
}

/// Holds answers back until those of all rows before are written. The loop bounds how many rows are
/// on their way.
#[derive(Default)]
struct Reorder {
    /// The numbers of the rows without a written answer, in the order of the rows.
    expected: VecDeque<u64>,
    /// `None` for a row that will have no answer.
    held: BTreeMap<u64, Option<Vec<Vec<u8>>>>,
}

impl Outputs {
    /// Refuses answers that would go into the input.
    pub(crate) fn check(options: &Common) -> Result<(), Stop> {
        let output = options.output.as_deref();
        match output.and_then(FileId::at) {
            Some(output) if input(options) == Some(output) => Err(Stop::output(
                options.output.as_deref().unwrap_or(Path::new("")),
                "--output is the input too",
            )),
            _ => Ok(()),
        }
    }

    /// Opens the files for bad rows and failed ones. None of them may be another file of the run.
    pub(crate) fn open(options: &Common, header: &Header) -> Result<Self, Stop> {
        let mut taken = Taken::new(options);
        let rejects = match &options.reading.rejects {
            Some(path) => {
                let file = taken.create(path, "--rejects")?;
                let writer = Writer::with_delimiter(file, options.reading.delimiter);
                let writer = RejectsWriter::new(writer, header)
                    .map_err(|error| Stop::write(path, &error))?;
                let path = path.clone();
                Some(Named { path, writer })
            }
            None => None,
        };
        let failures = match &options.failures {
            Some(path) => {
                let file = taken.create(path, "--failures")?;
                let writer =
                    FailuresWriter::new(file, header).map_err(|error| Stop::write(path, &error))?;
                let path = path.clone();
                Some(Named { path, writer })
            }
            None => None,
        };
        for (path, option) in [(&options.report, "--report"), (&options.trace, "--trace")] {
            if let Some(path) = path {
                taken.reserve(path, option)?;
            }
        }
        Ok(Self {
            answers: None,
            order: options.ordered.then(Reorder::default),
            rejects,
            failures,
        })
    }

    pub(crate) fn begin(&mut self, answers: Answers) {
        self.answers = Some(answers);
    }

    /// A row was taken, which will be answered or not started.
    pub(crate) fn expect(&mut self, number: u64) {
        if let Some(order) = &mut self.order {
            order.expected.push_back(number);
        }
    }

    /// How many answers are held back for the order.
    pub(crate) fn held(&self) -> usize {
        self.order.as_ref().map_or(0, |order| order.held.len())
    }

    /// Writes a bad row, if there is a file for them.
    pub(crate) fn reject(&mut self, bad: &BadRow) -> Result<(), Stop> {
        let Some(Named { path, writer }) = &mut self.rejects else {
            return Ok(());
        };
        writer
            .write_bad(bad)
            .map_err(|error| Stop::write(path, &error))
    }

    pub(crate) fn write(&mut self, record: &Record<'_>) -> Result<(), Stop> {
        let cells = record.cells();
        if let Some(order) = &mut self.order {
            let all = record.row.row.record().iter().map(<[u8]>::to_vec);
            let number = record.row.number;
            order.held.insert(number, Some(all.chain(cells).collect()));
            self.write_held()?;
        } else {
            self.write_cells(&record.row.row, &cells)?;
        }
        if record.answer.error.is_some() {
            self.fail(&record.row.row)?;
        }
        Ok(())
    }

    /// The row will have no answer.
    pub(crate) fn not_started(&mut self, row: &Numbered) {
        // An output that fails now has its error from `finish`.
        let _ = self.fail(&row.row);
        if let Some(order) = &mut self.order {
            order.held.insert(row.number, None);
            let _ = self.write_held();
        }
    }

    /// Whether rows that were never taken are to be passed to [`not_started`](Self::not_started).
    pub(crate) const fn wants_not_started(&self) -> bool {
        self.failures.is_some()
    }

    /// When [`flush`](Self::flush) has to be called.
    pub(crate) fn flush_at(&self) -> Option<Instant> {
        self.answers.as_ref()?.flush_at()
    }

    pub(crate) fn flush(&mut self) -> Result<(), Stop> {
        match &mut self.answers {
            Some(answers) => Ok(answers.flush()?),
            None => Ok(()),
        }
    }

    /// Writes what is left to write.
    pub(crate) fn finish(&mut self) -> Result<(), Stop> {
        let answers = self.answers.take().map_or(Ok(()), Answers::finish);
        if let Some(Named { path, writer }) = self.rejects.take() {
            finish(writer.finish(), &path)?;
        }
        if let Some(Named { path, writer }) = self.failures.take() {
            finish(writer.finish(), &path)?;
        }
        Ok(answers?)
    }

    fn fail(&mut self, row: &Row) -> Result<(), Stop> {
        let Some(Named { path, writer }) = &mut self.failures else {
            return Ok(());
        };
        writer.write(row).map_err(|error| Stop::write(path, &error))
    }

    fn write_cells(&mut self, row: &Row, cells: &[Vec<u8>]) -> Result<(), Stop> {
        let Some(answers) = &mut self.answers else {
            return Ok(());
        };
        let cells = cells.iter().map(Vec::as_slice);
        Ok(answers.write(row.record().iter().chain(cells))?)
    }

    fn write_held(&mut self) -> Result<(), Stop> {
        let (Some(order), Some(answers)) = (&mut self.order, &mut self.answers) else {
            return Ok(());
        };
        while let Some(next) = order.expected.front()
            && let Some(cells) = order.held.remove(next)
        {
            order.expected.pop_front();
            if let Some(cells) = cells {
                answers.write(cells.iter().map(Vec::as_slice))?;
            }
        }
        Ok(())
    }
}

fn finish(result: std::io::Result<BufWriter<File>>, path: &Path) -> Result<(), Stop> {
    let flushed = result.and_then(|writer| writer.into_inner().map_err(|error| error.into_error()));
    flushed.map(drop).map_err(|error| Stop::write(path, &error))
}

impl Record<'_> {
    /// The cells behind those of the input.
    pub(crate) fn cells(&self) -> Vec<Vec<u8>> {
        let Answer {
            before,
            after,
            error,
        } = self.answer;
        let millis = |time: std::time::Duration| time.as_millis().to_string().into_bytes();
        let mut cells = vec![
            self.row.number.to_string().into_bytes(),
            error.is_none().to_string().into_bytes(),
        ];
        cells.extend(before.iter().cloned());
        cells.push(self.times.attempts().to_string().into_bytes());
        cells.push(millis(self.times.queued()));
        if self.has_backoff {
            cells.push(millis(self.times.backoff()));
        }
        cells.push(millis(self.times.elapsed()));
        cells.push(timestamp(SystemTime::now()).into_bytes());
        let (kind, message) = error
            .as_ref()
            .map_or(("", ""), |error| (error.kind, error.message.as_str()));
        cells.push(kind.into());
        cells.push(message.into());
        cells.extend(after.iter().cloned());
        cells
    }
}

/// The files of a run, so that none is two of them.
struct Taken {
    files: Vec<(FileId, &'static str)>,
    /// The sidecar of the answers.
    sidecar: Option<PathBuf>,
}

impl Taken {
    fn new(options: &Common) -> Self {
        let mut taken = Self {
            files: Vec::new(),
            sidecar: options
                .output
                .as_deref()
                .and_then(|path| absolute(sidecar::path_of(path)).ok()),
        };
        taken
            .files
            .extend(input(options).map(|input| (input, "the input")));
        let output = options.output.as_deref().and_then(FileId::at);
        taken
            .files
            .extend(output.map(|output| (output, "--output")));
        taken
    }

    /// Takes a file for what is written from now on, and empties it.
    fn create(&mut self, path: &Path, option: &'static str) -> Result<BufWriter<File>, Stop> {
        let file = open(path, option)?;
        // A file that is there is emptied only when it is known to be no other file of the run.
        if self.take(path, option)? {
            file.set_len(0).map_err(|error| Stop::write(path, &error))?;
        }
        Ok(BufWriter::new(file))
    }

    /// Takes a file that is written at the end of the run. It is there from now on, so that it can
    /// be told from others.
    fn reserve(&mut self, path: &Path, option: &'static str) -> Result<(), Stop> {
        open(path, option)?;
        self.take(path, option).map(drop)
    }

    /// Takes a file, and returns whether there is one; fails if it is taken already.
    fn take(&mut self, path: &Path, option: &'static str) -> Result<bool, Stop> {
        if self.sidecar.is_some() && absolute(path).ok() == self.sidecar {
            let problem = format_args!("{option} is where the settings of the run are written");
            return Err(Stop::output(path, problem));
        }
        let Some(id) = FileId::at(path) else {
            return Ok(false);
        };
        if let Some((_, other)) = self.files.iter().find(|(known, _)| *known == id) {
            return Err(Stop::output(path, format_args!("{option} is {other} too")));
        }
        self.files.push((id, option));
        Ok(true)
    }
}

/// Opens a file, as it is or new.
fn open(path: &Path, option: &str) -> Result<File, Stop> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| Stop::output(path, format_args!("cannot open for {option}: {error}")))
}

/// The regular file that is the input.
fn input(options: &Common) -> Option<FileId> {
    if options.is_stdin() {
        FileId::of_stdin()
    } else {
        FileId::at(&options.file)
    }
}
