//! `brigade fetch`: a row comes in, its URL is requested, and what the server answers goes out. A
//! redirect is a request of its own, in the lane of the host that it leads to.

mod address;
mod client;
mod content;
mod credentials;
mod plan;
mod polite;

pub(crate) use self::plan::{lanes, plan, run};

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use brigade::csv::{Column, Header, Row};
use isahc::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use url::Url;

use self::address::Address;
use self::client::{Body, Client, ClientError, Isahc, Request, Response};
use self::content::{Content, ContentError, Keep};
use crate::frame::lanes::SharedLanes;
use crate::frame::stop::Stop;
use crate::frame::work::{Again, Answer, Columns, Failure, Lane, Next, Numbered, RowError, Work};
use crate::frame::{self, listed};
use crate::options::FetchOptions;
use crate::options::values::{RetryOn, Statuses};

/// What is requested for a row, and what has become of it so far.
#[derive(Debug, Clone)]
pub(crate) struct Fetching {
    url: Url,
    /// That of the URL.
    lane: Lane,
    /// An index into the methods of the options.
    method: usize,
    /// The URLs that led here, to find loops.
    visited: Vec<Url>,
    /// Whether the request may carry the headers of the options that hold credentials.
    is_trusted: bool,
    /// Whether a redirect has turned the method into GET.
    is_get: bool,
    number: u64,
    /// The path of the body, of a row that names it.
    path: Option<PathBuf>,
}

pub(crate) struct Fetch<C = Isahc> {
    client: C,
    pub(crate) lanes: SharedLanes,
    address: Address,
    methods: Vec<Method>,
    headers: Vec<(HeaderName, HeaderValue)>,
    accept: Statuses,
    retry_on: RetryOn,
    max_redirects: u32,
    max_retry_after: Duration,
    host_failures: Option<usize>,
    keep: Keep,
    save: Option<Save>,
    connect_seconds: Cell<f64>,
}

/// Where bodies are saved.
#[derive(Debug)]
struct Save {
    directory: PathBuf,
    name: Option<Column>,
    /// The names that rows have given; `None` where a row may come twice.
    names: Option<RefCell<HashSet<PathBuf>>>,
}

impl Save {
    /// The path of the body of a row that names it.
    fn named(&self, row: &Row) -> Result<Option<PathBuf>, &'static str> {
        let Some(column) = self.name else {
            return Ok(None);
        };
        let path = content::named(row.field(column))
            .ok_or("the name of the body is empty, or leads out of its directory")?;
        let is_new = |names: &RefCell<HashSet<_>>| names.borrow_mut().insert(path.clone());
        if !self.names.as_ref().is_none_or(is_new) {
            return Err("another row has the same name for its body");
        }
        Ok(Some(path))
    }
}

/// What is known of the answer to a request.
#[derive(Debug, Default)]
struct Head {
    status: Option<u16>,
    content_type: String,
}

impl Fetch {
    fn new(options: &FetchOptions, header: &Header) -> Result<Self, Stop> {
        let address = match &options.url_template {
            Some(template) => Address::template(template, header)?,
            None => match frame::column(header, options.column.as_deref(), Some("url"))? {
                Some(column) => Address::Column(column),
                None => {
                    return Err(Stop::Usage(format!(
                        "{}: which column has the URLs? Choose one with --column: {}",
                        header.file(),
                        listed(header)
                    )));
                }
            },
        };
        let save = match &options.save_bodies {
            Some(directory) => {
                // A directory that cannot be used fails no row, but the run.
                std::fs::create_dir_all(directory).map_err(|error| {
                    Stop::output(directory, format_args!("cannot create: {error}"))
                })?;
                Some(Save {
                    names: Some(RefCell::default()),
                    directory: directory.clone(),
                    name: options
                        .name_column
                        .as_deref()
                        .map(|name| header.column(name))
                        .transpose()?,
                })
            }
            None => None,
        };
        Ok(Self {
            client: Isahc::new(options).map_err(Stop::Usage)?,
            lanes: plan::lanes(options),
            address,
            methods: plan::methods(&options.method)?,
            headers: plan::headers(options)?,
            accept: options.accept.clone(),
            retry_on: options.retry_on.clone(),
            max_redirects: options.max_redirects,
            max_retry_after: options.max_retry_after,
            host_failures: options.host_failures,
            keep: keep(options),
            save,
            connect_seconds: Cell::new(0.0),
        })
    }
}

