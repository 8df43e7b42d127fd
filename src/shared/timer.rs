//! Drives the timer of the schedule: one of the workers waits for the schedule's `wake_at`, in
//! addition to what it waits for anyway. So the pool spawns no task for it, and a deadline is
//! noticed while all workers are busy.
//!
//! A worker that is about to wait takes the *timer role* if no other worker holds it, and holds it,
//! busy or idle, until it leaves. Below, *needed* means that `wake_at` is not never.
//!
//! Invariant: if the role is needed, then (a) a worker holds it, or (b) a worker is awake that will
//! ask for it before it waits, or (c) no worker is left.
//!
//! * Held: the worker has an alarm for `armed`, or is about to set one. [`TimerRole::dispatch`]
//!   with another `wake_at` (earlier, later or never) sets `is_awake` and wakes the worker after
//!   unlocking; if `is_awake` is set already, it does nothing. The worker clears `is_awake` and
//!   sets or drops its alarm ([`TimerDriver::poll`]) before it waits. So while no worker runs,
//!   `armed` is `wake_at`, and no alarm is left without one.
//! * Needed and not held: `dispatch` offers the role, once. If a worker sleeps in the injector, one
//!   is notified; the notification is passed on if its receiver stops. Otherwise all workers
//!   that wait in a handler are woken. A worker that is running asks for the role before it waits.
//! * The holder leaves, or any worker leaves while the role is offered (it may be the one that was
//!   woken): the role is offered again.
//!
//! When the alarm fires, the worker (1) stops its `Injector::pop`, so that notifications for the
//! jobs released next go to other workers, (2) calls [`TimerDriver::pass`], which advances the
//! schedule to the alarm's tick, whatever the clock shows. So a clock that stands still or steps
//! back cannot make one alarm fire again and again. A step back also makes an alarm late that was
//! set before; the next dispatch replaces it.
//!
//! `wake_at` is always a time at which something can be done (a job starts, a delay ends, a
//! deadline passes, a lane is removed), so alarms are no more than jobs and lanes. Where they fire
//! faster than the worker handles them, `poll` is ready at most [`MAX_ALARMS`] times in a row; then
//! the worker wakes itself and yields the thread.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::Shared;
use crate::panic;
use crate::queue::admission::Wakes;
use crate::rt::BoxFuture;
use crate::schedule::clock::Tick;
use crate::sync::atomic::Ordering;

/// After so many alarms in a row a worker yields the thread.
const MAX_ALARMS: usize = 16;

/// The timer role, guarded by the shared state's lock.
#[derive(Debug, Default)]
pub(crate) struct TimerRole {
    /// Of the worker that holds the role.
    waker: Option<Waker>,
    /// The tick of the holder's alarm, set or about to be; `None` if the alarm cannot be relied on.
    armed: Option<Tick>,
    is_held: bool,
    /// Whether the holder reads `wake_at` before it waits: it is running or was woken.
    is_awake: bool,
    /// Whether workers were woken to take the role and none has yet.
    is_offered: bool,
}

impl TimerRole {
    /// Updates the role for the schedule's `wake_at`: wakes the holder or offers the role, if
    /// necessary.
    pub(super) fn dispatch(&mut self, next: Tick, wakes: &mut Wakes) {
        if !self.is_held {
            if next != Tick::NEVER && !self.is_offered {
                self.is_offered = true;
                wakes.offers_timer_role = true;
            }
        } else if !self.is_awake && self.armed != Some(next) {
            self.is_awake = true;
            wakes.timer_driver.clone_from(&self.waker);
        }
    }

    /// Notes that the holder is running: it reads `wake_at` before it waits, and need not be woken
    /// for that.
    pub(super) const fn note_awake(&mut self) {
        self.is_awake = true;
    }

    /// Makes the next dispatch replace the alarm, which is late since the clock has stepped back.
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

    /// Whether the alarm is for this tick, or there is none if it is never.
    pub(super) fn is_armed_for(&self, next: Tick) -> bool {
        self.armed == Some(next)
    }
}

/// The timer of one worker. Dropping it hands the role over.
pub(crate) struct TimerDriver<In, T, E> {
    shared: Arc<Shared<In, T, E>>,
    slot: usize,
    alarm: Option<Alarm>,
    /// The number of alarms that have fired since it was pending.
    passed: usize,
}

struct Alarm {
    at: Instant,
    /// The tick of the schedule's clock at that time.
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

    /// Called each time the worker is about to wait. Ready when the alarm has fired; the worker
    /// then calls [`pass`](Self::pass).
    ///
    /// The worker may loop while it is ready: after [`MAX_ALARMS`] times it wakes the worker
    /// and is pending.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.is_scheduled() {
            self.poll_role(cx)
        } else {
            Poll::Pending
        }
    }

    fn poll_role(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let slot = self.shared.timer_slot.load(Ordering::SeqCst);
        if slot != self.slot && slot != usize::MAX {
            return Poll::Pending;
        }
        if self.passed >= MAX_ALARMS {
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

    /// Advances the schedule to the alarm's time and dispatches.
    pub(crate) fn pass(&mut self) {
        let Some(Alarm { tick, .. }) = self.alarm.take() else {
            return;
        };
        self.shared.update_schedule(|scheduler| {
            scheduler.schedule.advance_to(tick);
            scheduler.timer_role.note_awake();
        });
    }

    /// Takes or keeps the role, unless another worker holds it. Returns the time of the alarm to
    /// set.
    fn take_role(&self, cx: &Context<'_>) -> Option<(Instant, Tick)> {
        let mut synced = self.shared.lock();
        let scheduler = synced.scheduler.as_mut()?;
        let timer_role = &mut scheduler.timer_role;
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
        let next = scheduler.schedule.wake_at();
        timer_role.armed = Some(next);
        let wake_at = scheduler.schedule.instant(next).map(|at| (at, next));
        let is_known = timer_role
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()));
        let replaced = if is_known {
            None
        } else {
            timer_role.waker.replace(cx.waker().clone())
        };
        drop(synced);
        drop(replaced);
        wake_at
    }
}

impl<In, T, E> Drop for TimerDriver<In, T, E> {
    fn drop(&mut self) {
        let mut wakes = Wakes::default();
        {
            let mut synced = self.shared.lock();
            let Some(scheduler) = &mut synced.scheduler else {
                return;
            };
            let is_mine = self.shared.timer_slot.load(Ordering::SeqCst) == self.slot;
            if scheduler.timer_role.is_held && !is_mine {
                return;
            }
            // If no worker holds the role, this one may be the one that was woken to take it.
            let left = std::mem::take(&mut scheduler.timer_role);
            wakes.unneeded = left.waker;
            self.shared.timer_slot.store(usize::MAX, Ordering::SeqCst);
            let next = scheduler.schedule.wake_at();
            scheduler.timer_role.dispatch(next, &mut wakes);
        }
        self.shared.run_wakes(wakes);
    }
}

impl<In, T, E> Shared<In, T, E> {
    /// Whether the worker of this slot holds the timer role.
    pub(super) fn drives_timer(&self, slot: usize) -> bool {
        self.timer_slot.load(Ordering::SeqCst) == self.slots_of(self.worker_of(slot)).start
    }

    /// Wakes a waiting worker, which takes the role. A running one asks for it before it waits.
    #[cold]
    pub(super) fn hand_over_timer(&self) {
        if !self.injector.wake_sleeper() {
            for cancel_flag in self.cancel_flags.allocated(0..self.slot_count()) {
                panic::wake(cancel_flag.waker());
            }
        }
    }
}
