//! One connection of a load: a request on its way out, an answer on its way in, without waiting for either.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Result, bail};

use super::{
    dialect::{Dialect, Verdict},
    request::{Expect, Requests},
};
use crate::sys::socket;

/// Bytes of the buffer that all connections of a thread read into, one after the other.
pub(crate) const SCRATCH_BYTES: usize = 64 * 1024;

/// An answer up to so many bytes is read whole with its head: one call costs less than a second one that would spare
/// the copy.
const COPIED_BYTES_MAX: u64 = 8 * 1024;

/// Bytes read for a head where a long body follows, which is dropped in the kernel.
const HEAD_READ_BYTES: usize = 1024;

/// Bytes of a refusal that are kept for the report.
const REFUSAL_BYTES_MAX: usize = 200;

/// Longest wait for a connection to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A connection and the one request that is on it.
pub(crate) struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    sent: usize,
    content_length: u64,
    content_sent: u64,
    expect: Expect,
    checks: bool,
    // The begin of a head that came in parts, or of a refusal. Empty nearly always.
    head: Vec<u8>,
    incoming: Incoming,
    closes: bool,
    /// When the request was meant to go out, nanoseconds since the load began.
    pub(crate) meant_at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Incoming {
    Nothing,
    Head,
    Body { length: u64, left: u64, verdict: Verdict, matches: bool },
}

/// How far a connection got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The socket has no more room, or no more bytes.
    Blocked,
    /// The answer is whole.
    Answered(Answer),
}

/// A whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    /// Bytes of its body, and of the content that the request carried.
    pub(crate) bytes: u64,
    /// Whether its bytes were those expected; `None` where they were not looked at.
    pub(crate) matches: Option<bool>,
    pub(crate) expect: Expect,
}

