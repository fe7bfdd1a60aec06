//! The commit journal: small contents and all changes of rows, appended to space that was filled ahead, made durable by
//! one sync for a group, and then acknowledged. Files and rows reach their own places later.
//!
//! - The writer (`Journal`) belongs to the thread that writes the metadata. It sends a group to the disk, prepares the
//!   change of the database meanwhile, and commits it once the group is durable; the database's own commits are not
//!   synced any more.
//! - The recycler (`recycle`) makes durable in their places what full segments hold (one syncfs for each store path, a
//!   checkpoint of the database) and gives the segments back. Where that fails the journal is *frozen*: it is kept as it is for the next
//!   start, and the node goes on without one, each group synced where it lies.
//! - `replay` brings rows and files up to the journal after a crash, before anything is served.
//!
//! Invariant: what was acknowledged lies durably in the journal, or in its place.
//! Invariant: entries are numbered without a gap; the database says in its own transactions up to which it has them, so
//! that each is done once and in order.
//! Invariant: nothing of a segment is overwritten before everything up to its last entry is durable in its place.

mod aligned;
mod appender;
mod format;
mod gate;
mod recycle;
mod replay;
mod scan;
mod segment;

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reel_meta::{NewFile, Removal, StatusChange};
use reel_node::{capability::RingFlags, metrics::SharedCell};

pub use self::replay::ReplayError;
use self::{
    appender::Appender,
    format::{BLOCK, Group, SegmentHeader},
    gate::Journaling,
    recycle::Shared,
    segment::Segment,
};
pub(crate) use self::{
    format::Entry,
    gate::Gate,
    recycle::{Recycler, Running, Salvaged, Settle, SettleError},
    replay::{Replayed, record_of, replay},
    scan::Recovered,
};

/// Where the journal is and how large it may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalConfig {
    /// Its folder, beside the database.
    pub folder: PathBuf,
    /// The database, which a checkpoint makes durable.
    pub database: PathBuf,
    /// Bytes of a segment: a multiple of 4096, at least [`SEGMENT_BYTES_MIN`].
    pub segment_bytes: u64,
    /// Most segments, at least [`SEGMENTS_MIN`].
    pub segments_max: u32,
    /// Whether to write one. What an earlier run left is replayed all the same.
    pub enabled: bool,
    /// How long a group waits for space before the journal is frozen.
    pub full_wait: Duration,
    /// Whether it may write through a ring, and how that is set up.
    pub ring: Option<RingFlags>,
}

/// The folder of a database's journal.
pub fn folder_of(database: &Path) -> PathBuf {
    database.with_extension("journal")
}

/// Whether a run that did not end well has left changes that the next start will carry out. Changes nothing.
///
/// # Errors
/// The journal cannot be read.
pub fn is_pending(database: &Path) -> io::Result<bool> {
    let folder = folder_of(database);
    Ok(folder.is_dir() && !Recovered::open(&folder)?.is_empty())
}

/// The smallest segment: the largest group fits twice.
pub const SEGMENT_BYTES_MIN: u64 = 4 << 20;

/// One that is written, one that is recycled.
pub const SEGMENTS_MIN: u32 = 2;

/// Bytes of a group, contents included, past which it takes no more. The last change may go past it.
pub(crate) const GROUP_BYTES_MAX: u64 = 1 << 20;

