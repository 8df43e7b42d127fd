//! Any bytes as a CSV file: each record comes once, in the order of its lines, as a row or as an
//! error that names its line; a fatal error is the last; and nothing panics.

use brigade::csv::{Reader, RowError};

pub(crate) fn check(data: &[u8]) {
    let Some((&first, file)) = data.split_first() else {
        return;
    };
    let delimiter = [b',', b';', b'\t', b'|'][usize::from(first % 4)];
    let reader = Reader::new()
        .delimiter(delimiter)
        .max_record_bytes(1 + usize::from(first / 4) * 16);
    let Ok(mut rows) = reader.from_reader("in.csv", file) else {
        return;
    };
    let columns = rows.header().iter().count();
    let lines = file
        .iter()
        .filter(|byte| matches!(byte, b'\n' | b'\r'))
        .count() as u64
        + 1;
    let (mut line, mut record) = (0, 0);
    while let Some(row) = rows.next() {
        let (at, number) = match row {
            Ok(row) => {
                assert_eq!(row.iter().count(), columns);
                (row.line(), row.record_number())
            }
            Err(RowError::Bad(bad)) => {
                assert!(
                    bad.to_string()
                        .starts_with(&format!("in.csv:{}: ", bad.line()))
                );
                (bad.line(), bad.record_number())
            }
            Err(RowError::File(error)) => {
                assert!(error.to_string().starts_with("in.csv"));
                assert!(rows.next().is_none(), "something comes after {error}");
                return;
            }
        };
        assert!(
            at > line && at <= lines && number > record,
            "line {at} after {line}, record {number} after {record}"
        );
        (line, record) = (at, number);
    }
}
