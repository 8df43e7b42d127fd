//! What the options of `brigade fetch` say: the limits of hosts, the methods, the headers, and the
//! settings that the report shows.

use std::rc::Rc;

use isahc::http::{HeaderName, HeaderValue, Method, header};

use super::{Fetch, address, client};
use crate::frame::lanes::{LaneLimits, Lanes, LimitTable, SharedLanes};
use crate::frame::stop::Stop;
use crate::frame::{self, Plan};
use crate::options::FetchOptions;
use crate::options::values;

/// Fetches, and returns the exit code.
pub(crate) fn run(options: &FetchOptions) -> u8 {
    frame::run(
        &options.common,
        |header| {
            let work = Fetch::new(options, header)?;
            let plan = plan(options);
            Ok((work, plan))
        },
        |work| Rc::clone(&work.lanes),
    )
}

/// The lanes of the hosts.
pub(crate) fn lanes(options: &FetchOptions) -> SharedLanes {
    Lanes::new(options.workers, options.common.rate, limits(options))
}

pub(crate) fn plan(options: &FetchOptions) -> Plan {
    let is_idempotent = options.method.split(',').all(|method| {
        ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"]
            .contains(&method.trim().to_ascii_uppercase().as_str())
    });
    let repeats = (!is_idempotent).then(|| {
        format!(
            "{} is not idempotent: rows that ran when the last run ended are requested again",
            options.method
        )
    });
    Plan {
        name: "fetch",
        busy: "server",
        workers: options.workers,
        retries: options.common.retries.unwrap_or(2),
        has_lanes: true,
        rate_option: "--per-host-rate 50/s",
        repeats,
        settings: settings(options),
    }
}

/// The limits of hosts.
fn limits(options: &FetchOptions) -> LimitTable {
    let all = LaneLimits {
        rate: options.per_host_rate.0,
        workers: Some(options.per_host_workers),
    };
    let own = options.host.iter().map(|own| {
        let limits = LaneLimits {
            rate: own.rate.map_or(all.rate, |rate| rate.0),
            workers: own.workers.or(all.workers),
        };
        (own.host.clone(), limits)
    });
    LimitTable {
        all,
        own: own.collect(),
        names_of: address::names_of,
    }
}

/// The settings that the report shows. Headers, proxies and templates may hold secrets.
fn settings(options: &FetchOptions) -> Vec<(String, String)> {
    let rate = |rate: Option<values::Rate>| rate.map_or("none".to_owned(), |rate| rate.to_string());
    let time = |time| humantime::format_duration(time).to_string();
    [
        ("--workers", options.workers.to_string()),
        ("--per-host-workers", options.per_host_workers.to_string()),
        ("--per-host-rate", rate(options.per_host_rate.0)),
        ("--rate", rate(options.common.rate)),
        ("--retries", options.common.retries.unwrap_or(2).to_string()),
        ("--timeout", time(options.timeout)),
        ("--method", options.method.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The methods that are tried in turn.
pub(super) fn methods(text: &str) -> Result<Vec<Method>, Stop> {
    text.split(',')
        .map(|method| {
            let method = method.trim().to_ascii_uppercase();
            Method::from_bytes(method.as_bytes())
                .map_err(|_| Stop::Usage(format!("--method: {method:?} is no method")))
        })
        .collect()
}

/// The headers of each request: those of the options, with the user agent.
pub(super) fn headers(options: &FetchOptions) -> Result<Vec<(HeaderName, HeaderValue)>, Stop> {
    let wrong = |problem: String| Stop::Usage(format!("--header: {problem}"));
    let mut lines = Vec::new();
    for given in &options.header {
        match given.strip_prefix('@') {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| wrong(format!("cannot read {path}: {error}")))?;
                lines.extend(text.lines().map(str::to_owned));
            }
            None => lines.push(given.clone()),
        }
    }
    let mut headers = Vec::new();
    for line in lines.iter().filter(|line| !line.trim().is_empty()) {
        let (name, value) = values::header(line).map_err(wrong)?;
        headers.push(client::header(&name, &value).map_err(wrong)?);
    }
    if !headers.iter().any(|(name, _)| name == header::USER_AGENT) {
        let mut agent = options
            .user_agent
            .clone()
            .unwrap_or_else(|| concat!("brigade/", env!("CARGO_PKG_VERSION")).to_owned());
        if let Some(contact) = &options.contact {
            agent = format!("{agent} (+{contact})");
        }
        let (name, value) = values::header(&format!("user-agent: {agent}"))
            .map_err(|error| Stop::Usage(format!("--user-agent or --contact: {error}")))?;
        headers.push(client::header(&name, &value).map_err(wrong)?);
    }
    Ok(headers)
}
