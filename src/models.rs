//! Small pieces on which the rest stands, in all orders that two or three threads can have, up to a
//! number of preemptions: the reply of a job, the hand-over of a job among workers that leave, and
//! the wakes of a slot and of the one who keeps the time. Only in a build of its own:
//!
//! ```text
//! RUSTFLAGS='--cfg brigade_model="loom"' cargo test --release --no-default-features --lib models
//! ```
//!
//! `LOOM_MAX_PREEMPTIONS=n` looks at more orders. A wait that never ends is a deadlock, which loom
//! finds by itself.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_lite::future::poll_once;
use loom::future::block_on;
use loom::thread;

use crate::channel::KeptNote;
use crate::handler::Plain;
use crate::job::queued::QueuedJob;
use crate::queue::injector::{Injector, Taken};
use crate::queue::local::LocalQueue;
use crate::shared::Shared;
use crate::shared::timer::TimerDriver;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::worker::Workers;
use crate::worker::buffer::CompletionBuffer;
use crate::worker::guard::JobGuard;
use crate::worker::ready_list::{ReadyList, SlotWaker};
use crate::worker::stateful::job_or_moment;
use crate::{CancelReason, JobError, ManualTimer, Pool};

type Jobs = Pool<u32, u32, u32>;
/// Jobs that travel as one.
type Row = VecDeque<u32>;
type Books = Arc<Shared<u32, u32, u32>>;

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    if builder.preemption_bound.is_none() {
        builder.preemption_bound = Some(2);
    }
    let model = Arc::new(model);
    let runs = std::sync::atomic::AtomicUsize::new(0);
    let runs = Arc::new(runs);
    builder.check({
        let runs = Arc::clone(&runs);
        move || {
            runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let model = Arc::clone(&model);
            // Loom's first thread has little room.
            spawn(move || model())
                .join()
                .expect("the model does not panic");
        }
    });
    let runs = runs.load(std::sync::atomic::Ordering::Relaxed);
    assert!(runs > 1, "these threads have one order only");
    println!("{runs} orders");
}

fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::Builder::new()
        .stack_size(STACK)
        .spawn(f)
        .expect("there are few threads")
}

/// In words; more than what a worker needs without optimisation.
const STACK: usize = 1 << 17;

/// A pool whose workers are not run: the threads of the model do what they would.
fn pool(
    workers: usize,
    clock: &ManualTimer,
) -> (
    Jobs,
    Workers<u32, u32, u32, Plain<impl Fn(u32) -> Handle + use<>>>,
) {
    Pool::builder()
        .workers(workers)
        .queue_capacity(2)
        .timer(clock.clone())
        .build(|n| std::future::ready(Ok(n)))
}

type Handle = std::future::Ready<Result<u32, u32>>;

/// What a worker does with a job whose handler answers at once.
fn run(
    shared: &Books,
    slot: usize,
    entry: QueuedJob<u32, u32, u32>,
    answer: impl FnOnce(u32) -> Result<u32, u32>,
) {
    let (mut guard, mut buffer) = (
        JobGuard::new(Arc::clone(shared), slot),
        CompletionBuffer::new(Arc::clone(shared)),
    );
    let Some(input) = guard.start(entry, |_| false) else {
        return;
    };
    let result = guard
        .prepare(input)
        .and_then(|input| answer(input).map_err(JobError::Failed));
    guard.settle(result, &mut buffer);
}

// ---- the reply ----

/// A worker runs the one job, or leaves with it, while `ask` does something with the handle.
fn one_job(
    answer: impl Fn(u32) -> Result<u32, u32> + Copy + Send + Sync + 'static,
    is_lost: bool,
    ask: impl Fn(crate::JobHandle<u32, u32, u32>, &Jobs) + Send + Sync + 'static,
) {
    explore(move || {
        let (pool, workers) = pool(1, &ManualTimer::new());
        let handle = pool.try_submit(7).expect("there is room");
        let shared = Arc::clone(pool.shared());
        let worker = spawn(move || {
            let Ok(Some(entry)) = shared.injector.try_pop() else {
                return;
            };
            if is_lost {
                let mut guard = JobGuard::new(Arc::clone(&shared), 0);
                guard.start(entry, |_| false);
            } else {
                run(&shared, 0, entry, answer);
            }
        });
        ask(handle, &pool);
        worker.join().expect("it does not panic");
        let stats = pool.stats();
        let ended = stats.succeeded + stats.failed + stats.cancelled + stats.abandoned;
        assert_eq!(
            (stats.accepted, ended, stats.queued, stats.running),
            (1, 1, 0, 0),
            "{stats:?}"
        );
        drop(workers);
    });
}

#[test]
fn whoever_awaits_a_job_is_told() {
    one_job(Ok, false, |handle, _| assert_eq!(block_on(handle), Ok(7)));
}

#[test]
fn whoever_awaits_a_job_is_told_that_its_worker_has_left() {
    one_job(Ok, true, |handle, _| {
        assert_eq!(block_on(handle), Err(JobError::Abandoned))
    });
}

