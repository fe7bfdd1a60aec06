//! The kit of the store's tests: a store with its metadata and an ID node in memory, uploads in one call, loop disks.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::large_futures)]

pub mod disk;
pub mod engine;
pub mod faulty;

use std::{
    collections::BTreeSet,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reel_engine::{
    journal::{JournalConfig, SEGMENT_BYTES_MIN},
    metadata::{Metadata, wait},
    store::{
        Clock, FileKey, Health, Located, Lookup, PathStatus, Reserve, Status, StoreConfig,
        StorePathConfig, Stored, Stores, UploadError, UploadRequest,
    },
};
use reel_node::capability::RingFlags;
use reel_proto::name::{AppId, FileId, GroupName, HostName, UserId};

/// A clock that tests turn.
#[derive(Debug)]
pub struct HandClock(AtomicU64);

impl HandClock {
    pub fn at(seconds: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seconds)))
    }

    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// The time at which hand clocks start.
pub const START: u64 = 0x65F1_560C;

/// An ID node in memory, as honest or as forgetful as a test wants.
pub struct IdNode {
    pub next: Arc<Mutex<u64>>,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl IdNode {
    /// Serves `stores` from `next` on, each store path on a thread of its own.
    pub fn serve(stores: &Arc<Stores>, next: Arc<Mutex<u64>>) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let serve = |store: usize| {
            let (stores, sequence, ended) =
                (Arc::clone(stores), Arc::clone(&next), Arc::clone(&end));
            std::thread::spawn(move || serve_one(&stores, store, &sequence, &ended))
        };
        let threads = (0..stores.status().len()).map(serve).collect();
        Self { next, end, threads }
    }

