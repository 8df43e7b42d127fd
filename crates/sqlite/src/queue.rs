//! What a queue does, as functions of a connection within a transaction and of the time. They know no
//! lock, no future and no clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use brigade::broker::{DeadLetter, Delivery, JobId, Nack, NewJob};
use rusqlite::{Connection, Row, params};

use crate::inspect::{Counts, Lease, StoredDeadLetter, StoredResult};
use crate::sql;

/// A time in Unix milliseconds, negative before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Millis(pub(crate) i64);

impl Millis {
    pub(crate) fn of(time: SystemTime) -> Self {
        Self(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(error) => {
                i64::try_from(error.duration().as_millis()).map_or(i64::MIN, |before| -before)
            }
        })
    }

    pub(crate) fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(whole_millis(duration)))
    }

    /// The time until `self`, zero if it has passed.
    pub(crate) fn since(self, now: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(now.0)).unwrap_or(0))
    }

    fn time(self) -> SystemTime {
        let distance = Duration::from_millis(self.0.unsigned_abs());
        let time = if self.0 < 0 {
            UNIX_EPOCH.checked_sub(distance)
        } else {
            UNIX_EPOCH.checked_add(distance)
        };
        time.unwrap_or(UNIX_EPOCH)
    }
}

/// Whole milliseconds, rounded up, so that nothing happens before its time.
fn whole_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
}

/// The receipt of a delivery: the job and the number of its delivery.
///
/// A job's deliveries are numbered, so a receipt settles nothing once the job was given back or
/// delivered again. It belongs to the file, not to the handle: any handle of the same queue settles
/// with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt {
    pub(crate) sequence: i64,
    pub(crate) token: i64,
}

const READY: i64 = 0;
const DELAYED: i64 = 2;

/// Adds the jobs whose ids are not known, and returns how many these were.
pub(crate) fn enqueue(
    connection: &Connection,
    now: Millis,
    jobs: &[NewJob],
) -> rusqlite::Result<usize> {
    let mut insert_job = connection.prepare_cached(sql::INSERT_JOB)?;
    let mut insert_payload = connection.prepare_cached(sql::INSERT_PAYLOAD)?;
    let mut added = 0;
    for job in jobs {
        let (state, due) = if job.delay.is_zero() {
            (READY, None)
        } else {
            (DELAYED, Some(now.after(job.delay).0))
        };
        if insert_job.execute(params![state, job.priority, due, job.id.as_str()])? == 1 {
            insert_payload.execute(params![connection.last_insert_rowid(), job.payload])?;
            added += 1;
        }
    }
    Ok(added)
}

/// Jobs that one claim makes ready at most, or as many as it leases if that is more. This bounds the
/// transaction when a million delays end in the same second.
const PROMOTED: i64 = 1_000;

/// Leases up to `max` jobs: greater priority first, then in the order of their enqueueing.
pub(crate) fn claim(
    connection: &Connection,
    now: Millis,
    max: usize,
    lease: Duration,
    holder: i64,
) -> rusqlite::Result<Vec<Delivery<Receipt>>> {
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    for ended in [sql::ENDED_LEASES, sql::ENDED_DELAYS] {
        let ended: Vec<i64> = connection
            .prepare_cached(ended)?
            .query_map([now.0, max.max(PROMOTED)], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for sequence in ended {
            connection
                .prepare_cached(sql::MAKE_READY)?
                .execute([sequence])?;
        }
    }

    let mut deliveries = connection
        .prepare_cached(sql::NEXT_JOBS)?
        .query_map([max], |row| {
            // The lease below raises both numbers in the file.
            let token = row.get::<_, i64>(1)? + 1;
            let receipt = Receipt {
                sequence: row.get(0)?,
                token,
            };
            let job_id = JobId::new(row.get::<_, String>(4)?);
            let mut delivery = Delivery::new(job_id, Vec::new(), receipt);
            delivery.delivery_count = Some(row.get::<_, u32>(2)? + 1);
            delivery.lost_count = Some(row.get(3)?);
            delivery.redelivered = token > 1;
            delivery.lease = Some(lease);
            Ok(delivery)
        })?
        .collect::<Result<Vec<_>, _>>()?;

    let mut lease_job = connection.prepare_cached(sql::LEASE)?;
    let mut payload = connection.prepare_cached(sql::PAYLOAD)?;
    for delivery in &mut deliveries {
        let Receipt { sequence, .. } = delivery.receipt;
        lease_job.execute([sequence, now.0, now.after(lease).0, holder])?;
        delivery.payload = payload.query_row([sequence], |row| row.get(0))?;
    }
    Ok(deliveries)
}

/// What a fetch that found nothing waits for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A job can be claimed.
    Now,
    /// A lease or a delay ends then.
    At(Millis),
    /// Nothing that is known.
    Unknown,
}

