//! A running engine in this process, with an ID node and a tracker of the deployed kind: they know only the old
//! commands, answer an unknown one with an error frame and close, as the C++ system does.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use reel_engine::{Config, Setup, StorePath};
use reel_meta::{Location, Role};
use reel_node::{
    Process, Running,
    config::{ByteSize, HumanTime, NodeConfig},
};
use reel_proto::{
    command,
    frame::{self, HEADER_LEN, Header},
    name::{AppId, FileId, UserId},
    storage::FileRef,
};

/// Ends a test that hangs; measures nothing.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a deployed node heard.
#[derive(Default)]
pub struct Heard {
    pub commands: Mutex<Vec<(u8, Vec<u8>)>>,
    pub next_id: AtomicU64,
    /// Refuse so many beats, as a tracker that was restarted does.
    pub refuse_beats: AtomicU64,
    /// It is one of ours: it takes every command between nodes.
    pub is_ours: AtomicBool,
}

/// Starts a deployed node of one kind; it lives as long as the process.
pub fn deployed(reply_command: u8) -> (SocketAddr, Arc<Heard>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(Heard::default());
    let of_thread = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let heard = of_thread.clone();
            std::thread::spawn(move || {
                let _ = converse(stream, reply_command, &heard);
            });
        }
    });
    (address, heard)
}

fn converse(mut stream: TcpStream, reply_command: u8, heard: &Heard) -> std::io::Result<()> {
    loop {
        let mut head = [0; HEADER_LEN];
        stream.read_exact(&mut head)?;
        let header = Header::decode(&head).unwrap();
        let mut body = vec![0; usize::try_from(header.length).unwrap()];
        stream.read_exact(&mut body)?;
        heard.commands.lock().unwrap().push((header.command, body));
        let refuse_beat = header.command == command::BEAT
            && heard
                .refuse_beats
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_ok();
        if refuse_beat {
            stream.write_all(&frame::error_reply(reply_command, "vm", "unknown node"))?;
            continue;
        }
        match header.command {
            command::ID_GET => {
                let id = heard.next_id.fetch_add(1, Ordering::SeqCst);
                stream.write_all(&frame::encode(reply_command, &id.to_be_bytes()))?;
            }
            command::JOIN | command::BEAT => {
                stream.write_all(&frame::encode(reply_command, &[]))?
            }
            command::JOIN_EXT | command::REPORT | command::DRAIN
                if heard.is_ours.load(Ordering::SeqCst) =>
            {
                stream.write_all(&frame::encode(reply_command, &[]))?
            }
            _ => {
                stream.write_all(&frame::error_reply(reply_command, "vm", "unknown command"))?;
                return Ok(());
            }
        }
    }
}

/// A running engine. Dropping it drains and joins.
pub struct Engine {
    running: Option<Running>,
    pub binary: SocketAddr,
    pub http: SocketAddr,
    pub admin: SocketAddr,
    pub store: PathBuf,
    pub idgen: Arc<Heard>,
    pub tracker: Arc<Heard>,
    config: Config,
    node: NodeConfig,
    off: Vec<String>,
    folder: tempfile::TempDir,
}

impl Engine {
    pub fn start() -> Self {
        Self::start_with(|_| {}, &[])
    }

    /// `change` alters the configuration; `off` names capabilities that the kernel is not to have.
    pub fn start_with(change: impl FnOnce(&mut Config), off: &[&str]) -> Self {
        Self::start_on(None, change, off)
    }

    /// With its store in this folder of a file system of its own.
    pub fn start_on(disk: Option<&Path>, change: impl FnOnce(&mut Config), off: &[&str]) -> Self {
        // In the build folder: a temporary folder may be a tmpfs without attributes.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (idgen_address, idgen) = deployed(command::REPLY_IDGEN);
        let (tracker_address, tracker) = deployed(command::REPLY_TRACKER);
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config {
            hostname: Some("vm".to_owned()),
            listen: loopback,
            http_listen: loopback,
            admin_listen: loopback,
            trackers: vec![tracker_address.to_string()],
            idgens: vec![idgen_address.to_string()],
            beat_interval: HumanTime(Duration::from_millis(100)),
            ..Config::default()
        };
        change(&mut config);
        let store = disk.unwrap_or(folder.path()).join("store");
        let meta = folder.path().join("meta");
        for made in [&store, &meta] {
            std::fs::create_dir(made).unwrap();
        }
        let mut engine = Self {
            binary: loopback,
            http: loopback,
            admin: loopback,
            store,
            idgen,
            tracker,
            running: None,
            config,
            node: NodeConfig { data_threads: Some(2), ..NodeConfig::default() },
            off: off.iter().map(|name| (*name).to_owned()).collect(),
            folder,
        };
        engine.run();
        engine
    }

