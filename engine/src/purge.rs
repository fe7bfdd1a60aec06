//! The housekeeper: purges what was deleted longer ago than the retention time, and starts repair passes.
//!
//! One thread for all store paths; the work itself is done by each path's keeper.

use std::{
    sync::{Arc, Weak},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use flume::{RecvTimeoutError, Sender};
use reel_meta::FileRow;

use crate::{
    metadata::{RowError, wait},
    repair,
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
    let (interval, age_min) = (config.repair_interval, config.repair_age_min);
    let body = move || {
        let mut repaired = Instant::now();
        let mut pause = Duration::ZERO;
        // The sender is only ever dropped.
        while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            pause = PURGE_EVERY;
            let Some(stores) = Weak::upgrade(&weak) else { return };
            if let Err(error) = purge_due(&stores) {
                tracing::warn!(%error, "purging what was deleted has to wait");
            }
            if !interval.is_zero() && repaired.elapsed() >= interval {
                repaired = Instant::now();
                repair::all(&stores, age_min, &|| ended.is_disconnected());
            }
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
    let before = stores.clock().now().saturating_sub(stores.retention.as_secs());
    let mut purged = 0;
    let mut after = None;
    loop {
        let page = wait(stores.metadata().deleted_before(before, after.take(), STEP))?;
        let last = page.rows.last().and_then(FileRow::deleted_cursor);
        purged += purge_rows(stores, page.rows);
        match last {
            Some(last) if page.more => after = Some(last),
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