pub(crate) fn peek(connection: &Connection, now: Millis) -> rusqlite::Result<Next> {
    let (ready, leased, delayed) = connection.prepare_cached(sql::PEEK)?.query_row((), |row| {
        Ok((
            row.get::<_, bool>(0)?,
            row.get::<_, Option<i64>>(1)?,
            row.get::<_, Option<i64>>(2)?,
        ))
    })?;
    let due = leased.into_iter().chain(delayed).min().map(Millis);
    Ok(match due {
        _ if ready => Next::Now,
        Some(due) if due <= now => Next::Now,
        Some(due) => Next::At(due),
        None => Next::Unknown,
    })
}

/// Stores the result and takes the job out of the queue. Returns whether the delivery was held; if
/// not, nothing changes.
pub(crate) fn ack(
    connection: &Connection,
    receipt: &Receipt,
    result: Option<&[u8]>,
) -> rusqlite::Result<bool> {
    let Receipt { sequence, token } = *receipt;
    let held = connection
        .prepare_cached(sql::ACK)?
        .execute([sequence, token])?
        == 1;
    if held {
        connection
            .prepare_cached(sql::INSERT_RESULT)?
            .execute(params![sequence, result])?;
        connection
            .prepare_cached(sql::DELETE_PAYLOAD)?
            .execute([sequence])?;
    }
    Ok(held)
}

/// Gives the job back, or buries it. Returns whether the delivery was held.
pub(crate) fn nack(
    connection: &Connection,
    now: Millis,
    receipt: &Receipt,
    nack: &Nack,
) -> rusqlite::Result<bool> {
    let Receipt { sequence, token } = *receipt;
    match nack {
        Nack::Retry { after, reason: _ } => {
            let (state, due) = match after {
                Some(after) if !after.is_zero() => (DELAYED, Some(now.after(*after).0)),
                _ => (READY, None),
            };
            let mut retry = connection.prepare_cached(sql::RETRY)?;
            Ok(retry.execute(params![sequence, token, state, due])? == 1)
        }
        Nack::Release => release(connection, receipt),
        Nack::DeadLetter { reason } => {
            let held = connection
                .prepare_cached(sql::BURY)?
                .execute([sequence, token])?
                == 1;
            if held {
                connection
                    .prepare_cached(sql::INSERT_DEAD)?
                    .execute(params![sequence, reason])?;
            }
            Ok(held)
        }
    }
}

/// Undoes a delivery. Returns whether it was held.
pub(crate) fn release(connection: &Connection, receipt: &Receipt) -> rusqlite::Result<bool> {
    let mut release = connection.prepare_cached(sql::RELEASE)?;
    Ok(release.execute([receipt.sequence, receipt.token])? == 1)
}

/// Undoes all deliveries that `holder` has. Returns their number.
pub(crate) fn release_held(
    connection: &Connection,
    now: Millis,
    holder: i64,
) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(sql::RELEASE_HELD)?
        .execute([holder, now.0])
}

/// Makes the lease end `by` after `now`. Returns whether the delivery was held.
pub(crate) fn extend(
    connection: &Connection,
    now: Millis,
    receipt: &Receipt,
    by: Duration,
) -> rusqlite::Result<bool> {
    let mut extend = connection.prepare_cached(sql::EXTEND)?;
    Ok(extend.execute([receipt.sequence, receipt.token, now.0, now.after(by).0])? == 1)
}

/// How far a clock has to be behind before it counts as set back, in milliseconds.
pub(crate) const STEP: i64 = 1_000;

/// Whether [`rebase_leases`] would change a lease.
pub(crate) fn has_leases_to_rebase(connection: &Connection, now: Millis) -> rusqlite::Result<bool> {
    let mut find = connection.prepare_cached(sql::FIND_LEASE_TO_REBASE)?;
    find.query_row([now.0.saturating_add(STEP)], |row| row.get(0))
}

/// Shortens leases that began in the future to their length from now. After the clock was set back by
/// an hour, a process that has died would otherwise hold its jobs for an hour more.
pub(crate) fn rebase_leases(connection: &Connection, now: Millis) -> rusqlite::Result<usize> {
    let mut rebase = connection.prepare_cached(sql::REBASE_LEASES)?;
    rebase.execute([now.0, now.0.saturating_add(STEP)])
}

/// Counts the jobs by what a fetch at `now` would make of them.
pub(crate) fn counts(connection: &Connection, now: Millis) -> rusqlite::Result<Counts> {
    let of_index = |statement: &str| {
        connection
            .prepare_cached(statement)?
            .query_row([now.0], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })
    };
    let ready: i64 = connection
        .prepare_cached(sql::COUNT_READY)?
        .query_row((), |row| row.get(0))?;
    let (leased, leases_ended) = of_index(sql::COUNT_LEASED)?;
    let (delayed, delays_ended) = of_index(sql::COUNT_DELAYED)?;
    let rows = |ends: Option<(i64, i64)>| ends.map_or(0, |(first, last)| last.abs_diff(first) + 1);
    Ok(Counts {
        // Counts of rows: SQLite returns them as signed numbers.
        ready: (ready + leases_ended + delays_ended).unsigned_abs(),
        delayed: (delayed - delays_ended).unsigned_abs(),
        leased: (leased - leases_ended).unsigned_abs(),
        done: rows(ends(connection, sql::ENDS_OF_RESULTS)?),
        dead: rows(ends(connection, sql::ENDS_OF_DEAD)?),
    })
}

