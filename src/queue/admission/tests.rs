//! Compares the admission with a naive model, which keeps a list of all jobs and counts them each
//! time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::task::Wake;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const WORKERS: usize = 3;
const MAPS: usize = 3;

/// An operation on an admission. Its target is an index among the candidates, modulo their number.
#[derive(Debug, Clone)]
enum Op {
    Accept(Origin),
    Reserve,
    Wait,
    Poll(usize),
    CancelWait(usize),
    Release,
    AcceptReserved,
    BeginPull(usize),
    EndPull(usize),
    AcquirePulled {
        pull: usize,
        want: usize,
    },
    AcceptExtra(usize),
    Commit {
        acquired: usize,
        used: usize,
        more: usize,
    },
    WaitAsMap {
        map: usize,
        wants_room: bool,
    },
    CancelMapWait(usize),
    NotifyOfAnyRoom,
    Start(usize),
    Finish(usize, Outcome),
    Retry(usize),
    FinishQueued(usize, Outcome),
    SetQueuedThreshold(usize),
    SetRunningThreshold(usize),
    Advance(PoolState),
    WorkerLeft,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let any = any::<usize>;
    let outcome = || (0..Outcome::ALL.len()).prop_map(|at| Outcome::ALL[at]);
    let op = prop_oneof![
        8 => Just(Op::Accept(Origin::Outside)),
        4 => Just(Op::Accept(Origin::Child)),
        1 => Just(Op::Accept(Origin::Retry)),
        4 => Just(Op::Reserve),
        6 => Just(Op::Wait),
        6 => any().prop_map(Op::Poll),
        2 => any().prop_map(Op::CancelWait),
        3 => Just(Op::Release),
        3 => Just(Op::AcceptReserved),
        6 => (0..MAPS).prop_map(Op::BeginPull),
        1 => any().prop_map(Op::EndPull),
        5 => (any(), 1..4_usize).prop_map(|(pull, want)| Op::AcquirePulled { pull, want }),
        3 => any().prop_map(Op::AcceptExtra),
        4 => (any(), 0..4_usize, 0..3_usize).prop_map(|(acquired, used, more)| Op::Commit { acquired, used, more }),
        4 => (0..MAPS, proptest::bool::ANY).prop_map(|(map, wants_room)| Op::WaitAsMap { map, wants_room }),
        1 => (0..MAPS).prop_map(Op::CancelMapWait),
        1 => Just(Op::NotifyOfAnyRoom),
        9 => any().prop_map(Op::Start),
        6 => (any(), outcome()).prop_map(|(job, outcome)| Op::Finish(job, outcome)),
        2 => any().prop_map(Op::Retry),
        2 => (any(), outcome()).prop_map(|(job, outcome)| Op::FinishQueued(job, outcome)),
        2 => (0..5_usize).prop_map(Op::SetQueuedThreshold),
        2 => (0..4_usize).prop_map(Op::SetRunningThreshold),
        1 => prop_oneof![3 => Just(PoolState::Closed), 1 => Just(PoolState::Sealed), 1 => Just(PoolState::Aborted)].prop_map(Op::Advance),
        1 => Just(Op::WorkerLeft),
    ];
    vec(op, 0..120)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Queued(Origin),
    Running,
    Done(Outcome),
}

/// A future that waits for a permit.
#[derive(Debug)]
struct Waiter {
    waiter_id: Option<u64>,
    waker: usize,
    is_granted: bool,
}

/// A map that waits.
#[derive(Debug)]
struct WaitingMap {
    waker: Option<usize>,
    wants_room: bool,
}

/// A comparable form of [`Wakes`], with the numbers of the wakers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Effects {
    room: Vec<usize>,
    notified_maps: bool,
    unneeded: Option<usize>,
    idle: bool,
    below: bool,
    end: bool,
}

impl Effects {
    fn notify_map(&mut self, waker: Option<usize>) {
        self.notified_maps |= waker.is_some();
        self.room.extend(waker);
    }
}

#[derive(Debug)]
struct Naive {
    pool_state: PoolState,
    capacity: usize,
    child_capacity: usize,
    max_waiting: usize,
    workers: usize,
    /// By id.
    jobs: Vec<State>,
    /// How many jobs were running at their end.
    finished: u64,
    /// In the order of arrival.
    waiters: Vec<Waiter>,
    reserved: usize,
    /// The map of each job that was accepted beyond the capacity.
    extra_of: BTreeMap<usize, usize>,
    /// The maps whose job beyond the capacity is still queued.
    beyond: BTreeSet<usize>,
    /// The maps that are about to pull an input.
    pulls: Vec<usize>,
    /// The maps that have pulled an input, and their permits.
    acquired: Vec<(usize, usize)>,
    /// By the numbers of the maps.
    waiting_maps: [Option<WaitingMap>; MAPS],
    last_notified: Option<usize>,
    notifies_of_any_room: bool,
    queued_thresholds: Vec<usize>,
    running_thresholds: Vec<usize>,
}

