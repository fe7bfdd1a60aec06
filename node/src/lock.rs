//! The lock on a data folder: two processes on one folder would hand out the same path ids.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Name of the file that carries the lock.
pub const LOCK_FILE: &str = "reel.lock";

/// The folder could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is in use by {}", folder.display(), holder_text(*holder))]
    Held {
        /// The data folder.
        folder: PathBuf,
        /// Process id of the holder, when its file says it.
        holder: Option<u32>,
    },
    /// The lock file could not be made, locked or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn holder_text(holder: Option<u32>) -> String {
    match holder {
        Some(pid) => format!("another process (pid {pid})"),
        None => "another process".to_owned(),
    }
}

/// A lock on a data folder, held until it is dropped. The kernel drops it with the
/// process, so a crash leaves nothing to clean up; the file itself stays.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
    path: PathBuf,
}

impl FolderLock {
    /// Locks `folder`, which must exist. Does not wait.
    ///
    /// # Errors
    /// Another process holds it, or the file cannot be made (permission, no space) or, on a read-only file system, is
    /// not there.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        Self::take_file(folder, LOCK_FILE)
    }

    /// As [`Self::take`], by a file of another name: several may lock the folder then, each by a name of its own.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_file(folder: &Path, name: &str) -> Result<Self, LockError> {
        let path = folder.join(name);
        let mut file = open(&path)?;
        held_by_another(file.try_lock(), folder, &path, &mut file)?;
        // Only a note for the error message of the next one: it is not synced, and a full or read-only disk that
        // does not take it may be locked all the same.
        let _ = file.set_len(0).and_then(|()| file.rewind());
        let _ = writeln!(file, "{}", std::process::id());
        Ok(Self { _file: file, path })
    }

    /// A share of the lock on `folder`: others may have one, too, and nobody the whole.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn share(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(LOCK_FILE);
        let mut file = open(&path)?;
        held_by_another(file.try_lock_shared(), folder, &path, &mut file)?;
        Ok(Self { _file: file, path })
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn open(path: &Path) -> Result<File, LockError> {
    let made = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
    let opened = match made {
        // A disk that has become read-only still has files to read, by one process at a time. The lock itself
        // writes nothing.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(path),
        made => made,
    };
    opened.map_err(|source| LockError::Io { path: path.to_owned(), source })
}

fn held_by_another(
    locked: Result<(), TryLockError>,
    folder: &Path,
    path: &Path,
    file: &mut File,
) -> Result<(), LockError> {
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            Err(LockError::Held { folder: folder.to_owned(), holder })
        }
        Err(TryLockError::Error(source)) => Err(LockError::Io { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{FolderLock, LockError};

    #[test]
    fn the_second_is_refused_and_told_who() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path()).unwrap();
        let error = FolderLock::take(folder.path()).unwrap_err();
        assert!(matches!(
            &error,
            LockError::Held { holder: Some(pid), .. } if *pid == std::process::id()
        ));
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(first);
        FolderLock::take(folder.path()).unwrap();
    }

    #[test]
    fn shares_go_together_and_keep_out_who_wants_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let shares = [(); 2].map(|()| FolderLock::share(folder.path()).unwrap());
        assert!(matches!(FolderLock::take(folder.path()), Err(LockError::Held { .. })));
        let names = ["a", "b"].map(|name| FolderLock::take_file(folder.path(), name).unwrap());
        assert!(FolderLock::take_file(folder.path(), "a").is_err());
        drop((shares, names));
        let whole = FolderLock::take(folder.path()).unwrap();
        assert!(matches!(FolderLock::share(folder.path()), Err(LockError::Held { .. })));
        drop(whole);
        FolderLock::share(folder.path()).unwrap();
    }

    #[test]
    fn a_missing_folder_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = FolderLock::take(&folder.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("none/reel.lock"), "{error}");
    }
}
