//! Moving a body from one socket to another without user space: socket → pipe → socket.
//!
//! splice(2) on non-blocking descriptors with polls where they would block. Short bodies are
//! copied: two system calls and a pipe cost more than 32 KiB through a buffer. A kernel or a
//! socket type that cannot splice gets the copy too.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use bytes::BufMut;
use monoio::net::TcpStream;

use super::pace::{Meter, Pace};
use super::socket::{self, SendError, TURN_BYTES};

/// Bytes that a pipe holds when the system grants it (measured: 512 KiB gives 1.1 to 1.3 times
/// the throughput of 1 MiB). Beyond the user's limit the kernel leaves it at its default.
const PIPE_BYTES: i32 = 512 * 1024;

/// Empty pipes that a thread keeps: two descriptors each, no memory while they are empty.
const IDLE_PIPES_MAX: usize = 64;

/// Bodies up to this length are copied.
const COPY_BYTES_MAX: u64 = 32 * 1024;

/// Buffer of a copy: one per body that is being copied.
const COPY_BUFFER_BYTES: usize = 32 * 1024;

/// Why a body was not moved to its end. The one that failed must be closed; the destination of a
/// source that failed has a part of the body.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The source failed.
    #[error("the source of the body failed: {0}")]
    Source(#[source] io::Error),
    /// The source closed the connection before the body was complete.
    #[error("the source of the body ended {missing} bytes early")]
    Ended {
        /// Bytes that never came.
        missing: u64,
    },
    /// The destination failed or does not read.
    #[error("cannot pass the body on: {0}")]
    Destination(#[source] SendError),
}

/// Paces of the two sides of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct Paces {
    /// Least progress of the source while we wait for it.
    pub source: Pace,
    /// Least progress of the destination.
    pub destination: Pace,
}

/// Moves exactly `length` bytes from one socket to the other, and counts in `sent` what the
/// destination's socket has taken: where the source fails, another one can go on from there. Not
/// cancel safe.
///
/// # Errors
/// See [`TransferError`]; part of the body may have gone out.
pub async fn transfer(
    from: &TcpStream,
    to: &TcpStream,
    length: u64,
    paces: Paces,
    sent: &mut u64,
) -> Result<(), TransferError> {
    *sent = 0;
    if length <= COPY_BYTES_MAX {
        return copy(from, to, length, paces, sent).await;
    }
    // No pipe (the descriptor limit is near): a copy needs none.
    let Ok(pipe) = PIPES.with(|pipes| pipes.borrow_mut().take()) else {
        return copy(from, to, length, paces, sent).await;
    };
    let mut moving = Moving { from, to, pipe, length, received: 0, sent: 0 };
    let answer = moving.run(paces).await;
    let Moving { pipe, received, .. } = moving;
    *sent = moving.sent;
    // A pipe with bytes in it would give them to the next body.
    if received == *sent {
        PIPES.with(|pipes| pipes.borrow_mut().give_back(pipe));
    }
    match answer {
        Err(TransferError::Source(error)) if cannot_splice(&error) && received == 0 => {
            copy(from, to, length, paces, sent).await
        }
        answer => answer,
    }
}

fn cannot_splice(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS))
}

async fn copy(
    from: &TcpStream,
    to: &TcpStream,
    length: u64,
    paces: Paces,
    sent: &mut u64,
) -> Result<(), TransferError> {
    let mut meter = Meter::new(paces.source);
    let mut left = length;
    let room = usize::try_from(length).unwrap_or(usize::MAX).min(COPY_BUFFER_BYTES);
    let mut buffer = Vec::with_capacity(room);
    while left > 0 {
        buffer.clear();
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(room);
        let count = socket::receive(from, &mut (&mut buffer).limit(want), &mut meter)
            .await
            .map_err(TransferError::Source)?;
        if count == 0 {
            return Err(TransferError::Ended { missing: left });
        }
        left -= count as u64;
        socket::send_all(to, &buffer, left > 0, paces.destination)
            .await
            .map_err(TransferError::Destination)?;
        *sent += count as u64;
    }
    Ok(())
}

