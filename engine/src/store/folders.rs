//! Folders, made with the blocks of path ids that lie in them or on demand, and which of them a power loss could still
//! take away.
//!
//! A file is durable only when every folder above it is: syncing the file and its own folder is not enough while
//! the name of that folder, or of one above it, is new. Made folders stay *fresh* here until a sync that began
//! after they were made has ended well, and everybody who commits a file below one syncs its parent too.
//! Folders of before the start are durable: opening a store syncs its file system once.

use std::{
    collections::BTreeSet,
    io,
    os::fd::BorrowedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::sys;

/// The fresh folders of one store path, relative to its root.
///
/// The lock is held over mkdir, once in 512 files: whoever finds a folder that another upload has just made also
/// finds it in the list when it asks afterwards. Only workers of this store path take it.
#[derive(Debug, Default)]
pub(crate) struct Folders {
    fresh: Mutex<BTreeSet<String>>,
}

impl Folders {
    /// Makes `folder` ("000/000/001") and what is missing above it.
    pub(crate) fn ensure(&self, root: BorrowedFd<'_>, folder: &str) -> io::Result<()> {
        let mut fresh = self.lock();
        for part in ancestors(folder).chain([folder]) {
            match sys::make_folder_at(root, part) {
                Ok(()) => {
                    fresh.insert(part.to_owned());
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Folders that must be synced for files in `folders` to be durable: each of them (it holds the file's name)
    /// and the parent of every fresh folder on the way down ("" is the root).
    pub(crate) fn to_sync<'a>(
        &self,
        folders: impl Iterator<Item = &'a str>,
    ) -> (BTreeSet<String>, Fresh) {
        let fresh = self.lock();
        let mut sync = BTreeSet::new();
        let mut covered = BTreeSet::new();
        for folder in folders {
            sync.insert(folder.to_owned());
            for part in ancestors(folder).chain([folder]) {
                if fresh.contains(part) {
                    sync.insert(parent(part).to_owned());
                    covered.insert(part.to_owned());
                }
            }
        }
        (sync, Fresh(covered))
    }

    /// Every fresh folder, for a sync of the whole file system that is about to begin.
    pub(crate) fn all(&self) -> Fresh {
        Fresh(self.lock().clone())
    }

    /// The sync that covered these has ended well.
    pub(crate) fn settled(&self, durable: &Fresh) {
        let mut fresh = self.lock();
        fresh.retain(|folder| !durable.0.contains(folder));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // Every update is one insert or retain, so the set is whole even if a holder panicked.
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Folders that a sync about to begin will make durable.
#[derive(Debug)]
pub(crate) struct Fresh(BTreeSet<String>);

/// "000", "000/001" for "000/001/002".
fn ancestors(folder: &str) -> impl Iterator<Item = &str> {
    folder.match_indices('/').map(|(at, _)| &folder[..at])
}

fn parent(folder: &str) -> &str {
    folder.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_new_folder_has_its_parent_synced_until_that_has_ended_well() {
        let place = tempfile::tempdir().unwrap();
        let root = sys::open_folder(place.path()).unwrap();
        let folders = Folders::default();
        folders.ensure(root.as_fd(), "000/000/001").unwrap();
        assert!(place.path().join("000/000/001").is_dir());

        // Another upload into the same folder: it made nothing, and must still sync all parents.
        let (sync, fresh) = folders.to_sync(["000/000/001"].into_iter());
        assert_eq!(sync, set(&["", "000", "000/000", "000/000/001"]));
        // That sync failed or has not ended: nothing is settled.
        assert_eq!(folders.to_sync(["000/000/001"].into_iter()).0.len(), 4);
        folders.settled(&fresh);
        assert_eq!(folders.to_sync(["000/000/001"].into_iter()).0, set(&["000/000/001"]));

        folders.ensure(root.as_fd(), "000/000/002").unwrap();
        assert_eq!(
            folders.to_sync(["000/000/002"].into_iter()).0,
            set(&["000/000", "000/000/002"])
        );
    }

    #[test]
    fn a_folder_made_while_a_sync_runs_stays_fresh() {
        let place = tempfile::tempdir().unwrap();
        let root = sys::open_folder(place.path()).unwrap();
        let folders = Folders::default();
        folders.ensure(root.as_fd(), "000/000/001").unwrap();
        let running = folders.all();
        folders.ensure(root.as_fd(), "000/001/000").unwrap();
        folders.settled(&running);
        let (sync, _) = folders.to_sync(["000/001/000"].into_iter());
        assert_eq!(sync, set(&["000", "000/001", "000/001/000"]));
    }
}
