//! Completions on their way from a worker to a completion queue, several at a time.
//!
//! In: completions of jobs that have just ended. Out: one [`Message`] to the [`CompletionQueue`]
//! of their stream. It holds nothing while its worker waits, and nothing of one stream while a job
//! of another starts.
//!
//! Of the steps of `shared::idle::Deliveries`,
//! [`begin_success`](CompletionBuffer::begin_success) is the first, and
//! [`push_success`](CompletionBuffer::push_success), after the success is counted, begins the
//! third. One `CompletionQueue::begin_delivery` stands for all successes that are sent together.

use std::sync::Arc;

use crate::job::completion::{Completion, Message, Success};
use crate::job::completion_queue::CompletionQueue;
use crate::shared::Shared;

/// Buffers completions of one stream at a time.
///
/// A wake of the consumer is what a completion costs, so while the consumer has something to read,
/// up to [`CompletionBuffer::MAX`] completions are delivered together. The buffer sends them when it
/// is full, when the consumer has nothing to read after a poll of a job, and before the worker waits.
/// Dropping the buffer sends them too.
pub(crate) struct CompletionBuffer<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    /// `None` only while the buffer is empty.
    stream: Option<Arc<CompletionQueue<In, T, E>>>,
    /// At most [`CompletionBuffer::MAX`].
    completions: Vec<Completion<In, T, E>>,
    /// Successes of first attempts, in a smaller form. Invariant: `completions` or `successes` is
    /// empty.
    successes: Vec<Success<T>>,
    /// How many deliveries of the stream have begun and not ended.
    begun: usize,
}

impl<In, T, E> CompletionBuffer<In, T, E> {
    const MAX: usize = 64;

    pub(crate) const fn new(shared: Arc<Shared<In, T, E>>) -> Self {
        Self {
            shared,
            stream: None,
            completions: Vec::new(),
            successes: Vec::new(),
            begun: 0,
        }
    }

    /// Sends the completions of any other stream. Called before a job of `stream` runs: the job may
    /// wait for them itself.
    #[inline]
    pub(crate) fn flush_others(&mut self, stream: Option<&Arc<CompletionQueue<In, T, E>>>) {
        if self
            .stream
            .as_ref()
            .is_some_and(|own| !stream.is_some_and(|stream| Arc::ptr_eq(own, stream)))
        {
            self.flush();
        }
    }

    /// Buffers a completion whose delivery has begun and whose job is counted as finished. `send` ends
    /// the delivery.
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
            "`flush_others` was called before the job started"
        );
        if !self.successes.is_empty() {
            self.send();
        }
        if self.completions.capacity() == 0 {
            self.completions = stream.completion_spares.take();
        }
        self.stream.get_or_insert(stream);
        self.completions.push(completion);
        self.begun += 1;
        self.send_if_due();
    }

    /// Prepares for a success of this stream, before the success is recorded.
    #[inline(always)]
    pub(crate) fn begin_success(&mut self, stream: &Arc<CompletionQueue<In, T, E>>) {
        if self.stream.is_none() {
            self.stream = Some(Arc::clone(stream));
        }
        // Before the next delivery begins: `send` ends all that have.
        if !self.completions.is_empty() {
            self.send();
        }
        self.begin_first_delivery();
    }

    /// Buffers a success that is recorded. Follows [`begin_success`](Self::begin_success).
    #[inline(always)]
    pub(crate) fn push_success(&mut self, success: Success<T>) {
        if self.successes.capacity() == 0
            && let Some(stream) = &self.stream
        {
            self.successes = stream.success_spares.take();
        }
        self.successes.push(success);
        self.send_if_due();
    }

    /// Begins one delivery for all successes that are sent together: enough for deadlock detection
    /// to see that the consumer's wait ends.
    #[inline(always)]
    fn begin_first_delivery(&mut self) {
        if self.begun == 0
            && let Some(stream) = &self.stream
        {
            stream.begin_delivery();
            self.begun += 1;
        }
    }

    #[inline(always)]
    const fn len(&self) -> usize {
        self.completions.len() + self.successes.len()
    }

    /// Sends the completions if the buffer is full or the consumer has nothing to read.
    #[inline(always)]
    pub(crate) fn send_if_due(&mut self) {
        let Some(stream) = &self.stream else { return };
        // The bound only trades latency for speed: the vectors would hold more.
        if self.len() >= Self::MAX || stream.is_drained() {
            self.send();
        }
    }

    fn send(&mut self) {
        let Some(stream) = &self.stream else { return };
        let count = self.len();
        // Vectors of no or one completion would do, but cost more.
        match self.completions.len() {
            0 => {}
            1 => self
                .completions
                .pop()
                .into_iter()
                .for_each(|completion| stream.deliver(Message::One(completion))),
            _ => stream.deliver(Message::Many(std::mem::take(&mut self.completions))),
        }
        match self.successes.len() {
            0 => {}
            1 => self
                .successes
                .pop()
                .into_iter()
                .for_each(|success| stream.deliver(Message::One(success.into_completion()))),
            _ => stream.deliver(Message::Successes(std::mem::take(&mut self.successes))),
        }
        // Saves the atomic operations where there is nothing to end.
        if self.begun > 0 {
            self.shared
                .end_stream_deliveries(stream, std::mem::take(&mut self.begun));
        }
        if count > 0 {
            self.shared.end_deliveries(count);
        }
    }

    /// Sends all completions and forgets their stream.
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
