//! Why no more rows are taken, as a message and as an exit code.

use std::fmt;
use std::io;
use std::path::Path;

use brigade::csv::CsvError;

use crate::answers::AnswersError;
use crate::feed::FeedError;
use crate::signals::Signal;

/// Why no more rows are taken before the input has ended, or why none was taken.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The input cannot be used, or not to its end.
    Input(String),
    /// The answers cannot be opened, compared or written.
    Answers(AnswersError),
    /// Another output cannot be opened or written.
    Output(String),
    /// An option has a value that the input, or the machine, does not allow.
    Usage(String),
    /// There was a bad row, and `--on-bad-row stop`.
    BadRow,
    /// As many rows failed as `--max-failures` says.
    Failures,
    /// The time of `--deadline` has passed.
    Deadline,
    /// A signal came.
    Interrupted(Signal),
}

impl Stop {
    pub(crate) fn output(path: &Path, problem: impl fmt::Display) -> Self {
        Self::Output(format!("{}: {problem}", path.display()))
    }

    pub(crate) fn write(path: &Path, error: &io::Error) -> Self {
        Self::output(path, format_args!("cannot write: {error}"))
    }

    /// What `ended` is in the sidecar.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Input(_) | Self::BadRow => "input",
            Self::Answers(_) | Self::Output(_) => "output",
            Self::Usage(_) => "usage",
            Self::Failures => "failures",
            Self::Deadline => "deadline",
            Self::Interrupted(_) => "interrupted",
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::BadRow | Self::Failures | Self::Deadline => 1,
            // What a process has that the signal of a closed pipe ends: 128 + SIGPIPE.
            Self::Answers(_) if self.is_broken_pipe() => 141,
            Self::Input(_) | Self::Answers(_) | Self::Output(_) | Self::Usage(_) => 2,
            Self::Interrupted(signal) => signal.exit_code(),
        }
    }

    /// The message on stderr; none where it was said already.
    pub(crate) fn message(&self) -> Option<String> {
        match self {
            Self::Input(message) | Self::Output(message) | Self::Usage(message) => {
                Some(message.clone())
            }
            Self::Answers(_) if self.is_broken_pipe() => None,
            Self::Answers(error) => Some(error.to_string()),
            Self::BadRow => None,
            Self::Failures => {
                Some("stopped by --max-failures: no more rows are started".to_owned())
            }
            Self::Deadline => Some("stopped by --deadline: what runs is cut short".to_owned()),
            Self::Interrupted(signal) => Some(format!(
                "{signal}: finishing what runs; a second signal cuts it short"
            )),
        }
    }

    /// Whether the reason is said when it comes up, and not at the end.
    pub(crate) const fn is_told_at_once(&self) -> bool {
        matches!(self, Self::Interrupted(_) | Self::Failures | Self::Deadline)
    }

    /// Whether an output has failed, which goes before other reasons.
    pub(crate) const fn is_of_output(&self) -> bool {
        matches!(self, Self::Answers(_) | Self::Output(_))
    }

    /// Whether the reader of stdout has closed it, which is no fault.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Answers(error) if error.is_broken_pipe())
    }

    /// Whether what runs is cut short at once.
    pub(crate) const fn is_immediate(&self) -> bool {
        matches!(self, Self::Deadline | Self::Answers(_))
    }
}

impl From<CsvError> for Stop {
    fn from(error: CsvError) -> Self {
        Self::Input(error.to_string())
    }
}

impl From<AnswersError> for Stop {
    fn from(error: AnswersError) -> Self {
        Self::Answers(error)
    }
}

impl From<FeedError<Self>> for Stop {
    fn from(error: FeedError<Self>) -> Self {
        match error {
            FeedError::Check(stop) => stop,
            error => Self::Input(error.to_string()),
        }
    }
}

impl From<Signal> for Stop {
    fn from(signal: Signal) -> Self {
        Self::Interrupted(signal)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message().unwrap_or_default())
    }
}
