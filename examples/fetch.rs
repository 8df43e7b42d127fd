//! Fetches a list of pages, at most eight at once and two of a host, tries again what is busy, and
//! prints each failure with its URL and all of its causes. The client is made up, so that the
//! example needs no network; put one of your own in its place.
//!
//! `cargo run --example fetch`

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use brigade::{Jitter, Pool, RateLimit, Retry};

/// Stands for the client of a library: one for the whole program, cheap to clone.
struct Client;

impl Client {
    async fn get(&self, url: &str) -> anyhow::Result<String> {
        smol::Timer::after(Duration::from_millis(5)).await;
        ensure!(!url.contains("refused"), "connection refused");
        Ok(format!("<title>{url}</title>"))
    }
}

/// The handler.
async fn title(client: &Client, url: &str) -> anyhow::Result<String> {
    let page = client.get(url).await.context("request")?;
    let Some(title) = page
        .strip_prefix("<title>")
        .and_then(|rest| rest.strip_suffix("</title>"))
    else {
        bail!("no title");
    };
    Ok(title.to_owned())
}

fn host(url: &str) -> &str {
    url.split('/').nth(2).unwrap_or_default()
}

fn main() {
    let client = Arc::new(Client);
    let pool = Pool::builder()
        .workers(8)
        .key_by(|url: &String| host(url).to_owned())
        .max_running_per_key(2)
        .rate_limit(RateLimit::per_second(500).burst(10))
        .attempt_timeout(Duration::from_secs(10))
        .retry(
            Retry::exponential(Duration::from_millis(10))
                .max_attempts(2)
                .jitter(Jitter::Equal),
        )
        .start(move |url: String| {
            let client = client.clone();
            async move { title(&client, &url).await }
        });

    let urls = (0..20).map(|n| {
        format!(
            "http://host{}.example/{}",
            n % 3,
            if n == 7 { "refused" } else { "page" }
        )
    });
    let mut failures = Vec::new();
    let run = pool
        .map(urls)
        .keep_inputs()
        .for_each(|done| match (done.input, done.result) {
            (Some(url), Err(error)) => failures.push(format!("{url}: {error:#}")),
            (_, Err(error)) => failures.push(format!("{error:#}")),
            (_, Ok(title)) => println!("{title}"),
        });
    let summary = smol::block_on(run);
    println!("{} succeeded, {} failed", summary.succeeded, summary.failed);
    failures.iter().for_each(|failure| println!("{failure}"));
    assert!(summary.is_complete());
    assert_eq!((summary.succeeded, summary.failed), (19, 1));
    assert_eq!(
        failures,
        ["http://host1.example/refused: request: connection refused"]
    );
}
