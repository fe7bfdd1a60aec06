//! One HTTP/1.1 connection of a server: requests in, answers out.
//!
//! The driver owns the framing of both directions: what a request's head and body are, that an
//! answer has exactly the bytes its head promised, and when the connection ends. Malformed input
//! is answered here and never reaches the role. A role does, for each request: read the body if it
//! wants it, answer once (`respond`, or `start` and sends), then `finish`.
//!
//! Order of a connection's life: `next_request` → (`body`)* → `respond` | `start`, `send`* →
//! `finish` → `next_request` … until one of them says that it is over.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use monoio::net::TcpStream;
use reel_proto::http::head::{HeadError, HeadScan, Method, RequestHead};
use reel_proto::http::response::{HeadWriter, write_decimal};

use super::body::BodyReader;
use super::date;
use super::limits::HttpLimits;
use super::pace::Pace;
use super::socket::{self, SendError};
use crate::{Accepted, ring, spare};

/// First read of a head; most heads are smaller, and a longer one grows the buffer.
const HEAD_READ_BYTES: usize = 2 * 1024;

/// Pipelined requests that are answered before other connections get their turn.
const REQUESTS_PER_TURN: u32 = 32;

/// Small pieces of a content gather up to this many bytes before they are sent.
const GATHERED_BYTES: usize = 16 * 1024;

/// A connection of a server; see the module.
#[derive(Debug)]
pub struct ServerConn {
    pub(super) accepted: Accepted,
    pub(super) limits: Arc<HttpLimits>,
    /// Input that has been read and not yet consumed.
    pub(super) input: BytesMut,
    /// The current request's body.
    pub(super) body: BodyReader,
    /// How far `input` has been looked at for the end of a head.
    scan: HeadScan,
    /// The head of an answer, perhaps with small pieces of its content.
    output: Vec<u8>,
    /// Whether the output waits to leave with what follows it.
    is_held: bool,
    served: u32,
    /// Requests since the connection last waited for one.
    unwaited: u32,
    /// Whether another request may follow the current one.
    keep_alive: bool,
    /// Whether the current request wants no content in its answer.
    head_only: bool,
    /// Whether the peer speaks HTTP/1.1: it may be sent 1xx.
    pub(super) modern: bool,
    /// Content bytes that the answer's head promised and that have not been sent.
    owed: u64,
    answered: bool,
    broken: bool,
}

impl ServerConn {
    /// Takes over an accepted connection.
    pub fn new(accepted: Accepted, limits: Arc<HttpLimits>) -> Self {
        Self {
            accepted,
            limits,
            input: BytesMut::new(),
            body: BodyReader::none(),
            scan: HeadScan::default(),
            output: Vec::new(),
            is_held: false,
            served: 0,
            unwaited: 0,
            keep_alive: true,
            head_only: false,
            modern: true,
            owed: 0,
            answered: true,
            broken: false,
        }
    }

    /// The peer's address.
    pub fn peer(&self) -> SocketAddr {
        self.accepted.peer()
    }

    /// The address that its listener is bound to.
    pub fn local(&self) -> SocketAddr {
        self.accepted.local()
    }

    /// Index of the listener that accepted it.
    pub fn listener(&self) -> usize {
        self.accepted.listener()
    }

    /// The socket, for content that moves without this driver (splice). Tell
    /// [`Self::content_sent`] what went out.
    pub fn stream(&self) -> &TcpStream {
        self.accepted.stream()
    }

