//! Why no more rows are taken, as a message and as an exit code.

use std::{fmt, io, path::Path};

use brigade::csv::CsvError;

use crate::signals::Signal;

/// Why no more rows are taken before the file has ended, or why none was taken.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The file cannot be used, or not to its end.
    Input(CsvError),
    /// An output cannot be opened or written.
    Output { name: String, problem: String },
    /// The signals cannot be caught.
    NoSignals(io::Error),
    /// There was a bad row, and `--on-bad-row stop`.
    BadRow,
    /// As many jobs failed as `--max-failures` says.
    Failures,
    /// A signal came.
    Interrupted(Signal),
    /// The reader of stdout has closed it.
    StdoutClosed,
}

impl Stop {
    pub(crate) fn output(path: &Path, problem: impl fmt::Display) -> Self {
        Self::Output {
            name: path.display().to_string(),
            problem: problem.to_string(),
        }
    }

    pub(crate) fn write(path: &Path, error: &io::Error) -> Self {
        Self::output(path, format_args!("cannot write: {error}"))
    }

    pub(crate) fn stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::StdoutClosed,
            _ => Self::Output {
                name: "stdout".to_owned(),
                problem: format!("cannot write: {error}"),
            },
        }
    }

    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::BadRow | Self::Failures => 1,
            Self::Input(_) | Self::Output { .. } | Self::NoSignals(_) => 2,
            Self::Interrupted(signal) => signal.exit_code(),
            // What a process has that the signal of a closed pipe ends: 128 + SIGPIPE.
            Self::StdoutClosed => 141,
        }
    }

    /// The message on stderr; none where the user knows already.
    pub(crate) fn message(&self) -> Option<String> {
        match self {
            Self::Input(error) => Some(error.to_string()),
            Self::Output { name, problem } => Some(format!("{name}: {problem}")),
            Self::NoSignals(error) => Some(format!("cannot catch signals: {error}")),
            Self::Interrupted(signal) => Some(format!(
                "{signal}: finishing the jobs that were accepted; a second signal cuts them short"
            )),
            Self::Failures => Some("stopped by --max-failures".to_owned()),
            Self::BadRow | Self::StdoutClosed => None,
        }
    }
}

impl From<CsvError> for Stop {
    fn from(error: CsvError) -> Self {
        Self::Input(error)
    }
}

impl From<Signal> for Stop {
    fn from(signal: Signal) -> Self {
        Self::Interrupted(signal)
    }
}
