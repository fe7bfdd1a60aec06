//! A toy role for the tests of the runtime, started for real, and a plain blocking client.

#![allow(dead_code, clippy::unwrap_used, unreachable_pub)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reel_node::access::AllowList;
use reel_node::caller::MonoioCaller;
use reel_node::frame_server::{BodyError, Ended, FrameConfig, FrameConn};
use reel_node::worker::Pool;
use reel_node::{
    Accepted, ControlContext, ListenSpec, Process, Role, RoleSpec, Running, Service, ServiceError,
    ThreadContext,
};
use reel_proto::frame::{self, HEADER_LEN, Header, RemoteError};

/// Gives the body back.
pub const ECHO: u8 = 1;
/// Reads any length and gives the number of bytes and their sum.
pub const SUM: u8 = 2;
/// Waits for the gate, then gives the body back.
pub const HOLD: u8 = 3;
/// Doubles the bytes on a worker.
pub const WORK: u8 = 4;
/// An error reply to a request in order.
pub const FAIL: u8 = 5;
/// The socket's flags: non-blocking, close-on-exec, nodelay.
pub const FLAGS: u8 = 6;
/// As many bytes as the body's 8 bytes say.
pub const FILL: u8 = 7;
/// Works for so many milliseconds (8 bytes) without waiting, with turns for others.
pub const SPIN: u8 = 8;
/// Calls ECHO at the address in the body's text, gives that answer.
pub const RELAY: u8 = 9;
/// Panics are not tested: a release build aborts. This one ends the connection without reply.
pub const DROP: u8 = 10;

pub const REPLY: u8 = 200;
pub const ECHO_BYTES_MAX: usize = 4096;

/// Shared by the threads of the toy role.
pub struct Toy {
    pub config: FrameConfig,
    pub pool: Pool,
    /// HOLD waits until this closes.
    pub gate: flume::Receiver<()>,
    pub held: flume::Sender<()>,
    pub control: Control,
}

/// What the control part does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Runs until all is over.
    Stays,
    /// Has nothing to do.
    Returns,
    /// Fails at once.
    Fails,
}

pub struct ToyThread {
    toy: Arc<Toy>,
    config: Rc<FrameConfig>,
    caller: MonoioCaller,
}

impl Service for Toy {
    type Thread = ToyThread;

    fn thread(self: &Arc<Self>, cx: ThreadContext) -> ToyThread {
        assert!(cx.index < cx.threads);
        assert!(!cx.drain.requested());
        let config = Rc::new(self.config.clone());
        ToyThread { toy: Arc::clone(self), config, caller: MonoioCaller::default() }
    }

    async fn connection(thread: Rc<ToyThread>, conn: Accepted) {
        let mut conn = FrameConn::new(conn, Rc::clone(&thread.config));
        while let Some(header) = conn.read_header().await {
            if serve(&thread, &mut conn, header).await.is_err() {
                return;
            }
        }
        conn.close().await;
    }

    async fn control(self: Arc<Self>, cx: ControlContext) -> Result<(), ServiceError> {
        assert_eq!(cx.addresses.len(), 1);
        match self.control {
            Control::Returns => {}
            Control::Fails => return Err("the toy's background work failed".into()),
            Control::Stays => {
                cx.drain.wait().await;
                cx.finished.wait().await;
            }
        }
        Ok(())
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "toy": true })
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