    /// Waits for the next request. `None`: the connection is over; drop it. What cannot be
    /// understood has been answered (400, 408, 414, 431, 501, 505).
    pub async fn next_request(&mut self) -> Option<RequestHead> {
        if !self.keep_alive || self.broken {
            return None;
        }
        self.unwaited += 1;
        if self.unwaited >= REQUESTS_PER_TURN {
            // A peer that pipelines faster than we answer must not have the thread for itself.
            self.unwaited = 0;
            crate::yield_turn().await;
        }
        if self.input.is_empty() && !self.wait_for_request().await {
            return None;
        }
        self.accepted.slot().await_input(self.limits.head);
        loop {
            match self.parse_head() {
                Ok(Some(head)) => {
                    ring::request_begins();
                    self.accepted.slot().work();
                    self.begin(&head);
                    return Some(head);
                }
                Ok(None) => {}
                Err(error) => {
                    Box::pin(self.refuse(error.status, error.reason.to_string())).await;
                    return None;
                }
            }
            match self.fill(HEAD_READ_BYTES).await {
                Ok(count) if count > 0 => {}
                // Nothing of a request came: an idle connection ends without a word.
                Ok(_) if self.input.is_empty() => return None,
                Ok(_) if self.accepted.slot().expired() => {
                    let reason = "the request head did not come in time".to_owned();
                    Box::pin(self.refuse(408, reason)).await;
                    return None;
                }
                // The peer is gone, perhaps in the middle of a head: nobody to answer.
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// Waits, holding no buffer, until the next request begins to arrive.
    async fn wait_for_request(&mut self) -> bool {
        spare::give_input(std::mem::take(&mut self.input));
        spare::give_output(std::mem::take(&mut self.output));
        self.unwaited = 0;
        self.accepted.slot().await_request(self.limits.idle);
        if self.accepted.stream().readable(false).await.is_err() {
            return false;
        }
        self.input = spare::take_input();
        true
    }

    fn parse_head(&mut self) -> Result<Option<RequestHead>, HeadError> {
        let limits = &self.limits.request_head;
        let Some((head, used)) =
            RequestHead::parse_in(spare::take_head, &self.input, &mut self.scan, limits)?
        else {
            return Ok(None);
        };
        self.scan = HeadScan::default();
        self.input.advance(used);
        Ok(Some(head))
    }

    fn begin(&mut self, head: &RequestHead) {
        self.served += 1;
        self.keep_alive = head.keep_alive
            && self.served < self.limits.requests_max
            && !self.accepted.slot().draining();
        self.head_only = head.method == Method::Head;
        self.modern = head.is_http11();
        self.body = BodyReader::new(head, &self.limits);
        self.owed = 0;
        self.answered = false;
    }

    /// Reads what is there into the input buffer, waiting for at least one byte.
    pub(super) async fn fill(&mut self, room: usize) -> std::io::Result<usize> {
        self.input.reserve(room);
        loop {
            if let Some(count) = socket::try_receive(self.accepted.stream(), &mut self.input)? {
                return Ok(count);
            }
            self.accepted.stream().readable(false).await?;
        }
    }

    /// Whether the answer's head will announce the end of the connection.
    pub fn closes(&self) -> bool {
        !self.keep_alive
    }

    /// Makes this request the connection's last; before its answer, so that the head says so.
    pub fn close_after(&mut self) {
        self.keep_alive = false;
    }

    /// Answers with a small content: head and content leave in one call. `fields` appends whole
    /// field lines (`Name: value\r\n`); Date, Connection and Content-Length are written here.
    ///
    /// # Errors
    /// The peer is gone or does not read; the connection is over.
    pub async fn respond(
        &mut self,
        status: u16,
        fields: impl FnOnce(&mut Vec<u8>),
        content: &[u8],
    ) -> Result<(), SendError> {
        let bodiless = status == 204 || status == 304;
        self.write_head(status, (!bodiless).then_some(content.len() as u64), true, fields);
        if !self.head_only && !bodiless {
            self.output.extend_from_slice(content);
        }
        self.owed = 0;
        self.flush(false).await
    }

    /// Begins an answer whose content of exactly `length` bytes follows by sends; `None` where
    /// the status has no content (204, 304). The head leaves with the first of the content.
    ///
    /// # Errors
    /// The peer is gone or does not read; the connection is over.
    pub async fn start(
        &mut self,
        status: u16,
        length: Option<u64>,
        fields: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SendError> {
        self.write_head(status, length, true, fields);
        self.owed = if self.head_only { 0 } else { length.unwrap_or(0) };
        self.is_held = self.owed > 0;
        if self.is_held { Ok(()) } else { self.flush(false).await }
    }

    /// [`Self::start`] of an answer that another server made: its Date is among the fields, and the
    /// head leaves now, since the content may go by [`Self::stream`].
    ///
    /// # Errors
    /// The peer is gone or does not read; the connection is over.
    pub async fn start_forwarded(
        &mut self,
        status: u16,
        length: Option<u64>,
        fields: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SendError> {
        self.write_head(status, length, false, fields);
        self.owed = if self.head_only { 0 } else { length.unwrap_or(0) };
        self.flush(self.owed > 0).await
    }

    fn write_head(
        &mut self,
        status: u16,
        length: Option<u64>,
        with_date: bool,
        fields: impl FnOnce(&mut Vec<u8>),
    ) {
        debug_assert!(!self.answered, "one answer a request");
        self.answered = true;
        if !self.body.may_keep_alive(&self.limits) || self.accepted.slot().draining() {
            self.keep_alive = false;
        }
        if self.output.capacity() == 0 {
            self.output = spare::take_output();
        }
        self.output.clear();
        HeadWriter::new(&mut self.output, status);
        if with_date {
            date::append(&mut self.output);
        }
        if let Some(length) = length {
            self.output.extend_from_slice(b"Content-Length: ");
            write_decimal(&mut self.output, length);
            self.output.extend_from_slice(b"\r\n");
        }
        if !self.keep_alive {
            self.output.extend_from_slice(b"Connection: close\r\n");
        } else if !self.modern {
            self.output.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        fields(&mut self.output);
        self.output.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self, more: bool) -> Result<(), SendError> {
        self.is_held = false;
        let stream = self.accepted.stream();
        let answer = socket::send_all(stream, &self.output, more, self.limits.answer).await;
        self.note(answer)
    }

    /// Sends a piece of the content. More than what the head promised is a fault of ours and
    /// panics in tests; the surplus is not sent.
    ///
    /// # Errors
    /// The peer is gone or does not read; the connection is over.
    pub async fn send(&mut self, content: &[u8]) -> Result<(), SendError> {
        let length = self.admit(content.len() as u64);
        let content = &content[..usize::try_from(length).unwrap_or(content.len())];
        let more = self.owed > length;
        let head = if std::mem::take(&mut self.is_held) { &self.output[..] } else { &[] };
        let (stream, pace) = (self.accepted.stream(), self.limits.answer);
        let answer = socket::send_behind(stream, head, content, more, pace).await;
        self.owed -= length;
        self.note(answer)
    }

    /// Puts a small piece of the content behind what is held back, to leave with it: at the next
    /// send, or by [`Self::send_gathered`].
    pub fn gather(&mut self, content: &[u8]) {
        let length = self.admit(content.len() as u64);
        if length == 0 {
            return;
        }
        self.owed -= length;
        if !std::mem::replace(&mut self.is_held, true) {
            self.output.clear();
        }
        self.output.extend_from_slice(&content[..usize::try_from(length).unwrap_or(content.len())]);
    }

    /// Sends what is held back, if the content is complete or much has gathered.
    ///
    /// # Errors
    /// The peer is gone or does not read; the connection is over.
    pub async fn send_gathered(&mut self) -> Result<(), SendError> {
        if self.owed > 0 && self.output.len() < GATHERED_BYTES || !self.is_held {
            return Ok(());
        }
        self.is_held = false;
        let output = std::mem::take(&mut self.output);
        let (answer, output) =
            socket::send_owned(&mut self.accepted, output, self.limits.answer).await;
        self.output = output;
        self.note(answer)
    }

    /// Sends a range of a file as content, by sendfile(2).
    ///
    /// # Errors
    /// The peer's fault, or the file's ([`SendError::is_local`]); the connection is over.
    pub async fn send_file(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
    ) -> Result<(), SendError> {
        let length = self.admit(length);
        if self.is_held && length > 0 {
            self.flush(true).await?;
        }
        let stream = self.accepted.stream();
        let answer = socket::send_file(stream, file, offset, length, self.limits.answer).await;
        self.owed -= length;
        self.note(answer.map(|_| ()))
    }

    fn admit(&self, length: u64) -> u64 {
        debug_assert!(length <= self.owed || self.head_only, "more content than promised");
        length.min(self.owed)
    }

    /// Least progress of the peer while it takes an answer.
    pub fn answer_pace(&self) -> Pace {
        self.limits.answer
    }

    /// Counts content that went out through [`Self::stream`].
    pub fn content_sent(&mut self, length: u64) {
        debug_assert!(length <= self.owed);
        self.owed -= length.min(self.owed);
    }

    /// Ends the connection at this request whatever happens: its answer cannot be completed.
    pub fn abort(&mut self) {
        self.broken = true;
    }

    fn note(&mut self, answer: Result<(), SendError>) -> Result<(), SendError> {
        self.broken |= answer.is_err();
        answer
    }

    /// Takes back a request that was answered: its memory serves the next one.
    pub fn recycle(&self, head: RequestHead) {
        spare::give_head(head.into_memory());
    }

    /// Ends the request: reads a rest of its body that is small, and says whether the connection
    /// goes on. `false`: it has been ended so that the peer reads the answer; drop it.
    pub async fn finish(&mut self) -> bool {
        if self.broken || !self.answered || self.owed > 0 {
            // The peer must not take what it has for the whole.
            self.broken = true;
            return false;
        }
        if self.keep_alive && (self.body.is_done() || Box::pin(self.discard_body()).await) {
            return true;
        }
        self.keep_alive = false;
        Box::pin(self.linger()).await;
        false
    }

    /// Reads what is left of the body, within the limit. `false`: there is more.
    async fn discard_body(&mut self) -> bool {
        let mut left = self.limits.unread_bytes_max;
        while !self.body.is_done() {
            match self.body().await {
                Ok(Some(piece)) if piece.len() as u64 <= left => left -= piece.len() as u64,
                Ok(None) => break,
                Ok(Some(_)) | Err(_) => return false,
            }
        }
        true
    }

    async fn linger(&mut self) {
        // A plain close does not reset a peer that has nothing under way to us: its body is
        // complete, and it pipelined nothing.
        if self.body.is_done() && self.input.is_empty() {
            self.input.reserve(1);
            let arrived = socket::try_receive(self.accepted.stream(), &mut self.input);
            if !matches!(arrived, Ok(Some(1..))) {
                return;
            }
        }
        let limits = &self.limits;
        socket::linger(self.accepted.stream(), limits.linger_bytes_max, limits.linger).await;
    }

    /// Answers what is no request and ends the connection. Boxed by its callers, as all that is
    /// rare, so that the task of a connection that waits stays small.
    async fn refuse(&mut self, status: u16, reason: String) {
        self.accepted.slot().work();
        self.keep_alive = false;
        self.answered = false;
        let text = format!("{reason}\n");
        let fields = |out: &mut Vec<u8>| out.extend_from_slice(PLAIN_TEXT);
        if self.respond(status, fields, text.as_bytes()).await.is_ok() {
            let limits = &self.limits;
            socket::linger(self.accepted.stream(), limits.linger_bytes_max, limits.linger).await;
        }
    }
}

/// Field lines of an error's text.
pub const PLAIN_TEXT: &[u8] = b"Content-Type: text/plain; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n";