impl Connection {
    pub(crate) fn open(target: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&target, CONNECT_LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            out: Vec::with_capacity(1024),
            sent: 0,
            content_length: 0,
            content_sent: 0,
            expect: Expect::Anything,
            checks: false,
            head: Vec::new(),
            incoming: Incoming::Nothing,
            closes: false,
            meant_at: 0,
        })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether a request is on it.
    pub(crate) fn is_busy(&self) -> bool {
        self.incoming != Incoming::Nothing
    }

    /// Takes the next request. `false`: there is none.
    pub(crate) fn begin(&mut self, requests: &mut Requests, meant_at: u64, checks: bool) -> bool {
        let Some((content_length, expect)) = requests.next(&mut self.out) else { return false };
        self.sent = 0;
        self.content_length = content_length;
        self.content_sent = 0;
        self.expect = expect;
        self.checks = checks;
        self.head.clear();
        self.incoming = Incoming::Head;
        self.meant_at = meant_at;
        true
    }

    /// Sends and receives as far as the socket lets it.
    ///
    /// # Errors
    /// The connection broke, or the peer does not speak the protocol: it is of no more use.
    pub(crate) fn advance(&mut self, requests: &Requests, scratch: &mut [u8]) -> Result<Progress> {
        if !self.is_busy() {
            return Ok(Progress::Blocked);
        }
        let is_new = self.sent == 0 && self.content_sent == 0;
        match self.send(&requests.pattern) {
            // Sent in one go, so its answer is still to come and will be told: looking for it is a call for nothing.
            Ok(()) if is_new => return Ok(Progress::Blocked),
            Ok(()) => {}
            Err(Stop::Blocked) => return Ok(Progress::Blocked),
            Err(Stop::Broken(error)) => return Err(error),
        }
        match self.receive(requests.dialect, scratch) {
            Ok(progress) => Ok(progress),
            Err(Stop::Blocked) => Ok(Progress::Blocked),
            Err(Stop::Broken(error)) => Err(error),
        }
    }

    /// Whether the server has announced that it takes no further request on it.
    pub(crate) fn closes(&self) -> bool {
        self.closes
    }

    /// Waits for nothing more on it.
    pub(crate) fn give_up(&mut self) {
        self.incoming = Incoming::Nothing;
    }

    /// The begin of the last answer's body, where it was a refusal.
    pub(crate) fn refusal(&self) -> &[u8] {
        &self.head
    }

    fn send(&mut self, pattern: &[u8]) -> Result<(), Stop> {
        while self.sent < self.out.len() || self.content_sent < self.content_length {
            let head = &self.out[self.sent..];
            // The content is the pattern over and over.
            let begin = (self.content_sent % pattern.len().max(1) as u64) as usize;
            let left = self.content_length - self.content_sent;
            let end = pattern
                .len()
                .min(begin.saturating_add(usize::try_from(left).unwrap_or(usize::MAX)));
            let parts = [IoSlice::new(head), IoSlice::new(&pattern[begin..end])];
            let written = self.stream.write_vectored(&parts)?;
            let of_head = written.min(head.len());
            self.sent += of_head;
            self.content_sent += (written - of_head) as u64;
        }
        Ok(())
    }

    fn receive(&mut self, dialect: Dialect, scratch: &mut [u8]) -> Result<Progress, Stop> {
        while self.incoming == Incoming::Head {
            self.receive_head(dialect, scratch)?;
        }
        loop {
            let Incoming::Body { length, left, verdict, matches } = self.incoming else {
                return Ok(Progress::Blocked);
            };
            if left == 0 {
                self.incoming = Incoming::Nothing;
                let matches = self.checks.then_some(matches);
                return Ok(Progress::Answered(Answer {
                    verdict,
                    bytes: length + self.content_length,
                    matches,
                    expect: self.expect,
                }));
            }
            let (got, same) = if self.checks {
                let room = scratch.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let got = self.stream.read(&mut scratch[..room])?;
                (got as u64, self.is_expected(length - left, &scratch[..got]))
            } else {
                (socket::discard(&self.stream, left)?, true)
            };
            if got == 0 {
                return Err(Stop::Broken(anyhow::anyhow!("the answer was cut short")));
            }
            let (left, matches) = (left - got, matches && same);
            self.incoming = Incoming::Body { length, left, verdict, matches };
        }
    }

    fn receive_head(&mut self, dialect: Dialect, scratch: &mut [u8]) -> Result<(), Stop> {
        let is_long =
            matches!(self.expect, Expect::Bytes { length, .. } if length > COPIED_BYTES_MAX);
        let room = if is_long { HEAD_READ_BYTES } else { scratch.len() };
        let got = self.stream.read(&mut scratch[..room])?;
        if got == 0 {
            return Err(Stop::Broken(anyhow::anyhow!("the connection was closed")));
        }
        // Nearly always the head is whole, and nothing is kept.
        let kept = std::mem::take(&mut self.head);
        let mut whole = kept;
        let bytes = if whole.is_empty() {
            &scratch[..got]
        } else {
            whole.extend_from_slice(&scratch[..got]);
            &whole[..]
        };
        let Some(head) = dialect.head(bytes).map_err(Stop::Broken)? else {
            self.head = bytes.to_vec();
            return Ok(());
        };
        let body = &bytes[head.used..];
        let left = head.body.checked_sub(body.len() as u64);
        let left = left.ok_or_else(|| Stop::Broken(anyhow::anyhow!("bytes after the answer")))?;
        let mut matches = self.has_length(&head.verdict, head.body);
        if self.checks {
            matches = matches && self.is_expected(0, body);
        }
        self.closes = head.closes;
        let verdict = head.verdict;
        if verdict != Verdict::Done {
            let shown = body.len().min(REFUSAL_BYTES_MAX);
            self.head = body[..shown].to_vec();
        }
        // A body of another length than the range's is a failure whether its bytes are looked at or not.
        self.checks = self.checks || !matches;
        self.incoming = Incoming::Body { length: head.body, left, verdict, matches };
        Ok(())
    }

    fn has_length(&self, verdict: &Verdict, body: u64) -> bool {
        match self.expect {
            Expect::Bytes { length, .. } => *verdict != Verdict::Done || body == length,
            Expect::Anything | Expect::Stored { .. } => true,
        }
    }

    fn is_expected(&self, at: u64, bytes: &[u8]) -> bool {
        match (self.expect, self.incoming) {
            // The text of a refusal is no content.
            (_, Incoming::Body { verdict, .. }) if verdict != Verdict::Done => true,
            (Expect::Bytes { content, offset, .. }, _) => content.matches(offset + at, bytes),
            (Expect::Anything | Expect::Stored { .. }, _) => true,
        }
    }
}

/// Why a connection does not go on.
enum Stop {
    Blocked,
    Broken(anyhow::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock => Self::Blocked,
            _ => Self::Broken(error.into()),
        }
    }
}

/// Opens so many connections, or says which one failed.
pub(crate) fn open_all(target: SocketAddr, count: usize) -> Result<Vec<Connection>> {
    let mut all = Vec::with_capacity(count);
    for number in 0..count {
        match Connection::open(target) {
            Ok(connection) => all.push(connection),
            Err(error) => bail!("connection {number} of {count} to {target}: {error}"),
        }
    }
    Ok(all)
}
