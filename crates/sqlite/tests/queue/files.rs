//! Which files are opened, and which are refused without a change.

use std::fs;
use std::path::Path;

use brigade::broker::{Broker, BrokerError};
use brigade_sqlite::{Counts, Options, SqliteBroker};
use futures_lite::future::block_on;

use crate::{Queue, enqueue, fetch, ids};

/// Opens what must be refused, and checks that the error is permanent and names the file.
fn refused(path: &Path, options: Options) -> String {
    let error: BrokerError = block_on(options.open(path)).expect_err("the file is refused");
    assert!(error.is_permanent(), "{error}");
    let message = error.to_string();
    assert!(message.contains(&*path.to_string_lossy()), "{message}");
    message
}

fn refused_unchanged(queue: &Queue, why: &str) {
    let before = fs::read(queue.path()).unwrap();
    for create in [true, false] {
        let message = refused(&queue.path(), Options::new().create(create));
        assert!(message.contains(why), "{message}");
    }
    assert_eq!(fs::read(queue.path()).unwrap(), before);
    assert_eq!(
        fs::read_dir(queue.directory.path()).unwrap().count(),
        1,
        "no file was added"
    );
}

#[test]
fn missing_file_becomes_a_queue() {
    let queue = Queue::new();
    block_on(async {
        let broker = SqliteBroker::open(queue.path()).await.unwrap();
        assert_eq!(broker.path(), queue.path());
        assert_eq!(broker.counts().await.unwrap(), Counts::default());
    });
}

#[test]
fn empty_file_becomes_a_queue() {
    let queue = Queue::new();
    fs::write(queue.path(), "").unwrap();
    block_on(async {
        let broker = SqliteBroker::open(queue.path()).await.unwrap();
        assert_eq!(broker.counts().await.unwrap(), Counts::default());
    });
}

#[test]
fn missing_file_is_refused_without_create() {
    let queue = Queue::new();
    let message = refused(&queue.path(), Options::new().create(false));
    assert!(message.contains("there is no queue file"), "{message}");
    assert!(!queue.path().exists());
}

#[test]
fn empty_file_is_refused_without_create() {
    let queue = Queue::new();
    fs::write(queue.path(), "").unwrap();
    let message = refused(&queue.path(), Options::new().create(false));
    assert!(message.contains("holds no queue"), "{message}");
    assert_eq!(fs::read(queue.path()).unwrap(), b"");
}

#[test]
fn queue_is_opened_without_create() {
    let queue = Queue::new();
    block_on(async {
        enqueue(&queue.open().await, &["a"]).await;
        let broker = queue.open_with(Options::new().create(false)).await;
        assert_eq!(ids(&fetch(&broker, 9).await), ["a"]);
    });
}

#[test]
fn directory_is_refused() {
    let queue = Queue::new();
    let message = refused(queue.directory.path(), Options::new());
    assert!(message.contains("is a directory"), "{message}");
}

#[test]
fn missing_directory_is_named() {
    let queue = Queue::new();
    let parent = queue.directory.path().join("missing");
    let message = refused(&parent.join("jobs.queue"), Options::new());
    assert!(
        message.contains(&format!("{} of", parent.display())),
        "{message}"
    );
}

#[test]
fn text_file_is_refused() {
    for text in ["id,url\n".to_owned(), "id,url\n".repeat(10_000)] {
        let queue = Queue::new();
        fs::write(queue.path(), text).unwrap();
        refused_unchanged(&queue, "is not an SQLite file");
    }
}

#[test]
fn file_of_another_program_is_refused() {
    for foreign in [
        "CREATE TABLE jobs (id TEXT)",
        "PRAGMA application_id = 7; CREATE TABLE t (x)",
        "PRAGMA user_version = 1; CREATE TABLE t (x); DROP TABLE t",
    ] {
        let queue = Queue::new();
        queue.connect().execute_batch(foreign).unwrap();
        refused_unchanged(&queue, "is an SQLite file of another program");
    }
}

#[test]
fn queue_of_a_newer_version_is_refused() {
    let queue = Queue::new();
    block_on(async { queue.open().await.close().await.unwrap() });
    let connection = queue.connect();
    connection.pragma_update(None, "user_version", 2).unwrap();
    drop(connection);
    refused_unchanged(&queue, "was written by a newer version of brigade-sqlite");
}

#[test]
fn queue_with_other_tables_is_refused() {
    let queue = Queue::new();
    block_on(async { queue.open().await.close().await.unwrap() });
    queue.connect().execute_batch("DROP TABLE results").unwrap();
    refused_unchanged(
        &queue,
        "has other tables than a queue: dead, jobs, payloads",
    );
}

#[test]
fn damaged_queue_yields_an_error_that_names_it() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        let names: Vec<String> = (0..1_000).map(|n| format!("job {n}")).collect();
        enqueue(
            &broker,
            &names.iter().map(String::as_str).collect::<Vec<_>>(),
        )
        .await;
        // Copies the log into the file.
        broker.close().await.unwrap();
    });
    let mut bytes = fs::read(queue.path()).unwrap();
    bytes[8192..].fill(0xa5);
    fs::write(queue.path(), bytes).unwrap();
    let message = refused(&queue.path(), Options::new());
    assert!(message.contains("is damaged"), "{message}");
}

#[test]
fn path_is_never_one_of_the_special_names() {
    for name in [":memory:", "file:jobs?mode=memory"] {
        let error = block_on(Options::new().create(false).open(name)).unwrap_err();
        assert!(
            error.to_string().contains("there is no queue file /"),
            "{error}"
        );
    }
    let error = block_on(Options::new().open("")).unwrap_err();
    assert!(error.is_permanent(), "{error}");
}

#[test]
fn many_handles_may_make_the_same_queue_at_once() {
    for _ in 0..20 {
        let queue = Queue::new();
        std::thread::scope(|scope| {
            for id in ["a", "b", "c", "d", "e", "f", "g", "h"] {
                let queue = &queue;
                scope.spawn(move || block_on(async { enqueue(&queue.open().await, &[id]).await }));
            }
        });
        let counts = block_on(async { queue.open().await.counts().await.unwrap() });
        assert_eq!(counts.ready, 8);
        queue.assert_sound();
    }
}

#[test]
fn pages_of_purged_results_are_used_again() {
    let queue = Queue::new();
    block_on(async {
        let broker = queue.open().await;
        let mut sizes = Vec::new();
        for round in 0..6 {
            let names: Vec<String> = (0..500).map(|n| format!("job {round} {n}")).collect();
            enqueue(
                &broker,
                &names.iter().map(String::as_str).collect::<Vec<_>>(),
            )
            .await;
            for delivery in fetch(&broker, 500).await {
                crate::ack(&broker, &delivery).await;
            }
            assert_eq!(broker.purge_results(i64::MAX).await.unwrap(), 500);
            let pages: i64 = queue
                .connect()
                .pragma_query_value(None, "page_count", |row| row.get(0))
                .unwrap();
            sizes.push(pages);
        }
        assert!(sizes[5] <= sizes[1] + 2, "{sizes:?}");
    });
}
