//! The clients of a round: what each of them does to the pool, one action after another, and what
//! it checks of the answers.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::ops::ControlFlow::{Break, Continue};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use brigade::{
    CancelReason, Completion, End, Group, JobError, KeyLimits, Map, RateLimit, Source, SubmitError,
};
use fastrand::Rng;
use futures::Stream;
use futures_lite::{StreamExt, future, stream};

use crate::jobs::{Counts, Failure, Handle, Input, JobPool, Work};
use crate::round::{Config, Ending, Round};

macro_rules! actions {
    ($($action:ident,)+) => {
        /// What a client does in one go.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Action { $($action,)+ }

        impl Action {
            pub(crate) const ALL: &[Self] = &[$(Self::$action,)+];
        }
    };
}

actions! {
    SubmitAwait,
    SubmitCancel,
    SubmitDrop,
    SubmitDetach,
    SubmitKeep,
    SubmitAbandoned,
    TrySubmit,
    ReserveDrop,
    ReserveSubmit,
    JobWithOptions,
    MapAll,
    MapOrdered,
    MapDropped,
    MapCancelled,
    MapDeadline,
    MapOfMaps,
    MapSilent,
    GroupJoin,
    GroupCancelled,
    GroupDropped,
    GroupCancelledWhilePaused,
    Idle,
    IdleAfterSubmissions,
    QueuedBelow,
    RunningBelow,
    PauseResume,
    SetWorkers,
    SetRate,
    SetPriority,
    Look,
    DropWorker,
}

impl Action {
    /// Whether rounds of this kind have it.
    const fn is_for(self, config: &Config) -> bool {
        match self {
            // These need a schedule, or switch it on for the rest of the round.
            Self::GroupCancelledWhilePaused
            | Self::PauseResume
            | Self::SetWorkers
            | Self::SetRate
            | Self::SetPriority => config.policies.has_controls,
            // Ends with the pool only, or takes workers from it.
            Self::MapSilent | Self::DropWorker => config.ends_midway,
            _ => true,
        }
    }
}

/// Actions that the environment excludes from mixed rounds.
static LEFT_OUT: LazyLock<Vec<String>> = LazyLock::new(|| {
    let names = std::env::var("BRIGADE_STRESS_WITHOUT").unwrap_or_default();
    names.split(',').map(str::to_owned).collect()
});

/// What a client draws its actions from.
#[derive(Debug, Clone)]
pub(crate) struct Mix(Vec<Action>);

impl Mix {
    pub(crate) fn only(action: Action) -> Self {
        Self(vec![action])
    }

    pub(crate) fn of(actions: &[Action]) -> Self {
        Self(actions.to_vec())
    }

    /// One action again and again, a few, or any.
    pub(crate) fn draw(rng: &mut Rng, config: &Config) -> Self {
        let is_left_out = |action: &Action| LEFT_OUT.contains(&format!("{action:?}"));
        let is_possible = |action: &Action| action.is_for(config) && !is_left_out(action);
        let all = Action::ALL
            .iter()
            .copied()
            .filter(is_possible)
            .collect::<Vec<_>>();
        match rng.u8(..3) {
            0 => Self(vec![*rng.choice(&all).expect("there are some")]),
            1 => Self((0..3).filter_map(|_| rng.choice(&all).copied()).collect()),
            _ => Self(all),
        }
    }
}

/// `Break` means that the client is to stop: the pool takes no more jobs.
type Flow<T = ()> = ControlFlow<(), T>;
type Done = Completion<Input, u64, Failure>;
type Jobs = Group<Input, u64, Failure>;

/// A job that was submitted.
struct Submitted {
    number: u64,
    work: Work,
    handle: Handle,
}

pub(crate) struct Client {
    round: Arc<Round>,
    counts: Arc<Counts>,
    pool: JobPool,
    rng: Rng,
    number: usize,
    kept: Vec<Submitted>,
}

/// How many handles a client keeps at most.
const KEPT: usize = 8;

impl Client {
    pub(crate) fn new(round: &Arc<Round>, pool: JobPool, rng: Rng, number: usize) -> Self {
        Self {
            round: Arc::clone(round),
            counts: Arc::clone(&round.counts),
            pool,
            rng,
            number,
            kept: Vec::new(),
        }
    }

