//! Several processes, some of which are killed at random moments.

use std::collections::HashMap;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use brigade::broker::{Ack, Broker, NewJob};
use brigade_sqlite::{Durability, Options};
use futures_lite::future::block_on;

use crate::Queue;

const ROLE: &str = "BRIGADE_SQLITE_ROLE";
const PATH: &str = "BRIGADE_SQLITE_PATH";
const LEASE: Duration = Duration::from_millis(200);

fn start(role: &str, path: &Path) -> Child {
    Command::new(env::current_exe().expect("this test has a file"))
        .args([
            "--exact",
            "processes::process_that_is_killed",
            "--nocapture",
        ])
        .env(ROLE, role)
        .env(PATH, path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the process starts")
}

/// Not a test of its own: a producer or a consumer, until it is killed or, as a consumer, until
/// nothing comes for two leases.
#[test]
fn process_that_is_killed() {
    let (Ok(role), Some(path)) = (env::var(ROLE), env::var_os(PATH)) else {
        return;
    };
    let options = Options::new().lease(LEASE).durability(Durability::Normal);
    block_on(async {
        let broker = options.open(path).await.expect("the queue opens");
        if role == "producer" {
            for number in 0_u32.. {
                let id = format!("{} {number}", std::process::id());
                broker
                    .enqueue(vec![NewJob::new(id.as_str(), vec![3; 2_000])])
                    .await
                    .unwrap();
                // Only what was printed counts as accepted.
                println!("accepted {id}");
                std::io::stdout().flush().unwrap();
            }
        }
        let name = std::process::id().to_string().into_bytes();
        loop {
            let held = broker
                .fetch(7, LEASE * 2)
                .await
                .expect("the fetch succeeds");
            if held.is_empty() {
                break;
            }
            let acks = held.into_iter().map(|delivery| Ack {
                receipt: delivery.receipt,
                result: Some(name.clone()),
            });
            for outcome in broker.ack_many(acks.collect()).await {
                if let Err(error) = outcome {
                    assert!(error.is_lease_lost(), "{error}");
                }
            }
        }
    });
}

#[test]
fn killed_processes_lose_no_job_and_leave_no_second_result() {
    let queue = Queue::new();
    let mut random = fastrand::Rng::with_seed(11);
    let mut expected: HashMap<String, u32> = HashMap::new();
    block_on(async {
        let jobs = (0..500).map(|number| NewJob::new(format!("first {number}"), vec![1; 5_000]));
        let jobs: Vec<_> = jobs.collect();
        expected.extend(jobs.iter().map(|job| (job.id.to_string(), 0)));
        queue.open().await.enqueue(jobs).await.unwrap();
    });

    for _ in 0..20 {
        let mut children: Vec<_> = ["consumer", "producer", "consumer"]
            .map(|role| (role, start(role, &queue.path())))
            .into();
        // They take some milliseconds to start; then any moment will do.
        thread::sleep(Duration::from_micros(random.u64(5_000..60_000)));
        random.shuffle(&mut children);
        for (role, child) in &mut children {
            if let Some(status) = child.try_wait().expect("the process is known") {
                assert!(status.success(), "a {role} failed before it was killed");
            }
            child.kill().expect("SIGKILL is sent");
            child.wait().expect("the process has ended");
            if *role == "producer" {
                let output = child.stdout.take().expect("is piped");
                for line in BufReader::new(output).lines() {
                    // The first of them follows the name of the test in its line.
                    let line = line.expect("is text");
                    if let Some((_, id)) = line.split_once("accepted ") {
                        expected.insert(id.to_owned(), 0);
                    }
                }
            }
        }
    }

    // Two that are not killed do the rest.
    let rest = ["consumer", "consumer"].map(|role| start(role, &queue.path()));
    for mut child in rest {
        assert!(child.wait().expect("the process ends").success());
    }

    block_on(async {
        let broker = queue.open().await;
        let counts = broker.counts().await.unwrap();
        assert_eq!(
            (counts.ready, counts.leased, counts.delayed, counts.dead),
            (0, 0, 0, 0)
        );
        let (mut cursor, mut unannounced) = (0, 0);
        loop {
            let page = broker.results_after(cursor, 100).await.unwrap();
            let Some(last) = page.last() else { break };
            cursor = last.cursor;
            for result in page {
                match expected.get_mut(result.job_id.as_str()) {
                    Some(results) => *results += 1,
                    // It was enqueued, and its producer killed before it could say so.
                    None => unannounced += 1,
                }
            }
        }
        assert!(unannounced <= 20, "{unannounced}");
        expected.retain(|_, results| *results != 1);
        assert_eq!(expected, HashMap::new(), "not one result each");
    });
    queue.assert_sound();
}
