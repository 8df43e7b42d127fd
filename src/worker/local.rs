//! Where a worker gets its jobs, and where it notes what became of them: at its local queue, while it has
//! one; else in the books.

use std::sync::Arc;

use super::buffer::CompletionBuffer;
use super::guard::JobGuard;
use crate::event::JobId;
use crate::job::completion::Success;
use crate::job::completion_queue::CompletionQueue;
use crate::job::queued::{Batch, QueuedJob};
use crate::queue::injector::{Closed, Taken};
use crate::queue::local::{Local, LocalQueue, StartedJob};
use crate::shared::Shared;
use crate::sync::MutexGuard;

/// A worker at work. It [closes](Self::close) its local queue before it waits or lets others have the
/// thread.
pub(super) struct LocalWorker<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    local_queue: Option<Arc<LocalQueue<Batch<In, T, E>>>>,
    /// Of the jobs that came into the hand last.
    stream: Option<Arc<CompletionQueue<In, T, E>>>,
    /// Whether there was something in the hand when it was looked at last.
    has_hand: bool,
    /// Whether others may look for something there.
    is_holder: bool,
}

/// What a worker finds when it looks into its hand.
pub(super) enum Step<In> {
    /// This one has started.
    Job(LocalJob<In>),
    /// Nothing.
    Empty,
    /// The local queue is to be closed. Nothing was noted.
    Called,
}

/// A job out of the hand, whose start is noted.
pub(super) struct LocalJob<In> {
    pub(super) id: JobId,
    pub(super) index: usize,
    pub(super) input: In,
}

impl<In, T, E> LocalWorker<In, T, E> {
    pub(super) const fn new(shared: Arc<Shared<In, T, E>>) -> Self {
        Self {
            shared,
            local_queue: None,
            stream: None,
            has_hand: false,
            is_holder: false,
        }
    }

    /// Of the jobs in the hand, if there are any.
    #[inline]
    pub(super) fn hand(&self) -> Option<&Arc<CompletionQueue<In, T, E>>> {
        if self.has_hand {
            self.stream.as_ref()
        } else {
            None
        }
    }

    /// Takes a local queue, where there may be one.
    pub(super) fn open(&mut self) {
        if self.local_queue.is_none() {
            self.local_queue = self.shared.open_local_queue();
        }
    }

    /// Whether it has one.
    pub(super) const fn is_open(&self) -> bool {
        self.local_queue.is_some()
    }

    /// Takes a job, or jobs into the hand, in which there are none.
    pub(super) fn take(&mut self) -> Result<Taken<QueuedJob<In, T, E>>, Closed> {
        let taken = match self.shared.injector.take(self.local_queue.as_ref())? {
            Taken::NeedsLocalQueue => {
                self.open();
                if self.local_queue.is_none() {
                    return self.take_one();
                }
                self.shared.injector.take(self.local_queue.as_ref())?
            }
            taken => taken,
        };
        if matches!(taken, Taken::Batch) {
            self.is_holder = true;
            self.look_whose_they_are();
        }
        Ok(taken)
    }

    /// The hand has been filled; somebody may have been faster and taken that away.
    fn look_whose_they_are(&mut self) {
        let Some(local_queue) = &self.local_queue else {
            return;
        };
        let (stream, is_known) = {
            let local = local_queue.local();
            let stream = local.batch.as_ref().map(|hand| &hand.stream);
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
        self.has_hand = self.stream.is_some();
        if self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.cancelled().is_some())
        {
            // The canceller has called the local queue, unless it looked for running jobs before that was
            // open.
            self.has_hand = false;
            self.shared.sweep();
        }
    }

    /// Takes one job.
    pub(super) fn take_one(&self) -> Result<Taken<QueuedJob<In, T, E>>, Closed> {
        Ok(self
            .shared
            .injector
            .try_pop()?
            .map_or(Taken::Nothing, Taken::One))
    }

