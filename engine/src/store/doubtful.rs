//! Files of a store path that its disk may have lost: acknowledged, and only the journal is known to have them. None of
//! them is served until it was written again.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use reel_proto::path::PathId;

/// Their path ids; almost always none.
#[derive(Debug, Default)]
pub(crate) struct Doubtful {
    /// Looked at before the lock is taken.
    any: AtomicBool,
    ids: Mutex<HashSet<PathId>>,
}

impl Doubtful {
    /// From now on this file is not served.
    pub(crate) fn add(&self, id: PathId) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        self.any.store(true, Ordering::Release);
    }

    pub(crate) fn has(&self, id: PathId) -> bool {
        self.any.load(Ordering::Acquire)
            && self.ids.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }
}
