//! The format of a queue file: its tables, and every statement that runs on them.
//!
//! A job is one row of `jobs` from its enqueueing until its result is purged, so the `UNIQUE` of its
//! id is all of the deduplication, and its index is written once in the life of a job. Payloads have
//! a table of their own: settling and leasing rewrite rows of some 60 bytes, however large the
//! payloads are. Each state that is searched has a partial index, which holds the jobs of that state
//! only: finding the next job costs the same whether a thousand jobs are done or a million.
//!
//! `sequence` and `cursor` are `AUTOINCREMENT`, so a number is not used a second time after its row
//! was removed: a receipt cannot settle a later job, and a reader's cursor stays valid.

/// `PRAGMA application_id` of a queue file: the letters `BrgQ`.
pub(crate) const APPLICATION_ID: i32 = 0x4272_6751;

/// `PRAGMA user_version`: the version of this format.
pub(crate) const FORMAT: i32 = 1;

/// The tables of a queue file.
pub(crate) const TABLES: [&str; 4] = ["dead", "jobs", "payloads", "results"];

// States of a job. In the statements they are literals: a partial index is used only where the
// planner can prove that the rows are within it, which a parameter does not allow.
//
//   0 ready · 1 leased · 2 delayed · 3 dead · 4 done

/// Creates the tables and indexes.
///
/// - `due`: when a lease ends or a delay is over, in Unix milliseconds.
/// - `leased_at`: when the lease was taken or last extended.
/// - `token`: how many times the job was delivered, releases included: the fencing token.
/// - `deliveries`: the same without the releases.
/// - `lost`: how many of them ended with their lease.
/// - `holder`: the handle that has the lease.
pub(crate) const SCHEMA: &str = "
CREATE TABLE jobs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    state INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    token INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    lost INTEGER NOT NULL,
    due INTEGER,
    leased_at INTEGER,
    holder INTEGER,
    id TEXT NOT NULL UNIQUE
);
CREATE INDEX ready ON jobs (priority DESC) WHERE state = 0;
CREATE INDEX leased ON jobs (due) WHERE state = 1;
CREATE INDEX delayed ON jobs (due) WHERE state = 2;
CREATE TABLE payloads (sequence INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE results (
    cursor INTEGER PRIMARY KEY AUTOINCREMENT,
    sequence INTEGER NOT NULL,
    data BLOB
);
CREATE TABLE dead (
    cursor INTEGER PRIMARY KEY AUTOINCREMENT,
    sequence INTEGER NOT NULL,
    reason TEXT NOT NULL
);
";

/// Adds a job unless its id is known. Parameters: state, priority, due, id.
pub(crate) const INSERT_JOB: &str = "
INSERT INTO jobs (state, priority, token, deliveries, lost, due, id)
VALUES (?1, ?2, 0, 0, 0, ?3, ?4)
ON CONFLICT (id) DO NOTHING";

pub(crate) const INSERT_PAYLOAD: &str = "INSERT INTO payloads (sequence, data) VALUES (?1, ?2)";

// The statements of a claim first select, then update row by row: `UPDATE … WHERE sequence IN (SELECT
// …) RETURNING …` makes two temporary tables each time, which cost more than claiming ten jobs.

/// Selects up to ?2 jobs whose lease has ended by ?1.
pub(crate) const ENDED_LEASES: &str = "
SELECT sequence FROM jobs WHERE state = 1 AND due <= ?1 ORDER BY due LIMIT ?2";

/// Selects up to ?2 jobs whose delay is over by ?1.
pub(crate) const ENDED_DELAYS: &str = "
SELECT sequence FROM jobs WHERE state = 2 AND due <= ?1 ORDER BY due LIMIT ?2";

/// Makes a job ready whose lease or delay has ended.
pub(crate) const MAKE_READY: &str = "
UPDATE jobs
SET state = 0, lost = lost + (state = 1), due = NULL, leased_at = NULL, holder = NULL
WHERE sequence = ?1";

/// Selects the next ?1 ready jobs.
pub(crate) const NEXT_JOBS: &str = "
SELECT sequence, token, deliveries, lost, id FROM jobs
WHERE state = 0 ORDER BY priority DESC, sequence LIMIT ?1";

/// Leases the job ?1, from ?2 until ?3, to the holder ?4.
pub(crate) const LEASE: &str = "
UPDATE jobs
SET state = 1, token = token + 1, deliveries = deliveries + 1,
    leased_at = ?2, due = ?3, holder = ?4
WHERE sequence = ?1";

pub(crate) const PAYLOAD: &str = "SELECT data FROM payloads WHERE sequence = ?1";

/// Whether a job is ready at ?1, and when the next lease or delay ends otherwise.
pub(crate) const PEEK: &str = "
SELECT EXISTS (SELECT 1 FROM jobs WHERE state = 0),
    (SELECT due FROM jobs WHERE state = 1 ORDER BY due LIMIT 1),
    (SELECT due FROM jobs WHERE state = 2 ORDER BY due LIMIT 1)";

// The statements that settle: ?1 is the sequence and ?2 the token of the receipt. They change one
// row if the delivery is held, and none if it is over.

pub(crate) const ACK: &str = "
UPDATE jobs SET state = 4, due = NULL, leased_at = NULL, holder = NULL
WHERE sequence = ?1 AND token = ?2 AND state = 1";

pub(crate) const INSERT_RESULT: &str = "INSERT INTO results (sequence, data) VALUES (?1, ?2)";

pub(crate) const DELETE_PAYLOAD: &str = "DELETE FROM payloads WHERE sequence = ?1";

/// ?3 is the new state, ready or delayed, and ?4 the end of the delay.
pub(crate) const RETRY: &str = "
UPDATE jobs SET state = ?3, due = ?4, leased_at = NULL, holder = NULL
WHERE sequence = ?1 AND token = ?2 AND state = 1";

pub(crate) const RELEASE: &str = "
UPDATE jobs
SET state = 0, deliveries = deliveries - 1, due = NULL, leased_at = NULL, holder = NULL
WHERE sequence = ?1 AND token = ?2 AND state = 1";

pub(crate) const BURY: &str = "
UPDATE jobs SET state = 3, due = NULL, leased_at = NULL, holder = NULL
WHERE sequence = ?1 AND token = ?2 AND state = 1";

pub(crate) const INSERT_DEAD: &str = "INSERT INTO dead (sequence, reason) VALUES (?1, ?2)";

/// ?3 is the time of the extension, ?4 the end of the lease.
pub(crate) const EXTEND: &str = "
UPDATE jobs SET leased_at = ?3, due = ?4 WHERE sequence = ?1 AND token = ?2 AND state = 1";

/// Releases what the holder ?1 has at ?2. A lease that has ended stays as it is: it was a delivery.
pub(crate) const RELEASE_HELD: &str = "
UPDATE jobs
SET state = 0, deliveries = deliveries - 1, due = NULL, leased_at = NULL, holder = NULL
WHERE state = 1 AND due > ?2 AND holder = ?1";

/// Whether a lease was taken after ?1, which is later than now.
pub(crate) const FIND_LEASE_TO_REBASE: &str = "
SELECT EXISTS (SELECT 1 FROM jobs INDEXED BY leased WHERE state = 1 AND leased_at > ?1)";

/// Gives leases that were taken after ?2 their length again, counted from ?1: the clock was set back.
pub(crate) const REBASE_LEASES: &str = "
UPDATE jobs INDEXED BY leased SET due = ?1 + (due - leased_at), leased_at = ?1
WHERE state = 1 AND leased_at > ?2";

pub(crate) const BEGIN: &str = "BEGIN IMMEDIATE";

pub(crate) const COMMIT: &str = "COMMIT";

pub(crate) const ROLLBACK: &str = "ROLLBACK";

// Inspection.

pub(crate) const COUNT_READY: &str = "SELECT count(*) FROM jobs INDEXED BY ready WHERE state = 0";

pub(crate) const COUNT_LEASED: &str =
    "SELECT count(*), coalesce(sum(due <= ?1), 0) FROM jobs INDEXED BY leased WHERE state = 1";

pub(crate) const COUNT_DELAYED: &str =
    "SELECT count(*), coalesce(sum(due <= ?1), 0) FROM jobs INDEXED BY delayed WHERE state = 2";

/// The first and the last cursor. Rows leave from the front only, and a transaction that is rolled
/// back uses no cursor, so the difference is the count.
pub(crate) const ENDS_OF_RESULTS: &str =
    "SELECT (SELECT min(cursor) FROM results), (SELECT max(cursor) FROM results)";

pub(crate) const ENDS_OF_DEAD: &str =
    "SELECT (SELECT min(cursor) FROM dead), (SELECT max(cursor) FROM dead)";

pub(crate) const LEASES: &str = "
SELECT id, due, deliveries FROM jobs WHERE state = 1 AND due > ?1 ORDER BY due LIMIT ?2";

pub(crate) const RESULTS_AFTER: &str = "
SELECT results.cursor, jobs.id, results.data
FROM results CROSS JOIN jobs ON jobs.sequence = results.sequence
WHERE results.cursor > ?1 ORDER BY results.cursor LIMIT ?2";

pub(crate) const DEAD_AFTER: &str = "
SELECT dead.cursor, jobs.id, payloads.data, dead.reason
FROM dead CROSS JOIN jobs ON jobs.sequence = dead.sequence
CROSS JOIN payloads ON payloads.sequence = dead.sequence
WHERE dead.cursor > ?1 ORDER BY dead.cursor LIMIT ?2";

// Retrying and removing, of all rows up to the cursor ?1.

pub(crate) const RETRY_DEAD: &str = "
UPDATE jobs SET state = 0, deliveries = 0, lost = 0
WHERE sequence IN (SELECT sequence FROM dead WHERE cursor <= ?1)";

pub(crate) const DELETE_DEAD: &str = "DELETE FROM dead WHERE cursor <= ?1";

pub(crate) const DELETE_DEAD_JOBS: &str =
    "DELETE FROM jobs WHERE sequence IN (SELECT sequence FROM dead WHERE cursor <= ?1)";

pub(crate) const DELETE_DEAD_PAYLOADS: &str =
    "DELETE FROM payloads WHERE sequence IN (SELECT sequence FROM dead WHERE cursor <= ?1)";

pub(crate) const DELETE_RESULTS: &str = "DELETE FROM results WHERE cursor <= ?1";

pub(crate) const DELETE_RESULT_JOBS: &str =
    "DELETE FROM jobs WHERE sequence IN (SELECT sequence FROM results WHERE cursor <= ?1)";

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// The statements, and whether they count: those read the whole of one partial index.
    const STATEMENTS: [(&str, bool); 35] = [
        (INSERT_JOB, false),
        (INSERT_PAYLOAD, false),
        (ENDED_LEASES, false),
        (ENDED_DELAYS, false),
        (MAKE_READY, false),
        (NEXT_JOBS, false),
        (LEASE, false),
        (PAYLOAD, false),
        (PEEK, false),
        (ACK, false),
        (INSERT_RESULT, false),
        (DELETE_PAYLOAD, false),
        (RETRY, false),
        (RELEASE, false),
        (BURY, false),
        (INSERT_DEAD, false),
        (EXTEND, false),
        (RELEASE_HELD, false),
        (FIND_LEASE_TO_REBASE, true),
        (REBASE_LEASES, true),
        (COUNT_READY, true),
        (COUNT_LEASED, true),
        (COUNT_DELAYED, true),
        (ENDS_OF_RESULTS, false),
        (ENDS_OF_DEAD, false),
        (LEASES, false),
        (RESULTS_AFTER, false),
        (DEAD_AFTER, false),
        (RETRY_DEAD, false),
        (DELETE_DEAD, false),
        (DELETE_DEAD_JOBS, false),
        (DELETE_DEAD_PAYLOADS, false),
        (DELETE_RESULTS, false),
        (DELETE_RESULT_JOBS, false),
        ("SELECT name FROM sqlite_schema WHERE type = 'table'", true),
    ];

    fn plan(connection: &Connection, statement: &str) -> Vec<String> {
        connection
            .prepare(&format!("EXPLAIN QUERY PLAN {statement}"))
            .unwrap_or_else(|error| panic!("{statement}: {error}"))
            .raw_query()
            .mapped(|row| row.get(3))
            .collect::<Result<_, _>>()
            .unwrap()
    }

    #[test]
    fn no_statement_scans_a_table_or_sorts() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        for (statement, counts) in STATEMENTS {
            for step in plan(&connection, statement) {
                let scans = step.starts_with("SCAN")
                    && !step.contains("CONSTANT ROW")
                    // The head of a partial index, in its order.
                    && !step.contains("USING INDEX ready")
                    && !step.contains("USING COVERING INDEX")
                    && !counts;
                assert!(!scans, "{statement}\n{step}");
                assert!(!step.contains("TEMP B-TREE"), "{statement}\n{step}");
            }
        }
    }

    #[test]
    fn the_next_job_is_found_in_the_index_of_its_state() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        for (statement, index) in [
            (NEXT_JOBS, "INDEX ready"),
            (ENDED_LEASES, "INDEX leased"),
            (ENDED_DELAYS, "INDEX delayed"),
            (RELEASE_HELD, "INDEX leased"),
            (FIND_LEASE_TO_REBASE, "INDEX leased"),
            (REBASE_LEASES, "INDEX leased"),
            (LEASES, "INDEX leased"),
        ] {
            let plan = plan(&connection, statement);
            assert!(
                plan.iter().any(|step| step.contains(index)),
                "{statement}\n{plan:#?}"
            );
        }
    }
}
