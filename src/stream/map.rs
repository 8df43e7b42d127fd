//! Maps: a job for each input of a source.
//!
//! In: a source of inputs. Out: a stream of completions, in the order in which jobs end or in that
//! of the inputs. It never pulls an input that the pool cannot accept. One task pulls and reads, so
//! neither can wait for the other.
//!
//! A poll
//!
//! 1. feeds the pool first if many inputs may be pulled, so workers have jobs meanwhile:
//!    [`Map::feed`];
//! 2. yields a completion of the last message, or of the completion queue;
//! 3. if there is none, feeds the pool unless step 1 has, and tries again once.
//!
//! To feed the pool, it
//!
//! 1. gets the right to pull: `MapWait::begin_pull`;
//! 2. pulls one input without a permit, since the source may be a map of the same pool that needs
//!    one;
//! 3. takes permits, pulls as many inputs, and submits them, until the window is full or the source
//!    is pending;
//! 4. registers for what it waits for, room or the source, and for the close of the pool.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

use super::collect::CollectError;
use super::reader::CompletionReader;
use super::reorder::Reorder;
use super::source::{Inputs, Pulled, Source};
use super::summary::{End, Summary};
use crate::error::CancelReason;
use crate::job::completion::{Completion, OnError};
use crate::job::queued::{Batch, QueuedJob, StreamJob};
use crate::panic;
use crate::rt::SyncSleep;
use crate::shared::{Accepted, MapWait, PoolRef, Pull};

/// How many inputs are pulled and submitted together, at most.
const MAX_BATCH: usize = 64;

/// A stream of completions: each input of a source becomes a job, and each job yields one
/// completion.
///
/// Made by [`Pool::map`](crate::Pool::map), [`map_stream`](crate::Pool::map_stream),
/// [`try_map`](crate::Pool::try_map) and [`try_map_stream`](crate::Pool::try_map_stream).
///
/// The source is pulled only while this stream is polled, and only while there is room both in the
/// pool's queue and in the [`window`](Self::window), so it may be endless. An input is pulled only
/// if it can be accepted.
///
/// A map keeps its pool open, as a clone of the [`Pool`](crate::Pool) does. If the pool is
/// closed meanwhile, the map pulls no more inputs, yields the completions of accepted jobs, and
/// ends with [`End::Closed`] in its [`summary`](Self::summary).
///
/// The last type parameter is that of the source. As a field of a struct, or as a return type, a
/// map is best named `Pin<Box<dyn Stream<Item = Completion<In, T, E>> + Send>>` or `impl
/// Stream`.
///
/// A map that is not polled pulls nothing: accepted jobs run to their end and their completions
/// wait to be read, at most `window` of them.
///
/// # Defaults
///
/// Completions in the order in which jobs end; [`window`](Self::window): the queue's capacity plus
/// the number of jobs that can run at once; [`OnError::Continue`]; inputs are not kept; priority 0;
/// no deadline.
///
/// # Cancel safety
///
/// Dropping the future of [`next`](Self::next) loses nothing. A map that waits, polled or not,
/// holds no room in the queue. Dropping the stream cancels its jobs: queued ones never start,
/// running ones are dropped at their next await.
///
/// # Examples
///
/// ```
/// use brigade::{ManualTimer, Pool};
/// use futures_lite::future;
///
/// let (pool, workers) = Pool::builder()
///     .workers(4)
///     .timer(ManualTimer::new())
///     .build(|n: u32| async move { if n == 3 { Err("three") } else { Ok(n * 10) } });
/// future::block_on(workers.drive(async {
///     let mut completions = pool.map(0..5).ordered();
///     let mut results = Vec::new();
///     while let Some(completion) = completions.next().await {
///         results.push(completion.result.ok());
///     }
///     assert_eq!(results, [Some(0), Some(10), Some(20), None, Some(40)]);
///     let summary = completions.summary();
///     assert_eq!((summary.accepted, summary.succeeded, summary.failed), (5, 4, 1));
///     assert!(summary.is_complete());
/// }));
/// ```
#[must_use = "a map pulls no input unless it is polled"]
pub struct Map<In, T, E, S> {
    /// Keeps the pool open.
    shared: PoolRef<In, T, E>,
    intake: Intake<In, S>,
    map_wait: MapWait<In, T, E>,
    window: usize,
    /// Holds back completions that are not next; at most `window` and those of added jobs.
    order: Option<Reorder<Completion<In, T, E>>>,
    reader: CompletionReader<In, T, E>,
    /// Fires at the deadline of the map.
    deadline: Option<SyncSleep>,
}

