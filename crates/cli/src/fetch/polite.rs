//! When a server wants to be asked again: `Retry-After`, and the `RateLimit` fields.

use std::time::{Duration, SystemTime};

use isahc::http::HeaderMap;

/// After what time the server wants the next request, by `Retry-After` (RFC 9110, 10.2.3): seconds
/// or a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = text(headers, "retry-after")?;
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than that are a very long time, too.
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds));
    }
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds.ceil()).ok();
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

/// After what time there is quota again, if none is left: `RateLimit-Remaining` and
/// `RateLimit-Reset` in seconds, with `X-` before them too, or both in one `RateLimit` field.
pub(crate) fn quota_reset(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    const FIELDS: [(&str, &str); 2] = [
        ("ratelimit-remaining", "ratelimit-reset"),
        ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ];
    let field = |name| number(text(headers, name)?);
    for (remaining, reset) in FIELDS {
        if field(remaining) == Some(0)
            && let Some(reset) = field(reset)
        {
            return Some(after(reset, now));
        }
    }
    let parameters = text(headers, "ratelimit")?;
    let parameter = |names: [&str; 2]| {
        parameters.split([',', ';']).find_map(|part| {
            let (name, value) = part.split_once('=')?;
            names.contains(&name.trim()).then(|| number(value))?
        })
    };
    if parameter(["remaining", "r"])? > 0 {
        return None;
    }
    Some(after(parameter(["reset", "t"])?, now))
}

/// Some servers give a moment in seconds since 1970, where the others give a time.
fn after(reset: u64, now: SystemTime) -> Duration {
    const A_YEAR: u64 = 31_536_000;
    let since_1970 = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    Duration::from_secs(if reset > A_YEAR {
        reset.saturating_sub(since_1970)
    } else {
        reset
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use isahc::http::HeaderName;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn seconds(time: Option<Duration>) -> Option<u64> {
        time.map(|time| time.as_secs())
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let of = |value| seconds(retry_after(&headers(&[("retry-after", value)]), now()));
        assert_eq!(of("120"), Some(120));
        let later = httpdate::fmt_http_date(now() + Duration::from_secs(41));
        assert_eq!(of(&later), Some(41));
        assert_eq!(
            of("Thu, 01 Jan 1970 00:00:00 GMT"),
            Some(0),
            "a date that has passed"
        );
        assert_eq!(of("soon"), None);
        assert_eq!(of("1.5"), Some(2));
        assert_eq!(of("-1"), None);
        assert_eq!(of("99999999999999999999"), Some(u64::MAX));
        assert_eq!(retry_after(&HeaderMap::new(), now()), None);
    }

    #[test]
    fn a_quota_counts_only_when_it_is_used_up() {
        let of = |fields: &[_]| seconds(quota_reset(&headers(fields), now()));
        let fields = |left| [("ratelimit-remaining", left), ("ratelimit-reset", "7")];
        assert_eq!(of(&fields("0")), Some(7));
        assert_eq!(of(&fields("1")), None);
        let moment = (NOW + 9).to_string();
        let github = [
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", moment.as_str()),
        ];
        assert_eq!(of(&github), Some(9));
        assert_eq!(
            of(&[("ratelimit", "limit=10, remaining=0, reset=3")]),
            Some(3)
        );
        assert_eq!(of(&[("ratelimit", "\"a\";r=0;t=4")]), Some(4));
        assert_eq!(of(&[("ratelimit", "\"a\";r=5;t=4")]), None);
        assert_eq!(of(&[("ratelimit-remaining", "0")]), None);
    }
}
