//! The command line comes in, checked options go out. It opens nothing.

use std::path::{Path, PathBuf};

use brigade::{OnError, csv::Reader};
use clap::{Parser, ValueEnum};

/// The file that is read if none is named.
const DUMMY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/dummy.csv");
/// More workers or places than this are refused as a slip of the finger.
const MOST: usize = 1_000_000;

const EXIT_CODES: &str = "\
Output:
  stdout has a line `Done PATH` for each job as it finishes, and at the end one line with the list of all paths.
  stderr has everything else. Unless an option is refused, its last line is
      rows=… bad=… ok=… failed=… not_started=…
  for the rows that were read; rows is the sum of the others. The list, and nothing else, grows with the file.

Exit code:
    0  every row was read and done
    1  some rows were bad or some jobs failed
    2  bad usage, a file that cannot be used as CSV, or an output that cannot be written
  130  interrupted by ctrl-c (SIGINT): accepted jobs were finished; a second signal cuts them short
  143  the same by SIGTERM
  141  stdout was closed by its reader: accepted jobs were finished, no more rows were read";

/// Runs one job for each row of a CSV file. The job sleeps for a moment and answers with the row's
/// path.
#[derive(Debug, Parser)]
#[command(name = "csv_pool", after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Options {
    /// The CSV file, in UTF-8 and with a header; `-` is stdin [default: the dummy.csv of this
    /// example]
    #[arg(default_value = DUMMY, hide_default_value = true)]
    pub(crate) file: PathBuf,

    /// The name of the column that has the paths
    #[arg(long, value_name = "NAME", default_value = "1")]
    pub(crate) column: String,

    /// How many jobs run at once
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = count)]
    pub(crate) workers: usize,

    /// How many rows may wait for a worker
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = count)]
    pub(crate) capacity: usize,

    /// Write results in the order of the rows, not as jobs finish
    #[arg(long)]
    pub(crate) ordered: bool,

    /// What to do about a row that is ragged or not UTF-8
    #[arg(long, value_name = "WHAT", default_value = "continue")]
    pub(crate) on_bad_row: OnBadRow,

    /// Write bad rows to this file, with two more columns: line and error. It holds all that the
    /// rows hold
    #[arg(long, value_name = "FILE")]
    pub(crate) rejects: Option<PathBuf>,

    /// Write the rows whose jobs failed, or were read but never started, to this file. It has the
    /// header of the input, so that it can be the input of the next run. It holds all that the rows
    /// hold
    #[arg(long, value_name = "FILE")]
    pub(crate) failures: Option<PathBuf>,

    /// Stop at the Nth failed job: running jobs are cut short and count as failed, waiting ones do
    /// not start
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) max_failures: Option<usize>,

    /// The greatest size of one row in bytes; a longer one ends the run
    #[arg(long, value_name = "N", default_value_t = Reader::DEFAULT_MAX_RECORD_BYTES, value_parser = at_least_one)]
    pub(crate) max_record_bytes: usize,

    /// The character between two fields; `\t` is a tab
    #[arg(long, value_name = "CHAR", default_value = ",", value_parser = delimiter)]
    pub(crate) delimiter: u8,

    /// For trying things out: let the jobs fail whose path contains this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) fail_on: Option<String>,

    /// For trying things out: how long each job takes, in milliseconds
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) job_ms: u64,
}

/// What to do about a bad row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnBadRow {
    /// Take no more rows, and finish the jobs that were accepted
    Stop,
    /// Go on, and report only how many there were
    Skip,
    /// Go on, and report the first 20; with --rejects, only how many there were
    Continue,
}

impl Options {
    /// What messages call the file.
    pub(crate) fn file_name(&self) -> String {
        if self.is_stdin() {
            "stdin".to_owned()
        } else {
            self.file.display().to_string()
        }
    }

    pub(crate) fn is_stdin(&self) -> bool {
        self.file == Path::new("-")
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader::new()
            .delimiter(self.delimiter)
            .max_record_bytes(self.max_record_bytes)
    }

    pub(crate) fn on_error(&self) -> OnError {
        self.max_failures
            .map_or(OnError::Continue, OnError::StopAfter)
    }
}

fn count(text: &str) -> Result<usize, String> {
    match at_least_one(text)? {
        number if number <= MOST => Ok(number),
        _ => Err(format!("must be at most {MOST}")),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        _ if text == "\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => Ok(*byte),
        _ => Err("must be one ASCII character, neither a quote nor a line break".to_owned()),
    }
}
