//! Guards the CSV parser against malformed files.
//!
//! In: the bytes of a file. Out: the same bytes, and the line and the offset at which each record
//! starts.
//!
//! The parser behind this module accepts every input: a quote that is never closed swallows the
//! rest of the file as one field, a record may grow forever, and its line numbers are off after a
//! blank line, a carriage return or a line break inside quotes. The guard sits between the file and
//! that parser and runs the same state machine over the same bytes. It ends the input with a
//! [`Fault`] where the parser would go on.
//!
//! It never changes a record, never reads ahead on its own, and never holds more than the three
//! bytes in which a byte order mark may hide. It holds line and offset only for a record that the
//! parser has begun and not yet returned.

use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    io::{self, Read},
};

const QUOTE: u8 = b'"';
pub(super) const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";
const MARKS: [&[u8]; 3] = [UTF8_MARK, b"\xff\xfe", b"\xfe\xff"];

/// A `Read` adaptor that watches the records pass.
pub(super) struct Guard<R> {
    inner: R,
    opening: Opening,
    scanner: Scanner,
    /// Why the input ended early. Set once; each later read repeats it.
    fault: Option<Fault>,
}

/// Where a record starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) line: u64,
    /// How many bytes precede the record in the input, a byte order mark included.
    pub(super) offset: u64,
}

/// How a file cannot be read as CSV, though its bytes could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The input starts with a byte order mark of UTF-16.
    Utf16,
    /// The input ended inside a quoted field.
    UnclosedQuote { line: u64 },
    /// A record has more bytes than allowed; `quote` is the line of the quote that is still open,
    /// if one is.
    RecordTooLong {
        line: u64,
        limit: usize,
        quote: Option<u64>,
    },
}

impl<R> Guard<R> {
    pub(super) fn new(inner: R, delimiter: u8, max_record_bytes: usize) -> Self {
        Self {
            inner,
            opening: Opening::default(),
            scanner: Scanner::new(delimiter, max_record_bytes),
            fault: None,
        }
    }

    /// Takes the start of the oldest record not yet asked for.
    pub(super) fn take_start(&mut self) -> Option<Start> {
        self.scanner.starts.pop_front()
    }

    /// The line that has been reached by reading.
    pub(super) fn line(&self) -> u64 {
        self.scanner.line
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    pub(super) fn inner(&self) -> &R {
        &self.inner
    }
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Some(fault) = self.fault {
            return Err(io::Error::other(fault));
        }
        if !self.opening.done {
            if self.opening.read(&mut self.inner)? {
                return Err(self.fail(Fault::Utf16));
            }
            // A mark that was dropped is part of the file.
            self.scanner.offset = self.opening.from as u64;
            // The parser strips a byte order mark of its own, but only if the first read returns
            // all of it, and takes a read of the mark alone for the end. A blank line first
            // switches that off: the parser skips it, and the mark is stripped here, however the
            // bytes arrive.
            buffer[0] = b'\n';
            return Ok(1);
        }
        let length = match self.opening.take(buffer) {
            0 => read_uninterrupted(&mut self.inner, buffer)?,
            held => held,
        };
        let (good, fault) = if length == 0 {
            (0, self.scanner.end().err())
        } else {
            self.scanner.scan(&buffer[..length])
        };
        match fault {
            // What precedes the fault still goes out, so that complete records before it are not
            // lost.
            Some(fault) if good > 0 => self.fault = Some(fault),
            Some(fault) => return Err(self.fail(fault)),
            None => {}
        }
        Ok(good)
    }
}

impl<R> Guard<R> {
    fn fail(&mut self, fault: Fault) -> io::Error {
        self.fault = Some(fault);
        io::Error::other(fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utf16 => f.write_str("the file is UTF-16"),
            Self::UnclosedQuote { line } => write!(f, "unclosed quote opened at line {line}"),
            Self::RecordTooLong { line, limit, .. } => {
                write!(f, "record at line {line} has more than {limit} bytes")
            }
        }
    }
}

impl Error for Fault {}

