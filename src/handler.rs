//! The kinds of handlers, to name the type of [`Workers`](crate::Workers): the kind is its last
//! parameter. Nothing else needs this module.
//!
//! A [`Plain`] handler takes the input alone, [`WithSubmitter`] also a [`Submitter`], and
//! [`WithState`] also the state of its worker. The method of the [`Builder`](crate::Builder) that
//! makes the workers determines the kind.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::panic;
use crate::submit::Submitter;

/// A handler of any kind; implemented by the types of this module only.
pub trait Handler<In>: sealed::Sealed {
    /// The value of a job.
    type Value;
    /// The error of a job.
    type Error;

    /// Whether [`call`](Self::call) wants a submitter; making one costs two reference counts.
    #[doc(hidden)]
    const WANTS_SUBMITTER: bool;

    /// Makes the future of one attempt.
    #[doc(hidden)]
    fn call(
        &mut self,
        input: In,
        submitter: Option<Submitter<In, Self::Value, Self::Error>>,
    ) -> impl Future<Output = Result<Self::Value, Self::Error>>;

    /// Drops the state, which a panic may have left broken.
    #[doc(hidden)]
    fn renew(&mut self);
}

/// A handler that can run several jobs of one worker at a time.
pub(crate) trait Stateless<In>: Handler<In> {
    type Future: Future<Output = Result<Self::Value, Self::Error>>;

    /// Makes the future of one attempt, as [`call`](Handler::call), but one that borrows nothing.
    fn make_future(
        &self,
        input: In,
        submitter: Option<Submitter<In, Self::Value, Self::Error>>,
    ) -> Self::Future;
}

mod sealed {
    #[expect(
        unnameable_types,
        reason = "it keeps other crates from implementing a trait"
    )]
    pub trait Sealed {}
}

/// A handler that takes the input alone: `Fn(In) -> Future`.
pub struct Plain<F> {
    handler: Arc<F>,
}

/// A handler that takes the input and a [`Submitter`]: `Fn(In, Submitter) -> Future`.
pub struct WithSubmitter<F, T, E> {
    handler: Arc<F>,
    /// The output of the jobs that its submitter adds.
    output: PhantomData<fn() -> (T, E)>,
}

/// A handler that takes the state of its worker and the input: `AsyncFn(&mut State, In)`.
pub struct WithState<Init, F, S> {
    parts: Arc<(Init, F)>,
    worker: usize,
    /// Created before the first job, and again after a panic.
    state: Option<S>,
}

impl<F> Plain<F> {
    pub(crate) fn new(handler: F) -> Self {
        Self {
            handler: Arc::new(handler),
        }
    }

    /// Another owner of the same function, for another worker.
    pub(crate) fn share(&self) -> Self {
        Self {
            handler: Arc::clone(&self.handler),
        }
    }
}

impl<F, T, E> WithSubmitter<F, T, E> {
    pub(crate) fn new(handler: F) -> Self {
        Self {
            handler: Arc::new(handler),
            output: PhantomData,
        }
    }

    /// Another owner of the same function, for another worker.
    pub(crate) fn share(&self) -> Self {
        Self {
            handler: Arc::clone(&self.handler),
            output: PhantomData,
        }
    }
}

impl<Init, F, S> WithState<Init, F, S> {
    pub(crate) const fn new(parts: Arc<(Init, F)>, worker: usize) -> Self {
        Self {
            parts,
            worker,
            state: None,
        }
    }
}

impl<F> sealed::Sealed for Plain<F> {}
impl<F, T, E> sealed::Sealed for WithSubmitter<F, T, E> {}
impl<Init, F, S> sealed::Sealed for WithState<Init, F, S> {}

impl<In, T, E, F, Fut> Handler<In> for Plain<F>
where
    F: Fn(In) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Value = T;
    type Error = E;

    const WANTS_SUBMITTER: bool = false;

    fn call(
        &mut self,
        input: In,
        submitter: Option<Submitter<In, T, E>>,
    ) -> impl Future<Output = Result<T, E>> {
        self.make_future(input, submitter)
    }

    fn renew(&mut self) {}
}

impl<In, T, E, F, Fut> Stateless<In> for Plain<F>
where
    F: Fn(In) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Future = Fut;

    fn make_future(&self, input: In, _: Option<Submitter<In, T, E>>) -> Fut {
        (self.handler)(input)
    }
}

impl<In, T, E, F, Fut> Handler<In> for WithSubmitter<F, T, E>
where
    F: Fn(In, Submitter<In, T, E>) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Value = T;
    type Error = E;

    const WANTS_SUBMITTER: bool = true;

    fn call(
        &mut self,
        input: In,
        submitter: Option<Submitter<In, T, E>>,
    ) -> impl Future<Output = Result<T, E>> {
        self.make_future(input, submitter)
    }

    fn renew(&mut self) {}
}

impl<In, T, E, F, Fut> Stateless<In> for WithSubmitter<F, T, E>
where
    F: Fn(In, Submitter<In, T, E>) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Future = Fut;

    fn make_future(&self, input: In, submitter: Option<Submitter<In, T, E>>) -> Fut {
        let submitter = submitter.expect("the worker makes one where `WANTS_SUBMITTER` is true");
        (self.handler)(input, submitter)
    }
}

impl<In, T, E, S, Init, F> Handler<In> for WithState<Init, F, S>
where
    Init: Fn(usize) -> S,
    F: AsyncFn(&mut S, In) -> Result<T, E>,
{
    type Value = T;
    type Error = E;

    const WANTS_SUBMITTER: bool = false;

    fn call(
        &mut self,
        input: In,
        _: Option<Submitter<In, T, E>>,
    ) -> impl Future<Output = Result<T, E>> {
        let (init, handler) = &*self.parts;
        let state = self.state.get_or_insert_with(|| init(self.worker));
        handler(state, input)
    }

    fn renew(&mut self) {
        panic::discard(self.state.take());
    }
}

impl<Init, F, S> Drop for WithState<Init, F, S> {
    fn drop(&mut self) {
        panic::discard(self.state.take());
    }
}

impl<F> fmt::Debug for Plain<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain")
    }
}

impl<F, T, E> fmt::Debug for WithSubmitter<F, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WithSubmitter")
    }
}

impl<Init, F, S> fmt::Debug for WithState<Init, F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WithState")
    }
}
