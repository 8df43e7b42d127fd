//! The sidecar of an answers file: what the file itself does not know of the runs that wrote it.
//!
//! It is a JSON file with one entry a run. `fetch` and `run` leave secrets out
//! of its settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The most pauses that an entry keeps.
pub(crate) const MAX_PAUSES: usize = 1_000;

/// All runs that wrote to one answers file, in the order of their ends.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sidecar {
    #[serde(default)]
    pub(crate) runs: Vec<RunEntry>,
}

/// One run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RunEntry {
    /// `fetch` or `run`.
    pub(crate) command: String,
    /// The version of the tool.
    pub(crate) version: String,
    /// RFC 3339 in UTC.
    pub(crate) started_at: String,
    /// RFC 3339 in UTC.
    pub(crate) ended_at: String,
    /// `complete`, `interrupted`, `failures`, `deadline`, `output` or `input`.
    pub(crate) ended: String,
    /// Options and their values, redacted.
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) workers: u64,
    pub(crate) rows: u64,
    pub(crate) bad: u64,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) not_started: u64,
    /// Worker-seconds by what the workers spent them on. Their sum is the wall time × workers.
    pub(crate) cause_seconds: BTreeMap<String, f64>,
    /// At most [`MAX_PAUSES`].
    pub(crate) pauses: Vec<Pause>,
    pub(crate) pauses_left_out: u64,
}

/// A time in which a host got no request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Pause {
    /// Scheme, host and port.
    pub(crate) host: String,
    /// RFC 3339 in UTC.
    pub(crate) at: String,
    pub(crate) seconds: f64,
    /// `Retry-After`, for example.
    pub(crate) cause: String,
}

impl RunEntry {
    /// The wall time in seconds, if both times can be read.
    pub(crate) fn wall_seconds(&self) -> Option<f64> {
        let start = humantime::parse_rfc3339(&self.started_at).ok()?;
        let end = humantime::parse_rfc3339(&self.ended_at).ok()?;
        end.duration_since(start)
            .ok()
            .map(|wall| wall.as_secs_f64())
    }
}

impl Sidecar {
    /// Reads the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, SidecarError> {
        let text = fs::read(path).map_err(|source| SidecarError::io(path, source))?;
        serde_json::from_slice(&text).map_err(|e| SidecarError::io(path, io::Error::from(e)))
    }
}

/// The place of the sidecar of the answers file at `answers`: its name with `.run.json` after it.
pub(crate) fn path_of(answers: &Path) -> PathBuf {
    let mut path = OsString::from(answers);
    path.push(".run.json");
    PathBuf::from(path)
}

/// Adds an entry to the sidecar at `path`, which need not exist.
///
/// The file is written anew beside the old one and then renamed: a reader sees the old entries or
/// all of them.
///
/// # Errors
///
/// A file that is there and cannot be read is left as it is, and the error names it.
pub(crate) fn append(path: &Path, entry: RunEntry) -> io::Result<()> {
    let mut sidecar = match Sidecar::read(path) {
        Ok(sidecar) => sidecar,
        Err(error) if error.is_not_found() => Sidecar::default(),
        Err(error) => return Err(io::Error::new(error.source.kind(), error)),
    };
    sidecar.runs.push(entry);
    let mut temporary = OsString::from(path);
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = write_whole(&temporary, &sidecar).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| {
        // The error of writing is the one that counts.
        let _ = fs::remove_file(&temporary);
        io::Error::new(source.kind(), SidecarError::io(path, source))
    })
}

fn write_whole(path: &Path, sidecar: &Sidecar) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut text = serde_json::to_vec_pretty(sidecar)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.sync_all()
}

/// A sidecar that cannot be read or written.
#[derive(Debug)]
pub(crate) struct SidecarError {
    path: PathBuf,
    source: io::Error,
}

impl SidecarError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// What is wrong, without the path.
    pub(crate) fn reason(&self) -> String {
        self.source.to_string()
    }
}

impl fmt::Display for SidecarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: cannot use the sidecar", self.path.display())
    }
}

impl std::error::Error for SidecarError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(rows: u64) -> RunEntry {
        RunEntry {
            command: "fetch".to_owned(),
            started_at: "2026-01-02T03:04:05.000Z".to_owned(),
            ended_at: "2026-01-02T03:05:05.500Z".to_owned(),
            settings: vec![("--workers".to_owned(), "50".to_owned())],
            cause_seconds: BTreeMap::from([("server".to_owned(), 1.5)]),
            pauses: vec![Pause {
                host: "http://h".to_owned(),
                ..Pause::default()
            }],
            rows,
            ..RunEntry::default()
        }
    }

    #[test]
    fn entries_are_kept_in_the_order_in_which_they_were_added() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = path_of(&dir.path().join("answers.csv"));
        append(&path, entry(1)).expect("a new file");
        append(&path, entry(2)).expect("an old file");
        let sidecar = Sidecar::read(&path).expect("it was written");
        assert_eq!(sidecar.runs, [entry(1), entry(2)]);
        assert_eq!(sidecar.runs[0].wall_seconds(), Some(60.5));
        let files = fs::read_dir(dir.path()).expect("the directory").count();
        assert_eq!(files, 1, "the temporary file is gone");
    }

    #[test]
    fn a_broken_sidecar_is_named_and_left_as_it_is() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.run.json");
        fs::write(&path, "{\"runs\": [").expect("a file");
        let error = append(&path, entry(1))
            .expect_err("the file is torn")
            .to_string();
        assert!(error.contains("a.run.json"), "{error}");
        assert_eq!(
            fs::read_to_string(&path).expect("still there"),
            "{\"runs\": ["
        );
        assert!(Sidecar::read(&path).is_err_and(|error| !error.is_not_found()));
    }

    #[test]
    fn fields_of_other_versions_are_no_error() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.run.json");
        fs::write(&path, "{\"runs\": [{\"rows\": 3, \"later\": true}]}").expect("a file");
        assert_eq!(Sidecar::read(&path).expect("readable").runs[0].rows, 3);
    }
}
