//! What other nodes may have done with a file that this one knows: whether it hears of that, and where it can look.

use std::sync::Arc;

use super::{
    Located, LookupError, Place, Stores,
    inspect::{self, Seal},
    sys,
};
use crate::record::State;

impl Stores {
    /// Whether what is remembered of a file has to be compared with its row at each request: others may change it, and
    /// this node does not hear of it.
    pub(crate) fn must_check(&self) -> bool {
        self.metadata.watch().must_check()
    }

    /// Whether this node does not hear what others change in the metadata.
    pub(crate) fn is_blind(&self) -> bool {
        self.metadata.watch().is_blind()
    }

    /// Whether other nodes have this store path, too.
    pub(crate) fn is_shared(&self, store: usize) -> bool {
        self.paths.get(store).is_some_and(|store| store.sharing.is_shared())
    }

    /// Whether something lies at the place of a file. Waits for the disk.
    pub(crate) fn has_file(&self, file: &Located) -> bool {
        let path = self.paths.get(file.store);
        path.is_some_and(|path| {
            sys::open_at(path.root(), file.relative.as_str(), libc::O_PATH).is_ok()
        })
    }

    /// Whether a file is not deleted by what lies at its place, past this node's brick. One without a record is as it was known.
    ///
    /// # Errors
    /// The store path does not say.
    pub(crate) async fn is_readable(&self, file: &Place) -> Result<bool, LookupError> {
        let store = Arc::clone(self.paths.get(file.store).ok_or_else(LookupError::unsure)?);
        let (pool, file) = (store.pool.clone(), *file);
        let look = move || {
            let opened = sys::open_to_read(store.root(), file.relative.as_str())?;
            inspect::seal_of(&opened, file.path_id)
        };
        match pool.run(look).await {
            Ok(Ok(Seal::Good(record))) => Ok(record.state == State::Normal),
            Ok(Ok(Seal::None | Seal::Doubtful(_))) => Ok(true),
            // Not even one that is not there: it may have been purged, or moved.
            Ok(Err(_)) | Err(_) => Err(LookupError::unsure()),
        }
    }

    /// Such a comparison had no answer. For a moment nobody tries again.
    pub(crate) fn check_failed(&self) {
        self.metadata.watch().check_failed();
    }
}