/// The source of a map, and what was pulled from it.
struct Intake<In, S> {
    source: S,
    state: IntakeState,
    /// Inputs to be submitted. Invariant: at most [`MAX_BATCH`], and none between polls unless the
    /// source has panicked.
    pulled: Vec<In>,
}

/// The state of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IntakeState {
    Open,
    Exhausted,
    Failed,
    /// The pool is closed, or the map was cancelled.
    Shut,
}

// Pulled inputs and held back completions are never pinned.
impl<In, T, E, S: Unpin> Unpin for Map<In, T, E, S> {}

impl<In, T, E, S> Map<In, T, E, S> {
    pub(crate) fn new(shared: PoolRef<In, T, E>, source: S, window: usize) -> Self {
        let reader = CompletionReader::new(&shared);
        let map_wait = MapWait::new(Arc::clone(&shared), reader.stream.id());
        shared.set_window(&reader.stream, window);
        Self {
            shared,
            intake: Intake {
                source,
                state: IntakeState::Open,
                pulled: Vec::new(),
            },
            map_wait,
            window,
            order: None,
            reader,
            deadline: None,
        }
    }

    /// Yields the completions in the order of their inputs.
    ///
    /// A slow job holds back the completions of later inputs. The source is pulled until
    /// [`window`](Self::window) jobs are unread, those held back included.
    #[doc(alias("buffered"))]
    pub fn ordered(mut self) -> Self {
        self.order = Some(Reorder::new());
        self
    }

    /// Bounds how many jobs of this map may be queued, running, or finished and unread at once.
    /// Running jobs may add more than that, up to the pool's
    /// [`child_capacity`](crate::Builder::child_capacity); what they add counts.
    ///
    /// With a window of 1, a job starts once the completion of the one before was read.
    ///
    /// # Panics
    ///
    /// If `jobs` is 0.
    #[track_caller]
    pub fn window(mut self, jobs: usize) -> Self {
        assert!(jobs > 0, "window must be at least 1, got 0");
        self.window = jobs;
        self.shared.set_window(&self.reader.stream, jobs);
        self
    }

    /// Sets what happens when a job does not succeed; see [`OnError`].
    ///
    /// It takes effect when the job ends, not when its completion is read: after the last failure
    /// that is allowed, no job of this map starts.
    pub fn on_error(self, policy: OnError) -> Self {
        self.reader.stream.set_on_error(policy);
        self
    }

    /// Sets the [priority](crate::Job::priority) of the jobs of this map.
    pub fn priority(self, priority: i32) -> Self {
        self.shared
            .set_stream_priority(&self.reader.stream, priority);
        self
    }

    /// Limits the whole map, counted from now. At the deadline, jobs that have not ended are
    /// cancelled, as by [`cancel`](Self::cancel), with the reason [`CancelReason::Deadline`], and
    /// the [`summary`](Self::summary) has [`End::TimedOut`]. Finished jobs keep their outcome.
    ///
    /// The deadline is checked when the map is polled; a map that is not polled is not cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{End, ManualTimer, Pool};
    /// use futures_lite::future;
    /// use std::time::Duration;
    ///
    /// let clock = ManualTimer::new();
    /// let (pool, workers) = Pool::builder()
    ///     .workers(1)
    ///     .timer(clock.clone())
    ///     .build(|_: u32| future::pending::<Result<(), ()>>());
    /// let run = pool.map(0..5).deadline(Duration::from_secs(60)).for_each(drop);
    /// let summary = future::block_on(clock.run(workers.drive(run)));
    /// assert_eq!((summary.end, summary.cancelled), (End::TimedOut, 5));
    /// ```
    pub fn deadline(mut self, limit: Duration) -> Self {
        let timer = &self.shared.timer;
        self.deadline = timer
            .now()
            .checked_add(limit)
            .map(|at| SyncSleep::new(timer.sleep_until(at)));
        self
    }

