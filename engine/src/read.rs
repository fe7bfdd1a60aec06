//! The read path of a data thread: ranges of files to sockets, by what the page cache has.
//!
//! Pages that are in the page cache go out by sendfile(2), which copies nothing; pages that are not are read into
//! buffers of up to 512 KiB without holding the thread, the next piece while the last one is being sent. Which of the
//! two is asked anew for every window, so a response changes over as soon as the cache does.
//!
//! [`Reader::prime`] does all that can fail for the disk's sake **before** the response's head goes out: it looks at
//! the file's size and reads the first piece. Afterwards a failure can only end the connection.

use std::{cell::RefCell, os::fd::AsFd, rc::Rc};

use futures_util::future::join;
use reel_node::{http::socket::SendError, metrics::Cell};
use reel_proto::http::content;

use crate::{
    admission::{Budget, Permit},
    metrics::{Path, Serve},
};

mod cold;
mod open_file;
mod residency;

pub(crate) use cold::PieceReader;
pub(crate) use open_file::OpenFile;
pub(crate) use residency::Method;

/// How much is asked of the page cache at once, and then sent without asking again. Larger costs nothing in calls
/// but lets more pages be dropped by the kernel while a slow peer reads; each such page blocks the thread once.
const WINDOW_BYTES: u64 = 4 * 1024 * 1024;

/// Buffers that a thread keeps for the next read from the disk; more are given back to the allocator.
const SPARE_BUFFERS_MAX: usize = 8;

/// Where content goes.
pub(crate) trait Sink {
    /// Sends bytes from memory. `more`: more follows at once.
    async fn send_bytes(&mut self, bytes: &[u8], more: bool) -> Result<(), SendError>;
    /// Sends bytes of a file whose pages are in the page cache.
    async fn send_file(
        &mut self,
        file: &OpenFile,
        offset: u64,
        length: u64,
    ) -> Result<(), SendError>;
}

/// Why content could not be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The file on the disk is shorter than its row says.
    #[error("the file was cut short: {missing} bytes are missing")]
    CutShort {
        /// Bytes of the range that are not there.
        missing: u64,
    },
    /// The disk failed.
    #[error("the disk failed: {0}")]
    Disk(std::io::Error),
    /// Too much work waits for the disk, or all buffers are in use.
    #[error("too much waits for the disk")]
    Busy,
    /// The peer is gone or does not read.
    #[error(transparent)]
    Peer(SendError),
}

impl ReadError {
    fn of_send(error: SendError) -> Self {
        match error {
            SendError::ShortFile { missing } => Self::CutShort { missing },
            SendError::File(error) => Self::Disk(error),
            error => Self::Peer(error),
        }
    }
}

