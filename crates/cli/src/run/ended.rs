//! How an attempt ended: the output of its process, and the error of one that failed.

use std::{error::Error, ffi::OsString, fmt, io, path::PathBuf, time::Duration};

use rustix::process::Signal;

/// What is known of a process that has run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The exit code; `None` if a signal ended the process.
    pub(crate) exit_code: Option<i32>,
    /// The number of the signal that ended the process.
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: Captured,
    pub(crate) stderr: Captured,
    /// From before the process was started until its end was known.
    pub(crate) elapsed: Duration,
}

/// The first bytes of an output, as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Captured {
    pub(crate) text: Vec<u8>,
    /// How many bytes came after `text`; they were read and dropped.
    pub(crate) truncated: u64,
}

/// Why a process is ended before it ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The run was interrupted.
    Interrupted,
    /// The deadline of the run has passed.
    Deadline,
}

/// An attempt that failed.
#[derive(Debug)]
pub(crate) enum RunError {
    /// An argument holds a NUL byte, which ends arguments. Counted from 0, the program.
    Nul { index: usize },
    /// The program was not started.
    Spawn {
        program: OsString,
        source: io::Error,
    },
    /// The file for the output cannot be made.
    SaveOutput { path: PathBuf, source: io::Error },
    /// The process cannot be watched, and was killed.
    Watch { source: io::Error },
    /// The process exited with a code other than 0.
    Exit(Box<Ended>),
    /// A signal of others ended the process.
    Signal(Box<Ended>),
    /// The process ran for longer than allowed, and was ended.
    Timeout { after: Duration, ended: Box<Ended> },
    /// The process was ended because the run ends.
    Stopped { stop: Stop, ended: Box<Ended> },
}

impl RunError {
    /// The value of the column `error_kind`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Nul { .. }
            | Self::Spawn { .. }
            | Self::SaveOutput { .. }
            | Self::Watch { .. } => "spawn",
            Self::Exit(_) => "exit",
            Self::Signal(_) => "signal",
            Self::Timeout { .. } => "timeout",
            Self::Stopped { stop, .. } => match stop {
                Stop::Interrupted => "interrupted",
                Stop::Deadline => "deadline",
            },
        }
    }

    /// Whether a further attempt may end otherwise.
    ///
    /// It may not when the program is missing or not executable, its arguments are impossible, or
    /// the run ends.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Nul { .. } | Self::Stopped { .. } => false,
            Self::Spawn { source, .. } => {
                !matches!(
                    source.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::ArgumentListTooLong
                        | io::ErrorKind::InvalidInput
                        | io::ErrorKind::InvalidFilename
                ) && !is_no_executable(source)
            }
            Self::SaveOutput { .. }
            | Self::Watch { .. }
            | Self::Exit(_)
            | Self::Signal(_)
            | Self::Timeout { .. } => true,
        }
    }

    /// Exit code, signal and output; `None` if no process ran.
    pub(crate) fn ended(&self) -> Option<&Ended> {
        match self {
            Self::Exit(ended)
            | Self::Signal(ended)
            | Self::Timeout { ended, .. }
            | Self::Stopped { ended, .. } => Some(ended),
            Self::Nul { .. }
            | Self::Spawn { .. }
            | Self::SaveOutput { .. }
            | Self::Watch { .. } => None,
        }
    }
}

fn is_no_executable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error())
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nul { index: 0 } => f.write_str("the program's name holds a NUL byte"),
            Self::Nul { index } => write!(
                f,
                "argument {index} holds a NUL byte, which no argument can; \
                 standard input (`--stdin`) can"
            ),
            Self::Spawn { program, source } => {
                write!(f, "cannot start {}: {source}", program.display())?;
                if source.kind() == io::ErrorKind::ArgumentListTooLong {
                    f.write_str("; standard input (`--stdin`) has no such limit")?;
                }
                Ok(())
            }
            Self::SaveOutput { path, source } => {
                write!(f, "cannot write {}: {source}", path.display())
            }
            Self::Watch { source } => {
                write!(f, "cannot watch the process, which was killed: {source}")
            }
            Self::Exit(ended) | Self::Signal(ended) => ending(ended, f),
            Self::Timeout { after, ended } => {
                write!(
                    f,
                    "timed out after {}; ",
                    humantime::format_duration(*after)
                )?;
                ending(ended, f)
            }
            Self::Stopped { stop, ended } => {
                f.write_str(match stop {
                    Stop::Interrupted => "interrupted; ",
                    Stop::Deadline => "the deadline of the run has passed; ",
                })?;
                ending(ended, f)
            }
        }
    }
}

