//! Named cases, and a comparison with a naive model, which keeps a list of waits and scans all of
//! it each time.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn running(jobs: u64) -> Running<&'static str> {
    let mut running = Running::new();
    for (slot, id) in (0..jobs).enumerate() {
        running.start(slot, ActiveJob::new(JobId(id), 0, None));
    }
    running
}

#[test]
fn a_chunk_is_allocated_when_one_of_its_slots_is_occupied() {
    let mut running = Running::<()>::new();
    running.reserve(1 << 20).unwrap();
    let room = running.chunks.capacity();
    let last = (1 << 20) - 1;
    running.start_scheduled(
        last,
        ActiveJob::new(JobId(7), 0, None),
        Some(Instant::now()),
    );
    assert_eq!(
        running
            .occupied()
            .map(|(slot, active_job)| (slot, active_job.id))
            .collect::<Vec<_>>(),
        [(last, JobId(7))]
    );
    assert_eq!(
        (
            running.chunks.capacity(),
            running.chunks.iter().flatten().count()
        ),
        (room, 1)
    );
    assert!(
        running.since(last).is_some()
            && running.since(last - 1).is_none()
            && running.since(0).is_none()
    );
}

#[test]
fn more_slots_than_memory_can_hold_are_an_error() {
    assert!(
        [1 << 50, usize::MAX / 8, usize::MAX]
            .map(|slots| Running::<()>::new().reserve(slots).is_err())
            == [true; 3]
    );
}

#[test]
fn slots_are_blocked_while_each_has_a_wait() {
    let mut running = running(2);
    let first = running.begin_wait(0, JobId(0), "first");
    assert!(running.blocked() < 2);
    let second = running.begin_wait(1, JobId(1), "second");
    let third = running.begin_wait(1, JobId(1), "third");
    assert_eq!(running.blocked(), 2);
    assert_eq!(
        running.waiting().collect::<Vec<_>>(),
        [(1, 0, &"first"), (2, 1, &"second"), (3, 1, &"third")]
    );
    assert_eq!(running.end_wait(second), Some("second"));
    assert_eq!(running.blocked(), 2);
    assert_eq!(running.end_wait(third), Some("third"));
    assert!(running.blocked() < 2);
    assert_eq!(
        (running.end_wait(first), running.end_wait(first)),
        (Some("first"), None)
    );
}

#[test]
fn the_end_of_a_job_ends_its_waits() {
    let mut running = running(1);
    let wait = running.begin_wait(0, JobId(0), "wait");
    assert_eq!(running.blocked(), 1);
    running.finish(0);
    running.start(0, ActiveJob::new(JobId(7), 0, None));
    assert!(running.blocked() < 1);
    assert_eq!(running.waiting().count(), 0);
    assert_eq!(running.end_wait(wait), Some("wait"));
    assert!(running.blocked() < 1);
}

#[test]
fn the_wait_of_an_earlier_attempt_is_none_of_the_next_one() {
    let mut running = running(1);
    let early = running.begin_wait(0, JobId(0), "early");
    running.finish(0);
    running.start(0, ActiveJob::new(JobId(0), 0, None));
    assert_eq!(
        (running.waiting().count(), running.wait_mut(early)),
        (0, None)
    );
    running.begin_wait(0, JobId(0), "late");
    assert_eq!(running.end_wait(early), Some("early"));
    assert_eq!(running.blocked(), 1);
    assert_eq!(running.waiting().collect::<Vec<_>>(), [(2, 0, &"late")]);
}

#[cfg(feature = "testing")]
#[test]
fn a_wait_a_blocked_slot_or_a_retry_that_is_left_is_found() {
    assert!(!running(2).has_waits());
    let mut waiting = running(0);
    waiting.begin_wait(0, JobId(0), "not running");
    let (mut blocked, mut retrying) = (running(0), running(0));
    (blocked.blocked, retrying.retries) = (1, 1);
    assert!(waiting.has_waits() && blocked.has_waits() && retrying.has_waits());
}

const SLOTS: usize = 3;

