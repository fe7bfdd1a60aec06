//! Opens store paths: what a disk must be able to do, who the store is, what the last run left, and its threads.

use std::{
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use reel_node::{
    lock::{FolderLock, LockError},
    worker::Pool,
};
use reel_proto::name::HostName;

use super::{
    adoption::Adoption,
    api::{Clock, StoreConfig, StorePathConfig},
    brick::{self, Brick, BrickFault},
    commit, drained,
    expected::{self, Expected},
    identity::{self, Identity, IdentityError},
    keeper::{self, Keeper},
    order::at,
    path::{Parts, READ_ONLY, StorePath},
    sharing::Sharing,
    sys,
};
use crate::{
    epochs::Epochs,
    ids::Ledger,
    journal::{Gate, ReplayError},
    layout::{Layout, PrefixTaken},
    metadata::{Metadata, RowError, StorePlace},
    record,
    sweep::SweepError,
};

/// Commits that may wait; past it, workers wait, and with them the uploads to that disk.
const COMMIT_QUEUE_MAX: usize = 4096;

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
    /// It is the brick of a volume.
    #[error(
        "{}: it lies in a brick of a GlusterFS volume ({}): what is written there past a mount is lost to the \
         volume; mount the volume, and name this folder as `brick`",
        path.display(), volume.display()
    )]
    IsBrick {
        /// The store path.
        path: PathBuf,
        /// The volume's folder.
        volume: PathBuf,
    },
    /// The brick of the store path cannot be read.
    #[error("{}: brick {}: {fault}", path.display(), brick.display())]
    Brick {
        /// The store path.
        path: PathBuf,
        /// The brick.
        brick: PathBuf,
        /// Why.
        fault: BrickFault,
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
    /// The file system has too little room for the record of a file with long names.
    #[error(
        "{}: this file system takes no extended attribute of {} bytes ({error}); make it with blocks of 4 KiB \
         (`mkfs.ext4 -b 4096`), or use xfs or btrfs",
        path.display(), record::WRITTEN_LEN_MAX
    )]
    ShortAttributes {
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
    pub(crate) locks: Vec<FolderLock>,
    pub(crate) brick: Option<brick::Threads>,
}

/// What all store paths of a node share.
pub(crate) struct Shared<'a> {
    pub(crate) config: &'a StoreConfig,
    pub(crate) metadata: &'a Metadata,
    pub(crate) epochs: &'a Arc<Epochs>,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) journal: &'a Arc<Gate>,
}

/// A store path whose store is the one that belongs there.
pub(crate) struct Claim<'a> {
    pub(super) path: &'a StorePathConfig,
    identity: Identity,
    place: StorePlace,
    pub(super) sharing: Sharing,
    locks: Vec<FolderLock>,
}

/// Who the stores are, made where there is none and none is expected; and where rows name their files. No other
/// process of this node has them from here on, nor of any other unless they are shared.
pub(crate) fn claim<'a>(shared: &Shared<'a>) -> Result<(Layout, Vec<Claim<'a>>), OpenError> {
    let config = shared.config;
    let mut layout = Layout::default();
    let mut found: Vec<(&StorePathConfig, Identity, StorePlace)> = Vec::new();
    for (index, path) in config.paths.iter().enumerate() {
        let folder = &path.path;
        refuse_brick(folder)?;
        let place = expected::place(config.node.as_str(), folder)?;
        let expected = Expected::read(shared.metadata, &place, path)?;
        let id_key = path.id_key.as_deref();
        let identity = identity::open(folder, &config.group, id_key, &expected)?;
        all_different(&found, path, &identity)?;
        layout.add(&identity.id_key, index)?;
        found.push((path, identity, place));
        for alias in &path.aliases {
            layout.add(alias, index)?;
        }
    }
    let locked = |(path, identity, place): (&'a StorePathConfig, Identity, StorePlace)| {
        let folder = path.path.join(identity::FOLDER);
        let sharing = sharing(path, &config.node)?;
        let locks = match &sharing {
            Sharing::Alone => vec![FolderLock::take(&folder)?],
            Sharing::With(_) => vec![
                FolderLock::share(&folder)?,
                FolderLock::take_file(&path.path, &sharing.own_file("lock"))?,
            ],
        };
        Ok(Claim { path, identity, place, sharing, locks })
    };
    Ok((layout, found.into_iter().map(locked).collect::<Result<_, OpenError>>()?))
}

fn refuse_brick(folder: &Path) -> Result<(), OpenError> {
    match brick::root_of(folder) {
        Ok(Some(volume)) => Err(OpenError::IsBrick { path: folder.to_owned(), volume }),
        // What is not there, or cannot be read, is found out by whoever opens it.
        Ok(None) | Err(_) => Ok(()),
    }
}