impl Error for RunError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Spawn { source, .. }
            | Self::SaveOutput { source, .. }
            | Self::Watch { source } => Some(source),
            Self::Nul { .. }
            | Self::Exit(_)
            | Self::Signal(_)
            | Self::Timeout { .. }
            | Self::Stopped { .. } => None,
        }
    }
}

fn ending(ended: &Ended, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match (ended.exit_code, ended.signal) {
        (Some(code), _) => write!(f, "exit code {code}"),
        (None, Some(number)) => match signal_name(number) {
            Some(name) => write!(f, "ended by {name}"),
            None => write!(f, "ended by signal {number}"),
        },
        (None, None) => f.write_str("killed, but not ended yet"),
    }
}

/// The name of a signal that usually ends processes.
fn signal_name(number: i32) -> Option<&'static str> {
    let names = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::XFSZ, "SIGXFSZ"),
        (Signal::SYS, "SIGSYS"),
    ];
    let found = names.iter().find(|(signal, _)| signal.as_raw() == number);
    found.map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR_KINDS: [&str; 6] = [
        "spawn",
        "timeout",
        "exit",
        "signal",
        "interrupted",
        "deadline",
    ];

    fn errors() -> Vec<RunError> {
        let ended = Box::new(Ended {
            exit_code: Some(3),
            ..Ended::default()
        });
        let io = || io::Error::from(io::ErrorKind::WouldBlock);
        let after = Duration::from_secs(90);
        let mut errors = vec![
            RunError::Nul { index: 0 },
            RunError::Spawn {
                program: "x".into(),
                source: io(),
            },
            RunError::SaveOutput {
                path: "x".into(),
                source: io(),
            },
            RunError::Watch { source: io() },
            RunError::Exit(ended.clone()),
            RunError::Signal(ended.clone()),
            RunError::Timeout {
                after,
                ended: ended.clone(),
            },
        ];
        for stop in [Stop::Interrupted, Stop::Deadline] {
            let ended = ended.clone();
            errors.push(RunError::Stopped { stop, ended });
        }
        errors
    }

    #[test]
    fn each_error_has_a_kind_of_the_list_and_each_kind_an_error() {
        let kinds: Vec<_> = errors().iter().map(RunError::kind).collect();
        assert!(
            kinds.iter().all(|kind| ERROR_KINDS.contains(kind)),
            "{kinds:?}"
        );
        assert!(
            ERROR_KINDS.iter().all(|kind| kinds.contains(kind)),
            "{kinds:?}"
        );
    }

    #[test]
    fn the_end_of_a_process_is_told_in_the_message() {
        let ended = |exit_code, signal| {
            Box::new(Ended {
                exit_code,
                signal,
                ..Ended::default()
            })
        };
        let after = Duration::from_secs(90);
        for (error, message) in [
            (RunError::Exit(ended(Some(3), None)), "exit code 3"),
            (RunError::Signal(ended(None, Some(11))), "ended by SIGSEGV"),
            (
                RunError::Signal(ended(None, Some(62))),
                "ended by signal 62",
            ),
            (
                RunError::Timeout {
                    after,
                    ended: ended(Some(0), None),
                },
                "timed out after 1m 30s; exit code 0",
            ),
            (
                RunError::Stopped {
                    stop: Stop::Deadline,
                    ended: ended(None, None),
                },
                "the deadline of the run has passed; killed, but not ended yet",
            ),
        ] {
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn a_lack_of_resources_may_be_over_at_the_next_attempt() {
        for (error, is_retryable) in [
            (rustix::io::Errno::AGAIN, true),
            (rustix::io::Errno::NOMEM, true),
            (rustix::io::Errno::MFILE, true),
            (rustix::io::Errno::NOENT, false),
            (rustix::io::Errno::ACCESS, false),
            (rustix::io::Errno::NOEXEC, false),
            (rustix::io::Errno::TOOBIG, false),
        ] {
            let error = RunError::Spawn {
                program: "x".into(),
                source: error.into(),
            };
            assert_eq!(error.is_retryable(), is_retryable, "{error}");
        }
    }
}
