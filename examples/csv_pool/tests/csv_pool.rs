//! What the example `csv_pool` promises on the outside: exit codes, stdout, stderr and the files
//! that it writes.
//!
//! Runs the built example. `cargo test` builds it; before `cargo test --test csv_pool` alone, say
//! `cargo build --example csv_pool`.
#![cfg(unix)]

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{self, Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

/// A directory of its own for one test.
struct Dir(PathBuf);

/// What a run left behind.
#[derive(Debug, PartialEq)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("brigade-csv_pool-{}-{number}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn with(text: impl AsRef<[u8]>) -> Self {
        let dir = Self::new();
        dir.write("in.csv", text);
        dir
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.0.join(name)).unwrap()).into_owned()
    }

    /// The example, run in this directory: names of files in its messages are short.
    fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = Command::new(example());
        command.current_dir(&self.0).args(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        ran(self
            .command(arguments)
            .stdin(Stdio::null())
            .spawn()
            .unwrap())
    }

    fn run_with_stdin(&self, arguments: &[&str], name: &str) -> Ran {
        let file = fs::File::open(self.0.join(name)).unwrap();
        ran(self.command(arguments).stdin(file).spawn().unwrap())
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn example() -> PathBuf {
    let test = env::current_exe().unwrap();
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("a test is at target/PROFILE/deps/TEST");
    let example = profile.join("examples/csv_pool");
    assert!(
        example.exists(),
        "first run `cargo build --example csv_pool`: there is no {}",
        example.display()
    );
    example
}

fn ran(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// What a run is expected to leave behind: paths done, in this order, and lines on stderr.
fn expected(code: i32, paths: &[&str], stderr: &[&str]) -> Ran {
    Ran {
        code: Some(code),
        stdout: results(paths),
        stderr: lines(stderr),
    }
}

/// The same where no job may have started.
fn refused(stderr: &[&str]) -> Ran {
    let stderr = lines(stderr) + "rows=0 bad=0 ok=0 failed=0 not_started=0\n";
    Ran {
        code: Some(2),
        stdout: String::new(),
        stderr,
    }
}

fn results(paths: &[&str]) -> String {
    let mut text: String = paths.iter().map(|path| format!("Done {path}\n")).collect();
    text += &format!("{paths:?}\n");
    text
}

fn lines(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The numbers of the last line on stderr: rows, bad, ok, failed, not started.
fn account(stderr: &str) -> [u64; 5] {
    let last = stderr.lines().last().expect("there is a last line");
    let mut numbers = [0; 5];
    let names = ["rows", "bad", "ok", "failed", "not_started"];
    assert_eq!(last.split(' ').count(), names.len(), "{last}");
    for ((number, name), part) in numbers.iter_mut().zip(names).zip(last.split(' ')) {
        let (found, value) = part.split_once('=').unwrap();
        assert_eq!(found, name, "{last}");
        *number = value.parse().unwrap();
    }
    numbers
}

// Without arguments.

#[test]
fn without_arguments_it_does_every_row_of_the_shipped_file() {
    let dummy =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/dummy.csv")).unwrap();
    let paths: Vec<&str> = dummy
        .lines()
        .skip(1)
        .map(|line| line.split(',').nth(1).unwrap())
        .collect();
    assert_eq!(paths.len(), 250);

    let ran = Dir::new().run(&[]);
    assert_eq!(
        (ran.code, &*ran.stderr),
        (Some(0), "rows=250 bad=0 ok=250 failed=0 not_started=0\n")
    );
    let (done, list) = ran.stdout.trim_end().rsplit_once('\n').unwrap();
    let in_order: Vec<&str> = done
        .lines()
        .map(|line| line.strip_prefix("Done ").unwrap())
        .collect();
    assert_eq!(
        list,
        format!("{in_order:?}"),
        "the list has the results in the order in which they came"
    );
    let (mut sorted, mut all) = (in_order, paths);
    sorted.sort_unstable();
    all.sort_unstable();
    assert_eq!(sorted, all);
}

#[test]
fn ordered_writes_results_in_the_order_of_the_rows() {
    let rows: Vec<String> = (0..500).map(|number| format!("p{number}")).collect();
    let dir = Dir::with(format!("1\n{}\n", rows.join("\n")));
    let paths: Vec<&str> = rows.iter().map(String::as_str).collect();
    let account = "rows=500 bad=0 ok=500 failed=0 not_started=0";
    assert_eq!(
        dir.run(&["in.csv", "--ordered"]),
        expected(0, &paths, &[account])
    );
    assert_eq!(
        dir.run(&["in.csv", "--ordered", "--capacity", "1"]),
        expected(0, &paths, &[account])
    );
}

#[test]
fn the_help_names_every_exit_code() {
    let ran = Dir::new().run(&["--help"]);
    assert_eq!((ran.code, &*ran.stderr), (Some(0), ""));
    let codes = ran.stdout.split("Exit code:\n").nth(1).unwrap();
    let codes: Vec<&str> = codes
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(codes, ["0", "1", "2", "130", "143", "141"]);
}

// Usage.

#[test]
fn a_wrong_value_is_refused_with_option_rule_and_value() {
    let dir = Dir::with("1\na\n");
    for (option, value, rule) in [
        ("--workers <N>", "0", "must be at least 1"),
        ("--workers <N>", "1000001", "must be at most 1000000"),
        ("--workers <N>", "many", "invalid digit found in string"),
        ("--capacity <N>", "0", "must be at least 1"),
        ("--max-failures <N>", "0", "must be at least 1"),
        ("--max-record-bytes <N>", "0", "must be at least 1"),
        (
            "--delimiter <CHAR>",
            ";;",
            "must be one ASCII character, neither a quote nor a line break",
        ),
        (
            "--delimiter <CHAR>",
            "\"",
            "must be one ASCII character, neither a quote nor a line break",
        ),
        (
            "--delimiter <CHAR>",
            "é",
            "must be one ASCII character, neither a quote nor a line break",
        ),
    ] {
        let name = option.split(' ').next().unwrap();
        let ran = dir.run(&["in.csv", name, value]);
        let first = ran.stderr.lines().next().unwrap_or_default();
        assert_eq!(
            first,
            format!("error: invalid value '{value}' for '{option}': {rule}")
        );
        assert_eq!((ran.code, &*ran.stdout), (Some(2), ""));
    }
}

// A file that cannot be used, known before the first job.

#[test]
fn a_file_without_a_usable_header_is_refused_before_any_job() {
    for (text, message) in [
        (&b""[..], "in.csv: no header, the file is empty"),
        (b"\n\n", "in.csv: no header, the file is empty"),
        (
            b"0,2\na,b\n",
            r#"in.csv:1: no column "1": the header has 2 columns ("0", "2")"#,
        ),
        (
            b"0;1\na;b\n",
            r#"in.csv:1: no column "1": the header has 1 column ("0;1")"#,
        ),
        (
            b"1,0,1\na,b,c\n",
            r#"in.csv:1: duplicate column "1": columns 1 and 3"#,
        ),
        (
            b"1,\xff\na,b\n",
            "in.csv:1: invalid UTF-8 in the header, column 2",
        ),
        (
            b"\xff\xfe1\0",
            "in.csv:1: the file is UTF-16, convert it to UTF-8",
        ),
        (b"0,\"1\na,b\n", "in.csv:1: unclosed quote opened at line 1"),
    ] {
        assert_eq!(Dir::with(text).run(&["in.csv"]), refused(&[message]));
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_refused() {
    let dir = Dir::with("1\na\n");
    assert_eq!(
        dir.run(&["no.csv"]),
        refused(&["no.csv: cannot open: No such file or directory (os error 2)"])
    );
    assert_eq!(
        dir.run(&["."]),
        refused(&[".: cannot open: is a directory"])
    );
    fs::set_permissions(dir.0.join("in.csv"), fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read everything.
    if fs::File::open(dir.0.join("in.csv")).is_err() {
        assert_eq!(
            dir.run(&["in.csv"]),
            refused(&["in.csv: cannot open: Permission denied (os error 13)"])
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let message = "/proc/self/mem:1: cannot read: Input/output error (os error 5)";
    assert_eq!(Dir::new().run(&["/proc/self/mem"]), refused(&[message]));
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_any_job() {
    let dir = Dir::with("1\na\n");
    for option in ["--rejects", "--failures"] {
        let message = "no/out.csv: cannot write: No such file or directory (os error 2)";
        assert_eq!(
            dir.run(&["in.csv", option, "no/out.csv"]),
            refused(&[message])
        );
        let message = ".: cannot write: Is a directory (os error 21)";
        assert_eq!(dir.run(&["in.csv", option, "."]), refused(&[message]));
    }
}

#[test]
fn an_output_never_overwrites_the_input_or_the_other_output() {
    let text = "1\na\n";
    let dir = Dir::with(text);
    symlink("in.csv", dir.0.join("symbolic.csv")).unwrap();
    fs::hard_link(dir.0.join("in.csv"), dir.0.join("hard.csv")).unwrap();
    for option in ["--rejects", "--failures"] {
        for name in ["in.csv", "./in.csv", "symbolic.csv", "hard.csv"] {
            let message = format!("{name}: {option} would overwrite the input");
            assert_eq!(dir.run(&["in.csv", option, name]), refused(&[&message]));
            assert_eq!(
                dir.run_with_stdin(&["-", option, name], "in.csv"),
                refused(&[&message])
            );
        }
    }
    assert_eq!(dir.read("in.csv"), text);
    let message = "./out.csv: --failures would overwrite --rejects";
    assert_eq!(
        dir.run(&["in.csv", "--rejects", "out.csv", "--failures", "./out.csv"]),
        refused(&[message])
    );
}

#[test]
fn a_refused_input_leaves_the_outputs_of_the_last_run_alone() {
    let dir = Dir::with("0\na\n");
    dir.write("out.csv", "kept\n");
    let message = r#"in.csv:1: no column "1": the header has 1 column ("0")"#;
    assert_eq!(
        dir.run(&["in.csv", "--failures", "out.csv"]),
        refused(&[message])
    );
    assert_eq!(dir.read("out.csv"), "kept\n");
}

#[test]
fn two_outputs_may_share_what_is_no_file() {
    let ran = Dir::with("1\na\n").run(&[
        "in.csv",
        "--rejects",
        "/dev/null",
        "--failures",
        "/dev/null",
    ]);
    assert_eq!(
        ran,
        expected(0, &["a"], &["rows=1 bad=0 ok=1 failed=0 not_started=0"])
    );
}

// A file that cannot be used to its end.

#[test]
fn an_unclosed_quote_ends_the_run_after_the_rows_before_it() {
    let dir = Dir::with("0,1\n1,a\n2,b\n3,\"c\n4,d\n");
    let lines = [
        "in.csv:4: unclosed quote opened at line 4",
        "in.csv: input incomplete after line 3",
        "rows=2 bad=0 ok=2 failed=0 not_started=0",
    ];
    assert_eq!(
        dir.run(&["in.csv", "--workers", "1"]),
        expected(2, &["a", "b"], &lines)
    );
}

#[test]
fn a_record_above_the_limit_ends_the_run_after_the_rows_before_it() {
    let long = "x".repeat(2_000_000);
    let dir = Dir::with(format!("1\na\n{long}\nb\n"));
    let lines = [
        "in.csv:3: record has more than 1048576 bytes",
        "in.csv: input incomplete after line 2",
        "rows=1 bad=0 ok=1 failed=0 not_started=0",
    ];
    assert_eq!(dir.run(&["in.csv"]), expected(2, &["a"], &lines));

    let all = ["rows=3 bad=0 ok=3 failed=0 not_started=0"];
    let limit = ["in.csv", "--workers", "1", "--max-record-bytes", "2000000"];
    assert_eq!(dir.run(&limit), expected(0, &["a", &long, "b"], &all));
}

// What a good file may look like.

#[test]
fn a_file_with_only_a_header_is_done_at_once() {
    let ran = Dir::with("0,1\n").run(&["in.csv"]);
    assert_eq!(
        ran,
        expected(0, &[], &["rows=0 bad=0 ok=0 failed=0 not_started=0"])
    );
}

#[test]
fn byte_order_marks_crlf_blank_lines_and_quoted_line_breaks_are_read() {
    let dir = Dir::with("\u{feff}1,0\r\na,1\r\n\r\n\"b\r\nc\",2\r\nd\r\n");
    let ran = dir.run(&["in.csv", "--workers", "1"]);
    let stderr = [
        "in.csv:6: expected 2 fields, found 1",
        "rows=3 bad=1 ok=2 failed=0 not_started=0",
    ];
    let stdout = "Done a\nDone b\r\nc\n[\"a\", \"b\\r\\nc\"]\n".to_owned();
    assert_eq!(
        ran,
        Ran {
            code: Some(1),
            stdout,
            stderr: lines(&stderr)
        }
    );
}

#[test]
fn column_and_delimiter_can_be_chosen() {
    let all = ["rows=1 bad=0 ok=1 failed=0 not_started=0"];
    let ran =
        Dir::with("id;path\n1;a,b\n").run(&["in.csv", "--delimiter", ";", "--column", "path"]);
    assert_eq!(ran, expected(0, &["a,b"], &all));
    let ran =
        Dir::with("id\tpath\n1\ta b\n").run(&["in.csv", "--delimiter", "\\t", "--column", "path"]);
    assert_eq!(ran, expected(0, &["a b"], &all));
}

#[test]
fn a_dash_is_stdin() {
    let dir = Dir::with("1\na\n\"b\n");
    let lines = [
        "stdin:3: unclosed quote opened at line 3",
        "stdin: input incomplete after line 2",
        "rows=1 bad=0 ok=1 failed=0 not_started=0",
    ];
    assert_eq!(
        dir.run_with_stdin(&["-"], "in.csv"),
        expected(2, &["a"], &lines)
    );
    assert_eq!(
        dir.run(&["-"]),
        refused(&["stdin: no header, the file is empty"])
    );
}

// Bad rows.

const BAD_ROWS: &[u8] = b"0,1\n1,a\n2\n3,b,c\n4,\xff\n5,d\n";

#[test]
fn bad_rows_are_reported_and_the_others_done() {
    let lines = [
        "in.csv:3: expected 2 fields, found 1",
        "in.csv:4: expected 2 fields, found 3",
        r#"in.csv:5: invalid UTF-8 in field 2 ("1")"#,
        "rows=5 bad=3 ok=2 failed=0 not_started=0",
    ];
    let dir = Dir::with(BAD_ROWS);
    assert_eq!(
        dir.run(&["in.csv", "--workers", "1"]),
        expected(1, &["a", "d"], &lines)
    );
    let named = ["in.csv", "--workers", "1", "--on-bad-row", "continue"];
    assert_eq!(dir.run(&named), expected(1, &["a", "d"], &lines));
}

#[test]
fn skipped_bad_rows_are_still_counted() {
    let lines = [
        "in.csv: bad rows: 3",
        "rows=5 bad=3 ok=2 failed=0 not_started=0",
    ];
    let ran = Dir::with(BAD_ROWS).run(&["in.csv", "--workers", "1", "--on-bad-row", "skip"]);
    assert_eq!(ran, expected(1, &["a", "d"], &lines));
}

#[test]
fn a_bad_row_can_stop_the_run() {
    let lines = [
        "in.csv:3: expected 2 fields, found 1",
        "in.csv: input incomplete after line 3",
        "rows=2 bad=1 ok=1 failed=0 not_started=0",
    ];
    let dir = Dir::with(BAD_ROWS);
    let ran = dir.run(&["in.csv", "--on-bad-row", "stop", "--rejects", "bad.csv"]);
    assert_eq!(ran, expected(1, &["a"], &lines));
    assert_eq!(
        dir.read("bad.csv"),
        "0,1,line,error\n2,3,\"expected 2 fields, found 1\"\n"
    );
}

#[test]
fn rejects_have_the_original_row_its_line_and_the_error() {
    let dir = Dir::with(BAD_ROWS);
    dir.write(
        "bad.csv",
        "what was there before, longer than what comes\n".repeat(100),
    );
    let ran = dir.run(&["in.csv", "--workers", "1", "--rejects", "bad.csv"]);
    let lines = [
        "in.csv: bad rows: 3, written to bad.csv",
        "rows=5 bad=3 ok=2 failed=0 not_started=0",
    ];
    assert_eq!(ran, expected(1, &["a", "d"], &lines));
    let written = fs::read(dir.0.join("bad.csv")).unwrap();
    let rejects = b"0,1,line,error\n2,3,\"expected 2 fields, found 1\"\n3,b,c,4,\"expected 2 fields, found 3\"\n\
        4,\xff,5,\"invalid UTF-8 in field 2 (\"\"1\"\")\"\n";
    assert_eq!(
        written.escape_ascii().to_string(),
        rejects.escape_ascii().to_string()
    );
}

// Failed jobs.

#[test]
fn failures_can_be_the_input_of_the_next_run() {
    let dir = Dir::with("0;1\r\n1;a\r\n2;\"no; 1\"\r\n\r\n3;b\r\n4;no 2\r\n");
    let options = [
        "--delimiter",
        ";",
        "--workers",
        "1",
        "--failures",
        "again.csv",
    ];
    let ran = dir.run(&[&["in.csv", "--fail-on", "no"], &options[..]].concat());
    let lines = [
        r#"in.csv:3: the path contains "no""#,
        r#"in.csv:6: the path contains "no""#,
        "rows=4 bad=0 ok=2 failed=2 not_started=0",
    ];
    assert_eq!(ran, expected(1, &["a", "b"], &lines));
    assert_eq!(dir.read("again.csv"), "0;1\n2;\"no; 1\"\n4;no 2\n");

    let ran = dir.run(&["again.csv", "--delimiter", ";", "--workers", "1"]);
    assert_eq!(
        ran,
        expected(
            0,
            &["no; 1", "no 2"],
            &["rows=2 bad=0 ok=2 failed=0 not_started=0"]
        )
    );
}

#[test]
fn max_failures_stops_the_run_and_no_row_that_was_read_is_lost() {
    let rows: String = (0..5_000).map(|number| format!("p{number}\n")).collect();
    let dir = Dir::with(format!("1\n{rows}"));
    let ran = dir.run(
        &[
            &[
                "in.csv",
                "--workers",
                "1",
                "--capacity",
                "10",
                "--fail-on",
                "p",
            ][..],
            &["--max-failures", "2", "--failures", "again.csv"],
        ]
        .concat(),
    );
    let [read, bad, ok, failed, not_started] = account(&ran.stderr);
    assert_eq!(
        (bad, ok, failed),
        (0, 0, 2),
        "a second worker would have had a third job"
    );
    assert_eq!(read, failed + not_started);
    assert!(
        (2..=2 + 11).contains(&read),
        "at most the window is read beyond the failures, got {read}"
    );
    let (incomplete, account) = (
        format!("in.csv: input incomplete after line {}", read + 1),
        format!("rows={read} bad=0 ok=0 failed=2 not_started={not_started}"),
    );
    let lines = [
        r#"in.csv:2: the path contains "p""#,
        r#"in.csv:3: the path contains "p""#,
        "stopped by --max-failures",
        &incomplete,
        &account,
    ];
    assert_eq!(ran, expected(1, &[], &lines));
    let again: String = (0..read).map(|number| format!("p{number}\n")).collect();
    assert_eq!(
        sorted(&dir.read("again.csv")),
        sorted(&format!("1\n{again}"))
    );
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

// Many rows.

#[test]
fn of_a_hundred_thousand_rows_each_is_accounted_for() {
    let row = |number| match number {
        _ if number % 1_000 == 0 => "ragged\n".to_owned(),
        _ if number % 100 == 0 => format!("{number},no{number}\n"),
        _ => format!("{number},p{number}\n"),
    };
    let dir = Dir::with(format!(
        "0,1\n{}",
        (0..100_000).map(row).collect::<String>()
    ));
    let options = [
        "--workers",
        "100",
        "--job-ms",
        "0",
        "--fail-on",
        "no",
        "--failures",
        "again.csv",
    ];
    let ran = dir.run(&[&["in.csv"], &options[..]].concat());
    assert_eq!(ran.code, Some(1));
    assert_eq!(
        ran.stdout
            .lines()
            .filter(|line| line.starts_with("Done p"))
            .count(),
        99_000
    );

    let of_bad_rows =
        (0..20).map(|number| format!("in.csv:{}: expected 2 fields, found 1", number * 1_000 + 2));
    let stderr: Vec<&str> = ran.stderr.lines().collect();
    let (bad, others): (Vec<&str>, Vec<&str>) = stderr
        .iter()
        .partition(|line| line.contains("expected 2 fields"));
    assert_eq!(bad, of_bad_rows.collect::<Vec<_>>());
    let (failed, others): (Vec<&str>, Vec<&str>) = others
        .iter()
        .partition(|line| line.contains("the path contains "));
    assert_eq!(failed.len(), 20);
    let rest = [
        "in.csv: and 80 more bad rows",
        "in.csv: and 880 more failed jobs",
    ];
    assert_eq!(
        others,
        [
            &rest[..],
            &["rows=100000 bad=100 ok=99000 failed=900 not_started=0"]
        ]
        .concat()
    );
    assert_eq!(dir.read("again.csv").lines().count(), 901);
}

// Closed outputs.

#[test]
fn closed_stdout_ends_an_endless_input_quietly() {
    let dir = Dir::new();
    let mut child = dir.command(&["-"]).spawn().unwrap();
    let feeder = feed_forever(child.stdin.take().unwrap());
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert_eq!(first.get(..6), Some("Done p"));

    let ran = ran(child);
    feeder.join().unwrap();
    assert_eq!(ran.code, Some(141), "{}", ran.stderr);
    let [rows, bad, ok, failed, not_started] = account(&ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert_eq!(
        (rows, bad, failed, not_started),
        (ok, 0, 0, 0),
        "what was accepted was finished"
    );
}

#[test]
fn with_stdout_and_stderr_closed_it_ends_all_the_same() {
    let dir = Dir::new();
    let mut child = dir.command(&["-", "--fail-on", "7"]).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    let feeder = feed_forever(child.stdin.take().unwrap());
    assert_eq!(child.wait().unwrap().code(), Some(141));
    feeder.join().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_cannot_be_written_outweighs_the_first_reason_to_stop() {
    let ran =
        Dir::with(BAD_ROWS).run(&["in.csv", "--on-bad-row", "stop", "--rejects", "/dev/full"]);
    let lines = [
        "in.csv:3: expected 2 fields, found 1",
        "/dev/full: cannot write: No space left on device (os error 28)",
        "in.csv: input incomplete after line 3",
        "rows=2 bad=1 ok=1 failed=0 not_started=0",
    ];
    assert_eq!(ran, expected(2, &["a"], &lines));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_an_output_is_an_error() {
    let message = "cannot write: No space left on device (os error 28)";
    let account = "rows=1 bad=0 ok=1 failed=0 not_started=0\n";
    let dir = Dir::with("1\na\n");
    let full = || {
        fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let ran_full = ran(dir.command(&["in.csv"]).stdout(full()).spawn().unwrap());
    let stderr = format!("stdout: {message}\n{account}");
    assert_eq!(
        ran_full,
        Ran {
            code: Some(2),
            stdout: String::new(),
            stderr
        }
    );

    for option in ["--rejects", "--failures"] {
        let ran = dir.run(&["in.csv", option, "/dev/full"]);
        assert_eq!(
            ran,
            expected(
                2,
                &["a"],
                &[&format!("/dev/full: {message}"), account.trim_end()]
            )
        );
    }
}

/// Writes rows until the pipe is closed.
fn feed_forever(mut stdin: ChildStdin) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut row = 0_u64;
        let mut rest = stdin.write_all(b"1\n");
        while rest.is_ok() {
            row += 1;
            rest = stdin.write_all(format!("p{row}\n").as_bytes());
        }
    })
}

// Signals.

/// A run that has begun and waits for more rows.
struct Waiting {
    child: Child,
    stdin: ChildStdin,
    stderr: BufReader<process::ChildStderr>,
}

impl Waiting {
    fn new(dir: &Dir, options: &[&str], rows: &str) -> Self {
        let mut child = dir.command(&[&["-"], options].concat()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"1\n").unwrap();
        stdin.write_all(rows.as_bytes()).unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self {
            child,
            stdin,
            stderr,
        }
    }

    /// The next line on stderr.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for its end, while stdin stays open. What `line` has returned is not in it.
    fn end(mut self) -> Ran {
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).unwrap();
        let ran = ran(self.child);
        drop(self.stdin);
        Ran { stderr, ..ran }
    }
}

/// A job that does not end while a test runs, and does not outlive one that failed for long.
const MINUTE: &str = "60000";
const REFUSED: &str = "stdin:3: the path contains \"no\"\n";
const INTERRUPTED: &str =
    "interrupted: finishing the jobs that were accepted; a second signal cuts them short\n";
const TERMINATED: &str =
    "terminated: finishing the jobs that were accepted; a second signal cuts them short\n";

#[test]
fn a_signal_finishes_what_was_accepted_and_reads_no_more() {
    for (signal, message, code) in [("INT", INTERRUPTED, 130), ("TERM", TERMINATED, 143)] {
        let mut waiting = Waiting::new(
            &Dir::new(),
            &["--fail-on", "no", "--job-ms", "300"],
            "slow\nno\n",
        );
        // The second row has failed, so the first was accepted, and is very likely still running.
        // If it is not, the result is the same.
        assert_eq!(waiting.line(), REFUSED);
        waiting.signal(signal);
        assert_eq!(waiting.line(), message);
        let lines = [
            "stdin: input incomplete after line 3",
            "rows=2 bad=0 ok=1 failed=1 not_started=0",
        ];
        assert_eq!(waiting.end(), expected(code, &["slow"], &lines));
    }
}

#[test]
fn a_second_signal_cuts_running_jobs_short() {
    let dir = Dir::new();
    let options = [
        "--fail-on",
        "no",
        "--job-ms",
        MINUTE,
        "--failures",
        "again.csv",
    ];
    let mut waiting = Waiting::new(&dir, &options, "endless\nno\n");
    assert_eq!(waiting.line(), REFUSED);
    waiting.signal("INT");
    assert_eq!(waiting.line(), INTERRUPTED);
    waiting.signal("INT");
    let lines = [
        "stdin:2: the job was cancelled: its map or group was dropped or cancelled",
        "stdin: input incomplete after line 3",
        "rows=2 bad=0 ok=0 failed=2 not_started=0",
    ];
    assert_eq!(waiting.end(), expected(130, &[], &lines));
    assert_eq!(dir.read("again.csv"), "1\nno\nendless\n");
}

#[test]
fn a_second_signal_loses_no_row_that_waits() {
    // No more than 64 KiB fit into the pipe, and no more than 64 rows and two buffers of 8 KiB are
    // read ahead. Once all is written, most of the rows were accepted, and all but one of those
    // wait.
    let (row, dir) = ("x".repeat(1_023), Dir::new());
    let options = [
        "--workers",
        "1",
        "--job-ms",
        MINUTE,
        "--failures",
        "again.csv",
    ];
    let mut waiting = Waiting::new(&dir, &options, &format!("{row}\n").repeat(400));
    waiting.signal("INT");
    assert_eq!(waiting.line(), INTERRUPTED);
    waiting.signal("INT");
    let ran = waiting.end();
    assert_eq!(ran.code, Some(130));
    let [rows, bad, ok, failed, not_started] = account(&ran.stderr);
    assert!((200..=400).contains(&rows), "{}", ran.stderr);
    assert!(failed <= 1, "there is one worker: {}", ran.stderr);
    assert_eq!((bad, ok, failed + not_started), (0, 0, rows));
    assert_eq!(
        dir.read("again.csv"),
        "1\n".to_owned() + &format!("{row}\n").repeat(usize::try_from(rows).unwrap())
    );
}

#[test]
fn a_signal_ends_the_wait_for_the_next_row() {
    let mut waiting = Waiting::new(&Dir::new(), &["--fail-on", "no"], "a\nno\n");
    let mut done = String::new();
    let mut stdout = BufReader::new(waiting.child.stdout.take().unwrap());
    stdout.read_line(&mut done).unwrap();
    assert_eq!((waiting.line(), &*done), (REFUSED.to_owned(), "Done a\n"));
    // Nothing is running, and stdin stays open.
    waiting.signal("TERM");
    assert_eq!(waiting.line(), TERMINATED);
    let lines = lines(&[
        "stdin: input incomplete after line 3",
        "rows=2 bad=0 ok=1 failed=1 not_started=0",
    ]);
    assert_eq!(
        waiting.end(),
        Ran {
            code: Some(143),
            stdout: String::new(),
            stderr: lines
        }
    );
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "[\"a\"]\n");
}
