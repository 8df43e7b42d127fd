//! The files that rows are written to are made here, before any job. No file is emptied that is
//! also the input or another output, whatever it is called.

use std::{
    fs::{self, File, OpenOptions},
    path::Path,
};

use crate::{options::Options, stop::Stop};

/// Files that must not be overwritten, each with the name of its role.
pub(crate) struct Taken(Vec<(&'static str, Identity)>);

impl Taken {
    pub(crate) fn by_input(options: &Options) -> Self {
        let path = if options.is_stdin() {
            Path::new("/dev/stdin")
        } else {
            options.file.as_path()
        };
        Self(
            identity(path)
                .map(|identity| ("the input", identity))
                .into_iter()
                .collect(),
        )
    }

    /// Makes the file, or empties the one that is there.
    pub(crate) fn create(&mut self, path: &Path, role: &'static str) -> Result<File, Stop> {
        // Nothing is cut off before it is known what file this is.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| Stop::write(path, &error))?;
        if let Some(identity) = identity(path) {
            if let Some((other, _)) = self.0.iter().find(|(_, taken)| *taken == identity) {
                return Err(Stop::output(
                    path,
                    format_args!("{role} would overwrite {other}"),
                ));
            }
            file.set_len(0).map_err(|error| Stop::write(path, &error))?;
            self.0.push((role, identity));
        }
        Ok(file)
    }
}

/// What two names of one file have in common: its device and its number there.
#[cfg(unix)]
type Identity = (u64, u64);

/// Only regular files have one: a pipe or a device can be written to twice.
#[cfg(unix)]
fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some((metadata.dev(), metadata.ino()))
}

/// What two names of one file have in common, hard links aside: its full path.
#[cfg(not(unix))]
type Identity = std::path::PathBuf;

#[cfg(not(unix))]
fn identity(path: &Path) -> Option<Identity> {
    fs::canonicalize(path).ok().filter(|path| path.is_file())
}