/// Reads like `reader.read`, again when a signal interrupts it: the parser would take that for the
/// end of the file.
fn read_uninterrupted(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The first bytes of the input, held until it is known whether they are a byte order mark.
#[derive(Default)]
struct Opening {
    bytes: [u8; 3],
    from: usize,
    to: usize,
    done: bool,
}

impl Opening {
    /// Reads while a mark is possible, drops one of UTF-8 and says whether there is one of UTF-16.
    fn read(&mut self, reader: &mut impl Read) -> io::Result<bool> {
        while MARKS
            .iter()
            .any(|mark| mark.len() > self.to && mark.starts_with(&self.bytes[..self.to]))
        {
            match read_uninterrupted(reader, &mut self.bytes[self.to..])? {
                0 => break,
                length => self.to += length,
            }
        }
        self.done = true;
        let held = &self.bytes[..self.to];
        if held == UTF8_MARK {
            self.from = self.to;
        }
        Ok(MARKS[1..].iter().any(|mark| held.starts_with(mark)))
    }

    /// Moves held bytes to `buffer`; 0 once there are none.
    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let length = buffer.len().min(self.to - self.from);
        buffer[..length].copy_from_slice(&self.bytes[self.from..self.from + length]);
        self.from += length;
        length
    }
}

/// Where the next byte falls. These are the states of the parser, with its ends of records folded
/// into `Between`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between two records: a line break here is the rest of an end or a blank line, and starts
    /// nothing.
    Between,
    /// After a delimiter. Only here, and at the start of a record, does a quote open a field.
    FieldStart,
    /// In an unquoted field, or in the text after a closing quote: a quote here is data.
    Unquoted,
    /// In a quoted field: only a quote ends it.
    Quoted,
    /// After a quote in a quoted field: it is escaped if another follows, else it closed the field.
    QuoteInQuoted,
}

/// The state machine: pure, and ignorant of where the bytes come from.
struct Scanner {
    delimiter: u8,
    limit: usize,
    state: State,
    line: u64,
    /// How many bytes of the input precede the next call of `scan`.
    offset: u64,
    /// The last byte was a carriage return, so that a line feed now belongs to it.
    after_return: bool,
    record_start: u64,
    record_bytes: usize,
    /// Where the quote of the current quoted field opened.
    quote_start: u64,
    /// The starts of records that the parser has not yet handed out. A record has at least one
    /// byte and an end, and the parser empties its buffer before it asks for more, so there are at
    /// most half as many as that buffer has bytes, and the one in progress.
    starts: VecDeque<Start>,
}

impl Scanner {
    fn new(delimiter: u8, limit: usize) -> Self {
        Self {
            delimiter,
            limit,
            state: State::Between,
            line: 1,
            offset: 0,
            after_return: false,
            record_start: 1,
            record_bytes: 0,
            quote_start: 1,
            starts: VecDeque::new(),
        }
    }

    /// Takes `bytes` in and says how many of them may go on, and why not all.
    fn scan(&mut self, bytes: &[u8]) -> (usize, Option<Fault>) {
        for (index, &byte) in bytes.iter().enumerate() {
            if self.state == State::Between && !matches!(byte, b'\r' | b'\n') {
                self.record_start = self.line;
                self.record_bytes = 0;
                self.starts.push_back(Start {
                    line: self.line,
                    offset: self.offset + index as u64,
                });
            }
            self.state = self.after(byte);
            if self.state != State::Between {
                self.record_bytes += 1;
                if self.record_bytes > self.limit {
                    return (index, Some(self.too_long()));
                }
            }
            self.line += u64::from(byte == b'\r' || byte == b'\n' && !self.after_return);
            self.after_return = byte == b'\r';
        }
        self.offset += bytes.len() as u64;
        (bytes.len(), None)
    }

    fn after(&mut self, byte: u8) -> State {
        match (self.state, byte) {
            (State::Quoted, QUOTE) => State::QuoteInQuoted,
            (State::Quoted, _) | (State::QuoteInQuoted, QUOTE) => State::Quoted,
            (State::Between | State::FieldStart, QUOTE) => {
                self.quote_start = self.line;
                State::Quoted
            }
            (_, b'\r' | b'\n') => State::Between,
            (_, byte) if byte == self.delimiter => State::FieldStart,
            _ => State::Unquoted,
        }
    }

    fn too_long(&self) -> Fault {
        let quote = (self.state == State::Quoted).then_some(self.quote_start);
        Fault::RecordTooLong {
            line: self.record_start,
            limit: self.limit,
            quote,
        }
    }

