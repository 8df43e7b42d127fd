//! The echo server: a process of its own, so that what it does is not counted, and one thread for
//! all connections.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use async_executor::LocalExecutor;
use async_io::Async;
use futures_lite::{AsyncReadExt, AsyncWriteExt};

use crate::work::MESSAGE;

/// A server that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    pub(crate) fn start() -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        let mut process = command
            .arg("serve")
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut line = String::new();
        let told = process
            .stdout
            .take()
            .map(|stdout| BufReader::new(stdout).read_line(&mut line));
        let address = told
            .and_then(Result::ok)
            .and_then(|_| line.trim().parse().ok());
        let address =
            address.ok_or_else(|| format!("the echo server does not tell its address: {line}"))?;
        Ok(Self { process, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended already is fine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Prints its address on a line, and serves forever.
pub(crate) fn serve() -> Result<(), std::io::Error> {
    let listener = Async::<TcpListener>::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.get_ref().local_addr()?);
    let executor = LocalExecutor::new();
    async_io::block_on(executor.run(async {
        loop {
            let (mut stream, _) = listener.accept().await?;
            stream.get_ref().set_nodelay(true)?;
            executor
                .spawn(async move {
                    let mut message = [0; MESSAGE];
                    while stream.read_exact(&mut message).await.is_ok()
                        && stream.write_all(&message).await.is_ok()
                    {}
                })
                .detach();
        }
    }))
}
