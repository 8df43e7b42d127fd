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

/// A failure to publish a message of this size. The server closes the channel over one that it refuses,
/// and with it fail those that were published before and after: only the refused one is a permanent
/// error.
pub(crate) fn of_publishing(size: usize, cause: &lapin::Error) -> BrokerError {
    let Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)) = refusal(cause) else {
        return of_connection(cause);
    };
    match refused_size(&cause.to_string()) {
        Some(refused) if refused != size => unavailable(cause),
        _ => permanent(cause),
    }
}

/// The first number of `message size 2000 is larger than configured max size 1000`.
fn refused_size(text: &str) -> Option<usize> {
    let (_, rest) = text.split_once("message size ")?;
    rest.split_once(' ')?.0.parse().ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::AMQPError;

    #[test]
    fn only_the_message_that_is_too_large_is_refused_for_good() {
        let failed = |text: &str| {
            let kind = AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED);
            lapin::Error::from(ErrorKind::ProtocolError(AMQPError::new(kind, text.into())))
        };
        let size = failed(
            "PRECONDITION_FAILED - message size 2000 is larger than configured max size 1000",
        );
        assert!(of_publishing(2000, &size).is_permanent());
        assert!(!of_publishing(1000, &size).is_permanent());
        let other = failed("PRECONDITION_FAILED - invalid expiration");
        assert!(of_publishing(1000, &other).is_permanent());
    }
}
