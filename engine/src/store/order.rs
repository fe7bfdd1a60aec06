//! Brings a store path in order before it takes uploads: at the start, and when an operator re-admits one. What its
//! disk can do, how far its path ids went, what the last run left.
//!
//! A disk that is full or broken then is no reason to keep the others down: its files can be read all the same.

use std::{
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use super::{
    Stores, mark,
    open::OpenError,
    path::{DiskFault, StorePath},
    sys, walk,
};
use crate::{
    ids::{HELD_MAX, MarkState},
    metadata::Metadata,
    record,
    sweep::{self, SweepError, Swept},
};

/// Size of the attribute that the probe writes: a record whose ids, name and type are long but not unusual. Not more
/// than 248 bytes: xfs keeps no longer attribute inside an inode, however large that is.
const PROBE_LEN: usize = 200;

/// Free bytes from which on "no space" for one attribute can speak of the file system's limit instead.
const ROOM_FOR_AN_ATTRIBUTE: u64 = 1 << 20;

/// Pause before the servers of a volume are asked again for files that they did not give.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Blocks of path ids of an earlier run that stay held after its sweep. The others are for this run's uploads.
const STILL_HELD_MAX: usize = HELD_MAX / 2;

/// Why a store path is not re-admitted. It stays read-only.
#[derive(Debug, thiserror::Error)]
pub enum ReadmitError {
    /// There is no store path of this number.
    #[error("there is no such store path")]
    Unknown,
    /// There is nothing to re-admit.
    #[error("the store path is not read-only")]
    NotReadOnly,
    /// More work waits for its disk than the queue holds.
    #[error("too much work waits for this disk")]
    Busy,
    /// It is not in order: the disk still says no, or what the last run left could not be swept.
    #[error("still read-only: {0}")]
    NotInOrder(#[from] OpenError),
}

impl Stores {
    /// Lets a store path that went read-only take uploads again: an operator's word that its disk is well. The disk
    /// is probed, synced, and what an earlier run left there is swept before. On the store path's workers.
    ///
    /// # Errors
    /// See [`ReadmitError`].
    pub async fn readmit(&self, store: usize) -> Result<Swept, ReadmitError> {
        let path = self.paths().get(store).cloned().ok_or(ReadmitError::Unknown)?;
        let metadata = self.metadata().clone();
        let pool = path.pool.clone();
        pool.run(move || path.readmit(&metadata)).await.unwrap_or(Err(ReadmitError::Busy))
    }
}

impl StorePath {
    /// As [`Self::put_in_order`], at the start: a path whose disk is full opens full, one whose disk is broken opens
    /// read-only, and what it held stays held.
    pub(super) fn begin(&self, metadata: &Metadata) -> Result<(), OpenError> {
        if self.is_read_only() {
            let _marking = self.marking();
            // No id is given out before it is re-admitted, so a mark that cannot be read is asked for again then.
            if let Err(error) = self.read_mark() {
                tracing::error!(store = self.index, path = %self.folder.display(), %error, "the mark was not read");
            }
            tracing::error!(store = self.index, path = %self.folder.display(), "store path is read-only; not swept");
            return Ok(());
        }
        let Err(error) = self.put_in_order(metadata) else { return Ok(()) };
        match error.disk_fault() {
            DiskFault::Other => Err(error),
            // Whoever starts the node tries again.
            DiskFault::Broken | DiskFault::Away if self.sharing.is_shared() => Err(error),
            fault => {
                self.fault_at_start(fault, &error);
                Ok(())
            }
        }
    }

    fn readmit(&self, metadata: &Metadata) -> Result<Swept, ReadmitError> {
        if !self.is_read_only() {
            return Err(ReadmitError::NotReadOnly);
        }
        let swept = self.put_in_order(metadata)?;
        let taken = self.take_into_service();
        taken.map_err(at(&self.folder, "removing the marker of the read-only state"))?;
        Ok(swept)
    }

    /// Reads the mark, syncs what a killed process left, probes the disk, sweeps what an earlier run held, and writes
    /// down that nothing of it is held any more. Blocks of this run are left to the uploads they belong to.
    fn put_in_order(&self, metadata: &Metadata) -> Result<Swept, OpenError> {
        let folder = &self.folder;
        let _marking = self.marking();
        self.read_mark()?;
        if !self.sharing.is_shared() {
            // What a killed process left in the page cache counts as nothing yet: folders it made, files that are adopted
            // below. One sync, and all of it is as durable as it looks.
            let syncing = sys::open_folder(folder).map_err(at(folder, "opening the folder"))?;
            sys::syncfs(syncing.as_fd()).map_err(at(folder, "the first sync"))?;
        }
        let probed = probe_attributes(self);
        let full = probed.as_ref().is_err_and(|error| error.disk_fault() == DiskFault::Full);
        if !full {
            probed?;
        }
        let swept = self.sweep(metadata)?;
        let next = self.ledger().next_mark();
        self.write_mark(&next).map_err(|error| at(folder, "writing the mark")(error.into()))?;
        self.ledger().wrote(&next.state);
        if full {
            // The sweep may have made room.
            probe_attributes(self)?;
        }
        Ok(swept)
    }

    /// On return nothing of an earlier run is held, durably, but what could not be looked at. That is waited for: a delete that was
    /// cut short is decided before anybody reads the file, wherever that can be.
    fn sweep(&self, metadata: &Metadata) -> Result<Swept, OpenError> {
        let (held, began) = (self.ledger().earlier().to_vec(), Instant::now());
        let (mut swept, mut still) = (Swept::default(), held.clone());
        loop {
            let (more, left) = sweep::sweep(self, metadata, &still)
                .map_err(|error| OpenError::Sweep { path: self.folder.clone(), error })?;
            swept.add(more);
            still = left;
            if still.is_empty() || began.elapsed() >= self.sweep_patience {
                break;
            }
            thread::sleep(AGAIN_AFTER);
        }
        if !held.is_empty() {
            tracing::info!(store = self.index, path = %self.folder.display(), ?swept, "swept the blocks held at the last end");
        }
        if still.len() > STILL_HELD_MAX {
            let let_go = still.split_off(STILL_HELD_MAX);
            tracing::error!(store = self.index, path = %self.folder.display(), blocks = ?let_go,
                "too many blocks of path ids have files that cannot be looked at: what is unfinished there stays");
        }
        self.ledger().swept(still);
        Ok(swept)
    }

    /// Reads how far path ids went, once.
    fn read_mark(&self) -> Result<(), OpenError> {
        if self.ledger().is_known() {
            return Ok(());
        }
        let (index, folder) = (self.index, &self.folder);
        let marks = mark::read_all(self.root()).map_err(at(folder, "reading the marks"))?;
        for name in &marks.damaged {
            tracing::error!(store = index, path = %folder.display(), name, "damaged mark file; going by the files on the disk");
        }
        let highest =
            walk::past_highest(self.root()).map_err(at(folder, "looking for the highest id"))?;
        let mut mark = marks.mark();
        let own = self.sharing.mark();
        let (held, doubtful): (Vec<_>, Vec<_>) =
            marks.held_by(&own).into_iter().partition(|block| !marks.is_anothers(&own, block));
        if !doubtful.is_empty() {
            tracing::error!(store = index, path = %folder.display(), blocks = ?doubtful,
                "blocks of path ids that another node holds, too, are not swept");
        }
        if highest > mark {
            tracing::warn!(store = index, path = %folder.display(), mark, highest,
                "files above the mark of path ids: the mark is moved up");
            mark = highest;
        }
        self.ledger().resume(MarkState { mark, held });
        Ok(())
    }
}

impl OpenError {
    /// What it says of the disk; [`DiskFault::Other`] where it was not a disk that said no.
    fn disk_fault(&self) -> DiskFault {
        match self {
            Self::Disk { error, .. }
            | Self::Sweep { error: SweepError::Disk { error, .. }, .. } => DiskFault::of(error),
            _ => DiskFault::Other,
        }
    }
}

/// Writes record-sized attributes to a file of our own: a file system without user attributes, or with too little room
/// for a long record, is refused; one whose inodes are too small for a usual one is warned about.
fn probe_attributes(store: &StorePath) -> Result<(), OpenError> {
    let folder = &store.folder;
    let path = folder.join(store.sharing.own_file("probe"));
    let probed = fs::File::create(&path)
        .map_err(at(folder, "making a probe file"))
        .and_then(|file| probe(&file, folder));
    let removed = fs::remove_file(&path);
    let outside = probed?;
    removed.map_err(at(folder, "removing the probe file"))?;
    if outside {
        tracing::warn!(path = %folder.display(),
            "inodes are too small to hold the record of a file, which costs 30 to 50 % of small uploads; \
             make the file system with `mkfs.ext4 -I 512` or `mkfs.xfs -i size=512`");
    }
    store.small_inodes.store(outside, Ordering::Relaxed);
    Ok(())
}

/// Whether a usual record lies outside of the inode.
fn probe(file: &fs::File, folder: &Path) -> Result<bool, OpenError> {
    let blocks = || file.metadata().map(|found| found.blocks()).map_err(at(folder, "probing"));
    let write = |len: usize| sys::set_attribute(file, record::ATTRIBUTE, &vec![0x5A; len]);
    let path = || folder.to_owned();
    let before = blocks()?;
    write(PROBE_LEN).map_err(|error| match DiskFault::of(&error) {
        DiskFault::Other => OpenError::NoAttributes { path: path(), error },
        _ => at(folder, "writing a probe attribute")(error),
    })?;
    let outside = blocks()? > before;
    // ext4 with blocks of 1 KiB answers "no space" to an attribute of 1,000 bytes, however much is free: taken for a
    // full disk, one long file name would close the path to all others.
    let Err(error) = write(record::WRITTEN_LEN_MAX) else { return Ok(outside) };
    let room = sys::space(file.as_fd()).map_err(at(folder, "reading the free space"))?.free;
    let block = file.metadata().map_err(at(folder, "probing"))?.blksize();
    let short = block < record::WRITTEN_LEN_MAX as u64 && room >= ROOM_FOR_AN_ATTRIBUTE;
    match DiskFault::of(&error) {
        DiskFault::Full if short => Err(OpenError::ShortAttributes { path: path(), error }),
        DiskFault::Other => Err(OpenError::ShortAttributes { path: path(), error }),
        _ => Err(at(folder, "writing a probe attribute")(error)),
    }
}

pub(super) fn at(folder: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    let path = folder.to_owned();
    move |error| OpenError::Disk { path, doing, error }
}
