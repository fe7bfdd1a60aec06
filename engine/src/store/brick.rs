//! Reads past the mount: the files of a GlusterFS volume as they lie on this node's own disk.
//!
//! A volume of replicas keeps every file whole in the folder of each of its servers, its *bricks*. A node that is one of them
//! reads there what it would get through the mount at several times the price. But a brick is not the volume: a file under heal
//! is absent there, then empty, then of full size with a part of its blocks, and rot on this disk is nobody's news. So nothing
//! is served from a brick before its whole content was read there and found to have the checksum of its row. That a file was
//! checked is kept ([`checks`]) with its inode, size and time of change, and is void when one of them is another.
//!
//! - What the brick lacks is read through the mount.
//! - What is bad there is not served at all until it is mended ([`mend`]): the mount may well read the very same copy.
//! - What is large and new is checked before anybody asks for it ([`ahead`]).
//! - What was good is read again and again ([`scrub`]), past the page cache.

mod ahead;
mod checks;
mod content;
mod mend;
mod scrub;
mod volume;

use std::{
    collections::{HashMap, hash_map},
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use flume::{Receiver, Sender};
use reel_node::worker::Pool;
use reel_proto::path::PathId;

pub use self::volume::root_of;
use self::{
    ahead::Ahead,
    checks::{Bound, Checks},
    mend::Mender,
    scrub::Scrubber,
};
use super::{
    api::{OpenFileError, Place},
    identity,
    inspect::{self, Seal},
    path::{DiskFault, StorePath, count},
    sys,
};

/// Threads that check files somebody waits for. More would only share the disk.
const CHECKERS: usize = 2;

/// Checks that may wait. Past it their readers are told to come again.
const CHECKS_MAX: usize = 1024;

/// Bad copies that wait to be mended. Those beyond are found again by whoever reads them, and by the scrub.
const SUSPECTS_MAX: usize = 4096;

/// How often a file may change under those who look at it before they give up.
const LOOKS_MAX: usize = 3;

/// Where a node finds its brick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrickConfig {
    /// The folder of the store on the brick: the same as the store path is on the mount.
    pub path: PathBuf,
    /// A folder of the node's own on the brick's file system; `None`: `reel-brick` beside the volume's folder.
    pub state: Option<PathBuf>,
    /// Within which time rot in a file that was checked is found.
    pub scrub_within: Duration,
}

/// Why a brick cannot be read, whatever becomes of its disk.
#[derive(Debug, thiserror::Error)]
pub enum BrickFault {
    /// Nothing above it is the folder of a volume.
    #[error("no folder of a GlusterFS volume: there is no .glusterfs in it or above it")]
    NoVolume,
    /// It holds another store.
    #[error("store {found} lies there, and {expected} on the mount")]
    Another {
        /// Uuid of the store on the mount.
        expected: String,
        /// Uuid of the store on the brick.
        found: String,
    },
    /// The node's own folder is no place for what is taken out of the brick.
    #[error("{} must lie on the brick's file system, and not in the volume's folder", .0.display())]
    State(PathBuf),
    /// The system.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

impl BrickFault {
    /// Whether it may be otherwise when the disk is there again.
    fn passes(&self) -> bool {
        matches!(self, Self::Disk(_))
    }
}

/// The brick of a store path. Shared by data threads, workers, and its own three threads.
pub(crate) struct Brick {
    config: BrickConfig,
    /// Of the store.
    uuid: String,
    /// None: its disk is not there, and all is read through the mount.
    opened: ArcSwapOption<Opened>,
    pool: Pool,
    /// Who waits for the check of a file.
    checking: Mutex<HashMap<u64, Vec<Sender<Checked>>>>,
    /// Copies that were found to be bad, as they were then.
    bad: Mutex<HashMap<u64, Bound>>,
    suspects: Sender<Suspect>,
    counts: Counts,
    scrub: Mutex<scrub::Progress>,
}

/// Its folders, open.
struct Opened {
    root: OwnedFd,
    /// The folder of the volume.
    volume: PathBuf,
    state: PathBuf,
    checks: Checks,
}

/// A file whose copy may be bad.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Suspect {
    id: u64,
    /// Its place below the store's root.
    relative: String,
    size: u64,
    checksum: u64,
}

