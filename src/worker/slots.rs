//! A worker with many slots: it polls its jobs itself, those that were woken, and takes another one as soon as a slot is free.
//!
//! A slot is made when it is needed first and used again after: one allocation for the future of its jobs and one for its waker.
//! A slot that was free last is used first, so a worker whose jobs do not wait has one slot.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::woken::{SlotWaker, Woken};
use super::{JOBS_PER_TURN, Seat, Start, end, start};
use crate::attempt::Attempt;
use crate::engine::Engine;
use crate::engine::timekeeper::Timekeeping;
use crate::handler::Shared;
use crate::observe::Event;
use crate::queue::ready::Closed;
use crate::reply::{Entry, Outbox, Ticket};

/// After so many jobs that went on, a worker with a free slot looks whether another one has come.
const JOBS_PER_LOOK: usize = 16;

/// Runs jobs until the pool is drained or aborted.
pub(super) async fn run<In, C: Shared<In>>(seat: Seat<In, C::Value, C::Error>, call: C) {
    // Parameters are dropped last, the seat after the handler: that goes while its worker still counts as there.
    let engine = Arc::clone(&seat.engine);
    let own = engine.slots_of(seat.worker);
    // An outcome is out when its future is gone, so this is dropped after the slots.
    let mut outbox = Outbox::new();
    let mut slots =
        Slots::new(&engine, own.len(), own.start, |Start { id, attempts, slot, deadline, input, submitter }| {
            let call = &call;
            Attempt::new(id, attempts, slot, seat.worker, deadline, move || call.start(input, submitter))
        });
    let mut time = Timekeeping::new(Arc::clone(&engine), own.start);
    // Its place in the line for a job, while it stands there.
    let mut line = pin!(false.then(|| engine.ready.pop()));
    let mut gone_on = 0;
    poll_fn(|cx| {
        // A job that always wakes itself gets the others their turn: those of this worker, those in the queue, and the executor.
        let mut polls = slots.count();
        for _ in 0..JOBS_PER_TURN {
            gone_on += 1;
            if gone_on < JOBS_PER_LOOK
                && let Some(at) = slots.woken.next()
            {
                if polls == 0 {
                    slots.woken.put_back(at);
                    break;
                }
                polls -= 1;
                // A job that comes is not to wait for one that is busy.
                line.set(None);
                slots.go_on(at, &mut outbox);
                continue;
            }
            gone_on = 0;
            let next = match line.as_mut().as_pin_mut() {
                _ if slots.is_full() => None,
                None => Some(engine.ready.try_pop()),
                Some(pop) => match pop.poll(cx) {
                    Poll::Ready(popped) => Some(popped.map(Some)),
                    Poll::Pending => Some(Ok(None)),
                },
            };
            match next {
                Some(Ok(Some(entry))) => {
                    line.set(None);
                    slots.take(entry, &mut outbox, C::WANTS_SUBMITTER);
                    continue;
                }
                Some(Ok(None)) => {
                    outbox.flush();
                    if line.is_none() {
                        line.set(Some(engine.ready.pop()));
                        continue;
                    }
                }
                Some(Err(Closed)) if slots.is_empty() => return Poll::Ready(()),
                // All are occupied, or the last of them are about to end.
                Some(Err(Closed)) | None => {
                    line.set(None);
                    outbox.flush();
                }
            }
            if time.poll(cx).is_ready() {
                // Not in line for a job any more, so what it releases does not wake this worker itself.
                line.set(None);
                time.pass();
                continue;
            }
            if slots.woken.wait(cx.waker()) {
                return Poll::Pending;
            }
        }
        line.set(None);
        outbox.flush();
        while time.poll(cx).is_ready() {
            time.pass();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The slots that were needed so far. `make` makes an attempt of a handler's future `F`, which `X` makes.
struct Slots<'a, In, T, E, X, F, M> {
    engine: &'a Arc<Engine<In, T, E>>,
    make: M,
    woken: Arc<Woken>,
    /// How many there may be.
    most: usize,
    /// The number of the first within the pool.
    first: usize,
    /// Bounded by `most`.
    slots: Vec<Slot<In, T, E, X, F>>,
    /// Those of them that have no job; the one that was freed last comes last.
    free: Vec<usize>,
}

struct Slot<In, T, E, X, F> {
    // Before the ticket: an outcome is told when the future is gone.
    attempt: Pin<Box<Option<Attempt<X, F>>>>,
    ticket: Ticket<In, T, E>,
    listing: Arc<SlotWaker>,
    /// The same, as polls want it.
    waker: Waker,
}

impl<'a, In, T, E, X, F, M> Slots<'a, In, T, E, X, F, M>
where
    M: Fn(Start<In, T, E>) -> Attempt<X, F>,
    X: FnOnce() -> F,
    F: Future<Output = Result<T, E>>,
{
    fn new(engine: &'a Arc<Engine<In, T, E>>, most: usize, first: usize, make: M) -> Self {
        Self { engine, make, woken: Arc::new(Woken::default()), most, first, slots: Vec::new(), free: Vec::new() }
    }

    /// How many there are so far.
    fn count(&self) -> usize {
        self.slots.len()
    }

    fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() == self.most
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Starts a job in a free slot, and polls it.
    fn take(&mut self, entry: Entry<In, T, E>, outbox: &mut Outbox<In, T, E>, wants_submitter: bool) {
        let at = match self.free.last() {
            Some(at) => *at,
            None => self.add(),
        };
        let number = self.first + at;
        outbox.book_unless_of(number);
        let ticket = &mut self.slots[at].ticket;
        let Some(started) = start(self.engine, number, entry, ticket, outbox, wants_submitter) else { return };
        self.free.pop();
        self.slots[at].attempt.set(Some((self.make)(started)));
        self.poll(at, outbox);
    }

    /// Makes one more slot, without a job.
    fn add(&mut self) -> usize {
        let at = self.slots.len();
        let listing = SlotWaker::new(&self.woken, at);
        let waker = Waker::from(Arc::clone(&listing));
        self.slots.push(Slot { attempt: Box::pin(None), ticket: Ticket::new(self.first + at), listing, waker });
        self.free.push(at);
        at
    }

    /// Goes on with the job of a slot that was woken.
    fn go_on(&mut self, at: usize, outbox: &mut Outbox<In, T, E>) {
        let slot = &self.slots[at];
        slot.listing.unlist();
        // It may have been woken by a job that is gone.
        if slot.attempt.is_some() {
            outbox.book();
            outbox.clear_for(slot.ticket.stream());
            self.poll(at, outbox);
        }
    }

    fn poll(&mut self, at: usize, outbox: &mut Outbox<In, T, E>) {
        let slot = &mut self.slots[at];
        let Some(mut attempt) = slot.attempt.as_mut().as_pin_mut() else { return };
        let polled = attempt.as_mut().poll(self.engine, |_| {}, &mut Context::from_waker(&slot.waker));
        let Poll::Ready(result) = polled else {
            // What others are waiting for does not wait for more of these.
            outbox.send_if_due();
            return;
        };
        let drop_panicked = attempt.discard();
        slot.attempt.set(None);
        self.free.push(at);
        let job = slot.ticket.id;
        if drop_panicked {
            self.engine.observe(|| Event::DropPanicked { job });
        }
        end(self.engine, result, &mut slot.ticket, outbox);
    }
}

impl<In, T, E, X, F, M> Drop for Slots<'_, In, T, E, X, F, M> {
    fn drop(&mut self) {
        self.woken.leave();
    }
}
