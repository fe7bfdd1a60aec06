//! Opens store paths: what a disk must be able to do, who the store is, what the last run left, and its threads.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use flume::Sender;
use reel_node::{
    lock::{FolderLock, LockError},
    worker::Pool,
};

use super::{
    api::{Clock, StoreConfig, StorePathConfig},
    commit,
    expected::{self, Expected},
    identity::{self, Identity, IdentityError},
    invalidation::Epochs,
    keeper::{self, Keeper},
    mark,
    path::{Parts, READ_ONLY, StorePath},
    sys, walk,
};
use crate::{
    ids::{Ledger, MarkState},
    journal::{Gate, ReplayError},
    layout::{Layout, PrefixTaken},
    metadata::{Metadata, RowError, StorePlace},
    record,
    sweep::{self, SweepError},
};

/// Commits that may wait; past it, workers wait, and with them the uploads to that disk.
const COMMIT_QUEUE_MAX: usize = 4096;

/// Size of the attribute that the probe writes: a record whose ids, name and type are long but not unusual. Not more
/// than 248 bytes: xfs keeps no longer attribute inside an inode, however large that is.
const PROBE_LEN: usize = 200;

/// Why the stores do not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No store path is configured.
    #[error("no store path is configured")]
    NoPaths,
    /// The store is not this node's, or cannot be read or made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Another process has it open.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// Two store paths have one prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixTaken),
    /// Two store paths are one and the same store.
    #[error("store paths {} and {} are the same store ({uuid})", first.display(), second.display())]
    Twice {
        /// One folder.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// Its uuid.
        uuid: String,
    },
    /// The file system cannot hold records.
    #[error(
        "{}: this file system takes no user extended attributes ({error}); use ext4, xfs or btrfs",
        path.display()
    )]
    NoAttributes {
        /// The store path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A call to the disk failed.
    #[error("{}: {doing}: {error}", path.display())]
    Disk {
        /// The store path.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// What the last run acknowledged cannot be brought back.
    #[error("journal {}: {error}", folder.display())]
    Journal {
        /// Its folder.
        folder: PathBuf,
        /// What went wrong.
        error: ReplayError,
    },
    /// A path that cannot be told from others in a database.
    #[error("{}: a store path is text in UTF-8", path.display())]
    PathText {
        /// The store path.
        path: PathBuf,
    },
    /// The metadata could not say which store to expect, or not keep it.
    #[error("{}: {doing}: {error}", path.display())]
    Metadata {
        /// The store path.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What it said.
        error: RowError,
    },
    /// What the last run left could not be put in order.
    #[error("{}: sweep: {error}", path.display())]
    Sweep {
        /// The store path.
        path: PathBuf,
        /// What went wrong.
        error: SweepError,
    },
}

/// A store path, open and at work.
pub(crate) struct Opened {
    pub(crate) store: Arc<StorePath>,
    pub(crate) committer: JoinHandle<()>,
    pub(crate) keeper: JoinHandle<()>,
    pub(crate) lock: FolderLock,
}

/// What all store paths of a node share.
pub(crate) struct Shared<'a> {
    pub(crate) config: &'a StoreConfig,
    pub(crate) metadata: &'a Metadata,
    pub(crate) epochs: &'a Arc<Epochs>,
    pub(crate) wanted: &'a Sender<usize>,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) journal: &'a Arc<Gate>,
}

/// A store path whose store is the one that belongs there.
pub(crate) struct Claim<'a> {
    pub(super) path: &'a StorePathConfig,
    identity: Identity,
    place: StorePlace,
}

