//! A tracker in this process and a blocking client that speaks raw bytes to it.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reel_meta::{Location, Role};
use reel_node::config::{HumanTime, NodeConfig};
use reel_node::{Process, Running};
use reel_proto::ext::{Locate, Located, Nodes, NodesReply};
use reel_proto::frame::{self, HEADER_LEN, Header, RemoteError};
use reel_proto::name::{AppId, UserId};
use reel_proto::tracker::{Beat, Join, Saddrs, SaddrsReply};
use reel_proto::{command, sign};
use reel_tracker::Config;

pub fn local() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub fn node_config() -> NodeConfig {
    NodeConfig {
        data_threads: Some(2),
        drain_deadline: HumanTime(Duration::from_secs(2)),
        ..NodeConfig::default()
    }
}

/// Several nodes may join; error replies come from `vm`.
pub fn config() -> Config {
    Config {
        listen: local(),
        admin_listen: local(),
        hostname: Some("vm".to_owned()),
        embedded: false,
        ..Config::default()
    }
}

pub struct Tracker {
    running: Option<Running>,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

impl Tracker {
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, &config(), &node_config())
    }

    pub fn start_with(folder: &Path, config: &Config, node: &NodeConfig) -> Self {
        let process = Process::new(&node.capabilities_off).unwrap();
        let location = Location::embedded(folder, Role::Tracker);
        let running = reel_tracker::start(config, node, &location, None, &process).unwrap();
        let address = running.addresses()[0].addr;
        let admin = running.admin_address().unwrap().addr;
        Self { running: Some(running), address, admin }
    }

    pub fn connect(&self) -> Client {
        Client::new(self.address)
    }

    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.drain();
            running.join().unwrap();
        }
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.end();
    }
}

pub struct Client(pub TcpStream);

pub type Answer = Result<Vec<u8>, RemoteError>;

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// The next reply, or the end of the connection.
    pub fn receive(&mut self) -> std::io::Result<Answer> {
        let mut head = [0; HEADER_LEN];
        self.0.read_exact(&mut head)?;
        let header = Header::decode(&head).unwrap();
        assert_eq!(header.command, command::REPLY_TRACKER);
        let mut body = vec![0; usize::try_from(header.length).unwrap()];
        self.0.read_exact(&mut body)?;
        if header.is_error() {
            assert_eq!(header.status, 0xFD);
            assert_eq!(body.last(), Some(&0), "the description ends with a NUL");
            return Ok(Err(frame::decode_error(&body)));
        }
        Ok(Ok(body))
    }

    pub fn ask(&mut self, bytes: &[u8]) -> Answer {
        self.send(bytes);
        self.receive().unwrap()
    }

    /// Whether the other end has closed, after what it had still to say.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0))
    }

    pub fn join(&mut self, group: &str, host: &str, port: u16) -> Answer {
        self.ask(&join(group, host, port))
    }

    pub fn beat(&mut self, group: &str, host: &str) -> Answer {
        self.ask(&beat(group, host))
    }

    /// A node that has joined and beats.
    pub fn appear(&mut self, group: &str, host: &str, port: u16) {
        assert_eq!(self.join(group, host, port).unwrap(), b"");
        assert_eq!(self.beat(group, host).unwrap(), b"");
    }

    pub fn saddrs(&mut self, app: &str, user: &str) -> Result<SaddrsReply, RemoteError> {
        Ok(SaddrsReply::decode(&self.ask(&saddrs(app, user))?).unwrap())
    }

    pub fn locate(&mut self, question: &Locate) -> Result<Located, RemoteError> {
        let mut body = Vec::new();
        question.encode(&mut body);
        Ok(Located::decode(&self.ask(&frame::encode(command::LOCATE, &body))?).unwrap())
    }

    pub fn nodes(&mut self, after: u64) -> NodesReply {
        let mut body = Vec::new();
        Nodes { after }.encode(&mut body);
        NodesReply::decode(&self.ask(&frame::encode(command::NODES, &body)).unwrap()).unwrap()
    }

    pub fn groups(&mut self) -> String {
        let body = self.ask(&frame::encode(command::GROUPS, b"")).unwrap();
        String::from_utf8(body.strip_suffix(b"\0").unwrap().to_vec()).unwrap()
    }

    /// One of our own commands between nodes.
    pub fn peer(&mut self, command: u8, encode: impl FnOnce(&mut Vec<u8>)) -> Answer {
        self.ask(&peer(None, 0, command, encode))
    }
}

pub fn peer(
    secret: Option<&[u8]>,
    nonce: u8,
    command: u8,
    encode: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    let mut payload = Vec::new();
    encode(&mut payload);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    frame::encode(command, &sign::seal(secret, command, now, [nonce; 16], &payload))
}

pub fn join(group: &str, host: &str, port: u16) -> Vec<u8> {
    let mut body = Vec::new();
    let join = Join {
        version: "1.0".parse().unwrap(),
        group: group.parse().unwrap(),
        host: host.parse().unwrap(),
        port,
        started_at: 0x6b00_fa7c,
        joined_at: 0x6b00_fa7c,
    };
    join.encode(&mut body);
    frame::encode(command::JOIN, &body)
}

pub fn beat(group: &str, host: &str) -> Vec<u8> {
    let mut body = Vec::new();
    Beat { group: group.parse().unwrap(), host: host.parse().unwrap() }.encode(&mut body);
    frame::encode(command::BEAT, &body)
}

pub fn saddrs(app: &str, user: &str) -> Vec<u8> {
    let mut body = Vec::new();
    let (app, user) = (AppId::parse(app).unwrap(), UserId::parse(user).unwrap());
    Saddrs { app, user }.encode(&mut body);
    frame::encode(command::SADDRS, &body)
}

/// Asks again until it is so; a test that waits for an interval must not name a time.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "did not come: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