impl Naive {
    fn count(&self, state: State) -> usize {
        self.jobs.iter().filter(|job| **job == state).count()
    }

    fn queued(&self) -> usize {
        self.jobs
            .iter()
            .filter(|job| matches!(job, State::Queued(_)))
            .count()
    }

    /// The id at `index` among the jobs in such a state.
    fn pick(&self, is_so: impl Fn(State) -> bool, index: usize) -> Option<usize> {
        let ids: Vec<usize> = (0..self.jobs.len())
            .filter(|id| is_so(self.jobs[*id]))
            .collect();
        (!ids.is_empty()).then(|| ids[index % ids.len()])
    }

    /// Underflows if more permits were granted than there are.
    fn free(&self) -> usize {
        let granted = self
            .waiters
            .iter()
            .filter(|waiter| waiter.is_granted)
            .count();
        self.capacity
            - self.occupied()
            - self.reserved
            - granted
            - self
                .acquired
                .iter()
                .map(|(_, permits)| permits)
                .sum::<usize>()
    }

    /// Jobs that hold a permit.
    fn occupied(&self) -> usize {
        self.count(State::Queued(Origin::Outside)) + self.count(State::Queued(Origin::Extra))
            - self.beyond.len()
    }

    fn map_permits(&self) -> usize {
        self.open().saturating_sub(1)
    }

    /// The maps that wait for a permit.
    fn wanting_room(&self) -> impl Iterator<Item = &WaitingMap> {
        let waiting_maps = self.waiting_maps.iter().flatten();
        waiting_maps.filter(|waiting_map| waiting_map.wants_room)
    }

    /// How many permits a map gets that wants so many.
    fn acquirable(&self, want: usize) -> usize {
        let others = self.wanting_room().count();
        want.min(self.map_permits().div_ceil(1 + others))
    }

    /// A job leaves the queue.
    fn leave(&mut self, id: usize, effects: &mut Effects) {
        if let Some(map) = self.extra_of.get(&id)
            && self.beyond.remove(map)
            && let Some(waiting_map) = self.waiting_maps[*map]
                .as_mut()
                .filter(|waiting_map| waiting_map.wants_room)
        {
            effects.notify_map(waiting_map.waker.take());
        }
    }

    /// Maps are notified round-robin.
    fn notify_maps(&mut self, effects: &mut Effects) {
        let mut room = self.map_permits();
        let first = self.last_notified.map_or(0, |last| last + 1);
        for map in (first..MAPS).chain(0..first) {
            let waiting_map = self.waiting_maps[map]
                .as_mut()
                .filter(|waiting_map| waiting_map.wants_room && room > 0);
            if let Some(waker) = waiting_map.and_then(|waiting_map| waiting_map.waker.take()) {
                effects.notify_map(Some(waker));
                (self.last_notified, room) = (Some(map), room - 1);
            }
        }
    }

    /// Whether a future waits for a permit.
    fn has_waiter(&self) -> bool {
        self.waiters.iter().any(|waiter| !waiter.is_granted) && self.pool_state == PoolState::Open
    }

    /// The permits available to a newcomer.
    fn open(&self) -> usize {
        if self.has_waiter() { 0 } else { self.free() }
    }

    fn refusal(&self) -> Option<Refusal> {
        if self.pool_state != PoolState::Open {
            Some(Refusal::Closed)
        } else {
            (self.open() == 0).then_some(Refusal::Full)
        }
    }

    fn accept(&mut self, origin: Origin) -> Result<JobId, Refusal> {
        let refusal = match origin {
            Origin::Outside => self.refusal(),
            Origin::Child if self.pool_state > PoolState::Closed => Some(Refusal::Closed),
            Origin::Child => (self.count(State::Queued(Origin::Child)) == self.child_capacity)
                .then_some(Refusal::Full),
            Origin::Extra | Origin::Retry => Some(Refusal::Closed),
        };
        refusal.map_or_else(|| Ok(self.add(origin)), Err)
    }

    fn add(&mut self, origin: Origin) -> JobId {
        self.jobs.push(State::Queued(origin));
        JobId(self.jobs.len() as u64 - 1)
    }

    fn reserve(&mut self) -> Result<(), Refusal> {
        self.refusal().map_or(Ok(()), Err)?;
        self.reserved += 1;
        Ok(())
    }

    fn is_queue_empty(&self) -> bool {
        let pulls = self.pool_state != PoolState::Open && !self.pulls.is_empty();
        self.queued() == 0 && !pulls && self.acquired.iter().all(|(_, permits)| *permits == 0)
    }

