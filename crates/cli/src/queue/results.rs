//! `brigade results`: the results of a queue come in, and a table of answers goes out, with one row
//! for each job.
//!
//! A file keeps what a queue gives away: results of RabbitMQ are acknowledged, and those of an SQLite
//! file are purged, only once they are on the disk. A result that does not fit into the table stays in
//! the queue.

use std::fmt;
use std::os::unix::fs::FileTypeExt as _;
use std::time::Duration;

use brigade::broker::{Broker as _, DeadLetter, JobId};
use brigade_amqp::AmqpBroker;
use brigade_sqlite::SqliteBroker;

use super::address::{Address, Broker, Missing, warn};
use super::payload::{Cell, Outcome, Payload};
use crate::answers::collected::{CollectError, Collected, Known, prefix};
use crate::file_id::FileId;
use crate::frame::stop::Stop;
use crate::options::queue::ResultsOptions;

/// How many results are read at once.
const PAGE: usize = 1000;
/// How long a queue is waited for that may have more results.
const QUIET: Duration = Duration::from_secs(1);

/// Writes the results, and returns the exit code.
pub(crate) fn run(options: &ResultsOptions) -> u8 {
    let mut counts = Counts::default();
    let end = smol::block_on(collect(options, &mut counts));
    let code = match end {
        Ok(()) => u8::from(counts.left > 0),
        Err(End::Stop(stop)) => {
            warn(&stop);
            stop.exit_code()
        }
        // What a process has that the signal of a closed pipe ends: 128 + SIGPIPE.
        Err(End::File(error)) if error.is_broken_pipe => 141,
        Err(End::File(error)) => {
            warn(&error.message);
            2
        }
    };
    warn(counts);
    code
}

/// What became of results and dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    results: u64,
    dead: u64,
    written: u64,
    duplicates: u64,
    /// Results that are no rows of this table, or could not be written.
    left: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "results={} written={} duplicates={} dead={} left={}",
            self.results, self.written, self.duplicates, self.dead, self.left
        )
    }
}

/// Why no more is written.
enum End {
    Stop(Stop),
    File(CollectError),
}

impl From<Stop> for End {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<CollectError> for End {
    fn from(error: CollectError) -> Self {
        Self::File(error)
    }
}

async fn collect(options: &ResultsOptions, counts: &mut Counts) -> Result<(), End> {
    let address = Address::parse(&options.queue, options.name.name.as_deref())?;
    if options.purge && matches!(address, Address::Amqp(_)) {
        return Err(End::Stop(Stop::Usage(format!(
            "{address}: --purge is for SQLite files; results of RabbitMQ are removed once they are written"
        ))));
    }
    let is_kept = match &options.output {
        Some(path) => !std::fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo()),
        None => FileId::of_fd(std::io::stdout()).is_some(),
    };
    if !is_kept && matches!(address, Address::Amqp(_)) {
        return Err(End::Stop(Stop::Usage(format!(
            "{address}: results are taken out of the queue once they are written, and neither a pipe \
             nor a terminal keeps them, should its reader fail: write them to a file with -o"
        ))));
    }
    if let Some(path) = &options.output
        && address.has_file(path)
    {
        let problem = "-o is a file of the queue itself";
        return Err(End::Stop(Stop::output(path, problem)));
    }
    let broker = address.open(Missing::Refuse, None).await?;
    let file = match &options.output {
        Some(path) => Collected::open(path, options.append, options.delimiter)?,
        None => Collected::stdout(options.delimiter),
    };
    let mut table = Table {
        file,
        counts,
        first_left: None,
        is_told: false,
    };
    let end = take(&broker, &address, options, &mut table).await;
    // What was not written is left.
    let unwritten = table.counts.written - table.file.flushed();
    table.counts.written -= unwritten;
    table.counts.left += unwritten;
    end
}

