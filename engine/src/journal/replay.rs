//! Brings rows and files up to the journal after a crash, before anything is served.
//!
//! Rows first: the entries that the database does not have yet, in order. Then each file that a live entry is about is
//! made what its row says *now*. So a file that was purged later is not made again, however often this is done.

use std::{
    collections::{BTreeSet, hash_map::RandomState},
    hash::BuildHasher as _,
    io::{self, Write as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use bytes::Bytes;
use reel_meta::{FileRow, FileStatus, RowRef};
use reel_proto::{
    name::{AppId, FileId, UserId},
    path::{PathId, RelativePath},
};

use super::{Entry, Recovered};
use crate::{
    layout::Layout,
    metadata::{Metadata, Owned, RowError, wait},
    record::{self, Record, State},
    store::{
        folders::Folders,
        inspect::{self, Seal},
        sys,
    },
};

/// Entries that go to the database at a time.
const ENTRIES_AT_ONCE: usize = 512;

/// Threads that mend files.
const HANDS: usize = 8;

/// Entries that wait for one of them.
const ENTRIES_OF_A_HAND: usize = 64;

/// Time after which a replay says how far it is: a disk of many small files may take minutes.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Why a replay stopped. The journal is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The journal cannot be read.
    #[error("reading the journal: {0}")]
    Read(#[from] io::Error),
    /// The database.
    #[error("metadata: {0}")]
    Row(#[from] RowError),
}

/// What a replay did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// Entries that the database did not have.
    pub(crate) rows: u64,
    /// Files whose content was written again.
    pub(crate) written: u64,
    /// Files of which only the record was.
    pub(crate) records: u64,
    /// Files that were purged, or had lost against another upload, and were there again.
    pub(crate) unlinked: u64,
    /// What was not done: files whose disk did not take them, and syncs.
    pub(crate) failed: u64,
    /// The store paths that this is about.
    pub(crate) failed_stores: BTreeSet<usize>,
}

impl Replayed {
    fn add(&mut self, other: Self) {
        let Self { rows, written, records, unlinked, failed, failed_stores } = other;
        self.rows += rows;
        self.written += written;
        self.records += records;
        self.unlinked += unlinked;
        self.failed += failed;
        self.failed_stores.extend(failed_stores);
    }
}

/// Replays everything that is live. `roots`: the folders of all store paths, `None` where one cannot be written.
///
/// On return with `failed == 0` all of it is durable in its place.
///
/// # Errors
/// [`ReplayError`]
pub(crate) fn replay(
    recovered: &Recovered,
    position: u64,
    metadata: &Metadata,
    layout: &Layout,
    roots: &[Option<OwnedFd>],
) -> Result<Replayed, ReplayError> {
    let found = &recovered.found;
    let behind = found.last.saturating_sub(position.max(recovered.recycled()));
    tracing::info!(live = found.live, behind, "replaying the journal of the last run");
    let mut done = Replayed::default();
    replay_rows(recovered, position, metadata, &mut done)?;
    tracing::info!(rows = done.rows, "replayed the rows; their files follow");
    let touched = replay_files(recovered, metadata, layout, roots, &mut done)?;
    let Replayed { written, records, unlinked, .. } = done;
    tracing::info!(written, records, unlinked, "replayed the files; syncing the disks");
    for index in &touched {
        let synced = roots[*index].as_ref().map(|root| {
            sys::syncfs(root.as_fd())
                .and_then(|()| sys::still_in_service(root.as_fd(), record::ATTRIBUTE))
        });
        if let Some(Err(error)) = synced {
            tracing::error!(store = index, %error, "what was replayed could not be synced");
            done.failed += 1;
            done.failed_stores.insert(*index);
        }
    }
    if !wait(metadata.checkpoint())? {
        done.failed += 1;
    }
    Ok(done)
}

/// Files by many hands at once: each waits for its disk most of the time. What is about one place is done by one of them,
/// in order. Gives the store paths that were touched.
fn replay_files(
    recovered: &Recovered,
    metadata: &Metadata,
    layout: &Layout,
    roots: &[Option<OwnedFd>],
    done: &mut Replayed,
) -> Result<BTreeSet<usize>, ReplayError> {
    let hasher = RandomState::new();
    let hand =
        || Hand { metadata, layout, roots, touched: BTreeSet::new(), done: Replayed::default() };
    std::thread::scope(|scope| {
        let start = |_| {
            let (entries, queue) = flume::bounded(ENTRIES_OF_A_HAND);
            (entries, scope.spawn(move || hand().work(&queue)))
        };
        let (queues, hands): (Vec<_>, Vec<_>) = (0..HANDS).map(start).unzip();
        let (mut given, mut said) = (0_u64, Instant::now());
        let read = recovered.entries(|_, entry| {
            if said.elapsed() >= SAY_EVERY {
                tracing::info!(given, live = recovered.found.live, "replaying the files");
                said = Instant::now();
            }
            given += 1;
            let index = entry.place().map_or(0, |path| hasher.hash_one(path) as usize % HANDS);
            // One that has stopped says why below.
            queues[index].send(entry).map_err(|_| io::ErrorKind::Interrupted.into())
        });
        drop(queues);
        let mut touched = BTreeSet::new();
        for hand in hands {
            let hand =
                hand.join().map_err(|_| io::Error::other("a thread of the replay panicked"))??;
            touched.extend(hand.touched);
            done.add(hand.done);
        }
        read.map(|()| touched).map_err(ReplayError::Read)
    })
}

fn replay_rows(
    recovered: &Recovered,
    position: u64,
    metadata: &Metadata,
    done: &mut Replayed,
) -> Result<(), ReplayError> {
    let mut batch = Vec::with_capacity(ENTRIES_AT_ONCE);
    let mut failed = None;
    let send = |batch: &mut Vec<(u64, Entry)>| wait(metadata.replay(std::mem::take(batch)));
    recovered
        .entries(|number, entry| {
            if number <= position {
                return Ok(());
            }
            done.rows += 1;
            batch.push((number, without_content(entry)));
            if batch.len() < ENTRIES_AT_ONCE {
                return Ok(());
            }
            send(&mut batch).map_err(|error| {
                failed = Some(error);
                io::Error::other("stopped")
            })
        })
        .map_err(|error| failed.map_or(ReplayError::Read(error), ReplayError::Row))?;
    if !batch.is_empty() {
        send(&mut batch)?;
    }
    Ok(())
}

fn without_content(entry: Entry) -> Entry {
    match entry {
        Entry::Put { row, .. } => Entry::Put { row, content: None },
        other => other,
    }
}

struct Hand<'a> {
    metadata: &'a Metadata,
    layout: &'a Layout,
    roots: &'a [Option<OwnedFd>],
    touched: BTreeSet<usize>,
    done: Replayed,
}

/// A place and its store path's folder.
struct Place<'a> {
    store: usize,
    root: BorrowedFd<'a>,
    id: PathId,
    relative: RelativePath,
}

