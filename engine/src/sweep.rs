//! The sweep at start: files that a crash left unfinished, looked for only in the blocks of ids that this node held.
//!
//! Runs before any upload, after the file system was synced once, so that what is adopted is durable. Decisions are
//! in `decide`, without IO; `repair` uses them and the hands that follow them too.

mod decide;

use std::{
    collections::HashSet,
    io,
    ops::Range,
    os::fd::AsFd as _,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use reel_meta::{FileRow, InsertOutcome, NewFile};
use reel_proto::path::PathId;

use self::decide::{Action, Facts, Named, decide};
use crate::{
    metadata::{Insert, Metadata, Owned, RowError, Waiting, wait},
    record::{Record, State},
    store::change::Kind,
    store::inspect::{self, Seal},
    store::keeper::{Changer, Target},
    store::path::StorePath,
    store::sys,
    store::walk::{Entry, Leaf},
    store::{ChangeError, Changed, FileKey},
};

/// Files to be removed or put aside that wait for one search of the rows.
const DEFERRED_MAX: usize = 4096;

/// Files of a store that several nodes have that are passed over in one go. More of them, and it is not single files that its servers
/// cannot give.
const PASSED_OVER_MAX: usize = 1024;

/// Threads that look at the files of a folder before the node serves. Each file is two messages to the servers behind a mount and
/// one to a shared database: one after the other, a thousand of them took two minutes on a busy cluster.
const LOOKERS: usize = 8;

/// What a sweep or a repair did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Swept {
    /// Files looked at.
    pub looked_at: u64,
    /// Unfinished uploads removed.
    pub removed: u64,
    /// Complete files that got their row.
    pub adopted: u64,
    /// Files of which record and row said different states: deleted, both, unless a restore had won against a purge.
    pub followed: u64,
    /// Purges finished.
    pub purged: u64,
    /// Files moved to quarantine.
    pub quarantined: u64,
    /// Files that nothing good can be said of, or whose row names a place by a prefix that is not configured here, and that a row
    /// names all the same: left where they are.
    pub left: u64,
    /// Files of a store that several nodes have that its servers could not give, or not change: looked at again next time.
    pub unreadable: u64,
}

impl Swept {
    /// Adds what was done afterwards. What was passed over then is all that still is.
    pub(crate) fn add(&mut self, more: Self) {
        let Self { looked_at, removed, adopted, followed, purged, quarantined, left, unreadable } =
            more;
        self.looked_at += looked_at;
        self.removed += removed;
        self.adopted += adopted;
        self.followed += followed;
        self.purged += purged;
        self.quarantined += quarantined;
        self.left += left;
        self.unreadable = unreadable;
    }
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
    /// A change that was cut short could not be finished.
    #[error("{file}: {error}")]
    Change {
        /// What was to be changed.
        file: String,
        /// Why it was not.
        error: ChangeError,
    },
}

impl SweepError {
    /// Whether it says nothing of other files, where the file system has servers of its own.
    fn is_of_a_file(&self) -> bool {
        let is_busy = |error: &ChangeError| matches!(error, ChangeError::Busy | ChangeError::Late);
        match self {
            Self::Disk { .. } => true,
            Self::Change { error, .. } => is_busy(error),
            Self::Row(_) => false,
        }
    }
}

/// Brings record and row of a file together: the sweep by itself, repair through the store path's keeper.
pub(crate) type Agree<'a> = &'a dyn Fn(Target) -> Result<Changed, ChangeError>;

/// One store path and the metadata, for the hands of sweep and repair.
pub(crate) struct Cleaner<'a> {
    looker: Looker<'a>,
    agree: Agree<'a>,
    pub(crate) swept: Swept,
    /// To be removed or put aside, once it is known that no row names them.
    deferred: Vec<(Entry, Action)>,
    /// Ids of what was passed over.
    passed_over: Vec<u64>,
}

