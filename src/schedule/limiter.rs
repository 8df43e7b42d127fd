//! Rate limits: [`RateLimit`] is the configuration, [`Limiter`] the state. A limiter returns the
//! earliest time at which a job of some cost may start, reserves permits for a released job, and
//! consumes them when the job starts. Pure: the caller passes the time, which must not go back.
//!
//! The default is the generic cell rate algorithm (GCRA; ITU-T I.371, 1996): a token bucket whose
//! only state is the theoretical arrival time (TAT), the time at which the bucket is full again. A
//! sliding window stores each start of the last period.

use std::collections::VecDeque;
use std::time::Duration;

use super::clock::Tick;
use crate::time::nanos;

/// How often jobs may start.
///
/// A limit is `permits` per `period`, evenly spread, with a [burst](Self::burst) of 1:
/// `per_second(5)` starts a job every 200 ms. A job takes as many permits as its
/// [cost](crate::Builder::cost_by), by default one; so does each attempt of a job that is retried.
/// What is not used is kept up to the burst and no further: after an hour of rest, no more than
/// `burst` start at once.
///
/// # What a window sees
///
/// A job takes its permits when it starts. In any stretch of time of length *W* at most `burst +
/// permits × W / period` are taken. Do not read `per_minute(60).burst(60)` as "never more than 60
/// in a minute": a minute may see 60 that were saved up and 60 that came meanwhile. Where a server
/// counts in that way, use [`sliding_window`](Self::sliding_window): never more than its permits
/// in any period, wherever that begins. It remembers each start of the last period, 16 bytes for
/// each.
///
/// # Examples
///
/// ```
/// use brigade::RateLimit;
/// use std::time::Duration;
///
/// let steady = RateLimit::per_second(10);                                    // one each 100 ms
/// let with_bursts = RateLimit::per_second(10).burst(50);                     // fifty at once after a rest
/// let strict = RateLimit::sliding_window(60, Duration::from_secs(60));       // never more in any minute
/// assert!(steady != with_bursts && with_bursts != strict);
/// assert!(std::panic::catch_unwind(|| RateLimit::per_second(0)).is_err());   // not a limit but a pause
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    permits: u32,
    period: Duration,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Bucket { burst: u32 },
    Window,
}

impl RateLimit {
    /// Allows `permits` a second, evenly spread.
    ///
    /// # Panics
    ///
    /// If `permits` is 0.
    #[track_caller]
    pub const fn per_second(permits: u32) -> Self {
        Self::per(permits, Duration::from_secs(1))
    }

    /// Allows `permits` a minute, evenly spread.
    ///
    /// # Panics
    ///
    /// If `permits` is 0.
    #[track_caller]
    pub const fn per_minute(permits: u32) -> Self {
        Self::per(permits, Duration::from_secs(60))
    }

    /// Allows one permit in each `interval`.
    ///
    /// # Panics
    ///
    /// If `interval` is zero.
    #[track_caller]
    pub const fn every(interval: Duration) -> Self {
        Self::per(1, interval)
    }

    /// Allows `permits` in each `period`, evenly spread.
    ///
    /// # Panics
    ///
    /// If `permits` is 0 or `period` zero.
    #[track_caller]
    pub const fn per(permits: u32, period: Duration) -> Self {
        Self::new(permits, period, Form::Bucket { burst: 1 })
    }

    /// Allows at most `permits` in any stretch of time as long as `period`, wherever it begins.
    /// They may come at once.
    ///
    /// # Panics
    ///
    /// If `permits` is 0 or `period` zero.
    #[track_caller]
    pub const fn sliding_window(permits: u32, period: Duration) -> Self {
        Self::new(permits, period, Form::Window)
    }

    #[track_caller]
    const fn new(permits: u32, period: Duration, form: Form) -> Self {
        assert!(
            permits > 0,
            "the permits of a rate limit must be at least 1, got 0"
        );
        assert!(
            !period.is_zero(),
            "the period of a rate limit must be longer than 0, got 0ns"
        );
        Self {
            permits,
            period,
            form,
        }
    }

    /// Sets how many permits may be taken at once after a rest.
    ///
    /// # Panics
    ///
    /// If `permits` is 0, or of a [`sliding_window`](Self::sliding_window), whose burst is its
    /// permits.
    #[track_caller]
    pub const fn burst(mut self, permits: u32) -> Self {
        assert!(
            permits > 0,
            "the burst of a rate limit must be at least 1, got 0"
        );
        assert!(
            matches!(self.form, Form::Bucket { .. }),
            "a sliding window has no burst but its number of permits"
        );
        self.form = Form::Bucket { burst: permits };
        self
    }

    /// The highest cost that a job may have.
    pub(crate) const fn max_cost(&self) -> u32 {
        match self.form {
            Form::Bucket { burst } => burst,
            Form::Window => self.permits,
        }
    }
}

/// The fractional bits of a nanosecond in fixed-point times, so that three times a third of a
/// second is a second.
const FRACTION: u32 = 32;

const fn to_fixed(tick: Tick) -> u128 {
    (tick.0 as u128) << FRACTION
}

/// Rounds up to a tick.
fn from_fixed(fixed: u128) -> Tick {
    let whole = fixed >> FRACTION;
    let up = u128::from(whole << FRACTION != fixed);
    u64::try_from(whole.saturating_add(up)).map_or(Tick::NEVER, Tick)
}

/// The TAT after `permits` are consumed at `now`.
fn tat_after(tat: u128, interval: u128, now: Tick, permits: u32) -> u128 {
    tat.max(to_fixed(now))
        .saturating_add(interval.saturating_mul(u128::from(permits)))
}

