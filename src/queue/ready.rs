//! Jobs that may start now, on their way to the workers: an async-channel of batches, with a front before it and a spill
//! behind it.
//!
//! Jobs go in at one end and come out at the other in the same order. How many there are is not decided here: the ledger
//! admits them.
//!
//! * The **channel** wakes the workers. It is a ring of at most [`RING`] places, allocated once. What travels through it is
//!   a batch of jobs that were handed in together: waking is what costs, not queueing.
//! * The **front** is a list under a lock. A worker that takes a batch lays it there and takes one job at a time, so that no
//!   job waits behind another while a worker is free: what a worker has not started is everybody's.
//! * The **spill**, another list under a lock, holds what does not fit into the ring, and moves there as the workers take
//!   from it. So a large capacity costs memory only when it is used.
//!
//! # Why no job overtakes another
//!
//! What is received is laid into the front under the front's lock, under which it is received too. So the channel's own lock is
//! taken under that of the front, and a waker that is woken under the channel's lock must not come here: it may not cancel or
//! submit before it returns, which no executor's does.
//!
//! # Why no job is left behind in the front
//!
//! A worker that leaves jobs in the front while another one sleeps sends a *nudge*, an empty batch, through the channel; the
//! one that is woken takes a job and nudges the next, as long as there is something left. One nudge is under way at a time.
//! A worker that goes to sleep counts itself as sleeping first and looks at the front after, under its lock; one that lays jobs
//! there looks for sleepers after it has released that lock. So one of the two sees the other.
//!
//! # Why no job is left behind in the spill
//!
//! A pusher that finds the ring full counts the job as spilled *before* it tries the ring once more. Either that try
//! succeeds, or the ring is still full after the count is visible; then a worker has yet to take from the ring, and after
//! taking it looks at the count and moves jobs over. One thread moves at a time; another that wanted to leaves a note, and
//! the mover goes round once more. Sending wakes a worker, and a waker may run anything, so no lock is held over it.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::PoisonError;
use std::task::{Poll, Waker};

use crate::planted::{self, Bug};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::channel::{self, Receiver, Sender, TryRecvError, TrySendError};
use crate::sync::{Mutex, MutexGuard};

/// The most places that the ring has.
pub(crate) const RING: usize = 1024;

/// As many batches as fill the ring by the default capacity.
const SPARES: usize = 16;

/// What travels through the channel: jobs that were handed in together.
#[derive(Debug)]
enum Batch<J> {
    One(J),
    Many(Vec<J>),
    /// Look at the front.
    Nudge,
}

/// There is no job, and there never will be one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed;

