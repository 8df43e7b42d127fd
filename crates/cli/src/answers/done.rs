//! The rows that an answers file already has, and whether they are still those of the input.

use std::{
    collections::BTreeMap,
    fs::File,
    hash::{DefaultHasher, Hasher as _},
    sync::Arc,
};

use super::{
    error::{AnswersError, Change, Kind},
    formula,
    layout::{Answer, Layout},
    record::Record,
    scan::Scanner,
    show::show,
};

/// The rows of a `Block`.
const ROWS: u64 = 4096;
const WORDS: usize = (ROWS / 64) as usize;

/// The rows that need not run again.
///
/// Holds two bits for each row, and a hash of eight bytes of the input's cells: about 8.3 MB for a
/// million rows.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// By row number / `ROWS`. A block is made for its first row, so a row number far beyond the
    /// others costs one block.
    blocks: BTreeMap<u64, Box<Block>>,
    rows: u64,
    failed: u64,
    taken_out: u64,
    torn_bytes: u64,
    /// How to find a record again, if there is a file to resume.
    layout: Option<Arc<Layout>>,
    /// The cells that are compared.
    cells: Record,
}

#[derive(Debug)]
struct Block {
    done: [u64; WORDS],
    failed: [u64; WORDS],
    hashes: [u64; ROWS as usize],
}

impl Done {
    pub(super) fn new(layout: Arc<Layout>) -> Self {
        Self {
            layout: Some(layout),
            ..Self::default()
        }
    }

    /// Whether the row has an answer that stays. Rows count from 1.
    pub(crate) fn contains(&self, row: u64) -> bool {
        self.hash_of(row).is_some()
    }

    /// The number of rows with an answer that stays.
    pub(crate) fn len(&self) -> u64 {
        self.rows
    }

    /// How many of these rows failed. It is 0 where failed rows are taken out.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// The number of failed rows that are taken out, to run again.
    pub(crate) fn taken_out(&self) -> u64 {
        self.taken_out
    }

    /// The bytes of a torn record at the end of the file, which are cut off.
    pub(crate) fn torn_bytes(&self) -> u64 {
        self.torn_bytes
    }

    /// Compares the cells of a row of the input with those in the answers. A row without an answer
    /// passes.
    ///
    /// # Errors
    ///
    /// If they differ. The error names the row, both lines, the first column that differs and both
    /// values.
    pub(crate) fn check(
        &mut self,
        row: u64,
        line: u64,
        cells: impl Iterator<Item = impl AsRef<[u8]>>,
    ) -> Result<(), AnswersError> {
        let Some(expected) = self.hash_of(row) else {
            return Ok(());
        };
        self.cells.clear();
        cells.for_each(|cell| self.cells.push(cell.as_ref()));
        if hash(self.cells.iter()) == expected {
            return Ok(());
        }
        Err(self.changed(row, line))
    }

    /// Fails if there is an answer to a row after the last one of the input, which has `rows` rows.
    ///
    /// # Errors
    ///
    /// If so. The error names the row and its line.
    pub(crate) fn check_end(&self, rows: u64) -> Result<(), AnswersError> {
        let last = self.blocks.iter().rev().find_map(|(block, bits)| {
            let word = bits.done.iter().rposition(|word| *word != 0)?;
            let bit = u64::from(bits.done[word].ilog2());
            Some(block * ROWS + word as u64 * 64 + bit + 1)
        });
        match (last, &self.layout) {
            (Some(row), Some(layout)) if row > rows => Err(find(layout, row).map_or_else(
                |error| error,
                |(line, _)| layout.error(Kind::NoSuchRow { line, row, rows }),
            )),
            _ => Ok(()),
        }
    }

    /// Adds an answer of the file.
    pub(super) fn insert(
        &mut self,
        layout: &Layout,
        answer: Answer,
        record: &Record,
    ) -> Result<(), AnswersError> {
        let Answer { line, row, is_ok } = answer;
        let (block, word, bit) = place(row);
        let block = self.blocks.entry(block).or_insert_with(Block::new);
        if block.done[word] & bit != 0 {
            return Err(layout.unusable(line, format!("row {row} has an answer before this one")));
        }
        block.done[word] |= bit;
        block.hashes[(row - 1) as usize % ROWS as usize] = hash(record.iter().take(layout.inputs));
        self.rows += 1;
        if !is_ok {
            block.failed[word] |= bit;
            self.failed += 1;
        }
        Ok(())
    }

