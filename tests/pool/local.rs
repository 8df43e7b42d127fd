//! What is not `Send`, and what is borrowed: on executors of one thread, and in the caller's own
//! task under every `block_on`.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use async_executor::LocalExecutor;
use brigade::{Builder, End, JobError, ManualTimer, Pool, Submitter, Workers};
use futures::task::LocalSpawnExt;
use futures_lite::StreamExt;

use crate::harness::{Slots, assert_settled, block_on, in_both_ways, poll_once, yield_now};

type Local = Pin<Box<dyn Future<Output = ()>>>;
type Body<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

fn builder<In, E>(slots: Slots) -> Builder<In, E> {
    slots
        .at_once(Pool::builder(), 3)
        .queue_capacity(4)
        .timer(ManualTimer::new())
}

/// All ways in, with inputs, values and errors that are not `Send`.
async fn uses_all(pool: &Pool<Rc<u32>, Rc<u32>, Rc<str>>) {
    let doubled = |n: u32| Ok(Rc::new(2 * n));
    let values = pool.map((0..20).map(Rc::new)).try_collect::<Vec<_>>().await;
    assert_eq!(values, Ok((0..20).map(|n| Rc::new(2 * n)).collect()));
    let ordered = pool
        .map((0..20).map(Rc::new))
        .ordered()
        .map(|completion| completion.result)
        .collect::<Vec<_>>();
    assert_eq!(ordered.await, (0..20).map(doubled).collect::<Vec<_>>());
    assert_eq!(pool.submit(Rc::new(7)).await.unwrap().await, doubled(7));
    assert_eq!(
        pool.reserve()
            .await
            .unwrap()
            .submit(Rc::new(8))
            .unwrap()
            .await,
        doubled(8)
    );
    assert_eq!(
        pool.submit(Rc::new(100)).await.unwrap().await,
        Err(JobError::Failed(Rc::from("too big")))
    );
    let group = pool.group();
    for n in 0..5 {
        group.submit(Rc::new(n)).await.unwrap();
    }
    assert_eq!(group.join().await.len(), 5);
    let input = Rc::new(9);
    let handle = pool.submit(Rc::clone(&input)).await.unwrap();
    assert_eq!(handle.cancel().await, None);
    assert_eq!(Rc::strong_count(&input), 1);
    pool.drain().await;
    assert_eq!(assert_settled(pool).cancelled, 1);
}

/// Workers of all three kinds of handlers, and what is to be done with each.
fn with_every_handler(run: impl Fn(Vec<Local>, Local)) {
    in_both_ways(|slots| {
        let counted = Rc::new(Cell::new(0));
        let count = Rc::clone(&counted);
        let work = async move |n: Rc<u32>, count: Rc<Cell<usize>>| {
            yield_now().await;
            count.set(count.get() + 1);
            if *n < 100 {
                Ok(Rc::new(2 * *n))
            } else {
                Err(Rc::from("too big"))
            }
        };
        let (inside, shared) = (Rc::clone(&count), Rc::new(work));
        let own = Rc::clone(&shared);
        let (pool, workers) = builder(slots).build(move |n| {
            let (work, count) = (Rc::clone(&own), Rc::clone(&inside));
            async move { work(n, count).await }
        });
        let workers = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()) as Local)
            .collect();
        run(workers, Box::pin(async move { uses_all(&pool).await }));

        let (inside, own) = (Rc::clone(&count), Rc::clone(&shared));
        let (pool, workers) = builder(Slots::One).build_with_state(
            |worker| Rc::new(RefCell::new(vec![worker])),
            async move |state: &mut Rc<RefCell<Vec<usize>>>, n: Rc<u32>| {
                state.borrow_mut().push(1);
                own(n, Rc::clone(&inside)).await
            },
        );
        let workers = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()) as Local)
            .collect();
        run(workers, Box::pin(async move { uses_all(&pool).await }));
        // 52 that succeed, one that fails, and at most one that is cancelled as it ends, twice.
        assert!((94..=110).contains(&counted.get()), "{}", counted.get());

        let (pool, workers) = builder(slots).build_with_submitter(
            |depth: Rc<u32>, jobs: Submitter<Rc<u32>, Rc<u32>, ()>| async move {
                if *depth < 3 {
                    for _ in 0..2 {
                        jobs.add(Rc::new(*depth + 1)).unwrap();
                        yield_now().await;
                    }
                }
                Ok(depth)
            },
        );
        let workers = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()) as Local)
            .collect();
        run(
            workers,
            Box::pin(async move {
                let summary = pool.map([Rc::new(0)]).for_each(drop).await;
                assert_eq!((summary.succeeded, summary.end), (15, End::Complete));
                pool.drain().await;
            }),
        );
    });
}

