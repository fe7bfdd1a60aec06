//! Clients that upload, read and delete all the time, each in a thread on the client's host, and note all that they were told.

use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use reel_client::FileId;
use reel_tests::history::operations::{Act, Operations, Outcome};
use reel_tests::history::rules::DELETED_SERVED_MAX;
use reel_tests::network::Namespace;
use reel_tests::seed::{Content, Seeded};

use crate::clients::{self, Http, Library};

/// Between two operations of a client: the machine has a whole cluster to run.
const PAUSE: Duration = Duration::from_millis(60);

/// After an upload: what is uploaded while a brick is away has to be mended then, a few files a second on a busy disk.
const PAUSE_AFTER_UPLOAD: Duration = Duration::from_millis(250);

/// After one that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);

/// What "goes on" means: that often.
const OFTEN: u64 = 3;

/// Longest wait for it. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A kind of operation that has to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Uploads of the client library.
    Upload,
    /// Uploads over HTTP, through the gateways.
    Put,
    /// Reads through the gateways.
    Read,
    /// Reads from the storage nodes themselves.
    ReadNode,
    /// Reads of the client library.
    Download,
    /// Deletes.
    Delete,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Upload, Self::Put, Self::Read, Self::ReadNode, Self::Download, Self::Delete];
}

/// How often a kind of operation went well, and for how long it did not.
#[derive(Debug)]
struct Beats {
    count: AtomicU64,
    last: Mutex<(Instant, Duration)>,
}

/// What clients share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) operations: Operations,
    stop: AtomicBool,
    rest: AtomicBool,
    beats: [Beats; Kind::ALL.len()],
    /// Acknowledged and not deleted.
    stored: Mutex<Vec<(FileId, Content)>>,
    /// Deletes that were acknowledged, and when.
    deleted: Mutex<Vec<(FileId, Content, Duration)>>,
}

/// Where the store is reached.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) trackers: Vec<SocketAddr>,
    pub(crate) tracker: SocketAddr,
    pub(crate) gateway: SocketAddr,
    pub(crate) nodes: Vec<SocketAddr>,
}

/// The clients, as they run.
pub(crate) struct Load {
    pub(crate) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts them.
    pub(crate) fn start(namespace: &Namespace, places: &Places, seeded: &mut Seeded) -> Self {
        let beats = || Beats {
            count: AtomicU64::new(0),
            last: Mutex::new((Instant::now(), Duration::ZERO)),
        };
        let shared = Arc::new(Shared {
            operations: Operations::default(),
            stop: AtomicBool::new(false),
            rest: AtomicBool::new(false),
            beats: std::array::from_fn(|_| beats()),
            stored: Mutex::default(),
            deleted: Mutex::default(),
        });
        let mut load = Self { shared, threads: Vec::new() };
        let floating = [places.tracker];
        for (name, trackers) in
            [("upload", &places.trackers[..]), ("upload-floating", &floating[..])]
        {
            let trackers = trackers.to_vec();
            load.client(namespace, name, Kind::Upload, seeded, move |client| {
                let library = Library::new(&trackers);
                client.upload_all(|file, content| library.upload(file, content));
            });
        }
        let gateway = Http::new(vec![places.gateway]);
        let nodes = Http::new(places.nodes.clone());
        load.client(namespace, "put", Kind::Put, seeded, {
            let gateway = gateway.clone();
            move |client| client.upload_all(|file, content| gateway.put(file, content))
        });
        for name in ["read", "read-too"] {
            let gateway = gateway.clone();
            load.client(namespace, name, Kind::Read, seeded, move |client| {
                client.read_all(&gateway)
            });
        }
        load.client(namespace, "read-node", Kind::ReadNode, seeded, {
            let nodes = nodes.clone();
            move |client| client.read_all(&nodes)
        });
        let trackers = places.trackers.clone();
        load.client(namespace, "download", Kind::Download, seeded, move |client| {
            let library = Library::new(&trackers);
            client.each_stored(|client, file, content| {
                client.does(Act::Read, file, || library.download(file, content))
            });
        });
        let trackers = places.trackers.clone();
        load.client(namespace, "delete", Kind::Delete, seeded, move |client| {
            let library = Library::new(&trackers);
            client.delete_all(&library, &gateway, &nodes);
        });
        load
    }

    fn client(
        &mut self,
        namespace: &Namespace,
        name: &'static str,
        kind: Kind,
        seeded: &mut Seeded,
        body: impl FnOnce(&mut Client) + Send + 'static,
    ) {
        let namespace = namespace.clone();
        let mut client =
            Client { shared: Arc::clone(&self.shared), name, kind, seeded: seeded.branch() };
        self.threads.push(std::thread::spawn(move || {
            namespace.run(|| body(&mut client)).unwrap();
        }));
    }

    /// Forgets for how long nothing went well until now.
    pub(crate) fn begin(&self) {
        for beats in &self.shared.beats {
            *lock(&beats.last) = (Instant::now(), Duration::ZERO);
        }
    }