/// Why a group was not journaled. None of its changes may be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// What it holds cannot be made durable in its place, so no space comes back. It is kept for the next start, and
    /// this node goes on without it.
    #[error("the journal is frozen")]
    Frozen,
    /// The journal's disk failed; the entries are void.
    #[error("the journal cannot be written: {0}")]
    Disk(#[source] io::Error),
    /// The journal's disk failed, and the entries could not be made void: the next start may find them.
    #[error("the journal cannot be written: {0}")]
    Unknown(#[source] io::Error),
    /// It failed before, and what it last wrote was not made void: only a start can tell what is there.
    #[error("the journal has failed, and this node must be started again")]
    Broken,
}

/// The journal as its writer holds it.
#[derive(Debug)]
pub(crate) struct Journal {
    shared: Arc<Shared>,
    current: Segment,
    epoch: u64,
    nonce: u64,
    /// Where the next group goes.
    at: u64,
    segment_bytes: u64,
    /// The number of the next entry.
    next: u64,
    group: Group,
    flight: Option<Flight>,
    appender: Appender,
    ring: Option<RingFlags>,
    full_wait: Duration,
    broken: bool,
    metrics: SharedCell<Journaling>,
}

/// A group that is on its way to the disk.
#[derive(Debug)]
struct Flight {
    entries: Range<u64>,
    began: Instant,
    bytes: u64,
}

impl Journal {
    /// Begins to write, after the replay: every segment that was found is free. `position` is the entry up to which the
    /// database has everything.
    ///
    /// # Errors
    /// No segment could be made, or no header written.
    pub(crate) fn begin(
        config: &JournalConfig,
        recovered: Recovered,
        position: u64,
        gate: &Arc<Gate>,
    ) -> io::Result<(Self, Recycler)> {
        let epoch = recovered.epoch + 1;
        let last = recovered.found.last.max(recovered.recycled).max(position);
        segment::write_state(&config.folder, last)?;
        let fits =
            |segment: &Segment| segment.len().is_ok_and(|bytes| bytes == config.segment_bytes);
        // Of another length: from before the configuration was changed.
        let (mut free, other): (Vec<_>, Vec<_>) =
            recovered.into_segments().into_iter().partition(fits);
        let number = free.iter().chain(&other).map(Segment::number).max().map_or(0, |max| max + 1);
        other.into_iter().try_for_each(Segment::remove)?;
        // The last run was killed, perhaps, and what it last asked of the disk may still be on its way there. The
        // segment that this is about is used after all others.
        if free.len() < 2 {
            free.push(Segment::create(&config.folder, number, config.segment_bytes)?);
        }
        let mut current = free.pop().ok_or(io::ErrorKind::NotFound)?;
        let next = last + 1;
        let nonce = nonce()?;
        current.begin(&SegmentHeader::new(epoch, next, nonce))?;
        let shared = Arc::new(Shared::new(free, last, Arc::clone(gate)));
        let recycler = Recycler::new(config.clone(), Arc::clone(&shared), current.number());
        let mut group = Group::default();
        group.clear();
        let journal = Self {
            shared,
            current,
            epoch,
            nonce,
            at: BLOCK,
            segment_bytes: config.segment_bytes,
            next,
            group,
            flight: None,
            appender: Appender::default(),
            ring: config.ring,
            full_wait: config.full_wait,
            broken: false,
            metrics: gate.metrics.shared(),
        };
        Ok((journal, recycler))
    }

    /// Lets small contents in: the writer has it in hand, on this thread, and on no other from now on.
    pub(crate) fn open(&mut self) {
        if let Some(flags) = self.ring {
            self.appender.use_ring(flags);
        }
        self.shared.open();
    }

    /// Adds an insert to the group; its content too, where the file is not durable yet.
    pub(crate) fn put(&mut self, row: &NewFile, content: Option<&[Bytes]>) {
        self.group.put(row, content);
    }

    /// Adds a change of state to the group.
    pub(crate) fn status(&mut self, change: &StatusChange) {
        self.group.status(change);
    }

    /// Adds a removal to the group. `unlink`: its file goes with it.
    pub(crate) fn remove(&mut self, removal: &Removal, unlink: bool) {
        self.group.remove(removal, unlink);
    }

    /// Sends the group to the disk and gives the numbers of its entries. [`Self::settled`] tells what became of it; until
    /// then nothing is added.
    ///
    /// # Errors
    /// See [`AppendError`]; the entries are void.
    pub(crate) fn send(&mut self) -> Result<Range<u64>, AppendError> {
        let sent = self.append();
        if sent.is_err() {
            self.group.clear();
        }
        sent
    }

    fn append(&mut self) -> Result<Range<u64>, AppendError> {
        debug_assert!(self.flight.is_none());
        if self.is_broken() {
            return Err(AppendError::Broken);
        }
        if self.shared.is_frozen() {
            return Err(AppendError::Frozen);
        }
        let bytes = self.group.padded();
        if self.at + bytes > self.segment_bytes {
            self.rotate().inspect_err(|error| {
                if matches!(error, AppendError::Frozen) {
                    self.shared.freeze("nothing of it could be recycled in time");
                }
            })?;
        }
        let entries = self.next..self.next + self.group.len() as u64;
        let began = Instant::now();
        let sealed = self.group.seal(self.nonce, entries.start);
        self.appender.start(&self.current, self.at, sealed);
        self.flight = Some(Flight { entries: entries.clone(), began, bytes });
        Ok(entries)
    }

    /// Waits until the group that was sent is durable; at once where none is under way.
    ///
    /// # Errors
    /// See [`AppendError`]; the entries are void.
    pub(crate) fn settled(&mut self) -> Result<(), AppendError> {
        let Some(Flight { entries, began, bytes }) = self.flight.take() else { return Ok(()) };
        let (buffer, written) = self.appender.finish();
        self.group.give_back(buffer);
        match written {
            Ok(()) => {
                self.at += bytes;
                self.next = entries.end;
                self.measure(began, entries.end - entries.start, bytes);
                Ok(())
            }
            Err(error) => {
                // What of it reached the disk is not known, and a sync is not asked twice. The next segment begins with
                // the same number, which makes these entries void.
                tracing::error!(%error, "a group of the journal could not be written; another segment takes its place");
                match self.rotate() {
                    Ok(()) => Err(AppendError::Disk(error)),
                    Err(rotating) => {
                        tracing::error!(%rotating, "no other segment can be begun");
                        self.give_up();
                        Err(AppendError::Unknown(error))
                    }
                }
            }
        }
    }

    fn measure(&self, began: Instant, entries: u64, bytes: u64) {
        let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.metrics.observe(Journaling::TIME, us);
        self.metrics.observe(Journaling::ENTRIES, entries);
        self.metrics.add(Journaling::BYTES, bytes);
    }

    /// Says that entries did not happen, durably, so that no replay carries them out.
    ///
    /// # Errors
    /// As [`Self::settled`]: a replay may still carry them out.
    pub(crate) fn abort(&mut self, entries: Range<u64>) -> Result<(), AppendError> {
        self.group.abort(entries);
        self.send()?;
        self.settled()
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.shared.is_frozen()
    }

    /// Whether only a start can tell what is in it.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken || self.shared.is_broken()
    }

    /// The last entry that was journaled; 0 before the first.
    pub(crate) fn last(&self) -> u64 {
        self.next - 1
    }

    /// Takes nothing any more: what is in it and what is in the database cannot be brought together but by a start.
    pub(crate) fn give_up(&mut self) {
        tracing::error!(
            "the journal is broken: no change is taken until this node is started again"
        );
        self.broken = true;
        self.shared.freeze("it is broken");
    }

    /// Everything up to this entry is in the database and in its files, though not durably there.
    pub(crate) fn applied(&self, entry: u64) {
        self.shared.applied(entry);
    }

    fn rotate(&mut self) -> Result<(), AppendError> {
        let mut segment = self.shared.take_free(self.full_wait).ok_or(AppendError::Frozen)?;
        // Whether a header that could not be synced is on the disk nobody knows. If it is, it makes everything from its
        // first number on void elsewhere: nothing more goes into the present segment, and its epoch is used up.
        self.epoch += 1;
        self.at = self.segment_bytes;
        let begun = nonce().and_then(|nonce| {
            segment.begin(&SegmentHeader::new(self.epoch, self.next, nonce))?;
            Ok(nonce)
        });
        match begun {
            Ok(nonce) => self.nonce = nonce,
            Err(error) => {
                // Nothing is in it, so it may be tried again.
                self.shared.give_back(segment);
                return Err(AppendError::Disk(error));
            }
        }
        let full = std::mem::replace(&mut self.current, segment);
        self.shared.full(full, self.next - 1);
        self.at = BLOCK;
        Ok(())
    }
}

/// A number that no content can have foreseen.
fn nonce() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u64::from_be_bytes(bytes))
}
