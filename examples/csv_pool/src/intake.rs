//! Rows come in, good and bad; the good ones go out and become jobs. The bad ones are counted,
//! reported and, on request, written to a file of their own.

use std::{fs::File, path::PathBuf};

use brigade::csv::{BadRow, Header, RejectsWriter, Row, RowError, Writer};

use crate::{
    input::RowResult,
    options::{OnBadRow, Options},
    outputs::Taken,
    screen::{Messages, Screen},
    stop::Stop,
};

/// Lets good rows pass, and keeps count of all.
pub(crate) struct Intake {
    pub(crate) rows: u64,
    pub(crate) bad: u64,
    /// Where the last row starts that was read; before the first one, the header.
    pub(crate) last_line: u64,
    /// Whether the file was read to its end.
    pub(crate) is_complete: bool,
    policy: OnBadRow,
    rejects: Option<Rejects>,
    messages: Messages,
    screen: Screen,
}

struct Rejects {
    path: PathBuf,
    writer: RejectsWriter<File>,
}

impl Intake {
    pub(crate) fn new(
        options: &Options,
        header: &Header,
        screen: &Screen,
        taken: &mut Taken,
    ) -> Result<Self, Stop> {
        let rejects = match &options.rejects {
            Some(path) => {
                let writer =
                    Writer::with_delimiter(taken.create(path, "--rejects")?, options.delimiter);
                let writer = RejectsWriter::new(writer, header)
                    .map_err(|error| Stop::write(path, &error))?;
                Some(Rejects {
                    path: path.clone(),
                    writer,
                })
            }
            None => None,
        };
        Ok(Self {
            rows: 0,
            bad: 0,
            last_line: header.line(),
            is_complete: false,
            policy: options.on_bad_row,
            rejects,
            messages: Messages::new(screen),
            screen: screen.clone(),
        })
    }

    /// Lets a good row pass. The pool pulls no more after an error.
    pub(crate) fn admit(&mut self, item: Option<RowResult>) -> Option<Result<Row, Stop>> {
        match item {
            Some(Ok(row)) => {
                self.count(row.line());
                self.screen.row_read();
                Some(Ok(row))
            }
            Some(Err(RowError::Bad(bad))) => {
                self.count(bad.line());
                self.report(&bad).err().map(Err)
            }
            Some(Err(RowError::File(error))) => Some(Err(error.into())),
            None => {
                self.is_complete = true;
                None
            }
        }
    }

    /// Writes what is left to write, and says how many bad rows there were beyond those reported.
    pub(crate) fn finish(&mut self, file: &str) -> Result<(), Stop> {
        let (bad, rejects) = (self.bad, self.rejects.take());
        match (&rejects, bad - self.messages.written()) {
            (_, 0) => {}
            (Some(Rejects { path, .. }), _) => {
                self.screen.message(format_args!(
                    "{file}: bad rows: {bad}, written to {}",
                    path.display()
                ));
            }
            (None, all) if all == bad => {
                self.screen.message(format_args!("{file}: bad rows: {bad}"));
            }
            (None, more) => self
                .screen
                .message(format_args!("{file}: and {more} more bad rows")),
        }
        match rejects {
            Some(Rejects { path, writer }) => writer
                .finish()
                .map(drop)
                .map_err(|error| Stop::write(&path, &error)),
            None => Ok(()),
        }
    }

    fn count(&mut self, line: u64) {
        self.rows += 1;
        self.last_line = line;
    }

    fn report(&mut self, bad: &BadRow) -> Result<(), Stop> {
        self.bad += 1;
        match self.policy {
            OnBadRow::Stop => self.messages.add(bad),
            OnBadRow::Continue if self.rejects.is_none() => self.messages.add(bad),
            OnBadRow::Continue | OnBadRow::Skip => {}
        }
        if let Some(Rejects { path, writer }) = &mut self.rejects {
            writer
                .write_bad(bad)
                .map_err(|error| Stop::write(path, &error))?;
        }
        if self.policy == OnBadRow::Stop {
            Err(Stop::BadRow)
        } else {
            Ok(())
        }
    }
}
