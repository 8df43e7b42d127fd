//! What the server saw: requests come in with their start and their end, and counts go out.
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::head::{MAX_HEADERS, Request};
use crate::text::push_json_string;

/// So many requests are kept; the others are counted.
const MAX_KEPT: usize = 200_000;

/// So many bytes of heads are kept.
const MAX_KEPT_BYTES: usize = 256 * 1024 * 1024;

/// So many paths with their queries are counted one by one.
const MAX_PATHS: usize = 200_000;

/// So many hosts are counted one by one.
const MAX_HOSTS: usize = 200_000;

/// A request as the server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seen {
    /// When its head was there, since the start of the server.
    pub at: Duration,
    /// When the last piece of the answer went to the socket, or the connection had ended; `None`
    /// before. A client that has the whole answer finds it here.
    pub ended: Option<Duration>,
    /// The header `Host` in lower case without its port; `address` in its absence.
    pub host: String,
    /// The address of the server that the client had connected to.
    pub address: Ipv4Addr,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names and values in the order of the request.
    pub headers: Vec<(String, String)>,
    /// The number of its connection, from 1.
    pub connection: u64,
}

impl Seen {
    /// The value of the first header of this name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    fn push_json(&self, out: &mut String) {
        use std::fmt::Write as _;

        let _ = write!(out, "{{\"at\":{:.6},\"ended\":", self.at.as_secs_f64());
        match self.ended {
            Some(ended) => {
                let _ = write!(out, "{:.6}", ended.as_secs_f64());
            }
            None => out.push_str("null"),
        }
        out.push_str(",\"host\":");
        push_json_string(out, &self.host);
        let _ = write!(out, ",\"address\":\"{}\",\"method\":", self.address);
        push_json_string(out, &self.method);
        out.push_str(",\"path\":");
        push_json_string(out, &self.path);
        out.push_str(",\"headers\":[");
        for (at, (name, value)) in self.headers.iter().enumerate() {
            out.push_str(if at == 0 { "[" } else { ",[" });
            push_json_string(out, name);
            out.push(',');
            push_json_string(out, value);
            out.push(']');
        }
        let _ = writeln!(out, "],\"connection\":{}}}", self.connection);
    }
}

/// A request as it is kept: its head in one piece, parsed when it is asked for.
#[derive(Clone, Debug)]
struct Kept {
    at: Duration,
    ended: Option<Duration>,
    address: Ipv4Addr,
    connection: u64,
    head: Box<[u8]>,
}

impl Kept {
    fn to_seen(&self) -> Seen {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        // The head was parsed when the request came, so that it can be parsed again.
        let _ = parsed.parse(&self.head);
        let headers = parsed.headers.iter().map(|header| {
            let value = String::from_utf8_lossy(header.value).into_owned();
            (header.name.to_owned(), value)
        });
        let headers = headers.collect();
        let request = Request::parse(&self.head).ok();
        let host = request.as_ref().and_then(|request| request.host.as_deref());
        Seen {
            at: self.at,
            ended: self.ended,
            host: host.map_or_else(|| self.address.to_string(), str::to_owned),
            address: self.address,
            method: request
                .as_ref()
                .map_or("", |request| request.method)
                .to_owned(),
            path: request
                .as_ref()
                .map_or("", |request| request.target)
                .to_owned(),
            headers,
            connection: self.connection,
        }
    }
}

#[derive(Debug, Default)]
struct Host {
    open: usize,
    most: usize,
    bucket: Option<Bucket>,
}

/// The token bucket of `/limit`.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

#[derive(Debug, Default)]
struct Counts {
    kept: Vec<Kept>,
    kept_bytes: usize,
    dropped: u64,
    paths: HashMap<Box<str>, u64>,
    host_indexes: HashMap<Box<str>, usize>,
    hosts: Vec<Host>,
    connections: u64,
}

/// What a server saw.
#[derive(Debug)]
pub(crate) struct Record {
    started: Instant,
    keeps: bool,
    counts: Mutex<Counts>,
}

