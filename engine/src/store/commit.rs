//! Group commit: many sealed files are made durable together, and their rows go into one transaction.
//!
//! One thread per store path. It takes what has been sealed while the last group was being synced, so the groups
//! grow with the load by themselves and a lone upload never waits for company. Rows are handed on to the metadata
//! without waiting, so the next group syncs while they commit.

use std::{collections::BTreeSet, fs::File, io, os::fd::OwnedFd, sync::Arc, time::Instant};

use bytes::Bytes;
use flume::{Receiver, Sender};
use reel_meta::{InsertOutcome, NewFile};
use reel_node::metrics::Cell;
use reel_proto::path::PathId;

use super::{
    api::Durability,
    durable::NotDurable,
    folders::Fresh,
    mark,
    path::{StorePath, count},
    place::NewPlace,
    sharing::Sharing,
    sys,
    write::WriteError,
};
use crate::{
    metadata::{Insert, Metadata, RowError, Waiting},
    record,
};

/// Up to so many files are synced one by one; more share one syncfs. See docs/decisions/0003.
const EACH_MAX: usize = 2;

reel_node::metric_table! {
    /// What a committer measures of its store path. Its thread alone counts here.
    pub(crate) struct Commits;
    /// Files of a group.
    histogram FILES = "reel_engine_store_commit_files", Count,
        "Files in a group that was made durable.";
    /// Time of a group.
    histogram TIME = "reel_engine_store_commit_seconds", Micros,
        "Time until a group was durable, its rows not included.";
}

/// What a committer is asked.
pub(crate) enum CommitJob {
    /// Make it durable, then insert its row.
    Put(Box<Sealed>),
    /// Finish what came before, and end.
    Stop,
}

/// A file whose content and record are written, and nothing of it durable yet.
pub(crate) struct Sealed {
    pub(crate) place: NewPlace,
    pub(crate) file: File,
    /// [`StorePath::sync_generation`] from when the file was created.
    pub(crate) generation: u64,
    pub(crate) row: NewFile,
    pub(crate) reply: Reply,
}

/// Where the answer goes: how the commit ended, or what failed on a worker before it.
pub(crate) type Reply = Sender<Result<Committed, WriteError>>;

/// Boxed as they came through the queue: moving them about costs a pointer each.
type Group = Vec<Box<Sealed>>;

