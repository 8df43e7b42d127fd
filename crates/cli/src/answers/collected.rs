//! The file that the answers of a queue are collected in: one record for each job, whose id is the
//! last cell.
//!
//! In: a header and records, and the file that an earlier call left. Out: the file, and the ids that
//! it has. Whole records are written, many at a time; a torn one at the end is cut off.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use crate::file_id::FileId;

use super::{
    record::{Format, Record, encode},
    scan::{ScanError, Scanner},
};

/// The name of the last column.
pub(crate) const JOB_ID: &str = "job_id";

/// What is put before the name of the last column where the input has that name.
const FREE: &str = "brigade_";

/// The bytes that are written at once.
const BATCH: usize = 64 * 1024;

/// Where the answers of a queue are written.
pub(crate) struct Collected {
    /// Of messages.
    path: PathBuf,
    target: Target,
    format: Format,
    buffer: Vec<u8>,
    /// The columns, once they are known.
    header: Option<Vec<String>>,
    ids: HashMap<String, Known>,
    /// How many records are in the buffer, and in the file by this call.
    buffered: u64,
    flushed: u64,
}

/// What the table has of a job. A later kind is worth a record beside an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Known {
    DeadLetter,
    Failed,
    Accepted,
}

/// Where the cells are that say what became of a job.
struct Verdict {
    ok: Option<usize>,
    error_kind: Option<usize>,
}

impl Verdict {
    fn of(header: &[String]) -> Self {
        let prefix = prefix(header);
        let at = |name: &str| {
            let name = format!("{prefix}{name}");
            header.iter().rposition(|column| *column == name)
        };
        Self {
            ok: at("ok"),
            error_kind: at("error_kind"),
        }
    }

    fn known<'a>(&self, cell: impl Fn(usize) -> Option<&'a [u8]>) -> Known {
        if self.error_kind.and_then(&cell) == Some(b"dead_letter") {
            Known::DeadLetter
        } else if self.ok.and_then(&cell) == Some(b"false") {
            Known::Failed
        } else {
            Known::Accepted
        }
    }
}

/// The prefix of the tool's columns, which is that of `row` before `ok`.
pub(crate) fn prefix(header: &[String]) -> &str {
    header
        .windows(2)
        .rev()
        .find_map(|pair| {
            let prefix = pair[0].strip_suffix("row")?;
            (pair[1].strip_suffix("ok") == Some(prefix)).then_some(prefix)
        })
        .unwrap_or_default()
}

enum Target {
    Stdout(io::Stdout),
    File(File),
}

/// Why answers cannot be collected in a file.
#[derive(Debug)]
pub(crate) struct CollectError {
    pub(crate) message: String,
    /// Whether the reader of stdout went away.
    pub(crate) is_broken_pipe: bool,
}

impl Collected {
    pub(crate) fn stdout(delimiter: u8) -> Self {
        Self::new(
            Path::new("<stdout>"),
            Target::Stdout(io::stdout()),
            delimiter,
        )
    }

