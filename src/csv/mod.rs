//! Rows of CSV files as inputs, with exact line numbers, and rows out again. Needs the feature
//! `csv`.
//!
//! [`Reader`] opens a file, checks its header once and returns [`Rows`]: an iterator, which a pool
//! takes as its inputs. [`Writer`] writes results, [`RejectsWriter`] rows that were
//! refused, [`FailuresWriter`] rows to try again.
//!
//! A problem of the file and a problem of one row are different things:
//!
//! | problem | reported as | then |
//! |---|---|---|
//! | cannot open, no header, a column missing or named twice, UTF-16 | [`CsvError`], before the first row | nothing was read |
//! | unclosed quote, endless record, failing disk | [`RowError::File`], after all complete rows before it | the end |
//! | too few or too many fields, a field that is not UTF-8 | [`RowError::Bad`], with the record | the next row |
//! | a field that is not of the type wanted | [`BadRow`] of [`Row::deserialize`] | the next row |
//!
//! Nothing here is asynchronous or knows of pools. Reading blocks: from a slow disk or a pipe,
//! iterate on a thread that may wait.
//!
//! # Examples
//!
//! ```
//! use brigade::csv::{FailuresWriter, Reader, RowError};
//!
//! let text = "name,age\r\n\r\nAda,36\r\nBob\r\nEve,old\r\n";
//! let rows = Reader::new().from_reader("ages.csv", text.as_bytes())?;
//! let age = rows.column("age")?;
//! let mut failures = FailuresWriter::new(Vec::new(), rows.header())?;
//!
//! let (mut sum, mut bad_rows) = (0, Vec::new());
//! for row in rows {
//!     match row {
//!         Ok(row) => match row.field(age).parse::<u32>() {
//!             Ok(age) => sum += age,
//!             Err(_) => failures.write(&row)?,
//!         },
//!         Err(RowError::Bad(bad)) => bad_rows.push(bad.to_string()),
//!         Err(RowError::File(error)) => return Err(error.into()),
//!     }
//! }
//! assert_eq!(sum, 36);
//! assert_eq!(bad_rows, ["ages.csv:4: expected 2 fields, found 1"]);
//! assert_eq!(failures.finish()?, b"name,age\nEve,old\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod guard;
mod header;
mod row;
mod rows;
mod writer;

pub use ::csv::{ByteRecord, DeserializeError, Utf8Error};

pub use self::{
    error::{BadRow, BadRowKind, CsvError, CsvErrorKind, RowError},
    header::{Column, Header},
    row::Row,
    rows::{Reader, Rows},
    writer::{FailuresWriter, RejectsWriter, Writer},
};
