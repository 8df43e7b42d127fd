//! The options of `enqueue`, `work`, `results` and `queue`: the commands of a queue.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command};

use super::values::{count, delimiter, duration};
use super::{FetchOptions, Reading, RunOptions};

/// The name of the subcommand that `work --fetch` becomes: its options are those of `fetch`.
const WORK_FETCH: &str = "work-fetch";

/// The variable with the password of a URL that has none: other users of a machine see the URL.
pub(crate) const PASSWORD: &str = "BRIGADE_AMQP_PASSWORD";

const QUEUE: &str = "\
The queue: the path of an SQLite file, such as jobs.db, or the URL of a RabbitMQ server, \
amqp://user:password@host/vhost#name; a password that is not in the URL may be in the environment, \
as BRIGADE_AMQP_PASSWORD";

pub(super) const AFTER_ENQUEUE: &str = "\
A job has the cells of its row, the names of the columns and the number of the row. Without --id,
its id is the number of the row and a digest of header and cells: a file that is enqueued again,
for instance after a kill, gives the same ids. A queue in an SQLite file adds a known id only
once; RabbitMQ delivers it twice, and `brigade results` writes its row once.

Examples:
  brigade enqueue jobs.db urls.csv
  brigade enqueue 'amqp://guest:guest@localhost/%2f#urls' urls.csv

Exit code:
    0  every row was read and is in the queue
    1  some rows were bad
    2  bad usage, a file or a queue that cannot be used; enqueue the same file again
  130  interrupted by ctrl-c (SIGINT)
  143  the same by SIGTERM

The last line on stderr is
    rows=… bad=… enqueued=…
and rows is the sum of the others.";

pub(super) const AFTER_WORK: &str = "\
Any number of these processes may share a queue. A job whose process dies, however it dies, is
delivered again: after --lease from an SQLite file, at once by RabbitMQ. So a job may run twice,
and a command has to bear that: BRIGADE_JOB_ID in its environment is the same each time. Each
job that ends, accepted or failed after its --retries, is acknowledged together with its answer;
`brigade results QUEUE -o answers.csv` writes these into a table. A job that was delivered more
than --max-deliveries times, and one that is no row, becomes a dead letter: see `brigade queue
QUEUE --dead`.

Examples:
  brigade work jobs.db --until-empty -- convert {file} {file.}.png
  brigade work jobs.db --fetch --retries 3

Exit code:
    0  all jobs were accepted
    1  some failed, or became dead letters
    2  bad usage, or a queue that cannot be used
  130  interrupted by ctrl-c (SIGINT): what ran was finished, and the rest given back; a second
       signal cuts short what runs, and gives it back too
  143  the same by SIGTERM

The last line on stderr is
    fetched=… acked=… released=… dead=… lost=… unsettled=…
and fetched is the sum of the others: acknowledged with an answer; given back; made dead letters;
lost, since their lease or connection ended before; not settled, since the queue could not be
reached.";

pub(super) const AFTER_RESULTS: &str = "\
There is one row for each job that is done: the columns of the answers of `brigade run` or
`brigade fetch`, and job_id, after the --prefix of these, as the last. A dead letter is a row with
ok=false and error_kind=dead_letter. A queue in an SQLite file keeps its results, unless --purge is
given. From RabbitMQ results are taken: they are removed once they are in the file and on the disk. A process
that is killed between leaves them in both, and --append goes on without writing one twice. So
results of RabbitMQ are written to a file, never to a pipe. A job has a second row where a better
answer comes later: any answer after a dead letter, and ok=true after ok=false; the earlier row
stays. Results of jobs without an id are all written.

Examples:
  brigade results jobs.db -o answers.csv
  brigade results 'amqp://localhost#urls' -o answers.csv --append

Exit code:
    0  all results were written
    1  some are left in the queue, because they have other columns than the first, or none; jobs
       without an answer yet are counted on stderr, and change nothing here
    2  bad usage, a file or a queue that cannot be used
  141  the reader of stdout closed it

The last line on stderr is
    results=… written=… duplicates=… dead=… left=…
and results and dead together are the sum of the others.";

pub(super) const AFTER_QUEUE: &str = "\
Exit code:
    0  the queue was shown, or its dead letters were put back
    2  bad usage, a queue that cannot be used, or stdout that cannot be written
  141  the reader of stdout closed it";

/// What names a queue.
#[derive(Debug, Args)]
pub(crate) struct QueueName {
    /// The name of a queue in RabbitMQ, in place of `#name` at the end of the URL [default: brigade]
    #[arg(long, value_name = "NAME", help_heading = "Queue")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
#[command(mut_arg("on_bad_row", |arg| arg.help(
    "What to do about a row that is ragged or not UTF-8, or has no id of its own",
)))]
pub(crate) struct EnqueueOptions {
    #[arg(value_name = "QUEUE", help = QUEUE)]
    pub(crate) queue: PathBuf,

