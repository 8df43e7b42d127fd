//! In: the rows of an input that can be read only once. Out: the same rows; lanes take turns as far
//! as the window reaches.
//!
//! The input is read on a thread that may wait. A row is taken from it only when no lane with a
//! held row may start one, so the order of the input is kept where no lane is at its quota, and
//! rows are held only for lanes that are.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use brigade::csv::{CsvError, Row, RowError};
use smol::{Unblock, stream::Stream};

use super::{Fed, FeedError, Keep, Lane, Next, lanes::Lanes};

/// How many rows the thread reads before they are asked for.
const READ_AHEAD: usize = 256;

/// How many rows are taken in one poll, so that other futures of the task can run while an input
/// that was done before is skipped.
const ROWS_A_POLL: usize = 128;

pub(super) type RowIterator = Box<dyn Iterator<Item = Result<Row, RowError>> + Send>;

/// At most `lookahead` rows that were read and not handed out.
pub(super) struct Window<'a, E> {
    /// Its entries are indices of `held`.
    pub(super) lanes: Lanes<'a>,
    /// `None` after the end.
    rows: Option<Unblock<RowIterator>>,
    held: Vec<Option<Row>>,
    /// The indices of `held` that are `None`.
    free: Vec<u32>,
    lookahead: usize,
    /// Rows are handed out as they are read, so that none is held.
    in_order: bool,
    lane_of: Box<dyn Fn(&Row) -> Lane + 'a>,
    check: Box<dyn FnMut(&Row) -> Result<Keep, E> + 'a>,
    /// How many rows were read.
    count: u64,
    /// What ended the input early. It is handed out after the rows that are held.
    fault: Option<CsvError>,
    is_complete: bool,
}

impl<'a, E> Window<'a, E> {
    pub(super) fn new(
        rows: RowIterator,
        lookahead: usize,
        in_order: bool,
        lanes: Lanes<'a>,
        lane_of: impl Fn(&Row) -> Lane + 'a,
        check: impl FnMut(&Row) -> Result<Keep, E> + 'a,
    ) -> Self {
        Self {
            lanes,
            rows: Some(Unblock::with_capacity(READ_AHEAD, rows)),
            held: Vec::new(),
            free: Vec::new(),
            lookahead: lookahead.clamp(1, super::lanes::MAX_ENTRIES as usize),
            in_order,
            lane_of: Box::new(lane_of),
            check: Box::new(check),
            count: 0,
            fault: None,
            is_complete: false,
        }
    }

    /// How many rows the input has, once its end was reached without a fault.
    pub(super) fn total(&self) -> Option<u64> {
        self.is_complete.then_some(self.count)
    }

    /// Whether no row can start because the window is full of rows whose lanes have their quota. The
    /// end of the input was not seen then: a full window is not read past.
    pub(super) fn is_limiting(&self) -> bool {
        self.is_full() && !self.lanes.has_turn()
    }

    pub(super) fn next(&mut self, cx: &mut Context<'_>) -> Result<Next, FeedError<E>> {
        for _ in 0..ROWS_A_POLL {
            if let Some((lane, entry)) = self.lanes.pop() {
                return Ok(Next::row(self.release(entry), lane));
            }
            let is_full = self.is_full();
            let Some(rows) = &mut self.rows else {
                return self.end();
            };
            if is_full {
                return Ok(Next::Wait);
            }
            let row = match Pin::new(rows).poll_next(cx) {
                Poll::Ready(Some(row)) => row,
                Poll::Ready(None) => {
                    self.rows = None;
                    self.is_complete = true;
                    continue;
                }
                Poll::Pending => return Ok(Next::Wait),
            };
            match row {
                Ok(row) => {
                    self.count += 1;
                    if (self.check)(&row).map_err(FeedError::Check)? == Keep::Skip {
                        continue;
                    }
                    let lane = self.lanes.id((self.lane_of)(&row));
                    if self.in_order {
                        self.lanes.start(lane);
                        return Ok(Next::row(row, lane));
                    }
                    let entry = self.hold(row);
                    self.lanes.push(lane, entry);
                }
                Err(RowError::Bad(bad)) => {
                    self.count += 1;
                    return Ok(Next::Fed(Fed::Bad(bad)));
                }
                Err(RowError::File(error)) => {
                    self.rows = None;
                    self.fault = Some(error);
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(Next::Wait)
    }

    fn end(&mut self) -> Result<Next, FeedError<E>> {
        if self.lanes.is_waiting() {
            return Ok(Next::Wait);
        }
        match self.fault.take() {
            Some(error) => Err(FeedError::File(error)),
            None => Ok(Next::End),
        }
    }

    fn is_full(&self) -> bool {
        self.held.len() - self.free.len() >= self.lookahead
    }

    fn hold(&mut self, row: Row) -> u32 {
        if let Some(entry) = self.free.pop() {
            self.held[entry as usize] = Some(row);
            return entry;
        }
        self.held.push(Some(row));
        let entry = u32::try_from(self.held.len() - 1);
        entry.expect("`lookahead` bounds the rows that are held, and has 32 bits")
    }

    fn release(&mut self, entry: u32) -> Row {
        self.free.push(entry);
        let row = self.held[entry as usize].take();
        row.expect("an entry is handed out once, and its row is held until then")
    }
}
