//! The surroundings that smol offers: async-io's timer, and smol's global executor.

use std::time::Instant;

use super::{BoxFuture, Timer};

/// The system's monotonic clock with the timers of `async-io`, which work under any executor.
///
/// `async-io` drives its timers from whatever task blocks on them or from a helper thread of its
/// own, so an embedder has nothing to start.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsyncIoTimer;

impl Timer for AsyncIoTimer {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            async_io::Timer::at(at).await;
        })
    }
}

#[cfg(feature = "smol")]
pub use global::SmolGlobal;

#[cfg(feature = "smol")]
mod global {
    use crate::rt::{BoxFuture, Spawn};

    /// smol's global executor, as [`smol::spawn`] uses it.
    ///
    /// It has **one** thread unless the environment variable `SMOL_THREADS` names another number
    /// when it is first used: handlers that compute take turns there, however many workers there
    /// are. For more threads without the variable, use [`spawn_on`](crate::Builder::spawn_on) with
    /// an executor that several threads run.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct SmolGlobal;

    impl Spawn for SmolGlobal {
        fn spawn(&self, future: BoxFuture<'static, ()>) {
            ::smol::spawn(future).detach();
        }
    }
}
