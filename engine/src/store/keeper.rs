//! The keeper of a store path: gives back places that uploads did not earn, settles unknown outcomes, carries out
//! deletes, restores and purges in their durable order, and looks at the free space.
//!
//! One thread per store path; everything here may wait for its disk or for the metadata. Changes of one file meet
//! here one after the other, so a delete and a restore at the same time end with record and row that agree.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use flume::{Receiver, RecvTimeoutError, Sender};
use reel_meta::{Change as RowChange, FileStatus, Removal, RowRef, StatusChange};

use super::{
    api::{ChangeError, Changed, FileKey, Located},
    change::{self, Found, Kind, Plan},
    invalidation::Epochs,
    path::{DiskFault, StorePath, count},
    place::NewPlace,
    sys,
};
use crate::{
    layout,
    metadata::{Metadata, Owned, RowError, wait},
    record::{self, Record},
};

/// Jobs that may wait for a keeper; past it, changes are refused as busy and places are left to the sweep.
pub(crate) const QUEUE_MAX: usize = 8192;

/// Changes that share one sync and one transaction.
const BATCH_MAX: usize = 256;

/// Files whose row's state could not be read yet. Past it they are left to the sweep of the next start.
const DOUBTFUL_MAX: usize = 8192;

/// How often the free space is looked at.
const SPACE_EVERY: Duration = Duration::from_secs(1);

/// Pause before an unknown outcome is asked about again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What a keeper is asked.
pub(crate) enum KeeperJob {
    /// A place whose upload is over: removed, or, where its row may exist, kept until that is known.
    Settle(NewPlace, Option<Sender<Settled>>),
    /// A delete, restore or purge of a file.
    Change(Box<Change>),
    /// Finish what came before, and end.
    Stop,
}

/// What became of a place whose row's state was unknown.
#[derive(Debug)]
pub(crate) enum Settled {
    /// The row is there and names this place: the file stays.
    Kept,
    /// There is no such row: the file is removed.
    NoRow,
    /// The file id's row names another place: this file is removed.
    Other,
    /// The metadata does not answer. The file stays, and the keeper goes on asking.
    Unknown,
}

/// A change of one file.
pub(crate) struct Change {
    pub(crate) kind: Kind,
    pub(crate) file: Located,
    pub(crate) reply: Sender<Result<Changed, ChangeError>>,
}

/// What a keeper works with.
pub(crate) struct Keeper {
    pub(crate) store: Arc<StorePath>,
    pub(crate) metadata: Metadata,
    pub(crate) epochs: Arc<Epochs>,
    /// For syncfs: this thread's own descriptor, so that it takes no error away from the committer's.
    pub(crate) folder: OwnedFd,
}

impl Keeper {
    /// The keeper's thread, until [`KeeperJob::Stop`].
    pub(crate) fn run(&self, queue: &Receiver<KeeperJob>) {
        let mut doubtful: VecDeque<NewPlace> = VecDeque::new();
        let mut look = Instant::now();
        loop {
            let pause = if doubtful.is_empty() { SPACE_EVERY } else { ASK_AGAIN };
            let first = match queue.recv_timeout(pause) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut changes = Vec::new();
            let mut stop = false;
            for job in first.into_iter().chain(queue.try_iter()).take(BATCH_MAX) {
                match job {
                    KeeperJob::Settle(place, reply) => self.settle(place, reply, &mut doubtful),
                    KeeperJob::Change(change) => changes.push(*change),
                    KeeperJob::Stop => stop = true,
                }
            }
            self.change_all(changes);
            for _ in 0..doubtful.len().min(BATCH_MAX) {
                let Some(place) = doubtful.pop_front() else { break };
                self.settle(place, None, &mut doubtful);
            }
            if look.elapsed() >= SPACE_EVERY {
                self.store.look_at_workers();
                self.store.look_at_space();
                look = Instant::now();
            }
            if stop {
                return;
            }
        }
    }

    fn settle(
        &self,
        place: NewPlace,
        reply: Option<Sender<Settled>>,
        doubtful: &mut VecDeque<NewPlace>,
    ) {
        let answer = |settled| {
            if let Some(reply) = reply {
                let _ = reply.try_send(settled);
            }
        };
        if !place.is_sent() {
            self.remove(place);
            return answer(Settled::NoRow);
        }
        let ours = layout::file_path(&self.store.identity.id_key, place.relative());
        match wait(self.metadata.read_back(place.owner().clone())) {
            Ok(Some(row)) if row.file_path == ours => {
                place.keep();
                answer(Settled::Kept);
            }
            Ok(row) => {
                self.remove(place);
                answer(if row.is_some() { Settled::Other } else { Settled::NoRow });
            }
            Err(error) => {
                tracing::warn!(store = self.store.index, file = %place.relative(), %error,
                    "the outcome of a commit is still unknown; its file stays");
                if doubtful.len() < DOUBTFUL_MAX {
                    doubtful.push_back(place);
                }
                answer(Settled::Unknown);
            }
        }
    }

