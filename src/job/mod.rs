//! The data of a job. Nothing here holds a reference to the pool. A *stream* is a map or a group,
//! seen by its [`CompletionQueue`](completion_queue::CompletionQueue).
//!
//! [`queued`] is a job before it starts, [`current`] the job that a thread polls,
//! [`completion`] how a job of a map or group has ended, [`completion_queue`] the channel of
//! completions, and [`handle_state`] the state of a job with a handle.
//!
//! The same job has other types on its way:
//!
//! | type | the job |
//! |---|---|
//! | [`Job`](crate::Job) | is described before it is submitted |
//! | [`QueuedJob`](queued::QueuedJob) of a [`StreamJob`](queued::StreamJob) or a [`HandleState`](handle_state::HandleState) | is in the injector, of a map or group, or with a handle |
//! | [`Batch`](queued::Batch) | is one of several of a map that were pulled together |
//! | [`ScheduledJob`](queued::ScheduledJob) | is in the schedule |
//! | `StartedJob`, `ActiveJob` | runs, as a tally and as `queue::running` know it |
//! | `LocalJob` | runs in its first poll, straight from a batch |
//! | `JobGuard` | runs, and is completed by this |
//! | [`CurrentJob`](current::CurrentJob) | is the one that the thread polls |
//! | [`RunningJob`](crate::RunningJob) | runs, for the user to see |

pub(crate) mod completion;
pub(crate) mod completion_queue;
pub(crate) mod current;
pub(crate) mod handle_state;
pub(crate) mod queued;
