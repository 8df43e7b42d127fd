//! Waits that a pool has to know of: for room in its queue, and those of its own jobs, which may
//! never end. A running job that waits for its own pool is entered in the running book; if every
//! slot then waits, the last one is told.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::{Shared, Synced};
use crate::error::SubmitError;
use crate::event::JobId;
use crate::job::completion_queue::CompletionQueue;
use crate::job::current::{self, CurrentJob};
use crate::job::handle_state::HandleState;
use crate::panic;
use crate::policy::limits::Limits;
use crate::queue::admission::{Admission, Origin, PoolState, Refusal, Wakes};
use crate::sync::atomic::{AtomicUsize, Ordering};

impl<In, T, E> Shared<In, T, E> {
    /// Says whether the caller may wait for this pool, and keeps the mark of the wait up to date.
    ///
    /// Outside the pool's jobs it always may. Inside, it may not if every slot would then wait.
    pub(crate) fn register_wait(
        self: &Arc<Self>,
        mark: &mut Option<WaitGuard<In, T, E>>,
        cx: &Context<'_>,
        what: impl FnOnce() -> Wait<In, T, E>,
    ) -> bool {
        let Some(place) = current::current_in(self.identity()) else {
            *mark = None;
            return true;
        };
        // The waker of what waits, which may be another than that of the job.
        let mut waker = cx.waker().clone();
        let is_known = mark
            .as_ref()
            .filter(|mark| mark.place == place)
            .is_some_and(|mark| {
                let mut state = self.lock();
                let waiting = state.running.wait_mut(mark.number);
                waiting
                    .map(|waiting| std::mem::swap(&mut waiting.waker, &mut waker))
                    .is_some()
            });
        if !is_known {
            *mark = None;
            let waiting = Waiting {
                what: what(),
                waker,
            };
            let number = self
                .lock()
                .running
                .begin_wait(place.slot, place.id, waiting);
            *mark = Some(WaitGuard {
                shared: Arc::clone(self),
                place,
                number,
            });
        }
        let is_deadlocked = self.is_deadlocked();
        if is_deadlocked {
            *mark = None;
        }
        !is_deadlocked
    }

    /// Whether everything that runs waits for the pool, none of these waits is over, and nothing
    /// else can start.
    ///
    /// Looked at without the lock: while that is so, only somebody outside can end a wait
    /// meanwhile.
    fn is_deadlocked(&self) -> bool {
        let waits: Vec<(usize, Wait<In, T, E>)> = {
            let state = self.lock();
            if !state.is_blocked() {
                return false;
            }
            state
                .running
                .waiting()
                .map(|(slot, waiting)| (slot, waiting.what.clone()))
                .collect()
        };
        // A job that is interrupted is about to leave its slot.
        waits.iter().all(|(slot, what)| {
            !what.is_over(self) && self.cancel_flags[*slot].interrupted().is_none()
        })
    }
}

impl<In, T, E> Synced<In, T, E> {
    /// Whether all jobs that run wait for the pool, and no other can start: since every slot is
    /// held, or since their keys let none start.
    pub(super) fn is_blocked(&self) -> bool {
        let (slots, blocked) = (self.admission.slots(), self.running.blocked());
        if blocked == 0 {
            return false;
        }
        match &self.schedule {
            None => self.running.is_blocked(slots),
            Some(schedule) => {
                blocked >= self.admission.running()
                    && (blocked >= slots.min(schedule.allowed())
                        || schedule.is_deadlocked(self.admission.queued_total()))
            }
        }
    }

    /// Those to wake so that they find that they would wait for ever, if it is so.
    pub(super) fn blocked(&self) -> Vec<Waker> {
        if self.is_blocked() {
            self.running
                .waiting()
                .map(|(_, waiting)| waiting.waker.clone())
                .collect()
        } else {
            Vec::new()
        }
    }
}

