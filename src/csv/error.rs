//! How reading can fail: a file that cannot be used, and a row that can be skipped.
//!
//! A [`CsvError`] is about the file: nothing more comes out of it. A [`BadRow`] is about one
//! record, keeps that record as it was read, and the next row follows. [`RowError`] is either.
//! Messages start with `FILE:LINE: `, as compilers write them, so that an editor can jump there.
//! They name columns and counts; the text of a field appears only where the type that it was meant
//! for quotes it in its own message.

use std::{error::Error, fmt, io, sync::Arc};

use ::csv::{ByteRecord, DeserializeError, Utf8Error};

/// A file cannot be used, or not to its end.
///
/// `Display` writes `FILE:LINE: message`, without the line where none is known.
///
/// # Examples
///
/// ```
/// use brigade::csv::Reader;
///
/// let error = Reader::new().from_reader("people.csv", &b"id,name,id\n"[..]).unwrap_err();
/// assert!(error.is_duplicate_column());
/// assert_eq!(error.to_string(), r#"people.csv:1: duplicate column "id": columns 1 and 3"#);
///
/// let error = Reader::new().open("/no/such/people.csv").unwrap_err();
/// assert!(error.is_cannot_open());
/// assert!(error.to_string().starts_with("/no/such/people.csv: cannot open: "));
/// ```
#[derive(Debug)]
pub struct CsvError {
    file: Arc<str>,
    line: Option<u64>,
    kind: CsvErrorKind,
}

/// What is wrong with a file.
#[derive(Debug)]
#[non_exhaustive]
pub enum CsvErrorKind {
    /// The file cannot be opened, or is a directory.
    CannotOpen(io::Error),
    /// Reading failed. The line is the one that was reached.
    CannotRead(io::Error),
    /// The file starts with the byte order mark of UTF-16. Only UTF-8 can be read.
    Utf16,
    /// The file is empty or has nothing but blank lines.
    NoHeader,
    /// The header is not UTF-8.
    UndecodableHeader {
        /// The number of the column whose name it is, counted from 1.
        column: usize,
        /// The error of the decoder.
        source: Utf8Error,
    },
    /// Two columns of the header have the same name.
    DuplicateColumn {
        /// The name that appears twice.
        name: String,
        /// The numbers of both columns, counted from 1.
        columns: (usize, usize),
    },
    /// The header lacks a column that was asked for.
    MissingColumn {
        /// The name that was asked for.
        name: String,
        /// How many columns there are.
        columns: usize,
        /// The names of the first ten columns, each cut after 40 characters.
        first: Vec<String>,
    },
    /// A quoted field has no end. The line is that of its opening quote.
    UnclosedQuote,
    /// A record has more bytes than [`Reader::max_record_bytes`](super::Reader::max_record_bytes)
    /// allows. The line is the one on which it starts.
    RecordTooLong {
        /// The limit, in bytes.
        limit: usize,
        /// The line of the quote that is still open where the limit is passed. It may well be the
        /// mistake.
        open_quote: Option<u64>,
    },
}

impl CsvError {
    pub(super) fn new(file: &Arc<str>, line: Option<u64>, kind: CsvErrorKind) -> Self {
        Self {
            file: Arc::clone(file),
            line,
            kind,
        }
    }

    /// The name of the file, as it was given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The line, counted from 1, where one is known.
    pub fn line(&self) -> Option<u64> {
        self.line
    }

    /// What is wrong.
    pub fn kind(&self) -> &CsvErrorKind {
        &self.kind
    }

    /// Whether the file cannot be opened.
    pub fn is_cannot_open(&self) -> bool {
        matches!(self.kind, CsvErrorKind::CannotOpen(_))
    }

    /// Whether reading failed.
    pub fn is_cannot_read(&self) -> bool {
        matches!(self.kind, CsvErrorKind::CannotRead(_))
    }

    /// Whether the file is UTF-16.
    pub fn is_utf16(&self) -> bool {
        matches!(self.kind, CsvErrorKind::Utf16)
    }

    /// Whether the file has no header.
    pub fn is_no_header(&self) -> bool {
        matches!(self.kind, CsvErrorKind::NoHeader)
    }

    /// Whether the header is not UTF-8.
    pub fn is_undecodable_header(&self) -> bool {
        matches!(self.kind, CsvErrorKind::UndecodableHeader { .. })
    }

    /// Whether two columns have the same name.
    pub fn is_duplicate_column(&self) -> bool {
        matches!(self.kind, CsvErrorKind::DuplicateColumn { .. })
    }

    /// Whether a column that was asked for is not there.
    pub fn is_missing_column(&self) -> bool {
        matches!(self.kind, CsvErrorKind::MissingColumn { .. })
    }

    /// Whether a quoted field has no end.
    pub fn is_unclosed_quote(&self) -> bool {
        matches!(self.kind, CsvErrorKind::UnclosedQuote)
    }

    /// Whether a record has too many bytes.
    pub fn is_record_too_long(&self) -> bool {
        matches!(self.kind, CsvErrorKind::RecordTooLong { .. })
    }
}