/// Sweeps the blocks that the mark file says were held. On return everything done is durable; the blocks with a file that was
/// passed over are given back, and stay held.
pub(crate) fn sweep(
    store: &StorePath,
    metadata: &Metadata,
    held: &[Range<u64>],
) -> Result<(Swept, Vec<Range<u64>>), SweepError> {
    // One file at a time is synced by itself: the folder's descriptor is not asked.
    let changer = Changer { store, metadata, folder: store.root(), read_only: false };
    let agree = |file| changer.one(Kind::Agree, file);
    let mut cleaner = Cleaner::new(store, metadata, &agree, true);
    for block in held {
        for leaf in Leaf::covering(block) {
            let entries = match leaf.entries(store.root()) {
                Ok(entries) => entries,
                Err(error) => {
                    cleaner.pass_over(block.start, at(&leaf.folder())(error))?;
                    continue;
                }
            };
            let held: Vec<Entry> =
                entries.into_iter().filter(|entry| block.contains(&entry.id)).collect();
            let actions = cleaner.looker.look_at_all(&held);
            for (entry, action) in held.iter().zip(actions) {
                let done = action.and_then(|action| cleaner.act(entry, action));
                done.or_else(|error| cleaner.pass_over(entry.id, error))?;
            }
        }
    }
    let swept = cleaner.finish()?;
    if swept.removed + swept.purged > 0 && !store.sharing.is_shared() {
        // Before the mark lets go of these blocks: an unlink that a power loss undoes would never be found again.
        sys::open_folder(&store.folder)
            .and_then(|folder| sys::syncfs(folder.as_fd()))
            .map_err(at("syncfs"))?;
    }
    let is_held = |block: &&Range<u64>| cleaner.passed_over.iter().any(|id| block.contains(id));
    Ok((swept, held.iter().filter(is_held).cloned().collect()))
}

impl<'a> Cleaner<'a> {
    pub(crate) fn new(
        store: &'a StorePath,
        metadata: &'a Metadata,
        agree: Agree<'a>,
        ours: bool,
    ) -> Self {
        let looker = Looker { store, metadata, ours };
        let (deferred, passed_over) = (Vec::new(), Vec::new());
        Self { looker, agree, swept: Swept::default(), deferred, passed_over }
    }

    /// Looks at a file and does what is to be done. Beside a running engine the look is old when the act comes, so
    /// each act asks the rows again in its own way: an insert finds one that came in between, the keeper reads row and
    /// record, and what is to be put aside is searched for in all of them.
    pub(crate) fn file(&mut self, entry: &Entry) -> Result<(), SweepError> {
        let done = self.looker.look(entry).and_then(|action| self.act(entry, action));
        done.or_else(|error| self.pass_over(entry.id, error))
    }

    /// After a power cut the servers of a volume may not agree on a file, or none may have the whole of it, until somebody mends it,
    /// and what another node changes is locked, also where that node is gone and its lock is not yet: no reason for this node to be
    /// down, or to look at no other file. On a disk of one node the disk is broken, and that is an error.
    pub(crate) fn pass_over(&mut self, id: u64, error: SweepError) -> Result<(), SweepError> {
        let is_of_volume = self.looker.store.sharing.is_shared();
        if !is_of_volume || !error.is_of_a_file() || self.passed_over.len() >= PASSED_OVER_MAX {
            return Err(error);
        }
        tracing::warn!(store = self.looker.store.index, %error,
            "a file that the store does not give, or that somebody changes, stays as it is");
        self.swept.unreadable += 1;
        self.passed_over.push(id);
        Ok(())
    }

    fn act(&mut self, entry: &Entry, action: Action) -> Result<(), SweepError> {
        self.swept.looked_at += 1;
        match action {
            Action::Leave | Action::Read => Ok(()),
            Action::LeaveNamed => {
                self.leave(entry, "its row names a place by a prefix that no store path of this node answers to: is an alias missing?");
                Ok(())
            }
            Action::Adopt => self.adopt(entry),
            Action::Agree | Action::FinishPurge => self.bring_together(entry, action),
            Action::Remove | Action::Quarantine => self.defer(entry, action),
        }
    }

    /// Does what was put off; what was done in all.
    pub(crate) fn finish(&mut self) -> Result<Swept, SweepError> {
        self.do_deferred()?;
        Ok(self.swept)
    }

