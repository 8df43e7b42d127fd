//! What makes this job one to try things out with: how long it takes, and which paths it refuses.

use std::{fmt, time::Duration};

use brigade::csv::Column;

use crate::options::Options;

/// What all jobs share.
pub(crate) struct Demo {
    /// Where the path is.
    pub(crate) column: Column,
    /// How long a job takes.
    pub(crate) takes: Duration,
    fail_on: Option<String>,
}

/// How a job fails: its path contains the text of `--fail-on`.
#[derive(Debug)]
pub(crate) struct Refused(String);

impl Demo {
    pub(crate) fn new(column: Column, options: &Options) -> Self {
        Self {
            column,
            takes: Duration::from_millis(options.job_ms),
            fail_on: options.fail_on.clone(),
        }
    }

    pub(crate) fn refuse(&self, path: &str) -> Result<(), Refused> {
        match &self.fail_on {
            Some(text) if path.contains(text) => Err(Refused(text.clone())),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the path contains {:?}", self.0)
    }
}
