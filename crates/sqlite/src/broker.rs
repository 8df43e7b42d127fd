//! The handle of a queue file.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::Timer;
use brigade::broker::{
    Ack, Broker, BrokerError, Capabilities, Delivery, Nack, NewJob, SettleError,
};
use futures_lite::FutureExt;
use rusqlite::Connection;

use crate::inspect::{Counts, Lease, StoredDeadLetter, StoredResult};
use crate::options::Options;
use crate::queue::{self, Next, Receipt};
use crate::shared::{Shared, Transaction};

/// The largest payload and result, in bytes: a little less than what SQLite stores in a row.
const MAX_BYTES: usize = 999_000_000;

/// The first time between two looks of a waiting fetch.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// A queue in an SQLite file. Clones share its connections.
///
/// A handle has two connections, which keep up to 68 MiB of the file in memory. All calls run on threads of the crate `blocking`, at most one for writing and one for reading at a
/// time, and may be polled by any executor.
///
/// Dropping the last clone without [`close`](Broker::close) gives nothing back: jobs may still run
/// whose deliveries it holds. Their leases end by themselves.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use brigade::broker::{Broker, NewJob};
/// use brigade_sqlite::SqliteBroker;
///
/// # futures_lite::future::block_on(async {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("jobs.queue");
/// let broker = SqliteBroker::open(&path).await.unwrap();
/// broker.enqueue(vec![NewJob::new("first", "abc")]).await.unwrap();
///
/// let held = broker.fetch(10, Duration::ZERO).await.unwrap();
/// broker.close().await.unwrap();
///
/// // What was held is back, as if it had not been delivered.
/// let broker = SqliteBroker::open(&path).await.unwrap();
/// let again = broker.fetch(10, Duration::ZERO).await.unwrap();
/// assert_eq!(again[0].delivery_count, Some(1));
/// assert!(broker.ack(&held[0].receipt, None).await.unwrap_err().is_lease_lost());
/// broker.ack(&again[0].receipt, None).await.unwrap();
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct SqliteBroker {
    shared: Arc<Shared>,
}