    /// The CSV file, in UTF-8 and with a header; `-` is stdin
    pub(crate) file: PathBuf,

    #[command(flatten)]
    pub(crate) name: QueueName,

    /// The column of the jobs' ids; a second row with the same id is a bad row
    #[arg(long, value_name = "COLUMN", help_heading = "Queue")]
    pub(crate) id: Option<String>,

    /// Jobs of a greater priority are taken first, from 0 to 255; RabbitMQ 4 knows 0 and others
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Queue")]
    pub(crate) priority: u8,

    /// After what time the jobs may be taken [default: at once]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Queue")]
    pub(crate) delay: Option<Duration>,

    /// How many jobs are enqueued at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1000,
        value_parser = count,
        help_heading = "Queue"
    )]
    pub(crate) batch: usize,

    #[command(flatten)]
    pub(crate) reading: Reading,
}

/// How jobs are taken from a queue.
#[derive(Debug, Args)]
pub(crate) struct TakeOptions {
    #[command(flatten)]
    pub(crate) name: QueueName,

    /// Fetch a URL for each job, as `brigade fetch`, in place of running a command; `brigade work
    /// --fetch --help` has its options
    #[arg(long, help_heading = "Queue")]
    pub(crate) fetch: bool,

    /// How many jobs this process holds at once, those that wait for their hosts or keys or between
    /// attempts included: where many wait, more than the number of workers keep these busy. All of
    /// them are delivered again if it dies [default: the number of workers]
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Queue")]
    pub(crate) prefetch: Option<usize>,

    /// After what time the jobs of a process that died are delivered again. A process that lives
    /// extends it by itself. SQLite only: RabbitMQ sees that the connection ends
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = duration,
        help_heading = "Queue"
    )]
    pub(crate) lease: Duration,

    /// How many times a job is delivered, at most; then it becomes a dead letter. A process that dies
    /// costs each job that it held a delivery; a job that was lost twice runs alone from then on
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Queue"
    )]
    pub(crate) max_deliveries: u32,

    /// End once there is no job to take and none is held. Jobs that are delayed, or held by others,
    /// are left [default: wait for more]
    #[arg(long, help_heading = "Queue")]
    pub(crate) until_empty: bool,

    /// What to do about a job without a column that is needed. `stop` gives it back and ends, if no
    /// job before it had them all; after that, and with `fail`, it has an answer with ok=false
    #[arg(
        long,
        value_name = "WHAT",
        default_value = "stop",
        help_heading = "Queue"
    )]
    pub(crate) on_missing_column: OnMissingColumn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OnMissingColumn {
    /// End with exit code 2 and lose nothing, if no job before had them
    Stop,
    /// Acknowledge it as failed
    Fail,
}

#[derive(Debug, Args)]
#[command(mut_args(of_queue))]
pub(crate) struct WorkOptions {
    #[command(flatten)]
    pub(crate) take: TakeOptions,

    #[command(flatten)]
    pub(crate) run: RunOptions,
}

#[derive(Debug, Args)]
#[command(mut_args(of_queue))]
pub(crate) struct WorkFetchOptions {
    #[command(flatten)]
    pub(crate) take: TakeOptions,

    #[command(flatten)]
    pub(crate) fetch: FetchOptions,
}

#[derive(Debug, Args)]
pub(crate) struct ResultsOptions {
    #[arg(value_name = "QUEUE", help = QUEUE)]
    pub(crate) queue: PathBuf,

    #[command(flatten)]
    pub(crate) name: QueueName,

    /// Write the rows to this file [default: stdout; from RabbitMQ, only where that is a file]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Go on with the file of an earlier call: jobs that it has are not written again, but for a better
    /// answer
    #[arg(long, requires = "output")]
    pub(crate) append: bool,

    /// Remove the results from an SQLite file once they are written and on the disk; their ids are
    /// forgotten. Dead letters are kept
    #[arg(long, requires = "output")]
    pub(crate) purge: bool,

    /// The character between two fields; `\t` is a tab
    #[arg(long, value_name = "CHAR", default_value = ",", value_parser = delimiter)]
    pub(crate) delimiter: u8,
}

#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    #[arg(value_name = "QUEUE", help = QUEUE)]
    pub(crate) queue: PathBuf,

    #[command(flatten)]
    pub(crate) name: QueueName,

    /// List the dead letters: id, row and reason, one a line
    #[arg(long)]
    pub(crate) dead: bool,

    /// How many dead letters, or leases, are listed
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = count)]
    pub(crate) limit: usize,

    /// Put the dead letters back into the queue; their deliveries are counted from 1
    #[arg(long, conflicts_with = "dead")]
    pub(crate) retry_dead: bool,
}

