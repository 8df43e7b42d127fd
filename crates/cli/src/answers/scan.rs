//! The records of an answers file, read from its start.
//!
//! In: the bytes of the file. Out: each whole record, its line and its place in the file, and where
//! the last whole record ends.

use std::io::{self, Read};

use super::record::{Decoded, Record, UTF8_MARK, decode};

/// The bytes that are read at once. The buffer grows where a record is longer.
const BLOCK: usize = 128 * 1024;

/// Reads records and counts lines and bytes. Holds one block, or one record if that is longer.
pub(super) struct Scanner<R> {
    input: R,
    delimiter: u8,
    buffer: Vec<u8>,
    /// The part of `buffer` that is read and not yet scanned.
    start: usize,
    filled: usize,
    /// The part of `buffer` that is the last record.
    record: std::ops::Range<usize>,
    /// The place of `buffer[start]` in the file.
    offset: u64,
    /// The line of `buffer[start]`.
    line: u64,
}

/// Why a scan ended early.
#[derive(Debug)]
pub(super) enum ScanError {
    Io(io::Error),
    /// The text is not what `encode` writes.
    Malformed {
        line: u64,
        reason: &'static str,
    },
}

impl<R: Read> Scanner<R> {
    pub(super) fn new(input: R, delimiter: u8) -> Self {
        Self {
            input,
            delimiter,
            buffer: vec![0; BLOCK],
            start: 0,
            filled: 0,
            record: 0..0,
            offset: 0,
            line: 1,
        }
    }

    /// Reads the next whole record and returns its first line, or nothing at the end of the file or
    /// before a torn record. Blank lines are passed over.
    pub(super) fn next(&mut self, record: &mut Record) -> Result<Option<u64>, ScanError> {
        loop {
            let text = &self.buffer[self.start..self.filled];
            if self.offset == 0 && text.starts_with(UTF8_MARK) {
                self.advance(UTF8_MARK.len(), 0);
                continue;
            }
            match decode(text, self.delimiter, record) {
                Decoded::Whole { len, breaks } => {
                    let line = self.line;
                    let is_blank = matches!(&text[..len], b"\n" | b"\r\n");
                    self.record = self.start..self.start + len;
                    self.advance(len, breaks);
                    if !is_blank {
                        return Ok(Some(line));
                    }
                }
                Decoded::Partial => {
                    if !self.fill().map_err(ScanError::Io)? {
                        return Ok(None);
                    }
                }
                Decoded::Malformed { reason, breaks } => {
                    let line = self.line + breaks;
                    return Err(ScanError::Malformed { line, reason });
                }
            }
        }
    }

    /// The text of the record that `next` returned last, its line end included.
    pub(super) fn text(&self) -> &[u8] {
        &self.buffer[self.record.clone()]
    }

    /// Where the last whole record ends: the bytes before it in the file.
    pub(super) fn end(&self) -> u64 {
        self.offset
    }

    fn advance(&mut self, len: usize, breaks: u64) {
        self.start += len;
        self.offset += len as u64;
        self.line += breaks;
    }

    /// Reads more behind the bytes that are not scanned. Returns whether there were any.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.filled, 0);
        self.filled -= self.start;
        self.start = 0;
        self.record = 0..0;
        if self.filled == self.buffer.len() {
            // Doubled, so that a record of n bytes is decoded O(log n) times.
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        // The whole room is filled for the same reason: a pipe may give a few bytes at a time.
        let before = self.filled;
        while self.filled < self.buffer.len() {
            match self.input.read(&mut self.buffer[self.filled..]) {
                Ok(0) => break,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.filled > before)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Cursor, Read},
        time::Instant,
    };

    use super::{
        super::record::{Format, encode},
        BLOCK, Record, ScanError, Scanner,
    };

    const RAW: Format = Format {
        delimiter: b',',
        spreadsheet: false,
    };

    /// Scans all of `input`: the lines and cells of the whole records, and where the last one ends.
    fn scan(input: impl Read) -> (Vec<(u64, Vec<Vec<u8>>)>, u64) {
        let mut scanner = Scanner::new(input, b',');
        let mut record = Record::default();
        let mut records = Vec::new();
        while let Some(line) = scanner.next(&mut record).expect("well formed") {
            records.push((line, record.iter().map(<[u8]>::to_vec).collect()));
        }
        (records, scanner.end())
    }

