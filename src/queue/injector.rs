//! Jobs that may start now, for any worker: one queue under one lock, and an async-channel that
//! carries notifications to the workers.
//!
//! Admission bounds how many jobs there are. A waiting job is in exactly one place: in the queue,
//! or in the [local queue](super::local) of the worker that took its batch, from which other
//! workers steal. The channel carries notifications and no jobs, so that the queue can be swept,
//! counted and kept in order under its lock.
//!
//! # Sleeping and notifying
//!
//! `sleepers` counts the workers that wait in the channel, `notified` the notifications that are in
//! the channel or about to be sent. Both are guarded by the queue's lock.
//!
//! Invariant, whenever the lock is free: if `sleepers > 0`, and a job is in the queue or in a local
//! queue, then `notified > 0`; except for the only job of a batch, which the worker that has just
//! taken it is about to start.
//!
//! To sleep, [`pop`](Injector::pop)
//! 1. locks, finds the queue and all local queues empty, and increments `sleepers`;
//! 2. unlocks and waits for a notification;
//! 3. locks, decrements `sleepers` and `notified`, and begins again. If it takes a job and leaves
//!    any, it notifies the next sleeper, so one notification is enough for a batch.
//!
//! To publish jobs, [`push`](Injector::push), [`push_batch`](Injector::push_batch),
//! [`push_many`](Injector::push_many) and [`give_back`](Injector::give_back)
//! 1. lock, insert the jobs in their order and, if `sleepers > notified`, increment `notified`;
//! 2. unlock and send the notification.
//!
//! [`take`](Injector::take) moves a batch into a local queue under the lock, and notifies a sleeper
//! if it leaves a job there or in the queue and no notification is on its way. A local queue grows
//! in no other way, so step 1 of sleeping cannot miss a job.
//!
//! A `pop` that is dropped or stopped decrements `sleepers`. A notification that it has not received
//! stays in the channel, which wakes another receiver for it. If there is none, the next `pop` that
//! would sleep receives it, checks again and then sleeps.
//!
//! The channel is called with no lock held: it wakes a task, and a waker may submit or cancel
//! before it returns.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::local::LocalQueue;
use crate::channel::{self, Receiver, Recv, Sender};
use crate::sync::{Mutex, MutexGuard, ignore_poison};

/// Jobs that were submitted together and are queued as one item.
pub(crate) trait Split: Sized {
    type Job;

    /// The number of jobs.
    fn len(&self) -> usize;

    /// Removes the oldest job.
    fn pop_first(&mut self) -> Option<Self::Job>;

    /// Iterates over the jobs, oldest first.
    fn into_jobs(mut self) -> impl Iterator<Item = Self::Job> {
        std::iter::from_fn(move || self.pop_first())
    }

    /// Splits off the older half, rounded up.
    fn split_half(&mut self) -> Self;

    /// The id of the oldest job. Ids ascend in the order of acceptance.
    fn first_id(&self) -> u64;

    fn id_of(job: &Self::Job) -> u64;

    /// Whether all jobs are cancelled.
    fn will_not_run(&self) -> bool;
}

/// An item of the queue.
#[derive(Debug)]
enum Item<J, B> {
    One(J),
    /// Never empty.
    Batch(B),
}

impl<B: Split> Item<B::Job, B> {
    fn first_id(&self) -> u64 {
        match self {
            Self::One(job) => B::id_of(job),
            Self::Batch(batch) => batch.first_id(),
        }
    }

    fn into_jobs(self, jobs: &mut impl Extend<B::Job>) {
        match self {
            Self::One(job) => jobs.extend(Some(job)),
            Self::Batch(batch) => jobs.extend(batch.into_jobs()),
        }
    }
}

/// The queue is closed and empty.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// The result of [`Injector::take`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken<J> {
    One(J),
    /// A batch, which is in the local queue now.
    Batch,
    /// The next item is a batch, and the caller has no local queue.
    NeedsLocalQueue,
    Nothing,
}

