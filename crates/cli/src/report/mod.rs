//! `brigade report`: one HTML page from an answers file and its sidecar.
//!
//! [`write`] and [`write_trace`] read the file record by record. What they keep grows with the
//! number of hosts and not with the number of rows.

mod answer;
mod chart;
mod columns;
pub(crate) mod command;
mod figures;
mod lanes;
mod latency;
mod page;
mod reader;
#[cfg(test)]
mod sample;
mod sections;
pub(crate) mod sidecar;
mod text;
mod timeline;
mod trace;

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use columns::Column;
use figures::Figures;
use reader::AnswersFile;
use sidecar::Sidecar;

/// What a report is made from.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The answers file of `brigade fetch` or `brigade run`.
    pub(crate) answers: PathBuf,
    /// The sidecar. Without one, the name of the answers file with `.run.json` after it is tried.
    pub(crate) sidecar: Option<PathBuf>,
    /// What separates the cells of the answers file.
    pub(crate) delimiter: u8,
    /// The prefix of the tool's columns. Without one, the header decides.
    pub(crate) prefix: Option<String>,
    /// The heading of the page. Without one, it is the name of the answers file.
    pub(crate) title: Option<String>,
}

/// The totals of an answers file, as the page states them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Whole records.
    pub(crate) rows: u64,
    /// Rows with `ok` = `true`.
    pub(crate) ok: u64,
    /// Rows with `ok` = `false`.
    pub(crate) failed: u64,
    /// Whether a record without its line end was left out.
    pub(crate) torn: bool,
}

/// Why there is no report, or only a part of one.
#[derive(Debug)]
pub(crate) enum ReportError {
    /// A file cannot be opened or read.
    Read { path: PathBuf, source: io::Error },
    /// The page or the trace cannot be written.
    Write { source: io::Error },
    /// The answers file is empty.
    NoHeader { path: PathBuf },
    /// The header lacks a column of the tool.
    MissingColumn {
        path: PathBuf,
        missing: String,
        after: Option<String>,
    },
    /// A record has more or fewer cells than the header.
    Cells {
        path: PathBuf,
        record: u64,
        expected: usize,
        found: usize,
    },
    /// A cell does not hold what its column promises.
    Cell {
        path: PathBuf,
        record: u64,
        column: String,
        rule: &'static str,
    },
    /// The answers file had other records when it was read a second time.
    Changed { path: PathBuf },
    /// The sidecar that was asked for cannot be read.
    Sidecar(sidecar::SidecarError),
}

impl fmt::Display for ReportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => {
                write!(f, "{}: cannot read the answers file", path.display())
            }
            Self::Write { .. } => write!(f, "cannot write the report"),
            Self::NoHeader { path } => {
                write!(
                    f,
                    "{}: not an answers file: it has no header",
                    path.display()
                )
            }
            Self::MissingColumn {
                path,
                missing,
                after,
            } => {
                write!(
                    f,
                    "{}: not an answers file: column `{missing}` is missing",
                    path.display()
                )?;
                match after {
                    Some(after) => write!(f, " after column `{after}`"),
                    None => Ok(()),
                }
            }
            Self::Cells {
                path,
                record,
                expected,
                found,
            } => write!(
                f,
                "{}: record {record} has {found} cells, and the header has {expected}",
                path.display()
            ),
            Self::Cell {
                path,
                record,
                column,
                rule,
            } => {
                write!(
                    f,
                    "{}: record {record}, column `{column}`: {rule}",
                    path.display()
                )
            }
            Self::Changed { path } => {
                write!(
                    f,
                    "{}: the file was changed while it was read",
                    path.display()
                )
            }
            Self::Sidecar(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } | Self::Write { source } => Some(source),
            Self::Sidecar(error) => std::error::Error::source(error),
            _ => None,
        }
    }
}

