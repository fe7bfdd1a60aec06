//! One store path at work: its folder, its ids, its health, and the threads that may wait for its disk.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use reel_node::worker::Pool;
use reel_proto::path::PathId;

use super::{
    api::{Clock, PathCounts, PathStatus},
    commit::CommitJob,
    folders::Folders,
    identity::Identity,
    keeper::KeeperJob,
    mark,
    placement::{Candidate, Fullness, Health},
    sys,
    walk::Leaf,
};
use crate::ids::{BlockError, Ledger};

/// What a system error of a disk means for its store path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskFault {
    /// No space or quota: the path is full, and comes back by itself.
    Full,
    /// The disk is not to be trusted with writes until an operator says so.
    Broken,
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
            _ => Self::Other,
        }
    }

    /// Of an error from a sync: what was to be made durable is lost, so all but want of space is broken.
    pub(crate) fn of_sync(error: &io::Error) -> Self {
        match Self::of(error) {
            Self::Full => Self::Full,
            _ => Self::Broken,
        }
    }
}

/// Where the marker of a read-only path lies; it outlives a restart, since only an operator re-admits.
pub(crate) const READ_ONLY: &str = ".reel/read-only";

#[derive(Debug)]
struct Condition {
    fullness: Fullness,
    fault: Option<String>,
    space: sys::Space,
}

/// What data threads see of the path without taking a lock.
#[derive(Debug, Default)]
struct Seen {
    ids_left: AtomicU64,
    free: AtomicU64,
    full: AtomicBool,
    read_only: AtomicBool,
}

/// See the module. Shared by data threads, workers, committer and keeper.
pub(crate) struct StorePath {
    pub(crate) index: usize,
    pub(crate) folder: PathBuf,
    pub(crate) identity: Identity,
    root: OwnedFd,
    pub(crate) folders: Folders,
    ledger: Mutex<Ledger>,
    pub(crate) wanted: flume::Sender<usize>,
    pub(crate) pool: Pool,
    pub(crate) commits: flume::Sender<CommitJob>,
    pub(crate) keeping: flume::Sender<KeeperJob>,
    condition: Mutex<Condition>,
    reserve: u64,
    /// Moves with every failed sync. A file that was begun before belongs to the failed sync, whichever group it
    /// would have been in: its pages may be the ones that were lost, and a later sync would not say so.
    sync_failures: AtomicU64,
    promised: AtomicU64,
    /// Bytes of uploads that ended after the free space was last looked at.
    landed: AtomicU64,
    seen: Seen,
    pub(crate) open_files: AtomicU64,
    pub(crate) keeper_watch: Watch,
    pub(crate) commit_watch: Watch,
    worker_watch: Watch,
    /// Jobs that the workers had finished when the keeper last looked.
    finished: AtomicU64,
    workers: usize,
    hang_limit: Duration,
    small_inodes: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counts: Counts,
    started: Instant,
}

/// What [`StorePath::new`] needs.
pub(crate) struct Parts {
    pub(crate) index: usize,
    pub(crate) folder: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) root: OwnedFd,
    pub(crate) ledger: Ledger,
    pub(crate) wanted: flume::Sender<usize>,
    pub(crate) pool: Pool,
    pub(crate) commits: flume::Sender<CommitJob>,
    pub(crate) keeping: flume::Sender<KeeperJob>,
    pub(crate) reserve: u64,
    pub(crate) space: sys::Space,
    pub(crate) fault: Option<String>,
    pub(crate) small_inodes: bool,
    pub(crate) workers: usize,
    pub(crate) hang_limit: Duration,
    pub(crate) clock: Arc<dyn Clock>,
}