pub(crate) struct Injector<B: Split> {
    queue: Mutex<Queue<B>>,
    /// Bounded: at most one notification for each worker.
    notifier: Sender<()>,
    notifications: Receiver<()>,
}

struct Queue<B: Split> {
    /// In the order of acceptance, as seen from one thread. Bounded by admission, and by the sweeps
    /// of cancelled jobs.
    items: VecDeque<Item<B::Job, B>>,
    /// The local queues that jobs can be stolen from: those of workers that are being polled and
    /// have taken a batch.
    stealers: Vec<Stealer<B>>,
    /// The number of workers that wait for a notification.
    sleepers: usize,
    /// The number of notifications that are in the channel or about to be sent.
    notified: usize,
    is_closed: bool,
}

struct Stealer<B> {
    local_queue: Arc<LocalQueue<B>>,
    /// The length at the last call of [`Queue::steal_stale`].
    last_len: usize,
}

impl<B: Split> Injector<B> {
    pub(crate) fn new() -> Self {
        let (notifier, notifications) = channel::unbounded();
        let queue = Queue {
            items: VecDeque::new(),
            stealers: Vec::new(),
            sleepers: 0,
            notified: 0,
            is_closed: false,
        };
        Self {
            queue: Mutex::new(queue),
            notifier,
            notifications,
        }
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, Queue<B>> {
        ignore_poison(self.queue.lock())
    }

    // ---- push ----

    /// Appends a job. A closed queue returns it.
    pub(crate) fn push(&self, job: B::Job) -> Result<(), B::Job> {
        let mut queue = self.lock();
        if queue.is_closed {
            return Err(job);
        }
        queue.items.push_back(Item::One(job));
        self.notify_one(queue);
        Ok(())
    }

    /// Appends a batch. A closed queue returns it.
    pub(crate) fn push_batch(&self, batch: B) -> Result<(), B> {
        let mut queue = self.lock();
        if queue.is_closed {
            return Err(batch);
        }
        queue.items.push_back(Item::Batch(batch));
        self.notify_one(queue);
        Ok(())
    }

    /// Appends several jobs, with no job of another thread in between. A closed queue takes none of
    /// them.
    pub(crate) fn push_many<I: Iterator<Item = B::Job>>(&self, jobs: I) -> Result<(), I> {
        let mut queue = self.lock();
        if queue.is_closed {
            return Err(jobs);
        }
        queue.items.extend(jobs.map(Item::One));
        self.notify_one(queue);
        Ok(())
    }

    /// Unlocks, and notifies a sleeper if one has no notification yet.
    #[inline]
    fn notify_one(&self, queue: MutexGuard<'_, Queue<B>>) {
        if queue.sleepers > queue.notified {
            self.send_notification(queue);
        }
    }

    #[cold]
    fn send_notification(&self, mut queue: MutexGuard<'_, Queue<B>>) {
        queue.notified += 1;
        drop(queue);
        // Closing the channel has woken all sleepers.
        let _ = self.notifier.send(());
    }

    /// Wakes a sleeping worker. Returns whether any worker sleeps.
    pub(crate) fn wake_sleeper(&self) -> bool {
        let queue = self.lock();
        let is_any = queue.sleepers > 0;
        self.notify_one(queue);
        is_any
    }

    // ---- pop ----

    /// Takes the next job if there is one.
    pub(crate) fn try_pop(&self) -> Result<Option<B::Job>, Closed> {
        let mut queue = self.lock();
        match queue.pop() {
            Some((job, is_more)) => {
                if is_more {
                    self.notify_one(queue);
                }
                Ok(Some(job))
            }
            None if queue.is_closed => Err(Closed),
            None => Ok(None),
        }
    }

    /// Takes the next item: a job, or a batch, which goes into `local_queue`, which has to be empty.
    /// With a local queue, it first steals from the others that have not shrunk since the last call.
    pub(crate) fn take(
        &self,
        local_queue: Option<&Arc<LocalQueue<B>>>,
    ) -> Result<Taken<B::Job>, Closed> {
        let mut queue = self.lock();
        if let Some(local_queue) = local_queue {
            queue.steal_stale(local_queue);
        }
        let mut is_more = queue.items.is_empty() && queue.steal_half().unwrap_or_default();
        let taken = match (queue.items.pop_front(), local_queue) {
            (None, _) if queue.is_closed => return Err(Closed),
            (None, _) => return Ok(Taken::Nothing),
            (Some(Item::One(job)), _) => Taken::One(job),
            (Some(batch), None) => {
                queue.items.push_front(batch);
                return Ok(Taken::NeedsLocalQueue);
            }
            (Some(Item::Batch(batch)), Some(local_queue)) => {
                is_more |= batch.len() > 1;
                queue.fill(local_queue, batch);
                Taken::Batch
            }
        };
        is_more |= !queue.items.is_empty();
        // A sleeper that is notified already notifies the next one, once it is polled.
        if is_more && queue.notified == 0 {
            self.notify_one(queue);
        }
        Ok(taken)
    }

    /// Returns the rest of a local queue, which is not stolen from any more.
    pub(crate) fn give_back(&self, local_queue: &Arc<LocalQueue<B>>) {
        let mut queue = self.lock();
        queue
            .stealers
            .retain(|stealer| !Arc::ptr_eq(&stealer.local_queue, local_queue));
        let Some(batch) = local_queue
            .lock()
            .batch
            .take()
            .filter(|batch| batch.len() > 0)
        else {
            return;
        };
        queue.insert_by_id(batch);
        self.notify_one(queue);
    }

    /// Waits for the next job. After it is ready, the future can be polled again, and waits for the
    /// next one.
    ///
    /// # Cancel safety
    ///
    /// Dropping or stopping the future loses no job and no notification.
    pub(crate) const fn pop(&self) -> Pop<'_, B> {
        Pop {
            notification: self.notifications.recv(),
            sleeper: None,
            injector: self,
        }
    }

