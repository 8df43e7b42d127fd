//! The jobs of a [`MemoryBroker`](super::MemoryBroker): where each of them is, and whose receipt
//! settles it. Pure: its methods take the time and the consumer, and know no lock, future or clock.
//!
//! A job is in exactly one place:
//!
//! ```text
//!  enqueue ─► delayed ─► ready ─► leased ─► done
//!                ▲         ▲        │ │
//!                │         └────────┘ └───► dead
//!                └── nack(Retry after) ┘      (retry_dead ─► ready)
//! ```
//!
//! [`Queue::advance`] does what time does. The broker calls it before each operation, so a lease
//! that has ended is over even if no other consumer has fetched the job.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{DeadLetter, JobId, Nack, NewJob};

/// All jobs of one queue. Bounded by nothing but what is enqueued: a job leaves memory when its
/// result is [taken](Self::take_results).
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Numbers jobs, deliveries and consumers.
    next: u64,
    /// The jobs that are ready, delayed or leased, by their sequence number.
    jobs: BTreeMap<u64, Job>,
    /// Greatest priority first, then by sequence number: a job that comes back has its old
    /// position.
    ready: BTreeSet<(Reverse<u8>, u64)>,
    /// By the end of the delay. Without those whose delay ends later than any [`Instant`].
    delayed: BTreeSet<(Instant, u64)>,
    /// By the end of the lease. Without those that end later than any [`Instant`].
    leases: BTreeSet<(Instant, u64)>,
    /// The leased jobs, by consumer.
    held: BTreeSet<(u64, u64)>,
    /// The ids of all jobs, done and dead ones included.
    known: HashSet<JobId>,
    /// In the order of their acks.
    done: Vec<(JobId, Option<Vec<u8>>)>,
    /// In the order of their nacks.
    dead: Vec<Dead>,
}

#[derive(Debug)]
struct Job {
    id: JobId,
    /// Shared with the deliveries that are being made, so that no payload is copied under a lock.
    payload: Arc<Vec<u8>>,
    priority: u8,
    /// How many deliveries count.
    deliveries: u32,
    /// How many of them ended without being settled.
    lost: u32,
    /// Whether there was one, counted or not.
    was_delivered: bool,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Ready,
    Delayed { until: Option<Instant> },
    Leased(Lease),
}

#[derive(Debug)]
struct Lease {
    /// The fence: no two leases have the same number.
    delivery: u64,
    consumer: u64,
    until: Option<Instant>,
}

#[derive(Debug)]
struct Dead {
    id: JobId,
    payload: Arc<Vec<u8>>,
    priority: u8,
    reason: String,
}

/// Names one delivery of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Token {
    job: u64,
    delivery: u64,
}

/// A job that was leased.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Leased {
    pub(super) token: Token,
    pub(super) id: JobId,
    pub(super) payload: Arc<Vec<u8>>,
    pub(super) deliveries: u32,
    pub(super) lost: u32,
    pub(super) redelivered: bool,
}

/// The delivery of a token is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Over;

/// How many jobs of a [`MemoryBroker`](super::MemoryBroker) are where; made by
/// [`MemoryBroker::counts`](super::MemoryBroker::counts).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemoryCounts {
    /// Jobs that a fetch would get.
    pub ready: usize,
    /// Jobs whose delay has not ended.
    pub delayed: usize,
    /// Jobs that a consumer holds.
    pub leased: usize,
    /// Jobs that were acknowledged and whose results were not
    /// [taken](super::MemoryBroker::take_results).
    pub done: usize,
    /// Dead letters.
    pub dead: usize,
}

