//! A state for each worker: here something like a connection. A worker opens its own before its
//! first job and keeps it from job to job. After a job that panicked, the worker throws it away and
//! opens another one, since the panic may have left it in any state.
//!
//! `cargo run --example state`

use std::cell::Cell;
use std::panic;

use brigade::{JobError, Pool};
use futures_lite::future;

/// Like a connection: opening it is what one does not want to do for every job.
struct Connection {
    number: u32,
    requests: u32,
    is_broken: bool,
}

impl Connection {
    async fn ask(&mut self, request: u32) -> Result<u32, String> {
        assert!(!self.is_broken, "nobody uses a connection after a panic");
        // What happens in between is the time in which a panic would leave it half done.
        self.is_broken = true;
        future::yield_now().await;
        assert!(
            request != 5,
            "request 5 is more than this connection can bear"
        );
        self.is_broken = false;
        self.requests += 1;
        if request == 7 {
            Err("no answer".to_owned())
        } else {
            Ok(self.number)
        }
    }
}

fn main() {
    let opened = Cell::new(0);
    let open = |_worker| {
        opened.set(opened.get() + 1);
        Connection {
            number: opened.get(),
            requests: 0,
            is_broken: false,
        }
    };
    let (pool, workers) = Pool::builder()
        .workers(2)
        .build_with_state(open, async |connection: &mut Connection, request| {
            connection.ask(request).await
        });

    // The panic is reported where its job is; it need not be on stderr as well.
    panic::set_hook(Box::new(|_| {}));
    let (failed, panicked, summary) = future::block_on(workers.drive(async {
        let (mut failed, mut panicked) = (Vec::new(), Vec::new());
        let mut completions = pool.map(0..20).ordered();
        while let Some(completion) = completions.next().await {
            match completion.result {
                Ok(_) => {}
                Err(JobError::Failed(error)) => failed.push((completion.index, error)),
                Err(JobError::Panicked(message)) => {
                    panicked.push((completion.index, message.to_string()));
                }
                Err(other) => panic!("{other}"),
            }
        }
        (failed, panicked, completions.summary())
    }));

    assert_eq!(failed, [(7, "no answer".to_owned())]);
    assert_eq!(
        panicked,
        [(
            5,
            "request 5 is more than this connection can bear".to_owned()
        )]
    );
    assert_eq!((summary.accepted, summary.succeeded), (20, 18));
    assert_eq!(
        opened.get(),
        3,
        "one for each of the two workers, and one in place of the broken one"
    );
    println!(
        "{} requests over {} connections",
        summary.accepted,
        opened.get()
    );
    println!("request 7 failed: {}", failed[0].1);
    println!("request 5 panicked: {}", panicked[0].1);
}