    /// Takes a job or registers as a sleeper, in one critical section. `woken` is the sleeper that
    /// the caller was until now, and whether it was notified.
    fn pop_or_sleep<'a>(&'a self, woken: Option<(Sleeper<'a, B>, bool)>) -> Popped<'a, B> {
        let mut queue = self.lock();
        let was_asleep = woken.is_some();
        if let Some((sleeper, is_notified)) = woken {
            std::mem::forget(sleeper);
            queue.sleepers -= 1;
            queue.notified -= usize::from(is_notified);
        }
        match queue.pop() {
            Some((job, is_more)) => {
                // The notification may have been for another job than the one that is taken.
                if is_more || (was_asleep && queue.has_local_jobs()) {
                    self.notify_one(queue);
                }
                Popped::Job(job)
            }
            None if queue.is_closed => Popped::Closed,
            None => {
                queue.sleepers += 1;
                Popped::Sleeps(Sleeper(self))
            }
        }
    }

    // ---- close and sweep ----

    /// Closes the queue. It accepts no more jobs; workers take those that are in it and leave.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.notifier.close();
    }

    /// Takes all jobs, oldest first.
    pub(crate) fn take_all(&self) -> VecDeque<B::Job> {
        self.take_all_for(|jobs| jobs)
    }

    /// Takes all jobs, oldest first, and passes them to `take` under the lock, before a worker can
    /// take another one. No job is dropped and no task is woken under the lock.
    pub(crate) fn take_all_for<R>(&self, take: impl FnOnce(VecDeque<B::Job>) -> R) -> R {
        let mut queue = self.lock();
        while queue.steal_half().is_some() {}
        let mut jobs = VecDeque::new();
        queue
            .items
            .drain(..)
            .for_each(|item| item.into_jobs(&mut jobs));
        take(jobs)
    }

