//! How a job of a map or group ended, alone and as it travels from a worker to the reader.

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
    /// the source, as long as no running job adds jobs. Those take numbers from the same row, in
    /// the order in which they are added.
    pub index: usize,
    /// How many attempts started; 0 for a job that never ran.
    pub attempts: u32,
    /// The input, where it is still known:
    ///
    /// | the job | input |
    /// |---|---|
    /// | ran, with [`keep_inputs`](crate::Map::keep_inputs) | `Some`, unless its `Clone` panicked |
    /// | ran, without it | `None` |
    /// | never started | `Some`; `None` if the [`Report`](crate::Report) of an abort has it, or its `Clone` panicked |
    pub input: Option<In>,
    /// What the handler returned, or why there is no such thing.
    pub result: Result<T, JobError<E>>,
    /// Behind a pointer, since most pools do not measure.
    pub(crate) timings: Option<Box<Timings>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timings {
    pub(crate) queued_for: Duration,
    pub(crate) ran_for: Option<Duration>,
}

impl<In, T, E> Completion<In, T, E> {
    /// Drops it piece by piece: two pieces that panic in their drops would end the process if they
    /// were dropped as one.
    pub(crate) fn discard(self) {
        panic::discard(self.input);
        panic::discard(self.result);
    }

    /// How long the job waited before it started, or got its outcome without having started; with
    /// [`timings`](crate::Builder::timings).
    pub fn queued_for(&self) -> Option<Duration> {
        self.timings.as_ref().map(|timings| timings.queued_for)
    }

    /// How long it ran; with [`timings`](crate::Builder::timings), for a job that started.
    pub fn ran_for(&self) -> Option<Duration> {
        self.timings.as_ref().and_then(|timings| timings.ran_for)
    }
}

/// What a map or a group does about jobs that do not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum OnError {
    /// Goes on with the others. The default.
    #[default]
    Continue,
    /// Cancels the rest after the first failure: what is queued never starts, what runs is dropped
    /// at its next await, and no more inputs are pulled. Each accepted job still has its
    /// completion.
    Stop,
    /// The same after this many failures; 0 is taken as 1.
    StopAfter(usize),
}

/// What travels through the channel: completions that leave a worker together.
#[derive(Debug)]
pub(crate) enum Delivery<In, T, E> {
    One(Completion<In, T, E>),
    Many(Vec<Completion<In, T, E>>),
    Successes(Vec<Success<T>>),
}

/// All that there is to tell of most jobs: the first attempt has succeeded.
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

impl<In, T, E> Delivery<In, T, E> {
    /// Drops what nobody will read, whatever that does.
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