    /// Counts the failed rows as not done.
    pub(super) fn take_out_failed(&mut self) {
        for block in self.blocks.values_mut() {
            for (done, failed) in block.done.iter_mut().zip(&block.failed) {
                *done &= !failed;
            }
        }
        self.taken_out = self.failed;
        self.rows -= self.failed;
        self.failed = 0;
    }

    pub(super) fn set_torn_bytes(&mut self, bytes: u64) {
        self.torn_bytes = bytes;
    }

    fn hash_of(&self, row: u64) -> Option<u64> {
        // Row 0 does not exist.
        row.checked_sub(1)?;
        let (block, word, bit) = place(row);
        let block = self.blocks.get(&block)?;
        (block.done[word] & bit != 0).then(|| block.hashes[(row - 1) as usize % ROWS as usize])
    }

    /// Reads the answers file again, to say how `row` differs from `self.cells`.
    fn changed(&self, row: u64, input_line: u64) -> AnswersError {
        let layout = self.layout.as_ref().expect("a row is done only in a file");
        let (answers_line, record) = match find(layout, row) {
            Ok(found) => found,
            Err(error) => return error,
        };
        // The cells behind the input's are the tool's.
        let answer = |index: usize| record.get(index).filter(|_| index < layout.inputs);
        let differs = |index: &usize| self.cells.get(*index) != answer(*index);
        let column = (0..layout.inputs.max(self.cells.len())).find(differs);
        let Some(column) = column else {
            return layout.unusable(answers_line, format!("row {row} changed while it was read"));
        };
        // A cell beyond the input's columns has no name, but a number.
        let name = layout.header[..layout.inputs].get(column).cloned();
        let name = name.unwrap_or_else(|| (column + 1).to_string());
        let input = self.cells.get(column);
        let answer = answer(column);
        let shown = |cell: Option<&[u8]>| cell.map_or_else(|| "absent".to_owned(), show);
        layout.error(Kind::Changed(Box::new(Change {
            row,
            input_line,
            answers_line,
            column: name,
            input: shown(input),
            answer: shown(answer),
            is_spreadsheet: match (input, answer) {
                (Some(input), Some(answer)) => formula::is_escaped(answer, input),
                _ => false,
            },
        })))
    }
}

impl Block {
    fn new() -> Box<Self> {
        Box::new(Self {
            done: [0; WORDS],
            failed: [0; WORDS],
            hashes: [0; ROWS as usize],
        })
    }
}

/// The block of a row, the word of its bits, and its bit.
fn place(row: u64) -> (u64, usize, u64) {
    let index = row - 1;
    let within = index % ROWS;
    (index / ROWS, (within / 64) as usize, 1 << (within % 64))
}

/// The length of each cell is part of the hash, so that cells cannot run into each other.
fn hash(cells: impl Iterator<Item = impl AsRef<[u8]>>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for cell in cells {
        let cell = cell.as_ref();
        hasher.write_usize(cell.len());
        hasher.write(cell);
    }
    hasher.finish()
}

/// Reads the file from its start to the record of `row`: its line and its cells.
fn find(layout: &Layout, row: u64) -> Result<(u64, Record), AnswersError> {
    let read = |source| layout.error(Kind::Read { source });
    let file = File::open(&layout.path).map_err(read)?;
    let mut scanner = Scanner::new(file, layout.delimiter);
    let mut record = Record::default();
    layout.next_record(&mut scanner, &mut record)?;
    while let Some(answer) = layout.next_answer(&mut scanner, &mut record)? {
        if answer.row == row {
            return Ok((answer.line, record));
        }
    }
    let source = std::io::Error::other(format!("the answer to row {row} is no longer there"));
    Err(read(source))
}

#[cfg(test)]
mod tests {
    use super::{Block, ROWS};

    #[test]
    fn a_million_rows_take_less_than_nine_megabytes() {
        let blocks = 1_000_000_u64.div_ceil(ROWS);
        assert!(blocks * (size_of::<Block>() as u64) < 9_000_000);
    }
}
