//! The one way to the file: operations of all clones of a handle wait in a queue, and one thread at a
//! time runs them in groups, each a transaction.
//!
//! 1. [`Shared::submit`] pushes an operation and, if no thread runs them, starts one.
//! 2. [`Shared::drain`] takes what has gathered, up to [`GROUP`] operations, and runs them between
//!    `BEGIN IMMEDIATE` and `COMMIT`. Operations that arrive meanwhile form the next group: the more
//!    callers there are at once, the fewer syncs of the disk each of them waits for.
//! 3. After the commit it sends the answers. If the transaction fails, each operation of the group
//!    runs again in a transaction of its own, so that one that cannot succeed fails alone.
//!
//! An operation whose future was dropped before its group began does not run.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender, TrySendError};
use brigade::broker::{BrokerError, Delivery};
use event_listener::{Event, IntoNotification};
use rusqlite::Connection;

use crate::error::{fault, is_busy};
use crate::file::{self, Connections};
use crate::options::{Clock, Options};
use crate::queue::{self, Millis, Receipt};
use crate::sql;

/// Operations of one transaction at most.
const GROUP: usize = 128;

/// What the clones of a handle share.
pub(crate) struct Shared {
    pub(crate) path: PathBuf,
    pub(crate) lease: Duration,
    pub(crate) poll_interval: Duration,
    busy_timeout: Duration,
    clock: Clock,
    /// Marks the leases of this handle in the file.
    holder: i64,
    pending: Mutex<Pending>,
    /// Locked by the thread that drains, and by the one that closes. Before `reader`.
    writer: Mutex<Writer>,
    reader: Mutex<Option<Connection>>,
    /// Notified once for each job that was enqueued or given back, and of the closing.
    pub(crate) arrived: Event,
}

/// Operations that wait for their transaction. There is at most one for each future that waits for
/// it, one for each dropped fetch, and those of dropped futures until the next group.
#[derive(Default)]
struct Pending {
    operations: VecDeque<Box<dyn Operation>>,
    /// Whether a thread drains, or is about to.
    draining: bool,
    /// No operation is accepted but the one that closes.
    closed: bool,
}

struct Writer {
    connection: Option<Connection>,
    /// The monotonic and the system clock at the last transaction.
    clocks: Option<(Instant, Millis)>,
}

/// What a running operation has: a transaction, its time, and whom to wake after it.
pub(crate) struct Transaction<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) now: Millis,
    /// Fetches to wake if the transaction commits.
    pub(crate) arrived: usize,
}

trait Operation: Send {
    /// Whether no call waits for the answer, so that it need not run.
    fn is_abandoned(&self) -> bool;
    /// Runs it, and keeps the outcome. It may run again, if the transaction was rolled back.
    fn run(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<()>;
    /// Sends the outcome after the commit, or the error.
    fn answer(self: Box<Self>, outcome: Result<(), BrokerError>);
}

impl Shared {
    pub(crate) fn open(path: &Path, options: Options) -> Result<Arc<Self>, BrokerError> {
        let path = file::absolute(path)?;
        let Connections { writer, reader } = file::open(&path, &options)?;
        let shared = Self {
            lease: options.lease,
            poll_interval: options.poll_interval,
            busy_timeout: options.busy_timeout,
            clock: options.clock,
            // Random, of 47 bits, which SQLite stores in six bytes. Two handles with the same one
            // would release each other's leases when they close, and nothing else.
            holder: i64::try_from(RandomState::new().hash_one(0) >> 17)
                .expect("47 bits are within 63"),
            pending: Mutex::default(),
            writer: Mutex::new(Writer {
                connection: Some(writer),
                clocks: None,
            }),
            reader: Mutex::new(Some(reader)),
            arrived: Event::new(),
            path,
        };
        shared
            .rebase_leases()
            .map_err(|failure| shared.error_of(&failure))?;
        Ok(Arc::new(shared))
    }

