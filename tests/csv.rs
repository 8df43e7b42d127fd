//! What comes out of a CSV file, and what is written back.

#![cfg(feature = "csv")]

use std::{
    collections::HashMap,
    error::Error,
    io::{self, Read, Write},
};

use brigade::csv::{
    BadRowKind, CsvError, CsvErrorKind, FailuresWriter, Header, Reader, RejectsWriter, Row,
    RowError, Rows, Writer,
};
use proptest::prelude::*;

const BUFFER: usize = 8 * 1024;

/// What an iterator returned: everything that a caller can tell apart, as one value.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Good { line: u64, fields: Vec<String> },
    Ragged { line: u64, fields: Vec<Vec<u8>> },
    Undecodable { line: u64, fields: Vec<Vec<u8>> },
    File(String),
}

fn good(line: u64, fields: &[&str]) -> Seen {
    Seen::Good {
        line,
        fields: fields.iter().map(|field| (*field).to_owned()).collect(),
    }
}

fn ragged(line: u64, fields: &[&str]) -> Seen {
    Seen::Ragged {
        line,
        fields: fields
            .iter()
            .map(|field| field.as_bytes().to_vec())
            .collect(),
    }
}

fn file(message: &str) -> Seen {
    Seen::File(message.to_owned())
}

fn seen<R: Read>(rows: Rows<R>) -> Vec<Seen> {
    rows.map(|row| match row {
        Ok(row) => Seen::Good {
            line: row.line(),
            fields: row.iter().map(str::to_owned).collect(),
        },
        Err(RowError::Bad(bad)) => {
            let (line, fields) = (
                bad.line(),
                bad.record().iter().map(<[u8]>::to_vec).collect(),
            );
            if bad.is_ragged() {
                Seen::Ragged { line, fields }
            } else {
                Seen::Undecodable { line, fields }
            }
        }
        Err(RowError::File(error)) => Seen::File(error.to_string()),
    })
    .collect()
}

fn open(text: impl AsRef<[u8]>) -> Result<Rows<io::Cursor<Vec<u8>>>, CsvError> {
    Reader::new().from_reader("in.csv", io::Cursor::new(text.as_ref().to_vec()))
}

fn read(text: impl AsRef<[u8]>) -> Vec<Seen> {
    seen(open(text).expect("the header is good"))
}

fn refused(text: impl AsRef<[u8]>) -> CsvError {
    open(text).expect_err("the file is refused")
}

/// Returns the bytes in pieces of the given sizes, over and over.
struct Pieces<'a> {
    bytes: &'a [u8],
    sizes: &'a [usize],
    next: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.sizes[self.next % self.sizes.len()].min(buffer.len());
        self.next += 1;
        self.bytes.read(&mut buffer[..size])
    }
}

/// Returns the text, then an error, then more text.
struct Failing(&'static [u8], bool);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() && !self.1 {
            self.1 = true;
            self.0 = b"9,z\n";
            return Err(io::Error::other("the disk is gone"));
        }
        self.0.read(buffer)
    }
}

/// Returns `first`, then `again` forever, and refuses to give more than `most` bytes.
struct Endless {
    first: &'static [u8],
    again: u8,
    most: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = match self.first.read(buffer)? {
            0 => {
                buffer.fill(self.again);
                buffer.len()
            }
            length => length,
        };
        self.most = self
            .most
            .checked_sub(length)
            .expect("no more bytes are taken than allowed");
        Ok(length)
    }
}

/// Is interrupted before each byte that it returns.
struct Interrupted(&'static [u8], bool);

impl Read for Interrupted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.0.read(&mut buffer[..1])
    }
}

// The file.

#[test]
fn an_empty_file_has_no_header() {
    for text in ["", "\n\r\n\r", "\u{feff}"] {
        let error = refused(text);
        assert!(error.is_no_header(), "{text:?}");
        assert_eq!((error.file(), error.line()), ("in.csv", None));
        assert_eq!(error.to_string(), "in.csv: no header, the file is empty");
    }
}

#[test]
fn a_file_with_only_a_header_has_no_rows_and_no_error() {
    for text in ["id,name", "id,name\n", "id,name\r\n\r\n"] {
        assert_eq!(read(text), []);
    }
}

#[test]
fn a_missing_file_cannot_be_opened() {
    let error = Reader::new().open("/no/such/file.csv").unwrap_err();
    assert!(error.is_cannot_open());
    let source = error.source().expect("the error of the system");
    assert_eq!(
        error.to_string(),
        format!("/no/such/file.csv: cannot open: {source}")
    );
}

#[test]
fn a_directory_cannot_be_opened() {
    let directory = env!("CARGO_MANIFEST_DIR");
    let error = Reader::new().open(directory).unwrap_err();
    assert!(error.is_cannot_open());
    assert_eq!(error.line(), None);
    assert!(error.source().is_some());
}

#[test]
fn a_file_is_named_by_its_path() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let rows = Reader::new().delimiter(b'\x1f').open(path).unwrap();
    assert_eq!(rows.header().file(), path);
    assert_eq!(rows.header().get(0), Some("[package]"));
}

#[test]
fn utf16_is_refused_by_name() {
    for text in [
        &b"\xff\xfei\0d\0\n\0"[..],
        b"\xfe\xff\0i\0d\0\n",
        b"\xff\xfe",
    ] {
        let error = refused(text);
        assert!(error.is_utf16());
        assert_eq!(
            error.to_string(),
            "in.csv:1: the file is UTF-16, convert it to UTF-8"
        );
    }
}

