//! In: a file. Out: its rows, one at a time, each with its exact line.
//!
//! [`Reader`] holds the options. It opens a file, checks the header and returns [`Rows`], an
//! iterator. A bad row is reported and skipped. A fault of the file is reported and ends the
//! iteration. No record is dropped silently, and none is invented: what an unclosed quote swallowed
//! never comes out as a row. It is synchronous: `next` may wait for the disk.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    iter::FusedIterator,
    path::Path,
    sync::Arc,
};

use ::csv::{ByteRecord, ReaderBuilder};

use super::{
    error::{CsvError, CsvErrorKind, RowError},
    guard::{Fault, Guard, Start},
    header::{Column, Header},
    row::Row,
};

/// How many bytes are read at once. It bounds how far the parser can be ahead of the rows that it
/// has handed out.
const READ_AHEAD: usize = 8 * 1024;

/// How to read a file: options first, then [`open`](Self::open) or
/// [`from_reader`](Self::from_reader).
///
/// Fields are quoted with `"`, and a quote inside is doubled. A quote counts only where a field
/// starts: elsewhere, and after a space, it is data, and so is text after a closing quote. A record
/// ends with a line feed, a carriage return or both. Blank lines are skipped. A byte order mark of
/// UTF-8 is dropped; UTF-16 is refused.
///
/// # Defaults
///
/// - [`delimiter`](Self::delimiter): `,`, [`DEFAULT_DELIMITER`](Self::DEFAULT_DELIMITER)
/// - [`max_record_bytes`](Self::max_record_bytes): 1 MiB,
///   [`DEFAULT_MAX_RECORD_BYTES`](Self::DEFAULT_MAX_RECORD_BYTES)
/// - [`trim`](Self::trim): `false`
///
/// # Examples
///
/// ```
/// use brigade::csv::Reader;
///
/// let mut rows = Reader::new().delimiter(b';').trim(true).from_reader("stock.csv", &b"item; left\nnail;  40\n"[..])?;
/// assert_eq!(rows.next().unwrap().unwrap().get_by_name("left"), Some("40"));
/// assert!(rows.next().is_none());
/// # Ok::<(), brigade::csv::CsvError>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "options read nothing until `open` or `from_reader` is called"]
pub struct Reader {
    delimiter: u8,
    max_record_bytes: usize,
    trim: bool,
}

impl Reader {
    /// The default delimiter.
    pub const DEFAULT_DELIMITER: u8 = b',';
    /// The default limit for the size of a record.
    pub const DEFAULT_MAX_RECORD_BYTES: usize = 1024 * 1024;

    /// Starts with the defaults.
    pub const fn new() -> Self {
        Self {
            delimiter: Self::DEFAULT_DELIMITER,
            max_record_bytes: Self::DEFAULT_MAX_RECORD_BYTES,
            trim: false,
        }
    }

