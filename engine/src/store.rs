//! The stores of a node: where files lie, when they are durable, what their rows say. The serving side knows no more
//! of disks than [`Stores`].
//!
//! Invariant: a row names a complete, durable file, and nothing without a row is served.
//! Invariant: nothing is unlinked that is not known to be ours and unneeded; what is doubtful is kept.
//! Invariant: no function of [`Stores`] that is async waits for a disk or for the database on its caller's thread.

pub mod adoption;
mod api;
mod brick;
pub(crate) mod change;
mod commit;
mod doubtful;
mod drained;
mod durable;
mod expected;
pub(crate) mod folders;
pub mod identity;
pub(crate) mod inspect;
mod journaling;
pub(crate) mod keeper;
mod listing;
pub(crate) mod mark;
mod open;
mod order;
mod others;
pub(crate) mod path;
mod pieces;
mod place;
pub mod placement;
mod salvage;
mod same;
pub(crate) mod sharing;
pub(crate) mod sys;
mod upload;
pub(crate) mod walk;
mod write;

use std::{
    collections::hash_map::RandomState,
    fs::File,
    hash::BuildHasher as _,
    ops::Range,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use flume::Sender;
use reel_meta::mysql::MysqlOptions;
use reel_node::{lock::FolderLock, worker::Pool};
use reel_proto::name::{FileId, GroupName};

pub use self::{
    api::{
        BlockRequest, ChangeError, Changed, Clock, Conflict, Durability, Fault, FileKey, Located,
        Lookup, LookupError, OpenFileError, Outcome, PathCounts, PathStatus, Place, Status,
        StoreConfig, StorePathConfig, Stored, SystemClock, UploadError, UploadRequest,
    },
    brick::{BrickConfig, BrickCounts, BrickFault, BrickStatus, root_of as brick_of},
    drained::DrainError,
    listing::{Listed, Listing},
    open::OpenError,
    order::ReadmitError,
    path::BlockRefused,
    placement::{Health, Reserve},
    upload::{PIECE, SMALL_MAX, Upload},
};
use self::{
    brick::Brick,
    change::Kind,
    commit::CommitJob,
    keeper::{Change, KeeperJob, Target, owned},
    path::{DiskFault, StorePath},
    placement::NoPlace,
};
use crate::{
    adopt::Passes,
    epochs::Epochs,
    housekeeping,
    journal::{Gate, Running},
    layout::Layout,
    metadata::{Metadata, RowError},
};

/// How often [`Stores::close`] looks whether the last uploads are over.
const CLOSE_LOOK: Duration = Duration::from_millis(5);

/// All store paths of a node. Shared by all its threads.
pub struct Stores {
    paths: Vec<Arc<StorePath>>,
    layout: Arc<Layout>,
    metadata: Metadata,
    epochs: Arc<Epochs>,
    id_block: u64,
    pub(crate) retention: Duration,
    pub(crate) adoption_rate: u64,
    pub(crate) adoption_age_min: Duration,
    /// The database that says which group a user's files are in, and the group of these.
    pub(crate) groups: Option<(MysqlOptions, GroupName)>,
    clock: Arc<dyn Clock>,
    draining: AtomicBool,
    active: AtomicU64,
    random: AtomicU64,
    hasher: RandomState,
    passes: Mutex<Passes>,
    /// Somebody counts files.
    counting: AtomicBool,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    committers: Vec<JoinHandle<()>>,
    keepers: Vec<JoinHandle<()>>,
    bricks: Vec<brick::Threads>,
    housekeeper: Option<(Sender<()>, JoinHandle<()>)>,
    journal: Option<Running>,
    locks: Vec<FolderLock>,
}

impl Stores {
    /// Opens all store paths, sweeps what a crash left, and starts their threads. Waits for disks and metadata: call
    /// it before the data threads start.
    ///
    /// # Errors
    /// [`OpenError`]; nothing runs then.
    pub fn open(config: &StoreConfig, metadata: Metadata) -> Result<Arc<Self>, OpenError> {
        Self::open_at(config, metadata, Arc::new(SystemClock))
    }

    /// As [`Self::open`], with another clock.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_at(
        config: &StoreConfig,
        metadata: Metadata,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, OpenError> {
        if config.paths.is_empty() {
            return Err(OpenError::NoPaths);
        }
        let epochs = Arc::clone(metadata.epochs());
        let gate = Arc::new(Gate::closed());
        let shared = open::Shared {
            config,
            metadata: &metadata,
            epochs: &epochs,
            clock: &clock,
            journal: &gate,
        };
        let (layout, claims) = open::claim(&shared)?;
        let journal = config.journal.clone().map(|mut journal| {
            journal.enabled &= config.durability == Durability::Sync;
            journal
        });
        let begun = journaling::begin(journal.as_ref(), &metadata, &layout, &claims, &gate)?;
        let layout = Arc::new(layout);
        let mut threads = Threads::default();
        let mut paths = Vec::new();
        for (index, claim) in claims.into_iter().enumerate() {
            match open::open(&shared, &layout, index, claim) {
                Ok(opened) => {
                    threads.committers.push(opened.committer);
                    threads.keepers.push(opened.keeper);
                    threads.locks.extend(opened.locks);
                    threads.bricks.extend(opened.brick);
                    paths.push(opened.store);
                }
                Err(error) => {
                    stop(&paths, &mut threads);
                    return Err(error);
                }
            }
        }
        if let (Some(begun), Some(config)) = (begun, &journal) {
            match begun.run(config, &metadata, &layout, &paths) {
                Ok(running) => threads.journal = Some(running),
                Err(error) => {
                    stop(&paths, &mut threads);
                    return Err(error);
                }
            }
        }
        let stores = Arc::new(Self {
            paths,
            layout,
            metadata,
            epochs,
            id_block: config.id_block.max(1),
            retention: config.retention,
            adoption_rate: config.adoption_rate,
            adoption_age_min: config.repair_age_min,
            groups: config.groups.clone().map(|options| (options, config.group)),
            clock,
            draining: AtomicBool::new(false),
            active: AtomicU64::new(0),
            random: AtomicU64::new(0),
            hasher: RandomState::new(),
            passes: Mutex::default(),
            counting: AtomicBool::new(false),
            threads: Mutex::new(threads),
        });
        let housekeeper = housekeeping::start(&stores, config);
        stores.threads.lock().unwrap_or_else(PoisonError::into_inner).housekeeper = housekeeper;
        stores.resume_adoptions();
        Ok(stores)
    }

    // --- blocks of path ids

    /// Waits until a store path wants a block of path ids; the one to fetch. Each path has a caller of its own, who
    /// asks again after each answer: a disk that hangs or refuses its mark keeps no other from its ids.
    ///
    /// Cancel safe: what is wanted is wanted until a block was accepted.
    pub async fn block_wanted(&self, store: usize) -> BlockRequest {
        // The number of a path that is not there: no block is ever wanted for it.
        let Some(path) = self.paths.get(store) else { return std::future::pending().await };
        path.ids_are_wanted().await;
        BlockRequest {
            store,
            key: path.identity.id_key.clone(),
            count: self.id_block,
            at_least: path.mark(),
        }
    }

    /// Takes a fetched block: its end goes durably into the mark, then its ids are offered to uploads.
    ///
    /// # Errors
    /// The block is not to be used, or the disk refused; then the same block may be tried again. Wait a little before
    /// the next try, so that neither an ID node that is wrong nor a disk is asked in a loop.
    pub async fn block_arrived(&self, store: usize, block: Range<u64>) -> Result<(), BlockRefused> {
        let Some(path) = self.paths.get(store) else { return Err(BlockRefused::Busy) };
        let path = Arc::clone(path);
        let pool = path.pool.clone();
        pool.run(move || path.accept_block(block)).await.unwrap_or(Err(BlockRefused::Busy))
    }

    // --- lookups

    /// A readable file: normal, and not past its expiry. `None` for every other: to a reader it does not exist.
    ///
    /// # Errors
    /// The metadata's, or busy.
    pub async fn lookup(&self, lookup: Lookup) -> Result<Option<Located>, LookupError> {
        let found = self.stat(lookup).await?;
        let now = self.clock.now();
        Ok(found.filter(|file| {
            file.status == Status::Normal && file.expires_at.is_none_or(|expires| now < expires)
        }))
    }

    /// A file in whatever state.
    ///
    /// # Errors
    /// The metadata's, or busy.
    pub async fn stat(&self, lookup: Lookup) -> Result<Option<Located>, LookupError> {
        let row = match &lookup {
            Lookup::Any(file) => self.metadata.get(file.as_str()).await,
            Lookup::Owned(key) => self.metadata.get_owned(owned(key)).await,
        };
        let file = row.map_err(lookup_error)?.map(|row| self.layout.locate(row)).transpose()?;
        match file {
            Some(file) if self.paths[file.store].doubtful.has(file.path_id) => {
                Err(LookupError::Doubtful)
            }
            file => Ok(file),
        }
    }

    /// Opens a file for reading, if it is on the disk with the size of its row. On the store path's workers.
    ///
    /// # Errors
    /// See [`OpenFileError`]; for all but busy a person should look.
    pub async fn open_file(&self, file: &Place) -> Result<OwnedFd, OpenFileError> {
        self.open_file_and(file, |_| ()).await.map(|(fd, ())| fd)
    }

    /// As [`Self::open_file`], and does what else may wait for the disk in the same turn.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub(crate) async fn open_file_and<T: Send + 'static>(
        &self,
        file: &Place,
        then: impl FnOnce(&OwnedFd) -> T + Send + 'static,
    ) -> Result<(OwnedFd, T), OpenFileError> {
        let store = Arc::clone(self.paths.get(file.store).ok_or(OpenFileError::Missing)?);
        if let Some(brick) = &store.brick
            && let Some(fd) = brick.file(&store, file).await?
        {
            let open = move || {
                let more = then(&fd);
                Ok((fd, more))
            };
            return store.pool.run(open).await.unwrap_or(Err(OpenFileError::Busy));
        }
        let (relative, expected) = (file.relative, file.size);
        let pool = store.pool.clone();
        let open = move || {
            let fd = open_checked(&store, relative.as_str(), expected)?;
            let more = then(&fd);
            Ok((fd, more))
        };
        pool.run(open).await.unwrap_or(Err(OpenFileError::Busy))
    }

    /// As [`Self::open_file`], at once and on the calling thread, if no disk is needed for it: then a miss in a cache of
    /// descriptors costs a few microseconds instead of a turn on a worker. `None`: try that.
    pub(crate) fn open_cached(&self, file: &Place) -> Option<OwnedFd> {
        let store = self.paths.get(file.store)?;
        if let Some(brick) = &store.brick {
            return brick.file_at_once(file);
        }
        if !store.is_local {
            return None;
        }
        let opened = sys::open_cached(store.root(), file.relative.as_str()).ok()?;
        // Its inode is in memory, too. What is wrong with it, the worker says.
        whole(opened, file.size).ok()
    }

    /// Whether an error of reading a file there is one of servers behind a mount that are away, and passes.
    pub(crate) fn may_pass(&self, store: usize, error: &std::io::Error) -> bool {
        self.is_shared(store) && DiskFault::of(error) == DiskFault::Away
    }

    /// The workers of a store path, for what waits for its disk while files are read.
    ///
    /// # Errors
    /// [`OpenFileError::Missing`]: there is no such store path.
    pub(crate) fn workers(&self, store: usize) -> Result<Pool, OpenFileError> {
        self.paths.get(store).map(|path| path.pool.clone()).ok_or(OpenFileError::Missing)
    }

    /// The epoch of a file id. Read it **before** a lookup, keep it with what is cached, and drop the entry when it
    /// has moved.
    pub fn epoch(&self, file: &FileId) -> u64 {
        self.epochs.get(file)
    }

    /// Has all that lies on the brick of a store path read again, from now on. `false`: it is being read, or has none.
    pub(crate) fn scrub(&self, store: usize) -> bool {
        let brick = self.paths.get(store).and_then(|path| path.brick.as_ref());
        brick.is_some_and(Brick::begin_pass)
    }

    // --- delete, restore, purge

    /// Soft delete. On return it is durable and no cache of this node serves the file to a new request.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn delete(&self, key: FileKey) -> Result<Changed, ChangeError> {
        self.change(Kind::Delete, key).await
    }

    /// The way back from [`Self::delete`], until the file is purged.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn restore(&self, key: FileKey) -> Result<Changed, ChangeError> {
        self.change(Kind::Restore, key).await
    }

    /// Removes a deleted file for good, before its retention is over.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn purge(&self, key: FileKey) -> Result<Changed, ChangeError> {
        self.change(Kind::Purge, key).await
    }

    async fn change(&self, kind: Kind, key: FileKey) -> Result<Changed, ChangeError> {
        // Where it lies. Its state is looked at by the keeper, behind every change that was asked before: what is
        // acknowledged here holds for row and record alike.
        let row = self.metadata.read_back(owned(&key)).await?;
        let file = row.map(|row| self.layout.locate(row)).transpose();
        let file = file.map_err(|error| ChangeError::Metadata {
            text: error.to_string().into(),
            retryable: false,
        })?;
        self.change_located(kind, file.ok_or(ChangeError::Unknown)?).await
    }

    pub(crate) async fn change_located(
        &self,
        kind: Kind,
        file: Located,
    ) -> Result<Changed, ChangeError> {
        self.change_at(kind, file.store, Target::from(&file)).await
    }

    pub(crate) async fn change_at(
        &self,
        kind: Kind,
        store: usize,
        file: Target,
    ) -> Result<Changed, ChangeError> {
        let (reply, wait) = flume::bounded(1);
        let job = KeeperJob::Change(Box::new(Change { kind, file, reply }));
        self.paths[store].keeping.try_send(job).map_err(|_| ChangeError::Busy)?;
        wait.recv_async().await.unwrap_or(Err(ChangeError::Busy))
    }

    // --- state

    /// Each store path, for `/status` and metrics.
    pub fn status(&self) -> Vec<PathStatus> {
        self.paths.iter().map(|path| path.status()).collect()
    }

    /// Whether uploads can be taken; the text says why not.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn ready(&self) -> Result<(), String> {
        if self.is_draining() {
            return Err("draining".to_owned());
        }
        if self.is_blind() {
            return Err("what other nodes change has not been read lately".to_owned());
        }
        self.choose(0, &[]).map(|_| ()).map_err(|none| none.to_string())
    }

    /// From now on no upload begins.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Uploads under way.
    pub fn active_uploads(&self) -> u64 {
        self.active.load(Ordering::Acquire)
    }

    /// Drains, waits up to `deadline` for uploads under way, and stops the threads. Blocks: not for a data thread.
    /// A second call does nothing.
    pub fn close(&self, deadline: Duration) {
        self.drain();
        let until = Instant::now() + deadline;
        while self.active_uploads() > 0 && Instant::now() < until {
            std::thread::sleep(CLOSE_LOOK);
        }
        self.end_adoptions();
        let mut threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        stop(&self.paths, &mut threads);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn paths(&self) -> &[Arc<StorePath>] {
        &self.paths
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn layout_of_rows(&self) -> Arc<Layout> {
        Arc::clone(&self.layout)
    }

    pub(crate) fn passes(&self) -> MutexGuard<'_, Passes> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    fn choose(&self, size: u64, skip: &[usize]) -> Result<Arc<StorePath>, NoPlace> {
        // A counter through a keyed hash: even enough for shares, and no lock.
        let random = self.hasher.hash_one(self.random.fetch_add(1, Ordering::Relaxed));
        choose(&self.paths, size, skip, random)
    }
}

