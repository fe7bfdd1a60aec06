//! An ID node in this process and a blocking client that speaks raw bytes to it.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use reel_idgen::Config;
use reel_meta::{Location, Role};
use reel_node::config::{HumanTime, NodeConfig};
use reel_node::{Process, Running};
use reel_proto::frame::{self, HEADER_LEN, Header, RemoteError};
use reel_proto::idgen::IdGet;
use reel_proto::name::IdKey;
use reel_proto::peer::{IdBlock, IdBlockReply};
use reel_proto::{command, sign};

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

pub fn config() -> Config {
    Config {
        listen: local(),
        admin_listen: local(),
        hostname: Some("vm".to_owned()),
        ..Config::default()
    }
}

pub struct Node {
    running: Option<Running>,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

impl Node {
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, &config(), &node_config())
    }

    pub fn start_with(folder: &Path, config: &Config, node: &NodeConfig) -> Self {
        let process = Process::new(&node.capabilities_off).unwrap();
        let location = Location::embedded(folder, Role::Ids);
        let running = reel_idgen::start(config, node, &location, &process).unwrap();
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

impl Drop for Node {
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
        assert_eq!(header.command, command::REPLY_IDGEN);
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

    pub fn id(&mut self, key: &str) -> Result<u64, RemoteError> {
        let body = self.ask(&id_get(key))?;
        Ok(u64::from_be_bytes(body.try_into().unwrap()))
    }

    pub fn block(
        &mut self,
        key: &str,
        count: u64,
        at_least: u64,
    ) -> Result<IdBlockReply, RemoteError> {
        let body = self.ask(&id_block(None, 0, key, count, at_least))?;
        Ok(IdBlockReply::decode(&body).unwrap())
    }

    /// Whether the other end has closed, after what it had still to say.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0))
    }
}

pub fn id_get(key: &str) -> Vec<u8> {
    let mut body = Vec::new();
    IdGet { key: IdKey::parse(key).unwrap() }.encode(&mut body);
    frame::encode(command::ID_GET, &body)
}

pub fn id_block(secret: Option<&[u8]>, nonce: u8, key: &str, count: u64, at_least: u64) -> Vec<u8> {
    let mut payload = Vec::new();
    IdBlock { key: IdKey::parse(key).unwrap(), count, at_least }.encode(&mut payload);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let body = sign::seal(secret, command::ID_BLOCK, now.as_secs(), [nonce; 16], &payload);
    frame::encode(command::ID_BLOCK, &body)
}
