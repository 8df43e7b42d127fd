//! The HTTP client behind one small trait: a request goes in, the head and the body of an answer
//! come out. It follows no redirects, tries nothing again and keeps no limits but those of time.

use std::cell::Cell;
use std::error::Error as _;
use std::fs;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::Path;
use std::time::{Duration, Instant};

use isahc::config::{Configurable, RedirectPolicy};
use isahc::error::{Error, ErrorKind};
use isahc::http::{HeaderMap, HeaderName, HeaderValue, Method};
use isahc::tls::{TlsConfig, TrustStore};
use isahc::{AsyncBody, HttpClient, ResponseExt};
use smol::io::AsyncReadExt;
use url::Url;

use crate::options::FetchOptions;

/// How many clients there are. Each has a thread, and a host always has the same one, which keeps
/// its connections.
const CLIENTS: usize = 2;

/// Of so many requests, the times of one are taken: that costs a tenth of the request.
const SAMPLE: u32 = 16;

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
}

/// The head of an answer; its body is still to be read.
#[derive(Debug)]
pub(crate) struct Response<B> {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: B,
}

/// Why there is no answer, or not all of it. The messages name no part of the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientError {
    /// One of the closed set of kinds.
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

/// Sends requests.
pub(crate) trait Client {
    type Body: Body;

    /// Sends a request and returns the head of the answer. Dropping the future ends the request, at
    /// the latest when its time is over.
    async fn send(&self, request: Request) -> Result<Response<Self::Body>, ClientError>;
}

/// The body of an answer, unpacked.
pub(crate) trait Body {
    /// Reads the next bytes; 0 at the end.
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ClientError>;

    /// How long it took to connect; zero on a connection that was open. It is an estimate: the mean
    /// is right, and most answers say zero.
    fn connect_time(&self) -> Duration;
}

/// The client of the library isahc, which is curl's.
pub(crate) struct Isahc {
    clients: Vec<HttpClient>,
    limits: Limits,
    requests: Cell<u32>,
}

/// The limits of time, to say which one has passed.
#[derive(Debug, Clone, Copy)]
struct Limits {
    attempt: Duration,
    connect: Duration,
}

pub(crate) struct IsahcBody {
    body: AsyncBody,
    metrics: Option<isahc::Metrics>,
    started: Instant,
    limits: Limits,
}

impl Isahc {
    pub(crate) fn new(options: &FetchOptions) -> Result<Self, String> {
        let limits = Limits {
            attempt: options.timeout,
            connect: options.connect_timeout,
        };
        let clients = (0..CLIENTS)
            .map(|_| client(options, limits))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            clients,
            limits,
            requests: Cell::new(0),
        })
    }

    /// Whether the times of the next request are taken.
    fn is_sampled(&self) -> bool {
        self.requests.set(self.requests.get() + 1);
        self.requests.get() % SAMPLE == 1
    }

    fn client(&self, url: &Url) -> &HttpClient {
        let hasher = BuildHasherDefault::<DefaultHasher>::new();
        let hash = hasher.hash_one((url.host_str(), url.port_or_known_default()));
        &self.clients[hash as usize % self.clients.len()]
    }
}

fn client(options: &FetchOptions, limits: Limits) -> Result<HttpClient, String> {
    let mut builder = HttpClient::builder()
        .redirect_policy(RedirectPolicy::None)
        .timeout(limits.attempt)
        .connect_timeout(limits.connect)
        .tcp_nodelay()
        // All requests may be to one host, and so by one client.
        .connection_cache_size(options.workers);
    if let Some(tls) = tls(options)? {
        builder = builder.tls_config(tls);
    }
    if let Some(proxy) = &options.proxy {
        let proxy: isahc::http::Uri = proxy.parse().map_err(|error| format!("--proxy: {error}"))?;
        builder = builder.proxy(proxy);
    }
    builder
        .build()
        .map_err(|error| format!("cannot make the HTTP client: {}", described(&error)))
}

fn tls(options: &FetchOptions) -> Result<Option<TlsConfig>, String> {
    if !options.insecure && options.cacert.is_none() {
        return Ok(None);
    }
    let mut tls = TlsConfig::builder();
    if let Some(path) = &options.cacert {
        tls = tls.trust_store(trust_store(path)?);
    }
    if options.insecure {
        tls = tls
            .danger_accept_invalid_certs(true)
            .danger_accept_invalid_hosts(true);
    }
    Ok(Some(tls.build()))
}