    /// Puts a copy of the input into each [`Completion`], also of jobs that have started. The input
    /// is cloned right before the job starts.
    pub fn keep_inputs(self) -> Self
    where
        In: Clone,
    {
        self.reader.stream.set_copier(In::clone);
        self
    }

    /// Whether no input is pulled any more, and no job is unread.
    fn is_over(&self) -> bool {
        self.intake.state != IntakeState::Open && self.reader.unread() == 0
    }

    /// The counts of the jobs so far; once the stream has ended, of all jobs, and how it has ended.
    pub fn summary(&self) -> Summary {
        let by_source = match self.intake.state {
            IntakeState::Open | IntakeState::Shut => End::Closed,
            IntakeState::Exhausted => End::Complete,
            IntakeState::Failed => End::SourceFailed,
        };
        self.reader.summary(self.is_over(), by_source)
    }

    /// Cancels the map: queued jobs never start, running ones are dropped at their next await, and
    /// no more inputs are pulled. Completions of accepted jobs are still yielded.
    pub fn cancel(&mut self) {
        self.stop(CancelReason::Stream);
    }

    /// Lets the jobs end that run: queued jobs and those that wait for another attempt are
    /// cancelled, and no more inputs are pulled. A running job that fails is not retried. All
    /// completions are still yielded.
    ///
    /// A job that a worker takes at this moment may be cancelled before its first poll. A deadline
    /// stays in force.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool};
    /// use futures_lite::{StreamExt, future};
    /// use std::time::Duration;
    ///
    /// let clock = ManualTimer::new();
    /// let (pool, workers) = Pool::builder().workers(1).timer(clock.clone()).build(async |n: u32| {
    ///     clock.sleep(Duration::from_secs(2)).await;
    ///     Ok::<_, ()>(n)
    /// });
    /// let mut map = pool.map(0..5).window(3);
    /// let results = future::block_on(clock.run(workers.drive(async {
    ///     // Reads for a second: one job runs, and two are queued.
    ///     let reading = async { drop(map.next().await) };
    ///     future::or(reading, async { clock.sleep(Duration::from_secs(1)).await }).await;
    ///     map.cancel_queued();
    ///     map.map(|completion| completion.result.ok()).collect::<Vec<_>>().await
    /// })));
    /// assert_eq!(results.len(), 3);
    /// assert_eq!(results.into_iter().flatten().collect::<Vec<_>>(), [0]);
    /// ```
    #[doc(alias("stop", "finish"))]
    pub fn cancel_queued(&mut self) {
        self.intake.state = IntakeState::Shut;
        self.map_wait.leave_and_wake();
        self.reader.cancel_queued();
    }

    fn stop(&mut self, reason: CancelReason) {
        self.intake.state = IntakeState::Shut;
        self.deadline = None;
        // The task that calls this may be another than the one that waits for the source.
        self.map_wait.leave_and_wake();
        self.reader.cancel(reason);
    }

    /// Cancels the map if its deadline has passed.
    fn check_deadline(&mut self, cx: &mut Context<'_>) {
        if let Some(deadline) = &mut self.deadline
            && Pin::new(deadline).poll(cx).is_ready()
        {
            if self.is_over() {
                self.deadline = None;
            } else {
                self.stop(CancelReason::Deadline);
            }
        }
    }
}

impl<In, S> Intake<In, S> {
    /// Stops pulling.
    fn shut(&mut self) {
        self.state = IntakeState::Shut;
        self.discard();
    }

    /// Drops pulled inputs that will not be submitted: after a panic of the source, or a
    /// cancellation.
    fn discard(&mut self) {
        for input in self.pulled.drain(..) {
            panic::discard(input);
        }
    }