    /// Takes up to `count` single jobs from the end of the queue; returns them oldest first.
    pub(crate) fn take_youngest(&self, count: usize) -> VecDeque<B::Job> {
        let mut jobs = VecDeque::new();
        let mut queue = self.lock();
        while jobs.len() < count {
            match queue.items.pop_back() {
                Some(Item::One(job)) => jobs.push_front(job),
                Some(batch) => {
                    queue.items.push_back(batch);
                    break;
                }
                None => break,
            }
        }
        jobs
    }

    /// The number of items in the queue; a batch is one.
    pub(crate) fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Removes the jobs of which `will_not_run` is true, and the batches of which
    /// [`Split::will_not_run`] is. The others keep their order.
    pub(crate) fn sweep(&self, will_not_run: impl Fn(&B::Job) -> bool) -> Vec<B::Job> {
        let mut queue = self.lock();
        let mut taken = Vec::new();
        for stealer in &queue.stealers {
            let batch = stealer
                .local_queue
                .lock()
                .batch
                .take_if(|batch| batch.will_not_run());
            batch
                .into_iter()
                .for_each(|batch| Item::Batch(batch).into_jobs(&mut taken));
        }
        for item in std::mem::take(&mut queue.items) {
            let will_not_run = match &item {
                Item::One(job) => will_not_run(job),
                Item::Batch(batch) => batch.will_not_run(),
            };
            if will_not_run {
                item.into_jobs(&mut taken);
            } else {
                queue.items.push_back(item);
            }
        }
        taken
    }
}

impl<B: Split> Queue<B> {
    /// Takes the next job. Returns whether any are left for other workers.
    fn pop(&mut self) -> Option<(B::Job, bool)> {
        let is_left = self.items.is_empty() && self.steal_half().unwrap_or_default();
        let job = match self.items.front_mut()? {
            Item::Batch(batch) if batch.len() > 1 => batch.pop_first()?,
            _ => match self.items.pop_front()? {
                Item::One(job) => job,
                Item::Batch(mut batch) => batch.pop_first()?,
            },
        };
        Some((job, is_left || !self.items.is_empty()))
    }

    /// Moves a batch into a local queue that is empty, and lets other workers steal from there.
    fn fill(&mut self, local_queue: &Arc<LocalQueue<B>>, batch: B) {
        let emptied = local_queue.lock().batch.replace(batch);
        debug_assert!(
            emptied.is_none_or(|batch| batch.len() == 0),
            "a worker that takes more has nothing left"
        );
        let is_known = |stealer: &Stealer<B>| Arc::ptr_eq(&stealer.local_queue, local_queue);
        if !self.stealers.iter().any(is_known) {
            self.stealers.push(Stealer {
                local_queue: Arc::clone(local_queue),
                last_len: 0,
            });
        }
    }

    /// Inserts jobs where they were taken from, before all younger ones.
    fn insert_by_id(&mut self, batch: B) {
        let id = batch.first_id();
        let at = self
            .items
            .iter()
            .take_while(|item| item.first_id() < id)
            .count();
        self.items.insert(at, Item::Batch(batch));
    }

    /// Moves half of a local queue into the queue. `None`: all local queues are empty. Returns
    /// whether a local queue has jobs left.
    fn steal_half(&mut self) -> Option<bool> {
        let half = self.stealers.iter().find_map(|stealer| {
            let mut local = stealer.local_queue.lock();
            local
                .batch
                .as_mut()
                .filter(|batch| batch.len() > 0)
                .map(|batch| batch.split_half())
        })?;
        self.insert_by_id(half);
        Some(self.has_local_jobs())
    }

    fn has_local_jobs(&self) -> bool {
        self.stealers.iter().any(|stealer| {
            stealer
                .local_queue
                .lock()
                .batch
                .as_ref()
                .is_some_and(|batch| batch.len() > 0)
        })
    }

    /// Steals half of each local queue that has not shrunk since the last call: its jobs are older
    /// than the queue's, and its worker is busy with one job.
    fn steal_stale(&mut self, local_queue: &Arc<LocalQueue<B>>) {
        for at in 0..self.stealers.len() {
            let stealer = &mut self.stealers[at];
            if Arc::ptr_eq(&stealer.local_queue, local_queue) {
                continue;
            }
            let mut local = stealer.local_queue.lock();
            let Some(batch) = &mut local.batch else {
                continue;
            };
            if batch.len() == 0 || batch.len() != stealer.last_len {
                stealer.last_len = batch.len();
                continue;
            }
            let half = batch.split_half();
            drop(local);
            self.insert_by_id(half);
        }
    }
}

