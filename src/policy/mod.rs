//! Retries and time limits, as a user sets them.

pub(crate) mod limits;
pub(crate) mod retry;
