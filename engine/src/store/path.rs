//! One store path at work: its folder, its ids, its health, and the threads that may wait for its disk.

use std::{
    collections::BTreeSet,
    io,
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use reel_meta::FileRow;
use reel_node::{metrics::Registry, worker::Pool};
use reel_proto::path::{PathId, RelativePath};
use tokio::sync::Notify;

use self::health::{Condition, Seen};
pub(crate) use self::health::{DiskFault, READ_ONLY, Watch};
use super::{
    adoption::{Adoption, AdoptionState},
    api::{Clock, Durability, PathCounts, PathStatus},
    brick::Brick,
    commit::{CommitJob, Commits},
    doubtful::Doubtful,
    durable::NotDurable,
    folders::Folders,
    identity::Identity,
    keeper::KeeperJob,
    mark,
    placement::Fullness,
    sharing::Sharing,
    sys,
    walk::Leaf,
};
use crate::{
    epochs::Epochs,
    ids::{BlockError, Ledger, MarkState, NextMark},
    journal::Gate,
    layout::{self, Layout},
};

mod health;

/// See the module. Shared by data threads, workers, committer and keeper.
pub(crate) struct StorePath {
    pub(crate) index: usize,
    pub(crate) folder: PathBuf,
    pub(crate) identity: Identity,
    layout: Arc<Layout>,
    /// The caches of the node, to be told of what changes here.
    pub(crate) epochs: Arc<Epochs>,
    root: OwnedFd,
    /// Whether its file system is this machine's own.
    pub(crate) is_local: bool,
    /// Who else has it.
    pub(crate) sharing: Sharing,
    /// Where its files can be read past the mount.
    pub(crate) brick: Option<Brick>,
    /// Whoever writes a file makes it durable, by itself.
    pub(crate) syncs_each: bool,
    pub(crate) folders: Folders,
    ledger: Mutex<Ledger>,
    /// Held by whoever writes the mark file, from what it is to say until the ledger knows that it says so.
    marking: Mutex<()>,
    /// Told whenever a block of ids may be wanted that was not before.
    ids_wanted: Notify,
    pub(crate) pool: Pool,
    /// One thread that reads whole files. On the workers eight large ones would keep every reader of this disk from
    /// opening its file.
    pub(crate) whole_reads: Pool,
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
    pub(super) sweep_patience: Duration,
    pub(super) small_inodes: AtomicBool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counts: Counts,
    /// Whether small contents go into the commit journal now.
    pub(crate) journal: Arc<Gate>,
    /// See [`StorePath::touch`].
    touched: AtomicBool,
    /// Whether the marker of an operator's drain lies here.
    pub(super) drained: AtomicBool,
    /// Files that the disk may have lost.
    pub(crate) doubtful: Doubtful,
    /// How far it has been taken over; `None`: its files are all its own.
    adoption: Mutex<Option<Adoption>>,
    /// Whether it is being taken over.
    adopting: AtomicBool,
    /// Made here and exported by whoever serves, so that a store needs no exporter.
    pub(crate) commit_metrics: Registry<Commits>,
    started: Instant,
}

/// What [`StorePath::new`] needs.
pub(crate) struct Parts {
    pub(crate) index: usize,
    pub(crate) folder: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) layout: Arc<Layout>,
    pub(crate) epochs: Arc<Epochs>,
    pub(crate) root: OwnedFd,
    pub(crate) sharing: Sharing,
    pub(crate) brick: Option<Brick>,
    pub(crate) durability: Durability,
    pub(crate) ledger: Ledger,
    pub(crate) pool: Pool,
    pub(crate) whole_reads: Pool,
    pub(crate) commits: flume::Sender<CommitJob>,
    pub(crate) keeping: flume::Sender<KeeperJob>,
    pub(crate) reserve: u64,
    pub(crate) space: sys::Space,
    pub(crate) fault: Option<String>,
    pub(crate) drained: bool,
    pub(crate) workers: usize,
    pub(crate) hang_limit: Duration,
    pub(crate) sweep_patience: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) journal: Arc<Gate>,
    pub(crate) adoption: Option<Adoption>,
}

