//! The queue that is put to the test, and what its jobs are.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use brigade_amqp::{AmqpBroker, AmqpOptions};
use brigade_sqlite::{Durability, Options, SqliteBroker};
use clap::ValueEnum;
use smol::Timer;

/// The lease of a delivery while harm is done, where there are leases: long enough for a worker on a
/// busy machine to extend it, short enough to end while a worker is stopped.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// How long the broker may be out of reach.
pub(crate) const OUTAGE: Duration = Duration::from_secs(60);

/// How long a job is that outlasts its lease.
pub(crate) const LONG: Duration = Duration::from_millis(2500);

/// How often a job is delivered: a job that ends its process has to reach it, and none that is killed
/// by chance. A worker is killed or stopped every 3 s on average, so that of 20 deliveries of a long job
/// all are lost four times in a million.
pub(crate) const MAX_DELIVERIES: u32 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Sqlite,
    Amqp,
}

/// How to open the queue; a worker is told by this text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A file, and by how many milliseconds the clock of the process differs.
    Sqlite {
        path: String,
        clock: i64,
        durability: Durability,
    },
    Amqp {
        url: String,
        queue: String,
    },
}

impl Address {
    /// Parses what [`Display`](fmt::Display) writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(' ')?;
        let (second, rest) = rest.split_once(' ')?;
        let durability = match kind {
            "amqp" => {
                return Some(Self::Amqp {
                    queue: second.to_owned(),
                    url: rest.to_owned(),
                });
            }
            "sqlite-normal" => Durability::Normal,
            "sqlite-full" => Durability::Full,
            _ => return None,
        };
        Some(Self::Sqlite {
            clock: second.parse().ok()?,
            path: rest.to_owned(),
            durability,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite {
                path,
                clock,
                durability: Durability::Normal,
            } => write!(f, "sqlite-normal {clock} {path}"),
            Self::Sqlite { path, clock, .. } => write!(f, "sqlite-full {clock} {path}"),
            Self::Amqp { url, queue } => write!(f, "amqp {queue} {url}"),
        }
    }
}

pub(crate) async fn sqlite(
    path: &str,
    clock: i64,
    durability: Durability,
    lease: Duration,
) -> Result<SqliteBroker, String> {
    let shift = Duration::from_millis(clock.unsigned_abs());
    let now = move || {
        let now = SystemTime::now();
        if clock < 0 { now - shift } else { now + shift }
    };
    let options = Options::new()
        .lease(lease)
        .durability(durability)
        .clock(now);
    options.open(path).await.map_err(|error| error.to_string())
}

pub(crate) async fn amqp(url: &str, queue: &str) -> Result<AmqpBroker, String> {
    let options = AmqpOptions::new().reconnect(Duration::from_millis(100), Duration::from_secs(1));
    // The server may be down at this moment.
    let deadline = Instant::now() + OUTAGE;
    loop {
        match options.clone().connect(url, queue).await {
            Ok(broker) => return Ok(broker),
            Err(error) if error.is_permanent() || Instant::now() > deadline => {
                return Err(error.to_string());
            }
            Err(_) => drop(Timer::after(Duration::from_millis(200)).await),
        }
    }
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing.
    Nothing,
    /// Waits for less than a tenth of a second.
    Short,
    /// Waits for longer than its lease.
    Long,
    /// Ends the process.
    Poison,
}

impl Work {
    /// What the job of this number does: one of 5,000 ends its process, one of 1,000 is long.
    pub(crate) const fn of(number: u64) -> Self {
        if number % 5000 == 999 {
            Self::Poison
        } else if number % 1000 == 499 {
            Self::Long
        } else {
            Self::Short
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        let addresses = [
            Address::Sqlite {
                path: "/a directory/jobs.db".into(),
                clock: -1500,
                durability: Durability::Normal,
            },
            Address::Sqlite {
                path: "jobs.db".into(),
                clock: 0,
                durability: Durability::Full,
            },
            Address::Amqp {
                url: "amqp://guest:guest@127.0.0.1:1/%2f".into(),
                queue: "chaos".into(),
            },
        ];
        for address in addresses {
            assert_eq!(Address::parse(&address.to_string()), Some(address));
        }
        assert_eq!(Address::parse("redis 1 2"), None);
    }
}