#[test]
fn what_is_not_send_runs_on_a_local_executor() {
    with_every_handler(|workers, body| {
        let executor = LocalExecutor::new();
        workers
            .into_iter()
            .for_each(|worker| executor.spawn(worker).detach());
        futures_lite::future::block_on(executor.run(body));
        while executor.try_tick() {}
        assert!(executor.is_empty());
    });
}

#[test]
fn what_is_not_send_runs_on_a_local_pool() {
    with_every_handler(|workers, body| {
        let mut executor = futures::executor::LocalPool::new();
        for worker in workers {
            executor.spawner().spawn_local(worker).unwrap();
        }
        executor.run_until(body);
        executor.run();
    });
}

#[test]
fn what_is_not_send_runs_on_a_local_set() {
    with_every_handler(|workers, body| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let set = tokio::task::LocalSet::new();
        for worker in workers {
            drop(set.spawn_local(worker));
        }
        set.block_on(&runtime, body);
    });
}

/// Drives the workers of a handler that borrows, in the caller's task.
fn drives_under(block_on: impl Fn(Body<'_>)) {
    in_both_ways(|slots| {
        let table: Vec<Cell<u32>> = (0..10).map(Cell::new).collect();
        let (pool, workers) = builder(slots).build(|at: &Cell<u32>| {
            let table = &table;
            async move {
                yield_now().await;
                at.set(at.get() + 1);
                if table.len() == 10 {
                    Ok(at)
                } else {
                    Err(table)
                }
            }
        });
        let body = async {
            let visited = pool
                .map(&table)
                .ordered()
                .map(|completion| completion.result.unwrap().get());
            assert_eq!(
                visited.collect::<Vec<_>>().await,
                (1..11).collect::<Vec<_>>()
            );
            let group = pool.group();
            group.submit(&table[0]).await.unwrap();
            assert_eq!(
                pool.submit(&table[1]).await.unwrap().await,
                Ok(&Cell::new(3))
            );
            assert_eq!(group.join().await[0].result, Ok(&Cell::new(2)));
            assert_eq!(pool.submit(&table[2]).await.unwrap().cancel().await, None);
        };
        block_on(Box::pin(workers.drive(body)));
        assert_eq!(table.iter().map(Cell::get).sum::<u32>(), 57);
        assert_eq!(assert_settled(&pool).workers, 0);

        let (sum, numbers) = (Cell::new(0), [1, 2, 3]);
        let (pool, workers) = builder(Slots::One).build_with_state(
            |_| &sum,
            async |sum: &mut &Cell<u32>, n: &u32| {
                sum.set(sum.get() + n);
                Ok::<_, ()>(())
            },
        );
        block_on(Box::pin(workers.drive(async {
            assert!(pool.map(&numbers).for_each(drop).await.is_complete());
        })));
        assert_eq!(sum.get(), 6);

        let seen = RefCell::new(Vec::new());
        let (pool, workers): (Pool<u32, (), ()>, Workers<_, _, _, _>) = builder(slots)
            .build_with_submitter(|n: u32, jobs: Submitter<u32, (), ()>| {
                let seen = &seen;
                async move {
                    seen.borrow_mut().push(n);
                    if n > 0 {
                        jobs.add(n - 1).map_err(drop)
                    } else {
                        Ok(())
                    }
                }
            });
        block_on(Box::pin(workers.drive(async {
            assert_eq!(pool.map([4]).for_each(drop).await.succeeded, 5);
        })));
        assert_eq!(*seen.borrow(), [4, 3, 2, 1, 0]);
    });
}

#[test]
fn borrowed_data_is_worked_on_under_every_block_on() {
    drives_under(|body| smol::block_on(body));
    drives_under(|body| futures_lite::future::block_on(body));
    drives_under(|body| async_std::task::block_on(body));
    drives_under(|body| futures::executor::block_on(body));
    drives_under(|body| block_on(body));
    drives_under(|body| {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(body);
    });
}

#[test]
fn a_body_that_ends_early_leaves_its_jobs_abandoned() {
    in_both_ways(|slots| {
        let input = Rc::new(());
        let (pool, workers) =
            builder(slots).build(|_: Rc<()>| futures_lite::future::pending::<Result<(), ()>>());
        let mut handles = block_on(workers.drive(async {
            let handles: Vec<_> = (0..4)
                .map(|_| pool.try_submit(Rc::clone(&input)).unwrap())
                .collect();
            yield_now().await;
            handles
        }));
        for handle in &mut handles {
            assert_eq!(poll_once(Pin::new(handle)), Some(Err(JobError::Abandoned)));
        }
        assert_eq!(
            (Rc::strong_count(&input), assert_settled(&pool).abandoned),
            (1, 4)
        );
    });
}