    fn defer(&mut self, entry: &Entry, action: Action) -> Result<(), SweepError> {
        self.deferred.push((entry.clone(), action));
        if self.deferred.len() >= DEFERRED_MAX { self.do_deferred() } else { Ok(()) }
    }

    /// Removes uploads that never ended and puts aside what is doubtful, but for what some row names. A file that
    /// lost its attributes on the way (a copy by hand), one whose record rotted, one sealed by a later version: its
    /// content may be whole and acknowledged, so a row that names it outweighs all that can be said against it.
    fn do_deferred(&mut self) -> Result<(), SweepError> {
        let deferred = std::mem::take(&mut self.deferred);
        if deferred.is_empty() {
            return Ok(());
        }
        let named = self.named(&deferred)?;
        for (entry, action) in deferred {
            if named.contains(&entry.relative) {
                self.leave(&entry, "it has no good record: was the store copied without its attributes, or written by a later version?");
                continue;
            }
            let (done, counter) = if action == Action::Remove {
                let removed = sys::unlink_at(self.looker.store.root(), &entry.relative);
                (removed, &mut self.swept.removed)
            } else {
                let moved = inspect::quarantine(self.looker.store, &entry.relative);
                (moved.map(drop), &mut self.swept.quarantined)
            };
            match done {
                Ok(()) => *counter += 1,
                // Somebody was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.pass_over(entry.id, at(&entry.relative)(error))?,
            }
        }
        Ok(())
    }

    fn leave(&mut self, entry: &Entry, why: &str) {
        self.swept.left += 1;
        tracing::error!(store = self.looker.store.index, file = %entry.relative, why, "a file with a row stays as it is");
    }

    /// Which of these places some row names, by whatever prefix: one that is not configured here may be this store path's.
    /// There is no index by path: every row is read, which only a pass that found something unfinished or doubtful pays for.
    fn named(&self, deferred: &[(Entry, Action)]) -> Result<HashSet<String>, SweepError> {
        let wanted: HashSet<&str> =
            deferred.iter().map(|(entry, _)| entry.relative.as_str()).collect();
        let mut named = HashSet::new();
        let mut after = None;
        loop {
            let page = wait(self.looker.metadata.scan(after.take(), reel_meta::PAGE_ROWS_MAX))?;
            for row in &page.rows {
                let Some(place) = self.looker.store.may_be_here(row) else { continue };
                if wanted.contains(place.as_str()) {
                    named.insert(place.as_str().to_owned());
                }
            }
            match page.rows.last() {
                Some(last) if page.more => after = Some(last.scan_cursor()),
                _ => return Ok(named),
            }
        }
    }

    fn adopt(&mut self, entry: &Entry) -> Result<(), SweepError> {
        let Some((file, id)) = self.looker.open(entry)? else { return Ok(()) };
        let Seal::Good(record) = inspect::seal_of(&file, id).map_err(at(&entry.relative))? else {
            return Ok(());
        };
        if self.looker.store.syncs_each {
            // Whoever wrote it may not have come so far.
            file.sync_all().map_err(at(&entry.relative))?;
        }
        let mut row = new_row(&record, self.looker.store.file_path(&id.relative(entry.time)));
        if record.state == State::Deleted {
            row.deleted_at = record.deleted_at.or_else(|| Some(self.looker.store.clock.now()));
        }
        let (reply, wait_for) = flume::bounded(1);
        let done = Box::new(move |outcome| drop(reply.try_send(outcome)));
        self.looker.metadata.insert(vec![Insert { row, file: Waiting { content: None, done } }]);
        let gone = || RowError {
            text: "the metadata has stopped".into(),
            unknown: true,
            retryable: false,
        };
        match wait_for.recv().unwrap_or_else(|_| Err(gone()))? {
            InsertOutcome::Inserted => {
                self.swept.adopted += 1;
                self.looker.store.epochs.bump(record.file.as_str());
                tracing::info!(store = self.looker.store.index, file = %entry.relative, "adopted a complete file without a row");
                Ok(())
            }
            // The row that was missing came in between.
            InsertOutcome::Exists(row)
                if self.looker.named(Some(&row), entry) != Named::Elsewhere =>
            {
                Ok(())
            }
            InsertOutcome::Exists(_) | InsertOutcome::Refused(_) => {
                self.defer(entry, Action::Quarantine)
            }
        }
    }