/// What a look at a file of the brick says.
enum Look {
    /// It was checked, and is what it was then.
    Good(OwnedFd),
    /// It has its size.
    Unchecked,
    /// It was checked, and is as bad as it was then.
    Bad,
    /// It is not there, or not whole.
    Lacking,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checked {
    Good,
    Bad,
    /// Somebody was changing it.
    Changed,
    /// The disk gives nothing.
    Unread,
}

#[derive(Debug, Default)]
struct Counts {
    checked: AtomicU64,
    ahead: AtomicU64,
    bad: AtomicU64,
    mended: AtomicU64,
    mending: AtomicU64,
    beyond_help: AtomicU64,
    lacking: AtomicU64,
}

/// What happened on a brick since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct BrickCounts {
    /// Files whose content was read for somebody who waited.
    pub checked: u64,
    /// Those whose content was read before anybody asked for it.
    pub ahead: u64,
    /// Copies found to be bad.
    pub bad: u64,
    /// Of those, the ones that are whole again.
    pub mended: u64,
    /// Files that the brick lacks, opened through the mount.
    pub lacking: u64,
}

/// The brick of a store path, for `/status` and metrics.
#[derive(Debug, Clone, serde::Serialize)]
pub struct BrickStatus {
    /// Its folder.
    pub path: PathBuf,
    /// Whether it is there.
    pub is_open: bool,
    /// Counters since the start.
    #[serde(flatten)]
    pub counts: BrickCounts,
    /// Bad copies that the volume has still to bring back.
    pub mending: u64,
    /// Bad copies that need a person.
    pub beyond_help: u64,
    /// The reading of all that was checked.
    pub scrub: scrub::Progress,
}

/// What the threads of a brick work with.
pub(crate) struct Work {
    suspects: Receiver<Suspect>,
}

impl Brick {
    /// Opens the brick of a store. Where its disk is not there, the rest is tried again later.
    ///
    /// # Errors
    /// What no disk that comes back can change.
    pub(crate) fn open(
        index: usize,
        config: &BrickConfig,
        uuid: &str,
    ) -> Result<(Self, Work), BrickFault> {
        // Pool names are static; a store path lives as long as the process.
        let name: &'static str = format!("reel-check-{index}").leak();
        let (suspects, queue) = flume::bounded(SUSPECTS_MAX);
        let brick = Self {
            config: config.clone(),
            uuid: uuid.to_owned(),
            opened: ArcSwapOption::empty(),
            pool: Pool::new(name, CHECKERS, CHECKS_MAX)?,
            checking: Mutex::default(),
            bad: Mutex::default(),
            suspects,
            counts: Counts::default(),
            scrub: Mutex::default(),
        };
        match brick.open_folders() {
            Err(error) if error.passes() => {
                tracing::warn!(brick = %config.path.display(), %error,
                    "a brick cannot be opened: its files are read through the mount");
            }
            opened => opened?,
        }
        Ok((brick, Work { suspects: queue }))
    }

