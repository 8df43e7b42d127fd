//! Jobs that may start now, on their way to the workers: an async-channel of batches, with a front before it and a spill
//! behind it.
//!
//! Jobs go in at one end and come out at the other in the same order. How many there are is not decided here: the ledger
//! admits them.
//!
//! * The **channel** wakes the workers. It is a ring of at most [`RING`] places, allocated once. What travels through it is
//!   a batch of jobs that were handed in together: waking is what costs, not queueing. A job that comes alone, and before
//!   which nothing is on its way, is laid into the front at once, and only the nudge goes through the channel, if it has to.
//! * The **front** is a list under a lock. A worker that takes a batch lays it there and takes what comes first: one job, or a
//!   [`Lot`] of them, which comes into its hand on its [desk](super::desk). What a worker has not started is everybody's: one
//!   that finds nothing else takes half of what is in another's hand, so no job waits behind another while a worker is free.
//! * The **spill**, another list under a lock, holds what does not fit into the ring, and moves there as the workers take
//!   from it. So a large capacity costs memory only when it is used.
//!
//! # Why no job overtakes another
//!
//! What is received is laid into the front under the front's lock, under which it is received too. So the channel's own lock is
//! taken under that of the front, and a waker that is woken under the channel's lock must not come here: it may not cancel or
//! submit before it returns, which no executor's does.
//!
//! # Why no job is left behind in the front, or in a hand
//!
//! A worker that leaves jobs in the front, or has taken more than one into its hand, while another one sleeps sends a *nudge*, an empty batch, through the channel; the
//! one that is woken takes a job and nudges the next, as long as there is something left, which is why one nudge under way is
//! enough; a job that comes alone has one of its own, so that jobs which come apart need not wait for each other's workers.
//! A worker that goes to sleep counts itself as sleeping first and looks at the front and all hands after, under the front's
//! lock; one that lays jobs there, or takes them from there into its hand, looks for sleepers after it has released that lock. So one of the two sees the other.
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
use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};

use super::desk::Desk;
use crate::planted::{self, Bug};
use crate::spares::Spares;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::channel::{self, Receiver, Sender, TryRecvError, TrySendError};
use crate::sync::{Mutex, MutexGuard};

/// The most places that the ring has.
pub(crate) const RING: usize = 1024;

/// As many batches as fill the ring by the default capacity.
const SPARES: usize = 16;

/// Jobs that were handed in together and have more in common than that, so that they travel as one.
pub(crate) trait Lot: Sized {
    type Job;

    /// How many there are.
    fn len(&self) -> usize;

    /// Takes out the oldest.
    fn take_first(&mut self) -> Option<Self::Job>;

    /// One by one, the oldest first.
    fn into_jobs(mut self) -> impl Iterator<Item = Self::Job> {
        std::iter::from_fn(move || self.take_first())
    }

    /// Takes out the older half, rounded up.
    fn split_half(&mut self) -> Self;

    /// The number of the oldest; numbers tell which of two jobs was accepted first.
    fn number(&self) -> u64;

    fn number_of(job: &Self::Job) -> u64;

    /// Whether all of them are cancelled.
    fn is_dead(&self) -> bool;
}

/// What lies in a list.
#[derive(Debug)]
enum Piece<J, L> {
    One(J),
    /// Never empty.
    Lot(L),
}

impl<L: Lot> Piece<L::Job, L> {
    fn number(&self) -> u64 {
        match self {
            Self::One(job) => L::number_of(job),
            Self::Lot(lot) => lot.number(),
        }
    }

    fn into_jobs(self, jobs: &mut impl Extend<L::Job>) {
        match self {
            Self::One(job) => jobs.extend(Some(job)),
            Self::Lot(lot) => jobs.extend(lot.into_jobs()),
        }
    }
}

/// What travels through the channel: jobs that were handed in together.
#[derive(Debug)]
enum Batch<J, L> {
    Piece(Piece<J, L>),
    Many(Vec<J>),
    /// Look at the front.
    Nudge,
}