pin_project! {
    /// The next job for a worker; made by [`Injector::pop`].
    pub(crate) struct Pop<'a, B: Split> {
        #[pin]
        notification: Recv<'a, ()>,
        // While it waits for a notification.
        sleeper: Option<Sleeper<'a, B>>,
        injector: &'a Injector<B>,
    }
}

impl<B: Split> Pop<'_, B> {
    /// Ends the wait: a new job notifies another worker.
    pub(crate) fn stop(self: Pin<&mut Self>) {
        let this = self.project();
        this.notification.stop();
        *this.sleeper = None;
    }
}

impl<B: Split> Future for Pop<'_, B> {
    type Output = Result<B::Job, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // Terminates: there are no more notifications than workers.
        loop {
            let woken = match this.sleeper.take() {
                None => None,
                Some(sleeper) => match this.notification.as_mut().poll(cx) {
                    Poll::Ready(received) => Some((sleeper, received.is_ok())),
                    Poll::Pending => {
                        *this.sleeper = Some(sleeper);
                        return Poll::Pending;
                    }
                },
            };
            match this.injector.pop_or_sleep(woken) {
                Popped::Job(job) => return Poll::Ready(Ok(job)),
                Popped::Closed => return Poll::Ready(Err(Closed)),
                Popped::Sleeps(sleeper) => *this.sleeper = Some(sleeper),
            }
        }
    }
}

/// The result of [`Injector::pop_or_sleep`].
enum Popped<'a, B: Split> {
    Job(B::Job),
    Closed,
    Sleeps(Sleeper<'a, B>),
}

/// Keeps a worker counted in `sleepers` until it is dropped.
struct Sleeper<'a, B: Split>(&'a Injector<B>);

impl<B: Split> Drop for Sleeper<'_, B> {
    fn drop(&mut self) {
        self.0.lock().sleepers -= 1;
    }
}

/// For the simulator.
#[cfg(feature = "testing")]
impl<B: Split> Injector<B> {
    /// Calls the closure, under the lock, with each job in the queue that is not part of a batch.
    pub(crate) fn for_each_single(&self, mut visit: impl FnMut(&B::Job)) {
        for item in &self.lock().items {
            if let Item::One(job) = item {
                visit(job);
            }
        }
    }
}

/// For tests.
#[cfg(test)]
impl<J: Copy + Into<u64>> Split for VecDeque<J> {
    type Job = J;

    fn len(&self) -> usize {
        self.len()
    }

    fn pop_first(&mut self) -> Option<J> {
        self.pop_front()
    }

    fn split_half(&mut self) -> Self {
        let rest = self.split_off(self.len().div_ceil(2));
        std::mem::replace(self, rest)
    }

    fn first_id(&self) -> u64 {
        self.front().copied().map_or(0, Into::into)
    }

    fn id_of(job: &J) -> u64 {
        (*job).into()
    }

