//! User code that runs inside the pool and calls it: observers, closures, drops and wakers. No lock
//! is held then, and a panic of such code affects nothing else.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use brigade::{Event, JobHandle, ManualTimer, Pool, RateLimit};
use futures_lite::{StreamExt, future, stream};

use crate::harness::{
    OwnPool, OwnPoolRef, assert_adds_up, assert_settled, everywhere, in_both_ways, on_each_wake,
    on_wake, poll_once, secs, yield_now,
};

/// Calls every method that a user can call from anywhere.
fn call_everything(pool: &Pool<u32, u32, u32>, handles: &Mutex<Vec<JobHandle<u32, u32, u32>>>) {
    assert_adds_up(&pool.stats());
    let accepted = pool.stats().accepted;
    if accepted < 40 {
        drop(pool.try_submit(1));
        handles.lock().unwrap().extend(pool.try_submit(2));
        drop(pool.try_reserve());
        let mut map = pool.map([3, 4]);
        drop(poll_once(pin!(map.next())));
        drop(map);
        let group = pool.group();
        let _ = group.try_submit(5);
        group.cancel();
        drop(poll_once(pin!(pool.reserve())));
        drop(poll_once(pin!(pool.submit(6))));
        handles
            .lock()
            .unwrap()
            .extend(pool.job(7).priority(1).delay(Duration::MAX).try_submit());
    }
    let handle = handles.lock().unwrap().pop();
    if let Some(handle) = handle {
        let _ = handle.set_priority(2);
        drop(handle.cancel());
    }
    pool.pause();
    let _ = (pool.is_paused(), pool.running());
    pool.resume();
    pool.set_workers(1);
    pool.set_rate_limit(RateLimit::per_second(1).burst(1000));
    pool.set_rate_limit(None);
    let _ = (
        poll_once(pin!(pool.wait_queued_below(usize::MAX))),
        poll_once(pin!(pool.wait_running_below(usize::MAX))),
    );
    pool.on_unhandled(drop);
    pool.set_attempt_timeout(Some(secs(accepted + 1)));
    let _ = (pool.is_closed(), format!("{pool:?}"), pool.clone());
    if accepted >= 40 {
        pool.close();
        pool.seal();
        drop(poll_once(pin!(pool.abort())));
    }
}

#[test]
fn observers_unhandled_failures_and_drops_may_call_everything() {
    struct Calls(
        OwnPoolRef<u32, u32, u32>,
        Arc<Mutex<Vec<JobHandle<u32, u32, u32>>>>,
    );
    impl Drop for Calls {
        fn drop(&mut self) {
            if let Some(pool) = self.0.get() {
                call_everything(&pool, &self.1);
            }
        }
    }
    everywhere(|env| async move {
        let (own, handles) = (OwnPool::new(), Arc::new(Mutex::new(Vec::new())));
        let depth = Arc::new(AtomicUsize::new(0));
        let (seen, cancels) = (own.reach(), Arc::clone(&handles));
        let (dropped, theirs) = (own.reach(), Arc::clone(&handles));
        let pool = env
            .at_once(2)
            .queue_capacity(4)
            .observe(move |_: &Event| {
                // The calls of an observer are observed too, so the recursion is bounded.
                if let Some(pool) = seen.get()
                    && depth.fetch_add(1, Ordering::SeqCst) < 3
                {
                    call_everything(&pool, &cancels);
                    depth.fetch_sub(1, Ordering::SeqCst);
                }
            })
            .spawn_on(&env, move |n: u32| {
                let calls = Calls(dropped.clone(), Arc::clone(&theirs));
                async move {
                    let _calls = calls;
                    yield_now().await;
                    if n.is_multiple_of(2) { Err(n) } else { Ok(n) }
                }
            });
        own.set(&pool);
        let (inside, cancels) = (own.reach(), Arc::clone(&handles));
        pool.on_unhandled(move |_| call_everything(&inside.pool(), &cancels));
        for n in 0..60 {
            match pool.submit(n).await {
                Ok(handle) if n % 3 == 0 => handle.detach(),
                Ok(handle) => drop(handle.await),
                Err(refused) => assert!(refused.is_closed()),
            }
        }
        pool.drain().await;
        handles.lock().unwrap().clear();
        assert_settled(&pool);
    });
}

#[test]
fn after_panics_everywhere_every_method_still_returns() {
    fn quiet() -> ! {
        std::panic::resume_unwind(Box::new("on purpose"));
    }
    in_both_ways(|slots| {
        let (pool, workers) = slots
            .in_order(Pool::builder())
            .queue_capacity(8)
            .observe(|_: &Event| quiet())
            .timer(ManualTimer::new())
            .build(|n: u32| async move { if n == 0 { quiet() } else { Err::<u32, _>(n) } });
        pool.on_unhandled(|_| quiet());
        for n in 0..4 {
            pool.try_submit(n).unwrap().detach();
        }
        future::block_on(workers.drive(async {
            pool.wait_idle().await;
            let handles = Mutex::default();
            for _ in 0..20 {
                call_everything(&pool, &handles);
            }
            pool.drain().await;
        }));
        assert_settled(&pool);
    });
}

