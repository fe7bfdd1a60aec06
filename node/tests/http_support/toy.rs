//! A toy role that serves HTTP with the driver, and a blocking client that reads what comes back.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reel_node::access::AllowList;
use reel_node::http::{HttpLimits, PLAIN_TEXT, Pace, ServerConn, media};
use reel_node::{
    Accepted, ControlContext, ListenSpec, Process, Role, RoleSpec, Running, Service, ServiceError,
    ThreadContext,
};
use reel_proto::http::head::RequestHead;

use crate::http_support::pattern;

pub const FILE_BYTES: usize = 3_000_000;

pub struct Toy {
    limits: Arc<HttpLimits>,
    file: File,
    pub gate: flume::Receiver<()>,
}

impl Service for Toy {
    type Thread = Arc<Self>;

    fn thread(self: &Arc<Self>, _cx: ThreadContext) -> Arc<Self> {
        Arc::clone(self)
    }

    async fn connection(thread: Rc<Arc<Self>>, conn: Accepted) {
        let mut conn = ServerConn::new(conn, Arc::clone(&thread.limits));
        while let Some(head) = conn.next_request().await {
            if thread.answer(&mut conn, &head).await.is_err() {
                return;
            }
            if !conn.finish().await {
                return;
            }
        }
    }

    async fn control(self: Arc<Self>, _cx: ControlContext) -> Result<(), ServiceError> {
        Ok(())
    }

    fn status(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Toy {
    async fn answer(&self, conn: &mut ServerConn, head: &RequestHead) -> Result<(), ()> {
        let (path, argument) = head.path()[1..].split_once('/').unwrap_or((&head.path()[1..], ""));
        let number = || argument.parse::<usize>().unwrap_or(0);
        match path {
            // The body's length and the sum of its bytes.
            "sum" => return self.sum(conn).await,
            // So many bytes, in pieces.
            "bytes" => {
                let content = pattern(number());
                conn.start(200, Some(content.len() as u64), |_| {}).await.map_err(drop)?;
                for piece in content.chunks(10_000) {
                    conn.send(piece).await.map_err(drop)?;
                }
            }
            "file" => {
                let offset = number() as u64;
                let length = FILE_BYTES as u64 - offset;
                conn.start(206, Some(length), |_| {}).await.map_err(drop)?;
                conn.send_file(self.file.as_fd(), offset, length).await.map_err(drop)?;
            }
            // Promises more than it sends.
            "short" => {
                conn.start(200, Some(100), |_| {}).await.map_err(drop)?;
                conn.send(&[0; 50]).await.map_err(drop)?;
            }
            "hold" => {
                let _ = self.gate.recv_async().await;
                conn.respond(200, |_| {}, b"held").await.map_err(drop)?;
            }
            "none" => conn.respond(204, |_| {}, b"").await.map_err(drop)?,
            "not-modified" => conn.start(304, None, |_| {}).await.map_err(drop)?,
            "options" => media::answer_options(conn, "GET").await.map_err(drop)?,
            // Says no without reading the body.
            "refuse" => {
                conn.respond(409, |out| out.extend_from_slice(PLAIN_TEXT), b"no\n")
                    .await
                    .map_err(drop)?;
            }
            _ => conn.respond(200, |_| {}, head.path().as_bytes()).await.map_err(drop)?,
        }
        Ok(())
    }

    async fn sum(&self, conn: &mut ServerConn) -> Result<(), ()> {
        let (mut length, mut sum) = (0_u64, 0_u64);
        loop {
            match conn.body().await {
                Ok(Some(piece)) => {
                    assert!(!piece.is_empty() && piece.len() <= self.limits.piece_bytes_max);
                    length += piece.len() as u64;
                    sum += piece.iter().map(|byte| u64::from(*byte)).sum::<u64>();
                }
                Ok(None) => break,
                Err(error) => {
                    let Some(status) = error.status() else { return Err(()) };
                    let text = error.to_string();
                    media::answer_error(conn, status, &text, |_| {}).await.map_err(drop)?;
                    return Ok(());
                }
            }
        }
        conn.respond(200, |_| {}, format!("{length} {sum}").as_bytes()).await.map_err(drop)
    }
}

/// A running toy.
pub struct Server {
    pub running: Option<Running>,
    pub address: SocketAddr,
    /// Dropping it lets `/hold` answer.
    pub gate: Option<flume::Sender<()>>,
}

pub fn limits() -> HttpLimits {
    HttpLimits {
        body: Pace { window: Duration::from_secs(10), bytes_min: 1 },
        linger: Duration::from_secs(2),
        ..HttpLimits::default()
    }
}

/// The capabilities to switch off for each driver.
pub fn drivers() -> [Vec<String>; 2] {
    [Vec::new(), vec!["io_uring".to_owned()]]
}

impl Server {
    pub fn start(off: &[String], limits: HttpLimits) -> Self {
        let (gate, wait) = flume::bounded(0);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&pattern(FILE_BYTES)).unwrap();
        let toy = Toy { limits: Arc::new(limits), file, gate: wait };
        let spec = RoleSpec {
            role: Role::Gateway,
            data_threads: 1,
            listeners: vec![ListenSpec {
                name: "toy.listen",
                addr: ([127, 0, 0, 1], 0).into(),
                allow: AllowList::loopback(),
                refusal: Bytes::new(),
            }],
            admin: None,
            max_connections_per_thread: 1000,
            drain_deadline: Duration::from_secs(10),
            pin_from_core: None,
        };
        let process = Process::new(off).unwrap();
        let running = reel_node::start(spec, Arc::new(toy), &process).unwrap();
        let address = running.addresses()[0].addr;
        Self { running: Some(running), address, gate: Some(gate) }
    }

    pub fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client { stream, input: Vec::new() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.gate.take();
        if let Some(running) = self.running.take() {
            running.drain();
            let ended = running.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

/// One answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

pub struct Client {
    pub stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
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

    /// The next answer; `None` at a clean end of the connection.
    pub fn answer(&mut self, to_head: bool) -> Option<Answer> {
        let end = loop {
            if let Some(at) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill() {
                assert!(self.input.is_empty(), "cut: {:?}", String::from_utf8_lossy(&self.input));
                return None;
            }
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
        Some(answer)
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        self.answer(false).expect("an answer")
    }

    pub fn is_closed(&mut self) -> bool {
        assert!(self.input.is_empty(), "{:?}", String::from_utf8_lossy(&self.input));
        !self.fill()
    }

    /// All bytes to the end of the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.input)
    }
}
