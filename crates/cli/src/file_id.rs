//! Which file a path leads to, whatever the path: two names of one file have one [`FileId`].

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn of(data: &Metadata) -> Self {
        Self {
            device: data.dev(),
            inode: data.ino(),
        }
    }

    /// The regular file at this path, if there is one.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        data.is_file().then(|| Self::of(&data))
    }

    /// The regular file that is read as stdin, if it is one.
    pub(crate) fn of_stdin() -> Option<Self> {
        Self::of_fd(std::io::stdin())
    }

    /// The regular file that is open here, if it is one.
    pub(crate) fn of_fd(fd: impl std::os::fd::AsFd) -> Option<Self> {
        let stat = rustix::fs::fstat(fd).ok()?;
        let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
        is_file.then_some(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_names_of_a_file_are_one_file_and_a_directory_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other, hard, soft] =
            ["one", "other", "hard", "soft"].map(|name| directory.path().join(name));
        fs::write(&one, "").unwrap();
        fs::write(&other, "").unwrap();
        fs::hard_link(&one, &hard).unwrap();
        std::os::unix::fs::symlink(&one, &soft).unwrap();
        let id = FileId::at(&one);
        assert!(id.is_some());
        assert_eq!((FileId::at(&hard), FileId::at(&soft)), (id, id));
        assert_ne!(FileId::at(&other), id);
        assert_eq!(FileId::at(directory.path()), None);
        assert_eq!(FileId::at(&directory.path().join("missing")), None);
    }
}
