//! Runs the binary: arguments go in, the exit code, both outputs and the counts come out.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::answers::Table;

/// A run that takes longer hangs.
const WATCHDOG: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(5);

/// A run that is to be started.
pub(crate) struct Brigade {
    arguments: Vec<OsString>,
    usual: Vec<(&'static str, &'static str)>,
    directory: PathBuf,
    stdin: Option<Vec<u8>>,
    keeps_stdin_open: bool,
}

/// A run that goes on.
pub(crate) struct Running {
    child: Child,
    arguments: Vec<OsString>,
    directory: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
    started: Instant,
    peak_kib: u64,
    /// Held where stdin is to stay open.
    _stdin: Option<std::process::ChildStdin>,
}

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Those of the last line on stderr, which a run that was killed and a usage error have not.
    pub(crate) counts: Option<Counts>,
    /// The most memory that was seen, in KiB.
    pub(crate) peak_kib: u64,
}

/// The last line of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) rows: u64,
    pub(crate) bad: u64,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) not_started: u64,
}

impl Brigade {
    /// A command of the tool, in a directory.
    pub(crate) fn new(directory: &Path, command: &str) -> Self {
        Self {
            arguments: vec![command.into()],
            usual: Vec::new(),
            directory: directory.to_owned(),
            stdin: None,
            keeps_stdin_open: false,
        }
    }

    /// `brigade fetch in.csv -o out.csv`.
    pub(crate) fn fetch(directory: &Path) -> Self {
        Self::new(directory, "fetch").args(["in.csv", "-o", "out.csv"])
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        let arguments = arguments.into_iter().map(|one| one.as_ref().to_owned());
        self.arguments.extend(arguments);
        self
    }

    /// An option with a value, for runs that do not set it themselves.
    pub(crate) fn usually(mut self, option: &'static str, value: &'static str) -> Self {
        self.usual.push((option, value));
        self
    }

