//! Sending and receiving on non-blocking sockets: system calls, and a poll where they would block.
//!
//! Used by the HTTP drivers and by the engine's binary downloads. A call moves a bounded number of
//! bytes before it lets the thread's other connections run. The socket must be non-blocking
//! ([`prepare`]): on a blocking one sendfile holds the whole thread for as long as its peer likes.
//!
//! sendfile(2) and splice(2) know no MSG_NOSIGNAL: the process ignores SIGPIPE, as the Rust
//! runtime does by default.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use bytes::BufMut;
use monoio::io::AsyncWriteRent;
use monoio::net::TcpStream;
use socket2::SockRef;

use super::pace::{Meter, Pace};
use crate::pooled::Pooled;
use crate::{Accepted, nonblocking, yield_turn};

/// Most bytes that one connection moves before the others get their turn. At 10 GB/s this is
/// 50 µs; smaller turns cost more calls than they save waiting.
pub const TURN_BYTES: usize = 512 * 1024;

/// From this length on a file goes out under TCP_CORK: the end of each turn then does not leave
/// as a small segment (measured: 1.2 to 1.5 times the throughput at 8 MiB). Below, the two calls
/// cost more than they bring.
const CORK_BYTES_MIN: u64 = 2 * TURN_BYTES as u64;

/// Why not everything was sent. After any of these the connection must be closed: its peer has
/// part of a message.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The peer is gone.
    #[error("the peer closed the connection: {0}")]
    Peer(#[source] io::Error),
    /// The peer took too little for too long.
    #[error("the peer does not read")]
    Timeout,
    /// The file ends before the range does: it was cut on disk after it was opened.
    #[error("the file ends {missing} bytes early")]
    ShortFile {
        /// Bytes of the range that the file does not have.
        missing: u64,
    },
    /// The file cannot be read.
    #[error("cannot read the file: {0}")]
    File(#[source] io::Error),
}

impl SendError {
    /// Whether the fault is ours (the file) and not the peer's.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::ShortFile { .. } | Self::File(_))
    }

    fn of_wait(error: io::Error) -> Self {
        if error.kind() == ErrorKind::TimedOut { Self::Timeout } else { Self::Peer(error) }
    }
}

/// The socket's descriptor, borrowed for as long as the stream is.
#[allow(unsafe_code)]
pub fn fd(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream owns the descriptor and outlives the borrow by the lifetime.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}

/// Makes a socket ready for this module: non-blocking, and without Nagle's delay.
///
/// # Errors
/// What the kernel says; the peer is usually gone then.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    let fd = fd(stream);
    let socket = SockRef::from(&fd);
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)
}

/// Sends all of `bytes`. `more`: more follows at once, so that a small head leaves in one segment
/// with what comes after it (MSG_MORE). Not cancel safe: part of it may have gone out.
///
/// # Errors
/// [`SendError::Peer`] or [`SendError::Timeout`], after part of the bytes may have gone out.
pub async fn send_all(
    stream: &TcpStream,
    bytes: &[u8],
    more: bool,
    pace: Pace,
) -> Result<(), SendError> {
    send_behind(stream, &[], bytes, more, pace).await
}

/// As [`send_all`], with `head` in front of `bytes`: the two leave together.
///
/// # Errors
/// As [`send_all`].
pub async fn send_behind(
    stream: &TcpStream,
    mut head: &[u8],
    bytes: &[u8],
    more: bool,
    pace: Pace,
) -> Result<(), SendError> {
    let mut meter = Meter::new(pace);
    let mut sent = 0;
    let mut turn = 0;
    while !head.is_empty() || sent < bytes.len() {
        if turn >= TURN_BYTES {
            turn = 0;
            yield_turn().await;
        }
        let end = bytes.len().min(sent + TURN_BYTES);
        let piece = &bytes[sent..end];
        // A piece that is not the last one always has more behind it.
        let more = more || end < bytes.len();
        let answer = if head.is_empty() {
            nonblocking::send(stream, piece, more)
        } else {
            nonblocking::send_both(stream, head, piece, more)
        };
        match answer {
            Ok(count) => {
                let of_head = count.min(head.len());
                head = &head[of_head..];
                sent += count - of_head;
                turn += count;
                meter.moved(count as u64);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                turn = 0;
                writable(stream, &mut meter).await?;
            }
            Err(error) => return Err(SendError::Peer(error)),
        }
    }
    Ok(())
}

