//! One record of the answers file: its cells as bytes, and its text as it stands in the file.

use std::ops::Range;

use super::formula::is_formula;

pub(super) const QUOTE: u8 = b'"';
pub(super) const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// The cells of a record, without quotes, in one allocation that is used again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    bytes: Vec<u8>,
    /// Where each cell ends in `bytes`.
    ends: Vec<usize>,
}

impl Record {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub(super) fn push(&mut self, cell: &[u8]) {
        self.extend(cell);
        self.end_cell();
    }

    /// Adds bytes to the cell that is not ended yet.
    pub(super) fn extend(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }

    pub(super) fn end_cell(&mut self) {
        self.ends.push(self.bytes.len());
    }

    /// The number of cells.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The cell at `index`, or nothing past the last one.
    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

/// How cells become text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    pub(super) delimiter: u8,
    /// Whether a `'` is put before a cell that a spreadsheet would take for a formula.
    pub(super) spreadsheet: bool,
}

/// Appends a record and its line end to `text`. Returns the number of cells.
///
/// A cell is quoted if it holds the delimiter, a quote or a line break, or starts with a byte
/// order mark, which a reader would strip from the start of a file.
pub(super) fn encode(
    text: &mut Vec<u8>,
    format: Format,
    cells: impl Iterator<Item = impl AsRef<[u8]>>,
) -> usize {
    let start = text.len();
    let mut count = 0;
    for cell in cells {
        if count > 0 {
            text.push(format.delimiter);
        }
        encode_cell(text, format, cell.as_ref());
        count += 1;
    }
    // A record of one empty cell would be a blank line, which is no record.
    if count == 1 && text.len() == start {
        text.extend_from_slice(b"\"\"");
    }
    text.push(b'\n');
    count
}

fn encode_cell(text: &mut Vec<u8>, format: Format, cell: &[u8]) {
    let is_special =
        |byte: &u8| matches!(*byte, QUOTE | b'\r' | b'\n') || *byte == format.delimiter;
    let is_quoted = cell.iter().any(is_special) || cell.starts_with(UTF8_MARK);
    if is_quoted {
        text.push(QUOTE);
    }
    if format.spreadsheet && is_formula(cell) {
        text.push(b'\'');
    }
    if !is_quoted {
        text.extend_from_slice(cell);
        return;
    }
    for part in cell.split_inclusive(|byte| *byte == QUOTE) {
        text.extend_from_slice(part);
        if part.ends_with(&[QUOTE]) {
            text.push(QUOTE);
        }
    }
    text.push(QUOTE);
}

/// What `decode` found at the start of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// A record of `len` bytes, its line end included, with `breaks` line breaks.
    Whole { len: usize, breaks: u64 },
    /// The text ends before the record does. The record is torn if no more bytes follow.
    Partial,
    /// No record as `encode` or another strict writer makes it. The line break count says how many
    /// lines into the record the fault is.
    Malformed { reason: &'static str, breaks: u64 },
}

/// Reads the record at the start of `text` into `record`.
///
/// The grammar is that of RFC 4180, with `\n` or `\r\n` as the line end. It is strict, unlike that
/// of most readers: a text that breaks it was not written by `encode`, and where its records end
/// would be a guess. Every prefix of a record without its line end is `Partial`.
pub(super) fn decode(text: &[u8], delimiter: u8, record: &mut Record) -> Decoded {
    record.clear();
    let mut at = 0;
    let mut breaks = 0;
    loop {
        let after = match text.get(at) {
            None => return Decoded::Partial,
            Some(&QUOTE) => match decode_quoted(text, at + 1, record) {
                None => return Decoded::Partial,
                Some(inside) => {
                    breaks += count_breaks(&text[inside.clone()]);
                    inside.end + 1
                }
            },
            Some(_) => match decode_plain(text, at, delimiter, record) {
                None => return Decoded::Partial,
                Some(end) => end,
            },
        };
        record.end_cell();
        let malformed = |reason| Decoded::Malformed { reason, breaks };
        let line_end = match text.get(after) {
            Some(&byte) if byte == delimiter => {
                at = after + 1;
                continue;
            }
            Some(b'\n') => after,
            Some(b'\r') => match text.get(after + 1) {
                Some(b'\n') => after + 1,
                Some(_) => return malformed("a carriage return stands outside of quotes"),
                None => return Decoded::Partial,
            },
            None => return Decoded::Partial,
            Some(&QUOTE) => return malformed("a quote stands inside a cell without quotes"),
            // A file system may leave zeros in place of bytes that it lost.
            Some(0) if text[after..].iter().all(|byte| *byte == 0) => return Decoded::Partial,
            Some(_) => return malformed("text follows a closing quote"),
        };
        return Decoded::Whole {
            len: line_end + 1,
            breaks: breaks + 1,
        };
    }
}

