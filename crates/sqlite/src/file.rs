//! Opening a queue file: a path goes in, two connections to a queue of this format come out. A file
//! that is not such a queue is not changed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use brigade::broker::BrokerError;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::error::{fault, is_busy};
use crate::options::{Durability, Options};
use crate::sql;

/// Pages of the write-ahead log after which a commit copies them into the file: 16 MiB.
const CHECKPOINT_PAGES: i64 = 4096;

/// Bytes that the log keeps on the disk after it was copied.
const LOG_BYTES: i64 = 64 << 20;

/// KiB of pages that a connection keeps in memory at most. The one that writes goes through the index of
/// all ids, which has some 35 MiB for a million of them.
const WRITER_CACHE_KIB: i64 = 64 << 10;
const READER_CACHE_KIB: i64 = 4 << 10;

/// The two connections of a handle. SQLite has one writer at a time and readers beside it, so that an
/// inspection does not hold up the jobs.
pub(crate) struct Connections {
    pub(crate) writer: Connection,
    pub(crate) reader: Connection,
}

/// Makes `path` absolute, so that it means the same file after a change of directory, and is never
/// one of the names that SQLite treats in its own way (`:memory:` and the empty one).
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, BrokerError> {
    std::path::absolute(path).map_err(|error| {
        BrokerError::permanent(format!("{:?} is no path of a queue: {error}", path))
    })
}

/// Opens the queue at `path`, which is absolute. Makes one where there is nothing, if the options
/// allow it.
pub(crate) fn open(path: &Path, options: &Options) -> Result<Connections, BrokerError> {
    check_path(path, options.create)?;
    let fail = |error: rusqlite::Error| fault(path, &error);

    let mut writer = connect(path, options).map_err(fail)?;
    identify_or_create(path, &mut writer, options.create)?;
    use_log(path, &writer, options.busy_timeout)?;
    let synchronous = match options.durability {
        Durability::Normal => "NORMAL",
        Durability::Full => "FULL",
    };
    configure(&writer, synchronous, WRITER_CACHE_KIB, options).map_err(fail)?;
    // `Shared` waits for the lock itself, in shorter steps than SQLite does.
    writer.busy_timeout(Duration::ZERO).map_err(fail)?;

    let reader = connect(path, options).map_err(fail)?;
    configure(&reader, synchronous, READER_CACHE_KIB, options).map_err(fail)?;
    reader
        .pragma_update(None, "query_only", true)
        .map_err(fail)?;
    Ok(Connections { writer, reader })
}

/// Refuses what SQLite would report as "unable to open database file".
fn check_path(path: &Path, create: bool) -> Result<(), BrokerError> {
    let file = path.display();
    // The metadata only: opening and closing the file here would end the locks that other
    // connections of this process have on it.
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(BrokerError::permanent(format!(
            "{file} is a directory, not a queue file"
        ))),
        Ok(found) if !found.is_file() => Err(BrokerError::permanent(format!(
            "{file} is not a regular file"
        ))),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !create {
                return Err(BrokerError::permanent(format!(
                    "there is no queue file {file}"
                )));
            }
            match path.parent() {
                Some(parent) if !parent.is_dir() => Err(BrokerError::permanent(format!(
                    "the directory {} of the queue file {file} does not exist",
                    parent.display()
                ))),
                _ => Ok(()),
            }
        }
        Err(error) => Err(BrokerError::permanent(format!(
            "the queue file {file} cannot be opened: {error}"
        ))),
    }
}

fn connect(path: &Path, options: &Options) -> rusqlite::Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if options.create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(options.busy_timeout)?;
    Ok(connection)
}

/// What a file holds.
enum Content {
    /// Nothing: it was made by opening it, or is empty.
    Nothing,
    /// A queue of this format.
    Queue,
    /// Something else, with the reason to refuse it.
    Other(String),
}

fn identify(connection: &Connection) -> rusqlite::Result<Content> {
    let application: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let format: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let mut names: Vec<String> = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?
        .query_map((), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    names.retain(|name| !name.starts_with("sqlite_"));
    names.sort();

    Ok(if application == sql::APPLICATION_ID {
        if format > sql::FORMAT {
            Content::Other(format!(
                "was written by a newer version of brigade-sqlite: its format is {format}, and this \
                 version knows {}",
                sql::FORMAT
            ))
        } else if format < sql::FORMAT {
            Content::Other(format!(
                "has the format {format}, which never was one of a queue"
            ))
        } else if names == sql::TABLES {
            Content::Queue
        } else {
            Content::Other(format!(
                "has other tables than a queue: {}",
                names.join(", ")
            ))
        }
    } else if application == 0 && format == 0 && names.is_empty() {
        Content::Nothing
    } else {
        Content::Other("is an SQLite file of another program, not a queue".to_owned())
    })
}

fn identify_or_create(
    path: &Path,
    connection: &mut Connection,
    create: bool,
) -> Result<(), BrokerError> {
    let fail = |error: rusqlite::Error| fault(path, &error);
    let refuse = |why: String| BrokerError::permanent(format!("{} {why}", path.display()));

    // First without the lock for writing, which would change nothing either, but wait. In one snapshot:
    // another process may be making the queue, and half of it would look like another program's.
    let content = connection
        .unchecked_transaction()
        .and_then(|snapshot| identify(&snapshot))
        .map_err(fail)?;
    match content {
        Content::Queue => return Ok(()),
        Content::Other(why) => return Err(refuse(why)),
        Content::Nothing if !create => return Err(refuse("holds no queue".to_owned())),
        Content::Nothing => {}
    }
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(fail)?;
    // Another process may have made the queue in between.
    match identify(&transaction).map_err(fail)? {
        Content::Queue => return Ok(()),
        Content::Other(why) => return Err(refuse(why)),
        Content::Nothing => {}
    }
    transaction
        .execute_batch(sql::SCHEMA)
        .and_then(|()| transaction.pragma_update(None, "application_id", sql::APPLICATION_ID))
        .and_then(|()| transaction.pragma_update(None, "user_version", sql::FORMAT))
        .and_then(|()| transaction.commit())
        .map_err(fail)
}

/// Switches the file to a write-ahead log, if that has not happened yet.
fn use_log(path: &Path, connection: &Connection, timeout: Duration) -> Result<(), BrokerError> {
    let deadline = Instant::now().checked_add(timeout);
    loop {
        let mode = connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match mode {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(BrokerError::permanent(format!(
                    "the file system of the queue {} has no shared memory, so SQLite cannot use a \
                     write-ahead log there (journal mode {mode})",
                    path.display()
                )));
            }
            // The switch needs the file for itself, and SQLite does not wait for that in all cases.
            Err(error)
                if is_busy(&error) && deadline.is_none_or(|deadline| Instant::now() < deadline) =>
            {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(fault(path, &error)),
        }
    }
}

fn configure(
    connection: &Connection,
    synchronous: &str,
    cache_kib: i64,
    options: &Options,
) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    // A file from elsewhere must not run code of its own.
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.set_prepared_statement_cache_capacity(64);
    if let Some(pages) = options.max_pages {
        connection.pragma_update(None, "max_page_count", pages)?;
    }
    Ok(())
}
