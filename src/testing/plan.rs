//! Which faults strike a run, and when. Pure: a plan is made of a seed, of text or of bytes, and
//! knows nothing of what it strikes.

use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::rng::Rng;

/// Something that goes wrong, or that somebody does at a bad moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// A worker is dropped: the one of this number among those that are left, counted round and
    /// round.
    DropWorker(u32),
    /// All workers are dropped, as by an executor that goes away.
    DropExecutor,
    /// A task that [`Sim::spawn`](super::Sim::spawn) has spawned is dropped, such as a consumer;
    /// counted as workers are.
    DropTask(u32),
    /// The clock jumps, though somebody could go on.
    Clock(Duration),
    /// The clock stands still for so many steps, though everybody waits for it.
    Stall(u32),
    /// The watched pools are paused.
    Pause,
    /// One pause of the watched pools ends. At the end of a run, all do.
    Resume,
    /// So many workers of the watched pools run jobs: a number that is one too small, counted round
    /// and round.
    Resize(u32),
    /// The watched pools get this rate limit in permits a second; 0: none.
    Rate(u32),
    /// A job of each watched pool gets another priority: the one of this number among those that
    /// have not started, counted round and round.
    Priority(u32),
    /// The watched pools are closed.
    Close,
    /// The watched pools are sealed.
    Seal,
    /// Somebody drains the watched pools.
    Drain,
    /// Somebody aborts the watched pools.
    Abort,
    /// The next handler that [`Sim::faulty`](super::Sim::faulty) has made comes to this.
    Handler(HandlerFault),
    /// Another task is polled in the middle of a poll, as by another thread: the one of this number
    /// among those that can go on, counted round and round.
    Poll(u32),
    /// The statistics of the watched pools are read and checked.
    Stats,
}

/// What becomes of a handler that [`Sim::faulty`](super::Sim::faulty) has made, or that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandlerFault {
    /// It panics where the future is made.
    PanicInFactory,
    /// It panics when it is polled.
    PanicInPoll,
    /// It panics when it is dropped.
    PanicInDrop,
    /// It panics when it is polled, and what it panics with panics when it is dropped.
    PanicWithBomb,
    /// It waits for an hour first, and so runs out of any time limit.
    Slow,
    /// It is to return its error; the one that asks [`Sim::is_to_fail`](super::Sim::is_to_fail)
    /// first.
    Fail,
}

/// Kinds of [`Fault`]s; see [`Simulation::faults`](super::Simulation::faults).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// [`Fault::DropWorker`].
    DropWorker,
    /// [`Fault::DropExecutor`].
    DropExecutor,
    /// [`Fault::DropTask`].
    DropTask,
    /// [`Fault::Clock`] and [`Fault::Stall`].
    Clock,
    /// [`Fault::Pause`] and [`Fault::Resume`].
    Pause,
    /// [`Fault::Resize`].
    Resize,
    /// [`Fault::Rate`].
    Rate,
    /// [`Fault::Priority`].
    Priority,
    /// [`Fault::Close`], [`Fault::Seal`] and [`Fault::Drain`].
    Close,
    /// [`Fault::Abort`].
    Abort,
    /// [`Fault::Handler`].
    Handler,
    /// [`Fault::Stats`].
    Stats,
    /// Preemption: tasks are polled in the middle of the polls of others, at a rate that the seed
    /// decides, and faults may strike there too; see [`Strike::point`]. A scenario that allows this
    /// holds no lock and no borrow of its own while it calls the pool.
    Preempt,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::DropWorker,
        Self::DropExecutor,
        Self::DropTask,
        Self::Clock,
        Self::Pause,
        Self::Resize,
        Self::Rate,
        Self::Priority,
        Self::Close,
        Self::Abort,
        Self::Handler,
        Self::Stats,
        Self::Preempt,
    ];

    fn draw(self, rng: &Rng) -> Fault {
        let number = |bound| rng.below(bound) as u32;
        match self {
            Self::DropWorker => Fault::DropWorker(number(8)),
            Self::DropExecutor => Fault::DropExecutor,
            Self::DropTask => Fault::DropTask(number(8)),
            Self::Clock if number(4) == 0 => Fault::Stall(1 + number(50)),
            Self::Clock => Fault::Clock(match number(3) {
                0 => Duration::from_millis(rng.below(100)),
                1 => Duration::from_millis(rng.below(10_000)),
                _ => Duration::from_secs(rng.below(1_000_000)),
            }),
            Self::Pause if number(2) == 0 => Fault::Pause,
            Self::Pause => Fault::Resume,
            Self::Resize => Fault::Resize(number(8)),
            Self::Rate => Fault::Rate(number(5)),
            Self::Priority => Fault::Priority(number(16)),
            Self::Close => [Fault::Close, Fault::Seal, Fault::Drain][number(3) as usize],
            Self::Abort => Fault::Abort,
            Self::Handler => Fault::Handler(HandlerFault::ALL[number(6) as usize]),
            Self::Stats => Fault::Stats,
            Self::Preempt => Fault::Poll(number(8)),
        }
    }
}