#[test]
fn a_byte_order_mark_is_dropped_also_before_a_quoted_header() {
    let rows = open("\u{feff}\"id\",name\n1,a\n").unwrap();
    assert_eq!(rows.header().iter().collect::<Vec<_>>(), ["id", "name"]);
    assert_eq!(seen(rows), [good(2, &["1", "a"])]);
}

#[test]
fn a_byte_order_mark_is_dropped_however_the_bytes_arrive() {
    let text = "\u{feff}\"id\"\n1\n".as_bytes();
    for size in 1..6 {
        let sizes = [size];
        let rows = Reader::new()
            .from_reader(
                "in.csv",
                Pieces {
                    bytes: text,
                    sizes: &sizes,
                    next: 0,
                },
            )
            .unwrap();
        assert_eq!(rows.header().get(0), Some("id"), "pieces of {size}");
        assert_eq!(seen(rows), [good(2, &["1"])]);
    }
}

#[test]
fn a_second_byte_order_mark_is_data() {
    let rows = open("\u{feff}\u{feff}id\n\u{feff}1\n").unwrap();
    assert_eq!(rows.header().get(0), Some("\u{feff}id"));
    assert_eq!(seen(rows), [good(2, &["\u{feff}1"])]);
}

#[test]
fn a_read_error_is_reported_once_after_the_complete_rows_and_ends_the_iteration() {
    let rows = Reader::new()
        .from_reader("in.csv", Failing(b"id,name\n1,a\n2,b\n3,", false))
        .unwrap();
    let expected = [
        good(2, &["1", "a"]),
        good(3, &["2", "b"]),
        file("in.csv:4: cannot read: the disk is gone"),
    ];
    assert_eq!(seen(rows), expected);
}

#[test]
fn a_read_error_before_the_header_is_an_error_of_the_file() {
    let error = Reader::new()
        .from_reader("in.csv", Failing(b"", false))
        .unwrap_err();
    assert!(error.is_cannot_read());
    assert_eq!(
        error.source().expect("the error of the reader").to_string(),
        "the disk is gone"
    );
    assert_eq!(error.to_string(), "in.csv:1: cannot read: the disk is gone");
}

#[test]
fn an_interrupted_read_is_tried_again() {
    let rows = Reader::new()
        .from_reader(
            "in.csv",
            Interrupted("\u{feff}id\n1\n2\n".as_bytes(), false),
        )
        .unwrap();
    assert_eq!(seen(rows), [good(2, &["1"]), good(3, &["2"])]);
}

#[test]
fn nothing_follows_a_fault_of_the_file() {
    let mut rows = open("id\n\"1\n").unwrap();
    assert!(rows.next().unwrap().unwrap_err().is_fatal());
    assert!(rows.next().is_none());
    assert!(rows.next().is_none());
}

// The header.

#[test]
fn a_header_that_is_not_utf8_is_refused() {
    let error = refused(b"\nid,na\xefme\n1,a\n");
    assert!(error.is_undecodable_header());
    assert!(error.source().is_some());
    assert_eq!(
        error.to_string(),
        "in.csv:2: invalid UTF-8 in the header, column 2"
    );
}

#[test]
fn a_duplicate_column_is_refused() {
    let error = refused("id,name,id\n1,a,2\n");
    assert!(error.is_duplicate_column());
    assert_eq!(
        error.to_string(),
        "in.csv:1: duplicate column \"id\": columns 1 and 3"
    );
}

#[test]
fn columns_that_differ_only_in_white_space_are_duplicates_once_trimmed() {
    assert_eq!(open("id, id\n").unwrap().header().column_count(), 2);
    assert!(
        Reader::new()
            .trim(true)
            .from_reader("in.csv", &b"id, id\n"[..])
            .unwrap_err()
            .is_duplicate_column()
    );
}

#[test]
fn columns_are_found_in_the_order_asked_for() {
    let rows = open("id,name,age\n").unwrap();
    let [age, id] = rows.columns(["age", "id"]).unwrap();
    assert_eq!((age.index(), id.index()), (2, 0));
    assert!(
        rows.columns(["age", "size"])
            .unwrap_err()
            .is_missing_column()
    );
}

#[test]
fn a_missing_column_is_one_error_with_the_line_of_the_header() {
    let error = open("\nid,Name, age\n")
        .unwrap()
        .column("name")
        .unwrap_err();
    assert!(error.is_missing_column());
    assert_eq!(
        error.to_string(),
        "in.csv:2: no column \"name\": the header has 3 columns (\"id\", \"Name\", \" age\")"
    );
}

#[test]
fn the_wrong_delimiter_shows_in_the_error_about_the_missing_column() {
    let error = open("id;name\n1;a\n").unwrap().column("id").unwrap_err();
    assert_eq!(
        error.to_string(),
        "in.csv:1: no column \"id\": the header has 1 column (\"id;name\")"
    );
}

#[test]
fn an_error_about_a_missing_column_is_short_however_long_the_header() {
    let names = (0..50)
        .map(|index| format!("{}{index}", "x".repeat(100)))
        .collect::<Vec<_>>()
        .join(",");
    let error = Reader::new()
        .from_reader("in.csv", names.as_bytes())
        .unwrap()
        .column("id")
        .unwrap_err();
    let CsvErrorKind::MissingColumn {
        columns: 50, first, ..
    } = error.kind()
    else {
        panic!("{error:?}")
    };
    assert_eq!(*first, vec!["x".repeat(40); 10]);
    assert!(error.to_string().ends_with(", …)"));
}