    fn run(&mut self) {
        let store_path = StorePath { reserve: Some(ByteSize(1)), ..StorePath::new(&self.store) };
        let setup = Setup {
            config: &self.config,
            store_paths: &[store_path],
            database: &Location::embedded(&self.folder.path().join("meta"), Role::Storage),
            groups: &Location::embedded(&self.folder.path().join("meta"), Role::Tracker),
            node: &self.node,
            tokens: &[],
        };
        let running = reel_engine::start(&setup, &Process::new(&self.off).unwrap()).unwrap();
        let address = |index: usize| running.addresses()[index].addr;
        (self.binary, self.http) = (address(0), address(1));
        self.admin = running.admin_address().unwrap().addr;
        self.running = Some(running);
        self.wait_ready();
    }

    /// Stops it and starts it again, at other addresses; signed commands need this secret from then on.
    pub fn restart(&mut self, secret: Option<PathBuf>) {
        self.stop();
        self.node.cluster_secret_file = secret;
        self.run();
    }

    /// Its own folder, beside the store.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.drain();
            let result = running.join();
            if !std::thread::panicking() {
                result.unwrap();
            }
        }
    }

    fn wait_ready(&self) {
        let until = Instant::now() + PATIENCE;
        let readiness = self.running.as_ref().unwrap().readiness();
        while let Err(reason) = readiness.check() {
            assert!(Instant::now() < until, "not ready: {reason}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn client(&self) -> Client {
        Client::open(self.binary)
    }

    /// A page of the admin server.
    pub fn admin_page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// The value of one series of `/metrics`.
    pub fn metric(&self, series: &str) -> f64 {
        let page = self.admin_page("/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(series));
        line.unwrap_or_else(|| panic!("no {series} in {page}")).trim().parse().unwrap()
    }

    /// Waits until the store path holds so many files. What an upload left is removed after its client was told.
    pub fn assert_files(&self, count: usize) {
        let limit = Instant::now() + Duration::from_secs(20);
        while self.files().len() != count {
            assert!(Instant::now() < limit, "{count} files expected: {:?}", self.files());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Files in the store path, without what is the store's own.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.store.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    if !is_own(&path) {
                        folders.push(path);
                    }
                } else {
                    found.push(path);
                }
            }
        }
        found
    }
}

fn is_own(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == ".reel")
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A reply: its status and its body.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u8,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn ok(self) -> Vec<u8> {
        assert_eq!(self.status, 0, "{:?}", String::from_utf8_lossy(&self.body));
        self.body
    }

    pub fn error(self) -> (i16, String) {
        assert_eq!(self.status, 0xFD, "{} bytes of success", self.body.len());
        let error = frame::decode_error(&self.body);
        (error.number, error.text)
    }
}

/// A raw connection of the binary protocol.
pub struct Client {
    pub stream: TcpStream,
}

impl Client {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn reply(&mut self) -> Reply {
        let mut head = [0; HEADER_LEN];
        self.stream.read_exact(&mut head).unwrap();
        let header = Header::decode(&head).unwrap();
        assert_eq!(header.command, command::REPLY_STORAGE);
        let mut body = vec![0; usize::try_from(header.length).unwrap()];
        self.stream.read_exact(&mut body).unwrap();
        Reply { status: header.status, body }
    }

    pub fn call(&mut self, command: u8, body: &[u8]) -> Reply {
        self.send(&frame::encode(command, body));
        self.reply()
    }

    /// The peer closes without another byte.
    pub fn assert_closed(&mut self) {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => panic!("not closed: {other:?}"),
        }
    }

    pub fn upload(&mut self, id: &str, content: &[u8]) -> Reply {
        self.send(&upload_frame(id, content));
        self.reply()
    }

    pub fn download(&mut self, id: &str, offset: u64, size: u64) -> Reply {
        let mut body = file_bytes(id);
        body.extend_from_slice(&offset.to_be_bytes());
        body.extend_from_slice(&size.to_be_bytes());
        self.call(command::DOWNLOAD, &body)
    }
}

pub fn file(id: &str) -> FileRef {
    FileRef {
        app: AppId::parse("tnvideo").unwrap(),
        user: UserId::parse("tnv001").unwrap(),
        file: FileId::parse(id).unwrap(),
    }
}

pub fn file_bytes(id: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    file(id).encode(&mut bytes);
    bytes
}

pub fn upload_frame(id: &str, content: &[u8]) -> Vec<u8> {
    let mut body = file_bytes(id);
    body.extend_from_slice(&(content.len() as u64).to_be_bytes());
    body.extend_from_slice(content);
    frame::encode(command::UPLOAD, &body)
}

/// Content that differs at every place.
pub fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}
