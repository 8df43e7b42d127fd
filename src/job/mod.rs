//! A job on its way: data that knows nothing of the pool. [`queued`] before it starts, [`current`]
//! inside its handler, [`completion`] when it has ended, [`handle_state`] for a handle, and the
//! [`completion_queue`] of a map or group.

pub(crate) mod completion;
pub(crate) mod completion_queue;
pub(crate) mod current;
pub(crate) mod handle_state;
pub(crate) mod queued;
