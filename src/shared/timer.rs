//! Who waits for the next moment at which the schedule has something to do: one of the workers,
//! beside whatever else it waits for. So a pool spawns nothing for it, and a deadline is noticed
//! while all workers are busy.
//!
//! A worker that is about to wait takes the role if no other has it, and keeps it, busy or idle,
//! until it leaves. Its alarm is for the next moment and for no other: a change that moves the
//! moment, to an earlier time, a later one or none, wakes the worker, and that sets its alarm anew,
//! or drops it, before it waits again. When it leaves, or when there is a moment and no worker has
//! the role, a worker that waits is woken, and takes it as it goes back to waiting.
//!
//! What ends the loops of workers that let one moment after another pass: [`TimerDriver::poll`] is
//! ready at most [`MOMENTS_PER_TURN`] times before it is pending, however fast the clock is.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::Shared;
use crate::panic;
use crate::rt::BoxFuture;
use crate::schedule::clock::Tick;
use crate::sync::atomic::Ordering;

/// After so many moments that have passed, a worker lets others have the thread.
const MOMENTS_PER_TURN: usize = 16;

/// The role, kept under the shared state's lock.
#[derive(Debug, Default)]
pub(crate) struct TimerRole {
    /// Of the worker that has it.
    waker: Option<Waker>,
    /// For when its alarm is set, or is about to be; `None`: its alarm is not to be relied on.
    armed: Option<Tick>,
    is_held: bool,
    /// Whether the worker that has the role will dispatch at the moment before it waits: it runs, or
    /// was woken.
    is_awake: bool,
    /// Whether workers were woken to take the role and none has yet.
    is_offered: bool,
}

/// What has to be done once the lock is released, so that the next moment is waited for.
#[must_use = "the next moment passes unnoticed otherwise"]
#[derive(Debug, Default)]
pub(crate) struct TimerNotice {
    /// The worker that keeps the time has to dispatch again.
    timer_role: Option<Waker>,
    /// No worker keeps the time, and one has to.
    hand_on: bool,
}

impl TimerNotice {
    pub(crate) const NONE: Self = Self {
        timer_role: None,
        hand_on: false,
    };
}

impl TimerRole {
    /// The schedule wants to be asked again at `next`: says what has to be done for that.
    pub(super) fn dispatch(&mut self, next: Tick) -> TimerNotice {
        if !self.is_held {
            let hand_on = next != Tick::NEVER && !self.is_offered;
            self.is_offered |= hand_on;
            return TimerNotice {
                timer_role: None,
                hand_on,
            };
        }
        if self.is_awake || self.armed == Some(next) {
            return TimerNotice::NONE;
        }
        self.is_awake = true;
        TimerNotice {
            timer_role: self.waker.clone(),
            hand_on: false,
        }
    }

    /// The worker that has the role runs: it looks at the moment before it waits, and need not be
    /// woken for that.
    pub(super) const fn note_awake(&mut self) {
        self.is_awake = true;
    }

    /// The alarm goes off too late, since the clock has stepped back: the next dispatch has it set
    /// anew.
    pub(super) const fn distrust_alarm(&mut self) {
        self.armed = None;
    }
}

/// For the simulator.
#[cfg(feature = "testing")]
impl TimerRole {
    pub(super) const fn is_held(&self) -> bool {
        self.is_held
    }

    /// Whether the alarm is for this moment, or there is none where there is no moment.
    pub(super) fn is_armed_for(&self, next: Tick) -> bool {
        self.armed == Some(next)
    }
}

/// The part that one worker has in it. Dropping it hands the role on.
pub(crate) struct TimerDriver<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    slot: usize,
    alarm: Option<Alarm>,
    /// How many moments have passed since it was pending.
    passed: usize,
}

struct Alarm {
    at: Instant,
    /// What the clock of the schedule shows then.
    tick: Tick,
    sleep: BoxFuture<'static, ()>,
}

impl<In, T, E> TimerDriver<In, T, E> {
    pub(crate) const fn new(shared: Arc<Shared<In, T, E>>, slot: usize) -> Self {
        Self {
            shared,
            slot,
            alarm: None,
            passed: 0,
        }
    }

