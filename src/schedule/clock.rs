//! The time of the schedule: whole nanoseconds since the pool was made, monotonic whatever the
//! clock shows. Pure.
//!
//! * A reading that is later than the last one advances the [`Tick`] by the difference.
//! * A reading that is earlier advances nothing, and the ticks go on from there. So after a clock
//!   steps back an hour, nothing is delayed by an hour.
//! * A reading is also earlier if another thread read the clock later and locked first. It is
//!   distinguished from a step back by its generation: the number of readings that had been
//!   accepted before it was made.
//!
//! All sums saturate.

use std::time::{Duration, Instant};

use super::slab::RecordId;
use crate::time::nanos;

/// Nanoseconds since the pool was made. The maximum, 584 years, stands for "never".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub(crate) struct Tick(pub(crate) u64);

impl Tick {
    pub(crate) const NEVER: Self = Self(u64::MAX);

    /// The tick that much later, at most [`NEVER`](Self::NEVER).
    pub(crate) fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(nanos(wait)))
    }

    pub(crate) const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A tick and a record, ordered by the tick. As small as possible, since there may be millions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due {
    high: u32,
    low: u32,
    record_id: RecordId,
}

impl Due {
    pub(crate) const fn new(tick: Tick, record_id: RecordId) -> Self {
        Self {
            high: (tick.0 >> 32) as u32,
            low: tick.0 as u32,
            record_id,
        }
    }

    pub(crate) const fn tick(self) -> Tick {
        Tick(((self.high as u64) << 32) + self.low as u64)
    }

    pub(crate) const fn record_id(self) -> RecordId {
        self.record_id
    }
}

/// A reading of the clock, with the number of readings that were accepted before it was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) at: Instant,
    pub(crate) generation: u64,
}

#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    /// The last accepted reading.
    raw: Instant,
    /// The tick of that reading.
    tick: Tick,
    /// The number of accepted readings.
    generation: u64,
    /// Whether the clock has stepped back since the last [`take_step_back`](Self::take_step_back).
    has_stepped_back: bool,
}

impl Clock {
    pub(crate) const fn new(start: Instant) -> Self {
        Self {
            start,
            raw: start,
            tick: Tick(0),
            generation: 0,
            has_stepped_back: false,
        }
    }

    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Accepts a reading and returns the time.
    pub(crate) fn accept_reading(&mut self, reading: Reading) -> Tick {
        match reading.at.checked_duration_since(self.raw) {
            Some(passed) => {
                self.tick = self.tick.after(passed);
                self.raw = reading.at;
            }
            // The clock has stepped back: no time has passed, and ticks go on from here.
            None if reading.generation == self.generation => {
                self.raw = reading.at;
                self.has_stepped_back = true;
            }
            // A later reading was accepted first.
            None => {}
        }
        self.generation += 1;
        self.tick
    }

    /// Whether the clock has stepped back since the last call: it shows an earlier time at a given
    /// tick than before.
    pub(crate) const fn take_step_back(&mut self) -> bool {
        std::mem::replace(&mut self.has_stepped_back, false)
    }

    /// Advances to this tick, unless the time is later already.
    pub(crate) fn advance_to(&mut self, tick: Tick) {
        self.tick = self.tick.max(tick);
    }

    /// What the clock shows at this tick, as far as is known; `None` if it cannot show that.
    pub(crate) fn instant(&self, tick: Tick) -> Option<Instant> {
        if tick == Tick::NEVER {
            return None;
        }
        if tick >= self.tick {
            self.raw.checked_add(tick.since(self.tick))
        } else {
            Some(
                self.raw
                    .checked_sub(self.tick.since(tick))
                    .unwrap_or(self.start),
            )
        }
    }

    /// The tick at which the clock shows this; now, if it has passed.
    pub(crate) fn tick(&self, at: Instant) -> Tick {
        self.tick.after(at.saturating_duration_since(self.raw))
    }

    /// The time of the last reading.
    pub(crate) const fn now(&self) -> Tick {
        self.tick
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(clock: &mut Clock, at: Instant) -> Tick {
        let generation = clock.generation();
        clock.accept_reading(Reading { at, generation })
    }

    #[test]
    fn a_clock_that_steps_back_stands_still_once() {
        let start = Instant::now() + SECOND * 1000;
        let mut clock = Clock::new(start);
        assert_eq!(at(&mut clock, start + SECOND * 5), Tick(5_000_000_000));
        assert!(!clock.take_step_back());
        assert_eq!(at(&mut clock, start - SECOND * 900), Tick(5_000_000_000));
        assert_eq!(
            (clock.take_step_back(), clock.take_step_back()),
            (true, false)
        );
        assert_eq!(at(&mut clock, start - SECOND * 899), Tick(6_000_000_000));
        assert_eq!(
            clock.instant(Tick(8_000_000_000)),
            Some(start - SECOND * 897)
        );
        assert_eq!(clock.tick(start - SECOND * 897), Tick(8_000_000_000));
    }

    #[test]
    fn a_reading_that_comes_late_is_no_step_back() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        let generation = clock.generation();
        assert_eq!(at(&mut clock, start + SECOND * 5), Tick(5_000_000_000));
        assert_eq!(
            clock.accept_reading(Reading {
                at: start + SECOND * 4,
                generation
            }),
            Tick(5_000_000_000)
        );
        assert!(!clock.take_step_back());
        assert_eq!(at(&mut clock, start + SECOND * 6), Tick(6_000_000_000));
    }

    #[test]
    fn what_is_due_is_ordered_by_its_tick() {
        let record_id = |number| RecordId::new(number).unwrap();
        let ticks = [
            0,
            1,
            u64::from(u32::MAX),
            1 << 32,
            (1 << 32) + 1,
            7 << 40,
            u64::MAX,
        ]
        .map(Tick);
        let due = ticks.map(|tick| Due::new(tick, record_id(7)));
        assert_eq!(due.map(Due::tick), ticks);
        assert!(
            due.is_sorted()
                && due[0].record_id() == record_id(7)
                && Due::new(Tick(1), record_id(8)) > due[1]
        );
    }

    #[test]
    fn no_time_overflows() {
        assert_eq!(Tick(7).after(Duration::MAX), Tick::NEVER);
        assert_eq!(Tick(7).since(Tick(9)), Duration::ZERO);
        let clock = Clock::new(Instant::now());
        assert_eq!(clock.instant(Tick::NEVER), None);
        assert!(clock.instant(Tick(u64::MAX - 1)).is_some());
    }
}
