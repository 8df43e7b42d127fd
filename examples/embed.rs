//! The same pool inside three surroundings: async-std, an executor of one thread with inputs that
//! are not `Send`, and plain threads without any executor. Only the task that polls the workers
//! changes; builder, handler and consumer stay.
//!
//! `cargo run --example embed`

use std::fmt::Debug;
use std::future::Future;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use async_executor::LocalExecutor;
use brigade::{Builder, Pool};
use futures_lite::future;

const WORDS: [&str; 4] = ["a", "line", "of", "buckets"];

/// The time-out works everywhere: the timer needs no runtime.
fn builder<In, E>() -> Builder<In, E> {
    Pool::builder()
        .workers(2)
        .attempt_timeout(Duration::from_secs(60))
}

async fn measure<W: AsRef<str>>(word: W) -> Result<usize, String> {
    future::yield_now().await;
    Ok(word.as_ref().len())
}

/// The consumer, which knows nothing of its surroundings.
fn lengths<W: Debug>(
    pool: &Pool<W, usize, String>,
    words: impl IntoIterator<Item = W>,
) -> impl Future<Output = Vec<usize>> {
    let map = pool.map(words);
    async { map.try_collect().await.expect("every word has a length") }
}

fn inside_async_std() -> Vec<usize> {
    let (pool, workers) = builder().build(measure::<String>);
    for worker in workers {
        async_std::task::spawn(worker.run());
    }
    async_std::task::block_on(lengths(&pool, WORDS.map(String::from)))
}

fn on_one_thread() -> Vec<usize> {
    let executor = LocalExecutor::new();
    let (pool, workers) = builder().build(measure::<Rc<str>>);
    for worker in workers {
        executor.spawn(worker.run()).detach();
    }
    future::block_on(executor.run(lengths(&pool, WORDS.map(Rc::from))))
}

fn on_plain_threads() -> Vec<usize> {
    let (pool, workers) = builder().build(measure::<&str>);
    thread::scope(|scope| {
        for worker in workers {
            scope.spawn(|| future::block_on(worker.run()));
        }
        let lengths = future::block_on(lengths(&pool, WORDS));
        // The last handle: the workers end, and with them the threads.
        drop(pool);
        lengths
    })
}

fn main() {
    for (name, lengths) in [
        ("async-std", inside_async_std()),
        ("one thread", on_one_thread()),
        ("plain threads", on_plain_threads()),
    ] {
        assert_eq!(lengths, [1, 4, 2, 7]);
        println!("{name}: {lengths:?}");
    }
}
