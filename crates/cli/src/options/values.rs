//! The values of options: a text comes in, a checked value or a message that says what is wrong
//! with it goes out.

use std::fmt;
use std::time::Duration;

use brigade::RateLimit;

use super::HostRate;

/// So many in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) count: u32,
    pub(crate) period: Duration,
}

/// The limits that `--host` sets for one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostLimits {
    pub(crate) host: String,
    /// `None` where the rate of all hosts holds.
    pub(crate) rate: Option<HostRate>,
    /// `None` where the number of all hosts holds.
    pub(crate) workers: Option<usize>,
}

/// After how many failures a run is given up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum MaxFailures {
    Count(u64),
    /// Of the rows that have an answer, once there are a hundred of them.
    Percent(f64),
}

/// Delays between attempts: the first one, and the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) base: Duration,
    pub(crate) max: Duration,
}

/// Status codes, as ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statuses(Vec<(u16, u16)>);

/// What is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RetryOn {
    statuses: Vec<u16>,
    kinds: Vec<String>,
}

/// A value of a JSON answer, and the column that it goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extract {
    pub(crate) column: String,
    /// A JSON pointer (RFC 6901).
    pub(crate) pointer: String,
}

impl Rate {
    pub(crate) const fn limit(self) -> RateLimit {
        RateLimit::per(self.count, self.period)
    }

    /// How many there are in a second.
    pub(crate) fn per_second(self) -> f64 {
        f64::from(self.count) / self.period.as_secs_f64()
    }

    /// The same, made slower by a factor of at least 1.
    pub(crate) fn slower(self, factor: f64) -> Self {
        Self {
            count: self.count,
            period: self.period.mul_f64(factor.min(1e6)),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.period.as_secs() {
            1 if self.period.subsec_nanos() == 0 => "s".to_owned(),
            60 if self.period.subsec_nanos() == 0 => "min".to_owned(),
            3600 if self.period.subsec_nanos() == 0 => "h".to_owned(),
            _ => humantime::format_duration(self.period)
                .to_string()
                .replace(' ', ""),
        };
        write!(f, "{}/{unit}", self.count)
    }
}

/// `5/s`, `1/200ms`, `5/15s`, `100/min`.
pub(crate) fn rate(text: &str) -> Result<Rate, String> {
    let Some((count, period)) = text.split_once('/') else {
        return Err(format!(
            "a rate needs a unit, such as {text}/s or {text}/min"
        ));
    };
    let count = count
        .trim()
        .parse()
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| format!("{count:?} is no number from 1 to {}", u32::MAX))?;
    let period = duration(
        match period.trim() {
            unit if unit.starts_with(|first: char| first.is_ascii_digit()) => {
                period.trim().to_owned()
            }
            unit => format!("1{unit}"),
        }
        .as_str(),
    )?;
    Ok(Rate { count, period })
}

/// A rate, or `none`.
pub(crate) fn optional_rate(text: &str) -> Result<Option<Rate>, String> {
    if text == "none" {
        return Ok(None);
    }
    rate(text).map(Some)
}

/// `200ms`, `30s`, `5m`, `1h30m`; not zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text.trim())
        .map_err(|error| format!("{error}; such as 200ms, 30s or 5m"))?;
    if duration.is_zero() {
        return Err("it must be longer than 0".to_owned());
    }
    Ok(duration)
}

/// `none`, or a duration.
pub(crate) fn optional_duration(text: &str) -> Result<Option<Duration>, String> {
    if text == "none" {
        return Ok(None);
    }
    duration(text).map(Some)
}

/// `10M`, `64K`, `1G`, or bytes; units are powers of 1024.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        unit => return Err(format!("there is no unit {unit:?}; there are K, M and G")),
    };
    digits
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "it must be a number of bytes from 1, such as 500K or 10M".to_owned())
}

/// `1s..60s`.
pub(crate) fn backoff(text: &str) -> Result<Backoff, String> {
    let (base, max) = text
        .split_once("..")
        .ok_or("it must be the first delay and the longest, such as 1s..60s")?;
    let (base, max) = (duration(base)?, duration(max)?);
    if base > max {
        return Err("the first delay is longer than the longest".to_owned());
    }
    Ok(Backoff { base, max })
}