/// Reads a cell whose opening quote is before `start`. Returns where its text lies, which is
/// followed by the closing quote, or nothing if that is missing.
fn decode_quoted(text: &[u8], start: usize, record: &mut Record) -> Option<Range<usize>> {
    let mut at = start;
    loop {
        let quote = at + text[at..].iter().position(|byte| *byte == QUOTE)?;
        match text.get(quote + 1) {
            // The first of two quotes is the text.
            Some(&QUOTE) => {
                record.extend(&text[at..=quote]);
                at = quote + 2;
            }
            _ => {
                record.extend(&text[at..quote]);
                return Some(start..quote);
            }
        }
    }
}

/// Reads a cell without quotes. Returns its end, or nothing if the text ends first.
fn decode_plain(text: &[u8], start: usize, delimiter: u8, record: &mut Record) -> Option<usize> {
    let is_end = |byte: &u8| matches!(*byte, QUOTE | b'\r' | b'\n') || *byte == delimiter;
    let end = start + text[start..].iter().position(is_end)?;
    record.extend(&text[start..end]);
    Some(end)
}

fn count_breaks(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::{Decoded, Format, Record, decode, encode};

    const RAW: Format = Format {
        delimiter: b',',
        spreadsheet: false,
    };

    fn encoded(cells: &[&str]) -> Vec<u8> {
        let mut text = Vec::new();
        encode(&mut text, RAW, cells.iter());
        text
    }

    fn record(cells: &[&str]) -> Record {
        let mut record = Record::default();
        for cell in cells {
            record.push(cell.as_bytes());
        }
        record
    }

    #[test]
    fn cells_are_quoted_only_where_a_reader_needs_it() {
        assert_eq!(
            encoded(&[
                "a",
                "",
                "b c",
                "d,e",
                "f\"g",
                "h\ni",
                "j\rk",
                "\u{feff}l",
                "'"
            ]),
            "a,,b c,\"d,e\",\"f\"\"g\",\"h\ni\",\"j\rk\",\"\u{feff}l\",'\n".as_bytes(),
        );
        assert_eq!(encoded(&[""]), b"\"\"\n");
    }

    #[test]
    fn formulas_are_prefixed_for_spreadsheets_only() {
        let format = Format {
            spreadsheet: true,
            ..RAW
        };
        let cells = ["=1", "=\"a\",1", "-5", "a"];
        let mut text = Vec::new();
        encode(&mut text, format, cells.iter());
        assert_eq!(text, b"'=1,\"'=\"\"a\"\",1\",-5,a\n");
        assert_eq!(encoded(&["=1"]), b"=1\n");
    }

    #[test]
    fn what_was_encoded_is_decoded_alike_by_this_module_and_by_csv() {
        let all = [
            "", "a", "\"", "\"\"", "\r\n", "\n", "\r", ",", "a\"b", "\"x\"", "é", "\0",
        ];
        for first in all {
            for second in all {
                let cells = [first, second];
                let text = encoded(&cells);
                let mut decoded = Record::default();
                let Decoded::Whole { len, breaks } = decode(&text, b',', &mut decoded) else {
                    panic!("{cells:?} is not whole");
                };
                assert_eq!(len, text.len());
                let lines = text.iter().filter(|byte| **byte == b'\n').count();
                assert_eq!(breaks, lines as u64, "{cells:?}");
                assert_eq!(decoded, record(&cells));

                let mut reader = csv::ReaderBuilder::new()
                    .has_headers(false)
                    .from_reader(&text[..]);
                let rows: Vec<csv::StringRecord> =
                    reader.records().collect::<Result<_, _>>().expect("valid");
                assert_eq!(rows, [csv::StringRecord::from(cells.to_vec())]);
            }
        }
    }

    #[test]
    fn every_prefix_of_a_record_is_partial() {
        let text = b"a,\"b\"\"c\r\n\",,\"\",d\r\n";
        for len in 0..text.len() {
            assert_eq!(
                decode(&text[..len], b',', &mut Record::default()),
                Decoded::Partial,
                "{len}",
            );
        }
        let mut decoded = Record::default();
        assert_eq!(
            decode(text, b',', &mut decoded),
            Decoded::Whole {
                len: text.len(),
                breaks: 2
            },
        );
        assert_eq!(decoded, record(&["a", "b\"c\r\n", "", "", "d"]));
    }

    #[test]
    fn text_that_no_strict_writer_makes_is_malformed() {
        let cases: [(&[u8], &str, u64); 4] = [
            (b"a\"b\n", "a quote stands inside a cell without quotes", 0),
            (b"\"a\nb\"c\n", "text follows a closing quote", 1),
            (b"a\rb\n", "a carriage return stands outside of quotes", 0),
            (b"\"a\"\0b\n", "text follows a closing quote", 0),
        ];
        for (text, reason, breaks) in cases {
            assert_eq!(
                decode(text, b',', &mut Record::default()),
                Decoded::Malformed { reason, breaks },
            );
        }
    }

    #[test]
    fn zeros_in_place_of_the_rest_are_a_torn_record() {
        for text in [&b"a,b\0\0\0"[..], b"a,\"b\"\0\0\0", b"\0\0"] {
            let decoded = decode(text, b',', &mut Record::default());
            assert_eq!(decoded, Decoded::Partial);
        }
    }
}