    pub fn stop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn serve_one(stores: &Stores, store: usize, sequence: &Mutex<u64>, ended: &AtomicBool) {
    while !ended.load(Ordering::SeqCst) {
        let wanted = stores.block_wanted(store);
        let Some(request) = within(Duration::from_millis(50), wanted) else { continue };
        let block = {
            let mut next = sequence.lock().unwrap();
            // A node that does not know at_least would start at *next; ours moves up.
            *next = (*next).max(request.at_least);
            let start = *next;
            *next += request.count;
            start..*next
        };
        if wait(stores.block_arrived(store, block)).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for IdNode {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Drives a future for a while; `None` when it is not ready by then.
pub fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let until = Instant::now() + limit;
    let waker = std::task::Waker::noop();
    let mut context = std::task::Context::from_waker(waker);
    loop {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Some(value);
        }
        if Instant::now() >= until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until something becomes true; panics when it does not.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < limit, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Stores with everything around them.
pub struct Node {
    pub stores: Arc<Stores>,
    pub metadata: Metadata,
    pub ids: IdNode,
}

/// A folder in memory where the machine has one: these tests sync much and measure nothing.
pub fn quick_folder() -> tempfile::TempDir {
    match tempfile::tempdir_in("/dev/shm") {
        Ok(folder) => folder,
        Err(_) => tempfile::tempdir().unwrap(),
    }
}

/// The configuration of a store path with a reserve that fits small disks.
pub fn path_config(path: &Path) -> StorePathConfig {
    let mut config = StorePathConfig::new(path);
    config.reserve = Reserve { permille: 0, bytes_min: 64 * 1024 };
    config.workers = 4;
    config
}

/// A journal beside `database`, as small as one can be.
pub fn journal(database: &Path) -> JournalConfig {
    JournalConfig {
        folder: database.with_extension("journal"),
        database: database.to_owned(),
        segment_bytes: SEGMENT_BYTES_MIN,
        segments_max: 2,
        enabled: true,
        full_wait: Duration::from_secs(5),
        ring: std::env::var_os("REEL_TEST_NO_RING").is_none().then(RingFlags::default),
    }
}

/// The name of a test's database in its folder.
pub const DATABASE: &str = "storage.db";

/// A store and a database with its journal in one folder.
pub fn journaled(folder: &Path) -> StoreConfig {
    let mut config = config(&[&folder.join("store")]);
    config.journal = Some(journal(&folder.join(DATABASE)));
    config
}

pub fn status(node: &Node, file: &str) -> Option<Status> {
    wait(node.stores.stat(Lookup::Owned(key("tnv001", file)))).unwrap().map(|found| found.status)
}

/// A copy of a folder as it is now: what a crash of this moment would leave of what has been written. What is gone before
/// its turn (the journal makes and renames files by itself) was not there.
pub fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
    let text = String::from_utf8_lossy(&done.stderr);
    let vanished = |line: &str| line.ends_with("No such file or directory");
    assert!(done.status.success() || text.lines().all(vanished), "{text}");
}

/// The same tests hold with a journal and without: `REEL_TEST_JOURNAL` says which.
fn with_journal_if_wanted(config: &StoreConfig, database: &Path) -> StoreConfig {
    let mut config = config.clone();
    if std::env::var_os("REEL_TEST_JOURNAL").is_some() && config.journal.is_none() {
        config.journal = Some(journal(database));
    }
    config
}

/// The configuration of a node with these store paths.
pub fn config(paths: &[&Path]) -> StoreConfig {
    let paths = paths.iter().map(|path| path_config(path)).collect();
    let node = HostName::parse("node-1").unwrap();
    let mut config = StoreConfig::new(node, GroupName::parse("group001").unwrap(), paths);
    config.id_block = 64;
    config.repair_interval = Duration::ZERO;
    config.sweep_patience = Duration::ZERO;
    config
}

impl Node {
    /// Opens one store at `folder/store`, with its database at `folder/storage.db`.
    pub fn open(folder: &Path) -> Self {
        Self::open_with(&config(&[&folder.join("store")]), &folder.join("storage.db"), 0)
    }

    pub fn open_with(config: &StoreConfig, database: &Path, next_id: u64) -> Self {
        let config = with_journal_if_wanted(config, database);
        let metadata = Metadata::sqlite(database).unwrap();
        let stores = Stores::open(&config, metadata.clone()).unwrap();
        Self::serve(stores, metadata, next_id)
    }

    pub fn serve(stores: Arc<Stores>, metadata: Metadata, next_id: u64) -> Self {
        let ids = IdNode::serve(&stores, Arc::new(Mutex::new(next_id)));
        let node = Self { stores, metadata, ids };
        until("ids in hand", || {
            let has = |path: &PathStatus| path.ids_left > 0 || path.health != Health::Ok;
            node.stores.status().iter().all(has)
        });
        node
    }

    pub fn put(&self, file: &str, content: &[u8]) -> Result<Stored, UploadError> {
        put_as(&self.stores, key("tnv001", file), content)
    }

    pub fn find(&self, file: &str) -> Option<Located> {
        wait(self.stores.lookup(Lookup::Owned(key("tnv001", file)))).unwrap()
    }

    /// What a reader gets.
    pub fn read(&self, file: &str) -> Option<Vec<u8>> {
        let located = self.find(file)?;
        let opened = wait(self.stores.open_file(&located.place())).unwrap();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut fs::File::from(opened), &mut content).unwrap();
        Some(content)
    }

    /// Ends as a clean stop does; every gauge must be zero then.
    pub fn close(mut self) {
        self.ids.stop();
        until("no file is under way", || {
            self.stores.status().iter().all(|path| path.open_files == 0)
        });
        self.stores.close(Duration::from_secs(10));
        for path in self.stores.status() {
            assert_eq!((path.open_files, path.promised_bytes), (0, 0), "{path:?}");
        }
    }
}

pub fn key(user: &str, file: &str) -> FileKey {
    FileKey {
        app: AppId::parse("tnvideo").unwrap(),
        user: UserId::parse(user).unwrap(),
        file: FileId::parse(file).unwrap(),
    }
}

pub fn request(key: FileKey, size: Option<u64>) -> UploadRequest {
    UploadRequest { key, size, name: None, content_type: None, expires_at: None }
}

/// A whole upload, in pieces of up to 100,000 bytes.
pub fn put_as(stores: &Arc<Stores>, key: FileKey, content: &[u8]) -> Result<Stored, UploadError> {
    wait(async {
        let mut upload = stores.begin(request(key, Some(content.len() as u64))).await?;
        for piece in content.chunks(100_000) {
            upload.write(Bytes::copy_from_slice(piece)).await?;
        }
        upload.finish().await
    })
}

/// Bytes that differ by seed.
pub fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Every file in the tree of a store, relative to its root; `.reel` is left out.
pub fn files(store: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    walk(store, &mut |path| {
        let relative = path.strip_prefix(store).unwrap();
        if !relative.starts_with(".reel") {
            found.insert(relative.to_owned());
        }
        ControlFlow::Continue(())
    });
    found
}

/// Files in quarantine.
pub fn quarantined(store: &Path) -> usize {
    fs::read_dir(store.join(".reel/quarantine")).unwrap().count()
}

fn walk(folder: &Path, each: &mut impl FnMut(&Path) -> ControlFlow<()>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, each);
        } else if each(&path).is_break() {
            return;
        }
    }
}

/// The record of a file, through the same call that any tool would use.
pub fn attribute(path: &Path) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut value = vec![0_u8; 4096];
    // SAFETY: both names are NUL-terminated and the buffer is writable for its length.
    let len = unsafe {
        libc::getxattr(path.as_ptr(), c"user.reel".as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    value.truncate(usize::try_from(len).ok()?);
    Some(value)
}

/// Sets the record of a file, or takes it away.
pub fn set_attribute(path: &Path, value: Option<&[u8]>) {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let name = c"user.reel".as_ptr();
    let outcome = match value {
        Some(value) => {
            let (bytes, len) = (value.as_ptr().cast(), value.len());
            // SAFETY: both names are NUL-terminated and the value is readable for its length.
            unsafe { libc::setxattr(path.as_ptr(), name, bytes, len, 0) }
        }
        // SAFETY: both names are NUL-terminated.
        None => unsafe { libc::removexattr(path.as_ptr(), name) },
    };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}