    /// Grants permits in the order of arrival, and notifies waits whose thresholds are passed; maps,
    /// only if a permit may have become free: those notified before it will see to the other ones.
    fn notify(&mut self, may_have_freed: bool, effects: &mut Effects) {
        while self.pool_state == PoolState::Open && self.free() > 0 {
            let Some(waiter) = self.waiters.iter_mut().find(|waiter| !waiter.is_granted) else {
                break;
            };
            waiter.is_granted = true;
            effects.room.push(waiter.waker);
        }
        let (room, few) = (
            self.map_permits(),
            if self.notifies_of_any_room {
                1
            } else {
                (self.capacity / 2).max(1)
            },
        );
        let has_room = room > 0 && (room >= few || self.occupied() == 0);
        if may_have_freed && has_room && self.pool_state == PoolState::Open {
            self.notify_maps(effects);
        }
        let (queued, running) = (self.queued(), self.count(State::Running));
        for (thresholds, count) in [
            (&mut self.queued_thresholds, queued),
            (&mut self.running_thresholds, running),
        ] {
            if thresholds.iter().any(|threshold| count < *threshold) {
                thresholds.clear();
                effects.below = true;
            }
        }
    }

    /// Checks for idleness and for the end of the pool.
    fn check_idle(&mut self, effects: &mut Effects) {
        let is_empty = self.is_queue_empty();
        let is_idle = is_empty && self.count(State::Running) == 0;
        effects.idle |= is_idle || self.pool_state == PoolState::Aborted && is_empty;
        if is_idle && self.pool_state != PoolState::Open {
            (self.pool_state, effects.end) = (PoolState::Ended, true);
        }
    }

    fn wake_all_waiters(&mut self, effects: &mut Effects) {
        effects.room.extend(
            self.waiters
                .iter()
                .filter(|waiter| !waiter.is_granted)
                .map(|waiter| waiter.waker),
        );
        for waiting_map in self.waiting_maps.iter_mut().flatten() {
            effects.notify_map(waiting_map.waker.take());
        }
    }

    fn stats(&self) -> Stats {
        let outcome = |outcome| self.count(State::Done(outcome)) as u64;
        Stats {
            workers: self.workers,
            queued: self.queued(),
            running: self.count(State::Running),
            accepted: self.jobs.len() as u64,
            succeeded: outcome(Outcome::Succeeded),
            failed: outcome(Outcome::Failed),
            timed_out: outcome(Outcome::TimedOut),
            panicked: outcome(Outcome::Panicked),
            cancelled: outcome(Outcome::Cancelled),
            abandoned: outcome(Outcome::Abandoned),
            rejected: outcome(Outcome::Rejected),
            ..Stats::default()
        }
    }
}

/// The admission, its model, and the wakers that were called.
struct Pair {
    real: Admission,
    naive: Naive,
    woken: Arc<Mutex<Vec<usize>>>,
    wakers: usize,
}

/// Records its number when it is woken.
struct Numbered(usize, Arc<Mutex<Vec<usize>>>);

impl Wake for Numbered {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().push(self.0);
    }
}

impl Pair {
    fn new(capacity: usize, child_capacity: usize, max_waiting: usize) -> Self {
        let mut real = Admission::new(capacity, child_capacity, WORKERS, 1);
        real.set_max_waiting(max_waiting);
        let naive = Naive {
            pool_state: PoolState::Open,
            capacity,
            child_capacity,
            max_waiting,
            workers: WORKERS,
            jobs: Vec::new(),
            finished: 0,
            waiters: Vec::new(),
            reserved: 0,
            extra_of: BTreeMap::new(),
            beyond: BTreeSet::new(),
            pulls: Vec::new(),
            acquired: Vec::new(),
            waiting_maps: [const { None }; MAPS],
            last_notified: None,
            notifies_of_any_room: false,
            queued_thresholds: Vec::new(),
            running_thresholds: Vec::new(),
        };
        Self {
            real,
            naive,
            woken: Arc::default(),
            wakers: 0,
        }
    }

    fn effects(&self, wakes: Wakes) -> Effects {
        let is_empty = wakes.is_empty();
        let take = || std::mem::take(&mut *self.woken.lock().unwrap());
        wakes.wakers.into_iter().for_each(Waker::wake);
        let mut room = take();
        room.sort_unstable();
        wakes.unneeded.into_iter().for_each(Waker::wake);
        let effects = Effects {
            room,
            notified_maps: wakes.notified_maps,
            unneeded: take().pop(),
            idle: wakes.idle,
            below: wakes.below,
            end: wakes.end,
        };
        assert_eq!(is_empty, effects == Effects::default());
        effects
    }

