//! Where the tool's columns stand: a header comes in, and the mode, the prefix and the position
//! of each column come out.

use csv::ByteRecord;

/// A column of the tool that the report reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Row,
    Ok,
    StatusCode,
    FinalUrl,
    Redirects,
    ContentType,
    Bytes,
    ExitCode,
    Signal,
    Attempts,
    QueuedMs,
    BackoffMs,
    ElapsedMs,
    FinishedAt,
    ErrorKind,
    Error,
}

impl Column {
    /// The name in the header, without a prefix.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Row => "row",
            Self::Ok => "ok",
            Self::StatusCode => "status_code",
            Self::FinalUrl => "final_url",
            Self::Redirects => "redirects",
            Self::ContentType => "content_type",
            Self::Bytes => "bytes",
            Self::ExitCode => "exit_code",
            Self::Signal => "signal",
            Self::Attempts => "attempts",
            Self::QueuedMs => "queued_ms",
            Self::BackoffMs => "backoff_ms",
            Self::ElapsedMs => "elapsed_ms",
            Self::FinishedAt => "finished_at",
            Self::ErrorKind => "error_kind",
            Self::Error => "error",
        }
    }
}

/// The command that wrote an answers file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Fetch,
    Run,
}

const FETCH: [Column; 14] = [
    Column::Row,
    Column::Ok,
    Column::StatusCode,
    Column::FinalUrl,
    Column::Redirects,
    Column::ContentType,
    Column::Bytes,
    Column::Attempts,
    Column::QueuedMs,
    Column::BackoffMs,
    Column::ElapsedMs,
    Column::FinishedAt,
    Column::ErrorKind,
    Column::Error,
];

const RUN: [Column; 10] = [
    Column::Row,
    Column::Ok,
    Column::ExitCode,
    Column::Signal,
    Column::Attempts,
    Column::QueuedMs,
    Column::ElapsedMs,
    Column::FinishedAt,
    Column::ErrorKind,
    Column::Error,
];

impl Mode {
    /// The columns that stand beside each other in each file of this mode.
    pub(crate) const fn columns(self) -> &'static [Column] {
        match self {
            Self::Fetch => &FETCH,
            Self::Run => &RUN,
        }
    }

    /// What runs for a row.
    pub(crate) const fn work(self) -> &'static str {
        match self {
            Self::Fetch => "requests",
            Self::Run => "commands",
        }
    }

    /// The command as it is typed.
    pub(crate) const fn command(self) -> &'static str {
        match self {
            Self::Fetch => "brigade fetch",
            Self::Run => "brigade run",
        }
    }
}

/// The columns of one answers file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Columns {
    pub(crate) mode: Mode,
    /// What stands before each name of the tool, as in `fetch_row`.
    pub(crate) prefix: String,
    /// The position of `row`.
    start: usize,
    /// The number of cells of a record.
    pub(crate) width: usize,
}

/// The first column that a header lacks, and the one after which it should stand.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) column: String,
    pub(crate) after: Option<String>,
}

impl Columns {
    /// Finds the last sequence of the tool's columns in `header`.
    ///
    /// The last one is the tool's: an input may hold the columns of an earlier run.
    pub(crate) fn find(header: &ByteRecord, prefix: Option<&str>) -> Result<Self, Missing> {
        let mut best = Missing {
            column: with(prefix.unwrap_or(""), Column::Row),
            after: None,
        };
        let mut best_len = 0;
        for start in (0..header.len()).rev() {
            let Some(found) = prefix_at(header, start) else {
                continue;
            };
            if prefix.is_some_and(|wanted| wanted != found) {
                continue;
            }
            for mode in [Mode::Fetch, Mode::Run] {
                let len = matching(header, start, found, mode);
                let columns = mode.columns();
                if len == columns.len() {
                    let prefix = found.to_owned();
                    return Ok(Self {
                        mode,
                        prefix,
                        start,
                        width: header.len(),
                    });
                }
                // A column `row` alone may be one of the input.
                if len > best_len && len > 1 {
                    best_len = len;
                    best = Missing {
                        column: with(found, columns[len]),
                        after: Some(with(found, columns[len - 1])),
                    };
                }
            }
        }
        Err(best)
    }