    /// Pulls until there are `count` inputs; returns whether the source is pending.
    fn pull<T, E>(&mut self, count: usize, cx: &mut Context<'_>) -> bool
    where
        S: Source<In, T, E>,
    {
        while self.state == IntakeState::Open && self.pulled.len() < count {
            match self.source.poll_input(cx) {
                Poll::Ready(Pulled::Input(input)) => self.pulled.push(input),
                Poll::Ready(Pulled::Exhausted) => self.state = IntakeState::Exhausted,
                Poll::Ready(Pulled::Failed) => self.state = IntakeState::Failed,
                Poll::Pending => return true,
            }
        }
        false
    }

    /// Submits the pulled inputs, as many as `pull` may accept. With the window of a map that pulls
    /// more, takes permits for the inputs to pull next.
    fn submit<T, E>(
        &mut self,
        pull: &mut Pull<'_, In, T, E>,
        reader: &CompletionReader<In, T, E>,
        window_if_more: Option<usize>,
    ) {
        let (shared, stream) = (pull.shared, &reader.stream);
        let used = self.pulled.len().min(pull.max_inputs());
        stream.add_unread(used);
        let index = stream.take_indices(used);
        let more = window_if_more.map_or(0, |window| reader.window_left(window).min(MAX_BATCH));
        let Accepted { id, origin, limits } = pull.accept(used, more);
        if used == 0 {
            return;
        }
        // The jobs of a batch do not know when they were accepted.
        let is_batch = used > 1
            && used == self.pulled.len()
            && limits.job.is_none()
            && shared.uses_local_queues
            && stream.copier().is_none();
        if is_batch {
            let inputs = std::mem::replace(&mut self.pulled, stream.input_spares.take());
            shared.enqueue_batch(Batch::new(Arc::clone(stream), id, index, inputs));
        } else {
            let accepted_at = shared.acceptance_time(limits);
            let jobs = self
                .pulled
                .drain(..used)
                .enumerate()
                .map(|(offset, input)| {
                    let (stream, id, index) =
                        (Arc::clone(stream), id.offset(offset), index + offset);
                    QueuedJob::Stream(StreamJob {
                        input,
                        stream,
                        id,
                        index,
                        origin,
                        record_id: None,
                        accepted_at,
                    })
                });
            shared.enqueue_many(jobs.collect());
        }
        shared.sweep_if_cancelled(stream);
    }
}

impl<In, T, E, S: Source<In, T, E>> Map<In, T, E, S> {
    /// Waits for the next completion; `None` after the last one.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    #[expect(
        clippy::should_implement_trait,
        reason = "the name that streams have for it"
    )]
    pub fn next(&mut self) -> Next<'_, In, T, E, S> {
        Next { map: self }
    }

    /// Pulls inputs while there is room, and submits them. Then, unless the window is full or the
    /// source has ended, the task is woken by room or the source, and by the close of the pool.
    ///
    /// The loop ends: the window bounds the jobs that are submitted before a completion is read.
    fn feed(&mut self, cx: &mut Context<'_>) {
        let Self {
            shared,
            intake,
            map_wait,
            window,
            reader,
            ..
        } = self;
        loop {
            if reader.stream.cancelled().is_some() {
                intake.shut();
                return map_wait.leave();
            }
            if intake.state != IntakeState::Open && intake.pulled.is_empty() {
                return map_wait.leave();
            }
            if reader.window_left(*window) == 0 {
                return map_wait.leave();
            }
            let mut pull = match map_wait.begin_pull(shared) {
                Ok(Some(pull)) => pull,
                Ok(None) => return map_wait.wait_for_room(cx),
                Err(_) => {
                    intake.shut();
                    return map_wait.leave();
                }
            };
            // One input without a permit: the source may be a map of this pool that needs one.
            let mut is_pending = intake.pull(1, cx);
            if !intake.pulled.is_empty() {
                pull.take_permits(reader.window_left(*window).min(MAX_BATCH));
                while pull.max_inputs() > 0 {
                    is_pending = is_pending || intake.pull(pull.max_inputs(), cx);
                    let wants_more = intake.state == IntakeState::Open && !is_pending;
                    intake.submit(&mut pull, reader, wants_more.then_some(*window));
                }
            }
            drop(pull);
            if is_pending {
                return map_wait.wait_for_source(cx);
            }
        }
    }

    /// Whether inputs are pulled before delivered completions are read, so the workers have jobs
    /// meanwhile. Not for a few inputs.
    #[inline(always)]
    fn wants_inputs(&self) -> bool {
        self.intake.state == IntakeState::Open
            && self.reader.window_left(self.window) >= (self.window / 8).clamp(1, MAX_BATCH)
    }

    fn poll_completion(&mut self, cx: &mut Context<'_>) -> Poll<Option<Completion<In, T, E>>> {
        let mut has_fed = false;
        loop {
            if !has_fed && self.wants_inputs() {
                self.feed(cx);
                has_fed = true;
                continue;
            }
            let delivered = match &mut self.order {
                None => self.reader.poll_delivered(cx),
                Some(order) => match order.pop() {
                    Some(completion) => return Poll::Ready(Some(completion)),
                    None => self.reader.poll_delivered(cx),
                },
            };
            match delivered {
                Poll::Ready(completion) => match &mut self.order {
                    None => return Poll::Ready(Some(completion)),
                    Some(order) => order.insert(completion.index, completion),
                },
                Poll::Pending if !has_fed => {
                    self.feed(cx);
                    has_fed = true;
                }
                Poll::Pending if self.is_over() => {
                    self.deadline = None;
                    return Poll::Ready(None);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<In, T, E, S: Source<In, T, E>> Stream for Map<In, T, E, S> {
    type Item = S::Item;

    #[inline(always)]
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = &mut *self;
        // A shortcut of `poll_item`, for most completions of most maps.
        if this.deadline.is_none()
            && this.order.is_none()
            && (!this.wants_inputs() || this.map_wait.is_waiting_for_room(cx))
            && let Some(success) = this.reader.next_success()
        {
            return Poll::Ready(Some(S::completion(success.into_completion())));
        }
        this.poll_item(cx)
    }
}

impl<In, T, E, S: Source<In, T, E>> Map<In, T, E, S> {
    #[inline(never)]
    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        if self.deadline.is_some() {
            self.check_deadline(cx);
        }
        match self.poll_completion(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(self.intake.source.take_failure()),
            Poll::Ready(Some(completion)) => {
                self.reader.count(&completion);
                Poll::Ready(Some(S::completion(completion)))
            }
        }
    }
}

/// The next completion of a [`Map`]; made by [`Map::next`].
#[must_use = "futures do nothing unless polled"]
pub struct Next<'a, In, T, E, S> {
    map: &'a mut Map<In, T, E, S>,
}

impl<In, T, E, S: Source<In, T, E>> Future for Next<'_, In, T, E, S> {
    type Output = Option<S::Item>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut *self.map).poll_next(cx)
    }
}

