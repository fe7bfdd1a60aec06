//! One request to a storage node and its answer, over a connection of the pool.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use monoio::net::TcpStream;
use reel_proto::http::head::{AnswerBody, HeadLimits, ResponseHead};

use super::pace::{Meter, Pace};
use super::server::ServerConn;
use super::socket;
use super::splice::{self, Paces, TransferError};
use super::upstream::{UpstreamError, UpstreamPool};
use crate::spare;

/// First read of an answer: its head, and with it all of a small content.
const ANSWER_READ_BYTES: usize = 8 * 1024;

/// Answers of 1xx that are passed over before the final one; more is no sane server.
const INTERIM_MAX: u32 = 8;

/// A connection to a node, for one request at a time. Dropping it closes it;
/// [`release`](Self::release) keeps it for the next request.
pub struct UpstreamConn {
    pool: Rc<UpstreamPool>,
    node: SocketAddr,
    /// `None` once it is back in the pool.
    stream: Option<TcpStream>,
    reused: bool,
    input: BytesMut,
    interim: u32,
    /// Content bytes of the answer that have not been read.
    left: u64,
    keep_alive: bool,
    /// The node still waits for a part of the request's body.
    owes: bool,
}

impl std::fmt::Debug for UpstreamConn {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("UpstreamConn")
            .field("node", &self.node)
            .field("reused", &self.reused)
            .finish_non_exhaustive()
    }
}

impl UpstreamConn {
    pub(super) fn new(
        pool: Rc<UpstreamPool>,
        node: SocketAddr,
        stream: TcpStream,
        reused: bool,
    ) -> Self {
        Self {
            pool,
            node,
            stream: Some(stream),
            reused,
            input: spare::take_input(),
            interim: 0,
            left: 0,
            keep_alive: false,
            owes: false,
        }
    }

    /// The node at the other end.
    pub fn node(&self) -> SocketAddr {
        self.node
    }

    /// Whether it has served before: then the node may have closed it, which says nothing about
    /// the node.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// The socket.
    ///
    /// # Errors
    /// [`UpstreamError::Closed`] after it was given back.
    fn stream(&self) -> Result<&TcpStream, UpstreamError> {
        self.stream.as_ref().ok_or(UpstreamError::Closed)
    }

    /// Sends part of the request. `more`: the rest follows at once.
    ///
    /// # Errors
    /// [`UpstreamError::Send`]: the node is gone or does not read; it may have answered before.
    pub async fn send(&self, bytes: &[u8], more: bool, pace: Pace) -> Result<(), UpstreamError> {
        Ok(socket::send_all(self.stream()?, bytes, more, pace).await?)
    }

    /// Moves up to `length_max` bytes of the client's body to the node without user space; see
    /// [`ServerConn::pass_body`].
    ///
    /// # Errors
    /// See [`TransferError`]; both connections are broken then.
    pub async fn take_body(
        &self,
        client: &mut ServerConn,
        length_max: u64,
        pace: Pace,
    ) -> Result<u64, TransferError> {
        let Some(stream) = self.stream.as_ref() else { return Ok(0) };
        client.pass_body(stream, length_max, pace).await
    }

    /// Whether the node has said something (or hung up) while the request's body was still
    /// going out: it will not take the rest.
    pub fn has_input(&mut self) -> bool {
        if !self.input.is_empty() {
            return true;
        }
        self.input.reserve(ANSWER_READ_BYTES);
        let Ok(stream) = self.stream.as_ref().ok_or(()) else { return true };
        !matches!(socket::try_receive(stream, &mut self.input), Ok(None))
    }

    /// Whether bytes of an answer have come, as far as they can be had without waiting.
    pub fn has_answer_bytes(&mut self) -> bool {
        self.has_input() && !self.input.is_empty()
    }

    /// Reads the head of the answer, an interim one (100) included.
    ///
    /// # Errors
    /// No usable answer, or none within `deadline` (the whole head, not each byte).
    pub async fn answer(
        &mut self,
        limits: &HeadLimits,
        deadline: Duration,
    ) -> Result<ResponseHead, UpstreamError> {
        monoio::time::timeout(deadline, self.read_head(limits))
            .await
            .map_err(|_| UpstreamError::Timeout)?
    }

