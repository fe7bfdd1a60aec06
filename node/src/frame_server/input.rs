//! The input buffer of a connection: borrowed from the thread while bytes are in it, none while
//! the connection is idle, a copy of the few bytes there are while it waits for the rest.

use std::cell::RefCell;
use std::io;

use bytes::{BufMut, BytesMut};
use monoio::net::TcpStream;
use reel_proto::frame::HEADER_LEN;

use crate::http::socket;
use crate::nonblocking;

/// Bytes of an input buffer: some two hundred pipelined requests of the small commands.
const BUFFER_BYTES: usize = 16 * 1024;

/// Largest body that [`read_body`](super::FrameConn::read_body) gives as one slice.
pub const SMALL_BODY_BYTES_MAX: usize = BUFFER_BYTES;

/// Buffers that a thread keeps for later: 1 MiB. More are made when more connections have
/// unread input at the same moment, and freed after it.
const SPARE_BUFFERS: usize = 64;

type Buffer = Box<[u8; BUFFER_BYTES]>;

thread_local! {
    static SPARE: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

fn borrow_buffer() -> Buffer {
    SPARE.with(|spare| spare.borrow_mut().pop()).unwrap_or_else(|| Box::new([0; BUFFER_BYTES]))
}

fn give_back(buffer: Buffer) {
    SPARE.with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < SPARE_BUFFERS {
            spare.push(buffer);
        }
    });
}

/// Received bytes that have not been taken.
#[derive(Default)]
pub(super) struct Input {
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
    /// What there is, while the buffer is with the thread. Never both.
    parked: Vec<u8>,
    /// The last receive gave less than it had room for: the socket was empty then, and asking it
    /// again at once would be a system call for nothing.
    emptied: bool,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Input").field("bytes", &self.len()).finish()
    }
}

impl Input {
    /// Bytes that are there.
    pub(super) fn len(&self) -> usize {
        if self.buffer.is_some() { self.end - self.start } else { self.parked.len() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes `count` bytes, which must be there.
    pub(super) fn take(&mut self, count: usize) -> &[u8] {
        self.unpark();
        let from = self.start;
        self.start += count;
        match &self.buffer {
            Some(buffer) => &buffer[from..from + count],
            None => &[],
        }
    }

    /// Takes a header, whose bytes must be there.
    pub(super) fn take_header(&mut self) -> &[u8; HEADER_LEN] {
        match self.take(HEADER_LEN).first_chunk() {
            Some(header) => header,
            None => &[0xff; HEADER_LEN],
        }
    }

    /// Waits for bytes and takes in what there is; 0 is the end of the stream. There must be
    /// room: fewer bytes than [`BUFFER_BYTES`] in it. Cancel safe.
    pub(super) async fn fill(&mut self, stream: &TcpStream) -> io::Result<usize> {
        loop {
            if !self.emptied {
                match self.receive(stream) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => return other,
                }
            }
            self.park();
            stream.readable(false).await?;
            self.emptied = false;
        }
    }

    fn receive(&mut self, stream: &TcpStream) -> io::Result<usize> {
        self.unpark();
        let Some(buffer) = &mut self.buffer else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let room = &mut buffer[self.end..];
        debug_assert!(!room.is_empty(), "no room: the end of the stream could not be told");
        let count = nonblocking::recv(stream, room)?;
        self.emptied = count < room.len();
        self.end += count;
        Ok(count)
    }

    /// Receives into `into` at most `max` bytes, past the buffer, which must be empty; `None` when
    /// nothing is there. `into` must have room for them.
    pub(super) fn receive_past(
        &mut self,
        stream: &TcpStream,
        into: &mut BytesMut,
        max: usize,
    ) -> io::Result<Option<usize>> {
        debug_assert!(self.is_empty(), "the buffered bytes come first");
        self.release();
        self.emptied = false;
        socket::try_receive(stream, &mut into.limit(max))
    }

    /// Gives the buffer back while nothing can be done with its bytes.
    fn park(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // Nothing to copy between requests, which is when connections are many.
            self.parked = buffer[self.start..self.end].to_vec();
            give_back(buffer);
        }
    }

    fn unpark(&mut self) {
        if self.buffer.is_none() {
            let mut buffer = borrow_buffer();
            buffer[..self.parked.len()].copy_from_slice(&self.parked);
            (self.start, self.end) = (0, self.parked.len());
            self.parked = Vec::new();
            self.buffer = Some(buffer);
        }
    }

    /// Forgets all bytes and gives the buffer back.
    pub(super) fn release(&mut self) {
        self.parked = Vec::new();
        (self.start, self.end) = (0, 0);
        if let Some(buffer) = self.buffer.take() {
            give_back(buffer);
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.release();
    }
}