    /// Polls a waiter with a new waker, and removes it when it is ready.
    fn poll(&mut self, index: usize, effects: &mut Effects) -> Wakes {
        let waiter = &mut self.naive.waiters[index];
        let is_new = waiter.waiter_id.is_none();
        let old = std::mem::replace(&mut waiter.waker, self.wakers);
        let waker = Waker::from(Arc::new(Numbered(self.wakers, Arc::clone(&self.woken))));
        self.wakers += 1;
        let mut waiter_id = waiter.waiter_id;
        let (polled, wakes) =
            self.real
                .poll_reserve(&mut waiter_id, None, &Context::from_waker(&waker));
        let expected = if is_new {
            let newcomer = self.naive.waiters.remove(index);
            let is_waiting = |waiter: &&Waiter| !waiter.is_granted;
            let is_full =
                self.naive.waiters.iter().filter(is_waiting).count() >= self.naive.max_waiting;
            let reserved = self.naive.reserve();
            self.naive.waiters.insert(index, newcomer);
            match reserved {
                Err(Refusal::Full) if is_full => Poll::Ready(Err(Refusal::Overloaded)),
                Err(Refusal::Full) => Poll::Pending,
                decided => Poll::Ready(decided),
            }
        } else if self.naive.waiters[index].is_granted {
            self.naive.reserved += 1;
            Poll::Ready(Ok(()))
        } else if self.naive.pool_state == PoolState::Open {
            effects.unneeded = Some(old);
            Poll::Pending
        } else {
            Poll::Ready(Err(Refusal::Closed))
        };
        assert_eq!(polled, expected);
        assert_eq!(waiter_id.is_some(), expected.is_pending());
        if expected.is_pending() {
            self.naive.waiters[index].waiter_id = waiter_id;
        } else {
            self.naive.waiters.remove(index);
        }
        wakes
    }