/// An operation on the slots. A wait is identified by its index among those that have not ended,
/// modulo their number.
#[derive(Debug, Clone)]
enum Op {
    Start {
        slot: usize,
        id: u64,
        record_id: u32,
        counts_as_retry: bool,
        since: Option<u64>,
    },
    Finish(usize),
    MarkRetry(usize),
    BeginWait {
        slot: usize,
        id: u64,
    },
    ChangeWait(usize),
    EndWait(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    // So few ids that some start again, as retried jobs do.
    let (slot, id) = (|| 0..SLOTS, || 0..4_u64);
    let job = (
        slot(),
        id(),
        0..4_u32,
        any::<bool>(),
        proptest::option::of(0..9_u64),
    );
    let op = prop_oneof![
        4 => job.prop_map(|(slot, id, record_id, counts_as_retry, since)| Op::Start { slot, id, record_id, counts_as_retry, since }),
        3 => slot().prop_map(Op::Finish),
        1 => slot().prop_map(Op::MarkRetry),
        6 => (slot(), id()).prop_map(|(slot, id)| Op::BeginWait { slot, id }),
        1 => any::<usize>().prop_map(Op::ChangeWait),
        4 => any::<usize>().prop_map(Op::EndWait),
    ];
    vec(op, 0..120)
}

#[derive(Debug, Clone, Copy)]
struct Job {
    id: u64,
    /// The number of its start.
    start: usize,
    record_id: Option<RecordId>,
    counts_as_retry: bool,
    since: Option<Instant>,
}

#[derive(Debug)]
struct Naive {
    slots: [Option<Job>; SLOTS],
    /// The id of each wait, the start of the job that waits, and its target.
    waits: Vec<(u64, Option<usize>, usize)>,
}

impl Naive {
    /// The slots of jobs that wait, once for each wait.
    fn waiting(&self) -> Vec<(usize, usize)> {
        let slot = |start| {
            self.slots
                .iter()
                .position(|job| job.is_some_and(|job| Some(job.start) == start))
        };
        self.waits
            .iter()
            .filter_map(|(_, start, what)| Some((slot(*start)?, *what)))
            .collect()
    }
}

proptest! {
    #[test]
    fn the_slots_match_a_naive_model(is_scheduled: bool, ops in ops()) {
        let mut real = Running::new();
        let mut naive = Naive { slots: [None; SLOTS], waits: Vec::new() };
        let begin = Instant::now();
        for (step, op) in ops.iter().enumerate() {
            match *op {
                Op::Start { slot, id, record_id, counts_as_retry, since } if naive.slots[slot].is_none() => {
                    let mut active_job = ActiveJob::new(JobId(id), step, None);
                    let mut job = Job { id, start: step, record_id: None, counts_as_retry: false, since: None };
                    if is_scheduled {
                        (job.record_id, job.counts_as_retry) = (RecordId::new(record_id), counts_as_retry);
                        job.since = since.map(|after| begin + std::time::Duration::from_secs(after));
                        (active_job.record_id, active_job.counts_as_retry) = (job.record_id, counts_as_retry);
                        real.start_scheduled(slot, active_job, job.since);
                    } else {
                        real.start(slot, active_job);
                    }
                    naive.slots[slot] = Some(job);
                }
                Op::Finish(slot) => {
                    let left = naive.slots[slot].take();
                    if is_scheduled {
                        prop_assert_eq!(real.finish_scheduled(slot), left.and_then(|job| job.record_id));
                    } else {
                        real.finish(slot);
                    }
                }
                Op::MarkRetry(slot) if is_scheduled => {
                    naive.slots[slot].iter_mut().for_each(|job| job.counts_as_retry = true);
                    real.mark_retry(slot);
                }
                Op::BeginWait { slot, id } => {
                    let start = naive.slots[slot].filter(|job| job.id == id).map(|job| job.start);
                    let number = real.begin_wait(slot, JobId(id), step);
                    prop_assert!(naive.waits.iter().all(|(taken, ..)| *taken < number));
                    naive.waits.push((number, start, step));
                }
                Op::ChangeWait(index) if !naive.waits.is_empty() => {
                    let index = index % naive.waits.len();
                    let (number, start, what) = &mut naive.waits[index];
                    let runs = naive.slots.iter().flatten().any(|job| Some(job.start) == *start);
                    let there = real.wait_mut(*number).map(|there| std::mem::replace(there, step));
                    prop_assert_eq!(there, runs.then(|| std::mem::replace(what, step)));
                }
                Op::EndWait(index) if !naive.waits.is_empty() => {
                    let (number, _, what) = naive.waits.remove(index % naive.waits.len());
                    prop_assert_eq!((real.end_wait(number), real.end_wait(number)), (Some(what), None));
                    prop_assert_eq!(real.wait_mut(number), None);
                }
                _ => {}
            }
            let waiting = naive.waiting();
            prop_assert_eq!(real.waiting().map(|(_, slot, what)| (slot, *what)).collect::<Vec<_>>(), waiting.clone());
            let blocked = (0..SLOTS).filter(|slot| waiting.iter().any(|(waits, _)| waits == slot)).count();
            prop_assert_eq!(real.blocked(), blocked);
            prop_assert_eq!(real.running_retries(), naive.slots.iter().flatten().filter(|job| job.counts_as_retry).count());
            let occupied: Vec<_> = real.occupied().map(|(slot, active_job)| (slot, active_job.id, active_job.index)).collect();
            let jobs = naive.slots.iter().enumerate().filter_map(|(slot, job)| Some((slot, (*job)?)));
            prop_assert_eq!(occupied, jobs.map(|(slot, job)| (slot, JobId(job.id), job.start)).collect::<Vec<_>>());
            for (slot, job) in naive.slots.iter().enumerate() {
                prop_assert_eq!(real.counts_as_retry(slot), job.is_some_and(|job| job.counts_as_retry));
                prop_assert_eq!(real.record_id(slot), job.and_then(|job| job.record_id));
                prop_assert_eq!(real.since(slot), job.and_then(|job| job.since));
                for id in 0..4 {
                    let is_running = job.is_some_and(|job| job.id == id);
                    prop_assert_eq!(real.is_running(slot, JobId(id)), is_running);
                    let waits = waiting.iter().any(|(waits, _)| *waits == slot);
                    prop_assert_eq!(real.is_waiting(slot, JobId(id)), is_running && waits);
                }
            }
        }
    }
}
