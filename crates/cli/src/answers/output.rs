//! Where the answers go: a file that is locked, a device or a pipe, or stdout.
//!
//! In: whole records, many at a time. Out: one write for each call. The file is changed first by
//! the first write, so a run that ends before it leaves the file as it was.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    error::{AnswersError, Kind},
    failed,
    layout::Layout,
};

#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    target: Target,
    /// Whether a write failed. A record behind a torn one could not be found again.
    is_closed: bool,
}

#[derive(Debug)]
enum Target {
    Stdout(io::Stdout),
    /// A path that is no regular file: nothing to lock, to cut or to read again.
    Device(File),
    Regular {
        file: File,
        /// Where the last whole record ends.
        end: u64,
        begin: Option<Begin>,
    },
}

/// What must happen to a file before its first write.
#[derive(Debug)]
pub(super) enum Begin {
    /// All behind this place is cut off: a torn record or nothing.
    Cut(u64),
    /// The failed rows are taken out, and a torn record with them.
    TakeOutFailed(Arc<Layout>),
}

impl Output {
    pub(super) fn stdout() -> Self {
        Self::new(Path::new("<stdout>"), Target::Stdout(io::stdout()))
    }

    pub(super) fn device(path: &Path, file: File) -> Self {
        Self::new(path, Target::Device(file))
    }

    /// A regular file that is locked.
    pub(super) fn regular(path: &Path, file: File, begin: Begin) -> Self {
        let target = Target::Regular {
            file,
            end: 0,
            begin: Some(begin),
        };
        Self::new(path, target)
    }

    /// A regular file that is ready for its first write. Tests put a device in its place.
    #[cfg(test)]
    pub(super) fn begun(path: &Path, file: File) -> Self {
        let target = Target::Regular {
            file,
            end: 0,
            begin: None,
        };
        Self::new(path, target)
    }

    fn new(path: &Path, target: Target) -> Self {
        Self {
            path: path.to_owned(),
            target,
            is_closed: false,
        }
    }

    /// Makes the file ready for its first write, once.
    pub(super) fn begin(&mut self) -> Result<(), AnswersError> {
        self.check_open()?;
        let Target::Regular { file, end, begin } = &mut self.target else {
            return Ok(());
        };
        let result = match begin.take() {
            None => return Ok(()),
            Some(Begin::Cut(at)) => {
                *end = at;
                cut(file, at).map_err(|source| {
                    let is_file = true;
                    AnswersError::new(&self.path, Kind::Write { source, is_file })
                })
            }
            Some(Begin::TakeOutFailed(layout)) => {
                failed::take_out(&layout, file).map(|(replacement, len)| {
                    *end = len;
                    *file = replacement;
                })
            }
        };
        self.is_closed = result.is_err();
        result
    }

    /// Writes whole records with one call of the operating system, or more if it takes only a part.
    ///
    /// # Errors
    ///
    /// If a part could not be written. What was written of a record is cut off, or is left for
    /// resume to cut off, and each later call fails.
    pub(super) fn write(&mut self, records: &[u8]) -> Result<(), AnswersError> {
        self.begin()?;
        let written = match &mut self.target {
            // Stdout holds back only what follows the last line end, and records end with one.
            Target::Stdout(stdout) => stdout.write_all(records).and_then(|()| stdout.flush()),
            Target::Device(file) => file.write_all(records),
            Target::Regular { file, end, .. } => match file.write_all(records) {
                Ok(()) => {
                    *end += records.len() as u64;
                    Ok(())
                }
                Err(error) => {
                    // If this fails, resume does it.
                    let _ = cut(file, *end);
                    Err(error)
                }
            },
        };
        written.map_err(|source| self.write_error(source))
    }

    /// Waits until the records are on the disk. Does nothing for what is no regular file.
    pub(super) fn sync(&mut self) -> Result<(), AnswersError> {
        self.check_open()?;
        let synced = match &self.target {
            Target::Regular { file, .. } => file.sync_data(),
            Target::Stdout(_) | Target::Device(_) => Ok(()),
        };
        synced.map_err(|source| self.write_error(source))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn check_open(&self) -> Result<(), AnswersError> {
        if self.is_closed {
            return Err(AnswersError::new(&self.path, Kind::Closed));
        }
        Ok(())
    }

    fn write_error(&mut self, source: io::Error) -> AnswersError {
        self.is_closed = true;
        let is_file = matches!(self.target, Target::Regular { .. });
        AnswersError::new(&self.path, Kind::Write { source, is_file })
    }
}

/// Cuts the file off at `end`, where the next write begins.
fn cut(file: &mut File, end: u64) -> io::Result<()> {
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end))?;
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        fs::{File, OpenOptions},
        os::fd::OwnedFd,
        path::Path,
    };

    use super::Output;

    fn full() -> File {
        OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("/dev/full")
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_file_and_resume_and_ends_all_writing() {
        let mut output = Output::begun(Path::new("answers.csv"), full());
        let error = output.write(b"a\n").expect_err("the disk is full");
        assert!(!error.is_broken_pipe());
        assert_eq!(
            error.to_string(),
            "answers.csv: cannot write the answers: No space left on device (os error 28); \
             `--resume` goes on from the last whole record",
        );
        for error in [output.write(b"b\n"), output.sync(), output.begin()] {
            assert_eq!(
                error.expect_err("closed").to_string(),
                "answers.csv: nothing is written after a write that failed",
            );
        }
    }

    #[test]
    fn a_full_device_does_not_speak_of_resume() {
        let mut output = Output::device(Path::new("/dev/full"), full());
        assert_eq!(
            output.write(b"a\n").expect_err("full").to_string(),
            "/dev/full: cannot write the answers: No space left on device (os error 28)",
        );
    }

    #[test]
    fn a_reader_that_went_away_is_told_from_other_failures() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut output = Output::device(Path::new("pipe"), File::from(OwnedFd::from(writer)));
        output.write(b"a\n").expect("the pipe has room");
        drop(reader);
        let error = output.write(b"b\n").expect_err("the reader is gone");
        assert!(error.is_broken_pipe(), "{error}");
        let error = output.write(b"c\n").expect_err("closed");
        assert!(!error.is_broken_pipe(), "{error}");
    }
}
