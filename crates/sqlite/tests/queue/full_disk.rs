//! No room: calls fail, nothing is lost, and later calls succeed once there is room.

use std::env;
use std::io::Write;
use std::process::{Command, Stdio};

use brigade::broker::{Broker, BrokerError, NewJob};
use brigade_sqlite::{Options, SqliteBroker};
use futures_lite::future::block_on;

use crate::{LONG, Queue, ack, enqueue, fetch};

/// Enqueues jobs of 10 kB until one is refused. Returns their number and the error.
async fn fill(broker: &SqliteBroker, mut accepted: impl FnMut(u32)) -> (u32, BrokerError) {
    for number in 0.. {
        let job = NewJob::new(format!("job {number}"), vec![7; 10_000]);
        match broker.enqueue(vec![job]).await {
            Ok(()) => accepted(number),
            Err(error) => return (number, error),
        }
    }
    unreachable!("the room is bounded")
}

fn assert_is_about_room(error: &BrokerError, queue: &Queue) {
    assert!(!error.is_permanent(), "{error}");
    let message = error.to_string();
    assert!(
        message.contains(&*queue.path().to_string_lossy()),
        "{message}"
    );
    assert!(message.contains("no room is left"), "{message}");
}

#[test]
fn full_file_refuses_jobs_and_takes_them_once_there_is_room() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue
            .open_with(Options::new().lease(LONG).max_pages(100))
            .await;
        let (accepted, error) = fill(&broker, |_| {}).await;
        assert_is_about_room(&error, &queue);
        assert!(accepted > 10);
        assert_eq!(broker.counts().await.unwrap().ready, u64::from(accepted));
        // Reads work, and so does another refusal.
        assert_eq!(broker.results_after(0, 9).await.unwrap(), []);
        assert_is_about_room(&fill(&broker, |_| {}).await.1, &queue);

        // Another handle, without the limit, makes room.
        let other = queue.open().await;
        let held = fetch(&other, 10).await;
        for delivery in &held {
            ack(&other, delivery).await;
        }
        enqueue(&broker, &["small", "another"]).await;
        assert_eq!(
            broker.counts().await.unwrap().ready,
            u64::from(accepted) - 10 + 2
        );
        let held = fetch(&broker, 1_000).await;
        assert_eq!(held.len(), accepted as usize - 10 + 2);
        for delivery in &held {
            broker.ack(&delivery.receipt, None).await.unwrap();
        }
        assert_eq!(broker.counts().await.unwrap().done, u64::from(accepted) + 2);
    });
    queue.assert_sound();
}

const ROLE: &str = "BRIGADE_SQLITE_FILL";

/// Not a test of its own: the process whose files may not grow.
#[test]
fn process_without_room() {
    let Some(path) = env::var_os(ROLE) else {
        return;
    };
    block_on(async {
        let broker = Options::new().open(path).await.unwrap();
        let accept = |number| {
            println!("accepted {number}");
            std::io::stdout().flush().unwrap();
        };
        let (_, error) = fill(&broker, accept).await;
        println!("error {} {error}", error.is_permanent());
    });
}

/// The kernel refuses to let any file grow beyond a megabyte or two, as a full file system or a quota
/// would: the log cannot be written.
#[cfg(unix)]
#[test]
fn accepted_jobs_outlive_a_process_whose_log_cannot_grow() {
    let queue = Queue::new();
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 2000; exec \"$0\" \"$@\""])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "full_disk::process_without_room", "--nocapture"])
        .env(ROLE, queue.path())
        .stdin(Stdio::null())
        .output()
        .expect("sh starts");
    let output = String::from_utf8(output.stdout).unwrap();
    let accepted = output
        .lines()
        .filter(|line| line.contains("accepted "))
        .count();
    let error = output
        .lines()
        .find(|line| line.starts_with("error "))
        .expect(&output);
    assert!(error.starts_with("error false"), "{error}");
    assert!(error.contains(&*queue.path().to_string_lossy()), "{error}");
    assert!(accepted > 10, "{output}");

    queue.assert_sound();
    block_on(async {
        let broker = queue.open().await;
        assert_eq!(broker.counts().await.unwrap().ready, accepted as u64);
        let held = fetch(&broker, 10_000).await;
        assert!(held.iter().all(|delivery| delivery.payload == [7; 10_000]));
        for delivery in &held {
            broker.ack(&delivery.receipt, None).await.unwrap();
        }
    });
}
