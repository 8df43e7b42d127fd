//! Contains panics: [`catch`] calls a closure and returns its value or the panic's message. Nothing
//! of the payload stays.
//!
//! All user code around a job that can panic is called through this file: making the future,
//! polling it, dropping it, dropping the panic's payload, and wakers that the pool calls for
//! others. Not contained are panics with `panic = "abort"`, and a panic inside a drop that runs
//! because of another panic; both end the process.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// What a panic said: the text of its payload, or a note that the payload was not text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PanicMessage {
    text: Box<str>,
}

impl PanicMessage {
    /// The text of the payload.
    ///
    /// `panic!` makes a `&str` or a `String`; of a payload of another type, only that it was one is
    /// known.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for PanicMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for PanicMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether panics in handlers are contained in this build.
///
/// With `panic = "abort"` in the profile they are not: the first one ends the process.
///
/// # Examples
///
/// ```
/// assert_eq!(brigade::panic_isolation(), cfg!(panic = "unwind"));
/// ```
pub const fn panic_isolation() -> bool {
    // True in every build that can be tested: the test harness needs to unwind itself.
    cfg!(panic = "unwind")
}

/// Calls the closure; a panic becomes its message.
///
/// After a panic, what the closure captures may be in a broken state. The callers drop it, or keep
/// no invariant in it that a panic could break.
pub(crate) fn catch<R>(call: impl FnOnce() -> R) -> Result<R, PanicMessage> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let message = PanicMessage {
            text: text(&*payload),
        };
        discard_payload(payload);
        message
    })
}

/// Drops a user value. Returns whether that panicked.
pub(crate) fn discard<V>(value: V) -> bool {
    catch(|| drop(value)).is_err()
}

/// Wakes all wakers, also if some panic.
///
/// No lock of the library may be held: a waker may submit or cancel before it returns.
#[inline]
pub(crate) fn wake(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        let _ = catch(|| waker.wake());
    }
}

fn text(payload: &(dyn Any + Send)) -> Box<str> {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        Box::from(*text)
    } else if let Some(text) = payload.downcast_ref::<String>() {
        Box::from(text.as_str())
    } else {
        Box::from("the panic's payload is not text")
    }
}

fn discard_payload(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // A payload whose drop panics may do so forever; the second one is forgotten.
        std::mem::forget(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::panic_any(Self);
        }
    }

    #[test]
    fn the_message_of_a_panic_is_its_text() {
        assert_eq!(catch(|| panic!("plain")).unwrap_err().as_str(), "plain");
        let number = 7;
        assert_eq!(
            catch(|| panic!("number {number}")).unwrap_err().as_str(),
            "number 7"
        );
        assert_eq!(
            catch(|| std::panic::panic_any(7)).unwrap_err().as_str(),
            "the panic's payload is not text"
        );
        assert_eq!(catch(|| 7), Ok(7));
    }

    #[test]
    fn a_payload_whose_drop_panics_is_contained() {
        assert_eq!(
            catch(|| std::panic::panic_any(Bomb)).unwrap_err().as_str(),
            "the panic's payload is not text"
        );
        assert!(discard(Bomb));
        assert!(!discard(7));
    }
}
