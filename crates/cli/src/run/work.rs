//! What `brigade run` does with a row: it runs the command in a slot of the pool, and its exit code
//! and output are the answer.

use std::cell::Cell;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use brigade::csv::{Column, Header, Row};
use smol::channel::{Receiver, Sender, bounded};
use which::which;

use super::{
    Attempt, Captured, Ended, Limits, Output, RunError, Template, ended, execute,
    reserve_descriptors, saved_output,
};
use crate::frame::lanes::{LaneLimits, Lanes, LimitTable, SharedLanes};
use crate::frame::stop::Stop;
use crate::frame::work::{Again, Answer, Columns, Failure, Lane, Next, Numbered, RowError, Work};
use crate::frame::{self, Plan};
use crate::options::RunOptions;

/// Runs the commands, and returns the exit code.
pub(crate) fn run(options: &RunOptions) -> u8 {
    if options.dry_run {
        return match print(options) {
            Ok(()) => 0,
            Err(stop) => {
                if let Some(message) = stop.message() {
                    let _ = writeln!(std::io::stderr(), "{message}");
                }
                stop.exit_code()
            }
        };
    }
    frame::run(
        &options.common,
        |header| {
            check(options)?;
            Ok((Commands::new(options, header)?, plan(options)))
        },
        |work| Rc::clone(&work.lanes),
    )
}

/// Checks that there is such a command, where rows have no part in its name.
pub(crate) fn check(options: &RunOptions) -> Result<(), Stop> {
    let Some(program) = options.command.first() else {
        return Ok(());
    };
    let is_unknown = options.shell || program.as_bytes().contains(&b'{');
    // Without a PATH, the system has one of its own.
    if is_unknown || std::env::var_os("PATH").is_none() || which(program).is_ok() {
        return Ok(());
    }
    Err(Stop::Usage(format!(
        "{}: there is no such command, or it cannot be executed",
        program.display()
    )))
}

fn workers(options: &RunOptions) -> usize {
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    options.workers.unwrap_or_else(cores)
}

fn limits(options: &RunOptions) -> LimitTable {
    LimitTable::all(LaneLimits {
        rate: options.per_key_rate.and_then(|rate| rate.0),
        workers: options.per_key_workers,
    })
}

/// The lanes of the keys.
pub(crate) fn lanes(options: &RunOptions) -> SharedLanes {
    Lanes::new(workers(options), options.common.rate, limits(options))
}

/// The columns that are added, whatever the options.
pub(crate) fn columns() -> Columns {
    Columns {
        before: vec!["exit_code".to_owned(), "signal".to_owned()],
        has_backoff: false,
        after: vec!["stdout".to_owned(), "stderr".to_owned()],
    }
}

pub(crate) fn plan(options: &RunOptions) -> Plan {
    let workers = workers(options);
    Plan {
        name: "run",
        busy: "command",
        workers,
        // A command may do harm when it runs twice.
        retries: options.common.retries.unwrap_or(0),
        has_lanes: options.key.is_some(),
        rate_option: "a higher --per-key-rate",
        repeats: Some("commands that ran when the last run ended run again".to_owned()),
        settings: vec![
            ("--workers".to_owned(), workers.to_string()),
            (
                "--retries".to_owned(),
                options.common.retries.unwrap_or(0).to_string(),
            ),
        ],
    }
}

/// Prints the commands of `--dry-run`.
fn print(options: &RunOptions) -> Result<(), Stop> {
    let common = &options.common;
    let reader = common.reading.reader();
    let mut out = std::io::BufWriter::new(std::io::stdout());
    let mut print = |template: &Template, row: &Row| {
        let mut line = template.display(row, row.record_number());
        line.push(b'\n');
        out.write_all(&line).and_then(|()| out.flush())
    };
    let mut each = |header: &Header, rows: &mut dyn Iterator<Item = Result<Row, _>>| {
        let template = template(options, header)?;
        for row in rows {
            match row {
                Ok(row) => {
                    if print(&template, &row).is_err() {
                        return Ok(());
                    }
                }
                Err(brigade::csv::RowError::Bad(bad)) => {
                    let _ = writeln!(std::io::stderr(), "{bad}");
                }
                Err(brigade::csv::RowError::File(error)) => return Err(error.into()),
            }
        }
        Ok(())
    };
    if common.is_stdin() {
        let mut rows = reader.from_reader("stdin", std::io::stdin())?;
        let header = rows.header().clone();
        each(&header, &mut rows)
    } else {
        let mut rows = reader.open(&common.file)?;
        let header = rows.header().clone();
        each(&header, &mut rows)
    }
}