#[derive(Debug)]
pub(crate) struct Ready<J> {
    sender: Sender<Batch<J>>,
    receiver: Receiver<Batch<J>>,
    /// Older than all that is in the channel. Bounded by what the ledger admits.
    front: Mutex<VecDeque<J>>,
    /// The room of batches that were laid, for others; at most [`SPARES`].
    spares: Mutex<Vec<Vec<J>>>,
    /// How many workers wait for the channel.
    sleeping: AtomicUsize,
    /// Whether a nudge is in the channel.
    is_nudged: AtomicBool,
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
        // One place more, for a nudge.
        let (sender, receiver) = channel::bounded(capacity.min(RING).saturating_add(1));
        Self {
            sender,
            receiver,
            front: Mutex::new(VecDeque::new()),
            spares: Mutex::new(Vec::new()),
            sleeping: AtomicUsize::new(0),
            is_nudged: AtomicBool::new(false),
            spill: Mutex::new(Spill { jobs: VecDeque::new(), is_moving: false, again: false }),
            spilled: AtomicUsize::new(0),
        }
    }

    fn front(&self) -> MutexGuard<'_, VecDeque<J>> {
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spill(&self) -> MutexGuard<'_, Spill<J>> {
        self.spill.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- in ----

    /// Hands a job to the workers. Once the channel is closed it gives the job back, with others that were stranded.
    pub(crate) fn push(&self, job: J) -> Result<(), VecDeque<J>> {
        self.send(Batch::One(job))
    }

    /// Hands several jobs to the workers at once; otherwise as [`push`](Self::push).
    pub(crate) fn push_many(&self, mut jobs: Vec<J>) -> Result<(), VecDeque<J>> {
        // Lists of none and of one would do, but cost more.
        match jobs.len() {
            0 => Ok(()),
            1 => jobs.pop().map_or(Ok(()), |job| self.push(job)),
            _ => self.send(Batch::Many(jobs)),
        }
    }

    /// An empty list for the next batch, with room where there is some to spare, which saves an allocation.
    pub(crate) fn take_spare(&self) -> Vec<J> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn send(&self, batch: Batch<J>) -> Result<(), VecDeque<J>> {
        if planted::is(Bug::ForgetToWake) {
            self.lay(&mut self.front(), batch);
            return Ok(());
        }
        let batch = if self.spilled.load(Ordering::SeqCst) == 0 {
            match self.sender.try_send(batch) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(batch) | TrySendError::Closed(batch)) => batch,
            }
        } else {
            batch
        };
        let mut spill = self.spill();
        match batch {
            Batch::One(job) => spill.jobs.push_back(job),
            Batch::Many(jobs) => spill.jobs.extend(jobs),
            Batch::Nudge => {}
        }
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
            let refused = match self.sender.try_send(Batch::One(job)) {
                Ok(()) => None,
                Err(TrySendError::Full(batch) | TrySendError::Closed(batch)) => Some(batch),
            };
            spill = self.spill();
            if let Some(Batch::One(job)) = refused {
                spill.jobs.push_front(job);
                if !spill.again || self.sender.is_closed() {
                    break;
                }
            }
        }
        spill.is_moving = false;
        self.spilled.store(spill.jobs.len(), Ordering::SeqCst);
    }

    // ---- out ----

    /// Takes the next job if there is one.
    pub(crate) fn try_pop(&self) -> Result<Option<J>, Closed> {
        let mut front = self.front();
        if front.is_empty() {
            match self.receiver.try_recv() {
                Ok(batch) => self.lay(&mut front, batch),
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Closed) => return Err(Closed),
            }
        }
        Ok(self.pop_front(front))
    }

    /// Waits for the next job. Dropping the future loses nothing.
    ///
    /// What is received is laid down under the same lock, so that nobody lays a younger batch first.
    pub(crate) async fn pop(&self) -> Result<J, Closed> {
        loop {
            let asleep = Asleep::new(&self.sleeping);
            // The waker that waits in the channel. The channel drops its own when another one comes, which is under the lock: that
            // is not to be the last of it, since what then happens may be anything.
            let mut waiting = None;
            let mut received = pin!(self.receiver.recv());
            let front = poll_fn(|cx| {
                let mut front = self.front();
                if front.is_empty() {
                    match received.as_mut().poll(cx) {
                        Poll::Ready(Ok(batch)) => self.lay(&mut front, batch),
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(Closed)),
                        Poll::Pending => {
                            drop(front);
                            let is_known = waiting.as_ref().is_some_and(|known: &Waker| known.will_wake(cx.waker()));
                            if !is_known {
                                drop(waiting.replace(cx.waker().clone()));
                            }
                            return Poll::Pending;
                        }
                    }
                }
                Poll::Ready(Ok(front))
            })
            .await?;
            drop(asleep);
            if let Some(job) = self.pop_front(front) {
                return Ok(job);
            }
        }
    }

    fn lay(&self, front: &mut VecDeque<J>, batch: Batch<J>) {
        match batch {
            Batch::One(job) => front.push_back(job),
            Batch::Many(mut jobs) => {
                front.extend(jobs.drain(..));
                let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
                // How many are kept is a matter of memory and speed.
                if spares.len() < SPARES {
                    spares.push(jobs);
                }
            }
            Batch::Nudge => self.is_nudged.store(false, Ordering::SeqCst),
        }
    }

    /// Takes a job from the front, and sees to what is left there and in the spill.
    fn pop_front(&self, mut front: MutexGuard<'_, VecDeque<J>>) -> Option<J> {
        let job = if planted::is(Bug::PassOrder) { front.pop_back() } else { front.pop_front() };
        let is_empty = front.is_empty();
        drop(front);
        if !is_empty {
            self.nudge();
        }
        // Looked at to save a lock: where nothing is spilled, nothing is moved.
        if self.spilled.load(Ordering::SeqCst) > 0 {
            self.refill(self.spill());
            // While a worker is there, what is left in a closed channel are husks of cancelled jobs.
            drop(self.stranded());
        }
        job
    }

    /// Wakes a sleeping worker, if there is one, to look at the front.
    fn nudge(&self) {
        if self.sleeping.load(Ordering::SeqCst) > 0
            && !self.is_nudged.load(Ordering::SeqCst)
            && !self.is_nudged.swap(true, Ordering::SeqCst)
            && self.sender.try_send(Batch::Nudge).is_err()
        {
            // The ring is full: whoever sleeps is being woken by what is in it.
            self.is_nudged.store(false, Ordering::SeqCst);
        }
    }

    /// Wakes a sleeping worker; says whether there is one.
    pub(crate) fn nudge_sleeper(&self) -> bool {
        self.nudge();
        self.sleeping.load(Ordering::SeqCst) > 0
    }

    // ---- the end ----

    /// Closes the channel: the workers take what is in front and ring, then leave. What is in the spill is for
    /// [`take_all`](Self::take_all).
    pub(crate) fn close(&self) {
        self.sender.close();
    }

    /// Takes all jobs, oldest first.
    pub(crate) fn take_all(&self) -> VecDeque<J> {
        self.take_all_for(|jobs| jobs)
    }

    /// Takes all jobs, oldest first, and hands them over before a worker can take another one. No job is dropped
    /// meanwhile, and nobody is woken.
    pub(crate) fn take_all_for<R>(&self, take: impl FnOnce(VecDeque<J>) -> R) -> R {
        let mut front = self.front();
        let mut spill = self.spill();
        while let Ok(batch) = self.receiver.try_recv() {
            self.lay(&mut front, batch);
        }
        let mut jobs = std::mem::take(&mut *front);
        jobs.append(&mut spill.jobs);
        self.spilled.store(0, Ordering::SeqCst);
        take(jobs)
    }

    /// Takes out the jobs of which `is_dead` is true, and all that are stranded in a closed channel. The others keep their
    /// order.
    pub(crate) fn sweep(&self, is_dead: impl Fn(&J) -> bool) -> Vec<J> {
        let mut front = self.front();
        while let Ok(batch) = self.receiver.try_recv() {
            self.lay(&mut front, batch);
        }
        let mut dead = Vec::new();
        let mut spill = self.spill();
        for jobs in [&mut *front, &mut spill.jobs] {
            for job in std::mem::take(jobs) {
                if is_dead(&job) { dead.push(job) } else { jobs.push_back(job) }
            }
        }
        let is_empty = front.is_empty();
        drop(front);
        self.refill(spill);
        if !is_empty {
            self.nudge();
        }
        dead.extend(self.stranded().into_iter().flatten());
        dead
    }
}

