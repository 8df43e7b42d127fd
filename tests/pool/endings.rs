//! Every wait of the library against every way in which a pool, or a part of it, can end. A cell of
//! the table says whether the ending ends the wait, and with what result, or why the wait goes on,
//! and with what result it ends later.
//!
//! A wait has to be woken by what ends it: it is polled only when its waker was called. So are the
//! workers.
//!
//! The waits of a [`TaskPool`](brigade::TaskPool) are those of the pool beneath it, and have no
//! rows.

use std::cell::RefCell;
use std::fmt::Debug;
use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use async_channel::Sender;
use brigade::rt::BoxFuture;
use brigade::{
    Builder, CollectError, Completion, Inputs, JobHandle, ManualTimer, Map, Pool, Source, Spawn,
};
use futures::Stream;
use futures::stream::FuturesUnordered;
use futures_lite::{StreamExt, future, stream};

use crate::harness::{Env, Gate, HOUR, Slots, everywhere, in_both_ways, secs};
use crate::steps::Steps;

/// Makes an enum and the array of all its variants, so that none can be missing there.
macro_rules! all {
    ($(#[$doc:meta])* enum $name:ident { $($(#[$of:meta])* $variant:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum $name { $($(#[$of])* $variant,)+ }

        impl $name {
            const ALL: [Self; [$(Self::$variant,)+].len()] = [$(Self::$variant,)+];
        }
    };
}

all! {
    /// What is waited for. Each slot is taken by a job that waits at the gate, unless it is said
    /// otherwise.
    enum Wait {
        /// `submit`; the queue is full.
        Submit,
        /// `reserve`; the queue is full.
        Reserve,
        /// `Job::submit`; the queue is full.
        JobSubmit,
        /// `Group::submit`; the queue is full.
        GroupSubmit,
        /// A map that has no job in the pool; the queue is full.
        MapRoom,
        /// A map that has jobs in the pool and wants to add more; the queue is full.
        MapMoreRoom,
        /// A map that has no job in the pool, whose source yields nothing; all slots are free.
        MapSource,
        /// A map with a job that runs, whose source yields nothing more.
        MapSourceAndResult,
        /// A map whose source may fail, and yields nothing; all slots are free.
        TryMapSource,
        /// A map with a deadline, whose source yields nothing; all slots are free.
        DeadlineMapSource,
        /// `for_each` of a map whose source yields nothing; all slots are free.
        ForEachSource,
        /// A map with a job that runs and no more inputs.
        MapResult,
        /// The same, in the order of the inputs.
        OrderedMapResult,
        /// A map with a job that is queued and no more inputs.
        QueuedMapResult,
        /// A map with a deadline, with a job that runs and no more inputs.
        DeadlineMapResult,
        /// `for_each` of a map with a job that runs.
        ForEachResult,
        /// `try_collect` of a map with a job that runs.
        TryCollectResult,
        /// `Group::next`; a job of the group runs.
        GroupNext,
        /// `Group::next`; a job of the group is queued.
        QueuedGroupNext,
        /// `Group::join`; a job of the group runs.
        GroupJoin,
        /// A handle of a job that runs.
        Handle,
        /// A handle of a job that is queued.
        QueuedHandle,
        /// A handle of a job with a delay that has not passed; all slots are free.
        DelayedHandle,
        /// A handle of a job in a pool that is paused; all slots are free.
        PausedHandle,
        /// `JobHandle::cancel` of a job that runs, before its worker is polled.
        Cancel,
        /// `wait_idle`.
        Idle,
        /// `drain`.
        Drain,
        /// `drain_within`, with a grace that does not pass.
        DrainWithin,
        /// `abort`, before a worker is polled.
        Abort,
        /// `wait_queued_below(1)`; two jobs are queued.
        QueuedBelow,
        /// `wait_running_below(1)`.
        RunningBelow,
        /// `Pool::batches`, with one item in a list of two.
        Batches,
    }
}

all! {
    /// What happens to the pool, or to a part of it.
    enum Ending {
        Close,
        Seal,
        /// `drain`, which is polled.
        Drain,
        /// `drain_within`, whose grace passes.
        DrainWithin,
        /// `abort`, which is polled.
        Abort,
        /// The workers are dropped, one after another, and what was woken is polled in between.
        DropLastWorker,
        /// The workers are dropped together, as an executor does when it is dropped.
        DropExecutor,
        /// The map or group of the wait is cancelled.
        CancelOwn,
        /// The last handle of the program, except those of the wait itself.
        DropLastHandle,
    }
}

/// What becomes of a wait.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// It ends, with this result.
    Ends(&'static str),
    /// It does not end, for this reason; with this result it ends once the jobs at the gate are let
    /// go, sources have ended and delays have passed.
    GoesOn(&'static str, &'static str),
    /// There is no such case, for this reason.
    Impossible(&'static str),
}

use Expected::{Ends, GoesOn, Impossible};

const CLOSED: Expected = Ends("Err(Closed(..))");
const DONE: Expected = Ends("done");
const HOLDS_POOL: &str = "the wait itself holds a handle of the pool";
const IS_ACCEPTED: &str = "what was accepted is done";
const NOT_A_PART: &str = "the wait belongs to no map or group";
const OWNED: &str = "the wait owns the map or group";

/// The table.
const fn expected(wait: Wait, ending: Ending) -> Expected {
    match wait {
        Wait::Submit | Wait::Reserve | Wait::JobSubmit => match ending {
            Ending::Close
            | Ending::Seal
            | Ending::Drain
            | Ending::DrainWithin
            | Ending::Abort
            | Ending::DropLastWorker
            | Ending::DropExecutor => CLOSED,
            Ending::CancelOwn => Impossible(NOT_A_PART),
            Ending::DropLastHandle => GoesOn(HOLDS_POOL, "Ok(())"),
        },
        Wait::GroupSubmit => match ending {
            Ending::Close
            | Ending::Seal
            | Ending::Drain
            | Ending::DrainWithin
            | Ending::Abort
            | Ending::DropLastWorker
            | Ending::DropExecutor
            | Ending::CancelOwn => CLOSED,
            Ending::DropLastHandle => GoesOn(HOLDS_POOL, "Ok(())"),
        },
        Wait::MapRoom => match ending {
            Ending::Close | Ending::Seal | Ending::Drain => GoesOn(IS_ACCEPTED, "[Ok(7)], Closed"),
            Ending::DrainWithin | Ending::Abort => Ends("[Err(Cancelled(Aborted))], Aborted"),
            Ending::DropLastWorker | Ending::DropExecutor => Ends("[Err(Abandoned)], Abandoned"),
            Ending::CancelOwn => Ends("[Err(Cancelled(Stream))], Cancelled"),
            Ending::DropLastHandle => GoesOn(HOLDS_POOL, "[Ok(7), Ok(8)], Complete"),
        },
        Wait::MapMoreRoom => match ending {
            Ending::Close | Ending::Seal | Ending::Drain => {
                GoesOn(IS_ACCEPTED, "[Ok(0), Ok(1), Ok(2)], Closed")
            }
            Ending::DrainWithin | Ending::Abort => Ends(
                "[Err(Cancelled(Aborted)), Err(Cancelled(Aborted)), Err(Cancelled(Aborted))], Aborted",
            ),
            Ending::DropLastWorker | Ending::DropExecutor => {
                Ends("[Err(Abandoned), Err(Abandoned), Err(Abandoned)], Abandoned")
            }
            Ending::CancelOwn => Ends(
                "[Err(Cancelled(Stream)), Err(Cancelled(Stream)), Err(Cancelled(Stream))], Cancelled",
            ),
            Ending::DropLastHandle => {
                GoesOn(HOLDS_POOL, "[Ok(0), Ok(1), Ok(2), Ok(3), Ok(4)], Complete")
            }
        },
        Wait::MapSource | Wait::TryMapSource | Wait::DeadlineMapSource => match ending {
            Ending::Close
            | Ending::Seal
            | Ending::Drain
            | Ending::DrainWithin
            | Ending::Abort
            | Ending::DropLastWorker
            | Ending::DropExecutor => Ends("[], Closed"),
            Ending::CancelOwn => Ends("[], Cancelled"),
            Ending::DropLastHandle => GoesOn(HOLDS_POOL, "[], Complete"),
        },
        Wait::ForEachSource => match ending {
            Ending::Close
            | Ending::Seal
            | Ending::Drain
            | Ending::DrainWithin
            | Ending::Abort
            | Ending::DropLastWorker
            | Ending::DropExecutor => Ends("[], Closed"),
            Ending::CancelOwn => Impossible(OWNED),
            Ending::DropLastHandle => GoesOn(HOLDS_POOL, "[], Complete"),
        },
        Wait::MapSourceAndResult => match ending {
            Ending::Close | Ending::Seal | Ending::Drain => GoesOn(IS_ACCEPTED, "[Ok(7)], Closed"),
            Ending::DrainWithin | Ending::Abort => Ends("[Err(Cancelled(Aborted))], Aborted"),
            Ending::DropLastWorker | Ending::DropExecutor => Ends("[Err(Abandoned)], Abandoned"),
            Ending::CancelOwn => Ends("[Err(Cancelled(Stream))], Cancelled"),
            Ending::DropLastHandle => GoesOn(HOLDS_POOL, "[Ok(7)], Complete"),
        },
        Wait::MapResult
        | Wait::OrderedMapResult
        | Wait::QueuedMapResult
        | Wait::DeadlineMapResult => match ending {
            Ending::Close | Ending::Seal | Ending::Drain => {
                GoesOn(IS_ACCEPTED, "[Ok(7)], Complete")
            }
            Ending::DrainWithin | Ending::Abort => Ends("[Err(Cancelled(Aborted))], Aborted"),
            Ending::DropLastWorker | Ending::DropExecutor => Ends("[Err(Abandoned)], Abandoned"),
            Ending::CancelOwn => Ends("[Err(Cancelled(Stream))], Cancelled"),
            Ending::DropLastHandle => GoesOn(HOLDS_POOL, "[Ok(7)], Complete"),
        },
        Wait::ForEachResult => match ending {
            Ending::Close | Ending::Seal | Ending::Drain => {
                GoesOn(IS_ACCEPTED, "[Ok(7)], Complete")
            }
            Ending::DrainWithin | Ending::Abort => Ends("[Err(Cancelled(Aborted))], Aborted"),
            Ending::DropLastWorker | Ending::DropExecutor => Ends("[Err(Abandoned)], Abandoned"),
            Ending::CancelOwn => Impossible(OWNED),
            Ending::DropLastHandle => GoesOn(HOLDS_POOL, "[Ok(7)], Complete"),
        },
        Wait::TryCollectResult => match ending {
            Ending::Close | Ending::Seal | Ending::Drain => GoesOn(IS_ACCEPTED, "Ok([7])"),
            Ending::DrainWithin | Ending::Abort => Ends("Err(Cancelled(Aborted))"),
            Ending::DropLastWorker | Ending::DropExecutor => Ends("Err(Abandoned)"),
            Ending::CancelOwn => Impossible(OWNED),
            Ending::DropLastHandle => GoesOn(HOLDS_POOL, "Ok([7])"),
        },
        Wait::GroupNext | Wait::QueuedGroupNext => match ending {
            Ending::Close | Ending::Seal | Ending::Drain => GoesOn(IS_ACCEPTED, "Some(Ok(7))"),
            Ending::DrainWithin | Ending::Abort => Ends("Some(Err(Cancelled(Aborted)))"),
            Ending::DropLastWorker | Ending::DropExecutor => Ends("Some(Err(Abandoned))"),
            Ending::CancelOwn => Ends("Some(Err(Cancelled(Stream)))"),
            Ending::DropLastHandle => GoesOn(HOLDS_POOL, "Some(Ok(7))"),
        },
        Wait::GroupJoin => match ending {
            Ending::Close | Ending::Seal | Ending::Drain => GoesOn(IS_ACCEPTED, "[Ok(7)]"),
            Ending::DrainWithin | Ending::Abort => Ends("[Err(Cancelled(Aborted))]"),
            Ending::DropLastWorker | Ending::DropExecutor => Ends("[Err(Abandoned)]"),
            Ending::CancelOwn => Impossible(OWNED),
            Ending::DropLastHandle => GoesOn(HOLDS_POOL, "[Ok(7)]"),
        },
        Wait::Handle | Wait::QueuedHandle | Wait::DelayedHandle | Wait::PausedHandle => {
            match ending {
                Ending::Close | Ending::Seal | Ending::Drain | Ending::DropLastHandle => {
                    GoesOn(IS_ACCEPTED, "Ok(7)")
                }
                Ending::DrainWithin | Ending::Abort => Ends("Err(Cancelled(Aborted))"),
                Ending::DropLastWorker | Ending::DropExecutor => Ends("Err(Abandoned)"),
                Ending::CancelOwn => Impossible(NOT_A_PART),
            }
        }
        Wait::Cancel => match ending {
            Ending::Close
            | Ending::Seal
            | Ending::Drain
            | Ending::DrainWithin
            | Ending::Abort
            | Ending::DropLastWorker
            | Ending::DropExecutor
            | Ending::DropLastHandle => Ends("None"),
            Ending::CancelOwn => Impossible(NOT_A_PART),
        },
        Wait::Idle | Wait::Drain | Wait::DrainWithin | Wait::QueuedBelow | Wait::RunningBelow => {
            match ending {
                Ending::Close | Ending::Seal | Ending::Drain => GoesOn(IS_ACCEPTED, "done"),
                Ending::DrainWithin
                | Ending::Abort
                | Ending::DropLastWorker
                | Ending::DropExecutor => DONE,
                Ending::CancelOwn => Impossible(NOT_A_PART),
                Ending::DropLastHandle => GoesOn(HOLDS_POOL, "done"),
            }
        }
        Wait::Abort => match ending {
            Ending::Close
            | Ending::Seal
            | Ending::Drain
            | Ending::DrainWithin
            | Ending::Abort
            | Ending::DropLastWorker
            | Ending::DropExecutor
            | Ending::DropLastHandle => DONE,
            Ending::CancelOwn => Impossible(NOT_A_PART),
        },
        Wait::Batches => match ending {
            Ending::Close
            | Ending::Seal
            | Ending::Drain
            | Ending::DrainWithin
            | Ending::Abort
            | Ending::DropLastWorker
            | Ending::DropExecutor
            | Ending::DropLastHandle => {
                GoesOn("it takes no more from the pool than its timer", "Some([7])")
            }
            Ending::CancelOwn => Impossible(NOT_A_PART),
        },
    }
}

impl Wait {
    /// Whether the wait ends as soon as its worker is polled.
    const fn ends_with_next_poll_of_worker(self) -> bool {
        matches!(self, Self::Cancel | Self::Abort)
    }
}

/// The grace of an ending; those of waits are longer.
const GRACE: Duration = secs(60);
const LONG: Duration = HOUR;

/// How many jobs run at once.
const SLOTS: usize = 2;
const CAPACITY: usize = 2;

type Waiting = Pin<Box<dyn Future<Output = String>>>;

/// A pool, what a wait on it needs, and the means to end it.
struct Stage {
    pool: RefCell<Option<Pool<u32, u32, ()>>>,
    clock: ManualTimer,
    gate: Gate,
    /// Dropping one drops a worker.
    stops: RefCell<Vec<Sender<()>>>,
    /// Jobs that belong to no wait.
    others: RefCell<Vec<JobHandle<u32, u32, ()>>>,
    /// Sources end when these are dropped.
    sources: RefCell<Vec<Sender<u32>>>,
    /// Cancels the map or group of the wait.
    cancel: RefCell<Option<Box<dyn Fn()>>>,
}

impl Stage {
    fn new(
        builder: Builder<u32, ()>,
        clock: &ManualTimer,
        executor: &dyn Fn(BoxFuture<'static, ()>),
    ) -> Rc<Self> {
        let gate = Gate::new();
        let pass = gate.clone();
        let builder = builder.queue_capacity(CAPACITY).timer(clock.clone());
        let stops = RefCell::new(Vec::new());
        let spawn = |worker: BoxFuture<'static, ()>| {
            let (stop, stopped) = async_channel::bounded::<()>(1);
            stops.borrow_mut().push(stop);
            executor(Box::pin(future::or(worker, async move {
                _ = stopped.recv().await;
            })));
        };
        let pool = builder.spawn_on(&spawn, move |n: u32| {
            let gate = pass.clone();
            async move {
                gate.pass().await;
                Ok(n)
            }
        });
        Rc::new(Self {
            pool: RefCell::new(Some(pool)),
            clock: clock.clone(),
            gate,
            stops,
            others: RefCell::default(),
            sources: RefCell::default(),
            cancel: RefCell::default(),
        })
    }

    fn pool(&self) -> Pool<u32, u32, ()> {
        self.pool
            .borrow()
            .clone()
            .expect("it is there until it is dropped by an ending")
    }

    /// Submits so many jobs, which are started as far as there are slots.
    async fn submit_others(&self, count: usize) {
        for n in 0..count {
            let handle = self
                .pool()
                .submit(100 + n as u32)
                .await
                .expect("the pool is open");
            self.others.borrow_mut().push(handle);
        }
        self.gate.arrived(count.min(SLOTS)).await;
    }

    fn silent_source(&self) -> async_channel::Receiver<u32> {
        let (sender, receiver) = async_channel::unbounded();
        self.sources.borrow_mut().push(sender);
        receiver
    }

    /// Lets all jobs go and ends all sources.
    fn release(&self) {
        self.gate.open(100);
        self.sources.borrow_mut().clear();
    }

    /// Drops the workers, one after another.
    async fn drop_workers_in_turn(&self) {
        loop {
            let stop = self.stops.borrow_mut().pop();
            let Some(stop) = stop else { break };
            drop(stop);
            for _ in 0..8 {
                future::yield_now().await;
            }
        }
    }

    /// Brings the ending about.
    async fn end(&self, ending: Ending) {
        match ending {
            Ending::Close => self.pool().close(),
            Ending::Seal => self.pool().seal(),
            Ending::Drain => self.pool().drain().await,
            Ending::DrainWithin => {
                let pool = self.pool();
                let drain = async { drop(pool.drain_within(GRACE).await) };
                // The first poll of the drain is before the clock moves.
                future::zip(drain, async { self.clock.advance(GRACE) }).await;
            }
            Ending::Abort => drop(self.pool().abort().await),
            Ending::DropLastWorker => self.drop_workers_in_turn().await,
            Ending::DropExecutor => self.stops.borrow_mut().clear(),
            Ending::CancelOwn => (self
                .cancel
                .borrow()
                .as_ref()
                .expect("the wait belongs to something"))(),
            Ending::DropLastHandle => drop(self.pool.borrow_mut().take()),
        }
    }

    /// Reads a map to its end.
    fn read<S>(&self, map: Map<u32, u32, (), S>) -> Waiting
    where
        S: Source<u32, u32, ()> + 'static,
        S::Item: Outcome,
    {
        let map = Rc::new(RefCell::new(map));
        let own = Rc::clone(&map);
        *self.cancel.borrow_mut() = Some(Box::new(move || own.borrow_mut().cancel()));
        Box::pin(async move {
            let mut results = Vec::new();
            while let Some(item) =
                future::poll_fn(|cx| Pin::new(&mut *map.borrow_mut()).poll_next(cx)).await
            {
                results.push(item.outcome());
            }
            results.sort();
            format!("[{}], {:?}", results.join(", "), map.borrow().summary().end)
        })
    }

    /// Makes the wait, after all that it waits for is in its place.
    async fn prepare(&self, wait: Wait) -> Waiting {
        let pool = self.pool();
        match wait {
            Wait::Submit => {
                self.submit_others(SLOTS + CAPACITY).await;
                Box::pin(async move {
                    format!("{:?}", pool.submit(7).await.map(|handle| handle.detach()))
                })
            }
            Wait::Reserve => {
                self.submit_others(SLOTS + CAPACITY).await;
                Box::pin(async move { format!("{:?}", pool.reserve().await.map(drop)) })
            }
            Wait::JobSubmit => {
                self.submit_others(SLOTS + CAPACITY).await;
                Box::pin(async move {
                    format!(
                        "{:?}",
                        pool.job(7).submit().await.map(|handle| handle.detach())
                    )
                })
            }
            Wait::GroupSubmit => {
                self.submit_others(SLOTS + CAPACITY).await;
                let group = Rc::new(pool.group());
                let own = Rc::clone(&group);
                *self.cancel.borrow_mut() = Some(Box::new(move || own.cancel()));
                Box::pin(async move { format!("{:?}", group.submit(7).await) })
            }
            Wait::MapRoom => {
                self.submit_others(SLOTS + CAPACITY).await;
                // The first input is queued beyond the capacity.
                self.read(pool.map([7, 8]))
            }
            Wait::MapMoreRoom => {
                self.submit_others(1).await;
                let mut map = pool.map(0..5);
                while pool.stats().running < SLOTS || pool.stats().queued < CAPACITY {
                    assert!(
                        future::poll_once(map.next()).await.is_none(),
                        "no job has ended"
                    );
                    future::yield_now().await;
                }
                self.read(map)
            }
            Wait::MapSource => self.read(pool.map_stream(self.silent_source())),
            Wait::TryMapSource => {
                self.read(pool.try_map_stream(self.silent_source().map(Ok::<_, ()>)))
            }
            Wait::DeadlineMapSource => {
                self.read(pool.map_stream(self.silent_source()).deadline(2 * LONG))
            }
            Wait::ForEachSource => for_each(pool.map_stream(self.silent_source())),
            Wait::MapSourceAndResult => {
                let mut map = pool.map_stream(stream::once(7).chain(self.silent_source()));
                assert!(
                    future::poll_once(map.next()).await.is_none(),
                    "no job has ended"
                );
                self.gate.arrived(1).await;
                self.read(map)
            }
            Wait::MapResult => self.read_running(pool.map([7])).await,
            Wait::OrderedMapResult => self.read_running(pool.map([7]).ordered()).await,
            Wait::DeadlineMapResult => self.read_running(pool.map([7]).deadline(2 * LONG)).await,
            Wait::QueuedMapResult => {
                self.submit_others(SLOTS).await;
                let mut map = pool.map([7]);
                assert!(
                    future::poll_once(map.next()).await.is_none(),
                    "no job has ended"
                );
                self.read(map)
            }
            Wait::ForEachResult => {
                let mut map = for_each(pool.map([7]));
                assert!(
                    future::poll_once(&mut map).await.is_none(),
                    "no job has ended"
                );
                self.gate.arrived(1).await;
                map
            }
            Wait::TryCollectResult => {
                let collect = pool.map([7]).try_collect::<Vec<_>>();
                let mut collect = Box::pin(async move {
                    match collect.await {
                        Ok(values) => format!("Ok({values:?})"),
                        Err(CollectError::Job { error, .. }) => format!("Err({error:?})"),
                        Err(error) => format!("{error:?}"),
                    }
                });
                assert!(
                    future::poll_once(&mut collect).await.is_none(),
                    "no job has ended"
                );
                self.gate.arrived(1).await;
                collect
            }
            Wait::GroupNext | Wait::QueuedGroupNext => {
                self.submit_others(if wait == Wait::GroupNext { 1 } else { SLOTS })
                    .await;
                let group = pool.group();
                group.try_submit(7).expect("there is room");
                if wait == Wait::GroupNext {
                    self.gate.arrived(1).await;
                }
                let group = Rc::new(RefCell::new(group));
                let own = Rc::clone(&group);
                *self.cancel.borrow_mut() = Some(Box::new(move || own.borrow().cancel()));
                Box::pin(async move {
                    let next =
                        future::poll_fn(|cx| Pin::new(&mut *group.borrow_mut()).poll_next(cx))
                            .await;
                    format!("{:?}", next.map(|completion| completion.result))
                })
            }
            Wait::GroupJoin => {
                let group = pool.group();
                group.try_submit(7).expect("there is room");
                self.gate.arrived(1).await;
                Box::pin(async move {
                    let completions = group.join().await;
                    format!(
                        "{:?}",
                        completions
                            .into_iter()
                            .map(|completion| completion.result)
                            .collect::<Vec<_>>()
                    )
                })
            }
            Wait::Handle => {
                let handle = pool.try_submit(7).expect("there is room");
                self.gate.arrived(1).await;
                awaited(handle)
            }
            Wait::QueuedHandle => {
                self.submit_others(SLOTS).await;
                awaited(pool.try_submit(7).expect("there is room"))
            }
            Wait::DelayedHandle => {
                awaited(pool.job(7).delay(LONG).try_submit().expect("there is room"))
            }
            Wait::PausedHandle => {
                pool.pause();
                awaited(pool.try_submit(7).expect("there is room"))
            }
            Wait::Cancel => {
                let handle = pool.try_submit(7).expect("there is room");
                self.gate.arrived(1).await;
                awaited(async move { handle.cancel().await })
            }
            Wait::Idle => {
                self.submit_others(SLOTS).await;
                done(async move { pool.wait_idle().await })
            }
            Wait::Drain => {
                self.submit_others(SLOTS).await;
                done(async move { pool.drain().await })
            }
            Wait::DrainWithin => {
                self.submit_others(SLOTS).await;
                done(async move { drop(pool.drain_within(LONG).await) })
            }
            Wait::Abort => {
                self.submit_others(SLOTS).await;
                done(async move { drop(pool.abort().await) })
            }
            Wait::QueuedBelow => {
                self.submit_others(SLOTS + CAPACITY).await;
                done(async move { pool.wait_queued_below(1).await })
            }
            Wait::RunningBelow => {
                self.submit_others(SLOTS).await;
                done(async move { pool.wait_running_below(1).await })
            }
            Wait::Batches => {
                let mut batches =
                    pool.batches(stream::once(7).chain(self.silent_source()), 2, LONG);
                Box::pin(async move { format!("{:?}", batches.next().await) })
            }
        }
    }

    /// Reads a map whose only job runs.
    async fn read_running<S>(&self, mut map: Map<u32, u32, (), S>) -> Waiting
    where
        S: Source<u32, u32, ()> + 'static,
        S::Item: Outcome,
    {
        assert!(
            future::poll_once(map.next()).await.is_none(),
            "no job has ended"
        );
        self.gate.arrived(1).await;
        self.read(map)
    }
}

/// An item of a map, as the table writes it.
trait Outcome {
    fn outcome(self) -> String;
}

impl Outcome for Completion<u32, u32, ()> {
    fn outcome(self) -> String {
        format!("{:?}", self.result)
    }
}

impl Outcome for Result<Completion<u32, u32, ()>, ()> {
    fn outcome(self) -> String {
        self.map_or_else(|()| "the source failed".to_owned(), Outcome::outcome)
    }
}

fn for_each<S: Stream<Item = u32> + 'static>(map: Map<u32, u32, (), Inputs<S>>) -> Waiting {
    Box::pin(async move {
        let mut results = Vec::new();
        let summary = map
            .for_each(|completion| results.push(completion.outcome()))
            .await;
        format!("[{}], {:?}", results.join(", "), summary.end)
    })
}

fn awaited<T: Debug>(future: impl Future<Output = T> + 'static) -> Waiting {
    Box::pin(async move { format!("{:?}", future.await) })
}

fn done(future: impl Future<Output = ()> + 'static) -> Waiting {
    Box::pin(async move {
        future.await;
        "done".to_owned()
    })
}

/// Whether the ending is that the task which reads a map cancels it. `Map::cancel` takes the map by
/// a unique reference, so it need not wake the task, which polls the map next.
const fn is_cancelled_by_reader(wait: Wait, ending: Ending) -> bool {
    matches!(ending, Ending::CancelOwn)
        && !matches!(
            wait,
            Wait::GroupSubmit | Wait::GroupNext | Wait::QueuedGroupNext | Wait::GroupJoin
        )
}

/// How many polls of tasks an ending may cause.
const STEPS: usize = 1000;
/// How many of them may be those of the wait.
const POLLS: usize = 8;

/// Polls what was woken until nothing is.
fn settle(steps: &mut Steps) -> Result<(), String> {
    let taken = (0..STEPS).take_while(|_| steps.step().is_some()).count();
    if taken < STEPS {
        Ok(())
    } else {
        Err("tasks wake each other without end".to_owned())
    }
}

/// Runs one cell step by step.
fn run_by_steps(slots: Slots, wait: Wait, ending: Ending) -> Result<(), String> {
    let cell = expected(wait, ending);
    if matches!(cell, Impossible(_)) {
        return Ok(());
    }
    let (clock, mut steps) = (ManualTimer::new(), Steps::default());
    let workers = RefCell::new(Vec::new());
    let builder = slots.at_once(Pool::builder(), SLOTS);
    let stage = Stage::new(builder, &clock, &|worker| workers.borrow_mut().push(worker));
    for worker in workers.into_inner() {
        steps.add("worker", worker);
    }
    let prepared: Rc<RefCell<Option<Waiting>>> = Rc::default();
    let (place, own) = (Rc::clone(&prepared), Rc::clone(&stage));
    steps.add("preparation", async move {
        let waiting = own.prepare(wait).await;
        *place.borrow_mut() = Some(waiting);
    });
    settle(&mut steps)?;
    let waiting = prepared.borrow_mut().take().ok_or("it is not prepared")?;
    let told: Rc<RefCell<Option<String>>> = Rc::default();
    let place = Rc::clone(&told);
    let at = steps.add("wait", async move {
        let result = waiting.await;
        *place.borrow_mut() = Some(result);
    });
    steps.poll(at);
    if !wait.ends_with_next_poll_of_worker() {
        settle(&mut steps)?;
    }
    if let Some(result) = told.borrow().as_ref() {
        return Err(format!("it does not wait, and ends with {result}"));
    }
    let before = steps.polls(at);
    let own = Rc::clone(&stage);
    let ends = steps.add("ending", async move { own.end(ending).await });
    steps.poll(ends);
    if is_cancelled_by_reader(wait, ending) {
        steps.poll(at);
    }
    settle(&mut steps)?;
    let polls = steps.polls(at) - before;
    let result = told.borrow().clone();
    match (cell, &result) {
        (Ends(expected), Some(result)) if expected == result && polls <= POLLS => {}
        (Ends(expected), Some(result)) => {
            return Err(format!("{result}, after {polls} polls, not {expected}"));
        }
        (Ends(expected), None) => {
            return Err(format!("it goes on, though it has to end with {expected}"));
        }
        (GoesOn(because, _), Some(result)) => {
            return Err(format!("it ends with {result}, though {because}"));
        }
        (GoesOn(..), None) | (Impossible(_), _) => {}
    }
    stage.release();
    settle(&mut steps)?;
    if wait == Wait::DelayedHandle {
        clock.advance(LONG);
        settle(&mut steps)?;
    }
    let result = told.borrow().clone();
    match (cell, &result) {
        (GoesOn(_, then), Some(result)) if then != result => {
            return Err(format!("it ends later: {result}, not {then}"));
        }
        (GoesOn(_, then), None) => return Err(format!("it does not end later, with {then}")),
        _ => {}
    }
    if steps.is_waiting(ends) {
        return Err("the ending itself does not end".to_owned());
    }
    // What is left of the pool ends with its last handle.
    drop((stage.cancel.take(), stage.pool.take()));
    settle(&mut steps)?;
    let left = steps.waiting().map(|(_, name)| name).collect::<Vec<_>>();
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("tasks are left: {left:?}"))
    }
}