#[test]
fn a_waker_may_submit_and_cancel_before_it_returns() {
    in_both_ways(|slots| {
        let (pool, workers) = slots
            .each(Pool::builder(), 4, 3)
            .queue_capacity(1000)
            .timer(ManualTimer::new())
            .build(|n: u32| async move { Ok::<_, ()>(n) });
        let calls = Arc::new(AtomicUsize::new(0));
        let (own, count) = (pool.clone(), Arc::clone(&calls));
        let waker = on_each_wake(move || {
            if count.fetch_add(1, Ordering::SeqCst) < 20 {
                own.try_submit(1).unwrap().detach();
                drop(own.try_submit(2).unwrap());
                let mut map = own.map(3..6);
                assert!(poll_once(pin!(map.next())).is_none());
            }
        });
        let mut workers: Vec<_> = workers
            .into_iter()
            .map(|worker| Box::pin(worker.run()))
            .collect();
        let mut handle = None;
        for _ in 0..40 {
            for worker in &mut workers {
                assert!(
                    worker
                        .as_mut()
                        .poll(&mut Context::from_waker(&waker))
                        .is_pending()
                );
            }
            handle.get_or_insert_with(|| pool.try_submit(0).unwrap());
        }
        assert_eq!(poll_once(pin!(handle.unwrap())), Some(Ok(0)));
        assert!(calls.load(Ordering::SeqCst) >= 4);
        assert_eq!(pool.stats().queued, 0);
    });
}

#[test]
fn a_waker_that_panics_costs_neither_a_job_nor_the_pool() {
    let (pool, workers) = Pool::builder()
        .workers(2)
        .queue_capacity(1)
        .timer(ManualTimer::new())
        .build(|n: u32| async move { Ok::<_, ()>(n) });
    let panics = || on_wake(|| std::panic::resume_unwind(Box::new("a waker")));
    let mut workers: Vec<_> = workers
        .into_iter()
        .map(|worker| Box::pin(worker.run()))
        .collect();
    let mut map = pool.map_stream(stream::iter(0..3));
    for round in 0..20 {
        for worker in &mut workers {
            assert!(
                worker
                    .as_mut()
                    .poll(&mut Context::from_waker(&panics()))
                    .is_pending()
            );
        }
        if round < 3 {
            let polled = Pin::new(&mut map).poll_next(&mut Context::from_waker(&panics()));
            assert!(polled.is_pending() || round > 0, "{polled:?}");
        }
        let mut handle = pool.try_submit(round).unwrap();
        assert!(
            Pin::new(&mut handle)
                .poll(&mut Context::from_waker(&panics()))
                .is_pending()
        );
        let mut waits = pin!(pool.submit(7));
        let mut idle = pin!(pool.wait_idle());
        assert!(
            waits
                .as_mut()
                .poll(&mut Context::from_waker(&panics()))
                .is_pending()
        );
        assert!(
            idle.as_mut()
                .poll(&mut Context::from_waker(&panics()))
                .is_pending()
        );
        for worker in &mut workers {
            assert!(
                worker
                    .as_mut()
                    .poll(&mut Context::from_waker(&panics()))
                    .is_pending()
            );
        }
        assert_eq!(poll_once(pin!(handle)), Some(Ok(round)));
        assert!(poll_once(waits).is_some_and(|submitted| submitted.is_ok()));
        for worker in &mut workers {
            assert!(
                worker
                    .as_mut()
                    .poll(&mut Context::from_waker(&panics()))
                    .is_pending()
            );
        }
        assert!(poll_once(idle).is_some());
    }
}

/// How a handle that has been polled may go.
const GOES: [fn(JobHandle<u32, u32, u32>); 3] =
    [drop, JobHandle::detach, |handle| drop(handle.cancel())];

#[test]
fn a_handle_leaves_no_waker_behind() {
    struct Ignores;
    impl Wake for Ignores {
        fn wake(self: Arc<Self>) {}
    }
    for go in GOES {
        let (pool, workers) = Pool::builder()
            .workers(1)
            .timer(ManualTimer::new())
            .build(|n: u32| async move { Ok::<_, u32>(n) });
        let task = Arc::new(Ignores);
        for _ in 0..20 {
            let mut handle = pool.try_submit(1).unwrap();
            let waker = Waker::from(Arc::clone(&task));
            let polled = Pin::new(&mut handle).poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            go(handle);
        }
        assert_eq!(Arc::strong_count(&task), 1);
        drop(workers);
    }
}

#[test]
fn a_waker_whose_drop_panics_costs_no_worker() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for Panics {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("the drop of a waker"));
        }
    }
    for go in GOES {
        let (pool, workers) = Pool::builder()
            .workers(1)
            .timer(ManualTimer::new())
            .build(|n: u32| async move { Ok::<_, u32>(n) });
        let mut handle = pool.try_submit(1).unwrap();
        {
            let waker = Waker::from(Arc::new(Panics));
            let polled = Pin::new(&mut handle).poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
        }
        go(handle);
        let second = pool.try_submit(2).unwrap();
        assert_eq!(future::block_on(workers.drive(second)), Ok(2));
    }
}

#[test]
fn a_pool_is_not_idle_before_its_observer_knows_the_last_outcome() {
    for go in GOES {
        let (own, idle) = (OwnPool::new(), Arc::new(Mutex::new(Vec::new())));
        let (seen, noted) = (own.reach(), Arc::clone(&idle));
        let (pool, workers) = Pool::builder()
            .workers(1)
            .timer(ManualTimer::new())
            .observe(move |event: &Event| {
                if let Event::Finished { .. } = event {
                    let is_idle = poll_once(pin!(seen.pool().wait_idle())).is_some();
                    noted.lock().unwrap().push(is_idle);
                }
            })
            .build(|n: u32| async move { Ok::<_, u32>(n) });
        own.set(&pool);
        go(pool.try_submit(1).unwrap());
        future::block_on(workers.drive(pool.wait_idle()));
        assert_eq!(*idle.lock().unwrap(), [false]);
    }
}