impl<In, T, E, S> fmt::Debug for Next<'_, In, T, E, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

impl<In, T, E, S: Stream<Item = In>> Map<In, T, E, Inputs<S>> {
    /// Collects the values in the order of the inputs. The first job that does not succeed cancels
    /// the rest, whatever [`on_error`](Self::on_error) says.
    ///
    /// # Errors
    ///
    /// [`CollectError::Job`] with the first failure; [`CollectError::Incomplete`] if all jobs
    /// succeeded but not every input became a job, since the pool was closed, the map was
    /// cancelled, its deadline passed or its source failed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the map, and loses the values collected so far.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{CollectError, JobError, ManualTimer, Pool};
    /// use futures_lite::future;
    ///
    /// let (pool, workers) = Pool::builder()
    ///     .workers(2)
    ///     .timer(ManualTimer::new())
    ///     .build(|n: u32| async move { if n < 5 { Ok(n + 1) } else { Err("too big") } });
    /// future::block_on(workers.drive(async {
    ///     assert_eq!(pool.map(0..3).try_collect::<Vec<_>>().await, Ok(vec![1, 2, 3]));
    ///     let failure = pool.map([1, 7]).keep_inputs().try_collect::<Vec<_>>().await;
    ///     let Err(CollectError::Job { index, input, error, .. }) = failure else { panic!() };
    ///     assert_eq!((index, input, error), (1, Some(7), JobError::Failed("too big")));
    /// }));
    /// ```
    #[doc(alias("join_all", "try_join_all"))]
    pub async fn try_collect<C: FromIterator<T>>(mut self) -> Result<C, CollectError<In, E>> {
        self.reader.stream.set_on_error(OnError::Stop);
        let mut values = Vec::new();
        let mut first_failure = None;
        while let Some(completion) = self.next().await {
            match completion.result {
                Ok(value) => values.push((completion.index, value)),
                // A cancellation that a failure has caused: the completion of that failure is still
                // to come.
                Err(error) if error.is_cancelled() && self.summary().end == End::Stopped => {}
                Err(error) => {
                    let (index, input) = (completion.index, completion.input);
                    first_failure = Some(CollectError::Job {
                        index,
                        input,
                        error,
                    });
                    break;
                }
            }
        }
        if let Some(failure) = first_failure {
            return Err(failure);
        }
        let summary = self.summary();
        if !summary.is_complete() {
            return Err(CollectError::Incomplete(summary));
        }
        values.sort_unstable_by_key(|(index, _)| *index);
        Ok(values.into_iter().map(|(_, value)| value).collect())
    }

