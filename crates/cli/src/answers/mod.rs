//! The answers file: written in whole records, and read again to resume.
//!
//! In: the records of a run, and the file that an earlier run left. Out: the file, in which each
//! row of the input is at most once, and the rows that need not run again. The file is the only
//! journal: nothing else is kept between runs.

pub(crate) mod collected;
mod done;
mod error;
mod failed;
mod formula;
mod layout;
mod open;
mod output;
mod record;
mod scan;
mod show;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;

pub(crate) use self::{done::Done, error::AnswersError, writer::Answers};

/// How the answers are written, and where.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The file. Without one, the answers go to stdout.
    pub(crate) path: Option<PathBuf>,
    /// Whether a file that has answers is gone on with. It makes no difference to others.
    pub(crate) resume: Option<Resume>,
    /// Whether each record is on the disk within a second.
    pub(crate) durable: bool,
    /// Whether a `'` is put before cells that a spreadsheet would take for formulas. Such a file
    /// cannot be resumed.
    pub(crate) spreadsheet: bool,
    pub(crate) delimiter: u8,
    /// The names of the input's columns.
    pub(crate) input_header: Vec<String>,
    /// The names of the columns behind them, with the prefix; `row` and `ok` are among them.
    pub(crate) columns: Vec<String>,
    /// The prefix of the names in `columns`.
    pub(crate) prefix: String,
}

/// Which rows run when a run goes on from a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// The rows without an answer.
    Missing,
    /// Those, and the rows that failed.
    Failed,
}
