//! A connection's socket, with or without TLS.
use std::io;
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_rustls::server::TlsStream;
use smol::Async;
use smol::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

#[derive(Debug)]
pub(crate) enum Socket {
    Plain(Async<TcpStream>),
    Tls(Box<TlsStream<Async<TcpStream>>>),
}

impl Socket {
    /// Says that no more bytes will come.
    pub(crate) async fn shut_down(&mut self) -> io::Result<()> {
        if let Self::Tls(stream) = self {
            stream.close().await?;
        }
        self.tcp().get_ref().shutdown(Shutdown::Write)
    }

    /// Makes the drop of the socket a reset.
    pub(crate) fn reset_on_drop(&self) -> io::Result<()> {
        rustix::net::sockopt::set_socket_linger(self.tcp(), Some(Duration::ZERO))?;
        Ok(())
    }

    fn tcp(&self) -> &Async<TcpStream> {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_close(cx),
            Self::Tls(stream) => Pin::new(stream).poll_close(cx),
        }
    }
}