/// `20` or `5%`.
pub(crate) fn max_failures(text: &str) -> Result<MaxFailures, String> {
    if let Some(percent) = text.strip_suffix('%') {
        return percent
            .trim()
            .parse()
            .ok()
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(MaxFailures::Percent)
            .ok_or_else(|| "a percentage is from 0% to 100%".to_owned());
    }
    text.parse()
        .ok()
        .filter(|count| *count > 0)
        .map(MaxFailures::Count)
        .ok_or_else(|| "it must be a number from 1, or a percentage such as 5%".to_owned())
}

/// `api.x.org=20/s,10`: a rate, or `none`, and how many at once; either may be left out.
pub(crate) fn host_limits(text: &str) -> Result<HostLimits, String> {
    let (host, limits) = text
        .split_once('=')
        .filter(|(host, _)| !host.is_empty())
        .ok_or("it must be a host and its limits, such as api.example.org=20/s,10")?;
    if host.contains('/') {
        return Err(format!(
            "{host:?} is no host; it is written without scheme and path, as api.example.org:8080"
        ));
    }
    let mut parsed = HostLimits {
        host: host.to_ascii_lowercase(),
        rate: None,
        workers: None,
    };
    for limit in limits.split(',').map(str::trim) {
        match limit {
            "none" => parsed.rate = Some(HostRate(None)),
            limit if limit.contains('/') => parsed.rate = Some(HostRate(Some(rate(limit)?))),
            limit => {
                let count = limit.parse().ok().filter(|count| *count > 0);
                let count = count.ok_or_else(|| {
                    format!("{limit:?} is neither a rate such as 20/s nor a number from 1")
                })?;
                parsed.workers = Some(count);
            }
        }
    }
    Ok(parsed)
}

/// `200..=299,304`.
pub(crate) fn statuses(text: &str) -> Result<Statuses, String> {
    let code = |code: &str| {
        code.trim()
            .parse::<u16>()
            .ok()
            .filter(|code| (100..=599).contains(code))
            .ok_or_else(|| format!("{code:?} is no status code from 100 to 599"))
    };
    let range = |part: &str| match part.split_once("..=") {
        Some((from, to)) => match (code(from)?, code(to)?) {
            (from, to) if from <= to => Ok((from, to)),
            (from, to) => Err(format!("{from}..={to} has no status code")),
        },
        None => code(part).map(|code| (code, code)),
    };
    text.split(',')
        .map(range)
        .collect::<Result<_, String>>()
        .map(Statuses)
}

impl Statuses {
    pub(crate) fn contains(&self, code: u16) -> bool {
        self.0
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&code))
    }
}

/// `429,503,timeout,connect`.
pub(crate) fn retry_on(text: &str) -> Result<RetryOn, String> {
    const KINDS: [&str; 6] = ["timeout", "connect", "reset", "dns", "tls", "protocol"];
    let mut parsed = RetryOn {
        statuses: Vec::new(),
        kinds: Vec::new(),
    };
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        match part.parse::<u16>() {
            Ok(code) if (100..=599).contains(&code) => parsed.statuses.push(code),
            _ if KINDS.contains(&part) => parsed.kinds.push(part.to_owned()),
            _ => {
                return Err(format!(
                    "{part:?} is neither a status code nor one of {}",
                    KINDS.join(", ")
                ));
            }
        }
    }
    Ok(parsed)
}

impl RetryOn {
    pub(crate) fn has_status(&self, code: u16) -> bool {
        self.statuses.contains(&code)
    }

    pub(crate) fn has_kind(&self, kind: &str) -> bool {
        self.kinds.iter().any(|known| known == kind)
    }
}

/// `lat=/results/0/lat`.
pub(crate) fn extract(text: &str) -> Result<Extract, String> {
    let (column, pointer) = text
        .split_once('=')
        .filter(|(column, pointer)| {
            !column.is_empty() && (pointer.is_empty() || pointer.starts_with('/'))
        })
        .ok_or("it must be a column and a JSON pointer, such as lat=/results/0/lat")?;
    Ok(Extract {
        column: column.to_owned(),
        pointer: pointer.to_owned(),
    })
}

/// `name: value`.
pub(crate) fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("a header is a name, a colon and a value, or @FILE with a header a line")?;
    let (name, value) = (name.trim(), value.trim());
    let is_token = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    let is_visible = |byte: u8| byte == b'\t' || (32..127).contains(&byte);
    if !is_token || !value.bytes().all(is_visible) {
        return Err("the name or the value has a character other than visible ASCII".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => Ok(*byte),
        _ => Err("it must be one ASCII character, no quote and no line break".to_owned()),
    }
}

