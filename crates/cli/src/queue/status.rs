//! `brigade queue`: how many jobs a queue has in each state, which are held, and its dead letters.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};
use std::time::{Duration, SystemTime};

use brigade::broker::{Broker as _, BrokerError, DeadLetter};
use brigade_sqlite::SqliteBroker;

use super::address::{Address, Broker, Missing, warn};
use super::payload::Payload;
use crate::frame::stop::Stop;
use crate::options::queue::StatusOptions;

/// How much of a reason is shown.
const MAX_REASON: usize = 500;

/// Shows the queue, and returns the exit code.
pub(crate) fn run(options: &StatusOptions) -> u8 {
    match smol::block_on(show(options)) {
        Ok(text) => match print(&text) {
            Ok(()) => 0,
            // What a process has that the signal of a closed pipe ends: 128 + SIGPIPE.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => 141,
            Err(error) => {
                warn(format_args!("<stdout>: cannot write: {error}"));
                2
            }
        },
        Err(stop) => {
            warn(&stop);
            stop.exit_code()
        }
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

async fn show(options: &StatusOptions) -> Result<String, Stop> {
    let address = Address::parse(&options.queue, options.name.name.as_deref())?;
    let broker = address.open(Missing::Refuse, None).await?;
    let shown = match &broker {
        Broker::Sqlite(broker) => {
            let shown = if options.retry_dead {
                broker.retry_dead().await.map(retried)
            } else if options.dead {
                dead_of_file(broker, options.limit).await
            } else {
                counts_of_file(broker, options.limit).await
            };
            let closed = broker.close().await;
            shown.and_then(|text| closed.map(|()| text))
        }
        Broker::Amqp(broker) => {
            let shown = if options.retry_dead {
                broker.retry_dead().await.map(|count| retried(count as u64))
            } else if options.dead {
                async {
                    let count = u64::from(broker.counts().await?.dead);
                    let letters = broker.dead_letters(options.limit).await?;
                    Ok(listed(&letters, count))
                }
                .await
            } else {
                broker.counts().await.map(|counts| {
                    table(&[
                        ("ready", counts.ready.into()),
                        ("delayed", counts.delayed.into()),
                        ("dead", counts.dead.into()),
                        ("results", counts.results.into()),
                        ("consumers", counts.consumers.into()),
                    ])
                })
            };
            let closed = broker.close().await;
            shown.and_then(|text| closed.map(|()| text))
        }
    };
    shown.map_err(|error| Stop::Usage(address.problem(&error)))
}

fn retried(count: u64) -> String {
    match count {
        1 => "1 dead letter is a job again\n".to_owned(),
        _ => format!("{count} dead letters are jobs again\n"),
    }
}

/// A line for each count.
fn table(counts: &[(&str, u64)]) -> String {
    counts
        .iter()
        .fold(String::new(), |mut text, (name, count)| {
            let _ = writeln!(text, "{name:<10}{count}");
            text
        })
}

async fn counts_of_file(broker: &SqliteBroker, limit: usize) -> Result<String, BrokerError> {
    let counts = broker.counts().await?;
    let mut text = table(&[
        ("ready", counts.ready),
        ("delayed", counts.delayed),
        ("leased", counts.leased),
        ("done", counts.done),
        ("dead", counts.dead),
    ]);
    let leases = broker.leases(limit.min(10)).await?;
    let now = SystemTime::now();
    if !leases.is_empty() {
        text.push_str("leases that end first:\n");
    }
    for lease in leases {
        let left = lease.until.duration_since(now).unwrap_or_default();
        let _ = writeln!(
            text,
            "  {}  delivery {}, ends in {}",
            escaped(lease.job_id.as_str()),
            lease.delivery_count,
            humantime::format_duration(Duration::from_millis(left.as_millis() as u64))
        );
    }
    Ok(text)
}

async fn dead_of_file(broker: &SqliteBroker, limit: usize) -> Result<String, BrokerError> {
    let count = broker.counts().await?.dead;
    let (mut letters, mut cursor) = (Vec::new(), 0);
    while letters.len() < limit {
        let page = broker
            .dead_letters_after(cursor, limit - letters.len())
            .await?;
        let Some(last) = page.last() else { break };
        cursor = last.cursor;
        letters.extend(page.into_iter().map(|dead| dead.letter));
    }
    Ok(listed(&letters, count))
}

/// A line for each dead letter: id, row and reason.
fn listed(letters: &[DeadLetter], count: u64) -> String {
    let mut text = String::new();
    for letter in letters {
        let row = Payload::decode(&letter.payload).map_or_else(
            |_| "no row".to_owned(),
            |payload| format!("row {}", payload.row),
        );
        let id = escaped(letter.job_id.as_str());
        let _ = writeln!(text, "{id}\t{row}\t{}", escaped(&letter.reason));
    }
    let more = count.saturating_sub(letters.len() as u64);
    if more > 0 {
        let _ = writeln!(text, "and {more} more: --limit shows them");
    }
    text
}

/// On one line, and bounded.
fn escaped(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(MAX_REASON)
        .flat_map(|character| {
            let is_control = character.is_control();
            let escaped = is_control.then(|| character.escape_default());
            let plain = (!is_control).then_some(character);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect();
    if text.chars().nth(MAX_REASON).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use brigade::broker::JobId;

    use super::*;

    #[test]
    fn a_dead_letter_is_one_line() {
        let letter = |payload: &[u8], reason: String| {
            DeadLetter::new(JobId::new("a"), payload.to_vec(), reason)
        };
        let letters = [
            letter(
                br#"{"row":3,"header":["x"],"cells":["y"]}"#,
                "no\nway\x1b".into(),
            ),
            letter(b"?", "x".repeat(1000)),
        ];
        let text = listed(&letters, 5);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "a\trow 3\tno\\nway\\u{1b}");
        assert_eq!(lines[1], format!("a\tno row\t{}…", "x".repeat(MAX_REASON)));
        assert_eq!(lines[2..], ["and 3 more: --limit shows them"]);
    }
}
