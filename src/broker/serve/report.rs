//! What serving has done.

use std::error::Error;
use std::fmt;

use super::super::BrokerError;

/// What [`serve`](super::serve()) has done. Always, `fetched` is the sum of `acked`, `retried`,
/// `released`, `dead_lettered`, `lost` and `unsettled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServeReport {
    /// Deliveries that were fetched.
    pub fetched: u64,
    /// Of these, those that may have been delivered before.
    pub redelivered: u64,
    /// Deliveries that were acknowledged.
    pub acked: u64,
    /// Deliveries whose job failed and is delivered again.
    pub retried: u64,
    /// Deliveries that were given back without a failure.
    pub released: u64,
    /// Deliveries whose job is not tried again.
    pub dead_lettered: u64,
    /// Deliveries that were over before they were settled, or that a settlement had settled whose
    /// answer was lost.
    pub lost: u64,
    /// Deliveries whose settlement failed: their jobs are delivered again when the lease or the
    /// connection ends, unless the broker has settled them without saying so.
    pub unsettled: u64,
}

/// Why [`serve`](super::serve()) ended before it was told to.
#[derive(Debug)]
#[non_exhaustive]
pub struct ServeError {
    /// What it had done. What ran was finished, and settled as far as the broker allowed.
    pub report: ServeReport,
    /// The permanent error of a fetch or a settlement.
    pub error: BrokerError,
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl Error for ServeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}
