//! A connection: requests are read from its socket one after the other, and what each one plans is
//! carried out before the next is read.
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use smol::Timer;
use smol::future::{or, yield_now};
use smol::io::{AsyncReadExt, AsyncWriteExt};

use crate::body::Body;
use crate::head::{Framing, MAX_HEAD, Request, head_length};
use crate::plan::{Plan, plan};
use crate::record::{Open, Record};
use crate::reply::{Length, Reply, TEXT};
use crate::socket::Socket;

/// A read takes at most so many bytes.
const READ: usize = 4096;

/// Buffers that have grown beyond this are given back after the request.
const KEPT_CAPACITY: usize = 16 * 1024;

/// A closing connection still reads so many bytes, for so long: a client that is sending would
/// otherwise get a reset in place of the answer.
const LINGER_BYTES: usize = 4 * 1024 * 1024;
const LINGER: Duration = Duration::from_secs(1);

/// How a connection goes on after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Request,
    Close,
    /// Drops the socket at once.
    Drop,
}

impl Next {
    fn after(keep_alive: bool) -> Self {
        if keep_alive {
            Self::Request
        } else {
            Self::Close
        }
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    record: Arc<Record>,
    address: Ipv4Addr,
    number: u64,
    /// The request that is being answered, if it is counted.
    open: Option<Open>,
    /// What was received and is not yet used.
    input: Vec<u8>,
    /// What is to be sent by the next write.
    output: Vec<u8>,
}

impl Connection {
    /// A connection to an address of the server; it has the number that the record gave it.
    pub(crate) fn new(socket: Socket, record: Arc<Record>, address: Ipv4Addr, number: u64) -> Self {
        Self {
            socket,
            record,
            address,
            number,
            open: None,
            input: Vec::new(),
            output: Vec::new(),
        }
    }

    /// Answers requests until the connection ends.
    pub(crate) async fn run(mut self) {
        // An error means that the client is gone, which is all there is to it.
        if let Ok(Next::Close) = self.answer_all().await {
            let _ = self.linger().await;
        }
    }

    async fn answer_all(&mut self) -> io::Result<Next> {
        let mut head = Vec::new();
        loop {
            match self.read_head().await? {
                Some(length) => {
                    head.clear();
                    head.extend(self.input.drain(..length));
                }
                None if self.input.is_empty() => return Ok(Next::Drop),
                None => return self.refuse(431).await,
            }
            let next = match Request::parse(&head) {
                Ok(request) => self.answer(&request).await?,
                Err(status) => return self.refuse(status).await,
            };
            if next != Next::Request {
                return Ok(next);
            }
            self.input.shrink_to(KEPT_CAPACITY);
            self.output.shrink_to(KEPT_CAPACITY);
            head.shrink_to(KEPT_CAPACITY);
        }
    }

    async fn answer(&mut self, request: &Request<'_>) -> io::Result<Next> {
        if request.path() != "/seen" {
            self.open = Some(self.record.begin(request, self.address, self.number));
        }
        if !self.skip_body(request).await? {
            return self.refuse(400).await;
        }
        let next = match plan(request, self.open.as_ref()) {
            Ok(plan) => self.carry_out(request, plan).await,
            Err(message) => {
                let reply = Reply::new(400, TEXT, Body::bytes(message + "\n"));
                self.send(request, reply).await
            }
        };
        self.open = None;
        next
    }

    async fn carry_out(&mut self, request: &Request<'_>, plan: Plan) -> io::Result<Next> {
        match plan {
            Plan::Reply(reply) => self.send(request, reply).await,
            Plan::Delay(pause, reply) => {
                self.wait(pause).await?;
                self.send(request, reply).await
            }
            Plan::Slow { bytes, pause } => self.send_slowly(request, bytes, pause).await,
            Plan::CutShort(reply) => {
                self.send(request, reply).await?;
                Ok(Next::Close)
            }
            Plan::Raw(bytes) => {
                self.output.extend_from_slice(bytes);
                self.write_last().await?;
                Ok(Next::Close)
            }
            Plan::Close => Ok(Next::Drop),
            Plan::Reset => {
                self.socket.reset_on_drop()?;
                Ok(Next::Drop)
            }
            Plan::Hang => Err(self.gone().await),
            Plan::Seen => self.send_seen(request).await,
        }
    }