#[test]
fn an_unclosed_quote_in_the_header_refuses_the_file() {
    let error = refused("id,\"name\n1,a\n");
    assert!(error.is_unclosed_quote());
    assert_eq!(
        error.to_string(),
        "in.csv:1: unclosed quote opened at line 1"
    );
}

#[test]
fn a_header_that_is_too_long_refuses_the_file() {
    let error = Reader::new()
        .max_record_bytes(6)
        .from_reader("in.csv", &b"id,name\n"[..])
        .unwrap_err();
    assert!(error.is_record_too_long());
    assert_eq!(error.to_string(), "in.csv:1: record has more than 6 bytes");
}

#[test]
fn a_header_may_span_lines() {
    let rows = open("\n\"id\nof it\",name\n1,a\n").unwrap();
    assert_eq!(
        (rows.header().line(), rows.header().get(0)),
        (2, Some("id\nof it"))
    );
    assert_eq!(seen(rows), [good(4, &["1", "a"])]);
}

// The rows.

#[test]
fn a_ragged_row_is_bad_and_the_next_one_follows() {
    let expected = [
        ragged(2, &["1"]),
        ragged(3, &["2", "b", "c"]),
        good(4, &["3", "d"]),
    ];
    assert_eq!(read("id,name\n1\n2,b,c\n3,d\n"), expected);
    let mut rows = open("id,name\n1\n").unwrap();
    let Some(Err(error @ RowError::Bad(_))) = rows.next() else {
        panic!("a bad row")
    };
    assert!(!error.is_fatal());
    assert_eq!(error.to_string(), "in.csv:2: expected 2 fields, found 1");
}

#[test]
fn a_field_that_is_not_utf8_makes_a_bad_row_that_keeps_its_bytes() {
    let expected = [
        Seen::Undecodable {
            line: 2,
            fields: vec![b"1".to_vec(), b"J\xfcrgen".to_vec()],
        },
        good(3, &["2", "b"]),
    ];
    let text = b"id,name\n1,J\xfcrgen\n2,b\n";
    assert_eq!(read(text), expected);
    let Some(Err(RowError::Bad(bad))) = open(text).unwrap().next() else {
        panic!("a bad row")
    };
    assert!(bad.is_undecodable());
    assert!(bad.source().is_some());
    assert_eq!(
        bad.to_string(),
        "in.csv:2: invalid UTF-8 in field 2 (\"name\")"
    );
}

#[test]
fn a_row_that_is_ragged_and_undecodable_is_reported_as_ragged() {
    assert_eq!(
        read(b"id,name\n\xff\n"),
        [Seen::Ragged {
            line: 2,
            fields: vec![b"\xff".to_vec()]
        }]
    );
}

#[test]
fn blank_lines_are_skipped_and_counted() {
    let expected = [good(5, &["1", "a"]), good(8, &["2", "b"])];
    assert_eq!(read("\nid,name\n\n\n1,a\n\n\n2,b\n\n"), expected);
}

#[test]
fn a_line_of_white_space_is_a_row_of_one_field() {
    assert_eq!(
        read("id,name\n  \n1,a\n"),
        [ragged(2, &["  "]), good(3, &["1", "a"])]
    );
    assert_eq!(read("id\n  \n"), [good(2, &["  "])]);
}

#[test]
fn lines_are_exact_with_each_kind_of_line_end() {
    let expected = [
        good(2, &["1", "a"]),
        good(3, &["2", "b"]),
        good(5, &["3", "c"]),
    ];
    for end in ["\n", "\r\n", "\r"] {
        let text = "id,name\n1,a\n2,b\n\n3,c\n".replace('\n', end);
        assert_eq!(read(&text), expected, "{end:?}");
    }
}

#[test]
fn line_breaks_inside_quotes_count() {
    let expected = [good(2, &["1", "a\r\n\rb\n"]), good(6, &["2", "c"])];
    assert_eq!(read("id,name\n1,\"a\r\n\rb\n\"\r\n2,c\n"), expected);
}

#[test]
fn a_doubled_quote_is_one_quote() {
    assert_eq!(
        read("id,name\n1,\"say \"\"hi\"\"\"\n2,\"\"\n"),
        [good(2, &["1", "say \"hi\""]), good(3, &["2", ""])]
    );
}

#[test]
fn a_quote_inside_a_field_is_data() {
    assert_eq!(
        read("id,name\n1,a\"b\n2, \"c\"\n"),
        [good(2, &["1", "a\"b"]), good(3, &["2", " \"c\""])]
    );
}

#[test]
fn text_after_a_closing_quote_continues_the_field() {
    assert_eq!(
        read("id,name\n1,\"a\"x\"y\n2,b\n"),
        [good(2, &["1", "ax\"y"]), good(3, &["2", "b"])]
    );
}

