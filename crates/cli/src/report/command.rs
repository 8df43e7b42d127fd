//! The command `brigade report`, and the report at the end of a run.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::{ReportError, Settings, write, write_trace};
use crate::frame::stop::Stop;
use crate::options::ReportOptions;

/// Makes the page, and returns the exit code.
pub(crate) fn run(options: &ReportOptions) -> u8 {
    let settings = Settings {
        answers: options.file.clone(),
        sidecar: None,
        delimiter: options.delimiter,
        prefix: None,
        title: options.title.clone(),
    };
    let made = match &options.output {
        Some(path) => page(&settings, path),
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            write(&settings, &mut out)
                .and_then(|_| flush(&mut out))
                .map_err(|error| Stop::Output(described(&error)))
        }
    };
    let traced = made.and_then(|()| match &options.trace {
        Some(path) => trace(&settings, path),
        None => Ok(()),
    });
    match traced {
        Ok(()) => 0,
        Err(stop) => {
            let _ = writeln!(io::stderr(), "{stop}");
            2
        }
    }
}

/// Writes the page to a file.
pub(crate) fn page(settings: &Settings, path: &Path) -> Result<(), Stop> {
    to_file(settings, path, "the report", |out| {
        write(settings, out).map(drop)
    })
}

/// Writes the trace to a file.
pub(crate) fn trace(settings: &Settings, path: &Path) -> Result<(), Stop> {
    to_file(settings, path, "the trace", |out| {
        write_trace(settings, out).map(drop)
    })
}

fn to_file(
    settings: &Settings,
    path: &Path,
    what: &str,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), ReportError>,
) -> Result<(), Stop> {
    if path.exists() && path.canonicalize().ok() == settings.answers.canonicalize().ok() {
        return Err(Stop::output(
            path,
            format_args!("{what} would overwrite the answers"),
        ));
    }
    let file = File::create(path)
        .map_err(|error| Stop::output(path, format_args!("cannot write {what}: {error}")))?;
    let mut out = BufWriter::new(file);
    write(&mut out)
        .and_then(|()| flush(&mut out))
        .map_err(|error| Stop::output(path, described(&error)))
}

fn flush(out: &mut impl Write) -> Result<(), ReportError> {
    out.flush().map_err(|source| ReportError::Write { source })
}

/// An error with its causes.
fn described(error: &ReportError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
