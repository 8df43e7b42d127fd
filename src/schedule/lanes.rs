//! One lane for each key, with its ready jobs in order; returns the next job, or the time at which
//! one may start. Pure.
//!
//! Lanes whose first jobs have the same rank are served round-robin: a lane goes behind the others
//! when one of its jobs is released, and when it becomes non-empty. A lane at its limit of running
//! jobs, or of its rate, is in no set that [`next_job`](Lanes::next_job) scans. Jobs without a key
//! share one lane, so without keys all of this is a queue.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;

use super::clock::Tick;
use super::limiter::{Limiter, RateLimit};
use super::order::{Order, Rank};
use super::slab::{RecordId, Slab};
use crate::key::Key;

/// The limits of the jobs of one [key](Key); see
/// [`Pool::set_key_limits`](crate::Pool::set_key_limits).
///
/// # Examples
///
/// ```
/// use brigade::{KeyLimits, RateLimit};
///
/// let slow = KeyLimits::new().max_running(2).rate_limit(RateLimit::per_second(1));
/// assert_ne!(slow, KeyLimits::new());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyLimits {
    pub(crate) max_running: Option<usize>,
    pub(crate) limit: Option<RateLimit>,
}

impl KeyLimits {
    /// No limits.
    pub const fn new() -> Self {
        Self {
            max_running: None,
            limit: None,
        }
    }

    /// Bounds how many jobs of the key run at once.
    ///
    /// # Panics
    ///
    /// If `count` is 0.
    #[track_caller]
    pub const fn max_running(mut self, count: usize) -> Self {
        assert!(count > 0, "max_running must be at least 1, got 0");
        self.max_running = Some(count);
        self
    }

    /// Bounds how often jobs of the key start.
    pub const fn rate_limit(mut self, limit: RateLimit) -> Self {
        self.limit = Some(limit);
        self
    }
}

/// The key of a lane in its slab.
pub(super) type LaneId = NonZeroU32;

#[derive(Debug)]
pub(crate) struct Lanes {
    /// The limits of the lanes of all keys but those of `limits_by_key`.
    default_limits: KeyLimits,
    limits_by_key: HashMap<Key, KeyLimits>,
    lanes: Slab<Lane>,
    by_key: HashMap<Key, LaneId>,
    /// The lane of jobs without a key.
    common: Option<LaneId>,
    /// Lanes with a ready job that are not full, by the rank of the first job, then round-robin.
    /// Whether the limiter has permits is checked by `next_job`.
    eligible: BTreeSet<(Rank, u64, LaneId)>,
    /// Lanes that wait for a time.
    waiting_until: BTreeSet<(Tick, LaneId)>,
    /// Lanes without jobs whose limiters have not refilled, by the time at which they have.
    refilling: BTreeSet<(Tick, LaneId)>,
    round_robin: u64,
}

#[derive(Debug)]
struct Lane {
    key: Option<Key>,
    ready: Order,
    /// Jobs of this lane in any state.
    jobs: usize,
    /// Released and running jobs.
    occupied: usize,
    max_running: Option<usize>,
    limiter: Option<Limiter>,
    /// No job starts before that.
    held_until: Tick,
    /// The position in the round; the lowest is next.
    round_robin: u64,
    state: LaneState,
}

/// Which of the sets of [`Lanes`] a lane is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneState {
    Inactive,
    Eligible(Rank),
    /// With `NEVER`, until a released job of the lane starts or is given back: it holds the permits
    /// that the next one needs.
    WaitingUntil(Tick),
}

impl Lanes {
    pub(crate) fn new(default_limits: KeyLimits) -> Self {
        Self {
            default_limits,
            limits_by_key: HashMap::new(),
            lanes: Slab::new(),
            by_key: HashMap::new(),
            common: None,
            eligible: BTreeSet::new(),
            waiting_until: BTreeSet::new(),
            refilling: BTreeSet::new(),
            round_robin: 0,
        }
    }