/// As [`placement::choose`].
fn choose(
    paths: &[Arc<StorePath>],
    size: u64,
    skip: &[usize],
    random: u64,
) -> Result<Arc<StorePath>, NoPlace> {
    let candidates: Vec<_> = paths.iter().map(|path| path.candidate()).collect();
    placement::choose(&candidates, size, skip, random).map(|index| Arc::clone(&paths[index]))
}

impl Drop for Stores {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

fn stop(paths: &[Arc<StorePath>], threads: &mut Threads) {
    let join = |thread: JoinHandle<()>| {
        if thread.join().is_err() {
            tracing::error!("a thread of the stores had panicked");
        }
    };
    if let Some((end, thread)) = threads.housekeeper.take() {
        drop(end);
        if thread.thread().id() != std::thread::current().id() {
            join(thread);
        }
    }
    // All of them are told before one is waited for.
    let of_bricks: Vec<_> = threads.bricks.drain(..).flat_map(brick::Threads::stop).collect();
    of_bricks.into_iter().for_each(join);
    // Committers first: what they give back, keepers still take.
    for (path, thread) in paths.iter().zip(threads.committers.drain(..)) {
        let _ = path.commits.send(CommitJob::Stop);
        join(thread);
    }
    for (path, thread) in paths.iter().zip(threads.keepers.drain(..)) {
        let _ = path.keeping.send(KeeperJob::Stop);
        join(thread);
    }
    // After everybody who writes: what the journal holds goes to its place, and the next start finds it empty.
    if let Some(journal) = threads.journal.take() {
        journal.stop();
    }
    threads.locks.clear();
}

fn open_checked(
    store: &StorePath,
    relative: &str,
    expected: u64,
) -> Result<OwnedFd, OpenFileError> {
    let opened = sys::open_to_read(store.root(), relative);
    let opened = opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => OpenFileError::Missing,
        _ => OpenFileError::Disk(error),
    });
    opened.and_then(|file| whole(file, expected)).map_err(|error| match error {
        OpenFileError::Disk(error) if store.sharing.is_shared() => {
            store.failed(DiskFault::of(&error), "opening a file", &error);
            if store.is_away() { OpenFileError::Away } else { OpenFileError::Disk(error) }
        }
        error => error,
    })
}

fn whole(file: File, expected: u64) -> Result<OwnedFd, OpenFileError> {
    let on_disk = file.metadata().map_err(OpenFileError::Disk)?.len();
    if on_disk != expected {
        return Err(OpenFileError::Size { on_disk, expected });
    }
    Ok(file.into())
}

fn lookup_error(error: RowError) -> LookupError {
    if error.retryable { LookupError::Busy(error.text) } else { LookupError::Metadata(error.text) }
}