/// How a commit ended for one file.
pub(crate) struct Committed {
    /// Where the row was inserted, the place is kept already and this is `None`.
    pub(crate) place: Option<NewPlace>,
    pub(crate) path_id: PathId,
    /// The row that was sent, or was to be.
    pub(crate) row: NewFile,
    pub(crate) result: Result<InsertOutcome, CommitError>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CommitError {
    /// The sync of the group failed; there is no row.
    #[error("sync: {0}")]
    Sync(Arc<io::Error>),
    /// The rows' transaction failed, or its outcome is not known.
    #[error("row: {0}")]
    Row(RowError),
}

/// One way to make a group of sealed files durable. The commit journal will be another.
pub(crate) trait Strategy: Send {
    /// On return content, record, name and every new folder above each file survive a power loss.
    ///
    /// # Errors
    /// See [`NotDurable`]. What the sync itself refused must not be tried again.
    fn make_durable(&mut self, store: &StorePath, group: &[&Sealed]) -> Result<(), NotDurable>;
}

/// The strategy of a store path. The folder is opened once more: a descriptor of our own tells us every write-back
/// error since now, whoever else syncs the file system.
pub(crate) fn strategy(
    durability: Durability,
    sharing: &Sharing,
    folder: OwnedFd,
) -> Box<dyn Strategy> {
    match (durability, sharing) {
        (Durability::Sync, Sharing::Alone) => Box::new(SyncGroup { folder }),
        // Each file was synced by whoever sealed it.
        (Durability::Sync, Sharing::With(_)) | (Durability::Async, _) => Box::new(NoSync),
    }
}

/// A sync for each file of a small group, one syncfs for a larger one.
struct SyncGroup {
    folder: OwnedFd,
}

impl Strategy for SyncGroup {
    fn make_durable(&mut self, store: &StorePath, group: &[&Sealed]) -> Result<(), NotDurable> {
        if group.len() > EACH_MAX {
            use std::os::fd::AsFd;
            let fresh = store.folders.all();
            sys::syncfs(self.folder.as_fd()).map_err(NotDurable::Refused)?;
            in_service(group)?;
            store.folders.settled(&fresh);
            return Ok(());
        }
        let (folders, fresh) = to_sync(store, group);
        for sealed in group {
            // fsync, not fdatasync: after fdatasync one in twenty records was gone on ext4.
            sealed.file.sync_all().map_err(NotDurable::Refused)?;
        }
        for folder in folders {
            mark::sync_folder(store.root(), &folder)?;
        }
        in_service(group)?;
        store.folders.settled(&fresh);
        Ok(())
    }
}

/// One file speaks for its whole file system.
fn in_service(group: &[&Sealed]) -> Result<(), NotDurable> {
    group.first().map_or(Ok(()), |sealed| {
        sys::still_in_service(&sealed.file, record::ATTRIBUTE).map_err(NotDurable::in_doubt)
    })
}

fn to_sync(store: &StorePath, group: &[&Sealed]) -> (BTreeSet<String>, Fresh) {
    store.folders.to_sync(group.iter().map(|sealed| sealed.place.relative().directory()))
}

/// Of files that are durable already, or shall not be waited for.
struct NoSync;

impl Strategy for NoSync {
    fn make_durable(&mut self, _: &StorePath, _: &[&Sealed]) -> Result<(), NotDurable> {
        Ok(())
    }
}

/// The committer's thread, until [`CommitJob::Stop`].
pub(crate) fn run(
    store: &StorePath,
    queue: &Receiver<CommitJob>,
    strategy: &mut dyn Strategy,
    metadata: &Metadata,
    files_max: usize,
) {
    let cell = store.commit_metrics.cell();
    loop {
        let (group, stop) = gather(queue, files_max);
        if !group.is_empty() {
            commit(store, strategy, metadata, &cell, group);
        }
        if stop {
            return;
        }
    }
}

fn gather(queue: &Receiver<CommitJob>, files_max: usize) -> (Group, bool) {
    let mut group = Vec::new();
    let mut job = queue.recv();
    loop {
        match job {
            Ok(CommitJob::Put(sealed)) => group.push(sealed),
            Ok(CommitJob::Stop) | Err(flume::RecvError::Disconnected) => return (group, true),
        }
        if group.len() >= files_max {
            return (group, false);
        }
        match queue.try_recv() {
            Ok(next) => job = Ok(next),
            Err(_) => return (group, false),
        }
    }
}

fn commit(
    store: &StorePath,
    strategy: &mut dyn Strategy,
    metadata: &Metadata,
    cell: &Cell<Commits>,
    group: Group,
) {
    let now = store.sync_generation();
    let (group, lost): (Vec<_>, Vec<_>) =
        group.into_iter().partition(|sealed| sealed.generation == now && !store.is_read_only());
    let earlier = "a sync failed while the upload was under way";
    fail(lost, &Arc::new(io::Error::other(earlier)));
    if group.is_empty() {
        return;
    }
    let began = Instant::now();
    let members: Vec<&Sealed> = group.iter().map(AsRef::as_ref).collect();
    let synced = {
        let _watch = store.commit_watch.begin(store.elapsed_ms());
        strategy.make_durable(store, &members)
    };
    match synced {
        Ok(()) => {
            let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            count(&store.counts.commit_us, us);
            count(&store.counts.commits, 1);
            count(&store.counts.commit_files, group.len() as u64);
            cell.observe(Commits::FILES, group.len() as u64);
            cell.observe(Commits::TIME, us);
            metadata.insert(group.into_iter().map(insert).collect());
        }
        Err(error) => {
            count(&store.counts.commit_failures, 1);
            store.not_durable("the sync of a commit", &error);
            fail(group, &Arc::new(error.into()));
        }
    }
}

fn fail(group: Group, error: &Arc<io::Error>) {
    for sealed in group {
        let Sealed { place, row, reply, .. } = *sealed;
        let path_id = place.id();
        let result = Err(CommitError::Sync(Arc::clone(error)));
        // Where nobody waits any more the place is dropped here, which removes the file.
        let _ = reply.try_send(Ok(Committed { place: Some(place), path_id, row, result }));
    }
}

fn insert(sealed: Box<Sealed>) -> Insert {
    let Sealed { mut place, row, reply, .. } = *sealed;
    place.set_sent(true);
    insert_of(place, row, None, reply)
}

/// The insert of a row whose file lies at `place`, which is already marked as sent: durably, or with its `content` for
/// the journal. Dropped unanswered, the place goes to the keeper, which reads the row back.
pub(crate) fn insert_of(
    place: NewPlace,
    row: NewFile,
    content: Option<Vec<Bytes>>,
    reply: Reply,
) -> Insert {
    let path_id = place.id();
    let sent = row.clone();
    let is_journaled = content.is_some();
    let done = move |result: Result<InsertOutcome, RowError>| {
        let mut place = place;
        let inserted = match &result {
            Ok(InsertOutcome::Inserted) => true,
            // A repair found the sealed file while this insert was queued, and adopted it.
            Ok(InsertOutcome::Exists(row)) => {
                place.store().is_named_by(row, place.relative().as_str())
            }
            _ => false,
        };
        let (place, result) = match result {
            Ok(_) if inserted => {
                count(&place.store().counts.uploads, 1);
                count(&place.store().counts.journaled, u64::from(is_journaled));
                place.keep();
                (None, Ok(InsertOutcome::Inserted))
            }
            Ok(other) => {
                place.set_sent(false);
                (Some(place), Ok(other))
            }
            Err(error) => {
                place.set_sent(error.unknown);
                (Some(place), Err(CommitError::Row(error)))
            }
        };
        let _ = reply.try_send(Ok(Committed { place, path_id, row: sent, result }));
    };
    Insert { row, file: Waiting { content, done: Box::new(done) } }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use reel_proto::name::{AppId, FileId, GroupName, HostName, UserId};

    use super::*;
    use crate::{
        metadata::wait,
        store::{
            FileKey, Reserve, StoreConfig, StorePathConfig, Stores, UploadRequest, write::Writing,
        },
    };

    /// Says no so many times, then yes; counts how often it was asked.
    struct Scripted {
        failures: Vec<i32>,
        asked: usize,
    }

    impl Strategy for Scripted {
        fn make_durable(&mut self, _: &StorePath, _: &[&Sealed]) -> Result<(), NotDurable> {
            self.asked += 1;
            let refused = |code| NotDurable::Refused(io::Error::from_raw_os_error(code));
            self.failures.pop().map_or(Ok(()), |code| Err(refused(code)))
        }
    }

    fn stores(folder: &std::path::Path) -> (Arc<Stores>, Metadata) {
        let mut path = StorePathConfig::new(folder.join("store"));
        path.reserve = Reserve { permille: 0, bytes_min: 0 };
        let config = StoreConfig::new(
            HostName::parse("node").unwrap(),
            GroupName::parse("g").unwrap(),
            vec![path],
        );
        let metadata = Metadata::sqlite(&folder.join("storage.db")).unwrap();
        let stores = Stores::open(&config, metadata.clone()).unwrap();
        wait(stores.block_arrived(0, 0..64)).unwrap();
        (stores, metadata)
    }

    fn sealed(
        store: &Arc<StorePath>,
        name: &str,
    ) -> (Sealed, Receiver<Result<Committed, WriteError>>) {
        let key = FileKey {
            app: AppId::parse("app").unwrap(),
            user: UserId::parse("user").unwrap(),
            file: FileId::parse(name).unwrap(),
        };
        let request =
            UploadRequest { key, size: None, name: None, content_type: None, expires_at: None };
        let mut writing = Writing::create(store, &request).unwrap();
        writing.append(&[Bytes::from_static(b"content")], false).unwrap();
        let (reply, answer) = flume::bounded(1);
        (writing.seal(&request, reply).unwrap(), answer)
    }

    fn commit_one(
        stores: &Stores,
        metadata: &Metadata,
        strategy: &mut Scripted,
        sealed: Sealed,
        answer: &Receiver<Result<Committed, WriteError>>,
    ) -> Result<InsertOutcome, CommitError> {
        let store = &stores.paths()[0];
        let cell = store.commit_metrics.cell();
        commit(store, strategy, metadata, &cell, vec![Box::new(sealed)]);
        answer.recv().unwrap().unwrap().result
    }

    #[test]
    fn a_failed_sync_is_asked_once_and_no_later_file_is_synced() {
        let folder = tempfile::tempdir().unwrap();
        let (stores, metadata) = stores(folder.path());
        let store = &stores.paths()[0];
        let (first, first_answer) = sealed(store, "first");
        let (second, second_answer) = sealed(store, "second");
        let mut strategy = Scripted { failures: vec![libc::EIO], asked: 0 };
        let one = commit_one(&stores, &metadata, &mut strategy, first, &first_answer);
        assert!(matches!(one, Err(CommitError::Sync(_))));
        let two = commit_one(&stores, &metadata, &mut strategy, second, &second_answer);
        assert!(matches!(two, Err(CommitError::Sync(_))));
        assert_eq!(strategy.asked, 1);
        assert!(store.is_read_only());
    }

    #[test]
    fn a_file_begun_before_a_failed_sync_is_not_committed_by_a_later_one() {
        let folder = tempfile::tempdir().unwrap();
        let (stores, metadata) = stores(folder.path());
        let store = &stores.paths()[0];
        let (before, before_answer) = sealed(store, "before");
        let (other, other_answer) = sealed(store, "other");
        // Want of space: the path stays in service, but the pages of "before" may be among those that were lost.
        let mut strategy = Scripted { failures: vec![libc::ENOSPC], asked: 0 };
        let lost = commit_one(&stores, &metadata, &mut strategy, other, &other_answer);
        assert!(matches!(lost, Err(CommitError::Sync(_))));
        assert!(!store.is_read_only());
        let late = commit_one(&stores, &metadata, &mut strategy, before, &before_answer);
        assert!(matches!(late, Err(CommitError::Sync(_))));
        assert_eq!(strategy.asked, 1);
        let (after, after_answer) = sealed(store, "after");
        let well = commit_one(&stores, &metadata, &mut strategy, after, &after_answer);
        assert_eq!(well.unwrap(), InsertOutcome::Inserted);
        let seen = |histogram| store.commit_metrics.observations(histogram);
        assert_eq!((seen(Commits::FILES), seen(Commits::TIME)), (1, 1), "only what was durable");
    }
}
