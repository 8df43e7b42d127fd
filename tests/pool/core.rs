//! The core of the promise: every job runs, at most so many at once, and what makes no sense is
//! refused where it is said.

use std::cell::Cell;
use std::marker::PhantomPinned;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brigade::handler::{Plain, WithState, WithSubmitter};
use brigade::rt::{ManualSleep, SleepersReached};
use brigade::{
    Batches, Builder, CancelReason, Cancelling, CollectError, Completion, End, Event, Group,
    Inputs, Interrupted, Jitter, Job, JobError, JobHandle, JobId, Key, ManualTimer, Map, Next,
    OnError, Outcome, PanicMessage, Permit, Pool, Pulled, RateLimit, Report, Retry,
    RetryAfterScope, RetryBudget, RetryDecision, Retrying, RunningJob, Stats, SubmitError,
    Submitter, Summary, TaskHandle, TaskPool, TimeLimit, TryInputs, Unhandled, Unstarted, Worker,
    Workers,
};
use futures_lite::stream;

use crate::harness::{Live, assert_settled, block_on, everywhere, everywhere_once, poll_once};

#[test]
fn all_jobs_of_many_full_rounds_run() {
    everywhere(|env| async move {
        let (live, clock) = (Live::default(), env.clock.clone());
        let alive = live.clone();
        let pool = env.at_once(100).spawn_on(&env, move |n: usize| {
            let (live, clock) = (alive.clone(), clock.clone());
            async move {
                let _guard = live.enter();
                clock.sleep(Duration::from_millis(1)).await;
                Ok::<_, ()>(n)
            }
        });
        let handles: Vec<_> = (0..1000).map(|n| pool.try_submit(n).unwrap()).collect();
        pool.close();
        for _ in 0..10 {
            env.clock.sleepers(100).await;
            env.clock.advance(Duration::from_millis(1));
        }
        pool.drain().await;
        let mut done = Vec::new();
        for handle in handles {
            done.push(handle.await);
        }
        assert_eq!(done, (0..1000).map(Ok).collect::<Vec<_>>());
        assert_eq!((live.most(), live.now()), (100, 0));
        assert_eq!(assert_settled(&pool).succeeded, 1000);
    });
}

#[test]
fn one_worker_runs_jobs_one_after_another_in_the_order_of_submission() {
    everywhere_once(|env| async move {
        let spans = Arc::new(Mutex::new(Vec::new()));
        let (log, clock) = (Arc::clone(&spans), env.clock.clone());
        let pool = env.builder().workers(1).spawn_on(&env, move |millis: u64| {
            let (log, clock) = (Arc::clone(&log), clock.clone());
            async move {
                let start = clock.elapsed();
                clock.sleep(Duration::from_millis(millis)).await;
                log.lock()
                    .unwrap()
                    .push((millis, start.as_millis(), clock.elapsed().as_millis()));
                Ok::<_, ()>(())
            }
        });
        let handles = [300, 100, 200].map(|millis| pool.try_submit(millis).unwrap());
        for handle in handles {
            env.clock.sleepers(1).await;
            assert!(env.clock.advance_to_next());
            assert_eq!(handle.await, Ok(()));
        }
        assert_eq!(
            *spans.lock().unwrap(),
            [(300, 0, 300), (100, 300, 400), (200, 400, 600)]
        );
        assert_settled(&pool);
    });
}

#[test]
fn numbers_that_make_no_sense_are_refused_where_they_are_set() {
    fn message(misuse: impl FnOnce()) -> String {
        let payload =
            catch_unwind(AssertUnwindSafe(misuse)).expect_err("the number makes no sense");
        payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .expect("the message is text")
    }
    let (pool, _workers) = Pool::builder()
        .timer(ManualTimer::new())
        .build(|n: u32| async move { Ok::<_, ()>(n) });
    let messages = [
        message(|| drop(Pool::builder::<(), ()>().workers(0))),
        message(|| drop(Pool::builder::<(), ()>().queue_capacity(0))),
        message(|| drop(Pool::builder::<(), ()>().attempt_timeout(Duration::ZERO))),
        message(|| drop(Pool::builder::<(), ()>().job_timeout(Duration::ZERO))),
        message(|| pool.set_attempt_timeout(Some(Duration::ZERO))),
        message(|| drop(pool.job(1).timeout(Duration::ZERO))),
        message(|| drop(pool.job(1).attempt_timeout(Duration::ZERO))),
        message(|| drop(pool.map([1]).window(0))),
        message(|| drop(pool.group().window(0))),
        message(|| drop(pool.batches(stream::iter([1]), 0, Duration::ZERO))),
    ];
    let expected = [
        "workers must be at least 1, got 0",
        "queue_capacity must be at least 1, got 0",
        "attempt_timeout must be longer than 0, got 0ns",
        "job_timeout must be longer than 0, got 0ns",
        "attempt_timeout must be longer than 0, got 0ns",
        "timeout must be longer than 0, got 0ns",
        "attempt_timeout must be longer than 0, got 0ns",
        "window must be at least 1, got 0",
        "window must be at least 1, got 0",
        "max must be at least 1, got 0",
    ];
    assert_eq!(messages, expected);
    // A refusal leaves the pool as it was.
    assert_eq!(
        block_on(_workers.drive(pool.map([7]).try_collect::<Vec<_>>())),
        Ok(vec![7])
    );
    assert_eq!(assert_settled(&pool).accepted, 1);
}