    /// The highest cost that a job of the lane may have.
    pub(crate) fn max_cost(&self, lane_id: LaneId) -> u32 {
        let limiter = self
            .lanes
            .get(lane_id)
            .and_then(|lane| lane.limiter.as_ref());
        limiter.map_or(u32::MAX, Limiter::max_cost)
    }

    pub(crate) fn key(&self, lane: LaneId) -> Option<&Key> {
        self.lanes.get(lane)?.key.as_ref()
    }

    /// The number of lanes.
    #[cfg(any(test, fuzzing))]
    pub(crate) const fn len(&self) -> usize {
        self.lanes.len()
    }

    // ---- add and remove jobs ----

    /// Adds a job to the lane of its key, and returns the lane.
    pub(crate) fn add_job(&mut self, key: Option<Key>) -> LaneId {
        let known = match &key {
            Some(key) => self.by_key.get(key).copied(),
            None => self.common,
        };
        let lane_id = known.unwrap_or_else(|| {
            let limits = key
                .as_ref()
                .and_then(|key| self.limits_by_key.get(key))
                .unwrap_or(&self.default_limits);
            let lane = Lane {
                key: key.clone(),
                ready: Order::default(),
                jobs: 0,
                occupied: 0,
                max_running: limits.max_running,
                limiter: limits.limit.map(Limiter::new),
                held_until: Tick(0),
                round_robin: 0,
                state: LaneState::Inactive,
            };
            let lane_id = self.lanes.insert(lane);
            match key {
                Some(key) => drop(self.by_key.insert(key, lane_id)),
                None => self.common = Some(lane_id),
            }
            lane_id
        });
        if let Some(lane) = self.lanes.get_mut(lane_id) {
            if lane.jobs == 0
                && let Some(refilled_at) = lane.refilled_at()
            {
                self.refilling.remove(&(refilled_at, lane_id));
            }
            lane.jobs += 1;
        }
        lane_id
    }

    /// Removes a job that has its outcome. The lane is removed once it has no jobs and its limiter
    /// has refilled.
    pub(crate) fn remove_job(&mut self, lane_id: LaneId, now: Tick) {
        let Some(lane) = self.lanes.get_mut(lane_id) else {
            return;
        };
        lane.jobs -= 1;
        if lane.jobs > 0 {
            return;
        }
        match lane.refilled_at() {
            // `>` or `>=`: a limiter that refills at this very tick would be removed at the next
            // release.
            Some(at) if at > now => drop(self.refilling.insert((at, lane_id))),
            _ => self.remove_lane(lane_id),
        }
    }

    fn remove_lane(&mut self, lane_id: LaneId) {
        let Some(lane) = self.lanes.remove(lane_id) else {
            return;
        };
        let Some(key) = lane.key else {
            self.common = None;
            return;
        };
        self.by_key.remove(&key);
        // Shrinks now and then; the constants weigh memory against the cost of moving.
        if self.by_key.capacity() > 64 && self.by_key.len() < self.by_key.capacity() / 8 {
            self.by_key.shrink_to(self.by_key.len() * 2);
        }
    }

    // ---- ready jobs ----

    /// Makes a job ready.
    pub(crate) fn enqueue(
        &mut self,
        lane_id: LaneId,
        rank: Rank,
        number: u64,
        record_id: RecordId,
    ) {
        let Some(lane) = self.lanes.get_mut(lane_id) else {
            return;
        };
        if lane.ready.is_empty() {
            self.round_robin += 1;
            lane.round_robin = self.round_robin;
        }
        lane.ready.insert(rank, number, record_id);
        if lane.ready.first() == Some((rank, record_id)) {
            self.reindex(lane_id);
        }
    }

