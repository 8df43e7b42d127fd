//! Jobs that may start now, on their way to the workers: an async-channel, with a spill behind it.
//!
//! Jobs go in at one end and come out at the other in the same order. How many there are is not decided here: the ledger
//! admits them. The channel is a ring of at most [`RING`] places, allocated once; what does not fit waits in the spill, a
//! list under a lock, and moves into the ring as the workers take from it. So a large capacity costs memory only when it
//! is used, and a small one never touches the lock.
//!
//! # Why no job is left behind in the spill
//!
//! A pusher that finds the ring full counts the job as spilled *before* it tries the ring once more. Either that try
//! succeeds, or the ring is still full after the count is visible; then a worker has yet to take from the ring, and after
//! taking it looks at the count and moves jobs over. One thread moves at a time; another that wanted to leaves a note, and
//! the mover goes round once more. Sending wakes a worker, and a waker may run anything, so no lock is held over it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Recv, Sender, TryRecvError, TrySendError};

/// The most places that the ring has.
pub(crate) const RING: usize = 1024;

/// What travels through the channel: jobs that were handed in together. So far always one.
#[derive(Debug)]
pub(crate) struct Batch<J>(J);

/// The answer of [`Ready::try_pop`] when there is no job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoJob {
    /// Not now.
    Empty,
    /// Never again.
    Closed,
}

#[derive(Debug)]
pub(crate) struct Ready<J> {
    sender: Sender<Batch<J>>,
    receiver: Receiver<Batch<J>>,
    spill: Mutex<Spill<J>>,
    /// How many jobs are in the spill. While it is not zero, new jobs line up there, behind the others.
    spilled: AtomicUsize,
}

#[derive(Debug)]
struct Spill<J> {
    /// Bounded by what the ledger admits.
    jobs: VecDeque<J>,
    /// Whether a thread is moving jobs into the ring.
    is_moving: bool,
    /// Whether somebody wanted to move jobs meanwhile.
    again: bool,
}

impl<J> Ready<J> {
    pub(crate) fn new(capacity: usize) -> Self {
        let (sender, receiver) = async_channel::bounded(capacity.clamp(1, RING));
        Self {
            sender,
            receiver,
            spill: Mutex::new(Spill { jobs: VecDeque::new(), is_moving: false, again: false }),
            spilled: AtomicUsize::new(0),
        }
    }

