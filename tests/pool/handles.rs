//! What a program does with the handle of a job or a task besides awaiting it.

use std::pin::pin;

use brigade::{Builder, JobError, ManualTimer};
use futures_lite::future;

use crate::harness::poll_once;

fn builder<In, E>() -> Builder<In, E> {
    Builder::new().workers(1).timer(ManualTimer::new())
}

#[test]
fn a_result_that_is_there_is_taken_without_waiting() {
    let (pool, workers) =
        builder().build(|n: u32| async move { if n == 0 { Err("zero") } else { Ok(n) } });
    let (mut first, mut second) = (pool.try_submit(1).unwrap(), pool.try_submit(0).unwrap());
    assert_eq!(first.try_take(), None);
    future::block_on(workers.drive(pool.wait_idle()));
    assert_eq!(first.try_take(), Some(Ok(1)));
    assert_eq!(second.try_take(), Some(Err(JobError::Failed("zero"))));
}

#[test]
fn a_result_is_taken_once() {
    let (pool, workers) = builder().build(|n: u32| async move { Ok::<_, ()>(n) });
    let mut handle = pool.try_submit(1).unwrap();
    future::block_on(workers.drive(pool.wait_idle()));
    assert_eq!(handle.try_take(), Some(Ok(1)));
    assert_eq!(handle.try_take(), None);
    assert!(handle.is_finished());
    assert_eq!(poll_once(pin!(handle)), None);
}

#[test]
fn an_error_that_was_taken_is_not_unhandled() {
    let (pool, workers) = builder().build(|n: u32| async move { Err::<(), _>(n) });
    pool.on_unhandled(|failure| panic!("{failure:?} was taken"));
    let mut handle = pool.try_submit(7).unwrap();
    future::block_on(workers.drive(pool.wait_idle()));
    assert_eq!(handle.try_take(), Some(Err(JobError::Failed(7))));
    drop(handle);
}

#[test]
fn the_value_of_a_task_is_taken_without_waiting() {
    let executor = async_executor::LocalExecutor::new();
    let tasks = builder().spawn_tasks_on(&executor);
    let mut task = tasks.try_spawn(async { "text" }).unwrap();
    assert_eq!(task.try_take(), None);
    future::block_on(executor.run(tasks.pool().wait_idle()));
    assert_eq!(task.try_take(), Some(Ok("text")));
    assert_eq!(task.try_take(), None);
}