#[test]
fn an_unclosed_quote_ends_the_iteration_and_never_becomes_a_row() {
    let expected = [
        good(2, &["1", "a"]),
        file("in.csv:3: unclosed quote opened at line 3"),
    ];
    assert_eq!(read("id,name\n1,a\n2,\"b\n3,c\n4,d\n"), expected);
    // Also where it swallows nothing.
    assert_eq!(read("id,name\n1,a\n2,\""), expected);
    // An escaped quote closes nothing.
    assert_eq!(read("id,name\n1,a\n2,\"b\"\"\n"), expected);
}

#[test]
fn an_unclosed_quote_after_a_quoted_field_with_line_breaks_names_its_own_line() {
    assert_eq!(
        read("id,name\n\"1\n\n\",\"b\n3,c\n"),
        [file("in.csv:4: unclosed quote opened at line 4")]
    );
}

#[test]
fn a_record_of_the_greatest_size_passes_and_a_longer_one_ends_the_iteration() {
    let reader = Reader::new().max_record_bytes(9);
    let rows = reader
        .from_reader("in.csv", &b"id,name\n1,\"\"\"bcd\"\r\n2,3456789\n"[..])
        .unwrap();
    assert_eq!(
        seen(rows),
        [good(2, &["1", "\"bcd"]), good(3, &["2", "3456789"])]
    );
    let rows = reader
        .from_reader("in.csv", &b"id,name\n1,a\n2,34567890\n3,b\n"[..])
        .unwrap();
    assert_eq!(
        seen(rows),
        [
            good(2, &["1", "a"]),
            file("in.csv:3: record has more than 9 bytes")
        ]
    );
}

#[test]
fn a_record_that_is_too_long_names_the_quote_that_is_still_open() {
    let rows = Reader::new()
        .max_record_bytes(9)
        .from_reader("in.csv", &b"id,name\n\"\n\",\"a\n3,b\n4,c\n"[..])
        .unwrap();
    let message =
        "in.csv:2: record has more than 9 bytes, and a quote opened at line 3 is not closed";
    assert_eq!(seen(rows), [file(message)]);
}

#[test]
fn nul_is_kept() {
    assert_eq!(read("id,name\n1,a\0b\n"), [good(2, &["1", "a\0b"])]);
}

#[test]
fn white_space_is_kept_unless_trimmed() {
    let text = &b" id ,name\n 1 ,\" a \"\n"[..];
    let rows = Reader::new().from_reader("in.csv", text).unwrap();
    assert!(rows.column("id").is_err());
    assert_eq!(seen(rows), [good(2, &[" 1 ", " a "])]);

    let rows = Reader::new()
        .trim(true)
        .from_reader("in.csv", text)
        .unwrap();
    assert_eq!(rows.column("id").unwrap().index(), 0);
    assert_eq!(seen(rows), [good(2, &["1", "a"])]);
}

#[test]
fn each_way_to_a_field_trims_alike_and_the_record_keeps_what_was_read() {
    let mut rows = Reader::new()
        .trim(true)
        .from_reader("in.csv", &b" id \n 7 \n"[..])
        .unwrap();
    let id = rows.column("id").unwrap();
    let row = rows.next().unwrap().unwrap();
    assert_eq!(
        (row.get(0), row.get_by_name("id"), row.field(id)),
        (Some("7"), Some("7"), "7")
    );
    assert_eq!(
        row.deserialize::<HashMap<String, u8>>().unwrap(),
        HashMap::from([("id".to_owned(), 7)])
    );
    assert_eq!(row.record(), &[" 7 "][..]);
}

#[test]
fn records_are_numbered_from_one_bad_ones_included() {
    let numbers: Vec<_> = open("id\n\n1\n2,3\n4\n")
        .unwrap()
        .map(|row| match row {
            Ok(row) => row.record_number(),
            Err(RowError::Bad(bad)) => bad.record_number() + 100,
            Err(RowError::File(error)) => panic!("{error}"),
        })
        .collect();
    assert_eq!(numbers, [1, 102, 3]);
}

#[test]
fn the_offset_is_that_of_the_header_and_then_of_each_row_good_or_bad() {
    let text = "\u{feff}\nid,name\r\n\r\n1,\"A\nB\"\r\n2\n\n3,C".as_bytes();
    let mut rows = open(text).unwrap();
    assert_eq!(&text[rows.offset() as usize..][..7], b"id,name");
    let mut offsets = Vec::new();
    while rows.next().is_some() {
        offsets.push(rows.offset());
    }
    assert_eq!(offsets, [15, 24, 27]);
    assert_eq!(
        rows.offset(),
        27,
        "the end of the rows must not move the offset"
    );
}

#[test]
fn the_header_knows_the_delimiter() {
    assert_eq!(open("id\n").unwrap().header().delimiter(), b',');
    let rows = Reader::new()
        .delimiter(b';')
        .from_reader("in.csv", &b"id;name\n"[..]);
    assert_eq!(rows.unwrap().header().delimiter(), b';');
}

#[test]
fn the_reader_is_reached_through_the_rows() {
    let mut rows = open("id\n1\n").unwrap();
    assert_eq!(rows.by_ref().count(), 1);
    assert_eq!(rows.get_ref().position(), 5);
}

#[test]
fn a_row_made_of_a_record_equals_the_row_that_was_read() {
    let mut rows = open("id,name\n\n1,\"A\nB\"\n").unwrap();
    let read = rows.next().unwrap().unwrap();
    let record = read.record().clone();
    let made = Row::new(rows.header(), read.line(), read.record_number(), record).unwrap();
    assert_eq!(format!("{made:?}"), format!("{read:?}"));
    let undecodable = csv::ByteRecord::from(vec![&b"1"[..], b"\xff"]);
    let bad = Row::new(rows.header(), 8, 4, undecodable.clone()).unwrap_err();
    assert!(bad.is_undecodable());
    assert_eq!((bad.line(), bad.record_number()), (8, 4));
    assert_eq!(bad.record(), &undecodable);
}

