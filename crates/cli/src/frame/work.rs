//! What `fetch` and `run` tell the frame: which columns they add, and what they do with a row.

use std::sync::Arc;
use std::time::Duration;

use brigade::csv::Row;

/// The name of a lane: a host, or a key. Rows without one share the lane of the empty name.
pub(crate) type Lane = Arc<str>;

/// A row of the input and its number, which counts from 1.
#[derive(Debug, Clone)]
pub(crate) struct Numbered {
    pub(crate) row: Arc<Row>,
    pub(crate) number: u64,
    /// The id of its job, if it comes from a queue.
    pub(crate) job_id: Option<Arc<str>>,
}

/// What is done with each row.
pub(crate) trait Work: 'static {
    /// What the pool runs: a command, or a request, of which a row has one for each redirect.
    type Job: Clone;

    /// The columns behind those of the input, in order.
    fn columns(&self) -> Columns;

    /// The lane in which a row waits.
    fn lane(&self, row: &Row) -> Lane;

    /// The first job of a row.
    fn job(&self, row: &Numbered) -> Result<Self::Job, Answer>;

    /// The lane of a job.
    fn lane_of(&self, job: &Self::Job) -> Lane;

    /// For how many seconds jobs have connected so far, of those in which they ran.
    fn connect_seconds(&self) -> f64 {
        0.0
    }

    /// Asks what runs to end soon, as a failure of this kind. Returns `false` if it has been asked
    /// before, or has to be dropped instead.
    fn cut(&self, _kind: &'static str) -> bool {
        false
    }

    /// Runs a job; `attempt` counts from 1.
    async fn run(&self, job: Self::Job, attempt: u32) -> Result<Next<Self::Job>, Failure>;
}

/// The names of the columns that are added: `row, ok,` then `before`, then those of the frame, then
/// `after`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Columns {
    pub(crate) before: Vec<String>,
    /// Whether the frame has a column `backoff_ms`.
    pub(crate) has_backoff: bool,
    pub(crate) after: Vec<String>,
}

impl Columns {
    /// All names, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let frame = |name: &&str| *name != "backoff_ms" || self.has_backoff;
        let names = |names: &[&str]| -> Vec<String> {
            names
                .iter()
                .filter(|name| frame(name))
                .map(|name| (*name).to_owned())
                .collect()
        };
        [
            names(&["row", "ok"]),
            self.before.clone(),
            names(&[
                "attempts",
                "queued_ms",
                "backoff_ms",
                "elapsed_ms",
                "finished_at",
                "error_kind",
                "error",
            ]),
            self.after.clone(),
        ]
        .concat()
    }
}

/// How a job ended that is not tried again.
#[derive(Debug)]
pub(crate) enum Next<J> {
    Answer(Answer),
    /// The row goes on with another job, such as the request that a redirect leads to.
    Hop(J),
}

/// What is written for a row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    /// The cells of [`Columns::before`].
    pub(crate) before: Vec<Vec<u8>>,
    /// The cells of [`Columns::after`].
    pub(crate) after: Vec<Vec<u8>>,
    /// `None` if the row is accepted.
    pub(crate) error: Option<RowError>,
}

impl Answer {
    /// Whether the row failed for this reason.
    pub(crate) fn is_of(&self, kind: &str) -> bool {
        self.error.as_ref().is_some_and(|error| error.kind == kind)
    }
}

/// Why a row failed.
#[derive(Debug, Clone)]
pub(crate) struct RowError {
    /// One of a closed set.
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

/// An attempt that failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// What is written if there is no other attempt.
    pub(crate) answer: Answer,
    pub(crate) again: Again,
}

/// Whether there is another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    No,
    /// After the usual delay, if the row has attempts left.
    Backoff,
    /// After this time; the attempt that ended does not count.
    After(Duration),
}

impl Failure {
    pub(crate) const fn last(answer: Answer) -> Self {
        Self {
            answer,
            again: Again::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_have_the_order_of_the_contract() {
        let columns = Columns {
            before: vec!["status_code".into()],
            has_backoff: true,
            after: vec!["body".into()],
        };
        let names = "row ok status_code attempts queued_ms backoff_ms elapsed_ms finished_at \
                     error_kind error body";
        assert_eq!(columns.names().join(" "), names);
        let columns = Columns {
            has_backoff: false,
            ..columns
        };
        assert!(!columns.names().contains(&"backoff_ms".to_owned()));
    }
}
