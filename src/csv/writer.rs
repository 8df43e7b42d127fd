//! In: fields. Out: CSV, for results, rows that were refused, and rows to try again.
//!
//! A field is quoted only where it must be, a quote inside is doubled, and a record ends with a
//! line feed. A writer never hides an error: [`finish`](Writer::finish) writes what is buffered and
//! reports it. It never compares the numbers of fields of two rows, for a rejected row may be
//! ragged.

use std::{
    fmt,
    io::{self, Write},
};

use ::csv::WriterBuilder;

use super::{
    error::BadRow,
    guard::UTF8_MARK,
    header::Header,
    row::Row,
    rows::{Reader, check_delimiter},
};

/// Writes rows to `W`, through a buffer of 8 KiB.
///
/// Call [`finish`](Self::finish) at the end. A writer that is dropped writes its buffer, and the
/// error is lost. After one error nothing more is written, and each call returns an error, so that
/// no part of a row is written twice.
///
/// # Examples
///
/// ```
/// use brigade::csv::Writer;
///
/// let mut writer = Writer::new(Vec::new());
/// writer.write_row(["name", "motto"])?;
/// writer.write_row(["Ada", "never, \"never\" guess"])?;
/// assert_eq!(writer.finish()?, b"name,motto\nAda,\"never, \"\"never\"\" guess\"\n");
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "call `finish` to learn of errors"]
pub struct Writer<W: Write> {
    inner: ::csv::Writer<Output<W>>,
    escape_formulas: bool,
}

impl<W: Write> Writer<W> {
    /// Writes with commas between fields.
    pub fn new(output: W) -> Self {
        Self::with_delimiter(output, Reader::DEFAULT_DELIMITER)
    }

    /// Writes with `delimiter` between fields.
    ///
    /// # Panics
    ///
    /// If it is a quote, a carriage return, a line feed or not ASCII.
    #[track_caller]
    pub fn with_delimiter(output: W, delimiter: u8) -> Self {
        check_delimiter(delimiter);
        let output = Output {
            inner: output,
            started: false,
            failed: false,
        };
        let inner = WriterBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .from_writer(output);
        Self {
            inner,
            escape_formulas: false,
        }
    }

    /// Sets whether `'` is put before a field that starts with `=`, `+`, `-` or `@`. Off by
    /// default.
    ///
    /// A spreadsheet runs such a cell as a formula, and a formula can send what is in the sheet
    /// elsewhere. Turn it on where rows hold what strangers wrote and a spreadsheet opens the file.
    /// It changes data: negative numbers and telephone numbers get the sign too, so leave it off
    /// where a program reads the file.
    ///
    /// # Examples
    ///
    /// ```
    /// use brigade::csv::Writer;
    ///
    /// let mut writer = Writer::new(Vec::new()).escape_formulas(true);
    /// writer.write_row(["=1+2", "-3", "4-5"])?;
    /// assert_eq!(writer.finish()?, b"'=1+2,'-3,4-5\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn escape_formulas(mut self, escape: bool) -> Self {
        self.escape_formulas = escape;
        self
    }

    /// Writes one row. A row without fields is written as one empty field, for a blank line would
    /// be skipped.
    ///
    /// # Errors
    ///
    /// If the buffer is full and cannot be written. That the row is on its way is known only after
    /// [`finish`](Self::finish).
    pub fn write_row<I>(&mut self, fields: I) -> io::Result<()>
    where
        I: IntoIterator,
        I::Item: AsRef<[u8]>,
    {
        if self.inner.get_ref().failed {
            return Err(failed_before());
        }
        for field in fields {
            let field = field.as_ref();
            if self.escape_formulas && matches!(field.first(), Some(b'=' | b'+' | b'-' | b'@')) {
                self.inner.write_field([b"'", field].concat())?;
            } else {
                self.inner.write_field(field)?;
            }
        }
        // Ends the row.
        self.inner.write_record(None::<&[u8]>)?;
        Ok(())
    }

    /// Writes what is buffered, to the output and through the buffers of the output.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    /// Writes what is buffered and returns the output.
    ///
    /// # Errors
    ///
    /// If it cannot be written, now or earlier.
    pub fn finish(self) -> io::Result<W> {
        match self.inner.into_inner() {
            Ok(output) => Ok(output.inner),
            Err(error) => Err(error.into_error()),
        }
    }
}

impl<W: Write> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("escape_formulas", &self.escape_formulas)
            .finish_non_exhaustive()
    }
}