impl<'a> Hand<'a> {
    fn work(mut self, entries: &flume::Receiver<Entry>) -> Result<Self, RowError> {
        while let Ok(entry) = entries.recv() {
            self.entry(entry)?;
        }
        Ok(self)
    }

    fn entry(&mut self, entry: Entry) -> Result<(), RowError> {
        match entry {
            Entry::Put { row, content: Some(content) } => {
                let owned =
                    Owned { app: row.app.clone(), user: row.user.clone(), file: row.file.clone() };
                let standing = wait(self.metadata.read_back(owned))?;
                let file_path = &row.file_path;
                match standing {
                    Some(row) if row.file_path == *file_path => {
                        self.at(file_path, |place| mend(place, &row, &content));
                    }
                    // It lost against another upload of the same id, and nobody was told that it is there; or it was
                    // written again elsewhere because its disk had failed, which may not be well yet.
                    Some(other) if self.is_writable(file_path) => {
                        self.at(file_path, |place| drop_ours(place, &other.file));
                    }
                    Some(_) => {}
                    // Purged: that entry is live too. Or its row is gone for another reason: the sweep adopts it.
                    None => {}
                }
            }
            Entry::Status(change) => {
                if let Some(named) = self.row_of(&change.row)? {
                    self.at(&change.row.path, |place| follow(place, &named));
                }
            }
            Entry::Remove { removal, unlink: true } => {
                if self.row_of(&removal.row)?.is_none() {
                    self.at(&removal.row.path, |place| drop_ours(place, &removal.row.file));
                }
            }
            // A large file was durable before its row; what else lost its row is for the sweep to judge.
            Entry::Put { content: None, .. } | Entry::Remove { .. } | Entry::Abort(_) => {}
        }
        Ok(())
    }

    fn is_writable(&self, file_path: &str) -> bool {
        let place = self.layout.place(file_path);
        place.is_some_and(|(store, ..)| self.roots.get(store).is_some_and(Option::is_some))
    }

    /// The row of a reference, if it still names that place.
    fn row_of(&self, row: &RowRef) -> Result<Option<FileRow>, RowError> {
        let standing = wait(self.metadata.find_back(&row.user, &row.file))?;
        Ok(standing.filter(|standing| standing.file_path == row.path))
    }