    /// Says whether the input may end here.
    fn end(&self) -> Result<(), Fault> {
        match self.state {
            State::Quoted => Err(Fault::UnclosedQuote {
                line: self.quote_start,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(text: &str) -> (Vec<u64>, Result<(), Fault>) {
        let mut scanner = Scanner::new(b',', 1_000);
        assert_eq!(scanner.scan(text.as_bytes()), (text.len(), None));
        let end = scanner.end();
        let lines = scanner.starts.iter().map(|start| start.line).collect();
        (lines, end)
    }

    #[test]
    fn each_kind_of_line_break_counts_as_one_line() {
        assert_eq!(starts("a\nb\r\nc\rd"), (vec![1, 2, 3, 4], Ok(())));
        assert_eq!(starts("a\n\rb"), (vec![1, 3], Ok(())));
        assert_eq!(starts("\"x\r\n\r\ny\"\r\nb"), (vec![1, 4], Ok(())));
        assert_eq!(starts("\"x\r\"\nb"), (vec![1, 3], Ok(())));
    }

    #[test]
    fn blank_lines_start_no_record_and_white_space_does() {
        assert_eq!(starts("\n\na\r\n\r\n \nb\n\n"), (vec![3, 5, 6], Ok(())));
    }

    #[test]
    fn a_quote_opens_a_field_only_at_its_start() {
        assert_eq!(starts("a\"\nb"), (vec![1, 2], Ok(())));
        assert_eq!(starts("\"a\"x\"\nb"), (vec![1, 2], Ok(())));
        assert_eq!(
            starts("\"a\"\"\nb"),
            (vec![1], Err(Fault::UnclosedQuote { line: 1 }))
        );
        assert_eq!(
            starts("a\n\nb,\"c\n"),
            (vec![1, 3], Err(Fault::UnclosedQuote { line: 3 }))
        );
    }

    #[test]
    fn an_unclosed_quote_names_the_line_of_the_quote_and_not_of_the_record() {
        assert_eq!(
            starts("a\n\"b\nc\",\"d\ne"),
            (vec![1, 2], Err(Fault::UnclosedQuote { line: 3 }))
        );
    }

    #[test]
    fn a_record_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
        let mut scanner = Scanner::new(b',', 4);
        assert_eq!(scanner.scan(b"ab,d\r\n\r\nabcd\n"), (13, None));
        let fault = Fault::RecordTooLong {
            line: 4,
            limit: 4,
            quote: None,
        };
        assert_eq!(scanner.scan(b"ab,de\n"), (4, Some(fault)));
    }

    #[test]
    fn a_fault_is_repeated_by_each_later_read() {
        let mut guard = Guard::new(&b"\"a"[..], b',', 10);
        let mut buffer = [0; 8];
        assert_eq!(guard.read(&mut buffer).unwrap(), 1);
        assert_eq!(guard.read(&mut buffer).unwrap(), 2);
        for _ in 0..2 {
            assert_eq!(
                guard.read(&mut buffer).unwrap_err().to_string(),
                "unclosed quote opened at line 1"
            );
        }
        assert_eq!(guard.fault(), Some(Fault::UnclosedQuote { line: 1 }));
    }

    #[test]
    fn starts_are_held_only_for_records_in_the_buffer_of_the_parser() {
        let text = "a\n".repeat(100_000);
        let mut parser = ::csv::ReaderBuilder::new()
            .has_headers(false)
            .buffer_capacity(1_000)
            .from_reader(Guard::new(text.as_bytes(), b',', 10));
        let (mut record, mut lines, mut most) = (::csv::ByteRecord::new(), 0, 0);
        while parser.read_byte_record(&mut record).unwrap() {
            most = most.max(parser.get_ref().scanner.starts.len());
            lines += 1;
            let start = Start {
                line: lines,
                offset: 2 * (lines - 1),
            };
            assert_eq!(parser.get_mut().take_start(), Some(start));
        }
        assert_eq!((lines, parser.get_mut().take_start()), (100_000, None));
        assert!((2..=501).contains(&most), "{most} starts were held");
    }

    #[test]
    fn offsets_count_from_the_first_byte_whatever_the_pieces() {
        let text = "\u{feff}a\r\n\r\n\"b\nc\"\rd".as_bytes();
        for size in 1..=text.len() {
            let mut guard = Guard::new(text, b',', 10);
            let mut buffer = vec![0; size];
            while guard.read(&mut buffer).unwrap() > 0 {}
            let offsets: Vec<_> = guard.scanner.starts.iter().map(|at| at.offset).collect();
            assert_eq!(offsets, [3, 8, 14], "pieces of {size} bytes");
        }
    }

    #[test]
    fn an_input_that_cannot_start_with_a_mark_is_not_waited_for() {
        let mut opening = Opening::default();
        // The first byte rules every mark out, so the reader is not asked for a second one.
        let mut waiting = (&b"a"[..]).chain(Waiting);
        assert!(!opening.read(&mut waiting).unwrap());
        assert_eq!((opening.bytes[0], opening.to), (b'a', 1));
    }

    /// A reader that must not be read, as a terminal without input.
    struct Waiting;

    impl Read for Waiting {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("the reader was asked for more")
        }
    }
}
