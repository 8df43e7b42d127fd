//! What a path asks for: a request comes in, and a plan goes out. Nothing here waits or writes.
use std::io::Write as _;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::body::Body;
use crate::head::Request;
use crate::record::Open;
use crate::reply::{HTML, Length, Reply, TEXT, page};
use crate::text::{push_json_string, push_json_value};

/// The default length of `/ok`.
const PAGE_BYTES: u64 = 1024;

/// The body of `/short`, and the length that it claims.
const SHORT_BYTES: u64 = 100;
const SHORT_CLAIM: u64 = 1000;

/// The header flood is made in memory, so that it has a bound: 64 MiB.
const MAX_FLOOD_KIB: usize = 64 * 1024;

/// A gzip bomb's greatest size: 64 GiB.
const MAX_BOMB_MIB: u32 = 64 * 1024;

/// What the server is to do.
#[derive(Debug)]
pub(crate) enum Plan {
    Reply(Reply),
    /// Waits before the head.
    Delay(Duration, Reply),
    /// Sends the head, and then a byte after each pause.
    Slow {
        bytes: u64,
        pause: Duration,
    },
    /// Sends the reply and ends the connection in the midst of it.
    CutShort(Reply),
    /// Sends these bytes and ends the connection.
    Raw(&'static [u8]),
    /// Ends the connection.
    Close,
    /// Resets the connection.
    Reset,
    /// Sends nothing until the client closes the connection.
    Hang,
    /// Sends what the server saw.
    Seen,
}

/// Finds out what a request asks for. `open` is `None` for the request that is not counted.
///
/// # Errors
///
/// Says what cannot be understood.
pub(crate) fn plan(request: &Request<'_>, open: Option<&Open>) -> Result<Plan, String> {
    let path = request.path();
    let Some(open) = open else {
        return Ok(Plan::Seen);
    };
    if let Some(times) = number::<u64>(request, "times")?
        && open.nth.is_none_or(|nth| nth > times)
    {
        return ok(request).map(Plan::Reply);
    }
    let rest = path.strip_prefix('/').unwrap_or(path);
    let (first, argument) = match rest.split_once('/') {
        Some((first, argument)) => (first, Some(argument)),
        None => (rest, None),
    };
    if let Some(argument) = argument {
        return match first {
            "status" => status(request, parse("status", argument)?).map(Plan::Reply),
            "delay" => {
                let pause = Duration::from_millis(parse("delay", argument)?);
                Ok(Plan::Delay(pause, ok(request)?))
            }
            "redirect" => hops(request, parse("redirect", argument)?).map(Plan::Reply),
            _ => Ok(Plan::Reply(not_found(path))),
        };
    }
    let reply = match first {
        "ok" => ok(request)?,
        "json" => json(request),
        "limit" => limit(request, open)?,
        "ratelimit" => ratelimit(request)?,
        "slow" => return slow(request),
        "endless" => endless(),
        "bomb" => bomb(request)?,
        "gzip" => gzip(request)?,
        "redirect" => redirect(request)?,
        "loop" => Reply::page(302, "loop").with("Location", request.target),
        "location" => Reply::page(302, "location").with("Location", text(request, "to")?),
        "title" => title(&text(request, "text")?),
        "auth" if !request.is_authorized => {
            Reply::page(401, "401").with("WWW-Authenticate", "Basic realm=\"demo\"")
        }
        "head" if request.method == "HEAD" => Reply::page(405, "405").with("Allow", "GET"),
        "auth" | "head" => ok(request)?,
        "echo" => Reply::new(200, TEXT, Body::bytes(request.head)),
        "headers" => headers(request)?,
        "close" => return Ok(Plan::Close),
        "reset" => return Ok(Plan::Reset),
        "hang" => return Ok(Plan::Hang),
        "short" => return Ok(Plan::CutShort(short())),
        "not-http" => return Ok(Plan::Raw(b"SSH-2.0-demo\r\n\x00\x01\xff\xfe\r\n\r\n")),
        _ => not_found(path),
    };
    Ok(Plan::Reply(reply))
}

fn parse<T: FromStr>(name: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("`{value}` is no value of `{name}`"))
}

fn number<T: FromStr>(request: &Request<'_>, name: &str) -> Result<Option<T>, String> {
    request
        .query(name)
        .map(|value| parse(name, &value))
        .transpose()
}

fn text(request: &Request<'_>, name: &str) -> Result<String, String> {
    let value = request
        .query(name)
        .ok_or_else(|| format!("`{name}` is missing"))?;
    Ok(value.into_owned())
}

fn ok(request: &Request<'_>) -> Result<Reply, String> {
    let bytes = number(request, "bytes")?.unwrap_or(PAGE_BYTES);
    let body = Body::padded(page(request.target).into_bytes(), bytes);
    let mut reply = Reply::new(200, HTML, body);
    if request.query("chunked").is_some() {
        reply.length = Length::Chunked;
    }
    Ok(reply)
}

fn not_found(path: &str) -> Reply {
    Reply::page(404, &format!("No such path: {path}"))
}

fn json(request: &Request<'_>) -> Reply {
    let query = request
        .target
        .split_once('?')
        .map_or("lat=52.5&name=Berlin", |(_, query)| query);
    let mut body = String::from("{\"results\":[{");
    for (at, (name, value)) in url::form_urlencoded::parse(query.as_bytes()).enumerate() {
        if at > 0 {
            body.push(',');
        }
        push_json_string(&mut body, &name);
        body.push(':');
        push_json_value(&mut body, &value);
    }
    body.push_str("}]}\n");
    Reply::new(200, "application/json", Body::bytes(body))
}

