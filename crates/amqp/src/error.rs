//! Which failures of lapin and of the server may end by themselves.

use std::fmt;

use brigade::broker::BrokerError;
use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

pub(crate) fn permanent(message: impl fmt::Display) -> BrokerError {
    BrokerError::permanent(message.to_string())
}

pub(crate) fn unavailable(message: impl fmt::Display) -> BrokerError {
    BrokerError::unavailable(message.to_string())
}

/// What a call gets that waited too long.
pub(crate) fn timed_out(what: &str) -> BrokerError {
    unavailable(format!("the server did not answer in time: {what}"))
}

/// A failure that concerns the connection: it is lost, or was refused.
pub(crate) fn of_connection(cause: &lapin::Error) -> BrokerError {
    match refusal(cause) {
        Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED))
        | Some(AMQPErrorKind::Hard(
            AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH | AMQPHardError::NOTIMPLEMENTED,
        )) => permanent(cause),
        _ => unavailable(cause),
    }
}

/// A failure to declare or to use a queue: the server refuses it, or the connection is lost.
pub(crate) fn of_declaration(queue: &str, passive: bool, cause: &lapin::Error) -> BrokerError {
    let Some(AMQPErrorKind::Soft(kind)) = refusal(cause) else {
        return of_connection(cause);
    };
    let advice = match kind {
        AMQPSoftError::PRECONDITIONFAILED => {
            "it exists with other arguments. Connect with the options it was declared with, or with \
             `passive`, or delete it once it is empty"
        }
        AMQPSoftError::NOTFOUND if is_down(cause) => return of_connection(cause),
        AMQPSoftError::NOTFOUND if passive => {
            "it does not exist. Declare it, or connect without `passive`"
        }
        AMQPSoftError::ACCESSREFUSED => "the user may not use it",
        _ => "the server does not allow it now",
    };
    let message = format!("queue `{queue}`: {advice} ({cause})");
    match kind {
        // Another connection has locked it.
        AMQPSoftError::RESOURCELOCKED => unavailable(message),
        _ => permanent(message),
    }
}

/// What a call gets whose message was returned, because its queue does not exist.
pub(crate) fn of_return(queue: &str, code: u16, text: &str) -> BrokerError {
    permanent(format!(
        "queue `{queue}` does not exist or cannot be routed to: declare it ({code} {text})"
    ))
}

fn refusal(cause: &lapin::Error) -> Option<AMQPErrorKind> {
    match cause.kind() {
        ErrorKind::ProtocolError(error) => Some(error.kind().clone()),
        _ => None,
    }
}

/// A queue whose replicas cannot be reached is reported as not found.
fn is_down(cause: &lapin::Error) -> bool {
    cause.to_string().contains("down or inaccessible")
}
