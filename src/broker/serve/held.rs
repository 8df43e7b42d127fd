//! The deliveries that are held, from their fetch to their settlement, and the counts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Delivery, JobId};
use super::report::ServeReport;

/// Numbers deliveries in the order in which they were fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ticket(u64);

/// The deliveries that are held: at most the prefetch, if the broker keeps to what it was asked
/// for.
pub(super) struct Held<R> {
    jobs: HashMap<Ticket, HeldJob<R>>,
    next: u64,
    /// The tickets of the deliveries that were sent to the map, by their index there.
    sent: HashMap<usize, Ticket>,
    next_index: usize,
    /// The shortest lease so far.
    pub(super) lease: Option<Duration>,
    pub(super) report: ServeReport,
}

/// A delivery that is held.
pub(super) struct HeldJob<R> {
    pub(super) id: JobId,
    /// Shared, so that no code of an adapter runs under the lock.
    pub(super) receipt: Arc<R>,
    pub(super) delivery_count: Option<u32>,
    has_lease: bool,
    /// Whether the broker has said that the delivery is over.
    is_over: bool,
    /// Whether its settlement is on its way.
    is_settling: bool,
}

impl<R> Default for Held<R> {
    fn default() -> Self {
        Self {
            jobs: HashMap::new(),
            next: 0,
            sent: HashMap::new(),
            next_index: 0,
            lease: None,
            report: ServeReport::default(),
        }
    }
}

impl<R> Held<R> {
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Adds a delivery and counts it. Returns whether its lease is the shortest so far.
    pub(super) fn add(&mut self, delivery: &Delivery<R>, receipt: Arc<R>) -> (Ticket, bool) {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.jobs.insert(
            ticket,
            HeldJob {
                id: delivery.job_id.clone(),
                receipt,
                delivery_count: delivery.delivery_count,
                has_lease: delivery.lease.is_some(),
                is_over: false,
                is_settling: false,
            },
        );
        self.report.fetched += 1;
        self.report.redelivered += u64::from(delivery.redelivered);
        let known = self.lease.unwrap_or(Duration::MAX);
        let shorter = delivery.lease.filter(|lease| *lease < known);
        self.lease = shorter.or(self.lease);
        (ticket, shorter.is_some())
    }

    /// The id of a job, and how many times it was delivered.
    pub(super) fn known(&self, ticket: Ticket) -> Option<(JobId, Option<u32>)> {
        let job = self.jobs.get(&ticket)?;
        Some((job.id.clone(), job.delivery_count))
    }

    /// Notes that the input of a delivery is sent to the map.
    pub(super) fn send(&mut self, ticket: Ticket) {
        self.sent.insert(self.next_index, ticket);
        self.next_index += 1;
    }

    /// The delivery whose job has completed, which is settled from now on.
    pub(super) fn complete(&mut self, index: usize) -> Option<(Ticket, &HeldJob<R>)> {
        let ticket = self.sent.remove(&index)?;
        Some((ticket, self.begin_settling(ticket)?))
    }

    pub(super) fn begin_settling(&mut self, ticket: Ticket) -> Option<&HeldJob<R>> {
        let job = self.jobs.get_mut(&ticket)?;
        job.is_settling = true;
        Some(job)
    }

    /// Those without a settlement, which are settled from now on.
    pub(super) fn begin_settling_all(&mut self) -> Vec<(Ticket, Arc<R>)> {
        let left = self.jobs.iter_mut().filter(|(_, job)| !job.is_settling);
        left.map(|(ticket, job)| {
            job.is_settling = true;
            (*ticket, Arc::clone(&job.receipt))
        })
        .collect()
    }

    /// Removes a delivery that is settled.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<HeldJob<R>> {
        self.jobs.remove(&ticket)
    }

    pub(super) fn is_over(&self, ticket: Ticket) -> bool {
        self.jobs.get(&ticket).is_none_or(|job| job.is_over)
    }

    pub(super) fn set_over(&mut self, ticket: Ticket) {
        if let Some(job) = self.jobs.get_mut(&ticket) {
            job.is_over = true;
        }
    }

    /// The deliveries whose leases are to be extended.
    pub(super) fn leases(&self) -> Vec<(Ticket, Arc<R>)> {
        let leases = self.jobs.iter();
        leases
            .filter(|(_, job)| job.has_lease && !job.is_over)
            .map(|(ticket, job)| (*ticket, Arc::clone(&job.receipt)))
            .collect()
    }
}
