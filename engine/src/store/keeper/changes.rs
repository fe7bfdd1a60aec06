//! Carries out deletes, restores and purges: record durable → row → unlink of what is purged → caches → reply.
//!
//! Row and record of a file are read here, by the one thread of its store path that changes their states, so what is
//! decided from them still holds when it is done. The sweep, which runs when there is no keeper, uses it too.

use std::{
    collections::HashSet,
    fs::{File, TryLockError},
    io,
    os::fd::{AsFd as _, BorrowedFd},
    panic::resume_unwind,
    sync::Arc,
};

use flume::Sender;
use futures_util::future::join_all;
use reel_meta::{Change as RowChange, FileRow, FileStatus, Removal, RowRef, StatusChange};
use reel_proto::path::{PathId, RelativePath};

use super::owned;
use crate::{
    metadata::{Metadata, Records, RowError, wait},
    record::{self, Record},
    store::{
        api::{ChangeError, Changed, FileKey, Located},
        change::{self, Found, Kind, Step},
        inspect,
        path::{DiskFault, StorePath, count},
        sys,
    },
};

/// Syncs of single files that a round waits for at the same time.
const SYNCS_MAX: usize = 8;

/// A file and where it lies. Which row names that place is read when a change is carried out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) key: FileKey,
    pub(crate) path_id: PathId,
    pub(crate) relative: RelativePath,
}

impl From<&Located> for Target {
    fn from(file: &Located) -> Self {
        Self { key: file.key, path_id: file.path_id, relative: file.relative }
    }
}

/// A change of one file.
pub(crate) struct Change {
    pub(crate) kind: Kind,
    pub(crate) file: Target,
    pub(crate) reply: Sender<Result<Changed, ChangeError>>,
}

/// The hands that change a file of one store path.
pub(crate) struct Changer<'a> {
    pub(crate) store: &'a StorePath,
    pub(crate) metadata: &'a Metadata,
    /// For syncfs.
    pub(crate) folder: BorrowedFd<'a>,
    /// Nothing may be written.
    pub(crate) read_only: bool,
}

/// A change whose record is written, and not durable yet.
struct Begun {
    change: Change,
    step: Step,
    /// Its record was written, and is to be synced.
    is_written: bool,
    /// The file is not known to be the one that the row means.
    doubtful: bool,
}

