//! The sweep at start: files that a crash left unfinished, looked for only in the blocks of ids that this node held.
//!
//! Runs before any upload, after the file system was synced once, so that what is adopted is durable. Decisions are
//! in `decide`, without IO; `repair` and `rebuild` use them too.

use std::{collections::HashSet, io, ops::Range, os::fd::AsFd as _};

use reel_meta::{FileRow, FileStatus, InsertOutcome, NewFile, Removal, RowRef, StatusChange};
use reel_proto::path::PathId;

use crate::{
    metadata::{Insert, Metadata, Owned, RowError, wait},
    record::{self, Record, State},
    store::inspect::{self, Seal},
    store::path::StorePath,
    store::sys,
    store::walk::{Entry, Leaf},
};

/// What is known of a file that was found.
#[derive(Debug, Clone)]
pub(crate) struct Facts<'a> {
    /// Its attribute.
    pub(crate) seal: &'a Seal,
    /// The `file_path` that a row of this place has.
    pub(crate) path: &'a str,
    /// The row of the record's file id, where there is a good record.
    pub(crate) row: Option<&'a FileRow>,
    /// Whether size and checksum are those of the record; `None`: not looked at yet.
    pub(crate) whole: Option<bool>,
    /// It lies in a block of ids that this node held, and was begun before the start.
    pub(crate) ours: bool,
}

/// What to do with a file that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Record and row agree, or nothing here is ours to judge.
    Leave,
    /// Read its content first and decide again.
    Read,
    /// An upload that never ended: nobody was told that it is there.
    Remove,
    /// Complete, and its row is missing: make it.
    Adopt,
    /// Its record says deleted and its row does not: a delete that was cut short after its record. The row follows.
    DeleteRow,
    /// Its row says deleted and its record does not: a restore that was cut short, and nobody was told that the file
    /// is back. The record follows: what a reader was told is deleted never comes back by itself.
    DeleteRecord,
    /// Being purged: remove the row if it is still there, then the file.
    FinishPurge,
    /// Nothing to be sure of: keep it, out of the way.
    Quarantine,
}

/// The whole of what sweep and repair decide.
pub(crate) fn decide(facts: &Facts<'_>) -> Action {
    let record = match facts.seal {
        // Unsealed: in our own blocks it is an upload that was cut short. Elsewhere it is a file taken over, or
        // nobody knows whose.
        Seal::None if facts.ours => return Action::Remove,
        Seal::None => return Action::Leave,
        Seal::Doubtful(_) => return Action::Quarantine,
        Seal::Good(record) => record,
    };
    let named = facts.row.is_some_and(|row| row.file_path == facts.path);
    if record.state == State::Purging {
        return Action::FinishPurge;
    }
    match (named, facts.row) {
        (true, Some(row)) if state_of(row) != record.state => match record.state {
            State::Deleted => Action::DeleteRow,
            _ => Action::DeleteRecord,
        },
        (true, _) => Action::Leave,
        // Another file has the id: this one lost a race, or was replaced. It is not adopted over the row.
        (false, Some(_)) => Action::Quarantine,
        (false, None) => match facts.whole {
            None => Action::Read,
            Some(true) => Action::Adopt,
            Some(false) => Action::Quarantine,
        },
    }
}

fn state_of(row: &FileRow) -> State {
    match row.status {
        FileStatus::Normal => State::Normal,
        FileStatus::Deleted => State::Deleted,
    }
}

/// What a sweep or a repair did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Swept {
    /// Files looked at.
    pub looked_at: u64,
    /// Unfinished uploads removed.
    pub removed: u64,
    /// Complete files that got their row.
    pub adopted: u64,
    /// Files of which record and row said different states: deleted, both.
    pub followed: u64,
    /// Purges finished.
    pub purged: u64,
    /// Files moved to quarantine.
    pub quarantined: u64,
}

/// Why a sweep or a repair stopped. What it did until then is whole.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The disk.
    #[error("{file}: {error}")]
    Disk {
        /// What was looked at.
        file: String,
        /// What the system said.
        error: io::Error,
    },
    /// The metadata.
    #[error("metadata: {0}")]
    Row(#[from] RowError),
}

/// One store path and the metadata, for the hands of sweep and repair.
pub(crate) struct Cleaner<'a> {
    pub(crate) store: &'a StorePath,
    pub(crate) metadata: &'a Metadata,
    pub(crate) swept: Swept,
}