#[test]
fn a_cancelled_job_ends_once() {
    one_job(Ok, false, |handle, _| {
        let _ = block_on(handle.cancel());
    });
}

#[test]
fn a_cancelled_job_ends_once_though_its_worker_leaves() {
    one_job(Ok, true, |handle, _| {
        let result = block_on(handle.cancel());
        assert!(!matches!(result, Some(Ok(_))), "{result:?}");
    });
}

#[test]
fn a_failure_that_nobody_awaits_goes_to_the_place_for_them_once() {
    explore(|| {
        let (pool, workers) = pool(1, &ManualTimer::new());
        let told = Arc::new(loom::sync::atomic::AtomicUsize::new(0));
        pool.on_unhandled({
            let told = Arc::clone(&told);
            move |failure| {
                assert_eq!(failure.error, JobError::Failed(7));
                told.fetch_add(1, loom::sync::atomic::Ordering::SeqCst);
            }
        });
        let handle = pool.try_submit(7).expect("there is room");
        let shared = Arc::clone(pool.shared());
        let worker = spawn(move || {
            let Ok(Some(entry)) = shared.injector.try_pop() else {
                return;
            };
            run(&shared, 0, entry, Err);
        });
        handle.detach();
        worker.join().expect("it does not panic");
        assert_eq!(told.load(loom::sync::atomic::Ordering::SeqCst), 1);
        drop(workers);
    });
}

#[test]
fn an_abort_and_a_worker_settle_a_job_once() {
    one_job(Ok, false, |handle, pool| {
        pool.shared().begin_abort();
        let result = block_on(handle);
        assert!(
            matches!(
                result,
                Ok(7) | Err(JobError::Cancelled(CancelReason::Aborted))
            ),
            "{result:?}"
        );
    });
}

// ---- the hand-over ----

/// Takes jobs until there are none and the channel is closed.
fn take_all(injector: &Injector<Row>) -> Vec<u32> {
    let mut taken = Vec::new();
    while let Ok(job) = block_on(injector.pop(&KeptNote::default())) {
        taken.push(job);
    }
    taken
}

fn hand_over(push: impl Fn(&Injector<Row>) + Send + Sync + 'static) {
    explore(move || {
        let injector = Arc::new(Injector::<Row>::new());
        let removed = spawn({
            let injector = Arc::clone(&injector);
            move || block_on(poll_once(injector.pop(&KeptNote::default()))).and_then(Result::ok)
        });
        let stayer = spawn({
            let injector = Arc::clone(&injector);
            move || {
                // Two of three jobs at least are its own.
                let first = block_on(injector.pop(&KeptNote::default())).expect("it is open");
                let second = block_on(injector.pop(&KeptNote::default())).expect("it is open");
                [first, second]
            }
        });
        push(&injector);
        let mut taken: Vec<u32> = stayer.join().expect("it does not panic").into();
        taken.extend(removed.join().expect("it does not panic"));
        injector.close();
        taken.extend(take_all(&injector));
        taken.sort_unstable();
        assert_eq!(taken, [1, 2, 3]);
    });
}

#[test]
fn no_job_of_a_batch_is_left_beside_a_worker_that_sleeps() {
    hand_over(|injector| assert!(injector.push_many(1..4).is_ok()));
}

#[test]
fn no_batch_of_one_is_left_beside_a_worker_that_sleeps() {
    hand_over(|injector| {
        for job in 1..=3 {
            injector.push_batch([job].into()).expect("it is open");
        }
    });
}

#[test]
fn no_job_that_comes_alone_is_left_beside_a_worker_that_sleeps() {
    hand_over(|injector| {
        for job in 1..=3 {
            injector.push(job).expect("it is open");
        }
    });
}

/// One worker has taken three jobs together and started the first, when `leave` happens to its
/// local queue; the other waits for two.
fn share(leave: impl Fn(&Injector<Row>, Arc<LocalQueue<Row>>) + Copy + Send + Sync + 'static) {
    explore(move || {
        let injector = Arc::new(Injector::<Row>::new());
        let other = spawn({
            let injector = Arc::clone(&injector);
            move || {
                [(); 2].map(|()| block_on(injector.pop(&KeptNote::default())).expect("it is open"))
            }
        });
        injector.push_batch([1, 2, 3].into()).expect("it is open");
        let local_queue = Arc::new(LocalQueue::default());
        // The other one may be faster and take one or two.
        if injector.take(Some(&local_queue)) == Ok(Taken::Batch) {
            let first = local_queue.local().batch.as_mut().and_then(Row::pop_front);
            leave(&injector, local_queue);
            match first {
                Some(1) => assert_eq!(other.join().expect("it does not panic"), [2, 3]),
                Some(2) => assert_eq!(other.join().expect("it does not panic"), [1, 3]),
                _ => {
                    other.join().expect("it does not panic");
                }
            }
        } else {
            other.join().expect("it does not panic");
        }
    });
}

