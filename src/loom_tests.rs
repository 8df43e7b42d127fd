//! Loom models of the smallest pieces, in all orders of two or three threads up to a number of
//! preemptions: the completion of a job with a handle, jobs that pass between workers that leave,
//! the wakes of a slot and those of the worker that drives the timer. Only in a build of its own:
//!
//! ```text
//! RUSTFLAGS='--cfg brigade_model="loom"' cargo test --release --no-default-features --lib loom_tests
//! ```
//!
//! `LOOM_MAX_PREEMPTIONS=n` explores more orders. Loom reports a wait that never ends as a
//! deadlock.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_lite::future::poll_once;
use loom::future::block_on;
use loom::thread;

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
use crate::worker::stateful::pop_or_timer;
use crate::{CancelReason, JobError, ManualTimer, Pool};

type Jobs = Pool<u32, u32, u32>;
/// A batch of jobs.
type Row = VecDeque<u32>;
type SharedState = Arc<Shared<u32, u32, u32>>;

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
            // Loom's first thread has a small stack.
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

/// In words; more than an unoptimised worker needs.
const STACK: usize = 1 << 17;

/// A pool whose workers are not run: the threads of the model stand in for them.
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

/// Runs a job whose handler returns at once, as a worker does.
fn run(
    shared: &SharedState,
    slot: usize,
    job: QueuedJob<u32, u32, u32>,
    answer: impl FnOnce(u32) -> Result<u32, u32>,
) {
    let (mut guard, mut buffer) = (
        JobGuard::new(Arc::clone(shared), slot),
        CompletionBuffer::new(Arc::clone(shared)),
    );
    let Some(input) = guard.start(job, |_| false) else {
        return;
    };
    let result = guard
        .prepare(input)
        .and_then(|input| answer(input).map_err(JobError::Failed));
    guard.complete(result, &mut buffer);
}

// ---- completion of a job with a handle ----