    /// Makes all actions, and drops what is kept.
    pub(crate) async fn run(mut self) {
        let config = &self.round.config;
        let (actions, ends_midway, ending) = (config.actions, config.ends_midway, config.ending);
        let end_at = (self.number == 0 && ends_midway).then(|| self.rng.usize(..actions));
        for at in 0..actions {
            if end_at == Some(at) {
                self.end(ending).await;
            }
            let mix = &self.round.config.mixes[self.number].0;
            let action = *self.rng.choice(mix).expect("a mix is not empty");
            // The client that is to end the pool does not wait for its end before.
            let action = if end_at.is_some() && action == Action::MapSilent {
                Action::Look
            } else {
                action
            };
            self.round.set_doing(self.number, action);
            if Box::pin(self.act(action)).await.is_break() {
                break;
            }
            self.counts.step();
        }
        if end_at.is_some() && !self.round.has_ended() {
            self.end(ending).await;
        }
        drop(self.kept.drain(..));
    }

    async fn act(&mut self, action: Action) -> Flow {
        match action {
            Action::SubmitAwait => self.submit_await().await,
            Action::SubmitCancel => self.submit_cancel().await,
            Action::SubmitDrop => {
                let work = self.any_work();
                drop(self.submit(work).await?);
                Continue(())
            }
            Action::SubmitDetach => {
                let work = self.work();
                if let Some(submitted) = self.submit(work).await? {
                    submitted.handle.detach();
                }
                Continue(())
            }
            Action::SubmitKeep => self.submit_keep().await,
            Action::SubmitAbandoned => self.submit_abandoned().await,
            Action::TrySubmit => self.try_submit().await,
            Action::ReserveDrop => match self.pool.reserve().await {
                Ok(permit) => {
                    if self.rng.bool() {
                        future::yield_now().await;
                    }
                    drop(permit);
                    Continue(())
                }
                Err(refused) => self.refused(&refused),
            },
            Action::ReserveSubmit => self.reserve_submit().await,
            Action::JobWithOptions => self.job_with_options().await,
            Action::MapAll | Action::MapOrdered => self.map_all(action == Action::MapOrdered).await,
            Action::MapDropped | Action::MapCancelled => {
                self.map_left(action == Action::MapCancelled).await
            }
            Action::MapDeadline => self.map_deadline().await,
            Action::MapOfMaps => self.map_of_maps().await,
            Action::MapSilent => self.map_silent().await,
            Action::GroupJoin | Action::GroupCancelled | Action::GroupDropped => {
                self.group(action).await
            }
            Action::GroupCancelledWhilePaused => self.group_cancelled_while_paused().await,
            Action::Idle => {
                self.rest().await;
                Continue(())
            }
            Action::IdleAfterSubmissions => self.idle_after_submissions().await,
            Action::QueuedBelow => {
                self.pool
                    .wait_queued_below(self.rng.usize(1..=self.round.config.capacity))
                    .await;
                Continue(())
            }
            Action::RunningBelow => {
                self.pool
                    .wait_running_below(self.rng.usize(1..=self.round.config.workers))
                    .await;
                Continue(())
            }
            Action::PauseResume => self.pause_resume().await,
            Action::SetWorkers => {
                self.pool
                    .set_workers(self.rng.usize(1..=self.round.config.workers));
                Continue(())
            }
            Action::SetRate => {
                let limit = RateLimit::per_second(
                    *self
                        .rng
                        .choice(&[u32::MAX, 1_000_000, 50_000])
                        .expect("some"),
                );
                self.pool.set_rate_limit(self.rng.bool().then_some(limit));
                let limits = KeyLimits::new().rate_limit(limit).max_running(1);
                self.pool
                    .set_key_limits(self.rng.u32(0..4), self.rng.bool().then_some(limits));
                Continue(())
            }
            Action::SetPriority => {
                for submitted in &self.kept {
                    submitted.handle.set_priority(self.rng.i32(-2..3));
                }
                self.submit_keep().await
            }
            Action::Look => {
                let (stats, running) = (self.pool.stats(), self.pool.running());
                let most = self.round.config.workers * self.round.config.slots;
                let is_bounded = stats.running <= most && running.len() <= most;
                self.counts.expect(is_bounded, || {
                    format!("{} of {most} run: {stats:?}", running.len())
                });
                future::yield_now().await;
                Continue(())
            }
            Action::DropWorker => {
                if self.rng.u8(..16) == 0 {
                    self.round.drop_worker();
                }
                future::yield_now().await;
                Continue(())
            }
        }
    }

