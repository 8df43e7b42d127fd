//! What the commands tell the frame besides their work.

use std::collections::HashMap;

use super::lanes::LaneLimits;

/// What `fetch` and `run` set apart from the common options.
pub(crate) struct Plan {
    /// The name of the command.
    pub(crate) name: &'static str,
    /// What its jobs wait for while they run.
    pub(crate) busy: &'static str,
    pub(crate) workers: usize,
    pub(crate) retries: u32,
    /// The limits of all lanes but those of `own_limits`; `None` if rows have no lanes.
    pub(crate) limits: Option<LaneLimits>,
    /// Lanes with limits of their own, by what `host_of` returns for a lane.
    pub(crate) own_limits: HashMap<String, LaneLimits>,
    pub(crate) host_of: fn(&str) -> &str,
    /// How a higher limit of a lane is set, for the message that tells the price.
    pub(crate) rate_option: &'static str,
    /// What may be repeated on resume, if that may do harm.
    pub(crate) repeats: Option<String>,
    /// The settings, as they are written into the sidecar.
    pub(crate) settings: Vec<(String, String)>,
}
