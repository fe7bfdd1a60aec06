//! Runs `reel up` as a real process on ports of the kernel's choice, and talks to it with plain
//! sockets: what these tests see is what any client sees.
#![allow(clippy::unwrap_used, missing_docs, dead_code, unreachable_pub)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Longest wait for anything; reached only by a failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running `reel up`.
pub struct Up {
    child: Child,
    stderr: Receiver<String>,
    pub addresses: serde_json::Value,
}

/// `reel up` with every port left to the kernel.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reel"));
    command.args(["up", "--any-ports", "--json", "--data"]).arg(folder);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REEL_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Up {
    /// Starts and waits until it says that it is ready.
    pub fn start(folder: &Path) -> Self {
        Self::spawn(command(folder))
    }

    /// Starts a prepared command and waits until it says that it is ready. What it writes to standard error is kept,
    /// unless the command sends it elsewhere.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let (sender, stderr) = channel();
        let errors = child.stderr.take();
        std::thread::spawn(move || {
            let mut text = String::new();
            if let Some(mut errors) = errors {
                let _ = errors.read_to_string(&mut text);
            }
            let _ = sender.send(text);
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let _ = child.kill();
            let status = child.wait().unwrap();
            panic!("reel up ended, {status}: {}", stderr.recv_timeout(PATIENCE).unwrap());
        }
        let addresses = serde_json::from_str(&line).unwrap();
        Self { child, stderr, addresses }
    }

    /// One of its addresses.
    pub fn address(&self, role: &str, listener: &str) -> SocketAddr {
        let text = &self.addresses[role][listener];
        text.as_str().unwrap_or_else(|| panic!("no {role} {listener}")).parse().unwrap()
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: sends a signal to a child that has not been waited for, so the id is its own.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    /// Waits for its end; what it wrote to standard error comes with the status.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, self.stderr.recv_timeout(PATIENCE).unwrap());
            }
            assert!(Instant::now() < end, "reel up does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGTERM, and the end is clean.
    pub fn stop(self) -> String {
        self.signal(libc::SIGTERM);
        let (status, errors) = self.wait();
        assert_eq!(status.code(), Some(0), "{errors}");
        errors
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One request on a connection of its own. `head` is the request line and fields without Host,
/// Connection and Content-Length.
pub fn http(address: SocketAddr, head: &str, body: &[u8]) -> Answer {
    let mut stream = connect(address);
    let length = match (body, head.starts_with("P")) {
        ([], false) => String::new(),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let request =
        format!("{}\r\nHost: {address}\r\nConnection: close\r\n{length}\r\n", head.trim_end());
    stream.write_all(request.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| {
        panic!("no head from {address} for {head}: {:?}", String::from_utf8_lossy(&answer))
    });
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: answer[end + 4..].to_vec() }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One frame of the binary protocol on an open connection: the reply's status and body.
pub fn frame(stream: &mut TcpStream, command: u8, body: &[u8]) -> (u8, u8, Vec<u8>) {
    let mut request = (body.len() as u64).to_be_bytes().to_vec();
    request.extend([command, 0]);
    request.extend(body);
    stream.write_all(&request).unwrap();
    let mut header = [0; 10];
    stream.read_exact(&mut header).unwrap();
    let length = u64::from_be_bytes(header[..8].try_into().unwrap());
    let mut reply = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut reply).unwrap();
    (header[8], header[9], reply)
}

/// App, user and file id as fields of fixed width.
pub fn file_reference(app: &str, user: &str, file: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    for (text, width) in [(app, 16), (user, 256), (file, 128)] {
        let start = fields.len();
        fields.extend(text.as_bytes());
        fields.resize(start + width, 0);
    }
    fields
}

/// Bytes that tell a wrong offset: no two blocks of 8 are the same.
pub fn content(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for (n, block) in (0_u64..).zip(bytes.chunks_mut(8)) {
        let number = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
        block.copy_from_slice(&number[..block.len()]);
    }
    bytes
}
