//! The registry as the threads share it: changed under a lock by the few messages of nodes, read
//! without one by the many of clients.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use crate::registry::{Now, Registry};
use crate::snapshot::Snapshot;

/// The one registry of a tracker and its newest snapshot.
#[derive(Debug)]
pub(crate) struct Picture {
    registry: Mutex<Registry>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    started: Instant,
}

impl Picture {
    pub(crate) fn new(mut registry: Registry) -> Self {
        let snapshot = registry.take_snapshot().unwrap_or_default();
        Self {
            registry: Mutex::new(registry),
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            started: Instant::now(),
        }
    }

    /// Changes the registry and, where clients are to see it, the snapshot; in one order for all.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Registry, Now) -> T) -> T {
        let mut registry = self.registry();
        let answer = change(&mut registry, self.now());
        if let Some(snapshot) = registry.take_snapshot() {
            self.snapshot.store(Arc::new(snapshot));
        }
        answer
    }

    /// Looks at the registry itself: for what a snapshot does not show.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Registry, Now) -> T) -> T {
        look(&self.registry(), self.now())
    }

    /// The snapshots, for a thread's cache of the newest.
    pub(crate) fn snapshots(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.snapshot)
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // A panic in the registry is a broken invariant; a release build has aborted then.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        Now { monotonic: self.started.elapsed(), unix: unix.map_or(0, |since| since.as_secs()) }
    }
}