    async fn read_head(&mut self, limits: &HeadLimits) -> Result<ResponseHead, UpstreamError> {
        let mut meter = Meter::new(Pace::any_within(Duration::MAX));
        loop {
            if let Some((head, used)) = ResponseHead::parse(&self.input, limits)
                .map_err(|error| UpstreamError::Malformed(error.to_string()))?
            {
                self.input.advance(used);
                if (100..200).contains(&head.status) {
                    self.interim += 1;
                    if self.interim > INTERIM_MAX {
                        return Err(UpstreamError::Malformed("too many interim answers".into()));
                    }
                } else {
                    self.keep_alive = head.keep_alive;
                }
                return Ok(head);
            }
            self.input.reserve(ANSWER_READ_BYTES);
            let stream = self.stream.as_ref().ok_or(UpstreamError::Closed)?;
            match socket::receive(stream, &mut self.input, &mut meter).await {
                Ok(0) => return Err(UpstreamError::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    return Err(UpstreamError::Timeout);
                }
                Err(error) => return Err(UpstreamError::Broken(error)),
            }
        }
    }

    /// The length of the content after `head`, for a request that was a HEAD or not. Call it once
    /// for the final head; [`Self::pass_on`] moves that much.
    ///
    /// # Errors
    /// [`UpstreamError::Malformed`]: no length. A storage node always tells it, and an end that
    /// is told by closing could not be told from a node that died.
    pub fn content_length(
        &mut self,
        head: &ResponseHead,
        was_head: bool,
    ) -> Result<u64, UpstreamError> {
        self.left = match head.body(was_head) {
            AnswerBody::Empty => 0,
            AnswerBody::Length(length) => length,
            AnswerBody::Chunked | AnswerBody::UntilClose => {
                return Err(UpstreamError::Malformed("an answer without a length".into()));
            }
        };
        Ok(self.left)
    }

    /// Content bytes of the answer that have not been passed on.
    pub const fn missing(&self) -> u64 {
        self.left
    }

    /// Moves the content of the answer to the client: what came with the head from memory, the
    /// rest through the kernel. The client's head must have gone out ([`ServerConn::start`]).
    ///
    /// # Errors
    /// See [`TransferError`]. Where the source failed, the client has all but the
    /// [`Self::missing`] bytes at the end: give it those, or abort its connection.
    pub async fn pass_on(
        &mut self,
        client: &mut ServerConn,
        source: Pace,
    ) -> Result<(), TransferError> {
        let ready = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.input.len());
        if ready > 0 {
            client.send(&self.input[..ready]).await.map_err(TransferError::Destination)?;
            self.input.advance(ready);
            self.left -= ready as u64;
        }
        if self.left == 0 {
            return Ok(());
        }
        let Some(stream) = self.stream.as_ref() else {
            return Err(TransferError::Ended { missing: self.left });
        };
        let paces = Paces { source, destination: client.answer_pace() };
        let mut sent = 0;
        let answer = splice::transfer(stream, client.stream(), self.left, paces, &mut sent).await;
        client.content_sent(sent);
        self.left -= sent;
        answer
    }

    /// Says that the request's body will not be sent to its end. The node takes whatever comes next for the rest of
    /// it, so the connection serves no further request.
    pub fn owe(&mut self) {
        self.owes = true;
    }

    /// Gives the connection back if the node keeps it and both request and answer came to their end.
    pub fn release(mut self) {
        let whole = self.left == 0 && self.input.is_empty() && !self.owes;
        if self.keep_alive
            && whole
            && let Some(stream) = self.stream.take()
        {
            self.pool.give_back(self.node, stream);
        }
    }
}

impl Drop for UpstreamConn {
    fn drop(&mut self) {
        spare::give_input(std::mem::take(&mut self.input));
        if self.stream.is_some() {
            self.pool.closed();
        }
    }
}