    /// A generator of numbers from a seed (xorshift).
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % limit as u64) as usize
        }

        fn cell(&mut self) -> Vec<u8> {
            const PARTS: [&str; 10] = ["a", "\"", ",", "\n", "\r", "\r\n", "é", "\0", " ", "\"\""];
            (0..self.below(5))
                .flat_map(|_| PARTS[self.below(PARTS.len())].bytes())
                .collect()
        }
    }

    #[test]
    fn a_file_cut_at_any_byte_ends_with_the_last_record_that_was_written_whole() {
        for seed in 1_u64..=40 {
            let mut random = Random(seed << 32 | 0x9e37_79b9);
            let width = 1 + random.below(4);
            let mut text = Vec::new();
            let mut ends = vec![0];
            let mut records = Vec::new();
            for _ in 0..12 {
                let cells: Vec<Vec<u8>> = (0..width).map(|_| random.cell()).collect();
                let line = 1 + text.iter().filter(|byte| **byte == b'\n').count() as u64;
                encode(&mut text, RAW, cells.iter());
                ends.push(text.len());
                records.push((line, cells));
            }
            for cut in 0..=text.len() {
                let whole = ends
                    .iter()
                    .rposition(|end| *end <= cut)
                    .expect("0 is there");
                let expected = (records[..whole].to_vec(), ends[whole] as u64);
                assert_eq!(scan(&text[..cut]), expected, "seed {seed}, cut at {cut}");
            }
        }
    }

    #[test]
    fn records_longer_than_a_block_or_across_blocks_are_read_whole() {
        let long = "x\"\n".repeat(BLOCK);
        let cells = [long.as_bytes(), b"1"];
        let mut text = Vec::new();
        for _ in 0..3 {
            encode(&mut text, RAW, cells.into_iter());
        }
        let (records, end) = scan(Trickle(Cursor::new(&text)));
        assert_eq!(end, text.len() as u64);
        let lines = 1 + BLOCK as u64;
        let found: Vec<u64> = records.iter().map(|(line, _)| *line).collect();
        assert_eq!(found, [1, 1 + lines, 1 + 2 * lines]);
        assert!(records.iter().all(|(_, found)| *found == cells));
    }

    /// A reader that gives at most 1,000 bytes at a time.
    struct Trickle<R>(R);

    impl<R: Read> Read for Trickle<R> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let len = buffer.len().min(1000);
            self.0.read(&mut buffer[..len])
        }
    }

    #[test]
    fn a_file_saved_by_a_spreadsheet_is_read_alike() {
        let (records, end) = scan(&b"\xef\xbb\xbf\"a\",b\r\n\r\n\n1,2\r\n3"[..]);
        let cells = |first: &str, second: &str| vec![first.into(), second.into()];
        assert_eq!(records, [(1, cells("a", "b")), (4, cells("1", "2"))]);
        assert_eq!(end, 18);
    }

    #[test]
    fn a_fault_names_its_line() {
        let text = b"a,b\n\"1\n2\",3\n4,\"5\n\"6\n";
        let mut scanner = Scanner::new(&text[..], b',');
        let mut record = Record::default();
        let error = loop {
            match scanner.next(&mut record) {
                Ok(found) => assert!(found.is_some()),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(error, ScanError::Malformed { line: 5, .. }),
            "{error:?}"
        );
    }

    #[test]
    fn zeros_that_fill_more_than_a_block_are_torn() {
        let mut text = b"a,b\n1,\"2\"".to_vec();
        text.resize(3 * BLOCK, 0);
        assert_eq!(scan(&text[..]).1, 4);
        text.extend_from_slice(b"x\n");
        let mut scanner = Scanner::new(&text[..], b',');
        let mut record = Record::default();
        assert!(matches!(scanner.next(&mut record), Ok(Some(1))));
        assert!(matches!(
            scanner.next(&mut record),
            Err(ScanError::Malformed { line: 2, .. })
        ));
    }

    #[test]
    #[ignore = "a measurement: run it in release"]
    fn print_the_rate_of_the_scan() {
        let mut text = Vec::new();
        for row in 0..500_000 {
            let row = format!("{row}");
            let cells = [
                &row,
                "https://example.org/a/b?id=7",
                "Smith, \"J.\"",
                &row,
                "true",
                "200",
                "https://example.org/a/b?id=7",
                "0",
                "text/html; charset=utf-8",
                "1024",
                "1",
                "0",
                "0",
                "37",
                "2026-01-01T00:00:00.000Z",
                "",
                "",
            ];
            encode(&mut text, RAW, cells.iter());
        }
        let began = Instant::now();
        let mut scanner = Scanner::new(&text[..], b',');
        let mut record = Record::default();
        let mut count = 0;
        while scanner.next(&mut record).expect("well formed").is_some() {
            count += 1;
        }
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{:.0} rows/s, {} bytes",
            f64::from(count) / seconds,
            text.len()
        );
    }
}