/// Who the stores are, made where there is none and none is expected; and where rows name their files.
pub(crate) fn claim<'a>(shared: &Shared<'a>) -> Result<(Layout, Vec<Claim<'a>>), OpenError> {
    let config = shared.config;
    let mut layout = Layout::default();
    let mut claims: Vec<Claim<'a>> = Vec::new();
    for (index, path) in config.paths.iter().enumerate() {
        let folder = &path.path;
        let place = expected::place(config.node.as_str(), folder)?;
        let expected = Expected::read(shared.metadata, &place, path)?;
        let id_key = path.id_key.as_deref();
        let identity = identity::open(folder, &config.group, id_key, &expected)?;
        claims.push(Claim { path, identity, place });
        all_different(&claims)?;
        layout.add(&claims[index].identity.id_key, index)?;
        for alias in &path.aliases {
            layout.add(alias, index)?;
        }
    }
    Ok((layout, claims))
}

/// Opens one store path: lock, probes, the sync of what the last run left, sweep, threads.
pub(crate) fn open(
    shared: &Shared<'_>,
    layout: &Arc<Layout>,
    index: usize,
    claim: Claim<'_>,
) -> Result<Opened, OpenError> {
    let Claim { path, identity, place } = claim;
    let folder = path.path.clone();
    let disk = |doing| at(&folder, doing);
    let lock = FolderLock::take(&folder.join(identity::FOLDER))?;
    let root = sys::open_folder(&folder).map_err(disk("opening the folder"))?;
    let small_inodes = probe_attributes(&folder)?;
    // What a killed process left in the page cache counts as nothing yet: folders it made, files that are adopted
    // below. One sync, and all of it is as durable as it looks.
    let syncing = sys::open_folder(&folder).map_err(disk("opening the folder"))?;
    sys::syncfs(syncing.as_fd()).map_err(disk("the first sync"))?;
    let state = read_mark(index, &folder, &root)?;
    let space = sys::space(root.as_fd()).map_err(disk("reading the free space"))?;
    let (commits, commit_queue) = flume::bounded(COMMIT_QUEUE_MAX);
    let (keeping, keeper_queue) = flume::bounded(keeper::QUEUE_MAX);
    // Pool names are static; a store path lives as long as the process.
    let name: &'static str = format!("reel-store-{index}").leak();
    let pool = Pool::new(name, path.workers, path.queue_limit).map_err(disk("starting workers"))?;
    let parts = Parts {
        index,
        folder: folder.clone(),
        identity,
        layout: Arc::clone(layout),
        epochs: Arc::clone(shared.epochs),
        root,
        ledger: Ledger::new(state.mark, (shared.config.id_block / 2).max(1)),
        wanted: shared.wanted.clone(),
        pool,
        commits,
        keeping,
        reserve: path.reserve.bytes(space.total),
        space,
        fault: read_only_marker(&folder),
        small_inodes,
        workers: path.workers.max(1),
        hang_limit: shared.config.hang_limit,
        clock: Arc::clone(shared.clock),
        journal: Arc::clone(shared.journal),
    };
    let store = Arc::new(StorePath::new(parts));
    put_in_order(&store, shared.metadata, &state)?;
    expected::remember(shared.metadata, place, &store, shared.clock.now())?;
    let committer =
        start_committer(shared, &store, commit_queue).map_err(disk("starting the committer"))?;
    let keeper = start_keeper(shared, &store, keeper_queue).map_err(disk("starting the keeper"))?;
    Ok(Opened { store, committer, keeper, lock })
}

fn read_mark(index: usize, folder: &Path, root: &OwnedFd) -> Result<MarkState, OpenError> {
    let marks = mark::read_all(root.as_fd()).map_err(at(folder, "reading the marks"))?;
    for name in &marks.damaged {
        tracing::error!(store = index, path = %folder.display(), name, "damaged mark file; going by the files on the disk");
    }
    let highest =
        walk::past_highest(root.as_fd()).map_err(at(folder, "looking for the highest id"))?;
    let mut state = marks.state;
    if highest > state.mark {
        tracing::warn!(store = index, path = %folder.display(), mark = state.mark, highest,
            "files above the mark of path ids: the mark is moved up");
        state.mark = highest;
    }
    Ok(state)
}