/// Writes what the queue has.
async fn take(
    broker: &Broker,
    address: &Address,
    options: &ResultsOptions,
    table: &mut Table<'_>,
) -> Result<(), End> {
    let unusable = |error| End::Stop(Stop::Output(address.problem(&error)));
    let unanswered = match broker {
        Broker::Sqlite(broker) => {
            let through = results_of_file(broker, table, unusable).await?;
            table.file.sync()?;
            if options.purge {
                let purged = broker.purge_results(through).await.map_err(unusable)?;
                warn(format_args!("{address}: {purged} results removed"));
            }
            let counts = broker.counts().await.map_err(unusable)?;
            broker.close().await.map_err(unusable)?;
            counts.ready + counts.delayed + counts.leased
        }
        Broker::Amqp(broker) => {
            results_of_server(broker, table, unusable).await?;
            let counts = broker.counts().await.map_err(unusable)?;
            broker.close().await.map_err(unusable)?;
            // The server does not count those that are held.
            u64::from(counts.ready) + u64::from(counts.delayed)
        }
    };
    if unanswered > 0 {
        warn(format_args!(
            "{address}: {unanswered} jobs have no answer yet"
        ));
    }
    if let Some(example) = &table.first_left {
        warn(format_args!(
            "{address}: {} results are left in the queue, because they are no rows of this table; the \
             first: {example}",
            table.counts.left
        ));
    }
    Ok(())
}

/// Writes the results and dead letters of an SQLite file. Returns the cursor up to which all results
/// are written.
async fn results_of_file(
    broker: &SqliteBroker,
    table: &mut Table<'_>,
    unusable: impl Fn(brigade::broker::BrokerError) -> End + Copy,
) -> Result<i64, End> {
    let (mut cursor, mut through) = (0, 0);
    loop {
        let page = broker.results_after(cursor, PAGE).await.map_err(unusable)?;
        let Some(last) = page.last() else { break };
        cursor = last.cursor;
        for result in page {
            let is_kept = table.result(&result.job_id, result.payload.as_deref())?;
            if is_kept && table.counts.left == 0 {
                through = result.cursor;
            }
        }
    }
    cursor = 0;
    loop {
        let page = broker
            .dead_letters_after(cursor, PAGE)
            .await
            .map_err(unusable)?;
        let Some(last) = page.last() else { break };
        cursor = last.cursor;
        for dead in page {
            table.dead_letter(&dead.letter)?;
        }
    }
    Ok(through)
}

/// Takes the results of a server, and writes them and the dead letters.
async fn results_of_server(
    broker: &AmqpBroker,
    table: &mut Table<'_>,
    unusable: impl Fn(brigade::broker::BrokerError) -> End + Copy,
) -> Result<(), End> {
    loop {
        let page = broker.fetch_results(PAGE, QUIET).await.map_err(unusable)?;
        if page.is_empty() {
            break;
        }
        let mut receipts = Vec::with_capacity(page.len());
        for result in page {
            if table.result(&result.job_id, Some(&result.payload))? {
                receipts.push(result.receipt);
            }
        }
        table.file.sync()?;
        // One that is not removed comes again, and its id is known then.
        for outcome in broker.ack_results(receipts).await {
            if let Err(brigade::broker::SettleError::Broker(error)) = outcome
                && error.is_permanent()
            {
                return Err(unusable(error));
            }
        }
    }
    let count = broker.counts().await.map_err(unusable)?.dead;
    let dead = broker.dead_letters(count as usize).await;
    for letter in dead.map_err(unusable)? {
        table.dead_letter(&letter)?;
    }
    table.file.sync()?;
    Ok(())
}

/// The table that is written, and what became of the results.
struct Table<'a> {
    file: Collected,
    counts: &'a mut Counts,
    /// The first result that is left in the queue, and why.
    first_left: Option<String>,
    /// Whether it was said that jobs have no ids.
    is_told: bool,
}