    /// Gives leases of the time before the clock was set back their length again, if it was while no
    /// handle was open. Takes the lock for writing only where there are such leases.
    fn rebase_leases(&self) -> Result<(), Failure> {
        let now = self.now();
        let is_needed = match lock(&self.reader).as_ref() {
            Some(reader) => queue::has_leases_to_rebase(reader, now).map_err(Failure::Before)?,
            None => false,
        };
        if !is_needed {
            return Ok(());
        }
        self.transact(&mut lock(&self.writer), &mut |transaction| {
            queue::rebase_leases(transaction.connection, transaction.now).map(|_| ())
        })
    }

    /// Runs `call` in a transaction and returns its value after the commit.
    pub(crate) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl FnMut(&mut Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let (sender, receiver) = async_channel::bounded(1);
        self.submit(Box::new(Call {
            call,
            value: None,
            sender,
        }))?;
        self.answer_of(&receiver).await
    }

    /// Leases up to `max` jobs. If the future is dropped, those that it would have returned are
    /// released.
    pub(crate) async fn claim(self: &Arc<Self>, max: usize) -> Result<Claimed, BrokerError> {
        let (sender, receiver) = async_channel::bounded(1);
        let deliveries = Vec::new();
        self.submit(Box::new(Claim {
            shared: Arc::clone(self),
            max,
            deliveries,
            sender,
        }))?;
        self.answer_of(&receiver).await
    }

    /// Runs `call` on the connection that only reads.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl FnOnce(&Connection, Millis) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BrokerError> {
        if lock(&self.pending).closed {
            return Err(BrokerError::closed());
        }
        let shared = Arc::clone(self);
        blocking::unblock(move || {
            let reader = lock(&shared.reader);
            let connection = reader.as_ref().ok_or(BrokerError::closed())?;
            call(connection, shared.now()).map_err(|error| fault(&shared.path, &error))
        })
        .await
    }

