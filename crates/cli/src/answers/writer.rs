//! Writes answers. In: the cells of one record at a time. Out: whole records, one write for each
//! while few come, and one for many while many come.

use std::time::{Duration, Instant};

use super::{
    Settings,
    done::Done,
    error::AnswersError,
    layout::Layout,
    open,
    output::Output,
    record::{Format, encode},
};

/// The bytes that are written at once. A longer record is written alone.
const BATCH: usize = 64 * 1024;

/// How long a record may wait to be written, or to be on the disk.
const DELAY: Duration = Duration::from_secs(1);

/// The answers file, or stdout, open for writing.
///
/// Dropping it writes the records that are buffered, and ignores errors: `finish` reports them.
#[derive(Debug)]
pub(crate) struct Answers {
    output: Output,
    format: Format,
    /// The number of cells of each record.
    width: usize,
    buffer: Vec<u8>,
    /// Whether `buffer` has more than the header.
    has_records: bool,
    pace: Pace,
    durable: bool,
    /// When the oldest record that is only buffered, or not known to be on the disk, must be.
    due: Option<Instant>,
}

impl Answers {
    /// Opens the answers and reads what is there already.
    ///
    /// Nothing in the file changes before the first record is written or `finish` is called.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened or is locked; if it is not empty and resume is not asked for;
    /// or if it is not a file with these columns that can be resumed.
    ///
    /// # Panics
    ///
    /// Panics if `columns` lacks `row` or `ok`, each with its prefix.
    pub(crate) fn open(settings: Settings) -> Result<(Self, Done), AnswersError> {
        Self::open_at(Instant::now(), settings)
    }

    fn open_at(now: Instant, settings: Settings) -> Result<(Self, Done), AnswersError> {
        let header = [&settings.input_header[..], &settings.columns[..]].concat();
        let opened = match &settings.path {
            None => open::stdout(),
            Some(path) => {
                let layout = Layout::new(
                    path,
                    settings.delimiter,
                    settings.input_header,
                    settings.columns,
                    &settings.prefix,
                );
                open::file(layout, settings.resume, settings.spreadsheet)?
            }
        };
        let mut answers = Self {
            output: opened.output,
            format: Format {
                delimiter: settings.delimiter,
                spreadsheet: settings.spreadsheet,
            },
            width: header.len(),
            buffer: Vec::with_capacity(BATCH),
            has_records: false,
            pace: Pace::new(now),
            durable: settings.durable,
            due: None,
        };
        if opened.needs_header {
            let cells = header.iter();
            encode(&mut answers.buffer, answers.format, cells);
        }
        Ok((answers, opened.done))
    }

    /// Writes one record: the input's cells, then those of the tool. It may stay buffered until
    /// `flush_at`.
    ///
    /// # Errors
    ///
    /// If records, this one or earlier ones, cannot be written. Each later call fails, too.
    ///
    /// # Panics
    ///
    /// Panics if the record has not as many cells as the header.
    pub(crate) fn write(
        &mut self,
        cells: impl Iterator<Item = impl AsRef<[u8]>>,
    ) -> Result<(), AnswersError> {
        self.write_at(Instant::now(), cells)
    }

    fn write_at(
        &mut self,
        now: Instant,
        cells: impl Iterator<Item = impl AsRef<[u8]>>,
    ) -> Result<(), AnswersError> {
        let before = self.buffer.len();
        let count = encode(&mut self.buffer, self.format, cells);
        if count != self.width {
            self.buffer.truncate(before);
            panic!("a record must have {} cells, got {count}", self.width);
        }
        if before > 0 && self.buffer.len() > BATCH {
            self.output.write(&self.buffer[..before])?;
            self.buffer.drain(..before);
        }
        self.has_records = true;
        self.due.get_or_insert(now + DELAY);
        if self.pace.is_due_at_once(now) || self.buffer.len() >= BATCH {
            self.write_buffer()?;
        }
        Ok(())
    }

    /// When `flush` must be called at the latest: within a second of each record that is buffered,
    /// or, with `durable`, not known to be on the disk. `None` if there is none, or if a write
    /// failed, after which no `flush` succeeds.
    pub(crate) fn flush_at(&self) -> Option<Instant> {
        self.due.filter(|_| !self.output.is_closed())
    }

