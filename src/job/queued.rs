//! A job that has not started, in three forms: a [`QueuedJob`] or a part of a [`Batch`] in the
//! injector or a local queue, a [`ScheduledJob`] in the schedule.

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
    /// A job of a map or group. Inline, so it costs no allocation.
    Stream(StreamJob<In, T, E>),
    /// A job with a handle. Its input is in the handle state, where a cancellation can take it.
    Handle(Arc<HandleState<In, T, E>>),
}

pub(crate) struct StreamJob<In, T, E> {
    pub(crate) input: In,
    pub(crate) stream: Arc<CompletionQueue<In, T, E>>,
    pub(crate) id: JobId,
    pub(crate) index: usize,
    pub(crate) origin: Origin,
    /// The job's record in the schedule, which has released it; `None` without a schedule.
    pub(crate) record_id: Option<RecordId>,
    pub(crate) accepted_at: Option<Instant>,
}

/// Jobs of one map that were submitted together, with consecutive numbers.
pub(crate) struct Batch<In, T, E> {
    pub(crate) stream: Arc<CompletionQueue<In, T, E>>,
    /// The id and index of the first job.
    id: JobId,
    index: usize,
    /// In reverse order: the first is popped.
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

    /// Takes the first job: its id, its index within the map, and its input.
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

    fn first_id(&self) -> u64 {
        self.id.as_u64()
    }

    fn id_of(job: &QueuedJob<In, T, E>) -> u64 {
        job.id().as_u64()
    }

    fn will_not_run(&self) -> bool {
        self.stream.cancelled().is_some()
    }
}

impl<In, T, E> Drop for Batch<In, T, E> {
    fn drop(&mut self) {
        // The vector is reused by the next batch of the map.
        if self.inputs.is_empty() {
            self.stream
                .input_spares
                .keep(std::mem::take(&mut self.inputs));
        }
    }
}

/// A job in the schedule. Small, however large the input is.
pub(crate) enum ScheduledJob<In, T, E> {
    Stream(Box<StreamJob<In, T, E>>),
    Handle(Arc<HandleState<In, T, E>>),
}

impl<In, T, E> ScheduledJob<In, T, E> {
    /// The job outside the schedule. `record_id`: the record that the schedule keeps of it, unless
    /// it is removed.
    pub(crate) fn into_queued(self, record_id: Option<RecordId>) -> QueuedJob<In, T, E> {
        match self {
            Self::Stream(mut job) => {
                job.record_id = record_id;
                QueuedJob::Stream(*job)
            }
            Self::Handle(handle) => QueuedJob::Handle(handle),
        }
    }

    /// Whether its map or group is cancelled. The cancellation of a handle removes its job from the
    /// schedule itself.
    pub(crate) fn will_not_run(&self) -> bool {
        match self {
            Self::Stream(job) => job.stream.cancelled().is_some(),
            Self::Handle(_) => false,
        }
    }
}

impl<In, T, E> From<QueuedJob<In, T, E>> for ScheduledJob<In, T, E> {
    fn from(job: QueuedJob<In, T, E>) -> Self {
        match job {
            QueuedJob::Stream(job) => Self::Stream(Box::new(job)),
            QueuedJob::Handle(handle) => Self::Handle(handle),
        }
    }
}

impl<In, T, E> QueuedJob<In, T, E> {
    pub(crate) fn id(&self) -> JobId {
        match self {
            Self::Stream(job) => job.id,
            Self::Handle(handle) => handle.id,
        }
    }

    /// The job's record in the schedule, if it has one.
    pub(crate) fn record_id(&self) -> Option<RecordId> {
        match self {
            Self::Stream(job) => job.record_id,
            Self::Handle(handle) => handle.record_id(),
        }
    }

    pub(crate) fn stream(&self) -> Option<Arc<CompletionQueue<In, T, E>>> {
        match self {
            Self::Stream(job) => Some(Arc::clone(&job.stream)),
            Self::Handle(_) => None,
        }
    }

    /// Whether the job will not run: its outcome is decided, or its stream is cancelled.
    pub(crate) fn will_not_run(&self) -> bool {
        match self {
            Self::Stream(job) => job.stream.cancelled().is_some(),
            Self::Handle(handle) => handle.will_not_run(),
        }
    }
}
