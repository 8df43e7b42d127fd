//! In: a regular file. Out: its rows in any order, after one pass that noted where they stand.
//!
//! The pass finds all that is wrong with the file. Rows are not kept: each is read again, from the
//! page cache, when its turn comes. The file is open all the while, so it may be renamed or
//! replaced. It must not be written to, which is checked after the pass and after the last row.

use std::{fs::File, io, ops::Range, sync::Arc, time::SystemTime};

use brigade::csv::{BadRow, ByteRecord, Header, Row, RowError, Rows};

use super::{
    Fed, FeedError, Keep, Lane, Next,
    blocks::{Blocks, Parser},
    index::{Index, Position},
    lanes::Lanes,
};

/// After how many rows the pass lets other futures of its task run.
const ROWS_A_POLL: u64 = 1024;

/// A file whose rows are all known.
pub(super) struct Indexed<'a> {
    /// Its entries are those of `index`. Bad rows, and all rows in
    /// [`Order::Input`](super::Order::Input), take no turn.
    pub(super) lanes: Lanes<'a>,
    index: Index,
    lane_of: Box<dyn Fn(&Row) -> Lane + 'a>,
    file: Reread,
}

impl<'a> Indexed<'a> {
    /// Reads the file to its end.
    pub(super) async fn new<E>(
        mut rows: Box<Rows<File>>,
        in_order: bool,
        mut lanes: Lanes<'a>,
        lane_of: impl Fn(&Row) -> Lane + 'a,
        mut check: impl FnMut(&Row) -> Result<Keep, E>,
    ) -> Result<Self, FeedError<E>> {
        let name = Arc::<str>::from(rows.header().file());
        let stamp = Stamp::of(rows.get_ref()).map_err(|error| cannot_reread(&name, None, error))?;
        let too_many = || FeedError::TooManyRows {
            file: Arc::clone(&name),
        };
        let mut index = Index::default();
        while let Some(row) = rows.next() {
            match row {
                Ok(row) => {
                    let entry = index.push(rows.offset(), row.line());
                    let entry = entry.ok_or_else(too_many)?;
                    if check(&row).map_err(FeedError::Check)? == Keep::Take {
                        let lane = lanes.id(lane_of(&row));
                        if in_order {
                            lanes.expect(lane);
                            lanes.push_unlimited(entry);
                        } else {
                            lanes.push(lane, entry);
                        }
                    }
                }
                Err(RowError::Bad(bad)) => {
                    let entry = index.push(rows.offset(), bad.line());
                    lanes.push_unlimited(entry.ok_or_else(too_many)?);
                }
                Err(RowError::File(error)) => return Err(FeedError::File(error)),
            }
            if index.len().is_multiple_of(ROWS_A_POLL) {
                smol::future::yield_now().await;
            }
        }
        index.finish(stamp.length);
        let blocks = Blocks::new(if in_order { 1 } else { lanes.iter().count() });
        let file = Reread {
            parser: Parser::new(rows.header().delimiter()),
            rows,
            name,
            stamp,
            blocks,
        };
        file.check()?;
        Ok(Self {
            lanes,
            index,
            lane_of: Box::new(lane_of),
            file,
        })
    }

    pub(super) fn total(&self) -> u64 {
        self.index.len()
    }

    pub(super) fn next<E>(&mut self) -> Result<Next, FeedError<E>> {
        if let Some(entry) = self.lanes.pop_unlimited() {
            return match self.file.row(self.index.get(entry))? {
                Ok(row) => {
                    let lane = self.lanes.id((self.lane_of)(&row));
                    self.lanes.start(lane);
                    Ok(Next::row(row, lane))
                }
                Err(bad) => Ok(Next::Fed(Fed::Bad(bad))),
            };
        }
        if let Some((lane, entry)) = self.lanes.pop() {
            // The row was good in the pass.
            let row = self.file.row(self.index.get(entry))?;
            let row = row.map_err(|_| self.file.changed())?;
            return Ok(Next::row(row, lane));
        }
        if self.lanes.is_waiting() {
            return Ok(Next::Wait);
        }
        self.file.check()?;
        Ok(Next::End)
    }
}

/// The file of the pass, for the second reading.
struct Reread {
    /// Read to their end. They keep the file open, and the header.
    rows: Box<Rows<File>>,
    name: Arc<str>,
    stamp: Stamp,
    parser: Parser,
    blocks: Blocks,
}

impl Reread {
    fn header(&self) -> &Header {
        self.rows.header()
    }

    fn row<E>(&mut self, position: Position) -> Result<Result<Row, BadRow>, FeedError<E>> {
        let Position {
            bytes,
            line,
            number,
        } = position;
        let record = self.record(bytes, line)?;
        Ok(Row::new(self.header(), line, number, record))
    }

    fn record<E>(&mut self, bytes: Range<u64>, line: u64) -> Result<ByteRecord, FeedError<E>> {
        let file = self.rows.get_ref();
        self.parser
            .read(&mut self.blocks, file, bytes)
            .map_err(|error| cannot_reread(&self.name, Some(line), error))?
            .ok_or_else(|| self.changed())
    }

    /// Compares the file with what it was before the pass.
    fn check<E>(&self) -> Result<(), FeedError<E>> {
        let now = Stamp::of(self.rows.get_ref());
        let now = now.map_err(|error| cannot_reread(&self.name, None, error))?;
        if now == self.stamp {
            Ok(())
        } else {
            Err(self.changed())
        }
    }

    fn changed<E>(&self) -> FeedError<E> {
        FeedError::Changed {
            file: Arc::clone(&self.name),
        }
    }
}

fn cannot_reread<E>(name: &Arc<str>, line: Option<u64>, source: io::Error) -> FeedError<E> {
    FeedError::CannotReread {
        file: Arc::clone(name),
        line,
        source,
    }
}

/// What tells that a file was written to.
#[derive(PartialEq, Eq)]
struct Stamp {
    length: u64,
    /// Where the file system knows it.
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            length: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }
}