    fn apply(&mut self, op: &Op) {
        let mut wakes = Wakes::default();
        let mut effects = Effects::default();
        let naive = &mut self.naive;
        match *op {
            Op::Accept(origin) => assert_eq!(self.real.accept(origin), naive.accept(origin)),
            Op::Reserve => assert_eq!(self.real.reserve(), naive.reserve()),
            Op::Wait => {
                naive.waiters.push(Waiter {
                    waiter_id: None,
                    waker: 0,
                    is_granted: false,
                });
                wakes = self.poll(self.naive.waiters.len() - 1, &mut effects);
            }
            Op::Poll(index) if !naive.waiters.is_empty() => {
                let index = index % naive.waiters.len();
                wakes = self.poll(index, &mut effects);
            }
            Op::CancelWait(index) if !naive.waiters.is_empty() => {
                let waiter = naive.waiters.remove(index % naive.waiters.len());
                effects.unneeded = (!waiter.is_granted && naive.pool_state == PoolState::Open)
                    .then_some(waiter.waker);
                wakes = self.real.cancel_wait(waiter.waiter_id.unwrap());
            }
            Op::Release if naive.reserved > 0 => {
                naive.reserved -= 1;
                wakes = self.real.release();
            }
            Op::AcceptReserved if naive.reserved > 0 => {
                naive.reserved -= 1;
                let is_open = naive.pool_state == PoolState::Open;
                let expected = if is_open {
                    Ok(naive.add(Origin::Outside))
                } else {
                    Err(Refusal::Closed)
                };
                let (accepted, after) = self.real.accept_reserved();
                assert_eq!(accepted, expected);
                wakes = after;
            }
            Op::BeginPull(map) => {
                let expected = if naive.pool_state != PoolState::Open {
                    Err(Refusal::Closed)
                } else if !naive.beyond.contains(&map) {
                    Ok(true)
                } else if naive.map_permits() > 0 {
                    naive.beyond.remove(&map);
                    Ok(true)
                } else {
                    Ok(false)
                };
                if expected == Ok(true) {
                    if let Some(waiting_map) = &mut naive.waiting_maps[map] {
                        waiting_map.wants_room = false;
                    }
                    naive.pulls.push(map);
                }
                assert_eq!(self.real.begin_pull(StreamId::new(map)), expected);
            }
            Op::EndPull(pull) if !naive.pulls.is_empty() => {
                naive.pulls.remove(pull % naive.pulls.len());
                if naive.pool_state != PoolState::Open {
                    naive.check_idle(&mut effects);
                }
                wakes = self.real.end_pull();
            }
            Op::AcquirePulled { pull, want } if !naive.pulls.is_empty() => {
                let pull = pull % naive.pulls.len();
                let permits = naive.acquirable(want);
                if permits > 0 {
                    naive.acquired.push((naive.pulls.remove(pull), permits));
                }
                assert_eq!(self.real.acquire_pulled(want), permits);
            }
            Op::AcceptExtra(pull) if !naive.pulls.is_empty() => {
                let pull = pull % naive.pulls.len();
                // A map has one job beyond the capacity at a time.
                if !naive.beyond.insert(naive.pulls[pull]) {
                    return;
                }
                let map = naive.pulls.remove(pull);
                let id = naive.add(Origin::Extra);
                naive.extra_of.insert(id.0 as usize, map);
                assert_eq!(self.real.accept_extra(StreamId::new(map)), id);
            }
            Op::Commit {
                acquired,
                used,
                more,
            } if !naive.acquired.is_empty() => {
                let (map, acquired) = naive.acquired.remove(acquired % naive.acquired.len());
                let used = used.min(acquired);
                let first = JobId(naive.jobs.len() as u64);
                naive
                    .jobs
                    .extend(vec![State::Queued(Origin::Outside); used]);
                naive.check_idle(&mut effects);
                let (id, after) = self.real.commit(acquired, used);
                assert_eq!(id, first);
                wakes = after;
                if more > 0 {
                    naive.notify(true, &mut effects);
                    let permits = naive.acquirable(more);
                    naive.acquired.push((map, permits));
                    assert_eq!(self.real.acquire_many(more), permits);
                }
            }
            Op::WaitAsMap { map, wants_room } => {
                let can_pull = !naive.beyond.contains(&map) || naive.map_permits() > 0;
                let is_ready = naive.pool_state != PoolState::Open || wants_room && can_pull;
                let waker = Waker::from(Arc::new(Numbered(self.wakers, Arc::clone(&self.woken))));
                if !is_ready {
                    let new = WaitingMap {
                        waker: Some(self.wakers),
                        wants_room,
                    };
                    effects.unneeded = naive.waiting_maps[map]
                        .replace(new)
                        .and_then(|old| old.waker);
                }
                self.wakers += 1;
                let (is_ready_now, after) = self.real.wait_as_map(
                    StreamId::new(map),
                    wants_room,
                    &Context::from_waker(&waker),
                );
                assert_eq!(is_ready_now, is_ready);
                wakes = after;
            }
            Op::CancelMapWait(map) => {
                effects.unneeded = naive.waiting_maps[map]
                    .take()
                    .and_then(|waiting_map| waiting_map.waker);
                let (waker, after) = self.real.cancel_map_wait(StreamId::new(map));
                wakes = Wakes {
                    unneeded: waker,
                    ..after
                };
            }
            Op::NotifyOfAnyRoom => {
                naive.notifies_of_any_room = true;
                self.real.notify_of_any_room(&mut wakes);
            }
            Op::Start(index)
                if naive.pool_state < PoolState::Aborted
                    && naive.count(State::Running) < naive.workers =>
            {
                let Some(id) = naive.pick(|state| matches!(state, State::Queued(_)), index) else {
                    return;
                };
                let State::Queued(origin) = std::mem::replace(&mut naive.jobs[id], State::Running)
                else {
                    return;
                };
                naive.leave(id, &mut effects);
                if let Some(map) = naive.extra_of.get(&id).filter(|_| origin == Origin::Extra) {
                    self.real.absorb_extra(StreamId::new(*map), &mut wakes);
                }
                self.real.start(origin, &mut wakes);
            }
            Op::Finish(index, outcome) => {
                let Some(id) = naive.pick(|state| state == State::Running, index) else {
                    return;
                };
                naive.jobs[id] = State::Done(outcome);
                naive.finished += 1;
                naive.check_idle(&mut effects);
                self.real.finish(outcome, &mut wakes);
            }
            Op::Retry(index) if naive.pool_state < PoolState::Aborted => {
                let Some(id) = naive.pick(|state| state == State::Running, index) else {
                    return;
                };
                naive.jobs[id] = State::Queued(Origin::Retry);
                naive.extra_of.remove(&id);
                self.real.retry(&mut wakes);
            }
            Op::FinishQueued(index, outcome) => {
                let Some(id) = naive.pick(|state| matches!(state, State::Queued(_)), index) else {
                    return;
                };
                let State::Queued(origin) =
                    std::mem::replace(&mut naive.jobs[id], State::Done(outcome))
                else {
                    return;
                };
                naive.leave(id, &mut effects);
                naive.check_idle(&mut effects);
                if let Some(map) = naive.extra_of.get(&id).filter(|_| origin == Origin::Extra) {
                    self.real.absorb_extra(StreamId::new(*map), &mut wakes);
                }
                self.real.finish_queued(origin, outcome, &mut wakes);
            }
            // A future whose condition holds already does not wait.
            Op::SetQueuedThreshold(threshold) if naive.queued() >= threshold => {
                naive.queued_thresholds.push(threshold);
                self.real.set_queued_threshold(threshold);
            }
            Op::SetRunningThreshold(threshold) if naive.count(State::Running) >= threshold => {
                naive.running_thresholds.push(threshold);
                self.real.set_running_threshold(threshold);
            }
            Op::Advance(pool_state) => {
                let moves = naive.pool_state < pool_state;
                if moves {
                    if naive.pool_state == PoolState::Open {
                        naive.wake_all_waiters(&mut effects);
                    }
                    naive.pool_state = pool_state;
                    naive.check_idle(&mut effects);
                }
                let (has_moved, after) = self.real.advance(pool_state);
                assert_eq!(has_moved, moves);
                wakes = after;
            }
            // The jobs of a worker are finished before it leaves.
            Op::WorkerLeft if naive.workers > naive.count(State::Running) => {
                naive.workers -= 1;
                let was_last = naive.workers == 0 && naive.pool_state != PoolState::Ended;
                if was_last {
                    if naive.pool_state == PoolState::Open {
                        naive.wake_all_waiters(&mut effects);
                    }
                    (naive.pool_state, effects.idle, effects.end) = (PoolState::Ended, true, true);
                }
                let (is_last, after) = self.real.worker_left();
                assert_eq!(is_last, was_last);
                wakes = after;
            }
            _ => return,
        }
        let may_have_freed = matches!(
            op,
            Op::CancelWait(_)
                | Op::Release
                | Op::EndPull(_)
                | Op::Commit { .. }
                | Op::CancelMapWait(_)
                | Op::NotifyOfAnyRoom
                | Op::Start(_)
                | Op::FinishQueued(..)
        );
        self.naive.notify(may_have_freed, &mut effects);
        effects.room.sort_unstable();
        assert_eq!(self.effects(wakes), effects, "after {op:?}");
        self.compare();
    }

