//! What a feed hands out, compared with a plain reading of the same file from start to end.

use std::{
    cell::RefCell,
    collections::HashMap,
    convert::Infallible,
    fs,
    io::Write,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, SystemTime},
};

use brigade::csv::{ByteRecord, CsvError, RowError};
use smol::{block_on, future::poll_once};
use tempfile::TempDir;

use super::*;

const ORDERS: [Order; 3] = [Order::Spread, Order::Window, Order::Input];

/// A file in a directory of its own.
struct Csv {
    dir: TempDir,
    path: PathBuf,
}

fn csv(text: impl AsRef<[u8]>) -> Csv {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("in.csv");
    fs::write(&path, text).unwrap();
    Csv { dir, path }
}

fn settings(path: &Path, order: Order) -> Settings {
    Settings {
        path: Some(path.to_owned()),
        reader: Reader::new(),
        order,
        lookahead: 10,
    }
}

/// The lane of a row is its first field.
fn first_field(row: &Row) -> Lane {
    row.get(0).unwrap_or_default().into()
}

fn take_all(_: &Row) -> Result<Keep, Infallible> {
    Ok(Keep::Take)
}

fn feed(settings: Settings, quota: usize) -> Result<Feed<'static, Infallible>, String> {
    block_on(async {
        let input = Input::open(settings)
            .await
            .map_err(|error| error.to_string())?;
        let feed = input.into_feed(first_field, take_all, move |_| quota);
        feed.await.map_err(|error| error.to_string())
    })
}

/// All that can be told of a row.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    number: u64,
    line: u64,
    record: ByteRecord,
    /// The message about a bad row.
    bad: Option<String>,
}

fn good(row: &Row) -> Seen {
    Seen {
        number: row.record_number(),
        line: row.line(),
        record: row.record().clone(),
        bad: None,
    }
}

fn bad(bad: &BadRow) -> Seen {
    Seen {
        number: bad.record_number(),
        line: bad.line(),
        record: bad.record().clone(),
        bad: Some(bad.to_string()),
    }
}

/// The rows of a plain reading, and what ended it.
fn sequential(settings: &Settings) -> Result<(Vec<Seen>, Option<CsvError>), CsvError> {
    let path = settings.path.as_ref().expect("tests read files");
    let mut seen = Vec::new();
    for row in settings.reader.open(path)? {
        match row {
            Ok(row) => seen.push(good(&row)),
            Err(RowError::Bad(row)) => seen.push(bad(&row)),
            Err(RowError::File(error)) => return Ok((seen, Some(error))),
        }
    }
    Ok((seen, None))
}

/// Numbers that look random and are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Takes all rows out of a feed and finishes them in random order. Returns them with the error that
/// ended the feed, and checks that no lane has more than its quota out.
fn drain<E: fmt::Display>(
    feed: &mut Feed<'_, E>,
    quota: usize,
    random: &mut Random,
) -> (Vec<Seen>, Option<String>) {
    let (mut seen, mut out) = (Vec::new(), Vec::<LaneId>::new());
    loop {
        if !out.is_empty() && random.below(3) == 0 {
            let lane = out.swap_remove(random.below(out.len()));
            feed.done(lane);
        }
        let next = match block_on(poll_once(feed.next())) {
            Some(next) => next,
            None if out.is_empty() => block_on(feed.next()),
            None => {
                let lane = out.swap_remove(random.below(out.len()));
                feed.done(lane);
                continue;
            }
        };
        match next {
            Some(Ok(Fed::Row { row, number, lane })) => {
                assert_eq!(number, row.record_number());
                assert_eq!(**feed.lane(lane), *first_field(&row));
                out.push(lane);
                let of_lane = out.iter().filter(|&&other| other == lane).count();
                assert!(of_lane <= quota, "lane {lane:?} has {of_lane} rows out");
                seen.push(good(&row));
            }
            Some(Ok(Fed::Bad(row))) => seen.push(bad(&row)),
            Some(Err(error)) => {
                assert!(block_on(feed.next()).is_none(), "an item after the error");
                return (seen, Some(error.to_string()));
            }
            None => return (seen, None),
        }
    }
}