/// Reads the answers file twice and writes the page.
///
/// # Errors
///
/// The page is written at the end: after an error of reading nothing was written.
pub(crate) fn write(settings: &Settings, out: &mut impl Write) -> Result<Totals, ReportError> {
    let file = open(settings)?;
    let (sidecar, notice) = find_sidecar(settings)?;
    let figures = Figures::read(&file)?;
    let title = match &settings.title {
        Some(title) => title.clone(),
        None => file_name(&settings.answers),
    };
    let page = page::Page {
        title,
        figures: &figures,
        sidecar: sidecar.as_ref(),
        notice,
    };
    out.write_all(page.render().as_bytes())
        .and_then(|()| out.flush())
        .map_err(write_error)?;
    Ok(figures.totals)
}

/// Reads the answers file once and writes a complete event a row in the format of Chrome's
/// tracing and Perfetto.
///
/// # Errors
///
/// What was written before an error is not a whole JSON document.
pub(crate) fn write_trace(
    settings: &Settings,
    out: &mut impl Write,
) -> Result<Totals, ReportError> {
    trace::write(&open(settings)?, out)
}

fn open(settings: &Settings) -> Result<AnswersFile, ReportError> {
    AnswersFile::open(
        &settings.answers,
        settings.delimiter,
        settings.prefix.as_deref(),
    )
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn write_error(source: io::Error) -> ReportError {
    ReportError::Write { source }
}

/// The sidecar, or the sentence that says why there is none.
fn find_sidecar(settings: &Settings) -> Result<(Option<Sidecar>, Option<String>), ReportError> {
    let path = match &settings.sidecar {
        Some(path) => {
            return Sidecar::read(path)
                .map(|s| (Some(s), None))
                .map_err(ReportError::Sidecar);
        }
        None => sidecar::path_of(&settings.answers),
    };
    match Sidecar::read(&path) {
        Ok(sidecar) => Ok((Some(sidecar), None)),
        Err(error) if error.is_not_found() => Ok((None, None)),
        Err(error) => {
            let name = file_name(&path);
            let reason = error.reason();
            Ok((
                None,
                Some(format!(
                    "The sidecar {name} cannot be read and is left out: {reason}."
                )),
            ))
        }
    }
}

/// The name of a column of the tool in the file, with the prefix of the tool's columns.
fn name_of(column: Column, prefix: &str) -> String {
    format!("{prefix}{}", column.name())
}

#[cfg(test)]
mod tests {
    use super::sample::Sample;
    use super::sidecar::{Pause, RunEntry};
    use super::*;

    /// The page of `csv`, and what `write` said.
    fn page(csv: &[u8], sidecar: Option<RunEntry>) -> (String, Totals) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let answers = dir.path().join("answers.csv");
        std::fs::write(&answers, csv).expect("a file in it");
        if let Some(entry) = sidecar {
            sidecar::append(&sidecar::path_of(&answers), entry).expect("a file beside it");
        }
        let settings = Settings {
            answers,
            sidecar: None,
            delimiter: b',',
            prefix: None,
            title: None,
        };
        let mut out = Vec::new();
        let totals = write(&settings, &mut out).expect("an answers file");
        (String::from_utf8(out).expect("UTF-8"), totals)
    }

    fn run() -> RunEntry {
        let pause = Pause {
            host: "http://user:secret@host-0.test:8080".to_owned(),
            at: "2026-01-02T03:04:08Z".to_owned(),
            seconds: 10.0,
            cause: "Retry-After".to_owned(),
        };
        RunEntry {
            started_at: "2026-01-02T03:04:05Z".to_owned(),
            ended_at: "2026-01-02T03:04:25Z".to_owned(),
            workers: 50,
            settings: vec![("--workers".to_owned(), "50".to_owned())],
            cause_seconds: [("server".to_owned(), 600.0), ("rate".to_owned(), 400.0)].into(),
            pauses: vec![pause; sidecar::MAX_PAUSES],
            ..RunEntry::default()
        }
    }

    /// Cells that attack a page: each is put where the file allows any text.
    fn hostile(rows: u64) -> Sample {
        let cells = [
            "</script><script>alert(1)</script>",
            "javascript:alert(1)",
            "\" onload=\"alert(1)",
            "\u{202e}\u{2066}moc.elpmaxe",
            "nul\0 bell\u{7} esc\u{1b}[31m",
            "</style><style>*{display:none}</style>",
            "<img src=x onerror=alert(1)>",
            "مرحبا 🎉 שלום",
            "]]>--><!--",
        ];
        let mut sample = Sample::fetch(rows);
        for at in 0..sample.rows.len() {
            let cell = cells[at % cells.len()];
            match at % 4 {
                0 => sample.set(at, "error", cell),
                1 => sample.set(at, "final_url", &format!("http://h/{cell}")),
                2 => sample.set(at, "error", &"<".repeat(10_000)),
                _ => sample.set(at, "final_url", cell),
            }
            if at % 2 == 0 {
                sample.set(at, "ok", "false");
                sample.set(at, "error_kind", "protocol");
            }
            if at % 7 == 0 {
                sample.set(at, "ok", "false");
                sample.set(at, "error_kind", cell);
            }
        }
        sample
    }

    #[test]
    fn the_page_states_the_totals_of_the_file() {
        let sample = Sample::fetch(2_500);
        let (page, totals) = page(&sample.csv(), None);
        assert_eq!(totals, sample.totals());
        for (id, value) in [
            ("rows", totals.rows),
            ("ok", totals.ok),
            ("failed", totals.failed),
        ] {
            let data = format!("id=\"total-{id}\" value=\"{value}\"");
            assert!(page.contains(&data), "{data}");
        }
        assert!(page.contains("There is no sidecar"));
        assert!(!page.contains("id=\"causes\"") && !page.contains("id=\"runs\""));
    }

    #[test]
    fn the_policy_allows_the_exact_text_of_the_style_and_nothing_else() {
        use sha2::{Digest, Sha256};
        let (page, _) = page(&Sample::fetch(10).csv(), None);
        let (_, rest) = page.split_once("<style>").expect("a style");
        let (style, rest) = rest.split_once("</style>").expect("its end");
        assert!(!rest.contains("<style") && !page.contains("<script") && !page.contains(" style="));
        let (_, rest) = page.split_once("'sha256-").expect("a digest");
        let (digest, _) = rest.split_once('\'').expect("its end");
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut bits = Vec::new();
        for c in digest.trim_end_matches('=').bytes() {
            let value = digits.iter().position(|digit| *digit == c).expect("base64");
            bits.extend((0..6).rev().map(|bit| value >> bit & 1));
        }
        let byte = |bits: &[usize]| bits.iter().fold(0, |byte, bit| byte * 2 + bit) as u8;
        let decoded: Vec<u8> = bits.chunks_exact(8).map(byte).collect();
        assert_eq!(decoded, Sha256::digest(style).to_vec());
    }

    #[test]
    fn hostile_cells_add_no_element_and_no_attribute() {
        let (page, totals) = page(&hostile(400).csv(), None);
        assert_eq!(totals.rows, 400);
        for attack in ["<script", "<img", "\" onload", "<!--", "href=\"j", "\0"] {
            assert!(!page.contains(attack), "{attack}");
        }
        assert_eq!(page.matches("</style>").count(), 1);
        assert!(page.contains("&lt;script&gt;"), "the text itself is shown");
    }

    #[test]
    fn secrets_of_urls_are_not_in_the_page() {
        let (page, _) = page(&Sample::fetch(1_000).csv(), Some(run()));
        assert!(page.contains("http://host-0.test:8080/item/"));
        assert!(!page.contains("secret") && !page.contains("token") && !page.contains("user:"));
    }

    #[test]
    fn a_torn_record_is_left_out_and_the_page_says_so() {
        let csv = Sample::fetch(100).csv();
        let (whole, totals) = page(&csv, None);
        assert!(!totals.torn && !whole.contains("no line end"));
        let (torn, totals) = page(&csv[..csv.len() - 1], None);
        assert_eq!((totals.rows, totals.torn), (99, true));
        assert!(torn.contains("no line end"));
    }

    #[test]
    fn the_sidecar_adds_causes_runs_and_pauses() {
        let (page, _) = page(&Sample::fetch(500).csv(), Some(run()));
        assert!(!page.contains("There is no sidecar"));
        assert!(page.contains("id=\"causes\"") && page.contains("id=\"runs\""));
        assert!(page.contains("within 1 %"));
        assert!(
            page.contains("2\u{a0}h\u{a0}46\u{a0}min"),
            "1,000 pauses of 10 s are added up"
        );
    }

    #[test]
    fn a_broken_sidecar_is_named_in_the_page_unless_it_was_asked_for() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let answers = dir.path().join("answers.csv");
        std::fs::write(&answers, Sample::fetch(3).csv()).expect("a file in it");
        let sidecar = sidecar::path_of(&answers);
        std::fs::write(&sidecar, "{").expect("a file in it");
        let mut settings = Settings {
            answers,
            sidecar: None,
            delimiter: b',',
            prefix: None,
            title: None,
        };
        let mut out = Vec::new();
        write(&settings, &mut out).expect("the page is made without it");
        let page = String::from_utf8(out).expect("UTF-8");
        assert!(page.contains("answers.csv.run.json cannot be read"));
        settings.sidecar = Some(sidecar);
        let error = write(&settings, &mut Vec::new())
            .expect_err("it was asked for")
            .to_string();
        assert!(error.contains("answers.csv.run.json"), "{error}");
    }

    #[test]
    fn a_report_of_commands_has_no_hosts() {
        let csv = "name,row,ok,exit_code,signal,attempts,queued_ms,elapsed_ms,finished_at,\
            error_kind,error,stdout,stderr\n\
            a,1,true,0,,1,0,15,2026-01-02T03:04:05.678Z,,,,\n\
            b,2,false,3,,2,0,25,2026-01-02T03:04:06.678Z,exit_code,exit code 3,,\n\
            c,3,false,,9,1,0,35,2026-01-02T03:04:07.678Z,signal,killed,,\n";
        let (page, totals) = page(csv.as_bytes(), None);
        assert_eq!((totals.rows, totals.ok, totals.failed), (3, 1, 2));
        assert!(page.contains("brigade run") && page.contains("signal 9"));
        assert!(!page.contains("id=\"hosts\"") && !page.contains("(no URL)"));
    }

    #[test]
    fn a_file_without_rows_has_a_page() {
        let (page, totals) = page(&Sample::fetch(0).csv(), None);
        assert_eq!(totals, Totals::default());
        assert!(page.contains("id=\"total-rows\" value=\"0\""));
    }

    #[test]
    fn the_page_stays_below_a_megabyte_whatever_the_cells_hold() {
        for sample in [Sample::fetch(20_000), hostile(20_000), many_hosts(2_000)] {
            let (page, _) = page(&sample.csv(), Some(run()));
            assert!(page.len() < 1_000_000, "{} bytes", page.len());
        }
    }

    /// Each host has long names, kinds of failures and errors of its own.
    fn many_hosts(rows: usize) -> Sample {
        let mut sample = Sample::fetch(rows as u64);
        for at in 0..rows {
            let long = "x".repeat(60);
            let host = format!("{long}.{long}.{long}.{:03}.test", at % 999);
            sample.set(
                at,
                "final_url",
                &format!("http://{host}/{}", "%22".repeat(3_000)),
            );
            sample.set(at, "ok", "false");
            sample.set(
                at,
                "error_kind",
                &format!("{}{}", at % 90, "\"".repeat(300)),
            );
            sample.set(at, "error", &"\"".repeat(9_000));
            sample.set(at, "redirects", "1");
            sample.set(at, "status_code", &"<".repeat(900));
        }
        sample
    }
}