    fn will_not_run(&self) -> bool {
        self.iter().all(|job| (*job).into() % 3 == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    type Numbers = Injector<VecDeque<u32>>;

    fn drain(injector: &Numbers) -> Vec<u32> {
        std::iter::from_fn(|| injector.try_pop().ok().flatten()).collect()
    }

    fn asleep(
        injector: &Numbers,
        count: usize,
    ) -> Vec<Pin<Box<dyn Future<Output = Result<u32, Closed>> + '_>>> {
        let mut sleepers: Vec<Pin<Box<dyn Future<Output = _>>>> = Vec::new();
        for _ in 0..count {
            let mut sleeper = Box::pin(injector.pop());
            assert_eq!(block_on(poll_once(&mut sleeper)), None);
            sleepers.push(sleeper);
        }
        sleepers
    }

    #[test]
    fn jobs_come_out_in_the_order_in_which_they_were_pushed() {
        let injector = Numbers::new();
        injector.push(0).unwrap();
        injector.push_batch((1..4).collect()).unwrap();
        injector.push(4).unwrap();
        assert!(injector.push_many(5..9).is_ok());
        let first: Vec<_> = (0..5)
            .map(|_| injector.try_pop().unwrap().unwrap())
            .collect();
        assert!(injector.push_many(9..13).is_ok());
        assert_eq!(
            (first, drain(&injector)),
            ((0..5).collect(), (5..13).collect())
        );
        assert_eq!(injector.try_pop(), Ok(None));
    }

    #[test]
    fn jobs_of_one_batch_go_to_all_sleeping_workers() {
        let injector = Numbers::new();
        let mut sleepers = asleep(&injector, 3);
        assert!(injector.push_many(1..5).is_ok());
        let woken: Vec<_> = sleepers
            .iter_mut()
            .map(|sleeper| block_on(poll_once(sleeper)))
            .collect();
        assert_eq!(woken, [Some(Ok(1)), Some(Ok(2)), Some(Ok(3))]);
        assert_eq!(drain(&injector), [4]);
    }

    /// However many notifications were sent before.
    #[test]
    fn jobs_that_come_together_are_not_left_while_workers_sleep() {
        for first in 1..5 {
            let injector = Numbers::new();
            let mut sleepers = asleep(&injector, 8);
            for job in 0..first {
                injector.push(job).unwrap();
            }
            assert!(injector.push_many(first..first + 2).is_ok());
            let taken = sleepers
                .iter_mut()
                .filter_map(|sleeper| block_on(poll_once(sleeper)));
            assert_eq!(
                taken.map(Result::unwrap).collect::<Vec<_>>(),
                (0..first + 2).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn a_notification_of_a_sleeper_that_is_dropped_goes_to_another() {
        let injector = Numbers::new();
        for polls in 0..3 {
            let mut sleepers = asleep(&injector, 3);
            assert!(injector.push_many(1..3).is_ok());
            for _ in 0..polls {
                // A dropped sleeper may take a job with it.
                drop(sleepers.remove(0));
            }
            let mut left = sleepers
                .iter_mut()
                .filter_map(|sleeper| block_on(poll_once(sleeper)));
            assert_eq!(left.next(), Some(Ok(1)), "with {polls} dropped");
            drop(left);
            drop(sleepers);
            drain(&injector);
        }
    }

    #[test]
    fn a_sleeper_that_is_dropped_loses_nothing() {
        let injector = Numbers::new();
        for polls in 0..3 {
            let mut sleeper = Box::pin(injector.pop());
            for _ in 0..polls {
                assert_eq!(block_on(poll_once(&mut sleeper)), None);
            }
            assert!(injector.push_many(1..3).is_ok());
            drop(sleeper);
            assert_eq!(drain(&injector), [1, 2]);
            let queue = injector.lock();
            assert_eq!(queue.sleepers, 0);
            assert!(queue.notified <= 1, "one worker was there");
        }
    }

    /// A worker may take another job than the one that it was notified of.
    #[test]
    fn a_woken_worker_passes_on_what_is_left_in_a_local_queue() {
        let injector = Numbers::new();
        let mut sleepers = asleep(&injector, 2);
        injector.push_batch((0..3).collect()).unwrap();
        let local_queue = Arc::new(LocalQueue::default());
        assert_eq!(injector.take(Some(&local_queue)), Ok(Taken::Batch));
        injector.push(9).unwrap();
        let taken: Vec<_> = sleepers
            .iter_mut()
            .map(|sleeper| block_on(poll_once(sleeper)))
            .collect();
        assert_eq!(taken, [Some(Ok(9)), Some(Ok(0))]);
    }

    #[test]
    fn a_batch_that_is_taken_wakes_one_worker_which_wakes_the_next() {
        let injector = Numbers::new();
        let local_queue = Arc::new(LocalQueue::default());
        let mut sleepers = asleep(&injector, 3);
        injector.push_batch((0..9).collect()).unwrap();
        assert_eq!(injector.take(Some(&local_queue)), Ok(Taken::Batch));
        assert_eq!(injector.lock().notified, 1);
        assert_eq!(block_on(poll_once(&mut sleepers[0])), Some(Ok(0)));
        assert_eq!(injector.lock().notified, 1);
        assert_eq!(block_on(poll_once(&mut sleepers[1])), Some(Ok(1)));
    }

    #[derive(Default)]
    struct Counts(AtomicUsize);

    impl Wake for Counts {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_worker_that_stops_waiting_passes_its_notification_on_and_may_wait_again() {
        let injector = Numbers::new();
        let counts = [0, 1].map(|_| Arc::new(Counts::default()));
        let wakers = counts.clone().map(Waker::from);
        let mut pops = [0, 1].map(|_| Box::pin(injector.pop()));
        let poll = |pop: &mut Pin<Box<Pop<'_, _>>>, waker: &Waker| {
            pop.as_mut().poll(&mut Context::from_waker(waker))
        };
        for (pop, waker) in pops.iter_mut().zip(&wakers) {
            assert_eq!(poll(pop, waker), Poll::Pending);
        }
        injector.push(1).unwrap();
        let woken = || {
            counts
                .each_ref()
                .map(|counts| counts.0.load(Ordering::SeqCst))
        };
        assert_eq!(woken(), [1, 0]);
        pops[0].as_mut().stop();
        assert_eq!((woken(), injector.lock().sleepers), ([1, 1], 1));
        assert_eq!(poll(&mut pops[1], &wakers[1]), Poll::Ready(Ok(1)));
        // Both wait again, each in the task of the other.
        for (pop, waker) in pops.iter_mut().zip(wakers.iter().rev()) {
            assert_eq!(poll(pop, waker), Poll::Pending);
        }
        let count = |queue: &Queue<_>| (queue.sleepers, queue.notified);
        assert_eq!(count(&injector.lock()), (2, 0));
        injector.push(2).unwrap();
        assert_eq!(woken(), [1, 2]);
        assert_eq!(poll(&mut pops[0], &wakers[1]), Poll::Ready(Ok(2)));
    }

    #[test]
    fn the_last_job_of_a_local_queue_wakes_a_worker_after_others_were_stolen() {
        let injector = Numbers::new();
        injector.push_batch((0..3).collect()).unwrap();
        let local_queue = Arc::new(LocalQueue::default());
        let mut sleepers = Vec::new();
        assert_eq!(injector.take(Some(&local_queue)), Ok(Taken::Batch));
        assert_eq!(
            local_queue
                .lock()
                .batch
                .as_mut()
                .and_then(VecDeque::pop_front),
            Some(0)
        );
        // Another worker steals one of the two and leaves the other.
        let thief = Arc::new(LocalQueue::default());
        assert_eq!(injector.take(Some(&thief)), Ok(Taken::Batch));
        assert_eq!(thief.lock().batch.take(), Some(VecDeque::from([1])));
        sleepers.push(Box::pin(injector.pop()));
        assert_eq!(block_on(poll_once(&mut sleepers[0])), Some(Ok(2)));
    }

    struct Submits {
        injector: Arc<Numbers>,
        wakes: AtomicUsize,
    }

    impl Wake for Submits {
        fn wake(self: Arc<Self>) {
            self.wakes.fetch_add(1, Ordering::SeqCst);
            self.injector.push(7).unwrap();
            self.injector.sweep(|_| false);
        }
    }

    /// The channel wakes under a lock of its own, with another worker to be woken.
    #[test]
    fn a_waker_may_submit_and_cancel_before_it_returns() {
        let injector = Arc::new(Numbers::new());
        let submits = Arc::new(Submits {
            injector: Arc::clone(&injector),
            wakes: AtomicUsize::new(0),
        });
        let waker = Waker::from(Arc::clone(&submits));
        let mut sleepers: Vec<_> = (0..3).map(|_| Box::pin(injector.pop())).collect();
        for sleeper in &mut sleepers {
            assert!(
                sleeper
                    .as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            );
        }
        injector.push(1).unwrap();
        assert_eq!(submits.wakes.load(Ordering::SeqCst), 3);
        let noop = &mut Context::from_waker(Waker::noop());
        let taken: Vec<_> = sleepers
            .iter_mut()
            .map(|sleeper| sleeper.as_mut().poll(noop))
            .collect();
        assert_eq!(
            taken,
            [Poll::Ready(Ok(1)), Poll::Ready(Ok(7)), Poll::Ready(Ok(7))]
        );
    }

    #[test]
    fn a_waker_that_panics_loses_no_job() {
        struct Panics;
        impl Wake for Panics {
            fn wake(self: Arc<Self>) {
                std::panic::resume_unwind(Box::new("a waker"));
            }
        }
        let injector = Numbers::new();
        let mut sleeper = Box::pin(injector.pop());
        let waker = Waker::from(Arc::new(Panics));
        assert!(
            sleeper
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        assert_eq!(injector.push(1), Ok(()));
        assert_eq!(block_on(poll_once(&mut sleeper)), Some(Ok(1)));
    }

    /// Dropping the waker under the lock would deadlock.
    #[test]
    fn a_waker_that_is_replaced_may_come_back_to_the_queue_in_its_drop() {
        struct Pops(Arc<Numbers>);
        impl Wake for Pops {
            fn wake(self: Arc<Self>) {}
        }
        impl Drop for Pops {
            fn drop(&mut self) {
                assert_eq!(self.0.try_pop(), Ok(None));
            }
        }
        let injector = Arc::new(Numbers::new());
        let mut sleeper = Box::pin(injector.pop());
        let waker = Waker::from(Arc::new(Pops(Arc::clone(&injector))));
        assert!(
            sleeper
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        drop(waker);
        assert_eq!(Arc::strong_count(&injector), 2);
        assert!(
            sleeper
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        assert_eq!(Arc::strong_count(&injector), 1);
    }

    #[test]
    fn sweep_takes_the_dead_and_keeps_the_order_of_the_living() {
        let injector = Numbers::new();
        for job in 0..8 {
            injector.push(job).unwrap();
        }
        assert!(injector.push_many(8..11).is_ok());
        assert_eq!(injector.try_pop(), Ok(Some(0)));
        assert_eq!(injector.sweep(|job| job % 3 == 0), [3, 6, 9]);
        injector.push(11).unwrap();
        assert_eq!(drain(&injector), [1, 2, 4, 5, 7, 8, 10, 11]);
    }

    #[test]
    fn a_sweep_leaves_no_worker_asleep_while_a_job_waits() {
        let injector = Numbers::new();
        let mut sleepers = asleep(&injector, 1);
        assert!(injector.push_many(1..3).is_ok());
        assert_eq!(injector.sweep(|job| *job == 1), [1]);
        assert_eq!(block_on(poll_once(&mut sleepers[0])), Some(Ok(2)));
    }

    #[test]
    fn a_closed_queue_gives_jobs_back_and_lets_workers_take_the_rest() {
        let injector = Numbers::new();
        let mut sleepers = asleep(&injector, 1);
        injector.push(0).unwrap();
        injector.push(1).unwrap();
        injector.close();
        assert_eq!(injector.push(5), Err(5));
        assert_eq!(
            injector.push_batch(VecDeque::from([5])),
            Err(VecDeque::from([5]))
        );
        assert_eq!(injector.push_many(5..6).err(), Some(5..6));
        assert_eq!(block_on(poll_once(&mut sleepers[0])), Some(Ok(0)));
        assert_eq!(injector.take_all(), [1]);
        assert_eq!(injector.try_pop(), Err(Closed));
        assert_eq!(block_on(injector.pop()), Err(Closed));
    }
}