    fn at(&mut self, file_path: &str, act: impl FnOnce(&Place<'a>) -> io::Result<Did>) {
        let Some((store, id, relative)) = self.layout.place(file_path) else {
            tracing::error!(file_path, "a file of the journal lies at no store path of this node");
            self.done.failed += 1;
            return;
        };
        let Some(root) = self.roots.get(store).and_then(Option::as_ref) else {
            self.fail(store);
            return;
        };
        self.touched.insert(store);
        let place = Place { store, root: root.as_fd(), id, relative };
        match act(&place) {
            Ok(Did::Nothing) => {}
            Ok(Did::Wrote) => self.done.written += 1,
            Ok(Did::Record) => self.done.records += 1,
            Ok(Did::Unlinked) => self.done.unlinked += 1,
            Err(error) => {
                tracing::error!(store, file = %place.relative, %error, "cannot be replayed");
                self.fail(store);
            }
        }
    }

    fn fail(&mut self, store: usize) {
        self.done.failed += 1;
        self.done.failed_stores.insert(store);
    }
}

/// What became of a file.
enum Did {
    Nothing,
    Wrote,
    Record,
    Unlinked,
}

/// Makes a file what was journaled, in the state of its row.
fn mend(place: &Place<'_>, row: &FileRow, content: &[Bytes]) -> io::Result<Did> {
    let (file, is_new) = match sys::open_at(place.root, place.relative.as_str(), libc::O_RDWR) {
        Ok(file) => (file, false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Folders::default().ensure(place.root, place.relative.directory())?;
            (sys::create_at(place.root, place.relative.as_str())?, true)
        }
        Err(error) => return Err(error),
    };
    // What is in the page cache may never have reached the disk, though it looks clean: a write-back that failed.
    sys::drop_cached(&file);
    let found = if is_new { None } else { Some(inspect::checksum(&file, |_| {})?) };
    let is_whole = found == row.checksum.map(|checksum| (row.size, checksum));
    if !is_whole {
        rewrite(&file, content)?;
    }
    let Some(record) = record_of(place.id, row) else {
        return Err(io::Error::other("its row has names that no version wrote"));
    };
    let is_sealed = inspect::seal_of(&file, place.id)? == Seal::Good(Box::new(record.clone()));
    if !is_sealed {
        let bytes = record.encode().map_err(io::Error::other)?;
        sys::set_attribute(&file, record::ATTRIBUTE, &bytes)?;
    }
    Ok(match (is_whole, is_sealed) {
        (true, true) => Did::Nothing,
        (true, false) => Did::Record,
        (false, _) => Did::Wrote,
    })
}

/// Gives a file's record the state of its row. A file without a good record was taken over, or is for repair to judge.
fn follow(place: &Place<'_>, row: &FileRow) -> io::Result<Did> {
    let file = match sys::open_at(place.root, place.relative.as_str(), libc::O_RDONLY) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::error!(store = place.store, file = %place.relative, "a file with a row is not there");
            return Ok(Did::Nothing);
        }
        Err(error) => return Err(error),
    };
    let Seal::Good(mut record) = inspect::seal_of(&file, place.id)? else {
        return Ok(Did::Nothing);
    };
    let state = state_of(row);
    if (record.state, record.deleted_at) == (state, row.deleted_at) {
        return Ok(Did::Nothing);
    }
    (record.state, record.deleted_at) = (state, row.deleted_at);
    let bytes = record.encode().map_err(io::Error::other)?;
    sys::set_attribute(&file, record::ATTRIBUTE, &bytes)?;
    Ok(Did::Record)
}

fn state_of(row: &FileRow) -> State {
    match row.status {
        FileStatus::Normal => State::Normal,
        FileStatus::Deleted => State::Deleted,
    }
}

fn rewrite(file: &std::fs::File, content: &[Bytes]) -> io::Result<()> {
    use std::io::Seek as _;
    let mut file = file;
    file.set_len(0)?;
    file.rewind()?;
    content.iter().try_for_each(|piece| file.write_all(piece))
}

/// Unlinks a file that nothing names, if it is the one that was journaled: sealed as that, or not sealed at all.
fn drop_ours(place: &Place<'_>, file_id: &str) -> io::Result<Did> {
    let file = match sys::open_at(place.root, place.relative.as_str(), libc::O_RDONLY) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Did::Nothing),
        Err(error) => return Err(error),
    };
    let ours = match inspect::seal_of(&file, place.id)? {
        Seal::Good(record) => record.file.as_str() == file_id,
        Seal::None => true,
        Seal::Doubtful(_) => false,
    };
    if !ours {
        return Ok(Did::Nothing);
    }
    sys::unlink_at(place.root, place.relative.as_str())?;
    Ok(Did::Unlinked)
}

/// The record that a row's file must have.
pub(crate) fn record_of(path_id: PathId, row: &FileRow) -> Option<Record> {
    Some(Record {
        path_id,
        app: AppId::parse(&row.app).ok()?,
        user: UserId::parse(&row.user).ok()?,
        file: FileId::parse(&row.file).ok()?,
        size: row.size,
        checksum: row.checksum?,
        created_at: row.created_at,
        state: state_of(row),
        deleted_at: row.deleted_at,
        expires_at: row.expires_at,
        name: row.name.clone(),
        content_type: row.content_type.clone(),
    })
}