    /// Reads until a whole head is at the start of the input, and returns its length. `None` if
    /// it is too long, or if the input is empty and has ended.
    async fn read_head(&mut self) -> io::Result<Option<usize>> {
        let mut searched = 0;
        loop {
            if searched == 0 {
                let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
                let blank = self
                    .input
                    .iter()
                    .take_while(|byte| is_line_end(byte))
                    .count();
                self.input.drain(..blank);
            }
            match head_length(&self.input, searched) {
                Some(length) if length <= MAX_HEAD => return Ok(Some(length)),
                None if self.input.len() <= MAX_HEAD => {}
                _ => return Ok(None),
            }
            searched = self.input.len();
            if self.read().await? == 0 {
                self.input.clear();
                return Ok(None);
            }
        }
    }

    /// Reads the body of the request and forgets it. `false` if its chunks cannot be understood.
    async fn skip_body(&mut self, request: &Request<'_>) -> io::Result<bool> {
        if request.framing == Framing::Length(0) {
            return Ok(true);
        }
        if request.expects_continue && request.is_http_1_1 {
            self.output
                .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.write().await?;
        }
        match request.framing {
            Framing::Length(length) => self.skip(length).await?,
            Framing::Chunked => loop {
                match httparse::parse_chunk_size(&self.input) {
                    Ok(httparse::Status::Complete((line, 0))) => {
                        self.skip(line as u64).await?;
                        return self.skip_trailers().await;
                    }
                    Ok(httparse::Status::Complete((line, size))) => {
                        let chunk = (line as u64 + 2).saturating_add(size);
                        self.skip(chunk).await?;
                    }
                    Ok(httparse::Status::Partial) if self.input.len() < MAX_HEAD => {
                        self.read_more().await?;
                    }
                    _ => return Ok(false),
                }
            },
        }
        Ok(true)
    }

