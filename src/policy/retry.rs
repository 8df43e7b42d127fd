//! Retry policies: [`Retry::decide`] takes the error of an attempt and returns a [`Decision`],
//! which the schedule carries out. Pure except for the user's closures, which are called here.
//!
//! The jitter is that of M. Brooker, "Exponential backoff and jitter" (AWS Architecture Blog,
//! 2015); the budget is that of the chapter "Handling overload" of "Site reliability engineering"
//! (O'Reilly, 2016).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{JobError, TimeLimit};
use crate::event::JobId;
use crate::time::nanos;

/// When failed attempts are made again.
///
/// An attempt is followed by another if the handler returned an error, or if the attempt ran out of
/// its [`attempt_timeout`](crate::Builder::attempt_timeout); never after a panic, a cancellation,
/// or the job's own time-out. The job's outcome is that of its last attempt.
///
/// While a job waits for its next attempt it holds no worker, no permit, and no capacity of the
/// queue; it counts as delayed. Each attempt takes new permits of the rate limits. When the wait is
/// over, the job is queued among those of its priority in the order of acceptance.
/// [`retry_capacity`](crate::Builder::retry_capacity) bounds how many may wait.
///
/// # Defaults
///
/// Three attempts ([`delays`](Self::delays): as many as there are delays, and one); no jitter;
/// every error is retried; no other bound.
///
/// # Examples
///
/// ```
/// use brigade::{Jitter, ManualTimer, Pool, Retry};
/// use futures_lite::future;
/// use std::cell::Cell;
/// use std::time::Duration;
///
/// let clock = ManualTimer::new();
/// let tries = Cell::new(0);
/// let (pool, workers) = Pool::builder()
///     .workers(1)
///     .timer(clock.clone())
///     .retry(Retry::exponential(Duration::from_millis(100)).max_attempts(5).jitter(Jitter::Full))
///     .build(|_: u32| {
///         tries.set(tries.get() + 1);
///         let tries = tries.get();
///         async move { if tries < 3 { Err("not yet") } else { Ok(tries) } }
///     });
/// let handle = pool.try_submit(7).unwrap();
/// let outcome = future::block_on(clock.run(workers.drive(handle)));
/// assert_eq!(outcome, Ok(3));
/// ```
pub struct Retry<E> {
    backoff: Backoff,
    max_attempts: u32,
    max_delay: Option<Duration>,
    max_elapsed: Option<Duration>,
    jitter: Jitter,
    seed: Option<u64>,
    timeouts: bool,
    when: Option<Arc<Predicate<E>>>,
    hint: Option<Arc<Hint<E>>>,
    hint_scope: RetryAfterScope,
    judge: Option<Arc<Judge<E>>>,
    on_retry: Option<Arc<Hook<E>>>,
    budget: Option<RetryBudget>,
}

type Predicate<E> = dyn Fn(&E) -> bool + Send + Sync;
type Hint<E> = dyn Fn(&E) -> Option<Duration> + Send + Sync;
type Judge<E> = dyn Fn(&E) -> RetryDecision + Send + Sync;
type Hook<E> = dyn Fn(&Retrying<'_, E>) + Send + Sync;
type Delays = Box<dyn Iterator<Item = Duration> + Send>;

#[derive(Clone)]
enum Backoff {
    Fixed(Duration),
    Exponential { base: Duration, factor: u32 },
    Delays(Arc<dyn Fn() -> Delays + Send + Sync>),
}

/// How much of a delay is random, so that jobs which failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Jitter {
    /// None of it. The default.
    #[default]
    None,
    /// All of it: between zero and the delay. It spreads load best.
    Full,
    /// Half of it: between a half of the delay and all of it.
    Equal,
}

/// What a handler's error says about another attempt; see [`Retry::decide_by`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryDecision {
    /// Another attempt after the usual delay.
    Retry,
    /// Another attempt after this time.
    RetryIn(Duration),
    /// Another attempt after this time; the one that ended is not counted, neither as one of
    /// [`max_attempts`](Retry::max_attempts) nor among the [attempts](crate::Completion::attempts)
    /// of the job, and takes nothing of the [`budget`](Retry::budget) nor of the
    /// [`delays`](Retry::delays). Only [`max_elapsed`](Retry::max_elapsed), the job's own
    /// time-out and the pool's [`retry_capacity`](crate::Builder::retry_capacity) bound how often
    /// that is.
    Snooze(Duration),
    /// No other attempt.
    GiveUp,
}