impl HandlerFault {
    const ALL: [Self; 6] = [
        Self::PanicInFactory,
        Self::PanicInPoll,
        Self::PanicInDrop,
        Self::PanicWithBomb,
        Self::Slow,
        Self::Fail,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::PanicInFactory => "panic-in-factory",
            Self::PanicInPoll => "panic-in-poll",
            Self::PanicInDrop => "panic-in-drop",
            Self::PanicWithBomb => "panic-with-bomb",
            Self::Slow => "slow",
            Self::Fail => "fail",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DropWorker(number) => write!(f, "drop-worker={number}"),
            Self::DropExecutor => f.write_str("drop-executor"),
            Self::DropTask(number) => write!(f, "drop-task={number}"),
            Self::Clock(by) => write!(f, "clock={}", by.as_nanos()),
            Self::Stall(steps) => write!(f, "stall={steps}"),
            Self::Pause => f.write_str("pause"),
            Self::Resume => f.write_str("resume"),
            Self::Resize(workers) => write!(f, "resize={workers}"),
            Self::Rate(permits) => write!(f, "rate={permits}"),
            Self::Priority(number) => write!(f, "priority={number}"),
            Self::Close => f.write_str("close"),
            Self::Seal => f.write_str("seal"),
            Self::Drain => f.write_str("drain"),
            Self::Abort => f.write_str("abort"),
            Self::Handler(fault) => f.write_str(fault.name()),
            Self::Poll(number) => write!(f, "poll={number}"),
            Self::Stats => f.write_str("stats"),
        }
    }
}

/// A fault, and when it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Strike {
    /// The step, counted from 0.
    pub step: u64,
    /// The preemption point inside the step, counted from 1; 0: before the step. If the step has
    /// fewer, it strikes before the next step.
    ///
    /// A preemption point is where another thread could act in the middle of a poll: before the
    /// library takes a lock, after it has released one, on either side of what it does to a
    /// channel, and where a handler calls [`Sim::preempt`](super::Sim::preempt).
    pub point: u32,
    /// What strikes.
    pub fault: Fault,
}

impl Strike {
    const fn place(&self) -> (u64, u32) {
        (self.step, self.point)
    }
}

/// The strikes of a run, in the order of their steps.
///
/// As text it is what a [`Failure`](super::Failure) prints between brackets, and can be read back:
/// the step, a dot and the [preemption point](Strike::point) if it is one, a colon, the fault;
/// strikes apart by a blank. Durations are nanoseconds. `preempt=8` before them stands for polls at
/// one in eight points, which the seed chooses.
///
/// # Examples
///
/// ```
/// use brigade::testing::{Fault, Plan, Strike};
///
/// let plan: Plan = "3:pause 17.2:drop-worker=1".parse().unwrap();
/// assert_eq!(plan.strikes()[1], Strike { step: 17, point: 2, fault: Fault::DropWorker(1) });
/// assert_eq!(plan.to_string(), "3:pause 17.2:drop-worker=1");
/// assert!("3:tea".parse::<Plan>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Plan {
    /// Another task is polled at one in so many preemption points; 0: at none.
    preempt: u32,
    strikes: Vec<Strike>,
}

