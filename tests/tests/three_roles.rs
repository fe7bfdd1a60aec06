//! ID node, tracker and storage node in one process, over real sockets, with and without a cluster secret.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use reel_engine::StorePath;
use reel_meta::Role as Kind;
use reel_node::{
    Process, Running,
    config::{ByteSize, HumanTime, NodeConfig},
};
use reel_proto::{
    command,
    ext::{Locate, Located},
    frame::{self, HEADER_LEN, Header},
    name::{AppId, FileId, UserId},
    storage::FileRef,
    tracker::{Saddrs, SaddrsReply},
};
use reel_tests::database::location;

const PATIENCE: Duration = Duration::from_secs(20);

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn wait<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A role that drains and ends when it is dropped.
struct Role(Option<Running>);

impl Role {
    fn new(running: Running) -> Self {
        let readiness = running.readiness();
        wait("ready", || readiness.check().ok());
        Self(Some(running))
    }

    fn address(&self, index: usize) -> SocketAddr {
        self.0.as_ref().unwrap().addresses()[index].addr
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let running = self.0.take().unwrap();
        running.drain();
        let ended = running.join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

fn node(folder: &Path, secret: bool) -> NodeConfig {
    let path = folder.join("secret");
    if secret {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        file.write_all(b"0123456789abcdef0123456789abcdef").unwrap();
    }
    NodeConfig {
        data_threads: Some(1),
        cluster_secret_file: secret.then_some(path),
        ..NodeConfig::default()
    }
}

fn idgen(folder: &Path, node: &NodeConfig, process: &Process) -> Role {
    let config =
        reel_idgen::Config { listen: loopback(), admin_listen: loopback(), ..Default::default() };
    Role::new(
        reel_idgen::start(&config, node, &location(folder, Kind::Ids).unwrap(), process).unwrap(),
    )
}

fn tracker(folder: &Path, listen: SocketAddr, node: &NodeConfig, process: &Process) -> Role {
    let config = reel_tracker::Config { listen, admin_listen: loopback(), ..Default::default() };
    Role::new(
        reel_tracker::start(
            &config,
            node,
            &location(folder, Kind::Tracker).unwrap(),
            Some(&location(folder, Kind::Storage).unwrap()),
            process,
        )
        .unwrap(),
    )
}

fn engine(
    folder: &Path,
    tracker: SocketAddr,
    idgen: SocketAddr,
    node: &NodeConfig,
    process: &Process,
) -> Role {
    let config = reel_engine::Config {
        listen: loopback(),
        http_listen: loopback(),
        admin_listen: loopback(),
        trackers: vec![tracker.to_string()],
        idgens: vec![idgen.to_string()],
        beat_interval: HumanTime(Duration::from_millis(200)),
        ..Default::default()
    };
    let store = folder.join("store");
    std::fs::create_dir_all(&store).unwrap();
    let store = StorePath { reserve: Some(ByteSize(1)), ..StorePath::new(store) };
    let setup = reel_engine::Setup {
        config: &config,
        store_paths: &[store],
        database: &location(folder, Kind::Storage).unwrap(),
        groups: &location(folder, Kind::Tracker).unwrap(),
        node,
        tokens: &[],
    };
    Role::new(reel_engine::start(&setup, process).unwrap())
}

fn call(address: SocketAddr, command: u8, body: &[u8]) -> Result<Vec<u8>, String> {
    let mut stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&frame::encode(command, body)).map_err(|error| error.to_string())?;
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head).map_err(|error| error.to_string())?;
    let header = Header::decode(&head).unwrap();
    let mut reply = vec![0; usize::try_from(header.length).unwrap()];
    stream.read_exact(&mut reply).map_err(|error| error.to_string())?;
    if header.is_error() { Err(frame::decode_error(&reply).text) } else { Ok(reply) }
}

fn file(id: &str) -> FileRef {
    FileRef {
        app: AppId::parse("tnvideo").unwrap(),
        user: UserId::parse("tnv001").unwrap(),
        file: FileId::parse(id).unwrap(),
    }
}

fn upload(address: SocketAddr, id: &str, content: &[u8]) -> Result<(), String> {
    let mut body = Vec::new();
    file(id).encode(&mut body);
    body.extend_from_slice(&(content.len() as u64).to_be_bytes());
    body.extend_from_slice(content);
    call(address, command::UPLOAD, &body).map(|_| ())
}

fn locate(tracker: SocketAddr) -> Option<Located> {
    let mut body = Vec::new();
    Locate { user: Some(file("x").user), ..Locate::default() }.encode(&mut body);
    let located = Located::decode(&call(tracker, command::LOCATE, &body).ok()?).unwrap();
    (!located.nodes.is_empty()).then_some(located)
}

fn saddrs(tracker: SocketAddr) -> Vec<SocketAddr> {
    let mut body = Vec::new();
    Saddrs { app: file("x").app, user: file("x").user }.encode(&mut body);
    let reply = call(tracker, command::SADDRS, &body).unwrap();
    SaddrsReply::decode(&reply).unwrap().nodes
}

fn all_three(secret: bool) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = folder.path();
    let process = Process::new(&[]).unwrap();
    let node = node(folder, secret);
    let idgen = idgen(folder, &node, &process);
    let first = tracker(folder, loopback(), &node, &process);
    let address = first.address(0);
    let engine = engine(folder, address, idgen.address(0), &node, &process);

    // Our join was taken: only it tells the media port.
    let located = locate(address).unwrap();
    assert_eq!(located.nodes[0].binary, engine.address(0));
    assert_eq!(located.nodes[0].media, Some(engine.address(1)));
    assert_eq!(saddrs(address), [engine.address(0)]);
    for index in 0..30 {
        upload(engine.address(0), &format!("f{index}"), b"hello").unwrap();
    }

    // A tracker that restarts is whole again, by the first refused beat or the lost connection.
    drop(first);
    let again = tracker(folder, address, &node, &process);
    let located = wait("the engine joins again", || locate(again.address(0)));
    assert_eq!(located.nodes[0].binary, engine.address(0));
    upload(engine.address(0), "after", b"hello").unwrap();
}

#[test]
fn without_a_secret() {
    all_three(false);
}

#[test]
fn with_a_secret() {
    all_three(true);
}

#[test]
fn an_engine_that_restarts_gives_no_path_id_twice() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = folder.path();
    let process = Process::new(&[]).unwrap();
    let node = node(folder, false);
    let idgen = idgen(folder, &node, &process);
    let tracker = tracker(folder, loopback(), &node, &process);
    let mut seen = std::collections::HashSet::new();
    for round in 0..3 {
        let engine = engine(folder, tracker.address(0), idgen.address(0), &node, &process);
        for index in 0..20 {
            let id = format!("f{round}-{index}");
            upload(engine.address(0), &id, id.as_bytes()).unwrap();
            let mut body = Vec::new();
            reel_proto::ext::encode_file(&file(&id), &mut body);
            let stat = call(engine.address(0), command::STAT, &body).unwrap();
            let stat = reel_proto::ext::FileStat::decode(&stat).unwrap();
            assert!(seen.insert(stat.path_id), "{} twice", stat.path_id);
        }
    }
}