/// Which jobs wait for the time that a [`retry_after`](Retry::retry_after) names; see
/// [`Retry::retry_after_scope`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum RetryAfterScope {
    /// The job alone. The default.
    #[default]
    Job,
    /// All jobs of its [key](crate::Builder::key_by): none of them starts before.
    Key,
    /// All jobs of the pool: none starts before.
    Pool,
}

/// What is known of an attempt that is followed by another; see [`Retry::on_retry`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Retrying<'a, E> {
    /// The job.
    pub job: JobId,
    /// The number of the attempt that failed, counted from 1.
    pub attempt: u32,
    /// How many attempts were not counted, because of [`RetryDecision::Snooze`], this one included.
    pub snoozes: u32,
    /// How it failed.
    pub error: &'a JobError<E>,
    /// After what time the next one may start.
    pub delay: Duration,
    /// Whether the next attempt is the last one that [`max_attempts`](Retry::max_attempts) allows.
    pub is_last: bool,
}

/// How much load retries may add; see [`Retry::budget`].
///
/// # Examples
///
/// ```
/// use brigade::{Retry, RetryBudget};
/// use std::time::Duration;
///
/// let _: Retry<()> = Retry::fixed(Duration::from_secs(1)).budget(0.2);
/// let _: Retry<()> = Retry::fixed(Duration::from_secs(1)).budget(RetryBudget::ratio(0.2).min_concurrent(3));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// What a first attempt earns; a retry costs [`RetryBudget::RETRY`].
    earned: u64,
    min_concurrent: usize,
}

impl RetryBudget {
    /// The cost of a retry.
    const RETRY: u64 = 1_000_000;
    /// How many first attempts can be saved up.
    const REMEMBERED: u64 = 1_000;

    /// Allows as many retries as this ratio of the first attempts: `0.2` means one for five. Of the
    /// first attempts that have not paid for a retry, no more than the last thousand count; so a
    /// ratio of less than a thousandth allows none but those of the
    /// [`min_concurrent`](Self::min_concurrent).
    ///
    /// # Panics
    ///
    /// If `ratio` is not between 0 and 1000.
    #[track_caller]
    pub fn ratio(ratio: f64) -> Self {
        assert!(
            (0.0..=1000.0).contains(&ratio),
            "the ratio of a retry budget must be between 0 and 1000, got {ratio}"
        );
        Self {
            earned: (ratio * Self::RETRY as f64).round() as u64,
            min_concurrent: 10,
        }
    }

    /// Allows a retry in any case while fewer than `jobs` wait for or run another attempt. Without
    /// this, 10.
    ///
    /// It bounds how many there are at once, not how many there are over time: the ratio is a bound
    /// only with `min_concurrent(0)`.
    pub const fn min_concurrent(mut self, jobs: usize) -> Self {
        self.min_concurrent = jobs;
        self
    }
}

impl From<f64> for RetryBudget {
    #[track_caller]
    fn from(ratio: f64) -> Self {
        Self::ratio(ratio)
    }
}

/// The account of a [`RetryBudget`].
#[derive(Debug)]
pub(crate) struct Account {
    budget: RetryBudget,
    credit: u64,
}

impl Account {
    pub(crate) const fn new(budget: RetryBudget) -> Self {
        Self { budget, credit: 0 }
    }

    /// Records a first attempt.
    pub(crate) fn earn(&mut self) {
        let max = self.budget.earned.saturating_mul(RetryBudget::REMEMBERED);
        self.credit = self.credit.saturating_add(self.budget.earned).min(max);
    }

    /// Whether another attempt is allowed while so many retried jobs wait or run; takes its cost.
    pub(crate) fn spend(&mut self, retrying: usize) -> bool {
        if let Some(rest) = self.credit.checked_sub(RetryBudget::RETRY) {
            self.credit = rest;
            return true;
        }
        retrying < self.budget.min_concurrent
    }
}