impl StorePath {
    pub(crate) fn new(parts: Parts) -> Self {
        let mut fullness = Fullness::new(parts.reserve);
        fullness.observe(parts.space.free, parts.space.files_free, parts.clock.now());
        let store = Self {
            index: parts.index,
            folder: parts.folder,
            identity: parts.identity,
            layout: parts.layout,
            epochs: parts.epochs,
            is_local: sys::is_local(parts.root.as_fd()),
            syncs_each: parts.sharing.is_shared() && parts.durability == Durability::Sync,
            sharing: parts.sharing,
            brick: parts.brick,
            root: parts.root,
            folders: Folders::default(),
            ledger: Mutex::new(parts.ledger),
            marking: Mutex::default(),
            ids_wanted: Notify::new(),
            pool: parts.pool,
            whole_reads: parts.whole_reads,
            commits: parts.commits,
            keeping: parts.keeping,
            condition: Mutex::new(Condition {
                fullness,
                fault: parts.fault,
                away: None,
                space: parts.space,
            }),
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
            sweep_patience: parts.sweep_patience,
            small_inodes: AtomicBool::new(false),
            clock: parts.clock,
            counts: Counts::default(),
            journal: parts.journal,
            touched: AtomicBool::new(false),
            drained: AtomicBool::new(parts.drained),
            doubtful: Doubtful::default(),
            adopting: AtomicBool::new(is_open(parts.adoption.as_ref())),
            adoption: Mutex::new(parts.adoption),
            commit_metrics: Registry::detached(),
            started: Instant::now(),
        };
        store.publish(&store.condition());
        store
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Whether small contents and changes go into the commit journal now.
    pub(crate) fn is_journaled(&self) -> bool {
        !self.sharing.is_shared() && self.journal.is_open()
    }

    /// Something was written here that only the journal makes durable. Said after the write and before its entry, so
    /// that whoever has seen the entry syncs this path.
    pub(crate) fn touch(&self) {
        if !self.sharing.is_shared() {
            self.touched.store(true, Ordering::Release);
        }
    }

    /// Whether that was said since it was last asked. Asked before the sync, so that what comes meanwhile is asked for
    /// again.
    pub(crate) fn take_touched(&self) -> bool {
        self.touched.swap(false, Ordering::AcqRel)
    }

    // --- taking over

    /// Whether the rows are the truth still: repair and purge leave this path alone then.
    pub(crate) fn is_adopting(&self) -> bool {
        self.adopting.load(Ordering::Acquire)
    }

    /// How far it has been taken over.
    pub(crate) fn adoption(&self) -> Option<Adoption> {
        self.lock_adoption().clone()
    }

    /// Shows how far it is now. Who wants it durable has written it before.
    pub(crate) fn show_adoption(&self, adoption: Adoption) {
        self.adopting.store(is_open(Some(&adoption)), Ordering::Release);
        *self.lock_adoption() = Some(adoption);
    }

    fn lock_adoption(&self) -> MutexGuard<'_, Option<Adoption>> {
        self.adoption.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a row names this place of this store path.
    pub(crate) fn is_named_by(&self, row: &FileRow, relative: &str) -> bool {
        self.layout.names(&row.file_path, self.index, relative)
    }

    /// Whether a row names a place of this node.
    pub(crate) fn knows(&self, row: &FileRow) -> bool {
        self.layout.place(&row.file_path).is_some()
    }

    /// The place here that a row may name; `None`: it names one of another store path.
    pub(crate) fn may_be_here(&self, row: &FileRow) -> Option<RelativePath> {
        match self.layout.place(&row.file_path) {
            Some((store, _, relative)) => (store == self.index).then_some(relative),
            None => {
                let (_, id, time) = PathId::parse_file_path(&row.file_path).ok()?;
                Some(id.relative(time))
            }
        }
    }

    /// The `file_path` of a new row for this place.
    pub(crate) fn file_path(&self, relative: &RelativePath) -> String {
        layout::file_path(&self.identity.id_key, relative)
    }

    // --- path ids

    /// The next path id; asks for more when few are left.
    pub(crate) fn take_id(&self) -> Option<PathId> {
        let id = {
            let mut ledger = self.ledger();
            let id = ledger.take();
            self.show_ids(&ledger);
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

    /// Waits until a block of ids is wanted: the ledger runs low, and the path could use them. Says so again until
    /// a block was accepted.
    pub(crate) async fn ids_are_wanted(&self) {
        loop {
            // A path that takes no upload needs no ids, and would only burn the ID node's: the mark cannot be written.
            let takes = !self.is_read_only() && !self.is_full() && !self.is_away();
            if takes && self.ledger().wants() {
                return;
            }
            self.ids_wanted.notified().await;
        }
    }

    /// Shows what is left to data threads, which take no lock, and to whoever fetches more.
    fn show_ids(&self, ledger: &Ledger) {
        self.seen.ids_left.store(ledger.left(), Ordering::Relaxed);
        if ledger.wants() {
            self.ids_wanted.notify_one();
        }
    }

    pub(crate) fn mark(&self) -> u64 {
        self.ledger().mark()
    }

    pub(crate) fn ids_left(&self) -> u64 {
        self.seen.ids_left.load(Ordering::Relaxed)
    }

    /// Makes a block usable: its end is in the mark file, durably, before the first id of it is taken.
    /// On a worker. A block that the disk refused may be offered again.
    pub(crate) fn accept_block(&self, block: Range<u64>) -> Result<(), BlockRefused> {
        let _marking = self.marking();
        if self.is_read_only() {
            return Err(BlockRefused::ReadOnly);
        }
        self.heed_others().map_err(BlockRefused::Disk)?;
        let next = self.ledger().admit(&block)?;
        let occupied = self.write_mark(&next).and_then(|()| self.look_through(&block, &next.state));
        match occupied {
            Ok(Some(occupied)) => {
                self.make_folders(&block);
                let mut ledger = self.ledger();
                ledger.offer(block, occupied, &next.state);
                self.show_ids(&ledger);
                Ok(())
            }
            Ok(None) => {
                let (Range { start, end }, mark) = (block, self.mark());
                Err(BlockRefused::Block(BlockError::BelowMark { start, end, mark }))
            }
            Err(error) => {
                self.not_durable("writing the mark of path ids", &error);
                Err(BlockRefused::Disk(error.into()))
            }
        }
    }

    /// Of a block that our mark file names since now: the ids whose place is taken. `None`: another node has it, too, and
    /// ours does not name it any more.
    fn look_through(
        &self,
        block: &Range<u64>,
        written: &MarkState,
    ) -> Result<Option<BTreeSet<u64>>, NotDurable> {
        if self.is_anothers(block).map_err(NotDurable::Unasked)? {
            let next = {
                let mut ledger = self.ledger();
                ledger.raise(written.mark);
                ledger.next_mark()
            };
            self.write_mark(&next)?;
            self.ledger().wrote(&next.state);
            return Ok(None);
        }
        self.occupied(block).map(Some).map_err(NotDurable::Unasked)
    }

    /// Ids that other nodes of this store were given are not ours to take, whatever an ID node says that has lost its
    /// database.
    fn heed_others(&self) -> io::Result<()> {
        if self.sharing.is_shared() {
            let mark = mark::read_all(self.root())?.mark();
            self.ledger().raise(mark);
        }
        Ok(())
    }

    /// Whether another node of this store has written down a part of a block meanwhile. Both write first and look then, so
    /// that at least one of two sees the other.
    fn is_anothers(&self, block: &Range<u64>) -> io::Result<bool> {
        if !self.sharing.is_shared() {
            return Ok(false);
        }
        let anothers = mark::read_all(self.root())?.is_anothers(&self.sharing.mark(), block);
        if anothers {
            tracing::error!(
                store = self.index,
                start = block.start,
                end = block.end,
                "two nodes were given the same path ids; they are used by one at most"
            );
        }
        Ok(anothers)
    }

    /// Makes the folders of a block before an upload needs them. One that is refused is made with its first file, and that
    /// upload hears of it.
    fn make_folders(&self, block: &Range<u64>) {
        for leaf in Leaf::covering(block) {
            if self.folders.ensure(self.root(), &leaf.folder()).is_err() {
                return;
            }
        }
    }

    pub(super) fn write_mark(&self, next: &NextMark) -> Result<(), NotDurable> {
        // On a mount the sync of the mark itself does it: the servers behind it carry out what came before first.
        if next.sync_first && !self.sharing.is_shared() {
            // Its own descriptor: an error told here must be told to the committer's too.
            let root = sys::open_folder(&self.folder).map_err(NotDurable::Unasked)?;
            sys::syncfs(root.as_fd()).map_err(NotDurable::Refused)?;
        }
        mark::write(self.root(), &self.sharing.mark(), &next.state)
    }

    /// The right to write the mark file.
    pub(super) fn marking(&self) -> MutexGuard<'_, ()> {
        self.marking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ids of a block whose place has a file already: two or three folder reads for each thousand uploads.
    fn occupied(&self, block: &Range<u64>) -> io::Result<BTreeSet<u64>> {
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

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic inside the ledger is a broken invariant and aborts the process in release builds.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
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
            fault: condition.fault.clone().or_else(|| condition.away.clone()),
            total_bytes: condition.space.total,
            free_bytes: condition.space.free,
            reserve_bytes: self.reserve,
            promised_bytes: self.promised.load(Ordering::Relaxed),
            mark,
            ids_left,
            small_inodes: self.small_inodes.load(Ordering::Relaxed),
            adoption: self.adoption(),
            brick: self.brick.as_ref().map(Brick::status),
            open_files: self.open_files.load(Ordering::Relaxed),
            counts: self.counts.read(),
        }
    }
}

fn is_open(adoption: Option<&Adoption>) -> bool {
    adoption.is_some_and(|adoption| adoption.state == AdoptionState::Open)
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
    /// Nothing is written there until an operator re-admits it.
    #[error("the store path is read-only")]
    ReadOnly,
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
    pub(crate) journaled: AtomicU64,
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
            journaled: read(&self.journaled),
            changes: read(&self.changes),
            purged: read(&self.purged),
        }
    }
}