/// Sweeps the blocks that the mark file says were held. On return everything done is durable and nothing is held.
pub(crate) fn sweep(
    store: &StorePath,
    metadata: &Metadata,
    held: &[Range<u64>],
) -> Result<Swept, SweepError> {
    let mut cleaner = Cleaner { store, metadata, swept: Swept::default() };
    let mut unsealed = Vec::new();
    for block in held {
        for leaf in Leaf::covering(block) {
            let entries = leaf.entries(store.root()).map_err(at(&leaf.folder()))?;
            for entry in entries.into_iter().filter(|entry| block.contains(&entry.id)) {
                match cleaner.look(&entry, true)? {
                    Action::Remove => unsealed.push(entry),
                    action => cleaner.act(&entry, action)?,
                }
            }
        }
    }
    cleaner.remove_unsealed(unsealed)?;
    if cleaner.swept.removed + cleaner.swept.purged > 0 {
        // Before the mark lets go of these blocks: an unlink that a power loss undoes would never be found again.
        sys::open_folder(&store.folder)
            .and_then(|folder| sys::syncfs(folder.as_fd()))
            .map_err(at("syncfs"))?;
    }
    Ok(cleaner.swept)
}

impl Cleaner<'_> {
    /// Finds out what to do with a file. Reads its content only where that decides.
    pub(crate) fn look(&mut self, entry: &Entry, ours: bool) -> Result<Action, SweepError> {
        self.swept.looked_at += 1;
        let failed = at(&entry.relative);
        let Some((file, id)) = self.open(entry)? else { return Ok(Action::Leave) };
        let seal = inspect::seal_of(&file, id).map_err(&failed)?;
        let row = match &seal {
            Seal::Good(record) => wait(self.metadata.read_back(owner(record)))?,
            _ => None,
        };
        let path = self.path_of(entry);
        let mut facts = Facts { seal: &seal, path: &path, row: row.as_ref(), whole: None, ours };
        let mut action = decide(&facts);
        if action == Action::Read {
            let (size, checksum) = inspect::checksum(&file, |_| {}).map_err(&failed)?;
            let Seal::Good(record) = &seal else { return Ok(Action::Quarantine) };
            facts.whole = Some((size, checksum) == (record.size, record.checksum));
            action = decide(&facts);
        }
        Ok(action)
    }

    /// Does what was decided.
    pub(crate) fn act(&mut self, entry: &Entry, action: Action) -> Result<(), SweepError> {
        match action {
            Action::Leave | Action::Read => Ok(()),
            Action::Remove => self.remove_unsealed(vec![entry.clone()]),
            Action::Adopt => self.adopt(entry),
            Action::DeleteRow => self.follow(entry),
            Action::DeleteRecord => self.mark_deleted(entry),
            Action::FinishPurge => self.finish_purge(entry),
            Action::Quarantine => {
                inspect::quarantine(self.store, &entry.relative).map_err(at(&entry.relative))?;
                self.swept.quarantined += 1;
                Ok(())
            }
        }
    }

    /// Removes uploads that never ended. A file that lost its attributes on the way (a copy by hand) looks the same,
    /// so the rows are searched for its place first: what a row names is never removed.
    fn remove_unsealed(&mut self, entries: Vec<Entry>) -> Result<(), SweepError> {
        if entries.is_empty() {
            return Ok(());
        }
        let named = self.named(&entries)?;
        for entry in entries {
            if named.contains(&self.path_of(&entry)) {
                tracing::error!(store = self.store.index, file = %entry.relative,
                    "a file with a row has no record: was the store copied without its attributes?");
                continue;
            }
            match sys::unlink_at(self.store.root(), &entry.relative) {
                Ok(()) => self.swept.removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at(&entry.relative)(error)),
            }
        }
        Ok(())
    }

    /// Which of these places some row names. There is no index by path: every row is read, which only a start after
    /// a crash in the middle of an upload pays for.
    fn named(&self, entries: &[Entry]) -> Result<HashSet<String>, SweepError> {
        let wanted: HashSet<String> = entries.iter().map(|entry| self.path_of(entry)).collect();
        let mut named = HashSet::new();
        let mut after = None;
        loop {
            let page = wait(self.metadata.scan(after.take(), reel_meta::PAGE_ROWS_MAX))?;
            let last = page.rows.last().map(FileRow::scan_cursor);
            named.extend(
                page.rows.into_iter().map(|row| row.file_path).filter(|path| wanted.contains(path)),
            );
            match last {
                Some(last) if page.more => after = Some(last),
                _ => return Ok(named),
            }
        }
    }

    fn adopt(&mut self, entry: &Entry) -> Result<(), SweepError> {
        let Some(record) = self.record(entry)? else { return Ok(()) };
        let (reply, wait_for) = flume::bounded(1);
        self.metadata.insert(vec![Insert {
            content: None,
            row: new_row(&record, self.path_of(entry)),
            done: Box::new(move |outcome| drop(reply.try_send(outcome))),
        }]);
        let gone = || RowError {
            text: "the metadata has stopped".into(),
            unknown: true,
            retryable: false,
        };
        match wait_for.recv().unwrap_or_else(|_| Err(gone()))? {
            InsertOutcome::Inserted => {
                self.swept.adopted += 1;
                tracing::info!(store = self.store.index, file = %entry.relative, "adopted a complete file without a row");
                // An adopted file may be one that was deleted: its row is made normal, and follows at once.
                if record.state == State::Deleted { self.follow(entry) } else { Ok(()) }
            }
            InsertOutcome::Exists(_) | InsertOutcome::Refused(_) => {
                self.act(entry, Action::Quarantine)
            }
        }
    }

    /// The row takes the state of the record.
    fn follow(&mut self, entry: &Entry) -> Result<(), SweepError> {
        let Some(record) = self.record(entry)? else { return Ok(()) };
        let now = self.store.clock.now();
        let deleted = record.state == State::Deleted;
        let change = StatusChange {
            row: self.row_ref(entry, &record),
            status: if deleted { FileStatus::Deleted } else { FileStatus::Normal },
            deleted_at: deleted.then(|| record.deleted_at.unwrap_or(now)),
            changed_at: now,
        };
        wait(self.metadata.set_status(vec![change]))?;
        self.swept.followed += 1;
        Ok(())
    }

    /// The record takes the state of the row, durably.
    fn mark_deleted(&mut self, entry: &Entry) -> Result<(), SweepError> {
        let Some(mut record) = self.record(entry)? else { return Ok(()) };
        let row = wait(self.metadata.read_back(owner(&record)))?;
        record.state = State::Deleted;
        record.deleted_at =
            row.and_then(|row| row.deleted_at).or_else(|| Some(self.store.clock.now()));
        let failed = at(&entry.relative);
        let bytes = record.encode().map_err(io::Error::other).map_err(&failed)?;
        let Some((file, _)) = self.open(entry)? else { return Ok(()) };
        sys::set_attribute(&file, record::ATTRIBUTE, &bytes).map_err(&failed)?;
        if let Err(error) = file.sync_all() {
            self.store.sync_failed("the sync of a record under repair", &error);
            return Err(failed(error));
        }
        self.swept.followed += 1;
        Ok(())
    }

    fn finish_purge(&mut self, entry: &Entry) -> Result<(), SweepError> {
        let Some(record) = self.record(entry)? else { return Ok(()) };
        let row = self.row_ref(entry, &record);
        // Whatever state the row is in: the record said "purging" durably, and nothing leads back from there.
        wait(self.metadata.remove(vec![Removal { row, only: None }]))?;
        sys::unlink_at(self.store.root(), &entry.relative).map_err(at(&entry.relative))?;
        self.swept.purged += 1;
        Ok(())
    }

    /// The file id in its record, if it has a good one.
    pub(crate) fn file_id(&self, entry: &Entry) -> Option<reel_proto::name::FileId> {
        self.record(entry).ok().flatten().map(|record| record.file)
    }

    fn record(&self, entry: &Entry) -> Result<Option<Box<Record>>, SweepError> {
        let Some((file, id)) = self.open(entry)? else { return Ok(None) };
        match inspect::seal_of(&file, id).map_err(at(&entry.relative))? {
            Seal::Good(record) => Ok(Some(record)),
            _ => Ok(None),
        }
    }

    fn open(&self, entry: &Entry) -> Result<Option<(std::fs::File, PathId)>, SweepError> {
        let Ok(id) = PathId::new(entry.id) else { return Ok(None) };
        match sys::open_at(self.store.root(), &entry.relative, libc::O_RDONLY | libc::O_NONBLOCK) {
            Ok(file) if file.metadata().map_err(at(&entry.relative))?.is_file() => {
                Ok(Some((file, id)))
            }
            // A folder, a pipe or a link with one of our names: not ours.
            Ok(_) => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(&entry.relative)(error)),
        }
    }

    fn path_of(&self, entry: &Entry) -> String {
        format!("{}/{}", self.store.identity.id_key, entry.relative)
    }

    fn row_ref(&self, entry: &Entry, record: &Record) -> RowRef {
        RowRef {
            user: record.user.as_str().to_owned(),
            file: record.file.as_str().to_owned(),
            path: self.path_of(entry),
        }
    }
}

/// The row that a record asks for.
pub(crate) fn new_row(record: &Record, file_path: String) -> NewFile {
    NewFile {
        file: record.file.as_str().to_owned(),
        app: record.app.as_str().to_owned(),
        user: record.user.as_str().to_owned(),
        file_path,
        size: record.size,
        created_at: record.created_at,
        checksum: Some(record.checksum),
        name: record.name.clone(),
        content_type: record.content_type.clone(),
        expires_at: record.expires_at,
    }
}

pub(crate) fn owner(record: &Record) -> Owned {
    Owned {
        app: record.app.as_str().to_owned(),
        user: record.user.as_str().to_owned(),
        file: record.file.as_str().to_owned(),
    }
}

pub(crate) fn at(file: &str) -> impl Fn(io::Error) -> SweepError {
    let file = file.to_owned();
    move |error| SweepError::Disk { file: file.clone(), error }
}
