//! A server and a directory for one test, and what the server saw by its own clock.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use brigade_demo_server::{Options, Seen, Server};
use tempfile::TempDir;

use crate::answers::Table;
use crate::process::Brigade;

pub(crate) struct Scene {
    pub(crate) server: Server,
    pub(crate) directory: TempDir,
    /// No sooner than the start of the server's clock.
    started: Instant,
}

/// The address of a host, counted from 0. It is not 127.0.0.1.
pub(crate) fn host(index: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(index + 2).unwrap().to_be_bytes();
    Ipv4Addr::new(127, 0, high, low)
}

/// A table of one column `url`.
pub(crate) fn urls<T: AsRef<str>>(urls: impl IntoIterator<Item = T>) -> String {
    let mut text = "url\n".to_owned();
    for url in urls {
        text.push_str(url.as_ref());
        text.push('\n');
    }
    text
}

impl Scene {
    /// A server with so many hosts beside 127.0.0.1.
    pub(crate) fn new(hosts: usize) -> Self {
        Self::with(Options {
            addresses: (0..hosts).map(host).collect(),
            ..Options::default()
        })
    }

    pub(crate) fn with(options: Options) -> Self {
        let server = Server::start(options).unwrap();
        Self {
            server,
            directory: TempDir::new().unwrap(),
            started: Instant::now(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.file(name)).unwrap()).into_owned()
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.file(name), text).unwrap();
    }

    /// `in.csv` has these URLs of this server.
    pub(crate) fn input<T: AsRef<str>>(&self, rows: impl IntoIterator<Item = T>) {
        self.write("in.csv", urls(rows));
    }

    /// `in.csv` has these paths of 127.0.0.1.
    pub(crate) fn paths<T: AsRef<str>>(&self, paths: impl IntoIterator<Item = T>) {
        self.input(paths.into_iter().map(|path| self.server.url(path.as_ref())));
    }

    /// `brigade fetch in.csv -o out.csv` without limits for hosts.
    pub(crate) fn fast(&self) -> Brigade {
        Brigade::fetch(self.path())
            .usually("--per-host-rate", "none")
            .usually("--backoff", "10ms..50ms")
    }

    pub(crate) fn answers(&self) -> Table {
        Table::read(&self.file("out.csv"))
    }

    /// A time of the server's clock that is not later than now.
    pub(crate) fn clock(&self) -> Duration {
        self.started.elapsed()
    }

    /// What the server saw at a host.
    pub(crate) fn seen_at(&self, address: Ipv4Addr) -> Vec<Seen> {
        let mut seen = self.server.seen();
        seen.retain(|one| one.address == address);
        seen
    }

    /// Asserts that no more requests came than a rate allows to one that sends at once, and then at
    /// most one in each interval.
    ///
    /// A request is seen later than it is sent, by as much as the machine likes. So the n-th one is
    /// never seen before `from` and n - 1 intervals, where `from` is a time of the server's clock
    /// before the first one was sent. In any other window, requests that were seen late may come
    /// together with those that follow: `slack` is how late that may be.
    #[track_caller]
    pub(crate) fn assert_rate(seen: &[Seen], from: Duration, interval: Duration, slack: Duration) {
        for (index, one) in seen.iter().enumerate() {
            let earliest = from + interval * u32::try_from(index).unwrap();
            assert!(
                one.at >= earliest,
                "request {} at {:?}, before {earliest:?}",
                index + 1,
                one.at
            );
        }
        for (index, first) in seen.iter().enumerate() {
            for (distance, last) in seen[index..].iter().enumerate() {
                let least = interval * u32::try_from(distance).unwrap();
                assert!(
                    last.at + slack >= first.at + least,
                    "{} requests in {:?}",
                    distance + 1,
                    last.at - first.at
                );
            }
        }
    }
}