    /// Removes a ready job.
    pub(crate) fn dequeue(
        &mut self,
        lane_id: LaneId,
        rank: Rank,
        number: u64,
        record_id: RecordId,
    ) {
        let Some(lane) = self.lanes.get_mut(lane_id) else {
            return;
        };
        let was_first = lane.ready.first() == Some((rank, record_id));
        lane.ready.remove(rank, number, record_id);
        if was_first {
            self.reindex(lane_id);
        }
    }

    /// The lane and the record of the next job, if it may start now; `cost` returns the cost of a
    /// job.
    pub(crate) fn next_job(
        &mut self,
        now: Tick,
        cost: impl Fn(RecordId) -> u32,
    ) -> Option<(LaneId, RecordId)> {
        while let Some((_, _, lane_id)) = self.eligible.first().copied() {
            let lane = self.lanes.get_mut(lane_id)?;
            let (_, record_id) = lane.ready.first()?;
            let at = match &mut lane.limiter {
                Some(limiter) => limiter.earliest(now, cost(record_id)).max(lane.held_until),
                None => lane.held_until,
            };
            if at <= now {
                return Some((lane_id, record_id));
            }
            self.set_state(lane_id, LaneState::WaitingUntil(at));
        }
        None
    }

    /// Whether a ready job of the lane comes before this rank and number.
    pub(crate) fn is_before(&self, lane_id: LaneId, rank: Rank, number: u64) -> bool {
        self.lanes
            .get(lane_id)
            .is_some_and(|lane| lane.ready.is_before(rank, number))
    }

    /// Reserves a slot of the lane and permits for a released job, which the caller has
    /// [dequeued](Self::dequeue). Returns the lane's position in the round before the release.
    pub(crate) fn release(&mut self, lane_id: LaneId, cost: u32) -> u64 {
        let Some(lane) = self.lanes.get_mut(lane_id) else {
            return 0;
        };
        let position = lane.round_robin;
        lane.occupied += 1;
        if let Some(limiter) = &mut lane.limiter {
            limiter.reserve(cost);
        }
        self.round_robin += 1;
        let round_robin = self.round_robin;
        // `round_robin` is part of the key in the set, so the lane leaves the set first.
        self.set_state(lane_id, LaneState::Inactive);
        if let Some(lane) = self.lanes.get_mut(lane_id) {
            lane.round_robin = round_robin;
        }
        self.reindex(lane_id);
        position
    }

    /// Restores the lane's position in the round, after a released job was given back.
    pub(crate) fn restore_round_robin(&mut self, lane_id: LaneId, position: u64) {
        if self
            .lanes
            .get(lane_id)
            .is_none_or(|lane| lane.round_robin <= position)
        {
            return;
        }
        // As above, the lane leaves the set first.
        self.set_state(lane_id, LaneState::Inactive);
        if let Some(lane) = self.lanes.get_mut(lane_id) {
            lane.round_robin = position;
        }
        self.reindex(lane_id);
    }

    /// Frees the lane's slot of a released or running job.
    pub(crate) fn finish(&mut self, lane_id: LaneId) {
        let Some(lane) = self.lanes.get_mut(lane_id) else {
            return;
        };
        lane.occupied -= 1;
        if lane.state == LaneState::Inactive {
            self.reindex(lane_id);
        }
    }

    /// Consumes the permits of a released job that starts. Returns whether the lane was waiting for
    /// that, and not for a time.
    pub(crate) fn start(&mut self, lane_id: LaneId, now: Tick, cost: u32) -> bool {
        let Some(lane) = self.lanes.get_mut(lane_id) else {
            return false;
        };
        let Some(limiter) = &mut lane.limiter else {
            return false;
        };
        limiter.start(now, cost);
        let has_waited = lane.state == LaneState::WaitingUntil(Tick::NEVER);
        if has_waited {
            self.reindex(lane_id);
        }
        has_waited
    }

    /// Cancels the reservation of a released job that does not start; its slot stays with it.
    pub(crate) fn unreserve(&mut self, lane_id: LaneId, cost: u32) {
        let Some(lane) = self.lanes.get_mut(lane_id) else {
            return;
        };
        if let Some(limiter) = &mut lane.limiter {
            limiter.unreserve(cost);
        }
        self.reindex(lane_id);
    }

