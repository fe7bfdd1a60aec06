//! The data folder of `reel up`: made when it is not there, locked, with the cluster secret in it.
//!
//! ```text
//! DIR/reel.lock        the lock; holds the process id
//! DIR/reel.toml        configuration, where the operator put one
//! DIR/cluster.secret   signs commands between nodes; mode 0600
//! DIR/addresses.json   the addresses of the running store; there while it runs
//! DIR/meta/            tracker.db, idgen.db, storage.db
//! DIR/store/           the store path, unless others are configured
//! ```

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use reel_node::lock::FolderLock;

/// An open data folder; the lock goes with it.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    _lock: FolderLock,
}

impl DataFolder {
    /// Makes (mode 0700: it holds a secret and everybody's metadata) and locks the folder.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        make_folder(path)?;
        // Absolute, so that the id key of a store (its path's text) does not depend on the
        // folder that the process was started in.
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot use the data folder {}", path.display()))?;
        let lock = FolderLock::take(&path).context("cannot lock the data folder")?;
        for part in ["meta", "store"] {
            make_folder(&path.join(part))?;
        }
        Ok(Self { path, _lock: lock })
    }

    /// The folder, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file of the cluster secret; made with 32 random bytes when it is not there.
    pub(crate) fn secret_file(&self) -> anyhow::Result<PathBuf> {
        let path = self.path.join("cluster.secret");
        if path.symlink_metadata().is_ok() {
            return Ok(path);
        }
        let mut random = [0_u8; 32];
        getrandom::fill(&mut random).context("no random bytes for the cluster secret")?;
        let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        self.replace("cluster.secret", format!("{text}\n").as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Writes a file of the folder so that it is there whole or not at all, mode 0600.
    pub(crate) fn replace(&self, name: &str, content: &[u8]) -> std::io::Result<()> {
        let temporary = self.path.join(format!("{name}.new"));
        // Left over from a crash, and ours alone under the lock.
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, self.path.join(name))?;
        File::open(&self.path)?.sync_all()
    }

    /// Removes a file of the folder that says something of the running process.
    pub(crate) fn forget(&self, name: &str) {
        if let Err(error) = std::fs::remove_file(self.path.join(name))
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(name, %error, "cannot remove a file of the data folder");
        }
    }
}

/// Makes a folder and what is missing above it, private to its owner.
pub(crate) fn make_folder(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::DataFolder;

    #[test]
    fn a_folder_is_made_locked_and_given_a_secret() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let folder = DataFolder::open(&path).unwrap();
        let secret = folder.secret_file().unwrap();
        let first = std::fs::read(&secret).unwrap();
        assert_eq!(first.len(), 65);
        assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(path.join("meta").is_dir() && path.join("store").is_dir());

        let second = format!("{:#}", DataFolder::open(&path).unwrap_err());
        assert!(second.contains("in use by"), "{second}");
        drop(folder);
        let again = DataFolder::open(&path).unwrap();
        assert_eq!(std::fs::read(again.secret_file().unwrap()).unwrap(), first);
    }

    #[test]
    fn a_leftover_of_a_crash_does_not_stop_the_next_start() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(parent.path()).unwrap();
        std::fs::write(parent.path().join("cluster.secret.new"), "half").unwrap();
        let secret = folder.secret_file().unwrap();
        assert_eq!(std::fs::read(secret).unwrap().len(), 65);
        assert!(!parent.path().join("cluster.secret.new").exists());
    }

    #[test]
    fn a_file_in_its_place_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        std::fs::write(&path, "").unwrap();
        let error = format!("{:#}", DataFolder::open(&path).unwrap_err());
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}