/// A transfer under way; `received - sent` bytes are in the pipe.
struct Moving<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    pipe: Pipe,
    length: u64,
    received: u64,
    sent: u64,
}

impl Moving<'_> {
    async fn run(&mut self, paces: Paces) -> Result<(), TransferError> {
        let mut source = Meter::new(paces.source);
        let mut destination = Meter::new(paces.destination);
        let mut turn = 0;
        while self.sent < self.length {
            if turn >= TURN_BYTES as u64 {
                turn = 0;
                crate::yield_turn().await;
            }
            if self.fill(&mut source).await? {
                turn = 0;
            }
            let before = self.sent;
            self.drain(&mut destination).await?;
            turn += self.sent - before;
        }
        Ok(())
    }

    /// Takes what the source has; waits only when the pipe is empty. Says whether it waited.
    async fn fill(&mut self, meter: &mut Meter) -> Result<bool, TransferError> {
        let mut waited = false;
        while self.received < self.length {
            let want = piece(self.length - self.received);
            match splice(socket::fd(self.from), self.pipe.input.as_fd(), want, false) {
                Ok(0) => {
                    // What is in the pipe is not passed on: it was not counted as sent either.
                    return Err(TransferError::Ended { missing: self.length - self.received });
                }
                Ok(count) => {
                    self.received += count as u64;
                    meter.moved(count as u64);
                    return Ok(waited);
                }
                // The source is empty or the pipe is full: with something in the pipe, move that.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.received > self.sent {
                        return Ok(waited);
                    }
                    waited = true;
                    meter.wait(self.from.readable(false)).await.map_err(TransferError::Source)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(TransferError::Source(error)),
            }
        }
        Ok(waited)
    }

    /// Empties the pipe into the destination.
    async fn drain(&mut self, meter: &mut Meter) -> Result<(), TransferError> {
        while self.sent < self.received {
            let more = self.received < self.length;
            let want = piece(self.received - self.sent);
            match splice(self.pipe.output.as_fd(), socket::fd(self.to), want, more) {
                Ok(count) => {
                    self.sent += count as u64;
                    meter.moved(count as u64);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    socket::writable(self.to, meter).await.map_err(TransferError::Destination)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(TransferError::Destination(SendError::Peer(error))),
            }
        }
        Ok(())
    }
}

fn piece(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX).min(TURN_BYTES)
}

/// One non-blocking splice(2) between a pipe and a socket. `more`: see MSG_MORE.
#[allow(unsafe_code)]
fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, want: usize, more: bool) -> io::Result<usize> {
    let mut flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    if more {
        flags |= libc::SPLICE_F_MORE;
    }
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    // SAFETY: both descriptors are open for the borrows' lifetime; no offsets are passed.
    let count = unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), want, flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// An empty pipe of this thread's own.
struct Pipe {
    /// Write end.
    input: OwnedFd,
    /// Read end.
    output: OwnedFd,
}

impl Pipe {
    #[allow(unsafe_code)]
    fn new() -> io::Result<Self> {
        let (output, input) = io::pipe()?;
        let pipe = Self { input: input.into(), output: output.into() };
        // SAFETY: fcntl on an open descriptor; a size that is refused leaves the pipe as it is.
        unsafe { libc::fcntl(pipe.input.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_BYTES) };
        Ok(pipe)
    }
}

#[derive(Default)]
struct Pipes {
    idle: Vec<Pipe>,
}

impl Pipes {
    fn take(&mut self) -> io::Result<Pipe> {
        self.idle.pop().map_or_else(Pipe::new, Ok)
    }

    fn give_back(&mut self, pipe: Pipe) {
        if self.idle.len() < IDLE_PIPES_MAX {
            self.idle.push(pipe);
        }
    }
}

thread_local! {
    static PIPES: RefCell<Pipes> = RefCell::new(Pipes::default());
}
