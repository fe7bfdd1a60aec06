//! A running engine with several store paths, and an ID node for it that can be told what not to do.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
};

use reel_engine::{Config, Setup, StorePath};
use reel_meta::{Location, Role};
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

use super::{content, key, quick_folder, until};

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
pub struct IdServer {
    given: Mutex<HashMap<String, u64>>,
    /// Keys that get nothing.
    pub refused: Mutex<Vec<String>>,
    everything: bool,
}

impl IdServer {
    pub fn start(everything: bool) -> (SocketAddr, Arc<Self>) {
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

    pub fn given(&self, key: &Path) -> u64 {
        self.given.lock().unwrap().get(key.to_str().unwrap()).copied().unwrap_or_default()
    }
}

/// A running engine with these store paths. Dropping it drains and joins.
pub struct Engine {
    running: Option<Running>,
    _meta: tempfile::TempDir,
}

impl Engine {
    pub fn start(stores: &[&Path], idgens: &[SocketAddr]) -> Self {
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
            database: &Location::embedded(meta.path(), Role::Storage),
            groups: &Location::embedded(meta.path(), Role::Tracker),
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
    pub fn take(&self, name: &str, uploads: usize) {
        for index in 0..uploads {
            let bytes = content(index as u64, 100 + index);
            let frame = upload_frame(&format!("{name}{index}"), &bytes);
            until("an upload is taken", || self.upload(&frame).is_ok_and(|taken| taken));
        }
    }

    /// The answer of the admin server to a request without a body.
    pub fn admin(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.running().admin_address().unwrap().addr).unwrap();
        let head = format!("{request}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
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

/// An UPLOAD of the user that the kit's files belong to.
fn upload_frame(file: &str, content: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    key("tnv001", file).encode(&mut body);
    body.extend_from_slice(&(content.len() as u64).to_be_bytes());
    body.extend_from_slice(content);
    frame::encode(command::UPLOAD, &body)
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.drain();
            let _ = running.join();
        }
    }
}
