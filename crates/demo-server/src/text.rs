//! Texts of answers: strings of JSON, text inside of HTML.
use std::fmt::Write as _;

/// Appends a string of JSON, with its quotes.
pub(crate) fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if (control as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", control as u32);
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// Appends a number, a literal, or else a string of JSON.
pub(crate) fn push_json_value(out: &mut String, text: &str) {
    if is_json_number(text) || matches!(text, "true" | "false" | "null") {
        out.push_str(text);
    } else {
        push_json_string(out, text);
    }
}

fn is_json_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && digits(fraction)
        && digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))
}

/// Appends text that HTML shows as it is.
pub(crate) fn push_html(out: &mut String, text: &str) {
    if !text.contains(['<', '>', '&', '"', '\'']) {
        return out.push_str(text);
    }
    for char in text.chars() {
        match char {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_json_takes_as_a_number_is_left_bare() {
        for number in ["0", "-1", "52.5", "1e5", "1.5E-3", "10"] {
            assert!(is_json_number(number), "{number}");
        }
        for text in ["", "-", "01", "1.", ".5", "1e", "0x1", "NaN", "1 ", "+1"] {
            assert!(!is_json_number(text), "{text}");
        }
    }

    #[test]
    fn strings_of_json_are_escaped() {
        let mut out = String::new();
        push_json_value(&mut out, "a\"\\\n\u{1}ü");
        assert_eq!(out, "\"a\\\"\\\\\\n\\u0001ü\"");
    }
}
