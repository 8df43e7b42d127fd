//! What the commands of a queue promise on the outside, with a queue in an SQLite file, and with
//! RabbitMQ where `BRIGADE_AMQP_URL` names a server.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use brigade::broker::{Broker, NewJob};
use brigade_demo_server::{Options, Server};
use rustix::process::{Pid, Signal, kill_process};
use smol::future;
use tempfile::TempDir;

/// A directory in which the tool runs, and a queue.
struct Place {
    directory: TempDir,
    queue: String,
    is_file: bool,
}

/// What a run left behind.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// A table by the names of its columns.
type Record = BTreeMap<String, String>;

/// The columns of `brigade run`.
const ADDED: &str = "row,ok,exit_code,signal,attempts,queued_ms,elapsed_ms,finished_at,error_kind,error,\
                     stdout,stderr,job_id";

/// Ends the test of a hang.
const WATCHDOG: Duration = Duration::from_secs(120);

const PRINT_NAME: [&str; 4] = ["--", "printf", "%s", "{name}"];

impl Place {
    fn file() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            queue: "jobs.db".to_owned(),
            is_file: true,
        }
    }

    /// A queue of its own on the server of the environment, if there is one.
    fn server() -> Option<Self> {
        let url = std::env::var("BRIGADE_AMQP_URL").ok()?;
        let directory = tempfile::tempdir().unwrap();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let name = directory.path().file_name().unwrap().to_str().unwrap();
        let name = format!("queue{}{name}", since.unwrap().as_nanos());
        Some(Self {
            queue: format!("{url}#{name}"),
            directory,
            is_file: false,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// `in.csv` has these names.
    fn names(&self, names: &[&str]) {
        self.write("in.csv", format!("id,name\n{}", lines(names)));
    }

    fn command(&self, command: &str, arguments: &[&[&str]]) -> Command {
        let mut brigade = Command::new(env!("CARGO_BIN_EXE_brigade"));
        brigade
            .current_dir(self.directory.path())
            .args([command, &self.queue])
            .args(arguments.concat())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            brigade.env_remove(proxy).env_remove(proxy.to_uppercase());
        }
        brigade
    }

    fn run(&self, command: &str, arguments: &[&[&str]]) -> Ran {
        ran(self.command(command, arguments).spawn().unwrap())
    }

    #[track_caller]
    fn enqueue(&self, arguments: &[&str]) -> Ran {
        let ran = self.run("enqueue", &[arguments]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran
    }

    /// Works until there is nothing to take.
    fn work(&self, arguments: &[&[&str]]) -> Ran {
        self.run(
            "work",
            &[&["--until-empty", "--lease", "1s"], &arguments.concat()],
        )
    }

    /// Works and collects until there are so many rows.
    fn work_until(&self, rows: usize, arguments: &[&[&str]]) -> Vec<Record> {
        let start = Instant::now();
        loop {
            self.work(arguments);
            let ran = self.run("results", &[&["-o", "out.csv", "--append"]]);
            assert_eq!(ran.code, Some(0), "{ran:?}");
            let records = records(&self.read("out.csv"));
            if records.len() >= rows {
                return records;
            }
            assert!(start.elapsed() < WATCHDOG, "{} rows", records.len());
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// The results, by way of a file: those of a server do not go into a pipe.
    fn answers(&self) -> String {
        self.run("results", &[&["-o", "answers.csv"]]);
        self.read("answers.csv")
    }

    /// A count of `brigade queue`.
    #[track_caller]
    fn count(&self, name: &str) -> u64 {
        let ran = self.run("queue", &[]);
        let line = ran.stdout.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {ran:?}"));
        line[name.len()..].trim().parse().unwrap()
    }

    /// `--max-deliveries` for jobs that were given back and never tried. A server before RabbitMQ 4.3
    /// counts what it has sent to a connection that ends, taken or not.
    fn once(&self) -> &'static str {
        if self.is_file { "1" } else { "5" }
    }

    fn wait_for(&self, name: &str) {
        wait_until(name, || self.path(name).exists());
    }
}

fn lines(names: &[&str]) -> String {
    let line = |(index, name): (usize, &&str)| format!("{},{name}\n", index + 1);
    names.iter().enumerate().map(line).collect()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < WATCHDOG, "no {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn ran(child: Child) -> Ran {
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let ran = Ran {
        code: status.code(),
        stdout: text(stdout),
        stderr: text(stderr),
    };
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    // The user and the password of a new server.
    assert!(!format!("{ran:?}").contains("guest"), "{ran:?}");
    ran
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn records(text: &str) -> Vec<Record> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let record = |record: csv::Result<csv::StringRecord>| {
        let record = record.expect("whole records");
        let cells = header.iter().zip(&record);
        cells
            .map(|(name, cell)| (name.to_owned(), cell.to_owned()))
            .collect()
    };
    reader.records().map(record).collect()
}

/// The cells of two columns, sorted.
fn pairs<'a>(records: &'a [Record], one: &str, other: &str) -> Vec<(&'a str, &'a str)> {
    let mut pairs: Vec<_> = records
        .iter()
        .map(|record| (&*record[one], &*record[other]))
        .collect();
    pairs.sort_unstable();
    pairs
}

impl Ran {
    /// The numbers of the last line on stderr.
    #[track_caller]
    fn numbers(&self) -> BTreeMap<&str, u64> {
        let last = self.stderr.lines().last().expect("stderr has a last line");
        let number = |part| {
            let (name, number): (&str, &str) = str::split_once(part, '=').expect(last);
            (name, number.parse().expect(last))
        };
        last.split(' ').map(number).collect()
    }

    /// The last line of `work`, which adds up: fetched, acked, released, dead.
    #[track_caller]
    fn worked(&self) -> [u64; 4] {
        let numbers = self.numbers();
        let sum = numbers.values().sum::<u64>() - numbers["fetched"];
        assert_eq!(numbers["fetched"], sum, "{self:?}");
        ["fetched", "acked", "released", "dead"].map(|name| numbers[name])
    }

    #[track_caller]
    fn assert_refused(&self, about: &[&str]) {
        assert_eq!((self.code, &*self.stdout), (Some(2), ""), "{self:?}");
        for part in about {
            assert!(self.stderr.contains(part), "no {part:?} in {self:?}");
        }
    }
}

/// Each scenario is a test with a file and a test with a server.
macro_rules! with_both {
    ($($scenario:ident),* $(,)?) => {
        mod file {
            $(#[test]
            fn $scenario() {
                super::$scenario(&super::Place::file());
            })*
        }

        mod server {
            $(#[test]
            fn $scenario() {
                match super::Place::server() {
                    Some(place) => super::$scenario(&place),
                    None => super::say_skipped(stringify!($scenario)),
                }
            })*
        }
    };
}

#[test]
fn the_password_of_a_server_may_come_from_the_environment() {
    let Some(mut place) = Place::server() else {
        return say_skipped("the_password_of_a_server_may_come_from_the_environment");
    };
    place.queue = place.queue.replacen("guest:guest@", "guest@", 1);
    place.names(&["a"]);
    let enqueue = |password: &str| {
        let mut command = place.command("enqueue", &[&["in.csv"]]);
        command.env("BRIGADE_AMQP_PASSWORD", password);
        ran(command.spawn().unwrap())
    };
    let refused = enqueue("secret");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(!refused.stderr.contains("secret"), "{refused:?}");
    let accepted = enqueue("guest");
    assert_eq!(accepted.code, Some(0), "{accepted:?}");
}

fn say_skipped(scenario: &str) {
    // Not by a macro, whose output is kept from the terminal.
    let _ = writeln!(
        std::io::stderr(),
        "skipped: server::{scenario} needs BRIGADE_AMQP_URL; crates/amqp/tests/with-rabbitmq sets it"
    );
}

with_both!(
    a_worker_that_is_killed_loses_no_row_and_each_is_in_the_results_once,
    a_file_that_is_enqueued_twice_has_one_row_for_each_of_its_rows,
    a_job_that_kills_its_workers_becomes_a_dead_letter_and_can_be_tried_again,
    ctrl_c_finishes_what_runs_and_gives_back_the_rest_uncounted,
    a_second_ctrl_c_gives_back_what_runs,
    urls_are_fetched_and_redirects_followed,
    results_go_on_with_a_file,
    results_with_other_columns_are_left_in_the_queue,
    a_missing_column_loses_nothing,
    a_missing_command_loses_nothing,
    failures_and_time_end_the_work_and_give_back_the_rest,
    failures_are_answers_and_retries_happen_within_a_delivery,
    a_queue_that_is_missing_is_not_made_by_its_readers,
    rows_that_cannot_be_jobs_are_bad_rows,
);

fn a_worker_that_is_killed_loses_no_row_and_each_is_in_the_results_once(place: &Place) {
    let names: Vec<String> = (0..60).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    place.names(&names);
    place.enqueue(&["in.csv", "--batch", "7"]);
    let script = r#"echo "$1" >> seen; sleep 0.05; printf %s "$1""#;
    let command = ["--", "sh", "-c", script, "sh", "{name}"];
    let start = || {
        let options = ["-j", "2", "--prefetch", "4", "--lease", "1s"];
        let mut command = place.command("work", &[&options, &command]);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let (mut killed, mut other) = (start(), start());
    let seen = || fs::read_to_string(place.path("seen")).unwrap_or_default();
    wait_until("ten jobs", || seen().lines().count() >= 10);
    killed.kill().unwrap();
    killed.wait().unwrap();
    wait_until("forty jobs", || seen().lines().count() >= 40);
    signal(&other, Signal::TERM);
    assert_eq!(other.wait().unwrap().code(), Some(143));
    let records = place.work_until(60, &[&["-j", "4"], &command]);
    assert_eq!(records.len(), 60);
    let header = place.read("out.csv");
    let header = header.lines().next().unwrap();
    assert_eq!(header, format!("id,name,{ADDED}"));
    let rows: BTreeSet<u64> = records
        .iter()
        .map(|record| record["row"].parse().unwrap())
        .collect();
    assert_eq!(rows, (1..=60).collect());
    for record in &records {
        assert_eq!(
            (&*record["ok"], &record["stdout"]),
            ("true", &record["name"])
        );
        let row: usize = record["row"].parse().unwrap();
        assert_eq!(record["name"], names[row - 1]);
        assert!(
            record["job_id"].starts_with(&format!("{row}-")),
            "{record:?}"
        );
    }
}

fn a_file_that_is_enqueued_twice_has_one_row_for_each_of_its_rows(place: &Place) {
    place.write("in.csv", "name\na\nb\nb\n");
    let first = place.enqueue(&["in.csv"]);
    assert_eq!(first.stderr, "rows=3 bad=0 enqueued=3\n");
    let again = place.enqueue(&["in.csv"]);
    assert_eq!(place.count("ready"), if place.is_file { 3 } else { 6 });
    let known = "3 of these jobs were there already by their ids";
    assert_eq!(again.stderr.contains(known), place.is_file, "{again:?}");
    let worked = place.work(&[&["--", "printf", "%s", "{}"]]);
    assert_eq!(worked.code, Some(0), "{worked:?}");
    let results = place.run("results", &[&["-o", "out.csv"]]);
    let records = records(&place.read("out.csv"));
    assert_eq!(
        pairs(&records, "row", "stdout"),
        [("1", "a"), ("2", "b"), ("3", "b")]
    );
    let duplicates = if place.is_file { 0 } else { 3 };
    assert_eq!(results.numbers()["duplicates"], duplicates, "{results:?}");
}

fn a_job_that_kills_its_workers_becomes_a_dead_letter_and_can_be_tried_again(place: &Place) {
    place.names(&["a", "poison", "b", "c"]);
    place.enqueue(&["in.csv"]);
    let script = r#"[ "$1" = poison ] && [ ! -e cured ] && kill -9 $PPID; printf %s "$1""#;
    let command = ["--", "sh", "-c", script, "sh", "{name}"];
    // In a file, the others that are held beside it are none the worse for it. A server has sent
    // jobs to the process that it has not taken, and counts them: this one takes them one by one.
    let (workers, deliveries) = if place.is_file {
        ("3", "3")
    } else {
        ("1", "2")
    };
    let options = ["-j", workers, "--max-deliveries", deliveries];
    let records = place.work_until(4, &[&options, &command]);
    assert_eq!(
        pairs(&records, "name", "error_kind"),
        [("a", ""), ("b", ""), ("c", ""), ("poison", "dead_letter")]
    );
    let dead = records
        .iter()
        .find(|record| record["ok"] == "false")
        .unwrap();
    assert!(
        dead["error"].contains(&format!("at most {deliveries} are allowed")),
        "{dead:?}"
    );
    assert_eq!((&*dead["row"], &*dead["id"]), ("2", "2"));
    let listed = place.run("queue", &[&["--dead"]]);
    assert!(listed.stdout.starts_with("2-"), "{listed:?}");
    assert!(listed.stdout.contains("\trow 2\tdelivered "), "{listed:?}");
    assert_eq!((place.count("dead"), place.count("ready")), (1, 0));

    place.write("cured", "");
    let again = place.run("queue", &[&["--retry-dead"]]);
    assert_eq!(again.stdout, "1 dead letter is a job again\n");
    let worked = place.work(&[&options, &command]);
    assert_eq!((worked.code, worked.worked()), (Some(0), [1, 1, 0, 0]));
    // The file has the dead letter, and the answer comes beside it, once.
    for written in [1, 0] {
        let results = place.run("results", &[&["-o", "out.csv", "--append"]]);
        assert_eq!(results.numbers()["written"], written, "{results:?}");
    }
    let all = crate::records(&place.read("out.csv"));
    let kinds: Vec<&str> = all
        .iter()
        .filter(|record| record["name"] == "poison")
        .map(|record| &*record["error_kind"])
        .collect();
    assert_eq!(kinds, ["dead_letter", ""]);
}

/// Says that it runs, and goes on once there is a file `go`.
const WAIT_FOR_GO: [&str; 6] = [
    "--",
    "sh",
    "-c",
    r#"echo > "runs-$1"; while [ ! -e go ]; do sleep 0.02; done; printf %s "$1""#,
    "sh",
    "{name}",
];

fn ctrl_c_finishes_what_runs_and_gives_back_the_rest_uncounted(place: &Place) {
    place.names(&["a", "b", "c", "d", "e", "f"]);
    place.enqueue(&["in.csv"]);
    let options = ["-j", "2", "--prefetch", "4"];
    let child = place
        .command("work", &[&options, &WAIT_FOR_GO])
        .spawn()
        .unwrap();
    place.wait_for("runs-a");
    place.wait_for("runs-b");
    signal(&child, Signal::INT);
    // The rest is given back at once, and what runs is finished.
    wait_until("released jobs", || place.count("ready") == 4);
    place.write("go", "");
    let ended = ran(child);
    assert_eq!(
        (ended.code, ended.worked()),
        (Some(130), [4, 2, 2, 0]),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("finishing what runs"), "{ended:?}");

    // One delivery is enough: what was given back does not count.
    let worked = place.work(&[&["--max-deliveries", place.once()], &PRINT_NAME]);
    assert_eq!(
        (worked.code, worked.worked()),
        (Some(0), [4, 4, 0, 0]),
        "{worked:?}"
    );
    let records = place.work_until(6, &[&PRINT_NAME]);
    let names = ["a", "b", "c", "d", "e", "f"].map(|name| (name, name));
    assert_eq!(pairs(&records, "name", "stdout"), names);
}

fn a_second_ctrl_c_gives_back_what_runs(place: &Place) {
    place.names(&["a", "b", "c"]);
    place.enqueue(&["in.csv"]);
    let child = place
        .command("work", &[&["-j", "2"], &WAIT_FOR_GO])
        .spawn()
        .unwrap();
    place.wait_for("runs-a");
    place.wait_for("runs-b");
    signal(&child, Signal::INT);
    // The first is seen before the second: two of a kind may be one.
    thread::sleep(Duration::from_millis(500));
    signal(&child, Signal::INT);
    let ended = ran(child);
    assert_eq!(
        (ended.code, ended.worked()),
        (Some(130), [2, 0, 2, 0]),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("cutting short"), "{ended:?}");
    place.write("go", "");
    let worked = place.work(&[&["--max-deliveries", place.once()], &WAIT_FOR_GO]);
    assert_eq!(
        (worked.code, worked.worked()),
        (Some(0), [3, 3, 0, 0]),
        "{worked:?}"
    );
}

fn urls_are_fetched_and_redirects_followed(place: &Place) {
    let server = Server::start(Options::default()).unwrap();
    let urls = ["/ok?bytes=10", "/status/404", "/redirect/2", "/loop"].map(|path| server.url(path));
    place.write("in.csv", format!("url\n{}\nno url\n", urls.join("\n")));
    place.enqueue(&["in.csv"]);
    let worked = place.work(&[&["--fetch", "--per-host-rate", "none", "--include-body"]]);
    assert_eq!(
        (worked.code, worked.worked()),
        (Some(1), [5, 5, 0, 0]),
        "{worked:?}"
    );
    let kinds = "failed: bad_url 1, http_status 1, too_many_redirects 1";
    assert!(worked.stderr.contains(kinds), "{worked:?}");
    let results = place.answers();
    let header = "url,row,ok,status_code,final_url,redirects,content_type,bytes,attempts,queued_ms,\
                  backoff_ms,elapsed_ms,finished_at,error_kind,error,body,job_id";
    assert_eq!(results.lines().next(), Some(header));
    let records = records(&results);
    assert_eq!(
        pairs(&records, "row", "status_code"),
        [
            ("1", "200"),
            ("2", "404"),
            ("3", "200"),
            ("4", "302"),
            ("5", "")
        ]
    );
    let third = records.iter().find(|record| record["row"] == "3").unwrap();
    assert_eq!(
        (&*third["redirects"], &*third["attempts"]),
        ("2", "1"),
        "{third:?}"
    );
    assert_ne!(third["final_url"], third["url"]);
    let first = records.iter().find(|record| record["row"] == "1").unwrap();
    assert_eq!(first["body"].len(), 10);
}

fn results_go_on_with_a_file(place: &Place) {
    place.names(&["a", "b"]);
    place.enqueue(&["in.csv"]);
    place.work(&[&PRINT_NAME]);
    let first = place.run("results", &[&["-o", "out.csv"]]);
    assert_eq!(
        (first.code, first.numbers()["written"]),
        (Some(0), 2),
        "{first:?}"
    );
    let refused = place.run("results", &[&["-o", "out.csv"]]);
    refused.assert_refused(&["out.csv: the file is not empty", "--append"]);
    place.write("more.csv", "id,name\n9,c\n");
    place.enqueue(&["more.csv"]);
    place.work(&[&PRINT_NAME]);
    let more = place.run("results", &[&["-o", "out.csv", "--append"]]);
    assert_eq!(
        (more.code, more.numbers()["written"]),
        (Some(0), 1),
        "{more:?}"
    );
    let names = ["a", "b", "c"].map(|name| (name, name));
    assert_eq!(
        pairs(&records(&place.read("out.csv")), "name", "stdout"),
        names
    );
}

fn results_with_other_columns_are_left_in_the_queue(place: &Place) {
    place.write("in.csv", "name\na\nb\n");
    place.write("other.csv", "title\nc\n");
    place.enqueue(&["in.csv"]);
    place.work(&[&["--", "echo", "{#}"]]);
    place.enqueue(&["other.csv"]);
    place.work(&[&["--", "echo", "{#}"]]);
    let results = place.run("results", &[&["-o", "out.csv"]]);
    assert_eq!(results.code, Some(1), "{results:?}");
    let numbers = results.numbers();
    assert_eq!((numbers["written"], numbers["left"]), (2, 1));
    let why = r#"its column 1 is "title", and that of the table is "name""#;
    assert!(results.stderr.contains(why), "{results:?}");
    if place.is_file {
        let purged = place.run("results", &[&["-o", "again.csv", "--purge"]]);
        assert!(purged.stderr.contains("2 results removed"), "{purged:?}");
    }
    let rest = place.run("results", &[&["-o", "rest.csv"]]);
    assert_eq!(rest.code, Some(0), "{rest:?}");
    assert_eq!(
        pairs(&records(&place.read("rest.csv")), "title", "row"),
        [("c", "1")]
    );
}

fn a_missing_column_loses_nothing(place: &Place) {
    place.names(&["a", "b"]);
    place.enqueue(&["in.csv"]);
    let typo = ["--", "echo", "{nam}"];
    let refused = place.work(&[&typo]);
    refused.assert_refused(&[r#"no column "nam""#, r#"("id", "name")"#, "given back"]);
    assert_eq!(refused.worked()[1], 0, "{refused:?}");
    place
        .work(&[&["--fetch"]])
        .assert_refused(&["which column has the URLs?", "id, name"]);
    assert_eq!(place.count("ready"), 2);
    let failed = place.work(&[
        &[
            "--on-missing-column",
            "fail",
            "--max-deliveries",
            place.once(),
        ],
        &typo,
    ]);
    assert_eq!(
        (failed.code, failed.worked()),
        (Some(1), [2, 2, 0, 0]),
        "{failed:?}"
    );
    let records = records(&place.answers());
    assert_eq!(
        pairs(&records, "name", "error_kind"),
        [("a", "no_column"), ("b", "no_column")]
    );
    assert!(
        records[0]["error"].contains(r#"no column "nam""#),
        "{records:?}"
    );
}

fn a_missing_command_loses_nothing(place: &Place) {
    place.names(&["a"]);
    place.enqueue(&["in.csv"]);
    let worked = place.work(&[&["--", "no-such-command", "{name}"]]);
    assert_eq!(
        (worked.code, worked.worked()),
        (Some(2), [0; 4]),
        "{worked:?}"
    );
    assert!(worked.stderr.contains("no-such-command"), "{worked:?}");
    assert_eq!(place.work_until(1, &[&PRINT_NAME])[0]["stdout"], "a");
}

fn failures_and_time_end_the_work_and_give_back_the_rest(place: &Place) {
    place.names(&["a", "b", "c", "d"]);
    place.enqueue(&["in.csv"]);
    let options = ["-j", "1", "--max-failures", "2"];
    let worked = place.work(&[&options, &["--", "false", "{#}"]]);
    let [fetched, acked, released, dead] = worked.worked();
    assert_eq!((worked.code, acked, dead), (Some(1), 2, 0), "{worked:?}");
    assert_eq!(fetched, acked + released);
    assert!(
        worked.stderr.contains("stopped by --max-failures"),
        "{worked:?}"
    );
    let once = place.once();
    let late = ["-j", "1", "--deadline", "300ms", "--max-deliveries", once];
    let worked = place.work(&[&late, &["--", "sh", "-c", "sleep 600", "{#}"]]);
    assert_eq!(
        (worked.code, worked.worked()),
        (Some(1), [1, 0, 1, 0]),
        "{worked:?}"
    );
    assert!(
        worked.stderr.contains("stopped by --deadline"),
        "{worked:?}"
    );
    // The job ids are the same for each delivery.
    let command = [
        "--max-deliveries",
        once,
        "--",
        "sh",
        "-c",
        "printf %s $BRIGADE_JOB_ID",
        "{#}",
    ];
    assert_eq!(place.work(&[&command]).worked(), [2, 2, 0, 0]);
    let records = records(&place.answers());
    let done: Vec<&Record> = records.iter().filter(|one| one["ok"] == "true").collect();
    assert_eq!((records.len(), done.len()), (4, 2));
    assert!(
        done.iter().all(|one| one["stdout"] == one["job_id"]),
        "{done:?}"
    );
}

fn failures_are_answers_and_retries_happen_within_a_delivery(place: &Place) {
    place.names(&["a", "no", "b"]);
    place.enqueue(&["in.csv"]);
    let script = r#"echo >> "tried-$1"; [ "$1" != no ] || exit 3"#;
    let options = ["--retries", "2", "--backoff", "1ms..2ms"];
    let worked = place.work(&[&options, &["--", "sh", "-c", script, "sh", "{name}"]]);
    assert_eq!(
        (worked.code, worked.worked()),
        (Some(1), [3, 3, 0, 0]),
        "{worked:?}"
    );
    assert!(worked.stderr.contains("failed: exit 1\n"), "{worked:?}");
    let records = records(&place.answers());
    assert_eq!(
        pairs(&records, "name", "attempts"),
        [("a", "1"), ("b", "1"), ("no", "3")]
    );
    assert_eq!(
        pairs(&records, "name", "exit_code"),
        [("a", "0"), ("b", "0"), ("no", "3")]
    );
    assert_eq!(place.read("tried-no").lines().count(), 3);
    assert_eq!(place.count("dead"), 0);
}

fn a_queue_that_is_missing_is_not_made_by_its_readers(place: &Place) {
    for _ in 0..2 {
        place
            .work(&[&["--", "true"]])
            .assert_refused(&["there is no queue", "brigade enqueue"]);
        place
            .run("results", &[&["-o", "out.csv"]])
            .assert_refused(&["there is no queue"]);
        place
            .run("queue", &[])
            .assert_refused(&["there is no queue"]);
    }
    let missing = place.run("enqueue", &[&["missing.csv"]]);
    missing.assert_refused(&["missing.csv: cannot open"]);
    place
        .run("queue", &[])
        .assert_refused(&["there is no queue"]);
    assert!(!place.path("jobs.db").exists());
}

fn rows_that_cannot_be_jobs_are_bad_rows(place: &Place) {
    place.write("in.csv", "id,name\nx,a\ny\nx,b\n,c\nz,d\n");
    let ran = place.run(
        "enqueue",
        &[&["in.csv", "--id", "id", "--rejects", "bad.csv"]],
    );
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.ends_with("rows=5 bad=3 enqueued=2\n"), "{ran:?}");
    let bad = place.read("bad.csv");
    let lines: Vec<&str> = bad.lines().collect();
    assert_eq!(
        lines,
        [
            "id,name,line,error",
            "y,3,\"expected 2 fields, found 1\"",
            "x,b,4,row 1 has the same id",
            ",c,5,\"the id has 0 bytes, and needs 1 to 255\"",
        ]
    );
    place.work(&[&PRINT_NAME]);
    let records = records(&place.answers());
    assert_eq!(
        pairs(&records, "job_id", "stdout"),
        [("x", "a"), ("z", "d")]
    );

    place.write("more.csv", "id,name\np,a\nq\nr,b\n");
    let stopped = place.run("enqueue", &[&["more.csv", "--on-bad-row", "stop"]]);
    assert_eq!(stopped.code, Some(1), "{stopped:?}");
    assert!(
        stopped
            .stderr
            .contains("rows after row 2 were not enqueued"),
        "{stopped:?}"
    );
    assert!(
        stopped.stderr.ends_with("rows=2 bad=1 enqueued=1\n"),
        "{stopped:?}"
    );
    let column = place.run("enqueue", &[&["more.csv", "--id", "nr"]]);
    column.assert_refused(&[r#"no column "nr""#]);
}

// ---- with a file alone ----

#[test]
fn a_file_that_is_no_queue_is_refused_and_not_changed() {
    let place = Place::file();
    place.write("jobs.db", "id,name\n1,a\n");
    place.names(&["a"]);
    for ran in [
        place.run("enqueue", &[&["in.csv"]]),
        place.work(&[&["--", "true"]]),
        place.run("results", &[]),
        place.run("queue", &[]),
    ] {
        ran.assert_refused(&["jobs.db is not an SQLite file"]);
    }
    assert_eq!(place.read("jobs.db"), "id,name\n1,a\n");
}

#[test]
fn the_job_of_another_producer_becomes_a_dead_letter() {
    let place = Place::file();
    place.names(&["a"]);
    place.enqueue(&["in.csv"]);
    future::block_on(async {
        let queue = brigade_sqlite::SqliteBroker::open(place.path("jobs.db")).await;
        let queue = queue.unwrap();
        let jobs = vec![NewJob::new("foreign", "?")];
        queue.enqueue(jobs).await.unwrap();
        queue.close().await.unwrap();
    });
    let worked = place.work(&[&PRINT_NAME]);
    assert_eq!(
        (worked.code, worked.worked()),
        (Some(1), [2, 1, 0, 1]),
        "{worked:?}"
    );
    let results = place.run("results", &[]);
    let records = records(&results.stdout);
    assert_eq!(
        pairs(&records, "job_id", "error_kind")[1],
        ("foreign", "dead_letter"),
        "{results:?}"
    );
}

#[test]
fn a_torn_record_is_cut_off_and_written_again() {
    let place = Place::file();
    place.names(&["a", "b"]);
    place.enqueue(&["in.csv"]);
    place.work(&[&PRINT_NAME]);
    place.run("results", &[&["-o", "out.csv"]]);
    let whole = place.read("out.csv");
    place.write("out.csv", &whole[..whole.len() - 3]);
    let ran = place.run("results", &[&["-o", "out.csv", "--append"]]);
    let numbers = ran.numbers();
    assert_eq!(
        (numbers["written"], numbers["duplicates"]),
        (1, 1),
        "{ran:?}"
    );
    assert_eq!(place.read("out.csv"), whole);
}

#[test]
fn a_producer_that_is_killed_begins_again_and_adds_no_job_twice() {
    let place = Place::file();
    let names: Vec<String> = (0..50).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    place.names(&names);
    let whole = place.read("in.csv");
    let mut command = place.command("enqueue", &[&["-", "--batch", "1"]]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(&whole.as_bytes()[..whole.len() / 2])
        .unwrap();
    stdin.flush().unwrap();
    wait_until("some jobs", || {
        place.path("jobs.db").exists()
            && place.run("queue", &[]).code == Some(0)
            && place.count("ready") > 5
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let known = place.count("ready");
    assert!(known < 50);
    let again = place.enqueue(&["in.csv"]);
    let message = format!("{known} of these jobs were there already");
    assert!(again.stderr.contains(&message), "{again:?}");
    assert_eq!(place.count("ready"), 50);
}

#[test]
fn a_reader_that_closes_stdout_loses_nothing() {
    let place = Place::file();
    let names: Vec<String> = (0..3000).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    place.names(&names);
    place.enqueue(&["in.csv"]);
    place.work(&[&[
        "--on-missing-column",
        "fail",
        "-j",
        "64",
        "--",
        "true",
        "{none}",
    ]]);
    let mut child = place.command("results", &[]).spawn().unwrap();
    drop(child.stdout.take());
    let ended = ran(child);
    assert_eq!(ended.code, Some(141), "{ended:?}");
    assert_eq!(place.count("done"), 3000);
}

#[test]
fn answers_by_way_of_a_queue_are_those_of_fetch() {
    let server = Server::start(Options::default()).unwrap();
    let paths = [
        "/ok?bytes=10",
        "/status/404",
        "/status/503",
        "/redirect/2",
        "/loop",
        "/close",
        "/json?lat=1.5",
    ];
    let mut urls = paths.map(|path| server.url(path)).to_vec();
    // Tried again after a redirect.
    urls.push(server.url(&format!("/redirect?to={}", server.url("/status/500"))));
    urls.push("no url".to_owned());
    let place = Place::file();
    place.write("in.csv", format!("url\n{}\n", urls.join("\n")));
    let options = [
        "--per-host-rate",
        "none",
        "--backoff",
        "1ms..2ms",
        "--extract",
        "lat=/results/0/lat",
    ];
    let mut fetch = Command::new(env!("CARGO_BIN_EXE_brigade"));
    fetch
        .args(["fetch", "in.csv", "-o", "fetched.csv"])
        .args(options);
    let fetched = fetch.current_dir(place.directory.path()).output().unwrap();
    assert_eq!(fetched.status.code(), Some(1), "{fetched:?}");
    place.enqueue(&["in.csv"]);
    place.work(&[&["--fetch"], &options]);
    place.run("results", &[&["-o", "out.csv"]]);
    let stable = |name: &str| {
        let mut records = records(&place.read(name));
        records.sort_by_key(|record| record["row"].clone());
        for record in &mut records {
            for name in [
                "queued_ms",
                "backoff_ms",
                "elapsed_ms",
                "finished_at",
                "job_id",
            ] {
                record.remove(name);
            }
        }
        records
    };
    assert_eq!(stable("out.csv").len(), 9);
    assert_eq!(stable("out.csv"), stable("fetched.csv"));
}

#[test]
fn limits_and_retry_after_hold_for_jobs() {
    let server = Server::start(Options::default()).unwrap();
    let place = Place::file();
    let paths = ["/ok?a=1", "/ok?a=2", "/ok?a=3", "/ok?a=4"].map(|path| server.url(path));
    place.write("in.csv", format!("url\n{}\n", paths.join("\n")));
    place.enqueue(&["in.csv"]);
    let start = Instant::now();
    let worked = place.work(&[&["--fetch", "--per-host-rate", "5/s"]]);
    assert_eq!(worked.code, Some(0), "{worked:?}");
    // The first at once, and the others after 0.2 seconds each.
    assert!(start.elapsed() >= Duration::from_millis(500));

    let deferred = server.url("/status/503?retry_after=1&times=1");
    place.write("in.csv", format!("url\n{deferred}\n"));
    place.enqueue(&["in.csv"]);
    let start = Instant::now();
    let worked = place.work(&[&["--fetch"]]);
    assert_eq!(
        (worked.code, worked.worked()),
        (Some(0), [1, 1, 0, 0]),
        "{worked:?}"
    );
    assert!(start.elapsed() >= Duration::from_secs(1));
    let records = records(&place.run("results", &[]).stdout);
    let last = records
        .iter()
        .find(|record| record["url"] == deferred)
        .unwrap();
    // An attempt that the server has deferred does not count.
    assert_eq!((&*last["attempts"], &*last["status_code"]), ("1", "200"));
}

#[test]
fn a_producer_that_is_interrupted_says_where() {
    let place = Place::file();
    let mut command = place.command("enqueue", &[&["-", "--batch", "1"]]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than what is read at once, so that some rows are known to be there.
    let rows: String = (0..4000).map(|number| format!("{number}\n")).collect();
    stdin.write_all(format!("id\n{rows}").as_bytes()).unwrap();
    wait_until("some jobs", || {
        place.path("jobs.db").exists()
            && place.run("queue", &[]).code == Some(0)
            && place.count("ready") > 5
    });
    signal(&child, Signal::INT);
    let ended = ran(child);
    drop(stdin);
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert!(
        ended.stderr.contains("enqueue the same file again"),
        "{ended:?}"
    );
    assert!(!ended.stderr.contains("finishing what runs"), "{ended:?}");
    assert_eq!(
        ended.numbers()["enqueued"],
        place.count("ready"),
        "{ended:?}"
    );
}

#[test]
fn a_delayed_job_waits() {
    let place = Place::file();
    place.names(&["a"]);
    place.enqueue(&["in.csv", "--delay", "1h"]);
    assert_eq!((place.count("delayed"), place.count("ready")), (1, 0));
    assert_eq!(place.work(&[&PRINT_NAME]).worked(), [0; 4]);
}

#[test]
fn an_answer_that_is_not_utf8_is_kept_as_it_is() {
    let place = Place::file();
    place.names(&["a"]);
    place.enqueue(&["in.csv"]);
    place.work(&[&["-c", "name", "--", "printf", r"\377\001"]]);
    place.run("results", &[&["-o", "out.csv"]]);
    let bytes = fs::read(place.path("out.csv")).unwrap();
    let is_there = bytes.windows(2).any(|pair| pair == [0xff, 0x01]);
    assert!(is_there, "{:?}", String::from_utf8_lossy(&bytes));
}

#[test]
fn the_report_reads_the_results() {
    let place = Place::file();
    place.names(&["a", "no"]);
    place.enqueue(&["in.csv"]);
    let script = r#"[ "$1" != no ]"#;
    place.work(&[&["--", "sh", "-c", script, "sh", "{name}"]]);
    place.run("results", &[&["-o", "out.csv"]]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    command
        .args(["report", "out.csv"])
        .current_dir(place.directory.path());
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}

#[test]
fn the_files_of_a_queue_are_no_outputs() {
    let place = Place::file();
    place.names(&["a"]);
    for rejects in ["jobs.db", "./jobs.db-wal", "in.csv"] {
        let ran = place.run("enqueue", &[&["in.csv", "--rejects", rejects]]);
        ran.assert_refused(&["--rejects is the "]);
    }
    std::os::unix::fs::symlink("jobs.db", place.path("link")).unwrap();
    let ran = place.run("enqueue", &[&["in.csv", "--rejects", "link"]]);
    ran.assert_refused(&["--rejects is the queue too"]);
    place.enqueue(&["in.csv"]);
    place.work(&[&PRINT_NAME]);
    for output in [
        "jobs.db",
        "link",
        "jobs.db-wal",
        "jobs.db-shm",
        "./jobs.db-journal",
    ] {
        let ran = place.run("results", &[&["-o", output]]);
        ran.assert_refused(&["-o is a file of the queue itself"]);
    }
    assert_eq!(place.count("done"), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_written_is_left() {
    let place = Place::file();
    place.names(&["a", "b"]);
    place.enqueue(&["in.csv"]);
    place.work(&[&PRINT_NAME]);
    let full = place.run("results", &[&["-o", "/dev/full"]]);
    let numbers = full.numbers();
    assert_eq!(full.code, Some(2), "{full:?}");
    assert_eq!(
        (numbers["results"], numbers["written"], numbers["left"]),
        (2, 0, 2)
    );
    let mut command = place.command("queue", &[]);
    let device = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let shown = ran(command.stdout(device).spawn().unwrap());
    shown.assert_refused(&["<stdout>: cannot write"]);
}

#[test]
fn results_of_a_server_do_not_go_into_a_pipe() {
    let mut place = Place::file();
    place.queue = "amqp://localhost:1".to_owned();
    for output in [&[][..], &["-o", "/dev/stdout"]] {
        let ran = place.run("results", &[output]);
        ran.assert_refused(&["neither a pipe nor a terminal keeps them", "-o"]);
    }
}

#[test]
fn jobs_without_an_answer_are_counted_at_the_end() {
    let place = Place::file();
    place.names(&["a", "b"]);
    place.enqueue(&["in.csv", "--delay", "1h"]);
    let worked = place.work(&[&PRINT_NAME]);
    assert!(
        worked
            .stderr
            .contains("2 jobs are held by others or delayed\n"),
        "{worked:?}"
    );
    let results = place.run("results", &[&["-o", "out.csv"]]);
    assert!(
        results.stderr.contains("2 jobs have no answer yet\n"),
        "{results:?}"
    );
}

#[test]
fn a_column_of_the_job_id_needs_a_prefix() {
    let place = Place::file();
    place.write("in.csv", "job_id,name\n7,a\n");
    place.enqueue(&["in.csv"]);
    let refused = place.work(&[&PRINT_NAME]);
    refused.assert_refused(&["has a column \"job_id\"", "--prefix"]);
    let worked = place.work(&[&["--prefix", "x_"], &PRINT_NAME]);
    assert_eq!(worked.worked(), [1, 1, 0, 0], "{worked:?}");
    for written in [1, 0] {
        let ran = place.run("results", &[&["-o", "out.csv", "--append"]]);
        assert_eq!(ran.numbers()["written"], written, "{ran:?}");
    }
    let records = records(&place.read("out.csv"));
    assert_eq!(records[0]["job_id"], "7");
    assert!(records[0]["x_job_id"].starts_with("1-"), "{records:?}");
}