    /// Skips the lines after the last chunk up to an empty one.
    async fn skip_trailers(&mut self) -> io::Result<bool> {
        let mut skipped = 0;
        loop {
            match self.input.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    let is_last = matches!(self.input[..end], [] | [b'\r']);
                    self.input.drain(..=end);
                    skipped += end;
                    if is_last {
                        return Ok(true);
                    }
                }
                None => self.read_more().await?,
            }
            if skipped + self.input.len() > MAX_HEAD {
                return Ok(false);
            }
        }
    }

    async fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        loop {
            let here = bytes.min(self.input.len() as u64);
            self.input.drain(..here as usize);
            bytes -= here;
            if bytes == 0 {
                return Ok(());
            }
            self.read_more().await?;
        }
    }

    /// Answers what cannot be understood, and closes the connection.
    async fn refuse(&mut self, status: u16) -> io::Result<Next> {
        let reply = Reply::page(status, &status.to_string());
        reply.write_head(&mut self.output, true, false);
        self.write_body(reply, true).await?;
        Ok(Next::Close)
    }

    /// Sends head and body, in one write if they are short.
    async fn send(&mut self, request: &Request<'_>, reply: Reply) -> io::Result<Next> {
        let is_chunked = reply.length == Length::Chunked;
        let keep_alive = request.keep_alive && (request.is_http_1_1 || !is_chunked);
        reply.write_head(&mut self.output, request.is_http_1_1, keep_alive);
        if request.method == "HEAD" || !reply.has_body() {
            self.write_last().await?;
        } else {
            self.write_body(reply, request.is_http_1_1).await?;
        }
        Ok(Next::after(keep_alive))
    }

    /// Writes the output, which has the head, and the body.
    async fn write_body(&mut self, reply: Reply, is_http_1_1: bool) -> io::Result<()> {
        let in_chunks = reply.length == Length::Chunked && is_http_1_1;
        let mut body = reply.body;
        while body.len() > 0 {
            if in_chunks {
                push_chunk(&mut self.output, |out| body.take(out));
            } else {
                body.take(&mut self.output);
            }
            if body.len() > 0 {
                self.write().await?;
                // A client that reads fast must not keep the others waiting.
                yield_now().await;
            }
        }
        if in_chunks {
            self.output.extend_from_slice(b"0\r\n\r\n");
        }
        self.write_last().await
    }

    async fn send_slowly(
        &mut self,
        request: &Request<'_>,
        bytes: u64,
        pause: Duration,
    ) -> io::Result<Next> {
        let mut reply = Reply::new(200, TEXT, Body::default());
        reply.length = Length::Claimed(bytes);
        reply.write_head(&mut self.output, request.is_http_1_1, request.keep_alive);
        if request.method == "HEAD" || bytes == 0 {
            self.write_last().await?;
            return Ok(Next::after(request.keep_alive));
        }
        self.write().await?;
        for _ in 1..bytes {
            self.wait(pause).await?;
            self.output.push(b'.');
            self.write().await?;
        }
        self.wait(pause).await?;
        self.output.push(b'.');
        self.write_last().await?;
        Ok(Next::after(request.keep_alive))
    }

    /// Sends the record in chunks, so that it need not be in memory twice.
    async fn send_seen(&mut self, request: &Request<'_>) -> io::Result<Next> {
        let mut reply = Reply::new(200, "application/x-ndjson", Body::default());
        reply.length = Length::Chunked;
        let keep_alive = request.keep_alive && request.is_http_1_1;
        reply.write_head(&mut self.output, request.is_http_1_1, keep_alive);
        if request.method == "HEAD" {
            self.write().await?;
            return Ok(Next::after(keep_alive));
        }
        let mut from = 0;
        loop {
            let (count, lines) = self.record.seen_lines(from);
            from += count;
            if request.is_http_1_1 {
                // A chunk without content ends the body.
                push_chunk(&mut self.output, |out| {
                    out.extend_from_slice(lines.as_bytes());
                });
            } else {
                self.output.extend_from_slice(lines.as_bytes());
            }
            self.write().await?;
            if count == 0 {
                break;
            }
            yield_now().await;
        }
        Ok(Next::after(keep_alive))
    }

    /// Reads some bytes to the end of the input and returns their number.
    async fn read(&mut self) -> io::Result<usize> {
        let length = self.input.len();
        self.input.resize(length + READ, 0);
        let read = self.socket.read(&mut self.input[length..]).await;
        self.input
            .truncate(length + read.as_ref().copied().unwrap_or(0));
        read
    }

    async fn read_more(&mut self) -> io::Result<()> {
        match self.read().await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Writes the output.
    async fn write(&mut self) -> io::Result<()> {
        self.socket.write_all(&self.output).await?;
        self.output.clear();
        self.socket.flush().await
    }

    /// Writes the output, which is the end of the answer.
    ///
    /// The request ends before the write, so that it has ended whenever the client has the answer.
    async fn write_last(&mut self) -> io::Result<()> {
        self.open = None;
        self.write().await
    }

    /// Waits, unless the client goes away.
    async fn wait(&mut self, pause: Duration) -> io::Result<()> {
        let timer = async {
            Timer::after(pause).await;
            Ok(())
        };
        or(timer, async { Err(self.gone().await) }).await
    }

    /// Waits until the client has gone away. Requests that it sends ahead are kept.
    async fn gone(&mut self) -> io::Error {
        let mut bytes = [0; 512];
        while self.input.len() < MAX_HEAD {
            match self.socket.read(&mut bytes).await {
                Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
                Ok(read) => self.input.extend_from_slice(&bytes[..read]),
                Err(error) => return error,
            }
        }
        // More than this is left in the socket, and whether it ends cannot be seen.
        std::future::pending().await
    }

    /// Ends the output and reads until the client has ended its own.
    async fn linger(&mut self) -> io::Result<()> {
        self.socket.shut_down().await?;
        let rest = async {
            let mut bytes = 0;
            while bytes < LINGER_BYTES {
                self.input.clear();
                match self.read().await? {
                    0 => break,
                    read => bytes += read,
                }
            }
            Ok(())
        };
        let limit = async {
            Timer::after(LINGER).await;
            Ok(())
        };
        or(rest, limit).await
    }
}

/// Appends a chunk with the bytes that `fill` appends.
fn push_chunk(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(b"00000000\r\n");
    let start = out.len();
    fill(out);
    let size = format!("{:08x}", out.len() - start);
    out[at..at + size.len()].copy_from_slice(size.as_bytes());
    out.extend_from_slice(b"\r\n");
}
