//! What must not be seen by another host than the one that it is for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use isahc::http::{HeaderName, HeaderValue};
use url::Url;

/// Whether a header may hold what another host must not see.
pub(super) fn is_credential(name: &HeaderName) -> bool {
    let name = name.as_str();
    ["authorization", "cookie", "proxy-authorization"].contains(&name)
        || ["key", "token", "secret", "auth"]
            .iter()
            .any(|part| name.contains(part))
}

/// The value of `Authorization` for user and password of a URL (RFC 7617).
pub(super) fn basic(url: &Url) -> Option<HeaderValue> {
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    let mut pair = decoded(url.username());
    pair.push(b':');
    pair.extend(decoded(url.password().unwrap_or_default()));
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(&pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_a_url_are_decoded() {
        let url = Url::parse("https://user:pa%2Fss@h/").unwrap();
        // "user:pa/ss"
        assert_eq!(basic(&url).unwrap(), "Basic dXNlcjpwYS9zcw==");
    }

    #[test]
    fn headers_that_may_hold_secrets_are_known_by_their_names() {
        for (name, is_secret) in [
            ("authorization", true),
            ("cookie", true),
            ("x-api-key", true),
            ("private-token", true),
            ("accept", false),
            ("user-agent", false),
        ] {
            assert_eq!(
                is_credential(&HeaderName::from_static(name)),
                is_secret,
                "{name}"
            );
        }
    }
}