/// Who else has a store path: what is configured, else by where it lies.
fn sharing(path: &StorePathConfig, node: &HostName) -> Result<Sharing, OpenError> {
    let is_shared = match path.shared {
        Some(is_shared) => is_shared,
        None => {
            let root =
                sys::open_folder(&path.path).map_err(at(&path.path, "opening the folder"))?;
            sys::may_be_remote(root.as_fd())
        }
    };
    Ok(if is_shared { Sharing::with(node) } else { Sharing::Alone })
}

/// Opens one store path: what was left to put in order, threads.
pub(crate) fn open(
    shared: &Shared<'_>,
    layout: &Arc<Layout>,
    index: usize,
    claim: Claim<'_>,
) -> Result<Opened, OpenError> {
    let Claim { path, identity, place, sharing, locks } = claim;
    let folder = path.path.clone();
    let disk = |doing| at(&folder, doing);
    let root = sys::open_folder(&folder).map_err(disk("opening the folder"))?;
    let space = sys::space(root.as_fd()).map_err(disk("reading the free space"))?;
    let adoption =
        Adoption::read(root.as_fd()).map_err(disk("reading how far it is taken over"))?;
    let (commits, commit_queue) = flume::bounded(COMMIT_QUEUE_MAX);
    let (keeping, keeper_queue) = flume::bounded(keeper::QUEUE_MAX);
    // Pool names are static; a store path lives as long as the process.
    let name: &'static str = format!("reel-store-{index}").leak();
    let pool = Pool::new(name, path.workers, path.queue_limit).map_err(disk("starting workers"))?;
    let name: &'static str = format!("reel-whole-{index}").leak();
    let whole_reads = Pool::new(name, 1, path.queue_limit).map_err(disk("starting workers"))?;
    let (brick, brick_work) = match &path.brick {
        Some(config) => {
            let fault = |fault| {
                let (path, brick) = (folder.clone(), config.path.clone());
                OpenError::Brick { path, brick, fault }
            };
            let (brick, work) = Brick::open(index, config, &identity.uuid).map_err(fault)?;
            (Some(brick), Some(work))
        }
        None => (None, None),
    };
    let fault = match read_only_marker(&folder.join(sharing.own_file(READ_ONLY))) {
        Ok(fault) => fault,
        // The servers of a volume are away, and whoever starts the node tries again.
        Err(error) if sharing.is_shared() => {
            let doing = "reading the marker of the read-only state";
            return Err(OpenError::Disk { path: folder.clone(), doing, error });
        }
        // As good as one that says so: the disk is broken.
        Err(error) => Some(format!("reading the marker of the read-only state: {error}")),
    };
    let drained = drained::is_marked(&folder.join(sharing.own_file(drained::DRAINED)));
    let parts = Parts {
        index,
        folder: folder.clone(),
        identity,
        layout: Arc::clone(layout),
        epochs: Arc::clone(shared.epochs),
        root,
        sharing,
        brick,
        durability: shared.config.durability,
        ledger: Ledger::new((shared.config.id_block / 2).max(1)),
        pool,
        whole_reads,
        commits,
        keeping,
        reserve: path.reserve.bytes(space.total),
        space,
        fault,
        drained,
        workers: path.workers.max(1),
        hang_limit: shared.config.hang_limit,
        sweep_patience: shared.config.sweep_patience,
        clock: Arc::clone(shared.clock),
        journal: Arc::clone(shared.journal),
        adoption,
    };
    let store = Arc::new(StorePath::new(parts));
    store.begin(shared.metadata)?;
    expected::remember(shared.metadata, place, &store, shared.clock.now())?;
    let committer =
        start_committer(shared, &store, commit_queue).map_err(disk("starting the committer"))?;
    let keeper = start_keeper(shared, &store, keeper_queue).map_err(disk("starting the keeper"))?;
    let brick = brick_work
        .map(|work| Brick::start(&store, work))
        .transpose()
        .map_err(disk("starting the threads of a brick"))?;
    Ok(Opened { store, committer, keeper, locks, brick })
}

fn start_committer(
    shared: &Shared<'_>,
    store: &Arc<StorePath>,
    queue: flume::Receiver<commit::CommitJob>,
) -> io::Result<JoinHandle<()>> {
    let folder = sys::open_folder(&store.folder)?;
    let mut strategy = commit::strategy(shared.config.durability, &store.sharing, folder);
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

/// Why the path was read-only when the node last ended.
fn read_only_marker(marker: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(marker) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The identities of all paths must differ.
fn all_different(
    found: &[(&StorePathConfig, Identity, StorePlace)],
    path: &StorePathConfig,
    identity: &Identity,
) -> Result<(), OpenError> {
    let twin = found.iter().find(|(_, other, _)| other.uuid == identity.uuid);
    match twin {
        None => Ok(()),
        Some((first, ..)) => Err(OpenError::Twice {
            first: first.path.clone(),
            second: path.path.clone(),
            uuid: identity.uuid.clone(),
        }),
    }
}