/// Compares what each order hands out with a plain reading.
fn assert_same_rows(base: &Settings, random: &mut Random) {
    let expected = sequential(base);
    for order in ORDERS {
        let settings = Settings {
            order,
            lookahead: random.below(12),
            ..base.clone()
        };
        let quota = match order {
            Order::Input => usize::MAX,
            _ => 1 + random.below(3),
        };
        let (expected, fault) = match &expected {
            Ok((rows, fault)) => (rows.clone(), fault.as_ref().map(ToString::to_string)),
            Err(error) => {
                assert_eq!(feed(settings, quota).unwrap_err(), error.to_string());
                continue;
            }
        };
        let mut feed = match (feed(settings, quota), &fault) {
            (Err(error), Some(fault)) if order != Order::Window => {
                assert_eq!(error, *fault, "{order:?}");
                continue;
            }
            (feed, _) => feed.unwrap(),
        };
        let (seen, ended_by) = drain(&mut feed, quota, random);
        assert_eq!(ended_by, fault, "{order:?}");
        let total = feed.total();
        assert_eq!(
            total,
            fault.is_none().then_some(expected.len() as u64),
            "{order:?}"
        );
        assert_eq!(
            feed.lanes().map(|(_, rows)| rows).sum::<u64>(),
            0,
            "{order:?}"
        );

        if order == Order::Input {
            assert_eq!(seen, expected);
            continue;
        }
        let mut last = HashMap::new();
        for row in seen.iter().filter(|row| row.bad.is_none()) {
            let before = last.insert(row.record[0].to_vec(), row.number);
            assert!(
                before < Some(row.number),
                "{order:?}: {before:?} before {row:?}"
            );
        }
        let mut sorted = seen;
        sorted.sort_by_key(|row| row.number);
        assert_eq!(sorted, expected, "{order:?}");
    }
}

fn random_text(random: &mut Random, delimiter: u8) -> Vec<u8> {
    const STARTS: [&str; 6] = [
        "h,i\n",
        "h,i\r\n",
        "\u{feff}h,i\r",
        "\u{feff}\"h\",i\n",
        "\n\r\n\"h\n\"\"\",i\r\n",
        "h\n",
    ];
    const PIECES: [&[u8]; 24] = [
        b"a",
        b"b",
        b"c",
        b",",
        b",",
        b",",
        b" ",
        b"\"",
        b"\"\"",
        b"\n",
        b"\n",
        b"\n",
        b"\r",
        b"\r\n",
        b"#",
        b"\0",
        "é".as_bytes(),
        "\u{feff}".as_bytes(),
        b"\xff",
        b",\"",
        b"\",",
        b"\"a\nb\"",
        b"a,b\n",
        b"b,\"x,\"\"y\"\r\n",
    ];
    let mut text = STARTS[random.below(STARTS.len())].as_bytes().to_vec();
    for _ in 0..random.below(60) {
        text.extend(PIECES[random.below(PIECES.len())]);
    }
    for byte in &mut text {
        if *byte == b',' {
            *byte = delimiter;
        }
    }
    text
}

#[test]
fn each_order_hands_out_each_row_of_random_files_once_as_a_plain_reading_does() {
    let mut random = Random(1);
    let file = csv("");
    let mut faults = 0;
    for _ in 0..1_500 {
        let delimiter = [b',', b';', b'\t', b' '][random.below(4)];
        let text = random_text(&mut random, delimiter);
        fs::write(&file.path, &text).unwrap();
        let settings = Settings {
            reader: Reader::new().delimiter(delimiter),
            ..settings(&file.path, Order::Spread)
        };
        faults += usize::from(!matches!(sequential(&settings), Ok((_, None))));
        assert_same_rows(&settings, &mut random);
    }
    assert!(
        (100..1_000).contains(&faults),
        "{faults} files of 1,500 were broken"
    );
}