/// There is no job, and there never will be one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// What a worker gets that comes for jobs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken<J> {
    One(J),
    /// There are several in the hand now.
    Hand,
    /// There are several, for one who comes with a desk.
    WantsDesk,
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Ready<L: Lot> {
    sender: Sender<Batch<L::Job, L>>,
    receiver: Receiver<Batch<L::Job, L>>,
    front: Mutex<Front<L>>,
    /// The room of batches that were laid, for others.
    spares: Spares<L::Job>,
    /// How many workers wait for the channel.
    sleeping: AtomicUsize,
    /// How many nudges are in the channel, or about to be.
    nudges: AtomicUsize,
    /// How many other batches are in the channel, or about to be.
    sent: AtomicUsize,
    spill: Mutex<Spill<L>>,
    /// How many pieces are in the spill. While it is not zero, new jobs line up there, behind the others.
    spilled: AtomicUsize,
}

#[derive(Debug)]
struct Front<L: Lot> {
    /// Older than all that is in the channel. Bounded by what the ledger admits.
    pieces: VecDeque<Piece<L::Job, L>>,
    /// The desks whose hands have been filled from here, of workers that are being polled.
    holders: Vec<Holder<L>>,
}

#[derive(Debug)]
struct Holder<L> {
    desk: Arc<Desk<L>>,
    /// How many jobs were in its hand when another worker came by.
    seen: usize,
}

#[derive(Debug)]
struct Spill<L: Lot> {
    /// Bounded by what the ledger admits.
    pieces: VecDeque<Piece<L::Job, L>>,
    /// Whether a thread is moving jobs into the ring.
    is_moving: bool,
    /// Whether somebody wanted to move jobs meanwhile.
    again: bool,
}

impl<L: Lot> Ready<L> {
    pub(crate) fn new(capacity: usize) -> Self {
        // One place more, for a nudge.
        let (sender, receiver) = channel::bounded(capacity.min(RING).saturating_add(1));
        Self {
            sender,
            receiver,
            front: Mutex::new(Front { pieces: VecDeque::new(), holders: Vec::new() }),
            spares: Spares::new(SPARES),
            sleeping: AtomicUsize::new(0),
            nudges: AtomicUsize::new(0),
            sent: AtomicUsize::new(0),
            spill: Mutex::new(Spill { pieces: VecDeque::new(), is_moving: false, again: false }),
            spilled: AtomicUsize::new(0),
        }
    }

    fn front(&self) -> MutexGuard<'_, Front<L>> {
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spill(&self) -> MutexGuard<'_, Spill<L>> {
        self.spill.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- in ----

    /// Hands a job to the workers. Once the channel is closed it gives the job back, with others that were stranded.
    pub(crate) fn push(&self, job: L::Job) -> Result<(), VecDeque<L::Job>> {
        // Whatever is on its way counts in one of the two, in this order; a job is not to overtake it.
        if self.spilled.load(Ordering::SeqCst) == 0 {
            let mut front = self.front();
            if self.sent.load(Ordering::SeqCst) == 0 {
                front.pieces.push_back(Piece::One(job));
                drop(front);
                if !planted::is(Bug::ForgetToWake) {
                    self.nudge_another();
                }
                return self.stranded().map_or(Ok(()), Err);
            }
        }
        self.send(Batch::Piece(Piece::One(job)))
    }

    /// Hands jobs to the workers that travel as one; otherwise as [`push`](Self::push).
    pub(crate) fn push_lot(&self, lot: L) -> Result<(), VecDeque<L::Job>> {
        self.send(Batch::Piece(Piece::Lot(lot)))
    }

    /// Hands several jobs to the workers at once; otherwise as [`push`](Self::push).
    pub(crate) fn push_many(&self, mut jobs: Vec<L::Job>) -> Result<(), VecDeque<L::Job>> {
        // Lists of none and of one would do, but cost more.
        match jobs.len() {
            0 => Ok(()),
            1 => jobs.pop().map_or(Ok(()), |job| self.push(job)),
            _ => self.send(Batch::Many(jobs)),
        }
    }

    /// An empty list for the next batch, with room where there is some to spare, which saves an allocation.
    pub(crate) fn take_spare(&self) -> Vec<L::Job> {
        self.spares.take()
    }