#[test]
fn a_field_beyond_the_last_column_is_none() {
    let row = open("id\n1\n").unwrap().next().unwrap().unwrap();
    assert_eq!((row.get(1), row.get_by_name("name")), (None, None));
}

#[test]
#[should_panic(expected = "column must be of this file, got index 1 of 1 columns")]
fn a_column_of_a_wider_file_is_refused() {
    let other = open("id,name\n").unwrap().column("name").unwrap();
    let row = open("id\n1\n").unwrap().next().unwrap().unwrap();
    let _ = row.field(other);
}

#[test]
fn a_mistyped_row_names_its_line_and_column_and_keeps_its_record() {
    let row = open("id,age\n\n1,old\n").unwrap().next().unwrap().unwrap();
    let bad = row.deserialize::<(u32, u32)>().unwrap_err();
    assert!(bad.is_mistyped());
    assert_eq!(
        (bad.file(), bad.line(), bad.record_number()),
        ("in.csv", 3, 1)
    );
    assert_eq!(bad.record(), &["1", "old"][..]);
    assert_eq!(
        bad.to_string(),
        "in.csv:3: field 2 (\"age\"): invalid digit found in string"
    );
    let BadRowKind::Mistyped {
        field: Some((2, column)),
        ..
    } = bad.kind()
    else {
        panic!("{bad:?}")
    };
    assert_eq!(column, "age");
    assert!(bad.source().is_some());
}

#[test]
fn a_row_and_its_errors_can_be_sent_and_outlive_the_reader() {
    fn sendable<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}
    fn error<T: Send + Sync + Error + 'static>() {}
    sendable::<Row>();
    sendable::<Header>();
    sendable::<brigade::csv::BadRow>();
    error::<CsvError>();
    error::<RowError>();
    fn send<T: Send>() {}
    send::<Rows<std::fs::File>>();
    send::<Rows<io::Stdin>>();
}

#[test]
fn debug_asks_nothing_of_the_reader_and_the_output() {
    struct Silent;
    impl Read for Silent {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Ok(0)
        }
    }
    fn debug<T: std::fmt::Debug>() {}
    debug::<Rows<Silent>>();
    debug::<Writer<io::Sink>>();
    debug::<RejectsWriter<io::Sink>>();
    debug::<FailuresWriter<io::Sink>>();
}

// The options.

#[test]
fn the_defaults_are_a_comma_one_mebibyte_and_no_trimming() {
    assert_eq!(Reader::DEFAULT_DELIMITER, b',');
    assert_eq!(Reader::DEFAULT_MAX_RECORD_BYTES, 1024 * 1024);
    for (bytes, passes) in [(1024 * 1024, true), (1024 * 1024 + 1, false)] {
        let rows = open(format!("a\n{}\n", "x".repeat(bytes))).unwrap();
        assert_eq!(
            matches!(seen(rows)[..], [Seen::Good { .. }]),
            passes,
            "{bytes} bytes"
        );
    }
    assert_eq!(read("a\n b \n"), [good(2, &[" b "])]);
    assert_eq!(
        format!("{:?}", Reader::default()),
        format!("{:?}", Reader::new())
    );
}

#[test]
#[should_panic(expected = "max_record_bytes must be at least 1, got 0")]
fn a_record_size_of_zero_is_refused() {
    let _ = Reader::new().max_record_bytes(0);
}

#[test]
fn a_delimiter_that_cannot_separate_is_refused() {
    for delimiter in [b'"', b'\r', b'\n', 0x80, 0xff] {
        let panic = std::panic::catch_unwind(|| Reader::new().delimiter(delimiter)).unwrap_err();
        let message = panic.downcast::<String>().unwrap();
        let expected = format!(
            "delimiter must be ASCII and neither a quote nor a line break, got {delimiter:#04x}"
        );
        assert_eq!(*message, expected);
        assert!(
            std::panic::catch_unwind(|| Writer::with_delimiter(io::sink(), delimiter)).is_err()
        );
    }
}

// Memory.

#[test]
fn of_an_endless_record_no_more_is_taken_than_the_limit_and_a_buffer() {
    for (first, again) in [
        (&b"id\n\"x"[..], b'x'),
        (b"id\n", b'x'),
        (b"id\n", b','),
        (b"id\n\"", b'\n'),
        (b"", b'x'),
    ] {
        for limit in [2, 3, BUFFER - 1, BUFFER, BUFFER + 1, 1_000_000] {
            let endless = Endless {
                first,
                again,
                most: first.len() + limit + BUFFER,
            };
            let error = match Reader::new()
                .max_record_bytes(limit)
                .from_reader("in.csv", endless)
            {
                Err(error) => error,
                Ok(mut rows) => match rows.next() {
                    Some(Err(RowError::File(error))) => error,
                    other => panic!("{other:?}"),
                },
            };
            assert!(error.is_record_too_long(), "{error}");
        }
    }
}

// The writers.

/// Takes `room` bytes, then fails, once or forever.
#[derive(Debug, Default)]
struct Full {
    written: Vec<u8>,
    room: usize,
    flush_fails: bool,
}

