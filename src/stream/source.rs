//! Where a map pulls its inputs from: a stream, or a stream of results that may fail.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::job::completion::Completion;

/// Where a map pulls its inputs from; implemented by [`Inputs`] and [`TryInputs`] only.
pub trait Source<In, T, E>: sealed::Sealed + Unpin {
    /// The item of the map.
    type Item;

    /// Pulls the next input.
    #[doc(hidden)]
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Pulled<In>>;

    /// Converts a completion into an item.
    #[doc(hidden)]
    fn completion(completion: Completion<In, T, E>) -> Self::Item;

    /// Takes the failure of the source, once.
    #[doc(hidden)]
    fn take_failure(&mut self) -> Option<Self::Item>;
}

mod sealed {
    #[expect(
        unnameable_types,
        reason = "it keeps other crates from implementing a trait"
    )]
    pub trait Sealed {}
}

/// What a source yields.
#[derive(Debug)]
pub enum Pulled<In> {
    /// An input.
    Input(In),
    /// The end of the source.
    Exhausted,
    /// A failure, which the source keeps for `take_failure`.
    Failed,
}

/// A source that cannot fail; made by [`Pool::map`](crate::Pool::map) and
/// [`Pool::map_stream`](crate::Pool::map_stream).
#[derive(Debug)]
pub struct Inputs<S>(Pin<Box<S>>);

/// A source whose items are results; made by [`Pool::try_map`](crate::Pool::try_map) and
/// [`Pool::try_map_stream`](crate::Pool::try_map_stream).
#[derive(Debug)]
pub struct TryInputs<S, F> {
    stream: Pin<Box<S>>,
    failure: Option<F>,
}

impl<S> Inputs<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(Box::pin(stream))
    }
}

impl<S, F> TryInputs<S, F> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream: Box::pin(stream),
            failure: None,
        }
    }
}

impl<S> sealed::Sealed for Inputs<S> {}
impl<S, F> sealed::Sealed for TryInputs<S, F> {}

// The failure is never pinned.
impl<S, F> Unpin for TryInputs<S, F> {}

impl<In, T, E, S: Stream<Item = In>> Source<In, T, E> for Inputs<S> {
    type Item = Completion<In, T, E>;

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Pulled<In>> {
        self.0
            .as_mut()
            .poll_next(cx)
            .map(|input| input.map_or(Pulled::Exhausted, Pulled::Input))
    }

    fn completion(completion: Completion<In, T, E>) -> Self::Item {
        completion
    }

    fn take_failure(&mut self) -> Option<Self::Item> {
        None
    }
}

impl<In, T, E, F, S: Stream<Item = Result<In, F>>> Source<In, T, E> for TryInputs<S, F> {
    type Item = Result<Completion<In, T, E>, F>;

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Pulled<In>> {
        self.stream.as_mut().poll_next(cx).map(|item| match item {
            Some(Ok(input)) => Pulled::Input(input),
            Some(Err(failure)) => {
                self.failure = Some(failure);
                Pulled::Failed
            }
            None => Pulled::Exhausted,
        })
    }

    fn completion(completion: Completion<In, T, E>) -> Self::Item {
        Ok(completion)
    }

    fn take_failure(&mut self) -> Option<Self::Item> {
        self.failure.take().map(Err)
    }
}
