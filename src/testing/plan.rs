//! Plans: which faults are injected into a run, and at which steps. Pure: a plan is made from a
//! seed, from text or from bytes, and knows no task and no pool.

use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::rng::Rng;

/// A failure, or an operation at a bad moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// A worker is dropped: the one with this number, modulo how many are left.
    DropWorker(u32),
    /// All workers are dropped, as when their executor is dropped.
    DropExecutor,
    /// A task that was spawned with [`Sim::spawn`](super::Sim::spawn) is dropped, such as a
    /// consumer: the one with this number, modulo how many are left.
    DropTask(u32),
    /// The clock jumps, though a task is runnable.
    Clock(Duration),
    /// The clock does not move for this many steps, though every task waits for it.
    Stall(u32),
    /// The watched pools are paused.
    Pause,
    /// One pause of the watched pools ends. At the end of a run, all do.
    Resume,
    /// The watched pools are resized: to one worker more than this number, modulo the number of
    /// workers that were built.
    Resize(u32),
    /// The watched pools get this rate limit in permits per second; 0: none.
    Rate(u32),
    /// A job of each watched pool gets another priority: the one with this number, modulo how many
    /// have not started.
    Priority(u32),
    /// The watched pools are closed.
    Close,
    /// The watched pools are sealed.
    Seal,
    /// The watched pools are drained.
    Drain,
    /// The watched pools are aborted.
    Abort,
    /// The next handler that was made with [`Sim::faulty`](super::Sim::faulty) fails like this.
    Handler(HandlerFault),
    /// Another task is polled in the middle of a poll, as by another thread: the one with this
    /// number, modulo how many are runnable.
    Poll(u32),
    /// The statistics of the watched pools are read and checked.
    Stats,
}

/// How a handler fails that was made with [`Sim::faulty`](super::Sim::faulty), or that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandlerFault {
    /// It panics while it makes its future.
    PanicInFactory,
    /// It panics when it is polled.
    PanicInPoll,
    /// It panics when it is dropped.
    PanicInDrop,
    /// It panics when it is polled, and the payload of the panic panics when it is dropped.
    PanicWithBomb,
    /// It sleeps for an hour first, and so exceeds any time limit.
    Slow,
    /// [`Sim::is_to_fail`](super::Sim::is_to_fail) returns true once: the handler that calls it
    /// first returns its error.
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
    /// Preemption: tasks are polled in the middle of other polls, at a rate that the seed decides,
    /// and faults may be injected there too; see [`Injection::point`]. A scenario that allows this
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

/// A fault, and when it is injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Injection {
    /// The step, counted from 0.
    pub step: u64,
    /// The preemption point inside the step, counted from 1; 0: before the step. If the step has
    /// fewer points, the fault is injected before the next step.
    ///
    /// A preemption point is a place where another thread could act in the middle of a poll: before
    /// the library takes a lock, after it has released one, before and after each operation on a
    /// channel, and where a handler calls [`Sim::preempt`](super::Sim::preempt).
    pub point: u32,
    /// What is injected.
    pub fault: Fault,
}

impl Injection {
    const fn place(&self) -> (u64, u32) {
        (self.step, self.point)
    }
}

/// The injections of a run, in the order of their steps.
///
/// As text it is what a [`Failure`](super::Failure) prints between brackets, and can be read back:
/// the step, a dot and the [preemption point](Injection::point) if it is one, a colon, the fault;
/// injections separated by a blank. Durations are nanoseconds. `preempt=8` before them stands
/// for polls at one in eight points, which the seed chooses.
///
/// # Examples
///
/// ```
/// use brigade::testing::{Fault, Plan, Injection};
///
/// let plan: Plan = "3:pause 17.2:drop-worker=1".parse().unwrap();
/// assert_eq!(plan.injections()[1], Injection { step: 17, point: 2, fault: Fault::DropWorker(1) });
/// assert_eq!(plan.to_string(), "3:pause 17.2:drop-worker=1");
/// assert!("3:tea".parse::<Plan>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Plan {
    /// Another task is polled at one in this many preemption points; 0: at none.
    preempt: u32,
    injections: Vec<Injection>,
}

impl Plan {
    /// A plan of these injections.
    pub fn new(injections: impl IntoIterator<Item = Injection>) -> Self {
        let mut injections: Vec<Injection> = injections.into_iter().collect();
        injections.sort_by_key(Injection::place);
        Self {
            preempt: 0,
            injections,
        }
    }

