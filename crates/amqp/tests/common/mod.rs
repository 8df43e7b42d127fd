//! A queue for one test, the node that it is on, and a proxy that can cut its connections.
//!
//! Tests need a node, whose address is in `BRIGADE_AMQP_URL`: `tests/with-rabbitmq` starts one.

use std::env;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use brigade::broker::{Broker, Delivery, NewJob};
use brigade_amqp::{AmqpBroker, AmqpOptions, AmqpReceipt};
use futures_lite::future::block_on;

/// How long a test waits for what has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test against a node, or says that there is none. The queue is deleted at its end.
pub(crate) fn with_queue<F: Future<Output = ()>>(test: impl FnOnce(Queue) -> F) {
    let Ok(url) = env::var("BRIGADE_AMQP_URL") else {
        println!("skipped: there is no BRIGADE_AMQP_URL; run it by tests/with-rabbitmq");
        return;
    };
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("test-{}-{number}", std::process::id());
    let queue = Queue { url, name };
    let _deleted = Deleted(queue.clone());
    block_on(test(queue));
}

#[derive(Debug, Clone)]
pub(crate) struct Queue {
    pub(crate) url: String,
    pub(crate) name: String,
}

impl Queue {
    pub(crate) async fn open(&self) -> AmqpBroker {
        self.open_with(AmqpOptions::new()).await
    }

    pub(crate) async fn open_with(&self, options: AmqpOptions) -> AmqpBroker {
        options.connect(&self.url, &self.name).await.unwrap()
    }

    /// The same queue by way of the proxy.
    pub(crate) fn through(&self, proxy: &Proxy) -> Self {
        let (before, after) = self.url.split_once('@').unwrap();
        let (_, path) = after.split_once('/').unwrap();
        Self {
            url: format!("{before}@127.0.0.1:{}/{path}", proxy.port),
            name: self.name.clone(),
        }
    }
}

struct Deleted(Queue);

impl Drop for Deleted {
    fn drop(&mut self) {
        // A node that a failed test has left down has nothing to delete.
        let Ok(channel) = bare_channel(&self.0.url) else {
            return;
        };
        let suffixes = ["", ".dead", ".results"].map(String::from);
        for suffix in suffixes
            .into_iter()
            .chain((0..24).map(|n| format!(".delay.{n}")))
        {
            let name = format!("{}{suffix}", self.0.name);
            // Deleting one that does not exist succeeds.
            let _ = block_on(
                channel
                    .channel
                    .queue_delete(name.into(), lapin::options::QueueDeleteOptions::default()),
            );
        }
    }
}

/// A channel of lapin's own, for what an operator or another program does.
pub(crate) struct Bare {
    pub(crate) channel: lapin::Channel,
    _connection: lapin::Connection,
    _driver: Arc<Threads>,
}

pub(crate) fn bare_channel(url: &str) -> lapin::Result<Bare> {
    let driver = Arc::new(Threads::start());
    let runtime = driver.runtime();
    block_on(async {
        let properties = lapin::ConnectionProperties::default();
        let connection = lapin::Connection::connect_with_runtime(url, properties, runtime).await?;
        let channel = connection.create_channel().await?;
        Ok(Bare {
            channel,
            _connection: connection,
            _driver: driver,
        })
    })
}

/// A thread for lapin's tasks.
pub(crate) struct Threads {
    executor: Arc<async_executor::Executor<'static>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Exec(Arc<async_executor::Executor<'static>>);

pub(crate) struct ExecTask<T>(Option<async_executor::Task<T>>);

impl Threads {
    pub(crate) fn start() -> Self {
        let executor = Arc::new(async_executor::Executor::new());
        let running = Arc::clone(&executor);
        thread::spawn(move || {
            async_io::block_on(running.run(futures_lite::future::pending::<()>()));
        });
        Self { executor }
    }

    pub(crate) fn runtime(
        &self,
    ) -> async_rs::Runtime<async_rs::util::RuntimeParts<Exec, async_rs::AsyncIO>> {
        let exec = Exec(Arc::clone(&self.executor));
        async_rs::Runtime::new(async_rs::util::RuntimeParts::new(exec, async_rs::AsyncIO))
    }
}