    fn send(&self, batch: Batch<L::Job, L>) -> Result<(), VecDeque<L::Job>> {
        if planted::is(Bug::ForgetToWake) {
            self.sent.fetch_add(1, Ordering::SeqCst);
            self.lay(&mut self.front(), batch);
            return Ok(());
        }
        let batch = if self.spilled.load(Ordering::SeqCst) == 0 {
            match self.try_send(batch) {
                Ok(()) => return Ok(()),
                Err(batch) => batch,
            }
        } else {
            batch
        };
        let mut spill = self.spill();
        match batch {
            Batch::Piece(piece) => spill.pieces.push_back(piece),
            Batch::Many(jobs) => spill.pieces.extend(jobs.into_iter().map(Piece::One)),
            Batch::Nudge => {}
        }
        self.refill(spill);
        self.stranded().map_or(Ok(()), Err)
    }

    /// Puts a batch into the ring, if there is room.
    fn try_send(&self, batch: Batch<L::Job, L>) -> Result<(), Batch<L::Job, L>> {
        self.sent.fetch_add(1, Ordering::SeqCst);
        self.sender.try_send(batch).map_err(|refused| {
            self.sent.fetch_sub(1, Ordering::SeqCst);
            let (TrySendError::Full(batch) | TrySendError::Closed(batch)) = refused;
            batch
        })
    }

    /// What is left in a closed channel: its closer may have looked while a job was on its way into it.
    fn stranded(&self) -> Option<VecDeque<L::Job>> {
        self.sender.is_closed().then(|| self.take_all()).filter(|jobs| !jobs.is_empty())
    }

