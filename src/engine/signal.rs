//! How others reach a slot: a flag with the reason why its job has to end, and the waker of the worker that waits there.

use std::sync::PoisonError;
use std::task::Waker;

use crate::error::CancelReason;
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// Why a running attempt has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interrupt(pub(crate) CancelReason);

/// How others reach a slot: a flag, and the waker of the worker that waits in it.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    /// 0, or one more than the position of the reason in [`REASONS`].
    interrupt: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

const REASONS: [CancelReason; 6] = [
    CancelReason::Handle,
    CancelReason::Stream,
    CancelReason::Stopped,
    CancelReason::Aborted,
    CancelReason::WouldDeadlock,
    CancelReason::Deadline,
];

/// The number of a reason, for an atomic; 0 stands for none.
pub(crate) fn reason_to_code(reason: CancelReason) -> u8 {
    (1..).zip(REASONS).find(|(_, known)| *known == reason).map_or(0, |(code, _)| code)
}

/// The reason behind a number.
pub(crate) fn reason_from_code(code: u8) -> Option<CancelReason> {
    REASONS.get(usize::from(code).checked_sub(1)?).copied()
}

impl Signal {
    pub(super) fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn interrupted(&self) -> Option<Interrupt> {
        reason_from_code(self.interrupt.load(Ordering::SeqCst)).map(Interrupt)
    }

    /// Leaves the waker for an interruption to come, and looks once more whether one has come already.
    pub(crate) fn listen(&self, waker: &Waker) -> Option<Interrupt> {
        let mut listener = self.waker();
        if !listener.as_ref().is_some_and(|known| known.will_wake(waker)) {
            let old = listener.replace(waker.clone());
            drop(listener);
            drop(old);
        } else {
            drop(listener);
        }
        self.interrupted()
    }

    pub(crate) fn clear(&self) {
        // Whoever set it did so before this job was found in the slot, so the look is not too early.
        if self.interrupt.load(Ordering::SeqCst) != 0 {
            self.interrupt.store(0, Ordering::SeqCst);
        }
    }

    /// Sets the reason, if there is none yet; the waker is to be woken once all locks are released.
    #[must_use = "the worker sleeps on otherwise"]
    pub(crate) fn interrupt(&self, reason: CancelReason) -> Option<Waker> {
        let _ = self.interrupt.compare_exchange(0, reason_to_code(reason), Ordering::SeqCst, Ordering::SeqCst);
        self.listener()
    }

    pub(super) fn listener(&self) -> Option<Waker> {
        self.waker().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_atomic() {
        for reason in REASONS {
            assert_eq!(reason_from_code(reason_to_code(reason)), Some(reason));
        }
        assert_eq!(reason_from_code(0), None);
    }
}