/// Counts a worker as sleeping until it is dropped.
struct Asleep<'a>(&'a AtomicUsize);

impl<'a> Asleep<'a> {
    fn new(sleeping: &'a AtomicUsize) -> Self {
        sleeping.fetch_add(1, Ordering::SeqCst);
        Self(sleeping)
    }
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Context, Wake};

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    fn drain(ready: &Ready<i32>) -> Vec<i32> {
        std::iter::from_fn(|| ready.try_pop().ok().flatten()).collect()
    }

    #[test]
    fn jobs_come_out_in_order_through_front_ring_and_spill() {
        let ready = Ready::new(3);
        for job in 0..5 {
            ready.push(job).unwrap();
        }
        ready.push_many((5..9).collect()).unwrap();
        ready.push(9).unwrap();
        let first: Vec<_> = (0..5).map(|_| ready.try_pop().unwrap().unwrap()).collect();
        ready.push_many((10..13).collect()).unwrap();
        assert_eq!((first, drain(&ready)), ((0..5).collect(), (5..13).collect()));
        assert_eq!(ready.try_pop(), Ok(None));
    }

    #[test]
    fn jobs_of_one_batch_go_to_all_who_sleep() {
        let ready = Ready::new(8);
        let mut sleepers: Vec<_> = (0..3).map(|_| Box::pin(ready.pop())).collect();
        for sleeper in &mut sleepers {
            assert_eq!(block_on(poll_once(sleeper)), None);
        }
        ready.push_many(vec![1, 2, 3, 4]).unwrap();
        let woken: Vec<_> = sleepers.iter_mut().map(|sleeper| block_on(poll_once(sleeper))).collect();
        assert_eq!(woken, [Some(Ok(1)), Some(Ok(2)), Some(Ok(3))]);
        assert_eq!(drain(&ready), [4]);
    }

    #[test]
    fn a_sleeper_that_is_dropped_loses_nothing() {
        let ready = Ready::new(8);
        for polls in 0..3 {
            let mut sleeper = Box::pin(ready.pop());
            for _ in 0..polls {
                assert_eq!(block_on(poll_once(&mut sleeper)), None);
            }
            ready.push_many(vec![1, 2]).unwrap();
            drop(sleeper);
            assert_eq!(drain(&ready), [1, 2]);
        }
    }

    /// It would wait for itself if that happened under the lock.
    #[test]
    fn a_waker_that_is_replaced_may_come_back_to_the_queue_in_its_drop() {
        struct Looks(Arc<Ready<i32>>);
        impl Wake for Looks {
            fn wake(self: Arc<Self>) {}
        }
        impl Drop for Looks {
            fn drop(&mut self) {
                assert_eq!(self.0.try_pop(), Ok(None));
            }
        }
        let ready = Arc::new(Ready::new(8));
        let mut sleeper = Box::pin(ready.pop());
        let waker = Waker::from(Arc::new(Looks(Arc::clone(&ready))));
        assert!(sleeper.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        assert_eq!(Arc::strong_count(&ready), 2);
        assert!(sleeper.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(Arc::strong_count(&ready), 1);
    }

    #[test]
    fn sweep_takes_the_dead_and_keeps_the_order_of_the_living() {
        let ready = Ready::new(4);
        for job in 0..8 {
            ready.push(job).unwrap();
        }
        ready.push_many((8..11).collect()).unwrap();
        assert_eq!(ready.try_pop(), Ok(Some(0)));
        assert_eq!(ready.sweep(|job| job % 3 == 0), [3, 6, 9]);
        ready.push(11).unwrap();
        assert_eq!(drain(&ready), [1, 2, 4, 5, 7, 8, 10, 11]);
    }

    #[test]
    fn a_sweep_leaves_no_one_asleep_beside_a_job() {
        let ready = Ready::new(8);
        let mut sleeper = Box::pin(ready.pop());
        assert_eq!(block_on(poll_once(&mut sleeper)), None);
        ready.push_many(vec![1, 2]).unwrap();
        assert_eq!(ready.sweep(|job| *job == 1), [1]);
        assert_eq!(block_on(poll_once(&mut sleeper)), Some(Ok(2)));
    }

    /// A worker has taken from the ring, and another thread hands in a job before it has looked at the spill.
    #[test]
    fn a_job_does_not_overtake_those_in_the_spill_though_there_is_room_in_the_ring() {
        let ready = Ready::new(1);
        for job in 0..3 {
            ready.push(job).unwrap();
        }
        assert!(matches!(ready.receiver.try_recv(), Ok(Batch::One(0))));
        ready.push(3).unwrap();
        assert_eq!(drain(&ready), [1, 2, 3]);
    }

    /// A worker looks at the spill while another thread moves its last job, which is in neither list then.
    #[test]
    fn a_job_does_not_overtake_the_one_that_is_being_moved() {
        let ready = Ready::new(1);
        ready.spill().is_moving = true;
        ready.refill(ready.spill());
        ready.push(1).unwrap();
        assert!(ready.receiver.try_recv().is_err());
        let spill = ready.spill();
        assert_eq!((&spill.jobs, spill.again), (&VecDeque::from([1]), true));
    }

    #[test]
    fn a_closed_channel_gives_the_job_back_and_what_was_stranded() {
        let ready = Ready::new(2);
        for job in 0..5 {
            ready.push(job).unwrap();
        }
        ready.close();
        assert_eq!(ready.push(5), Err(VecDeque::from([0, 1, 2, 3, 4, 5])));
        assert_eq!(ready.try_pop(), Err(Closed));
        assert_eq!(block_on(ready.pop()), Err(Closed));
    }
}
