//! What the example `csv_pool` promises on the outside: exit codes, stdout and stderr.
//!
//! Runs the built example. `cargo test` builds it; before `cargo test --test csv_pool` alone, say
//! `cargo build --example csv_pool`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

/// What a run left behind.
#[derive(Debug, PartialEq)]
struct Ran {
    code: Option<i32>,
    /// The paths of the lines `Done PATH`, sorted; the same paths are in the list that follows.
    paths: Vec<String>,
    stderr: String,
}

fn example() -> PathBuf {
    let test = env::current_exe().unwrap();
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("a test is at target/PROFILE/deps/TEST");
    let example = profile.join(format!("examples/csv_pool{}", env::consts::EXE_SUFFIX));
    assert!(
        example.exists(),
        "first run `cargo build --example csv_pool`: there is no {}",
        example.display()
    );
    example
}

/// Runs the example, which prints the list of results.
fn run(arguments: &[&str]) -> Ran {
    let (code, stdout, stderr) = output(arguments);
    let mut lines: Vec<&str> = stdout.lines().collect();
    let list = lines.pop().expect("the list is the last line");
    let mut paths: Vec<String> = lines
        .iter()
        .map(|line| {
            line.strip_prefix("Done ")
                .expect("a job is done")
                .to_owned()
        })
        .collect();
    assert_eq!(
        list,
        format!("{paths:?}"),
        "the list has the results in the order in which they came"
    );
    paths.sort_unstable();
    Ran {
        code,
        paths,
        stderr,
    }
}

fn output(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(example()).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// A file with this text, which is removed at the end of the test.
struct Csv(PathBuf);

impl Csv {
    fn new(name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = env::temp_dir().join(format!("csv_pool-{}-{name}.csv", process::id()));
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Csv {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn without_arguments_it_does_every_row_of_the_shipped_file() {
    let dummy =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/dummy.csv")).unwrap();
    let mut paths: Vec<String> = dummy
        .lines()
        .skip(1)
        .map(|line| line.split(',').nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(paths.len(), 250);
    paths.sort_unstable();
    let expected = Ran {
        code: Some(0),
        paths,
        stderr: "rows=250 bad=0 ok=250 failed=0\n".to_owned(),
    };
    assert_eq!(run(&[]), expected);
}

#[test]
fn bad_rows_and_failed_jobs_are_reported_with_their_lines_and_the_others_done() {
    // The job refuses an empty path.
    let file = Csv::new("bad", b"0,1\n1,a\n2\n\n3,\n4,\xff\n5,b\n6,d,e\n");
    let name = file.name();
    let expected = Ran {
        code: Some(1),
        paths: vec!["a".to_owned(), "b".to_owned()],
        stderr: format!(
            "{name}:3: expected 2 fields, found 1\n\
             {name}:6: invalid UTF-8 in field 2 (\"1\")\n\
             {name}:8: expected 2 fields, found 3\n\
             {name}:5: row 3: the path is empty\n\
             rows=6 bad=3 ok=2 failed=1\n"
        ),
    };
    assert_eq!(run(&[name]), expected);
}

#[test]
fn an_unclosed_quote_ends_the_run_after_the_rows_before_it() {
    let file = Csv::new("quote", "0,1\n1,a\n2,b\n3,\"c\n4,d\n");
    let expected = Ran {
        code: Some(2),
        paths: vec!["a".to_owned(), "b".to_owned()],
        stderr: format!(
            "{}:4: unclosed quote opened at line 4\nrows=2 bad=0 ok=2 failed=0\n",
            file.name()
        ),
    };
    assert_eq!(run(&[file.name()]), expected);
}

#[test]
fn a_file_without_the_column_or_without_a_header_is_refused_before_any_job() {
    for (name, text, message) in [
        ("empty", "", "{}: no header, the file is empty"),
        (
            "column",
            "0,2\na,b\n",
            r#"{}:1: no column "1": the header has 2 columns ("0", "2")"#,
        ),
        (
            "twice",
            "1,0,1\na,b,c\n",
            r#"{}:1: duplicate column "1": columns 1 and 3"#,
        ),
    ] {
        let file = Csv::new(name, text);
        let message = message.replace("{}", file.name()) + "\n";
        assert_eq!(output(&[file.name()]), (Some(2), String::new(), message));
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_refused() {
    let (code, stdout, stderr) = output(&["no.csv"]);
    assert_eq!((code, &*stdout), (Some(2), ""));
    let message = stderr.strip_prefix("no.csv: cannot open: ");
    assert!(message.is_some(), "{stderr}");
}

#[test]
fn a_second_argument_is_refused() {
    let message = "usage: csv_pool [FILE]\n".to_owned();
    assert_eq!(output(&["a", "b"]), (Some(2), String::new(), message));
}

#[cfg(unix)]
#[test]
fn closed_stdout_is_an_error_and_no_panic() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(example()).stdout(writer).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), &*stderr),
        (Some(2), "Broken pipe (os error 32)\n")
    );
}
