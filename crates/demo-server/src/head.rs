//! The head of a request: bytes come in, and what the server needs of them goes out.
use std::borrow::Cow;

/// A longer head is answered by 431.
pub(crate) const MAX_HEAD: usize = 64 * 1024;

/// More headers are answered by 431.
pub(crate) const MAX_HEADERS: usize = 100;

/// How the end of the request's body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
}

/// The head of a request.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// Path and query, also where the request line has a whole URL, as requests to proxies do.
    pub(crate) target: &'a str,
    /// `Host` in lower case without its port.
    pub(crate) host: Option<Cow<'a, str>>,
    pub(crate) framing: Framing,
    /// HTTP/1.1, so that the answer may be chunked.
    pub(crate) is_http_1_1: bool,
    pub(crate) keep_alive: bool,
    pub(crate) expects_continue: bool,
    pub(crate) is_authorized: bool,
    /// The bytes of the head.
    pub(crate) head: &'a [u8],
}

impl<'a> Request<'a> {
    /// Parses a whole head.
    ///
    /// # Errors
    ///
    /// The status to answer with.
    pub(crate) fn parse(head: &'a [u8]) -> Result<Self, u16> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(_)) => {}
            Err(httparse::Error::TooManyHeaders) => return Err(431),
            Ok(httparse::Status::Partial) | Err(_) => return Err(400),
        }
        let (Some(method), Some(target), Some(version)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(400);
        };
        let is_http_1_1 = version == 1;
        let mut request = Self {
            method,
            target: path_and_query(target),
            host: None,
            framing: Framing::Length(0),
            is_http_1_1,
            keep_alive: is_http_1_1,
            expects_continue: false,
            is_authorized: false,
            head,
        };
        for header in parsed.headers.iter() {
            request.apply(header.name, header.value)?;
        }
        Ok(request)
    }

    fn apply(&mut self, name: &str, value: &'a [u8]) -> Result<(), u16> {
        if name.eq_ignore_ascii_case("host") {
            let host = std::str::from_utf8(value).map_err(|_| 400_u16)?;
            self.host = Some(host_without_port(host));
        } else if name.eq_ignore_ascii_case("connection") {
            if has_token(value, "close") {
                self.keep_alive = false;
            } else if has_token(value, "keep-alive") {
                self.keep_alive = true;
            }
        } else if name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok());
            // The length is void where the body is in chunks.
            if self.framing != Framing::Chunked {
                self.framing = Framing::Length(length.ok_or(400_u16)?);
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if !has_token(value, "chunked") {
                return Err(400);
            }
            self.framing = Framing::Chunked;
        } else if name.eq_ignore_ascii_case("expect") {
            self.expects_continue = has_token(value, "100-continue");
        } else if name.eq_ignore_ascii_case("authorization") {
            self.is_authorized = true;
        }
        Ok(())
    }

    /// The path without its query.
    pub(crate) fn path(&self) -> &'a str {
        self.target
            .split_once('?')
            .map_or(self.target, |(path, _)| path)
    }

    /// The decoded value of the first such name in the query.
    pub(crate) fn query(&self, name: &str) -> Option<Cow<'a, str>> {
        let (_, query) = self.target.split_once('?')?;
        url::form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }
}

/// The number of bytes of the head at the start of `buffer`, if all of it is there. The first
/// `seen` bytes are known to hold no end of a head.
pub(crate) fn head_length(buffer: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3);
    let mut at = from;
    while let Some(found) = buffer[at..].iter().position(|byte| *byte == b'\n') {
        at += found + 1;
        match buffer[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

/// `/path?query` of `/path?query` or `http://host/path?query`.
fn path_and_query(target: &str) -> &str {
    let Some((_, rest)) = target.split_once("://") else {
        return target;
    };
    if target.starts_with('/') {
        return target;
    }
    rest.find('/').map_or("/", |slash| &rest[slash..])
}

fn host_without_port(host: &str) -> Cow<'_, str> {
    let host = host.trim();
    let name = if host.starts_with('[') {
        host.find(']').map_or(host, |end| &host[..=end])
    } else {
        host.rsplit_once(':').map_or(host, |(name, _)| name)
    };
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// Whether a list that is separated by commas has the token.
fn has_token(value: &[u8], token: &str) -> bool {
    value
        .split(|byte| *byte == b',')
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_head_is_found_wherever_the_reads_were_cut() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
        ] {
            let bytes = [head.as_bytes(), b"body\r\n\r\n"].concat();
            for cut in 0..head.len() {
                assert_eq!(head_length(&bytes[..cut], 0), None, "{cut} bytes");
                assert_eq!(head_length(&bytes, cut), Some(head.len()), "cut at {cut}");
            }
        }
    }

    #[test]
    fn the_host_loses_its_port_and_its_capitals() {
        for (host, expected) in [
            ("a.example:80", "a.example"),
            ("A.Example", "a.example"),
            ("127.0.0.5:8080", "127.0.0.5"),
            ("[::1]:80", "[::1]"),
        ] {
            assert_eq!(host_without_port(host), expected);
        }
    }

    #[test]
    fn a_target_with_a_whole_url_is_cut_to_its_path() {
        for (target, expected) in [
            ("/a?b=http://c/d", "/a?b=http://c/d"),
            ("http://host:1/a?b", "/a?b"),
            ("http://host", "/"),
            ("*", "*"),
        ] {
            assert_eq!(path_and_query(target), expected);
        }
    }

    #[test]
    fn a_head_says_how_the_connection_and_the_body_go_on() {
        let head =
            b"POST /a?x=1&y=%20z HTTP/1.1\r\nContent-Length: 5\r\nConnection: a, Close\r\n\r\n";
        let request = Request::parse(head).unwrap();
        assert_eq!(request.framing, Framing::Length(5));
        assert!(!request.keep_alive);
        assert_eq!(request.path(), "/a");
        assert_eq!(request.query("y").as_deref(), Some(" z"));
        assert_eq!(request.query("z"), None);
        let head = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n";
        let request = Request::parse(head).unwrap();
        assert_eq!(request.framing, Framing::Chunked);
        assert!(!request.keep_alive && !request.is_http_1_1);
    }

    #[test]
    fn an_unparsable_head_is_answered_by_400() {
        for head in [
            "nonsense\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
            "GET / HTTP/9\r\n\r\n",
        ] {
            assert_eq!(Request::parse(head.as_bytes()).unwrap_err(), 400, "{head}");
        }
    }
}
