//! Jobs that have not started: who may hand them in ([`ledger`]), how they reach the workers ([`ready`]), and the book of
//! those that have started ([`running`]). The README beside this file shows why no wake-up is lost.
//!
//! A scheduling policy (priority, delay, rate, keys) has its place between the two: it would hold admitted jobs back and
//! release them into the ready channel. Without one, an admitted job goes straight there.

pub(crate) mod ledger;
pub(crate) mod ready;
pub(crate) mod running;