/// The attempts of a job that is retried.
pub(crate) struct History {
    /// Without snoozed ones.
    pub(crate) attempts: u32,
    pub(crate) snoozes: u32,
    /// When the first attempt started.
    pub(crate) first_started_at: Instant,
    delays: Option<Delays>,
}

impl History {
    pub(crate) const fn new(first_started_at: Instant) -> Self {
        Self {
            attempts: 0,
            snoozes: 0,
            first_started_at,
            delays: None,
        }
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("History");
        f.field("attempts", &self.attempts)
            .field("snoozes", &self.snoozes)
            .finish_non_exhaustive()
    }
}

/// The result of [`Retry::decide`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The outcome of the attempt is that of the job.
    Final,
    Again {
        delay: Duration,
        /// Which other jobs wait as well.
        scope: RetryAfterScope,
        /// Whether the retry is charged to the budget.
        is_paid: bool,
    },
}

impl<E> Retry<E> {
    fn new(backoff: Backoff, max_attempts: u32) -> Self {
        Self {
            backoff,
            max_attempts,
            max_delay: None,
            max_elapsed: None,
            jitter: Jitter::None,
            seed: None,
            timeouts: true,
            when: None,
            hint: None,
            hint_scope: RetryAfterScope::Job,
            judge: None,
            on_retry: None,
            budget: None,
        }
    }

    /// Tries again after the same time each time.
    pub fn fixed(delay: Duration) -> Self {
        Self::new(Backoff::Fixed(delay), 3)
    }

    /// Tries again after `base`, then after twice that, and so on. Bounded by
    /// [`max_delay`](Self::max_delay), if that is set; else it grows until it is longer than 500
    /// years, and stays there.
    pub fn exponential(base: Duration) -> Self {
        Self::new(Backoff::Exponential { base, factor: 2 }, 3)
    }

    /// Tries again after delays of your own. The closure is called before a job's first retry; of
    /// the iterator, one delay is taken for each retry, at its time, though a
    /// [`retry_after`](Self::retry_after) or a [`decide_by`](Self::decide_by) names another one.
    /// When there is none left, the failure is final. A [snoozed](RetryDecision::Snooze) attempt
    /// takes none.
    ///
    /// # Examples
    ///
    /// The builders of the crate `backon` make such iterators:
    ///
    /// ```
    /// use backon::{BackoffBuilder, FibonacciBuilder};
    /// use brigade::{ManualTimer, Pool, Retry};
    /// use std::time::Duration;
    ///
    /// let (pool, workers) = Pool::builder()
    ///     .workers(1)
    ///     .timer(ManualTimer::new())
    ///     .retry(Retry::delays(|| FibonacciBuilder::default().with_min_delay(Duration::from_secs(1)).build()))
    ///     .build(|n: u32| async move { if n == 0 { Err("zero") } else { Ok(n) } });
    /// # drop((pool, workers));
    /// ```
    pub fn delays<I>(delays: impl Fn() -> I + Send + Sync + 'static) -> Self
    where
        I: IntoIterator<Item = Duration>,
        I::IntoIter: Send + 'static,
    {
        Self::new(
            Backoff::Delays(Arc::new(move || Box::new(delays().into_iter()))),
            u32::MAX,
        )
    }

    /// Multiplies the delay of [`exponential`](Self::exponential) by this after each attempt, in
    /// place of 2.
    ///
    /// # Panics
    ///
    /// If `factor` is 0.
    #[track_caller]
    pub fn factor(mut self, by: u32) -> Self {
        assert!(by > 0, "the factor of a retry must be at least 1, got 0");
        if let Backoff::Exponential { factor, .. } = &mut self.backoff {
            *factor = by;
        }
        self
    }

    /// Makes at most `count` attempts, the first one included.
    ///
    /// # Panics
    ///
    /// If `count` is 0.
    #[track_caller]
    pub fn max_attempts(mut self, count: u32) -> Self {
        assert!(count > 0, "max_attempts must be at least 1, got 0");
        self.max_attempts = count;
        self
    }

    /// Bounds each delay, jitter included. The time of a [`retry_after`](Self::retry_after) or of a
    /// [`decide_by`](Self::decide_by) is not bounded by it.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = Some(delay);
        self
    }

    /// Makes no attempt whose delay would end later than this after the start of the first one.
    /// What it waits for then, its turn, a permit or a worker, is not known before.
    pub fn max_elapsed(mut self, time: Duration) -> Self {
        self.max_elapsed = Some(time);
        self
    }