impl Fetch {
    /// For jobs of a queue: their lanes are shared by all headers, and a job that is delivered again
    /// saves its body again.
    pub(crate) fn of_queue(
        options: &FetchOptions,
        header: &Header,
        lanes: SharedLanes,
    ) -> Result<Self, Stop> {
        let mut fetch = Self::new(options, header)?;
        fetch.lanes = lanes;
        if let Some(save) = &mut fetch.save {
            save.names = None;
        }
        Ok(fetch)
    }
}

/// Checks what needs no header.
pub(crate) fn check(options: &FetchOptions) -> Result<(), Stop> {
    plan::methods(&options.method)?;
    plan::headers(options)?;
    Isahc::new(options).map_err(Stop::Usage)?;
    Ok(())
}

/// The columns that are added with these options.
pub(crate) fn columns(options: &FetchOptions) -> Columns {
    columns_with(options.save_bodies.is_some(), &keep(options))
}

fn keep(options: &FetchOptions) -> Keep {
    Keep {
        max_bytes: options.max_body,
        include: options.include_body,
        extract: options.extract.clone(),
        buffers: RefCell::default(),
    }
}

fn columns_with(has_save: bool, keep: &Keep) -> Columns {
    let mut after = Vec::new();
    if has_save {
        after.extend(["path".to_owned(), "sha256".to_owned()]);
    }
    after.extend(keep.columns());
    Columns {
        before: [
            "status_code",
            "final_url",
            "redirects",
            "content_type",
            "bytes",
        ]
        .map(str::to_owned)
        .into(),
        has_backoff: true,
        after,
    }
}

impl<C: Client + 'static> Work for Fetch<C> {
    type Job = Fetching;

    fn columns(&self) -> Columns {
        columns_with(self.save.is_some(), &self.keep)
    }

    fn lane(&self, row: &Row) -> Lane {
        match self.address.url(row) {
            Ok(url) => address::lane(&url),
            Err(_) => "".into(),
        }
    }

    fn lane_of(&self, job: &Fetching) -> Lane {
        Lane::clone(&job.lane)
    }

    fn job(&self, row: &Numbered) -> Result<Fetching, Answer> {
        let bad = |kind, message| self.answer(None, &Head::default(), None, Some((kind, message)));
        let url = self
            .address
            .url(&row.row)
            .map_err(|message| bad("bad_url", message))?;
        let path = match &self.save {
            Some(save) => save.named(&row.row),
            None => Ok(None),
        };
        let path = path.map_err(|rule| bad("bad_url", rule.to_owned()))?;
        Ok(Fetching {
            lane: address::lane(&url),
            url,
            method: 0,
            visited: Vec::new(),
            is_trusted: true,
            is_get: false,
            number: row.number,
            path,
        })
    }

    fn connect_seconds(&self) -> f64 {
        self.connect_seconds.get()
    }

    async fn run(&self, job: Fetching, _attempt: u32) -> Result<Next<Fetching>, Failure> {
        let lane = Lane::clone(&job.lane);
        let failures = self.lanes.borrow().failures(&lane);
        if self.host_failures.is_some_and(|most| failures >= most) {
            let message = format!("{failures} failures of the host in a row");
            let error = Some(("host_down", message));
            return Err(Failure::last(self.answer(
                Some(&job),
                &Head::default(),
                None,
                error,
            )));
        }
        match self.client.send(self.request(&job)).await {
            Ok(response) => self.received(job, &lane, response).await,
            Err(error) => Err(self.unreached(&job, &lane, &Head::default(), error)),
        }
    }
}

