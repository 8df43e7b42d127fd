//! A worker's side of its local queue: where it takes jobs from, and where it records starts and
//! successes.
//!
//! In: jobs of the injector, one by one or as a batch in the [`LocalQueue`]. Out: jobs for the
//! slots, started or about to be. It never runs a job and never waits.
//!
//! While a local queue is open, a start or a success costs one uncontended lock: it is recorded in
//! the queue's tally, which is flushed into the shared counters later. Without one, or once it is
//! revoked, a start or a success takes the shared lock.
//!
//! 1. [`open`](LocalWorker::open) registers a local queue with the shared state.
//! 2. [`refill`](LocalWorker::refill) takes a job, or a batch, from the injector.
//! 3. [`start_next`](LocalWorker::start_next) starts the next job of the batch;
//!    [`succeed`](LocalWorker::succeed) ends it and starts the one after. For a job that did not come
//!    in a batch, [`record_start`](LocalWorker::record_start) and
//!    [`record_success`](LocalWorker::record_success) do the same.
//! 4. A job of a batch that waits, does not succeed, or succeeds once the queue is revoked is
//!    [promoted](LocalWorker::promote): a [`JobGuard`] completes it.
//! 5. [`close`](LocalWorker::close) gives unstarted jobs back and flushes the tally: before the
//!    worker waits, at the end of its turn, and when the queue is revoked.

use std::sync::Arc;

use super::buffer::CompletionBuffer;
use super::guard::JobGuard;
use crate::event::JobId;
use crate::job::completion::Success;
use crate::job::completion_queue::CompletionQueue;
use crate::job::queued::{Batch, QueuedJob};
use crate::queue::injector::{Closed, Taken};
use crate::queue::local::{Local, LocalQueue, StartedJob, Tally};
use crate::shared::Shared;
use crate::sync::MutexGuard;

/// A worker's access to its local queue, which is open only during a poll. Dropping it closes the
/// queue.
pub(super) struct LocalWorker<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    queue: Option<Arc<LocalQueue<Batch<In, T, E>>>>,
    /// The stream of the last batch; there while a job of that batch runs.
    stream: Option<Arc<CompletionQueue<In, T, E>>>,
    /// Whether the local queue may have a job. Other workers may have stolen it.
    has_batch: bool,
    /// Whether the injector lets other workers steal from the local queue.
    is_stealable: bool,
}

/// What [`LocalWorker::start_next`] finds in the local queue.
pub(super) enum FromBatch<In> {
    /// A job, whose start is recorded.
    Job(LocalJob<In>),
    /// No job.
    Empty,
    /// The local queue is revoked, or not open. Nothing was recorded.
    Revoked,
}

/// A started job of a batch, without a guard: its stream is that of the batch, and its attempt is
/// the first.
pub(super) struct LocalJob<In> {
    pub(super) id: JobId,
    pub(super) index: usize,
    pub(super) input: In,
}

impl<In, T, E> LocalWorker<In, T, E> {
    pub(super) const fn new(shared: Arc<Shared<In, T, E>>) -> Self {
        Self {
            shared,
            queue: None,
            stream: None,
            has_batch: false,
            is_stealable: false,
        }
    }

    /// The stream of the batch in the local queue, unless that is known to be empty.
    #[inline]
    pub(super) fn batch_stream(&self) -> Option<&Arc<CompletionQueue<In, T, E>>> {
        if self.has_batch {
            self.stream.as_ref()
        } else {
            None
        }
    }

