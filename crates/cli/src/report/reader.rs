//! The records of an answers file: a path comes in, and each whole record goes to a visitor.
//!
//! A record counts only with its line end. The last record of a killed run may lack it, and is
//! left out.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ReaderBuilder};

use super::ReportError;
use super::answer::Answer;
use super::columns::Columns;

const BUFFER: usize = 256 * 1024;

/// An answers file, as long as it was when it was opened.
#[derive(Debug)]
pub(crate) struct AnswersFile {
    path: PathBuf,
    delimiter: u8,
    length: u64,
    pub(crate) columns: Columns,
}

impl AnswersFile {
    /// Reads the header and finds the tool's columns.
    pub(crate) fn open(
        path: &Path,
        delimiter: u8,
        prefix: Option<&str>,
    ) -> Result<Self, ReportError> {
        let failed = |source| ReportError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut reader = csv_reader(file.take(length), delimiter);
        let header = reader
            .byte_headers()
            .map_err(|e| failed(io::Error::from(e)))?;
        if header.is_empty() {
            return Err(ReportError::NoHeader {
                path: path.to_owned(),
            });
        }
        let columns =
            Columns::find(header, prefix).map_err(|missing| ReportError::MissingColumn {
                path: path.to_owned(),
                missing: missing.column,
                after: missing.after,
            })?;
        Ok(Self {
            path: path.to_owned(),
            delimiter,
            length,
            columns,
        })
    }

    /// Calls `visit` with each whole record, in the order of the file, and says whether a record
    /// at the end was left out. Each call reads the file from the start.
    pub(crate) fn visit(
        &self,
        mut visit: impl FnMut(&Answer<'_>) -> Result<(), ReportError>,
    ) -> Result<bool, ReportError> {
        let file = File::open(&self.path).map_err(|source| self.failed(source))?;
        let mut reader = csv_reader(file.take(self.length), self.delimiter);
        // A record is handed on when the next one is there: the last one may be torn.
        let (mut record, mut next) = (ByteRecord::new(), ByteRecord::new());
        let mut number = 0;
        while reader
            .read_byte_record(&mut next)
            .map_err(|e| self.failed(io::Error::from(e)))?
        {
            if number > 0 {
                visit(&self.parse(&record, number)?)?;
            }
            std::mem::swap(&mut record, &mut next);
            number += 1;
        }
        if number == 0 {
            return Ok(false);
        }
        let start = record.position().map_or(0, csv::Position::byte);
        if !self
            .ends_whole(start)
            .map_err(|source| self.failed(source))?
        {
            return Ok(true);
        }
        visit(&self.parse(&record, number)?)?;
        Ok(false)
    }

    /// The error for a file whose second reading found other records.
    pub(crate) fn changed(&self) -> ReportError {
        ReportError::Changed {
            path: self.path.clone(),
        }
    }

    fn failed(&self, source: io::Error) -> ReportError {
        ReportError::Read {
            path: self.path.clone(),
            source,
        }
    }

    fn parse<'r>(&self, record: &'r ByteRecord, number: u64) -> Result<Answer<'r>, ReportError> {
        if record.len() != self.columns.width {
            return Err(ReportError::Cells {
                path: self.path.clone(),
                record: number,
                expected: self.columns.width,
                found: record.len(),
            });
        }
        Answer::parse(record, &self.columns).map_err(|bad| ReportError::Cell {
            path: self.path.clone(),
            record: number,
            column: super::name_of(bad.column, &self.columns.prefix),
            rule: bad.rule,
        })
    }

    /// Whether the record that begins at byte `start`, the last one, has its line end.
    fn ends_whole(&self, start: u64) -> io::Result<bool> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        let mut rest = BufReader::new(file.take(self.length.saturating_sub(start)));
        let mut scan = LineEnd::new(self.delimiter);
        loop {
            let bytes = rest.fill_buf()?;
            if bytes.is_empty() {
                return Ok(scan.is_at_line_end);
            }
            bytes.iter().for_each(|byte| scan.step(*byte));
            let len = bytes.len();
            rest.consume(len);
        }
    }
}

