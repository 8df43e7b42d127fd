//! The file that the answers of a queue are collected in: one record for each job, whose id is the
//! last cell.
//!
//! In: a header and records, and the file that an earlier call left. Out: the file, and the ids that
//! it has. Whole records are written, many at a time; a torn one at the end is cut off.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use super::{
    record::{Format, Record, encode},
    scan::{ScanError, Scanner},
};

/// The name of the last column.
pub(crate) const JOB_ID: &str = "job_id";

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
    ids: HashSet<String>,
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
        let (header, ids, end) = if len > 0 {
            read(path, &file, delimiter)?
        } else {
            (None, HashSet::new(), 0)
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
            ids: HashSet::new(),
        }
    }

    /// The columns, the job's id included, once there are some.
    pub(crate) fn header(&self) -> Option<&[String]> {
        self.header.as_deref()
    }

    /// Sets the columns, without the job's id, of a file that has none.
    pub(crate) fn begin(&mut self, header: &[String]) {
        let header: Vec<String> = header.iter().cloned().chain([JOB_ID.to_owned()]).collect();
        encode(&mut self.buffer, self.format, header.iter());
        self.header = Some(header);
    }

    /// Whether a record can be written with these columns.
    pub(crate) fn has_columns(&self, columns: &[String]) -> bool {
        self.header
            .as_ref()
            .is_some_and(|header| header[..header.len() - 1] == *columns)
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// Writes a record of a job that has none, as many cells as the header has, but for the id.
    ///
    /// # Panics
    ///
    /// Panics if there is no header, or the number of cells is another.
    pub(crate) fn write(&mut self, id: &str, cells: Vec<Vec<u8>>) -> Result<(), CollectError> {
        let width = self.header.as_ref().map_or(0, Vec::len);
        let cells = cells.into_iter().chain([id.as_bytes().to_vec()]);
        let count = encode(&mut self.buffer, self.format, cells);
        assert_eq!(
            count, width,
            "a record must have as many cells as the header"
        );
        self.ids.insert(id.to_owned());
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

type Found = (Option<Vec<String>>, HashSet<String>, u64);

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
    if line.is_none() || header.last().is_none_or(|last| last != JOB_ID) {
        return Err(unusable(format_args!(
            "cannot append: the file does not start with a header that ends with {JOB_ID}, as that of \
             `brigade results` does"
        )));
    }
    let mut ids = HashSet::new();
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
        ids.insert(String::from_utf8_lossy(id).into_owned());
    };
    Ok((Some(header), ids, end))
}

#[cfg(test)]
mod tests {
    use super::*;

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
                    file.has("one"),
                    file.has("two"),
                    file.has_columns(&columns())
                ),
                (end >= ends[1], end >= ends[2], true)
            );
            file.write("three", cells("q,3,true")).ok().unwrap();
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
        file.write("one", cells("x,1,true")).ok().unwrap();
        file.sync().ok().unwrap();
        assert_eq!(text(&path), format!("{HEADER}x,1,true,one\n"));
    }
}
