//! The housekeeper: deletes what has expired, purges what was deleted longer ago than the retention time, and starts
//! repair passes.
//!
//! One thread for all store paths; the work itself is done by each path's keeper. Of several nodes that have the same store
//! one at a time does it: the one that has its lease.

use std::{
    sync::{Arc, Weak},
    thread::JoinHandle,
    time::Duration,
};

use flume::{RecvTimeoutError, Sender};
use reel_meta::{FileRow, Page, TimeCursor};

use crate::{
    metadata::{Lease, RowError, wait},
    repair::{self, Schedule},
    store::{ChangeError, Changed, StoreConfig, Stores, change::Kind, path::StorePath},
};

/// How often files whose time is over are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How long a lease is held: a node that is gone keeps others from the work for so long.
const LEASE_SECONDS: u64 = 3 * LOOK_EVERY.as_secs();

/// Files of one step.
const STEP: usize = 256;

/// Starts the thread; `None` where the system refuses one (logged: nothing is lost by purging later).
pub(crate) fn start(
    stores: &Arc<Stores>,
    config: &StoreConfig,
) -> Option<(Sender<()>, JoinHandle<()>)> {
    let (end, ended) = flume::bounded::<()>(0);
    let weak = Arc::downgrade(stores);
    let age_min = config.repair_age_min;
    let node = config.node.as_str().to_owned();
    let mut schedule = Schedule::new(config.repair_interval, stores.paths().len());
    let body = move || {
        let stop = || ended.is_disconnected();
        let mut first = true;
        let mut pause = Duration::ZERO;
        // The sender is only ever dropped.
        while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            pause = LOOK_EVERY;
            let Some(stores) = Weak::upgrade(&weak) else { return };
            let ours: Vec<bool> =
                stores.paths().iter().map(|path| lease(&stores, path, &node)).collect();
            for due in [Due::Expiry, Due::Purge] {
                if let Err(error) = due.until(&stores, &|store| ours[store], &stop) {
                    tracing::warn!(%error, ?due, "files whose time is over have to wait");
                }
            }
            // Not among the first requests after a start.
            if !first {
                repair::all_due(&stores, &mut schedule, age_min, &|store| ours[store], &stop);
            }
            first = false;
        }
    };
    match std::thread::Builder::new().name("reel-housekeep".to_owned()).spawn(body) {
        Ok(thread) => Some((end, thread)),
        Err(error) => {
            tracing::error!(%error, "no thread for purging and repair");
            None
        }
    }
}

/// Whether this node looks after the files of a store path that other nodes may have too.
fn lease(stores: &Stores, path: &StorePath, node: &str) -> bool {
    let name = format!("sweep {}", path.identity.uuid);
    let lease = Lease { name, holder: node.to_owned(), seconds: LEASE_SECONDS };
    wait(stores.metadata().lease(lease)).unwrap_or_else(|error| {
        tracing::debug!(store = path.index, %error, "no lease for looking after the store");
        false
    })
}

/// Purges every file whose retention is over. How many went.
///
/// # Errors
/// The metadata's; what was purged until then is purged.
pub fn purge_due(stores: &Stores) -> Result<u64, RowError> {
    Due::Purge.until(stores, &|_| true, &|| false)
}

/// Deletes every file whose expiry is over, softly. How many were deleted.
///
/// # Errors
/// The metadata's; what was deleted until then is deleted.
pub fn expire_due(stores: &Stores) -> Result<u64, RowError> {
    Due::Expiry.until(stores, &|_| true, &|| false)
}

/// Why a file's time is over.
#[derive(Debug, Clone, Copy)]
enum Due {
    /// Its owner wanted it until then.
    Expiry,
    /// It was deleted, and its retention is over.
    Purge,
}

impl Due {
    fn page(self, stores: &Stores, after: Option<TimeCursor>) -> Result<Page, RowError> {
        let now = stores.clock().now();
        match self {
            Self::Expiry => wait(stores.metadata().expired_before(now, after, STEP)),
            Self::Purge => {
                let before = now.saturating_sub(stores.retention.as_secs());
                wait(stores.metadata().deleted_before(before, after, STEP))
            }
        }
    }

    fn cursor(self, row: &FileRow) -> Option<TimeCursor> {
        match self {
            Self::Expiry => row.expiry_cursor(),
            Self::Purge => row.deleted_cursor(),
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Expiry => Kind::Delete,
            Self::Purge => Kind::Purge,
        }
    }

    /// Does it to all files of the store paths that are `ours`, up to the end of a step when `stop` says so: a node that
    /// ends does not wait for a month's deletes.
    fn until(
        self,
        stores: &Stores,
        ours: &dyn Fn(usize) -> bool,
        stop: &dyn Fn() -> bool,
    ) -> Result<u64, RowError> {
        let mut done = 0;
        let mut after = None;
        loop {
            let page = self.page(stores, after.take())?;
            let last = page.rows.last().and_then(|row| self.cursor(row));
            done += self.step(stores, ours, page.rows);
            match last {
                Some(last) if page.more && !stop() => after = Some(last),
                _ => return Ok(done),
            }
        }
    }

