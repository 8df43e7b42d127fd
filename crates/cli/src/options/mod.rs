//! The command line comes in, checked options go out. Nothing is opened here.

pub(crate) mod queue;
pub(crate) mod values;

use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use brigade::csv::Reader;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use self::queue::{EnqueueOptions, ResultsOptions, StatusOptions, WorkFetchOptions, WorkOptions};
use self::values::{
    Backoff, Extract, HostLimits, MaxFailures, Rate, RetryOn, Statuses, count, delimiter, duration,
    optional_duration, optional_rate, rate, size,
};

const AFTER_HELP: &str = "\
Exit code:
    0  every row was read and accepted
    1  some rows were bad or some failed
    2  bad usage, an input or an output that cannot be used, or an input that has changed on resume
  130  interrupted by ctrl-c (SIGINT): what ran was finished; a second signal cuts it short
  143  the same by SIGTERM
  141  the reader of stdout closed it: no more rows were started

stdout has the answers or nothing. The last line on stderr is
    rows=… bad=… ok=… failed=… not_started=…
and rows is the sum of the others.";

/// Fetches a URL or runs a command for each row of a CSV file, and reports on what came out.
#[derive(Debug, Parser)]
#[command(
    name = "brigade",
    version,
    max_term_width = 100,
    after_help = AFTER_HELP,
    args_override_self = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fetch a URL for each row of a CSV file
    #[command(after_help = AFTER_HELP)]
    Fetch(Box<FetchOptions>),
    /// Run a command for each row of a CSV file
    #[command(after_help = AFTER_HELP)]
    Run(Box<RunOptions>),
    /// Put the rows of a CSV file into a queue that outlives processes, for any number of workers
    #[command(after_help = queue::AFTER_ENQUEUE)]
    Enqueue(EnqueueOptions),
    /// Run a command for each job of a queue, or fetch a URL
    #[command(
        after_help = queue::AFTER_WORK,
        override_usage = "brigade work [OPTIONS] <QUEUE> -- <COMMAND>...\n       \
                          brigade work [OPTIONS] <QUEUE> --fetch"
    )]
    Work(Box<WorkOptions>),
    /// Fetch a URL for each job of a queue
    #[command(
        hide = true,
        after_help = queue::AFTER_WORK,
        override_usage = "brigade work [OPTIONS] <QUEUE> --fetch"
    )]
    WorkFetch(Box<WorkFetchOptions>),
    /// Write the answers of a queue to a CSV file
    #[command(after_help = queue::AFTER_RESULTS)]
    Results(ResultsOptions),
    /// Show what is in a queue, and its dead letters
    #[command(after_help = queue::AFTER_QUEUE)]
    Queue(StatusOptions),
    /// Make a page from an answers file
    Report(ReportOptions),
    /// Fetch a shipped file from a server on loopback, with a bar and a report; needs no network
    Demo(DemoOptions),
    /// Print the completion for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Cli {
    /// Parses the arguments of this process. Ends it where they are wrong, or ask for help.
    pub(crate) fn of_process() -> Self {
        match Self::of(std::env::args_os().collect()) {
            Ok(cli) => cli,
            Err(error) => error.exit(),
        }
    }

    fn of(words: Vec<OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(queue::chosen(words))?;
        queue::check(&mut command, &matches)?;
        Self::from_arg_matches(&matches)
    }
}

/// How the rows of a file are read; `fetch`, `run` and `enqueue` have it in common.
#[derive(Debug, Args)]
pub(crate) struct Reading {
    /// Write bad rows to this file, with two more columns: line and error. It holds all that the
    /// rows hold
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub(crate) rejects: Option<PathBuf>,

    /// What to do about a row that is ragged or not UTF-8
    #[arg(
        long,
        value_name = "WHAT",
        default_value = "continue",
        help_heading = "Input and output"
    )]
    pub(crate) on_bad_row: OnBadRow,

    /// The character between two fields; `\t` is a tab
    #[arg(
        long,
        value_name = "CHAR",
        default_value = ",",
        value_parser = delimiter,
        help_heading = "Input and output"
    )]
    pub(crate) delimiter: u8,

    /// The greatest size of one row; a longer one ends the run
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "1M",
        value_parser = size,
        help_heading = "Input and output"
    )]
    pub(crate) max_record_bytes: usize,
}