impl SqliteBroker {
    /// Opens the queue at `path` with the default [`Options`], and makes one if there is no file.
    ///
    /// # Errors
    ///
    /// As [`Options::open`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the file as it was, or an empty queue.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, BrokerError> {
        Options::new().open(path).await
    }

    pub(crate) async fn open_with(path: &Path, options: Options) -> Result<Self, BrokerError> {
        let path = path.to_owned();
        let shared = blocking::unblock(move || Shared::open(&path, options)).await?;
        Ok(Self { shared })
    }

    /// Returns the absolute path of the file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Counts the jobs by their state, at one moment. Takes time in proportion to the jobs that are
    /// not done, some 30 ms for a million.
    ///
    /// # Errors
    ///
    /// [`BrokerError::is_closed`] after [`close`](Broker::close); others if the file cannot be read.
    pub async fn counts(&self) -> Result<Counts, BrokerError> {
        // One snapshot for all of the counts; dropping it ends it.
        let counts = |connection: &Connection, now| {
            queue::counts(&*connection.unchecked_transaction()?, now)
        };
        self.shared.read(counts).await
    }

    /// Returns up to `max` of the jobs that consumers hold, those whose leases end first first.
    ///
    /// # Errors
    ///
    /// As [`counts`](Self::counts).
    pub async fn leases(&self, max: usize) -> Result<Vec<Lease>, BrokerError> {
        self.shared
            .read(move |connection, now| queue::leases(connection, now, max))
            .await
    }

    /// Returns up to `max` results in the order of completion, beginning after `cursor`: 0, or that of
    /// the last result that was read.
    ///
    /// A page ends early after 16 MiB of results; it is empty only if there are no more. No result
    /// is skipped by a reader that goes on from its last cursor, whatever is added meanwhile.
    ///
    /// # Errors
    ///
    /// As [`counts`](Self::counts).
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use brigade::broker::{Broker, NewJob};
    /// # futures_lite::future::block_on(async {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let broker = brigade_sqlite::SqliteBroker::open(directory.path().join("q")).await.unwrap();
    /// # broker.enqueue((0..5).map(|i| NewJob::new(format!("{i}"), "")).collect()).await.unwrap();
    /// # for job in broker.fetch(5, Duration::ZERO).await.unwrap() {
    /// #     broker.ack(&job.receipt, Some(b"done".to_vec())).await.unwrap();
    /// # }
    /// let (mut cursor, mut seen) = (0, 0);
    /// loop {
    ///     let page = broker.results_after(cursor, 2).await.unwrap();
    ///     let Some(last) = page.last() else { break };
    ///     cursor = last.cursor;
    ///     seen += page.len();
    /// }
    /// assert_eq!(seen, 5);
    /// # });
    /// ```
    pub async fn results_after(
        &self,
        cursor: i64,
        max: usize,
    ) -> Result<Vec<StoredResult>, BrokerError> {
        let page = move |connection: &Connection, _| queue::results_after(connection, cursor, max);
        self.shared.read(page).await
    }

    /// Returns up to `max` dead letters in the order of burial, in pages as
    /// [`results_after`](Self::results_after).
    ///
    /// # Errors
    ///
    /// As [`counts`](Self::counts).
    pub async fn dead_letters_after(
        &self,
        cursor: i64,
        max: usize,
    ) -> Result<Vec<StoredDeadLetter>, BrokerError> {
        let page =
            move |connection: &Connection, _| queue::dead_letters_after(connection, cursor, max);
        self.shared.read(page).await
    }

    /// Puts the jobs that are dead letters now back into the queue, and returns their number. They
    /// keep their priorities and their place in the order, and their deliveries are counted from 1.
    ///
    /// # Errors
    ///
    /// As [`enqueue`](Broker::enqueue); some of them may be in the queue, and a further call goes on
    /// with the others.
    ///
    /// # Cancel safety
    ///
    /// As after an error.
    pub async fn retry_dead(&self) -> Result<u64, BrokerError> {
        let through = self
            .shared
            .read(|connection, _| queue::last_dead(connection))
            .await?;
        self.in_chunks(
            move |connection| queue::retry_dead(connection, through),
            true,
        )
        .await
    }

    /// Removes the dead letters up to `through`, the cursor of the last one, and returns their number.
    /// Their ids are forgotten.
    ///
    /// # Errors
    ///
    /// As [`purge_results`](Self::purge_results).
    ///
    /// # Cancel safety
    ///
    /// As after an error.
    pub async fn purge_dead_letters(&self, through: i64) -> Result<u64, BrokerError> {
        self.in_chunks(
            move |connection| queue::purge_dead(connection, through),
            false,
        )
        .await
    }

    /// Removes the results up to `through`, the cursor of the last one, and returns their number.
    ///
    /// The ids of their jobs are forgotten: enqueued again, they run again. The file does not shrink;
    /// its free pages are used again.
    ///
    /// # Errors
    ///
    /// As [`enqueue`](Broker::enqueue); the first of them may be removed, and a further call goes on.
    ///
    /// # Cancel safety
    ///
    /// As after an error.
    pub async fn purge_results(&self, through: i64) -> Result<u64, BrokerError> {
        self.in_chunks(
            move |connection| queue::purge_results(connection, through),
            false,
        )
        .await
    }

    /// Repeats `chunk`, each time in a transaction of its own, until it has nothing to do.
    async fn in_chunks(
        &self,
        chunk: impl Fn(&Connection) -> rusqlite::Result<u64> + Copy + Send + 'static,
        makes_ready: bool,
    ) -> Result<u64, BrokerError> {
        let mut total = 0;
        loop {
            let rows = self
                .shared
                .write(move |transaction| {
                    let rows = chunk(transaction.connection)?;
                    if makes_ready {
                        transaction.arrived += usize::try_from(rows).unwrap_or(usize::MAX);
                    }
                    Ok(rows)
                })
                .await?;
            if rows == 0 {
                return Ok(total);
            }
            total += rows;
        }
    }
}