impl Write for &mut Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(self.room);
        if length == 0 {
            // There is room again: the next write succeeds.
            self.room = usize::MAX;
            return Err(io::Error::other("the disk is full"));
        }
        self.room -= length;
        self.written.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.flush_fails {
            Err(io::Error::other("the cache is lost"))
        } else {
            Ok(())
        }
    }
}

#[test]
fn finish_reports_what_could_not_be_written() {
    let mut full = Full {
        room: 3,
        ..Full::default()
    };
    let mut writer = Writer::new(&mut full);
    writer.write_row(["abc", "def"]).unwrap();
    assert_eq!(writer.finish().unwrap_err().to_string(), "the disk is full");
    // Neither the rest nor, once more, the beginning.
    assert_eq!(full.written, b"abc");
}

#[test]
fn finish_reports_what_could_not_be_flushed() {
    let mut full = Full {
        room: 100,
        flush_fails: true,
        ..Full::default()
    };
    let mut writer = Writer::new(&mut full);
    writer.write_row(["a"]).unwrap();
    assert_eq!(
        writer.finish().unwrap_err().to_string(),
        "the cache is lost"
    );
}

#[test]
fn after_an_error_nothing_more_is_written() {
    let mut full = Full {
        room: 3,
        ..Full::default()
    };
    let mut writer = Writer::new(&mut full);
    writer.write_row(["abcdef"]).unwrap();
    assert_eq!(writer.flush().unwrap_err().to_string(), "the disk is full");
    assert_eq!(
        writer.write_row(["g"]).unwrap_err().to_string(),
        "an earlier write failed"
    );
    assert_eq!(
        writer.flush().unwrap_err().to_string(),
        "an earlier write failed"
    );
    assert!(writer.finish().is_err());
    assert_eq!(full.written, b"abc");
}

#[test]
fn a_dropped_writer_writes_its_buffer() {
    let mut full = Full {
        room: 100,
        ..Full::default()
    };
    Writer::new(&mut full).write_row(["a", "b"]).unwrap();
    assert_eq!(full.written, b"a,b\n");
}

#[test]
fn a_row_without_text_is_not_written_as_a_blank_line() {
    let mut writer = Writer::new(Vec::new());
    writer.write_row([""]).unwrap();
    writer.write_row::<[&str; 0]>([]).unwrap();
    assert_eq!(writer.finish().unwrap(), b"\"\"\n\"\"\n");
}

#[test]
fn a_name_that_starts_with_a_byte_order_mark_survives_the_way_out_and_in() {
    let rows = open("\"\"\u{feff}\n").unwrap();
    assert_eq!(rows.header().get(0), Some("\u{feff}"));
    let text = FailuresWriter::new(Vec::new(), rows.header())
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!(open(text).unwrap().header().get(0), Some("\u{feff}"));
}

#[test]
fn formulas_are_escaped_only_when_asked_and_only_at_the_start_of_a_field() {
    let cells = ["=a", "+b", "-c", "@d", "e=f", "", " =g"];
    for (escape, expected) in [
        (false, "=a,+b,-c,@d,e=f,, =g\n"),
        (true, "'=a,'+b,'-c,'@d,e=f,, =g\n"),
    ] {
        let mut writer = Writer::new(Vec::new()).escape_formulas(escape);
        writer.write_row(cells).unwrap();
        assert_eq!(
            String::from_utf8(writer.finish().unwrap()).unwrap(),
            expected
        );
    }
    let mut writer = Writer::new(Vec::new());
    writer.write_row(["=a"]).unwrap();
    assert_eq!(writer.finish().unwrap(), b"=a\n");
}

#[test]
fn rejects_keep_each_bad_record_as_it_was_read() {
    let text = &b" id ,name\n 1 \n2,\xff\n3, c \n4,d,e\n"[..];
    let rows = Reader::new()
        .trim(true)
        .from_reader("in.csv", text)
        .unwrap();
    let mut rejects = RejectsWriter::new(Writer::new(Vec::new()), rows.header()).unwrap();
    for row in rows {
        match row {
            Ok(row) => rejects.write_row(&row, "no, \"never\"").unwrap(),
            Err(RowError::Bad(bad)) => rejects.write_bad(&bad).unwrap(),
            Err(RowError::File(error)) => panic!("{error}"),
        }
    }
    let expected = [
        &b" id ,name,line,error\n"[..],
        b" 1 ,2,\"expected 2 fields, found 1\"\n",
        b"2,\xff,3,\"invalid UTF-8 in field 2 (\"\"name\"\")\"\n",
        b"3, c ,4,\"no, \"\"never\"\"\"\n",
        b"4,d,e,5,\"expected 2 fields, found 3\"\n",
    ];
    assert_eq!(rejects.finish().unwrap(), expected.concat());
}

#[test]
fn without_a_reject_or_a_failure_only_the_header_is_written() {
    let rows = open("id,name\n").unwrap();
    let rejects = RejectsWriter::new(Writer::new(Vec::new()), rows.header()).unwrap();
    assert_eq!(rejects.finish().unwrap(), b"id,name,line,error\n");
    let failures = FailuresWriter::new(Vec::new(), rows.header()).unwrap();
    assert_eq!(failures.finish().unwrap(), b"id,name\n");
}

// Against naive models.