    fn spill(&self) -> MutexGuard<'_, Spill<J>> {
        self.spill.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a job to the workers. Once the channel is closed it gives the job back, with others that were stranded.
    pub(crate) fn push(&self, job: J) -> Result<(), VecDeque<J>> {
        let job = if self.spilled.load(Ordering::SeqCst) == 0 {
            match self.sender.try_send(Batch(job)) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(Batch(job)) | TrySendError::Closed(Batch(job))) => job,
            }
        } else {
            job
        };
        let mut spill = self.spill();
        spill.jobs.push_back(job);
        self.refill(spill);
        self.stranded().map_or(Ok(()), Err)
    }

    /// What is left in a closed channel: its closer may have looked while a job was on its way into it.
    fn stranded(&self) -> Option<VecDeque<J>> {
        self.sender.is_closed().then(|| self.take_all()).filter(|jobs| !jobs.is_empty())
    }

    /// Moves jobs from the spill into the ring while there is room.
    fn refill<'a>(&'a self, mut spill: MutexGuard<'a, Spill<J>>) {
        if spill.is_moving {
            spill.again = true;
            self.spilled.store(spill.jobs.len() + 1, Ordering::SeqCst);
            return;
        }
        spill.is_moving = true;
        // The job in the mover's hand counts as spilled until the spill is empty behind it.
        self.spilled.store(spill.jobs.len(), Ordering::SeqCst);
        while let Some(job) = spill.jobs.pop_front() {
            spill.again = false;
            drop(spill);
            let refused = match self.sender.try_send(Batch(job)) {
                Ok(()) => None,
                Err(TrySendError::Full(Batch(job)) | TrySendError::Closed(Batch(job))) => Some(job),
            };
            spill = self.spill();
            if let Some(job) = refused {
                spill.jobs.push_front(job);
                if !spill.again || self.sender.is_closed() {
                    break;
                }
            }
        }
        spill.is_moving = false;
        self.spilled.store(spill.jobs.len(), Ordering::SeqCst);
    }

    /// Takes the next job if there is one.
    pub(crate) fn try_pop(&self) -> Result<J, NoJob> {
        match self.receiver.try_recv() {
            Ok(batch) => Ok(self.popped(batch)),
            Err(TryRecvError::Empty) => Err(NoJob::Empty),
            Err(TryRecvError::Closed) => Err(NoJob::Closed),
        }
    }

    /// Waits for a batch; hand it to [`popped`](Self::popped) to have the job in it. Dropping the future loses nothing.
    pub(crate) fn recv(&self) -> Recv<'_, Batch<J>> {
        self.receiver.recv()
    }

    /// The job of a batch that was just received, whose place in the ring is free now.
    pub(crate) fn popped(&self, batch: Batch<J>) -> J {
        if self.spilled.load(Ordering::SeqCst) > 0 {
            self.refill(self.spill());
        }
        batch.0
    }

    /// Closes the channel: the workers take what is in the ring, then leave. What is in the spill is for
    /// [`take_all`](Self::take_all).
    pub(crate) fn close(&self) {
        self.sender.close();
    }

    /// Takes all jobs, oldest first.
    pub(crate) fn take_all(&self) -> VecDeque<J> {
        let mut spill = self.spill();
        let mut jobs = VecDeque::new();
        while let Ok(Batch(job)) = self.receiver.try_recv() {
            jobs.push_back(job);
        }
        jobs.append(&mut spill.jobs);
        self.spilled.store(0, Ordering::SeqCst);
        jobs
    }

    /// Takes out the jobs of which `is_dead` is true, and all that are stranded in a closed channel. The others keep their order, among themselves and before all that
    /// are handed in later; while other threads push and pop, neighbours may change places.
    pub(crate) fn sweep(&self, is_dead: impl Fn(&J) -> bool) -> Vec<J> {
        let mut spill = self.spill();
        // From here on others line up in the spill, whose lock is held.
        self.spilled.store(usize::MAX, Ordering::SeqCst);
        let mut dead = Vec::new();
        let mut alive = VecDeque::new();
        while let Ok(Batch(job)) = self.receiver.try_recv() {
            if is_dead(&job) { dead.push(job) } else { alive.push_back(job) }
        }
        for job in spill.jobs.drain(..) {
            if is_dead(&job) { dead.push(job) } else { alive.push_back(job) }
        }
        spill.jobs = alive;
        self.refill(spill);
        dead.extend(self.stranded().into_iter().flatten());
        dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_come_out_in_order_through_ring_and_spill() {
        let ready = Ready::new(4);
        for job in 0..10 {
            ready.push(job).unwrap();
        }
        let first: Vec<_> = (0..5).map(|_| ready.try_pop().unwrap()).collect();
        for job in 10..13 {
            ready.push(job).unwrap();
        }
        let mut rest = Vec::new();
        while let Ok(job) = ready.try_pop() {
            rest.push(job);
        }
        assert_eq!((first, rest), ((0..5).collect(), (5..13).collect()));
        assert_eq!(ready.try_pop(), Err(NoJob::Empty));
    }

    #[test]
    fn sweep_takes_the_dead_and_keeps_the_order_of_the_living() {
        let ready = Ready::new(4);
        for job in 0..10 {
            ready.push(job).unwrap();
        }
        assert_eq!(ready.sweep(|job| job % 3 == 0), [0, 3, 6, 9]);
        let mut rest = Vec::new();
        while let Ok(job) = ready.try_pop() {
            rest.push(job);
        }
        assert_eq!(rest, [1, 2, 4, 5, 7, 8]);
    }

    #[test]
    fn a_closed_channel_gives_the_job_back_and_keeps_what_it_has() {
        let ready = Ready::new(2);
        for job in 0..5 {
            ready.push(job).unwrap();
        }
        ready.close();
        assert_eq!(ready.push(5), Err(VecDeque::from([0, 1, 2, 3, 4, 5])));
        assert_eq!(ready.try_pop(), Err(NoJob::Closed));
    }
}