    /// Notes that the job of the slot has succeeded, where it has, and starts the next of the hand
    /// there.
    #[inline(always)]
    pub(super) fn step(&mut self, slot: usize, has_succeeded: bool) -> Step<In> {
        let Some(mut local) = self.local() else {
            return Step::Called;
        };
        let Local { batch, tally, .. } = &mut *local;
        let next = batch
            .as_mut()
            .and_then(|hand| Some((hand.take_input()?, hand.stream.identity())));
        let Some(((id, index, input), stream)) = next else {
            if has_succeeded {
                tally.succeed(slot);
            }
            drop(local);
            self.has_hand = false;
            return Step::Empty;
        };
        let started_job = StartedJob {
            id,
            index,
            stream: Some(stream),
        };
        if has_succeeded {
            tally.follow(slot, started_job);
        } else {
            tally.start(slot, started_job);
        }
        self.shared.cancel_flags[slot].clear();
        self.lay_down(local);
        Step::Job(LocalJob { id, index, input })
    }

    /// Gives a job of the hand, which has not waited, its outcome; starts the next one in its slot,
    /// if there is one that may.
    #[inline(always)]
    pub(super) fn succeed(
        &mut self,
        slot: usize,
        success: Success<T>,
        guard: &mut JobGuard<In, T, E>,
        buffer: &mut CompletionBuffer<In, T, E>,
        may_go_on: bool,
    ) -> Option<LocalJob<In>> {
        if let Some(stream) = &self.stream {
            buffer.begin_success(stream);
        }
        let step = if may_go_on {
            self.step(slot, true)
        } else if self.record_success(slot) {
            Step::Empty
        } else {
            Step::Called
        };
        let next = match step {
            Step::Job(next) => Some(next),
            Step::Empty => None,
            Step::Called => {
                let Success { id, index, value } = success;
                self.adopt(id, index, guard);
                guard.settle(Ok(value), buffer);
                self.close();
                return None;
            }
        };
        buffer.succeed(success);
        next
    }

    /// Makes a job of the hand the guard's, which sees to its outcome from here on.
    pub(super) fn adopt(&self, id: JobId, index: usize, guard: &mut JobGuard<In, T, E>) {
        if let Some(stream) = &self.stream {
            guard.adopt(stream, id, index);
        }
    }

    /// Notes that a job from outside has started in the slot; says whether it could be noted here.
    pub(super) fn record_start(&self, slot: usize, started_job: StartedJob) -> bool {
        let Some(mut local) = self.local() else {
            return false;
        };
        local.tally.start(slot, started_job);
        self.shared.cancel_flags[slot].clear();
        self.lay_down(local);
        true
    }

    /// Notes that the job of the slot has succeeded; says whether it could be noted here.
    pub(super) fn record_success(&self, slot: usize) -> bool {
        let Some(mut local) = self.local() else {
            return false;
        };
        local.tally.succeed(slot);
        self.lay_down(local);
        true
    }

    /// What lies on the local queue, unless there is none or it was called.
    #[inline(always)]
    fn local(&self) -> Option<MutexGuard<'_, Local<Batch<In, T, E>>>> {
        self.local_queue
            .as_ref()
            .map(|local_queue| local_queue.local())
            .filter(|local| !local.is_revoked())
    }

    /// Something was written down.
    #[inline(always)]
    fn lay_down(&self, local: MutexGuard<'_, Local<Batch<In, T, E>>>) {
        let is_long = local.tally.needs_flush();
        drop(local);
        if is_long {
            self.shared.flush_tallies();
        }
    }

    /// Gives back what has not started, and enters everything in the books.
    #[inline]
    pub(super) fn close(&mut self) {
        if let Some(local_queue) = self.local_queue.take() {
            self.close_now(local_queue);
        }
    }

    fn close_now(&mut self, local_queue: Arc<LocalQueue<Batch<In, T, E>>>) {
        self.has_hand = false;
        if std::mem::take(&mut self.is_holder) {
            self.shared.injector.give_back(&local_queue);
        }
        self.stream = None;
        self.shared.close_local_queue(local_queue);
    }
}

impl<In, T, E> Drop for LocalWorker<In, T, E> {
    fn drop(&mut self) {
        self.close();
    }
}
