//! Whether a store path takes uploads: what a disk's errors mean for it, its free space, and calls that hang.

use std::{
    io,
    sync::{
        MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::StorePath;
use crate::record;
use crate::store::{
    durable::NotDurable,
    mark,
    open::OpenError,
    placement::{Candidate, Fullness, Health},
    sys,
};

/// What a system error of a disk means for its store path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskFault {
    /// No space or quota: the path is full, and comes back by itself.
    Full,
    /// The disk is not to be trusted with writes until an operator says so.
    Broken,
    /// Somebody behind a mount does not answer, or answers for too few: it comes back by itself.
    Away,
    /// Says nothing about the disk (a missing file, a name that is taken, too many open files).
    Other,
}

impl DiskFault {
    /// Of an error from anything but a sync.
    pub(crate) fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::Full,
            Some(libc::EIO | libc::EROFS | libc::ENXIO | libc::EUCLEAN | libc::ESHUTDOWN) => {
                Self::Broken
            }
            Some(
                libc::ENOTCONN
                | libc::EBADFD
                | libc::ETIMEDOUT
                | libc::ESTALE
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ECONNABORTED
                | libc::ECONNREFUSED
                | libc::ECONNRESET,
            ) => Self::Away,
            _ => Self::Other,
        }
    }

    /// Of an error from a sync: what was to be made durable is lost, so all but want of space is broken.
    pub(crate) fn of_sync(error: &io::Error) -> Self {
        match Self::of(error) {
            Self::Other => Self::Broken,
            fault => fault,
        }
    }
}

/// The marker of a read-only path, among the node's own files there; it outlives a restart, since only an operator
/// re-admits.
pub(crate) const READ_ONLY: &str = "read-only";

#[derive(Debug)]
pub(super) struct Condition {
    pub(super) fullness: Fullness,
    pub(super) fault: Option<String>,
    /// Why the servers behind a mount take nothing now.
    pub(super) away: Option<String>,
    pub(super) space: sys::Space,
}

/// What data threads see of the path without taking a lock.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) ids_left: AtomicU64,
    free: AtomicU64,
    full: AtomicBool,
    read_only: AtomicBool,
    away: AtomicBool,
}

impl StorePath {
    /// The path as placement sees it.
    pub(crate) fn candidate(&self) -> Candidate {
        let health = self.health();
        let ids_left = self.ids_left();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let taken = read(&self.promised).saturating_add(read(&self.landed));
        let usable = read(&self.seen.free).saturating_sub(taken.saturating_add(self.reserve));
        Candidate { health, usable, ids_left }
    }

