//! The server: a thread with an executor, on which each listener and each connection is a task.
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_rustls::TlsAcceptor;
use smol::channel::{Receiver, Sender};
use smol::{Async, LocalExecutor, Timer};

use crate::connection::Connection;
use crate::record::{Record, Seen};
use crate::socket::Socket;
use crate::tls;

/// How often another port is tried where one is taken on some address.
const PORT_ATTEMPTS: usize = 100;

/// So many connections can wait to be accepted, if the system allows it.
const BACKLOG: i32 = 4096;

/// The pause after a connection could not be accepted, as when there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// How a server is to be started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of 127.0.0.0/8 to listen at, beside 127.0.0.1.
    ///
    /// Linux has all of them from the start; other systems may know 127.0.0.1 only.
    ///
    /// The default is none.
    pub addresses: Vec<Ipv4Addr>,
    /// The port, or 0 for one that is free.
    ///
    /// The default is 0.
    pub port: u16,
    /// Whether to listen for TLS too, on a port of its own.
    ///
    /// The default is `false`.
    pub tls: bool,
    /// Whether to keep the requests for [`Server::seen`]; they are counted in any case.
    ///
    /// The default is `true`.
    pub record: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            port: 0,
            tls: false,
            record: true,
        }
    }
}

/// A server that runs until it is stopped or dropped.
pub struct Server {
    port: u16,
    tls: Option<Tls>,
    record: Arc<Record>,
    /// The thread ends when this is dropped.
    running: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Tls {
    port: u16,
    ca_pem: String,
}

impl Server {
    /// Starts a server on a thread of its own. It accepts connections when this returns.
    ///
    /// # Errors
    ///
    /// If an address is not one of 127.0.0.0/8, a port cannot be had, or a thread or, for TLS, a
    /// certificate cannot be made.
    pub fn start(options: Options) -> io::Result<Self> {
        let addresses = addresses(&options)?;
        let listeners = bind(&addresses, options.port)?;
        let port = port(&listeners)?;
        let mut endpoints: Vec<Endpoint> = listeners
            .into_iter()
            .map(|listener| (listener, None))
            .collect();
        let mut tls = None;
        if options.tls {
            let (ca_pem, acceptor) = tls::authority(&addresses)?;
            let listeners = bind(&addresses, 0)?;
            tls = Some(Tls {
                port: self::port(&listeners)?,
                ca_pem,
            });
            let secure = listeners
                .into_iter()
                .map(|listener| (listener, Some(acceptor.clone())));
            endpoints.extend(secure);
        }
        let record = Arc::new(Record::new(options.record));
        let (running, stopped) = smol::channel::bounded(1);
        let thread = thread::Builder::new()
            .name(String::from("demo-server"))
            .spawn({
                let record = Arc::clone(&record);
                move || listen(endpoints, &record, &stopped)
            })?;
        Ok(Self {
            port,
            tls,
            record,
            running: Some(running),
            thread: Some(thread),
        })
    }

    /// The URL of a path at 127.0.0.1.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        self.url_at(Ipv4Addr::LOCALHOST, path)
    }

    /// The URL of a path at one of the addresses.
    #[must_use]
    pub fn url_at(&self, address: Ipv4Addr, path: &str) -> String {
        format!("http://{address}:{}{path}", self.port)
    }

    /// The URL of a path at 127.0.0.1 over TLS.
    ///
    /// # Panics
    ///
    /// If the server was started without TLS.
    #[must_use]
    #[track_caller]
    pub fn https_url(&self, path: &str) -> String {
        format!("https://{}:{}{path}", Ipv4Addr::LOCALHOST, self.tls().port)
    }

    /// The certificate, as PEM, of the authority that signed the server's certificate for
    /// `localhost` and its addresses.
    ///
    /// # Panics
    ///
    /// If the server was started without TLS.
    #[must_use]
    #[track_caller]
    pub fn ca_pem(&self) -> &str {
        &self.tls().ca_pem
    }

    #[track_caller]
    fn tls(&self) -> &Tls {
        let tls = self.tls.as_ref();
        tls.expect("the option `tls` must be true for URLs and certificates of TLS, got false")
    }