#[test]
fn rows_that_span_blocks_and_buffers_are_the_same_as_in_a_plain_reading() {
    let mut random = Random(2);
    for lanes in [1, 3, 40, 20_000] {
        for sorted in [false, true] {
            let mut text = b"\xef\xbb\xbfhost,text\r\n".to_vec();
            for row in 0..4_000 {
                let lane = if sorted {
                    row * lanes / 4_000
                } else {
                    random.below(lanes)
                };
                let length = [0, 5, 60, 600][random.below(4)];
                let value = "x\"\"\r\n".repeat(random.below(length + 1) / 5);
                let end = ["\n", "\r\n", "\r", "\n\n\n"][random.below(4)];
                let bad = if random.below(50) == 0 { ",bad" } else { "" };
                write!(text, "h{lane},\"{value}\"{bad}{end}").unwrap();
            }
            let file = csv(text);
            assert_same_rows(&settings(&file.path, Order::Spread), &mut random);
        }
    }
}

/// The first fields of the rows that can be had without finishing one.
fn first_fields(feed: &mut Feed<'_, Infallible>) -> Vec<String> {
    let mut fields = Vec::new();
    while let Some(Some(next)) = block_on(poll_once(feed.next())) {
        if let Fed::Row { row, .. } = next.unwrap() {
            fields.push(row.iter().collect());
        }
    }
    fields
}

const SORTED: &str = "host,n\na,1\na,2\na,3\nb,1\nb,2\nb,3\nc,1\n";

#[test]
fn a_sorted_file_is_handed_out_lane_by_lane_in_turn() {
    let file = csv(SORTED);
    let mut feed = feed(settings(&file.path, Order::Spread), 2).unwrap();
    let lanes: Vec<_> = feed
        .lanes()
        .map(|(lane, rows)| (lane.to_string(), rows))
        .collect();
    assert_eq!(
        lanes,
        [
            ("a".to_owned(), 3),
            ("b".to_owned(), 3),
            ("c".to_owned(), 1)
        ]
    );
    assert_eq!(first_fields(&mut feed), ["a1", "b1", "c1", "a2", "b2"]);
    let lanes: Vec<_> = feed.lanes().map(|(_, rows)| rows).collect();
    assert_eq!(lanes, [1, 1, 0]);
    assert!(!feed.waits_for_lookahead());
}

#[test]
fn the_order_of_the_input_has_no_quota() {
    let file = csv(SORTED);
    for order in [Order::Input, Order::Window] {
        let settings = Settings {
            lookahead: 1,
            ..settings(&file.path, order)
        };
        let mut feed = feed(settings, 1).unwrap();
        let rows = if order == Order::Input { 7 } else { 1 };
        let fields: Vec<_> = (0..rows).map(|_| block_on(feed.next())).collect();
        assert!(
            fields
                .iter()
                .all(|next| matches!(next, Some(Ok(Fed::Row { .. }))))
        );
        assert_eq!(
            block_on(poll_once(feed.next())).is_some(),
            order == Order::Input
        );
    }
}

#[test]
fn bad_rows_come_first_in_an_indexed_file_and_keep_their_record() {
    let file = csv("host,n\na,1\nb\na,2\n\n\"x\ny\",2,3\n");
    let mut feed = feed(settings(&file.path, Order::Spread), 1).unwrap();
    for (line, fields) in [(3, &["b"][..]), (6, &["x\ny", "2", "3"])] {
        let Some(Ok(Fed::Bad(bad))) = block_on(feed.next()) else {
            panic!("a bad row is handed out before the good ones")
        };
        assert_eq!(
            (bad.line(), bad.record()),
            (line, &ByteRecord::from(fields))
        );
        assert!(
            bad.to_string()
                .starts_with(&format!("{}:{line}: ", file.path.display()))
        );
    }
    assert_eq!(
        (first_fields(&mut feed), feed.total()),
        (vec!["a1".to_owned()], Some(4))
    );
}