/// A piece of a file in memory. Its bytes are charged to the thread's budget until it is dropped.
pub(crate) struct Piece {
    bytes: Vec<u8>,
    spare: Rc<RefCell<Vec<Vec<u8>>>>,
    _permit: Permit,
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_BUFFERS_MAX {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// How a range begins: known before the response's head goes out.
pub(crate) enum Primed {
    /// So many bytes from its start are in the page cache.
    Hot(u64),
    /// Its first bytes were read from the disk.
    Cold(Piece),
}

/// The read path of one data thread.
pub(crate) struct Reader {
    method: Method,
    pieces: PieceReader,
    budget: Budget,
    spare: Rc<RefCell<Vec<Vec<u8>>>>,
    cell: Cell<Serve>,
}

impl Reader {
    /// A reader that asks the page cache by `method`; `budget` bounds its buffers.
    pub(crate) fn new(
        method: Method,
        pieces: PieceReader,
        budget: Budget,
        cell: Cell<Serve>,
    ) -> Self {
        Self { method, pieces, budget, spare: Rc::default(), cell }
    }

    /// Makes sure that the range is there and its begin at hand. No byte has gone out when this fails.
    ///
    /// # Errors
    /// [`ReadError::CutShort`], [`ReadError::Disk`], [`ReadError::Busy`].
    pub(crate) async fn prime(
        &self,
        file: &OpenFile,
        file_size: u64,
        offset: u64,
        length: u64,
    ) -> Result<Primed, ReadError> {
        let on_disk = residency::size(file.as_fd()).map_err(|error| self.disk(error))?;
        if on_disk < file_size {
            self.cell.add(Serve::CUT_SHORT, 1);
            return Err(ReadError::CutShort { missing: file_size - on_disk });
        }
        match self.hot_bytes(file, offset, length) {
            Some(bytes) => Ok(Primed::Hot(bytes)),
            None => {
                let permit = self.budget.try_take(self.piece_length(length)).ok_or_else(|| {
                    self.cell.add(Serve::OVERLOADED, 1);
                    ReadError::Busy
                })?;
                self.read(file, offset, length, permit).await.map(Primed::Cold)
            }
        }
    }

    /// The begin of a further range of a response under way; waits for a buffer if it must.
    ///
    /// # Errors
    /// [`ReadError::CutShort`], [`ReadError::Disk`], [`ReadError::Busy`].
    pub(crate) async fn resume(
        &self,
        file: &OpenFile,
        offset: u64,
        length: u64,
    ) -> Result<Primed, ReadError> {
        self.wait_for(file, offset, length).await
    }

    /// The media type by the file's first bytes; read once for as long as the file is open. What cannot be read has
    /// none: the read of the content itself then says what is wrong.
    pub(crate) async fn sniff(&self, file: &OpenFile, size: u64) -> &'static str {
        if let Some(known) = file.media_type() {
            return known;
        }
        let length = size.min(content::SNIFF_BYTES as u64);
        let Ok(begin) = self.pieces.read(file, 0, length, Vec::new()).await else {
            // Not kept: the next look may see them.
            return content::UNKNOWN;
        };
        let media_type = content::of_bytes(&begin).unwrap_or(content::UNKNOWN);
        file.keep_media_type(media_type);
        media_type
    }

    /// Sends the range. `primed` is what [`Reader::prime`] gave for the same range. After an error part of it may
    /// have gone out: the connection must end.
    ///
    /// # Errors
    /// Any [`ReadError`] but `Busy`.
    pub(crate) async fn send(
        &self,
        sink: &mut impl Sink,
        file: &OpenFile,
        offset: u64,
        length: u64,
        primed: Primed,
    ) -> Result<(), ReadError> {
        let (mut at, end) = (offset, offset + length);
        let mut next = Some(primed);
        while at < end {
            let primed = match next.take() {
                Some(primed) => primed,
                None => self.wait_for(file, at, end - at).await?,
            };
            match primed {
                Primed::Hot(bytes) => {
                    sink.send_file(file, at, bytes).await.map_err(|error| self.sent(error))?;
                    self.cell.add(Serve::BYTES_OUT.at([Path::Hot as usize]), bytes);
                    at += bytes;
                }
                Primed::Cold(piece) => {
                    let bytes = piece.bytes.len() as u64;
                    at += bytes;
                    let more = at < end;
                    let send = async {
                        let result = sink.send_bytes(&piece.bytes, more).await;
                        // The buffer goes back before the wait for the read beside it is over.
                        drop(piece);
                        result
                    };
                    let (sent, ahead) = join(send, self.ahead(file, at, end - at)).await;
                    sent.map_err(|error| self.sent(error))?;
                    self.cell.add(Serve::BYTES_OUT.at([Path::Cold as usize]), bytes);
                    next = ahead?;
                }
            }
        }
        Ok(())
    }

    /// The next piece while another one is on its way out: only if a buffer is free at once. Whoever holds a buffer
    /// never waits for a second one, so the waits for buffers cannot form a ring.
    async fn ahead(
        &self,
        file: &OpenFile,
        offset: u64,
        length: u64,
    ) -> Result<Option<Primed>, ReadError> {
        if length == 0 || self.hot_bytes(file, offset, length).is_some() {
            return Ok(None);
        }
        match self.budget.try_take(self.piece_length(length)) {
            Some(permit) => Ok(Some(Primed::Cold(self.read(file, offset, length, permit).await?))),
            None => Ok(None),
        }
    }

    /// The next window or piece of a response under way; waits for a buffer if it must.
    async fn wait_for(
        &self,
        file: &OpenFile,
        offset: u64,
        length: u64,
    ) -> Result<Primed, ReadError> {
        if let Some(bytes) = self.hot_bytes(file, offset, length) {
            return Ok(Primed::Hot(bytes));
        }
        let permit = self.budget.take(self.piece_length(length)).await;
        self.read(file, offset, length, permit).await.map(Primed::Cold)
    }

    /// How many bytes from `offset` are in the page cache: a whole window, a smaller one, or none.
    fn hot_bytes(&self, file: &OpenFile, offset: u64, length: u64) -> Option<u64> {
        let window = length.min(WINDOW_BYTES);
        if residency::is_resident(self.method, file.as_fd(), offset, window) {
            return Some(window);
        }
        // The window may be hot up to where a reader before this one stopped.
        let piece = self.piece_length(length);
        (piece < window && residency::is_resident(self.method, file.as_fd(), offset, piece))
            .then_some(piece)
    }

    fn piece_length(&self, length: u64) -> u64 {
        length.min(self.pieces.piece_bytes())
    }

    async fn read(
        &self,
        file: &OpenFile,
        offset: u64,
        length: u64,
        permit: Permit,
    ) -> Result<Piece, ReadError> {
        let wanted = self.piece_length(length);
        let buffer = self.spare.borrow_mut().pop().unwrap_or_default();
        let bytes = self.pieces.read(file, offset, wanted, buffer).await.map_err(|error| {
            match error.kind() {
                std::io::ErrorKind::WouldBlock => ReadError::Busy,
                _ => self.disk(error),
            }
        })?;
        let missing = wanted - bytes.len() as u64;
        let piece = Piece { bytes, spare: self.spare.clone(), _permit: permit };
        if missing > 0 {
            self.cell.add(Serve::CUT_SHORT, 1);
            return Err(ReadError::CutShort { missing });
        }
        Ok(piece)
    }

    fn disk(&self, error: std::io::Error) -> ReadError {
        self.cell.add(Serve::READ_ERRORS, 1);
        ReadError::Disk(error)
    }

    fn sent(&self, error: SendError) -> ReadError {
        let error = ReadError::of_send(error);
        match error {
            ReadError::CutShort { .. } => self.cell.add(Serve::CUT_SHORT, 1),
            ReadError::Disk(_) => self.cell.add(Serve::READ_ERRORS, 1),
            ReadError::Busy | ReadError::Peer(_) => {}
        }
        error
    }
}