    // ---- inputs and answers ----

    /// Work that comes to an end by itself.
    fn work(&mut self) -> Work {
        *self
            .rng
            .choice(&self.round.config.works)
            .expect("there is some")
    }

    /// Work of a job that will be cancelled.
    fn any_work(&mut self) -> Work {
        if self.rng.u8(..3) == 0 {
            Work::Endless
        } else {
            self.work()
        }
    }

    fn input(&self, work: Work) -> Input {
        Input::new(&self.counts, work)
    }

    /// The pool did not take an input.
    fn refused<In>(&self, refused: &SubmitError<In>) -> Flow {
        match refused {
            SubmitError::Full(_) => Continue(()),
            SubmitError::Overloaded(_) if self.round.config.max_waiting.is_some() => Continue(()),
            SubmitError::Closed(_) if self.round.has_ended() => Break(()),
            refused => {
                self.counts.violate(|| format!("refused: {refused:?}"));
                Break(())
            }
        }
    }

    fn submitted(&self, number: u64, work: Work, handle: Handle) -> Submitted {
        self.counts.accept();
        Submitted {
            number,
            work,
            handle,
        }
    }

    async fn submit(&self, work: Work) -> Flow<Option<Submitted>> {
        let input = self.input(work);
        let number = input.number;
        match self.pool.submit(input).await {
            Ok(handle) => Continue(Some(self.submitted(number, work, handle))),
            Err(refused) => {
                self.refused(&refused)?;
                Continue(None)
            }
        }
    }

    fn may_end_so(&self, error: &JobError<Failure>) -> bool {
        match error {
            JobError::Abandoned | JobError::Cancelled(CancelReason::Aborted) => {
                self.round.config.is_disturbed()
            }
            JobError::TimedOut(_) => self.round.config.policies.has_timeouts(),
            _ => false,
        }
    }

    fn check(&self, number: u64, work: Work, result: &Result<u64, JobError<Failure>>) {
        self.counts
            .check(number, work, result, |error| self.may_end_so(error));
    }

    // ---- one job ----

    async fn submit_await(&mut self) -> Flow {
        let work = self.work();
        if let Some(submitted) = self.submit(work).await? {
            let result = submitted.handle.await;
            self.check(submitted.number, work, &result);
        }
        Continue(())
    }

    async fn submit_cancel(&mut self) -> Flow {
        let work = self.any_work();
        if let Some(submitted) = self.submit(work).await? {
            for _ in 0..self.rng.u8(..3) {
                future::yield_now().await;
            }
            if let Some(result) = submitted.handle.cancel().await {
                self.check(submitted.number, work, &result);
            }
        }
        Continue(())
    }

    async fn submit_keep(&mut self) -> Flow {
        let work = self.work();
        if let Some(submitted) = self.submit(work).await? {
            self.kept.push(submitted);
        }
        if self.kept.len() > KEPT {
            let mut submitted = self.kept.swap_remove(self.rng.usize(..KEPT));
            if self.rng.bool() {
                let result = (&mut submitted.handle).await;
                self.counts.expect(submitted.handle.is_finished(), || {
                    "a result without an outcome".to_owned()
                });
                self.check(submitted.number, submitted.work, &result);
            }
        }
        Continue(())
    }

    /// Leaves a submission while it waits for room.
    async fn submit_abandoned(&mut self) -> Flow {
        let work = self.any_work();
        let input = self.input(work);
        let number = input.number;
        match future::poll_once(self.pool.submit(input)).await {
            Some(Ok(handle)) => drop(self.submitted(number, work, handle)),
            Some(Err(refused)) => return self.refused(&refused),
            None => {}
        }
        Continue(())
    }

    async fn try_submit(&mut self) -> Flow {
        let work = self.work();
        let input = self.input(work);
        let number = input.number;
        match self.pool.try_submit(input) {
            Ok(handle) => {
                let submitted = self.submitted(number, work, handle);
                let result = submitted.handle.await;
                self.check(number, work, &result);
            }
            Err(refused) => {
                self.refused(&refused)?;
                future::yield_now().await;
            }
        }
        Continue(())
    }