    fn bring_together(&mut self, entry: &Entry, action: Action) -> Result<(), SweepError> {
        let Some((record, path_id)) = self.record(entry)? else { return Ok(()) };
        let key = FileKey { app: record.app, user: record.user, file: record.file };
        let target = Target { key, path_id, relative: path_id.relative(entry.time) };
        match (self.agree)(target) {
            Ok(_) if action == Action::FinishPurge => self.swept.purged += 1,
            Ok(_) => self.swept.followed += 1,
            // Changed or purged since the look.
            Err(ChangeError::Unknown) => {}
            Err(ChangeError::Disk(error)) => {
                let again = io::Error::new(error.kind(), error.to_string());
                let error = error.raw_os_error().map_or(again, io::Error::from_raw_os_error);
                return Err(at(&entry.relative)(error));
            }
            Err(error) => return Err(SweepError::Change { file: entry.relative.clone(), error }),
        }
        Ok(())
    }

    fn record(&self, entry: &Entry) -> Result<Option<(Box<Record>, PathId)>, SweepError> {
        let Some((file, id)) = self.looker.open(entry)? else { return Ok(None) };
        match inspect::seal_of(&file, id).map_err(at(&entry.relative))? {
            Seal::Good(record) => Ok(Some((record, id))),
            _ => Ok(None),
        }
    }
}

/// The eyes of sweep and repair.
#[derive(Clone, Copy)]
struct Looker<'a> {
    store: &'a StorePath,
    metadata: &'a Metadata,
    /// Only files of held blocks are looked at, and nothing else is at work.
    ours: bool,
}

impl Looker<'_> {
    /// What to do with each of these files, looked at by several threads.
    fn look_at_all(&self, entries: &[Entry]) -> Vec<Result<Action, SweepError>> {
        let next = AtomicUsize::new(0);
        let seen: Vec<OnceLock<Result<Action, SweepError>>> =
            entries.iter().map(|_| OnceLock::new()).collect();
        let look = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let (Some(entry), Some(to)) = (entries.get(index), seen.get(index)) else { return };
                let _ = to.set(self.look(entry));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..LOOKERS.min(entries.len()) {
                scope.spawn(look);
            }
            look();
        });
        // Each was taken by one of them.
        seen.into_iter().filter_map(OnceLock::into_inner).collect()
    }

    /// Finds out what to do with a file. Reads its content only where that decides.
    fn look(&self, entry: &Entry) -> Result<Action, SweepError> {
        let failed = at(&entry.relative);
        let Some((file, id)) = self.open(entry)? else { return Ok(Action::Leave) };
        let seal = inspect::seal_of(&file, id).map_err(&failed)?;
        let row = match &seal {
            Seal::Good(record) => wait(self.metadata.read_back(owner(record)))?,
            _ => None,
        };
        let named = self.named(row.as_ref(), entry);
        let mut facts =
            Facts { seal: &seal, row: row.as_ref(), named, whole: None, ours: self.ours };
        let mut action = decide(&facts);
        if action == Action::Read {
            let (size, checksum) = inspect::checksum(&file, |_| {}).map_err(&failed)?;
            let Seal::Good(record) = &seal else { return Ok(Action::Quarantine) };
            facts.whole = Some((size, checksum) == (record.size, record.checksum));
            action = decide(&facts);
        }
        if matches!((&seal, action), (Seal::Good(_), Action::Adopt | Action::Quarantine)) {
            // Its file was brought elsewhere when this disk had failed, and may have been deleted there since.
            let place = self.store.file_path(&id.relative(entry.time));
            if wait(self.metadata.was_left(place))? {
                return Ok(Action::Remove);
            }
        }
        Ok(action)
    }

    fn named(&self, row: Option<&FileRow>, entry: &Entry) -> Named {
        match row {
            Some(row) if self.store.is_named_by(row, &entry.relative) => Named::Here,
            Some(row) if !self.store.knows(row) => Named::Unknown,
            _ => Named::Elsewhere,
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
        deleted_at: None,
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
