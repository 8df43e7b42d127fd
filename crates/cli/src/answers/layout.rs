//! The columns of an answers file, and what its records must look like.

use std::path::{Path, PathBuf};

use super::{
    error::{AnswersError, Kind},
    record::Record,
    scan::{ScanError, Scanner},
    show::show,
};

/// What a record of a given answers file holds, and where.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) path: PathBuf,
    pub(super) delimiter: u8,
    /// The input's columns, then the tool's.
    pub(super) header: Vec<String>,
    /// The number of the input's columns.
    pub(super) inputs: usize,
    /// The place of the row number.
    row: usize,
    /// The place of the verdict.
    ok: usize,
}

impl Layout {
    /// # Panics
    ///
    /// Panics if `columns` lacks `row` or `ok`, each with its prefix.
    pub(super) fn new(
        path: &Path,
        delimiter: u8,
        input_header: Vec<String>,
        columns: Vec<String>,
        prefix: &str,
    ) -> Self {
        let inputs = input_header.len();
        let place = |name: &str| {
            let name = format!("{prefix}{name}");
            let index = columns.iter().position(|column| *column == name);
            inputs + index.unwrap_or_else(|| panic!("columns must hold `{name}`, got {columns:?}"))
        };
        Self {
            path: path.to_owned(),
            delimiter,
            inputs,
            row: place("row"),
            ok: place("ok"),
            header: [input_header, columns].concat(),
        }
    }

    /// Reads the next record after the header.
    pub(super) fn next_answer<R: std::io::Read>(
        &self,
        scanner: &mut Scanner<R>,
        record: &mut Record,
    ) -> Result<Option<Answer>, AnswersError> {
        let Some(line) = self.next_record(scanner, record)? else {
            return Ok(None);
        };
        if record.len() != self.header.len() {
            let (found, expected) = (record.len(), self.header.len());
            return Err(self.unusable(
                line,
                format!("{found} cells where the header has {expected}"),
            ));
        }
        let row = self.row_number(record, line)?;
        let is_ok = record.get(self.ok) == Some(b"true");
        Ok(Some(Answer { line, row, is_ok }))
    }

    /// Reads the next record, the header included, and returns its line.
    pub(super) fn next_record<R: std::io::Read>(
        &self,
        scanner: &mut Scanner<R>,
        record: &mut Record,
    ) -> Result<Option<u64>, AnswersError> {
        scanner.next(record).map_err(|error| match error {
            ScanError::Io(source) => self.error(Kind::Read { source }),
            ScanError::Malformed { line, reason } => self.unusable(line, reason.to_owned()),
        })
    }

    fn row_number(&self, record: &Record, line: u64) -> Result<u64, AnswersError> {
        let cell = record.get(self.row).unwrap_or_default();
        let number = std::str::from_utf8(cell)
            .ok()
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .filter(|number| *number > 0);
        number.ok_or_else(|| {
            let (name, cell) = (&self.header[self.row], show(cell));
            self.unusable(line, format!("`{name}` is {cell} and not a row number"))
        })
    }

    /// Fails at the first difference between a header and the one of this layout.
    pub(super) fn check_header(&self, found: &Record) -> Result<(), AnswersError> {
        for index in 0..self.header.len().max(found.len()) {
            let expected = self.header.get(index);
            let found = found.get(index);
            if found != expected.map(String::as_bytes) {
                return Err(self.error(Kind::Header {
                    column: index + 1,
                    found: found.map(show),
                    expected: expected.map(|name| show(name.as_bytes())),
                }));
            }
        }
        Ok(())
    }

    /// A record that is not one of this tool, or is no longer.
    pub(super) fn unusable(&self, line: u64, reason: String) -> AnswersError {
        self.error(Kind::Record { line, reason })
    }

    pub(super) fn error(&self, kind: Kind) -> AnswersError {
        AnswersError::new(&self.path, kind)
    }
}

/// What resume has to know of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The line of the answers file on which the record starts.
    pub(super) line: u64,
    pub(super) row: u64,
    pub(super) is_ok: bool,
}
