//! In: entries, each pushed to a lane. Out: one entry at a time; lanes take turns, and a lane keeps
//! the order of its own.
//!
//! An entry is a number that its source gives meaning to. A lane with its quota out is in no list
//! until `done`, so each operation takes constant time, however many lanes there are. Nothing here
//! reads, waits or knows rows.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// The name of a lane: a host for `fetch`, a key for `run`.
pub(crate) type Lane = Arc<str>;

/// A lane of one feed. Lanes are numbered from 0 in the order in which they are first seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LaneId(u32);

impl LaneId {
    /// The lane of a row that comes from no feed.
    pub(crate) const NONE: Self = Self(NONE);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    #[cfg(test)]
    pub(crate) fn first() -> Self {
        Self(0)
    }
}

/// The end of a chain. No entry has this number.
const NONE: u32 = u32::MAX;

/// How many entries there can be.
pub(super) const MAX_ENTRIES: u32 = NONE;

/// A queue of entries whose links are kept in [`Links`]: 8 bytes, and 4 for each entry.
struct Chain {
    first: u32,
    last: u32,
}

impl Chain {
    const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
    };

    fn is_empty(&self) -> bool {
        self.first == NONE
    }
}

/// For each entry the one that follows it in its chain.
struct Links(Vec<u32>);

impl Links {
    fn push(&mut self, chain: &mut Chain, entry: u32) {
        let index = entry as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, NONE);
        }
        self.0[index] = NONE;
        if chain.is_empty() {
            chain.first = entry;
        } else {
            self.0[chain.last as usize] = entry;
        }
        chain.last = entry;
    }

    fn pop(&mut self, chain: &mut Chain) -> Option<u32> {
        let entry = chain.first;
        if chain.is_empty() {
            return None;
        }
        chain.first = self.0[entry as usize];
        Some(entry)
    }
}

/// The lanes, and the entries that wait in them.
pub(super) struct Lanes<'a> {
    ids: HashMap<Lane, LaneId>,
    lanes: Vec<State>,
    links: Links,
    /// The lanes that have an entry and fewer than their quota out, each once.
    turns: VecDeque<LaneId>,
    /// How many entries wait in lanes.
    waiting: u32,
    /// Entries that belong to no lane: they take no turn and have no quota.
    unlimited: Chain,
    quota: Box<dyn Fn(&str) -> usize + 'a>,
}

struct State {
    name: Lane,
    waiting: Chain,
    /// Rows that are still to be handed out, in `waiting` or counted by `expect`.
    rows: u32,
    out: u32,
    quota: u32,
}

impl State {
    fn may_start(&self) -> bool {
        !self.waiting.is_empty() && self.out < self.quota
    }

    fn start(&mut self) {
        self.rows = self.rows.saturating_sub(1);
        self.out += 1;
    }
}

impl<'a> Lanes<'a> {
    /// `quota` says how many rows of a lane may be out at once, at least 1. It is asked once for
    /// each lane.
    pub(super) fn new(quota: impl Fn(&str) -> usize + 'a) -> Self {
        Self {
            ids: HashMap::new(),
            lanes: Vec::new(),
            links: Links(Vec::new()),
            turns: VecDeque::new(),
            waiting: 0,
            unlimited: Chain::EMPTY,
            quota: Box::new(quota),
        }
    }

    /// The lane of this name.
    pub(super) fn id(&mut self, name: Lane) -> LaneId {
        if let Some(&id) = self.ids.get(&name) {
            return id;
        }
        let next = u32::try_from(self.lanes.len());
        let id = LaneId(next.expect("each lane has had an entry, and entries have 32 bits"));
        self.lanes.push(State {
            name: Arc::clone(&name),
            waiting: Chain::EMPTY,
            rows: 0,
            out: 0,
            quota: u32::try_from((self.quota)(&name).max(1)).unwrap_or(u32::MAX),
        });
        self.ids.insert(name, id);
        id
    }

    pub(super) fn name(&self, lane: LaneId) -> &Lane {
        &self.lanes[lane.index()].name
    }

