//! The error of [`try_collect`](crate::Map::try_collect).

use std::convert::Infallible;
use std::error::Error;
use std::fmt;

use super::summary::Summary;
use crate::error::JobError;

/// Why [`try_collect`](crate::Map::try_collect) returns no list.
///
/// It prints the index of the input, then its [`JobError`]; a failure of the handler is as
/// transparent as there.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CollectError<In, E> {
    /// A job did not succeed; the rest was cancelled.
    Job {
        /// The position of its input.
        index: usize,
        /// The input, if it is kept: for a job that never started, or was queued for another
        /// attempt; or with [`keep_inputs`](crate::Map::keep_inputs).
        input: Option<In>,
        /// The error of the job.
        error: JobError<E>,
    },
    /// All jobs that ran succeeded, but not every input became a job; the summary says why.
    Incomplete(Summary),
}

impl<In, E> CollectError<In, E> {
    /// Converts into the handler's error: returns a handler's own error by value, without the
    /// index, and converts any other into the same type, without the input.
    ///
    /// `anyhow::Error` and `Box<dyn Error + Send + Sync>` can be made of any error; for a type of
    /// your own, implement `From<CollectError<Infallible, Infallible>>`.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{CollectError, ManualTimer, Pool};
    /// use futures_lite::future;
    ///
    /// async fn parse(text: &str) -> anyhow::Result<u32> {
    ///     text.parse().map_err(|error| anyhow::anyhow!("{text}: {error}"))
    /// }
    ///
    /// # fn main() -> anyhow::Result<()> {
    /// let (pool, workers) = Pool::builder().workers(2).timer(ManualTimer::new()).build(parse);
    /// let run = async |texts| -> anyhow::Result<Vec<u32>> {
    ///     let numbers = pool.map(texts).try_collect().await.map_err(CollectError::flatten)?;
    ///     Ok(numbers)
    /// };
    /// future::block_on(workers.drive(async {
    ///     assert_eq!(run(["7", "8"]).await?, [7, 8]);
    ///     assert_eq!(run(["7", "eight"]).await.unwrap_err().to_string(), "eight: invalid digit found in string");
    ///     Ok(())
    /// }))
    /// # }
    /// ```
    pub fn flatten(self) -> E
    where
        E: From<CollectError<Infallible, Infallible>>,
    {
        match self {
            Self::Job {
                index,
                input: _,
                error,
            } => error.split().unwrap_or_else(|error| {
                CollectError::Job {
                    index,
                    input: None,
                    error,
                }
                .into()
            }),
            Self::Incomplete(summary) => CollectError::Incomplete(summary).into(),
        }
    }
}

impl<In, E: fmt::Debug> fmt::Debug for CollectError<In, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job { index, error, .. } => f
                .debug_struct("Job")
                .field("index", index)
                .field("error", error)
                .finish_non_exhaustive(),
            Self::Incomplete(summary) => f.debug_tuple("Incomplete").field(summary).finish(),
        }
    }
}

impl<In, E: fmt::Display> fmt::Display for CollectError<In, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job { index, error, .. } => {
                write!(f, "input {index}: ")?;
                error.fmt(f)
            }
            Self::Incomplete(summary) => write!(f, "the run is incomplete: {}", summary.end),
        }
    }
}

impl<In, E: Error + 'static> Error for CollectError<In, E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Job { error, .. } => error.source(),
            Self::Incomplete(_) => None,
        }
    }
}
