//! A pool that serves a broker, wherever its workers run. What `serve` promises in detail is in
//! `tests/broker`.

use std::time::Duration;

use brigade::broker::{Broker, JobId, MemoryBroker, NewJob, ServeOptions, serve};
use futures_lite::future;

use crate::harness::{Gate, SECOND, assert_over, everywhere};

fn jobs(count: u32) -> Vec<NewJob> {
    let job = |n: u32| NewJob::new(n.to_string(), n.to_string());
    (1..=count).map(job).collect()
}

fn decode(_: &JobId, payload: Vec<u8>) -> Result<u32, String> {
    let text = String::from_utf8(payload).map_err(|error| error.to_string())?;
    text.parse().map_err(|_| text)
}

fn encode(_: &JobId, value: u32) -> Option<Vec<u8>> {
    Some(value.to_string().into_bytes())
}

#[test]
fn each_delivery_is_a_job_and_is_settled_after_its_outcome() {
    everywhere(|env| async move {
        let broker = MemoryBroker::new(env.clock.clone());
        broker.enqueue(jobs(100)).await.unwrap();
        let pool = env.at_once(4).spawn_on(&env, |n: u32| async move {
            future::yield_now().await;
            if n.is_multiple_of(10) {
                Err("a multiple of ten")
            } else {
                Ok(n)
            }
        });
        let options = ServeOptions::new(decode, encode)
            .max_deliveries(1)
            .wait(Duration::ZERO)
            .until_empty();
        let report = serve(&broker, &pool, options).await.unwrap();
        assert_eq!(
            (report.fetched, report.acked, report.dead_lettered),
            (100, 90, 10)
        );
        assert_eq!(broker.results().len(), 90);
        assert_eq!(broker.dead_letters().len(), 10);
        assert_over(&env, &pool).await;
    });
}

#[test]
fn a_stop_finishes_what_runs_and_releases_the_rest() {
    everywhere(|env| async move {
        let broker = MemoryBroker::new(env.clock.clone());
        broker.enqueue(jobs(10)).await.unwrap();
        let gate = Gate::new();
        let inside = gate.clone();
        let pool = env.at_once(2).spawn_on(&env, move |n: u32| {
            let gate = inside.clone();
            async move {
                gate.pass().await;
                Ok::<_, String>(n)
            }
        });
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let options = ServeOptions::new(decode, encode)
            .prefetch(5)
            .wait(SECOND)
            .until(async move {
                let _ = stopped.recv().await;
            });
        let serving = serve(&broker, &pool, options);
        let stopping = async {
            gate.arrived(2).await;
            stop.close();
            // The rest is back before the running jobs have ended.
            while broker.counts().ready < 8 {
                future::yield_now().await;
            }
            gate.open(2);
        };
        let (report, ()) = future::zip(serving, stopping).await;
        let report = report.unwrap();
        assert_eq!((report.fetched, report.acked, report.released), (5, 2, 3));
        assert_eq!(broker.counts().ready, 8);
        assert_over(&env, &pool).await;
    });
}