#[test]
fn check_sees_each_good_row_once_in_order_and_skipped_rows_are_not_handed_out() {
    let file = csv("host,n\na,1\na,2\nbad\nb,3\na,4\n");
    for order in ORDERS {
        let checked = RefCell::new(Vec::new());
        let check = |row: &Row| {
            checked.borrow_mut().push(row.record_number());
            Ok::<_, Infallible>(match row.record_number() {
                1 | 4 => Keep::Skip,
                _ => Keep::Take,
            })
        };
        let mut feed = block_on(async {
            let input = Input::open(settings(&file.path, order)).await.unwrap();
            input.into_feed(first_field, check, |_| 9).await.unwrap()
        });
        if order != Order::Window {
            let lanes: Vec<_> = feed.lanes().map(|(lane, rows)| (&**lane, rows)).collect();
            assert_eq!(lanes, [("a", 2)], "{order:?}");
        }
        let (mut seen, error) = drain(&mut feed, 9, &mut Random(3));
        seen.sort_by_key(|row| row.number);
        let numbers: Vec<_> = seen.iter().map(|row| row.number).collect();
        assert_eq!(
            (numbers, error, feed.total()),
            (vec![2, 3, 5], None, Some(5)),
            "{order:?}"
        );
        drop(feed);
        assert_eq!(checked.into_inner(), [1, 2, 4, 5], "{order:?}");
    }
}

#[test]
fn an_error_of_check_ends_the_pass_or_the_feed() {
    let file = csv(SORTED);
    for order in ORDERS {
        let check = |row: &Row| match row.record_number() {
            3 => Err("row 3 has changed"),
            _ => Ok(Keep::Take),
        };
        let error = block_on(async {
            let input = Input::open(settings(&file.path, order)).await.unwrap();
            let mut feed = input.into_feed(first_field, check, |_| 9).await?;
            assert_eq!(order, Order::Window);
            loop {
                match feed.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        assert!(feed.next().await.is_none());
                        return Err::<Infallible, _>(error);
                    }
                    None => panic!("the feed ended without the error"),
                }
            }
        });
        let Err(error) = error;
        assert!(matches!(error, FeedError::Check("row 3 has changed")));
    }
}

#[test]
fn an_unclosed_quote_is_known_before_the_first_row_of_an_indexed_file() {
    let file = csv("host,n\na,1\nb,\"2\nc,3\n");
    let message = format!("{}:3: unclosed quote opened at line 3", file.path.display());
    for order in [Order::Spread, Order::Input] {
        assert_eq!(feed(settings(&file.path, order), 1).unwrap_err(), message);
    }
    let mut feed = feed(settings(&file.path, Order::Window), 1).unwrap();
    let (seen, error) = drain(&mut feed, 1, &mut Random(4));
    assert_eq!((seen.len(), error, feed.total()), (1, Some(message), None));
}

#[test]
fn a_fault_waits_for_the_rows_that_are_held() {
    let file = csv("host,n\na,1\na,2\nb,\"");
    let mut feed = feed(settings(&file.path, Order::Window), 1).unwrap();
    assert!(matches!(
        block_on(feed.next()),
        Some(Ok(Fed::Row { number: 1, .. }))
    ));
    let a = LaneId::first();
    // The thread that reads may not have come to the fault yet; whether it has makes no difference.
    assert!(block_on(poll_once(feed.next())).is_none());
    feed.done(a);
    assert!(matches!(
        block_on(feed.next()),
        Some(Ok(Fed::Row { number: 2, .. }))
    ));
    assert!(matches!(
        block_on(feed.next()),
        Some(Err(FeedError::File(_)))
    ));
    assert!(block_on(feed.next()).is_none());
}

#[test]
fn a_file_that_changes_after_the_pass_is_an_error_after_its_last_row() {
    for same_length in [false, true] {
        let file = csv(SORTED);
        let mut feed = feed(settings(&file.path, Order::Spread), 9).unwrap();
        let writer = fs::OpenOptions::new()
            .append(true)
            .open(&file.path)
            .unwrap();
        if same_length {
            let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
            writer.set_modified(long_ago).unwrap();
        } else {
            (&writer).write_all(b"d,1\n").unwrap();
        }
        let (seen, error) = drain(&mut feed, 9, &mut Random(5));
        let message = format!("{}: changed while it was read", file.path.display());
        assert_eq!((seen.len(), error), (7, Some(message)));
    }
}