#[derive(Debug, Clone)]
pub(crate) struct Limiter {
    limit: RateLimit,
    count: Count,
    /// Permits reserved for released jobs; never more than could be consumed now.
    reserved: u32,
}

#[derive(Debug, Clone)]
enum Count {
    /// `interval` is the time in which one permit comes back, `tat` the time at which all permits
    /// are back. Both are fixed-point.
    Bucket { interval: u128, tat: u128 },
    /// The starts of the last period with their costs, which are not 0. So there are at most as
    /// many as permits.
    Window {
        starts: VecDeque<(Tick, u32)>,
        consumed: u32,
    },
}

impl Limiter {
    pub(crate) fn new(limit: RateLimit) -> Self {
        let count = match limit.form {
            Form::Bucket { .. } => {
                // An interval times the maximal burst fits: both factors are bounded.
                let interval = (u128::from(nanos(limit.period)) << FRACTION)
                    .div_ceil(u128::from(limit.permits));
                Count::Bucket { interval, tat: 0 }
            }
            Form::Window => Count::Window {
                starts: VecDeque::new(),
                consumed: 0,
            },
        };
        Self {
            limit,
            count,
            reserved: 0,
        }
    }

    /// The highest cost that a job may have.
    pub(crate) const fn max_cost(&self) -> u32 {
        self.limit.max_cost()
    }

    /// The earliest time at which permits for a job of this cost can be reserved, if none are
    /// consumed or reserved before; not after `now` if they can be now. `NEVER` while reserved
    /// permits are in the way: only the start or the return of a released job changes that.
    ///
    /// A cost above [`max_cost`](Self::max_cost) is treated as that.
    pub(crate) fn earliest(&mut self, now: Tick, cost: u32) -> Tick {
        self.expire_starts(now);
        let Some(spare) = (self.max_cost() - self.reserved).checked_sub(cost.min(self.max_cost()))
        else {
            return Tick::NEVER;
        };
        match &self.count {
            // When all permits are back except those that may be missing.
            Count::Bucket { interval, tat } => {
                from_fixed(tat.saturating_sub(interval.saturating_mul(u128::from(spare))))
            }
            Count::Window { starts, consumed } => {
                let mut over = consumed.saturating_sub(spare);
                let mut at = Tick(0);
                for (start, cost) in starts {
                    if over == 0 {
                        break;
                    }
                    over = over.saturating_sub(*cost);
                    at = start.after(self.limit.period);
                }
                at
            }
        }
    }

    /// Reserves permits for a released job, which may start now according to
    /// [`earliest`](Self::earliest).
    pub(crate) const fn reserve(&mut self, cost: u32) {
        self.reserved += cost;
    }

    /// Cancels the reservation of a job that does not start.
    pub(crate) const fn unreserve(&mut self, cost: u32) {
        self.reserved -= cost;
    }

    /// Consumes reserved permits, however late: what could be consumed at one time can be later
    /// too.
    pub(crate) fn start(&mut self, now: Tick, cost: u32) {
        self.unreserve(cost);
        self.consume(now, cost);
    }

    fn consume(&mut self, now: Tick, cost: u32) {
        self.expire_starts(now);
        match &mut self.count {
            Count::Bucket { interval, tat } => *tat = tat_after(*tat, *interval, now, cost),
            Count::Window { starts, consumed } if cost > 0 => {
                starts.push_back((now, cost));
                *consumed += cost;
            }
            Count::Window { .. } => {}
        }
    }

    /// When the limiter is as if it were new; not after `now` if it is.
    pub(crate) fn refilled_at(&self) -> Tick {
        match &self.count {
            Count::Bucket { tat, .. } => from_fixed(*tat),
            Count::Window { starts, .. } => starts
                .back()
                .map_or(Tick(0), |(start, _)| start.after(self.limit.period)),
        }
    }

    /// Changes the limit. Consumed permits carry over, up to the new limit's burst; reservations do
    /// not.
    pub(crate) fn set_limit(&mut self, limit: RateLimit, now: Tick) {
        self.expire_starts(now);
        let mut next = Self::new(limit);
        match (&self.count, &mut next.count) {
            (Count::Window { .. }, Count::Window { .. }) => {
                let Count::Window { starts, .. } = &mut self.count else {
                    return;
                };
                let starts = std::mem::take(starts);
                // The newest starts expire last.
                for (start, cost) in starts.into_iter().rev() {
                    if let Count::Window { starts, consumed } = &mut next.count {
                        let cost = cost.min(limit.permits - *consumed);
                        // A start of cost 0 would limit nothing and take memory.
                        if cost > 0 {
                            starts.push_front((start, cost));
                            *consumed += cost;
                        }
                    }
                }
            }
            (Count::Window { consumed, .. }, Count::Bucket { .. }) => {
                next.consume(now, (*consumed).min(limit.max_cost()));
            }
            (Count::Bucket { interval, tat }, _) => {
                let outstanding = tat.saturating_sub(to_fixed(now)).div_ceil(*interval);
                next.consume(
                    now,
                    u32::try_from(outstanding)
                        .unwrap_or(u32::MAX)
                        .min(limit.max_cost()),
                );
            }
        }
        *self = next;
    }

    /// Removes the starts that have left the window.
    fn expire_starts(&mut self, now: Tick) {
        if let Count::Window { starts, consumed } = &mut self.count {
            while let Some((start, cost)) = starts.front().copied()
                && start.after(self.limit.period) <= now
            {
                starts.pop_front();
                *consumed -= cost;
            }
        }
    }
}

#[cfg(test)]
mod tests;