    /// Polls another task at one in this many preemption points, which the seed chooses; 0: at
    /// none.
    #[must_use]
    pub const fn preempt(mut self, one_in: u32) -> Self {
        self.preempt = one_in;
        self
    }

    /// At one in how many preemption points another task is polled.
    pub(super) const fn preempts_one_in(&self) -> u32 {
        self.preempt
    }

    /// The injections, in the order of their steps.
    pub fn injections(&self) -> &[Injection] {
        &self.injections
    }

    /// Makes a plan from any bytes, for fuzzers. Of each four bytes, two are the steps since the
    /// previous injection and the preemption point, one is the kind, and one decides the rest.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut step = 0;
        let injection = |bytes: &[u8]| {
            step += u64::from(bytes[0]) + 256 * u64::from(bytes[1] % 4);
            let kind = FaultKind::ALL[usize::from(bytes[2]) % FaultKind::ALL.len()];
            Injection {
                step,
                point: u32::from(bytes[1] / 4),
                fault: kind.draw(&Rng::new(bytes[3].into(), 3)),
            }
        };
        Self::new(bytes.chunks_exact(4).map(injection))
    }

    /// Makes the plan that the seed decides, from faults of these kinds.
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
        // Some runs end after a few steps, others take many.
        let horizon = 8 << rng.below(8);
        let count = 1 + rng.below(6);
        let injection = |_| {
            let kind = kinds[rng.below(kinds.len() as u64) as usize];
            let (step, fault) = (rng.below(horizon), kind.draw(&rng));
            // Half of them between steps. Most polls have few points, some have many.
            let point = inside
                .as_ref()
                .filter(|rng| rng.below(2) == 0)
                .map_or(0, |rng| 1 + rng.below(4 << rng.below(5)));
            Injection {
                step,
                point: point as u32,
                fault,
            }
        };
        Self::new((0..count).map(injection)).preempt(preempt)
    }
}

/// The rates of preemption from which the seed chooses.
const PREEMPT: [u32; 8] = [0, 0, 100, 30, 12, 6, 3, 2];

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        if self.preempt > 0 {
            write!(f, "preempt={}", self.preempt)?;
            gap = " ";
        }
        for Injection { step, point, fault } in &self.injections {
            match point {
                0 => write!(f, "{gap}{step}:{fault}")?,
                point => write!(f, "{gap}{step}.{point}:{fault}")?,
            }
            gap = " ";
        }
        Ok(())
    }
}

/// A text that is not a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsePlanError {
    injection: String,
}

impl fmt::Display for ParsePlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a step, a colon and a fault", self.injection)
    }
}

impl Error for ParsePlanError {}

impl FromStr for Plan {
    type Err = ParsePlanError;

    fn from_str(text: &str) -> Result<Self, ParsePlanError> {
        let injection = |text: &str| {
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
            Some(Injection {
                step: step.parse().ok()?,
                point: point.parse().ok()?,
                fault,
            })
        };
        let mut words = text.split_whitespace().peekable();
        let preempt = words
            .peek()
            .and_then(|word| word.strip_prefix("preempt=")?.parse().ok());
        let injections: Result<Vec<Injection>, ParsePlanError> = words
            .skip(usize::from(preempt.is_some()))
            .map(|text| {
                injection(text).ok_or_else(|| ParsePlanError {
                    injection: text.to_owned(),
                })
            })
            .collect();
        Ok(Self::new(injections?).preempt(preempt.unwrap_or(0)))
    }
}

/// A duration of this many nanoseconds, or the longest one.
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
                prop_assert!(plan.injections().is_sorted_by_key(Injection::place));
                prop_assert_eq!(plan.to_string().parse(), Ok(plan));
            }
        }
    }

    #[test]
    fn every_kind_of_fault_comes_and_only_those_that_are_asked_for() {
        let faults = |kinds: &[FaultKind]| -> Vec<String> {
            let plans = (0..500).map(|seed| Plan::random(seed, kinds));
            let mut names: Vec<String> = plans
                .flat_map(|plan| plan.injections)
                .map(|injection| {
                    injection
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
    fn nothing_is_injected_inside_a_poll_unless_preemption_is_asked_for() {
        let kinds = FaultKind::ALL
            .into_iter()
            .filter(|kind| *kind != FaultKind::Preempt)
            .collect::<Vec<_>>();
        for seed in 0..100 {
            let plan = Plan::random(seed, &kinds);
            assert!(
                plan.preempt == 0 && plan.injections.iter().all(|injection| injection.point == 0),
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
                .any(|plan| plan.injections.iter().any(|injection| injection.point > 20))
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
