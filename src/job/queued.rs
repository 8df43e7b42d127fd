//! A job that has not started, in the three forms in which it waits: [`QueuedJob`] and [`Batch`] in
//! the queue, [`ScheduledJob`] in the schedule.

use std::sync::Arc;
use std::time::Instant;

use super::completion_queue::CompletionQueue;
use super::handle_state::HandleState;
use crate::event::JobId;
use crate::queue::admission::Origin;
use crate::queue::injector::Split;
use crate::schedule::RecordId;

/// A queued job.
pub(crate) enum QueuedJob<In, T, E> {
    /// Of a map or group: everything inline, so that it costs no allocation.
    Stream(StreamJob<In, T, E>),
    /// Of a single handle: its input is in the cell, so that a cancellation can take it out.
    Handle(Arc<HandleState<In, T, E>>),
}

pub(crate) struct StreamJob<In, T, E> {
    pub(crate) input: In,
    pub(crate) stream: Arc<CompletionQueue<In, T, E>>,
    pub(crate) id: JobId,
    pub(crate) index: usize,
    pub(crate) origin: Origin,
    /// Its record in the schedule, once that has released it.
    pub(crate) record_id: Option<RecordId>,
    pub(crate) accepted_at: Option<Instant>,
}

/// Jobs of one map that were handed in together, numbered one after another.
pub(crate) struct Batch<In, T, E> {
    pub(crate) stream: Arc<CompletionQueue<In, T, E>>,
    /// Of the first.
    id: JobId,
    index: usize,
    /// The oldest comes last, where it is taken out most easily.
    inputs: Vec<In>,
}

impl<In, T, E> Batch<In, T, E> {
    pub(crate) fn new(
        stream: Arc<CompletionQueue<In, T, E>>,
        id: JobId,
        index: usize,
        mut inputs: Vec<In>,
    ) -> Self {
        inputs.reverse();
        Self {
            stream,
            id,
            index,
            inputs,
        }
    }

    /// Takes out the oldest: its number, its number within the map, and its input.
    #[inline(always)]
    pub(crate) fn take_input(&mut self) -> Option<(JobId, usize, In)> {
        let input = self.inputs.pop()?;
        let (id, index) = (self.id, self.index);
        (self.id, self.index) = (id.offset(1), index + 1);
        Some((id, index, input))
    }
}

impl<In, T, E> Split for Batch<In, T, E> {
    type Job = QueuedJob<In, T, E>;

    fn len(&self) -> usize {
        self.inputs.len()
    }

    fn pop_first(&mut self) -> Option<QueuedJob<In, T, E>> {
        let (id, index, input) = self.take_input()?;
        let (stream, origin) = (Arc::clone(&self.stream), Origin::Outside);
        Some(QueuedJob::Stream(StreamJob {
            input,
            stream,
            id,
            index,
            origin,
            record_id: None,
            accepted_at: None,
        }))
    }

    fn split_half(&mut self) -> Self {
        let half = self.inputs.len().div_ceil(2);
        let inputs = self.inputs.split_off(self.inputs.len() - half);
        let (id, index) = (self.id, self.index);
        (self.id, self.index) = (id.offset(half), index + half);
        Self {
            stream: Arc::clone(&self.stream),
            id,
            index,
            inputs,
        }
    }

    fn number(&self) -> u64 {
        self.id.as_u64()
    }

    fn number_of(job: &QueuedJob<In, T, E>) -> u64 {
        job.id().as_u64()
    }

    fn is_dead(&self) -> bool {
        self.stream.cancelled().is_some()
    }
}

impl<In, T, E> Drop for Batch<In, T, E> {
    fn drop(&mut self) {
        // Whoever takes the last one out has the room of the list to spare.
        if self.inputs.is_empty() {
            self.stream
                .input_spares
                .keep(std::mem::take(&mut self.inputs));
        }
    }
}

/// A job that the schedule keeps: small, however large the input is.
pub(crate) enum ScheduledJob<In, T, E> {
    Stream(Box<StreamJob<In, T, E>>),
    Handle(Arc<HandleState<In, T, E>>),
}

impl<In, T, E> ScheduledJob<In, T, E> {
    /// The job on its way to a worker.
    pub(crate) fn release(self, record_id: RecordId) -> QueuedJob<In, T, E> {
        match self {
            Self::Stream(mut job) => {
                job.record_id = Some(record_id);
                QueuedJob::Stream(*job)
            }
            Self::Handle(cell) => QueuedJob::Handle(cell),
        }
    }

    /// The job, which the schedule has forgotten.
    pub(crate) fn into_entry(self) -> QueuedJob<In, T, E> {
        match self {
            Self::Stream(mut job) => {
                job.record_id = None;
                QueuedJob::Stream(*job)
            }
            Self::Handle(cell) => QueuedJob::Handle(cell),
        }
    }

    /// Whether its map or group is cancelled. A cancelled handle takes its job out of the schedule
    /// itself.
    pub(crate) fn is_dead(&self) -> bool {
        match self {
            Self::Stream(job) => job.stream.cancelled().is_some(),
            Self::Handle(_) => false,
        }
    }
}

impl<In, T, E> From<QueuedJob<In, T, E>> for ScheduledJob<In, T, E> {
    fn from(entry: QueuedJob<In, T, E>) -> Self {
        match entry {
            QueuedJob::Stream(job) => Self::Stream(Box::new(job)),
            QueuedJob::Handle(cell) => Self::Handle(cell),
        }
    }
}

impl<In, T, E> QueuedJob<In, T, E> {
    pub(crate) fn id(&self) -> JobId {
        match self {
            Self::Stream(job) => job.id,
            Self::Handle(cell) => cell.id,
        }
    }

    /// Its record in the schedule, if it had one when it was looked for.
    pub(crate) fn record_id(&self) -> Option<RecordId> {
        match self {
            Self::Stream(job) => job.record_id,
            Self::Handle(cell) => cell.record_id(),
        }
    }

    pub(crate) fn stream(&self) -> Option<Arc<CompletionQueue<In, T, E>>> {
        match self {
            Self::Stream(job) => Some(Arc::clone(&job.stream)),
            Self::Handle(_) => None,
        }
    }

    /// Whether it is cancelled: its outcome is decided, or is that of its stream.
    pub(crate) fn is_dead(&self) -> bool {
        match self {
            Self::Stream(job) => job.stream.cancelled().is_some(),
            Self::Handle(cell) => cell.is_dead(),
        }
    }
}
