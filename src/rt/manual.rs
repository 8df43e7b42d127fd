//! A clock that moves when told. It knows who sleeps and until when, and nothing of what they do.
//!
//! Users test their handlers with it, as this crate's own tests do: time-outs fire at once and at
//! an exact instant.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::{BoxFuture, Timer};
use crate::sync::in_wakers::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard, ignore_poison, in_wakers};

/// A [`Timer`] that stands still until it is moved: by [`run`](Self::run), which jumps to the next
/// alarm when its future waits, or by [`advance`](Self::advance).
///
/// Clones share one clock. What sleeps is kept in the order of its deadlines; the memory is bounded
/// by the number of futures that sleep at once.
///
/// # Examples
///
/// ```
/// use brigade::{JobError, ManualTimer, Pool, TimeLimit};
/// use futures_lite::future;
/// use std::time::Duration;
///
/// let clock = ManualTimer::new();
/// let (pool, workers) = Pool::builder()
///     .workers(1)
///     .attempt_timeout(Duration::from_secs(5))
///     .timer(clock.clone())
///     .build(|()| future::pending::<Result<(), ()>>());
/// let outcome = future::block_on(clock.run(workers.drive(async {
///     pool.try_submit(()).unwrap().await
/// })));
/// assert_eq!(outcome, Err(JobError::TimedOut(TimeLimit::Attempt)));
/// assert_eq!(clock.elapsed(), Duration::from_secs(5));
/// ```
#[derive(Clone)]
pub struct ManualTimer {
    clock: Arc<Clock>,
}

struct Clock {
    start: Instant,
    state: Mutex<State>,
}

struct State {
    now: Instant,
    /// Numbers the sleeps, so that equal deadlines keep the order of their registration.
    next: u64,
    /// Bounded by the number of live [`ManualSleep`]s.
    sleeps: BTreeMap<(Instant, u64), Waker>,
    /// Bounded by the number of live [`SleepersReached`]s.
    watchers: BTreeMap<u64, (usize, Waker)>,
}

impl Clock {
    fn lock(&self) -> MutexGuard<'_, State> {
        ignore_poison(self.state.lock())
    }
}

impl ManualTimer {
    /// Makes a clock that stands still at the time of its making.
    #[must_use]
    pub fn new() -> Self {
        let start = Instant::now();
        let state = State {
            now: start,
            next: 0,
            sleeps: BTreeMap::new(),
            watchers: BTreeMap::new(),
        };
        Self {
            clock: Arc::new(Clock {
                start,
                state: Mutex::new(state),
            }),
        }
    }

    /// How far the clock has moved since it was made.
    pub fn elapsed(&self) -> Duration {
        self.clock
            .lock()
            .now
            .saturating_duration_since(self.clock.start)
    }

    /// Moves the clock on and wakes the sleeps whose deadline has come, in the order of their
    /// deadlines.
    ///
    /// They are woken, not run: what runs first is the executor's choice. A step past what an
    /// [`Instant`] can hold stops where it stands.
    pub fn advance(&self, by: Duration) {
        let mut state = self.clock.lock();
        let now = state.now.checked_add(by).unwrap_or(state.now);
        let due = state.advance_to(now);
        drop(state);
        due.into_iter().for_each(Waker::wake);
    }

    /// Moves the clock to the next deadline and wakes the sleeps that wait for it. Returns `false`
    /// if nothing sleeps.
    ///
    /// A deadline that has passed already is the next one, and leaves the clock where it is.
    pub fn advance_to_next(&self) -> bool {
        let mut state = self.clock.lock();
        let Some((&(at, _), _)) = state.sleeps.first_key_value() else {
            return false;
        };
        let now = at.max(state.now);
        let due = state.advance_to(now);
        drop(state);
        due.into_iter().for_each(Waker::wake);
        true
    }