/// Why an option of `run` and `fetch` is none of `work`; `None` for the others.
fn refusal(option: &str) -> Option<&'static str> {
    const ANSWERS: &str = "answers go into the queue, and `brigade results` writes them to a file";
    const INPUT: &str = "`brigade enqueue` reads the file, and has this option";
    Some(match option {
        "output" | "resume" | "ordered" | "durable" | "spreadsheet" => ANSWERS,
        "rejects" | "on_bad_row" | "delimiter" | "max_record_bytes" => INPUT,
        "failures" => "a job that fails has an answer with ok=false in `brigade results`",
        "lookahead" => "--prefetch says how many jobs are held",
        "spread" => "jobs are taken in the order of the queue",
        "report" | "trace" => {
            "write the answers to a file with `brigade results`, and then use `brigade report`"
        }
        "dry_run" => "`brigade run FILE --dry-run` prints commands without a queue",
        _ => return None,
    })
}

/// What becomes of the options of `run` and `fetch` where rows come from a queue.
fn of_queue(arg: Arg) -> Arg {
    let id = arg.get_id().as_str().to_owned();
    if refusal(&id).is_some() {
        return arg.hide(true);
    }
    match id.as_str() {
        "file" => arg.value_name("QUEUE").help(QUEUE),
        "prefix" => arg.help_heading("Answers"),
        "progress" => arg.help_heading("Progress"),
        "deadline" => arg.help(
            "The time of the whole process; what runs then is cut short and given back [default: none]",
        ),
        "max_failures" => arg.help(
            "End after so many failures, or such a share of at least 100 answers: 20 or 5%",
        ),
        "max_redirects" => arg.help(
            "How many redirects of a row are followed. They belong to its job: they do not wait for \
             the limits of the hosts that they lead to, and a retry begins with the first URL",
        ),
        "save_bodies" => arg.help(
            "Save each body to a file under this directory. Rows of different files with the same \
             number have the same name: see --name-column",
        ),
        "save_output" => arg.help(
            "Save what each command prints under this directory, in place of columns. Rows of \
             different files with the same number have the same name",
        ),
        "name_column" => arg.help("The column of the names of saved bodies [default: by row, 00/12/001234.html]"),
        _ => arg,
    }
}

/// Chooses the options of `fetch` where `--fetch` stands before `--`.
pub(super) fn chosen(mut words: Vec<OsString>) -> Vec<OsString> {
    let is_fetch = words
        .iter()
        .take_while(|word| *word != "--")
        .any(|word| word == "--fetch");
    if let Some(command) = words.get_mut(1)
        && command == "work"
        && is_fetch
    {
        *command = WORK_FETCH.into();
    }
    words
}

/// Ends the program where `work` is given an option that it does not have.
pub(super) fn check(command: &mut Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some((name @ ("work" | WORK_FETCH), given)) = matches.subcommand() else {
        return Ok(());
    };
    for id in given.ids() {
        let id = id.as_str();
        if given.value_source(id) == Some(ValueSource::CommandLine)
            && let Some(reason) = refusal(id)
        {
            let option = id.replace('_', "-");
            let message = format!("--{option} is no option of `brigade work`: {reason}");
            let found = command.find_subcommand_mut(name);
            let command = found.expect("the subcommand was matched");
            return Err(command.error(ErrorKind::ArgumentConflict, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::options::{Cli, Command};

    fn parse(words: &str) -> Result<Command, String> {
        let words = format!("brigade {words}");
        let words = words.split(' ').map(Into::into).collect();
        match Cli::of(words) {
            Ok(cli) => Ok(cli.command),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn fetch_before_the_dashes_chooses_the_options_of_fetch() {
        let Ok(Command::WorkFetch(options)) = parse("work jobs.db --fetch --per-host-rate 1/s")
        else {
            panic!("it fetches");
        };
        assert_eq!(options.fetch.common.file.to_str(), Some("jobs.db"));
        let Ok(Command::Work(options)) = parse("work jobs.db -j 3 --lease 5s -- curl --fetch")
        else {
            panic!("it runs a command");
        };
        assert_eq!(options.run.command, ["curl", "--fetch"]);
        assert_eq!(
            (options.run.workers, options.take.lease.as_secs()),
            (Some(3), 5)
        );
    }

    #[test]
    fn an_option_that_makes_no_sense_for_a_queue_is_refused_with_a_reason() {
        for (words, part) in [
            ("work q -o out.csv -- true", "brigade results"),
            (
                "work q --ordered -- true",
                "--ordered is no option of `brigade work`",
            ),
            ("work q --on-bad-row stop -- true", "brigade enqueue"),
            ("work q --lookahead 5 -- true", "--prefetch"),
            ("work q --fetch --spread", "order of the queue"),
            ("work q --dry-run -- true", "brigade run"),
        ] {
            let error = parse(words).unwrap_err();
            assert!(error.contains(part), "{words}: {error}");
        }
        assert!(parse("work q --prefix a_ --deadline 1m -- true").is_ok());
        assert!(parse("work q").is_err(), "there is no command");
    }
}
