//! What the tool is measured beside: a loop of `buffer_unordered` over the same HTTP client, which
//! reads URLs, one a line, and writes their status and length as CSV. It has no limits, no retries
//! and no journal.
//!
//! `cargo run --release -p brigade-cli --example bare -- urls.txt 200 >answers.csv`
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::{env, fs::File};

use futures::StreamExt;
use isahc::config::{Configurable, RedirectPolicy};
use isahc::{HttpClient, http::Uri};
use smol::io::AsyncReadExt;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let path = arguments.next().ok_or("which file?")?;
    let at_once: usize = arguments.next().ok_or("how many at once?")?.parse()?;
    // Two clients, as the tool has.
    let client = || {
        HttpClient::builder()
            .redirect_policy(RedirectPolicy::None)
            .connection_cache_size(at_once)
            .tcp_nodelay()
            .build()
    };
    let clients = [client()?, client()?];
    let fetch = |line: std::io::Result<String>| {
        let clients = &clients;
        async move {
            let url = line.unwrap_or_default();
            let uri: Uri = url.parse().unwrap_or_default();
            let client = &clients[uri.host().map_or(0, str::len) % clients.len()];
            let mut body = [0; 16 << 10];
            let mut bytes = 0;
            let status = match client.get_async(uri).await {
                Ok(mut response) => {
                    loop {
                        match response.body_mut().read(&mut body).await {
                            Ok(0) | Err(_) => break,
                            Ok(length) => bytes += length,
                        }
                    }
                    response.status().as_u16()
                }
                Err(_) => 0,
            };
            (url, status, bytes)
        }
    };
    let lines = BufReader::new(File::open(path)?).lines();
    let mut answers = futures::stream::iter(lines)
        .map(fetch)
        .buffer_unordered(at_once);
    let mut out = BufWriter::new(std::io::stdout());
    smol::block_on(async {
        while let Some((url, status, bytes)) = answers.next().await {
            writeln!(out, "{url},{status},{bytes}")?;
        }
        out.flush()
    })?;
    Ok(())
}
