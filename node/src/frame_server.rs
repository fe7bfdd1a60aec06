//! The server side of the binary protocol on a data thread: headers, bodies, replies, errors.
//!
//! Replies to pipelined requests leave together: they gather until no further request is
//! buffered, or until there is enough for a full send. A handler that waits for something else
//! than the socket calls [`FrameConn::flush`] first, or earlier replies wait with it.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use monoio::io::AsyncWriteRentExt;
use reel_proto::frame::{HEADER_LEN, Header};
use reel_proto::limits;
use reel_proto::refusal::{self, Refusal};

use crate::connection::{Accepted, Slot};
use crate::http::Pace;
use crate::http::socket::{self, SendError};
use crate::thread::yield_turn;
use crate::{ring, spare};

mod input;

use input::Input;
pub use input::SMALL_BODY_BYTES_MAX;

/// Replies gather up to this many bytes before they are sent.
const OUTPUT_BYTES: usize = 16 * 1024;

/// What a request takes of a connection's turn, in bytes: 128 small requests or half a MiB of
/// content are served from a peer that never makes us wait before others have their turn.
const REQUEST_TURN_BYTES: usize = socket::TURN_BYTES / 128;

/// How a role speaks, shared by the connections of a thread.
#[derive(Clone, Debug)]
pub struct FrameConfig {
    /// The command of the role's replies: 100, 101 or 102.
    pub reply_command: u8,
    /// What stands in brackets before an error's text.
    pub host: Arc<str>,
    /// Time for the next request to begin; then the connection is closed without a word.
    pub idle_timeout: Duration,
    /// Time for the rest of a header, and for all of a small body.
    pub request_timeout: Duration,
    /// Window for [`FrameConfig::progress_bytes`] of a streamed body; only waiting counts.
    pub progress_timeout: Duration,
    /// Bytes of a streamed body that must come in each window of waiting.
    pub progress_bytes: u64,
    /// Time for the peer to take some output when the socket's buffer is full.
    pub output_timeout: Duration,
}

impl FrameConfig {
    /// The usual times: 5 minutes idle (deployed storage nodes beat every few seconds on a
    /// connection they keep), 10 s for a request, 64 KiB every 30 s in and any progress in 30 s
    /// out.
    pub fn new(reply_command: u8, host: &str) -> Self {
        Self {
            reply_command,
            host: host.into(),
            idle_timeout: Duration::from_secs(300),
            request_timeout: Duration::from_secs(10),
            progress_timeout: Duration::from_secs(30),
            progress_bytes: 64 * 1024,
            output_timeout: Duration::from_secs(30),
        }
    }
}

/// The connection can no longer be used: the peer has gone, a deadline passed, or an error reply
/// that ends the connection has been given. There is nothing left to do but return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection has ended")]
pub struct Ended;

/// A body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Its length does not fit the command. Nothing was read: [`FrameConn::refuse`] it.
    #[error("a body of {length} bytes where at most {limit} fit the command")]
    TooLong {
        /// Length that the header announced, or what is left of it.
        length: u64,
        /// The limit given.
        limit: usize,
    },
    /// The peer went, or was too slow. A reply can no longer reach it or is not worth it.
    #[error("the body ended after {received} bytes of it")]
    Incomplete {
        /// Bytes that had come.
        received: u64,
        /// Whether a deadline ended it.
        too_slow: bool,
    },
}

/// A connection of the binary protocol. One request at a time: header, then its body, then a
/// reply. Dropping it closes the connection without flushing.
#[derive(Debug)]
pub struct FrameConn {
    input: Input,
    output: Vec<u8>,
    config: Rc<FrameConfig>,
    /// Bytes of the present body that have not been read.
    body_left: u64,
    body_length: u64,
    /// Ticks of waiting left of the present progress window, and what came in it.
    window_left: Duration,
    window_bytes: u64,
    /// Bytes (and requests) that were moved since the connection last waited.
    turn_bytes: usize,
    conn: Accepted,
}