impl<C: Client + 'static> Fetch<C> {
    fn request(&self, job: &Fetching) -> Request {
        let method = if job.is_get {
            Method::GET
        } else {
            self.methods[job.method].clone()
        };
        let mut url = job.url.clone();
        let mut headers: HeaderMap = HeaderMap::with_capacity(self.headers.len() + 1);
        for (name, value) in &self.headers {
            if job.is_trusted || !credentials::is_credential(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        // User and password of a URL are credentials, which curl would send for redirects too.
        if !url.username().is_empty() || url.password().is_some() {
            if !headers.contains_key(header::AUTHORIZATION)
                && let Some(value) = credentials::basic(&url)
            {
                headers.insert(header::AUTHORIZATION, value);
            }
            let _ = url.set_username("");
            let _ = url.set_password(None);
        }
        url.set_fragment(None);
        Request {
            method,
            url,
            headers,
        }
    }

    /// The head of an answer is there.
    async fn received(
        &self,
        job: Fetching,
        lane: &Lane,
        response: Response<C::Body>,
    ) -> Result<Next<Fetching>, Failure> {
        let Response {
            status,
            headers,
            body,
        } = response;
        let connect = self.connect_seconds.get() + body.connect_time().as_secs_f64();
        self.connect_seconds.set(connect);
        let head = Head {
            status: Some(status),
            content_type: text(&headers, header::CONTENT_TYPE),
        };
        let wait = self.listen(lane, status, &headers);

        let path = self
            .save
            .as_ref()
            .filter(|_| self.accept.contains(status))
            .map(|save| {
                let name = job.path.clone().unwrap_or_else(|| {
                    content::numbered(job.number, content::extension(&head.content_type))
                });
                save.directory.join(name)
            });
        // A body that is left unread costs the connection.
        let content = match self
            .keep
            .read(body, path.as_deref().map(|path| (path, job.number)))
            .await
        {
            Ok(content) => content,
            Err(error) => return Err(self.unread(&job, lane, &head, error)),
        };

        if let Some(hop) = self.redirect(&job, status, &headers) {
            return match hop {
                Ok(hop) => Ok(Next::Hop(hop)),
                Err(error) => Err(Failure::last(self.answer(
                    Some(&job),
                    &head,
                    Some((&content, None)),
                    Some(error),
                ))),
            };
        }
        if matches!(status, 405 | 501) && job.method + 1 < self.methods.len() {
            let method = job.method + 1;
            return Ok(Next::Hop(Fetching { method, ..job }));
        }
        self.judge(&job, &head, &content, path, wait)
    }

    /// Hears what a server says of its load, and returns after what time it wants the next request.
    fn listen(&self, lane: &Lane, status: u16, headers: &HeaderMap) -> Option<Duration> {
        let (now, at) = (Instant::now(), SystemTime::now());
        let is_overloaded = matches!(status, 429 | 503);
        let mut lanes = self.lanes.borrow_mut();
        let mut wait = None;
        if is_overloaded {
            wait = polite::retry_after(headers, at);
            lanes.slow_down(lane, now);
            lanes.fail(lane, self.host_failures);
        } else {
            lanes.succeed(lane, now);
        }
        // A quota that is used up holds the host, whatever the status.
        let wait = wait.or_else(|| polite::quota_reset(headers, at));
        if let Some(time) = wait
            && !time.is_zero()
        {
            lanes.hold_for(lane, time.min(self.max_retry_after), now);
        }
        wait.filter(|_| is_overloaded)
    }

    /// What a redirect leads to; `None` if the answer is no redirect that is followed.
    fn redirect(
        &self,
        job: &Fetching,
        status: u16,
        headers: &HeaderMap,
    ) -> Option<Result<Fetching, (&'static str, String)>> {
        if !matches!(status, 301 | 302 | 303 | 307 | 308) || self.max_redirects == 0 {
            return None;
        }
        let location = headers.get(header::LOCATION)?;
        let target = std::str::from_utf8(location.as_bytes())
            .map_err(|_| "Location is not UTF-8".to_owned())
            .and_then(|location| job.url.join(location).map_err(|error| error.to_string()))
            .and_then(|url| address::check(&url).map(|()| url));
        let mut url = match target {
            Ok(url) => url,
            Err(message) => {
                let message = format!("redirected to no URL: {message}");
                return Some(Err(("bad_url", message)));
            }
        };
        if url.fragment().is_none() {
            url.set_fragment(job.url.fragment());
        }
        let is_same = |known: &Url| known == &url;
        let method = &self.methods[job.method];
        let is_get = job.is_get
            || status == 303 && *method != Method::HEAD
            || matches!(status, 301 | 302) && *method == Method::POST;
        if (job.visited.iter().any(is_same) || job.url == url) && is_get == job.is_get {
            return Some(Err((
                "too_many_redirects",
                "a loop of redirects".to_owned(),
            )));
        }
        if job.visited.len() >= self.max_redirects as usize {
            let message = format!("more than {} redirects", self.max_redirects);
            return Some(Err(("too_many_redirects", message)));
        }
        let mut visited = job.visited.clone();
        visited.push(job.url.clone());
        let is_same_origin = url.origin() == job.url.origin();
        Some(Ok(Fetching {
            is_trusted: job.is_trusted && is_same_origin,
            visited,
            is_get,
            lane: address::lane(&url),
            url,
            method: job.method,
            number: job.number,
            path: job.path.clone(),
        }))
    }

    /// Whether an answer is accepted, final or tried again.
    fn judge(
        &self,
        job: &Fetching,
        head: &Head,
        content: &Content,
        path: Option<PathBuf>,
        wait: Option<Duration>,
    ) -> Result<Next<Fetching>, Failure> {
        let status = head.status.unwrap_or_default();
        if self.accept.contains(status) {
            let answer = self.answer(Some(job), head, Some((content, path)), None);
            return Ok(Next::Answer(answer));
        }
        let kind = if status == 429 {
            "rate_limited"
        } else {
            "http_status"
        };
        let (kind, message, again) = match wait {
            Some(wait) if wait > self.max_retry_after => (
                "retry_after",
                format!(
                    "the server asks to wait {}, longer than --max-retry-after",
                    humantime::format_duration(wait)
                ),
                Again::No,
            ),
            Some(wait) if self.retry_on.has_status(status) => {
                (kind, format!("status {status}"), Again::After(wait))
            }
            _ if self.retry_on.has_status(status) => {
                (kind, format!("status {status}"), Again::Backoff)
            }
            _ => (kind, format!("status {status}"), Again::No),
        };
        let error = Some((kind, message));
        let answer = self.answer(Some(job), head, Some((content, path)), error);
        match again {
            Again::No => Ok(Next::Answer(answer)),
            again => Err(Failure { answer, again }),
        }
    }

    /// There is no answer, or not all of it.
    fn unreached(&self, job: &Fetching, lane: &Lane, head: &Head, error: ClientError) -> Failure {
        let is_of_host = matches!(error.kind, "dns" | "connect" | "tls" | "timeout" | "reset");
        if is_of_host {
            self.lanes.borrow_mut().fail(lane, self.host_failures);
        }
        let again = if self.retry_on.has_kind(error.kind) {
            Again::Backoff
        } else {
            Again::No
        };
        let answer = self.answer(Some(job), head, None, Some((error.kind, error.message)));
        Failure { answer, again }
    }

    fn unread(&self, job: &Fetching, lane: &Lane, head: &Head, error: ContentError) -> Failure {
        let message = match error {
            ContentError::Client(error) => return self.unreached(job, lane, head, error),
            ContentError::TooLarge => (
                "body_too_large",
                format!("more than {} bytes", self.keep.max_bytes),
            ),
            ContentError::Save(path, error) => (
                "protocol",
                format!("cannot save to {}: {error}", path.display()),
            ),
        };
        Failure::last(self.answer(Some(job), head, None, Some(message)))
    }

    fn answer(
        &self,
        job: Option<&Fetching>,
        head: &Head,
        content: Option<(&Content, Option<PathBuf>)>,
        error: Option<(&'static str, String)>,
    ) -> Answer {
        let text = |text: Option<String>| text.unwrap_or_default().into_bytes();
        let bytes = content
            .as_ref()
            .map(|(content, _)| content.bytes.to_string());
        let before = vec![
            text(head.status.map(|status| status.to_string())),
            text(job.map(|job| job.url.to_string())),
            text(job.map(|job| job.visited.len().to_string())),
            head.content_type.clone().into_bytes(),
            text(bytes),
        ];
        let mut after = Vec::new();
        if self.save.is_some() {
            let (path, digest) = match &content {
                Some((Content { sha256, .. }, Some(path))) => {
                    (Some(path.display().to_string()), sha256.clone())
                }
                _ => (None, None),
            };
            after.extend([text(path), text(digest)]);
        }
        match content {
            Some((content, _)) => after.extend(self.keep.cells(content)),
            None => after.extend(self.keep.columns().map(|_| Vec::new())),
        }
        Answer {
            before,
            after,
            error: error.map(|(kind, message)| RowError { kind, message }),
        }
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> String {
    headers
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .unwrap_or_default()
}