fn csv_reader<R: Read>(input: R, delimiter: u8) -> csv::Reader<R> {
    ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .buffer_capacity(BUFFER)
        .from_reader(input)
}

/// Where the bytes of a record stand between quotes, by the rules of the csv crate.
enum Field {
    Start,
    Unquoted,
    Quoted,
    QuoteInQuoted,
}

/// Finds out whether the last byte ends a record.
struct LineEnd {
    field: Field,
    delimiter: u8,
    is_at_line_end: bool,
}

impl LineEnd {
    const fn new(delimiter: u8) -> Self {
        Self {
            field: Field::Start,
            delimiter,
            is_at_line_end: false,
        }
    }

    fn step(&mut self, byte: u8) {
        let is_quoted = matches!(self.field, Field::Quoted);
        self.is_at_line_end = byte == b'\n' && !is_quoted;
        self.field = match (&self.field, byte) {
            (Field::Quoted, b'"') => Field::QuoteInQuoted,
            (Field::Quoted, _) | (Field::Start | Field::QuoteInQuoted, b'"') => Field::Quoted,
            (_, b'\n' | b'\r') => Field::Start,
            (_, byte) if byte == self.delimiter => Field::Start,
            _ => Field::Unquoted,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "id,row,ok,exit_code,signal,attempts,queued_ms,elapsed_ms,finished_at,\
        error_kind,error,stdout,stderr\n";

    /// The row numbers of the whole records of `text`, and whether one was left out.
    fn rows(text: &[u8]) -> Result<(Vec<u64>, bool), ReportError> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("answers.csv");
        std::fs::write(&path, text).expect("a file in it");
        let mut rows = Vec::new();
        let torn = AnswersFile::open(&path, b',', None)?.visit(|answer| {
            rows.push(answer.row);
            Ok(())
        })?;
        Ok((rows, torn))
    }

    fn record(row: u64) -> String {
        format!("\"a \"\"{row}\"\"\nb\",{row},true,0,,1,0,5,,,,out,\"last\n\ncell\"\n")
    }

    #[test]
    fn a_file_cut_at_any_byte_of_its_last_record_loses_that_record_alone() {
        let whole = format!("{HEADER}{}{}", record(1), record(2));
        let last = HEADER.len() + record(1).len();
        for cut in last + 1..whole.len() {
            let found = rows(&whole.as_bytes()[..cut]).expect("an answers file");
            assert_eq!(found, (vec![1], true), "cut at byte {cut}");
        }
        assert_eq!(
            rows(&whole.as_bytes()[..last]).expect("whole"),
            (vec![1], false)
        );
        assert_eq!(rows(whole.as_bytes()).expect("whole"), (vec![1, 2], false));
    }

    #[test]
    fn a_byte_order_mark_and_crlf_move_no_line_end() {
        let whole = format!("\u{feff}{HEADER}{}{}", record(1), record(2)).replace('\n', "\r\n");
        assert_eq!(rows(whole.as_bytes()).expect("whole"), (vec![1, 2], false));
        let torn = &whole.as_bytes()[..whole.len() - 3];
        assert_eq!(rows(torn).expect("torn"), (vec![1], true));
    }

    #[test]
    fn a_damaged_record_before_the_end_is_named() {
        let text = format!("{HEADER}{}a,2,true\n{}", record(1), record(3));
        let error = rows(text.as_bytes()).expect_err("a short record");
        assert!(matches!(
            error,
            ReportError::Cells {
                record: 2,
                expected: 13,
                found: 3,
                ..
            }
        ));
        let text = format!("{HEADER}{}", record(1).replace("true", "yes"));
        let error = rows(text.as_bytes())
            .expect_err("not an answer")
            .to_string();
        assert!(error.contains("record 1, column `ok`"), "{error}");
    }

    #[test]
    fn a_file_without_rows_or_without_header_is_told_apart() {
        assert_eq!(rows(HEADER.as_bytes()).expect("no rows"), (vec![], false));
        assert!(matches!(
            rows(b"").expect_err("no header"),
            ReportError::NoHeader { .. }
        ));
        let error = rows(b"a,b\n1,2\n").expect_err("another file").to_string();
        assert!(error.contains("column `row` is missing"), "{error}");
    }
}