    /// Sets the byte between two fields.
    ///
    /// With the wrong one a file has a single column, and looking up a column fails with that
    /// column's name.
    ///
    /// # Panics
    ///
    /// If it is a quote, a carriage return, a line feed or not ASCII.
    #[track_caller]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        check_delimiter(delimiter);
        self.delimiter = delimiter;
        self
    }

    /// Sets how many bytes a record, the header included, may have in the file, without its line
    /// end.
    ///
    /// The limit holds while the record is read: of a record without end, no more is taken in than
    /// this and a buffer of 8 KiB. Parsing a row takes at most about three times as much memory,
    /// and 24 bytes more for each field.
    ///
    /// # Panics
    ///
    /// If it is 0.
    #[track_caller]
    pub fn max_record_bytes(mut self, bytes: usize) -> Self {
        assert!(
            bytes >= 1,
            "max_record_bytes must be at least 1, got {bytes}"
        );
        self.max_record_bytes = bytes;
        self
    }

    /// Sets whether white space at both ends of names and fields is left out, also inside quotes.
    ///
    /// Only what is looked up is trimmed. [`Row::record`], [`RejectsWriter`](super::RejectsWriter)
    /// and [`FailuresWriter`](super::FailuresWriter) keep what was read.
    pub const fn trim(mut self, trim: bool) -> Self {
        self.trim = trim;
        self
    }

    /// Opens a file and checks its header.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened or is a directory, and as [`from_reader`](Self::from_reader).
    pub fn open(self, path: impl AsRef<Path>) -> Result<Rows<File>, CsvError> {
        let path = path.as_ref();
        let name = Arc::<str>::from(path.display().to_string());
        let cannot_open = |error| CsvError::new(&name, None, CsvErrorKind::CannotOpen(error));
        let file = File::open(path).map_err(cannot_open)?;
        // Some systems open a directory and fail only when it is read.
        if file.metadata().map_err(cannot_open)?.is_dir() {
            return Err(cannot_open(io::ErrorKind::IsADirectory.into()));
        }
        self.read_header(Arc::clone(&name), file)
    }

    /// Reads from `reader` and checks the header; `name` stands for the file in messages.
    ///
    /// `std::io::stdin()` is such a reader. It needs no buffer of its own: 8 KiB are read at once.
    ///
    /// # Errors
    ///
    /// If reading fails, there is no header, or it is UTF-16, not UTF-8, too long, has an unclosed
    /// quote or names a column twice.
    pub fn from_reader<R: Read>(
        self,
        name: impl Into<String>,
        reader: R,
    ) -> Result<Rows<R>, CsvError> {
        self.read_header(name.into().into(), reader)
    }

    fn read_header<R: Read>(self, file: Arc<str>, reader: R) -> Result<Rows<R>, CsvError> {
        let mut records = Records {
            file,
            parser: ReaderBuilder::new()
                .delimiter(self.delimiter)
                .has_headers(false)
                .flexible(true)
                .buffer_capacity(READ_AHEAD)
                .from_reader(Guard::new(reader, self.delimiter, self.max_record_bytes)),
            scratch: ByteRecord::new(),
        };
        let Some((start, record)) = records.read()? else {
            return Err(CsvError::new(&records.file, None, CsvErrorKind::NoHeader));
        };
        let header = Header::new(&records.file, start.line, record, self.delimiter, self.trim)?;
        Ok(Rows {
            records,
            header,
            count: 0,
            offset: start.offset,
        })
    }
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

/// The rows of a file, in its order.
///
/// An item is a [`Row`] or a [`RowError`]. After [`RowError::Bad`] the next row follows. After
/// [`RowError::File`], and after the last row, there is only `None`. A file that has nothing but a
/// header has no rows and no error.
///
/// What it holds is bounded: a buffer of 8 KiB, one record of at most [`Reader::max_record_bytes`],
/// and the lines and offsets of the records that are in the buffer. A row that was returned shares
/// only the header.
///
/// # Examples
///
/// ```
/// use brigade::csv::{Reader, RowError};
///
/// let text = &b"id,name\n1,Ada\n2\n3,\"Bob\n4,Eve\n"[..];
/// let mut report = Vec::new();
/// for row in Reader::new().from_reader("people.csv", text)? {
///     report.push(match row {
///         Ok(row) => format!("line {} is good", row.line()),
///         Err(RowError::Bad(bad)) => bad.to_string(),
///         Err(RowError::File(error)) => format!("incomplete: {error}"),
///     });
/// }
/// assert_eq!(report, [
///     "line 2 is good",
///     "people.csv:3: expected 2 fields, found 1",
///     "incomplete: people.csv:4: unclosed quote opened at line 4",
/// ]);
/// # Ok::<(), brigade::csv::CsvError>(())
/// ```
#[must_use = "rows are read only as the iterator is advanced"]
pub struct Rows<R> {
    records: Records<R>,
    header: Header,
    /// How many records came after the header.
    count: u64,
    /// Where the record that was returned last starts; first the header.
    offset: u64,
}

impl<R> Rows<R> {
    /// The columns of the file.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Finds a column by its name: see [`Header::column`].
    ///
    /// # Errors
    ///
    /// If the header has no such column.
    pub fn column(&self, name: &str) -> Result<Column, CsvError> {
        self.header.column(name)
    }

