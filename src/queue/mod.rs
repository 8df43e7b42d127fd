//! Jobs that have not started: who may hand them in ([`admission`]), how they reach the workers
//! ([`injector`]), and the book of those that have started ([`running`]). The README beside this
//! file shows why no wake-up is lost.
//!
//! Where a policy says when a job may start (priority, delay, rate, keys, retry, pause), the
//! [`schedule`] stands between the two: it holds admitted jobs back and releases them into the
//! injector, each when a worker is free for it. Without one, an admitted job goes straight there.

pub(crate) mod admission;
pub(crate) mod injector;
pub(crate) mod local;
pub(crate) mod running;