#[test]
fn no_jobs_at_all_are_done_at_once() {
    everywhere(|env| async move {
        let pool = env
            .at_once(2)
            .spawn_on(&env, |n: u32| async move { Ok::<_, ()>(n) });
        let mut map = pool.map([]);
        {
            let mut next = std::pin::pin!(map.next());
            assert_eq!(poll_once(next.as_mut()), Some(None));
        }
        assert!(map.summary().is_complete());
        assert_eq!(map.summary(), map_of_nothing());
        let mut collected = std::pin::pin!(pool.map([]).try_collect::<Vec<_>>());
        assert_eq!(
            poll_once(collected.as_mut()),
            Some(Ok::<_, CollectError<u32, ()>>(Vec::new()))
        );
        let mut joined = std::pin::pin!(pool.group().join());
        assert_eq!(poll_once(joined.as_mut()), Some(Vec::new()));
        assert_eq!(poll_once(std::pin::pin!(pool.wait_idle())), Some(()));
        assert_eq!(poll_once(std::pin::pin!(pool.drain())), Some(()));
        assert_eq!(assert_settled(&pool).accepted, 0);
    });
}

fn map_of_nothing() -> Summary {
    let mut summary = Summary::default();
    summary.end = End::Complete;
    summary
}

// ---- what the compiler promises ----

struct HttpError;

struct Request(
    #[expect(dead_code, reason = "it makes the type neither `Sync` nor `Unpin`")] Cell<u8>,
    PhantomPinned,
);

struct Page(
    #[expect(dead_code, reason = "it makes the type neither `Sync` nor `Unpin`")] Cell<u8>,
    PhantomPinned,
);

struct Service {
    pool: Pool<Request, Page, HttpError>,
}

const fn is_send_and_unpin<T: Send + Unpin>() {}
const fn is_send_sync_and_unpin<T: Send + Sync + Unpin>() {}
const fn is_send_sync_clone_and_unpin<T: Send + Sync + Clone + Unpin>() {}

#[test]
fn handles_of_a_pool_go_wherever_their_values_may_go() {
    is_send_sync_clone_and_unpin::<Pool<Request, Page, HttpError>>();
    is_send_and_unpin::<JobHandle<Request, Page, HttpError>>();
    is_send_and_unpin::<Group<Request, Page, HttpError>>();
    fn map_is_send_and_unpin<In: Send, T: Send, E: Send, S: Send + Unpin>(_: &Map<In, T, E, S>) {
        is_send_and_unpin::<Map<In, T, E, S>>();
    }
    let (pool, _workers) = Pool::builder()
        .timer(ManualTimer::new())
        .build(|_: Request| async { Ok::<_, HttpError>(Page(Cell::new(0), PhantomPinned)) });
    let service = Service { pool };
    map_is_send_and_unpin(&service.pool.map([]));
    map_is_send_and_unpin(&service.pool.map_stream(stream::pending()));
    map_is_send_and_unpin(&service.pool.try_map([Err(HttpError)]));
}

#[test]
fn public_types_are_send_and_sync_where_their_parts_are() {
    fn of<
        In: Send + Sync,
        T: Send + Sync,
        E: Send + Sync,
        S: Send + Sync + Unpin,
        C: Send + Sync + Unpin,
    >() {
        // One job.
        is_send_sync_clone_and_unpin::<Pool<In, T, E>>();
        is_send_sync_clone_and_unpin::<Builder<In, E>>();
        is_send_sync_and_unpin::<Permit<In, T, E>>();
        is_send_sync_and_unpin::<JobHandle<In, T, E>>();
        is_send_sync_and_unpin::<Cancelling<In, T, E>>();
        is_send_sync_and_unpin::<Submitter<In, T, E>>();
        is_send_sync::<Job<'_, In, T, E>>();
        // Many jobs.
        is_send_sync_and_unpin::<Map<In, T, E, Inputs<S>>>();
        is_send_sync_and_unpin::<Map<In, T, E, TryInputs<S, E>>>();
        is_send_sync_and_unpin::<Next<'_, In, T, E, Inputs<S>>>();
        is_send_sync_and_unpin::<Group<In, T, E>>();
        is_send_sync::<Completion<In, T, E>>();
        is_send_sync::<CollectError<In, E>>();
        is_send_sync::<SubmitError<In>>();
        is_send_sync::<JobError<E>>();
        is_send_sync::<Unhandled<E>>();
        is_send_sync::<Report<In>>();
        is_send_sync::<Pulled<In>>();
        // Workers, of each kind of handler.
        is_send_sync_and_unpin::<Workers<In, T, E, Plain<C>>>();
        is_send_sync_and_unpin::<Workers<In, T, E, WithSubmitter<C, T, E>>>();
        is_send_sync_and_unpin::<Workers<In, T, E, WithState<C, C, C>>>();
        is_send_sync_and_unpin::<Worker<In, T, E, Plain<C>>>();
        // Tasks and policies.
        is_send_sync_clone_and_unpin::<TaskPool>();
        is_send_sync_and_unpin::<TaskHandle<T>>();
        is_send_sync_clone_and_unpin::<Retry<E>>();
        is_send_sync::<Retrying<'_, E>>();
    }
    const fn is_send_sync<T: Send + Sync>() {}
    of::<u32, u32, u32, stream::Empty<u32>, u32>();
    is_send_sync_and_unpin::<Batches<stream::Empty<u32>>>();
    is_send_sync_clone_and_unpin::<ManualTimer>();
    is_send_sync_and_unpin::<ManualSleep>();
    is_send_sync_and_unpin::<SleepersReached>();
    is_send_sync_clone_and_unpin::<(CancelReason, End, Event, Interrupted, Jitter, JobId, Key)>();
    is_send_sync_clone_and_unpin::<(
        OnError,
        Outcome,
        PanicMessage,
        RateLimit,
        RetryAfterScope,
        RetryBudget,
    )>();
    is_send_sync_clone_and_unpin::<(
        RetryDecision,
        RunningJob,
        Stats,
        Summary,
        TimeLimit,
        Unstarted<u32>,
    )>();
}
