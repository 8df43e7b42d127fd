//! What a caller sees of a job's error: the handler's own text and causes, whole, and what `?` can
//! pass on.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;

use anyhow::Context;
use brigade::{CancelReason, CollectError, JobError, ManualTimer, Pool, TimeLimit};
use futures_lite::future;

/// An error with a cause.
#[derive(Debug, PartialEq)]
struct Outer(Root);

#[derive(Debug, PartialEq)]
struct Root;

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot fetch")
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("reset")
    }
}

impl Error for Outer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

impl Error for Root {}

fn anyhow_chain() -> anyhow::Error {
    anyhow::Error::new(Outer(Root)).context("page 3")
}

/// The texts of an error and of its causes.
fn chain(error: &dyn Error) -> Vec<String> {
    std::iter::successors(Some(error), |error: &&dyn Error| (*error).source())
        .map(ToString::to_string)
        .collect()
}

fn of_input_3<E>(error: JobError<E>) -> CollectError<u32, E> {
    CollectError::Job {
        index: 3,
        input: Some(30),
        error,
    }
}

#[test]
fn a_failed_job_prints_as_the_error_of_its_handler() {
    let error = JobError::Failed(anyhow_chain());
    assert_eq!(error.to_string(), "page 3");
    assert_eq!(format!("{error:#}"), "page 3: cannot fetch: reset");
    let error = of_input_3(error);
    assert_eq!(error.to_string(), "input 3: page 3");
    assert_eq!(format!("{error:#}"), "input 3: page 3: cannot fetch: reset");
}

#[test]
fn each_cause_of_a_failed_job_is_named_once() {
    assert_eq!(
        chain(&JobError::Failed(Outer(Root))),
        ["cannot fetch", "reset"]
    );
    assert_eq!(
        chain(&of_input_3(JobError::Failed(Outer(Root)))),
        ["input 3: cannot fetch", "reset"]
    );
    assert_eq!(
        chain(&JobError::<Outer>::Abandoned),
        ["the job's worker was dropped"]
    );
    let wrapped = anyhow::Error::new(JobError::Failed(Outer(Root))).context("page 3");
    assert_eq!(format!("{wrapped:#}"), "page 3: cannot fetch: reset");
}

#[test]
fn flatten_returns_the_error_of_the_handler_by_value() {
    #[derive(Debug, PartialEq)]
    enum Own {
        Handler(u32),
        Pool(JobError<Infallible>),
        Run(CollectError<Infallible, Infallible>),
    }

    impl From<JobError<Infallible>> for Own {
        fn from(error: JobError<Infallible>) -> Self {
            Self::Pool(error)
        }
    }

    impl From<CollectError<Infallible, Infallible>> for Own {
        fn from(error: CollectError<Infallible, Infallible>) -> Self {
            Self::Run(error)
        }
    }

    let cases: [fn() -> JobError<Infallible>; 5] = [
        || JobError::TimedOut(TimeLimit::Job),
        || JobError::Cancelled(CancelReason::Aborted),
        || JobError::Abandoned,
        || JobError::WouldDeadlock,
        || JobError::CostExceedsLimit {
            cost: 4,
            max_cost: 3,
        },
    ];
    let of_pool: [JobError<Own>; 5] = [
        JobError::TimedOut(TimeLimit::Job),
        JobError::Cancelled(CancelReason::Aborted),
        JobError::Abandoned,
        JobError::WouldDeadlock,
        JobError::CostExceedsLimit {
            cost: 4,
            max_cost: 3,
        },
    ];
    for (error, case) in of_pool.into_iter().zip(cases) {
        assert_eq!(error.flatten(), Own::Pool(case()));
    }
    assert_eq!(JobError::Failed(Own::Handler(7)).flatten(), Own::Handler(7));
    assert_eq!(
        of_input_3(JobError::Failed(Own::Handler(7))).flatten(),
        Own::Handler(7)
    );
    let run = CollectError::Job {
        index: 3,
        input: None,
        error: JobError::Abandoned,
    };
    assert_eq!(
        of_input_3(JobError::<Own>::Abandoned).flatten(),
        Own::Run(run)
    );
    let summary = brigade::Summary::default();
    let incomplete = CollectError::<u32, Own>::Incomplete(summary.clone()).flatten();
    assert_eq!(incomplete, Own::Run(CollectError::Incomplete(summary)));
}

#[test]
fn flattened_errors_pass_through_anyhow_and_boxes() {
    async fn with_anyhow(n: u32) -> anyhow::Result<()> {
        let (pool, workers) =
            Pool::builder()
                .workers(1)
                .timer(ManualTimer::new())
                .build(|n: u32| async move {
                    match n {
                        0 => Err(anyhow_chain()),
                        1 => panic!("one"),
                        _ => Ok(n),
                    }
                });
        let job = async {
            pool.submit(n)
                .await?
                .await
                .map_err(JobError::flatten)
                .context("one job")?;
            pool.map([n])
                .try_collect::<Vec<_>>()
                .await
                .map_err(CollectError::flatten)
                .context("many jobs")
        };
        workers.drive(job).await.map(drop)
    }
    let text = |n| future::block_on(with_anyhow(n)).map_err(|error| format!("{error:#}"));
    assert_eq!(
        text(0),
        Err("one job: page 3: cannot fetch: reset".to_owned())
    );
    assert_eq!(text(1), Err("one job: the job panicked: one".to_owned()));
    assert_eq!(text(2), Ok(()));

    type Boxed = Box<dyn Error + Send + Sync>;
    let handler: JobError<Boxed> = JobError::Failed("no route".into());
    assert_eq!(handler.flatten().to_string(), "no route");
    assert_eq!(
        JobError::<Boxed>::Abandoned.flatten().to_string(),
        "the job's worker was dropped"
    );
    let run = of_input_3(JobError::<Boxed>::Abandoned).flatten();
    assert_eq!(run.to_string(), "input 3: the job's worker was dropped");
}
