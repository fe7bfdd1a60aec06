//! The body of a request, read in bounded pieces.

use std::io::ErrorKind;

use bytes::{Buf, Bytes, BytesMut};
use monoio::net::TcpStream;
use reel_proto::http::chunked::{ChunkError, Decoder, Step};
use reel_proto::http::head::{Framing, RequestHead};

use super::limits::HttpLimits;
use super::pace::{Meter, Pace};
use super::server::ServerConn;
use super::socket;
use super::splice::{self, Paces, TransferError};

/// Why a body could not be read. Nothing of it may be kept: what came is not the whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The chunked coding is broken; the peer's fault.
    #[error("malformed chunked body: {0}")]
    Malformed(#[from] ChunkError),
    /// The peer sends too little for too long.
    #[error("the request body does not come")]
    TooSlow,
    /// The peer has gone before the end of the body.
    #[error("the peer went away in the middle of the body")]
    Gone,
}

impl BodyError {
    /// The status to answer with; `None` when there is nobody left to read it.
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Malformed(_) => Some(400),
            Self::TooSlow => Some(408),
            Self::Gone => None,
        }
    }
}

#[derive(Debug)]
enum Coding {
    /// So many bytes are left.
    Length(u64),
    Chunked(Box<Decoder>),
    Done,
    /// Broken: no byte after it has a meaning.
    Failed,
}

/// Where the current request's body stands.
#[derive(Debug)]
pub(super) struct BodyReader {
    coding: Coding,
    /// The peer waits for a 100 before it sends.
    continue_owed: bool,
    meter: Meter,
    /// Bytes since the last wait.
    unwaited: u64,
}

impl BodyReader {
    pub(super) fn none() -> Self {
        let pace = Pace::any_within(std::time::Duration::ZERO);
        Self { coding: Coding::Done, continue_owed: false, meter: Meter::new(pace), unwaited: 0 }
    }

    pub(super) fn new(head: &RequestHead, limits: &HttpLimits) -> Self {
        let coding = match head.framing {
            Framing::None | Framing::Length(0) => Coding::Done,
            Framing::Length(length) => Coding::Length(length),
            Framing::Chunked => Coding::Chunked(Box::default()),
        };
        let continue_owed = head.expect_continue && !matches!(coding, Coding::Done);
        Self { coding, continue_owed, meter: Meter::new(limits.body), unwaited: 0 }
    }

    pub(super) const fn is_done(&self) -> bool {
        matches!(self.coding, Coding::Done)
    }

    /// Whether the connection can go on after an answer that is written now. A peer that waits
    /// for a 100 may or may not send its body after another answer: nobody can tell.
    pub(super) const fn may_keep_alive(&self, limits: &HttpLimits) -> bool {
        match self.coding {
            Coding::Done => true,
            // How much of a chunked body is left nobody knows.
            Coding::Failed | Coding::Chunked(_) => false,
            Coding::Length(left) => !self.continue_owed && left <= limits.unread_bytes_max,
        }
    }
}

impl ServerConn {
    /// The next piece of the request's body, at most `piece_bytes_max` long; `None` at its end.
    /// The first call tells a waiting peer to go on (100). Trailers are read and dropped.
    ///
    /// # Errors
    /// See [`BodyError`]; answer with its status if it has one, then `finish` closes.
    pub async fn body(&mut self) -> Result<Option<Bytes>, BodyError> {
        self.send_continue().await?;
        let answer = self.next_piece().await;
        if answer.is_err() {
            self.body.coding = Coding::Failed;
        }
        answer
    }

    /// Whether all of the request's body has been read or passed on.
    pub fn body_is_whole(&self) -> bool {
        self.body.is_done()
    }

    async fn send_continue(&mut self) -> Result<(), BodyError> {
        if !std::mem::take(&mut self.body.continue_owed) || !self.input.is_empty() {
            return Ok(());
        }
        let line = b"HTTP/1.1 100 Continue\r\n\r\n";
        let stream = self.accepted.stream();
        socket::send_all(stream, line, false, self.limits.answer).await.map_err(|_| BodyError::Gone)
    }

    /// Moves up to `length_max` bytes of the body to `to` without user space, where the body has
    /// a length and nothing of it has been read ahead; returns how many, 0 when the next piece is
    /// to be had from [`Self::body`] (which also tells the end). Not cancel safe.
    ///
    /// # Errors
    /// See [`TransferError`]; the body is broken then.
    pub async fn pass_body(
        &mut self,
        to: &TcpStream,
        length_max: u64,
        destination: Pace,
    ) -> Result<u64, TransferError> {
        let Coding::Length(left) = self.body.coding else { return Ok(0) };
        if !self.input.is_empty() {
            return Ok(0);
        }
        let gone = |_| TransferError::Source(ErrorKind::ConnectionAborted.into());
        self.send_continue().await.map_err(gone)?;
        let length = left.min(length_max);
        let paces = Paces { source: self.limits.body, destination };
        let stream = self.accepted.stream();
        let moved = splice::transfer(stream, to, length, paces, &mut 0).await;
        self.body.coding = match (&moved, left - length) {
            (Err(_), _) => Coding::Failed,
            (Ok(()), 0) => Coding::Done,
            (Ok(()), left) => Coding::Length(left),
        };
        // Segments that never had to wait are still turns.
        self.take_turn(length).await;
        moved.map(|()| length)
    }