fn trust_store(path: &Path) -> Result<TrustStore, String> {
    let pem = fs::read_to_string(path)
        .map_err(|error| format!("--cacert: cannot read {}: {error}", path.display()))?;
    if !pem.contains("-----BEGIN CERTIFICATE-----") {
        return Err(format!("--cacert: no certificate in {}", path.display()));
    }
    Ok(TrustStore::from_file(path))
}

impl Client for Isahc {
    type Body = IsahcBody;

    async fn send(&self, request: Request) -> Result<Response<IsahcBody>, ClientError> {
        let started = Instant::now();
        let client = self.client(&request.url);
        let mut built = isahc::http::Request::builder()
            .method(request.method)
            .uri(request.url.as_str())
            .metrics(self.is_sampled())
            .body(AsyncBody::empty())
            .map_err(|error| ClientError {
                kind: "bad_url",
                message: error.to_string(),
            })?;
        *built.headers_mut() = request.headers;
        let sent = client.send_async(built).await;
        let response = sent.map_err(|error| failure(&error, started, self.limits))?;
        let metrics = response.metrics().cloned();
        let (head, body) = response.into_parts();
        Ok(Response {
            status: head.status.as_u16(),
            headers: head.headers,
            body: IsahcBody {
                body,
                metrics,
                started,
                limits: self.limits,
            },
        })
    }
}

impl Body for IsahcBody {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ClientError> {
        self.body.read(buffer).await.map_err(|error| {
            let error = Error::from(error);
            failure(&error, self.started, self.limits)
        })
    }

    fn connect_time(&self) -> Duration {
        self.metrics.as_ref().map_or(Duration::ZERO, |metrics| {
            metrics.secure_connect_time().max(metrics.connect_time()) * SAMPLE
        })
    }
}

/// What went wrong, in the words of the contract.
fn failure(error: &Error, started: Instant, limits: Limits) -> ClientError {
    let code = curl_error(error).map(curl::Error::code);
    let (kind, message) = match error.kind() {
        ErrorKind::NameResolution => ("dns", "the host name is not known".to_owned()),
        ErrorKind::Timeout => {
            // Both limits have one kind; the one of the whole attempt has passed if it has.
            let message = if started.elapsed() >= limits.attempt || limits.connect > limits.attempt
            {
                format!("no answer within {}", time(limits.attempt))
            } else {
                format!("no connection within {}", time(limits.connect))
            };
            ("timeout", message)
        }
        ErrorKind::ConnectionFailed if code == Some(35) => ("tls", described(error)),
        ErrorKind::ConnectionFailed => ("connect", described(error)),
        ErrorKind::BadServerCertificate
        | ErrorKind::BadClientCertificate
        | ErrorKind::InvalidTlsConfiguration
        | ErrorKind::TlsEngine => ("tls", described(error)),
        ErrorKind::InvalidRequest => ("bad_url", described(error)),
        _ => match code {
            // The codes of curl: nothing came, the body was cut off, sending or receiving failed.
            Some(52) => (
                "reset",
                "the server closed the connection without an answer".to_owned(),
            ),
            Some(18) => (
                "reset",
                "the connection ended before the body did".to_owned(),
            ),
            Some(56) if described(error).contains("header") => ("protocol", described(error)),
            Some(55 | 56) => ("reset", described(error)),
            _ => ("protocol", described(error)),
        },
    };
    ClientError { kind, message }
}

fn time(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// Curl's error, where it is the cause.
fn curl_error(error: &Error) -> Option<&curl::Error> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref() {
            return Some(error);
        }
        source = cause.source();
    }
    None
}

/// The message of an error without any URL.
fn described(error: &Error) -> String {
    let text = match curl_error(error) {
        Some(cause) => cause
            .extra_description()
            .unwrap_or(cause.description())
            .to_owned(),
        None => error.to_string(),
    };
    let words: Vec<&str> = text
        .split_whitespace()
        .map(|word| if word.contains("://") { "<URL>" } else { word })
        .collect();
    words.join(" ")
}

/// A header of the options.
pub(crate) fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
    let value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
    Ok((name, value))
}