    /// Called each time the worker is about to wait. Ready when the next moment has come; it is to
    /// [`pass`](Self::pass) then.
    ///
    /// So a caller may go on as long as it is ready: after so many times it has the worker woken,
    /// and is pending.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.is_scheduled() {
            self.keep_time(cx)
        } else {
            Poll::Pending
        }
    }

    fn keep_time(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let slot = self.shared.timer_slot.load(Ordering::SeqCst);
        if slot != self.slot && slot != usize::MAX {
            return Poll::Pending;
        }
        if self.passed >= MOMENTS_PER_TURN {
            self.passed = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = self.poll_alarm(cx);
        self.passed = if polled.is_ready() {
            self.passed + 1
        } else {
            0
        };
        polled
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((at, tick)) = self.take_role(cx) else {
            self.alarm = None;
            return Poll::Pending;
        };
        match &mut self.alarm {
            Some(alarm) if alarm.at == at => alarm.tick = tick,
            _ => {
                self.alarm = Some(Alarm {
                    at,
                    tick,
                    sleep: self.shared.timer.sleep_until(at),
                });
            }
        }
        match &mut self.alarm {
            Some(alarm) => alarm.sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Lets the schedule know that the moment has come.
    pub(crate) fn pass(&mut self) {
        let Some(Alarm { tick, .. }) = self.alarm.take() else {
            return;
        };
        self.shared.update_schedule(|_, state, _| {
            if let Some(schedule) = &mut state.schedule {
                schedule.advance_to(tick);
            }
            state.timer_role.note_awake();
        });
    }

    /// Takes or keeps the role, unless another worker has it; returns the next moment, if there is
    /// one.
    fn take_role(&self, cx: &Context<'_>) -> Option<(Instant, Tick)> {
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        let timer_role = &mut state.timer_role;
        let is_mine = self.shared.timer_slot.load(Ordering::SeqCst) == self.slot;
        if timer_role.is_held && !is_mine {
            return None;
        }
        (
            timer_role.is_held,
            timer_role.is_offered,
            timer_role.is_awake,
        ) = (true, false, false);
        self.shared.timer_slot.store(self.slot, Ordering::SeqCst);
        let schedule = state.schedule.as_ref()?;
        let next = schedule.next();
        timer_role.armed = Some(next);
        let moment = schedule.instant(next).map(|at| (at, next));
        let is_known = timer_role
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()));
        let replaced = if is_known {
            None
        } else {
            timer_role.waker.replace(cx.waker().clone())
        };
        drop(guard);
        drop(replaced);
        moment
    }
}

impl<In, T, E> Drop for TimerDriver<In, T, E> {
    fn drop(&mut self) {
        if !self.shared.is_scheduled() {
            return;
        }
        let (waker, notice) = {
            let mut state = self.shared.lock();
            let is_mine = self.shared.timer_slot.load(Ordering::SeqCst) == self.slot;
            if state.timer_role.is_held && !is_mine {
                return;
            }
            // If no worker has the role, it may be this one that was woken to take it.
            let timer_role = std::mem::take(&mut state.timer_role);
            self.shared.timer_slot.store(usize::MAX, Ordering::SeqCst);
            let next = state
                .schedule
                .as_ref()
                .map_or(Tick::NEVER, |schedule| schedule.next());
            (timer_role.waker, state.timer_role.dispatch(next))
        };
        drop(waker);
        self.shared.notify_timer(notice);
    }
}

impl<In, T, E> Shared<In, T, E> {
    /// Whether the worker of this slot keeps the time.
    pub(super) fn drives_timer(&self, slot: usize) -> bool {
        self.timer_slot.load(Ordering::SeqCst) == self.slots_of(self.worker_of(slot)).start
    }

    /// Does what is needed for the next moment to be waited for, with no lock held.
    #[inline]
    pub(crate) fn notify_timer(&self, notice: TimerNotice) {
        let TimerNotice {
            timer_role,
            hand_on,
        } = notice;
        panic::wake(timer_role);
        if hand_on {
            self.hand_over_timer();
        }
    }

    /// Lets a worker that waits dispatch whether the time is to be kept. One that does not wait looks
    /// before it does.
    #[cold]
    fn hand_over_timer(&self) {
        if !self.injector.wake_sleeper() {
            for cancel_flag in self.cancel_flags.made(0..self.cancel_flags.len()) {
                panic::wake(cancel_flag.listener());
            }
        }
    }
}
