//! In: a file and the bytes in which a record stands. Out: that record.
//!
//! The file is read in aligned blocks, and the blocks that were read last are kept. In a file whose
//! lanes are mixed, the rows that follow each other stand in the same block. In a file sorted by
//! lane each lane walks through blocks of its own, so there is room for two a lane, up to a bound.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
};

use brigade::csv::ByteRecord;
use csv_core::ReadRecordResult;

/// How many bytes of blocks are kept, at most.
const KEPT_BYTES: usize = 8 * 1024 * 1024;
const MIN_BLOCK: usize = 512;
const MAX_BLOCK: usize = 8 * 1024;

/// The blocks of a file that were read last.
pub(super) struct Blocks {
    block_size: usize,
    /// How many blocks are kept.
    capacity: usize,
    blocks: HashMap<u64, Box<[u8]>>,
    /// The numbers of the blocks, the oldest first.
    ages: VecDeque<u64>,
}

impl Blocks {
    /// Chooses the size of the blocks so that each of so many lanes has room for two.
    pub(super) fn new(lanes: usize) -> Self {
        let wanted = 2 * lanes.max(8);
        let block_size = (KEPT_BYTES / wanted).clamp(MIN_BLOCK, MAX_BLOCK);
        Self {
            block_size,
            capacity: wanted.min(KEPT_BYTES / block_size),
            blocks: HashMap::new(),
            ages: VecDeque::new(),
        }
    }

    /// The bytes from `offset` to the end of its block; none at the end of the file.
    fn read(&mut self, file: &File, offset: u64) -> io::Result<&[u8]> {
        let size = self.block_size as u64;
        let (number, start) = (offset / size, (offset % size) as usize);
        if !self.blocks.contains_key(&number) {
            let block = read_block(file, number * size, self.block_size)?;
            if self.ages.len() == self.capacity
                && let Some(oldest) = self.ages.pop_front()
            {
                self.blocks.remove(&oldest);
            }
            self.ages.push_back(number);
            self.blocks.insert(number, block);
        }
        let block = &self.blocks[&number];
        Ok(&block[start.min(block.len())..])
    }
}

