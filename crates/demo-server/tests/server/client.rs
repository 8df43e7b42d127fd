//! A client that is as plain as it can be: a socket of the standard library.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use brigade_demo_server::{Options, Server};

/// No read takes longer, unless the server does not answer.
const WATCHDOG: Duration = Duration::from_secs(60);

pub(crate) fn server() -> Server {
    Server::start(Options::default()).unwrap()
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let header = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        header.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub(crate) struct Client {
    pub(crate) stream: BufReader<TcpStream>,
    host: String,
}

impl Client {
    pub(crate) fn connect(server: &Server) -> Self {
        Self::connect_to(server, Ipv4Addr::LOCALHOST)
    }

    pub(crate) fn connect_to(server: &Server, address: Ipv4Addr) -> Self {
        let stream = TcpStream::connect((address, server.port())).unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        Self {
            stream: BufReader::new(stream),
            host: format!("{address}:{}", server.port()),
        }
    }

    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &str) {
        let host = &self.host;
        self.write(format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"
        ));
    }

    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, "");
        self.answer()
    }

    /// The head of an answer, and no body.
    pub(crate) fn head(&mut self) -> Answer {
        let status_line = self.line();
        let status = status_line.split(' ').nth(1);
        let status = status.and_then(|status| status.parse().ok());
        let mut answer = Answer {
            status: status.unwrap_or_else(|| panic!("no status line: {status_line:?}")),
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let line = self.line();
            if line.is_empty() {
                return answer;
            }
            let (name, value) = line.split_once(": ").unwrap();
            answer.headers.push((name.to_owned(), value.to_owned()));
        }
    }

    pub(crate) fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        if let Some(length) = answer.header("content-length") {
            answer.body = self.bytes(length.parse().unwrap());
        } else if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&self.line(), 16).unwrap();
                answer.body.extend(self.bytes(size));
                assert_eq!(self.line(), "");
                if size == 0 {
                    break;
                }
            }
        }
        answer
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        assert!(line.ends_with("\r\n"), "no whole line: {line:?}");
        line.truncate(line.len() - 2);
        line
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// All bytes up to the end of the connection.
    pub(crate) fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).map(|_| rest)
    }
}

pub(crate) fn get(server: &Server, path: &str) -> Answer {
    Client::connect(server).get(path)
}
