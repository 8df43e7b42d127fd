//! Auto traits of public types: `Send`, `Sync` and `Unpin` where their parts have them.

use std::cell::Cell;
use std::marker::PhantomPinned;

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
