//! How a job of a map or group has ended: for the user, and as workers deliver it to the reader.

use std::time::Duration;

use crate::error::JobError;
use crate::event::JobId;
use crate::panic;

/// How one job of a map or group ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Completion<In, T, E> {
    /// The number of the job within its pool.
    pub id: JobId,
    /// The number of the job within its map or group, counted from 0: the position of its input in
    /// the source, as long as no running job adds jobs. Added jobs take numbers of the same
    /// sequence, in the order in which they are added.
    pub index: usize,
    /// How many attempts have started. An attempt that is interrupted before its first poll counts.
    pub attempts: u32,
    /// The input, if it is left:
    ///
    /// | the job ended | input |
    /// |---|---|
    /// | in an attempt, with [`keep_inputs`](crate::Map::keep_inputs) | `Some` |
    /// | in an attempt, without it | `None` |
    /// | before its first attempt, or queued for another | `Some`; `None` if its `Clone` panicked, or if the [`Report`](crate::Report) of an abort has it and inputs are not kept |
    pub input: Option<In>,
    /// The handler's result, or why there is none.
    pub result: Result<T, JobError<E>>,
    /// Boxed, since most pools do not measure.
    pub(crate) timings: Option<Box<Timings>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timings {
    pub(crate) queued_for: Duration,
    pub(crate) ran_for: Option<Duration>,
}

impl<In, T, E> Completion<In, T, E> {
    /// Drops the input and the result one by one: if both drops panicked in one unwinding, the
    /// process would abort.
    pub(crate) fn discard(self) {
        panic::discard(self.input);
        panic::discard(self.result);
    }

    /// How long from the job's acceptance to the start of its last attempt, or to the outcome of a
    /// job that was not running then; with [`timings`](crate::Builder::timings).
    pub fn queued_for(&self) -> Option<Duration> {
        self.timings.as_ref().map(|timings| timings.queued_for)
    }

    /// How long its last attempt ran; with [`timings`](crate::Builder::timings). `None` for a job
    /// that was not running when it got its outcome.
    pub fn ran_for(&self) -> Option<Duration> {
        self.timings.as_ref().and_then(|timings| timings.ran_for)
    }
}

/// What a map or group does when a job does not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum OnError {
    /// Continues with the other jobs. The default.
    #[default]
    Continue,
    /// Cancels the rest after the first failure: queued jobs never start, running ones are dropped
    /// at their next await, and no more inputs are pulled. Each accepted job still has its
    /// completion.
    Stop,
    /// As `Stop`, after this many failures; 0 means 1.
    StopAfter(usize),
}

/// A message of a completion queue: completions that a worker delivers together.
#[derive(Debug)]
pub(crate) enum Message<In, T, E> {
    One(Completion<In, T, E>),
    Many(Vec<Completion<In, T, E>>),
    Successes(Vec<Success<T>>),
}

/// The completion of most jobs, in a smaller form: the first attempt has succeeded.
#[derive(Debug)]
pub(crate) struct Success<T> {
    pub(crate) id: JobId,
    pub(crate) index: usize,
    pub(crate) value: T,
}

impl<T> Success<T> {
    pub(crate) fn into_completion<In, E>(self) -> Completion<In, T, E> {
        let Self { id, index, value } = self;
        Completion {
            id,
            index,
            attempts: 1,
            input: None,
            result: Ok(value),
            timings: None,
        }
    }
}

impl<In, T, E> Message<In, T, E> {
    /// Drops completions that will not be read, and catches the panics of their drops.
    pub(crate) fn discard(self) {
        match self {
            Self::One(completion) => completion.discard(),
            Self::Many(batch) => batch.into_iter().for_each(Completion::discard),
            Self::Successes(batch) => {
                for success in batch {
                    panic::discard(success.value);
                }
            }
        }
    }
}