async fn serve(thread: &ToyThread, conn: &mut FrameConn, header: Header) -> Result<(), Ended> {
    match header.command {
        SUM => return sum(conn).await,
        ECHO | HOLD | WORK | FAIL | FLAGS | FILL | SPIN | RELAY | DROP => {}
        unknown => return Err(conn.refuse(&format!("unknown command {unknown}")).await),
    }
    let body = match conn.read_body(ECHO_BYTES_MAX).await {
        Ok(body) => body.to_vec(),
        Err(error @ BodyError::TooLong { .. }) => {
            return Err(conn.refuse(&error.to_string()).await);
        }
        Err(BodyError::Incomplete { .. }) => return Err(Ended),
    };
    let number = || u64::from_be_bytes(body.as_slice().try_into().unwrap_or_default());
    match header.command {
        HOLD => {
            conn.flush().await?;
            let _ = thread.toy.held.send(());
            let _ = thread.toy.gate.recv_async().await;
        }
        WORK => {
            conn.flush().await?;
            let job = move || body.iter().map(|byte| byte.wrapping_mul(2)).collect::<Vec<_>>();
            return match thread.toy.pool.run(job).await {
                Ok(doubled) => conn.reply(&doubled).await,
                Err(error) => conn.reply_error(&error.to_string()).await,
            };
        }
        FAIL => return conn.reply_error("asked to fail").await,
        FLAGS => {
            let flags = socket_flags(conn.accepted());
            return conn.reply(&flags).await;
        }
        FILL => {
            conn.begin_reply(number()).await?;
            let piece = vec![7; 64 * 1024];
            let mut left = number();
            while left > 0 {
                let now = usize::try_from(left).unwrap().min(piece.len());
                conn.write(&piece[..now]).await?;
                left -= now as u64;
            }
            return Ok(());
        }
        SPIN => {
            let until = std::time::Instant::now() + Duration::from_millis(number());
            while std::time::Instant::now() < until {
                reel_node::yield_turn().await;
            }
        }
        RELAY => {
            let to: SocketAddr = std::str::from_utf8(&body).unwrap().parse().unwrap();
            let answer = thread.caller.call(to, ECHO, b"relayed", Duration::from_secs(5)).await;
            return match answer {
                Ok(answer) => conn.reply(&answer).await,
                Err(error) => conn.reply_error(&error.to_string()).await,
            };
        }
        DROP => return Err(Ended),
        _ => {}
    }
    conn.reply(&body).await
}

async fn sum(conn: &mut FrameConn) -> Result<(), Ended> {
    let (mut count, mut sum) = (0_u64, 0_u64);
    loop {
        match conn.read_chunk(64 * 1024).await {
            Ok(Some(chunk)) => {
                count += chunk.len() as u64;
                sum = chunk.iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)));
            }
            Ok(None) => break,
            Err(_) => return Err(Ended),
        }
    }
    conn.reply_with(|out| {
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(&sum.to_be_bytes());
    })
    .await
}

fn socket_flags(accepted: &Accepted) -> [u8; 3] {
    let descriptor = accepted.stream().as_raw_fd();
    // SAFETY: reads flags of an open descriptor.
    let status = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
    // SAFETY: as above.
    let own = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
    [
        u8::from(status & libc::O_NONBLOCK != 0),
        u8::from(own & libc::FD_CLOEXEC != 0),
        u8::from(accepted.stream().nodelay().unwrap()),
    ]
}

/// A toy role, set up and started.
pub struct Setup {
    pub off: Vec<String>,
    pub listen: &'static str,
    pub allow: AllowList,
    pub threads: usize,
    pub max_connections: usize,
    pub drain_deadline: Duration,
    pub config: FrameConfig,
    pub control: Control,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            off: Vec::new(),
            listen: "127.0.0.1:0",
            allow: AllowList::loopback(),
            threads: 2,
            max_connections: 2000,
            drain_deadline: Duration::from_secs(30),
            config: FrameConfig::new(REPLY, "toy"),
            control: Control::Stays,
        }
    }
}

pub struct Started {
    pub running: Running,
    pub process: Process,
    pub toy: Arc<Toy>,
    /// Dropping it lets all HOLD requests go on.
    pub gate: Option<flume::Sender<()>>,
    pub held: flume::Receiver<()>,
    pub address: SocketAddr,
}

pub const REFUSAL: &[u8] = b"too many connections";

/// The drivers that every behaviour must be the same on: as the kernel has it, a ring without
/// flags, epoll.
pub fn drivers() -> [Vec<String>; 3] {
    let off = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    [off(&[]), off(&["coop_taskrun", "single_issuer", "iowq_workers"]), off(&["io_uring"])]
}

impl Setup {
    pub fn on(off: &[String]) -> Self {
        Self { off: off.to_vec(), ..Self::default() }
    }

