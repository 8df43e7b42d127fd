//! Completions on their way out of a worker, several at a time.

use std::sync::Arc;

use crate::job::completion::{Completion, Delivery, Success};
use crate::job::completion_queue::CompletionQueue;
use crate::shared::{DeliveryKind, Shared};

/// Completions of one stream on their way out of one worker.
///
/// Waking the consumer is what costs, so while it has something to read, up to [`CompletionBuffer::MOST`]
/// completions travel together. They leave as soon as the consumer has nothing to read when a job
/// ends, and before the worker waits for anything. Dropping the buffer sends what it holds.
pub(crate) struct CompletionBuffer<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    /// `None` only while nothing is completions.
    stream: Option<Arc<CompletionQueue<In, T, E>>>,
    /// At most [`CompletionBuffer::MOST`].
    completions: Vec<Completion<In, T, E>>,
    /// The same, of successes of which there is nothing more to tell; only one of the two lists has
    /// something in it.
    successes: Vec<Success<T>>,
    /// How many are announced.
    announced: usize,
}

impl<In, T, E> CompletionBuffer<In, T, E> {
    const MOST: usize = 64;

    pub(crate) const fn new(shared: Arc<Shared<In, T, E>>) -> Self {
        Self {
            shared,
            stream: None,
            completions: Vec::new(),
            successes: Vec::new(),
            announced: 0,
        }
    }

    /// A job of this stream starts, or one of none: what others wait for leaves before, since the
    /// job may wait for that itself.
    #[inline]
    pub(crate) fn clear_for(&mut self, stream: Option<&Arc<CompletionQueue<In, T, E>>>) {
        if self
            .stream
            .as_ref()
            .is_some_and(|own| !stream.is_some_and(|stream| Arc::ptr_eq(own, stream)))
        {
            self.flush();
        }
    }

    /// A completion of this stream, which is announced and in the books.
    #[inline(always)]
    pub(crate) fn push(
        &mut self,
        stream: Arc<CompletionQueue<In, T, E>>,
        completion: Completion<In, T, E>,
    ) {
        debug_assert!(
            self.stream
                .as_ref()
                .is_none_or(|own| Arc::ptr_eq(own, &stream)),
            "what is for others has left before the job started"
        );
        if !self.successes.is_empty() {
            self.send();
        }
        if self.completions.capacity() == 0 {
            self.completions = stream.spares.take();
        }
        self.stream.get_or_insert(stream);
        self.completions.push(completion);
        self.announced += 1;
        self.send_if_due();
    }

    /// A job of this stream has succeeded, and is about to be booked.
    #[inline(always)]
    pub(crate) fn begin_success(&mut self, stream: &Arc<CompletionQueue<In, T, E>>) {
        if self.stream.is_none() {
            self.stream = Some(Arc::clone(stream));
        }
        // Before the announcement, which arrives with what is sent.
        if !self.completions.is_empty() {
            self.send();
        }
        self.begin_first_delivery();
    }

    /// The success that was expected, which is in the books now.
    #[inline(always)]
    pub(crate) fn succeed(&mut self, success: Success<T>) {
        if self.successes.capacity() == 0
            && let Some(stream) = &self.stream
        {
            self.successes = stream.success_spares.take();
        }
        self.successes.push(success);
        self.send_if_due();
    }

    /// Says that something arrives when the first is completions, so that nobody takes the wait for it for
    /// one without end. What else it holds arrives with that.
    #[inline(always)]
    fn begin_first_delivery(&mut self) {
        if self.announced == 0
            && let Some(stream) = &self.stream
        {
            self.shared.begin_delivery(stream, DeliveryKind::Finished);
            self.announced += 1;
        }
    }

    /// Sends what it holds if there is much of it, or if the consumer has nothing to read.
    #[inline(always)]
    pub(crate) fn send_if_due(&mut self) {
        let Some(stream) = &self.stream else { return };
        // How many travel together is a matter of speed; the vector would hold more.
        if self.completions.len() + self.successes.len() >= Self::MOST || stream.is_starved() {
            self.send();
        }
    }

    fn send(&mut self) {
        let Some(stream) = &self.stream else { return };
        // Lists of none and of one would do, but cost more.
        match self.completions.len() {
            0 => {}
            1 => self
                .completions
                .pop()
                .into_iter()
                .for_each(|completion| stream.deliver(Delivery::One(completion))),
            _ => stream.deliver(Delivery::Many(std::mem::take(&mut self.completions))),
        }
        match self.successes.len() {
            0 => {}
            1 => self
                .successes
                .pop()
                .into_iter()
                .for_each(|success| stream.deliver(Delivery::One(success.into_completion()))),
            _ => stream.deliver(Delivery::Successes(std::mem::take(&mut self.successes))),
        }
        self.shared.end_delivery(
            stream,
            DeliveryKind::Finished,
            std::mem::take(&mut self.announced),
        );
    }

    /// Sends what it holds.
    pub(crate) fn flush(&mut self) {
        if self.stream.is_some() {
            self.send();
            self.stream = None;
        }
    }
}

impl<In, T, E> Drop for CompletionBuffer<In, T, E> {
    fn drop(&mut self) {
        self.flush();
    }
}