/// Sends a buffer and gives it back. Its first call is made by the ring, together with those of all
/// connections that are ready: for 64 peers that is a sixth less CPU (docs/decisions/0001). Without a
/// ring it is [`send_all`]. Not cancel safe.
///
/// # Errors
/// As [`send_all`].
pub async fn send_owned(
    accepted: &mut Accepted,
    buffer: Vec<u8>,
    pace: Pace,
) -> (Result<(), SendError>, Vec<u8>) {
    accepted.slot().await_output(pace.window);
    let (answer, buffer) = accepted.stream_mut().write(buffer).await;
    accepted.slot().work();
    let sent = match answer {
        Ok(sent) => sent,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(_) if accepted.slot().expired() => return (Err(SendError::Timeout), buffer),
        Err(error) => return (Err(SendError::Peer(error)), buffer),
    };
    let rest = send_all(accepted.stream(), &buffer[sent..], false, pace).await;
    (rest, buffer)
}

/// Sends `length` bytes of `file` from `offset` by sendfile(2); the kernel copies nothing. The
/// caller has seen that the pages are (mostly) in the page cache: a page that is not there blocks
/// the thread for one disk read. Returns the bytes sent, which is `length`. Not cancel safe.
///
/// # Errors
/// Any [`SendError`], after part of the range may have gone out.
pub async fn send_file(
    stream: &TcpStream,
    file: BorrowedFd<'_>,
    offset: u64,
    length: u64,
    pace: Pace,
) -> Result<u64, SendError> {
    let _cork = (length >= CORK_BYTES_MIN).then(|| Cork::new(stream));
    let mut meter = Meter::new(pace);
    let mut sent = 0_u64;
    let mut turn = 0_usize;
    while sent < length {
        if turn >= TURN_BYTES {
            turn = 0;
            yield_turn().await;
        }
        let want = usize::try_from(length - sent).unwrap_or(usize::MAX).min(TURN_BYTES - turn);
        // offset + sent is a position in a file that exists, so it fits a file offset.
        let position = usize::try_from(offset + sent)
            .map_err(|_| SendError::File(ErrorKind::FileTooLarge.into()))?;
        match SockRef::from(&fd(stream)).sendfile(&file, position, NonZeroUsize::new(want)) {
            Ok(0) => return Err(SendError::ShortFile { missing: length - sent }),
            Ok(count) => {
                sent += count as u64;
                turn += count;
                meter.moved(count as u64);
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => {
                    turn = 0;
                    writable(stream, &mut meter).await?;
                }
                ErrorKind::Interrupted => {}
                _ if is_peer_fault(&error) => return Err(SendError::Peer(error)),
                _ => return Err(SendError::File(error)),
            },
        }
    }
    Ok(sent)
}

/// Whether an error of sendfile or splice comes from the socket, not from the file.
pub(super) fn is_peer_fault(error: &io::Error) -> bool {
    use libc::{ECONNABORTED, ECONNRESET, EHOSTUNREACH, ENETUNREACH, ENOTCONN, EPIPE, ETIMEDOUT};
    let peer = [ECONNABORTED, ECONNRESET, EHOSTUNREACH, ENETUNREACH, ENOTCONN, EPIPE, ETIMEDOUT];
    error.raw_os_error().is_some_and(|code| peer.contains(&code))
}

/// Holds back partial segments until it is dropped.
pub(super) struct Cork<'a>(&'a TcpStream);

impl<'a> Cork<'a> {
    pub(super) fn new(stream: &'a TcpStream) -> Self {
        // A socket that cannot be corked is merely slower.
        let _ = SockRef::from(&fd(stream)).set_tcp_cork(true);
        Self(stream)
    }
}

impl Drop for Cork<'_> {
    fn drop(&mut self) {
        let _ = SockRef::from(&fd(self.0)).set_tcp_cork(false);
    }
}

