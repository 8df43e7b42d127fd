//! Completes queued jobs: cancelled, expired, abandoned, or returned by an abort.

use super::Shared;
use super::lifecycle::DequeuedJob;
use crate::error::{CancelReason, JobError};
use crate::job::completion::{Completion, Message, Timings};
use crate::job::completion_queue::CompletionQueue;
use crate::job::queued::{QueuedJob, ScheduledJob, StreamJob};
use crate::panic;
use crate::report::Unstarted;
use crate::schedule::Removed;
use crate::sync::ignore_poison;

impl<In, T, E> Shared<In, T, E> {
    /// Completes a queued job with `error`, or with the reason of an earlier cancellation of its
    /// map or group.
    pub(crate) fn complete_unstarted(
        &self,
        job: QueuedJob<In, T, E>,
        error: JobError<E>,
        attempts: u32,
    ) {
        match job {
            QueuedJob::Stream(job) => {
                let error = job.stream.cancelled().map_or(error, JobError::Cancelled);
                self.complete_queued_stream_job(job, error, attempts, |input, _| Some(input));
            }
            QueuedJob::Handle(job) => {
                self.complete_queued_handle(&job, error, attempts, |input| {
                    panic::discard(input);
                });
            }
        }
    }

    /// Completes a job that the schedule has removed with `error`.
    pub(super) fn complete_removed(
        &self,
        removed: Removed<ScheduledJob<In, T, E>>,
        error: JobError<E>,
    ) {
        let attempts = removed.attempts();
        self.complete_unstarted(removed.job.into_queued(None), error, attempts);
        panic::discard(removed.history);
    }

    /// Abandons a queued job. One whose map or group is cancelled keeps that as its reason, and one
    /// that its handle has cancelled has an outcome already.
    #[cold]
    pub(crate) fn abandon(&self, job: QueuedJob<In, T, E>) {
        let attempts = self.attempts(&job);
        self.complete_unstarted(job, JobError::Abandoned, attempts);
    }

    /// The same for several.
    pub(super) fn abandon_all(&self, jobs: impl IntoIterator<Item = QueuedJob<In, T, E>>) {
        for job in jobs {
            self.abandon(job);
        }
    }

    /// The same for jobs that the schedule has removed.
    pub(super) fn abandon_removed(&self, jobs: Vec<Removed<ScheduledJob<In, T, E>>>) {
        for removed in jobs {
            self.complete_removed(removed, JobError::Abandoned);
        }
    }

    /// Completes a queued job as aborted and passes its input to the pool's report.
    pub(crate) fn return_unstarted(&self, job: QueuedJob<In, T, E>, attempts: u32) {
        // Comes before the outcome is counted, so that the report of an idle pool has all inputs.
        let give_back = |id, index, input| {
            let mut returned = ignore_poison(self.returned.lock());
            returned.push(Unstarted {
                id,
                index,
                input,
                attempts,
            });
        };
        let aborted = JobError::Cancelled(CancelReason::Aborted);
        match job {
            QueuedJob::Stream(job) if job.stream.cancelled().is_some() => {
                self.complete_unstarted(QueuedJob::Stream(job), JobError::Abandoned, attempts);
            }
            QueuedJob::Stream(job) => {
                let (id, index) = (job.id, job.index);
                self.complete_queued_stream_job(job, aborted, attempts, |input, stream| {
                    let kept = stream.copy_input(&input);
                    give_back(id, index, input);
                    kept
                });
            }
            QueuedJob::Handle(job) => {
                self.complete_queued_handle(&job, aborted, attempts, |input| {
                    give_back(job.id, 0, input);
                });
            }
        }
    }

    /// Completes a job of a map or group; the completion has what `part_with` returns of the input.
    fn complete_queued_stream_job(
        &self,
        job: StreamJob<In, T, E>,
        error: JobError<E>,
        attempts: u32,
        part_with: impl FnOnce(In, &CompletionQueue<In, T, E>) -> Option<In>,
    ) {
        let StreamJob {
            input,
            stream,
            id,
            index,
            origin,
            record_id,
            accepted_at,
        } = job;
        let kept = part_with(input, &stream);
        if matches!(
            error,
            JobError::TimedOut(_) | JobError::CostExceedsLimit { .. } | JobError::Panicked(_)
        ) {
            self.count_failure(&stream, &error);
        }
        stream.begin_delivery();
        self.begin_return();
        let dequeued = DequeuedJob {
            id,
            origin,
            record_id,
            stream: Some(stream.id()),
        };
        self.finish_unstarted(dequeued, error.outcome(), attempts);
        let timings = accepted_at.filter(|_| self.timings).map(|at| {
            Box::new(Timings {
                queued_for: self.timer.now().saturating_duration_since(at),
                ran_for: None,
            })
        });
        let completion = Completion {
            id,
            index,
            attempts,
            input: kept,
            result: Err(error),
            timings,
        };
        stream.deliver(Message::One(completion));
        self.end_stream_deliveries(&stream, 1);
        self.end_return();
    }
}