    pub(crate) fn health(&self) -> Health {
        let now = self.elapsed_ms();
        let limit = u64::try_from(self.hang_limit.as_millis()).unwrap_or(u64::MAX);
        if self.is_read_only() {
            Health::ReadOnly
        } else if self.keeper_watch.longer_than(now, limit)
            || self.commit_watch.longer_than(now, limit)
            || self.worker_watch.longer_than(now, limit)
        {
            Health::Hung
        } else if self.is_away() {
            Health::Away
        } else if self.is_full() {
            Health::Full
        } else {
            Health::Ok
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.seen.full.load(Ordering::Relaxed)
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.seen.read_only.load(Ordering::Acquire)
    }

    /// Whether the servers behind a mount take nothing now.
    pub(crate) fn is_away(&self) -> bool {
        self.seen.away.load(Ordering::Acquire)
    }

    /// Something failed on this disk: changes the path's health as the fault says. Of a mount no error says that a disk is
    /// broken: its servers know, and one of them may be replaced while it goes on.
    pub(crate) fn failed(&self, fault: DiskFault, doing: &str, error: &io::Error) {
        match fault {
            DiskFault::Broken | DiskFault::Away if self.sharing.is_shared() => {
                self.away(&format!("{doing}: {error}"));
            }
            DiskFault::Full => {
                let mut condition = self.condition();
                if !condition.fullness.is_full() {
                    tracing::warn!(store = self.index, path = %self.folder.display(), %error, doing, "store path is full");
                }
                condition.fullness.refused(self.clock.now());
                self.publish(&condition);
            }
            DiskFault::Broken | DiskFault::Away => self.broken(&format!("{doing}: {error}")),
            DiskFault::Other => {}
        }
    }

    /// Not in order at the start, for a reason that lies with the disk.
    pub(in crate::store) fn fault_at_start(&self, fault: DiskFault, error: &OpenError) {
        tracing::error!(store = self.index, %error, "not swept: what the last run held stays held");
        if fault == DiskFault::Full {
            let mut condition = self.condition();
            condition.fullness.refused(self.clock.now());
            self.publish(&condition);
        } else {
            self.broken(&error.to_string());
        }
    }

    fn broken(&self, text: &str) {
        let first = {
            let mut condition = self.condition();
            let first = condition.fault.is_none();
            condition.fault.get_or_insert_with(|| text.to_owned());
            self.publish(&condition);
            first
        };
        if first {
            tracing::error!(store = self.index, path = %self.folder.display(), fault = text,
                "store path is read-only until an operator re-admits it");
            self.remember_read_only(text);
        }
    }

    fn away(&self, text: &str) {
        let mut condition = self.condition();
        if condition.away.is_none() {
            tracing::warn!(store = self.index, path = %self.folder.display(), fault = text,
                "the servers behind a store path do not take writes");
        }
        condition.away.get_or_insert_with(|| text.to_owned());
        self.publish(&condition);
    }

    /// Tries whether a mount that took nothing takes a file again; called by the keeper about once a second.
    pub(crate) fn look_whether_back(&self) {
        if !self.is_away() {
            return;
        }
        let _watch = self.keeper_watch.begin(self.elapsed_ms());
        let probe = self.sharing.own_file("probe");
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
        let tried = sys::open_at(self.root(), &probe, flags).and_then(|mut file| {
            io::Write::write_all(&mut file, &[0x5A; 512])?;
            sys::set_attribute(&file, record::ATTRIBUTE, &[0x5A; 16])?;
            file.sync_all()?;
            sys::unlink_at(self.root(), &probe)
        });
        if let Err(error) = tried {
            tracing::debug!(store = self.index, %error, "a store path is still away");
            return;
        }
        let mut condition = self.condition();
        condition.away = None;
        self.publish(&condition);
        tracing::info!(store = self.index, path = %self.folder.display(), "the store path takes writes again");
    }

    /// A sync failed. It is never tried again: every file that was begun before now is lost with it.
    pub(crate) fn sync_failed(&self, doing: &str, error: &io::Error) {
        self.sync_failures.fetch_add(1, Ordering::AcqRel);
        self.failed(DiskFault::of_sync(error), doing, error);
    }

    /// Something did not become durable. Where the sync was not even asked, the error speaks for itself: want of
    /// descriptors or memory says nothing of the disk.
    pub(crate) fn not_durable(&self, doing: &str, not: &NotDurable) {
        match not {
            NotDurable::Unasked(error) => self.failed(DiskFault::of(error), doing, error),
            NotDurable::Refused(error) => self.sync_failed(doing, error),
        }
    }

    /// To be remembered when a file is created, and compared at its commit.
    pub(crate) fn sync_generation(&self) -> u64 {
        self.sync_failures.load(Ordering::Acquire)
    }

    fn remember_read_only(&self, text: &str) {
        let marker = self.sharing.own_file(READ_ONLY);
        let written =
            sys::open_at(self.root(), &marker, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)
                .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
                .and_then(|()| Ok(mark::settle_name(self.root(), &marker)?));
        if let Err(error) = written {
            // A disk that takes no byte refuses this one as well; after a restart the first commit finds out again.
            tracing::warn!(store = self.index, %error, "the read-only state could not be written down");
        }
    }

    /// An operator says that the disk is well again, and it was found to be.
    pub(in crate::store) fn take_into_service(&self) -> io::Result<()> {
        match sys::unlink_at(self.root(), &self.sharing.own_file(READ_ONLY)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut condition = self.condition();
        condition.fault = None;
        self.publish(&condition);
        drop(condition);
        tracing::info!(store = self.index, path = %self.folder.display(), "store path re-admitted");
        Ok(())
    }

    /// Notices workers that all wait for the disk and finish nothing; called by the keeper about once a second. One
    /// busy worker alone says nothing: it may be reading a large file.
    pub(crate) fn look_at_workers(&self) {
        let status = self.pool.status();
        let before = self.finished.swap(status.finished, Ordering::Relaxed);
        if u64::try_from(status.running).unwrap_or(0) < self.workers as u64
            || status.finished != before
        {
            self.worker_watch.clear();
        } else {
            self.worker_watch.note(self.elapsed_ms());
        }
    }

    /// Looks at the free space; called by the keeper about once a second, since it can wait for a hung disk.
    pub(crate) fn look_at_space(&self) {
        let _watch = self.keeper_watch.begin(self.elapsed_ms());
        // What lands from here on may or may not be in the answer: it is counted until the next look.
        let landed = self.landed.load(Ordering::Relaxed);
        match sys::space(self.root()) {
            Ok(space) => {
                let mut condition = self.condition();
                condition.space = space;
                self.landed.fetch_sub(landed, Ordering::Relaxed);
                let changed =
                    condition.fullness.observe(space.free, space.files_free, self.clock.now());
                self.publish(&condition);
                if changed {
                    let full = condition.fullness.is_full();
                    tracing::warn!(store = self.index, path = %self.folder.display(), free = space.free, full,
                        "store path fullness changed");
                }
            }
            Err(error) => self.failed(DiskFault::of(&error), "reading the free space", &error),
        }
    }

    /// Shows what placement needs to data threads, which take no lock.
    pub(super) fn publish(&self, condition: &Condition) {
        self.seen.free.store(condition.space.free, Ordering::Relaxed);
        self.seen.full.store(condition.fullness.is_full(), Ordering::Relaxed);
        self.seen.read_only.store(condition.fault.is_some(), Ordering::Release);
        self.seen.away.store(condition.away.is_some(), Ordering::Release);
        // A path that is back may want ids again.
        self.ids_wanted.notify_one();
    }

    pub(super) fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Since when a thread has been inside a call to the disk.
#[derive(Debug, Default)]
pub(crate) struct Watch(AtomicU64);

/// The call is under way until this is dropped.
pub(crate) struct Watched<'a>(&'a AtomicU64);

impl Watch {
    pub(crate) fn begin(&self, now_ms: u64) -> Watched<'_> {
        self.0.store(now_ms + 1, Ordering::Relaxed);
        Watched(&self.0)
    }

    /// As [`Self::begin`], unless it is under way already.
    fn note(&self, now_ms: u64) {
        let _ = self.0.compare_exchange(0, now_ms + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn longer_than(&self, now_ms: u64, limit_ms: u64) -> bool {
        let began = self.0.load(Ordering::Relaxed);
        began != 0 && now_ms.saturating_sub(began) > limit_ms
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