    /// The port of HTTP without TLS.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The requests so far, in the order in which they came.
    ///
    /// The first 200,000 are kept, in at most 256 MiB; see [`dropped`](Self::dropped).
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.record.seen()
    }

    /// How many requests came that [`seen`](Self::seen) does not have.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.record.dropped()
    }

    /// The most requests of a host that were open at once.
    ///
    /// A request is open from the last byte of its head to the last piece of its answer, or to the
    /// end of its connection. A host is what `Host` says, in any case and without the port.
    #[must_use]
    pub fn most_at_once(&self, host: &str) -> usize {
        self.record.most_at_once(host)
    }

    /// How many requests came for a path with its query, or, for a path without a query, for that
    /// path with all its queries and none.
    ///
    /// After 200,000 distinct ones, further ones are not counted.
    #[must_use]
    pub fn requests(&self, path: &str) -> usize {
        self.record.requests(path)
    }

    /// How many connections were accepted, with and without TLS.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.record.connections()
    }

    /// Stops the server, as dropping it does: closes all connections and joins the thread.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.running = None;
        if let Some(thread) = self.thread.take() {
            // If the thread has panicked, its message is on stderr already.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("port", &self.port)
            .field("tls_port", &self.tls.as_ref().map(|tls| tls.port))
            .finish_non_exhaustive()
    }
}

/// A listener, and what it needs for TLS.
type Endpoint = (TcpListener, Option<TlsAcceptor>);

/// 127.0.0.1 and the addresses of the options, each once.
fn addresses(options: &Options) -> io::Result<Vec<Ipv4Addr>> {
    let mut addresses = vec![Ipv4Addr::LOCALHOST];
    for address in &options.addresses {
        if !address.is_loopback() {
            let message = format!("addresses must be of 127.0.0.0/8, got {address}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        addresses.push(*address);
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Listeners at all addresses, on one port.
fn bind(addresses: &[Ipv4Addr], port: u16) -> io::Result<Vec<TcpListener>> {
    let mut attempts = 0;
    loop {
        match bind_once(addresses, port) {
            Err(error)
                if port == 0
                    && error.kind() == io::ErrorKind::AddrInUse
                    && attempts < PORT_ATTEMPTS =>
            {
                attempts += 1;
            }
            result => return result,
        }
    }
}

fn bind_once(addresses: &[Ipv4Addr], mut port: u16) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        let socket = SocketAddrV4::new(*address, port);
        let listener = TcpListener::bind(socket)
            .map_err(|error| io::Error::new(error.kind(), format!("{socket}: {error}")))?;
        // The standard library's backlog of 128 makes clients wait a second when more connect at once.
        rustix::net::listen(&listener, BACKLOG)?;
        port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(listeners)
}

fn port(listeners: &[TcpListener]) -> io::Result<u16> {
    listeners
        .first()
        .map_or(Ok(0), |listener| Ok(listener.local_addr()?.port()))
}

/// Accepts connections until `stopped` is closed. The executor drops all tasks at its end, and they
/// their sockets.
fn listen(endpoints: Vec<Endpoint>, record: &Arc<Record>, stopped: &Receiver<()>) {
    let executor = Rc::new(LocalExecutor::new());
    for (listener, acceptor) in endpoints {
        let accepting = accept_all(
            Rc::downgrade(&executor),
            listener,
            acceptor,
            Arc::clone(record),
        );
        executor.spawn(accepting).detach();
    }
    // The channel is only ever closed.
    let _ = smol::block_on(executor.run(stopped.recv()));
}

async fn accept_all(
    executor: Weak<LocalExecutor<'static>>,
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    record: Arc<Record>,
) {
    let Ok(listener) = Async::new(listener) else {
        return;
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A reference that were held while waiting would keep the executor, which owns
                // this task, forever.
                let Some(executor) = executor.upgrade() else {
                    return;
                };
                let connection = connect(stream, acceptor.clone(), Arc::clone(&record));
                executor.spawn(connection).detach();
            }
            Err(_) => {
                Timer::after(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connect(stream: Async<TcpStream>, acceptor: Option<TlsAcceptor>, record: Arc<Record>) {
    let number = record.connect();
    let Ok(SocketAddr::V4(address)) = stream.get_ref().local_addr() else {
        return;
    };
    // Answers are written whole, so that there is nothing to gather.
    let _ = stream.get_ref().set_nodelay(true);
    let socket = match acceptor {
        None => Socket::Plain(stream),
        Some(acceptor) => match Box::pin(acceptor.accept(stream)).await {
            Ok(stream) => Socket::Tls(Box::new(stream)),
            Err(_) => return,
        },
    };
    Connection::new(socket, record, *address.ip(), number)
        .run()
        .await;
}