    async fn next_piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        let piece_max = self.limits.piece_bytes_max;
        loop {
            match &mut self.body.coding {
                Coding::Done => return Ok(None),
                Coding::Failed => return Err(BodyError::Gone),
                Coding::Length(left) => {
                    if self.input.is_empty() {
                        let room = usize::try_from(*left).unwrap_or(usize::MAX);
                        self.receive(room).await?;
                        continue;
                    }
                    let whole = usize::try_from(*left).unwrap_or(usize::MAX);
                    let length = whole.min(self.input.len()).min(piece_max);
                    *left -= length as u64;
                    if *left == 0 {
                        self.body.coding = Coding::Done;
                    }
                    return Ok(Some(take(&mut self.input, length)));
                }
                Coding::Chunked(decoder) => {
                    match decoder.decode(bounded(&self.input, piece_max))? {
                        Step::Data { skip, length } => {
                            self.input.advance(skip);
                            return Ok(Some(take(&mut self.input, length)));
                        }
                        Step::NeedMore { used } => {
                            self.input.advance(used);
                            if self.input.is_empty() {
                                self.receive(piece_max).await?;
                            }
                        }
                        Step::Done { used } => {
                            self.input.advance(used);
                            self.body.coding = Coding::Done;
                            return Ok(None);
                        }
                    }
                }
            }
        }
    }

    /// Receives at least one byte, and beyond what is there already, up to a piece.
    async fn receive(&mut self, room: usize) -> Result<(), BodyError> {
        let room = room.min(self.limits.piece_bytes_max);
        self.take_turn(0).await;
        self.input.reserve(room);
        let mut taken = 0;
        while taken < room {
            match socket::try_receive(self.accepted.stream(), &mut self.input) {
                Ok(Some(0)) if taken > 0 => return Ok(()),
                Ok(Some(0)) | Err(_) => return Err(BodyError::Gone),
                Ok(Some(count)) => {
                    taken += count;
                    self.body.unwaited += count as u64;
                    self.body.meter.moved(count as u64);
                }
                Ok(None) if taken > 0 => return Ok(()),
                Ok(None) => self.wait_for_body().await?,
            }
        }
        Ok(())
    }

    /// Lets other connections run after a turn's worth of bytes for which nobody had to wait.
    async fn take_turn(&mut self, moved: u64) {
        self.body.unwaited += moved;
        if self.body.unwaited >= socket::TURN_BYTES as u64 {
            self.body.unwaited = 0;
            crate::yield_turn().await;
        }
    }

    /// By a timer of its own and not by the connection's coarse deadline: that one shuts the
    /// socket down, but a peer that made its progress may go on.
    async fn wait_for_body(&mut self) -> Result<(), BodyError> {
        self.body.unwaited = 0;
        let ready = self.accepted.stream().readable(false);
        self.body.meter.wait(ready).await.map_err(|error| match error.kind() {
            ErrorKind::TimedOut => BodyError::TooSlow,
            _ => BodyError::Gone,
        })
    }
}

/// The first `length` bytes of the input. They share its memory only where they fill most of it: else a peer that sends
/// byte by byte would have each of them hold a whole buffer for as long as somebody keeps the piece.
fn take(input: &mut BytesMut, length: usize) -> Bytes {
    if length < input.capacity() / 2 {
        let piece = Bytes::copy_from_slice(&input[..length]);
        input.advance(length);
        return piece;
    }
    input.split_to(length).freeze()
}

fn bounded(input: &[u8], length_max: usize) -> &[u8] {
    &input[..input.len().min(length_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_few_bytes_hold_no_buffer_and_large_ones_are_not_copied() {
        const ROOM: usize = 256 * 1024;
        let mut input = BytesMut::with_capacity(ROOM);
        let memory = input.as_ptr();
        let mut kept = Vec::new();
        for byte in 0..200_u8 {
            input.reserve(ROOM);
            input.extend_from_slice(&[byte]);
            kept.push(take(&mut input, 1));
        }
        assert!(kept.iter().enumerate().all(|(at, piece)| piece[..] == [at as u8]));
        input.reserve(ROOM);
        assert_eq!(input.as_ptr(), memory, "no piece shares the buffer, so it is used again");
        input.extend_from_slice(&vec![7; ROOM]);
        let place = input.as_ptr();
        assert_eq!(take(&mut input, ROOM).as_ptr(), place);
    }
}