impl StorePath {
    pub(crate) fn new(parts: Parts) -> Self {
        let mut fullness = Fullness::new(parts.reserve);
        fullness.observe(parts.space.free, parts.space.files_free, parts.clock.now());
        let store = Self {
            index: parts.index,
            folder: parts.folder,
            identity: parts.identity,
            root: parts.root,
            folders: Folders::default(),
            ledger: Mutex::new(parts.ledger),
            wanted: parts.wanted,
            pool: parts.pool,
            commits: parts.commits,
            keeping: parts.keeping,
            condition: Mutex::new(Condition { fullness, fault: parts.fault, space: parts.space }),
            reserve: parts.reserve,
            sync_failures: AtomicU64::new(0),
            promised: AtomicU64::new(0),
            landed: AtomicU64::new(0),
            seen: Seen::default(),
            open_files: AtomicU64::new(0),
            keeper_watch: Watch::default(),
            commit_watch: Watch::default(),
            worker_watch: Watch::default(),
            finished: AtomicU64::new(0),
            workers: parts.workers,
            hang_limit: parts.hang_limit,
            small_inodes: parts.small_inodes,
            clock: parts.clock,
            counts: Counts::default(),
            started: Instant::now(),
        };
        store.publish(&store.condition());
        store
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    // --- path ids

    /// The next path id; asks for more when few are left.
    pub(crate) fn take_id(&self) -> Option<PathId> {
        let id = {
            let mut ledger = self.ledger();
            let id = ledger.take();
            self.request(&mut ledger);
            id
        };
        if id.is_some() {
            self.open_files.fetch_add(1, Ordering::Relaxed);
        }
        id
    }

    /// The file of `id` is kept or, if `discarded`, unlinked.
    pub(crate) fn settle_id(&self, id: PathId, discarded: bool) {
        self.ledger().settle(id, discarded);
        self.open_files.fetch_sub(1, Ordering::Relaxed);
    }

    /// Puts a request for a block into the queue, if one is due and none is there.
    pub(crate) fn request_ids(&self) {
        self.request(&mut self.ledger());
    }

    fn request(&self, ledger: &mut Ledger) {
        self.seen.ids_left.store(ledger.left(), Ordering::Relaxed);
        // The queue holds one request per store path and want() gives one at a time, so it is never full.
        if ledger.want() && self.wanted.try_send(self.index).is_err() {
            ledger.unask();
        }
    }

    pub(crate) fn ids_failed(&self) {
        self.ledger().unask();
        self.request_ids();
    }

    pub(crate) fn mark(&self) -> u64 {
        self.ledger().mark()
    }

    pub(crate) fn ids_left(&self) -> u64 {
        self.seen.ids_left.load(Ordering::Relaxed)
    }

    /// Makes a block usable: its end is in the mark file, durably, before the first id of it is taken.
    /// On a worker; one at a time, by the one request that is out.
    pub(crate) fn accept_block(&self, block: std::ops::Range<u64>) -> Result<(), BlockRefused> {
        let (state, drops_discarded) = {
            let ledger = self.ledger();
            (ledger.admit(&block)?, ledger.drops_discarded())
        };
        let written = (|| {
            if drops_discarded {
                // Its own descriptor: an error told here must be told to the committer's too.
                let root = sys::open_folder(&self.folder)?;
                sys::syncfs(root.as_fd())?;
            }
            mark::write(self.root(), &state)?;
            self.occupied(&block)
        })();
        match written {
            Ok(occupied) => {
                let mut ledger = self.ledger();
                ledger.offer(block, occupied);
                self.request(&mut ledger);
                Ok(())
            }
            Err(error) => {
                self.sync_failed("writing the mark of path ids", &error);
                Err(BlockRefused::Disk(error))
            }
        }
    }

    /// Ids of a block whose place has a file already: two or three folder reads for each thousand uploads.
    fn occupied(&self, block: &std::ops::Range<u64>) -> io::Result<BTreeSet<u64>> {
        let mut occupied = BTreeSet::new();
        for leaf in Leaf::covering(block) {
            let entries = leaf.entries(self.root())?;
            occupied.extend(entries.iter().map(|entry| entry.id).filter(|id| block.contains(id)));
        }
        if !occupied.is_empty() {
            tracing::warn!(
                store = self.index,
                start = block.start,
                end = block.end,
                files = occupied.len(),
                "places of a new block of path ids have files already; they are left alone"
            );
        }
        Ok(occupied)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic inside the ledger is a broken invariant and aborts the process in release builds.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- health

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
        } else if self.seen.full.load(Ordering::Relaxed) {
            Health::Full
        } else {
            Health::Ok
        }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.seen.read_only.load(Ordering::Acquire)
    }

    /// Something failed on this disk: changes the path's health as the fault says.
    pub(crate) fn failed(&self, fault: DiskFault, doing: &str, error: &io::Error) {
        match fault {
            DiskFault::Full => {
                let mut condition = self.condition();
                if !condition.fullness.is_full() {
                    tracing::warn!(store = self.index, path = %self.folder.display(), %error, doing, "store path is full");
                }
                condition.fullness.refused(self.clock.now());
                self.publish(&condition);
            }
            DiskFault::Broken => {
                let text = format!("{doing}: {error}");
                let first = {
                    let mut condition = self.condition();
                    let first = condition.fault.is_none();
                    condition.fault.get_or_insert_with(|| text.clone());
                    self.publish(&condition);
                    first
                };
                if first {
                    tracing::error!(store = self.index, path = %self.folder.display(), %error, doing,
                        "store path is read-only until an operator re-admits it");
                    self.remember_read_only(&text);
                }
            }
            DiskFault::Other => {}
        }
    }