    /// Polls the future to its end; whenever all of it waits, moves the clock [to the next
    /// deadline](Self::advance_to_next).
    ///
    /// It is for futures of one task, such as [`Workers::drive`](crate::Workers::drive): the clock
    /// does not wait for what other tasks or threads are about to do. If nothing sleeps on the
    /// clock, it waits for the future to be woken, and so forever if nothing wakes it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the one that it polls; the clock stays where it is.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::ManualTimer;
    /// use futures_lite::future;
    /// use std::time::Duration;
    ///
    /// let clock = ManualTimer::new();
    /// future::block_on(clock.run(async {
    ///     clock.sleep(Duration::from_secs(3600)).await;
    ///     clock.sleep(Duration::from_secs(60)).await;
    /// }));
    /// assert_eq!(clock.elapsed(), Duration::from_secs(3660));
    /// ```
    pub async fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let wakes = Arc::new(Wakes {
            task: in_wakers::Mutex::new(None),
            is_woken: AtomicBool::new(false),
        });
        let waker = Waker::from(Arc::clone(&wakes));
        poll_fn(|cx| {
            wakes.begin(cx.waker());
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            // A future that was woken meanwhile goes on by itself. So does, as a rule, one that
            // slept until the next deadline; but a sleep may belong to another task.
            if polled.is_pending()
                && !wakes.is_woken.load(Ordering::SeqCst)
                && self.advance_to_next()
            {
                cx.waker().wake_by_ref();
            }
            polled
        })
        .await
    }

    /// How many futures sleep now: polled at least once, not due, not dropped.
    pub fn sleeping(&self) -> usize {
        self.clock.lock().sleeps.len()
    }

    /// Waits until at least `count` futures sleep on this clock.
    ///
    /// A test on several threads has no other way to know that the jobs are where it wants them.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub fn sleepers(&self, count: usize) -> SleepersReached {
        SleepersReached {
            clock: Arc::clone(&self.clock),
            count,
            key: None,
        }
    }

    /// Sleeps until the clock has moved by `duration` from now, when this is called.
    pub fn sleep(&self, duration: Duration) -> ManualSleep {
        let at = self.now().checked_add(duration);
        ManualSleep {
            clock: Arc::clone(&self.clock),
            at,
            key: None,
        }
    }
}

impl State {
    fn advance_to(&mut self, now: Instant) -> Vec<Waker> {
        self.now = now;
        let later = self.sleeps.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.sleeps, later)
            .into_values()
            .collect()
    }

    fn next_key(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Default for ManualTimer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ManualTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualTimer").finish_non_exhaustive()
    }
}

impl Timer for ManualTimer {
    fn now(&self) -> Instant {
        self.clock.lock().now
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        Box::pin(ManualSleep {
            clock: Arc::clone(&self.clock),
            at: Some(at),
            key: None,
        })
    }
}

/// Passes on wake-ups to the task of a [`ManualTimer::run`], and knows of those that came while it
/// polled.
struct Wakes {
    task: in_wakers::Mutex<Option<Waker>>,
    is_woken: AtomicBool,
}

impl Wakes {
    /// Called before each poll. Wake-ups from before are answered by it.
    fn begin(&self, task: &Waker) {
        let old = ignore_poison(self.task.lock()).replace(task.clone());
        drop(old);
        self.is_woken.store(false, Ordering::SeqCst);
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::SeqCst);
        let task = ignore_poison(self.task.lock()).clone();
        task.into_iter().for_each(Waker::wake);
    }
}

/// A sleep on a [`ManualTimer`]; made by [`ManualTimer::sleep`].
#[must_use = "futures do nothing unless polled"]
pub struct ManualSleep {
    clock: Arc<Clock>,
    /// `None`: later than any instant.
    at: Option<Instant>,
    key: Option<(Instant, u64)>,
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else {
            return Poll::Pending;
        };
        let clock = Arc::clone(&self.clock);
        let mut state = clock.lock();
        if at <= state.now {
            if let Some(key) = self.key.take() {
                state.sleeps.remove(&key);
            }
            return Poll::Ready(());
        }
        let key = *self.key.get_or_insert_with(|| (at, state.next_key()));
        let replaced = state.sleeps.insert(key, cx.waker().clone());
        let count = state.sleeps.len();
        let reached: Vec<Waker> = state
            .watchers
            .values()
            .filter(|(wanted, _)| *wanted <= count)
            .map(|(_, waker)| waker.clone())
            .collect();
        drop(state);
        drop(replaced);
        reached.into_iter().for_each(Waker::wake);
        Poll::Pending
    }
}

impl Drop for ManualSleep {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let removed = self.clock.lock().sleeps.remove(&key);
            drop(removed);
        }
    }
}

impl fmt::Debug for ManualSleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualSleep").finish_non_exhaustive()
    }
}

/// Waits until enough futures sleep on a [`ManualTimer`]; made by [`ManualTimer::sleepers`].
#[must_use = "futures do nothing unless polled"]
pub struct SleepersReached {
    clock: Arc<Clock>,
    count: usize,
    key: Option<u64>,
}

impl Future for SleepersReached {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let clock = Arc::clone(&self.clock);
        let mut state = clock.lock();
        if state.sleeps.len() >= self.count {
            return Poll::Ready(());
        }
        let key = *self.key.get_or_insert_with(|| state.next_key());
        let replaced = state.watchers.insert(key, (self.count, cx.waker().clone()));
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for SleepersReached {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let removed = self.clock.lock().watchers.remove(&key);
            drop(removed);
        }
    }
}

impl fmt::Debug for SleepersReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SleepersReached").finish_non_exhaustive()
    }
}
