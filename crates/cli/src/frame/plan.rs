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
    /// The limits of lanes that have their own, by a name of the lane.
    pub(crate) own_limits: HashMap<String, LaneLimits>,
    /// The names of a lane in `own_limits`, the more exact one first.
    pub(crate) names_of: fn(&str) -> [&str; 2],
    /// How a higher limit of a lane is set, for the message that tells the price.
    pub(crate) rate_option: &'static str,
    /// What may be repeated on resume, if that may do harm.
    pub(crate) repeats: Option<String>,
    /// The settings, as they are written into the sidecar.
    pub(crate) settings: Vec<(String, String)>,
}

impl Plan {
    /// The name under which a lane has limits of its own.
    pub(super) fn own_name<'a>(&self, lane: &'a str) -> Option<&'a str> {
        let names = (self.names_of)(lane);
        names
            .into_iter()
            .find(|name| self.own_limits.contains_key(*name))
    }
}