/// A worker runs the one job, or drops it started, while `ask` uses the handle.
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
            let Ok(Some(job)) = shared.injector.try_pop() else {
                return;
            };
            if is_lost {
                let mut guard = JobGuard::new(Arc::clone(&shared), 0);
                guard.start(job, |_| false);
            } else {
                run(&shared, 0, job, answer);
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
fn an_awaited_job_wakes_its_handle() {
    one_job(Ok, false, |handle, _| assert_eq!(block_on(handle), Ok(7)));
}

#[test]
fn an_awaited_job_wakes_its_handle_when_its_worker_is_dropped() {
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
fn a_cancelled_job_ends_once_though_its_worker_is_dropped() {
    one_job(Ok, true, |handle, _| {
        let result = block_on(handle.cancel());
        assert!(!matches!(result, Some(Ok(_))), "{result:?}");
    });
}

// ---- a pool is idle ----

#[test]
fn a_wait_for_an_idle_pool_ends_once_the_last_outcome_is_delivered() {
    for is_lost in [false, true] {
        one_job(Ok, is_lost, |handle, pool| {
            block_on(pool.wait_idle());
            assert!(handle.is_finished());
        });
    }
}

#[test]
fn a_wait_for_an_idle_pool_ends_once_a_job_that_has_not_run_is_delivered() {
    explore(|| {
        let (pool, workers) = pool(1, &ManualTimer::new());
        let handle = pool.try_submit(7).expect("there is room");
        let aborter = spawn({
            let pool = pool.clone();
            move || block_on(pool.abort())
        });
        block_on(pool.wait_idle());
        assert!(handle.is_finished());
        let report = aborter.join().expect("it does not panic");
        assert_eq!(report.unstarted.len(), 1);
        drop(workers);
    });
}

/// The delivery that is seen to end is not the last one.
#[test]
fn a_wait_for_an_idle_pool_ends_once_both_of_two_workers_have_delivered() {
    explore(|| {
        let (pool, workers) = pool(2, &ManualTimer::new());
        let handles = [7, 8].map(|n| pool.try_submit(n).expect("there is room"));
        let threads = [0, 1].map(|slot| {
            let shared = Arc::clone(pool.shared());
            let Ok(Some(job)) = shared.injector.try_pop() else {
                panic!("both jobs are queued");
            };
            spawn(move || run(&shared, slot, job, Ok))
        });
        block_on(pool.wait_idle());
        assert!(handles.iter().all(|handle| handle.is_finished()));
        for thread in threads {
            thread.join().expect("it does not panic");
        }
        drop(workers);
    });
}

#[test]
fn a_wait_for_returned_jobs_ends_while_another_job_runs() {
    explore(|| {
        let (pool, workers) = pool(2, &ManualTimer::new());
        let shared = Arc::clone(pool.shared());
        let [running, returned] = [7, 8].map(|n| pool.try_submit(n).expect("there is room"));
        let jobs = [0, 1].map(|_| match shared.injector.try_pop() {
            Ok(Some(job)) => job,
            _ => panic!("both jobs are queued"),
        });
        let [first, second] = jobs;
        let mut guard = JobGuard::new(Arc::clone(&shared), 0);
        guard.start(first, |_| false).expect("the pool is open");
        shared.begin_abort();
        let worker = spawn({
            let shared = Arc::clone(&shared);
            move || {
                let mut guard = JobGuard::new(shared, 1);
                assert_eq!(guard.start(second, |_| false), None);
            }
        });
        block_on(shared.wait_returned());
        assert!(returned.is_finished() && !running.is_finished());
        worker.join().expect("it does not panic");
        drop((guard, workers));
    });
}

#[test]
fn an_unhandled_failure_is_reported_once() {
    explore(|| {
        let (pool, workers) = pool(1, &ManualTimer::new());
        let reported = Arc::new(loom::sync::atomic::AtomicUsize::new(0));
        pool.on_unhandled({
            let reported = Arc::clone(&reported);
            move |failure| {
                assert_eq!(failure.error, JobError::Failed(7));
                reported.fetch_add(1, loom::sync::atomic::Ordering::SeqCst);
            }
        });
        let handle = pool.try_submit(7).expect("there is room");
        let shared = Arc::clone(pool.shared());
        let worker = spawn(move || {
            let Ok(Some(job)) = shared.injector.try_pop() else {
                return;
            };
            run(&shared, 0, job, Err);
        });
        handle.detach();
        worker.join().expect("it does not panic");
        assert_eq!(reported.load(loom::sync::atomic::Ordering::SeqCst), 1);
        drop(workers);
    });
}

#[test]
fn an_abort_and_a_worker_complete_a_job_once() {
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

// ---- jobs that pass between workers ----

/// Pops jobs until the injector is closed and empty.
fn take_all(injector: &Injector<Row>) -> Vec<u32> {
    let mut taken = Vec::new();
    while let Ok(job) = block_on(injector.pop()) {
        taken.push(job);
    }
    taken
}

fn hand_over(push: impl Fn(&Injector<Row>) + Send + Sync + 'static) {
    explore(move || {
        let injector = Arc::new(Injector::<Row>::new());
        let leaver = spawn({
            let injector = Arc::clone(&injector);
            move || block_on(poll_once(injector.pop())).and_then(Result::ok)
        });
        let stayer = spawn({
            let injector = Arc::clone(&injector);
            move || {
                // The leaver takes one of three jobs at most.
                let first = block_on(injector.pop()).expect("it is open");
                let second = block_on(injector.pop()).expect("it is open");
                [first, second]
            }
        });
        push(&injector);
        let mut taken: Vec<u32> = stayer.join().expect("it does not panic").into();
        taken.extend(leaver.join().expect("it does not panic"));
        injector.close();
        taken.extend(take_all(&injector));
        taken.sort_unstable();
        assert_eq!(taken, [1, 2, 3]);
    });
}

#[test]
fn no_job_of_a_batch_is_left_while_a_worker_sleeps() {
    hand_over(|injector| assert!(injector.push_many(1..4).is_ok()));
}

#[test]
fn no_batch_of_one_is_left_while_a_worker_sleeps() {
    hand_over(|injector| {
        for job in 1..=3 {
            injector.push_batch([job].into()).expect("it is open");
        }
    });
}

#[test]
fn no_job_that_comes_alone_is_left_while_a_worker_sleeps() {
    hand_over(|injector| {
        for job in 1..=3 {
            injector.push(job).expect("it is open");
        }
    });
}

/// One worker takes a batch of three jobs, starts the first, and calls `leave` with its local
/// queue; another waits for two jobs.
fn steal(leave: impl Fn(&Injector<Row>, Arc<LocalQueue<Row>>) + Copy + Send + Sync + 'static) {
    explore(move || {
        let injector = Arc::new(Injector::<Row>::new());
        let other = spawn({
            let injector = Arc::clone(&injector);
            move || [(); 2].map(|()| block_on(injector.pop()).expect("it is open"))
        });
        injector.push_batch([1, 2, 3].into()).expect("it is open");
        let local_queue = Arc::new(LocalQueue::default());
        // The other worker may take one or two first.
        if injector.take(Some(&local_queue)) == Ok(Taken::Batch) {
            let first = local_queue.lock().batch.as_mut().and_then(Row::pop_front);
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
fn a_job_in_a_local_queue_is_found_by_a_worker_that_sleeps() {
    // The local queue is never given back.
    steal(|_, _| ());
}

#[test]
fn a_job_that_is_given_back_is_found_by_a_worker_that_sleeps() {
    steal(|injector, local_queue| injector.give_back(&local_queue));
}

#[test]
fn no_job_overtakes_another_during_a_sweep() {
    explore(|| {
        let injector = Arc::new(Injector::<Row>::new());
        let worker = spawn({
            let injector = Arc::clone(&injector);
            move || [(); 2].map(|()| block_on(injector.pop()).expect("it is open"))
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
                let job = block_on(injector.pop()).expect("it is open");
                taken.lock().expect("no thread panics").push(job);
            })
        });
        assert!(injector.push_many(1..3).is_ok());
        assert!(injector.push_many(3..5).is_ok());
        for worker in workers {
            worker.join().expect("it does not panic");
        }
        let mut taken = taken.lock().expect("no thread panics").clone();
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
        injector.close();
        assert_eq!(take_all(&injector), [3, 4]);
    });
}

#[test]
fn a_slot_that_is_woken_is_polled() {
    explore(|| {
        let ready_list = Arc::new(ReadyList::default());
        let slot = SlotWaker::new(&ready_list, 0);
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
                ready_list.take(&mut list);
                while list.pop_front().is_some() {
                    slot.unlist();
                }
                if is_done.load(Ordering::SeqCst) {
                    return Poll::Ready(());
                }
                if ready_list.register(cx.waker()) {
                    return Poll::Pending;
                }
            }
        }));
        waking
            .into_iter()
            .for_each(|thread| thread.join().expect("it does not panic"));
        ready_list.deregister();
    });
}

// ---- the worker that drives the timer ----

/// Waits for a job and drives the timer, as a worker does, until it has run one job.
fn serve(shared: &SharedState, slot: usize) {
    let mut timer = TimerDriver::new(Arc::clone(shared), slot);
    let mut pop = pin!(shared.injector.pop());
    let job = block_on(async {
        loop {
            match pop_or_timer(pop.as_mut(), &mut timer).await {
                Some(Ok(job)) => break Some(job),
                Some(Err(_)) => break None,
                None => timer.pass(),
            }
        }
    });
    if let Some(job) = job {
        run(shared, slot, job, Ok);
    }
}

const DELAY: Duration = Duration::from_secs(1);

#[test]
fn the_timer_driver_is_woken_for_an_earlier_deadline() {
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
fn the_timer_is_driven_after_its_driver_is_dropped() {
    explore(|| {
        let clock = ManualTimer::new();
        let (pool, workers) = pool(2, &clock);
        let handle = pool
            .job(7)
            .delay(DELAY)
            .try_submit()
            .expect("there is room");
        let leaver = spawn({
            let shared = Arc::clone(pool.shared());
            move || {
                let mut timer = TimerDriver::new(shared, 1);
                block_on(poll_once(poll_fn(|cx| timer.poll(cx))));
            }
        });
        let stayer = spawn({
            let shared = Arc::clone(pool.shared());
            move || serve(&shared, 0)
        });
        leaver.join().expect("it does not panic");
        clock.advance(DELAY);
        assert_eq!(block_on(handle), Ok(7));
        stayer.join().expect("it does not panic");
        drop(workers);
    });
}
