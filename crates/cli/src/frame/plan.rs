//! What the commands tell the frame besides their work.

/// What `fetch` and `run` set apart from the common options.
pub(crate) struct Plan {
    /// The name of the command.
    pub(crate) name: &'static str,
    /// What its jobs wait for while they run.
    pub(crate) busy: &'static str,
    pub(crate) workers: usize,
    pub(crate) retries: u32,
    /// Whether rows have lanes.
    pub(crate) has_lanes: bool,
    /// How a higher limit of a lane is set, for the message that tells the price.
    pub(crate) rate_option: &'static str,
    /// What may be repeated on resume, if that may do harm.
    pub(crate) repeats: Option<String>,
    /// The settings, as they are written into the sidecar.
    pub(crate) settings: Vec<(String, String)>,
}
