//! A file is opened and its header checked; what goes out is its rows, good and bad, as a stream
//! that never blocks.

use std::io;

use brigade::csv::{Column, CsvError, Header, Row, RowError};
use smol::{Unblock, stream::Stream};

use crate::{options::Options, stop::Stop};

/// How many rows are read before they are asked for.
const READ_AHEAD: usize = 64;

pub(crate) type RowResult = Result<Row, RowError>;

/// A file whose header is read and has the column.
pub(crate) struct Input {
    pub(crate) header: Header,
    pub(crate) column: Column,
    rows: Box<dyn Iterator<Item = RowResult> + Send>,
}

impl Input {
    /// Opens the file on a thread that may wait: a pipe may have no header for a while.
    pub(crate) async fn open(options: &Options) -> Result<Self, Stop> {
        let (reader, column, path) = (
            options.reader(),
            options.column.clone(),
            options.file.clone(),
        );
        let opened = if options.is_stdin() {
            let name = options.file_name();
            smol::unblock(move || {
                let rows = reader.from_reader(name, io::stdin())?;
                Self::check(rows.header().clone(), &column, rows)
            })
        } else {
            smol::unblock(move || {
                let rows = reader.open(path)?;
                Self::check(rows.header().clone(), &column, rows)
            })
        };
        Ok(opened.await?)
    }

    fn check(
        header: Header,
        column: &str,
        rows: impl Iterator<Item = RowResult> + Send + 'static,
    ) -> Result<Self, CsvError> {
        let column = header.column(column)?;
        Ok(Self {
            header,
            column,
            rows: Box::new(rows),
        })
    }

    /// The rows, read on a thread that may wait, and `None` after the last one.
    pub(crate) fn rows(self) -> impl Stream<Item = Option<RowResult>> {
        Unblock::with_capacity(READ_AHEAD, self.rows.map(Some).chain([None]))
    }
}