impl FrameConn {
    /// Takes over an accepted connection.
    pub fn new(conn: Accepted, config: Rc<FrameConfig>) -> Self {
        Self {
            input: Input::default(),
            output: Vec::new(),
            window_left: config.progress_timeout,
            config,
            body_left: 0,
            body_length: 0,
            window_bytes: 0,
            turn_bytes: 0,
            conn,
        }
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddr {
        self.conn.peer()
    }

    /// The connection below, for sends of its own (sendfile). Flush before, and announce the
    /// length with [`FrameConn::begin_reply`].
    pub fn accepted(&self) -> &Accepted {
        &self.conn
    }

    /// Deadlines and drain of the connection.
    pub fn slot(&self) -> &Slot {
        self.conn.slot()
    }

    /// How the role speaks.
    pub fn config(&self) -> &FrameConfig {
        &self.config
    }

    /// Bytes of the present request's body that have not been read.
    pub fn body_left(&self) -> u64 {
        self.body_left
    }

    /// The next request's header; `None` when there is none: the peer has closed, was idle for
    /// too long, sent something that is no header (which is answered), or the thread drains.
    ///
    /// The body of the request before must have been read to its end, or refused. Sends the
    /// replies that have gathered before it waits.
    pub async fn read_header(&mut self) -> Option<Header> {
        debug_assert_eq!(self.body_left, 0, "the last body was neither read nor refused");
        if self.body_left > 0 {
            return None;
        }
        self.moved(REQUEST_TURN_BYTES).await;
        let mut begun = false;
        while self.input.len() < HEADER_LEN {
            self.flush().await.ok()?;
            if self.input.is_empty() {
                self.slot().await_request(self.config.idle_timeout);
            } else if !begun {
                begun = true;
                self.slot().await_input(self.config.request_timeout);
            }
            self.turn_bytes = 0;
            if self.input.fill(self.conn.stream()).await.ok()? == 0 {
                return None;
            }
        }
        ring::request_begins();
        self.slot().work();
        match Header::decode(self.input.take_header()) {
            Ok(header) => {
                self.body_left = header.length;
                self.body_length = header.length;
                self.window_left = self.config.progress_timeout;
                self.window_bytes = 0;
                Some(header)
            }
            Err(error) => {
                let _ = Box::pin(self.refuse(&error.to_string())).await;
                None
            }
        }
    }

    /// The whole rest of the body, at most `limit` bytes of it (and never more than
    /// [`SMALL_BODY_BYTES_MAX`]); the slice is valid until the next read.
    ///
    /// # Errors
    /// [`BodyError::TooLong`] before anything is read; [`BodyError::Incomplete`].
    pub async fn read_body(&mut self, limit: usize) -> Result<&[u8], BodyError> {
        let limit = limit.min(SMALL_BODY_BYTES_MAX);
        let too_long = BodyError::TooLong { length: self.body_left, limit };
        let length = usize::try_from(self.body_left).map_err(|_| too_long)?;
        if length > limit {
            return Err(too_long);
        }
        self.buffer(length).await?;
        self.body_left = 0;
        Ok(self.input.take(length))
    }

    /// The next `length` bytes of the body: the head of a request whose content is streamed.
    ///
    /// # Errors
    /// [`BodyError::TooLong`] when the body has fewer bytes or `length` is beyond
    /// [`SMALL_BODY_BYTES_MAX`], before anything is read; [`BodyError::Incomplete`].
    pub async fn read_head(&mut self, length: usize) -> Result<&[u8], BodyError> {
        if length as u64 > self.body_left || length > SMALL_BODY_BYTES_MAX {
            return Err(BodyError::TooLong { length: self.body_left, limit: length });
        }
        self.buffer(length).await?;
        self.body_left -= length as u64;
        Ok(self.input.take(length))
    }

    /// Gets `length` bytes into the input buffer, within the time for a request.
    async fn buffer(&mut self, length: usize) -> Result<(), BodyError> {
        if self.input.len() >= length {
            return Ok(());
        }
        // The peer may wait for an earlier reply before it sends the rest.
        self.flush().await.map_err(|Ended| self.incomplete())?;
        self.slot().await_input(self.config.request_timeout);
        while self.input.len() < length {
            match self.input.fill(self.conn.stream()).await {
                Ok(0) | Err(_) => return Err(self.incomplete()),
                Ok(_) => {}
            }
        }
        self.slot().work();
        Ok(())
    }

    /// A piece of the body of 1 to `max` bytes, whatever has come; `None` at the body's end.
    ///
    /// # Errors
    /// [`BodyError::Incomplete`].
    pub async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, BodyError> {
        let wanted = usize::try_from(self.body_left).unwrap_or(usize::MAX).min(max);
        let mut chunk = BytesMut::new();
        if !self.read_into(&mut chunk, wanted).await? {
            return Ok(None);
        }
        Ok(Some(chunk.freeze()))
    }

    /// Appends what has come of the body to `chunk`, at least one byte and at most `max`, without
    /// waiting for more than the first; `false` at the body's end (or when `max` is 0).
    ///
    /// # Errors
    /// [`BodyError::Incomplete`]: the peer went, or gave less than the configured pace.
    pub async fn read_into(&mut self, chunk: &mut BytesMut, max: usize) -> Result<bool, BodyError> {
        let wanted = usize::try_from(self.body_left).unwrap_or(usize::MAX).min(max);
        if wanted == 0 {
            return Ok(false);
        }
        let buffered = self.input.len().min(wanted);
        if buffered > 0 {
            chunk.extend_from_slice(self.input.take(buffered));
        } else {
            self.flush().await.map_err(|Ended| self.incomplete())?;
        }
        let mut got = buffered;
        while got < wanted {
            chunk.reserve(wanted - got);
            match self.input.receive_past(self.conn.stream(), chunk, wanted - got) {
                Ok(Some(0)) | Err(_) => return Err(self.incomplete()),
                Ok(Some(count)) => got += count,
                Ok(None) if got > 0 => break,
                Ok(None) => self.wait_in_window().await?,
            }
        }
        self.body_left -= got as u64;
        self.window_bytes += got as u64;
        if self.window_bytes >= self.config.progress_bytes {
            self.window_bytes = 0;
            self.window_left = self.config.progress_timeout;
        }
        self.slot().work();
        self.moved(got).await;
        Ok(true)
    }

    /// Waits for input, on the account of the present progress window.
    async fn wait_in_window(&mut self) -> Result<(), BodyError> {
        let slot = self.conn.slot();
        self.turn_bytes = 0;
        slot.await_input(self.window_left);
        let before = slot.now();
        let answer = self.conn.stream().readable(false).await;
        let waited = slot.now().saturating_sub(before);
        self.window_left = self.window_left.saturating_sub(waited);
        answer.map_err(|_| self.incomplete())
    }

    fn incomplete(&self) -> BodyError {
        BodyError::Incomplete {
            received: self.body_length - self.body_left,
            too_slow: self.slot().expired(),
        }
    }

    /// A success reply with this body. Gathers with others; see the module.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn reply(&mut self, body: &[u8]) -> Result<(), Ended> {
        self.reply_with(|output| output.extend_from_slice(body)).await
    }

