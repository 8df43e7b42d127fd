//! Runs one async job for each row of a CSV file, ten at a time, and collects what they return.
//!
//! ```text
//! cargo run --release --example csv_pool                # the 250 rows of examples/data/dummy.csv
//! cargo run --release --example csv_pool -- mine.csv    # a file of yours with a column "1"
//! ```
//!
//! What to replace: [`COLUMN`] by the name of your column, and the body of [`job`] by your work.
//! To fetch a URL or run a command for each row, there is the tool in `crates/cli`.
//!
//! Exit code: 0 if every row was done, 1 if rows were bad or jobs failed, 2 if the file cannot be
//! used or stdout cannot be written.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::{cell::Cell, env, error::Error, ffi::OsString, process::ExitCode, time::Duration};

use brigade::Pool;
use brigade::csv::{Column, Reader, Row, RowError};

const COLUMN: &str = "1";
const DUMMY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/dummy.csv");

/// What is done with one row.
async fn job(row: Row, column: Column) -> Result<String, String> {
    let path = row.field(column);
    if path.is_empty() {
        return Err("the path is empty".to_owned());
    }
    smol::Timer::after(Duration::from_millis(1)).await;
    Ok(path.to_owned())
}

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let file = arguments.next().unwrap_or_else(|| DUMMY.into());
    let end = match arguments.next() {
        Some(_) => Err("usage: csv_pool [FILE]".into()),
        None => smol::block_on(run(file)),
    };
    end.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::from(2)
    })
}

async fn run(file: OsString) -> Result<ExitCode, Box<dyn Error>> {
    let rows = Reader::new().open(file)?;
    let column = rows.column(COLUMN)?;

    // A bad row is reported with its file and line, and becomes no job.
    let bad = Cell::new(0);
    let rows = rows.filter_map(|row| match row {
        Err(RowError::Bad(row)) => {
            eprintln!("{row}");
            bad.set(bad.get() + 1);
            None
        }
        row => Some(row),
    });

    // The pool reads rows as it needs them, so a file of any size will do.
    let pool = Pool::builder()
        .workers(10)
        .start(move |row| job(row, column));
    let mut completions = pool.try_map(rows).keep_inputs();

    let (mut results, mut failures, mut is_complete) = (Vec::new(), Vec::new(), true);
    while let Some(item) = completions.next().await {
        match item {
            Ok(done) => {
                let row = done.input.expect("the map keeps its inputs");
                match done.result {
                    Ok(path) => {
                        writeln!(io::stdout(), "Done {path}")?;
                        results.push(path);
                    }
                    Err(error) => failures.push((row, error)),
                }
            }
            // The file cannot be read to its end. This comes after all rows before it are done.
            Err(error) => {
                eprintln!("{error}");
                is_complete = false;
            }
        }
    }

    writeln!(io::stdout(), "{results:?}")?;
    for (row, error) in &failures {
        let (file, line, number) = (row.header().file(), row.line(), row.record_number());
        eprintln!("{file}:{line}: row {number}: {error}");
    }
    let (bad, ok, failed) = (bad.get(), results.len(), failures.len());
    let rows = bad + ok + failed;
    eprintln!("rows={rows} bad={bad} ok={ok} failed={failed}");
    let code = if is_complete { u8::from(ok < rows) } else { 2 };
    Ok(ExitCode::from(code))
}