    fn compare(&self) {
        let (real, naive) = (&self.real, &self.naive);
        assert_eq!(real.stats(), naive.stats());
        assert_eq!(real.finished(), naive.finished);
        assert_eq!(
            (real.pool_state(), real.has_ended()),
            (naive.pool_state, naive.pool_state == PoolState::Ended)
        );
        let (is_empty, running) = (naive.is_queue_empty(), naive.count(State::Running));
        assert_eq!(
            (real.is_queue_empty(), real.is_idle()),
            (is_empty, is_empty && running == 0)
        );
        let retrying = naive.count(State::Queued(Origin::Retry));
        let counts = (
            real.workers(),
            real.running(),
            real.retrying(),
            real.queued_total(),
        );
        assert_eq!(counts, (naive.workers, running, retrying, naive.queued()));
        assert_eq!(
            (real.capacity(), real.child_capacity()),
            (naive.capacity, naive.child_capacity)
        );
        for waiter in &naive.waiters {
            let is_waiting = !waiter.is_granted && naive.pool_state == PoolState::Open;
            assert_eq!(real.is_waiting(waiter.waiter_id.unwrap()), is_waiting);
        }
        let unnotified = naive
            .wanting_room()
            .filter(|waiting_map| waiting_map.waker.is_some());
        assert_eq!(
            (real.wanting_room, real.unnotified),
            (naive.wanting_room().count(), unnotified.count())
        );
        let mut thresholds = naive
            .queued_thresholds
            .iter()
            .chain(&naive.running_thresholds);
        let has_threshold = thresholds.any(|threshold| *threshold > 0);
        assert!(real.is_awaited() || !(naive.has_waiter() || has_threshold));
        let is_granted = naive.waiters.iter().any(|waiter| waiter.is_granted);
        assert_eq!(real.has_reserved(), naive.reserved > 0 || is_granted);
    }
}

proptest! {
    #[test]
    fn an_admission_matches_a_naive_model(
        capacity in 1..5_usize, child_capacity in 0..3_usize, max_waiting in prop_oneof![0..3_usize, Just(usize::MAX)], ops in ops(),
    ) {
        let mut pair = Pair::new(capacity, child_capacity, max_waiting);
        for op in &ops {
            pair.apply(op);
        }
        // Nothing is left once all permits are released.
        pair.apply(&Op::Advance(PoolState::Closed));
        (0..MAPS).for_each(|map| pair.apply(&Op::CancelMapWait(map)));
        let hold: [(fn(&Naive) -> bool, Op); 6] = [
            (|naive| !naive.pulls.is_empty(), Op::EndPull(0)),
            (|naive| !naive.acquired.is_empty(), Op::Commit { acquired: 0, used: 0, more: 0 }),
            (|naive| naive.reserved > 0, Op::Release),
            (|naive| !naive.waiters.is_empty(), Op::CancelWait(0)),
            (|naive| naive.count(State::Running) > 0, Op::Finish(0, Outcome::Succeeded)),
            (|naive| naive.queued() > 0, Op::FinishQueued(0, Outcome::Abandoned)),
        ];
        for (holds, op) in hold {
            while holds(&pair.naive) {
                pair.apply(&op);
            }
        }
        (0..WORKERS).for_each(|_| pair.apply(&Op::WorkerLeft));
        let real = pair.real;
        prop_assert_eq!((real.pool_state, real.workers, real.reserved, real.acquired), (PoolState::Ended, 0, 0, 0));
        prop_assert!(real.waiters.is_empty() && real.granted.is_empty() && real.waiting_maps.is_empty());
        prop_assert_eq!((real.pulling, real.extras.len(), real.wanting_room, real.unnotified), (0, 0, 0, 0));
    }
}