    /// Opens a local queue, if the pool allows one now.
    #[inline(always)]
    pub(super) fn open(&mut self) {
        if self.queue.is_none() {
            self.queue = self.shared.open_local_queue();
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// Takes a job from the injector, or a batch into the local queue, which is empty. Opens the
    /// local queue if the next jobs are a batch.
    pub(super) fn refill(&mut self) -> Result<Taken<QueuedJob<In, T, E>>, Closed> {
        let mut taken = self.shared.injector.take(self.queue.as_ref());
        if let Ok(Taken::NeedsLocalQueue) = taken {
            self.open();
            if self.queue.is_none() {
                return self.try_pop();
            }
            taken = self.shared.injector.take(self.queue.as_ref());
        }
        if let Ok(Taken::Batch) = taken {
            self.is_stealable = true;
            self.begin_batch();
        }
        taken
    }

    /// Reads the stream of the batch that the local queue was filled with, and whether it is
    /// cancelled. There is none if a sweep has taken the batch already.
    fn begin_batch(&mut self) {
        let Some(queue) = &self.queue else {
            return;
        };
        // Saves a clone.
        let (stream, is_known) = {
            let local = queue.lock();
            let stream = local.batch.as_ref().map(|batch| &batch.stream);
            let is_known = stream
                .zip(self.stream.as_ref())
                .is_some_and(|(stream, known)| Arc::ptr_eq(stream, known));
            (
                if is_known {
                    None
                } else {
                    stream.map(Arc::clone)
                },
                is_known,
            )
        };
        if !is_known {
            self.stream = stream;
        }
        self.has_batch = self.stream.is_some();
        if self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.cancelled().is_some())
        {
            // A cancellation revokes the local queues that are open when it collects the running
            // jobs; this one may have been opened since. So no job of the batch starts here.
            self.has_batch = false;
            self.shared.sweep();
        }
    }

    /// Takes one job from the injector.
    pub(super) fn try_pop(&self) -> Result<Taken<QueuedJob<In, T, E>>, Closed> {
        Ok(self
            .shared
            .injector
            .try_pop()?
            .map_or(Taken::Nothing, Taken::One))
    }

    /// Starts the next job of the batch in the slot, and records the start.
    #[inline(always)]
    pub(super) fn start_next(&mut self, slot: usize) -> FromBatch<In> {
        self.take_next(slot, |tally, next| {
            if let Some(next) = next {
                tally.start(slot, next);
            }
        })
    }

    /// The same, after it has recorded the success of the slot's last job.
    #[inline(always)]
    fn succeed_and_start_next(&mut self, slot: usize) -> FromBatch<In> {
        self.take_next(slot, |tally, next| match next {
            Some(next) => tally.follow(slot, next),
            None => tally.succeed(slot),
        })
    }

    /// Takes the next job of the batch for the slot, if there is one. `record` records that.
    #[inline(always)]
    fn take_next(
        &mut self,
        slot: usize,
        record: impl FnOnce(&mut Tally, Option<StartedJob>),
    ) -> FromBatch<In> {
        let Some(mut local) = self.lock() else {
            return FromBatch::Revoked;
        };
        let Local { batch, tally, .. } = &mut *local;
        let next = batch
            .as_mut()
            .and_then(|batch| Some((batch.take_input()?, batch.stream.id())));
        let Some(((id, index, input), stream)) = next else {
            record(tally, None);
            drop(local);
            self.has_batch = false;
            return FromBatch::Empty;
        };
        let started_job = StartedJob {
            id,
            index,
            stream: Some(stream),
        };
        record(tally, Some(started_job));
        self.shared.cancel_flags[slot].clear();
        self.unlock(local);
        FromBatch::Job(LocalJob { id, index, input })
    }

    /// Completes a job of the batch that has succeeded in its first poll, and starts the next one in its slot if
    /// `may_start_next`.
    #[inline(always)]
    pub(super) fn succeed(
        &mut self,
        slot: usize,
        success: Success<T>,
        guard: &mut JobGuard<In, T, E>,
        buffer: &mut CompletionBuffer<In, T, E>,
        may_start_next: bool,
    ) -> Option<LocalJob<In>> {
        if let Some(stream) = &self.stream {
            buffer.begin_success(stream);
        }
        let next = if may_start_next {
            self.succeed_and_start_next(slot)
        } else if self.record_success(slot) {
            FromBatch::Empty
        } else {
            FromBatch::Revoked
        };
        let next = match next {
            FromBatch::Job(next) => Some(next),
            FromBatch::Empty => None,
            FromBatch::Revoked => {
                let Success { id, index, value } = success;
                self.promote(id, index, guard);
                guard.complete(Ok(value), buffer);
                self.close();
                return None;
            }
        };
        buffer.push_success(success);
        next
    }

    /// Makes the guard responsible for the outcome of a job of the batch.
    pub(super) fn promote(&self, id: JobId, index: usize, guard: &mut JobGuard<In, T, E>) {
        if let Some(stream) = &self.stream {
            guard.promote(stream, id, index);
        }
    }

    /// Records the start of a job that did not come from the local queue; returns whether it could.
    #[inline(always)]
    pub(super) fn record_start(&self, slot: usize, started_job: StartedJob) -> bool {
        let Some(mut local) = self.lock() else {
            return false;
        };
        local.tally.start(slot, started_job);
        self.shared.cancel_flags[slot].clear();
        self.unlock(local);
        true
    }

    /// Records the success of the slot's job; returns whether it could.
    #[inline(always)]
    pub(super) fn record_success(&self, slot: usize) -> bool {
        let Some(mut local) = self.lock() else {
            return false;
        };
        local.tally.succeed(slot);
        self.unlock(local);
        true
    }

    /// Locks the local queue; `None` if it is not open or is revoked.
    #[inline(always)]
    fn lock(&self) -> Option<MutexGuard<'_, Local<Batch<In, T, E>>>> {
        self.queue
            .as_ref()
            .map(|queue| queue.lock())
            .filter(|local| !local.is_revoked())
    }

    /// Unlocks the local queue after a record; flushes the tallies if this one has grown long.
    #[inline(always)]
    fn unlock(&self, local: MutexGuard<'_, Local<Batch<In, T, E>>>) {
        let is_long = local.tally.needs_flush();
        drop(local);
        if is_long {
            self.shared.flush_tallies();
        }
    }

    /// Closes the local queue: gives jobs that have not started back to the injector and flushes
    /// the tally.
    #[inline]
    pub(super) fn close(&mut self) {
        if let Some(queue) = self.queue.take() {
            self.close_queue(queue);
        }
    }

    fn close_queue(&mut self, queue: Arc<LocalQueue<Batch<In, T, E>>>) {
        self.has_batch = false;
        if std::mem::take(&mut self.is_stealable) {
            self.shared.injector.give_back(&queue);
        }
        self.stream = None;
        self.shared.close_local_queue(queue);
    }
}

impl<In, T, E> Drop for LocalWorker<In, T, E> {
    fn drop(&mut self) {
        self.close();
    }
}