    /// All at once, so that each keeper shares one sync among many.
    fn step(self, stores: &Stores, ours: &dyn Fn(usize) -> bool, rows: Vec<FileRow>) -> u64 {
        let located = rows.into_iter().filter_map(|row| match stores.layout().locate(row) {
            Ok(file) => Some(file),
            // Of a node that has other stores.
            Err(error) => {
                tracing::debug!(%error, due = ?self, "not here");
                None
            }
        });
        // One without a file here may be of another group, with the same prefix and a database in common: the nodes that have
        // the file look after it, or it would outlive its row, and come back as one whose row is lost.
        let located = located.filter(|file| ours(file.store) && stores.has_file(file));
        // Nothing goes for good from what is being taken over.
        let located = located.filter(|file| {
            matches!(self, Self::Expiry) || !stores.paths()[file.store].is_adopting()
        });
        let all = located.map(|file| stores.change_located(self.kind(), file));
        let outcomes = wait(futures_util::future::join_all(all));
        let mut done = 0;
        for outcome in outcomes {
            match outcome {
                Ok(Changed::Done) => done += 1,
                // Changed by somebody else in between, or the disk is out of service: next time.
                Ok(Changed::Already)
                | Err(
                    ChangeError::NotDeleted
                    | ChangeError::Unknown
                    | ChangeError::ReadOnly
                    | ChangeError::Adopting
                    | ChangeError::Busy
                    | ChangeError::Late
                    | ChangeError::Metadata { retryable: true, .. },
                ) => {}
                Err(error) => {
                    tracing::warn!(%error, due = ?self, "a file whose time is over stays")
                }
            }
        }
        done
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        cell::Cell,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
    };

    use bytes::Bytes;
    use reel_proto::name::{AppId, FileId, GroupName, HostName, UserId};

    use super::*;
    use crate::{
        metadata::Metadata,
        store::{Clock, FileKey, Lookup, Reserve, Status, StorePathConfig, UploadRequest},
    };

    struct Now(AtomicU64);

    impl Clock for Now {
        fn now(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn key(name: &str) -> FileKey {
        FileKey {
            app: AppId::parse("app").unwrap(),
            user: UserId::parse("user").unwrap(),
            file: FileId::parse(name).unwrap(),
        }
    }

    fn put(stores: &Arc<Stores>, name: &str, expires_at: Option<u64>) {
        let key = key(name);
        let request = UploadRequest { key, size: None, name: None, content_type: None, expires_at };
        wait(async {
            let mut upload = stores.begin(request).await.unwrap();
            upload.write(Bytes::from_static(b"content")).await.unwrap();
            Box::pin(upload.finish()).await.unwrap();
        });
    }

    fn open(folder: &std::path::Path, clock: &Arc<Now>) -> Arc<Stores> {
        let mut path = StorePathConfig::new(folder.join("store"));
        path.reserve = Reserve { permille: 0, bytes_min: 0 };
        let (node, group) = (HostName::parse("node").unwrap(), GroupName::parse("g").unwrap());
        let config = StoreConfig::new(node, group, vec![path]);
        let metadata = Metadata::sqlite(&folder.join("storage.db")).unwrap();
        let stores = Stores::open_at(&config, metadata, clock.clone()).unwrap();
        wait(stores.block_arrived(0, 0..1024)).unwrap();
        stores
    }

    #[test]
    fn what_has_expired_is_deleted_and_then_purged() {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let clock = Arc::new(Now(AtomicU64::new(1000)));
        let stores = open(folder.path(), &clock);
        for index in 0..STEP as u64 + 20 {
            put(&stores, &format!("f{index}"), Some(2000 + index));
        }
        put(&stores, "stays", None);
        assert_eq!(expire_due(&stores).unwrap(), 0);
        clock.0.store(2009, Ordering::Relaxed);
        assert_eq!(expire_due(&stores).unwrap(), 10, "at its second, not after");
        let state = |name| wait(stores.stat(Lookup::Owned(key(name)))).unwrap().map(|f| f.status);
        assert_eq!(state("f9"), Some(Status::Deleted));
        assert_eq!(state("f10"), Some(Status::Normal));
        clock.0.store(5000, Ordering::Relaxed);
        assert_eq!(expire_due(&stores).unwrap(), STEP as u64 + 10);
        assert_eq!(expire_due(&stores).unwrap(), 0, "once");
        assert_eq!(purge_due(&stores).unwrap(), 0, "kept for its retention");
        clock.0.fetch_add(stores.retention.as_secs() + 1, Ordering::Relaxed);
        assert_eq!(purge_due(&stores).unwrap(), STEP as u64 + 20);
        assert_eq!((state("f9"), state("stays")), (None, Some(Status::Normal)));
    }

    #[test]
    fn a_purge_ends_with_its_step_when_the_node_ends() {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let clock = Arc::new(Now(AtomicU64::new(1000)));
        let stores = open(folder.path(), &clock);
        for index in 0..STEP * 2 + 10 {
            let name = format!("f{index}");
            put(&stores, &name, None);
            wait(stores.delete(key(&name))).unwrap();
        }
        clock.0.fetch_add(stores.retention.as_secs() + 1, Ordering::Relaxed);
        let asked = Cell::new(0);
        let stop = || asked.replace(asked.get() + 1) > 0;
        assert_eq!(Due::Purge.until(&stores, &|_| true, &stop).unwrap(), 2 * STEP as u64);
        assert_eq!(purge_due(&stores).unwrap(), 10);
    }
}