impl Queue {
    /// A number that no job, delivery or consumer has.
    pub(super) const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Ends the delays and leases whose time has come.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some(job) = pop_due(&mut self.delayed, now) {
            self.make_ready(job);
        }
        while let Some(job) = pop_due(&mut self.leases, now) {
            self.lose(job);
        }
    }

    /// When [`advance`](Self::advance) has something to do next.
    pub(super) fn next_event(&self) -> Option<Instant> {
        let delay = self.delayed.first();
        let lease = self.leases.first();
        delay.into_iter().chain(lease).map(|(at, _)| *at).min()
    }

    /// How many jobs a fetch could get.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Adds a job, unless its id is known.
    pub(super) fn enqueue(&mut self, now: Instant, job: NewJob) {
        if !self.known.insert(job.id.clone()) {
            return;
        }
        self.insert(job.id, Arc::new(job.payload), job.priority, false);
        if !job.delay.is_zero() {
            self.delay(self.next, now.checked_add(job.delay));
        }
    }

    /// Leases up to `max` jobs.
    pub(super) fn fetch(
        &mut self,
        now: Instant,
        max: usize,
        lease: Duration,
        consumer: u64,
    ) -> Vec<Leased> {
        let until = now.checked_add(lease);
        let mut leased = Vec::with_capacity(max.min(self.ready.len()));
        while leased.len() < max
            && let Some((_, number)) = self.ready.pop_first()
        {
            let delivery = self.number();
            let Some(job) = self.jobs.get_mut(&number) else {
                continue;
            };
            job.place = Place::Leased(Lease {
                delivery,
                consumer,
                until,
            });
            job.deliveries = job.deliveries.saturating_add(1);
            let token = Token {
                job: number,
                delivery,
            };
            leased.push(Leased {
                token,
                id: job.id.clone(),
                payload: Arc::clone(&job.payload),
                deliveries: job.deliveries,
                lost: job.lost,
                redelivered: std::mem::replace(&mut job.was_delivered, true),
            });
            self.held.insert((consumer, number));
            self.leases.extend(until.map(|until| (until, number)));
        }
        leased
    }

    /// Moves a job to the done ones, with its result.
    pub(super) fn ack(&mut self, token: Token, result: Option<Vec<u8>>) -> Result<(), Over> {
        let job = self.take(token)?;
        self.done.push((job.id, result));
        Ok(())
    }

    /// Does with a job what `nack` says.
    pub(super) fn nack(&mut self, now: Instant, token: Token, nack: Nack) -> Result<(), Over> {
        match nack {
            Nack::Retry { after, .. } => {
                self.check(token)?;
                self.make_ready(token.job);
                if let Some(after) = after.filter(|after| !after.is_zero()) {
                    self.delay(token.job, now.checked_add(after));
                }
            }
            Nack::Release => {
                self.check(token)?;
                self.release(token.job);
            }
            Nack::DeadLetter { reason } => {
                let job = self.take(token)?;
                self.dead.push(Dead {
                    id: job.id,
                    payload: job.payload,
                    priority: job.priority,
                    reason,
                });
            }
        }
        Ok(())
    }

    /// Makes a lease end `by` from now.
    pub(super) fn extend(&mut self, now: Instant, token: Token, by: Duration) -> Result<(), Over> {
        self.check(token)?;
        let new = now.checked_add(by);
        if let Some(job) = self.jobs.get_mut(&token.job)
            && let Place::Leased(Lease { until, .. }) = &mut job.place
        {
            let old = std::mem::replace(until, new);
            if let Some(old) = old {
                self.leases.remove(&(old, token.job));
            }
            self.leases.extend(new.map(|new| (new, token.job)));
        }
        Ok(())
    }

    /// Ends the leases of a consumer, whose deliveries do not count.
    pub(super) fn release_all(&mut self, consumer: u64) {
        for job in self.held_by(consumer) {
            self.release(job);
        }
    }

    /// Ends the leases of a consumer, whose deliveries count.
    pub(super) fn lose_all(&mut self, consumer: u64) {
        for job in self.held_by(consumer) {
            self.lose(job);
        }
    }

    pub(super) fn results(&self) -> Vec<(JobId, Vec<u8>)> {
        let results = self.done.iter();
        results
            .filter_map(|(id, result)| Some((id.clone(), result.clone()?)))
            .collect()
    }

    /// Forgets the done jobs, ids included.
    pub(super) fn take_results(&mut self) -> Vec<(JobId, Option<Vec<u8>>)> {
        let done = std::mem::take(&mut self.done);
        for (id, _) in &done {
            self.known.remove(id);
        }
        done
    }

    pub(super) fn dead_letters(&self) -> Vec<DeadLetter> {
        let letter = |dead: &Dead| {
            DeadLetter::new(dead.id.clone(), dead.payload.to_vec(), dead.reason.clone())
        };
        self.dead.iter().map(letter).collect()
    }

    /// Makes all dead letters ready, behind the jobs of their priority. Their deliveries are
    /// counted from zero.
    pub(super) fn retry_dead(&mut self) -> usize {
        let dead = std::mem::take(&mut self.dead);
        let count = dead.len();
        for job in dead {
            self.insert(job.id, job.payload, job.priority, true);
        }
        count
    }

    pub(super) fn counts(&self) -> MemoryCounts {
        let (ready, leased) = (self.ready.len(), self.held.len());
        MemoryCounts {
            ready,
            delayed: self.jobs.len() - ready - leased,
            leased,
            done: self.done.len(),
            dead: self.dead.len(),
        }
    }

    fn insert(&mut self, id: JobId, payload: Arc<Vec<u8>>, priority: u8, was_delivered: bool) {
        let number = self.number();
        self.ready.insert((Reverse(priority), number));
        let job = Job {
            id,
            payload,
            priority,
            deliveries: 0,
            lost: 0,
            was_delivered,
            place: Place::Ready,
        };
        self.jobs.insert(number, job);
    }

    fn held_by(&self, consumer: u64) -> Vec<u64> {
        let held = self.held.range((consumer, 0)..=(consumer, u64::MAX));
        held.map(|&(_, job)| job).collect()
    }

    /// Whether the delivery of a token is not over.
    fn check(&self, token: Token) -> Result<(), Over> {
        match self.jobs.get(&token.job).map(|job| &job.place) {
            Some(Place::Leased(lease)) if lease.delivery == token.delivery => Ok(()),
            _ => Err(Over),
        }
    }

    /// Takes a job out of the queue. Its id stays known.
    fn take(&mut self, token: Token) -> Result<Job, Over> {
        self.check(token)?;
        self.unlink(token.job);
        self.jobs.remove(&token.job).ok_or(Over)
    }

    /// Makes a leased job ready as if the delivery had not been.
    fn release(&mut self, number: u64) {
        self.make_ready(number);
        if let Some(job) = self.jobs.get_mut(&number) {
            job.deliveries = job.deliveries.saturating_sub(1);
        }
    }

    /// Makes a leased job ready whose delivery has ended unsettled.
    fn lose(&mut self, number: u64) {
        self.make_ready(number);
        if let Some(job) = self.jobs.get_mut(&number) {
            job.lost = job.lost.saturating_add(1);
        }
    }

    fn make_ready(&mut self, number: u64) {
        self.unlink(number);
        if let Some(job) = self.jobs.get_mut(&number) {
            job.place = Place::Ready;
            self.ready.insert((Reverse(job.priority), number));
        }
    }

    fn delay(&mut self, number: u64, until: Option<Instant>) {
        self.unlink(number);
        if let Some(job) = self.jobs.get_mut(&number) {
            job.place = Place::Delayed { until };
            self.delayed.extend(until.map(|until| (until, number)));
        }
    }

    /// Removes a job from the index of its place; the caller gives it another place.
    fn unlink(&mut self, number: u64) {
        let Some(job) = self.jobs.get(&number) else {
            return;
        };
        match &job.place {
            Place::Ready => {
                self.ready.remove(&(Reverse(job.priority), number));
            }
            Place::Delayed { until } => {
                if let Some(until) = *until {
                    self.delayed.remove(&(until, number));
                }
            }
            Place::Leased(lease) => {
                self.held.remove(&(lease.consumer, number));
                if let Some(until) = lease.until {
                    self.leases.remove(&(until, number));
                }
            }
        }
    }
}

/// Takes out a job whose time has come.
fn pop_due(times: &mut BTreeSet<(Instant, u64)>, now: Instant) -> Option<u64> {
    times.first().filter(|(at, _)| *at <= now)?;
    times.pop_first().map(|(_, job)| job)
}

#[cfg(test)]
mod tests;
