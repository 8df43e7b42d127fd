//! Waits that a pool has to know of: for room in its queue, and those of its own jobs, which may never end. A running job
//! that waits for its own pool is entered in the running book; if every slot then waits, the last one is told.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::{Engine, State};
use crate::attempt::inside::{self, Place};
use crate::queue::ledger::Refusal;
use crate::reply::Cell;
use crate::results::stream::Stream;
use crate::sync::atomic::Ordering;

impl<In, T, E> Engine<In, T, E> {
    /// Says whether the caller may wait for this pool, and keeps the mark of the wait up to date.
    ///
    /// Outside the pool's jobs it always may. Inside, it may not if every slot would then wait.
    pub(crate) fn may_wait(
        self: &Arc<Self>,
        mark: &mut Option<WaitMark<In, T, E>>,
        cx: &Context<'_>,
        what: impl FnOnce() -> Wait<In, T, E>,
    ) -> bool {
        let Some(place) = inside::find(self.identity()) else {
            *mark = None;
            return true;
        };
        // The waker of what waits, which may be another than that of the job.
        let mut waker = cx.waker().clone();
        let is_known = mark.as_ref().filter(|mark| mark.place == place).is_some_and(|mark| {
            let mut state = self.state();
            let waiting = state.running.wait_mut(mark.number);
            waiting.map(|waiting| std::mem::swap(&mut waiting.waker, &mut waker)).is_some()
        });
        if !is_known {
            *mark = None;
            let waiting = Waiting { what: what(), waker };
            let number = self.state().running.begin_wait(place.slot, place.id, waiting);
            *mark = Some(WaitMark { engine: Arc::clone(self), place, number });
        }
        let is_stuck = self.is_stuck();
        if is_stuck {
            *mark = None;
        }
        !is_stuck
    }

    /// Whether everything that runs waits for the pool, none of these waits is over, and nothing else can start.
    ///
    /// Looked at without the lock: while that is so, only somebody outside can end a wait meanwhile.
    fn is_stuck(&self) -> bool {
        let waits: Vec<(usize, Wait<In, T, E>)> = {
            let state = self.state();
            if !state.is_blocked() {
                return false;
            }
            state.running.waiting().map(|(slot, waiting)| (slot, waiting.what.clone())).collect()
        };
        // A job that is interrupted is about to leave its slot.
        waits.iter().all(|(slot, what)| !what.is_over(self) && self.signals[*slot].interrupted().is_none())
    }
}

impl<In, T, E> State<In, T, E> {
    /// Whether all jobs that run wait for the pool, and no other can start: since every slot is held, or since their keys
    /// let none start.
    pub(super) fn is_blocked(&self) -> bool {
        let (slots, blocked) = (self.ledger.slots(), self.running.blocked());
        if blocked == 0 {
            return false;
        }
        match &self.schedule {
            None => self.running.is_blocked(slots),
            Some(schedule) => {
                blocked >= self.ledger.running()
                    && (blocked >= slots.min(schedule.allowed()) || schedule.is_stuck(self.ledger.queued_total()))
            }
        }
    }

    /// Those to wake so that they find that they would wait for ever, if it is so.
    pub(super) fn blocked(&self) -> Vec<Waker> {
        if self.is_blocked() {
            self.running.waiting().map(|(_, waiting)| waiting.waker.clone()).collect()
        } else {
            Vec::new()
        }
    }
}

/// A wait of a job for its own pool.
pub(crate) struct Waiting<In, T, E> {
    what: Wait<In, T, E>,
    /// Woken when a worker leaves: the wait may have become one without end.
    waker: Waker,
}

/// What a job waits for inside its own pool.
pub(crate) enum Wait<In, T, E> {
    /// The outcome of a job.
    Cell(Arc<Cell<In, T, E>>),
    /// A completion of a map or group.
    Stream(Arc<Stream<In, T, E>>),
    /// Room in the queue, with the number in the line.
    Room(u64),
}

impl<In, T, E> Wait<In, T, E> {
    /// Whether it is over, though the job may not have noticed, or about to be over.
    fn is_over(&self, engine: &Engine<In, T, E>) -> bool {
        match self {
            Self::Cell(cell) => cell.is_decided(),
            Self::Stream(stream) => stream.is_fed(),
            Self::Room(number) => !engine.state().ledger.is_in_line(*number),
        }
    }
}

impl<In, T, E> Clone for Wait<In, T, E> {
    fn clone(&self) -> Self {
        match self {
            Self::Cell(cell) => Self::Cell(Arc::clone(cell)),
            Self::Stream(stream) => Self::Stream(Arc::clone(stream)),
            Self::Room(number) => Self::Room(*number),
        }
    }
}

/// A job that waits for its own pool; dropping it ends the wait.
pub(crate) struct WaitMark<In, T, E> {
    engine: Arc<Engine<In, T, E>>,
    place: Place,
    number: u64,
}

impl<In, T, E> Drop for WaitMark<In, T, E> {
    fn drop(&mut self) {
        let what = self.engine.state().running.end_wait(self.number);
        drop(what);
    }
}

