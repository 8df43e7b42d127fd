//! In: one good record, with as many fields as the header has columns, all of them UTF-8. Out: its
//! fields, by index, by name or as a type, and its position in the file.
//!
//! A row owns its bytes and no spare room, and shares the header with all other rows. It never
//! points into the file, so it can outlive the reader and be sent to another thread.

use std::fmt;

use ::csv::{ByteRecord, ErrorKind, StringRecord};
use serde::de::DeserializeOwned;

use super::{
    error::{BadRow, BadRowKind},
    header::{Column, Header},
};

/// One row of a file.
///
/// # Examples
///
/// ```
/// use brigade::csv::Reader;
///
/// let mut rows = Reader::new().from_reader("people.csv", &b"name,age\n\"Ada\nLovelace\",36\nBob,old\n"[..])?;
/// let age = rows.column("age")?;
///
/// let ada = rows.next().unwrap().unwrap();
/// assert_eq!((ada.line(), ada.record_number()), (2, 1));
/// assert_eq!(ada.field(age), "36");
/// assert_eq!(ada.get_by_name("name"), Some("Ada\nLovelace"));
/// assert_eq!(ada.deserialize::<(String, u32)>().unwrap(), ("Ada\nLovelace".to_owned(), 36));
///
/// let bob = rows.next().unwrap().unwrap();
/// let bad = bob.deserialize::<(String, u32)>().unwrap_err();
/// assert_eq!(bad.to_string(), r#"people.csv:4: field 2 ("age"): invalid digit found in string"#);
/// # Ok::<(), brigade::csv::CsvError>(())
/// ```
#[derive(Clone)]
pub struct Row {
    header: Header,
    line: u64,
    number: u64,
    /// The fields as they were read. Trimming happens on the way out, so that a row can be written
    /// back unchanged.
    fields: StringRecord,
}

impl Row {
    /// Makes a row of a record that was found by other means than [`Rows`](super::Rows), and checks
    /// it against the header as `Rows` does.
    ///
    /// For a record that is read again at [`Rows::offset`](super::Rows::offset): line and number
    /// are those that the first reading gave.
    ///
    /// # Errors
    ///
    /// If the record has fewer or more fields than the header, or a field is not UTF-8.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::csv::{ByteRecord, Reader, Row};
    ///
    /// let rows = Reader::new().from_reader("people.csv", &b"id,name\n"[..])?;
    /// let row = Row::new(rows.header(), 9, 7, ByteRecord::from(vec!["7", "Ada"]))?;
    /// assert_eq!((row.line(), row.record_number(), row.get(1)), (9, 7, Some("Ada")));
    ///
    /// let bad = Row::new(rows.header(), 10, 8, ByteRecord::from(vec!["8"])).unwrap_err();
    /// assert_eq!(bad.to_string(), "people.csv:10: expected 2 fields, found 1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(
        header: &Header,
        line: u64,
        number: u64,
        record: ByteRecord,
    ) -> Result<Self, BadRow> {
        let bad = |record, kind| {
            Err(BadRow {
                file: header.shared_file(),
                line,
                number,
                record,
                kind,
            })
        };
        let (expected, found) = (header.column_count(), record.len());
        if found != expected {
            return bad(record, BadRowKind::Ragged { expected, found });
        }
        match StringRecord::from_byte_record(record) {
            Ok(fields) => Ok(Self {
                header: header.clone(),
                line,
                number,
                fields,
            }),
            Err(error) => {
                let source = error.utf8_error().clone();
                let index = source.field();
                let kind = BadRowKind::Undecodable {
                    field: index + 1,
                    column: header.label(index),
                    source,
                };
                bad(error.into_byte_record(), kind)
            }
        }
    }

    /// The line on which the row starts, counted from 1.
    ///
    /// A line ends with a line feed, a carriage return or both together, between rows and inside
    /// quotes alike.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Which record of the file it is, counted from 1 after the header. Bad rows count, blank lines
    /// do not.
    pub fn record_number(&self) -> u64 {
        self.number
    }

    /// The columns of the file.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The field at `index`, counted from 0; `None` beyond the last column.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.fields.get(index).map(|field| self.trimmed(field))
    }

    /// The field of the column `name`; `None` if the file has no such column.
    ///
    /// Compares names one after the other. A [`Column`] found once saves that for each row.
    pub fn get_by_name(&self, name: &str) -> Option<&str> {
        self.header.position(name).and_then(|index| self.get(index))
    }

    /// The field of a column that was found in the header of this file: it is always there.
    ///
    /// # Panics
    ///
    /// If `column` belongs to another file and this one has fewer columns.
    #[track_caller]
    pub fn field(&self, column: Column) -> &str {
        let (index, count) = (column.index(), self.header.column_count());
        self.get(index).unwrap_or_else(|| {
            panic!("column must be of this file, got index {index} of {count} columns")
        })
    }

    /// The fields in the order of the columns.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|field| self.trimmed(field))
    }

    /// Turns the row into a type: a map or a struct by the names of the columns, a tuple by their
    /// order.
    ///
    /// # Errors
    ///
    /// A [`BadRow`] with the line of this row and, where the type tells, the field. Its message may
    /// quote the field.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T, BadRow> {
        let names = Some(self.header.names());
        let result = if self.header.trims() {
            let mut fields = self.fields.clone();
            fields.trim();
            fields.deserialize(names)
        } else {
            self.fields.deserialize(names)
        };
        result.map_err(|error| self.mistyped(error))
    }

    /// The record as it was read: no field is trimmed.
    pub fn record(&self) -> &ByteRecord {
        self.fields.as_byte_record()
    }

    fn trimmed<'a>(&self, field: &'a str) -> &'a str {
        if self.header.trims() {
            field.trim()
        } else {
            field
        }
    }

    fn mistyped(&self, error: ::csv::Error) -> BadRow {
        let ErrorKind::Deserialize { err: source, .. } = error.into_kind() else {
            unreachable!("a record that is already read fails to deserialize in no other way");
        };
        let field = source.field().and_then(|index| usize::try_from(index).ok());
        BadRow {
            file: self.header.shared_file(),
            line: self.line,
            number: self.number,
            record: self.record().clone(),
            kind: BadRowKind::Mistyped {
                field: field.map(|index| (index + 1, self.header.label(index))),
                source,
            },
        }
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row")
            .field("file", &self.header.file())
            .field("line", &self.line)
            .field("record_number", &self.number)
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}