    /// Refuses further operations, runs those that wait, releases what this handle holds, and closes
    /// the connections.
    pub(crate) async fn close(self: &Arc<Self>) -> Result<(), BrokerError> {
        let holder = self.holder;
        let (sender, receiver) = async_channel::bounded(1);
        let release = move |transaction: &mut Transaction<'_>| {
            queue::release_held(transaction.connection, transaction.now, holder)
        };
        {
            let mut pending = lock(&self.pending);
            pending.closed = true;
            self.push(
                pending,
                Box::new(Call {
                    call: release,
                    value: None,
                    sender,
                }),
            );
        }
        self.arrived.notify(usize::MAX);
        match self.answer_of(&receiver).await {
            // It was closed before.
            Err(error) if error.is_closed() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                let shared = Arc::clone(self);
                blocking::unblock(move || {
                    let writer = lock(&shared.writer).connection.take();
                    let reader = lock(&shared.reader).take();
                    // The last connection of all processes copies the log into the file.
                    drop((reader, writer));
                })
                .await;
                Ok(())
            }
        }
    }

    pub(crate) fn now(&self) -> Millis {
        Millis::of((self.clock)())
    }

    async fn answer_of<T>(
        &self,
        receiver: &Receiver<Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        receiver.recv().await.unwrap_or_else(|_| {
            Err(BrokerError::unavailable(format!(
                "the thread that writes the queue {} has panicked",
                self.path.display()
            )))
        })
    }

    fn submit(self: &Arc<Self>, operation: Box<dyn Operation>) -> Result<(), BrokerError> {
        let pending = lock(&self.pending);
        if pending.closed {
            return Err(BrokerError::closed());
        }
        self.push(pending, operation);
        Ok(())
    }

    fn push(self: &Arc<Self>, mut pending: MutexGuard<'_, Pending>, operation: Box<dyn Operation>) {
        pending.operations.push_back(operation);
        if !mem::replace(&mut pending.draining, true) {
            drop(pending);
            let shared = Arc::clone(self);
            blocking::unblock(move || shared.drain()).detach();
        }
    }

    /// Runs operations until there are none.
    fn drain(self: &Arc<Self>) {
        let draining = Draining { shared: self };
        let mut writer = lock(&self.writer);
        while let Some(group) = self.next_group() {
            self.run_group(&mut writer, group);
        }
        drop(writer);
        mem::forget(draining);
    }

    /// Takes the next operations, or ends the draining.
    fn next_group(&self) -> Option<Vec<Box<dyn Operation>>> {
        loop {
            let taken: Vec<_> = {
                let mut pending = lock(&self.pending);
                if pending.operations.is_empty() {
                    // Under the lock that `push` holds: an operation is seen here, or starts a
                    // thread of its own.
                    pending.draining = false;
                    return None;
                }
                let count = pending.operations.len().min(GROUP);
                pending.operations.drain(..count).collect()
            };
            let group: Vec<_> = taken
                .into_iter()
                .filter(|operation| !operation.is_abandoned())
                .collect();
            if !group.is_empty() {
                return Some(group);
            }
        }
    }

    fn run_group(&self, writer: &mut Writer, mut group: Vec<Box<dyn Operation>>) {
        let outcome = self.transact(writer, &mut |transaction| {
            group
                .iter_mut()
                .try_for_each(|operation| operation.run(transaction))
        });
        match outcome {
            Ok(()) => group
                .into_iter()
                .for_each(|operation| operation.answer(Ok(()))),
            // A transaction that could not begin would not begin for one of them either.
            Err(Failure::Within(_)) if group.len() > 1 => {
                for mut operation in group {
                    let outcome =
                        self.transact(writer, &mut |transaction| operation.run(transaction));
                    operation.answer(outcome.map_err(|failure| self.error_of(&failure)));
                }
            }
            Err(failure) => {
                for operation in group {
                    operation.answer(Err(self.error_of(&failure)));
                }
            }
        }
    }

    /// Runs `work` in a transaction.
    fn transact(
        &self,
        writer: &mut Writer,
        work: &mut dyn FnMut(&mut Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), Failure> {
        let Writer { connection, clocks } = writer;
        let connection = connection.as_ref().ok_or(Failure::Closed)?;
        // A panic within the last one has left it open.
        if !connection.is_autocommit() {
            execute(connection, sql::ROLLBACK).map_err(Failure::Before)?;
        }
        self.begin(connection).map_err(Failure::Before)?;
        // Read under the lock of the file: times in it do not run ahead of those of the others.
        let now = self.now();
        let monotonic = Instant::now();
        let was_set_back = clocks.is_some_and(|(then, time)| {
            now.0.saturating_add(queue::STEP) < time.after(monotonic - then).0
        });

        let mut transaction = Transaction {
            connection,
            now,
            arrived: 0,
        };
        let outcome = if was_set_back {
            queue::rebase_leases(connection, now).map(|_| ())
        } else {
            Ok(())
        }
        .and_then(|()| work(&mut transaction))
        .and_then(|()| execute(connection, sql::COMMIT));

        match outcome {
            Ok(()) => {
                // Not before: the next one would not know that the clock was set back.
                *clocks = Some((monotonic, now));
                if transaction.arrived > 0 {
                    self.arrived.notify(transaction.arrived.additional());
                }
                Ok(())
            }
            Err(error) => {
                // SQLite has rolled back by itself after some errors, such as a full disk.
                if !connection.is_autocommit() {
                    drop(execute(connection, sql::ROLLBACK));
                }
                Err(Failure::Within(error))
            }
        }
    }

    /// Takes the lock for writing. SQLite would wait for it in steps of up to 100 ms, and so would
    /// seldom get it from a process that releases it for microseconds only.
    fn begin(&self, connection: &Connection) -> rusqlite::Result<()> {
        let deadline = Instant::now().checked_add(self.busy_timeout);
        let mut pause = Duration::from_micros(50);
        loop {
            match execute(connection, sql::BEGIN) {
                Err(error)
                    if is_busy(&error)
                        && deadline.is_none_or(|deadline| Instant::now() < deadline) =>
                {
                    thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(1));
                }
                outcome => return outcome,
            }
        }
    }

    fn error_of(&self, failure: &Failure) -> BrokerError {
        match failure {
            Failure::Closed => BrokerError::closed(),
            Failure::Before(error) | Failure::Within(error) => fault(&self.path, error),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let writer = get_mut(&mut self.writer).connection.take();
        let reader = get_mut(&mut self.reader).take();
        if writer.is_some() {
            // Closing the last connection of a file copies its log, which blocks. If the process ends
            // before that, the next one to open the file finds the log.
            blocking::unblock(move || drop((reader, writer))).detach();
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteBroker")
            .field("path", &self.path)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// Why a transaction has not happened.
enum Failure {
    Closed,
    /// The lock was not to be had.
    Before(rusqlite::Error),
    /// It was rolled back.
    Within(rusqlite::Error),
}

/// Ends the draining if it panics: operations that wait are answered by the drop of their senders,
/// and the next one starts a thread again.
struct Draining<'a> {
    shared: &'a Shared,
}

impl Drop for Draining<'_> {
    fn drop(&mut self) {
        let abandoned = {
            let mut pending = lock(&self.shared.pending);
            pending.draining = false;
            mem::take(&mut pending.operations)
        };
        drop(abandoned);
    }
}

/// An operation with an answer.
struct Call<T, F> {
    call: F,
    value: Option<T>,
    sender: Sender<Result<T, BrokerError>>,
}

impl<T, F> Operation for Call<T, F>
where
    T: Send,
    F: FnMut(&mut Transaction<'_>) -> rusqlite::Result<T> + Send,
{
    fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
    }

    fn run(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<()> {
        self.value = Some((self.call)(transaction)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), BrokerError>) {
        let Self { value, sender, .. } = *self;
        let answer = outcome.map(|()| value.expect("it has run, and the outcome is Ok"));
        // The channel holds one answer and gets one, so this fails only if the call was dropped.
        drop(sender.try_send(answer));
    }
}

/// The operation of a fetch.
struct Claim {
    shared: Arc<Shared>,
    max: usize,
    deliveries: Vec<Delivery<Receipt>>,
    sender: Sender<Result<Claimed, BrokerError>>,
}

impl Operation for Claim {
    fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
    }

    fn run(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<()> {
        let Transaction {
            connection, now, ..
        } = *transaction;
        let Self { shared, max, .. } = self;
        self.deliveries = queue::claim(connection, now, *max, shared.lease, shared.holder)?;
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), BrokerError>) {
        let Self {
            shared,
            deliveries,
            sender,
            ..
        } = *self;
        // From here on the leases are in the file, and so is the duty to give them back.
        let answer = outcome.map(|()| Claimed { shared, deliveries });
        match sender.try_send(answer) {
            Ok(()) => {}
            Err(TrySendError::Closed(answer) | TrySendError::Full(answer)) => drop(answer),
        }
    }
}

/// Deliveries on their way to a fetch. Dropping them, in the channel or before, releases them.
pub(crate) struct Claimed {
    shared: Arc<Shared>,
    deliveries: Vec<Delivery<Receipt>>,
}

impl Claimed {
    pub(crate) fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    pub(crate) fn into_deliveries(mut self) -> Vec<Delivery<Receipt>> {
        mem::take(&mut self.deliveries)
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if self.deliveries.is_empty() {
            return;
        }
        let receipts: Vec<_> = self
            .deliveries
            .drain(..)
            .map(|delivery| delivery.receipt)
            .collect();
        // Fails if the handle was closed, which has released them.
        drop(self.shared.submit(Box::new(Undo { receipts })));
    }
}

/// The operation that releases what a dropped fetch had claimed. If it fails, the leases end.
struct Undo {
    receipts: Vec<Receipt>,
}

impl Operation for Undo {
    fn is_abandoned(&self) -> bool {
        false
    }

    fn run(&mut self, transaction: &mut Transaction<'_>) -> rusqlite::Result<()> {
        for receipt in &self.receipts {
            transaction.arrived += usize::from(queue::release(transaction.connection, receipt)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, _: Result<(), BrokerError>) {}
}

/// Runs a statement without parameters and rows.
fn execute(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached(statement)?
        .execute(())
        .map(|_| ())
}

/// Locks, after a panic too: each of the locked values is whole between two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], without locking.
fn get_mut<T>(mutex: &mut Mutex<T>) -> &mut T {
    mutex.get_mut().unwrap_or_else(PoisonError::into_inner)
}