impl Changer<'_> {
    /// One change, at once.
    pub(crate) fn one(&self, kind: Kind, file: Target) -> Result<Changed, ChangeError> {
        let (reply, answer) = flume::bounded(1);
        self.round(vec![Change { kind, file, reply }]);
        answer.recv().unwrap_or(Err(ChangeError::Busy))
    }

    /// Many changes that share syncs and transactions. Those of one file wait for each other: each sees row and
    /// record as the one before it left them.
    pub(crate) fn all(&self, mut changes: Vec<Change>) {
        while !changes.is_empty() {
            let mut files = HashSet::new();
            let (now, later) =
                changes.into_iter().partition(|change| files.insert(change.file.key));
            self.round(now);
            changes = later;
        }
    }

    fn round(&self, changes: Vec<Change>) {
        // First of all: what is read of a file that is held stays true.
        let held: Vec<_> = changes.iter().map(|change| hold(self.store, &change.file)).collect();
        let rows = changes.iter().map(|c| self.metadata.read_back(owned(&c.file.key)));
        let rows = wait(join_all(rows));
        let mut begun = Vec::with_capacity(changes.len());
        let mut files = Vec::with_capacity(changes.len());
        for ((change, file), row) in changes.into_iter().zip(held).zip(rows) {
            let outcome = file.and_then(|file| {
                self.begin(&change, row, file.as_ref()).map(|outcome| (outcome, file))
            });
            match outcome {
                Ok(((step, is_written, doubtful), file)) => {
                    begun.push(Begun { change, step, is_written, doubtful });
                    files.push(file);
                }
                Err(error) => self.answer(change, Err(error)),
            }
        }
        // Once for the round: what is not synced here must be refused where the journal is gone by then.
        let records = if self.store.is_journaled() { Records::ByJournal } else { Records::Durable };
        if let Err(error) = self.sync(&begun, &files, records) {
            self.store.sync_failed("the sync of a changed record", &error);
            let error = refusal(self.store, error);
            for Begun { change, .. } in begun {
                self.answer(change, Err(error.clone()));
            }
            return;
        }
        let (mut settings, mut removals) = (Vec::new(), Vec::new());
        for Begun { change, step, doubtful, .. } in begun {
            match step {
                Step::Keep => self.answer(change, Ok(Changed::Already)),
                Step::Set(setting) => settings.push((change, setting)),
                Step::Remove(row) => removals.push((change, row, doubtful)),
                Step::Unlink => {
                    let done = self.unlink(&change.file);
                    self.answer(change, done);
                }
            }
        }
        self.set_rows(settings, records);
        let overtaken = self.remove_rows(removals, records);
        drop(files);
        for change in overtaken {
            let done = self.overtaken(change.file);
            self.answer(change, done);
        }
    }

    /// Decides, and writes the record: what to do with the row, whether a record was written, and whether the file is in
    /// doubt.
    fn begin(
        &self,
        change: &Change,
        row: Result<Option<FileRow>, RowError>,
        file: Option<&File>,
    ) -> Result<(Step, bool, bool), ChangeError> {
        let disk = |error: io::Error| refused(self.store, "changing a record", error);
        if self.store.is_adopting() {
            match change.kind {
                Kind::Purge => return Err(ChangeError::Adopting),
                // The row is the truth there, and the adoption lets the record follow.
                Kind::Agree => return Ok((Step::Keep, false, false)),
                Kind::Delete | Kind::Restore | Kind::Confirm => {}
            }
        }
        if self.store.doubtful.has(change.file.path_id) {
            // It is being brought elsewhere.
            return Err(ChangeError::Busy);
        }
        let row = row?;
        let relative = change.file.relative.as_str();
        let row = row.filter(|row| self.store.is_named_by(row, relative));
        let found = file.map_or(Ok(Found::None), |file| record_in(file, &change.file));
        let found = found.map_err(disk)?;
        let plan = change::plan(change.kind, row.as_ref(), &found, self.store.clock.now())?;
        if self.read_only && (plan.record.is_some() || plan.step != Step::Keep) {
            return Err(ChangeError::ReadOnly);
        }
        let doubtful = found == Found::Doubtful;
        let (Some(record), Some(file)) = (plan.record, file) else {
            return Ok((plan.step, false, doubtful));
        };
        let bytes = record.encode().map_err(|error| disk(io::Error::other(error)))?;
        sys::set_attribute(file, record::ATTRIBUTE, &bytes).map_err(disk)?;
        self.store.touch();
        Ok((plan.step, true, doubtful))
    }

    /// Makes the records durable. Where the row changes too and there is a journal, its entry does: it says what the
    /// record must be.
    fn sync(&self, begun: &[Begun], files: &[Option<File>], records: Records) -> io::Result<()> {
        let _watch = self.store.keeper_watch.begin(self.store.elapsed_ms());
        let is_due = |begun: &Begun| {
            begun.is_written && (records == Records::Durable || !begun.step.changes_row())
        };
        let files: Vec<&File> = begun
            .iter()
            .zip(files)
            .filter_map(|(begun, file)| file.as_ref().filter(|_| is_due(begun)))
            .collect();
        self.sync_files(&files)
    }

    /// Each for itself where they are few, or have to be, else all that is dirty on the disk.
    pub(super) fn sync_files(&self, files: &[&File]) -> io::Result<()> {
        match files {
            [] => return Ok(()),
            _ if self.store.sharing.is_shared() => sync_each(files)?,
            [file] => file.sync_all()?,
            [one, other] => one.sync_all().and_then(|()| other.sync_all())?,
            _ => sys::syncfs(self.folder.as_fd())?,
        }
        sys::still_in_service(files[0], record::ATTRIBUTE)
    }

    fn set_rows(&self, settings: Vec<(Change, StatusChange)>, records: Records) {
        if settings.is_empty() {
            return;
        }
        let (changes, settings): (Vec<_>, Vec<_>) = settings.into_iter().unzip();
        match wait(self.metadata.change_status(settings, records)) {
            Ok(outcomes) => {
                for (change, outcome) in changes.into_iter().zip(outcomes) {
                    let applied = outcome == RowChange::Applied;
                    count(&self.store.counts.changes, u64::from(applied));
                    let result =
                        if applied { Ok(Changed::Done) } else { Err(ChangeError::Unknown) };
                    self.answer(change, result);
                }
            }
            Err(error) => self.answer_all(changes, &error),
        }
    }

    /// Removes rows, then their files. Those whose row was not as it had been read.
    fn remove_rows(&self, removals: Vec<(Change, RowRef, bool)>, records: Records) -> Vec<Change> {
        // Only a file that is known to be the row's own is unlinked, now or by a replay.
        let (doubtful, sure): (Vec<_>, Vec<_>) =
            removals.into_iter().partition(|(_, _, doubtful)| *doubtful);
        let mut overtaken = self.remove_and(sure, true, records);
        overtaken.extend(self.remove_and(doubtful, false, records));
        overtaken
    }

    fn remove_and(
        &self,
        removals: Vec<(Change, RowRef, bool)>,
        unlink: bool,
        records: Records,
    ) -> Vec<Change> {
        let mut overtaken = Vec::new();
        let rows = removals
            .iter()
            .map(|(_, row, _)| Removal { row: row.clone(), only: Some(FileStatus::Deleted) })
            .collect::<Vec<_>>();
        if rows.is_empty() {
            return overtaken;
        }
        let outcomes = if unlink {
            wait(self.metadata.purge(rows, records))
        } else {
            wait(self.metadata.remove(rows))
        };
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.answer_all(removals.into_iter().map(|(change, ..)| change), &error);
                return overtaken;
            }
        };
        for ((change, _, doubtful), outcome) in removals.into_iter().zip(outcomes) {
            let result = match outcome {
                RowChange::Applied if doubtful => self.put_aside(&change.file),
                RowChange::Applied => self.unlink(&change.file),
                RowChange::Missing if change.kind == Kind::Agree => Err(ChangeError::Unknown),
                RowChange::Missing => {
                    overtaken.push(change);
                    continue;
                }
            };
            self.answer(change, result);
        }
        overtaken
    }

    /// The row is gone: nothing names the file any more, and its record says why.
    fn unlink(&self, file: &Target) -> Result<Changed, ChangeError> {
        self.gone(
            "unlinking a purged file",
            sys::unlink_at(self.store.root(), file.relative.as_str()),
        )
    }

    /// The row is gone, and the file may be another one than it meant: kept, out of the way.
    fn put_aside(&self, file: &Target) -> Result<Changed, ChangeError> {
        let moved = inspect::quarantine(self.store, file.relative.as_str());
        self.gone("moving a purged file to quarantine", moved.map(drop))
    }

    fn gone(&self, doing: &str, outcome: io::Result<()>) -> Result<Changed, ChangeError> {
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(refused(self.store, doing, error))
            }
            _ => {
                self.store.touch();
                count(&self.store.counts.purged, 1);
                Ok(Changed::Done)
            }
        }
    }

    /// No deleted row fits any more: on another node the file was purged, or restored, between the look and the
    /// removal. Whoever was told of a restore wins, and the record is put back.
    fn overtaken(&self, file: Target) -> Result<Changed, ChangeError> {
        match self.one(Kind::Agree, file) {
            Ok(Changed::Already) => Err(ChangeError::NotDeleted),
            other => other,
        }
    }

    fn answer_all(&self, changes: impl IntoIterator<Item = Change>, error: &RowError) {
        for change in changes {
            self.answer(change, Err(ChangeError::from(error.clone())));
        }
    }

    /// Caches are told before whoever asked, whatever the answer: the outcome of an error may be unknown, what is so
    /// already may have become so a moment ago, and a bump too many costs one lookup.
    fn answer(&self, change: Change, result: Result<Changed, ChangeError>) {
        self.store.epochs.bump(change.file.key.file.as_str());
        let _ = change.reply.try_send(result);
    }
}