/// An admission with a waiter and no permit for it.
#[cfg(feature = "testing")]
fn with_a_waiter() -> Admission {
    let mut admission = Admission::new(2, 1, 1, 1);
    admission.queued = 2;
    admission.accepted = 2;
    let polled = admission
        .poll_reserve(&mut None, None, &Context::from_waker(Waker::noop()))
        .0;
    assert_eq!(polled, Poll::Pending);
    admission
}

#[cfg(feature = "testing")]
#[test]
fn an_audit_finds_each_impossible_count() {
    type Change = fn(&mut Admission);
    let cases: [(Change, Option<&str>); 14] = [
        (|_| {}, None),
        (
            |admission| admission.accepted += 1,
            Some("3 accepted, 0 outcomes, 2 unfinished"),
        ),
        (
            |admission| admission.accepted = 0,
            Some("0 accepted, 0 outcomes, 2 unfinished"),
        ),
        (
            |admission| (admission.accepted, admission.outcomes) = (9, [1; 7]),
            None,
        ),
        (
            |admission| admission.outcomes[3] = 1,
            Some("2 accepted, 1 outcomes, 2 unfinished"),
        ),
        (
            |admission| (admission.queued, admission.accepted) = (3, 3),
            Some("3 places are taken of 2"),
        ),
        (
            |admission| admission.reserved = 1,
            Some("3 places are taken of 2"),
        ),
        (
            |admission| admission.acquired = 1,
            Some("2 places are taken of 2"),
        ),
        // A reserved permit need not belong to a queued job.
        (
            |admission| (admission.queued, admission.accepted, admission.reserved) = (0, 0, 3),
            None,
        ),
        (
            |admission| (admission.queued_children, admission.accepted) = (1, 3),
            None,
        ),
        (
            |admission| (admission.queued_children, admission.accepted) = (2, 4),
            Some("2 children are queued of 1"),
        ),
        (
            |admission| (admission.running, admission.accepted) = (1, 3),
            None,
        ),
        (
            |admission| (admission.running, admission.accepted) = (2, 4),
            Some("2 jobs run in 1 slots"),
        ),
        (
            |admission| admission.granted.extend([9]),
            Some("1 places are granted, and 0 reserved"),
        ),
    ];
    for (change, expected) in cases {
        let mut admission = with_a_waiter();
        change(&mut admission);
        assert_eq!(admission.audit().err().as_deref(), expected);
    }
}

#[cfg(feature = "testing")]
#[test]
fn a_stalled_waiter_is_found() {
    let mut admission = with_a_waiter();
    assert!(!admission.has_stalled_waiter());
    admission.queued = 1;
    assert!(admission.has_stalled_waiter());
    admission.pool_state = PoolState::Closed;
    assert!(!admission.has_stalled_waiter());
    assert!(!Admission::new(1, 1, 1, 1).has_stalled_waiter());
}

#[test]
fn the_wakers_of_a_group_are_those_of_its_waiters() {
    let mut admission = Admission::new(0, 0, 1, 1);
    let woken = Arc::new(Mutex::new(Vec::new()));
    for (number, group) in [None, Some(1), Some(2), Some(1)].into_iter().enumerate() {
        let waker = Waker::from(Arc::new(Numbered(number, Arc::clone(&woken))));
        let (polled, _) = admission.poll_reserve(
            &mut None,
            group.map(StreamId::new),
            &Context::from_waker(&waker),
        );
        assert_eq!(polled, Poll::Pending);
    }
    let wakers = [1, 2, 3].map(|group| admission.wakers_of(StreamId::new(group)));
    wakers.into_iter().flatten().for_each(Waker::wake);
    assert_eq!(*woken.lock().unwrap(), [1, 3, 2]);
}

#[test]
fn the_slots_are_those_of_the_workers_that_are_left() {
    let mut admission = Admission::new(1, 0, 3, 4);
    assert_eq!(admission.slots(), 12);
    assert!(!admission.worker_left().0);
    assert_eq!(admission.slots(), 8);
}

