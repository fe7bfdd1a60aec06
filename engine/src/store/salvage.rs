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
use reel_proto::path::PathId;

use super::{choose, path::StorePath, place::NewPlace, sys, write::Writing};
use crate::{
    journal::{Entry, Recovered, record_of},
    layout::Layout,
    metadata::{Metadata, RowError, wait},
    record,
};

/// Copies that are synced and named by their rows together.
const COPIES_MAX: usize = 256;

/// A round over a journal that is frozen.
pub(super) struct Salvage<'a> {
    pub(super) folder: &'a Path,
    /// Each with a folder of its own to sync by.
    pub(super) stores: &'a [(Arc<StorePath>, OwnedFd)],
    /// Store paths a sync of which has failed. What fails in the round comes to it.
    pub(super) doubt: &'a mut BTreeSet<usize>,
    pub(super) metadata: &'a Metadata,
    pub(super) layout: &'a Layout,
}

/// What a round has done.
#[derive(Default)]
struct Done {
    /// Copies that wait for their sync.
    copies: Vec<(NewPlace, RowRef)>,
    saved: u64,
    /// Contents for which there was no place.
    left: u64,
    /// Files there whose state was changed.
    states: Vec<RowRef>,
    /// Files there that were purged.
    purged: u64,
}

impl Salvage<'_> {
    /// On `true` all of it is durable elsewhere, and the next start replays nothing. On `false` something is left that may
    /// find its place later.
    ///
    /// # Errors
    /// What is left needs the next start.
    pub(super) fn round(mut self) -> io::Result<bool> {
        // From here on nothing is added.
        wait(self.metadata.uninstall_frozen()).map_err(io::Error::other)?;
        self.sync_others();
        let recovered = Recovered::open(self.folder)?;
        self.doubt_all(&recovered)?;
        let mut done = Done::default();
        recovered.entries(|_, entry| self.entry(entry, &mut done))?;
        self.settle(&mut done)?;
        if done.saved > 0 {
            tracing::warn!(
                files = done.saved,
                "files that a failed disk may have lost were written to other store paths"
            );
        }
        if done.left > 0 {
            tracing::error!(
                files = done.left,
                "files that a failed disk may have lost find no other store path; they are not served"
            );
            return Ok(false);
        }
        // A record there may say what was true before; the row alone is right.
        let mut behind = done.purged;
        for row in &done.states {
            behind += u64::from(self.standing(row)?.is_some());
        }
        if behind > 0 {
            let text =
                "states of files on a store path that failed are durable in the journal alone";
            return Err(io::Error::other(text));
        }
        recovered.retire(self.folder, 0)?;
        Ok(true)
    }

    /// What lies on the other store paths becomes durable there.
    fn sync_others(&mut self) {
        for (index, (store, folder)) in self.stores.iter().enumerate() {
            if !self.doubt.contains(&index) && sync(store, folder).is_err() {
                self.doubt.insert(index);
            }
        }
    }

    /// Nothing of it is served until it was written again.
    fn doubt_all(&self, recovered: &Recovered) -> io::Result<()> {
        recovered.entries(|_, entry| {
            if let Entry::Put { row, content: Some(_) } = entry
                && let Some((store, id)) = self.in_doubt(&row.file_path)
                && !store.doubtful.has(id)
            {
                store.doubtful.add(id);
                store.epochs.bump(&row.file);
            }
            Ok(())
        })
    }

    /// A place on a store path that failed.
    fn in_doubt(&self, file_path: &str) -> Option<(&StorePath, PathId)> {
        let (index, id, _) = self.layout.place(file_path)?;
        let (store, _) = self.stores.get(index)?;
        self.doubt.contains(&index).then_some((store, id))
    }

    fn entry(&mut self, entry: Entry, done: &mut Done) -> io::Result<()> {
        match entry {
            Entry::Put { row, content: Some(content) }
                if self.in_doubt(&row.file_path).is_some() =>
            {
                // Purged meanwhile, or brought elsewhere by an earlier round.
                let row = RowRef { user: row.user, file: row.file, path: row.file_path };
                let Some(standing) = self.standing(&row)? else { return Ok(()) };
                match self.copy(&standing, &content) {
                    Some(place) => done.copies.push((place, standing.reference())),
                    None => done.left += 1,
                }
                if done.copies.len() >= COPIES_MAX { self.settle(done) } else { Ok(()) }
            }
            Entry::Status(change) => {
                if self.in_doubt(&change.row.path).is_some() {
                    done.states.push(change.row);
                }
                Ok(())
            }
            Entry::Remove { removal, unlink: true } => {
                done.purged += u64::from(self.in_doubt(&removal.row.path).is_some());
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
        let written = Writing::create_at(&store, &key, Some(row.size), row.created_at).and_then(
            |mut writing| {
                writing.append(content, false)?;
                match record_of(writing.id(), row) {
                    Some(record) => writing.seal_copy(&record).map(Some),
                    None => Ok(None),
                }
            },
        );
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
                self.doubt.insert(index);
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
                Relocation { row: row.clone(), path: place.store().file_path(place.relative()) }
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
