//! Errors of SQLite as errors of a broker: each names the file and, where there is something to do, says
//! what.

use std::path::Path;

use brigade::broker::BrokerError;
use rusqlite::ErrorCode;

/// Says what has happened to the queue at `path`, and whether it may end by itself.
pub(crate) fn fault(path: &Path, error: &rusqlite::Error) -> BrokerError {
    let file = path.display();
    match error.sqlite_error_code() {
        // Nothing is lost: the transaction was rolled back, and the next one may find room.
        Some(ErrorCode::DiskFull) => BrokerError::unavailable(format!(
            "no room is left for the queue {file}: nothing was changed; free space on its file \
             system, and repeat the call"
        )),
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed,
        ) => BrokerError::unavailable(format!(
            "another process kept the queue {file} locked for longer than the busy timeout: nothing was changed"
        )),
        Some(ErrorCode::SystemIoFailure) => BrokerError::unavailable(format!(
            "the queue {file} could not be read or written: {error}"
        )),
        Some(ErrorCode::OutOfMemory | ErrorCode::OperationInterrupted | ErrorCode::CannotOpen) => {
            BrokerError::unavailable(format!("the queue {file}: {error}"))
        }
        Some(ErrorCode::NotADatabase) => {
            BrokerError::permanent(format!("{file} is not an SQLite file"))
        }
        Some(ErrorCode::DatabaseCorrupt) => BrokerError::permanent(format!(
            "the queue {file} is damaged ({error}): restore it from a backup, or save what is \
             readable with `sqlite3 {file} .recover`"
        )),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            BrokerError::permanent(format!("the queue {file} may not be written: {error}"))
        }
        _ => BrokerError::permanent(format!("the queue {file}: {error}")),
    }
}

/// Whether another connection has the lock, so that a repetition may succeed.
pub(crate) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::FileLockingProtocolFailed)
    )
}