#[test]
fn a_file_that_is_cut_after_the_pass_is_an_error_where_a_row_is_missing() {
    let file = csv(SORTED);
    let mut feed = feed(settings(&file.path, Order::Input), 9).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(&file.path)
        .unwrap()
        .set_len(15)
        .unwrap();
    let (seen, error) = drain(&mut feed, 9, &mut Random(6));
    let message = format!("{}: changed while it was read", file.path.display());
    assert_eq!((seen.len(), error), (2, Some(message)));
}

#[test]
fn a_file_that_changes_during_the_pass_is_an_error_of_the_pass() {
    let file = csv(SORTED);
    let check = |row: &Row| {
        if row.record_number() == 1 {
            let writer = fs::OpenOptions::new().append(true).open(&file.path);
            writer.unwrap().write_all(b"d,1\n").unwrap();
        }
        Ok::<_, Infallible>(Keep::Take)
    };
    let result = block_on(async {
        let input = Input::open(settings(&file.path, Order::Spread))
            .await
            .unwrap();
        input.into_feed(first_field, check, |_| 9).await
    });
    assert!(matches!(result, Err(FeedError::Changed { .. })));
}

#[test]
fn a_file_may_be_replaced_while_it_is_read() {
    let file = csv(SORTED);
    let mut feed = feed(settings(&file.path, Order::Spread), 9).unwrap();
    let other = file.dir.path().join("other.csv");
    fs::write(&other, "host,n\nz,1\n").unwrap();
    fs::rename(&other, &file.path).unwrap();
    assert_eq!(
        first_fields(&mut feed),
        ["a1", "b1", "c1", "a2", "b2", "a3", "b3"]
    );
    assert!(block_on(feed.next()).is_none());
}

/// Counts how often it is woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn done_wakes_the_task_that_waits_for_a_lane() {
    let file = csv(SORTED);
    let mut feed = feed(settings(&file.path, Order::Spread), 1).unwrap();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut cx = Context::from_waker(&waker);
    let mut lanes = Vec::new();
    while let Poll::Ready(next) = feed.poll_next(&mut cx) {
        match next {
            Some(Ok(Fed::Row { lane, .. })) => lanes.push(lane),
            other => panic!("{other:?} is not a row"),
        }
    }
    assert_eq!((lanes.len(), wakes.0.load(Ordering::SeqCst)), (3, 0));
    feed.done(lanes[1]);
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    let Poll::Ready(Some(Ok(Fed::Row { lane, row, .. }))) = feed.poll_next(&mut cx) else {
        panic!("lane b may start a row")
    };
    assert_eq!((lane, row.get(1)), (lanes[1], Some("2")));
}

#[test]
fn a_window_that_is_full_of_waiting_rows_says_so_and_goes_on_when_one_is_done() {
    let text: String = (0..9).map(|n| format!("a,{n}\n")).collect();
    let file = csv(format!("host,n\n{text}b,0\n"));
    let settings = Settings {
        lookahead: 4,
        ..settings(&file.path, Order::Window)
    };
    let mut feed = feed(settings, 2).unwrap();
    for _ in 0..2 {
        assert!(matches!(block_on(feed.next()), Some(Ok(Fed::Row { .. }))));
    }
    let is_limited = |feed: &mut Feed<'_, Infallible>| {
        // Until the thread that reads has filled the window.
        while !feed.waits_for_lookahead() {
            assert!(block_on(poll_once(feed.next())).is_none());
        }
        feed.lanes().map(|(_, rows)| rows).collect::<Vec<_>>()
    };
    assert_eq!(is_limited(&mut feed), [4]);
    let a = LaneId::first();
    feed.done(a);
    assert!(!feed.waits_for_lookahead());
    assert!(matches!(
        block_on(feed.next()),
        Some(Ok(Fed::Row { number: 3, .. }))
    ));
    assert_eq!(is_limited(&mut feed), [4]);
    assert_eq!(feed.total(), None);
}