    /// A sync failed. It is never tried again: every file that was begun before now is lost with it.
    pub(crate) fn sync_failed(&self, doing: &str, error: &io::Error) {
        self.sync_failures.fetch_add(1, Ordering::AcqRel);
        self.failed(DiskFault::of_sync(error), doing, error);
    }

    /// To be remembered when a file is created, and compared at its commit.
    pub(crate) fn sync_generation(&self) -> u64 {
        self.sync_failures.load(Ordering::Acquire)
    }

    fn remember_read_only(&self, text: &str) {
        let written =
            sys::open_at(self.root(), READ_ONLY, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)
                .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()));
        if let Err(error) = written {
            // A disk that takes no byte refuses this one as well; after a restart the first commit finds out again.
            tracing::warn!(store = self.index, %error, "the read-only state could not be written down");
        }
    }

    /// An operator says that the disk is well again.
    pub(crate) fn readmit(&self) -> io::Result<()> {
        match sys::unlink_at(self.root(), READ_ONLY) {
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
    fn publish(&self, condition: &Condition) {
        self.seen.free.store(condition.space.free, Ordering::Relaxed);
        self.seen.full.store(condition.fullness.is_full(), Ordering::Relaxed);
        self.seen.read_only.store(condition.fault.is_some(), Ordering::Release);
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Keeps `size` bytes of the free space for an upload under way, until the promise is dropped.
    pub(crate) fn promise(self: &Arc<Self>, size: u64) -> Promise {
        self.promised.fetch_add(size, Ordering::Relaxed);
        Promise { store: Arc::clone(self), size }
    }

    pub(crate) fn status(&self) -> PathStatus {
        let health = self.health();
        let (mark, ids_left) = (self.mark(), self.ids_left());
        let condition = self.condition();
        PathStatus {
            store: self.index,
            path: self.folder.clone(),
            id_key: self.identity.id_key.clone(),
            uuid: self.identity.uuid.clone(),
            health,
            fault: condition.fault.clone(),
            total_bytes: condition.space.total,
            free_bytes: condition.space.free,
            reserve_bytes: self.reserve,
            promised_bytes: self.promised.load(Ordering::Relaxed),
            mark,
            ids_left,
            small_inodes: self.small_inodes,
            open_files: self.open_files.load(Ordering::Relaxed),
            counts: self.counts.read(),
        }
    }
}

/// A block of ids was not made usable.
#[derive(Debug, thiserror::Error)]
pub enum BlockRefused {
    /// It was not one to use.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The mark could not be made durable.
    #[error("writing the mark of path ids: {0}")]
    Disk(io::Error),
    /// The store path's workers did not take the job.
    #[error("the store path's workers are busy")]
    Busy,
}

/// Bytes of a store path that an upload under way may count on.
pub(crate) struct Promise {
    store: Arc<StorePath>,
    size: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        // In this order: for a moment counted twice rather than not at all.
        self.store.landed.fetch_add(self.size, Ordering::Relaxed);
        self.store.promised.fetch_sub(self.size, Ordering::Relaxed);
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

/// Counters; see [`PathCounts`].
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) uploads: AtomicU64,
    pub(crate) upload_bytes: AtomicU64,
    pub(crate) discarded: AtomicU64,
    pub(crate) left_behind: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) commit_files: AtomicU64,
    pub(crate) commit_failures: AtomicU64,
    pub(crate) commit_us: AtomicU64,
    pub(crate) changes: AtomicU64,
    pub(crate) purged: AtomicU64,
}

/// Adds to a counter that nothing else is ordered by.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Counts {
    fn read(&self) -> PathCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PathCounts {
            uploads: read(&self.uploads),
            upload_bytes: read(&self.upload_bytes),
            discarded: read(&self.discarded),
            left_behind: read(&self.left_behind),
            commits: read(&self.commits),
            commit_files: read(&self.commit_files),
            commit_failures: read(&self.commit_failures),
            commit_us: read(&self.commit_us),
            changes: read(&self.changes),
            purged: read(&self.purged),
        }
    }
}
