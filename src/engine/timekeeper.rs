//! Who waits for the next moment at which the schedule has something to do: one of the workers, beside whatever else it
//! waits for. So a pool spawns nothing for it, and a deadline is noticed while all workers are busy.
//!
//! A worker that is about to wait takes the role if nobody has it, and keeps it, busy or idle, until it leaves. Whoever
//! brings an earlier moment wakes it. When it leaves, or when there is a moment and nobody has the role, a worker that waits
//! is woken, and takes it as it goes back to waiting.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::Engine;
use crate::attempt::unwind;
use crate::planted::{self, Bug};
use crate::queue::schedule::clock::Tick;
use crate::rt::BoxFuture;
use crate::sync::atomic::Ordering;

/// The role, kept under the engine's lock.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// Of the worker that has it.
    waker: Option<Waker>,
    /// For when its alarm is set, or is about to be.
    armed: Tick,
    is_held: bool,
    /// Whether workers were woken to take the role and none has yet.
    is_offered: bool,
}

impl Default for Keeper {
    fn default() -> Self {
        Self { waker: None, armed: Tick::NEVER, is_held: false, is_offered: false }
    }
}

impl Keeper {
    /// The schedule wants to be asked again at `next`: says whom to wake for that, and whether the role has to be taken.
    pub(super) fn look(&mut self, next: Tick) -> (Option<Waker>, bool) {
        if !self.is_held {
            let offer = next != Tick::NEVER && !self.is_offered;
            self.is_offered |= offer;
            return (None, offer);
        }
        if next < self.armed {
            self.armed = next;
            return (self.waker.clone(), false);
        }
        (None, false)
    }

    /// The alarm goes off too late, since the clock has stepped back: whoever looks next has it set anew.
    pub(super) const fn mistrust_alarm(&mut self) {
        self.armed = Tick::NEVER;
    }
}

/// For the simulator.
#[cfg(feature = "testing")]
impl Keeper {
    pub(super) const fn is_held(&self) -> bool {
        self.is_held
    }

    pub(super) fn is_armed_for(&self, next: Tick) -> bool {
        self.is_held && self.armed <= next
    }
}

/// The part that one worker has in it. Dropping it hands the role on.
pub(crate) struct Timekeeping<In, T, E> {
    engine: Arc<Engine<In, T, E>>,
    slot: usize,
    alarm: Option<(Instant, Tick, BoxFuture<'static, ()>)>,
}

impl<In, T, E> Timekeeping<In, T, E> {
    pub(crate) const fn new(engine: Arc<Engine<In, T, E>>, slot: usize) -> Self {
        Self { engine, slot, alarm: None }
    }

    /// Called each time the worker is about to wait. Ready when the next moment has come; it is to [`pass`](Self::pass) then.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.engine.is_scheduled() { self.keep_time(cx) } else { Poll::Pending }
    }

    fn keep_time(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let keeper = self.engine.keeper_slot.load(Ordering::SeqCst);
        if keeper != self.slot && keeper != usize::MAX {
            return Poll::Pending;
        }
        let Some((at, tick)) = self.take_role(cx) else {
            self.alarm = None;
            return Poll::Pending;
        };
        // One that goes off too early is no harm: it is set anew then.
        if self.alarm.as_ref().is_none_or(|(set, ..)| *set > at) {
            self.alarm = Some((at, tick, self.engine.timer.sleep_until(at)));
        }
        match &mut self.alarm {
            Some((.., alarm)) => alarm.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Lets the schedule know that the moment has come.
    pub(crate) fn pass(&mut self) {
        let Some((_, tick, _)) = self.alarm.take() else { return };
        self.engine.change_schedule(|_, state, _| {
            if let Some(schedule) = &mut state.schedule {
                schedule.reach(tick);
            }
        });
    }

    /// Takes or keeps the role, unless somebody else has it; returns the next moment, if there is one.
    fn take_role(&self, cx: &Context<'_>) -> Option<(Instant, Tick)> {
        let mut guard = self.engine.state();
        let state = &mut *guard;
        let keeper = &mut state.keeper;
        let is_mine = self.engine.keeper_slot.load(Ordering::SeqCst) == self.slot;
        if keeper.is_held && !is_mine {
            return None;
        }
        (keeper.is_held, keeper.is_offered) = (true, false);
        self.engine.keeper_slot.store(self.slot, Ordering::SeqCst);
        let schedule = state.schedule.as_ref()?;
        keeper.armed = schedule.next();
        let moment = schedule.instant(keeper.armed).map(|at| (at, keeper.armed));
        let is_known = keeper.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        let replaced = if is_known { None } else { keeper.waker.replace(cx.waker().clone()) };
        drop(guard);
        drop(replaced);
        moment
    }
}

impl<In, T, E> Drop for Timekeeping<In, T, E> {
    fn drop(&mut self) {
        if !self.engine.is_scheduled() || planted::is(Bug::LeakTime) {
            return;
        }
        let (waker, is_needed) = {
            let mut state = self.engine.state();
            let is_mine = self.engine.keeper_slot.load(Ordering::SeqCst) == self.slot;
            if state.keeper.is_held && !is_mine {
                return;
            }
            // If nobody has the role, it may be this one who was woken to take it.
            let keeper = std::mem::take(&mut state.keeper);
            self.engine.keeper_slot.store(usize::MAX, Ordering::SeqCst);
            let next = state.schedule.as_ref().map_or(Tick::NEVER, |schedule| schedule.next());
            (keeper.waker, state.keeper.look(next).1)
        };
        drop(waker);
        if is_needed {
            self.engine.hand_on_time();
        }
    }
}

impl<In, T, E> Engine<In, T, E> {
    /// Lets a worker that waits look whether the time is to be kept. One that does not wait looks before it does.
    pub(super) fn hand_on_time(&self) {
        if !self.injector.wake_sleeper() {
            for signal in self.signals.made(0..self.signals.len()) {
                unwind::wake(signal.listener());
            }
        }
    }
}