    // ---- control ----

    /// Changes the limits of a key; `None` restores those of all keys. Consumed permits carry over
    /// as in [`Limiter::set_limit`]. The caller has cancelled the reservations of the lane.
    pub(crate) fn set_limits(&mut self, key: Key, limits: Option<KeyLimits>, now: Tick) {
        match limits {
            Some(limits) => drop(self.limits_by_key.insert(key.clone(), limits)),
            None => drop(self.limits_by_key.remove(&key)),
        }
        if !self.by_key.contains_key(&key) {
            return;
        }
        let KeyLimits { max_running, limit } = limits.unwrap_or(self.default_limits);
        self.update(key, now, |lane| {
            lane.max_running = max_running;
            match (&mut lane.limiter, limit) {
                (Some(limiter), Some(limit)) => limiter.set_limit(limit, now),
                (limiter, limit) => *limiter = limit.map(Limiter::new),
            }
        });
    }

    /// Lets no job of the key start before `until`, whether there are any or not.
    pub(crate) fn hold_key(&mut self, key: Key, until: Tick, now: Tick) {
        self.update(key, now, |lane| {
            lane.held_until = lane.held_until.max(until);
        });
    }

    /// Changes the lane of a key as if it had one job more, so that it is in the set in which it
    /// belongs before and after.
    fn update(&mut self, key: Key, now: Tick, change: impl FnOnce(&mut Lane)) {
        let lane_id = self.add_job(Some(key));
        if let Some(lane) = self.lanes.get_mut(lane_id) {
            change(lane);
        }
        self.reindex(lane_id);
        self.remove_job(lane_id, now);
    }

    pub(crate) fn lane_of(&self, key: &Key) -> Option<LaneId> {
        self.by_key.get(key).copied()
    }

    /// Lets no job of the lane start before `until`.
    pub(crate) fn hold(&mut self, lane_id: LaneId, until: Tick) {
        let Some(lane) = self.lanes.get_mut(lane_id) else {
            return;
        };
        lane.held_until = lane.held_until.max(until);
        self.reindex(lane_id);
    }

    /// No job of the lane starts before that.
    pub(crate) fn held_until(&self, lane_id: LaneId) -> Tick {
        self.lanes
            .get(lane_id)
            .map_or(Tick(0), |lane| lane.held_until)
    }

    // ---- time ----

    /// Makes lanes eligible whose time has come, and removes lanes that have refilled.
    pub(crate) fn promote_due(&mut self, now: Tick) {
        while let Some((at, lane_id)) = self.waiting_until.first().copied()
            && at <= now
        {
            self.reindex(lane_id);
        }
        while let Some((at, lane_id)) = self.refilling.first().copied()
            && at <= now
        {
            self.refilling.pop_first();
            self.remove_lane(lane_id);
        }
    }

    /// The time at which the next waiting lane becomes eligible.
    pub(crate) fn next_eligible_at(&self) -> Tick {
        self.waiting_until
            .first()
            .map_or(Tick::NEVER, |(at, _)| *at)
    }

    /// The time at which the last of the lanes without jobs can be removed; the others are removed
    /// then or earlier. Lanes that can never be are left out.
    pub(crate) fn refilled_at(&self) -> Tick {
        let last = self
            .refilling
            .range(..(Tick::NEVER, LaneId::MIN))
            .next_back();
        last.map_or(Tick::NEVER, |(at, _)| *at)
    }

    /// Whether a lane is eligible or waits for a time.
    pub(crate) fn is_waiting(&self) -> bool {
        !(self.eligible.is_empty() && self.waiting_until.is_empty())
    }

    // ---- the sets ----