/// Prints the name of a cell that hangs, before the watchdog of the harness ends the process.
/// Dropping the guard prevents it.
fn name_if_it_hangs(what: String) -> std::sync::mpsc::Sender<()> {
    let (guard, dropped) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        if dropped.recv_timeout(secs(20)) == Err(RecvTimeoutError::Timeout) {
            // Not by the macro, whose text the test's output keeps back and loses here.
            let _ = writeln!(std::io::stderr(), "{what} hangs");
        }
    });
    guard
}

/// Runs one cell on a real executor.
async fn run_on(env: &Env, wait: Wait, ending: Ending) {
    let (then, ends_at_once) = match expected(wait, ending) {
        Ends(result) => (result, true),
        GoesOn(_, then) => (then, false),
        Impossible(why) => {
            return assert!(!why.is_empty(), "a case that there is not has a reason");
        }
    };
    let what = format!("{wait:?} × {ending:?}, {}", env.name);
    let _named = name_if_it_hangs(what.clone());
    let clock = ManualTimer::new();
    let stage = Stage::new(env.at_once(SLOTS), &clock, &|worker| env.spawn(worker));
    // It polls what is in it only after that was woken.
    let mut waiting: FuturesUnordered<_> = [stage.prepare(wait).await].into_iter().collect();
    let first = future::poll_once(waiting.next()).await.flatten();
    assert!(
        first.is_none() || wait.ends_with_next_poll_of_worker(),
        "it does not wait: {what}"
    );
    let rest = async {
        if !ends_at_once {
            stage.release();
            if wait == Wait::DelayedHandle {
                clock.advance(LONG);
            }
        }
        if is_cancelled_by_reader(wait, ending) {
            waiting = std::mem::take(&mut waiting).into_iter().collect();
        }
        let result = match first {
            Some(result) => Some(result),
            None => waiting.next().await,
        };
        // The ending may wait for the jobs.
        stage.release();
        result
    };
    let ((), result) = future::zip(stage.end(ending), rest).await;
    assert_eq!(result.as_deref(), Some(then), "{what}");
}

#[test]
fn every_ending_ends_the_waits_that_it_has_to_end_and_no_others() {
    let broken = RefCell::new(Vec::new());
    in_both_ways(|slots| {
        for (wait, ending) in cells() {
            if let Err(what) = run_by_steps(slots, wait, ending) {
                broken
                    .borrow_mut()
                    .push(format!("{wait:?} × {ending:?}, {slots}: {what}"));
            }
        }
    });
    let broken = broken.into_inner();
    // On an executor that sleeps until it is woken, most of these would hang.
    assert!(
        broken.is_empty(),
        "{} cells do not hold:\n{}",
        broken.len(),
        broken.join("\n")
    );
    everywhere(|env| async move {
        for (wait, ending) in cells() {
            run_on(&env, wait, ending).await;
        }
    });
}

fn cells() -> impl Iterator<Item = (Wait, Ending)> {
    Wait::ALL
        .into_iter()
        .flat_map(|wait| Ending::ALL.into_iter().map(move |ending| (wait, ending)))
}