/// Writes refused rows: the original fields, then the columns `line` and `error`.
///
/// The header is written once, at the start. The last two fields of each row are `line` and
/// `error`, and all before them are the original ones, unchanged: a ragged row is as ragged as it
/// was. The file holds all that the row held, secrets included.
///
/// # Examples
///
/// ```
/// use brigade::csv::{Reader, RejectsWriter, RowError, Writer};
///
/// let rows = Reader::new().from_reader("ages.csv", &b"name,age\nAda,36\nBob\n"[..])?;
/// let mut rejects = RejectsWriter::new(Writer::new(Vec::new()), rows.header())?;
/// for row in rows {
///     match row {
///         Ok(row) => rejects.write_row(&row, "too young")?,
///         Err(RowError::Bad(bad)) => rejects.write_bad(&bad)?,
///         Err(RowError::File(error)) => return Err(error.into()),
///     }
/// }
/// let text = String::from_utf8(rejects.finish()?)?;
/// assert_eq!(text, "name,age,line,error\nAda,36,2,too young\nBob,3,\"expected 2 fields, found 1\"\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "call `finish` to learn of errors"]
#[derive(Debug)]
pub struct RejectsWriter<W: Write> {
    writer: Writer<W>,
}

impl<W: Write> RejectsWriter<W> {
    /// Writes the header of the file that is read, and the two columns.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn new(mut writer: Writer<W>, header: &Header) -> io::Result<Self> {
        writer.write_row(header.original().iter().chain(["line", "error"]))?;
        Ok(Self { writer })
    }

    /// Writes a bad row.
    ///
    /// # Errors
    ///
    /// As [`Writer::write_row`].
    pub fn write_bad(&mut self, bad: &BadRow) -> io::Result<()> {
        self.write(bad.record(), bad.line(), bad.kind())
    }

    /// Writes a good row that was refused later, with the reason.
    ///
    /// # Errors
    ///
    /// As [`Writer::write_row`].
    pub fn write_row(&mut self, row: &Row, error: impl fmt::Display) -> io::Result<()> {
        self.write(row.record(), row.line(), error)
    }

    /// Writes what is buffered and returns the output.
    ///
    /// # Errors
    ///
    /// If it cannot be written, now or earlier.
    pub fn finish(self) -> io::Result<W> {
        self.writer.finish()
    }

    fn write(
        &mut self,
        record: &::csv::ByteRecord,
        line: u64,
        error: impl fmt::Display,
    ) -> io::Result<()> {
        let (line, error) = (line.to_string(), error.to_string());
        self.writer
            .write_row(record.iter().chain([line.as_bytes(), error.as_bytes()]))
    }
}

/// Writes rows whose jobs failed, so that the file can be the input of the next run.
///
/// The header and the fields are the original ones, with the delimiter of the file that they come
/// from: what was read with some options is read again with the same ones. It has no options, for
/// it must read back as it was. The file holds all that the row held, secrets included.
///
/// # Examples
///
/// ```
/// use brigade::csv::{FailuresWriter, Reader};
///
/// let options = Reader::new().delimiter(b';');
/// let mut rows = options.from_reader("ages.csv", &b"name;age\n\"Ada; L.\";36\nBob;7\n"[..])?;
/// let mut failures = FailuresWriter::new(Vec::new(), rows.header())?;
/// failures.write(&rows.next().unwrap()?)?;
/// let again = failures.finish()?;
/// assert_eq!(again, b"name;age\n\"Ada; L.\";36\n");
///
/// let mut rows = options.from_reader("again.csv", &again[..])?;
/// assert_eq!(rows.next().unwrap()?.get(0), Some("Ada; L."));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "call `finish` to learn of errors"]
#[derive(Debug)]
pub struct FailuresWriter<W: Write> {
    writer: Writer<W>,
}

impl<W: Write> FailuresWriter<W> {
    /// Writes the header of the file that is read.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn new(output: W, header: &Header) -> io::Result<Self> {
        let mut writer = Writer::with_delimiter(output, header.delimiter());
        writer.write_row(header.original())?;
        Ok(Self { writer })
    }

    /// Writes a row as it was read.
    ///
    /// # Errors
    ///
    /// As [`Writer::write_row`].
    pub fn write(&mut self, row: &Row) -> io::Result<()> {
        self.writer.write_row(row.record())
    }

    /// Writes what is buffered and returns the output.
    ///
    /// # Errors
    ///
    /// If it cannot be written, now or earlier.
    pub fn finish(self) -> io::Result<W> {
        self.writer.finish()
    }
}

/// The output, closed by its first error. The buffer before it tries the same bytes again, on the
/// next row and when it is dropped, though a part of them may be out.
struct Output<W> {
    inner: W,
    started: bool,
    failed: bool,
}

impl<W> Output<W> {
    fn attempt<T>(&mut self, write: impl FnOnce(&mut W) -> io::Result<T>) -> io::Result<T> {
        if self.failed {
            return Err(failed_before());
        }
        let result = write(&mut self.inner);
        self.failed = matches!(&result, Err(error) if error.kind() != io::ErrorKind::Interrupted);
        result
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.started && bytes.starts_with(UTF8_MARK) {
            // A reader drops a mark at the start of a file. This one is data, so it gets another in
            // front.
            self.attempt(|inner| inner.write_all(UTF8_MARK))?;
        }
        self.started = true;
        self.attempt(|inner| inner.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.attempt(W::flush)
    }
}

fn failed_before() -> io::Error {
    io::Error::other("an earlier write failed")
}