/// Pieces of text in which quotes, delimiters and line ends meet in all ways.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"a"[..],
        b"b",
        b",",
        b",",
        b" ",
        b"\"",
        b"\"",
        b"\"",
        b"\"\"",
        b"\n",
        b"\n",
        b"\r",
        b"\r\n",
        b";",
        b"\t",
        b"#",
        b"\0",
        "é".as_bytes(),
        "\u{feff}".as_bytes(),
        b"\xff",
        b",\"",
        b"\",",
    ]);
    let body = prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat());
    // Without a start that makes a header, most texts end at a duplicate column.
    let start = prop::sample::select(vec![
        "",
        "",
        "h\n",
        "h\r\n",
        "h\r",
        "h,i\n",
        "\u{feff}h,i\r\n",
        "\u{feff}\"h\",i\n",
        "\n\r\n\"h\n\"\"\",i\r",
        "\r\r\n \n",
    ]);
    (start, body).prop_map(|(start, body)| [start.as_bytes(), &body].concat())
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![1]),
        Just(vec![BUFFER]),
        prop::collection::vec(1_usize..9, 1..6)
    ]
}

/// The records of `text` as the parser alone returns them.
fn parsed(text: &[u8], delimiter: u8) -> Vec<Vec<Vec<u8>>> {
    csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(text)
        .byte_records()
        .map(|record| {
            record
                .expect("bytes in memory")
                .iter()
                .map(<[u8]>::to_vec)
                .collect()
        })
        .collect()
}

/// The first record of `text` from `offset` on, as the parser alone returns it. A blank line first
/// keeps a byte order mark that is data.
fn record_at(text: &[u8], offset: u64, delimiter: u8) -> Vec<Vec<u8>> {
    let rest = [b"\n", &text[offset as usize..]].concat();
    parsed(&rest, delimiter).swap_remove(0)
}

/// Whether a quote is open at the end: then it swallows a record that is put there.
fn swallows_the_rest(text: &[u8], delimiter: u8) -> bool {
    let sentinel = b"SENTINEL".to_vec();
    parsed(&[text, b"\n", &sentinel].concat(), delimiter).last() != Some(&vec![sentinel])
}

