//! An HTTP/1.1 server on loopback that does what the URLs of its requests say, and counts what it
//! saw: when requests came, how many were open at once for each host, how often a path was asked.
//!
//! It serves the demonstration and the tests of `brigade-cli`. Rates, concurrency and attempts can
//! be asserted as a server sees them.
//!
//! # Paths
//!
//! | path | answer |
//! |---|---|
//! | `/ok?bytes=1024` | an HTML page of exactly so many bytes, with the path as its title |
//! | `/json?lat=52.5&name=Berlin` | `{"results":[{"lat":52.5,"name":"Berlin"}]}` |
//! | `/status/503` | that status; `&retry_after=2` adds `Retry-After`, `&date=1` as a date |
//! | `/limit?per_second=5` | 429 with `Retry-After: 1` for a host that asks faster; `&burst=` |
//! | `/ratelimit?remaining=0&reset=2` | 200 with `RateLimit-Remaining` and `RateLimit-Reset` |
//! | `/delay/250` | 200 after so many milliseconds |
//! | `/slow?bytes=1000&ms=10` | the head at once, then a byte in each interval |
//! | `/endless` | a body without an end |
//! | `/bomb?mb=100` | a gzip body that unpacks to so many MiB |
//! | `/gzip` | a page with `Content-Encoding: gzip`, asked for or not |
//! | `/redirect/3` | three relative redirects, then 200 |
//! | `/redirect?to=URL&code=302` | one redirect |
//! | `/loop` | a redirect to itself |
//! | `/location?to=TEXT` | 302 whose `Location` is the text as it is, line ends included |
//! | `/title?text=TEXT` | a page whose title is the text as it is, markup included |
//! | `/auth` | 401 without the header `Authorization`, else 200 |
//! | `/echo` | the head of the request as text |
//! | `/head` | 405 for `HEAD`, else 200 |
//! | `/close` | the connection ends before a byte of the answer |
//! | `/reset` | the same, by a TCP reset |
//! | `/short` | a body of 100 bytes with `Content-Length: 1000`, then the end of the connection |
//! | `/headers?kb=1024` | so many KiB of headers |
//! | `/not-http` | bytes that are not HTTP, then the end of the connection |
//! | `/hang` | nothing, until the client closes the connection |
//! | `/seen` | what [`Server::seen`] returns, an object of JSON a line; not counted itself |
//!
//! Each path but `/seen` takes `times=N` in its query: the first N requests for exactly this path
//! and query get what the table says, and all later ones get the answer of `/ok`. Each answer with
//! a page takes `bytes=N` and, for a body in chunks, `chunked=1`. Other paths are answered by 404,
//! and a value that cannot be understood by 400.
//!
//! # Bounds
//!
//! Nothing limits the number of connections; each has buffers of a few KiB. The head of a request
//! has at most 64 KiB and 100 headers, or is answered by 431. The first 200,000 requests are kept,
//! in at most 256 MiB, and so are the counters of 200,000 paths and 200,000 hosts.
#![forbid(unsafe_code)]

mod body;
mod connection;
mod head;
mod plan;
mod record;
mod reply;
mod server;
mod socket;
mod text;
mod tls;

pub use record::Seen;
pub use server::{Options, Server};
