//! A TCP proxy whose connections can be cut.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Accepts connections on a port of its own and passes them on.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub(crate) fn start(target: String) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let accepted = Arc::clone(&open);
        // Ends with the process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Refused where the target is down: the client sees a connection that ends.
                if let Ok(server) = TcpStream::connect(&target) {
                    let _ = pass(&client, &server);
                    accepted
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend([client, server]);
                }
            }
        });
        Ok(Self { port, open })
    }

    /// Cuts all connections that are open now; returns how many.
    pub(crate) fn cut(&self) -> usize {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        open.iter()
            .filter(|stream| stream.shutdown(Shutdown::Both).is_ok())
            .count()
            / 2
    }
}

/// Copies in both directions, until one end is closed.
fn pass(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    let pairs = [
        (client.try_clone()?, server.try_clone()?),
        (server.try_clone()?, client.try_clone()?),
    ];
    for (mut from, mut to) in pairs {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}