    /// Arguments that are separated by spaces.
    pub(crate) fn words(self, words: &str) -> Self {
        self.args(words.split_whitespace())
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Stdin has no end.
    pub(crate) fn stdin_without_end(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.keeps_stdin_open = true;
        self.stdin(bytes)
    }

    pub(crate) fn start(mut self) -> Running {
        for (option, value) in std::mem::take(&mut self.usual) {
            if !self.arguments.iter().any(|argument| argument == option) {
                self.arguments.insert(1, format!("{option}={value}").into());
            }
        }
        let is_new = |run: &u32| {
            let path = self.directory.join(format!("stderr.{run}"));
            File::create_new(path).is_ok()
        };
        let run = (0..).find(is_new).expect("a run has a number");
        let stdout = self.directory.join(format!("stdout.{run}"));
        let stderr = self.directory.join(format!("stderr.{run}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
        command
            .args(&self.arguments)
            .current_dir(&self.directory)
            .stdin(if self.stdin.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap());
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(proxy).env_remove(proxy.to_uppercase());
        }
        let started = Instant::now();
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take();
        if let (Some(pipe), Some(bytes)) = (&mut stdin, &self.stdin) {
            // A process that ends early leaves the rest unread.
            let _ = std::io::Write::write_all(pipe, bytes);
        }
        Running {
            child,
            arguments: self.arguments,
            directory: self.directory,
            stdout,
            stderr,
            started,
            peak_kib: 0,
            _stdin: stdin.filter(|_| self.keeps_stdin_open),
        }
    }

    /// Runs to the end and checks the counts.
    pub(crate) fn run(self) -> Ended {
        self.start().wait()
    }
}

impl Running {
    /// Waits until something is so that the run brings about.
    pub(crate) fn wait_until(&mut self, what: &str, mut is_so: impl FnMut() -> bool) {
        while !is_so() {
            self.note_memory();
            let ended = self.child.try_wait().unwrap();
            if let Some(status) = ended
                && !is_so()
            {
                panic!("{status} before {what}:\n{}", self.stderr());
            }
            self.watch(what);
            thread::sleep(POLL);
        }
    }

    /// Waits until stderr has a text.
    pub(crate) fn wait_for_message(&mut self, text: &str) {
        let path = self.stderr.clone();
        self.wait_until(text, || {
            String::from_utf8_lossy(&fs::read(&path).unwrap()).contains(text)
        });
    }

    /// What stderr has so far.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap()).into_owned()
    }

    /// Sends a signal that can be caught.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Kills the process as `kill -9` does. It may have ended.
    pub(crate) fn kill(mut self) -> Ended {
        let _ = self.child.kill();
        let status = self.child.wait().unwrap();
        self.ended(status)
    }

    /// Waits for the end, and checks that the counts add up and are those of the answers.
    pub(crate) fn wait(self) -> Ended {
        let (arguments, directory) = (self.arguments.clone(), self.directory.clone());
        let ended = self.wait_unchecked();
        ended.check(&arguments, &directory);
        ended
    }

    /// Waits for the end of a run whose answers are no table with commas.
    pub(crate) fn wait_unchecked(mut self) -> Ended {
        let status = loop {
            self.note_memory();
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            self.watch("its end");
            thread::sleep(POLL);
        };
        self.ended(status)
    }

    fn ended(&self, status: ExitStatus) -> Ended {
        let stderr = self.stderr();
        let counts = stderr.lines().last().and_then(Counts::parse);
        Ended {
            code: status.code(),
            stdout: String::from_utf8_lossy(&fs::read(&self.stdout).unwrap()).into_owned(),
            counts,
            stderr,
            peak_kib: self.peak_kib,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn watch(&mut self, what: &str) {
        if self.started.elapsed() > WATCHDOG {
            let stderr = self.stderr();
            let _ = self.child.kill();
            panic!(
                "still waiting for {what} of {:?}:\n{stderr}",
                self.arguments
            );
        }
    }

    fn note_memory(&mut self) {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(peak) = line.and_then(|line| line.trim().split(' ').next()?.parse().ok()) {
            self.peak_kib = self.peak_kib.max(peak);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failed assertion; a process that was waited for has none of this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The counts of a run that has them.
    #[track_caller]
    pub(crate) fn counts(&self) -> Counts {
        match self.counts {
            Some(counts) => counts,
            None => panic!("no counts at the end of {}", self.stderr),
        }
    }

    /// Asserts the exit code and the counts `rows, bad, ok, failed, not_started`.
    #[track_caller]
    pub(crate) fn assert(&self, code: i32, counts: [u64; 5]) {
        let got = self.counts();
        let got = [got.rows, got.bad, got.ok, got.failed, got.not_started];
        assert_eq!((self.code, got), (Some(code), counts), "{}", self.stderr);
    }

    #[track_caller]
    pub(crate) fn assert_says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in {}", self.stderr);
        }
    }

    /// The counts add up, and are those of the answers.
    fn check(&self, arguments: &[OsString], directory: &Path) {
        let stderr = &self.stderr;
        assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("fault of this program"), "{stderr}");
        let is_table = arguments[0] == "fetch" || arguments[0] == "run";
        if !is_table || self.code == Some(2) && stderr.starts_with("error: ") {
            return;
        }
        let counts = self.counts();
        let sum = counts.bad + counts.ok + counts.failed + counts.not_started;
        assert_eq!(counts.rows, sum, "{arguments:?}: {stderr}");
        let has_ended_well = counts.bad + counts.failed + counts.not_started == 0;
        if matches!(self.code, Some(0 | 1)) {
            assert_eq!(self.code == Some(0), has_ended_well, "{stderr}");
        }
        if self.code == Some(2) {
            return;
        }
        let output = arguments.iter().position(|argument| argument == "-o");
        let mut table = match output {
            Some(at) => Table::read(&directory.join(&arguments[at + 1])),
            None => Table::parse(&self.stdout),
        };
        if let Some(at) = arguments.iter().position(|argument| argument == "--prefix") {
            table.remove_prefix(arguments[at + 1].to_str().unwrap());
        }
        table.check(counts, stderr);
    }
}

impl Counts {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut next = |name: &str| {
            let (key, value) = words.next()?.split_once('=')?;
            (key == name).then(|| value.parse::<u64>().ok())?
        };
        let counts = Self {
            rows: next("rows")?,
            bad: next("bad")?,
            ok: next("ok")?,
            failed: next("failed")?,
            not_started: next("not_started")?,
        };
        words.next().is_none().then_some(counts)
    }
}