#[test]
fn what_lies_in_a_hand_is_found_by_a_worker_that_sleeps() {
    // It is never put back.
    share(|_, _| ());
}

#[test]
fn what_is_put_back_is_found_by_a_worker_that_sleeps() {
    share(|injector, local_queue| injector.give_back(&local_queue));
}

#[test]
fn no_job_overtakes_another_while_somebody_looks_for_dead_ones() {
    explore(|| {
        let injector = Arc::new(Injector::<Row>::new());
        let worker = spawn({
            let injector = Arc::clone(&injector);
            move || {
                [(); 2].map(|()| block_on(injector.pop(&KeptNote::default())).expect("it is open"))
            }
        });
        let sweeper = spawn({
            let injector = Arc::clone(&injector);
            move || injector.sweep(|_| false)
        });
        for job in [1, 2] {
            injector.push(job).expect("it is open");
        }
        assert_eq!(sweeper.join().expect("it does not panic"), []);
        assert_eq!(worker.join().expect("it does not panic"), [1, 2]);
    });
}

#[test]
fn two_workers_take_the_jobs_in_their_order() {
    explore(|| {
        let injector = Arc::new(Injector::<Row>::new());
        let taken = Arc::new(loom::sync::Mutex::new(Vec::new()));
        let workers = [(); 2].map(|()| {
            let (injector, taken) = (Arc::clone(&injector), Arc::clone(&taken));
            spawn(move || {
                let job = block_on(injector.pop(&KeptNote::default())).expect("it is open");
                taken.lock().expect("nobody panics").push(job);
            })
        });
        assert!(injector.push_many(1..3).is_ok());
        assert!(injector.push_many(3..5).is_ok());
        for worker in workers {
            worker.join().expect("it does not panic");
        }
        let mut taken = taken.lock().expect("nobody panics").clone();
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
        injector.close();
        assert_eq!(take_all(&injector), [3, 4]);
    });
}

#[test]
fn a_slot_that_is_woken_is_looked_at() {
    explore(|| {
        let woken = Arc::new(ReadyList::default());
        let slot = SlotWaker::new(&woken, 0);
        let is_done = Arc::new(AtomicBool::new(false));
        let waking = [(); 2].map(|()| {
            let (waker, is_done) = (Waker::from(Arc::clone(&slot)), Arc::clone(&is_done));
            spawn(move || {
                is_done.store(true, Ordering::SeqCst);
                waker.wake();
            })
        });
        block_on(poll_fn(|cx| {
            loop {
                let mut list = VecDeque::new();
                woken.take(&mut list);
                while list.pop_front().is_some() {
                    slot.unlist();
                }
                if is_done.load(Ordering::SeqCst) {
                    return Poll::Ready(());
                }
                if woken.wait(cx.waker()) {
                    return Poll::Pending;
                }
            }
        }));
        waking
            .into_iter()
            .for_each(|thread| thread.join().expect("it does not panic"));
        woken.leave();
    });
}

// ---- the timekeeper ----

/// What a worker does beside running handlers: waits for a job and keeps the time, until it has run
/// one.
fn serve(shared: &Books, slot: usize) {
    let mut time = TimerDriver::new(Arc::clone(shared), slot);
    let kept = KeptNote::default();
    let entry = block_on(async {
        loop {
            match job_or_moment(shared, &mut time, &kept).await {
                Some(Ok(entry)) => break Some(entry),
                Some(Err(_)) => break None,
                None => time.pass(),
            }
        }
    });
    if let Some(entry) = entry {
        run(shared, slot, entry, Ok);
    }
}

const DELAY: Duration = Duration::from_secs(1);

#[test]
fn the_one_who_keeps_the_time_is_woken_for_an_earlier_moment() {
    explore(|| {
        let clock = ManualTimer::new();
        let (pool, workers) = pool(1, &clock);
        let shared = Arc::clone(pool.shared());
        let worker = spawn(move || serve(&shared, 0));
        let handle = pool
            .job(7)
            .delay(DELAY)
            .try_submit()
            .expect("there is room");
        clock.advance(DELAY);
        assert_eq!(block_on(handle), Ok(7));
        worker.join().expect("it does not panic");
        drop(workers);
    });
}

#[test]
fn the_time_is_kept_after_its_keeper_has_left() {
    explore(|| {
        let clock = ManualTimer::new();
        let (pool, workers) = pool(2, &clock);
        let handle = pool
            .job(7)
            .delay(DELAY)
            .try_submit()
            .expect("there is room");
        let removed = spawn({
            let shared = Arc::clone(pool.shared());
            move || {
                let mut time = TimerDriver::new(shared, 1);
                block_on(poll_once(poll_fn(|cx| time.poll(cx))));
            }
        });
        let stayer = spawn({
            let shared = Arc::clone(pool.shared());
            move || serve(&shared, 0)
        });
        removed.join().expect("it does not panic");
        clock.advance(DELAY);
        assert_eq!(block_on(handle), Ok(7));
        stayer.join().expect("it does not panic");
        drop(workers);
    });
}