/// What `fetch` and `run` have in common.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The CSV file, in UTF-8 and with a header; `-` is stdin
    pub(crate) file: PathBuf,

    /// Write the answers to this file, which is the journal of --resume too [default: stdout]
    #[arg(short, long, value_name = "FILE", help_heading = "Input and output")]
    pub(crate) output: Option<PathBuf>,

    /// Go on with the answers file of an earlier run, however it ended: rows that it has are not done
    /// again; with `failed`, those that failed are. Rows that ran when it was killed are done twice
    #[arg(
        long,
        value_name = "WHAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "missing",
        requires = "output",
        help_heading = "Input and output"
    )]
    pub(crate) resume: Option<ResumeWhat>,

    /// Write the answers in the order of the rows, at the cost of --spread
    #[arg(long, help_heading = "Input and output")]
    pub(crate) ordered: bool,

    /// Bring answers to the disk within a second (fdatasync)
    #[arg(long, requires = "output", help_heading = "Input and output")]
    pub(crate) durable: bool,

    /// Put this before the names of the columns that are added
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        help_heading = "Input and output"
    )]
    pub(crate) prefix: String,

    /// Put a quote before cells that a spreadsheet would take for a formula; such a file cannot be
    /// resumed
    #[arg(long, conflicts_with = "resume", help_heading = "Input and output")]
    pub(crate) spreadsheet: bool,

    #[command(flatten)]
    pub(crate) reading: Reading,

    /// Write the rows of this run that failed or were not started to this file, which can be the
    /// input of another run. It holds all that the rows hold
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub(crate) failures: Option<PathBuf>,

    /// How many rows may be under way at once, those that wait for their hosts included; of stdin, how
    /// many are read ahead to find some that may start
    #[arg(
        long,
        value_name = "ROWS",
        default_value_t = 10_000,
        value_parser = count,
        help_heading = "Limits"
    )]
    pub(crate) lookahead: usize,

    /// Count the rows first and take them host by host in turn; the default where the input is a
    /// regular file
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Limits"
    )]
    pub(crate) spread: Option<bool>,

    /// How many start in a time, such as 10/s or 100/min; the unit is required [default: no limit]
    #[arg(long, value_name = "N/UNIT", value_parser = rate, help_heading = "Limits")]
    pub(crate) rate: Option<Rate>,

    /// How many extra attempts a row has [default: 2 for fetch, 0 for run]
    #[arg(long, value_name = "N", help_heading = "Retries")]
    pub(crate) retries: Option<u32>,

    /// The first delay between attempts and the longest; each is a random part of twice the last
    #[arg(
        long,
        value_name = "FROM..TO",
        default_value = "1s..60s",
        value_parser = values::backoff,
        help_heading = "Retries"
    )]
    pub(crate) backoff: Backoff,

    /// The time of the whole run; what runs then is cut short [default: none]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Retries")]
    pub(crate) deadline: Option<Duration>,

    /// Start no more rows after so many failures, or such a share of at least 100 answers: 20 or 5%
    #[arg(long, value_name = "N|N%", value_parser = values::max_failures, help_heading = "Retries")]
    pub(crate) max_failures: Option<MaxFailures>,

    /// How progress is shown
    #[arg(
        long,
        value_name = "HOW",
        default_value = "auto",
        help_heading = "Progress and report"
    )]
    pub(crate) progress: ProgressKind,

    /// How often a line is written where there is no bar
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = duration,
        hide = true,
        help_heading = "Progress and report"
    )]
    pub(crate) progress_interval: Duration,

    /// Write the page of `brigade report` at the end
    #[arg(
        long,
        value_name = "FILE",
        requires = "output",
        help_heading = "Progress and report"
    )]
    pub(crate) report: Option<PathBuf>,

    /// Write a trace for ui.perfetto.dev at the end
    #[arg(
        long,
        value_name = "FILE",
        requires = "output",
        help_heading = "Progress and report"
    )]
    pub(crate) trace: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct FetchOptions {
    #[command(flatten)]
    pub(crate) common: Common,

    /// The column of the URLs [default: `url`, or the only one]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) column: Option<String>,

    /// Make the URL of this template, in which {column} is the row's value, percent-encoded
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "column")]
    pub(crate) url_template: Option<String>,

    /// How many requests run at once
    #[arg(
        short = 'j',
        long,
        value_name = "N",
        default_value_t = 50,
        value_parser = count,
        help_heading = "Limits"
    )]
    pub(crate) workers: usize,

    /// How many requests to one host run at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4,
        value_parser = count,
        help_heading = "Limits"
    )]
    pub(crate) per_host_workers: usize,

    /// How many requests to one host start in a time: 5/s, 1/200ms, 5/15s, or none
    #[arg(
        long,
        value_name = "N/UNIT",
        default_value = "5/s",
        value_parser = HostRate::parse,
        help_heading = "Limits"
    )]
    pub(crate) per_host_rate: HostRate,

    /// The limits of one host, with or without its port: api.example.org=20/s,10 (repeatable)
    #[arg(
        long,
        value_name = "HOST=LIMITS",
        value_parser = values::host_limits,
        help_heading = "Limits"
    )]
    pub(crate) host: Vec<HostLimits>,

    /// After so many failures in a row to reach a host, or answers 429 or 503, fail the rest of its
    /// rows
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Limits")]
    pub(crate) host_failures: Option<usize>,

    /// What is tried again: status codes, timeout, connect, reset, dns, tls, protocol
    #[arg(
        long,
        value_name = "LIST",
        default_value = "408,429,500,502,503,504,522,524,timeout,connect,reset",
        value_parser = values::retry_on,
        help_heading = "Retries"
    )]
    pub(crate) retry_on: RetryOn,

    /// The longest Retry-After that is waited for; a longer one fails the row
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5m",
        value_parser = duration,
        help_heading = "Retries"
    )]
    pub(crate) max_retry_after: Duration,

    /// The time of an attempt: connect, headers, body, decompression
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = duration,
        help_heading = "Requests"
    )]
    pub(crate) timeout: Duration,

    /// The time to connect, TLS included
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = duration,
        help_heading = "Requests"
    )]
    pub(crate) connect_timeout: Duration,

    /// How many redirects of a row are followed; each is a request to the host that it leads to
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10,
        help_heading = "Requests"
    )]
    pub(crate) max_redirects: u32,

    /// The greatest size of a body, after decompression too
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "10M",
        value_parser = size,
        help_heading = "Requests"
    )]
    pub(crate) max_body: usize,

    /// A header of every request, `Name: value`; `@FILE` reads a header a line, which keeps secrets
    /// out of the list of processes (repeatable)
    #[arg(short = 'H', long, value_name = "HEADER", help_heading = "Requests")]
    pub(crate) header: Vec<String>,

    /// The method; `head,get` asks with GET where HEAD is refused
    #[arg(
        short = 'X',
        long,
        value_name = "METHOD",
        default_value = "GET",
        help_heading = "Requests"
    )]
    pub(crate) method: String,

    /// Accept any certificate
    #[arg(short = 'k', long, help_heading = "Requests")]
    pub(crate) insecure: bool,

    /// Trust the certificates of this PEM file, and no others
    #[arg(long, value_name = "FILE", help_heading = "Requests")]
    pub(crate) cacert: Option<PathBuf>,

    /// The proxy of all requests [default: from the environment]
    #[arg(short = 'x', long, value_name = "URL", help_heading = "Requests")]
    pub(crate) proxy: Option<String>,

    /// The User-Agent [default: brigade/VERSION]
    #[arg(long, value_name = "TEXT", help_heading = "Requests")]
    pub(crate) user_agent: Option<String>,

    /// Whom a server's owner can write to: an address or a URL, added to the User-Agent
    #[arg(long, value_name = "TEXT", help_heading = "Requests")]
    pub(crate) contact: Option<String>,

    /// Which status codes are a success; the others are answers all the same, with ok=false
    #[arg(
        long,
        value_name = "CODES",
        default_value = "200..=299",
        value_parser = values::statuses,
        help_heading = "Answers"
    )]
    pub(crate) accept: Statuses,

    /// Add a column with the body
    #[arg(long, help_heading = "Answers")]
    pub(crate) include_body: bool,

    /// Add a column with a value of a JSON body: lat=/results/0/lat (repeatable)
    #[arg(
        long,
        value_name = "COLUMN=POINTER",
        value_parser = values::extract,
        help_heading = "Answers"
    )]
    pub(crate) extract: Vec<Extract>,

    /// Save each body to a file under this directory
    #[arg(long, value_name = "DIR", help_heading = "Answers")]
    pub(crate) save_bodies: Option<PathBuf>,

    /// The column of the names of saved bodies; a second row with the same name fails [default: by
    /// row, 00/12/001234.html]
    #[arg(
        long,
        value_name = "NAME",
        requires = "save_bodies",
        help_heading = "Answers"
    )]
    pub(crate) name_column: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) common: Common,

    /// The command and its arguments, after `--`. {column} is the row's value, {} that of --column,
    /// {#} the number of the row; where there is none of them, the value of {} is added as the last
    /// argument. There is no shell between
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,

    /// The column of {} [default: the only one]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) column: Option<String>,

    /// Run the command by `sh -c`; values are quoted
    #[arg(long)]
    pub(crate) shell: bool,

    /// Print the commands and run none
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// The column whose value is the stdin of the command
    #[arg(long, value_name = "NAME")]
    pub(crate) stdin: Option<String>,

    /// How many commands run at once [default: the number of cores]
    #[arg(short = 'j', long, value_name = "N", value_parser = count, help_heading = "Limits")]
    pub(crate) workers: Option<usize>,

    /// The column whose equal values share the limits --per-key-workers and --per-key-rate
    #[arg(long, value_name = "NAME", help_heading = "Limits")]
    pub(crate) key: Option<String>,

    /// How many commands of one key run at once
    #[arg(
        long,
        visible_alias = "per-host-workers",
        value_name = "N",
        value_parser = count,
        requires = "key",
        help_heading = "Limits"
    )]
    pub(crate) per_key_workers: Option<usize>,

    /// How many commands of one key start in a time
    #[arg(
        long,
        visible_alias = "per-host-rate",
        value_name = "N/UNIT",
        value_parser = HostRate::parse,
        requires = "key",
        help_heading = "Limits"
    )]
    pub(crate) per_key_rate: Option<HostRate>,

    /// The time of an attempt; its process group is ended then
    #[arg(
        long,
        value_name = "TIME",
        default_value = "none",
        value_parser = TimeOut::parse,
        help_heading = "Retries"
    )]
    pub(crate) timeout: TimeOut,

    /// How much of stdout, and of stderr, is kept; what comes more than half a second after the end
    /// of a command is not
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "64K",
        value_parser = size,
        help_heading = "Answers"
    )]
    pub(crate) max_output: usize,

    /// Save what each command prints under this directory, in place of columns
    #[arg(long, value_name = "DIR", help_heading = "Answers")]
    pub(crate) save_output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ReportOptions {
    /// The answers file of `brigade fetch` or `brigade run`
    pub(crate) file: PathBuf,

    /// Write the page to this file [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Write a trace for ui.perfetto.dev too
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,

    /// The title of the page
    #[arg(long, value_name = "TEXT")]
    pub(crate) title: Option<String>,

    /// The character between two fields; `\t` is a tab
    #[arg(long, value_name = "CHAR", default_value = ",", value_parser = delimiter)]
    pub(crate) delimiter: u8,
}