impl fmt::Display for CsvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        match &self.kind {
            CsvErrorKind::CannotOpen(error) => write!(f, "cannot open: {error}"),
            CsvErrorKind::CannotRead(error) => write!(f, "cannot read: {error}"),
            CsvErrorKind::Utf16 => f.write_str("the file is UTF-16, convert it to UTF-8"),
            CsvErrorKind::NoHeader => f.write_str("no header, the file is empty"),
            CsvErrorKind::UndecodableHeader { column, .. } => {
                write!(f, "invalid UTF-8 in the header, column {column}")
            }
            CsvErrorKind::DuplicateColumn {
                name,
                columns: (one, other),
            } => {
                write!(f, "duplicate column {name:?}: columns {one} and {other}")
            }
            CsvErrorKind::MissingColumn {
                name,
                columns,
                first,
            } => {
                let more = if first.len() < *columns { ", …" } else { "" };
                let present = first
                    .iter()
                    .map(|name| format!("{name:?}"))
                    .collect::<Vec<_>>()
                    .join(", ");
                write!(
                    f,
                    "no column {name:?}: the header has {} ({present}{more})",
                    counted(*columns, "column")
                )
            }
            // The line in front may be read as that of the record, so it is said again.
            CsvErrorKind::UnclosedQuote => match self.line {
                Some(line) => write!(f, "unclosed quote opened at line {line}"),
                None => f.write_str("unclosed quote"),
            },
            CsvErrorKind::RecordTooLong { limit, open_quote } => {
                write!(f, "record has more than {}", counted(*limit, "byte"))?;
                match open_quote {
                    Some(line) => write!(f, ", and a quote opened at line {line} is not closed"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl Error for CsvError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            CsvErrorKind::CannotOpen(error) | CsvErrorKind::CannotRead(error) => Some(error),
            CsvErrorKind::UndecodableHeader { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// One row is of no use; the next one is not touched by it.
///
/// Keeps the record as it was read, for a file of rejected rows. `Display` writes `FILE:LINE:
/// message`.
///
/// # Examples
///
/// ```
/// use brigade::csv::{Reader, RowError};
///
/// let mut rows = Reader::new().from_reader("ages.csv", &b"name,age\nAda\n"[..])?;
/// let Some(Err(RowError::Bad(bad))) = rows.next() else { panic!("a row of one field is bad") };
/// assert!(bad.is_ragged());
/// assert_eq!(bad.record(), &["Ada"][..]);
/// assert_eq!(bad.to_string(), "ages.csv:2: expected 2 fields, found 1");
/// # Ok::<(), brigade::csv::CsvError>(())
/// ```
#[derive(Clone, Debug)]
pub struct BadRow {
    pub(super) file: Arc<str>,
    pub(super) line: u64,
    pub(super) number: u64,
    pub(super) record: ByteRecord,
    pub(super) kind: BadRowKind,
}

/// What is wrong with a row. `Display` writes it without file and line.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BadRowKind {
    /// The row has fewer or more fields than the header.
    Ragged {
        /// How many columns the header has.
        expected: usize,
        /// How many fields the row has.
        found: usize,
    },
    /// A field is not UTF-8.
    Undecodable {
        /// The number of the field, counted from 1.
        field: usize,
        /// The name of its column.
        column: String,
        /// The error of the decoder.
        source: Utf8Error,
    },
    /// A row is not of the type that [`Row::deserialize`](super::Row::deserialize) was asked for.
    Mistyped {
        /// The number, counted from 1, and the column of the field, where the type tells.
        field: Option<(usize, String)>,
        /// The error of the type. Its message may quote the field.
        source: DeserializeError,
    },
}

impl BadRow {
    /// The name of the file, as it was given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The line on which the record starts, counted from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Which record of the file it is, counted from 1 after the header, bad ones included.
    pub fn record_number(&self) -> u64 {
        self.number
    }

    /// The record as it was read: no field trimmed, decoded or dropped. It has no position;
    /// [`line`](Self::line) has.
    pub fn record(&self) -> &ByteRecord {
        &self.record
    }

    /// What is wrong.
    pub fn kind(&self) -> &BadRowKind {
        &self.kind
    }

    /// Whether the number of fields is wrong.
    pub fn is_ragged(&self) -> bool {
        matches!(self.kind, BadRowKind::Ragged { .. })
    }

    /// Whether a field is not UTF-8.
    pub fn is_undecodable(&self) -> bool {
        matches!(self.kind, BadRowKind::Undecodable { .. })
    }

    /// Whether the row is not of the type asked for.
    pub fn is_mistyped(&self) -> bool {
        matches!(self.kind, BadRowKind::Mistyped { .. })
    }
}

impl fmt::Display for BadRowKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ragged { expected, found } => {
                write!(f, "expected {}, found {found}", counted(*expected, "field"))
            }
            Self::Undecodable { field, column, .. } => {
                write!(f, "invalid UTF-8 in field {field} ({column:?})")
            }
            Self::Mistyped {
                field: Some((field, column)),
                source,
            } => {
                write!(f, "field {field} ({column:?}): {}", source.kind())
            }
            Self::Mistyped {
                field: None,
                source,
            } => write!(f, "{}", source.kind()),
        }
    }
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.kind)
    }
}

impl Error for BadRow {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            BadRowKind::Ragged { .. } => None,
            BadRowKind::Undecodable { source, .. } => Some(source),
            BadRowKind::Mistyped { source, .. } => Some(source),
        }
    }
}

/// What [`Rows`](super::Rows) returns instead of a row.
#[derive(Debug)]
pub enum RowError {
    /// One row is bad. The next one follows.
    Bad(BadRow),
    /// The file cannot be read any further. No row follows.
    File(CsvError),
}

impl RowError {
    /// Whether no row follows.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad(bad) => bad.fmt(f),
            Self::File(error) => error.fmt(f),
        }
    }
}

impl Error for RowError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Bad(bad) => bad.source(),
            Self::File(error) => error.source(),
        }
    }
}

fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
