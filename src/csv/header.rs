//! In: the first record of a file. Out: the names of its columns, proven to be different, and the
//! index of each.
//!
//! It is read and checked once, before the first row, so that a file without a needed column is
//! refused as a whole and not once for each row. It never guesses: names are compared letter by
//! letter.

use std::{collections::HashMap, fmt, sync::Arc};

use ::csv::{ByteRecord, StringRecord};

use super::error::{CsvError, CsvErrorKind};

/// How many names an error about a missing column lists, and how many characters of each.
const LISTED_NAMES: usize = 10;
const LISTED_CHARACTERS: usize = 40;

/// The columns of a file. A clone shares the names.
///
/// # Examples
///
/// ```
/// use brigade::csv::Reader;
///
/// let rows = Reader::new().from_reader("people.csv", &b"id,name\n7,Ada\n"[..])?;
/// assert_eq!(rows.header().iter().collect::<Vec<_>>(), ["id", "name"]);
/// assert_eq!(rows.header().column("name")?.index(), 1);
///
/// let error = rows.header().column("Name").unwrap_err();
/// assert_eq!(error.to_string(), r#"people.csv:1: no column "Name": the header has 2 columns ("id", "name")"#);
/// # Ok::<(), brigade::csv::CsvError>(())
/// ```
#[derive(Clone)]
pub struct Header(Arc<Shared>);

struct Shared {
    file: Arc<str>,
    line: u64,
    delimiter: u8,
    trim: bool,
    /// What is looked up: trimmed, if the reader trims.
    names: StringRecord,
    /// What was read.
    original: StringRecord,
}

/// The index of one column, found by its name once and then used for each row: see
/// [`Row::field`](super::Row::field).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Column {
    index: usize,
}

impl Header {
    /// Checks the first record of a file.
    pub(super) fn new(
        file: &Arc<str>,
        line: u64,
        record: ByteRecord,
        delimiter: u8,
        trim: bool,
    ) -> Result<Self, CsvError> {
        let at_header = |kind| CsvError::new(file, Some(line), kind);
        let original = StringRecord::from_byte_record(record).map_err(|error| {
            let source = error.utf8_error().clone();
            at_header(CsvErrorKind::UndecodableHeader {
                column: source.field() + 1,
                source,
            })
        })?;
        let mut names = original.clone();
        if trim {
            names.trim();
        }
        let mut seen = HashMap::with_capacity(names.len());
        for (name, number) in names.iter().zip(1..) {
            if let Some(earlier) = seen.insert(name, number) {
                let name = name.to_owned();
                return Err(at_header(CsvErrorKind::DuplicateColumn {
                    name,
                    columns: (earlier, number),
                }));
            }
        }
        Ok(Self(Arc::new(Shared {
            file: Arc::clone(file),
            line,
            delimiter,
            trim,
            names,
            original,
        })))
    }

    /// The name of the file, as it was given.
    pub fn file(&self) -> &str {
        &self.0.file
    }

    /// The line on which the header starts, counted from 1. It is not 1 if blank lines come first.
    pub fn line(&self) -> u64 {
        self.0.line
    }

    /// The byte between two fields of the file, as the reader was told.
    pub fn delimiter(&self) -> u8 {
        self.0.delimiter
    }

    /// How many columns there are, at least 1.
    pub fn column_count(&self) -> usize {
        self.0.names.len()
    }

    /// The names in their order, trimmed if the reader trims.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.names.iter()
    }

    /// The name at `index`, counted from 0.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.0.names.get(index)
    }

    /// Finds a column by its name, letter by letter.
    ///
    /// # Errors
    ///
    /// An error that [is a missing column](CsvError::is_missing_column), with the line of the
    /// header.
    pub fn column(&self, name: &str) -> Result<Column, CsvError> {
        self.position(name)
            .map(|index| Column { index })
            .ok_or_else(|| {
                let shortened = |name: &str| name.chars().take(LISTED_CHARACTERS).collect();
                let kind = CsvErrorKind::MissingColumn {
                    name: name.to_owned(),
                    columns: self.column_count(),
                    first: self.iter().take(LISTED_NAMES).map(shortened).collect(),
                };
                CsvError::new(&self.0.file, Some(self.0.line), kind)
            })
    }

    /// Finds several columns, in the order of `names`.
    ///
    /// # Errors
    ///
    /// As [`column`](Self::column), for the first name that is missing.
    pub fn columns<const N: usize>(&self, names: [&str; N]) -> Result<[Column; N], CsvError> {
        let mut columns = [Column { index: 0 }; N];
        for (column, name) in columns.iter_mut().zip(names) {
            *column = self.column(name)?;
        }
        Ok(columns)
    }

    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.iter().position(|other| other == name)
    }

    /// The name of the column at `index` for a message: empty beyond the last one.
    pub(super) fn label(&self, index: usize) -> String {
        self.get(index).unwrap_or_default().to_owned()
    }

    pub(super) fn shared_file(&self) -> Arc<str> {
        Arc::clone(&self.0.file)
    }

    pub(super) fn names(&self) -> &StringRecord {
        &self.0.names
    }

    pub(super) fn original(&self) -> &StringRecord {
        &self.0.original
    }

    pub(super) fn trims(&self) -> bool {
        self.0.trim
    }
}

impl Column {
    /// The index of the column, counted from 0.
    pub fn index(self) -> usize {
        self.index
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header")
            .field("file", &self.0.file)
            .field("line", &self.0.line)
            .field("names", &self.0.names)
            .finish_non_exhaustive()
    }
}
