//! The rows of the input, taken lane by lane in turn. In: a CSV file or stdin. Out: its rows, each
//! with its lane, so that a file sorted by host runs as if it were mixed.
//!
//! | order | regular file | pipe or stdin |
//! |---|---|---|
//! | [`Order::Spread`] | one pass notes where each row stands; rows are read again in turn | as `Window` |
//! | [`Order::Window`] | as a pipe | at most `lookahead` rows are held, grouped by lane |
//! | [`Order::Input`] | one pass, as `Spread`; then in the order of the file | in the order of the input |
//!
//! Where there is a pass, a fault of the file is known before the first row is handed out.

mod blocks;
mod index;
mod indexed;
mod lanes;
mod window;

use std::{
    error::Error,
    fmt,
    fs::File,
    future::poll_fn,
    io,
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use brigade::csv::{BadRow, CsvError, Header, Reader, Row, Rows};

pub(crate) use self::lanes::{Lane, LaneId};
use self::{
    indexed::Indexed,
    lanes::Lanes,
    window::{RowIterator, Window},
};

/// The name of stdin in messages.
const STDIN: &str = "stdin";

/// What is read, and how.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The file; `None` is stdin.
    pub(crate) path: Option<PathBuf>,
    pub(crate) reader: Reader,
    pub(crate) order: Order,
    /// How many rows are held where there is no index, at least 1. Each has at most
    /// `max_record_bytes`.
    pub(crate) lookahead: usize,
}

/// In which order rows are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Lanes take turns. A regular file is indexed first.
    Spread,
    /// Lanes take turns, as far as `lookahead` rows reach.
    Window,
    /// The order of the file. Lanes have no quota.
    Input,
}

/// Whether a row is still to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Take,
    /// The row is neither held nor handed out: it was done in an earlier run.
    Skip,
}

/// A CSV input whose header is read. No row is read yet.
pub(crate) struct Input {
    settings: Settings,
    header: Header,
    opened: Opened,
}

enum Opened {
    /// A file that is read twice.
    Regular(Box<Rows<File>>),
    /// An input that is read once, on a thread that may wait.
    Stream(RowIterator),
}

impl Input {
    /// Opens the input and reads its header, on a thread that may wait: a pipe may have no header
    /// for a while.
    pub(crate) async fn open(settings: Settings) -> Result<Self, CsvError> {
        smol::unblock(move || Self::open_blocking(settings)).await
    }

    fn open_blocking(settings: Settings) -> Result<Self, CsvError> {
        let (header, opened) = match &settings.path {
            None => {
                let rows = settings.reader.from_reader(STDIN, io::stdin())?;
                (rows.header().clone(), Opened::Stream(Box::new(rows)))
            }
            Some(path) => {
                let rows = settings.reader.open(path)?;
                let header = rows.header().clone();
                let is_regular = rows.get_ref().metadata().is_ok_and(|data| data.is_file());
                if is_regular && settings.order != Order::Window {
                    (header, Opened::Regular(Box::new(rows)))
                } else {
                    (header, Opened::Stream(Box::new(rows)))
                }
            }
        };
        Ok(Self {
            settings,
            header,
            opened,
        })
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Whether the rows come from a regular file that [`into_feed`](Self::into_feed) reads once to
    /// its end before a row is handed out.
    pub(crate) fn is_indexed(&self) -> bool {
        matches!(self.opened, Opened::Regular(_))
    }

    /// Prepares the rows for being handed out, and makes the pass where there is one.
    ///
    /// `lane_of` names the lane of a row. `check` sees each good row once, in the order of the
    /// input: during the pass, or else when it is read. `quota` says how many rows of a lane may be
    /// out at once, and is asked once for each lane.
    ///
    /// Dropping the future ends the pass.
    ///
    /// # Errors
    ///
    /// Where there is a pass: if the file is broken, changes or cannot be read, or `check` fails.
    pub(crate) async fn into_feed<'a, E>(
        self,
        lane_of: impl Fn(&Row) -> Lane + 'a,
        check: impl FnMut(&Row) -> Result<Keep, E> + 'a,
        quota: impl Fn(&str) -> usize + 'a,
    ) -> Result<Feed<'a, E>, FeedError<E>> {
        let lanes = Lanes::new(quota);
        let in_order = self.settings.order == Order::Input;
        let source = match self.opened {
            Opened::Regular(rows) => {
                let indexed = Indexed::new(rows, in_order, lanes, lane_of, check);
                Source::Indexed(Box::new(indexed.await?))
            }
            Opened::Stream(rows) => {
                let lookahead = self.settings.lookahead;
                let window = Window::new(rows, lookahead, in_order, lanes, lane_of, check);
                Source::Window(Box::new(window))
            }
        };
        Ok(Feed {
            source,
            has_ended: false,
            waker: None,
        })
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input")
            .field("settings", &self.settings)
            .field("header", &self.header)
            .field("is_indexed", &self.is_indexed())
            .finish_non_exhaustive()
    }
}