impl Plan {
    /// A plan of these strikes.
    pub fn new(strikes: impl IntoIterator<Item = Strike>) -> Self {
        let mut strikes: Vec<Strike> = strikes.into_iter().collect();
        strikes.sort_by_key(Strike::place);
        Self {
            preempt: 0,
            strikes,
        }
    }

    /// Polls another task at one in so many preemption points, which the seed chooses; 0: at none.
    #[must_use]
    pub const fn preempt(mut self, one_in: u32) -> Self {
        self.preempt = one_in;
        self
    }

    /// At one in how many preemption points another task is polled.
    pub(super) const fn preempts_one_in(&self) -> u32 {
        self.preempt
    }

    /// The strikes, in the order of their steps.
    pub fn strikes(&self) -> &[Strike] {
        &self.strikes
    }

    /// Makes a plan of any bytes, for fuzzers: of each four, two are the steps since the strike
    /// before and the preemption point, one is the kind, and one decides the rest.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut step = 0;
        let strike = |bytes: &[u8]| {
            step += u64::from(bytes[0]) + 256 * u64::from(bytes[1] % 4);
            let kind = FaultKind::ALL[usize::from(bytes[2]) % FaultKind::ALL.len()];
            Strike {
                step,
                point: u32::from(bytes[1] / 4),
                fault: kind.draw(&Rng::new(bytes[3].into(), 3)),
            }
        };
        Self::new(bytes.chunks_exact(4).map(strike))
    }

    /// Makes the plan that the seed decides, of faults of these kinds.
    pub fn random(seed: u64, kinds: &[FaultKind]) -> Self {
        let inside = kinds
            .contains(&FaultKind::Preempt)
            .then(|| Rng::new(seed, 4));
        let preempt = inside
            .as_ref()
            .map_or(0, |rng| PREEMPT[rng.below(PREEMPT.len() as u64) as usize]);
        let kinds: Vec<FaultKind> = kinds
            .iter()
            .copied()
            .filter(|kind| *kind != FaultKind::Preempt)
            .collect();
        let rng = Rng::new(seed, 2);
        if kinds.is_empty() || rng.below(4) == 0 {
            return Self::default().preempt(preempt);
        }
        // Some runs end after a few steps, others go on for long.
        let horizon = 8 << rng.below(8);
        let count = 1 + rng.below(6);
        let strike = |_| {
            let kind = kinds[rng.below(kinds.len() as u64) as usize];
            let (step, fault) = (rng.below(horizon), kind.draw(&rng));
            // Half of them between steps. Most polls come to a few points, some to many.
            let point = inside
                .as_ref()
                .filter(|rng| rng.below(2) == 0)
                .map_or(0, |rng| 1 + rng.below(4 << rng.below(5)));
            Strike {
                step,
                point: point as u32,
                fault,
            }
        };
        Self::new((0..count).map(strike)).preempt(preempt)
    }
}

/// The rates of preemption of which the seed takes one.
const PREEMPT: [u32; 8] = [0, 0, 100, 30, 12, 6, 3, 2];

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        if self.preempt > 0 {
            write!(f, "preempt={}", self.preempt)?;
            gap = " ";
        }
        for Strike { step, point, fault } in &self.strikes {
            match point {
                0 => write!(f, "{gap}{step}:{fault}")?,
                point => write!(f, "{gap}{step}.{point}:{fault}")?,
            }
            gap = " ";
        }
        Ok(())
    }
}

/// A text that is no plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsePlanError {
    strike: String,
}

impl fmt::Display for ParsePlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a step, a colon and a fault", self.strike)
    }
}

impl Error for ParsePlanError {}

impl FromStr for Plan {
    type Err = ParsePlanError;