    async fn reserve_submit(&mut self) -> Flow {
        let permit = match self.pool.reserve().await {
            Ok(permit) => permit,
            Err(refused) => return self.refused(&refused),
        };
        if self.rng.bool() {
            future::yield_now().await;
        }
        let work = self.work();
        let input = self.input(work);
        let number = input.number;
        match permit.submit(input) {
            Ok(handle) => {
                let submitted = self.submitted(number, work, handle);
                let result = submitted.handle.await;
                self.check(number, work, &result);
                Continue(())
            }
            Err(refused) => self.refused(&refused),
        }
    }

    async fn job_with_options(&mut self) -> Flow {
        let mut work = self.work();
        let (priority, kind) = (self.rng.i32(-2..3), self.rng.u8(..4));
        let has_controls = self.round.config.policies.has_controls;
        let has_limit = kind == 0 || (has_controls && kind == 1);
        if has_limit && self.rng.bool() {
            work = Work::Endless;
        }
        let input = self.input(work);
        let number = input.number;
        let mut job = self.pool.job(input);
        let short = Duration::from_micros(200);
        job = match kind {
            0 => job.attempt_timeout(short),
            1 if has_controls => job.timeout(short),
            2 if has_controls => job.delay(short),
            _ => job,
        };
        if has_controls {
            job = job.priority(priority);
        }
        match job.submit().await {
            Ok(handle) => {
                let submitted = self.submitted(number, work, handle);
                let result = submitted.handle.await;
                let is_allowed = |error: &JobError<_>| {
                    self.may_end_so(error) || (has_limit && error.is_timed_out())
                };
                self.counts.check(number, work, &result, is_allowed);
                Continue(())
            }
            Err(refused) => self.refused(&refused),
        }
    }

    // ---- maps ----

    /// So many inputs; each counts as accepted when it is pulled, since a map pulls none that its
    /// pool does not accept.
    fn inputs(&mut self, count: usize, is_left: bool) -> impl Iterator<Item = Input> + use<> {
        let works = self.round.config.works.clone();
        let (counts, mut rng) = (Arc::clone(&self.counts), self.rng.fork());
        (0..count).map(move |_| {
            counts.accept();
            let is_endless = is_left && rng.u8(..4) == 0;
            let work = if is_endless {
                Work::Endless
            } else {
                *rng.choice(&works).expect("there is some")
            };
            Input::new(&counts, work)
        })
    }

    fn set_window<S>(&mut self, map: Map<Input, u64, Failure, S>) -> Map<Input, u64, Failure, S> {
        match self.rng.u8(..3) {
            0 => map.window(1),
            1 => map.window(self.rng.usize(1..8)),
            _ => map,
        }
    }

    /// Reads a map to its end, and checks that each of its jobs has one completion.
    async fn read<S>(&self, map: &mut Map<Input, u64, Failure, S>, is_ordered: bool) -> Flow
    where
        S: Source<Input, u64, Failure, Item = Done>,
    {
        let mut seen = HashSet::new();
        let mut next = 0;
        while let Some(completion) = map.next().await {
            self.counts.step();
            let index = completion.index;
            self.counts.expect(seen.insert(index), || {
                format!("two completions of job {index} of a map")
            });
            self.counts.expect(!is_ordered || index == next, || {
                format!("completion {index} in place of {next}")
            });
            next = index + 1;
        }
        let summary = map.summary();
        let is_whole = summary.unread == 0
            && summary.accepted == seen.len()
            && seen.iter().all(|at| *at < seen.len());
        self.counts.expect(is_whole, || {
            format!("{} were read: {summary:?}", seen.len())
        });
        let is_over = if summary.end == End::Unfinished {
            Break(())
        } else {
            Continue(())
        };
        self.counts.expect(is_over.is_continue(), || {
            format!("the map has ended: {summary:?}")
        });
        is_over
    }

    async fn map_all(&mut self, is_ordered: bool) -> Flow {
        let count = self.rng.usize(..61);
        let inputs = self.inputs(count, false);
        let map = self.pool.map(inputs);
        let mut map = self.set_window(map);
        if is_ordered {
            map = map.ordered();
        }
        self.read(&mut map, is_ordered).await?;
        self.ended_complete(map.summary().end)
    }

    /// A map that no client has cancelled is complete, unless the pool was ended before.
    fn ended_complete(&self, end: End) -> Flow {
        match end {
            End::Complete => Continue(()),
            _ if self.round.has_ended() => Break(()),
            _ if self.round.config.is_disturbed() && end == End::Abandoned => Continue(()),
            end => {
                self.counts.violate(|| format!("a map ended: {end}"));
                Break(())
            }
        }
    }

