//! The jobs of a round: what an input asks of the handler, and what the handler counts.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use brigade::{JobError, JobHandle, Pool, Submitter};
use futures_lite::future;

pub(crate) type Failure = &'static str;
pub(crate) type JobPool = Pool<Input, u64, Failure>;
pub(crate) type Handle = JobHandle<Input, u64, Failure>;

/// How many keys there are.
pub(crate) const KEYS: usize = 3;

/// The text of panics that an input asks for; the panic hook keeps quiet about these.
pub(crate) const PANIC: &str = "on request";

/// What the handler does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Return,
    Yield,
    /// Sleeps for so many microseconds.
    Sleep(u64),
    Fail,
    Panic,
    /// Runs until it is dropped.
    Endless,
    /// Adds so many jobs that return at once, if it has a submitter.
    Add(usize),
}

#[derive(Clone)]
pub(crate) struct Input {
    pub(crate) number: u64,
    pub(crate) work: Work,
    token: Token,
}

impl Input {
    pub(crate) fn new(counts: &Arc<Counts>, work: Work) -> Self {
        let number = counts.numbers.fetch_add(1, Ordering::SeqCst);
        Self {
            number,
            work,
            token: Token::new(counts),
        }
    }

    pub(crate) const fn key(&self) -> usize {
        (self.number % KEYS as u64) as usize
    }
}

/// Counts itself when it is made, cloned and dropped.
struct Token(Arc<Counts>);

impl Token {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.created.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(counts))
    }
}

impl Clone for Token {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// What the handler may assume and has to keep within, by the configuration of the round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) running: usize,
    pub(crate) running_per_key: usize,
    /// Whether jobs start in the order of their numbers.
    pub(crate) in_order: bool,
}

/// What the inputs, the handler and the clients of one round count.
pub(crate) struct Counts {
    bounds: Bounds,
    numbers: AtomicU64,
    pub(crate) created: AtomicU64,
    pub(crate) dropped: AtomicU64,
    /// Jobs that clients submitted and the pool accepted.
    pub(crate) accepted: AtomicU64,
    /// Jobs that running jobs added.
    pub(crate) added: AtomicU64,
    /// Attempts that returned a value.
    pub(crate) values: AtomicU64,
    /// Actions of clients and attempts of jobs; the watchdog looks at it.
    pub(crate) progress: AtomicU64,
    running: AtomicUsize,
    running_per_key: [AtomicUsize; KEYS],
    next_start: AtomicU64,
    has_violation: AtomicBool,
    violations: Mutex<Vec<String>>,
}

impl Counts {
    pub(crate) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            numbers: AtomicU64::new(0),
            created: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            added: AtomicU64::new(0),
            values: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            running_per_key: Default::default(),
            next_start: AtomicU64::new(0),
            has_violation: AtomicBool::new(false),
            violations: Mutex::default(),
        })
    }

    /// Notes that a promise was broken. A panic would be contained where it happens, by the pool or
    /// by an executor.
    pub(crate) fn violate(&self, what: impl FnOnce() -> String) {
        self.has_violation.store(true, Ordering::SeqCst);
        self.violations.lock().unwrap().push(what());
    }

    pub(crate) fn expect(&self, is_so: bool, what: impl FnOnce() -> String) {
        if !is_so {
            self.violate(what);
        }
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }

    pub(crate) fn step(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn accept(&self) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
    }

    /// Checks what was told of a job against what its input asked for. An outcome that the round
    /// itself caused, such as a cancellation in a round that aborts its pool, is for the caller to
    /// allow.
    pub(crate) fn check(
        &self,
        number: u64,
        work: Work,
        result: &Result<u64, JobError<Failure>>,
        is_allowed: impl FnOnce(&JobError<Failure>) -> bool,
    ) {
        let is_right = match (work, result) {
            (Work::Return | Work::Yield | Work::Sleep(_) | Work::Add(_), Ok(value)) => {
                *value == number
            }
            (Work::Fail, Err(JobError::Failed(_))) | (Work::Panic, Err(JobError::Panicked(_))) => {
                true
            }
            (_, Err(error)) => is_allowed(error),
            _ => false,
        };
        self.expect(is_right, || {
            format!("job of input {number}, which asks for {work:?}, ended with {result:?}")
        });
    }
}

/// An attempt that runs; counted until it is dropped.
struct Attempt<'a>(&'a Input);

impl<'a> Attempt<'a> {
    fn start(input: &'a Input) -> Self {
        let counts = &input.token.0;
        counts.step();
        let running = counts.running.fetch_add(1, Ordering::SeqCst) + 1;
        counts.expect(running <= counts.bounds.running, || {
            format!("{running} jobs run")
        });
        let of_key = counts.running_per_key[input.key()].fetch_add(1, Ordering::SeqCst) + 1;
        counts.expect(of_key <= counts.bounds.running_per_key, || {
            format!("{of_key} jobs of a key run")
        });
        if counts.bounds.in_order {
            let next = counts
                .next_start
                .fetch_max(input.number + 1, Ordering::SeqCst);
            counts.expect(next <= input.number, || {
                format!("job {} starts after job {}", input.number, next - 1)
            });
        }
        Self(input)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let counts = &self.0.token.0;
        counts.running_per_key[self.0.key()].fetch_sub(1, Ordering::SeqCst);
        counts.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The handler.
pub(crate) async fn run(
    input: Input,
    jobs: Option<Submitter<Input, u64, Failure>>,
) -> Result<u64, Failure> {
    let _attempt = Attempt::start(&input);
    match input.work {
        Work::Return => {}
        Work::Yield => future::yield_now().await,
        Work::Sleep(micros) => {
            async_io::Timer::after(Duration::from_micros(micros)).await;
        }
        Work::Fail => return Err("on request"),
        Work::Panic => std::panic::panic_any(PANIC),
        Work::Endless => future::pending().await,
        Work::Add(count) => {
            for _ in 0..count {
                let child = Input::new(&input.token.0, Work::Return);
                if jobs.as_ref().is_some_and(|jobs| jobs.add(child).is_ok()) {
                    input.token.0.added.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }
    input.token.0.values.fetch_add(1, Ordering::SeqCst);
    Ok(input.number)
}