    /// Opens a file that is missing or empty, or with `appends` one that has answers.
    pub(crate) fn open(path: &Path, appends: bool, delimiter: u8) -> Result<Self, CollectError> {
        let failed = |action: &str, error: &io::Error| {
            CollectError::new(path, format_args!("cannot {action}: {error}"))
        };
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            if appends {
                let problem = format_args!("--append needs a regular file");
                return Err(CollectError::new(path, problem));
            }
            let device = OpenOptions::new().write(true).open(path);
            let device = device.map_err(|error| failed("open the file", &error))?;
            return Ok(Self::new(path, Target::File(device), delimiter));
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| failed("open the file", &error))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let problem = format_args!("another process is writing to this file");
                return Err(CollectError::new(path, problem));
            }
            Err(TryLockError::Error(error)) if error.kind() != io::ErrorKind::Unsupported => {
                return Err(failed("lock the file", &error));
            }
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let len = file
            .metadata()
            .map_err(|error| failed("read the file", &error))?
            .len();
        if len > 0 && !appends {
            let problem = format_args!(
                "the file is not empty; `--append` goes on with the answers that it has"
            );
            return Err(CollectError::new(path, problem));
        }
        if len == 0 {
            sync_directory(path).map_err(|error| failed("write the directory", &error))?;
        }
        let (header, ids, end) = if len > 0 {
            read(path, &file, delimiter)?
        } else {
            (None, HashMap::new(), 0)
        };
        file.set_len(end)
            .and_then(|()| file.seek(SeekFrom::Start(end)))
            .map_err(|error| failed("cut a torn record off", &error))?;
        Ok(Self {
            header,
            ids,
            ..Self::new(path, Target::File(file), delimiter)
        })
    }

    fn new(path: &Path, target: Target, delimiter: u8) -> Self {
        Self {
            path: path.to_owned(),
            target,
            format: Format {
                delimiter,
                spreadsheet: false,
            },
            buffer: Vec::new(),
            header: None,
            ids: HashMap::new(),
            buffered: 0,
            flushed: 0,
        }
    }

    /// The columns, the job's id included, once there are some.
    pub(crate) fn header(&self) -> Option<&[String]> {
        self.header.as_deref()
    }

    /// Sets the columns, without the job's id, of a file that has none.
    pub(crate) fn begin(&mut self, header: &[String]) {
        let mut job_id = format!("{}{JOB_ID}", prefix(header));
        while header.contains(&job_id) {
            job_id.insert_str(0, FREE);
        }
        let header: Vec<String> = header.iter().cloned().chain([job_id]).collect();
        encode(&mut self.buffer, self.format, header.iter());
        self.header = Some(header);
    }

    /// Whether a record can be written with these columns.
    pub(crate) fn has_columns(&self, columns: &[String]) -> bool {
        self.header
            .as_ref()
            .is_some_and(|header| header[..header.len() - 1] == *columns)
    }

    /// Whether the table has as much of this job already. Nothing is known of jobs without an id.
    pub(crate) fn has(&self, id: &str, found: Known) -> bool {
        self.ids.get(id).is_some_and(|known| *known >= found)
    }

    /// What a record says of its job.
    pub(crate) fn known(header: &[String], cells: &[Vec<u8>]) -> Known {
        Verdict::of(header).known(|at| cells.get(at).map(Vec::as_slice))
    }

    /// How many records are in the file by this call.
    pub(crate) const fn flushed(&self) -> u64 {
        self.flushed
    }

    /// Writes a record of a job, as many cells as the header has, but for the id.
    ///
    /// # Panics
    ///
    /// Panics if there is no header, or the number of cells is another.
    pub(crate) fn write(
        &mut self,
        id: &str,
        found: Known,
        cells: Vec<Vec<u8>>,
    ) -> Result<(), CollectError> {
        let width = self.header.as_ref().map_or(0, Vec::len);
        let cells = cells.into_iter().chain([id.as_bytes().to_vec()]);
        let count = encode(&mut self.buffer, self.format, cells);
        assert_eq!(
            count, width,
            "a record must have as many cells as the header"
        );
        know(&mut self.ids, id.to_owned(), found);
        self.buffered += 1;
        if self.buffer.len() >= BATCH {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what is buffered.
    pub(crate) fn flush(&mut self) -> Result<(), CollectError> {
        let written = match &mut self.target {
            Target::Stdout(stdout) => stdout.write_all(&self.buffer).and_then(|()| stdout.flush()),
            Target::File(file) => file.write_all(&self.buffer),
        };
        self.buffer.clear();
        let buffered = std::mem::take(&mut self.buffered);
        if written.is_ok() {
            self.flushed += buffered;
        }
        written.map_err(|error| self.failed("write", &error))
    }

    /// Writes what is buffered, and waits until all is on the disk. Only written, where that is no
    /// regular file.
    pub(crate) fn sync(&mut self) -> Result<(), CollectError> {
        self.flush()?;
        let synced = match &self.target {
            Target::File(file) if file.metadata().is_ok_and(|data| data.is_file()) => {
                file.sync_data()
            }
            Target::Stdout(stdout) if FileId::of_fd(stdout).is_some() => {
                rustix::fs::fdatasync(stdout).map_err(io::Error::from)
            }
            Target::Stdout(_) | Target::File(_) => Ok(()),
        };
        synced.map_err(|error| self.failed("write", &error))
    }

    fn failed(&self, action: &str, error: &io::Error) -> CollectError {
        let problem = format_args!(
            "cannot {action} the answers: {error}; what is not written stays in the queue, and \
             `--append` goes on"
        );
        CollectError {
            is_broken_pipe: error.kind() == io::ErrorKind::BrokenPipe,
            ..CollectError::new(&self.path, problem)
        }
    }
}

impl CollectError {
    fn new(path: &Path, problem: std::fmt::Arguments<'_>) -> Self {
        Self {
            message: format!("{}: {problem}", path.display()),
            is_broken_pipe: false,
        }
    }
}

fn know(ids: &mut HashMap<String, Known>, id: String, found: Known) {
    if !id.is_empty() {
        let known = ids.entry(id).or_insert(found);
        *known = found.max(*known);
    }
}

/// Waits until the name of a new file is on the disk too.
fn sync_directory(path: &Path) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let Some(directory) = path.parent() else {
        return Ok(());
    };
    match File::open(directory).and_then(|directory| directory.sync_all()) {
        // A directory that cannot be read, or a file system that does not do this.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

type Found = (Option<Vec<String>>, HashMap<String, Known>, u64);

/// Reads header and ids, and where the last whole record ends.
fn read(path: &Path, file: &File, delimiter: u8) -> Result<Found, CollectError> {
    let unusable = |problem: std::fmt::Arguments<'_>| CollectError::new(path, problem);
    let mut scanner = Scanner::new(file, delimiter);
    let mut record = Record::default();
    let mut next = |record: &mut Record| {
        let line = scanner.next(record).map_err(|error| match error {
            ScanError::Io(error) => unusable(format_args!("cannot read the file: {error}")),
            ScanError::Malformed { line, reason } => {
                unusable(format_args!("cannot append: line {line}: {reason}"))
            }
        })?;
        Ok((line, scanner.end()))
    };
    let (line, _) = next(&mut record)?;
    let header: Vec<String> = record
        .iter()
        .map(|cell| String::from_utf8_lossy(cell).into_owned())
        .collect();
    let is_job_id = header.split_last().is_some_and(|(last, others)| {
        last.strip_suffix(JOB_ID).is_some_and(|start| {
            start.is_empty() || start == prefix(others) || start.starts_with(FREE)
        })
    });
    if line.is_none() || !is_job_id {
        return Err(unusable(format_args!(
            "cannot append: the file does not start with a header that ends with {JOB_ID}, as that of \
             `brigade results` does"
        )));
    }
    let verdict = Verdict::of(&header);
    let mut ids = HashMap::new();
    let end = loop {
        let (line, end) = next(&mut record)?;
        let Some(line) = line else {
            break end;
        };
        if record.len() != header.len() {
            let (found, expected) = (record.len(), header.len());
            return Err(unusable(format_args!(
                "cannot append: line {line}: {found} cells where the header has {expected}"
            )));
        }
        let id = record.get(header.len() - 1).unwrap_or_default();
        let found = verdict.known(|at| record.get(at));
        know(&mut ids, String::from_utf8_lossy(id).into_owned(), found);
    };
    Ok((Some(header), ids, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_found_behind_the_columns_of_the_input() {
        let of = |names: &str| {
            let names: Vec<String> = names.split(' ').map(str::to_owned).collect();
            prefix(&names).to_owned()
        };
        assert_eq!(of("url row ok attempts error"), "");
        assert_eq!(of("row ok x_row x_ok x_error"), "x_");
        assert_eq!(of("arrow url row ok"), "");
        assert_eq!(of("a b"), "");
    }

    #[test]
    fn a_better_answer_is_not_known_and_nothing_is_known_without_an_id() {
        use Known::{Accepted, DeadLetter, Failed};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.csv");
        let table = "x_row,x_ok,x_error_kind,x_job_id\n1,false,dead_letter,a\n2,false,exit,b\n\
                     3,true,,c\n1,true,,d\n1,false,dead_letter,d\n4,true,,\n";
        fs::write(&path, table).unwrap();
        let file = Collected::open(&path, true, b',').ok().unwrap();
        let has = |id| [DeadLetter, Failed, Accepted].map(|found| file.has(id, found));
        assert_eq!(has("a"), [true, false, false]);
        assert_eq!(has("b"), [true, true, false]);
        assert_eq!((has("c"), has("d")), ([true; 3], [true; 3]));
        assert_eq!(has(""), [false; 3]);
    }

    const HEADER: &str = "a,row,ok,job_id\n";

    fn cells(text: &str) -> Vec<Vec<u8>> {
        text.split(',')
            .map(|cell| cell.as_bytes().to_vec())
            .collect()
    }

    fn columns() -> [String; 3] {
        ["a", "row", "ok"].map(str::to_owned)
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_file_that_was_cut_anywhere_goes_on_after_its_last_whole_record() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.csv");
        let whole = format!("{HEADER}\"x\ny\",1,true,one\nz,2,true,two\n");
        let ends: Vec<usize> = [HEADER.len(), HEADER.len() + 17, whole.len()].into();
        assert!(whole[..ends[1]].ends_with("one\n"));
        for cut in HEADER.len()..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut file = Collected::open(&path, true, b',').ok().unwrap();
            let end = *ends.iter().rfind(|end| **end <= cut).unwrap();
            assert_eq!(
                (
                    file.has("one", Known::Accepted),
                    file.has("two", Known::Accepted),
                    file.has_columns(&columns())
                ),
                (end >= ends[1], end >= ends[2], true)
            );
            file.write("three", Known::Accepted, cells("q,3,true"))
                .ok()
                .unwrap();
            file.sync().ok().unwrap();
            assert_eq!(text(&path), format!("{}q,3,true,three\n", &whole[..end]));
        }
    }

    #[test]
    fn a_file_that_is_there_is_refused_or_appended_to_and_never_changed_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.csv");
        for (found, appends) in [
            (HEADER, false),
            ("SQLite format 3\0 and more", true),
            ("url,ok\nx,true\n", true),
            ("a,job_id\nx\n", true),
            ("a,job_", true),
        ] {
            fs::write(&path, found).unwrap();
            assert!(Collected::open(&path, appends, b',').is_err(), "{found}");
            assert_eq!(text(&path), found);
        }
        fs::write(&path, "").unwrap();
        let mut file = Collected::open(&path, false, b',').ok().unwrap();
        assert!(Collected::open(&path, true, b',').is_err(), "it is locked");
        file.begin(&columns());
        file.write("one", Known::Accepted, cells("x,1,true"))
            .ok()
            .unwrap();
        file.sync().ok().unwrap();
        assert_eq!(text(&path), format!("{HEADER}x,1,true,one\n"));
    }
}