#[test]
fn starts_and_ends_are_awaited_while_a_future_waits_for_one() {
    let mut admission = Admission::new(2, 1, 1, 1);
    assert!(!admission.is_awaited());
    admission.set_queued_threshold(1);
    assert!(admission.is_awaited());
    admission.clear_thresholds();
    assert!(!admission.is_awaited());
    admission.set_running_threshold(1);
    assert!(admission.is_awaited());
    admission.clear_thresholds();
    assert!(!admission.is_awaited());
    (0..2).for_each(|_| assert!(admission.accept(Origin::Outside).is_ok()));
    let noop = &Context::from_waker(Waker::noop());
    let polled = admission.poll_reserve(&mut None, None, noop).0;
    assert_eq!(polled, Poll::Pending);
    admission.clear_thresholds();
    assert!(admission.is_awaited(), "a submission waits");
}

/// A full queue of four jobs, and a map that waits for a permit.
fn with_a_waiting_map() -> Admission {
    let mut admission = Admission::new(4, 0, 4, 1);
    (0..4).for_each(|_| assert!(admission.accept(Origin::Outside).is_ok()));
    assert_eq!(admission.begin_pull(StreamId::new(1)), Ok(true));
    admission.accept_extra(StreamId::new(1));
    let (can_pull, _) =
        admission.wait_as_map(StreamId::new(1), true, &Context::from_waker(Waker::noop()));
    assert!(!can_pull);
    admission
}

#[test]
fn a_map_that_pulls_does_not_wait_for_a_permit_any_more() {
    let mut admission = with_a_waiting_map();
    (0..2).for_each(|_| admission.start(Origin::Outside, &mut Wakes::default()));
    assert_eq!((admission.wanting_room, admission.unnotified), (1, 1));
    assert_eq!(admission.begin_pull(StreamId::new(1)), Ok(true));
    assert_eq!((admission.wanting_room, admission.unnotified), (0, 0));
}

#[test]
fn a_map_that_waits_is_notified_when_half_of_the_permits_are_free() {
    let mut admission = with_a_waiting_map();
    // One permit is left to others.
    let notified = [(); 3].map(|()| {
        let mut wakes = Wakes::default();
        admission.start(Origin::Outside, &mut wakes);
        wakes.notified_maps
    });
    assert_eq!(notified, [false, false, true]);
}

/// There is a permit for one of two maps that wait.
#[test]
fn a_map_that_goes_away_passes_its_notification_to_the_next() {
    let mut admission = Admission::new(2, 0, 2, 1);
    (0..2).for_each(|_| assert!(admission.accept(Origin::Outside).is_ok()));
    let woken = Arc::new(Mutex::new(Vec::new()));
    for map in [1, 2] {
        assert_eq!(admission.begin_pull(StreamId::new(map)), Ok(true));
        admission.accept_extra(StreamId::new(map));
        let waker = Waker::from(Arc::new(Numbered(map, Arc::clone(&woken))));
        assert!(
            !admission
                .wait_as_map(StreamId::new(map), true, &Context::from_waker(&waker))
                .0
        );
    }
    let mut wakes = Wakes::default();
    (0..2).for_each(|_| admission.start(Origin::Outside, &mut wakes));
    wakes.wakers.into_iter().for_each(Waker::wake);
    assert_eq!(*woken.lock().unwrap(), [1]);
    let (_, wakes) = admission.cancel_map_wait(StreamId::new(1));
    wakes.wakers.into_iter().for_each(Waker::wake);
    assert_eq!(*woken.lock().unwrap(), [1, 2]);
}

#[cfg(feature = "testing")]
#[test]
fn an_audit_at_the_end_finds_what_is_left() {
    type Change = fn(&mut Admission);
    let left = "queued, running, reserved, acquired, workers: ";
    let cases: [(Change, Option<String>); 9] = [
        (|_| {}, None),
        (
            |admission| admission.queued = 1,
            Some(format!("{left}(1, 0, 0, 0, 0) are left")),
        ),
        (
            |admission| admission.running = 1,
            Some(format!("{left}(0, 1, 0, 0, 0) are left")),
        ),
        (
            |admission| admission.reserved = 1,
            Some(format!("{left}(0, 0, 1, 0, 0) are left")),
        ),
        (
            |admission| admission.acquired = 1,
            Some(format!("{left}(0, 0, 0, 1, 0) are left")),
        ),
        (
            |admission| admission.workers = 1,
            Some(format!("{left}(0, 0, 0, 0, 1) are left")),
        ),
        (
            |admission| admission.pulling = 1,
            Some(format!("{left}(0, 0, 0, 1, 0) are left")),
        ),
        (
            |admission| admission.granted.extend([9]),
            Some("waiting futures, waiting maps, granted permits: (0, 0, 1) are left".into()),
        ),
        (
            |admission| admission.waiters = std::mem::take(&mut with_a_waiter().waiters),
            Some("waiting futures, waiting maps, granted permits: (1, 0, 0) are left".into()),
        ),
    ];
    for (change, expected) in cases {
        let mut admission = Admission::new(2, 1, 0, 1);
        change(&mut admission);
        assert_eq!(admission.audit_at_end().err(), expected);
    }
}
