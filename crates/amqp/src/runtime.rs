//! The runtime of lapin: an executor with one thread of its own, and sockets that can be shut down.
//!
//! lapin answers heartbeats and sends acknowledgements from tasks. On the executor that runs jobs, one
//! job that blocks would delay them until the server takes the connection for dead.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::thread;

use async_channel::{Receiver, Sender};
use async_io::Async;
use async_rs::traits::Executor;
use async_rs::util::{RuntimeParts, Task, TaskImpl};
use async_rs::{AsyncIO, Runtime};
use futures_lite::future;
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};

/// The executor of one broker, and its thread.
pub(crate) struct Driver {
    executor: Arc<async_executor::Executor<'static>>,
    /// Closed to stop the thread.
    stop: Sender<Infallible>,
    /// Closed when the thread ends.
    ended: Receiver<Infallible>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Driver {
    pub(crate) fn start() -> io::Result<Self> {
        let executor = Arc::new(async_executor::Executor::new());
        let (stop, stopped) = async_channel::bounded::<Infallible>(1);
        let (end, ended) = async_channel::bounded::<Infallible>(1);
        let tasks = Arc::clone(&executor);
        let thread = thread::Builder::new()
            .name("brigade-amqp".into())
            .spawn(move || {
                let _end = end;
                // An error says that the channel is closed.
                let _ = async_io::block_on(tasks.run(stopped.recv()));
            })?;
        Ok(Self {
            executor,
            stop,
            ended,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(crate) fn runtime(&self) -> LapinRuntime {
        Runtime::new(RuntimeParts::new(self.tasks(), AsyncIO))
    }

    pub(crate) fn tasks(&self) -> Tasks {
        Tasks {
            executor: Arc::downgrade(&self.executor),
        }
    }

    /// Runs a future to its end, also if the returned one is dropped. `None` if the driver stops.
    pub(crate) fn run<T, F>(&self, future: F) -> impl Future<Output = Option<T>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, receiver) = async_channel::bounded(1);
        let task = async move {
            // Fails if the caller was dropped, which then needs no output.
            let _ = sender.try_send(future.await);
        };
        self.executor.spawn(task).detach();
        let ended = self.ended.clone();
        async move {
            let end = async {
                let _ = ended.recv().await;
                None
            };
            future::or(async { receiver.recv().await.ok() }, end).await
        }
    }

    /// Stops the thread, and waits for its end without blocking this one.
    pub(crate) async fn stop(&self) {
        self.stop.close();
        // An error says that the channel is closed: the thread has left the executor.
        let _ = self.ended.recv().await;
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // What is left to the thread takes microseconds. It does not panic, as tasks catch none.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

/// What lapin runs on: the tasks of a [`Driver`], and the sockets and timers of async-io.
pub(crate) type LapinRuntime = Runtime<RuntimeParts<Tasks, AsyncIO>>;

/// Connects, and puts the socket where it can be shut down before the server has answered anything.
pub(crate) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    runtime: LapinRuntime,
    socket: Socket,
) -> lapin::Result<Connection> {
    let connect =
        async move |uri: AMQPUri, runtime: LapinRuntime| Ok(open(&uri, &runtime, &socket).await?);
    Connection::connector(uri, runtime, connect, properties).await
}

async fn open(
    uri: &AMQPUri,
    runtime: &LapinRuntime,
    socket: &Socket,
) -> io::Result<AsyncTcpStream<Async<TcpStream>>> {
    let host = &uri.authority.host;
    let address = runtime.to_socket_addrs((host.clone(), uri.authority.port));
    let stream = AsyncTcpStream::connect(runtime, address).await?;
    if let AsyncTcpStream::Plain(stream) = &stream {
        socket.set(stream.get_ref().try_clone()?);
    }
    match uri.scheme {
        AMQPScheme::AMQP => Ok(stream),
        AMQPScheme::AMQPS => {
            let tls = OwnedTLSConfig::default();
            stream.into_tls(host, tls.as_ref()).await
        }
    }
}

/// The socket of a connection, shared with the handles that may have to shut it down: lapin has no way to give
/// up a connection without an answer of the server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Socket(Arc<Mutex<State>>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Unconnected,
    Connected(TcpStream),
    ShutDown,
}

impl Socket {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, stream: TcpStream) {
        let mut state = self.state();
        match *state {
            State::ShutDown => shut_down(&stream),
            _ => *state = State::Connected(stream),
        }
    }

    pub(crate) fn is_shut_down(&self) -> bool {
        matches!(*self.state(), State::ShutDown)
    }

    /// Shuts the socket down in both directions, at once or when it is connected. What was written
    /// before is still sent.
    pub(crate) fn shut_down(&self) {
        let before = std::mem::replace(&mut *self.state(), State::ShutDown);
        if let State::Connected(stream) = before {
            shut_down(&stream);
        }
    }
}

fn shut_down(stream: &TcpStream) {
    // It may be closed already.
    let _ = stream.shutdown(Shutdown::Both);
}

/// What lapin runs tasks on: those of a [`Driver`].
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    /// Tasks hold clones of this. Were it an `Arc`, the executor would own itself.
    executor: Weak<async_executor::Executor<'static>>,
}

impl Tasks {
    /// Runs a future without waiting for its output, unless the executor is gone.
    pub(crate) fn detach(&self, future: impl Future<Output = ()> + Send + 'static) {
        if let Some(executor) = self.executor.upgrade() {
            executor.spawn(future).detach();
        }
    }
}

impl Executor for Tasks {
    type Task<T: Send + 'static> = TaskOfDriver<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        async_io::block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<TaskOfDriver<T>> {
        TaskOfDriver(
            self.executor
                .upgrade()
                .map(|executor| executor.spawn(future)),
        )
        .into()
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        function: F,
    ) -> Task<TaskOfDriver<T>> {
        TaskOfDriver(Some(blocking::unblock(function))).into()
    }
}

/// A task of [`Tasks`]. One without a task, because the executor is gone or the task was taken, never
/// completes.
#[derive(Debug)]
pub(crate) struct TaskOfDriver<T>(Option<async_executor::Task<T>>);

impl<T: Send + 'static> Future for TaskOfDriver<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match &mut self.0 {
            Some(task) => Pin::new(task).poll(context),
            None => Poll::Pending,
        }
    }
}

impl<T: Send + 'static> TaskImpl for TaskOfDriver<T> {
    // As the attribute macro of the trait writes it.
    fn cancel<'a, 'b>(&'a mut self) -> Pin<Box<dyn Future<Output = Option<T>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move { self.0.take()?.cancel().await })
    }

    fn detach(&mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}