/// A wait of a job for its own pool.
pub(crate) struct Waiting<In, T, E> {
    what: Wait<In, T, E>,
    /// `ReadyList` when a worker leaves: the wait may have become one without end.
    waker: Waker,
}

/// What a job waits for inside its own pool.
pub(crate) enum Wait<In, T, E> {
    /// The outcome of a job.
    Handle(Arc<HandleState<In, T, E>>),
    /// A completion of a map or group.
    Stream(Arc<CompletionQueue<In, T, E>>),
    /// `AcquirePermit` in the queue, with the number in the line.
    AcquirePermit(u64),
}

impl<In, T, E> Wait<In, T, E> {
    /// Whether it is over, though the job may not have noticed, or about to be over.
    fn is_over(&self, shared: &Shared<In, T, E>) -> bool {
        match self {
            Self::Handle(cell) => shared.is_decided(cell),
            Self::Stream(stream) => stream.is_fed(),
            Self::AcquirePermit(number) => !shared.lock().admission.is_waiting(*number),
        }
    }
}

impl<In, T, E> Clone for Wait<In, T, E> {
    fn clone(&self) -> Self {
        match self {
            Self::Handle(cell) => Self::Handle(Arc::clone(cell)),
            Self::Stream(stream) => Self::Stream(Arc::clone(stream)),
            Self::AcquirePermit(number) => Self::AcquirePermit(*number),
        }
    }
}

/// A job that waits for its own pool; dropping it ends the wait.
pub(crate) struct WaitGuard<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    place: CurrentJob,
    number: u64,
}

impl<In, T, E> Drop for WaitGuard<In, T, E> {
    fn drop(&mut self) {
        let what = self.shared.lock().running.end_wait(self.number);
        drop(what);
    }
}

/// How many outcomes are in the books, or about to be, and not with their handle, map or group yet.
/// The pool is not idle before they are, so that an idle pool has told all outcomes.
///
/// First [`begin`](Deliveries::begin), then the outcome is booked under the lock, then it is
/// delivered, then `Shared::end_deliveries`. A wait that finds the books closed under the lock
/// therefore finds the delivery counted until it is over.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    finished: AtomicUsize,
    unstarted: AtomicUsize,
}

/// Whether the job has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryKind {
    Finished,
    Unstarted,
}

impl Deliveries {
    const fn of(&self, kind: DeliveryKind) -> &AtomicUsize {
        match kind {
            DeliveryKind::Finished => &self.finished,
            DeliveryKind::Unstarted => &self.unstarted,
        }
    }

    #[inline]
    pub(crate) fn begin(&self, kind: DeliveryKind) {
        self.of(kind).fetch_add(1, Ordering::SeqCst);
    }

    fn are_none(&self, kind: DeliveryKind) -> bool {
        self.of(kind).load(Ordering::SeqCst) == 0
    }
}

/// Futures that wait for the pool to be idle, or to have fewer jobs.
#[derive(Debug, Default)]
pub(super) struct Watching {
    /// Bounded by the number of these futures.
    wakers: BTreeMap<u64, Waker>,
    next: u64,
}

impl<In, T, E> Shared<In, T, E> {
    #[inline]
    pub(crate) fn end_deliveries(&self, kind: DeliveryKind, count: usize) {
        let left = self.deliveries.of(kind).fetch_sub(count, Ordering::SeqCst) - count;
        // A future counts itself before it looks whether there are deliveries.
        if left == 0 && self.watchers.load(Ordering::SeqCst) > 0 {
            self.wake_watchers_if(|admission| {
                admission.is_idle()
                    || (admission.pool_state() >= PoolState::Aborted && admission.is_queue_empty())
            });
        }
    }

    pub(super) fn wake_watchers(&self) {
        self.wake_watchers_if(|_| true);
    }

    #[cold]
    fn wake_watchers_if(&self, is_so: impl Fn(&Admission) -> bool) {
        let mut state = self.lock();
        if is_so(&state.admission) {
            let wakers = std::mem::take(&mut state.watching.wakers);
            drop(state);
            panic::wake(wakers.into_values());
        }
    }