    /// Writes what is buffered, and waits until it is on the disk if it must be durable.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub(crate) fn flush(&mut self) -> Result<(), AnswersError> {
        self.write_buffer()?;
        if self.durable && self.due.is_some() {
            self.output.sync()?;
        }
        self.due = None;
        Ok(())
    }

    /// Writes what is buffered, the header at least, and waits until it is on the disk if it must
    /// be durable.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub(crate) fn finish(mut self) -> Result<(), AnswersError> {
        self.output.begin()?;
        self.write_buffer()?;
        if self.durable {
            self.output.sync()?;
        }
        Ok(())
    }

    fn write_buffer(&mut self) -> Result<(), AnswersError> {
        if !self.buffer.is_empty() {
            self.output.write(&self.buffer)?;
            self.buffer.clear();
            // A record of many megabytes does not stay for the rest of the run.
            self.buffer.shrink_to(2 * BATCH);
        }
        self.has_records = false;
        if !self.durable {
            self.due = None;
        }
        Ok(())
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if self.has_records {
            let _ = self.write_buffer();
        }
    }
}

/// Says which records are written at once, with those buffered before them: each one while at most
/// 1,000 come a second, with bursts of 100, and one for each millisecond while more come.
///
/// A limiter by the generic cell rate algorithm: each record that is written at once moves
/// `paid_until` by its share of a second, and `paid_until` is never further ahead than a burst.
#[derive(Debug)]
struct Pace {
    paid_until: Instant,
}

impl Pace {
    const SHARE: Duration = Duration::from_millis(1);
    const BURST: Duration = Duration::from_millis(100);

    fn new(now: Instant) -> Self {
        Self { paid_until: now }
    }

