//! Opens an answers file: locks it, reads it, and says what is done.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::Path,
    sync::Arc,
};

use super::{
    Resume,
    done::Done,
    error::{AnswersError, Kind},
    layout::Layout,
    output::{Begin, Output},
    record::{Format, Record, encode},
    scan::Scanner,
};
use crate::file_id::FileId;

/// Where the answers go, what is done, and whether the header is yet to be written.
pub(super) struct Opened {
    pub(super) output: Output,
    pub(super) done: Done,
    pub(super) needs_header: bool,
}

impl Opened {
    fn anew(output: Output) -> Self {
        Self {
            output,
            done: Done::default(),
            needs_header: true,
        }
    }
}

pub(super) fn stdout() -> Opened {
    Opened::anew(Output::stdout())
}

pub(super) fn file(
    layout: Layout,
    resume: Option<Resume>,
    spreadsheet: bool,
) -> Result<Opened, AnswersError> {
    let path = layout.path.clone();
    let open_error = |source| layout.error(Kind::Open { source });
    // What is missing will be a regular file.
    if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
        if resume.is_some() {
            return Err(layout.error(Kind::NotAFile));
        }
        let device = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(open_error)?;
        return Ok(Opened::anew(Output::device(&path, device)));
    }
    let file = open_locked(&layout)?;
    let len = file.metadata().map_err(open_error)?.len();
    if len == 0 {
        return Ok(Opened::anew(Output::regular(&path, file, Begin::Cut(0))));
    }
    let Some(resume) = resume else {
        return Err(layout.error(Kind::Occupied));
    };
    if spreadsheet {
        return Err(layout.error(Kind::Spreadsheet));
    }
    match read(layout, &file, len, resume)? {
        Some((begin, done)) => Ok(Opened {
            output: Output::regular(&path, file, begin),
            done,
            needs_header: false,
        }),
        None => Ok(Opened::anew(Output::regular(&path, file, Begin::Cut(0)))),
    }
}

/// Reads the answers that a file of `len` bytes has. Returns nothing if its header is torn.
fn read(
    layout: Layout,
    file: &File,
    len: u64,
    resume: Resume,
) -> Result<Option<(Begin, Done)>, AnswersError> {
    let layout = Arc::new(layout);
    let mut scanner = Scanner::new(file, layout.delimiter);
    let mut record = Record::default();
    if layout.next_record(&mut scanner, &mut record)?.is_none() {
        return check_torn_header(&layout, file, len).map(|()| None);
    }
    layout.check_header(&record)?;
    let mut done = Done::new(Arc::clone(&layout));
    while let Some(answer) = layout.next_answer(&mut scanner, &mut record)? {
        done.insert(&layout, answer, &record)?;
    }
    done.set_torn_bytes(len - scanner.end());
    if resume == Resume::Failed && done.failed() > 0 {
        done.take_out_failed();
        return Ok(Some((Begin::TakeOutFailed(layout), done)));
    }
    Ok(Some((Begin::Cut(scanner.end()), done)))
}

/// Fails unless the file is a part of the header: any other file is not ours to cut.
fn check_torn_header(layout: &Layout, mut file: &File, len: u64) -> Result<(), AnswersError> {
    use std::io::{Read as _, Seek as _};
    let mut header = Vec::new();
    let format = Format {
        delimiter: layout.delimiter,
        spreadsheet: false,
    };
    encode(&mut header, format, layout.header.iter());
    let mut found = Vec::new();
    if len < header.len() as u64 {
        file.rewind()
            .and_then(|()| file.take(len).read_to_end(&mut found))
            .map_err(|source| layout.error(Kind::Read { source }))?;
        if header.starts_with(&found) {
            return Ok(());
        }
    }
    Err(layout.error(Kind::NoHeader))
}

/// Opens the file, which is created if it is missing, and locks it.
fn open_locked(layout: &Layout) -> Result<File, AnswersError> {
    let open_error = |source| layout.error(Kind::Open { source });
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&layout.path)
            .map_err(open_error)?;
        try_lock(layout, &file)?;
        // Between the two lines above, another process may have put a new file in its place.
        if is_at(&file, &layout.path).map_err(open_error)? {
            return Ok(file);
        }
    }
}

/// Locks a file, or fails if another process did.
pub(super) fn try_lock(layout: &Layout, file: &File) -> Result<(), AnswersError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(layout.error(Kind::Locked)),
        // A file system without locks: answers without a guard are better than none.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(source)) => Err(layout.error(Kind::Open { source })),
    }
}

/// Whether `path` still leads to `file`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = FileId::of(&file.metadata()?);
    match fs::metadata(path) {
        Ok(found) => Ok(FileId::of(&found) == opened),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
