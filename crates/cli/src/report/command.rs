//! The command `brigade report`, and the report at the end of a run.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::{ReportError, Settings, write, write_trace};
use crate::file_id::FileId;
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
    if FileId::at(path).is_some_and(|id| Some(id) == FileId::at(&settings.answers)) {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_answers_are_not_overwritten_by_any_of_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let [answers, hard] = ["answers.csv", "hard.html"].map(|name| directory.path().join(name));
        fs::write(&answers, "row,ok\n").unwrap();
        fs::hard_link(&answers, &hard).unwrap();
        let settings = Settings {
            answers: answers.clone(),
            sidecar: None,
            delimiter: b',',
            prefix: None,
            title: None,
        };
        for path in [&answers, &hard] {
            let stop = page(&settings, path).unwrap_err();
            assert!(stop.to_string().contains("overwrite the answers"), "{stop}");
        }
        assert_eq!(fs::read(&answers).unwrap(), b"row,ok\n");
    }
}