    /// Waits until the pool is idle.
    pub(crate) async fn wait_idle(&self) {
        self.watch(
            |state| state.admission.is_idle() && self.are_delivered(),
            |_| {},
        )
        .await;
    }

    /// Waits until no job of an aborted pool is queued.
    pub(crate) async fn wait_returned(&self) {
        let is_returned = |state: &Synced<In, T, E>| {
            let is_empty = state.admission.pool_state() < PoolState::Aborted
                || state.admission.is_queue_empty();
            is_empty && self.deliveries.are_none(DeliveryKind::Unstarted)
        };
        self.watch(is_returned, |_| {}).await;
    }

    /// Waits until `is_so`; `mark` sets the threshold at which the wait is woken.
    pub(crate) async fn wait_below(
        &self,
        is_so: impl Fn(&Admission) -> bool,
        mark: impl Fn(&mut Admission),
    ) {
        let is_over = |state: &Synced<In, T, E>| is_so(&state.admission);
        let mark = |state: &mut Synced<In, T, E>| {
            mark(&mut state.admission);
            state.revoke_all();
        };
        self.watch(is_over, mark).await;
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.lock().admission.is_idle() && self.are_delivered()
    }

    pub(super) fn are_delivered(&self) -> bool {
        self.deliveries.are_none(DeliveryKind::Finished)
            && self.deliveries.are_none(DeliveryKind::Unstarted)
    }

    /// Waits until `is_over`, which is looked at under the lock. `prepare` sees to it that the wait
    /// is woken.
    async fn watch(
        &self,
        is_over: impl Fn(&Synced<In, T, E>) -> bool,
        prepare: impl Fn(&mut Synced<In, T, E>),
    ) {
        let mut watch = Watch::new(self);
        poll_fn(|cx| {
            let mut state = self.lock();
            if is_over(&state) {
                return Poll::Ready(());
            }
            prepare(&mut state);
            if is_over(&state) {
                return Poll::Ready(());
            }
            let watching = &mut state.watching;
            let number = *watch.number.get_or_insert_with(|| {
                watching.next += 1;
                watching.next
            });
            let replaced = watching.wakers.insert(number, cx.waker().clone());
            drop(state);
            drop(replaced);
            Poll::Pending
        })
        .await;
    }
}

/// Counts a future among those that watch the pool, until it is dropped.
struct Watch<'a, In, T, E> {
    shared: &'a Shared<In, T, E>,
    number: Option<u64>,
}

impl<'a, In, T, E> Watch<'a, In, T, E> {
    fn new(shared: &'a Shared<In, T, E>) -> Self {
        shared.watchers.fetch_add(1, Ordering::SeqCst);
        Self {
            shared,
            number: None,
        }
    }
}

impl<In, T, E> Drop for Watch<'_, In, T, E> {
    fn drop(&mut self) {
        self.shared.watchers.fetch_sub(1, Ordering::SeqCst);
        let Some(number) = self.number else { return };
        let mut state = self.shared.lock();
        let waker = state.watching.wakers.remove(&number);
        // A future sets its mark and leaves its waker under one lock. One that was woken sets its
        // mark again.
        if state.watching.wakers.is_empty() {
            state.admission.clear_thresholds();
        }
        drop(state);
        drop(waker);
    }
}

impl Refusal {
    /// The error of a submission, which gives the input back.
    pub(crate) fn into_error<In>(self, input: In) -> SubmitError<In> {
        match self {
            Self::Full => SubmitError::Full(input),
            Self::Closed => SubmitError::Closed(input),
            Self::Overloaded => SubmitError::Overloaded(input),
        }
    }
}

/// A wait for room, in a fair line. Dropping it leaves the line and passes on what was granted.
pub(crate) struct AcquirePermit<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    /// The group that the job is for, whose cancellation ends the wait.
    group: Option<Arc<CompletionQueue<In, T, E>>>,
    ticket: Option<u64>,
    mark: Option<WaitGuard<In, T, E>>,
}