fn status(request: &Request<'_>, status: u16) -> Result<Reply, String> {
    if !(200..=999).contains(&status) {
        return Err(format!("`{status}` is no value of `status`: 200 to 999"));
    }
    let reply = Reply::page(status, &status.to_string());
    let Some(seconds) = number::<u32>(request, "retry_after")? else {
        return Ok(reply);
    };
    if request.query("date").is_none() {
        return Ok(reply.with("Retry-After", seconds));
    }
    let now = SystemTime::now();
    Ok(reply
        .with("Date", httpdate::fmt_http_date(now))
        .with("Retry-After", date_after(now, seconds)))
}

/// A date that is no earlier than so many seconds from now. Dates have whole seconds.
fn date_after(now: SystemTime, seconds: u32) -> String {
    let until = now + Duration::from_secs(seconds.into()) + Duration::from_nanos(999_999_999);
    httpdate::fmt_http_date(until)
}

fn limit(request: &Request<'_>, open: &Open) -> Result<Reply, String> {
    let per_second: f64 = number(request, "per_second")?.unwrap_or(5.0);
    if !(per_second > 0.0 && per_second.is_finite()) {
        return Err(format!(
            "`{per_second}` is no value of `per_second`: more than 0"
        ));
    }
    let burst: f64 = number(request, "burst")?.unwrap_or(per_second).max(1.0);
    if open.take_token(per_second, burst, Instant::now()) {
        return ok(request);
    }
    Ok(Reply::page(429, "429").with("Retry-After", 1))
}

fn ratelimit(request: &Request<'_>) -> Result<Reply, String> {
    let remaining: u64 = number(request, "remaining")?.unwrap_or(0);
    let reset: u64 = number(request, "reset")?.unwrap_or(1);
    Ok(ok(request)?
        .with("RateLimit-Remaining", remaining)
        .with("RateLimit-Reset", reset))
}

fn slow(request: &Request<'_>) -> Result<Plan, String> {
    let bytes = number(request, "bytes")?.unwrap_or(1000);
    let pause = Duration::from_millis(number(request, "ms")?.unwrap_or(10));
    Ok(Plan::Slow { bytes, pause })
}

fn endless() -> Reply {
    let mut reply = Reply::new(200, TEXT, Body::endless());
    reply.length = Length::Chunked;
    reply
}

fn bomb(request: &Request<'_>) -> Result<Reply, String> {
    let mebibytes: u32 = number(request, "mb")?.unwrap_or(100);
    if mebibytes > MAX_BOMB_MIB {
        return Err(format!(
            "`{mebibytes}` is no value of `mb`: at most {MAX_BOMB_MIB}"
        ));
    }
    Ok(Reply::new(200, TEXT, Body::bomb(mebibytes)).with("Content-Encoding", "gzip"))
}

fn gzip(request: &Request<'_>) -> Result<Reply, String> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let written = encoder
        .write_all(page(request.target).as_bytes())
        .and_then(|()| encoder.finish());
    let body = written.map_err(|error| error.to_string())?;
    Ok(Reply::new(200, HTML, Body::bytes(body)).with("Content-Encoding", "gzip"))
}

/// `/redirect/3` leads to `/redirect/2`, and `/redirect/0` is a page. The query goes along.
fn hops(request: &Request<'_>, hops: u32) -> Result<Reply, String> {
    let Some(next) = hops.checked_sub(1) else {
        return ok(request);
    };
    let query = &request.target[request.path().len()..];
    Ok(Reply::page(302, "redirect").with("Location", format!("/redirect/{next}{query}")))
}

fn redirect(request: &Request<'_>) -> Result<Reply, String> {
    let code: u16 = number(request, "code")?.unwrap_or(302);
    if !(300..=399).contains(&code) {
        return Err(format!("`{code}` is no value of `code`: 300 to 399"));
    }
    Ok(Reply::page(code, "redirect").with("Location", text(request, "to")?))
}

fn title(text: &str) -> Reply {
    let page = format!("<!doctype html>\n<title>{text}</title>\n<p>A page.\n");
    Reply::new(200, HTML, Body::bytes(page))
}

fn headers(request: &Request<'_>) -> Result<Reply, String> {
    let kibibytes: usize = number(request, "kb")?.unwrap_or(1024);
    if kibibytes > MAX_FLOOD_KIB {
        return Err(format!(
            "`{kibibytes}` is no value of `kb`: at most {MAX_FLOOD_KIB}"
        ));
    }
    // Name, colon, space and line end are 11 bytes.
    let value = "x".repeat(1024 - 11);
    let mut reply = ok(request)?;
    for _ in 0..kibibytes {
        reply = reply.with("X-Flood", &value);
    }
    Ok(reply)
}

fn short() -> Reply {
    let mut reply = Reply::new(200, TEXT, Body::padded(Vec::new(), SHORT_BYTES));
    reply.length = Length::Claimed(SHORT_CLAIM);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_to_retry_after_is_never_too_early() {
        let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(date_after(whole, 0), "Sun, 06 Nov 1994 08:49:37 GMT");
        let later = whole + Duration::from_nanos(1);
        assert_eq!(date_after(later, 2), "Sun, 06 Nov 1994 08:49:40 GMT");
    }
}
