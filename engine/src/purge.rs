//! The housekeeper: purges what was deleted longer ago than the retention time, and starts repair passes.
//!
//! One thread for all store paths; the work itself is done by each path's keeper.

use std::{
    sync::{Arc, Weak},
    thread::JoinHandle,
    time::Duration,
};

use flume::{RecvTimeoutError, Sender};
use reel_meta::FileRow;

use crate::{
    metadata::{RowError, wait},
    repair::{self, Schedule},
    store::{ChangeError, Changed, StoreConfig, Stores, change::Kind},
};

/// How often deleted files are looked for.
const PURGE_EVERY: Duration = Duration::from_secs(60);

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
    let mut schedule = Schedule::new(config.repair_interval, stores.paths().len());
    let body = move || {
        let stop = || ended.is_disconnected();
        let mut first = true;
        let mut pause = Duration::ZERO;
        // The sender is only ever dropped.
        while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            pause = PURGE_EVERY;
            let Some(stores) = Weak::upgrade(&weak) else { return };
            if let Err(error) = purge_until(&stores, &stop) {
                tracing::warn!(%error, "purging what was deleted has to wait");
            }
            // Not among the first requests after a start.
            if !first {
                repair::all_due(&stores, &mut schedule, age_min, &stop);
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

/// Purges every file whose retention is over. How many went.
///
/// # Errors
/// The metadata's; what was purged until then is purged.
pub fn purge_due(stores: &Stores) -> Result<u64, RowError> {
    purge_until(stores, &|| false)
}

/// As [`purge_due`], up to the end of a step when `stop` says so: a node that ends does not wait for a month's deletes.
fn purge_until(stores: &Stores, stop: &dyn Fn() -> bool) -> Result<u64, RowError> {
    let before = stores.clock().now().saturating_sub(stores.retention.as_secs());
    let mut purged = 0;
    let mut after = None;
    loop {
        let page = wait(stores.metadata().deleted_before(before, after.take(), STEP))?;
        let last = page.rows.last().and_then(FileRow::deleted_cursor);
        purged += purge_rows(stores, page.rows);
        match last {
            Some(last) if page.more && !stop() => after = Some(last),
            _ => return Ok(purged),
        }
    }
}

/// All at once, so that each keeper shares one sync among many.
fn purge_rows(stores: &Stores, rows: Vec<FileRow>) -> u64 {
    let located = rows.into_iter().filter_map(|row| match stores.layout().locate(row) {
        Ok(file) => Some(file),
        Err(error) => {
            tracing::warn!(%error, "a deleted file cannot be purged");
            None
        }
    });
    let all = located.map(|file| stores.change_located(Kind::Purge, file));
    let outcomes = wait(futures_util::future::join_all(all));
    let mut purged = 0;
    for outcome in outcomes {
        match outcome {
            Ok(Changed::Done) => purged += 1,
            // Restored or purged by somebody else in between, or the disk is out of service: next time.
            Ok(Changed::Already)
            | Err(
                ChangeError::NotDeleted
                | ChangeError::Unknown
                | ChangeError::ReadOnly
                | ChangeError::Busy,
            ) => {}
            Err(error) => tracing::warn!(%error, "a deleted file could not be purged"),
        }
    }
    purged
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
        store::{Clock, FileKey, Reserve, StorePathConfig, UploadRequest},
    };

    struct Now(AtomicU64);

    impl Clock for Now {
        fn now(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn deleted(stores: &Arc<Stores>, name: &str) {
        let key = FileKey {
            app: AppId::parse("app").unwrap(),
            user: UserId::parse("user").unwrap(),
            file: FileId::parse(name).unwrap(),
        };
        let request =
            UploadRequest { key, size: None, name: None, content_type: None, expires_at: None };
        wait(async {
            let mut upload = stores.begin(request).await.unwrap();
            upload.write(Bytes::from_static(b"content")).await.unwrap();
            Box::pin(upload.finish()).await.unwrap();
            stores.delete(key).await.unwrap();
        });
    }

    #[test]
    fn a_purge_ends_with_its_step_when_the_node_ends() {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut path = StorePathConfig::new(folder.path().join("store"));
        path.reserve = Reserve { permille: 0, bytes_min: 0 };
        let (node, group) = (HostName::parse("node").unwrap(), GroupName::parse("g").unwrap());
        let config = StoreConfig::new(node, group, vec![path]);
        let metadata = Metadata::sqlite(&folder.path().join("storage.db")).unwrap();
        let clock = Arc::new(Now(AtomicU64::new(1000)));
        let stores = Stores::open_at(&config, metadata, clock.clone()).unwrap();
        wait(stores.block_arrived(0, 0..1024)).unwrap();
        for index in 0..STEP * 2 + 10 {
            deleted(&stores, &format!("f{index}"));
        }
        clock.0.fetch_add(stores.retention.as_secs() + 1, Ordering::Relaxed);
        let asked = Cell::new(0);
        let stop = || asked.replace(asked.get() + 1) > 0;
        assert_eq!(purge_until(&stores, &stop).unwrap(), 2 * STEP as u64);
        assert_eq!(purge_due(&stores).unwrap(), 10);
    }
}
