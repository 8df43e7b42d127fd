//! An answers file as a table: its cells by the names of its columns.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::process::Counts;

/// The columns whose cells are the same in each run.
const DETERMINISTIC: [&str; 9] = [
    "url",
    "row",
    "ok",
    "status_code",
    "final_url",
    "redirects",
    "content_type",
    "bytes",
    "error_kind",
];

#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// Reads a whole file; each record has all columns.
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read(path).unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&text))
    }

    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.is_empty() || text.ends_with('\n'), "a torn last line");
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(text.as_bytes());
        let cells = |record: csv::StringRecord| record.iter().map(str::to_owned).collect();
        let mut records = reader.records().map(|record| cells(record.unwrap()));
        Self {
            columns: records.next().unwrap_or_default(),
            rows: records.collect(),
        }
    }

    #[track_caller]
    fn index(&self, column: &str) -> usize {
        let index = self.columns.iter().position(|name| name == column);
        index.unwrap_or_else(|| panic!("no {column} in {:?}", self.columns))
    }

    /// Removes the prefix of the names of the columns that were added.
    pub(crate) fn remove_prefix(&mut self, prefix: &str) {
        for column in &mut self.columns {
            if let Some(name) = column.strip_prefix(prefix) {
                *column = name.to_owned();
            }
        }
    }

    /// The cells of a column.
    #[track_caller]
    pub(crate) fn column(&self, column: &str) -> Vec<&str> {
        let index = self.index(column);
        self.rows.iter().map(|row| row[index].as_str()).collect()
    }

    /// The numbers of the rows, in the order of the file.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let cells = self.column("row").into_iter();
        cells.map(|cell| cell.parse().unwrap()).collect()
    }

    /// The cell of a row that is known by its number.
    #[track_caller]
    pub(crate) fn cell(&self, number: u64, column: &str) -> &str {
        let (row, index) = (self.index("row"), self.index(column));
        let number = number.to_string();
        let found = self.rows.iter().find(|cells| cells[row] == number);
        match found {
            Some(cells) => &cells[index],
            None => panic!("no row {number}"),
        }
    }

    /// How many rows have which cell.
    #[track_caller]
    pub(crate) fn tally(&self, column: &str) -> BTreeMap<&str, usize> {
        let mut tally = BTreeMap::new();
        for cell in self.column(column) {
            *tally.entry(cell).or_default() += 1;
        }
        tally
    }

    /// The cells that are the same in each run, sorted.
    pub(crate) fn deterministic(&self) -> Vec<Vec<&str>> {
        let indexes = DETERMINISTIC.map(|column| self.index(column));
        let mut rows: Vec<Vec<&str>> = self
            .rows
            .iter()
            .map(|row| indexes.iter().map(|index| row[*index].as_str()).collect())
            .collect();
        rows.sort();
        rows
    }

    /// Each row is there once, and the counts are those of the rows.
    pub(crate) fn check(&self, counts: Counts, stderr: &str) {
        if self.columns.is_empty() {
            assert_eq!(counts.ok + counts.failed, 0, "no answers: {stderr}");
            return;
        }
        let numbers: BTreeSet<&str> = self.column("row").into_iter().collect();
        assert_eq!(numbers.len(), self.rows.len(), "a row is there twice");
        let count = |text| self.column("ok").iter().filter(|ok| **ok == text).count() as u64;
        let found = (count("true"), count("false"));
        assert_eq!(found, (counts.ok, counts.failed), "{stderr}");
        assert_eq!(self.rows.len() as u64, counts.ok + counts.failed);
        let (ok, kind) = (self.column("ok"), self.column("error_kind"));
        for (ok, kind) in ok.iter().zip(kind) {
            assert_eq!(*ok == "true", kind.is_empty(), "{kind}");
        }
    }
}