    /// Moves the lane to the set that it belongs in, after a change.
    fn reindex(&mut self, lane_id: LaneId) {
        let Some(lane) = self.lanes.get(lane_id) else {
            return;
        };
        let is_full = lane.max_running.is_some_and(|max| lane.occupied >= max);
        let state = match lane.ready.first() {
            // `next_job` checks whether the lane has to wait for a time.
            Some((rank, _)) if !is_full => LaneState::Eligible(rank),
            _ => LaneState::Inactive,
        };
        self.set_state(lane_id, state);
    }

    fn set_state(&mut self, lane_id: LaneId, state: LaneState) {
        let Some(lane) = self.lanes.get_mut(lane_id) else {
            return;
        };
        if lane.state == state {
            return;
        }
        match std::mem::replace(&mut lane.state, state) {
            LaneState::Inactive => {}
            LaneState::Eligible(rank) => {
                self.eligible.remove(&(rank, lane.round_robin, lane_id));
            }
            LaneState::WaitingUntil(at) => drop(self.waiting_until.remove(&(at, lane_id))),
        }
        match state {
            LaneState::Inactive => {}
            LaneState::Eligible(rank) => {
                self.eligible.insert((rank, lane.round_robin, lane_id));
            }
            LaneState::WaitingUntil(at) => drop(self.waiting_until.insert((at, lane_id))),
        }
    }
}

impl Lane {
    /// The time until which the lane's limits are not as if they were new.
    fn refilled_at(&self) -> Option<Tick> {
        let limiter = self.limiter.as_ref().map(Limiter::refilled_at);
        limiter
            .into_iter()
            // `>` or `>=`: no lane is kept for tick 0.
            .chain((self.held_until > Tick(0)).then_some(self.held_until))
            .max()
    }
}

/// For the simulator.
#[cfg(feature = "testing")]
impl Lanes {
    /// Compares the lanes with the given jobs: their lanes, whether they are ready, and whether
    /// they occupy slots.
    pub(crate) fn audit(
        &self,
        jobs: impl Iterator<Item = (LaneId, bool, bool)>,
    ) -> Result<(), String> {
        let mut counted: HashMap<LaneId, (usize, usize, usize)> = HashMap::new();
        for (lane, is_ready, is_running) in jobs {
            let count = counted.entry(lane).or_default();
            count.0 += 1;
            count.1 += usize::from(is_ready);
            count.2 += usize::from(is_running);
        }
        for (lane_id, lane) in self.lanes.iter() {
            let known = (lane.jobs, lane.ready.len(), lane.occupied);
            let counted = counted.remove(&lane_id).unwrap_or_default();
            if counted != known {
                return Err(format!(
                    "a lane has jobs, ready, running {counted:?}, and {known:?} are recorded"
                ));
            }
            // A limit that is lowered does not stop running jobs.
            let is_changed = lane
                .key
                .as_ref()
                .is_some_and(|key| self.limits_by_key.contains_key(key));
            if !is_changed && lane.max_running.is_some_and(|max| lane.occupied > max) {
                return Err(format!("{} jobs of one key run at once", lane.occupied));
            }
            let is_known = lane
                .key
                .as_ref()
                .map_or(self.common, |key| self.by_key.get(key).copied())
                == Some(lane_id);
            let is_indexed = match lane.state {
                LaneState::Inactive => true,
                LaneState::Eligible(rank) => {
                    self.eligible.contains(&(rank, lane.round_robin, lane_id))
                }
                LaneState::WaitingUntil(at) => self.waiting_until.contains(&(at, lane_id)),
            };
            if !is_known || !is_indexed {
                return Err("a lane is not in the set of its state".into());
            }
        }
        if counted.is_empty() {
            Ok(())
        } else {
            Err("jobs are in a lane that is gone".into())
        }
    }

