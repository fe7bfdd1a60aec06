//! Path ids of a running engine with several store paths: what keeps one from its ids keeps no other.
#![allow(clippy::unwrap_used, missing_docs)]

mod kit;
mod support;

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use kit::{
    Node, config, content,
    disk::{Disk, Frozen, skipped},
    key, quick_folder, request, until,
};
use reel_engine::{Config, Setup, StorePath, metadata::wait};
use reel_node::{
    Process, Running,
    config::{ByteSize, NodeConfig},
};
use reel_proto::{
    command,
    frame::{self, HEADER_LEN, Header},
    idgen::IdGet,
    path::PathId,
    peer::IdBlockReply,
};
use support::upload_frame;

/// What an ID node is to do with a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Ids one by one, as the deployed one.
    Singles,
    /// Every block has all ids there are.
    Everything,
    Refuse,
}

/// An ID node of this test.
#[derive(Default)]
struct IdNode {
    given: Mutex<HashMap<String, u64>>,
    refused: Mutex<Vec<String>>,
    everything: bool,
}

impl IdNode {
    fn start(everything: bool) -> (SocketAddr, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let node = Arc::new(Self { everything, ..Self::default() });
        let shared = Arc::clone(&node);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let node = Arc::clone(&shared);
                std::thread::spawn(move || node.converse(stream));
            }
        });
        (address, node)
    }

    fn manner(&self, key: &str) -> Manner {
        match self.refused.lock().unwrap().iter().any(|refused| refused == key) {
            true => Manner::Refuse,
            false if self.everything => Manner::Everything,
            false => Manner::Singles,
        }
    }

    fn converse(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let mut head = [0; HEADER_LEN];
            stream.read_exact(&mut head)?;
            let header = Header::decode(&head).unwrap();
            let mut body = vec![0; usize::try_from(header.length).unwrap()];
            stream.read_exact(&mut body)?;
            let refused = frame::error_reply(command::REPLY_IDGEN, "vm", "unknown command");
            let reply = match header.command {
                command::ID_GET => {
                    let key = IdGet::decode(&body).unwrap().key.as_str().to_owned();
                    match self.manner(&key) {
                        Manner::Refuse => refused,
                        _ => frame::encode(command::REPLY_IDGEN, &self.next(key).to_be_bytes()),
                    }
                }
                command::ID_BLOCK if self.everything => {
                    let mut all = Vec::new();
                    IdBlockReply { start: 0, end: PathId::COUNT }.encode(&mut all);
                    frame::encode(command::REPLY_IDGEN, &all)
                }
                _ => refused,
            };
            stream.write_all(&reply)?;
        }
    }

    fn next(&self, key: String) -> u64 {
        let mut given = self.given.lock().unwrap();
        let next = given.entry(key).or_default();
        *next += 1;
        *next - 1
    }

    fn given(&self, key: &Path) -> u64 {
        self.given.lock().unwrap().get(key.to_str().unwrap()).copied().unwrap_or_default()
    }
}

/// A running engine with these store paths. Dropping it drains and joins.
struct Engine {
    running: Option<Running>,
    _meta: tempfile::TempDir,
}

impl Engine {
    fn start(stores: &[&Path], idgens: &[SocketAddr]) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config {
            listen: loopback,
            http_listen: loopback,
            admin_listen: loopback,
            trackers: Vec::new(),
            idgens: idgens.iter().map(ToString::to_string).collect(),
            ..Config::default()
        };
        let paths: Vec<_> = stores
            .iter()
            .map(|store| StorePath { reserve: Some(ByteSize(1)), ..StorePath::new(store) })
            .collect();
        let meta = quick_folder();
        let node = NodeConfig { data_threads: Some(1), ..NodeConfig::default() };
        let setup = Setup {
            config: &config,
            store_paths: &paths,
            database: &meta.path().join("storage.db"),
            node: &node,
            tokens: &[],
        };
        let running = reel_engine::start(&setup, &Process::new(&[]).unwrap()).unwrap();
        let engine = Self { running: Some(running), _meta: meta };
        until("uploads are taken", || engine.running().readiness().check().is_ok());
        engine
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// Uploads that must all be taken, however long the ids of one block last.
    fn take(&self, name: &str, uploads: usize) {
        for index in 0..uploads {
            let bytes = support::content(100 + index);
            let frame = upload_frame(&format!("{name}{index}"), &bytes);
            until("an upload is taken", || self.upload(&frame).is_ok_and(|taken| taken));
        }
    }

