//! What a run of `brigade` promises on the outside, whatever it does with a row: exit codes, stdout,
//! stderr and the files that it writes. The commands are small ones of the system.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A directory of its own for one test, in which the tool runs: the names in its messages are short.
struct Dir(TempDir);

/// What a run left behind.
#[derive(Debug, Clone, PartialEq)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// The numbers of the last line on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    rows: u64,
    bad: u64,
    ok: u64,
    failed: u64,
    not_started: u64,
}

const NOTHING: Counts = Counts {
    rows: 0,
    bad: 0,
    ok: 0,
    failed: 0,
    not_started: 0,
};

/// Fails for a path that contains `no`, and prints the others.
const REFUSE_NO: [&str; 6] = [
    "--",
    "sh",
    "-c",
    r#"case "$1" in *no*) exit 3;; esac; printf %s "$1""#,
    "sh",
    "{path}",
];
const PRINT_PATH: [&str; 4] = ["--", "printf", "%s", "{path}"];
/// Says that it runs, and goes on once there is a file `go`.
const WAIT_FOR_GO: [&str; 6] = [
    "--",
    "sh",
    "-c",
    r#"echo $$ > "pid-$1"; mv "pid-$1" "runs-$1"; while [ ! -e go ]; do sleep 0.02; done; printf %s "$1""#,
    "sh",
    "{path}",
];

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(text: impl AsRef<[u8]>) -> Self {
        let dir = Self::new();
        dir.write("in.csv", text);
        dir
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(name)).unwrap()).into_owned()
    }

    /// `brigade run` with these arguments; pipes are its stdin, stdout and stderr.
    fn command(&self, arguments: &[&[&str]]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
        command.current_dir(self.0.path()).arg("run");
        command.args(arguments.concat()).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&[&str]]) -> Ran {
        ran(self
            .command(arguments)
            .stdin(Stdio::null())
            .spawn()
            .unwrap())
    }

    /// The same with a file as stdin.
    fn run_with_stdin(&self, name: &str, arguments: &[&[&str]]) -> Ran {
        let file = File::open(self.path(name)).unwrap();
        ran(self.command(arguments).stdin(file).spawn().unwrap())
    }

    /// Waits until there is a file.
    fn wait_for(&self, name: &str) {
        within_a_minute(name, || self.path(name).exists());
    }
}

fn ran(mut child: Child) -> Ran {
    let stderr = child.stderr.take();
    ended(child, stderr)
}

/// Waits for the end of a run, and reads what is left of its outputs.
fn ended(mut child: Child, stderr: Option<impl Read + Send + 'static>) -> Ran {
    // A run whose stdin is still held here would wait for it.
    drop(child.stdin.take());
    let (stdout, stderr) = (read_to_end(child.stdout.take()), read_to_end(stderr));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("a run has not ended in a minute");
        }
        thread::sleep(Duration::from_millis(2));
    };
    Ran {
        code: status.code(),
        stdout: stdout.join().unwrap(),
        stderr: stderr.join().unwrap(),
    }
}

fn read_to_end(output: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut output) = output {
            output.read_to_string(&mut text).unwrap();
        }
        text
    })
}

/// A watchdog: what takes so long does not happen.
fn within_a_minute(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "no {what} in a minute"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// A record of the answers, by the names of the columns.
type Record = BTreeMap<String, String>;

fn records(text: &str, delimiter: u8) -> Vec<Record> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let record = |record: csv::Result<csv::StringRecord>| {
        let record = record.expect("the answers have whole records");
        header
            .iter()
            .zip(&record)
            .map(|(name, cell)| (name.to_owned(), cell.to_owned()))
            .collect()
    };
    reader.records().map(record).collect()
}

/// The cells of these columns, sorted by row.
fn cells(text: &str, names: &[&str]) -> Vec<Vec<String>> {
    cells_between(text, b',', names)
}

fn cells_between(text: &str, delimiter: u8, names: &[&str]) -> Vec<Vec<String>> {
    let mut records = records(text, delimiter);
    records.sort_by_key(|record| record["row"].parse::<u64>().unwrap());
    let of = |record: &Record| names.iter().map(|name| record[*name].clone()).collect();
    records.iter().map(of).collect()
}

impl Ran {
    /// The last line on stderr, whose numbers add up.
    fn counts(&self) -> Counts {
        let last = self.stderr.lines().last().expect("stderr has a last line");
        let mut numbers = Vec::new();
        let names = ["rows", "bad", "ok", "failed", "not_started"];
        let parts: Vec<&str> = last.split(' ').collect();
        assert_eq!(parts.len(), names.len(), "{self:?}");
        for (part, name) in parts.iter().zip(names) {
            let (found, number) = part.split_once('=').expect("NAME=NUMBER");
            assert_eq!(found, name, "{self:?}");
            numbers.push(number.parse().unwrap());
        }
        let [rows, bad, ok, failed, not_started] = numbers[..] else {
            unreachable!("there are five names");
        };
        assert_eq!(rows, bad + ok + failed + not_started, "{self:?}");
        Counts {
            rows,
            bad,
            ok,
            failed,
            not_started,
        }
    }

    /// Stderr without its last line.
    fn messages(&self) -> Vec<&str> {
        let mut lines: Vec<&str> = self.stderr.lines().collect();
        lines.pop();
        lines
    }

    /// The run could not be used, and no row was started: `about` is what the message names.
    #[track_caller]
    fn assert_refused(&self, about: &[&str]) {
        assert_eq!((self.code, &*self.stdout), (Some(2), ""), "{self:?}");
        assert_eq!(self.counts().ok + self.counts().failed, 0, "{self:?}");
        for part in about {
            assert!(
                self.messages().concat().contains(part),
                "{part:?} in {self:?}"
            );
        }
    }

    #[track_caller]
    fn assert_ended(&self, code: i32, counts: Counts) {
        assert_eq!((self.code, self.counts()), (Some(code), counts), "{self:?}");
    }
}

