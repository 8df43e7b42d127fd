//! Runs one async job for each row of a CSV file, ten at a time.
//!
//! ```text
//! cargo run --release --example csv_pool                      # the 250 paths of examples/data/dummy.csv
//! cargo run --release --example csv_pool -- --help
//! cargo run --release --example csv_pool -- mine.csv --column path --failures again.csv
//! ```
//!
//! What to copy is in this file: [`job`], which is what to replace, and [`run`], the pool and the
//! loop around it. The other files each hold one thing that a tool needs besides: options, input,
//! outputs, account, signals, terminal.
#![forbid(unsafe_code)]

mod demo;
mod input;
mod intake;
mod options;
mod outputs;
mod report;
mod screen;
mod signals;
mod stop;

use std::{process::ExitCode, sync::Arc};

use brigade::{Pool, csv::Row};
use clap::Parser;
use smol::{Timer, future, stream::StreamExt};

use crate::{
    demo::{Demo, Refused},
    input::Input,
    intake::Intake,
    options::Options,
    outputs::Taken,
    report::Report,
    screen::Screen,
    signals::Signals,
    stop::Stop,
};

fn main() -> ExitCode {
    let options = Options::parse();
    let mut report = Report::new(&options, Screen::new());
    let end = smol::block_on(run(&options, &mut report));
    report.finish(end)
}

/// The job: what is done with one row. Replace it with your own.
async fn job(row: Row, demo: Arc<Demo>) -> Result<Vec<String>, Refused> {
    let path = row.field(demo.column);
    demo.refuse(path)?;
    Timer::after(demo.takes).await;
    Ok(vec![path.to_owned()])
}

/// The pool, its inputs and its results.
async fn run(options: &Options, report: &mut Report) -> Result<(), Stop> {
    let mut signals = Signals::new()?;
    let input = future::or(
        async { Err(signals.next().await.into()) },
        Input::open(options),
    )
    .await?;
    let demo = Arc::new(Demo::new(input.column, options));
    let mut taken = Taken::by_input(options);
    let mut intake = Intake::new(options, &input.header, report.screen(), &mut taken)?;
    report.begin(options, &input.header, &mut taken)?;

    let pool = Pool::builder()
        .workers(options.workers)
        .queue_capacity(options.capacity)
        .start(move |row| job(row, Arc::clone(&demo)));
    let rows = input.rows().filter_map(|row| intake.admit(row));
    let mut completions = pool
        .try_map_stream(rows)
        .keep_inputs()
        .on_error(options.on_error());
    if options.ordered {
        completions = completions.ordered();
    }

    loop {
        let completed = async { Event::Completed(completions.next().await) };
        let signalled = async { Event::Signalled(signals.next().await) };
        match future::or(signalled, completed).await {
            Event::Completed(Some(Ok(completion))) => report.completed(completion),
            Event::Completed(Some(Err(stop))) => report.stopped(stop),
            Event::Completed(None) => break,
            Event::Signalled(_) if report.is_interrupted() => completions.cancel(),
            Event::Signalled(signal) => report.stopped(signal.into()),
        }
        if report.is_stopped() {
            // No more rows are pulled. Jobs that were accepted go on, and the loop ends after the
            // last of them.
            pool.close();
        }
    }

    report.jobs_ended(completions.summary().end);
    drop(completions);
    report.rows_ended(intake);
    Ok(())
}

/// What the loop waits for.
enum Event<Completed, Signal> {
    Completed(Completed),
    Signalled(Signal),
}
