//! After a disk failed behind the journal: what it may have lost is written again, to a store path that is well.
//!
//! A sync that failed says nothing of which pages are lost, and the page cache may show them as if they were there. So every
//! content that the journal holds for that store path counts as lost: it is not served from there any more, is written
//! from the journal to another place, and then its row names that. Where no store path takes it, it waits.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use reel_meta::{Change, FileRow, Relocation, RowRef};

use super::{choose, journaling::Database, path::StorePath, place::NewPlace, sys, write::Writing};
use crate::{
    journal::{Entry, Recovered, Salvaged, record_of},
    layout::Layout,
    metadata::{Metadata, RowError, wait},
    record,
};

/// Copies that are synced and named by their rows together.
const COPIES_MAX: usize = 256;

/// What is remembered from round to round.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Store paths a sync of which has failed, or which did not take what a replay had for them.
    doubt: BTreeSet<usize>,
    /// The journal has been let go of.
    is_closed: bool,
    /// Contents that found no place, as was last said.
    told: u64,
}

impl Memory {
    /// These store paths are in doubt.
    pub(super) fn of(doubt: BTreeSet<usize>) -> Self {
        Self { doubt, ..Self::default() }
    }

    /// A sync of this store path has failed.
    pub(super) fn doubt(&mut self, store: usize) {
        self.doubt.insert(store);
    }
}

/// A round over a journal that is frozen.
pub(super) struct Salvage<'a> {
    pub(super) folder: &'a Path,
    /// Each with a folder of its own to sync by.
    pub(super) stores: &'a [(Arc<StorePath>, OwnedFd)],
    pub(super) database: &'a mut Database,
    pub(super) memory: &'a mut Memory,
    pub(super) metadata: &'a Metadata,
    pub(super) layout: &'a Layout,
}

/// What a round has done.
#[derive(Default)]
struct Done {
    /// Copies that wait for their sync.
    copies: Vec<(NewPlace, FileRow)>,
    saved: u64,
    /// Contents for which there was no place.
    left: u64,
    /// Files on a store path in doubt whose state was changed.
    states: Vec<RowRef>,
    /// What else only the journal knows: files there that were purged, and whatever lies on a store path that this node
    /// does not have now.
    kept: u64,
}