    fn from_str(text: &str) -> Result<Self, ParsePlanError> {
        let strike = |text: &str| {
            let (place, fault) = text.split_once(':')?;
            let (step, point) = place.split_once('.').unwrap_or((place, "0"));
            let (name, value) = fault
                .split_once('=')
                .map_or((fault, None), |(name, value)| (name, Some(value)));
            let number = || value?.parse::<u32>().ok();
            let fault = match name {
                "drop-worker" => Fault::DropWorker(number()?),
                "drop-executor" => Fault::DropExecutor,
                "drop-task" => Fault::DropTask(number()?),
                "clock" => Fault::Clock(nanos(value?.parse().ok()?)),
                "stall" => Fault::Stall(number()?),
                "pause" => Fault::Pause,
                "resume" => Fault::Resume,
                "resize" => Fault::Resize(number()?),
                "rate" => Fault::Rate(number()?),
                "priority" => Fault::Priority(number()?),
                "close" => Fault::Close,
                "seal" => Fault::Seal,
                "drain" => Fault::Drain,
                "abort" => Fault::Abort,
                "poll" => Fault::Poll(number()?),
                "stats" => Fault::Stats,
                name => Fault::Handler(
                    HandlerFault::ALL
                        .into_iter()
                        .find(|fault| fault.name() == name)?,
                ),
            };
            Some(Strike {
                step: step.parse().ok()?,
                point: point.parse().ok()?,
                fault,
            })
        };
        let mut words = text.split_whitespace().peekable();
        let preempt = words
            .peek()
            .and_then(|word| word.strip_prefix("preempt=")?.parse().ok());
        let strikes: Result<Vec<Strike>, ParsePlanError> = words
            .skip(usize::from(preempt.is_some()))
            .map(|text| {
                strike(text).ok_or_else(|| ParsePlanError {
                    strike: text.to_owned(),
                })
            })
            .collect();
        Ok(Self::new(strikes?).preempt(preempt.unwrap_or(0)))
    }
}

/// As many nanoseconds, up to what a duration can hold.
fn nanos(count: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    u64::try_from(count / SECOND).map_or(Duration::MAX, |secs| {
        Duration::new(secs, (count % SECOND) as u32)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_plan_survives_its_text(seed: u64, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for plan in [Plan::random(seed, &FaultKind::ALL), Plan::from_bytes(&bytes)] {
                prop_assert!(plan.strikes().is_sorted_by_key(Strike::place));
                prop_assert_eq!(plan.to_string().parse(), Ok(plan));
            }
        }
    }

    #[test]
    fn every_kind_of_fault_comes_and_only_those_that_are_asked_for() {
        let faults = |kinds: &[FaultKind]| -> Vec<String> {
            let plans = (0..500).map(|seed| Plan::random(seed, kinds));
            let mut names: Vec<String> = plans
                .flat_map(|plan| plan.strikes)
                .map(|strike| {
                    strike
                        .fault
                        .to_string()
                        .split('=')
                        .next()
                        .unwrap_or_default()
                        .to_owned()
                })
                .collect();
            names.sort_unstable();
            names.dedup();
            names
        };
        assert_eq!(faults(&[FaultKind::Pause]), ["pause", "resume"]);
        assert_eq!(faults(&[]), [""; 0]);
        assert_eq!(faults(&[FaultKind::Preempt]), [""; 0]);
        assert_eq!(faults(&FaultKind::ALL).len(), 15 + HandlerFault::ALL.len());
    }

    #[test]
    fn nothing_strikes_inside_a_poll_unless_preemption_is_asked_for() {
        let kinds = FaultKind::ALL
            .into_iter()
            .filter(|kind| *kind != FaultKind::Preempt)
            .collect::<Vec<_>>();
        for seed in 0..100 {
            let plan = Plan::random(seed, &kinds);
            assert!(
                plan.preempt == 0 && plan.strikes.iter().all(|strike| strike.point == 0),
                "{plan}"
            );
        }
        let plans: Vec<_> = (0..100)
            .map(|seed| Plan::random(seed, &FaultKind::ALL))
            .collect();
        assert!(plans.iter().any(|plan| plan.preempt == 2));
        assert!(
            plans
                .iter()
                .any(|plan| plan.strikes.iter().any(|strike| strike.point > 20))
        );
    }

    #[test]
    fn a_text_that_is_no_plan_is_named() {
        let error = "1:pause x:abort".parse::<Plan>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"x:abort\" is not a step, a colon and a fault"
        );
        for text in [
            "pause",
            "1:drop-worker",
            "1:rate=x",
            "1:tea",
            "-1:pause",
            "1.x:pause",
            "1:pause preempt=3",
        ] {
            assert!(text.parse::<Plan>().is_err(), "{text}");
        }
    }
}