    /// Waits until these kinds of operations go well several times, and prints for how long one did not since [`Self::begin`].
    pub(crate) fn goes_on(&self, kinds: &[Kind], when: &str) {
        let count = |kind: Kind| self.shared.beats[kind as usize].count.load(Ordering::Relaxed);
        let wanted: Vec<_> = kinds.iter().map(|kind| (*kind, count(*kind) + OFTEN)).collect();
        let begin = Instant::now();
        for (kind, wanted) in wanted {
            while count(kind) < wanted {
                assert!(begin.elapsed() < PATIENCE, "{when}: no {kind:?} goes well any more");
                assert!(!self.threads.iter().any(JoinHandle::is_finished), "a client has ended");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let gap = |kind: &Kind| {
            let (last, longest) = *lock(&self.shared.beats[*kind as usize].last);
            format!("{kind:?} {:.1} s", longest.max(last.elapsed()).as_secs_f64())
        };
        let gaps: Vec<_> = kinds.iter().map(gap).collect();
        println!("    {when}; the longest time without: {}", gaps.join(", "));
    }

    /// Lets them rest after what they are at, or go on.
    pub(crate) fn rest(&self, rest: bool) {
        self.shared.rest.store(rest, Ordering::Relaxed);
    }

    /// Stops them, and waits for their ends.
    pub(crate) fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    }
}

/// One client.
struct Client {
    shared: Arc<Shared>,
    name: &'static str,
    kind: Kind,
    seeded: Seeded,
}

impl Client {
    fn goes_on(&self) -> bool {
        !self.shared.stop.load(Ordering::Relaxed)
    }

    /// Does something and notes it; whether it went well.
    fn does(&self, act: Act, file: FileId, operation: impl FnOnce() -> Outcome) -> bool {
        let begin = self.shared.operations.now();
        let outcome = operation();
        let went_well = matches!(outcome, Outcome::Done { .. });
        self.shared.operations.note(self.name, begin, act, file, outcome);
        if went_well {
            self.beat();
        }
        went_well
    }

    fn beat(&self) {
        let beats = &self.shared.beats[self.kind as usize];
        let mut last = lock(&beats.last);
        *last = (Instant::now(), last.1.max(last.0.elapsed()));
        beats.count.fetch_add(1, Ordering::Relaxed);
    }

    fn pause(&self, went_well: bool) {
        std::thread::sleep(if went_well { PAUSE } else { PAUSE_AFTER_FAILURE });
        while self.shared.rest.load(Ordering::Relaxed) {
            std::thread::sleep(PAUSE);
        }
    }

    fn upload_all(&mut self, upload: impl Fn(FileId, Content) -> Outcome) {
        while self.goes_on() {
            let size = match self.seeded.below(20) {
                0 => self.seeded.below(1 << 20),
                _ => self.seeded.below(32 << 10),
            };
            let content = Content { seed: self.seeded.draw(), size };
            let file = clients::new_file();
            let went_well = self.does(Act::Upload(content), file, || upload(file, content));
            if went_well {
                lock(&self.shared.stored).push((file, content));
                std::thread::sleep(PAUSE_AFTER_UPLOAD);
            }
            self.pause(went_well);
        }
    }

    /// Reads ranges.
    fn read_all(&mut self, from: &Http) {
        self.each_stored(|client, file, content| {
            let range = match client.seeded.below(4) {
                0 => None,
                _ if content.size == 0 => None,
                _ => {
                    let first = client.seeded.below(content.size);
                    Some((first, first + 1 + client.seeded.below(content.size - first)))
                }
            };
            let draw = client.seeded.draw();
            client.does(Act::Read, file, || from.read(draw, file, content, range))
        });
    }

    fn each_stored(&mut self, mut read: impl FnMut(&mut Self, FileId, Content) -> bool) {
        while self.goes_on() {
            let drawn = {
                let stored = lock(&self.shared.stored);
                let index = self.seeded.below(stored.len() as u64) as usize;
                stored.get(index).copied()
            };
            let went_well = drawn.is_some_and(|(file, content)| read(self, file, content));
            self.pause(went_well);
        }
    }

    /// Deletes one file in four, and looks whether deleted ones stay so, wherever they may be read.
    fn delete_all(&mut self, library: &Library, gateway: &Http, nodes: &Http) {
        while self.goes_on() {
            let went_well = match self.seeded.below(4) {
                0 => self.delete(library, gateway),
                1 | 2 => self.read_deleted(gateway),
                _ => self.read_deleted(nodes),
            };
            self.pause(went_well);
        }
    }

    fn delete(&mut self, library: &Library, gateway: &Http) -> bool {
        let (file, content) = {
            let mut stored = lock(&self.shared.stored);
            if stored.is_empty() {
                return false;
            }
            let index = self.seeded.below(stored.len() as u64) as usize;
            stored.swap_remove(index)
        };
        let over_http = self.seeded.below(2) == 0;
        let went_well = self.does(Act::Delete, file, || {
            if over_http { gateway.delete(file) } else { library.delete(file) }
        });
        if went_well {
            lock(&self.shared.deleted).push((file, content, self.shared.operations.now()));
        }
        went_well
    }

    /// Reads a deleted file that nobody may serve any more, or one that was deleted a moment ago.
    fn read_deleted(&mut self, from: &Http) -> bool {
        let drawn = {
            let deleted = lock(&self.shared.deleted);
            let late = self.shared.operations.now().saturating_sub(DELETED_SERVED_MAX);
            // In the order of their times.
            let old = deleted.partition_point(|(.., at)| *at < late);
            // The latest of them most of the time: whoever does not know yet does not know these.
            let among = if self.seeded.below(2) == 0 { 3 } else { old as u64 };
            let back = self.seeded.below(among);
            old.checked_sub(1 + back as usize).and_then(|index| deleted.get(index).copied())
        };
        let Some((file, content, _)) = drawn else { return true };
        let draw = self.seeded.draw();
        let begin = self.shared.operations.now();
        let outcome = from.read(draw, file, content, None);
        let is_absent = outcome == Outcome::Absent;
        self.shared.operations.note("read-deleted", begin, Act::Read, file, outcome);
        is_absent
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