impl Salvage<'_> {
    /// Brings elsewhere what it can.
    pub(super) fn round(mut self, stopped: &dyn Fn() -> bool) -> Salvaged {
        match self.attempt(stopped) {
            Ok(salvaged) => salvaged,
            Err(_) if stopped() => Salvaged::Again,
            Err(error) => {
                tracing::warn!(%error, "what a failed disk may have lost could not be brought elsewhere; it is tried again");
                Salvaged::Again
            }
        }
    }

    fn attempt(&mut self, stopped: &dyn Fn() -> bool) -> io::Result<Salvaged> {
        if !self.database.is_sound() {
            // What it has is not known, so nothing of the journal may go.
            return Ok(Salvaged::ForTheNextStart);
        }
        if !self.memory.is_closed {
            // Before anything that waits.
            self.doubt_all()?;
            // From here on nothing is added, and everything in it is in the database.
            wait(self.metadata.uninstall_frozen()).map_err(io::Error::other)?;
            self.sync_others();
            self.memory.is_closed = true;
        }
        let recovered = self.doubt_all()?;
        let mut done = Done::default();
        recovered.entries(|_, entry| {
            if stopped() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.entry(entry, &mut done)
        })?;
        self.settle(&mut done)?;
        if done.saved > 0 {
            tracing::warn!(
                files = done.saved,
                "files that a failed disk may have lost were written to other store paths"
            );
        }
        if done.left > 0 {
            if std::mem::replace(&mut self.memory.told, done.left) != done.left {
                tracing::error!(
                    files = done.left,
                    "files that a failed disk may have lost find no other store path; they are not served until one takes them"
                );
            }
            return Ok(Salvaged::Again);
        }
        // A record there may say what was true before; the row alone is right.
        for row in &done.states {
            done.kept += u64::from(self.standing(row)?.is_some());
        }
        if done.kept > 0 {
            tracing::error!(
                entries = done.kept,
                "changes of files on a store path that failed, or that is not here, are in the journal alone"
            );
            return Ok(Salvaged::ForTheNextStart);
        }
        match self.database.settle() {
            Ok(true) => {}
            Ok(false) => return Ok(Salvaged::Again),
            Err(error) => {
                tracing::error!(%error, "what is in the journal is not known to be in the database");
                return Ok(Salvaged::ForTheNextStart);
            }
        }
        recovered.retire(self.folder, 0)?;
        Ok(Salvaged::Done)
    }

    /// What lies on the other store paths becomes durable there.
    fn sync_others(&mut self) {
        for (index, (store, folder)) in self.stores.iter().enumerate() {
            if !self.memory.doubt.contains(&index)
                && store.take_touched()
                && sync(store, folder).is_err()
            {
                self.memory.doubt.insert(index);
            }
        }
    }

    /// Nothing of what is in doubt is served, or changed, until it was written again.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub(super) fn doubt_all(&self) -> io::Result<Recovered> {
        let recovered = Recovered::open(self.folder)?;
        recovered.entries(|_, entry| {
            if let Entry::Put { row, content: Some(_) } = entry
                && let Some((index, id, _)) = self.layout.place(&row.file_path)
                && self.is_in_doubt(index)
                && let Some((store, _)) = self.stores.get(index)
                && !store.doubtful.has(id)
            {
                store.doubtful.add(id);
                store.epochs.bump(&row.file);
            }
            Ok(())
        })?;
        Ok(recovered)
    }

    fn is_in_doubt(&self, store: usize) -> bool {
        self.memory.doubt.contains(&store)
    }

    fn entry(&mut self, entry: Entry, done: &mut Done) -> io::Result<()> {
        let Some(path) = entry.place() else { return Ok(()) };
        let store = self.layout.place(path).map(|(store, ..)| store);
        if store.is_some_and(|store| !self.is_in_doubt(store)) {
            return Ok(());
        }
        match entry {
            Entry::Put { row, content: Some(content) } if store.is_some() => {
                // Purged meanwhile, or brought elsewhere by an earlier round.
                let row = RowRef { user: row.user, file: row.file, path: row.file_path };
                let Some(standing) = self.standing(&row)? else { return Ok(()) };
                match self.copy(&standing, &content) {
                    Some(place) => done.copies.push((place, standing)),
                    None => done.left += 1,
                }
                if done.copies.len() >= COPIES_MAX { self.settle(done) } else { Ok(()) }
            }
            Entry::Status(change) if store.is_some() => {
                done.states.push(change.row);
                Ok(())
            }
            Entry::Put { content: Some(_), .. }
            | Entry::Status(_)
            | Entry::Remove { unlink: true, .. } => {
                done.kept += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The row, if it still names that place.
    fn standing(&self, row: &RowRef) -> io::Result<Option<FileRow>> {
        let found =
            wait(self.metadata.find_back(&row.user, &row.file)).map_err(io::Error::other)?;
        Ok(found.filter(|found| found.file_path == row.path))
    }

    /// Writes it where there is a place. Not durable yet.
    fn copy(&self, row: &FileRow, content: &[Bytes]) -> Option<NewPlace> {
        let key = self.layout.locate(row.clone()).ok()?.key;
        let paths: Vec<_> = self.stores.iter().map(|(store, _)| Arc::clone(store)).collect();
        let store = choose(&paths, row.size, &[], row.created_at).ok()?;
        let written = Writing::create_for(&store, &key, Some(row.size)).and_then(|mut writing| {
            writing.append(content, false)?;
            match record_of(writing.id(), row) {
                Some(record) => writing.seal_copy(&record).map(Some),
                None => Ok(None),
            }
        });
        match written {
            Ok(place) => place,
            Err(error) => {
                tracing::warn!(store = store.index, file = row.file, %error, "a file cannot be brought here");
                None
            }
        }
    }

    /// Makes the copies durable and lets their rows name them.
    fn settle(&mut self, done: &mut Done) -> io::Result<()> {
        let mut copies = std::mem::take(&mut done.copies);
        let targets: BTreeSet<usize> =
            copies.iter().map(|(place, _)| place.store().index).collect();
        for index in targets {
            let (store, folder) = &self.stores[index];
            if sync(store, folder).is_err() {
                self.memory.doubt.insert(index);
                let (lost, rest): (Vec<_>, Vec<_>) =
                    copies.into_iter().partition(|(place, _)| place.store().index == index);
                // Dropped, a place is given back and its file removed.
                done.left += lost.len() as u64;
                copies = rest;
            }
        }
        let relocations: Vec<_> = copies
            .iter_mut()
            .map(|(place, row)| {
                place.set_sent(true);
                Relocation {
                    row: row.reference(),
                    status: row.status,
                    deleted_at: row.deleted_at,
                    path: place.store().file_path(place.relative()),
                }
            })
            .collect();
        if relocations.is_empty() {
            return Ok(());
        }
        let changes = match wait(self.metadata.relocate(relocations)) {
            Ok(changes) => changes,
            Err(RowError { text, unknown, .. }) => {
                // If it is not known, the keeper reads the rows back.
                copies.iter_mut().for_each(|(place, _)| place.set_sent(unknown));
                tracing::warn!(error = %text, "rows of files that were brought elsewhere could not be changed");
                done.left += copies.len() as u64;
                return Ok(());
            }
        };
        for ((mut place, _), change) in copies.into_iter().zip(changes) {
            if change == Change::Applied {
                done.saved += 1;
                place.keep();
            } else {
                // Its row has changed meanwhile: the next round looks again.
                done.left += 1;
                place.set_sent(false);
                place.remove();
            }
        }
        Ok(())
    }
}

/// Makes durable what was written to a store path, its folders included.
pub(super) fn sync(store: &StorePath, folder: &OwnedFd) -> io::Result<()> {
    let fresh = store.folders.all();
    let synced = sys::syncfs(folder.as_fd())
        .and_then(|()| sys::still_in_service(folder.as_fd(), record::ATTRIBUTE));
    match synced {
        Ok(()) => {
            store.folders.settled(&fresh);
            Ok(())
        }
        Err(error) => {
            store.sync_failed("the sync behind the journal", &error);
            Err(error)
        }
    }
}