fn counts(rows: u64, bad: u64, ok: u64, failed: u64, not_started: u64) -> Counts {
    Counts {
        rows,
        bad,
        ok,
        failed,
        not_started,
    }
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

// Answers.

#[test]
fn every_row_has_an_answer_behind_its_own_cells() {
    let dir = Dir::with("id,path\n1,a\n2,\"b,\nc\"\n3,=no\n");
    let ran = dir.run(&[&["in.csv", "--retries", "0"], &REFUSE_NO]);
    ran.assert_ended(1, counts(3, 0, 2, 1, 0));
    let header = "id,path,row,ok,exit_code,signal,attempts,queued_ms,elapsed_ms,finished_at,\
                  error_kind,error,stdout,stderr";
    assert_eq!(ran.stdout.lines().next(), Some(header));
    let names = [
        "id",
        "path",
        "row",
        "ok",
        "exit_code",
        "signal",
        "attempts",
        "error_kind",
        "stdout",
        "stderr",
    ];
    let expected = [
        ["1", "a", "1", "true", "0", "", "1", "", "a", ""],
        ["2", "b,\nc", "2", "true", "0", "", "1", "", "b,\nc", ""],
        ["3", "=no", "3", "false", "3", "", "1", "exit", "", ""],
    ];
    assert_eq!(cells(&ran.stdout, &names), expected);
    let errors = cells(&ran.stdout, &["error"]).concat();
    assert_eq!((&*errors[0], &*errors[1]), ("", ""));
    assert!(
        errors[2].contains('3'),
        "the error names the exit code: {}",
        errors[2]
    );
}

#[test]
fn ordered_writes_answers_in_the_order_of_the_rows() {
    let rows: Vec<String> = (1..=40).map(|number| number.to_string()).collect();
    let dir = Dir::with(format!("n\n{}\n", rows.join("\n")));
    // Even rows end after the odd ones that follow them.
    let script = r#"[ $(($1 % 2)) = 1 ] || sleep 0.1"#;
    let command = ["--", "sh", "-c", script, "sh", "{n}"];
    let written = |ran: &Ran| -> Vec<String> {
        records(&ran.stdout, b',')
            .iter()
            .map(|record| record["row"].clone())
            .collect()
    };
    for options in [
        &["--ordered", "-j", "8"][..],
        &["--ordered", "-j", "8", "--lookahead", "1"],
    ] {
        let ran = dir.run(&[&["in.csv"], options, &command]);
        ran.assert_ended(0, counts(40, 0, 40, 0, 0));
        assert_eq!(written(&ran), rows);
    }
    let ran = dir.run(&[&["in.csv", "-j", "8"], &command]);
    assert_ne!(
        written(&ran),
        rows,
        "the commands show whether answers are ordered"
    );
}

#[test]
fn what_a_cell_holds_reaches_no_shell() {
    let cell = "$(touch pwned); `touch pwned` 'a' \\ * {path}";
    let dir = Dir::with(format!("path\n\"{cell}\"\n"));
    for shell in [&[][..], &["--shell"]] {
        let ran = dir.run(&[&["in.csv"], shell, &["--", "printf", "%s", "{path}"]]);
        ran.assert_ended(0, counts(1, 0, 1, 0, 0));
        assert_eq!(cells(&ran.stdout, &["stdout"]), [[cell]]);
        assert!(!dir.path("pwned").exists());
    }
}

#[test]
fn retries_are_extra_attempts() {
    let dir = Dir::with("path\na\n");
    // The third attempt succeeds.
    let script = "echo x >> tries; [ $(wc -l < tries) -ge 3 ]";
    let command = [
        "--backoff",
        "1ms..2ms",
        "--",
        "sh",
        "-c",
        script,
        "sh",
        "{path}",
    ];
    let ran = dir.run(&[&["in.csv", "--retries", "1"], &command]);
    ran.assert_ended(1, counts(1, 0, 0, 1, 0));
    assert_eq!(cells(&ran.stdout, &["attempts", "ok"]), [["2", "false"]]);
    fs::remove_file(dir.path("tries")).unwrap();
    let ran = dir.run(&[&["in.csv", "--retries", "2"], &command]);
    ran.assert_ended(0, counts(1, 0, 1, 0, 0));
    assert_eq!(cells(&ran.stdout, &["attempts", "ok"]), [["3", "true"]]);
}

#[test]
fn a_time_out_ends_the_command_and_all_that_it_has_started() {
    let dir = Dir::with("path\na\n");
    let script = "sleep 600 & echo $! > pid; wait";
    let options = [
        "in.csv",
        "--retries",
        "0",
        "--timeout",
        "2s",
        "--",
        "sh",
        "-c",
        script,
    ];
    let ran = dir.run(&[&options, &["sh", "{path}"]]);
    ran.assert_ended(1, counts(1, 0, 0, 1, 0));
    assert_eq!(
        cells(&ran.stdout, &["error_kind", "attempts"]),
        [["timeout", "1"]]
    );
    assert_gone(dir.read("pid").trim());
}

/// Waits until the process has ended; its parent need not have reaped it.
#[track_caller]
fn assert_gone(pid: &str) {
    let state = || {
        let output = Command::new("ps")
            .args(["-o", "stat=", "-p", pid])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    within_a_minute("end of a process", || {
        state().is_empty() || state().starts_with('Z')
    });
}

// Usage.

#[test]
fn the_help_names_the_exit_codes() {
    for help in [&["--help"][..], &["run", "--help"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
        let output = command.args(help).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
        let codes = text
            .split("Exit code:\n")
            .nth(1)
            .expect("a paragraph about the exit code");
        let codes: Vec<&str> = codes
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        for code in ["0", "1", "2", "130", "143"] {
            assert!(codes.contains(&code), "{code} in {codes:?}");
        }
    }
}

#[test]
fn a_wrong_value_is_refused_with_option_and_value() {
    let dir = Dir::with("path\na\n");
    for (option, value) in [
        ("--workers", "0"),
        ("--workers", "many"),
        ("--lookahead", "0"),
        ("--max-failures", "0"),
        ("--max-failures", "101%"),
        ("--max-record-bytes", "0"),
        ("--delimiter", ";;"),
        ("--delimiter", "\""),
        ("--delimiter", "é"),
        ("--rate", "5"),
        ("--timeout", "0s"),
        ("--backoff", "9s..1s"),
        ("--on-bad-row", "panic"),
    ] {
        let ran = dir.run(&[&["in.csv", option, value], &["--", "touch", "started"]]);
        assert_eq!((ran.code, &*ran.stdout), (Some(2), ""), "{option} {value}");
        let first = ran.stderr.lines().next().unwrap_or_default();
        assert!(first.contains(option) && first.contains(value), "{first}");
        assert!(!dir.path("started").exists());
    }
    let ran = dir.run(&[&["in.csv"]]);
    assert_eq!(
        (ran.code, &*ran.stdout),
        (Some(2), ""),
        "there is no command"
    );
}

#[test]
fn a_column_that_is_missing_is_refused_with_those_that_are_there() {
    let dir = Dir::with("id,path\n1,a\n");
    for arguments in [
        &["--", "touch", "{URL}"][..],
        &["--column", "URL", "--", "touch", "{}"],
        &["--key", "URL", "--", "touch", "{path}"],
        &["--stdin", "URL", "--", "touch", "{path}"],
    ] {
        let ran = dir.run(&[&["in.csv"], arguments]);
        ran.assert_refused(&["URL", "id", "path"]);
        assert!(!dir.path("a").exists());
    }
}

#[test]
fn a_command_that_is_missing_is_refused_before_any_row() {
    let dir = Dir::with("path\na\n");
    for command in ["no-such-command", "./no-such-command", "./in.csv"] {
        dir.run(&[&["in.csv", "--", command, "{path}"]])
            .assert_refused(&[command]);
    }
    // Which commands these are is known only with their rows.
    let ran = dir.run(&[&["in.csv", "--", "{path}"]]);
    ran.assert_ended(1, counts(1, 0, 0, 1, 0));
    assert!(ran.stdout.contains(",spawn,"), "{}", ran.stdout);
    let ran = dir.run(&[&["in.csv", "--shell", "--", "no-such-command || true"]]);
    ran.assert_ended(0, counts(1, 0, 1, 0, 0));
}

#[test]
fn a_column_of_the_input_with_the_name_of_an_added_one_needs_a_prefix() {
    let dir = Dir::with("row,error\n1,a\n");
    let command = ["--", "printf", "%s", "{error}"];
    dir.run(&[&["in.csv"], &command])
        .assert_refused(&["row", "--prefix"]);
    let ran = dir.run(&[&["in.csv", "--prefix", "run_"], &command]);
    ran.assert_ended(0, counts(1, 0, 1, 0, 0));
    let header = "row,error,run_row,run_ok,run_exit_code,";
    assert!(ran.stdout.starts_with(header), "{}", ran.stdout);
}

// A file that cannot be used, known before the first row is started.

#[test]
fn a_file_without_a_usable_header_is_refused_before_any_command() {
    for (text, message) in [
        (&b""[..], "in.csv: no header, the file is empty"),
        (b"\n\n", "in.csv: no header, the file is empty"),
        (
            b"path,0,path\na,b,c\n",
            r#"in.csv:1: duplicate column "path": columns 1 and 3"#,
        ),
        (
            b"path,\xff\na,b\n",
            "in.csv:1: invalid UTF-8 in the header, column 2",
        ),
        (
            b"\xff\xfep\0",
            "in.csv:1: the file is UTF-16, convert it to UTF-8",
        ),
        (
            b"0,\"path\na,b\n",
            "in.csv:1: unclosed quote opened at line 1",
        ),
    ] {
        let dir = Dir::with(text);
        let ran = dir.run(&[&["in.csv", "--", "touch", "started"]]);
        ran.assert_refused(&[message]);
        assert_eq!(
            (ran.counts(), ran.messages().len()),
            (NOTHING, 1),
            "{ran:?}"
        );
        assert!(!dir.path("started").exists());
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_refused() {
    let dir = Dir::new();
    let ran = dir.run(&[&["no.csv"], &PRINT_PATH]);
    ran.assert_refused(&["no.csv: cannot open: No such file or directory (os error 2)"]);
    dir.run(&[&["."], &PRINT_PATH])
        .assert_refused(&[".: cannot open: is a directory"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let ran = Dir::new().run(&[&["/proc/self/mem"], &PRINT_PATH]);
    ran.assert_refused(&["/proc/self/mem:1: cannot read: Input/output error (os error 5)"]);
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_any_command() {
    let dir = Dir::with("path\na\n");
    for option in ["--rejects", "--failures", "--output"] {
        for (name, problem) in [
            ("no/out.csv", "No such file or directory"),
            (".", "directory"),
        ] {
            let ran = dir.run(&[&["in.csv", option, name, "--", "touch", "started"]]);
            ran.assert_refused(&[&format!("{name}: "), problem]);
            assert!(!dir.path("started").exists());
        }
    }
}

/// The input, under other names too.
fn dir_with_links(text: &str) -> Dir {
    let dir = Dir::with(text);
    symlink("in.csv", dir.path("symbolic.csv")).unwrap();
    fs::hard_link(dir.path("in.csv"), dir.path("hard.csv")).unwrap();
    dir
}

const NAMES: [&str; 4] = ["in.csv", "./in.csv", "symbolic.csv", "hard.csv"];

#[test]
fn an_output_never_overwrites_the_input() {
    let text = "path\na\n";
    for option in ["--rejects", "--failures", "--output"] {
        for name in NAMES {
            let dir = dir_with_links(text);
            let ran = dir.run(&[&["in.csv", option, name], &PRINT_PATH]);
            assert_eq!(dir.read("in.csv"), text, "{option} {name}");
            ran.assert_refused(&[name]);
        }
    }
}

#[test]
fn an_output_never_overwrites_the_file_that_is_stdin() {
    let text = "path\na\n";
    for option in ["--rejects", "--failures", "--output"] {
        for name in NAMES {
            let dir = dir_with_links(text);
            let ran = dir.run_with_stdin("in.csv", &[&["-", option, name], &PRINT_PATH]);
            assert_eq!(dir.read("in.csv"), text, "{option} {name}");
            ran.assert_refused(&[name]);
        }
    }
}

#[test]
fn a_page_never_overwrites_the_input() {
    let text = "path\na\n";
    for option in ["--report", "--trace"] {
        for name in NAMES {
            let dir = dir_with_links(text);
            let ran = dir.run(&[&["in.csv", "-o", "out.csv", option, name], &PRINT_PATH]);
            assert_eq!(dir.read("in.csv"), text, "{option} {name}");
            assert_eq!(ran.code, Some(2), "{option} {name}: {ran:?}");
        }
    }
}

#[test]
fn an_output_never_overwrites_another_output() {
    for pair in [
        ["--rejects", "--failures"],
        ["--output", "--rejects"],
        ["--output", "--failures"],
        ["--failures", "--output"],
    ] {
        for name in ["out.csv", "./out.csv"] {
            let dir = Dir::with("path\na\n");
            let ran = dir.run(&[&["in.csv", pair[0], "out.csv", pair[1], name], &PRINT_PATH]);
            ran.assert_refused(&["out.csv"]);
        }
    }
}

#[test]
fn a_refused_run_leaves_the_outputs_of_the_last_run_alone() {
    let dir = Dir::with("path\na\n");
    dir.write("out.csv", "kept\n");
    let options = ["--failures", "out.csv"];
    let ran = dir.run(&[&["in.csv"], &options, &["--", "echo", "{none}"]]);
    ran.assert_refused(&["none"]);
    assert_eq!(dir.read("out.csv"), "kept\n");

    dir.write("answers.csv", "not empty\n");
    let ran = dir.run(&[&["in.csv", "-o", "answers.csv"], &options, &PRINT_PATH]);
    ran.assert_refused(&["answers.csv", "--resume"]);
    assert_eq!(dir.read("answers.csv"), "not empty\n");
    assert_eq!(dir.read("out.csv"), "kept\n");
}

#[test]
fn an_empty_file_may_be_the_output() {
    let dir = Dir::with("path\na\n");
    dir.write("out.csv", "");
    let ran = dir.run(&[&["in.csv", "-o", "out.csv"], &PRINT_PATH]);
    ran.assert_ended(0, counts(1, 0, 1, 0, 0));
    assert_eq!(ran.stdout, "", "the answers are in the file");
    assert_eq!(cells(&dir.read("out.csv"), &["stdout"]), [["a"]]);
}

#[test]
fn outputs_may_share_what_is_no_file() {
    let null = [
        "--rejects",
        "/dev/null",
        "--failures",
        "/dev/null",
        "-o",
        "/dev/null",
    ];
    let ran = Dir::with("path\na\n").run(&[&["in.csv"], &null, &PRINT_PATH]);
    ran.assert_ended(0, counts(1, 0, 1, 0, 0));
}

// A file that cannot be used to its end.

const UNCLOSED: &str = "id,path\n1,a\n2,b\n3,\"c\n4,d\n";

#[test]
fn an_unclosed_quote_in_a_file_is_known_before_any_command() {
    let dir = Dir::with(UNCLOSED);
    let ran = dir.run(&[&["in.csv", "--", "touch", "started", "{path}"]]);
    ran.assert_refused(&["in.csv:4: unclosed quote opened at line 4"]);
    assert!(!dir.path("started").exists());
}

#[test]
fn an_unclosed_quote_in_a_pipe_ends_the_run_after_the_rows_before_it() {
    let dir = Dir::with(UNCLOSED);
    for (arguments, name) in [
        (&["-"][..], "stdin"),
        (&["in.csv", "--spread=false"], "in.csv"),
    ] {
        let ran = dir.run_with_stdin("in.csv", &[arguments, &PRINT_PATH]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        let Counts {
            bad, ok, failed, ..
        } = ran.counts();
        assert_eq!((bad, ok, failed), (0, 2, 0), "{ran:?}");
        assert_eq!(cells(&ran.stdout, &["stdout"]), [["a"], ["b"]]);
        for message in [
            format!("{name}:4: unclosed quote opened at line 4"),
            format!("{name}: input incomplete after line 3"),
        ] {
            assert!(
                ran.messages().contains(&&*message),
                "{message:?} in {ran:?}"
            );
        }
    }
}

#[test]
fn a_record_above_the_limit_cannot_be_used() {
    let long = "x".repeat(5_000);
    let dir = Dir::with(format!("path\na\n{long}\nb\n"));
    let ran = dir.run(&[&["in.csv", "--max-record-bytes", "4K"], &PRINT_PATH]);
    ran.assert_refused(&["in.csv:3: record has more than 4096 bytes"]);
    let ran = dir.run_with_stdin("in.csv", &[&["-", "--max-record-bytes", "4K"], &PRINT_PATH]);
    assert_eq!((ran.code, ran.counts().ok), (Some(2), 1), "{ran:?}");
    let ran = dir.run(&[&["in.csv", "--max-record-bytes", "5000"], &PRINT_PATH]);
    ran.assert_ended(0, counts(3, 0, 3, 0, 0));
}

// What a good file may look like.

#[test]
fn a_file_with_only_a_header_is_done_at_once() {
    for text in ["path\n", "path"] {
        let dir = Dir::with(text);
        for file in ["in.csv", "-"] {
            let ran = dir.run_with_stdin("in.csv", &[&[file], &PRINT_PATH]);
            ran.assert_ended(0, NOTHING);
            assert_eq!(
                ran.stdout.lines().count(),
                1,
                "the header of the answers: {ran:?}"
            );
            assert_eq!(ran.messages(), [""; 0]);
        }
    }
}

#[test]
fn byte_order_marks_crlf_blank_lines_and_quoted_line_breaks_are_read() {
    let dir = Dir::with("\u{feff}path,0\r\na,1\r\n\r\n\"b\r\nc\",2\r\nd\r\n");
    for file in ["in.csv", "-"] {
        let ran = dir.run_with_stdin("in.csv", &[&[file], &PRINT_PATH]);
        ran.assert_ended(1, counts(3, 1, 2, 0, 0));
        let name = if file == "-" { "stdin" } else { file };
        assert_eq!(
            ran.messages(),
            [format!("{name}:6: expected 2 fields, found 1")]
        );
        let expected = [["1", "a", "a"], ["2", "b\r\nc", "b\r\nc"]];
        assert_eq!(cells(&ran.stdout, &["row", "path", "stdout"]), expected);
    }
}

#[test]
fn the_delimiter_can_be_chosen_and_is_that_of_the_answers() {
    for (name, delimiter) in [(";", ';'), ("|", '|'), ("\\t", '\t')] {
        let dir = Dir::with(format!(
            "id{delimiter}path\n1{delimiter}\"a{delimiter},b\"\n"
        ));
        let ran = dir.run(&[&["in.csv", "--delimiter", name], &PRINT_PATH]);
        ran.assert_ended(0, counts(1, 0, 1, 0, 0));
        let cell = format!("a{delimiter},b");
        let answers = cells_between(&ran.stdout, delimiter as u8, &["id", "path", "stdout"]);
        assert_eq!(answers, [["1", &cell, &cell]]);
    }
}

#[test]
fn a_dash_is_stdin() {
    let dir = Dir::with("path\na\n");
    let ran = dir.run_with_stdin("in.csv", &[&["-"], &PRINT_PATH]);
    ran.assert_ended(0, counts(1, 0, 1, 0, 0));
    assert_eq!(cells(&ran.stdout, &["stdout"]), [["a"]]);
    dir.run(&[&["-"], &PRINT_PATH])
        .assert_refused(&["stdin: no header, the file is empty"]);
}

#[test]
fn commands_do_not_read_the_stdin_of_the_tool() {
    let dir = Dir::with("path\na\nb\nc\n");
    let ran = dir.run_with_stdin(
        "in.csv",
        &[&["-", "-j", "1", "--", "sh", "-c", "cat", "{path}"]],
    );
    ran.assert_ended(0, counts(3, 0, 3, 0, 0));
    assert_eq!(cells(&ran.stdout, &["stdout"]), [[""], [""], [""]]);
}

// Bad rows.

const BAD_ROWS: &[u8] = b"id,path\n1,a\n2\n3,b,c\n4,\xff\n5,d\n";
const BAD_LINES: [&str; 3] = [
    "in.csv:3: expected 2 fields, found 1",
    "in.csv:4: expected 2 fields, found 3",
    r#"in.csv:5: invalid UTF-8 in field 2 ("path")"#,
];

#[test]
fn bad_rows_are_reported_and_the_others_done() {
    let dir = Dir::with(BAD_ROWS);
    for options in [&[][..], &["--on-bad-row", "continue"]] {
        let ran = dir.run(&[&["in.csv"], options, &PRINT_PATH]);
        ran.assert_ended(1, counts(5, 3, 2, 0, 0));
        assert_eq!(ran.messages(), BAD_LINES);
        assert_eq!(
            cells(&ran.stdout, &["row", "stdout"]),
            [["1", "a"], ["5", "d"]]
        );
    }
}

#[test]
fn skipped_bad_rows_are_still_counted() {
    let ran = Dir::with(BAD_ROWS).run(&[&["in.csv", "--on-bad-row", "skip"], &PRINT_PATH]);
    ran.assert_ended(1, counts(5, 3, 2, 0, 0));
    assert_eq!(ran.messages(), ["in.csv: bad rows: 3"]);
}

#[test]
fn only_the_first_twenty_bad_rows_are_reported_and_the_others_counted() {
    let dir = Dir::with(format!("id,path\n{}1,a\n", "ragged\n".repeat(25)));
    let ran = dir.run(&[&["in.csv"], &PRINT_PATH]);
    ran.assert_ended(1, counts(26, 25, 1, 0, 0));
    let line = |number| format!("in.csv:{number}: expected 2 fields, found 1");
    let expected: Vec<String> = (2..22).map(line).collect();
    assert_eq!(ran.messages()[..20], expected);
    let [more] = ran.messages()[20..] else {
        panic!("one line says how many more there were: {ran:?}");
    };
    assert!(more.contains("5 more"), "{more}");
}

#[test]
fn a_bad_row_can_stop_the_run() {
    let dir = Dir::with(BAD_ROWS);
    for file in ["in.csv", "-"] {
        let options = ["--on-bad-row", "stop", "--rejects", "bad.csv"];
        let ran = dir.run_with_stdin("in.csv", &[&[file], &options, &PRINT_PATH]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let rows = cells(&ran.stdout, &["row"]).concat();
        assert!(
            rows.iter().all(|row| row == "1"),
            "no row behind it: {ran:?}"
        );
        assert_eq!(ran.counts().failed, 0, "{ran:?}");
        let name = if file == "-" { "stdin" } else { file };
        let first = format!("{name}:3: expected 2 fields, found 1");
        assert_eq!(ran.messages().first(), Some(&&*first));
        assert_eq!(
            dir.read("bad.csv"),
            "id,path,line,error\n2,3,\"expected 2 fields, found 1\"\n"
        );
    }
}

#[test]
fn what_runs_when_a_bad_row_stops_the_run_is_finished() {
    let dir = Dir::new();
    let mut running = Running::new(dir.command(&[&["-", "--on-bad-row", "stop"], &WAIT_FOR_GO]));
    let mut stdin = running.child.stdin.take().unwrap();
    stdin.write_all(b"path\na\n").unwrap();
    dir.wait_for("runs-a");
    stdin.write_all(b"ragged,row\nb\n").unwrap();
    assert_eq!(running.line(), "stdin:3: expected 1 field, found 2\n");
    dir.write("go", "");
    drop(stdin);
    let ran = running.end();
    assert_eq!(
        (ran.code, ran.counts().ok, ran.counts().bad),
        (Some(1), 1, 1),
        "{ran:?}"
    );
    assert_eq!(cells(&ran.stdout, &["stdout"]), [["a"]]);
}

#[test]
fn rejects_have_the_original_row_its_line_and_the_error() {
    let dir = Dir::with(BAD_ROWS);
    dir.write(
        "bad.csv",
        "what was there before, longer than what comes\n".repeat(100),
    );
    let ran = dir.run(&[&["in.csv", "--rejects", "bad.csv"], &PRINT_PATH]);
    ran.assert_ended(1, counts(5, 3, 2, 0, 0));
    assert_eq!(ran.messages(), ["in.csv: bad rows: 3, written to bad.csv"]);
    let written = fs::read(dir.path("bad.csv")).unwrap();
    let rejects = b"id,path,line,error\n2,3,\"expected 2 fields, found 1\"\n\
        3,b,c,4,\"expected 2 fields, found 3\"\n\
        4,\xff,5,\"invalid UTF-8 in field 2 (\"\"path\"\")\"\n";
    assert_eq!(
        written.escape_ascii().to_string(),
        rejects.escape_ascii().to_string()
    );
}

// Failed rows.

#[test]
fn failures_can_be_the_input_of_the_next_run() {
    let dir = Dir::with("id;path\r\n1;a\r\n2;\"no; 1\"\r\n\r\n3;b\r\n4;no 2\r\n");
    let options = ["--delimiter", ";", "--retries", "0"];
    let ran = dir.run(&[&["in.csv", "--failures", "again.csv"], &options, &REFUSE_NO]);
    ran.assert_ended(1, counts(4, 0, 2, 2, 0));
    let again = dir.read("again.csv");
    assert!(again.starts_with("id;path\n"), "{again}");
    assert_eq!(sorted(&again), sorted("id;path\n2;\"no; 1\"\n4;no 2\n"));

    let ran = dir.run(&[&["again.csv"], &options, &PRINT_PATH]);
    ran.assert_ended(0, counts(2, 0, 2, 0, 0));
    let mut paths = cells_between(&ran.stdout, b';', &["stdout"]).concat();
    paths.sort_unstable();
    assert_eq!(paths, ["no 2", "no; 1"]);
}

#[test]
fn without_failures_the_file_has_only_the_header() {
    let dir = Dir::with("id,path\n1,a\n");
    let ran = dir.run(&[&["in.csv", "--failures", "again.csv"], &PRINT_PATH]);
    ran.assert_ended(0, counts(1, 0, 1, 0, 0));
    assert_eq!(dir.read("again.csv"), "id,path\n");
}

#[test]
fn max_failures_stops_the_run_and_no_row_is_lost() {
    let rows: String = (0..500).map(|number| format!("no{number}\n")).collect();
    let dir = Dir::with(format!("path\n{rows}"));
    let options = ["-j", "1", "--retries", "0", "--failures", "again.csv"];
    let ran = dir.run(&[&["in.csv", "--max-failures", "2"], &options, &REFUSE_NO]);
    ran.assert_ended(1, counts(500, 0, 0, 2, 498));
    assert!(
        ran.messages().concat().contains("--max-failures"),
        "{ran:?}"
    );
    assert_eq!(cells(&ran.stdout, &["ok"]), [["false"], ["false"]]);
    assert_eq!(
        sorted(&dir.read("again.csv")),
        sorted(&format!("path\n{rows}"))
    );

    // Of a pipe, what was not read is neither counted nor kept.
    let ran = dir.run_with_stdin(
        "in.csv",
        &[&["-", "--max-failures", "2"], &options, &REFUSE_NO],
    );
    assert_eq!(
        (ran.code, ran.counts().failed, ran.counts().ok),
        (Some(1), 2, 0),
        "{ran:?}"
    );
    let kept = dir.read("again.csv").lines().count() as u64 - 1;
    assert_eq!(kept, ran.counts().rows, "{ran:?}");
}

#[test]
fn max_failures_may_be_a_share_of_the_answers() {
    // Every third row fails.
    let row = |number| format!("{}{number}\n", if number % 3 == 0 { "no" } else { "p" });
    let rows: String = (0..300).map(row).collect();
    let dir = Dir::with(format!("path\n{rows}"));
    let options = ["in.csv", "-j", "1", "--retries", "0", "--max-failures"];
    dir.run(&[&options, &["40%"], &REFUSE_NO])
        .assert_ended(1, counts(300, 0, 200, 100, 0));
    let ran = dir.run(&[&options, &["20%"], &REFUSE_NO]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.counts().not_started > 0, "{ran:?}");
}

// Many rows.

#[test]
fn of_two_thousand_rows_each_is_accounted_for() {
    let row = |number| match number {
        _ if number % 100 == 0 => "ragged\n".to_owned(),
        _ if number % 10 == 0 => format!("{number},no{number}\n"),
        _ => format!("{number},p{number}\n"),
    };
    let rows: Vec<String> = (0..2_000).map(row).collect();
    let dir = Dir::with(format!("id,path\n{}", rows.concat()));
    let files = [
        "--rejects",
        "bad.csv",
        "--failures",
        "again.csv",
        "-o",
        "out.csv",
    ];
    let ran = dir.run(&[
        &["in.csv", "-j", "20", "--retries", "0"],
        &files,
        &REFUSE_NO,
    ]);
    ran.assert_ended(1, counts(2_000, 20, 1_800, 180, 0));

    let mut ids = cells(&dir.read("out.csv"), &["id"]).concat();
    assert_eq!(ids.len(), 1_980);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 1_980, "no row has two answers");
    assert_eq!(dir.read("bad.csv").lines().count(), 21);
    let failed: String = rows
        .iter()
        .filter(|row| row.contains("no"))
        .cloned()
        .collect();
    assert_eq!(
        sorted(&dir.read("again.csv")),
        sorted(&format!("id,path\n{failed}"))
    );
}

// Closed and full outputs.

#[test]
fn closed_stdout_ends_an_endless_input_quietly() {
    let mut child = Dir::new()
        .command(&[&["-", "-j", "2"], &PRINT_PATH])
        .spawn()
        .unwrap();
    let feeder = feed_forever(child.stdin.take().unwrap());
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert!(first.starts_with("path,row,ok,"), "{first}");

    let ran = ran(child);
    feeder.join().unwrap();
    assert_eq!(ran.code, Some(141), "{ran:?}");
    assert_eq!(ran.messages(), [""; 0], "{ran:?}");
    assert_eq!(ran.counts().bad, 0);
}

#[test]
fn with_stdout_and_stderr_closed_it_ends_all_the_same() {
    let mut child = Dir::new()
        .command(&[&["-", "-j", "2"], &REFUSE_NO])
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    let feeder = feed_forever(child.stdin.take().unwrap());
    assert_eq!(ran(child).code, Some(141));
    feeder.join().unwrap();
}

/// Writes rows until the pipe is closed.
fn feed_forever(mut stdin: ChildStdin) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut row = 0_u64;
        let mut rest = stdin.write_all(b"path\n");
        while rest.is_ok() {
            row += 1;
            rest = stdin.write_all(format!("p{row}\n").as_bytes());
        }
    })
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_an_output_is_an_error() {
    let dir = Dir::with("path\nno\n");
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let command = [&["in.csv", "--retries", "0"][..], &REFUSE_NO];
    let ran_full = ran(dir.command(&command).stdout(full).spawn().unwrap());
    assert_eq!(ran_full.code, Some(2), "{ran_full:?}");
    let message = ran_full.messages().concat();
    assert!(
        message.contains("stdout") && message.contains("No space left on device"),
        "{message}"
    );

    for option in ["--output", "--failures", "--rejects"] {
        let dir = Dir::with("path\nno\nragged,row\n");
        let ran = dir.run(&[&[option, "/dev/full"], command[0], &REFUSE_NO]);
        assert_eq!(ran.code, Some(2), "{option}: {ran:?}");
        let message = ran.messages().concat();
        assert!(message.contains("/dev/full: "), "{option}: {message}");
        assert!(
            message.contains("No space left on device"),
            "{option}: {message}"
        );
    }
}

#[test]
fn a_full_disk_under_the_answers_stops_the_run_and_resume_goes_on() {
    let rows: String = (0..400).map(|number| format!("{number:0>100}\n")).collect();
    let dir = Dir::with(format!("path\n{rows}"));
    // No file may have more than a few KiB, which a write is told by an error.
    let mut child = Command::new("sh");
    child
        .current_dir(dir.0.path())
        .args(["-c", "trap '' XFSZ; ulimit -f 20; exec \"$@\"", "sh"]);
    child
        .arg(env!("CARGO_BIN_EXE_brigade"))
        .args(["run", "in.csv", "-o", "out.csv"])
        .args(PRINT_PATH);
    child
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let full = ran(child.spawn().unwrap());
    assert_eq!(full.code, Some(2), "{full:?}");
    let message = full.messages().concat();
    for part in ["out.csv", "--resume", "File too large"] {
        assert!(message.contains(part), "{part:?} in {message}");
    }
    assert_eq!(full.counts().rows, 400);
    assert!(full.counts().not_started > 0, "{full:?}");

    let ran = dir.run(&[&["in.csv", "-o", "out.csv", "--resume"], &PRINT_PATH]);
    ran.assert_ended(0, counts(400, 0, 400, 0, 0));
    let numbers = cells(&dir.read("out.csv"), &["row"]).concat();
    let expected: Vec<String> = (1..=400).map(|number| number.to_string()).collect();
    assert_eq!(numbers, expected);
}

// Resume.

#[test]
fn an_occupied_output_needs_resume_which_goes_on_or_runs_what_failed_again() {
    let dir = Dir::with("path\na\nno\n");
    let options = ["in.csv", "-o", "out.csv", "--retries", "0"];
    let failing = ["--failures", "again.csv"];
    dir.run(&[&options, &failing, &REFUSE_NO])
        .assert_ended(1, counts(2, 0, 1, 1, 0));
    let answers = dir.read("out.csv");

    dir.run(&[&options, &PRINT_PATH])
        .assert_refused(&["out.csv", "--resume"]);
    assert_eq!(dir.read("out.csv"), answers);
    let nothing_new = dir.run(&[&options, &["--resume"], &PRINT_PATH]);
    nothing_new.assert_ended(1, counts(2, 0, 1, 1, 0));
    assert_eq!(dir.read("out.csv"), answers);
    let ran = dir.run(&[&options, &["--resume=failed"], &PRINT_PATH]);
    ran.assert_ended(0, counts(2, 0, 2, 0, 0));
    assert_eq!(
        cells(&dir.read("out.csv"), &["ok", "stdout"]),
        [["true", "a"], ["true", "no"]]
    );
}

#[test]
fn a_changed_input_is_refused_on_resume_with_both_values() {
    let dir = Dir::with("path\nfirst\nsecond\n");
    let options = ["in.csv", "-o", "out.csv"];
    dir.run(&[&options, &PRINT_PATH])
        .assert_ended(0, counts(2, 0, 2, 0, 0));
    let answers = dir.read("out.csv");
    dir.write("in.csv", "path\nfirst\nother\n");
    let ran = dir.run(&[&options, &["--resume", "--", "touch", "started"]]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    for part in ["\"second\"", "\"other\"", "line 3 of the input", "out.csv"] {
        assert!(
            ran.messages().concat().contains(part),
            "{part:?} in {ran:?}"
        );
    }
    assert_eq!(dir.read("out.csv"), answers);
    assert!(!dir.path("started").exists());
}

// Signals.

/// A run that was started.
struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Running {
    fn new(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr }
    }

    /// The next line on stderr.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for its end. What [`line`](Self::line) has returned is not in it.
    fn end(self) -> Ran {
        ended(self.child, Some(self.stderr))
    }
}

const FIVE_ROWS: &str = "path\n1\n2\n3\n4\n5\n";

#[test]
fn a_signal_finishes_what_runs_and_starts_no_more() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let dir = Dir::with(FIVE_ROWS);
        let options = ["in.csv", "-j", "2", "--failures", "again.csv"];
        let mut running = Running::new(dir.command(&[&options, &WAIT_FOR_GO]));
        dir.wait_for("runs-1");
        dir.wait_for("runs-2");
        running.signal(signal);
        let line = running.line();
        assert!(
            line.contains("second signal"),
            "what a second one does is said: {line}"
        );
        dir.write("go", "");
        let ran = running.end();
        ran.assert_ended(code, counts(5, 0, 2, 0, 3));
        assert_eq!(cells(&ran.stdout, &["stdout"]), [["1"], ["2"]]);
        assert_eq!(sorted(&dir.read("again.csv")), ["3", "4", "5", "path"]);
        assert!(!dir.path("runs-3").exists());
    }
}

#[test]
fn a_second_signal_cuts_what_runs_short_and_loses_no_row() {
    let dir = Dir::with(FIVE_ROWS);
    let options = ["in.csv", "-j", "2", "--failures", "again.csv"];
    let mut running = Running::new(dir.command(&[&options, &WAIT_FOR_GO]));
    dir.wait_for("runs-1");
    dir.wait_for("runs-2");
    running.signal("INT");
    running.line();
    running.signal("INT");
    let ran = running.end();
    ran.assert_ended(130, counts(5, 0, 0, 2, 3));
    let expected = [["1", "interrupted"], ["2", "interrupted"]];
    assert_eq!(cells(&ran.stdout, &["row", "error_kind"]), expected);
    assert_eq!(sorted(&dir.read("again.csv")), sorted(FIVE_ROWS));
    for name in ["runs-1", "runs-2"] {
        assert_gone(dir.read(name).trim());
    }
}

#[test]
fn what_a_signal_has_stopped_can_be_resumed() {
    let dir = Dir::with(FIVE_ROWS);
    let options = ["in.csv", "-o", "out.csv", "-j", "2"];
    let mut running = Running::new(dir.command(&[&options, &WAIT_FOR_GO]));
    dir.wait_for("runs-1");
    dir.wait_for("runs-2");
    running.signal("TERM");
    running.line();
    dir.write("go", "");
    assert_eq!(running.end().code, Some(143));
    let ran = dir.run(&[&options, &["--resume"], &PRINT_PATH]);
    ran.assert_ended(0, counts(5, 0, 5, 0, 0));
    let answers = dir.read("out.csv");
    assert_eq!(
        cells(&answers, &["stdout"]),
        [["1"], ["2"], ["3"], ["4"], ["5"]]
    );
}

#[test]
fn a_signal_ends_the_wait_for_the_next_row() {
    let dir = Dir::new();
    let mut command = dir.command(&[&["-", "--retries", "0"], &REFUSE_NO]);
    command.stdin(Stdio::piped());
    let mut running = Running::new(command);
    let mut stdin = running.child.stdin.take().unwrap();
    stdin.write_all(b"path\na\nno\n").unwrap();
    let mut stdout = BufReader::new(running.child.stdout.take().unwrap());
    let mut answers = String::new();
    for _ in ["the header", "an answer", "another"] {
        stdout.read_line(&mut answers).unwrap();
    }
    // Both rows have their answers, nothing runs, and stdin stays open.
    running.signal("TERM");
    running.line();
    let ran = running.end();
    drop(stdin);
    ran.assert_ended(143, counts(2, 0, 1, 1, 0));
    stdout.read_to_string(&mut answers).unwrap();
    assert_eq!(
        cells(&answers, &["path", "ok"]),
        [["a", "true"], ["no", "false"]]
    );
}

#[test]
fn a_signal_ends_the_wait_for_the_header() {
    let dir = Dir::new();
    let mut child = dir.command(&[&["-"], &PRINT_PATH]).spawn().unwrap();
    let stdin = child.stdin.take();
    // The signal may come before the tool has asked for signals, and then ends it at once.
    let pid = child.id().to_string();
    let code = loop {
        Command::new("kill")
            .args(["-s", "INT", &pid])
            .stderr(Stdio::null())
            .status()
            .unwrap();
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        thread::sleep(Duration::from_millis(10));
    };
    drop(stdin);
    assert!(matches!(code, Some(130) | None), "{code:?}");
}

#[test]
fn a_deadline_cuts_what_runs_short() {
    let dir = Dir::with(FIVE_ROWS);
    let options = [
        "in.csv",
        "-j",
        "5",
        "--deadline",
        "2s",
        "--failures",
        "again.csv",
    ];
    let ran = dir.run(&[&options, &WAIT_FOR_GO]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let Counts {
        rows,
        failed,
        not_started,
        ..
    } = ran.counts();
    assert_eq!((rows, failed + not_started), (5, 5), "{ran:?}");
    for kind in cells(&ran.stdout, &["error_kind"]).concat() {
        assert_eq!(kind, "deadline");
    }
    assert!(ran.messages().concat().contains("--deadline"), "{ran:?}");
    assert_eq!(sorted(&dir.read("again.csv")), sorted(FIVE_ROWS));
}