/// A wait for room, in a fair line. Dropping it leaves the line and passes on what was granted.
pub(crate) struct Room<In, T, E> {
    engine: Arc<Engine<In, T, E>>,
    /// Whether it may join a line that is full: a map, which is one waiter for all its inputs.
    may_exceed: bool,
    ticket: Option<u64>,
    /// Where its waker was left when it was patient last.
    patience: Option<Patience>,
    /// Whether it has been, and has found no room since.
    has_asked: bool,
    /// Whether others take what room there is: it stands in line, until there is as much as it wants.
    is_pressed: bool,
    mark: Option<WaitMark<In, T, E>>,
}

/// A waker that was left for the time when there is room.
struct Patience {
    ticket: u64,
    waker: Waker,
    /// How often anybody had been told before.
    told: usize,
}

/// Why there will be no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoom {
    Closed,
    Overloaded,
    WouldDeadlock,
}

impl<In, T, E> Room<In, T, E> {
    pub(crate) const fn new(engine: Arc<Engine<In, T, E>>, may_exceed: bool) -> Self {
        Self { engine, may_exceed, ticket: None, patience: None, has_asked: false, is_pressed: false, mark: None }
    }

    /// Ends with one reserved place, which the caller has to use or release.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<(), NoRoom>> {
        let (polled, wakes) = {
            let mut state = self.engine.state();
            let (polled, mut wakes) = state.ledger.poll_reserve(&mut self.ticket, self.may_exceed, cx);
            if state.ledger.is_awaited() {
                state.call_desks();
                // What has happened since the journals were entered may have made room, which nobody has been granted.
                state.ledger.grant(&mut wakes);
            }
            (polled, wakes)
        };
        self.engine.carry_out(wakes);
        match polled {
            Poll::Ready(decided) => {
                self.mark = None;
                Poll::Ready(decided.map_err(|refusal| match refusal {
                    Refusal::Overloaded => NoRoom::Overloaded,
                    Refusal::Closed | Refusal::Full => NoRoom::Closed,
                }))
            }
            Poll::Pending
                if self.engine.may_wait(&mut self.mark, cx, || Wait::Room(self.ticket.unwrap_or_default())) =>
            {
                Poll::Pending
            }
            Poll::Pending => {
                self.leave();
                Poll::Ready(Err(NoRoom::WouldDeadlock))
            }
        }
    }

    /// Has the task woken when there is room for several; without standing in line.
    pub(crate) fn be_patient(&mut self, cx: &Context<'_>) {
        if self.is_patient(cx) {
            return;
        }
        // Before the waker is left: whoever is told after that has not been counted.
        let told = self.engine.told.load(Ordering::SeqCst);
        let mut ticket = self.patience.as_ref().map(|patience| patience.ticket);
        let wakes = self.engine.state().ledger.be_patient(&mut ticket, cx);
        self.patience = ticket.map(|ticket| Patience { ticket, waker: cx.waker().clone(), told });
        self.engine.carry_out(wakes);
        if self.engine.is_scheduled() {
            // Switched on since: whoever was patient before has been told.
            cx.waker().wake_by_ref();
        }
    }

    /// So many places were found of those that it wants.
    pub(crate) fn note_found(&mut self, found: usize, wanted: usize) {
        self.has_asked = false;
        self.is_pressed &= found < wanted;
    }

    /// No place was found: whether it may be patient. If it was told of room since it asked first, others were faster.
    pub(crate) fn may_be_patient(&mut self) -> bool {
        let told = self.engine.told.load(Ordering::SeqCst);
        let was_told = self.patience.as_ref().is_some_and(|patience| patience.told != told);
        self.is_pressed |= self.has_asked && was_told;
        self.has_asked = true;
        !self.is_pressed
    }

    /// Whether the task will be woken when there is room, so that it need not ask before.
    pub(crate) fn is_patient(&self, cx: &Context<'_>) -> bool {
        self.patience.as_ref().is_some_and(|patience| {
            patience.told == self.engine.told.load(Ordering::SeqCst) && patience.waker.will_wake(cx.waker())
        })
    }

    /// The task needs no more room.
    pub(crate) fn leave_for_good(&mut self) {
        self.leave();
        if let Some(Patience { ticket, .. }) = self.patience.take() {
            let wakes = self.engine.state().ledger.be_patient_no_more(ticket);
            self.engine.carry_out(wakes);
        }
    }

    /// Whether it stands in line.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.ticket.is_some()
    }

    /// Leaves the line.
    #[inline]
    pub(crate) fn leave(&mut self) {
        if self.ticket.is_some() || self.mark.is_some() {
            self.leave_now();
        }
    }

    #[cold]
    fn leave_now(&mut self) {
        self.mark = None;
        if let Some(ticket) = self.ticket.take() {
            let wakes = self.engine.state().ledger.leave_line(ticket);
            self.engine.carry_out(wakes);
        }
    }
}

impl<In, T, E> Drop for Room<In, T, E> {
    fn drop(&mut self) {
        self.leave_for_good();
    }
}
