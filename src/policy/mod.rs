//! What a user sets about attempts: retries and time limits.

pub(crate) mod limits;
pub(crate) mod retry;