/// The lines on which records start, found by searching for what ends each field; and that of an
/// unclosed quote.
fn lines(text: &[u8], delimiter: u8) -> (Vec<u64>, Option<u64>) {
    let line_at = |position: usize| {
        let before = String::from_utf8_lossy(&text[..position])
            .replace("\r\n", "\n")
            .replace('\r', "\n");
        before.matches('\n').count() as u64 + 1
    };
    let find = |from: usize, wanted: &[u8]| {
        text[from..]
            .iter()
            .position(|byte| wanted.contains(byte))
            .map_or(text.len(), |offset| from + offset)
    };
    let mut starts = Vec::new();
    let mut at = if text.starts_with(b"\xef\xbb\xbf") {
        3
    } else {
        0
    };
    while at < text.len() {
        if matches!(text[at], b'\r' | b'\n') {
            at += 1;
            continue;
        }
        starts.push(line_at(at));
        loop {
            if text.get(at) == Some(&b'"') {
                let opened = at;
                loop {
                    at = find(at + 1, b"\"");
                    if at == text.len() {
                        return (starts, Some(line_at(opened)));
                    }
                    if text.get(at + 1) != Some(&b'"') {
                        break;
                    }
                    at += 1;
                }
                at += 1;
            }
            at = find(at, &[delimiter, b'\r', b'\n']);
            if text.get(at) != Some(&delimiter) {
                break;
            }
            at += 1;
        }
    }
    (starts, None)
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(4_000))]

    #[test]
    fn an_unclosed_quote_is_reported_exactly_where_it_would_swallow_the_rest(
        text in text(), pieces in pieces(), delimiter in prop::sample::select(vec![b',', b';', b'\t', b' ']),
    ) {
        let source = Pieces { bytes: &text, sizes: &pieces, next: 0 };
        let reported = match Reader::new().delimiter(delimiter).from_reader("in.csv", source) {
            Ok(rows) => rows.fold(false, |_, row| matches!(row, Err(RowError::File(error)) if error.is_unclosed_quote())),
            Err(error) if error.is_unclosed_quote() => true,
            Err(error) if error.is_no_header() => false,
            // The header is refused before the rest is read.
            Err(_) => return Ok(()),
        };
        prop_assert_eq!(reported, swallows_the_rest(&text, delimiter));
    }

    #[test]
    fn each_record_of_the_parser_comes_out_with_its_line(
        text in text(), pieces in pieces(), delimiter in prop::sample::select(vec![b',', b';', b'\t', b' ']),
    ) {
        let source = Pieces { bytes: &text, sizes: &pieces, next: 0 };
        let rows = match Reader::new().delimiter(delimiter).from_reader("in.csv", source) {
            Ok(rows) => rows,
            Err(error) => {
                prop_assert_eq!(error.is_no_header(), parsed(&text, delimiter).is_empty());
                return Ok(());
            }
        };
        let (lines, unclosed) = lines(&text, delimiter);
        let records = parsed(&text, delimiter);
        prop_assert_eq!(lines.len(), records.len());
        prop_assert_eq!(rows.header().line(), lines[0]);
        let width = records[0].len();
        let mut expected: Vec<_> = records.into_iter().zip(lines).skip(1).map(|(fields, line)| {
            if fields.len() != width {
                return Seen::Ragged { line, fields };
            }
            match fields.iter().cloned().map(String::from_utf8).collect() {
                Ok(fields) => Seen::Good { line, fields },
                Err(_) => Seen::Undecodable { line, fields },
            }
        }).collect();
        if let Some(line) = unclosed {
            expected.pop();
            expected.push(Seen::File(format!("in.csv:{line}: unclosed quote opened at line {line}")));
        }
        prop_assert_eq!(seen(rows), expected);
    }

    #[test]
    fn each_record_is_found_again_at_its_offset(
        text in text(), pieces in pieces(), delimiter in prop::sample::select(vec![b',', b';', b'\t', b' ']),
    ) {
        let source = Pieces { bytes: &text, sizes: &pieces, next: 0 };
        let Ok(mut rows) = Reader::new().delimiter(delimiter).from_reader("in.csv", source) else {
            return Ok(());
        };
        while let Some(row) = rows.next() {
            let record = match row {
                Ok(row) => row.record().clone(),
                Err(RowError::Bad(bad)) => bad.record().clone(),
                Err(RowError::File(_)) => break,
            };
            let fields: Vec<_> = record.iter().map(<[u8]>::to_vec).collect();
            prop_assert_eq!(record_at(&text, rows.offset(), delimiter), fields);
        }
    }

    #[test]
    fn a_limit_refuses_exactly_the_first_record_that_is_longer(text in text(), pieces in pieces(), limit in 1_usize..30) {
        let read = |limit| {
            let source = Pieces { bytes: &text, sizes: &pieces, next: 0 };
            Reader::new().max_record_bytes(limit).from_reader("in.csv", source).map(seen)
        };
        let (Ok(all), (lines, unclosed)) = (read(BUFFER), lines(&text, b',')) else { return Ok(()) };
        let sizes = sizes(&text, &lines, unclosed.is_some());
        let Some(first) = sizes.iter().position(|size| *size > limit) else {
            prop_assert_eq!(read(limit).expect("the header fits"), all);
            return Ok(());
        };
        if first == 0 {
            prop_assert!(read(limit).expect_err("the header is too long").is_record_too_long());
            return Ok(());
        }
        let mut limited = read(limit).expect("the header fits");
        let Some(Seen::File(last)) = limited.pop() else { panic!("{limited:?}") };
        let message = format!("in.csv:{}: record has more than {limit} byte", lines[first]);
        prop_assert!(last.starts_with(&message), "{}", last);
        prop_assert_eq!(&limited[..], &all[..first - 1]);
    }

    #[test]
    fn what_is_written_is_read_back(
        rows in prop::collection::vec(prop::collection::vec("[a\",;\r\n é=\u{feff}]{0,5}", 3), 0..6),
        delimiter in prop::sample::select(vec![b',', b';', b'=', b' ']),
    ) {
        let mut writer = Writer::with_delimiter(Vec::new(), delimiter);
        writer.write_row(["x", "y", "z"]).unwrap();
        for row in &rows {
            writer.write_row(row).unwrap();
        }
        let text = writer.finish().unwrap();
        let read = Reader::new().delimiter(delimiter).from_reader("in.csv", &text[..]).unwrap();
        let fields: Vec<Vec<_>> =
            read.map(|row| row.expect("all rows are good").iter().map(str::to_owned).collect()).collect();
        prop_assert_eq!(fields, rows);
    }

    #[test]
    fn failures_hold_what_their_source_held(text in text(), trim in any::<bool>()) {
        let reader = Reader::new().trim(trim);
        let Ok(rows) = reader.from_reader("in.csv", &text[..]) else { return Ok(()) };
        let mut failures = FailuresWriter::new(Vec::new(), rows.header()).unwrap();
        let header: Vec<_> = rows.header().iter().map(str::to_owned).collect();
        let mut expected = Vec::new();
        for row in rows.filter_map(Result::ok) {
            failures.write(&row).unwrap();
            expected.push(row.record().clone());
        }
        let text = failures.finish().unwrap();
        let again = reader.from_reader("again.csv", &text[..]).expect("the header is good");
        prop_assert_eq!(again.header().iter().collect::<Vec<_>>(), header);
        let records: Vec<_> = again.map(|row| row.expect("a good row").record().clone()).collect();
        prop_assert_eq!(records, expected);
    }
}

/// The number of bytes of each record, given the lines on which records start. Line ends do not
/// count, except where the last record has swallowed them.
fn sizes(text: &[u8], lines: &[u64], unclosed: bool) -> Vec<usize> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    // The offset of each line's first byte.
    let mut offsets = vec![0];
    for (index, byte) in text.iter().enumerate() {
        match byte {
            b'\r' if text.get(index + 1) != Some(&b'\n') => offsets.push(index + 1),
            b'\n' => offsets.push(index + 1),
            _ => {}
        }
    }
    let start = |line: u64| offsets[line as usize - 1];
    let ends = lines
        .iter()
        .skip(1)
        .map(|line| start(*line))
        .chain([text.len()]);
    let sizes = lines.iter().zip(ends).map(|(line, end)| {
        let record = &text[start(*line)..end];
        let line_ends = record
            .iter()
            .rev()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'))
            .count();
        if unclosed && end == text.len() {
            record.len()
        } else {
            record.len() - line_ends
        }
    });
    sizes.collect()
}