impl Record {
    /// A record that keeps requests, or counters only.
    pub(crate) fn new(keeps: bool) -> Self {
        Self {
            started: Instant::now(),
            keeps,
            counts: Mutex::default(),
        }
    }

    /// Counts a connection and returns its number.
    pub(crate) fn connect(&self) -> u64 {
        let mut counts = self.counts();
        counts.connections += 1;
        counts.connections
    }

    /// Counts a request, which is open until the returned value is dropped.
    pub(crate) fn begin(
        self: &Arc<Self>,
        request: &Request<'_>,
        address: Ipv4Addr,
        connection: u64,
    ) -> Open {
        let at = self.started.elapsed();
        let mut counts = self.counts();
        let counts = &mut *counts;
        let kept = self.keeps.then(|| {
            counts.keep(Kept {
                at,
                ended: None,
                address,
                connection,
                head: request.head.into(),
            })
        });
        let kept = kept.flatten();
        if kept.is_none() {
            counts.dropped += 1;
        }
        let host = match &request.host {
            Some(host) => counts.host(host),
            None => counts.host(&address.to_string()),
        };
        if let Some(host) = host {
            let host = &mut counts.hosts[host];
            host.open += 1;
            host.most = host.most.max(host.open);
        }
        Open {
            record: Arc::clone(self),
            kept,
            host,
            nth: counts.count_path(request.target),
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        // Parsing takes long and is done without the lock.
        let kept = self.counts().kept.clone();
        kept.iter().map(Kept::to_seen).collect()
    }

    /// A line of JSON for each of about a thousand kept requests from `from` on, and how many.
    pub(crate) fn seen_lines(&self, from: usize) -> (usize, String) {
        let kept: Vec<Kept> = self
            .counts()
            .kept
            .iter()
            .skip(from)
            .take(1000)
            .cloned()
            .collect();
        let mut lines = String::new();
        for kept in &kept {
            kept.to_seen().push_json(&mut lines);
        }
        (kept.len(), lines)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.counts().dropped
    }

    pub(crate) fn connections(&self) -> usize {
        self.counts().connections as usize
    }

    pub(crate) fn most_at_once(&self, host: &str) -> usize {
        let counts = self.counts();
        let index = counts.host_indexes.get(host.to_ascii_lowercase().as_str());
        index.map_or(0, |index| counts.hosts[*index].most)
    }

    pub(crate) fn requests(&self, path: &str) -> usize {
        let counts = self.counts();
        if path.contains('?') {
            return counts.paths.get(path).copied().unwrap_or(0) as usize;
        }
        let of_path = counts.paths.iter().filter(|(target, _)| {
            let rest = target.strip_prefix(path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('?'))
        });
        of_path.map(|(_, count)| *count as usize).sum()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Nothing that can panic runs between two changes that belong together.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn keep(&mut self, kept: Kept) -> Option<usize> {
        let bytes = self.kept_bytes + kept.head.len();
        if self.kept.len() == MAX_KEPT || bytes > MAX_KEPT_BYTES {
            return None;
        }
        self.kept_bytes = bytes;
        self.kept.push(kept);
        Some(self.kept.len() - 1)
    }

    fn host(&mut self, name: &str) -> Option<usize> {
        if let Some(index) = self.host_indexes.get(name) {
            return Some(*index);
        }
        if self.hosts.len() == MAX_HOSTS {
            return None;
        }
        self.host_indexes.insert(name.into(), self.hosts.len());
        self.hosts.push(Host::default());
        Some(self.hosts.len() - 1)
    }

    /// Counts a request and returns how many there were with this one.
    fn count_path(&mut self, target: &str) -> Option<u64> {
        if let Some(count) = self.paths.get_mut(target) {
            *count += 1;
            return Some(*count);
        }
        if self.paths.len() == MAX_PATHS {
            return None;
        }
        self.paths.insert(target.into(), 1);
        Some(1)
    }
}

/// A request that is open until this is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    record: Arc<Record>,
    kept: Option<usize>,
    host: Option<usize>,
    /// How many requests for this path there were with this one; `None` if it is not counted.
    pub(crate) nth: Option<u64>,
}

impl Open {
    /// Takes a token of the host's bucket, which fills at `per_second` up to `burst`.
    pub(crate) fn take_token(&self, per_second: f64, burst: f64, now: Instant) -> bool {
        let mut counts = self.record.counts();
        let Some(host) = self.host else {
            return true;
        };
        let bucket = counts.hosts[host].bucket.get_or_insert(Bucket {
            tokens: burst,
            filled: now,
        });
        let elapsed = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + elapsed * per_second).min(burst);
        bucket.filled = now;
        let is_free = bucket.tokens >= 1.0;
        if is_free {
            bucket.tokens -= 1.0;
        }
        is_free
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut counts = self.record.counts();
        if let Some(host) = self.host {
            counts.hosts[host].open -= 1;
        }
        if let Some(kept) = self.kept {
            counts.kept[kept].ended = Some(self.record.started.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

    fn begin(record: &Arc<Record>, path: &str, host: &str) -> Open {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nA: b\r\n\r\n");
        record.begin(&Request::parse(head.as_bytes()).unwrap(), HERE, 1)
    }

    #[test]
    fn the_most_at_once_is_counted_for_each_host() {
        let record = Arc::new(Record::new(true));
        let first = begin(&record, "/", "a:1");
        drop(begin(&record, "/", "B"));
        drop(begin(&record, "/", "b"));
        let second = begin(&record, "/", "A:1");
        drop((first, second));
        drop(begin(&record, "/", "a:1"));
        assert_eq!(record.most_at_once("A"), 2);
        assert_eq!(record.most_at_once("b"), 1);
        assert_eq!(record.most_at_once("c"), 0);
    }

    #[test]
    fn a_path_without_a_query_counts_all_its_queries() {
        let record = Arc::new(Record::new(false));
        for (path, nth) in [("/a?x", 1), ("/a?x", 2), ("/a", 1), ("/a?y", 1), ("/ab", 1)] {
            assert_eq!(begin(&record, path, "h").nth, Some(nth), "{path}");
        }
        assert_eq!(record.requests("/a"), 4);
        assert_eq!(record.requests("/a?x"), 2);
        assert_eq!(record.requests("/a?z"), 0);
        assert_eq!(record.requests("/ab"), 1);
    }

    #[test]
    fn requests_beyond_the_bound_are_counted_as_dropped() {
        let record = Arc::new(Record::new(true));
        for _ in 0..MAX_KEPT + 3 {
            drop(begin(&record, "/", "h"));
        }
        assert_eq!(record.counts().kept.len(), MAX_KEPT);
        assert_eq!(record.dropped(), 3);
        assert_eq!(record.requests("/"), MAX_KEPT + 3);
    }

    #[test]
    fn a_record_of_counters_keeps_no_request() {
        let record = Arc::new(Record::new(false));
        drop(begin(&record, "/", "h"));
        assert_eq!(record.seen(), []);
        assert_eq!(record.dropped(), 1);
        assert_eq!(record.requests("/"), 1);
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let record = Arc::new(Record::new(true));
        let now = Instant::now();
        let open = begin(&record, "/", "h");
        let taken = |millis: u64| {
            let now = now + Duration::from_millis(millis);
            (0..10).filter(|_| open.take_token(5.0, 3.0, now)).count()
        };
        assert_eq!(taken(0), 3);
        assert_eq!(taken(190), 0);
        assert_eq!(taken(410), 2);
        assert_eq!(taken(10_000), 3);
    }

    #[test]
    fn a_line_of_json_has_all_that_was_seen() {
        let record = Arc::new(Record::new(true));
        let open = begin(&record, "/a?\"", "h:1");
        let (count, line) = record.seen_lines(0);
        assert_eq!(count, 1);
        let (_, rest) = line.split_once(',').unwrap();
        assert_eq!(
            rest,
            "\"ended\":null,\"host\":\"h\",\"address\":\"127.0.0.1\",\"method\":\"GET\",\
             \"path\":\"/a?\\\"\",\"headers\":[[\"Host\",\"h:1\"],[\"A\",\"b\"]],\
             \"connection\":1}\n"
        );
        drop(open);
        assert!(record.seen()[0].ended.is_some());
    }
}
