//! One record of an answers file: cells come in, and the values of the tool's columns come out.

use std::time::UNIX_EPOCH;

use csv::ByteRecord;

use super::columns::{Column, Columns};

/// The tool's columns of one row. A cell that is empty in the file is `None`, or empty here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer<'r> {
    /// The number of the row in the input.
    pub(crate) row: u64,
    pub(crate) ok: bool,
    /// The status code, or the exit code of a command.
    pub(crate) code: &'r [u8],
    /// The signal that ended a command.
    pub(crate) signal: &'r [u8],
    /// The last URL that was requested.
    pub(crate) url: &'r [u8],
    pub(crate) redirects: u64,
    pub(crate) bytes: u64,
    pub(crate) attempts: u64,
    pub(crate) queued_ms: u64,
    pub(crate) backoff_ms: u64,
    pub(crate) elapsed_ms: Option<u64>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub(crate) finished_ms: Option<i64>,
    pub(crate) kind: &'r [u8],
    pub(crate) error: &'r [u8],
}

/// A cell that does not hold what its column promises.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadCell {
    pub(crate) column: Column,
    pub(crate) rule: &'static str,
}

impl<'r> Answer<'r> {
    /// Reads the cells of `record`, which has as many cells as the header.
    pub(crate) fn parse(record: &'r ByteRecord, columns: &Columns) -> Result<Self, BadCell> {
        let cells = Cells { record, columns };
        let code = match cells.get(Column::StatusCode) {
            b"" => cells.get(Column::ExitCode),
            code => code,
        };
        Ok(Self {
            row: cells
                .number(Column::Row)?
                .ok_or(BadCell::number(Column::Row))?,
            ok: match cells.get(Column::Ok) {
                b"true" => true,
                b"false" => false,
                _ => {
                    return Err(BadCell {
                        column: Column::Ok,
                        rule: "neither `true` nor `false`",
                    });
                }
            },
            code,
            signal: cells.get(Column::Signal),
            url: cells.get(Column::FinalUrl),
            redirects: cells.number(Column::Redirects)?.unwrap_or(0),
            bytes: cells.number(Column::Bytes)?.unwrap_or(0),
            attempts: cells.number(Column::Attempts)?.unwrap_or(0),
            queued_ms: cells.number(Column::QueuedMs)?.unwrap_or(0),
            backoff_ms: cells.number(Column::BackoffMs)?.unwrap_or(0),
            elapsed_ms: cells.number(Column::ElapsedMs)?,
            finished_ms: cells.time(Column::FinishedAt)?,
            kind: cells.get(Column::ErrorKind),
            error: cells.get(Column::Error),
        })
    }

    /// When the row's requests or its command ran: from, to, in milliseconds since 1970.
    pub(crate) fn interval(&self) -> Option<(i64, i64)> {
        let end = self.finished_ms?;
        let elapsed = i64::try_from(self.elapsed_ms?).ok()?;
        Some((end.saturating_sub(elapsed), end))
    }

    /// The time of the row, if a request was made or a command was started for it.
    pub(crate) fn latency_ms(&self) -> Option<u64> {
        self.elapsed_ms.filter(|_| self.attempts > 0)
    }
}

impl BadCell {
    const fn number(column: Column) -> Self {
        Self {
            column,
            rule: "not a number",
        }
    }
}

struct Cells<'r, 'c> {
    record: &'r ByteRecord,
    columns: &'c Columns,
}

impl<'r> Cells<'r, '_> {
    fn get(&self, column: Column) -> &'r [u8] {
        self.columns
            .position(column)
            .and_then(|at| self.record.get(at))
            .unwrap_or(b"")
    }

    fn number(&self, column: Column) -> Result<Option<u64>, BadCell> {
        let cell = self.get(column);
        if cell.is_empty() {
            return Ok(None);
        }
        // Long enough for what one row counts, and short enough to add up over all rows.
        if cell.len() > 12 || !cell.iter().all(u8::is_ascii_digit) {
            return Err(BadCell::number(column));
        }
        let digit = |number, digit: &u8| number * 10 + u64::from(digit - b'0');
        Ok(Some(cell.iter().fold(0, digit)))
    }

    fn time(&self, column: Column) -> Result<Option<i64>, BadCell> {
        let cell = self.get(column);
        if cell.is_empty() {
            return Ok(None);
        }
        let bad = BadCell {
            column,
            rule: "not a time like 2026-01-02T03:04:05.678Z",
        };
        let time = std::str::from_utf8(cell)
            .ok()
            .and_then(|t| humantime::parse_rfc3339(t).ok());
        let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        since
            .and_then(|since| i64::try_from(since.as_millis()).ok())
            .map(Some)
            .ok_or(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Columns {
        let header = "row,ok,exit_code,signal,attempts,queued_ms,elapsed_ms,finished_at,\
            error_kind,error";
        Columns::find(
            &ByteRecord::from(header.split(',').collect::<Vec<_>>()),
            None,
        )
        .expect("all columns are there")
    }

    #[test]
    fn empty_cells_are_no_values() {
        let record = ByteRecord::from(vec!["7", "false", "", "9", "", "", "", "", "", "killed"]);
        let answer = Answer::parse(&record, &columns()).expect("a whole record");
        assert_eq!((answer.row, answer.ok, answer.attempts), (7, false, 0));
        assert_eq!((answer.elapsed_ms, answer.interval()), (None, None));
        assert_eq!((answer.code, answer.signal), (&b""[..], &b"9"[..]));
    }

    #[test]
    fn a_row_runs_until_it_is_finished() {
        let time = "1970-01-01T00:00:01.500Z";
        let record = ByteRecord::from(vec!["1", "true", "0", "", "1", "5", "400", time, "", ""]);
        let answer = Answer::parse(&record, &columns()).expect("a whole record");
        assert_eq!(answer.interval(), Some((1100, 1500)));
    }

    #[test]
    fn cells_of_another_type_name_their_column() {
        for (at, cell, column) in [
            (0, "", Column::Row),
            (1, "TRUE", Column::Ok),
            (6, "-1", Column::ElapsedMs),
            (6, "1.5", Column::ElapsedMs),
            (6, "1000000000000", Column::ElapsedMs),
            (7, "yesterday", Column::FinishedAt),
        ] {
            let mut cells = vec!["1", "true", "0", "", "1", "", "4", "", "", ""];
            cells[at] = cell;
            let record = ByteRecord::from(cells);
            let error = Answer::parse(&record, &columns()).expect_err("not a value");
            assert_eq!(error.column, column);
        }
    }
}