impl async_rs::traits::Executor for Exec {
    type Task<T: Send + 'static> = ExecTask<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        async_io::block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> async_rs::util::Task<ExecTask<T>> {
        ExecTask(Some(self.0.spawn(future))).into()
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        function: F,
    ) -> async_rs::util::Task<ExecTask<T>> {
        ExecTask(Some(blocking::unblock(function))).into()
    }
}

impl<T: Send + 'static> Future for ExecTask<T> {
    type Output = T;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<T> {
        let task = self.0.as_mut().expect("a task is polled while it runs");
        std::pin::Pin::new(task).poll(context)
    }
}

impl<T: Send + 'static> async_rs::util::TaskImpl for ExecTask<T> {
    fn detach(&mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}

/// Jobs whose payload is their id.
pub(crate) fn jobs(ids: impl IntoIterator<Item = impl ToString>) -> Vec<NewJob> {
    let ids = ids.into_iter().map(|id| id.to_string());
    ids.map(|id| NewJob::new(id.clone(), id)).collect()
}

/// Fetches so many deliveries, or panics when patience ends.
pub(crate) async fn fetch(broker: &AmqpBroker, count: usize) -> Vec<Delivery<AmqpReceipt>> {
    let start = Instant::now();
    let mut got = Vec::new();
    while got.len() < count {
        assert!(start.elapsed() < PATIENCE, "{} of {count}", got.len());
        let more = broker.fetch(count - got.len(), PATIENCE).await;
        got.extend(more.unwrap());
    }
    got
}

pub(crate) async fn fetch_one(broker: &AmqpBroker) -> Delivery<AmqpReceipt> {
    fetch(broker, 1).await.remove(0)
}

pub(crate) fn ids(deliveries: &[Delivery<AmqpReceipt>]) -> Vec<String> {
    let mut ids: Vec<String> = deliveries
        .iter()
        .map(|delivery| delivery.job_id.to_string())
        .collect();
    ids.sort();
    ids
}

/// Waits until a condition holds, or panics when patience ends.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        async_io::Timer::after(Duration::from_millis(20)).await;
    }
}

/// Waits until so many jobs can be fetched: the server counts what it was sent after a moment.
pub(crate) async fn ready(broker: &AmqpBroker, count: u32) {
    eventually(&format!("{count} ready"), async || {
        broker.counts().await.unwrap().ready == count
    })
    .await;
}

/// Runs a subcommand of `with-rabbitmq`. `None` if the node was not started by it.
pub(crate) fn node(arguments: &[&str]) -> Option<()> {
    let script = env::var_os("BRIGADE_AMQP_NODE")?;
    let output = Command::new(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    Some(())
}

/// Passes bytes on between clients and the node, until it is told otherwise.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    sockets: Vec<TcpStream>,
    /// How many connections were accepted so far.
    connections: usize,
    /// How many of them their client has not ended.
    open_clients: usize,
    refuses: bool,
    /// Bytes that arrive are lost, as in a network that does not answer.
    swallows: bool,
}

impl Proxy {
    pub(crate) fn start(url: &str) -> Self {
        let address = url.split_once('@').unwrap().1.split_once('/').unwrap().0;
        let address = address.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let mut state = shared.lock().unwrap();
                if state.refuses {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&address) else {
                    continue;
                };
                for (from, to, is_client) in [(&client, &server, true), (&server, &client, false)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        pass(from, to, &shared);
                        shared.lock().unwrap().open_clients -= usize::from(is_client);
                    });
                }
                state.connections += 1;
                state.open_clients += 1;
                state.sockets.extend([client, server]);
            }
        });
        Self { port, state }
    }

    /// How many connections were accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.state.lock().unwrap().connections
    }

    /// How many connections their clients have not ended.
    pub(crate) fn open_clients(&self) -> usize {
        self.state.lock().unwrap().open_clients
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        for socket in self.state.lock().unwrap().sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Sets whether new connections are refused.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.state.lock().unwrap().refuses = refuses;
    }

    /// Sets whether bytes are lost.
    pub(crate) fn swallow(&self, swallows: bool) {
        self.state.lock().unwrap().swallows = swallows;
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, state: &Mutex<State>) {
    let mut buffer = [0; 4096];
    while let Ok(length) = from.read(&mut buffer) {
        if state.lock().unwrap().swallows {
            if length == 0 {
                return;
            }
        } else if length == 0 || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