    /// Moves jobs from the spill into the ring while there is room.
    fn refill<'a>(&'a self, mut spill: MutexGuard<'a, Spill<L>>) {
        if spill.is_moving {
            spill.again = true;
            self.spilled.store(spill.pieces.len() + 1, Ordering::SeqCst);
            return;
        }
        spill.is_moving = true;
        // The piece in the mover's hand counts as spilled until the spill is empty behind it.
        self.spilled.store(spill.pieces.len(), Ordering::SeqCst);
        while let Some(piece) = spill.pieces.pop_front() {
            spill.again = false;
            drop(spill);
            let refused = self.try_send(Batch::Piece(piece)).err();
            spill = self.spill();
            if let Some(Batch::Piece(piece)) = refused {
                spill.pieces.push_front(piece);
                if !spill.again || self.sender.is_closed() {
                    break;
                }
            }
        }
        spill.is_moving = false;
        self.spilled.store(spill.pieces.len(), Ordering::SeqCst);
    }

    // ---- out ----

    /// Takes the next job if there is one.
    pub(crate) fn try_pop(&self) -> Result<Option<L::Job>, Closed> {
        let mut front = self.front();
        Ok(if self.fill(&mut front)? { self.pop_front(front) } else { None })
    }

    /// Takes what comes next: a job, or jobs that travel as one, which come into the hand. Nothing may be left in that.
    pub(crate) fn take(&self, desk: Option<&Arc<Desk<L>>>) -> Result<Taken<L::Job>, Closed> {
        let mut front = self.front();
        if let Some(desk) = desk {
            Self::free_what_lies(&mut front, desk);
        }
        if !self.fill(&mut front)? {
            return Ok(Taken::Nothing);
        }
        if !matches!(front.pieces.front(), Some(Piece::Lot(_))) {
            return Ok(self.pop_front(front).map_or(Taken::Nothing, Taken::One));
        }
        let Some(desk) = desk else { return Ok(Taken::WantsDesk) };
        let Some(Piece::Lot(lot)) = front.pieces.pop_front() else { return Ok(Taken::Nothing) };
        let is_more = lot.len() > 1 || !front.pieces.is_empty();
        let emptied = desk.papers().hand.replace(lot);
        debug_assert!(emptied.is_none_or(|hand| hand.len() == 0), "who takes more has nothing left");
        if !front.holders.iter().any(|holder| Arc::ptr_eq(&holder.desk, desk)) {
            front.holders.push(Holder { desk: Arc::clone(desk), seen: 0 });
        }
        drop(front);
        self.see_to_the_rest(is_more);
        Ok(Taken::Hand)
    }

    /// What is left in the hand is put back. It is filled no more.
    pub(crate) fn put_back(&self, desk: &Arc<Desk<L>>) {
        let mut front = self.front();
        front.holders.retain(|holder| !Arc::ptr_eq(&holder.desk, desk));
        let Some(hand) = desk.papers().hand.take().filter(|hand| hand.len() > 0) else { return };
        front.put_back(hand);
        drop(front);
        self.nudge();
    }

    /// Sees to it that something is in front; says whether there is.
    fn fill(&self, front: &mut Front<L>) -> Result<bool, Closed> {
        while front.pieces.is_empty() {
            match self.receiver.try_recv() {
                Ok(batch) => self.lay(front, batch),
                Err(TryRecvError::Empty) => return Ok(front.share()),
                Err(TryRecvError::Closed) => return if front.share() { Ok(true) } else { Err(Closed) },
            }
        }
        Ok(true)
    }

    /// What another worker has in its hand and has not moved on with since somebody came by last comes to the front: it is older
    /// than what lies there.
    fn free_what_lies(front: &mut Front<L>, desk: &Arc<Desk<L>>) {
        for at in 0..front.holders.len() {
            let holder = &mut front.holders[at];
            if Arc::ptr_eq(&holder.desk, desk) {
                continue;
            }
            let mut papers = holder.desk.papers();
            let Some(hand) = &mut papers.hand else { continue };
            if hand.len() == 0 || hand.len() != holder.seen {
                holder.seen = hand.len();
                continue;
            }
            let half = hand.split_half();
            drop(papers);
            front.put_back(half);
        }
    }

    /// Waits for the next job. Dropping the future loses nothing.
    ///
    /// What is received is laid down under the same lock, so that nobody lays a younger batch first.
    pub(crate) async fn pop(&self) -> Result<L::Job, Closed> {
        loop {
            let asleep = Asleep::new(&self.sleeping);
            // The waker that waits in the channel. The channel drops its own when another one comes, which is under the lock: that
            // is not to be the last of it, since what then happens may be anything.
            let mut waiting = None;
            let mut received = pin!(self.receiver.recv());
            let front = poll_fn(|cx| {
                let mut front = self.front();
                // Who was woken takes out what has woken it, and looks once more so that the channel sees that; otherwise it
                // would wake the next one for the same.
                if front.pieces.is_empty() || waiting.is_some() {
                    match received.as_mut().poll(cx) {
                        Poll::Ready(Ok(batch)) => {
                            self.lay(&mut front, batch);
                            // Where nobody else sleeps, it would only cost time.
                            if waiting.is_some()
                                && self.sleeping.load(Ordering::SeqCst) > 1
                                && let Poll::Ready(Ok(batch)) = received.as_mut().poll(cx)
                            {
                                self.lay(&mut front, batch);
                            }
                        }
                        _ if !front.pieces.is_empty() || front.share() => {}
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

    fn lay(&self, front: &mut Front<L>, batch: Batch<L::Job, L>) {
        let count = if matches!(batch, Batch::Nudge) { &self.nudges } else { &self.sent };
        count.fetch_sub(1, Ordering::SeqCst);
        match batch {
            Batch::Piece(piece) => front.pieces.push_back(piece),
            Batch::Many(mut jobs) => {
                front.pieces.extend(jobs.drain(..).map(Piece::One));
                self.spares.keep(jobs);
            }
            Batch::Nudge => {}
        }
    }

    /// Takes a job from the front, and sees to what is left there and in the spill.
    fn pop_front(&self, mut front: MutexGuard<'_, Front<L>>) -> Option<L::Job> {
        let job = front.pop();
        let is_more = !front.pieces.is_empty();
        drop(front);
        self.see_to_the_rest(is_more);
        job
    }

    /// After something was taken: there is more, for those who sleep, or there is room in the ring for what is spilled.
    #[inline]
    fn see_to_the_rest(&self, is_more: bool) {
        if is_more {
            self.nudge();
        }
        // Looked at to save a lock: where nothing is spilled, nothing is moved.
        if self.spilled.load(Ordering::SeqCst) > 0 {
            self.refill(self.spill());
            // While a worker is there, what is left in a closed channel are husks of cancelled jobs.
            drop(self.stranded());
        }
    }

    /// Wakes a sleeping worker, if there is one, to look at the front; unless one is being woken already, who does the same for
    /// the next.
    fn nudge(&self) {
        if self.sleeping.load(Ordering::SeqCst) > 0 && self.nudges.load(Ordering::SeqCst) == 0 {
            self.send_nudge();
        }
    }

    /// Wakes one more of the sleeping workers, if there is one.
    fn nudge_another(&self) {
        if self.sleeping.load(Ordering::SeqCst) > self.nudges.load(Ordering::SeqCst) {
            self.send_nudge();
        }
    }

    fn send_nudge(&self) {
        self.nudges.fetch_add(1, Ordering::SeqCst);
        if self.sender.try_send(Batch::Nudge).is_err() {
            // The ring is full: whoever sleeps is being woken by what is in it.
            self.nudges.fetch_sub(1, Ordering::SeqCst);
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
    pub(crate) fn take_all(&self) -> VecDeque<L::Job> {
        self.take_all_for(|jobs| jobs)
    }

    /// Takes all jobs, oldest first, and hands them over before a worker can take another one. No job is dropped
    /// meanwhile, and nobody is woken.
    pub(crate) fn take_all_for<R>(&self, take: impl FnOnce(VecDeque<L::Job>) -> R) -> R {
        let mut front = self.front();
        let mut spill = self.spill();
        while let Ok(batch) = self.receiver.try_recv() {
            self.lay(&mut front, batch);
        }
        while front.share() {}
        let mut jobs = VecDeque::new();
        front.pieces.drain(..).chain(spill.pieces.drain(..)).for_each(|piece| piece.into_jobs(&mut jobs));
        self.spilled.store(0, Ordering::SeqCst);
        take(jobs)
    }

    /// Takes out the jobs of which `is_dead` is true, the lots that say so themselves, and all that are stranded in a closed
    /// channel. The others keep their order.
    pub(crate) fn sweep(&self, is_dead: impl Fn(&L::Job) -> bool) -> Vec<L::Job> {
        let mut guard = self.front();
        let front = &mut *guard;
        while let Ok(batch) = self.receiver.try_recv() {
            self.lay(front, batch);
        }
        let mut dead = Vec::new();
        for holder in &front.holders {
            let hand = holder.desk.papers().hand.take_if(|hand| hand.is_dead());
            hand.into_iter().for_each(|hand| Piece::Lot(hand).into_jobs(&mut dead));
        }
        let mut spill = self.spill();
        for pieces in [&mut front.pieces, &mut spill.pieces] {
            for piece in std::mem::take(pieces) {
                let is_dead = match &piece {
                    Piece::One(job) => is_dead(job),
                    Piece::Lot(lot) => lot.is_dead(),
                };
                if is_dead { piece.into_jobs(&mut dead) } else { pieces.push_back(piece) }
            }
        }
        let is_more = !front.pieces.is_empty();
        drop(guard);
        self.refill(spill);
        if is_more {
            self.nudge();
        }
        dead.extend(self.stranded().into_iter().flatten());
        dead
    }
}

impl<L: Lot> Front<L> {
    /// Takes the next job.
    fn pop(&mut self) -> Option<L::Job> {
        if planted::is(Bug::PassOrder) {
            self.pieces.rotate_right(1.min(self.pieces.len()));
        }
        let Some(Piece::Lot(lot)) = self.pieces.front_mut() else {
            return match self.pieces.pop_front()? {
                Piece::One(job) => Some(job),
                Piece::Lot(_) => None,
            };
        };
        let job = lot.take_first();
        if lot.len() == 0 {
            self.pieces.pop_front();
        }
        job
    }

    /// Puts jobs where they were taken from, before all that are younger.
    fn put_back(&mut self, lot: L) {
        let number = lot.number();
        let at = self.pieces.iter().take_while(|piece| piece.number() < number).count();
        self.pieces.insert(at, Piece::Lot(lot));
    }

    /// Takes half of what is in a hand; says whether there was anything.
    fn share(&mut self) -> bool {
        let half = self.holders.iter().find_map(|holder| {
            let mut papers = holder.desk.papers();
            papers.hand.as_mut().filter(|hand| hand.len() > 0).map(|hand| hand.split_half())
        });
        half.map(|half| self.put_back(half)).is_some()
    }
}

/// For the simulator.
#[cfg(feature = "testing")]
impl<L: Lot> Ready<L> {
    /// How many jobs are in it, cancelled ones included. A batch in the ring counts as one.
    pub(crate) fn len(&self) -> usize {
        let pieces = |pieces: &VecDeque<Piece<L::Job, L>>| {
            let lens = pieces.iter().map(|piece| if let Piece::Lot(lot) = piece { lot.len() } else { 1 });
            lens.sum::<usize>()
        };
        let front = pieces(&self.front().pieces);
        front + pieces(&self.spill().pieces) + self.sent.load(Ordering::SeqCst)
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

/// For tests.
#[cfg(test)]
impl<J: Copy + Into<u64>> Lot for VecDeque<J> {
    type Job = J;

    fn len(&self) -> usize {
        self.len()
    }

    fn take_first(&mut self) -> Option<J> {
        self.pop_front()
    }

    fn split_half(&mut self) -> Self {
        let rest = self.split_off(self.len().div_ceil(2));
        std::mem::replace(self, rest)
    }

    fn number(&self) -> u64 {
        self.front().copied().map_or(0, Into::into)
    }

    fn number_of(job: &J) -> u64 {
        (*job).into()
    }

    fn is_dead(&self) -> bool {
        self.iter().all(|job| (*job).into() % 3 == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Context, Wake};

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    fn new(capacity: usize) -> Ready<VecDeque<u32>> {
        Ready::new(capacity)
    }

    /// Through the channel, as jobs go before which others are on their way.
    fn send(ready: &Ready<VecDeque<u32>>, job: u32) {
        ready.send(Batch::Piece(Piece::One(job))).unwrap();
    }

    fn drain(ready: &Ready<VecDeque<u32>>) -> Vec<u32> {
        std::iter::from_fn(|| ready.try_pop().ok().flatten()).collect()
    }

    #[test]
    fn jobs_come_out_in_order_through_front_ring_and_spill() {
        let ready = new(3);
        ready.push(0).unwrap();
        for job in 1..4 {
            send(&ready, job);
        }
        ready.push(4).unwrap();
        ready.push_many((5..9).collect()).unwrap();
        ready.push(9).unwrap();
        let first: Vec<_> = (0..5).map(|_| ready.try_pop().unwrap().unwrap()).collect();
        ready.push_many((10..13).collect()).unwrap();
        assert_eq!((first, drain(&ready)), ((0..5).collect(), (5..13).collect()));
        assert_eq!(ready.try_pop(), Ok(None));
    }

    #[test]
    fn jobs_of_one_batch_go_to_all_who_sleep() {
        let ready = new(8);
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
        let ready = new(8);
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
        struct Looks(Arc<Ready<VecDeque<u32>>>);
        impl Wake for Looks {
            fn wake(self: Arc<Self>) {}
        }
        impl Drop for Looks {
            fn drop(&mut self) {
                assert_eq!(self.0.try_pop(), Ok(None));
            }
        }
        let ready = Arc::new(new(8));
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
        let ready = new(4);
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
        let ready = new(8);
        let mut sleeper = Box::pin(ready.pop());
        assert_eq!(block_on(poll_once(&mut sleeper)), None);
        ready.push_many(vec![1, 2]).unwrap();
        assert_eq!(ready.sweep(|job| *job == 1), [1]);
        assert_eq!(block_on(poll_once(&mut sleeper)), Some(Ok(2)));
    }

    /// A worker has taken from the ring, and another thread hands in a job before it has looked at the spill.
    #[test]
    fn a_job_does_not_overtake_those_in_the_spill_though_there_is_room_in_the_ring() {
        let ready = new(1);
        for job in 0..3 {
            send(&ready, job);
        }
        assert!(matches!(ready.receiver.try_recv(), Ok(Batch::Piece(Piece::One(0)))));
        ready.push(3).unwrap();
        assert_eq!(drain(&ready), [1, 2, 3]);
    }

    /// A worker looks at the spill while another thread moves its last job, which is in neither list then.
    #[test]
    fn a_job_does_not_overtake_the_one_that_is_being_moved() {
        let ready = new(1);
        ready.spill().is_moving = true;
        ready.refill(ready.spill());
        ready.push(1).unwrap();
        assert!(ready.receiver.try_recv().is_err());
        let spill = ready.spill();
        assert!(matches!(spill.pieces.front(), Some(Piece::One(1))) && spill.pieces.len() == 1 && spill.again);
    }

    #[test]
    fn a_closed_channel_gives_the_job_back_and_what_was_stranded() {
        let ready = new(2);
        for job in 0..5 {
            ready.push(job).unwrap();
        }
        ready.close();
        assert_eq!(ready.push(5), Err(VecDeque::from([0, 1, 2, 3, 4, 5])));
        assert_eq!(ready.try_pop(), Err(Closed));
        assert_eq!(block_on(ready.pop()), Err(Closed));
    }
}