    /// Calls the closure with each completion, one at a time, and returns the summary at the end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the map.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::{ManualTimer, Pool};
    /// use futures_lite::future;
    ///
    /// let (pool, workers) =
    ///     Pool::builder().workers(2).timer(ManualTimer::new()).build(|n: u32| async move { Ok::<_, ()>(n) });
    /// let mut sum = 0;
    /// let run = pool.map(0..10).for_each(|completion| sum += completion.result.unwrap_or(0));
    /// let summary = future::block_on(workers.drive(run));
    /// assert!(summary.is_complete());
    /// assert_eq!((sum, summary.succeeded), (45, 10));
    /// ```
    pub async fn for_each(mut self, mut call: impl FnMut(Completion<In, T, E>)) -> Summary {
        while let Some(completion) = self.next().await {
            call(completion);
        }
        self.summary()
    }
}

impl<In, T, E, S> Drop for Map<In, T, E, S> {
    fn drop(&mut self) {
        self.intake.discard();
        self.order
            .take()
            .into_iter()
            .flat_map(Reorder::into_values)
            .for_each(Completion::discard);
    }
}

impl<In, T, E, S> fmt::Debug for Map<In, T, E, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("window", &self.window)
            .field("intake", &self.intake.state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::pin;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use crate::{CancelReason, JobError, ManualTimer, Pool};

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// A worker has put a completion into the queue, and the consumer has read it, before the worker
    /// ends the delivery. The next wait of the consumer, a job of the same pool, was taken for one
    /// that ends.
    #[test]
    fn a_wait_that_a_delivery_would_end_is_checked_again_when_the_delivery_has_ended() {
        let (slot, streams) = (
            Rc::new(RefCell::new(None)),
            Rc::new(RefCell::new(Vec::new())),
        );
        let (in_handler, seen) = (Rc::clone(&slot), Rc::clone(&streams));
        let (pool, workers) =
            Pool::builder()
                .workers(1)
                .timer(ManualTimer::new())
                .build(move |_: u32| {
                    let pool: Pool<u32, (), JobError<()>> = in_handler.borrow().clone().unwrap();
                    let seen = Rc::clone(&seen);
                    async move {
                        let mut map = pool.map([1]);
                        let stream = Arc::clone(&map.reader.stream);
                        stream.begin_delivery();
                        seen.borrow_mut().push(stream);
                        let completion = map.next().await.unwrap();
                        completion.result.map_err(|error| match error {
                            JobError::Cancelled(reason) => JobError::Cancelled(reason),
                            _ => JobError::Abandoned,
                        })
                    }
                });
        *slot.borrow_mut() = Some(pool.clone());
        let mut handle = pool.try_submit(0).unwrap();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let worker = workers.into_iter().next().unwrap();
        let mut worker = pin!(worker.run());
        assert!(worker.as_mut().poll(&mut cx).is_pending());
        woken.0.store(false, Ordering::SeqCst);
        assert!(worker.as_mut().poll(&mut cx).is_pending());
        let stream = streams.borrow_mut().pop().unwrap();
        pool.shared().end_stream_deliveries(&stream, 1);
        assert!(woken.0.load(Ordering::SeqCst), "the wait is checked again");
        assert!(worker.as_mut().poll(&mut cx).is_pending());
        let failed = JobError::Failed(JobError::Cancelled(CancelReason::WouldDeadlock));
        assert_eq!(pin!(&mut handle).poll(&mut cx), Poll::Ready(Err(failed)));
        *slot.borrow_mut() = None;
    }
}