impl<In, T, E> AcquirePermit<In, T, E> {
    pub(crate) fn new(
        shared: Arc<Shared<In, T, E>>,
        group: Option<Arc<CompletionQueue<In, T, E>>>,
    ) -> Self {
        if let Some(group) = &group {
            group.begin_submit();
        }
        Self {
            shared,
            group,
            ticket: None,
            mark: None,
        }
    }

    /// Ends with one reserved place, which the caller has to use or release.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<(), SubmitError<()>>> {
        let (polled, wakes) = {
            let mut state = self.shared.lock();
            let group = self.group.as_ref().map(|group| group.identity().get());
            let (polled, mut wakes) = state.admission.poll_reserve(&mut self.ticket, group, cx);
            if state.admission.is_awaited() {
                state.revoke_all();
                // What has happened since the journals were entered may have made room, which
                // nobody has been granted.
                state.admission.grant(&mut wakes);
            }
            (polled, wakes)
        };
        self.shared.run_wakes(wakes);
        // After it stands in line: a cancellation wakes those that do.
        if self
            .group
            .as_ref()
            .is_some_and(|group| group.cancelled().is_some())
        {
            if matches!(polled, Poll::Ready(Ok(()))) {
                self.shared.release_place();
            }
            self.leave();
            return Poll::Ready(Err(SubmitError::Closed(())));
        }
        match polled {
            Poll::Ready(decided) => {
                self.mark = None;
                Poll::Ready(decided.map_err(|refusal| refusal.into_error(())))
            }
            Poll::Pending
                if self.shared.register_wait(&mut self.mark, cx, || {
                    Wait::AcquirePermit(self.ticket.unwrap_or_default())
                }) =>
            {
                Poll::Pending
            }
            Poll::Pending => {
                self.leave();
                Poll::Ready(Err(SubmitError::WouldDeadlock(())))
            }
        }
    }

    /// Leaves the line.
    fn leave(&mut self) {
        self.mark = None;
        if let Some(ticket) = self.ticket.take() {
            let wakes = self.shared.lock().admission.cancel_wait(ticket);
            self.shared.run_wakes(wakes);
        }
    }
}

impl<In, T, E> Drop for AcquirePermit<In, T, E> {
    fn drop(&mut self) {
        self.leave();
        if let Some(group) = &self.group {
            group.end_submit();
        }
    }
}

/// The wait of a map for its source, or for room; without a place in any line. Dropping it ends the
/// wait.
pub(crate) struct MapWait<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    /// The identity of the map.
    map: usize,
    /// Whether the map may be among those that wait.
    is_waiting: bool,
    /// What was left to be woken when there is room, and how often maps had been told before.
    room: Option<(Waker, usize)>,
}

impl<In, T, E> MapWait<In, T, E> {
    pub(crate) const fn new(shared: Arc<Shared<In, T, E>>, map: usize) -> Self {
        Self {
            shared,
            map,
            is_waiting: false,
            room: None,
        }
    }

