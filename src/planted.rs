//! Bugs that are planted to see that the simulator finds them: one for each thing that it checks. They are there in builds with
//! `--cfg brigade_planted`, which is what one test does; elsewhere none can be.

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(not(brigade_planted), expect(unreachable_pub, reason = "only that one test names them"))]
pub enum Bug {
    /// The outcome of a job is booked and told to nobody.
    LoseOutcome,
    /// An input that a map has pulled is dropped.
    LoseInput,
    /// A job that ends without having started has no outcome in the books.
    Miscount,
    /// One job more than may runs of a key.
    PassBound,
    /// Every other start takes no permit.
    PassRate,
    /// The last job in comes first.
    PassOrder,
    /// A place that was held and not used is not given back.
    LeakPlace,
    /// A lane does not notice that a job has left.
    LeakLane,
    /// A worker that leaves does not take its waker along.
    LeakWaker,
    /// A worker that leaves does not hand on the time.
    LeakTime,
    /// Who waits for a cancellation is told before it is over.
    RunOn,
    /// Nobody looks what may start when a job has ended.
    ForgetToLook,
    /// A job that comes wakes nobody.
    ForgetToWake,
    /// Who waits for the pool to be idle is not told.
    ForgetQuiet,
}

#[cfg(brigade_planted)]
mod with {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants the bug for all pools on this thread, in place of any other.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub(crate) fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(not(brigade_planted))]
mod without {
    use super::Bug;

    #[inline(always)]
    pub(crate) const fn is(_bug: Bug) -> bool {
        false
    }
}

#[cfg(brigade_planted)]
pub(crate) use with::is;
#[cfg(brigade_planted)]
pub use with::plant;
#[cfg(not(brigade_planted))]
pub(crate) use without::is;