    /// Starts its threads.
    pub(crate) fn start(store: &Arc<StorePath>, work: Work) -> io::Result<Threads> {
        let ending = Arc::new(AtomicBool::new(false));
        let mender = Mender::new(Arc::clone(store), work.suspects, Arc::clone(&ending));
        let scrubber = Scrubber::new(Arc::clone(store), Arc::clone(&ending));
        let ahead = Ahead::new(Arc::clone(store), Arc::clone(&ending));
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(format!("reel-{name}-{}", store.index)).spawn(run)
        };
        let threads = vec![
            spawn("mend", Box::new(move || mender.run()))?,
            spawn("scrub", Box::new(move || scrubber.run()))?,
            spawn("ahead", Box::new(move || ahead.run()))?,
        ];
        Ok(Threads { ending, threads })
    }

    fn open_folders(&self) -> Result<(), BrickFault> {
        let path = &self.config.path;
        let root = sys::open_folder(path)?;
        let volume = root_of(path)?.ok_or(BrickFault::NoVolume)?;
        let found = match identity::read(path) {
            Ok(identity) => identity.uuid,
            Err(identity::IdentityError::Io { error, .. }) => return Err(error.into()),
            Err(error) => return Err(io::Error::other(error).into()),
        };
        if found != self.uuid {
            return Err(BrickFault::Another { expected: self.uuid.clone(), found });
        }
        let state = volume::state_folder(&volume, self.config.state.as_deref(), &self.uuid)?;
        let checks = Checks::open(&state, &self.uuid)?;
        self.lock_scrub().resume(&state);
        self.opened.store(Some(Arc::new(Opened { root, volume, state, checks })));
        Ok(())
    }

    /// Whether its folders are open; tries to open them where they are not.
    fn is_there(&self) -> bool {
        self.opened.load().is_some()
            || self
                .open_folders()
                .inspect(|()| {
                    let brick = self.config.path.display();
                    tracing::info!(%brick, "a brick is there again");
                })
                .is_ok()
    }

    /// A file of which the brick has a good copy. `None`: it is to be read through the mount.
    ///
    /// # Errors
    /// [`OpenFileError::Mending`]: no good copy is at hand. Busy.
    pub(crate) async fn file(
        &self,
        store: &Arc<StorePath>,
        place: &Place,
    ) -> Result<Option<OwnedFd>, OpenFileError> {
        let Some(checksum) = place.checksum else { return Ok(None) };
        for _ in 0..LOOKS_MAX {
            let (path, place) = (Arc::clone(store), *place);
            let look = store.pool.run(move || path.brick.as_ref().map(|brick| brick.look(&place)));
            match look.await.map_err(|_| OpenFileError::Busy)?.unwrap_or(Look::Lacking) {
                Look::Good(fd) => return Ok(Some(fd)),
                Look::Bad => return Err(OpenFileError::Mending),
                Look::Lacking => break,
                Look::Unchecked => {}
            }
            match self.checked(store, suspect_of(&place, checksum)).await? {
                Checked::Good | Checked::Changed => {}
                Checked::Bad => return Err(OpenFileError::Mending),
                Checked::Unread => break,
            }
        }
        count(&self.counts.lacking, 1);
        Ok(None)
    }

    /// As [`Self::file`], if that needs no disk.
    pub(crate) fn file_at_once(&self, place: &Place) -> Option<OwnedFd> {
        let opened = self.opened.load();
        let opened = opened.as_ref()?;
        let file = sys::open_cached(opened.root.as_fd(), place.relative.as_str()).ok()?;
        let is_good = opened.checks.at_once(place.path_id.get())? == Bound::of(&file).ok()?;
        (is_good && place.checksum.is_some()).then(|| file.into())
    }

    fn look(&self, place: &Place) -> Look {
        let Some(opened) = self.opened.load_full() else { return Look::Lacking };
        let file = match sys::open_to_read(opened.root.as_fd(), place.relative.as_str()) {
            Ok(file) => file,
            Err(error) => return self.unread("opening", place.relative.as_str(), &error),
        };
        let bound = match Bound::of(&file) {
            Ok(bound) => bound,
            Err(error) => return self.unread("looking at", place.relative.as_str(), &error),
        };
        let id = place.path_id.get();
        if bound.size != place.size {
            Look::Lacking
        } else if self.lock_bad().get(&id) == Some(&bound) {
            Look::Bad
        } else if opened.checks.get(id) == Some(bound) {
            Look::Good(file.into())
        } else {
            Look::Unchecked
        }
    }

    fn unread(&self, doing: &str, relative: &str, error: &io::Error) -> Look {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(brick = %self.config.path.display(), file = relative, doing, %error,
                "a brick cannot be read: the mount is");
        }
        Look::Lacking
    }

    /// Has a file checked, once for all that ask at the same time.
    async fn checked(
        &self,
        store: &Arc<StorePath>,
        file: Suspect,
    ) -> Result<Checked, OpenFileError> {
        let (reply, wait) = flume::bounded(1);
        let id = file.id;
        let is_first = match self.lock_checking().entry(id) {
            hash_map::Entry::Occupied(mut waiting) => {
                waiting.get_mut().push(reply);
                false
            }
            hash_map::Entry::Vacant(nobody) => {
                nobody.insert(vec![reply]);
                true
            }
        };
        if is_first {
            let path = Arc::clone(store);
            let job = move || {
                let Some(brick) = &path.brick else { return };
                count(&brick.counts.checked, 1);
                let outcome = brick.check(&path, &file, content::into_cache);
                brick.answer(id, outcome);
            };
            if self.pool.post(job).is_err() {
                self.lock_checking().remove(&id);
                return Err(OpenFileError::Busy);
            }
        }
        wait.recv_async().await.map_err(|_| OpenFileError::Busy)
    }

    fn answer(&self, id: u64, outcome: Checked) {
        for reply in self.lock_checking().remove(&id).unwrap_or_default() {
            let _ = reply.try_send(outcome);
        }
    }

    /// Has a file checked that nobody waits for yet. Whoever comes for it meanwhile waits for this reading. `false`: somebody was
    /// changing it.
    fn check_ahead(&self, store: &StorePath, file: &Suspect, ending: &AtomicBool) -> bool {
        let Some(opened) = self.opened.load_full() else { return false };
        match self.lock_checking().entry(file.id) {
            // Somebody was faster.
            hash_map::Entry::Occupied(_) => return true,
            hash_map::Entry::Vacant(nobody) => drop(nobody.insert(Vec::new())),
        }
        let outcome = self.check(store, file, |_| {
            let go_on = |_| !ending.load(Ordering::Acquire);
            content::from_disk(opened.root.as_fd(), &file.relative, go_on)
        });
        count(&self.counts.ahead, u64::from(outcome != Checked::Changed));
        self.answer(file.id, outcome);
        outcome != Checked::Changed
    }

    /// Reads a file from the disk, and keeps what was found.
    fn check(
        &self,
        store: &StorePath,
        file: &Suspect,
        read: impl FnOnce(&File) -> io::Result<(u64, u64)>,
    ) -> Checked {
        let Some(opened) = self.opened.load_full() else { return Checked::Unread };
        match opened.judge(file, read) {
            Ok(Judged::Good) => Checked::Good,
            Ok(Judged::Changing) => Checked::Changed,
            Ok(Judged::Bad(bound)) => {
                self.found_bad(store, file, bound);
                Checked::Bad
            }
            Ok(Judged::Unreadable) => {
                self.found_unreadable(file);
                Checked::Unread
            }
            Err(error) => {
                self.unread("reading", &file.relative, &error);
                Checked::Unread
            }
        }
    }

    /// A copy does not have the checksum of its file. It may be under heal: the mender waits until it is at rest.
    fn found_bad(&self, store: &StorePath, file: &Suspect, bound: Bound) {
        tracing::debug!(file = file.relative, "a copy on the brick does not have its checksum");
        {
            let mut bad = self.lock_bad();
            let is_known = bad.get(&file.id) == Some(&bound);
            // One that finds no room is read and found again.
            if !is_known
                && (bad.len() < SUSPECTS_MAX || bad.contains_key(&file.id))
                && self.suspects.try_send(file.clone()).is_ok()
            {
                bad.insert(file.id, bound);
            }
        }
        let Some(opened) = self.opened.load_full() else { return };
        if let Err(error) = opened.forget(store, file) {
            tracing::error!(brick = %self.config.path.display(), file = file.relative, %error,
                "a bad copy may be served: that it was checked cannot be taken back");
        }
    }

    /// The disk does not give a copy. The mount does not read it here either, when it finds that out.
    fn found_unreadable(&self, file: &Suspect) {
        // One that finds no room is read and found again.
        let _ = self.suspects.try_send(file.clone());
    }

    /// The next pass begins now. `false`: one is under way, or nothing is ever read again.
    pub(crate) fn begin_pass(&self) -> bool {
        !self.config.scrub_within.is_zero() && self.lock_scrub().is_wanted_now()
    }

    pub(crate) fn status(&self) -> BrickStatus {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BrickStatus {
            path: self.config.path.clone(),
            is_open: self.opened.load().is_some(),
            counts: BrickCounts {
                checked: read(&self.counts.checked),
                ahead: read(&self.counts.ahead),
                bad: read(&self.counts.bad),
                mended: read(&self.counts.mended),
                lacking: read(&self.counts.lacking),
            },
            mending: read(&self.counts.mending),
            beyond_help: read(&self.counts.beyond_help),
            scrub: self.lock_scrub().clone(),
        }
    }

    fn lock_checking(&self) -> MutexGuard<'_, HashMap<u64, Vec<Sender<Checked>>>> {
        self.checking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_bad(&self) -> MutexGuard<'_, HashMap<u64, Bound>> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_scrub(&self) -> MutexGuard<'_, scrub::Progress> {
        self.scrub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a whole reading of a copy says.
enum Judged {
    Good,
    /// As it is now.
    Bad(Bound),
    /// The disk does not give it.
    Unreadable,
    /// It is not there, is not whole, or was changed meanwhile.
    Changing,
}

impl Opened {
    /// No copy of this file was ever good, and whoever has one open closes it.
    fn forget(&self, store: &StorePath, file: &Suspect) -> io::Result<()> {
        let forgotten = self.checks.forget(file.id);
        let sealed = sys::open_to_read(self.root.as_fd(), &file.relative).and_then(|copy| {
            let id = PathId::new(file.id).map_err(io::Error::other)?;
            inspect::seal_of(&copy, id)
        });
        match sealed {
            Ok(Seal::Good(record)) => store.epochs.bump(record.file.as_str()),
            _ => store.epochs.bump_all(),
        }
        forgotten
    }

    /// Reads a copy from start to end, and notes one that is good.
    fn judge(
        &self,
        file: &Suspect,
        read: impl FnOnce(&File) -> io::Result<(u64, u64)>,
    ) -> io::Result<Judged> {
        let copy = match sys::open_to_read(self.root.as_fd(), &file.relative) {
            Ok(copy) => copy,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Judged::Changing),
            Err(error) => return Err(error),
        };
        let before = Bound::of(&copy)?;
        if before.size != file.size {
            return Ok(Judged::Changing);
        }
        let (size, checksum) = match read(&copy) {
            Ok(read) => read,
            Err(error) if DiskFault::of(&error) == DiskFault::Broken => {
                tracing::warn!(file = file.relative, %error, "a copy on the brick cannot be read");
                return Ok(Judged::Unreadable);
            }
            Err(error) => return Err(error),
        };
        if Bound::of(&copy)? != before || size != file.size {
            return Ok(Judged::Changing);
        }
        if checksum != file.checksum {
            return Ok(Judged::Bad(before));
        }
        // What was just healed may be in memory only: after a power loss it would be other bytes of the same inode and time.
        copy.sync_all()?;
        self.checks.put(file.id, before)?;
        Ok(Judged::Good)
    }
}

fn suspect_of(place: &Place, checksum: u64) -> Suspect {
    Suspect {
        id: place.path_id.get(),
        relative: place.relative.as_str().to_owned(),
        size: place.size,
        checksum,
    }
}

/// The threads of a brick.
pub(crate) struct Threads {
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Has them end; they are to be joined.
    pub(crate) fn stop(self) -> Vec<JoinHandle<()>> {
        self.ending.store(true, Ordering::Release);
        self.threads
    }
}