    fn remove(&self, place: NewPlace) {
        let _watch = self.store.keeper_watch.begin(self.store.elapsed_ms());
        place.remove();
    }

    // --- delete, restore, purge

    /// Record durable → row → caches → unlink of what is purged → reply.
    fn change_all(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut begun = Vec::with_capacity(changes.len());
        for change in changes {
            match self.write_record(&change) {
                Ok(file) => begun.push((change, file)),
                Err(error) => answer(change, Err(error)),
            }
        }
        let synced = {
            let _watch = self.store.keeper_watch.begin(self.store.elapsed_ms());
            self.sync(&begun)
        };
        if let Err(error) = synced {
            self.store.sync_failed("the sync of a changed record", &error);
            let error = Arc::new(error);
            for (change, _) in begun {
                answer(change, Err(ChangeError::Disk(Arc::clone(&error))));
            }
            return;
        }
        let (purges, marks): (Vec<_>, Vec<_>) =
            begun.into_iter().map(|(change, _)| change).partition(|c| c.kind == Kind::Purge);
        self.change_rows(marks);
        self.remove_rows(purges);
    }

    /// The file whose record was rewritten, to be synced; `None` where nothing was to be written.
    fn write_record(&self, change: &Change) -> Result<Option<File>, ChangeError> {
        if self.store.is_read_only() {
            return Err(ChangeError::ReadOnly);
        }
        let disk = |error: io::Error| {
            self.store.failed(DiskFault::of(&error), "changing a record", &error);
            ChangeError::Disk(Arc::new(error))
        };
        let (file, found) = read_record(&self.store, &change.file).map_err(disk)?;
        let now = self.store.clock.now();
        let (Plan::Write(record), Some(file)) = (change::plan(change.kind, &found, now)?, file)
        else {
            return Ok(None);
        };
        let bytes = record.encode().map_err(|error| disk(io::Error::other(error)))?;
        sys::set_attribute(&file, record::ATTRIBUTE, &bytes).map_err(disk)?;
        self.store.touch();
        Ok(Some(file))
    }

    fn sync(&self, begun: &[(Change, Option<File>)]) -> io::Result<()> {
        if self.store.journal.load(Ordering::Acquire) {
            // The changes of the rows are durable in the journal, and say what the records must be.
            return Ok(());
        }
        let files: Vec<&File> = begun.iter().filter_map(|(_, file)| file.as_ref()).collect();
        match files.as_slice() {
            [] => return Ok(()),
            [file] => file.sync_all()?,
            [one, other] => one.sync_all().and_then(|()| other.sync_all())?,
            _ => sys::syncfs(self.folder.as_fd())?,
        }
        sys::still_in_service(files[0], record::ATTRIBUTE)
    }

    fn change_rows(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let now = self.store.clock.now();
        let rows = changes.iter().map(|change| {
            let deleted = change.kind == Kind::Delete;
            StatusChange {
                row: row_ref(&change.file),
                status: if deleted { FileStatus::Deleted } else { FileStatus::Normal },
                deleted_at: deleted.then_some(now),
                changed_at: now,
            }
        });
        let outcome = wait(self.metadata.set_status(rows.collect()));
        self.answer_rows(changes, outcome);
    }

    fn answer_rows(&self, changes: Vec<Change>, outcome: Result<Vec<RowChange>, RowError>) {
        // Also after an error: its outcome may be unknown, and a bump too many costs one lookup.
        for change in &changes {
            self.epochs.bump(&change.file.key.file);
        }
        match outcome {
            Ok(outcomes) => {
                for (change, outcome) in changes.into_iter().zip(outcomes) {
                    let applied = outcome == RowChange::Applied;
                    count(&self.store.counts.changes, u64::from(applied));
                    answer(
                        change,
                        if applied { Ok(Changed::Done) } else { Err(ChangeError::Unknown) },
                    );
                }
            }
            Err(error) => {
                for change in changes {
                    answer(change, Err(ChangeError::Metadata(Arc::clone(&error.text))));
                }
            }
        }
    }