    /// Whether it is taken. A refusal may close the connection.
    fn upload(&self, frame: &[u8]) -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(self.running().addresses()[0].addr)?;
        stream.write_all(frame)?;
        let mut head = [0; HEADER_LEN];
        stream.read_exact(&mut head)?;
        Ok(Header::decode(&head).unwrap().status == 0)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.drain();
            let _ = running.join();
        }
    }
}

fn mark_of(store: &Path) -> u64 {
    let mark = fs::read(store.join(".reel/marks/local.mark")).unwrap();
    u64::from_be_bytes(mark[16..24].try_into().unwrap())
}

#[test]
fn a_path_whose_mark_cannot_be_written_starves_no_other_and_burns_no_ids() {
    let folder = quick_folder();
    let [bad, well] = ["bad", "well"].map(|name| folder.path().join(name));
    let (idgen, ids) = IdNode::start(false);
    let engine = Engine::start(&[&bad, &well], &[idgen]);
    until("both have ids", || mark_of(&bad) > 0 && mark_of(&well) > 0);
    let in_the_way = bad.join(".reel/marks/local.mark.new");
    until("something is in the way of the mark", || fs::create_dir(&in_the_way).is_ok());
    engine.take("f", 400);
    assert!(mark_of(&well) > 200, "the path that is well got its blocks");
    // It is at its longest pause by now, or soon: no id is drawn for what cannot be used.
    let before = ids.given(&bad);
    std::thread::sleep(Duration::from_secs(3));
    assert!(ids.given(&bad) <= before.max(192), "{before} and {} ids", ids.given(&bad));
    fs::remove_dir(&in_the_way).unwrap();
    let stuck = mark_of(&bad);
    until("it gets its ids once the mark can be written", || mark_of(&bad) > stuck);
}

#[test]
fn a_hung_disk_keeps_no_other_from_its_ids() {
    if skipped("ids beside a hung disk") {
        return;
    }
    let disk = Disk::new("ext4", 64);
    let folder = quick_folder();
    let (hung, well): (PathBuf, _) = (disk.mount.join("store"), folder.path().join("well"));
    let (idgen, ids) = IdNode::start(false);
    ids.refused.lock().unwrap().push(hung.to_str().unwrap().to_owned());
    let engine = Engine::start(&[&hung, &well], &[idgen]);
    let frozen = Frozen::new(&disk.mount);
    ids.refused.lock().unwrap().clear();
    until("a block for the hung disk is there", || ids.given(&hung) >= 64);
    engine.take("f", 300);
    assert!(ids.given(&well) > 256);
    drop(frozen);
    until("it takes its block when it is back", || mark_of(&hung) > 0);
}

#[test]
fn a_block_of_more_ids_than_were_asked_for_is_refused() {
    let folder = quick_folder();
    let store = folder.path().join("store");
    let ((wrong, _), (right, ids)) = (IdNode::start(true), IdNode::start(false));
    let engine = Engine::start(&[&store], &[wrong, right]);
    engine.take("f", 10);
    assert!(ids.given(&store) > 0 && mark_of(&store) < 1000, "{}", mark_of(&store));
}

#[test]
fn slow_uploads_never_keep_others_from_their_ids() {
    let folder = quick_folder();
    let mut config = config(&[&folder.path().join("store")]);
    config.id_block = 2;
    let node = Node::open_with(&config, &folder.path().join("storage.db"), 0);
    let mut slow = Vec::new();
    for index in 0..150 {
        let name = format!("slow{index}");
        until("a place for a slow upload", || {
            let begun = wait(node.stores.begin(request(key("tnv001", &name), None)));
            let Ok(mut upload) = begun else { return false };
            // Past what is kept in memory: it takes its place now, or finds no id.
            let written = wait(upload.write(Bytes::from(content(index, 270_000))));
            slow.push(upload);
            written.is_ok()
        });
        until("others go on", || node.put(&format!("f{index}"), b"content").is_ok());
    }
    let finished = slow.into_iter().map(|upload| wait(upload.finish()));
    assert!(finished.filter(Result::is_ok).count() > 100, "few were slow and had a place");
    node.close();
}
