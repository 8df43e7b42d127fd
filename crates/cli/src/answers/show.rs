//! Cells in messages: bounded, on one line, without the secrets of a URL.

use url::Url;

/// The characters of a cell that a message shows.
const SHOWN: usize = 120;

/// A cell as a message shows it: in quotes, control characters escaped, at most 120 characters.
/// Of a URL, only scheme, host, port and path are shown.
pub(super) fn show(cell: &[u8]) -> String {
    let text = String::from_utf8_lossy(cell);
    if let Some(public) = public_part(&text) {
        return quote(&public);
    }
    if text.contains("://") || has_user_info(&text) {
        return "<unparsable URL>".to_owned();
    }
    quote(without_query(&text))
}

/// The part of a URL that is no secret, or nothing if `text` is no URL with a host.
fn public_part(text: &str) -> Option<String> {
    let url = Url::parse(text.trim()).ok()?;
    let host = url.host_str()?;
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    Some(format!("{}://{host}{port}{}", url.scheme(), url.path()))
}

/// Whether `text` may be a URL without a scheme that holds a password, `user:secret@host`.
fn has_user_info(text: &str) -> bool {
    let colon = text.find(':');
    let at = text.rfind('@');
    is_one_word(text) && matches!((colon, at), (Some(colon), Some(at)) if colon < at)
}

/// What is before the query, if `text` may be a URL without a scheme that has one.
fn without_query(text: &str) -> &str {
    match text.split_once('?') {
        Some((before, query)) if is_one_word(text) && query.contains('=') => before,
        _ => text,
    }
}

fn is_one_word(text: &str) -> bool {
    !text.trim().contains(char::is_whitespace)
}

fn quote(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::show;

    #[test]
    fn a_cell_is_shown_in_quotes_on_one_line() {
        assert_eq!(show(b"a b"), r#""a b""#);
        assert_eq!(show(b"a\n\x1b[2J\""), r#""a\n\u{1b}[2J\"""#);
        assert_eq!(show(b"at 9:30? a=b, a@b.c"), r#""at 9:30? a=b, a@b.c""#);
        assert_eq!(show(b"\xff"), "\"\u{fffd}\"");
        assert_eq!(show(&[b'x'; 200]).chars().count(), 123);
    }

    #[test]
    fn no_secret_of_a_url_is_shown() {
        let shown = r#""https://example.org:8443/x""#;
        assert_eq!(show(b"https://u:pw@example.org:8443/x?token=t#f"), shown);
        assert_eq!(show(b" https://example.org:8443/x?token=t"), shown);
        assert_eq!(show(b"example.org:80/x?token=t"), r#""example.org:80/x""#);
        for hidden in [
            "https://user:pa/ss@host/x?token=t",
            "user:pa/ss@host",
            "see https://h/?token=t",
        ] {
            assert_eq!(show(hidden.as_bytes()), "<unparsable URL>", "{hidden}");
        }
    }
}