    /// Only lanes that refill may be left.
    pub(crate) fn audit_at_end(&self) -> Result<(), String> {
        let (lanes, refilling) = (self.lanes.iter().count(), self.refilling.len());
        if lanes != refilling {
            Err(format!(
                "{lanes} lanes are left, and {refilling} of them refill"
            ))
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::schedule::order::Aging;

    const SECOND: Duration = Duration::from_secs(1);

    fn lane_id(number: u32) -> RecordId {
        RecordId::new(number + 1).unwrap()
    }

    fn rank(priority: i32) -> Rank {
        Aging::new(None).rank(priority, Tick(0))
    }

    /// Adds a ready job to the lane of its key.
    fn add(lanes: &mut Lanes, key: u32, job: u32, priority: i32) -> LaneId {
        let lane = lanes.add_job(Some(Key::from(key)));
        lanes.enqueue(lane, rank(priority), job.into(), lane_id(job));
        lane
    }

    /// Starts all jobs that may start, and returns them.
    fn start_all(lanes: &mut Lanes, now: Tick, priority: i32) -> Vec<u32> {
        let mut started = Vec::new();
        while let Some((lane, job)) = lanes.next_job(now, |_| 1) {
            lanes.dequeue(lane, rank(priority), u64::from(job.get() - 1), job);
            lanes.release(lane, 1);
            lanes.start(lane, now, 1);
            started.push(job.get() - 1);
        }
        started
    }

    #[test]
    fn lanes_take_turns() {
        let mut lanes = Lanes::new(KeyLimits::default());
        for job in 0..6 {
            add(&mut lanes, u32::from(job >= 4), job, 0);
        }
        assert_eq!(start_all(&mut lanes, Tick(0), 0), [0, 4, 1, 5, 2, 3]);
    }

    #[test]
    fn a_lane_that_is_full_is_passed_over_until_one_of_its_jobs_ends() {
        let mut lanes = Lanes::new(KeyLimits {
            max_running: Some(2),
            limit: None,
        });
        let lane = add(&mut lanes, 0, 0, 0);
        for job in 1..4 {
            add(&mut lanes, 0, job, 0);
        }
        add(&mut lanes, 1, 4, 0);
        assert_eq!(start_all(&mut lanes, Tick(0), 0), [0, 4, 1]);
        assert!(!lanes.is_waiting());
        lanes.finish(lane);
        assert_eq!(start_all(&mut lanes, Tick(0), 0), [2]);
        lanes.unreserve(lane, 1);
        assert_eq!(start_all(&mut lanes, Tick(0), 0), [], "its slot is taken");
        lanes.finish(lane);
        assert_eq!(start_all(&mut lanes, Tick(0), 0), [3]);
    }

    #[test]
    fn a_lane_without_a_permit_costs_nothing_until_it_has_one() {
        let limit = Some(RateLimit::per_second(1));
        let mut lanes = Lanes::new(KeyLimits {
            max_running: None,
            limit,
        });
        for job in 0..3 {
            add(&mut lanes, 0, job, 0);
        }
        assert_eq!(start_all(&mut lanes, Tick(0), 0), [0]);
        assert_eq!(
            (
                lanes.next_eligible_at(),
                lanes.is_waiting(),
                lanes.eligible.len()
            ),
            (Tick(0).after(SECOND), true, 0)
        );
        lanes.promote_due(Tick(0).after(SECOND));
        assert_eq!(start_all(&mut lanes, Tick(0).after(SECOND), 0), [1]);
    }

    #[test]
    fn a_lane_is_remembered_while_it_has_jobs_or_its_limit_does_and_no_longer() {
        let mut lanes = Lanes::new(KeyLimits {
            max_running: None,
            limit: Some(RateLimit::per_second(1)),
        });
        let lane = add(&mut lanes, 7, 0, 0);
        assert_eq!(lanes.key(lane), Some(&Key::from(7_u32)));
        assert_eq!(start_all(&mut lanes, Tick(0), 0), [0]);
        lanes.finish(lane);
        lanes.remove_job(lane, Tick(0));
        let refilled_at = Tick(0).after(SECOND);
        assert_eq!((lanes.len(), lanes.refilled_at()), (1, refilled_at));
        lanes.promote_due(Tick(refilled_at.0 - 1));
        assert_eq!(lanes.len(), 1);
        // A job that comes meanwhile finds the limit unchanged.
        add(&mut lanes, 7, 1, 0);
        assert_eq!(
            (start_all(&mut lanes, Tick(1), 0), lanes.refilled_at()),
            (vec![], Tick::NEVER)
        );
        lanes.dequeue(lane, rank(0), 1, lane_id(1));
        lanes.remove_job(lane, Tick(1));
        lanes.promote_due(refilled_at);
        assert_eq!(
            (
                lanes.len(),
                lanes.by_key.len(),
                lanes.refilled_at(),
                lanes.next_eligible_at()
            ),
            (0, 0, Tick::NEVER, Tick::NEVER)
        );
        // Once refilled, the lane is removed together with its last job.
        let lane = add(&mut lanes, 7, 2, 0);
        lanes.dequeue(lane, rank(0), 2, lane_id(2));
        lanes.remove_job(lane, refilled_at);
        assert_eq!(lanes.len(), 0);
    }

    #[test]
    fn the_table_of_keys_shrinks_once_most_keys_are_gone_and_not_before() {
        let mut lanes = Lanes::new(KeyLimits::default());
        let added: Vec<_> = (0..1_000)
            .map(|key| lanes.add_job(Some(Key::from(key))))
            .collect();
        let (most, last) = added.split_at(700);
        most.iter()
            .for_each(|lane| lanes.remove_job(*lane, Tick(0)));
        assert!(lanes.by_key.capacity() >= 1_000);
        last.iter()
            .for_each(|lane| lanes.remove_job(*lane, Tick(0)));
        assert!(lanes.by_key.capacity() <= 64);
    }

    #[test]
    fn a_lane_that_is_held_forever_keeps_no_other_from_being_removed() {
        let mut lanes = Lanes::new(KeyLimits {
            max_running: None,
            limit: Some(RateLimit::per_second(1)),
        });
        let all = [0, 1].map(|key| add(&mut lanes, key, key, 0));
        assert_eq!(start_all(&mut lanes, Tick(0), 0), [0, 1]);
        lanes.hold(all[0], Tick::NEVER);
        for lane in all {
            lanes.finish(lane);
            lanes.remove_job(lane, Tick(0));
        }
        assert_eq!(
            (lanes.len(), lanes.refilled_at()),
            (2, Tick(0).after(SECOND))
        );
        lanes.promote_due(lanes.refilled_at());
        assert_eq!((lanes.len(), lanes.refilled_at()), (1, Tick::NEVER));
    }

    #[test]
    fn a_hundred_thousand_keys_once_seen_leave_no_memory_behind() {
        let mut lanes = Lanes::new(KeyLimits::default());
        let all: Vec<LaneId> = (0..100_000)
            .map(|key| lanes.add_job(Some(Key::from(key))))
            .collect();
        assert_eq!(lanes.len(), 100_000);
        all.into_iter()
            .for_each(|lane| lanes.remove_job(lane, Tick(0)));
        assert_eq!(lanes.len(), 0);
        assert!(
            lanes.by_key.capacity() <= 128,
            "{}",
            lanes.by_key.capacity()
        );
    }

    #[test]
    fn jobs_without_a_key_share_a_lane_of_their_own() {
        let mut lanes = Lanes::new(KeyLimits::default());
        let (first, second) = (lanes.add_job(None), lanes.add_job(None));
        assert_eq!(
            (first == second, lanes.len(), lanes.key(first)),
            (true, 1, None)
        );
        lanes.remove_job(first, Tick(0));
        lanes.remove_job(second, Tick(0));
        assert_eq!(lanes.len(), 0);
        assert_eq!(lanes.add_job(None), first);
    }
}