    /// Leaves a part of each delay to chance.
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// Makes that chance the same in each run: it depends on the seed, the number of the job, and
    /// that of the attempt.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Says whether attempts that ran out of their time are made again. Without this, they are.
    pub fn timeouts(mut self, retry: bool) -> Self {
        self.timeouts = retry;
        self
    }

    /// Tries again only after errors of which this is true.
    ///
    /// It and the other closures here are called by the worker, with no lock held. If one panics,
    /// the job ends as [`Panicked`](JobError::Panicked).
    pub fn when(mut self, is_transient: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        self.when = Some(Arc::new(is_transient));
        self
    }

    /// Takes the delay from the error, where it has one, such as the `Retry-After` of a server.
    /// There is no jitter on it.
    pub fn retry_after(
        mut self,
        hint: impl Fn(&E) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        self.hint = Some(Arc::new(hint));
        self
    }

    /// Sets which other jobs wait for the time that a [`retry_after`](Self::retry_after) names.
    /// After a final failure, none does.
    pub fn retry_after_scope(mut self, scope: RetryAfterScope) -> Self {
        self.hint_scope = scope;
        self
    }

    /// Lets the error decide: whether there is another attempt, when, and whether the one that
    /// ended counts.
    ///
    /// It is asked after [`when`](Self::when), and its times go before that of a
    /// [`retry_after`](Self::retry_after).
    pub fn decide_by(
        mut self,
        judge: impl Fn(&E) -> RetryDecision + Send + Sync + 'static,
    ) -> Self {
        self.judge = Some(Arc::new(judge));
        self
    }

