//! The fetches that wait for a job, and which of them to wake.
//!
//! Invariant, kept by [`Waiters::notify`], which runs after every change of the queue and after
//! every removal of a waiter:
//!
//! 1. At least as many waiters are notified as there are ready jobs, or all of them are. So a job
//!    is never ready while a fetch sleeps that could take it: a notified fetch that is dropped was
//!    counted, and the removal notifies another in its place.
//! 2. No waiter that is not notified has an alarm later than the queue's next event. So each of
//!    them finds out by itself when a delay or a lease ends, however many are dropped.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Instant;

/// Bounded by the number of fetches that wait.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// By the number of the wait: the longest wait is notified first.
    waiting: BTreeMap<u64, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    consumer: u64,
    /// `None`: notified.
    waker: Option<Waker>,
    /// Until when its fetch sleeps at most; `None`: forever.
    alarm: Option<Instant>,
}

impl Waiters {
    /// Registers a wait, or renews it, as not notified. Returns a waker to be dropped without a
    /// lock.
    pub(super) fn register(
        &mut self,
        number: u64,
        consumer: u64,
        waker: Waker,
        alarm: Option<Instant>,
    ) -> Option<Waker> {
        let waiter = Waiter {
            consumer,
            waker: Some(waker),
            alarm,
        };
        self.waiting.insert(number, waiter)?.waker
    }

    /// Ends a wait. Returns a waker to be dropped without a lock.
    pub(super) fn remove(&mut self, number: u64) -> Option<Waker> {
        self.waiting.remove(&number)?.waker
    }

    /// Restores the invariant. Returns the wakers of those that it has notified, to be woken
    /// without a lock. Takes time by the number of waiters.
    pub(super) fn notify(&mut self, ready: usize, next_event: Option<Instant>) -> Vec<Waker> {
        let waiting = self.waiting.values();
        let mut notified = waiting.filter(|waiter| waiter.waker.is_none()).count();
        let mut wakers = Vec::new();
        for waiter in self.waiting.values_mut() {
            let sleeps_too_long = match (waiter.alarm, next_event) {
                (Some(alarm), Some(next)) => next < alarm,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if (notified < ready || sleeps_too_long)
                && let Some(waker) = waiter.waker.take()
            {
                notified += 1;
                wakers.push(waker);
            }
        }
        wakers
    }

    /// Notifies all waits of a consumer.
    pub(super) fn notify_all_of(&mut self, consumer: u64) -> Vec<Waker> {
        let waiters = self.waiting.values_mut();
        waiters
            .filter(|waiter| waiter.consumer == consumer)
            .filter_map(|waiter| waiter.waker.take())
            .collect()
    }
}
