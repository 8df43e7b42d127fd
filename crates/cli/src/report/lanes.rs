//! Lanes and redaction: URLs come in, and what may be shown of them comes out, which is scheme,
//! host, port and path.

use std::borrow::Cow;
use std::collections::HashMap;

use url::Url;

/// What stands for a URL that cannot be parsed.
pub(crate) const UNPARSABLE: &str = "<unparsable URL>";
/// The name of the lane of rows without a URL.
pub(crate) const NO_URL: &str = "(no URL)";
/// What stands for a word that may hold credentials.
const REDACTED: &str = "<redacted>";
/// Prefixes that are remembered. Credentials could make one for each row.
const MAX_PREFIXES: usize = 100_000;

/// The number of a lane in [`Lanes`].
pub(crate) type LaneId = u32;

/// The lanes of a file: scheme, host and port in lower case. Lane 0 holds rows without a URL.
#[derive(Debug)]
pub(crate) struct Lanes {
    names: Vec<String>,
    ids: HashMap<String, LaneId>,
    /// What stands before the path, as it is in the file: most URLs are not parsed.
    prefixes: HashMap<Vec<u8>, LaneId>,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        let mut lanes = Self {
            names: Vec::new(),
            ids: HashMap::new(),
            prefixes: HashMap::new(),
        };
        lanes.intern(NO_URL);
        lanes
    }

    /// The lane of `url`, which is a new one at first.
    pub(crate) fn lane_of(&mut self, url: &[u8]) -> LaneId {
        let prefix = prefix_of(url);
        if let Some(id) = self.prefixes.get(prefix) {
            return *id;
        }
        let id = self.intern(&lane_name(url));
        if self.prefixes.len() >= MAX_PREFIXES {
            self.prefixes.clear();
        }
        self.prefixes.insert(prefix.to_vec(), id);
        id
    }

    /// The lane of that name, if a row was in it.
    pub(crate) fn get(&self, name: &str) -> Option<LaneId> {
        self.ids.get(name).copied()
    }

    pub(crate) fn name(&self, id: LaneId) -> &str {
        &self.names[id as usize]
    }

    /// The number of lanes, with lane 0.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    fn intern(&mut self, name: &str) -> LaneId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = LaneId::try_from(self.names.len()).expect("fewer hosts than 2^32 fit in memory");
        self.names.push(name.to_owned());
        self.ids.insert(name.to_owned(), id);
        id
    }
}

/// Scheme, host and port of `url`, in lower case and without the scheme's own port.
pub(crate) fn lane_name(url: &[u8]) -> String {
    if url.is_empty() {
        return NO_URL.to_owned();
    }
    match parse(url) {
        Some(url) if url.has_host() => origin(&url),
        _ => UNPARSABLE.to_owned(),
    }
}

/// Scheme, host, port and path of `url`.
pub(crate) fn redact(url: &[u8]) -> String {
    if url.is_empty() {
        return NO_URL.to_owned();
    }
    match parse(url) {
        Some(url) if url.has_host() => format!("{}{}", origin(&url), url.path()),
        _ => UNPARSABLE.to_owned(),
    }
}

/// `text` with each URL in it redacted, and each word that may hold credentials or a query taken
/// out.
pub(crate) fn redact_text(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    for piece in text.split_inclusive(is_separator) {
        let word = piece.trim_end_matches(is_separator);
        redacted.push_str(&redact_word(word));
        redacted.push_str(&piece[word.len()..]);
    }
    redacted
}

/// Quotes and brackets end a URL in a sentence. White space does, too.
fn is_separator(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '`' | '<' | '>' | '(' | ')')
}

fn redact_word(word: &str) -> Cow<'_, str> {
    if let Some(at) = word.find("://") {
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let start = word[..at].trim_end_matches(is_scheme).len();
        // A full stop or a comma belongs to the sentence, and a path shows no harm without it.
        let url = word[start..].trim_end_matches([',', '.', ';', ':']);
        let before = redact_word(&word[..start]);
        let after = &word[start + url.len()..];
        return Cow::Owned(format!("{before}{}{after}", redact(url.as_bytes())));
    }
    let has_query = word.find('?').is_some_and(|at| at + 1 < word.len());
    if word.contains('@') || has_query {
        Cow::Borrowed(REDACTED)
    } else {
        Cow::Borrowed(word)
    }
}

fn parse(url: &[u8]) -> Option<Url> {
    Url::parse(std::str::from_utf8(url).ok()?).ok()
}

fn origin(url: &Url) -> String {
    let host = url.host_str().unwrap_or("").to_ascii_lowercase();
    match url.port() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

/// The bytes before the path, query or fragment. Two URLs with the same prefix share a lane.
fn prefix_of(url: &[u8]) -> &[u8] {
    let Some(scheme) = url.windows(3).position(|window| window == b"://") else {
        return url;
    };
    let authority = &url[scheme + 3..];
    let is_end = |byte: &u8| matches!(byte, b'/' | b'?' | b'#' | b'\\');
    let end = authority.iter().position(is_end).unwrap_or(authority.len());
    &url[..scheme + 3 + end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scheme_host_port_and_path_are_shown() {
        for (url, shown) in [
            (
                "HTTPS://user:secret@Example.ORG:443/a/b?token=t#f",
                "https://example.org/a/b",
            ),
            ("http://h:8080?token=t", "http://h:8080/"),
            ("https://user:pa/ss@host/x?token=t", UNPARSABLE),
            ("javascript:alert(1)", UNPARSABLE),
            ("http://[::1]:99/x", "http://[::1]:99/x"),
            ("", NO_URL),
        ] {
            assert_eq!(redact(url.as_bytes()), shown, "{url}");
        }
        assert_eq!(redact(b"http://h/\xff"), UNPARSABLE);
    }

    #[test]
    fn urls_inside_a_sentence_are_redacted() {
        for (text, shown) in [
            (
                "connect to http://u:p@h:1/x?k=v: refused",
                "connect to http://h:1/x: refused",
            ),
            (
                "Location \"/login?token=abc\" again",
                "Location \"<redacted>\" again",
            ),
            ("bad port in 'user:pa/ss@host'", "bad port in '<redacted>'"),
            ("url=https://h/?a=b,https://h/?c=d", "url=https://h/"),
            ("what? nothing", "what? nothing"),
            ("404 Not Found", "404 Not Found"),
            ("a@b http://x/", "<redacted> http://x/"),
        ] {
            assert_eq!(redact_text(text), shown);
        }
    }

    #[test]
    fn a_lane_is_scheme_host_and_port() {
        let mut lanes = Lanes::new();
        let first = lanes.lane_of(b"http://h:80/a");
        assert_eq!(lanes.lane_of(b"HTTP://user@H/b?c"), first);
        assert_eq!(lanes.name(first), "http://h");
        assert_ne!(lanes.lane_of(b"https://h/a"), first);
        assert_ne!(lanes.lane_of(b"http://h:81/a"), first);
        assert_eq!(lanes.lane_of(b""), 0);
        assert_eq!(
            lanes.get("https://h"),
            Some(lanes.lane_of(b"https://h/other"))
        );
        assert_eq!(lanes.len(), 4);
    }
}
