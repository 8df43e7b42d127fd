//! In: the offset and the line of each record of a file, in its order. Out: those of any record by
//! its entry, which is its record number less 1.
//!
//! It takes 8 bytes a record. The links of the lanes take 4 more.

use std::ops::Range;

use super::lanes::MAX_ENTRIES;

/// Where the records of a file start.
#[derive(Default)]
pub(super) struct Index {
    offsets: Ascending,
    lines: Ascending,
    /// The length of the file.
    end: u64,
}

/// One record: the bytes in which it and the blank lines after it stand, and its line and number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) bytes: Range<u64>,
    pub(super) line: u64,
    pub(super) number: u64,
}

impl Index {
    /// Adds the record that follows the last one, and returns its entry; `None` if there are too
    /// many records.
    pub(super) fn push(&mut self, offset: u64, line: u64) -> Option<u32> {
        let entry = u32::try_from(self.offsets.low.len()).ok();
        let entry = entry.filter(|&entry| entry < MAX_ENTRIES)?;
        self.offsets.push(offset);
        self.lines.push(line);
        Some(entry)
    }

    /// Ends the last record.
    pub(super) fn finish(&mut self, length: u64) {
        self.end = length;
    }

    pub(super) fn len(&self) -> u64 {
        self.offsets.low.len() as u64
    }

    pub(super) fn get(&self, entry: u32) -> Position {
        let next = u64::from(entry) + 1;
        let end = if next < self.len() {
            self.offsets.get(entry + 1)
        } else {
            self.end
        };
        Position {
            bytes: self.offsets.get(entry)..end,
            line: self.lines.get(entry),
            number: next,
        }
    }
}

/// Numbers that never fall, in 4 bytes each.
#[derive(Default)]
struct Ascending {
    /// The lower halves.
    low: Vec<u32>,
    /// For each upper half from 1 on, the index of the first number that has at least this one.
    carries: Vec<u32>,
}

impl Ascending {
    fn push(&mut self, number: u64) {
        let index = self.low.len() as u32;
        while (self.carries.len() as u64) < number >> 32 {
            self.carries.push(index);
        }
        self.low.push(number as u32);
    }

    fn get(&self, index: u32) -> u64 {
        let high = self.carries.partition_point(|&first| first <= index) as u64;
        high << 32 | u64::from(self.low[index as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_out_as_they_went_in_also_beyond_32_bits() {
        let records = [
            (5, 2),
            (5 + (1 << 32), 3),
            (6 + (1 << 32), (1 << 32) - 1),
            (7 + (4 << 32), 1 << 32),
            (8 + (4 << 32), 9 << 32),
        ];
        let mut index = Index::default();
        for (entry, (offset, line)) in (0..).zip(records) {
            assert_eq!(index.push(offset, line), Some(entry));
        }
        index.finish(5 << 32);
        let ends = records[1..].iter().map(|record| record.0).chain([5 << 32]);
        for ((entry, (offset, line)), end) in (0..).zip(records).zip(ends) {
            let number = u64::from(entry) + 1;
            let bytes = offset..end;
            assert_eq!(
                index.get(entry),
                Position {
                    bytes,
                    line,
                    number
                }
            );
        }
        assert_eq!(index.len(), 5);
    }
}
