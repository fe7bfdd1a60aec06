//! A gateway on real sockets between a blocking client and scripted trackers and nodes.
//!
//! The nodes are scripted because what is tested is what a gateway does when a node does wrong:
//! a real engine does not die in the middle of an answer on request. That a gateway and a real
//! engine agree is tested in the tests crate, where both may be imported.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reel_gateway::Config;
use reel_node::config::{HumanTime, NodeConfig, TokenConfig};
use reel_node::{Process, Running};
use reel_proto::ext::{Locate, Located, NodeAddr};
use reel_proto::frame::{self, HEADER_LEN, Header};
use reel_proto::name::GroupName;
use reel_proto::peer::GatewayBeat;
use reel_proto::{command, refusal, sign};

/// Bytes in which every position tells itself apart from its neighbours.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// An address where nobody listens.
pub fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The capabilities to switch off for each driver.
pub fn drivers() -> [Vec<String>; 2] {
    [Vec::new(), vec!["io_uring".to_owned()]]
}

/// A tracker that answers LOCATE with a fixed list, and takes everything else.
pub struct Tracker {
    pub address: SocketAddr,
    pub nodes: Arc<Mutex<Vec<SocketAddr>>>,
    pub asked: Arc<AtomicUsize>,
    /// App and user of the last question.
    pub owner: Arc<Mutex<(Option<String>, Option<String>)>>,
    pub announced: Arc<AtomicUsize>,
    /// Refuses LOCATE like this.
    pub refusal: Arc<Mutex<Option<refusal::Refusal>>>,
}

impl Tracker {
    pub fn start(nodes: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tracker = Self {
            address: listener.local_addr().unwrap(),
            nodes: Arc::new(Mutex::new(nodes.to_vec())),
            asked: Arc::default(),
            owner: Arc::default(),
            announced: Arc::default(),
            refusal: Arc::default(),
        };
        let (nodes, asked) = (Arc::clone(&tracker.nodes), Arc::clone(&tracker.asked));
        let (announced, refusal) = (Arc::clone(&tracker.announced), Arc::clone(&tracker.refusal));
        let owner = Arc::clone(&tracker.owner);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (nodes, asked) = (Arc::clone(&nodes), Arc::clone(&asked));
                let (announced, refusal) = (Arc::clone(&announced), Arc::clone(&refusal));
                let owner = Arc::clone(&owner);
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    while let Some((command, sent)) = read_frame(&mut stream) {
                        let mut body = Vec::new();
                        if command == command::GATEWAY {
                            let mut seen = sign::NonceCache::new(1);
                            let payload = sign::open(None, command, 0, &sent, &mut seen).unwrap();
                            let beat = GatewayBeat::decode(payload).unwrap();
                            assert!(beat.advertised.ip().is_loopback());
                            announced.fetch_add(1, Ordering::Relaxed);
                        }
                        if command == command::LOCATE {
                            asked.fetch_add(1, Ordering::Relaxed);
                            let question = Locate::decode(&sent).unwrap();
                            let of = |name: Option<&str>| name.map(str::to_owned);
                            *owner.lock().unwrap() = (
                                of(question.app.as_ref().map(|app| app.as_str())),
                                of(question.user.as_ref().map(|user| user.as_str())),
                            );
                            if let Some(refusal) = *refusal.lock().unwrap() {
                                let reply = command::REPLY_TRACKER;
                                let frame = refusal::error_reply(refusal, reply, "t", "no");
                                stream.write_all(&frame).unwrap();
                                continue;
                            }
                            located(&nodes.lock().unwrap()).encode(&mut body);
                        }
                        let reply = frame::encode(command::REPLY_TRACKER, &body);
                        if stream.write_all(&reply).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        tracker
    }
}

fn located(nodes: &[SocketAddr]) -> Located {
    let node = |media: &SocketAddr| NodeAddr { binary: *media, media: Some(*media), flags: 0 };
    Located {
        group: GroupName::parse("group001").unwrap(),
        nodes: nodes.iter().map(node).collect(),
        gateways: Vec::new(),
    }
}

fn read_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head).ok()?;
    let header = Header::decode(&head).unwrap();
    let mut body = vec![0; usize::try_from(header.length).unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some((header.command, body))
}

/// One request at a scripted node: its head as text, and the connection behind it.
pub struct Request<'a> {
    pub head: String,
    pub stream: &'a mut TcpStream,
    input: &'a mut Vec<u8>,
}

impl Request<'_> {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Sends an answer whole.
    pub fn answer(&mut self, status: u16, fields: &str, content: &[u8]) {
        let length = content.len();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{fields}\r\n");
        let _ = self.stream.write_all(&[head.as_bytes(), content].concat());
    }

    /// Tells the peer to go on, and reads the body; `None` when it ends early.
    pub fn body(&mut self) -> Option<Vec<u8>> {
        if self.field("content-length") == Some("0") {
            return Some(Vec::new());
        }
        self.stream_continue();
        let Some(length) = self.field("content-length") else { return self.chunked() };
        let length: usize = length.parse().unwrap();
        self.take(length)
    }

    pub fn stream_continue(&mut self) {
        assert_eq!(self.field("expect"), Some("100-continue"), "{}", self.head);
        self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    }

    fn chunked(&mut self) -> Option<Vec<u8>> {
        assert_eq!(self.field("transfer-encoding"), Some("chunked"));
        let mut body = Vec::new();
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.extend(self.take(1)?);
            }
            let text = std::str::from_utf8(&line[..line.len() - 2]).unwrap();
            let length = usize::from_str_radix(text, 16).unwrap();
            body.extend(self.take(length)?);
            assert_eq!(self.take(2)?, b"\r\n");
            if length == 0 {
                return Some(body);
            }
        }
    }

    pub fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.input.len() < length {
            if !fill(self.stream, self.input) {
                return None;
            }
        }
        Some(self.input.drain(..length).collect())
    }
}