fn template(options: &RunOptions, header: &Header) -> Result<Template, Stop> {
    let default = frame::column(header, options.column.as_deref(), None)?;
    let template = match &options.stdin {
        Some(name) => Template::with_stdin(
            &options.command,
            header,
            default,
            options.shell,
            header.column(name)?,
        ),
        None => Template::new(&options.command, header, default, options.shell),
    };
    template.map_err(|error| Stop::Usage(error.to_string()))
}

/// The commands of the rows.
pub(crate) struct Commands {
    template: Template,
    key: Option<Column>,
    lanes: SharedLanes,
    limits: Limits,
    output: Output,
    save_output: Option<PathBuf>,
    /// Closed when what runs is cut short.
    running: (Sender<()>, Receiver<()>),
    /// Why.
    cut: Cell<ended::Stop>,
}

/// A command of a row.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    row: Numbered,
    lane: Lane,
}

impl Commands {
    pub(crate) fn new(options: &RunOptions, header: &Header) -> Result<Self, Stop> {
        let key = options
            .key
            .as_deref()
            .map(|name| header.column(name))
            .transpose()?;
        reserve_descriptors(workers(options)).map_err(|error| Stop::Usage(error.to_string()))?;
        Ok(Self {
            template: template(options, header)?,
            key,
            lanes: lanes(options),
            limits: Limits {
                timeout: options.timeout.0,
                max_output: options.max_output,
                ..Limits::default()
            },
            output: match &options.save_output {
                Some(directory) => Output::Files(directory.clone()),
                None => Output::Capture,
            },
            save_output: options.save_output.clone(),
            running: bounded(1),
            cut: Cell::new(ended::Stop::Interrupted),
        })
    }

    fn answer(&self, row: &Numbered, ended: Option<&Ended>, error: Option<RowError>) -> Answer {
        let number = |number: Option<i32>| number.map(|n| n.to_string()).unwrap_or_default();
        let before = vec![
            number(ended.and_then(|ended| ended.exit_code)).into_bytes(),
            number(ended.and_then(|ended| ended.signal)).into_bytes(),
        ];
        let after = match (&self.save_output, ended) {
            (Some(directory), Some(_)) => saved_output(directory, row.number)
                .map(|path| path.display().to_string().into_bytes())
                .into(),
            (None, Some(ended)) => vec![cell(&ended.stdout), cell(&ended.stderr)],
            (_, None) => vec![Vec::new(), Vec::new()],
        };
        Answer {
            before,
            after,
            error,
        }
    }
}

/// What was kept of an output, and how much more there was.
fn cell(output: &Captured) -> Vec<u8> {
    let mut cell = output.text.clone();
    if output.truncated > 0 {
        cell.extend(format!("\n[{} bytes more]", output.truncated).into_bytes());
    }
    cell
}

impl Work for Commands {
    type Job = Job;

    fn columns(&self) -> Columns {
        columns()
    }

    fn lane(&self, row: &Row) -> Lane {
        self.key
            .map_or_else(|| Arc::from(""), |key| row.field(key).into())
    }

    fn lane_of(&self, job: &Job) -> Lane {
        Lane::clone(&job.lane)
    }

    fn job(&self, row: &Numbered) -> Result<Job, Answer> {
        Ok(Job {
            row: row.clone(),
            lane: self.lane(&row.row),
        })
    }

    fn cut(&self, kind: &'static str) -> bool {
        if kind == "deadline" {
            self.cut.set(ended::Stop::Deadline);
        }
        self.running.0.close()
    }

    async fn run(&self, job: Job, attempt: u32) -> Result<Next<Job>, Failure> {
        let Job { row, .. } = &job;
        let attempt = Attempt {
            argv: self.template.argv(&row.row, row.number),
            stdin: self.template.stdin(&row.row),
            row: row.number,
            attempt,
            job_id: row.job_id.clone(),
        };
        let stop = async {
            let _ = self.running.1.recv().await;
            self.cut.get()
        };
        match execute(&attempt, &self.limits, &self.output, stop).await {
            Ok(ended) => Ok(Next::Answer(self.answer(row, Some(&ended), None))),
            Err(error) => Err(self.failed(row, &error)),
        }
    }
}

impl Commands {
    fn failed(&self, row: &Numbered, error: &RunError) -> Failure {
        let again = if error.is_retryable() {
            Again::Backoff
        } else {
            Again::No
        };
        let row_error = RowError {
            kind: error.kind(),
            message: error.to_string(),
        };
        Failure {
            answer: self.answer(row, error.ended(), Some(row_error)),
            again,
        }
    }
}
