//! That an operator has drained the node, remembered over restarts: a marker among the node's own files of a store path.
//!
//! There and not beside the metadata, which may be a database that others share, and be away just then. One store path is
//! enough, and the first that takes it is taken, so that a broken disk keeps no node from being drained; which it was is
//! not the same each time, so all are looked at.

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use super::{Health, Stores, mark, path::StorePath, sys};

/// The marker's name among the node's own files.
pub(super) const DRAINED: &str = "drained";

/// What it says, for whoever finds it.
const TEXT: &[u8] = b"drained by an operator, until `reel node undrain`\n";

/// The node's drain could not be written down, or not taken back.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// No store path takes the marker.
    #[error("no store path takes the marker of the drain: {0}")]
    NotNoted(io::Error),
    /// A marker is still there: the node would be drained again after a restart.
    #[error("{path}: the marker of the drain cannot be removed: {error}")]
    NotRemoved {
        /// The store path.
        path: Box<str>,
        /// What the disk says.
        error: io::Error,
    },
    /// A disk takes too long. It may be done yet.
    #[error("a store path has not answered in time")]
    Late,
}

/// Whether a marker is there. One that cannot be looked at is none: a disk that is broken must not take the node out of
/// service.
pub(super) fn is_marked(marker: &Path) -> bool {
    marker.try_exists().unwrap_or(false)
}

impl Stores {
    /// Whether a drain is written down.
    pub fn is_drained(&self) -> bool {
        self.paths().iter().any(|path| path.drained.load(Ordering::Acquire))
    }

    /// Writes down durably that an operator has drained the node, or takes it back. On the workers of the store paths.
    /// What is so already costs nothing.
    ///
    /// # Errors
    /// [`DrainError`]; what was written down before still is.
    pub async fn set_drained(&self, on: bool) -> Result<(), DrainError> {
        if on { self.note_drain().await } else { self.forget_drain().await }
    }

    async fn note_drain(&self) -> Result<(), DrainError> {
        if self.is_drained() {
            return Ok(());
        }
        // Well ones first: a disk that hangs would be waited for.
        let mut paths: Vec<_> = self.paths().iter().collect();
        paths.sort_by_key(|path| !matches!(path.health(), Health::Ok | Health::Full));
        let mut refused = io::Error::other("there is none");
        for path in paths {
            match on_worker(path, StorePath::note_drain).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(store = path.index, %error, "the drain could not be written down here");
                    refused = error;
                }
            }
        }
        Err(DrainError::NotNoted(refused))
    }

    async fn forget_drain(&self) -> Result<(), DrainError> {
        for path in self.paths().iter().filter(|path| path.drained.load(Ordering::Acquire)) {
            on_worker(path, StorePath::forget_drain).await.map_err(|error| {
                DrainError::NotRemoved { path: path.folder.display().to_string().into(), error }
            })?;
        }
        Ok(())
    }
}

async fn on_worker(path: &Arc<StorePath>, job: fn(&StorePath) -> io::Result<()>) -> io::Result<()> {
    let there = Arc::clone(path);
    path.pool.run(move || job(&there)).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

impl StorePath {
    fn note_drain(&self) -> io::Result<()> {
        let marker = self.sharing.own_file(DRAINED);
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
        let noted = sys::open_at(self.root(), &marker, flags)
            .and_then(|mut file| io::Write::write_all(&mut file, TEXT))
            .and_then(|()| Ok(mark::settle_name(self.root(), &marker)?));
        if let Err(error) = noted {
            // The operator is told that it was not done, so a restart must not find it.
            let _ = sys::unlink_at(self.root(), &marker);
            return Err(error);
        }
        self.drained.store(true, Ordering::Release);
        Ok(())
    }

    fn forget_drain(&self) -> io::Result<()> {
        let marker = self.sharing.own_file(DRAINED);
        match sys::unlink_at(self.root(), &marker) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // A removal that a power loss takes back leaves the node drained, which an operator sees; but no need for that.
        let folder = marker.rsplit_once('/').map_or("", |(folder, _)| folder);
        mark::sync_folder(self.root(), folder)?;
        self.drained.store(false, Ordering::Release);
        Ok(())
    }
}