    /// Finds several columns, in the order of `names`.
    ///
    /// # Errors
    ///
    /// If the header lacks one of them.
    pub fn columns<const N: usize>(&self, names: [&str; N]) -> Result<[Column; N], CsvError> {
        self.header.columns(names)
    }

    /// The offset in bytes at which the row that was returned last starts, good or bad; that of the
    /// header before the first row.
    ///
    /// It counts from the first byte that was read, and a byte order mark counts. The record ends
    /// before its line end, so with the offset of the next row, or the length of the file, it can
    /// be found again without reading what precedes it: see [`Row::new`].
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::csv::Reader;
    ///
    /// let text = "id,name\r\n1,Ada\r\n\r\n2,Bob\r\n";
    /// let mut rows = Reader::new().from_reader("people.csv", text.as_bytes())?;
    /// assert_eq!(rows.offset(), 0);
    /// let mut offsets = Vec::new();
    /// while let Some(row) = rows.next() {
    ///     row?;
    ///     offsets.push(rows.offset());
    /// }
    /// assert_eq!(offsets, [9, 18]);
    /// assert!(text[18..].starts_with("2,Bob"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

impl<R: Read> Rows<R> {
    /// The reader that the rows are read from. Up to 8 KiB more than the rows returned so far have
    /// been read from it.
    pub fn get_ref(&self) -> &R {
        self.records.parser.get_ref().inner()
    }
}

impl<R: Read> Iterator for Rows<R> {
    type Item = Result<Row, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.records.read() {
            Ok(Some((start, record))) => {
                self.count += 1;
                self.offset = start.offset;
                Some(Row::new(&self.header, start.line, self.count, record).map_err(RowError::Bad))
            }
            Ok(None) => None,
            Err(error) => Some(Err(RowError::File(error))),
        }
    }
}

// After its end and after an error of the reader beneath it, the parser asks for nothing more and
// returns nothing.
impl<R: Read> FusedIterator for Rows<R> {}

impl<R> fmt::Debug for Rows<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows")
            .field("header", &self.header)
            .field("count", &self.count)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// The parser behind its guard: records with their starts, the header among them.
struct Records<R> {
    file: Arc<str>,
    parser: ::csv::Reader<Guard<R>>,
    /// Grows to the longest record so far. Rows are exact copies, so that no row keeps the room of
    /// the longest one.
    scratch: ByteRecord,
}

impl<R: Read> Records<R> {
    fn read(&mut self) -> Result<Option<(Start, ByteRecord)>, CsvError> {
        match self.parser.read_byte_record(&mut self.scratch) {
            Ok(true) => {
                let start = self.parser.get_mut().take_start();
                let start = start.expect(
                    "the guard has seen the first byte of each record that the parser returns",
                );
                let mut record =
                    ByteRecord::with_capacity(self.scratch.as_slice().len(), self.scratch.len());
                record.extend(&self.scratch);
                Ok(Some((start, record)))
            }
            Ok(false) => Ok(None),
            Err(error) => Err(self.file_error(error.into())),
        }
    }

    /// Says what ended the input. The guard knows, unless it was the reader beneath it.
    fn file_error(&self, error: io::Error) -> CsvError {
        let guard = self.parser.get_ref();
        let (line, kind) = match guard.fault() {
            Some(Fault::Utf16) => (1, CsvErrorKind::Utf16),
            Some(Fault::UnclosedQuote { line }) => (line, CsvErrorKind::UnclosedQuote),
            Some(Fault::RecordTooLong { line, limit, quote }) => (
                line,
                CsvErrorKind::RecordTooLong {
                    limit,
                    open_quote: quote,
                },
            ),
            None => (guard.line(), CsvErrorKind::CannotRead(error)),
        };
        CsvError::new(&self.file, Some(line), kind)
    }
}

/// Refuses what cannot separate fields.
#[track_caller]
pub(super) fn check_delimiter(delimiter: u8) {
    assert!(
        delimiter.is_ascii() && !matches!(delimiter, b'"' | b'\r' | b'\n'),
        "delimiter must be ASCII and neither a quote nor a line break, got {delimiter:#04x}"
    );
}