    /// Calls the closure for each attempt that is to be followed by another, before that is put on
    /// its way. A job that is cancelled in between, or whose pool is aborted, ends with this
    /// attempt all the same.
    pub fn on_retry(mut self, hook: impl Fn(&Retrying<'_, E>) + Send + Sync + 'static) -> Self {
        self.on_retry = Some(Arc::new(hook));
        self
    }

    /// Bounds the load that retries add: while most attempts fail, most failures are final. A ratio
    /// to the first attempts, such as `0.2`, or a [`RetryBudget`].
    #[track_caller]
    pub fn budget(mut self, budget: impl Into<RetryBudget>) -> Self {
        self.budget = Some(budget.into());
        self
    }

    // ---- for the pool ----

    pub(crate) fn account(&self) -> Option<Account> {
        self.budget.map(Account::new)
    }

    /// Draws a seed if none is set.
    pub(crate) fn seeded(mut self) -> Self {
        self.seed = self.seed.or_else(|| Some(fastrand::u64(..)));
        self
    }

    /// Whether an attempt of this number may be followed by another.
    pub(crate) const fn may_follow(&self, attempt: u32) -> bool {
        // A snoozed attempt does not count.
        attempt < self.max_attempts || self.judge.is_some()
    }

    /// Decides after attempt number `attempt`, which ended at `now`. Calls user closures.
    pub(crate) fn decide(
        &self,
        job: JobId,
        attempt: u32,
        error: &JobError<E>,
        history: &mut History,
        now: Instant,
    ) -> Decision {
        let decision = match error {
            JobError::Failed(error) if self.when.as_ref().is_some_and(|when| !when(error)) => {
                RetryDecision::GiveUp
            }
            JobError::Failed(error) => self
                .judge
                .as_ref()
                .map_or(RetryDecision::Retry, |judge| judge(error)),
            JobError::TimedOut(TimeLimit::Attempt) if self.timeouts => RetryDecision::Retry,
            _ => RetryDecision::GiveUp,
        };
        let is_snoozed = matches!(decision, RetryDecision::Snooze(_));
        if !is_snoozed && attempt >= self.max_attempts {
            return Decision::Final;
        }
        let hint = match (error, &self.hint) {
            (JobError::Failed(error), Some(hint)) => hint(error),
            _ => None,
        };
        let named = match (decision, hint) {
            (RetryDecision::GiveUp, _) => return Decision::Final,
            (RetryDecision::RetryIn(delay) | RetryDecision::Snooze(delay), _) => {
                Some((delay, RetryAfterScope::Job))
            }
            (RetryDecision::Retry, hint) => hint.map(|delay| (delay, self.hint_scope)),
        };
        let elapsed = now.saturating_duration_since(history.first_started_at);
        let is_too_late = |delay| {
            self.max_elapsed
                .is_some_and(|max| elapsed.saturating_add(delay) > max)
        };
        let (delay, scope) = match named {
            // First, so that no delay is taken from an iterator for an attempt that is not made.
            Some((delay, _)) if is_too_late(delay) => return Decision::Final,
            Some(named) if is_snoozed => named,
            // A counted retry uses up one of the policy's delays even if its time is named, so that
            // the delays bound the attempts.
            named => match self.delay(job, attempt, history) {
                Some(delay) => named.unwrap_or((delay, RetryAfterScope::Job)),
                None => return Decision::Final,
            },
        };
        if is_too_late(delay) {
            return Decision::Final;
        }
        if is_snoozed {
            history.snoozes = history.snoozes.saturating_add(1);
        } else {
            history.attempts = attempt;
        }
        Decision::Again {
            delay,
            scope,
            is_paid: !is_snoozed,
        }
    }

    /// Calls the [`on_retry`](Self::on_retry) hook.
    pub(crate) fn notify(
        &self,
        job: JobId,
        attempt: u32,
        error: &JobError<E>,
        delay: Duration,
        history: &History,
    ) {
        if let Some(hook) = &self.on_retry {
            let is_last = history.attempts.saturating_add(1) >= self.max_attempts;
            hook(&Retrying {
                job,
                attempt,
                snoozes: history.snoozes,
                error,
                delay,
                is_last,
            });
        }
    }

    /// The delay after attempt number `attempt`; `None`: there are no more.
    fn delay(&self, job: JobId, attempt: u32, history: &mut History) -> Option<Duration> {
        let delay = match &self.backoff {
            Backoff::Fixed(delay) => *delay,
            Backoff::Exponential { base, factor } => {
                grown(*base, *factor, attempt.saturating_sub(1))
            }
            Backoff::Delays(make) => history.delays.get_or_insert_with(|| make()).next()?,
        };
        let delay = self.max_delay.map_or(delay, |max| delay.min(max));
        let chance =
            || fastrand::Rng::with_seed(mix(self.seed.unwrap_or(0), job.as_u64(), attempt));
        Some(match self.jitter {
            Jitter::None => delay,
            Jitter::Full => Duration::from_nanos(chance().u64(0..=nanos(delay))),
            Jitter::Equal => {
                let whole = nanos(delay);
                Duration::from_nanos(chance().u64(whole / 2..=whole))
            }
        })
    }
}

/// The base after `times` multiplications, at most `u64::MAX` nanoseconds.
fn grown(base: Duration, factor: u32, times: u32) -> Duration {
    let grown = u64::from(factor)
        .checked_pow(times)
        .and_then(|factor| factor.checked_mul(nanos(base)));
    // Zero stays zero, however often it is multiplied.
    Duration::from_nanos(if base.is_zero() {
        0
    } else {
        grown.unwrap_or(u64::MAX)
    })
}

/// Mixes three numbers so that neighbours have nothing in common (the finalizer of `SplitMix64`,
/// Steele et al., 2014).
const fn mix(seed: u64, job: u64, attempt: u32) -> u64 {
    let mut mixed =
        seed ^ job.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (attempt as u64).rotate_left(40);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

impl<E> Clone for Retry<E> {
    fn clone(&self) -> Self {
        Self {
            backoff: self.backoff.clone(),
            when: self.when.clone(),
            hint: self.hint.clone(),
            judge: self.judge.clone(),
            on_retry: self.on_retry.clone(),
            ..*self
        }
    }
}

impl<E> fmt::Debug for Retry<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Retry");
        match &self.backoff {
            Backoff::Fixed(delay) => f.field("fixed", delay),
            Backoff::Exponential { base, factor } => {
                f.field("exponential", base).field("factor", factor)
            }
            Backoff::Delays(_) => f.field("delays", &format_args!("..")),
        };
        f.field("max_attempts", &self.max_attempts)
            .field("max_delay", &self.max_delay)
            .field("max_elapsed", &self.max_elapsed)
            .field("jitter", &self.jitter)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
