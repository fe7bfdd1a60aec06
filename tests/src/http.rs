//! One HTTP request at a time, over the raw connection of the cases, for tests that only need an answer; and an answer that is
//! read piece by piece, as a player does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use crate::http_cases::{Connection, Response};

/// One request on a connection of its own: these header lines, and a body of known length where there is one.
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[&str],
    body: Option<&[u8]>,
) -> Result<Response> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\n");
    for line in headers {
        head.push_str(line);
        head.push_str("\r\n");
    }
    if let Some(body) = body {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("Connection: close\r\n\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body.unwrap_or_default());
    let exchange = || {
        let mut connection = Connection::open(address)?;
        connection.send(&bytes)?;
        connection.response(method == "HEAD")
    };
    exchange().map_err(anyhow::Error::msg).with_context(|| format!("{method} {address}{target}"))
}

/// The status that a GET is answered with.
pub fn status(address: SocketAddr, target: &str) -> Result<u16> {
    Ok(request(address, "GET", target, &[], None)?.status)
}

/// How long it takes until a GET is answered with this status. The end of the wait ends a test that hangs; nothing is measured by it.
pub fn until_status(address: SocketAddr, target: &str, wanted: u16) -> Result<Duration> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let begin = Instant::now();
    loop {
        let found = status(address, target)?;
        if found == wanted {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() > PATIENCE {
            bail!("{target}: {found}, not {wanted}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// GET of a JSON document, for admin pages.
pub fn json(address: SocketAddr, target: &str) -> Result<serde_json::Value> {
    let response = request(address, "GET", target, &[], None)?;
    if response.status != 200 {
        bail!("{target}: {} {}", response.status, response.text());
    }
    Ok(serde_json::from_slice(&response.body)?)
}

/// An answer to a GET that is read piece by piece, by somebody who does not wait for ever.
#[derive(Debug)]
pub struct Reading {
    stream: TcpStream,
    /// The answer's status.
    pub status: u16,
    /// What has come already of the body.
    received: Vec<u8>,
    /// Bytes of the body that have not been given.
    left: u64,
}

impl Reading {
    /// Asks for a file, or for its bytes from `range.0` on, up to but without `range.1`, and reads the head of the answer. No call waits
    /// longer than `patience` for a byte.
    ///
    /// # Errors
    /// The connection's, or what came is no answer.
    pub fn open(
        address: SocketAddr,
        target: &str,
        range: Option<(u64, u64)>,
        patience: Duration,
    ) -> Result<Self> {
        let range = match range {
            Some((first, end)) => format!("Range: bytes={first}-{}\r\n", end.saturating_sub(1)),
            None => String::new(),
        };
        let head = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n{range}\r\n");
        Self::send(address, head.as_bytes(), patience)
    }

    /// As [`Self::open`], for a request of any other method; with this body, if it has one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn ask(
        address: SocketAddr,
        method: &str,
        target: &str,
        body: Option<&[u8]>,
        patience: Duration,
    ) -> Result<Self> {
        let length = body.map(|body| format!("Content-Length: {}\r\n", body.len()));
        let length = length.unwrap_or_default();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\n{length}\r\n");
        let mut request = head.into_bytes();
        request.extend_from_slice(body.unwrap_or_default());
        Self::send(address, &request, patience)
    }

    fn send(address: SocketAddr, request: &[u8], patience: Duration) -> Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        // Who refuses a body need not read it, and what it says is there to be read.
        let sent = stream.write_all(request);
        let (mut received, mut piece) = (Vec::new(), [0; 4096]);
        let end = loop {
            if let Some(at) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read(&mut piece)? {
                0 => bail!("the connection ended in the answer's head ({sent:?} sent)"),
                count => received.extend_from_slice(&piece[..count]),
            }
        };
        let head = String::from_utf8(received.drain(..end).collect())?.to_ascii_lowercase();
        let status = head.get(9..12).context("a status line")?.parse()?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let left = match length {
            Some(length) => length.trim().parse()?,
            None if status == 204 => 0,
            None => bail!("an answer of unknown length"),
        };
        Ok(Self { stream, status, received, left })
    }

    /// From now on no call waits longer for a byte.
    ///
    /// # Errors
    /// The system's.
    pub fn wait_at_most(&self, patience: Duration) -> Result<()> {
        Ok(self.stream.set_read_timeout(Some(patience))?)
    }

    /// Bytes of the body still to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next bytes of the body, at most so many. Empty: that was all.
    ///
    /// # Errors
    /// The connection's, or it ended too early.
    pub fn next(&mut self, most: usize) -> Result<Vec<u8>> {
        let most = most.min(usize::try_from(self.left)?);
        let piece = if self.received.is_empty() {
            let mut piece = vec![0; most];
            let count = self.stream.read(&mut piece)?;
            piece.truncate(count);
            piece
        } else {
            let count = self.received.len().min(most);
            self.received.drain(..count).collect()
        };
        if piece.is_empty() && self.left > 0 {
            bail!("the connection ended {} bytes too early", self.left);
        }
        self.left -= piece.len() as u64;
        Ok(piece)
    }
}