/// The first and last cursor of results or dead letters, if there are any.
pub(crate) fn ends(
    connection: &Connection,
    statement: &str,
) -> rusqlite::Result<Option<(i64, i64)>> {
    connection.prepare_cached(statement)?.query_row((), |row| {
        Ok(row
            .get::<_, Option<i64>>(0)?
            .zip(row.get::<_, Option<i64>>(1)?))
    })
}

pub(crate) fn leases(
    connection: &Connection,
    now: Millis,
    max: usize,
) -> rusqlite::Result<Vec<Lease>> {
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    connection
        .prepare_cached(sql::LEASES)?
        .query_map([now.0, max], |row| {
            Ok(Lease {
                job_id: JobId::new(row.get::<_, String>(0)?),
                until: Millis(row.get(1)?).time(),
                delivery_count: row.get(2)?,
            })
        })?
        .collect()
}

/// Bytes of payloads after which a page ends.
const PAGE_BYTES: usize = 16 << 20;

/// Reads the rows after a cursor, until there are `max` or their payloads exceed [`PAGE_BYTES`].
fn page<T>(
    connection: &Connection,
    statement: &str,
    cursor: i64,
    max: usize,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<(T, usize)>,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = connection.prepare_cached(statement)?;
    let mut rows = statement.query([cursor, i64::try_from(max).unwrap_or(i64::MAX)])?;
    let mut page = Vec::new();
    let mut bytes = 0;
    while bytes <= PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        let (item, size) = read(row)?;
        bytes += size;
        page.push(item);
    }
    Ok(page)
}

pub(crate) fn results_after(
    connection: &Connection,
    cursor: i64,
    max: usize,
) -> rusqlite::Result<Vec<StoredResult>> {
    page(connection, sql::RESULTS_AFTER, cursor, max, |row| {
        let payload: Option<Vec<u8>> = row.get(2)?;
        let bytes = payload.as_ref().map_or(0, Vec::len);
        let job_id = JobId::new(row.get::<_, String>(1)?);
        Ok((
            StoredResult {
                cursor: row.get(0)?,
                job_id,
                payload,
            },
            bytes,
        ))
    })
}

pub(crate) fn dead_letters_after(
    connection: &Connection,
    cursor: i64,
    max: usize,
) -> rusqlite::Result<Vec<StoredDeadLetter>> {
    page(connection, sql::DEAD_AFTER, cursor, max, |row| {
        let payload: Vec<u8> = row.get(2)?;
        let bytes = payload.len();
        let letter = DeadLetter::new(JobId::new(row.get::<_, String>(1)?), payload, row.get(3)?);
        Ok((
            StoredDeadLetter {
                cursor: row.get(0)?,
                letter,
            },
            bytes,
        ))
    })
}

/// Rows that one transaction retries or removes at most, so that others get their turn in between.
const CHUNK: i64 = 1_000;

/// Applies `statements` to the first rows with cursors up to `through`. Returns how many rows these
/// were; 0 means that there are none left.
fn first_rows(
    connection: &Connection,
    ends_of: &str,
    through: i64,
    statements: &[&str],
) -> rusqlite::Result<u64> {
    let Some((first, last)) = ends(connection, ends_of)? else {
        return Ok(0);
    };
    let through = through.min(last).min(first.saturating_add(CHUNK - 1));
    if through < first {
        return Ok(0);
    }
    for statement in statements {
        connection.prepare_cached(statement)?.execute([through])?;
    }
    Ok(through.abs_diff(first) + 1)
}

pub(crate) fn retry_dead(connection: &Connection, through: i64) -> rusqlite::Result<u64> {
    let statements = [sql::RETRY_DEAD, sql::DELETE_DEAD];
    first_rows(connection, sql::ENDS_OF_DEAD, through, &statements)
}

pub(crate) fn purge_dead(connection: &Connection, through: i64) -> rusqlite::Result<u64> {
    let statements = [
        sql::DELETE_DEAD_PAYLOADS,
        sql::DELETE_DEAD_JOBS,
        sql::DELETE_DEAD,
    ];
    first_rows(connection, sql::ENDS_OF_DEAD, through, &statements)
}

pub(crate) fn purge_results(connection: &Connection, through: i64) -> rusqlite::Result<u64> {
    let statements = [sql::DELETE_RESULT_JOBS, sql::DELETE_RESULTS];
    first_rows(connection, sql::ENDS_OF_RESULTS, through, &statements)
}

/// The last cursor of the dead letters, 0 if there are none.
pub(crate) fn last_dead(connection: &Connection) -> rusqlite::Result<i64> {
    Ok(ends(connection, sql::ENDS_OF_DEAD)?.map_or(0, |(_, last)| last))
}