    fn remove_rows(&self, purges: Vec<Change>) {
        if purges.is_empty() {
            return;
        }
        let rows = purges
            .iter()
            .map(|purge| Removal { row: row_ref(&purge.file), only: Some(FileStatus::Deleted) });
        let outcomes = match wait(self.metadata.purge(rows.collect())) {
            Ok(outcomes) => outcomes,
            Err(error) => return self.answer_rows(purges, Err(error)),
        };
        for (purge, outcome) in purges.into_iter().zip(outcomes) {
            self.epochs.bump(&purge.file.key.file);
            let result = match outcome {
                RowChange::Applied => self.unlink(&purge.file),
                RowChange::Missing => self.purge_overtaken(&purge.file),
            };
            answer(purge, result);
        }
    }

    /// The row is gone: nothing names the file any more, and its record says why.
    fn unlink(&self, file: &Located) -> Result<Changed, ChangeError> {
        match sys::unlink_at(self.store.root(), file.relative.as_str()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.store.failed(DiskFault::of(&error), "unlinking a purged file", &error);
                Err(ChangeError::Disk(Arc::new(error)))
            }
            _ => {
                self.store.touch();
                count(&self.store.counts.purged, 1);
                Ok(Changed::Done)
            }
        }
    }

    /// No deleted row fits. Either somebody purged it before, or it was restored on another node between the look
    /// and the removal: then the restore wins, and the record is put back.
    fn purge_overtaken(&self, file: &Located) -> Result<Changed, ChangeError> {
        let row = wait(self.metadata.read_back(owned(&file.key)))
            .map_err(|error| ChangeError::Metadata(error.text))?;
        if row.is_none_or(|row| row.file_path != file.file_path) {
            return self.unlink_if_purging(file);
        }
        let disk = |error: io::Error| ChangeError::Disk(Arc::new(error));
        if let (Some(opened), Found::Record(mut record)) =
            read_record(&self.store, file).map_err(disk)?
        {
            record.state = record::State::Normal;
            record.deleted_at = None;
            let bytes = record.encode().map_err(|error| disk(io::Error::other(error)))?;
            sys::set_attribute(&opened, record::ATTRIBUTE, &bytes).map_err(disk)?;
            if let Err(error) = opened.sync_all() {
                self.store.sync_failed("the sync of a restored record", &error);
                return Err(disk(error));
            }
        }
        Err(ChangeError::NotDeleted)
    }

    /// Nothing names the file. Only a record that says "purging" makes it ours to unlink.
    fn unlink_if_purging(&self, file: &Located) -> Result<Changed, ChangeError> {
        let found = read_record(&self.store, file).map_err(|e| ChangeError::Disk(Arc::new(e)))?;
        match found.1 {
            Found::Record(record) if record.state == record::State::Purging => self.unlink(file),
            _ => Err(ChangeError::Unknown),
        }
    }
}

fn row_ref(file: &Located) -> RowRef {
    RowRef {
        user: file.key.user.as_str().to_owned(),
        file: file.key.file.as_str().to_owned(),
        path: file.file_path.clone(),
    }
}

fn answer(change: Change, result: Result<Changed, ChangeError>) {
    let _ = change.reply.try_send(result);
}

/// The text form of a key, for the metadata.
pub(crate) fn owned(key: &FileKey) -> Owned {
    Owned {
        app: key.app.as_str().to_owned(),
        user: key.user.as_str().to_owned(),
        file: key.file.as_str().to_owned(),
    }
}

/// Opens a file and reads its record, if it is one of this very file.
pub(crate) fn read_record(store: &StorePath, file: &Located) -> io::Result<(Option<File>, Found)> {
    // Attributes of a descriptor opened for reading can be written by the file's owner.
    let opened = match sys::open_at(store.root(), file.relative.as_str(), libc::O_RDONLY) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, Found::None)),
        Err(error) => return Err(error),
    };
    let found = match sys::attribute(&opened, record::ATTRIBUTE, record::LEN_MAX) {
        Ok(None) => Found::None,
        Ok(Some(bytes)) => match Record::decode(&bytes) {
            Ok(record) if record.path_id == file.path_id && is_of(&record, &file.key) => {
                Found::Record(Box::new(record))
            }
            _ => Found::Doubtful,
        },
        Err(error) if error.raw_os_error() == Some(libc::ERANGE) => Found::Doubtful,
        Err(error) => return Err(error),
    };
    Ok((Some(opened), found))
}

fn is_of(record: &Record, key: &FileKey) -> bool {
    (record.app, record.user, record.file) == (key.app, key.user, key.file)
}