/// A call to the disk failed: what that means for the store path, and for whoever asked for a change.
pub(super) fn refused(store: &StorePath, doing: &str, error: io::Error) -> ChangeError {
    store.failed(DiskFault::of(&error), doing, &error);
    refusal(store, error)
}

fn refusal(store: &StorePath, error: io::Error) -> ChangeError {
    if store.is_away() { ChangeError::Busy } else { ChangeError::Disk(Arc::new(error)) }
}

/// Opens a file whose record may be changed; `None`: it is not there. Where other nodes have it, too, none of them changes it
/// while it is open.
pub(super) fn hold(store: &StorePath, file: &Target) -> Result<Option<File>, ChangeError> {
    let disk = |error: io::Error| refused(store, "opening a file to change its record", error);
    // Attributes of a descriptor opened for reading can be written by the file's owner.
    let opened = match sys::open_at(store.root(), file.relative.as_str(), libc::O_RDONLY) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(disk(error)),
    };
    if store.sharing.is_shared() {
        match opened.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ChangeError::Busy),
            Err(TryLockError::Error(error)) => return Err(disk(error)),
        }
    }
    Ok(Some(opened))
}

/// What the attribute of a file holds that should be this very one.
pub(super) fn record_in(opened: &File, file: &Target) -> io::Result<Found> {
    match sys::attribute(opened, record::ATTRIBUTE, record::LEN_MAX) {
        Ok(None) => Ok(Found::None),
        Ok(Some(bytes)) => match Record::decode(&bytes) {
            Ok(record) if record.path_id == file.path_id && is_of(&record, &file.key) => {
                Ok(Found::Record(Box::new(record)))
            }
            _ => Ok(Found::Doubtful),
        },
        Err(error) if error.raw_os_error() == Some(libc::ERANGE) => Ok(Found::Doubtful),
        Err(error) => Err(error),
    }
}

/// Each waits for the servers behind a mount: several at a time.
fn sync_each(files: &[&File]) -> io::Result<()> {
    std::thread::scope(|scope| {
        let hands: Vec<_> = files
            .chunks(files.len().div_ceil(SYNCS_MAX))
            .map(|files| scope.spawn(|| files.iter().try_for_each(|file| file.sync_all())))
            .collect();
        hands
            .into_iter()
            .try_for_each(|hand| hand.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Whether it is the record of this file.
pub(crate) fn is_of(record: &Record, key: &FileKey) -> bool {
    (record.app, record.user, record.file) == (key.app, key.user, key.file)
}
