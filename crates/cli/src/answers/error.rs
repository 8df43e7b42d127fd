//! Why an answers file cannot be opened, read or written, and how to go on.

use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
};

/// A failure of the answers file. All of them end the program with exit code 2, but for a reader of
/// stdout that went away.
#[derive(Debug)]
pub(crate) struct AnswersError {
    /// The answers file, `<stdout>` for the standard output.
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// The file has answers, and resume was not asked for.
    Occupied,
    /// Another process writes the file.
    Locked,
    /// Resume was asked for on a device or a pipe.
    NotAFile,
    /// Resume was asked for together with cells that differ from the input's.
    Spreadsheet,
    Open {
        source: io::Error,
    },
    Read {
        source: io::Error,
    },
    Write {
        source: io::Error,
        /// Whether the file can be resumed.
        is_file: bool,
    },
    /// An earlier write failed.
    Closed,
    /// The failed rows could not be taken out.
    Replace {
        action: &'static str,
        source: io::Error,
    },
    /// The text before the first line end is not the start of the header.
    NoHeader,
    /// The first column that differs, counted from 1.
    Header {
        column: usize,
        found: Option<String>,
        expected: Option<String>,
    },
    /// A record that was not written by this tool.
    Record {
        line: u64,
        reason: String,
    },
    /// A row of the input is not the one that was answered.
    Changed(Box<Change>),
    /// An answer to a row that the input does not have.
    NoSuchRow {
        line: u64,
        row: u64,
        rows: u64,
    },
}

/// Where input and answers differ.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) row: u64,
    pub(super) input_line: u64,
    pub(super) answers_line: u64,
    pub(super) column: String,
    pub(super) input: String,
    pub(super) answer: String,
    /// The cell of the answers is that of the input as `--spreadsheet` writes it.
    pub(super) is_spreadsheet: bool,
}

impl AnswersError {
    pub(super) fn new(path: &Path, kind: Kind) -> Self {
        Self {
            path: path.to_owned(),
            kind,
        }
    }

    /// Whether the reader of the answers went away, which is no fault.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(&self.kind, Kind::Write { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for AnswersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.kind {
            Kind::Occupied => write!(
                f,
                "{path}: the file is not empty; `--resume` goes on from its answers, \
                 `--resume=failed` runs its failed rows again, too"
            ),
            Kind::Locked => write!(f, "{path}: another process is writing to this file"),
            Kind::NotAFile => write!(f, "{path}: `--resume` needs a regular file"),
            Kind::Spreadsheet => write!(
                f,
                "{path}: `--resume` cannot go on with `--spreadsheet`, because the cells of the \
                 answers cannot be compared with those of the input"
            ),
            Kind::Open { source } => write!(f, "{path}: cannot open the file: {source}"),
            Kind::Read { source } => write!(f, "{path}: cannot read the file: {source}"),
            Kind::Write { source, is_file } => {
                write!(f, "{path}: cannot write the answers: {source}")?;
                if *is_file {
                    f.write_str("; `--resume` goes on from the last whole record")?;
                }
                Ok(())
            }
            Kind::Closed => write!(f, "{path}: nothing is written after a write that failed"),
            Kind::Replace { action, source } => write!(
                f,
                "{path}: cannot take the failed rows out: cannot {action}: {source}; the file is \
                 unchanged"
            ),
            Kind::NoHeader => write!(
                f,
                "{path}:1: cannot resume: the file does not start with the header of these answers"
            ),
            Kind::Header {
                column,
                found,
                expected,
            } => write_header(
                f,
                &self.path,
                *column,
                found.as_deref(),
                expected.as_deref(),
            ),
            Kind::Record { line, reason } => write!(f, "{path}:{line}: cannot resume: {reason}"),
            Kind::Changed(change) => write_change(f, &self.path, change),
            Kind::NoSuchRow { line, row, rows } => write!(
                f,
                "{path}:{line}: cannot resume: this is the answer to row {row}, and the input has \
                 {rows} rows"
            ),
        }
    }
}

fn write_header(
    f: &mut fmt::Formatter<'_>,
    path: &Path,
    column: usize,
    found: Option<&str>,
    expected: Option<&str>,
) -> fmt::Result {
    let path = path.display();
    write!(f, "{path}:1: cannot resume: column {column} is ")?;
    match (found, expected) {
        (Some(found), Some(expected)) => {
            write!(f, "{found} and would be {expected}")?;
        }
        (Some(found), None) => write!(f, "{found} and would be absent")?,
        (None, expected) => write!(f, "absent and would be {}", expected.unwrap_or("absent"))?,
    }
    f.write_str(" with this input and these options")
}

fn write_change(f: &mut fmt::Formatter<'_>, path: &Path, change: &Change) -> fmt::Result {
    let Change {
        row,
        input_line,
        answers_line,
        column,
        input,
        answer,
        is_spreadsheet,
    } = change;
    let path = path.display();
    write!(
        f,
        "{path}:{answers_line}: cannot resume: row {row} has changed: `{column}` is {input} on \
         line {input_line} of the input and {answer} on line {answers_line} of the answers"
    )?;
    if *is_spreadsheet {
        f.write_str(", as `--spreadsheet` writes it; such a file cannot be resumed")?;
    } else if input == answer {
        f.write_str("; they differ in a part that is not shown")?;
    }
    Ok(())
}

impl Error for AnswersError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            Kind::Open { source }
            | Kind::Read { source }
            | Kind::Write { source, .. }
            | Kind::Replace { source, .. } => Some(source),
            _ => None,
        }
    }
}