    /// As [`FrameConn::reply`], with a body that `encode` appends to what is given to it.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn reply_with(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), Ended> {
        let at = self.output().len();
        self.output.extend_from_slice(&[0; HEADER_LEN]);
        encode(&mut self.output);
        let length = (self.output.len() - at - HEADER_LEN) as u64;
        let header = Header { length, command: self.config.reply_command, status: 0 };
        self.output[at..at + HEADER_LEN].copy_from_slice(&header.encode());
        self.send_gathered().await
    }

    /// The header of a success reply whose `length` bytes follow by [`FrameConn::write`],
    /// [`FrameConn::send_content`] or [`FrameConn::send_file`].
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn begin_reply(&mut self, length: u64) -> Result<(), Ended> {
        let header = Header { length, command: self.config.reply_command, status: 0 };
        self.write(&header.encode()).await
    }

    /// Bytes as they are; gathers as replies do.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        if self.output.len() + bytes.len() > 2 * OUTPUT_BYTES {
            self.flush().await?;
            let limit = self.config.output_timeout;
            self.moved(bytes.len()).await;
            return self.conn.send_all(bytes, false, limit).await.map_err(|_| Ended);
        }
        self.gather(bytes);
        self.send_gathered().await
    }

    /// A few bytes as they are, to leave with what follows.
    pub fn gather(&mut self, bytes: &[u8]) {
        self.output().extend_from_slice(bytes);
    }

    /// Counts towards the connection's turn, and ends it.
    async fn moved(&mut self, bytes: usize) {
        self.turn_bytes += bytes;
        if self.turn_bytes >= socket::TURN_BYTES {
            self.turn_bytes = 0;
            yield_turn().await;
        }
    }

    /// Sends what has gathered if that is much: the rest leaves before the next request is waited for.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn send_gathered(&mut self) -> Result<(), Ended> {
        if self.output.len() >= OUTPUT_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Sends content of a reply with what has gathered in front of it; `more` of it follows at once.
    ///
    /// # Errors
    /// The peer is gone or does not read; the connection has ended.
    pub async fn send_content(
        &mut self,
        bytes: &[u8],
        more: bool,
        pace: Pace,
    ) -> Result<(), SendError> {
        let stream = self.conn.stream();
        let sent = socket::send_behind(stream, &self.output, bytes, more, pace).await;
        self.release_output();
        sent
    }

    /// Sends a range of a file as content of a reply, by sendfile(2), behind what has gathered.
    ///
    /// # Errors
    /// As [`FrameConn::send_content`], or the file's fault ([`SendError::is_local`]).
    pub async fn send_file(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
        pace: Pace,
    ) -> Result<(), SendError> {
        if !self.output.is_empty() {
            self.send_content(&[], true, pace).await?;
        }
        socket::send_file(self.conn.stream(), file, offset, length, pace).await.map(drop)
    }

    /// The output buffer, with room.
    fn output(&mut self) -> &mut Vec<u8> {
        if self.output.capacity() == 0 {
            self.output = spare::take_output();
        }
        &mut self.output
    }

    fn release_output(&mut self) {
        spare::give_output(std::mem::take(&mut self.output));
    }

    /// Sends what has gathered.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn flush(&mut self) -> Result<(), Ended> {
        if self.output.is_empty() {
            return Ok(());
        }
        // On the ring: the replies of all connections that are ready leave with one system
        // call. For 64 peers that is a sixth less CPU a request, for a lone one 5 % more
        // (docs/decisions/0001-threads-and-rings.md).
        self.slot().await_output(self.config.output_timeout);
        let output = std::mem::take(&mut self.output);
        let (sent, output) = self.conn.stream_mut().write_all(output).await;
        self.output = output;
        self.slot().work();
        self.release_output();
        sent.map(drop).map_err(|_| Ended)
    }

    /// An error reply to a request whose bytes are in order. The connection goes on, unless part
    /// of the body has not been read: then as [`FrameConn::refuse`].
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn reply_error(&mut self, text: &str) -> Result<(), Ended> {
        self.reply_refusal(Refusal::Other, text).await
    }

    /// As [`FrameConn::reply_error`], with the number of `refusal`: for our own commands. The
    /// deployed system's commands are always answered with [`Refusal::Other`].
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn reply_refusal(&mut self, refusal: Refusal, text: &str) -> Result<(), Ended> {
        if self.body_left > 0 {
            return Err(self.refuse_with(refusal, text).await);
        }
        self.push_error(refusal, text);
        self.send_gathered().await
    }

    /// An error reply that ends the connection: to what is no frame, to a length that does not
    /// fit the command, to an unknown command, to a body that will not be read.
    ///
    /// Sends the reply, then reads and discards up to 1 MiB or 2 s, so that the peer reads it
    /// instead of a reset. Returns [`Ended`], to be returned on.
    pub async fn refuse(&mut self, text: &str) -> Ended {
        self.refuse_with(Refusal::Other, text).await
    }

    /// As [`FrameConn::refuse`], with the number of `refusal`.
    pub async fn refuse_with(&mut self, refusal: Refusal, text: &str) -> Ended {
        self.push_error(refusal, text);
        if self.flush().await.is_ok() {
            self.input.release();
            let time = Duration::from_secs(limits::DISCARD_SECONDS_MAX);
            socket::linger(self.conn.stream(), limits::DISCARD_BYTES_MAX, time).await;
        }
        self.body_left = 0;
        Ended
    }

    fn push_error(&mut self, refusal: Refusal, text: &str) {
        let FrameConfig { reply_command, host, .. } = &*self.config;
        let reply = refusal::error_reply(refusal, *reply_command, host, text);
        self.output().extend_from_slice(&reply);
    }

    /// Sends what has gathered and ends the connection.
    pub async fn close(mut self) {
        let _ = self.flush().await;
    }
}

/// Whether an error of the socket is the peer's going, which is no news.
pub fn peer_went(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionAborted
            | ErrorKind::TimedOut
    )
}