/// Reads a whole block, or what is left of the file.
fn read_block(file: &File, offset: u64, size: usize) -> io::Result<Box<[u8]>> {
    let mut block = vec![0; size];
    let mut length = 0;
    while length < size {
        match file.read_at(&mut block[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    block.truncate(length);
    Ok(block.into_boxed_slice())
}

/// Parses one record at a time.
pub(super) struct Parser {
    reader: csv_core::Reader,
    /// Room for the fields of a record, one after the other, and for their ends. Both grow to the
    /// longest record.
    fields: Vec<u8>,
    ends: Vec<usize>,
}

impl Parser {
    pub(super) fn new(delimiter: u8) -> Self {
        Self {
            reader: csv_core::ReaderBuilder::new().delimiter(delimiter).build(),
            fields: vec![0; 1024],
            ends: vec![0; 16],
        }
    }

    /// Reads the record that starts where `bytes` start. `None` if there is none.
    pub(super) fn read(
        &mut self,
        blocks: &mut Blocks,
        file: &File,
        bytes: Range<u64>,
    ) -> io::Result<Option<ByteRecord>> {
        self.reader.reset();
        // The parser drops a byte order mark from the first bytes it sees. In a record such a mark
        // is data, so that a blank line, which the parser skips, goes before it.
        self.reader
            .read_record(b"\n", &mut self.fields, &mut self.ends);
        let (mut offset, mut length, mut count) = (bytes.start, 0, 0);
        loop {
            let block = if offset < bytes.end {
                blocks.read(file, offset)?
            } else {
                &[]
            };
            // A file that was cut since its first reading may have a record that ends before it starts.
            let left = bytes.end.saturating_sub(offset);
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            let (result, read, written, ended) = self.reader.read_record(
                &block[..block.len().min(left)],
                &mut self.fields[length..],
                &mut self.ends[count..],
            );
            offset += read as u64;
            length += written;
            count += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.fields.resize(2 * self.fields.len(), 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
                ReadRecordResult::Record => return Ok(Some(self.record(count))),
                ReadRecordResult::End => return Ok(None),
            }
        }
    }

    fn record(&self, count: usize) -> ByteRecord {
        let ends = &self.ends[..count];
        let length = ends.last().copied().unwrap_or_default();
        let mut record = ByteRecord::with_capacity(length, count);
        let mut start = 0;
        for &end in ends {
            record.push_field(&self.fields[start..end]);
            start = end;
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(text: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        file
    }

    #[test]
    fn a_record_longer_than_blocks_and_room_is_read_whole() {
        let (long, many) = ("x\"\"\n".repeat(5_000), "y,".repeat(5_000));
        let text = format!("a\n\"{long}\",{many}\r\nb\n");
        let file = file(text.as_bytes());
        let end = text.len() as u64;
        let mut blocks = Blocks::new(1_000_000);
        let mut parser = Parser::new(b',');
        let mut read = |range| parser.read(&mut blocks, &file, range).unwrap().unwrap();
        let record = read(2..end - 2);
        assert_eq!(record.len(), 5_002);
        assert_eq!(&record[0], long.replace("\"\"", "\"").as_bytes());
        assert_eq!(read(0..2), ["a"][..]);
        assert_eq!(read(end - 2..end), ["b"][..]);
    }

    #[test]
    fn a_byte_order_mark_at_the_start_of_a_record_is_data() {
        let text = "\u{feff}a,b\n".as_bytes();
        let mut parser = Parser::new(b',');
        let record = parser.read(&mut Blocks::new(1), &file(text), 0..text.len() as u64);
        assert_eq!(record.unwrap().unwrap(), ["\u{feff}a", "b"][..]);
    }

    #[test]
    fn where_the_file_ends_early_there_is_no_record_and_the_parser_goes_on_elsewhere() {
        let file = file(b"a\nb\n");
        let (mut parser, mut blocks) = (Parser::new(b','), Blocks::new(1));
        let mut read = |range| parser.read(&mut blocks, &file, range).unwrap();
        assert_eq!(read(4..9), None);
        assert_eq!(read(2..4), Some(ByteRecord::from(vec!["b"])));
    }

    #[test]
    fn nothing_is_read_beyond_the_bytes_of_the_record() {
        let file = file(b"a,\"bcd\ne\n");
        let (mut parser, mut blocks) = (Parser::new(b','), Blocks::new(1));
        let mut read = |range| parser.read(&mut blocks, &file, range).unwrap();
        assert_eq!(read(0..5), Some(ByteRecord::from(vec!["a", "bc"])));
    }

    #[test]
    fn after_a_read_error_the_next_record_is_whole_again() {
        let text = [&b"a\n\""[..], &[b'x'; MAX_BLOCK], b"\"\n"].concat();
        let file = file(&text);
        let dir = tempfile::tempdir().unwrap();
        let unreadable = File::create(dir.path().join("write-only")).unwrap();
        let (mut parser, mut blocks) = (Parser::new(b','), Blocks::new(1));
        let first = ByteRecord::from(vec!["a"]);
        assert_eq!(
            parser.read(&mut blocks, &file, 0..2).unwrap().as_ref(),
            Some(&first)
        );
        // The first block is kept, so that the error comes inside the quotes.
        parser
            .read(&mut blocks, &unreadable, 2..text.len() as u64)
            .unwrap_err();
        assert_eq!(parser.read(&mut blocks, &file, 0..2).unwrap(), Some(first));
    }

    #[test]
    fn no_more_blocks_are_kept_than_the_bound_allows() {
        let text = vec![b'x'; 64 * MIN_BLOCK];
        let file = file(&text);
        let mut blocks = Blocks::new(1_000_000);
        assert_eq!(blocks.block_size * blocks.capacity, KEPT_BYTES);
        blocks.capacity = 3;
        for round in 0..2 {
            for number in 0..64 {
                let offset = (number * MIN_BLOCK + round) as u64;
                assert_eq!(blocks.read(&file, offset).unwrap().len(), MIN_BLOCK - round);
                assert!(blocks.blocks.len() <= 3 && blocks.ages.len() == blocks.blocks.len());
            }
        }
    }
}