/// What a settlement has found.
fn settled(held: bool) -> Result<(), SettleError> {
    if held {
        Ok(())
    } else {
        Err(SettleError::LeaseLost)
    }
}

/// One outcome for each of `count` settlements that shared a transaction.
fn each(outcome: Result<Vec<bool>, BrokerError>, count: usize) -> Vec<Result<(), SettleError>> {
    match outcome {
        Ok(held) => held.into_iter().map(settled).collect(),
        Err(error) => (0..count).map(|_| Err(error.clone().into())).collect(),
    }
}

/// Refuses what SQLite cannot store.
fn check_size(what: &str, bytes: usize) -> Result<(), BrokerError> {
    if bytes <= MAX_BYTES {
        return Ok(());
    }
    Err(BrokerError::permanent(format!(
        "{what} has {bytes} bytes, and may have {MAX_BYTES} at most"
    )))
}

impl Broker for SqliteBroker {
    type Receipt = Receipt;

    /// All of them.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            lease: true,
            delay: true,
            priority: true,
            atomic_result: true,
            dedup: true,
            delivery_count: true,
        }
    }

    /// Adds the jobs in one transaction, all or none. Ignores those whose id the queue knows, whether
    /// their job is ready, held, dead or done; a result that was
    /// [purged](SqliteBroker::purge_results) is known no more.
    ///
    /// # Errors
    ///
    /// A [permanent](BrokerError::is_permanent) error, and no job is added, if a payload has more than
    /// 999,000,000 bytes. An error that may end by itself if the file system is full, or if other
    /// processes held the lock for longer than [`Options::busy_timeout`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, either all of the jobs are in the queue or none.
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<(), BrokerError> {
        for job in &jobs {
            check_size(&format!("the payload of job {}", job.id), job.payload.len())?;
        }
        let add = move |transaction: &mut Transaction<'_>| {
            let Transaction {
                connection, now, ..
            } = *transaction;
            transaction.arrived += queue::enqueue(connection, now, &jobs)?;
            Ok(())
        };
        self.shared.write(add).await
    }

    /// Reserves up to `max` jobs in one transaction: greater priority first, then in the order of
    /// their enqueueing, those that were given back included. A job whose delay or lease has ended
    /// takes its place among them; one call finds a thousand of these at most, or `max`.
    ///
    /// Waiting wakes at once for jobs that this handle or a clone of it enqueues or gives back, and
    /// within [`Options::poll_interval`] for those of other processes. The payloads of all `max` jobs
    /// are in memory at once.
    ///
    /// # Errors
    ///
    /// As [`Broker::fetch`].
    ///
    /// # Cancel safety
    ///
    /// What a dropped fetch had reserved is released by a transaction in the background; where that
    /// fails, the leases end.
    async fn fetch(
        &self,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery<Receipt>>, BrokerError> {
        let shared = &self.shared;
        let deadline = Instant::now().checked_add(wait);
        let remaining = || match deadline {
            Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            None => Duration::MAX,
        };
        if max == 0 {
            return Ok(Vec::new());
        }
        loop {
            // Before the claim: a job that arrives after the claim has looked notifies this.
            let mut arrival = shared.arrived.listen();
            let claimed = shared.claim(max).await?;
            if !claimed.is_empty() {
                return Ok(claimed.into_deliveries());
            }
            let mut pause = FIRST_PAUSE.min(shared.poll_interval);
            let mut next = Next::Unknown;
            loop {
                if remaining().is_zero() {
                    return Ok(Vec::new());
                }
                let until_due = match next {
                    Next::At(due) => due.since(shared.now()),
                    Next::Now | Next::Unknown => Duration::MAX,
                };
                let timer = Timer::after(pause.min(remaining()).min(until_due));
                let arrived = async {
                    (&mut arrival).await;
                    Ok(Next::Now)
                };
                // Within the race: a look waits for an inspection that is being made.
                let look = async {
                    timer.await;
                    shared.read(queue::peek).await
                };
                next = arrived.or(look).await?;
                if next == Next::Now {
                    break;
                }
                pause = (pause * 2).min(shared.poll_interval);
            }
        }
    }

    /// Stores the result and takes the job out of the queue, in one transaction. Without a result,
    /// [`StoredResult::payload`] is `None`.
    ///
    /// A delivery whose lease has ended, but whose job was not claimed since, can still be settled:
    /// no other consumer runs it.
    ///
    /// # Errors
    ///
    /// As [`Broker::ack`]; a [permanent](BrokerError::is_permanent) one if the result has more than
    /// 999,000,000 bytes.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the delivery is settled or it is not.
    async fn ack(&self, receipt: &Receipt, result: Option<Vec<u8>>) -> Result<(), SettleError> {
        check_size("the result", result.as_ref().map_or(0, Vec::len))?;
        let receipt = receipt.clone();
        let held = self
            .shared
            .write(move |transaction| {
                queue::ack(transaction.connection, &receipt, result.as_deref())
            })
            .await?;
        settled(held)
    }

    /// Settles the deliveries in one transaction, without those whose results are too large. An error
    /// of the transaction is that of each.
    async fn ack_many(&self, acks: Vec<Ack<Receipt>>) -> Vec<Result<(), SettleError>> {
        let size = |ack: &Ack<Receipt>| ack.result.as_ref().map_or(0, Vec::len);
        let sizes: Vec<_> = acks
            .iter()
            .map(|ack| check_size("a result", size(ack)))
            .collect();
        let mut stored = acks;
        stored.retain(|ack| size(ack) <= MAX_BYTES);
        let count = stored.len();
        let settle = move |transaction: &mut Transaction<'_>| {
            let acks = stored.iter();
            acks.map(|ack| queue::ack(transaction.connection, &ack.receipt, ack.result.as_deref()))
                .collect()
        };
        let mut settled = each(self.shared.write(settle).await, count).into_iter();
        sizes
            .into_iter()
            .map(|size| match size {
                Err(too_large) => Err(SettleError::Broker(too_large)),
                Ok(()) => settled.next().unwrap_or(Err(SettleError::LeaseLost)),
            })
            .collect()
    }

    /// Gives the job back or buries it, in one transaction. The reason of a [`Nack::Retry`] is not
    /// stored.
    ///
    /// # Errors
    ///
    /// As [`Broker::nack`].
    ///
    /// # Cancel safety
    ///
    /// As [`ack`](Self::ack).
    async fn nack(&self, receipt: &Receipt, nack: Nack) -> Result<(), SettleError> {
        let receipt = receipt.clone();
        let held = self
            .shared
            .write(move |transaction| {
                let Transaction {
                    connection, now, ..
                } = *transaction;
                let held = queue::nack(connection, now, &receipt, &nack)?;
                transaction.arrived += usize::from(held);
                Ok(held)
            })
            .await?;
        settled(held)
    }

    async fn extend(&self, receipt: &Receipt, by: Duration) -> Result<(), SettleError> {
        let receipt = receipt.clone();
        let held = self
            .shared
            .write(move |transaction| {
                queue::extend(transaction.connection, transaction.now, &receipt, by)
            })
            .await?;
        settled(held)
    }

    /// Extends all of the leases in one transaction. An error of the transaction is that of each.
    async fn extend_many(
        &self,
        receipts: Vec<Receipt>,
        by: Duration,
    ) -> Vec<Result<(), SettleError>> {
        let count = receipts.len();
        let extend = move |transaction: &mut Transaction<'_>| {
            receipts
                .iter()
                .map(|receipt| queue::extend(transaction.connection, transaction.now, receipt, by))
                .collect()
        };
        each(self.shared.write(extend).await, count)
    }

    /// Refuses further calls of all clones, finishes those that wait, releases the deliveries that
    /// were fetched through them and not settled, and closes the file.
    ///
    /// # Errors
    ///
    /// If the deliveries could not be released. The handle refuses calls all the same; closing again
    /// tries again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the handle refuses further calls; close it again to know that the
    /// deliveries are back.
    async fn close(&self) -> Result<(), BrokerError> {
        self.shared.close().await
    }
}
