//! Takes the failed rows out of an answers file.
//!
//! In: the file, which is locked. Out: a file with the good rows, locked, in its place. Whenever
//! the process dies, the file under the old name has all good rows.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use super::{
    error::{AnswersError, Kind},
    layout::Layout,
    record::Record,
    scan::Scanner,
};

/// Replaces `old` by a file without failed rows. Returns it, and its length, which is where the
/// next write goes.
pub(super) fn take_out(layout: &Layout, old: &File) -> Result<(File, u64), AnswersError> {
    let replace = |action, source| layout.error(Kind::Replace { action, source });
    // The name may be a symbolic link, which stays one.
    let path = fs::canonicalize(&layout.path).map_err(|error| replace("find the file", error))?;
    let temporary = temporary_path(&path);
    let replaced = copy_and_rename(layout, old, &path, &temporary);
    if replaced.is_err() {
        // It has nothing that the old file lacks. The next attempt removes it if this one cannot.
        let _ = fs::remove_file(&temporary);
    }
    replaced
}

fn copy_and_rename(
    layout: &Layout,
    old: &File,
    path: &Path,
    temporary: &Path,
) -> Result<(File, u64), AnswersError> {
    let replace = |action, source| layout.error(Kind::Replace { action, source });
    let new = create(temporary).map_err(|error| replace("create a temporary file", error))?;
    keep_owner_and_permissions(old, &new)
        .map_err(|error| replace("keep owner and permissions", error))?;
    // A process that opens the new file right after the rename is refused.
    super::open::try_lock(layout, &new)?;
    let len = copy(layout, old, &new)?;
    new.sync_all()
        .map_err(|error| replace("write the disk", error))?;
    fs::rename(temporary, path).map_err(|error| replace("rename the temporary file", error))?;
    // Good rows are safe without it: the directory has the old name or the new one.
    let _ = sync_directory(path);
    Ok((new, len))
}

/// Copies the header and the good rows as they stand. Returns how many bytes these are.
fn copy(layout: &Layout, old: &File, new: &File) -> Result<u64, AnswersError> {
    let read = |source| layout.error(Kind::Read { source });
    let write = |source| {
        layout.error(Kind::Replace {
            action: "write a temporary file",
            source,
        })
    };
    let mut input = old;
    input.rewind().map_err(read)?;
    let mut scanner = Scanner::new(input, layout.delimiter);
    let mut writer = BufWriter::with_capacity(128 * 1024, new);
    let mut record = Record::default();
    layout.next_record(&mut scanner, &mut record)?;
    let mut len = 0;
    let mut is_good = true;
    loop {
        if is_good {
            let text = scanner.text();
            writer.write_all(text).map_err(write)?;
            len += text.len() as u64;
        }
        match layout.next_answer(&mut scanner, &mut record)? {
            Some(answer) => is_good = answer.is_ok,
            None => break,
        }
    }
    writer.flush().map_err(write)?;
    Ok(len)
}

/// A name in the directory of `path`, so that a rename can replace one by the other.
fn temporary_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".resume");
    path.with_file_name(name)
}

/// Creates a file that did not exist. One of this name was left by a process that died: this one
/// holds the lock of the answers file.
fn create(temporary: &Path) -> io::Result<File> {
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // `create_new` follows no symbolic link that someone else put there.
    private()
        .read(true)
        .write(true)
        .create_new(true)
        .open(temporary)
}

/// Options for a file that only its owner may read, until it has the permissions of the old one.
#[cfg(unix)]
fn private() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

#[cfg(not(unix))]
fn private() -> OpenOptions {
    OpenOptions::new()
}

#[cfg(unix)]
fn keep_owner_and_permissions(old: &File, new: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let (from, to) = (old.metadata()?, new.metadata()?);
    if (from.uid(), from.gid()) != (to.uid(), to.gid()) {
        fchown(new, Some(from.uid()), Some(from.gid()))?;
    }
    new.set_permissions(from.permissions())
}

#[cfg(not(unix))]
fn keep_owner_and_permissions(old: &File, new: &File) -> io::Result<()> {
    new.set_permissions(old.metadata()?.permissions())
}

/// Makes the rename last.
#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

#[cfg(not(unix))]
fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}