    /// The position of `column`, if files of this mode have it.
    pub(crate) fn position(&self, column: Column) -> Option<usize> {
        let offset = self.mode.columns().iter().position(|c| *c == column)?;
        Some(self.start + offset)
    }
}

fn with(prefix: &str, column: Column) -> String {
    super::name_of(column, prefix)
}

/// The prefix of the column at `start`, if its name ends in `row`.
fn prefix_at(header: &ByteRecord, start: usize) -> Option<&str> {
    std::str::from_utf8(header.get(start)?)
        .ok()?
        .strip_suffix(Column::Row.name())
}

/// The number of the mode's columns that stand beside each other from `start`.
fn matching(header: &ByteRecord, start: usize, prefix: &str, mode: Mode) -> usize {
    let is_there = |(offset, column): &(usize, &Column)| {
        header.get(start + offset) == Some(with(prefix, **column).as_bytes())
    };
    mode.columns()
        .iter()
        .enumerate()
        .take_while(is_there)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> ByteRecord {
        ByteRecord::from(text.split(',').collect::<Vec<_>>())
    }

    const FETCH_HEADER: &str = "row,ok,status_code,final_url,redirects,content_type,bytes,\
        attempts,queued_ms,backoff_ms,elapsed_ms,finished_at,error_kind,error";

    #[test]
    fn mode_and_prefix_are_found_in_the_header() {
        let fetch = Columns::find(&header(&format!("url,{FETCH_HEADER},path,sha256")), None);
        let fetch = fetch.expect("all columns are there");
        assert_eq!((fetch.mode, fetch.prefix.as_str()), (Mode::Fetch, ""));
        assert_eq!(fetch.position(Column::Row), Some(1));
        assert_eq!(fetch.position(Column::Error), Some(14));
        assert_eq!(fetch.position(Column::ExitCode), None);

        let run = "a,x_row,x_ok,x_exit_code,x_signal,x_attempts,x_queued_ms,x_elapsed_ms,\
            x_finished_at,x_error_kind,x_error,x_stdout,x_stderr";
        let run = Columns::find(&header(run), None).expect("all columns are there");
        assert_eq!((run.mode, run.prefix.as_str()), (Mode::Run, "x_"));
        assert_eq!(run.position(Column::Error), Some(10));
    }

    #[test]
    fn columns_of_an_earlier_run_belong_to_the_input() {
        let second = FETCH_HEADER.split(',').map(|name| format!("again_{name}"));
        let second = second.collect::<Vec<_>>().join(",");
        let both = header(&format!("{FETCH_HEADER},{second}"));
        let found = Columns::find(&both, None).expect("all columns are there");
        assert_eq!(
            (found.prefix.as_str(), found.position(Column::Row)),
            ("again_", Some(14))
        );
        let first = Columns::find(&both, Some("")).expect("all columns are there");
        assert_eq!(first.position(Column::Row), Some(0));
    }

    #[test]
    fn the_first_missing_column_is_named() {
        let other = Columns::find(&header("id,name,row"), None).expect_err("no answers file");
        assert_eq!(
            other,
            Missing {
                column: "row".to_owned(),
                after: None
            }
        );
        let short = FETCH_HEADER.replace("redirects,", "");
        let short = Columns::find(&header(&short), None).expect_err("one column is missing");
        let after = Some("final_url".to_owned());
        assert_eq!(
            short,
            Missing {
                column: "redirects".to_owned(),
                after
            }
        );
        let prefix = Columns::find(&header(FETCH_HEADER), Some("f_")).expect_err("other prefix");
        assert_eq!(
            prefix,
            Missing {
                column: "f_row".to_owned(),
                after: None
            }
        );
    }
}