    /// Reads a part of a map, and cancels or drops the rest.
    async fn map_left(&mut self, is_cancelled: bool) -> Flow {
        let count = self.rng.usize(1..61);
        // Whether its jobs end by themselves, so that only queued ones need to be cancelled.
        let is_ending = is_cancelled && self.rng.bool();
        let inputs = self.inputs(count, !is_ending);
        let map = self.pool.map(inputs);
        let mut map = self.set_window(map);
        for _ in 0..self.rng.usize(..4) {
            future::poll_once(map.next()).await;
            future::yield_now().await;
        }
        if is_ending || self.rng.bool() {
            map.cancel_queued();
        }
        if is_cancelled {
            if !is_ending {
                map.cancel();
            }
            let mut rest = 0;
            while map.next().await.is_some() {
                rest += 1;
                self.counts.step();
            }
            let summary = map.summary();
            let is_over =
                summary.unread == 0 && summary.end != End::Unfinished && rest <= summary.accepted;
            self.counts.expect(is_over, || {
                format!("a cancelled map has ended: {summary:?}")
            });
        }
        Continue(())
    }

    async fn map_deadline(&mut self) -> Flow {
        let count = self.rng.usize(1..61);
        let inputs = self.inputs(count, true);
        let map = self.pool.map(inputs);
        let mut map = self
            .set_window(map)
            .deadline(Duration::from_micros(self.rng.u64(1..500)));
        self.read(&mut map, false).await
    }

    /// Maps of one pool, each of which is the source of the next.
    async fn map_of_maps(&mut self) -> Flow {
        let count = self.rng.usize(1..21);
        let mut source: Pin<Box<dyn Stream<Item = Input> + Send>> =
            Box::pin(stream::iter(self.inputs(count, false)));
        for _ in 0..self.rng.usize(1..6) {
            let map = self.pool.map_stream(source);
            let map = self.set_window(map);
            let mut inputs = self.inputs(usize::MAX, false);
            source = Box::pin(map.map(move |_| inputs.next().expect("there is no end to them")));
        }
        let map = self.pool.map_stream(source);
        let mut map = self.set_window(map);
        self.read(&mut map, false).await?;
        self.ended_complete(map.summary().end)
    }

    /// A map whose source yields some inputs, and then nothing for as long as the pool is open.
    async fn map_silent(&mut self) -> Flow {
        let count = self.rng.usize(..3);
        let inputs = stream::iter(self.inputs(count, false)).chain(self.round.silent_source());
        let map = self.pool.map_stream(inputs);
        let mut map = self.set_window(map);
        self.read(&mut map, false).await?;
        let end = map.summary().end;
        self.counts.expect(end != End::Complete, || {
            "a map has seen the end of a source without one".to_owned()
        });
        Break(())
    }

    // ---- groups ----

    fn open_group(&mut self) -> Jobs {
        let group = self.pool.group();
        if self.rng.bool() {
            group.window(self.rng.usize(1..8))
        } else {
            group
        }
    }

    /// Submits a job to the group, and reads one if the window is full.
    async fn submit_to(&mut self, group: &mut Jobs) -> Flow {
        let work = self.work();
        let input = self.input(work);
        match group.submit(input).await {
            Ok(()) => {
                self.counts.accept();
                Continue(())
            }
            Err(refused) => {
                self.refused(&refused)?;
                if refused.is_full() {
                    group.next().await;
                }
                Continue(())
            }
        }
    }

    async fn group(&mut self, action: Action) -> Flow {
        let mut group = self.open_group();
        for _ in 0..self.rng.usize(..20) {
            self.submit_to(&mut group).await?;
        }
        if action != Action::GroupJoin {
            // Jobs without end come last and without a wait for room, since that could then be
            // without end as well.
            for _ in 0..self.rng.usize(..4) {
                let work = self.any_work();
                if group.try_submit(self.input(work)).is_ok() {
                    self.counts.accept();
                }
                future::yield_now().await;
            }
        }
        if action == Action::GroupDropped {
            return Continue(());
        }
        if action == Action::GroupCancelled {
            group.cancel();
            let refused = group.submit(self.input(Work::Return)).await;
            let is_closed = matches!(refused, Err(SubmitError::Closed(_)));
            self.counts
                .expect(is_closed, || "a cancelled group took a job".to_owned());
        }
        // Running jobs may add some; one that is refused counts as unread until its job knows.
        let unread = if self.round.config.has_submitter {
            0
        } else {
            group.unread()
        };
        let read = group.join().await.len();
        self.counts.expect(read >= unread, || {
            format!("{read} of {unread} completions of a group")
        });
        Continue(())
    }

