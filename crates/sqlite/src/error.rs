//! Errors of SQLite as errors of a broker: each names the file and, where there is something to do, says
//! what.

use std::path::Path;

use brigade::broker::BrokerError;
use rusqlite::ErrorCode;

/// A [`BrokerError`] that can be cloned: the settlements of one transaction each report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The handle was closed.
    Closed,
    /// It may end by itself.
    Unavailable(String),
    /// A repetition does not mend it.
    Permanent(String),
}

impl Fault {
    pub(crate) fn is_closed(&self) -> bool {
        *self == Self::Closed
    }
}

impl From<Fault> for BrokerError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Closed => Self::closed(),
            Fault::Unavailable(what) => Self::unavailable(what),
            Fault::Permanent(what) => Self::permanent(what),
        }
    }
}

/// Says what has happened to the queue at `path`, and whether it may end by itself.
pub(crate) fn fault(path: &Path, error: &rusqlite::Error) -> Fault {
    let file = path.display();
    match error.sqlite_error_code() {
        // Nothing is lost: the transaction was rolled back, and the next one may find room.
        Some(ErrorCode::DiskFull) => Fault::Unavailable(format!(
            "no room is left for the queue {file}: nothing was changed; free space on its file \
             system, or purge results, and repeat the call"
        )),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Fault::Unavailable(format!(
            "another process kept the queue {file} locked for longer than the busy timeout: nothing was changed"
        )),
        Some(ErrorCode::SystemIoFailure) => Fault::Unavailable(format!(
            "the queue {file} could not be read or written: {error}"
        )),
        Some(ErrorCode::OutOfMemory | ErrorCode::OperationInterrupted | ErrorCode::CannotOpen) => {
            Fault::Unavailable(format!("the queue {file}: {error}"))
        }
        Some(ErrorCode::NotADatabase) => Fault::Permanent(format!("{file} is not an SQLite file")),
        Some(ErrorCode::DatabaseCorrupt) => Fault::Permanent(format!(
            "the queue {file} is damaged ({error}): restore it from a backup, or save what is \
             readable with `sqlite3 {file} .recover`"
        )),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            Fault::Permanent(format!("the queue {file} may not be written: {error}"))
        }
        _ => Fault::Permanent(format!("the queue {file}: {error}")),
    }
}

/// Whether another connection has the lock, so that a repetition may succeed.
pub(crate) fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}
