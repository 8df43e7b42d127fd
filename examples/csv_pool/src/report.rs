//! Completions come in; results go to stdout, failures to stderr and to a file, and at the end
//! comes the account: how many rows became what, and the exit code. Each row is in it exactly once.

use std::{fs::File, path::PathBuf, process::ExitCode};

use brigade::{
    Completion, End,
    csv::{FailuresWriter, Header, Row},
};

use crate::{
    demo::Refused,
    intake::Intake,
    options::Options,
    outputs::Taken,
    screen::{Messages, Screen},
    stop::Stop,
};

/// The account of one run.
pub(crate) struct Report {
    file: String,
    screen: Screen,
    counts: Counts,
    /// What the jobs answered, in the order of their completions. It grows with the file.
    merged: Vec<String>,
    /// Whether there is a file of which there are results, be it none.
    has_begun: bool,
    /// Whether stdout takes nothing any more.
    is_mute: bool,
    stop: Option<Stop>,
    failures: Option<Failures>,
    messages: Messages,
}

/// What became of the rows that were read.
#[derive(Default)]
struct Counts {
    rows: u64,
    bad: u64,
    ok: u64,
    failed: u64,
    not_started: u64,
}

struct Failures {
    path: PathBuf,
    writer: FailuresWriter<File>,
}

impl Report {
    pub(crate) fn new(options: &Options, screen: Screen) -> Self {
        Self {
            file: options.file_name(),
            messages: Messages::new(&screen),
            screen,
            counts: Counts::default(),
            merged: Vec::new(),
            has_begun: false,
            is_mute: false,
            stop: None,
            failures: None,
        }
    }

    pub(crate) const fn screen(&self) -> &Screen {
        &self.screen
    }

    /// Makes the file of `--failures`. From here on there will be a list of results.
    pub(crate) fn begin(
        &mut self,
        options: &Options,
        header: &Header,
        taken: &mut Taken,
    ) -> Result<(), Stop> {
        if let Some(path) = &options.failures {
            let file = taken.create(path, "--failures")?;
            let writer =
                FailuresWriter::new(file, header).map_err(|error| Stop::write(path, &error))?;
            self.failures = Some(Failures {
                path: path.clone(),
                writer,
            });
        }
        self.has_begun = true;
        Ok(())
    }

    /// Enters one job.
    pub(crate) fn completed(&mut self, completion: Completion<Row, Vec<String>, Refused>) {
        self.screen.row_done();
        let row = completion.input.expect("the map keeps its inputs");
        match completion.result {
            Ok(paths) => {
                self.counts.ok += 1;
                for path in paths {
                    self.write(&format!("Done {path}"));
                    self.merged.push(path);
                }
                return;
            }
            Err(_) if completion.attempts == 0 => self.counts.not_started += 1,
            Err(error) => {
                self.counts.failed += 1;
                self.messages
                    .add(format_args!("{}:{}: {error}", self.file, row.line()));
            }
        }
        if let Some(Failures { path, writer }) = &mut self.failures
            && let Err(error) = writer.write(&row)
        {
            let stop = Stop::write(path, &error);
            self.failures = None;
            self.stopped(stop);
        }
    }

    /// Enters why no more rows are taken. The first reason stands, unless a later one makes the run
    /// useless.
    pub(crate) fn stopped(&mut self, stop: Stop) {
        if let Some(message) = stop.message() {
            self.screen.message(message);
        }
        if self.stop.is_none() || stop.exit_code() == 2 {
            self.stop = Some(stop);
        }
    }

    pub(crate) const fn is_stopped(&self) -> bool {
        self.stop.is_some()
    }

    pub(crate) const fn is_interrupted(&self) -> bool {
        matches!(self.stop, Some(Stop::Interrupted(_)))
    }

    /// Enters how the last job ended all of it.
    pub(crate) fn jobs_ended(&mut self, end: End) {
        if end == End::Stopped {
            self.stopped(Stop::Failures);
        }
    }

    /// Enters the rows, now that no more are read.
    pub(crate) fn rows_ended(&mut self, mut intake: Intake) {
        (self.counts.rows, self.counts.bad) = (intake.rows, intake.bad);
        if let Err(stop) = intake.finish(&self.file) {
            self.stopped(stop);
        }
        if !intake.is_complete && !matches!(self.stop, Some(Stop::StdoutClosed)) {
            self.screen.message(format_args!(
                "{}: input incomplete after line {}",
                self.file, intake.last_line
            ));
        }
    }

    /// Writes what is left to write, the account last.
    pub(crate) fn finish(mut self, end: Result<(), Stop>) -> ExitCode {
        if let Err(stop) = end {
            self.stopped(stop);
        }
        if self.counts.failed > self.messages.written() {
            let more = self.counts.failed - self.messages.written();
            self.screen
                .message(format_args!("{}: and {more} more failed jobs", self.file));
        }
        if let Some(Failures { path, writer }) = self.failures.take()
            && let Err(error) = writer.finish()
        {
            self.stopped(Stop::write(&path, &error));
        }
        if self.has_begun {
            self.write(&format!("{:?}", self.merged));
        }
        self.screen.clear();

        let Counts {
            rows,
            bad,
            ok,
            failed,
            not_started,
        } = self.counts;
        let mut code = match &self.stop {
            Some(stop) => stop.exit_code(),
            None => u8::from(bad + failed > 0),
        };
        if rows != bad + ok + failed + not_started {
            self.screen
                .message("internal error: the counts do not add up");
            code = 2;
        }
        self.screen.message(format_args!(
            "rows={rows} bad={bad} ok={ok} failed={failed} not_started={not_started}"
        ));
        ExitCode::from(code)
    }

    /// Writes a line to stdout, the only way there; after one error, none.
    fn write(&mut self, line: &str) {
        if self.is_mute {
            return;
        }
        if let Err(error) = self.screen.result(line) {
            self.is_mute = true;
            self.stopped(Stop::stdout(&error));
        }
    }
}