    /// The queue is full, and no room comes: a submission ends when its group is cancelled.
    async fn group_cancelled_while_paused(&mut self) -> Flow {
        let group = self.pool.group();
        self.pool.pause();
        let mut submitted = Vec::new();
        loop {
            let input = self.input(Work::Return);
            let number = input.number;
            match self.pool.try_submit(input) {
                Ok(handle) => submitted.push(self.submitted(number, Work::Return, handle)),
                Err(_) => break,
            }
        }
        let (result, ()) = future::zip(group.submit(self.input(Work::Return)), async {
            future::yield_now().await;
            group.cancel();
        })
        .await;
        if result.is_ok() {
            self.counts.accept();
        }
        self.pool.resume();
        for submitted in submitted {
            let result = submitted.handle.await;
            self.check(submitted.number, submitted.work, &result);
        }
        Continue(())
    }

    // ---- the whole pool ----

    /// Waits until nothing is queued or running: all that this client has kept is finished then.
    pub(crate) async fn rest(&mut self) {
        self.pool.wait_idle().await;
        self.expect_finished("idle");
        self.kept.clear();
    }

    fn expect_finished(&self, wait: &str) {
        for Submitted { number, handle, .. } in &self.kept {
            self.counts.expect(handle.is_finished(), || {
                format!("the job of input {number} is not finished: {wait}")
            });
        }
    }

    async fn idle_after_submissions(&mut self) -> Flow {
        let mut group = self.pool.group();
        for _ in 0..self.rng.usize(1..6) {
            if self.rng.bool() {
                self.submit_keep().await?;
            } else {
                self.submit_to(&mut group).await?;
            }
        }
        let inputs = self.inputs(1, false);
        let mut map = self.pool.map(inputs);
        let first = future::poll_once(map.next()).await;
        self.rest().await;
        let unread = group.unread();
        let ready =
            std::iter::from_fn(|| future::block_on(future::poll_once(group.next())).flatten())
                .count();
        self.counts.expect(ready == unread, || {
            format!("{ready} of {unread} completions are there: idle")
        });
        let accepted = map.summary().accepted;
        if first.is_none() && accepted > 0 {
            let is_there = future::poll_once(map.next()).await.is_some();
            self.counts.expect(is_there, || {
                "the completion of a map is not there: idle".to_owned()
            });
        }
        Continue(())
    }

    async fn pause_resume(&mut self) -> Flow {
        self.pool.pause();
        let work = self.work();
        let input = self.input(work);
        let number = input.number;
        let submitted = self
            .pool
            .try_submit(input)
            .ok()
            .map(|handle| self.submitted(number, work, handle));
        future::yield_now().await;
        self.pool.resume();
        if let Some(submitted) = submitted {
            let result = submitted.handle.await;
            self.check(number, work, &result);
        }
        Continue(())
    }

    /// Ends the pool. What this client has submitted before is finished after the waits that
    /// promise it.
    pub(crate) async fn end(&mut self, ending: Ending) {
        for _ in 0..self.rng.usize(..3) {
            let work = self.work();
            let input = self.input(work);
            let number = input.number;
            if let Ok(handle) = self.pool.try_submit(input) {
                let submitted = self.submitted(number, work, handle);
                self.kept.push(submitted);
            }
        }
        let is_first = self.round.note_end();
        debug_assert!(is_first, "a round ends its pool once");
        match ending {
            Ending::Close => self.pool.close(),
            Ending::Seal => self.pool.seal(),
            Ending::Drain => {
                self.pool.drain().await;
                self.expect_finished("drain");
            }
            Ending::DrainWithin => {
                let report = self.pool.drain_within(Duration::MAX).await;
                self.counts.expect(report.is_complete(), || {
                    "a drain without end has interrupted jobs".to_owned()
                });
                self.expect_finished("drain_within");
            }
            Ending::DrainAtOnce => drop(self.pool.drain_within(Duration::ZERO).await),
            Ending::Abort => {
                drop(self.pool.abort().await);
                self.expect_finished("abort");
            }
            Ending::DropWorkers => self.round.drop_workers(),
            Ending::DropHandles => {}
        }
        self.counts.step();
    }
}
