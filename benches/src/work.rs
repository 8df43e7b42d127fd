//! What one job does: it takes a number, does its work, and gives the number back, so that a job
//! that is missing or ran twice shows in the sum. Each kind is written once and is the same for all
//! contenders, but for those that wait: on tokio they wait by its own clock and sockets, as its
//! users do.

use std::hint::black_box;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_io::{Async, Timer};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};

/// How long a job sleeps.
pub(crate) const SLEEP: Duration = Duration::from_millis(1);
/// How many bytes a request has, and its answer.
pub(crate) const MESSAGE: usize = 64;
/// So many multiplications, each of which waits for the one before, take about 10 µs on a machine
/// of today.
const MULTIPLICATIONS: u64 = 13_000;

/// A kind of work.
pub(crate) trait Work: Clone + Send + Sync + 'static {
    /// Whether it waits for a clock or a socket of async-io, so that a thread that blocks on it should
    /// drive the reactor.
    const WAITS: bool = false;

    /// Does it, and gives the number back.
    fn run(self, n: u64) -> impl Future<Output = u64> + Send + 'static;
}

/// Ready when it is first polled.
#[derive(Debug, Clone)]
pub(crate) struct Ready;

impl Work for Ready {
    async fn run(self, n: u64) -> u64 {
        black_box(n)
    }
}

/// Ready when it is polled for the second time.
#[derive(Debug, Clone)]
pub(crate) struct YieldOnce;

impl Work for YieldOnce {
    async fn run(self, n: u64) -> u64 {
        future::yield_now().await;
        black_box(n)
    }
}

/// Sleeps by async-io's clock.
#[derive(Debug, Clone)]
pub(crate) struct Sleep;

impl Work for Sleep {
    const WAITS: bool = true;

    async fn run(self, n: u64) -> u64 {
        Timer::after(SLEEP).await;
        n
    }
}

/// Sleeps by tokio's clock.
#[derive(Debug, Clone)]
pub(crate) struct TokioSleep;

impl Work for TokioSleep {
    async fn run(self, n: u64) -> u64 {
        tokio::time::sleep(SLEEP).await;
        n
    }
}

/// Computes for about 10 µs.
#[derive(Debug, Clone)]
pub(crate) struct Compute;

impl Work for Compute {
    async fn run(self, n: u64) -> u64 {
        compute(n)
    }
}

/// The same without a future, for pools of threads.
pub(crate) fn compute(n: u64) -> u64 {
    let mut state = n;
    for _ in 0..MULTIPLICATIONS {
        state = black_box(state)
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
    }
    black_box(state);
    n
}

/// A request to an echo server and its answer, over a connection that is kept; by async-io.
#[derive(Debug, Clone)]
pub(crate) struct Echo {
    server: SocketAddr,
    idle: Arc<Mutex<Vec<Async<TcpStream>>>>,
}

/// The same by tokio.
#[derive(Debug, Clone)]
pub(crate) struct TokioEcho {
    server: SocketAddr,
    idle: Arc<Mutex<Vec<tokio::net::TcpStream>>>,
}

impl Echo {
    pub(crate) fn new(server: SocketAddr) -> Self {
        Self {
            server,
            idle: Arc::default(),
        }
    }
}

impl TokioEcho {
    pub(crate) fn new(server: SocketAddr) -> Self {
        Self {
            server,
            idle: Arc::default(),
        }
    }
}

impl Work for Echo {
    const WAITS: bool = true;

    async fn run(self, n: u64) -> u64 {
        let kept = take(&self.idle);
        let mut stream = match kept {
            Some(stream) => stream,
            None => {
                let stream = Async::<TcpStream>::connect(self.server)
                    .await
                    .expect("the server listens");
                stream
                    .get_ref()
                    .set_nodelay(true)
                    .expect("a connection can be set up");
                stream
            }
        };
        let mut message = message_of(n);
        stream.write_all(&message).await.expect("the server reads");
        stream
            .read_exact(&mut message)
            .await
            .expect("the server answers");
        put(&self.idle, stream);
        number_in(&message)
    }
}

impl Work for TokioEcho {
    async fn run(self, n: u64) -> u64 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let kept = take(&self.idle);
        let mut stream = match kept {
            Some(stream) => stream,
            None => {
                let stream = tokio::net::TcpStream::connect(self.server)
                    .await
                    .expect("the server listens");
                stream
                    .set_nodelay(true)
                    .expect("a connection can be set up");
                stream
            }
        };
        let mut message = message_of(n);
        stream.write_all(&message).await.expect("the server reads");
        stream
            .read_exact(&mut message)
            .await
            .expect("the server answers");
        put(&self.idle, stream);
        number_in(&message)
    }
}

fn take<T>(idle: &Mutex<Vec<T>>) -> Option<T> {
    idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

/// Never more than there are jobs at once.
fn put<T>(idle: &Mutex<Vec<T>>, stream: T) {
    idle.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(stream);
}

fn message_of(n: u64) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    message[..8].copy_from_slice(&n.to_le_bytes());
    message
}

fn number_in(message: &[u8; MESSAGE]) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|at| message[at]))
}
