//! Where a request goes: the URL of a row, the lane of a URL, and a URL that can be shown.

use brigade::csv::{Column, Header, Row};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::frame::stop::Stop;
use crate::frame::work::Lane;

/// What is encoded of a value in a URL template: all but the unreserved characters of RFC 3986.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// How the URL of a row is made.
#[derive(Debug)]
pub(crate) enum Address {
    Column(Column),
    /// Texts and columns in turn; the last text follows the last column.
    Template(Vec<(String, Column)>, String),
}

impl Address {
    /// Reads a template in which `{column}` stands for a value; `{{` and `}}` are braces.
    pub(crate) fn template(template: &str, header: &Header) -> Result<Self, Stop> {
        let wrong = |problem: String| Stop::Usage(format!("--url-template: {problem}"));
        let (mut parts, mut text) = (Vec::new(), String::new());
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            rest = &rest[at..];
            if rest.starts_with("{{") || rest.starts_with("}}") {
                text.push_str(&rest[..1]);
                rest = &rest[2..];
            } else if let Some((name, after)) =
                rest.strip_prefix('{').and_then(|rest| rest.split_once('}'))
            {
                let column = header
                    .column(name)
                    .map_err(|error| wrong(error.to_string()))?;
                parts.push((std::mem::take(&mut text), column));
                rest = after;
            } else {
                return Err(wrong(
                    "a brace stands alone; {{ and }} are braces".to_owned(),
                ));
            }
        }
        text.push_str(rest);
        Ok(Self::Template(parts, text))
    }

    /// The URL of a row, or what is wrong with it.
    pub(crate) fn url(&self, row: &Row) -> Result<Url, String> {
        match self {
            Self::Column(column) => parse(row.field(*column).trim()),
            Self::Template(parts, last) => {
                let mut text = String::new();
                for (before, column) in parts {
                    text.push_str(before);
                    text.extend(utf8_percent_encode(row.field(*column), VALUE));
                }
                text.push_str(last);
                parse(&text)
            }
        }
    }
}

/// Reads a URL that can be fetched. The messages have no part of it.
pub(crate) fn parse(text: &str) -> Result<Url, String> {
    if text.is_empty() {
        return Err("no URL".to_owned());
    }
    let url = Url::parse(text).map_err(|error| match error {
        url::ParseError::RelativeUrlWithoutBase => {
            "no scheme, such as https:// at its start".to_owned()
        }
        error => error.to_string(),
    })?;
    check(&url)?;
    Ok(url)
}

/// Whether a URL can be fetched.
pub(crate) fn check(url: &Url) -> Result<(), String> {
    if !matches!(url.scheme(), "http" | "https") {
        // Where a scheme is missing, a user name may stand in its place.
        const KNOWN: [&str; 6] = ["ftp", "file", "data", "mailto", "ws", "wss"];
        let known = KNOWN.iter().find(|known| **known == url.scheme());
        let name = known.map_or(String::new(), |known| format!(" {known:?}"));
        return Err(format!("the scheme{name} is neither http nor https"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("no host".to_owned());
    }
    Ok(())
}

/// The lane of a URL: scheme, host and port, in lower case. Rows without one share the empty lane.
pub(crate) fn lane(url: &Url) -> Lane {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}://{host}:{port}", url.scheme()).into()
}

/// How `--host` may name the host of a lane: with its port, or without.
pub(crate) fn names_of(lane: &str) -> [&str; 2] {
    let host = lane.split_once("://").map_or(lane, |(_, host)| host);
    [host, host.rsplit_once(':').map_or(host, |(host, _)| host)]
}

#[cfg(test)]
mod tests {
    use brigade::csv::Reader;

    use super::*;

    fn row(text: &str) -> Row {
        let mut rows = Reader::new()
            .from_reader("in.csv", text.as_bytes())
            .unwrap();
        rows.next().unwrap().unwrap()
    }

    fn of_template(template: &str, text: &str) -> Result<String, String> {
        let row = row(text);
        Address::template(template, row.header())
            .map_err(|stop| stop.to_string())
            .and_then(|address| address.url(&row))
            .map(String::from)
    }

    #[test]
    fn values_in_a_template_are_encoded() {
        let text = "id,name\n7,\"a b/c?d&é{id}\"\n";
        assert_eq!(
            of_template("https://h/x?id={id}&n={name}#{{z}}", text).unwrap(),
            "https://h/x?id=7&n=a%20b%2Fc%3Fd%26%C3%A9%7Bid%7D#{z}"
        );
        let error = of_template("https://h/{nam}", text).unwrap_err();
        assert!(
            error.contains("\"nam\"") && error.contains("\"name\""),
            "{error}"
        );
        assert!(of_template("https://h/{id", text).is_err());
        assert!(of_template("https://h/}", text).is_err());
    }

    #[test]
    fn a_url_needs_a_scheme_and_a_host() {
        for (text, part) in [
            ("", "no URL"),
            ("example.org/x", "no scheme"),
            ("ftp://h/", "\"ftp\""),
            ("https://", "host"),
            ("file:///etc/passwd", "\"file\""),
            ("http://h:99999/", "port"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(parse("HTTP://Example.org").is_ok());
        let error = parse("secret:password@h").unwrap_err();
        assert_eq!(error, "the scheme is neither http nor https");
    }

    #[test]
    fn a_lane_is_scheme_host_and_port() {
        let lane_of = |text| lane(&parse(text).unwrap()).to_string();
        assert_eq!(lane_of("HTTPS://user:pa@H.org/x?y"), "https://h.org:443");
        assert_eq!(lane_of("http://h.org"), "http://h.org:80");
        assert_eq!(lane_of("http://[::1]:8080/"), "http://[::1]:8080");
        assert_eq!(names_of("http://[::1]:8080"), ["[::1]:8080", "[::1]"]);
        assert_eq!(names_of("https://h.org:443"), ["h.org:443", "h.org"]);
    }
}