    /// The lanes, each with its number of rows that are still to be handed out.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Lane, u64)> {
        self.lanes.iter().map(|lane| (&lane.name, lane.rows.into()))
    }

    /// Adds an entry to the end of a lane.
    pub(super) fn push(&mut self, lane: LaneId, entry: u32) {
        let state = &mut self.lanes[lane.index()];
        let could_start = state.may_start();
        self.links.push(&mut state.waiting, entry);
        state.rows += 1;
        self.waiting += 1;
        if !could_start && state.may_start() {
            self.turns.push_back(lane);
        }
    }

    /// The next entry of the lane whose turn it is. It counts as out until [`done`](Self::done).
    pub(super) fn pop(&mut self) -> Option<(LaneId, u32)> {
        let lane = self.turns.pop_front()?;
        let state = &mut self.lanes[lane.index()];
        let entry = self.links.pop(&mut state.waiting);
        let entry = entry.expect("a lane with a turn has an entry");
        state.start();
        self.waiting -= 1;
        if state.may_start() {
            self.turns.push_back(lane);
        }
        Some((lane, entry))
    }

    /// Whether a lane has an entry and may start it.
    pub(super) fn has_turn(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Whether an entry waits in a lane, whether or not it may start.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// An entry of the lane is finished.
    pub(super) fn done(&mut self, lane: LaneId) {
        let state = &mut self.lanes[lane.index()];
        let could_start = state.may_start();
        debug_assert!(state.out > 0, "{lane:?} has nothing out");
        state.out = state.out.saturating_sub(1);
        if !could_start && state.may_start() {
            self.turns.push_back(lane);
        }
    }

    /// Adds an entry that takes no turn.
    pub(super) fn push_unlimited(&mut self, entry: u32) {
        self.links.push(&mut self.unlimited, entry);
    }

    /// The next entry that takes no turn.
    pub(super) fn pop_unlimited(&mut self) -> Option<u32> {
        self.links.pop(&mut self.unlimited)
    }

    /// Counts a row of the lane that comes out of [`pop_unlimited`](Self::pop_unlimited).
    pub(super) fn expect(&mut self, lane: LaneId) {
        self.lanes[lane.index()].rows += 1;
    }

    /// Counts a row of the lane as out that did not wait here for its turn.
    pub(super) fn start(&mut self, lane: LaneId) {
        self.lanes[lane.index()].start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(quota: usize, entries: &[(&str, u32)]) -> Lanes<'static> {
        let mut lanes = Lanes::new(move |_| quota);
        for &(name, entry) in entries {
            let id = lanes.id(name.into());
            lanes.push(id, entry);
        }
        lanes
    }

    fn popped(lanes: &mut Lanes<'_>) -> Vec<u32> {
        std::iter::from_fn(|| lanes.pop().map(|(_, entry)| entry)).collect()
    }

    #[test]
    fn lanes_take_turns_and_each_keeps_its_order() {
        let mut lanes = lanes(
            9,
            &[("a", 0), ("a", 1), ("a", 2), ("b", 3), ("c", 4), ("b", 5)],
        );
        assert_eq!(popped(&mut lanes), [0, 3, 4, 1, 5, 2]);
    }

    #[test]
    fn a_lane_with_its_quota_out_is_passed_over_until_one_is_done() {
        let mut lanes = lanes(2, &[("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 4)]);
        assert_eq!(popped(&mut lanes), [0, 4, 1]);
        let a = lanes.id("a".into());
        lanes.done(a);
        assert_eq!(popped(&mut lanes), [2]);
        lanes.done(a);
        lanes.done(a);
        assert_eq!(popped(&mut lanes), [3]);
        lanes.done(a);
        assert!(popped(&mut lanes).is_empty());
    }

    #[test]
    fn a_lane_that_is_filled_again_gets_one_turn_and_not_two() {
        let mut lanes = lanes(2, &[("a", 0), ("b", 1)]);
        assert_eq!(popped(&mut lanes), [0, 1]);
        let a = lanes.id("a".into());
        lanes.done(a);
        lanes.push(a, 2);
        lanes.push(a, 3);
        lanes.push(a, 4);
        assert_eq!(lanes.turns, [a]);
        assert_eq!(popped(&mut lanes), [2, 3]);
    }

    #[test]
    fn each_lane_has_a_quota_of_its_own_of_at_least_one() {
        let mut lanes = Lanes::new(|name| name.len() - 1);
        for (name, entry) in [("a", 0), ("a", 1), ("bbb", 2), ("bbb", 3), ("bbb", 4)] {
            let id = lanes.id(name.into());
            lanes.push(id, entry);
        }
        assert_eq!(popped(&mut lanes), [0, 2, 3]);
    }

    #[test]
    fn rows_are_counted_until_they_are_handed_out() {
        let mut lanes = lanes(1, &[("a", 0), ("a", 1), ("b", 2)]);
        let b = lanes.id("b".into());
        lanes.expect(b);
        let counts = |lanes: &Lanes<'_>| -> Vec<(String, u64)> {
            lanes
                .iter()
                .map(|(name, rows)| (name.to_string(), rows))
                .collect()
        };
        assert_eq!(counts(&lanes), [("a".to_owned(), 2), ("b".to_owned(), 2)]);
        lanes.pop();
        lanes.start(b);
        assert_eq!(counts(&lanes), [("a".to_owned(), 1), ("b".to_owned(), 1)]);
    }

    #[test]
    fn unlimited_entries_keep_their_order_and_take_no_turn() {
        let mut lanes = lanes(1, &[("a", 1)]);
        lanes.push_unlimited(0);
        lanes.push_unlimited(2);
        assert_eq!(popped(&mut lanes), [1]);
        assert_eq!(lanes.pop_unlimited(), Some(0));
        assert_eq!(lanes.pop_unlimited(), Some(2));
        assert_eq!(lanes.pop_unlimited(), None);
    }
}