/// Takes what has arrived, without waiting: the bytes appended to `into` (at most what it has
/// room for, which must not be zero), 0 at the end of the stream, `None` when nothing is there.
///
/// # Errors
/// What the socket says: the connection is broken.
pub fn try_receive(stream: &TcpStream, into: &mut impl BufMut) -> io::Result<Option<usize>> {
    let fd = fd(stream);
    let socket = SockRef::from(&fd);
    loop {
        let chunk = into.chunk_mut();
        debug_assert!(chunk.len() > 0, "no room: the end of the stream could not be told");
        match socket.recv(uninit(chunk)) {
            Ok(count) => {
                advance(into, count);
                return Ok(Some(count));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[allow(unsafe_code)]
fn uninit(chunk: &mut bytes::buf::UninitSlice) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the slice goes to recv(2) only, which writes and never de-initialises.
    unsafe { chunk.as_uninit_slice_mut() }
}

#[allow(unsafe_code)]
fn advance(into: &mut impl BufMut, count: usize) {
    // SAFETY: recv(2) has just written `count` bytes at the start of the buffer's chunk.
    unsafe { into.advance_mut(count) }
}

/// Receives at least one byte, waiting as long as the meter allows; 0 at the end of the stream.
/// Cancel safe: bytes are taken only in the call that returns them.
///
/// # Errors
/// `TimedOut` when the peer was too slow; else what the socket says.
pub async fn receive(
    stream: &TcpStream,
    into: &mut impl BufMut,
    meter: &mut Meter,
) -> io::Result<usize> {
    loop {
        if let Some(count) = try_receive(stream, into)? {
            meter.moved(count as u64);
            return Ok(count);
        }
        meter.wait(stream.readable(false)).await?;
    }
}

/// Waits until there is something to read (or the end), at most `deadline`. Cancel safe.
///
/// # Errors
/// `TimedOut`, or what the poll says.
pub async fn wait_readable(stream: &TcpStream, deadline: Duration) -> io::Result<()> {
    match monoio::time::timeout(deadline, stream.readable(false)).await {
        Ok(answer) => answer,
        Err(_) => Err(ErrorKind::TimedOut.into()),
    }
}

/// Opens a connection and prepares it.
///
/// # Errors
/// `TimedOut` after `deadline`, or why the peer cannot be reached.
pub async fn connect(address: SocketAddr, deadline: Duration) -> io::Result<TcpStream> {
    let stream = monoio::time::timeout(deadline, TcpStream::connect_addr(address))
        .await
        .map_err(|_| io::Error::from(ErrorKind::TimedOut))??;
    prepare(&stream)?;
    Ok(stream)
}

/// Ends a connection so that the peer reads what was sent last: no more is sent, and what still
/// comes is read and thrown away, at most `bytes_max` and for at most `time_max`. A close with
/// unread input would send a reset, which discards the reply in the peer's receive buffer.
pub async fn linger(stream: &TcpStream, bytes_max: u64, time_max: Duration) {
    if SockRef::from(&fd(stream)).shutdown(Shutdown::Write).is_err() {
        return;
    }
    let discard = Box::pin(monoio::time::timeout(time_max, discard(stream, bytes_max)));
    let _ = discard.await;
}

async fn discard(stream: &TcpStream, bytes_max: u64) {
    let mut scratch = Vec::with_capacity(16 * 1024);
    let mut total = 0;
    while total < bytes_max {
        scratch.clear();
        match try_receive(stream, &mut (&mut scratch).limit(16 * 1024)) {
            Ok(Some(0)) | Err(_) => return,
            Ok(Some(count)) => total += count as u64,
            Ok(None) => {
                if stream.readable(false).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Waits until `stream` takes more, as long as the meter allows.
///
/// # Errors
/// [`SendError::Timeout`] or [`SendError::Peer`].
pub async fn writable(stream: &TcpStream, meter: &mut Meter) -> Result<(), SendError> {
    // A timer has hundreds of bytes, which everything that ever sends would have too.
    Pooled::new(meter.wait(stream.writable(false))).await.map_err(SendError::of_wait)
}
