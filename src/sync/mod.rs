//! The locks and atomics of the library, and its channels: those of the standard library and of
//! async-channel; with the feature `testing`, the same with [preemption points](preempt) around
//! them; or, in a build that explores schedules (`--cfg brigade_model="…"`), those of the explorer.
//!
//! Shuttle picks among the threads at each lock and atomic, at random; the real channels are in its
//! build, and each call of theirs is one step. Loom goes through all orders of the operations it
//! sees, so in its build the channels are small ones made of its locks. Counts of references are
//! the standard library's everywhere.

use std::sync::{LockResult, PoisonError};

#[cfg(not(any(feature = "testing", brigade_model = "loom", brigade_model = "shuttle")))]
mod imp {
    pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
    pub(crate) use std::{sync as in_wakers, thread_local};

    pub(crate) use async_channel as channel;
}

#[cfg(feature = "testing")]
pub(crate) mod preempt;
#[cfg(all(
    feature = "testing",
    not(any(brigade_model = "loom", brigade_model = "shuttle"))
))]
use self::preempt as imp;

#[cfg(brigade_model = "shuttle")]
mod imp {
    pub(crate) use async_channel as channel;
    pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
    pub(crate) use shuttle::thread_local;

    /// The channels wake under locks of their own, which shuttle does not know, so nothing may be
    /// scheduled there.
    pub(crate) use std::sync as in_wakers;
}

#[cfg(brigade_model = "loom")]
mod loom;
#[cfg(brigade_model = "loom")]
use self::loom as imp;

pub(crate) use self::imp::*;

/// The guard of a mutex, or its value, also if it is poisoned. Poison says nothing in this crate: no
/// function panics halfway through a change under a lock.
#[inline]
pub(crate) fn ignore_poison<G>(locked: LockResult<G>) -> G {
    locked.unwrap_or_else(PoisonError::into_inner)
}