/// The sweep; then the mark says that nothing is held.
fn put_in_order(
    store: &StorePath,
    metadata: &Metadata,
    state: &MarkState,
) -> Result<(), OpenError> {
    let folder = &store.folder;
    if store.is_read_only() {
        // Nothing may be written. The held blocks stay in the mark file for the start after re-admission.
        tracing::error!(store = store.index, path = %folder.display(), "store path is read-only; not swept");
        return Ok(());
    }
    let swept = sweep::sweep(store, metadata, &state.held)
        .map_err(|error| OpenError::Sweep { path: folder.clone(), error })?;
    if !state.held.is_empty() {
        tracing::info!(store = store.index, path = %folder.display(), ?swept, "swept the blocks held at the last end");
    }
    let nothing_held = MarkState { mark: state.mark, held: Vec::new() };
    mark::write(store.root(), &nothing_held).map_err(at(folder, "writing the mark"))
}

fn start_committer(
    shared: &Shared<'_>,
    store: &Arc<StorePath>,
    queue: flume::Receiver<commit::CommitJob>,
) -> io::Result<JoinHandle<()>> {
    let folder = sys::open_folder(&store.folder)?;
    let mut strategy = commit::strategy(shared.config.durability, folder);
    let (store, metadata) = (Arc::clone(store), shared.metadata.clone());
    let files_max = shared.config.commit_files_max.max(1);
    std::thread::Builder::new().name(format!("reel-commit-{}", store.index)).spawn(move || {
        commit::run(&store, &queue, strategy.as_mut(), &metadata, files_max);
    })
}

fn start_keeper(
    shared: &Shared<'_>,
    store: &Arc<StorePath>,
    queue: flume::Receiver<keeper::KeeperJob>,
) -> io::Result<JoinHandle<()>> {
    let keeper = Keeper {
        folder: sys::open_folder(&store.folder)?,
        store: Arc::clone(store),
        metadata: shared.metadata.clone(),
    };
    std::thread::Builder::new()
        .name(format!("reel-keep-{}", store.index))
        .spawn(move || keeper.run(&queue))
}

fn read_only_marker(folder: &Path) -> Option<String> {
    fs::read_to_string(folder.join(READ_ONLY)).ok()
}

/// Writes a record-sized attribute to a file of our own: a file system without user attributes is refused, one
/// whose inodes are too small for them is warned about.
fn probe_attributes(folder: &Path) -> Result<bool, OpenError> {
    let path = folder.join(identity::FOLDER).join("probe");
    let probed = || -> Result<bool, OpenError> {
        let file = fs::File::create(&path).map_err(at(folder, "making a probe file"))?;
        let before = file.metadata().map_err(at(folder, "probing"))?.blocks();
        sys::set_attribute(&file, record::ATTRIBUTE, &[0x5A; PROBE_LEN])
            .map_err(|error| OpenError::NoAttributes { path: folder.to_owned(), error })?;
        Ok(file.metadata().map_err(at(folder, "probing"))?.blocks() > before)
    };
    let probed = probed();
    let removed = fs::remove_file(&path);
    let outside = probed?;
    removed.map_err(at(folder, "removing the probe file"))?;
    if outside {
        tracing::warn!(path = %folder.display(),
            "inodes are too small to hold the record of a file, which costs 30 to 50 % of small uploads; \
             make the file system with `mkfs.ext4 -I 512` or `mkfs.xfs -i size=512`");
    }
    Ok(outside)
}

fn at(folder: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    let path = folder.to_owned();
    move |error| OpenError::Disk { path, doing, error }
}

/// The identities of all paths must differ.
fn all_different(claims: &[Claim<'_>]) -> Result<(), OpenError> {
    for (index, second) in claims.iter().enumerate() {
        let uuid = &second.identity.uuid;
        if let Some(first) = claims[..index].iter().find(|first| first.identity.uuid == *uuid) {
            return Err(OpenError::Twice {
                first: first.path.path.clone(),
                second: second.path.path.clone(),
                uuid: uuid.clone(),
            });
        }
    }
    Ok(())
}
