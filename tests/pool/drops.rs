//! Everything that can be dropped, dropped after its k-th poll, for every k: nothing is lost,
//! nothing hangs, nothing leaks.
//!
//! A [`Run`] polls the workers and the consumers of one small pool step by step, and only those
//! that were woken. At one moment it drops one of them. After each step the statistics add up;
//! at the end each accepted job has had one outcome, every task that was left has ended, and each
//! input, future, value, state and handler was dropped once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use brigade::{End, Event, JobError, ManualTimer, Pool, RateLimit, SubmitError, Submitter};
use futures_lite::future;

use crate::harness::{
    DropToken, Drops, SECOND, assert_adds_up, assert_settled, everywhere, millis, poll_once,
    yield_now,
};
use crate::steps::Steps;

type Jobs = Pool<Input, Output, Failure>;
type Local = Pin<Box<dyn Future<Output = ()>>>;

/// What a job does is decided by its number: see [`work`].
struct Input {
    number: u32,
    token: DropToken,
}

#[derive(Debug)]
struct Output(#[expect(dead_code, reason = "only its drop counts")] Token);

#[derive(Debug)]
struct Failure(#[expect(dead_code, reason = "only its drop counts")] Token);

struct Token(#[expect(dead_code, reason = "only its drop counts")] DropToken);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// From here on jobs have no end of their own.
const STUCK: u32 = 1000;

/// Counts all that must be dropped once.
#[derive(Clone, Default)]
struct Tracker {
    inputs: Drops,
    futures: Drops,
    values: Drops,
    states: Drops,
    /// And what else belongs to the pool as a whole.
    handlers: Drops,
}

impl Tracker {
    fn input(&self, number: u32) -> Input {
        Input {
            number,
            token: self.inputs.token(),
        }
    }

    fn assert_all_dropped(&self, what: &str) {
        let all = [
            &self.inputs,
            &self.futures,
            &self.values,
            &self.states,
            &self.handlers,
        ];
        let left: Vec<_> = all
            .iter()
            .map(|drops| drops.counts())
            .map(|(made, dropped)| made - dropped)
            .collect();
        assert_eq!(
            left, [0; 5],
            "{what}: not dropped of inputs, futures, values, states, handlers"
        );
    }
}

/// The body of a job: yields, or sleeps, or both, or never ends; then succeeds or fails.
async fn work(
    tracker: Tracker,
    clock: ManualTimer,
    input: Input,
    token: DropToken,
) -> Result<Output, Failure> {
    let _token = token;
    let number = input.number;
    if number >= STUCK {
        future::pending::<()>().await;
    }
    for _ in 0..number % 3 {
        yield_now().await;
    }
    if number % 5 == 4 {
        clock.sleep(SECOND).await;
    }
    drop(input.token);
    let token = Token(tracker.values.token());
    if number % 4 == 3 {
        Err(Failure(token))
    } else {
        Ok(Output(token))
    }
}

#[derive(Clone, Copy)]
enum Handler {
    Plain,
    /// Each job with a number below 4 adds two.
    AddsJobs,
    State,
}

/// What happens at which moment.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    /// Worker, or consumer, of this number is dropped after its k-th poll.
    Worker(usize, usize),
    Consumer(usize, usize),
    /// All workers are dropped after k steps.
    AllWorkers(usize),
}

/// What a consumer is given, and where it leaves what it saw.
#[derive(Clone)]
struct Env {
    pool: Jobs,
    clock: ManualTimer,
    tracker: Tracker,
    /// Whether all workers are gone.
    are_workers_gone: Rc<RefCell<bool>>,
}

type Consumer = fn(Env) -> Local;

struct Scenario {
    workers: usize,
    /// Of each worker.
    slots: usize,
    capacity: usize,
    handler: Handler,
    consumers: &'static [Consumer],
    /// Whether some jobs end only when they are stopped.
    is_stuck: bool,
    /// Whether the pool has a schedule: two keys that are used one job at a time, and permits to
    /// wait for.
    is_scheduled: bool,
}

struct Run {
    slots: usize,
    steps: Steps,
    workers: Vec<usize>,
    consumers: Vec<usize>,
    env: Env,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Run {
    fn new(scenario: &Scenario) -> Self {
        let mut steps = Steps::default();
        let mut workers = Vec::new();
        let run = Self::spawn(scenario, |n, worker| {
            workers.push(steps.add(format!("worker {n}"), worker));
        });
        Self {
            steps,
            workers,
            ..run
        }
        .with_consumers(scenario)
    }

    /// Spawns the workers with `spawn`, and not as tasks of `steps`.
    fn with_workers_elsewhere(scenario: &Scenario, mut spawn: impl FnMut(Local)) -> Self {
        Self::spawn(scenario, |_, worker| spawn(worker)).with_consumers(scenario)
    }

    fn spawn(scenario: &Scenario, mut spawn: impl FnMut(usize, Local)) -> Self {
        let clock = ManualTimer::new();
        let tracker = Tracker::default();
        let events = Arc::new(Mutex::new(Vec::new()));
        let (log, pool_itself) = (Arc::clone(&events), tracker.handlers.token());
        let mut builder = Pool::builder()
            .workers(scenario.workers)
            .jobs_per_worker(scenario.slots)
            .queue_capacity(scenario.capacity)
            .timings(true)
            .timer(clock.clone())
            .observe(move |event: &Event| {
                let _ = &pool_itself;
                log.lock().unwrap().push(event.clone());
            });
        if scenario.is_scheduled {
            let limit = RateLimit::every(millis(100)).burst(3);
            builder = builder
                .key_by(|input: &Input| input.number % 2)
                .max_running_per_key(1)
                .rate_limit(limit);
        }
        let (pool, workers) = build(builder, scenario.handler, &clock, &tracker);
        workers
            .into_iter()
            .enumerate()
            .for_each(|(n, worker)| spawn(n, worker));
        let env = Env {
            pool,
            clock,
            tracker,
            are_workers_gone: Rc::default(),
        };
        let slots = scenario.slots;
        Self {
            slots,
            steps: Steps::default(),
            workers: Vec::new(),
            consumers: Vec::new(),
            env,
            events,
        }
    }

    fn with_consumers(mut self, scenario: &Scenario) -> Self {
        for (n, consumer) in scenario.consumers.iter().enumerate() {
            self.consumers.push(
                self.steps
                    .add(format!("consumer {n}"), consumer(self.env.clone())),
            );
        }
        self
    }

    /// Runs until no task is runnable and no timer is left, with one fault. Returns whether the fault
    /// was injected.
    fn settle(&mut self, fault: Fault) -> bool {
        let mut has_happened = false;
        let mut count = 0;
        loop {
            has_happened |= self.inject(fault, count);
            match self.steps.step() {
                Some(_) => count += 1,
                None if self.env.clock.advance_to_next() => {}
                None => return has_happened,
            }
            assert!(count < 100_000, "it never comes to rest");
            let stats = self.env.pool.stats();
            assert_adds_up(&stats);
            assert!(stats.running <= stats.workers * self.slots, "{stats:?}");
        }
    }

    fn inject(&mut self, fault: Fault, count: usize) -> bool {
        let targets: Vec<usize> = match fault {
            Fault::Worker(n, k) if self.steps.polls(self.workers[n]) == k => vec![self.workers[n]],
            Fault::Consumer(n, k) if self.steps.polls(self.consumers[n]) == k => {
                vec![self.consumers[n]]
            }
            Fault::AllWorkers(k) if count == k => self.workers.clone(),
            _ => return false,
        };
        if !targets.iter().any(|at| self.steps.is_waiting(*at)) {
            return false;
        }
        for at in targets {
            self.steps.drop_task(at);
        }
        *self.env.are_workers_gone.borrow_mut() =
            !self.workers.iter().any(|at| self.steps.is_waiting(*at));
        assert_adds_up(&self.env.pool.stats());
        true
    }

    /// Every task that was not dropped has ended.
    fn assert_no_task_waits(&self, what: &str) {
        let waiting: Vec<_> = self
            .steps
            .waiting()
            .filter(|(at, _)| !self.workers.contains(at))
            .collect();
        assert!(
            waiting.is_empty(),
            "{what}: they wait for ever: {waiting:?}"
        );
    }
}

fn build(
    builder: brigade::Builder<Input, Failure>,
    handler: Handler,
    clock: &ManualTimer,
    tracker: &Tracker,
) -> (Jobs, Vec<Local>) {
    let (clock, tracker) = (clock.clone(), tracker.clone());
    let token = tracker.handlers.token();
    match handler {
        Handler::Plain => {
            let (pool, workers) = builder.build(move |input: Input| {
                let _ = &token;
                work(
                    tracker.clone(),
                    clock.clone(),
                    input,
                    tracker.futures.token(),
                )
            });
            (
                pool,
                workers
                    .into_iter()
                    .map(|worker| Box::pin(worker.run()) as Local)
                    .collect(),
            )
        }
        Handler::AddsJobs => {
            let (pool, workers) = builder.build_with_submitter(
                move |input: Input, jobs: Submitter<Input, Output, Failure>| {
                    let _ = &token;
                    let (tracker, clock, future) =
                        (tracker.clone(), clock.clone(), tracker.futures.token());
                    async move {
                        if input.number < 4 {
                            // Refused only when the parent's outcome is no longer wanted.
                            let _ = jobs.add(tracker.input(2 * input.number + 4));
                            yield_now().await;
                            let _ = jobs.add(tracker.input(2 * input.number + 5));
                        }
                        work(tracker, clock, input, future).await
                    }
                },
            );
            (
                pool,
                workers
                    .into_iter()
                    .map(|worker| Box::pin(worker.run()) as Local)
                    .collect(),
            )
        }
        Handler::State => {
            let states = tracker.states.clone();
            let (pool, workers) = builder.build_with_state(
                move |_| states.token(),
                async move |_state: &mut DropToken, input: Input| {
                    let _ = &token;
                    work(
                        tracker.clone(),
                        clock.clone(),
                        input,
                        tracker.futures.token(),
                    )
                    .await
                },
            );
            (
                pool,
                workers
                    .into_iter()
                    .map(|worker| Box::pin(worker.run()) as Local)
                    .collect(),
            )
        }
    }
}

/// Each accepted job has started at most once, and has exactly one outcome.
#[track_caller]
fn assert_one_outcome_each(events: &[Event], what: &str) {
    let mut jobs = BTreeMap::new();
    for event in events {
        match event {
            Event::Accepted { job } => assert!(
                jobs.insert(*job, 0).is_none(),
                "{what}: {job} accepted twice"
            ),
            Event::Finished { job, .. } => {
                *jobs.get_mut(job).expect("a job is accepted before it ends") += 1;
            }
            _ => {}
        }
    }
    let wrong: Vec<_> = jobs
        .iter()
        .filter(|(_, outcomes)| **outcomes != 1)
        .collect();
    assert!(wrong.is_empty(), "{what}: not one outcome: {wrong:?}");
}

/// One run with one fault; says whether the fault happened.
fn run(scenario: &Scenario, fault: Fault) -> bool {
    let what = format!("{fault:?}");
    let mut run = Run::new(scenario);
    let has_happened = run.settle(fault);
    if !scenario.is_stuck {
        run.assert_no_task_waits(&what);
    }
    let pool = run.env.pool.clone();
    let end = run.steps.add("end", async move {
        drop(pool.abort().await);
        pool.wait_idle().await;
        pool.drain().await;
        assert!(pool.drain_within(SECOND).await.is_complete());
    });
    run.settle(Fault::None);
    run.assert_no_task_waits(&what);
    assert!(run.steps.is_done(end), "{what}: the pool does not end");
    assert_eq!(
        run.steps.waiting().next(),
        None,
        "{what}: workers outlive their pool"
    );
    let stats = assert_settled(&run.env.pool);
    assert_eq!(stats.workers, 0, "{what}");
    let Run {
        steps, env, events, ..
    } = run;
    let tracker = env.tracker.clone();
    drop((steps, env));
    let events = events.lock().unwrap();
    assert_one_outcome_each(&events, &what);
    assert_eq!(
        stats.accepted,
        events
            .iter()
            .filter(|event| matches!(event, Event::Accepted { .. }))
            .count() as u64
    );
    tracker.assert_all_dropped(&what);
    has_happened
}

/// Runs the scenario with each fault at each moment, until the moment never comes.
fn for_every_fault(scenario: &Scenario) {
    assert!(!run(scenario, Fault::None));
    let mut faults: Vec<Box<dyn Fn(usize) -> Fault>> = vec![Box::new(Fault::AllWorkers)];
    faults.extend((0..scenario.workers).map(|n| Box::new(move |k| Fault::Worker(n, k)) as _));
    faults.extend(
        (0..scenario.consumers.len()).map(|n| Box::new(move |k| Fault::Consumer(n, k)) as _),
    );
    for fault in faults {
        let moments = (0..).take_while(|k| run(scenario, fault(*k))).count();
        assert!(moments > 0, "{:?} never happened", fault(0));
    }
}

/// On pools of one to three workers with one to three slots, with little and ample room, with a
/// schedule and without.
fn on_every_small_pool(handler: Handler, consumers: &'static [Consumer], is_stuck: bool) {
    let of_one_slot = [
        (1, 1, 1, false),
        (1, 1, 20, false),
        (2, 1, 3, false),
        (3, 1, 1, false),
        (1, 1, 20, true),
        (3, 1, 2, true),
    ];
    let of_many_slots = [
        (1, 2, 1, false),
        (1, 3, 20, false),
        (2, 2, 3, false),
        (1, 2, 20, true),
        (2, 2, 2, true),
    ];
    // A state has one slot.
    let has_many = !matches!(handler, Handler::State);
    let pools = of_one_slot
        .into_iter()
        .chain(of_many_slots.into_iter().filter(|_| has_many));
    for (workers, slots, capacity, is_scheduled) in pools {
        let scenario = Scenario {
            workers,
            slots,
            capacity,
            handler,
            consumers,
            is_stuck,
            is_scheduled,
        };
        for_every_fault(&scenario);
        for first in [First::Workers, First::Consumers] {
            (0..)
                .take_while(|k| run_and_drop_all(&scenario, first, *k))
                .for_each(drop);
        }
        (0..)
            .take_while(|k| run_and_drop_executor(&scenario, *k))
            .for_each(drop);
    }
}

/// What is dropped first when everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    Workers,
    Consumers,
}

/// Runs for `k` steps, then drops everything without polling it again. Says whether there were so
/// many steps.
fn run_and_drop_all(scenario: &Scenario, first: First, k: usize) -> bool {
    let what = format!("everything dropped after {k} steps, first {first:?}");
    let Run {
        mut steps,
        workers,
        consumers,
        env,
        events,
        ..
    } = Run::new(scenario);
    let mut count = 0;
    while count < k && (steps.step().is_some() || env.clock.advance_to_next()) {
        count += 1;
    }
    let Env {
        pool,
        clock,
        tracker,
        ..
    } = env;
    let (before, after) = if first == First::Workers {
        (&workers, &consumers)
    } else {
        (&consumers, &workers)
    };
    for at in before {
        steps.drop_task(*at);
    }
    assert_adds_up(&pool.stats());
    drop(pool);
    for at in after {
        steps.drop_task(*at);
    }
    drop((steps, clock));
    let events = events.lock().unwrap();
    assert_one_outcome_each(&events, &what);
    let left = events
        .iter()
        .filter(|event| matches!(event, Event::WorkerLeft { .. }))
        .count();
    assert_eq!(left, scenario.workers, "{what}: workers that left");
    assert_eq!(
        events
            .iter()
            .filter(|event| **event == Event::Closed)
            .count(),
        1,
        "{what}: closed once"
    );
    tracker.assert_all_dropped(&what);
    count == k
}

/// An executor with the workers on it is dropped after `k` ticks. Says whether there were so many.
fn run_and_drop_executor(scenario: &Scenario, k: usize) -> bool {
    let what = format!("executor dropped after {k} ticks");
    let executor = async_executor::LocalExecutor::new();
    let mut run = Run::with_workers_elsewhere(scenario, |worker| executor.spawn(worker).detach());
    let mut ticks = 0;
    loop {
        while run.steps.step().is_some() {}
        if ticks == k || !(executor.try_tick() || run.env.clock.advance_to_next()) {
            break;
        }
        ticks += 1;
        assert_adds_up(&run.env.pool.stats());
    }
    drop(executor);
    *run.env.are_workers_gone.borrow_mut() = true;
    run.settle(Fault::None);
    run.assert_no_task_waits(&what);
    assert_eq!(assert_settled(&run.env.pool).workers, 0, "{what}");
    let Run {
        steps, env, events, ..
    } = run;
    let tracker = env.tracker.clone();
    drop((steps, env));
    assert_one_outcome_each(&events.lock().unwrap(), &what);
    tracker.assert_all_dropped(&what);
    ticks == k
}

// ---- consumers ----

const JOBS: u32 = 9;

/// Checks the result of a handle or a completion in a run without cancellation and abort.
#[track_caller]
fn assert_plain_result<E: std::fmt::Debug>(number: u32, result: &Result<Output, JobError<E>>) {
    let is_expected = match result {
        Ok(_) => number % 4 != 3,
        Err(JobError::Failed(_)) => number % 4 == 3,
        Err(JobError::Abandoned) => true,
        Err(_) => false,
    };
    assert!(is_expected, "{number}: {result:?}");
}

fn awaits_handles(env: Env) -> Local {
    Box::pin(async move {
        let mut handles = Vec::new();
        for number in 0..JOBS {
            match env.pool.submit(env.tracker.input(number)).await {
                Ok(handle) => handles.push((number, handle)),
                Err(SubmitError::Closed(input)) => {
                    assert!(*env.are_workers_gone.borrow());
                    assert_eq!(input.number, number);
                }
                Err(refused) => panic!("{refused:?}"),
            }
        }
        for (number, handle) in handles {
            assert_plain_result(number, &handle.await);
        }
    })
}

fn reserves(env: Env) -> Local {
    Box::pin(async move {
        for number in 0..JOBS {
            let input = env.tracker.input(number);
            let Ok(permit) = env.pool.reserve().await else {
                assert!(*env.are_workers_gone.borrow());
                continue;
            };
            yield_now().await;
            match permit.submit(input) {
                Ok(handle) if number % 2 == 0 => handle.detach(),
                Ok(handle) => assert_plain_result(number, &handle.await),
                Err(refused) => assert!(refused.is_closed() && *env.are_workers_gone.borrow()),
            }
        }
    })
}

fn cancels(env: Env) -> Local {
    Box::pin(async move {
        for number in 0..JOBS {
            let Ok(handle) = env.pool.submit(env.tracker.input(number)).await else {
                continue;
            };
            for _ in 0..number {
                yield_now().await;
            }
            match number % 3 {
                0 => drop(handle.cancel().await),
                1 => drop(handle),
                _ => drop(handle.cancel()),
            }
        }
    })
}

fn maps(env: Env) -> Local {
    maps_with(env, false, 4)
}

fn maps_in_order(env: Env) -> Local {
    maps_with(env, true, 3)
}

fn maps_with_window_of_one(env: Env) -> Local {
    maps_with(env, true, 1)
}

fn maps_with(env: Env, is_ordered: bool, window: usize) -> Local {
    Box::pin(async move {
        let tracker = env.tracker.clone();
        let mut map = env
            .pool
            .map((0..JOBS).map(move |number| tracker.input(number)))
            .window(window);
        if is_ordered {
            map = map.ordered();
        }
        let mut read = 0;
        while let Some(completion) = map.next().await {
            if is_ordered {
                assert_eq!(completion.index, read);
            }
            assert_plain_result(completion.index as u32, &completion.result);
            assert_eq!(completion.input.is_some(), completion.attempts == 0);
            read += 1;
        }
        let summary = map.summary();
        assert_eq!((summary.accepted, summary.unread), (read, 0));
        match summary.end {
            End::Complete => assert_eq!((read, summary.abandoned), (JOBS as usize, 0)),
            End::Abandoned => assert!(summary.abandoned > 0),
            End::Closed => assert!(*env.are_workers_gone.borrow() && summary.abandoned == 0),
            end => panic!("{end:?}"),
        }
    })
}

/// The jobs add jobs, so the map ends when these have ended too.
fn maps_what_grows(env: Env) -> Local {
    Box::pin(async move {
        let tracker = env.tracker.clone();
        let mut map = env
            .pool
            .map((0..4).map(move |number| tracker.input(number)));
        let mut read = 0;
        while let Some(completion) = map.next().await {
            assert!(!matches!(
                completion.result,
                Err(JobError::Panicked(_) | JobError::Cancelled(_))
            ));
            read += 1;
        }
        let summary = map.summary();
        assert_eq!((summary.accepted, summary.unread), (read, 0));
        assert!(
            read == 12 || summary.abandoned > 0 || *env.are_workers_gone.borrow(),
            "{summary:?}"
        );
    })
}

fn submits_what_grows(env: Env) -> Local {
    Box::pin(async move {
        let mut handles = Vec::new();
        for number in 0..4 {
            handles.extend(env.pool.submit(env.tracker.input(number)).await);
        }
        for (number, handle) in (0..).zip(handles) {
            if number % 2 == 0 {
                handle.detach();
            } else {
                drop(handle.await);
            }
        }
        env.pool.wait_idle().await;
    })
}

fn groups(env: Env) -> Local {
    Box::pin(async move {
        let mut group = env.pool.group().window(100);
        let mut accepted = 0;
        for number in 0..JOBS {
            match group.submit(env.tracker.input(number)).await {
                Ok(()) => accepted += 1,
                Err(refused) => assert!(refused.is_closed() && *env.are_workers_gone.borrow()),
            }
            if number % 4 == 3 {
                accepted -= usize::from(group.next().await.is_some());
            }
        }
        assert_eq!(group.unread(), accepted);
        assert_eq!(group.join().await.len(), accepted);
    })
}

fn waits_for_idle(env: Env) -> Local {
    Box::pin(async move {
        yield_now().await;
        env.pool.wait_idle().await;
        yield_now().await;
        env.pool.wait_idle().await;
    })
}

fn maps_and_cancels(env: Env) -> Local {
    Box::pin(async move {
        let tracker = env.tracker.clone();
        let mut map = env
            .pool
            .map((0..JOBS).map(move |number| tracker.input(number)))
            .window(5);
        for _ in 0..2 {
            drop(map.next().await);
        }
        map.cancel();
        let mut read = map.summary().accepted - map.summary().unread;
        while map.next().await.is_some() {
            read += 1;
        }
        assert_eq!(
            (map.summary().accepted, map.summary().end),
            (read, End::Cancelled)
        );
    })
}

fn submits_stuck_jobs(env: Env) -> Local {
    Box::pin(async move {
        let mut handles = Vec::new();
        for number in [0, STUCK, 1, STUCK + 1, STUCK + 2, STUCK + 3, 2, STUCK + 4] {
            if let Ok(handle) = env.pool.submit(env.tracker.input(number)).await {
                handles.push(handle);
            }
        }
        for handle in handles {
            drop(handle.await);
        }
    })
}

fn maps_stuck_jobs(env: Env) -> Local {
    Box::pin(async move {
        let tracker = env.tracker.clone();
        let mut map = env
            .pool
            .map((0..JOBS).map(move |number| tracker.input(number + (number % 2) * STUCK)));
        while map.next().await.is_some() {}
        let summary = map.summary();
        assert_eq!(summary.unread, 0);
        assert!(!summary.is_complete(), "{summary:?}");
    })
}

fn aborts(env: Env) -> Local {
    Box::pin(async move {
        for _ in 0..3 {
            yield_now().await;
        }
        let report = env.pool.abort().await;
        assert_settled(&env.pool);
        drop(report);
    })
}

fn drains_within_a_while(env: Env) -> Local {
    Box::pin(async move {
        let report = env.pool.drain_within(millis(1500)).await;
        assert_eq!(report.stats.queued, 0);
        env.pool.wait_idle().await;
        assert_settled(&env.pool);
    })
}

// ---- the promises ----

#[test]
fn whatever_is_dropped_when_each_job_of_a_handle_has_one_outcome() {
    on_every_small_pool(Handler::Plain, &[awaits_handles], false);
}

#[test]
fn whatever_is_dropped_when_no_reserved_place_is_lost() {
    on_every_small_pool(Handler::Plain, &[reserves, awaits_handles], false);
}

#[test]
fn whatever_is_dropped_when_a_cancelled_job_has_one_outcome() {
    on_every_small_pool(Handler::Plain, &[cancels, cancels], false);
}

#[test]
fn whatever_is_dropped_when_each_input_of_a_map_has_one_completion() {
    on_every_small_pool(Handler::Plain, &[maps], false);
}

#[test]
fn whatever_is_dropped_when_two_maps_do_not_disturb_each_other() {
    on_every_small_pool(Handler::Plain, &[maps, maps_in_order], false);
}

#[test]
fn whatever_is_dropped_when_an_ordered_map_keeps_the_order_without_gaps() {
    on_every_small_pool(
        Handler::Plain,
        &[maps_in_order, maps_with_window_of_one],
        false,
    );
}

#[test]
fn whatever_is_dropped_when_a_cancelled_map_yields_what_was_accepted() {
    on_every_small_pool(Handler::Plain, &[maps_and_cancels, maps], false);
}

#[test]
fn whatever_is_dropped_when_each_job_of_a_group_has_one_completion() {
    on_every_small_pool(Handler::Plain, &[groups], false);
}

#[test]
fn whatever_is_dropped_when_jobs_added_by_jobs_of_a_map_have_one_completion_each() {
    on_every_small_pool(Handler::AddsJobs, &[maps_what_grows], false);
}

#[test]
fn whatever_is_dropped_when_jobs_added_by_jobs_of_a_handle_have_one_outcome_each() {
    on_every_small_pool(Handler::AddsJobs, &[submits_what_grows], false);
}

#[test]
fn whatever_is_dropped_when_each_state_is_dropped_once() {
    on_every_small_pool(Handler::State, &[maps, awaits_handles], false);
}

#[test]
fn whatever_is_dropped_when_waits_for_idle_are_woken() {
    on_every_small_pool(
        Handler::Plain,
        &[awaits_handles, waits_for_idle, waits_for_idle],
        false,
    );
}

#[test]
fn whatever_is_dropped_when_an_abort_goes_on_and_ends() {
    on_every_small_pool(
        Handler::Plain,
        &[submits_stuck_jobs, aborts, waits_for_idle],
        true,
    );
    on_every_small_pool(Handler::AddsJobs, &[maps_stuck_jobs, aborts, aborts], true);
}

#[test]
fn whatever_is_dropped_when_a_drain_with_a_deadline_ends() {
    on_every_small_pool(
        Handler::Plain,
        &[submits_stuck_jobs, drains_within_a_while],
        true,
    );
    on_every_small_pool(
        Handler::State,
        &[maps_stuck_jobs, drains_within_a_while],
        true,
    );
}

#[test]
fn nothing_is_left_when_pool_workers_and_handles_are_gone() {
    everywhere(|env| async move {
        let token = Arc::new(());
        let (inside, observer) = (Arc::clone(&token), Arc::clone(&token));
        let pool = env
            .at_once(3)
            .observe(move |_: &Event| drop(Arc::clone(&observer)))
            .spawn_on(&env, move |n: u32| {
                let token = Arc::clone(&inside);
                async move {
                    yield_now().await;
                    drop(token);
                    Ok::<_, ()>(n)
                }
            });
        drop(pool.map(0..100).try_collect::<Vec<_>>().await);
        let handles: Vec<_> = (0..10).map(|n| pool.try_submit(n).unwrap()).collect();
        drop(handles);
        let mut map = pool.map(0..100);
        drop(poll_once(pin!(map.next())));
        drop((map, pool));
        while Arc::strong_count(&token) > 1 {
            std::thread::yield_now();
            yield_now().await;
        }
    });
}