/// The rows of an input, handed out lane by lane in turn.
///
/// It belongs to one task. [`poll_next`](Self::poll_next) is pending while each lane that has rows
/// has its quota out; [`done`](Self::done) wakes the task that polled last.
pub(crate) struct Feed<'a, E> {
    source: Source<'a, E>,
    /// The end or a last error was handed out.
    has_ended: bool,
    /// The task that waits for [`done`](Self::done).
    waker: Option<Waker>,
}

enum Source<'a, E> {
    Indexed(Box<Indexed<'a>>),
    Window(Box<Window<'a, E>>),
}

/// What a [`Feed`] hands out.
#[derive(Debug)]
pub(crate) enum Fed {
    Row {
        row: Row,
        /// The number of the record, counted from 1. Bad rows count.
        number: u64,
        lane: LaneId,
    },
    /// A row that is of no use. It belongs to no lane, and is not waited for.
    Bad(BadRow),
}

impl<E> Feed<'_, E> {
    /// How many rows the input has, bad and skipped ones included, once it was read to its end.
    pub(crate) fn total(&self) -> Option<u64> {
        match &self.source {
            Source::Indexed(indexed) => Some(indexed.total()),
            Source::Window(window) => window.total(),
        }
    }

    /// The lanes seen so far, each with its number of rows that were read and are still to be
    /// handed out. The lane at index `i` is that of the [`LaneId`] with this index.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = (&Lane, u64)> {
        self.lanes_ref().iter()
    }

    /// The name of a lane.
    pub(crate) fn lane(&self, lane: LaneId) -> &Lane {
        self.lanes_ref().name(lane)
    }

    /// The next row of a lane that has fewer rows out than its quota; waits until there is one.
    /// `None` once the input has ended and all rows were handed out.
    ///
    /// # Errors
    ///
    /// A fault of the input, after all rows before it; an error of `check`, at once. Either is the
    /// last item.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no row.
    pub(crate) async fn next(&mut self) -> Option<Result<Fed, FeedError<E>>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`next`](Self::next), for a task that polls several things.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Fed, FeedError<E>>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let next = match &mut self.source {
            Source::Indexed(indexed) => indexed.next(),
            Source::Window(window) => window.next(cx),
        };
        match next {
            Ok(Next::Fed(fed)) => Poll::Ready(Some(Ok(fed))),
            Ok(Next::Wait) => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Ok(Next::End) => {
                self.has_ended = true;
                Poll::Ready(None)
            }
            Err(error) => {
                self.has_ended = true;
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    /// A row of the lane is finished: one more may be handed out.
    pub(crate) fn done(&mut self, lane: LaneId) {
        match &mut self.source {
            Source::Indexed(indexed) => indexed.lanes.done(lane),
            Source::Window(window) => window.lanes.done(lane),
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether `lookahead` rows are held and all of them wait for their lanes: more of the input
    /// would let more rows start.
    pub(crate) fn waits_for_lookahead(&self) -> bool {
        match &self.source {
            Source::Indexed(_) => false,
            Source::Window(window) => window.is_limiting(),
        }
    }

    fn lanes_ref(&self) -> &Lanes<'_> {
        match &self.source {
            Source::Indexed(indexed) => &indexed.lanes,
            Source::Window(window) => &window.lanes,
        }
    }
}

impl<E> fmt::Debug for Feed<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("total", &self.total())
            .field("has_ended", &self.has_ended)
            .finish_non_exhaustive()
    }
}

/// What a source answers when it is asked for a row.
enum Next {
    Fed(Fed),
    /// There are rows to come. The task is woken where it waits for the input, and not where it
    /// waits for [`Feed::done`].
    Wait,
    End,
}

impl Next {
    fn row(row: Row, lane: LaneId) -> Self {
        let number = row.record_number();
        Self::Fed(Fed::Row { row, number, lane })
    }
}

/// Why no more rows can be handed out.
#[derive(Debug)]
pub(crate) enum FeedError<E> {
    /// The input is not CSV, or cannot be read.
    File(CsvError),
    /// A row cannot be read a second time.
    CannotReread {
        file: Arc<str>,
        line: Option<u64>,
        source: io::Error,
    },
    /// The length, the time of modification or a row differ from what was found first.
    Changed { file: Arc<str> },
    /// The file has more rows than can be numbered.
    TooManyRows { file: Arc<str> },
    /// The error of `check`.
    Check(E),
}

impl<E: fmt::Display> fmt::Display for FeedError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::CannotReread { file, line, source } => {
                f.write_str(file)?;
                if let Some(line) = line {
                    write!(f, ":{line}")?;
                }
                write!(f, ": cannot read again: {source}")
            }
            Self::Changed { file } => write!(f, "{file}: changed while it was read"),
            Self::TooManyRows { file } => {
                write!(f, "{file}: more than {} rows", lanes::MAX_ENTRIES)
            }
            Self::Check(error) => error.fmt(f),
        }
    }
}

impl<E: Error + 'static> Error for FeedError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::File(error) => error.source(),
            Self::CannotReread { source, .. } => Some(source),
            Self::Changed { .. } | Self::TooManyRows { .. } => None,
            Self::Check(error) => error.source(),
        }
    }
}

#[cfg(test)]
mod tests;