fn fill(stream: &mut TcpStream, input: &mut Vec<u8>) -> bool {
    let mut piece = vec![0; 64 * 1024];
    match stream.read(&mut piece) {
        Ok(0) | Err(_) => false,
        Ok(count) => {
            input.extend_from_slice(&piece[..count]);
            true
        }
    }
}

/// A storage node that does what its script says.
pub struct Node {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    pub requests: Arc<AtomicUsize>,
    pub stopped: Arc<AtomicBool>,
}

/// What happens to the connection after a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Keep,
    Close,
}

impl Node {
    pub fn start(script: impl Fn(&mut Request<'_>) -> Then + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let node = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests: Arc::default(),
            stopped: Arc::default(),
        };
        let script = Arc::new(script);
        let (connections, requests) = (Arc::clone(&node.connections), Arc::clone(&node.requests));
        let stopped = Arc::clone(&node.stopped);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    continue;
                }
                connections.fetch_add(1, Ordering::Relaxed);
                let (script, requests) = (Arc::clone(&script), Arc::clone(&requests));
                std::thread::spawn(move || serve(stream.unwrap(), &*script, &requests));
            }
        });
        node
    }
}

fn serve(
    mut stream: TcpStream,
    script: &(dyn Fn(&mut Request<'_>) -> Then + Send + Sync),
    requests: &AtomicUsize,
) {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut input = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = input.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !fill(&mut stream, &mut input) {
                return;
            }
        };
        let head = String::from_utf8(input.drain(..end).collect()).unwrap();
        // The gateway looks whether a node that failed is back.
        if head.starts_with("OPTIONS * ") {
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
            return;
        }
        requests.fetch_add(1, Ordering::Relaxed);
        let mut request = Request { head, stream: &mut stream, input: &mut input };
        if script(&mut request) == Then::Close {
            return;
        }
    }
}

/// A running gateway.
pub struct Edge {
    pub running: Option<Running>,
    pub address: SocketAddr,
    pub process: Process,
}

pub fn config(trackers: &[SocketAddr]) -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        admin_listen: ([127, 0, 0, 1], 0).into(),
        trackers: trackers.iter().map(ToString::to_string).collect(),
        connect_timeout: HumanTime(Duration::from_secs(2)),
        locate_timeout: HumanTime(Duration::from_secs(2)),
        ..Config::default()
    }
}

impl Edge {
    pub fn start(off: &[String], config: &Config) -> Self {
        Self::with_tokens(off, config, &[])
    }

    pub fn with_tokens(off: &[String], config: &Config, tokens: &[TokenConfig]) -> Self {
        let node = NodeConfig { data_threads: Some(1), ..NodeConfig::default() };
        let process = Process::new(off).unwrap();
        let running = reel_gateway::start(config, &node, tokens, &process).unwrap();
        let address = running.addresses()[0].addr;
        Self { running: Some(running), address, process }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// The value of a metric without further labels.
    pub fn metric(&self, name: &str) -> u64 {
        let admin = self.running.as_ref().unwrap().admin_address().unwrap().addr;
        let page = Client::connect(admin).get("/metrics").text();
        let line = page.lines().find(|line| line.starts_with(&format!("{name}{{")));
        line.unwrap_or_else(|| panic!("no {name}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until the gateway says that it is ready.
    pub fn wait_ready(&self) {
        let since = Instant::now();
        while self.running.as_ref().unwrap().readiness().check().is_err() {
            assert!(since.elapsed() < Duration::from_secs(10), "never ready");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.drain();
            let ended = running.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

/// One answer to a client.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub struct Client {
    pub stream: TcpStream,
    input: Vec<u8>,
    pub host: String,
}

impl Client {
    pub fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { stream, input: Vec::new(), host: to.to_string() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    fn fill(&mut self) -> bool {
        let mut piece = vec![0; 64 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(count) => {
                self.input.extend_from_slice(&piece[..count]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }

    pub fn answer(&mut self, to_head: bool) -> Answer {
        let end = loop {
            if let Some(at) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.fill(), "closed after {:?}", String::from_utf8_lossy(&self.input));
        };
        let head = String::from_utf8(self.input.drain(..end).collect()).unwrap();
        let status = head[9..12].parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        let length = answer.field("content-length").map_or(0, |length| length.parse().unwrap());
        if !to_head {
            while self.input.len() < length {
                assert!(self.fill(), "cut after {} of {length}", self.input.len());
            }
            answer.body = self.input.drain(..length).collect();
        }
        answer
    }

    /// A request without a body, with these further field lines.
    pub fn ask(&mut self, method: &str, target: &str, fields: &str) -> Answer {
        let host = self.host.clone();
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
        self.answer(method == "HEAD")
    }

    pub fn get(&mut self, target: &str) -> Answer {
        self.ask("GET", target, "")
    }

    pub fn put(&mut self, target: &str, content: &[u8], fields: &str) -> Answer {
        let (host, length) = (self.host.clone(), content.len());
        let head = format!(
            "PUT {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{fields}\r\n"
        );
        self.send([head.as_bytes(), content].concat());
        self.answer(false)
    }

    /// Waits until the answer begins.
    pub fn peek(&mut self) {
        while self.input.is_empty() {
            assert!(self.fill(), "closed without an answer");
        }
    }

    /// All bytes to the end of the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.input)
    }

    pub fn is_closed(&mut self) -> bool {
        self.input.is_empty() && !self.fill()
    }
}