    pub fn spec(&self, addr: SocketAddr) -> RoleSpec {
        let listen = |name, addr, allow| ListenSpec {
            name,
            addr,
            allow,
            refusal: Bytes::from_static(REFUSAL),
        };
        RoleSpec {
            role: Role::Tracker,
            data_threads: self.threads,
            listeners: vec![listen("toy.listen", addr, self.allow.clone())],
            admin: Some(listen(
                "toy.admin_listen",
                "127.0.0.1:0".parse().unwrap(),
                AllowList::loopback(),
            )),
            max_connections_per_thread: self.max_connections,
            drain_deadline: self.drain_deadline,
            pin_from_core: Some(0),
        }
    }

    pub fn start(self) -> Started {
        let process = Process::new(&self.off).unwrap();
        self.start_in(process)
    }

    pub fn start_in(self, process: Process) -> Started {
        let (gate, wait_gate) = flume::bounded(0);
        let (tell_held, held) = flume::unbounded();
        let toy = Arc::new(Toy {
            config: self.config.clone(),
            pool: Pool::new("toy-work", 2, 64).unwrap(),
            gate: wait_gate,
            held: tell_held,
            control: self.control,
        });
        let spec = self.spec(self.listen.parse().unwrap());
        let running = reel_node::start(spec, Arc::clone(&toy), &process).unwrap();
        let address = running.addresses()[0].addr;
        Started { running, process, toy, gate: Some(gate), held, address }
    }
}

impl Started {
    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// A counter of `/metrics`, summed over its series.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.process.exporter().render();
        text.lines()
            .filter(|line| line.starts_with(&format!("{name}{{")))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    /// Drains and waits for the end.
    pub fn stop(mut self) {
        self.gate = None;
        self.running.drain();
        self.running.join().unwrap();
    }

    /// `/status`.
    pub fn status(&self) -> serde_json::Value {
        let (code, status) = self.page("/status");
        assert_eq!(code, 200);
        serde_json::from_str(&status).unwrap()
    }

    /// Open connections by `/status`.
    pub fn open_connections(&self) -> u64 {
        self.over_threads("connections")
    }

    /// Connections that wait for a request, by `/status`.
    pub fn idle_connections(&self) -> u64 {
        self.over_threads("idle_connections")
    }

    fn over_threads(&self, what: &str) -> u64 {
        let status = self.status();
        let threads = status["data_threads"].as_array().unwrap();
        threads.iter().map(|thread| thread[what].as_u64().unwrap()).sum()
    }

    /// A page of the admin server: status and body.
    pub fn page(&self, path: &str) -> (u16, String) {
        let address = self.running.admin_address().unwrap().addr;
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        (status, body.to_owned())
    }
}

/// A blocking client. It waits for ever where the server owes it something: a hang is a failure.
pub struct Client {
    pub stream: TcpStream,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Ok(Vec<u8>),
    Error(RemoteError),
    Closed,
}

impl Answer {
    pub fn ok(self) -> Vec<u8> {
        match self {
            Self::Ok(body) => body,
            other => panic!("no success: {other:?}"),
        }
    }

    pub fn error(self) -> String {
        match self {
            Self::Error(error) => error.text,
            other => panic!("no error: {other:?}"),
        }
    }
}

pub fn request(command: u8, body: &[u8]) -> Vec<u8> {
    frame::encode(command, body)
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { stream }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn call(&mut self, command: u8, body: &[u8]) -> Answer {
        self.send(&request(command, body));
        self.answer()
    }

    /// The next reply; `Closed` only between replies: part of one is a failure.
    pub fn answer(&mut self) -> Answer {
        let mut head = [0; HEADER_LEN];
        match self.stream.read(&mut head) {
            Ok(0) => return Answer::Closed,
            Ok(count) => self.stream.read_exact(&mut head[count..]).unwrap(),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                return Answer::Closed;
            }
            Err(error) => panic!("waiting for an answer: {error}"),
        }
        let header = Header::decode(&head).unwrap();
        let mut body = vec![0; header.length.try_into().unwrap()];
        self.stream.read_exact(&mut body).unwrap();
        assert_eq!(header.command, REPLY);
        if header.is_error() {
            return Answer::Error(frame::decode_error(&body));
        }
        Answer::Ok(body)
    }

    /// Whether the server has closed without another byte.
    pub fn is_closed(&mut self) -> bool {
        self.answer() == Answer::Closed
    }
}