#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    /// Write answers.csv and report.html into this directory, never over files that are there
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResumeWhat {
    /// Do the rows that the answers do not have
    Missing,
    /// Do these and those that failed
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnBadRow {
    /// Take no more rows, and finish what was started
    Stop,
    /// Go on, and say only how many there were
    Skip,
    /// Go on, and report the first 20; with --rejects, only how many there were
    Continue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressKind {
    /// A bar on a terminal, otherwise a line every ten seconds
    Auto,
    /// A bar
    Bar,
    /// A line every ten seconds
    Plain,
    /// None
    None,
}

/// A rate or none; a type of its own, since an option that is an `Option` may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostRate(pub(crate) Option<Rate>);

impl HostRate {
    fn parse(text: &str) -> Result<Self, String> {
        optional_rate(text).map(Self)
    }
}

/// A duration or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeOut(pub(crate) Option<Duration>);

impl TimeOut {
    fn parse(text: &str) -> Result<Self, String> {
        optional_duration(text).map(Self)
    }
}

/// How many bad rows are reported one by one.
const MAX_REPORTED: u64 = 20;

impl Reading {
    /// Whether the bad row of this number, counted from 1, is reported by itself.
    pub(crate) const fn reports(&self, number: u64) -> bool {
        match self.on_bad_row {
            OnBadRow::Stop => true,
            OnBadRow::Continue => self.rejects.is_none() && number <= MAX_REPORTED,
            OnBadRow::Skip => false,
        }
    }

    /// What is said at the end of so many bad rows, of which some were reported by themselves.
    pub(crate) fn rest(&self, file: impl Display, bad: u64, reported: u64) -> Option<String> {
        Some(match &self.rejects {
            _ if bad == reported => return None,
            Some(path) => format!("{file}: bad rows: {bad}, written to {}", path.display()),
            None if reported == 0 => format!("{file}: bad rows: {bad}"),
            None => format!("{file}: and {} more bad rows", bad - reported),
        })
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader::new()
            .delimiter(self.delimiter)
            .max_record_bytes(self.max_record_bytes)
    }
}

impl Common {
    pub(crate) fn is_stdin(&self) -> bool {
        self.file.as_os_str() == "-"
    }

    /// The name of the input in messages.
    pub(crate) fn file_name(&self) -> String {
        if self.is_stdin() {
            "stdin".to_owned()
        } else {
            self.file.display().to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_options_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn resume_may_name_what_is_done_again() {
        let resume = |words: &[&str]| {
            let words = ["brigade", "fetch", "a.csv", "-o", "b.csv"]
                .iter()
                .chain(words);
            match Cli::try_parse_from(words).unwrap().command {
                Command::Fetch(options) => options.common.resume,
                _ => None,
            }
        };
        assert_eq!(resume(&[]), None);
        assert_eq!(resume(&["--resume"]), Some(ResumeWhat::Missing));
        assert_eq!(resume(&["--resume=failed"]), Some(ResumeWhat::Failed));
    }

    #[test]
    fn the_last_of_an_option_that_is_given_twice_counts_and_lists_grow() {
        let words = "brigade fetch a.csv -j 3 -j 4 -H a:1 -H b:2".split(' ');
        let Command::Fetch(options) = Cli::try_parse_from(words).unwrap().command else {
            panic!("it is a fetch");
        };
        assert_eq!((options.workers, options.header.len()), (4, 2));
    }

    #[test]
    fn a_command_comes_after_two_dashes() {
        let words = [
            "brigade", "run", "a.csv", "-j", "3", "--", "echo", "-n", "{x}",
        ];
        let Command::Run(options) = Cli::try_parse_from(words).unwrap().command else {
            panic!("it is a run");
        };
        assert_eq!(options.command, ["echo", "-n", "{x}"]);
        assert_eq!((options.workers, options.timeout), (Some(3), TimeOut(None)));
        assert!(Cli::try_parse_from(["brigade", "run", "a.csv"]).is_err());
    }
}