#[test]
fn a_lane_beyond_the_waiting_rows_starts_if_the_window_reaches_it() {
    let file = csv(SORTED);
    let settings = Settings {
        lookahead: 5,
        ..settings(&file.path, Order::Window)
    };
    let mut feed = feed(settings, 1).unwrap();
    let mut hosts = Vec::new();
    for _ in 0..3 {
        match block_on(feed.next()) {
            Some(Ok(Fed::Row { row, .. })) => hosts.push(row.get(0).unwrap().to_owned()),
            other => panic!("{other:?} is not a row"),
        }
    }
    assert_eq!(hosts, ["a", "b", "c"]);
}

/// A pipe, and what opens it for reading.
fn pipe(order: Order, lookahead: usize) -> (fs::File, Input, TempDir) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    let settings = Settings {
        lookahead,
        ..settings(&path, order)
    };
    let opened = smol::spawn(Input::open(settings));
    let mut writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all(b"host,n\n").unwrap();
    (writer, block_on(opened).unwrap(), dir)
}

#[test]
fn the_first_row_of_a_pipe_is_handed_out_while_it_is_still_written() {
    let (mut writer, input, _dir) = pipe(Order::Spread, 10);
    writer.write_all(b"a,1\n").unwrap();
    assert!(!input.is_indexed());
    let feed = input.into_feed(first_field, take_all, |_| 9);
    let mut feed = block_on(feed).unwrap();
    assert!(matches!(
        block_on(feed.next()),
        Some(Ok(Fed::Row { number: 1, .. }))
    ));
    assert!(block_on(poll_once(feed.next())).is_none());
    writer.write_all(b"a,2\n").unwrap();
    assert!(matches!(
        block_on(feed.next()),
        Some(Ok(Fed::Row { number: 2, .. }))
    ));
    drop(writer);
    assert!(block_on(feed.next()).is_none());
    assert_eq!(feed.total(), Some(2));
}

#[test]
fn an_input_that_cannot_be_opened_is_an_error_with_its_name() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("none.csv");
    let error = block_on(Input::open(settings(&path, Order::Spread))).unwrap_err();
    assert!(error.is_cannot_open() && error.file() == path.display().to_string());
    let error = block_on(Input::open(settings(dir.path(), Order::Window))).unwrap_err();
    assert!(error.is_cannot_open());
}

#[test]
fn the_pass_lets_other_futures_of_its_task_run() {
    let text = "host\n".to_owned() + &"a\n".repeat(5_000);
    let file = csv(text);
    let input = block_on(Input::open(settings(&file.path, Order::Spread))).unwrap();
    let mut pass = Box::pin(input.into_feed(first_field, take_all, |_| 1));
    assert!(block_on(poll_once(&mut pass)).is_none());
    assert_eq!(block_on(pass).unwrap().total(), Some(5_000));
}

#[test]
fn an_input_that_was_done_before_is_skipped_to_its_end() {
    let text = "host\n".to_owned() + &"a\n".repeat(5_000);
    let file = csv(text);
    for order in ORDERS {
        let skip = |_: &Row| Ok::<_, Infallible>(Keep::Skip);
        let mut feed = block_on(async {
            let input = Input::open(settings(&file.path, order)).await.unwrap();
            input.into_feed(first_field, skip, |_| 1).await.unwrap()
        });
        assert!(block_on(feed.next()).is_none(), "{order:?}");
        assert_eq!(
            (feed.total(), feed.lanes().count()),
            (Some(5_000), 0),
            "{order:?}"
        );
    }
}

#[test]
fn a_pipe_in_the_order_of_the_input_has_no_lookahead_and_no_quota() {
    let (mut writer, input, _dir) = pipe(Order::Input, 1);
    writer.write_all(b"a,1\na,2\nb,1\nbad\na,3\n").unwrap();
    drop(writer);
    let mut feed = block_on(input.into_feed(first_field, take_all, |_| 1)).unwrap();
    let mut numbers = Vec::new();
    while let Some(next) = block_on(feed.next()) {
        numbers.push(match next.unwrap() {
            Fed::Row { number, .. } => number,
            Fed::Bad(bad) => bad.record_number(),
        });
    }
    assert_eq!((numbers, feed.total()), (vec![1, 2, 3, 4, 5], Some(5)));
}