pub(crate) fn count(text: &str) -> Result<usize, String> {
    const MOST: usize = 1_000_000;
    text.parse()
        .ok()
        .filter(|count| (1..=MOST).contains(count))
        .ok_or_else(|| format!("it must be a number from 1 to {MOST}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_rate_needs_a_number_and_a_unit() {
        let rate_of = |count, period| Ok(Rate { count, period });
        assert_eq!(rate("5/s"), rate_of(5, SECOND));
        assert_eq!(rate("1/200ms"), rate_of(1, Duration::from_millis(200)));
        assert_eq!(rate("5/15s"), rate_of(5, SECOND * 15));
        assert_eq!(rate("100/min"), rate_of(100, SECOND * 60));
        assert_eq!(optional_rate("none"), Ok(None));
        let error = rate("5").unwrap_err();
        assert!(error.contains("5/s"), "{error}");
        for wrong in ["0/s", "-1/s", "x/s", "5/", "5/0s", "5/parsec", "/s"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_prints_as_it_is_written() {
        for text in ["5/s", "1/200ms", "5/15s", "100/min", "3/h"] {
            assert_eq!(rate(text).unwrap().to_string(), text);
        }
        assert_eq!(rate("4/s").unwrap().slower(2.0).per_second(), 2.0);
    }

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!(size("10M"), Ok(10 << 20));
        assert_eq!(size("500K"), Ok(500 << 10));
        assert_eq!(size("7"), Ok(7));
        for wrong in ["0", "M", "1T", "-1", "9999999999999999999G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hosts_have_a_rate_and_a_number_at_once_or_one_of_them() {
        let limits = host_limits("API.x.org=20/s,10").unwrap();
        assert_eq!(
            (limits.host.as_str(), limits.workers),
            ("api.x.org", Some(10))
        );
        assert_eq!(limits.rate, Some(HostRate(rate("20/s").ok())));
        assert_eq!(host_limits("x=none,3").unwrap().rate, Some(HostRate(None)));
        assert_eq!(host_limits("x=3").unwrap().rate, None);
        assert_eq!(host_limits("x=1/5s").unwrap().workers, None);
        for wrong in [
            "http://x=3",
            "x/y=3",
            "x",
            "=3",
            "x=",
            "x=0",
            "x=1/0s",
            "x=fast",
        ] {
            assert!(host_limits(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn statuses_are_codes_and_ranges() {
        let accepted = statuses("200..=299,304").unwrap();
        for (code, is_in) in [
            (200, true),
            (299, true),
            (300, false),
            (304, true),
            (404, false),
        ] {
            assert_eq!(accepted.contains(code), is_in, "{code}");
        }
        for wrong in ["", "2xx", "600", "200..299", "300..=200"] {
            assert!(statuses(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_tried_again_are_codes_and_kinds() {
        let parsed = retry_on("429,503,timeout").unwrap();
        assert!(parsed.has_status(429) && !parsed.has_status(500));
        assert!(parsed.has_kind("timeout") && !parsed.has_kind("reset"));
        assert!(retry_on("429,teapot").is_err());
        assert!(!retry_on("").unwrap().has_status(429));
    }

    #[test]
    fn other_values_are_checked() {
        assert_eq!(max_failures("5%"), Ok(MaxFailures::Percent(5.0)));
        assert_eq!(max_failures("20"), Ok(MaxFailures::Count(20)));
        assert!(max_failures("0").is_err() && max_failures("101%").is_err());
        let parsed = backoff("1s..60s").unwrap();
        assert_eq!((parsed.base, parsed.max), (SECOND, SECOND * 60));
        assert!(backoff("60s..1s").is_err() && backoff("1s").is_err());
        assert_eq!(extract("lat=/a/0").unwrap().pointer, "/a/0");
        assert!(extract("lat=a").is_err() && extract("=/a").is_err());
        assert_eq!(header("A-B:  c ").unwrap(), ("A-B".into(), "c".into()));
        assert!(header("A: é").is_err());
        assert!(header("A B: c").is_err() && header("A: c\nd").is_err());
        assert_eq!((delimiter("\\t"), delimiter(";")), (Ok(b'\t'), Ok(b';')));
        assert!(delimiter("").is_err() && delimiter("ab").is_err() && delimiter("\"").is_err());
        assert!(count("0").is_err() && count("1000001").is_err());
        assert_eq!(duration("5m"), Ok(SECOND * 300));
        assert!(duration("0s").is_err() && duration("5").is_err());
    }
}
