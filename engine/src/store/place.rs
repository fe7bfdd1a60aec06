//! A place that an upload has taken and not yet earned: whoever drops it gives it back.
//!
//! The rule it keeps: until the row's COMMIT is sent, a failure removes the file at once; from then on the file stays
//! until the row's state has been read back. A dropped place never unlinks by itself (it may be dropped on a data
//! thread): it goes to the store path's keeper, which may wait for the disk.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use reel_proto::path::{PathId, RelativePath};

use super::{
    keeper::KeeperJob,
    path::{StorePath, count},
    sys,
};
use crate::metadata::Owned;

/// A path id with a file that has no row yet.
pub(crate) struct NewPlace {
    /// `None` once it is settled.
    inner: Option<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Arc<StorePath>,
    pub(crate) id: PathId,
    pub(crate) relative: RelativePath,
    pub(crate) owner: Owned,
    /// The row's COMMIT may have been sent.
    pub(crate) sent: bool,
}

impl NewPlace {
    /// For a file that was just created, with O_EXCL, by this process.
    pub(crate) fn new(
        store: Arc<StorePath>,
        id: PathId,
        relative: RelativePath,
        owner: Owned,
    ) -> Self {
        Self { inner: Some(Inner { store, id, relative, owner, sent: false }) }
    }

    fn get(&self) -> &Inner {
        // Only settle() and drop take it, and both consume the place.
        self.inner.as_ref().expect("a place is settled once, at its end")
    }

    pub(crate) fn store(&self) -> &Arc<StorePath> {
        &self.get().store
    }

    pub(crate) fn id(&self) -> PathId {
        self.get().id
    }

    pub(crate) fn relative(&self) -> &RelativePath {
        &self.get().relative
    }

    pub(crate) fn owner(&self) -> &Owned {
        &self.get().owner
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.get().sent
    }

    /// The row's COMMIT is about to be sent (`true`), or it is known not to have happened (`false`).
    pub(crate) fn set_sent(&mut self, sent: bool) {
        if let Some(inner) = &mut self.inner {
            inner.sent = sent;
        }
    }

    /// The row is there: the file stays for good, and caches are told that the id may stand for another file now.
    pub(crate) fn keep(mut self) {
        if let Some(inner) = self.inner.take() {
            inner.store.epochs.bump(&inner.owner.file);
            inner.store.settle_id(inner.id, false);
        }
    }

    /// The row is known not to be there: removes the file. Waits for the disk.
    pub(crate) fn remove(mut self) {
        let Some(inner) = self.inner.take() else { return };
        match sys::unlink_at(inner.store.root(), inner.relative.as_str()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(store = inner.store.index, file = %inner.relative, %error,
                    "an unfinished file could not be removed; the sweep of the next start will");
                left_behind(&inner);
            }
            _ => {
                inner.store.settle_id(inner.id, true);
                count(&inner.store.counts.discarded, 1);
            }
        }
    }
}

impl Drop for NewPlace {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let keeping = inner.store.keeping.clone();
        let place = Self { inner: Some(inner) };
        if let Err(error) = keeping.try_send(KeeperJob::Settle(place, None)) {
            // The keeper has stopped, or thousands wait for its disk. The block stays held, so the sweep of the
            // next start looks here.
            let (flume::TrySendError::Full(job) | flume::TrySendError::Disconnected(job)) = error;
            if let KeeperJob::Settle(mut place, _) = job
                && let Some(inner) = place.inner.take()
            {
                left_behind(&inner);
            }
        }
    }
}

fn left_behind(inner: &Inner) {
    count(&inner.store.counts.left_behind, 1);
    inner.store.open_files.fetch_sub(1, Ordering::Relaxed);
}