    /// Begins to pull an input, for which no place is needed. `None`: there has to be room first.
    pub(crate) fn begin_pull<'a>(
        &mut self,
        shared: &'a Arc<Shared<In, T, E>>,
    ) -> Result<Option<Pull<'a, In, T, E>>, Refusal> {
        self.room = None;
        let may_pull = shared.lock().admission.begin_pull(self.map)?;
        Ok(may_pull.then(|| Pull {
            shared,
            map: self.map,
            state: PullState::First,
        }))
    }

    /// Has the task woken when the pool closes and, if the map `wants_room`, when there is some.
    pub(crate) fn wait(&mut self, wants_room: bool, cx: &Context<'_>) {
        // Before the waker is left: a map that is told after that has not been counted.
        let told = self.shared.told.load(Ordering::SeqCst);
        self.is_waiting = true;
        let (looks_again, wakes) = self
            .shared
            .lock()
            .admission
            .wait_as_map(self.map, wants_room, cx);
        self.shared.run_wakes(wakes);
        if looks_again {
            cx.waker().wake_by_ref();
        } else if wants_room {
            self.room = Some((cx.waker().clone(), told));
        }
    }

    /// Whether the task will be woken when there is room, so that it need not dispatch before.
    pub(crate) fn is_waiting_for_room(&self, cx: &Context<'_>) -> bool {
        self.room.as_ref().is_some_and(|(waker, told)| {
            *told == self.shared.told.load(Ordering::SeqCst) && waker.will_wake(cx.waker())
        })
    }

    /// The map pulls no more.
    pub(crate) fn leave(&mut self) {
        drop(self.take_waker());
    }

    /// The same, for a map that is cancelled: wakes the task that waits.
    pub(crate) fn leave_and_wake(&mut self) {
        panic::wake(self.take_waker());
    }

    fn take_waker(&mut self) -> Option<Waker> {
        self.room = None;
        if !std::mem::take(&mut self.is_waiting) {
            return None;
        }
        let (waker, wakes) = self.shared.lock().admission.cancel_map_wait(self.map);
        self.shared.run_wakes(wakes);
        waker
    }
}

impl<In, T, E> Drop for MapWait<In, T, E> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What a map holds while it pulls inputs, within one poll: the right to one input, or places for
/// several. Dropping it gives them back.
pub(crate) struct Pull<'a, In, T, E> {
    pub(crate) shared: &'a Arc<Shared<In, T, E>>,
    map: usize,
    state: PullState,
}

#[derive(Debug, Clone, Copy)]
enum PullState {
    /// One input may be pulled without a place.
    First,
    Places(usize),
}

impl<In, T, E> Pull<'_, In, T, E> {
    /// An input was pulled. Takes up to `want` places, for that one and others; says how many there
    /// are.
    pub(crate) fn take_places(&mut self, want: usize) -> usize {
        if let PullState::First = self.state {
            match self.shared.lock().admission.acquire_pulled(want) {
                0 => {}
                places => self.state = PullState::Places(places),
            }
        }
        self.places()
    }

    pub(crate) const fn places(&self) -> usize {
        match self.state {
            PullState::First => 0,
            PullState::Places(places) => places,
        }
    }

    /// Accepts `used` inputs, at most as many as there are places, gives the other places back, and
    /// takes up to `more` new ones. Without a place, `used` is 1, and that job is queued beyond the
    /// capacity. Returns the number of the first job, and the limits of the pool.
    pub(crate) fn accept(&mut self, used: usize, more: usize) -> (JobId, Origin, Limits) {
        let (first, origin, limits, wakes) = {
            let mut state = self.shared.lock();
            let (first, origin, wakes) = match self.state {
                PullState::First => (
                    state.admission.accept_extra(self.map),
                    Origin::Extra,
                    Wakes::default(),
                ),
                PullState::Places(places) => {
                    let (first, wakes) = state.admission.commit(places, used);
                    (first, Origin::Outside, wakes)
                }
            };
            // None, where it would cost a wake: a map that asks again is told why.
            let is_open = more > 0 && state.admission.pool_state() == PoolState::Open;
            self.state = PullState::Places(if is_open {
                state.admission.acquire_many(more)
            } else {
                0
            });
            (first, origin, state.limits, wakes)
        };
        self.shared.run_wakes(wakes);
        (first, origin, limits)
    }
}

impl<In, T, E> Drop for Pull<'_, In, T, E> {
    fn drop(&mut self) {
        let wakes = match self.state {
            PullState::First => self.shared.lock().admission.end_pull(),
            // None of them would change nothing, but cost time.
            PullState::Places(0) => return,
            PullState::Places(places) => self.shared.lock().admission.commit(places, 0).1,
        };
        self.shared.run_wakes(wakes);
    }
}
