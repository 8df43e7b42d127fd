//! Numbers, times and cells as a reader of the page sees them.

use std::time::{Duration, UNIX_EPOCH};

/// The bytes that a cell may take in the page, with escapes.
const MAX_CELL: usize = 240;

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `number` with `decimals` digits after the point, and commas before it.
pub(crate) fn decimal(number: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", number.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let sign = if number < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        "−"
    } else {
        ""
    };
    let whole = count(whole.parse().unwrap_or(0));
    if fraction.is_empty() {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{fraction}")
    }
}

/// A rate or an average with about three digits.
pub(crate) fn about(number: f64) -> String {
    let decimals = match number.abs() {
        n if n >= 100.0 || n == 0.0 => 0,
        n if n >= 10.0 => 1,
        _ => 2,
    };
    decimal(number, decimals)
}

/// The share of `part` in `whole` in percent: never 100 % or 0 % unless it is so.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    let share = part as f64 / whole as f64 * 100.0;
    match part {
        0 => "0 %".to_owned(),
        _ if part == whole => "100 %".to_owned(),
        _ if share < 0.1 => "< 0.1 %".to_owned(),
        _ if share > 99.9 => "> 99.9 %".to_owned(),
        _ => format!("{share:.1} %"),
    }
}

/// `part`, and what it counts in the singular or plural.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A duration in the two largest units that it has, on one line.
pub(crate) fn duration(ms: u64) -> String {
    unbroken(&duration_words(ms))
}

fn duration_words(ms: u64) -> String {
    let seconds = (ms + 500) / 1_000;
    match ms {
        0 => "0 s".to_owned(),
        1..1_000 => format!("{ms} ms"),
        1_000..59_950 => {
            let seconds = format!("{:.1}", ms as f64 / 1_000.0);
            format!("{} s", seconds.strip_suffix(".0").unwrap_or(&seconds))
        }
        _ if seconds < 3_600 => two_units(seconds, 60, "min", "s"),
        _ if seconds < 86_400 => two_units(seconds / 60, 60, "h", "min"),
        _ => two_units(seconds / 3_600, 24, "d", "h"),
    }
}

/// `text` with spaces at which no line ends.
fn unbroken(text: &str) -> String {
    text.replace(' ', "\u{a0}")
}

fn two_units(number: u64, per_unit: u64, large: &str, small: &str) -> String {
    match (number / per_unit, number % per_unit) {
        (whole, 0) => format!("{whole} {large}"),
        (whole, rest) => format!("{whole} {large} {rest} {small}"),
    }
}

/// The distance between two times.
pub(crate) fn between(from: i64, to: i64) -> String {
    duration(u64::try_from(to.saturating_sub(from)).unwrap_or(0))
}

/// Bytes in decimal units.
pub(crate) fn bytes(number: u64) -> String {
    let units = [
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
        (1_000, "kB"),
    ];
    let text = match units.into_iter().find(|(unit, _)| number >= *unit) {
        Some((unit, name)) if number >= 100 * unit => format!("{} {name}", count(number / unit)),
        Some((unit, name)) => format!("{:.1} {name}", number as f64 / unit as f64),
        None => format!("{number} B"),
    };
    unbroken(&text)
}

/// A time of day with its date, in UTC, to the second.
pub(crate) fn time(ms: i64) -> String {
    match u64::try_from(ms) {
        Ok(ms) if ms < 253_402_300_800_000 => {
            let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms));
            time.to_string().replace('T', " ").replace('Z', " UTC")
        }
        _ => "an unknown time".to_owned(),
    }
}

/// A cell as text that can neither change the page's structure nor its layout: control characters
/// are shown as signs, and a long text is cut.
pub(crate) fn cell(text: &str) -> String {
    let mut shown = String::new();
    let mut size = 0;
    for c in text.chars() {
        let c = visible(c);
        size += match c {
            '&' | '<' | '>' | '"' => 6,
            c => c.len_utf8(),
        };
        if size > MAX_CELL {
            shown.push('…');
            break;
        }
        shown.push(c);
    }
    shown
}

/// [`cell`] of bytes that need not be UTF-8.
pub(crate) fn cell_bytes(bytes: &[u8]) -> String {
    // A character takes at most four bytes.
    let start = &bytes[..bytes.len().min(4 * MAX_CELL)];
    cell(&String::from_utf8_lossy(start))
}

fn visible(c: char) -> char {
    match c {
        '\n' | '\r' | '\t' => ' ',
        '\0'..='\u{1f}' => {
            char::from_u32(0x2400 + u32::from(c)).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
        '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        for (number, shown) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(count(number), shown);
        }
        assert_eq!(decimal(1234.56, 1), "1,234.6");
        assert_eq!(decimal(-0.01, 1), "0.0");
        assert_eq!(
            (about(0.0), about(0.256), about(12.34), about(1234.5)),
            ("0".into(), "0.26".into(), "12.3".into(), "1,234".into())
        );
    }

    #[test]
    fn a_share_is_rounded_to_all_or_nothing_only_if_it_is() {
        assert_eq!(percent(0, 10), "0 %");
        assert_eq!(percent(1, 1_000_000), "< 0.1 %");
        assert_eq!(percent(999_999, 1_000_000), "> 99.9 %");
        assert_eq!(percent(10, 10), "100 %");
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(0, 0), "–");
    }

    #[test]
    fn durations_have_two_units() {
        for (ms, shown) in [
            (0, "0 s"),
            (999, "999 ms"),
            (3_000, "3 s"),
            (1_500, "1.5 s"),
            (59_960, "1 min"),
            (61_000, "1 min 1 s"),
            (10_020_000, "2 h 47 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(ms).replace('\u{a0}', " "), shown, "{ms}");
        }
    }

    #[test]
    fn times_and_sizes_name_their_unit() {
        assert_eq!(time(1_767_323_045_678), "2026-01-02 03:04:05 UTC");
        assert_eq!(time(-1), "an unknown time");
        assert_eq!(bytes(999), "999\u{a0}B");
        assert_eq!(bytes(1_234_000), "1.2\u{a0}MB");
        assert_eq!(bytes(389_800_000), "389\u{a0}MB");
    }

    #[test]
    fn cells_are_short_and_hold_no_control_characters() {
        assert_eq!(cell("a\0b\u{1b}[1m\u{85}\n"), "a␀b␛[1m\u{fffd} ");
        assert_eq!(cell(&"x".repeat(10_000)), format!("{}…", "x".repeat(240)));
        assert_eq!(cell(&"<".repeat(10_000)).chars().count(), 41);
        assert_eq!(cell_bytes(&[b'a', 0xff, b'b']), "a\u{fffd}b");
    }
}