impl Table<'_> {
    /// Writes a result. Returns whether the table has it now, or had it before.
    fn result(&mut self, id: &JobId, payload: Option<&[u8]>) -> Result<bool, CollectError> {
        self.counts.results += 1;
        self.tell_unnamed(id);
        if self.file.has(id.as_str(), Known::Accepted) {
            self.counts.duplicates += 1;
            return Ok(true);
        }
        let outcome = match payload {
            Some(payload) => Outcome::decode(payload),
            None => Err("it was acknowledged without an answer".to_owned()),
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(problem) => {
                self.leave(format!("job {id}: {problem}"));
                return Ok(false);
            }
        };
        let cells: Vec<_> = outcome.cells.into_iter().map(Cell::into_bytes).collect();
        let found = Collected::known(&outcome.header, &cells);
        if self.file.has(id.as_str(), found) {
            self.counts.duplicates += 1;
            return Ok(true);
        }
        if self.file.header().is_none() {
            self.file.begin(&outcome.header);
        }
        if !self.file.has_columns(&outcome.header) {
            let difference = self.difference(&outcome.header);
            self.leave(format!("job {id}: {difference}"));
            return Ok(false);
        }
        self.counts.written += 1;
        self.file.write(id.as_str(), found, cells)?;
        Ok(true)
    }

    /// Says once that nothing is known of jobs without an id.
    fn tell_unnamed(&mut self, id: &JobId) {
        if id.as_str().is_empty() && !self.is_told {
            self.is_told = true;
            warn(
                "there are jobs without an id: each of their results is written, twice where it comes twice",
            );
        }
    }

    fn leave(&mut self, why: String) {
        self.counts.left += 1;
        self.first_left.get_or_insert(why);
    }

    /// Where columns differ from those of the table.
    fn difference(&self, columns: &[String]) -> String {
        let header = self.file.header().unwrap_or_default();
        let header = &header[..header.len().saturating_sub(1)];
        let width = header.len().max(columns.len());
        let at = (0..width).find(|at| header.get(*at) != columns.get(*at));
        let name = |list: &[String]| {
            at.and_then(|at| list.get(at))
                .map_or_else(|| "absent".to_owned(), |name| format!("{name:?}"))
        };
        format!(
            "its column {} is {}, and that of the table is {}",
            at.unwrap_or(0) + 1,
            name(columns),
            name(header)
        )
    }

    /// Writes a row for a job that was given up. Its cells stand in the columns of their names.
    fn dead_letter(&mut self, letter: &DeadLetter) -> Result<(), CollectError> {
        self.counts.dead += 1;
        let id = letter.job_id.as_str();
        self.tell_unnamed(&letter.job_id);
        if self.file.has(id, Known::DeadLetter) {
            self.counts.duplicates += 1;
            return Ok(());
        }
        let payload = Payload::decode(&letter.payload).ok();
        if self.file.header().is_none() {
            let inputs = payload.iter().flat_map(|payload| payload.header.clone());
            let own = OWN.iter().map(|name| (*name).to_owned());
            let mut header: Vec<String> = inputs.collect();
            let own: Vec<String> = own.filter(|name| !header.contains(name)).collect();
            header.extend(own);
            self.file.begin(&header);
        }
        let cells = self.dead_cells(payload.as_ref(), &letter.reason);
        self.counts.written += 1;
        self.file.write(id, Known::DeadLetter, cells)?;
        Ok(())
    }

    fn dead_cells(&self, payload: Option<&Payload>, reason: &str) -> Vec<Vec<u8>> {
        let header = self.file.header().unwrap_or_default();
        let header = &header[..header.len().saturating_sub(1)];
        let mut cells = vec![Vec::new(); header.len()];
        if let Some(payload) = payload {
            for (name, cell) in payload.header.iter().zip(&payload.cells) {
                if let Some(at) = header.iter().position(|column| column == name) {
                    cells[at] = cell.clone().into_bytes();
                }
            }
        }
        // The tool's columns come last, and have one prefix.
        let prefix = prefix(header);
        let row = payload.map(|payload| payload.row.to_string());
        for (name, cell) in [
            ("row", row.unwrap_or_default()),
            ("ok", "false".to_owned()),
            ("error_kind", "dead_letter".to_owned()),
            ("error", reason.to_owned()),
        ] {
            let name = format!("{prefix}{name}");
            if let Some(at) = header.iter().rposition(|column| *column == name) {
                cells[at] = cell.into_bytes();
            }
        }
        cells
    }
}

/// The columns of a table that has dead letters alone.
const OWN: [&str; 4] = ["row", "ok", "error_kind", "error"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_adds_up() {
        let counts = Counts {
            results: 10,
            dead: 2,
            written: 7,
            duplicates: 4,
            left: 1,
        };
        let line = "results=10 written=7 duplicates=4 dead=2 left=1";
        assert_eq!(counts.to_string(), line);
        assert_eq!(
            counts.results + counts.dead,
            counts.written + counts.duplicates + counts.left
        );
    }
}