    fn is_due_at_once(&mut self, now: Instant) -> bool {
        let paid_until = self.paid_until.max(now) + Self::SHARE;
        let is_due = paid_until <= now + Self::BURST;
        if is_due {
            self.paid_until = paid_until;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        path::{Path, PathBuf},
        time::{Duration, Instant},
    };

    use tempfile::TempDir;

    use super::{Answers, BATCH, DELAY, Output, Pace, Settings};

    const HEADER: &str = "id,row,ok\n";

    struct Run {
        _directory: TempDir,
        path: PathBuf,
        answers: Answers,
        start: Instant,
    }

    fn settings(path: PathBuf, durable: bool) -> Settings {
        Settings {
            path: Some(path),
            resume: None,
            durable,
            spreadsheet: false,
            delimiter: b',',
            input_header: vec!["id".to_owned()],
            columns: vec!["row".to_owned(), "ok".to_owned()],
            prefix: String::new(),
        }
    }

    fn run(durable: bool) -> Run {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("answers.csv");
        let start = Instant::now();
        let settings = settings(path.clone(), durable);
        let (answers, _) = Answers::open_at(start, settings).expect("opened");
        Run {
            _directory: directory,
            path,
            answers,
            start,
        }
    }

    impl Run {
        fn write(&mut self, now: Instant, id: &str) {
            let cells = [id.as_bytes(), b"1", b"true"];
            self.answers
                .write_at(now, cells.into_iter())
                .expect("written");
        }

        /// Writes so many records at once that the next ones are buffered.
        fn write_many(&mut self, now: Instant) {
            for _ in 0..200 {
                self.write(now, "x");
            }
        }

        fn written(&self) -> u64 {
            fs::metadata(&self.path).expect("there").len()
        }
    }

    #[test]
    fn few_records_are_written_at_once() {
        let mut run = run(false);
        assert_eq!(run.answers.flush_at(), None);
        for count in 1..=500 {
            let now = run.start + Duration::from_millis(count);
            run.write(now, "x");
            assert_eq!(run.written(), HEADER.len() as u64 + 9 * count);
            assert_eq!(run.answers.flush_at(), None);
        }
    }

    #[test]
    fn many_records_wait_for_a_second_at_most() {
        let mut run = run(false);
        let now = run.start;
        run.write_many(now);
        assert_eq!(run.written(), HEADER.len() as u64 + 9 * 100);
        assert_eq!(run.answers.flush_at(), Some(now + DELAY));
        run.write(now + Duration::from_micros(500), "x");
        assert_eq!(run.written(), HEADER.len() as u64 + 9 * 100);
        assert_eq!(run.answers.flush_at(), Some(now + DELAY));
        run.answers.flush().expect("written");
        assert_eq!(run.written(), HEADER.len() as u64 + 9 * 201);
        assert_eq!(run.answers.flush_at(), None);
    }

    #[test]
    fn a_record_after_a_pause_is_written_with_those_before_it() {
        let mut run = run(false);
        run.write_many(run.start);
        run.write(run.start + Duration::from_millis(1), "x");
        assert_eq!(run.written(), HEADER.len() as u64 + 9 * 201);
        assert_eq!(run.answers.flush_at(), None);
    }

    #[test]
    fn one_write_has_at_most_a_batch_of_whole_records() {
        let mut run = run(false);
        let now = run.start;
        run.write_many(now);
        run.answers.flush().expect("written");
        let mut written = run.written();
        let id = "x".repeat(1000);
        let mut grown = 0;
        for _ in 0..200 {
            run.write(now, &id);
            let len = run.written();
            if len > written {
                let step = len - written;
                assert!(step <= BATCH as u64 && step.is_multiple_of(1008), "{step}");
                assert!(step + 1008 > BATCH as u64, "{step} is less than fits");
                grown += 1;
            }
            written = len;
        }
        assert_eq!(grown, 3);
    }

    #[test]
    fn a_record_longer_than_a_batch_is_written_whole_after_those_before_it() {
        let mut run = run(false);
        run.write_many(run.start);
        let id = "y".repeat(3 * BATCH);
        run.write(run.start, &id);
        let records = "x,1,true\n".repeat(200);
        let expected = format!("{HEADER}{records}{id},1,true\n");
        assert_eq!(fs::read_to_string(&run.path).expect("text"), expected);
    }

    #[test]
    fn durable_records_are_written_at_once_and_due_on_the_disk_within_a_second() {
        let mut run = run(true);
        let now = run.start;
        run.write(now, "x");
        run.write(now + Duration::from_millis(500), "x");
        assert_eq!(run.written(), HEADER.len() as u64 + 18);
        assert_eq!(run.answers.flush_at(), Some(now + DELAY));
        run.answers.flush().expect("synced");
        assert_eq!(run.answers.flush_at(), None);
        let later = now + Duration::from_secs(5);
        run.write(later, "x");
        assert_eq!(run.answers.flush_at(), Some(later + DELAY));
        run.answers.finish().expect("finished");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn nothing_is_due_after_a_write_that_failed() {
        let start = Instant::now();
        let path = PathBuf::from("/dev/full");
        let (mut answers, _) = Answers::open_at(start, settings(path, false)).expect("opened");
        assert!(answers.write_at(start, ["x", "1", "true"].iter()).is_err());
        assert_eq!(answers.flush_at(), None);
        assert!(answers.write_at(start, ["x", "2", "true"].iter()).is_err());
        assert!(answers.flush().is_err());
        assert!(answers.finish().is_err());
    }

    /// `/dev/null` takes every write, and refuses to be synced.
    #[cfg(target_os = "linux")]
    #[test]
    fn only_durable_records_are_synced_by_flush_and_finish() {
        for durable in [false, true] {
            for finishes in [false, true] {
                let start = Instant::now();
                let path = Path::new("/dev/null");
                let settings = settings(path.to_owned(), durable);
                let (mut answers, _) = Answers::open_at(start, settings).expect("opened");
                let null = File::options().write(true).open(path).expect("opened");
                answers.output = Output::begun(path, null);
                let record = ["x", "1", "true"];
                answers.write_at(start, record.iter()).expect("written");
                let result = if finishes {
                    answers.finish()
                } else {
                    answers.flush()
                };
                assert_eq!(result.is_err(), durable, "{result:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "a record must have 3 cells, got 2")]
    fn a_record_with_too_few_cells_is_misuse() {
        let mut run = run(false);
        let cells = [&b"x"[..], b"1"];
        let _ = run.answers.write_at(run.start, cells.into_iter());
    }

    #[test]
    fn at_most_a_thousand_records_a_second_are_written_at_once() {
        let at_once = |gap: Duration, count: u32| {
            let start = Instant::now();
            let mut pace = Pace::new(start);
            let due = (0..count).filter(|index| pace.is_due_at_once(start + gap * *index));
            due.count()
        };
        assert_eq!(at_once(Duration::from_millis(1), 10_000), 10_000);
        // A second of 10,000 records: a burst, and one for each millisecond.
        assert_eq!(at_once(Duration::from_micros(100), 10_000), 100 + 999);
    }
}
